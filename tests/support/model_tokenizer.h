/* The tokenizer of a model's vocabulary, without an engine. */
#ifndef COLDSTREAM_TESTS_MODEL_TOKENIZER_H
#define COLDSTREAM_TESTS_MODEL_TOKENIZER_H

#include "model/model.h"
#include "text/tokenizer.h"

/* Failures are test assertions; tokenizer_close() it. */
struct tokenizer *open_tokenizer(const struct model_vocab *v);

#endif

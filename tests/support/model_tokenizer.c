/* Tokenizers of models. Uses cmocka's assertions, so it may only be called from tests. */
#include "tests/support/check.h"

#include "tests/support/model_tokenizer.h"

struct tokenizer *open_tokenizer(const struct model_vocab *v) {
    const struct tokenizer_source source = {
        .n_tokens = v->n_tokens,
        .tokens = v->tokens,
        .types = v->types,
        .n_merges = v->n_merges,
        .merges = v->merges,
        .bos = v->bos,
        .eos = v->eos,
        .eot = v->eot,
        .pad = v->pad,
        .add_bos = v->add_bos,
    };
    struct tokenizer *t;
    struct reason why = {""};
    if (tokenizer_open(&source, &t, &why) != ERR_NONE) fail_test("%s", why.text);
    return t;
}

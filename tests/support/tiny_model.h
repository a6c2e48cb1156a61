/* A synthetic model file for one test, in a folder of its own. Failures are test assertions. */
#ifndef COLDSTREAM_TESTS_TINY_MODEL_H
#define COLDSTREAM_TESTS_TINY_MODEL_H

#include "tests/support/synth_model.h"

struct synth_spec tiny_model_spec(void); /* the preset "tiny", to be changed */
/* Writes it; `spec` NULL: the preset as it is. The path is to be given to tiny_model_remove(). */
char *tiny_model_write(const struct synth_spec *spec);
char *tiny_model_write_in(const char *folder, const struct synth_spec *spec); /* rather than /tmp */
void tiny_model_remove(char *path);

#endif

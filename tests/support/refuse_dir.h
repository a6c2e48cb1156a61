/* Judging refusals of model directories: one for refuse.h to open, written from `hf`, which a test edits first. */
#ifndef COLDSTREAM_TESTS_REFUSE_DIR_H
#define COLDSTREAM_TESTS_REFUSE_DIR_H

#include "tests/support/hf_raw.h"
#include "tests/support/refuse.h"

extern struct raw_hf hf; /* a fresh raw_hf_dense() at the start of each test, nothing of it written yet */

/* cmocka fixtures of a test, instead of those of refuse.h. */
int refuse_dir_setup(void **state);
int refuse_dir_teardown(void **state);

#endif

/* Rewriting jobs on one small source model in a folder of this run's own, and what a file holds afterwards. Whatever goes wrong
 * without being expected fails the test. */
#ifndef COLDSTREAM_TESTS_QUANTIZE_JOB_H
#define COLDSTREAM_TESTS_QUANTIZE_JOB_H

#include "tests/support/check.h"

#include "engine/quantize.h"
#include "model/model.h"

extern char quantize_folder[];   /* a directory of this run's own */
extern char quantize_source[64]; /* source.gguf there: F32, one layer; every row is whole blocks of every type */

/* Group setup and teardown, which fails when a test left something in the folder; teardown of a test. */
int make_source(void **state);
int drop_source(void **state);
int drop_left(void **state);

const char *path_of(const char *name); /* in the folder; good until the fourth call from now */
size_t count_files(bool print);        /* beside the source; their names are printed when there are any */
void expect_no_files(void);
void drop_files(void); /* all but the source */
/* The source with `n` bytes of `patch` at `patch_at`. */
void copy_source(const char *to, uint64_t patch_at, const void *patch, size_t n);

struct quantize_options options_of(const char *out, const char *type); /* of the source, with two threads */
struct quantize *open_job(const struct quantize_options *o);
struct quantize *run_job(const struct quantize_options *o); /* done and still open */
void rewrite(const struct quantize_options *o);
/* It fails with `code` and `words` when it is opened, or not before it runs. */
void refuse(const struct quantize_options *o, enum err code, const char *words);
void fail_run(const struct quantize_options *o, enum err code, const char *words);
void expect_words(const struct reason *why, const char *words);

struct model *open_model(const char *path);
/* Matrix after matrix, wherever they lie; to be freed. */
uint8_t *bytes_of(const struct model *m, const struct model_tensor *t);
void expect_same_bytes(const struct model *a, const struct model_tensor *t, const struct model *b); /* of `t` in both */
bool is_kept(const struct model_tensor *t); /* in F32, whatever the type asked for */

/* Importances that say: only every eighth column matters much. */
void fill_imatrix(struct imatrix *m, const struct model *model);

#endif

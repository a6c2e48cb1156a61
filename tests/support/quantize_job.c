/* Rewriting jobs on one small source model in a folder of this run's own, and what a file holds afterwards. */
#include "tests/support/quantize_job.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/files.h"
#include "tests/support/tiny_model.h"

/* ---- files --------------------------------------------------------------------------------------------------------------- */

char quantize_folder[] = "/tmp/test_quantize_XXXXXX";
char quantize_source[64];

const char *path_of(const char *name) { return path_in(quantize_folder, name); }

int make_source(void **state) {
    (void)state;
    if (!mkdtemp(quantize_folder)) return -1;
    snprintf(quantize_source, sizeof quantize_source, "%s/source.gguf", quantize_folder);
    struct synth_spec spec = tiny_model_spec();
    spec.layers = 1;
    spec.embd = spec.ff = 256;
    spec.heads = 4;
    spec.kv_heads = 1;
    spec.head_dim = 64;
    spec.experts = 4;
    spec.mix = "f32";
    struct reason why;
    return synth_write(quantize_source, &spec, NULL, &why) == ERR_NONE ? 0 : -1;
}

size_t count_files(bool print) {
    DIR *d = opendir(quantize_folder);
    assert_non_null(d);
    size_t n = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.' || strcmp(e->d_name, "source.gguf") == 0) continue;
        if (print) print_error("left behind: %s\n", e->d_name);
        n++;
    }
    closedir(d);
    return n;
}

void expect_no_files(void) {
    if (count_files(true)) fail_test("the folder is not empty");
}

void drop_files(void) {
    DIR *d = opendir(quantize_folder);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.' && strcmp(e->d_name, "source.gguf") != 0) unlink(path_of(e->d_name));
    closedir(d);
}

int drop_left(void **state) {
    (void)state;
    drop_files();
    return 0;
}

int drop_source(void **state) {
    (void)state;
    unlink(quantize_source);
    return rmdir(quantize_folder); /* fails when a test left something */
}

/* ---- running ------------------------------------------------------------------------------------------------------------- */

struct quantize_options options_of(const char *out, const char *type) {
    return (struct quantize_options){.in = quantize_source, .out = out, .recipe = {.name = type}, .threads = 2};
}

struct quantize *open_job(const struct quantize_options *o) {
    struct quantize *q;
    struct reason why;
    if (quantize_open(o, &q, &why) != ERR_NONE) fail_test("%s", why.text);
    return q;
}

struct quantize *run_job(const struct quantize_options *o) {
    struct quantize *q = open_job(o);
    struct reason why;
    if (quantize_run(q, &why) != ERR_NONE) fail_test("%s", why.text);
    return q;
}

void rewrite(const struct quantize_options *o) {
    struct quantize *q = run_job(o);
    quantize_close(&q);
    assert_null(q);
}

void expect_words(const struct reason *why, const char *words) {
    if (!strstr(why->text, words)) fail_test("'%s' says nothing of '%s'", why->text, words);
}

void refuse(const struct quantize_options *o, enum err code, const char *words) {
    struct quantize *q;
    struct reason why = {{0}};
    assert_int_equal(quantize_open(o, &q, &why), code);
    assert_null(q);
    expect_words(&why, words);
}

void fail_run(const struct quantize_options *o, enum err code, const char *words) {
    struct quantize *q = open_job(o);
    struct reason why = {{0}};
    assert_int_equal(quantize_run(q, &why), code);
    expect_words(&why, words);
    quantize_close(&q);
}

struct model *open_model(const char *path) {
    struct model *m;
    struct reason why;
    if (model_open(path, true, &m, &why) != ERR_NONE) fail_test("%s", why.text);
    return m;
}

uint8_t *bytes_of(const struct model *m, const struct model_tensor *t) {
    struct reason why;
    uint8_t *bytes = malloc(t->bytes);
    assert_non_null(bytes);
    for (uint64_t i = 0, n = t->row_bytes * t->ne[1]; i < t->ne[2]; i++) {
        const struct model_slice at = model_slice_of(t, i);
        if (model_read(m, at.file, bytes + i * n, n, at.offset, &why) != ERR_NONE) fail_test("%s", why.text);
    }
    return bytes;
}

void expect_same_bytes(const struct model *a, const struct model_tensor *t, const struct model *b) {
    const struct model_tensor *u = model_find_tensor(b, t->name);
    assert_non_null(u);
    assert_int_equal(u->type, t->type);
    assert_int_equal(u->bytes, t->bytes);
    uint8_t *x = bytes_of(a, t), *y = bytes_of(b, u);
    assert_memory_equal(x, y, t->bytes);
    free(x);
    free(y);
}

bool is_kept(const struct model_tensor *t) {
    return t->ne[1] == 1 || memmem(t->name.ptr, t->name.len, "ffn_gate_inp", 12) != NULL;
}

void fill_imatrix(struct imatrix *m, const struct model *model) {
    struct reason why;
    for (size_t i = 0; i < model->n_tensors; i++) {
        const struct model_tensor *t = &model->tensors[i];
        struct imatrix_entry *e;
        char name[64];
        if (is_kept(t) || span_equal(t->name, SPAN("token_embd.weight"))) continue;
        snprintf(name, sizeof name, "%.*s", (int)t->name.len, t->name.ptr);
        assert_int_equal(imatrix_add(m, name, t->ne[0], t->ne[2], &e, &why), ERR_NONE);
        for (uint64_t k = 0; k < t->ne[0] * t->ne[2]; k++) e->sums[k] = k % 8 ? 1000 : 100000;
        for (uint64_t k = 0; k < t->ne[2]; k++) e->rows[k] = 1000;
        e->rows_known = true;
    }
    m->chunks = 7;
    assert_int_equal(imatrix_add_dataset(m, "some.txt", &why), ERR_NONE);
}

void copy_source(const char *to, uint64_t patch_at, const void *patch, size_t n) {
    FILE *in = fopen(quantize_source, "rb"), *out = fopen(to, "wb");
    char piece[4096];
    assert_true(in && out);
    for (size_t got; (got = fread(piece, 1, sizeof piece, in));) assert_int_equal(fwrite(piece, 1, got, out), got);
    fclose(in);
    assert_int_equal(fseek(out, (long)patch_at, SEEK_SET), 0);
    assert_int_equal(fwrite(patch, 1, n, out), n);
    assert_int_equal(fclose(out), 0);
}

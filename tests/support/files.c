/* Whole files. Uses cmocka's assertions, so it may only be called from tests. */
#include "tests/support/check.h"

#include "tests/support/files.h"

#include <stdio.h>
#include <stdlib.h>

const char *path_in(const char *folder, const char *name) {
    static char paths[4][320];
    static unsigned next;
    char *path = paths[next++ % 4];
    assert_true((size_t)snprintf(path, sizeof *paths, "%s/%s", folder, name) < sizeof *paths);
    return path;
}

void read_file(const char *path, struct text *out) {
    char piece[4096];
    FILE *f = fopen(path, "rb");
    if (!f) fail_test("%s is missing", path);
    text_clear(out);
    text_add(out, "", 0);
    for (size_t n; (n = fread(piece, 1, sizeof piece, f));) text_add(out, piece, n);
    fclose(f);
    assert_false(out->failed);
}

void write_file(const char *path, struct span bytes) {
    FILE *f = fopen(path, "wb");
    if (!f) fail_test("%s cannot be written", path);
    assert_int_equal(fwrite(bytes.ptr, 1, bytes.len, f), bytes.len);
    assert_int_equal(fclose(f), 0);
}

void *must_alloc(size_t bytes) {
    void *p = NULL;
    assert_int_equal(posix_memalign(&p, 64, bytes ? bytes : 1), 0);
    return p;
}

void *read_block(const char *path, size_t *bytes) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *bytes = (size_t)ftell(f);
    rewind(f);
    void *block = must_alloc(*bytes);
    assert_int_equal(fread(block, 1, *bytes, f), *bytes);
    fclose(f);
    return block;
}

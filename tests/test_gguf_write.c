/* The GGUF writer: what it wrote is read back value by value, mistakes are refused by name, and no half file is left. */
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/container.h"
#include "model/gguf_write.h"

static char folder[] = "/tmp/test_gguf_write_XXXXXX";
static char path[64], part[80];

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/m.gguf", folder);
    snprintf(part, sizeof part, "%s.part", path);
    return 0;
}

static int drop_folder(void **state) {
    (void)state;
    return rmdir(folder); /* fails when a test left something */
}

static bool exists(const char *file) { return access(file, F_OK) == 0; }

static struct gguf_writer *open_writer(void) {
    struct gguf_writer *w;
    struct reason why;
    assert_int_equal(gguf_write_open(path, &w, &why), ERR_NONE);
    return w;
}

static void expect_meta(const struct container *c, const char *key, uint32_t type, const void *bytes, size_t size) {
    const struct model_meta *entry = meta_find(&c->meta, span_of(key));
    assert_non_null(entry);
    assert_int_equal(entry->type, type);
    assert_int_equal(entry->bytes.len, size);
    if (size) assert_memory_equal(entry->bytes.ptr, bytes, size);
}

static void add_values(struct gguf_writer *w) {
    static const struct span words[] = {{"one", 3}, {"", 0}, {"t\0o", 3}};
    static const int32_t numbers[] = {-1, 7, 1 << 30};
    gguf_write_string(w, "general.architecture", SPAN("qwen3moe"));
    gguf_write_u16(w, "a.u16", 65535);
    gguf_write_u32(w, "a.u32", 4000000000u);
    gguf_write_i32(w, "a.i32", -5);
    gguf_write_u64(w, "a.u64", 1ull << 40);
    gguf_write_f32(w, "a.f32", 0.5f);
    gguf_write_bool(w, "a.bool", true);
    gguf_write_strings(w, "a.words", words, 3);
    gguf_write_i32s(w, "a.numbers", numbers, 3);
    gguf_write_strings(w, "a.none", NULL, 0);
}

static void check_values(const struct container *c) {
    const int32_t numbers[] = {-1, 7, 1 << 30};
    expect_meta(c, "a.u16", 2, &(uint16_t){65535}, 2);
    expect_meta(c, "a.u32", 4, &(uint32_t){4000000000u}, 4);
    expect_meta(c, "a.i32", 5, &(int32_t){-5}, 4);
    expect_meta(c, "a.u64", 10, &(uint64_t){1ull << 40}, 8);
    expect_meta(c, "a.f32", 6, &(float){0.5f}, 4);
    expect_meta(c, "a.bool", 7, &(uint8_t){1}, 1);
    expect_meta(c, "a.words", 9, "\3\0\0\0\0\0\0\0one\0\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0t\0o", 30);
    expect_meta(c, "a.numbers", 9, numbers, sizeof numbers);
    expect_meta(c, "a.none", 9, NULL, 0);
    assert_int_equal(meta_find(&c->meta, SPAN("a.words"))->count, 3);
    assert_int_equal(meta_find(&c->meta, SPAN("a.numbers"))->element_type, 5);
}

static uint8_t pattern(uint64_t tensor, uint64_t at) { return (uint8_t)(tensor * 101 + at * 7 + at / 251); }

/* Tensors of awkward sizes; the large one is longer than any buffer of the writer. */
static const struct {
    const char *name;
    enum tensor_type type;
    uint32_t n_dims;
    uint64_t ne[4], bytes;
} tensors[] = {{"odd", TYPE_F16, 1, {3}, 6},
               {"blocks", TYPE_Q4_K, 2, {512, 3}, 864},
               {"large", TYPE_F32, 2, {1000, 2500}, 10000000},
               {"rows", TYPE_IQ4_KS, 3, {256, 2, 2}, 560}, /* 4 bytes in front of each row */
               {"last", TYPE_I8, 4, {1, 1, 1, 5}, 5}};
enum { N_TENSORS = sizeof tensors / sizeof *tensors };

static void write_pattern(struct gguf_writer *w, size_t tensor, size_t step) {
    struct reason why;
    uint8_t *data = malloc(tensors[tensor].bytes);
    assert_non_null(data);
    for (uint64_t i = 0; i < tensors[tensor].bytes; i++) data[i] = pattern(tensor, i);
    for (uint64_t at = 0, n; at < tensors[tensor].bytes; at += n) {
        n = tensors[tensor].bytes - at < step ? tensors[tensor].bytes - at : step;
        assert_int_equal(gguf_write_data(w, data + at, n, &why), ERR_NONE);
    }
    free(data);
}

static void check_data(const struct container *c) {
    assert_int_equal(c->n_tensors, N_TENSORS);
    for (size_t i = 0; i < N_TENSORS; i++) {
        const struct model_tensor *t = directory_find(c, span_of(tensors[i].name));
        assert_non_null(t);
        assert_int_equal(t->type, tensors[i].type);
        assert_int_equal(t->bytes, tensors[i].bytes);
        assert_int_equal(t->offset % 32, 0);
        for (uint32_t d = 0; d < 4; d++) assert_int_equal(t->ne[d], tensors[i].ne[d] ? tensors[i].ne[d] : 1);
        uint8_t *data = malloc(t->bytes);
        assert_non_null(data);
        assert_int_equal(pread(c->files[0].fd, data, t->bytes, (off_t)t->offset), t->bytes);
        for (uint64_t at = 0; at < t->bytes; at++)
            if (data[at] != pattern(i, at)) fail_test("%s: byte %llu", tensors[i].name, (unsigned long long)at);
        free(data);
    }
}

static void read_back(const char *file, struct container *c) {
    struct reason why;
    *c = (struct container){0};
    if (gguf_read(file, c, &why) != ERR_NONE || directory_check(c, &why) != ERR_NONE) fail_test("%s", why.text);
    assert_int_equal(c->version, 3);
}

static void write_file(uint64_t *bytes) {
    struct reason why;
    struct gguf_writer *w = open_writer();
    add_values(w);
    for (size_t i = 0; i < N_TENSORS; i++)
        gguf_write_tensor(w, span_of(tensors[i].name), tensors[i].type, tensors[i].n_dims, tensors[i].ne);
    assert_int_equal(gguf_write_begin(w, &why), ERR_NONE);
    *bytes = gguf_write_file_bytes(w);
    for (size_t i = 0; i < N_TENSORS; i++) {
        assert_int_equal(gguf_write_tensor_bytes(w, i), tensors[i].bytes);
        write_pattern(w, i, i == 2 ? 7000000 : 100);
    }
    assert_true(exists(part) && !exists(path));
    assert_int_equal(gguf_write_finish(w, &why), ERR_NONE);
    assert_true(!exists(part) && exists(path));
    gguf_write_close(&w);
    assert_null(w);
}

/* Every value once more, from what the reader found. */
static void write_copy(const struct container *c) {
    struct reason why;
    struct gguf_writer *w = open_writer();
    for (size_t i = 0; i < c->meta.n; i++) gguf_write_meta(w, &c->meta.entries[i]);
    assert_int_equal(gguf_write_begin(w, &why), ERR_NONE);
    assert_int_equal(gguf_write_finish(w, &why), ERR_NONE);
    gguf_write_close(&w);
}

static void comes_back(void **state) {
    (void)state;
    uint64_t bytes;
    struct container c;
    write_file(&bytes);
    read_back(path, &c);
    assert_int_equal(c.files[0].bytes, bytes);
    check_values(&c);
    check_data(&c);
    write_copy(&c); /* replaces the file that is still open */
    container_close(&c);
    read_back(path, &c);
    assert_int_equal(c.n_tensors, 0);
    check_values(&c);
    container_close(&c);
    unlink(path);
}

static void expect_begin_refuses(struct gguf_writer *w, const char *item, const char *problem) {
    struct reason why;
    assert_int_equal(gguf_write_begin(w, &why), ERR_ARGUMENT);
    assert_non_null(strstr(why.text, "m.gguf"));
    assert_non_null(strstr(why.text, item));
    if (!strstr(why.text, problem)) fail_test("%s", why.text);
    gguf_write_close(&w);
    assert_true(!exists(part) && !exists(path));
}

static void refuses_mistakes(void **state) {
    (void)state;
    const uint64_t good[] = {256}, odd[] = {100, 2}, none[] = {256, 0}, huge[] = {1ull << 40, 1ull << 40};
    struct gguf_writer *w = open_writer();
    gguf_write_u32(w, "twice", 1);
    gguf_write_u64(w, "twice", 2);
    expect_begin_refuses(w, "twice", "given twice");
    w = open_writer();
    gguf_write_tensor(w, SPAN("same"), TYPE_F32, 1, good);
    gguf_write_tensor(w, SPAN("other"), TYPE_F32, 1, good);
    gguf_write_tensor(w, SPAN("same"), TYPE_F32, 1, good);
    expect_begin_refuses(w, "same", "given twice");
    const struct {
        uint32_t n_dims;
        const uint64_t *ne;
    } bad[] = {{2, odd}, {2, none}, {2, huge}, {0, good}, {5, good}};
    for (size_t i = 0; i < 5; i++) {
        w = open_writer();
        gguf_write_tensor(w, SPAN("bad.weight"), TYPE_Q4_K, bad[i].n_dims, bad[i].ne);
        expect_begin_refuses(w, "bad.weight", "cannot be written");
    }
    w = open_writer();
    gguf_write_u32(w, "", 1);
    expect_begin_refuses(w, "''", "cannot be written");
    w = open_writer();
    gguf_write_tensor(w, SPAN("a.name.that.is.one.byte.longer.than.the.sixty-three.that.fit.....here"), TYPE_F32, 1, good);
    expect_begin_refuses(w, "a.name.that", "cannot be written");
}

static void refuses_wrong_data(void **state) {
    (void)state;
    const uint64_t ne[] = {4};
    const uint8_t bytes[64] = {0};
    struct reason why;
    struct gguf_writer *w = open_writer();
    assert_int_equal(gguf_write_data(w, bytes, 1, &why), ERR_ARGUMENT); /* before begin */
    gguf_write_tensor(w, SPAN("first"), TYPE_F32, 1, ne);
    gguf_write_tensor(w, SPAN("second"), TYPE_F32, 1, ne);
    assert_int_equal(gguf_write_begin(w, &why), ERR_NONE);
    assert_int_equal(gguf_write_data(w, bytes, 17, &why), ERR_ARGUMENT);
    assert_non_null(strstr(why.text, "first"));
    assert_int_equal(gguf_write_data(w, bytes, 16, &why), ERR_NONE);
    assert_int_equal(gguf_write_data(w, bytes, 15, &why), ERR_NONE);
    assert_int_equal(gguf_write_finish(w, &why), ERR_ARGUMENT);
    assert_non_null(strstr(why.text, "second"));
    assert_int_equal(gguf_write_data(w, bytes, 1, &why), ERR_NONE);
    assert_int_equal(gguf_write_data(w, bytes, 1, &why), ERR_ARGUMENT); /* after the last */
    gguf_write_close(&w);
    assert_true(!exists(part) && !exists(path));
    gguf_write_close(&w); /* closing nothing is allowed */
}

static void refuses_places(void **state) {
    (void)state;
    struct gguf_writer *w;
    struct reason why;
    assert_int_equal(gguf_write_open("/nonexistent/folder/m.gguf", &w, &why), ERR_IO);
    assert_null(w);
    assert_int_equal(gguf_write_open(folder, &w, &why), ERR_ARGUMENT);
    assert_int_equal(gguf_write_open("/dev/null", &w, &why), ERR_ARGUMENT);
    assert_null(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(comes_back), cmocka_unit_test(refuses_mistakes),
                                       cmocka_unit_test(refuses_wrong_data), cmocka_unit_test(refuses_places)};
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}

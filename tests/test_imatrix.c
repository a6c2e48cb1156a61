/* Importance matrices: both file forms there and back, adding up, importance of experts that were hardly seen, and files that
 * are broken in every way that is known. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/container.h"
#include "model/imatrix.h"
#include "tests/support/gguf_raw.h"

enum { F32 = 0, F16 = 1, COLUMNS = 8, EXPERTS = 3 };

static char folder[] = "/tmp/test_imatrix_XXXXXX", path[64];

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/m", folder);
    return 0;
}

static int drop_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder); /* fails when a writer left something */
}

static void check(enum err code, const struct reason *why) {
    if (code != ERR_NONE) fail_test("%s", why->text);
}

static struct imatrix_entry *add(struct imatrix *m, const char *name, uint64_t columns, uint64_t matrices) {
    struct imatrix_entry *e;
    struct reason why;
    check(imatrix_add(m, name, columns, matrices, &e, &why), &why);
    return e;
}

static void fill(struct imatrix_entry *e, float base, double rows) {
    for (uint64_t i = 0; i < e->columns * e->matrices; i++) e->sums[i] = base + (float)i;
    for (uint64_t i = 0; i < e->matrices; i++) e->rows[i] = rows + (double)i;
}

static struct imatrix example(void) {
    struct imatrix m = {.chunks = 5, .chunk_tokens = 512};
    struct reason why;
    fill(add(&m, "blk.1.ffn_down_exps.weight", COLUMNS, EXPERTS), 1, 10);
    fill(add(&m, "blk.0.attn_q.weight", COLUMNS, 1), 100, 40);
    fill(add(&m, "output.weight", 2, 1), 0.5f, 7);
    check(imatrix_add_dataset(&m, "wiki.txt", &why), &why);
    return m;
}

static struct imatrix read_back(void) {
    struct imatrix m;
    struct reason why;
    check(imatrix_read(path, &m, &why), &why);
    return m;
}

static void same_means(const struct imatrix_entry *a, const struct imatrix_entry *b, double tolerance) {
    const uint64_t values = a->columns * a->matrices;
    assert_int_equal(values, b->columns * b->matrices);
    for (uint64_t i = 0; i < values; i++) {
        const double x = (double)a->sums[i] / a->rows[i / a->columns], y = (double)b->sums[i] / b->rows[i / b->columns];
        if (fabs(x - y) > tolerance * x) fail_test("%s, value %d: %.9g, then %.9g", a->name, (int)i, x, y);
    }
}

/* ---- files ------------------------------------------------------------------------------------------------------------ */

static void gguf_comes_back(void **state) {
    (void)state;
    struct imatrix m = example();
    struct reason why;
    check(imatrix_write_gguf(&m, path, &why), &why);
    struct imatrix back = read_back();
    assert_int_equal(back.n, 3);
    assert_int_equal(back.chunks, 5);
    assert_int_equal(back.chunk_tokens, 512);
    assert_int_equal(back.n_datasets, 1);
    assert_string_equal(back.datasets[0], "wiki.txt");
    for (size_t i = 0; i < m.n; i++) {
        const struct imatrix_entry *a = m.entries[i], *b = back.entries[i];
        assert_string_equal(a->name, b->name);
        assert_int_equal(a->columns, b->columns);
        assert_int_equal(a->matrices, b->matrices);
        assert_true(b->rows_known);
        assert_memory_equal(a->sums, b->sums, a->columns * a->matrices * sizeof *a->sums);
        assert_memory_equal(a->rows, b->rows, a->matrices * sizeof *a->rows);
    }
    imatrix_close(&back);
    imatrix_close(&m);
}

static void dat_comes_back(void **state) {
    (void)state;
    struct imatrix m = example();
    struct reason why;
    m.entries[1]->rows[2] = 0; /* a missing expert is written as ones */
    check(imatrix_write_dat(&m, path, &why), &why);
    struct imatrix back = read_back();
    assert_int_equal(back.n, 3);
    assert_int_equal(back.chunks, 5);
    assert_string_equal(back.datasets[0], "wiki.txt");
    for (size_t i = 0; i < 3; i++) assert_false(back.entries[i]->rows_known);
    same_means(m.entries[0], imatrix_find(&back, SPAN("blk.0.attn_q.weight")), 1e-6);
    const struct imatrix_entry *flat = imatrix_find(&back, SPAN("blk.1.ffn_down_exps.weight"));
    assert_int_equal(flat->columns, COLUMNS * EXPERTS);
    for (int i = 0; i < COLUMNS * EXPERTS; i++) {
        const double want = i / COLUMNS == 2 ? 1 : (1.0 + i) / (10 + i / COLUMNS);
        assert_true(fabs((double)flat->sums[i] / flat->rows[0] - want) < 1e-5 * want);
    }
    imatrix_close(&back);
    imatrix_close(&m);
}

static void put_i32(struct text *t, int32_t value) { raw_u32(t, (uint32_t)value); }

static void put_entry(struct text *t, const char *name, int32_t calls, int32_t n, const float *values) {
    put_i32(t, (int32_t)strlen(name));
    text_add(t, name, strlen(name));
    put_i32(t, calls);
    put_i32(t, n);
    text_add(t, values, (size_t)n * sizeof *values);
}

/* As another runtime writes it, without what newer ones add at the end. */
static void old_files_are_read(void **state) {
    (void)state;
    static const float values[] = {8, 16, 4, 0};
    struct text t = {0};
    put_i32(&t, 2);
    put_entry(&t, "blk.0.ffn_up_exps.weight", 4, 4, values);
    put_entry(&t, "a", 0, 2, values); /* no calls: as they are */
    raw_write(path, t);
    struct imatrix m = read_back();
    const struct imatrix_entry *e;
    struct reason why;
    float out[2];
    check(imatrix_of_weight(&m, SPAN("blk.0.ffn_up_exps.weight"), 2, 2, &e, &why), &why);
    assert_non_null(e);
    imatrix_importance(e, 2, 2, 0, out);
    assert_true(out[0] == 2 && out[1] == 4);
    imatrix_importance(e, 2, 2, 1, out);
    assert_true(out[0] == 1 && out[1] == 0);
    imatrix_importance(imatrix_find(&m, SPAN("a")), 2, 1, 0, out);
    assert_true(out[0] == 8 && out[1] == 16);
    assert_int_equal(m.chunks, 0);
    imatrix_close(&m);
    text_free(&t);
}

static void nothing_is_left_of_a_failed_write(void **state) {
    (void)state;
    struct imatrix m = example();
    struct reason why = {""};
    assert_int_equal(imatrix_write_dat(&m, "/nonexistent/m.dat", &why), ERR_IO);
    assert_int_equal(imatrix_write_gguf(&m, "/nonexistent/m.gguf", &why), ERR_IO);
    assert_non_null(strstr(why.text, "/nonexistent/m.gguf"));
    imatrix_close(&m);
}

/* ---- adding up ----------------------------------------------------------------------------------------------------------- */

static void merging_adds(void **state) {
    (void)state;
    struct imatrix a = example(), b = example(), sum = {0};
    struct reason why;
    fill(add(&b, "only.in.b", 3, 1), 9, 1);
    check(imatrix_merge(&sum, &a, &why), &why);
    check(imatrix_merge(&sum, &b, &why), &why);
    assert_int_equal(sum.n, 4);
    assert_int_equal(sum.chunks, 10);
    assert_int_equal(sum.chunk_tokens, 512);
    assert_int_equal(sum.n_datasets, 2);
    for (size_t i = 0; i < a.n; i++) {
        const struct imatrix_entry *one = a.entries[i], *both = imatrix_find(&sum, span_of(one->name));
        for (uint64_t j = 0; j < one->columns * one->matrices; j++) assert_true(both->sums[j] == 2 * one->sums[j]);
        for (uint64_t j = 0; j < one->matrices; j++) assert_true(both->rows[j] == 2 * one->rows[j]);
    }
    imatrix_close(&a);
    imatrix_close(&b);
    imatrix_close(&sum);
}

/* A .dat file does not say how many experts there are: the others' shape holds, whichever comes first. */
static void files_without_shapes_take_one(void **state) {
    (void)state;
    for (int dat_first = 0; dat_first < 2; dat_first++) {
        struct imatrix shaped = example(), flat, sum = {0};
        struct reason why;
        check(imatrix_write_dat(&shaped, path, &why), &why);
        flat = read_back();
        check(imatrix_merge(&sum, dat_first ? &flat : &shaped, &why), &why);
        check(imatrix_merge(&sum, dat_first ? &shaped : &flat, &why), &why);
        const struct imatrix_entry *e = imatrix_find(&sum, SPAN("blk.1.ffn_down_exps.weight"));
        assert_int_equal(e->columns, COLUMNS);
        assert_int_equal(e->matrices, EXPERTS);
        /* 5 chunks of both; 33 rows of 3 experts there, so 2.2 a chunk of one */
        for (int x = 0; x < EXPERTS; x++) assert_true(fabs(e->rows[x] - (10 + x + 5 * 2.2)) < 1e-9);
        assert_true(e->rows_known);
        same_means(e, shaped.entries[1], 1e-6);
        imatrix_close(&shaped);
        imatrix_close(&flat);
        imatrix_close(&sum);
    }
}

static void other_shapes_are_refused(void **state) {
    (void)state;
    struct imatrix a = example(), b = {0};
    struct reason why = {""};
    struct imatrix_entry *e;
    const struct imatrix_entry *found;
    assert_int_equal(imatrix_add(&a, "output.weight", 3, 1, &e, &why), ERR_ARGUMENT);
    assert_null(e);
    fill(add(&b, "blk.0.attn_q.weight", COLUMNS / 2, 2), 1, 1);
    assert_int_equal(imatrix_merge(&a, &b, &why), ERR_ARGUMENT);
    assert_non_null(strstr(why.text, "blk.0.attn_q.weight"));
    assert_int_equal(imatrix_of_weight(&a, SPAN("output.weight"), 4, 1, &found, &why), ERR_FORMAT);
    assert_null(found);
    assert_int_equal(imatrix_add(&a, "huge", UINT64_MAX / 2, 4, &e, &why), ERR_NO_MEMORY);
    imatrix_close(&a);
    imatrix_close(&b);
}

/* ---- importance ------------------------------------------------------------------------------------------------------------
 */

static void relatives_share_inputs(void **state) {
    (void)state;
    struct imatrix m = {0};
    struct reason why;
    const struct imatrix_entry *e, *q = add(&m, "blk.7.attn_q.weight", 4, 1),
                                   *merged = add(&m, "blk.7.ffn_gate_up_exps.weight", 4, 2);
    static const struct {
        struct span name;
        uint64_t matrices;
        int which; /* 0 none, 1 q, 2 merged */
    } cases[] = {{{"blk.7.attn_k.weight", 19}, 1, 1},
                 {{"blk.7.attn_v.weight", 19}, 1, 1},
                 {{"blk.7.ffn_up_exps.weight", 24}, 2, 2},
                 {{"blk.7.ffn_gate_exps.weight", 26}, 2, 2},
                 {{"blk.8.attn_k.weight", 19}, 1, 0},
                 {{"blk.7.ffn_down_exps.weight", 26}, 2, 0},
                 {{"blk.7.attn_output.weight", 24}, 1, 0},
                 {{"attn_k.weight", 13}, 1, 0},
                 {{"output.weight", 13}, 1, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check(imatrix_of_weight(&m, cases[i].name, 4, cases[i].matrices, &e, &why), &why);
        if (e != (cases[i].which == 0 ? NULL : cases[i].which == 1 ? q : merged)) fail_test("%s", cases[i].name.ptr);
    }
    imatrix_close(&m);
}

static void set(struct imatrix_entry *e, uint64_t matrix, double rows, float a, float b) {
    e->rows[matrix] = rows;
    e->sums[matrix * e->columns] = (float)(rows * (double)a);
    e->sums[matrix * e->columns + 1] = (float)(rows * (double)b);
}

static void near(float got, double want) {
    if (fabs((double)got - want) > 1e-5 * fabs(want)) fail_test("%.7g instead of %.7g", (double)got, want);
}

static void rare_experts_borrow(void **state) {
    (void)state;
    struct imatrix m = {0};
    struct imatrix_entry *e = add(&m, "x", 2, 4), *alone = add(&m, "y", 2, 1), *nobody = add(&m, "z", 2, 3);
    float out[2];
    set(e, 0, 1e7, 1, 3); /* mean 2, pattern 0.5 1.5 */
    set(e, 1, 1e7, 6, 2); /* mean 4, pattern 1.5 0.5 */
    set(e, 2, 0, 0, 0);
    set(e, 3, 16, 10, 0); /* as often as the prior */
    imatrix_importance(e, 2, 4, 0, out);
    near(out[0], 1); /* seen often: its own */
    near(out[1], 3);
    imatrix_importance(e, 2, 4, 2, out); /* never seen: patterns 0.5 1.5, 1.5 0.5, and by half 2 0; the means likewise */
    near(out[0], (0.5 + 1.5 + 0.5 * 2) / 2.5 * (2 + 4 + 0.5 * 5) / 2.5);
    near(out[1], (1.5 + 0.5 + 0.5 * 0) / 2.5 * (2 + 4 + 0.5 * 5) / 2.5);
    imatrix_importance(e, 2, 4, 3, out); /* half its own, half the pattern 1 1 of the two */
    near(out[0], (10 + 5) / 2.0);
    near(out[1], (0 + 5) / 2.0);
    set(alone, 0, 3, 5, 7);
    imatrix_importance(alone, 2, 1, 0, out);
    near(out[0], 5);
    near(out[1], 7);
    imatrix_importance(nobody, 2, 3, 1, out);
    near(out[0], 1);
    near(out[1], 1);
    assert_int_equal(imatrix_count_below(e, 1), 1);
    assert_int_equal(imatrix_count_below(e, 17), 2);
    imatrix_close(&m);
}

/* ---- broken files
 * ------------------------------------------------------------------------------------------------------------ */

static struct raw_gguf raw; /* large */

static void fresh(void) {
    raw_free(&raw);
    memset(&raw, 0, sizeof raw);
    raw = (struct raw_gguf){
        .magic = "GGUF", .version = 3, .n_tensors_claimed = RAW_AUTO, .n_keys_claimed = RAW_AUTO, .alignment = 32};
    raw_set_string(&raw, "general.type", "imatrix");
    raw_set_u32(&raw, "imatrix.chunk_count", 3);
    raw_add(&raw, "w.in_sum2", F32, 4, 2, 0);
    raw_add(&raw, "w.counts", F32, 1, 2, 0);
}

/* Writes `raw` with these values for data, in the order of its tensors; `n` fewer are zeros. */
static void write_raw_values(const float *values, size_t n) {
    struct text t = {0};
    raw_build(&raw, &t);
    const size_t data = (size_t)raw.data_at;
    memset(t.ptr + data, 0, t.len - data);
    for (size_t i = 0; i < n; i++) { /* the second tensor begins at byte 32 */
        const size_t at = data + 4 * i;
        if (at + 4 <= t.len) memcpy(t.ptr + at, &values[i], 4);
    }
    raw_write(path, t);
    text_free(&t);
}

static void refuse(const char *item, const char *problem) {
    struct imatrix m;
    struct reason why = {""};
    const enum err code = imatrix_read(path, &m, &why);
    if (code == ERR_NONE) fail_test("accepted: %s %s", item, problem);
    assert_true(m.n == 0 && !m.entries && !m.datasets);
    if (!strstr(why.text, item) || !strstr(why.text, problem) || !strstr(why.text, path))
        fail_test("'%s' lacks '%s', '%s' or the path", why.text, item, problem);
}

static void broken_gguf_is_refused(void **state) {
    (void)state;
    static const float good[10] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    float bad[10];
    fresh();
    write_raw_values(good, 10);
    struct imatrix m = read_back();
    assert_true(m.n == 1 && m.chunks == 3 && m.entries[0]->rows[1] == 10 && m.entries[0]->sums[7] == 8);
    imatrix_close(&m);

    raw_set_string(&raw, "general.type", "model");
    write_raw_values(good, 10);
    refuse("general.type", "no importance matrix");
    fresh();
    raw_set_u32(&raw, "general.type", 1);
    write_raw_values(good, 10);
    refuse("general.type", "string");
    fresh();
    raw_set_string(&raw, "imatrix.chunk_count", "three");
    write_raw_values(good, 10);
    refuse("imatrix.chunk_count", "integer");
    fresh();
    raw_drop(&raw, "w.counts");
    write_raw_values(good, 8);
    refuse("w.in_sum2", "no 'w.counts'");
    fresh();
    raw_drop(&raw, "w.in_sum2");
    write_raw_values(good, 2);
    refuse("m", "no sums");
    fresh();
    raw_find(&raw, "w.counts")->ne[1] = 1;
    write_raw_values(good, 10);
    refuse("w.counts", "one count for each of 2");
    fresh();
    raw_find(&raw, "w.in_sum2")->type = F16;
    write_raw_values(good, 10);
    refuse("w.in_sum2", "F16");
    fresh();
    raw_add(&raw, "w.sums", F32, 4, 2, 0);
    write_raw_values(good, 10);
    refuse("w.sums", "second");

    static const struct {
        int at;
        float value;
        const char *item, *problem;
    } values[] = {{3, NAN, "w.in_sum2", "value 3 is not a number"}, {0, INFINITY, "w.in_sum2", "value 0 is infinite"},
                  {7, -1e-9f, "w.in_sum2", "value 7 is negative"},  {8, NAN, "w.counts", "value 0 is not a number"},
                  {9, -1, "w.counts", "value 1 is negative"},       {8, INFINITY, "w.counts", "is infinite"}};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        fresh();
        memcpy(bad, good, sizeof bad);
        bad[values[i].at] = values[i].value;
        write_raw_values(bad, 10);
        refuse(values[i].item, values[i].problem);
    }
    raw_free(&raw);
}

static void broken_dat_is_refused(void **state) {
    (void)state;
    static const float values[] = {1, 2, 3, 4};
    struct text t = {0};
    raw_write(path, t);
    refuse("byte 0", "empty");
    put_i32(&t, 2);
    put_entry(&t, "w", 1, 4, values);
    const size_t second = t.len;
    put_entry(&t, "v", 1, 4, values);
    const size_t whole = t.len;
    for (size_t n = 1; n < whole; n++) { /* cut anywhere */
        raw_write(path, (struct text){.ptr = t.ptr, .len = n});
        refuse("at byte", "");
    }
    raw_write(path, t);
    struct imatrix m = read_back();
    assert_int_equal(m.n, 2);
    imatrix_close(&m);

    static const struct {
        size_t at; /* of a 32-bit word of the second entry */
        int32_t value;
        const char *problem;
    } words[] = {{0, 0, "a name of less than 1"},  {0, -1, "a name of less than 1"}, {0, 300, "more than 255"},
                 {0, INT32_MAX, "more than 255"},  {5, -1, "calls is negative"},     {9, 0, "does not fit"},
                 {9, -4, "does not fit"},          {9, 5, "does not fit"},           {9, INT32_MAX, "does not fit"},
                 {13, 0x7fc00000, "not a number"}, {13, 0x7f800000, "infinite"},     {17, INT32_MIN | 1, "negative"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        struct text broken = {0};
        text_add(&broken, t.ptr, t.len);
        memcpy(broken.ptr + second + words[i].at, &words[i].value, 4);
        raw_write(path, broken);
        refuse("entry 2 at byte", words[i].problem);
        text_free(&broken);
    }
    t.ptr[second + 4] = 'w';
    raw_write(path, t);
    refuse("entry 2", "second entry of this name");
    t.ptr[second + 4] = '\n';
    raw_write(path, t);
    refuse("entry 2", "control character");
    static const int32_t counts[] = {0, -1, INT32_MAX, 1000};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        memcpy(t.ptr, &counts[i], 4);
        raw_write(path, t);
        refuse("byte 0", "number of entries is impossible");
    }
    text_free(&t);
}

static void what_is_no_file_is_refused(void **state) {
    (void)state;
    struct imatrix m;
    struct reason why = {""};
    assert_int_equal(imatrix_read("/nonexistent.dat", &m, &why), ERR_IO);
    assert_int_equal(imatrix_read(folder, &m, &why), ERR_FORMAT);
    assert_int_equal(imatrix_read("/dev/zero", &m, &why), ERR_FORMAT);
    struct text t = {0};
    text_addf(&t, "FUGG and more of it");
    raw_write(path, t);
    refuse("m", "big-endian");
    text_free(&t);
}

/* Whatever bytes are there, the reader ends with a reason or with sane values. Files are small, so that many fit a second. */
static void changed_bytes_do_no_harm(void **state) {
    (void)state;
    uint64_t random = 12345;
    for (int form = 0; form < 2; form++) {
        struct imatrix m = example();
        struct reason why;
        struct text t = {0};
        check(form ? imatrix_write_dat(&m, path, &why) : imatrix_write_gguf(&m, path, &why), &why);
        imatrix_close(&m);
        FILE *f = fopen(path, "rb");
        char bytes[4096];
        const size_t n = fread(bytes, 1, sizeof bytes, f);
        fclose(f);
        for (int round = 0; round < 400; round++) {
            text_clear(&t);
            text_add(&t, bytes, n);
            for (int i = 0; i < 1 + round % 3; i++) {
                random = random * 6364136223846793005u + 1442695040888963407u;
                t.ptr[(random >> 33) % n] = (char)(random >> 25);
            }
            raw_write(path, t);
            const enum err code = imatrix_read(path, &m, &why);
            if (code) assert_true(why.text[0] && m.n == 0);
            for (size_t i = 0; i < m.n; i++)
                for (uint64_t j = 0; j < m.entries[i]->columns * m.entries[i]->matrices; j++)
                    assert_true(isfinite(m.entries[i]->sums[j]) && m.entries[i]->sums[j] >= 0);
            imatrix_close(&m);
        }
        text_free(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_comes_back),
        cmocka_unit_test(dat_comes_back),
        cmocka_unit_test(old_files_are_read),
        cmocka_unit_test(nothing_is_left_of_a_failed_write),
        cmocka_unit_test(merging_adds),
        cmocka_unit_test(files_without_shapes_take_one),
        cmocka_unit_test(other_shapes_are_refused),
        cmocka_unit_test(relatives_share_inputs),
        cmocka_unit_test(rare_experts_borrow),
        cmocka_unit_test(broken_gguf_is_refused),
        cmocka_unit_test(broken_dat_is_refused),
        cmocka_unit_test(what_is_no_file_is_refused),
        cmocka_unit_test(changed_bytes_do_no_harm),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}

/* The floor: reasons, text, checked sizes, pages, arena, type table, scalar conversions. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/core.h"
#include "core/tensor.h"

static void reasons_are_one_clean_line(void **state) {
    (void)state;
    struct reason why;
    assert_int_equal(fail(&why, ERR_FORMAT, "name '%s'", "a\nb\x1b[31m"), ERR_FORMAT);
    assert_string_equal(why.text, "name 'a?b?[31m'");
    assert_int_equal(fail(NULL, ERR_IO, "nobody listens"), ERR_IO);
}

static void text_grows_and_survives_zero(void **state) {
    (void)state;
    struct text t = {0};
    for (int i = 0; i < 1000; i++) text_addf(&t, "%d,", i);
    text_add(&t, "\0x", 2);
    assert_false(t.failed);
    assert_int_equal(t.len, 3890 + 2);
    assert_int_equal(t.ptr[t.len], 0);
    text_clear(&t);
    assert_int_equal(t.len, 0);
    text_free(&t);
}

static void spans(void **state) {
    (void)state;
    assert_true(span_equal(SPAN("ab"), span_of("ab")));
    assert_false(span_equal(SPAN("ab"), SPAN("abc")));
    assert_true(span_starts(SPAN("abc"), SPAN("ab")));
    assert_false(span_starts(SPAN("a"), SPAN("ab")));
    assert_true(span_equal((struct span){NULL, 0}, SPAN("")));
}

static void sizes_do_not_wrap(void **state) {
    (void)state;
    uint64_t out;
    assert_false(size_mul(UINT64_MAX, 2, &out));
    assert_false(size_add(UINT64_MAX, 1, &out));
    assert_null(calloc_checked(UINT64_MAX / 2, 4));
    struct reason why;
    void *p;
    assert_int_equal(pages_alloc(UINT64_MAX - 5, &p, &why), ERR_NO_MEMORY);
    assert_null(p);
}

static void sleep_ms(long ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL); }

/* A long absence counts little; patience ends all the same, and never before its time. */
static void patience_outlives_absence(void **state) {
    (void)state;
    const uint64_t limit_ns = 350000000, begin = clock_ns();
    struct patience p = patience_of(limit_ns);
    sleep_ms(600);
    assert_false(patience_ends(&p));
    sleep_ms(150);
    assert_false(patience_ends(&p));
    while (!patience_ends(&p)) sleep_ms(1);
    assert_true(clock_ns() - begin >= limit_ns);
    assert_true(patience_ends(&p));
    p = patience_of(0);
    assert_true(patience_ends(&p));
}

static void arena_is_aligned_and_ends(void **state) {
    (void)state;
    struct arena a;
    struct reason why;
    assert_int_equal(arena_open(&a, 1000, &why), ERR_NONE);
    uint8_t *one = arena_take(&a, 1), *two = arena_take(&a, 900);
    assert_int_equal((uintptr_t)one % 64, 0);
    assert_int_equal(two - one, 64);
    assert_int_equal(two[899], 0);
    assert_null(arena_take(&a, 100));
    arena_close(&a);
    arena_close(&a);
}

static void row_sizes(void **state) {
    (void)state;
    uint64_t bytes;
    assert_true(tensor_row_bytes(TYPE_Q4_K, 2048, &bytes));
    assert_int_equal(bytes, 1152);
    assert_true(tensor_row_bytes(TYPE_IQ4_KS, 512, &bytes));
    assert_int_equal(bytes, 4 + 2 * 136);
    assert_false(tensor_row_bytes(TYPE_Q4_K, 2000, &bytes));
    assert_false(tensor_row_bytes(TYPE_F32, 0, &bytes));
    assert_false(tensor_row_bytes(TYPE_F32, UINT64_MAX / 2, &bytes));
}

static void type_ids_are_unique_and_found(void **state) {
    (void)state;
    for (int i = 0; i < TYPE_COUNT; i++) {
        enum tensor_type found;
        const struct tensor_type_info *info = tensor_type_info((enum tensor_type)i);
        assert_true(tensor_type_from_gguf(info->gguf_id, &found) == (info->gguf_id < TENSOR_OWN_ID)); /* no file carries ours */
        if (info->gguf_id < TENSOR_OWN_ID) assert_int_equal(found, i);
        assert_true(tensor_type_from_name(span_of(info->name), &found));
        assert_int_equal(found, i);
        assert_null(tensor_type_refused_name(info->gguf_id));
    }
    assert_non_null(tensor_type_refused_name(202));
}

/* Every binary16 value goes to binary32 and back; every rounding agrees with the definition at the midpoints. */
static void f16_is_exact_both_ways(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = f16_to_f32((uint16_t)h);
        if (isnan(f)) {
            assert_true(isnan(f16_to_f32(f32_to_f16(f))));
            continue;
        }
        assert_int_equal(f32_to_f16(f), h);
        if ((h & 0x7fff) >= 0x7bff) continue;
        const float next = f16_to_f32((uint16_t)(h + 1)), middle = f + (next - f) / 2; /* exact in binary32 */
        assert_int_equal(f32_to_f16(middle), h & 1 ? h + 1 : h);
        assert_int_equal(f32_to_f16(nextafterf(middle, f)), h);
        assert_int_equal(f32_to_f16(nextafterf(middle, next)), h + 1);
    }
    assert_int_equal(f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(f32_to_f16(1e30f), 0x7c00);
    assert_int_equal(f32_to_f16(-1e-30f), 0x8000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reasons_are_one_clean_line), cmocka_unit_test(text_grows_and_survives_zero), cmocka_unit_test(spans),
        cmocka_unit_test(sizes_do_not_wrap), cmocka_unit_test(arena_is_aligned_and_ends), cmocka_unit_test(row_sizes),
        cmocka_unit_test(type_ids_are_unique_and_found), cmocka_unit_test(f16_is_exact_both_ways),
        cmocka_unit_test(patience_outlives_absence)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

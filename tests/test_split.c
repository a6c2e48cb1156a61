/* Which experts of a prompt's layer go over the link: both sides are ready as early as can be. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>

#include "placement/split.h"

enum { BYTES = 3000000, WEIGHTS = 4700000, MANY = 128 };

static double time_of(const struct split_rates *r, const uint32_t *tokens, uint32_t n, uint32_t stay, double cpu_s) {
    for (uint32_t i = 0; i < stay; i++) cpu_s += split_cpu_seconds(r, BYTES, WEIGHTS, tokens[i]);
    return fmax(cpu_s, (n - stay) * BYTES / r->link_bytes_per_s);
}

static int ascending(const void *a, const void *b) { return (int)*(const uint32_t *)a - (int)*(const uint32_t *)b; }

static void nothing_is_faster(void **state) {
    (void)state;
    uint32_t random = 1, tokens[MANY];
    for (int round = 0; round < 300; round++) {
        const uint32_t n = (random = random * 1664525 + 1013904223) % (MANY + 1), most = 1 + (random >> 8) % 200;
        for (uint32_t i = 0; i < n; i++) tokens[i] = 1 + ((random = random * 1664525 + 1013904223) >> 8) % most;
        qsort(tokens, n, sizeof *tokens, ascending);
        const struct split_rates r = {1e9 * (1 + (random >> 10) % 50), 1e9 * (5 + (random >> 16) % 100), 1e10 * (1 + (random >> 20) % 100)};
        const double cpu_s = round % 3 ? 0 : 1e-3 * (random % 10);
        const uint32_t stay = split_prompt(&r, BYTES, WEIGHTS, tokens, n, cpu_s);
        assert_true(stay <= n);
        const double best = time_of(&r, tokens, n, stay, cpu_s);
        for (uint32_t k = 0; k <= n; k++) {
            const double other = time_of(&r, tokens, n, k, cpu_s);
            assert_true(best <= other * (1 + 1e-9));
            if (k > stay) assert_true(other > best * (1 - 1e-9)); /* it would have sent less */
        }
    }
}

static void ends_of_the_scale(void **state) {
    (void)state;
    const uint32_t tokens[4] = {1, 5, 50, 500};
    assert_int_equal(split_prompt(&(struct split_rates){1, 50e9, 1e12}, BYTES, WEIGHTS, tokens, 4, 0), 4);  /* no link to speak of */
    assert_int_equal(split_prompt(&(struct split_rates){1e15, 50e9, 1e9}, BYTES, WEIGHTS, tokens, 4, 0), 0); /* no CPU */
    assert_int_equal(split_prompt(&(struct split_rates){12e9, 50e9, 2e11}, BYTES, WEIGHTS, tokens, 0, 0), 0);
    assert_int_equal(split_prompt(&(struct split_rates){12e9, 50e9, 2e11}, BYTES, WEIGHTS, tokens, 4, 0), 2); /* 0.2 ms here, 0.5 there; 50 tokens would take 1.2 here */
    assert_int_equal(split_prompt(&(struct split_rates){12e9, 50e9, 2e11}, BYTES, WEIGHTS, tokens, 4, 10), 0); /* busy with others for long */
}

static void rates_are_never_nothing(void **state) {
    (void)state;
    struct facts *f = calloc(1, sizeof *f);
    const struct split_rates guessed = split_rates_of(f, 0, "avx2", 8, true), bounced = split_rates_of(f, 0, "avx2", 8, false);
    assert_true(guessed.link_bytes_per_s > bounced.link_bytes_per_s && bounced.link_bytes_per_s > 1e9);
    assert_true(guessed.ram_bytes_per_s > 1e9 && guessed.macs_per_s > 1e9);
    f->n_gpus = 1;
    f->gpus[0].to_gpu_bytes_per_s = 3e9;
    assert_true(split_rates_of(f, 0, "avx2", 8, true).link_bytes_per_s == 3e9 && split_rates_of(f, 0, "avx2", 8, false).link_bytes_per_s == 3e9);
    free(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_faster),
        cmocka_unit_test(ends_of_the_scale),
        cmocka_unit_test(rates_are_never_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

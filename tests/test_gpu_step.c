/* The kernels of a step, launch by launch, against the CPU's reference kernels: every weight type, every count of tokens, every
 * count of experts that the host has to compute, and waits that end badly. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "gpu/gpu.h"
#include "tests/gpu/step_checks.h"

static const struct sizes tiny = {
    .e = 256, .f = 256, .heads = 4, .kv_heads = 2, .dh = 64, .experts = 8, .used = 2, .vocab = 150};
static const struct sizes odd = {.e = 160, .f = 96, .heads = 3, .kv_heads = 1, .dh = 32, .experts = 5, .used = 3, .vocab = 67};
static const struct sizes crooked = {
    .e = 54, .f = 45, .heads = 3, .kv_heads = 1, .dh = 32, .experts = 3, .used = 3, .vocab = 33};

static void try_types(const enum tensor_type *types, size_t n, struct sizes z) {
    for (size_t i = 0; i < n; i++) {
        struct fixture f = make_fixture(z, all_of(types[i]));
        open_network(&f);
        for (int t = 0; t < 4; t++) check_all(&f, token_counts[t]);
        free_fixture(&f);
    }
}

static void test_types(void **state) {
    (void)state;
    const enum tensor_type all[] = {TYPE_F32, TYPE_F16, TYPE_BF16, TYPE_Q4_0, TYPE_Q8_0, TYPE_Q4_K, TYPE_Q5_K, TYPE_Q6_K};
    try_types(all, sizeof all / sizeof *all, tiny);
}

/* Rows of an odd number of 32-weight blocks, and rows of floats that end within 16 bytes. */
static void test_odd_rows(void **state) {
    (void)state;
    const enum tensor_type blocks[] = {TYPE_Q4_0, TYPE_Q8_0}, floats[] = {TYPE_F32, TYPE_F16, TYPE_BF16};
    try_types(blocks, 2, odd);
    try_types(floats, 3, crooked);
}

/* Types that differ within a kernel, as files have them. */
static void test_mixed_types(void **state) {
    (void)state;
    const struct types mixes[] = {
        {TYPE_Q4_K, TYPE_Q4_K, TYPE_Q6_K, TYPE_Q4_K, TYPE_F32, TYPE_Q4_K, TYPE_Q4_K, TYPE_Q6_K, TYPE_Q6_K, TYPE_Q4_K},
        {TYPE_Q8_0, TYPE_F16, TYPE_Q5_K, TYPE_BF16, TYPE_Q8_0, TYPE_Q4_K, TYPE_F16, TYPE_F16, TYPE_F16, TYPE_Q6_K},
        {TYPE_F32, TYPE_BF16, TYPE_F16, TYPE_Q4_0, TYPE_F16, TYPE_F16, TYPE_F16, TYPE_Q4_0, TYPE_Q4_0, TYPE_F32}};
    check_mixes(mixes, sizeof mixes / sizeof *mixes, tiny);
}

/* The widths of Qwen3-30B-A3B, fewer rows and experts. */
static void test_real_widths(void **state) {
    (void)state;
    const struct sizes real = {
        .e = 2048, .f = 768, .heads = 32, .kv_heads = 2, .dh = 128, .experts = 10, .used = 8, .vocab = 300};
    struct types y = {TYPE_Q4_K, TYPE_Q4_K, TYPE_Q6_K, TYPE_Q4_K, TYPE_F32,
                      TYPE_Q4_K, TYPE_Q4_K, TYPE_Q6_K, TYPE_Q6_K, TYPE_Q4_K};
    struct fixture f = make_fixture(real, y);
    open_network(&f);
    check_all(&f, 1);
    check_all(&f, 8);
    free_fixture(&f);
}

/* Every count of missing experts, of one token and of several. */
static void test_every_miss_count(void **state) {
    (void)state;
    const struct sizes z = {.e = 128, .f = 64, .heads = 2, .kv_heads = 1, .dh = 64, .experts = 40, .used = 8, .vocab = 32};
    struct types y = all_of(TYPE_Q8_0);
    y.router = TYPE_F32;
    struct fixture f = make_fixture(z, y);
    open_network(&f);
    struct routed *r = malloc(sizeof *r);
    for (uint32_t tokens = 1; tokens <= 8; tokens *= 8)
        for (uint32_t misses = 0; misses <= z.used; misses++) {
            const uint64_t state_before = random_state;
            bool missing[GPU_MAX_EXPERTS] = {false};
            check_layer(&f, tokens, tokens, missing, r);
            for (uint32_t k = 0; k < misses; k++) missing[r->route[0][k].expert] = true;
            free(r->normed);
            random_state = state_before; /* the same x, so the same choice */
            check_layer(&f, tokens, tokens, missing, r);
            if (tokens == 1) assert_int_equal(r->missing, misses);
            free(r->normed);
        }
    free(r);
    free_fixture(&f);
}

static void copy_row(struct matrix *m, uint32_t to, uint32_t from) {
    memcpy(m->file + to * m->row_bytes, m->file + from * m->row_bytes, m->row_bytes);
}

/* Equal logits: the higher expert first. NaN: last. */
static void test_ties(void **state) {
    (void)state;
    struct sizes z = tiny;
    z.experts = 200, z.used = 6, z.f = 32, z.e = 32;
    struct types y = all_of(TYPE_F32);
    struct fixture f = make_fixture(z, y);
    for (uint32_t x = 0; x < z.experts; x++) {
        if (x % 3) copy_row(&f.router, x, x - x % 3);
        float *row = (float *)(void *)(f.router.file + x * f.router.row_bytes);
        if (x % 50 == 7) row[5] = NAN;
        if (x % 50 == 8) memset(row, 0, f.router.row_bytes);
    }
    copy_row(&f.head, 20, 10), copy_row(&f.head, 90, 10), copy_row(&f.head, 140, 11);
    open_network(&f);
    struct routed *r = malloc(sizeof *r);
    bool missing[GPU_MAX_EXPERTS] = {false};
    for (int t = 0; t < 4; t++) {
        check_layer(&f, token_counts[t], token_counts[t], missing, r);
        check_head(&f, token_counts[t]);
        free(r->normed);
    }
    for (uint32_t i = 0; i < z.experts; i++)
        ((float *)(void *)(f.router.file + i * f.router.row_bytes))[0] = i == 150 ? 1 : NAN;
    place(&f.router, f.router.device);
    check_layer(&f, 1, 1, missing, r);
    assert_int_equal(r->route[0][0].expert, 150);
    assert_int_equal(r->route[0][1].expert, 199);
    free(r->normed);
    free(r);
    free_fixture(&f);
}

/* Groups that round specially: all zero, tiny, infinite, NaN. */
static void test_special_values(void **state) {
    (void)state;
    struct types y = all_of(TYPE_Q8_0);
    struct fixture f = make_fixture(tiny, y);
    open_network(&f);
    const uint32_t e = tiny.e;
    float *x = calloc(e, sizeof *x), *normed = malloc(e * sizeof *normed);
    for (uint32_t i = 32; i < 64; i++) x[i] = 0x1p-120f * (float)i;
    for (uint32_t i = 64; i < e; i++) x[i] = random_normal();
    for (int round = 0; round < 3; round++) {
        if (round == 1) x[100] = INFINITY;
        if (round == 2) x[100] = NAN;
        begin(&f, 1, 1, NULL);
        finish();
        up(f.at.x, x, e * sizeof *x);
        launch(&f, PROBE_ROUTE, 1);
        down(normed, f.at.normed, e * sizeof *normed);
        if (round == 0) check_acts(normed, &f.at.normed8, 1, e);
        float d[8];
        down(d, f.at.normed8.d, sizeof d);
        assert_true(round == 0 ? d[0] == 0 && d[1] == 0 && d[2] > 0 : isnan(d[3]));
    }
    free(x), free(normed);
    free_fixture(&f);
}

/* The attention of a layer whose KV cache is in RAM. */
static void test_attention_mail(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        struct fixture f = make_fixture(kind ? crooked : tiny, all_of(kind ? TYPE_F16 : TYPE_Q4_K));
        open_network(&f);
        const uint32_t width = f.output.k, qkv = f.q.rows + f.k.rows + f.v.rows;
        float *in = malloc(GPU_STEP_TOKENS * qkv * 4), *got = malloc(GPU_STEP_TOKENS * width * 4);
        random_floats(in, GPU_STEP_TOKENS * qkv);
        for (int i = 0; i < 4; i++) {
            const uint32_t tokens = token_counts[i], n = tokens > 2 ? tokens - 1 : tokens;
            begin(&f, tokens, n, NULL);
            finish();
            up(f.at.qkv, in, tokens * qkv * 4);
            struct host *h = start_host(&f, ANSWERED, qkv, width);
            launch(&f, PROBE_ATTENTION_MAIL, tokens);
            const struct gpu_result *result = end(&f, tokens);
            assert_int_equal(result->failed, 0);
            assert_int_equal(h->letters, 1);
            assert_int_equal(h->mail.kind, GPU_MAIL_ATTENTION);
            assert_int_equal(h->mail.n_tokens, n);
            assert_memory_equal(h->input, in, n * qkv * 4);
            down(got, f.at.attended32, tokens * width * 4);
            assert_memory_equal(got, h->values, n * width * 4);
            for (uint32_t j = n * width; j < tokens * width; j++) assert_true(got[j] == 0);
            if (!kind) check_acts(got, &f.at.attended, tokens, width);
            stop_host(h);
        }
        free(in), free(got);
        free_fixture(&f);
    }
}

/* Waits that end without an answer mark the step as failed, add nothing, and ask nothing more; the next step is a new start. */
static void test_failed_waits(void **state) {
    (void)state;
    struct fixture f = make_fixture(tiny, all_of(TYPE_Q4_K));
    open_network(&f);
    bool all[GPU_MAX_EXPERTS], none[GPU_MAX_EXPERTS] = {false};
    uint32_t slots[GPU_MAX_EXPERTS];
    memset(all, 1, sizeof all);
    struct routed *r = malloc(sizeof *r);
    for (int how = 0; how < 3; how++) { /* refused, too late, aborted */
        set_slots(&f, slots, all);
        if (how == 1) device->ops->set_patience(f.net, 20000000u);
        struct host *h = start_host(&f, how == 0 ? REFUSED : IGNORED, f.z.e, f.z.e);
        begin(&f, 2, 2, NULL);
        finish();
        float *x = random_x(&f, 2), *got = malloc(2 * f.z.e * 4);
        if (how == 2) *f.shared->abort = 1;
        for (int layer = 0; layer < 2; layer++) {
            launch(&f, PROBE_ROUTE, 2);
            launch(&f, PROBE_GATE_UP, 2);
            launch(&f, PROBE_DOWN, 2);
        }
        launch(&f, PROBE_ATTENTION_MAIL, 2);
        const struct gpu_result *result = end(&f, 2);
        assert_int_equal(result->failed, 1);
        assert_int_equal(result->n_misses, 2 * f.z.used);
        end_host(h);
        assert_int_equal(h->letters, 1);
        down(got, f.at.x, 2 * f.z.e * 4);
        assert_memory_equal(got, x, 2 * f.z.e * 4);
        *f.shared->abort = 0;
        free_host(h);
        free(x), free(got);
        device->ops->set_patience(f.net, sync_limit_ns);
        check_layer(&f, 2, 2, none, r);
        free(r->normed);
        check_layer(&f, 2, 2, all, r);
        free(r->normed);
    }
    free(r);
    free_fixture(&f);
}

/* Patches, the token of the step before, and commands that make no sense. */
static void test_commands(void **state) {
    (void)state;
    struct fixture f = make_fixture(tiny, all_of(TYPE_Q8_0));
    open_network(&f);
    struct gpu_command *c = f.shared->commands[++f.number % 2];
    *c = (struct gpu_command){
        .number = f.number, .n_tokens = 1, .n_patches = 4, .patches = {{0, 1, 77}, {0, 2, 5}, {0, 1, 0}, {9, 3, 4}}};
    launch(&f, PROBE_BEGIN, 1);
    (void)end(&f, 1);
    uint32_t slots[8];
    down(slots, f.at.slots, sizeof slots);
    assert_int_equal(slots[1], 0);
    assert_int_equal(slots[2], 5);
    assert_int_equal(slots[3], 0);

    check_head(&f, 4);
    int32_t best[4], minus[4] = {-1, -1, -1, -1};
    for (int t = 0; t < 4; t++) best[t] = f.shared->result->best[t];
    float *got = malloc(4 * f.z.e * 4), *wanted = malloc(f.z.e * 4);
    begin(&f, 4, 4, minus);
    (void)end(&f, 4);
    down(got, f.at.x, 4 * f.z.e * 4);
    for (int t = 0; t < 4; t++) {
        cpu.types[TYPE_Q8_0].dequant(f.embedding.file + (uint64_t)best[t] * f.embedding.row_bytes, wanted, f.z.e);
        assert_memory_equal(got + t * (int)f.z.e, wanted, f.z.e * 4);
    }

    c = f.shared->commands[++f.number % 2];
    *c = (struct gpu_command){.number = f.number + 1, .n_tokens = 1};
    launch(&f, PROBE_BEGIN, 1);
    assert_int_equal(end(&f, 1)->failed, 1);
    const int32_t far_away = (int32_t)f.z.vocab;
    begin(&f, 1, 1, &far_away);
    assert_int_equal(end(&f, 1)->failed, 1);
    free(got), free(wanted);
    free_fixture(&f);
}

int main(void) {
    if (!open_device()) return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),       cmocka_unit_test(test_odd_rows),         cmocka_unit_test(test_mixed_types),
        cmocka_unit_test(test_ties),        cmocka_unit_test(test_every_miss_count), cmocka_unit_test(test_special_values),
        cmocka_unit_test(test_commands),    cmocka_unit_test(test_attention_mail),   cmocka_unit_test(test_failed_waits),
        cmocka_unit_test(test_real_widths),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    device->ops->close(&device);
    return failed;
}

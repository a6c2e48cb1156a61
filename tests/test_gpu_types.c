/* Every weight type whose kernels are shared by a family of types: its way to the device, the products of a step, of experts
 * and of a prompt, its embedding rows, each against the CPU's reference. What does not depend on the type is test_gpu_step's
 * and test_gpu_batch's. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gpu/step_checks.h"

/* One type of each family is tried with every count of tokens. */
static const struct {
    enum tensor_type type;
    bool all_counts;
} types[] = {{TYPE_IQ2_S, true},   {TYPE_IQ3_S, true},    {TYPE_IQ4_K, true},   {TYPE_IQ4_XS, false},  {TYPE_IQ4_NL, false},
             {TYPE_IQ4_KS, false}, {TYPE_IQ4_KSS, false}, {TYPE_MXFP4, false},  {TYPE_IQ5_K, true},    {TYPE_IQ6_K, false},
             {TYPE_IQ5_KS, false}, {TYPE_Q2_K, true},     {TYPE_Q3_K, false},   {TYPE_IQ2_K, false},   {TYPE_IQ3_K, false},
             {TYPE_IQ2_KS, false}, {TYPE_IQ3_KS, false},  {TYPE_Q4_1, true},    {TYPE_Q5_0, false},    {TYPE_Q5_1, false},
             {TYPE_Q6_0, false},   {TYPE_IQ2_XXS, true},  {TYPE_IQ2_XS, false}, {TYPE_IQ3_XXS, false}, {TYPE_IQ1_S, false},
             {TYPE_IQ1_M, false},  {TYPE_IQ2_KL, false}};
enum { N_TYPES = sizeof types / sizeof *types };

static const struct sizes small = {
    .e = 256, .f = 256, .heads = 4, .kv_heads = 1, .dh = 64, .experts = 3, .used = 2, .vocab = 21};
static const struct sizes odd = {.e = 160, .f = 96, .heads = 3, .kv_heads = 1, .dh = 32, .experts = 3, .used = 2, .vocab = 21};

/* ---- products of prompts ------------------------------------------------------------------------------------- */

/* The device's products of n vectors with m, against double arithmetic on what it multiplies: weights and vectors in binary16,
 * or as they are. */
static void check_product(struct fixture *f, const struct matrix *m, uint32_t n, bool exact) {
    float *x = malloc(n * m->k * sizeof *x), *w = malloc(m->k * sizeof *w), *got = malloc(n * m->rows * sizeof *got);
    uint16_t *half = malloc(n * m->k * sizeof *half);
    random_floats(x, (size_t)n * m->k);
    for (size_t i = 0; i < (size_t)n * m->k; i++) {
        half[i] = f32_to_f16(x[i]);
        if (!exact) x[i] = f16_to_f32(half[i]);
    }
    const uint64_t x_bytes = n * m->k * (exact ? sizeof *x : sizeof *half), y_bytes = n * m->rows * sizeof *got;
    const gpu_ptr to = room(x_bytes), y = room(y_bytes);
    up(to, exact ? (const void *)x : half, x_bytes);
    const struct gpu_matrix on_device = {m->device, m->type, m->rows, m->k};
    step_probe_product(device, f->net, &on_device, to, n, exact, y);
    finish();
    down(got, y, y_bytes);
    for (uint32_t r = 0; r < m->rows; r++) {
        cpu.types[m->type].dequant(m->file + r * m->row_bytes, w, m->k);
        for (uint32_t i = 0; i < n; i++) {
            double sum = 0, size = 0, most = 0;
            for (uint32_t c = 0; c < m->k; c++) {
                const double p = (double)(exact ? w[c] : f16_to_f32(f32_to_f16(w[c]))) * x[i * m->k + c];
                sum += p, size += fabs(p), most = fmax(most, fabs(p));
            }
            /* sums in binary32; a weight or two that binary16 rounds to the other neighbour */
            check_close(got[i * m->rows + r], sum, 0x1p-19 * size + (exact ? 0 : 0x1p-10 * most),
                        exact ? "exact product" : "product", i * m->rows + r);
        }
    }
    device->ops->free(device, GPU_USE_DENSE, to, x_bytes);
    device->ops->free(device, GPU_USE_DENSE, y, y_bytes);
    free(x), free(w), free(got), free(half);
}

/* ---- tests --------------------------------------------------------------------------------------------------- */

static void try_type(enum tensor_type type, struct sizes z, bool all_counts) {
    const struct gpu_type *t = &device->ops->types[type];
    print_message("  %s\n", tensor_type_info(type)->name);
    assert_true(t->has_kernels);
    struct fixture f = make_fixture(z, all_of(type));
    open_network(&f);
    for (int i = 0; i < 4; i++)
        if (all_counts || i == 0 || i == 2) check_all(&f, token_counts[i]);
    check_product(&f, &f.q, 20, false);
    check_product(&f, &f.router, 5, true);
    free_fixture(&f);
}

static void test_types(void **state) {
    (void)state;
    for (int i = 0; i < N_TYPES; i++) try_type(types[i].type, small, types[i].all_counts);
}

/* Rows of an odd number of 32-weight blocks. */
static void test_odd_rows(void **state) {
    (void)state;
    for (int i = 0; i < N_TYPES; i++)
        if (tensor_type_info(types[i].type)->block_weights == 32) try_type(types[i].type, odd, false);
}

/* Types that differ in a layer, as files have them: of several families and of none in q, k and v; of one in gate and up. */
static void test_mixed_types(void **state) {
    (void)state;
    const struct types mixes[] = {
        {TYPE_IQ4_K, TYPE_Q4_K, TYPE_IQ6_K, TYPE_IQ5_K, TYPE_F32, TYPE_IQ4_K, TYPE_IQ4_K, TYPE_IQ5_K, TYPE_Q8_0, TYPE_Q8_0},
        {TYPE_Q6_K, TYPE_IQ4_XS, TYPE_Q4_K, TYPE_Q4_K, TYPE_F32, TYPE_IQ4_XS, TYPE_IQ4_KS, TYPE_IQ3_S, TYPE_Q6_K, TYPE_IQ3_S},
        {TYPE_IQ4_KS, TYPE_IQ4_XS, TYPE_IQ4_NL, TYPE_Q5_0, TYPE_F16, TYPE_IQ2_S, TYPE_IQ2_S, TYPE_IQ3_S, TYPE_Q6_K, TYPE_Q6_K}};
    check_mixes(mixes, sizeof mixes / sizeof *mixes, small);
}

/* Scales, minima and levels at their ends everywhere: sums stay exact integers and finite. */
static void test_extreme_blocks(void **state) {
    (void)state;
    for (int i = 0; i < N_TYPES; i++) {
        struct fixture f = make_fixture(small, all_of(types[i].type));
        const struct tensor_type_info *info = tensor_type_info(f.q.type);
        for (uint32_t r = 0; r < f.q.rows; r++)
            for (uint64_t at = info->row_meta_bytes; at < f.q.row_bytes; at += info->block_bytes) {
                uint8_t *block = f.q.file + r * f.q.row_bytes + at, kept[256];
                memcpy(kept, block, info->block_bytes);
                memset(block, r % 2 ? 255 : 0, info->block_bytes);
                for (size_t s = 0; s < sizeof block_scales / sizeof *block_scales; s++) {
                    if (block_scales[s].type != f.q.type) continue;
                    memcpy(block + block_scales[s].d, kept + block_scales[s].d, 2);
                    if (block_scales[s].min >= 0) memcpy(block + block_scales[s].min, kept + block_scales[s].min, 2);
                }
                if (f.q.type == TYPE_MXFP4) block[0] = kept[0];
                if (f.q.type == TYPE_IQ1_M)
                    for (int w = 0; w < 4; w++)
                        block[49 + 2 * w] = (uint8_t)((block[49 + 2 * w] & 15) | (kept[49 + 2 * w] & 0xf0));
            }
        open_network(&f);
        check_qkv(&f, 1);
        free_fixture(&f);
    }
}

int main(void) {
    if (!open_device()) return 77;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_types), cmocka_unit_test(test_odd_rows),
                                       cmocka_unit_test(test_mixed_types), cmocka_unit_test(test_extreme_blocks)};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    device->ops->close(&device);
    return failed;
}

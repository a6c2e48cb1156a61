/* Writing weights: which function encodes which type, and what all of them are spared: values that are not finite, missing or
 * useless importances, float types. The searching is in encode_levels*.[ch] and encode_codebook.c. */
#include "cpu/encode.h"

#include <math.h>
#include <string.h>

#include "cpu/encode_private.h"

/* ---- float types ------------------------------------------------------------------------------------------------ */

static float finite_or_zero(float x) { return isfinite(x) ? x : 0; }

static void encode_f32_row(const float *weights, const float *importance, size_t k, void *row) {
    (void)importance;
    for (size_t i = 0; i < k; i++) {
        const float x = finite_or_zero(weights[i]);
        memcpy((uint8_t *)row + 4 * i, &x, sizeof x);
    }
}

static void encode_f16_row(const float *weights, const float *importance, size_t k, void *row) {
    (void)importance;
    for (size_t i = 0; i < k; i++) {
        const uint16_t h = encode_f16(finite_or_zero(weights[i]));
        memcpy((uint8_t *)row + 2 * i, &h, sizeof h);
    }
}

/* To nearest even by adding what carries into the kept half; the largest floats would become infinite. */
static uint16_t to_bf16(float x) {
    union {
        float f;
        uint32_t u;
    } v = {x};
    const uint16_t h = (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
    return (h & 0x7f80) == 0x7f80 ? (uint16_t)((h & 0x8000) | 0x7f7f) : h;
}

static void encode_bf16_row(const float *weights, const float *importance, size_t k, void *row) {
    (void)importance;
    for (size_t i = 0; i < k; i++) {
        const uint16_t h = to_bf16(finite_or_zero(weights[i]));
        memcpy((uint8_t *)row + 2 * i, &h, sizeof h);
    }
}

/* ---- which function --------------------------------------------------------------------------------------------- */

static struct encoder find(enum tensor_type type, enum cpu_isa isa) {
    switch (type) {
    case TYPE_F32: return (struct encoder){.row = encode_f32_row};
    case TYPE_F16: return (struct encoder){.row = encode_f16_row};
    case TYPE_BF16: return (struct encoder){.row = encode_bf16_row};
    default: break;
    }
    const struct encoder levels = isa >= ISA_AVX2 ? encode_find_levels_avx2(type) : encode_find_levels_ref(type);
    return levels.blocks || levels.row ? levels : encode_find_codebook(type, isa);
}

bool encode_supports(enum tensor_type type) {
    const struct encoder e = find(type, ISA_REF);
    return e.blocks || e.row;
}

bool encode_wants_importance(enum tensor_type type) {
    switch (type) {
    case TYPE_Q2_K:
    case TYPE_IQ2_XXS:
    case TYPE_IQ2_XS:
    case TYPE_IQ2_S:
    case TYPE_IQ2_K:
    case TYPE_IQ2_KS:
    case TYPE_IQ2_KL:
    case TYPE_IQ1_S:
    case TYPE_IQ1_M: return true;
    default: return false;
    }
}

/* ---- cleaning --------------------------------------------------------------------------------------------------- */

void encode_clean(const float *weights, const float *importance, size_t n, float factor, float *x, float *w) {
    for (size_t i = 0; i < n; i++) x[i] = fminf(fmaxf(finite_or_zero(weights[i]) * factor, -ENCODE_LARGEST), ENCODE_LARGEST);
    double sum = 0;
    for (size_t i = 0; importance && i < n; i++)
        sum += isfinite(importance[i]) && importance[i] > 0 ? (double)importance[i] : 0;
    const double inverse = sum > 0 ? (double)n / sum : 0;
    for (size_t i = 0; i < n; i++) {
        const bool counts = inverse > 0 && isfinite(importance[i]);
        w[i] = inverse > 0 ? fmaxf(counts ? (float)(importance[i] * inverse) : 0, ENCODE_LEAST_IMPORTANCE) : 1;
    }
}

static void encode_pieces(encode_fn *encode, enum tensor_type type, const float *weights, const float *importance, size_t k,
                          uint8_t *row) {
    const struct tensor_type_info *info = tensor_type_info(type);
    float x[ENCODE_PIECE], w[ENCODE_PIECE];
    for (size_t first = 0; first < k; first += ENCODE_PIECE) {
        const size_t n = k - first < ENCODE_PIECE ? k - first : ENCODE_PIECE;
        for (size_t at = 0; at < n; at += QK_K)
            encode_clean(weights + first + at, importance ? importance + first + at : NULL, n - at < QK_K ? n - at : QK_K, 1,
                         x + at, w + at);
        encode(x, w, n, row + first / info->block_weights * info->block_bytes);
    }
}

bool encode_row_with(enum cpu_isa isa, enum tensor_type type, const float *weights, const float *importance, size_t k,
                     void *row) {
    const struct encoder e = find(type, isa);
    bool finite = true;
    for (size_t i = 0; i < k; i++) finite &= isfinite(weights[i]) != 0;
    if (e.row)
        e.row(weights, importance, k, row);
    else if (e.blocks)
        encode_pieces(e.blocks, type, weights, importance, k, row);
    return finite;
}

bool encode_row(enum tensor_type type, const float *weights, const float *importance, size_t k, void *row) {
    return encode_row_with(cpu_isa_best(), type, weights, importance, k, row);
}

/* Reference kernels of the weight formats: what every faster variant is tested against. Written to be read, never optimised.
 *
 * Here: what follows from a format's `open` (cpu/quants_ref.h), the formats whose levels are their codes, the float formats, and
 * the activations. Products take the int8 activations, dot each group of 16 in integers and sum in double, so the only error
 * against exact arithmetic is the rounding of the activations. Float formats sum products of doubles. Touches only its
 * arguments. */
#include "cpu/quants_ref.h"

#include <math.h>
#include <string.h>

enum { VECTORS = 16 /* that share one opened block */ };

/* ---- what follows from an opened block -------------------------------------------------------------------------- */

static struct opened start_row(const struct format *f, const uint8_t *row) {
    struct opened o = {.row_scale = 1};
    uint16_t h;
    if (f->row_meta == sizeof h) {
        memcpy(&h, row, sizeof h);
        o.row_scale = f16_to_f32(h);
    } else if (f->row_meta)
        memcpy(&o.row_scale, row, sizeof o.row_scale);
    return o;
}

void format_dequant(const struct format *f, const void *row, float *out, size_t k) {
    struct opened o = start_row(f, row);
    for (size_t block = 0; block < k / f->weights; block++) {
        f->open((const uint8_t *)row + f->row_meta + block * f->bytes, &o);
        for (size_t i = 0; i < f->weights; i++)
            out[block * f->weights + i] = o.scale[i / GROUP] * (float)o.level[i] - o.offset[i / GROUP];
    }
}

/* sum over the block's columns, from column `first` of vector v, of w * d * q */
static double dot_block(const struct format *f, const struct opened *o, const struct acts *x, size_t v, size_t first) {
    double sum = 0;
    for (size_t t = 0; t < f->weights / GROUP; t++) {
        const size_t column = first + t * GROUP;
        const int8_t *q = x->q + v * x->k + column;
        int32_t dot = 0, total = 0;
        for (int i = 0; i < GROUP; i++) {
            dot += o->level[t * GROUP + i] * q[i];
            total += q[i];
        }
        sum += ((double)o->scale[t] * dot - (double)o->offset[t] * total) * (double)x->d[(v * x->k + column) / 32];
    }
    return sum;
}

static inline size_t vector_of(const struct matmul *m, size_t i) { return m->index ? (size_t)m->index[i] : i; }

void format_matmul(const struct format *f, const struct matmul *m) {
    for (size_t r = m->row_begin; r < m->row_end; r++)
        for (size_t first = 0; first < m->n; first += VECTORS) {
            const size_t count = m->n - first < VECTORS ? m->n - first : VECTORS;
            const uint8_t *row = m->w + r * m->row_bytes;
            double sum[VECTORS] = {0};
            struct opened o = start_row(f, row);
            for (size_t block = 0; block < m->k / f->weights; block++) {
                f->open(row + f->row_meta + block * f->bytes, &o);
                for (size_t i = 0; i < count; i++)
                    sum[i] += dot_block(f, &o, m->x, vector_of(m, first + i), block * f->weights);
            }
            for (size_t i = 0; i < count; i++) m->y[(first + i) * m->ldy + r] = (float)sum[i];
        }
}

/* ---- blocks of 32 ----------------------------------------------------------------------------------------------- */

static void open_q4_0(const void *block, struct opened *o) {
    struct block_q4_0 b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < 32; i++) o->level[i] = (int8_t)(code_in_halves(b.qs, i) - 8);
    set_group(o, 0, f16_to_f32(b.d));
}

static void open_q4_1(const void *block, struct opened *o) {
    struct block_q4_1 b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < 32; i++) o->level[i] = (int8_t)code_in_halves(b.qs, i);
    set_group(o, 0, f16_to_f32(b.d));
    o->offset[0] = o->offset[1] = -f16_to_f32(b.m);
}

/* Bit k of the 32-bit number. */
static int bit_of(const uint8_t number[4], int k) { return number[k / 8] >> k % 8 & 1; }

static void open_q5_0(const void *block, struct opened *o) {
    struct block_q5_0 b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < 32; i++) o->level[i] = (int8_t)(code_in_halves(b.qs, i) + 16 * bit_of(b.qh, i) - 16);
    set_group(o, 0, f16_to_f32(b.d));
}

static void open_q5_1(const void *block, struct opened *o) {
    struct block_q5_1 b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < 32; i++) o->level[i] = (int8_t)(code_in_halves(b.qs, i) + 16 * bit_of(b.qh, i));
    set_group(o, 0, f16_to_f32(b.d));
    o->offset[0] = o->offset[1] = -f16_to_f32(b.m);
}

static void open_q6_0(const void *block, struct opened *o) {
    struct block_q6_0 b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < 32; i++) {
        const int high = b.qh[i % 8] >> (4 * (i % 16 / 8) + 2 * (i / 16)) & 3;
        o->level[i] = (int8_t)(code_in_halves(b.qs, i) + 16 * high - 32);
    }
    set_group(o, 0, f16_to_f32(b.d));
}

static void open_q8_0(const void *block, struct opened *o) {
    struct block_q8_0 b;
    memcpy(&b, block, sizeof b);
    memcpy(o->level, b.qs, sizeof b.qs);
    set_group(o, 0, f16_to_f32(b.d));
}

QUANTIZED(q4_0, 32, 0)
QUANTIZED(q4_1, 32, 0)
QUANTIZED(q5_0, 32, 0)
QUANTIZED(q5_1, 32, 0)
QUANTIZED(q6_0, 32, 0)
QUANTIZED(q8_0, 32, 0)

/* ---- blocks of 256 ---------------------------------------------------------------------------------------------- */

static void open_q2_k(const void *block, struct opened *o) {
    struct block_q2_k b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < QK_K; i++) o->level[i] = (int8_t)code_in_planes(b.qs, i);
    for (int t = 0; t < 16; t++) {
        o->scale[t] = f16_to_f32(b.d) * (float)(b.scales[t] & 15);
        o->offset[t] = f16_to_f32(b.dmin) * (float)(b.scales[t] >> 4);
    }
}

static void open_q3_k(const void *block, struct opened *o) {
    struct block_q3_k b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < QK_K; i++) o->level[i] = (int8_t)(code_in_planes(b.qs, i) + 4 * high_bit(b.hmask, i) - 4);
    for (int t = 0; t < 16; t++) {
        const int low = b.scales[t % 8] >> 4 * (t / 8) & 15, high = b.scales[8 + t % 4] >> 2 * (t / 4) & 3;
        o->scale[t] = f16_to_f32(b.d) * (float)(low + 16 * high - 32);
    }
}

/* Scale and minimum of 32-group g from the twelve packed bytes of Q4_K and Q5_K. */
static void scale_and_min(const uint8_t s[12], int g, int *scale, int *min) {
    *scale = g < 4 ? s[g] & 63 : (s[g + 4] & 15) + 16 * (s[g - 4] >> 6);
    *min = g < 4 ? s[g + 4] & 63 : (s[g + 4] >> 4) + 16 * (s[g] >> 6);
}

static void open_scales_k(uint16_t d, uint16_t dmin, const uint8_t packed[12], struct opened *o) {
    for (int t = 0; t < 16; t++) {
        int scale, min;
        scale_and_min(packed, t / 2, &scale, &min);
        o->scale[t] = f16_to_f32(d) * (float)scale;
        o->offset[t] = f16_to_f32(dmin) * (float)min;
    }
}

static void open_q4_k(const void *block, struct opened *o) {
    struct block_q4_k b;
    memcpy(&b, block, sizeof b);
    open_scales_k(b.d, b.dmin, b.scales, o);
    for (int i = 0; i < QK_K; i++) o->level[i] = (int8_t)code_in_pairs(b.qs, i);
}

static void open_q5_k(const void *block, struct opened *o) {
    struct block_q5_k b;
    memcpy(&b, block, sizeof b);
    open_scales_k(b.d, b.dmin, b.scales, o);
    for (int i = 0; i < QK_K; i++) o->level[i] = (int8_t)(code_in_pairs(b.qs, i) + 16 * high_bit(b.qh, i));
}

static void open_q6_k(const void *block, struct opened *o) {
    struct block_q6_k b;
    memcpy(&b, block, sizeof b);
    for (int i = 0; i < QK_K; i++) {
        const int half = i / 128, plane = i % 128 / 32, l = i % 32;
        const int low = b.ql[64 * half + 32 * (plane & 1) + l] >> 4 * (plane >> 1) & 15;
        o->level[i] = (int8_t)(low + 16 * code_in_planes(b.qh, i) - 32);
    }
    for (int t = 0; t < 16; t++) o->scale[t] = f16_to_f32(b.d) * (float)b.scales[t];
}

QUANTIZED(q2_k, QK_K, 0)
QUANTIZED(q3_k, QK_K, 0)
QUANTIZED(q4_k, QK_K, 0)
QUANTIZED(q5_k, QK_K, 0)
QUANTIZED(q6_k, QK_K, 0)

/* ---- float formats ---------------------------------------------------------------------------------------------- */

static void dequant_f32(const void *row, float *out, size_t k) { memcpy(out, row, k * sizeof *out); }

static void dequant_f16(const void *row, float *out, size_t k) {
    for (size_t i = 0; i < k; i++) {
        uint16_t h;
        memcpy(&h, (const uint8_t *)row + 2 * i, sizeof h);
        out[i] = f16_to_f32(h);
    }
}

static void dequant_bf16(const void *row, float *out, size_t k) {
    for (size_t i = 0; i < k; i++) {
        uint16_t h;
        memcpy(&h, (const uint8_t *)row + 2 * i, sizeof h);
        out[i] = bf16_to_f32(h);
    }
}

static inline void matmul_floats(void (*dequant)(const void *, float *, size_t), size_t bytes, const struct matmul *m) {
    for (size_t r = m->row_begin; r < m->row_end; r++)
        for (size_t i = 0; i < m->n; i++) {
            const float *x = m->x->f32 + vector_of(m, i) * m->x->k;
            double sum = 0;
            for (size_t c = 0; c < m->k; c++) {
                float w;
                dequant(m->w + r * m->row_bytes + c * bytes, &w, 1);
                sum += (double)w * x[c];
            }
            m->y[i * m->ldy + r] = (float)sum;
        }
}

static void matmul_f32(const struct matmul *m) { matmul_floats(dequant_f32, 4, m); }
static void matmul_f16(const struct matmul *m) { matmul_floats(dequant_f16, 2, m); }
static void matmul_bf16(const struct matmul *m) { matmul_floats(dequant_bf16, 2, m); }

/* ---- activations ------------------------------------------------------------------------------------------------ */

/* One group of 32. Values below 2^-110 cannot matter beside any normal float and would overflow 127/max: they become zero.
 * A group that holds an infinity or a NaN gets the scale NaN, so that every product with it shows it. */
static void quantize_group(const float *x, int8_t *q, float *d, float *s32, int32_t *sum16) {
    float max = 0;
    bool finite = true;
    for (int i = 0; i < 32; i++) {
        finite = finite && isfinite(x[i]);
        max = fmaxf(max, fabsf(x[i]));
    }
    const bool usable = finite && max >= 0x1p-110f;
    const float inverse = usable ? 127 / max : 0;
    sum16[0] = sum16[1] = 0;
    for (int i = 0; i < 32; i++) {
        q[i] = usable ? (int8_t)lrintf(x[i] * inverse) : 0;
        sum16[i / 16] += q[i];
    }
    *d = usable ? max / 127 : finite ? 0 : NAN;
    *s32 = *d * (float)(sum16[0] + sum16[1]);
}

static void quantize(const struct acts *a, size_t begin, size_t end) {
    for (size_t g = begin * a->k / 32; g < end * a->k / 32; g++)
        quantize_group(a->f32 + g * 32, a->q + g * 32, a->d + g, a->s32 + g, a->sum16 + 2 * g);
}

void cpu_fill_quants_ref(struct cpu_ops *ops) {
    ops->types[TYPE_F32] = (struct cpu_type){dequant_f32, matmul_f32, false};
    ops->types[TYPE_F16] = (struct cpu_type){dequant_f16, matmul_f16, false};
    ops->types[TYPE_BF16] = (struct cpu_type){dequant_bf16, matmul_bf16, false};
    SET_TYPE(Q4_0, q4_0);
    SET_TYPE(Q4_1, q4_1);
    SET_TYPE(Q5_0, q5_0);
    SET_TYPE(Q5_1, q5_1);
    SET_TYPE(Q6_0, q6_0);
    SET_TYPE(Q8_0, q8_0);
    SET_TYPE(Q2_K, q2_k);
    SET_TYPE(Q3_K, q3_k);
    SET_TYPE(Q4_K, q4_k);
    SET_TYPE(Q5_K, q5_k);
    SET_TYPE(Q6_K, q6_k);
    ops->quantize = quantize;
}

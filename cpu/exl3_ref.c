/* The reference of EXL3: tiles decoded bit by bit as the format's document says, products and transforms in double. */
#include <string.h>

#include "cpu/exl3.h"

enum { VECTORS = 16 /* that share one decoding of the tiles */ };

static uint16_t state_of(const uint8_t *tile, size_t bits, unsigned position) {
    const size_t words = 8 * bits, end = (position + 1) * bits, i = (end - 1) / 32;
    uint32_t high, low;
    memcpy(&high, tile + 4 * ((i + words - 1) % words), sizeof high);
    memcpy(&low, tile + 4 * i, sizeof low);
    return (uint16_t)(((uint64_t)high << 32 | low) >> (32 * (i + 1) - end));
}

static uint16_t value_of(uint16_t state, enum exl3_codebook codebook) {
    if (codebook == EXL3_MUL1) {
        const uint32_t x = state * EXL3_MUL1_FACTOR, sum = (x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24);
        return f32_to_f16((1024 + (float)sum) * f16_to_f32(EXL3_MUL1_SCALE) + f16_to_f32(EXL3_MUL1_OFFSET)); /* exact in binary32 */
    }
    const uint32_t x = codebook == EXL3_MCG ? state * EXL3_MCG_FACTOR : state * EXL3_3INST_FACTOR + EXL3_3INST_ADDEND;
    const uint32_t halves = (x & (EXL3_KEEP * 0x10001u)) ^ (EXL3_FLIP * 0x10001u);
    return f32_to_f16(f16_to_f32((uint16_t)halves) + f16_to_f32((uint16_t)(halves >> 16)));
}

void exl3_decode_tile(const uint8_t *tile, size_t bits, enum exl3_codebook codebook, uint16_t out[EXL3_TILE][EXL3_TILE]) {
    for (unsigned k = 0; k < EXL3_TILE; k++)
        for (unsigned n = 0; n < EXL3_TILE; n++)
            out[k][n] = value_of(state_of(tile, bits, 32 * (n % EXL3_GROUPS) + exl3_position(k, n / EXL3_GROUPS)), codebook);
}

static double half_at(const uint16_t *halves, size_t i) {
    uint16_t h;
    memcpy(&h, (const uint8_t *)halves + 2 * i, sizeof h);
    return f16_to_f32(h);
}

/* The orthonormal Hadamard transform (Sylvester's order) of 128 values in place. */
static void transform(double *x) {
    for (size_t stride = 1; stride < EXL3_BLOCK; stride *= 2)
        for (size_t i = 0; i < EXL3_BLOCK; i++) {
            if (i & stride) continue;
            const double u = x[i], v = x[i + stride];
            x[i] = u + v;
            x[i + stride] = u - v;
        }
    for (size_t i = 0; i < EXL3_BLOCK; i++) x[i] *= 0.088388347648318440550; /* 1 / sqrt(128) */
}

static void transform_input(const struct matmul *m, size_t vector, double *out) {
    const float *x = m->x->f32 + (m->index ? (size_t)m->index[vector] : vector) * m->x->k;
    for (size_t c = 0; c < m->k; c++) out[c] = x[c] * half_at(m->exl3->in_scale, c);
    for (size_t c = 0; c < m->k; c += EXL3_BLOCK) transform(out + c);
}

/* sum[v][n] += of tile row `kt` and the 128 outputs from `row` on */
static void add_tiles(const struct matmul *m, size_t kt, size_t row, const double *in, size_t n, double sum[VECTORS][EXL3_BLOCK]) {
    const size_t bits = exl3_bits(m), first = kt * (m->exl3->rows / EXL3_TILE) + row / EXL3_TILE;
    uint16_t w[EXL3_TILE][EXL3_TILE];
    for (size_t t = 0; t < EXL3_TILES; t++) {
        exl3_decode_tile(m->w + (first + t) * exl3_tile_bytes(bits), bits, m->exl3->codebook, w);
        for (size_t k = 0; k < EXL3_TILE; k++)
            for (size_t c = 0; c < EXL3_TILE; c++) {
                const double weight = f16_to_f32(w[k][c]);
                for (size_t v = 0; v < n; v++) sum[v][t * EXL3_TILE + c] += weight * in[v * m->k + kt * EXL3_TILE + k];
            }
    }
}

static void matmul_exl3(const struct matmul *m) {
    double *in = m->scratch, sum[VECTORS][EXL3_BLOCK];
    _Static_assert(VECTORS * sizeof(double) <= EXL3_PASS * sizeof(float), "room for the inputs");
    for (size_t first = 0; first < m->n; first += VECTORS) {
        const size_t n = m->n - first < VECTORS ? m->n - first : VECTORS;
        for (size_t v = 0; v < n; v++) transform_input(m, first + v, in + v * m->k);
        for (size_t row = m->row_begin; row < m->row_end; row += EXL3_BLOCK) {
            memset(sum, 0, sizeof sum);
            for (size_t kt = 0; kt < m->k / EXL3_TILE; kt++) add_tiles(m, kt, row, in, n, sum);
            for (size_t v = 0; v < n; v++) {
                transform(sum[v]);
                for (size_t r = 0; r < EXL3_BLOCK; r++)
                    m->y[(first + v) * m->ldy + row + r] = (float)(sum[v][r] * half_at(m->exl3->out_scale, row + r));
            }
        }
    }
}

void cpu_fill_exl3_ref(struct cpu_ops *ops) {
    for (int bits = 0; bits < EXL3_BITS; bits++) ops->types[TYPE_EXL3_1 + bits] = (struct cpu_type){NULL, matmul_exl3, false};
}

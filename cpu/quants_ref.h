/* What the reference files share: a quantized format is one function that opens a block into signed levels, and for each 16
 * weights a scale and an offset: w = scale * level - offset. Decoding and products follow from that (quants_ref.c).
 *
 * Private to the reference kernels; the faster ones have their own forms. */
#ifndef COLDSTREAM_CPU_QUANTS_REF_H
#define COLDSTREAM_CPU_QUANTS_REF_H

#include "cpu/cpu.h"

enum { GROUP = 16, GROUPS_MAX = QK_K / GROUP };

struct opened {
    float row_scale; /* in front of the row, of formats that have one: set before its first block is opened */
    int8_t level[QK_K];
    float scale[GROUPS_MAX], offset[GROUPS_MAX]; /* offset is zero where a format does not set it */
};

struct format {
    void (*open)(const void *block, struct opened *o);
    size_t weights, bytes; /* of a block */
    size_t row_meta;       /* bytes in front of a row: 0, or a row scale: 2 binary16, 4 binary32 */
};

void format_dequant(const struct format *f, const void *row, float *out, size_t k);
void format_matmul(const struct format *f, const struct matmul *m);

/* After open_<name>: dequant_<name> and matmul_<name>. */
#define QUANTIZED(name, block_weights, row_meta)                                                                               \
    static const struct format format_##name = {open_##name, block_weights, sizeof(struct block_##name), row_meta};            \
    static void dequant_##name(const void *row, float *out, size_t k) { format_dequant(&format_##name, row, out, k); }         \
    static void matmul_##name(const struct matmul *m) { format_matmul(&format_##name, m); }

#define SET_TYPE(suffix, name) ops->types[TYPE_##suffix] = (struct cpu_type){dequant_##name, matmul_##name, true}

/* ---- parts of a block: the orders of core/tensor.h, for weight i of it ------------------------------------------- */

static inline int code_in_planes(const uint8_t *qs, int i) { return qs[32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3; }
static inline int code_in_halves(const uint8_t *qs, int i) { return qs[16 * (i / 32) + i % 16] >> 4 * (i % 32 / 16) & 15; }
static inline int code_in_pairs(const uint8_t *qs, int i) { return qs[32 * (i / 64) + i % 32] >> 4 * (i / 32 % 2) & 15; }
static inline int high_bit(const uint8_t *qh, int i) { return qh[i % 32] >> i / 32 & 1; }
static inline int nibble(const uint8_t *a, int n) { return a[n / 2] >> 4 * (n % 2) & 15; }

/* The scale of all 32 weights of group g. */
static inline void set_group(struct opened *o, int g, float scale) { o->scale[2 * g] = o->scale[2 * g + 1] = scale; }

#endif

/* The CPU kernels: one table of functions, filled reference -> AVX2 -> AVX-512 as the machine and a mask allow.
 *
 * A variant overwrites what it has; everything else falls back by itself. Callers never test CPU features. Tables are const
 * after cpu_ops_init() and may be shared by any number of threads; kernels touch only their arguments and never print.
 * Adding an ISA: a file quants_<isa>.c / ops_<isa>.c exporting one cpu_fill_<isa>(), one bit here, one line in cpu.c. */
#ifndef COLDSTREAM_CPU_H
#define COLDSTREAM_CPU_H

#include "core/core.h"
#include "core/tensor.h"

enum cpu_isa { ISA_REF, ISA_AVX2, ISA_AVX512 /* F+BW+VL+DQ+VNNI */, ISA_COUNT };

const char *cpu_isa_name(enum cpu_isa isa);                    /* "ref", "avx2", "avx512" */
bool cpu_isa_from_name(struct span name, enum cpu_isa *out);
enum cpu_isa cpu_isa_best(void);                               /* the highest this machine has */

/* ---- activations prepared for matmul ---------------------------------------------------------------------------
 * n vectors of k floats, and (when a quantized weight type wants it) their int8 form: one scale per 32 values,
 * d = max|x|/127, q = round to nearest even of x * (127/max|x|). Sums let kernels fold an additive weight offset into one
 * product: s32 = d * sum of the 32 q, sum16 = sum of each 16 q. A group whose max is below 2^-110 is zero; one that holds an
 * infinity or NaN has d = NaN. Bit-identical in all variants. Arrays are [n][...], owned by the caller. k % 32 == 0 for the
 * int8 form. */
struct acts {
    size_t n, k;
    const float *f32; /* [n][k]; always present */
    int8_t *q;        /* [n][k] */
    float *d;         /* [n][k/32] */
    float *s32;       /* [n][k/32] */
    int32_t *sum16;   /* [n][k/16] */
};

uint64_t acts_bytes(size_t n, size_t k); /* room for the int8 form of n vectors */
/* Point q, d, s32, sum16 into `room` (64-byte aligned, acts_bytes(n, k) long). */
void acts_layout(struct acts *a, void *room);

/* ---- matrix times activations -------------------------------------------------------------------------------- */

/* y[i][r] = sum_c W[r][c] * x[index ? index[i] : i][c], for rows r in [row_begin, row_end) and i in [0, n). */
struct matmul {
    const uint8_t *w;     /* row 0; rows are row_bytes apart; any alignment */
    size_t row_bytes;
    size_t k;             /* columns; what tensor_row_bytes() accepted */
    size_t row_begin, row_end;
    const struct acts *x;
    const int32_t *index; /* [n] vectors of x to use, or NULL for 0..n-1 */
    size_t n;
    float *y;             /* y[i * ldy + r]: r counts from row 0 */
    size_t ldy;
    void *scratch;        /* 64-byte aligned, matmul_scratch_bytes(k) long, one per thread */
    const struct exl3_matrix *exl3; /* of EXL3 types, else NULL */
};

/* What an EXL3 product needs beside the trellis (core/tensor.h): y = out_scale . H(H(in_scale . x) W), H the orthonormal Hadamard
 * transform of each 128 values. row_begin and row_end are multiples of 128. */
struct exl3_matrix {
    const uint16_t *in_scale, *out_scale; /* binary16 [k], [rows]; any alignment */
    size_t rows;                          /* all of the matrix: its tiles of one input group follow each other */
    enum exl3_codebook codebook;
};

struct cpu_type {
    /* Exact value of one row: k floats. NULL: the type has no rows (EXL3), or no kernels in this build. */
    void (*dequant)(const void *row, float *out, size_t k);
    /* The product above: a bandwidth-bound matrix-vector form for n <= 4, a blocked form for more, whose roundings differ.
     * Within either, y[i][r] depends on row r and its vector only: not on the slice, n, or the other vectors. Decoding is
     * fastest when a thread's slices follow each other in memory: in turns with another thread, 128 rows at a time, two
     * threads reached 78 % of a plain read, with one share each 90-96 %. */
    void (*matmul)(const struct matmul *m);
    bool int8_acts; /* matmul reads x->q, d, s32, sum16; else x->f32 only */
};

/* Causal attention of n consecutive query tokens over one layer's KV rows, for one KV head (a GQA group).
 * Position p's key is k + p*kv_stride (dh binary16), its value v + p*kv_stride. Query i stands at position first + i and
 * sees positions 0..first+i. Softmax in binary32 over scores q.k * scale. */
struct attention {
    const float *q;        /* q[i * q_stride + h * dh], h in [0, group): query heads that share this KV head */
    size_t q_stride, group, dh, n;
    const uint16_t *k, *v;
    const float *k32, *v32; /* attention_f32() reads these instead; k and v are NULL then */
    size_t kv_stride;      /* in elements */
    size_t first;          /* position of query 0 */
    float scale;
    float *out;            /* as q */
    size_t out_stride;
    void *scratch;         /* attention_scratch_bytes(), one per thread */
};

struct cpu_ops {
    enum cpu_isa isa;
    struct cpu_type types[TYPE_COUNT];

    /* a->f32 -> a->q, d, s32, sum16 for vectors [begin, end) */
    void (*quantize)(const struct acts *a, size_t begin, size_t end);
    /* out[i] = gain[i] * x[i] / sqrt(mean(x^2) + eps); sum of squares in double. out may be x. */
    void (*rmsnorm)(const float *x, const float *gain, size_t n, float eps, float *out);
    /* NeoX rotation of one head in place: (x_r, x_{r+half}) by the angle whose cos and sin are given, r < half */
    void (*rope)(float *x, const float *cos, const float *sin, size_t half);
    /* out[i] = silu(gate[i]) * up[i]; out may be gate */
    void (*swiglu)(const float *gate, const float *up, size_t n, float *out);
    void (*softmax)(float *x, size_t n);                      /* in place */
    void (*axpy)(float a, const float *x, size_t n, float *y); /* y += a * x */
    void (*to_f16)(const float *x, size_t n, uint16_t *out);
    void (*attention)(const struct attention *a);
    void (*attention_f32)(const struct attention *a); /* over a binary32 cache: for exact comparisons, reference speed */
};

/* Fill the table up to `limit` (never above what the machine has). */
void cpu_ops_init(struct cpu_ops *ops, enum cpu_isa limit);

uint64_t matmul_scratch_bytes(size_t k); /* about 144 bytes a column and 70 KB */
uint64_t attention_scratch_bytes(size_t group, size_t dh);

/* Filled by the files of one instruction set each; called by cpu.c only. */
void cpu_fill_quants_ref(struct cpu_ops *ops);
void cpu_fill_grids_ref(struct cpu_ops *ops);  /* IQ1, IQ2, IQ3 */
void cpu_fill_levels_ref(struct cpu_ops *ops); /* IQ4, MXFP4, those of ik_llama.cpp */
void cpu_fill_ops_ref(struct cpu_ops *ops);
void cpu_fill_exl3_ref(struct cpu_ops *ops);
void cpu_fill_exl3_avx2(struct cpu_ops *ops);
void cpu_fill_exl3_avx512(struct cpu_ops *ops);
bool cpu_fill_exl3_fp16_avx512(struct cpu_ops *ops); /* false: not built in; where the machine has AVX512-FP16 and VBMI2 */
void cpu_fill_quants_avx2(struct cpu_ops *ops);
void cpu_fill_formats_avx2(struct cpu_ops *ops);
void cpu_fill_ops_avx2(struct cpu_ops *ops);
void cpu_fill_quants_avx512(struct cpu_ops *ops);
void cpu_fill_formats_avx512(struct cpu_ops *ops);
void cpu_fill_ops_avx512(struct cpu_ops *ops);

#endif

/* What the EXL3 kernels share: where a weight stands in a tile, the codebooks' constants, the scratch of a product. Tests of the
 * decoder include it too.
 *
 * A tile is 256 weights of 16 inputs x 16 outputs in 8 * bits words of 32 bits. Its bits form a stream, most significant first
 * within a word; weight p is chosen by the 16 bits that end with bit (p + 1) * bits - 1, around the end of the tile. The words
 * g * bits .. g * bits + bits - 1 hold the weights of outputs g and g + 8, so a tile is eight groups of two columns. */
#ifndef COLDSTREAM_EXL3_H
#define COLDSTREAM_EXL3_H

#include "cpu/cpu.h"

enum {
    EXL3_BLOCK = 128, /* values that one Hadamard transform mixes */
    EXL3_TILE = 16,
    EXL3_TILES = EXL3_BLOCK / EXL3_TILE,
    EXL3_GROUPS = 8,
    EXL3_BITS = 8,    /* at most */
    EXL3_PASS = 36,   /* most vectors that one decoding of the weights serves */
    EXL3_CHUNK = 16   /* input tiles whose weights are held as floats at a time */
};

#define EXL3_NORM 0.088388347648f /* 1 / sqrt(128) */

/* Codebooks 0 and 1: state * factor + addend, masked, each half a binary16; the weight is the halves' sum, rounded to
 * binary16. Codebook 2: the sum of the bytes of state * factor times a scale, plus an offset, rounded once. */
#define EXL3_3INST_FACTOR 89226354u
#define EXL3_3INST_ADDEND 64248484u
#define EXL3_MCG_FACTOR 0xcbac1fedu
#define EXL3_MUL1_FACTOR 0x83dcd12du
enum { EXL3_KEEP = 0x8fff, EXL3_FLIP = 0x3b60, EXL3_MUL1_SCALE = 0x1eee, EXL3_MUL1_OFFSET = 0xc931 };

/* Stream position of the weight of input k and output `group` + 8 * half, less 32 * group. */
static inline unsigned exl3_position(unsigned k, unsigned half) {
    return (k & 1) | (k >> 3 & 1) << 1 | half << 2 | (k >> 1 & 3) << 3;
}

static inline size_t exl3_bits(const struct matmul *m) { return 8 * m->row_bytes / m->k; }
static inline size_t exl3_tile_bytes(size_t bits) { return 32 * bits; }

/* Scratch of a fast product of k inputs. */
struct exl3_room {
    _Alignas(64) float panel[EXL3_CHUNK][EXL3_TILE][EXL3_TILE]; /* weights: [input tile][output][input] */
    float sums[EXL3_PASS][EXL3_TILE][EXL3_TILE];                /* [vector][output][input mod 16] */
    float out[EXL3_PASS][EXL3_BLOCK];                           /* before the output's transform */
    float in[];                                                 /* [EXL3_PASS][k] transformed inputs */
};
static inline uint64_t exl3_scratch_bytes(size_t k) { return sizeof(struct exl3_room) + (uint64_t)EXL3_PASS * k * sizeof(float); }

/* The reference: binary16 weights of a tile, [input][output]. */
void exl3_decode_tile(const uint8_t *tile, size_t bits, enum exl3_codebook codebook, uint16_t out[EXL3_TILE][EXL3_TILE]);

#endif

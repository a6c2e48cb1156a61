/* Which of this file's functions encodes which type: the last of the headers of encode_levels_<isa>.c. */
#ifndef COLDSTREAM_ENCODE_FIND_H
#define COLDSTREAM_ENCODE_FIND_H

#include "cpu/encode_rows.h"

#define SMALL(name)                                                                                                            \
    static void encode_##name(const float *x, const float *w, size_t k, void *out) {                                           \
        encode_small(&recipe_##name, x, w, k, out);                                                                            \
    }
#define SUPER(name)                                                                                                            \
    static void encode_##name(const float *x, const float *w, size_t k, void *out) {                                           \
        encode_supers(&recipe_##name, x, w, k, out);                                                                           \
    }
#define ROW(name, meta_bytes)                                                                                                  \
    static void encode_##name(const float *weights, const float *importance, size_t k, void *row) {                            \
        encode_row_scaled(&recipe_##name, meta_bytes, weights, importance, k, row);                                            \
    }

SMALL(q4_0)
SMALL(q5_0)
SMALL(q6_0)
SMALL(q8_0)
SMALL(iq4_nl)
SUPER(q3_k)
SUPER(q6_k)
SUPER(iq4_xs)
SUPER(iq2_k)
SUPER(iq3_k)
SUPER(iq4_k)
SUPER(iq5_k)
SUPER(iq6_k)
ROW(iq4_ks, 4)
ROW(iq4_kss, 4)
ROW(iq5_ks, 4)
ROW(iq2_ks, 2)
ROW(iq3_ks, 2)
ROW(iq2_kl, 2)

static struct encoder find_levels(enum tensor_type type) {
    switch (type) {
    case TYPE_Q4_0: return (struct encoder){.blocks = encode_q4_0};
    case TYPE_Q4_1: return (struct encoder){.blocks = encode_q4_1};
    case TYPE_Q5_0: return (struct encoder){.blocks = encode_q5_0};
    case TYPE_Q5_1: return (struct encoder){.blocks = encode_q5_1};
    case TYPE_Q6_0: return (struct encoder){.blocks = encode_q6_0};
    case TYPE_Q8_0: return (struct encoder){.blocks = encode_q8_0};
    case TYPE_IQ4_NL: return (struct encoder){.blocks = encode_iq4_nl};
    case TYPE_MXFP4: return (struct encoder){.blocks = encode_mxfp4};
    case TYPE_Q2_K: return (struct encoder){.blocks = encode_q2_k};
    case TYPE_Q3_K: return (struct encoder){.blocks = encode_q3_k};
    case TYPE_Q4_K: return (struct encoder){.blocks = encode_q4_k};
    case TYPE_Q5_K: return (struct encoder){.blocks = encode_q5_k};
    case TYPE_Q6_K: return (struct encoder){.blocks = encode_q6_k};
    case TYPE_IQ4_XS: return (struct encoder){.blocks = encode_iq4_xs};
    case TYPE_IQ2_K: return (struct encoder){.blocks = encode_iq2_k};
    case TYPE_IQ3_K: return (struct encoder){.blocks = encode_iq3_k};
    case TYPE_IQ4_K: return (struct encoder){.blocks = encode_iq4_k};
    case TYPE_IQ5_K: return (struct encoder){.blocks = encode_iq5_k};
    case TYPE_IQ6_K: return (struct encoder){.blocks = encode_iq6_k};
    case TYPE_IQ4_KS: return (struct encoder){.row = encode_iq4_ks};
    case TYPE_IQ4_KSS: return (struct encoder){.row = encode_iq4_kss};
    case TYPE_IQ5_KS: return (struct encoder){.row = encode_iq5_ks};
    case TYPE_IQ2_KS: return (struct encoder){.row = encode_iq2_ks};
    case TYPE_IQ3_KS: return (struct encoder){.row = encode_iq3_ks};
    case TYPE_IQ2_KL: return (struct encoder){.row = encode_iq2_kl};
    default: return (struct encoder){0};
    }
}

#endif

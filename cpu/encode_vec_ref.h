/* Eight floats for any machine, under the names that encode_one.h and its kin are written in. encode_vec_avx2.h has the same
 * names and gives the same bits: nothing here rounds otherwise, and no compiler flag of ours contracts a product and a sum. */
#ifndef COLDSTREAM_ENCODE_VEC_REF_H
#define COLDSTREAM_ENCODE_VEC_REF_H

typedef float f8 __attribute__((vector_size(32)));
enum { LANES = 8 };

static inline f8 set8(float x) { return (f8){x, x, x, x, x, x, x, x}; }
/* x where a < b, else y; y where either is NaN */
static inline f8 where_less(f8 a, f8 b, f8 x, f8 y) {
    for (int i = 0; i < LANES; i++) y[i] = a[i] < b[i] ? x[i] : y[i];
    return y;
}
static inline f8 min8(f8 a, f8 b) { return where_less(a, b, a, b); } /* b where either is NaN, as below */
static inline f8 max8(f8 a, f8 b) { return where_less(b, a, a, b); }
static inline f8 abs8(f8 a) { return max8(a, -a); }
/* table[index], of indices that are whole */
static inline f8 look_up(const float *table, f8 index) {
    f8 out;
    for (int i = 0; i < LANES; i++) out[i] = table[(int)index[i]];
    return out;
}

#endif

/* Eight floats of AVX2 under the names that encode_one.h and its kin are written in; encode_vec_ref.h explains them. */
#ifndef COLDSTREAM_ENCODE_VEC_AVX2_H
#define COLDSTREAM_ENCODE_VEC_AVX2_H

#include <immintrin.h>

typedef float f8 __attribute__((vector_size(32))); /* __m256, but for what it may alias */
enum { LANES = 8 };

static inline f8 set8(float x) { return _mm256_set1_ps(x); }
static inline f8 where_less(f8 a, f8 b, f8 x, f8 y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
static inline f8 min8(f8 a, f8 b) { return _mm256_min_ps(a, b); }
static inline f8 max8(f8 a, f8 b) { return _mm256_max_ps(a, b); }
static inline f8 abs8(f8 a) { return _mm256_max_ps(a, -a); }
static inline f8 look_up(const float *table, f8 index) { return _mm256_i32gather_ps(table, _mm256_cvttps_epi32(index), 4); }

#endif

/* AVX-512 attention; the code is attention_vec.h. */
#include "cpu/attention.h"
#include "cpu/vec_avx512.h"

#include "cpu/attention_vec.h"

void attention_avx512(const struct attention *a) { attention_tiled(a); }

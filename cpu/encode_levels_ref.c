/* Writing the types with levels on a line, for any machine; the code is in the headers. */
#include "cpu/encode_vec_ref.h"

#include "cpu/encode_find.h"

struct encoder encode_find_levels_ref(enum tensor_type type) {
    return find_levels(type);
}

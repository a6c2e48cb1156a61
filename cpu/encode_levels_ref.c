/* Writing the types with levels on a line, for any machine: the code is encode_levels.h. */
#include "cpu/encode_private.h"

struct encoder encode_find_levels_ref(enum tensor_type type) {
    (void)type;
    return (struct encoder){0};
}

/* Writing the types with codebooks: none yet. */
#include "cpu/encode_private.h"

struct encoder encode_find_codebook(enum tensor_type type, enum cpu_isa isa) {
    (void)type;
    (void)isa;
    return (struct encoder){0};
}

/* Shape of the generated tables; only unicode.c and unicode_tables.c look at it. */
#ifndef COLDSTREAM_UNICODE_TABLES_H
#define COLDSTREAM_UNICODE_TABLES_H

#include <stdint.h>

enum { UNICODE_BLOCK = 128, UNICODE_NOT_INERT = 4 }; /* code points a block; bits 0-1 of a property are enum char_class */

struct unicode_ccc_range {
    uint32_t first, last;
    uint8_t ccc;
};

struct unicode_decomposition { /* sorted by code; b = 0: a singleton */
    uint32_t code, a, b;
};

extern const uint32_t unicode_n_index, unicode_n_ccc, unicode_n_decompositions, unicode_n_composites;
extern const uint8_t unicode_index[];                       /* code / UNICODE_BLOCK -> block */
extern const uint64_t unicode_blocks[][8];                  /* four bits a code point, low bits first */
extern const struct unicode_ccc_range unicode_ccc_ranges[]; /* sorted; absent means class 0 */
extern const struct unicode_decomposition unicode_decompositions[];
extern const uint16_t unicode_composites[]; /* rows of the above, sorted by (a, b) */

#endif

/* The qwen2 pre-tokenizer: cuts text into the pieces that merges never cross. */
#ifndef COLDSTREAM_PRETOKENIZE_H
#define COLDSTREAM_PRETOKENIZE_H

#include "core/core.h"

/* End of the piece that starts at byte `start` < s.len. `s` is one segment of valid UTF-8 (its end counts as a boundary) and
 * `start` a piece boundary. Covering a segment piece by piece reads every byte a bounded number of times. */
size_t pretokenize_piece_end(struct span s, size_t start);

#endif

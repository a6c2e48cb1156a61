/* Log-probabilities of a model over a text, in llama-perplexity's file format, so that two runtimes can be compared.
 *
 * Little-endian, no padding:
 *     8 bytes  "_logits_"
 *     i32      n_ctx      tokens in a chunk
 *     i32      n_vocab
 *     i32      n_chunk
 *     i32      tokens     [n_chunk * n_ctx] of the text
 *     records  [n_chunk * (n_ctx - 1 - n_ctx/2)]
 * Record j of a chunk is what the model says after token n_ctx/2 + j; it is scored on token n_ctx/2 + j + 1. A record is
 *     f32      step       (largest logit - floor) / 65535
 *     f32      low        ln p at the floor
 *     u16      code       [n_vocab], and one unused when n_vocab is odd
 * with ln p = low + step * code. The floor is the smallest logit, or the largest minus 24 when that is higher. */
#ifndef COLDSTREAM_LOGPROBS_H
#define COLDSTREAM_LOGPROBS_H

#include <stdio.h>

#include "core/core.h"

struct logprobs_shape {
    int32_t n_ctx, n_vocab, n_chunk;
};
static inline size_t logprobs_scored(int32_t n_ctx) { return (size_t)(n_ctx - 1 - n_ctx / 2); } /* records a chunk */
static inline size_t logprobs_record_words(int32_t n_vocab) { return 4 + (size_t)n_vocab + (n_vocab & 1); } /* u16 */

/* One file being written or read. Written under NAME.part and renamed by logprobs_finish(), so that a name never holds half. */
struct logprobs {
    const char *path;
    char *part_path; /* NULL when reading */
    FILE *file;
    struct logprobs_shape shape;
    int32_t *tokens; /* when reading */
};

enum err logprobs_create(const char *path, struct logprobs_shape shape, const int32_t *tokens, struct logprobs *out,
                         struct reason *why) MUST_USE;
enum err logprobs_write(struct logprobs *l, const uint16_t *record, struct reason *why) MUST_USE;
enum err logprobs_finish(struct logprobs *l, struct reason *why) MUST_USE;

/* Checks the header, the token ids and the size of the file. */
enum err logprobs_open(const char *path, struct logprobs *out, struct reason *why) MUST_USE;
enum err logprobs_read(struct logprobs *l, uint16_t *record, struct reason *why) MUST_USE;

void logprobs_close(struct logprobs *l); /* accepts half-built ones; removes an unfinished NAME.part */

/* ln of the sum of exp(logits[i] - max); *max and *argmax (first of equals) come with it. */
double logprobs_log_sum(const float *logits, size_t n, float *max, size_t *argmax);
/* `record`: [logprobs_record_words(n_vocab)] */
void logprobs_encode(const float *logits, int32_t n_vocab, float max, double log_sum, uint16_t *record);
static inline float logprobs_step(const uint16_t *record) {
    float f;
    __builtin_memcpy(&f, record, 4);
    return f;
}
static inline float logprobs_low(const uint16_t *record) {
    float f;
    __builtin_memcpy(&f, record + 2, 4);
    return f;
}

#endif

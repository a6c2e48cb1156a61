/* How far a model's distributions are from those of a base: llama-perplexity's statistics, added up position by position. */
#ifndef COLDSTREAM_DIVERGENCE_H
#define COLDSTREAM_DIVERGENCE_H

#include "core/core.h"

/* Sums for a mean and its standard error. */
struct moments {
    double sum, squares;
};

struct divergence {
    size_t n, cap; /* positions so far, room of the two arrays */
    struct moments nll, base_nll, kld, p_diff, p_diff2;
    double nll_product; /* of nll and base_nll, for their correlation */
    size_t same_top;
    float *klds, *p_diffs; /* [n] for the percentiles */
};

enum err divergence_open(size_t positions, struct divergence *out, struct reason *why) MUST_USE;
void divergence_close(struct divergence *d);
/* One position: this model's logits, the base's record (logprobs.h), and the token that really follows. */
void divergence_add(struct divergence *d, const float *logits, int32_t n_vocab, const uint16_t *base, int32_t token);
/* A row a chunk, its title, and the closing tables. */
void divergence_title(struct text *out);
void divergence_row(const struct divergence *d, int chunk, struct text *out);
void divergence_tables(struct divergence *d, struct text *out); /* sorts the arrays */

#endif

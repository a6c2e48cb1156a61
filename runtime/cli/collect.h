/* Gathers an importance matrix while a model runs: engine_options.on_input adds to the sums of the weights that take the input.
 */
#ifndef COLDSTREAM_COLLECT_H
#define COLDSTREAM_COLLECT_H

#include "engine/engine.h"
#include "model/imatrix.h"

enum { COLLECT_SHARERS = 3 /* weights with the same input, at most */ };

struct collector {
    struct imatrix sums;
    /* [n_layers + 1][INPUT_COUNT]; the last layer is the head. NULL: not collected. They belong to `sums`. */
    struct imatrix_entry *(*weights)[COLLECT_SHARERS];
    double *columns; /* [widest] a call's sums */
    uint32_t n_layers;
    double chunk_tokens, experts_share; /* tokens, and of each the part that an expert sees, on average */
    const char *bad;                    /* a weight whose input was not finite: its sums are spoilt */
};

/* Entries of zeros for every matrix of the model, the head's only on request; those of `sums` (taken over, also on failure) go
 * on from where they are, and have to fit the model. Chunks that a .dat file counted are taken to be of `chunk_tokens`. */
enum err collect_open(const struct model *m, bool head, uint32_t chunk_tokens, struct imatrix *sums, struct collector *out,
                      struct reason *why) MUST_USE;
void collect_close(struct collector *c); /* closed and zeroed ones too */
/* For engine_options.on_input; ctx: the collector. One caller at a time. Before collect_open() nothing happens. */
void collect_input(void *ctx, enum engine_input which, uint32_t layer, int32_t expert, const struct engine_rows *rows);

/* How many experts of how many layers got few rows: a summary, and a line for each layer concerned. */
void collect_coverage(const struct imatrix *m, struct text *out);
/* A table of all weights: sizes, spread and concentration of their columns' mean squares. */
void collect_statistics(const struct imatrix *m, struct text *out);

#endif

/* Which expert should move into VRAM next, and whose place it takes: scores and hysteresis alone.
 *
 * No I/O, no clock, no threads; the caller serialises and says where experts are. Scores are those of cache.h with a longer
 * memory: what a move costs (a copy over the link, later a read of the one that left) is earned back over many tokens. Slots
 * come in classes (experts of one size); an expert only takes the place of one of its class. */
#ifndef COLDSTREAM_RESIDENCY_H
#define COLDSTREAM_RESIDENCY_H

#include "core/core.h"

struct residency_options {
    uint32_t n_layers, n_experts, n_used, n_classes;
    const uint8_t *layer_class; /* [n_layers] */
    const bool *may_move;       /* [n_layers] false: the layer's experts stay where they are */
    const float *prior;         /* [n_layers * n_experts] uses a token expected by a profile; NULL: none */
    float half_life;            /* tokens; 0: 512 */
    /* A newcomer's score a is above the victim's b by lead + noise * sqrt(a + b): counts of experts that are chosen alike differ by
     * chance, the luckiest outside and the unluckiest inside by a lot. 0: 2 uses, and 3. */
    float lead, noise;
};

struct residency;

enum err residency_open(const struct residency_options *options, struct residency **out, struct reason *why) MUST_USE;
void residency_close(struct residency **r);

/* The expert has a place in VRAM, or none. All have none at the beginning. */
void residency_set(struct residency *r, uint32_t layer, uint32_t expert, bool there);

/* Choices of `n_tokens` tokens [n_tokens][n_used] at a layer, and the end of a batch, as cache_use() and cache_advance(). */
void residency_use(struct residency *r, uint32_t layer, const int32_t *experts, uint32_t n_tokens);
void residency_advance(struct residency *r, uint32_t n_tokens);

struct residency_move {
    uint32_t layer, expert;               /* moves in */
    uint32_t victim_layer, victim_expert; /* moves out */
};
/* The move with the largest lead among experts that available() says can be moved now. False: nobody is warm enough. Looks at
 * every expert: not for every token. */
bool residency_next(const struct residency *r, bool (*available)(void *ctx, uint32_t layer, uint32_t expert), void *ctx,
                    struct residency_move *out);

#endif

/* Routes: which experts the router chose for each token at each layer, recorded from a run or made up, to be replayed through
 * the expert cache (bench/replay). Pure: no files.
 *
 * A routes file, little-endian:
 *
 *      0  "CSROUTES"
 *      8  u32 version (1), layers, experts, experts used, tokens, turns, flags, 0
 *     40  turns times: u32 prompt tokens, u32 decode tokens; in all `tokens`
 *         tokens x layers x used: u16 expert, likeliest first
 *         when flags has bit 0, the same again: what the look-ahead expected there, 65535 for nothing
 *
 * A turn is a prompt, which went through the layers in batches, and the tokens decoded after it one by one. */
#ifndef COLDSTREAM_ROUTES_H
#define COLDSTREAM_ROUTES_H

#include "core/core.h"

enum { ROUTES_NOTHING = 65535, ROUTES_MAX_LAYERS = 4096, ROUTES_MAX_EXPERTS = 4096, ROUTES_MAX_USED = 64 };

struct routes_turn {
    uint32_t prompt_tokens, decode_tokens;
};

struct routes {
    uint32_t n_layers, n_experts, n_used, n_tokens, n_turns;
    struct routes_turn *turns; /* [n_turns] */
    uint16_t *chosen;          /* [n_tokens][n_layers][n_used] */
    uint16_t *expected;        /* the same; NULL: there was no look-ahead */
    uint32_t room_tokens, room_turns; /* allocated */
};

/* No tokens yet. ERR_ARGUMENT when the shape is out of range. */
enum err routes_open(uint32_t n_layers, uint32_t n_experts, uint32_t n_used, bool expected, struct routes *out,
                     struct reason *why) MUST_USE;
void routes_close(struct routes *r);

/* What is appended next belongs to a new turn, unless the last one is empty. */
enum err routes_begin_turn(struct routes *r, struct reason *why) MUST_USE;
/* Append tokens, to be set layer by layer; a prompt after decoded tokens begins a new turn. The first has the number that
 * r->n_tokens was; until set, 0, 1, ... are chosen and nothing is expected. */
enum err routes_append(struct routes *r, uint32_t n_tokens, bool prompt, struct reason *why) MUST_USE;
/* experts[n_used], distinct */
void routes_choose(struct routes *r, uint32_t token, uint32_t layer, const int32_t *experts);
/* `n` at most n_used */
void routes_expect(struct routes *r, uint32_t token, uint32_t layer, const int32_t *experts, uint32_t n);

static inline const uint16_t *routes_chosen(const struct routes *r, uint32_t token, uint32_t layer) {
    return r->chosen + ((size_t)token * r->n_layers + layer) * r->n_used;
}

static inline const uint16_t *routes_expected(const struct routes *r, uint32_t token, uint32_t layer) {
    return r->expected ? r->expected + ((size_t)token * r->n_layers + layer) * r->n_used : NULL;
}

/* A routes file: untrusted. On failure *out is empty. */
enum err routes_parse(struct span bytes, struct routes *out, struct reason *why) MUST_USE;
void routes_write(const struct routes *r, struct text *out);

#endif

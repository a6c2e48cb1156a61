/* Which experts have a slot in RAM and which one leaves next: bookkeeping alone.
 *
 * No I/O, no clock, no threads; the caller serialises. The engine's expert store and bench/replay use this same code, so that a
 * replayed trace meets the decisions the engine would have taken. Slots come in classes (experts of one size); a layer belongs
 * to one class. Time is counted in tokens.
 *
 * Policy (LFRU): score = uses decayed with a half-life in tokens, remembered for every expert whether it is here or not, plus
 * what a profile expects. The lowest score leaves, but never one that is held or loading, and one that is used in the current
 * batch, expected by the look-ahead, or whose layer is at its floor only when there is nobody else. */
#ifndef COLDSTREAM_CACHE_H
#define COLDSTREAM_CACHE_H

#include "core/core.h"

enum cache_policy { CACHE_LFRU, CACHE_LRU /* for comparison */ };

struct cache_options {
    uint32_t n_layers, n_experts, n_used; /* n_used: experts a token, also the floor of a layer where slots allow */
    uint32_t n_classes;
    const uint8_t *layer_class; /* [n_layers] */
    const uint32_t *slots;      /* [n_classes] >= 1; slot ids run through class 0, then class 1, ... */
    enum cache_policy policy;
    float half_life;            /* tokens; 0: the default */
    const float *prior;         /* [n_layers * n_experts] uses a token expected by a profile; NULL: none */

    /* For experiments (bench/replay); 0: the default. */
    float prior_weight;         /* tokens of seeing it that the prior is worth */
    uint32_t floor;             /* slots a layer; n_used */
    uint32_t ring;              /* slots a class that passing experts may take from the decode set */
};

/* Why a slot is wanted. */
enum cache_cause {
    CACHE_DEMAND,  /* chosen by the router, decode: displaces the coldest */
    CACHE_PASSING, /* chosen in a long prompt: takes free slots, then that of a clearly colder expert of a layer the prompt is
                    * through with; else those other passing experts are done with, then up to a ring of the coldest. The rest
                    * of the decode set stays */
    CACHE_AHEAD,   /* predicted for the next layer: displaces only what was not used in the last tokens and is not predicted */
    CACHE_FILL     /* background: takes free slots only */
};

struct cache;

enum err cache_open(const struct cache_options *options, struct cache **out, struct reason *why) MUST_USE;
void cache_close(struct cache **cache);

uint32_t cache_slots(const struct cache *c);
/* The slot bound to an expert, ready or loading; -1: none. */
int32_t cache_find(const struct cache *c, uint32_t layer, uint32_t expert);
bool cache_is_ready(const struct cache *c, int32_t slot);
/* What a slot is bound to; false: free. */
bool cache_content(const struct cache *c, int32_t slot, uint32_t *layer, uint32_t *expert);

/* Count the choices of `n_tokens` tokens, experts[n_tokens][n_used] (negative: none), the last token the most recent. From 16 tokens on it is a
 * prompt (or the next piece of one): layers in ascending order; at its beginning older counts fade to a quarter. */
void cache_use(struct cache *c, uint32_t layer, const int32_t *experts, uint32_t n_tokens);
/* `n_tokens` went through all layers, or (0) the batch was given up. */
void cache_advance(struct cache *c, uint32_t n_tokens);
/* Experts the look-ahead expects in `layer`: kept until that layer was used. */
void cache_expect(struct cache *c, uint32_t layer, const int32_t *experts, uint32_t n);

/* Bind a slot to an expert that has none: a free one, or one whose expert leaves now. It is loading until cache_landed(); to
 * keep it after that, hold it before. -1: none may leave at the moment. For CACHE_DEMAND that means that every slot of the
 * class is held or loading; for CACHE_PASSING also that a whole ring of passing experts is: finish some of them first. */
int32_t cache_take(struct cache *c, uint32_t layer, uint32_t expert, enum cache_cause cause);
/* Loading ended: the expert is ready, or (not ok) bound to nothing; the slot is then free once its holds are released. */
void cache_landed(struct cache *c, int32_t slot, bool ok);
/* A held slot does not leave. Holds are counted. Holding a loading one is allowed. */
void cache_hold(struct cache *c, int32_t slot);
void cache_release(struct cache *c, int32_t slot);
/* The slot's expert leaves now and the slot is free; nothing happens while it is held or loading. */
void cache_drop(struct cache *c, int32_t slot);

/* The expert to fetch next in the background: the one with the highest score that has no slot, of a class with free slots.
 * Without any knowledge: layer by layer. False: no free slot, or everything is here. */
bool cache_next_fill(const struct cache *c, uint32_t *layer, uint32_t *expert);

/* The expert has a place in a faster tier: cache_next_fill() passes it over. */
void cache_set_elsewhere(struct cache *c, uint32_t layer, uint32_t expert, bool elsewhere);

float cache_score(const struct cache *c, uint32_t layer, uint32_t expert);
uint32_t cache_layer_count(const struct cache *c, uint32_t layer); /* slots bound to the layer */

#endif

/* The expert store: slots in RAM under a budget, filled from the model file on demand, ahead of need and in the background.
 *
 * Between experts_enter() and experts_leave() the store belongs to one graph run, and one of its workers at a time calls the
 * functions marked "run". Outside, a background thread owns it and fills free slots, hottest experts first. Which slot an
 * expert gets is placement/cache.h's decision, how its bytes arrive is fetch.h's; nothing here depends on when they arrive, so
 * neither does any result. */
#ifndef COLDSTREAM_EXPERTS_H
#define COLDSTREAM_EXPERTS_H

#include "engine/engine.h"
#include "engine/fetch.h"
#include "engine/timeline.h"
#include "model/model.h"
#include "placement/plan.h"

enum {
    EXPERT_MATRICES = 3, /* gate, up, down */
    LOOK_LAYERS = 2      /* how far ahead experts can be expected */
};

struct experts_options {
    const struct model *model;
    struct fetch *fetch;    /* used by the store alone from here on; closed by the caller after the store */
    const struct plan *plan;/* its slot classes and RAM slots; used during experts_open() */
    const float *prior;     /* [layers][experts] uses a token a profile expects, or NULL; used during experts_open() */
    bool look_ahead;
    struct timeline *timeline; /* NULL: none */
    struct log_sink log;
};

struct experts;

enum err experts_open(const struct experts_options *options, struct experts **out, struct reason *why) MUST_USE;
void experts_close(struct experts **experts);

/* Experts with a slot in VRAM (slot_of [layers * experts] not 0) are not for the background to bring. Before it is started. */
void experts_leave_out(struct experts *x, const uint32_t *slot_of);
uint64_t experts_bytes(const struct experts *x); /* of the slots */
/* The background's first work, before RAM is filled: a piece of it each time; false: there is nothing to do. Before it is started. */
void experts_fill_after(struct experts *x, bool (*get_on)(void *ctx), void *ctx);
/* End the background threads; they are not started again. */
void experts_stop_fill(struct experts *x);
/* Start the background thread. Until then nothing is read that nobody asked for. */
enum err experts_start_fill(struct experts *x, struct reason *why) MUST_USE;
/* Fill every slot that background filling would, now, on the caller's thread; before experts_start_fill(). */
enum err experts_fill(struct experts *x, bool (*on_load)(void *ctx, uint64_t done_bytes), void *ctx, struct reason *why) MUST_USE;

/* Take the store over for a run, or give it back; `tokens_done` 0: the run failed or was stopped. ERR_IO: a file is not as it was
 * when it was opened; the store is given back, and from experts_leave() it also means that the run's result must not be used. */
enum err experts_enter(struct experts *x, struct reason *why) MUST_USE;
enum err experts_leave(struct experts *x, uint32_t tokens_done, struct reason *why) MUST_USE;

/* ---- run -------------------------------------------------------------------------------------------------------- */

/* The distinct experts a batch of `n_tokens` chose at `layer`, with how many tokens each: their reads go out together. `chosen`
 * [n_tokens][n_used], tokens in order. Whatever was expected for this layer and not sent is dropped. */
struct expert_need {
    uint32_t expert;
    uint32_t tokens;
};
void experts_begin(struct experts *x, uint32_t layer, const struct expert_need *needs, uint32_t n_needs, const int32_t *chosen,
                   uint32_t n_tokens);

/* Experts to compute now: at least one, as many as are here (while others are on their way, no more than `most_tokens` worth of
 * work so that arrivals are seen). They stay where they are until the next experts_wave() or experts_end(). */
struct expert_at {
    uint32_t need;                            /* index into the needs given to experts_begin() */
    const uint8_t *matrix[EXPERT_MATRICES];   /* row 0 of gate, up, down */
    uint64_t row_bytes[EXPERT_MATRICES];      /* EXL3 experts of a layer may differ in it */
    const uint16_t *in_scale[EXPERT_MATRICES], *out_scale[EXPERT_MATRICES]; /* EXL3: their factors, any alignment; else NULL */
};
/* Its pieces in the order of struct vram_expert: of each matrix the weights, and of EXL3 (else NULL) its factors. */
static inline const uint8_t *expert_piece(const struct expert_at *at, uint32_t piece) {
    const uint32_t matrix = piece / 3;
    return piece % 3 == 0 ? at->matrix[matrix]
                          : (const uint8_t *)(piece % 3 == 1 ? at->in_scale[matrix] : at->out_scale[matrix]);
}
/* Returns how many; *more says whether another call has to follow. ERR_IO: a needed expert cannot be read (reason in `why`);
 * ERR_CANCELLED: should_stop() said so while waiting. After an error call experts_end(). */
enum err experts_wave(struct experts *x, uint32_t most_tokens, bool (*should_stop)(void *ctx), void *ctx, struct expert_at *out,
                      uint32_t *n, bool *more, struct reason *why) MUST_USE;
/* All needs computed, or given up. */
void experts_end(struct experts *x);

/* Should the router of the next layer be asked in advance? Constant between experts_begin() and the next one. */
bool experts_looks_ahead(const struct experts *x);
/* The distinct experts expected at `layer`, one of the LOOK_LAYERS to come; likeliest first. The latest word counts. */
void experts_expect(struct experts *x, uint32_t layer, const int32_t *experts, uint32_t n);
/* Between waves and layers, while the other workers compute: see what arrived, and, unless the layer still waits for reads of
 * its own, let the drive read what is expected or fill free slots. */
void experts_breathe(struct experts *x);

/* ---- run, between layers: experts that move to and from VRAM ---- */

uint32_t experts_slots(const struct experts *x, uint32_t layer); /* in RAM, that the layer shares with others of its class */
/* Is it in RAM now? */
bool experts_has(const struct experts *x, uint32_t layer, uint32_t expert);
/* Where it lies, if it is in RAM; it stays there until experts_return(), runs that end meanwhile included. */
bool experts_borrow(struct experts *x, uint32_t layer, uint32_t expert, struct expert_at *out);
void experts_return(struct experts *x, uint32_t layer, uint32_t expert);
/* It has a slot in VRAM now, and its room in RAM goes to others; or has none any more. */
void experts_set_elsewhere(struct experts *x, uint32_t layer, uint32_t expert, bool elsewhere);

/* Not during a run. */
void experts_count(struct experts *x, struct engine_io *out);

#endif

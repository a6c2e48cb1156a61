/* Experts on their way from the model's file to their places in VRAM, after the first token need not wait for them any more: what a
 * prompt needs at once, and else the hottest first, beside steps and while nothing runs.
 *
 * What has not come yet is the CPU's, as a miss. When everything has come, or a read has failed for good, there is nothing left to do
 * here; of a failure's experts the CPU has the care for good. Answers do not depend on it, but for the rounding of sums.
 * Belongs to the owner of the expert store: a run, or its background thread; one thread at a time has the device, too. */
#ifndef COLDSTREAM_ARRIVALS_H
#define COLDSTREAM_ARRIVALS_H

#include "engine/experts.h"
#include "engine/moves.h"
#include "engine/vram.h"

struct arrivals_options {
    struct vram *vram;       /* borrowed, as experts; opened with experts_later */
    struct experts *experts;
    struct moves *moves;     /* NULL: none; told what has come */
    const struct fetch_options *fetch; /* of its own reads; used during arrivals_open() */
    const float *prior;      /* as experts_options.prior; used during arrivals_open() */
    struct log_sink log;
};

struct arrivals;

uint64_t arrivals_host_bytes(const struct model *m); /* of RAM, until everything has come */
enum err arrivals_open(const struct arrivals_options *options, struct arrivals **out, struct reason *why) MUST_USE;
void arrivals_close(struct arrivals **arrivals); /* before the device's memory is freed */

bool arrivals_due(const struct arrivals *a); /* something is still to come; false for NULL */
bool arrivals_comes(const struct arrivals *a, uint32_t layer, uint32_t expert); /* this one is; false for NULL */
/* The choices of n tokens [n][n_used] at a layer. */
void arrivals_use(struct arrivals *a, uint32_t layer, const int32_t *experts, uint32_t n);

/* Before a step: what has come is announced, more is sent for. Never waits. */
void arrivals_before_step(struct arrivals *a);
/* In the background, while nothing runs: the same, waiting for a moment. False: there is nothing left to do. */
bool arrivals_in_background(void *arrivals);

/* A prompt needs some of a layer's experts that are to come: wanted[n_experts], 1. They are computed for the lane's batch as they come,
 * and wanted[] is 0 then. On any thread that has the device. */
void arrivals_bring(struct arrivals *a, const struct gpu_batch *b, uint32_t layer, uint8_t *wanted);
/* After arrivals_bring(), by the store's owner: steps and the store get to know of what has come. ERR_IO: a read failed. */
enum err arrivals_settle(struct arrivals *a, struct reason *why) MUST_USE;

struct arrivals_counters {
    uint64_t needed, background; /* experts that have come for prompts; otherwise */
};
void arrivals_count(const struct arrivals *a, struct arrivals_counters *out);

#endif

/* Experts that move from RAM into VRAM while tokens are decoded: warm ones take the slots of colder ones.
 *
 * Which one moves is placement/residency.h's decision. A move costs the steps next to nothing: its bytes are staged while a
 * worker waits for the device's next word, go over on the copy stream, and what was a miss becomes a hit with the command of a
 * later step. No kernel sees both states, and nothing is freed that one might read:
 *
 *   free slot -> staged in pinned memory -> copied and repacked -> {new: slot, victim: none} in a command -> that step has
 *   ended: the victim's slot is free.
 *
 * Answers do not depend on it, but for the rounding of sums. Belongs to the run (see experts.h), one thread at a time. */
#ifndef COLDSTREAM_MOVES_H
#define COLDSTREAM_MOVES_H

#include "engine/experts.h"
#include "engine/vram.h"

struct moves_options {
    struct vram *vram;       /* borrowed, as experts */
    struct experts *experts;
    const struct plan *plan; /* used during moves_open() */
    const float *prior;      /* as experts_options.prior */
    struct timeline *timeline; /* NULL: none */
    uint32_t shuffle;        /* tests: not 0: experts move at random, as many at once as can */
};

struct moves;

/* *out NULL without an error: nothing can ever move. ERR_LIMIT, ERR_NO_MEMORY: no room to stage, on the device or pinned. */
enum err moves_open(const struct moves_options *options, struct moves **out, struct reason *why) MUST_USE;
void moves_close(struct moves **moves); /* before the device's memory is freed */

/* The choices of n tokens [n][n_used] at a layer; and n tokens went through all layers (0: they were given up). */
void moves_use(struct moves *m, uint32_t layer, const int32_t *experts, uint32_t n);
void moves_advance(struct moves *m, uint32_t n);
/* An expert has come to its slot from elsewhere. No move begins before all have that were to. */
void moves_set_there(struct moves *m, uint32_t layer, uint32_t expert);

/* A step's command is being written: what has arrived is announced in it, what was staged is sent, what is warm is begun. */
void moves_before_step(struct moves *m, struct gpu_command *command);
/* During a step, on a worker that has nothing to do for some microseconds; false: nothing to do here, too. */
bool moves_stage(struct moves *m);
/* The step has ended. */
void moves_after_step(struct moves *m);

struct moves_counters {
    uint64_t moved, bytes; /* experts, and their bytes in the file's layout */
};
void moves_count(const struct moves *m, struct moves_counters *out);

#endif

/* What the router chooses while a command runs, from the engine's hook: counted for a profile, and on request recorded token by
 * token as routes.
 *
 * watch_experts() runs on a worker's thread during session calls; everything else on the caller's thread between them. Before
 * watch_open() and after watch_close() the hook does nothing, so that it can be given to engine_open(), which knows the shape.
 */
#ifndef COLDSTREAM_WATCH_H
#define COLDSTREAM_WATCH_H

#include "model/model.h"
#include "placement/profile.h"
#include "placement/routes.h"

struct watch {
    struct profile_recorder *counts; /* NULL: closed */

    bool tracing;
    struct routes routes;
    bool any_expected;
    uint64_t batch_position, next_position; /* of the batch in work; behind it */
    uint32_t batch_at, batch_tokens;        /* index of its first token in `routes`; tokens */
    int32_t *first;                         /* [n_first][n_used] layer 0 of a batch that is not in `routes` yet */
    uint32_t n_first, room_first;
    enum err failed; /* no memory for more routes */
    struct reason why;
};

enum err watch_open(const struct model_shape *shape, bool trace, struct watch *w, struct reason *why) MUST_USE;
void watch_close(struct watch *w); /* zeroed ones too */

/* As engine_options.on_experts wants it; ctx: the struct watch. */
void watch_experts(void *ctx, uint32_t layer, uint64_t position, bool expected, int32_t *experts);

/* What was counted; NULL when closed. */
const struct profile *watch_profile(const struct watch *w);

/* The routes so far as a file: a batch of one token counts as decoded, larger ones as prompts, a jump of the position begins a
 * turn. watch_check_trace() says in advance whether the file may be written: one that holds something else is not replaced. */
enum err watch_check_trace(const char *path, struct reason *why) MUST_USE;
enum err watch_write_trace(struct watch *w, const char *path, struct reason *why) MUST_USE;

#endif

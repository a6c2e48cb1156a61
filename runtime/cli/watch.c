/* See watch.h. A batch shows itself layer by layer, its tokens ascending: how many it has is known when its second layer
 * begins, so that the first layer's choices wait for that. */
#include "cli/watch.h"

#include <stdlib.h>
#include <string.h>

#include "cli/repl_file.h"

enum err watch_open(const struct model_shape *shape, bool trace, struct watch *w, struct reason *why) {
    *w = (struct watch){.tracing = trace};
    const uint32_t layers = shape->n_layers, experts = shape->n_experts, used = shape->n_experts_used;
    enum err err = profile_recorder_open(layers, experts, used, &w->counts, why);
    if (!err && trace) err = routes_open(layers, experts, used, true, &w->routes, why);
    if (err) watch_close(w);
    return err;
}

void watch_close(struct watch *w) {
    profile_recorder_close(&w->counts);
    routes_close(&w->routes);
    free(w->first);
    *w = (struct watch){0};
}

const struct profile *watch_profile(const struct watch *w) { return w->counts ? profile_recorded(w->counts) : NULL; }

/* ---- routes ------------------------------------------------------------------------------------------------------ */

static enum err begin_batch(struct watch *w) {
    struct routes *r = &w->routes;
    if (w->batch_position != w->next_position) TRY(routes_begin_turn(r, &w->why));
    w->batch_at = r->n_tokens;
    w->batch_tokens = w->n_first;
    w->next_position = w->batch_position + w->n_first;
    TRY(routes_append(r, w->n_first, w->n_first > 1, &w->why));
    for (uint32_t i = 0; i < w->n_first; i++) routes_choose(r, w->batch_at + i, 0, w->first + (size_t)i * r->n_used);
    w->n_first = 0;
    return ERR_NONE;
}

static enum err keep_first(struct watch *w, uint64_t position, const int32_t *experts) {
    const uint32_t used = w->routes.n_used;
    if (w->n_first == w->room_first) {
        const uint32_t room = w->room_first ? 2 * w->room_first : 64;
        int32_t *grown = realloc(w->first, (size_t)room * used * sizeof *grown);
        if (!grown) return fail(&w->why, ERR_NO_MEMORY, "no memory for the routes of a batch");
        w->first = grown;
        w->room_first = room;
    }
    if (w->n_first == 0) w->batch_position = position;
    memcpy(w->first + (size_t)w->n_first++ * used, experts, used * sizeof *experts);
    return w->routes.n_layers == 1 ? begin_batch(w) : ERR_NONE; /* no second layer will tell */
}

static enum err trace(struct watch *w, uint32_t layer, uint64_t position, bool expected, const int32_t *experts) {
    if (layer == 0)
        return expected ? ERR_NONE : keep_first(w, position, experts); /* nothing is in front of layer 0 to guess it */
    if (w->n_first) TRY(begin_batch(w));
    const uint64_t token = position - w->batch_position;
    if (position < w->batch_position || token >= w->batch_tokens) return ERR_NONE;
    if (expected) {
        w->any_expected = true;
        routes_expect(&w->routes, w->batch_at + (uint32_t)token, layer, experts, w->routes.n_used);
    } else {
        routes_choose(&w->routes, w->batch_at + (uint32_t)token, layer, experts);
    }
    return ERR_NONE;
}

void watch_experts(void *ctx, uint32_t layer, uint64_t position, bool expected, int32_t *experts) {
    struct watch *w = ctx;
    if (!w->counts) return;
    if (!expected) {
        if (layer == 0) profile_count_token(w->counts);
        profile_record(w->counts, layer, experts);
    }
    if (w->tracing && !w->failed) w->failed = trace(w, layer, position, expected, experts);
}

enum err watch_check_trace(const char *path, struct reason *why) {
    return whole_file_check_ours(path, SPAN("CSROUTES"), "recorded routes", why);
}

enum err watch_write_trace(struct watch *w, const char *path, struct reason *why) {
    if (w->failed) {
        if (why) *why = w->why;
        return w->failed;
    }
    TRY(watch_check_trace(path, why));
    if (!w->any_expected) { /* nobody looked ahead: half the file would say so */
        free(w->routes.expected);
        w->routes.expected = NULL;
    }
    struct text bytes = {0};
    routes_write(&w->routes, &bytes);
    const enum err err = bytes.failed ? fail(why, ERR_NO_MEMORY, "%s: no memory to write it", path)
                                      : whole_file_replace(path, (struct span){bytes.ptr, bytes.len}, why);
    text_free(&bytes);
    return err;
}

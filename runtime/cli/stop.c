/* Stop texts in a stream: what may still become one is held back. Naive search: there are a few short texts and a piece of
 * output is a few bytes, so the work is bytes x texts x length. */
#include "cli/stop.h"

#include <string.h>

/* Length of the longest end of `held` that is the beginning, but not all, of `stop`. */
static size_t partial(const struct text *held, const char *stop, size_t len) {
    for (size_t n = held->len < len - 1 ? held->len : len - 1; n > 0; n--)
        if (memcmp(held->ptr + held->len - n, stop, n) == 0) return n;
    return 0;
}

struct span stop_feed(struct stop *s, struct span piece) {
    if (s->released) {
        memmove(s->held.ptr, s->held.ptr + s->released, s->held.len - s->released);
        s->held.len -= s->released;
        s->released = 0;
    }
    if (s->found) return (struct span){0};
    text_add_span(&s->held, piece);
    size_t keep = 0;
    for (size_t i = 0; i < s->stops->len; i++) {
        const size_t len = strlen(s->stops->items[i]);
        if (!len || !s->held.len) continue;
        const char *hit = memmem(s->held.ptr, s->held.len, s->stops->items[i], len);
        if (hit) {
            s->found = true;
            s->held.len = (size_t)(hit - s->held.ptr); /* the earliest of all wins */
        } else {
            const size_t n = partial(&s->held, s->stops->items[i], len);
            if (n > keep) keep = n;
        }
    }
    s->released = s->found ? s->held.len : s->held.len - keep;
    return (struct span){s->held.ptr, s->released};
}

struct span stop_end(struct stop *s) {
    const struct span rest = {s->held.ptr ? s->held.ptr + s->released : NULL, s->found ? 0 : s->held.len - s->released};
    s->released = s->held.len;
    return rest;
}

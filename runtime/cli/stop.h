/* Ends an answer where one of the -r texts begins, without ever printing part of it. */
#ifndef COLDSTREAM_STOP_H
#define COLDSTREAM_STOP_H

#include "cli/options.h"

/* Zero-initialise with `stops` set; free `held` with text_free(). */
struct stop {
    const struct string_list *stops;
    struct text held;
    size_t released; /* bytes of `held` that were handed out by the last call */
    bool found;      /* a stop text was seen: nothing more comes */
};

/* The text that `piece` releases, valid until the next call. */
struct span stop_feed(struct stop *s, struct span piece);
/* What was held back, when the answer ended without a stop text. */
struct span stop_end(struct stop *s);

#endif

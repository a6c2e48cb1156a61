/* JSON as a stream of events: for files too large or too hostile to be held as a tree. Costs a window and the text of one
 * string, whatever the input is.
 *
 *     json_scan_open -> json_scan_next until SCAN_END (or until nothing more is wanted) -> json_scan_close
 *
 * Strict: RFC 8259, valid UTF-8, nesting to SCAN_DEPTH, nothing but white space behind the value. What keys and values mean,
 * repeated keys included, is the caller's to judge. Messages read "<label>: at byte <n>: <problem>". */
#ifndef COLDSTREAM_JSON_SCAN_H
#define COLDSTREAM_JSON_SCAN_H

#include "core/core.h"

enum { SCAN_DEPTH = 64, SCAN_WINDOW = 16 << 10 };

enum scan_event {
    SCAN_END, /* the value is complete and nothing follows */
    SCAN_OBJECT,
    SCAN_OBJECT_END,
    SCAN_ARRAY,
    SCAN_ARRAY_END,
    SCAN_KEY,
    SCAN_STRING,
    SCAN_NUMBER,
    SCAN_TRUE,
    SCAN_FALSE,
    SCAN_NULL,
};

/* `bytes` of the source from position `at` on. */
typedef enum err (*scan_fill)(void *ctx, void *to, uint64_t bytes, uint64_t at, struct reason *why);

struct json_scan {
    struct span
        text;       /* of the last SCAN_KEY or SCAN_STRING, decoded; of the last SCAN_NUMBER, as written. Until the next call */
    uint64_t at;    /* where the last event begins */
    unsigned depth; /* containers that are open */
    /* private */
    const char *label;
    scan_fill fill;
    void *ctx;
    uint64_t end;      /* of the source */
    uint64_t from;     /* position of window[0] */
    size_t next, have; /* in the window */
    size_t max_text;
    struct text held;
    uint64_t objects; /* bit d: the container at depth d is an object */
    int state;
    bool discard;
    uint8_t window[SCAN_WINDOW];
};

/* Bytes [begin, end) of the source hold one value; a string or number of more than `max_text` bytes is refused. `label` names
 * the source in messages and must outlive the scan. */
void json_scan_open(struct json_scan *s, const char *label, scan_fill fill, void *ctx, uint64_t begin, uint64_t end,
                    size_t max_text);
/* The same over bytes in memory, which must outlive the scan. */
void json_scan_open_span(struct json_scan *s, const char *label, struct span *source, size_t max_text);
void json_scan_close(struct json_scan *s);

enum err json_scan_next(struct json_scan *s, enum scan_event *event, struct reason *why) MUST_USE;
/* To the end of what `event`, the last one, began: of a container, of a key's value; of nothing for a scalar. */
enum err json_scan_skip(struct json_scan *s, enum scan_event event, struct reason *why) MUST_USE;
/* "<label>: at byte <where the last event begins>: ..." */
enum err json_scan_fail(const struct json_scan *s, struct reason *why, enum err code, const char *format, ...)
    PRINTF_LIKE(4, 5);

/* A number without sign, fraction and exponent that fits; false otherwise. */
bool json_scan_uint(struct span number, uint64_t *out);
double json_scan_double(struct span number); /* NAN: too long a text to be one that somebody meant */

#endif

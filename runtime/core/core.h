/* The floor: errors with reasons, checked sizes, clock, log, memory. libc and pthreads only; every room may include it.
 *
 * Nothing here keeps mutable global state, prints, or ends the process. */
#ifndef COLDSTREAM_CORE_H
#define COLDSTREAM_CORE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- errors ------------------------------------------------------------------------------------------------ */

enum err {
    ERR_NONE = 0,
    ERR_NO_MEMORY,   /* an allocation was refused by the system */
    ERR_IO,          /* open, read, write, map failed */
    ERR_FORMAT,      /* a file or a request breaks its format */
    ERR_UNSUPPORTED, /* well-formed, but not something this build can run */
    ERR_ARGUMENT,    /* the caller asked for something impossible */
    ERR_LIMIT,       /* does not fit a budget, a context or another stated limit */
    ERR_CANCELLED,   /* the caller's cancel flag was seen */
};

/* Why a call failed, in one line a user can act on. Filled once, where the cause is known. */
struct reason {
    char text[480];
};

#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* Write the reason (when `why` is not NULL) and return `code`, so that a failing line reads `return fail(...)`.
 * Control characters in the text (names come from files) are replaced by '?'. */
enum err fail(struct reason *why, enum err code, const char *format, ...) PRINTF_LIKE(3, 4);

#define TRY(expression)                      \
    do {                                     \
        const enum err try_ = (expression);  \
        if (try_ != ERR_NONE) return try_;   \
    } while (0)

/* ---- checked sizes: false when the result does not fit ----------------------------------------------------- */

static inline MUST_USE bool size_mul(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline MUST_USE bool size_add(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_add_overflow(a, b, out); }

static inline uint64_t round_up(uint64_t value, uint64_t power_of_two) { return (value + power_of_two - 1) & ~(power_of_two - 1); }

/* ---- text that is not NUL-terminated (file strings may hold NULs) ------------------------------------------- */

struct span {
    const char *ptr;
    size_t len;
};

#define SPAN(literal) ((struct span){(literal), sizeof(literal) - 1})
struct span span_of(const char *c_string);
bool span_equal(struct span a, struct span b);
bool span_starts(struct span text, struct span prefix);
/* Bytes of the UTF-8 sequence at `p` with `left` > 0 bytes available; 0: ill-formed (overlong, surrogate, above U+10FFFF, cut). */
size_t utf8_sequence(const uint8_t *p, size_t left);

/* A growing byte string. Zero-initialise, free with text_free(). After a failed append `failed` is set, the content is
 * unchanged and later appends do nothing, so that a writer checks once at the end. `ptr` is NUL-terminated when not NULL. */
struct text {
    char *ptr;
    size_t len, cap;
    bool failed;
};

void text_add(struct text *t, const void *bytes, size_t len);
void text_add_span(struct text *t, struct span s);
void text_addf(struct text *t, const char *format, ...) PRINTF_LIKE(2, 3);
void text_clear(struct text *t);
void text_free(struct text *t);

/* ---- clock -------------------------------------------------------------------------------------------------- */

uint64_t clock_ns(void); /* monotonic */

/* Patience with something that is looked at again and again. Between two looks a tenth of a second counts at most: who was stopped, or
 * had no CPU, for longer has seen nothing in that time, and what it waits for may have been stopped with it. */
struct patience {
    uint64_t left_ns, looked_ns;
};
struct patience patience_of(uint64_t ns);
bool patience_ends(struct patience *p); /* at each look that saw nothing */

/* ---- log ------------------------------------------------------------------------------------------------------
 * Libraries report through the caller's sink; a NULL sink drops everything. One line per call, no newline at the end. */

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

struct log_sink {
    void (*write)(void *ctx, enum log_level level, const char *line);
    void *ctx;
    enum log_level level; /* lines above this level are dropped */
};

void log_line(const struct log_sink *sink, enum log_level level, const char *format, ...) PRINTF_LIKE(3, 4);

/* ---- memory --------------------------------------------------------------------------------------------------- */

/* Anonymous zeroed mapping of at least `bytes`, 2 MiB aligned, huge pages asked for when `bytes` is large enough to gain.
 * Untouched pages cost nothing. Release with pages_free(ptr, bytes) and the same size. */
enum err pages_alloc(uint64_t bytes, void **out, struct reason *why) MUST_USE;
void pages_free(void *ptr, uint64_t bytes);

/* One region carved front to back; owners size it first and never free single pieces. */
struct arena {
    uint8_t *base;
    uint64_t size, used;
};

enum err arena_open(struct arena *a, uint64_t bytes, struct reason *why) MUST_USE;
/* 64-byte aligned; NULL when the region is exhausted, which is a sizing bug of the caller. */
void *arena_take(struct arena *a, uint64_t bytes);
void arena_close(struct arena *a);

/* Allocate-or-fail for counts that come from files: NULL on overflow or refusal. Zeroed. Free with free(). */
void *calloc_checked(uint64_t count, uint64_t size);

#ifdef __cplusplus
}
#endif
#endif

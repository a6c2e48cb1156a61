/* The floor's small parts: reasons, text, clock, log, memory. Thread-safe because nothing is shared. */
#include "core/core.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define HUGE_PAGE ((uint64_t)2 << 20)

static void mask_control_characters(char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
}

enum err fail(struct reason *why, enum err code, const char *format, ...) {
    if (why) {
        va_list args;
        va_start(args, format);
        vsnprintf(why->text, sizeof why->text, format, args);
        va_end(args);
        mask_control_characters(why->text);
    }
    return code;
}

struct span span_of(const char *c_string) { return (struct span){c_string, strlen(c_string)}; }

bool span_equal(struct span a, struct span b) { return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0); }

bool span_starts(struct span text, struct span prefix) {
    return text.len >= prefix.len && (prefix.len == 0 || memcmp(text.ptr, prefix.ptr, prefix.len) == 0);
}

size_t utf8_sequence(const uint8_t *p, size_t left) {
    if (p[0] < 0x80) return 1;
    const size_t len = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || len > left) return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if (p[0] == 0xe0 && p[1] < 0xa0) return 0;
    if (p[0] == 0xed && p[1] > 0x9f) return 0;
    if (p[0] == 0xf0 && p[1] < 0x90) return 0;
    if (p[0] == 0xf4 && p[1] > 0x8f) return 0;
    return len;
}

static bool text_reserve(struct text *t, size_t extra) {
    if (t->failed) return false;
    if (extra >= SIZE_MAX / 2 - t->len) return !(t->failed = true);
    const size_t need = t->len + extra + 1;
    if (need <= t->cap) return true;
    size_t cap = t->cap ? t->cap : 64;
    while (cap < need) cap *= 2;
    char *grown = realloc(t->ptr, cap);
    if (!grown) return !(t->failed = true);
    t->ptr = grown;
    t->cap = cap;
    return true;
}

void text_add(struct text *t, const void *bytes, size_t len) {
    if (!text_reserve(t, len)) return;
    if (len) memcpy(t->ptr + t->len, bytes, len);
    t->len += len;
    t->ptr[t->len] = 0;
}

void text_add_span(struct text *t, struct span s) { text_add(t, s.ptr, s.len); }

void text_addf(struct text *t, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    const int len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (len < 0) t->failed = true;
    else if (text_reserve(t, (size_t)len)) {
        vsnprintf(t->ptr + t->len, (size_t)len + 1, format, again);
        t->len += (size_t)len;
    }
    va_end(again);
}

void text_clear(struct text *t) {
    t->len = 0;
    t->failed = false;
    if (t->ptr) t->ptr[0] = 0;
}

void text_free(struct text *t) {
    free(t->ptr);
    *t = (struct text){0};
}

uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

struct patience patience_of(uint64_t ns) { return (struct patience){ns, clock_ns()}; }

bool patience_ends(struct patience *p) {
    const uint64_t most = 100000000u, now = clock_ns(), passed = now - p->looked_ns, counts = passed < most ? passed : most;
    p->looked_ns = now;
    p->left_ns -= counts < p->left_ns ? counts : p->left_ns;
    return p->left_ns == 0;
}

void log_line(const struct log_sink *sink, enum log_level level, const char *format, ...) {
    if (!sink || !sink->write || level > sink->level) return;
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    mask_control_characters(line);
    sink->write(sink->ctx, level, line);
}

enum err pages_alloc(uint64_t bytes, void **out, struct reason *why) {
    *out = NULL;
    uint64_t padded;
    if (bytes == 0) bytes = 1;
    if (!size_add(bytes, 2 * HUGE_PAGE, &padded) || padded > SIZE_MAX / 2)
        return fail(why, ERR_NO_MEMORY, "cannot allocate %llu MiB: the size overflows", (unsigned long long)(bytes >> 20));
    padded = round_up(bytes, HUGE_PAGE) + HUGE_PAGE;
    uint8_t *raw = mmap(NULL, padded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED)
        return fail(why, ERR_NO_MEMORY, "cannot allocate %llu MiB: %s", (unsigned long long)(bytes >> 20), strerror(errno));
    uint8_t *aligned = (uint8_t *)round_up((uintptr_t)raw, HUGE_PAGE);
    const uint64_t size = round_up(bytes, HUGE_PAGE);
    if (aligned > raw) munmap(raw, (size_t)(aligned - raw));
    if (raw + padded > aligned + size) munmap(aligned + size, (size_t)(raw + padded - (aligned + size)));
    if (bytes >= HUGE_PAGE) madvise(aligned, size, MADV_HUGEPAGE);
    *out = aligned;
    return ERR_NONE;
}

void pages_free(void *ptr, uint64_t bytes) {
    if (ptr) munmap(ptr, round_up(bytes ? bytes : 1, HUGE_PAGE));
}

enum err arena_open(struct arena *a, uint64_t bytes, struct reason *why) {
    *a = (struct arena){0};
    void *base;
    TRY(pages_alloc(bytes, &base, why));
    *a = (struct arena){.base = base, .size = bytes};
    return ERR_NONE;
}

void *arena_take(struct arena *a, uint64_t bytes) {
    const uint64_t start = round_up(a->used, 64);
    if (start > a->size || bytes > a->size - start) return NULL;
    a->used = start + bytes;
    return a->base + start;
}

void arena_close(struct arena *a) {
    pages_free(a->base, a->size);
    *a = (struct arena){0};
}

void *calloc_checked(uint64_t count, uint64_t size) {
    uint64_t bytes;
    if (!size_mul(count, size, &bytes) || bytes > SIZE_MAX / 2) return NULL;
    return calloc((size_t)(count ? count : 1), (size_t)(size ? size : 1));
}

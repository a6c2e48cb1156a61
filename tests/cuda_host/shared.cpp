/* Shared memory of the running block: one region, dynamic memory first, then each SHARED array as threads first reach it, red
 * zones between them. Arrays keep their places for a whole launch; each block finds them filled with 0xff. */
#include "tests/cuda_host/internal.h"

#include <sys/mman.h>

enum : size_t { REGION_BYTES = 1 << 20, RED_BYTES = 128, STATIC_LIMIT = 48 << 10 };

struct array {
    const void *key;
    const char *name;
    size_t offset, bytes;
    bool live; /* reached in this block */
};
static std::vector<array> arrays; // [0] is the dynamic memory
static char *region;
static size_t used, static_bytes;

static void make_region(void) {
    void *p = mmap(nullptr, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) ch_report({}, "no memory for shared memory");
    region = static_cast<char *>(p);
}

ch_span ch_shared_span(void) {
    if (!region) make_region();
    return ch_span{reinterpret_cast<uintptr_t>(region), REGION_BYTES};
}

/* Red zones are poisoned for ASan and hold canaries for the other builds. */
static void make_live(array *a) {
    char *p = region + a->offset;
    ASAN_UNPOISON_MEMORY_REGION(p - RED_BYTES, a->bytes + 2 * RED_BYTES);
    memset(p - RED_BYTES, CH_CANARY, RED_BYTES);
    memset(p, 0xff, a->bytes);
    memset(p + a->bytes, CH_CANARY, RED_BYTES);
    ASAN_POISON_MEMORY_REGION(p - RED_BYTES, RED_BYTES);
    ASAN_POISON_MEMORY_REGION(p + a->bytes, RED_BYTES);
    a->live = true;
}

static array *add(const void *key, size_t bytes, size_t align, const char *name) {
    const size_t offset = (used + RED_BYTES + align - 1) & ~(align - 1);
    if (offset + bytes + RED_BYTES > REGION_BYTES) ch_report({}, "shared memory: array %s of %zu bytes is absurd", name, bytes);
    used = offset + bytes + RED_BYTES;
    arrays.push_back(array{key, name, offset, bytes, false});
    return &arrays.back();
}

void ch_shared_begin_launch(size_t dynamic_bytes) {
    if (!region) make_region();
    ASAN_POISON_MEMORY_REGION(region, REGION_BYTES);
    arrays.clear();
    used = static_bytes = 0;
    add(nullptr, dynamic_bytes, 128, "dynamic shared memory");
}

void ch_shared_begin_block(void) {
    for (array &a : arrays) a.live = false;
    make_live(&arrays[0]);
}

void *ch_dynamic_shared(void) { return region + arrays[0].offset; }

void *ch_shared(const void *key, size_t bytes, size_t align, const char *name) {
    array *found = nullptr;
    for (array &a : arrays) {
        if (a.key == key) found = &a;
    }
    if (!found) {
        static_bytes += bytes;
        if (static_bytes > STATIC_LIMIT) ch_report({}, "static shared memory: %s makes it %zu bytes, 48 KiB is the limit", name, static_bytes);
        if (static_bytes + arrays[0].bytes > ch_settings.shared_optin_bytes) ch_report({}, "static and dynamic shared memory exceed the device's");
        found = add(key, bytes, align, name);
    }
    if (!found->live) make_live(found);
    return region + found->offset;
}

ch_range ch_find_shared(const void *p) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(p), base = reinterpret_cast<uintptr_t>(region);
    if (region && at - base < REGION_BYTES) {
        for (const array &a : arrays) {
            if (a.live && at - base - a.offset < a.bytes) return ch_range{CH_SHARED_MEMORY, base + a.offset, a.bytes, a.name};
        }
    }
    return ch_range{CH_NOWHERE, 0, 0, nullptr};
}

__attribute__((no_sanitize("address"))) static bool intact(const char *p) {
    for (size_t i = 0; i < RED_BYTES; i++) {
        if (static_cast<unsigned char>(p[i]) != CH_CANARY) return false;
    }
    return true;
}

void ch_shared_end_block(void) {
    for (const array &a : arrays) {
        if (!a.live) continue;
        if (!intact(region + a.offset - RED_BYTES)) ch_report({}, "kernel %s wrote before shared array %s", ch_block_now.call->name, a.name);
        if (!intact(region + a.offset + a.bytes)) ch_report({}, "kernel %s wrote past shared array %s", ch_block_now.call->name, a.name);
    }
}

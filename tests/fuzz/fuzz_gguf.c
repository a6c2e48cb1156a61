/* libFuzzer target: any bytes as a model file, opened with and without weights, and then used the way programs use it.
 * The bytes live in a memory file; a model that opens is walked to the end, so that a wrong extent is read and seen.
 * Most mutations change one field of the container (a length, count, type, extent, offset or value) and leave the rest
 * right: blind ones rarely get past the header. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/support/model_walk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
__attribute__((weak)) size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size); /* absent in the replay */

/* ---- mutating fields -------------------------------------------------------------------------------------------- */

enum { MAX_FIELDS = 2048 };

struct fields {
    size_t at[MAX_FIELDS];
    uint8_t width[MAX_FIELDS];
    size_t n;
};

struct walker {
    const uint8_t *data;
    size_t size, pos;
    struct fields *fields;
};

/* Note a field of `width` bytes at the current position and step over it; its value, or 0 past the end. */
static uint64_t field(struct walker *w, uint8_t width) {
    if (w->size - w->pos < width) {
        w->pos = w->size;
        return 0;
    }
    uint64_t value = 0;
    memcpy(&value, w->data + w->pos, width);
    if (w->fields->n < MAX_FIELDS) {
        w->fields->at[w->fields->n] = w->pos;
        w->fields->width[w->fields->n++] = width;
    }
    w->pos += width;
    return value;
}

static void skip_bytes(struct walker *w, uint64_t bytes) {
    w->pos = bytes < w->size - w->pos ? w->pos + (size_t)bytes : w->size;
}

static void walk_value(struct walker *w) {
    static const uint8_t widths[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    uint64_t type = field(w, 4), count = 1;
    if (type == 9) {
        type = field(w, 4);
        count = field(w, 8);
    }
    for (uint64_t i = 0; type < 13 && i < count && w->pos < w->size; i++)
        if (type == 8)
            skip_bytes(w, field(w, 8));
        else if (widths[type])
            field(w, widths[type]);
        else
            return;
}

static void find_fields(const uint8_t *data, size_t size, struct fields *out) {
    struct walker w = {.data = data, .size = size, .pos = 4, .fields = out};
    out->n = 0;
    if (size < 24) return;
    field(&w, 4);
    const uint64_t n_tensors = field(&w, 8), n_keys = field(&w, 8);
    for (uint64_t i = 0; i < n_keys && w.pos < size; i++) {
        skip_bytes(&w, field(&w, 8));
        walk_value(&w);
    }
    for (uint64_t i = 0; i < n_tensors && w.pos < size; i++) {
        skip_bytes(&w, field(&w, 8));
        const uint64_t n_dims = field(&w, 4);
        for (uint64_t d = 0; d < n_dims && d < 8; d++) field(&w, 8);
        field(&w, 4);
        field(&w, 8);
    }
}

static uint64_t interesting(uint64_t old, uint64_t left, uint64_t size, uint64_t *state) {
    static const uint8_t powers[] = {7, 15, 16, 24, 31, 32, 56, 59, 60, 61, 62, 63, 61, 62, 63, 63};
    const uint64_t r = next_mutation(state), near = r % 5 - 2;
    switch (r >> 8 & 7) {
    case 0: return r >> 16 & 15;
    case 1: return ((uint64_t)1 << powers[r >> 16 & 15]) + near;
    case 2: return near; /* 0, 1, 2 or just below the top */
    case 3: return old + near;
    case 4: return left + near;
    case 5: return size + near;
    case 6: return UINT64_MAX / (1 + (r >> 16 & 63)) + near;
    default: return old ^ (uint64_t)1 << (r >> 16 & 63);
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    struct fields fields;
    uint64_t state = seed;
    find_fields(data, size, &fields);
    const uint64_t choice = next_mutation(&state) % 8;
    if (choice == 0 || fields.n == 0) return LLVMFuzzerMutate(data, size, max_size);
    for (uint64_t changes = 1 + (next_mutation(&state) % 4 == 0); changes; changes--) {
        const size_t i = next_mutation(&state) % fields.n, other = next_mutation(&state) % fields.n;
        uint64_t value = 0;
        memcpy(&value, data + fields.at[i], fields.width[i]);
        value = interesting(value, size - fields.at[i] - fields.width[i], size, &state);
        if (choice == 1 && fields.width[i] == fields.width[other]) memcpy(&value, data + fields.at[other], fields.width[i]);
        memcpy(data + fields.at[i], &value, fields.width[i]);
    }
    if (choice == 2) return fields.at[next_mutation(&state) % fields.n]; /* cut */
    if (choice == 3 && size > 8) return size - next_mutation(&state) % 8;
    return size;
}

/* ---- the target ------------------------------------------------------------------------------------------------- */

static void check_values(const struct model *m) {
    static const uint8_t widths[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    for (size_t i = 0; i < m->n_meta; i++) {
        const struct model_meta *entry = &m->meta[i];
        const uint8_t width = widths[entry->type == 9 ? entry->element_type : entry->type];
        assert(!width || (wide)width * entry->count == entry->bytes.len);
    }
}

static void check_model(const struct model *m) {
    check_values(m);
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct model_tensor *t = &m->tensors[i];
        assert(t->file < m->n_files && t->offset <= m->files[t->file].bytes);
        assert(t->bytes <= m->files[t->file].bytes - t->offset);
    }
    for (size_t i = 0; i < m->n_tensors && m->n_tensors <= 64; i++)
        for (size_t j = 0; j < i; j++) {
            const struct model_tensor *a = &m->tensors[i], *b = &m->tensors[j];
            assert(a->file != b->file || a->offset + a->bytes <= b->offset || b->offset + b->bytes <= a->offset);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const int fd = memfd_create("fuzz", MFD_CLOEXEC);
    assert(fd >= 0);
    for (size_t done = 0; done < size;) {
        const ssize_t written = write(fd, data + done, size - done);
        assert(written > 0);
        done += (size_t)written;
    }
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    model_walk(path, check_model);
    close(fd);
    return 0;
}

/* See pattern_file.h. */
#include "tests/support/pattern_file.h"

#include "tests/support/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t word_at(uint32_t salt, uint64_t index) {
    uint64_t x = (index + 1) * 0x9E3779B97F4A7C15u + salt;
    x = (x ^ (x >> 29)) * 0xD6E8FEB86659FD93u;
    return x ^ (x >> 32);
}

static void fill(uint32_t salt, uint8_t *to, uint64_t n, uint64_t offset) {
    for (uint64_t i = 0; i < n;) {
        const uint64_t word = word_at(salt, (offset + i) / 8), from = (offset + i) % 8,
                       take = 8 - from < n - i ? 8 - from : n - i;
        memcpy(to + i, (const uint8_t *)&word + from, take);
        i += take;
    }
}

void pattern_make(struct pattern_file *p, const char *folder, uint64_t bytes, uint32_t salt) {
    snprintf(p->path, sizeof p->path, "%s/pattern-%d-%u-XXXXXX", folder ? folder : ".", (int)getpid(), salt);
    p->bytes = bytes;
    p->salt = salt;
    const int fd = mkstemp(p->path);
    if (fd < 0) fail_test("%s: %s", p->path, strerror(errno));
    enum { CHUNK = 1 << 20 };
    uint8_t *chunk = malloc(CHUNK);
    assert_non_null(chunk);
    for (uint64_t at = 0; at < bytes; at += CHUNK) {
        const uint64_t n = bytes - at < CHUNK ? bytes - at : CHUNK;
        fill(salt, chunk, n, at);
        if (write(fd, chunk, n) != (ssize_t)n) fail_test("%s: cannot write: %s", p->path, strerror(errno));
    }
    free(chunk);
    fsync(fd); /* dirty pages would be written back by the first direct read */
    close(fd);
}

void pattern_remove(struct pattern_file *p) {
    if (p->path[0]) unlink(p->path);
    p->path[0] = 0;
}

bool pattern_matches(const struct pattern_file *p, const void *bytes, uint64_t n, uint64_t offset) {
    uint8_t want[4096];
    for (uint64_t i = 0; i < n; i += sizeof want) {
        const uint64_t k = n - i < sizeof want ? n - i : sizeof want;
        fill(p->salt, want, k, offset + i);
        if (memcmp(want, (const uint8_t *)bytes + i, k) != 0) return false;
    }
    return true;
}

void pattern_open_model(const struct pattern_file *files, size_t n, struct model *out) {
    struct model_file *opened = calloc(n, sizeof *opened);
    assert_non_null(opened);
    for (size_t i = 0; i < n; i++) {
        opened[i] = (struct model_file){strdup(files[i].path), open(files[i].path, O_RDONLY | O_CLOEXEC), files[i].bytes,
                                        files[i].bytes};
        if (opened[i].fd < 0) fail_test("%s: %s", files[i].path, strerror(errno));
    }
    *out = (struct model){.n_files = n, .files = opened};
}

void pattern_close_model(struct model *m) {
    for (size_t i = 0; i < m->n_files; i++) {
        close(m->files[i].fd);
        free(m->files[i].path);
    }
    free((void *)m->files);
    *m = (struct model){0};
}

uint64_t pattern_random(uint64_t *state, uint64_t limit) { return word_at(7, (*state)++) % limit; }

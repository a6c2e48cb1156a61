/* Files whose every byte is known from its position: for tests of what reads them. Failures are test assertions. */
#ifndef COLDSTREAM_TESTS_PATTERN_FILE_H
#define COLDSTREAM_TESTS_PATTERN_FILE_H

#include "model/model.h"

struct pattern_file {
    char path[160];
    uint64_t bytes;
    uint32_t salt; /* files differ */
};

/* A new file in `folder` (NULL: the working directory, on a disk as a rule). */
void pattern_make(struct pattern_file *p, const char *folder, uint64_t bytes, uint32_t salt);
void pattern_remove(struct pattern_file *p);
/* Are these the file's bytes from `offset` on? */
bool pattern_matches(const struct pattern_file *p, const void *bytes, uint64_t n, uint64_t offset);

/* A model that is nothing but its files. */
void pattern_open_model(const struct pattern_file *files, size_t n, struct model *out);
void pattern_close_model(struct model *m);

/* Repeatable random numbers: the next of a sequence, below `limit`. */
uint64_t pattern_random(uint64_t *state, uint64_t limit);

#endif

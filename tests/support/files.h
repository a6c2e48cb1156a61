/* Whole files in and out of memory. What cannot be read or written fails the running test. */
#ifndef COLDSTREAM_TESTS_FILES_H
#define COLDSTREAM_TESTS_FILES_H

#include "core/core.h"

const char *path_in(const char *folder, const char *name); /* good until the fourth call from now */

/* In place of what `out` held; its ptr is a string even when the file is empty. */
void read_file(const char *path, struct text *out);
void write_file(const char *path, struct span bytes);
/* A block of exactly the file's bytes, as must_alloc() gives it; NULL when there is no such file. */
void *read_block(const char *path, size_t *bytes);
/* To be freed; begins at a multiple of 64 and has exactly the size, so that the address sanitizer sees one byte too far. */
void *must_alloc(size_t bytes);

#endif

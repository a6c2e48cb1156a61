/* What fuzz targets do with a model, whatever its container: opened with and without weights, and then used the way programs
 * use it, to the end, so that a wrong extent is read and seen. Asserts. */
#ifndef COLDSTREAM_TESTS_MODEL_WALK_H
#define COLDSTREAM_TESTS_MODEL_WALK_H

#include "model/model.h"

typedef unsigned __int128 wide; /* what the reader's checked 64-bit sums are compared with */

/* `check`: what holds for models of one container, each time it opens. */
void model_walk(const char *path, void (*check)(const struct model *m));

uint64_t next_mutation(uint64_t *state); /* splitmix64 */

#endif

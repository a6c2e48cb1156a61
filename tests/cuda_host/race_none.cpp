/* Builds without the race check: nothing is recorded. */
#include "tests/cuda_host/internal.h"

void ch_race_begin_launch(unsigned) {}
void ch_race_begin_block(void) {}
void ch_race_block_barrier(void) {}
void ch_race_warp_barrier(unsigned, unsigned) {}
void ch_race_inside(bool) {}
void ch_race_read(const void *, size_t, ch_site) {}
void ch_race_write(const void *, size_t, ch_site) {}
void ch_race_atomic(const void *, size_t, ch_site) {}
void ch_race_async_issue(const void *, size_t) {}
void ch_race_async_land(const void *, size_t) {}
void ch_race_release(const void *) {}
void ch_race_acquire(const void *) {}
void ch_race_allocated(const void *, size_t, bool) {}
void ch_race_freed(const void *, size_t) {}
void ch_race_initialised(const void *, size_t) {}
void ch_race_copied(const void *, const void *, size_t) {}

const char *ch_build(void) { return CH_ASAN ? "asan" : "plain"; }

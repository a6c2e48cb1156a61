/* Free memory of a card before this process has a context on it. */
#ifndef COLDSTREAM_GPU_DRIVER_MEMORY_H
#define COLDSTREAM_GPU_DRIVER_MEMORY_H

#include <stdint.h>

/* Of CUDA device `index`, which has total_bytes; 0: not known. */
uint64_t driver_free_bytes(int index, uint64_t total_bytes);

#endif

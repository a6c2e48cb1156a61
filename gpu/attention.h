/* What of attention concerns whoever opens a network. Its launches are declared in network.h. C++; inside gpu/ only. */
#ifndef COLDSTREAM_GPU_ATTENTION_H
#define COLDSTREAM_GPU_ATTENTION_H

#include "gpu/gpu.h"

/* Whether there are kernels for these heads; ERR_UNSUPPORTED says which there are. */
enum err gpu_attention_check(const struct gpu_network_options *o, struct reason *why) MUST_USE;

#endif

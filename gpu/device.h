/* Inside the GPU room: what every file of it may ask of the device. C++; nobody outside gpu/ includes it. */
#ifndef COLDSTREAM_GPU_DEVICE_H
#define COLDSTREAM_GPU_DEVICE_H

#include "gpu/cu.h"
#include "gpu/gpu.h"

cudaStream_t gpu_stream_of(const struct gpu *g, enum gpu_stream s);

/* Remember the device's first error; `doing` completes "the GPU failed while ...". True: `code` was success. Any thread. */
bool gpu_note(struct gpu *g, cudaError_t code, const char *doing);
/* The same for the kernels just launched. Never under capture, where the capture's end reports. */
bool gpu_note_launch(struct gpu *g, const char *doing);

#endif

/* From the model file to the device: reads into pinned buffers, copies, and repacking, several at a time.
 *
 * Owns the buffers on both sides. Used while a model is opened; one thread. */
#ifndef COLDSTREAM_UPLOAD_H
#define COLDSTREAM_UPLOAD_H

#include "engine/fetch.h"
#include "gpu/gpu.h"

struct upload;

/* A matrix and where it goes: `rows` rows of k weights at an offset of a file, to `to` in the device's layout. */
struct upload_part {
    uint32_t file;
    uint64_t offset, bytes;
    enum tensor_type type;
    uint64_t rows, k;
    gpu_ptr to;
};

/* `largest`: bytes of the largest group of parts that upload_group() will get. The buffers on the device count as scratch. */
enum err upload_open(struct gpu *g, struct fetch *fetch, uint64_t largest, struct upload **out, struct reason *why) MUST_USE;
void upload_close(struct upload **u);
uint64_t upload_bytes(uint64_t largest); /* it takes of pinned memory, and of the device's */
uint64_t upload_largest(const struct upload *u); /* bytes of a part that upload_group() takes */

/* Start bringing up to FETCH_EXTENTS parts, together at most `largest` bytes. Waits for a free buffer. */
enum err upload_group(struct upload *u, const struct upload_part *parts, uint32_t n, struct reason *why) MUST_USE;
/* One part of any size. Types that are repacked need `staging`, as large as the part, on the device. */
enum err upload_large(struct upload *u, const struct upload_part *part, gpu_ptr staging, struct reason *why) MUST_USE;
/* Everything is on the device. */
enum err upload_flush(struct upload *u, struct reason *why) MUST_USE;
uint64_t upload_done_bytes(const struct upload *u); /* read so far */

#endif

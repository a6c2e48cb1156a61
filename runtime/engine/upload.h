/* From the model file to the device: reads into pinned buffers, copies, and repacking, several at a time.
 *
 * Owns the buffers on both sides. One thread at a time, the one that has the device; while a model is opened, and later for experts
 * that come after the first token (arrivals.h). */
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
    uint32_t bits; /* EXL3's tiles: what gpu_ops.label says of the matrix; else 0 */
    enum exl3_codebook codebook;
};

enum { UPLOAD_BUFFERS = 4 /* while a model is opened */ };

/* `largest`: bytes of the largest group of parts that it will get. `buffers`: groups under way at once. The device's buffer, one for
 * all, counts as scratch. */
enum err upload_open(struct gpu *g, struct fetch *fetch, uint64_t largest, unsigned buffers, struct upload **out, struct reason *why) MUST_USE;
void upload_close(struct upload **u);
uint64_t upload_bytes(uint64_t largest, unsigned buffers); /* it takes of pinned memory; of the device's it takes that of one buffer */
uint64_t upload_largest(const struct upload *u); /* bytes of a part that upload_group() takes */

/* Start bringing up to FETCH_EXTENTS parts, together at most `largest` bytes. Waits for a free buffer. */
enum err upload_group(struct upload *u, const struct upload_part *parts, uint32_t n, struct reason *why) MUST_USE;
/* One part of any size. Types that are repacked need `staging`, as large as the part, on the device. */
enum err upload_large(struct upload *u, const struct upload_part *part, gpu_ptr staging, struct reason *why) MUST_USE;
/* Everything is on the device. */
enum err upload_flush(struct upload *u, struct reason *why) MUST_USE;

/* Without waiting, groups with a number: start one, from the file or from memory that holds each part's bytes (read before the
 * return); false: no buffer is free. upload_step() gets on with all of them, waiting for a moment if told to and something is under
 * way; upload_arrived() gives the number of one that is on the device now and frees its buffer, false: of none. With `after`, the
 * compute stream is made to wait for a group whose copy is only on its way, which counts as arrived then. */
bool upload_start(struct upload *u, const struct upload_part *parts, uint32_t n, uint32_t number);
bool upload_start_from(struct upload *u, const struct upload_part *parts, const uint8_t *const *from, uint32_t n, uint32_t number);
enum err upload_step(struct upload *u, bool wait, struct reason *why) MUST_USE;
bool upload_arrived(struct upload *u, bool after, uint32_t *number);
uint64_t upload_done_bytes(const struct upload *u); /* read so far */

#endif

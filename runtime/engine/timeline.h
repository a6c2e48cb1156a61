/* What ran when: spans of the device's phases, the CPU's work, waits, copies and reads, as a timeline for a browser (Chrome trace
 * JSON: chrome://tracing, ui.perfetto.dev).
 *
 * Spans are kept in one array that is full at some point; the later ones are then counted only. All functions take NULL for
 * "off" and do nothing. Threads: timeline_add() from any; the device's spans from whoever launches. Recording on the device costs
 * two events a span, and a run that begins and ends with idle streams: a picture of the run, not its fastest. */
#ifndef COLDSTREAM_TIMELINE_H
#define COLDSTREAM_TIMELINE_H

#include "gpu/gpu.h"

enum timeline_track {
    TIMELINE_HOST,  /* the thread that runs a batch: what it waits for */
    TIMELINE_CPU,   /* the worker pool */
    TIMELINE_LANE,  /* + lane: the device's compute stream */
    TIMELINE_COPY = TIMELINE_LANE + GPU_LANES, /* its copy stream */
    TIMELINE_DRIVE, /* reads; they overlap, and are drawn in several rows */
    TIMELINE_TRACKS
};
enum { TIMELINE_NO_LAYER = UINT32_MAX };

struct timeline;

/* `g` borrowed, NULL: none. `spans`: at most so many. */
enum err timeline_open(struct gpu *g, uint32_t spans, struct timeline **out, struct reason *why) MUST_USE;
void timeline_close(struct timeline **t); /* before the device */

/* Now, or 0 when off: the beginning for timeline_add(). `name` is static text without quotes. */
uint64_t timeline_now(const struct timeline *t);
void timeline_add(struct timeline *t, enum timeline_track track, const char *name, uint32_t layer, uint64_t begin_ns); /* it ends now */

/* A run begins: from here on the device's spans have a place in time. It ends: waits for the streams and reads their events. */
void timeline_begin_run(struct timeline *t);
void timeline_end_run(struct timeline *t);
/* What is launched in between; a number for timeline_device_end(). */
uint32_t timeline_device(struct timeline *t, enum gpu_stream stream, enum timeline_track track, const char *name, uint32_t layer);
void timeline_device_end(struct timeline *t, uint32_t span);

/* How long the worker pool was busy, the device's compute stream, and both at once: spans that began at `since_ns` or later. */
struct timeline_overlap {
    uint64_t cpu_ns, device_ns, both_ns;
};
/* Not during a run. False: off, or no memory. */
bool timeline_measure(struct timeline *t, uint64_t since_ns, struct timeline_overlap *out);

/* Chrome trace JSON; microseconds since timeline_open(). Not during a run. */
void timeline_write(struct timeline *t, struct text *out);

#endif

/* See timeline.h. */
#include "engine/timeline.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { DEVICE_SPANS = 2048 /* of a run */, DRIVE_ROWS = 64, FIRST_DRIVE_ROW = 100, NO_SPAN = UINT32_MAX };
#define SYNC_NS 60000000000ull

struct span_of_time {
    const char *name;
    uint32_t layer;
    uint8_t track;
    uint64_t begin_ns, end_ns;
};

struct device_span {
    const char *name;
    uint32_t layer;
    uint8_t track;
    enum gpu_stream stream;
    bool ended;
    struct gpu_event *from, *to; /* opened when first needed */
};

struct timeline {
    struct gpu *gpu;
    uint64_t begin_ns;
    struct span_of_time *spans; /* [room] */
    uint32_t room, n;
    pthread_mutex_t mutex; /* guards them: the background's reads are added at any time */

    struct device_span *device; /* [DEVICE_SPANS] */
    uint32_t n_device;
    struct gpu_event *origin;
    uint64_t origin_ns; /* when it was passed */
    bool has_origin;
};

enum err timeline_open(struct gpu *g, uint32_t spans, struct timeline **out, struct reason *why) {
    *out = NULL;
    struct timeline *t = calloc_checked(1, sizeof *t);
    if (!t) return fail(why, ERR_NO_MEMORY, "no memory for a timeline");
    pthread_mutex_init(&t->mutex, NULL);
    t->gpu = g;
    t->begin_ns = clock_ns();
    t->room = spans;
    t->spans = calloc_checked(spans, sizeof *t->spans);
    t->device = calloc_checked(DEVICE_SPANS, sizeof *t->device);
    enum err e = t->spans && t->device ? ERR_NONE : fail(why, ERR_NO_MEMORY, "no memory for a timeline of %u spans", spans);
    if (!e && g) e = g->ops->event_open_timed(g, &t->origin, why);
    if (e) timeline_close(&t);
    *out = t;
    return e;
}

void timeline_close(struct timeline **timeline) {
    struct timeline *t = *timeline;
    if (!t) return;
    *timeline = NULL;
    for (uint32_t i = 0; i < DEVICE_SPANS && t->device; i++) {
        if (t->device[i].from) t->gpu->ops->event_close(t->gpu, &t->device[i].from);
        if (t->device[i].to) t->gpu->ops->event_close(t->gpu, &t->device[i].to);
    }
    if (t->origin) t->gpu->ops->event_close(t->gpu, &t->origin);
    pthread_mutex_destroy(&t->mutex);
    free(t->spans);
    free(t->device);
    free(t);
}

/* ---- recording ------------------------------------------------------------------------------------------------------ */

uint64_t timeline_now(const struct timeline *t) { return t ? clock_ns() : 0; }

static void add(struct timeline *t, uint8_t track, const char *name, uint32_t layer, uint64_t begin_ns, uint64_t end_ns) {
    pthread_mutex_lock(&t->mutex);
    if (t->n < t->room) t->spans[t->n++] = (struct span_of_time){name, layer, track, begin_ns, end_ns};
    pthread_mutex_unlock(&t->mutex);
}

void timeline_add(struct timeline *t, enum timeline_track track, const char *name, uint32_t layer, uint64_t begin_ns) {
    if (t && begin_ns) add(t, (uint8_t)track, name, layer, begin_ns, clock_ns());
}

static bool streams_idle(struct timeline *t) {
    struct reason ignored; /* the device's own, reported elsewhere */
    for (int s = 0; s < GPU_STREAMS; s++)
        if (t->gpu->ops->sync(t->gpu, (enum gpu_stream)s, SYNC_NS, &ignored)) return false;
    return true;
}

void timeline_begin_run(struct timeline *t) {
    if (!t || !t->gpu) return;
    t->n_device = 0;
    t->has_origin = false;
    if (!streams_idle(t)) return;
    const uint64_t before = clock_ns();
    t->gpu->ops->record(t->gpu, GPU_COMPUTE, t->origin);
    if (!streams_idle(t)) return;
    t->origin_ns = before + (clock_ns() - before) / 2;
    t->has_origin = true;
}

void timeline_end_run(struct timeline *t) {
    if (!t || !t->has_origin || !streams_idle(t)) return;
    for (uint32_t i = 0; i < t->n_device; i++) {
        const struct device_span *d = &t->device[i];
        if (!d->ended) continue;
        const uint64_t begin = t->origin_ns + t->gpu->ops->elapsed_ns(t->gpu, t->origin, d->from), end = t->origin_ns + t->gpu->ops->elapsed_ns(t->gpu, t->origin, d->to);
        add(t, d->track, d->name, d->layer, begin, end > begin ? end : begin);
    }
    t->has_origin = false;
}

static bool has_events(struct timeline *t, struct device_span *d) {
    struct reason ignored;
    if (!d->from && t->gpu->ops->event_open_timed(t->gpu, &d->from, &ignored)) return false;
    return d->to || !t->gpu->ops->event_open_timed(t->gpu, &d->to, &ignored);
}

uint32_t timeline_device(struct timeline *t, enum gpu_stream stream, enum timeline_track track, const char *name, uint32_t layer) {
    if (!t || !t->has_origin || t->n_device == DEVICE_SPANS || !has_events(t, &t->device[t->n_device])) return NO_SPAN;
    struct device_span *d = &t->device[t->n_device];
    d->name = name;
    d->layer = layer;
    d->track = (uint8_t)track;
    d->stream = stream;
    d->ended = false;
    t->gpu->ops->record(t->gpu, stream, d->from);
    return t->n_device++;
}

void timeline_device_end(struct timeline *t, uint32_t span) {
    if (!t || span == NO_SPAN) return;
    struct device_span *d = &t->device[span];
    t->gpu->ops->record(t->gpu, d->stream, d->to);
    d->ended = true;
}

/* ---- what was recorded, in order ---------------------------------------------------------------------------------------- */

static int in_order(const void *a, const void *b) {
    const struct span_of_time *x = a, *y = b;
    if (x->track != y->track) return x->track < y->track ? -1 : 1;
    if (x->begin_ns != y->begin_ns) return x->begin_ns < y->begin_ns ? -1 : 1;
    return x->end_ns == y->end_ns ? 0 : x->end_ns > y->end_ns ? -1 : 1; /* the outer one first */
}

/* The spans so far, sorted by track and time; to be freed. */
static struct span_of_time *copy_sorted(struct timeline *t, uint32_t *n) {
    pthread_mutex_lock(&t->mutex);
    struct span_of_time *sorted = calloc_checked(t->n ? t->n : 1, sizeof *sorted);
    *n = sorted ? t->n : 0;
    if (*n) memcpy(sorted, t->spans, *n * sizeof *sorted);
    pthread_mutex_unlock(&t->mutex);
    if (sorted) qsort(sorted, *n, sizeof *sorted, in_order);
    return sorted;
}

/* ---- measuring -------------------------------------------------------------------------------------------------------- */

struct edge {
    uint64_t ns;
    int side, step; /* 0: CPU, 1: device; +1 begins, -1 ends */
};

static int edges_in_order(const void *a, const void *b) {
    const struct edge *x = a, *y = b;
    return x->ns < y->ns ? -1 : x->ns > y->ns;
}

static void sweep(const struct edge *edges, uint32_t n, struct timeline_overlap *out) {
    int busy[2] = {0, 0};
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t ns = i ? edges[i].ns - edges[i - 1].ns : 0;
        if (busy[0] > 0) out->cpu_ns += ns;
        if (busy[1] > 0) out->device_ns += ns;
        if (busy[0] > 0 && busy[1] > 0) out->both_ns += ns;
        busy[edges[i].side] += edges[i].step;
    }
}

bool timeline_measure(struct timeline *t, uint64_t since_ns, struct timeline_overlap *out) {
    uint32_t n = 0, n_edges = 0;
    *out = (struct timeline_overlap){0};
    struct span_of_time *spans = t ? copy_sorted(t, &n) : NULL;
    struct edge *edges = spans ? calloc_checked(n ? 2 * (uint64_t)n : 1, sizeof *edges) : NULL;
    for (uint32_t i = 0; i < n && edges; i++) {
        const bool device = spans[i].track >= TIMELINE_LANE && spans[i].track < TIMELINE_COPY;
        if (spans[i].begin_ns < since_ns || (!device && spans[i].track != TIMELINE_CPU)) continue;
        edges[n_edges++] = (struct edge){spans[i].begin_ns, device, 1};
        edges[n_edges++] = (struct edge){spans[i].end_ns, device, -1};
    }
    if (edges) qsort(edges, n_edges, sizeof *edges, edges_in_order);
    if (edges) sweep(edges, n_edges, out);
    const bool known = edges != NULL;
    free(edges);
    free(spans);
    return known;
}

/* ---- writing ---------------------------------------------------------------------------------------------------------- */

static void write_row(struct text *out, uint32_t row, const char *name, uint32_t number) {
    text_addf(out, ",\n{\"ph\":\"M\",\"pid\":1,\"tid\":%" PRIu32 ",\"name\":\"thread_name\",\"args\":{\"name\":\"%s", row, name);
    if (number != UINT32_MAX) text_addf(out, " %" PRIu32, number);
    text_addf(out, "\"}}");
    text_addf(out, ",\n{\"ph\":\"M\",\"pid\":1,\"tid\":%" PRIu32 ",\"name\":\"thread_sort_index\",\"args\":{\"sort_index\":%" PRIu32 "}}", row, row);
}

static void write_span(const struct timeline *t, struct text *out, const struct span_of_time *s, uint32_t row) {
    text_addf(out, ",\n{\"ph\":\"X\",\"pid\":1,\"tid\":%" PRIu32 ",\"ts\":%.3f,\"dur\":%.3f,\"name\":\"%s\"", row, 1e-3 * (double)(s->begin_ns - t->begin_ns),
              1e-3 * (double)(s->end_ns - s->begin_ns), s->name);
    if (s->layer != TIMELINE_NO_LAYER) text_addf(out, ",\"args\":{\"layer\":%" PRIu32 "}", s->layer);
    text_addf(out, "}");
}

/* The first row whose last read has ended. */
static uint32_t drive_row(uint64_t *ends, const struct span_of_time *s) {
    uint32_t row = 0;
    while (row + 1 < DRIVE_ROWS && ends[row] > s->begin_ns) row++;
    ends[row] = s->end_ns;
    return row;
}

void timeline_write(struct timeline *t, struct text *out) {
    const char *const names[TIMELINE_TRACKS] = {"waits", "CPU", "GPU lane", "GPU lane", "GPU copies", "drive"};
    uint64_t ends[DRIVE_ROWS] = {0};
    bool named[DRIVE_ROWS] = {false};
    uint32_t n = 0;
    struct span_of_time *sorted = t ? copy_sorted(t, &n) : NULL;
    if (t && !sorted) out->failed = true;
    text_addf(out, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{\"name\":\"coldstream\"}}");
    for (uint32_t track = 0; track < TIMELINE_DRIVE; track++)
        write_row(out, track, names[track], track >= TIMELINE_LANE && track < TIMELINE_COPY ? track - TIMELINE_LANE : UINT32_MAX);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t row = sorted[i].track;
        if (row == TIMELINE_DRIVE) {
            const uint32_t at = drive_row(ends, &sorted[i]);
            row = FIRST_DRIVE_ROW + at;
            if (!named[at]) write_row(out, row, names[TIMELINE_DRIVE], at);
            named[at] = true;
        }
        write_span(t, out, &sorted[i], row);
    }
    text_addf(out, "\n]}\n");
    free(sorted);
}

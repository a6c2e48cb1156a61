/* The results of bench in llama-bench's shapes: a Markdown table, CSV, JSON, JSON lines. Keys and columns carry its names, so
 * that scripts which read one read the other; ours come at the end. */
#ifndef COLDSTREAM_BENCH_REPORT_H
#define COLDSTREAM_BENCH_REPORT_H

#include <stdio.h>

#include "cli/options.h"
#include "engine/engine.h"

struct bench_test {
    uint32_t n_prompt, n_gen, depth; /* tokens */
};

struct bench_result {
    struct bench_test test;
    const uint64_t *samples_ns; /* [n_samples] one a repetition */
    size_t n_samples;
    uint64_t ram_peak; /* bytes resident at most, so far */
    char time[24];     /* of the start, UTC, "2026-01-31T12:00:00Z" */
};

/* What all results of a run have in common. */
struct bench_context {
    const struct options *options;
    const struct model *model;
    struct engine_info info;
    char model_type[64]; /* "qwen3moe 30B.A3B Q4_K" */
    char cpu[96];
    double active_bytes; /* weights that one generated token reads */
};
void bench_describe(struct bench_context *b); /* fills the last three from the others */

/* Text for the start, one result, and the end of a report. */
void bench_add_begin(const struct bench_context *b, enum bench_format format, struct text *out);
void bench_add_result(const struct bench_context *b, enum bench_format format, const struct bench_result *r, bool first,
                      struct text *out);
void bench_add_end(const struct bench_context *b, enum bench_format format, struct text *out);

void bench_test_name(const struct bench_test *t, char *out, size_t size); /* "pp512", "tg128 @ d4096" */

#endif

/* Formats of bench. A result is first laid out as a list of keys with values, which CSV and JSON print in the same order; the
 * Markdown table has its own few columns. */
#include "cli/bench_report.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "cli/cli.h"

/* ---- description ------------------------------------------------------------------------------------------------------ */

static void read_cpu_name(char *out, size_t size) {
    char line[512];
    snprintf(out, size, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        const char *value = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
        if (!value) continue;
        snprintf(out, size, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
        break;
    }
    if (f) fclose(f);
}

static double tensor_bytes(const struct model_tensor *t) { return t ? (double)t->bytes : 0; }

/* Dense weights, the chosen share of the experts, the head, and one row of the embedding. */
static double active_bytes(const struct model *m) {
    const double share = (double)m->shape.n_experts_used / (double)m->shape.n_experts;
    double sum = tensor_bytes(m->output_norm) + tensor_bytes(m->output) + (double)m->embedding->row_bytes;
    for (uint32_t i = 0; i < m->shape.n_layers; i++) {
        const struct model_layer *l = &m->layers[i];
        sum += tensor_bytes(l->attn_norm) + tensor_bytes(l->attn_q) + tensor_bytes(l->attn_k) + tensor_bytes(l->attn_v) +
               tensor_bytes(l->attn_output) + tensor_bytes(l->attn_q_norm) + tensor_bytes(l->attn_k_norm) +
               tensor_bytes(l->ffn_norm) + tensor_bytes(l->router);
        sum += share * (tensor_bytes(l->gate) + tensor_bytes(l->up) + tensor_bytes(l->down));
    }
    return sum;
}

static enum tensor_type largest_type(const struct model *m) {
    uint64_t bytes[TYPE_COUNT] = {0};
    enum tensor_type best = TYPE_F32;
    for (size_t i = 0; i < m->n_tensors; i++) bytes[m->tensors[i].type] += m->tensors[i].bytes;
    for (int t = 0; t < TYPE_COUNT; t++)
        if (bytes[t] > bytes[best]) best = (enum tensor_type)t;
    return best;
}

static void add_count(double n, char *out, size_t size) {
    if (n >= 1e9)
        snprintf(out, size, "%.0fB", floor(n * 1e-9));
    else if (n >= 1e6)
        snprintf(out, size, "%.0fM", floor(n * 1e-6));
    else
        snprintf(out, size, "%.0fK", floor(n * 1e-3));
}

void bench_describe(struct bench_context *b) {
    const struct model_shape *s = &b->model->shape;
    const double experts = 3.0 * s->n_layers * s->n_experts * (double)s->n_ff * s->n_embd, all = (double)b->model->n_parameters;
    char total[16], active[16];
    add_count(all, total, sizeof total);
    add_count(all - experts * (1 - (double)s->n_experts_used / s->n_experts), active, sizeof active);
    snprintf(b->model_type, sizeof b->model_type, "qwen3moe %s.A%s %s", total, active,
             tensor_type_info(largest_type(b->model))->name);
    read_cpu_name(b->cpu, sizeof b->cpu);
    b->active_bytes = active_bytes(b->model);
}

void bench_test_name(const struct bench_test *t, char *out, size_t size) {
    char depth[24] = "";
    if (t->depth) snprintf(depth, sizeof depth, " @ d%u", t->depth);
    if (t->n_prompt && t->n_gen)
        snprintf(out, size, "pp%u+tg%u%s", t->n_prompt, t->n_gen, depth);
    else
        snprintf(out, size, t->n_prompt ? "pp%u%s" : "tg%u%s", t->n_prompt ? t->n_prompt : t->n_gen, depth);
}

/* ---- statistics ------------------------------------------------------------------------------------------------------- */

struct summary {
    double avg_ns, stddev_ns, avg_ts,
        stddev_ts; /* ts: tokens per second of each repetition, then averaged, as llama-bench does */
};

static double sample_ts(const struct bench_result *r, size_t i) {
    return 1e9 * (r->test.n_prompt + r->test.n_gen) / (double)(r->samples_ns[i] ? r->samples_ns[i] : 1);
}

static struct summary summarize(const struct bench_result *r) {
    struct summary s = {0};
    const double n = (double)r->n_samples;
    for (size_t i = 0; i < r->n_samples; i++) {
        s.avg_ns += (double)r->samples_ns[i] / n;
        s.avg_ts += sample_ts(r, i) / n;
    }
    for (size_t i = 0; i < r->n_samples && r->n_samples > 1; i++) {
        s.stddev_ns += pow((double)r->samples_ns[i] - s.avg_ns, 2) / (n - 1);
        s.stddev_ts += pow(sample_ts(r, i) - s.avg_ts, 2) / (n - 1);
    }
    s.stddev_ns = sqrt(s.stddev_ns);
    s.stddev_ts = sqrt(s.stddev_ts);
    return s;
}

/* GB/s at which weights are read while generating; 0 for tests that read a prompt, which shares each read among many tokens. */
static double weight_rate(const struct bench_context *b, const struct bench_result *r) {
    return r->test.n_prompt ? 0 : 1e-9 * b->active_bytes * summarize(r).avg_ts;
}

/* ---- keys ------------------------------------------------------------------------------------------------------------- */

enum { MAX_FIELDS = 48, FIELD_BYTES = 256 };

struct fields {
    struct {
        const char *key;
        bool is_text;
        char value[FIELD_BYTES];
    } items[MAX_FIELDS];
    size_t n;
};

static void put(struct fields *f, const char *key, bool is_text, const char *format, ...) PRINTF_LIKE(4, 5);
static void put(struct fields *f, const char *key, bool is_text, const char *format, ...) {
    if (f->n == MAX_FIELDS) return;
    va_list args;
    va_start(args, format);
    vsnprintf(f->items[f->n].value, FIELD_BYTES, format, args);
    va_end(args);
    f->items[f->n].key = key;
    f->items[f->n++].is_text = is_text;
}

static void put_setup(struct fields *f, const struct bench_context *b) {
    put(f, "build_commit", true, "%s", COLDSTREAM_COMMIT);
    put(f, "build_number", false, "0");
    put(f, "cpu_info", true, "%s", b->cpu);
    put(f, "gpu_info", true, "%s", "");
    put(f, "backends", true, "CPU");
    put(f, "model_filename", true, "%s", b->options->model);
    put(f, "model_type", true, "%s", b->model_type);
    put(f, "model_size", false, "%" PRIu64, b->model->weight_bytes);
    put(f, "model_n_params", false, "%" PRIu64, b->model->n_parameters);
    put(f, "n_batch", false, "%" PRId64, b->options->batch);
    put(f, "n_ubatch", false, "%" PRId64, b->options->ubatch);
    put(f, "n_threads", false, "%u", b->info.threads);
    put(f, "n_threads_batch", false, "%u", b->info.threads_batch);
    put(f, "type_k", true, "f16");
    put(f, "type_v", true, "f16");
    put(f, "n_gpu_layers", false, "0");
    put(f, "n_cpu_moe", false, "0");
    put(f, "no_kv_offload", false, "false");
    put(f, "flash_attn", false, "true");
    put(f, "tensor_buft_overrides", true, "none");
    put(f, "use_mmap", false, "false");
    put(f, "use_direct_io", false, "%s", b->info.direct_io ? "true" : "false");
}

static void put_result(struct fields *f, const struct bench_context *b, const struct bench_result *r) {
    const struct summary s = summarize(r);
    char name[64];
    bench_test_name(&r->test, name, sizeof name);
    put(f, "n_prompt", false, "%u", r->test.n_prompt);
    put(f, "n_gen", false, "%u", r->test.n_gen);
    put(f, "n_depth", false, "%u", r->test.depth);
    put(f, "test_time", true, "%s", r->time);
    put(f, "avg_ns", false, "%.0f", s.avg_ns);
    put(f, "stddev_ns", false, "%.0f", s.stddev_ns);
    put(f, "avg_ts", false, "%.6f", s.avg_ts);
    put(f, "stddev_ts", false, "%.6f", s.stddev_ts);
    put(f, "test", true, "%s", name);
    put(f, "isa", true, "%s", b->info.isa);
    put(f, "vram_budget", false, "%" PRIu64, b->info.vram_budget);
    put(f, "vram_peak", false, "%" PRIu64, b->info.vram_peak);
    put(f, "ram_peak", false, "%" PRIu64, r->ram_peak);
    put(f, "nvme_bytes", false, "0");
    put(f, "expert_hit_rate", false, "1");
    put(f, "cache_state", true, "ram");
    put(f, "ttft_ms", false, "%.3f", r->test.n_prompt && !r->test.n_gen ? 1e-6 * s.avg_ns : 0.0);
    put(f, "weight_bytes_per_token", false, "%.0f", b->active_bytes);
    put(f, "weight_gb_per_s", false, "%.3f", weight_rate(b, r));
}

static void add_csv_text(const char *s, struct text *out) {
    text_addf(out, "\"");
    for (; *s; s++) text_addf(out, *s == '"' ? "\"\"" : "%c", *s);
    text_addf(out, "\"");
}

static void add_csv(const struct fields *f, bool first, struct text *out) {
    for (size_t i = 0; first && i < f->n; i++) text_addf(out, i ? ",%s" : "%s", f->items[i].key);
    if (first) text_addf(out, "\n");
    for (size_t i = 0; i < f->n; i++) {
        if (i) text_addf(out, ",");
        add_csv_text(f->items[i].value, out);
    }
    text_addf(out, "\n");
}

static void add_samples(const struct bench_result *r, const char *separator, struct text *out) {
    text_addf(out, "%s\"samples_ns\": [", separator);
    for (size_t i = 0; i < r->n_samples; i++) text_addf(out, i ? ", %" PRIu64 : "%" PRIu64, r->samples_ns[i]);
    text_addf(out, "]%s\"samples_ts\": [", separator);
    for (size_t i = 0; i < r->n_samples; i++) text_addf(out, i ? ", %.6g" : "%.6g", sample_ts(r, i));
    text_addf(out, "]");
}

/* Without the closing brace. `separator` stands before each key. */
static void add_json(const struct fields *f, const struct bench_result *r, const char *separator, struct text *out) {
    for (size_t i = 0; i < f->n; i++) {
        text_addf(out, "%s\"%s\": ", i ? separator : "", f->items[i].key);
        if (f->items[i].is_text)
            cli_add_json_string(span_of(f->items[i].value), out);
        else
            text_addf(out, "%s", f->items[i].value);
    }
    add_samples(r, separator, out);
}

/* ---- table ------------------------------------------------------------------------------------------------------------ */

/* Columns of settings appear only when they are not the default, as in llama-bench. */
static void add_md_row(const struct bench_context *b, const struct bench_result *r, struct text *out) {
    const double size = (double)b->model->weight_bytes, parameters = (double)b->model->n_parameters;
    const bool gib = size >= 1 << 30, billions = parameters >= 1e9;
    const struct summary s = summarize(r);
    char name[64], rate[48], amount[32], count[32];
    bench_test_name(&r->test, name, sizeof name);
    snprintf(rate, sizeof rate, "%.2f ± %.2f", s.avg_ts, s.stddev_ts);
    snprintf(amount, sizeof amount, "%.2f %s", size / (gib ? 1 << 30 : 1 << 20), gib ? "GiB" : "MiB");
    snprintf(count, sizeof count, "%.2f %s", parameters * (billions ? 1e-9 : 1e-6), billions ? "B" : "M");
    text_addf(out, "| %-30s | %10s | %10s | %-10s | %7u |", b->model_type, amount, count, "CPU", b->info.threads);
    if (b->info.threads_batch != b->info.threads) text_addf(out, " %13u |", b->info.threads_batch);
    if (b->options->ubatch != 512) text_addf(out, " %8" PRId64 " |", b->options->ubatch);
    if (b->options->isa) text_addf(out, " %6s |", b->info.isa);
    if (r->test.n_prompt)
        text_addf(out, " %12s |", "");
    else
        text_addf(out, " %12.2f |", weight_rate(b, r));
    text_addf(out, " %15s | %17s |\n", name, rate); /* one more than 16: the sign of plus-minus has two bytes */
}

static void add_md_head(const struct bench_context *b, struct text *out) {
    text_addf(out, "| %-30s | %10s | %10s | %-10s | %7s |", "model", "size", "params", "backend", "threads");
    if (b->info.threads_batch != b->info.threads) text_addf(out, " threads_batch |");
    if (b->options->ubatch != 512) text_addf(out, " n_ubatch |");
    if (b->options->isa) text_addf(out, "    isa |");
    text_addf(out, " weights GB/s | %15s | %16s |\n", "test", "t/s");
    text_addf(out, "| ------------------------------ | ---------: | ---------: | ---------- | ------: |");
    if (b->info.threads_batch != b->info.threads) text_addf(out, " ------------: |");
    if (b->options->ubatch != 512) text_addf(out, " -------: |");
    if (b->options->isa) text_addf(out, " -----: |");
    text_addf(out, " -----------: | --------------: | ---------------: |\n");
}

void bench_add_begin(const struct bench_context *b, enum bench_format format, struct text *out) {
    if (format == BENCH_MD) add_md_head(b, out);
    if (format == BENCH_JSON) text_addf(out, "[\n");
}

void bench_add_result(const struct bench_context *b, enum bench_format format, const struct bench_result *r, bool first,
                      struct text *out) {
    if (format == BENCH_MD) {
        add_md_row(b, r, out);
        return;
    }
    struct fields f = {.n = 0};
    put_setup(&f, b);
    put_result(&f, b, r);
    switch (format) {
    case BENCH_CSV: add_csv(&f, first, out); break;
    case BENCH_JSON:
        text_addf(out, first ? "  {\n    " : ",\n  {\n    ");
        add_json(&f, r, ",\n    ", out);
        text_addf(out, "\n  }");
        break;
    case BENCH_JSONL:
        text_addf(out, "{");
        add_json(&f, r, ", ", out);
        text_addf(out, "}\n");
        break;
    case BENCH_MD:
    case BENCH_NONE: break;
    }
}

void bench_add_end(const struct bench_context *b, enum bench_format format, struct text *out) {
    (void)b;
    if (format == BENCH_MD) text_addf(out, "\nbuild: " COLDSTREAM_COMMIT " (coldstream " COLDSTREAM_VERSION ")\n");
    if (format == BENCH_JSON) text_addf(out, "\n]\n");
}

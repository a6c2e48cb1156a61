/* End to end: a model of full size under VRAM budgets, and the peer under the same. The engine plans with what was measured before,
 * so that the plan stands beside what came out. */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "bench/report/report.h"
#include "engine/engine.h"
#include "engine/probe.h"
#include "tests/support/synth_model.h"

#define GIB ((uint64_t)1 << 30)
#define MIB ((uint64_t)1 << 20)

enum { MOST_STEPS = 64, MOST_SPANS = 1 << 16, PROMPTS = 5, PROMPTS_S = 5 /* seconds after which no other is started */ };

struct sizes { /* in tokens */
    uint32_t short_prompt, long_prompt, near, far, before, steps; /* steps `before` those that are timed */
};
static const struct sizes full = {512, 2048, 4096, 32768, 8, MOST_STEPS}, quick = {16, 32, 48, 64, 1, 3};

static const struct column model_columns[] = {
    {"model", "model"}, {"budget_gib", "VRAM budget GiB"}, {"test", "test"}, {"depth", "depth"}, {"tok_s", "tok/s"}, {"median_ms", "median ms a token"},
    {"plan_tok_s", "planned tok/s"}, {"plan_percent", "% of plan"}, {"context", "context planned"}, {"experts_vram", "experts in VRAM"},
    {"vram_budget_mib", "budget MiB"}, {"vram_plan_mib", "planned MiB"}, {"vram_peak_mib", "peak MiB"}, {"misses_per_token", "misses a token"}, {"experts_moved", "experts moved to VRAM meanwhile"},
    {"mails_per_token", "hand-overs a token"}, {"cpu_ms_per_token", "CPU at them, ms a token"}, {"drive_ms_per_token", "waiting for the drive, ms a token"}};
enum { M_MODEL, M_BUDGET, M_TEST, M_DEPTH, M_RATE, M_MEDIAN, M_PLAN, M_SHARE, M_CONTEXT, M_EXPERTS, M_LIMIT, M_PLANNED, M_PEAK, M_MISSES, M_MOVED, M_MAILS, M_CPU, M_DRIVE,
       M_COLUMNS };

static const struct column peer_columns[] = {{"budget_gib", "VRAM budget GiB"}, {"layers_on_cpu", "peer's layers with experts on the CPU"}, {"test", "test"},
                                             {"depth", "depth"}, {"ours", "ours tok/s"}, {"peer", "peer tok/s"}, {"ratio", "ratio"},
                                             {"peer_peak_mib", "peer's peak MiB"}};

struct results { /* ours, of a budget: tokens a second; NaN: not measured */
    double prefill_short, prefill_long, decode, decode_near;
};

struct models {
    struct bench *b;
    struct section *s, *peer;
    const struct sizes *z;
    char *path, name[64];
    bool made, through_cache;
    struct results results[MAX_BUDGETS];
    double open_s; /* the longest opening so far */
};

/* One opened engine. */
struct run {
    struct models *m;
    struct engine *e;
    struct session *session;
    uint64_t budget, context, length;
    int32_t *tokens;
    uint64_t random;
    bool timeline;
};

/* ---- the file ------------------------------------------------------------------------------------------------------------------ */

static void show_progress(void *ctx, uint64_t done, uint64_t all) {
    if (all > GIB) bench_progress(ctx, "writing the model, %u %%", (unsigned)(100 * done / all));
}

static uint64_t free_in(const char *folder) {
    struct statvfs v;
    return statvfs(folder, &v) == 0 ? (uint64_t)v.f_bavail * v.f_frsize : 0;
}

/* In memory when there is plenty: the drive is not what is measured here. */
static const char *choose_folder(const struct bench *b) {
    const uint64_t needed = b->o.quick ? 16 * MIB : 19 * GIB;
    if (b->o.folder) return b->o.folder;
    if (b->facts->memory_available_bytes > 3 * needed && free_in("/dev/shm") > needed + GIB) return "/dev/shm";
    return free_in("/tmp") > needed + GIB ? "/tmp" : NULL;
}

static enum err make_model(struct models *m, struct reason *why) {
    const char *folder = choose_folder(m->b);
    struct synth_spec spec;
    if (!folder) return fail(why, ERR_LIMIT, "a model of 19 GB fits neither in /dev/shm nor in /tmp; name a folder by --tmp, or a model by -m");
    if (!synth_preset(m->b->o.quick ? SPAN("exactness") : SPAN("30b-a3b"), &spec)) return fail(why, ERR_UNSUPPORTED, "no such preset");
    if (m->b->o.quick) spec.layers = 2;
    if (asprintf(&m->path, "%s/coldstream-report-%d.gguf", folder, (int)getpid()) < 0) return fail(why, ERR_NO_MEMORY, "no memory");
    m->made = true;
    snprintf(m->name, sizeof m->name, m->b->o.quick ? "synthetic, tiny, Q4_K_M" : "synthetic 30B-A3B, Q4_K_M");
    return synth_write(m->path, &spec, &(struct synth_progress){show_progress, m->b}, why);
}

static enum err find_model(struct models *m, struct reason *why) {
    const char *given = m->b->o.model;
    if (!given) return make_model(m, why);
    const char *last = strrchr(given, '/');
    snprintf(m->name, sizeof m->name, "%.63s", last ? last + 1 : given);
    m->path = strdup(given);
    return m->path ? ERR_NONE : fail(why, ERR_NO_MEMORY, "no memory");
}

/* ---- measuring ----------------------------------------------------------------------------------------------------------------- */

static bool out_of_time(void *ctx) { return bench_late(ctx, 0); }

static void extend(struct run *r, uint64_t to) {
    const uint32_t vocab = engine_model(r->e)->shape.n_vocab;
    for (; r->length < to && r->length < r->context; r->length++) {
        r->random = r->random * 6364136223846793005u + 1442695040888963407u;
        r->tokens[r->length] = (int32_t)((r->random >> 33) % vocab);
    }
}

/* The session holds exactly r->length tokens; seconds of computing those it did not. */
static enum err bring(struct run *r, double *seconds, struct reason *why) {
    struct eval eval = {.tokens = r->tokens, .n = r->length, .should_stop = out_of_time, .ctx = r->m->b};
    const uint64_t begin = clock_ns();
    TRY(session_eval(r->session, &eval, NULL, why));
    *seconds = 1e-9 * (double)(clock_ns() - begin);
    return ERR_NONE;
}

/* A prompt of n other tokens than before; the median of several, of fewer where they take long. */
static enum err fresh_prompt(struct run *r, uint32_t n, double *rate, struct reason *why) {
    double seconds[PROMPTS], sum = 0;
    const uint32_t repeats = r->m->b->o.quick ? 1 : PROMPTS;
    uint32_t done = 0;
    while (done < repeats && sum < PROMPTS_S) {
        r->length = 0;
        extend(r, n);
        TRY(bring(r, &seconds[done], why));
        sum += seconds[done++];
    }
    *rate = n / median(seconds, done);
    return ERR_NONE;
}

struct decoded {
    double rate, median_s;
    struct engine_io before, after;
    uint32_t n;
};

static enum err decode(struct run *r, struct decoded *out, struct reason *why) {
    double seconds[MOST_STEPS], sum = 0;
    const uint32_t before = r->m->z->before;
    out->n = r->m->z->steps;
    for (uint32_t i = 0; i < before + out->n; i++) {
        if (i == before) engine_get_io(r->e, &out->before);
        if (out_of_time(r->m->b)) return fail(why, ERR_CANCELLED, "no time left");
        extend(r, r->length + 1);
        const uint64_t begin = clock_ns();
        TRY(session_append(r->session, r->tokens[r->length - 1], NULL, why));
        if (i >= before) sum += seconds[i - before] = 1e-9 * (double)(clock_ns() - begin);
    }
    engine_get_io(r->e, &out->after);
    out->rate = out->n / sum;
    out->median_s = median(seconds, out->n);
    return ERR_NONE;
}

/* ---- rows ----------------------------------------------------------------------------------------------------------------------- */

static void put_budget(struct section *s, uint32_t column, uint64_t budget) {
    if (budget) section_number(s, column, (double)budget / (double)GIB, budget % GIB ? 2 : 0);
    else section_text(s, column, "what is free");
}

static void put_run(struct run *r, const char *test, uint64_t depth, double rate, double planned) {
    struct section *s = r->m->s;
    const struct plan *p = engine_plan(r->e);
    struct engine_info info;
    engine_get_info(r->e, &info);
    section_row(s);
    section_text(s, M_MODEL, "%s", r->m->name);
    put_budget(s, M_BUDGET, r->budget);
    section_text(s, M_TEST, "%s", test);
    section_number(s, M_DEPTH, (double)depth, 0);
    section_number(s, M_RATE, rate, rate < 1000 ? 2 : 0);
    section_number(s, M_CONTEXT, (double)p->context_tokens, 0);
    section_number(s, M_EXPERTS, info.vram_experts, 0);
    section_number(s, M_LIMIT, (double)info.vram_budget / (double)MIB, 0);
    section_number(s, M_PLANNED, (double)plan_tier_bytes(p, PLAN_VRAM) / (double)MIB, 0);
    section_number(s, M_PEAK, (double)info.vram_peak / (double)MIB, 0);
    if (!(planned > 0)) return;
    section_number(s, M_PLAN, planned, planned < 1000 ? 2 : 0);
    section_number(s, M_SHARE, 100 * rate / planned, 0);
}

static void put_decode(struct run *r, uint64_t depth, const struct decoded *d) {
    const struct plan *p = engine_plan(r->e);
    struct section *s = r->m->s;
    const double n = d->n, share = p->context_tokens ? (double)depth / (double)p->context_tokens : 0; /* attention's part grows evenly */
    const double planned = p->decode.known ? 1 / (p->decode.seconds + share * (p->decode_full.seconds - p->decode.seconds)) : NAN;
    put_run(r, "decode", depth, d->rate, planned);
    section_number(s, M_MEDIAN, 1e3 * d->median_s, 3);
    section_number(s, M_MISSES, (double)(d->after.gpu_misses - d->before.gpu_misses) / n, 2);
    section_number(s, M_MOVED, (double)(d->after.moved - d->before.moved), 0);
    section_number(s, M_MAILS, (double)(d->after.mails - d->before.mails) / n, 2);
    section_number(s, M_CPU, 1e-6 * (double)(d->after.mail_ns - d->before.mail_ns) / n, 3);
    section_number(s, M_DRIVE, 1e-6 * (double)(d->after.wait_ns - d->before.wait_ns) / n, 3);
}

static void put_prompt(struct run *r, uint32_t n, uint64_t depth, double rate) {
    const struct plan *p = engine_plan(r->e);
    char test[32];
    snprintf(test, sizeof test, "prefill %u", n);
    put_run(r, test, depth, rate, depth == 0 && p->prefill.known && p->prompt_tokens == n ? n / p->prefill.seconds : NAN);
}

/* ---- runs ----------------------------------------------------------------------------------------------------------------------- */

static enum err measure_near(struct run *r, struct results *out, struct reason *why) {
    const struct sizes *z = r->m->z;
    struct decoded d;
    double seconds;
    extend(r, 1);
    TRY(bring(r, &seconds, why));
    TRY(decode(r, &d, why));
    put_decode(r, 0, &d);
    out->decode = d.rate;
    TRY(fresh_prompt(r, z->short_prompt, &out->prefill_short, why));
    put_prompt(r, z->short_prompt, 0, out->prefill_short);
    TRY(fresh_prompt(r, z->long_prompt, &out->prefill_long, why));
    put_prompt(r, z->long_prompt, 0, out->prefill_long);
    extend(r, z->near);
    TRY(bring(r, &seconds, why));
    TRY(decode(r, &d, why));
    put_decode(r, z->near, &d);
    out->decode_near = d.rate;
    const uint64_t before = r->length;
    extend(r, before + z->short_prompt);
    TRY(bring(r, &seconds, why));
    put_prompt(r, z->short_prompt, z->near, (double)(r->length - before) / seconds);
    return ERR_NONE;
}

static enum err measure_far(struct run *r, struct results *known, struct reason *why) {
    const struct sizes *z = r->m->z;
    struct decoded d;
    double seconds;
    if (bench_late(r->m->b, z->far / known->prefill_long)) return fail(why, ERR_CANCELLED, "no time to fill the context");
    extend(r, z->far);
    TRY(bring(r, &seconds, why));
    TRY(decode(r, &d, why));
    put_decode(r, z->far, &d);
    const uint64_t before = r->length;
    extend(r, before + z->short_prompt);
    TRY(bring(r, &seconds, why));
    put_prompt(r, z->short_prompt, z->far, (double)(r->length - before) / seconds);
    return ERR_NONE;
}

static void keep_warning(void *ctx, enum log_level level, const char *line) {
    (void)level;
    section_note(ctx, "The engine warned: %s", line);
}

/* Large batches where their scratch is small beside the budget. */
static uint32_t ubatch_for(const struct bench *b, uint64_t budget) { return b->o.quick ? 16 : !budget || budget >= 12 * GIB ? 2048 : 512; }

static enum err open_run(struct run *r, struct reason *why) {
    struct models *m = r->m;
    const struct bench *b = m->b;
    const struct engine_options o = {.model_path = m->path, .threads = b->o.threads, .ubatch = ubatch_for(b, r->budget), .device = b->o.device ? b->o.device : b->info.emulated ? "host" : "cuda",
                                     .vram_budget = r->budget, .kv_tokens = r->context, .no_direct_io = m->through_cache, .fill_first = true, .facts = b->facts, .timeline_spans = r->timeline ? MOST_SPANS : 0,
                                     .log = {keep_warning, m->s, LOG_WARN}};
    const uint64_t begin = clock_ns();
    TRY(engine_open(&o, &r->e, why));
    r->tokens = calloc_checked(r->context, sizeof *r->tokens);
    if (!r->tokens) return fail(why, ERR_NO_MEMORY, "no memory for %llu tokens", (unsigned long long)r->context);
    m->open_s = fmax(m->open_s, 1e-9 * (double)(clock_ns() - begin));
    return session_open(r->e, r->context, &r->session, why);
}

static void run_budget(struct models *m, uint32_t i, bool far) {
    const struct sizes *z = m->z;
    struct run r = {.m = m, .budget = m->b->o.budgets[i], .random = 1};
    struct reason why = {""};
    char budget[32];
    snprintf(budget, sizeof budget, r.budget ? "%.4g GiB" : "what is free", (double)r.budget / (double)GIB);
    r.context = (far ? z->far : z->near) + z->before + z->steps + z->short_prompt + 16;
    if (bench_late(m->b, m->open_s + 5)) {
        section_note(m->s, "Budget %s, context %llu: not measured, no time left.", budget, (unsigned long long)r.context);
        return;
    }
    bench_progress(m->b, "%s, budget %s, context %llu", m->name, budget, (unsigned long long)r.context);
    enum err e = open_run(&r, &why);
    if (!e) e = far ? measure_far(&r, &m->results[i], &why) : measure_near(&r, &m->results[i], &why);
    if (e) section_note(m->s, "Budget %s, context %llu: %s", budget, (unsigned long long)r.context, why.text);
    session_close(&r.session);
    engine_close(&r.e);
    free(r.tokens);
}

/* Prompts once more, watched: how much of the CPU's work goes on beside the GPU's. */
static enum err measure_overlap(struct run *r, struct reason *why) {
    const uint32_t n = r->m->z->long_prompt;
    double seconds;
    struct engine_overlap o;
    extend(r, n);
    TRY(bring(r, &seconds, why)); /* experts settle */
    r->length = 0;
    extend(r, n);
    const uint64_t since = clock_ns();
    TRY(bring(r, &seconds, why));
    if (!engine_get_overlap(r->e, since, &o)) return fail(why, ERR_NO_MEMORY, "no memory for the timeline");
    section_note(r->m->s, "Overlap in a prompt of %u tokens, budget %.4g GiB: the CPU busy for %.0f %% of the time, the GPU for %.0f %%, both at once for %.0f %%: %.0f %% of the CPU's work is hidden "
                          "(watched: %.0f tok/s).",
                 n, (double)r->budget / (double)GIB, 1e-7 * (double)o.cpu_ns / seconds, 1e-7 * (double)o.gpu_ns / seconds, 1e-7 * (double)o.both_ns / seconds,
                 o.cpu_ns ? 100 * (double)o.both_ns / (double)o.cpu_ns : 0, n / seconds);
    return ERR_NONE;
}

static void run_overlap(struct models *m) {
    struct run r = {.m = m, .random = 1, .timeline = true};
    struct reason why = {""};
    for (uint32_t i = 0; i < m->b->o.n_budgets; i++) /* the largest that is one */
        if (m->b->o.budgets[i] > r.budget) r.budget = m->b->o.budgets[i];
    r.context = m->z->long_prompt + 16;
    if (!r.budget) return;
    enum err e = bench_late(m->b, m->open_s + 5) ? fail(&why, ERR_CANCELLED, "no time left") : open_run(&r, &why);
    if (!e) e = measure_overlap(&r, &why);
    if (e) section_note(m->s, "Overlap of CPU and GPU in prompts: not measured: %s", why.text);
    session_close(&r.session);
    engine_close(&r.e);
    free(r.tokens);
}

/* ---- the peer --------------------------------------------------------------------------------------------------------------------- */

static void put_pair(struct models *m, uint64_t budget, const struct peer_rates *p, const char *test, uint64_t depth, double ours, double theirs) {
    section_row(m->peer);
    put_budget(m->peer, 0, budget);
    section_number(m->peer, 1, p->layers_on_cpu, 0);
    section_text(m->peer, 2, "%s", test);
    section_number(m->peer, 3, (double)depth, 0);
    section_number(m->peer, 4, ours, 2);
    section_number(m->peer, 5, theirs, 2);
    section_number(m->peer, 6, ours / theirs, 2);
    section_number(m->peer, 7, (double)p->vram_peak / (double)MIB, 0);
}

static void run_peer(struct models *m, const struct model *shape, uint32_t i) {
    struct bench *b = m->b;
    const struct results *ours = &m->results[i];
    const struct peer_question q = {m->path, shape, b->o.budgets[i], ubatch_for(b, b->o.budgets[i])};
    struct peer_rates p;
    struct reason why;
    if (peer_measure(b, &q, &p, &why)) {
        section_note(m->peer, "Budget %.4g GiB: %s", (double)q.budget / (double)GIB, why.text);
        return;
    }
    put_pair(m, q.budget, &p, "decode", 0, ours->decode, p.decode);
    put_pair(m, q.budget, &p, "decode", 4096, ours->decode_near, p.decode_4096);
    put_pair(m, q.budget, &p, "prefill 512", 0, ours->prefill_short, p.prefill_512);
    put_pair(m, q.budget, &p, "prefill 2048", 0, ours->prefill_long, p.prefill_2048);
}

/* Opens the device again, to watch the memory that the peer takes. */
static void run_peers(struct models *m) {
    struct bench *b = m->b;
    struct model *shape = NULL;
    struct reason why;
    const struct gpu_options o = {.device = b->o.device};
    if (gpu_open(&o, &b->gpu, &why) || model_open(m->path, true, &shape, &why)) {
        section_note(m->peer, "Not measured: %s", why.text);
        return;
    }
    for (uint32_t i = 0; i < b->o.n_budgets; i++) run_peer(m, shape, i);
    section_note(m->peer, "%s; the fewest layers with experts on the CPU that stay within the budget. Same batch sizes, threads and file, one after the other.", b->o.peer);
    model_close(&shape);
}

/* ---- all ------------------------------------------------------------------------------------------------------------------------------ */

static void probe_host(struct models *m) {
    struct bench *b = m->b;
    struct facts *now = calloc_checked(1, sizeof *now);
    struct reason why;
    if (now && !facts_read(now, &why)) b->facts->memory_available_bytes = now->memory_available_bytes; /* the model may lie in it */
    free(now);
    if (b->o.quick) return;
    bench_progress(b, "the host's memory and kernels");
    const struct probe_options p = {.threads = b->o.threads, .seconds = 4};
    if (probe_run(&p, b->facts, &why)) section_note(m->s, "The host was not measured, so nothing is planned: %s", why.text);
}

static void other_files(struct models *m) {
    section_row(m->s);
    section_text(m->s, M_MODEL, "synthetic 30B-A3B, 2.99 bpw");
    section_text(m->s, M_TEST, "not measured: this version has no kernels for its types");
}

static void run_all(struct models *m) {
    struct bench *b = m->b;
    probe_host(m);
    m->through_cache = b->facts->memory_available_bytes > 40 * GIB || b->o.quick;
    b->gpu->ops->close(&b->gpu); /* the engine opens its own */
    for (uint32_t i = 0; i < b->o.n_budgets; i++) run_budget(m, i, false);
    if (b->o.peer && b->o.peer[0]) run_peers(m);
    if (b->gpu) b->gpu->ops->close(&b->gpu);
    run_overlap(m);
    for (uint32_t i = 0; i < b->o.n_budgets; i++) run_budget(m, i, true);
}

void report_models(struct bench *b) {
    struct models m = {.b = b, .z = b->o.quick ? &quick : &full};
    struct reason why;
    m.s = section_open(&b->report, "models", "Models end to end", model_columns, M_COLUMNS);
    m.peer = section_open(&b->report, "peer", "Beside the peer", peer_columns, sizeof peer_columns / sizeof *peer_columns);
    for (int i = 0; i < MAX_BUDGETS; i++) m.results[i] = (struct results){NAN, NAN, NAN, NAN};
    if (!b->o.peer) section_note(m.peer, "Not measured: no peer was given (--peer /path/to/llama-bench).");
    if (!b->gpu) {
        section_note(m.s, "Not measured: no GPU.");
        return;
    }
    bench_progress(b, "a model");
    if (find_model(&m, &why)) section_note(m.s, "Not measured: %s", why.text);
    else run_all(&m);
    if (m.made && m.path) unlink(m.path);
    free(m.path);
    other_files(&m);
    section_note(m.s, "Random tokens. A step has %d nodes a layer and %d more, %.2f us each when empty. \"CPU at them\" is the time from seeing a hand-over to answering it: "
                      "what the GPU does not hide of it, it waits for. Planned decode: the plan's for an empty and a full context, depth between.",
                 LAYER_NODES, STEP_NODES, 1e6 * b->node_s);
}

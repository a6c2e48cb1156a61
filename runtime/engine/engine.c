/* Opening a model on this machine, in the order that fails cheapest first: file, kernels, memory, then the long read. */
#include "engine/engine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine_private.h"
#include "engine/plan_model.h"
#include "placement/facts.h"

enum {
    DEFAULT_UBATCH = 512,
    READS = 32 /* experts under way at most: a prompt's, which find the drive slow when it is shared with others (8: half the rate) */
};

/* The tokenizer's tables take a tenth of a second, which passes while the drive reads. */
struct tokenizing {
    struct engine *e;
    const char *path;
    struct tokenizer_source source;
    pthread_t thread;
    bool has_thread;
    enum err code;
    struct reason why;
};

static void *build_tokenizer(void *ctx) {
    struct tokenizing *t = ctx;
    struct reason inner = {{0}};
    t->code = tokenizer_open(&t->source, &t->e->tokenizer, &inner);
    if (t->code) (void)fail(&t->why, t->code, "%s: %s", t->path, inner.text);
    return NULL;
}

/* join_tokenizer() is due after success. */
static enum err start_tokenizer(struct engine *e, const struct engine_options *o, struct tokenizing *t, struct reason *why) {
    const struct model_vocab *v = &e->model->vocab;
    *t = (struct tokenizing){.e = e, .path = o->model_path};
    if (v->n_tokens == 0) return ERR_NONE;
    if (v->model.len && !span_equal(v->model, SPAN("gpt2")))
        return fail(why, ERR_UNSUPPORTED, "%s: tokenizer.ggml.model is '%.*s'; only byte-level BPE ('gpt2') is supported", o->model_path,
                    (int)v->model.len, v->model.ptr);
    if (v->pre.len && !span_equal(v->pre, SPAN("qwen2")))
        log_line(&o->log, LOG_WARN, "%s: tokenizer.ggml.pre is '%.*s'; text is cut as for 'qwen2'", o->model_path, (int)v->pre.len, v->pre.ptr);
    t->source = (struct tokenizer_source){v->n_tokens, v->tokens, v->types, v->n_merges, v->merges, v->bos,
                                          v->eos, v->eot, v->pad, v->add_bos, o->no_nfc};
    t->has_thread = !o->vocab_only && pthread_create(&t->thread, NULL, build_tokenizer, t) == 0;
    if (!t->has_thread) build_tokenizer(t);
    return ERR_NONE;
}

static enum err join_tokenizer(struct tokenizing *t, struct reason *why) {
    if (t->has_thread) pthread_join(t->thread, NULL);
    if (t->code && why) *why = t->why;
    return t->code;
}

static enum err choose_isa(const char *name, enum cpu_isa *out, struct reason *why) {
    const enum cpu_isa best = cpu_isa_best();
    *out = best;
    if (!name) return ERR_NONE;
    if (!cpu_isa_from_name(span_of(name), out)) return fail(why, ERR_ARGUMENT, "--isa %s: known are ref, avx2, avx512", name);
    if (*out > best) return fail(why, ERR_ARGUMENT, "--isa %s: this machine has %s at most", name, cpu_isa_name(best));
    return ERR_NONE;
}

static enum err open_pools(struct engine *e, const struct facts *facts, const struct engine_options *o, struct reason *why) {
    const unsigned threads = o->threads ? o->threads : facts->n_cores;
    const unsigned batch_threads = o->threads_batch ? o->threads_batch : threads;
    TRY(pool_open(threads, facts->core_cpus, facts->n_cores, &e->pool, why));
    if (batch_threads == threads) e->batch_pool = e->pool;
    else TRY(pool_open(batch_threads, facts->core_cpus, facts->n_cores, &e->batch_pool, why));
    return ERR_NONE;
}

/* ---- plan and weights ----------------------------------------------------------------------------------------------- */

/* What the process holds before any weight: counted against the budget. */
static uint64_t resident_now(void) {
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long long pages = 0, resident = 0;
    if (!f) return 0;
    if (fscanf(f, "%llu %llu", &pages, &resident) != 2) resident = 0;
    fclose(f);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* VRAM that the driver will take beside what it took at opening: modules 30 MB, four graphs 60 (docs of the GPU path). */
static const uint64_t graphs_and_modules = (uint64_t)90 << 20;

static void set_gpu_request(const struct engine *e, const struct engine_options *o, struct plan_request *r) {
    struct gpu_info gpu;
    struct gpu_memory memory;
    e->gpu->ops->info(e->gpu, &gpu);
    e->gpu->ops->memory(e->gpu, &memory);
    r->use_gpu = true;
    r->vram_overhead = memory.overhead + (gpu.emulated ? 0 : graphs_and_modules) + VRAM_ROUNDING;
    if (o->vram_budget) r->vram_budget = o->vram_budget;
    if (o->vram_reserve) r->vram_reserve = o->vram_reserve;
    if (o->gpu_layers) r->gpu_layers = o->gpu_layers;
    r->cpu_moe_layers = o->cpu_moe_layers;
    r->kv_on_host = o->kv_on_host;
    r->rules = o->rules;
    r->n_rules = o->n_rules;
    r->starts_empty = !o->fill_first;
    if (!o->fill_first) r->process_bytes += arrivals_host_bytes(e->model);
    r->process_bytes += vram_host_bytes(e->model, o->ubatch ? o->ubatch : DEFAULT_UBATCH, o->kv_on_host, o->gpu_layers || o->n_rules);
}

static enum err make_plan(struct engine *e, const struct engine_options *o, const struct facts *facts, uint64_t process_bytes,
                          const struct profile *profile, struct reason *why) {
    struct plan_model pm;
    const unsigned threads = pool_threads(e->pool), batch = pool_threads(e->batch_pool);
    TRY(plan_model_open(e->model, o->ubatch, threads > batch ? threads : batch, &pm, why));
    struct plan_request r;
    plan_request_default(&r);
    if (o->ram_budget) r.ram_budget = o->ram_budget;
    r.process_bytes = process_bytes + network_guess_bytes(&e->model->shape);
    r.context_tokens = o->kv_tokens;
    r.type_k = r.type_v = e->kv_type == KV_F32 ? PLAN_KV_F32 : PLAN_KV_F16;
    if (e->gpu) set_gpu_request(e, o, &r);
    r.max_slots = o->max_slots;
    r.threads = threads;
    r.threads_batch = batch;
    r.isa = cpu_isa_name(e->ops.isa);
    r.profile = profile;
    struct reason inner = {{0}};
    const enum err code = plan_open(&pm, facts, &r, &e->plan, &inner);
    plan_model_close(&pm);
    if (code) return fail(why, code, "%s: %s", o->model_path, inner.text);
    e->planned = true;
    const uint64_t planned = plan_tier_bytes(&e->plan, PLAN_RAM);
    e->kv_room = e->plan.bytes[PLAN_RAM][PLAN_KV] + (e->plan.ram_budget > planned ? e->plan.ram_budget - planned : 0);
    return ERR_NONE;
}

/* *out to be freed; NULL without a profile. */
static enum err read_prior(const struct engine *e, const struct profile *profile, float **out, struct reason *why) {
    *out = NULL;
    if (!profile) return ERR_NONE;
    *out = calloc_checked((uint64_t)e->model->shape.n_layers * e->model->shape.n_experts, sizeof **out);
    if (!*out) return fail(why, ERR_NO_MEMORY, "no memory for the profile");
    profile_prior(profile, *out);
    return ERR_NONE;
}

static struct fetch_options fetch_options_of(const struct engine_options *o) {
    return (struct fetch_options){.kind = o->stream, .groups = READS, .no_direct_io = o->no_direct_io, .patience_ns = o->patience_ns, .wrap = o->wrap_stream,
                                  .wrap_ctx = o->wrap_stream_ctx, .log = o->log};
}

static enum err open_store(struct engine *e, const struct engine_options *o, const struct profile *profile, struct reason *why) {
    const struct fetch_options fetch = fetch_options_of(o);
    TRY(fetch_open(e->model, &fetch, &e->fetch, why));
    float *prior;
    TRY(read_prior(e, profile, &prior, why));
    const struct experts_options store = {.model = e->model, .fetch = e->fetch, .plan = &e->plan, .prior = prior,
                                          .look_ahead = !o->no_look_ahead, .timeline = e->timeline, .log = o->log};
    const enum err code = experts_open(&store, &e->experts, why);
    free(prior);
    return code;
}

/* Dense weights and, when the caller waits for them, experts are one load to the user. */
struct loading {
    const struct engine_options *o;
    uint64_t dense, total;
};

static bool dense_progress(void *ctx, uint64_t done, uint64_t total) {
    const struct loading *l = ctx;
    (void)total;
    return l->o->on_load && l->o->on_load(l->o->on_load_ctx, done, l->total);
}

static bool expert_progress(void *ctx, uint64_t done) {
    const struct loading *l = ctx;
    return l->o->on_load && l->o->on_load(l->o->on_load_ctx, l->dense + done, l->total);
}

static uint64_t resident_expert_bytes(const struct plan *p) {
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < p->n_layers; l++) bytes += p->layers[l].experts[PLAN_RAM] * p->layers[l].expert_bytes;
    return bytes;
}

/* With a GPU the CPU needs the embedding, the norms, and what it computes itself. */
static void only_for_cpu(const struct model *m, const struct plan *p, bool *wanted) {
    for (size_t i = 0; i < m->n_tensors; i++) wanted[i] &= &m->tensors[i] == m->embedding || m->tensors[i].ne[1] <= 1;
    for (uint32_t l = 0; l < m->shape.n_layers; l++) {
        const struct model_layer *from = &m->layers[l];
        const struct model_tensor *const attention[] = {from->attn_q, from->attn_k, from->attn_v, from->attn_output};
        for (int k = 0; k < 4 && !p->layers[l].attention_on_gpu; k++) wanted[attention[k] - m->tensors] = true;
        if (!p->layers[l].router_on_gpu) wanted[from->router - m->tensors] = true;
    }
    if (!p->head_on_gpu) wanted[m->output - m->tensors] = true;
    for (size_t i = 0; i < m->n_tensors; i++) { /* EXL3's factors go with their matrix */
        const struct model_tensor *t = &m->tensors[i];
        if (t->in_scale) wanted[t->in_scale - m->tensors] = wanted[t->out_scale - m->tensors] = wanted[i];
    }
}

static bool vram_progress(void *ctx, uint64_t done) {
    const struct loading *l = ctx;
    return l->o->on_load && l->o->on_load(l->o->on_load_ctx, l->dense + done, l->total);
}

static enum err load_gpu(struct engine *e, const struct engine_options *o, struct loading *l, struct reason *why) {
    const uint64_t there = plan_tier_bytes(&e->plan, PLAN_VRAM) - (o->fill_first ? 0 : e->plan.bytes[PLAN_VRAM][PLAN_EXPERTS]);
    l->total += there;
    const struct vram_options v = {.model = e->model, .plan = &e->plan, .net = &e->network, .weights = &e->weights,
                                   .ubatch = o->ubatch ? o->ubatch : DEFAULT_UBATCH, .host_defers = o->defer_experts != 0, .experts_later = !o->fill_first, .fetch = e->fetch, .gpu = e->gpu, .log = o->log,
                                   .on_load = vram_progress, .ctx = l};
    TRY(vram_open(&v, &e->vram, why));
    l->dense += there;
    experts_leave_out(e->experts, e->vram->place_of);
    return ERR_NONE;
}

static enum err load(struct engine *e, const struct engine_options *o, struct reason *why) {
    bool *wanted = calloc_checked(e->model->n_tensors, sizeof *wanted);
    if (!wanted) return fail(why, ERR_NO_MEMORY, "no memory for the tensor list");
    network_wanted(e->model, false, wanted);
    if (e->gpu) only_for_cpu(e->model, &e->plan, wanted);
    struct loading l = {.o = o};
    for (size_t i = 0; i < e->model->n_tensors; i++) l.dense += wanted[i] ? e->model->tensors[i].bytes : 0;
    l.total = l.dense + (o->fill_first ? resident_expert_bytes(&e->plan) : 0);
    const struct weights_load how = {e->fetch, dense_progress, &l};
    const enum err code = weights_open(e->model, wanted, &how, &e->weights, why);
    free(wanted);
    TRY(code);
    TRY(network_open(e->model, &e->weights, &e->ops, &e->network, why));
    if (e->gpu) TRY(load_gpu(e, o, &l, why));
    return o->fill_first ? experts_fill(e->experts, expert_progress, &l, why) : ERR_NONE;
}

/* ---- the GPU -------------------------------------------------------------------------------------------------------- */

/* None, unless it is asked for by name, is no error. */
static enum err open_gpu(struct engine *e, const struct engine_options *o, struct reason *why) {
    if (o->device && strcmp(o->device, "cpu") == 0) return ERR_NONE;
    if (o->on_input && o->device) return fail(why, ERR_ARGUMENT, "--device %s: inputs of matrices can be watched on the CPU only", o->device);
    if (o->on_input) return ERR_NONE;
    const struct gpu_options options = {.device = o->device};
    struct reason inner;
    const enum err code = gpu_open(&options, &e->gpu, &inner);
    if (!code) {
        if (vram_check(e->model, e->gpu->ops, &inner) == ERR_NONE) return ERR_NONE;
        log_line(&o->log, LOG_WARN, "the GPU is not used: %s", inner.text); /* the CPU has kernels: network_check() */
        e->gpu->ops->close(&e->gpu);
        return ERR_NONE;
    }
    if (o->device) return *why = inner, code;
    log_line(&o->log, LOG_DEBUG, "no GPU is used: %s", inner.text);
    return ERR_NONE;
}

/* What the card says of itself counts, and what was measured of it before. */
static void describe_gpu(const struct engine *e, struct facts *f) {
    struct gpu_info info;
    e->gpu->ops->info(e->gpu, &info);
    if (f->n_gpus == 0) f->n_gpus = 1;
    facts_set_text(f->gpus[0].name, sizeof f->gpus[0].name, info.name);
    f->gpus[0].vram_bytes = info.vram_bytes;
    f->gpus[0].vram_free_bytes = info.free_bytes;
}

/* The plan may have found the card too small. */
static void settle_gpu(struct engine *e, const struct engine_options *o) {
    if (e->plan.use_gpu) {
        e->gpu->ops->set_budget(e->gpu, e->plan.vram_budget);
        return;
    }
    log_line(&o->log, LOG_WARN, "the GPU is not used: %s", e->plan.gpu_note ? e->plan.gpu_note : "the budget leaves nothing for it");
    e->gpu->ops->close(&e->gpu);
}

/* Threads and the plan, from what the machine has. */
static enum err open_on_machine(struct engine *e, const struct engine_options *o, uint64_t process_bytes,
                                const struct profile *profile, struct reason *why) {
    struct facts *facts = calloc_checked(1, sizeof *facts);
    if (!facts) return fail(why, ERR_NO_MEMORY, "no memory for the machine's facts");
    enum err code = ERR_NONE;
    if (o->facts) *facts = *o->facts;
    else code = facts_read(facts, why);
    if (!code && e->gpu) describe_gpu(e, facts);
    if (!code) code = open_pools(e, facts, o, why);
    if (!code) code = make_plan(e, o, facts, process_bytes, profile, why);
    if (!code && e->gpu) settle_gpu(e, o);
    if (!code && e->gpu) e->rates = split_rates_of(facts, 0, cpu_isa_name(e->ops.isa), pool_threads(e->batch_pool), false);
    free(facts);
    return code;
}

/* Slots that are filled from now on, before RAM is. */
static enum err await_arrivals(struct engine *e, const struct engine_options *o, const float *prior, struct reason *why) {
    if (o->fill_first) return ERR_NONE;
    const struct fetch_options fetch = fetch_options_of(o);
    const struct arrivals_options arrivals = {.vram = e->vram, .experts = e->experts, .moves = e->moves, .fetch = &fetch, .prior = prior, .log = o->log};
    TRY(arrivals_open(&arrivals, &e->arrivals, why));
    experts_fill_after(e->experts, arrivals_in_background, e->arrivals);
    return ERR_NONE;
}

/* Without room to move experts, or to pass them, they stay where they are. */
static enum err use_vram(struct engine *e, const struct engine_options *o, const struct profile *profile, struct reason *why) {
    struct reason refused;
    float *prior;
    TRY(read_prior(e, profile, &prior, why));
    const struct moves_options moves = {.vram = e->vram, .experts = e->experts, .plan = &e->plan, .prior = prior, .timeline = e->timeline, .shuffle = o->shuffle_experts};
    if (moves_open(&moves, &e->moves, &refused)) log_line(&o->log, LOG_WARN, "experts stay where they are: %s", refused.text);
    const enum err awaited = await_arrivals(e, o, prior, why);
    free(prior);
    TRY(awaited);
    const struct ring_options ring = {.vram = e->vram, .experts = e->experts, .timeline = e->timeline, .rates = e->rates, .from_tokens = o->pass_from_tokens};
    if (ring_open(&ring, &e->ring, &refused)) log_line(&o->log, LOG_WARN, "prompts leave experts in RAM to the CPU: %s", refused.text);
    graph_use_vram(e->graph, e->vram, e->moves, e->ring, e->arrivals);
    return ERR_NONE;
}

/* Everything from the plan on. */
static enum err open_weights(struct engine *e, const struct engine_options *o, uint64_t process_bytes, struct reason *why) {
    const struct profile *profile = o->find_profile ? o->find_profile(o->find_profile_ctx, e->model) : NULL;
    TRY(open_on_machine(e, o, process_bytes, profile, why));
    const uint64_t begin = clock_ns();
    if (o->timeline_spans) TRY(timeline_open(e->gpu, o->timeline_spans, &e->timeline, why));
    TRY(open_store(e, o, profile, why));
    TRY(load(e, o, why));
    e->load_ns = clock_ns() - begin;
    if (!fetch_direct(e->fetch)) log_line(&o->log, LOG_INFO, "weights were read through the page cache");
    e->guesses_due = !e->gpu && !e->plan.all_resident && !o->no_look_ahead;
    const unsigned threads = pool_threads(e->pool), batch_threads = pool_threads(e->batch_pool);
    const struct graph_hook hook = {o->on_experts, o->on_experts_ctx, o->on_input, o->on_input_ctx};
    TRY(graph_open(&e->network, &e->ops, e->experts, &hook, o->ubatch ? o->ubatch : DEFAULT_UBATCH,
                   threads > batch_threads ? threads : batch_threads, &e->graph, why));
    graph_show(e->graph, e->timeline);
    graph_defer(e->graph, o->defer_experts);
    return e->vram ? use_vram(e, o, profile, why) : ERR_NONE;
}

static enum err start(struct engine *e, const struct engine_options *o, struct reason *why) {
    TRY(model_open(o->model_path, !o->vocab_only, &e->model, why));
    TRY(model_override_rope(e->model, &o->rope, why));
    const char *warning = NULL;
    e->family = chat_family_detect(e->model->chat_template, &warning);
    if (warning) log_line(&o->log, LOG_INFO, "%s", warning); /* programs that use the template warn */
    if (!o->vocab_only) {
        enum cpu_isa isa;
        TRY(choose_isa(o->isa, &isa, why));
        cpu_ops_init(&e->ops, isa);
        TRY(network_check(e->model, &e->ops, why));
    }
    if (!o->vocab_only) TRY(open_gpu(e, o, why));
    struct tokenizing t;
    const uint64_t before = resident_now();
    TRY(start_tokenizer(e, o, &t, why));
    const uint64_t process_bytes = before + (e->model->vocab.n_tokens ? tokenizer_memory(&t.source) : 0);
    const enum err opened = o->vocab_only ? ERR_NONE : open_weights(e, o, process_bytes, why);
    const enum err tokenized = join_tokenizer(&t, opened ? NULL : why);
    if (opened || tokenized) return opened ? opened : tokenized;
    return o->vocab_only || o->fill_first ? ERR_NONE : experts_start_fill(e->experts, why);
}

enum err engine_open(const struct engine_options *options, struct engine **out, struct reason *why) {
    *out = NULL;
    struct engine *e = calloc_checked(1, sizeof *e);
    if (!e) return fail(why, ERR_NO_MEMORY, "no memory for the engine");
    e->log = options->log;
    e->kv_type = options->kv_f32 ? KV_F32 : KV_F16;
    const enum err code = start(e, options, why);
    if (code) engine_close(&e);
    *out = e;
    return code;
}

void engine_close(struct engine **engine) {
    struct engine *e = *engine;
    if (!e) return;
    *engine = NULL;
    if (e->experts) experts_stop_fill(e->experts); /* it may be at the device */
    graph_close(&e->graph);
    arrivals_close(&e->arrivals);
    ring_close(&e->ring);
    moves_close(&e->moves);
    vram_close(&e->vram);
    network_close(&e->network);
    experts_close(&e->experts);
    fetch_close(&e->fetch); /* may have been writing into the weights' memory */
    weights_close(&e->weights);
    timeline_close(&e->timeline);
    if (e->gpu) e->gpu->ops->close(&e->gpu);
    if (e->planned) plan_close(&e->plan);
    if (e->batch_pool != e->pool) pool_close(&e->batch_pool);
    pool_close(&e->pool);
    tokenizer_close(&e->tokenizer);
    model_close(&e->model);
    free(e);
}

const struct model *engine_model(const struct engine *e) { return e->model; }
const struct tokenizer *engine_tokenizer(const struct engine *e) { return e->tokenizer; }
enum chat_family engine_chat_family(const struct engine *e) { return e->family; }

void engine_get_info(const struct engine *e, struct engine_info *out) {
    *out = (struct engine_info){.isa = cpu_isa_name(e->ops.isa)};
    if (!e->graph) return;
    out->threads = pool_threads(e->pool);
    out->threads_batch = pool_threads(e->batch_pool);
    out->weight_bytes = e->weights.bytes + experts_bytes(e->experts);
    out->scratch_bytes = graph_scratch_bytes(e->graph);
    out->kv_bytes_per_token = kv_bytes_per_token(&e->model->shape, e->kv_type);
    out->load_ns = e->load_ns;
    out->direct_io = fetch_direct(e->fetch);
    if (!e->vram) return;
    struct gpu_info gpu;
    struct gpu_memory memory;
    e->gpu->ops->info(e->gpu, &gpu);
    e->gpu->ops->memory(e->gpu, &memory);
    snprintf(out->device, sizeof out->device, "%s", gpu.name);
    out->vram_budget = memory.budget;
    out->vram_peak = memory.peak;
    const uint64_t n = (uint64_t)e->vram->n_layers * e->vram->n_experts;
    for (uint64_t i = 0; i < n; i++) out->vram_experts += __atomic_load_n(&e->vram->slot_of[i], __ATOMIC_RELAXED) != 0;
}

const struct plan *engine_plan(const struct engine *e) { return e->planned ? &e->plan : NULL; }

void engine_get_io(const struct engine *e, struct engine_io *out) {
    *out = (struct engine_io){.backend = "none"};
    if (!e->graph) return;
    experts_count(e->experts, out);
    struct moves_counters moves = {0};
    if (e->moves) moves_count(e->moves, &moves);
    out->moved = moves.moved;
    out->moved_bytes = moves.bytes;
    struct ring_counters ring = {0};
    if (e->ring) ring_count(e->ring, &ring);
    struct graph_mails mails;
    graph_count_mails(e->graph, &mails);
    out->gpu_tokens = mails.tokens;
    out->gpu_misses = mails.misses;
    out->mails = mails.mails;
    out->mail_ns = mails.ns;
    struct arrivals_counters arrivals = {0};
    if (e->arrivals) arrivals_count(e->arrivals, &arrivals);
    out->arrived = arrivals.background + arrivals.needed;
    out->arrived_needed = arrivals.needed;
    out->deferred = graph_count_deferred(e->graph);
    out->passed = ring.passed;
    out->passed_bytes = ring.bytes;
    out->passed_again = ring.reused;
}

void engine_write_timeline(const struct engine *e, struct text *out) { timeline_write(e->timeline, out); }

bool engine_get_overlap(const struct engine *e, uint64_t since_ns, struct engine_overlap *out) {
    struct timeline_overlap o;
    const bool known = timeline_measure(e->timeline, since_ns, &o);
    *out = (struct engine_overlap){o.cpu_ns, o.device_ns, o.both_ns};
    return known;
}

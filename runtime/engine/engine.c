/* Opening a model on this machine, in the order that fails cheapest first: file, kernels, memory, then the long read. */
#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

#include "engine/engine_private.h"
#include "placement/facts.h"

enum { DEFAULT_UBATCH = 512 };

static enum err open_tokenizer(struct engine *e, const struct engine_options *o, struct reason *why) {
    const struct model_vocab *v = &e->model->vocab;
    if (v->n_tokens == 0) return ERR_NONE;
    if (v->model.len && !span_equal(v->model, SPAN("gpt2")))
        return fail(why, ERR_UNSUPPORTED, "%s: tokenizer.ggml.model is '%.*s'; only byte-level BPE ('gpt2') is supported", o->model_path,
                    (int)v->model.len, v->model.ptr);
    if (v->pre.len && !span_equal(v->pre, SPAN("qwen2")))
        log_line(&o->log, LOG_WARN, "%s: tokenizer.ggml.pre is '%.*s'; text is cut as for 'qwen2'", o->model_path, (int)v->pre.len, v->pre.ptr);
    const struct tokenizer_source source = {v->n_tokens, v->tokens, v->types, v->n_merges, v->merges, v->bos,
                                            v->eos, v->eot, v->pad, v->add_bos, o->no_nfc};
    struct reason inner = {{0}};
    const enum err code = tokenizer_open(&source, &e->tokenizer, &inner);
    return code ? fail(why, code, "%s: %s", o->model_path, inner.text) : ERR_NONE;
}

static enum err choose_isa(const char *name, enum cpu_isa *out, struct reason *why) {
    const enum cpu_isa best = cpu_isa_best();
    *out = best;
    if (!name) return ERR_NONE;
    if (!cpu_isa_from_name(span_of(name), out)) return fail(why, ERR_ARGUMENT, "--isa %s: known are ref, avx2, avx512", name);
    if (*out > best) return fail(why, ERR_ARGUMENT, "--isa %s: this machine has %s at most", name, cpu_isa_name(best));
    return ERR_NONE;
}

static enum err check_memory(const struct engine *e, uint64_t need, const char *what, struct reason *why) {
    if (need <= e->memory_available) return ERR_NONE;
    return fail(why, ERR_LIMIT, "%s needs %llu MiB and %llu MiB are available: %llu MiB are missing", what, (unsigned long long)(need >> 20),
                (unsigned long long)(e->memory_available >> 20), (unsigned long long)((need - e->memory_available + (1 << 20) - 1) >> 20));
}

static enum err open_pools(struct engine *e, const struct facts *facts, const struct engine_options *o, struct reason *why) {
    const unsigned threads = o->threads ? o->threads : facts->n_cores;
    const unsigned batch_threads = o->threads_batch ? o->threads_batch : threads;
    TRY(pool_open(threads, facts->core_cpus, facts->n_cores, &e->pool, why));
    if (batch_threads == threads) e->batch_pool = e->pool;
    else TRY(pool_open(batch_threads, facts->core_cpus, facts->n_cores, &e->batch_pool, why));
    return ERR_NONE;
}

static enum err load(struct engine *e, const struct engine_options *o, struct reason *why) {
    TRY(network_check(e->model, &e->ops, why));
    bool *wanted = calloc_checked(e->model->n_tensors, sizeof *wanted);
    if (!wanted) return fail(why, ERR_NO_MEMORY, "no memory for the tensor list");
    network_wanted(e->model, wanted);
    enum err code = check_memory(e, weights_bytes(e->model, wanted), "the model", why);
    if (!code) {
        const struct fetch_options reading = {.kind = o->stream,
                                              .no_direct_io = o->no_direct_io,
                                              .wrap = o->wrap_stream,
                                              .wrap_ctx = o->wrap_stream_ctx,
                                              .log = o->log};
        code = fetch_open(e->model, &reading, &e->fetch, why);
    }
    if (!code) {
        const struct weights_load how = {e->fetch, o->on_load, o->on_load_ctx};
        code = weights_open(e->model, wanted, &how, &e->weights, why);
    }
    free(wanted);
    return code;
}

static enum err start(struct engine *e, const struct engine_options *o, struct reason *why) {
    TRY(model_open(o->model_path, !o->vocab_only, &e->model, why));
    TRY(open_tokenizer(e, o, why));
    const char *warning = NULL;
    e->family = chat_family_detect(e->model->chat_template, &warning);
    if (warning) log_line(&o->log, LOG_INFO, "%s", warning); /* programs that use the template warn */
    if (o->vocab_only) return ERR_NONE;

    enum cpu_isa isa;
    TRY(choose_isa(o->isa, &isa, why));
    cpu_ops_init(&e->ops, isa);
    struct facts *facts = calloc_checked(1, sizeof *facts);
    if (!facts) return fail(why, ERR_NO_MEMORY, "no memory for the machine's facts");
    enum err code = facts_read(facts, why);
    e->memory_available = facts->memory_available_bytes;
    if (!code) code = open_pools(e, facts, o, why);
    free(facts);
    TRY(code);

    const uint64_t begin = clock_ns();
    TRY(load(e, o, why));
    e->load_ns = clock_ns() - begin;
    if (!fetch_direct(e->fetch)) log_line(&o->log, LOG_INFO, "weights were read through the page cache");
    TRY(network_open(e->model, &e->weights, &e->ops, &e->network, why));
    const unsigned threads = pool_threads(e->pool), batch_threads = pool_threads(e->batch_pool);
    return graph_open(&e->network, &e->ops, o->ubatch ? o->ubatch : DEFAULT_UBATCH, threads > batch_threads ? threads : batch_threads,
                      &e->graph, why);
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
    graph_close(&e->graph);
    network_close(&e->network);
    fetch_close(&e->fetch); /* it may still write into the weights' memory */
    weights_close(&e->weights);
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
    out->weight_bytes = e->weights.bytes;
    out->scratch_bytes = graph_scratch_bytes(e->graph);
    out->kv_bytes_per_token = kv_bytes_per_token(&e->model->shape, e->kv_type);
    out->load_ns = e->load_ns;
    out->direct_io = fetch_direct(e->fetch);
}

void engine_get_io(const struct engine *e, struct engine_io *out) {
    *out = (struct engine_io){.backend = e->fetch ? fetch_backend(e->fetch) : "none"};
}

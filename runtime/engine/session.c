/* One sequence: which tokens the KV cache holds, and how to get from them to the ones asked for. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine_private.h"

struct session {
    struct engine *engine;
    struct kv kv;
    int32_t *tokens; /* [kv.capacity]: those whose rows are filled */
    uint64_t length;
    float *logits;       /* [n_vocab], of tokens[length - 1] when logits_valid */
    bool logits_valid;
    uint64_t kv_room;    /* of the engine's, taken */
};

/* Bytes that a token takes in RAM: of the layers whose cache is not in VRAM. */
static uint64_t ram_bytes_per_token(const struct engine *e) {
    uint32_t layers = 0;
    for (uint32_t l = 0; l < e->plan.n_layers; l++) layers += !e->plan.layers[l].kv_on_gpu;
    return kv_bytes_per_token(&e->model->shape, e->kv_type) / e->plan.n_layers * layers;
}

static enum err check_capacity(const struct engine *e, uint64_t n_ctx, struct reason *why) {
    if (e->vram && !e->vram->kv_on_host) {
        const uint64_t most = (uint64_t)e->vram->n_pages * GPU_PAGE_TOKENS;
        if (n_ctx > most)
            return fail(why, ERR_LIMIT, "a context of %llu tokens is more than the %llu that VRAM was set aside for; use -c when the model is loaded",
                        (unsigned long long)n_ctx, (unsigned long long)most);
    }
    const uint64_t per_token = ram_bytes_per_token(e);
    if (per_token == 0) return ERR_NONE;
    uint64_t kv;
    if (!size_mul(per_token, n_ctx, &kv))
        return fail(why, ERR_LIMIT, "a context of %llu tokens overflows the address space; use -c", (unsigned long long)n_ctx);
    if (kv <= e->kv_room) return ERR_NONE;
    return fail(why, ERR_LIMIT, "a context of %llu tokens needs %llu MiB for its KV cache, %llu MiB more than the budget leaves; "
                "-c %llu would fit", (unsigned long long)n_ctx, (unsigned long long)(kv >> 20),
                (unsigned long long)((kv - e->kv_room + (1 << 20) - 1) >> 20), (unsigned long long)(e->kv_room / per_token));
}

/* Rows in RAM, pages in VRAM, or both: each layer uses its own. Rows of layers that use none are address space, never memory. */
static enum err open_cache(struct session *s, uint64_t n_ctx, struct reason *why) {
    struct engine *e = s->engine;
    const uint64_t bytes = ram_bytes_per_token(e) * n_ctx;
    if (bytes) TRY(kv_open(&e->model->shape, e->kv_type, n_ctx, &s->kv, why));
    if (e->vram && !e->vram->kv_on_host) TRY(vram_open_kv(e->vram, n_ctx, &s->kv, why));
    s->kv_room = bytes < e->kv_room ? bytes : e->kv_room;
    e->kv_room -= s->kv_room;
    return ERR_NONE;
}

enum err session_open(struct engine *e, uint64_t n_ctx, struct session **out, struct reason *why) {
    *out = NULL;
    if (!e->graph) return fail(why, ERR_ARGUMENT, "this engine was opened for its vocabulary only");
    if (n_ctx == 0) n_ctx = e->plan.context_tokens;
    TRY(check_capacity(e, n_ctx, why));
    struct session *s = calloc_checked(1, sizeof *s);
    if (!s) return fail(why, ERR_NO_MEMORY, "no memory for a session");
    s->engine = e;
    enum err code = open_cache(s, n_ctx, why);
    s->tokens = calloc_checked(n_ctx, sizeof *s->tokens);
    s->logits = calloc_checked(e->model->shape.n_vocab, sizeof *s->logits);
    if (!code && (!s->tokens || !s->logits)) code = fail(why, ERR_NO_MEMORY, "no memory for a session of %llu tokens", (unsigned long long)n_ctx);
    if (code) session_close(&s);
    *out = s;
    return code;
}

void session_close(struct session **session) {
    struct session *s = *session;
    if (!s) return;
    *session = NULL;
    s->engine->kv_room += s->kv_room;
    if (s->kv.in_vram) vram_close_kv(s->engine->vram, &s->kv);
    kv_close(&s->kv);
    free(s->tokens);
    free(s->logits);
    free(s);
}

uint64_t session_capacity(const struct session *s) { return s->kv.capacity; }
uint64_t session_length(const struct session *s) { return s->length; }
const int32_t *session_tokens(const struct session *s) { return s->tokens; }

static enum err check_tokens(const struct session *s, const int32_t *tokens, uint64_t n, struct reason *why) {
    if (n == 0) return fail(why, ERR_ARGUMENT, "there are no tokens to compute");
    if (n > s->kv.capacity)
        return fail(why, ERR_LIMIT, "%llu tokens do not fit the context of %llu; use a larger -c", (unsigned long long)n,
                    (unsigned long long)s->kv.capacity);
    for (uint64_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= s->engine->model->shape.n_vocab)
            return fail(why, ERR_ARGUMENT, "token %d at position %llu is not in the vocabulary of %u", tokens[i], (unsigned long long)i,
                        s->engine->model->shape.n_vocab);
    return ERR_NONE;
}

/* How many leading tokens need no work. The last one is computed again unless its logits are still here. */
static uint64_t reusable(const struct session *s, const struct eval *eval) {
    if (eval->on_logits) return 0;
    uint64_t same = 0;
    const uint64_t limit = s->length < eval->n ? s->length : eval->n;
    while (same < limit && s->tokens[same] == eval->tokens[same]) same++;
    if (same == eval->n && !(same == s->length && s->logits_valid)) same--;
    return same;
}

static void copy_routers_once(struct engine *e) {
    struct reason why;
    e->guesses_due = false;
    if (network_look_ahead(&e->network, &e->ops, e->pool, &why))
        log_line(&e->log, LOG_WARN, "looking ahead takes more memory traffic than it need: %s", why.text);
}

/* Compute tokens [s->length, s->length + n), all of one ubatch. After a failure the session is as before. */
static enum err compute(struct session *s, const int32_t *tokens, uint32_t n, bool want_logits, const struct eval *eval,
                        struct reason *why) {
    struct engine *e = s->engine;
    memcpy(s->tokens + s->length, tokens, n * sizeof *tokens);
    const struct batch b = {.tokens = s->tokens + s->length, .n = n, .first = s->length, .kv = &s->kv,
                            .want_logits = want_logits, .on_logits = eval ? eval->on_logits : NULL,
                            .should_stop = eval ? eval->should_stop : NULL,
                            .logits_from = eval ? eval->logits_from : 0, .ctx = eval ? eval->ctx : NULL};
    s->logits_valid = false;
    if (e->computed && e->guesses_due) copy_routers_once(e);
    TRY(graph_run(e->graph, n == 1 ? e->pool : e->batch_pool, &b, why));
    e->computed = true;
    s->length += n;
    s->logits_valid = want_logits;
    if (want_logits)
        memcpy(s->logits, graph_logits(e->graph), e->model->shape.n_vocab * sizeof *s->logits);
    return ERR_NONE;
}

enum err session_eval(struct session *s, struct eval *eval, const float **logits, struct reason *why) {
    TRY(check_tokens(s, eval->tokens, eval->n, why));
    if (eval->on_logits) TRY(graph_want_all_logits(s->engine->graph, why));
    eval->reused = reusable(s, eval);
    if (eval->reused < s->length || eval->reused < eval->n) s->logits_valid = false;
    s->length = eval->reused;
    while (s->length < eval->n) {
        const uint64_t left = eval->n - s->length, ubatch = graph_ubatch(s->engine->graph);
        const uint32_t n = (uint32_t)(left < ubatch ? left : ubatch);
        const enum err e = compute(s, eval->tokens + s->length, n, n == left && !eval->on_logits, eval, why);
        if (e && e != ERR_CANCELLED) return e;
        const bool stop = !e && eval->on_progress && eval->on_progress(eval->ctx, s->length, eval->n) && s->length < eval->n;
        if (e || stop)
            return fail(why, ERR_CANCELLED, "stopped after %llu of %llu prompt tokens", (unsigned long long)s->length,
                        (unsigned long long)eval->n);
    }
    if (logits) *logits = s->logits_valid ? s->logits : NULL;
    return ERR_NONE;
}

enum err session_append(struct session *s, int32_t token, const float **logits, struct reason *why) {
    if (s->length == s->kv.capacity)
        return fail(why, ERR_LIMIT, "the context of %llu tokens is full; use a larger -c", (unsigned long long)s->kv.capacity);
    if (token < 0 || (uint32_t)token >= s->engine->model->shape.n_vocab)
        return fail(why, ERR_ARGUMENT, "token %d is not in the vocabulary of %u", token, s->engine->model->shape.n_vocab);
    TRY(compute(s, &token, 1, true, NULL, why));
    if (logits) *logits = s->logits;
    return ERR_NONE;
}

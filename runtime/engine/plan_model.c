/* From a validated model to the planner's description. */
#include "engine/plan_model.h"

#include <stdlib.h>

#include "engine/fetch.h"
#include "engine/graph.h"
#include "engine/vram.h"

enum { DEFAULT_UBATCH = 512, MAX_ROLES = 16 };

/* Activations of a prompt on a GPU (docs of the GPU path, prefill: 140 MB at 2048 tokens), decode scratch and partials. */
static uint64_t gpu_scratch_bytes(const struct model_shape *s, uint64_t n) {
    const uint64_t e = s->n_embd, qw = (uint64_t)s->n_heads * s->head_dim, kw = (uint64_t)s->n_kv_heads * s->head_dim;
    const uint64_t used = s->n_experts_used, per_token = 6 * e + 2 * qw + 4 * kw + 4 * s->n_experts + 2 * used * (s->n_ff + e);
    return n * per_token + (uint64_t)s->n_vocab * 8 + (8 << 20);
}

/* EXL3 (gpu/trellis.h): transformed vectors and gate's results of a prompt, parts of sums of a step. */
static uint64_t gpu_trellis_bytes(const struct model *m, uint64_t n) {
    const struct model_shape *s = &m->shape;
    const uint64_t wide = s->n_embd > s->n_ff ? s->n_embd : s->n_ff, pairs = n * s->n_experts_used;
    for (uint32_t i = 0; i < s->n_layers; i++)
        if (m->layers[i].gate->in_scale) return pairs * (2 * wide + 4 * (uint64_t)s->n_ff + 4) + (8 << 20);
    return 0;
}

struct filling {
    const struct model *m;
    struct plan_model *out;
};

static void add(struct filling *f, const struct model_tensor *t, enum plan_role role, uint32_t layer) {
    if (!t) return;
    const uint64_t each = role == PLAN_ROLE_EXPERTS ? t->ne[2] : 1;
    const struct model_tensor *const parts[] = {t, t->in_scale, t->out_scale}; /* a matrix and, of EXL3, its factors */
    uint64_t bytes = 0, room = 0; /* of files: cannot overflow */
    for (int i = 0; i < 3 && parts[i]; i++) {
        bytes += parts[i]->bytes / each;
        room += fetch_room(parts[i]->bytes / each);
    }
    f->out->tensors[f->out->n_tensors++] =
        (struct plan_tensor){.name = t->name,
                             .role = role,
                             .type = t->type,
                             .layer = layer,
                             .bytes = bytes,
                             .room_bytes = room,
                             .weights = t->ne[0] * t->ne[1] * (role == PLAN_ROLE_EXPERTS ? 1 : t->ne[2])};
}

static void add_layer(struct filling *f, uint32_t i) {
    const struct model_layer *l = &f->m->layers[i];
    const struct model_tensor *const attention[] = {l->attn_norm,   l->attn_q,      l->attn_k,     l->attn_v,
                                                    l->attn_output, l->attn_q_norm, l->attn_k_norm};
    const struct model_tensor *const experts[] = {l->gate, l->up, l->down};
    for (size_t k = 0; k < sizeof attention / sizeof *attention; k++) add(f, attention[k], PLAN_ROLE_ATTENTION, i);
    add(f, l->ffn_norm, PLAN_ROLE_ROUTER, i);
    add(f, l->router, PLAN_ROLE_ROUTER, i);
    for (size_t k = 0; k < sizeof experts / sizeof *experts; k++) add(f, experts[k], PLAN_ROLE_EXPERTS, i);
}

enum err plan_model_open(const struct model *m, uint32_t ubatch, unsigned threads, struct plan_model *out, struct reason *why) {
    const struct model_shape *s = &m->shape;
    *out = (struct plan_model){.n_layers = s->n_layers,
                               .n_experts = s->n_experts,
                               .n_used = s->n_experts_used,
                               .kv_width = (uint64_t)s->n_kv_heads * s->head_dim,
                               .q_width = (uint64_t)s->n_heads * s->head_dim,
                               .context_length = s->context_length,
                               .ubatch = ubatch ? ubatch : DEFAULT_UBATCH};
    if (s->n_layers == 0) return fail(why, ERR_ARGUMENT, "the file has a vocabulary only: nothing to plan");
    out->tensors = calloc_checked((uint64_t)s->n_layers * MAX_ROLES + 3, sizeof *out->tensors);
    if (!out->tensors) return fail(why, ERR_NO_MEMORY, "no memory to describe %u layers", s->n_layers);
    struct filling f = {m, out};
    for (uint32_t i = 0; i < s->n_layers; i++) add_layer(&f, i);
    add(&f, m->output_norm, PLAN_ROLE_HEAD, PLAN_NO_LAYER);
    add(&f, m->output, PLAN_ROLE_HEAD, PLAN_NO_LAYER);
    if (m->embedding != m->output) add(&f, m->embedding, PLAN_ROLE_EMBEDDING, PLAN_NO_LAYER);
    const uint64_t scratch = graph_scratch_need(s, out->ubatch, threads ? threads : 1);
    if (!size_add(scratch, (uint64_t)s->n_vocab * sizeof(float), &out->cpu_scratch_bytes)) /* and a session's logits */
        return fail(why, ERR_LIMIT, "scratch for a batch of %u tokens overflows", out->ubatch);
    out->gpu_scratch_bytes = gpu_scratch_bytes(s, out->ubatch) + gpu_trellis_bytes(m, out->ubatch) + vram_staging_bytes(m);
    return ERR_NONE;
}

void plan_model_close(struct plan_model *pm) {
    free(pm->tensors);
    *pm = (struct plan_model){0};
}

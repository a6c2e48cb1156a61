/* From validated tensors to matrices with kernels. */
#include "engine/network.h"

#include <math.h>
#include <stdlib.h>

#include "engine/rope.h"

static const struct model_tensor *const *bound(const struct model_layer *l, size_t *n) {
    *n = sizeof *l / sizeof(const struct model_tensor *); /* struct model_layer is nothing but bound tensors */
    return (const struct model_tensor *const *)l;
}

static bool is_expert(const struct model_layer *l, const struct model_tensor *t) { return t == l->gate || t == l->up || t == l->down; }

static void want(const struct model *m, const struct model_tensor *t, bool *wanted) {
    wanted[t - m->tensors] = true;
    if (t->in_scale) wanted[t->in_scale - m->tensors] = wanted[t->out_scale - m->tensors] = true;
}

void network_wanted(const struct model *m, bool experts, bool *wanted) {
    for (size_t i = 0; i < m->n_tensors; i++) wanted[i] = false;
    want(m, m->embedding, wanted);
    want(m, m->output, wanted);
    want(m, m->output_norm, wanted);
    for (uint32_t i = 0; i < m->shape.n_layers; i++) {
        size_t n;
        const struct model_tensor *const *t = bound(&m->layers[i], &n);
        for (size_t j = 0; j < n; j++)
            if (t[j] && (experts || !is_expert(&m->layers[i], t[j]))) want(m, t[j], wanted);
    }
}

/* What is taken row by row, not multiplied with only. */
static bool is_read_by_rows(const struct model *m, const struct model_tensor *t) {
    if (t == m->embedding || t == m->output_norm) return true;
    for (uint32_t i = 0; i < m->shape.n_layers; i++) {
        const struct model_layer *l = &m->layers[i];
        if (t == l->router || t == l->attn_norm || t == l->ffn_norm || t == l->attn_q_norm || t == l->attn_k_norm) return true;
    }
    return false;
}

static bool has_kernels(const struct model *m, const struct cpu_ops *ops, const struct model_tensor *t) {
    const struct cpu_type *type = &ops->types[t->type];
    return type->matmul && (type->dequant || !is_read_by_rows(m, t));
}

enum err network_check(const struct model *m, const struct cpu_ops *ops, struct reason *why) {
    bool *wanted = calloc_checked(m->n_tensors, sizeof *wanted);
    if (!wanted) return fail(why, ERR_NO_MEMORY, "no memory for the tensor list");
    network_wanted(m, true, wanted);
    const struct model_tensor *refused = NULL;
    for (size_t i = 0; i < m->n_tensors && !refused; i++)
        if (wanted[i] && !has_kernels(m, ops, &m->tensors[i])) refused = &m->tensors[i];
    free(wanted);
    if (!refused) return ERR_NONE;
    return fail(why, ERR_UNSUPPORTED, "%s: tensor '%.*s' has type %s, which %s", m->files[refused->file].path, (int)refused->name.len,
                refused->name.ptr, tensor_type_info(refused->type)->name,
                ops->types[refused->type].matmul ? "embeddings, routers and norms cannot have" : "this build cannot compute with");
}

struct binder {
    const struct model *m;
    const struct weights *w;
    const struct cpu_ops *ops;
    struct arena *floats;
};

/* `rows` of each expert's slice; the store says where a slice is. */
static struct matrix expert_matrix(const struct binder *b, const struct model_tensor *t, uint64_t rows) {
    return (struct matrix){.row_bytes = t->row_bytes, .rows = rows, .k = t->ne[0], .ops = &b->ops->types[t->type],
                           .exl3 = {.rows = t->in_scale ? rows : 0, .codebook = (enum exl3_codebook)t->codebook}};
}

static struct matrix matrix_of(const struct binder *b, const struct model_tensor *t) {
    struct matrix m = expert_matrix(b, t, t->ne[1]);
    m.data = weights_of(b->w, b->m, t);
    if (t->in_scale) {
        m.exl3.in_scale = (const uint16_t *)weights_of(b->w, b->m, t->in_scale);
        m.exl3.out_scale = (const uint16_t *)weights_of(b->w, b->m, t->out_scale);
    }
    return m;
}

static const float *floats_of(const struct binder *b, const struct model_tensor *t) {
    float *out = arena_take(b->floats, t->ne[0] * sizeof *out);
    if (out) b->ops->types[t->type].dequant(weights_of(b->w, b->m, t), out, t->ne[0]);
    return out;
}

static void bind_layer(const struct binder *b, const struct model_layer *from, struct network_layer *to) {
    const uint64_t f = b->m->shape.n_ff;
    to->attn_norm = floats_of(b, from->attn_norm);
    to->ffn_norm = floats_of(b, from->ffn_norm);
    to->q_norm = floats_of(b, from->attn_q_norm);
    to->k_norm = floats_of(b, from->attn_k_norm);
    to->q = matrix_of(b, from->attn_q);
    to->k = matrix_of(b, from->attn_k);
    to->v = matrix_of(b, from->attn_v);
    to->output = matrix_of(b, from->attn_output);
    to->router = matrix_of(b, from->router);
    to->gate = expert_matrix(b, from->gate, f);
    to->up = expert_matrix(b, from->up ? from->up : from->gate, f); /* merged: rows F..2F-1 of gate are up */
    to->down = expert_matrix(b, from->down, from->down->ne[1]);
    to->int8_attn_in = to->q.ops->int8_acts || to->k.ops->int8_acts || to->v.ops->int8_acts;
    to->int8_attn_out = to->output.ops->int8_acts;
    to->int8_ffn_in = to->router.ops->int8_acts || to->gate.ops->int8_acts || to->up.ops->int8_acts;
    to->int8_ffn_mid = to->down.ops->int8_acts;
}

enum err network_open(const struct model *m, const struct weights *w, const struct cpu_ops *ops, struct network *out,
                      struct reason *why) {
    *out = (struct network){.shape = &m->shape};
    const struct model_shape *s = &m->shape;
    const uint64_t norms = ((uint64_t)s->n_layers * 2 + 1) * (s->n_embd * sizeof(float) + 64) +
                           (uint64_t)s->n_layers * 2 * (s->head_dim * sizeof(float) + 64);
    enum err e = arena_open(&out->floats, norms, why);
    if (!e) {
        out->layers = calloc_checked(s->n_layers, sizeof *out->layers);
        out->rope_frequency = calloc_checked(s->head_dim / 2, sizeof(double));
        if (!out->layers || !out->rope_frequency) e = fail(why, ERR_NO_MEMORY, "no memory for %u layers", s->n_layers);
    }
    if (e) {
        network_close(out);
        return e;
    }
    const struct binder b = {m, w, ops, &out->floats};
    for (uint32_t i = 0; i < s->n_layers; i++) bind_layer(&b, &m->layers[i], &out->layers[i]);
    out->embedding = matrix_of(&b, m->embedding);
    out->head = matrix_of(&b, m->output);
    out->output_norm = floats_of(&b, m->output_norm);
    out->int8_head = out->head.ops->int8_acts;
    rope_frequencies(s, out->rope_frequency, &out->rope_magnitude);
    return ERR_NONE;
}

/* Rows of Q8_0 (blocks of 32, scale = largest / 127); k is a multiple of 32, or the copies are not made. */
static void quantize_row(const float *x, size_t k, struct block_q8_0 *out) {
    for (size_t b = 0; b < k / 32; b++) {
        float most = 0;
        for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf(x[b * 32 + i]));
        const float scale = most > 0 ? 127 / most : 0;
        out[b].d = f32_to_f16(most / 127);
        for (int i = 0; i < 32; i++) out[b].qs[i] = (int8_t)lrintf(fminf(127, fmaxf(-127, x[b * 32 + i] * scale)));
    }
}

uint64_t network_guess_bytes(const struct model_shape *s) {
    return s->n_embd % 32 ? 0 : (uint64_t)s->n_layers * (s->n_experts * (s->n_embd / 32 * sizeof(struct block_q8_0)) + 64);
}

struct copying {
    struct network *net;
    float *rows; /* one a worker */
};

static void copy_routers(const struct worker *me, void *ctx) {
    const struct copying *c = ctx;
    const uint64_t k = c->net->shape->n_embd;
    float *row = c->rows + me->index * k;
    for (uint32_t i = me->index; i < c->net->shape->n_layers; i += me->count) {
        const struct matrix *from = &c->net->layers[i].router, *to = &c->net->layers[i].guess;
        for (uint64_t r = 0; r < from->rows; r++) {
            from->ops->dequant(from->data + r * from->row_bytes, row, k);
            quantize_row(row, k, (struct block_q8_0 *)((uint8_t *)to->data + r * to->row_bytes)); /* of the arena: ours to write */
        }
    }
}

enum err network_look_ahead(struct network *net, const struct cpu_ops *ops, struct pool *pool, struct reason *why) {
    const uint64_t k = net->shape->n_embd, row_bytes = k / 32 * sizeof(struct block_q8_0), bytes = network_guess_bytes(net->shape);
    if (bytes == 0 || !ops->types[TYPE_Q8_0].matmul) return ERR_NONE;
    struct copying c = {net, calloc_checked(k * pool_threads(pool), sizeof *c.rows)};
    if (!c.rows) return fail(why, ERR_NO_MEMORY, "no memory for a router's row");
    const enum err e = arena_open(&net->guesses, bytes, why);
    for (uint32_t i = 0; !e && i < net->shape->n_layers; i++) {
        struct network_layer *l = &net->layers[i];
        l->guess = (struct matrix){.data = arena_take(&net->guesses, l->router.rows * row_bytes), .row_bytes = row_bytes,
                                   .rows = l->router.rows, .k = k, .ops = &ops->types[TYPE_Q8_0]};
        l->int8_ffn_in = true;
    }
    if (!e) pool_run(pool, copy_routers, &c);
    free(c.rows);
    return e;
}

void network_close(struct network *net) {
    arena_close(&net->floats);
    arena_close(&net->guesses);
    free(net->layers);
    free(net->rope_frequency);
    *net = (struct network){0};
}

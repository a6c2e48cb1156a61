/* See vram.h. The order of allocations: what must be there first, then slots from what is left. */
#include "engine/vram.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/upload.h"
#include "gpu/layout.h"

enum { MAX_SEQUENCES = 8, ALIGN = 256, SHRINK = 16 /* a step takes this part of the slots away */, SHRINKS = 48, SPARE = 2 /* slots of a class: moves under way */ };
#define PATIENCE_NS 60000000000ull
enum { EMULATED_PATIENCE = 5 /* as much: it shares CPUs with who waits for it, and with others */ };

struct opening {
    struct vram *v;
    const struct vram_options *o;
    const struct model *m;
    struct upload *upload;
    struct gpu_matrix head;
    gpu_ptr output_norm;
    gpu_ptr at;      /* the next free byte of the dense allocation */
    gpu_ptr staging; /* for a large tensor in the file's layout */
    uint64_t staging_bytes;
};

static bool is_large(const struct opening *p, const struct model_tensor *t) { return t->bytes > upload_largest(p->upload); }

static uint64_t device_bytes(const struct vram *v, enum tensor_type type, uint64_t rows, uint64_t k) {
    return round_up(v->ops->types[type].bytes(rows, k), ALIGN);
}

/* ---- sizes ---------------------------------------------------------------------------------------------------------- */

static uint64_t matrix_bytes(const struct vram *v, const struct model_tensor *t) { return device_bytes(v, t->type, t->ne[1], t->ne[0]); }

/* The matrices of a layer, or behind the last layer the head, that go to the device; NULL: none. */
enum { DENSE = 5 };
static void dense_of(const struct opening *p, uint32_t i, const struct model_tensor *out[DENSE]) {
    memset(out, 0, DENSE * sizeof *out);
    if (i == p->m->shape.n_layers) {
        if (!p->v->host_head) out[0] = p->m->output;
        return;
    }
    const struct model_layer *l = &p->m->layers[i];
    const struct gpu_layer *to = &p->v->layers[i];
    if (!to->host_attention) out[0] = l->attn_q, out[1] = l->attn_k, out[2] = l->attn_v, out[3] = l->attn_output;
    if (!to->host_experts) out[4] = l->router;
}

static uint64_t norms_bytes(const struct opening *p) {
    const uint64_t wide = round_up(p->m->shape.n_embd * sizeof(float), ALIGN), head = round_up(p->m->shape.head_dim * sizeof(float), ALIGN);
    uint64_t bytes = wide; /* the head's */
    for (uint32_t i = 0; i < p->m->shape.n_layers; i++)
        bytes += (p->v->layers[i].host_attention ? 0 : wide + 2 * head) + (p->v->layers[i].host_experts ? 0 : wide);
    return bytes;
}

static uint64_t dense_bytes(const struct opening *p) {
    uint64_t bytes = norms_bytes(p);
    for (uint32_t i = 0; i <= p->m->shape.n_layers; i++) {
        const struct model_tensor *t[DENSE];
        dense_of(p, i, t);
        for (int k = 0; k < DENSE; k++) bytes += t[k] ? matrix_bytes(p->v, t[k]) : 0;
    }
    return bytes;
}

/* The largest tensor that has to be on the device twice for a moment. */
static uint64_t staging_bytes(const struct opening *p) {
    uint64_t most = 0;
    for (uint32_t i = 0; i <= p->m->shape.n_layers; i++) {
        const struct model_tensor *t[DENSE];
        dense_of(p, i, t);
        for (int k = 0; k < DENSE; k++)
            if (t[k] && is_large(p, t[k]) && !p->v->ops->types[t[k]->type].same_layout && t[k]->bytes > most) most = t[k]->bytes;
    }
    return most;
}

static uint64_t expert_file_bytes(const struct model *m) {
    uint64_t most = 0;
    for (uint32_t i = 0; i < m->shape.n_layers; i++) {
        const struct model_layer *l = &m->layers[i];
        const struct model_tensor *const t[VRAM_MATRICES] = {l->gate, l->up, l->down};
        uint64_t bytes = 0;
        for (int k = 0; k < VRAM_MATRICES; k++)
            bytes += t[k] ? t[k]->bytes + (t[k]->in_scale ? t[k]->in_scale->bytes + t[k]->out_scale->bytes : 0) : 0;
        if (bytes > most) most = bytes;
    }
    return most / m->shape.n_experts + VRAM_PIECES * ALIGN;
}

/* An upload's buffer; then one of arrivals, two of moves, one of the ring. */
uint64_t vram_staging_bytes(const struct model *m) { return upload_bytes(expert_file_bytes(m), 1) + 3 * round_up(expert_file_bytes(m), ALIGN); }

static uint64_t page_bytes(const struct model_shape *s) { return (uint64_t)s->n_kv_heads * GPU_PAGE_TOKENS * s->head_dim * 2; }

uint64_t vram_host_bytes(const struct model *m, uint32_t ubatch, bool kv_on_host, bool parts_on_host) {
    const struct model_shape *s = &m->shape;
    const uint64_t qw = (uint64_t)s->n_heads * s->head_dim, kw = (uint64_t)s->n_kv_heads * s->head_dim, f = sizeof(float);
    const uint64_t lane = ubatch * f * ((parts_on_host ? 3 : 2) * s->n_embd + (kv_on_host ? 2 * qw + 2 * kw : 0) + 2 * s->n_experts_used);
    const uint64_t shared = GPU_STEP_TOKENS * f * (s->n_vocab + 2 * (qw + 2 * kw) + 2 * s->n_embd) + (64 << 10);
    return GPU_LANES * lane + shared + upload_bytes(expert_file_bytes(m), UPLOAD_BUFFERS);
}

/* ---- what is described ---------------------------------------------------------------------------------------------- */

static gpu_ptr put_floats(struct opening *p, const float *values, uint64_t n) {
    const gpu_ptr at = p->at;
    p->v->ops->upload(p->v->gpu, GPU_COPY, at, values, n * sizeof *values);
    p->at += round_up(n * sizeof *values, ALIGN);
    return at;
}

static uint32_t type_bits(enum tensor_type type) { return (uint32_t)(type - TYPE_EXL3_1 + 1); }

static enum err put_tensor(struct opening *p, const struct model_tensor *t, gpu_ptr to, struct reason *why) {
    const struct upload_part part = {t->file, t->offset, t->bytes, t->type, t->ne[1], t->ne[0], to, t->in_scale ? type_bits(t->type) : 0,
                                     (enum exl3_codebook)t->codebook};
    return is_large(p, t) ? upload_large(p->upload, &part, p->staging, why) : upload_group(p->upload, &part, 1, why);
}

static enum err put_matrix(struct opening *p, const struct model_tensor *t, struct gpu_matrix *out, struct reason *why) {
    *out = (struct gpu_matrix){p->at, t->type, (uint32_t)t->ne[1], (uint32_t)t->ne[0]};
    p->at += matrix_bytes(p->v, t);
    TRY(put_tensor(p, t, out->data, why));
    if (!t->in_scale) return ERR_NONE;
    TRY(put_tensor(p, t->in_scale, out->data + gpu_trellis_in_scale((int)t->type, t->ne[1], t->ne[0]), why));
    return put_tensor(p, t->out_scale, out->data + gpu_trellis_out_scale((int)t->type, t->ne[1], t->ne[0]), why);
}

static bool told_to_stop(const struct opening *p) { return p->o->on_load && p->o->on_load(p->o->ctx, upload_done_bytes(p->upload)); }

static enum err put_attention(struct opening *p, uint32_t i, struct reason *why) {
    const struct model_layer *from = &p->m->layers[i];
    const struct network_layer *net = &p->o->net->layers[i];
    const struct model_shape *s = &p->m->shape;
    struct gpu_layer *to = &p->v->layers[i];
    to->attn_norm = put_floats(p, net->attn_norm, s->n_embd);
    to->q_norm = put_floats(p, net->q_norm, s->head_dim);
    to->k_norm = put_floats(p, net->k_norm, s->head_dim);
    TRY(put_matrix(p, from->attn_q, &to->q, why));
    TRY(put_matrix(p, from->attn_k, &to->k, why));
    TRY(put_matrix(p, from->attn_v, &to->v, why));
    return put_matrix(p, from->attn_output, &to->output, why);
}

static enum err put_layer(struct opening *p, uint32_t i, struct reason *why) {
    const struct model_layer *from = &p->m->layers[i];
    const struct model_shape *s = &p->m->shape;
    struct gpu_layer *to = &p->v->layers[i];
    if (!to->host_attention) TRY(put_attention(p, i, why));
    if (!to->host_experts) {
        to->ffn_norm = put_floats(p, p->o->net->layers[i].ffn_norm, s->n_embd);
        TRY(put_matrix(p, from->router, &to->router, why));
    }
    to->gate_type = from->gate->type;
    to->up_type = from->up ? from->up->type : from->gate->type;
    to->down_type = from->down->type;
    to->gate_offset = 0;
    to->up_offset = device_bytes(p->v, to->gate_type, s->n_ff, s->n_embd);
    to->down_offset = to->up_offset + device_bytes(p->v, to->up_type, s->n_ff, s->n_embd);
    return told_to_stop(p) ? fail(why, ERR_CANCELLED, "loading was cancelled") : ERR_NONE;
}

static enum err put_dense(struct opening *p, struct reason *why) {
    struct vram *v = p->v;
    v->dense_bytes = dense_bytes(p);
    TRY(v->ops->alloc(v->gpu, GPU_USE_DENSE, v->dense_bytes, &v->dense, why));
    p->at = v->dense;
    p->staging_bytes = staging_bytes(p);
    if (p->staging_bytes) TRY(v->ops->alloc(v->gpu, GPU_USE_SCRATCH, p->staging_bytes, &p->staging, why));
    for (uint32_t i = 0; i < p->m->shape.n_layers; i++) TRY(put_layer(p, i, why));
    p->output_norm = put_floats(p, p->o->net->output_norm, p->m->shape.n_embd);
    if (!v->host_head) TRY(put_matrix(p, p->m->output, &p->head, why));
    TRY(upload_flush(p->upload, why));
    if (p->staging_bytes) v->ops->free(v->gpu, GPU_USE_SCRATCH, p->staging, p->staging_bytes);
    p->staging_bytes = 0;
    return ERR_NONE;
}

/* ---- KV pages ------------------------------------------------------------------------------------------------------- */

static enum err open_pages(struct opening *p, struct reason *why) {
    struct vram *v = p->v;
    const uint64_t page = page_bytes(&p->m->shape);
    uint64_t layers = 0;
    for (uint32_t l = 0; l < v->n_layers; l++) layers += p->o->plan->layers[l].kv_on_gpu;
    v->kv_on_host = layers == 0;
    if (v->kv_on_host) return ERR_NONE;
    const uint64_t n = (p->o->plan->context_tokens + GPU_PAGE_TOKENS - 1) / GPU_PAGE_TOKENS;
    if (n > UINT32_MAX || !size_mul(n * 2 * layers, page, &v->kv_bytes))
        return fail(why, ERR_LIMIT, "a context of %llu tokens overflows the address space; use -c", (unsigned long long)p->o->plan->context_tokens);
    v->n_pages = v->n_free_pages = (uint32_t)n;
    v->free_pages = calloc_checked(n, sizeof *v->free_pages);
    if (!v->free_pages) return fail(why, ERR_NO_MEMORY, "no memory for the list of KV pages");
    for (uint32_t i = 0; i < v->n_pages; i++) v->free_pages[i] = v->n_pages - 1 - i;
    TRY(v->ops->alloc(v->gpu, GPU_USE_KV, v->kv_bytes, &v->kv, why));
    gpu_ptr at = v->kv;
    for (uint32_t l = 0; l < v->n_layers; l++) {
        if (!p->o->plan->layers[l].kv_on_gpu) continue;
        v->layers[l].keys = at;
        v->layers[l].values = at + n * page;
        at += 2 * n * page;
    }
    return ERR_NONE;
}

enum err vram_open_kv(struct vram *v, uint64_t capacity, struct kv *kv, struct reason *why) {
    uint32_t i = 0;
    while (i < MAX_SEQUENCES && (v->sequences >> i & 1)) i++;
    if (i == MAX_SEQUENCES) return fail(why, ERR_LIMIT, "at most %d sequences can be held at once", MAX_SEQUENCES);
    kv->pages = calloc_checked(v->n_pages, sizeof *kv->pages);
    if (!kv->pages) return fail(why, ERR_NO_MEMORY, "no memory for a list of KV pages");
    v->sequences |= 1u << i;
    kv->in_vram = true;
    kv->capacity = capacity;
    kv->sequence = i;
    return ERR_NONE;
}

void vram_close_kv(struct vram *v, struct kv *kv) {
    if (!kv->in_vram) return;
    for (uint32_t i = 0; i < kv->n_pages; i++) v->free_pages[v->n_free_pages++] = kv->pages[i];
    v->sequences &= ~(1u << kv->sequence);
    free(kv->pages);
    kv->pages = NULL;
    kv->n_pages = 0;
    kv->in_vram = false;
}

enum err vram_grow_kv(struct vram *v, struct kv *kv, uint64_t tokens, struct reason *why) {
    const uint64_t pages = (tokens + GPU_PAGE_TOKENS - 1) / GPU_PAGE_TOKENS;
    if (pages > kv->n_pages + (uint64_t)v->n_free_pages)
        return fail(why, ERR_LIMIT, "%llu tokens need %llu pages of the KV cache, %llu more than are free; use a larger -c",
                    (unsigned long long)tokens, (unsigned long long)pages, (unsigned long long)(pages - kv->n_pages - v->n_free_pages));
    while (kv->n_pages < pages) {
        const uint32_t page = v->free_pages[--v->n_free_pages];
        v->ops->set_page(v->net, kv->sequence, kv->n_pages, page);
        kv->pages[kv->n_pages++] = page;
    }
    return ERR_NONE;
}

/* ---- experts -------------------------------------------------------------------------------------------------------- */

/* Slots of each class as planned, a few more for moves where not all experts of a class have one, and the ring; both of these out
 * of the plan's ring. */
static void want_slots(struct opening *p) {
    struct vram *v = p->v;
    const struct plan *plan = p->o->plan;
    struct vram_slots *ring = &v->classes[v->n_classes];
    uint64_t left = plan->vram_ring_bytes;
    for (uint32_t c = 0; c < v->n_classes; c++) {
        struct vram_slots *to = &v->classes[c];
        const struct plan_class *from = &plan->classes[c];
        to->bytes = round_up(from->vram_slot_bytes + VRAM_MATRICES * ALIGN, ALIGN); /* for each matrix to begin at one */
        to->n = from->vram_slots;
        if (to->n && to->n < from->n_layers * v->n_experts && left >= SPARE * to->bytes) {
            to->spare = SPARE;
            to->n += SPARE;
            left -= SPARE * to->bytes;
        }
        if (to->bytes > ring->bytes) ring->bytes = to->bytes;
    }
    ring->n = ring->bytes ? (uint32_t)(left / ring->bytes) : 0;
}

/* As many of them as there is room for: in one piece, so that a number of 256 bytes names each. */
static enum err take_slots(struct opening *p, struct reason *why) {
    struct vram *v = p->v;
    struct reason refused = {{0}};
    const uint32_t n = v->n_classes + 1;
    want_slots(p);
    for (int tries = 0; tries < SHRINKS; tries++) {
        v->slots_bytes = 0;
        for (uint32_t c = 0; c < n; c++) v->slots_bytes += v->classes[c].n * v->classes[c].bytes;
        if (v->slots_bytes == 0) return ERR_NONE;
        const enum err e = v->ops->alloc(v->gpu, GPU_USE_EXPERTS, v->slots_bytes, &v->slots, &refused);
        if (!e) {
            if (tries) log_line(&p->o->log, LOG_WARN, "the card has less memory free than planned: %.1f GiB of experts fit", (double)v->slots_bytes / (1 << 30));
            gpu_ptr at = v->slots;
            for (uint32_t c = 0; c < n; at += v->classes[c].n * v->classes[c].bytes, c++) v->classes[c].base = at;
            return ERR_NONE;
        }
        if (e != ERR_LIMIT && e != ERR_NO_MEMORY) return *why = refused, e;
        for (uint32_t c = 0; c < n; c++) v->classes[c].n -= v->classes[c].n / SHRINK + (v->classes[c].n % SHRINK != 0);
    }
    v->slots_bytes = 0;
    for (uint32_t c = 0; c < n; c++) v->classes[c].n = 0;
    return ERR_NONE;
}

/* An expert's matrix number i: `rows` of its rows. */
static void describe_matrix(const struct model_tensor *from, uint32_t expert, uint64_t rows, uint64_t at, int i,
                            struct vram_expert *out) {
    const uint64_t k = from->ne[0];
    const struct model_slice slice = model_slice_of(from, expert);
    const uint64_t bytes = model_slice_row_bytes(from, slice) * rows;
    out->matrices[i].type = from->type, out->matrices[i].rows = rows, out->matrices[i].k = k, out->matrices[i].at = at;
    out->pieces[3 * i].bytes = bytes, out->pieces[3 * i].at = at;
    out->bytes += bytes, out->weights += rows * k;
    if (!from->in_scale) return;
    out->matrices[i].bits = slice.bits ? slice.bits : type_bits(from->type);
    out->matrices[i].codebook = (enum exl3_codebook)from->codebook;
    out->pieces[3 * i + 1].bytes = from->in_scale->row_bytes;
    out->pieces[3 * i + 1].at = at + gpu_trellis_in_scale((int)from->type, rows, k);
    out->pieces[3 * i + 2].bytes = from->out_scale->row_bytes;
    out->pieces[3 * i + 2].at = at + gpu_trellis_out_scale((int)from->type, rows, k);
    out->bytes += from->in_scale->row_bytes + from->out_scale->row_bytes;
}

void vram_describe_expert(const struct vram *v, uint32_t layer, uint32_t expert, struct vram_expert *out) {
    const struct model_layer *l = &v->model->layers[layer];
    const struct model_shape *s = &v->model->shape;
    const struct gpu_layer *to = &v->layers[layer];
    *out = (struct vram_expert){.bytes = 0};
    describe_matrix(l->gate, expert, s->n_ff, to->gate_offset, 0, out);
    describe_matrix(l->up ? l->up : l->gate, expert, s->n_ff, to->up_offset, 1, out); /* merged: rows F..2F-1 of gate */
    describe_matrix(l->down, expert, s->n_embd, to->down_offset, 2, out);
}

uint64_t vram_expert_room(const struct vram *v) { return round_up(expert_file_bytes(v->model), ALIGN); }

/* What the pieces do not say. */
static void label_expert(const struct vram *v, const struct vram_expert *x, gpu_ptr slot) {
    for (int i = 0; i < VRAM_MATRICES; i++)
        if (x->matrices[i].bits)
            v->ops->label(v->gpu, GPU_COPY, x->matrices[i].type, slot + x->matrices[i].at, x->matrices[i].rows,
                          x->matrices[i].k, x->matrices[i].bits, x->matrices[i].codebook);
}

void vram_send_expert(const struct vram *v, const struct vram_expert *x, const uint8_t *const from[VRAM_PIECES],
                      gpu_ptr staging, gpu_ptr slot) {
    for (int i = 0; i < VRAM_PIECES; staging += round_up(x->pieces[i].bytes, ALIGN), i++) {
        const enum tensor_type type = x->matrices[i / 3].type;
        const bool repack = i % 3 == 0 && !v->ops->types[type].same_layout;
        if (x->pieces[i].bytes == 0) continue;
        v->ops->upload(v->gpu, GPU_COPY, repack ? staging : slot + x->pieces[i].at, from[i], x->pieces[i].bytes);
        if (repack)
            v->ops->repack(v->gpu, GPU_COPY, type, slot + x->pieces[i].at, staging, x->matrices[i / 3].rows,
                           x->matrices[i / 3].k);
    }
    label_expert(v, x, slot);
}

uint64_t vram_expert_bytes(const struct model *m) { return expert_file_bytes(m); }

uint32_t vram_expert_parts(const struct vram *v, uint32_t layer, uint32_t expert, gpu_ptr to, struct upload_part parts[FETCH_EXTENTS]) {
    const struct model_layer *l = &v->model->layers[layer];
    const struct model_tensor *const tensors[VRAM_MATRICES] = {l->gate, l->up ? l->up : l->gate, l->down};
    struct vram_expert x;
    uint32_t n = 0;
    vram_describe_expert(v, layer, expert, &x);
    for (int i = 0; i < VRAM_PIECES; i++) {
        const struct model_tensor *const t = tensors[i / 3], *const of[3] = {t, t->in_scale, t->out_scale};
        if (x.pieces[i].bytes == 0) continue;
        const struct model_slice at = model_slice_of(of[i % 3], expert);
        struct upload_part *part = &parts[n++];
        *part = (struct upload_part){.file = at.file, .offset = at.offset, .bytes = x.pieces[i].bytes, .type = of[i % 3]->type};
        part->rows = x.matrices[i / 3].rows, part->k = x.matrices[i / 3].k, part->to = to + x.pieces[i].at;
        if (i == 3 && !l->up) part->offset += x.pieces[0].bytes;
        if (i % 3 == 0) part->bits = x.matrices[i / 3].bits, part->codebook = x.matrices[i / 3].codebook;
    }
    return n;
}

static void place_experts(struct vram *v, const struct plan *plan) {
    v->all_placed = true;
    for (uint32_t id = 0; id < plan->n_layers * plan->n_experts; id++) {
        const uint32_t l = id / plan->n_experts;
        struct vram_slots *c = &v->classes[plan->layers[l].class];
        if (plan->expert_tier[id] == PLAN_VRAM && c->used + c->spare < c->n)
            v->place_of[id] = (uint32_t)(1 + (c->base + c->used++ * c->bytes - v->slots) / ALIGN);
        else
            v->all_placed &= v->layers[l].host_experts;
    }
}

/* In the plan's order of layers, which is the file's. */
static enum err put_experts(struct opening *p, struct reason *why) {
    struct vram *v = p->v;
    const struct plan *plan = p->o->plan;
    v->all_resident = v->all_placed;
    for (uint32_t l = 0; l < plan->n_layers; l++) {
        for (uint32_t e = 0; e < plan->n_experts; e++) {
            const uint32_t id = l * plan->n_experts + e;
            struct upload_part parts[FETCH_EXTENTS];
            if (!v->place_of[id]) continue;
            const uint32_t n = vram_expert_parts(v, l, e, v->slots + (uint64_t)(v->place_of[id] - 1) * ALIGN, parts);
            TRY(upload_group(p->upload, parts, n, why));
            v->slot_of[id] = v->place_of[id];
        }
        if (told_to_stop(p)) return fail(why, ERR_CANCELLED, "loading was cancelled");
    }
    TRY(upload_flush(p->upload, why));
    for (uint32_t l = 0; l < plan->n_layers; l++) v->ops->set_slots(v->net, l, v->slot_of + (size_t)l * plan->n_experts);
    return v->ops->check(v->gpu, why);
}

/* ---- what can be there ---------------------------------------------------------------------------------------------- */

static enum err refuse(const struct model *m, const struct model_tensor *t, const char *what, struct reason *why) {
    return fail(why, ERR_UNSUPPORTED, "%s: '%.*s' has type %s, %s", m->files[t->file].path, (int)t->name.len, t->name.ptr,
                tensor_type_info(t->type)->name, what);
}

enum err vram_check(const struct model *m, const struct gpu_ops *ops, struct reason *why) {
    const struct model_tensor *const outside[] = {m->embedding, m->output};
    for (int i = 0; i < 2; i++)
        if (!ops->types[outside[i]->type].has_kernels) return refuse(m, outside[i], "which it has no kernels for", why);
    for (uint32_t i = 0; i < m->shape.n_layers; i++) {
        const struct model_layer *l = &m->layers[i];
        const struct model_tensor *const t[] = {l->attn_q, l->attn_k, l->attn_v, l->attn_output, l->router, l->gate, l->up ? l->up : l->gate, l->down};
        for (size_t k = 0; k < sizeof t / sizeof *t; k++)
            if (!ops->types[t[k]->type].has_kernels) return refuse(m, t[k], "which it has no kernels for", why);
        const bool trellis = gpu_is_trellis((int)l->gate->type);
        if (trellis != gpu_is_trellis((int)l->down->type) || (trellis && !(l->up && gpu_is_trellis((int)l->up->type))))
            return refuse(m, l->gate,
                          "and the layer's up or down matrices another one: EXL3 it takes for all of an expert's or none", why);
        if (l->up && !ops->takes_pair(l->gate->type, l->up->type)) {
            char what[128];
            snprintf(what, sizeof what, "for which it has no kernels beside the layer's gate matrices of type %s", tensor_type_info(l->gate->type)->name);
            return refuse(m, l->up, what, why);
        }
    }
    return ERR_NONE;
}

/* ---- open and close ------------------------------------------------------------------------------------------------- */

static enum err open_network(struct opening *p, struct reason *why) {
    struct vram *v = p->v;
    const struct model_shape *s = &p->m->shape;
    const struct network *net = p->o->net;
    v->embedding_bytes = net->embedding.rows * net->embedding.row_bytes;
    gpu_ptr mapped;
    uint8_t *page = (uint8_t *)((uintptr_t)net->embedding.data & ~(uintptr_t)(FETCH_ALIGN - 1)); /* what weights_open() placed it in */
    const uint64_t before = (uint64_t)(net->embedding.data - page);
    v->embedding_bytes = round_up(before + v->embedding_bytes, FETCH_ALIGN);
    TRY(v->ops->pin(v->gpu, page, v->embedding_bytes, &mapped, why));
    v->embedding = page;
    struct gpu_network_options o = {
        .shape = {s->n_layers, s->n_embd, s->n_heads, s->n_kv_heads, s->head_dim, s->n_ff, s->n_experts, s->n_experts_used, s->n_vocab,
                  s->rms_eps, net->rope_magnitude},
        .layers = p->v->layers, .rope_frequency = net->rope_frequency, .embedding = net->embedding.data, .embedding_mapped = mapped + before,
        .embedding_type = p->m->embedding->type, .embedding_row_bytes = net->embedding.row_bytes, .output_norm = p->output_norm,
        .head = p->head, .kv_k = GPU_KV_F16, .kv_v = GPU_KV_F16, .host_defers = p->o->host_defers, .max_sequences = MAX_SEQUENCES,
        .max_pages = v->n_pages ? v->n_pages : 1, .batch_tokens = p->o->ubatch};
    /* its scratch is taken out before the slots take what is left */
    const uint64_t scratch = v->ops->network_bytes(v->gpu, &o) + VRAM_ROUNDING;
    gpu_ptr held;
    TRY(v->ops->alloc(v->gpu, GPU_USE_SCRATCH, scratch, &held, why));
    const enum err slots = take_slots(p, why);
    v->ops->free(v->gpu, GPU_USE_SCRATCH, held, scratch);
    if (slots) return slots;
    o.slots = v->slots;
    TRY(v->ops->network_open(v->gpu, &o, &v->net, why));
    v->shared = v->ops->shared(v->net);
    v->ops->set_patience(v->net, v->patience_ns);
    return ERR_NONE;
}

static bool has_attention(const struct vram *v) {
    bool any = false;
    for (uint32_t l = 0; l < v->n_layers; l++) any |= !v->layers[l].host_attention;
    return any;
}

static enum err open_lanes(struct opening *p, struct reason *why) {
    struct vram *v = p->v;
    const struct model_shape *s = &p->m->shape;
    const uint64_t n = p->o->ubatch * sizeof(float), qw = (uint64_t)s->n_heads * s->head_dim, kw = (uint64_t)s->n_kv_heads * s->head_dim;
    v->rest_bytes = n * s->n_embd;
    v->attended_bytes = n * qw;
    v->qkv_bytes = n * (qw + 2 * kw);
    v->hidden_bytes = n * s->n_embd;
    gpu_ptr mapped;
    void *at;
    for (int i = 0; i < GPU_LANES; i++) {
        TRY(v->ops->event_open(v->gpu, &v->ready[i], why));
        TRY(v->ops->alloc_pinned(v->gpu, v->rest_bytes, &at, &mapped, why));
        v->rest[i] = at;
        if (v->host_halves || v->host_head) {
            TRY(v->ops->alloc_pinned(v->gpu, v->hidden_bytes, &at, &mapped, why));
            v->hidden[i] = at;
        }
        if (!v->kv_on_host || !has_attention(v)) continue;
        TRY(v->ops->alloc_pinned(v->gpu, v->attended_bytes, &at, &mapped, why));
        v->attended[i] = at;
        TRY(v->ops->alloc_pinned(v->gpu, v->qkv_bytes, &at, &mapped, why));
        v->qkv[i] = at;
    }
    return ERR_NONE;
}

static void divide_layers(struct vram *v, const struct plan *plan) {
    v->host_head = !plan->head_on_gpu;
    for (uint32_t l = 0; l < v->n_layers; l++) {
        v->layers[l].host_attention = !plan->layers[l].attention_on_gpu;
        v->layers[l].host_experts = !plan->layers[l].router_on_gpu;
        v->host_halves |= v->layers[l].host_attention || v->layers[l].host_experts;
    }
}

static enum err open_parts(struct opening *p, struct reason *why) {
    struct vram *v = p->v;
    const uint64_t n = (uint64_t)v->n_layers * v->n_experts;
    v->slot_of = calloc_checked(n, sizeof *v->slot_of);
    v->place_of = calloc_checked(n, sizeof *v->place_of);
    v->n_classes = p->o->plan->n_classes;
    v->classes = calloc_checked((uint64_t)v->n_classes + 1, sizeof *v->classes);
    v->layer_class = calloc_checked(v->n_layers, sizeof *v->layer_class);
    v->layers = calloc_checked(v->n_layers, sizeof *v->layers);
    if (!v->slot_of || !v->place_of || !v->classes || !v->layer_class || !v->layers) return fail(why, ERR_NO_MEMORY, "no memory for the table of %llu experts", (unsigned long long)n);
    for (uint32_t l = 0; l < v->n_layers; l++) v->layer_class[l] = p->o->plan->layers[l].class;
    divide_layers(v, p->o->plan);
    TRY(upload_open(v->gpu, p->o->fetch, expert_file_bytes(p->m), UPLOAD_BUFFERS, &p->upload, why));
    TRY(put_dense(p, why));
    TRY(open_pages(p, why));
    TRY(open_lanes(p, why));
    TRY(open_network(p, why));
    place_experts(v, p->o->plan);
    if (p->o->experts_later) return v->ops->check(v->gpu, why);
    return put_experts(p, why);
}

enum err vram_open(const struct vram_options *o, struct vram **out, struct reason *why) {
    *out = NULL;
    struct vram *v = calloc_checked(1, sizeof *v);
    if (!v) return fail(why, ERR_NO_MEMORY, "no memory for what lies in VRAM");
    v->gpu = o->gpu;
    v->ops = o->gpu->ops;
    v->model = o->model;
    v->n_layers = o->model->shape.n_layers;
    v->n_experts = o->model->shape.n_experts;
    struct gpu_info info;
    v->ops->info(o->gpu, &info);
    v->emulated = info.emulated;
    v->patience_ns = info.emulated ? EMULATED_PATIENCE * PATIENCE_NS : PATIENCE_NS;
    struct opening p = {.v = v, .o = o, .m = o->model};
    enum err e = open_parts(&p, why);
    if (!e) e = v->ops->step_prepare(v->net, 1, why);
    if (!e) v->prepared = 1;
    upload_close(&p.upload);
    if (p.staging_bytes && p.staging) v->ops->free(v->gpu, GPU_USE_SCRATCH, p.staging, p.staging_bytes);
    if (e) vram_close(&v);
    *out = v;
    return e;
}

void vram_close(struct vram **vram) {
    struct vram *v = *vram;
    if (!v) return;
    *vram = NULL;
    struct gpu *g = v->gpu;
    if (v->net) v->ops->network_close(&v->net);
    for (int i = 0; i < GPU_LANES; i++) {
        if (v->ready[i]) v->ops->event_close(g, &v->ready[i]);
        if (v->rest[i]) v->ops->free_pinned(g, v->rest[i], v->rest_bytes);
        if (v->attended[i]) v->ops->free_pinned(g, v->attended[i], v->attended_bytes);
        if (v->qkv[i]) v->ops->free_pinned(g, v->qkv[i], v->qkv_bytes);
        if (v->hidden[i]) v->ops->free_pinned(g, v->hidden[i], v->hidden_bytes);
    }
    if (v->embedding) v->ops->unpin(g, v->embedding, v->embedding_bytes);
    if (v->slots) v->ops->free(g, GPU_USE_EXPERTS, v->slots, v->slots_bytes);
    if (v->kv) v->ops->free(g, GPU_USE_KV, v->kv, v->kv_bytes);
    if (v->dense) v->ops->free(g, GPU_USE_DENSE, v->dense, v->dense_bytes);
    free(v->layers);
    free(v->layer_class);
    free(v->slot_of);
    free(v->place_of);
    free(v->classes);
    free(v->free_pages);
    free(v);
}

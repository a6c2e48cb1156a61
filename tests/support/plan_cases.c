/* Sizes follow the published shape of the model and the block sizes of the weight types. */
#include "tests/support/plan_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct shape {
    uint32_t layers, experts, used;
    uint64_t embd, q_width, kv_width, ff, vocab;
};

static void add(struct plan_case *c, const char *name, enum plan_role role, enum tensor_type type, uint32_t layer,
                uint64_t cols, uint64_t rows) {
    struct plan_tensor *t = &c->model.tensors[c->model.n_tensors];
    uint64_t row = 0;
    if (!tensor_row_bytes(type, cols, &row)) abort();
    char *text = c->names[c->model.n_tensors++];
    if (layer == PLAN_NO_LAYER)
        snprintf(text, sizeof *c->names, "%s", name);
    else
        snprintf(text, sizeof *c->names, "blk.%u.%s", layer, name);
    *t = (struct plan_tensor){{text, strlen(text)}, role, type, layer, row * rows, round_up(row * rows, 4096) + 4096,
                              cols * rows};
}

struct mix {
    enum tensor_type attention, v, head, embedding, gate, down, large_down;
};

static void add_layer(struct plan_case *c, const struct shape *s, const struct mix *m, uint32_t l, bool large) {
    add(c, "attn_norm.weight", PLAN_ROLE_ATTENTION, TYPE_F32, l, s->embd, 1);
    add(c, "attn_q.weight", PLAN_ROLE_ATTENTION, m->attention, l, s->embd, s->q_width);
    add(c, "attn_k.weight", PLAN_ROLE_ATTENTION, m->attention, l, s->embd, s->kv_width);
    add(c, "attn_v.weight", PLAN_ROLE_ATTENTION, large ? m->v : m->attention, l, s->embd, s->kv_width);
    add(c, "attn_output.weight", PLAN_ROLE_ATTENTION, m->attention, l, s->q_width, s->embd);
    add(c, "ffn_gate_inp.weight", PLAN_ROLE_ROUTER, TYPE_F32, l, s->embd, s->experts);
    add(c, "ffn_gate_exps.weight", PLAN_ROLE_EXPERTS, m->gate, l, s->embd, s->ff);
    add(c, "ffn_up_exps.weight", PLAN_ROLE_EXPERTS, m->gate, l, s->embd, s->ff);
    add(c, "ffn_down_exps.weight", PLAN_ROLE_EXPERTS, large ? m->large_down : m->down, l, s->ff, s->embd);
}

static struct plan_case build(const struct shape *s, const struct mix *m, uint32_t large_every) {
    struct plan_case c = {.model = {.n_layers = s->layers,
                                    .n_experts = s->experts,
                                    .n_used = s->used,
                                    .kv_width = s->kv_width,
                                    .q_width = s->q_width,
                                    .context_length = 262144,
                                    .ubatch = 512,
                                    .cpu_scratch_bytes = 60 << 20,
                                    .gpu_scratch_bytes = 40 << 20}};
    c.model.tensors = calloc(s->layers * 9 + 3, sizeof *c.model.tensors);
    c.names = calloc(s->layers * 9 + 3, sizeof *c.names);
    if (!c.model.tensors || !c.names) abort();
    for (uint32_t l = 0; l < s->layers; l++) add_layer(&c, s, m, l, l % large_every == 0);
    add(&c, "output_norm.weight", PLAN_ROLE_HEAD, TYPE_F32, PLAN_NO_LAYER, s->embd, 1);
    add(&c, "output.weight", PLAN_ROLE_HEAD, m->head, PLAN_NO_LAYER, s->embd, s->vocab);
    add(&c, "token_embd.weight", PLAN_ROLE_EMBEDDING, m->embedding, PLAN_NO_LAYER, s->embd, s->vocab);
    return c;
}

struct plan_case plan_case_30b(const char *mix) {
    static const struct shape shape = {48, 128, 8, 2048, 4096, 512, 768, 151936};
    static const struct mix q4_k_m = {TYPE_Q4_K, TYPE_Q6_K, TYPE_Q6_K, TYPE_Q4_K, TYPE_Q4_K, TYPE_Q4_K, TYPE_Q6_K};
    static const struct mix small = {TYPE_Q5_K, TYPE_Q5_K, TYPE_Q5_K, TYPE_Q5_K, TYPE_IQ2_S, TYPE_IQ3_S, TYPE_IQ3_S};
    return build(&shape, strcmp(mix, "q4_k_m") == 0 ? &q4_k_m : &small, 2);
}

struct plan_case plan_case_small(uint32_t layers, uint32_t experts, uint32_t used) {
    const struct shape shape = {layers, experts, used, 256, 256, 256, 256, 512};
    static const struct mix mix = {TYPE_Q4_K, TYPE_Q6_K, TYPE_Q6_K, TYPE_Q4_K, TYPE_Q4_K, TYPE_Q4_K, TYPE_Q8_0};
    return build(&shape, &mix, 3);
}

void plan_case_close(struct plan_case *c) {
    free(c->model.tensors);
    free(c->names);
    *c = (struct plan_case){0};
}

void plan_case_machine(struct facts *f) {
    memset(f, 0, sizeof *f);
    snprintf(f->name, sizeof f->name, "made up");
    snprintf(f->isa, sizeof f->isa, "avx2");
    f->n_packages = f->n_nodes = 1;
    f->n_cores = f->n_threads = 4;
    f->n_ram_rates = 3;
    for (unsigned i = 0; i < 3; i++) f->ram_rates[i] = (struct facts_ram_rate){1u << i, 20e9 * (i + 1)};
    static const struct {
        const char *type;
        double decode, batch;
    } kernels[] = {{"q4_k", 50e9, 300e9}, {"q6_k", 52e9, 250e9}, {"f32", 55e9, 100e9}};
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        struct facts_kernel *k = &f->kernels[f->n_kernels++];
        snprintf(k->type, sizeof k->type, "%s", kernels[i].type);
        snprintf(k->isa, sizeof k->isa, "avx2");
        k->threads = 4;
        k->decode_bytes_per_s = kernels[i].decode;
        k->batch_macs_per_s = kernels[i].batch;
    }
    f->barrier_s = 1e-6;
    f->n_drives = 1;
    struct facts_drive *d = &f->drives[0];
    snprintf(d->name, sizeof d->name, "nvme0n1");
    d->direct_io = true;
    for (unsigned i = 0; i < 3; i++)
        d->rates[d->n_rates++] = (struct facts_drive_rate){1 << 20, 1u << 2 * i, 2e9 * (i + 1), 5e-4};
    f->memory_total_bytes = f->memory_available_bytes = (uint64_t)32 << 30;
}

void plan_case_gpu(struct facts *f, uint64_t vram_bytes, double vram_bytes_per_s, double link_bytes_per_s) {
    f->n_gpus = 1;
    f->gpus[0] = (struct facts_gpu){.name = "made-up GPU",
                                    .vram_bytes = vram_bytes,
                                    .vram_free_bytes = vram_bytes,
                                    .vram_bytes_per_s = vram_bytes_per_s,
                                    .to_gpu_bytes_per_s = link_bytes_per_s,
                                    .from_gpu_bytes_per_s = link_bytes_per_s,
                                    .batch_macs_per_s = 20e12,
                                    .node = FACTS_NO_NODE};
}

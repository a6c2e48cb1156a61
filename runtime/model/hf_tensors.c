/* The tensors of a Qwen3MoeForCausalLM checkpoint under GGUF's names: which file holds what of each matrix, and that it is what
 * config.json says. Matrices are stored as GGUF has them ([out, in] there is {in, out} here, the same bytes); the experts of a
 * layer become one tensor whose slices lie apart.
 *
 * Names outside the model's own are ignored. Nothing is allocated from a number in config.json before the tensors found account
 * for it. Never reads weights. */
#include "model/hf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum role {
    ROLE_EMBEDDING,
    ROLE_NORM,
    ROLE_HEAD,
    N_GLOBAL,
    ROLE_ATTN_NORM = N_GLOBAL,
    ROLE_Q,
    ROLE_K,
    ROLE_V,
    ROLE_OUTPUT,
    ROLE_Q_NORM,
    ROLE_K_NORM,
    ROLE_FFN_NORM,
    ROLE_ROUTER,
    ROLE_GATE, /* the experts' */
    ROLE_UP,
    ROLE_DOWN,
    ROLE_COUNT
};
enum { N_SINGLE = ROLE_GATE - N_GLOBAL, N_STACKS = ROLE_COUNT - ROLE_GATE };

static const struct {
    const char *hf, *gguf; /* behind "model.layers.N." and "blk.N." from ROLE_ATTN_NORM on */
    bool matrix;           /* may be EXL3 */
} roles[ROLE_COUNT] = {
    [ROLE_EMBEDDING] = {"model.embed_tokens", "token_embd", false},
    [ROLE_NORM] = {"model.norm", "output_norm", false},
    [ROLE_HEAD] = {"lm_head", "output", true},
    [ROLE_ATTN_NORM] = {"input_layernorm", "attn_norm", false},
    [ROLE_Q] = {"self_attn.q_proj", "attn_q", true},
    [ROLE_K] = {"self_attn.k_proj", "attn_k", true},
    [ROLE_V] = {"self_attn.v_proj", "attn_v", true},
    [ROLE_OUTPUT] = {"self_attn.o_proj", "attn_output", true},
    [ROLE_Q_NORM] = {"self_attn.q_norm", "attn_q_norm", false},
    [ROLE_K_NORM] = {"self_attn.k_norm", "attn_k_norm", false},
    [ROLE_FFN_NORM] = {"post_attention_layernorm", "ffn_norm", false},
    [ROLE_ROUTER] = {"mlp.gate", "ffn_gate_inp", false},
    [ROLE_GATE] = {"gate_proj", "ffn_gate_exps", true},
    [ROLE_UP] = {"up_proj", "ffn_up_exps", true},
    [ROLE_DOWN] = {"down_proj", "ffn_down_exps", true},
};

static const char *const part_names[PART_COUNT] = {
    [PART_WEIGHT] = "weight", [PART_TRELLIS] = "trellis", [PART_SUH] = "suh",   [PART_SVH] = "svh",   [PART_SU] = "su",
    [PART_SV] = "sv",         [PART_MCG] = "mcg",         [PART_MUL1] = "mul1", [PART_BIAS] = "bias", [PART_SCALE] = "scale",
};

struct binder {
    struct st_table *table;
    const struct hf_config *config;
    struct hf_linear *linears; /* [n_linears]: N_GLOBAL, then layer after layer N_SINGLE and the stacks' experts */
    size_t n_linears;
    struct container *c;
    struct text names; /* of the tensors made; spans hold offsets until all are there */
    size_t n_slices;
    bool any_exl3;
    struct reason *why;
};

/* ---- names ------------------------------------------------------------------------------------------------------------- */

static bool take(struct span *rest, const char *literal) {
    const struct span l = span_of(literal);
    if (!span_starts(*rest, l)) return false;
    *rest = (struct span){rest->ptr + l.len, rest->len - l.len};
    return true;
}

/* A decimal number and the dot behind it. */
static bool take_number(struct span *rest, uint64_t *out) {
    size_t n = 0;
    while (n < rest->len && rest->ptr[n] >= '0' && rest->ptr[n] <= '9') n++;
    if (n == rest->len || rest->ptr[n] != '.' || (n > 1 && rest->ptr[0] == '0')) return false;
    if (!json_scan_uint((struct span){rest->ptr, n}, out)) *out = UINT64_MAX;
    *rest = (struct span){rest->ptr + n + 1, rest->len - n - 1};
    return n > 0;
}

struct place {
    enum role role;
    uint64_t layer, expert;
    enum hf_part part;
};

static bool find_role(struct span *rest, int from, int to, struct place *out) {
    for (int i = from; i < to; i++) {
        struct span behind = *rest;
        if (!take(&behind, roles[i].hf) || !take(&behind, ".")) continue;
        *rest = behind;
        out->role = (enum role)i;
        return true;
    }
    return false;
}

/* False: not a name of this model. */
static bool parse_name(struct span name, struct place *out) {
    struct span rest = name;
    *out = (struct place){0};
    if (!find_role(&rest, 0, N_GLOBAL, out)) {
        if (!take(&rest, "model.layers.") || !take_number(&rest, &out->layer)) return false;
        const bool expert = take(&rest, "mlp.experts.");
        if (expert && !take_number(&rest, &out->expert)) return false;
        if (!find_role(&rest, expert ? ROLE_GATE : N_GLOBAL, expert ? ROLE_COUNT : ROLE_GATE, out)) return false;
    }
    for (int i = 0; i < PART_COUNT; i++)
        if (span_equal(rest, span_of(part_names[i]))) {
            out->part = (enum hf_part)i;
            return true;
        }
    return false;
}

static size_t linear_index(const struct hf_config *g, const struct place *p) {
    if (p->role < N_GLOBAL) return p->role;
    const size_t layer = N_GLOBAL + p->layer * (N_SINGLE + N_STACKS * g->n_experts);
    if (p->role < ROLE_GATE) return layer + (p->role - N_GLOBAL);
    return layer + N_SINGLE + (p->role - ROLE_GATE) * g->n_experts + p->expert;
}

static enum err sort_tensors(struct binder *b) {
    const struct hf_config *g = b->config;
    const struct st_table *t = b->table;
    /* products of numbers that hf_config_read() bounded; each linear needs a tensor, and a few may be missing */
    const uint64_t n = N_GLOBAL + g->n_layers * (N_SINGLE + N_STACKS * g->n_experts);
    if (n > 2 * (uint64_t)t->n + 4096)
        return fail(b->why, ERR_FORMAT,
                    "%s: config.json tells of %llu layers with %llu experts, %llu matrices; the files hold only %zu tensors",
                    b->c->label, (unsigned long long)g->n_layers, (unsigned long long)g->n_experts, (unsigned long long)n,
                    t->n);
    b->n_linears = (size_t)n;
    b->linears = calloc_checked(n, sizeof *b->linears);
    if (!b->linears) return fail(b->why, ERR_NO_MEMORY, "%s: no memory for %llu matrices", b->c->label, (unsigned long long)n);
    for (size_t i = 0; i < t->n; i++) {
        struct place p;
        if (!parse_name(st_name(t, &t->tensors[i]), &p)) continue;
        if (p.layer >= g->n_layers)
            return st_fail(t, &t->tensors[i], b->why, ERR_FORMAT,
                           "belongs to layer %llu, but 'num_hidden_layers' in config.json is %llu", (unsigned long long)p.layer,
                           (unsigned long long)g->n_layers);
        if (p.expert >= g->n_experts)
            return st_fail(t, &t->tensors[i], b->why, ERR_FORMAT,
                           "belongs to expert %llu, but 'num_experts' in config.json is %llu", (unsigned long long)p.expert,
                           (unsigned long long)g->n_experts);
        b->linears[linear_index(g, &p)].parts[p.part] = (uint32_t)i + 1; /* names are unique */
    }
    return ERR_NONE;
}

/* ---- one matrix or vector ---------------------------------------------------------------------------------------------- */

/* What a linear holds, once checked. */
struct found {
    enum tensor_type type;
    bool exl3;
    struct exl3_kind kind;
};

static void name_of(const struct place *p, const char *part, char *out, size_t size) {
    if (p->role < N_GLOBAL)
        snprintf(out, size, "%s.%s", roles[p->role].hf, part);
    else if (p->role < ROLE_GATE)
        snprintf(out, size, "model.layers.%llu.%s.%s", (unsigned long long)p->layer, roles[p->role].hf, part);
    else
        snprintf(out, size, "model.layers.%llu.mlp.experts.%llu.%s.%s", (unsigned long long)p->layer,
                 (unsigned long long)p->expert, roles[p->role].hf, part);
}

static enum err missing(const struct binder *b, const struct place *p, const struct hf_linear *l) {
    char name[160];
    const bool part_of_exl3 = l->parts[PART_TRELLIS];
    name_of(p, part_of_exl3 ? l->parts[PART_SUH] || l->parts[PART_SU] ? "svh" : "suh" : "weight", name, sizeof name);
    return fail(b->why, ERR_FORMAT, "%s: tensor '%s' is missing from the %zu file(s); is the download complete?", b->c->label,
                name, b->table->n_files);
}

static enum err check_dense(const struct binder *b, const struct st_tensor *one, uint64_t in, uint64_t out,
                            enum tensor_type *type) {
    static const struct {
        uint8_t dtype;
        enum tensor_type type;
    } weights[] = {{ST_BF16, TYPE_BF16}, {ST_F16, TYPE_F16}, {ST_F32, TYPE_F32}};
    size_t i = 0;
    while (i < 3 && weights[i].dtype != one->dtype) i++;
    if (i == 3)
        return st_fail(b->table, one, b->why, ERR_UNSUPPORTED, "its dtype is %s; weights of BF16, F16 and F32 are supported",
                       st_dtype_name(one->dtype));
    *type = weights[i].type;
    const unsigned dims = out ? 2 : 1;
    if (one->n_dims == dims && one->shape[0] == (out ? out : in) && (!out || one->shape[1] == in)) return ERR_NONE;
    char have[100] = "";
    for (unsigned d = 0, len = 0; d < one->n_dims && d < ST_DIMS && len < sizeof have; d++)
        len += (unsigned)snprintf(have + len, sizeof have - len, d ? ", %llu" : "%llu", (unsigned long long)one->shape[d]);
    if (out)
        return st_fail(b->table, one, b->why, ERR_FORMAT, "its shape is [%s%s]; config.json needs [%llu, %llu]", have,
                       one->n_dims > ST_DIMS ? ", ..." : "", (unsigned long long)out, (unsigned long long)in);
    return st_fail(b->table, one, b->why, ERR_FORMAT, "its shape is [%s%s]; config.json needs [%llu]", have,
                   one->n_dims > ST_DIMS ? ", ..." : "", (unsigned long long)in);
}

/* `out` 0: a vector of `in`. */
static enum err check_linear(const struct binder *b, const struct place *p, const struct hf_linear *l, uint64_t in,
                             uint64_t out, struct found *f) {
    const struct st_table *t = b->table;
    const struct st_tensor *bias = hf_part(t, l, PART_BIAS), *weight = hf_part(t, l, PART_WEIGHT);
    *f = (struct found){.exl3 = exl3_is(l)};
    if (bias) return st_fail(t, bias, b->why, ERR_UNSUPPORTED, "biases are not supported");
    if (!f->exl3) {
        if (!weight) return missing(b, p, l);
        return check_dense(b, weight, in, out, &f->type);
    }
    const struct st_tensor *trellis = hf_part(t, l, PART_TRELLIS);
    if (!roles[p->role].matrix)
        return st_fail(t, trellis, b->why, ERR_UNSUPPORTED, "only matrices can be EXL3, not %s", roles[p->role].hf);
    if (!b->config->exl3)
        return st_fail(t, trellis, b->why, ERR_FORMAT,
                       "is EXL3, but config.json has no 'quantization_config' with 'quant_method' exl3");
    TRY(exl3_check(t, l, in, out, &f->kind, b->why));
    f->type = (enum tensor_type)(TYPE_EXL3_1 + f->kind.bits - 1);
    return ERR_NONE;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------------- */

static struct model_tensor *add_tensor(struct binder *b, const struct place *p, const char *suffix, enum tensor_type type,
                                       uint64_t in, uint64_t out, uint64_t x) {
    struct model_tensor *t = &b->c->tensors[b->c->n_tensors++];
    const size_t at = b->names.len;
    if (p->role < N_GLOBAL)
        text_addf(&b->names, "%s.%s", roles[p->role].gguf, suffix);
    else
        text_addf(&b->names, "blk.%llu.%s.%s", (unsigned long long)p->layer, roles[p->role].gguf, suffix);
    *t = (struct model_tensor){.name = {(const char *)at, b->names.len - at}, .type = type, .ne = {in, out ? out : 1, x, 1}};
    t->n_dims = p->role >= ROLE_GATE ? 3 : out ? 2 : 1;
    return t;
}

/* The data of one part of `x` linears that follow each other in the list. */
static void place_tensor(struct binder *b, struct model_tensor *t, const struct hf_linear *l, uint64_t x, enum hf_part part,
                         bool stack) {
    const struct st_tensor *first = hf_part(b->table, l, part);
    t->file = first->file;
    t->offset = first->offset;
    b->c->tensor_at[t - b->c->tensors] = first->at;
    if (!stack) return;
    struct model_slice *slices = b->c->slices + b->n_slices;
    for (uint64_t e = 0; e < x; e++) {
        const struct st_tensor *one = hf_part(b->table, &l[e], part);
        slices[e] = (struct model_slice){one->file, one->offset, 0};
    }
    t->slices = slices;
    b->n_slices += x;
}

static enum err differs(const struct binder *b, const struct hf_linear *l, const struct found *one,
                        const struct hf_linear *first, const struct found *f) {
    const enum hf_part part = one->exl3 ? PART_TRELLIS : PART_WEIGHT, first_part = f->exl3 ? PART_TRELLIS : PART_WEIGHT;
    const struct st_tensor *a = hf_part(b->table, l, part), *c = hf_part(b->table, first, first_part);
    static const char *const books[] = {"3inst", "mcg", "mul1"};
    return st_fail(b->table, a, b->why, ERR_UNSUPPORTED, "is %s%s%s, but '%s' is %s%s%s; the experts of a layer must be alike",
                   tensor_type_info(one->type)->name, one->exl3 ? " " : "", one->exl3 ? books[one->kind.codebook] : "",
                   quote(st_name(b->table, c)).text, tensor_type_info(f->type)->name, f->exl3 ? " " : "",
                   f->exl3 ? books[f->kind.codebook] : "");
}

/* What all matrices of a stack are: one type, or EXL3 of one codebook, of which the widest counts. */
static enum err check_stack(const struct binder *b, struct place p, const struct hf_linear *l, uint64_t in, uint64_t out,
                            uint64_t x, struct found *f, bool *mixed) {
    struct found other;
    *mixed = false;
    TRY(check_linear(b, &p, l, in, out, f));
    unsigned widest = f->kind.bits;
    for (p.expert = 1; p.expert < x; p.expert++) {
        TRY(check_linear(b, &p, &l[p.expert], in, out, &other));
        if (other.exl3 != f->exl3 || (f->exl3 ? other.kind.codebook != f->kind.codebook : other.type != f->type))
            return differs(b, &l[p.expert], &other, l, f);
        *mixed = *mixed || other.type != f->type;
        if (other.kind.bits > widest) widest = other.kind.bits;
    }
    if (f->exl3) f->type = (enum tensor_type)(TYPE_EXL3_1 + widest - 1);
    return ERR_NONE;
}

/* One GGUF tensor, and the factors that an EXL3 one has, from the linears of `p` (all experts of a stack). */
static enum err make(struct binder *b, struct place p, uint64_t in, uint64_t out) {
    const bool stack = p.role >= ROLE_GATE;
    const uint64_t x = stack ? b->config->n_experts : 1;
    const struct hf_linear *l = &b->linears[linear_index(b->config, &p)];
    struct found f;
    bool mixed;
    TRY(check_stack(b, p, l, in, out, x, &f, &mixed));
    struct model_tensor *t = add_tensor(b, &p, "weight", f.type, in, out, x);
    struct model_slice *slices = b->c->slices + b->n_slices;
    place_tensor(b, t, l, x, f.exl3 ? PART_TRELLIS : PART_WEIGHT, stack);
    for (uint64_t e = 0; mixed && e < x; e++) slices[e].bits = exl3_bits(hf_part(b->table, &l[e], PART_TRELLIS));
    if (!f.exl3) return ERR_NONE;
    b->any_exl3 = true;
    struct model_tensor *suh = add_tensor(b, &p, "suh", TYPE_F16, in, 0, x),
                        *svh = add_tensor(b, &p, "svh", TYPE_F16, out, 0, x);
    place_tensor(b, suh, l, x, PART_SUH, stack);
    place_tensor(b, svh, l, x, PART_SVH, stack);
    t->in_scale = suh;
    t->out_scale = svh;
    t->codebook = f.kind.codebook;
    return ERR_NONE;
}

static enum err make_all(struct binder *b) {
    const struct hf_config *g = b->config;
    const uint64_t e = g->n_embd, q = g->n_heads * g->head_dim, kv = g->n_kv_heads * g->head_dim;
    const struct hf_linear *head = &b->linears[ROLE_HEAD];
    TRY(make(b, (struct place){.role = ROLE_EMBEDDING}, e, g->n_vocab));
    TRY(make(b, (struct place){.role = ROLE_NORM}, e, 0));
    /* a tied head may be stored all the same, quantized on its own */
    if (!g->tied || head->parts[PART_WEIGHT] || head->parts[PART_TRELLIS])
        TRY(make(b, (struct place){.role = ROLE_HEAD}, e, g->n_vocab));
    const struct {
        enum role role;
        uint64_t in, out;
    } layer[] = {
        {ROLE_ATTN_NORM, e, 0},
        {ROLE_Q, e, q},
        {ROLE_K, e, kv},
        {ROLE_V, e, kv},
        {ROLE_OUTPUT, q, e},
        {ROLE_Q_NORM, g->head_dim, 0},
        {ROLE_K_NORM, g->head_dim, 0},
        {ROLE_FFN_NORM, e, 0},
        {ROLE_ROUTER, e, g->n_experts},
        {ROLE_GATE, e, g->n_ff},
        {ROLE_UP, e, g->n_ff},
        {ROLE_DOWN, g->n_ff, e},
    };
    for (uint64_t n = 0; n < g->n_layers; n++)
        for (size_t i = 0; i < sizeof layer / sizeof *layer; i++)
            TRY(make(b, (struct place){.role = layer[i].role, .layer = n}, layer[i].in, layer[i].out));
    return ERR_NONE;
}

static enum err allocate(struct binder *b) {
    const uint64_t most = 3 * (N_GLOBAL + b->config->n_layers * (ROLE_COUNT - N_GLOBAL)); /* every one with two factors */
    struct container *c = b->c;
    c->tensors = calloc_checked(most, sizeof *c->tensors);
    c->tensor_at = calloc_checked(most, sizeof *c->tensor_at);
    c->slices = calloc_checked(3 * N_STACKS * b->config->n_layers * b->config->n_experts, sizeof *c->slices);
    c->regions = calloc_checked(b->table->n_files, sizeof *c->regions);
    if (c->tensors && c->tensor_at && c->slices && c->regions) return ERR_NONE;
    return fail(b->why, ERR_NO_MEMORY, "%s: no memory for %llu tensors", c->label, (unsigned long long)most);
}

static enum err hand_over(struct binder *b) {
    struct container *c = b->c;
    if (b->names.failed) return fail(b->why, ERR_NO_MEMORY, "%s: no memory for the tensors' names", c->label);
    c->made_names = b->names.ptr;
    for (size_t i = 0; i < c->n_tensors; i++) c->tensors[i].name.ptr = c->made_names + (uintptr_t)c->tensors[i].name.ptr;
    b->names = (struct text){0};
    c->files = b->table->files;
    c->n_files = b->table->n_files;
    b->table->files = NULL;
    b->table->n_files = 0;
    c->kind = b->any_exl3 ? CONTAINER_EXL3 : CONTAINER_SAFETENSORS;
    return ERR_NONE;
}

static enum err check_kind(const struct binder *b) {
    if (!b->config->exl3 || b->any_exl3) return ERR_NONE;
    return fail(b->why, ERR_FORMAT, "%s: config.json says exl3, but no tensor of the files is", b->c->label);
}

enum err hf_tensors_bind(struct st_table *t, const struct hf_config *config, struct container *c, struct reason *why) {
    struct binder b = {.table = t, .config = config, .c = c, .why = why};
    enum err result = sort_tensors(&b);
    if (result == ERR_NONE) result = allocate(&b);
    if (result == ERR_NONE) result = make_all(&b);
    if (result == ERR_NONE) result = check_kind(&b);
    if (result == ERR_NONE) result = exl3_check_markers(t, b.linears, b.n_linears, why);
    if (result == ERR_NONE) result = hand_over(&b);
    free(b.linears);
    text_free(&b.names);
    return result;
}

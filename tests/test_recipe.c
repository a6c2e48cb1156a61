/* Which type each tensor gets: against the published files of Qwen3-30B-A3B (type counts, sizes), against the rules of the
 * mixes, and where a rule cannot hold. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/recipe.h"

/* ---- the tensors of a model, in memory ----------------------------------------------------------------------------------- */

struct listed {
    struct model_shape shape;
    bool tied;
    size_t n;
    char (*names)[64];
    struct model_tensor *tensors;
};

static void add(struct listed *m, const char *name, uint64_t a, uint64_t b, uint64_t x) {
    snprintf(m->names[m->n], sizeof *m->names, "%s", name);
    m->tensors[m->n] = (struct model_tensor){.name = span_of(m->names[m->n]),
                                             .type = TYPE_F32,
                                             .n_dims = x > 1   ? 3
                                                       : b > 1 ? 2
                                                               : 1,
                                             .ne = {a, b, x, 1}};
    m->n++;
}

static void add_layer(struct listed *m, uint32_t layer) {
    const struct model_shape *s = &m->shape;
    const uint64_t E = s->n_embd, D = s->head_dim, Q = s->n_heads * D, K = s->n_kv_heads * D, F = s->n_ff, X = s->n_experts;
    const struct {
        const char *name;
        uint64_t a, b, x;
    } parts[] = {{"attn_norm", E, 1, 1},    {"attn_q", E, Q, 1},        {"attn_k", E, K, 1},      {"attn_v", E, K, 1},
                 {"attn_output", Q, E, 1},  {"attn_q_norm", D, 1, 1},   {"attn_k_norm", D, 1, 1}, {"ffn_norm", E, 1, 1},
                 {"ffn_gate_inp", E, X, 1}, {"ffn_gate_exps", E, F, X}, {"ffn_up_exps", E, F, X}, {"ffn_down_exps", F, E, X}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, parts[i].name);
        add(m, name, parts[i].a, parts[i].b, parts[i].x);
    }
}

static void list_model(struct listed *m, struct model_shape shape, bool tied) {
    *m = (struct listed){.shape = shape, .tied = tied};
    m->names = calloc(shape.n_layers * 12 + 3, sizeof *m->names);
    m->tensors = calloc(shape.n_layers * 12 + 3, sizeof *m->tensors);
    assert_true(m->names && m->tensors);
    add(m, "token_embd.weight", shape.n_embd, shape.n_vocab, 1);
    for (uint32_t l = 0; l < shape.n_layers; l++) add_layer(m, l);
    add(m, "output_norm.weight", shape.n_embd, 1, 1);
    if (!tied) add(m, "output.weight", shape.n_embd, shape.n_vocab, 1);
}

static void drop(struct listed *m) {
    free(m->names);
    free(m->tensors);
}

static const struct model_shape a3b = {.n_layers = 48,
                                       .n_embd = 2048,
                                       .n_heads = 32,
                                       .n_kv_heads = 4,
                                       .head_dim = 128,
                                       .n_experts = 128,
                                       .n_experts_used = 8,
                                       .n_ff = 768,
                                       .n_vocab = 151936};

static struct recipe *open_recipe(const struct listed *m, const struct recipe_options *o) {
    struct recipe *r;
    struct reason why;
    if (recipe_open(o, &m->shape, m->tied, &r, &why) != ERR_NONE) fail_test("%s", why.text);
    return r;
}

static const struct model_tensor *find(const struct listed *m, const char *name) {
    for (size_t i = 0; i < m->n; i++)
        if (span_equal(m->tensors[i].name, span_of(name))) return &m->tensors[i];
    fail_test("there is no %s", name);
    return NULL;
}

static struct recipe_choice choice(const struct listed *m, const struct recipe_options *o, const char *name) {
    struct recipe *r = open_recipe(m, o);
    const struct recipe_choice c = recipe_choose(r, find(m, name));
    recipe_close(&r);
    return c;
}

static void expect(const struct listed *m, const struct recipe_options *o, const char *name, enum tensor_type type) {
    const struct recipe_choice c = choice(m, o, name);
    if (c.type != type)
        fail_test("%s: %s is %s, not %s", o->name, name, tensor_type_info(c.type)->name, tensor_type_info(type)->name);
}

/* ---- published builds ---------------------------------------------------------------------------------------------------- */

struct counted {
    size_t tensors[TYPE_COUNT];
    double bytes, weights;
};

static struct counted count(const struct listed *m, const struct recipe_options *o) {
    struct counted c = {.bytes = 0};
    struct recipe *r = open_recipe(m, o);
    for (size_t i = 0; i < m->n; i++) {
        const struct model_tensor *t = &m->tensors[i];
        const enum tensor_type type = recipe_choose(r, t).type;
        uint64_t row;
        assert_true(tensor_row_bytes(type, t->ne[0], &row));
        c.tensors[type]++;
        c.bytes += (double)row * (double)(t->ne[1] * t->ne[2]);
        c.weights += (double)t->ne[0] * (double)(t->ne[1] * t->ne[2]);
    }
    recipe_close(&r);
    return c;
}

struct build {
    const char *name;
    double bits, giga; /* a weight; bytes of the weights; 0: not known */
    struct {
        enum tensor_type type;
        size_t tensors;
    } types[5];
};

static void expect_build(const struct listed *m, const struct build *b, bool has_importance) {
    const struct counted c = count(m, &(struct recipe_options){.name = b->name, .has_importance = has_importance});
    size_t all = 241;
    assert_int_equal(c.tensors[TYPE_F32], 241); /* five a layer, and the last norm */
    for (size_t i = 0; i < 5; i++) {
        if (!b->types[i].tensors) continue;
        if (c.tensors[b->types[i].type] != b->types[i].tensors)
            fail_test("%s: %zu tensors of %s, not %zu", b->name, c.tensors[b->types[i].type],
                      tensor_type_info(b->types[i].type)->name, b->types[i].tensors);
        all += b->types[i].tensors;
    }
    if (all != m->n) fail_test("%s: the table names %zu of %zu tensors", b->name, all, m->n);
    const double bits = 8 * c.bytes / c.weights;
    if (b->bits > 0 && fabs(bits - b->bits) > 0.006) fail_test("%s: %.4f bits a weight, not %.4f", b->name, bits, b->bits);
    if (b->giga > 0 && fabs(1e-9 * c.bytes - b->giga) > 0.01)
        fail_test("%s: %.3f GB, not %.3f", b->name, 1e-9 * c.bytes, b->giga);
}

/* Type counts, sizes and bits as the files' own pages and loaders state them. */
static void test_published(void **state) {
    (void)state;
    static const struct build builds[] = {
        {"Q4_K_M", 4.86, 18.55, {{TYPE_Q4_K, 289}, {TYPE_Q6_K, 49}}},
        {"Q8_0", 8.51, 32.478, {{TYPE_Q8_0, 338}}},
        {"asym2", 2.99, 11.41, {{TYPE_IQ2_S, 96}, {TYPE_IQ3_S, 48}, {TYPE_Q4_K, 192}, {TYPE_Q6_K, 2}}},
        {"mix-iq4_k", 4.974, 18.98, {{TYPE_IQ4_K, 96}, {TYPE_IQ5_K, 48}, {TYPE_IQ6_K, 188}, {TYPE_Q8_0, 6}}},
    };
    struct listed m;
    list_model(&m, a3b, false);
    assert_int_equal(m.n, 579);
    for (size_t i = 0; i < sizeof builds / sizeof *builds; i++) expect_build(&m, &builds[i], true);
    drop(&m);
}

/* The other mixes, by the rules as llama.cpp's and ik_llama.cpp's quantizers state them. */
static void test_mixes(void **state) {
    (void)state;
    static const struct build builds[] = {
        {"F16", 0, 0, {{TYPE_F16, 338}}},
        {"BF16", 0, 0, {{TYPE_BF16, 338}}},
        {"Q4_0", 0, 0, {{TYPE_Q4_0, 331}, {TYPE_Q4_1, 6}, {TYPE_Q6_K, 1}}},
        {"Q4_1", 0, 0, {{TYPE_Q4_1, 337}, {TYPE_Q6_K, 1}}},
        {"Q5_0", 0, 0, {{TYPE_Q5_0, 331}, {TYPE_Q5_1, 6}, {TYPE_Q6_K, 1}}},
        {"Q5_1", 0, 0, {{TYPE_Q5_1, 337}, {TYPE_Q6_K, 1}}},
        {"Q2_K", 0, 0, {{TYPE_Q2_K, 193}, {TYPE_Q3_K, 96}, {TYPE_Q4_K, 48}, {TYPE_Q6_K, 1}}},
        {"Q2_K_S", 0, 0, {{TYPE_Q2_K, 283}, {TYPE_Q4_K, 54}, {TYPE_Q6_K, 1}}},
        {"Q3_K_S", 0, 0, {{TYPE_Q3_K, 337}, {TYPE_Q6_K, 1}}},
        {"Q3_K_M", 0, 0, {{TYPE_Q3_K, 193}, {TYPE_Q4_K, 139}, {TYPE_Q5_K, 5}, {TYPE_Q6_K, 1}}},
        {"Q3_K_L", 0, 0, {{TYPE_Q3_K, 193}, {TYPE_Q5_K, 144}, {TYPE_Q6_K, 1}}},
        {"Q4_K_S", 0, 0, {{TYPE_Q4_K, 327}, {TYPE_Q5_K, 10}, {TYPE_Q6_K, 1}}},
        {"Q5_K_S", 0, 0, {{TYPE_Q5_K, 337}, {TYPE_Q6_K, 1}}},
        {"Q5_K_M", 0, 0, {{TYPE_Q5_K, 289}, {TYPE_Q6_K, 49}}},
        {"Q6_K", 0, 0, {{TYPE_Q6_K, 338}}},
        {"IQ1_S", 0, 0, {{TYPE_IQ1_S, 234}, {TYPE_Q2_K, 7}, {TYPE_Q4_K, 48}, {TYPE_IQ2_XXS, 48}, {TYPE_Q5_K, 1}}},
        {"IQ2_XXS", 0, 0, {{TYPE_IQ2_XXS, 282}, {TYPE_Q2_K, 7}, {TYPE_Q4_K, 48}, {TYPE_Q5_K, 1}}},
        {"IQ2_XS", 0, 0, {{TYPE_IQ2_XS, 282}, {TYPE_Q2_K, 7}, {TYPE_Q4_K, 48}, {TYPE_Q5_K, 1}}},
        {"IQ2_S", 0, 0, {{TYPE_IQ2_XS, 234}, {TYPE_IQ3_S, 55}, {TYPE_Q4_K, 48}, {TYPE_Q5_K, 1}}},
        {"IQ2_M", 0, 0, {{TYPE_IQ2_S, 234}, {TYPE_IQ3_S, 55}, {TYPE_Q4_K, 48}, {TYPE_Q5_K, 1}}},
        {"IQ3_XXS", 0, 0, {{TYPE_IQ3_XXS, 144}, {TYPE_IQ3_S, 49}, {TYPE_IQ2_S, 96}, {TYPE_Q4_K, 48}, {TYPE_Q5_K, 1}}},
        {"IQ3_XS", 0, 0, {{TYPE_IQ3_S, 121}, {TYPE_IQ3_XXS, 168}, {TYPE_Q4_K, 48}, {TYPE_Q6_K, 1}}},
        {"IQ3_S", 0, 0, {{TYPE_IQ3_S, 289}, {TYPE_Q4_K, 48}, {TYPE_Q6_K, 1}}},
        {"IQ3_M", 0, 0, {{TYPE_IQ3_S, 235}, {TYPE_Q4_K, 102}, {TYPE_Q6_K, 1}}},
        {"IQ4_NL", 0, 0, {{TYPE_IQ4_NL, 289}, {TYPE_Q5_K, 48}, {TYPE_Q6_K, 1}}},
        {"IQ4_XS", 0, 0, {{TYPE_IQ4_XS, 289}, {TYPE_Q5_K, 48}, {TYPE_Q6_K, 1}}},
        {"MXFP4_MOE", 0, 0, {{TYPE_MXFP4, 144}, {TYPE_Q8_0, 194}}},
        {"IQ2_KS", 0, 0, {{TYPE_IQ2_KS, 139}, {TYPE_IQ4_K, 48}, {TYPE_Q4_K, 96}, {TYPE_Q5_K, 49}, {TYPE_Q2_K, 6}}},
        {"IQ2_K", 0, 0, {{TYPE_IQ2_K, 193}, {TYPE_Q8_0, 96}, {TYPE_Q5_K, 49}}},
        {"IQ3_K", 0, 0, {{TYPE_IQ3_K, 193}, {TYPE_Q8_0, 96}, {TYPE_Q5_K, 49}}},
        {"IQ4_K", 0, 0, {{TYPE_IQ4_K, 193}, {TYPE_Q8_0, 96}, {TYPE_Q5_K, 48}, {TYPE_Q6_K, 1}}},
        {"IQ5_K", 0, 0, {{TYPE_IQ5_K, 241}, {TYPE_Q8_0, 96}, {TYPE_Q6_K, 1}}},
        {"IQ6_K", 0, 0, {{TYPE_IQ6_K, 242}, {TYPE_Q8_0, 96}}},
        {"IQ4_KS", 0, 0, {{TYPE_IQ4_KS, 193}, {TYPE_Q8_0, 96}, {TYPE_Q5_K, 48}, {TYPE_Q6_K, 1}}},
        {"IQ2_KL", 0, 0, {{TYPE_IQ2_KL, 193}, {TYPE_Q8_0, 96}, {TYPE_IQ4_KS, 48}, {TYPE_Q5_K, 1}}},
    };
    struct listed m;
    list_model(&m, a3b, false);
    for (size_t i = 0; i < sizeof builds / sizeof *builds; i++) expect_build(&m, &builds[i], true);
    drop(&m);
}

static void test_without_importance(void **state) {
    (void)state;
    static const struct build builds[] = {
        {"Q4_0", 0, 0, {{TYPE_Q4_0, 337}, {TYPE_Q6_K, 1}}},
        {"IQ3_XXS",
         0,
         0,
         {{TYPE_IQ3_XXS, 96}, {TYPE_IQ3_S, 49}, {TYPE_IQ2_S, 96}, {TYPE_Q4_K, 54}, {TYPE_Q3_K, 42}}}, /* and Q5_K */
        {"IQ4_XS", 0, 0, {{TYPE_IQ4_XS, 283}, {TYPE_Q5_K, 54}, {TYPE_Q6_K, 1}}},
        {"IQ4_KS", 0, 0, {{TYPE_IQ4_KS, 187}, {TYPE_Q8_0, 96}, {TYPE_Q5_K, 54}, {TYPE_Q6_K, 1}}},
    };
    struct listed m;
    list_model(&m, a3b, false);
    for (size_t i = 0; i < sizeof builds / sizeof *builds; i++) {
        if (i == 1) { /* six types: one more than a row of the table has */
            const struct counted c = count(&m, &(struct recipe_options){.name = "IQ3_XXS"});
            for (size_t k = 0; k < 5; k++) assert_int_equal(c.tensors[builds[i].types[k].type], builds[i].types[k].tensors);
            assert_int_equal(c.tensors[TYPE_Q5_K], 1);
        } else {
            expect_build(&m, &builds[i], false);
        }
    }
    drop(&m);
}

static void test_layers(void **state) {
    (void)state;
    static const uint32_t more[] = {0, 1, 2, 3, 4, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35, 38, 41, 42, 43, 44, 45, 46, 47};
    const struct recipe_options o = {.name = "q4_k_m"};
    struct listed m;
    list_model(&m, a3b, false);
    size_t next = 0;
    for (uint32_t l = 0; l < 48; l++) {
        char name[64];
        const bool wide = next < sizeof more / sizeof *more && more[next] == l;
        next += wide;
        snprintf(name, sizeof name, "blk.%u.ffn_down_exps.weight", l);
        expect(&m, &o, name, wide ? TYPE_Q6_K : TYPE_Q4_K);
        snprintf(name, sizeof name, "blk.%u.attn_v.weight", l);
        expect(&m, &o, name, wide ? TYPE_Q6_K : TYPE_Q4_K);
        snprintf(name, sizeof name, "blk.%u.ffn_gate_exps.weight", l);
        expect(&m, &o, name, TYPE_Q4_K);
    }
    expect(&m, &(struct recipe_options){.name = "Q3_K_M"}, "blk.1.attn_v.weight", TYPE_Q5_K);
    expect(&m, &(struct recipe_options){.name = "Q3_K_M"}, "blk.2.attn_v.weight", TYPE_Q4_K);
    expect(&m, &(struct recipe_options){.name = "Q3_K_M"}, "blk.2.ffn_down_exps.weight", TYPE_Q5_K);
    expect(&m, &(struct recipe_options){.name = "Q3_K_M"}, "blk.3.ffn_down_exps.weight", TYPE_Q4_K);
    expect(&m, &(struct recipe_options){.name = "Q4_K_S"}, "blk.3.attn_v.weight", TYPE_Q5_K);
    expect(&m, &(struct recipe_options){.name = "Q4_K_S"}, "blk.4.attn_v.weight", TYPE_Q4_K);
    expect(&m, &(struct recipe_options){.name = "mix-iq4_k"}, "blk.0.attn_output.weight", TYPE_Q8_0);
    expect(&m, &(struct recipe_options){.name = "mix-iq4_k"}, "blk.10.attn_output.weight", TYPE_IQ6_K);
    drop(&m);
}

/* ---- what stands in front of a mix --------------------------------------------------------------------------------------- */

static void test_overrides(void **state) {
    (void)state;
    const struct recipe_override overrides[] = {
        {"blk\\.(0|1)\\.ffn_", TYPE_Q8_0}, {"ffn_down", TYPE_Q5_K}, {"^token_embd", TYPE_Q4_0}, {"no such", TYPE_Q4_0}};
    const enum tensor_type embedding = TYPE_Q5_1, head = TYPE_IQ4_NL;
    struct recipe_options o = {.name = "asym2", .overrides = overrides, .n_overrides = 4};
    struct listed m;
    list_model(&m, a3b, false);
    expect(&m, &o, "blk.1.ffn_down_exps.weight", TYPE_Q8_0); /* the first that fits */
    expect(&m, &o, "blk.2.ffn_down_exps.weight", TYPE_Q5_K);
    expect(&m, &o, "blk.11.ffn_up_exps.weight", TYPE_IQ2_S);
    expect(&m, &o, "blk.0.ffn_gate_inp.weight", TYPE_F32); /* a router stays */
    expect(&m, &o, "blk.0.ffn_norm.weight", TYPE_F32);
    expect(&m, &o, "token_embd.weight", TYPE_Q4_0);
    const struct recipe_choice c = choice(&m, &o, "blk.2.ffn_down_exps.weight");
    assert_int_equal(c.reason, RECIPE_OVERRIDE);
    assert_int_equal(c.override, 1);
    struct recipe *r = open_recipe(&m, &o);
    assert_true(recipe_matches(r, 1, SPAN("blk.0.ffn_down_exps.weight")));
    assert_false(recipe_matches(r, 3, SPAN("blk.0.ffn_down_exps.weight")));
    recipe_close(&r);
    o.embedding = &embedding;
    o.head = &head;
    expect(&m, &o, "token_embd.weight", TYPE_Q5_1);
    expect(&m, &o, "output.weight", TYPE_IQ4_NL);
    o.leave_head = true;
    expect(&m, &o, "output.weight", TYPE_F32);
    drop(&m);
}

static void test_pure(void **state) {
    (void)state;
    const struct recipe_override overrides[] = {{"attn_k", TYPE_F16}};
    struct listed m;
    list_model(&m, a3b, false);
    const struct recipe_options o = {.name = "iq2_s", .pure = true, .overrides = overrides, .n_overrides = 1};
    const struct counted c = count(&m, &o);
    assert_int_equal(c.tensors[TYPE_IQ2_S], 338 - 48); /* the type of that name, which the mix is not made of */
    assert_int_equal(c.tensors[TYPE_F16], 48);
    assert_int_equal(count(&m, &(struct recipe_options){.name = "Q4_K", .pure = true}).tensors[TYPE_Q4_K], 338);
    assert_int_equal(count(&m, &(struct recipe_options){.name = "Q4_K_M", .pure = true}).tensors[TYPE_Q4_K], 338);
    drop(&m);
}

static void test_copy(void **state) {
    (void)state;
    const struct recipe_override overrides[] = {{"attn_k\\.", TYPE_Q8_0}};
    struct listed m;
    list_model(&m, a3b, false);
    for (size_t i = 0; i < m.n; i++) m.tensors[i].type = TYPE_BF16;
    const struct recipe_options o = {.name = "copy", .overrides = overrides, .n_overrides = 1};
    expect(&m, &o, "blk.7.attn_k.weight", TYPE_Q8_0);
    expect(&m, &o, "blk.7.attn_q.weight", TYPE_BF16);
    expect(&m, &o, "blk.7.attn_norm.weight", TYPE_F32); /* what runtimes need */
    expect(&m, &(struct recipe_options){.name = "Q8_0"}, "blk.7.attn_norm.weight", TYPE_F32);
    expect(&m, &(struct recipe_options){.name = "Q8_0"}, "blk.7.ffn_gate_inp.weight", TYPE_F32);
    struct recipe *r = open_recipe(&m, &o);
    assert_true(recipe_copies(r));
    recipe_close(&r);
    drop(&m);
}

/* ---- where a rule cannot hold -------------------------------------------------------------------------------------------- */

static void test_tied(void **state) {
    (void)state;
    const enum tensor_type embedding = TYPE_Q5_1, head = TYPE_Q8_0;
    struct listed m;
    list_model(&m, a3b, true);
    expect(&m, &(struct recipe_options){.name = "Q4_K_M"}, "token_embd.weight", TYPE_Q6_K);
    expect(&m, &(struct recipe_options){.name = "IQ2_XXS"}, "token_embd.weight", TYPE_Q5_K);
    expect(&m, &(struct recipe_options){.name = "Q4_K_M", .head = &head}, "token_embd.weight", TYPE_Q8_0);
    expect(&m, &(struct recipe_options){.name = "Q4_K_M", .head = &head, .embedding = &embedding}, "token_embd.weight",
           TYPE_Q5_1);
    drop(&m);
}

static void test_rows_that_do_not_divide(void **state) {
    (void)state;
    static const struct {
        const char *name;
        enum tensor_type type;
    } cases[] = {{"Q4_K", TYPE_Q5_0},    {"Q5_K", TYPE_Q5_1},     {"Q6_K", TYPE_Q8_0},     {"Q2_K", TYPE_IQ4_NL},
                 {"IQ2_S", TYPE_IQ4_NL}, {"IQ4_XS", TYPE_IQ4_NL}, {"IQ4_KS", TYPE_IQ4_NL}, {"IQ4_K", TYPE_Q5_0},
                 {"IQ5_K", TYPE_Q6_0},   {"IQ6_K", TYPE_Q8_0},    {"Q4_0", TYPE_Q4_0},     {"F16", TYPE_F16},
                 {"MXFP4", TYPE_MXFP4}};
    struct model_shape shape = a3b;
    struct listed m;
    shape.n_embd = 288;
    shape.n_ff = 48;
    list_model(&m, shape, false);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct recipe_options o = {.name = cases[i].name, .pure = true};
        const struct recipe_choice c = choice(&m, &o, "blk.9.attn_q.weight");
        if (c.type != cases[i].type) fail_test("%s gives way to %s", o.name, tensor_type_info(c.type)->name);
        assert_int_equal(strcmp(tensor_type_info(c.wanted)->name, o.name), 0);
        expect(&m, &o, "blk.9.ffn_down_exps.weight", TYPE_F16); /* rows of 48 */
    }
    expect(&m, &(struct recipe_options){.name = "IQ2_XXS"}, "output.weight", TYPE_Q8_0); /* never less than the head needs */
    drop(&m);
}

static void test_extra_tensors(void **state) {
    (void)state;
    struct listed m;
    list_model(&m,
               (struct model_shape){.n_layers = 1,
                                    .n_embd = 256,
                                    .n_heads = 2,
                                    .n_kv_heads = 2,
                                    .head_dim = 128,
                                    .n_experts = 2,
                                    .n_experts_used = 1,
                                    .n_ff = 256,
                                    .n_vocab = 64},
               false);
    struct model_tensor *t = &m.tensors[2]; /* attn_q, given other names */
    static const struct {
        const char *name;
        enum tensor_type type;
    } cases[] = {{"blk.0.attn_q.bias", TYPE_F32},
                 {"blk.0.ffn_gate_up_exps.weight", TYPE_IQ2_S},
                 {"blk.x.attn_q.weight", TYPE_Q4_K},
                 {"output_extra.weight", TYPE_Q4_K},
                 {"weight", TYPE_Q4_K},
                 {"w", TYPE_F32}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        t->name = span_of(cases[i].name);
        expect(&m, &(struct recipe_options){.name = "asym2"}, cases[i].name, cases[i].type);
    }
    t->n_dims = 2;
    t->name = SPAN("blk.0.attn_q.weight");
    t->ne[1] = 1; /* a vector, whatever it calls itself */
    expect(&m, &(struct recipe_options){.name = "Q8_0"}, "blk.0.attn_q.weight", TYPE_F32);
    drop(&m);
}

/* ---- names and refusals -------------------------------------------------------------------------------------------------- */

static void test_names(void **state) {
    (void)state;
    struct text list = {0};
    recipe_list(&list);
    char *rest = list.ptr, *name;
    size_t n = 0;
    while ((name = strsep(&rest, ","))) {
        assert_true(recipe_is_known(name + (*name == ' ')));
        n++;
    }
    assert_true(n > 40);
    text_free(&list);
    assert_true(recipe_is_known("q4_k_m") && recipe_is_known("Q4_K") && recipe_is_known("15") && recipe_is_known("ASYM2"));
    assert_false(recipe_is_known("Q9_K") || recipe_is_known("") || recipe_is_known("15x") || recipe_is_known("999") ||
                 recipe_is_known("-1") || recipe_is_known("EXL3_4") || recipe_is_known("I32"));
    static const struct {
        const char *name;
        bool pure;
        uint32_t file_type;
    } types[] = {{"Q4_K_M", false, 15}, {"Q4_K", false, 15}, {"14", false, 14},     {"IQ2_S", false, 28}, {"IQ2_S", true, 29},
                 {"F16", false, 1},     {"BF16", true, 32},  {"IQ4_K", false, 140}, {"Q8_0", true, 7}};
    struct listed m;
    list_model(&m, a3b, false);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct recipe *r = open_recipe(&m, &(struct recipe_options){.name = types[i].name, .pure = types[i].pure});
        if (recipe_file_type(r) != types[i].file_type) fail_test("%s has file type %u", types[i].name, recipe_file_type(r));
        recipe_close(&r);
        assert_null(r);
    }
    drop(&m);
}

static void refuse(const struct recipe_options *o, const char *words) {
    struct recipe *r;
    struct reason why = {{0}};
    assert_int_equal(recipe_open(o, &a3b, false, &r, &why), ERR_ARGUMENT);
    assert_null(r);
    if (!strstr(why.text, words)) fail_test("'%s' says nothing of '%s'", why.text, words);
}

static void test_refusals(void **state) {
    (void)state;
    const struct recipe_override bad = {"blk.(", TYPE_Q8_0}, trellis = {"x", TYPE_EXL3_4}, integer = {"x", TYPE_I32};
    const enum tensor_type number = TYPE_F64;
    refuse(&(struct recipe_options){.name = "Q9_K"}, "unknown type 'Q9_K'; known are F32, F16");
    refuse(&(struct recipe_options){.name = "Q8_0", .overrides = &bad, .n_overrides = 1}, "'blk.('");
    refuse(&(struct recipe_options){.name = "Q8_0", .overrides = &trellis, .n_overrides = 1}, "EXL3_4");
    refuse(&(struct recipe_options){.name = "Q8_0", .overrides = &integer, .n_overrides = 1}, "I32");
    refuse(&(struct recipe_options){.name = "Q8_0", .head = &number}, "F64");
    refuse(&(struct recipe_options){.name = "Q8_0", .embedding = &number}, "F64");
    struct recipe *none = NULL;
    recipe_close(&none);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published),     cmocka_unit_test(test_mixes),     cmocka_unit_test(test_without_importance),
        cmocka_unit_test(test_layers),        cmocka_unit_test(test_overrides), cmocka_unit_test(test_pure),
        cmocka_unit_test(test_copy),          cmocka_unit_test(test_tied),      cmocka_unit_test(test_rows_that_do_not_divide),
        cmocka_unit_test(test_extra_tensors), cmocka_unit_test(test_names),     cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

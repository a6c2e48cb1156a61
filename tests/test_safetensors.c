/* Model directories: good ones give the shape, tensors, slices and vocabulary that a GGUF file of the same model would; broken
 * ones (groups 60 to 68 of the reliability plan) are refused with a message that says what and where, within time and memory.
 */
#include "tests/support/refuse_dir.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LAYER "model.layers.0."

#define DIRECTORY(test) cmocka_unit_test_setup_teardown(test, refuse_dir_setup, refuse_dir_teardown)

static void refuse_as_written(const char *item, const char *problem) { refuse_file(hf.folder, true, item, problem, 0, 0); }

static void refuse_dir(const char *item, const char *problem) {
    raw_hf_write(&hf);
    refuse_as_written(item, problem);
}

static struct model *open_path(const char *path, bool need_weights) {
    struct model *m;
    struct reason why = {0};
    if (measured_open(path, need_weights, &m, &why) != ERR_NONE) fail_test("refused: %s", why.text);
    return m;
}

static struct model *open_dir(void) {
    raw_hf_write(&hf);
    return open_path(hf.folder, true);
}

static const struct model_tensor *tensor(const struct model *m, const char *name) {
    const struct model_tensor *t = model_find_tensor(m, span_of(name));
    if (!t) fail_test("no tensor %s", name);
    return t;
}

static void expect_extents(const struct model_tensor *t, enum tensor_type type, uint64_t a, uint64_t b, uint64_t x) {
    if (t->type != type || t->ne[0] != a || t->ne[1] != b || t->ne[2] != x || t->ne[3] != 1)
        fail_test("%.*s is %s %zu x %zu x %zu", (int)t->name.len, t->name.ptr, tensor_type_info(t->type)->name,
                  (size_t)t->ne[0], (size_t)t->ne[1], (size_t)t->ne[2]);
}

/* The bytes where the model says matrix `i` of `t` is are those of `name` in the directory. */
static void expect_bytes(const struct model *m, const struct model_tensor *t, uint64_t i, const char *name) {
    const struct model_slice at = model_slice_of(t, i);
    const uint64_t bytes = t->bytes / t->ne[2];
    uint8_t *data = malloc(bytes);
    assert_non_null(data);
    assert_int_equal(pread(m->files[at.file].fd, data, bytes, (off_t)at.offset), bytes);
    for (uint64_t b = 0; b < bytes; b++)
        if (data[b] != raw_hf_byte(name, b))
            fail_test("%.*s, matrix %zu: byte %zu is not that of %s", (int)t->name.len, t->name.ptr, (size_t)i, (size_t)b,
                      name);
    free(data);
}

static uint32_t meta_u32_of(const struct model *m, const char *key) {
    const struct model_meta *e = model_find_meta(m, key);
    if (!e || e->type != U32) fail_test("no u32 %s", key);
    uint32_t value;
    memcpy(&value, e->bytes.ptr, sizeof value);
    return value;
}

/* ---- good directories -------------------------------------------------------------------------------------------------- */

static void check_tiny_shape(const struct model_shape *s) {
    assert_int_equal(s->n_layers, 1);
    assert_int_equal(s->n_embd, 8);
    assert_int_equal(s->n_heads, 2);
    assert_int_equal(s->n_kv_heads, 1);
    assert_int_equal(s->head_dim, 4);
    assert_int_equal(s->n_experts, 2);
    assert_int_equal(s->n_experts_used, 1);
    assert_int_equal(s->n_ff, 16);
    assert_int_equal(s->n_vocab, 8);
    assert_int_equal(s->context_length, 4096);
    assert_true(fabsf(s->rms_eps - 1e-6f) < 1e-12f && s->rope_base == 1e7f);
    assert_int_equal(s->rope_scaling, ROPE_NONE);
}

static const struct {
    const char *gguf, *hf;
    uint64_t ne[3];
} single[] = {
    {"token_embd.weight", "model.embed_tokens.weight", {8, 8, 1}},
    {"output_norm.weight", "model.norm.weight", {8, 1, 1}},
    {"output.weight", "lm_head.weight", {8, 8, 1}},
    {"blk.0.attn_norm.weight", LAYER "input_layernorm.weight", {8, 1, 1}},
    {"blk.0.attn_q.weight", LAYER "self_attn.q_proj.weight", {8, 8, 1}},
    {"blk.0.attn_k.weight", LAYER "self_attn.k_proj.weight", {8, 4, 1}},
    {"blk.0.attn_v.weight", LAYER "self_attn.v_proj.weight", {8, 4, 1}},
    {"blk.0.attn_output.weight", LAYER "self_attn.o_proj.weight", {8, 8, 1}},
    {"blk.0.attn_q_norm.weight", LAYER "self_attn.q_norm.weight", {4, 1, 1}},
    {"blk.0.attn_k_norm.weight", LAYER "self_attn.k_norm.weight", {4, 1, 1}},
    {"blk.0.ffn_norm.weight", LAYER "post_attention_layernorm.weight", {8, 1, 1}},
    {"blk.0.ffn_gate_inp.weight", LAYER "mlp.gate.weight", {8, 2, 1}},
};
static const struct {
    const char *gguf, *hf;
    uint64_t in, out;
} stacks[] = {{"blk.0.ffn_gate_exps.weight", "gate_proj", 8, 16},
              {"blk.0.ffn_up_exps.weight", "up_proj", 8, 16},
              {"blk.0.ffn_down_exps.weight", "down_proj", 16, 8}};

static void check_dense_tensors(const struct model *m, enum tensor_type type) {
    assert_int_equal(m->n_tensors, COUNT(single) + COUNT(stacks));
    for (size_t i = 0; i < COUNT(single); i++) {
        const struct model_tensor *t = tensor(m, single[i].gguf);
        expect_extents(t, type, single[i].ne[0], single[i].ne[1], single[i].ne[2]);
        assert_null(t->slices);
        expect_bytes(m, t, 0, single[i].hf);
    }
    for (size_t i = 0; i < COUNT(stacks); i++) {
        const struct model_tensor *t = tensor(m, stacks[i].gguf);
        expect_extents(t, type, stacks[i].in, stacks[i].out, 2);
        assert_non_null(t->slices);
        assert_null(t->in_scale);
        assert_int_equal(t->n_dims, 3);
        for (unsigned e = 0; e < 2; e++) {
            char name[96];
            snprintf(name, sizeof name, LAYER "mlp.experts.%u.%s.weight", e, stacks[i].hf);
            expect_bytes(m, t, e, name);
        }
    }
}

static void opens_a_dense_checkpoint(void **state) {
    (void)state;
    for (int padded = 0; padded < 2; padded++) {
        hf.padded = padded;
        struct model *m = open_dir();
        check_tiny_shape(&m->shape);
        check_dense_tensors(m, TYPE_BF16);
        assert_int_equal(m->container, CONTAINER_SAFETENSORS);
        assert_int_equal(m->n_files, 1);
        assert_true(m->output != m->embedding && m->vocab.n_tokens == 0);
        assert_true(span_equal(m->architecture, SPAN("qwen3moe")) && span_equal(m->name, SPAN("checkpoint")));
        assert_int_equal(meta_u32_of(m, "qwen3moe.vocab_size"), 8);
        assert_int_equal(meta_u32_of(m, "qwen3moe.feed_forward_length"), 32);
        model_close(&m);
    }
    char slash[200];
    snprintf(slash, sizeof slash, "%s/", hf.folder);
    struct model *m = open_path(slash, true);
    assert_true(span_equal(m->name, SPAN("checkpoint")));
    model_close(&m);
}

static void opens_shards(void **state) {
    (void)state;
    hf.n_shards = 3;
    for (size_t i = 0; i < hf.n; i++) hf.tensors[i].shard = (unsigned)(i / 3 % 3); /* a stack's experts in different files */
    struct model *m = open_dir();
    assert_int_equal(m->n_files, 3);
    assert_int_not_equal(m->layers[0].gate->slices[0].file, m->layers[0].gate->slices[1].file);
    check_dense_tensors(m, TYPE_BF16);
    model_close(&m);
    text_addf(&hf.index,
              "{\"metadata\": {\"total_size\": 12}, \"weight_map\": {\"a\": \"model-00001-of-00003.safetensors\", \"b\": "
              "\"model-00003-of-00003.safetensors\"}}");
    m = open_dir();
    model_close(&m);
}

static void opens_f16_and_f32(void **state) {
    (void)state;
    for (int f32 = 0; f32 < 2; f32++) {
        raw_hf_dense(&hf);
        for (size_t i = 0; i < hf.n; i++) {
            snprintf(hf.tensors[i].dtype, sizeof hf.tensors[i].dtype, f32 ? "F32" : "F16");
            hf.tensors[i].bytes *= f32 ? 2 : 1;
        }
        struct model *m = open_dir();
        check_dense_tensors(m, f32 ? TYPE_F32 : TYPE_F16);
        model_close(&m);
    }
}

static void opens_what_it_does_not_need(void **state) {
    (void)state;
    raw_hf_add(&hf, LAYER "self_attn.rotary_emb.inv_freq", "F32", "[2]", 8);
    raw_hf_add(&hf, "odd.one", "F8_E4M3", "[3, 0, 5]", 0);
    raw_hf_add(&hf, "odd.two", "U8", "[1, 1, 1, 1, 1, 1, 3]", 3);
    raw_hf_add(&hf, "odd.three", "I64", "[]", 8);
    raw_hf_add(&hf, "odd.four", "F4", "[6]", 3);
    raw_hf_add(&hf, LAYER "mlp.experts.01.gate_proj.weight", "U8", "[]", 1); /* no such spelling */
    struct model *m = open_dir();
    assert_int_equal(m->n_tensors, COUNT(single) + COUNT(stacks));
    model_close(&m);
    raw_hf_replace(&hf.config, "\"torch_dtype\"",
                   "\"unheard_of\": {\"a\": [1, {\"b\": [[]]}], \"rope_theta\": 3}, \"torch_dtype\"");
    m = open_dir();
    assert_true(m->shape.rope_base == 1e7f);
    model_close(&m);
}

static void ties_the_head(void **state) {
    (void)state;
    raw_hf_replace(&hf.config, "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    struct model *m = open_dir();
    assert_true(m->output != m->embedding); /* stored all the same: used */
    model_close(&m);
    raw_hf_drop(&hf, "lm_head.weight");
    m = open_dir();
    assert_true(m->output == m->embedding);
    model_close(&m);
    raw_hf_replace(&hf.config, "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
    refuse_dir("'lm_head.weight'", "is missing");
}

static void understands_rope(void **state) {
    (void)state;
#define PLAIN "\"rope_theta\": 10000000,\n \"rope_scaling\": null"
#define YARN "\"factor\": 4.0, \"original_max_position_embeddings\": 2048"
    static const struct {
        const char *json;
        float base;
        enum rope_scaling type;
        float factor;
        uint64_t original, context;
        float attention;
        float fast, slow; /* 0: the usual ones */
    } cases[] = {
        {"\"rope_theta\": 1e6, \"rope_scaling\": {\"rope_type\": \"yarn\", " YARN "}", 1e6f, ROPE_YARN, 4, 2048, 8192, 1, 0, 0},
        {"\"rope_theta\": 1e6, \"rope_scaling\": {\"type\": \"yarn\", " YARN ", \"beta_fast\": 16, \"beta_slow\": 0.5}", 1e6f,
         ROPE_YARN, 4, 2048, 8192, 1, 16, 0.5f},
        {"\"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": 20000, \"beta_slow\": 2, " YARN "}", 20000, ROPE_YARN, 4, 2048, 8192,
         1, 0, 2},
        {"\"rope_theta\": 1e6, \"rope_scaling\": {\"type\": \"yarn\", " YARN ", \"beta_fast\": 32, \"beta_slow\": 1.0}", 1e6f,
         ROPE_YARN, 4, 2048, 8192, 1, 0, 0},
        {"\"rope_theta\": 1e6, \"rope_scaling\": {\"type\": \"yarn\", " YARN ", \"attention_factor\": 1.0}", 1e6f, ROPE_YARN, 4,
         2048, 8192, 0.878249f, 0, 0},
        {"\"rope_theta\": 1e6, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 1.5}", 1e6f, ROPE_YARN, 1.5f, 4096, 6144, 1, 0, 0},
        {"\"rope_theta\": 5000, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}", 5000, ROPE_LINEAR, 2, 4096, 8192, 1, 0, 0},
        {"\"rope_theta\": 5000, \"rope_scaling\": {\"rope_type\": \"default\"}", 5000, ROPE_NONE, 1, 4096, 4096, 1, 0, 0},
        {"\"rope_parameters\": {\"rope_theta\": 20000.0, \"rope_type\": \"default\"}", 20000, ROPE_NONE, 1, 4096, 4096, 1, 0, 0},
        {"\"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": 20000, " YARN "}", 20000, ROPE_YARN, 4, 2048, 8192, 1, 0, 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        raw_hf_dense(&hf);
        raw_hf_replace(&hf.config, PLAIN, cases[i].json);
        struct model *m = open_dir();
        const struct model_shape *s = &m->shape;
        if (s->rope_base != cases[i].base || s->rope_scaling != cases[i].type || s->rope_factor != cases[i].factor ||
            s->rope_original_context != cases[i].original || s->context_length != cases[i].context ||
            fabsf(s->rope_attn_factor - cases[i].attention) > 1e-5f || s->rope_beta_fast != (cases[i].fast > 0 ? cases[i].fast : 32) ||
            s->rope_beta_slow != (cases[i].slow > 0 ? cases[i].slow : 1))
            fail_test("case %zu: base %g, scaling %d by %g of %zu, context %zu, attention %g", i, (double)s->rope_base,
                      s->rope_scaling, (double)s->rope_factor, (size_t)s->rope_original_context, (size_t)s->context_length,
                      (double)s->rope_attn_factor);
        model_close(&m);
    }
}

static void takes_numbers_of_transformers_5(void **state) {
    (void)state;
    raw_hf_replace(&hf.config, "\"num_experts\"", "\"num_local_experts\"");
    struct model *m = open_dir();
    assert_int_equal(m->shape.n_experts, 2);
    model_close(&m);
    raw_hf_replace(&hf.config, "\"num_local_experts\": 2", "\"num_local_experts\": 2, \"num_experts\": 3");
    refuse_dir("'num_local_experts'", "differs from 'num_experts'");
}

/* ---- EXL3 -------------------------------------------------------------------------------------------------------------- */

static void opens_exl3(void **state) {
    (void)state;
    raw_hf_exl3(&hf);
    struct model *m = open_dir();
    assert_int_equal(m->container, CONTAINER_EXL3);
    const struct model_layer *l = &m->layers[0];
    expect_extents(l->attn_q, TYPE_EXL3_3, 128, 256, 1);
    expect_extents(l->attn_output, TYPE_EXL3_3, 256, 128, 1);
    expect_extents(m->output, TYPE_EXL3_6, 128, 128, 1);
    expect_extents(m->embedding, TYPE_BF16, 128, 128, 1);
    expect_extents(l->router, TYPE_F16, 128, 2, 1);
    expect_extents(l->gate, TYPE_EXL3_2, 128, 128, 2);
    assert_int_equal(l->gate->bytes, 2 * 128 * 128 * 2 / 8);
    expect_extents(l->attn_q->in_scale, TYPE_F16, 128, 1, 1);
    expect_extents(l->attn_q->out_scale, TYPE_F16, 256, 1, 1);
    expect_bytes(m, l->attn_q, 0, LAYER "self_attn.q_proj.trellis");
    expect_bytes(m, l->attn_q->in_scale, 0, LAYER "self_attn.q_proj.suh");
    expect_bytes(m, l->attn_q->out_scale, 0, LAYER "self_attn.q_proj.svh");
    expect_extents(l->down->in_scale, TYPE_F16, 128, 1, 2);
    for (unsigned e = 0; e < 2; e++) {
        static const char *const parts[] = {"trellis", "suh", "svh"};
        const struct model_tensor *const of[] = {l->down, l->down->in_scale, l->down->out_scale};
        for (int i = 0; i < 3; i++) {
            char name[96];
            snprintf(name, sizeof name, LAYER "mlp.experts.%u.down_proj.%s", e, parts[i]);
            expect_bytes(m, of[i], e, name);
        }
    }
    assert_true(l->up->in_scale == tensor(m, "blk.0.ffn_up_exps.suh") &&
                l->up->out_scale == tensor(m, "blk.0.ffn_up_exps.svh"));
    assert_true(m->output->in_scale == tensor(m, "output.suh"));
    assert_int_equal(l->gate->codebook, EXL3_MCG);
    model_close(&m);
}

static void opens_experts_of_different_bits(void **state) {
    (void)state;
    for (int first = 0; first < 2; first++) { /* the wide one in either place */
        char name[80];
        raw_hf_exl3(&hf);
        snprintf(name, sizeof name, LAYER "mlp.experts.%d.up_proj.trellis", first);
        struct raw_hf_tensor *t = raw_hf_find(&hf, name);
        snprintf(t->shape, sizeof t->shape, "[8, 8, 80]");
        t->bytes = 128 * 128 * 5 / 8;
        struct model *m = open_dir();
        const struct model_tensor *up = m->layers[0].up, *gate = m->layers[0].gate;
        expect_extents(up, TYPE_EXL3_5, 128, 128, 2);
        assert_true(up->slices[first].bits == 5 && up->slices[!first].bits == 2);
        assert_int_equal(model_slice_row_bytes(up, up->slices[!first]), 128 * 2 / 8);
        assert_true(gate->slices[0].bits == 0 && gate->slices[1].bits == 0 && up->in_scale->slices[0].bits == 0);
        uint64_t sum = 0;
        for (size_t i = 0; i < hf.n; i++) sum += hf.tensors[i].marker ? 0 : hf.tensors[i].bytes;
        assert_int_equal(m->weight_bytes, sum);
        model_close(&m);
    }
}

static void knows_the_codebooks(void **state) {
    (void)state;
    raw_hf_exl3(&hf);
    raw_hf_drop(&hf, LAYER "self_attn.q_proj.mcg");
    struct raw_hf_tensor *marker = raw_hf_find(&hf, "lm_head.mcg");
    snprintf(marker->name, sizeof marker->name, "lm_head.mul1");
    marker->value = 0x83DCD12D;
    struct model *m = open_dir();
    assert_int_equal(m->layers[0].attn_q->codebook, EXL3_3INST);
    assert_int_equal(m->layers[0].attn_k->codebook, EXL3_MCG);
    assert_int_equal(m->output->codebook, EXL3_MUL1);
    model_close(&m);
    raw_hf_exl3(&hf); /* a dense head */
    raw_hf_drop(&hf, "lm_head.trellis");
    raw_hf_drop(&hf, "lm_head.suh");
    raw_hf_drop(&hf, "lm_head.svh");
    raw_hf_drop(&hf, "lm_head.mcg");
    raw_hf_add(&hf, "lm_head.weight", "F16", "[128, 128]", 128 * 128 * 2);
    raw_hf_replace(&hf.config, "\"head_bits\": 6", "\"head_bits\": 16");
    m = open_dir();
    expect_extents(m->output, TYPE_F16, 128, 128, 1);
    model_close(&m);
}

static void opens_the_reference_exl3_model(void **state) {
    (void)state;
    const char *path = SHARED_DIR "/golden/exl3/mini_qwen3moe";
    if (access(path, R_OK) != 0) {
        print_message("[  NOTE    ] no %s\n", path);
        skip();
    }
    struct model *m = open_path(path, true);
    const struct model_shape *s = &m->shape;
    assert_int_equal(m->n_files, 2);
    assert_true(s->n_layers == 2 && s->n_embd == 256 && s->n_heads == 4 && s->n_kv_heads == 2 && s->head_dim == 64 &&
                s->n_experts == 8);
    assert_true(s->n_experts_used == 2 && s->n_ff == 128 && s->n_vocab == 384 && s->context_length == 4096 &&
                s->rope_base == 1e7f);
    expect_extents(m->embedding, TYPE_BF16, 256, 384, 1);
    expect_extents(m->output, TYPE_EXL3_6, 256, 384, 1);
    for (uint32_t i = 0; i < 2; i++) {
        const struct model_layer *l = &m->layers[i];
        expect_extents(l->gate, l->gate->type, 256, 128, 8);
        expect_extents(l->down, l->down->type, 128, 256, 8);
        expect_extents(l->attn_v, l->attn_v->type, 256, 128, 1);
        expect_extents(l->router, TYPE_F16, 256, 8, 1);
        assert_true(l->gate->type >= TYPE_EXL3_1 && l->gate->type <= TYPE_EXL3_8 && l->attn_q->type >= TYPE_EXL3_1);
        expect_extents(l->down->in_scale, TYPE_F16, 128, 1, 8);
        expect_extents(l->down->out_scale, TYPE_F16, 256, 1, 8);
        assert_int_equal(l->gate->codebook, EXL3_MCG);
    }
    bool odd = false; /* the writer aligns nothing */
    for (size_t i = 0; i < m->n_tensors; i++) odd = odd || m->tensors[i].offset % 2;
    assert_true(odd);
    model_close(&m);
}

static void refuses_exl3(void **state) {
    (void)state;
    static const struct {
        const char *name, *dtype, *shape;
        uint64_t bytes;
        const char *problem;
    } cases[] = {
        {LAYER "self_attn.q_proj.trellis", "I32", "[8, 16, 24]", 12288, "a trellis is I16"},
        {LAYER "self_attn.q_proj.trellis", "I16", "[8, 16, 47]", 12032, "16 times the bits"},
        {LAYER "self_attn.q_proj.trellis", "I16", "[8, 16, 144]", 36864, "16 times the bits"},
        {LAYER "self_attn.q_proj.trellis", "I16", "[8, 16, 0]", 0, "16 times the bits"},
        {LAYER "self_attn.q_proj.trellis", "I16", "[16, 8, 48]", 12288, "config.json needs 8, 16, 16 K"},
        {LAYER "self_attn.q_proj.trellis", "I16", "[8, 768]", 12288, "config.json needs 8, 16, 16 K"},
        {LAYER "self_attn.q_proj.suh", "F32", "[128]", 512, "EXL3 scales are F16"},
        {LAYER "self_attn.q_proj.suh", "F16", "[127]", 254, "config.json needs 128"},
        {LAYER "self_attn.q_proj.svh", "F16", "[128]", 256, "config.json needs 256"},
        {LAYER "self_attn.q_proj.svh", "F16", "[256, 1]", 512, "config.json needs 256"},
        {LAYER "self_attn.q_proj.mcg", "I32", "[1]", 4, "a codebook's marker is one I32"},
        {LAYER "self_attn.q_proj.mcg", "F32", "[]", 4, "a codebook's marker is one I32"},
        {LAYER "mlp.experts.0.up_proj.svh", "F16", "[64]", 128, "config.json needs 128"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        raw_hf_exl3(&hf);
        struct raw_hf_tensor *t = raw_hf_find(&hf, cases[i].name);
        snprintf(t->dtype, sizeof t->dtype, "%s", cases[i].dtype);
        snprintf(t->shape, sizeof t->shape, "%s", cases[i].shape);
        t->bytes = cases[i].bytes;
        refuse_dir(cases[i].name, cases[i].problem);
    }
}

static void refuses_exl3_variants(void **state) {
    (void)state;
    raw_hf_exl3(&hf);
    raw_hf_find(&hf, LAYER "mlp.experts.1.down_proj.mcg")->value ^= 2;
    refuse_dir(LAYER "mlp.experts.1.down_proj.mcg", "its value is 0xCBAC1FEF, a codebook of its own");
    raw_hf_exl3(&hf);
    raw_hf_add(&hf, LAYER "self_attn.v_proj.mul1", "I32", "[]", 4);
    refuse_dir(LAYER "self_attn.v_proj.mul1", "only one codebook can be meant");
    raw_hf_exl3(&hf);
    raw_hf_drop(&hf, LAYER "mlp.experts.1.gate_proj.mcg");
    refuse_dir(LAYER "mlp.experts.1.gate_proj.trellis",
               "is EXL3_2 3inst, but '" LAYER "mlp.experts.0.gate_proj.trellis' is EXL3_2 mcg");
    raw_hf_exl3(&hf);
    raw_hf_add(&hf, LAYER "self_attn.v_proj.bias", "F16", "[128]", 256);
    refuse_dir(LAYER "self_attn.v_proj.bias", "biases are not supported");
    raw_hf_exl3(&hf);
    raw_hf_add(&hf, LAYER "self_attn.v_proj.scale", "F16", "[1]", 2);
    refuse_dir(LAYER "self_attn.v_proj.scale", "convert the model again");
    raw_hf_exl3(&hf);
    raw_hf_drop(&hf, LAYER "self_attn.v_proj.suh");
    refuse_dir("'" LAYER "self_attn.v_proj.suh'", "is missing");
    raw_hf_add(&hf, LAYER "self_attn.v_proj.su", "I16", "[8]", 16);
    refuse_dir(LAYER "self_attn.v_proj.su", "signs packed as only the first versions");
    raw_hf_exl3(&hf);
    raw_hf_drop(&hf, LAYER "mlp.experts.1.up_proj.svh");
    refuse_dir("'" LAYER "mlp.experts.1.up_proj.svh'", "is missing");
    raw_hf_exl3(&hf);
    snprintf(raw_hf_find(&hf, LAYER "mlp.gate.weight")->name, 96, LAYER "mlp.gate.trellis");
    raw_hf_add(&hf, LAYER "mlp.gate.suh", "F16", "[128]", 256);
    raw_hf_add(&hf, LAYER "mlp.gate.svh", "F16", "[128]", 256);
    refuse_dir(LAYER "mlp.gate.trellis", "only matrices can be EXL3");
    raw_hf_exl3(&hf);
    raw_hf_replace(&hf.config, "\"quant_method\": \"exl3\"", "\"quant_method\": \"gptq\"");
    refuse_dir("'quantization_config.quant_method'", "is 'gptq'; only exl3 is supported");
    raw_hf_replace(&hf.config, "\"quant_method\": \"gptq\", ", "");
    refuse_dir("'quantization_config.quant_method'", "is missing");
    raw_hf_exl3(&hf);
    raw_hf_replace(&hf.config, "\"quantization_config\"", "\"something_else\"");
    refuse_dir("trellis", "config.json has no 'quantization_config'");
    raw_hf_dense(&hf);
    raw_hf_replace(&hf.config, "\"torch_dtype\"", "\"quantization_config\": {\"quant_method\": \"exl3\"}, \"torch_dtype\"");
    refuse_dir("", "config.json says exl3, but no tensor of the files is");
    static const char *const bits[] = {"0", "9", "-1", "null_", "\"4\"", "[4]", "1e99"};
    for (size_t i = 0; i < COUNT(bits); i++) {
        char to[40];
        raw_hf_exl3(&hf);
        snprintf(to, sizeof to, "\"bits\": %s,", bits[i]);
        raw_hf_replace(&hf.config, "\"bits\": 2.06,", to);
        refuse_dir("config.json", bits[i][0] == 'n' ? "not valid JSON" : "must be a number from 1 to 8");
    }
}

/* ---- 60 to 62: the file and its header --------------------------------------------------------------------------------- */

static void put_file(uint64_t length, const void *header, size_t len, size_t data) {
    struct text bytes = {0};
    text_add(&bytes, &length, sizeof length);
    text_add(&bytes, header, len);
    for (size_t i = 0; i < data; i++) text_add(&bytes, "x", 1);
    raw_hf_put(&hf, "model.safetensors", bytes.ptr, bytes.len);
    text_free(&bytes);
}

static void refuse_bytes(const void *header, size_t len, size_t data, const char *problem) {
    put_file(len, header, len, data);
    refuse_as_written("model.safetensors", problem);
}

static void groups_60_and_61_files(void **state) {
    (void)state;
    raw_hf_write(&hf);
    for (size_t len = 0; len < 8; len++) {
        raw_hf_put(&hf, "model.safetensors", "\1\0\0\0\0\0\0", len);
        refuse_as_written("model.safetensors: header at byte 0", "a safetensors file begins with 8 bytes");
    }
    put_file(0, "", 0, 0);
    refuse_as_written("model.safetensors", "it ends too early");
    static const uint64_t lengths[] = {3, 100, 1 << 20, (uint64_t)1 << 32, (uint64_t)1 << 63, TOP, TOP - 7, TOP - 8};
    for (size_t i = 0; i < COUNT(lengths); i++) {
        put_file(lengths[i], "{}", 2, 0);
        refuse_as_written("header at byte 0", "but 2 follow");
    }
    char path[200];
    snprintf(path, sizeof path, "%s/model.safetensors", hf.folder);
    for (int over = 0; over < 2; over++) { /* sparse: 100 MB of zeros behind the length, one byte more than is allowed */
        put_file(100000000 + (uint64_t)over, "", 0, 0);
        assert_int_equal(truncate(path, 100000008 + over), 0);
        refuse_as_written("model.safetensors",
                          over ? "at most 100000000 are allowed" : "at byte 8: not valid JSON: a value is expected here");
    }
}

static void group_62_not_json(void **state) {
    (void)state;
    raw_hf_write(&hf);
    static const struct {
        struct span header;
        const char *problem;
    } cases[] = {
        {SPAN("[]"), "must be a JSON object"},
        {SPAN("3"), "must be a JSON object"},
        {SPAN("\"{}\""), "must be a JSON object"},
        {SPAN("{"), "it ends too early"},
        {SPAN("{\"a"), "it ends inside a string"},
        {SPAN("{\"a\" 1}"), "a colon is expected"},
        {SPAN("{\"a\": {\"dtype\": \"F16\" \"shape\": []}}"), "a comma or the end"},
        {SPAN("{\"a\": {\"dtype\": \"F16\", }}"), "a key is expected"},
        {SPAN("{a: 1}"), "a key is expected"},
        {SPAN("{\"a\": nope}"), "neither a number nor true"},
        {SPAN("{} x"), "something follows the value"},
        {SPAN("{}{}"), "something follows the value"},
        {SPAN("{}\0"), "something follows the value"},
        {SPAN("{\"\xff\": 1}"), "not valid UTF-8"},
        {SPAN("{\"\xed\xa0\x80\": 1}"), "not valid UTF-8"},
        {SPAN("{\"a\nb\": 1}"), "a control character in a string"},
        {SPAN("{\"a\\qb\": 1}"), "an unknown escape"},
        {SPAN("{\"a\\u12g4\": 1}"), "four hexadecimal digits"},
        {SPAN("{\"\": {}}"), "a tensor's name is empty"},
        {SPAN("{\"a\\u0000b\": {}}"), "a tensor's name contains a control character"},
        {SPAN("{\"a\\nb\": {}}"), "a tensor's name contains a control character"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) refuse_bytes(cases[i].header.ptr, cases[i].header.len, 0, cases[i].problem);
    struct text deep = repeated("{\"a\":", 100000), name = {0};
    refuse_bytes(deep.ptr, deep.len, 0, "nested too deeply");
    text_clear(&deep);
    text_addf(&deep, "{\"a\": {\"x\": ");
    for (int i = 0; i < 100000; i++) text_addf(&deep, "[");
    refuse_bytes(deep.ptr, deep.len, 0, "nested too deeply");
    text_addf(&name, "{\"");
    for (int i = 0; i < 300; i++) text_addf(&name, "n");
    text_addf(&name, "\": {}}");
    refuse_bytes(name.ptr, name.len, 0, "a tensor's name is too long");
    text_free(&deep);
    text_free(&name);
}

/* ---- 63 to 67: entries ------------------------------------------------------------------------------------------------- */

static void group_63_duplicates(void **state) {
    (void)state;
    raw_hf_add(&hf, "model.norm.weight", "BF16", "[8]", 16);
    refuse_dir("'model.norm.weight'", "already listed in");
    raw_hf_dense(&hf);
    raw_hf_add(&hf, "no.such", "U8", "[]", 1);
    raw_hf_add(&hf, "no.such", "U8", "[]", 1); /* even where nobody looks */
    refuse_dir("'no.such'", "already listed in");
    raw_hf_dense(&hf);
    hf.n_shards = 2;
    raw_hf_add(&hf, "model.norm.weight", "BF16", "[8]", 16)->shard = 1;
    refuse_dir("model-00002-of-00002.safetensors: tensor 'model.norm.weight'", "model-00001-of-00002.safetensors");
}

static void groups_64_to_66_entries(void **state) {
    (void)state;
#define ENTRY(dtype, shape, offsets) "{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}"
    static const struct {
        const char *entry, *problem;
    } cases[] = {
        {ENTRY("\"BF16\"", "[8]", "[16, 0]"), "its data begins at 16 and ends at 0"},
        {ENTRY("\"BF16\"", "[8]", "[-16, 0]"), "number 1 of its data_offsets is '-16'"},
        {ENTRY("\"BF16\"", "[8]", "[0, 16.0]"), "number 2 of its data_offsets is '16.0'"},
        {ENTRY("\"BF16\"", "[8]", "[0, 1e1]"), "number 2 of its data_offsets is '1e1'"},
        {ENTRY("\"BF16\"", "[8]", "[0, \"16\"]"), "number 2 of its data_offsets is 'no number'"},
        {ENTRY("\"BF16\"", "[8]", "[0, 18446744073709551616]"), "a whole number from 0 to 2^64 - 1"},
        {ENTRY("\"BF16\"", "[8]", "[18446744073709551615, 18446744073709551615]"), "is the file cut short?"},
        {ENTRY("\"BF16\"", "[8]", "[0]"), "its data_offsets need two numbers"},
        {ENTRY("\"BF16\"", "[8]", "[0, 8, 16]"), "more than 2 numbers"},
        {ENTRY("\"BF16\"", "[8]", "{}"), "its data_offsets must be an array"},
        {ENTRY("\"BF16\"", "[9]", "[0, 16]"), "need 18 bytes, its data_offsets span 16"},
        {ENTRY("\"BF16\"", "[0]", "[0, 16]"), "need 0 bytes"},
        {ENTRY("\"BF16\"", "8", "[0, 16]"), "its shape must be an array"},
        {ENTRY("\"BF16\"", "[-8]", "[0, 16]"), "number 1 of its shape is '-8'"},
        {ENTRY("\"BF16\"", "[[8]]", "[0, 16]"), "number 1 of its shape is 'no number'"},
        {ENTRY("\"BF16\"", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,8]", "[0, 16]"), "its shape has more than 16 numbers"},
        {ENTRY("\"BF16\"", "[4294967296, 4294967296]", "[0, 0]"), "the number of elements overflows"},
        {ENTRY("\"BF16\"", "[4294967296, 2147483648, 3]", "[0, 0]"), "overflows"},
        {ENTRY("\"F64\"", "[2305843009213693952]", "[0, 0]"), "the number of bytes overflows"},
        {ENTRY("\"F4\"", "[33]", "[0, 16]"), "132 bits are not whole bytes"},
        {ENTRY("\"BF17\"", "[8]", "[0, 16]"), "dtype 'BF17' is not known"},
        {ENTRY("\"bf16\"", "[8]", "[0, 16]"), "dtype 'bf16' is not known"},
        {ENTRY("16", "[8]", "[0, 16]"), "its dtype must be a string"},
        {ENTRY("null", "[8]", "[0, 16]"), "its dtype must be a string"},
        {"{\"dtype\":\"BF16\",\"shape\":[8]}", "its data_offsets is missing"},
        {"{\"dtype\":\"BF16\",\"data_offsets\":[0,16]}", "its shape is missing"},
        {"{\"shape\":[8],\"data_offsets\":[0,16]}", "its dtype is missing"},
        {"{\"dtype\":\"BF16\",\"dtype\":\"F16\",\"shape\":[8],\"data_offsets\":[0,16]}", "its dtype is given twice"},
        {"[]", "its entry must be an object"},
        {"null", "its entry must be an object"},
        {"{}", "its dtype is missing"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        raw_hf_dense(&hf);
        snprintf(raw_hf_find(&hf, "model.norm.weight")->entry, sizeof hf.tensors->entry, "%s", cases[i].entry);
        refuse_dir("model.safetensors: tensor 'model.norm.weight' at byte", cases[i].problem);
    }
}

static void group_65_places(void **state) {
    (void)state;
    raw_hf_dense(&hf);
    raw_hf_find(&hf, "model.embed_tokens.weight")->bytes += 2; /* the next one begins behind a hole */
    snprintf(raw_hf_find(&hf, "model.embed_tokens.weight")->entry, 200, ENTRY("\"BF16\"", "[8, 8]", "[0, 128]"));
    refuse_dir(LAYER "mlp.experts.1.gate_proj.weight", "nothing owns the 2 bytes in front of it");
    raw_hf_dense(&hf);
    snprintf(raw_hf_find(&hf, LAYER "mlp.experts.1.gate_proj.weight")->entry, 200, ENTRY("\"BF16\"", "[16, 8]", "[0, 256]"));
    refuse_dir("tensor '", "overlaps that of");
    raw_hf_dense(&hf);
    raw_hf_write(&hf);
    char path[200];
    struct stat info;
    snprintf(path, sizeof path, "%s/model.safetensors", hf.folder);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(truncate(path, info.st_size + 3), 0);
    refuse_as_written("model.safetensors: data at byte", "the last 3 bytes of the file belong to no tensor");
    assert_int_equal(truncate(path, info.st_size - 1), 0);
    refuse_as_written("'lm_head.weight'", "is the file cut short?");
    raw_hf_write(&hf);
    raw_hf_put(&hf, "model-extra.safetensors", "\2\0\0\0\0\0\0\0{}", 10); /* nothing in it: nothing wrong */
    struct model *m = open_path(hf.folder, true);
    model_close(&m);
}

static void group_67_metadata(void **state) {
    (void)state;
    static const struct {
        const char *value, *problem; /* NULL: right */
    } cases[] = {
        {"{\"format\": \"pt\"}", NULL},
        {"{}", NULL},
        {"{\"a\": 1}", "nothing but strings"},
        {"{\"a\": null}", "nothing but strings"},
        {"{\"a\": {\"b\": \"c\"}}", "nothing but strings"},
        {"[]", "must be an object of strings"},
        {"\"pt\"", "must be an object of strings"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        raw_hf_dense(&hf);
        snprintf(raw_hf_add(&hf, "__metadata__", "", "", 0)->entry, sizeof hf.tensors->entry, "%s", cases[i].value);
        if (cases[i].problem) {
            refuse_dir("'__metadata__'", cases[i].problem);
            continue;
        }
        struct model *m = open_dir();
        model_close(&m);
    }
    raw_hf_dense(&hf);
    for (int i = 0; i < 2; i++) snprintf(raw_hf_add(&hf, "__metadata__", "", "", 0)->entry, sizeof hf.tensors->entry, "{}");
    refuse_dir("'__metadata__'", "is given twice");
}

/* ---- 68: config.json, and whether it fits ------------------------------------------------------------------------------ */

static void refuses_configs(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *item, *problem;
    } cases[] = {
        {"\"Qwen3MoeForCausalLM\"", "\"LlamaForCausalLM\"", "'architectures'",
         "is 'LlamaForCausalLM'; only Qwen3MoeForCausalLM"},
        {"[\"Qwen3MoeForCausalLM\"]", "[]", "'architectures'", "only Qwen3MoeForCausalLM"},
        {"[\"Qwen3MoeForCausalLM\"]", "\"Qwen3MoeForCausalLM\"", "'architectures'", "only Qwen3MoeForCausalLM"},
        {"\"qwen3_moe\"", "\"qwen3\"", "'model_type'", "only qwen3_moe"},
        {"\"hidden_size\": 8", "\"hidden_size\": 0", "'hidden_size'", "must be a whole number from 1"},
        {"\"hidden_size\": 8", "\"hidden_size\": -8", "'hidden_size'", "must be a whole number from 1"},
        {"\"hidden_size\": 8", "\"hidden_size\": 8.5", "'hidden_size'", "must be a whole number from 1"},
        {"\"hidden_size\": 8", "\"hidden_size\": \"8\"", "'hidden_size'", "must be a whole number from 1"},
        {"\"hidden_size\": 8", "\"hidden_size\": 4294967304", "'hidden_size'", "must be a whole number from 1"},
        {"\"hidden_size\": 8", "\"hidden_size\": 36893488147419103240", "'hidden_size'", "must be a whole number from 1"},
        {"\"hidden_size\": 8", "\"hidden_size\": null", "'hidden_size'", "is missing"},
        {"\"hidden_size\": 8", "\"hidden_size\": 16", "'model.embed_tokens.weight'",
         "its shape is [8, 8]; config.json needs [8, 16]"},
        {"\"hidden_size\": 8", "\"hidden_size\": 8, \"hidden_size\": 8", "'hidden_size'", "is given twice"},
        {"\"num_attention_heads\": 2", "\"num_attention_heads\": 4", LAYER "self_attn.q_proj.weight", "needs [16, 8]"},
        {"\"num_key_value_heads\": 1", "\"num_key_value_heads\": 2", LAYER "self_attn.k_proj.weight", "needs [8, 8]"},
        {"\"num_key_value_heads\": 1", "\"num_key_value_heads\": 3", "'num_key_value_heads'", "does not divide"},
        {"\"head_dim\": 4", "\"head_dim\": 5", "'head_dim'", "must be even"},
        {"\"moe_intermediate_size\": 16", "\"moe_intermediate_size\": 8", "gate_proj.weight'",
         "its shape is [16, 8]; config.json needs [8, 8]"},
        {"\"vocab_size\": 8", "\"vocab_size\": 9", "'model.embed_tokens.weight'", "needs [9, 8]"},
        {"\"vocab_size\": 8", "\"vocab_size\": 99999999", "'vocab_size'", "must be a whole number"},
        {"\"num_hidden_layers\": 1", "\"num_hidden_layers\": 2", "'model.layers.1.input_layernorm.weight'", "is missing"},
        {"\"num_hidden_layers\": 1", "\"num_hidden_layers\": 4096", "", "the files hold only 18 tensors"},
        {"\"num_hidden_layers\": 1", "\"num_hidden_layers\": 0", "'num_hidden_layers'", "must be a whole number"},
        {"\"num_experts\": 2", "\"num_experts\": 3", LAYER "mlp.gate.weight", "needs [3, 8]"},
        {"\"num_experts\": 2", "\"num_experts\": 1", LAYER "mlp.experts.1.gate_proj.weight", "belongs to expert 1"},
        {"\"num_experts\": 2", "\"num_experts\": 65536", "", "the files hold only 18 tensors"},
        {"\"num_experts_per_tok\": 1", "\"num_experts_per_tok\": 3", "'num_experts_per_tok'", "but 'num_experts' is 2"},
        {"\"max_position_embeddings\": 4096", "\"max_position_embeddings\": 0", "'max_position_embeddings'",
         "must be a whole number"},
        {"\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": 0", "'rms_norm_eps'", "must be a positive number"},
        {"\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": -1e-06", "'rms_norm_eps'", "must be a positive number"},
        {"\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": 1e-400", "'rms_norm_eps'", "must be a positive number"},
        {"\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": NaN", "config.json", "not valid JSON"},
        {"\"rope_theta\": 10000000", "\"rope_theta\": 1e99", "'rope_theta'", "must be a positive number"},
        {"\"rope_theta\": 10000000,", "", "'rope_theta'", "is missing"},
        {"\"rope_theta\": 10000000", "\"rope_theta\": 0.5", "rope.freq_base", "must be above"},
        {"\"rope_scaling\": null", "\"rope_scaling\": 4", "'rope_scaling'", "must be an object or null"},
        {"\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}", "'rope_scaling.type'",
         "is 'dynamic'"},
        {"\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"yarn\"}", "'rope_scaling.factor'", "is missing"},
        {"\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 0}", "'rope_scaling.factor'",
         "must be a positive number"},
        {"\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 2, \"beta_fast\": 0}",
         "beta_fast'", "must be a positive number"},
        {"\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 2, \"beta_fast\": 0.5}",
         "yarn_beta_fast", "below yarn_beta_slow"},
        {"\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 2, \"mscale\": 1}", "mscale'",
         "another model family"},
        {"\"rope_scaling\": null", "\"rope_scaling\": {\"factor\": 1}, \"rope_parameters\": {}", "'rope_parameters'",
         "beside 'rope_scaling'"},
        {"\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", "'hidden_act'", "only silu"},
        {"\"norm_topk_prob\": true", "\"norm_topk_prob\": false", "'norm_topk_prob'", "must be true"},
        {"\"norm_topk_prob\": true,", "", "'norm_topk_prob'", "must be true"},
        {"\"norm_topk_prob\": true", "\"norm_topk_prob\": 1", "'norm_topk_prob'", "must be true or false"},
        {"\"mlp_only_layers\": []", "\"mlp_only_layers\": [0]", "'mlp_only_layers'", "must be empty"},
        {"\"decoder_sparse_step\": 1", "\"decoder_sparse_step\": 2", "'decoder_sparse_step'", "must be 1"},
        {"\"attention_bias\": false", "\"attention_bias\": true", "'attention_bias'", "biases are not supported"},
        {"\"use_sliding_window\": false", "\"use_sliding_window\": true", "'use_sliding_window'", "not supported"},
        {"\"bos_token_id\": 0", "\"bos_token_id\": -1", "'bos_token_id'", "must be a token id"},
        {"\"eos_token_id\": [2, 1]", "\"eos_token_id\": [\"2\"]", "'eos_token_id'", "must be a token id"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        raw_hf_dense(&hf);
        raw_hf_replace(&hf.config, cases[i].from, cases[i].to);
        refuse_dir(cases[i].item, cases[i].problem);
    }
}

static void refuses_tensors(void **state) {
    (void)state;
    static const char *const needed[] = {"model.embed_tokens.weight",           "model.norm.weight",
                                         LAYER "input_layernorm.weight",        LAYER "mlp.gate.weight",
                                         LAYER "self_attn.k_proj.weight",       LAYER "mlp.experts.0.up_proj.weight",
                                         LAYER "mlp.experts.1.down_proj.weight"};
    for (size_t i = 0; i < COUNT(needed); i++) {
        char item[120];
        raw_hf_dense(&hf);
        raw_hf_drop(&hf, needed[i]);
        snprintf(item, sizeof item, "tensor '%s'", needed[i]);
        refuse_dir(item, "is missing from the 1 file(s); is the download complete?");
    }
    static const struct {
        const char *name, *dtype, *shape;
        uint64_t bytes;
        const char *problem;
    } cases[] = {
        {LAYER "mlp.gate.weight", "BF16", "[8, 2]", 32, "its shape is [8, 2]; config.json needs [2, 8]"},
        {LAYER "self_attn.q_norm.weight", "BF16", "[4, 1]", 8, "its shape is [4, 1]; config.json needs [4]"},
        {LAYER "self_attn.q_proj.weight", "BF16", "[64]", 128, "its shape is [64]; config.json needs [8, 8]"},
        {LAYER "self_attn.q_proj.weight", "BF16", "[8, 8, 1]", 128, "its shape is [8, 8, 1]"},
        {LAYER "self_attn.q_proj.weight", "BF16", "[]", 2, "its shape is []"},
        {LAYER "self_attn.q_proj.weight", "F8_E4M3", "[8, 8]", 64, "its dtype is F8_E4M3; weights of BF16, F16 and F32"},
        {LAYER "self_attn.q_proj.weight", "I32", "[8, 8]", 256, "its dtype is I32"},
        {LAYER "mlp.experts.1.down_proj.weight", "F16", "[8, 16]", 256,
         "is F16, but '" LAYER "mlp.experts.0.down_proj.weight' is BF16"},
        {LAYER "mlp.experts.1.up_proj.weight", "BF16", "[8, 16]", 256, "config.json needs [16, 8]"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        raw_hf_dense(&hf);
        struct raw_hf_tensor *t = raw_hf_find(&hf, cases[i].name);
        snprintf(t->dtype, sizeof t->dtype, "%s", cases[i].dtype);
        snprintf(t->shape, sizeof t->shape, "%s", cases[i].shape);
        t->bytes = cases[i].bytes;
        refuse_dir(cases[i].name, cases[i].problem);
    }
    raw_hf_dense(&hf);
    raw_hf_add(&hf, LAYER "self_attn.q_proj.bias", "BF16", "[8]", 16);
    refuse_dir(LAYER "self_attn.q_proj.bias", "biases are not supported");
    raw_hf_dense(&hf);
    raw_hf_add(&hf, "model.layers.1.input_layernorm.weight", "BF16", "[8]", 16);
    refuse_dir("'model.layers.1.input_layernorm.weight'", "belongs to layer 1, but 'num_hidden_layers'");
    raw_hf_dense(&hf);
    raw_hf_add(&hf, "model.layers.99999999999999999999.input_layernorm.weight", "BF16", "[8]", 16);
    refuse_dir("input_layernorm.weight", "belongs to layer");
}

static void refuses_incomplete_directories(void **state) {
    (void)state;
    hf.n_shards = 3;
    for (size_t i = 0; i < hf.n; i++) hf.tensors[i].shard = (unsigned)(i % 3);
    hf.skipped = 2;
    refuse_dir("'model-00002-of-00003.safetensors'", "only 2 of 3 files are here; download the rest");
    static const struct {
        const char *index, *problem;
    } cases[] = {
        {"{\"weight_map\": {\"a\": \"other.safetensors\"}}", "names 'other.safetensors', which is not here"},
        {"{\"weight_map\": {\"a\": \"../model.safetensors\"}}",
         "leads to '../model.safetensors', which is no file of this directory"},
        {"{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "leads to '/etc/passwd'"},
        {"{\"weight_map\": {\"a\": \"model.safetensors\\u0000\"}}", "which is no file of this directory"},
        {"{\"weight_map\": {\"a\": 3}}", "nothing but names of files"},
        {"{\"weight_map\": []}", "must be an object"},
        {"{\"weight_map\": {}", "it ends too early"},
        {"[]", "a JSON object is expected"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        raw_hf_dense(&hf);
        text_addf(&hf.index, "%s", cases[i].index);
        refuse_dir("model.safetensors.index.json", cases[i].problem);
    }
    raw_hf_dense(&hf);
    text_clear(&hf.config);
    refuse_dir("", "no config.json");
    hf.n = 0;
    refuse_dir("", "no config.json, no *.safetensors and no .gguf");
    raw_hf_put(&hf, "some-Q4_K_M.gguf", "GGUF", 4);
    refuse_as_written("", "name a .gguf file inside it, such as some-Q4_K_M.gguf");
    raw_hf_dense(&hf);
    hf.n = 0; /* a vocabulary's directory: right for tokenize, but nothing to run */
    raw_hf_write(&hf);
    refuse_file(hf.folder, false, "", "a vocabulary-only directory cannot be run", 0, 0);
    struct model *m = open_path(hf.folder, false);
    model_close(&m);
}

static void refuses_odd_files(void **state) {
    (void)state;
    raw_hf_write(&hf);
    char path[200];
    snprintf(path, sizeof path, "%s/model.safetensors", hf.folder);
    struct model *m;
    struct reason why = {0};
    assert_int_equal(model_open(path, true, &m, &why), ERR_FORMAT);
    judge(&why, path, "not a GGUF file", "it looks like a safetensors file: name the directory", 0, 1);
    snprintf(path, sizeof path, "%s/config.json", hf.folder);
    assert_int_equal(model_open(path, true, &m, &why), ERR_FORMAT);
    judge(&why, path, "not a GGUF file", "it looks like JSON: name the directory", 0, 1);
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    refuse_as_written("config.json", "is a pipe");
    unlink(path);
    assert_int_equal(symlink("/nowhere/at/all", path), 0);
    refuse_as_written("config.json", "cannot open");
    raw_hf_write(&hf);
    snprintf(path, sizeof path, "%s/zero.safetensors", hf.folder);
    assert_int_equal(symlink("/dev/zero", path), 0);
    refuse_as_written("zero.safetensors", "is a device");
    unlink(path);
    snprintf(path, sizeof path, "%s/tokenizer.json", hf.folder);
    assert_int_equal(symlink("/nowhere/at/all", path), 0);
    refuse_as_written("tokenizer.json", "cannot open");
    static const char *const texts[] = {"", "[]", "{", "{\"a\": }", "{} {}"};
    for (size_t i = 0; i < COUNT(texts); i++) {
        raw_hf_write(&hf);
        raw_hf_put(&hf, "config.json", texts[i], strlen(texts[i]));
        refuse_as_written("config.json: at byte", i == 1 ? "a JSON object is expected" : "not valid JSON");
    }
}

/* ---- size -------------------------------------------------------------------------------------------------------------- */

static void reads_large_headers(void **state) {
    (void)state;
    /* as many tensors as the largest EXL3 directories have; measured_open() allows a second and 64 MiB */
    raw_hf_write(&hf);
    struct text header = {0};
    text_addf(&header, "{");
    for (int i = 0; i < 75000; i++)
        text_addf(
            &header,
            "%s\"extra.layers.%d.mlp.experts.%d.gate_proj.trellis\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
            i ? "," : "", i % 7, 75000 - i, i, i + 1);
    text_addf(&header, "}");
    const uint64_t len = header.len;
    struct text bytes = {0};
    text_add(&bytes, &len, sizeof len);
    text_add(&bytes, header.ptr, header.len);
    for (int i = 0; i < 75000; i++) text_add(&bytes, "", 1);
    raw_hf_put(&hf, "extra.safetensors", bytes.ptr, bytes.len);
    text_free(&bytes);
    text_free(&header);
    struct model *m = open_path(hf.folder, true);
    assert_int_equal(m->n_files, 2);
    check_dense_tensors(m, TYPE_BF16);
    model_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        DIRECTORY(opens_a_dense_checkpoint),
        DIRECTORY(opens_shards),
        DIRECTORY(opens_f16_and_f32),
        DIRECTORY(opens_what_it_does_not_need),
        DIRECTORY(ties_the_head),
        DIRECTORY(understands_rope),
        DIRECTORY(takes_numbers_of_transformers_5),
        DIRECTORY(opens_exl3),
        DIRECTORY(opens_experts_of_different_bits),
        DIRECTORY(knows_the_codebooks),
        DIRECTORY(opens_the_reference_exl3_model),
        DIRECTORY(refuses_exl3),
        DIRECTORY(refuses_exl3_variants),
        DIRECTORY(groups_60_and_61_files),
        DIRECTORY(group_62_not_json),
        DIRECTORY(group_63_duplicates),
        DIRECTORY(groups_64_to_66_entries),
        DIRECTORY(group_65_places),
        DIRECTORY(group_67_metadata),
        DIRECTORY(refuses_configs),
        DIRECTORY(refuses_tensors),
        DIRECTORY(refuses_incomplete_directories),
        DIRECTORY(refuses_odd_files),
        DIRECTORY(reads_large_headers),
    };
    return cmocka_run_group_tests(tests, refuse_make_folder, refuse_drop_folder);
}

/* The model reader on good files: reference files, and variants built in memory, give the right shape, directory and
 * bindings. Bad files are test_bad_gguf.c. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/model.h"
#include "tests/support/gguf_raw.h"

#define TINY SHARED_DIR "/golden/gguf/tiny/"
#define K(name) "qwen3moe." name

static char folder[] = "/tmp/test_model_XXXXXX";
static char path[128];
static struct raw_gguf raw;

static struct model *open_good(const char *file, bool need_weights) {
    struct model *m;
    struct reason why = {0};
    if (model_open(file, need_weights, &m, &why) != ERR_NONE) print_error("%s\n", why.text);
    assert_non_null(m);
    return m;
}

/* Write `raw` and open it. */
static struct model *open_raw(void) {
    struct text bytes = {0};
    raw_build(&raw, &bytes);
    raw_write(path, bytes);
    text_free(&bytes);
    return open_good(path, true);
}

static bool absent(const char *file) {
    if (access(file, R_OK) == 0) return false;
    print_message("[  NOTE    ] no %s\n", file);
    return true;
}

#define SKIP_WITHOUT(file)                                                                                                     \
    if (absent(file)) skip()

static const struct model_tensor *tensor(const struct model *m, const char *name) {
    const struct model_tensor *t = model_find_tensor(m, span_of(name));
    assert_non_null(t);
    return t;
}

static void read_tensor(const struct model *m, const struct model_tensor *t, struct text *out) {
    char buffer[4096];
    for (uint64_t done = 0; done < t->bytes;) {
        const uint64_t want = t->bytes - done < sizeof buffer ? t->bytes - done : sizeof buffer;
        assert_int_equal(pread(m->files[t->file].fd, buffer, want, (off_t)(t->offset + done)), want);
        text_add(out, buffer, want);
        done += want;
    }
}

/* Every tensor of `a` is in `b` with the same extents, type and bytes. */
static void assert_same_weights(const struct model *a, const struct model *b) {
    assert_int_equal(a->n_tensors, b->n_tensors);
    assert_int_equal(a->weight_bytes, b->weight_bytes);
    assert_int_equal(a->n_parameters, b->n_parameters);
    for (size_t i = 0; i < a->n_tensors; i++) {
        const struct model_tensor *x = &a->tensors[i], *y = model_find_tensor(b, x->name);
        assert_non_null(y);
        assert_int_equal(x->type, y->type);
        assert_memory_equal(x->ne, y->ne, sizeof x->ne);
        struct text p = {0}, q = {0};
        read_tensor(a, x, &p);
        read_tensor(b, y, &q);
        assert_int_equal(p.len, q.len);
        assert_memory_equal(p.ptr, q.ptr, p.len);
        text_free(&p);
        text_free(&q);
    }
}

/* ---- reference files -------------------------------------------------------------------------------------------- */

static void golden_tiny_single(void **state) {
    (void)state;
    SKIP_WITHOUT(TINY "tiny_f32.gguf");
    struct model *m = open_good(TINY "tiny_f32.gguf", true);
    const struct model_shape *s = &m->shape;
    assert_int_equal(s->n_layers, 2);
    assert_int_equal(s->n_embd, 32);
    assert_int_equal(s->n_heads, 4);
    assert_int_equal(s->n_kv_heads, 2);
    assert_int_equal(s->head_dim, 16);
    assert_int_equal(s->n_experts, 8);
    assert_int_equal(s->n_experts_used, 2);
    assert_int_equal(s->n_ff, 32);
    assert_int_equal(s->n_vocab, 96);
    assert_int_equal(s->context_length, 64);
    assert_true(s->rms_eps == 1e-6f && s->rope_base == 1e6f && s->rope_factor == 1 && s->rope_attn_factor == 1);
    assert_int_equal(s->rope_scaling, ROPE_NONE);
    assert_int_equal(m->container_version, 3);
    assert_int_equal(m->n_tensors, 27);
    assert_int_equal(m->vocab.n_tokens, 0);
    assert_int_equal(m->n_parameters, 68320);
    assert_int_equal(m->weight_bytes, 273280);
    assert_int_equal(m->files[0].used_bytes, m->files[0].bytes);
    assert_ptr_equal(m->embedding, &m->tensors[0]);
    assert_ptr_equal(m->layers[1].down, tensor(m, "blk.1.ffn_down_exps.weight"));
    assert_ptr_equal(m->layers[0].router, tensor(m, "blk.0.ffn_gate_inp.weight"));
    assert_int_equal(m->layers[1].down->offset + m->layers[1].down->bytes, m->files[0].bytes);
    assert_int_equal(m->layers[1].down->offset - m->embedding->offset, 240512);
    assert_int_equal(m->layers[0].attn_q->row_bytes, 128);
    assert_true(span_equal(m->name, SPAN("tiny-random")));
    model_close(&m);
    assert_null(m);
    model_close(&m);
}

static void golden_tiny_split(void **state) {
    (void)state;
    SKIP_WITHOUT(TINY "tiny_split-00001-of-00003.gguf");
    struct model *whole = open_good(TINY "tiny_f32.gguf", true);
    struct model *split = open_good(TINY "tiny_split-00001-of-00003.gguf", true);
    assert_int_equal(split->n_files, 3);
    assert_int_equal(split->files[0].used_bytes, 0);
    assert_int_equal(split->embedding->file, 1);
    assert_int_equal(split->layers[1].down->file, 2);
    assert_memory_equal(&whole->shape, &split->shape, sizeof whole->shape);
    assert_same_weights(whole, split);
    model_close(&whole);
    model_close(&split);
}

static void golden_tiny_yarn(void **state) {
    (void)state;
    SKIP_WITHOUT(TINY "tiny_yarn.gguf");
    struct model *m = open_good(TINY "tiny_yarn.gguf", true);
    assert_int_equal(m->shape.rope_scaling, ROPE_YARN);
    assert_true(m->shape.rope_factor == 4 && m->shape.rope_base == 10000);
    assert_int_equal(m->shape.rope_original_context, 512);
    model_close(&m);
}

static void golden_tiny_mixed(void **state) {
    (void)state;
    SKIP_WITHOUT(TINY "tiny_q_mixed.gguf");
    struct model *m = open_good(TINY "tiny_q_mixed.gguf", true);
    assert_int_equal(m->layers[0].gate->type, TYPE_IQ4_KS);
    assert_int_equal(m->layers[0].gate->row_bytes, 4 + 136);
    assert_int_equal(m->layers[0].gate->bytes, 140 * 256 * 3);
    assert_int_equal(m->layers[0].up->type, TYPE_IQ3_K);
    assert_int_equal(m->layers[0].down->type, TYPE_Q4_K);
    assert_int_equal(m->layers[0].down->bytes, 144 * 256 * 3);
    assert_int_equal(m->layers[0].up->offset - m->layers[0].gate->offset, 572928 - 465408);
    model_close(&m);
}

static void golden_vocabulary(void **state) {
    (void)state;
    static const char file[] = SHARED_DIR "/golden/tokenizer/qwen3-vocab.gguf";
    SKIP_WITHOUT(file);
    struct model *m = open_good(file, false);
    const struct model_vocab *v = &m->vocab;
    assert_int_equal(v->n_tokens, 151936);
    assert_int_equal(v->n_merges, 151387);
    assert_int_equal(m->shape.n_vocab, 151936);
    assert_true(span_equal(v->tokens[0], SPAN("!")) && span_equal(v->tokens[151645], SPAN("<|im_end|>")));
    assert_true(span_equal(v->merges[2], SPAN("i n")));
    assert_int_equal(v->types[0], 1);
    assert_int_equal(v->types[151645], 3);
    assert_int_equal(v->eos, 151645);
    assert_int_equal(v->bos, 151643);
    assert_int_equal(v->pad, 151643);
    assert_int_equal(v->eot, -1);
    assert_false(v->add_bos);
    assert_true(span_starts(m->chat_template, SPAN("{%- if tools %}")));
    assert_null(m->layers);
    assert_null(m->embedding);
    model_close(&m);
    struct reason why;
    assert_int_equal(model_open(file, true, &m, &why), ERR_FORMAT);
    assert_null(m);
    assert_non_null(strstr(why.text, "has no tensors"));
}

static void files_of_transformers(void **state) {
    (void)state;
    struct model *m = open_good(TESTS_DIR "/golden/hf_tiny/hf_tiny.gguf", true);
    assert_int_equal(m->vocab.n_tokens, 272);
    assert_int_equal(m->shape.n_vocab, 272);
    assert_int_equal(m->shape.n_experts_used, 3);
    assert_true(m->output != m->embedding);
    model_close(&m);
    m = open_good(TESTS_DIR "/golden/hf_tiny/hf_tiny_tied.gguf", true);
    assert_ptr_equal(m->output, m->embedding);
    model_close(&m);
}

/* ---- variants --------------------------------------------------------------------------------------------------- */

static int tiny(void **state) {
    (void)state;
    raw_tiny(&raw);
    return 0;
}

static int drop_raw(void **state) {
    (void)state;
    raw_free(&raw);
    unlink(path);
    return 0;
}

static void built_tiny(void **state) {
    (void)state;
    struct model *m = open_raw();
    const struct model_tensor *t = tensor(m, "blk.0.attn_q.weight");
    assert_int_equal(t->offset, raw.data_at + raw_find(&raw, "blk.0.attn_q.weight")->offset);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->bytes, 8 * 8 * 2);
    assert_true(m->files[0].bytes < 4096);
    assert_true(span_equal(m->vocab.tokens[6], SPAN("abcd")));
    assert_int_equal(m->vocab.types[7], 3);
    assert_int_equal(m->vocab.eos, 7);
    assert_int_equal(m->vocab.bos, -1);
    assert_true(span_equal(m->chat_template, SPAN("{{ messages }}")));
    assert_null(model_find_tensor(m, SPAN("blk.0.attn_q")));
    assert_null(model_find_meta(m, "general"));
    model_close(&m);
}

static void version_2(void **state) {
    (void)state;
    raw.version = 2;
    struct model *m = open_raw();
    assert_int_equal(m->container_version, 2);
    model_close(&m);
}

static void alignments(void **state) {
    (void)state;
    for (uint32_t alignment = 1; alignment <= 65536; alignment *= 4) {
        raw_set_u32(&raw, "general.alignment", alignment);
        raw.alignment = alignment;
        raw_place(&raw);
        struct model *m = open_raw();
        assert_int_equal(m->layers[0].down->offset % alignment, 0);
        assert_int_equal(m->layers[0].down->offset, raw.data_at + raw_find(&raw, "blk.0.ffn_down_exps.weight")->offset);
        model_close(&m);
    }
    raw_drop_key(&raw, "general.alignment");
    raw.alignment = 32;
    raw_place(&raw);
    struct model *m = open_raw();
    model_close(&m);
}

static void any_order_and_gaps(void **state) {
    (void)state;
    for (size_t i = 0; i < raw.n_tensors / 2; i++) { /* records reversed, data where it was */
        const struct raw_tensor t = raw.tensors[i];
        raw.tensors[i] = raw.tensors[raw.n_tensors - 1 - i];
        raw.tensors[raw.n_tensors - 1 - i] = t;
    }
    raw_find(&raw, "token_embd.weight")->offset = raw.data_bytes + 320; /* moved behind a gap */
    raw.data_bytes += 320 + 8 * 8 * 2;
    struct model *m = open_raw();
    assert_int_equal(m->embedding->offset, raw.data_at + raw.data_bytes - 8 * 8 * 2);
    assert_int_equal(m->files[0].used_bytes, m->files[0].bytes);
    model_close(&m);
}

static void tied_head(void **state) {
    (void)state;
    raw_drop(&raw, "output.weight");
    struct model *m = open_raw();
    assert_ptr_equal(m->output, m->embedding);
    model_close(&m);
}

static void merged_gate_up(void **state) {
    (void)state;
    raw_drop(&raw, "blk.0.ffn_gate_exps.weight");
    raw_drop(&raw, "blk.0.ffn_up_exps.weight");
    raw_add(&raw, "blk.0.ffn_gate_up_exps.weight", 0, 8, 2 * 4, 2);
    struct model *m = open_raw();
    assert_ptr_equal(m->layers[0].gate, tensor(m, "blk.0.ffn_gate_up_exps.weight"));
    assert_null(m->layers[0].up);
    model_close(&m);
}

static void extra_tensors_are_kept_and_ignored(void **state) {
    (void)state;
    raw_add(&raw, "output_extra.weight", 0, 8, 8, 0);
    raw_add(&raw, "something.else", 26, 3, 0, 0);
    raw_add(&raw, "blk.weight", 0, 1, 0, 0); /* not a layer */
    struct model *m = open_raw();
    assert_int_equal(m->n_tensors, 18);
    assert_int_equal(tensor(m, "something.else")->type, TYPE_I32);
    model_close(&m);
}

static void integers_of_any_type(void **state) {
    (void)state;
    raw_set_u64(&raw, K("block_count"), 1);
    raw_set_i32(&raw, K("embedding_length"), 8);
    raw_set_u16(&raw, K("attention.head_count"), 2);
    raw_set(&raw, K("attention.head_count_kv"), 1, "\1", 1);     /* i8 */
    raw_set(&raw, K("attention.key_length"), 0, "\4", 1);        /* u8 */
    raw_set(&raw, K("attention.value_length"), 3, "\4\0", 2);    /* i16 */
    raw_set(&raw, K("expert_count"), 11, "\2\0\0\0\0\0\0\0", 8); /* i64 */
    raw_set(&raw, K("rope.freq_base"), 12, &(double){50000}, 8); /* f64 */
    struct model *m = open_raw();
    assert_int_equal(m->shape.n_kv_heads, 1);
    assert_int_equal(m->shape.head_dim, 4);
    assert_int_equal(m->shape.n_experts, 2);
    assert_true(m->shape.rope_base == 50000);
    model_close(&m);
}

static void values_per_layer(void **state) {
    (void)state;
    raw_set_i32s(&raw, K("attention.head_count"), (const int32_t[]){2}, 1);
    raw_set_i32s(&raw, K("attention.head_count_kv"), (const int32_t[]){1}, 1);
    raw_set_i32s(&raw, K("feed_forward_length"), (const int32_t[]){9}, 1);
    struct model *m = open_raw();
    assert_int_equal(m->shape.n_heads, 2);
    model_close(&m);
}

static void defaults(void **state) {
    (void)state;
    raw_drop_key(&raw, K("attention.key_length")); /* 8 / 2 = 4 */
    raw_drop_key(&raw, K("attention.value_length"));
    raw_drop_key(&raw, K("rope.freq_base"));
    raw_drop_key(&raw, K("expert_feed_forward_length")); /* feed_forward_length / experts used */
    raw_drop_key(&raw, "tokenizer.ggml.token_type");
    raw_drop_key(&raw, "tokenizer.ggml.merges");
    raw_drop_key(&raw, "general.name");
    raw_drop_key(&raw, "tokenizer.chat_template");
    raw_set_u32(&raw, K("context_length"), UINT32_MAX);
    raw_set_u32(&raw, "tokenizer.ggml.padding_token_id", UINT32_MAX); /* a common way to write "none" */
    struct model *m = open_raw();
    assert_int_equal(m->shape.head_dim, 4);
    assert_int_equal(m->shape.n_ff, 4);
    assert_true(m->shape.rope_base == 10000);
    assert_int_equal(m->vocab.types[7], 1);
    assert_int_equal(m->vocab.n_merges, 0);
    assert_int_equal(m->vocab.pad, -1);
    assert_int_equal(m->name.len, 0);
    assert_int_equal(m->chat_template.len, 0);
    assert_int_equal(m->shape.context_length, INT32_MAX);
    model_close(&m);
}

static void no_tokenizer(void **state) {
    (void)state;
    for (size_t i = raw.n_keys; i-- > 0;)
        if (strncmp(raw.keys[i].name.ptr, "tokenizer.", 10) == 0) raw_drop_key(&raw, raw.keys[i].name.ptr);
    struct model *m = open_raw();
    assert_int_equal(m->vocab.n_tokens, 0);
    assert_int_equal(m->vocab.eos, -1);
    assert_int_equal(m->shape.n_vocab, 8);
    model_close(&m);
}

static void rope_scaling(void **state) {
    (void)state;
    static const struct {
        const char *type;         /* NULL: key absent */
        float factor, old_factor; /* -1: key absent */
        enum rope_scaling want;
        float want_factor;
    } cases[] = {
        {NULL, -1, -1, ROPE_NONE, 1},    {NULL, 4, -1, ROPE_LINEAR, 4}, /* a factor without a type is linear */
        {NULL, -1, 2, ROPE_LINEAR, 2},                                  /* rope.scale_linear, the old key */
        {NULL, 4, 2, ROPE_LINEAR, 4},    {NULL, 0, -1, ROPE_NONE, 1},     {"none", -1, -1, ROPE_NONE, 1},
        {"none", 4, -1, ROPE_NONE, 1}, /* none means none */
        {"linear", 1, -1, ROPE_NONE, 1}, {"linear", 0, -1, ROPE_NONE, 1}, {"linear", 8, -1, ROPE_LINEAR, 8},
        {"yarn", 4, -1, ROPE_YARN, 4},   {"yarn", -1, -1, ROPE_YARN, 1},  {"yarn", -1, 3, ROPE_YARN, 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        raw_free(&raw);
        raw_tiny(&raw);
        if (cases[i].type) raw_set_string(&raw, K("rope.scaling.type"), cases[i].type);
        if (cases[i].factor >= 0) raw_set_f32(&raw, K("rope.scaling.factor"), cases[i].factor);
        if (cases[i].old_factor >= 0) raw_set_f32(&raw, K("rope.scale_linear"), cases[i].old_factor);
        struct model *m = open_raw();
        assert_int_equal(m->shape.rope_scaling, cases[i].want);
        assert_true(m->shape.rope_factor == cases[i].want_factor);
        assert_int_equal(m->shape.rope_original_context, 64);
        model_close(&m);
    }
    raw_set_u32(&raw, K("rope.scaling.original_context_length"), 32768);
    raw_set_f32(&raw, K("rope.scaling.attn_factor"), 0.5f);
    raw_set_bool(&raw, K("rope.scaling.finetuned"), 1);
    raw_set_u32(&raw, K("rope.dimension_count"), 4);
    struct model *m = open_raw();
    assert_int_equal(m->shape.rope_original_context, 32768);
    assert_true(m->shape.rope_attn_factor == 0.5f);
    assert_true(m->shape.rope_ext_factor == 1 && m->shape.rope_beta_fast == 32 && m->shape.rope_beta_slow == 1);
    model_close(&m);
    raw_set_f32(&raw, K("rope.scaling.yarn_ext_factor"), 0.25f);
    raw_set_f32(&raw, K("rope.scaling.yarn_attn_factor"), 0.75f);
    raw_set_f32(&raw, K("rope.scaling.yarn_beta_fast"), 16);
    raw_set_f32(&raw, K("rope.scaling.yarn_beta_slow"), 2);
    m = open_raw();
    assert_true(m->shape.rope_ext_factor == 0.25f && m->shape.rope_attn_factor == 0.75f);
    assert_true(m->shape.rope_beta_fast == 16 && m->shape.rope_beta_slow == 2);
    model_close(&m);
    raw_set_f32(&raw, K("rope.scaling.yarn_ext_factor"), -1); /* not set */
    m = open_raw();
    assert_true(m->shape.rope_ext_factor == 1);
    model_close(&m);
}

/* Every type of the table is sized by its row rule. */
static void every_tensor_type(void **state) {
    (void)state;
    for (int type = 0; type < TYPE_EXL3_1; type++) {
        char name[64];
        snprintf(name, sizeof name, "extra.%d", type);
        raw_add(&raw, name, tensor_type_info((enum tensor_type)type)->gguf_id, 512, 3, 0);
    }
    struct model *m = open_raw();
    for (int type = 0; type < TYPE_EXL3_1; type++) {
        const struct tensor_type_info *info = tensor_type_info((enum tensor_type)type);
        char name[64];
        snprintf(name, sizeof name, "extra.%d", type);
        const struct model_tensor *t = tensor(m, name);
        assert_int_equal(t->type, type);
        assert_int_equal(t->row_bytes, info->row_meta_bytes + 512 / info->block_weights * info->block_bytes);
        assert_int_equal(t->bytes, 3 * t->row_bytes);
    }
    model_close(&m);
}

static void metadata_of_every_type(void **state) {
    (void)state;
    static const uint8_t sizes[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    static const uint8_t zeros[24];
    for (uint32_t type = 0; type < 13; type++) {
        if (!sizes[type]) continue;
        char name[32];
        snprintf(name, sizeof name, "scalar.%u", type);
        raw_set(&raw, name, type, zeros, sizes[type]);
        snprintf(name, sizeof name, "array.%u", type);
        raw_set_array(&raw, name, type, 3, zeros, 3u * sizes[type]);
    }
    raw_set_array(&raw, "array.empty", 8, 0, "", 0);
    struct model *m = open_raw();
    assert_int_equal(m->n_meta, raw.n_keys);
    for (uint32_t type = 0; type < 13; type++) {
        if (!sizes[type]) continue;
        char name[32];
        snprintf(name, sizeof name, "scalar.%u", type);
        const struct model_meta *scalar = model_find_meta(m, name);
        assert_non_null(scalar);
        assert_int_equal(scalar->type, type);
        assert_int_equal(scalar->bytes.len, sizes[type]);
        snprintf(name, sizeof name, "array.%u", type);
        const struct model_meta *array = model_find_meta(m, name);
        assert_int_equal(array->type, 9);
        assert_int_equal(array->element_type, type);
        assert_int_equal(array->count, 3);
        assert_int_equal(array->bytes.len, 3 * sizes[type]);
    }
    assert_int_equal(model_find_meta(m, "array.empty")->count, 0);
    assert_true(span_equal(m->meta[0].key, SPAN("general.architecture")));
    model_close(&m);
}

/* The full-size members of the family: extents as published, data not written (the file is a hole). */
static void real_geometries(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint32_t layers, embd, heads, kv_heads, experts, used, ff, vocab;
        double billions; /* parameters */
    } sizes[] = {
        {"30B-A3B", 48, 2048, 32, 4, 128, 8, 768, 151936, 30.53},
        {"235B-A22B", 94, 4096, 64, 4, 128, 8, 1536, 151936, 235.09},
        {"Coder-480B-A35B", 62, 6144, 96, 8, 160, 8, 2560, 151936, 480.15},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const uint64_t E = sizes[i].embd, Q = sizes[i].heads * 128u, KV = sizes[i].kv_heads * 128u, X = sizes[i].experts,
                       F = sizes[i].ff;
        raw_free(&raw);
        raw_tiny(&raw);
        for (size_t k = raw.n_keys; k-- > 0;)
            if (strncmp(raw.keys[k].name.ptr, "tokenizer.", 10) == 0) raw_drop_key(&raw, raw.keys[k].name.ptr);
        raw_set_u32(&raw, K("block_count"), sizes[i].layers);
        raw_set_u32(&raw, K("embedding_length"), sizes[i].embd);
        raw_set_u32(&raw, K("attention.head_count"), sizes[i].heads);
        raw_set_u32(&raw, K("attention.head_count_kv"), sizes[i].kv_heads);
        raw_set_u32(&raw, K("attention.key_length"), 128);
        raw_set_u32(&raw, K("attention.value_length"), 128);
        raw_set_u32(&raw, K("expert_count"), sizes[i].experts);
        raw_set_u32(&raw, K("expert_used_count"), sizes[i].used);
        raw_set_u32(&raw, K("expert_feed_forward_length"), sizes[i].ff);
        raw_set_u32(&raw, K("context_length"), 262144);
        while (raw.n_tensors) raw_drop(&raw, raw.tensors[raw.n_tensors - 1].name.ptr);
        raw.data_bytes = 0;
        raw_add(&raw, "token_embd.weight", 12, E, sizes[i].vocab, 0);
        raw_add(&raw, "output_norm.weight", 0, E, 0, 0);
        raw_add(&raw, "output.weight", 14, E, sizes[i].vocab, 0);
        for (uint32_t layer = 0; layer < sizes[i].layers; layer++) {
            const struct {
                const char *name;
                uint32_t type;
                uint64_t a, b, x;
            } parts[] = {{"attn_norm", 0, E, 0, 0},      {"attn_q", 12, E, Q, 0},      {"attn_k", 12, E, KV, 0},
                         {"attn_v", 14, E, KV, 0},       {"attn_output", 12, Q, E, 0}, {"attn_q_norm", 0, 128, 0, 0},
                         {"attn_k_norm", 0, 128, 0, 0},  {"ffn_norm", 0, E, 0, 0},     {"ffn_gate_inp", 0, E, X, 0},
                         {"ffn_gate_exps", 12, E, F, X}, {"ffn_up_exps", 12, E, F, X}, {"ffn_down_exps", 14, F, E, X}};
            for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
                char name[64];
                snprintf(name, sizeof name, "blk.%u.%s.weight", layer, parts[p].name);
                raw_add(&raw, name, parts[p].type, parts[p].a, parts[p].b, parts[p].x);
            }
        }
        struct text bytes = {0};
        raw_build_directory(&raw, &bytes);
        const bool written = raw_write_sparse(path, bytes, raw.data_at + raw.data_bytes);
        text_free(&bytes);
        if (!written) {
            print_message("[  NOTE    ] no room for a sparse %s\n", sizes[i].name);
            continue;
        }
        struct model *m = open_good(path, true);
        assert_int_equal(m->shape.n_layers, sizes[i].layers);
        assert_int_equal(m->shape.n_vocab, sizes[i].vocab);
        assert_true(fabs((double)m->n_parameters / 1e9 - sizes[i].billions) < 0.01);
        assert_int_equal(m->layers[sizes[i].layers - 1].down->bytes, X * E * (F / 256) * 210);
        model_close(&m);
    }
}

/* ---- splits ----------------------------------------------------------------------------------------------------- */

static void split_path(char *out, unsigned part, unsigned count) {
    sprintf(out, "%s/s-%05u-of-%05u.gguf", folder, part, count);
}

static void built_split(void **state) {
    (void)state;
    static struct raw_gguf part;
    struct model *whole = open_raw();
    const size_t n = raw.n_tensors, share = 6;
    const unsigned count = (unsigned)((n + share - 1) / share);
    char name[128], first[128];
    for (unsigned p = 0; p < count; p++) {
        raw_tiny(&part); /* every part carries all keys, as some writers do */
        raw_set_u16(&part, "split.no", (uint16_t)p);
        raw_set_u16(&part, "split.count", (uint16_t)count);
        raw_set_i32(&part, "split.tensors.count", (int32_t)n);
        part.alignment = p == 1 ? 64 : 32; /* each part has its own alignment */
        raw_set_u32(&part, "general.alignment", (uint32_t)part.alignment);
        for (size_t i = n; i-- > 0;)
            if (i / share != p) raw_drop(&part, raw.tensors[i].name.ptr);
        raw_place(&part);
        struct text bytes = {0};
        raw_build_directory(&part, &bytes);
        for (size_t i = 0; i < part.n_tensors; i++) { /* the same bytes as in the whole file */
            while (bytes.len < part.data_at + part.tensors[i].offset) text_add(&bytes, "", 1);
            read_tensor(whole, tensor(whole, part.tensors[i].name.ptr), &bytes);
        }
        split_path(name, p + 1, count);
        raw_write(name, bytes);
        text_free(&bytes);
        raw_free(&part);
    }
    split_path(first, 1, count);
    struct model *split = open_good(first, true);
    assert_int_equal(split->n_files, count);
    assert_same_weights(whole, split);
    assert_int_equal(split->vocab.n_tokens, 8);
    model_close(&split);
    model_close(&whole);
    for (unsigned p = 0; p < count; p++) {
        split_path(name, p + 1, count);
        unlink(name);
    }
}

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    return 0;
}

static int drop_folder(void **state) {
    (void)state;
    return rmdir(folder); /* fails when a test, or the reader, left something behind */
}

int main(void) {
#define BUILT(test) cmocka_unit_test_setup_teardown(test, tiny, drop_raw)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_tiny_single),
        cmocka_unit_test(golden_tiny_split),
        cmocka_unit_test(golden_tiny_yarn),
        cmocka_unit_test(golden_tiny_mixed),
        cmocka_unit_test(golden_vocabulary),
        cmocka_unit_test(files_of_transformers),
        BUILT(built_tiny),
        BUILT(version_2),
        BUILT(alignments),
        BUILT(any_order_and_gaps),
        BUILT(tied_head),
        BUILT(merged_gate_up),
        BUILT(extra_tensors_are_kept_and_ignored),
        BUILT(integers_of_any_type),
        BUILT(values_per_layer),
        BUILT(defaults),
        BUILT(no_tokenizer),
        BUILT(rope_scaling),
        BUILT(every_tensor_type),
        BUILT(metadata_of_every_type),
        BUILT(real_geometries),
        BUILT(built_split),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}

/* Synthetic models: the reader, the tokenizer and the engine accept them, their weights have the statistics that were asked
 * for, types follow the mix and the overrides, and the same seed gives the same bytes. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu/cpu.h"
#include "engine/engine.h"
#include "model/model.h"
#include "tests/support/files.h"
#include "tests/support/model_tokenizer.h"
#include "tests/support/tiny_model.h"
#include "text/chat.h"

static struct model *open_model(const char *path) {
    struct model *m;
    struct reason why;
    if (model_open(path, true, &m, &why) != ERR_NONE) fail_test("%s", why.text);
    return m;
}

static const struct model_tensor *tensor_of(const struct model *m, const char *name) {
    const struct model_tensor *t = model_find_tensor(m, span_of(name));
    if (!t) fail_test("no tensor %s", name);
    return t;
}

static uint8_t *bytes_of(const struct model *m, const struct model_tensor *t) {
    uint8_t *bytes = malloc(t->bytes);
    assert_non_null(bytes);
    assert_int_equal(pread(m->files[t->file].fd, bytes, t->bytes, (off_t)t->offset), t->bytes);
    return bytes;
}

/* Row r as floats. */
static void row_of(const struct model_tensor *t, const uint8_t *bytes, uint64_t r, float *out) {
    struct cpu_ops ops;
    cpu_ops_init(&ops, ISA_REF);
    ops.types[t->type].dequant(bytes + r * t->row_bytes, out, t->ne[0]);
}

struct statistics {
    double mean, deviation, worst_row_mean; /* the last in deviations */
};

static struct statistics measure(const struct model *m, const char *name) {
    const struct model_tensor *t = tensor_of(m, name);
    const uint64_t rows = t->ne[1] * t->ne[2], k = t->ne[0];
    float *row = malloc(k * sizeof *row);
    uint8_t *bytes = bytes_of(m, t);
    double sum = 0, squares = 0, worst = 0;
    assert_non_null(row);
    for (uint64_t r = 0; r < rows; r++) {
        double row_sum = 0;
        row_of(t, bytes, r, row);
        for (uint64_t c = 0; c < k; c++) {
            row_sum += (double)row[c];
            squares += (double)row[c] * (double)row[c];
        }
        sum += row_sum;
        worst = fmax(worst, fabs(row_sum) / (double)k);
    }
    free(row);
    free(bytes);
    const double n = (double)(rows * k), deviation = sqrt(squares / n);
    return (struct statistics){sum / n, deviation, worst / deviation};
}

/* Rows here are one block of 256: where it has eight scales and levels around -4, chance alone reaches half a deviation. */
static void expect_statistics(const struct model *m, const char *name, double deviation) {
    const struct statistics s = measure(m, name);
    if (fabs(s.deviation / deviation - 1) > 0.06 || fabs(s.mean) > 0.02 * deviation || s.worst_row_mean > 0.75)
        fail_test("%s: deviation %g instead of %g, mean %g, a row's mean %g deviations off", name, s.deviation, deviation,
                  s.mean, s.worst_row_mean);
}

/* 4 layers: a branch of 0.25; see the formulas of synth_model.c. Every type that a kernel knows. */
static void weights_have_their_statistics(void **state) {
    (void)state;
    struct cpu_ops ops;
    struct synth_spec spec = tiny_model_spec();
    cpu_ops_init(&ops, ISA_REF);
    spec.layers = 4;
    spec.embd = spec.ff = 256;
    spec.head_dim = 64;
    unsigned tried = 0;
    for (int t = 0; t < TYPE_COUNT; t++) {
        const enum tensor_type type = (enum tensor_type)t;
        if (!ops.types[t].dequant || tensor_type_info(type)->gguf_id >= TENSOR_OWN_ID) continue;
        tried++;
        spec.overrides = (const struct synth_override[]){{"ffn_gate_inp", TYPE_F32}, {".", type}};
        spec.n_overrides = 2;
        char *path = tiny_model_write(&spec);
        struct model *m = open_model(path);
        expect_statistics(m, "token_embd.weight", 1);
        expect_statistics(m, "output.weight", 2. / 16);
        expect_statistics(m, "blk.0.attn_q.weight", 1. / 16);
        expect_statistics(m, "blk.3.ffn_gate_exps.weight", 1. / 16);
        expect_statistics(m, "blk.1.attn_output.weight", 0.25 / 16);
        expect_statistics(m, "blk.1.ffn_down_exps.weight", 0.25 / 0.6 * sqrt(2. / 256));
        assert_int_equal(tensor_of(m, "blk.2.ffn_up_exps.weight")->type, type);
        assert_int_equal(tensor_of(m, "blk.2.ffn_norm.weight")->type, TYPE_F32);
        model_close(&m);
        tiny_model_remove(path);
    }
    assert_int_equal(tried, 35);
}

static void mixes_choose_types(void **state) {
    (void)state;
    static const struct {
        const char *mix;
        enum tensor_type embedding, head, first_q, q, v, gate, down;
    } cases[] = {
        {"f16", TYPE_F16, TYPE_F16, TYPE_F16, TYPE_F16, TYPE_F16, TYPE_F16, TYPE_F16},
        {"q4_0", TYPE_Q4_0, TYPE_Q4_0, TYPE_Q4_0, TYPE_Q4_0, TYPE_Q4_0, TYPE_Q4_0, TYPE_Q4_0},
        {"q5_k_m", TYPE_Q5_K, TYPE_Q6_K, TYPE_Q5_K, TYPE_Q5_K, TYPE_Q6_K, TYPE_Q5_K, TYPE_Q6_K},
        {"asym2", TYPE_Q6_K, TYPE_Q6_K, TYPE_Q4_K, TYPE_Q4_K, TYPE_Q4_K, TYPE_IQ2_S, TYPE_IQ3_S},
        {"iq4_k", TYPE_Q8_0, TYPE_Q8_0, TYPE_Q8_0, TYPE_IQ6_K, TYPE_IQ6_K, TYPE_IQ4_K, TYPE_IQ5_K},
    };
    struct synth_spec spec = tiny_model_spec();
    spec.layers = 3;
    spec.embd = spec.ff = 256;
    spec.head_dim = 64;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spec.mix = cases[i].mix;
        char *path = tiny_model_write(&spec);
        struct model *m = open_model(path);
        assert_int_equal(m->embedding->type, cases[i].embedding);
        assert_int_equal(m->output->type, cases[i].head);
        assert_int_equal(m->layers[0].attn_q->type, cases[i].first_q);
        assert_int_equal(m->layers[2].attn_q->type, cases[i].q);
        assert_int_equal(m->layers[2].attn_v->type, cases[i].v);
        assert_int_equal(m->layers[2].gate->type, cases[i].gate);
        assert_int_equal(m->layers[2].up->type, cases[i].gate);
        assert_int_equal(m->layers[2].down->type, cases[i].down);
        assert_int_equal(m->layers[2].router->type, TYPE_F32);
        model_close(&m);
        tiny_model_remove(path);
    }
}

static void mixture_has_more_bits_in_half_of_the_layers(void **state) {
    (void)state;
    struct synth_spec spec = tiny_model_spec();
    spec.layers = 16;
    spec.embd = spec.ff = 256;
    spec.mix = "q4_k_m";
    char *path = tiny_model_write(&spec);
    struct model *m = open_model(path);
    const char want[17] = "6644644644644666"; /* 0, 1 | 4, 7, 10, 13 | 14, 15 */
    for (uint32_t l = 0; l < 16; l++) {
        const enum tensor_type type = want[l] == '6' ? TYPE_Q6_K : TYPE_Q4_K;
        assert_int_equal(m->layers[l].attn_v->type, type);
        assert_int_equal(m->layers[l].down->type, type);
        assert_int_equal(m->layers[l].attn_q->type, TYPE_Q4_K);
        assert_int_equal(m->layers[l].up->type, TYPE_Q4_K);
    }
    assert_int_equal(m->embedding->type, TYPE_Q4_K);
    assert_int_equal(m->output->type, TYPE_Q6_K);
    model_close(&m);
    tiny_model_remove(path);
}

static void overrides_apply_in_order(void **state) {
    (void)state;
    const struct synth_override overrides[] = {
        {"^blk\\.1\\..*_exps", TYPE_BF16}, {"exps|token", TYPE_Q8_0}, {"ffn_gate_inp", TYPE_F16}};
    struct synth_spec spec = tiny_model_spec();
    spec.overrides = overrides;
    spec.n_overrides = 3;
    spec.tied = true;
    spec.vocab = 400;
    char *path = tiny_model_write(&spec);
    struct model *m = open_model(path);
    assert_int_equal(m->layers[0].gate->type, TYPE_Q8_0);
    assert_int_equal(m->layers[1].gate->type, TYPE_BF16);
    assert_int_equal(m->layers[1].attn_q->type, TYPE_Q4_0);
    assert_int_equal(m->layers[1].router->type, TYPE_F16);
    assert_int_equal(m->embedding->type, TYPE_Q8_0);
    assert_ptr_equal(m->output, m->embedding);
    assert_int_equal(m->shape.n_vocab, 400);
    assert_int_equal(m->vocab.n_tokens, 400);
    assert_int_equal(m->vocab.types[399], 5);
    assert_true(span_equal(m->vocab.tokens[399], SPAN("[PAD399]")));
    model_close(&m);
    tiny_model_remove(path);
}

static double row_norm_spread(float skew) { /* deviation of the logarithm of the router's row norms */
    struct synth_spec spec = tiny_model_spec();
    spec.experts = 128;
    spec.router_skew = skew;
    char *path = tiny_model_write(&spec);
    struct model *m = open_model(path);
    const struct model_tensor *t = m->layers[0].router;
    uint8_t *bytes = bytes_of(m, t);
    double sum = 0, squares = 0;
    for (uint64_t r = 0; r < 128; r++) {
        float row[64];
        double norm = 0;
        row_of(t, bytes, r, row);
        for (int c = 0; c < 64; c++) norm += (double)row[c] * (double)row[c];
        sum += log(norm) / 2;
        squares += log(norm) / 2 * log(norm) / 2;
    }
    free(bytes);
    model_close(&m);
    tiny_model_remove(path);
    return sqrt(squares / 128 - sum / 128 * sum / 128);
}

static void router_skew_spreads_row_norms(void **state) {
    (void)state;
    assert_true(row_norm_spread(0) < 0.15);
    const double spread = row_norm_spread(0.8f);
    assert_true(spread > 0.65 && spread < 0.95);
}

static void same_seed_same_bytes(void **state) {
    (void)state;
    struct synth_spec spec = tiny_model_spec();
    struct text file[3] = {0};
    for (int i = 0; i < 3; i++) {
        spec.seed = i < 2 ? 42 : 43;
        char *path = tiny_model_write(&spec);
        read_file(path, &file[i]);
        tiny_model_remove(path);
    }
    assert_true(file[0].len > 50000 && file[0].len < 150000);
    assert_int_equal(file[0].len, file[1].len);
    assert_memory_equal(file[0].ptr, file[1].ptr, file[0].len);
    assert_int_equal(file[0].len, file[2].len);
    size_t different = 0;
    for (size_t i = 0; i < file[0].len; i++) different += file[0].ptr[i] != file[2].ptr[i];
    assert_true(different > file[0].len / 2);
    for (int i = 0; i < 3; i++) text_free(&file[i]);
}

static void vocabulary_holds_a_chat(void **state) {
    (void)state;
    char *path = tiny_model_write(NULL);
    struct model *m = open_model(path);
    struct tokenizer *t = open_tokenizer(&m->vocab);
    struct reason why;
    struct token_list ids = {0};
    const struct span text = SPAN("<|im_start|>system\nthe hello \xe4\xbd\xa0\xf0\x9f\x98\x80<|im_end|>\n<think>");
    assert_int_equal(tokenizer_encode(t, text, PARSE_SPECIAL, &ids, &why), ERR_NONE);
    struct text back = {0};
    for (size_t i = 0; i < ids.len; i++) text_add_span(&back, tokenizer_bytes(t, ids.ids[i]));
    assert_int_equal(back.len, text.len);
    assert_memory_equal(back.ptr, text.ptr, text.len);
    assert_int_equal(ids.ids[0], tokenizer_find(t, SPAN("<|im_start|>")));
    assert_true(ids.len < 24); /* merges were used: 13 for the text without its 7 foreign bytes */
    assert_true(tokenizer_is_end(t, tokenizer_find(t, SPAN("<|im_end|>"))));
    assert_int_equal(chat_family_detect(m->chat_template, NULL), CHAT_QWEN3);
    text_free(&back);
    token_list_free(&ids);
    tokenizer_close(&t);
    model_close(&m);
    tiny_model_remove(path);
}

static void copies_a_vocabulary(void **state) {
    (void)state;
    char *first = tiny_model_write(NULL);
    struct synth_spec spec = tiny_model_spec();
    spec.tokenizer = first;
    spec.vocab = 352;
    char *second = tiny_model_write(&spec);
    struct model *a = open_model(first), *b = open_model(second);
    assert_int_equal(b->vocab.n_tokens, 352);
    for (size_t i = 0; i < a->vocab.n_tokens; i++) assert_true(span_equal(a->vocab.tokens[i], b->vocab.tokens[i]));
    assert_int_equal(a->vocab.n_merges, b->vocab.n_merges);
    for (size_t i = 0; i < a->vocab.n_merges; i++) assert_true(span_equal(a->vocab.merges[i], b->vocab.merges[i]));
    assert_int_equal(a->vocab.eos, b->vocab.eos);
    assert_true(span_equal(a->chat_template, b->chat_template));
    model_close(&a);
    model_close(&b);
    struct reason why;
    spec.vocab = 300; /* too few rows */
    assert_int_equal(synth_write(second, &spec, NULL, &why), ERR_ARGUMENT);
    tiny_model_remove(first);
    tiny_model_remove(second);
}

static void refuses_impossible_shapes(void **state) {
    (void)state;
    struct synth_spec bad[6];
    struct reason why;
    for (int i = 0; i < 6; i++) bad[i] = tiny_model_spec();
    bad[0].kv_heads = 3;
    bad[1].experts_used = 9;
    bad[2].head_dim = 7;
    bad[3].mix = "q3_x";
    bad[4].layers = 0;
    bad[5].overrides = &(struct synth_override){"gate_exps", TYPE_Q4_K}; /* rows of 64 */
    bad[5].n_overrides = 1;
    for (int i = 0; i < 6; i++) {
        assert_int_equal(synth_write("/tmp/never.gguf", &bad[i], NULL, &why), ERR_ARGUMENT);
        assert_int_not_equal(access("/tmp/never.gguf", F_OK), 0);
        assert_int_not_equal(access("/tmp/never.gguf.part", F_OK), 0);
    }
}

struct seen {
    float first[512];
    uint64_t vocab;
    bool varies;
};

static void look(void *ctx, uint64_t position, const float *logits) {
    struct seen *s = ctx;
    double squares = 0;
    for (uint64_t i = 0; i < s->vocab; i++) squares += (double)logits[i] * (double)logits[i];
    const double deviation = sqrt(squares / (double)s->vocab);
    assert_true(deviation > 1 && deviation < 4); /* the head's 2 */
    if (position == 0) memcpy(s->first, logits, s->vocab * sizeof *logits);
    if (position == 5) s->varies = memcmp(s->first, logits, s->vocab * sizeof *logits) != 0;
}

static void run_engine(const struct synth_spec *spec) {
    static const int32_t tokens[] = {5, 70, 100, 33, 270, 8};
    char *path = tiny_model_write(spec);
    struct engine *e;
    struct session *s;
    struct reason why = {{0}};
    if (engine_open(&(struct engine_options){.model_path = path, .threads = 1}, &e, &why) != ERR_NONE)
        fail_test("%s", why.text);
    assert_int_equal(session_open(e, 64, &s, &why), ERR_NONE);
    struct seen seen = {.vocab = engine_model(e)->shape.n_vocab};
    struct eval eval = {.tokens = tokens, .n = 6, .on_logits = look, .ctx = &seen};
    if (session_eval(s, &eval, NULL, &why) != ERR_NONE) fail_test("%s", why.text);
    assert_true(seen.varies);
    session_close(&s);
    engine_close(&e);
    tiny_model_remove(path);
}

static void engine_runs_it(void **state) {
    (void)state;
    struct synth_spec spec = tiny_model_spec();
    run_engine(&spec);
    spec.embd = spec.ff = 256;
    spec.head_dim = 64;
    spec.mix = "asym2";
    run_engine(&spec);
    spec.mix = "iq4_k";
    run_engine(&spec);
    spec.overrides = &(struct synth_override){"token|output|attn|exps", TYPE_IQ4_KS}; /* a scale in front of each row */
    spec.n_overrides = 1;
    run_engine(&spec);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(weights_have_their_statistics),
                                       cmocka_unit_test(mixes_choose_types),
                                       cmocka_unit_test(mixture_has_more_bits_in_half_of_the_layers),
                                       cmocka_unit_test(overrides_apply_in_order),
                                       cmocka_unit_test(router_skew_spreads_row_norms),
                                       cmocka_unit_test(same_seed_same_bytes),
                                       cmocka_unit_test(vocabulary_holds_a_chat),
                                       cmocka_unit_test(copies_a_vocabulary),
                                       cmocka_unit_test(refuses_impossible_shapes),
                                       cmocka_unit_test(engine_runs_it)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Rewriting models: every type that can be encoded, what is copied and what is not, splits, importances, directories. */
#include "tests/support/quantize_job.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cpu/cpu.h"
#include "cpu/encode.h"
#include "engine/engine.h"
#include "tests/support/gguf_raw.h"
#include "tests/support/hf_raw.h"
#include "tests/support/synth_dir.h"
#include "tests/support/tiny_model.h"

static size_t weights_of(const struct model_tensor *t) { return t->ne[0] * t->ne[1] * t->ne[2]; }

static float *values_of(const struct model *m, const struct model_tensor *t) {
    struct cpu_ops ops;
    cpu_ops_init(&ops, ISA_REF);
    uint8_t *bytes = bytes_of(m, t);
    float *values = malloc(weights_of(t) * sizeof *values);
    assert_non_null(values);
    assert_non_null(ops.types[t->type].dequant);
    for (uint64_t row = 0; row < t->ne[1] * t->ne[2]; row++)
        ops.types[t->type].dequant(bytes + row * t->row_bytes, values + row * t->ne[0], t->ne[0]);
    free(bytes);
    return values;
}

/* ---- every type ---------------------------------------------------------------------------------------------------------- */

struct sums {
    double error, energy;
};

static struct sums compare(const struct model *a, const struct model_tensor *t, const struct model *b,
                           const float *importance) {
    const struct model_tensor *u = model_find_tensor(b, t->name);
    float *x = values_of(a, t), *y = values_of(b, u);
    struct sums s = {0};
    for (size_t i = 0; i < weights_of(t); i++) {
        const double w = importance ? (double)importance[i % t->ne[0]] : 1, difference = (double)y[i] - (double)x[i];
        s.error += w * difference * difference;
        s.energy += w * x[i] * x[i];
    }
    free(x);
    free(y);
    return s;
}

/* The norm of an error that a type cannot exceed on weights that are normally distributed: half as much for each bit. */
static double most_error(enum tensor_type type) {
    const struct tensor_type_info *info = tensor_type_info(type);
    if (type == TYPE_F16) return 1e-3;
    return type == TYPE_BF16 ? 8e-3 : 3 * exp2(-8.0 * info->block_bytes / info->block_weights);
}

static void expect_type(const char *path, enum tensor_type type, double reported) {
    struct model *a = open_model(quantize_source), *b = open_model(path);
    struct sums all = {0};
    assert_int_equal(a->n_tensors, b->n_tensors);
    for (size_t i = 0; i < a->n_tensors; i++) {
        const struct model_tensor *t = &a->tensors[i], *u = &b->tensors[i];
        assert_true(span_equal(t->name, u->name)); /* in the same order */
        assert_int_equal(t->n_dims, u->n_dims);
        assert_memory_equal(t->ne, u->ne, sizeof t->ne);
        if (is_kept(t) || type == TYPE_F32) {
            expect_same_bytes(a, t, b);
            continue;
        }
        if (u->type != type) fail_test("%.*s is %s", (int)u->name.len, u->name.ptr, tensor_type_info(u->type)->name);
        const struct sums s = compare(a, t, b, NULL);
        if (!(sqrt(s.error / s.energy) < most_error(type)))
            fail_test("%.*s in %s: error %g", (int)u->name.len, u->name.ptr, tensor_type_info(type)->name,
                      sqrt(s.error / s.energy));
        all.error += s.error;
        all.energy += s.energy;
    }
    if (type != TYPE_F32) assert_true(fabs(sqrt(all.error / all.energy) - reported) < 1e-5 + 1e-4 * reported);
    model_close(&a);
    model_close(&b);
}

static uint64_t meta_number(const struct model *m, const char *key) {
    const struct model_meta *e = model_find_meta(m, key);
    uint64_t value = 0;
    if (!e) return UINT64_MAX;
    memcpy(&value, e->bytes.ptr, e->bytes.len < 8 ? e->bytes.len : 8);
    return value;
}

static bool is_about_the_file(struct span key) {
    return span_equal(key, SPAN("general.file_type")) || span_starts(key, SPAN("split.")) ||
           span_starts(key, SPAN("quantize.imatrix."));
}

static void expect_same_keys(const struct model *a, const struct model *b) {
    for (size_t i = 0; i < a->n_meta; i++) {
        const struct model_meta *e = &a->meta[i];
        char key[128];
        if (is_about_the_file(e->key)) continue;
        snprintf(key, sizeof key, "%.*s", (int)e->key.len, e->key.ptr);
        const struct model_meta *f = model_find_meta(b, key);
        if (!f) fail_test("%s is missing", key);
        assert_true(e->type == f->type && e->element_type == f->element_type && e->count == f->count);
        assert_true(span_equal(e->bytes, f->bytes));
    }
}

static void test_every_type(void **state) {
    (void)state;
    const char *out = path_of("typed.gguf");
    size_t n = 0;
    for (int type = 0; type < TYPE_COUNT; type++) {
        const char *name = tensor_type_info((enum tensor_type)type)->name;
        if (!encode_supports((enum tensor_type)type)) continue;
        assert_true(recipe_is_known(name)); /* every type that can be written can be asked for */
        struct quantize_options o = options_of(out, name);
        o.recipe.pure = true;
        struct quantize *q = run_job(&o);
        assert_int_equal(quantize_not_finite(q), 0);
        expect_type(out, (enum tensor_type)type, quantize_sum(q, (enum tensor_type)type).error);
        quantize_close(&q);
        n++;
    }
    assert_true(n >= 3);
    struct model *a = open_model(quantize_source), *b = open_model(out);
    expect_same_keys(a, b);
    assert_int_equal(meta_number(b, "general.quantization_version"), 2);
    model_close(&a);
    model_close(&b);
    unlink(out);
    expect_no_files();
}

static void test_file_type(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint64_t number;
    } types[] = {{"F16", 1}, {"BF16", 32}, {"COPY", 0}};
    const char *out = path_of("typed.gguf");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const struct quantize_options o = options_of(out, types[i].name);
        rewrite(&o);
        struct model *m = open_model(out);
        assert_int_equal(meta_number(m, "general.file_type"), types[i].number);
        model_close(&m);
    }
    unlink(out);
}

static void test_threads_and_repetition(void **state) {
    (void)state;
    const char *one = path_of("one.gguf"), *many = path_of("many.gguf");
    const char *type = encode_supports(TYPE_Q4_K) ? "Q4_K" : "F16";
    struct quantize_options o = options_of(one, type);
    o.recipe.pure = true;
    o.threads = 1;
    rewrite(&o);
    o.out = many;
    o.threads = 3;
    rewrite(&o);
    struct model *a = open_model(one), *b = open_model(many);
    for (size_t i = 0; i < a->n_tensors; i++) expect_same_bytes(a, &a->tensors[i], b);
    model_close(&a);
    model_close(&b);
    unlink(one);
    unlink(many);
}

/* ---- logits -------------------------------------------------------------------------------------------------------------- */

enum { N_TOKENS = 6, MOST_VOCAB = 512 };

static void last_logits(const char *path, float *out, size_t *n) {
    static const int32_t tokens[N_TOKENS] = {17, 3, 200, 91, 4, 120};
    struct engine *e;
    struct session *s;
    struct reason why = {{0}};
    const float *logits;
    const struct engine_options o = {.model_path = path, .threads = 1, .device = "cpu", .kv_f32 = true, .fill_first = true};
    if (engine_open(&o, &e, &why) != ERR_NONE) fail_test("%s", why.text);
    if (session_open(e, 32, &s, &why) != ERR_NONE) fail_test("%s", why.text);
    struct eval eval = {.tokens = tokens, .n = N_TOKENS};
    if (session_eval(s, &eval, &logits, &why) != ERR_NONE) fail_test("%s", why.text);
    *n = engine_model(e)->shape.n_vocab;
    assert_true(*n <= MOST_VOCAB);
    memcpy(out, logits, *n * sizeof *out);
    session_close(&s);
    engine_close(&e);
}

/* Norm of the difference over the norm. */
static double distance(const float *a, const float *b, size_t n) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)a[i] * a[i];
    }
    return sqrt(difference / norm);
}

static void test_logits(void **state) {
    (void)state;
    static const struct {
        const char *name;
        enum tensor_type type;
        double most;
    } types[] = {{"F32", TYPE_F32, 0}, {"F16", TYPE_F16, 2e-3}, {"BF16", TYPE_BF16, 2e-2}, {"Q8_0", TYPE_Q8_0, 4e-2}};
    const char *out = path_of("logits.gguf");
    float want[MOST_VOCAB], got[MOST_VOCAB];
    size_t n;
    last_logits(quantize_source, want, &n);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (!encode_supports(types[i].type)) continue;
        const struct quantize_options o = options_of(out, types[i].name);
        rewrite(&o);
        last_logits(out, got, &n);
        const double d = distance(want, got, n);
        if (!(d <= types[i].most)) fail_test("%s: logits differ by %g", types[i].name, d);
    }
    unlink(out);
}

/* ---- splits -------------------------------------------------------------------------------------------------------------- */

static void expect_same_model(const char *one, const char *other) {
    struct model *a = open_model(one), *b = open_model(other);
    assert_int_equal(a->n_tensors, b->n_tensors);
    for (size_t i = 0; i < a->n_tensors; i++) expect_same_bytes(a, &a->tensors[i], b);
    expect_same_keys(a, b);
    expect_same_keys(b, a);
    model_close(&a);
    model_close(&b);
}

static void test_split(void **state) {
    (void)state;
    struct quantize_options o = options_of(path_of("parts.gguf"), "F16");
    o.split_max_bytes = 300000;
    struct quantize *q = run_job(&o);
    const uint32_t parts = quantize_parts(q);
    assert_true(parts >= 3 && parts < 20);
    assert_int_equal(count_files(false), parts);
    for (uint32_t i = 0; i < parts; i++) {
        char name[64];
        struct stat info;
        snprintf(name, sizeof name, "parts-%05u-of-%05u.gguf", i + 1, parts);
        assert_string_equal(quantize_part_path(q, i), path_of(name));
        assert_int_equal(stat(path_of(name), &info), 0);
    }
    char first[160];
    snprintf(first, sizeof first, "%s", quantize_part_path(q, 0));
    quantize_close(&q);

    o = options_of(path_of("whole.gguf"), "F16");
    rewrite(&o);
    expect_same_model(first, path_of("whole.gguf"));
    struct model *m = open_model(first);
    assert_int_equal(m->n_files, parts);
    assert_int_equal(meta_number(m, "split.count"), parts);
    assert_int_equal(meta_number(m, "split.tensors.count"), m->n_tensors);
    model_close(&m);

    /* from a split to one file, and to as many files */
    o = (struct quantize_options){.in = first, .out = path_of("joined.gguf"), .recipe = {.name = "COPY"}};
    rewrite(&o);
    expect_same_model(path_of("whole.gguf"), path_of("joined.gguf"));
    m = open_model(path_of("joined.gguf"));
    assert_null(model_find_meta(m, "split.count"));
    model_close(&m);
    o.out = path_of("again-00001-of-00099.gguf"); /* a part's name stands for all of them */
    o.keep_split = true;
    q = run_job(&o);
    assert_int_equal(quantize_parts(q), parts);
    expect_same_model(first, quantize_part_path(q, 0));
    assert_null(strstr(quantize_part_path(q, 0), "of-00099"));
    quantize_close(&q);
    drop_files();
}

static void test_split_of_one(void **state) {
    (void)state;
    struct quantize_options o = options_of(path_of("one.gguf"), "COPY");
    o.keep_split = true; /* of one file */
    rewrite(&o);
    assert_int_equal(count_files(false), 1);
    struct model *m = open_model(path_of("one.gguf"));
    assert_null(model_find_meta(m, "split.count"));
    model_close(&m);
    drop_files();
    o = options_of(path_of("small.gguf"), "COPY");
    o.split_max_bytes = 1; /* a tensor a file */
    struct quantize *q = run_job(&o);
    size_t n;
    quantize_tensors(q, &n);
    assert_int_equal(quantize_parts(q), n);
    expect_same_model(quantize_source, quantize_part_path(q, 0));
    quantize_close(&q);
    o.keep_split = true;
    refuse(&o, ERR_ARGUMENT, "exclude each other");
    drop_files();
}

/* ---- importance ---------------------------------------------------------------------------------------------------------- */

static void test_importance(void **state) {
    (void)state;
    if (!encode_supports(TYPE_Q4_K)) skip();
    struct imatrix imatrix = {0};
    struct model *a = open_model(quantize_source);
    const char *plain = path_of("plain.gguf"), *weighted = path_of("weighted.gguf");
    fill_imatrix(&imatrix, a);
    struct quantize_options o = options_of(plain, "Q4_K_S");
    o.recipe.pure = true;
    rewrite(&o);
    o.out = weighted;
    o.imatrix = &imatrix;
    o.imatrix_file = "some.imatrix";
    rewrite(&o);
    struct model *b = open_model(plain), *c = open_model(weighted);
    float importance[256];
    for (size_t i = 0; i < 256; i++) importance[i] = i % 8 ? 1 : 100;
    const struct model_tensor *t = model_find_tensor(a, SPAN("blk.0.ffn_down_exps.weight"));
    const struct sums without = compare(a, t, b, importance), with = compare(a, t, c, importance);
    assert_true(with.error < 0.95 * without.error);
    const struct model_tensor *embedding = model_find_tensor(a, SPAN("token_embd.weight"));
    expect_same_bytes(b, model_find_tensor(b, embedding->name), c); /* has no importance */
    const struct model_meta *file = model_find_meta(c, "quantize.imatrix.file"),
                            *text = model_find_meta(c, "quantize.imatrix.dataset");
    assert_true(file && span_equal(file->bytes, SPAN("some.imatrix")));
    assert_true(text && span_equal(text->bytes, SPAN("some.txt")));
    assert_int_equal(meta_number(c, "quantize.imatrix.entries_count"), imatrix.n);
    assert_int_equal(meta_number(c, "quantize.imatrix.chunks_count"), 7);
    assert_null(model_find_meta(b, "quantize.imatrix.file"));
    model_close(&a);
    model_close(&b);
    model_close(&c);
    imatrix_close(&imatrix);
    unlink(plain);
    unlink(weighted);
}

static void test_importance_of_another_model(void **state) {
    (void)state;
    if (!encode_supports(TYPE_Q8_0)) skip();
    struct imatrix imatrix = {0};
    struct imatrix_entry *e;
    struct reason why;
    assert_int_equal(imatrix_add(&imatrix, "blk.0.attn_q.weight", 128, 1, &e, &why), ERR_NONE);
    struct quantize_options o = options_of(path_of("never.gguf"), "Q8_0");
    o.imatrix = &imatrix;
    refuse(&o, ERR_FORMAT, "attn_q");
    imatrix_close(&imatrix);
    expect_no_files();
}

static void test_lacking_importance(void **state) {
    (void)state;
    if (!encode_supports(TYPE_IQ2_XXS)) skip();
    struct quantize_options o = options_of(NULL, "IQ2_XXS");
    o.recipe.pure = true;
    struct quantize *q = open_job(&o);
    size_t n, lacking = 0;
    const struct quantize_tensor *tensors = quantize_tensors(q, &n);
    for (size_t i = 0; i < n; i++) {
        lacking += tensors[i].lacks_importance;
        if (is_kept(tensors[i].source) || span_equal(tensors[i].source->name, SPAN("token_embd.weight")))
            assert_false(tensors[i].lacks_importance);
    }
    assert_int_equal(lacking, 8); /* four of attention, three of experts, the head */
    quantize_close(&q);
}

/* ---- other inputs -------------------------------------------------------------------------------------------------------- */

static struct raw_gguf raw;

static void write_raw(const char *path) {
    struct text bytes = {0};
    raw_build(&raw, &bytes);
    raw_write(path, bytes);
    text_free(&bytes);
}

/* Rows of 8 and 4 fit no block: F16. A router that was F16 becomes F32, and the key of an alignment nobody keeps goes. */
static void test_small_rows(void **state) {
    (void)state;
    const char *in = path_of("raw.gguf"), *out = path_of("out.gguf");
    raw_tiny(&raw);
    raw_set_u32(&raw, "general.alignment", 64);
    raw.alignment = 64;
    raw_place(&raw);
    write_raw(in);
    const struct quantize_options o = {.in = in, .out = out, .recipe = {.name = "Q6_K"}};
    rewrite(&o);
    struct model *m = open_model(out);
    assert_null(model_find_meta(m, "general.alignment"));
    for (size_t i = 0; i < m->n_tensors; i++)
        assert_int_equal(m->tensors[i].type, is_kept(&m->tensors[i]) ? TYPE_F32 : TYPE_F16);
    model_close(&m);
    raw_free(&raw);
    unlink(in);
    unlink(out);
}

static void test_not_finite(void **state) {
    (void)state;
    const char *in = path_of("damaged.gguf"), *out = path_of("out.gguf");
    const float bad[2] = {NAN, INFINITY};
    struct model *m = open_model(quantize_source);
    const struct model_tensor *t = model_find_tensor(m, SPAN("blk.0.ffn_up_exps.weight"));
    copy_source(in, t->offset + 5 * t->row_bytes + 40, bad, sizeof bad);
    const struct quantize_options o = {.in = in, .out = out, .recipe = {.name = "F16"}};
    struct quantize *q = run_job(&o);
    assert_int_equal(quantize_not_finite(q), 1); /* row */
    assert_true(isfinite(quantize_sum(q, TYPE_F16).error));
    quantize_close(&q);
    struct model *b = open_model(out);
    float *values = values_of(b, model_find_tensor(b, t->name));
    assert_true(values[5 * 256 + 10] == 0 && values[5 * 256 + 11] == 0 && values[5 * 256 + 12] != 0);
    free(values);
    model_close(&b);
    model_close(&m);
    unlink(in);
    unlink(out);
}

static void test_requantize(void **state) {
    (void)state;
    if (!encode_supports(TYPE_Q8_0) || !encode_supports(TYPE_Q4_0)) skip();
    const char *eight = path_of("eight.gguf"), *four = path_of("four.gguf");
    struct quantize_options o = options_of(eight, "Q8_0");
    rewrite(&o);
    o = (struct quantize_options){.in = eight, .out = four, .recipe = {.name = "Q4_0"}};
    refuse(&o, ERR_ARGUMENT, "--allow-requantize");
    o.recipe.name = "F32";
    refuse(&o, ERR_ARGUMENT, "already quantized");
    o.recipe.name = "Q8_0"; /* the type it has: copied */
    struct quantize *q = run_job(&o);
    assert_int_equal(quantize_sum(q, TYPE_Q8_0).encoded, 0);
    assert_true(isnan(quantize_sum(q, TYPE_Q8_0).error));
    quantize_close(&q);
    expect_same_model(eight, four);
    o.recipe.name = "Q4_0";
    o.recipe.pure = o.allow_requantize = true;
    rewrite(&o);
    struct model *m = open_model(four);
    assert_int_equal(model_find_tensor(m, SPAN("blk.0.attn_q.weight"))->type, TYPE_Q4_0);
    model_close(&m);
    unlink(eight);
    unlink(four);
}

/* ---- directories --------------------------------------------------------------------------------------------------------- */

/* Tensor by tensor, whatever the order of either. */
static void expect_same_weights(const char *directory, const char *file) {
    struct model *a = open_model(directory), *b = open_model(file);
    assert_int_equal(a->n_tensors, b->n_tensors);
    for (size_t i = 0; i < a->n_tensors; i++) {
        const struct model_tensor *t = &a->tensors[i], *u = model_find_tensor(b, t->name);
        assert_non_null(u);
        assert_int_equal(u->type, is_kept(t) ? TYPE_F32 : t->type);
        assert_memory_equal(t->ne, u->ne, sizeof t->ne);
        float *x = values_of(a, t), *y = values_of(b, u);
        assert_memory_equal(x, y, weights_of(t) * sizeof *x);
        free(x);
        free(y);
    }
    expect_same_keys(a, b);
    assert_true(b->n_files == 1 && model_find_meta(b, "general.quantization_version"));
    model_close(&a);
    model_close(&b);
}

static void test_directory(void **state) {
    (void)state;
    const char *in = path_of("checkpoint"), *out = path_of("out.gguf");
    struct synth_spec spec = tiny_model_spec();
    spec.vocab = 300;
    const struct synth_dir dir = {.spec = &spec, .layers_a_shard = 1};
    struct reason why = {{0}};
    if (synth_dir_write(in, &dir, NULL, &why) != ERR_NONE) fail_test("%s", why.text);
    static const char *const types[] = {"COPY", "BF16"};
    for (size_t i = 0; i < 2; i++) {
        const struct quantize_options o = {.in = in, .out = out, .recipe = {.name = types[i]}, .threads = 2};
        rewrite(&o);
        expect_same_weights(in, out);
    }
    float want[MOST_VOCAB], got[MOST_VOCAB];
    size_t n;
    last_logits(in, want, &n);
    last_logits(out, got, &n);
    assert_true(distance(want, got, n) < 1e-6);
    struct quantize_options o = {.in = in, .out = out, .recipe = {.name = "F16"}, .keep_split = true};
    struct quantize *q = run_job(&o);
    assert_true(quantize_parts(q) >= 2);
    struct model *m = open_model(quantize_part_path(q, 0));
    assert_int_equal(m->n_files, quantize_parts(q));
    model_close(&m);
    quantize_close(&q);
    synth_dir_remove(in);
}

static void expect_same_vocabulary(const struct model_vocab *a, const struct model_vocab *b) {
    assert_true(a->n_tokens == b->n_tokens && a->n_merges == b->n_merges && a->n_tokens > 0 && a->n_merges > 0);
    for (size_t i = 0; i < a->n_tokens; i++) assert_true(span_equal(a->tokens[i], b->tokens[i]) && a->types[i] == b->types[i]);
    for (size_t i = 0; i < a->n_merges; i++) assert_true(span_equal(a->merges[i], b->merges[i]));
    assert_true(a->bos == b->bos && a->eos == b->eos && a->eot == b->eot && a->pad == b->pad && a->add_bos == b->add_bos);
    assert_true(span_equal(a->model, b->model) && span_equal(a->pre, b->pre));
}

static void write_directory(struct raw_hf *hf) {
    snprintf(hf->folder, sizeof hf->folder, "%s/hf", quantize_folder);
    assert_int_equal(mkdir(hf->folder, 0700), 0);
    raw_hf_write(hf);
}

static void remove_directory(struct raw_hf *hf) {
    raw_hf_clear(hf);
    assert_int_equal(rmdir(hf->folder), 0);
    raw_hf_free(hf);
}

static void test_directory_with_a_tokenizer(void **state) {
    (void)state;
    static struct raw_hf hf;
    const char *out = path_of("out.gguf");
    raw_hf_dense(&hf);
    raw_hf_tokenizer(&hf);
    write_directory(&hf);
    const struct quantize_options o = {.in = hf.folder, .out = out, .recipe = {.name = "COPY"}};
    rewrite(&o);
    struct model *a = open_model(hf.folder), *b = open_model(out);
    expect_same_keys(a, b);
    expect_same_vocabulary(&a->vocab, &b->vocab);
    model_close(&a);
    model_close(&b);
    remove_directory(&hf);
}

static void test_exl3(void **state) {
    (void)state;
    static struct raw_hf hf;
    raw_hf_exl3(&hf);
    write_directory(&hf);
    struct quantize_options o = {
        .in = hf.folder, .out = path_of("out.gguf"), .recipe = {.name = "Q8_0"}, .allow_requantize = true};
    refuse(&o, ERR_UNSUPPORTED, "EXL3_");
    o.recipe.name = "COPY";
    refuse(&o, ERR_UNSUPPORTED, "original weights");
    remove_directory(&hf);
    expect_no_files();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_every_type, drop_left),
        cmocka_unit_test_teardown(test_file_type, drop_left),
        cmocka_unit_test_teardown(test_threads_and_repetition, drop_left),
        cmocka_unit_test_teardown(test_logits, drop_left),
        cmocka_unit_test_teardown(test_split, drop_left),
        cmocka_unit_test_teardown(test_split_of_one, drop_left),
        cmocka_unit_test_teardown(test_importance, drop_left),
        cmocka_unit_test_teardown(test_importance_of_another_model, drop_left),
        cmocka_unit_test_teardown(test_lacking_importance, drop_left),
        cmocka_unit_test_teardown(test_small_rows, drop_left),
        cmocka_unit_test_teardown(test_not_finite, drop_left),
        cmocka_unit_test_teardown(test_requantize, drop_left),
        cmocka_unit_test_teardown(test_directory, drop_left),
        cmocka_unit_test_teardown(test_directory_with_a_tokenizer, drop_left),
        cmocka_unit_test_teardown(test_exl3, drop_left),
    };
    return cmocka_run_group_tests(tests, make_source, drop_source);
}

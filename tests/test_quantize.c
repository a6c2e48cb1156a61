/* Rewriting models: every type that can be encoded, what is copied and what is not, splits, importances, refusals, and that
 * nothing is left behind by what failed. */
#include "tests/support/check.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cpu/cpu.h"
#include "cpu/encode.h"
#include "engine/engine.h"
#include "engine/quantize.h"
#include "tests/support/gguf_raw.h"
#include "tests/support/hf_raw.h"
#include "tests/support/synth_dir.h"
#include "tests/support/tiny_model.h"

#define PROGRAM BUILD_DIR "/coldstream"

/* ---- files --------------------------------------------------------------------------------------------------------------- */

static char folder[] = "/tmp/test_quantize_XXXXXX";
static char source[64]; /* F32, one layer; every row is whole blocks of every type */

static const char *path_of(const char *name) {
    static char paths[4][320];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof *paths, "%s/%s", folder, name);
    return path;
}

static int make_source(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(source, sizeof source, "%s/source.gguf", folder);
    struct synth_spec spec = tiny_model_spec();
    spec.layers = 1;
    spec.embd = spec.ff = 256;
    spec.heads = 4;
    spec.kv_heads = 1;
    spec.head_dim = 64;
    spec.experts = 4;
    spec.mix = "f32";
    struct reason why;
    return synth_write(source, &spec, NULL, &why) == ERR_NONE ? 0 : -1;
}

/* How many files are in the folder beside the source; their names are printed when there are. */
static size_t count_files(bool print) {
    DIR *d = opendir(folder);
    assert_non_null(d);
    size_t n = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.' || strcmp(e->d_name, "source.gguf") == 0) continue;
        if (print) print_error("left behind: %s\n", e->d_name);
        n++;
    }
    closedir(d);
    return n;
}

static void expect_no_files(void) {
    if (count_files(true)) fail_test("the folder is not empty");
}

static void drop_files(void) {
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.' && strcmp(e->d_name, "source.gguf") != 0) unlink(path_of(e->d_name));
    closedir(d);
}

static int drop_left(void **state) {
    (void)state;
    drop_files();
    return 0;
}

static int drop_source(void **state) {
    (void)state;
    unlink(source);
    return rmdir(folder); /* fails when a test left something */
}

/* ---- running ------------------------------------------------------------------------------------------------------------- */

static struct quantize_options options_of(const char *out, const char *type) {
    return (struct quantize_options){.in = source, .out = out, .recipe = {.name = type}, .threads = 2};
}

static struct quantize *open_job(const struct quantize_options *o) {
    struct quantize *q;
    struct reason why;
    if (quantize_open(o, &q, &why) != ERR_NONE) fail_test("%s", why.text);
    return q;
}

/* The job, done and still open. */
static struct quantize *run_job(const struct quantize_options *o) {
    struct quantize *q = open_job(o);
    struct reason why;
    if (quantize_run(q, &why) != ERR_NONE) fail_test("%s", why.text);
    return q;
}

static void run(const struct quantize_options *o) {
    struct quantize *q = run_job(o);
    quantize_close(&q);
    assert_null(q);
}

static void expect_words(const struct reason *why, const char *words) {
    if (!strstr(why->text, words)) fail_test("'%s' says nothing of '%s'", why->text, words);
}

static void refuse(const struct quantize_options *o, enum err code, const char *words) {
    struct quantize *q;
    struct reason why = {{0}};
    assert_int_equal(quantize_open(o, &q, &why), code);
    assert_null(q);
    expect_words(&why, words);
}

static void fail_run(const struct quantize_options *o, enum err code, const char *words) {
    struct quantize *q = open_job(o);
    struct reason why = {{0}};
    assert_int_equal(quantize_run(q, &why), code);
    expect_words(&why, words);
    quantize_close(&q);
}

static struct model *open_model(const char *path) {
    struct model *m;
    struct reason why;
    if (model_open(path, true, &m, &why) != ERR_NONE) fail_test("%s", why.text);
    return m;
}

static size_t weights_of(const struct model_tensor *t) { return t->ne[0] * t->ne[1] * t->ne[2]; }

/* Matrix after matrix, wherever they lie. */
static uint8_t *bytes_of(const struct model *m, const struct model_tensor *t) {
    struct reason why;
    uint8_t *bytes = malloc(t->bytes);
    assert_non_null(bytes);
    for (uint64_t i = 0, n = t->row_bytes * t->ne[1]; i < t->ne[2]; i++) {
        const struct model_slice at = model_slice_of(t, i);
        if (model_read(m, at.file, bytes + i * n, n, at.offset, &why) != ERR_NONE) fail_test("%s", why.text);
    }
    return bytes;
}

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

static void expect_same_bytes(const struct model *a, const struct model_tensor *t, const struct model *b) {
    const struct model_tensor *u = model_find_tensor(b, t->name);
    assert_non_null(u);
    assert_int_equal(u->type, t->type);
    assert_int_equal(u->bytes, t->bytes);
    uint8_t *x = bytes_of(a, t), *y = bytes_of(b, u);
    assert_memory_equal(x, y, t->bytes);
    free(x);
    free(y);
}

static bool is_kept(const struct model_tensor *t) {
    return t->ne[1] == 1 || memmem(t->name.ptr, t->name.len, "ffn_gate_inp", 12) != NULL;
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
    struct model *a = open_model(source), *b = open_model(path);
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
    struct model *a = open_model(source), *b = open_model(out);
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
        run(&o);
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
    run(&o);
    o.out = many;
    o.threads = 3;
    run(&o);
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
    last_logits(source, want, &n);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (!encode_supports(types[i].type)) continue;
        const struct quantize_options o = options_of(out, types[i].name);
        run(&o);
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
    run(&o);
    expect_same_model(first, path_of("whole.gguf"));
    struct model *m = open_model(first);
    assert_int_equal(m->n_files, parts);
    assert_int_equal(meta_number(m, "split.count"), parts);
    assert_int_equal(meta_number(m, "split.tensors.count"), m->n_tensors);
    model_close(&m);

    /* from a split to one file, and to as many files */
    o = (struct quantize_options){.in = first, .out = path_of("joined.gguf"), .recipe = {.name = "COPY"}};
    run(&o);
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
    run(&o);
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
    expect_same_model(source, quantize_part_path(q, 0));
    quantize_close(&q);
    o.keep_split = true;
    refuse(&o, ERR_ARGUMENT, "exclude each other");
    drop_files();
}

/* ---- importance ---------------------------------------------------------------------------------------------------------- */

/* Importances that say: only every eighth column matters much. */
static void fill_imatrix(struct imatrix *m, const struct model *model) {
    struct reason why;
    for (size_t i = 0; i < model->n_tensors; i++) {
        const struct model_tensor *t = &model->tensors[i];
        struct imatrix_entry *e;
        char name[64];
        if (is_kept(t) || span_equal(t->name, SPAN("token_embd.weight"))) continue;
        snprintf(name, sizeof name, "%.*s", (int)t->name.len, t->name.ptr);
        assert_int_equal(imatrix_add(m, name, t->ne[0], t->ne[2], &e, &why), ERR_NONE);
        for (uint64_t k = 0; k < t->ne[0] * t->ne[2]; k++) e->sums[k] = k % 8 ? 1000 : 100000;
        for (uint64_t k = 0; k < t->ne[2]; k++) e->rows[k] = 1000;
        e->rows_known = true;
    }
    m->chunks = 7;
    assert_int_equal(imatrix_add_dataset(m, "some.txt", &why), ERR_NONE);
}

static void test_importance(void **state) {
    (void)state;
    if (!encode_supports(TYPE_Q4_K)) skip();
    struct imatrix imatrix = {0};
    struct model *a = open_model(source);
    const char *plain = path_of("plain.gguf"), *weighted = path_of("weighted.gguf");
    fill_imatrix(&imatrix, a);
    struct quantize_options o = options_of(plain, "Q4_K_S");
    o.recipe.pure = true;
    run(&o);
    o.out = weighted;
    o.imatrix = &imatrix;
    o.imatrix_file = "some.imatrix";
    run(&o);
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
    run(&o);
    struct model *m = open_model(out);
    assert_null(model_find_meta(m, "general.alignment"));
    for (size_t i = 0; i < m->n_tensors; i++)
        assert_int_equal(m->tensors[i].type, is_kept(&m->tensors[i]) ? TYPE_F32 : TYPE_F16);
    model_close(&m);
    raw_free(&raw);
    unlink(in);
    unlink(out);
}

static void copy_source(const char *to, uint64_t patch_at, const void *patch, size_t n) {
    FILE *in = fopen(source, "rb"), *out = fopen(to, "wb");
    char piece[4096];
    assert_true(in && out);
    for (size_t got; (got = fread(piece, 1, sizeof piece, in));) assert_int_equal(fwrite(piece, 1, got, out), got);
    fclose(in);
    assert_int_equal(fseek(out, (long)patch_at, SEEK_SET), 0);
    assert_int_equal(fwrite(patch, 1, n, out), n);
    assert_int_equal(fclose(out), 0);
}

static void test_not_finite(void **state) {
    (void)state;
    const char *in = path_of("damaged.gguf"), *out = path_of("out.gguf");
    const float bad[2] = {NAN, INFINITY};
    struct model *m = open_model(source);
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
    run(&o);
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
    run(&o);
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
        run(&o);
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
    snprintf(hf->folder, sizeof hf->folder, "%s/hf", folder);
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
    run(&o);
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

/* ---- refusals ------------------------------------------------------------------------------------------------------------ */

static void test_refused_outputs(void **state) {
    (void)state;
    const char *link_path = path_of("link.gguf");
    struct quantize_options o = options_of(source, "F16");
    refuse(&o, ERR_ARGUMENT, "is a file of the input");
    char dotted[96];
    snprintf(dotted, sizeof dotted, "%s/./source.gguf", folder);
    o.out = dotted;
    refuse(&o, ERR_ARGUMENT, "is a file of the input");
    o.out = link_path;
    assert_int_equal(symlink(source, link_path), 0);
    refuse(&o, ERR_ARGUMENT, "is a file of the input");
    unlink(link_path);
    assert_int_equal(link(source, link_path), 0);
    refuse(&o, ERR_ARGUMENT, "is a file of the input");
    unlink(link_path);
    char part[96];
    snprintf(part, sizeof part, "%s/x.gguf.part", folder);
    assert_int_equal(rename(source, part), 0);
    o.in = part;
    o.out = path_of("x.gguf");
    refuse(&o, ERR_ARGUMENT, "is a file of the input");
    assert_int_equal(rename(part, source), 0);
    o.in = source;
    o.out = path_of("no/such/folder.gguf");
    refuse(&o, ERR_IO, "no/such");
    o.out = folder;
    fail_run(&o, ERR_ARGUMENT, "not a regular file");
    o.out = NULL;
    fail_run(&o, ERR_ARGUMENT, "no output");
    expect_no_files();
}

static void test_refused_types(void **state) {
    (void)state;
    struct quantize_options o = options_of(path_of("never.gguf"), "Q9_K");
    refuse(&o, ERR_ARGUMENT, "unknown type");
    o.in = path_of("missing.gguf");
    refuse(&o, ERR_IO, "missing.gguf");
    for (int type = 0; type < TYPE_COUNT; type++) {
        const char *name = tensor_type_info((enum tensor_type)type)->name;
        if (encode_supports((enum tensor_type)type) || !recipe_is_known(name)) continue;
        o = options_of(path_of("never.gguf"), name);
        o.recipe.pure = true;
        refuse(&o, ERR_UNSUPPORTED, "cannot encode");
        break;
    }
    expect_no_files();
}

static void test_too_many_parts(void **state) {
    (void)state;
    static struct raw_gguf many;
    const char *in = path_of("many.gguf");
    raw_tiny(&many);
    for (int i = 0; i < 600; i++) {
        char name[32];
        snprintf(name, sizeof name, "extra.%d", i);
        raw_add(&many, name, 1, 8, 2, 0);
    }
    struct text bytes = {0};
    raw_build(&many, &bytes);
    raw_write(in, bytes);
    text_free(&bytes);
    raw_free(&many);
    struct quantize_options o = {.in = in, .out = path_of("out.gguf"), .recipe = {.name = "COPY"}, .split_max_bytes = 1};
    refuse(&o, ERR_ARGUMENT, "at most 512");
    unlink(in);
    expect_no_files();
}

/* More than any disk has, in a file of holes. */
static void test_no_room(void **state) {
    (void)state;
    enum { E = 8, F = 1 << 20, X = 1 << 14 };
    const char *in = path_of("holes.gguf");
    raw_tiny(&raw);
    raw_set_u32(&raw, "qwen3moe.expert_feed_forward_length", F);
    raw_set_u32(&raw, "qwen3moe.expert_count", X);
    static const char *const wide[] = {"blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight", "blk.0.ffn_down_exps.weight"};
    for (size_t i = 0; i < 3; i++) {
        struct raw_tensor *t = raw_find(&raw, wide[i]);
        t->ne[i == 2] = E;
        t->ne[i != 2] = F;
        t->ne[2] = X;
    }
    raw_find(&raw, "blk.0.ffn_gate_inp.weight")->ne[1] = X;
    raw_place(&raw);
    struct text bytes = {0};
    raw_build_directory(&raw, &bytes);
    const bool possible = raw_write_sparse(in, bytes, bytes.len + raw.data_bytes);
    text_free(&bytes);
    raw_free(&raw);
    if (possible) {
        struct quantize_options o = {.in = in, .out = path_of("out.gguf"), .recipe = {.name = "COPY"}};
        refuse(&o, ERR_IO, "free there");
    }
    unlink(in);
    expect_no_files();
    if (!possible) skip();
}

/* ---- failures on the way ------------------------------------------------------------------------------------------------- */

struct stop {
    size_t calls, after;
    uint64_t last_bytes;
};

static bool stop_after(void *ctx, const struct quantize_progress *p) {
    struct stop *s = ctx;
    assert_true(p->done_bytes > s->last_bytes && p->done_bytes <= p->all_bytes && p->tensor < p->n_tensors);
    s->last_bytes = p->done_bytes;
    return ++s->calls == s->after;
}

static void test_interrupted(void **state) {
    (void)state;
    for (int split = 0; split < 2; split++) {
        struct stop stop = {.after = 9};
        struct quantize_options o = options_of(path_of("half.gguf"), "F16");
        o.on_progress = stop_after;
        o.on_progress_ctx = &stop;
        o.split_max_bytes = split ? 300000 : 0;
        fail_run(&o, ERR_CANCELLED, "interrupted");
        assert_int_equal(stop.calls, 9);
        expect_no_files();
    }
    struct stop all = {.after = 0};
    struct quantize_options o = options_of(path_of("all.gguf"), "F16");
    o.on_progress = stop_after;
    o.on_progress_ctx = &all;
    struct quantize *q = run_job(&o);
    assert_int_equal(all.last_bytes, quantize_model(q)->weight_bytes);
    quantize_close(&q);
    drop_files();
}

/* What was there under the output's name stays until there is something complete to replace it. */
static void test_old_output(void **state) {
    (void)state;
    const char *out = path_of("old.gguf");
    FILE *f = fopen(out, "wb");
    assert_true(f && fputs("old", f) >= 0 && fclose(f) == 0);
    struct stop stop = {.after = 3};
    struct quantize_options o = options_of(out, "F16");
    o.on_progress = stop_after;
    o.on_progress_ctx = &stop;
    fail_run(&o, ERR_CANCELLED, "interrupted");
    struct stat info;
    assert_true(stat(out, &info) == 0 && info.st_size == 3);
    stop = (struct stop){0};
    run(&o);
    struct model *m = open_model(out);
    model_close(&m);
    unlink(out);
    expect_no_files();
}

static void test_input_cut(void **state) {
    (void)state;
    const char *in = path_of("cut.gguf");
    copy_source(in, 0, "GGUF", 4);
    const struct quantize_options o = {.in = in, .out = path_of("out.gguf"), .recipe = {.name = "F16"}};
    struct quantize *q = open_job(&o);
    struct reason why = {{0}};
    assert_int_equal(truncate(in, 400000), 0);
    assert_int_equal(quantize_run(q, &why), ERR_IO);
    expect_words(&why, "ended at byte");
    quantize_close(&q);
    unlink(in);
    expect_no_files();
}

static bool block_path(void *ctx, const struct quantize_progress *p) {
    if (p->tensor == 0) assert_int_equal(mkdir(ctx, 0700), 0);
    return false;
}

/* A folder takes the place of the first part, which is named last, while the others are written: they are taken back. */
static void test_no_part_remains(void **state) {
    (void)state;
    char first[160];
    struct reason why = {{0}};
    struct quantize_options o = options_of(path_of("parts.gguf"), "F16");
    o.split_max_bytes = 300000;
    o.on_progress = block_path;
    o.on_progress_ctx = first;
    struct quantize *q = open_job(&o);
    snprintf(first, sizeof first, "%s", quantize_part_path(q, 0));
    assert_int_equal(quantize_run(q, &why), ERR_IO);
    expect_words(&why, "cannot be completed");
    quantize_close(&q);
    assert_int_equal(rmdir(first), 0);
    expect_no_files();
}

static void test_disk_full(void **state) {
    (void)state;
    struct rlimit old, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = (struct rlimit){100000, old.rlim_max};
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    struct quantize_options o = options_of(path_of("large.gguf"), "F16");
    struct quantize *q = open_job(&o);
    struct reason why = {{0}};
    const enum err code = quantize_run(q, &why);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, before);
    assert_int_equal(code, ERR_IO);
    expect_words(&why, "large.gguf");
    quantize_close(&q);
    expect_no_files();
}

/* ---- the command --------------------------------------------------------------------------------------------------------- */

/* Runs `coldstream quantize <words>` and gives its exit status; both streams into `out`. */
static int command(const char *words, struct text *out) {
    char line[512], piece[1024];
    text_clear(out);
    snprintf(line, sizeof line, "cd %s && %s quantize %s 2>&1 < /dev/null", folder, PROGRAM, words);
    FILE *p = popen(line, "r");
    assert_non_null(p);
    for (size_t n; (n = fread(piece, 1, sizeof piece, p));) text_add(out, piece, n);
    if (!out->ptr) text_add(out, "", 0);
    const int status = pclose(p);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void expect_command(const char *words, int status, const char *says) {
    struct text out = {0};
    const int got = command(words, &out);
    if (got != status || !strstr(out.ptr, says)) fail_test("quantize %s: status %d\n%s", words, got, out.ptr);
    text_free(&out);
}

static void test_command(void **state) {
    (void)state;
    expect_command("source.gguf out.gguf F16", 0, "bits a weight");
    struct model *m = open_model(path_of("out.gguf"));
    model_close(&m);
    drop_files();
    expect_command("source.gguf F16 2", 0, "ggml-model-F16.gguf");
    m = open_model(path_of("ggml-model-F16.gguf"));
    model_close(&m);
    drop_files();
    expect_command("source.gguf bf16", 0, "ggml-model-bf16.gguf");
    drop_files();
    expect_command("source.gguf out.gguf F16 1 --tensor-type 'attn_(q|k)=BF16,x{1,2}y=F32' --tensor-type attn_v=f32", 0,
                   "--tensor-type attn_(q|k)=BF16: fits 4 tensors, decides 2");
    m = open_model(path_of("out.gguf"));
    assert_int_equal(model_find_tensor(m, SPAN("blk.0.attn_k.weight"))->type, TYPE_BF16);
    assert_int_equal(model_find_tensor(m, SPAN("blk.0.attn_v.weight"))->type, TYPE_F32);
    assert_int_equal(model_find_tensor(m, SPAN("blk.0.attn_output.weight"))->type, TYPE_F16);
    model_close(&m);
    drop_files();
    expect_command("source.gguf out.gguf F16 --token-embedding-type bf16 --output-tensor-type f32 --split-max-size 1M", 0,
                   "out-00001-of-0000");
    drop_files();
}

static void test_command_with_importance(void **state) {
    (void)state;
    if (!encode_supports(TYPE_Q4_K)) skip();
    struct imatrix imatrix = {0};
    struct reason why;
    struct model *m = open_model(source);
    fill_imatrix(&imatrix, m);
    model_close(&m);
    assert_int_equal(imatrix_write_gguf(&imatrix, path_of("im.gguf"), &why), ERR_NONE);
    assert_int_equal(imatrix_write_dat(&imatrix, path_of("im.dat"), &why), ERR_NONE);
    imatrix_close(&imatrix);
    expect_command("source.gguf a.gguf Q4_K --pure --imatrix im.gguf", 0, "bits a weight");
    expect_command("source.gguf b.gguf Q4_K --pure --imatrix im.dat", 0, "bits a weight");
    struct model *a = open_model(path_of("a.gguf")), *b = open_model(path_of("b.gguf"));
    const struct model_meta *file = model_find_meta(b, "quantize.imatrix.file");
    assert_true(file && span_equal(file->bytes, SPAN("im.dat")));
    for (size_t i = 0; i < a->n_tensors; i++) expect_same_bytes(a, &a->tensors[i], b); /* both files say the same */
    model_close(&a);
    model_close(&b);
}

static void test_dry_run(void **state) {
    (void)state;
    expect_command("--dry-run source.gguf F16", 0, "blk.0.ffn_down_exps.weight");
    expect_command("--dry-run source.gguf out.gguf F16 --leave-output-tensor", 0, "output.weight");
    expect_command("--dry-run source.gguf F16 --split-max-size 500K", 0, "files ");
    expect_no_files();
}

static void test_command_refusals(void **state) {
    (void)state;
    static const struct {
        const char *words;
        int status;
        const char *says;
    } cases[] = {
        {"", 2, "IN [OUT] TYPE"},
        {"source.gguf", 2, "needs an input and a type"},
        {"source.gguf out.gguf Q9", 2, "unknown type 'Q9'"},
        {"source.gguf out.gguf F16 many", 2, "'many' is no number of threads"},
        {"source.gguf out.gguf F16 2 3", 2, "unexpected argument '3'"},
        {"source.gguf out.gguf F16 --tensor-type attn", 2, "expected REGEX=TYPE"},
        {"source.gguf out.gguf F16 --tensor-type attn=q9", 2, "expected REGEX=TYPE"},
        {"source.gguf out.gguf F16 --tensor-type =q8_0", 2, "expected REGEX=TYPE"},
        {"source.gguf out.gguf F16 --tensor-type a=f16,b", 2, "'b'"},
        {"source.gguf out.gguf F16 --tensor-type '(=f16'", 1, "regular expression"},
        {"source.gguf out.gguf F16 --output-tensor-type x", 2, "--output-tensor-type 'x'"},
        {"source.gguf out.gguf F16 --tensor-type nowhere=f16 --strict", 1, "'nowhere' fits no tensor"},
        {"source.gguf out.gguf F16 --imatrix missing.dat", 1, "missing.dat"},
        {"source.gguf source.gguf F16", 1, "is a file of the input"},
        {"missing.gguf out.gguf F16", 1, "missing.gguf"},
        {"-m source.gguf out.gguf F16", 2, "-m"},
        {"--help", 0, "asym2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_command(cases[i].words, cases[i].status, cases[i].says);
        expect_no_files();
    }
    expect_command("--dry-run source.gguf F16 --tensor-type nowhere=f16", 0, "warning: --tensor-type 'nowhere' fits no tensor");
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
        cmocka_unit_test_teardown(test_refused_outputs, drop_left),
        cmocka_unit_test_teardown(test_refused_types, drop_left),
        cmocka_unit_test_teardown(test_too_many_parts, drop_left),
        cmocka_unit_test_teardown(test_no_room, drop_left),
        cmocka_unit_test_teardown(test_interrupted, drop_left),
        cmocka_unit_test_teardown(test_old_output, drop_left),
        cmocka_unit_test_teardown(test_input_cut, drop_left),
        cmocka_unit_test_teardown(test_no_part_remains, drop_left),
        cmocka_unit_test_teardown(test_disk_full, drop_left),
        cmocka_unit_test_teardown(test_command, drop_left),
        cmocka_unit_test_teardown(test_command_with_importance, drop_left),
        cmocka_unit_test_teardown(test_dry_run, drop_left),
        cmocka_unit_test_teardown(test_command_refusals, drop_left),
    };
    return cmocka_run_group_tests(tests, make_source, drop_source);
}

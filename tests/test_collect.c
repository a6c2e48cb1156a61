/* Collecting importance: what the engine shows of the matrices' inputs is what goes into them, every token once and every
 * choice of an expert once; and the command around it. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/collect.h"
#include "cpu/cpu.h"
#include "tests/support/tiny_model.h"

#define PROGRAM BUILD_DIR "/coldstream"

enum { TOKENS = 40, UBATCH = 16 /* three runs, the last of them short */ };

static char *model_path;

static int make_model(void **state) {
    (void)state;
    model_path = tiny_model_write(NULL);
    return 0;
}

static int remove_model(void **state) {
    (void)state;
    tiny_model_remove(model_path);
    return 0;
}

static void check(enum err code, const struct reason *why) {
    if (code != ERR_NONE) fail_test("%s", why->text);
}

/* ---- the engine's hook ------------------------------------------------------------------------------------------------- */

struct setup {
    unsigned threads;
    uint32_t slots; /* of experts in RAM; 0: all */
    bool head;
    int32_t first, n; /* tokens first, first + 1... */
};

static int32_t token_at(int32_t i) { return (i * 37 + 11) % 200; }

/* Runs the tokens and hands over the sums. */
static struct imatrix collect_with(const struct setup *s, struct model_shape *shape) {
    struct collector c = {0};
    struct engine *e;
    struct session *session;
    struct imatrix none = {0};
    struct reason why;
    int32_t tokens[TOKENS];
    const struct engine_options o = {.model_path = model_path,
                                     .threads = s->threads,
                                     .ubatch = UBATCH,
                                     .max_slots = s->slots,
                                     .fill_first = s->slots == 0,
                                     .kv_f32 = true,
                                     .on_input = collect_input,
                                     .on_input_ctx = &c};
    check(engine_open(&o, &e, &why), &why);
    check(collect_open(engine_model(e), s->head, 16, &none, &c, &why), &why);
    check(session_open(e, TOKENS, &session, &why), &why);
    for (int32_t i = 0; i < s->n; i++) tokens[i] = token_at(s->first + i);
    struct eval eval = {.tokens = tokens, .n = (uint64_t)s->n};
    check(session_eval(session, &eval, NULL, &why), &why);
    if (shape) *shape = engine_model(e)->shape;
    assert_null(c.bad);
    session_close(&session);
    engine_close(&e);
    struct imatrix sums = c.sums;
    c.sums = (struct imatrix){0};
    collect_close(&c);
    return sums;
}

static const struct imatrix_entry *entry(const struct imatrix *m, const char *format, uint32_t layer) {
    char name[80];
    snprintf(name, sizeof name, "blk.%u.%s.weight", layer, format);
    const struct imatrix_entry *e = imatrix_find(m, span_of(name));
    if (!e) fail_test("no sums for %s", name);
    return e;
}

static void same_sums(const struct imatrix *a, const struct imatrix *b, double tolerance) {
    assert_int_equal(a->n, b->n);
    for (size_t i = 0; i < a->n; i++) {
        const struct imatrix_entry *x = a->entries[i], *y = b->entries[i];
        assert_string_equal(x->name, y->name);
        for (uint64_t j = 0; j < x->matrices; j++) assert_true(x->rows[j] == y->rows[j]);
        for (uint64_t j = 0; j < x->columns * x->matrices; j++)
            if (fabs((double)x->sums[j] - (double)y->sums[j]) > tolerance * (double)y->sums[j])
                fail_test("%s, sum %d: %.9g and %.9g", x->name, (int)j, (double)x->sums[j], (double)y->sums[j]);
    }
}

static void every_row_counts_once(void **state) {
    (void)state;
    struct model_shape shape;
    struct imatrix m = collect_with(&(struct setup){.threads = 2, .n = TOKENS}, &shape);
    static const char *const dense[] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp"};
    static const char *const experts[] = {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"};
    assert_int_equal(m.n, shape.n_layers * 8);
    for (uint32_t l = 0; l < shape.n_layers; l++) {
        for (size_t i = 0; i < 5; i++) {
            const struct imatrix_entry *e = entry(&m, dense[i], l);
            assert_int_equal(e->matrices, 1);
            assert_true(e->rows[0] == TOKENS);
        }
        for (size_t i = 0; i < 3; i++) {
            const struct imatrix_entry *e = entry(&m, experts[i], l);
            double rows = 0;
            assert_int_equal(e->matrices, shape.n_experts);
            for (uint64_t x = 0; x < e->matrices; x++) rows += e->rows[x];
            assert_true(rows == TOKENS * shape.n_experts_used);
        }
        /* Each token's input went to n_experts_used experts. */
        const struct imatrix_entry *all = entry(&m, "ffn_gate_inp", l), *each = entry(&m, "ffn_gate_exps", l);
        for (uint64_t c = 0; c < all->columns; c++) {
            double sum = 0;
            for (uint64_t x = 0; x < each->matrices; x++) sum += (double)each->sums[x * each->columns + c];
            const double want = (double)all->sums[c] * shape.n_experts_used;
            if (fabs(sum - want) > 1e-5 * want) fail_test("layer %u, column %d: %.9g instead of %.9g", l, (int)c, sum, want);
        }
    }
    imatrix_close(&m);
}

static void read_tensor(const struct model *m, const struct model_tensor *t, float *out) {
    struct cpu_ops ops;
    cpu_ops_init(&ops, ISA_REF);
    uint8_t *row = malloc(t->row_bytes);
    for (uint64_t r = 0; r < t->ne[1]; r++) {
        assert_int_equal(pread(m->files[t->file].fd, row, t->row_bytes, (off_t)(t->offset + r * t->row_bytes)),
                         (ssize_t)t->row_bytes);
        ops.types[t->type].dequant(row, out + r * t->ne[0], t->ne[0]);
    }
    free(row);
}

/* Layer 0's input is the normed embedding: once more, in double. */
static void the_first_inputs_are_right(void **state) {
    (void)state;
    struct imatrix m = collect_with(&(struct setup){.threads = 1, .n = TOKENS}, NULL);
    struct model *model;
    struct reason why;
    check(model_open(model_path, true, &model, &why), &why);
    const size_t e = model->shape.n_embd;
    float *embedding = malloc(model->embedding->ne[1] * e * sizeof *embedding), *gain = malloc(e * sizeof *gain);
    double *sums = calloc(e, sizeof *sums);
    read_tensor(model, model->embedding, embedding);
    read_tensor(model, model->layers[0].attn_norm, gain);
    for (int32_t i = 0; i < TOKENS; i++) {
        const float *x = embedding + (size_t)token_at(i) * e;
        double square = 0;
        for (size_t c = 0; c < e; c++) square += (double)x[c] * (double)x[c];
        const double scale = 1 / sqrt(square / (double)e + (double)model->shape.rms_eps);
        for (size_t c = 0; c < e; c++) {
            const double y = (double)x[c] * scale * (double)gain[c];
            sums[c] += y * y;
        }
    }
    const struct imatrix_entry *q = entry(&m, "attn_q", 0), *v = entry(&m, "attn_v", 0);
    assert_int_equal(q->columns, e);
    for (size_t c = 0; c < e; c++) {
        if (fabs((double)q->sums[c] - sums[c]) > 1e-5 * sums[c])
            fail_test("column %d: %.9g instead of %.9g", (int)c, (double)q->sums[c], sums[c]);
        assert_true(v->sums[c] == q->sums[c]);
    }
    free(embedding);
    free(gain);
    free(sums);
    model_close(&model);
    imatrix_close(&m);
}

static void threads_and_streaming_change_nothing(void **state) {
    (void)state;
    struct imatrix one = collect_with(&(struct setup){.threads = 1, .n = TOKENS}, NULL),
                   two = collect_with(&(struct setup){.threads = 2, .n = TOKENS}, NULL),
                   few = collect_with(&(struct setup){.threads = 2, .slots = 12, .n = TOKENS}, NULL);
    same_sums(&two, &one, 0);
    same_sums(&few, &one, 0);
    imatrix_close(&one);
    imatrix_close(&two);
    imatrix_close(&few);
}

/* Two texts apart, added up, are what one collector gets of both. */
static void texts_add_up(void **state) {
    (void)state;
    struct imatrix a = collect_with(&(struct setup){.threads = 1, .n = UBATCH}, NULL),
                   b = collect_with(&(struct setup){.threads = 1, .first = UBATCH, .n = UBATCH}, NULL), sum = {0};
    struct reason why;
    check(imatrix_merge(&sum, &a, &why), &why);
    check(imatrix_merge(&sum, &b, &why), &why);
    assert_true(entry(&sum, "attn_q", 0)->rows[0] == 2 * UBATCH);
    const struct imatrix_entry *x = entry(&a, "ffn_down_exps", 1), *y = entry(&b, "ffn_down_exps", 1),
                               *z = entry(&sum, "ffn_down_exps", 1);
    for (uint64_t i = 0; i < z->columns * z->matrices; i++) assert_true(z->sums[i] == x->sums[i] + y->sums[i]);
    imatrix_close(&a);
    imatrix_close(&b);
    imatrix_close(&sum);
}

static void the_head_only_on_request(void **state) {
    (void)state;
    struct imatrix with = collect_with(&(struct setup){.threads = 1, .n = 8, .head = true}, NULL);
    const struct imatrix_entry *head = imatrix_find(&with, SPAN("output.weight"));
    assert_non_null(head);
    assert_true(head->rows[0] == 1); /* only the last token's logits were wanted */
    for (uint64_t c = 0; c < head->columns; c++) assert_true(head->sums[c] > 0);
    imatrix_close(&with);
}

static void a_gpu_by_name_is_refused(void **state) {
    (void)state;
    struct collector c = {0};
    struct engine *e;
    struct reason why = {""};
    const struct engine_options o = {.model_path = model_path, .device = "cuda", .on_input = collect_input, .on_input_ctx = &c};
    assert_int_equal(engine_open(&o, &e, &why), ERR_ARGUMENT);
    assert_non_null(strstr(why.text, "CPU only"));
}

/* ---- reports --------------------------------------------------------------------------------------------------------------
 */

static void coverage_names_what_is_missing(void **state) {
    (void)state;
    struct imatrix m = {0};
    struct imatrix_entry *a, *b;
    struct reason why;
    check(imatrix_add(&m, "blk.10.ffn_down_exps.weight", 2, 4, &a, &why), &why);
    check(imatrix_add(&m, "blk.2.ffn_down_exps.weight", 2, 4, &b, &why), &why);
    for (int i = 0; i < 4; i++) {
        a->rows[i] = 1000;
        b->rows[i] = 30 * i;
        for (int c = 0; c < 2; c++) a->sums[2 * i + c] = b->sums[2 * i + c] = (float)(i + c);
    }
    struct text out = {0};
    collect_coverage(&m, &out);
    assert_string_equal(out.ptr, "experts covered: 5 of 8 with 64 rows or more; 3 with fewer in 1 of 2 layers, 1 never chosen\n"
                                 "  layer   2: 3 of 4 experts with fewer than 64 rows, 1 of them with none; median 60\n");
    text_clear(&out);
    collect_statistics(&m, &out);
    const char *first = strstr(out.ptr, "blk.2."), *second = strstr(out.ptr, "blk.10.");
    assert_true(first && second && first < second); /* layers in order, not names */
    text_free(&out);
    imatrix_close(&m);
}

/* ---- the command ------------------------------------------------------------------------------------------------------------
 */

/* Runs a shell line in which $P is the program, $M the model and $D the folder; its output. */
static int shell(const char *line, struct text *out) {
    char piece[512];
    text_clear(out);
    FILE *f = popen(line, "r");
    assert_non_null(f);
    for (size_t n; (n = fread(piece, 1, sizeof piece, f));) text_add(out, piece, n);
    const int status = pclose(f);
    text_add(out, "", 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void expect(int want, const char *line, const char *part) {
    struct text out = {0};
    const int status = shell(line, &out);
    if (status != want || !strstr(out.ptr ? out.ptr : "", part))
        fail_test("'%s': status %d, '%s' without '%s'", line, status, out.ptr, part);
    text_free(&out);
}

static struct imatrix must_read(const char *folder, const char *name) {
    char path[128];
    struct imatrix m;
    struct reason why;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    check(imatrix_read(path, &m, &why), &why);
    return m;
}

static void the_command(void **state) {
    (void)state;
    char folder[] = "/tmp/test_collect_XXXXXX";
    if (access(PROGRAM, X_OK) != 0) {
        print_message("skipped: the program is not built\n");
        skip();
    }
    assert_non_null(mkdtemp(folder));
    assert_true(setenv("P", PROGRAM, 1) == 0 && setenv("M", model_path, 1) == 0 && setenv("D", folder, 1) == 0);
    expect(0,
           "for i in 1 2 3 4 5 6 7 8 9; do echo 'the cat sat on the mat and the dog ate it, number' $i; done >$D/t; echo -n ok",
           "ok");
    expect(0, "$P imatrix -m $M -f $D/t -c 16 --chunks 3 -o $D/a.gguf --process-output 2>&1", "48 tokens in 3 chunks");
    expect(0, "$P imatrix -m $M -f $D/t -c 16 --chunk 1 --chunks 2 -o $D/b.dat 2>&1", "experts covered");
    expect(0, "$P imatrix -m $M -f $D/t -c 16 --chunks 1 --in-file $D/a.gguf -o $D/c.gguf --save-frequency 1 2>&1",
           "16 tokens in 1 chunk;");
    expect(0, "$P imatrix --in-file $D/a.gguf --in-file $D/c.gguf -o $D/d.gguf --show-statistics 2>&1", "CosSim");
    struct imatrix a = must_read(folder, "a.gguf"), b = must_read(folder, "b.dat"), c = must_read(folder, "c.gguf"),
                   d = must_read(folder, "d.gguf"), copy = must_read(folder, "c.gguf.at_4");
    assert_true(a.chunks == 3 && a.chunk_tokens == 16 && a.n_datasets == 1 && b.chunks == 2 && c.chunks == 4 && d.chunks == 7);
    assert_true(entry(&a, "attn_q", 0)->rows[0] == 48 && entry(&c, "attn_q", 0)->rows[0] == 64 &&
                entry(&d, "attn_q", 0)->rows[0] == 112);
    assert_true(imatrix_find(&a, SPAN("output.weight"))->rows[0] == 48);
    assert_false(entry(&b, "attn_q", 0)->rows_known);
    same_sums(&copy, &c, 0);
    imatrix_close(&a);
    imatrix_close(&b);
    imatrix_close(&c);
    imatrix_close(&d);
    imatrix_close(&copy);
    expect(0, "$P imatrix -m $M -f $D/t -c 16 --chunks 2 --in-file $D/b.dat -o $D/b.dat --output-format gguf 2>&1",
           "32 tokens");
    b = must_read(folder, "b.dat");
    assert_true(b.chunks == 4 && entry(&b, "attn_q", 0)->rows[0] == 64 && entry(&b, "ffn_up_exps", 1)->rows_known);
    imatrix_close(&b);
    expect(2, "$P imatrix -m $M 2>&1", "needs a text");
    expect(2, "$P imatrix -f $D/t 2>&1", "needs a model");
    expect(1, "$P imatrix -m $M -f $D/t -c 4096 -o $D/e.gguf 2>&1", "nothing is left to read");
    expect(1, "$P imatrix -m $M -f $D/t -o $D/t 2>&1", "no importance matrix");
    expect(1, "$P imatrix -m $M -f $D/t -c 16 --in-file $M -o $D/e.gguf 2>&1", "general.type");
    expect(0, "cd $D && ls && rm a.gguf b.dat c.gguf c.gguf.at_4 d.gguf t", "a.gguf\nb.dat\nc.gguf\nc.gguf.at_4\nd.gguf\nt\n");
    assert_int_equal(rmdir(folder), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_counts_once),
        cmocka_unit_test(the_first_inputs_are_right),
        cmocka_unit_test(threads_and_streaming_change_nothing),
        cmocka_unit_test(texts_add_up),
        cmocka_unit_test(the_head_only_on_request),
        cmocka_unit_test(a_gpu_by_name_is_refused),
        cmocka_unit_test(coverage_names_what_is_missing),
        cmocka_unit_test(the_command),
    };
    return cmocka_run_group_tests(tests, make_model, remove_model);
}

/* Rewriting models: what is refused, what fails on the way and leaves nothing behind, and the command. */
#include "tests/support/quantize_job.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cpu/encode.h"
#include "tests/support/gguf_raw.h"

#define PROGRAM BUILD_DIR "/coldstream"

/* ---- refusals ------------------------------------------------------------------------------------------------------------ */

static void test_refused_outputs(void **state) {
    (void)state;
    const char *link_path = path_of("link.gguf");
    struct quantize_options o = options_of(quantize_source, "F16");
    refuse(&o, ERR_ARGUMENT, "is a file of the input");
    char dotted[96];
    snprintf(dotted, sizeof dotted, "%s/./source.gguf", quantize_folder);
    o.out = dotted;
    refuse(&o, ERR_ARGUMENT, "is a file of the input");
    o.out = link_path;
    assert_int_equal(symlink(quantize_source, link_path), 0);
    refuse(&o, ERR_ARGUMENT, "is a file of the input");
    unlink(link_path);
    assert_int_equal(link(quantize_source, link_path), 0);
    refuse(&o, ERR_ARGUMENT, "is a file of the input");
    unlink(link_path);
    char part[96];
    snprintf(part, sizeof part, "%s/x.gguf.part", quantize_folder);
    assert_int_equal(rename(quantize_source, part), 0);
    o.in = part;
    o.out = path_of("x.gguf");
    refuse(&o, ERR_ARGUMENT, "is a file of the input");
    assert_int_equal(rename(part, quantize_source), 0);
    o.in = quantize_source;
    o.out = path_of("no/such/folder.gguf");
    refuse(&o, ERR_IO, "no/such");
    o.out = quantize_folder;
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
    static struct raw_gguf raw;
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
    rewrite(&o);
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
    snprintf(line, sizeof line, "cd %s && %s quantize %s 2>&1 < /dev/null", quantize_folder, PROGRAM, words);
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
    struct model *m = open_model(quantize_source);
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

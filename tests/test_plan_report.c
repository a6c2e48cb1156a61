/* The planner's description of a real file, what `coldstream plan` prints, and its flags. */
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"
#include "cli/plan_report.h"
#include "core/json.h"
#include "engine/engine.h"
#include "engine/plan_model.h"
#include "tests/support/plan_cases.h"

#define PROGRAM BUILD_DIR "/coldstream"
#define TINY TESTS_DIR "/golden/hf_tiny/hf_tiny.gguf"
#define TIED TESTS_DIR "/golden/hf_tiny/hf_tiny_tied.gguf"
#define GIB ((uint64_t)1 << 30)

/* ---- from a file to the planner's numbers ----------------------------------------------------------------------------- */

static void every_tensor_is_described(void **state) {
    (void)state;
    const char *const paths[] = {TINY, TIED};
    for (int i = 0; i < 2; i++) {
        struct model *m;
        struct plan_model pm;
        struct reason why = {{0}};
        uint64_t bytes = 0;
        assert_int_equal(model_open(paths[i], true, &m, &why), ERR_NONE);
        assert_int_equal(plan_model_open(m, 64, 2, &pm, &why), ERR_NONE);
        assert_int_equal(pm.n_tensors, m->n_tensors);
        for (uint32_t t = 0; t < pm.n_tensors; t++) {
            const struct plan_tensor *tensor = &pm.tensors[t];
            const struct model_tensor *from = model_find_tensor(m, tensor->name);
            assert_non_null(from);
            assert_true(tensor->room_bytes >= tensor->bytes + 4096 || tensor->bytes % 4096);
            bytes += tensor->bytes * (tensor->role == PLAN_ROLE_EXPERTS ? pm.n_experts : 1);
            assert_int_equal(tensor->type, from->type);
            assert_int_equal(tensor->role == PLAN_ROLE_EXPERTS,
                             strstr(tensor->name.ptr, "_exps") == tensor->name.ptr + tensor->name.len - 12);
        }
        assert_int_equal(bytes, m->weight_bytes);
        plan_model_close(&pm);
        model_close(&m);
    }
}

/* The plan sets aside what the engine then takes: no less, and not much more. */
static void scratch_is_what_the_engine_takes(void **state) {
    (void)state;
    static const struct {
        unsigned threads;
        uint32_t ubatch;
    } cases[] = {{1, 1}, {1, 64}, {2, 512}, {5, 2048}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct engine *e;
        struct plan_model pm;
        struct engine_info info;
        struct reason why = {{0}};
        if (engine_open(&(struct engine_options){.model_path = TINY, .threads = cases[i].threads, .ubatch = cases[i].ubatch},
                        &e, &why))
            fail_test("%s", why.text);
        engine_get_info(e, &info);
        assert_int_equal(plan_model_open(engine_model(e), cases[i].ubatch, cases[i].threads, &pm, &why), ERR_NONE);
        if (pm.cpu_scratch_bytes < info.scratch_bytes ||
            pm.cpu_scratch_bytes > info.scratch_bytes + info.scratch_bytes / 8 + 65536)
            fail_test("%u threads, batches of %u: planned %llu, taken %llu", cases[i].threads, cases[i].ubatch,
                      (unsigned long long)pm.cpu_scratch_bytes, (unsigned long long)info.scratch_bytes);
        plan_model_close(&pm);
        engine_close(&e);
    }
}

/* ---- reports ------------------------------------------------------------------------------------------------------------ */

struct example {
    struct plan_case model;
    struct facts facts;
    struct plan_request request;
    struct plan_rule rules[4];
    struct plan plan;
    struct plan_report report;
};

static struct example *new_example(bool gpu, uint64_t ram) {
    struct example *x = calloc(1, sizeof *x);
    assert_non_null(x);
    x->model = plan_case_30b("q4_k_m");
    plan_case_machine(&x->facts);
    x->facts.memory_available_bytes = ram;
    if (gpu) plan_case_gpu(&x->facts, 8 * GIB, 288e9, 13e9);
    plan_request_default(&x->request);
    x->request.use_gpu = gpu;
    x->request.context_tokens = 4096;
    x->request.rules = x->rules;
    return x;
}

static void open_example(struct example *x) {
    struct reason why = {{0}};
    if (plan_open(&x->model.model, &x->facts, &x->request, &x->plan, &why)) fail_test("%s", why.text);
    x->report = (struct plan_report){&x->plan, &x->facts, &x->request, SPAN("a \033[31mname\""), 12345, true};
}

static void close_example(struct example *x) {
    plan_close(&x->plan);
    plan_case_close(&x->model);
    free(x);
}

static void expect(const struct text *t, const char *wanted) {
    if (!t->ptr || !strstr(t->ptr, wanted)) fail_test("'%s' is not in:\n%s", wanted, t->ptr ? t->ptr : "");
}

static void tables_say_what_matters(void **state) {
    (void)state;
    struct text out = {0};
    struct example *x = new_example(true, 8 * GIB);
    assert_int_equal(plan_parse_rules("blk\\.0\\..*exps=NVME", x->rules, &x->request.n_rules, 4, NULL), ERR_NONE);
    open_example(x);
    plan_report_text(&x->report, &out);
    static const char *const lines[] = {"made up: unnamed CPU, 4 cores",
                                        "made-up GPU 8.0 GiB",
                                        "a ?[31mname\": 48 layers of 128 experts",
                                        "4096 tokens, K f16, V f16: 96.0 KiB a token",
                                        "no GPU kernels",
                                        "decides 3 tensors",
                                        "MiB             VRAM       RAM      NVMe",
                                        "VRAM     0 .",
                                        "NVMe     0 #",
                                        "slots of 2.54 MiB",
                                        "decode, 4096 tokens held",
                                        "VRAM bandwidth",
                                        "first token after start",
                                        "GiB more VRAM"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) expect(&out, lines[i]);
    for (const char *line = out.ptr; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        assert_true(strcspn(line, "\n") < 170);
    close_example(x);
    text_clear(&out);

    x = new_example(false, 40 * GIB); /* all in RAM, nothing measured */
    x->facts.n_kernels = x->facts.n_ram_rates = 0;
    open_example(x);
    plan_report_text(&x->report, &out);
    expect(&out, "not known: the machine was not measured");
    expect(&out, "nothing: no expert would move");
    expect(&out, "RAM      0 ################################################\n");
    assert_null(strstr(out.ptr, "VRAM"));
    close_example(x);
    text_free(&out);
}

static double number(const json_t *root, const char *path) {
    char key[64];
    while (*path) {
        const size_t n = strcspn(path, "/");
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        root = json_object_get(root, key);
        if (!root) fail_test("no key %s", key);
        path += n + (path[n] == '/');
    }
    if (!json_is_number(root)) fail_test("%s is no number", key);
    return json_number_value(root);
}

static void json_has_its_keys(void **state) {
    (void)state;
    for (int gpu = 0; gpu < 2; gpu++) {
        struct text out = {0};
        struct reason why = {{0}};
        json_t *root;
        struct example *x = new_example(gpu, 8 * GIB);
        open_example(x);
        plan_report_json(&x->report, &out);
        if (json_read((struct span){out.ptr, out.len}, &root, &why)) fail_test("%s\n%s", why.text, out.ptr);
        const struct plan *p = &x->plan;
        assert_true(number(root, "tiers/ram/total_bytes") == (double)plan_tier_bytes(p, PLAN_RAM));
        assert_true(number(root, "tiers/ram/budget_bytes") == (double)p->ram_budget);
        assert_true(number(root, "tiers/vram/dense_bytes") == (double)p->bytes[PLAN_VRAM][PLAN_DENSE]);
        assert_true(number(root, "tiers/nvme/experts") == p->experts[PLAN_NVME]);
        assert_true(number(root, "predictions/decode/tokens_per_s") > 1 && number(root, "predictions/prefill/busy_s/cpu") >= 0);
        assert_true(number(root, "gains/ram/experts") > 100);
        assert_int_equal(json_array_size(json_object_get(root, "layers")), 48);
        assert_int_equal(json_array_size(json_object_get(root, "classes")), 2);
        assert_int_equal(json_is_true(json_object_get(root, "use_gpu")), gpu);
        assert_string_equal(json_string_value(json_object_get(json_object_get(root, "model"), "name")), "a \033[31mname\"");
        json_decref(root);
        close_example(x);
        text_free(&out);
    }
    struct example *x = new_example(false, 8 * GIB);
    struct text out = {0};
    x->facts.n_drives = 0;
    open_example(x);
    plan_report_json(&x->report, &out);
    expect(&out, "\"decode\": null"); /* what is not known is null, never 0 */
    close_example(x);
    text_free(&out);
}

/* ---- the program ----------------------------------------------------------------------------------------------------------
 */

static int run(const char *arguments, struct text *out) {
    char command[1024], piece[4096];
    snprintf(command, sizeof command, PROGRAM " plan %s 2>&1", arguments);
    text_clear(out);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    for (size_t n; (n = fread(piece, 1, sizeof piece, f));) text_add(out, piece, n);
    const int status = pclose(f);
    return status < 0 ? status : status >> 8;
}

static void the_command_plans(void **state) {
    (void)state;
    struct text out = {0}, machine = {0};
    char path[] = "/tmp/coldstream-plan-XXXXXX", arguments[512];
    struct facts f;
    plan_case_machine(&f);
    plan_case_gpu(&f, 8 * GIB, 288e9, 13e9);
    f.core_cpus[1] = 1, f.core_cpus[2] = 2, f.core_cpus[3] = 3;
    f.nodes[0] = (struct facts_node){32 * GIB, 4};
    facts_write(&f, &machine);
    const int fd = mkstemp(path);
    FILE *file = fdopen(fd, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(machine.ptr, 1, machine.len, file), machine.len);
    assert_int_equal(fclose(file), 0);

    snprintf(arguments, sizeof arguments, "-m " TINY " --machine %s -c 2k", path);
    if (run(arguments, &out) != 0) fail_test("%s", out.ptr);
    expect(&out, "made up: ");
    expect(&out, "context   2048 tokens");
    snprintf(arguments, sizeof arguments, "-m " TINY " --machine %s -c 2k --json --vram-budget 0 --ram-budget 1G", path);
    if (run(arguments, &out) != 0) fail_test("%s", out.ptr);
    expect(&out, "\"use_gpu\": false");
    expect(&out, "\"budget_bytes\": 1073741824");
    snprintf(arguments, sizeof arguments, "-m " TINY " --machine %s --ram-budget 1M", path);
    assert_int_equal(run(arguments, &out), 1);
    expect(&out, "MiB are missing");
    snprintf(arguments, sizeof arguments, "-m " TINY " --machine %s --vram-budget 10M", path);
    assert_int_equal(run(arguments, &out), 1);
    expect(&out, "--vram-budget: ");
    snprintf(arguments, sizeof arguments, "-m " TINY " --machine %s -ot nowhere=CPU", path);
    assert_int_equal(run(arguments, &out), 1);
    expect(&out, "no tensor");
    assert_int_equal(run("-m " TINY " --machine /nonexistent", &out), 1);
    expect(&out, "/nonexistent");
    assert_int_equal(run("-m " TINY " --machine " TINY, &out), 1); /* not JSON */
    expect(&out, "hf_tiny.gguf");
    assert_int_equal(run("-m " TINY " -ctk q5_0", &out), 2);
    assert_int_equal(run("", &out), 2);
    remove(path);
    text_free(&machine);
    text_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_tensor_is_described), cmocka_unit_test(scratch_is_what_the_engine_takes),
        cmocka_unit_test(tables_say_what_matters),   cmocka_unit_test(json_has_its_keys),
        cmocka_unit_test(the_command_plans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

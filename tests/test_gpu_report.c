/* bench/gpu_report from end to end with tiny sizes: both files are there, parse, and have every section. On the emulated device
 * every section has rows; in a build without a device the report says so. No timing is judged. */
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/json.h"

static const char *const sections[] = {"device",    "host",     "limits", "hand_over", "step_launches",
                                       "attention", "products", "models", "peer",      "compile"};
enum { SECTIONS = sizeof sections / sizeof *sections };

static char folder[] = "/tmp/coldstream-report-XXXXXX";

static void read_all(const char *path, struct text *out) {
    char piece[4096];
    FILE *f = fopen(path, "r");
    if (!f) fail_test("%s is missing", path);
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;) text_add(out, piece, n);
    fclose(f);
}

/* The report's JSON; json_decref() it. Its Markdown has a title a section. */
static json_t *report(const char *program, const char *flags) {
    char command[1000], path[300];
    struct text md = {0}, json = {0};
    struct reason why;
    json_t *root;
    snprintf(command, sizeof command, "%s --quick -t 2 --tmp %s -o %s/made/report %s >/dev/null 2>%s/err", program, folder,
             folder, flags, folder);
    const int status = system(command);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail_test("%s: status %d", command, status);
    snprintf(path, sizeof path, "%s/made/report.md", folder);
    read_all(path, &md);
    unlink(path);
    snprintf(path, sizeof path, "%s/made/report.json", folder);
    read_all(path, &json);
    unlink(path);
    if (json_read((struct span){json.ptr, json.len}, &root, &why)) fail_test("JSON: %s", why.text);
    const json_t *all = json_object_get(root, "sections");
    assert_int_equal(json_array_size(all), SECTIONS);
    for (size_t i = 0; i < SECTIONS; i++) {
        const json_t *s = json_array_get(all, i);
        char title[200];
        assert_string_equal(json_string_value(json_object_get(s, "key")), sections[i]);
        snprintf(title, sizeof title, "\n## %s\n", json_string_value(json_object_get(s, "title")));
        if (!strstr(md.ptr, title)) fail_test("no%s in the Markdown", title);
        assert_true(json_array_size(json_object_get(s, "rows")) + json_array_size(json_object_get(s, "notes")) > 0);
    }
    text_free(&md);
    text_free(&json);
    return root;
}

static const json_t *section(const json_t *root, const char *key) {
    const json_t *all = json_object_get(root, "sections");
    for (size_t i = 0; i < json_array_size(all); i++)
        if (strcmp(json_string_value(json_object_get(json_array_get(all, i), "key")), key) == 0) return json_array_get(all, i);
    return NULL;
}

static bool says(const json_t *s, const char *words) {
    const json_t *notes = json_object_get(s, "notes");
    for (size_t i = 0; i < json_array_size(notes); i++)
        if (strstr(json_string_value(json_array_get(notes, i)), words)) return true;
    return false;
}

/* Rows of a section that have a number there. */
static size_t numbers(const json_t *root, const char *key, const char *column) {
    const json_t *rows = json_object_get(section(root, key), "rows");
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(rows); i++) n += json_is_number(json_object_get(json_array_get(rows, i), column));
    return n;
}

static void says_that_there_is_no_gpu(void **state) {
    (void)state;
    json_t *root = report(REPORT, "--device cuda:99"); /* nowhere */
    assert_true(says(section(root, "device"), "There is no GPU"));
    assert_int_equal(numbers(root, "models", "tok_s"), 0);
    assert_true(numbers(root, "host", "value") >= 3);
    json_decref(root);
}

#ifdef REPORT_HOST
static void write_log(const char *path) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("sm_90     48 regs     0 stack     0 spilled   1024 shared  gpu/matvec.cu: a(int)\n"
          "ptxas info    : Compiling entry function '_Z1bv' for 'sm_75'\n"
          "ptxas info    : Function properties for _Z1bv\n"
          "    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads\n"
          "ptxas info    : Used 255 registers, used 1 barriers, 2048 bytes smem, 400 bytes cmem[0]\n",
          f);
    fclose(f);
}

static void measures_the_emulated_device(void **state) {
    (void)state;
    char log[300], flags[400];
    snprintf(log, sizeof log, "%s/ptxas.txt", folder);
    snprintf(flags, sizeof flags, "--ptxas %s", log);
    write_log(log);
    json_t *root = report(REPORT_HOST, flags);
    assert_true(says(section(root, "device"), "emulated"));
    assert_true(numbers(root, "limits", "value") >= 6);
    assert_int_equal(numbers(root, "hand_over", "p99_us"), 2);
    assert_true(numbers(root, "step_launches", "gb_s") >= 20);
    assert_int_equal(numbers(root, "step_launches", "us"),
                     json_array_size(json_object_get(section(root, "step_launches"), "rows")));
    assert_int_equal(numbers(root, "attention", "us"), 6);
    assert_true(numbers(root, "products", "tflop_s") >= 9);
    assert_int_equal(numbers(root, "products", "us"), json_array_size(json_object_get(section(root, "products"), "rows")));
    assert_true(numbers(root, "models", "tok_s") >= 7);
    assert_true(numbers(root, "models", "vram_peak_mib") >= 7);
    assert_true(says(section(root, "peer"), "no peer was given"));
    assert_int_equal(numbers(root, "compile", "registers"), 2);
    assert_true(says(section(root, "compile"), "8 bytes spilled, stack frame of 8: _Z1bv"));
    json_decref(root);
    unlink(log);
}
#endif

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

/* The model must be gone by now: a folder that is not empty stays. */
static int remove_folder(void **state) {
    (void)state;
    char path[300];
    snprintf(path, sizeof path, "%s/err", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/made", folder);
    rmdir(path);
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_that_there_is_no_gpu),
#ifdef REPORT_HOST
        cmocka_unit_test(measures_the_emulated_device),
#endif
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

/* See refuse.h. */
#include "tests/support/refuse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

char refuse_folder[] = "/tmp/test_bad_XXXXXX";
char refuse_path[128];
struct raw_gguf raw;

/* ---- judging ---------------------------------------------------------------------------------------------------- */

static uint64_t peak_rss_bytes(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)usage.ru_maxrss << 10;
}

static double cpu_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

enum err measured_open(const char *file, bool need_weights, struct model **m, struct reason *why) {
    const double start = cpu_seconds();
    const uint64_t peak = peak_rss_bytes();
    const enum err result = model_open(file, need_weights, m, why);
    if (cpu_seconds() - start >= 1) fail_test("%s: took %.2f s", file, cpu_seconds() - start);
    if (peak_rss_bytes() - peak >= 64 * MIB) fail_test("%s: peak grew by %zu bytes", file, (size_t)(peak_rss_bytes() - peak));
    return result;
}

static void assert_contains(const char *text, const char *part) {
    if (!strstr(text, part)) fail_test("message \"%s\"\n lacks \"%s\"", text, part);
}

void judge(const struct reason *why, const char *file, const char *item, const char *problem, uint64_t low, uint64_t high) {
    const char *name = strrchr(file, '/');
    assert_contains(why->text, name ? name + 1 : file);
    assert_contains(why->text, item);
    assert_contains(why->text, problem);
    if (strlen(why->text) >= sizeof why->text - 1) fail_test("message is cut: %s", why->text);
    for (const char *p = why->text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) fail_test("control character in %s", why->text);
    if (!high) return;
    const char *at = strstr(why->text, " at byte ");
    if (!at) fail_test("no position in \"%s\"", why->text);
    const uint64_t position = strtoull(at + 9, NULL, 10);
    if (position < low || position >= high)
        fail_test("position not within %zu..%zu: \"%s\"", (size_t)low, (size_t)high, why->text);
}

void refuse_file(const char *file, bool even_without_weights, const char *item, const char *problem, uint64_t low,
                 uint64_t high) {
    for (int need_weights = even_without_weights ? 0 : 1; need_weights < 2; need_weights++) {
        struct model *m = (struct model *)&raw;
        struct reason why = {0};
        const enum err result = measured_open(file, need_weights, &m, &why);
        if (result == ERR_NONE) fail_test("%s: accepted; expected: %s %s", file, item, problem);
        assert_null(m);
        assert_int_not_equal(result, ERR_NO_MEMORY);
        judge(&why, file, item, problem, low, high);
    }
}

void accept_file(const char *file) {
    for (int need_weights = 0; need_weights < 2; need_weights++) {
        struct model *m;
        struct reason why = {0};
        if (measured_open(file, need_weights, &m, &why) != ERR_NONE) fail_test("refused: %s", why.text);
        model_close(&m);
    }
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

void fresh(void) {
    raw_free(&raw);
    raw_tiny(&raw);
}

void write_raw(void) {
    struct text bytes = {0};
    raw_build(&raw, &bytes);
    raw_write(refuse_path, bytes);
    text_free(&bytes);
}

bool write_raw_sparse(uint64_t bytes_total) {
    struct text bytes = {0};
    raw_build_directory(&raw, &bytes);
    const bool ok = raw_write_sparse(refuse_path, bytes, bytes_total);
    text_free(&bytes);
    if (!ok) print_message("[  NOTE    ] no room for a sparse file of %zu MiB\n", (size_t)(bytes_total / MIB));
    return ok;
}

void write_bytes(const void *bytes, size_t len) {
    struct text t = {0};
    text_add(&t, bytes, len);
    raw_write(refuse_path, t);
    text_free(&t);
}

void accept_raw(void) {
    write_raw();
    accept_file(refuse_path);
}

void refuse_header(const char *problem) {
    write_raw();
    refuse_file(refuse_path, true, "header", problem, 0, 24);
}

void refuse_record(struct raw_key *key, const char *problem) {
    write_raw();
    refuse_file(refuse_path, true, "key", problem, key->at, key->payload_at + key->payload.len + 1);
}

void refuse_key(const char *name, const char *problem) {
    char item[128];
    snprintf(item, sizeof item, "'%s'", name);
    write_raw();
    const struct raw_key *key = raw_key_find(&raw, name);
    assert_non_null(key);
    refuse_file(refuse_path, true, item, problem, key->at, key->payload_at + key->payload.len + 1);
}

void refuse_without_key(const char *name, const char *problem) {
    char item[128];
    snprintf(item, sizeof item, "key '%s'", name);
    write_raw();
    refuse_file(refuse_path, true, item, problem, 0, 0);
}

void refuse_tensor_record(const struct raw_tensor *t, const char *item, const char *problem) {
    write_raw();
    refuse_file(refuse_path, true, item, problem, t->at, t->at + t->name.len + 8 + 4 + 8 * 4 + 4 + 8 + 1);
}

void refuse_tensor(const char *name, const char *problem) {
    char item[128];
    snprintf(item, sizeof item, "'%s'", name);
    const struct raw_tensor *t = raw_find(&raw, name);
    assert_non_null(t);
    refuse_tensor_record(t, item, problem);
}

void refuse_without_tensor(const char *name) {
    char item[128];
    snprintf(item, sizeof item, "tensor '%s'", name);
    write_raw();
    refuse_file(refuse_path, true, item, "is missing", 0, 0);
}

void refuse_values(const struct bad_value *values, size_t n) {
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    for (size_t i = 0; i < n; i++) {
        fresh();
        if (values[i].type == STRING)
            raw_set_string(&raw, values[i].key, "text");
        else
            raw_set(&raw, values[i].key, values[i].type, &values[i].bits, bytes[values[i].type]);
        refuse_key(values[i].key, values[i].problem);
    }
}

struct text repeated(const char *piece, size_t times) {
    struct text t = {0};
    for (size_t i = 0; i < times; i++) text_add(&t, piece, strlen(piece));
    return t;
}

/* ---- fixtures --------------------------------------------------------------------------------------------------- */

static int first_free_descriptor(void) {
    const int fd = dup(STDERR_FILENO);
    close(fd);
    return fd;
}

static int free_at_start;

int refuse_setup(void **state) {
    (void)state;
    raw_tiny(&raw);
    free_at_start = first_free_descriptor();
    return 0;
}

int refuse_teardown(void **state) {
    (void)state;
    raw_free(&raw);
    unlink(refuse_path);
    return first_free_descriptor() == free_at_start ? 0 : -1;
}

int refuse_make_folder(void **state) {
    (void)state;
    if (!mkdtemp(refuse_folder)) return -1;
    snprintf(refuse_path, sizeof refuse_path, "%s/bad.gguf", refuse_folder);
    return 0;
}

int refuse_drop_folder(void **state) {
    (void)state;
    return rmdir(refuse_folder); /* fails when the reader has written something */
}

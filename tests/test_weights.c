/* Loading tensors through a fetch: every byte, both backends, tensors larger than a piece; progress, cancelling, and what an
 * error says. */
#include "tests/support/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/weights.h"
#include "tests/support/faulty_stream.h"
#include "tests/support/tiny_model.h"

#define MS ((uint64_t)1000000u)

static char *path;
static struct model *model;
static bool *wanted; /* [n_tensors] */
static struct faulty faulty;
static struct fetch *fetch;
static struct weights weights;

static int setup(void **state) {
    (void)state;
    struct reason why = {{0}};
    struct synth_spec spec = tiny_model_spec();
    spec.vocab = 200000; /* an embedding of several pieces */
    path = tiny_model_write(&spec);
    if (model_open(path, true, &model, &why)) fail_test("%s", why.text);
    wanted = calloc(model->n_tensors, sizeof *wanted);
    assert_non_null(wanted);
    memset(wanted, true, model->n_tensors);
    faulty_init(&faulty, 7);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fetch_close(&fetch);
    weights_close(&weights);
    model_close(&model);
    free(wanted);
    tiny_model_remove(path);
    faulty_free(&faulty);
    return 0;
}

static bool open_fetch(enum stream_kind kind, uint64_t patience_ns) {
    struct reason why = {{0}};
    const struct fetch_options o = {
        .kind = kind, .groups = 4, .patience_ns = patience_ns, .wrap = faulty_wrap, .wrap_ctx = &faulty};
    fetch_close(&fetch);
    faulty_clear(&faulty);
    const enum err code = fetch_open(model, &o, &fetch, &why);
    if (code == ERR_UNSUPPORTED)
        print_message("  SKIP io_uring: %s\n", why.text);
    else if (code)
        fail_test("%s", why.text);
    return !code;
}

static enum err load(struct reason *why, bool (*on_load)(void *, uint64_t, uint64_t), void *ctx) {
    const struct weights_load how = {fetch, on_load, ctx};
    weights_close(&weights);
    return weights_open(model, wanted, &how, &weights, why);
}

static void expect_tensors(void) {
    for (size_t i = 0; i < model->n_tensors; i++) {
        const struct model_tensor *t = &model->tensors[i];
        if (!wanted[i]) {
            assert_null(weights.data[i]);
            continue;
        }
        uint8_t *bytes = malloc(t->bytes);
        assert_non_null(bytes);
        assert_int_equal(pread(model->files[t->file].fd, bytes, t->bytes, (off_t)t->offset), t->bytes);
        if (memcmp(bytes, weights.data[i], t->bytes) != 0)
            fail_test("tensor '%.*s' has wrong bytes", (int)t->name.len, t->name.ptr);
        free(bytes);
    }
}

struct progress {
    uint64_t calls, last, total, cancel_at;
};

static bool on_load(void *ctx, uint64_t done, uint64_t total) {
    struct progress *p = ctx;
    p->calls++;
    assert_true(done >= p->last && done <= total);
    p->last = done;
    p->total = total;
    return p->cancel_at && p->calls >= p->cancel_at;
}

static const enum stream_kind both[] = {STREAM_URING, STREAM_PREAD};

static void loads_every_byte(void **state) {
    (void)state;
    struct reason why = {{0}};
    for (int k = 0; k < 2; k++) {
        if (!open_fetch(both[k], 0)) continue;
        struct progress p = {0};
        if (load(&why, on_load, &p)) fail_test("%s", why.text);
        expect_tensors();
        assert_int_equal(p.last, model->weight_bytes); /* the last call tells the end */
        assert_int_equal(p.total, model->weight_bytes);
        assert_true(faulty_requests(&faulty) > model->n_tensors); /* some tensor took several pieces */
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_SHORT, .probability = 0.3});
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = EIO, .probability = 0.05});
        if (load(&why, NULL, NULL)) fail_test("%s", why.text);
        expect_tensors();
    }
}

static void loads_what_is_wanted(void **state) {
    (void)state;
    struct reason why = {{0}};
    assert_true(open_fetch(STREAM_AUTO, 0));
    for (size_t i = 0; i < model->n_tensors; i++) wanted[i] = i % 3 == 1;
    if (load(&why, NULL, NULL)) fail_test("%s", why.text);
    assert_int_equal(weights.bytes, weights_bytes(model, wanted));
    expect_tensors();
    memset(wanted, false, model->n_tensors);
    if (load(&why, NULL, NULL)) fail_test("%s", why.text);
    assert_int_equal(weights.bytes, 0);
}

static void names_the_tensor_that_failed(void **state) {
    (void)state;
    struct reason why = {{0}};
    for (int k = 0; k < 2; k++) {
        if (!open_fetch(both[k], 0)) continue;
        faulty_add(&faulty, (struct fault_rule){.kind = FAULT_ERROR, .error = ENXIO, .count = 1});
        assert_int_equal(load(&why, NULL, NULL), ERR_IO);
        const struct span first = model->tensors[0].name;
        char name[64];
        memcpy(name, first.ptr, first.len);
        name[first.len] = 0;
        assert_non_null(strstr(why.text, name));
        assert_non_null(strstr(why.text, path));
        assert_non_null(strstr(why.text, strerror(ENXIO)));
        assert_null(weights.base);
        assert_int_equal(fetch_busy(fetch), 0);
        faulty_clear(&faulty);
        if (load(&why, NULL, NULL)) fail_test("%s", why.text); /* the same fetch may be used again */
        expect_tensors();
    }
}

/* Reports come, and cancelling works, while the drive says nothing at all. */
static void cancels_during_a_stall(void **state) {
    (void)state;
    struct reason why = {{0}};
    struct progress p = {.cancel_at = 2};
    assert_true(open_fetch(STREAM_AUTO, 0));
    faulty_add(&faulty, (struct fault_rule){.kind = FAULT_DELAY, .delay_ns = 450 * MS});
    assert_int_equal(load(&why, on_load, &p), ERR_CANCELLED);
    assert_int_equal(p.calls, 2);
    assert_true(faulty_requests(&faulty) <= 4);
    assert_null(weights.base);
    assert_int_equal(fetch_busy(fetch), 0);
}

static void outlives_a_drive_without_answers(void **state) {
    (void)state;
    struct reason why = {{0}};
    assert_true(open_fetch(STREAM_AUTO, 50 * MS));
    faulty_add(&faulty, (struct fault_rule){.kind = FAULT_DELAY, .delay_ns = 300 * MS, .from = 2, .count = 1});
    const uint64_t begin = clock_ns();
    const enum err code = load(&why, NULL, NULL);
    assert_int_equal(code, ERR_IO);
    assert_non_null(strstr(why.text, "no answer"));
    assert_true(clock_ns() - begin >= 300 * MS); /* the memory may not go before the read has ended */
    assert_int_equal(fetch_busy(fetch), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(loads_every_byte),
        TEST(loads_what_is_wanted),
        TEST(names_the_tensor_that_failed),
        TEST(cancels_during_a_stall),
        TEST(outlives_a_drive_without_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

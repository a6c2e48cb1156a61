/* Experts that change their place while a GPU computes beside the CPU: between RAM and VRAM, and through VRAM. */
#include "tests/support/check.h"

#include <string.h>

#include "core/json.h"
#include "tests/support/hybrid_run.h"

enum { MOVED = 24 };

static struct result all, got;

/* Experts on the move at random, with all and with few of them in RAM: the answer is the one of those that stay. */
static void moves_do_not_change_the_answer(void **state) {
    (void)state;
    const struct {
        struct run run;
        uint32_t prompt;
        double close;
    } cases[] = {
        {{.shuffle = 1}, 12, CLOSE},
        {{.shuffle = 2, .slots = 32, .threads = 1, .kv_on_host = true}, 12, CLOSE},
        {{.shuffle = 3, .path = hybrid_q4}, 1, CLOSE_Q4}, /* prompts round differently here and there */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct run r = {.path = cases[i].run.path};
        run(&r, cases[i].prompt, MOVED, &all);
        const uint64_t each = r.path ? EXPERT_BYTES / 4 : EXPERT_BYTES; /* or somewhat more */
        r = cases[i].run;
        r.vram_budget = all.info.vram_peak - all.info.vram_experts / (r.path ? 3 : 2) * each;
        run(&r, cases[i].prompt, MOVED, &got);
        print_message("  %u of %u experts in VRAM, %llu moved\n", got.info.vram_experts, all.info.vram_experts,
                      (unsigned long long)got.io.moved);
        assert_in_range(got.info.vram_experts, 4, all.info.vram_experts - 4);
        assert_true(got.io.moved >= 6 && got.io.moved_bytes >= got.io.moved * (each - 4096));
        assert_true(got.info.vram_peak <= r.vram_budget);
        assert_int_equal(got.io.gpu_tokens, MOVED + (cases[i].prompt == 1));
        assert_true(got.io.gpu_misses > 0 && got.io.gpu_misses <= got.io.gpu_tokens * LAYERS * USED && got.io.mails > 0 &&
                    got.io.mail_ns > 0);
        expect_close("experts on the move", &all, &got, cases[i].close);
    }
}

/* A prompt's experts on the CPU or through the ring, whoever decides: the same answer, and steps go on after it. */
static void the_split_does_not_change_the_answer(void **state) {
    (void)state;
    const struct {
        const char *name;
        struct run run;
        uint32_t prompt;
        bool some, all;
    } cases[] = {
        {"all by the CPU", {.cpu_moe = UINT32_MAX, .pass_from = UINT32_MAX}, 70, false, false},
        {"from 8 tokens", {.cpu_moe = UINT32_MAX, .pass_from = 8, .ubatch = 128}, 70, true, false},
        {"all through the ring", {.cpu_moe = UINT32_MAX, .pass_from = 1, .ubatch = 128}, 70, true, true},
        {"one lane, some in VRAM", {.cpu_moe = 1, .pass_from = 1, .kv_on_host = true, .ubatch = 64}, 40, true, true},
        {"few in RAM", {.cpu_moe = UINT32_MAX, .pass_from = 1, .slots = 48}, 40, true, false},
        {"as rates say", {.cpu_moe = UINT32_MAX, .ubatch = 128}, 70, false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct run r = {.on_cpu = true, .ubatch = cases[i].run.ubatch};
        run(&r, cases[i].prompt, 2, &all);
        r = cases[i].run;
        run(&r, cases[i].prompt, 2, &got);
        print_message("  %llu passed, %llu again; the CPU was asked for %llu\n", (unsigned long long)got.io.passed,
                      (unsigned long long)got.io.passed_again, (unsigned long long)got.io.uses);
        if (cases[i].some) assert_true(got.io.passed > 0 && got.io.passed_bytes >= got.io.passed * (EXPERT_BYTES - 4096));
        if (cases[i].all) assert_true(got.io.uses <= 3 * 2 * LAYERS * USED); /* the two steps' alone */
        if (cases[i].run.pass_from == UINT32_MAX) assert_int_equal(got.io.passed, 0);
        expect_close(cases[i].name, &all, &got, CLOSE);
    }
}

/* ---- the timeline -------------------------------------------------------------------------------------------- */

struct shown {
    uint32_t row, n;
    double begin[8], end[8]; /* the spans that are open: each within the one before */
};

/* Spans of a row come in order of time, and each lies within those that have begun and not ended. */
static void expect_nested(struct shown *s, double begin, double end, const char *name) {
    const double rounding = .0021; /* of microseconds with three places */
    while (s->n && s->end[s->n - 1] <= begin + rounding) s->n--;
    if (s->n && !(begin >= s->begin[s->n - 1] - rounding && end <= s->end[s->n - 1] + rounding))
        fail_test("row %u: %s at %.3f..%.3f crosses %.3f..%.3f", s->row, name, begin, end, s->begin[s->n - 1],
                  s->end[s->n - 1]);
    if (s->n == 8) fail_test("row %u: %s at %.3f is nested too deeply", s->row, name, begin);
    s->begin[s->n] = begin;
    s->end[s->n++] = end;
}

static uint32_t count_spans(const json_t *events, const char *name, int row) {
    uint32_t n = 0;
    size_t i;
    json_t *e;
    json_array_foreach(events, i, e) {
        const char *is = json_string_value(json_object_get(e, "name"));
        n += strcmp(json_string_value(json_object_get(e, "ph")), "X") == 0 && (!name || strcmp(is, name) == 0) &&
             (row < 0 || json_integer_value(json_object_get(e, "tid")) == row);
    }
    return n;
}

static void the_timeline_shows_both_lanes(void **state) {
    (void)state;
    struct text text = {0};
    struct reason why = {{0}};
    run(&(struct run){.cpu_moe = 2, .pass_from = 8, .ubatch = 128, .timeline = &text}, 70, 3, &got);
    json_t *root;
    if (json_read((struct span){text.ptr, text.len}, &root, &why)) fail_test("%s", why.text);
    const json_t *events = json_object_get(root, "traceEvents");
    struct shown rows[256] = {{0}};
    size_t i;
    json_t *e;
    json_array_foreach(events, i, e) {
        if (strcmp(json_string_value(json_object_get(e, "ph")), "X") != 0) continue;
        const json_int_t row = json_integer_value(json_object_get(e, "tid"));
        const double begin = json_number_value(json_object_get(e, "ts")), length = json_number_value(json_object_get(e, "dur"));
        assert_in_range(row, 0, 255);
        assert_true(begin >= 0 && length >= 0);
        rows[row].row = (uint32_t)row;
        expect_nested(&rows[row], begin, begin + length, json_string_value(json_object_get(e, "name")));
    }
    for (int lane = 2; lane <= 3; lane++) {
        assert_int_equal(count_spans(events, "attention", lane), LAYERS);
        assert_int_equal(count_spans(events, "router", lane), LAYERS);
        assert_int_equal(count_spans(events, "sum", lane), LAYERS);
        assert_int_equal(count_spans(events, "experts", lane), LAYERS - 2); /* of the last layer: in VRAM */
    }
    assert_int_equal(count_spans(events, "step", 2), 3);
    assert_true(count_spans(events, "passing experts", -1) > 0 && count_spans(events, "missing experts", 1) > 0);
    assert_int_equal(count_spans(events, "experts for a prompt", 4), count_spans(events, "passing experts", -1));
    assert_true(count_spans(events, "wait for routes", 0) >= 2 * LAYERS && count_spans(events, NULL, 100) > 0); /* reads */
    json_decref(root);
    text_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_timeline_shows_both_lanes),
        cmocka_unit_test(the_split_does_not_change_the_answer),
        cmocka_unit_test(moves_do_not_change_the_answer),
    };
    return cmocka_run_group_tests(tests, open_models, remove_models);
}

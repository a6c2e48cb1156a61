/* Routes files from good and bad bytes, made-up routes against the statistics of real ones, and the replay's answers where they
 * are known otherwise. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/routes.h"
#include "tests/support/route_replay.h"
#include "tests/support/synth_blocks.h"
#include "tests/support/synth_routes.h"

static struct routes make(const struct synth_routes *spec) {
    struct routes r;
    struct reason why;
    if (synth_routes_make(spec, &r, &why) != ERR_NONE) fail_test("%s", why.text);
    return r;
}

static const struct synth_routes SMALL = {.kind = ROUTES_LOCALITY,
                                          .layers = 3,
                                          .experts = 16,
                                          .used = 4,
                                          .turns = 3,
                                          .prompt_tokens = 5,
                                          .decode_tokens = 7,
                                          .seed = 1};

static struct span view(const struct text *t) { return (struct span){t->ptr ? t->ptr : "", t->len}; }

/* ---- recording and files ------------------------------------------------------------------------------------------ */

static void tokens_are_recorded_turn_by_turn(void **state) {
    (void)state;
    struct routes r;
    const int32_t experts[2] = {9, 4};
    const uint16_t want[2] = {9, 4};
    assert_int_equal(routes_open(2, 10, 2, true, &r, NULL), ERR_NONE);
    const struct {
        uint32_t tokens;
        bool prompt;
    } steps[] = {{300, true}, {20, true}, {1, false}, {1, false}, {7, true}, {1, false}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        assert_int_equal(routes_append(&r, steps[i].tokens, steps[i].prompt, NULL), ERR_NONE);
    assert_int_equal(routes_begin_turn(&r, NULL), ERR_NONE);
    assert_int_equal(routes_begin_turn(&r, NULL), ERR_NONE);
    assert_int_equal(routes_append(&r, 3, false, NULL), ERR_NONE);
    assert_int_equal(r.n_tokens, 333);
    assert_int_equal(r.n_turns, 3);
    const struct routes_turn turns[3] = {{320, 2}, {7, 1}, {0, 3}};
    assert_memory_equal(r.turns, turns, sizeof turns);
    routes_choose(&r, 332, 1, experts);
    routes_expect(&r, 332, 1, experts, 1);
    assert_memory_equal(routes_chosen(&r, 332, 1), want, sizeof want);
    assert_int_equal(routes_expected(&r, 332, 1)[0], 9);
    assert_int_equal(routes_expected(&r, 332, 1)[1], ROUTES_NOTHING);
    assert_int_equal(routes_expected(&r, 0, 0)[0], ROUTES_NOTHING);
    routes_close(&r);
    assert_null(r.chosen);
    routes_close(&r);
}

static void impossible_shapes_are_refused(void **state) {
    (void)state;
    struct routes r;
    const uint32_t shapes[][3] = {{0, 8, 2}, {2, 0, 0}, {2, 8, 0}, {2, 8, 9}, {1u << 20, 8, 2}, {2, 65535, 2}, {2, 128, 65}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        assert_int_equal(routes_open(shapes[i][0], shapes[i][1], shapes[i][2], false, &r, NULL), ERR_ARGUMENT);
        assert_null(r.chosen);
    }
}

static void assert_same(const struct routes *a, const struct routes *b) {
    const size_t ids_bytes = (size_t)a->n_tokens * a->n_layers * a->n_used * sizeof *a->chosen;
    assert_int_equal(a->n_layers, b->n_layers);
    assert_int_equal(a->n_experts, b->n_experts);
    assert_int_equal(a->n_used, b->n_used);
    assert_int_equal(a->n_tokens, b->n_tokens);
    assert_int_equal(a->n_turns, b->n_turns);
    assert_memory_equal(a->turns, b->turns, a->n_turns * sizeof *a->turns);
    assert_memory_equal(a->chosen, b->chosen, ids_bytes);
    assert_int_equal(a->expected == NULL, b->expected == NULL);
    if (a->expected) assert_memory_equal(a->expected, b->expected, ids_bytes);
}

static void what_is_written_reads_back(void **state) {
    (void)state;
    for (int expected = 0; expected < 2; expected++) {
        struct synth_routes spec = SMALL;
        struct text bytes = {0};
        struct routes back;
        struct reason why = {""};
        if (!expected) spec.noise = -1;
        struct routes r = make(&spec);
        routes_write(&r, &bytes);
        assert_int_equal(bytes.len, 40 + 3 * 8 + 36 * 3 * 4 * 2 * (1 + expected));
        if (routes_parse(view(&bytes), &back, &why) != ERR_NONE) fail_test("%s", why.text);
        assert_same(&r, &back);
        assert_int_equal(routes_append(&back, 1, false, NULL), ERR_NONE); /* one that was read can grow */
        routes_close(&back);
        routes_close(&r);
        text_free(&bytes);
    }
    struct routes none, back;
    struct text bytes = {0};
    assert_int_equal(routes_open(1, 1, 1, false, &none, NULL), ERR_NONE);
    routes_write(&none, &bytes);
    assert_int_equal(routes_parse(view(&bytes), &back, NULL), ERR_NONE);
    assert_same(&none, &back);
    routes_close(&back);
    routes_close(&none);
    text_free(&bytes);
}

/* The bytes in a block of their own size, so that a sanitizer sees the first one read too far. */
static enum err parse_copy(const char *bytes, size_t n, struct routes *out, struct reason *why) {
    char *const copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, n);
    const enum err result = routes_parse((struct span){copy, n}, out, why);
    free(copy);
    return result;
}

static void every_other_length_is_refused(void **state) {
    (void)state;
    struct text bytes = {0};
    struct routes r = make(&SMALL), back;
    routes_write(&r, &bytes);
    for (size_t n = 0; n < bytes.len; n++) {
        struct reason why = {""};
        assert_int_equal(parse_copy(bytes.ptr, n, &back, &why), ERR_FORMAT);
        assert_null(back.chosen);
        assert_true(strlen(why.text) > 10);
    }
    text_add(&bytes, "", 1);
    assert_int_equal(parse_copy(bytes.ptr, bytes.len, &back, NULL), ERR_FORMAT);
    text_free(&bytes);
    routes_close(&r);
}

static void wrong_counts_and_ids_are_refused(void **state) {
    (void)state;
    const struct {
        size_t at; /* of a uint32_t, or of a uint16_t id */
        uint32_t value;
        bool id;
        enum err want;
        const char *names;
    } cases[] = {
        {0, 0, false, ERR_FORMAT, "CSROUTES"},
        {8, 2, false, ERR_UNSUPPORTED, "version 2"},
        {12, 0, false, ERR_FORMAT, "0 layers"},
        {12, 4, false, ERR_FORMAT, "36 tokens"},
        {12, 0xffffffff, false, ERR_FORMAT, "layers"},
        {16, 0, false, ERR_FORMAT, "experts"},
        {16, 15, false, ERR_FORMAT, "expert 15 is out"},
        {16, 0xffffffff, false, ERR_FORMAT, "experts"},
        {20, 17, false, ERR_FORMAT, "17 of 16"},
        {20, 0xffffffff, false, ERR_FORMAT, "experts"},
        {24, 35, false, ERR_FORMAT, "35 tokens"},
        {24, 0xffffffff, false, ERR_FORMAT, "tokens"},
        {28, 2, false, ERR_FORMAT, "2 turns"},
        {28, 0xffffffff, false, ERR_FORMAT, "turns"},
        {32, 0, false, ERR_FORMAT, "tokens"},
        {32, 2, false, ERR_FORMAT, "flags"},
        {36, 1, false, ERR_FORMAT, "flags"},
        {40, 6, false, ERR_FORMAT, "37 tokens"},
        {40, 0xffffffff, false, ERR_FORMAT, "turns"},
        {64, 16, true, ERR_FORMAT, "token 0, layer 0: expert 16"},
        {64, ROUTES_NOTHING, true, ERR_FORMAT, "out of range"},
        {64 + 36 * 24 + 2, ROUTES_NOTHING, true, ERR_NONE, ""}, /* nothing expected */
        {64 + 36 * 24 + 2, 16, true, ERR_FORMAT, "out of range"},
    };
    struct text bytes = {0};
    struct routes r = make(&SMALL), back;
    routes_write(&r, &bytes);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char was[4];
        struct reason why = {""};
        char *const at = bytes.ptr + cases[i].at;
        memcpy(was, at, 4);
        memcpy(at, &cases[i].value, cases[i].id ? 2 : 4);
        const enum err got = parse_copy(bytes.ptr, bytes.len, &back, &why);
        if (got != cases[i].want || !strstr(why.text, cases[i].names)) fail_test("case %zu: %d, %s", i, got, why.text);
        routes_close(&back);
        memcpy(at, was, 4);
    }
    memcpy(bytes.ptr + 64 + 2, bytes.ptr + 64, 2);
    struct reason why = {""};
    assert_int_equal(parse_copy(bytes.ptr, bytes.len, &back, &why), ERR_FORMAT);
    assert_non_null(strstr(why.text, "twice"));
    text_free(&bytes);
    routes_close(&r);
}

static void broken_bytes_never_break_the_reader(void **state) {
    (void)state;
    struct text bytes = {0};
    struct routes r = make(&SMALL), back;
    struct synth_random random = synth_random_of(7, SPAN("broken"));
    unsigned accepted = 0;
    routes_write(&r, &bytes);
    char *const broken = malloc(bytes.len);
    assert_non_null(broken);
    for (int i = 0; i < 20000; i++) {
        memcpy(broken, bytes.ptr, bytes.len);
        const uint64_t n = 1 + synth_random_bits(&random) % 3;
        for (uint64_t k = 0; k < n; k++) { /* most of them in the counts */
            const uint64_t where = synth_random_bits(&random), reach = where >> 32 & 3 ? 64 : bytes.len;
            broken[where % reach] = (char)(where >> 40);
        }
        const size_t len = synth_random_bits(&random) % 8 ? bytes.len : synth_random_bits(&random) % bytes.len;
        if (parse_copy(broken, len, &back, NULL) != ERR_NONE) continue;
        accepted++;
        for (size_t k = 0; k < (size_t)back.n_tokens * back.n_layers * back.n_used; k++)
            assert_true(back.chosen[k] < back.n_experts);
        routes_close(&back);
    }
    assert_in_range(accepted, 1, 10000);
    free(broken);
    text_free(&bytes);
    routes_close(&r);
}

/* ---- statistics ----------------------------------------------------------------------------------------------------- */

static struct routes_shape measure(const struct synth_routes *spec) {
    struct routes_shape shape;
    struct routes r = make(spec);
    assert_int_equal(routes_measure(&r, &shape, NULL), ERR_NONE);
    routes_close(&r);
    return shape;
}

static void assert_about(double got, double want, double tolerance) {
    if (fabs(got - want) > tolerance) fail_test("%.3f, should be %.3f +- %.3f", got, want, tolerance);
}

static const struct synth_routes REAL = {
    .kind = ROUTES_LOCALITY, .layers = 12, .experts = 128, .used = 8, .turns = 6, .decode_tokens = 190, .seed = 11};

static void locality_is_that_of_real_prompts(void **state) {
    (void)state;
    const struct routes_shape s = measure(&REAL);
    const double top[4] = {.57, .81, .92, .97};
    for (int i = 0; i < 4; i++) assert_about(s.top[i], top[i], .03);
    assert_about(s.next, .45, .03);
    assert_about(s.within_8, .79, .02);
    assert_about(s.elsewhere, .74, .03);
    assert_about(s.expected, .88, .01);
    assert_about(s.expected_last, .56, .03);
    assert_true(s.expected_first > .995);
}

static void uniform_and_skewed_routes_have_no_memory(void **state) {
    (void)state;
    struct synth_routes spec = REAL;
    spec.kind = ROUTES_UNIFORM;
    struct routes_shape s = measure(&spec);
    assert_about(s.next, 8. / 128, .005);
    assert_about(s.within_8, 1 - pow(1 - 8. / 128, 8), .01);
    assert_about(s.elsewhere, .4, .02);
    assert_about(s.expected, .88, .01);
    spec.kind = ROUTES_SKEWED;
    spec.skew = .5f;
    s = measure(&spec);
    assert_about(s.top[1], .58, .03); /* as a model with router skew 0.5 */
    assert_about(s.top[3], .83, .04);
    assert_about(s.elsewhere, s.top[3], .03);
    assert_about(s.expected, .88, .015);
}

static void equal_seeds_give_equal_routes(void **state) {
    (void)state;
    struct synth_routes spec = SMALL;
    struct routes a = make(&spec), b = make(&spec);
    assert_same(&a, &b);
    spec.seed++;
    struct routes c = make(&spec);
    assert_memory_not_equal(a.chosen, c.chosen, 36 * 3 * 4 * 2);
    routes_close(&a);
    routes_close(&b);
    routes_close(&c);
}

/* ---- replay --------------------------------------------------------------------------------------------------------- */

static const uint8_t zeros[64] = {0};
static const uint64_t bytes_each[1] = {1000};

static struct replay_result replay(const struct routes *r, enum replay_policy policy, uint32_t slots, struct replay_options o) {
    struct replay_result result;
    struct reason why;
    o.policy = policy;
    o.n_classes = 1;
    o.layer_class = zeros;
    o.slots = &slots;
    o.expert_bytes = bytes_each;
    if (replay_routes(r, &o, &result, &why) != ERR_NONE) fail_test("%s", why.text);
    return result;
}

static uint64_t missed(const struct routes *r, enum replay_policy policy, uint32_t slots) {
    const struct replay_result result = replay(r, policy, slots, (struct replay_options){0});
    assert_int_equal(result.early.needed + result.late.needed, (uint64_t)r->n_tokens * r->n_layers * r->n_used);
    return result.early.missed + result.late.missed;
}

/* One layer, one expert a token. */
static struct routes route_by_hand(const char *experts) {
    struct routes r;
    assert_int_equal(routes_open(1, 10, 1, false, &r, NULL), ERR_NONE);
    for (uint32_t t = 0; experts[t]; t++) {
        assert_int_equal(routes_append(&r, 1, false, NULL), ERR_NONE);
        routes_choose(&r, t, 0, &(int32_t){experts[t] - '0'});
    }
    return r;
}

static void known_sequences_give_known_misses(void **state) {
    (void)state;
    const struct {
        const char *experts;
        uint32_t slots;
        uint64_t lru, belady, pinned;
    } cases[] = {{"01201", 2, 5, 4, 1}, {"0123012301230123", 3, 16, 8, 4}, {"0001112", 1, 3, 3, 4}, {"0110", 9, 2, 2, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct routes r = route_by_hand(cases[i].experts);
        assert_int_equal(missed(&r, REPLAY_LRU, cases[i].slots), cases[i].lru);
        assert_int_equal(missed(&r, REPLAY_LRU_LAYER, cases[i].slots), cases[i].lru);
        assert_int_equal(missed(&r, REPLAY_BELADY, cases[i].slots), cases[i].belady);
        assert_int_equal(missed(&r, REPLAY_STATIC, cases[i].slots), cases[i].pinned);
        routes_close(&r);
    }
}

/* The least misses of any policy that keeps what it loads: all choices tried. `here`: a bit an expert. */
static unsigned fewest_misses(const char *experts, unsigned here, unsigned slots) {
    if (!*experts) return 0;
    const unsigned bit = 1u << (*experts - '0');
    if (here & bit) return fewest_misses(experts + 1, here, slots);
    if ((unsigned)__builtin_popcount(here) < slots) return 1 + fewest_misses(experts + 1, here | bit, slots);
    unsigned best = 1000;
    for (unsigned x = 0; x < 10; x++) {
        if (!(here >> x & 1)) continue;
        const unsigned n = 1 + fewest_misses(experts + 1, (here & ~(1u << x)) | bit, slots);
        if (n < best) best = n;
    }
    return best;
}

static void nothing_beats_belady(void **state) {
    (void)state;
    struct synth_random random = synth_random_of(3, SPAN("belady"));
    for (int i = 0; i < 200; i++) {
        char experts[13] = {0};
        const uint32_t slots = 1 + (uint32_t)(synth_random_bits(&random) % 3);
        for (int t = 0; t < 12; t++) experts[t] = (char)('0' + synth_random_bits(&random) % 6);
        struct routes r = route_by_hand(experts);
        assert_int_equal(missed(&r, REPLAY_BELADY, slots), fewest_misses(experts, 0, slots));
        routes_close(&r);
    }
    struct synth_routes spec = REAL;
    spec.layers = 4;
    for (spec.kind = ROUTES_UNIFORM; spec.kind <= ROUTES_LOCALITY; spec.kind++) {
        struct routes r = make(&spec);
        for (uint32_t slots = 40; slots <= 400; slots += 120) {
            const uint64_t least = missed(&r, REPLAY_BELADY, slots);
            assert_true(missed(&r, REPLAY_LFRU, slots) >= least && missed(&r, REPLAY_LRU, slots) >= least);
        }
        routes_close(&r);
    }
}

static double hit_rate(const struct replay_result *r) {
    return 1 - (double)(r->early.missed + r->late.missed) / (double)(r->early.needed + r->late.needed);
}

/* 40 % of the experts have a slot. */
static void the_cache_is_as_good_as_it_was_measured(void **state) {
    (void)state;
    struct synth_routes spec = REAL;
    spec.prompt_tokens = 64;
    spec.decode_tokens = 192;
    struct routes r = make(&spec);
    const struct replay_options plain = {.skip_tokens = 192};
    struct replay_options ahead = plain;
    ahead.ahead = 8;
    const uint32_t slots = 51 * 12;
    const struct replay_result lfru = replay(&r, REPLAY_LFRU, slots, plain), lru = replay(&r, REPLAY_LRU, slots, plain);
    const struct replay_result look = replay(&r, REPLAY_LFRU, slots, ahead), again = replay(&r, REPLAY_LFRU, slots, ahead);
    assert_about(hit_rate(&lfru), .944, .015);
    assert_true(hit_rate(&lfru) > hit_rate(&lru) + .01);
    /* also for the first tokens after another prompt */
    assert_true(replay_hit_rate(&lfru.early) > replay_hit_rate(&lru.early) + .005);
    assert_true(hit_rate(&look) > hit_rate(&lfru) + .03);
    assert_true(look.early.ahead_used + look.late.ahead_used > (look.early.ahead_taken + look.late.ahead_taken) / 2);
    assert_memory_equal(&look, &again, sizeof look);
    assert_int_equal(lfru.early.tokens + lfru.late.tokens, 5 * 192);
    assert_int_equal(lfru.prompt_tokens, 6 * 64);
    routes_close(&r);
}

static void with_room_for_all_each_expert_misses_once(void **state) {
    (void)state;
    struct synth_routes spec = SMALL;
    spec.prompt_tokens = 0;
    struct routes r = make(&spec);
    bool seen[3 * 16] = {0};
    uint64_t distinct = 0;
    for (size_t i = 0; i < (size_t)r.n_tokens * 12; i++) {
        bool *const cell = &seen[i / 4 % 3 * 16 + r.chosen[i]];
        distinct += !*cell;
        *cell = true;
    }
    for (enum replay_policy p = REPLAY_LFRU; p <= REPLAY_BELADY; p++)
        if (p != REPLAY_STATIC) assert_int_equal(missed(&r, p, 48), distinct);
    const struct replay_result filled = replay(&r, REPLAY_LFRU, 48, (struct replay_options){.fill = true});
    assert_int_equal(filled.early.missed + filled.late.missed, 0);
    routes_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_recorded_turn_by_turn),
        cmocka_unit_test(impossible_shapes_are_refused),
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(every_other_length_is_refused),
        cmocka_unit_test(wrong_counts_and_ids_are_refused),
        cmocka_unit_test(broken_bytes_never_break_the_reader),
        cmocka_unit_test(locality_is_that_of_real_prompts),
        cmocka_unit_test(uniform_and_skewed_routes_have_no_memory),
        cmocka_unit_test(equal_seeds_give_equal_routes),
        cmocka_unit_test(known_sequences_give_known_misses),
        cmocka_unit_test(nothing_beats_belady),
        cmocka_unit_test(the_cache_is_as_good_as_it_was_measured),
        cmocka_unit_test(with_room_for_all_each_expert_misses_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

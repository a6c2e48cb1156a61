/* The expert cache's decisions: single rules first, then random operations beside a model that is slow and easy to believe. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/cache.h"

enum { MAX_LAYERS = 64, MAX_SLOTS = 512, MAX_CELLS = 2048 };

static struct cache *open_or_die(const struct cache_options *o) {
    struct cache *c = NULL;
    struct reason why = {""};
    if (cache_open(o, &c, &why) != ERR_NONE) fail_test("%s", why.text);
    return c;
}

static const uint8_t one_class[MAX_LAYERS] = {0};

/* `layers` layers of `experts`, one a token, one class of `slots`. */
static struct cache *open_simple(uint32_t layers, uint32_t experts, uint32_t slots) {
    const struct cache_options o = {
        .n_layers = layers, .n_experts = experts, .n_used = 1, .n_classes = 1, .layer_class = one_class, .slots = &slots};
    return open_or_die(&o);
}

static void use(struct cache *c, uint32_t layer, int32_t expert) { cache_use(c, layer, &expert, 1); }

static int32_t load(struct cache *c, uint32_t layer, uint32_t expert, enum cache_cause cause) {
    const int32_t slot = cache_take(c, layer, expert, cause);
    if (slot >= 0) cache_landed(c, slot, true);
    return slot;
}

/* One decode step of a one-layer model: count, load when missing, next token. */
static int32_t step(struct cache *c, int32_t expert) {
    use(c, 0, expert);
    int32_t slot = cache_find(c, 0, (uint32_t)expert);
    if (slot < 0) slot = load(c, 0, (uint32_t)expert, CACHE_DEMAND);
    cache_advance(c, 1);
    return slot;
}

/* ---- single rules ------------------------------------------------------------------------------------------------ */

static void impossible_options_are_refused(void **state) {
    (void)state;
    const uint32_t slots[2] = {4, 4}, no_slots[2] = {4, 0}, too_many[2] = {UINT32_MAX, UINT32_MAX};
    const uint8_t classes[2] = {0, 1}, bad_classes[2] = {0, 2};
    const struct cache_options good = {
        .n_layers = 2, .n_experts = 4, .n_used = 2, .n_classes = 2, .layer_class = classes, .slots = slots};
    struct cache_options bad[12];
    for (size_t i = 0; i < 12; i++) bad[i] = good;
    bad[0].n_layers = 0;
    bad[1].n_experts = 0;
    bad[2].n_used = 0;
    bad[3].n_used = 5;
    bad[4].n_classes = 0;
    bad[5].layer_class = bad_classes;
    bad[6].slots = no_slots;
    bad[7].slots = too_many;
    bad[8].half_life = -1;
    bad[9].half_life = NAN;
    bad[10].n_layers = bad[10].n_experts = UINT32_MAX;
    bad[11].n_classes = 3;
    for (size_t i = 0; i < 12; i++) {
        struct cache *c = (struct cache *)&bad;
        struct reason why = {""};
        if (cache_open(&bad[i], &c, &why) != ERR_ARGUMENT) fail_test("case %zu was accepted", i);
        assert_null(c);
        assert_true(strlen(why.text) > 10);
    }
    struct cache *c = open_or_die(&good);
    assert_int_equal(cache_slots(c), 8);
    cache_close(&c);
    assert_null(c);
    cache_close(&c);
}

static void a_score_halves_in_a_half_life_and_outlives_the_slot(void **state) {
    (void)state;
    struct cache *c = open_simple(1, 4, 1);
    step(c, 0);
    const float first = cache_score(c, 0, 0);
    assert_float_equal(first, exp2(-1.0 / 48), 1e-6);
    cache_advance(c, 48);
    assert_float_equal(cache_score(c, 0, 0), first / 2, 1e-6);
    step(c, 1);
    assert_int_equal(cache_find(c, 0, 0), -1);
    assert_float_equal(cache_score(c, 0, 0), first / 2 * exp2f(-1.f / 48), 1e-6);
    step(c, 0);
    assert_true(cache_score(c, 0, 0) > cache_score(c, 0, 1));
    cache_close(&c);
}

static void scores_stay_finite_for_ever(void **state) {
    (void)state;
    const float half_lives[] = {0.25f, 1, 48, 1e6f};
    for (size_t i = 0; i < 4; i++) {
        const uint32_t slots = 2;
        const struct cache_options o = {.n_layers = 1,
                                        .n_experts = 3,
                                        .n_used = 1,
                                        .n_classes = 1,
                                        .layer_class = one_class,
                                        .slots = &slots,
                                        .half_life = half_lives[i]};
        struct cache *c = open_or_die(&o);
        for (int t = 0; t < 30000; t++) step(c, 0);
        cache_advance(c, 1);
        step(c, 1);
        const double decay = exp2(-1.0 / (double)half_lives[i]);
        const double sum = pow(decay, 3) * (1 - pow(decay, 30000)) / (1 - decay);
        assert_float_equal(cache_score(c, 0, 0) / (float)sum, 1, 1e-3);
        assert_float_equal(cache_score(c, 0, 1), decay, 1e-5);
        assert_float_equal(cache_score(c, 0, 2), 0, 0);
        cache_close(&c);
    }
}

static void the_coldest_leaves_and_equals_by_slot(void **state) {
    (void)state;
    struct cache *c = open_simple(1, 8, 3);
    for (int t = 0; t < 3; t++) step(c, 0);
    for (int t = 0; t < 2; t++) step(c, 1);
    step(c, 2);
    assert_int_equal(cache_find(c, 0, 0), 0);
    assert_int_equal(cache_find(c, 0, 2), 2);
    assert_int_equal(step(c, 3), 2); /* in the place of 2 */
    for (int t = 0; t < 8; t++) step(c, 3);
    assert_int_equal(step(c, 4), 1); /* in the place of 1 */
    cache_close(&c);
    c = open_simple(1, 8, 4);
    for (uint32_t x = 0; x < 4; x++) load(c, 0, x, CACHE_FILL);
    assert_int_equal(load(c, 0, 5, CACHE_DEMAND), 0);
    assert_int_equal(load(c, 0, 6, CACHE_DEMAND), 0); /* 5 was never used either */
    cache_close(&c);
}

static void the_prior_counts_until_uses_outweigh_it(void **state) {
    (void)state;
    const uint32_t slots = 2;
    const float prior[] = {.5f, .25f, .125f, NAN};
    const struct cache_options o = {.n_layers = 1,
                                    .n_experts = 4,
                                    .n_used = 1,
                                    .n_classes = 1,
                                    .layer_class = one_class,
                                    .slots = &slots,
                                    .prior = prior,
                                    .prior_weight = 8};
    struct cache *c = open_or_die(&o);
    assert_float_equal(cache_score(c, 0, 0), 4, 1e-6);
    assert_float_equal(cache_score(c, 0, 3), 0, 0);
    load(c, 0, 0, CACHE_FILL);
    load(c, 0, 1, CACHE_FILL);
    assert_int_equal(load(c, 0, 2, CACHE_DEMAND), 1);
    for (int t = 0; t < 5; t++) step(c, 2);
    assert_int_equal(load(c, 0, 3, CACHE_DEMAND), 0); /* five uses are worth more than 0's four */
    cache_close(&c);
}

static void a_prompt_counts_its_end_most_and_fades_what_was_before(void **state) {
    (void)state;
    struct cache *c = open_simple(1, 4, 4);
    for (int t = 0; t < 200; t++) step(c, 0);
    const float before = cache_score(c, 0, 0);
    int32_t prompt[512];
    for (int t = 0; t < 512; t++) prompt[t] = t < 256 ? 1 : 2;
    cache_use(c, 0, prompt, 512);
    const float during = cache_score(c, 0, 2);
    cache_advance(c, 512);
    assert_float_equal(cache_score(c, 0, 2), during, 1e-3);
    assert_float_equal(cache_score(c, 0, 0), before * exp2f(-512.f / 48 - 2), before * 1e-6);
    const double decay = exp2(-1.0 / 48), half = decay * (1 - pow(decay, 256)) / (1 - decay);
    assert_float_equal(cache_score(c, 0, 2), half, 1e-3);
    assert_float_equal(cache_score(c, 0, 1), half * pow(decay, 256), 1e-3);
    cache_close(&c);
}

static void an_endless_prompt_does_not_overflow(void **state) {
    (void)state;
    enum { N = 300000 };
    struct cache *c = open_simple(2, 2, 2);
    int32_t *const prompt = calloc(N, sizeof *prompt);
    assert_non_null(prompt);
    prompt[N - 1] = 1;
    cache_use(c, 0, prompt, N);
    cache_use(c, 1, prompt, N);
    cache_advance(c, N);
    assert_float_equal(cache_score(c, 1, 1), exp2(-1.0 / 48), 1e-6);
    assert_float_equal(cache_score(c, 0, 0), 1 / (exp2(1.0 / 48) - 1) * exp2(-1.0 / 48), 1e-2);
    for (uint32_t tokens_done = 0; tokens_done < 2; tokens_done++) {
        cache_use(c, 0, prompt, N); /* given up in the middle; then decoding goes on */
        if (tokens_done) use(c, 0, 1);
        cache_advance(c, tokens_done);
        assert_true(cache_score(c, 0, 0) < 100 && cache_score(c, 0, 1) < 100);
        step(c, 1);
        assert_true(cache_score(c, 0, 1) >= .9f);
    }
    cache_close(&c);
    free(prompt);
}

static void held_and_loading_slots_never_leave(void **state) {
    (void)state;
    struct cache *c = open_simple(1, 8, 2);
    const int32_t a = cache_take(c, 0, 0, CACHE_DEMAND), b = load(c, 0, 1, CACHE_DEMAND);
    assert_false(cache_is_ready(c, a));
    assert_true(cache_is_ready(c, b));
    cache_hold(c, b);
    cache_hold(c, b);
    for (enum cache_cause cause = CACHE_DEMAND; cause <= CACHE_FILL; cause++) assert_int_equal(cache_take(c, 0, 2, cause), -1);
    assert_int_equal(cache_layer_count(c, 0), 2);
    cache_release(c, b);
    assert_int_equal(cache_take(c, 0, 2, CACHE_DEMAND), -1);
    cache_release(c, b);
    assert_int_equal(cache_take(c, 0, 2, CACHE_DEMAND), b);
    cache_landed(c, a, true);
    assert_int_equal(cache_take(c, 0, 3, CACHE_PASSING), a);
    cache_close(&c);
}

static void a_failed_load_frees_its_slot_once_nobody_holds_it(void **state) {
    (void)state;
    uint32_t layer, expert;
    struct cache *c = open_simple(1, 8, 1);
    const int32_t a = cache_take(c, 0, 5, CACHE_DEMAND);
    cache_hold(c, a);
    cache_landed(c, a, false);
    assert_int_equal(cache_find(c, 0, 5), -1);
    assert_false(cache_content(c, a, &layer, &expert));
    assert_false(cache_is_ready(c, a));
    assert_int_equal(cache_layer_count(c, 0), 0);
    assert_int_equal(cache_take(c, 0, 6, CACHE_DEMAND), -1);
    assert_false(cache_next_fill(c, &layer, &expert));
    cache_release(c, a);
    assert_int_equal(cache_take(c, 0, 6, CACHE_FILL), a);
    cache_landed(c, a, false);
    assert_int_equal(cache_take(c, 0, 5, CACHE_FILL), a);
    cache_close(&c);
}

static void what_is_used_or_expected_now_leaves_last(void **state) {
    (void)state;
    struct cache *c = open_simple(2, 4, 4);
    const int32_t expected = 1;
    load(c, 0, 0, CACHE_DEMAND);
    load(c, 0, 1, CACHE_DEMAND);
    load(c, 1, 0, CACHE_DEMAND);
    load(c, 1, 1, CACHE_DEMAND);
    for (int t = 0; t < 9; t++) use(c, 0, 1); /* 0/1 is the warmest */
    cache_advance(c, 1);
    use(c, 0, 0);
    cache_expect(c, 1, &expected, 1);
    use(c, 1, 0);
    cache_expect(c, 1, &expected, 1);                                        /* using layer 1 ended the first expectation */
    assert_int_equal(cache_take(c, 0, 2, CACHE_DEMAND), cache_slots(c) - 3); /* 0/1, in spite of its score */
    assert_int_equal(cache_find(c, 0, 1), -1);
    assert_int_equal(cache_take(c, 0, 3, CACHE_DEMAND), 3); /* expected, before used in this batch */
    assert_int_equal(cache_take(c, 0, 1, CACHE_DEMAND), 0); /* used, the first of equals */
    assert_int_equal(cache_take(c, 1, 2, CACHE_DEMAND), 2);
    assert_int_equal(cache_take(c, 1, 3, CACHE_DEMAND), -1);
    cache_close(&c);
}

static void an_expectation_for_an_absent_expert_covers_its_slot(void **state) {
    (void)state;
    struct cache *c = open_simple(2, 4, 2);
    const int32_t wanted = 3;
    cache_expect(c, 1, &wanted, 1);
    const int32_t slot = load(c, 1, 3, CACHE_AHEAD);
    load(c, 0, 0, CACHE_DEMAND);
    for (int t = 0; t < 3; t++) use(c, 0, 0);
    cache_advance(c, 5);
    assert_int_equal(cache_take(c, 0, 1, CACHE_DEMAND), 1 - slot); /* the warmer one: the colder is expected */
    cache_close(&c);
}

static void look_ahead_leaves_the_last_tokens_alone(void **state) {
    (void)state;
    struct cache *c = open_simple(1, 8, 2);
    const int32_t next = 5;
    step(c, 0);
    step(c, 1);
    cache_expect(c, 0, &next, 1);
    assert_int_equal(cache_take(c, 0, 5, CACHE_AHEAD), -1);
    cache_advance(c, 1); /* 0 was used three tokens ago */
    assert_int_equal(cache_take(c, 0, 5, CACHE_AHEAD), 0);
    assert_int_equal(cache_take(c, 0, 6, CACHE_AHEAD), -1);
    cache_landed(c, 0, true);
    cache_advance(c, 1);
    assert_int_equal(cache_take(c, 0, 6, CACHE_AHEAD), 1); /* 5 is expected */
    cache_close(&c);
}

static void floors_hold_while_another_layer_has_more(void **state) {
    (void)state;
    const uint32_t slots = 12;
    const struct cache_options o = {
        .n_layers = 3, .n_experts = 12, .n_used = 2, .n_classes = 1, .layer_class = one_class, .slots = &slots};
    struct cache *c = open_or_die(&o);
    for (uint32_t x = 0; x < 2; x++) load(c, 0, x, CACHE_FILL);
    for (uint32_t x = 0; x < 10; x++) load(c, 1, x, CACHE_FILL);
    for (int t = 0; t < 40; t++) { /* layer 1 is hot, layer 0 was never used */
        for (int32_t x = 0; x < 10; x += 2) cache_use(c, 1, (const int32_t[]){x, x + 1}, 1);
        cache_advance(c, 1);
    }
    for (uint32_t x = 0; x < 8; x++) {
        load(c, 2, x, CACHE_DEMAND);
        assert_int_equal(cache_layer_count(c, 0), 2);
    }
    /* From its floor on, layer 2 replaced its own, colder than layer 1's. */
    assert_int_equal(cache_layer_count(c, 2), 2);
    assert_int_equal(cache_layer_count(c, 1), 8);
    cache_close(&c);
}

static void background_fill_goes_by_score_then_by_layer(void **state) {
    (void)state;
    uint32_t layer, expert;
    const uint8_t classes[3] = {0, 1, 0};
    const uint32_t slots[2] = {3, 1};
    const struct cache_options o = {
        .n_layers = 3, .n_experts = 4, .n_used = 1, .n_classes = 2, .layer_class = classes, .slots = slots};
    struct cache *c = open_or_die(&o);
    use(c, 2, 3);
    use(c, 1, 2);
    use(c, 1, 2);
    cache_set_elsewhere(c, 0, 0, true);
    const uint32_t want[4][2] = {{1, 2}, {2, 3}, {0, 1}, {0, 2}};
    for (size_t i = 0; i < 4; i++) {
        assert_true(cache_next_fill(c, &layer, &expert));
        assert_int_equal(layer, want[i][0]);
        assert_int_equal(expert, want[i][1]);
        assert_true(load(c, layer, expert, CACHE_FILL) >= 0);
    }
    assert_false(cache_next_fill(c, &layer, &expert));
    assert_int_equal(cache_take(c, 0, 3, CACHE_FILL), -1);
    cache_close(&c);
}

/* ---- prompts ------------------------------------------------------------------------------------------------------- */

enum { P_LAYERS = 4, P_EXPERTS = 64, P_SLOTS = 160 };

static void remember(const struct cache *c, bool here[P_LAYERS * P_EXPERTS]) {
    for (uint32_t i = 0; i < P_LAYERS * P_EXPERTS; i++) here[i] = cache_find(c, i / P_EXPERTS, i % P_EXPERTS) >= 0;
}

/* All experts of all layers once, `at_once` of them loading or held at a time. */
static uint32_t run_prompt(struct cache *c, uint32_t at_once) {
    int32_t all[P_EXPERTS], lent[P_EXPERTS];
    uint32_t n_lent = 0, loads = 0;
    for (int32_t x = 0; x < P_EXPERTS; x++) all[x] = x;
    for (uint32_t l = 0; l < P_LAYERS; l++) {
        cache_use(c, l, all, P_EXPERTS / 2);
        for (uint32_t x = 0; x < P_EXPERTS; x++) {
            if (cache_find(c, l, x) >= 0) continue;
            if (n_lent == at_once) {
                cache_landed(c, lent[0], true);
                memmove(lent, lent + 1, --n_lent * sizeof *lent);
            }
            lent[n_lent] = cache_take(c, l, x, CACHE_PASSING);
            if (lent[n_lent] < 0) fail_test("no slot with %u lent", n_lent);
            n_lent++;
            loads++;
        }
    }
    while (n_lent) cache_landed(c, lent[--n_lent], true);
    cache_advance(c, P_EXPERTS / 2);
    return loads;
}

static void the_decode_set_survives_prompts(void **state) {
    (void)state;
    const uint32_t slots = P_SLOTS;
    const struct cache_options o = {.n_layers = P_LAYERS,
                                    .n_experts = P_EXPERTS,
                                    .n_used = 2,
                                    .n_classes = 1,
                                    .layer_class = one_class,
                                    .slots = &slots,
                                    .ring = 16};
    struct cache *c = open_or_die(&o);
    for (uint32_t i = 0; i < P_SLOTS; i++) load(c, i % P_LAYERS, i / P_LAYERS, CACHE_FILL);
    bool before[P_LAYERS * P_EXPERTS], after[P_LAYERS * P_EXPERTS];
    remember(c, before);
    for (int prompt = 0; prompt < 3; prompt++) {
        run_prompt(c, 16);
        uint32_t lost = 0;
        remember(c, after);
        for (uint32_t i = 0; i < P_LAYERS * P_EXPERTS; i++) lost += before[i] && !after[i];
        assert_in_range(lost, 1, 16);
    }
    /* What passed leaves first ... */
    int32_t kept[P_SLOTS], n_kept = 0;
    for (uint32_t i = 0; i < P_SLOTS; i++) {
        uint32_t layer, expert;
        assert_true(cache_content(c, (int32_t)i, &layer, &expert));
        if (before[layer * P_EXPERTS + expert]) kept[n_kept++] = (int32_t)i;
    }
    cache_advance(c, 3);
    uint32_t new_ones = 0;
    for (uint32_t i = 0; new_ones < 16; i++) {
        if (cache_find(c, i % P_LAYERS, i / P_LAYERS) >= 0 || before[i % P_LAYERS * P_EXPERTS + i / P_LAYERS]) continue;
        const int32_t slot = load(c, i % P_LAYERS, i / P_LAYERS, CACHE_DEMAND);
        for (int32_t k = 0; k < n_kept; k++) assert_int_not_equal(slot, kept[k]);
        new_ones++;
    }
    cache_close(&c);
}

static void only_the_first_piece_of_a_prompt_fades_what_was_before(void **state) {
    (void)state;
    struct cache *c = open_simple(1, 4, 4);
    const int32_t prompt[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const float sixteenth = exp2f(-16.f / 48);
    step(c, 0);
    float before = cache_score(c, 0, 0);
    for (int piece = 0; piece < 2; piece++) {
        cache_use(c, 0, prompt, 16);
        cache_advance(c, 16);
        before *= piece ? sixteenth : sixteenth / 4;
        assert_float_equal(cache_score(c, 0, 0), before, 1e-6);
    }
    cache_use(c, 0, prompt, 15); /* too short to be a prompt */
    cache_advance(c, 15);
    before *= exp2f(-15.f / 48);
    assert_float_equal(cache_score(c, 0, 0), before, 1e-6);
    cache_use(c, 0, prompt, 16);
    cache_advance(c, 16);
    assert_float_equal(cache_score(c, 0, 0), before * sixteenth / 4, 1e-6);
    cache_close(&c);
}

static void what_a_prompt_makes_warm_takes_the_place_of_what_it_leaves_cold(void **state) {
    (void)state;
    struct cache *c = open_simple(3, 8, 6);
    int32_t prompt[20] = {0};
    for (uint32_t x = 0; x < 2; x++)
        for (uint32_t l = 0; l < 3; l++) load(c, l, x, CACHE_FILL); /* slots 0, 3: layer 0; 1, 4; 2, 5: layer 2 */
    cache_use(c, 0, prompt, 20);
    for (int t = 0; t < 20; t++) prompt[t] = 4 + t % 2;
    cache_use(c, 1, prompt, 20);
    /* in the place of 0/1, which the prompt did not choose; layer 2's turn is still to come */
    assert_int_equal(load(c, 1, 5, CACHE_PASSING), 3);
    assert_int_equal(load(c, 0, 6, CACHE_DEMAND), 1);
    assert_int_equal(load(c, 1, 4, CACHE_PASSING), 1); /* 0/6 came late, but to a layer that is done */
    assert_int_equal(load(c, 1, 6, CACHE_PASSING), 2); /* cold itself: through the ring, for the coldest */
    assert_int_equal(load(c, 1, 7, CACHE_PASSING), 2);
    cache_advance(c, 20);
    assert_int_equal(load(c, 0, 7, CACHE_DEMAND), 2);
    cache_close(&c);
}

static void a_passing_expert_that_decode_uses_stays(void **state) {
    (void)state;
    struct cache *c = open_simple(1, 16, 4);
    for (uint32_t x = 0; x < 4; x++) {
        for (int t = 0; t < 4; t++) step(c, (int32_t)x);
    }
    const int32_t slot = load(c, 0, 9, CACHE_PASSING);
    assert_int_equal(load(c, 0, 10, CACHE_PASSING), slot); /* the ring of a class of 4 is 1 */
    cache_advance(c, 100);
    use(c, 0, 10);
    cache_advance(c, 1);
    const int32_t other = load(c, 0, 11, CACHE_PASSING);
    assert_int_not_equal(other, slot);
    assert_int_equal(load(c, 0, 12, CACHE_DEMAND), other);
    cache_close(&c);
}

static void a_full_ring_waits_for_its_own(void **state) {
    (void)state;
    const uint32_t slots = 8;
    const struct cache_options o = {
        .n_layers = 1, .n_experts = 32, .n_used = 2, .n_classes = 1, .layer_class = one_class, .slots = &slots};
    struct cache *c = open_or_die(&o);
    for (uint32_t x = 0; x < 8; x++) load(c, 0, x, CACHE_PASSING); /* free slots: ordinary members */
    const int32_t a = cache_take(c, 0, 8, CACHE_PASSING), b = load(c, 0, 9, CACHE_PASSING);
    cache_hold(c, b);
    assert_int_equal(cache_take(c, 0, 10, CACHE_PASSING), -1);
    cache_release(c, b);
    assert_int_equal(cache_take(c, 0, 10, CACHE_PASSING), b);
    assert_int_equal(cache_take(c, 0, 11, CACHE_PASSING), -1);
    cache_landed(c, a, false);
    assert_int_equal(cache_take(c, 0, 11, CACHE_PASSING), a);
    cache_close(&c);
}

/* ---- random operations beside a model -------------------------------------------------------------------------------- */

struct model_slot {
    int32_t cell; /* -1: free */
    bool loading, passing;
    unsigned holds;
};

struct model {
    uint32_t layers, experts, used, classes, n_slots;
    uint8_t layer_class[MAX_LAYERS];
    uint32_t slots[MAX_LAYERS], first[MAX_LAYERS], ring[MAX_LAYERS], floor[MAX_LAYERS]; /* floor: by layer */
    bool lru;
    double half_life, prior_weight;
    float prior[MAX_CELLS];
    double heat[MAX_CELLS]; /* as of the batch's begin */
    uint64_t last[MAX_CELLS], serial;
    uint32_t age[MAX_CELLS]; /* tokens since the last use */
    bool expected[MAX_CELLS];
    uint32_t batch;
    bool in_prompt, done[MAX_LAYERS]; /* done: the running prompt is through with the layer */
    int32_t at_layer;
    struct model_slot slot[MAX_SLOTS];
    uint64_t random;
};

static uint32_t draw(struct model *m, uint32_t n) {
    m->random = m->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((m->random >> 33) % n);
}

static void draw_shape(struct model *m, uint64_t seed) {
    *m = (struct model){.random = seed * 2 + 1, .at_layer = -1};
    for (int i = 0; i < 5; i++) draw(m, 2);
    m->layers = 1 + draw(m, 8);
    m->experts = 2 + draw(m, 15);
    m->used = 1 + draw(m, m->experts < 6 ? m->experts : 6);
    m->classes = 1 + draw(m, m->layers);
    m->lru = draw(m, 4) == 0;
    m->half_life = (double[]){1, 8, 48}[draw(m, 3)];
    m->prior_weight = 4;
    const bool has_prior = !m->lru && draw(m, 2);
    for (uint32_t i = 0; i < m->layers * m->experts; i++) {
        m->prior[i] = has_prior ? (float)draw(m, 1000) / 1000 : 0;
        m->age[i] = 1000;
    }
    for (uint32_t l = 0; l < m->layers; l++) m->layer_class[l] = (uint8_t)draw(m, m->classes);
    for (uint32_t k = 0; k < m->classes; k++) {
        const uint32_t sizes[] = {1, m->used, m->used * 2 + draw(m, 5), 1 + draw(m, m->layers * m->experts / m->classes + 4)};
        m->slots[k] = sizes[draw(m, 4)];
        m->first[k] = m->n_slots;
        m->n_slots += m->slots[k];
        uint32_t ring = m->slots[k] / 8 < 32 ? m->slots[k] / 8 : 32, n = 0;
        if (ring < m->used) ring = m->used;
        m->ring[k] = ring < m->slots[k] ? ring : m->slots[k];
        for (uint32_t l = 0; l < m->layers; l++) n += m->layer_class[l] == k;
        for (uint32_t l = 0; l < m->layers; l++)
            if (m->layer_class[l] == k) m->floor[l] = m->used < m->slots[k] / n ? m->used : m->slots[k] / n;
    }
    for (uint32_t i = 0; i < m->n_slots; i++) m->slot[i].cell = -1;
}

static double model_score(const struct model *m, uint32_t cell) {
    if (m->lru) return (double)m->last[cell];
    return m->heat[cell] * exp2(-(double)m->batch / m->half_life) + m->prior_weight * (double)m->prior[cell];
}

static int32_t model_find(const struct model *m, uint32_t cell) {
    int32_t found = -1;
    for (uint32_t i = 0; i < m->n_slots; i++) {
        if (m->slot[i].cell != (int32_t)cell) continue;
        assert_int_equal(found, -1);
        found = (int32_t)i;
    }
    return found;
}

static uint32_t model_count(const struct model *m, uint32_t layer) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n_slots; i++) n += m->slot[i].cell >= 0 && (uint32_t)m->slot[i].cell / m->experts == layer;
    return n;
}

static uint32_t model_passing(const struct model *m, uint32_t class) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->slots[class]; i++) n += m->slot[m->first[class] + i].passing;
    return n;
}

enum { FREE = -1, NEVER = 100 };

/* How late a slot is given up for the newcomer; NEVER: it stays. The rules of cache.h, one after the other. */
static int rank_of(const struct model *m, uint32_t slot, uint32_t layer, enum cache_cause cause) {
    const struct model_slot *const s = &m->slot[slot];
    if (s->holds || s->loading) return NEVER;
    if (s->cell < 0) return FREE;
    const uint32_t cell = (uint32_t)s->cell, own = cell / m->experts, class = m->layer_class[layer];
    const bool floor = model_count(m, own) + (own == layer) <= m->floor[own];
    const bool expected = m->expected[cell], used = m->age[cell] == 0;
    const int level = used ? 3 : expected ? 2 : floor ? 1 : 0;
    switch (cause) {
    case CACHE_DEMAND: return s->passing && level == 0 ? 0 : 1 + level;
    case CACHE_PASSING:
        if (s->passing) return 2 * (expected ? 2 : floor ? 1 : 0);
        return model_passing(m, class) < m->ring[class] ? 2 * level + 1 : NEVER;
    case CACHE_AHEAD: return level == 0 && m->age[cell] >= 3 ? 0 : NEVER;
    case CACHE_FILL: break;
    }
    return NEVER;
}

/* The coldest of those a prompt is through with, if it is clearly colder than the newcomer; else -1. */
static int32_t left_behind(const struct model *m, uint32_t layer, uint32_t cell) {
    const uint32_t class = m->layer_class[layer], first = m->first[class];
    int32_t coldest = -1;
    if (m->lru || m->at_layer < 0) return -1;
    for (uint32_t i = first; i < first + m->slots[class]; i++) {
        const struct model_slot *const s = &m->slot[i];
        if (s->cell < 0 || s->holds || s->loading || s->passing || m->expected[s->cell]) continue;
        const uint32_t own = (uint32_t)s->cell / m->experts;
        if (!m->done[own] || model_count(m, own) + (own == layer) <= m->floor[own]) continue;
        if (coldest < 0 || model_score(m, (uint32_t)s->cell) < model_score(m, (uint32_t)m->slot[coldest].cell))
            coldest = (int32_t)i;
    }
    if (coldest < 0 || model_score(m, cell) <= 1.5 * model_score(m, (uint32_t)m->slot[coldest].cell) + .5) return -1;
    return coldest;
}

/* The slot given must be of the lowest rank there is, and there of the lowest score. *passing: as the ring's. */
static void check_take(const struct model *m, uint32_t layer, uint32_t cell, enum cache_cause cause, int32_t slot,
                       bool *passing) {
    const uint32_t class = m->layer_class[layer], first = m->first[class], end = first + m->slots[class];
    int best = NEVER;
    double coldest = INFINITY;
    for (uint32_t i = first; i < end; i++) {
        const int rank = rank_of(m, i, layer, cause);
        const double score = rank == FREE || rank == NEVER ? 0 : model_score(m, (uint32_t)m->slot[i].cell);
        if (rank < best || (rank == best && score < coldest)) coldest = score;
        if (rank < best) best = rank;
    }
    *passing = false;
    if (cause == CACHE_PASSING && best != FREE) {
        const int32_t left = left_behind(m, layer, cell);
        if (left >= 0) {
            const double want = model_score(m, (uint32_t)m->slot[left].cell),
                         got = model_score(m, (uint32_t)m->slot[slot].cell);
            assert_true(fabs(got - want) <= 1e-4 * fmax(1e-6, want));
            assert_true(m->done[(uint32_t)m->slot[slot].cell / m->experts] && !m->slot[slot].passing);
            return;
        }
        *passing = true;
    }
    if (slot < 0) {
        if (best != NEVER) fail_test("cause %d: no slot, but one of rank %d could leave", cause, best);
        return;
    }
    assert_in_range(slot, first, end - 1);
    assert_int_equal(rank_of(m, (uint32_t)slot, layer, cause), best);
    assert_int_not_equal(best, NEVER);
    if (best == FREE) return;
    const double score = model_score(m, (uint32_t)m->slot[slot].cell);
    if (score > coldest + 1e-4 * fmax(1e-6, coldest)) fail_test("victim's score %g, coldest %g", score, coldest);
}

static void do_take(struct model *m, struct cache *c) {
    const bool prompt = m->at_layer >= 0 && draw(m, 2);
    const uint32_t layer = prompt ? (uint32_t)m->at_layer : draw(m, m->layers), expert = draw(m, m->experts);
    const uint32_t cell = layer * m->experts + expert;
    const enum cache_cause cause = prompt ? CACHE_PASSING : (enum cache_cause)draw(m, 4);
    if (model_find(m, cell) >= 0) return;
    const int32_t slot = cache_take(c, layer, expert, cause);
    bool passing;
    check_take(m, layer, cell, cause, slot, &passing);
    if (slot >= 0) m->slot[slot] = (struct model_slot){.cell = (int32_t)cell, .loading = true, .passing = passing};
}

static void fade(struct model *m, double tokens) {
    for (uint32_t i = 0; i < m->layers * m->experts; i++) m->heat[i] *= exp2(-tokens / m->half_life);
}

static void do_use(struct model *m, struct cache *c) {
    int32_t experts[40 * 6];
    const uint32_t layer = draw(m, m->layers), n = draw(m, 4) ? 1 : 1 + draw(m, 40);
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t k = 0; k < m->used; k++) { /* distinct within a token, biased to the low ones */
            int32_t x = (int32_t)(draw(m, m->experts) * draw(m, m->experts) / m->experts);
            for (uint32_t j = 0; j < k; j++)
                if (experts[t * m->used + j] == x) {
                    x = (x + 1) % (int32_t)m->experts;
                    j = (uint32_t)-1;
                }
            experts[t * m->used + k] = x;
        }
    cache_use(c, layer, experts, n);
    if (m->batch == 0) {
        if (n >= 16 && !m->in_prompt) fade(m, 2 * m->half_life);
        m->in_prompt = n >= 16;
    }
    if (n >= 16) {
        if (m->at_layer >= 0) m->done[m->at_layer] = true;
        m->done[layer] = false;
        m->at_layer = (int32_t)layer;
    }
    for (uint32_t x = 0; x < m->experts; x++) m->expected[layer * m->experts + x] = false;
    for (uint32_t i = 0; i < n * m->used; i++) {
        const uint32_t cell = layer * m->experts + (uint32_t)experts[i];
        m->heat[cell] += exp2(i / m->used / m->half_life);
        m->last[cell] = m->serial + 1 + i / m->used;
        m->age[cell] = 0;
        if (n == 1 && model_find(m, cell) >= 0) m->slot[model_find(m, cell)].passing = false;
    }
    m->serial += n;
    if (m->batch < n) m->batch = n;
}

static void do_advance(struct model *m, struct cache *c) {
    const uint32_t n = m->batch ? m->batch : 1;
    cache_advance(c, m->batch && draw(m, 8) == 0 ? 0 : n); /* 0: given up */
    fade(m, n);
    for (uint32_t i = 0; i < m->layers * m->experts; i++) m->age[i] += n;
    memset(m->done, 0, sizeof m->done);
    m->at_layer = -1;
    m->batch = 0;
}

static void do_expect(struct model *m, struct cache *c) {
    int32_t experts[3];
    const uint32_t layer = draw(m, m->layers), n = draw(m, 4);
    for (uint32_t i = 0; i < n; i++) {
        experts[i] = (int32_t)draw(m, m->experts);
        m->expected[layer * m->experts + (uint32_t)experts[i]] = true;
    }
    cache_expect(c, layer, experts, n);
}

static void do_slot(struct model *m, struct cache *c) {
    const int32_t at = (int32_t)draw(m, m->n_slots);
    struct model_slot *const s = &m->slot[at];
    switch (draw(m, 3)) {
    case 0:
        if (!s->loading) break;
        const bool ok = draw(m, 5) != 0;
        cache_landed(c, at, ok);
        s->loading = false;
        if (!ok) *s = (struct model_slot){.cell = -1, .holds = s->holds};
        break;
    case 1:
        if (s->cell < 0 || draw(m, 2)) break;
        cache_hold(c, at);
        s->holds++;
        break;
    default:
        if (!s->holds) break;
        cache_release(c, at);
        s->holds--;
    }
}

static void check_state(const struct model *m, const struct cache *c) {
    for (uint32_t i = 0; i < m->n_slots; i++) {
        uint32_t layer, expert;
        const bool bound = cache_content(c, (int32_t)i, &layer, &expert);
        assert_int_equal(bound, m->slot[i].cell >= 0);
        assert_int_equal(cache_is_ready(c, (int32_t)i), bound && !m->slot[i].loading);
        if (!bound) continue;
        assert_int_equal(layer * m->experts + expert, m->slot[i].cell);
        assert_int_equal(cache_find(c, layer, expert), i);
    }
    for (uint32_t l = 0; l < m->layers; l++) assert_int_equal(cache_layer_count(c, l), model_count(m, l));
    for (uint32_t i = 0; i < m->layers * m->experts; i++) {
        assert_int_equal(cache_find(c, i / m->experts, i % m->experts), model_find(m, i));
        const double want = model_score(m, i), got = (double)cache_score(c, i / m->experts, i % m->experts);
        if (fabs(want - got) > 1e-4 * fmax(1e-6, want)) fail_test("score %g, should be %g", got, want);
    }
}

static void check_fill(const struct model *m, const struct cache *c) {
    uint32_t layer, expert;
    double best = -1;
    for (uint32_t i = 0; i < m->layers * m->experts; i++) {
        const uint32_t class = m->layer_class[i / m->experts];
        bool room = false;
        for (uint32_t s = 0; s < m->slots[class]; s++) room |= rank_of(m, m->first[class] + s, 0, CACHE_FILL) == FREE;
        if (room && model_find(m, i) < 0) best = fmax(best, model_score(m, i));
    }
    assert_int_equal(cache_next_fill(c, &layer, &expert), best >= 0);
    if (best < 0) return;
    assert_int_equal(cache_find(c, layer, expert), -1);
    assert_true(model_score(m, layer * m->experts + expert) >= best - 1e-4 * fmax(1e-6, best));
}

/* Returns a digest of all slots given out. */
static uint64_t run_random(uint64_t seed, unsigned steps) {
    static struct model m;
    uint64_t digest = 0;
    draw_shape(&m, seed);
    const struct cache_options o = {.n_layers = m.layers,
                                    .n_experts = m.experts,
                                    .n_used = m.used,
                                    .n_classes = m.classes,
                                    .layer_class = m.layer_class,
                                    .slots = m.slots,
                                    .policy = m.lru ? CACHE_LRU : CACHE_LFRU,
                                    .half_life = (float)m.half_life,
                                    .prior = m.prior,
                                    .prior_weight = (float)m.prior_weight};
    struct cache *c = open_or_die(&o);
    for (unsigned i = 0; i < steps; i++) {
        switch (draw(&m, 10)) {
        case 0: do_use(&m, c); break;
        case 1: do_advance(&m, c); break;
        case 2: do_expect(&m, c); break;
        case 3:
        case 4:
        case 5: do_take(&m, c); break;
        case 6: check_fill(&m, c); break;
        default: do_slot(&m, c);
        }
        if (i % 8 == 0) check_state(&m, c);
        for (uint32_t s = 0; s < m.n_slots; s++) digest = digest * 31 + (uint64_t)m.slot[s].cell;
    }
    cache_close(&c);
    return digest;
}

static void random_operations_agree_with_the_model(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 500; seed++) run_random(seed, 1500);
}

static void the_same_calls_give_the_same_slots(void **state) {
    (void)state;
    for (uint64_t seed = 1000; seed < 1010; seed++) assert_int_equal(run_random(seed, 1000), run_random(seed, 1000));
}

/* Decode and prompts with classes of the least sizes: every chosen expert gets a slot, always. */
static void the_smallest_caches_make_progress(void **state) {
    (void)state;
    enum { L = 6, X = 16, K = 4 };
    const uint8_t classes[L] = {0, 1, 2, 0, 1, 2};
    const uint32_t sizes[] = {1, K - 1, K, K + 1, 2 * K};
    for (size_t size = 0; size < sizeof sizes / sizeof *sizes; size++) {
        const uint32_t slots[3] = {sizes[size], sizes[size], K};
        const struct cache_options o = {
            .n_layers = L, .n_experts = X, .n_used = K, .n_classes = 3, .layer_class = classes, .slots = slots};
        struct cache *c = open_or_die(&o);
        for (int32_t t = 0; t < 60; t++) {
            for (uint32_t l = 0; l < L; l++) {
                int32_t chosen[K];
                for (int32_t k = 0; k < K; k++) chosen[k] = (t * 5 + k * 3 + (int32_t)l) % X;
                cache_expect(c, (l + 1) % L, chosen, K);
                cache_use(c, l, chosen, 1);
                for (int32_t k = 0; k < K; k++) {
                    const uint32_t x = (uint32_t)chosen[k];
                    if (cache_find(c, l, x) < 0) assert_true(load(c, l, x, t % 2 ? CACHE_DEMAND : CACHE_PASSING) >= 0);
                }
            }
            cache_advance(c, 1);
        }
        cache_close(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(impossible_options_are_refused),
        cmocka_unit_test(a_score_halves_in_a_half_life_and_outlives_the_slot),
        cmocka_unit_test(scores_stay_finite_for_ever),
        cmocka_unit_test(the_coldest_leaves_and_equals_by_slot),
        cmocka_unit_test(the_prior_counts_until_uses_outweigh_it),
        cmocka_unit_test(a_prompt_counts_its_end_most_and_fades_what_was_before),
        cmocka_unit_test(an_endless_prompt_does_not_overflow),
        cmocka_unit_test(held_and_loading_slots_never_leave),
        cmocka_unit_test(a_failed_load_frees_its_slot_once_nobody_holds_it),
        cmocka_unit_test(what_is_used_or_expected_now_leaves_last),
        cmocka_unit_test(an_expectation_for_an_absent_expert_covers_its_slot),
        cmocka_unit_test(look_ahead_leaves_the_last_tokens_alone),
        cmocka_unit_test(floors_hold_while_another_layer_has_more),
        cmocka_unit_test(background_fill_goes_by_score_then_by_layer),
        cmocka_unit_test(the_decode_set_survives_prompts),
        cmocka_unit_test(only_the_first_piece_of_a_prompt_fades_what_was_before),
        cmocka_unit_test(what_a_prompt_makes_warm_takes_the_place_of_what_it_leaves_cold),
        cmocka_unit_test(a_passing_expert_that_decode_uses_stays),
        cmocka_unit_test(a_full_ring_waits_for_its_own),
        cmocka_unit_test(random_operations_agree_with_the_model),
        cmocka_unit_test(the_same_calls_give_the_same_slots),
        cmocka_unit_test(the_smallest_caches_make_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

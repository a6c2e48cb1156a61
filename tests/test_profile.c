/* Profiles: distances beside their definition, hit rates beside a simulated cache, adding up, and files. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement/profile.h"
#include "tests/support/pattern_file.h"

enum { LAYERS = 3, EXPERTS = 40, USED = 4, TOKENS = 300 };

/* [TOKENS][LAYERS][USED] */
typedef int32_t choices[TOKENS][LAYERS][USED];

/* Distinct experts; small ids come often, and every layer has favourites of its own. */
static void draw_choices(uint64_t seed, choices out) {
    for (int t = 0; t < TOKENS; t++)
        for (int l = 0; l < LAYERS; l++)
            for (int i = 0; i < USED; i++) {
                bool taken = true;
                while (taken) {
                    const uint64_t limit = 1 + pattern_random(&seed, EXPERTS);
                    out[t][l][i] = (int32_t)((pattern_random(&seed, limit) + (uint64_t)l * 7) % EXPERTS);
                    taken = false;
                    for (int k = 0; k < i; k++) taken |= out[t][l][k] == out[t][l][i];
                }
            }
}

static struct profile_recorder *record(const choices c) {
    struct profile_recorder *r = NULL;
    struct reason why;
    assert_int_equal(profile_recorder_open(LAYERS, EXPERTS, USED, &r, &why), ERR_NONE);
    for (int t = 0; t < TOKENS; t++) {
        for (uint32_t l = 0; l < LAYERS; l++) profile_record(r, l, c[t][l]);
        profile_count_token(r);
    }
    return r;
}

static struct profile open_or_die(uint32_t layers, uint32_t experts, uint32_t used) {
    struct profile p;
    struct reason why = {""};
    if (profile_open(layers, experts, used, &p, &why) != ERR_NONE) fail_test("%s", why.text);
    return p;
}

static struct profile parse_or_die(const char *json) {
    struct profile p;
    struct reason why = {""};
    if (profile_parse(span_of(json), &p, &why) != ERR_NONE) fail_test("%s", why.text);
    return p;
}

/* ---- counting ------------------------------------------------------------------------------------------------------ */

/* When an expert was chosen last before token `before`: larger is later, and of one token's the best choice; 0: never. */
static int last_choice(const choices c, int layer, int expert, int before) {
    for (int t = before - 1; t >= 0; t--)
        for (int i = 0; i < USED; i++)
            if (c[t][layer][i] == expert) return t * USED + (USED - i);
    return 0;
}

/* By definition: the other experts chosen after it was. */
static int distance(const choices c, int layer, int expert, int token) {
    const int last = last_choice(c, layer, expert, token);
    int others = 0;
    if (!last) return EXPERTS;
    for (int e = 0; e < EXPERTS; e++) others += e != expert && last_choice(c, layer, e, token) > last;
    return others;
}

static void distances_follow_their_definition(void **state) {
    (void)state;
    static choices c;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        double counts[LAYERS][EXPERTS] = {0}, reuse[EXPERTS + 1] = {0};
        draw_choices(seed, c);
        for (int t = 0; t < TOKENS; t++)
            for (int l = 0; l < LAYERS; l++)
                for (int i = 0; i < USED; i++) {
                    counts[l][c[t][l][i]]++;
                    reuse[distance(c, l, c[t][l][i], t)]++;
                }
        struct profile_recorder *r = record(c);
        const struct profile *p = profile_recorded(r);
        assert_true(p->tokens == TOKENS);
        assert_memory_equal(p->counts, counts, sizeof counts);
        assert_memory_equal(p->reuse, reuse, sizeof reuse);
        profile_recorder_close(&r);
        assert_null(r);
    }
}

/* An LRU cache of `slots` for one layer; a token's experts are looked up and held together. Returns the hits. */
static int simulate_lru(const choices c, int layer, int slots) {
    int expert_in[EXPERTS], used_at[EXPERTS], n = 0, hits = 0;
    for (int t = 0; t < TOKENS; t++) {
        for (int i = 0; i < USED; i++) /* look up, hold */
            for (int s = 0; s < n; s++)
                if (expert_in[s] == c[t][layer][i]) {
                    hits++;
                    used_at[s] = (t + 1) * USED + (USED - i);
                }
        for (int i = 0; i < USED; i++) { /* read the missing */
            int at = 0, oldest = 0;
            while (at < n && expert_in[at] != c[t][layer][i]) at++;
            if (at < n) continue;
            for (int s = 1; s < n; s++)
                if (used_at[s] < used_at[oldest]) oldest = s;
            if (n < slots) oldest = n++;
            expert_in[oldest] = c[t][layer][i];
            used_at[oldest] = (t + 1) * USED + (USED - i);
        }
    }
    return hits;
}

static void hit_rates_are_those_of_an_lru_cache(void **state) {
    (void)state;
    static choices c;
    draw_choices(11, c);
    struct profile_recorder *r = record(c);
    const struct profile *p = profile_recorded(r);
    const double all = (double)TOKENS * LAYERS * USED;
    for (int slots = USED; slots <= EXPERTS; slots++) {
        int hits = 0;
        for (int l = 0; l < LAYERS; l++) hits += simulate_lru(c, l, slots);
        assert_true(profile_hit_rate(p, slots) == hits / all);
    }
    profile_recorder_close(&r);
}

static void hit_rates_between_and_beyond(void **state) {
    (void)state;
    struct profile p = open_or_die(1, 4, 2);
    assert_true(profile_hit_rate(&p, 3) == 0); /* nothing counted */
    const double reuse[] = {10, 20, 30, 0, 40};
    memcpy(p.reuse, reuse, sizeof reuse);
    assert_true(profile_hit_rate(&p, 0) == 0 && profile_hit_rate(&p, -1) == 0 && profile_hit_rate(&p, NAN) == 0);
    assert_true(profile_hit_rate(&p, 2) == 0.3);
    assert_true(profile_hit_rate(&p, 2.5) == 0.45);
    assert_true(profile_hit_rate(&p, 4) == 0.6 && profile_hit_rate(&p, 1e9) == 0.6); /* first choices never hit */
    profile_close(&p);
}

static void layers_need_not_keep_step(void **state) {
    (void)state;
    static choices c;
    draw_choices(5, c);
    struct profile_recorder *whole = record(c), *batched = NULL;
    struct reason why;
    assert_int_equal(profile_recorder_open(LAYERS, EXPERTS, USED, &batched, &why), ERR_NONE);
    for (int from = 0; from < TOKENS; from += 100) /* as a prompt's batches go: layer by layer */
        for (uint32_t l = 0; l < LAYERS; l++)
            for (int t = from; t < from + 100; t++) profile_record(batched, l, c[t][l]);
    const struct profile *a = profile_recorded(whole), *b = profile_recorded(batched);
    assert_memory_equal(a->counts, b->counts, sizeof(double) * LAYERS * EXPERTS);
    assert_memory_equal(a->reuse, b->reuse, sizeof(double) * (EXPERTS + 1));
    profile_recorder_close(&whole);
    profile_recorder_close(&batched);
}

static void impossible_shapes_are_refused(void **state) {
    (void)state;
    const uint32_t shapes[][3] = {
        {0, 4, 2}, {2, 0, 0}, {2, 4, 0}, {2, 4, 5}, {PROFILE_MAX_LAYERS + 1, 4, 2}, {2, PROFILE_MAX_EXPERTS + 1, 2}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct profile p;
        struct profile_recorder *r;
        struct reason why = {""};
        assert_int_equal(profile_open(shapes[i][0], shapes[i][1], shapes[i][2], &p, &why), ERR_ARGUMENT);
        assert_null(p.counts);
        assert_true(why.text[0]);
        assert_int_equal(profile_recorder_open(shapes[i][0], shapes[i][1], shapes[i][2], &r, &why), ERR_ARGUMENT);
        assert_null(r);
    }
}

/* ---- what it tells -------------------------------------------------------------------------------------------------- */

static void prior_leans_to_uniform_while_tokens_are_few(void **state) {
    (void)state;
    struct profile p = open_or_die(2, 8, 2);
    float prior[16];
    profile_prior(&p, prior);
    for (int i = 0; i < 16; i++) assert_true(prior[i] == 0.25f);
    p.tokens = 4; /* expert 0 always, the others of layer 0 now and then, layer 1 not at all */
    p.counts[0] = 4, p.counts[1] = 3, p.counts[2] = 1;
    profile_prior(&p, prior);
    assert_true(prior[0] == 5.f / 8 && prior[1] == 4.f / 8 && prior[2] == 2.f / 8 && prior[3] == 1.f / 8);
    float sum = 0;
    for (int i = 0; i < 8; i++) sum += prior[i];
    assert_true(sum == 2);
    for (int i = 0; i < 16; i++) p.counts[i] *= 1e6;
    p.tokens *= 1e6;
    profile_prior(&p, prior);
    assert_true(fabsf(prior[0] - 1) < 1e-5 && fabsf(prior[1] - 0.75f) < 1e-5 && prior[3] < 1e-5);
    profile_close(&p);
}

/* ---- adding up ------------------------------------------------------------------------------------------------------- */

static void runs_add_up_and_fade(void **state) {
    (void)state;
    struct reason why;
    struct profile a = open_or_die(1, 2, 1), b = open_or_die(1, 2, 1);
    a.tokens = 100, a.counts[0] = 99, a.counts[1] = 1, a.reuse[0] = 98, a.reuse[1] = 0, a.reuse[2] = 2;
    b.tokens = 10, b.counts[0] = 0, b.counts[1] = 10, b.reuse[0] = 9, b.reuse[2] = 1;
    assert_int_equal(profile_merge(&a, &b, 1, &why), ERR_NONE);
    assert_true(a.tokens == 110 && a.counts[0] == 99 && a.counts[1] == 11 && a.reuse[0] == 107 && a.reuse[2] == 3);
    assert_int_equal(profile_merge(&a, &b, 0.5, &why), ERR_NONE);
    assert_true(a.tokens == 65 && a.counts[0] == 49.5 && a.counts[1] == 15.5 && a.reuse[0] == 62.5 && a.reuse[2] == 2.5);
    for (int i = 0; i < 12; i++) assert_int_equal(profile_merge(&a, &b, 0.5, &why), ERR_NONE);
    assert_true(a.counts[0] == 0); /* forgotten, not an ever smaller fraction */
    assert_true(a.counts[1] > 19 && a.counts[1] <= a.tokens && a.tokens <= 20);
    assert_int_equal(profile_merge(&a, &b, 0, &why), ERR_NONE);
    assert_true(a.tokens == 10 && a.counts[1] == 10);
    profile_close(&a);
    profile_close(&b);
}

static void different_shapes_do_not_add_up(void **state) {
    (void)state;
    const uint32_t shapes[][3] = {{2, 4, 2}, {3, 5, 2}, {3, 4, 1}};
    struct profile a = open_or_die(3, 4, 2);
    a.tokens = 7;
    for (size_t i = 0; i < 3; i++) {
        struct reason why = {""};
        struct profile b = open_or_die(shapes[i][0], shapes[i][1], shapes[i][2]);
        assert_int_equal(profile_merge(&a, &b, 0.5, &why), ERR_ARGUMENT);
        assert_true(a.tokens == 7);
        assert_true(strstr(why.text, "3 layers of 4 experts"));
        profile_close(&b);
    }
    profile_close(&a);
}

/* ---- files ------------------------------------------------------------------------------------------------------------ */

static void what_is_written_reads_back(void **state) {
    (void)state;
    static choices c;
    draw_choices(3, c);
    struct profile_recorder *r = record(c);
    struct profile p = open_or_die(LAYERS, EXPERTS, USED), back;
    struct reason why = {""};
    struct text text = {0};
    snprintf(p.model, sizeof p.model, "Qwen\"3\" \xc3\xa9, 3 layers");
    for (int i = 0; i < 3; i++) assert_int_equal(profile_merge(&p, profile_recorded(r), 0.7, &why), ERR_NONE);
    profile_write(&p, &text);
    if (profile_parse((struct span){text.ptr, text.len}, &back, &why)) fail_test("%s", why.text);
    assert_string_equal(back.model, p.model);
    assert_int_equal(back.n_used, USED);
    assert_true(back.tokens == p.tokens);
    assert_memory_equal(back.counts, p.counts, sizeof(double) * LAYERS * EXPERTS);
    assert_memory_equal(back.reuse, p.reuse, sizeof(double) * (EXPERTS + 1));
    profile_close(&back);
    profile_close(&p);
    profile_recorder_close(&r);
    text_free(&text);
}

#define PROFILE(version, layers, experts, used, tokens, reuse, counts)                                                         \
    "{\"coldstream_profile\": " version ", \"model\": \"m\", \"layers\": " layers ", \"experts\": " experts                    \
    ", \"used\": " used ", \"tokens\": " tokens ", \"reuse\": " reuse ", \"counts\": " counts "}"

static void broken_files_are_refused_by_key(void **state) {
    (void)state;
    static const struct {
        const char *json, *says;
        enum err err;
    } cases[] = {
        {"", "JSON", ERR_FORMAT},
        {"[]", "coldstream_profile", ERR_FORMAT},
        {"{\"coldstream_facts\": 1}", "not a profile", ERR_FORMAT},
        {PROFILE("2", "1", "2", "1", "3", "[0,0,0]", "[[1,2]]"), "version 2", ERR_UNSUPPORTED},
        {PROFILE("1", "0", "2", "1", "3", "[0,0,0]", "[[1,2]]"), "layers must be", ERR_FORMAT},
        {PROFILE("1", "4097", "2", "1", "3", "[0,0,0]", "[[1,2]]"), "layers must be", ERR_FORMAT},
        {PROFILE("1", "1", "\"2\"", "1", "3", "[0,0,0]", "[[1,2]]"), "experts must be", ERR_FORMAT},
        {PROFILE("1", "1", "2", "3", "3", "[0,0,0]", "[[1,2]]"), "used must be", ERR_FORMAT},
        {PROFILE("1", "1", "2", "1", "-3", "[0,0,0]", "[[1,2]]"), "tokens must be", ERR_FORMAT},
        {PROFILE("1", "1", "2", "1", "1e16", "[0,0,0]", "[[1,2]]"), "tokens must be", ERR_FORMAT},
        {PROFILE("1", "1", "2", "1", "3", "[0,0]", "[[1,2]]"), "reuse must be a list of 3", ERR_FORMAT},
        {PROFILE("1", "1", "2", "1", "3", "[0,null,0]", "[[1,2]]"), "reuse[1]", ERR_FORMAT},
        {PROFILE("1", "1", "2", "1", "3", "[0,0,0]", "[[1,2],[1,2]]"), "counts must be a list of 1", ERR_FORMAT},
        {PROFILE("1", "2", "2", "1", "3", "[0,0,0]", "[[1,2],[1]]"), "counts[1] must be a list of 2", ERR_FORMAT},
        {PROFILE("1", "1", "2", "1", "3", "[0,0,0]", "[[1,-1]]"), "counts[0][1]", ERR_FORMAT},
        {PROFILE("1", "1", "2", "1", "3", "[0,0,0]", "[[4,1]]"), "counts[0][0]", ERR_FORMAT},
        {"{\"coldstream_profile\": 1, \"model\": 5, \"layers\": 1, \"experts\": 1, \"used\": 1, \"tokens\": 0, \"reuse\": [0, "
         "0], "
         "\"counts\": [[0]]}",
         "model must be a text", ERR_FORMAT},
        {"{\"coldstream_profile\": 1, \"model\": \"a\\nb\", \"layers\": 1, \"experts\": 1, \"used\": 1, \"tokens\": 0, "
         "\"reuse\": [0, 0], "
         "\"counts\": [[0]]}",
         "model must be a text", ERR_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct profile p;
        struct reason why = {""};
        assert_int_equal(profile_parse(span_of(cases[i].json), &p, &why), cases[i].err);
        if (!strstr(why.text, cases[i].says)) fail_test("case %zu says \"%s\", not \"%s\"", i, why.text, cases[i].says);
        assert_null(p.counts);
        assert_null(p.reuse);
    }
    struct profile good = parse_or_die(PROFILE("1", "1", "2", "1", "3", "[0,0,0]", "[[1,2]]"));
    assert_true(good.counts[1] == 2);
    profile_close(&good);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distances_follow_their_definition),
        cmocka_unit_test(hit_rates_are_those_of_an_lru_cache),
        cmocka_unit_test(hit_rates_between_and_beyond),
        cmocka_unit_test(layers_need_not_keep_step),
        cmocka_unit_test(impossible_shapes_are_refused),
        cmocka_unit_test(prior_leans_to_uniform_while_tokens_are_few),
        cmocka_unit_test(runs_add_up_and_fade),
        cmocka_unit_test(different_shapes_do_not_add_up),
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(broken_files_are_refused_by_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

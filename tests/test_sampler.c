/* The sampler: exact answers where there is one, frequencies against probabilities with fixed seeds where there is none. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/small_vocab.h"
#include "text/sampler.h"

static const struct sampling PLAIN = {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = 1};

static struct sampler *open_or_die(struct sampling settings, const struct tokenizer *t, size_t n) {
    struct sampler *s = NULL;
    struct reason why = {""};
    if (sampler_open(&settings, t, n, &s, &why) != ERR_NONE) fail_test("%s", why.text);
    return s;
}

static int32_t next_of(struct sampling settings, const float *logits, size_t n) {
    struct sampler *s = open_or_die(settings, NULL, n);
    const int32_t id = sampler_next(s, logits);
    sampler_close(&s);
    assert_null(s);
    return id;
}

static struct sampling greedy(void) {
    struct sampling s = PLAIN;
    s.temperature = 0;
    return s;
}

/* Bit i set: id i came out in many draws. A very high temperature makes the survivors of the cuts equally likely. */
static uint64_t survivors(struct sampling settings, const float *logits, size_t n) {
    settings.temperature = 1e6f;
    struct sampler *s = open_or_die(settings, NULL, n);
    uint64_t seen = 0;
    for (size_t i = 0; i < 60 * n; i++) seen |= UINT64_C(1) << sampler_next(s, logits);
    sampler_close(&s);
    return seen;
}

static uint64_t random_bits(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static void family_defaults(void **state) {
    (void)state;
    const struct {
        enum chat_family family;
        bool thinking;
        float temperature, top_p, repeat;
    } rows[] = {{CHAT_QWEN3, true, 0.6f, 0.95f, 1},           {CHAT_QWEN3, false, 0.7f, 0.8f, 1},
                {CHAT_QWEN3_2507, true, 0.7f, 0.8f, 1},       {CHAT_QWEN3_THINKING, false, 0.6f, 0.95f, 1},
                {CHAT_QWEN3_CODER, false, 0.7f, 0.8f, 1.05f}, {CHAT_QWEN3_CODER_TOOLS, true, 0.7f, 0.8f, 1.05f}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct sampling s = sampling_defaults(rows[i].family, rows[i].thinking);
        assert_true(s.temperature == rows[i].temperature && s.top_p == rows[i].top_p && s.repeat_penalty == rows[i].repeat);
        assert_true(s.top_k == 20 && s.min_p == 0 && s.presence_penalty == 0 && s.frequency_penalty == 0);
        assert_false(s.ignore_eos);
    }
}

static void greedy_takes_the_best(void **state) {
    (void)state;
    const float rising[] = {-3, -1, 4, 3.9f}, ties[] = {1, 7, 7, 7}, nans[] = {NAN, -5, NAN, -4};
    const float none[] = {NAN, -INFINITY, NAN}, infinite[] = {1, INFINITY, INFINITY}, low[] = {-INFINITY, -3e38f, -INFINITY};
    assert_int_equal(next_of(greedy(), rising, 4), 2);
    assert_int_equal(next_of(greedy(), ties, 4), 1);
    assert_int_equal(next_of(greedy(), nans, 4), 3);
    assert_int_equal(next_of(greedy(), none, 3), 0);
    assert_int_equal(next_of(greedy(), infinite, 3), 1);
    assert_int_equal(next_of(greedy(), low, 3), 1);
    struct sampling k1 = PLAIN;
    k1.top_k = 1;
    assert_int_equal(next_of(k1, ties, 4), 1);
}

static void bad_logits_never_crash_a_draw(void **state) {
    (void)state;
    const float values[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 0, 1};
    uint64_t random = 5;
    for (int round = 0; round < 3000; round++) {
        float logits[6];
        for (int i = 0; i < 6; i++) logits[i] = values[random_bits(&random) % 7];
        struct sampling s = PLAIN;
        s.temperature = round % 3 ? 1 : 1e-30f;
        s.top_k = round % 4;
        s.top_p = round % 5 ? 0.9f : 1;
        s.min_p = round % 2 ? 0.1f : 0;
        s.seed = (uint64_t)round;
        const int32_t id = next_of(s, logits, 6);
        assert_in_range(id, 0, 5);
        bool some = false; /* whatever can be chosen is never passed over for a NaN or -inf */
        for (int i = 0; i < 6; i++) some |= logits[i] > -INFINITY;
        if (some) assert_true(logits[id] > -INFINITY);
    }
}

static void infinite_logits_share_the_draw(void **state) {
    (void)state;
    const float logits[4] = {5, INFINITY, -INFINITY, INFINITY};
    struct sampling s = PLAIN;
    s.temperature = 1;
    struct sampler *sampler = open_or_die(s, NULL, 4);
    int seen = 0;
    for (int i = 0; i < 100; i++) seen |= 1 << sampler_next(sampler, logits);
    assert_int_equal(seen, 0xA);
    sampler_close(&sampler);
}

/* xoshiro256** with splitmix64 from the seed, written down from another implementation: a seed keeps its meaning. */
static void random_stream_is_the_published_one(void **state) {
    (void)state;
    const int32_t expected[12] = {21, 97, 174, 236, 253, 197, 184, 217, 194, 149, 174, 74};
    const float logits[256] = {0};
    struct sampling settings = PLAIN;
    settings.seed = 42;
    struct sampler *s = open_or_die(settings, NULL, 256);
    for (int i = 0; i < 12; i++) assert_int_equal(sampler_next(s, logits), expected[i]);
    sampler_close(&s);
}

static void frequencies_match_probabilities(void **state) {
    (void)state;
    const float logits[8] = {0, 1, 2, -1, 0.5f, 2, -4, 1.5f};
    const float temperatures[] = {1, 0.5f, 2};
    enum { DRAWS = 100000 };
    for (size_t t = 0; t < 3; t++)
        for (int path = 0; path < 3; path++) { /* all candidates; the heap of the seven best; the heap of all */
            struct sampling settings = PLAIN;
            settings.temperature = temperatures[t];
            settings.top_k = path == 1 ? 7 : 0;
            settings.top_p = path == 2 ? 0.9999999f : 1;
            struct sampler *s = open_or_die(settings, NULL, 8);
            int counts[8] = {0};
            for (int i = 0; i < DRAWS; i++) counts[sampler_next(s, logits)]++;
            sampler_close(&s);
            double total = 0;
            for (int i = 0; i < 8; i++) total += path == 1 && i == 6 ? 0 : exp((double)logits[i] / (double)temperatures[t]);
            for (int i = 0; i < 8; i++) {
                const double p = path == 1 && i == 6 ? 0 : exp((double)logits[i] / (double)temperatures[t]) / total;
                const double sigma = sqrt(DRAWS * p * (1 - p));
                assert_true(fabs(counts[i] - DRAWS * p) <= 4.5 * sigma);
            }
        }
}

static void top_k_keeps_the_best(void **state) {
    (void)state;
    const float logits[] = {1, 5, 3, 5, 4, 3, -INFINITY, NAN};
    struct sampling s = PLAIN;
    const uint64_t expected[] = {0, 0x02, 0x0A, 0x1A, 0x1E, 0x3E, 0x3F, 0x3F, 0x3F};
    for (s.top_k = 1; s.top_k <= 8; s.top_k++)
        assert_int_equal(survivors(s, logits, 8), s.top_k == 1 ? 0x02 : expected[s.top_k]);
    s.top_k = 0;
    assert_int_equal(survivors(s, logits, 8), 0x3F);
    s.top_k = -1;
    assert_int_equal(survivors(s, logits, 8), 0x3F);
    s.top_k = INT32_MAX;
    assert_int_equal(survivors(s, logits, 8), 0x3F);
}

static void top_p_and_min_p_cut_where_stated(void **state) {
    (void)state;
    float logits[5];
    const float p[5] = {0.05f, 0.5f, 0.15f, 0.3f, 1e-9f}; /* in order of size: ids 1, 3, 2, 0, 4 */
    for (int i = 0; i < 5; i++) logits[i] = logf(p[i]);
    for (int k = 0; k <= 4; k += 4) { /* without and with top-k: the two paths */
        struct sampling s = PLAIN;
        s.top_k = k;
        const struct {
            float top_p, min_p;
            uint64_t expected;
        } rows[] = {{0, 0, 2},           {0.49f, 0, 2},       {0.51f, 0, 0xA},   {0.79f, 0, 0xA},    {0.81f, 0, 0xE},
                    {0.96f, 0, 0xF},     {1, 0.5f, 0xA},      {1, 0.61f, 2},     {1, 0.25f, 0xE},    {1, 1, 2},
                    {0.96f, 0.25f, 0xE}, {0.51f, 0.01f, 0xA}, {0.6f, 0.9f, 0x2}, {0.96f, 0.05f, 0xF}};
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            s.top_p = rows[i].top_p;
            s.min_p = rows[i].min_p;
            assert_int_equal(survivors(s, logits, 5), rows[i].expected);
        }
    }
    const float equal[5] = {1, 1, 1, 1, -INFINITY}; /* reaching top-p exactly is enough; min-p keeps what equals it */
    for (int k = 0; k <= 4; k += 4) {
        const struct {
            float top_p, min_p;
            uint64_t expected;
        } rows[] = {{0.5f, 0, 0x3}, {0.75f, 0, 0x7}, {1, 1, 0xF}};
        for (size_t i = 0; i < 3; i++) {
            struct sampling s = PLAIN;
            s.top_k = k;
            s.top_p = rows[i].top_p;
            s.min_p = rows[i].min_p;
            assert_int_equal(survivors(s, equal, 5), rows[i].expected);
        }
    }
    struct sampling s = PLAIN; /* top-p looks at what top-k left: 0.5 of 0.8 */
    s.top_p = 0.6f;
    assert_int_equal(survivors(s, logits, 5), 0xA);
    s.top_k = 2;
    assert_int_equal(survivors(s, logits, 5), 0x2);
}

struct ranked {
    float logit;
    int id;
};

static int compare_ranked(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit) - (x->logit > y->logit) : x->id - y->id;
}

/* Sort everything, cut prefixes: the readable way. */
static uint64_t survivors_by_sorting(const struct sampling *s, const float *logits, int n) {
    struct ranked r[64];
    for (int i = 0; i < n; i++) r[i] = (struct ranked){logits[i], i};
    qsort(r, (size_t)n, sizeof *r, compare_ranked);
    const int k = s->top_k > 0 && s->top_k < n ? s->top_k : n;
    double total = 0, mass = 0;
    for (int i = 0; i < k; i++) total += exp((double)r[i].logit - (double)r[0].logit);
    uint64_t kept = 0;
    for (int i = 0; i < k; i++) {
        const double weight = exp((double)r[i].logit - (double)r[0].logit);
        if (i > 0 && (weight < (double)s->min_p || (s->top_p < 1 && mass >= (double)s->top_p * total))) break;
        mass += weight;
        kept |= UINT64_C(1) << r[i].id;
    }
    return kept;
}

static void cuts_agree_with_sorting(void **state) {
    (void)state;
    uint64_t random = 11;
    for (int round = 0; round < 400; round++) {
        const int n = 2 + (int)(random_bits(&random) % 62);
        float logits[64];
        for (int i = 0; i < n; i++) logits[i] = (float)(random_bits(&random) % 1000) / (round % 2 ? 100.f : 1000.f);
        struct sampling s = PLAIN;
        s.seed = (uint64_t)round;
        s.top_k = round % 3 ? (int32_t)(random_bits(&random) % 64) : 0;
        s.top_p = round % 4 ? (float)(random_bits(&random) % 1000) / 1000 : 1;
        s.min_p = round % 5 < 2 ? (float)(random_bits(&random) % 1000) / 1000 : 0;
        assert_int_equal(survivors(s, logits, (size_t)n), survivors_by_sorting(&s, logits, n));
    }
}

static void top_k_of_a_full_vocabulary(void **state) {
    (void)state;
    enum { N = 151936 };
    float *logits = malloc(N * sizeof *logits);
    uint64_t random = 3;
    for (int i = 0; i < N; i++) logits[i] = (float)(random_bits(&random) % 100000) / 10000;
    const int32_t best[] = {7, 70000, 151935};
    for (int i = 0; i < 3; i++) logits[best[i]] = 11 + (float)i;
    struct sampling settings = PLAIN;
    settings.top_k = 3;
    settings.temperature = 1e6f;
    struct sampler *s = open_or_die(settings, NULL, N);
    int counts[3] = {0};
    for (int i = 0; i < 60; i++) {
        const int32_t id = sampler_next(s, logits);
        const int which = id == best[0] ? 0 : id == best[1] ? 1 : 2;
        assert_int_equal(id, best[which]);
        counts[which]++;
    }
    assert_true(counts[0] && counts[1] && counts[2]);
    sampler_close(&s);
    free(logits);
}

/* Which of ids 0 and 1 wins after `history`, when id 0 has logit x and id 1 has y. */
static int32_t duel(struct sampling settings, float x, float y, const int32_t *history, size_t n) {
    const float logits[4] = {x, y, -100, -100};
    settings.temperature = 0;
    struct sampler *s = open_or_die(settings, NULL, 4);
    for (size_t i = 0; i < n; i++) sampler_accept(s, history[i]);
    const int32_t id = sampler_next(s, logits);
    sampler_close(&s);
    return id;
}

static void penalties(void **state) {
    (void)state;
    const int32_t zeros[] = {0, 0, 0}, old[] = {0, 2, 3}, strange[] = {-1, 4, INT32_MAX, 0};
    struct sampling s = PLAIN;
    s.repeat_last_n = 64;
    s.repeat_penalty = 1.25f; /* 2 -> 1.6 whatever the count; -2 -> -2.5 */
    assert_int_equal(duel(s, 2, 1.61f, zeros, 3), 1);
    assert_int_equal(duel(s, 2, 1.59f, zeros, 3), 0);
    assert_int_equal(duel(s, -2, -2.49f, zeros, 1), 1);
    assert_int_equal(duel(s, -2, -2.51f, zeros, 1), 0);
    assert_int_equal(duel(s, 2, 1.99f, zeros, 0), 0);
    assert_int_equal(duel(s, 2, 1.61f, strange, 4), 1); /* ids outside the vocabulary are passed over */

    s = PLAIN;
    s.repeat_last_n = 64;
    s.presence_penalty = 0.5f; /* once, whatever the count */
    assert_int_equal(duel(s, 2, 1.51f, zeros, 3), 1);
    assert_int_equal(duel(s, 2, 1.49f, zeros, 3), 0);
    s.frequency_penalty = 0.25f; /* 2 - 0.5 - 3 * 0.25 = 0.75 */
    assert_int_equal(duel(s, 2, 0.76f, zeros, 3), 1);
    assert_int_equal(duel(s, 2, 0.74f, zeros, 3), 0);
    s.repeat_penalty = 2; /* the division comes first: 1 - 1.25 = -0.25 */
    assert_int_equal(duel(s, 2, -0.24f, zeros, 3), 1);
    assert_int_equal(duel(s, 2, -0.26f, zeros, 3), 0);

    s = PLAIN;
    s.presence_penalty = 1;
    for (s.repeat_last_n = -1; s.repeat_last_n <= 4; s.repeat_last_n++) /* 0: off; 1 and 2: id 0 has left the window */
        assert_int_equal(duel(s, 2, 1.5f, old, 3), s.repeat_last_n == -1 || s.repeat_last_n >= 3 ? 1 : 0);
}

static void window_counts_stay_right(void **state) {
    (void)state;
    struct sampling settings = PLAIN;
    settings.temperature = 0;
    settings.frequency_penalty = 1;
    settings.repeat_last_n = 7;
    struct sampler *s = open_or_die(settings, NULL, 5);
    uint64_t random = 9;
    int32_t last[7];
    for (int step = 0; step < 5000; step++) {
        const int32_t id = (int32_t)(random_bits(&random) % 5);
        last[step % 7] = id;
        sampler_accept(s, id);
        float logits[5] = {0.4f, 0.3f, 0.2f, 0.1f, 0};
        int expected = 0;
        float best = -100;
        for (int i = 0; i < 5; i++) {
            float x = logits[i];
            for (int j = 0; j < 7 && j <= step; j++) x -= last[j] == i;
            if (x > best) best = x, expected = i;
        }
        assert_int_equal(sampler_next(s, logits), expected);
    }
    sampler_close(&s);
}

static void bias_bans_and_forces(void **state) {
    (void)state;
    const float logits[4] = {1, 2, 3, 4};
    const struct logit_bias ban[] = {{3, -INFINITY}, {2, -1.5f}}, force[] = {{0, 100}}, infinite[] = {{0, INFINITY}};
    const struct logit_bias all[] = {{0, -INFINITY}, {1, -INFINITY}, {2, -INFINITY}, {3, -INFINITY}};
    struct sampling s = greedy();
    s.bias = ban;
    s.n_bias = 2;
    assert_int_equal(next_of(s, logits, 4), 1);
    s.temperature = 1e6f;
    assert_int_equal(survivors(s, logits, 4), 0x7);
    s.bias = force;
    s.n_bias = 1;
    s.temperature = 1;
    assert_int_equal(next_of(s, logits, 4), 0);
    s.bias = infinite;
    assert_int_equal(next_of(s, logits, 4), 0);
    s.bias = all;
    s.n_bias = 4;
    assert_int_equal(next_of(s, logits, 4), 0);
}

static void seeds_decide(void **state) {
    (void)state;
    float logits[50];
    for (int i = 0; i < 50; i++) logits[i] = (float)i / 50;
    const float before = logits[7];
    struct sampling settings = PLAIN;
    struct sampler *a = open_or_die(settings, NULL, 50), *b = open_or_die(settings, NULL, 50);
    settings.seed = 2;
    struct sampler *c = open_or_die(settings, NULL, 50);
    int differ = 0;
    for (int i = 0; i < 200; i++) {
        const int32_t id = sampler_next(a, logits);
        assert_int_equal(id, sampler_next(b, logits));
        differ += id != sampler_next(c, logits);
    }
    assert_true(differ > 150);
    assert_true(logits[7] == before);
    sampler_close(&a);
    sampler_close(&b);
    sampler_close(&c);
}

static void unused_and_end_ids(void **state) {
    (void)state;
    static struct small_vocab vocab;
    struct tokenizer *t = NULL;
    struct reason why;
    small_vocab_fill(&vocab);
    assert_int_equal(tokenizer_open(&vocab.source, &t, &why), ERR_NONE);
    const size_t n = vocab.source.n_tokens, rows = n + 3; /* a model with more rows than tokens */
    float *logits = calloc(rows, sizeof *logits);
    for (size_t i = n - 2; i < rows; i++) logits[i] = 9;
    const int32_t end = tokenizer_find(t, SPAN("<|im_end|>"));
    logits[end] = logits[vocab.source.eos] = 5;

    struct sampling settings = greedy();
    struct sampler *s = open_or_die(settings, t, rows);
    assert_int_equal(sampler_next(s, logits), vocab.source.eos < end ? vocab.source.eos : end);
    sampler_close(&s);
    settings.ignore_eos = true;
    s = open_or_die(settings, t, rows);
    assert_int_equal(sampler_next(s, logits), 0);
    sampler_close(&s);
    settings.temperature = 1;
    s = open_or_die(settings, t, rows);
    for (int i = 0; i < 2000; i++) {
        const int32_t id = sampler_next(s, logits);
        assert_true((size_t)id < n - 2 && !tokenizer_is_end(t, id));
    }
    sampler_close(&s);
    free(logits);
    tokenizer_close(&t);
}

static void bad_settings_are_refused(void **state) {
    (void)state;
    const struct logit_bias outside = {4, 1}, negative = {-1, 1}, nan_bias = {0, NAN};
    struct sampling bad[11];
    for (int i = 0; i < 11; i++) bad[i] = PLAIN;
    bad[0].temperature = NAN;
    bad[1].top_p = -0.1f;
    bad[2].top_p = NAN;
    bad[3].min_p = 1.5f;
    bad[4].repeat_penalty = 0;
    bad[5].presence_penalty = INFINITY;
    bad[6].frequency_penalty = NAN;
    bad[7].repeat_last_n = -2;
    bad[8].bias = &outside;
    bad[9].bias = &negative;
    bad[10].bias = &nan_bias;
    for (int i = 8; i < 11; i++) bad[i].n_bias = 1;
    for (int i = 0; i < 11; i++) {
        struct sampler *s = NULL;
        struct reason why = {""};
        assert_int_equal(sampler_open(&bad[i], NULL, 4, &s, &why), ERR_ARGUMENT);
        assert_null(s);
        assert_true(strlen(why.text) > 10);
    }
    struct sampler *s = NULL;
    assert_int_equal(sampler_open(&PLAIN, NULL, 0, &s, NULL), ERR_ARGUMENT);
    sampler_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(family_defaults),
        cmocka_unit_test(greedy_takes_the_best),
        cmocka_unit_test(bad_logits_never_crash_a_draw),
        cmocka_unit_test(infinite_logits_share_the_draw),
        cmocka_unit_test(random_stream_is_the_published_one),
        cmocka_unit_test(frequencies_match_probabilities),
        cmocka_unit_test(top_k_keeps_the_best),
        cmocka_unit_test(top_p_and_min_p_cut_where_stated),
        cmocka_unit_test(cuts_agree_with_sorting),
        cmocka_unit_test(top_k_of_a_full_vocabulary),
        cmocka_unit_test(penalties),
        cmocka_unit_test(window_counts_stay_right),
        cmocka_unit_test(bias_bans_and_forces),
        cmocka_unit_test(seeds_decide),
        cmocka_unit_test(unused_and_end_ids),
        cmocka_unit_test(bad_settings_are_refused),
    };
    return cmocka_run_group_tests_name("sampler", tests, NULL, NULL);
}

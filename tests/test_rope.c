/* Rotary positions up to 1,048,576, plain, linear and YaRN: frequencies and whole logits against transformers (tests/golden/rope),
 * angles against long double, and what flags make of a file's positions. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "cpu/cpu.h"
#include "engine/engine.h"
#include "engine/rope.h"

enum { MAX_HALF = 64, MILLION = 1048576 };

static void *read_file(const char *path, size_t *n_bytes) {
    FILE *f = fopen(path, "rb");
    if (!f) fail_test("%s cannot be read", path);
    char *bytes = malloc(1 << 20);
    assert_non_null(bytes);
    *n_bytes = fread(bytes, 1, 1 << 20, f);
    fclose(f);
    return bytes;
}

/* ---- frequencies ---------------------------------------------------------------------------------------------------- */

static double number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) fail_test("yarn.json: no number '%s'", key);
    return json_number_value(value);
}

/* As model/hf_config.c reads "attention_factor", which is the whole of it. */
static float attn_factor_of(const json_t *c) {
    const double factor = number(c, "factor"), own = factor > 1 ? 1 + 0.1 * log(factor) : 1;
    if (json_is_number(json_object_get(c, "attn_factor"))) return (float)number(c, "attn_factor");
    return json_is_number(json_object_get(c, "attention")) ? (float)(number(c, "attention") / own) : 1;
}

static struct model_shape shape_of(const json_t *c) {
    return (struct model_shape){.head_dim = (uint32_t)number(c, "head_dim"),
                                .rope_scaling = ROPE_YARN,
                                .rope_base = (float)number(c, "base"),
                                .rope_factor = (float)number(c, "factor"),
                                .rope_original_context = (uint64_t)number(c, "original"),
                                .rope_attn_factor = attn_factor_of(c),
                                .rope_ext_factor = (float)number(c, "ext"),
                                .rope_beta_fast = (float)number(c, "beta_fast"),
                                .rope_beta_slow = (float)number(c, "beta_slow")};
}

static void frequencies_are_those_of_transformers(void **state) {
    (void)state;
    size_t bytes;
    char *text = read_file(TESTS_DIR "/golden/rope/yarn.json", &bytes);
    json_t *root, *c;
    struct reason why;
    size_t i;
    double worst = 0;
    if (json_read((struct span){text, bytes}, &root, &why)) fail_test("%s", why.text);
    const json_t *cases = json_object_get(root, "cases");
    assert_true(json_array_size(cases) >= 10);
    json_array_foreach(cases, i, c) {
        const struct model_shape s = shape_of(c);
        const json_t *wanted = json_object_get(c, "frequency");
        double frequency[MAX_HALF];
        float magnitude;
        assert_int_equal(json_array_size(wanted), s.head_dim / 2);
        rope_frequencies(&s, frequency, &magnitude);
        for (uint32_t r = 0; r < s.head_dim / 2; r++) {
            const double want = json_number_value(json_array_get(wanted, r)), off = fabs(frequency[r] / want - 1);
            worst = fmax(worst, off);
            if (!(off < 1e-14))
                fail_test("%s: frequency %u is %.17g, not %.17g", json_string_value(json_object_get(c, "name")), r, frequency[r], want);
        }
        if (!(fabs(magnitude / number(c, "magnitude") - 1) < 1.3e-7))
            fail_test("%s: magnitude %.9g, not %.9g", json_string_value(json_object_get(c, "name")), (double)magnitude, number(c, "magnitude"));
    }
    print_message("  %zu configurations, frequencies at most %.1e off\n", json_array_size(cases), worst);
    json_decref(root);
    free(text);
}

/* ---- angles ----------------------------------------------------------------------------------------------------------- */

static const struct model_shape yarn_to_a_million = {.head_dim = 128, .rope_scaling = ROPE_YARN, .rope_base = 1e7f, .rope_factor = 4,
                                                     .rope_original_context = 262144, .rope_attn_factor = 1, .rope_ext_factor = 1,
                                                     .rope_beta_fast = 32, .rope_beta_slow = 1};
static const struct model_shape plain = {.head_dim = 128, .rope_base = 1e6f, .rope_factor = 1, .rope_original_context = 40960,
                                         .rope_attn_factor = 1, .rope_beta_fast = 32, .rope_beta_slow = 1};

/* The frequency of a pair with 64 bits: its own rounding to double counts as an error of ours. */
static long double exact_frequency(const struct model_shape *s, uint32_t r) {
    const long double theta = powl(s->rope_base, -2.0L * r / s->head_dim);
    if (s->rope_factor == 1) return theta;
    const long double turns = s->head_dim / (2 * logl(s->rope_base));
    const long double low = floorl(turns * logl((long double)s->rope_original_context / (2 * M_PIl * s->rope_beta_fast))),
                      high = ceill(turns * logl((long double)s->rope_original_context / (2 * M_PIl * s->rope_beta_slow)));
    const long double ramp = fminl(1, fmaxl(0, (r - low) / (high - low)));
    return theta * (1 - ramp) + theta / s->rope_factor * ramp;
}

static void angles_are_exact_at_a_million(void **state) {
    (void)state;
    static const uint64_t positions[] = {0, 1, 1000, 32767, 131072, 262143, 262144, 524289, 999983, MILLION - 1, MILLION};
    static const struct model_shape *const shapes[] = {&plain, &yarn_to_a_million};
    double worst = 0, worst_float = 0;
    for (size_t k = 0; k < 2; k++) {
        double frequency[MAX_HALF];
        float magnitude, c[MAX_HALF], s[MAX_HALF];
        rope_frequencies(shapes[k], frequency, &magnitude);
        for (size_t p = 0; p < sizeof positions / sizeof *positions; p++) {
            rope_angles(frequency, MAX_HALF, magnitude, positions[p], c, s);
            for (uint32_t r = 0; r < MAX_HALF; r++) {
                const long double angle = positions[p] * exact_frequency(shapes[k], r);
                worst = fmax(worst, fabs((double)(c[r] - cosl(angle) * magnitude)));
                worst = fmax(worst, fabs((double)(s[r] - sinl(angle) * magnitude)));
                const float in_float = (float)positions[p] * (float)frequency[r];
                worst_float = fmax(worst_float, fabs((double)(cosl(in_float) - cosl(angle))));
            }
        }
    }
    print_message("  cos and sin at most %.2e off; with angles in binary32 %.2e\n", worst, worst_float);
    assert_true(worst < 0x1p-24 + 1e-9); /* half an ulp of values up to 1.14, and the angle's */
    assert_true(worst_float > 1e-3);     /* what the doubles are for */
}

static float random_value(uint32_t *state) { return (float)((*state = *state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1; }

/* A score depends on how far apart query and key are, not on where. */
static void scores_depend_on_the_distance_alone(void **state) {
    (void)state;
    static const uint64_t distances[] = {0, 1, 77, 4096, 100000};
    uint32_t random = 5;
    double frequency[MAX_HALF], worst = 0;
    float magnitude, q[2 * MAX_HALF], k[2 * MAX_HALF], c[MAX_HALF], s[MAX_HALF];
    struct cpu_ops ops;
    cpu_ops_init(&ops, cpu_isa_best());
    rope_frequencies(&yarn_to_a_million, frequency, &magnitude);
    for (size_t d = 0; d < sizeof distances / sizeof *distances; d++) {
        float query[2 * MAX_HALF], key[2 * MAX_HALF];
        double score[2] = {0}, norms[2] = {0};
        for (int i = 0; i < 2 * MAX_HALF; i++) query[i] = random_value(&random), key[i] = random_value(&random);
        for (int far = 0; far < 2; far++) {
            const uint64_t at = far ? MILLION - 1 - distances[d] : 0;
            memcpy(q, query, sizeof q), memcpy(k, key, sizeof k);
            rope_angles(frequency, MAX_HALF, magnitude, at + distances[d], c, s);
            ops.rope(q, c, s, MAX_HALF);
            rope_angles(frequency, MAX_HALF, magnitude, at, c, s);
            ops.rope(k, c, s, MAX_HALF);
            for (int i = 0; i < 2 * MAX_HALF; i++) score[far] += (double)q[i] * k[i], norms[0] += q[i] * q[i], norms[1] += k[i] * k[i];
        }
        worst = fmax(worst, fabs(score[0] - score[1]) / sqrt(norms[0] / 2 * (norms[1] / 2)));
    }
    print_message("  a score near 0 and near a million: %.1e of |q||k| apart\n", worst);
    assert_true(worst < 5e-7);
}

/* ---- logits ----------------------------------------------------------------------------------------------------------- */

struct collected {
    float logits[40 * 272];
    uint64_t next;
};

static void collect(void *ctx, uint64_t position, const float *logits) {
    struct collected *c = ctx;
    assert_int_equal(position, c->next);
    memcpy(c->logits + 272 * c->next++, logits, 272 * sizeof *logits);
}

static void logits_are_those_of_transformers(void **state) {
    (void)state;
    static const struct {
        const char *name;
        struct rope_override rope;
    } cases[] = {
        {"yarn", {.has_scaling = true, .scaling = ROPE_YARN, .factor = 4, .original_context = 64}},
        {"yarn_betas", {.has_scaling = true, .scaling = ROPE_YARN, .factor = 8, .original_context = 64, .beta_fast = 4, .beta_slow = 0.5f,
                        .attn_factor = 1.05f / 1.2079442f}},
        {"linear", {.factor = 4}},
    };
    static struct collected got;
    size_t bytes;
    int32_t *tokens = read_file(TESTS_DIR "/golden/hf_tiny/tokens.i32", &bytes);
    assert_int_equal(bytes, 40 * 4);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[512];
        snprintf(path, sizeof path, TESTS_DIR "/golden/rope/logits_%s.f32", cases[i].name);
        float *want = read_file(path, &bytes);
        assert_int_equal(bytes, sizeof got.logits);
        const struct engine_options o = {.model_path = TESTS_DIR "/golden/hf_tiny/hf_tiny.gguf", .threads = 2, .ubatch = 16, .device = "cpu",
                                         .kv_f32 = true, .rope = cases[i].rope};
        struct engine *e;
        struct session *s;
        struct reason why;
        if (engine_open(&o, &e, &why)) fail_test("%s", why.text);
        if (session_open(e, 40, &s, &why)) fail_test("%s", why.text);
        got.next = 0;
        struct eval eval = {.tokens = tokens, .n = 40, .on_logits = collect, .ctx = &got};
        if (session_eval(s, &eval, NULL, &why)) fail_test("%s", why.text);
        double worst = 0, largest = 0;
        for (size_t j = 0; j < 40 * 272; j++) worst = fmax(worst, fabs((double)got.logits[j] - want[j])), largest = fmax(largest, fabs(want[j]));
        print_message("  %s: %.1e of the largest logit\n", cases[i].name, worst / largest);
        assert_true(worst / largest < 1e-4);
        session_close(&s);
        engine_close(&e);
        free(want);
    }
    free(tokens);
}

/* ---- flags over files ------------------------------------------------------------------------------------------------------ */

/* A model as Qwen3-2507, and one whose file scales already: 4 times 32768. */
static struct model file_of(bool scaled) {
    struct model m = {.shape = plain};
    m.shape.n_layers = 1;
    m.shape.context_length = scaled ? 131072 : 262144;
    m.shape.rope_original_context = scaled ? 32768 : 262144;
    if (scaled) m.shape.rope_scaling = ROPE_YARN, m.shape.rope_factor = 4, m.shape.rope_ext_factor = 1;
    return m;
}

static void flags_override_the_file(void **state) {
    (void)state;
    static const struct {
        bool scaled;
        struct rope_override o;
        enum rope_scaling scaling;
        float factor, ext;
        uint64_t context;
    } cases[] = {
        {false, {0}, ROPE_NONE, 1, 0, 262144},
        {true, {0}, ROPE_YARN, 4, 1, 131072},
        {false, {.has_scaling = true, .scaling = ROPE_YARN, .factor = 4}, ROPE_YARN, 4, 1, 1048576},
        {false, {.factor = 2}, ROPE_LINEAR, 2, 0, 524288},
        {false, {.has_scaling = true, .scaling = ROPE_YARN}, ROPE_YARN, 1, 1, 262144},
        {false, {.has_scaling = true, .scaling = ROPE_LINEAR}, ROPE_NONE, 1, 0, 262144},
        {false, {.has_scaling = true, .scaling = ROPE_YARN, .factor = 4, .original_context = 131072}, ROPE_YARN, 4, 1, 524288},
        {false, {.has_scaling = true, .scaling = ROPE_YARN, .factor = 4, .original_context = 1024}, ROPE_YARN, 4, 1, 262144},
        {false, {.has_scaling = true, .scaling = ROPE_YARN, .factor = 4, .has_ext_factor = true, .ext_factor = 0.5f}, ROPE_YARN, 4, 0.5f, 1048576},
        {false, {.factor = 0.5f}, ROPE_LINEAR, 0.5f, 0, 262144},
        {false, {.base = 5e6f}, ROPE_NONE, 1, 0, 262144},
        {true, {.base = 5e6f}, ROPE_YARN, 4, 1, 131072},
        {true, {.has_scaling = true, .scaling = ROPE_NONE}, ROPE_NONE, 1, 0, 32768},
        {true, {.has_scaling = true, .scaling = ROPE_LINEAR}, ROPE_LINEAR, 4, 0, 131072},
        {true, {.factor = 8}, ROPE_YARN, 8, 1, 262144},
        {false, {.factor = 1e6f}, ROPE_LINEAR, 1e6f, 0, MODEL_MAX_POSITIONS},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model m = file_of(cases[i].scaled);
        struct reason why;
        if (model_override_rope(&m, &cases[i].o, &why)) fail_test("case %zu: %s", i, why.text);
        const struct model_shape *s = &m.shape;
        if (s->rope_scaling != cases[i].scaling || s->rope_factor != cases[i].factor || s->rope_ext_factor != cases[i].ext ||
            s->context_length != cases[i].context)
            fail_test("case %zu: scaling %d by %g, ext %g, context %llu", i, s->rope_scaling, (double)s->rope_factor, (double)s->rope_ext_factor,
                      (unsigned long long)s->context_length);
        assert_true(s->rope_base == (cases[i].o.base > 0 ? cases[i].o.base : 1e6f));
    }
    struct model vocabulary = {0};
    struct reason why;
    assert_int_equal(model_override_rope(&vocabulary, &(struct rope_override){.factor = 4}, &why), ERR_NONE);
}

static void values_that_cannot_be_are_refused(void **state) {
    (void)state;
    static const struct {
        struct rope_override o;
        const char *says;
    } cases[] = {
        {{.factor = 1e-9f}, "RoPE scale"},     {{.factor = NAN}, "RoPE scale"},        {{.factor = INFINITY}, "RoPE scale"},
        {{.base = 1}, "frequency base"},       {{.base = -5}, "frequency base"},       {{.base = INFINITY}, "frequency base"},
        {{.attn_factor = -1}, "attention"},    {{.attn_factor = NAN}, "attention"},    {{.beta_fast = 0.5f}, "beta"},
        {{.beta_slow = 33}, "beta"},           {{.beta_slow = -1}, "beta"},            {{.has_ext_factor = true, .ext_factor = 2}, "extrapolation"},
        {{.has_ext_factor = true, .ext_factor = -1}, "extrapolation"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model m = file_of(false);
        const struct model_shape before = m.shape;
        struct reason why;
        if (model_override_rope(&m, &cases[i].o, &why) != ERR_ARGUMENT || !strstr(why.text, cases[i].says)) fail_test("case %zu: %s", i, why.text);
        assert_memory_equal(&m.shape, &before, sizeof before); /* as it was */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frequencies_are_those_of_transformers), cmocka_unit_test(angles_are_exact_at_a_million),
        cmocka_unit_test(scores_depend_on_the_distance_alone),   cmocka_unit_test(logits_are_those_of_transformers),
        cmocka_unit_test(flags_override_the_file),               cmocka_unit_test(values_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

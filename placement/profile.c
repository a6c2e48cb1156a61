/* Profiles: counting experts while a model runs, adding runs up, and profile files.
 *
 *     {"coldstream_profile": 1, "model": TEXT, "layers": N, "experts": N, "used": N, "tokens": X,
 *      "reuse": [X, one a distance from 0 to experts],
 *      "counts": [[X, one an expert], one a layer]}
 *
 * All keys are required, others are ignored; X is a number >= 0, and no expert was chosen more often than there were tokens.
 *
 * Distances come from one list a layer, the expert chosen last in front (Mattson 1970): an expert's place in it is the number
 * of others chosen since. The experts of one token are looked up together, in the list as the token before left it, and then go
 * to the front, the best choice first: the engine holds those that are here while it reads the others, so that a token never
 * drives out its own experts. With at least n_used slots this is exactly an LRU cache of one layer that begins empty. Nothing
 * here touches files or locks. */
#include "placement/profile.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"

static const double max_count = 1e15; /* sums stay exact, and finite whatever is added up */
static const double fade_grain = 1.0 / 16; /* what fading leaves is cut to this: short files, and an end to forgetting */

/* ---- shape ------------------------------------------------------------------------------------------------------ */

static size_t n_counts(const struct profile *p) { return (size_t)p->n_layers * p->n_experts; }

enum err profile_open(uint32_t n_layers, uint32_t n_experts, uint32_t n_used, struct profile *out, struct reason *why) {
    *out = (struct profile){.n_layers = n_layers, .n_experts = n_experts, .n_used = n_used};
    if (n_layers < 1 || n_layers > PROFILE_MAX_LAYERS || n_experts < 1 || n_experts > PROFILE_MAX_EXPERTS || n_used < 1 ||
        n_used > n_experts) {
        *out = (struct profile){0};
        return fail(why, ERR_ARGUMENT, "a profile cannot count %" PRIu32 " of %" PRIu32 " experts in %" PRIu32 " layers",
                    n_used, n_experts, n_layers);
    }
    out->counts = calloc_checked(n_counts(out), sizeof *out->counts);
    out->reuse = calloc_checked((uint64_t)n_experts + 1, sizeof *out->reuse);
    if (out->counts && out->reuse) return ERR_NONE;
    profile_close(out);
    return fail(why, ERR_NO_MEMORY, "no memory for the counts of %zu experts", (size_t)n_layers * n_experts);
}

void profile_close(struct profile *p) {
    free(p->counts);
    free(p->reuse);
    *p = (struct profile){0};
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static enum err read_whole(const json_t *root, const char *key, uint32_t max, uint32_t *out, struct reason *why) {
    const json_t *value = json_object_get(root, key);
    const json_int_t n = json_is_integer(value) ? json_integer_value(value) : 0;
    if (n < 1 || n > (json_int_t)max) return fail(why, ERR_FORMAT, "%s must be a whole number from 1 to %" PRIu32, key, max);
    *out = (uint32_t)n;
    return ERR_NONE;
}

static bool read_count(const json_t *value, double max, double *out) {
    const double x = json_is_number(value) ? json_number_value(value) : -1;
    *out = x == 0 ? 0 : x; /* never -0.0: it would not read back */
    return x >= 0 && x <= max;
}

static enum err read_model(const json_t *root, struct profile *p, struct reason *why) {
    struct span s;
    bool ok = json_span(json_object_get(root, "model"), &s) && s.len < sizeof p->model;
    for (size_t i = 0; ok && i < s.len; i++) ok = (unsigned char)s.ptr[i] >= 0x20 && s.ptr[i] != 0x7f;
    if (!ok)
        return fail(why, ERR_FORMAT, "model must be a text of at most %zu bytes, without control characters",
                    sizeof p->model - 1);
    memcpy(p->model, s.ptr, s.len);
    return ERR_NONE;
}

static enum err check_length(const json_t *list, size_t length, const char *what, const char *unit, struct reason *why) {
    if (json_is_array(list) && json_array_size(list) == length) return ERR_NONE;
    return fail(why, ERR_FORMAT, "%s must be a list of %zu %s", what, length, unit);
}

static enum err read_reuse(const json_t *list, struct profile *p, struct reason *why) {
    for (uint32_t i = 0; i <= p->n_experts; i++)
        if (!read_count(json_array_get(list, i), max_count, &p->reuse[i]))
            return fail(why, ERR_FORMAT, "reuse[%" PRIu32 "] must be a number from 0 to %g", i, max_count);
    return ERR_NONE;
}

static enum err read_layer(const json_t *list, uint32_t layer, struct profile *p, struct reason *why) {
    double *counts = p->counts + (size_t)layer * p->n_experts;
    for (uint32_t e = 0; e < p->n_experts; e++)
        if (!read_count(json_array_get(list, e), p->tokens, &counts[e]))
            return fail(why, ERR_FORMAT, "counts[%" PRIu32 "][%" PRIu32 "] must be a number from 0 to tokens (%g)", layer, e,
                        p->tokens);
    return ERR_NONE;
}

/* Every list has its length before anything is allocated by the shape the file claims. */
static enum err read_profile(const json_t *root, struct profile *out, struct reason *why) {
    uint32_t n_layers = 0, n_experts = 0, n_used = 0;
    TRY(read_whole(root, "layers", PROFILE_MAX_LAYERS, &n_layers, why));
    TRY(read_whole(root, "experts", PROFILE_MAX_EXPERTS, &n_experts, why));
    TRY(read_whole(root, "used", n_experts, &n_used, why));
    const json_t *reuse = json_object_get(root, "reuse"), *counts = json_object_get(root, "counts");
    TRY(check_length(reuse, (size_t)n_experts + 1, "reuse", "numbers", why));
    TRY(check_length(counts, n_layers, "counts", "lists", why));
    for (uint32_t l = 0; l < n_layers; l++) {
        char name[32];
        snprintf(name, sizeof name, "counts[%" PRIu32 "]", l);
        TRY(check_length(json_array_get(counts, l), n_experts, name, "numbers", why));
    }
    TRY(profile_open(n_layers, n_experts, n_used, out, why));
    TRY(read_model(root, out, why));
    if (!read_count(json_object_get(root, "tokens"), max_count, &out->tokens))
        return fail(why, ERR_FORMAT, "tokens must be a number from 0 to %g", max_count);
    TRY(read_reuse(reuse, out, why));
    for (uint32_t l = 0; l < n_layers; l++) TRY(read_layer(json_array_get(counts, l), l, out, why));
    return ERR_NONE;
}

enum err profile_parse(struct span json, struct profile *out, struct reason *why) {
    json_t *root;
    *out = (struct profile){0};
    TRY(json_read(json, &root, why));
    const json_t *version = json_object_get(root, "coldstream_profile");
    enum err err;
    if (!json_is_integer(version))
        err = fail(why, ERR_FORMAT, "not a profile: it has no number \"coldstream_profile\"");
    else if (json_integer_value(version) != PROFILE_VERSION)
        err = fail(why, ERR_UNSUPPORTED, "coldstream_profile is version %lld; this program reads version %d",
                   (long long)json_integer_value(version), PROFILE_VERSION);
    else
        err = read_profile(root, out, why);
    json_decref(root);
    if (err) profile_close(out);
    return err;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static void add_counts(const double *counts, size_t n, struct text *out) {
    for (size_t i = 0; i < n; i++) {
        text_addf(out, i ? ", " : "[");
        if (counts[i] < 1e9 && counts[i] == (uint32_t)counts[i])
            text_addf(out, "%" PRIu32, (uint32_t)counts[i]);
        else
            json_write_double(counts[i], out);
    }
    text_addf(out, "]");
}

void profile_write(const struct profile *p, struct text *out) {
    text_addf(out, "{\n  \"coldstream_profile\": %d,\n  \"model\": ", PROFILE_VERSION);
    json_write_string(span_of(p->model), out);
    text_addf(out,
              ",\n  \"layers\": %" PRIu32 ", \"experts\": %" PRIu32 ", \"used\": %" PRIu32 ",\n  \"tokens\": ", p->n_layers,
              p->n_experts, p->n_used);
    json_write_double(p->tokens, out);
    text_addf(out, ",\n  \"reuse\": ");
    add_counts(p->reuse, (size_t)p->n_experts + 1, out);
    text_addf(out, ",\n  \"counts\": [");
    for (uint32_t l = 0; l < p->n_layers; l++) {
        text_addf(out, l ? ",\n    " : "\n    ");
        add_counts(p->counts + (size_t)l * p->n_experts, p->n_experts, out);
    }
    text_addf(out, "]\n}\n");
}

/* ---- adding up --------------------------------------------------------------------------------------------------- */

/* Every step is monotone, rounding included: counts never outgrow tokens. */
static double add_faded(double old, double fade, double new) {
    const double left = fade == 1 ? old : floor(old * fade / fade_grain) * fade_grain;
    return fmin(left + new, max_count);
}

enum err profile_merge(struct profile *into, const struct profile *from, double fade, struct reason *why) {
    assert(fade >= 0 && fade <= 1);
    if (into->n_layers != from->n_layers || into->n_experts != from->n_experts || into->n_used != from->n_used)
        return fail(why, ERR_ARGUMENT,
                    "cannot add profiles of different shapes: %" PRIu32 " layers of %" PRIu32 " experts (%" PRIu32
                    " used) and %" PRIu32 " of %" PRIu32 " (%" PRIu32 ")",
                    into->n_layers, into->n_experts, into->n_used, from->n_layers, from->n_experts, from->n_used);
    into->tokens = add_faded(into->tokens, fade, from->tokens);
    for (size_t i = 0; i < n_counts(into); i++) into->counts[i] = add_faded(into->counts[i], fade, from->counts[i]);
    for (size_t i = 0; i <= into->n_experts; i++) into->reuse[i] = add_faded(into->reuse[i], fade, from->reuse[i]);
    return ERR_NONE;
}

/* ---- counting ---------------------------------------------------------------------------------------------------- */

struct profile_recorder {
    struct profile profile;
    uint32_t *n_seen; /* [n_layers] */
    uint16_t *recent; /* [n_layers][n_experts] the n_seen experts chosen so far, last one first */
};

enum err profile_recorder_open(uint32_t n_layers, uint32_t n_experts, uint32_t n_used, struct profile_recorder **out,
                               struct reason *why) {
    struct profile_recorder *r = *out = calloc_checked(1, sizeof *r);
    if (!r) return fail(why, ERR_NO_MEMORY, "no memory to count experts");
    enum err err = profile_open(n_layers, n_experts, n_used, &r->profile, why);
    if (!err) {
        r->n_seen = calloc_checked(n_layers, sizeof *r->n_seen);
        r->recent = calloc_checked(n_counts(&r->profile), sizeof *r->recent);
        if (!r->n_seen || !r->recent) err = fail(why, ERR_NO_MEMORY, "no memory to count experts");
    }
    if (err) profile_recorder_close(out);
    return err;
}

void profile_recorder_close(struct profile_recorder **recorder) {
    struct profile_recorder *r = *recorder;
    if (!r) return;
    profile_close(&r->profile);
    free(r->n_seen);
    free(r->recent);
    free(r);
    *recorder = NULL;
}

/* Where an expert stands in the list; n: nowhere. */
static uint32_t find_place(const uint16_t *recent, uint32_t n, uint32_t expert) {
    uint32_t place = 0;
    while (place < n && recent[place] != expert) place++;
    return place;
}

void profile_record(struct profile_recorder *r, uint32_t layer, const int32_t *experts) {
    struct profile *p = &r->profile;
    assert(layer < p->n_layers);
    uint16_t *recent = r->recent + (size_t)layer * p->n_experts;
    uint32_t *n_seen = &r->n_seen[layer];
    for (uint32_t i = 0; i < p->n_used; i++) {
        assert(experts[i] >= 0 && (uint32_t)experts[i] < p->n_experts);
        const uint32_t place = find_place(recent, *n_seen, (uint32_t)experts[i]);
        p->reuse[place < *n_seen ? place : p->n_experts]++;
        p->counts[(size_t)layer * p->n_experts + (uint32_t)experts[i]]++;
    }
    for (uint32_t i = p->n_used; i-- > 0;) {
        const uint32_t place = find_place(recent, *n_seen, (uint32_t)experts[i]);
        if (place == *n_seen) ++*n_seen;
        memmove(recent + 1, recent, place * sizeof *recent);
        recent[0] = (uint16_t)experts[i];
    }
}

void profile_count_token(struct profile_recorder *r) { r->profile.tokens++; }

const struct profile *profile_recorded(const struct profile_recorder *r) { return &r->profile; }

/* ---- what it tells ------------------------------------------------------------------------------------------------ */

void profile_prior(const struct profile *p, float *out) {
    const double imagined = (double)p->n_experts / p->n_used; /* tokens that chose every expert once */
    for (size_t i = 0; i < n_counts(p); i++) out[i] = (float)((p->counts[i] + 1) / (p->tokens + imagined));
}

double profile_hit_rate(const struct profile *p, double slots) {
    double all = 0, hits = 0;
    if (!(slots > 0)) return 0;
    for (uint32_t i = 0; i <= p->n_experts; i++) all += p->reuse[i];
    for (uint32_t i = 0; i < p->n_experts && i < slots; i++) hits += p->reuse[i] * fmin(1, slots - i);
    return all > 0 ? hits / all : 0;
}

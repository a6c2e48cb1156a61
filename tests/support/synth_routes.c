/* Routes from random scores: a token takes the experts with the highest.
 *
 * The locality model is a sum of four normal terms an expert: what holds always, what holds for the turn, what drifts from
 * token to token, and noise. The four factors were fitted to counts of real prompts (docs of expert locality: within a prompt
 * the top 10/20/30/40 % of experts take 57/81/92/97 %, 45 % of choices repeat on the next token, 79 % come back within eight,
 * the 40 % that other prompts used most take 74 %); tests/test_routes.c says how close it is. */
#include "tests/support/synth_routes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/synth_blocks.h"

static const float ALWAYS = .83f, TURN = .95f, DRIFT = 1, KEPT = .63f, NOISE = .55f;

struct scores {
    float *always, *turn, *drift; /* [layers * experts] */
    float *now, *guess;           /* [experts] */
    float noise;
    struct synth_random random, guess_random;
};

static enum err scores_open(const struct synth_routes *spec, struct scores *s, struct reason *why) {
    static const float noises[] = {[ROUTES_UNIFORM] = .12f, [ROUTES_SKEWED] = .2f, [ROUTES_LOCALITY] = .22f};
    const uint64_t cells = (uint64_t)spec->layers * spec->experts;
    *s = (struct scores){.noise = spec->noise != 0 ? spec->noise : noises[spec->kind]};
    float *const all = calloc_checked(cells * 3 + (uint64_t)spec->experts * 2, sizeof *all);
    if (!all) return fail(why, ERR_NO_MEMORY, "no memory for router scores");
    s->always = all;
    s->turn = all + cells;
    s->drift = all + cells * 2;
    s->now = all + cells * 3;
    s->guess = s->now + spec->experts;
    s->random = synth_random_of(spec->seed, SPAN("routes"));
    s->guess_random = synth_random_of(spec->seed, SPAN("guess"));
    for (uint64_t i = 0; i < cells; i++) {
        const float normal = synth_random_normal(&s->random);
        s->always[i] = spec->kind == ROUTES_SKEWED ? expf(spec->skew * normal) : ALWAYS * normal;
    }
    return ERR_NONE;
}

static void draw_turn(const struct synth_routes *spec, struct scores *s) {
    for (uint64_t i = 0; i < (uint64_t)spec->layers * spec->experts; i++) {
        s->turn[i] = TURN * synth_random_normal(&s->random);
        s->drift[i] = synth_random_normal(&s->random);
    }
}

static void score_layer(const struct synth_routes *spec, struct scores *s, uint32_t layer) {
    const float *const always = s->always + (size_t)layer * spec->experts, *const turn =
                                                                               s->turn + (size_t)layer * spec->experts;
    float *const drift = s->drift + (size_t)layer * spec->experts;
    const float fresh = sqrtf(1 - KEPT * KEPT);
    for (uint32_t x = 0; x < spec->experts; x++) {
        const float normal = synth_random_normal(&s->random);
        switch (spec->kind) {
        case ROUTES_UNIFORM: s->now[x] = normal; break;
        case ROUTES_SKEWED: s->now[x] = always[x] * normal; break;
        case ROUTES_LOCALITY:
            drift[x] = KEPT * drift[x] + fresh * normal;
            s->now[x] = always[x] + turn[x] + DRIFT * drift[x] + NOISE * synth_random_normal(&s->random);
            break;
        }
    }
}

/* The `n` highest, highest first; of equals the first. */
static void take_top(const float *scores, uint32_t n_scores, int32_t *out, uint32_t n) {
    uint32_t have = 0;
    for (uint32_t x = 0; x < n_scores; x++) {
        uint32_t at = have;
        while (at > 0 && scores[out[at - 1]] < scores[x]) at--;
        if (at == n) continue;
        if (have < n) have++;
        memmove(out + at + 1, out + at, (have - 1 - at) * sizeof *out);
        out[at] = (int32_t)x;
    }
}

static void route_token(const struct synth_routes *spec, struct scores *s, struct routes *r, uint32_t token) {
    int32_t experts[ROUTES_MAX_USED];
    for (uint32_t l = 0; l < spec->layers; l++) {
        score_layer(spec, s, l);
        take_top(s->now, spec->experts, experts, spec->used);
        routes_choose(r, token, l, experts);
        if (!r->expected || l == 0) continue; /* nobody comes before the first layer */
        for (uint32_t x = 0; x < spec->experts; x++) s->guess[x] = s->now[x] + s->noise * synth_random_normal(&s->guess_random);
        take_top(s->guess, spec->experts, experts, spec->used);
        routes_expect(r, token, l, experts, spec->used);
    }
}

enum err synth_routes_make(const struct synth_routes *spec, struct routes *out, struct reason *why) {
    struct scores s = {0};
    TRY(routes_open(spec->layers, spec->experts, spec->used, spec->noise >= 0, out, why));
    enum err result = scores_open(spec, &s, why);
    if (result != ERR_NONE) goto fail;
    for (uint32_t turn = 0; turn < spec->turns; turn++) {
        draw_turn(spec, &s);
        if ((result = routes_begin_turn(out, why)) != ERR_NONE) goto fail;
        for (int decode = 0; decode < 2; decode++) {
            const uint32_t first = out->n_tokens;
            result = routes_append(out, decode ? spec->decode_tokens : spec->prompt_tokens, !decode, why);
            if (result != ERR_NONE) goto fail;
            for (uint32_t t = first; t < out->n_tokens; t++) route_token(spec, &s, out, t);
        }
    }
    free(s.always);
    return ERR_NONE;
fail:
    free(s.always);
    routes_close(out);
    return result;
}

/* ---- statistics ------------------------------------------------------------------------------------------------------ */

struct tally {
    const struct routes *r;
    double *counts; /* [n_turns][n_layers][n_experts] */
    int64_t *last;  /* [n_layers][n_experts] token of the last use in this turn */
    double *sorted; /* [n_experts] */
    double *others; /* [n_experts] */
    double uses, next, within_8;
    double guessed, right, right_first, right_last, guessed_tokens;
};

static int descending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

static void tally_guess(struct tally *t, uint32_t token, uint32_t layer) {
    const uint16_t *const chosen = routes_chosen(t->r, token, layer), *const expected = routes_expected(t->r, token, layer);
    if (!expected || expected[0] == ROUTES_NOTHING) return;
    t->guessed_tokens++;
    for (uint32_t k = 0; k < t->r->n_used; k++) {
        bool right = false;
        for (uint32_t j = 0; j < t->r->n_used; j++) right |= expected[j] == chosen[k];
        t->guessed++;
        t->right += right;
        if (k == 0) t->right_first += right;
        if (k + 1 == t->r->n_used) t->right_last += right;
    }
}

static void tally_turn(struct tally *t, uint32_t turn, uint32_t first, uint32_t n_tokens) {
    const struct routes *const r = t->r;
    const size_t cells = (size_t)r->n_layers * r->n_experts;
    for (size_t i = 0; i < cells; i++) t->last[i] = INT64_MIN / 2;
    for (uint32_t token = first; token < first + n_tokens; token++)
        for (uint32_t l = 0; l < r->n_layers; l++) {
            tally_guess(t, token, l);
            for (uint32_t k = 0; k < r->n_used; k++) {
                const size_t cell = (size_t)l * r->n_experts + routes_chosen(r, token, l)[k];
                const int64_t distance = (int64_t)token - t->last[cell];
                t->last[cell] = token;
                t->counts[turn * cells + cell]++;
                if (token < first + 8) continue; /* what is before the turn does not count */
                t->uses++;
                t->next += distance == 1;
                t->within_8 += distance <= 8;
            }
        }
}

/* Share of a layer's choices in a turn that its most used experts take. */
static void add_tops(struct tally *t, const double *counts, struct routes_shape *out) {
    const uint32_t n = t->r->n_experts;
    double all = 0, sum = 0;
    memcpy(t->sorted, counts, n * sizeof *counts);
    qsort(t->sorted, n, sizeof *t->sorted, descending);
    for (uint32_t x = 0; x < n; x++) all += counts[x];
    for (uint32_t x = 0, decile = 0; x < n && decile < 4; x++) {
        sum += t->sorted[x];
        for (; decile < 4 && x + 1 >= (uint32_t)lround(n * .1 * (decile + 1)); decile++) out->top[decile] += sum / all;
    }
}

/* Share that the 40 % most used in the other turns take in this one. */
static double take_elsewhere(struct tally *t, uint32_t turn, uint32_t layer) {
    const struct routes *const r = t->r;
    const size_t cells = (size_t)r->n_layers * r->n_experts;
    const double *const mine = t->counts + turn * cells + (size_t)layer * r->n_experts;
    double all = 0, hit = 0;
    memset(t->others, 0, r->n_experts * sizeof *t->others);
    for (uint32_t u = 0; u < r->n_turns; u++)
        for (uint32_t x = 0; u != turn && x < r->n_experts; x++)
            t->others[x] += t->counts[u * cells + (size_t)layer * r->n_experts + x];
    memcpy(t->sorted, t->others, r->n_experts * sizeof *t->sorted);
    qsort(t->sorted, r->n_experts, sizeof *t->sorted, descending);
    const uint32_t n = (uint32_t)lround(r->n_experts * .4);
    const double least = t->sorted[n ? n - 1 : 0];
    uint32_t n_above = 0;
    for (uint32_t x = 0; x < r->n_experts; x++) n_above += t->others[x] > least;
    for (uint32_t x = 0, ties = n - n_above; x < r->n_experts; x++) {
        all += mine[x];
        if (t->others[x] > least || (t->others[x] == least && ties > 0 && ties--)) hit += mine[x];
    }
    return hit / all;
}

static void summarise(struct tally *t, struct routes_shape *out) {
    const struct routes *const r = t->r;
    const size_t cells = (size_t)r->n_layers * r->n_experts;
    uint32_t n = 0;
    for (uint32_t turn = 0; turn < r->n_turns; turn++) {
        if (r->turns[turn].prompt_tokens + r->turns[turn].decode_tokens == 0) continue;
        for (uint32_t l = 0; l < r->n_layers; l++, n++) {
            add_tops(t, t->counts + turn * cells + (size_t)l * r->n_experts, out);
            if (r->n_turns > 1) out->elsewhere += take_elsewhere(t, turn, l);
        }
    }
    for (int i = 0; i < 4; i++) out->top[i] /= n;
    out->elsewhere /= n;
    if (t->uses > 0) {
        out->next = t->next / t->uses;
        out->within_8 = t->within_8 / t->uses;
    }
    if (t->guessed > 0) {
        out->expected = t->right / t->guessed;
        out->expected_first = t->right_first / t->guessed_tokens;
        out->expected_last = t->right_last / t->guessed_tokens;
    }
}

enum err routes_measure(const struct routes *r, struct routes_shape *out, struct reason *why) {
    const uint64_t cells = (uint64_t)r->n_layers * r->n_experts;
    enum err result = ERR_NONE;
    *out = (struct routes_shape){0};
    if (r->n_tokens == 0) return ERR_NONE;
    struct tally t = {.r = r,
                      .counts = calloc_checked(cells * r->n_turns, sizeof *t.counts),
                      .last = calloc_checked(cells, sizeof *t.last),
                      .sorted = calloc_checked(r->n_experts, sizeof *t.sorted),
                      .others = calloc_checked(r->n_experts, sizeof *t.others)};
    if (t.counts && t.last && t.sorted && t.others) {
        for (uint32_t turn = 0, first = 0; turn < r->n_turns; turn++) {
            const uint32_t n = r->turns[turn].prompt_tokens + r->turns[turn].decode_tokens;
            tally_turn(&t, turn, first, n);
            first += n;
        }
        summarise(&t, out);
    } else {
        result = fail(why, ERR_NO_MEMORY, "no memory to count routes");
    }
    free(t.counts);
    free(t.last);
    free(t.sorted);
    free(t.others);
    return result;
}

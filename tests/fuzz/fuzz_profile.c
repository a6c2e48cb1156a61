/* libFuzzer target: a profile file. What is accepted is within its limits, can be asked and added up, and is written as text
 * that reads back as the same profile. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/profile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t n_counts(const struct profile *p) { return (size_t)p->n_layers * p->n_experts; }

static void check_shape(const struct profile *p) {
    assert(p->n_layers >= 1 && p->n_layers <= PROFILE_MAX_LAYERS && p->n_experts >= 1 && p->n_experts <= PROFILE_MAX_EXPERTS);
    assert(p->n_used >= 1 && p->n_used <= p->n_experts && strlen(p->model) < sizeof p->model);
    assert(isfinite(p->tokens) && p->tokens >= 0);
    for (size_t i = 0; i < n_counts(p); i++) assert(p->counts[i] >= 0 && p->counts[i] <= p->tokens);
    for (size_t i = 0; i <= p->n_experts; i++) assert(isfinite(p->reuse[i]) && p->reuse[i] >= 0);
}

static void check_answers(const struct profile *p) {
    double last = 0;
    for (uint32_t s = 0; s <= p->n_experts; s++) {
        const double rate = profile_hit_rate(p, s), between = profile_hit_rate(p, s + 0.5);
        assert(rate >= last && between >= rate && between <= 1);
        last = rate;
    }
    float *prior = malloc(n_counts(p) * sizeof *prior);
    assert(prior);
    profile_prior(p, prior);
    for (size_t i = 0; i < n_counts(p); i++) assert(prior[i] >= 0 && prior[i] <= 1);
    free(prior);
}

static void check_round_trip(const struct profile *p) {
    struct text text = {0};
    struct profile again;
    struct reason why;
    profile_write(p, &text);
    assert(!text.failed);
    const enum err err = profile_parse((struct span){text.ptr, text.len}, &again, &why);
    assert(err == ERR_NONE && strcmp(again.model, p->model) == 0 && again.tokens == p->tokens && again.n_used == p->n_used);
    assert(again.n_layers == p->n_layers && again.n_experts == p->n_experts);
    assert(memcmp(again.counts, p->counts, n_counts(p) * sizeof *p->counts) == 0);
    assert(memcmp(again.reuse, p->reuse, (p->n_experts + 1) * sizeof *p->reuse) == 0);
    profile_close(&again);
    text_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct profile p, added;
    struct reason why = {""};
    const struct span json = {(const char *)data, size};
    if (profile_parse(json, &p, &why) != ERR_NONE) {
        assert(why.text[0] && !p.counts && !p.reuse && p.n_layers == 0);
        return 0;
    }
    check_shape(&p);
    check_answers(&p);
    check_round_trip(&p);
    const enum err err = profile_parse(json, &added, &why), merge_err = profile_merge(&added, &p, 0.7, &why);
    assert(err == ERR_NONE && merge_err == ERR_NONE);
    check_shape(&added);
    check_round_trip(&added);
    profile_close(&added);
    profile_close(&p);
    return 0;
}

/* Logits -> next id. Owns a copy of the settings, the random state, the history window and its work arrays, all allocated at
 * open; sampling never allocates. One sampler a sequence, one thread at a time.
 *
 * The vocabulary is never sorted: top-k keeps a heap of the k best while it reads the logits once; without top-k, top-p takes
 * candidates from a heap of all until the mass is reached. */
#include "text/sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct candidate {
    float logit;
    int32_t id;
};

/* The last repeat_last_n ids with their counts; with a window of -1 nothing ever leaves, so no ring is needed. */
struct history {
    int32_t *ring; /* [window]; NULL when the window is the whole context */
    size_t window, len, next;
    uint32_t *count;   /* [n_vocab] */
    int32_t *distinct; /* [n_distinct] ids with a count, any order */
    int32_t *place;    /* [n_vocab] index in distinct, for ids with a count */
    size_t n_distinct;
};

struct sampler {
    struct sampling settings; /* .bias points to the copy below */
    struct logit_bias *bias;
    size_t n_vocab;
    uint8_t *banned;              /* [n_vocab] unused ids, and the ends when they are to be ignored */
    float *logits;                /* [n_vocab] after bias and penalties */
    struct candidate *candidates; /* [n_vocab] */
    double *weights;              /* [n_vocab] */
    struct history history;
    uint64_t random[4];
    int32_t first_used;
};

struct sampling sampling_defaults(enum chat_family family, bool thinking) {
    struct sampling s = {.temperature = 0.7f, .top_k = 20, .top_p = 0.8f, .repeat_penalty = 1, .repeat_last_n = 64};
    const bool coder = family == CHAT_QWEN3_CODER || family == CHAT_QWEN3_CODER_TOOLS;
    if (coder) s.repeat_penalty = 1.05f;
    if (family == CHAT_QWEN3_THINKING || (family == CHAT_QWEN3 && thinking)) {
        s.temperature = 0.6f;
        s.top_p = 0.95f;
    }
    return s;
}

/* ---- random numbers: xoshiro256** seeded by splitmix64 (Blackman and Vigna) -------------------------------------------- */

static void random_seed(uint64_t state[4], uint64_t seed) {
    for (int i = 0; i < 4; i++) {
        uint64_t z = seed += 0x9E3779B97F4A7C15u;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        state[i] = z ^ z >> 31;
    }
}

static uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }

static double random_unit(uint64_t state[4]) { /* [0, 1) in steps of 2^-53 */
    const uint64_t result = rotate(state[1] * 5, 7) * 9, t = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= t;
    state[3] = rotate(state[3], 45);
    return (double)(result >> 11) * 0x1p-53;
}

/* ---- history ----------------------------------------------------------------------------------------------------------- */

static void history_remove(struct history *h, int32_t id) {
    if (--h->count[id]) return;
    const int32_t moved = h->distinct[--h->n_distinct];
    h->distinct[h->place[id]] = moved;
    h->place[moved] = h->place[id];
}

static void history_add(struct history *h, int32_t id) {
    if (h->ring) {
        if (h->len == h->window)
            history_remove(h, h->ring[h->next]);
        else
            h->len++;
        h->ring[h->next] = id;
        h->next = (h->next + 1) % h->window;
    }
    if (h->count[id]++) return;
    h->place[id] = (int32_t)h->n_distinct;
    h->distinct[h->n_distinct++] = id;
}

static bool penalizes(const struct sampling *s) {
    return s->repeat_last_n != 0 && (s->repeat_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0);
}

void sampler_accept(struct sampler *s, int32_t id) {
    if (s->history.count && id >= 0 && (size_t)id < s->n_vocab) history_add(&s->history, id);
}

/* ---- open, close ------------------------------------------------------------------------------------------------------- */

static enum err check_settings(const struct sampling *s, size_t n_vocab, struct reason *why) {
    if (!isfinite(s->temperature)) return fail(why, ERR_ARGUMENT, "temperature %g is no number", (double)s->temperature);
    if (!(s->top_p >= 0 && s->top_p <= 1)) return fail(why, ERR_ARGUMENT, "top-p %g is not in 0..1", (double)s->top_p);
    if (!(s->min_p >= 0 && s->min_p <= 1)) return fail(why, ERR_ARGUMENT, "min-p %g is not in 0..1", (double)s->min_p);
    if (!(s->repeat_penalty > 0 && isfinite(s->repeat_penalty)))
        return fail(why, ERR_ARGUMENT, "repeat penalty %g is not above 0", (double)s->repeat_penalty);
    if (!isfinite(s->presence_penalty) || !isfinite(s->frequency_penalty))
        return fail(why, ERR_ARGUMENT, "presence or frequency penalty is no number");
    if (s->repeat_last_n < -1) return fail(why, ERR_ARGUMENT, "repeat window %d is below -1", s->repeat_last_n);
    for (size_t i = 0; i < s->n_bias; i++) {
        if (s->bias[i].id < 0 || (size_t)s->bias[i].id >= n_vocab)
            return fail(why, ERR_ARGUMENT, "logit bias: id %d is outside the vocabulary of %zu", s->bias[i].id, n_vocab);
        if (isnan(s->bias[i].bias))
            return fail(why, ERR_ARGUMENT, "logit bias: the value for id %d is no number", s->bias[i].id);
    }
    return ERR_NONE;
}

static bool allocate(struct sampler *s) {
    const size_t n = s->n_vocab;
    s->bias = calloc_checked(s->settings.n_bias, sizeof *s->bias);
    s->banned = calloc_checked(n, sizeof *s->banned);
    s->logits = calloc_checked(n, sizeof *s->logits);
    s->candidates = calloc_checked(n, sizeof *s->candidates);
    s->weights = calloc_checked(n, sizeof *s->weights);
    if (!s->bias || !s->banned || !s->logits || !s->candidates || !s->weights) return false;
    if (!penalizes(&s->settings)) return true;
    struct history *h = &s->history;
    h->count = calloc_checked(n, sizeof *h->count);
    h->distinct = calloc_checked(n, sizeof *h->distinct);
    h->place = calloc_checked(n, sizeof *h->place);
    if (s->settings.repeat_last_n > 0) {
        h->window = (size_t)s->settings.repeat_last_n;
        h->ring = calloc_checked(h->window, sizeof *h->ring);
        if (!h->ring) return false;
    }
    return h->count && h->distinct && h->place;
}

enum err sampler_open(const struct sampling *settings, const struct tokenizer *t, size_t n_vocab, struct sampler **out,
                      struct reason *why) {
    *out = NULL;
    if (n_vocab == 0 || n_vocab > INT32_MAX) return fail(why, ERR_ARGUMENT, "sampler: vocabulary of %zu", n_vocab);
    TRY(check_settings(settings, n_vocab, why));
    enum err err = ERR_NO_MEMORY;
    struct sampler *s = calloc(1, sizeof *s);
    if (!s) return fail(why, err, "sampler: no memory");
    s->settings = *settings;
    s->n_vocab = n_vocab;
    if (!allocate(s)) {
        fail(why, err, "sampler: no memory for a vocabulary of %zu", n_vocab);
        goto fail;
    }
    if (settings->n_bias) memcpy(s->bias, settings->bias, settings->n_bias * sizeof *s->bias);
    s->settings.bias = s->bias;
    random_seed(s->random, settings->seed);

    s->first_used = -1;
    for (size_t id = n_vocab; t && id-- > 0;) {
        const bool unused = tokenizer_is_unused(t, (int32_t)id);
        s->banned[id] = unused || (settings->ignore_eos && tokenizer_is_end(t, (int32_t)id));
        if (!s->banned[id]) s->first_used = (int32_t)id;
    }
    if (!t) s->first_used = 0;
    if (s->first_used < 0) {
        err = fail(why, ERR_FORMAT, "sampler: no id of the vocabulary has a token");
        goto fail;
    }
    *out = s;
    return ERR_NONE;

fail:
    sampler_close(&s);
    return err;
}

void sampler_close(struct sampler **sampler) {
    struct sampler *s = *sampler;
    if (!s) return;
    free(s->bias);
    free(s->banned);
    free(s->logits);
    free(s->candidates);
    free(s->weights);
    free(s->history.ring);
    free(s->history.count);
    free(s->history.distinct);
    free(s->history.place);
    free(s);
    *sampler = NULL;
}

/* ---- a heap of candidates ---------------------------------------------------------------------------------------------- */

/* Total order: the better logit first, the lower id on ties. */
static bool is_better(struct candidate a, struct candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* `best_on_top` chooses which end of the order the root holds. */
static void sift_down(struct candidate *heap, size_t n, size_t at, bool best_on_top) {
    const struct candidate moving = heap[at];
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && is_better(heap[child + 1], heap[child]) == best_on_top) child++;
        if (is_better(heap[child], moving) != best_on_top) break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

static void heap_build(struct candidate *heap, size_t n, bool best_on_top) {
    for (size_t at = n / 2; at-- > 0;) sift_down(heap, n, at, best_on_top);
}

/* Puts the root behind the heap, at heap[n - 1]. */
static void heap_pop(struct candidate *heap, size_t n, bool best_on_top) {
    const struct candidate root = heap[0];
    heap[0] = heap[n - 1];
    sift_down(heap, n - 1, 0, best_on_top);
    heap[n - 1] = root;
}

/* ---- the chain --------------------------------------------------------------------------------------------------------- */

/* s->logits = logits with bias and penalties; only finite values and -infinity leave here. */
static void adjust_logits(struct sampler *s, const float *logits) {
    memcpy(s->logits, logits, s->n_vocab * sizeof *logits);
    for (size_t i = 0; i < s->settings.n_bias; i++) s->logits[s->bias[i].id] += s->bias[i].bias;
    for (size_t i = 0; i < s->history.n_distinct; i++) {
        const int32_t id = s->history.distinct[i];
        float *x = &s->logits[id];
        *x = *x > 0 ? *x / s->settings.repeat_penalty : *x * s->settings.repeat_penalty;
        *x -= (float)s->history.count[id] * s->settings.frequency_penalty + s->settings.presence_penalty;
    }
    for (size_t id = 0; id < s->n_vocab; id++) {
        const float x = s->logits[id];
        s->logits[id] = s->banned[id] || !(x > -INFINITY) ? -INFINITY : x > FLT_MAX ? FLT_MAX : x;
    }
}

static int32_t pick_best(const struct sampler *s) {
    int32_t best = -1;
    float best_logit = -INFINITY;
    for (size_t id = 0; id < s->n_vocab; id++) {
        if (!(s->logits[id] > best_logit)) continue;
        best = (int32_t)id;
        best_logit = s->logits[id];
    }
    return best < 0 ? s->first_used : best;
}

/* The k best candidates, best first; k < n_vocab. Returns how many there are. */
static size_t take_top_k(struct sampler *s, size_t k) {
    struct candidate *heap = s->candidates;
    size_t n = 0;
    for (size_t id = 0; id < s->n_vocab; id++) {
        const struct candidate c = {s->logits[id], (int32_t)id};
        if (c.logit == -INFINITY || (n == k && !(c.logit > heap[0].logit))) continue; /* ids rise: ties keep the lower one */
        if (n < k) {
            heap[n++] = c;
            if (n == k) heap_build(heap, n, false);
        } else {
            heap[0] = c;
            sift_down(heap, n, 0, false);
        }
    }
    if (n < k) heap_build(heap, n, false);
    for (size_t left = n; left > 1; left--) heap_pop(heap, left, false);
    return n;
}

static size_t take_all(struct sampler *s) {
    size_t n = 0;
    for (size_t id = 0; id < s->n_vocab; id++)
        if (s->logits[id] > -INFINITY) s->candidates[n++] = (struct candidate){s->logits[id], (int32_t)id};
    return n;
}

/* Shrinks sorted candidates[0..n) to what top-p and min-p leave; at least one stays. */
static size_t cut_sorted(const struct sampler *s, size_t n) {
    const struct candidate *c = s->candidates;
    double total = 0, mass = 0;
    for (size_t i = 0; i < n; i++) total += exp((double)c[i].logit - (double)c[0].logit);
    size_t kept = 0;
    while (kept < n) {
        const double weight = exp((double)c[kept].logit - (double)c[0].logit);
        if (kept > 0 && weight < (double)s->settings.min_p) break;
        if (kept > 0 && s->settings.top_p < 1 && mass >= (double)s->settings.top_p * total) break;
        mass += weight;
        kept++;
    }
    return kept;
}

/* The same for candidates in no order; those that stay move to the front, in no useful order. */
static size_t cut_unsorted(struct sampler *s, size_t n, float best) {
    struct candidate *c = s->candidates;
    double total = 0, mass = 0;
    size_t left = 0;
    for (size_t i = 0; i < n; i++) { /* min-p needs no order, and what it drops still counts for top-p */
        const double weight = exp((double)c[i].logit - (double)best);
        total += weight;
        if (weight >= (double)s->settings.min_p) c[left++] = c[i];
    }
    if (s->settings.top_p >= 1) return left;
    heap_build(c, left, true);
    const size_t end = left; /* the popped ones gather in [left, end) */
    while (left > 0 && (left == end || mass < (double)s->settings.top_p * total)) {
        mass += exp((double)c[0].logit - (double)best);
        heap_pop(c, left--, true);
    }
    memmove(c, c + left, (end - left) * sizeof *c);
    return end - left;
}

static int32_t draw(struct sampler *s, size_t n, float best) {
    double total = 0;
    for (size_t i = 0; i < n; i++) {
        s->weights[i] = exp(((double)s->candidates[i].logit - (double)best) / (double)s->settings.temperature);
        total += s->weights[i];
    }
    double at = random_unit(s->random) * total;
    size_t chosen = 0;
    for (size_t i = 0; i < n; i++) {
        if (s->weights[i] <= 0) continue;
        chosen = i;
        if (at < s->weights[i]) break;
        at -= s->weights[i];
    }
    return s->candidates[chosen].id;
}

int32_t sampler_next(struct sampler *s, const float *logits) {
    const struct sampling *set = &s->settings;
    adjust_logits(s, logits);
    const int32_t best = pick_best(s);
    const float best_logit = s->logits[best];
    if (set->temperature <= 0 || set->top_k == 1 || best_logit == -INFINITY) return best;

    size_t n;
    if (set->top_k > 0 && (size_t)set->top_k < s->n_vocab) {
        n = take_top_k(s, (size_t)set->top_k);
        n = cut_sorted(s, n);
    } else {
        n = take_all(s);
        if (set->top_p < 1 || set->min_p > 0) n = cut_unsorted(s, n, best_logit);
    }
    return draw(s, n, best_logit);
}

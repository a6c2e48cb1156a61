/* Lanes that compute together. Each lane that calls leaves its arguments and waits; the last one of the mask computes for all. Here
 * it shows when lanes of one mask are at different functions or lines, or have left. */
#include "tests/cuda_host/internal.h"

static bool same_meeting(const ch_thread *other, const ch_together *what, unsigned mask, ch_site site) {
    return other->meeting == what && other->mask == mask && other->site.line == site.line && (other->site.file == site.file || !strcmp(other->site.file, site.file));
}

static void expect_same_meeting(const ch_thread *warp, unsigned lanes, const ch_together *what, unsigned mask, ch_site site) {
    for (unsigned lane = 0; lane < CH_WARP; lane++) {
        if (!(lanes >> lane & 1) || same_meeting(&warp[lane], what, mask, site)) continue;
        ch_report(site, "divergent warp: %s, mask %08x here; lane %u is in %s, mask %08x, at %s:%d", what->name, mask, lane,
                  warp[lane].meeting->name, warp[lane].mask, warp[lane].site.file, warp[lane].site.line);
    }
}

void ch_meet(const ch_together *what, unsigned mask, void *args, ch_site site) {
    ch_thread *self = ch_self(), *warp = &ch_threads[self->place.warp * CH_WARP];
    ch_warp *lanes = &ch_warps[self->place.warp];
    const unsigned me = 1u << self->place.lane;
    if (!(mask & me)) ch_report(site, "%s: the calling lane is not in its mask %08x", what->name, mask);
    if (lanes->gone & mask) ch_report(site, "%s: lane %d of the mask %08x has left", what->name, __builtin_ctz(lanes->gone & mask), mask);
    if (!lanes->waiting) {
        lanes->alike = true;
    } else if (!lanes->alike || !same_meeting(&warp[__builtin_ctz(lanes->waiting)], what, mask, site)) {
        expect_same_meeting(warp, lanes->waiting & mask, what, mask, site);
        lanes->alike = false; // they wait for others than these
    }
    self->meeting = what, self->mask = mask, self->args = args, self->site = site;
    if (((lanes->waiting & mask) | me) != mask) {
        lanes->waiting |= me;
        ch_wait(CH_IN_WARP, site);
        return;
    }
    void *lane_args[CH_WARP];
    for (unsigned lane = 0; lane < CH_WARP; lane++) lane_args[lane] = mask >> lane & 1 ? warp[lane].args : nullptr;
    what->compute(lane_args, mask);
    lanes->waiting &= ~mask;
    for (unsigned i = 0; i < CH_WARP; i++) {
        const unsigned lane = ch_settings.order == CH_DESCENDING ? CH_WARP - 1 - i : i;
        if (lane != self->place.lane && mask >> lane & 1) ch_wake(&warp[lane]);
    }
}

/* ---- barrier, ballot -------------------------------------------------------------------------------------------- */

void ch_warp_barrier(unsigned mask, ch_site site) {
    static const ch_together what = {"__syncwarp", [](void *const *, unsigned members) { ch_race_warp_barrier(ch_here->warp, members); }};
    ch_meet(&what, mask, nullptr, site);
}

struct ballot_args {
    bool predicate;
    unsigned result;
};

static void compute_ballot(void *const *lanes, unsigned mask) {
    unsigned votes = 0;
    for (unsigned i = 0; i < CH_WARP; i++) {
        if (mask >> i & 1 && static_cast<ballot_args *>(lanes[i])->predicate) votes |= 1u << i;
    }
    for (unsigned i = 0; i < CH_WARP; i++) {
        if (mask >> i & 1) static_cast<ballot_args *>(lanes[i])->result = votes;
    }
}

unsigned ch_ballot(unsigned mask, bool predicate, ch_site site) {
    static const ch_together what = {"a vote", compute_ballot};
    ballot_args args = {predicate, 0};
    ch_meet(&what, mask, &args, site);
    return args.result;
}

/* ---- shuffles --------------------------------------------------------------------------------------------------- */

/* The lane that `lane` reads from; its own where the source lies outside of its segment of `width` lanes. */
static int shuffle_source(ch_shuffle_kind kind, int lane, int operand, int width) {
    const int segment = lane & ~(width - 1);
    switch (kind) {
    case CH_SHUFFLE:
        return segment + (operand & (width - 1));
    case CH_SHUFFLE_UP:
        return lane - operand < segment ? lane : lane - operand;
    case CH_SHUFFLE_DOWN:
        return lane + operand >= segment + width ? lane : lane + operand;
    default:
        return (lane ^ operand) >= segment + width ? lane : lane ^ operand;
    }
}

struct shuffle_args {
    uint64_t in, out;
    int source;
};

static void compute_shuffle(void *const *lanes, unsigned mask) {
    for (unsigned i = 0; i < CH_WARP; i++) {
        if (!(mask >> i & 1)) continue;
        shuffle_args *a = static_cast<shuffle_args *>(lanes[i]);
        a->out = static_cast<shuffle_args *>(lanes[a->source])->in;
    }
}

uint64_t ch_shuffle(ch_shuffle_kind kind, unsigned mask, uint64_t value, int operand, int width, ch_site site) {
    if (width < 1 || width > CH_WARP || (width & (width - 1))) ch_report(site, "shuffle: width %d is no power of two to 32", width);
    const int source = shuffle_source(kind, static_cast<int>(ch_here->lane), operand, width);
    if (source < 0 || source >= CH_WARP || !(mask >> source & 1)) {
        ch_report(site, "shuffle: source lane %d is outside of the mask %08x", source, mask);
    }
    static const ch_together whats[4] = {{"__shfl_sync", compute_shuffle},
                                         {"__shfl_up_sync", compute_shuffle},
                                         {"__shfl_down_sync", compute_shuffle},
                                         {"__shfl_xor_sync", compute_shuffle}};
    shuffle_args args = {value, 0, source};
    ch_meet(&whats[kind], mask, &args, site);
    return args.out;
}

/* ---- reductions: the same xor tree as a device's, so that sums round alike ---------------------------------------- */

template <class T, class Join> static void reduce(void *const *lanes, Join join) {
    T value[CH_WARP], next[CH_WARP];
    for (int i = 0; i < CH_WARP; i++) value[i] = *static_cast<T *>(lanes[i]);
    for (int step = CH_WARP / 2; step > 0; step /= 2) {
        for (int i = 0; i < CH_WARP; i++) next[i] = join(value[i], value[i ^ step]);
        memcpy(value, next, sizeof value);
    }
    for (int i = 0; i < CH_WARP; i++) *static_cast<T *>(lanes[i]) = value[i];
}

template <class T> static T add(T a, T b) { return a + b; }

float ch_warp_sum(float v, ch_site site) {
    static const ch_together what = {"warp_sum", [](void *const *lanes, unsigned) { reduce<float>(lanes, add<float>); }};
    ch_meet(&what, FULL_WARP, &v, site);
    return v;
}

int ch_warp_sum(int v, ch_site site) {
    static const ch_together what = {"warp_sum", [](void *const *lanes, unsigned) { reduce<int>(lanes, add<int>); }};
    ch_meet(&what, FULL_WARP, &v, site);
    return v;
}

float ch_warp_max(float v, ch_site site) {
    static const ch_together what = {"warp_max", [](void *const *lanes, unsigned) { reduce<float>(lanes, fmaxf); }};
    ch_meet(&what, FULL_WARP, &v, site);
    return v;
}

template <bool HIGH> static found better(found a, found b) {
    if (isnan(a.value) != isnan(b.value)) return isnan(a.value) ? b : a;
    if (a.value == b.value || isnan(a.value)) return (HIGH ? b.index > a.index : b.index < a.index) ? b : a;
    return b.value > a.value ? b : a;
}

found ch_warp_argmax(float value, uint32_t index, bool high, ch_site site) {
    static const ch_together whats[2] = {
        {"warp_argmax<false>", [](void *const *lanes, unsigned) { reduce<found>(lanes, better<false>); }},
        {"warp_argmax<true>", [](void *const *lanes, unsigned) { reduce<found>(lanes, better<true>); }}};
    found f = {value, index};
    ch_meet(&whats[high], FULL_WARP, &f, site);
    return f;
}

/* Settings, counters, and the report of a finding. */
#include "tests/cuda_host/internal.h"

#include <stdarg.h>
#include <stdio.h>

static uint64_t environment(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text && *text ? strtoull(text, nullptr, 10) : otherwise;
}

static struct ch_config settings_at_start(void) {
    struct ch_config c = {};
    c.order = static_cast<ch_order>(environment("CH_ORDER", CH_ASCENDING) % 3);
    c.schedule = static_cast<ch_schedule>(environment("CH_SCHED", CH_EAGER) % 3);
    c.landing = static_cast<ch_landing>(environment("CH_ASYNC", CH_LATE) % 2);
    c.seed = environment("CH_SEED", 1);
    c.guard = environment("CH_GUARD", 0) != 0;
    c.devices = 1, c.sms = 4, c.major = 8, c.minor = 0;
    c.vram_bytes = size_t(1) << 30, c.context_bytes = size_t(16) << 20, c.shared_optin_bytes = 99 << 10;
    return c;
}

struct ch_config ch_settings = settings_at_start();
struct ch_counters ch_counts;
bool (*ch_pump)(void *ctx);
void *ch_pump_ctx;
static uint64_t random_state = ch_settings.seed;

/* SplitMix64: a counter, well mixed. */
uint64_t ch_random(void) {
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

struct ch_config ch_get_config(void) { return ch_settings; }

void ch_set_config(struct ch_config config) {
    ch_settings = config;
    const ch_device_access settle; // opens what was closed, and closes again where the guard is set now
    random_state = config.seed;
}

void ch_set_pump(bool (*pump)(void *ctx), void *ctx) { ch_pump = pump, ch_pump_ctx = ctx; }

struct ch_counters ch_get_counters(void) { return ch_counts; }

/* ---- report ----------------------------------------------------------------------------------------------------- */

static const char *state_name(ch_state s) {
    static const char *const names[] = {"runs", "waits at a block barrier", "waits in", "waits for the host", "has left"};
    return names[s];
}

static void print_warp(const ch_thread *warp) {
    for (unsigned lane = 0, first; lane < CH_WARP; lane = first) {
        const ch_thread *t = &warp[lane];
        for (first = lane + 1; first < CH_WARP; first++) {
            const ch_thread *u = &warp[first];
            if (u->state != t->state || u->site.line != t->site.line || u->meeting != t->meeting) break;
        }
        const bool waits = t->state == CH_IN_WARP || t->state == CH_IN_BARRIER || t->state == CH_SPINNING;
        fprintf(stderr, "    lanes %2u..%2u  %s %s", lane, first - 1, state_name(t->state),
                t->state == CH_IN_WARP && t->meeting ? t->meeting->name : "");
        if (waits && t->site.file) fprintf(stderr, " at %s:%d", t->site.file, t->site.line);
        fputc('\n', stderr);
    }
}

void ch_report(ch_site site, const char *format, ...) {
    ch_race_inside(false);
    va_list args;
    va_start(args, format);
    fprintf(stderr, "cuda_host: ");
    vfprintf(stderr, format, args);
    va_end(args);
    if (site.file) fprintf(stderr, "\n    at %s:%d", site.file, site.line);
    if (ch_block_now.call && ch_here) {
        const uint3 b = ch_now.block_index, t = ch_here->thread;
        fprintf(stderr, "\n    in kernel %s, block (%u, %u, %u), thread (%u, %u, %u), warp %u, lane %u\n", ch_block_now.call->name, b.x,
                b.y, b.z, t.x, t.y, t.z, ch_here->warp, ch_here->lane);
        print_warp(&ch_threads[ch_here->warp * CH_WARP]);
    } else {
        fputc('\n', stderr);
    }
    fflush(nullptr);
    abort();
}

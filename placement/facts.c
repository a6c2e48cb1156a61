/* Facts as values: identity, lookup, and joining what was read now with what was measured before. Pure. */
#include "placement/facts.h"

#include <string.h>

void facts_set_text(char *out, size_t size, const char *text) {
    size_t n = 0;
    for (; text && *text && n + 1 < size; text++) {
        const bool blank = *text == ' ' || *text == '\t' || *text == '\n';
        if (blank && (n == 0 || out[n - 1] == ' ')) continue;
        out[n++] = blank ? ' ' : *text > 0x20 && *text < 0x7f ? *text : '?';
    }
    if (n && out[n - 1] == ' ') n--;
    memset(out + n, 0, size - n);
}

/* FNV-1a, 64 bits. */
static void mix(uint64_t *hash, const void *bytes, size_t len) {
    for (size_t i = 0; i < len; i++) *hash = (*hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3u;
}

static void mix_text(uint64_t *hash, const char *text) { mix(hash, text, strlen(text) + 1); }
static void mix_number(uint64_t *hash, uint64_t value) { mix(hash, &value, sizeof value); }

/* What is installed: nodes, because cgroup limits lower memory_total_bytes. In whole GiB: kernels differ in what they keep. */
static uint64_t installed_gib(const struct facts *f) {
    uint64_t bytes = 0;
    for (unsigned i = 0; i < f->n_nodes; i++) bytes += f->nodes[i].memory_bytes;
    return ((bytes ? bytes : f->memory_total_bytes) + ((uint64_t)1 << 29)) >> 30;
}

uint64_t facts_fingerprint(const struct facts *f) {
    uint64_t hash = 0xcbf29ce484222325u, drives = 0, gpus = 0;
    mix_text(&hash, f->cpu);
    const uint64_t numbers[] = {f->n_packages, f->n_nodes, f->n_cores, f->n_threads, installed_gib(f)};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) mix_number(&hash, numbers[i]);
    for (unsigned i = 0; i < f->n_drives; i++) { /* summed: the order of discovery means nothing */
        uint64_t one = 0xcbf29ce484222325u;
        mix_text(&one, f->drives[i].name);
        mix_text(&one, f->drives[i].model);
        if (!f->drives[i].extra) drives += one;
    }
    for (unsigned i = 0; i < f->n_gpus; i++) {
        uint64_t one = 0xcbf29ce484222325u;
        mix_text(&one, f->gpus[i].name);
        gpus += one;
    }
    mix_number(&hash, drives);
    mix_number(&hash, gpus);
    return hash;
}

const struct facts_drive *facts_find_drive(const struct facts *f, const char *name) {
    for (unsigned i = 0; i < f->n_drives; i++)
        if (strcmp(f->drives[i].name, name) == 0) return &f->drives[i];
    return NULL;
}

static void take_drives(struct facts *to, const struct facts *from) {
    for (unsigned i = 0; i < from->n_drives; i++) {
        const struct facts_drive *old = &from->drives[i];
        struct facts_drive *now = (struct facts_drive *)facts_find_drive(to, old->name);
        if (!now && old->extra && to->n_drives < FACTS_MAX_DRIVES) {
            to->drives[to->n_drives++] = *old;
        } else if (now && now->n_rates == 0 && strcmp(now->model, old->model) == 0) {
            now->direct_io = old->direct_io;
            now->n_rates = old->n_rates;
            memcpy(now->rates, old->rates, sizeof now->rates);
        }
    }
}

static void take_gpus(struct facts *to, const struct facts *from) {
    for (unsigned i = 0; i < to->n_gpus && i < from->n_gpus; i++) {
        struct facts_gpu *now = &to->gpus[i];
        const struct facts_gpu *old = &from->gpus[i];
        if (strcmp(now->name, old->name) != 0 || now->vram_bytes_per_s > 0) continue;
        const int node = now->node;
        *now = *old;
        now->node = node;
    }
}

static void take_kernels(struct facts *to, const struct facts *from) {
    const unsigned mine = to->n_kernels;
    for (unsigned i = 0; i < from->n_kernels && to->n_kernels < FACTS_MAX_KERNELS; i++) {
        const struct facts_kernel *old = &from->kernels[i];
        bool known = false;
        for (unsigned k = 0; k < mine && !known; k++)
            known = strcmp(to->kernels[k].type, old->type) == 0 && strcmp(to->kernels[k].isa, old->isa) == 0 &&
                    to->kernels[k].threads == old->threads;
        if (!known) to->kernels[to->n_kernels++] = *old;
    }
}

/* Both lists rise; so does what comes of them. */
static void take_ram_rates(struct facts *to, const struct facts *from) {
    for (unsigned i = 0; i < from->n_ram_rates && to->n_ram_rates < FACTS_MAX_RATES; i++) {
        unsigned at = 0;
        while (at < to->n_ram_rates && to->ram_rates[at].threads < from->ram_rates[i].threads) at++;
        if (at < to->n_ram_rates && to->ram_rates[at].threads == from->ram_rates[i].threads) continue;
        memmove(&to->ram_rates[at + 1], &to->ram_rates[at], (to->n_ram_rates - at) * sizeof *to->ram_rates);
        to->ram_rates[at] = from->ram_rates[i];
        to->n_ram_rates++;
    }
}

void facts_take_measurements(struct facts *to, const struct facts *from) {
    if (!to->isa[0]) memcpy(to->isa, from->isa, sizeof to->isa);
    if (to->barrier_s <= 0) to->barrier_s = from->barrier_s;
    take_ram_rates(to, from);
    take_kernels(to, from);
    take_drives(to, from);
    take_gpus(to, from);
}

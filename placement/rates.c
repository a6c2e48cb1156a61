/* Rates at a thread count, request size and depth, read between and beyond what the facts list. Pure.
 *
 * The lists come from files or probes in any order; nothing here assumes more than one entry. */
#include <math.h>
#include <string.h>
#include <strings.h>

#include "placement/cost.h"

/* Share of a plain read's rate that a weight kernel reaches where it was not measured. */
static const double unmeasured_kernel_share = 0.8;

/* The measured neighbours of a thread count. */
struct neighbours {
    double below, above; /* rates; 0: none */
    unsigned below_at, above_at;
};

static void consider(struct neighbours *n, unsigned at, double rate, unsigned wanted) {
    if (rate <= 0 || at == 0) return;
    if (at <= wanted && (n->below == 0 || at > n->below_at)) n->below = rate, n->below_at = at;
    if (at >= wanted && (n->above == 0 || at < n->above_at)) n->above = rate, n->above_at = at;
}

static double between(const struct neighbours *n, unsigned at) {
    if (n->above_at == n->below_at) return n->below;
    return n->below + (n->above - n->below) * (at - n->below_at) / (n->above_at - n->below_at);
}

double cost_ram_rate(const struct facts *f, unsigned threads) {
    struct neighbours n = {0};
    for (unsigned i = 0; i < f->n_ram_rates; i++) consider(&n, f->ram_rates[i].threads, f->ram_rates[i].bytes_per_s, threads);
    if (n.below > 0 && n.above > 0) return between(&n, threads);
    if (n.below > 0) return n.below; /* more threads than were tried: bandwidth has an end */
    return n.above > 0 ? n.above * threads / n.above_at : 0;
}

static struct neighbours kernel_neighbours(const struct facts *f, enum tensor_type type, const char *isa, unsigned threads,
                                           bool batch) {
    struct neighbours n = {0};
    const char *name = tensor_type_info(type)->name;
    for (unsigned i = 0; i < f->n_kernels; i++) {
        const struct facts_kernel *k = &f->kernels[i];
        if (strcasecmp(k->type, name) == 0 && strcmp(k->isa, isa) == 0)
            consider(&n, k->threads, batch ? k->batch_macs_per_s : k->decode_bytes_per_s, threads);
    }
    return n;
}

double cost_decode_rate(const struct facts *f, enum tensor_type type, const char *isa, unsigned threads) {
    const struct neighbours n = kernel_neighbours(f, type, isa, threads, false);
    const double ram = cost_ram_rate(f, threads);
    double rate = unmeasured_kernel_share * ram;
    if (n.below > 0 && n.above > 0)
        rate = between(&n, threads);
    else if (n.below > 0)
        rate = n.below * threads / n.below_at;
    else if (n.above > 0)
        rate = n.above * (ram > 0 ? ram / cost_ram_rate(f, n.above_at) : (double)threads / n.above_at);
    return ram > 0 && rate > ram ? ram : rate;
}

/* What a type that nobody measured is taken for. */
static double slowest_batch(const struct facts *f, const char *isa, unsigned threads) {
    double slowest = 0;
    for (unsigned i = 0; i < f->n_kernels; i++) {
        const struct facts_kernel *k = &f->kernels[i];
        const double rate = k->threads && strcmp(k->isa, isa) == 0 ? k->batch_macs_per_s * threads / k->threads : 0;
        if (rate > 0 && (slowest == 0 || rate < slowest)) slowest = rate;
    }
    return slowest;
}

double cost_batch_rate(const struct facts *f, enum tensor_type type, const char *isa, unsigned threads) {
    const struct neighbours n = kernel_neighbours(f, type, isa, threads, true);
    if (n.below > 0 && n.above > 0) return between(&n, threads);
    if (n.below > 0) return n.below * threads / n.below_at;
    return n.above > 0 ? n.above * threads / n.above_at : slowest_batch(f, isa, threads);
}

/* How far two sizes are apart, in doublings. */
static double distance(double a, double b) { return fabs(log2((a < 1 ? 1 : a) / (b < 1 ? 1 : b))); }

double cost_drive_rate(const struct facts *f, uint32_t drive, double request_bytes, double depth) {
    if (drive >= f->n_drives) return 0;
    const struct facts_drive *d = &f->drives[drive];
    uint64_t size = 0; /* the measured size closest to the wanted one */
    for (unsigned i = 0; i < d->n_rates; i++)
        if (d->rates[i].bytes_per_s > 0 &&
            (size == 0 || distance((double)d->rates[i].request_bytes, request_bytes) < distance((double)size, request_bytes)))
            size = d->rates[i].request_bytes;
    const struct facts_drive_rate *below = NULL, *above = NULL;
    for (unsigned i = 0; i < d->n_rates; i++) {
        const struct facts_drive_rate *r = &d->rates[i];
        if (r->request_bytes != size || r->bytes_per_s <= 0 || r->depth == 0) continue;
        if (r->depth <= depth && (!below || r->depth > below->depth)) below = r;
        if (r->depth >= depth && (!above || r->depth < above->depth)) above = r;
    }
    if (!below) return above ? above->bytes_per_s : 0; /* one request in flight is the least anybody measures */
    if (!above || above->depth == below->depth) return below->bytes_per_s;
    const double part = log2(depth / below->depth) / log2((double)above->depth / below->depth);
    return below->bytes_per_s + part * (above->bytes_per_s - below->bytes_per_s);
}

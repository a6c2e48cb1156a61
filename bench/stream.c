/* Reading rates of a model's experts: GB/s by backend and groups in flight, each group one random expert's three matrices, read
 * into a random place of a buffer as large as a real pool (small ones stay in caches and overstate the rate by half). Prints
 * the median of several passes, lowest and highest, the CPU time of the calling thread a GB, and the median time of one group.
 * "packed": the same bytes as one piece that begins on a page, as they would lie in a copy of the file made for this.
 *
 *   stream MODEL.gguf [pool MiB, default 3072] [groups a pass, default 200] [passes, default 5] */

#include "bench/support/drive.h"
#include "bench/support/median.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_PASSES = 32 };

struct setup {
    struct drive drive;
    unsigned groups, passes;
};


struct cell {
    enum stream_kind kind;
    unsigned depth, threads;
    bool packed;
};

static struct fetch *open_cell(const struct setup *s, const struct cell *c) {
    struct reason why;
    struct fetch *f;
    const struct fetch_options o = {.kind = c->kind, .groups = c->depth, .threads = c->threads};
    if (fetch_open(s->drive.model, &o, &f, &why)) fprintf(stderr, "%s\n", why.text);
    return f;
}

/* All cells take turns, pass by pass, so that a drift of the drive meets all of them. */
static bool run_cells(struct setup *s, const struct cell *cells, unsigned n) {
    struct drive_pass(*results)[MAX_PASSES] = calloc(n, sizeof *results);
    bool ok = results != NULL;
    for (unsigned p = 0; ok && p < s->passes; p++)
        for (unsigned i = 0; ok && i < n; i++) {
            struct fetch *f = open_cell(s, &cells[i]);
            if (!f) continue;
            struct reason why;
            ok = drive_read(&s->drive, f, s->groups, cells[i].depth, cells[i].packed, &results[i][p], &why) == ERR_NONE;
            if (!ok) fprintf(stderr, "%s\n", why.text);
            fetch_close(&f);
        }
    printf("%-22s %8s %6s %16s %12s %10s\n", "backend", "groups", "GB/s", "(low - high)", "CPU ms/GB", "ms/group");
    for (unsigned i = 0; ok && i < n; i++) {
        double rates[MAX_PASSES], cpu[MAX_PASSES], times[MAX_PASSES];
        for (unsigned p = 0; p < s->passes; p++) {
            rates[p] = results[i][p].bytes_per_s * 1e-9;
            cpu[p] = results[i][p].cpu_s_per_byte * 1e12;
            times[p] = results[i][p].group_s * 1e3;
        }
        sort_values(rates, s->passes);
        char name[64];
        if (cells[i].kind == STREAM_URING)
            snprintf(name, sizeof name, "io_uring%s", cells[i].packed ? ", packed" : "");
        else
            snprintf(name, sizeof name, "pread, %u threads", cells[i].threads);
        printf("%-22s %8u %6.2f (%5.2f - %5.2f) %12.1f %10.2f\n", name, cells[i].depth, rates[s->passes / 2], rates[0],
               rates[s->passes - 1], median_of(cpu, s->passes), median_of(times, s->passes));
    }
    free(results);
    return ok;
}

int main(int argc, char **argv) {
    static const struct cell cells[] = {
        {STREAM_URING, 1, 0, false},  {STREAM_URING, 2, 0, false},  {STREAM_URING, 4, 0, false}, {STREAM_URING, 8, 0, false},
        {STREAM_URING, 16, 0, false}, {STREAM_URING, 32, 0, false}, {STREAM_URING, 1, 0, true},  {STREAM_URING, 8, 0, true},
        {STREAM_URING, 32, 0, true},  {STREAM_PREAD, 8, 1, false},  {STREAM_PREAD, 8, 2, false}, {STREAM_PREAD, 1, 4, false},
        {STREAM_PREAD, 8, 4, false},  {STREAM_PREAD, 16, 8, false},
    };
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL.gguf [pool MiB] [groups a pass] [passes]\n", argv[0]);
        return 2;
    }
    const uint64_t pool_bytes = (argc > 2 ? strtoull(argv[2], NULL, 10) : 3072) << 20;
    struct setup s = {0};
    s.groups = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 200;
    s.passes = argc > 4 ? (unsigned)strtoul(argv[4], NULL, 10) : 5;
    if (s.groups < 1 || s.groups > DRIVE_GROUPS_MAX || s.passes < 1 || s.passes > MAX_PASSES) {
        fprintf(stderr, "groups: 1 to %d; passes: 1 to %d\n", DRIVE_GROUPS_MAX, MAX_PASSES);
        return 2;
    }
    struct model *m;
    struct reason why;
    if (model_open(argv[1], true, &m, &why)) {
        fprintf(stderr, "%s\n", why.text);
        return 1;
    }
    bool ok = drive_open(m, pool_bytes, &s.drive, &why) == ERR_NONE;
    if (!ok) fprintf(stderr, "%s\n", why.text);
    ok = ok && run_cells(&s, cells, sizeof cells / sizeof *cells);
    drive_close(&s.drive);
    model_close(&m);
    return ok ? 0 : 1;
}

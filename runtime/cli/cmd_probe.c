/* probe: measure this machine, keep the result where other commands look for it, and show it. */
#include <stdlib.h>
#include <string.h>

#include "cli/machine.h"

static void add_memory(const struct facts *f, struct text *out) {
    const double gib = 1.0 / (1 << 30);
    text_addf(out, "cpu       %s, %s\n", f->cpu[0] ? f->cpu : "unknown", f->isa);
    text_addf(out, "          %u package%s, %u core%s, %u thread%s", f->n_packages, f->n_packages == 1 ? "" : "s", f->n_cores,
              f->n_cores == 1 ? "" : "s", f->n_threads, f->n_threads == 1 ? "" : "s");
    if (f->n_nodes > 1) text_addf(out, ", %u NUMA nodes", f->n_nodes);
    text_addf(out, "; meeting %.2f us\nmemory    %.1f GiB, %.1f GiB available\n", 1e6 * f->barrier_s,
              gib * (double)f->memory_total_bytes, gib * (double)f->memory_available_bytes);
    for (unsigned i = 0; i < f->n_ram_rates; i++)
        text_addf(out, "%s%.1f GB/s with %u thread%s", i ? ", " : "          reads ", 1e-9 * f->ram_rates[i].bytes_per_s,
                  f->ram_rates[i].threads, f->ram_rates[i].threads == 1 ? "" : "s");
    text_addf(out, "\n");
}

static void add_kernels(const struct facts *f, struct text *out) {
    text_addf(out, "kernels   type     isa     threads  decode GB/s  batch GMAC/s\n");
    for (unsigned i = 0; i < f->n_kernels; i++) {
        const struct facts_kernel *k = &f->kernels[i];
        text_addf(out, "          %-8s %-7s %7u %12.1f %13.1f\n", k->type, k->isa, k->threads, 1e-9 * k->decode_bytes_per_s,
                  1e-9 * k->batch_macs_per_s);
    }
}

static void add_drive(const struct facts_drive *d, struct text *out) {
    text_addf(out, "drive     %s%s%s%s\n", d->name, d->model[0] ? ", " : "", d->model,
              d->n_rates == 0 ? ": not measured (-m FILE: a model that lies there)"
              : d->direct_io  ? ""
                              : ", through the page cache");
    uint64_t size = 0;
    for (unsigned i = 0; i < d->n_rates; i++) {
        const struct facts_drive_rate *r = &d->rates[i];
        if (r->request_bytes != size)
            text_addf(out, "%s          %llu KiB:", i ? "\n" : "", (unsigned long long)(r->request_bytes >> 10));
        text_addf(out, "%s %.2f GB/s %u deep", r->request_bytes == size ? "," : "", 1e-9 * r->bytes_per_s, r->depth);
        size = r->request_bytes;
    }
    if (d->n_rates) text_addf(out, "\n");
}

static void add_gpu(const struct facts_gpu *g, struct text *out) {
    text_addf(out, "gpu       %s: not measured (this build has no GPU kernels)\n", g->name);
}

static enum err answer(struct cli *c, const struct facts *f, struct text *out, struct reason *why) {
    const char *path = c->options->out_path;
    struct text cache = {0};
    enum err code = ERR_NONE;
    if (path && strcmp(path, "-") == 0) {
        facts_write(f, out);
        return ERR_NONE;
    }
    add_memory(f, out);
    add_kernels(f, out);
    for (unsigned i = 0; i < f->n_drives; i++) add_drive(&f->drives[i], out);
    for (unsigned i = 0; i < f->n_gpus; i++) add_gpu(&f->gpus[i], out);
    if (!path && machine_cache_path(c->options, &cache)) path = cache.ptr;
    if (path)
        code = machine_write(path, f, why);
    else
        log_line(&c->log, LOG_WARN, "not kept: neither XDG_CACHE_HOME nor HOME is set; use -o FILE");
    if (path && !code) text_addf(out, "kept in   %s\n", path);
    text_free(&cache);
    return code;
}

int cmd_probe(struct cli *c) {
    struct reason why = {""};
    struct facts *f = NULL;
    struct text out = {0};
    enum err code = machine_measure(c, c->options->model, &f, &why);
    if (!code) code = answer(c, f, &out, &why);
    if (!code && out.failed) code = fail(&why, ERR_NO_MEMORY, "no memory for the summary");
    const int status = code ? cli_fail(c, code, &why) : cli_write_text(&out) ? EXIT_DONE : EXIT_FAILED;
    text_free(&out);
    free(f);
    return status;
}

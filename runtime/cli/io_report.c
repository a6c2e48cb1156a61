/* See io_report.h: what /stats shows and -v logs. */
#include "cli/io_report.h"

#include <inttypes.h>

static double percent(uint64_t part, uint64_t whole) { return whole ? 100.0 * (double)part / (double)whole : 0; }

static void add_bytes(const struct engine_io *io, struct text *out) {
    const double a_token = 1e-6 / (double)(io->tokens ? io->tokens : 1);
    const uint64_t all = io->demand_bytes + io->ahead_bytes + io->fill_bytes;
    text_addf(out, "read a token: %.1f MB needed, %.1f MB ahead, %.1f MB in the background; %.2f GB in all\n",
              a_token * (double)io->demand_bytes, a_token * (double)io->ahead_bytes, a_token * (double)io->fill_bytes,
              1e-9 * (double)all);
}

static void add_drive(const struct engine_io *io, uint64_t ns, struct text *out) {
    text_addf(out, "drive: busy for %.1f of %.1f s (%.0f %%)", 1e-9 * (double)io->busy_ns, 1e-9 * (double)ns,
              percent(io->busy_ns, ns));
    if (io->tokens) text_addf(out, ", %.1f ms a token waited for it", 1e-6 * (double)io->wait_ns / (double)io->tokens);
    if (io->retries) text_addf(out, ", %" PRIu64 " read%s repeated", io->retries, io->retries == 1 ? "" : "s");
    text_addf(out, "\n");
}

static void add_look_ahead(const struct engine_io *io, struct text *out) {
    text_addf(out, "look-ahead: %s", io->look_ahead_on ? "on" : "off");
    if (io->expected) text_addf(out, ", %.1f %% of what it expected was chosen", percent(io->expected_right, io->expected));
    if (io->ahead_reads)
        text_addf(out, ", %.1f %% of %" PRIu64 " experts read ahead were used", percent(io->ahead_used, io->ahead_reads),
                  io->ahead_reads);
    text_addf(out, "\n");
}

void io_report(const struct engine_io *io, uint64_t ns, struct text *out) {
    if (!io->experts) return;
    text_addf(out, "experts: %" PRIu32 " of %" PRIu32 " in RAM, room for %" PRIu32 "; read with %s\n", io->resident,
              io->experts, io->slots, io->backend);
    if (io->uses)
        text_addf(out, "hits: %.1f %% of %" PRIu64 " experts that were needed\n", percent(io->hits, io->uses), io->uses);
    if (io->tokens) add_bytes(io, out);
    add_drive(io, ns, out);
    add_look_ahead(io, out);
    if (io->deferred)
        text_addf(out, "deferred: %.1f experts a token were added one layer late, which changes answers (--defer-experts)\n",
                  (double)io->deferred / (double)(io->tokens ? io->tokens : 1));
}

static double mib(uint64_t bytes) { return (double)bytes / (1 << 20); }

void gpu_report(const struct engine_info *info, const struct engine_io *io, struct text *out) {
    if (!info->device[0]) return;
    text_addf(out, "GPU: %s, at most %.0f of %.0f MiB of VRAM used; %" PRIu32 " of %" PRIu32 " experts there\n", info->device,
              mib(info->vram_peak), mib(info->vram_budget), info->vram_experts, io->experts);
    if (io->gpu_tokens) {
        const double a_token = 1 / (double)io->gpu_tokens;
        text_addf(out, "misses: %.2f experts a token; the CPU worked %.2f ms a token on %.1f requests of the GPU\n",
                  a_token * (double)io->gpu_misses, 1e-6 * a_token * (double)io->mail_ns, a_token * (double)io->mails);
    }
    if (io->arrived)
        text_addf(out, "came to VRAM after the start: %" PRIu64 " experts, %" PRIu64 " of them for prompts\n", io->arrived, io->arrived_needed);
    if (io->moved) text_addf(out, "moved into VRAM: %" PRIu64 " experts, %.2f GB\n", io->moved, 1e-9 * (double)io->moved_bytes);
    if (io->passed)
        text_addf(out, "passed through VRAM by prompts: %" PRIu64 " experts, %.2f GB; %" PRIu64 " more were there already\n", io->passed,
                  1e-9 * (double)io->passed_bytes, io->passed_again);
}

/* See plan_report.h. Names from files are escaped (JSON) or stripped of control bytes (text). */
#include "cli/plan_report.h"

#include <inttypes.h>

#include "cli/cli.h"

#define MIB(bytes) ((double)(bytes) / (1 << 20))
#define GIB(bytes) ((double)(bytes) / (1 << 30))

static const char *const tier_names[PLAN_TIERS] = {"VRAM", "RAM", "NVMe"};
static const char *const tier_keys[PLAN_TIERS] = {"vram", "ram", "nvme"};
static const char *const kind_names[PLAN_KINDS] = {"dense", "embedding", "KV cache", "scratch", "overhead", "experts"};
static const char *const kind_keys[PLAN_KINDS] = {"dense", "embedding", "kv", "scratch", "overhead", "experts"};
static const char *const resource_keys[PLAN_RESOURCES] = {"ram", "cpu", "drive", "vram", "gpu", "link"};

enum { STRIP_COLUMNS = 64 };

static const struct facts_gpu *gpu_of(const struct plan_report *r) {
    return r->facts->n_gpus > r->request->gpu ? &r->facts->gpus[r->request->gpu] : NULL;
}
static const struct facts_drive *drive_of(const struct plan_report *r) {
    return r->facts->n_drives > r->request->drive ? &r->facts->drives[r->request->drive] : NULL;
}

/* ---- text ----------------------------------------------------------------------------------------------------------- */

static void add_plain(struct span s, struct text *out) {
    for (size_t i = 0; i < s.len; i++) {
        const unsigned char c = (unsigned char)s.ptr[i];
        text_add(out, c < 0x20 || c == 0x7f ? "?" : s.ptr + i, 1);
    }
}

static void add_machine(const struct plan_report *r, struct text *out) {
    const struct facts *f = r->facts;
    const struct facts_gpu *gpu = gpu_of(r);
    const struct facts_drive *drive = drive_of(r);
    text_addf(out, "machine   ");
    add_plain(span_of(f->name), out);
    text_addf(out, ": ");
    add_plain(span_of(f->cpu[0] ? f->cpu : "unnamed CPU"), out);
    text_addf(out, ", %u cores, %.1f GiB RAM (%.1f free)", f->n_cores, GIB(f->memory_total_bytes),
              GIB(f->memory_available_bytes));
    if (gpu) {
        text_addf(out, ", ");
        add_plain(span_of(gpu->name), out);
        text_addf(out, " %.1f GiB (%.1f free)", GIB(gpu->vram_bytes),
                  GIB(gpu->vram_free_bytes ? gpu->vram_free_bytes : gpu->vram_bytes));
    }
    if (drive) {
        text_addf(out, ", drive ");
        add_plain(span_of(drive->name), out);
    }
    text_addf(out, "\n");
}

/* What the CPU computes although a GPU is used. */
static void add_host_parts(const struct plan *p, struct text *out) {
    uint32_t attention = 0, routers = 0;
    for (uint32_t l = 0; l < p->n_layers; l++) attention += !p->layers[l].attention_on_gpu, routers += !p->layers[l].router_on_gpu;
    if (!p->use_gpu || (!attention && !routers && p->head_on_gpu)) return;
    text_addf(out, "note      the CPU computes attention of %u layers, all experts of %u%s\n", attention, routers, p->head_on_gpu ? "" : ", and the head");
}

static void add_head(const struct plan_report *r, struct text *out) {
    const struct plan *p = r->plan;
    add_machine(r, out);
    text_addf(out, "model     ");
    add_plain(r->model, out);
    text_addf(out, ": %u layers of %u experts, %u used by a token, %.2f GiB\n", p->n_layers, p->n_experts, p->n_used,
              GIB(r->model_bytes));
    text_addf(out, "context   %" PRIu64 " tokens, K %s, V %s: %.1f KiB a token\n", p->context_tokens,
              plan_kv_name(r->request->type_k), plan_kv_name(r->request->type_v), (double)p->kv_bytes_per_token / 1024);
    if (p->gpu_note) text_addf(out, "note      the GPU is not used: %s\n", p->gpu_note);
    add_host_parts(p, out);
    if (r->cpu_build && p->use_gpu)
        text_addf(out, "note      this build has no GPU kernels: commands run as with --vram-budget 0\n");
    for (uint32_t i = 0; i < r->request->n_rules; i++)
        text_addf(out, "rule      -ot %s=%s decides %u tensors\n", r->request->rules[i].pattern,
                  r->request->rules[i].tier == PLAN_RAM    ? "CPU"
                  : r->request->rules[i].tier == PLAN_VRAM ? "CUDA0"
                                                           : "NVME",
                  p->rule_matches[i]);
}

static void add_row(const char *name, const double *values, int precision, bool with_gpu, struct text *out) {
    text_addf(out, "  %-10s", name);
    for (int t = 0; t < PLAN_TIERS; t++) {
        if (t == PLAN_VRAM && !with_gpu) continue;
        if (values[t] < 0)
            text_addf(out, "%10s", "-");
        else
            text_addf(out, "%10.*f", precision, values[t]);
    }
    text_addf(out, "\n");
}

static void add_tiers(const struct plan_report *r, struct text *out) {
    const struct plan *p = r->plan;
    const double experts = (double)p->n_layers * p->n_experts;
    text_addf(out, "\n  %-10s", "MiB");
    for (int t = p->use_gpu ? 0 : 1; t < PLAN_TIERS; t++) text_addf(out, "%10s", tier_names[t]);
    text_addf(out, "\n");
    for (int k = 0; k < PLAN_KINDS; k++) {
        const double row[PLAN_TIERS] = {MIB(p->bytes[PLAN_VRAM][k]), MIB(p->bytes[PLAN_RAM][k]),
                                        k == PLAN_EXPERTS ? MIB(p->bytes[PLAN_NVME][k]) : -1};
        add_row(kind_names[k], row, 0, p->use_gpu, out);
    }
    const double sums[PLAN_TIERS] = {MIB(plan_tier_bytes(p, PLAN_VRAM)), MIB(plan_tier_bytes(p, PLAN_RAM)),
                                     MIB(plan_tier_bytes(p, PLAN_NVME))};
    const double limits[PLAN_TIERS] = {MIB(p->vram_budget), MIB(p->ram_budget), -1};
    const double counts[PLAN_TIERS] = {p->experts[0], p->experts[1], p->experts[2]};
    const double shares[PLAN_TIERS] = {100 * counts[0] / experts, 100 * counts[1] / experts, 100 * counts[2] / experts};
    double hits[PLAN_TIERS] = {0};
    for (uint32_t l = 0; l < p->n_layers; l++) {
        hits[PLAN_VRAM] += 100 * p->layers[l].hit_vram / p->n_layers;
        hits[PLAN_RAM] += 100 * p->layers[l].hit_ram / p->n_layers;
    }
    hits[PLAN_NVME] = 100 - hits[PLAN_VRAM] - hits[PLAN_RAM];
    if (hits[PLAN_NVME] < 0.005) hits[PLAN_NVME] = 0;
    add_row("total", sums, 0, p->use_gpu, out);
    add_row("budget", limits, 0, p->use_gpu, out);
    add_row("experts", counts, 0, p->use_gpu, out);
    add_row("  share %", shares, 1, p->use_gpu, out);
    add_row("  uses %", hits, 1, p->use_gpu, out);
}

/* '.' none, 1..9 tenths, '#' all. */
static char density(uint32_t n, uint32_t all) {
    if (n == 0) return '.';
    if (n >= all) return '#';
    const uint32_t tenths = (uint32_t)((10ull * n + all / 2) / all);
    return (char)('0' + (tenths < 1 ? 1 : tenths > 9 ? 9 : tenths));
}

static void add_strip(const struct plan *p, struct text *out) {
    text_addf(out, "\nexperts by layer (a column each; # all of them, 1 to 9 tenths, . none)\n");
    for (uint32_t from = 0; from < p->n_layers; from += STRIP_COLUMNS) {
        const uint32_t to = p->n_layers - from < STRIP_COLUMNS ? p->n_layers : from + STRIP_COLUMNS;
        for (int t = p->use_gpu ? 0 : 1; t < PLAN_TIERS; t++) {
            text_addf(out, "  %-5s %4u ", tier_names[t], from);
            for (uint32_t l = from; l < to; l++) {
                const char c = density(p->layers[l].experts[t], p->n_experts);
                text_add(out, &c, 1);
            }
            text_addf(out, "\n");
        }
    }
    for (uint32_t c = 0; c < p->n_classes; c++) {
        text_addf(out, "  slots of %.2f MiB for %u layers: %u in RAM", MIB(p->classes[c].slot_bytes), p->classes[c].n_layers,
                  p->classes[c].slots);
        if (p->use_gpu) text_addf(out, ", %u in VRAM", p->classes[c].vram_slots);
        text_addf(out, "\n");
    }
}

/* Every resource that is busy for a hundredth of the time or more, the limiting one first. */
static void add_busy(const struct plan_prediction *q, struct text *out) {
    text_addf(out, "%s %.0f %%", plan_resource_name(q->limit), 100 * q->busy_s[q->limit] / q->seconds);
    for (int i = 0; i < PLAN_RESOURCES; i++)
        if (i != (int)q->limit && q->busy_s[i] >= q->seconds / 100)
            text_addf(out, ", %s %.0f %%", plan_resource_name((enum plan_resource)i), 100 * q->busy_s[i] / q->seconds);
    text_addf(out, "\n");
}

static void add_prediction(const char *name, const struct plan_prediction *q, bool as_time, struct text *out) {
    text_addf(out, "  %-28s", name);
    if (!q->known) {
        text_addf(out, "not known: the machine was not measured (coldstream probe)\n");
        return;
    }
    if (as_time)
        text_addf(out, "%9.2f s      ", q->seconds);
    else
        text_addf(out, "%9.*f tok/s  ", q->tokens_per_s < 100 ? 1 : 0, q->tokens_per_s);
    add_busy(q, out);
}

static void add_gain(const char *tier, const struct plan_gain *gain, const struct plan *p, struct text *out) {
    text_addf(out, "  %.0f GiB more %-5s", GIB(gain->extra_bytes), tier);
    if (!gain->fits) {
        text_addf(out, "nothing: no expert would move\n");
        return;
    }
    text_addf(out, "%u more experts there", gain->experts);
    if (p->decode.known && gain->decode_tokens_per_s > 0)
        text_addf(out, ", decode %.1f tok/s (%+.0f %%)", gain->decode_tokens_per_s,
                  100 * (gain->decode_tokens_per_s / p->decode.tokens_per_s - 1));
    if (p->prefill.known && gain->prefill_tokens_per_s > 0)
        text_addf(out, ", prompt %.0f tok/s (%+.0f %%)", gain->prefill_tokens_per_s,
                  100 * (gain->prefill_tokens_per_s / p->prefill.tokens_per_s - 1));
    text_addf(out, "\n");
}

void plan_report_text(const struct plan_report *r, struct text *out) {
    const struct plan *p = r->plan;
    char name[64];
    add_head(r, out);
    add_tiers(r, out);
    add_strip(p, out);
    text_addf(out, "\npredicted (and how much of the time each part is busy, the limit first)\n");
    add_prediction("decode, empty context", &p->decode, false, out);
    snprintf(name, sizeof name, "decode, %" PRIu64 " tokens held", p->context_tokens);
    add_prediction(name, &p->decode_full, false, out);
    snprintf(name, sizeof name, "prompt of %u tokens", p->prompt_tokens);
    add_prediction(name, &p->prefill, false, out);
    add_prediction("first token after start", &p->first_token, true, out);
    if (!p->all_resident)
        text_addf(out, "  %.1f MB are read from the drive for a token of decode\n", p->drive_bytes_per_token / 1e6);
    if (!r->request->profile)
        text_addf(out, "  no profile: choices are taken to be as skewed as a trained router's usually are\n");
    text_addf(out, "\nwhat more memory would buy\n");
    add_gain("RAM", &p->more_ram, p, out);
    if (p->use_gpu) add_gain("VRAM", &p->more_vram, p, out);
}

/* ---- JSON ----------------------------------------------------------------------------------------------------------- */

static const char *boolean(bool b) { return b ? "true" : "false"; }

static void add_tier_json(const struct plan *p, int t, struct text *out) {
    text_addf(out, "\"%s\": {", tier_keys[t]);
    for (int k = 0; k < PLAN_KINDS; k++) text_addf(out, "\"%s_bytes\": %" PRIu64 ", ", kind_keys[k], p->bytes[t][k]);
    text_addf(out, "\"total_bytes\": %" PRIu64 ", ", plan_tier_bytes(p, (enum plan_tier)t));
    if (t != PLAN_NVME) text_addf(out, "\"budget_bytes\": %" PRIu64 ", ", t == PLAN_VRAM ? p->vram_budget : p->ram_budget);
    text_addf(out, "\"experts\": %u}", p->experts[t]);
}

static void add_prediction_json(const char *name, const struct plan_prediction *q, struct text *out) {
    text_addf(out, "\"%s\": ", name);
    if (!q->known) {
        text_addf(out, "null");
        return;
    }
    text_addf(out, "{\"tokens_per_s\": %.6g, \"seconds\": %.6g, \"limit\": \"%s\", \"busy_s\": {", q->tokens_per_s, q->seconds,
              resource_keys[q->limit]);
    for (int i = 0; i < PLAN_RESOURCES; i++) text_addf(out, "%s\"%s\": %.6g", i ? ", " : "", resource_keys[i], q->busy_s[i]);
    text_addf(out, "}}");
}

static void add_gain_json(const char *name, const struct plan_gain *gain, struct text *out) {
    text_addf(out, "\"%s\": {\"extra_bytes\": %" PRIu64 ", \"experts\": %u, \"decode_tokens_per_s\": ", name, gain->extra_bytes,
              gain->experts);
    text_addf(out, gain->decode_tokens_per_s > 0 ? "%.6g" : "null", gain->decode_tokens_per_s);
    text_addf(out, ", \"prefill_tokens_per_s\": ");
    text_addf(out, gain->prefill_tokens_per_s > 0 ? "%.6g" : "null", gain->prefill_tokens_per_s);
    text_addf(out, "}");
}

static void add_layers_json(const struct plan *p, struct text *out) {
    text_addf(out, "\"layers\": [");
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const struct plan_layer *layer = &p->layers[l];
        text_addf(out,
                  "%s{\"class\": %u, \"attention_on_gpu\": %s, \"router_on_gpu\": %s, \"kv_on_gpu\": %s, \"vram\": %u, \"ram\": %u, \"nvme\": %u, "
                  "\"hit_vram\": %.6g, \"hit_ram\": %.6g}",
                  l ? ", " : "", layer->class, boolean(layer->attention_on_gpu), boolean(layer->router_on_gpu), boolean(layer->kv_on_gpu),
                  layer->experts[PLAN_VRAM], layer->experts[PLAN_RAM], layer->experts[PLAN_NVME], layer->hit_vram,
                  layer->hit_ram);
    }
    text_addf(out, "]");
}

static void add_classes_json(const struct plan *p, struct text *out) {
    text_addf(out, "\"classes\": [");
    for (uint32_t c = 0; c < p->n_classes; c++)
        text_addf(out,
                  "%s{\"layers\": %u, \"slot_bytes\": %" PRIu64 ", \"slots\": %u, \"vram_slot_bytes\": %" PRIu64
                  ", \"vram_slots\": %u}",
                  c ? ", " : "", p->classes[c].n_layers, p->classes[c].slot_bytes, p->classes[c].slots,
                  p->classes[c].vram_slot_bytes, p->classes[c].vram_slots);
    text_addf(out, "]");
}

void plan_report_json(const struct plan_report *r, struct text *out) {
    const struct plan *p = r->plan;
    text_addf(out, "{\"version\": 1, \"machine\": ");
    cli_add_json_string(span_of(r->facts->name), out);
    text_addf(out, ", \"model\": {\"name\": ");
    cli_add_json_string(r->model, out);
    text_addf(out, ", \"weight_bytes\": %" PRIu64 ", \"n_layers\": %u, \"n_experts\": %u, \"n_experts_used\": %u}",
              r->model_bytes, p->n_layers, p->n_experts, p->n_used);
    text_addf(out,
              ", \"context_tokens\": %" PRIu64 ", \"kv\": {\"k\": \"%s\", \"v\": \"%s\", \"bytes_per_token\": %" PRIu64 "}",
              p->context_tokens, plan_kv_name(r->request->type_k), plan_kv_name(r->request->type_v), p->kv_bytes_per_token);
    text_addf(out, ", \"use_gpu\": %s, \"head_on_gpu\": %s, \"gpu_note\": ", boolean(p->use_gpu), boolean(p->head_on_gpu));
    if (p->gpu_note)
        cli_add_json_string(span_of(p->gpu_note), out);
    else
        text_addf(out, "null");
    text_addf(out, ", \"all_resident\": %s, \"profile\": %s, \"tiers\": {", boolean(p->all_resident),
              boolean(r->request->profile != NULL));
    for (int t = 0; t < PLAN_TIERS; t++) {
        if (t) text_addf(out, ", ");
        add_tier_json(p, t, out);
    }
    text_addf(out, "}, ");
    add_classes_json(p, out);
    text_addf(out, ", ");
    add_layers_json(p, out);
    text_addf(out, ", \"prompt_tokens\": %u, \"drive_bytes_per_token\": %.6g, \"predictions\": {", p->prompt_tokens,
              p->drive_bytes_per_token);
    add_prediction_json("decode", &p->decode, out);
    text_addf(out, ", ");
    add_prediction_json("decode_full", &p->decode_full, out);
    text_addf(out, ", ");
    add_prediction_json("prefill", &p->prefill, out);
    text_addf(out, ", ");
    add_prediction_json("first_token", &p->first_token, out);
    text_addf(out, "}, \"gains\": {");
    add_gain_json("ram", &p->more_ram, out);
    text_addf(out, ", ");
    add_gain_json("vram", &p->more_vram, out);
    text_addf(out, "}}\n");
}

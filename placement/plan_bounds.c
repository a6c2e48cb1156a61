/* Flags as bounds: which tensors may live where. Knows names and regular expressions, no budgets. */
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "placement/plan_private.h"

/* ---- rules ---------------------------------------------------------------------------------------------------------- */

static bool buffer_tier(struct span name, enum plan_tier *out) {
    static const struct {
        const char *name;
        enum plan_tier tier;
    } known[] = {{"CPU", PLAN_RAM}, {"CUDA0", PLAN_VRAM}, {"NVME", PLAN_NVME}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i].name) == name.len && strncasecmp(known[i].name, name.ptr, name.len) == 0) {
            *out = known[i].tier;
            return true;
        }
    return false;
}

enum err plan_parse_rules(const char *text, struct plan_rule *rules, uint32_t *n, uint32_t max, struct reason *why) {
    while (*text) {
        /* The pattern may hold commas (a{1,2}), so a rule ends at the comma behind its buffer. */
        const size_t pattern = strcspn(text, "="), buffer = text[pattern] ? strcspn(text + pattern + 1, ",") : 0;
        if (pattern == 0 || buffer == 0) return fail(why, ERR_ARGUMENT, "-ot %.100s: a rule is REGEX=BUFFER", text);
        if (pattern >= PLAN_MAX_PATTERN)
            return fail(why, ERR_ARGUMENT, "-ot %.60s...: a pattern has at most %d characters", text, PLAN_MAX_PATTERN - 1);
        if (*n >= max) return fail(why, ERR_ARGUMENT, "-ot: at most %u rules", max);
        struct plan_rule *r = &rules[*n];
        if (!buffer_tier((struct span){text + pattern + 1, buffer}, &r->tier))
            return fail(why, ERR_ARGUMENT, "-ot %.*s: buffers are CPU, CUDA0 and NVME", (int)(pattern + 1 + buffer), text);
        snprintf(r->pattern, sizeof r->pattern, "%.*s", (int)pattern, text);
        ++*n;
        text += pattern + 1 + buffer;
        text += *text == ',';
    }
    return ERR_NONE;
}

/* Users write patterns in the dialect of other runtimes: \d, \w and (?: become POSIX. False: too long. */
static bool to_posix(const char *pattern, char *out, size_t size) {
    static const struct {
        const char *from, *to, *in_brackets;
    } words[] = {{"\\d", "[0-9]", "0-9"}, {"\\w", "[A-Za-z0-9_]", "A-Za-z0-9_"}, {"(?:", "(", "(?:"}};
    size_t used = 0;
    bool brackets = false;
    for (const char *p = pattern; *p;) {
        const char *piece = p;
        size_t eaten = *p == '\\' && p[1] && !brackets ? 2 : 1, len = eaten;
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            if (strncmp(p, words[i].from, strlen(words[i].from)) == 0) {
                piece = brackets ? words[i].in_brackets : words[i].to;
                eaten = strlen(words[i].from);
                len = strlen(piece);
            }
        if (eaten == 1 && *p == '[') brackets = true;
        if (eaten == 1 && *p == ']') brackets = false;
        if (used + len >= size) return false;
        memcpy(out + used, piece, len);
        used += len;
        p += eaten;
    }
    out[used] = 0;
    return true;
}

enum { NO_RULE = UINT32_MAX };

/* first[i]: the first rule that matches tensor i, or NO_RULE. */
static enum err match_rule(const struct planning *g, uint32_t rule, uint32_t *first, struct reason *why) {
    const struct plan_rule *r = &g->r->rules[rule];
    char posix[4 * PLAN_MAX_PATTERN], text[100];
    regex_t compiled;
    if (!to_posix(r->pattern, posix, sizeof posix))
        return fail(why, ERR_ARGUMENT, "-ot %s: the pattern is too long", r->pattern);
    const int code = regcomp(&compiled, posix, REG_EXTENDED | REG_NOSUB);
    if (code) {
        regerror(code, &compiled, text, sizeof text);
        return fail(why, ERR_ARGUMENT, "-ot %s: %s", r->pattern, text);
    }
    uint32_t matched = 0;
    for (uint32_t i = 0; i < g->m->n_tensors; i++) {
        char name[256];
        snprintf(name, sizeof name, "%.*s", (int)g->m->tensors[i].name.len,
                 g->m->tensors[i].name.ptr ? g->m->tensors[i].name.ptr : "");
        if (regexec(&compiled, name, 0, NULL, 0) != 0) continue;
        matched++;
        if (first[i] != NO_RULE) continue;
        first[i] = rule;
        g->p->rule_matches[rule]++;
    }
    regfree(&compiled);
    return matched ? ERR_NONE : fail(why, ERR_ARGUMENT, "-ot %s: no tensor of the model has a name like that", r->pattern);
}

/* ---- bounds --------------------------------------------------------------------------------------------------------- */

/* Where the part of the network is computed that a tensor belongs to: a layer's attention, its router, the head. NULL: of none. */
static bool *part_of(const struct planning *g, const struct plan_tensor *t) {
    if (t->role == PLAN_ROLE_HEAD) return &g->p->head_on_gpu;
    if (t->layer >= g->m->n_layers) return NULL;
    if (t->role == PLAN_ROLE_ATTENTION) return &g->p->layers[t->layer].attention_on_gpu;
    return t->role == PLAN_ROLE_ROUTER ? &g->p->layers[t->layer].router_on_gpu : NULL;
}

static void bound_dense(const struct planning *g) {
    const uint32_t n = g->m->n_layers, on_gpu = g->gpu ? g->r->gpu_layers < n ? g->r->gpu_layers : n : 0;
    for (uint32_t l = 0; l < n; l++) g->p->layers[l].attention_on_gpu = g->p->layers[l].router_on_gpu = l >= n - on_gpu;
    g->p->head_on_gpu = g->gpu && g->r->gpu_layers > n;
}

/* Experts, the cache and single tensors follow. */
static void bound_rest(const struct planning *g) {
    for (uint32_t l = 0; l < g->m->n_layers; l++) {
        struct plan_layer *layer = &g->p->layers[l];
        layer->kv_on_gpu = layer->attention_on_gpu && !g->r->kv_on_host;
        layer->may_vram = layer->router_on_gpu && l >= g->r->cpu_moe_layers;
        layer->may_ram = true;
    }
    for (uint32_t i = 0; i < g->m->n_tensors; i++) {
        const bool *at = part_of(g, &g->m->tensors[i]);
        g->tensor_tier[i] = at && *at ? PLAN_VRAM : PLAN_RAM;
    }
}

static enum err bound_experts(const struct planning *g, const struct plan_tensor *t, enum plan_tier tier, struct reason *why) {
    if (t->layer >= g->m->n_layers) return ERR_NONE;
    struct plan_layer *layer = &g->p->layers[t->layer];
    if (tier == PLAN_VRAM) {
        if (!g->gpu)
            return fail(why, ERR_ARGUMENT, "-ot ...=CUDA0 wants '%.*s' in VRAM, but no GPU is used", (int)t->name.len,
                        t->name.ptr);
        if (!layer->router_on_gpu)
            return fail(why, ERR_ARGUMENT,
                        "-ot ...=CUDA0 wants '%.*s' in VRAM, but experts are there only where their router is: a larger -ngl, or "
                        "a rule blk.%u.ffn_gate_inp=CUDA0", (int)t->name.len, t->name.ptr, t->layer);
        g->must_vram[t->layer] = true;
    } else if (tier == PLAN_NVME) {
        layer->may_ram = false;
    }
    return ERR_NONE;
}

/* *moved_out: a rule sent the part to the CPU; another one for another tensor of it does not take it back. */
static enum err move_part(const struct planning *g, const struct plan_tensor *t, enum plan_tier tier, bool *moved_out, struct reason *why) {
    bool *at = part_of(g, t);
    if (tier == PLAN_NVME)
        return fail(why, ERR_ARGUMENT, "-ot ...=NVME matches '%.*s': only experts can stay on the drive", (int)t->name.len,
                    t->name.ptr);
    if (tier == PLAN_VRAM && !g->gpu)
        return fail(why, ERR_ARGUMENT, "-ot ...=CUDA0 wants '%.*s' in VRAM, but no GPU is used", (int)t->name.len, t->name.ptr);
    if (!at) return ERR_NONE; /* the embedding: one row a token is read, not worth VRAM */
    *moved_out |= tier == PLAN_RAM;
    *at = !*moved_out;
    return ERR_NONE;
}

/* A layer whose matrices were sent to different tiers follows the slowest. */
static void settle_experts(const struct planning *g, const uint32_t *first) {
    for (uint32_t i = 0; i < g->m->n_tensors; i++) {
        const struct plan_tensor *t = &g->m->tensors[i];
        if (t->role != PLAN_ROLE_EXPERTS || first[i] == NO_RULE || g->r->rules[first[i]].tier == PLAN_VRAM) continue;
        g->must_vram[t->layer] = false;
        g->p->layers[t->layer].may_vram = false;
    }
    for (uint32_t l = 0; l < g->m->n_layers; l++) {
        g->p->layers[l].must_vram = g->must_vram[l];
        g->p->layers[l].may_vram |= g->must_vram[l];
    }
}

static enum err match_rules(const struct planning *g, uint32_t *first, struct reason *why) {
    for (uint32_t i = 0; i < g->m->n_tensors; i++) first[i] = NO_RULE;
    for (uint32_t i = 0; i < g->r->n_rules; i++) TRY(match_rule(g, i, first, why));
    return ERR_NONE;
}

/* moved_out: [2 * n_layers + 1] a layer's attention, its router, ..., the head. */
static enum err move_parts(const struct planning *g, const uint32_t *first, bool *moved_out, struct reason *why) {
    for (uint32_t i = 0; i < g->m->n_tensors; i++) {
        const struct plan_tensor *t = &g->m->tensors[i];
        if (first[i] == NO_RULE || t->role == PLAN_ROLE_EXPERTS) continue;
        const uint32_t part = t->layer < g->m->n_layers ? 2 * t->layer + (t->role == PLAN_ROLE_ROUTER) : 2 * g->m->n_layers;
        TRY(move_part(g, t, g->r->rules[first[i]].tier, &moved_out[part], why));
    }
    return ERR_NONE;
}

static enum err move_experts(const struct planning *g, const uint32_t *first, struct reason *why) {
    for (uint32_t i = 0; i < g->m->n_tensors; i++)
        if (first[i] != NO_RULE && g->m->tensors[i].role == PLAN_ROLE_EXPERTS)
            TRY(bound_experts(g, &g->m->tensors[i], g->r->rules[first[i]].tier, why));
    settle_experts(g, first);
    return ERR_NONE;
}

enum err plan_set_bounds(struct planning *g, struct reason *why) {
    const struct plan_model *m = g->m;
    bound_dense(g);
    if (!g->r->n_rules) return bound_rest(g), ERR_NONE;
    uint32_t *first = calloc_checked(m->n_tensors, sizeof *first);
    bool *moved_out = calloc_checked(2 * (uint64_t)m->n_layers + 1, sizeof *moved_out);
    enum err code = first && moved_out ? ERR_NONE : fail(why, ERR_NO_MEMORY, "no memory to match -ot against %u tensors", m->n_tensors);
    if (!code) code = match_rules(g, first, why);
    if (!code) code = move_parts(g, first, moved_out, why);
    if (!code) bound_rest(g);
    if (!code) code = move_experts(g, first, why);
    free(first);
    free(moved_out);
    return code;
}

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

static void bound_layers(const struct planning *g) {
    const uint32_t n = g->m->n_layers, on_gpu = g->gpu ? g->r->gpu_layers < n ? g->r->gpu_layers : n : 0;
    for (uint32_t l = 0; l < n; l++) {
        struct plan_layer *layer = &g->p->layers[l];
        layer->dense_on_gpu = l >= n - on_gpu;
        layer->kv_on_gpu = layer->dense_on_gpu && !g->r->kv_on_host;
        layer->may_vram = layer->dense_on_gpu && l >= g->r->cpu_moe_layers;
        layer->may_ram = true;
    }
}

static enum err bound_experts(const struct planning *g, const struct plan_tensor *t, enum plan_tier tier, struct reason *why) {
    if (t->layer >= g->m->n_layers) return ERR_NONE;
    struct plan_layer *layer = &g->p->layers[t->layer];
    if (tier == PLAN_VRAM) {
        if (!g->gpu)
            return fail(why, ERR_ARGUMENT, "-ot ...=CUDA0 wants '%.*s' in VRAM, but no GPU is used", (int)t->name.len,
                        t->name.ptr);
        g->must_vram[t->layer] = true;
    } else if (tier == PLAN_NVME) {
        layer->may_ram = false;
    }
    return ERR_NONE;
}

static enum err bound_dense(const struct planning *g, uint32_t i, enum plan_tier tier, struct reason *why) {
    const struct plan_tensor *t = &g->m->tensors[i];
    if (tier == PLAN_NVME)
        return fail(why, ERR_ARGUMENT, "-ot ...=NVME matches '%.*s': only experts can stay on the drive", (int)t->name.len,
                    t->name.ptr);
    if (tier == PLAN_VRAM && !g->gpu)
        return fail(why, ERR_ARGUMENT, "-ot ...=CUDA0 wants '%.*s' in VRAM, but no GPU is used", (int)t->name.len, t->name.ptr);
    if (t->role != PLAN_ROLE_EMBEDDING) g->tensor_tier[i] = tier; /* one row a token is read: not worth VRAM */
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

static enum err apply_rules(const struct planning *g, uint32_t *first, struct reason *why) {
    for (uint32_t i = 0; i < g->m->n_tensors; i++) first[i] = NO_RULE;
    for (uint32_t i = 0; i < g->r->n_rules; i++) TRY(match_rule(g, i, first, why));
    for (uint32_t i = 0; i < g->m->n_tensors; i++) {
        if (first[i] == NO_RULE) continue;
        const enum plan_tier tier = g->r->rules[first[i]].tier;
        if (g->m->tensors[i].role == PLAN_ROLE_EXPERTS)
            TRY(bound_experts(g, &g->m->tensors[i], tier, why));
        else
            TRY(bound_dense(g, i, tier, why));
    }
    settle_experts(g, first);
    return ERR_NONE;
}

enum err plan_set_bounds(struct planning *g, struct reason *why) {
    const struct plan_model *m = g->m;
    bound_layers(g);
    for (uint32_t i = 0; i < m->n_tensors; i++) {
        const struct plan_tensor *t = &m->tensors[i];
        const bool on_gpu = t->role == PLAN_ROLE_DENSE && t->layer < m->n_layers
                                ? g->p->layers[t->layer].dense_on_gpu
                                : t->role != PLAN_ROLE_EMBEDDING && g->gpu && g->r->gpu_layers > m->n_layers;
        g->tensor_tier[i] = on_gpu ? PLAN_VRAM : PLAN_RAM;
    }
    if (!g->r->n_rules) return ERR_NONE;
    uint32_t *first = calloc_checked(m->n_tensors, sizeof *first);
    if (!first) return fail(why, ERR_NO_MEMORY, "no memory to match -ot against %u tensors", m->n_tensors);
    const enum err code = apply_rules(g, first, why);
    free(first);
    return code;
}

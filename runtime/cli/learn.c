/* See learn.h. Reading a profile of Qwen3-30B-A3B takes milliseconds, as does writing it. */
#include "cli/learn.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/repl_file.h"
#include "text/unicode.h"

enum {
    MAX_FILE_BYTES = 8 << 20, /* 100 layers of 512 experts take less than 1 */
    LEAST_TOKENS = 16,        /* below, nothing is kept */
    NAME_BYTES = 96,          /* of the model's name inside its identity */
    SLUG_BYTES = 40           /* and inside the file's */
};
static const double half_life_tokens = 16384; /* older use counts half after so many newer tokens: a dozen chats */

/* ---- identity --------------------------------------------------------------------------------------------------- */

static void add_name(struct span name, struct text *out) {
    if (name.len)
        unicode_normalize(name, false, out);
    else
        text_add_span(out, SPAN("unnamed"));
    size_t len = out->len < NAME_BYTES ? out->len : NAME_BYTES;
    while (len && len < out->len && ((unsigned char)out->ptr[len] & 0xc0) == 0x80) len--;
    out->len = len;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)out->ptr[i] < 0x20 || out->ptr[i] == 0x7f) out->ptr[i] = '?';
}

void learn_identity(const struct model *m, char *out, size_t size) {
    const struct model_shape *s = &m->shape;
    struct text name = {0};
    add_name(m->name, &name);
    snprintf(out, size, "%.*s %" PRIu32 "x%" PRIu32 "/%" PRIu32 " %" PRIu32 "x%" PRIu32 " %" PRIu64, (int)name.len,
             name.ptr ? name.ptr : "", s->n_layers, s->n_experts, s->n_experts_used, s->n_embd, s->n_ff, m->weight_bytes);
    text_free(&name);
}

/* "profiles/qwen3-30b-a3b-48x128-0123456789abcdef.json" of an identity. */
static void file_name(const char *identity, char *out, size_t size) {
    char slug[SLUG_BYTES + 1];
    size_t n = 0;
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (const char *c = identity; *c; c++) {
        hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
        const char lower = *c >= 'A' && *c <= 'Z' ? (char)(*c + 32) : *c;
        const bool plain = (lower >= 'a' && lower <= 'z') || (lower >= '0' && lower <= '9') || (lower == '.' && n);
        if (n < SLUG_BYTES && (plain || (n && slug[n - 1] != '-'))) slug[n++] = plain ? lower : '-';
    }
    snprintf(out, size, "profiles/%.*s-%016" PRIx64 ".json", (int)n, slug, hash);
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

enum err learn_read_profile(const char *path, struct profile *out, struct reason *why) {
    struct text json = {0};
    struct reason inner = {""};
    *out = (struct profile){0};
    enum err err = whole_file_read(path, MAX_FILE_BYTES, &json, why);
    if (!err && (err = profile_parse((struct span){json.ptr, json.len}, out, &inner)))
        fail(why, err, "%s: %s", path, inner.text);
    text_free(&json);
    return err;
}

enum err learn_write_profile(const char *path, const struct profile *p, struct reason *why) {
    struct text json = {0};
    profile_write(p, &json);
    const enum err err = json.failed ? fail(why, ERR_NO_MEMORY, "%s: no memory to write it", path)
                                     : whole_file_replace(path, (struct span){json.ptr, json.len}, why);
    text_free(&json);
    return err;
}

/* ---- start ------------------------------------------------------------------------------------------------------ */

static bool same_shape(const struct profile *p, const struct model_shape *s) {
    return p->n_layers == s->n_layers && p->n_experts == s->n_experts && p->n_used == s->n_experts_used;
}

/* A profile of another quantization of the model serves, so a given one needs only the shape; what was learned must be its own.
 */
static void take_profile(struct learner *l, const char *path, const struct model *m, const char *identity, bool given) {
    const struct log_sink *log = &l->cli->log;
    struct reason why;
    const enum err err = learn_read_profile(path, &l->known, &why);
    if (err) {
        log_line(log, LOG_WARN, "%s; it is ignored", why.text);
        l->keep &= given || err != ERR_UNSUPPORTED;
        return;
    }
    const bool same = strcmp(l->known.model, identity) == 0;
    if (same_shape(&l->known, &m->shape) && (same || given)) {
        l->has_profile = true;
        log_line(log, LOG_INFO, "experts are placed by %s: %.0f tokens", path, l->known.tokens);
        if (!same) log_line(log, LOG_INFO, "%s was counted on another model: %s", path, l->known.model);
    } else {
        log_line(log, LOG_WARN, "%s is about another model (%s), not this one (%s); it is ignored", path, l->known.model,
                 identity);
    }
}

bool learn_known(const struct cli *c, const struct model *m, struct profile *out) {
    const struct options *o = c->options;
    char identity[sizeof out->model], name[128];
    struct text path = {0};
    learn_identity(m, identity, sizeof identity);
    file_name(identity, name, sizeof name);
    bool known = o->learn && state_path(o->state_home, o->home, name, &path) && access(path.ptr, F_OK) == 0 &&
                 !learn_read_profile(path.ptr, out, NULL);
    if (known && !(same_shape(out, &m->shape) && strcmp(out->model, identity) == 0)) {
        profile_close(out);
        known = false;
    }
    text_free(&path);
    return known;
}

void learn_load(struct cli *c, struct learner *l) {
    const struct options *o = c->options;
    *l = (struct learner){.cli = c, .keep = o->learn};
    c->learner = o->profile || o->learn ? l : NULL;
    c->watch = o->learn || o->record_routes ? &l->watch : NULL;
}

const struct profile *learn_find_profile(void *ctx, const struct model *m) {
    struct learner *l = ctx;
    const struct options *o = l->cli->options;
    char identity[sizeof l->known.model], name[128];
    learn_identity(m, identity, sizeof identity);
    file_name(identity, name, sizeof name);
    if (l->keep) l->keep = state_path(o->state_home, o->home, name, &l->path);
    if (o->profile)
        take_profile(l, o->profile, m, identity, true);
    else if (l->keep && access(l->path.ptr, F_OK) == 0)
        take_profile(l, l->path.ptr, m, identity, false);
    return l->has_profile ? &l->known : NULL;
}

enum err learn_start(struct learner *l, const struct engine *e, struct reason *why) {
    struct cli *c = l->cli;
    c->learner = NULL;
    profile_close(&l->known);
    if (!l->keep && !c->options->record_routes) return ERR_NONE;
    struct reason inner;
    const enum err err = watch_open(&engine_model(e)->shape, c->options->record_routes != NULL, &l->watch, &inner);
    if (!err) learn_identity(engine_model(e), l->identity, sizeof l->identity);
    if (err && c->options->record_routes) return fail(why, err, "%s", inner.text);
    if (err) log_line(&c->log, LOG_WARN, "the use of experts is not learned: %s", inner.text);
    return ERR_NONE;
}

/* ---- end -------------------------------------------------------------------------------------------------------- */

/* What is in the file now, which another program may have written since; nothing when it is broken or foreign. ERR_UNSUPPORTED:
 * a newer program's, not ours to replace. */
static enum err read_again(struct learner *l, const struct profile *new, struct profile *out, struct reason *why) {
    const enum err err = learn_read_profile(l->path.ptr, out, why);
    if (err == ERR_UNSUPPORTED) return err;
    if (!err) {
        if (strcmp(out->model, l->identity) == 0 && out->n_layers == new->n_layers && out->n_experts == new->n_experts &&
            out->n_used == new->n_used)
            return ERR_NONE;
        profile_close(out);
    }
    TRY(profile_open(new->n_layers, new->n_experts, new->n_used, out, why));
    snprintf(out->model, sizeof out->model, "%s", l->identity);
    return ERR_NONE;
}

static enum err add_run(struct learner *l, const struct profile *new, struct reason *why) {
    struct profile all;
    TRY(read_again(l, new, &all, why));
    enum err err = profile_merge(&all, new, exp2(-new->tokens / half_life_tokens), why);
    if (!err) err = make_folders_of(l->path.ptr, why);
    if (!err) err = learn_write_profile(l->path.ptr, &all, why);
    profile_close(&all);
    return err;
}

void learn_end(struct learner *l) {
    const struct profile *new = watch_profile(&l->watch);
    struct reason why;
    if (l->keep && new && new->tokens >= LEAST_TOKENS) {
        const uint64_t begin = clock_ns();
        if (add_run(l, new, &why))
            log_line(&l->cli->log, LOG_WARN, "the use of experts is not kept: %s (--no-learn)", why.text);
        else
            log_line(&l->cli->log, LOG_INFO, "the use of experts in %.0f tokens was added to %s in %.0f ms", new->tokens,
                     l->path.ptr, 1e-6 * (double)(clock_ns() - begin));
    }
    if (l->cli) l->cli->watch = NULL, l->cli->learner = NULL;
    watch_close(&l->watch);
    profile_close(&l->known);
    text_free(&l->path);
    *l = (struct learner){0};
}

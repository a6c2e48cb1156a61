/* Where facts come from: the cache, a file, or the probe. The cache belongs to this machine as long as its fingerprint does. */
#include "cli/machine.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/repl_file.h"
#include "engine/drive.h"
#include "engine/probe.h"

enum { MOST_FILE_BYTES = 4 << 20 };

/* ---- files ------------------------------------------------------------------------------------------------------ */

bool machine_cache_path(const struct options *o, struct text *out) {
    if (o->cache_home)
        text_addf(out, "%s/coldstream/facts.json", o->cache_home);
    else if (o->home)
        text_addf(out, "%s/.cache/coldstream/facts.json", o->home);
    return (o->cache_home || o->home) && !out->failed;
}

enum err machine_read(const char *path, struct facts **out, struct reason *why) {
    struct text json = {0};
    struct reason inner = {""};
    *out = calloc_checked(1, sizeof **out);
    enum err code = *out ? whole_file_read(path, MOST_FILE_BYTES, &json, why) : fail(why, ERR_NO_MEMORY, "%s: no memory", path);
    if (!code && (code = facts_parse((struct span){json.ptr, json.len}, *out, &inner)))
        fail(why, code, "%s: %s", path, inner.text);
    text_free(&json);
    if (code) {
        free(*out);
        *out = NULL;
    }
    return code;
}

enum err machine_write(const char *path, const struct facts *facts, struct reason *why) {
    struct text json = {0};
    facts_write(facts, &json);
    enum err code = json.failed ? fail(why, ERR_NO_MEMORY, "%s: no memory", path) : make_folders_of(path, why);
    if (!code) code = whole_file_replace(path, (struct span){json.ptr, json.len}, why);
    text_free(&json);
    return code;
}

/* ---- this machine ----------------------------------------------------------------------------------------------- */

/* Take over what the cache says about the machine `f` describes; a text says why it does not. */
static const char *take_cached(struct cli *c, struct facts *f) {
    struct text path = {0};
    struct facts *cached = NULL;
    struct reason why = {""};
    const char *problem = NULL;
    if (!machine_cache_path(c->options, &path) || access(path.ptr, F_OK) != 0)
        problem = "this machine has not been measured yet";
    else if (machine_read(path.ptr, &cached, &why))
        problem = "what was measured cannot be read";
    else if (facts_fingerprint(cached) != facts_fingerprint(f))
        problem = "this machine is not the one that was measured: its hardware changed";
    else if (facts_take_measurements(f, cached), f->n_kernels == 0 || f->n_ram_rates == 0)
        problem = "this machine has not been measured completely";
    if (why.text[0]) log_line(&c->log, LOG_INFO, "%s", why.text);
    free(cached);
    text_free(&path);
    return problem;
}

static void show_progress(void *ctx, const char *what, double share) {
    cli_progress(ctx, "measuring %s ... %.0f %%", what, 100 * share);
}

static enum err read_topology(struct facts **out, struct reason *why) {
    *out = calloc_checked(1, sizeof **out);
    if (!*out) return fail(why, ERR_NO_MEMORY, "no memory for the machine's facts");
    return facts_read(*out, why);
}

static enum err measure(struct cli *c, const char *model_path, struct facts *f, struct reason *why) {
    static const char *const isas[] = {NULL, "ref", "avx2", "avx512"};
    const struct options *o = c->options;
    const bool mine = o->verb == VERB_PROBE; /* other commands measure as the probe does by itself */
    const struct probe_options probe = {.model_path = model_path,
                                        .isa = mine ? isas[o->isa] : NULL,
                                        .threads = mine && o->threads > 0 ? (unsigned)o->threads : 0,
                                        .seconds = mine ? o->seconds : 0,
                                        .most_bytes = mine && o->ram_budget > 0 ? (uint64_t)o->ram_budget : 0,
                                        .no_direct_io = mine && !o->direct_io,
                                        .should_stop = cli_should_stop,
                                        .on_progress = show_progress,
                                        .ctx = c,
                                        .log = c->log};
    const enum err code = probe_run(&probe, f, why);
    cli_progress_end(c);
    if (!code) take_cached(c, f);
    return code;
}

enum err machine_measure(struct cli *c, const char *model_path, struct facts **out, struct reason *why) {
    enum err code = read_topology(out, why);
    if (!code) code = measure(c, model_path, *out, why);
    if (code) {
        free(*out);
        *out = NULL;
    }
    return code;
}

static void keep(struct cli *c, const struct facts *f) {
    struct text path = {0};
    struct reason why = {""};
    if (machine_cache_path(c->options, &path) && machine_write(path.ptr, f, &why))
        log_line(&c->log, LOG_WARN, "not kept: %s", why.text);
    text_free(&path);
}

unsigned machine_drive_of(const struct facts *f, const char *path) {
    struct drive_id id;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    drive_of_file(fd, &id);
    if (fd >= 0) close(fd);
    const struct facts_drive *d = facts_find_drive(f, id.name);
    return d ? (unsigned)(d - f->drives) : f->n_drives;
}

static bool drive_is_measured(const struct facts *f, const char *path) {
    const unsigned drive = machine_drive_of(f, path);
    return drive < f->n_drives && f->drives[drive].n_rates > 0;
}

static void ask_for_probe(struct cli *c, const char *problem, const char *model_path) {
    log_line(&c->log, LOG_WARN, "%s; for predictions run: coldstream probe%s%s", problem, model_path ? " -m " : "",
             model_path ? model_path : "");
}

enum err cli_load_facts(struct cli *c, const char *model_path, bool measure_if_missing, struct facts **out,
                        struct reason *why) {
    enum err code = read_topology(out, why);
    const char *problem = code ? NULL : take_cached(c, *out);
    if (problem && measure_if_missing) {
        if (!(code = measure(c, model_path, *out, why))) keep(c, *out);
    } else if (problem) {
        ask_for_probe(c, problem, model_path);
    } else if (!code && model_path && !drive_is_measured(*out, model_path)) {
        ask_for_probe(c, "the drive of this model has not been measured", model_path);
    }
    if (code) {
        free(*out);
        *out = NULL;
    }
    return code;
}

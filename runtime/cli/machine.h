/* Facts files on this computer: the user's cache of what `coldstream probe` measured, and machine files given by name. */
#ifndef COLDSTREAM_MACHINE_H
#define COLDSTREAM_MACHINE_H

#include "cli/cli.h"
#include "placement/facts.h"

/* XDG_CACHE_HOME/coldstream/facts.json, else HOME/.cache/...; false: neither is known. */
bool machine_cache_path(const struct options *o, struct text *out);

/* A machine file (--machine). *out is freed with free(). Errors name the file. */
enum err machine_read(const char *path, struct facts **out, struct reason *why) MUST_USE;
/* Replaced as a whole, 0600; missing folders are made. */
enum err machine_write(const char *path, const struct facts *facts, struct reason *why) MUST_USE;

/* Measure this machine as the flags say, with a progress line; what the cache knows of other drives, thread counts and
 * instruction sets is kept. `model_path` NULL: no drive. *out is freed with free(). */
enum err machine_measure(struct cli *c, const char *model_path, struct facts **out, struct reason *why) MUST_USE;

/* This machine: topology and free memory of now, rates from the cache. Where the cache is missing, unreadable, or of other
 * hardware, measures and keeps the result when asked to; else nothing counts as measured, and a warning says why and that
 * `coldstream probe` has to be run. The same when only the model's drive was not measured. *out is freed with free(). */
enum err cli_load_facts(struct cli *c, const char *model_path, bool measure_if_missing, struct facts **out,
                        struct reason *why) MUST_USE;

/* Index of the drive a file lies on; n_drives when it is none of the list: nothing is known of it then. */
unsigned machine_drive_of(const struct facts *f, const char *path);

#endif

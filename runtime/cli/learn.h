/* What earlier runs learned about a model's experts, and adding this run to it.
 *
 * One profile a model under the user's state folder (coldstream/profiles/<name>-<hash of the identity>.json), read when a
 * command starts and replaced whole when it ends. Programs that end at the same time: the later one adds to what the earlier
 * one wrote, or, when they really meet, wins. Nothing here is ever a reason for a command to fail. */
#ifndef COLDSTREAM_LEARN_H
#define COLDSTREAM_LEARN_H

#include "cli/cli.h"
#include "cli/watch.h"

struct learner {
    struct cli *cli;
    struct watch watch;
    struct profile known; /* of --profile or earlier runs; no layers: nothing is known */
    struct text path;     /* of the file of what is learned */
    char identity[sizeof((struct profile *)0)->model];
    bool has_profile; /* known fits the model */
    bool keep; /* add this run to it */
};

/* Before the engine opens: c->learner and c->watch are set as the options say (--profile, --learn, --record-routes). */
void learn_load(struct cli *c, struct learner *l);
/* What --profile or earlier runs say about the model; for engine_options.find_profile, ctx: the learner. */
const struct profile *learn_find_profile(void *ctx, const struct model *m);
/* The engine is open: count from here. Fails only when --record-routes asks for routes there is no memory for. */
enum err learn_start(struct learner *l, const struct engine *e, struct reason *why) MUST_USE;
/* Keep what was counted, unless it is next to nothing; releases everything. After the last session call. */
void learn_end(struct learner *l);

/* Which model a profile belongs to: name, shape, weights, as one line of printable UTF-8 that fits struct profile.model. */
void learn_identity(const struct model *m, char *out, size_t size);
/* What earlier runs taught about this model, as learn_load() would take it; false: nothing, or learning is off. profile_close()
 * is due after true. */
bool learn_known(const struct cli *c, const struct model *m, struct profile *out) MUST_USE;
/* A profile file; errors name it. profile_close() is due after success. */
enum err learn_read_profile(const char *path, struct profile *out, struct reason *why) MUST_USE;
enum err learn_write_profile(const char *path, const struct profile *p, struct reason *why) MUST_USE;

#endif

/* The same text through any engine: a prompt and greedy tokens, recorded once with everything in RAM, then compared bit for bit
 * with what an engine under test computes. An attempt that fails can be taken up where it stopped. */
#ifndef COLDSTREAM_TESTS_PLAY_H
#define COLDSTREAM_TESTS_PLAY_H

#include "engine/engine.h"

struct tape {
    uint32_t prompt, steps, vocab;
    int32_t *tokens;  /* [prompt + steps] */
    float *logits;    /* [steps + 1][vocab] */
    uint64_t differences; /* logits that came out otherwise; the first is printed */
};

/* The machine as engines under test see it, read once. */
const struct facts *play_facts(void);

/* Records with the model at `path`; failures are test assertions. */
void tape_record(struct tape *t, const char *path, uint32_t prompt, uint32_t steps, uint32_t ubatch);
void tape_free(struct tape *t);

/* From step *at to the end; *at: where it stopped. `how` NULL: decode by session_append(), else by session_eval() with its
 * should_stop, on_progress and ctx. Asserts nothing, so that forked children may call it. */
enum err tape_play(struct tape *t, struct session *s, const struct eval *how, uint32_t *at, struct reason *why);
/* Open an engine and a session, play all, close. */
enum err tape_play_all(struct tape *t, const struct engine_options *options, struct engine_io *io, struct reason *why);

#endif

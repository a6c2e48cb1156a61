/* Recording and comparing; see play.h. */
#include "tests/support/check.h"

#include "tests/support/play.h"

#include <stdlib.h>
#include <string.h>

const struct facts *play_facts(void) {
    static struct facts facts;
    struct reason why = {{0}};
    if (facts.n_cores == 0 && facts_read(&facts, &why) != ERR_NONE) fail_test("%s", why.text);
    return &facts;
}

static int32_t best(const float *logits, uint32_t n) {
    uint32_t at = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[at]) at = i;
    return (int32_t)at;
}

void tape_record(struct tape *t, const char *path, uint32_t prompt, uint32_t steps, uint32_t ubatch) {
    const struct engine_options all = {.model_path = path, .threads = 2, .fill_first = true, .facts = play_facts(), .ubatch = ubatch};
    struct engine *e;
    struct session *s;
    struct reason why = {{0}};
    const float *logits;
    if (engine_open(&all, &e, &why) != ERR_NONE || session_open(e, prompt + steps, &s, &why) != ERR_NONE) fail_test("%s", why.text);
    *t = (struct tape){.prompt = prompt, .steps = steps, .vocab = engine_model(e)->shape.n_vocab};
    t->tokens = calloc(prompt + steps, sizeof *t->tokens);
    t->logits = calloc((steps + 1) * (size_t)t->vocab, sizeof *t->logits);
    if (!t->tokens || !t->logits) fail_test("no memory");
    for (uint32_t i = 0; i < prompt; i++) t->tokens[i] = (int32_t)(i * 37 + 11) % 256;
    struct eval eval = {.tokens = t->tokens, .n = prompt};
    if (session_eval(s, &eval, &logits, &why) != ERR_NONE) fail_test("%s", why.text);
    for (uint32_t i = 0;; i++) {
        memcpy(t->logits + (size_t)i * t->vocab, logits, t->vocab * sizeof *logits);
        if (i == steps) break;
        t->tokens[prompt + i] = best(logits, t->vocab);
        if (session_append(s, t->tokens[prompt + i], &logits, &why) != ERR_NONE) fail_test("%s", why.text);
    }
    session_close(&s);
    engine_close(&e);
}

void tape_free(struct tape *t) {
    free(t->tokens);
    free(t->logits);
    *t = (struct tape){0};
}

static void compare(struct tape *t, uint32_t step, const float *logits) {
    const float *want = t->logits + (size_t)step * t->vocab;
    for (uint32_t i = 0; i < t->vocab; i++) {
        if (memcmp(&logits[i], &want[i], sizeof *want) == 0) continue;
        if (t->differences++ == 0) print_error("logit %u of step %u is %a, not %a\n", i, step, (double)logits[i], (double)want[i]);
    }
}

enum err tape_play(struct tape *t, struct session *s, const struct eval *how, uint32_t *at, struct reason *why) {
    for (; *at <= t->steps; (*at)++) {
        const float *logits;
        const uint64_t n = t->prompt + *at;
        if (!how && *at > 0 && session_length(s) == n - 1) {
            TRY(session_append(s, t->tokens[n - 1], &logits, why));
        } else {
            struct eval eval = how ? *how : (struct eval){0};
            eval.tokens = t->tokens;
            eval.n = n;
            TRY(session_eval(s, &eval, &logits, why));
        }
        compare(t, *at, logits);
    }
    return ERR_NONE;
}

enum err tape_play_all(struct tape *t, const struct engine_options *options, struct engine_io *io, struct reason *why) {
    struct engine *e;
    struct session *s;
    uint32_t at = 0;
    TRY(engine_open(options, &e, why));
    enum err code = session_open(e, t->prompt + t->steps, &s, why);
    if (!code) {
        code = tape_play(t, s, NULL, &at, why);
        session_close(&s);
    }
    if (io) engine_get_io(e, io);
    engine_close(&e);
    return code;
}

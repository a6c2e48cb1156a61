/* bench: tokens per second of prompts (pp) and of generation (tg), each after `depth` tokens of context.
 *
 * Tokens are pseudo-random ordinary ids from a fixed seed, so that two runs do the same work. Each repetition starts with other
 * tokens than the last, because the session would reuse a prefix that it already holds. */
#include "cli/cli.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "cli/bench_report.h"
#include "cli/learn.h"

struct bench {
    struct cli *cli;
    struct bench_context context;
    const struct tokenizer *tokenizer; /* may be NULL */
    struct session *session;
    uint32_t n_vocab;
    uint64_t random;
    struct bench_test *tests;
    size_t n_tests, room;
    int32_t *tokens; /* [longest] of the current repetition: depth, prompt, generated */
    uint64_t longest;
    uint64_t *samples_ns;
};

/* ---- tokens --------------------------------------------------------------------------------------------------------- */

static uint64_t next_random(struct bench *b) { /* splitmix64 */
    uint64_t z = b->random += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static int32_t random_token(struct bench *b) {
    int32_t id = 0;
    for (int tries = 0; tries < 1000; tries++) {
        id = (int32_t)(next_random(b) % b->n_vocab);
        if (!b->tokenizer || !(tokenizer_is_control(b->tokenizer, id) || tokenizer_is_unused(b->tokenizer, id) ||
                               tokenizer_is_end(b->tokenizer, id)))
            break;
    }
    return id;
}

/* The context is the same in all repetitions and is kept; what follows it differs from what the session holds there. */
static void draw_tokens(struct bench *b, const struct bench_test *t) {
    const uint64_t n = (uint64_t)t->n_prompt + t->n_gen;
    for (uint64_t i = 0; i < n; i++) b->tokens[t->depth + i] = random_token(b);
    for (int tries = 0;
         tries < 1000 && session_length(b->session) > t->depth && b->tokens[t->depth] == session_tokens(b->session)[t->depth];
         tries++)
        b->tokens[t->depth] = random_token(b);
}

/* ---- measuring ------------------------------------------------------------------------------------------------------ */

static enum err eval(struct bench *b, uint64_t n, struct reason *why) {
    struct eval request = {.tokens = b->tokens, .n = n, .should_stop = cli_should_stop};
    return session_eval(b->session, &request, NULL, why);
}

/* The first generated token of an empty context goes through eval, which also empties the session. */
static enum err generate(struct bench *b, uint64_t from, uint64_t n, struct reason *why) {
    uint64_t i = from;
    if (i == 0 && n) {
        TRY(eval(b, 1, why));
        i = 1;
    }
    for (; i < from + n; i++) {
        if (cli_cancelled()) return fail(why, ERR_CANCELLED, "interrupted");
        TRY(session_append(b->session, b->tokens[i], NULL, why));
    }
    return ERR_NONE;
}

static enum err measure_once(struct bench *b, const struct bench_test *t, uint64_t *ns, struct reason *why) {
    draw_tokens(b, t);
    if (t->depth) TRY(eval(b, t->depth, why));
    const uint64_t begin = clock_ns();
    if (t->n_prompt) TRY(eval(b, (uint64_t)t->depth + t->n_prompt, why));
    TRY(generate(b, (uint64_t)t->depth + t->n_prompt, t->n_gen, why));
    *ns = clock_ns() - begin;
    return cli_cancelled() ? fail(why, ERR_CANCELLED, "interrupted") : ERR_NONE;
}

static enum err rest(int64_t seconds, struct reason *why) {
    for (int64_t i = 0; i < 10 * seconds; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        if (cli_cancelled()) return fail(why, ERR_CANCELLED, "interrupted");
    }
    return ERR_NONE;
}

static enum err measure(struct bench *b, size_t index, struct bench_result *r, struct reason *why) {
    const struct options *o = b->cli->options;
    const struct bench_test *t = &b->tests[index];
    char name[64];
    bench_test_name(t, name, sizeof name);
    TRY(rest(o->delay_s, why));
    if (o->warmup) {
        const struct bench_test warmup = {t->n_prompt < 512 ? t->n_prompt : 512, t->n_gen ? 1 : 0, 0};
        uint64_t ignored;
        TRY(measure_once(b, &warmup, &ignored, why));
    }
    b->random = 1; /* each test draws the same tokens, whatever ran before */
    for (uint32_t i = 0; i < t->depth; i++) b->tokens[i] = random_token(b);
    const time_t now = time(NULL);
    struct tm utc;
    *r = (struct bench_result){.test = *t, .samples_ns = b->samples_ns};
    strftime(r->time, sizeof r->time, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    for (int64_t i = 0; i < o->repetitions; i++) {
        if (o->progress)
            fprintf(stderr, "coldstream: test %zu of %zu (%s), repetition %" PRId64 " of %" PRId64 "\n", index + 1, b->n_tests,
                    name, i + 1, o->repetitions);
        TRY(measure_once(b, t, &b->samples_ns[r->n_samples], why));
        r->n_samples++;
    }
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0) r->ram_peak = (uint64_t)usage.ru_maxrss * 1024;
    return ERR_NONE;
}

/* ---- tests ---------------------------------------------------------------------------------------------------------- */

static void add_test(struct bench *b, int64_t n_prompt, int64_t n_gen, int64_t depth) {
    if (n_prompt + n_gen == 0 || b->n_tests == b->room) return;
    const uint64_t all = (uint64_t)(n_prompt + n_gen + depth);
    if (all > b->longest) b->longest = all;
    b->tests[b->n_tests++] = (struct bench_test){(uint32_t)n_prompt, (uint32_t)n_gen, (uint32_t)depth};
}

static enum err list_tests(struct bench *b, struct reason *why) {
    const struct options *o = b->cli->options;
    b->room = o->depth.len * (o->n_prompt.len + o->n_gen.len + o->prompt_gen.len / 2);
    b->longest = 513; /* what a warm-up needs */
    b->tests = calloc_checked(b->room, sizeof *b->tests);
    if (!b->tests) return fail(why, ERR_NO_MEMORY, "no memory for %zu tests", b->room);
    for (size_t d = 0; d < o->depth.len; d++) {
        const int64_t depth = o->depth.items[d];
        for (size_t i = 0; i < o->n_prompt.len; i++) add_test(b, o->n_prompt.items[i], 0, depth);
        for (size_t i = 0; i < o->n_gen.len; i++) add_test(b, 0, o->n_gen.items[i], depth);
        for (size_t i = 0; i + 1 < o->prompt_gen.len; i += 2)
            add_test(b, o->prompt_gen.items[i], o->prompt_gen.items[i + 1], depth);
    }
    return b->n_tests ? ERR_NONE : fail(why, ERR_ARGUMENT, "-p, -n and -pg leave nothing to measure");
}

/* ---- report --------------------------------------------------------------------------------------------------------- */

typedef void (*report_part)(const struct bench *b, enum bench_format format, const void *arg, struct text *out);

static void part_begin(const struct bench *b, enum bench_format format, const void *arg, struct text *out) {
    (void)arg;
    bench_add_begin(&b->context, format, out);
}
static void part_end(const struct bench *b, enum bench_format format, const void *arg, struct text *out) {
    (void)arg;
    bench_add_end(&b->context, format, out);
}
static void part_first(const struct bench *b, enum bench_format format, const void *arg, struct text *out) {
    bench_add_result(&b->context, format, arg, true, out);
}
static void part_next(const struct bench *b, enum bench_format format, const void *arg, struct text *out) {
    bench_add_result(&b->context, format, arg, false, out);
}

/* One part in the format of stdout and in that of stderr. */
static enum err report(const struct bench *b, report_part part, const void *arg, struct reason *why) {
    const struct options *o = b->cli->options;
    struct text text = {0};
    part(b, (enum bench_format)o->output_err, arg, &text);
    if (text.len) fwrite(text.ptr, 1, text.len, stderr);
    text_clear(&text);
    part(b, (enum bench_format)o->output, arg, &text);
    const bool ok = text.len == 0 || cli_write_text(&text);
    text_free(&text);
    return ok ? ERR_NONE : fail(why, ERR_IO, "stdout: cannot write");
}

static enum err run(struct bench *b, struct engine *e, struct reason *why) {
    const struct options *o = b->cli->options;
    b->context = (struct bench_context){.options = o, .model = engine_model(e)};
    engine_get_info(e, &b->context.info);
    bench_describe(&b->context);
    b->tokenizer = engine_tokenizer(e);
    b->n_vocab = engine_model(e)->shape.n_vocab;
    b->tokens = calloc_checked(b->longest, sizeof *b->tokens);
    b->samples_ns = calloc_checked((uint64_t)o->repetitions, sizeof *b->samples_ns);
    if (!b->tokens || !b->samples_ns) return fail(why, ERR_NO_MEMORY, "no memory for %" PRIu64 " tokens", b->longest);
    TRY(session_open(e, (uint64_t)o->ctx_size > b->longest ? (uint64_t)o->ctx_size : b->longest, &b->session, why));
    TRY(report(b, part_begin, NULL, why));
    for (size_t i = 0; i < b->n_tests; i++) {
        struct bench_result result;
        TRY(measure(b, i, &result, why));
        TRY(report(b, i ? part_next : part_first, &result, why));
    }
    return report(b, part_end, NULL, why);
}

int cmd_bench(struct cli *c) {
    struct reason why = {{0}};
    struct engine *e = NULL;
    struct bench b = {.cli = c, .random = 1};
    enum err code = list_tests(&b, &why);
    if (code == ERR_ARGUMENT) return cli_usage(c, "%s", why.text);
    c->kv_tokens = (uint64_t)c->options->ctx_size > b.longest ? (uint64_t)c->options->ctx_size : b.longest;
    c->fill_first = true;
    struct learner learner;
    learn_load(c, &learner);
    if (!code) code = cli_open_engine(c, false, &e, &why);
    if (!code) code = run(&b, e, &why);
    if (!code) code = cli_write_timeline(c, e, &why);
    const int status = code ? cli_fail(c, code, &why) : EXIT_DONE;
    learn_end(&learner);
    free(b.tests);
    free(b.tokens);
    free(b.samples_ns);
    session_close(&b.session);
    engine_close(&e);
    return status;
}

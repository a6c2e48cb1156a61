/* Prefill and decode through the engine under a RAM budget, with what explains the speed:
 *
 *     decode -m MODEL [--ram-budget MIB] [--slots N] [-p N] [--prompts N] [-w N] [-n N] [-r R] [-t N] [-b TOKENS]
 *            [--io uring|pread] [--no-look-ahead] [--fill] [--greedy] [--seed N] [--routes FILE | --record FILE] [--csv]
 *            [--drive MIB [--compute TOK_S]]
 *
 * A prompt of -p pseudo-random tokens (--prompts: several of them, each in place of the one before), -w decoded ones to warm up, then
 * R stretches of -n: pseudo-random ones too, as llama-bench feeds them, or with --greedy the model's own continuation. A line each:
 * tokens a second, hit rate, MB read a token (needed, ahead, in the background), milliseconds a token the workers waited for the drive,
 * share of the time the drive was busy and its rate meanwhile, how much of the look-ahead's guesses and reads was right, peak RSS.
 * --drive reads random experts into a pool of MIB right before and after each stretch and prints how near the stretch came to what is
 * possible: its bytes at that rate, or --compute (the speed with all in RAM) where that is slower; at the end the median.
 * --routes replaces the routers' choices by a file's (bench/replay makes some), --record writes the model's own. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "bench/support/drive.h"
#include "bench/support/median.h"
#include "engine/engine.h"
#include "placement/routes.h"

enum { USAGE = 2, REPEATS_MAX = 1000, DRIVE_GROUPS = 100, DRIVE_DEPTH = 16 };

struct decode {
    struct engine_options engine;
    const char *routes_file, *record_file;
    long prompt, prompts, warm, n, repeats, seed, drive_mib;
    double compute; /* tokens a second with all in RAM; 0: not known */
    struct drive drive;
    struct fetch *fetch;
    double reached[REPEATS_MAX]; /* of what is possible, a stretch each */
    bool csv, greedy;
    uint64_t random;
    struct routes routes;
    struct engine *e;
    struct session *s;
    int32_t *tokens;
    uint64_t length;
    const float *logits;
};

static int usage(void) {
    fputs("decode -m MODEL [--ram-budget MIB] [--slots N] [-p N] [--prompts N] [-w N] [-n N] [-r R] [-t N] [-b TOKENS]\n"
          "       [--io uring|pread] [--no-look-ahead] [--fill] [--greedy] [--seed N] [--routes FILE | --record FILE] [--csv]\n"
          "       [--drive MIB [--compute TOK_S]]\n",
          stderr);
    return USAGE;
}

static enum err read_routes(struct decode *d, struct reason *why) {
    FILE *f = fopen(d->routes_file, "rb");
    struct text bytes = {0};
    char piece[65536];
    if (!f) return fail(why, ERR_IO, "%s: cannot open", d->routes_file);
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;) text_add(&bytes, piece, n);
    fclose(f);
    const enum err e = bytes.failed ? fail(why, ERR_NO_MEMORY, "%s: no memory", d->routes_file)
                                    : routes_parse((struct span){bytes.ptr, bytes.len}, &d->routes, why);
    text_free(&bytes);
    return e;
}

static void replace(void *ctx, uint32_t layer, uint64_t position, bool expected, int32_t *experts) {
    const struct decode *d = ctx;
    const uint32_t token = (uint32_t)(position % d->routes.n_tokens);
    const uint16_t *from = expected ? routes_expected(&d->routes, token, layer) : routes_chosen(&d->routes, token, layer);
    for (uint32_t r = 0; from && r < d->routes.n_used; r++)
        if (from[r] != ROUTES_NOTHING) experts[r] = from[r];
}

static void record(void *ctx, uint32_t layer, uint64_t position, bool expected, int32_t *experts) {
    struct decode *d = ctx;
    if (position >= d->routes.n_tokens) return;
    if (expected) routes_expect(&d->routes, (uint32_t)position, layer, experts, d->routes.n_used);
    else routes_choose(&d->routes, (uint32_t)position, layer, experts);
}

static enum err open_all(struct decode *d, struct reason *why) {
    const uint64_t all = (uint64_t)(d->prompt + d->warm + d->n * d->repeats + 1);
    if (d->routes_file) {
        TRY(read_routes(d, why));
        d->engine.on_experts = replace;
        d->engine.device = "cpu"; /* a GPU takes nobody's word for its choices */
    } else if (d->record_file) {
        d->engine.on_experts = record;
    }
    d->engine.on_experts_ctx = d;
    d->engine.kv_tokens = all;
    TRY(engine_open(&d->engine, &d->e, why));
    const struct model_shape *s = &engine_model(d->e)->shape;
    if (d->routes_file && (d->routes.n_layers != s->n_layers || d->routes.n_experts > s->n_experts || d->routes.n_used != s->n_experts_used))
        return fail(why, ERR_ARGUMENT, "%s: made for a model of another shape", d->routes_file);
    if (d->record_file) {
        TRY(routes_open(s->n_layers, s->n_experts, s->n_experts_used, true, &d->routes, why));
        TRY(routes_append(&d->routes, (uint32_t)d->prompt, true, why));
        TRY(routes_append(&d->routes, (uint32_t)(d->warm + d->n * d->repeats), false, why));
    }
    d->tokens = calloc_checked(all, sizeof *d->tokens);
    if (!d->tokens) return fail(why, ERR_NO_MEMORY, "no memory for %" PRIu64 " tokens", all);
    return session_open(d->e, all, &d->s, why);
}

static int32_t random_token(struct decode *d) {
    d->random = d->random * 6364136223846793005u + 1442695040888963407u;
    return (int32_t)((d->random >> 33) % engine_model(d->e)->shape.n_vocab);
}

static int32_t best_token(const struct decode *d) {
    uint32_t best = 0;
    for (uint32_t t = 1; t < engine_model(d->e)->shape.n_vocab; t++)
        if (d->logits[t] > d->logits[best]) best = t;
    return (int32_t)best;
}

static enum err step(struct decode *d, long n, struct reason *why) {
    for (long i = 0; i < n; i++) {
        const int32_t token = d->tokens[d->length++] = d->greedy ? best_token(d) : random_token(d);
        TRY(session_append(d->s, token, &d->logits, why));
    }
    return ERR_NONE;
}

static double share(uint64_t part, uint64_t whole) { return whole ? (double)part / (double)whole : 0; }

static void print(const struct decode *d, const char *what, long tokens, uint64_t ns, const struct engine_io *a, const struct engine_io *b) {
    const double n = (double)tokens, s = 1e-9 * (double)ns, mb = 1e-6;
    const uint64_t bytes = b->demand_bytes + b->ahead_bytes + b->fill_bytes - a->demand_bytes - a->ahead_bytes - a->fill_bytes;
    const uint64_t busy = b->busy_ns - a->busy_ns;
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    printf(d->csv ? "%s,%ld,%.3f,%.4f,%.2f,%.2f,%.2f,%.2f,%.3f,%.3f,%.3f,%.3f,%u,%u,%s,%ld\n"
                  : "%-8s %5ld tokens %7.2f tok/s  hits %6.4f  MB/token %7.1f needed %6.1f ahead %6.1f fill  wait %6.1f ms  "
                    "drive busy %5.3f at %5.2f GB/s  guesses %5.3f used %5.3f  slots %u (%u full) %s  RSS %ld MiB\n",
           what, tokens, n / s, share(b->hits - a->hits, b->uses - a->uses), mb * (double)(b->demand_bytes - a->demand_bytes) / n,
           mb * (double)(b->ahead_bytes - a->ahead_bytes) / n, mb * (double)(b->fill_bytes - a->fill_bytes) / n,
           1e-6 * (double)(b->wait_ns - a->wait_ns) / n, 1e-9 * (double)busy / s, busy ? (double)bytes / (double)busy : 0,
           share(b->expected_right - a->expected_right, b->expected - a->expected),
           share(b->ahead_used - a->ahead_used, b->ahead_reads - a->ahead_reads), b->slots, b->resident, b->backend, use.ru_maxrss >> 10);
    fflush(stdout);
}

static enum err measure(struct decode *d, const char *what, long n, bool prompt, struct reason *why) {
    struct engine_io before, after;
    engine_get_io(d->e, &before);
    const uint64_t begin = clock_ns();
    struct eval eval = {.tokens = d->tokens, .n = d->length};
    TRY(prompt ? session_eval(d->s, &eval, &d->logits, why) : step(d, n, why));
    const uint64_t ns = clock_ns() - begin;
    engine_get_io(d->e, &after);
    print(d, what, n, ns, &before, &after);
    return ERR_NONE;
}

/* One stretch between two looks at the drive: it drifts within seconds. */
static enum err measure_beside_drive(struct decode *d, long repeat, struct reason *why) {
    struct drive_pass before, after;
    struct engine_io from, to;
    TRY(drive_read(&d->drive, d->fetch, DRIVE_GROUPS, DRIVE_DEPTH, false, &before, why));
    engine_get_io(d->e, &from);
    const uint64_t begin = clock_ns();
    TRY(measure(d, "decode", d->n, false, why));
    const double s = 1e-9 * (double)(clock_ns() - begin);
    engine_get_io(d->e, &to);
    TRY(drive_read(&d->drive, d->fetch, DRIVE_GROUPS, DRIVE_DEPTH, false, &after, why));
    const double rate = 2 / (1 / before.bytes_per_s + 1 / after.bytes_per_s);
    const double bytes = (double)(to.demand_bytes + to.ahead_bytes - from.demand_bytes - from.ahead_bytes), reading = bytes / rate;
    const double computing = d->compute > 0 ? (double)d->n / d->compute : 0, least = reading > computing ? reading : computing;
    d->reached[repeat] = least / s;
    printf("%s%5.2f GB/s alone: ", d->csv ? "# " : "         ", 1e-9 * rate);
    if (least > 0) printf("%6.2f tok/s possible, %3.0f %% reached\n", (double)d->n / least, 100 * least / s);
    else puts("nothing was read");
    return ERR_NONE;
}

static enum err measure_all(struct decode *d, struct reason *why) {
    if (!d->drive_mib) {
        for (long r = 0; r < d->repeats; r++) TRY(measure(d, "decode", d->n, false, why));
        return ERR_NONE;
    }
    TRY(drive_open(engine_model(d->e), (uint64_t)d->drive_mib << 20, &d->drive, why));
    TRY(fetch_open(engine_model(d->e), &(struct fetch_options){.kind = d->engine.stream, .groups = DRIVE_DEPTH}, &d->fetch, why));
    for (long r = 0; r < d->repeats; r++) TRY(measure_beside_drive(d, r, why));
    if (d->repeats)
        printf("%smedian: %.0f %% of what is possible\n", d->csv ? "# " : "", 100 * median_of(d->reached, (size_t)d->repeats));
    return ERR_NONE;
}

static enum err write_record(const struct decode *d, struct reason *why) {
    struct text out = {0};
    routes_write(&d->routes, &out);
    FILE *f = fopen(d->record_file, "wb");
    bool ok = f && !out.failed && fwrite(out.ptr, 1, out.len, f) == out.len;
    if (f) ok = fclose(f) == 0 && ok;
    text_free(&out);
    return ok ? ERR_NONE : fail(why, ERR_IO, "%s: cannot write", d->record_file);
}

static enum err run(struct decode *d, uint64_t start, struct reason *why) {
    TRY(open_all(d, why));
    if (d->csv)
        puts("what,tokens,tok_s,hits,needed_mb,ahead_mb,fill_mb,wait_ms,busy,busy_gb_s,guesses,used,slots,resident,backend,rss_mib");
    d->random = (uint64_t)d->seed;
    for (long p = 0; p < d->prompts; p++) {
        d->length = 0;
        for (long i = 0; i < d->prompt; i++) d->tokens[d->length++] = random_token(d);
        TRY(measure(d, "prompt", d->prompt, true, why));
        if (p == 0) fprintf(stderr, "first logits %.2f s after the start\n", 1e-9 * (double)(clock_ns() - start));
    }
    if (d->warm) TRY(measure(d, "warm", d->warm, false, why));
    TRY(measure_all(d, why));
    return d->record_file ? write_record(d, why) : ERR_NONE;
}

static bool parse(struct decode *d, int argc, char **argv) {
    const struct {
        const char *name;
        long *to;
    } numbers[] = {{"-p", &d->prompt}, {"--prompts", &d->prompts}, {"-w", &d->warm}, {"-n", &d->n}, {"-r", &d->repeats}, {"--seed", &d->seed},
                   {"--drive", &d->drive_mib}};
    for (int i = 1; i < argc; i++) {
        const char *flag = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(flag, "--no-look-ahead") == 0) d->engine.no_look_ahead = true;
        else if (strcmp(flag, "--fill") == 0) d->engine.fill_first = true;
        else if (strcmp(flag, "--csv") == 0) d->csv = true;
        else if (strcmp(flag, "--greedy") == 0) d->greedy = true;
        else if (!value) return false;
        else {
            bool known = false;
            for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++)
                if (strcmp(flag, numbers[k].name) == 0) known = true, *numbers[k].to = atol(value);
            if (strcmp(flag, "-m") == 0) d->engine.model_path = value;
            else if (strcmp(flag, "--ram-budget") == 0) d->engine.ram_budget = (uint64_t)atoll(value) << 20;
            else if (strcmp(flag, "--slots") == 0) d->engine.max_slots = (uint32_t)atoi(value);
            else if (strcmp(flag, "-t") == 0) d->engine.threads = (unsigned)atoi(value);
            else if (strcmp(flag, "-b") == 0) d->engine.ubatch = (uint32_t)atoi(value);
            else if (strcmp(flag, "--io") == 0) d->engine.stream = strcmp(value, "pread") == 0 ? STREAM_PREAD : STREAM_URING;
            else if (strcmp(flag, "--compute") == 0) d->compute = atof(value);
            else if (strcmp(flag, "--routes") == 0) d->routes_file = value;
            else if (strcmp(flag, "--record") == 0) d->record_file = value;
            else if (!known) return false;
            i++;
        }
    }
    return d->engine.model_path && d->prompt > 0 && d->prompts > 0 && d->n >= 0 && d->warm >= 0 && d->repeats >= 0 && d->repeats <= REPEATS_MAX && d->drive_mib >= 0 &&
           !(d->routes_file && d->record_file);
}

int main(int argc, char **argv) {
    const uint64_t start = clock_ns();
    struct decode d = {.prompt = 1, .prompts = 1, .n = 32, .repeats = 3, .seed = 1};
    struct reason why = {{0}};
    if (!parse(&d, argc, argv)) return usage();
    const enum err e = run(&d, start, &why);
    if (e) fprintf(stderr, "decode: %s\n", why.text);
    fetch_close(&d.fetch);
    drive_close(&d.drive);
    session_close(&d.s);
    engine_close(&d.e);
    routes_close(&d.routes);
    free(d.tokens);
    return e != ERR_NONE;
}

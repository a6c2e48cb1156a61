/* Replays routes (which experts each token chose) through the expert cache at several sizes and prints hit rates and bytes:
 *
 *     replay --kind locality --gib 3,5,6.5,8,10                     made-up routes, all policies
 *     replay --routes FILE --slots 51 --policy lfru --ahead 8       recorded ones, 51 slots a layer
 *     replay --kind uniform --turns 1 --prompt 0 --decode 382 --save FILE
 *
 * --help lists the rest. Experts are of Qwen3-30B-A3B Q4_K_M's two sizes, with the layers those of that mix. A table on stdout,
 * the routes' statistics on stderr. What exactly is replayed: tests/support/route_replay.h. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/route_replay.h"
#include "tests/support/synth_routes.h"

enum { MAX_SIZES = 32, USAGE = 2, N_CLASSES = 2 };

static const uint64_t expert_bytes[N_CLASSES] = {2666496,
                                                 3072000}; /* Q4_K, and with a Q6_K down matrix; 4 KiB more an extent */

static const char help[] =
    "replay [flags]\n"
    "  routes    --routes FILE, or --kind uniform|skewed|locality with --turns N --prompt TOKENS --decode TOKENS a turn,\n"
    "            --skew S, --noise S of the look-ahead (0: right for 88 %; -1: none), --seed N, --layers N, --experts N, "
    "--used N\n"
    "            --save FILE writes them\n"
    "  cache     --gib LIST of slots in all, or --slots LIST a layer\n"
    "            --policy all|lfru|lru|lru-layer|static|belady, --ahead EXPERTS a layer, --half-life TOKENS,\n"
    "            --prior-weight TOKENS, --floor N, --ring N\n"
    "            --learn TURNS not replayed but counted (for static), --prior (give them to the cache), --fill (before "
    "starting)\n"
    "  counting  --batch TOKENS of a prompt, --skip TOKENS decoded first, --early TOKENS of a turn\n"
    "  output    --csv\n";

static const char *const policy_names[] = {[REPLAY_LFRU] = "lfru",
                                           [REPLAY_LRU] = "lru",
                                           [REPLAY_LRU_LAYER] = "lru-layer",
                                           [REPLAY_STATIC] = "static",
                                           [REPLAY_BELADY] = "belady"};
enum { N_POLICIES = sizeof policy_names / sizeof *policy_names };
static const char *const kind_names[] = {
    [ROUTES_UNIFORM] = "uniform", [ROUTES_SKEWED] = "skewed", [ROUTES_LOCALITY] = "locality"};

struct settings {
    struct synth_routes synth;
    struct replay_options replay;
    const char *routes, *save;
    double sizes[MAX_SIZES];
    uint32_t n_sizes;
    bool sizes_are_slots, all_policies, csv;
};

/* ---- flags ------------------------------------------------------------------------------------------------------------ */

static bool parse_whole(const char *text, uint32_t *out) {
    char *end;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    *out = (uint32_t)value;
    return *text >= '0' && *text <= '9' && *end == 0 && errno == 0 && value <= INT32_MAX;
}

static bool parse_real(const char *text, float *out) {
    char *end;
    *out = strtof(text, &end);
    return end != text && *end == 0 && isfinite(*out);
}

static bool parse_sizes(const char *text, struct settings *s) {
    for (s->n_sizes = 0; s->n_sizes < MAX_SIZES; text++) {
        char *end;
        const double size = strtod(text, &end);
        if (end == text || !(size > 0) || size > 1e6) return false;
        s->sizes[s->n_sizes++] = size;
        text = end;
        if (*text == 0) return true;
        if (*text != ',') return false;
    }
    return false;
}

static bool parse_name(const char *text, const char *const *names, uint32_t n, uint32_t *out) {
    for (*out = 0; *out < n; ++*out)
        if (strcmp(text, names[*out]) == 0) return true;
    return false;
}

static bool apply_number(const char *flag, const char *value, struct settings *s, bool *known) {
    const struct {
        const char *name;
        uint32_t *to;
    } numbers[] = {
        {"--turns", &s->synth.turns},         {"--prompt", &s->synth.prompt_tokens}, {"--decode", &s->synth.decode_tokens},
        {"--layers", &s->synth.layers},       {"--experts", &s->synth.experts},      {"--used", &s->synth.used},
        {"--ahead", &s->replay.ahead},        {"--floor", &s->replay.floor},         {"--ring", &s->replay.ring},
        {"--learn", &s->replay.learn_turns},  {"--batch", &s->replay.batch},         {"--skip", &s->replay.skip_tokens},
        {"--early", &s->replay.early_tokens},
    };
    const struct {
        const char *name;
        float *to;
    } reals[] = {{"--skew", &s->synth.skew},
                 {"--noise", &s->synth.noise},
                 {"--half-life", &s->replay.half_life},
                 {"--prior-weight", &s->replay.prior_weight}};
    *known = true;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strcmp(flag, numbers[i].name) == 0) return parse_whole(value, numbers[i].to);
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        if (strcmp(flag, reals[i].name) == 0) return parse_real(value, reals[i].to);
    return *known = false;
}

static bool apply(const char *flag, const char *value, struct settings *s) {
    uint32_t number;
    bool known;
    if (apply_number(flag, value, s, &known) || known)
        return known && strcmp(value, "") != 0 && apply_number(flag, value, s, &known);
    if (strcmp(flag, "--routes") == 0) return s->routes = value, true;
    if (strcmp(flag, "--save") == 0) return s->save = value, true;
    if (strcmp(flag, "--seed") == 0) return parse_whole(value, &number) && (s->synth.seed = number, true);
    if (strcmp(flag, "--gib") == 0) return s->sizes_are_slots = false, parse_sizes(value, s);
    if (strcmp(flag, "--slots") == 0) return s->sizes_are_slots = true, parse_sizes(value, s);
    if (strcmp(flag, "--kind") == 0)
        return parse_name(value, kind_names, ROUTES_LOCALITY + 1, &number) && (s->synth.kind = number, true);
    if (strcmp(flag, "--policy") != 0) return false;
    s->all_policies = strcmp(value, "all") == 0;
    return s->all_policies || (parse_name(value, policy_names, N_POLICIES, &number) && (s->replay.policy = number, true));
}

static bool parse(int argc, char **argv, struct settings *s) {
    const struct {
        const char *name;
        bool *to;
    } switches[] = {{"--csv", &s->csv}, {"--prior", &s->replay.prior}, {"--fill", &s->replay.fill}};
    for (int i = 1; i < argc; i++) {
        bool found = false;
        for (size_t k = 0; k < sizeof switches / sizeof *switches && !found; k++)
            if (strcmp(argv[i], switches[k].name) == 0) found = *switches[k].to = true;
        if (found) continue;
        if (i + 1 == argc || !apply(argv[i], argv[i + 1], s)) {
            fprintf(stderr, "replay: cannot use '%s%s%s'\n%s", argv[i], i + 1 < argc ? " " : "",
                    i + 1 < argc ? argv[i + 1] : "", help);
            return false;
        }
        i++;
    }
    return true;
}

/* ---- routes ----------------------------------------------------------------------------------------------------------- */

static enum err read_routes(const char *path, struct routes *out, struct reason *why) {
    struct text bytes = {0};
    static char piece[1 << 16];
    FILE *const file = fopen(path, "rb");
    if (!file) return fail(why, ERR_IO, "%s: %s", path, strerror(errno));
    for (size_t n; (n = fread(piece, 1, sizeof piece, file)) > 0;) text_add(&bytes, piece, n);
    const bool bad = ferror(file);
    fclose(file);
    enum err result = ERR_NONE;
    if (bad || bytes.failed)
        result = fail(why, ERR_IO, "%s: cannot be read whole", path);
    else
        result = routes_parse((struct span){bytes.ptr ? bytes.ptr : "", bytes.len}, out, why);
    text_free(&bytes);
    return result;
}

static enum err save_routes(const char *path, const struct routes *r, struct reason *why) {
    struct text bytes = {0};
    routes_write(r, &bytes);
    FILE *const file = fopen(path, "wb");
    bool ok = file && !bytes.failed && fwrite(bytes.ptr, 1, bytes.len, file) == bytes.len;
    if (file && fclose(file) != 0) ok = false;
    text_free(&bytes);
    return ok ? ERR_NONE : fail(why, ERR_IO, "%s: cannot be written", path);
}

static void print_shape(const struct routes *r, const struct routes_shape *s) {
    fprintf(stderr, "routes: %u turns, %u tokens, %u layers, %u of %u experts\n", r->n_turns, r->n_tokens, r->n_layers,
            r->n_used, r->n_experts);
    fprintf(
        stderr,
        "  within a turn the top 10/20/30/40 %% of experts take %.0f/%.0f/%.0f/%.0f %%; the 40 %% of the other turns %.0f %%\n",
        100 * s->top[0], 100 * s->top[1], 100 * s->top[2], 100 * s->top[3], 100 * s->elsewhere);
    fprintf(stderr, "  chosen by the token before: %.0f %%, by one of the last eight: %.0f %%\n", 100 * s->next,
            100 * s->within_8);
    if (s->expected > 0)
        fprintf(stderr, "  foreseen: %.1f %% (the first choice %.0f %%, the last %.0f %%)\n", 100 * s->expected,
                100 * s->expected_first, 100 * s->expected_last);
}

/* ---- table ------------------------------------------------------------------------------------------------------------ */

/* Q4_K_M keeps the down matrices of the first and the last eighth of the layers, and of every third between, in Q6_K. */
static void lay_out_classes(uint32_t n_layers, uint8_t *layer_class) {
    for (uint32_t l = 0; l < n_layers; l++)
        layer_class[l] = l < n_layers / 8 || l >= 7 * n_layers / 8 || (l - n_layers / 8) % 3 == 2;
}

/* The same number of slots for each layer, however large its experts are. */
static bool size_classes(const struct settings *s, double size, const uint8_t *layer_class, uint32_t n_layers,
                         uint32_t *slots) {
    uint32_t n[N_CLASSES] = {0};
    for (uint32_t l = 0; l < n_layers; l++) n[layer_class[l]]++;
    const double layer_bytes = (double)(n[0] * expert_bytes[0] + n[1] * expert_bytes[1]);
    const double per_layer = s->sizes_are_slots ? size : size * (1 << 30) / layer_bytes;
    for (int i = 0; i < N_CLASSES; i++) slots[i] = n[i] ? (uint32_t)(per_layer * n[i]) : 1;
    return slots[0] > 0 && slots[1] > 0;
}

static void print_head(bool csv) {
    if (csv)
        puts("size,slots,policy,ahead,hit,hit_early,hit_late,demand_mb,ahead_mb,ahead_used,prompt_mb");
    else
        puts("| size | slots | policy | look-ahead | hit % | early | late | MB/token demand | ahead | ahead used % | MB/prompt "
             "token |\n"
             "|---|---|---|---|---|---|---|---|---|---|---|");
}

static double per(uint64_t value, uint64_t n) { return n ? (double)value / (double)n : 0; }

static void print_row(const struct settings *s, double size, const uint32_t *slots, const struct replay_options *o,
                      const struct replay_result *r) {
    const struct replay_count *const e = &r->early, *const l = &r->late;
    const struct replay_count all = {.tokens = e->tokens + l->tokens,
                                     .needed = e->needed + l->needed,
                                     .missed = e->missed + l->missed,
                                     .demand_bytes = e->demand_bytes + l->demand_bytes,
                                     .ahead_bytes = e->ahead_bytes + l->ahead_bytes,
                                     .ahead_taken = e->ahead_taken + l->ahead_taken,
                                     .ahead_used = e->ahead_used + l->ahead_used};
    const char *const format = s->csv ? "%g,%u,%s,%u,%.2f,%.2f,%.2f,%.1f,%.1f,%.1f,%.1f\n"
                                      : "| %g | %u | %s | %u | %.1f | %.1f | %.1f | %.1f | %.1f | %.0f | %.1f |\n";
    printf(format, size, slots[0] + slots[1], policy_names[o->policy], o->ahead, 100 * replay_hit_rate(&all),
           100 * replay_hit_rate(e), 100 * replay_hit_rate(l), per(all.demand_bytes, all.tokens) / 1e6,
           per(all.ahead_bytes, all.tokens) / 1e6, 100 * per(all.ahead_used, all.ahead_taken),
           per(r->prompt_bytes, r->prompt_tokens) / 1e6);
}

static enum err print_table(const struct settings *s, const struct routes *routes, struct reason *why) {
    uint8_t layer_class[ROUTES_MAX_LAYERS];
    uint32_t slots[N_CLASSES];
    lay_out_classes(routes->n_layers, layer_class);
    print_head(s->csv);
    for (uint32_t i = 0; i < s->n_sizes; i++) {
        if (!size_classes(s, s->sizes[i], layer_class, routes->n_layers, slots))
            return fail(why, ERR_ARGUMENT, "%g is too small for a slot", s->sizes[i]);
        for (uint32_t k = 0; k < N_POLICIES; k++) {
            struct replay_options o = s->replay;
            struct replay_result result;
            if (!s->all_policies && k != o.policy) continue;
            o.policy = (enum replay_policy)k;
            o.n_classes = N_CLASSES;
            o.layer_class = layer_class;
            o.slots = slots;
            o.expert_bytes = expert_bytes;
            if (k == REPLAY_STATIC || k == REPLAY_BELADY) o.ahead = 0;
            if (s->all_policies && o.ahead && k != REPLAY_STATIC && k != REPLAY_BELADY) { /* beside it, without */
                struct replay_options without = o;
                without.ahead = 0;
                TRY(replay_routes(routes, &without, &result, why));
                print_row(s, s->sizes[i], slots, &without, &result);
            }
            TRY(replay_routes(routes, &o, &result, why));
            print_row(s, s->sizes[i], slots, &o, &result);
        }
    }
    return ERR_NONE;
}

int main(int argc, char **argv) {
    struct settings s = {.synth = {.kind = ROUTES_LOCALITY,
                                   .layers = 48,
                                   .experts = 128,
                                   .used = 8,
                                   .turns = 4,
                                   .prompt_tokens = 256,
                                   .decode_tokens = 256,
                                   .skew = .5f,
                                   .seed = 1},
                         .sizes = {3, 5, 6.5, 8, 10},
                         .n_sizes = 5,
                         .all_policies = true};
    struct routes routes = {0};
    struct routes_shape shape;
    struct reason why;
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        fputs(help, stderr);
        return 0;
    }
    if (!parse(argc, argv, &s)) return USAGE;
    enum err result = s.routes ? read_routes(s.routes, &routes, &why) : synth_routes_make(&s.synth, &routes, &why);
    if (result == ERR_NONE) result = routes_measure(&routes, &shape, &why);
    if (result == ERR_NONE) print_shape(&routes, &shape);
    if (result == ERR_NONE && s.save) result = save_routes(s.save, &routes, &why);
    if (result == ERR_NONE) result = print_table(&s, &routes, &why);
    routes_close(&routes);
    if (result == ERR_NONE) return 0;
    fprintf(stderr, "replay: %s\n", why.text);
    return 1;
}

/* The parser over the table of flags: environment, command line, later changes, help. It never prints and never exits.
 *
 * Lookups are linear: a command line has a dozen words and the table a hundred rows. */
#include "cli/options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/flags.h"
#include "model/model.h"
#include "model/recipe.h"

static const struct verb_info verbs[VERB_COUNT] = {
    [VERB_CHAT] = {"chat", "-m FILE [flags]", "talk with the model", 0},
    [VERB_RUN] = {"run", "-m FILE -p TEXT [flags]", "continue a raw text", 0},
    [VERB_BENCH] = {"bench", "-m FILE [-p N] [-n N] [-d N] [-r N] [flags]", "measure prompt and generation speed", 0},
    [VERB_PERPLEXITY] = {"perplexity", "-m FILE -f TEXT [flags]", "perplexity of a text; KL divergence between models", 0},
    [VERB_PROFILE] = {"profile", "-m FILE -f TEXT [-o FILE] [flags]", "count how a text uses the experts", 0},
    [VERB_TOKENIZE] = {"tokenize", "-m FILE [flags] < text", "text on stdin to token ids", 0},
    [VERB_DETOKENIZE] = {"detokenize", "-m FILE [flags] < ids", "token ids on stdin to text", 0},
    [VERB_TEMPLATE] = {"template", "{-m FILE | --family NAME} [flags] < request.json",
                       "messages on stdin to a prompt; --parse-tools: an answer to a message", 0},
    [VERB_INSPECT] = {"inspect", "FILE [flags]", "check a model file and list what it holds", 1},
    [VERB_PLAN] = {"plan", "-m FILE [--machine FILE] [flags]", "what would live where, and how fast it would be; loads nothing", 0},
    [VERB_IMATRIX] = {"imatrix", "-m FILE -f TEXT [-o FILE] [flags]", "collect on a text what the weights' inputs are like, for quantize", 0},
    [VERB_PROBE] = {"probe", "[-m FILE] [-o FILE] [flags]", "measure this machine: memory, kernels, the drive a model lies on", 0},
    [VERB_QUANTIZE] = {"quantize", "IN [OUT] TYPE [THREADS] [flags]", "write a model with other weight types, as a GGUF file", 4},
};
static const char *const later_verbs[] = {"serve"};

const struct verb_info *verb_info(enum verb verb) { return &verbs[verb]; }

/* ---- names ------------------------------------------------------------------------------------------------------ */

enum { NAME_ROOM = 64 };

/* The flag's name in a word: up to '=', with '_' read as '-' in long names. *value: behind '=', or NULL. */
static bool split_word(const char *word, char name[NAME_ROOM], const char **value) {
    const char *equals = strchr(word, '=');
    const size_t len = equals ? (size_t)(equals - word) : strlen(word);
    if (len >= NAME_ROOM) return false;
    memcpy(name, word, len);
    name[len] = 0;
    if (strncmp(name, "--", 2) == 0)
        for (char *c = name; *c; c++)
            if (*c == '_') *c = '-';
    *value = equals ? equals + 1 : NULL;
    return true;
}

static bool name_listed(const char *names, const char *name) {
    const size_t len = strlen(name);
    while (names && *names) {
        const size_t n = strcspn(names, " ");
        if (n == len && memcmp(names, name, n) == 0) return true;
        names += n + strspn(names + n, " ");
    }
    return false;
}

static const struct flag *find_flag(enum verb verb, const char *name, bool *off) {
    for (size_t i = 0; i < n_flags; i++) {
        if (!(flags[i].verbs >> verb & 1)) continue;
        *off = name_listed(flags[i].off, name);
        if (*off || name_listed(flags[i].names, name)) return &flags[i];
    }
    return NULL;
}

static const struct ignored_flag *find_ignored(const char *name) {
    for (size_t i = 0; i < n_ignored_flags; i++)
        if (name_listed(ignored_flags[i].names, name)) return &ignored_flags[i];
    return NULL;
}

static const struct refused_flag *find_refused(const char *name) {
    for (size_t i = 0; i < n_refused_flags; i++)
        if (name_listed(refused_flags[i].names, name)) return &refused_flags[i];
    return NULL;
}

static bool known_name(enum verb verb, const char *word) {
    char name[NAME_ROOM];
    const char *value;
    bool off;
    if (!split_word(word, name, &value)) return false;
    return find_flag(verb, name, &off) || find_ignored(name) || find_refused(name);
}

/* Edits (insert, delete, replace, swap of neighbours) that turn a into b: the optimal string alignment distance. */
static unsigned edit_distance(const char *a, size_t n, const char *b, size_t m) {
    unsigned rows[3][NAME_ROOM + 1];
    if (n > NAME_ROOM || m > NAME_ROOM) return NAME_ROOM;
    for (size_t j = 0; j <= m; j++) rows[0][j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++) {
        unsigned *now = rows[i % 3], *before = rows[(i + 2) % 3], *earlier = rows[(i + 1) % 3];
        now[0] = (unsigned)i;
        for (size_t j = 1; j <= m; j++) {
            unsigned best = before[j - 1] + (a[i - 1] != b[j - 1]);
            if (before[j] + 1 < best) best = before[j] + 1;
            if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && earlier[j - 2] + 1 < best)
                best = earlier[j - 2] + 1;
            now[j] = best;
        }
    }
    return rows[n % 3][m];
}

struct nearest {
    char name[NAME_ROOM];
    unsigned distance;
};

static void nearest_try(struct nearest *best, const char *wanted, const char *names) {
    while (names && *names) {
        const size_t n = strcspn(names, " ");
        const unsigned d = edit_distance(wanted, strlen(wanted), names, n);
        if (d < best->distance && n < NAME_ROOM) {
            best->distance = d;
            memcpy(best->name, names, n);
            best->name[n] = 0;
        }
        names += n + strspn(names + n, " ");
    }
}

static bool nearest_is_near(const struct nearest *best, const char *wanted) {
    const size_t len = strlen(wanted);
    return best->distance <= (len < 4 ? 1 : len < 9 ? 2 + len / 6 : len / 3);
}

enum err verb_from_name(const char *name, enum verb *out, struct reason *why) {
    struct nearest best = {.distance = NAME_ROOM};
    for (int v = 0; v < VERB_COUNT; v++) {
        if (strcmp(verbs[v].name, name) == 0) {
            *out = (enum verb)v;
            return ERR_NONE;
        }
        nearest_try(&best, name, verbs[v].name);
    }
    for (size_t i = 0; i < sizeof later_verbs / sizeof *later_verbs; i++)
        if (strcmp(later_verbs[i], name) == 0) return fail(why, ERR_ARGUMENT, "the command '%s' is not in this build", name);
    if (nearest_is_near(&best, name))
        return fail(why, ERR_ARGUMENT, "unknown command '%.60s'; did you mean '%s'?", name, best.name);
    return fail(why, ERR_ARGUMENT, "unknown command '%.60s'; coldstream --help lists them", name);
}

static enum err fail_unknown(enum verb verb, const char *name, struct reason *why) {
    bool off;
    for (int v = 0; v < VERB_COUNT; v++)
        if (find_flag((enum verb)v, name, &off))
            return fail(why, ERR_ARGUMENT, "%s is no flag of %s (it is one of %s)", name, verbs[verb].name, verbs[v].name);
    struct nearest best = {.distance = NAME_ROOM};
    for (size_t i = 0; i < n_flags; i++) {
        if (!(flags[i].verbs >> verb & 1)) continue;
        nearest_try(&best, name, flags[i].names);
        nearest_try(&best, name, flags[i].off);
    }
    if (nearest_is_near(&best, name)) return fail(why, ERR_ARGUMENT, "unknown flag %.60s; did you mean %s?", name, best.name);
    return fail(why, ERR_ARGUMENT, "unknown flag %.60s (nearest: %s); coldstream %s --help lists them", name, best.name,
                verbs[verb].name);
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

static void *member(struct options *o, const struct flag *f) { return (char *)o + f->offset; }

static bool choose(const struct choice *choices, const char *text, int64_t *out) {
    for (const struct choice *c = choices; c && c->name; c++)
        if (strcasecmp(c->name, text) == 0) {
            *out = c->value;
            return true;
        }
    return false;
}

static void add_choices(const struct flag *f, struct text *out) {
    for (const struct choice *c = f->choices; c && c->name; c++) text_addf(out, "%s%s", c == f->choices ? "" : ", ", c->name);
}

static enum err fail_value(const struct flag *f, const char *name, const char *text, struct reason *why) {
    struct text expected = {0};
    switch (f->kind) {
    case FLAG_BOOL: text_addf(&expected, "on or off"); break;
    case FLAG_INT: text_addf(&expected, "a whole number"); break;
    case FLAG_TOKENS: text_addf(&expected, "a whole number, k and m allowed"); break;
    case FLAG_BYTES: text_addf(&expected, "a size such as 14G, 512M, 4096"); break;
    case FLAG_REAL: text_addf(&expected, "a number"); break;
    case FLAG_NUMBERS: text_addf(&expected, "numbers such as 512 or 1k,2k or 128-512+128"); break;
    case FLAG_PAIRS: text_addf(&expected, "two numbers such as 512,128"); break;
    case FLAG_BIAS: text_addf(&expected, "a token id and a sign with a number, such as 151645-inf or 9707+1.5"); break;
    case FLAG_STRING:
    case FLAG_STRINGS: text_addf(&expected, "a text"); break;
    case FLAG_CHOICE:
    case FLAG_CHOICE_OR_BARE: text_addf(&expected, "one of "); break;
    }
    if (f->kind == FLAG_CHOICE || f->kind == FLAG_CHOICE_OR_BARE)
        add_choices(f, &expected);
    else if (f->min < f->max)
        text_addf(&expected, ", %.15g to %.15g", f->min, f->max);
    const enum err code =
        fail(why, ERR_ARGUMENT, "%s '%.80s': expected %s", name, text, expected.ptr ? expected.ptr : "something else");
    text_free(&expected);
    return code;
}

static bool in_range(const struct flag *f, double value) { return value >= f->min && value <= f->max; }

static void *grow(void *items, size_t len, size_t *cap, size_t size) {
    if (len < *cap) return items;
    *cap = *cap ? 2 * *cap : 8;
    return realloc(items, *cap * size);
}

static bool numbers_add(struct number_list *list, int64_t value) {
    int64_t *grown = grow(list->items, list->len, &list->cap, sizeof *grown);
    if (!grown) return false;
    list->items = grown;
    list->items[list->len++] = value;
    return true;
}

static bool strings_add(struct string_list *list, const char *value) {
    const char **grown = grow(list->items, list->len, &list->cap, sizeof *grown);
    if (!grown) return false;
    list->items = grown;
    list->items[list->len++] = value;
    return true;
}

/* One item of a list: "512", "1k", "128-512" (step 1), "128-512+128". At most 1000 values come of it. */
static bool numbers_add_item(struct number_list *list, const struct flag *f, char *item) {
    int64_t first, last, step = 1;
    char *plus = strchr(item, '+'), *dash = *item ? strchr(item + 1, '-') : NULL;
    if (plus && (!dash || plus < dash)) return false;
    if (plus) *plus++ = 0;
    if (dash) *dash++ = 0;
    if (!parse_tokens(item, &first) || !in_range(f, (double)first)) return false;
    last = first;
    if (dash && (!parse_tokens(dash, &last) || !in_range(f, (double)last) || last < first)) return false;
    if (plus && (!parse_tokens(plus, &step) || step < 1)) return false;
    if ((last - first) / step >= 1000) return false;
    for (; first <= last; first += step)
        if (!numbers_add(list, first)) return false;
    return true;
}

static bool numbers_parse(struct number_list *list, const struct flag *f, const char *text) {
    char *copy = strdup(text), *rest = copy, *item;
    const size_t before = list->len;
    bool ok = copy != NULL;
    while (ok && (item = strsep(&rest, ","))) ok = numbers_add_item(list, f, item);
    free(copy);
    return ok && (f->kind != FLAG_PAIRS || list->len == before + 2);
}

static bool bias_parse(struct options *o, const char *text) {
    const size_t digits = strspn(text, "0123456789");
    char id_text[24];
    int64_t id;
    double bias;
    if (digits == 0 || digits >= sizeof id_text || (text[digits] != '+' && text[digits] != '-')) return false;
    memcpy(id_text, text, digits);
    id_text[digits] = 0;
    if (!parse_whole(id_text, &id) || id > INT32_MAX) return false;
    if (strcasecmp(text + digits + 1, "inf") == 0)
        bias = text[digits] == '-' ? -__builtin_inf() : __builtin_inf();
    else if (!parse_real(text + digits, &bias))
        return false;
    struct logit_bias *grown = grow(o->bias, o->n_bias, &o->cap_bias, sizeof *grown);
    if (!grown) return false;
    o->bias = grown;
    o->bias[o->n_bias++] = (struct logit_bias){(int32_t)id, (float)bias};
    return true;
}

static bool int_parse(const struct flag *f, const char *text, int64_t *out) {
    if (choose(f->choices, text, out)) return true;
    if (f->kind == FLAG_BYTES    ? !parse_bytes(text, out)
        : f->kind == FLAG_TOKENS ? !parse_tokens(text, out)
                                 : !parse_whole(text, out))
        return false;
    return in_range(f, (double)*out);
}

static void clear_list(struct options *o, const struct flag *f) {
    if (f->kind == FLAG_NUMBERS || f->kind == FLAG_PAIRS)
        ((struct number_list *)member(o, f))->len = 0;
    else if (f->kind == FLAG_STRINGS)
        ((struct string_list *)member(o, f))->len = 0;
    else if (f->kind == FLAG_BIAS)
        o->n_bias = 0;
}

static bool value_parse(struct options *o, const struct flag *f, bool off, const char *text) {
    static const struct choice truths[] = {{"on", 1},    {"1", 1},        {"true", 1}, {"enabled", 1}, {"off", 0}, {"0", 0},
                                           {"false", 0}, {"disabled", 0}, {0}};
    void *at = member(o, f);
    int64_t truth;
    switch (f->kind) {
    case FLAG_BOOL:
        if (!choose(truths, text, &truth)) return false;
        *(bool *)at = (truth != 0) != off;
        return true;
    case FLAG_INT:
    case FLAG_TOKENS:
    case FLAG_BYTES: return int_parse(f, text, at);
    case FLAG_REAL: return parse_real(text, at) && in_range(f, *(double *)at);
    case FLAG_STRING: *(const char **)at = text; return true;
    case FLAG_CHOICE:
    case FLAG_CHOICE_OR_BARE: return choose(f->choices, text, at);
    case FLAG_NUMBERS:
    case FLAG_PAIRS: return numbers_parse(at, f, text);
    case FLAG_STRINGS: return strings_add(at, text);
    case FLAG_BIAS: return bias_parse(o, text);
    }
    return false;
}

static enum err store(struct options *o, const struct flag *f, bool off, const char *name, const char *text,
                      enum option_source source, struct reason *why) {
    uint8_t *known = &o->sources[f - flags];
    if (source > *known && source != SOURCE_SET) clear_list(o, f); /* a given list replaces the default, then grows */
    if (!value_parse(o, f, off, text)) return fail_value(f, name, text, why);
    *known = (uint8_t)source;
    if (f->warning && source != SOURCE_DEFAULT) text_addf(&o->notes, "%s %s\n", name, f->warning);
    return ERR_NONE;
}

/* ---- defaults and environment ------------------------------------------------------------------------------------- */

/* "--ctx-size" of "-c --ctx-size" as CTX_SIZE; false: the flag has no long name. */
static bool environment_name(const struct flag *f, char name[NAME_ROOM]) {
    const char *start = strstr(f->names, "--");
    if (!start) return false;
    const size_t len = strcspn(start + 2, " ");
    for (size_t i = 0; i < len; i++) {
        const char c = start[2 + i];
        name[i] = c == '-' ? '_' : c >= 'a' && c <= 'z' ? (char)(c - 32) : c;
    }
    name[len] = 0;
    return true;
}

/* llama.cpp's variables that stand in people's compose files. */
static bool has_peer_variable(enum verb verb, const char *name) {
    if (strcmp(name, "CTX_SIZE") == 0) return verb == VERB_CHAT || verb == VERB_RUN;
    return strcmp(name, "MODEL") == 0 || strcmp(name, "THREADS") == 0;
}

static enum err read_environment(struct options *o, struct reason *why) {
    for (size_t i = 0; i < n_flags; i++) {
        char name[NAME_ROOM], variable[NAME_ROOM + 16];
        if (!(flags[i].verbs >> o->verb & 1) || flags[i].offset == offsetof(struct options, help) ||
            flags[i].offset == offsetof(struct options, version) || !environment_name(&flags[i], name))
            continue;
        snprintf(variable, sizeof variable, "COLDSTREAM_%s", name);
        const char *value = getenv(variable);
        if ((!value || !*value) && has_peer_variable(o->verb, name)) {
            snprintf(variable, sizeof variable, "LLAMA_ARG_%s", name);
            value = getenv(variable);
            if (value && *value) text_addf(&o->notes, "using %s=%s from the environment\n", variable, value);
        }
        if (value && *value) TRY(store(o, &flags[i], false, variable, value, SOURCE_ENVIRONMENT, why));
    }
    return ERR_NONE;
}

static const char *variable_or_null(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

static enum err set_defaults(struct options *o, struct reason *why) {
    o->sources = calloc_checked(n_flags, 1);
    if (!o->sources) return fail(why, ERR_NO_MEMORY, "no memory for the options");
    for (size_t i = 0; i < n_flags; i++)
        if (flags[i].initial && (flags[i].verbs >> o->verb & 1))
            TRY(store(o, &flags[i], false, flags[i].names, flags[i].initial, SOURCE_DEFAULT, why));
    o->no_color = variable_or_null("NO_COLOR") != NULL;
    o->home = variable_or_null("HOME");
    o->state_home = variable_or_null("XDG_STATE_HOME");
    o->cache_home = variable_or_null("XDG_CACHE_HOME");
    o->editor = variable_or_null("VISUAL");
    if (!o->editor) o->editor = variable_or_null("EDITOR");
    o->term = variable_or_null("TERM");
    return ERR_NONE;
}

/* ---- command line -------------------------------------------------------------------------------------------------- */

static bool is_switch_word(const char *word) {
    static const char *const words[] = {"on", "off", "auto", "0", "1", "true", "false", "enabled", "disabled"};
    for (size_t i = 0; word && i < sizeof words / sizeof *words; i++)
        if (strcasecmp(words[i], word) == 0) return true;
    return false;
}

struct cursor {
    char *const *words;
    int count, at;
};

static const char *peek(const struct cursor *c) { return c->at < c->count ? c->words[c->at] : NULL; }

/* The word behind a flag that needs one. Another flag's name there means that the value was forgotten. */
static enum err take_value(struct options *o, struct cursor *c, const char *name, const char **value, struct reason *why) {
    const char *word = peek(c);
    if (!word) return fail(why, ERR_ARGUMENT, "%s needs a value", name);
    if (word[0] == '-' && known_name(o->verb, word))
        return fail(why, ERR_ARGUMENT, "%s needs a value, but %.60s follows (write %s=%.60s if it is meant)", name, word, name,
                    word);
    *value = word;
    c->at++;
    return ERR_NONE;
}

static enum err take_flag(struct options *o, const struct flag *f, bool off, const char *name, const char *value,
                          struct cursor *c, struct reason *why) {
    int64_t bare;
    if (f->kind == FLAG_BOOL && !value) {
        value = "on";
        if (o->verb == VERB_BENCH && is_switch_word(peek(c))) value = c->words[c->at++]; /* llama-bench writes -nkvo 0 */
    } else if (f->kind == FLAG_CHOICE_OR_BARE && !value) {
        if (peek(c) && choose(f->choices, peek(c), &bare))
            value = c->words[c->at++];
        else
            value = "on";
    } else if (!value) {
        TRY(take_value(o, c, name, &value, why));
    }
    return store(o, f, off, name, value, SOURCE_FLAG, why);
}

static enum err take_ignored(struct options *o, const struct ignored_flag *f, const char *name, const char *value,
                             struct cursor *c, struct reason *why) {
    if (f->values == 1 && !value) TRY(take_value(o, c, name, &value, why));
    if (f->values == VALUE_IF_SWITCH && !value && is_switch_word(peek(c))) c->at++;
    text_addf(&o->notes, "%s %s\n", name, f->why);
    return ERR_NONE;
}

static bool same_number(const char *a, const char *b) {
    double x, y;
    return strcmp(a, b) == 0 || (parse_real(a, &x) && parse_real(b, &y) && x == y);
}

static enum err take_refused(const struct refused_flag *f, const char *name, const char *value, struct cursor *c,
                             struct reason *why) {
    if (f->neutral && !value && peek(c)) value = c->words[c->at++];
    if (f->neutral && value && same_number(value, f->neutral)) return ERR_NONE;
    return fail(why, ERR_ARGUMENT, "%s %s", name, f->why);
}

static enum err take_word(struct options *o, const char *word, struct reason *why) {
    const struct verb_info *v = &verbs[o->verb];
    if (o->words.len >= v->max_words)
        return fail(why, ERR_ARGUMENT, "unexpected argument '%.80s'; usage: coldstream %s %s", word, v->name, v->arguments);
    return strings_add(&o->words, word) ? ERR_NONE : fail(why, ERR_NO_MEMORY, "no memory for the arguments");
}

static enum err take(struct options *o, struct cursor *c, struct reason *why) {
    const char *word = c->words[c->at++], *value;
    char name[NAME_ROOM];
    if (strcmp(word, "--") == 0) {
        while (peek(c)) TRY(take_word(o, c->words[c->at++], why));
        return ERR_NONE;
    }
    if (word[0] != '-' || word[1] == 0) return take_word(o, word, why);
    if (!split_word(word, name, &value)) return fail(why, ERR_ARGUMENT, "unknown flag %.60s...", word);
    bool off;
    const struct flag *flag = find_flag(o->verb, name, &off);
    if (flag) return take_flag(o, flag, off, name, value, c, why);
    const struct ignored_flag *ignored = find_ignored(name);
    if (ignored) return take_ignored(o, ignored, name, value, c, why);
    const struct refused_flag *refused = find_refused(name);
    if (refused) return take_refused(refused, name, value, c, why);
    return fail_unknown(o->verb, name, why);
}

/* What one flag cannot know of another. */
static enum err check_together(const struct options *o, struct reason *why) {
    if (o->rope_scale > 0 && o->rope_freq_scale > 0 && fabs(o->rope_scale * o->rope_freq_scale - 1) > 1e-6)
        return fail(why, ERR_ARGUMENT, "--rope-scale %g and --rope-freq-scale %g contradict each other: one is 1 divided by the other; give one",
                    o->rope_scale, o->rope_freq_scale);
    const bool scaled = (o->rope_scale > 0 && o->rope_scale != 1) || (o->rope_freq_scale > 0 && o->rope_freq_scale != 1);
    if (options_given(o, &o->rope_scaling) && o->rope_scaling == ROPE_NONE && scaled)
        return fail(why, ERR_ARGUMENT, "--rope-scaling none and a scale contradict each other; give linear or yarn, or no scale");
    return ERR_NONE;
}

enum err options_parse(enum verb verb, int argc, char *const *argv, struct options *out, struct reason *why) {
    *out = (struct options){.verb = verb};
    TRY(set_defaults(out, why));
    TRY(read_environment(out, why));
    struct cursor c = {argv, argc, 0};
    while (peek(&c) && !out->help && !out->version) TRY(take(out, &c, why));
    if (!out->help && !out->version) TRY(check_together(out, why));
    if (out->words.len && (verb == VERB_INSPECT || verb == VERB_QUANTIZE)) out->model = out->words.items[0];
    return ERR_NONE;
}

void options_close(struct options *o) {
    struct number_list *numbers[] = {&o->n_prompt, &o->n_gen, &o->depth, &o->prompt_gen};
    struct string_list *strings[] = {&o->override_tensor, &o->stop, &o->tensor_types, &o->in_files, &o->words, &o->owned};
    for (size_t i = 0; i < o->owned.len; i++) free((void *)o->owned.items[i]);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) free(numbers[i]->items);
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) free(strings[i]->items);
    free(o->bias);
    free(o->sources);
    text_free(&o->notes);
    *o = (struct options){0};
}

enum err options_set(struct options *o, const char *name, const char *value, struct reason *why) {
    char word[NAME_ROOM], full[NAME_ROOM];
    const char *rest;
    snprintf(word, sizeof word, "%s%.50s", name[0] == '-' ? "" : "--", name);
    if (!split_word(word, full, &rest) || rest) return fail(why, ERR_ARGUMENT, "unknown setting %.60s", name);
    bool off;
    const struct flag *f = find_flag(o->verb, full, &off);
    if (!f) return fail_unknown(o->verb, full, why);
    char *copy = strdup(value);
    if (!copy || !strings_add(&o->owned, copy)) {
        free(copy);
        return fail(why, ERR_NO_MEMORY, "no memory for the setting");
    }
    return store(o, f, off, full, copy, SOURCE_SET, why);
}

enum option_source options_source(const struct options *o, const void *at) {
    const size_t offset = (size_t)((const char *)at - (const char *)o);
    for (size_t i = 0; i < n_flags; i++)
        if (flags[i].offset == offset && (flags[i].verbs >> o->verb & 1)) return (enum option_source)o->sources[i];
    return SOURCE_DEFAULT;
}

/* ---- help ----------------------------------------------------------------------------------------------------------- */

enum { HELP_COLUMN = 40 };

static void add_names(const char *names, struct text *out) {
    for (const char *c = names; *c; c++) text_add(out, *c == ' ' ? ", " : c, *c == ' ' ? 2 : 1);
}

static void add_flag_help(const struct flag *f, struct text *out) {
    const size_t start = out->len;
    text_addf(out, "  ");
    add_names(f->names, out);
    if (f->metavar) text_addf(out, " %s", f->metavar);
    if (f->off) {
        text_addf(out, ", ");
        add_names(f->off, out);
    }
    if (out->len - start >= HELP_COLUMN)
        text_addf(out, "\n%*s", HELP_COLUMN, "");
    else
        text_addf(out, "%*s", (int)(HELP_COLUMN - (out->len - start)), "");
    text_addf(out, "%s", f->help);
    if (f->kind == FLAG_CHOICE && f->choices) {
        text_addf(out, " [");
        add_choices(f, out);
        text_addf(out, "]");
    }
    if (f->initial && f->kind != FLAG_BOOL) text_addf(out, " (default %s)", f->initial);
    text_addf(out, "\n");
}

void options_help(enum verb verb, struct text *out) {
    text_addf(out, "usage: coldstream %s %s\n%s\n", verbs[verb].name, verbs[verb].arguments, verbs[verb].summary);
    for (int group = 0; group < GROUP_COUNT; group++) {
        bool titled = false;
        for (size_t i = 0; i < n_flags; i++) {
            if (!(flags[i].verbs >> verb & 1) || (int)flags[i].group != group) continue;
            if (!titled) text_addf(out, "\n%s\n", group_titles[group]);
            titled = true;
            add_flag_help(&flags[i], out);
        }
    }
    if (verb == VERB_QUANTIZE) {
        text_addf(out, "\nTYPE is a mix, a weight type, a preset or COPY:\n  ");
        recipe_list(out);
        text_addf(out, "\n");
    }
    text_addf(out, "\nFlags match exactly and take --flag=value; the last one wins. COLDSTREAM_<NAME> "
                   "(COLDSTREAM_CTX_SIZE=32k) sets any of them.\n"
                   "Known flags of llama.cpp and ik_llama.cpp that mean nothing here are named on stderr and ignored.\n");
}

void options_usage(struct text *out) {
    text_addf(out, "usage: coldstream COMMAND [flags]\n\n");
    for (int v = 0; v < VERB_COUNT; v++) text_addf(out, "  %-12s %s\n", verbs[v].name, verbs[v].summary);
    text_addf(out, "\ncoldstream COMMAND --help lists the flags of a command. Answers go to stdout, all else to stderr.\n"
                   "Exit status: 0 done, 1 run-time error, 2 usage error, 130 interrupted.\n");
}

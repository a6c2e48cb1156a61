/* How many of a list of questions a model answers exactly, through the engine:
 *
 *     tasks -m MODEL -f QUESTIONS.jsonl [-t N] [--ram-budget MIB] [--slots N] [--isa NAME] [--wrong] [--family NAME]
 *
 * A line of QUESTIONS is {"kind": "add", "messages": [...], "answer": "42"}, optionally with "tools" and "family": the conversation is
 * rendered by its chat template, and what greedy generation writes until it ends its turn must be the answer, byte for byte. Prints
 * a line a kind, worst first, and the total; --wrong: what was written instead. tests/golden/demo/held_out.jsonl is such a list for the
 * demo model. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "engine/engine.h"

enum { USAGE = 2, MAX_KINDS = 128, SPARE_TOKENS = 16 };

struct kind {
    char name[48];
    unsigned right, total;
};

struct tasks {
    struct engine_options engine;
    const char *file;
    enum chat_family family; /* CHAT_FAMILY_COUNT: as the model's file says */
    bool wrong;
    struct engine *e;
    struct session *s;
    struct kind kinds[MAX_KINDS];
    size_t n_kinds;
    uint64_t tokens, ns;
};

static int usage(void) {
    fputs("tasks -m MODEL -f QUESTIONS.jsonl [-t N] [--ram-budget MIB] [--slots N] [--isa NAME] [--wrong] [--family NAME]\n", stderr);
    return USAGE;
}

/* ---- one question --------------------------------------------------------------------------------------------------------- */

static int32_t best_token(const float *logits, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}

/* What the model writes after the prompt, until its turn ends or `room` tokens are through. */
static enum err answer(struct tasks *t, const struct token_list *prompt, size_t room, struct text *out, struct reason *why) {
    const struct tokenizer *tokenizer = engine_tokenizer(t->e);
    const uint32_t n_vocab = engine_model(t->e)->shape.n_vocab;
    struct detokenizer detokenizer = {0};
    struct eval eval = {.tokens = prompt->ids, .n = prompt->len};
    const float *logits;
    TRY(session_eval(t->s, &eval, &logits, why));
    for (size_t i = 0; i < room && session_length(t->s) < session_capacity(t->s); i++) {
        const int32_t id = best_token(logits, n_vocab);
        t->tokens++;
        if (tokenizer_is_end(tokenizer, id)) return ERR_NONE;
        detokenize_step(&detokenizer, tokenizer, id, out);
        TRY(session_append(t->s, id, &logits, why));
    }
    text_addf(out, "..."); /* it did not end: wrong, whatever was written */
    return ERR_NONE;
}

static enum err family_of(const struct tasks *t, const json_t *line, enum chat_family *out, struct reason *why) {
    struct span name;
    *out = t->family == CHAT_FAMILY_COUNT ? engine_chat_family(t->e) : t->family;
    if (!json_span(json_object_get(line, "family"), &name) || chat_family_from_name(name, out)) return ERR_NONE;
    return fail(why, ERR_FORMAT, "unknown family '%.*s'", (int)name.len, name.ptr);
}

static struct kind *kind_of(struct tasks *t, struct span name) {
    for (size_t i = 0; i < t->n_kinds; i++)
        if (span_equal(span_of(t->kinds[i].name), name)) return &t->kinds[i];
    if (t->n_kinds == MAX_KINDS || name.len >= sizeof t->kinds->name) return NULL;
    struct kind *k = &t->kinds[t->n_kinds++];
    memcpy(k->name, name.ptr, name.len);
    return k;
}

static enum err ask(struct tasks *t, const json_t *line, struct reason *why) {
    struct span name, want;
    if (!json_span(json_object_get(line, "kind"), &name) || !json_span(json_object_get(line, "answer"), &want))
        return fail(why, ERR_FORMAT, "a question needs \"kind\", \"messages\" and \"answer\"");
    struct kind *k = kind_of(t, name);
    if (!k) return fail(why, ERR_FORMAT, "too many kinds, or the name of one is too long");
    const struct chat_request request = {.messages = json_object_get(line, "messages"), .tools = json_object_get(line, "tools"),
                                         .add_generation_prompt = true, .enable_thinking = -1};
    struct chat_prompt prompt = {0};
    struct token_list ids = {0}, expected = {0};
    struct text got = {0};
    enum chat_family family;
    enum err code = family_of(t, line, &family, why);
    if (!code) code = chat_render(family, &request, &prompt, why);
    if (!code) code = chat_tokenize(engine_tokenizer(t->e), &prompt, &ids, why);
    if (!code) code = tokenizer_encode(engine_tokenizer(t->e), want, PARSE_SPECIAL, &expected, why);
    if (!code) code = answer(t, &ids, expected.len + SPARE_TOKENS, &got, why);
    if (!code) {
        const bool right = span_equal((struct span){got.ptr, got.len}, want);
        k->total++;
        k->right += right;
        if (t->wrong && !right)
            printf("---- %s\n%.*s\nwanted: %.*s\ngot:    %.*s\n", k->name, (int)prompt.text.len, prompt.text.ptr, (int)want.len, want.ptr,
                   (int)got.len, got.len ? got.ptr : "");
    }
    text_free(&got);
    token_list_free(&expected);
    token_list_free(&ids);
    chat_prompt_free(&prompt);
    return code;
}

/* ---- all ------------------------------------------------------------------------------------------------------------------------ */

static enum err ask_all(struct tasks *t, struct reason *why) {
    FILE *f = fopen(t->file, "r");
    char *line = NULL;
    size_t room = 0, number = 0;
    ssize_t len;
    enum err code = ERR_NONE;
    if (!f) return fail(why, ERR_IO, "%s: cannot open", t->file);
    while (!code && (len = getline(&line, &room, f)) > 0) {
        json_t *question = NULL;
        struct reason inner = {{0}};
        number++;
        code = json_read((struct span){line, (size_t)len}, &question, &inner);
        if (!code) code = ask(t, question, &inner);
        json_decref(question);
        if (code) fail(why, code, "%s:%zu: %s", t->file, number, inner.text);
    }
    free(line);
    fclose(f);
    return code;
}

static int by_share(const void *a, const void *b) {
    const struct kind *x = a, *y = b;
    const double p = (double)x->right / (double)x->total, q = (double)y->right / (double)y->total;
    return p < q ? -1 : p > q ? 1 : strcmp(x->name, y->name);
}

static void report(struct tasks *t) {
    unsigned right = 0, total = 0;
    qsort(t->kinds, t->n_kinds, sizeof *t->kinds, by_share);
    for (size_t i = 0; i < t->n_kinds; i++) {
        const struct kind *k = &t->kinds[i];
        printf("%-24s %4u of %4u  %5.1f %%\n", k->name, k->right, k->total, 100.0 * k->right / k->total);
        right += k->right;
        total += k->total;
    }
    printf("%-24s %4u of %4u  %5.1f %%   (%.0f tokens generated a second, prompts included)\n", "all", right, total,
           total ? 100.0 * right / total : 0, 1e9 * (double)t->tokens / (double)(t->ns ? t->ns : 1));
}

static enum err run(struct tasks *t, struct reason *why) {
    TRY(engine_open(&t->engine, &t->e, why));
    if (!engine_tokenizer(t->e)) return fail(why, ERR_UNSUPPORTED, "%s: the file holds no tokenizer", t->engine.model_path);
    TRY(session_open(t->e, t->engine.kv_tokens, &t->s, why));
    const uint64_t begin = clock_ns();
    TRY(ask_all(t, why));
    t->ns = clock_ns() - begin;
    report(t);
    return ERR_NONE;
}

int main(int argc, char **argv) {
    struct tasks t = {.family = CHAT_FAMILY_COUNT, .engine.kv_tokens = 2048};
    struct reason why = {{0}};
    for (int i = 1; i < argc; i++) {
        const char *flag = argv[i];
        if (strcmp(flag, "--wrong") == 0) {
            t.wrong = true;
            continue;
        }
        const char *value = ++i < argc ? argv[i] : NULL;
        if (!value) return usage();
        if (strcmp(flag, "-m") == 0) t.engine.model_path = value;
        else if (strcmp(flag, "-f") == 0) t.file = value;
        else if (strcmp(flag, "-t") == 0) t.engine.threads = (unsigned)strtoul(value, NULL, 10);
        else if (strcmp(flag, "--ram-budget") == 0) t.engine.ram_budget = strtoull(value, NULL, 10) << 20;
        else if (strcmp(flag, "--slots") == 0) t.engine.max_slots = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(flag, "--isa") == 0) t.engine.isa = value;
        else if (strcmp(flag, "--family") != 0 || !chat_family_from_name(span_of(value), &t.family)) return usage();
    }
    if (!t.engine.model_path || !t.file) return usage();
    const enum err code = run(&t, &why);
    if (code) fprintf(stderr, "tasks: %s\n", why.text);
    session_close(&t.s);
    engine_close(&t.e);
    return code ? 1 : 0;
}

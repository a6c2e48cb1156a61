/* The table of flags: exact names, whole values, the last one wins, environment, ignored and refused flags, help. */
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/flags.h"

enum { MAX_WORDS = 24 };

/* Splits a line at blanks and parses it; "''" stands for an empty word, '_' in a word for nothing special. */
struct parsed {
    struct options options;
    struct reason why;
    enum err code;
    char line[512];
    char *words[MAX_WORDS];
};

static struct parsed *parse(enum verb verb, const char *line) {
    static struct parsed p;
    memset(&p, 0, sizeof p);
    snprintf(p.line, sizeof p.line, "%s", line);
    int n = 0;
    for (char *word = strtok(p.line, " "); word && n < MAX_WORDS; word = strtok(NULL, " "))
        p.words[n++] = strcmp(word, "''") == 0 ? "" : word;
    p.code = options_parse(verb, n, p.words, &p.options, &p.why);
    return &p;
}

static void drop(struct parsed *p) { options_close(&p->options); }

static void accept(enum verb verb, const char *line) {
    struct parsed *p = parse(verb, line);
    if (p->code) fail_test("'%s' was refused: %s", line, p->why.text);
    drop(p);
}

/* The line must be refused with a reason that holds `part`. */
static void refuse(enum verb verb, const char *line, const char *part) {
    struct parsed *p = parse(verb, line);
    if (!p->code) fail_test("'%s' was accepted", line);
    if (!strstr(p->why.text, part)) fail_test("'%s' was refused with '%s', not '%s'", line, p->why.text, part);
    assert_int_equal(p->code, ERR_ARGUMENT);
    drop(p);
}

static size_t listed(const char *names, const char *name) {
    size_t count = 0;
    for (const char *at = names; at && (at = strstr(at, name)); at += strlen(name))
        count += (at == names || at[-1] == ' ') && (at[strlen(name)] == 0 || at[strlen(name)] == ' ');
    return count;
}

/* ---- values ---------------------------------------------------------------------------------------------------------- */

static void numbers_are_read_whole(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t value;
    } tokens[] = {{"32k", 32768}, {"32K", 32768}, {"1m", 1048576}, {"4096", 4096}, {"0", 0}, {"-1", -1}, {"+7", 7}};
    static const struct {
        const char *text;
        int64_t value;
    } bytes[] = {{"14G", 14ll << 30}, {"14GiB", 14ll << 30}, {"14gb", 14ll << 30}, {"512M", 512 << 20},
                 {"2K", 2048},        {"4096", 4096},        {"1.5G", 3ll << 29},  {"1T", 1ll << 40}};
    static const char *const not_tokens[] = {
        "", "32x", "32kk", "32 ", " 32", "k", "1.5k", "0x10", "9223372036854775807k", "99999999999999999999", "-", "1e3"};
    static const char *const not_bytes[] = {"", "G", "14Gi", "14X", "-1", "1.5", "nan", "inf", "99999999999T", "0x10", "1 G"};
    static const char *const not_reals[] = {"", "0.7x", "nan", "inf", "-inf", "0x1p3", "1e999", " 1", "1 ", ".", "e5", "1,5"};
    int64_t value;
    double real;
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        assert_true(parse_tokens(tokens[i].text, &value));
        assert_int_equal(value, tokens[i].value);
    }
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        if (!parse_bytes(bytes[i].text, &value)) fail_test("'%s' is no size", bytes[i].text);
        assert_int_equal(value, bytes[i].value);
    }
    for (size_t i = 0; i < sizeof not_tokens / sizeof *not_tokens; i++)
        if (parse_tokens(not_tokens[i], &value)) fail_test("'%s' became %lld tokens", not_tokens[i], (long long)value);
    for (size_t i = 0; i < sizeof not_bytes / sizeof *not_bytes; i++)
        if (parse_bytes(not_bytes[i], &value)) fail_test("'%s' became %lld bytes", not_bytes[i], (long long)value);
    for (size_t i = 0; i < sizeof not_reals / sizeof *not_reals; i++)
        if (parse_real(not_reals[i], &real)) fail_test("'%s' became %g", not_reals[i], real);
    assert_true(parse_real("-1.5e-3", &real) && real == -1.5e-3);
    assert_true(parse_whole("-12", &value) && value == -12);
    assert_false(parse_whole("12k", &value));
}

static void context_takes_suffixes_and_nothing_else(void **state) {
    (void)state;
    struct parsed *p = parse(VERB_RUN, "-m a.gguf -c 32k");
    assert_int_equal(p->code, ERR_NONE);
    assert_int_equal(p->options.ctx_size, 32768);
    drop(p);
    refuse(VERB_RUN, "-m a.gguf -c 32x", "-c '32x': expected a whole number");
    refuse(VERB_RUN, "-c -5", "0 to");
    refuse(VERB_RUN, "-c ''", "-c ''");
    refuse(VERB_RUN, "-t 4x", "-t '4x'");
    refuse(VERB_RUN, "-t 4k", "-t '4k'");
    refuse(VERB_RUN, "--top-p 1.5", "0 to 1");
    refuse(VERB_RUN, "--temp 0.7f", "--temp '0.7f'");
    refuse(VERB_RUN, "--isa sse", "one of auto, ref, avx2, avx512");
    refuse(VERB_RUN, "-ctk q8_0", "one of f16");
    refuse(VERB_RUN, "-s 99999999999999999999", "-s");
    accept(VERB_RUN, "-ctk f16 -ctv F16 --isa AVX2 -s -1 -n -1");
}

/* ---- names ----------------------------------------------------------------------------------------------------------- */

static void names_match_exactly(void **state) {
    (void)state;
    refuse(VERB_CHAT, "-nk", "unknown flag -nk");
    refuse(VERB_CHAT, "-cm", "unknown flag -cm");
    refuse(VERB_CHAT, "--ctx 5", "unknown flag --ctx");
    refuse(VERB_CHAT, "--ctx-siz 5", "did you mean --ctx-size?");
    refuse(VERB_CHAT, "--tmep 5", "did you mean --temp?");
    refuse(VERB_CHAT, "--repaet-penalty 5", "did you mean --repeat-penalty?");
    refuse(VERB_CHAT, "--no-kv-ofload", "did you mean --no-kv-offload?");
    refuse(VERB_CHAT, "--entirely-made-up", "unknown flag --entirely-made-up");
    refuse(VERB_RUN, "-d 5", "it is one of bench");
    refuse(VERB_RUN, "a-word", "unexpected argument 'a-word'");
    refuse(VERB_INSPECT, "a.gguf b.gguf", "unexpected argument 'b.gguf'");
    accept(VERB_CHAT, "--ctx_size 5 --ctx-size=6 --no_nfc");
}

static void values_follow_or_stand_behind_equals(void **state) {
    (void)state;
    struct parsed *p = parse(VERB_RUN, "--model=a=b.gguf -c=7 -p -x -n -1");
    assert_int_equal(p->code, ERR_NONE);
    assert_string_equal(p->options.model, "a=b.gguf");
    assert_int_equal(p->options.ctx_size, 7);
    assert_string_equal(p->options.prompt, "-x");
    assert_int_equal(p->options.predict, -1);
    drop(p);
    refuse(VERB_RUN, "-m", "-m needs a value");
    refuse(VERB_RUN, "-m -c 32", "-m needs a value, but -c follows");
    refuse(VERB_RUN, "-m --mlock", "-m needs a value");
    p = parse(VERB_INSPECT, "-- -odd.gguf");
    assert_int_equal(p->code, ERR_NONE);
    assert_string_equal(p->options.model, "-odd.gguf");
    drop(p);
}

static void the_last_one_wins(void **state) {
    (void)state;
    struct parsed *p = parse(VERB_CHAT, "-c 1 -c 2 -nkvo -kvo -nkvo --nfc --no-nfc -l 5+1 -l 6-inf");
    assert_int_equal(p->code, ERR_NONE);
    assert_int_equal(p->options.ctx_size, 2);
    assert_false(p->options.kv_offload);
    assert_false(p->options.nfc);
    assert_int_equal(p->options.n_bias, 2);
    assert_int_equal(p->options.bias[1].id, 6);
    assert_true(p->options.bias[1].bias < -1e30f);
    assert_true(p->options.bias[0].bias == 1);
    drop(p);
    p = parse(VERB_CHAT, "-nkvo -kvo --no-kv-offload=off");
    assert_true(p->options.kv_offload);
    drop(p);
    refuse(VERB_CHAT, "-l 5", "-l '5'");
    refuse(VERB_CHAT, "-l 5*2", "-l '5*2'");
    refuse(VERB_CHAT, "-l -5+2", "-l '-5+2'");
}

/* -fa was bare for years and now wants a value: it takes one only when the next word can be one. */
static void flash_attention_takes_a_value_only_if_it_is_one(void **state) {
    (void)state;
    static const char *const lines[] = {"-fa -c 9",   "-fa on -c 9", "-fa off -c 9",      "-fa auto -c 9",
                                        "-fa 1 -c 9", "-fa=0 -c 9",  "--flash-attn -c 9", "-c 9 -fa"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct parsed *p = parse(VERB_CHAT, lines[i]);
        if (p->code) fail_test("'%s': %s", lines[i], p->why.text);
        assert_int_equal(p->options.ctx_size, 9);
        assert_non_null(strstr(p->options.notes.ptr, "is ignored"));
        drop(p);
    }
    struct parsed *p = parse(VERB_CHAT, "--color -c 9");
    assert_int_equal(p->options.color, SWITCH_ON);
    drop(p);
    p = parse(VERB_CHAT, "--color off -c 9");
    assert_int_equal(p->options.color, SWITCH_OFF);
    assert_int_equal(p->options.ctx_size, 9);
    drop(p);
}

static void known_flags_of_peers_are_ignored_with_a_note(void **state) {
    (void)state;
    struct parsed *p =
        parse(VERB_CHAT, "-m a.gguf --mlock -fmoe --jinja -C 0xff -ts 3,1 --numa distribute --no-warmup -rtr -c 9");
    assert_int_equal(p->code, ERR_NONE);
    assert_int_equal(p->options.ctx_size, 9);
    assert_string_equal(p->options.model, "a.gguf");
    static const char *const names[] = {"--mlock ", "-fmoe ", "--jinja ", "-C ", "-ts ", "--numa ", "--no-warmup ", "-rtr "};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) assert_non_null(strstr(p->options.notes.ptr, names[i]));
    drop(p);
    refuse(VERB_CHAT, "--numa", "--numa needs a value");
    refuse(VERB_CHAT, "--jinja on", "unexpected argument 'on'"); /* takes none, unlike -fa */
    p = parse(VERB_CHAT, "-ngl 99 -ncmoe 4 -cmoe -ot exps=CPU --vram-budget 14G");
    assert_int_equal(p->code, ERR_NONE);
    assert_int_equal(p->options.gpu_layers, 99);
    assert_int_equal(p->options.vram_budget, 14ll << 30);
    assert_int_equal(p->options.override_tensor.len, 1);
    assert_null(p->options.notes.ptr);
    drop(p);
    p = parse(VERB_CHAT, "-ngl all");
    assert_int_equal(p->options.gpu_layers, -2);
    drop(p);
    refuse(VERB_CHAT, "-ngl 9x", "-ngl '9x'");
}

static void flags_that_would_be_a_lie_are_refused(void **state) {
    (void)state;
    refuse(VERB_CHAT, "-ser 6,1", "changes the model's answers");
    refuse(VERB_CHAT, "-md draft.gguf", "speculative");
    refuse(VERB_CHAT, "-hf user/repo", "download");
    refuse(VERB_CHAT, "--grammar x", "not in this build");
    refuse(VERB_CHAT, "--mirostat 2", "not in this build");
    accept(VERB_CHAT, "--mirostat 0 --typical 1.0 --xtc-probability 0.00");
}

static void positions_and_a_full_context(void **state) {
    (void)state;
    struct parsed *p = parse(VERB_CHAT, "--rope-scaling yarn --rope-scale 4 --yarn-orig-ctx 256k --yarn-ext-factor -1 --yarn-attn-factor 0.5 "
                                        "--yarn-beta-slow 2 --yarn-beta-fast 16 --rope-freq-base 1e7 --rope-freq-scale 0.25 --context-shift");
    if (p->code) fail_test("%s", p->why.text);
    const struct rope_override r = cli_rope(&p->options);
    assert_true(r.has_scaling && r.scaling == ROPE_YARN && r.factor == 4 && r.original_context == 262144 && !r.has_ext_factor);
    assert_true(r.attn_factor == 0.5f && r.beta_slow == 2 && r.beta_fast == 16 && r.base == 1e7f);
    assert_true(p->options.context_shift);
    drop(p);
    static const struct rope_override nothing; /* values of llama.cpp's defaults say nothing */
    p = parse(VERB_RUN, "--rope-freq-base 0 --rope-freq-scale 0 --yarn-orig-ctx 0 --yarn-ext-factor -1 --yarn-attn-factor -1 --yarn-beta-fast -1 "
                        "--yarn-beta-slow -1 --keep -1 --no-context-shift");
    if (p->code) fail_test("%s", p->why.text);
    const struct rope_override none = cli_rope(&p->options);
    assert_true(!none.has_scaling && !none.has_ext_factor && none.factor == nothing.factor && none.base == nothing.base &&
                none.original_context == 0 && none.attn_factor == 0 && none.beta_fast == 0 && none.beta_slow == 0);
    assert_int_equal(p->options.keep, -1);
    assert_false(p->options.context_shift);
    drop(p);
    p = parse(VERB_PLAN, "--rope-freq-scale 0.125 -c 1m");
    assert_true(cli_rope(&p->options).factor == 8);
    drop(p);
    accept(VERB_BENCH, "--rope-scaling linear --rope-scale 2 --context-shift --keep 4"); /* the latter two: noted */
    accept(VERB_CHAT, "--keep 4");
    accept(VERB_CHAT, "--rope-scaling none --rope-scale 1");
    refuse(VERB_CHAT, "--rope-scaling dynamic", "one of none, linear, yarn");
    refuse(VERB_CHAT, "--rope-scale 2 --rope-freq-scale 0.25", "contradict");
    refuse(VERB_CHAT, "--rope-scaling none --rope-scale 2", "contradict");
    refuse(VERB_CHAT, "--yarn-ext-factor 2", "-1 to 1");
    refuse(VERB_CHAT, "--rope-scale -2", "0 to");
    refuse(VERB_RUN, "--keep -2", "-1 to");
}

/* ---- bench ----------------------------------------------------------------------------------------------------------- */

static void bench_takes_lists(void **state) {
    (void)state;
    struct parsed *p =
        parse(VERB_BENCH, "-m a.gguf -p 512,1k -p 8-24+8 -n 0 -d 0,4k -pg 16,4 -pg 32,8 -r 3 -o json -nkvo 0 -fa 1 -w 0");
    static const int64_t prompts[] = {512, 1024, 8, 16, 24};
    assert_int_equal(p->code, ERR_NONE);
    assert_int_equal(p->options.n_prompt.len, 5);
    assert_memory_equal(p->options.n_prompt.items, prompts, sizeof prompts);
    assert_int_equal(p->options.n_gen.len, 1);
    assert_int_equal(p->options.depth.items[1], 4096);
    assert_int_equal(p->options.prompt_gen.len, 4);
    assert_int_equal(p->options.repetitions, 3);
    assert_int_equal(p->options.output, BENCH_JSON);
    assert_true(p->options.kv_offload);
    assert_false(p->options.warmup);
    drop(p);
    p = parse(VERB_BENCH, "");
    assert_int_equal(p->options.n_prompt.items[0], 512);
    assert_int_equal(p->options.n_gen.items[0], 128);
    assert_int_equal(p->options.repetitions, 5);
    drop(p);
    refuse(VERB_BENCH, "-p 5,", "-p '5,'");
    refuse(VERB_BENCH, "-p 9-5", "-p '9-5'");
    refuse(VERB_BENCH, "-p 1-5000", "-p '1-5000'");
    refuse(VERB_BENCH, "-pg 5", "-pg '5'");
    refuse(VERB_BENCH, "-o sql", "one of md, csv, json");
    refuse(VERB_BENCH, "-r 0", "1 to");
}

static void the_same_name_means_what_its_command_says(void **state) {
    (void)state;
    struct parsed *p = parse(VERB_PERPLEXITY, "-m a.gguf -f text --chunks 3");
    assert_int_equal(p->options.ctx_size, 512);
    assert_int_equal(options_source(&p->options, &p->options.ctx_size), SOURCE_DEFAULT);
    drop(p);
    p = parse(VERB_CHAT, "-p hello -r END");
    assert_string_equal(p->options.prompt, "hello");
    assert_int_equal(p->options.stop.len, 1);
    assert_int_equal(p->options.ctx_size, 0);
    drop(p);
}

/* ---- environment, later changes, help -------------------------------------------------------------------------------- */

static void environment_is_weaker_than_flags(void **state) {
    (void)state;
    setenv("COLDSTREAM_MODEL", "own.gguf", 1);
    setenv("LLAMA_ARG_MODEL", "peer.gguf", 1);
    setenv("LLAMA_ARG_CTX_SIZE", "8k", 1);
    setenv("COLDSTREAM_NO_NFC", "1", 1); /* not a name: the flag is NFC */
    setenv("COLDSTREAM_NFC", "off", 1);
    setenv("NO_COLOR", "1", 1);
    struct parsed *p = parse(VERB_CHAT, "");
    assert_int_equal(p->code, ERR_NONE);
    assert_string_equal(p->options.model, "own.gguf");
    assert_int_equal(p->options.ctx_size, 8192);
    assert_false(p->options.nfc);
    assert_true(p->options.no_color);
    assert_non_null(strstr(p->options.notes.ptr, "LLAMA_ARG_CTX_SIZE=8k"));
    assert_null(strstr(p->options.notes.ptr, "LLAMA_ARG_MODEL"));
    assert_int_equal(options_source(&p->options, &p->options.ctx_size), SOURCE_ENVIRONMENT);
    drop(p);
    p = parse(VERB_CHAT, "-m flag.gguf -c 5");
    assert_string_equal(p->options.model, "flag.gguf");
    assert_int_equal(p->options.ctx_size, 5);
    assert_int_equal(options_source(&p->options, &p->options.ctx_size), SOURCE_FLAG);
    drop(p);
    setenv("COLDSTREAM_CTX_SIZE", "lots", 1);
    refuse(VERB_CHAT, "", "COLDSTREAM_CTX_SIZE 'lots'");
    static const char *const names[] = {"COLDSTREAM_MODEL", "LLAMA_ARG_MODEL", "LLAMA_ARG_CTX_SIZE", "COLDSTREAM_NO_NFC",
                                        "COLDSTREAM_NFC",   "NO_COLOR",        "COLDSTREAM_CTX_SIZE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unsetenv(names[i]);
}

static void settings_can_change_later(void **state) {
    (void)state;
    struct parsed *p = parse(VERB_CHAT, "--temp 0.5");
    struct options *o = &p->options;
    assert_int_equal(options_source(o, &o->temp), SOURCE_FLAG);
    assert_int_equal(options_source(o, &o->top_k), SOURCE_DEFAULT);
    assert_int_equal(options_set(o, "temp", "0.25", &p->why), ERR_NONE);
    assert_true(o->temp == 0.25);
    assert_int_equal(options_source(o, &o->temp), SOURCE_SET);
    char value[] = "be brief";
    assert_int_equal(options_set(o, "--system-prompt", value, &p->why), ERR_NONE);
    value[0] = 'X'; /* the options keep their own copy */
    assert_string_equal(o->system_prompt, "be brief");
    assert_int_equal(options_set(o, "temp", "hot", &p->why), ERR_ARGUMENT);
    assert_non_null(strstr(p->why.text, "--temp 'hot'"));
    assert_int_equal(options_set(o, "tmep", "1", &p->why), ERR_ARGUMENT);
    assert_non_null(strstr(p->why.text, "did you mean --temp?"));
    assert_true(o->temp == 0.25);
    drop(p);
}

static void help_lists_the_flags_of_a_command(void **state) {
    (void)state;
    for (int v = 0; v < VERB_COUNT; v++) {
        struct text page = {0};
        options_help((enum verb)v, &page);
        assert_false(page.failed);
        assert_true((strstr(page.ptr, "--model MODEL") != NULL) == (v != VERB_QUANTIZE)); /* whose input is its first word */
        assert_non_null(strstr(page.ptr, "--help"));
        assert_true((strstr(page.ptr, "--repetitions") != NULL) == (v == VERB_BENCH));
        text_free(&page);
        struct parsed *p = parse((enum verb)v, "--help --nonsense"); /* help wins over what follows */
        assert_int_equal(p->code, ERR_NONE);
        assert_true(p->options.help);
        drop(p);
    }
}

static void unknown_commands_name_the_nearest(void **state) {
    (void)state;
    enum verb verb;
    struct reason why;
    assert_int_equal(verb_from_name("chat", &verb, &why), ERR_NONE);
    assert_int_equal(verb, VERB_CHAT);
    assert_int_equal(verb_from_name("chta", &verb, &why), ERR_ARGUMENT);
    assert_non_null(strstr(why.text, "did you mean 'chat'?"));
    assert_int_equal(verb_from_name("serve", &verb, &why), ERR_ARGUMENT);
    assert_non_null(strstr(why.text, "not in this build"));
    assert_int_equal(verb_from_name("make-me-a-sandwich", &verb, &why), ERR_ARGUMENT);
}

/* In a command each name means one thing: the table, the ignored and the refused flags do not overlap. A row of the table may
 * take a name from the ignored ones for its own command. */
static void no_name_is_listed_twice(void **state) {
    (void)state;
    for (int v = 0; v < VERB_COUNT; v++) {
        struct text all = {0};
        for (size_t i = 0; i < n_flags; i++)
            if (flags[i].verbs >> v & 1) text_addf(&all, " %s %s ", flags[i].names, flags[i].off ? flags[i].off : "");
        for (char *name = strtok(all.ptr, " "); name; name = strtok(NULL, " ")) {
            for (size_t i = 0; i < n_refused_flags; i++) assert_false(listed(refused_flags[i].names, name));
            size_t rows = 0;
            for (size_t i = 0; i < n_flags; i++)
                if (flags[i].verbs >> v & 1) rows += listed(flags[i].names, name) + listed(flags[i].off, name);
            if (rows != 1) fail_test("%s is listed %zu times for %s", name, rows, verb_info((enum verb)v)->name);
        }
        text_free(&all);
    }
    for (size_t i = 0; i < n_ignored_flags; i++)
        for (size_t j = 0; j < n_refused_flags; j++) {
            char names[512];
            snprintf(names, sizeof names, "%s", ignored_flags[i].names);
            for (char *name = strtok(names, " "); name; name = strtok(NULL, " "))
                if (listed(refused_flags[j].names, name)) fail_test("%s is ignored and refused", name);
        }
}

/* Random words must end in a verdict, not in a crash; run under the sanitizers this is a small fuzz test. */
static void any_words_end_in_a_verdict(void **state) {
    (void)state;
    static const char *const pieces[] = {"-",   "--", "m",  "c",   "p",    "ctx_size", "=",   "5k",  "-1", "on",
                                         "-fa", "-l", "7+", "inf", "\xff", "-pg",      "1,2", "-ot", " "};
    uint32_t random = 1;
    for (int round = 0; round < 5000; round++) {
        char line[256] = "";
        for (int i = 0; i < 12; i++) {
            random = random * 1664525u + 1013904223u;
            strcat(line, pieces[(random >> 16) % (sizeof pieces / sizeof *pieces)]);
        }
        drop(parse((enum verb)((random >> 8) % VERB_COUNT), line));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_read_whole),
        cmocka_unit_test(context_takes_suffixes_and_nothing_else),
        cmocka_unit_test(names_match_exactly),
        cmocka_unit_test(values_follow_or_stand_behind_equals),
        cmocka_unit_test(the_last_one_wins),
        cmocka_unit_test(flash_attention_takes_a_value_only_if_it_is_one),
        cmocka_unit_test(known_flags_of_peers_are_ignored_with_a_note),
        cmocka_unit_test(flags_that_would_be_a_lie_are_refused),
        cmocka_unit_test(positions_and_a_full_context),
        cmocka_unit_test(bench_takes_lists),
        cmocka_unit_test(the_same_name_means_what_its_command_says),
        cmocka_unit_test(environment_is_weaker_than_flags),
        cmocka_unit_test(settings_can_change_later),
        cmocka_unit_test(help_lists_the_flags_of_a_command),
        cmocka_unit_test(unknown_commands_name_the_nearest),
        cmocka_unit_test(no_name_is_listed_twice),
        cmocka_unit_test(any_words_end_in_a_verdict),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

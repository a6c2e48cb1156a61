/* How experts are used: the command profile, routes of a run, what runs and chats learn, and what is said about reading. The
 * program runs on the tiny model with a state folder of its own. */
#include "tests/support/check.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/io_report.h"
#include "cli/learn.h"
#include "tests/support/files.h"

#define PROGRAM BUILD_DIR "/coldstream"
#define TINY TESTS_DIR "/golden/hf_tiny/hf_tiny.gguf" /* 2 layers, 3 of 8 experts; byte tokens */
#define TEXT TINY                                     /* any bytes serve as a text */
#define PROMPT "a prompt that is longer than what is thrown away"

static char folder[] = "/tmp/coldstream-learn-XXXXXX";
static char state_setting[64], profiles[64]; /* XDG_STATE_HOME=..., the folder learned profiles go to */

/* ---- running ------------------------------------------------------------------------------------------------------ */

struct result {
    int status; /* exit status, or 1000 + signal */
    struct text out, err;
};

/* The path of a name; it stays where it is. */
static const char *in_folder(const char *name) {
    static char paths[32][64];
    size_t i = 0;
    char wanted[64];
    snprintf(wanted, sizeof wanted, "%s/%s", folder, name);
    while (i < 32 && paths[i][0] && strcmp(paths[i], wanted) != 0) i++;
    assert_true(i < 32);
    return memcpy(paths[i], wanted, sizeof wanted);
}

static pid_t start(const char *out, const char *err, const char *setting, const char *const *words) {
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child) return child;
    const char *argv[40] = {PROGRAM};
    const char *const environment[] = {state_setting, setting, NULL};
    for (size_t i = 0; i < 38 && words[i]; i++) argv[i + 1] = words[i];
    const int in_fd = open("/dev/null", O_RDONLY), out_fd = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600),
              err_fd = open(err, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (dup2(in_fd, 0) < 0 || dup2(out_fd, 1) < 0 || dup2(err_fd, 2) < 0) _exit(126);
    execve(PROGRAM, (char *const *)argv, (char *const *)environment);
    _exit(127);
}

static int finish(pid_t child) {
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* The result lives until the next call. */
static const struct result *run_with(const char *setting, const char *const *words) {
    static struct result r;
    r.status = finish(start(in_folder("out"), in_folder("err"), setting, words));
    read_file(in_folder("out"), &r.out);
    read_file(in_folder("err"), &r.err);
    return &r;
}

#define PROGRAM_WITH(setting, ...) run_with(setting, (const char *const[]){__VA_ARGS__, NULL})
#define COLDSTREAM(...) PROGRAM_WITH(NULL, __VA_ARGS__)
/* A run that counts the prompt and N - 1 tokens behind it: the last one is not computed. */
#define RUN(n, ...) COLDSTREAM("run", "-m", TINY, "-p", PROMPT, "-n", n, "--temp", "0", "--ignore-eos", __VA_ARGS__)

static void expect_done(const struct result *r) {
    if (r->status) fail_test("exit status %d; stderr: %s", r->status, r->err.ptr);
}

static void expect_said(const struct result *r, const char *part) {
    if (!strstr(r->err.ptr, part)) fail_test("stderr is '%s', without '%s'", r->err.ptr, part);
}

static int remove_all(const char *path) {
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        char inner[400];
        snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name);
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) remove_all(inner);
    }
    if (dir) closedir(dir);
    return remove(path);
}

static int open_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(state_setting, sizeof state_setting, "XDG_STATE_HOME=%s/state", folder);
    snprintf(profiles, sizeof profiles, "%s/state/coldstream/profiles", folder);
    return 0;
}

static int close_folder(void **state) {
    (void)state;
    return remove_all(folder);
}

static int forget(void **state) { /* before each test: nothing has been learned */
    (void)state;
    remove_all(in_folder("state"));
    return 0;
}

/* The one file of what was learned; NULL: there is none. */
static const char *learned_path(void) {
    static char path[400];
    DIR *dir = opendir(profiles);
    size_t n = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (entry->d_name[0] != '.') snprintf(path, sizeof path, "%s/%s", profiles, entry->d_name), n++;
    if (dir) closedir(dir);
    assert_true(n <= 1); /* no temporary files either */
    return n ? path : NULL;
}

static struct profile read_profile(const char *path) {
    struct profile p;
    struct reason why = {""};
    if (!path || learn_read_profile(path, &p, &why)) fail_test("no profile: %s", why.text);
    return p;
}

static double learned_tokens(void) {
    struct profile p = read_profile(learned_path());
    const double tokens = p.tokens;
    profile_close(&p);
    return tokens;
}

/* ---- profile ------------------------------------------------------------------------------------------------------ */

enum { CHUNK = 16, N_IDS = 40 };
static const char *const ids =
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40";

static void count(void *ctx, uint32_t layer, uint64_t position, bool expected, int32_t *experts) {
    double(*counts)[8] = ctx;
    (void)position;
    for (int i = 0; i < 3 && !expected; i++) counts[layer][experts[i]]++;
}

/* The same chunks through the engine itself. */
static void count_ids(double counts[2][8]) {
    struct engine *e = NULL;
    struct session *s = NULL;
    struct reason why = {""};
    const struct engine_options options = {.model_path = TINY, .threads = 1, .on_experts = count, .on_experts_ctx = counts};
    int32_t tokens[N_IDS];
    for (int i = 0; i < N_IDS; i++) tokens[i] = i + 1;
    if (engine_open(&options, &e, &why) || session_open(e, CHUNK, &s, &why)) fail_test("%s", why.text);
    assert_int_equal(tokenizer_bos(engine_tokenizer(e)), -1);
    for (int from = 0; from < N_IDS; from += CHUNK) {
        struct eval eval = {.tokens = tokens + from, .n = (uint64_t)(N_IDS - from < CHUNK ? N_IDS - from : CHUNK)};
        assert_int_equal(session_eval(s, &eval, NULL, &why), ERR_NONE);
    }
    session_close(&s);
    engine_close(&e);
}

static void profile_counts_what_the_router_chose(void **state) {
    (void)state;
    double counts[2][8] = {{0}};
    count_ids(counts);
    const char *const path = in_folder("p.json");
    const struct result *r = COLDSTREAM("profile", "-m", TINY, "--prompt-ids", ids, "-c", "16", "-o", path);
    expect_done(r);
    assert_non_null(strstr(r->out.ptr, "40 tokens in 3 chunks; 2 layers, 3 of 8 experts a token"));
    struct profile p = read_profile(path);
    assert_true(p.tokens == N_IDS && p.n_layers == 2 && p.n_experts == 8 && p.n_used == 3);
    assert_memory_equal(p.counts, counts, sizeof counts);
    assert_true(strncmp(p.model, "hf_tiny 2x8/3 ", 14) == 0);
    struct text file = {0};
    read_file(path, &file);
    r = COLDSTREAM("profile", "-m", TINY, "--prompt-ids", ids, "-c", "16", "-o", "-", "--threads", "2", "-ub", "5");
    expect_done(r);
    assert_string_equal(r->out.ptr, file.ptr); /* however the text is batched */
    text_free(&file);
    profile_close(&p);
}

static void profile_reads_so_many_chunks(void **state) {
    (void)state;
    const struct result *r = COLDSTREAM("profile", "-m", TINY, "-f", TEXT, "-c", "32", "--chunks", "4");
    expect_done(r);
    assert_non_null(strstr(r->out.ptr, "128 tokens in 4 chunks"));
    assert_null(learned_path()); /* measuring a text is no use of the model */
    r = COLDSTREAM("profile", "-m", TINY, "-f", TEXT, "--chunks", "0");
    assert_int_equal(r->status, 1);
    r = COLDSTREAM("profile", "-m", TINY);
    assert_int_equal(r->status, 2);
}

static void other_files_are_not_replaced(void **state) {
    (void)state;
    const char *const path = in_folder("letter");
    struct text content = {0};
    write_file(path, SPAN("dear reader"));
    const struct result *r = COLDSTREAM("profile", "-m", TINY, "-f", TEXT, "-o", path);
    assert_int_equal(r->status, 1);
    expect_said(r, "holds no profile");
    r = COLDSTREAM("profile", "-m", TINY, "-f", TEXT, "--record-routes", path);
    assert_int_equal(r->status, 1);
    r = RUN("4", "--record-routes", path);
    assert_int_equal(r->status, 1);
    expect_said(r, "holds no recorded routes");
    read_file(path, &content);
    assert_string_equal(content.ptr, "dear reader");
    text_free(&content);
}

/* ---- routes -------------------------------------------------------------------------------------------------------- */

static struct routes read_routes(const char *path) {
    struct text bytes = {0};
    struct routes routes;
    struct reason why = {""};
    read_file(path, &bytes);
    if (routes_parse((struct span){bytes.ptr, bytes.len}, &routes, &why)) fail_test("%s", why.text);
    text_free(&bytes);
    return routes;
}

static void check_counts(const struct routes *r, const char *profile_path) {
    double counts[2][8] = {{0}};
    for (uint32_t t = 0; t < r->n_tokens; t++)
        for (uint32_t l = 0; l < 2; l++)
            for (int k = 0; k < 3; k++) counts[l][routes_chosen(r, t, l)[k]]++;
    struct profile p = read_profile(profile_path);
    assert_memory_equal(p.counts, counts, sizeof counts);
    profile_close(&p);
}

static void routes_record_every_token(void **state) {
    (void)state;
    const char *const path = in_folder("routes"), *const counted = in_folder("p.json");
    expect_done(COLDSTREAM("profile", "-m", TINY, "--prompt-ids", ids, "-c", "16", "-o", counted, "--record-routes", path));
    struct routes r = read_routes(path);
    assert_int_equal(r.n_tokens, N_IDS);
    assert_int_equal(r.n_turns, 3);
    assert_int_equal(r.turns[0].prompt_tokens, 16);
    assert_int_equal(r.turns[2].prompt_tokens, 8);
    assert_null(r.expected); /* everything is in RAM: nobody looks ahead */
    check_counts(&r, counted);
    routes_close(&r);
    expect_done(COLDSTREAM("profile", "-m", TINY, "--prompt-ids", ids, "-c", "16", "-ub", "1", "--expert-slots", "6", "-o",
                           counted, "--record-routes", path));
    r = read_routes(path); /* in place of the first */
    assert_int_equal(r.n_turns, 3);
    assert_int_equal(r.turns[1].prompt_tokens, 0);
    assert_int_equal(r.turns[1].decode_tokens, 16);
    assert_non_null(r.expected);
    assert_int_equal(routes_expected(&r, 5, 0)[0], ROUTES_NOTHING);
    assert_true(routes_expected(&r, 0, 1)[0] < 8);
    check_counts(&r, counted);
    routes_close(&r);
}

static void routes_of_a_run_begin_with_its_prompt(void **state) {
    (void)state;
    const char *const path = in_folder("run-routes");
    expect_done(RUN("9", "--no-learn", "--record-routes", path));
    struct routes r = read_routes(path);
    assert_int_equal(r.n_turns, 1);
    assert_true(r.turns[0].prompt_tokens > 20);
    assert_int_equal(r.turns[0].decode_tokens, 8);
    routes_close(&r);
    assert_null(learned_path());
}

static void a_model_of_one_layer_is_recorded_too(void **state) {
    (void)state;
    const struct model_shape shape = {.n_layers = 1, .n_experts = 4, .n_experts_used = 2};
    struct watch w = {0};
    struct reason why;
    int32_t choice[2] = {3, 1};
    watch_experts(&w, 0, 0, false, choice); /* not open yet */
    assert_int_equal(watch_open(&shape, true, &w, &why), ERR_NONE);
    for (uint64_t position = 0; position < 5; position++) watch_experts(&w, 0, position % 3, false, choice);
    assert_int_equal(w.routes.n_tokens, 5);
    assert_int_equal(w.routes.n_turns, 2); /* the position jumped back once */
    assert_true(watch_profile(&w)->tokens == 5);
    watch_close(&w);
    assert_null(watch_profile(&w));
}

/* ---- learning ------------------------------------------------------------------------------------------------------- */

static void runs_learn(void **state) {
    (void)state;
    struct stat info;
    struct text without = {0};
    text_add_span(&without, span_of(RUN("30", "--no-learn")->out.ptr));
    assert_null(learned_path());
    expect_done(RUN("30", "-t", "1"));
    struct profile first = read_profile(learned_path());
    assert_true(first.tokens > 40 && first.tokens < 30 + sizeof PROMPT);
    assert_int_equal(stat(learned_path(), &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    assert_int_equal(stat(profiles, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);

    const struct result *r = RUN("30", "-v", "--expert-slots", "6");
    expect_done(r);
    expect_said(r, "experts are placed by ");
    assert_string_equal(r->out.ptr, without.ptr); /* what is known changes where experts are, never the answer */
    struct profile second = read_profile(learned_path());
    assert_true(second.tokens > 1.9 * first.tokens && second.tokens < 2 * first.tokens);
    assert_string_equal(second.model, first.model);
    for (int i = 0; i < 16; i++) assert_true(second.counts[i] >= first.counts[i] && second.counts[i] <= 2 * first.counts[i]);
    profile_close(&first);
    profile_close(&second);
    text_free(&without);
}

static void chats_learn(void **state) {
    (void)state;
    const struct result *r = COLDSTREAM("chat", "-m", TINY, "-st", "-p", PROMPT, "-n", "20", "--ignore-eos", "-v");
    expect_done(r);
    expect_said(r, "was added to ");
    expect_said(r, "experts: ");
    assert_true(learned_tokens() > 40);
}

static void who_opts_out_leaves_nothing(void **state) {
    (void)state;
    expect_done(RUN("30", "--no-learn"));
    expect_done(PROGRAM_WITH("COLDSTREAM_LEARN=off", "run", "-m", TINY, "-p", PROMPT, "-n", "30", "--ignore-eos"));
    expect_done(PROGRAM_WITH("COLDSTREAM_LEARN=off", "chat", "-m", TINY, "-st", "-p", PROMPT, "-n", "30", "--ignore-eos"));
    assert_int_not_equal(access(in_folder("state"), F_OK), 0);
    expect_done(RUN("30", "-t", "1"));
    const double tokens = learned_tokens();
    const struct result *r = RUN("30", "--no-learn", "-v");
    assert_null(strstr(r->err.ptr, "experts are placed by"));
    assert_true(learned_tokens() == tokens);
}

static void next_to_nothing_is_not_kept(void **state) {
    (void)state;
    expect_done(COLDSTREAM("run", "-m", TINY, "-p", "hi", "-n", "3", "--ignore-eos"));
    assert_null(learned_path());
}

static void broken_files_are_ignored_and_replaced(void **state) {
    (void)state;
    expect_done(RUN("30", "-t", "1"));
    const double tokens = learned_tokens();
    char path[400];
    snprintf(path, sizeof path, "%s", learned_path());
    static const char *const broken[] = {
        "", "{\"coldstream_profile\": 1, \"mod",
        "{\"coldstream_profile\": 1, \"model\": \"other\", \"layers\": 2, \"experts\": 8, \"used\": 3, \"tokens\": 1, "
        "\"reuse\": [0,0,0,0,0,0,0,0,0], \"counts\": [[1,0,0,0,0,0,0,0],[1,0,0,0,0,0,0,0]]}",
        "{\"coldstream_profile\": 1, \"model\": \"other\", \"layers\": 1, \"experts\": 1, \"used\": 1, \"tokens\": 1, "
        "\"reuse\": [0,0], "
        "\"counts\": [[1]]}"};
    for (size_t i = 0; i < 4; i++) {
        write_file(path, span_of(broken[i]));
        const struct result *r = RUN("30", "-t", "1");
        expect_done(r);
        expect_said(r, "warning: ");
        expect_said(r, "ignored");
        assert_string_equal(learned_path(), path);
        assert_true(learned_tokens() == tokens); /* from nothing again */
    }
}

static void a_newer_programs_file_stays(void **state) {
    (void)state;
    static const char newer[] = "{\"coldstream_profile\": 2}";
    struct text content = {0};
    expect_done(RUN("30", "-t", "1"));
    const char *const given = in_folder("given.json");
    expect_done(COLDSTREAM("profile", "-m", TINY, "--prompt-ids", ids, "-o", given));
    write_file(learned_path(), span_of(newer));
    const struct result *r = RUN("30", "-t", "1");
    expect_done(r);
    expect_said(r, "is version 2");
    r = RUN("30", "--profile", given); /* so that the file is met only at the end */
    expect_done(r);
    expect_said(r, "is version 2");
    read_file(learned_path(), &content);
    assert_string_equal(content.ptr, newer);
    text_free(&content);
}

static void a_given_profile_is_used_instead(void **state) {
    (void)state;
    const char *const given = in_folder("given.json"), *const bad = in_folder("bad.json");
    expect_done(COLDSTREAM("profile", "-m", TINY, "--prompt-ids", ids, "-o", given));
    const struct result *r = RUN("30", "--profile", given, "-v");
    expect_done(r);
    expect_said(r, "given.json: 40 tokens");
    assert_true(learned_tokens() > 40); /* learning goes on */
    struct text content = {0};
    read_file(given, &content);
    memcpy(strstr(content.ptr, "hf_tiny"), "hf_huge", 7);
    write_file(bad, (struct span){content.ptr, content.len}); /* of another quantization, say */
    r = RUN("30", "--profile", bad, "-v");
    expect_done(r);
    expect_said(r, "counted on another model: hf_huge");
    text_free(&content);
    write_file(bad, SPAN("{\"coldstream_profile\": 1, \"model\": \"other\", \"layers\": 1, \"experts\": 1, \"used\": 1, \"tokens\": 1, "
                         "\"reuse\": [0,0], \"counts\": [[1]]}"));
    r = RUN("30", "--profile", bad);
    expect_done(r);
    expect_said(r, "is about another model (other)");
    r = COLDSTREAM("bench", "-m", TINY, "-p", "8", "-n", "4", "-r", "1", "--profile", bad);
    expect_done(r);
    expect_said(r, "is about another model (other)");
    r = RUN("30", "--profile", in_folder("missing.json"));
    expect_done(r);
    expect_said(r, "missing.json");
}

static void an_unwritable_state_folder_is_a_warning(void **state) {
    (void)state;
    char saved[sizeof state_setting];
    memcpy(saved, state_setting, sizeof saved);
    write_file(in_folder("wall"), SPAN("a file where a folder should be"));
    snprintf(state_setting, sizeof state_setting, "XDG_STATE_HOME=%s", in_folder("wall"));
    const struct result *r = RUN("30", "-t", "1");
    memcpy(state_setting, saved, sizeof saved);
    expect_done(r);
    expect_said(r, "the use of experts is not kept: ");
    expect_said(r, "--no-learn");
}

static void programs_that_end_together_leave_a_whole_file(void **state) {
    (void)state;
    enum { PROGRAMS = 6 };
    pid_t children[PROGRAMS];
    char out[32], err[32];
    for (int i = 0; i < PROGRAMS; i++) {
        snprintf(out, sizeof out, "out%d", i);
        snprintf(err, sizeof err, "err%d", i);
        children[i] =
            start(in_folder(out), in_folder(err), NULL,
                  (const char *const[]){"run", "-m", TINY, "-p", PROMPT, "-n", "30", "-t", "1", "--ignore-eos", NULL});
    }
    for (int i = 0; i < PROGRAMS; i++) assert_int_equal(finish(children[i]), 0);
    assert_true(learned_tokens() > 40);
}

/* ---- identity -------------------------------------------------------------------------------------------------------- */

static void identities_are_one_clean_line(void **state) {
    (void)state;
    struct model m = {.shape = {.n_layers = 48, .n_experts = 128, .n_experts_used = 8, .n_embd = 2048, .n_ff = 768},
                      .name = SPAN("Qwen3 30B A3B"),
                      .weight_bytes = 18552034048};
    char identity[160], other[160];
    learn_identity(&m, identity, sizeof identity);
    assert_string_equal(identity, "Qwen3 30B A3B 48x128/8 2048x768 18552034048");
    m.weight_bytes++;
    learn_identity(&m, other, sizeof other);
    assert_string_not_equal(identity, other);
    m.name = (struct span){NULL, 0};
    learn_identity(&m, other, sizeof other);
    assert_true(strncmp(other, "unnamed 48x", 11) == 0);
    m.name = (struct span){"a\nb\0c\xff\x7f", 7};
    learn_identity(&m, other, sizeof other);
    assert_true(strncmp(other, "a?b?c\xef\xbf\xbd? 48x", 13) == 0);
    char accents[401] = "x";
    for (int i = 0; i < 200; i++) memcpy(accents + 1 + 2 * i, "\xc3\xa9", 2);
    m.name = (struct span){accents + 1, 400}; /* cut at 96 bytes, but never inside a character */
    learn_identity(&m, other, sizeof other);
    assert_true(strncmp(other + 96, " 48x128/8 ", 10) == 0);
    m.name = (struct span){accents, 401};
    learn_identity(&m, other, sizeof other);
    assert_true(strncmp(other + 95, " 48x128/8 ", 10) == 0);
}

/* ---- what is said about reading --------------------------------------------------------------------------------------- */

static void reading_is_described(void **state) {
    (void)state;
    struct text text = {0};
    struct engine_io io = {.slots = 2400,
                           .experts = 6144,
                           .resident = 2397,
                           .tokens = 100,
                           .uses = 38400,
                           .hits = 36480,
                           .demand_bytes = 3820000000,
                           .ahead_bytes = 1210000000,
                           .fill_bytes = 330000000,
                           .expected = 1000,
                           .expected_right = 875,
                           .ahead_reads = 400,
                           .ahead_used = 284,
                           .wait_ns = 820000000,
                           .busy_ns = 3000000000,
                           .retries = 1,
                           .look_ahead_on = true,
                           .backend = "io_uring"};
    io_report(&io, 12000000000, &text);
    assert_string_equal(text.ptr,
                        "experts: 2397 of 6144 in RAM, room for 2400; read with io_uring\n"
                        "hits: 95.0 % of 38400 experts that were needed\n"
                        "read a token: 38.2 MB needed, 12.1 MB ahead, 3.3 MB in the background; 5.36 GB in all\n"
                        "drive: busy for 3.0 of 12.0 s (25 %), 8.2 ms a token waited for it, 1 read repeated\n"
                        "look-ahead: on, 87.5 % of what it expected was chosen, 71.0 % of 400 experts read ahead were used\n");
    text_clear(&text);
    io = (struct engine_io){.slots = 16, .experts = 16, .resident = 16, .backend = "pread"};
    io_report(&io, 0, &text);
    assert_string_equal(text.ptr, "experts: 16 of 16 in RAM, room for 16; read with pread\n"
                                  "drive: busy for 0.0 of 0.0 s (0 %)\nlook-ahead: off\n");
    text_clear(&text);
    io.experts = 0;
    io_report(&io, 0, &text);
    assert_int_equal(text.len, 0);
    struct engine_info info = {0};
    gpu_report(&info, &io, &text);
    assert_int_equal(text.len, 0);
    info = (struct engine_info){.device = "Example 16G", .vram_budget = (uint64_t)15872 << 20, .vram_peak = (uint64_t)15800 << 20, .vram_experts = 5120};
    io = (struct engine_io){.experts = 6144, .gpu_tokens = 200, .gpu_misses = 1040, .mails = 700, .mail_ns = 84000000, .moved = 12, .moved_bytes = 34000000,
                            .passed = 5000, .passed_bytes = 14300000000, .passed_again = 600};
    gpu_report(&info, &io, &text);
    assert_string_equal(text.ptr, "GPU: Example 16G, at most 15800 of 15872 MiB of VRAM used; 5120 of 6144 experts there\n"
                                  "misses: 5.20 experts a token; the CPU worked 0.42 ms a token on 3.5 requests of the GPU\n"
                                  "moved into VRAM: 12 experts, 0.03 GB\n"
                                  "passed through VRAM by prompts: 5000 experts, 14.30 GB; 600 more were there already\n");
    text_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(profile_counts_what_the_router_chose, forget),
        cmocka_unit_test_setup(profile_reads_so_many_chunks, forget),
        cmocka_unit_test_setup(other_files_are_not_replaced, forget),
        cmocka_unit_test_setup(routes_record_every_token, forget),
        cmocka_unit_test_setup(routes_of_a_run_begin_with_its_prompt, forget),
        cmocka_unit_test_setup(a_model_of_one_layer_is_recorded_too, forget),
        cmocka_unit_test_setup(runs_learn, forget),
        cmocka_unit_test_setup(chats_learn, forget),
        cmocka_unit_test_setup(who_opts_out_leaves_nothing, forget),
        cmocka_unit_test_setup(next_to_nothing_is_not_kept, forget),
        cmocka_unit_test_setup(broken_files_are_ignored_and_replaced, forget),
        cmocka_unit_test_setup(a_newer_programs_file_stays, forget),
        cmocka_unit_test_setup(a_given_profile_is_used_instead, forget),
        cmocka_unit_test_setup(an_unwritable_state_folder_is_a_warning, forget),
        cmocka_unit_test_setup(programs_that_end_together_leave_a_whole_file, forget),
        cmocka_unit_test(identities_are_one_clean_line),
        cmocka_unit_test(reading_is_described),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}

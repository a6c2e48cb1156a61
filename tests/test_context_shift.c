/* A full context with --context-shift in `run`: what goes on is what a fresh session says of the tokens that are kept, nothing is left
 * out unsaid, and without the flag the answer ends with the counts. The chat's side of it is in test_chat_pty.c. */
#include "tests/support/check.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/engine.h"

#define PROGRAM BUILD_DIR "/coldstream"
#define TINY TESTS_DIR "/golden/hf_tiny/hf_tiny.gguf" /* trained for 256 tokens */

static char folder[] = "/tmp/coldstream-shift-XXXXXX";
static char out_path[sizeof folder + 8], err_path[sizeof folder + 8];

struct result {
    int status;
    char out[8192], err[16384];
};

static void read_all(const char *path, char *to, size_t room) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    to[fread(to, 1, room - 1, f)] = 0;
    fclose(f);
}

static struct result *run(const char *const *words) {
    static struct result r;
    char *argv[40] = {(char *)PROGRAM, (char *)"run", (char *)"-m", (char *)TINY, (char *)"-t", (char *)"1"};
    size_t n = 6;
    while (*words && n < 39) argv[n++] = (char *)*words++;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const int out = open(out_path, O_WRONLY | O_CREAT | O_TRUNC, 0600), err = open(err_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (dup2(out, 1) < 0 || dup2(err, 2) < 0) _exit(126);
        execv(PROGRAM, argv);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    r.status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    read_all(out_path, r.out, sizeof r.out);
    read_all(err_path, r.err, sizeof r.err);
    if (strstr(r.err, "Sanitizer") || strstr(r.err, "runtime error")) fail_test("%s", r.err);
    return &r;
}

#define RUN(...) run((const char *const[]){__VA_ARGS__, NULL})

static void expect_error_text(const struct result *r, const char *part) {
    if (!strstr(r->err, part)) fail_test("stderr is '%s', without '%s'", r->err, part);
}

static size_t count(const char *text, const char *part) {
    size_t n = 0;
    for (; (text = strstr(text, part)); text += strlen(part)) n++;
    return n;
}

/* ---- what should come out ------------------------------------------------------------------------------------------- */

enum { PROMPT = 10, CONTEXT = 32, ANSWER = 100, MOST = 512 };
static const int32_t prompt[PROMPT] = {3, 17, 80, 5, 5, 41, 90, 0, 63, 22};
#define PROMPT_IDS "3 17 80 5 5 41 90 0 63 22"

/* With --ignore-eos. */
static int32_t likeliest(const struct engine *e, const float *logits) {
    int32_t best = 0;
    for (int32_t i = 1; i < (int32_t)engine_model(e)->shape.n_vocab; i++)
        if (logits[i] > logits[best] && !tokenizer_is_end(engine_tokenizer(e), i)) best = i;
    return best;
}

/* The answer when every full context is cut to the first `keep` tokens and half of the rest, the newest, in a session that never saw
 * anything else. */
static void roll_by_hand(uint64_t keep, int32_t *answer, uint64_t *rolls) {
    const struct engine_options o = {.model_path = TINY, .threads = 1, .device = "cpu", .fill_first = true};
    struct engine *e;
    struct session *s;
    struct reason why;
    int32_t held[MOST];
    uint64_t n = PROMPT;
    const float *logits;
    if (engine_open(&o, &e, &why)) fail_test("%s", why.text);
    if (session_open(e, CONTEXT, &s, &why)) fail_test("%s", why.text);
    memcpy(held, prompt, sizeof prompt);
    if (session_eval(s, &(struct eval){.tokens = held, .n = n}, &logits, &why)) fail_test("%s", why.text);
    *rolls = 0;
    for (int i = 0; i < ANSWER; i++) {
        const int32_t id = answer[i] = likeliest(e, logits);
        held[n++] = id;
        if (n <= CONTEXT) {
            if (session_append(s, id, &logits, &why)) fail_test("%s", why.text);
            continue;
        }
        const uint64_t tail = (CONTEXT - keep) / 2;
        memmove(held + keep, held + n - tail, tail * sizeof *held);
        n = keep + tail;
        session_close(&s);
        if (session_open(e, CONTEXT, &s, &why)) fail_test("%s", why.text);
        if (session_eval(s, &(struct eval){.tokens = held, .n = n}, &logits, &why)) fail_test("%s", why.text);
        *rolls += i + 1 < ANSWER; /* the last token is computed from nowhere */
    }
    session_close(&s);
    engine_close(&e);
}

static void goes_on_as_a_fresh_session_would(void **state) {
    (void)state;
    static const struct {
        const char *flag;
        uint64_t keep;
    } cases[] = {{"0", 0}, {"4", 4}, {"-1", PROMPT}, {"1000", PROMPT}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t want[ANSWER];
        uint64_t rolls;
        roll_by_hand(cases[i].keep, want, &rolls);
        assert_true(rolls >= 4);
        const struct result *r = RUN("--prompt-ids", PROMPT_IDS, "-c", "32", "-n", "100", "--ids", "--temp", "0", "--ignore-eos", "--context-shift", "--keep",
                                     cases[i].flag);
        if (r->status) fail_test("status %d: %s", r->status, r->err);
        const char *at = r->out;
        for (int k = 0; k < ANSWER; k++) {
            char *end;
            const long id = strtol(at, &end, 10);
            if (end == at || id != want[k]) fail_test("--keep %s: token %d is '%.8s', not %d", cases[i].flag, k, at, want[k]);
            at = end;
        }
        assert_int_equal(count(r->err, "the context of 32 tokens is full"), rolls); /* each is said */
    }
}

static void says_what_it_leaves_out(void **state) {
    (void)state;
    const struct result *r = RUN("--prompt-ids", PROMPT_IDS, "-c", "32", "-n", "40", "--ids", "--temp", "0", "--ignore-eos", "--context-shift", "--keep", "4", "-v");
    assert_int_equal(r->status, 0);
    /* 32 - 4 = 28: half of them stay, of which one is the token just sampled */
    expect_error_text(r, "the context of 32 tokens is full: 15 of them are left out behind the first 4, and the last 14 are read again");
    expect_error_text(r, "full context =");
}

static void ends_without_the_flag(void **state) {
    (void)state;
    const struct result *r = RUN("--prompt-ids", PROMPT_IDS, "-c", "32", "-n", "100", "--ids", "--temp", "0", "--ignore-eos");
    assert_int_equal(r->status, 0);
    assert_int_equal(count(r->out, " "), 32 - PROMPT); /* 23 tokens: the last one is computed from a full context */
    expect_error_text(r, "the context of 32 tokens is full after 23 tokens of the answer; -c sets it, --context-shift goes on");
    r = RUN("--prompt-ids", PROMPT_IDS, "-c", "10", "-n", "9", "--ids", "--temp", "0", "--ignore-eos", "--context-shift", "--keep", "-1");
    assert_int_equal(r->status, 0);
    expect_error_text(r, "the context of 10 tokens is full after 1 tokens of the answer; what is kept leaves no room");
}

static void never_cuts_a_prompt(void **state) {
    (void)state;
    const struct result *r = RUN("--prompt-ids", PROMPT_IDS, "-c", "9", "-n", "5", "--ids", "--temp", "0", "--context-shift");
    assert_int_equal(r->status, 1);
    assert_string_equal(r->out, "");
    expect_error_text(r, "10 tokens do not fit the context of 9");
}

static void warns_beyond_the_trained_context(void **state) {
    (void)state;
    const struct result *r = RUN("--prompt-ids", PROMPT_IDS, "-c", "1024", "-n", "1", "--ids");
    assert_int_equal(r->status, 0);
    expect_error_text(r, "the context of 1024 tokens is longer than the 256 that the model was trained for");
    expect_error_text(r, "--rope-scaling yarn --rope-scale 4");
    r = RUN("--prompt-ids", PROMPT_IDS, "-c", "1024", "-n", "1", "--ids", "--rope-scaling", "yarn", "--rope-scale", "4", "-v");
    assert_int_equal(r->status, 0);
    assert_null(strstr(r->err, "longer than"));
    expect_error_text(r, "positions: yarn by 4 of 256 tokens, for 1024");
    r = RUN("--prompt-ids", PROMPT_IDS, "-c", "2k", "-n", "1", "--ids", "--rope-scaling", "yarn", "--rope-scale", "4");
    expect_error_text(r, "longer than the 1024 that scaling by 4 reaches: answers beyond them get worse; --rope-scale 8 reaches them");
    r = RUN("--prompt-ids", PROMPT_IDS, "-n", "1", "--ids", "--rope-scaling", "yarn");
    expect_error_text(r, "--rope-scaling yarn changes nothing without a scale");
    r = RUN("--prompt-ids", PROMPT_IDS, "-n", "1", "--ids", "--rope-scaling", "none", "--rope-scale", "4");
    assert_int_equal(r->status, 2);
}

static int open_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder) || setenv("COLDSTREAM_LEARN", "off", 1) != 0) return -1;
    snprintf(out_path, sizeof out_path, "%s/out", folder);
    snprintf(err_path, sizeof err_path, "%s/err", folder);
    return 0;
}

static int close_folder(void **state) {
    (void)state;
    unlink(out_path);
    unlink(err_path);
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goes_on_as_a_fresh_session_would), cmocka_unit_test(says_what_it_leaves_out), cmocka_unit_test(ends_without_the_flag),
        cmocka_unit_test(never_cuts_a_prompt),              cmocka_unit_test(warns_beyond_the_trained_context),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}

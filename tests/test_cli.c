/* The built program from outside: what it prints on which stream, and with which status it ends. */
#include "tests/support/check.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/divergence.h"
#include "cli/logprobs.h"
#include "core/core.h"
#include "core/json.h"
#include "tests/support/files.h"
#include "tests/support/hf_raw.h"
#include "text/chat.h"

#define PROGRAM BUILD_DIR "/coldstream"
#define TINY TESTS_DIR "/golden/hf_tiny/hf_tiny.gguf" /* has a tokenizer of 272 tokens: bytes, 13 merges, 3 control tokens */
#define TIED TESTS_DIR "/golden/hf_tiny/hf_tiny_tied.gguf"
#define BARE SHARED_DIR "/golden/gguf/tiny/tiny_f32.gguf" /* no tokenizer */
#define VOCABULARY SHARED_DIR "/golden/tokenizer/qwen3-vocab.gguf"

static char folder[] = "/tmp/coldstream-cli-XXXXXX";

/* ---- running -------------------------------------------------------------------------------------------------------- */

struct result {
    int status; /* exit status, or 1000 + signal */
    struct text out, err;
};

enum { FILE_IN, FILE_OUT, FILE_ERR, FILE_BAD, FILE_PROMPT, FILE_BASE, FILE_COUNT };
static char files[FILE_COUNT][sizeof folder + 16]; /* paths, all that may be in the folder */

/* Ends the child's life as the shell would start it: stdin, stdout and stderr are files. */
static void become(char *const *words, const char *out) {
    const int in_fd = open(files[FILE_IN], O_RDONLY), out_fd = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600),
              err_fd = open(files[FILE_ERR], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (dup2(in_fd, 0) < 0 || dup2(out_fd, 1) < 0 || dup2(err_fd, 2) < 0) _exit(126);
    execv(PROGRAM, words);
    _exit(127);
}

static pid_t start(const char *const *words, struct span input, const char *out) {
    char *copy[40] = {(char *)PROGRAM};
    size_t n = 1;
    while (words[n - 1]) {
        assert_true(n < 39);
        copy[n] = (char *)words[n - 1];
        n++;
    }
    write_file(files[FILE_IN], input);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) become(copy, out);
    return child;
}

static int finish(pid_t child) {
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* The result lives until the next call. */
static struct result *run_with(struct span input, const char *const *words) {
    static struct result r;
    text_free(&r.out);
    text_free(&r.err);
    r.status = finish(start(words, input, files[FILE_OUT]));
    read_file(files[FILE_OUT], &r.out);
    read_file(files[FILE_ERR], &r.err);
    return &r;
}

#define RUN(...) run_with((struct span){"", 0}, (const char *const[]){__VA_ARGS__, NULL})
#define RUN_ON(input, ...) run_with(span_of(input), (const char *const[]){__VA_ARGS__, NULL})

static void expect(const struct result *r, int status, const char *out) {
    if (r->status != status) fail_test("exit status %d, not %d; stderr: %s", r->status, status, r->err.ptr);
    if (out) assert_string_equal(r->out.ptr, out);
}

static size_t lines(const struct text *t) {
    size_t n = 0;
    for (size_t i = 0; i < t->len; i++) n += t->ptr[i] == '\n';
    return n;
}

/* One line on stderr that holds `part`, nothing on stdout. */
static void expect_refusal(const struct result *r, int status, const char *part) {
    if (!strstr(r->err.ptr, part)) fail_test("stderr is '%s', without '%s'", r->err.ptr, part);
    expect(r, status, "");
    assert_int_equal(lines(&r->err), 1);
    assert_true(strncmp(r->err.ptr, "coldstream: ", 12) == 0);
}

static bool missing(const char *path) {
    if (access(path, R_OK) == 0) return false;
    print_message("skipped: %s is not here\n", path);
    return true;
}

static int open_folder(void **state) {
    (void)state;
    static const char *const names[FILE_COUNT] = {"in", "out", "err", "bad.gguf", "prompt", "base"};
    if (!mkdtemp(folder) || setenv("COLDSTREAM_LEARN", "off", 1) != 0) return -1; /* the user's own files are none of ours */
    for (int i = 0; i < FILE_COUNT; i++) snprintf(files[i], sizeof files[i], "%s/%s", folder, names[i]);
    return 0;
}

static int close_folder(void **state) {
    (void)state;
    for (int i = 0; i < FILE_COUNT; i++) unlink(files[i]);
    return rmdir(folder); /* fails when a command left something behind */
}

/* ---- usage ---------------------------------------------------------------------------------------------------------- */

static void usage_errors_end_with_2(void **state) {
    (void)state;
    static const struct {
        const char *words[6], *part;
    } cases[] = {
        {{"chta"}, "did you mean 'chat'?"},
        {{"serve", "-m", TINY}, "not in this build"},
        {{"run", "-m", TINY, "--tempp", "0"}, "did you mean --temp?"},
        {{"run", "-m", TINY, "-c", "32x"}, "-c '32x'"},
        {{"run", "-m", TINY, "-n"}, "-n needs a value"},
        {{"run", "-m", TINY}, "run needs a prompt"},
        {{"run", "-p", "x"}, "run needs a model"},
        {{"run", "-m", TINY, "-p", "x", "y"}, "unexpected argument 'y'"},
        {{"run", "-m", TINY, "-p", "x", "--isa=sse"}, "one of auto, ref"},
        {{"bench", "-m", TINY, "-p", "0x"}, "-p '0x'"},
        {{"bench", "-m", TINY, "-p0"}, "unknown flag -p0"},
        {{"perplexity", "-m", TINY}, "needs a text"},
        {{"perplexity", "-m", TINY, "--kl-divergence"}, "--kl-divergence-base"},
        {{"template"}, "--family"},
        {{"inspect"}, "inspect needs a model"},
        {{"inspect", "a", "b"}, "unexpected argument 'b'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refusal(run_with((struct span){"", 0}, cases[i].words), 2, cases[i].part);
    struct result *r = run_with((struct span){"", 0}, (const char *const[]){NULL});
    expect(r, 2, "");
    assert_non_null(strstr(r->err.ptr, "usage: coldstream COMMAND"));
}

static void help_and_version_are_answers(void **state) {
    (void)state;
    struct result *r = RUN("--help");
    expect(r, 0, NULL);
    assert_non_null(strstr(r->out.ptr, "perplexity"));
    assert_int_equal(r->err.len, 0);
    r = RUN("bench", "-h");
    expect(r, 0, NULL);
    assert_non_null(strstr(r->out.ptr, "--repetitions"));
    r = RUN("--version");
    expect(r, 0, NULL);
    assert_true(strncmp(r->out.ptr, "coldstream ", 11) == 0);
}

/* ---- files ---------------------------------------------------------------------------------------------------------- */

static void broken_files_end_with_1_and_one_line(void **state) {
    (void)state;
    struct text good = {0}, bad = {0};
    read_file(TINY, &good);
    const char *path = files[FILE_BAD];
    expect_refusal(RUN("run", "-m", "/nonexistent/m.gguf", "-p", "x"), 1, "/nonexistent/m.gguf");
    expect_refusal(RUN("inspect", folder), 1, folder);
    write_file(path, (struct span){"", 0});
    expect_refusal(RUN("inspect", path), 1, "bad.gguf");
    write_file(path, SPAN("not a model at all, really"));
    expect_refusal(RUN("bench", "-m", path), 1, "not a GGUF file");
    for (size_t cut = 10; cut < good.len; cut = cut * 3 + 1) { /* inside header, keys, tensor list, data */
        write_file(path, (struct span){good.ptr, cut});
        expect_refusal(RUN("inspect", path), 1, "bad.gguf");
        expect_refusal(RUN("run", "-m", path, "-p", "x"), 1, "bad.gguf");
    }
    text_add(&bad, good.ptr, good.len);
    bad.ptr[4] = 9; /* version */
    write_file(path, (struct span){bad.ptr, bad.len});
    expect_refusal(RUN("tokenize", "-m", path), 1, "version 9");
    expect_refusal(RUN("perplexity", "-m", TINY, "-f", "/nonexistent/text"), 1, "/nonexistent/text");
    write_file(path, SPAN("_logits_ and then nothing"));
    expect_refusal(RUN("perplexity", "-m", TINY, "--kl-divergence", "--kl-divergence-base", path), 1, "bad.gguf");
    text_free(&good);
    text_free(&bad);
}

static void a_stdout_that_takes_nothing_ends_quietly_with_1(void **state) {
    (void)state;
    static const char *const commands[][8] = {{"inspect", TINY},
                                              {"run", "-m", TINY, "-p", "hello", "--ids"},
                                              {"--help"},
                                              {"bench", "-m", TINY, "-p", "4", "-n", "0"}};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        struct text err = {0};
        const int status = finish(start(commands[i], (struct span){"", 0}, "/dev/full"));
        read_file(files[FILE_ERR], &err);
        assert_string_equal(err.ptr, "");
        assert_int_equal(status, 1);
        text_free(&err);
    }
}

static void an_interrupt_ends_with_130(void **state) {
    (void)state;
    const char *const words[] = {"bench", "-m", TINY, "-p", "0", "-n", "100000", "-r", "100", NULL};
    const pid_t child = start(words, (struct span){"", 0}, files[FILE_OUT]);
    struct stat facts = {0};
    for (int i = 0; i < 500 && facts.st_size == 0; i++) { /* the table's head: it runs */
        usleep(10000);
        if (stat(files[FILE_OUT], &facts) != 0) facts.st_size = 0;
    }
    kill(child, SIGINT);
    assert_int_equal(finish(child), 130);
}

/* ---- text ----------------------------------------------------------------------------------------------------------- */

static void tokens_go_both_ways(void **state) {
    (void)state;
    expect(RUN_ON("hello <|im_end|>", "tokenize", "-m", TINY), 0, NULL);
    struct result *r = RUN_ON("hello <|im_end|>", "tokenize", "-m", TINY);
    assert_non_null(strstr(r->out.ptr, " 271\n"));
    r = RUN_ON("hello <|im_end|>", "tokenize", "-m", TINY, "--no-special");
    assert_null(strstr(r->out.ptr, "271"));
    assert_int_equal(lines(&r->out), 1);
    char ids[256];
    snprintf(ids, sizeof ids, "%s", r->out.ptr);
    expect(RUN_ON(ids, "detokenize", "-m", TINY), 0, "hello <|im_end|>");
    expect(RUN_ON("[271,\n271 ]", "detokenize", "-m", TINY), 0, "<|im_end|><|im_end|>");
    expect(RUN_ON("", "tokenize", "-m", TINY), 0, "\n");
    expect(RUN_ON("", "detokenize", "-m", TINY), 0, "");
    expect_refusal(RUN_ON("5 x 6", "detokenize", "-m", TINY), 1, "'x' at byte 2");
    expect_refusal(RUN_ON("272", "detokenize", "-m", TINY), 1, "id 272, number 1");
    expect_refusal(RUN_ON("99999999999", "detokenize", "-m", TINY), 1, "no token id");
}

static void the_real_vocabulary(void **state) {
    (void)state;
    if (missing(VOCABULARY)) skip();
    expect(RUN_ON("Hello <|im_end|> world", "tokenize", "-m", VOCABULARY), 0, "9707 220 151645 1879\n");
    expect(RUN_ON("Hello <|im_end|> world", "tokenize", "-m", VOCABULARY, "--no-special"), 0,
           "9707 82639 318 6213 91 29 1879\n");
    expect(RUN_ON("9707 220 151645 1879", "detokenize", "-m", VOCABULARY), 0, "Hello <|im_end|> world");
    expect_refusal(RUN("run", "-m", VOCABULARY, "-p", "x"), 1, "no tensors");
}

static const char request[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}";

static void templates(void **state) {
    (void)state;
    expect(RUN_ON(request, "template", "--family", "qwen3"), 0, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    expect(RUN_ON(request, "template", "--family", "qwen3", "--chat-template-kwargs", "{\"enable_thinking\": false}"), 0,
           "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
    expect_refusal(RUN_ON("{", "template", "--family", "qwen3"), 1, "stdin: ");
    expect_refusal(RUN_ON("[]", "template", "--family", "qwen3"), 1, "not a JSON object");
    expect_refusal(RUN_ON("{\"messages\": 5}", "template", "--family", "qwen3"), 1, "'messages' must be an array");
    expect_refusal(RUN_ON(request, "template", "--family", "llama3"), 2, "one of auto, qwen3");
    if (missing(VOCABULARY)) skip();
    expect(RUN_ON(request, "template", "-m", VOCABULARY, "--ids"), 0, "151644 872 198 13048 151645 198 151644 77091 198\n");
}

/* Every golden conversation through the program. */
static void golden_templates(void **state) {
    (void)state;
    static const char path[] = SHARED_DIR "/golden/chat/public.jsonl";
    if (missing(path)) skip();
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *line = NULL;
    size_t room = 0, n = 0;
    for (ssize_t len; (len = getline(&line, &room, f)) > 0;) {
        json_t *golden = NULL;
        struct reason why;
        assert_int_equal(json_read((struct span){line, (size_t)len}, &golden, &why), ERR_NONE);
        const char *family = json_string_value(json_object_get(golden, "template")),
                   *rendered = json_string_value(json_object_get(golden, "rendered"));
        struct result *r =
            run_with((struct span){line, (size_t)len}, (const char *const[]){"template", "--family", family, NULL});
        if (r->status != 0 || strcmp(r->out.ptr, rendered) != 0)
            fail_test("%s: status %d %s\n%s", json_string_value(json_object_get(golden, "id")), r->status, r->err.ptr,
                      r->out.ptr);
        json_decref(golden);
        n++;
    }
    free(line);
    fclose(f);
    assert_true(n > 100);
}

static const char tools[] = "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"type\": "
                            "\"object\", \"properties\": {\"x\": {\"type\": \"integer\"}}}}}]";

static void answers_become_messages(void **state) {
    (void)state;
    char input[1024];
    snprintf(input, sizeof input,
             "{\"text\": \"<think>hm</think>Yes.<tool_call>{\\\"name\\\": \\\"f\\\", \\\"arguments\\\": {\\\"x\\\": 5}}"
             "</tool_call>\", \"think\": true, \"finish\": \"stop\", \"tools\": %s}",
             tools);
    expect(RUN_ON(input, "template", "--family", "qwen3", "--parse-tools"), 0,
           "{\"content\": \"Yes.\", \"reasoning_content\": \"hm\", \"tool_calls\": [{\"name\": \"f\", \"arguments\": {\"x\": "
           "5}}], "
           "\"finish_reason\": \"tool_calls\"}\n");
    /* only the coder family takes a call without its opener */
    snprintf(input, sizeof input,
             "{\"text\": \"<function=f>\\n<parameter=x>\\n5\\n</parameter>\\n</function>\", \"tools\": %s}", tools);
    struct result *r = RUN_ON(input, "template", "--family", "qwen3-coder", "--parse-tools");
    expect(r, 0,
           "{\"content\": \"\", \"reasoning_content\": null, \"tool_calls\": [{\"name\": \"f\", \"arguments\": {\"x\": 5}}], "
           "\"finish_reason\": \"tool_calls\"}\n");
    r = RUN_ON(input, "template", "--family", "qwen3", "--parse-tools");
    assert_non_null(strstr(r->out.ptr, "\"tool_calls\": [], \"finish_reason\": \"stop\""));
    input[strlen(input) - 1] = 0; /* its own format wins over the family */
    strcat(input, ", \"format\": \"qwen3-coder\"}");
    r = RUN_ON(input, "template", "--family", "qwen3", "--parse-tools");
    assert_non_null(strstr(r->out.ptr, "\"finish_reason\": \"tool_calls\""));
    expect(RUN_ON("{\"text\": \"a\", \"finish\": \"length\"}", "template", "--family", "qwen3", "--parse-tools"), 0,
           "{\"content\": \"a\", \"reasoning_content\": null, \"tool_calls\": [], \"finish_reason\": \"length\"}\n");
    expect_refusal(RUN_ON("{\"text\": 5}", "template", "--family", "qwen3", "--parse-tools"), 1, "'text' must be a string");
    expect_refusal(RUN_ON("{\"text\": \"\", \"finish\": \"x\"}", "template", "--family", "qwen3", "--parse-tools"), 1,
                   "'finish'");
}

/* ---- inspect -------------------------------------------------------------------------------------------------------- */

static void inspect_lists_the_file(void **state) {
    (void)state;
    struct result *r = RUN("inspect", TINY);
    expect(r, 0, NULL);
    assert_non_null(strstr(r->out.ptr, "2 layers, hidden 32"));
    assert_non_null(strstr(r->out.ptr, "blk.1.ffn_down_exps.weight  F32  [32, 32, 8]"));
    assert_non_null(strstr(r->out.ptr, "qwen3moe.expert_used_count  u32  3"));
    assert_int_equal(r->err.len, 0);
    r = RUN("inspect", "--json", TIED);
    expect(r, 0, NULL);
    json_t *all = NULL;
    struct reason why;
    assert_int_equal(json_read((struct span){r->out.ptr, r->out.len}, &all, &why), ERR_NONE);
    const json_t *shape = json_object_get(all, "shape");
    assert_int_equal(json_integer_value(json_object_get(shape, "n_experts")), 6);
    assert_true(json_is_true(json_object_get(shape, "tied_head")));
    assert_true(json_real_value(json_object_get(shape, "rms_eps")) == 0.0009765625);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(json_object_get(all, "metadata"), "qwen3moe.block_count"), "value")),
        2);
    const json_t *tensors = json_object_get(all, "tensors"), *first = json_array_get(tensors, 0);
    assert_true(json_array_size(tensors) > 20);
    assert_string_equal(json_string_value(json_object_get(first, "type")), "F32");
    json_decref(all);
}

static void inspect_lists_a_directory(void **state) {
    (void)state;
    static struct raw_hf hf;
    snprintf(hf.folder, sizeof hf.folder, "%s/checkpoint", folder);
    assert_int_equal(mkdir(hf.folder, 0700), 0);
    raw_hf_exl3(&hf);
    raw_hf_write(&hf);
    struct result *r = RUN("inspect", hf.folder);
    expect(r, 0, NULL);
    assert_non_null(strstr(r->out.ptr, "container     EXL3\n"));
    assert_non_null(strstr(r->out.ptr, "blk.0.ffn_up_exps.weight  EXL3_2  [128, 128, 2]  8192  0  "));
    assert_non_null(strstr(r->out.ptr, ", 2 slices apart, codebook mcg\n"));
    r = RUN("inspect", "--json", hf.folder);
    expect(r, 0, NULL);
    json_t *all = NULL;
    struct reason why;
    assert_int_equal(json_read((struct span){r->out.ptr, r->out.len}, &all, &why), ERR_NONE);
    assert_string_equal(json_string_value(json_object_get(all, "container")), "EXL3");
    size_t i, stacks = 0;
    const json_t *t;
    json_array_foreach(json_object_get(all, "tensors"), i, t) {
        const json_t *slices = json_object_get(t, "slices");
        stacks += json_array_size(slices) == 2 && json_array_size(json_array_get(slices, 1)) == 2;
    }
    assert_int_equal(stacks, 9);
    json_decref(all);
    raw_hf_clear(&hf);
    raw_hf_free(&hf);
    rmdir(hf.folder);
}

/* ---- run, bench, perplexity ----------------------------------------------------------------------------------------- */

static void greedy_runs_repeat(void **state) {
    (void)state;
    struct text first = {0};
    struct result *r = RUN("run", "-m", TINY, "-p", "hello", "--temp", "0", "-n", "12", "--ids", "--ignore-eos");
    expect(r, 0, NULL);
    assert_int_equal(lines(&r->out), 1);
    assert_int_equal(r->err.len, 0);
    text_add(&first, r->out.ptr, r->out.len);
    expect(RUN("run", "-m", TINY, "-p", "hello", "--temp=0", "-n", "12", "--ids", "--ignore-eos", "-t", "1", "-ub", "2"), 0,
           first.ptr);
    write_file(files[FILE_PROMPT], SPAN("hello"));
    expect(RUN("run", "-m", TINY, "-f", files[FILE_PROMPT], "--temp=0", "-n", "12", "--ids", "--ignore-eos"), 0, first.ptr);
    r = RUN_ON("hello", "tokenize", "-m", TINY);
    char ids[64];
    snprintf(ids, sizeof ids, "%s", r->out.ptr);
    expect(RUN("run", "-m", TINY, "--prompt-ids", ids, "--temp=0", "-n", "12", "--ids", "--ignore-eos"), 0, first.ptr);
    /* the text is that of the ids, and stops before a stop text */
    r = RUN_ON(first.ptr, "detokenize", "-m", TINY, "--no-special");
    struct text text = {0};
    text_add(&text, r->out.ptr, r->out.len);
    expect(RUN("run", "-m", TINY, "-p", "hello", "--temp=0", "-n", "12", "--ignore-eos"), 0, text.ptr);
    text_free(&text);
    text_free(&first);
}

static void sampling_follows_the_seed(void **state) {
    (void)state;
    struct text first = {0};
    struct result *r = RUN("run", "-m", TINY, "-p", "hello", "-n", "24", "--ids", "--ignore-eos", "--temp", "3", "--top-k", "0",
                           "--top-p", "1", "-s", "7");
    expect(r, 0, NULL);
    text_add(&first, r->out.ptr, r->out.len);
    expect(RUN("run", "-m", TINY, "-p", "hello", "-n", "24", "--ids", "--ignore-eos", "--temp", "3", "--top-k", "0", "--top-p",
               "1", "-s", "7"),
           0, first.ptr);
    r = RUN("run", "-m", TINY, "-p", "hello", "-n", "24", "--ids", "--ignore-eos", "--temp", "3", "--top-k", "0", "--top-p",
            "1", "-s", "8");
    assert_string_not_equal(r->out.ptr, first.ptr);
    expect(RUN("run", "-m", TINY, "-p", "hello", "-n", "4", "--ids", "--temp", "0", "-l", "100+1000"), 0, "100 100 100 100\n");
    text_free(&first);
}

static void a_stop_text_ends_the_answer(void **state) {
    (void)state;
    /* bias makes the answer "hhhh..."; 'h' is one token */
    struct result *r = RUN_ON("h", "tokenize", "-m", TINY);
    char bias[32];
    snprintf(bias, sizeof bias, "%d+1000", atoi(r->out.ptr));
    expect(RUN("run", "-m", TINY, "-p", "x", "-n", "6", "--temp", "0", "-l", bias), 0, "hhhhhh");
    expect(RUN("run", "-m", TINY, "-p", "x", "-n", "6", "--temp", "0", "-l", bias, "-r", "hhh"), 0, "");
    expect(RUN("run", "-m", TINY, "-p", "x", "-n", "6", "--temp", "0", "-l", bias, "-r", "hhhhhhx"), 0, "hhhhhh");
    r = RUN("run", "-m", TINY, "-p", "x", "-n", "300", "-c", "16", "--temp", "0", "-l", bias);
    expect(r, 0, "hhhhhhhhhhhhhhhh");
    assert_non_null(strstr(r->err.ptr, "context of 16 tokens is full"));
}

static void a_model_without_tokenizer_runs_on_ids(void **state) {
    (void)state;
    if (missing(BARE)) skip();
    struct result *r = RUN("run", "-m", BARE, "--prompt-ids", "3 17 80 5", "--temp", "0", "-n", "5", "--ids");
    expect(r, 0, NULL);
    assert_int_equal(lines(&r->out), 1);
    expect_refusal(RUN("run", "-m", BARE, "-p", "x", "--ids"), 1, "no tokenizer");
    expect_refusal(RUN("run", "-m", BARE, "--prompt-ids", "3", "-n", "1"), 1, "--ids");
    expect_refusal(RUN("run", "-m", BARE, "--prompt-ids", "3 96", "--ids"), 1, "token 96");
    expect_refusal(RUN("tokenize", "-m", BARE), 1, "no tokenizer");
}

static void bench_prints_its_formats(void **state) {
    (void)state;
    struct result *r = RUN("bench", "-m", TINY, "-p", "8", "-n", "4", "-d", "0,8", "-r", "2", "-o", "json");
    expect(r, 0, NULL);
    json_t *all = NULL;
    struct reason why;
    assert_int_equal(json_read((struct span){r->out.ptr, r->out.len}, &all, &why), ERR_NONE);
    assert_int_equal(json_array_size(all), 4);
    static const char *const names[] = {"pp8", "tg4", "pp8 @ d8", "tg4 @ d8"};
    for (size_t i = 0; i < 4; i++) {
        const json_t *one = json_array_get(all, i);
        assert_string_equal(json_string_value(json_object_get(one, "test")), names[i]);
        assert_true(json_real_value(json_object_get(one, "avg_ts")) > 0);
        assert_int_equal(json_array_size(json_object_get(one, "samples_ns")), 2);
        assert_string_equal(json_string_value(json_object_get(one, "backends")), "CPU");
    }
    json_decref(all);
    r = RUN("bench", "-m", TINY, "-p", "8", "-n", "0", "-r", "1");
    expect(r, 0, NULL);
    assert_int_equal(lines(&r->out), 5); /* head, rule, row, blank, build */
    assert_true(strncmp(r->out.ptr, "| model ", 8) == 0);
    r = RUN("bench", "-m", TINY, "-p", "8", "-n", "2", "-r", "1", "-o", "csv");
    assert_int_equal(lines(&r->out), 3);
    assert_true(strncmp(r->out.ptr, "build_commit,", 13) == 0);
}

static double final_estimate(const struct text *out) {
    const char *at = strstr(out->ptr, "\nFinal estimate: PPL = ");
    assert_non_null(at);
    assert_int_equal(out->ptr[out->len - 1], '\n');
    assert_ptr_equal(strchr(at + 1, '\n'), out->ptr + out->len - 1); /* it is the last line */
    return strtod(at + 23, NULL);
}

/* -ln p of `token` under logits, in double: the definition, written apart from the program. */
static double reference_nll(const float *logits, size_t n, int32_t token) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += exp((double)logits[i] - (double)logits[token]);
    return log(sum);
}

/* The scored positions are n_ctx/2 .. n_ctx-2 of a chunk, each on the token that follows; logits come from transformers. */
static void perplexity_equals_the_reference(void **state) {
    (void)state;
    enum { TOKENS = 40, VOCAB = 272, CTX = 20 };
    struct text tokens = {0}, logits = {0}, base = {0};
    read_file(TESTS_DIR "/golden/hf_tiny/tokens.i32", &tokens);
    read_file(TESTS_DIR "/golden/hf_tiny/logits_hf_tiny.f32", &logits);
    assert_int_equal(tokens.len, TOKENS * 4);
    assert_int_equal(logits.len, TOKENS * VOCAB * 4);
    const int32_t *ids = (const int32_t *)tokens.ptr;
    const float *rows = (const float *)logits.ptr;
    char list[512] = "";
    double nll = 0;
    for (int i = 0; i < TOKENS; i++) sprintf(list + strlen(list), "%d ", ids[i]);
    for (int i = CTX / 2; i + 1 < CTX; i++) nll += reference_nll(rows + i * VOCAB, VOCAB, ids[i + 1]) / (CTX - 1 - CTX / 2);
    struct result *r = RUN("perplexity", "-m", TINY, "--prompt-ids", list, "-c", "20", "--chunks", "1", "--kl-divergence-base",
                           files[FILE_BASE]);
    expect(r, 0, NULL);
    assert_true(fabs(log(final_estimate(&r->out)) - nll) < 1e-3);

    read_file(files[FILE_BASE], &base); /* each record decodes to ln p within half a step and the f16 cache */
    const char *record = base.ptr + 20 + 4 * CTX;
    for (int i = CTX / 2; i + 1 < CTX; i++, record += 8 + 2 * VOCAB) {
        float step, low;
        memcpy(&step, record, 4);
        memcpy(&low, record + 4, 4);
        assert_true(step > 0 && step <= 24.01f / 65535);
        for (int v = 0; v < VOCAB; v++) {
            uint16_t code;
            memcpy(&code, record + 8 + 2 * v, 2);
            const double log_p = -reference_nll(rows + i * VOCAB, VOCAB, v),
                         error = fabs((double)(low + step * (float)code) - log_p);
            if (code ? error > 0.5 * (double)step + 1e-2 : log_p > (double)low + 1e-2)
                fail_test("position %d, entry %d: %g", i, v, error);
        }
    }
    assert_ptr_equal(record, base.ptr + base.len);
    text_free(&tokens);
    text_free(&logits);
    text_free(&base);
}

/* One row of hand-made logits: floor 24 below the largest, everything under it code 0. */
static void log_probabilities_are_coded_as_documented(void **state) {
    (void)state;
    static const float logits[5] = {10, 9, -13.5f, -20, 10};
    uint16_t record[10];
    float max;
    size_t top;
    assert_int_equal(logprobs_record_words(5), 10);
    const double log_sum = logprobs_log_sum(logits, 5, &max, &top);
    assert_true(max == 10 && top == 0);
    assert_true(fabs(log_sum - log(2 + exp(-1) + exp(-23.5) + exp(-30))) < 1e-7);
    memset(record, 0xff, sizeof record);
    logprobs_encode(logits, 5, max, log_sum, record);
    const double step = (double)logprobs_step(record), low = (double)logprobs_low(record);
    assert_true(fabs(step - 24.0 / 65535) < 1e-9);
    assert_true(fabs(low - (-24 - log_sum)) < 1e-5);
    static const uint16_t codes[6] = {65535, 62804, 1365, 0, 65535, 0};
    assert_memory_equal(record + 4, codes, sizeof codes);
    static const float flat[2] = {3, 3};
    logprobs_encode(flat, 2, 3, log(2), record);
    assert_true(logprobs_step(record) == 0 && record[4] == 0 && record[5] == 0);
    assert_true(fabs((double)logprobs_low(record) + log(2)) < 1e-6);
}

/* Two hand-made rows, KL by its definition in double. */
static void divergence_is_what_it_says(void **state) {
    (void)state;
    static const float base[4] = {5, 4, 1, -3}, other[4] = {4, 5, 0, -1};
    struct divergence d;
    struct reason why;
    uint16_t record[8];
    float max;
    assert_int_equal(divergence_open(2, &d, &why), ERR_NONE);
    const double log_sum = logprobs_log_sum(base, 4, &max, NULL);
    logprobs_encode(base, 4, max, log_sum, record);
    divergence_add(&d, other, 4, record, 2);
    double kl = 0;
    for (int i = 0; i < 4; i++) {
        const double p = -reference_nll(base, 4, i), q = -reference_nll(other, 4, i);
        kl += exp(p) * (p - q);
    }
    assert_true(fabs(d.kld.sum - kl) < 1e-4);
    assert_true(fabs(d.nll.sum - reference_nll(other, 4, 2)) < 1e-6);
    assert_true(fabs(d.base_nll.sum - reference_nll(base, 4, 2)) < 1e-3);
    assert_int_equal(d.same_top, 0);
    divergence_add(&d, base, 4, record, 0);
    assert_true(fabs(d.kld.sum - kl) < 2e-4);
    assert_int_equal(d.same_top, 1);
    divergence_close(&d);
}

static void perplexity_and_divergence(void **state) {
    (void)state;
    char ids[2048] = "";
    uint32_t random = 7;
    for (int i = 0; i < 200; i++) {
        random = random * 1664525u + 1013904223u;
        sprintf(ids + strlen(ids), "%u ", (random >> 16) % 256);
    }
    const char *base = files[FILE_BASE];
    struct result *r = RUN("perplexity", "-m", TINY, "--prompt-ids", ids, "-c", "32", "--kl-divergence-base", base);
    expect(r, 0, NULL);
    assert_true(strncmp(r->out.ptr, "[1]", 3) == 0);
    assert_non_null(strstr(r->out.ptr, ",[6]"));
    const double ppl = final_estimate(&r->out);
    assert_true(ppl > 1);
    struct stat facts;
    assert_int_equal(stat(base, &facts), 0);
    assert_int_equal(facts.st_size, 20 + 6 * 32 * 4 + 6 * 15 * (8 + 2 * 272));
    r = RUN("perplexity", "-m", TINY, "--prompt-ids", ids, "-c", "32", "-ub", "8", "--chunks", "2");
    expect(r, 0, NULL);
    assert_null(strstr(r->out.ptr, "[3]"));

    r = RUN("perplexity", "-m", TINY, "--kl-divergence", "--kl-divergence-base", base);
    expect(r, 0, NULL);
    const char *mean = strstr(r->out.ptr, "Mean    KLD: "), *largest = strstr(r->out.ptr, "Maximum KLD: "),
               *top = strstr(r->out.ptr, "Same top p: ");
    assert_true(mean && largest && top);
    const double step = 24.0 / 65535; /* of the codes at most: the file's own error is half of that */
    assert_true(strtod(mean + 13, NULL) < 0.5 * step && strtod(largest + 13, NULL) < step);
    assert_true(strtod(top + 12, NULL) == 100);
    r = RUN("perplexity", "-m", TIED, "--kl-divergence", "--kl-divergence-base", base);
    expect(r, 0, NULL);
    assert_true(strtod(strstr(r->out.ptr, "Mean    KLD: ") + 13, NULL) > 0.1);
    expect_refusal(RUN("perplexity", "-m", TINY, "--prompt-ids", "1 2 3", "-c", "8"), 1, "at least 16");

    struct text bytes = {0}; /* a base file that is cut is refused before any work */
    read_file(base, &bytes);
    write_file(base, (struct span){bytes.ptr, bytes.len - 2});
    expect_refusal(RUN("perplexity", "-m", TINY, "--kl-divergence", "--kl-divergence-base", base), 1, "its header");
    memset(bytes.ptr + 20, 0x7f, 4);
    write_file(base, (struct span){bytes.ptr, bytes.len});
    expect_refusal(RUN("perplexity", "-m", TINY, "--kl-divergence", "--kl-divergence-base", base), 1, "at byte 20");
    text_free(&bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(usage_errors_end_with_2),
        cmocka_unit_test(help_and_version_are_answers),
        cmocka_unit_test(broken_files_end_with_1_and_one_line),
        cmocka_unit_test(a_stdout_that_takes_nothing_ends_quietly_with_1),
        cmocka_unit_test(an_interrupt_ends_with_130),
        cmocka_unit_test(tokens_go_both_ways),
        cmocka_unit_test(the_real_vocabulary),
        cmocka_unit_test(templates),
        cmocka_unit_test(golden_templates),
        cmocka_unit_test(answers_become_messages),
        cmocka_unit_test(inspect_lists_the_file),
        cmocka_unit_test(inspect_lists_a_directory),
        cmocka_unit_test(greedy_runs_repeat),
        cmocka_unit_test(sampling_follows_the_seed),
        cmocka_unit_test(a_stop_text_ends_the_answer),
        cmocka_unit_test(a_model_without_tokenizer_runs_on_ids),
        cmocka_unit_test(bench_prints_its_formats),
        cmocka_unit_test(perplexity_equals_the_reference),
        cmocka_unit_test(log_probabilities_are_coded_as_documented),
        cmocka_unit_test(divergence_is_what_it_says),
        cmocka_unit_test(perplexity_and_divergence),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}

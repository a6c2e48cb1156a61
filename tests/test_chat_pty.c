/* The built program in a conversation: typed at through a pseudo-terminal, and through pipes.
 *
 * The model is tiny and its weights are random, so an added logit makes it say "xxxx..." without end: what is printed, saved
 * and reused is then known. Every wait has a limit, and the whole program has one. */
#include "tests/support/check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "core/json.h"
#include "engine/engine.h"
#include "tests/support/files.h"
#include "tests/support/tiny_model.h"

#define PROGRAM BUILD_DIR "/coldstream"
#define ENTER "\r"
#define CTRL_C "\003"
#define CTRL_D "\004"
#define CTRL_G "\007"
#define ALT_ENTER "\033\r"
#define UP "\033[A"
#define PASTE_ON "\033[200~"
#define PASTE_OFF "\033[201~"
#define TIMING "[ Prompt: "
#define LEFT_PASTE_MODE "\033[?2004l"

enum { WAIT_S = 15, ALL_S = 55, QUIET_MS = 150, EXITED_BY_SIGNAL = 1000 };

static char folder[] = "/tmp/coldstream-pty-XXXXXX";
static char *model_path;
static char bias[32];      /* of -l: always the token "x" */
static char long_bias[32]; /* always "<tool_response>" */

/* ---- the program under test --------------------------------------------------------------------------------------------- */

static struct {
    pid_t pid;
    int fd;
    struct text seen; /* all it printed */
    size_t mark;      /* where the next expectation looks */
    struct termios before;
} chat = {.pid = -1, .fd = -1};

static const char *in_folder(const char *name) { return path_in(folder, name); }

static void on_alarm(int number) {
    static const char text[] = "test_chat_pty: out of time\n";
    (void)number;
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    if (chat.pid > 0) kill(chat.pid, SIGKILL);
    _exit(1);
}

static void drop_chat(void) {
    if (chat.pid > 0) {
        kill(chat.pid, SIGKILL);
        waitpid(chat.pid, NULL, 0);
    }
    if (chat.fd >= 0) close(chat.fd);
    text_free(&chat.seen);
    chat.pid = chat.fd = -1;
}

/* The last things it printed, readable. */
static void fail_chat(const char *what, const char *detail) {
    struct text tail = {0};
    for (size_t i = chat.seen.len > 1500 ? chat.seen.len - 1500 : 0; i < chat.seen.len; i++) {
        const unsigned char c = (unsigned char)chat.seen.ptr[i];
        if (c == '\n' || (c >= 0x20 && c < 0x7f))
            text_add(&tail, &chat.seen.ptr[i], 1);
        else if (c != '\r')
            text_addf(&tail, "\\x%02x", c);
    }
    for (size_t at = 0; at < tail.len; at += 500) print_error("%.500s", tail.ptr + at); /* cmocka cuts long lines */
    text_free(&tail);
    drop_chat();
    fail_test("\n%s '%s'", what, detail);
}

static void become(const char *const *words, const char *setting) {
    char home[80], editor[80];
    snprintf(home, sizeof home, "HOME=%s", folder);
    snprintf(editor, sizeof editor, "EDITOR=sh %s/editor", folder);
    char *environment[] = {home, editor, "TERM=xterm", "PATH=/usr/bin:/bin", "ASAN_OPTIONS=detect_leaks=1", "COLDSTREAM_LEARN=off",
                           (char *)setting, NULL};
    char *argv[40] = {(char *)PROGRAM, "chat", "-m", model_path, "-s", "1", "-t", "1", NULL};
    size_t n = 8;
    while (*words && n < 39) argv[n++] = (char *)*words++;
    argv[n] = NULL;
    execve(PROGRAM, argv, environment);
    _exit(127);
}

static void start_with(const char *setting, const char *const *words) {
    drop_chat();
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    chat.mark = 0;
    chat.pid = forkpty(&chat.fd, NULL, NULL, &size);
    if (chat.pid < 0) {
        print_message("skipped: no pseudo-terminal here: %s\n", strerror(errno));
        skip();
    }
    if (chat.pid == 0) become(words, setting);
    assert_int_equal(tcgetattr(chat.fd, &chat.before), 0);
}

#define START(...) start_with(NULL, (const char *const[]){__VA_ARGS__, NULL})
/* Answers are "xxxx...". */
#define START_X(...) START("-l", bias, __VA_ARGS__)

/* Take what it prints for up to `ms`; false: it printed nothing, or it ended. */
static bool take(int ms) {
    struct pollfd ready = {chat.fd, POLLIN, 0};
    char piece[4096];
    if (poll(&ready, 1, ms) <= 0) return false;
    const ssize_t n = read(chat.fd, piece, sizeof piece);
    if (n <= 0) return false; /* EIO: the other end is closed */
    text_add(&chat.seen, piece, (size_t)n);
    return true;
}

static char *find(const char *what) {
    const size_t len = strlen(what);
    return chat.seen.len - chat.mark < len ? NULL : memmem(chat.seen.ptr + chat.mark, chat.seen.len - chat.mark, what, len);
}

/* Wait for `what` behind the mark, and move the mark behind it. */
static void expect(const char *what) {
    const uint64_t until = clock_ns() + (uint64_t)WAIT_S * 1000000000u;
    char *hit;
    while (!(hit = find(what))) {
        if (clock_ns() > until) fail_chat("did not print", what);
        if (!take(200) && waitpid(chat.pid, NULL, WNOHANG) == chat.pid) {
            while (take(100)) {
            }
            if (find(what)) continue;
            chat.pid = -1;
            fail_chat("ended without printing", what);
        }
    }
    chat.mark = (size_t)(hit - chat.seen.ptr) + strlen(what);
}

/* Nothing for a moment, and `what` did not come. */
static void expect_none(const char *what) {
    while (take(QUIET_MS)) {
    }
    if (find(what)) fail_chat("printed", what);
}

static void type(const char *keys) {
    size_t len = strlen(keys);
    while (len) {
        const ssize_t n = write(chat.fd, keys, len < 512 ? len : 512);
        assert_true(n > 0);
        keys += n;
        len -= (size_t)n;
        while (take(0)) {
        } /* its echo must not fill the pipe while we write */
    }
}

static void expect_prompt(void) { expect(">>> "); }

struct timing {
    unsigned long ctx, room, cached;
};

/* Type a message, wait for the end of its answer. */
static struct timing say(const char *keys) {
    struct timing t = {0};
    type(keys);
    type(ENTER);
    expect(TIMING);
    expect(" ctx ");
    const size_t at = chat.mark;
    expect(" ]");
    if (sscanf(chat.seen.ptr + at, "%lu/%lu | cached %lu", &t.ctx, &t.room, &t.cached) != 3) fail_chat("odd timing line", "");
    expect_prompt();
    return t;
}

static void command(const char *line, const char *answer) {
    type(line);
    type(ENTER);
    expect(answer);
    expect_prompt();
}

/* Its exit status, after it printed everything. The terminal must be as it was before. */
static int finish(void) {
    const uint64_t until = clock_ns() + (uint64_t)WAIT_S * 1000000000u;
    int status;
    while (waitpid(chat.pid, &status, WNOHANG) == 0) {
        if (clock_ns() > until) fail_chat("does not end", "");
        take(20);
    }
    while (take(50)) {
    }
    chat.pid = -1;
    struct termios after;
    assert_int_equal(tcgetattr(chat.fd, &after), 0);
    assert_int_equal(after.c_lflag, chat.before.c_lflag);
    assert_int_equal(after.c_iflag, chat.before.c_iflag);
    assert_int_equal(after.c_oflag, chat.before.c_oflag);
    chat.mark = 0;
    if (find("ERROR: AddressSanitizer") || find("ERROR: LeakSanitizer") || find("runtime error"))
        fail_chat("a sanitizer spoke", "");
    return WIFEXITED(status) ? WEXITSTATUS(status) : EXITED_BY_SIGNAL + WTERMSIG(status);
}

static void leave(void) {
    type(CTRL_D);
    const int status = finish();
    if (status != 0) fail_chat("Ctrl-D did not end it with 0", "");
    expect(LEFT_PASTE_MODE);
}

/* ---- saved chats ------------------------------------------------------------------------------------------------------------
 */

static json_t *read_json(const char *path) {
    FILE *f = fopen(path, "rb");
    struct text bytes = {0};
    char piece[4096];
    json_t *root = NULL;
    struct reason why;
    if (!f) fail_chat("no file", path);
    for (size_t n; (n = fread(piece, 1, sizeof piece, f));) text_add(&bytes, piece, n);
    fclose(f);
    if (json_read((struct span){bytes.ptr, bytes.len}, &root, &why)) fail_test("%s", why.text);
    text_free(&bytes);
    return root;
}

/* /save, and its messages; json_decref() them. */
static json_t *save(void) {
    char line[128];
    const char *path = in_folder("saved.json");
    snprintf(line, sizeof line, "/save %s", path);
    command(line, "[saved ");
    json_t *root = read_json(path), *messages = json_incref(json_object_get(root, "messages"));
    assert_true(json_is_array(messages));
    json_decref(root);
    return messages;
}

static const char *content(const json_t *messages, size_t index) {
    return json_string_value(json_object_get(json_array_get(messages, index), "content"));
}

static void expect_messages(size_t count) {
    json_t *messages = save();
    if (json_array_size(messages) != count) fail_test("%zu messages, not %zu", json_array_size(messages), count);
    json_decref(messages);
}

/* ---- tests: a conversation
 * --------------------------------------------------------------------------------------------------- */

static void holds_two_turns(void **state) {
    (void)state;
    START_X("-n", "8");
    expect("Ctrl-D leaves");
    expect_prompt();
    type("hello" ENTER);
    expect("xxxxxxxx\r\n");
    expect(TIMING);
    expect_prompt();
    const struct timing first = say("and?"), second = say("and then?");
    /* All but the answer's last token, which nothing was computed from, is there already. */
    assert_true(first.cached > 8);
    assert_int_equal(second.cached, first.ctx);
    json_t *messages = save();
    assert_int_equal(json_array_size(messages), 6);
    assert_string_equal(content(messages, 0), "hello");
    assert_string_equal(content(messages, 1), "xxxxxxxx");
    assert_string_equal(content(messages, 4), "and then?");
    json_decref(messages);
    leave();
}

static void takes_a_paste_as_one_message(void **state) {
    (void)state;
    struct text block = {0}, keys = {0};
    for (int i = 0; i < 200; i++) text_addf(&block, i % 7 ? "line %d\n" : "/line %d\t\"\"\" é日\\\n", i);
    text_addf(&keys, PASTE_ON);
    for (const char *c = block.ptr; *c; c++) text_add(&keys, *c == '\n' ? "\r" : c, 1); /* as terminals send it */
    text_addf(&keys, PASTE_OFF);

    START_X("-n", "4");
    expect_prompt();
    type(keys.ptr);
    expect("line 199");
    expect_none(TIMING); /* nothing is sent before Enter */
    say("");
    expect_none(TIMING); /* and then one message */
    json_t *messages = save();
    assert_int_equal(json_array_size(messages), 2);
    assert_string_equal(content(messages, 0), block.ptr);
    json_decref(messages);
    say(PASTE_ON "in one line" PASTE_OFF " and typed");
    messages = save();
    assert_string_equal(content(messages, 2), "in one line and typed");
    json_decref(messages);
    leave();
    text_free(&block);
    text_free(&keys);
}

static void ctrl_c_keeps_the_answer_so_far(void **state) {
    (void)state;
    START_X("-c", "8192");
    expect_prompt();
    type("go on" ENTER);
    expect("xxxx");
    const uint64_t begin = clock_ns();
    type(CTRL_C);
    expect("[interrupted; the answer so far stays");
    assert_true(clock_ns() - begin < 2000000000u);
    expect(TIMING);
    expect_prompt();
    json_t *messages = save();
    assert_int_equal(json_array_size(messages), 2);
    const char *answer = content(messages, 1);
    assert_true(strlen(answer) >= 4);
    assert_int_equal(strspn(answer, "x"), strlen(answer));
    assert_true(json_is_true(json_object_get(json_array_get(messages, 1), "interrupted")));
    json_decref(messages);
    command("/set predict 3", "[predict set]");
    assert_true(say("more").cached > 4); /* the conversation goes on from it */
    expect_messages(4);
    leave();
}

/* The terminal does not take bytes for a while (Ctrl-S, a slow line): the signal finds the program inside a write. */
static void ctrl_c_reaches_a_stuck_terminal(void **state) {
    (void)state;
    START("-l", long_bias, "-c", "64k");
    expect_prompt();
    type("go on" ENTER);
    expect("<tool_response>");
    usleep(1500000); /* enough to fill the pipe with so long a token */
    assert_int_equal(write(chat.fd, CTRL_C, 1), 1);
    expect("[interrupted; the answer so far stays");
    expect(TIMING);
    expect_prompt();
    leave();
}

static void ctrl_c_while_reading_takes_the_turn_back(void **state) {
    (void)state;
    struct text keys = {0};
    text_addf(&keys, PASTE_ON);
    for (int i = 0; i < 3600; i++) text_addf(&keys, "%c ", 'a' + i % 26);
    text_addf(&keys, PASTE_OFF);
    START_X("-n", "2", "--isa", "ref", "-ub", "16");
    expect_prompt();
    say("before");
    type(keys.ptr);
    type(ENTER);
    expect("reading the prompt: ");
    type(CTRL_C);
    expect("[interrupted before the first token; the message was taken back]");
    expect_prompt();
    expect_messages(2);
    say("after");
    expect_messages(4);
    leave();
    text_free(&keys);
}

static void answers_again_and_takes_back(void **state) {
    (void)state;
    START("-n", "24", "--temp", "2", "--top-k", "0", "--top-p", "1", "--ignore-eos");
    expect_prompt();
    command("/regen", "there is no message to answer again");
    say("hello");
    json_t *first = save();
    say("/regen");
    json_t *second = save();
    assert_int_equal(json_array_size(second), 2);
    assert_string_equal(content(first, 0), content(second, 0));
    assert_string_not_equal(content(first, 1), content(second, 1));
    json_decref(first);
    json_decref(second);
    say("once more");
    expect_messages(4);
    command("/undo", "[took back: once more]");
    expect_messages(2);
    command("/clear", "[cleared: 1 message");
    expect_messages(0);
    command("/undo", "there is nothing to take back");
    leave();
}

static void saves_loads_and_survives_bad_files(void **state) {
    (void)state;
    START_X("-n", "5", "-sys", "be brief", "--top-k", "7");
    expect_prompt();
    say("one");
    say("two");
    json_t *messages = save();
    assert_int_equal(json_array_size(messages), 5);
    leave();
    assert_int_equal(rename(in_folder("saved.json"), in_folder("first.json")), 0);

    START_X("-n", "5");
    expect_prompt();
    say("another conversation");
    char line[128];
    snprintf(line, sizeof line, "/load %s", in_folder("missing.json"));
    command(line, "No such file");
    FILE *f = fopen(in_folder("bad.json"), "w");
    fputs("{\"format\": \"coldstream-chat\", \"version\": 1}", f);
    fclose(f);
    snprintf(line, sizeof line, "/load %s", in_folder("bad.json"));
    command(line, "bad.json: model");
    json_t *kept = save(); /* the conversation is as it was */
    assert_string_equal(content(kept, 0), "another conversation");
    json_decref(kept);

    snprintf(line, sizeof line, "/load %s", in_folder("first.json"));
    command(line, "[loaded 2 turns");
    json_t *again = save();
    assert_true(json_equal(messages, again));
    json_decref(again);
    command("/show", "top-k 7 (/set)");
    say("three");
    expect_messages(7);
    assert_int_equal(rename(in_folder("saved.json"), in_folder("longer.json")), 0);
    snprintf(line, sizeof line, "/save %s", model_path);
    command(line, "is no saved chat; choose another name");
    leave();
    json_decref(messages);
}

/* ---- tests: the line
 * ------------------------------------------------------------------------------------------------------------ */

static void refuses_unknown_commands(void **state) {
    (void)state;
    START_X("-n", "2");
    expect_prompt();
    command("/nope at all", "unknown command /nope");
    command("/clear now", "/clear takes no argument");
    command("/set temp hot", "temp");
    command("/set tempo 1", "'tempo' is no setting");
    command("/read /no/such/file", "No such file");
    expect_none(TIMING);
    expect_messages(0);
    say("//nope");
    json_t *messages = save();
    assert_string_equal(content(messages, 0), "/nope");
    json_decref(messages);
    leave();
}

static void takes_messages_of_several_lines(void **state) {
    (void)state;
    START_X("-n", "2");
    expect_prompt();
    type("one\\" ENTER);
    expect("... ");
    say("two");
    type("\"\"\"three" ENTER);
    expect("... ");
    type("/four" ENTER);
    expect("... ");
    say("five\"\"\"");
    say("six" ALT_ENTER "seven" UP "!");
    type("dropped\\" ENTER);
    expect("... ");
    type("with this" CTRL_C);
    expect_prompt();
    usleep(20000);
    type("typed" CTRL_C); /* the line only: it was not empty */
    expect_prompt();
    json_t *messages = save();
    assert_int_equal(json_array_size(messages), 6);
    assert_string_equal(content(messages, 0), "one\ntwo");
    assert_string_equal(content(messages, 2), "three\n/four\nfive");
    assert_string_equal(content(messages, 4), "six!\nseven");
    json_decref(messages);
    leave();
}

static void completes_and_remembers(void **state) {
    (void)state;
    struct stat info;
    START_X("-n", "2");
    expect_prompt();
    type("/sho\t" ENTER);
    expect("min-p");
    expect_prompt();
    say("remember me");
    leave();
    assert_int_equal(stat(in_folder(".local/state/coldstream/history"), &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);

    START_X("-n", "2");
    expect_prompt();
    say(UP);
    json_t *messages = save();
    assert_string_equal(content(messages, 0), "remember me");
    json_decref(messages);
    leave();

    const off_t size = info.st_size;
    assert_int_equal(stat(in_folder(".local/state/coldstream/history"), &info), 0);
    assert_true(info.st_size >= size);
    const off_t grown = info.st_size;
    START_X("-n", "2", "--no-history");
    expect_prompt();
    say("secret");
    leave();
    assert_int_equal(stat(in_folder(".local/state/coldstream/history"), &info), 0);
    assert_int_equal(info.st_size, grown);
}

static void reads_files_and_opens_an_editor(void **state) {
    (void)state;
    FILE *f = fopen(in_folder("notes.txt"), "w");
    fputs("first note\nsecond note\n", f);
    fclose(f);
    f = fopen(in_folder("binary"), "w");
    fputs("ok so far \xff\xfe", f);
    fclose(f);
    f = fopen(in_folder("editor"), "w");
    fputs("printf ' edited\\nhere\\n' >> \"$1\"\n", f);
    fclose(f);
    char line[128];
    START_X("-n", "2");
    expect_prompt();
    snprintf(line, sizeof line, "/read %s", in_folder("binary"));
    command(line, "no UTF-8 at byte 10");
    snprintf(line, sizeof line, "/read %s", in_folder("notes.txt"));
    type(line);
    type(ENTER);
    expect("23 bytes go in front of the next message");
    expect("(1 file) >>> ");
    say("summarise");
    type("typed" CTRL_G);
    expect("here");
    say("");
    json_t *messages = save();
    char wanted[128];
    snprintf(wanted, sizeof wanted, "%s:\nfirst note\nsecond note\n\nsummarise", in_folder("notes.txt"));
    assert_string_equal(content(messages, 0), wanted);
    assert_string_equal(content(messages, 2), "typed edited\nhere");
    json_decref(messages);
    leave();
}

static void keeps_what_is_typed_during_an_answer(void **state) {
    (void)state;
    START_X("-n", "300");
    expect_prompt();
    type("first" ENTER);
    expect("xxxx");
    type("second" ENTER); /* typed into the answer, sent after it */
    expect(TIMING);
    expect(TIMING);
    expect_prompt();
    json_t *messages = save();
    assert_int_equal(json_array_size(messages), 4);
    assert_string_equal(content(messages, 2), "second");
    json_decref(messages);
    leave();
}

/* ---- tests: leaving
 * ----------------------------------------------------------------------------------------------------------------- */

static void ctrl_c_at_the_prompt_hints_and_twice_leaves(void **state) {
    (void)state;
    START_X("-n", "2");
    expect_prompt();
    type(CTRL_C);
    expect("[Ctrl-D or /exit leaves");
    expect_prompt();
    usleep(1200000); /* not quickly */
    type(CTRL_C);
    expect("[Ctrl-D or /exit leaves");
    expect_prompt();
    type(CTRL_C);
    assert_int_equal(finish(), 130);
    expect(LEFT_PASTE_MODE);
    assert_non_null(memmem(chat.seen.ptr + chat.seen.len - 8, 8, "\033[0m", 4)); /* colours reset, last of all */
}

static void ctrl_c_twice_in_an_answer_leaves(void **state) {
    (void)state;
    START_X("-c", "8192");
    expect_prompt();
    type("go" ENTER);
    expect("xxxx");
    type(CTRL_C);
    usleep(100000); /* two at once would be one signal */
    type(CTRL_C);   /* a signal while the first is not answered yet, or a key at the prompt */
    assert_int_equal(finish(), 130);
    expect(LEFT_PASTE_MODE);
}

static void ends_on_commands_and_signals(void **state) {
    (void)state;
    START_X("-n", "2");
    expect_prompt();
    type("/bye" ENTER);
    assert_int_equal(finish(), 0);

    START_X("-n", "2");
    expect_prompt();
    kill(chat.pid, SIGTERM);
    assert_int_equal(finish(), 143);
    expect(LEFT_PASTE_MODE);

    START_X("-c", "8192");
    expect_prompt();
    type("go" ENTER);
    expect("xxxx");
    kill(chat.pid, SIGTERM);
    assert_int_equal(finish(), 143);
    expect(LEFT_PASTE_MODE);

    START_X("-n", "3", "-p", "first", "-st");
    expect(">>> first");
    expect("xxx");
    expect(TIMING);
    assert_int_equal(finish(), 0);
}

/* ---- tests: what is shown
 * ------------------------------------------------------------------------------------------------------------ */

static void marks_and_dims_thinking(void **state) {
    (void)state;
    START_X("-n", "6", "--family", "qwen3-thinking");
    expect_prompt();
    type("why" ENTER);
    expect("\033[2m[Start thinking]\r\nxxxxxx\r\n[End thinking]\033[0m");
    expect(TIMING);
    expect_prompt();
    json_t *messages = save();
    const json_t *answer = json_array_get(messages, 1);
    assert_string_equal(json_string_value(json_object_get(answer, "reasoning_content")), "xxxxxx");
    assert_string_equal(content(messages, 1), "");
    json_decref(messages);
    command("/think off", "it cannot be switched off");
    leave();

    START_X("-n", "2", "--family", "qwen3-coder");
    expect_prompt();
    command("/think on", "this model does not think");
    leave();

    START_X("-n", "2", "--family", "qwen3");
    expect_prompt();
    const unsigned long open = say("a").ctx;
    command("/clear", "[cleared");
    command("/think off", "[thinking is off]");
    assert_true(say("a").ctx > open); /* the prompt ends in an empty block */
    leave();
}

static void obeys_no_color(void **state) {
    (void)state;
    start_with("NO_COLOR=1", (const char *const[]){"-l", bias, "-n", "4", "--family", "qwen3-thinking", NULL});
    expect_prompt();
    say("hello");
    leave();
    chat.mark = 0;
    for (const char *code = chat.seen.ptr; (code = memmem(code, (size_t)(chat.seen.ptr + chat.seen.len - code), "\033[", 2));
         code += 2) {
        const char *end = code + 2 + strspn(code + 2, "0123456789;");
        if (*end == 'm') fail_chat("a colour was printed", "");
    }
}

static void says_when_the_context_is_full(void **state) {
    (void)state;
    START_X("-c", "64");
    expect_prompt();
    type("fill it" ENTER);
    expect("[the context is full: 64 of 64 tokens. /undo, /clear, or start with a larger -c or --context-shift]");
    expect(" ctx 64/64 ");
    expect_prompt();
    type("one more" ENTER);
    expect("tokens and the context holds 64");
    expect_prompt();
    expect_messages(2); /* the message that did not fit was taken back */
    command("/ctx", "of 64 tokens");
    command("/stats", "answers 1");
    leave();
}

/* ---- tests: a full context
 * ------------------------------------------------------------------------------------------------------------------------ */

static size_t seen(const char *what) {
    size_t n = 0;
    const char *at = chat.seen.ptr, *end = at + chat.seen.len;
    while (at < end && (at = memmem(at, (size_t)(end - at), what, strlen(what)))) n++, at += strlen(what);
    return n;
}

#define LEFT_OUT " are left out from here on; kept: the system message and the last "

static void leaves_out_whole_messages(void **state) {
    (void)state;
    enum { TURNS = 12, ROOM = 128 };
    START_X("-c", "128", "-n", "8", "-sys", "be brief", "--context-shift");
    expect_prompt();
    for (int i = 0; i < TURNS; i++) {
        const size_t before = seen(LEFT_OUT);
        char message[40];
        snprintf(message, sizeof message, "%c is a message of some length", 'a' + i);
        const struct timing t = say(message);
        assert_true(t.ctx <= ROOM && t.room == ROOM);
        if (seen(LEFT_OUT) == before) continue;
        if (t.cached < 8 || t.cached >= ROOM / 2) fail_test("turn %d: %lu cached of %lu", i, t.cached, t.ctx); /* the system message and what begins any other */
        assert_true(t.ctx <= ROOM / 2 + 32);                /* half of the room is free again */
    }
    assert_true(seen(LEFT_OUT) >= 2);
    unsigned long room, messages, tokens, turns, kept;
    const char *line = memmem(chat.seen.ptr, chat.seen.len, "[the context of ", 16);
    if (!line || sscanf(line, "[the context of %lu tokens is full: the oldest %lu messages, %lu tokens," LEFT_OUT "%lu turns, %lu tokens]", &room, &messages, &tokens,
                        &turns, &kept) != 5)
        fail_chat("odd line about what is left out", "");
    assert_int_equal(room, ROOM);
    assert_true(messages >= 2 && messages % 2 == 0 && turns >= 1 && tokens > 20 && kept > 20 && tokens + kept > ROOM - 8 - 32);
    expect_messages(1 + 2 * TURNS); /* what is left out is not lost */
    command("/ctx", "earlier messages are left out of it");
    say("/regen");
    command("/clear", "[cleared: 12 messages");
    const size_t before = seen(LEFT_OUT);
    say("alone again");
    assert_int_equal(seen(LEFT_OUT), before);
    leave();
}

static void goes_on_beyond_the_context(void **state) {
    (void)state;
    START_X("-c", "96", "-n", "400", "-sys", "be brief", "--context-shift", "-v");
    expect_prompt();
    type("first" ENTER);
    expect("[the context of 96 tokens is full: 0 earlier messages and ");
    expect("tokens of this answer are left out");
    expect(TIMING);
    expect("full context = ");
    expect_prompt();
    assert_true(seen("tokens of this answer are left out") >= 8);
    json_t *messages = save();
    assert_int_equal(strlen(content(messages, 2)), 400); /* all of it was said, and is kept */
    assert_int_equal(strspn(content(messages, 2), "x"), 400);
    json_decref(messages);
    command("/set predict 5", "[predict set]");
    const struct timing t = say("second"); /* such an answer cannot be read again */
    assert_int_equal(seen("the oldest 2 messages, "), 1);
    assert_true(t.ctx < 96 && t.cached >= 8);
    expect_messages(5);
    command("/stats", "answers 2");
    leave();

    START_X("-c", "96", "-n", "300", "--family", "qwen3-thinking", "--context-shift");
    expect_prompt();
    type("why" ENTER);
    expect("tokens of this answer are left out");
    expect(TIMING);
    expect_prompt();
    messages = save();
    assert_int_equal(strlen(json_string_value(json_object_get(json_array_get(messages, 1), "reasoning_content"))), 300);
    json_decref(messages);
    leave();
}

static void never_cuts_a_message(void **state) {
    (void)state;
    char keys[201];
    for (int i = 0; i < 200; i++) keys[i] = (char)('a' + i * 7 % 26);
    keys[200] = 0;
    START_X("-c", "96", "-n", "4", "--context-shift");
    expect_prompt();
    say("one");
    const struct timing before = say("two");
    type(keys);
    type(ENTER);
    expect("even with all earlier messages left out there are ");
    expect(" tokens and the context holds 96: send a shorter message, or start with a larger -c");
    expect_prompt();
    expect_messages(4);
    assert_int_equal(say("three").cached, before.ctx); /* as if it had not been tried */
    leave();
}

/* ---- tests: what is read again
 * ---------------------------------------------------------------------------------------------------------------------- */

static void reuses_what_an_edit_leaves(void **state) {
    (void)state;
    START_X("-n", "8", "-v");
    expect_prompt();
    const struct timing first = say("hello");
    const struct timing again = say("/regen");
    assert_int_equal(again.ctx, first.ctx);
    assert_int_equal(again.cached, first.ctx - 7 - 1); /* all of the prompt, its last token for its logits */
    const struct timing second = say("two");
    assert_int_equal(second.cached, again.ctx);
    command("/undo", "[took back: two]");
    const struct timing edited = say("three");
    assert_true(edited.cached > first.ctx && edited.cached < second.ctx);
    command("/system be terse", "[system message set");
    assert_true(say("four").cached <= 2); /* everything stands behind it */
    command("/system be terser", "[system message set");
    const struct timing terser = say("five");
    if (terser.cached < 8) fail_test("%lu cached", terser.cached); /* as far as both agree */
    command("/stats", " reused from the cache");
    leave();
    assert_int_equal(seen("reused from cache = "), 6);
}

/* ---- tests: without a terminal
 * --------------------------------------------------------------------------------------------------------- */

struct piped {
    int status;
    char out[4096], err[8192];
};

static void read_all(const char *path, char *to, size_t room) {
    const int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    const ssize_t n = read(fd, to, room - 1);
    close(fd);
    to[n > 0 ? n : 0] = 0;
}

/* stdin from a file, stdout and stderr into files. */
static struct piped *pipe_through(const char *input, const char *const *words) {
    static struct piped p;
    int status;
    FILE *f = fopen(in_folder("in"), "w");
    fputs(input, f);
    fclose(f);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const int in = open(in_folder("in"), O_RDONLY), out = open(in_folder("out"), O_WRONLY | O_CREAT | O_TRUNC, 0600),
                  err = open(in_folder("err"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0) _exit(126);
        become(words, NULL);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    p.status = WIFEXITED(status) ? WEXITSTATUS(status) : EXITED_BY_SIGNAL + WTERMSIG(status);
    read_all(in_folder("out"), p.out, sizeof p.out);
    read_all(in_folder("err"), p.err, sizeof p.err);
    if (strchr(p.out, '\033') || strchr(p.err, '\033')) fail_test("escape codes without a terminal");
    if (strstr(p.err, "Sanitizer") || strstr(p.err, "runtime error")) fail_test("%s", p.err);
    return &p;
}

#define PIPE(input, ...) pipe_through(input, (const char *const[]){"-l", bias, __VA_ARGS__, NULL})

static void expect_piped(const struct piped *p, int status, const char *out) {
    if (p->status != status || strcmp(p->out, out) != 0)
        fail_test("status %d, stdout '%s'; expected %d, '%s'; stderr: %s", p->status, p->out, status, out, p->err);
}

static void answers_without_a_terminal(void **state) {
    (void)state;
    expect_piped(PIPE("hi", "-st", "-n", "8"), 0, "xxxxxxxx\n");
    expect_piped(PIPE("several\nlines\n/nope\n", "-st", "-n", "3"), 0, "xxx\n"); /* all of stdin is the message */
    expect_piped(PIPE("one\ntwo\n\nthree", "-n", "3"), 0, "xxx\nxxx\nxxx\n");    /* each line is one */
    expect_piped(PIPE("\"\"\"one\ntwo\n\"\"\"\nthree\\\nfour\n", "-n", "3"), 0, "xxx\nxxx\n");
    expect_piped(PIPE("", "-st", "-p", "from the flag", "-n", "2"), 0, "xx\n");
    expect_piped(PIPE("", "-n", "2"), 0, "");
    const struct piped *p = PIPE("", "-st", "-n", "2");
    expect_piped(p, 1, "");
    assert_non_null(strstr(p->err, "nothing came from stdin"));
    p = PIPE("one\n/nope\nthree\n", "-n", "2");
    expect_piped(p, 1, "xx\n"); /* a mistake ends a script */
    assert_non_null(strstr(p->err, "unknown command /nope"));
    expect_piped(PIPE("hi\n/regen\n", "-n", "9", "-r", "xxx"), 0, ""); /* the stop text itself is not shown */
    p = PIPE("hi", "-st", "-n", "4", "--family", "qwen3-thinking");
    expect_piped(p, 0, ""); /* thinking is no answer */
    assert_non_null(strstr(p->err, "[Start thinking]\nxxxx\n[End thinking]\n"));
    p = PIPE("hi", "-p", "x", "-f", "y");
    expect_piped(p, 2, "");
}

static int prepare(void **state) {
    (void)state;
    struct engine *engine;
    struct token_list ids = {0};
    struct reason why;
    signal(SIGALRM, on_alarm);
    signal(SIGPIPE, SIG_IGN);
    alarm(ALL_S);
    assert_non_null(mkdtemp(folder));
    model_path = tiny_model_write(NULL);
    const struct engine_options options = {.model_path = model_path, .vocab_only = true};
    if (engine_open(&options, &engine, &why)) fail_test("%s", why.text);
    if (tokenizer_encode(engine_tokenizer(engine), SPAN("x"), PARSE_NOTHING, &ids, &why)) fail_test("%s", why.text);
    assert_int_equal(ids.len, 1);
    snprintf(bias, sizeof bias, "%d+1000", ids.ids[0]);
    const int32_t id = tokenizer_find(engine_tokenizer(engine), SPAN("<tool_response>"));
    assert_true(id >= 0);
    snprintf(long_bias, sizeof long_bias, "%d+1000", id);
    token_list_free(&ids);
    engine_close(&engine);
    return 0;
}

static int clean_up(void **state) {
    (void)state;
    char line[64];
    drop_chat();
    tiny_model_remove(model_path);
    snprintf(line, sizeof line, "rm -rf %s", folder);
    return system(line);
}

static int end_chat(void **state) { /* also after a failure */
    (void)state;
    drop_chat();
    return 0;
}

#define CHAT_TEST(function) cmocka_unit_test_teardown(function, end_chat)

int main(void) {
    const struct CMUnitTest tests[] = {
        CHAT_TEST(holds_two_turns),
        CHAT_TEST(takes_a_paste_as_one_message),
        CHAT_TEST(ctrl_c_keeps_the_answer_so_far),
        CHAT_TEST(ctrl_c_reaches_a_stuck_terminal),
        CHAT_TEST(ctrl_c_while_reading_takes_the_turn_back),
        CHAT_TEST(answers_again_and_takes_back),
        CHAT_TEST(saves_loads_and_survives_bad_files),
        CHAT_TEST(refuses_unknown_commands),
        CHAT_TEST(takes_messages_of_several_lines),
        CHAT_TEST(completes_and_remembers),
        CHAT_TEST(reads_files_and_opens_an_editor),
        CHAT_TEST(keeps_what_is_typed_during_an_answer),
        CHAT_TEST(ctrl_c_at_the_prompt_hints_and_twice_leaves),
        CHAT_TEST(ctrl_c_twice_in_an_answer_leaves),
        CHAT_TEST(ends_on_commands_and_signals),
        CHAT_TEST(marks_and_dims_thinking),
        CHAT_TEST(obeys_no_color),
        CHAT_TEST(says_when_the_context_is_full),
        CHAT_TEST(leaves_out_whole_messages),
        CHAT_TEST(goes_on_beyond_the_context),
        CHAT_TEST(never_cuts_a_message),
        CHAT_TEST(reuses_what_an_edit_leaves),
        CHAT_TEST(answers_without_a_terminal),
    };
    return cmocka_run_group_tests(tests, prepare, clean_up);
}

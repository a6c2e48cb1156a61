/* What the commands share: the engine from the options, the log and progress on stderr, the answer on stdout, the interrupt
 * flag, and the sampling settings with their sources. Everything runs on the main thread. */
#ifndef COLDSTREAM_CLI_H
#define COLDSTREAM_CLI_H

#include "cli/options.h"
#include "cli/watch.h"
#include "engine/engine.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130, EXIT_TERMINATED = 143 };

struct cli {
    struct options *options;
    struct log_sink log; /* "warning: ..." lines on stderr; wipes a progress line first */
    bool stdout_is_terminal, stderr_is_terminal;
    bool color_stdout, color_stderr; /* --color, NO_COLOR and the terminal, resolved */
    size_t progress_width;           /* columns of the progress line now on stderr */
    uint64_t kv_tokens;              /* context the engine's plan sets memory aside for; 0: as -c says */
    bool fill_first;                 /* load all that RAM will hold before starting */
    struct learner *learner;         /* knows a profile for the engine that is opened next; NULL: none */
    uint64_t opened_ns;              /* when the engine began to open */
    struct watch *watch;             /* sees what the engine's router chooses; NULL: nobody does */
    /* As engine_options.on_input, for the engine that is opened next; it computes on the CPU then. May be NULL. */
    void (*on_input)(void *ctx, enum engine_input which, uint32_t layer, int32_t expert, const struct engine_rows *rows);
    void *on_input_ctx;
};

/* One a command; the result is the exit status. Usage errors found later than parsing go through cli_usage(). */
int cmd_chat(struct cli *c);
int cmd_run(struct cli *c);
int cmd_bench(struct cli *c);
int cmd_perplexity(struct cli *c);
int cmd_profile(struct cli *c);
int cmd_tokenize(struct cli *c);
int cmd_detokenize(struct cli *c);
int cmd_template(struct cli *c);
int cmd_inspect(struct cli *c);
int cmd_plan(struct cli *c);
int cmd_probe(struct cli *c);
int cmd_imatrix(struct cli *c);
int cmd_quantize(struct cli *c);

/* ---- reports ---------------------------------------------------------------------------------------------------- */

/* Print "coldstream: <reason>" and give the exit status of `code`: 130 for ERR_CANCELLED (said only when verbose), else 1. */
int cli_fail(struct cli *c, enum err code, const struct reason *why);
int cli_usage(struct cli *c, const char *format, ...) PRINTF_LIKE(2, 3); /* prints, gives 2 */

/* A line that is rewritten in place, on a terminal only; the empty text removes it. */
void cli_progress(struct cli *c, const char *format, ...) PRINTF_LIKE(2, 3);
void cli_progress_end(struct cli *c);

/* Answer bytes to stdout, flushed at once. False: nobody reads (closed pipe, full disk); end quietly with EXIT_FAILED. */
bool cli_write(struct span s) MUST_USE;
/* The same to stderr, where nothing can be done about a failure. */
void cli_write_error(struct span s);
static inline bool cli_write_text(const struct text *t) { return !t->failed && cli_write((struct span){t->ptr, t->len}); }

/* A JSON string of any bytes: what is no UTF-8 becomes U+FFFD. */
void cli_add_json_string(struct span s, struct text *out);

/* ---- interrupts --------------------------------------------------------------------------------------------------- */

/* SIGINT and SIGTERM set a flag that everything long polls. A second one while the flag is set ends the process at once
 * (130 or 143, colours reset). chat clears the flag after it stopped an answer. SIGPIPE is ignored. */
void cli_catch_signals(void);
bool cli_cancelled(void);
bool cli_should_stop(void *unused); /* the same, as struct eval wants it; any thread */
void cli_clear_cancel(void);
int cli_cancelled_status(void); /* 130, or 143 after SIGTERM */
/* The modes that a second signal puts back on stdin's terminal before it ends the process; NULL: leave them. */
struct termios;
void cli_guard_terminal(const struct termios *modes);

/* ---- input --------------------------------------------------------------------------------------------------------- */

/* Whole file, "-" for stdin. `out` is appended to. */
enum err cli_read_file(const char *path, struct text *out, struct reason *why) MUST_USE;
/* What a command reads from end to end: --prompt-ids, or the text of -f with a BOS in front where the model wants one. */
enum err cli_read_tokens(struct cli *c, const struct engine *e, struct token_list *out, struct reason *why) MUST_USE;
/* "3 17, 80" or "[3, 17, 80]": decimal ids between blanks, commas and brackets. `what` names the source in errors. */
enum err cli_parse_ids(struct span text, const char *what, struct token_list *out, struct reason *why) MUST_USE;
/* The backslash escapes of -e. */
enum err cli_unescape(const char *text, struct text *out, struct reason *why) MUST_USE;

/* ---- engine -------------------------------------------------------------------------------------------------------- */

/* Options of the engine as the flags say. The struct borrows from `c`. */
struct engine_options cli_engine_options(struct cli *c, bool vocab_only);
/* --rope-* and --yarn-*. */
struct rope_override cli_rope(const struct options *o);
/* Warn when a context is longer than what the model was trained for, or its positions are scaled for. */
void cli_warn_context(const struct cli *c, const struct model *m, uint64_t n_ctx);
/* Open it, with a progress line, and log what was resolved. */
enum err cli_open_engine(struct cli *c, bool vocab_only, struct engine **out, struct reason *why) MUST_USE;
/* Reading of experts since the engine was opened, in a few lines: chat's /stats. Nothing when the model has none to read. */
void cli_describe_io(const struct cli *c, const struct engine *e, struct text *out);
/* The same to the log: -v. */
void cli_log_io(const struct cli *c, const struct engine *e);
/* --trace, if it was given: once everything has run. */
enum err cli_write_timeline(const struct cli *c, const struct engine *e, struct reason *why) MUST_USE;
/* The engine's tokenizer, or a reason that names the file. */
enum err cli_tokenizer(struct cli *c, const struct engine *e, const struct tokenizer **out, struct reason *why) MUST_USE;
/* --family, else what the file's template says; a weak guess is a warning where the template is used (chat, template). */
enum chat_family cli_family(const struct cli *c, const struct engine *e);

/* ---- sampling ------------------------------------------------------------------------------------------------------ */

/* X(member of struct sampling and of struct options, flag's name) */
#define SAMPLING_SETTINGS(X) \
    X(temperature, temp, "temp") \
    X(top_k, top_k, "top-k") \
    X(top_p, top_p, "top-p") \
    X(min_p, min_p, "min-p") \
    X(repeat_penalty, repeat_penalty, "repeat-penalty") \
    X(repeat_last_n, repeat_last_n, "repeat-last-n") \
    X(presence_penalty, presence_penalty, "presence-penalty") \
    X(frequency_penalty, frequency_penalty, "frequency-penalty") \
    X(seed, seed, "seed")

enum sampling_setting {
#define X(member, option, name) SAMPLING_##member,
    SAMPLING_SETTINGS(X)
#undef X
    SAMPLING_SETTING_COUNT
};

/* Settings in force and where each comes from: a flag, else the model family's card, else the runtime's default.
 * A random seed is drawn here, so that it can be shown and repeated. */
struct sampling_choice {
    struct sampling values;                     /* bias is borrowed from the options */
    const char *source[SAMPLING_SETTING_COUNT]; /* "flag", "environment", "/set", "qwen3-coder card", "random" */
};
void cli_sampling(const struct cli *c, enum chat_family family, bool thinking, struct sampling_choice *out);
/* "temp 0.7 (qwen3-coder card)", one a line: /show and -v. */
void cli_sampling_describe(const struct sampling_choice *choice, struct text *out);

#endif

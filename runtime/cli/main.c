/* The program: verb, options, log, signals; then the command. The only place that turns results into an exit status. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

static int (*const commands[VERB_COUNT])(struct cli *) = {
    [VERB_CHAT] = cmd_chat,         [VERB_RUN] = cmd_run,
    [VERB_BENCH] = cmd_bench,       [VERB_PERPLEXITY] = cmd_perplexity,
    [VERB_TOKENIZE] = cmd_tokenize, [VERB_DETOKENIZE] = cmd_detokenize,
    [VERB_TEMPLATE] = cmd_template, [VERB_INSPECT] = cmd_inspect,
    [VERB_PLAN] = cmd_plan,
    [VERB_PROBE] = cmd_probe,       [VERB_PROFILE] = cmd_profile,
    [VERB_IMATRIX] = cmd_imatrix,
    [VERB_QUANTIZE] = cmd_quantize,
};

static void write_log(void *ctx, enum log_level level, const char *line) {
    static const char *const names[] = {"error", "warning", "info", "debug"};
    static const char *const colors[] = {"\033[31m", "\033[33m", "\033[2m", "\033[2m"};
    struct cli *c = ctx;
    cli_progress_end(c);
    if (c->color_stderr)
        fprintf(stderr, "%s%s:\033[0m %s\n", colors[level], names[level], line);
    else
        fprintf(stderr, "%s: %s\n", names[level], line);
}

static void write_nothing(void *ctx, enum log_level level, const char *line) { (void)ctx, (void)level, (void)line; }

static void setup(struct cli *c) {
    const struct options *o = c->options;
    c->stdout_is_terminal = isatty(STDOUT_FILENO);
    c->stderr_is_terminal = isatty(STDERR_FILENO);
    const bool may =
        o->color == SWITCH_ON || (o->color == SWITCH_AUTO && !o->no_color && !(o->term && strcmp(o->term, "dumb") == 0));
    c->color_stdout = may && (c->stdout_is_terminal || o->color == SWITCH_ON);
    c->color_stderr = may && (c->stderr_is_terminal || o->color == SWITCH_ON);
    const int64_t level = o->log_level >= 0 ? o->log_level : o->log_disable ? 1 : o->verbose ? 3 : 2;
    c->log = (struct log_sink){level > 0 ? write_log : write_nothing, c, level > 0 ? (enum log_level)(level - 1) : LOG_ERROR};
}

static void print_notes(struct cli *c) {
    char *rest = c->options->notes.ptr, *line;
    while (rest && (line = strsep(&rest, "\n")))
        if (*line) log_line(&c->log, LOG_WARN, "%s", line);
    text_clear(&c->options->notes);
}

static int print_page(struct text *page) {
    const bool ok = cli_write_text(page);
    text_free(page);
    return ok ? EXIT_DONE : EXIT_FAILED;
}

static int print_version(void) {
    struct text page = {0};
    text_addf(&page, "coldstream " COLDSTREAM_VERSION " (" COLDSTREAM_COMMIT ", gcc " __VERSION__ ", CPU only)\n");
    return print_page(&page);
}

static int run_verb(enum verb verb, int argc, char **argv) {
    struct options options;
    struct cli c = {.options = &options};
    struct reason why = {{0}};
    struct text page = {0};
    int status;
    const enum err code = options_parse(verb, argc, argv, &options, &why);
    setup(&c);
    if (code) {
        status = cli_usage(&c, "%s", why.text);
    } else if (options.help) {
        options_help(verb, &page);
        status = print_page(&page);
    } else if (options.version) {
        status = print_version();
    } else if (!options.model && verb != VERB_TEMPLATE && verb != VERB_PROBE && verb != VERB_IMATRIX && verb != VERB_QUANTIZE) {
        status = cli_usage(&c, "%s needs a model: -m FILE", verb_info(verb)->name);
    } else {
        print_notes(&c);
        if (options.load_mode == LOAD_MAPPED)
            log_line(&c.log, LOG_WARN, "--load-mode: weights are read into own memory, never mapped");
        status = commands[verb](&c);
    }
    options_close(&options);
    return status;
}

int main(int argc, char **argv) {
    struct cli c = {0};
    struct reason why = {{0}};
    struct text page = {0};
    enum verb verb;
    cli_catch_signals();
    const char *word = argc > 1 ? argv[1] : "--help";
    if (strcmp(word, "--version") == 0) return print_version();
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "--usage") == 0 || strcmp(word, "help") == 0) {
        options_usage(&page);
        if (argc > 1) return print_page(&page);
        fputs(page.ptr ? page.ptr : "", stderr); /* no command at all is a usage error */
        text_free(&page);
        return EXIT_USAGE;
    }
    if (verb_from_name(word, &verb, &why)) return cli_usage(&c, "%s", why.text);
    const int status = run_verb(verb, argc - 2, argv + 2);
    return fflush(stdout) == 0 && !ferror(stdout) ? status : status ? status : EXIT_FAILED;
}

/* Shared parts of the commands: stderr, stdout, signals, input files, engine and sampling from the options.
 *
 * The interrupt flag is the one piece of process-wide state, because a signal handler has no other way to hand it over. */
#include "cli/cli.h"
#include "cli/io_report.h"
#include "cli/learn.h"
#include "cli/repl_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <termios.h>
#include <unistd.h>

#include "core/json.h"
#include "text/unicode.h"

/* ---- reports ---------------------------------------------------------------------------------------------------- */

int cli_fail(struct cli *c, enum err code, const struct reason *why) {
    cli_progress_end(c);
    if (ferror(stdout)) return EXIT_FAILED; /* the reader left; there is nobody to tell */
    if (code == ERR_CANCELLED) {
        log_line(&c->log, LOG_INFO, "%s", why->text);
        return cli_cancelled_status();
    }
    fprintf(stderr, "coldstream: %s\n", why->text);
    return EXIT_FAILED;
}

int cli_usage(struct cli *c, const char *format, ...) {
    cli_progress_end(c);
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    fprintf(stderr, "coldstream: %s\n", line);
    return EXIT_USAGE;
}

void cli_progress(struct cli *c, const char *format, ...) {
    if (!c->stderr_is_terminal) return;
    char line[256];
    va_list args;
    va_start(args, format);
    const int written = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    const size_t width = written > 0 ? strlen(line) : 0, before = c->progress_width;
    fprintf(stderr, "\r%s%*s", line, before > width ? (int)(before - width) : 0, "");
    if (before > width) fprintf(stderr, "\r%s", line);
    c->progress_width = width;
    fflush(stderr);
}

void cli_progress_end(struct cli *c) {
    if (c->progress_width) cli_progress(c, "%s", "");
}

/* Past stdio, which drops bytes when a signal interrupts its write. */
bool cli_write(struct span s) {
    if (fflush(stdout) != 0) return false;
    while (s.len) {
        const ssize_t n = write(STDOUT_FILENO, s.ptr, s.len);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return fwrite(s.ptr, 1, s.len, stdout) == s.len && fflush(stdout) == 0; /* fails too: ferror() tells later */
        s = (struct span){s.ptr + n, s.len - (size_t)n};
    }
    return true;
}

void cli_write_error(struct span s) {
    fflush(stderr);
    while (s.len) {
        const ssize_t n = write(STDERR_FILENO, s.ptr, s.len);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;
        s = (struct span){s.ptr + n, s.len - (size_t)n};
    }
}

void cli_add_json_string(struct span s, struct text *out) {
    struct text valid = {0};
    unicode_normalize(s, false, &valid);
    out->failed |= valid.failed;
    json_write_string((struct span){valid.ptr, valid.len}, out);
    text_free(&valid);
}

/* ---- interrupts --------------------------------------------------------------------------------------------------- */

static _Atomic int interrupted_by;
static volatile sig_atomic_t terminal_is_guarded;
static struct termios guarded_terminal; /* written only while terminal_is_guarded is 0 */

static void on_signal(int number) {
    if (interrupted_by) {
        static const char reset[] = "\033[0m\n", end_of_paste_mode[] = "\033[?2004l";
        if (terminal_is_guarded) tcsetattr(STDIN_FILENO, TCSANOW, &guarded_terminal);
        if (isatty(STDOUT_FILENO)) {
            if (terminal_is_guarded) (void)!write(STDOUT_FILENO, end_of_paste_mode, sizeof end_of_paste_mode - 1);
            (void)!write(STDOUT_FILENO, reset, sizeof reset - 1);
        }
        _exit(128 + number);
    }
    interrupted_by = number;
}

void cli_guard_terminal(const struct termios *modes) {
    terminal_is_guarded = 0;
    if (!modes) return;
    guarded_terminal = *modes;
    terminal_is_guarded = 1;
}

void cli_catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART: a blocked read returns */
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
}

bool cli_cancelled(void) { return interrupted_by != 0; }
bool cli_should_stop(void *unused) { return (void)unused, cli_cancelled(); }
void cli_clear_cancel(void) { interrupted_by = 0; }
int cli_cancelled_status(void) { return interrupted_by == SIGTERM ? EXIT_TERMINATED : EXIT_INTERRUPTED; }

/* ---- input --------------------------------------------------------------------------------------------------------- */

static enum err read_all(int fd, const char *name, struct text *out, struct reason *why) {
    static const size_t piece = 1 << 16;
    char *buffer = malloc(piece);
    if (!buffer) return fail(why, ERR_NO_MEMORY, "%s: no memory to read it", name);
    enum err code = ERR_NONE;
    while (!code) {
        const ssize_t got = read(fd, buffer, piece);
        if (got == 0) break;
        if (got < 0 && errno == EINTR && !cli_cancelled()) continue;
        if (got < 0)
            code =
                cli_cancelled() ? fail(why, ERR_CANCELLED, "interrupted") : fail(why, ERR_IO, "%s: %s", name, strerror(errno));
        else
            text_add(out, buffer, (size_t)got);
        if (out->failed) code = fail(why, ERR_NO_MEMORY, "%s: no memory to hold it", name);
    }
    free(buffer);
    return code;
}

enum err cli_read_file(const char *path, struct text *out, struct reason *why) {
    if (strcmp(path, "-") == 0) return read_all(STDIN_FILENO, "stdin", out, why);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail(why, ERR_IO, "%s: %s", path, strerror(errno));
    const enum err code = read_all(fd, path, out, why);
    close(fd);
    return code;
}

enum err cli_parse_ids(struct span text, const char *what, struct token_list *out, struct reason *why) {
    static const char separators[] = " \t\r\n,[]";
    for (size_t at = 0; at < text.len;) {
        if (text.ptr[at] && strchr(separators, text.ptr[at])) {
            at++;
            continue;
        }
        const size_t start = at;
        int64_t id = 0;
        while (at < text.len && text.ptr[at] >= '0' && text.ptr[at] <= '9' && id <= INT32_MAX)
            id = 10 * id + (text.ptr[at++] - '0');
        if (at == start || id > INT32_MAX || (at < text.len && !(text.ptr[at] && strchr(separators, text.ptr[at])))) {
            size_t end = start;
            while (end < text.len && end < start + 24 && !strchr(separators, text.ptr[end])) end++;
            return fail(why, ERR_FORMAT, "%s: '%.*s' at byte %zu is no token id", what, (int)(end - start), text.ptr + start,
                        start);
        }
        TRY(token_list_add(out, (int32_t)id, why));
    }
    return ERR_NONE;
}

enum err cli_read_tokens(struct cli *c, const struct engine *e, struct token_list *out, struct reason *why) {
    const struct options *o = c->options;
    if (o->prompt_ids) return cli_parse_ids(span_of(o->prompt_ids), "--prompt-ids", out, why);
    const struct tokenizer *t;
    TRY(cli_tokenizer(c, e, &t, why));
    struct text text = {0};
    enum err code = cli_read_file(o->file, &text, why);
    if (!code && tokenizer_bos(t) >= 0) code = token_list_add(out, tokenizer_bos(t), why);
    if (!code) code = tokenizer_encode(t, (struct span){text.ptr, text.len}, o->parse_special ? PARSE_SPECIAL : PARSE_TEXT, out, why);
    text_free(&text);
    return code;
}

static int hex_digit(char c) {
    const char lower = (char)(c | 0x20);
    return c >= '0' && c <= '9' ? c - '0' : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

enum err cli_unescape(const char *text, struct text *out, struct reason *why) {
    static const char letters[] = "ntr\\'\"", values[] = "\n\t\r\\'\"";
    for (const char *c = text; *c; c++) {
        const char *letter = *c == '\\' && c[1] ? strchr(letters, c[1]) : NULL;
        if (letter) {
            text_add(out, &values[letter - letters], 1);
            c++;
        } else if (*c == '\\' && c[1] == 'x' && hex_digit(c[2]) >= 0 && hex_digit(c[3]) >= 0) {
            const char byte = (char)(16 * hex_digit(c[2]) + hex_digit(c[3]));
            text_add(out, &byte, 1);
            c += 3;
        } else {
            text_add(out, c, 1); /* an unknown escape stays as it is */
        }
    }
    return out->failed ? fail(why, ERR_NO_MEMORY, "no memory for the prompt") : ERR_NONE;
}

/* ---- engine -------------------------------------------------------------------------------------------------------- */

struct load_progress {
    struct cli *cli;
    uint64_t begin_ns;
};

static bool on_load(void *ctx, uint64_t done, uint64_t total) {
    const struct load_progress *p = ctx;
    enum { BAR = 30 };
    const int filled = total ? (int)((double)done / (double)total * BAR) : BAR;
    const double seconds = 1e-9 * (double)(clock_ns() - p->begin_ns), gib = 1.0 / (1 << 30);
    cli_progress(p->cli, "loading [%.*s%*s] %.1f of %.1f GiB, %.2f GiB/s", filled, "##############################",
                 BAR - filled, "", (double)done * gib, (double)total * gib, seconds > 0 ? (double)done * gib / seconds : 0);
    return cli_cancelled();
}

/* As engine_options.device has it; llama.cpp says "none" and "CUDA0". */
static const char *device_of(const struct options *o) {
    if (o->vram_budget == 0 || o->gpu_layers == 0) return "cpu";
    if (!o->device || strcasecmp(o->device, "auto") == 0) return NULL;
    if (strcasecmp(o->device, "none") == 0) return "cpu";
    return strcasecmp(o->device, "CUDA0") == 0 ? "cuda:0" : o->device;
}

struct rope_override cli_rope(const struct options *o) {
    return (struct rope_override){
        .has_scaling = options_given(o, &o->rope_scaling),
        .scaling = (enum rope_scaling)o->rope_scaling,
        .factor = o->rope_scale > 0 ? (float)o->rope_scale : o->rope_freq_scale > 0 ? (float)(1 / o->rope_freq_scale) : 0,
        .base = (float)o->rope_freq_base,
        .original_context = (uint64_t)o->yarn_orig_ctx,
        .has_ext_factor = options_given(o, &o->yarn_ext_factor) && o->yarn_ext_factor >= 0,
        .ext_factor = (float)o->yarn_ext_factor,
        .attn_factor = o->yarn_attn_factor > 0 ? (float)o->yarn_attn_factor : 0,
        .beta_slow = o->yarn_beta_slow > 0 ? (float)o->yarn_beta_slow : 0,
        .beta_fast = o->yarn_beta_fast > 0 ? (float)o->yarn_beta_fast : 0,
    };
}

void cli_warn_context(const struct cli *c, const struct model *m, uint64_t n_ctx) {
    const struct model_shape *s = &m->shape;
    if (n_ctx <= s->context_length) return;
    const uint64_t trained = s->rope_factor > 1 ? s->rope_original_context : s->context_length;
    const uint64_t scale = trained ? (n_ctx + trained - 1) / trained : 1;
    if (s->rope_factor > 1)
        log_line(&c->log, LOG_WARN, "the context of %" PRIu64 " tokens is longer than the %" PRIu64 " that scaling by %g reaches: answers beyond them "
                 "get worse; --rope-scale %" PRIu64 " reaches them", n_ctx, s->context_length, (double)s->rope_factor, scale);
    else
        log_line(&c->log, LOG_WARN, "the context of %" PRIu64 " tokens is longer than the %" PRIu64 " that the model was trained for: answers beyond "
                 "them get worse; --rope-scaling yarn --rope-scale %" PRIu64 " stretches its positions", n_ctx, s->context_length, scale);
}

/* What the flags say and what came of it. */
static void log_positions(const struct cli *c, const struct model *m) {
    static const char *const names[] = {[ROPE_NONE] = "not scaled", [ROPE_LINEAR] = "linear", [ROPE_YARN] = "yarn"};
    const struct model_shape *s = &m->shape;
    const struct options *o = c->options;
    if (options_given(o, &o->rope_scaling) && o->rope_scaling != ROPE_NONE && s->rope_factor == 1)
        log_line(&c->log, LOG_WARN, "--rope-scaling %s changes nothing without a scale, which the file does not give: add --rope-scale",
                 names[o->rope_scaling]);
    if (s->rope_scaling != ROPE_NONE)
        log_line(&c->log, LOG_INFO, "positions: %s by %g of %" PRIu64 " tokens, for %" PRIu64, names[s->rope_scaling], (double)s->rope_factor,
                 s->rope_original_context, s->context_length);
}

#define TIMELINE_HEAD "{\"displayTimeUnit\":" /* how engine_write_timeline() begins */
enum { MOST_SPANS = 1 << 18 /* of a timeline: 10 MB, some hundred tokens */ };

struct engine_options cli_engine_options(struct cli *c, bool vocab_only) {
    static const char *const isas[] = {NULL, "ref", "avx2", "avx512"};
    const struct options *o = c->options;
    const int64_t most = o->ubatch < o->batch ? o->ubatch : o->batch;
    const int64_t ubatch = o->defer_experts && o->verb == VERB_PERPLEXITY ? 1 : most; /* what is deferred is deferred while generating */
    return (struct engine_options){
        .model_path = o->model,
        .threads = o->threads > 0 ? (unsigned)o->threads : 0,
        .threads_batch = o->threads_batch > 0 ? (unsigned)o->threads_batch : 0,
        .isa = isas[o->isa],
        .ubatch = (uint32_t)ubatch,
        .vocab_only = vocab_only,
        .no_direct_io = !o->direct_io || o->load_mode == LOAD_BUFFERED,
        .no_nfc = !o->nfc,
        .rope = cli_rope(o),
        .ram_budget = o->ram_budget < 0 ? 0 : o->ram_budget ? (uint64_t)o->ram_budget : 1, /* 0 bytes: to be refused */
        .device = c->on_input ? "cpu" : device_of(o),
        .vram_budget = o->vram_budget < 0 ? 0 : (uint64_t)o->vram_budget,
        .vram_reserve = o->vram_reserve < 0 ? 0 : (uint64_t)o->vram_reserve,
        .gpu_layers = o->gpu_layers > 0 ? (uint32_t)o->gpu_layers : 0, /* none at all: device_of() */
        .cpu_moe_layers = o->cpu_moe ? PLAN_ALL_LAYERS : (uint32_t)o->n_cpu_moe,
        .kv_on_host = !o->kv_offload,
        .defer_experts = (uint32_t)o->defer_experts,
        .max_slots = (uint32_t)o->expert_slots,
        .stream = (enum stream_kind)o->io,
        .no_look_ahead = !o->look_ahead,
        .kv_tokens = c->kv_tokens ? c->kv_tokens : (uint64_t)o->ctx_size,
        .fill_first = c->fill_first,
        .find_profile = c->learner ? learn_find_profile : NULL,
        .find_profile_ctx = c->learner,
        .on_experts = c->watch ? watch_experts : NULL,
        .on_experts_ctx = c->watch,
        .on_input = c->on_input,
        .on_input_ctx = c->on_input_ctx,
        .timeline_spans = o->trace ? MOST_SPANS : 0,
        .log = c->log,
    };
}

/* -ot into a list to be freed. */
static enum err read_rules(const struct options *o, struct plan_rule **out, uint32_t *n, struct reason *why) {
    *out = NULL;
    *n = 0;
    if (o->override_tensor.len == 0) return ERR_NONE;
    *out = calloc_checked(PLAN_MAX_RULES, sizeof **out);
    if (!*out) return fail(why, ERR_NO_MEMORY, "no memory for -ot");
    for (size_t i = 0; i < o->override_tensor.len; i++)
        TRY(plan_parse_rules(o->override_tensor.items[i], *out, n, PLAN_MAX_RULES, why));
    return ERR_NONE;
}

enum err cli_open_engine(struct cli *c, bool vocab_only, struct engine **out, struct reason *why) {
    if (c->options->trace) TRY(whole_file_check_ours(c->options->trace, SPAN(TIMELINE_HEAD), "a timeline", why));
    c->opened_ns = clock_ns();
    struct load_progress progress = {c, c->opened_ns};
    struct engine_options options = cli_engine_options(c, vocab_only);
    options.on_load = on_load;
    options.on_load_ctx = &progress;
    struct plan_rule *rules = NULL;
    enum err code = vocab_only ? ERR_NONE : read_rules(c->options, &rules, &options.n_rules, why);
    options.rules = rules;
    if (!code) code = engine_open(&options, out, why);
    free(rules);
    cli_progress_end(c);
    if (code || vocab_only) return code;

    log_positions(c, engine_model(*out));
    struct engine_info info;
    engine_get_info(*out, &info);
    log_line(&c->log, LOG_INFO,
             "weights %.2f GiB in %.1f s (%s), scratch %.0f MiB, KV cache %.0f KiB a token, %u threads, kernels %s",
             (double)info.weight_bytes / (1 << 30), 1e-9 * (double)info.load_ns, info.direct_io ? "direct" : "page cache",
             (double)info.scratch_bytes / (1 << 20), (double)info.kv_bytes_per_token / 1024, info.threads, info.isa);
    if (c->options->load_mode == LOAD_DIRECT && !info.direct_io)
        log_line(&c->log, LOG_WARN,
                 "direct reads are not possible for this file; the weights were read through the page cache");
    return ERR_NONE;
}

void cli_describe_io(const struct cli *c, const struct engine *e, struct text *out) {
    struct engine_io io;
    engine_get_io(e, &io);
    struct engine_info info;
    engine_get_info(e, &info);
    io_report(&io, clock_ns() - c->opened_ns, out);
    gpu_report(&info, &io, out);
}

enum err cli_write_timeline(const struct cli *c, const struct engine *e, struct reason *why) {
    if (!c->options->trace) return ERR_NONE;
    struct text json = {0};
    engine_write_timeline(e, &json);
    const enum err err = json.failed ? fail(why, ERR_NO_MEMORY, "%s: no memory to write it", c->options->trace)
                                     : whole_file_replace(c->options->trace, (struct span){json.ptr, json.len}, why);
    text_free(&json);
    return err;
}

void cli_log_io(const struct cli *c, const struct engine *e) {
    struct text lines = {0};
    cli_describe_io(c, e, &lines);
    char *rest = lines.failed ? NULL : lines.ptr, *line;
    while (rest && (line = strsep(&rest, "\n")))
        if (*line) log_line(&c->log, LOG_INFO, "%s", line);
    text_free(&lines);
}

enum err cli_tokenizer(struct cli *c, const struct engine *e, const struct tokenizer **out, struct reason *why) {
    *out = engine_tokenizer(e);
    return *out ? ERR_NONE : fail(why, ERR_UNSUPPORTED, "%s: the file holds no tokenizer", c->options->model);
}

enum chat_family cli_family(const struct cli *c, const struct engine *e) {
    if (c->options->family != FAMILY_FROM_FILE) return (enum chat_family)c->options->family;
    const char *warning = NULL;
    const enum chat_family family = chat_family_detect(engine_model(e)->chat_template, &warning);
    if (warning && (c->options->verb == VERB_CHAT || c->options->verb == VERB_TEMPLATE))
        log_line(&c->log, LOG_WARN, "%s", warning);
    return family;
}

/* ---- sampling ------------------------------------------------------------------------------------------------------ */

static const char *family_source(enum chat_family family) {
    static const char *const cards[CHAT_FAMILY_COUNT] = {[CHAT_QWEN3] = "qwen3 card",
                                                         [CHAT_QWEN3_2507] = "qwen3-2507 card",
                                                         [CHAT_QWEN3_THINKING] = "qwen3-thinking card",
                                                         [CHAT_QWEN3_CODER] = "qwen3-coder card",
                                                         [CHAT_QWEN3_CODER_TOOLS] = "qwen3-coder card"};
    return cards[family];
}

void cli_sampling(const struct cli *c, enum chat_family family, bool thinking, struct sampling_choice *out) {
    static const char *const given[] = {[SOURCE_ENVIRONMENT] = "environment", [SOURCE_FLAG] = "flag", [SOURCE_SET] = "/set"};
    const struct options *o = c->options;
    *out = (struct sampling_choice){.values = sampling_defaults(family, thinking)};
#define X(member, option, name) \
    out->source[SAMPLING_##member] = family_source(family); \
    if (options_given(o, &o->option)) { \
        out->values.member = (__typeof__(out->values.member))o->option; \
        out->source[SAMPLING_##member] = given[options_source(o, &o->option)]; \
    }
    SAMPLING_SETTINGS(X)
#undef X
    if (out->values.top_k < 0) out->values.top_k = 0;
    if (o->seed == SEED_RANDOM) {
        uint32_t seed = 0; /* 32 bits: short enough to type again */
        if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed) seed = (uint32_t)clock_ns();
        out->values.seed = seed;
        out->source[SAMPLING_seed] = "random";
    }
    out->values.ignore_eos = o->ignore_eos;
    out->values.bias = o->bias;
    out->values.n_bias = o->n_bias;
}

void cli_sampling_describe(const struct sampling_choice *choice, struct text *out) {
#define X(member, option, name) \
    if (SAMPLING_##member == SAMPLING_seed) \
        text_addf(out, name " %llu", (unsigned long long)choice->values.seed); \
    else \
        text_addf(out, name " %g", (double)choice->values.member); \
    text_addf(out, " (%s)\n", choice->source[SAMPLING_##member]);
    SAMPLING_SETTINGS(X)
#undef X
    if (choice->values.ignore_eos) text_addf(out, "ignore-eos (flag)\n");
    for (size_t i = 0; i < choice->values.n_bias; i++)
        text_addf(out, "logit-bias %d%+g (flag)\n", choice->values.bias[i].id, (double)choice->values.bias[i].bias);
}

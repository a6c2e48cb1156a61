/* What the command line and the environment ask for, resolved into one plain struct.
 *
 * The table of flags (flags.c) is the only list of names, ranges, defaults and help. Parsing is strict: names match exactly,
 * numbers are read whole, the last one wins. This is the only room that reads environment variables, so what other files of the
 * program need of them (home, editor, terminal) is here too.
 *
 * Ownership: strings point into argv or the environment, or into memory that options_close() frees. */
#ifndef COLDSTREAM_OPTIONS_H
#define COLDSTREAM_OPTIONS_H

#include "core/core.h"
#include "text/chat.h"
#include "text/sampler.h"

enum verb {
    VERB_CHAT,
    VERB_RUN,
    VERB_BENCH,
    VERB_PERPLEXITY,
    VERB_PROFILE,
    VERB_TOKENIZE,
    VERB_DETOKENIZE,
    VERB_TEMPLATE,
    VERB_INSPECT,
    VERB_PLAN,
    VERB_PROBE,
    VERB_IMATRIX,
    VERB_QUANTIZE,
    VERB_COUNT
};

struct verb_info {
    const char *name;
    const char *arguments; /* of the usage line */
    const char *summary;
    size_t max_words; /* arguments that are no flags */
};
const struct verb_info *verb_info(enum verb verb);
/* On failure `why` names the nearest verb. */
enum err verb_from_name(const char *name, enum verb *out, struct reason *why) MUST_USE;

enum load_mode { LOAD_AUTO, LOAD_DIRECT, LOAD_BUFFERED, LOAD_MAPPED /* a peer's name: read as LOAD_AUTO, with a warning */ };
enum bench_format { BENCH_MD, BENCH_CSV, BENCH_JSON, BENCH_JSONL, BENCH_NONE };
enum imatrix_format { IMATRIX_GGUF, IMATRIX_DAT };
enum switch_value { SWITCH_OFF, SWITCH_ON, SWITCH_AUTO };
enum { FAMILY_FROM_FILE = -1 }; /* of `family` */
enum { SEED_RANDOM = -1 };      /* of `seed` */

struct number_list {
    int64_t *items;
    size_t len, cap;
};
struct string_list {
    const char **items;
    size_t len, cap;
};

/* Numbers are int64_t, reals double and choices int64_t whatever their range, so that one table row describes any of them. */
struct options {
    enum verb verb;
    bool help, version;

    /* model and loading */
    const char *model;
    int64_t family; /* enum chat_family or FAMILY_FROM_FILE */
    bool nfc;
    int64_t load_mode;              /* enum load_mode */
    bool direct_io;                 /* false: --no-direct-io, as LOAD_BUFFERED */
    int64_t ctx_size;               /* tokens; 0: the model's, at most 32768 */
    int64_t batch, ubatch;          /* tokens */
    int64_t threads, threads_batch; /* 0: one per physical core; as threads */
    int64_t expert_slots;           /* 0: as many as the budget holds */
    int64_t io;                     /* enum stream_kind */
    bool look_ahead;
    int64_t isa;                    /* 0: best, else 1 + index of "ref", "avx2", "avx512" */

    /* positions; what is not given is as the file says */
    int64_t rope_scaling; /* enum rope_scaling of model.h, or -1 */
    double rope_scale, rope_freq_scale, rope_freq_base;
    int64_t yarn_orig_ctx; /* tokens */
    double yarn_ext_factor, yarn_attn_factor, yarn_beta_slow, yarn_beta_fast;

    /* a full context */
    bool context_shift;
    int64_t keep; /* tokens; -1: all of the prompt */

    /* placement */
    const char *device;              /* as given; "auto": a GPU if there is one */
    bool kv_offload;
    int64_t type_k, type_v;
    int64_t vram_budget, ram_budget, vram_reserve; /* bytes, -1 auto */
    int64_t gpu_layers;              /* -1 auto, -2 all */
    bool cpu_moe;
    int64_t n_cpu_moe;
    struct string_list override_tensor;
    int64_t defer_experts;

    /* prompt and answer */
    const char *prompt, *prompt_ids, *file;
    int64_t predict; /* tokens; -1: until the end or the context is full */
    bool ids, json, escape;
    bool no_special;
    struct string_list stop; /* -r */

    /* sampling; which of them were given: options_source() */
    double temp, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
    int64_t top_k, repeat_last_n, seed;
    bool ignore_eos;
    struct logit_bias *bias;
    size_t n_bias, cap_bias;

    /* chat */
    const char *system_prompt, *system_prompt_file, *template_kwargs;
    int64_t reasoning; /* enum switch_value */
    int64_t color;     /* enum switch_value */
    bool simple_io, single_turn, multiline, history, show_timings;

    /* template */
    bool parse_tools;

    /* how experts are used */
    const char *profile; /* file; NULL: none given */
    bool learn;          /* from run to run */
    const char *trace;    /* file for what ran when; NULL: none */
    const char *record_routes; /* file for the routes of this run; NULL: none */

    /* plan */
    const char *machine; /* facts file; NULL: this machine */
    int64_t plan_prompt;           /* tokens */

    /* bench */
    struct number_list n_prompt, n_gen, depth; /* tokens; each combination is a test */
    struct number_list prompt_gen;             /* -pg: pairs flattened */
    int64_t repetitions, delay_s;
    int64_t output, output_err; /* enum bench_format */
    bool warmup, progress;

    /* perplexity */
    int64_t chunks; /* -1 all */
    const char *kl_base;
    bool kl_divergence;

    /* probe, profile, imatrix */
    const char *out_path; /* -o; "-": stdout */
    double seconds;

    /* imatrix */
    int64_t imatrix_format;      /* enum imatrix_format */
    struct string_list in_files;
    int64_t from_chunk, output_frequency, save_frequency; /* chunks; 0: from the first; never */
    bool process_output, show_statistics, parse_special;

    /* quantize */
    const char *imatrix, *embedding_type, *head_type; /* NULL: none given */
    struct string_list tensor_types;                  /* REGEX=TYPE, each may be a list with commas */
    bool allow_requantize, pure, dry_run, leave_head, keep_split, strict;
    int64_t split_max_bytes; /* 0: no limit */

    /* log */
    bool verbose;
    int64_t log_level; /* -1: by `verbose`; else 0 silent, 1 errors, 2 warnings, 3 info, 4 debug */
    bool log_disable;

    struct string_list words; /* arguments that are no flags */

    /* environment */
    bool no_color;                                 /* NO_COLOR is set and not empty */
    /* HOME, XDG_STATE_HOME, XDG_CACHE_HOME, VISUAL or EDITOR, TERM; NULL when unset or empty */
    const char *home, *state_home, *cache_home, *editor, *term;

    /* Lines to print before starting: ignored flags, fallbacks taken. One a line, each ends in a newline. */
    struct text notes;

    uint8_t *sources; /* enum option_source a row of the table */
    struct string_list owned;
};

enum option_source { SOURCE_DEFAULT, SOURCE_ENVIRONMENT, SOURCE_FLAG, SOURCE_SET /* options_set() */ };

/* Defaults, then the environment, then argv (the words after the verb). ERR_ARGUMENT: a usage error, exit 2.
 * options_close() is due in every case. --help and --version end the parsing and win over missing things. */
enum err options_parse(enum verb verb, int argc, char *const *argv, struct options *out, struct reason *why) MUST_USE;
void options_close(struct options *o);

/* Does an answer go on when the context is full? -n -2, until it is full, says no. */
static inline bool options_shift(const struct options *o) { return o->context_shift && o->predict != -2; }

/* Set one option later, by a name of the table ("--temp" or "temp"), with the same checks: chat's /set. Lists grow. */
enum err options_set(struct options *o, const char *name, const char *value, struct reason *why) MUST_USE;

/* Where the value of a member comes from: options_source(o, &o->temp). */
enum option_source options_source(const struct options *o, const void *member);
static inline bool options_given(const struct options *o, const void *member) {
    return options_source(o, member) != SOURCE_DEFAULT;
}

/* The help page of a verb, and the one that lists the verbs. */
void options_help(enum verb verb, struct text *out);
void options_usage(struct text *out);

/* Whole-string readers behind the table, public for tests and for chat's commands. `suffix` multiplies: k, m = 1024, 1024^2. */
bool parse_whole(const char *text, int64_t *out);
bool parse_tokens(const char *text, int64_t *out); /* "32k", "1m", "4096" */
bool parse_bytes(const char *text, int64_t *out);  /* "14G", "14GiB", "512M", "4096" */
bool parse_real(const char *text, double *out);    /* finite, whole string, no hexadecimal */

#endif

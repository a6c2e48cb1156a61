/* THE table of flags: names, values, ranges, defaults, verbs, help. Adding a flag is one row here and one member of struct
 * options.
 *
 * The same name may have a row per verb when its meaning differs (-p of bench is a number). Below the table: flags of
 * llama.cpp and ik_llama.cpp that are accepted without effect, and those that are refused because ignoring them would
 * be a lie. */
#include "cli/flags.h"

#include "engine/engine.h"

#define ARRAY_LEN(a) (sizeof(a) / sizeof *(a))
#define AT(member) offsetof(struct options, member)
#define RANGE(lo, hi) .min = (lo), .max = (hi)
#define UNBOUNDED 9.2e18

enum {
    CHAT = 1u << VERB_CHAT,
    RUN = 1u << VERB_RUN,
    BENCH = 1u << VERB_BENCH,
    PPL = 1u << VERB_PERPLEXITY,
    PROFILE = 1u << VERB_PROFILE,
    TOK = 1u << VERB_TOKENIZE,
    DETOK = 1u << VERB_DETOKENIZE,
    TEMPLATE = 1u << VERB_TEMPLATE,
    INSPECT = 1u << VERB_INSPECT,
    PLAN = 1u << VERB_PLAN,
    PROBE = 1u << VERB_PROBE,
    IMATRIX = 1u << VERB_IMATRIX,
    QUANTIZE = 1u << VERB_QUANTIZE,
    GENERATE = CHAT | RUN,
    COMPUTE = CHAT | RUN | BENCH | PPL | PROFILE | IMATRIX, /* verbs that load weights */
    READ = COMPUTE | TOK | DETOK | TEMPLATE | INSPECT | PLAN | PROBE, /* verbs that take a model by -m */
    ALL = READ | QUANTIZE
};

static const struct choice isas[] = {{"auto", 0}, {"ref", 1}, {"avx2", 2}, {"avx512", 3}, {0}};
static const struct choice load_modes[] = {{"auto", LOAD_AUTO},
                                           {"dio", LOAD_DIRECT},
                                           {"none", LOAD_BUFFERED},
                                           {"mmap", LOAD_MAPPED},
                                           {"mlock", LOAD_MAPPED},
                                           {"mmap+mlock", LOAD_MAPPED},
                                           {0}};
static const struct choice families[] = {{"auto", FAMILY_FROM_FILE},
                                         {"qwen3", CHAT_QWEN3},
                                         {"qwen3-2507", CHAT_QWEN3_2507},
                                         {"qwen3-thinking", CHAT_QWEN3_THINKING},
                                         {"qwen3-coder", CHAT_QWEN3_CODER},
                                         {"qwen3-coder-tools", CHAT_QWEN3_CODER_TOOLS},
                                         {0}};
static const struct choice switches[] = {{"on", SWITCH_ON}, {"off", SWITCH_OFF}, {"auto", SWITCH_AUTO},
                                         {"1", SWITCH_ON},  {"0", SWITCH_OFF},   {0}};
static const struct choice kv_types[] = {{"f16", 1}, {0}};
static const struct choice planned_kv_types[] = {{"f16", 1}, {"q8_0", 2}, {"q4_0", 3}, {0}};
static const struct choice rope_scalings[] = {{"none", ROPE_NONE}, {"linear", ROPE_LINEAR}, {"yarn", ROPE_YARN}, {0}};
static const struct choice io_kinds[] = {{"auto", STREAM_AUTO}, {"uring", STREAM_URING}, {"pread", STREAM_PREAD}, {0}};
static const struct choice auto_or_all[] = {{"auto", -1}, {"all", -2}, {0}};
static const struct choice only_auto[] = {{"auto", -1}, {0}};
static const struct choice formats[] = {{"md", BENCH_MD},       {"csv", BENCH_CSV},   {"json", BENCH_JSON},
                                        {"jsonl", BENCH_JSONL}, {"none", BENCH_NONE}, {0}};
static const struct choice imatrix_formats[] = {{"gguf", IMATRIX_GGUF}, {"dat", IMATRIX_DAT}, {0}};

const char *const group_titles[GROUP_COUNT] = {
    [GROUP_MODEL] = "Model",
    [GROUP_CONTEXT] = "Context and threads",
    [GROUP_POSITIONS] = "Long context",
    [GROUP_PROMPT] = "Prompt",
    [GROUP_SAMPLING] = "Sampling",
    [GROUP_CHAT] = "Conversation",
    [GROUP_OUTPUT] = "Output",
    [GROUP_TASK] = "This command",
    [GROUP_PLACEMENT] = "Placement",
    [GROUP_GENERAL] = "General",
};

const struct flag flags[] = {
    /* model */
    {"-m --model", .kind = FLAG_STRING, .group = GROUP_MODEL, .verbs = READ, .offset = AT(model), .metavar = "MODEL",
     .help = "GGUF file of a qwen3moe model, the first shard of a split, or a directory with config.json and *.safetensors"},
    {"--family", .kind = FLAG_CHOICE, .group = GROUP_MODEL, .verbs = GENERATE | TEMPLATE, .offset = AT(family),
     .choices = families, .initial = "auto", .metavar = "NAME",
     .help = "chat template family; default: recognised from the file's own template"},
    {"--nfc", "--no-nfc", FLAG_BOOL, GROUP_MODEL, COMPUTE | TOK | TEMPLATE, AT(nfc), "on",
     .help = "--no-nfc: tokenize without Unicode normalization, as llama.cpp does"},
    {"-lm --load-mode", .kind = FLAG_CHOICE, .group = GROUP_MODEL, .verbs = COMPUTE, .offset = AT(load_mode),
     .choices = load_modes, .initial = "auto", .metavar = "MODE",
     .help = "auto or dio: weights are read past the page cache; none: through it"},
    {"--direct-io -dio", "--no-direct-io -ndio", FLAG_BOOL, GROUP_MODEL, COMPUTE | PROBE, AT(direct_io), "on",
     .help = "--no-direct-io: as --load-mode none"},
    {"--profile", .kind = FLAG_STRING, .group = GROUP_MODEL, .verbs = GENERATE | BENCH, .offset = AT(profile), .metavar = "FILE",
     .help = "how often each expert is chosen, by coldstream profile; default: as earlier chats and runs taught (bench: nothing)"},
    {"--learn", "--no-learn", FLAG_BOOL, GROUP_MODEL, GENERATE, AT(learn), "on",
     .help = "--no-learn: neither read nor keep which experts chats and runs use"},

    /* context, cpu */
    {"-c --ctx-size", .kind = FLAG_TOKENS, .group = GROUP_CONTEXT, .verbs = GENERATE | BENCH | PLAN, .offset = AT(ctx_size),
     RANGE(0, 1 << 30), .initial = "0", .metavar = "N",
     .help = "tokens of context (32k, 256k, 1m); 0: the model's own, at most 32768; more than it was trained for: see Long context"},
    {"-c --ctx-size", .kind = FLAG_TOKENS, .group = GROUP_CONTEXT, .verbs = PPL | PROFILE | IMATRIX, .offset = AT(ctx_size), RANGE(4, 1 << 30),
     .initial = "512", .metavar = "N", .help = "tokens of a chunk"},
    {"-b --batch-size", .kind = FLAG_TOKENS, .group = GROUP_CONTEXT, .verbs = COMPUTE, .offset = AT(batch), RANGE(1, 1 << 20),
     .initial = "2048", .metavar = "N", .help = "most prompt tokens submitted at once"},
    {"-ub --ubatch-size", .kind = FLAG_TOKENS, .group = GROUP_CONTEXT, .verbs = COMPUTE | PLAN, .offset = AT(ubatch),
     RANGE(1, 1 << 16), .initial = "512", .metavar = "N", .help = "prompt tokens computed together"},
    {"-t --threads", .kind = FLAG_INT, .group = GROUP_CONTEXT, .verbs = COMPUTE | PLAN | PROBE, .offset = AT(threads), RANGE(-1, 1024),
     .initial = "0", .metavar = "N", .help = "threads while generating; 0: one per physical core"},
    {"-tb --threads-batch", .kind = FLAG_INT, .group = GROUP_CONTEXT, .verbs = COMPUTE | PLAN, .offset = AT(threads_batch),
     RANGE(-1, 1024), .initial = "0", .metavar = "N", .help = "threads while reading the prompt; 0: as -t"},
    {"--isa", .kind = FLAG_CHOICE, .group = GROUP_CONTEXT, .verbs = COMPUTE | PLAN | PROBE, .offset = AT(isa), .choices = isas,
     .initial = "auto", .metavar = "NAME", .help = "force the kernels' instruction set"},

    /* memory and streaming */
    {"--ram-budget", .kind = FLAG_BYTES, .group = GROUP_CONTEXT, .verbs = COMPUTE, .offset = AT(ram_budget), RANGE(0, UNBOUNDED),
     .choices = only_auto, .initial = "auto", .metavar = "SIZE",
     .help = "most RAM to use, everything counted (12G); experts beyond it are read when needed"},
    {"--expert-slots", .kind = FLAG_INT, .group = GROUP_CONTEXT, .verbs = COMPUTE, .offset = AT(expert_slots), RANGE(0, 1 << 24),
     .initial = "0", .metavar = "N", .help = "experts to keep in RAM at most; 0: as many as the budget holds"},
    {"--io", .kind = FLAG_CHOICE, .group = GROUP_CONTEXT, .verbs = COMPUTE, .offset = AT(io), .choices = io_kinds, .initial = "auto",
     .metavar = "NAME", .help = "how experts are read: uring, or pread threads"},
    {"--look-ahead", "--no-look-ahead", FLAG_BOOL, GROUP_CONTEXT, COMPUTE, AT(look_ahead), "on",
     .help = "--no-look-ahead: never read the next layer's probable experts in advance"},

    /* positions: 0 or less means what the model file says, as in llama.cpp */
    {"--rope-scaling", .kind = FLAG_CHOICE, .group = GROUP_POSITIONS, .verbs = COMPUTE | PLAN, .offset = AT(rope_scaling), .choices = rope_scalings,
     .metavar = "NAME", .help = "how positions beyond the trained ones are reached; default: as the model file says, linear with a scale"},
    {"--rope-scale", .kind = FLAG_REAL, .group = GROUP_POSITIONS, .verbs = COMPUTE | PLAN, .offset = AT(rope_scale), RANGE(0, 1 << 20),
     .metavar = "X", .help = "reach X times as many tokens"},
    {"--rope-freq-scale", .kind = FLAG_REAL, .group = GROUP_POSITIONS, .verbs = COMPUTE | PLAN, .offset = AT(rope_freq_scale), RANGE(0, 1 << 20),
     .metavar = "X", .help = "the same as --rope-scale 1/X"},
    {"--rope-freq-base", .kind = FLAG_REAL, .group = GROUP_POSITIONS, .verbs = COMPUTE | PLAN, .offset = AT(rope_freq_base), RANGE(0, 1e30),
     .metavar = "X", .help = "base of the rotary frequencies"},
    {"--yarn-orig-ctx", .kind = FLAG_TOKENS, .group = GROUP_POSITIONS, .verbs = COMPUTE | PLAN, .offset = AT(yarn_orig_ctx), RANGE(0, 1 << 30),
     .metavar = "N", .help = "tokens the model was trained for before scaling; default: as the file says, its context else"},
    {"--yarn-ext-factor", .kind = FLAG_REAL, .group = GROUP_POSITIONS, .verbs = COMPUTE | PLAN, .offset = AT(yarn_ext_factor), RANGE(-1, 1),
     .metavar = "X", .help = "share of YaRN's extrapolation; 0: linear; default: 1 with yarn, else 0"},
    {"--yarn-attn-factor", .kind = FLAG_REAL, .group = GROUP_POSITIONS, .verbs = COMPUTE | PLAN, .offset = AT(yarn_attn_factor), RANGE(-1, 1000),
     .metavar = "X", .help = "factor on queries and keys beside YaRN's own 1 + 0.1 ln(scale) (default 1)"},
    {"--yarn-beta-slow", .kind = FLAG_REAL, .group = GROUP_POSITIONS, .verbs = COMPUTE | PLAN, .offset = AT(yarn_beta_slow), RANGE(-1, 1e6),
     .metavar = "X", .help = "pairs that turn less often in the original context are interpolated (default 1)"},
    {"--yarn-beta-fast", .kind = FLAG_REAL, .group = GROUP_POSITIONS, .verbs = COMPUTE | PLAN, .offset = AT(yarn_beta_fast), RANGE(-1, 1e6),
     .metavar = "X", .help = "pairs that turn more often are left alone (default 32)"},

    /* a full context */
    {"--context-shift", "--no-context-shift", FLAG_BOOL, GROUP_POSITIONS, GENERATE, AT(context_shift), "off",
     .help = "a full context goes on without its oldest part, which is said: chat leaves out whole messages first and keeps the system message; "
             "half of the room is freed and what stays is read again, about one prompt token for each token beyond the context. Else it ends the answer"},
    {"--keep", .kind = FLAG_TOKENS, .group = GROUP_POSITIONS, .verbs = RUN, .offset = AT(keep), RANGE(-1, 1 << 30), .initial = "0",
     .metavar = "N", .help = "tokens of the prompt that --context-shift never leaves out; -1: all of them"},

    /* prompt */
    {"-p --prompt", .kind = FLAG_STRING, .group = GROUP_PROMPT, .verbs = GENERATE, .offset = AT(prompt), .metavar = "TEXT",
     .help = "run: the text to continue; chat: the first message"},
    {"-f --file", .kind = FLAG_STRING, .group = GROUP_PROMPT, .verbs = GENERATE | PPL | PROFILE | IMATRIX, .offset = AT(file), .metavar = "FILE",
     .help = "take the text from a file (run, perplexity, profile, imatrix: - is stdin)"},
    {"--prompt-ids", .kind = FLAG_STRING, .group = GROUP_PROMPT, .verbs = RUN | PPL | PROFILE | IMATRIX, .offset = AT(prompt_ids), .metavar = "IDS",
     .help = "the text as token ids, \"3 17 80\"; works without a tokenizer in the file"},
    {"-e --escape", "--no-escape", FLAG_BOOL, GROUP_PROMPT, GENERATE, AT(escape), "off",
     .help = "-e: \\n \\t \\r \\\\ \\' \\\" \\xHH in -p are escapes"},
    {"--no-special", .kind = FLAG_BOOL, .group = GROUP_PROMPT, .verbs = RUN | TOK | DETOK, .offset = AT(no_special),
     .help = "control tokens such as <|im_end|> are plain text (detokenize: are not shown)"},
    {"-n --predict --n-predict", .kind = FLAG_TOKENS, .group = GROUP_PROMPT, .verbs = GENERATE, .offset = AT(predict),
     RANGE(-2, 1 << 30), .initial = "-1", .metavar = "N",
     .help = "most tokens of an answer; -1: until it ends or the context is full (--context-shift: until it ends); -2: the same without --context-shift"},
    {"-r --reverse-prompt", .kind = FLAG_STRINGS, .group = GROUP_PROMPT, .verbs = GENERATE, .offset = AT(stop),
     .metavar = "TEXT", .help = "stop when the answer contains this text; repeatable"},

    /* sampling: no defaults here, the model family has them */
    {"--temp --temperature", .kind = FLAG_REAL, .group = GROUP_SAMPLING, .verbs = GENERATE, .offset = AT(temp), RANGE(-1, 100),
     .metavar = "X", .help = "temperature; 0: always the likeliest token"},
    {"--top-k", .kind = FLAG_INT, .group = GROUP_SAMPLING, .verbs = GENERATE, .offset = AT(top_k), RANGE(-1, INT32_MAX),
     .metavar = "N", .help = "keep the N likeliest tokens; 0: all"},
    {"--top-p", .kind = FLAG_REAL, .group = GROUP_SAMPLING, .verbs = GENERATE, .offset = AT(top_p), RANGE(0, 1), .metavar = "X",
     .help = "keep the likeliest tokens that together reach X; 1: all"},
    {"--min-p", .kind = FLAG_REAL, .group = GROUP_SAMPLING, .verbs = GENERATE, .offset = AT(min_p), RANGE(0, 1), .metavar = "X",
     .help = "drop tokens below X times the likeliest; 0: off"},
    {"--repeat-penalty", .kind = FLAG_REAL, .group = GROUP_SAMPLING, .verbs = GENERATE, .offset = AT(repeat_penalty),
     RANGE(1e-3, 100), .metavar = "X", .help = "divide the logits of recent tokens; 1: off"},
    {"--repeat-last-n", .kind = FLAG_TOKENS, .group = GROUP_SAMPLING, .verbs = GENERATE, .offset = AT(repeat_last_n),
     RANGE(-1, INT32_MAX), .metavar = "N", .help = "how many tokens count as recent; 0: off, -1: all"},
    {"--presence-penalty", .kind = FLAG_REAL, .group = GROUP_SAMPLING, .verbs = GENERATE, .offset = AT(presence_penalty),
     RANGE(-100, 100), .metavar = "X", .help = "subtract from the logits of recent tokens; 0: off"},
    {"--frequency-penalty", .kind = FLAG_REAL, .group = GROUP_SAMPLING, .verbs = GENERATE, .offset = AT(frequency_penalty),
     RANGE(-100, 100), .metavar = "X", .help = "the same, times how often each occurred; 0: off"},
    {"-s --seed", .kind = FLAG_INT, .group = GROUP_SAMPLING, .verbs = GENERATE, .offset = AT(seed), RANGE(-1, UNBOUNDED),
     .initial = "-1", .metavar = "N", .help = "seed of the draws; -1: random"},
    {"-l --logit-bias", .kind = FLAG_BIAS, .group = GROUP_SAMPLING, .verbs = GENERATE, .offset = AT(bias), .metavar = "ID+X",
     .help = "add X to a token's logit (ID-X, ID-inf); repeatable"},
    {"--ignore-eos", "--no-ignore-eos", FLAG_BOOL, GROUP_SAMPLING, GENERATE, AT(ignore_eos), "off",
     .help = "never end the answer by itself"},

    /* chat */
    {"-sys --system-prompt --system", .kind = FLAG_STRING, .group = GROUP_CHAT, .verbs = CHAT, .offset = AT(system_prompt),
     .metavar = "TEXT", .help = "system message"},
    {"-sysf --system-prompt-file", .kind = FLAG_STRING, .group = GROUP_CHAT, .verbs = CHAT, .offset = AT(system_prompt_file),
     .metavar = "FILE", .help = "system message from a file"},
    {"-rea --reasoning", .kind = FLAG_CHOICE, .group = GROUP_CHAT, .verbs = CHAT, .offset = AT(reasoning), .choices = switches,
     .initial = "auto", .metavar = "on|off|auto", .help = "let a hybrid model think before it answers"},
    {"--chat-template-kwargs", .kind = FLAG_STRING, .group = GROUP_CHAT, .verbs = CHAT | TEMPLATE,
     .offset = AT(template_kwargs), .metavar = "JSON", .help = "arguments of the template, {\"enable_thinking\": false}"},
    {"-st --single-turn", .kind = FLAG_BOOL, .group = GROUP_CHAT, .verbs = CHAT, .offset = AT(single_turn),
     .help = "leave after one answer"},
    {"-mli --multiline-input", "--no-multiline-input", FLAG_BOOL, GROUP_CHAT, CHAT, AT(multiline), "off",
     .help = "a line ends the message only when it ends in \\"},
    {"--history", "--no-history", FLAG_BOOL, GROUP_CHAT, CHAT, AT(history), "on",
     .help = "--no-history: keep no file of what was typed"},
    {"--show-timings", "--no-show-timings", FLAG_BOOL, GROUP_CHAT, CHAT, AT(show_timings), "on",
     .help = "a line with speeds after each answer"},
    {"--simple-io", .kind = FLAG_BOOL, .group = GROUP_CHAT, .verbs = CHAT, .offset = AT(simple_io),
     .help = "plain lines in, no editing"},

    /* output */
    {"--color -co", .kind = FLAG_CHOICE_OR_BARE, .group = GROUP_OUTPUT, .verbs = ALL, .offset = AT(color), .choices = switches,
     .bare = SWITCH_ON, .initial = "auto", .metavar = "on|off|auto",
     .help = "colours; auto: on a terminal and without NO_COLOR"},
    {"--ids", .kind = FLAG_BOOL, .group = GROUP_OUTPUT, .verbs = RUN | TEMPLATE, .offset = AT(ids),
     .help = "print token ids instead of text"},
    {"--json", .kind = FLAG_BOOL, .group = GROUP_OUTPUT, .verbs = INSPECT | PLAN, .offset = AT(json), .help = "print one JSON object"},

    /* template */
    {"--parse-tools", .kind = FLAG_BOOL, .group = GROUP_TASK, .verbs = TEMPLATE, .offset = AT(parse_tools),
     .help = "stdin is a model's answer {text, tools, tool_choice, finish, think}; print the message it means"},

    /* plan: the placement flags mean something here although this build computes on the CPU alone */
    {"--machine", .kind = FLAG_STRING, .group = GROUP_TASK, .verbs = PLAN, .offset = AT(machine), .metavar = "FILE",
     .help = "plan for the machine a facts file describes, instead of this one"},
    {"--profile", .kind = FLAG_STRING, .group = GROUP_TASK, .verbs = PLAN, .offset = AT(profile), .metavar = "FILE",
     .help = "how often each expert is chosen; default: a trained router's usual skew"},
    {"-p --n-prompt", .kind = FLAG_TOKENS, .group = GROUP_TASK, .verbs = PLAN, .offset = AT(plan_prompt), RANGE(1, 1 << 20),
     .initial = "512", .metavar = "N", .help = "tokens of the prompt whose speed is predicted"},
    {"--ram-budget", .kind = FLAG_BYTES, .group = GROUP_TASK, .verbs = PLAN, .offset = AT(ram_budget), RANGE(0, UNBOUNDED),
     .choices = only_auto, .initial = "auto", .metavar = "SIZE", .help = "most RAM to use, everything counted (14G, 14500M)"},
    {"-ctk --cache-type-k", .kind = FLAG_CHOICE, .group = GROUP_TASK, .verbs = PLAN, .offset = AT(type_k),
     .choices = planned_kv_types, .initial = "f16", .metavar = "TYPE", .help = "type of the cached keys"},
    {"-ctv --cache-type-v", .kind = FLAG_CHOICE, .group = GROUP_TASK, .verbs = PLAN, .offset = AT(type_v),
     .choices = planned_kv_types, .initial = "f16", .metavar = "TYPE", .help = "type of the cached values"},

    /* bench */
    {"-p --n-prompt", .kind = FLAG_NUMBERS, .group = GROUP_TASK, .verbs = BENCH, .offset = AT(n_prompt), RANGE(0, 1 << 24),
     .initial = "512", .metavar = "N,...", .help = "prompt tokens; lists and ranges a-b+step; 0: none"},
    {"-n --n-gen", .kind = FLAG_NUMBERS, .group = GROUP_TASK, .verbs = BENCH, .offset = AT(n_gen), RANGE(0, 1 << 24),
     .initial = "128", .metavar = "N,...", .help = "tokens to generate; 0: none"},
    {"-pg", .kind = FLAG_PAIRS, .group = GROUP_TASK, .verbs = BENCH, .offset = AT(prompt_gen), RANGE(0, 1 << 24),
     .metavar = "PP,TG", .help = "one test of a prompt and an answer; repeatable"},
    {"-d --n-depth", .kind = FLAG_NUMBERS, .group = GROUP_TASK, .verbs = BENCH, .offset = AT(depth), RANGE(0, 1 << 24),
     .initial = "0", .metavar = "N,...", .help = "tokens already in the context"},
    {"-r --repetitions", .kind = FLAG_INT, .group = GROUP_TASK, .verbs = BENCH, .offset = AT(repetitions), RANGE(1, 1 << 20),
     .initial = "5", .metavar = "N", .help = "repetitions of each test"},
    {"-o --output", .kind = FLAG_CHOICE, .group = GROUP_OUTPUT, .verbs = BENCH, .offset = AT(output), .choices = formats,
     .initial = "md", .metavar = "FORMAT", .help = "format on stdout"},
    {"-oe --output-err", .kind = FLAG_CHOICE, .group = GROUP_OUTPUT, .verbs = BENCH, .offset = AT(output_err),
     .choices = formats, .initial = "none", .metavar = "FORMAT", .help = "format on stderr"},
    {"--delay", .kind = FLAG_INT, .group = GROUP_TASK, .verbs = BENCH, .offset = AT(delay_s), RANGE(0, 3600), .initial = "0",
     .metavar = "S", .help = "seconds of rest before each test"},
    {"-w --warmup", "--no-warmup", FLAG_BOOL, GROUP_TASK, BENCH, AT(warmup), "on",
     .help = "--no-warmup: no untimed run before each test"},
    {"--progress", "--no-progress", FLAG_BOOL, GROUP_OUTPUT, BENCH, AT(progress), "off",
     .help = "say on stderr which test runs"},

    /* perplexity */
    {"--chunks", .kind = FLAG_INT, .group = GROUP_TASK, .verbs = PPL | PROFILE | IMATRIX, .offset = AT(chunks), RANGE(-1, INT32_MAX),
     .initial = "-1", .metavar = "N", .help = "chunks to read; -1: all"},
    {"--kl-divergence-base --save-all-logits", .kind = FLAG_STRING, .group = GROUP_TASK, .verbs = PPL, .offset = AT(kl_base),
     .metavar = "FILE", .help = "write the log-probabilities to FILE; with --kl-divergence: read them from it"},
    {"--kl-divergence", .kind = FLAG_BOOL, .group = GROUP_TASK, .verbs = PPL, .offset = AT(kl_divergence),
     .help = "compare this model with the one that wrote the base file"},

    /* probe */
    {"-o --output", .kind = FLAG_STRING, .group = GROUP_OUTPUT, .verbs = PROBE, .offset = AT(out_path), .metavar = "FILE",
     .help = "write the facts there instead of the user's cache, which other commands read; - is stdout"},
    {"--seconds", .kind = FLAG_REAL, .group = GROUP_TASK, .verbs = PROBE, .offset = AT(seconds), RANGE(0.01, 600),
     .initial = "4", .metavar = "X", .help = "about how long to measure"},
    {"--ram-budget", .kind = FLAG_BYTES, .group = GROUP_TASK, .verbs = PROBE, .offset = AT(ram_budget), RANGE(0, UNBOUNDED),
     .choices = only_auto, .initial = "auto", .metavar = "SIZE",
     .help = "memory to measure with; auto: 1 GiB or twice the caches, up to 4 GiB"},

    /* profile */
    {"-o --output", .kind = FLAG_STRING, .group = GROUP_OUTPUT, .verbs = PROFILE, .offset = AT(out_path), .metavar = "FILE",
     .help = "write the profile, for --profile; -: to stdout, without the summary"},
    {"--record-routes", .kind = FLAG_STRING, .group = GROUP_OUTPUT, .verbs = RUN | PROFILE, .offset = AT(record_routes), .metavar = "FILE",
     .help = "record the experts of every token, for bench/replay; with -ub 1 as decoded ones"},

    {"--trace", .kind = FLAG_STRING, .group = GROUP_OUTPUT, .verbs = RUN | BENCH, .offset = AT(trace), .metavar = "FILE",
     .help = "write what ran when, GPU, CPU, copies and reads, for chrome://tracing or ui.perfetto.dev"},

    /* imatrix */
    {"-o --output-file --output", .kind = FLAG_STRING, .group = GROUP_OUTPUT, .verbs = IMATRIX, .offset = AT(out_path), .initial = "imatrix.gguf",
     .metavar = "FILE", .help = "the importance matrix"},
    {"--output-format", .kind = FLAG_CHOICE, .group = GROUP_OUTPUT, .verbs = IMATRIX, .offset = AT(imatrix_format), .choices = imatrix_formats,
     .initial = "gguf", .metavar = "FORMAT", .help = "gguf, or dat for ik_llama.cpp; default: dat for a FILE of that ending"},
    {"--in-file", .kind = FLAG_STRINGS, .group = GROUP_TASK, .verbs = IMATRIX, .offset = AT(in_files), .metavar = "FILE",
     .help = "importance to add up with, gguf or dat; repeatable; without -f: only that"},
    {"--process-output", .kind = FLAG_BOOL, .group = GROUP_TASK, .verbs = IMATRIX, .offset = AT(process_output),
     .help = "also for the output matrix"},
    {"--chunk --from-chunk", .kind = FLAG_INT, .group = GROUP_TASK, .verbs = IMATRIX, .offset = AT(from_chunk), RANGE(0, INT32_MAX),
     .initial = "0", .metavar = "N", .help = "chunks of the text to leave out first"},
    {"-ofreq --output-frequency", .kind = FLAG_INT, .group = GROUP_OUTPUT, .verbs = IMATRIX, .offset = AT(output_frequency),
     RANGE(0, INT32_MAX), .initial = "10", .metavar = "N", .help = "write FILE every N chunks; 0: at the end only"},
    {"--save-frequency", .kind = FLAG_INT, .group = GROUP_OUTPUT, .verbs = IMATRIX, .offset = AT(save_frequency), RANGE(0, INT32_MAX),
     .initial = "0", .metavar = "N", .help = "keep a copy FILE.at_CHUNKS every N chunks; 0: none"},
    {"--parse-special", .kind = FLAG_BOOL, .group = GROUP_PROMPT, .verbs = IMATRIX, .offset = AT(parse_special),
     .help = "control tokens such as <|im_end|> in the text are tokens"},
    {"--show-statistics", .kind = FLAG_BOOL, .group = GROUP_OUTPUT, .verbs = IMATRIX, .offset = AT(show_statistics),
     .help = "print a table of the weights; with --in-file it needs no model"},

    /* quantize */
    {"--tensor-type --custom-q", .kind = FLAG_STRINGS, .group = GROUP_TASK, .verbs = QUANTIZE, .offset = AT(tensor_types),
     .metavar = "RE=TYPE", .help = "type of the tensors whose names the expression fits; repeatable, the first that fits wins"},
    {"--token-embedding-type", .kind = FLAG_STRING, .group = GROUP_TASK, .verbs = QUANTIZE, .offset = AT(embedding_type),
     .metavar = "TYPE", .help = "type of token_embd.weight"},
    {"--output-tensor-type", .kind = FLAG_STRING, .group = GROUP_TASK, .verbs = QUANTIZE, .offset = AT(head_type),
     .metavar = "TYPE", .help = "type of output.weight, or of the embedding that is used in its place"},
    {"--leave-output-tensor", .kind = FLAG_BOOL, .group = GROUP_TASK, .verbs = QUANTIZE, .offset = AT(leave_head),
     .help = "output.weight keeps its type"},
    {"--pure", .kind = FLAG_BOOL, .group = GROUP_TASK, .verbs = QUANTIZE, .offset = AT(pure),
     .help = "the type of that name for every matrix, no mix"},
    {"--imatrix", .kind = FLAG_STRING, .group = GROUP_TASK, .verbs = QUANTIZE, .offset = AT(imatrix), .metavar = "FILE",
     .help = "how much each input column counts, by coldstream imatrix or llama-imatrix"},
    {"--allow-requantize", .kind = FLAG_BOOL, .group = GROUP_TASK, .verbs = QUANTIZE, .offset = AT(allow_requantize),
     .help = "also from one quantized type to another, which adds both errors"},
    {"--keep-split", .kind = FLAG_BOOL, .group = GROUP_OUTPUT, .verbs = QUANTIZE, .offset = AT(keep_split),
     .help = "one output file for each input file: OUT-00001-of-00003.gguf"},
    {"--split-max-size", .kind = FLAG_BYTES, .group = GROUP_OUTPUT, .verbs = QUANTIZE, .offset = AT(split_max_bytes),
     RANGE(0, UNBOUNDED), .initial = "0", .metavar = "SIZE", .help = "new file before the tensors of one exceed this (4G); 0: one file"},
    {"--dry-run", .kind = FLAG_BOOL, .group = GROUP_OUTPUT, .verbs = QUANTIZE, .offset = AT(dry_run),
     .help = "print what each tensor would become, and the size; write nothing"},
    {"--strict", .kind = FLAG_BOOL, .group = GROUP_TASK, .verbs = QUANTIZE, .offset = AT(strict),
     .help = "a --tensor-type that fits no tensor is an error, not a warning"},
    {"-t --threads --nthreads", .kind = FLAG_INT, .group = GROUP_CONTEXT, .verbs = QUANTIZE, .offset = AT(threads), RANGE(0, 1024),
     .initial = "0", .metavar = "N", .help = "threads; 0: one per physical core"},

    /* placement; plan has more to say about cache types, for other machines */
    {"--device -dev", .kind = FLAG_STRING, .group = GROUP_PLACEMENT, .verbs = COMPUTE, .offset = AT(device), .initial = "auto",
     .metavar = "NAME", .help = "cpu, cuda or cuda:N; auto: a GPU if there is one"},
    {"--vram-budget", .kind = FLAG_BYTES, .group = GROUP_PLACEMENT, .verbs = COMPUTE | PLAN, .offset = AT(vram_budget), RANGE(0, UNBOUNDED),
     .choices = only_auto, .initial = "auto", .metavar = "SIZE", .help = "most VRAM to use, everything counted (14G, 14500M); 0: no GPU"},
    {"--vram-reserve", .kind = FLAG_BYTES, .group = GROUP_PLACEMENT, .verbs = COMPUTE | PLAN, .offset = AT(vram_reserve), RANGE(0, UNBOUNDED),
     .choices = only_auto, .initial = "auto", .metavar = "SIZE", .help = "VRAM to leave free under --vram-budget auto; auto: 150M to 512M, by what others hold"},
    {"-kvo --kv-offload", "-nkvo --no-kv-offload", FLAG_BOOL, GROUP_PLACEMENT, COMPUTE | PLAN, AT(kv_offload), "on",
     .help = "-nkvo: keep the KV cache in RAM"},
    {"-ngl --n-gpu-layers --gpu-layers", .kind = FLAG_INT, .group = GROUP_PLACEMENT, .verbs = COMPUTE | PLAN, .offset = AT(gpu_layers),
     RANGE(-1, 1 << 20), .choices = auto_or_all, .initial = "auto", .metavar = "N", .help = "the last N layers on the GPU at most, the head with more than there are; 0: no GPU"},
    {"-cmoe --cpu-moe", .kind = FLAG_BOOL, .group = GROUP_PLACEMENT, .verbs = COMPUTE | PLAN, .offset = AT(cpu_moe),
     .help = "no experts in VRAM"},
    {"-ncmoe --n-cpu-moe", .kind = FLAG_INT, .group = GROUP_PLACEMENT, .verbs = COMPUTE | PLAN, .offset = AT(n_cpu_moe), RANGE(0, 1 << 20),
     .initial = "0", .metavar = "N", .help = "no experts of the first N layers in VRAM"},
    {"-ot --override-tensor", .kind = FLAG_STRINGS, .group = GROUP_PLACEMENT, .verbs = COMPUTE | PLAN, .offset = AT(override_tensor),
     .metavar = "RE=BUF,...", .help = "place tensors by their names; BUF: CPU, CUDA0, for experts NVME; a layer's attention, router or experts move together"},
    {"--defer-experts", .kind = FLAG_INT, .group = GROUP_PLACEMENT, .verbs = GENERATE | BENCH | PPL, .offset = AT(defer_experts), RANGE(0, 1024),
     .initial = "0", .metavar = "K",
     .help = "CHANGES THE ANSWERS: while generating, add a layer's K least-weighted experts on the CPU one layer late, beside the GPU's next "
             "attention; perplexity (token by token then) says by how much"},
    {"-ctk --cache-type-k", .kind = FLAG_CHOICE, .group = GROUP_PLACEMENT, .verbs = COMPUTE, .offset = AT(type_k),
     .choices = kv_types, .initial = "f16", .metavar = "TYPE", .help = "type of the cached keys"},
    {"-ctv --cache-type-v", .kind = FLAG_CHOICE, .group = GROUP_PLACEMENT, .verbs = COMPUTE, .offset = AT(type_v),
     .choices = kv_types, .initial = "f16", .metavar = "TYPE", .help = "type of the cached values"},

    /* general */
    {"-v --verbose", .kind = FLAG_BOOL, .group = GROUP_GENERAL, .verbs = ALL, .offset = AT(verbose),
     .help = "say more on stderr"},
    {"-lv --log-verbosity --verbosity", .kind = FLAG_INT, .group = GROUP_GENERAL, .verbs = ALL, .offset = AT(log_level),
     RANGE(-1, 4), .initial = "-1", .metavar = "N", .help = "0 silent, 1 errors, 2 warnings (default), 3 information, 4 debug"},
    {"--log-disable", .kind = FLAG_BOOL, .group = GROUP_GENERAL, .verbs = ALL, .offset = AT(log_disable),
     .help = "errors only"},
    {"-h --help --usage", .kind = FLAG_BOOL, .group = GROUP_GENERAL, .verbs = ALL, .offset = AT(help), .help = "this page"},
    {"--version", .kind = FLAG_BOOL, .group = GROUP_GENERAL, .verbs = ALL, .offset = AT(version),
     .help = "version of the program"},
};
const size_t n_flags = ARRAY_LEN(flags);

static const char always[] = "is always so here",
                  never_mapped[] = "means nothing here: weights are read into own memory, never mapped",
                  one_gpu[] = "means nothing here: one GPU is used, placed by --vram-budget",
                  pinned[] = "means nothing here: threads are pinned one per physical core",
                  no_server[] = "means nothing outside the server", fixed_log[] = "means nothing here: the log goes to stderr";

const struct ignored_flag ignored_flags[] = {
    {"-fa --flash-attn", VALUE_IF_SWITCH, "is ignored: attention never materialises the score matrix"},
    {"-no-fa --no-flash-attn", 0, "is ignored: attention never materialises the score matrix"},
    {"--mmap -mmp --mlock", VALUE_IF_SWITCH, never_mapped},
    {"--no-mmap", 0, always},
    {"--jinja", 0, "means nothing here: the templates are built in"},
    {"--no-jinja --chat-template-file", 0, "means nothing here: the templates are built in"},
    {"-fmoe --fused-moe -gr --graph-reuse", VALUE_IF_SWITCH, always},
    {"-no-fmoe --no-fused-moe -no-gr --no-graph-reuse -no-fug --no-fused-up-gate -no-mmad --no-fused-mul-multiadd",
     VALUE_IF_SWITCH, "is ignored: fusing does not change the answer"},
    {"-rtr --run-time-repack --repack -nr --no-repack", VALUE_IF_SWITCH, "is ignored: layouts are chosen per kernel"},
    {"-thp --transparent-huge-pages", VALUE_IF_SWITCH, "is always so where the system grants huge pages"},
    {"-ger --grouped-expert-routing -mqkv --merge-qkv -muge --merge-up-gate-experts -rcache --rope-cache -sas "
     "--scheduler-async",
     VALUE_IF_SWITCH, "means nothing here"},
    {"-khad --k-cache-hadamard -vhad --v-cache-hadamard -kvu --kv-unified -no-kvu --no-kv-unified --swa-full", 0,
     "means nothing here"},
    {"-ooae -no-ooae --no-offload-only-active-experts --op-offload --no-op-offload --no-host", VALUE_IF_SWITCH, one_gpu},
    {"-amb --attention-max-batch -mla --mla-use -mea --max-extra-alloc -dt --defrag-thold -wgt --worst-graph-tokens", 1,
     "means nothing here"},
    {"-mg --main-gpu -ts --tensor-split -sm --split-mode --max-gpu -cuda --cuda-params -op --offload-policy -gfm "
     "--gpu-fit-margin",
     1, one_gpu},
    {"-fit --fit", VALUE_IF_SWITCH, one_gpu},
    {"-fitt --fit-target --fit-margin -fitc --fit-ctx --moe-cache-mib", 1, one_gpu},
    {"--moe-cache --prefetch-experts", VALUE_IF_SWITCH, "means nothing here: experts are read when needed, as --ram-budget says"},
    {"--prefetch-experts-threads", 1, "means nothing here: experts are read when needed, as --ram-budget says"},
    {"--numa", 1, pinned},
    {"-C --cpu-mask -Cr --cpu-range --cpu-strict --prio --poll -Cb --cpu-mask-batch -Crb --cpu-range-batch --cpu-strict-batch "
     "--prio-batch --poll-batch",
     1, pinned},
    {"-td --threads-draft -tbd --threads-batch-draft -tgb --threads-gen-batch", 1, "means nothing here"},
    {"--warmup --no-warmup -wb --warmup-batch", 0, "means nothing here"},
    {"--check-tensors -vq --validate-quants", 0, "means nothing here: headers are always checked"},
    {"--context-shift --no-context-shift", 0, "means nothing here: no answer is generated"},
    {"--keep", 1, "means nothing here: chat keeps the system message, run has --keep"},
    {"-cnv --conversation -i --interactive -if --interactive-first -no-cnv --no-conversation", 0,
     "means nothing here: the verb chat converses, run completes"},
    {"--display-prompt --no-display-prompt --verbose-prompt -sp --special -ptc --print-token-count", 0, "means nothing here"},
    {"--perf --no-perf --offline --log-timestamps --no-log-timestamps --log-prefix --no-log-prefix --log-jsonl --log-enable "
     "--minilog",
     0, fixed_log},
    {"--log-colors", VALUE_IF_SWITCH, "means nothing here: use --color"},
    {"--log-file --logdir -ld --log-format", 1, fixed_log},
    {"--samplers --sampling-seq --sampler-seq", 1, "means nothing here: the order of samplers is fixed"},
    {"--reasoning-format --chat-template", 1, "means nothing here: use --family and -rea"},
    {"--xtc-threshold --dry-base --dry-allowed-length --dry-penalty-last-n --dry-sequence-breaker --dynatemp-exp --mirostat-lr "
     "--mirostat-ent "
     "--adaptive-decay",
     1, "means nothing here: its sampler is off"},
    {"--penalize-nl --parallel-tool-calls -ptcall --no-prefill-assistant --peg --skip-chat-parsing", 0, "means nothing here"},
    {"-np --parallel --host --port -to --timeout --threads-http -a --alias -cram --cache-ram --cache-reuse -sps "
     "--slot-prompt-similarity "
     "--slot-save-path --api-key --api-key-file -ns --sequences -ps --p-split",
     1, no_server},
    {"-cb --cont-batching -nocb --no-cont-batching --metrics --slots --no-slots --props --no-webui --no-ui --cache-prompt "
     "--no-cache-prompt",
     0, no_server},
    {"--perplexity --all-logits", 0, "is what the verb perplexity does"},
    {"--no-ppl", 0, "is always so here: imatrix computes no perplexity"},
    {"--ppl-output-type", 1, "means nothing here"},
    {"-embd --embeddings", VALUE_IF_SWITCH, "means nothing here"},
};
const size_t n_ignored_flags = ARRAY_LEN(ignored_flags);

static const char not_built[] = "is not in this build", changes_output[] = "is refused: it changes the model's answers",
                  no_download[] = "is not in this build: download the GGUF file yourself and give it with -m",
                  no_draft[] = "is refused: there is no speculative decoding";

const struct refused_flag refused_flags[] = {
    {"-ser --smart-expert-reduction", "-1,0", changes_output},
    {"-hf -hfr --hf-repo -hff --hf-file -mu --model-url -hft --hf-token", NULL, no_download},
    {"-okv --override-kv", NULL, not_built},
    {"-gan --grp-attn-n", "1", not_built},
    {"-gaw --grp-attn-w", NULL, not_built},
    {"--typical --typical-p --tfs", "1", not_built},
    {"--mirostat --dry-multiplier --xtc-probability --dynatemp-range", "0", not_built},
    {"--top-n-sigma --adaptive-target", "-1", not_built},
    {"--cfg-scale", "1", not_built},
    {"--cfg-negative-prompt --cfg-negative-prompt-file", NULL, not_built},
    {"--grammar --grammar-file -j --json-schema -jf --json-schema-file", NULL, not_built},
    {"--reasoning-budget --reasoning-tokens", "-1", not_built},
    {"--reasoning-budget-message", NULL, not_built},
    {"-md --model-draft --draft --draft-max --draft-n --draft-min --draft-n-min --draft-p-min --spec-type -draft "
     "--draft-params",
     NULL, no_draft},
    {"--lora --lora-scaled --control-vector --control-vector-scaled --mmproj --image --audio", NULL, not_built},
    {"--prompt-cache --prompt-cache-all --prompt-cache-ro", NULL, "is not in this build: chat has /save and /load"},
    {"--in-prefix --in-suffix --infill --rpc -bf --binary-file --numa-strategy", NULL, not_built},
    {"--ppl-stride", "0", not_built},
    {"--hellaswag --winogrande --multiple-choice", NULL, not_built},
    {"-dr --list-devices", NULL, not_built},
};
const size_t n_refused_flags = ARRAY_LEN(refused_flags);

/* Writes a synthetic qwen3moe GGUF file of any geometry and mix of types:
 *
 *     synth --preset 30b-a3b --tokenizer VOCAB.gguf --out FILE      the shape of Qwen3-30B-A3B Q4_K_M, 18.6 GB
 *     synth --preset 30b-a3b --mix asym2 --out FILE                 2-bit experts, 11.4 GB
 *     synth --preset 30b-a3b --mix iq4_k --out FILE                 ik_llama.cpp's types, 19.0 GB
 *     synth --preset tiny --out FILE                                100 KB
 *     synth --preset 30b-a3b --exl3 4 --out FOLDER                  the same shape as a directory in EXL3, 16.2 GB
 *     synth --preset tiny --embd 256 --ff 256 --mix q4_k_m --type 'ffn_(gate|up)_exps=q5_k' --out FILE
 *
 * Flags after --preset change it; --help lists them. Nothing on stdout; progress and the size on stderr. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/synth_dir.h"
#include "tests/support/synth_model.h"

enum { MAX_OVERRIDES = 64, USAGE = 2 };

struct options {
    struct synth_spec spec;
    struct synth_override overrides[MAX_OVERRIDES];
    const char *out;
    uint32_t exl3; /* bits of an expert's weight: a directory is written; 0: a GGUF file */
};

static const char help[] = "synth --out FILE [--preset tiny|exactness|30b-a3b]\n"
                           "  shape     --layers N --embd N --heads N --kv-heads N --head-dim N --experts N --experts-used N\n"
                           "            --ff N --vocab ROWS --ctx TOKENS --rope-base X --tied\n"
                           "  types     --mix f32|f16|bf16|q4_0|q8_0|q4_k|q5_k|q6_k|q4_k_m|q5_k_m|asym2|iq4_k\n"
                           "            --type REGEX=TYPE (repeatable, the first match wins)\n"
                           "  EXL3      --exl3 BITS: --out is a directory; --tokenizer is a tokenizer.json, the types say nothing\n"
                           "  content   --tokenizer FILE.gguf, --router-skew S, --seed N\n"
                           "Without --preset, tiny is what is changed.\n";

struct number_flag {
    const char *name;
    size_t at; /* offset of a uint32_t in struct synth_spec */
};

static const struct number_flag number_flags[] = {
    {"--layers", offsetof(struct synth_spec, layers)},
    {"--embd", offsetof(struct synth_spec, embd)},
    {"--heads", offsetof(struct synth_spec, heads)},
    {"--kv-heads", offsetof(struct synth_spec, kv_heads)},
    {"--head-dim", offsetof(struct synth_spec, head_dim)},
    {"--experts", offsetof(struct synth_spec, experts)},
    {"--ff", offsetof(struct synth_spec, ff)},
    {"--experts-used", offsetof(struct synth_spec, experts_used)},
    {"--vocab", offsetof(struct synth_spec, vocab)},
};

static bool parse_whole(const char *text, uint64_t max, uint64_t *out) {
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == 0 && errno == 0 && *out <= max;
}

static bool parse_real(const char *text, float *out) {
    char *end;
    *out = strtof(text, &end);
    return end != text && *end == 0 && isfinite(*out);
}

/* `text` stays the pattern: it is cut at its last '='. */
static bool parse_override(char *text, struct options *o) {
    char *equals = strrchr(text, '=');
    if (!equals || o->spec.n_overrides == MAX_OVERRIDES) return false;
    struct synth_override *override = &o->overrides[o->spec.n_overrides];
    if (!tensor_type_from_name(span_of(equals + 1), &override->type)) return false;
    *equals = 0;
    override->pattern = text;
    o->spec.n_overrides++;
    return true;
}

static bool apply(const char *flag, char *value, struct options *o) {
    uint64_t number;
    for (size_t i = 0; i < sizeof number_flags / sizeof *number_flags; i++) {
        if (strcmp(flag, number_flags[i].name) != 0) continue;
        if (!parse_whole(value, UINT32_MAX, &number)) return false;
        memcpy((char *)&o->spec + number_flags[i].at, &(uint32_t){(uint32_t)number}, sizeof(uint32_t));
        return true;
    }
    if (strcmp(flag, "--preset") == 0) return true; /* applied before */
    if (strcmp(flag, "--out") == 0) return o->out = value, true;
    if (strcmp(flag, "--mix") == 0) return o->spec.mix = value, true;
    if (strcmp(flag, "--tokenizer") == 0) return o->spec.tokenizer = value, true;
    if (strcmp(flag, "--type") == 0) return parse_override(value, o);
    if (strcmp(flag, "--exl3") == 0) {
        if (!parse_whole(value, 8, &number) || number == 0) return false;
        o->exl3 = (uint32_t)number;
        return true;
    }
    if (strcmp(flag, "--ctx") == 0) return parse_whole(value, UINT32_MAX, &o->spec.context);
    if (strcmp(flag, "--seed") == 0) return parse_whole(value, UINT64_MAX, &o->spec.seed);
    if (strcmp(flag, "--rope-base") == 0) return parse_real(value, &o->spec.rope_base);
    if (strcmp(flag, "--router-skew") == 0) return parse_real(value, &o->spec.router_skew);
    return false;
}

static bool parse(int argc, char **argv, struct options *o) {
    synth_preset(SPAN("tiny"), &o->spec);
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], "--preset") == 0 && !synth_preset(span_of(argv[i + 1]), &o->spec)) {
            fprintf(stderr, "synth: unknown preset '%s'; there are %s\n", argv[i + 1], synth_preset_names());
            return false;
        }
    o->spec.overrides = o->overrides;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--tied") == 0) {
            o->spec.tied = true;
            continue;
        }
        if (i + 1 == argc || !apply(argv[i], argv[i + 1], o)) {
            fprintf(stderr, "synth: cannot use '%s%s%s'\n%s  mixes     %s\n", argv[i], i + 1 < argc ? " " : "",
                    i + 1 < argc ? argv[i + 1] : "", help, synth_mix_names());
            return false;
        }
        i++;
    }
    if (!o->out) fputs("synth: --out FILE is missing\n", stderr);
    return o->out != NULL;
}

static void report(void *ctx, uint64_t done, uint64_t all) {
    unsigned *last = ctx;
    const unsigned percent = (unsigned)(done * 100 / all);
    if (all < 1 << 30 || percent == *last) return;
    *last = percent;
    fprintf(stderr, "\r%3u %% of %.2f GB%s", percent, (double)all / 1e9, done + (1 << 20) > all ? "\n" : "");
}

int main(int argc, char **argv) {
    static struct options o;
    struct reason why;
    unsigned last = 0;
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        fputs(help, stderr);
        return 0;
    }
    if (!parse(argc, argv, &o)) return USAGE;
    const struct synth_progress progress = {report, &last};
    const struct synth_dir dir = {.spec = &o.spec, .bits = o.exl3, .tokenizer = o.spec.tokenizer};
    if ((o.exl3 ? synth_dir_write(o.out, &dir, &progress, &why) : synth_write(o.out, &o.spec, &progress, &why)) == ERR_NONE) return 0;
    fprintf(stderr, "synth: %s\n", why.text);
    return 1;
}

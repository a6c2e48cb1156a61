/* Ids: bytes in value order, merged tokens in merge order, added tokens as Qwen3 lists them. */
#include "tests/support/synth_vocab.h"

#include <assert.h>
#include <string.h>

/* In stand-in letters: \u0120 is the space. Each one's parts exist above it or are single letters. */
static const char *const MERGES[] = {
    "\u0120 t", "\u0120 a",  "h e",        "i n",      "r e",       "o n",      "\u0120t he", "e r",
    "\u0120 s", "a t",       "\u0120 w",   "\u0120 o", "e n",       "\u0120 c", "i t",        "i s",
    "a n",      "o r",       "e s",        "\u0120 b", "e d",       "\u0120 f", "in g",       "\u0120 p",
    "o u",      "\u0120a n", "a l",        "a r",      "\u0120t o", "\u0120 m", "\u0120o f",  "\u0120 in",
    "\u0120 d", "\u0120 h",  "\u0120an d", "i c",      "l e",       "t h",      "u s",        "\u0120 is",
    "l l",      "he ll",     "hell o",     "o m",      "y s",       "ys t",     "yst e",      "yste m",
    "s yste",   "a s",       "as s",       "s t",      "ass is",    "assis t",  "assist an",  "assistan t",
};

static const struct {
    const char *text;
    int32_t type; /* 3 control, 4 user-defined */
} ADDED[] = {
    {"<|endoftext|>", 3},
    {"<|im_start|>", 3},
    {"<|im_end|>", 3},
    {"<|object_ref_start|>", 3},
    {"<|object_ref_end|>", 3},
    {"<|box_start|>", 3},
    {"<|box_end|>", 3},
    {"<|quad_start|>", 3},
    {"<|quad_end|>", 3},
    {"<|vision_start|>", 3},
    {"<|vision_end|>", 3},
    {"<|vision_pad|>", 3},
    {"<|image_pad|>", 3},
    {"<|video_pad|>", 3},
    {"<tool_call>", 4},
    {"</tool_call>", 4},
    {"<|fim_prefix|>", 4},
    {"<|fim_middle|>", 4},
    {"<|fim_suffix|>", 4},
    {"<|fim_pad|>", 4},
    {"<|repo_name|>", 4},
    {"<|file_sep|>", 4},
    {"<tool_response>", 4},
    {"</tool_response>", 4},
    {"<think>", 4},
    {"</think>", 4},
};

static const char TEMPLATE[] = "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + "
                               "'<|im_end|>' + '\\n' }}{%- endfor %}"
                               "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
                               "{%- if enable_thinking is defined and enable_thinking is false %}{{ "
                               "'<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}";

static struct span keep(struct synth_vocab *v, const char *text, size_t len) {
    assert(v->used + len <= sizeof v->storage);
    char *at = v->storage + v->used;
    memcpy(at, text, len);
    v->used += len;
    return (struct span){at, len};
}

static void add_token(struct synth_vocab *v, struct span text, int32_t type) {
    assert(v->n_tokens < SYNTH_VOCAB_CAP);
    v->tokens[v->n_tokens] = text;
    v->types[v->n_tokens++] = type;
}

/* Printable Latin-1 bytes stand for themselves, the others for U+0100 onwards, in order. */
static void add_bytes(struct synth_vocab *v) {
    unsigned other = 0x100;
    for (unsigned b = 0; b < 256; b++) {
        const bool itself = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        const unsigned code = itself ? b : other++;
        const char two[2] = {(char)(0xc0 | code >> 6), (char)(0x80 | (code & 0x3f))}, one = (char)code;
        add_token(v, code < 0x80 ? keep(v, &one, 1) : keep(v, two, 2), 1);
    }
}

static void add_merge(struct synth_vocab *v, const char *pair) {
    const size_t len = strlen(pair), left = (size_t)(strchr(pair, ' ') - pair);
    assert(v->n_merges < SYNTH_MERGES_CAP);
    v->merges[v->n_merges++] = (struct span){pair, len};
    const size_t start = v->used;
    keep(v, pair, left);
    keep(v, pair + left + 1, len - left - 1);
    add_token(v, (struct span){v->storage + start, len - 1}, 1);
}

void synth_vocab_fill(struct synth_vocab *v) {
    v->n_tokens = v->n_merges = v->used = 0;
    add_bytes(v);
    for (size_t i = 0; i < sizeof MERGES / sizeof *MERGES; i++) add_merge(v, MERGES[i]);
    v->bos = v->pad = (int32_t)v->n_tokens;
    v->eos = v->bos + 2;
    for (size_t i = 0; i < sizeof ADDED / sizeof *ADDED; i++) add_token(v, span_of(ADDED[i].text), ADDED[i].type);
    v->chat_template = SPAN(TEMPLATE);
}

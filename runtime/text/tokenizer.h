/* Byte-level BPE of the Qwen2/Qwen3 family: text -> ids, ids -> text, and a streaming detokenizer that never cuts UTF-8.
 *
 * A tokenizer is immutable after tokenizer_open() and may be shared by threads; encoding keeps its state on the caller's
 * side. Specification and goldens: the Qwen tokenizer notes. Work is O(n log n) in the input, never quadratic. */
#ifndef COLDSTREAM_TOKENIZER_H
#define COLDSTREAM_TOKENIZER_H

#include "core/core.h"

struct tokenizer;

/* Arrays as GGUF stores them; only read during tokenizer_open(). Hostile content is refused with a reason, never trusted. */
struct tokenizer_source {
    size_t n_tokens;
    const struct span *tokens; /* stand-in form; control (3) and user-defined (4) tokens are plain text */
    const int32_t *types;      /* NULL: all normal */
    size_t n_merges;
    const struct span *merges;
    int32_t bos, eos, eot, pad; /* -1: none */
    bool add_bos;
    bool no_nfc; /* skip Unicode normalization, for byte-exact comparison with llama.cpp */
};

enum token_parse {
    PARSE_SPECIAL, /* every added token is recognised: rendered prompts */
    PARSE_TEXT,    /* control tokens are ordinary text, user-defined ones are recognised: `--no-special` */
    PARSE_NOTHING, /* nothing is recognised: untrusted content inside a prompt */
};

struct token_list {
    int32_t *ids;
    size_t len, cap;
};

/* Most memory that tokenizer_open() holds at a time, the tokenizer's own included: to be counted before it is built. */
uint64_t tokenizer_memory(const struct tokenizer_source *source);
enum err tokenizer_open(const struct tokenizer_source *source, struct tokenizer **out, struct reason *why) MUST_USE;
void tokenizer_close(struct tokenizer **tokenizer);

/* Append the ids of `text` (any bytes; invalid UTF-8 becomes U+FFFD per maximal ill-formed subpart) to `out`. */
enum err tokenizer_encode(const struct tokenizer *t, struct span text, enum token_parse parse, struct token_list *out,
                          struct reason *why) MUST_USE;
void token_list_free(struct token_list *list);
enum err token_list_add(struct token_list *list, int32_t id, struct reason *why) MUST_USE;

size_t tokenizer_size(const struct tokenizer *t);                   /* number of ids with a row */
struct span tokenizer_bytes(const struct tokenizer *t, int32_t id); /* raw bytes; empty for unused or out-of-range ids */
bool tokenizer_is_control(const struct tokenizer *t, int32_t id);
bool tokenizer_is_end(const struct tokenizer *t, int32_t id); /* generation stops here: eos, eot, <|im_end|>, <|endoftext|> */
bool tokenizer_is_unused(const struct tokenizer *t, int32_t id);     /* never to be sampled */
int32_t tokenizer_find(const struct tokenizer *t, struct span text); /* id of an added token by its text, -1: none */
bool tokenizer_has_added(const struct tokenizer *t, struct span text); /* does PARSE_SPECIAL recognise anything in it? */
int32_t tokenizer_bos(const struct tokenizer *t);                    /* -1: none or not to be added */

/* ---- streaming detokenizer: zero-initialise; at most 3 bytes are ever held ------------------------------------- */

struct detokenizer {
    uint8_t held[4];
    uint8_t n_held;
    bool show_control; /* also print control tokens (type 3) */
};

/* Append to `out` the text that token `id` completes. Invalid bytes become one U+FFFD per maximal ill-formed subpart. */
void detokenize_step(struct detokenizer *d, const struct tokenizer *t, int32_t id, struct text *out);
void detokenize_end(struct detokenizer *d, struct text *out); /* held bytes become U+FFFD */

#endif

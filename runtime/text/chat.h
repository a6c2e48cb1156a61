/* Messages -> prompt, for the chat templates of the Qwen3 family, written natively (no Jinja at run time).
 *
 * A rendering is a list of pieces: template text, in which added tokens count, and content, in which nothing does, so that
 * "<|im_end|>" typed by a user stays text. Content is what users and tools wrote: user messages, tool results, tool
 * definitions, arguments of tool calls. System and assistant text counts as template (a history holds real <think> tokens).
 * Joined, the pieces are byte-identical to what the published Jinja templates print. */
#ifndef COLDSTREAM_CHAT_H
#define COLDSTREAM_CHAT_H

#include "core/core.h"
#include "core/json.h"
#include "text/tokenizer.h"

enum chat_family {
    CHAT_QWEN3,             /* hybrid thinking */
    CHAT_QWEN3_2507,        /* Instruct-2507: never thinks */
    CHAT_QWEN3_THINKING,    /* Thinking-2507: always opens with <think> */
    CHAT_QWEN3_CODER,       /* "functions" wording */
    CHAT_QWEN3_CODER_TOOLS, /* "tools" wording */
    CHAT_FAMILY_COUNT
};

const char *
chat_family_name(enum chat_family family); /* "qwen3", "qwen3-2507", "qwen3-thinking", "qwen3-coder", "qwen3-coder-tools" */
bool chat_family_from_name(struct span name, enum chat_family *out);
/* From the file's own template by tell-tale substrings; *warning (may be NULL) gets a line when the guess is weak, else NULL.
 */
enum chat_family chat_family_detect(struct span chat_template, const char **warning);
bool chat_family_can_think(enum chat_family family);
bool chat_family_is_coder(enum chat_family family); /* calls are <function=...> blocks, not JSON */

struct chat_piece {
    struct span text;
    bool content; /* tokenize with nothing recognised when it contains an added token's text */
};

struct chat_prompt {
    struct text text;          /* the whole rendering */
    struct chat_piece *pieces; /* spans into `text`, in order, covering it */
    size_t n_pieces, cap;
};

struct chat_request {
    const json_t *messages; /* array, OpenAI style */
    const json_t *tools;    /* array or NULL */
    bool add_generation_prompt;
    int enable_thinking; /* 1, 0, or -1 not given */
};

/* Requests come from outside: a message the template cannot print is refused, naming it ("messages[3].content: ..."). On
 * failure *out is empty. */
enum err chat_render(enum chat_family family, const struct chat_request *request, struct chat_prompt *out,
                     struct reason *why) MUST_USE;
void chat_prompt_free(struct chat_prompt *prompt);

/* Ids of a rendering. Id-identical to tokenizing the whole text with PARSE_SPECIAL, except where content contains the text
 * of an added token: that content is tokenized on its own with nothing recognised. */
enum err chat_tokenize(const struct tokenizer *t, const struct chat_prompt *prompt, struct token_list *out,
                       struct reason *why) MUST_USE;

#endif

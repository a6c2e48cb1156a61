/* The conversation so far: messages, and for each answer the ids exactly as they were sampled.
 *
 * The list is what chat_render() reads. Saved chats are JSON files that a person can read; the KV cache is not saved, because
 * the session computes it again from the messages. No terminal, no session. */
#ifndef COLDSTREAM_REPL_TRANSCRIPT_H
#define COLDSTREAM_REPL_TRANSCRIPT_H

#include "core/json.h"
#include "model/model.h"
#include "text/chat.h"

struct transcript {
    json_t *messages;       /* {role, content[, reasoning_content][, interrupted]} */
    struct token_list *ids; /* [json_array_size(messages)]: of an answer's content; empty for other messages */
    size_t cap;
    size_t left_out;        /* messages behind the system message that no prompt holds any more; they stay in the list, and are saved */
};

enum err transcript_open(struct transcript *t, struct reason *why) MUST_USE;
void transcript_close(struct transcript *t); /* also of a zeroed struct */

size_t transcript_length(const struct transcript *t);
struct span transcript_role(const struct transcript *t, size_t index);
struct span transcript_content(const struct transcript *t, size_t index);

struct answer {
    struct span content, reasoning;
    const struct token_list *ids; /* of the content as sampled; NULL: to be made from the content */
    bool interrupted;
};

/* Bytes that are no UTF-8 become U+FFFD. On failure the transcript is unchanged. */
enum err transcript_add_user(struct transcript *t, struct span text, struct reason *why) MUST_USE;
enum err transcript_add_answer(struct transcript *t, const struct answer *a, const struct tokenizer *tokenizer,
                               struct reason *why) MUST_USE;
/* Empty text removes it. */
enum err transcript_set_system(struct transcript *t, struct span text, struct reason *why) MUST_USE;
struct span transcript_system(const struct transcript *t); /* empty: none */

size_t transcript_last_user(const struct transcript *t);  /* SIZE_MAX: there is none */
void transcript_cut(struct transcript *t, size_t length); /* forget the messages from `length` on */
size_t transcript_turns(const struct transcript *t);      /* user messages */

/* Turns (a user message and what answers it) that prompts hold, and those that they hold from here on: all but the `turns` oldest of
 * them. When all that they held is cut, the messages left out come back. */
size_t transcript_held_turns(const struct transcript *t);
void transcript_leave_out(struct transcript *t, size_t turns);

/* The prompt for the next answer. Earlier answers keep their sampled ids wherever the template prints their content
 * unchanged, so that what the session already holds can be reused token by token. */
enum err transcript_prompt(const struct transcript *t, enum chat_family family, const struct tokenizer *tokenizer,
                           int enable_thinking, struct token_list *out, struct reason *why) MUST_USE;

/* ---- saved chats ---------------------------------------------------------------------------------------------------- */

enum { FINGERPRINT_CHARS = 17 };
/* Of shape, tensor names, types and extents, and vocabulary size: two files of one model and one mix of types agree. */
void model_fingerprint(const struct model *m, char out[FINGERPRINT_CHARS]);

struct saved_head {
    struct text model; /* name */
    char fingerprint[FINGERPRINT_CHARS];
    char family[32];
    json_t *settings; /* object: numbers and booleans by the names of chat_settings[], and "think" */
};
void saved_head_free(struct saved_head *h);

/* Refuses to overwrite a file that is no saved chat. */
enum err transcript_save(const struct transcript *t, const struct saved_head *head, const char *path,
                         struct reason *why) MUST_USE;
/* On failure both out parameters are empty. */
enum err transcript_load(const char *path, const struct tokenizer *tokenizer, struct transcript *out, struct saved_head *head,
                         struct reason *why) MUST_USE;
bool transcript_is_saved_chat(const char *path, struct reason *why); /* by its first bytes */

#endif

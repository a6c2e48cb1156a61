/* Between chat.c (requests, pieces) and the two renderers. Not for other files. */
#ifndef COLDSTREAM_CHAT_PRIVATE_H
#define COLDSTREAM_CHAT_PRIVATE_H

#include "text/chat.h"

/* One message after normalization: content is always a string, "developer" is "system". */
struct chat_message {
    struct span role, content;
    bool has_reasoning; /* reasoning_content is present and not null */
    struct span reasoning;
    const json_t *calls; /* non-empty array or NULL */
    struct text joined;  /* owns `content` when it was an array of parts */
};

struct chat_turns {
    struct chat_message *items;
    size_t n;
};

/* Writes a prompt piece by piece. Printing straight into `out->text` is fine: it belongs to the current piece. */
struct chat_writer {
    struct chat_prompt *out;
    size_t piece_from; /* where the current piece began in out->text */
    bool in_content;
};

void chat_write(struct chat_writer *w, struct span s);
void chat_write_content(struct chat_writer *w, struct span s);
/* What is printed from now on is content or template. */
void chat_enter(struct chat_writer *w, bool content);
#define chat_write_literal(w, literal) chat_write(w, SPAN(literal))

/* One entry of a message's tool_calls, `function` wrapper removed. */
struct chat_call {
    struct span name;
    const json_t *arguments; /* NULL when missing or null */
};
enum err chat_call_read(const struct chat_message *m, size_t message_index, size_t call_index, struct chat_call *out,
                        struct reason *why) MUST_USE;

bool chat_role_is(const struct chat_turns *turns, size_t index, const char *role);

/* The head (system turn and tools) and all messages; the generation prompt is chat.c's. */
enum err chat_render_hermes(enum chat_family family, const struct chat_turns *turns, const json_t *tools, struct chat_writer *w,
                            struct reason *why) MUST_USE;
enum err chat_render_coder(enum chat_family family, const struct chat_turns *turns, const json_t *tools, struct chat_writer *w,
                           struct reason *why) MUST_USE;

#endif

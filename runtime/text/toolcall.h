/* Model output -> content, reasoning and tool calls, while it streams. Understands both formats of the Qwen3 family: JSON
 * in <tool_call> tags (Hermes) and <function=...> blocks (Qwen3-Coder).
 *
 * Whatever is not a well-formed call comes out as content, unchanged: nothing is repaired, nothing is lost. A call appears
 * when it is complete, and results only ever grow, so that a server may send what was added after each feed. The outcome does
 * not depend on how the text was cut into feeds; work is linear in its length. */
#ifndef COLDSTREAM_TOOLCALL_H
#define COLDSTREAM_TOOLCALL_H

#include "core/core.h"
#include "core/json.h"

struct toolcall;

struct toolcall_options {
    const json_t *tools; /* of the request, borrowed until toolcall_close(); NULL or empty: no calls are looked for */
    bool choice_none;    /* "tool_choice":"none": likewise */
    bool coder;          /* also take a bare <function=NAME> at the start of a line for a call; see chat_family_is_coder() */
    bool think;          /* a <think> block at the very start is reasoning */
    bool inside_think;   /* the prompt already opened it (Thinking-2507) */
};

struct tool_call {
    struct text name, arguments; /* arguments: JSON text of an object */
};

/* Owned by the parser. */
struct toolcall_result {
    struct text content, reasoning;
    struct tool_call *calls;
    size_t n_calls, cap;
};

enum toolcall_stop {
    TOOLCALL_STOP,   /* the model ended its turn */
    TOOLCALL_LENGTH, /* a limit ended it */
};

enum err toolcall_open(const struct toolcall_options *options, struct toolcall **out, struct reason *why) MUST_USE;
void toolcall_close(struct toolcall **parser);

/* More output, cut anywhere between bytes of valid UTF-8. Fails only for want of memory. */
enum err toolcall_feed(struct toolcall *p, struct span text, struct reason *why) MUST_USE;
/* The end: everything held becomes a call or content. */
enum err toolcall_finish(struct toolcall *p, enum toolcall_stop stop, struct reason *why) MUST_USE;
const struct toolcall_result *toolcall_result(const struct toolcall *p);
/* "tool_calls", "stop" or "length". */
const char *toolcall_finish_reason(const struct toolcall *p, enum toolcall_stop stop);

#endif

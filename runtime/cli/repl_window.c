/* What a full context leaves out of a chat (--context-shift): the oldest turns whole, then the beginning of the answer under way.
 *
 * The session is always brought to an exact list of tokens, so what stays behind the first difference is computed again, at the
 * positions it then has: no keys are turned in place, whose values still remember what was left out. To do that seldom, half
 * of what is not pinned goes at a time. Pinned are the system message and the user's last one. Nothing is left out unsaid, and nothing
 * of the list that /save writes. */
#include <inttypes.h>

#include "cli/repl.h"

/* Tokens that an answer should find free. */
static uint64_t answer_room(const struct repl *r) {
    const uint64_t quarter = session_capacity(r->session) / 4, wanted = (uint64_t)r->cli->options->predict; /* -1: no limit */
    const uint64_t room = wanted < quarter ? wanted : quarter;
    return room ? room : 1;
}

static enum err prompt_without(struct repl *r, size_t left_out, size_t turns, struct token_list *out, struct reason *why) {
    r->transcript.left_out = left_out;
    transcript_leave_out(&r->transcript, turns);
    out->len = 0;
    return repl_prompt(r, out, why);
}

/* Leave out as few turns as free half of what is not pinned, `behind` tokens following the prompt; all but the last, if that is too few.
 * *target: tokens that may then be in the context. */
static enum err leave_out(struct repl *r, uint64_t behind, struct token_list *prompt, uint64_t *target, struct reason *why) {
    const uint64_t capacity = session_capacity(r->session);
    const size_t before = r->transcript.left_out, turns = transcript_held_turns(&r->transcript);
    size_t low = turns > 1, high = turns ? turns - 1 : 0;
    TRY(prompt_without(r, before, high, prompt, why));
    *target = prompt->len < capacity ? prompt->len + (capacity - prompt->len) / 2 : capacity;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        TRY(prompt_without(r, before, middle, prompt, why));
        if (prompt->len + behind <= *target) high = middle;
        else low = middle + 1;
    }
    return prompt_without(r, before, high, prompt, why);
}

static void say_left_out(struct repl *r, size_t before, uint64_t tokens, const struct token_list *prompt) {
    const size_t turns = transcript_held_turns(&r->transcript);
    repl_say(r, "[the context of %" PRIu64 " tokens is full: the oldest %zu messages, %" PRIu64 " tokens, are left out from here on; kept: %sthe last %zu turn%s, %zu tokens]",
             session_capacity(r->session), r->transcript.left_out - before, tokens - prompt->len,
             transcript_system(&r->transcript).len ? "the system message and " : "", turns, turns == 1 ? "" : "s", prompt->len);
}

enum err repl_fitting_prompt(struct repl *r, struct token_list *out, struct reason *why) {
    const uint64_t capacity = session_capacity(r->session);
    const size_t before = r->transcript.left_out;
    TRY(repl_prompt(r, out, why));
    const uint64_t tokens = out->len;
    if (!r->cli->options->context_shift || tokens + answer_room(r) <= capacity || transcript_held_turns(&r->transcript) < 2) return ERR_NONE;
    uint64_t target;
    enum err code = leave_out(r, 0, out, &target, why);
    if (!code && out->len > capacity)
        code = fail(why, ERR_LIMIT, "even with all earlier messages left out there are %zu tokens and the context holds %" PRIu64
                    ": send a shorter message, or start with a larger -c", out->len, capacity);
    if (code) r->transcript.left_out = before;
    else say_left_out(r, before, tokens, out);
    return code;
}

enum err repl_rolled_prompt(struct repl *r, uint64_t behind, struct token_list *out, uint64_t *room, struct reason *why) {
    const size_t before = r->transcript.left_out;
    uint64_t target = 0;
    const enum err code = leave_out(r, behind, out, &target, why);
    *room = !code && target > out->len ? target - out->len : 0;
    if (*room == 0) r->transcript.left_out = before;
    return code;
}

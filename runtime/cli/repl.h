/* The chat's state, shared by cmd_chat.c (start and loop), repl_turn.c (one answer), repl_window.c (what a full context leaves out)
 * and repl_slash.c (commands). */
#ifndef COLDSTREAM_REPL_H
#define COLDSTREAM_REPL_H

#include "cli/cli.h"
#include "cli/repl_command.h"
#include "cli/repl_history.h"
#include "cli/repl_lines.h"
#include "cli/repl_transcript.h"
#include "cli/repl_view.h"

enum turn_end {
    TURN_DONE,        /* the model ended its answer */
    TURN_STOP_TEXT,   /* -r */
    TURN_LIMIT,       /* -n */
    TURN_FULL,        /* no room left in the context */
    TURN_INTERRUPTED, /* Ctrl-C; what there was is kept */
    TURN_BROKEN,      /* stdout takes no more bytes */
};

struct turn {
    enum turn_end end;
    uint64_t prompt, reused, generated; /* tokens; generated without the end token */
    uint64_t steps;                     /* decode steps behind `decode_ns`: the first token comes with the prompt */
    uint64_t prompt_ns, decode_ns;
    uint64_t rolls, reread, roll_ns; /* the context became full so often; tokens then read again, and the time it took, in none of the above */
};

struct totals {
    uint64_t turns, prompt, reused, generated, steps; /* tokens */
    uint64_t prompt_ns, decode_ns;
};

struct repl {
    struct cli *cli;
    struct engine *engine;
    const struct tokenizer *tokenizer;
    struct session *session;
    enum chat_family family;
    bool thinking; /* of a family that can */
    struct sampling_choice sampling;
    struct transcript transcript;
    struct text attached; /* files read, in front of the next message */
    size_t n_attached;
    struct lines *lines;
    struct typed_history history;
    struct view view;
    struct turn last;
    struct totals totals;
    uint64_t answers;      /* started; varies the seed of each */
    uint64_t interrupt_ns; /* when Ctrl-C was last seen; 0: never */
    bool interactive;      /* stdin is a terminal */
    bool leave;
    int status; /* of the process, once `leave` is set */
};

/* Ids of the conversation as it stands, up to where the answer begins. */
enum err repl_prompt(const struct repl *r, struct token_list *out, struct reason *why) MUST_USE;
/* The same for an answer to be computed. With --context-shift, what does not fit makes the oldest turns be left out from here on,
 * which is said; half of the room is then free, so that the next turn fits, too. On failure nothing is left out. */
enum err repl_fitting_prompt(struct repl *r, struct token_list *out, struct reason *why) MUST_USE;
/* The context is full, with `behind` tokens of an answer behind that prompt: the prompt without the oldest turns, and how many of those
 * tokens may follow it now; 0: there is nothing to leave out. */
enum err repl_rolled_prompt(struct repl *r, uint64_t behind, struct token_list *out, uint64_t *room, struct reason *why) MUST_USE;
/* Answer the last message of the transcript and add the answer to it. ERR_CANCELLED: interrupted before the first token,
 * nothing was added. */
enum err repl_answer(struct repl *r, struct reason *why) MUST_USE;
/* One of the user's messages, files read before it included, and its answer. When there is no answer the message is taken back.
 * Reports by itself. */
void repl_message(struct repl *r, struct span text);
void repl_regenerate(struct repl *r);

/* Carry out a command; reports by itself. */
void repl_command(struct repl *r, const struct typed *typed);
/* The sampling settings from flags, /set and the family; a random seed drawn before stays. */
void repl_choose_sampling(struct repl *r);

/* Lines about the chat, on stderr. */
void repl_say(struct repl *r, const char *format, ...) PRINTF_LIKE(2, 3);
/* A mistake of the user's or a failure: the chat goes on when somebody is there to react, else it ends with `status`. */
void repl_complain(struct repl *r, int status, const char *text);
/* Ctrl-C was seen: take note, and clear the flag. SIGTERM leaves. */
void repl_note_interrupt(struct repl *r);

/* "512.3" of tokens and nanoseconds; 0 when there was no work. */
double tokens_per_second(uint64_t tokens, uint64_t ns);

#endif

/* The shape of the table of flags. Only options.c reads it; only flags.c fills it. */
#ifndef COLDSTREAM_FLAGS_H
#define COLDSTREAM_FLAGS_H

#include "cli/options.h"

enum flag_kind {
    FLAG_BOOL,   /* no value; `off` names clear it */
    FLAG_INT,    /* decimal, or one of `choices` */
    FLAG_TOKENS, /* as FLAG_INT with suffixes k and m */
    FLAG_BYTES,  /* suffixes K M G T, KiB MiB..., KB MB... all powers of two; or one of `choices` */
    FLAG_REAL,
    FLAG_STRING,
    FLAG_CHOICE,         /* one of `choices`, case-insensitive */
    FLAG_CHOICE_OR_BARE, /* as FLAG_CHOICE; a bare flag means `bare`. A value is taken only if it is one of the choices */
    FLAG_NUMBERS,        /* repeatable; "1,2,4-8+2" is 1 2 4 6 8; token suffixes */
    FLAG_PAIRS,          /* repeatable; "512,128" */
    FLAG_STRINGS,        /* repeatable */
    FLAG_BIAS,           /* repeatable; "ID+2.5", "ID-inf" */
};

enum flag_group {
    GROUP_MODEL,
    GROUP_CONTEXT,
    GROUP_POSITIONS,
    GROUP_PROMPT,
    GROUP_SAMPLING,
    GROUP_CHAT,
    GROUP_OUTPUT,
    GROUP_TASK,
    GROUP_PLACEMENT,
    GROUP_GENERAL,
    GROUP_COUNT
};

struct choice {
    const char *name;
    int64_t value;
};

struct flag {
    const char *names; /* separated by blanks; the first "--" name also names the environment variable */
    const char *off;   /* names that clear a FLAG_BOOL, or NULL */
    enum flag_kind kind;
    enum flag_group group;
    uint32_t verbs;               /* bit per enum verb */
    uint32_t offset;              /* of the member in struct options */
    const char *initial;          /* default in the form a user would type; NULL: zero */
    double min, max;              /* of the numeric kinds, inclusive */
    const struct choice *choices; /* ends with a NULL name */
    int64_t bare;                 /* of FLAG_CHOICE_OR_BARE */
    const char *metavar;
    const char *help;
    const char *warning; /* noted when the flag is given */
};

/* Flags of llama.cpp and ik_llama.cpp that do nothing here. `values`: words they consume; VALUE_IF_SWITCH: one if the next word
 * is one of on off auto 0 1 true false enabled disabled. */
enum { VALUE_IF_SWITCH = -1 };
struct ignored_flag {
    const char *names;
    int values;
    const char *why;
};

/* Flags whose effect this build does not have and must not pretend to. `neutral`: a value that asks for nothing, so is fine. */
struct refused_flag {
    const char *names;
    const char *neutral;
    const char *why;
};

extern const struct flag flags[];
extern const size_t n_flags;
extern const struct ignored_flag ignored_flags[];
extern const size_t n_ignored_flags;
extern const struct refused_flag refused_flags[];
extern const size_t n_refused_flags;
extern const char *const group_titles[GROUP_COUNT];

#endif

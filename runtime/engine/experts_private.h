/* The inside of the expert store, for experts.c (a run's layers) and experts_fill.c (opening, background, hand-over). */
#ifndef COLDSTREAM_EXPERTS_PRIVATE_H
#define COLDSTREAM_EXPERTS_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/experts.h"
#include "placement/cache.h"

enum {
    PASSING_TOKENS = 4, /* a batch of more tokens is a prompt: its experts pass through, the decode set stays */
    FILL_READS = 8,     /* of the background at once: a run waits for them */
    FILL_TRIES = 3,     /* failed background reads before the background gives up */
    /* Reads in advance under way at once, while decoding. A drive that demand keeps busy is only to be kept from pausing between
     * two layers; an idle one may as well bring all that is expected. */
    AHEAD_BUSY = 2,
    AHEAD_IDLE = 8,
    /* times an expert can be held ahead: a layer is expected LOOK_LAYERS times, the next one once less...; failed reads keep
     * their hold */
    MOST_EXPECTED = LOOK_LAYERS * (LOOK_LAYERS + 1) / 2
};
#define WAIT_NS 20000000ull /* between looks at should_stop() */

enum read_kind { READ_DEMAND, READ_AHEAD, READ_FILL };
enum need_state { NEED_MISSING, NEED_LOADING, NEED_READY, NEED_OUT /* being computed */, NEED_DONE };

struct need {
    uint32_t expert, tokens;
    int32_t slot;
    enum need_state state;
    bool resident; /* was here when asked for */
    bool asked;    /* its read was started for it */
};

struct slot_info {
    enum read_kind kind;
    bool untouched_ahead; /* read ahead and not needed yet */
};

/* What the look-ahead said of a layer to come. */
struct expectation {
    uint32_t layer;
    uint8_t *expected; /* [n_experts] 1: expected */
    uint32_t n_expected;
    uint32_t *queue;   /* [n_experts] those that had no slot, likeliest first */
    uint32_t n_queue, sent;
};

struct ahead_hold {
    uint32_t layer;
    int32_t slot;
};

struct experts {
    const struct model *m;
    struct fetch *fetch;
    struct cache *cache;
    struct log_sink log;
    struct timeline *timeline;
    uint64_t patience_ns; /* of a run that can do nothing else; longer than the fetch's with one read */

    uint32_t n_classes, n_slots;
    uint64_t *slot_bytes;         /* [n_classes] */
    uint8_t *layer_class;         /* [n_layers] */
    uint32_t *first_slot;         /* [n_classes] */
    void **pool;                  /* [n_classes] one mapping each */
    uint64_t *pool_bytes;
    struct slot_info *slot_info;  /* [n_slots] */

    /* the layer at hand */
    uint32_t layer;
    bool passing;
    struct need *needs; /* [n_experts] */
    uint32_t n_needs;
    enum err failed; /* a needed expert's read */
    struct reason failure;

    struct expectation next[LOOK_LAYERS]; /* of layer l: next[l % LOOK_LAYERS] */
    struct ahead_hold *held;              /* [MOST_EXPECTED * n_experts] slots read ahead: kept until their layer begins */
    uint32_t n_held;

    /* is looking ahead worth it, and how far? */
    bool look_ahead, looking;
    uint32_t ahead_limit; /* reads in advance that may be under way at once while decoding */
    uint32_t ahead_ranks; /* how many of a token's expected experts are believed, likeliest first */
    uint32_t window_tokens, rest_tokens;
    struct engine_io window_start;
    uint64_t window_start_ns, window_busy_ns;

    uint32_t fill_failures; /* of background reads */
    struct reason fill_failure;
    struct engine_io io; /* counters */

    bool (*first)(void *ctx); /* experts_fill_after(), or NULL */
    void *first_ctx;
    pthread_t filler, toucher;
    bool has_filler, has_toucher;
    atomic_bool touched_enough; /* the toucher is to end */
    bool touch_all;             /* the toucher is to go on beyond a token's slots; under the mutex */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool in_run, wanted, filling, closing; /* who owns the store: a run, or the background thread while `filling` */
};

/* One more expert for a free slot, if there is anything left to bring; sent with the next fetch_send() or poll. */
bool experts_start_one_fill(struct experts *x);
/* Slots beyond a first token's are about to be needed: clear their memory, on a thread of its own. */
void experts_touch_all(struct experts *x);
/* No layer is expected to come: a run ended. */
void experts_forget_expected(struct experts *x);
/* Take note of reads that ended, waiting for one at most `timeout_ns`. */
unsigned experts_reap(struct experts *x, uint64_t timeout_ns);

#endif

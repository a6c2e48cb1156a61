/* The boundary: what programs need to run a model, and nothing else.
 *
 * An engine is a loaded model on this machine, shared and read-only. A session is one sequence: its KV cache and position.
 * The caller always hands over the full token list; the session reuses the longest common prefix it already holds.
 * An engine may be used by one thread at a time (its worker pool runs one graph at a time). */
#ifndef COLDSTREAM_ENGINE_H
#define COLDSTREAM_ENGINE_H

#include "core/core.h"
#include "engine/fetch.h"
#include "model/model.h"
#include "placement/facts.h"
#include "placement/plan.h"
#include "placement/profile.h"
#include "text/tokenizer.h"
#include "text/chat.h"

struct engine;
struct session;

/* Which matrices of a layer take an input. */
enum engine_input {
    INPUT_QKV,
    INPUT_ATTN_OUTPUT,
    INPUT_ROUTER,
    INPUT_GATE_UP, /* of one expert */
    INPUT_DOWN,    /* of one expert */
    INPUT_HEAD,    /* layer: the number of layers */
    INPUT_COUNT
};
struct engine_rows {
    const float *x;       /* [...][columns] */
    const int32_t *index; /* [n] which of them; NULL: the first n */
    uint32_t n;
    uint64_t columns;
};

struct engine_options {
    const char *model_path;
    unsigned threads;        /* decode; 0: one per physical core */
    unsigned threads_batch;  /* prompt; 0: as threads */
    const char *isa;         /* "ref", "avx2", "avx512" or NULL: best */
    uint32_t ubatch;         /* tokens computed together in a prompt; 0: 512 */
    bool vocab_only;         /* tokenizer and metadata, no weights: sessions are refused */
    bool no_direct_io;       /* read through the page cache */
    struct rope_override rope; /* all zero: positions as the file says */

    /* the GPU; see struct plan_request for the bounds */
    const char *device;      /* "cpu", "cuda", "cuda:1", "host"; NULL: a GPU if there is one */
    uint64_t vram_budget;    /* bytes, everything counted; 0: what is free, less vram_reserve */
    uint64_t vram_reserve;   /* 0: see struct plan_request */
    uint32_t gpu_layers;     /* 0: all of them */
    uint32_t cpu_moe_layers;
    bool kv_on_host;
    const struct plan_rule *rules; /* borrowed during engine_open() */
    uint32_t n_rules;
    /* CHANGES ANSWERS. In batches of one token, the so many least-weighted of a layer's experts that the CPU computes are added one
     * layer late (the last layer's are not), so that with a GPU they are computed beside the next layer's attention. */
    uint32_t defer_experts;

    /* memory and streaming */
    uint64_t ram_budget;     /* bytes of the whole process; 0: what is available, less a reserve */
    uint64_t kv_tokens;      /* context tokens the plan sets memory aside for; 0: see plan_request */
    uint32_t max_slots;      /* experts in RAM at most, over all layers; 0: as memory allows (tests, benchmarks) */
    enum stream_kind stream;
    uint64_t patience_ns;    /* a read unanswered for that long has failed; 0: 60 s */
    bool fill_first;         /* return only when VRAM and RAM hold all the experts they will; else these come on demand and in the background */
    bool no_look_ahead;
    /* Called once the model's directory is open: how its experts were used, borrowed until engine_open() returns; NULL: not known.
     * May be NULL. */
    const struct profile *(*find_profile)(void *ctx, const struct model *model);
    void *find_profile_ctx;
    const struct facts *facts;     /* borrowed during engine_open(); NULL: read here, unmeasured */
    /* Each token's chosen experts [n_experts_used], best first, on a worker's thread: to count, record, or replace them (replay;
     * distinct ids < n_experts). `expected`: the look-ahead's guess for `layer`, replaceable too. May be NULL. With a GPU the hook
     * only watches, after the fact and on the caller's thread: what it writes is ignored, and nothing is expected. */
    void (*on_experts)(void *ctx, uint32_t layer, uint64_t position, bool expected, int32_t *experts);
    void *on_experts_ctx;
    /* The inputs of matrices, of all tokens computed together or of those that chose an expert (`expert`, else -1), on a worker's
     * thread: to collect importance. May be NULL. With it nothing is computed on a GPU, and to ask for one by name is refused. */
    void (*on_input)(void *ctx, enum engine_input which, uint32_t layer, int32_t expert, const struct engine_rows *rows);
    void *on_input_ctx;
    uint32_t pass_from_tokens; /* experts in RAM that so many tokens of a prompt chose are computed by the GPU; 0: as rates say */
    uint32_t shuffle_experts; /* tests: not 0: experts move between RAM and VRAM at random, from that seed */
    uint32_t timeline_spans; /* keep so many spans of what runs when, for engine_write_timeline(); 0: none, at no cost */
    struct stream *(*wrap_stream)(void *ctx, struct stream *inner); /* tests: see fetch.h */
    void *wrap_stream_ctx;

    bool kv_f32;             /* KV cache in binary32: for exact comparisons, slow */
    bool no_nfc;             /* tokenizer without Unicode normalization */
    struct log_sink log;     /* written to from several threads */
    /* Called about ten times a second while weights are read; true cancels. May be NULL. */
    bool (*on_load)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    void *on_load_ctx;
};

enum err engine_open(const struct engine_options *options, struct engine **out, struct reason *why) MUST_USE;
void engine_close(struct engine **engine);

const struct model *engine_model(const struct engine *e);
const struct tokenizer *engine_tokenizer(const struct engine *e); /* NULL: the file has none */
enum chat_family engine_chat_family(const struct engine *e);

struct engine_info {
    unsigned threads, threads_batch;
    const char *isa;
    uint64_t weight_bytes;  /* room in RAM: dense, and slots for experts */
    uint64_t scratch_bytes;
    uint64_t kv_bytes_per_token;
    uint64_t load_ns;
    bool direct_io;         /* weights were read with O_DIRECT */
    char device[128];       /* the GPU's name; empty: none is used */
    uint64_t vram_budget, vram_peak; /* bytes, everything counted */
    uint32_t vram_experts;  /* that have a slot there */
};
void engine_get_info(const struct engine *e, struct engine_info *out);
/* What was decided when the engine was opened; NULL with vocab_only. */
const struct plan *engine_plan(const struct engine *e);

/* What streaming did since the engine was opened; differences of two calls describe a stretch. */
struct engine_io {
    uint32_t slots, experts;          /* room in RAM; experts of the model */
    uint32_t resident;                /* experts in RAM now */
    uint64_t tokens, batches;         /* computed */
    uint64_t uses, hits;              /* (layer, expert) pairs a batch needed; of those, in RAM when asked for */
    uint64_t demand_bytes, ahead_bytes, fill_bytes; /* read because needed, because expected, in the background */
    uint64_t expected, expected_right;/* look-ahead: experts expected; of those, chosen */
    uint64_t ahead_reads, ahead_used; /* experts read ahead; of those, chosen before they left */
    uint64_t wait_ns;                 /* the workers had nothing to compute until a read ended */
    uint64_t busy_ns;                 /* the drive had something to do */
    uint64_t retries;                 /* of reads */
    uint64_t arrived, arrived_needed; /* experts that came to their places in VRAM after opening; of those, for a prompt that waited */
    uint64_t moved, moved_bytes;      /* experts that took a slot in VRAM since */
    uint64_t passed, passed_bytes;    /* experts that prompts copied to the GPU and forgot again */
    uint64_t passed_again;            /* of those that were needed, already there */
    uint64_t gpu_tokens, gpu_misses;  /* decoded (or few at a time) with the GPU; experts the CPU computed for them */
    uint64_t deferred;                /* experts that were added one layer late (engine_options.defer_experts) */
    uint64_t mails, mail_ns;          /* what the GPU asked of the CPU meanwhile, and the time that was worked on it */
    bool look_ahead_on;               /* it switches itself off while it loses */
    const char *backend;              /* "io_uring", "pread" */
};
void engine_get_io(const struct engine *e, struct engine_io *out);

/* What ran when, as Chrome trace JSON (engine_options.timeline_spans). Not while a session computes. */
void engine_write_timeline(const struct engine *e, struct text *out);
/* Of what began at since_ns (clock_ns()) or later: time in which the CPU's workers were busy, the GPU, both at once. False: unknown. */
struct engine_overlap {
    uint64_t cpu_ns, gpu_ns, both_ns;
};
bool engine_get_overlap(const struct engine *e, uint64_t since_ns, struct engine_overlap *out);

/* ---- sessions --------------------------------------------------------------------------------------------------- */

/* n_ctx tokens of KV room (0: what the plan set aside, engine_options.kv_tokens). Refused with the MiB when the budget does not
 * leave it. Closed before its engine. */
enum err session_open(struct engine *e, uint64_t n_ctx, struct session **out, struct reason *why) MUST_USE;
void session_close(struct session **session);
uint64_t session_capacity(const struct session *s);
/* Tokens whose KV is held, and the tokens themselves (valid until the next call on this session). */
uint64_t session_length(const struct session *s);
const int32_t *session_tokens(const struct session *s);

struct eval {
    const int32_t *tokens; /* the whole sequence from position 0 */
    uint64_t n;
    uint64_t reused;       /* out: tokens that needed no work */
    /* Called after each ubatch; return true to cancel (the work done so far stays usable). May be NULL. */
    bool (*on_progress)(void *ctx, uint64_t done, uint64_t total);
    /* Polled between layers, on a worker's thread; true cancels within one layer's time. May be NULL. */
    bool (*should_stop)(void *ctx);
    void *ctx;
    /* Called with the logits [n_vocab] of every position from `logits_from` on, in order. NULL: only the last is computed.
     * With it, nothing is reused. */
    void (*on_logits)(void *ctx, uint64_t position, const float *logits);
    uint64_t logits_from;
};

/* Bring the session to exactly `tokens`: drop what differs, compute the rest. Afterwards *logits (may be NULL) points at the
 * last token's logits [n_vocab], valid until the next call on this session. At least one token. */
enum err session_eval(struct session *s, struct eval *eval, const float **logits, struct reason *why) MUST_USE;

/* Append one token: the decode step. ERR_IO: weights could not be read; the session is as before, and may be tried again. When
 * a model's file was cut or written to, nothing helps but opening it again. */
enum err session_append(struct session *s, int32_t token, const float **logits, struct reason *why) MUST_USE;

#endif

/* The inside of an engine, for engine.c and session.c alone. */
#ifndef COLDSTREAM_ENGINE_PRIVATE_H
#define COLDSTREAM_ENGINE_PRIVATE_H

#include "core/pool.h"
#include "cpu/cpu.h"
#include "engine/engine.h"
#include "engine/experts.h"
#include "engine/graph.h"
#include "engine/network.h"
#include "engine/vram.h"
#include "engine/weights.h"
#include "placement/plan.h"

struct engine {
    struct model *model;
    struct tokenizer *tokenizer; /* NULL: the file has none */
    enum chat_family family;
    struct log_sink log;
    struct cpu_ops ops;
    struct pool *pool, *batch_pool; /* the same one when both thread counts are equal */
    struct plan plan;
    bool planned;
    struct fetch *fetch;
    struct weights weights; /* dense */
    struct experts *experts;
    struct network network;
    struct gpu *gpu;   /* NULL: none is used */
    struct vram *vram; /* NULL without a GPU */
    struct timeline *timeline; /* NULL: none is kept */
    struct moves *moves; /* NULL: nothing moves */
    struct ring *ring;   /* NULL: nothing passes */
    struct arrivals *arrivals; /* NULL: everything was there from the start */
    struct split_rates rates; /* of what passes */
    struct graph *graph; /* NULL: vocabulary only */
    enum kv_type kv_type;
    uint64_t kv_room; /* bytes the budget leaves for KV caches of sessions yet to be opened */
    uint64_t load_ns;
    bool computed;    /* a batch at least */
    bool guesses_due; /* network_look_ahead() is to come before the second batch: the first token need not wait for it */
};

#endif

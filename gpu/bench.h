/* Measurements that gpu.h has no words for: what the device takes for a copy, a read, launches of one kind, a hand-over to the host.
 * For bench/gpu_report alone; running a model needs none of it, and struct gpu_ops does not know it.
 *
 * Launches of a step are captured and replayed as in a decode graph, so their times hold the gap between nodes; those of prompts
 * are launched one by one, as prompts are. Launch i belongs to layer i % n_layers: with enough layers nothing comes from L2.
 * Values are a pattern, whatever was computed before; they do not matter to the time. */
#ifndef COLDSTREAM_GPU_BENCH_H
#define COLDSTREAM_GPU_BENCH_H

#include "gpu/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

struct gpu_bench_facts {
    uint32_t driver, runtime; /* CUDA versions: 1000 * major + 10 * minor */
    uint64_t l2_bytes;
    uint32_t clock_mhz, memory_clock_mhz, memory_bus_bits; /* 0: not told */
};
void gpu_bench_facts(struct gpu *g, struct gpu_bench_facts *out);

/* Free on the card now, whoever holds the rest; 0: not told. */
uint64_t gpu_bench_free_bytes(struct gpu *g);

/* A pattern of finite numbers, whatever type they are read as. In GPU_COMPUTE's order. */
void gpu_bench_fill(struct gpu *g, gpu_ptr to, uint64_t bytes);

enum gpu_bench_what {
    /* memory: from -> to, bytes at a time; whatever is not needed is 0 */
    GPU_BENCH_COPY,        /* on the device */
    GPU_BENCH_READ,        /* by a kernel; `from` may be mapped host memory */
    GPU_BENCH_TO_DEVICE,   /* host (pinned) -> to */
    GPU_BENCH_FROM_DEVICE, /* from -> host (pinned) */
    GPU_BENCH_EMPTY,       /* a kernel that does nothing */
    /* a step's launches, of `tokens` tokens */
    GPU_BENCH_QKV,
    GPU_BENCH_ATTENTION, /* the last token at position context - 1 of sequence 0 */
    GPU_BENCH_OUTPUT,
    GPU_BENCH_ROUTE,
    GPU_BENCH_GATE_UP, /* expert i of the tokens * n_used chosen ones at slots + i * slot_bytes */
    GPU_BENCH_DOWN,
    GPU_BENCH_HEAD,
    /* a prompt's, of a batch of `tokens` tokens */
    GPU_BENCH_PRODUCT,       /* the layer's q */
    GPU_BENCH_EXPERTS,       /* all of the layer, the tokens spread evenly over them; expert e at slots + e * slot_bytes */
    GPU_BENCH_BATCH_ATTENTION /* context tokens before the batch */
};

struct gpu_bench_job {
    enum gpu_bench_what what;
    uint32_t launches; /* in a measured stretch */
    gpu_ptr to, from;
    void *host;
    uint64_t bytes;
    struct gpu_network *network;
    uint32_t tokens;
    uint64_t context, slot_bytes;
};

/* seconds[repeats]: how long `launches` launches took, by the device's clock; on a real device two stretches before are not counted. */
enum err gpu_bench_time(struct gpu *g, const struct gpu_bench_job *job, uint32_t repeats, double *seconds, struct reason *why) MUST_USE;

/* seconds[rounds]: a kernel mails `floats` values (a multiple of 4, at most n_embd) and waits until this thread has read them and
 * sent as many back, again and again; each from one mail to the next, by the host's clock. */
enum err gpu_bench_hand_over(struct gpu_network *n, uint32_t floats, uint32_t rounds, double *seconds, struct reason *why) MUST_USE;

#ifdef __cplusplus
}
#endif

#endif

/* What a machine has and how fast it is, as plain values: the planner's input.
 *
 * A facts file (JSON, facts_json.c) describes a machine that was measured (`coldstream probe`) or written by hand. Reading the
 * topology is facts_hwloc.c's work, measuring rates the engine's (it measures with its own kernels and streams). A rate of 0
 * was not measured. Only facts_hwloc.c looks at the hardware. */
#ifndef COLDSTREAM_FACTS_H
#define COLDSTREAM_FACTS_H

#include "core/core.h"

enum {
    FACTS_VERSION = 1,
    FACTS_MAX_CORES = 1024,
    FACTS_MAX_NODES = 64,
    FACTS_MAX_RATES = 32,
    FACTS_MAX_KERNELS = 256,
    FACTS_MAX_DRIVES = 16,
    FACTS_MAX_GPUS = 16,
    FACTS_NO_NODE = -1
};

struct facts_node { /* NUMA */
    uint64_t memory_bytes;
    unsigned n_cores;
};

struct facts_ram_rate { /* plain read of memory no cache holds */
    unsigned threads;
    double bytes_per_s;
};

struct facts_kernel {
    char type[12]; /* a weight type's lower-case name: "q4_k" */
    char isa[8];   /* "avx2" */
    unsigned threads;
    double decode_bytes_per_s; /* one vector, memory cold: layer steps of eight 2048 x 768 experts, meetings included */
    double batch_macs_per_s;   /* multiply-adds a second of 128 vectors with matrices of 2048 columns */
};

struct facts_drive_rate { /* random reads of model-file ranges into a pool-sized buffer */
    uint64_t request_bytes;
    unsigned depth; /* requests in flight */
    double bytes_per_s;
    double latency_s; /* median of one request */
};

struct facts_drive {
    char name[64];  /* "nvme0n1", "vda" */
    char model[64]; /* what the hardware calls itself; may be empty */
    int node;       /* NUMA node it hangs on, or FACTS_NO_NODE */
    bool direct_io; /* O_DIRECT was accepted */
    bool extra;     /* found by the probe alone: a volume over several drives, a plugged-in or network disk */
    unsigned n_rates;
    struct facts_drive_rate rates[FACTS_MAX_RATES];
};

struct facts_gpu {
    char name[64];
    uint64_t vram_bytes, vram_free_bytes;
    double vram_bytes_per_s;                         /* read */
    double to_gpu_bytes_per_s, from_gpu_bytes_per_s; /* pinned memory over PCIe */
    double batch_macs_per_s;                         /* quantized matrix products with many vectors */
    double layer_s;                                  /* fixed cost of one layer of one token inside a captured graph */
    double hand_off_s;                               /* GPU -> CPU -> GPU, when a layer has a miss */
    int node;
};

/* Tens of KB: keep it on the heap. Texts are printable ASCII or UTF-8 without control characters. */
struct facts {
    char name[64]; /* "rtx4060ti-16g"; the host's own: "this machine" */
    char cpu[96];  /* model name */
    char isa[8];   /* best of "ref", "avx2", "avx512"; "" from facts_read(): the engine knows */
    unsigned n_packages, n_nodes, n_cores, n_threads; /* cores and hardware threads this process may use */
    struct facts_node nodes[FACTS_MAX_NODES];         /* [n_nodes], at least one; their cores add up to n_cores */
    int core_cpus[FACTS_MAX_CORES];                   /* one operating-system CPU id a core, its first hardware thread */
    int core_node[FACTS_MAX_CORES];                   /* NUMA node index of each core, 0 when unknown */
    uint64_t l2_bytes, l3_bytes;                      /* of one core; of one package */
    uint64_t memory_total_bytes;                      /* of the machine, or of the cgroup when that is smaller */
    uint64_t memory_available_bytes; /* what can be taken now without swapping; honours cgroup limits and RLIMIT_AS */

    /* measured */
    unsigned n_ram_rates;
    struct facts_ram_rate ram_rates[FACTS_MAX_RATES];
    unsigned n_kernels;
    struct facts_kernel kernels[FACTS_MAX_KERNELS];
    double barrier_s; /* one meeting of all decode threads */
    unsigned n_drives;
    struct facts_drive drives[FACTS_MAX_DRIVES];
    unsigned n_gpus;
    struct facts_gpu gpus[FACTS_MAX_GPUS];
};

/* This machine's topology, drives, NVIDIA GPUs and memory; every measured field, VRAM included, is left at 0. Tens of
 * milliseconds. */
enum err facts_read(struct facts *out, struct reason *why) MUST_USE;

/* A machine file. Untrusted: every number is range-checked; unknown keys are ignored; another version is refused. On failure
 * *out is empty and `why` names the key. What is written reads back as the same values. */
enum err facts_parse(struct span json, struct facts *out, struct reason *why) MUST_USE;
void facts_write(const struct facts *f, struct text *out);

/* Changes when a measurement would: CPU model, cores, memory size, drives, GPUs. Not with what is free or limited at the
 * moment, nor with measurements, to which extra drives belong. */
uint64_t facts_fingerprint(const struct facts *f);

/* Store a name as firmware and drivers give it: printable ASCII, single blanks, none at the ends, cut to fit. NULL: empty. */
void facts_set_text(char *out, size_t size, const char *text);

/* The drive called `name`; NULL: not listed. */
const struct facts_drive *facts_find_drive(const struct facts *f, const char *name);

/* Copy what was measured on this machine before, to facts that were read now: rates, kernels, isa, drives' rates, extra drives,
 * GPU rates. What `to` has measured itself stays: two probes with models on two drives, or with two thread counts, add up. */
void facts_take_measurements(struct facts *to, const struct facts *from);

#endif

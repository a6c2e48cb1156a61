/* bench/gpu_report's parts: what they share, and the tables they fill. A section is a table with notes; table.c prints all of them
 * as Markdown and as JSON. A part measures and fills; what it cannot measure it says in a note, and the report goes on. */
#ifndef COLDSTREAM_BENCH_REPORT_PARTS_H
#define COLDSTREAM_BENCH_REPORT_PARTS_H

#include "gpu/bench.h"
#include "gpu/gpu.h"
#include "model/model.h"
#include "placement/facts.h"

/* ---- tables ------------------------------------------------------------------------------------------------------------- */

struct column {
    const char *key, *title; /* in JSON; in Markdown, unit included */
};

struct cell {
    char *text;    /* NULL: a number */
    double number; /* NaN: empty */
    int digits;    /* after the point, in Markdown */
};

struct section {
    const char *key, *title;
    const struct column *columns;
    uint32_t n_columns, n_rows;
    struct cell *cells; /* [n_rows][n_columns] */
    char *notes[32];
    uint32_t n_notes;
    bool failed; /* no memory: rows are missing */
};

enum { MAX_SECTIONS = 16 };
struct report {
    struct section sections[MAX_SECTIONS];
    uint32_t n_sections;
    char date[32]; /* UTC */
    bool quick;
};

/* `columns` have to outlive the report. */
struct section *section_open(struct report *r, const char *key, const char *title, const struct column *columns, uint32_t n_columns);
void section_row(struct section *s); /* the next puts go there */
void section_text(struct section *s, uint32_t column, const char *format, ...) PRINTF_LIKE(3, 4);
void section_number(struct section *s, uint32_t column, double value, int digits);
void section_note(struct section *s, const char *format, ...) PRINTF_LIKE(2, 3);
/* <prefix>.md and <prefix>.json; folders are made. */
enum err report_write(const struct report *r, const char *prefix, struct reason *why) MUST_USE;
void report_close(struct report *r);

/* ---- what the parts share --------------------------------------------------------------------------------------------------- */

enum { MAX_BUDGETS = 8 };

struct bench_options {
    const char *model, *prefix, *device, *peer, *ptxas, *folder;
    double seconds;
    unsigned threads;
    bool quick;
    uint64_t budgets[MAX_BUDGETS]; /* bytes; 0: whatever is free */
    uint32_t n_budgets;
};

struct bench {
    struct bench_options o;
    struct report report;
    uint64_t start_ns, deadline_ns;
    struct facts *facts;     /* of the host, and what is measured of the GPU below */
    struct gpu *gpu;         /* NULL: none, or given to an engine at the moment */
    char why_no_gpu[480];
    struct gpu_info info;
    struct gpu_bench_facts details;
    double copy_bytes_per_s; /* read + written */
    double read_bytes_per_s;
    double node_s;           /* an empty kernel in a graph, the gap included */
};

enum { LAYER_NODES = 6, STEP_NODES = 4 /* beside the layers: begin, head, logits, end */ };
double vram_rate(const struct bench *b); /* bytes a second: the higher one of copying and reading */
bool bench_late(const struct bench *b, double seconds); /* fewer than so many are left */
uint32_t bench_repeats(const struct bench *b, uint32_t wanted);
void bench_progress(const struct bench *b, const char *format, ...) PRINTF_LIKE(2, 3);
double median(double *values, uint32_t n); /* sorts them; NaN when there are none */
double percentile(double *values, uint32_t n, double share);

/* limits.c */
void report_device(struct bench *b);
void report_host(struct bench *b);
void report_limits(struct bench *b);
void report_hand_over(struct bench *b);

/* launches.c */
void report_step_launches(struct bench *b);
void report_attention(struct bench *b);
void report_products(struct bench *b);

/* A network whose layers have the weights that one kind of launch reads, and no others. */
struct launch_net {
    struct gpu_shape shape;
    enum gpu_bench_what what;
    enum tensor_type type;
    enum gpu_kv kv;
    uint32_t n_layers; /* 0: as many as let nothing come from L2 */
    uint32_t sets;     /* of n_used experts; 0: n_experts in all */
    uint32_t pages;    /* of the KV cache, a layer */
    uint32_t batch_tokens;
    /* filled by launch_net_open() */
    struct gpu_network *net;
    gpu_ptr arena;
    uint64_t arena_bytes, slot_bytes;
    uint64_t launch_bytes; /* of weights or KV that a launch reads */
};
struct gpu_shape launch_shape(const struct bench *b);
/* ERR_LIMIT, ERR_NO_MEMORY: the card is too small for it. */
enum err launch_net_open(struct bench *b, struct launch_net *n, struct reason *why) MUST_USE;
void launch_net_close(struct bench *b, struct launch_net *n);

/* models.c */
void report_models(struct bench *b);

/* peer.c: the peer's numbers beside ours. */
struct peer_rates {
    uint32_t layers_on_cpu;
    double prefill_512, prefill_2048, decode, decode_4096; /* tokens a second; NaN: not measured */
    uint64_t vram_peak;
};
struct peer_question {
    const char *model;
    const struct model *shape; /* open */
    uint64_t budget;           /* bytes; 0: everything on the card */
    uint32_t ubatch;
};
enum err peer_measure(struct bench *b, const struct peer_question *q, struct peer_rates *out, struct reason *why) MUST_USE;

/* compile.c */
void report_compile(struct bench *b);

#endif

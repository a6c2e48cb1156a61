/* The plan: what lives in VRAM, RAM and on the drive, how fast that will be, and why. A pure value.
 *
 * facts (the machine) + plan_model (the model's directory as numbers) + plan_request (flags, all of them upper bounds) +
 * an optional profile -> struct plan. No I/O, no clock, no threads: the same input gives the same plan, on any machine.
 *
 * Budgets are promises: every byte a tier will hold is in plan.bytes, and their sum is within the budget. What cannot fit is
 * refused with ERR_LIMIT naming the missing MiB and the budget. Filling order: dense, scratch, KV, then experts by the time a
 * byte saves; VRAM, then RAM, the rest stays on the drive. An expert is the unit; it lives in exactly one tier. */
#ifndef COLDSTREAM_PLAN_H
#define COLDSTREAM_PLAN_H

#include "core/tensor.h"
#include "placement/facts.h"
#include "placement/profile.h"

enum plan_tier { PLAN_VRAM, PLAN_RAM, PLAN_NVME, PLAN_TIERS };

enum plan_kind {
    PLAN_DENSE,     /* attention, norms, routers, head */
    PLAN_EMBEDDING, /* the token table, when it is not the head too; always in RAM */
    PLAN_KV,
    PLAN_SCRATCH,  /* activations; in VRAM also the ring that prompts stream experts through */
    PLAN_OVERHEAD, /* the process, rounding to huge pages; in VRAM context, modules and graphs */
    PLAN_EXPERTS,  /* slots; on the drive: the experts without one */
    PLAN_KINDS
};

/* ---- the model ---------------------------------------------------------------------------------------------------- */

enum plan_role {
    PLAN_ROLE_ATTENTION, /* of a layer: matrices and norms */
    PLAN_ROLE_ROUTER,    /* of a layer, with the norm before it */
    PLAN_ROLE_HEAD,
    PLAN_ROLE_EMBEDDING,
    PLAN_ROLE_EXPERTS
};

enum { PLAN_NO_LAYER = UINT32_MAX };

struct plan_tensor {
    struct span name; /* as in the file: for -ot; borrowed */
    enum plan_role role;
    enum tensor_type type;
    uint32_t layer;      /* PLAN_NO_LAYER: of no layer */
    uint64_t bytes;      /* of ONE expert when role is PLAN_ROLE_EXPERTS, else of the whole tensor */
    uint64_t room_bytes; /* what it takes in RAM, widened for direct reads (fetch_room()); >= bytes */
    uint64_t weights;    /* elements, of one expert likewise: multiply-adds a token */
};

/* Numbers come from files: everything is multiplied with care. Filled by engine/plan_model.c, or by hand in tests. */
struct plan_model {
    uint32_t n_layers, n_experts, n_used;
    uint32_t n_tensors;
    struct plan_tensor *tensors; /* owner: who filled it; at most three PLAN_ROLE_EXPERTS a layer */
    uint64_t kv_width;           /* elements of K (and as many of V) a token and layer: KV heads x head size */
    uint64_t q_width;            /* query heads x head size: attention does 2 x q_width multiply-adds a position */
    uint64_t context_length;
    uint32_t ubatch;            /* tokens the scratch sizes below are for */
    uint64_t cpu_scratch_bytes; /* activations, one session's logits */
    uint64_t gpu_scratch_bytes;
};

/* ---- what is asked for ---------------------------------------------------------------------------------------------- */

enum plan_kv { PLAN_KV_F16, PLAN_KV_Q8_0, PLAN_KV_Q4_0, PLAN_KV_F32, PLAN_KV_TYPES };
const char *plan_kv_name(enum plan_kv type); /* "f16" */

/* -ot: tensors whose name matches stay in a tier. For experts VRAM means "must be there", RAM "not in VRAM", NVMe "neither";
 * a rule for one of an expert's matrices moves the whole expert, the slowest tier named wins. So it is with a layer's attention,
 * its router with the norm before it, and the head, each of which is computed where it lies: VRAM or RAM. The first rule that
 * matches a tensor decides, and wins over gpu_layers and n_cpu_moe. Experts can be in VRAM only where their router is. */
enum { PLAN_MAX_PATTERN = 200 };
struct plan_rule {
    char pattern[PLAN_MAX_PATTERN]; /* searched in the name: POSIX extended regular expression; \d, \w and (?:...) understood */
    enum plan_tier tier;
};

/* Cut "RE=BUF,RE=BUF" (BUF: CPU, CUDA0 or NVME) into rules, appended to rules[*n..max). ERR_ARGUMENT names the bad one. */
enum err plan_parse_rules(const char *text, struct plan_rule *rules, uint32_t *n, uint32_t max, struct reason *why) MUST_USE;

enum { PLAN_ALL_LAYERS = UINT32_MAX, PLAN_MAX_RULES = 256 };
#define PLAN_AUTO UINT64_MAX /* of a budget or reserve */

struct plan_request {       /* zero is not a default everywhere: start from plan_request_default() */
    uint64_t ram_budget;    /* bytes of the whole process; PLAN_AUTO: what is available less a reserve */
    uint64_t vram_budget;   /* bytes of VRAM, everything counted; PLAN_AUTO: what is free less vram_reserve */
    uint64_t vram_reserve;  /* left free under vram_budget = PLAN_AUTO; PLAN_AUTO: 150 MiB, and 512 MiB of the card to others */
    uint64_t vram_overhead; /* bytes of driver and CUDA; 0: not measured, as on a large card */
    uint64_t process_bytes; /* RSS of the process before weights, measured by the caller */
    uint64_t context_tokens; /* KV room; 0: the model's, at most 32768, and less where experts would not fit beside it (plan.c) */
    enum plan_kv type_k, type_v;
    bool kv_on_host;         /* -nkvo */
    bool use_gpu;            /* VRAM may be used (facts.gpus[gpu] exists) */
    uint32_t gpu, drive;     /* indices into the facts */
    uint32_t gpu_layers;     /* -ngl: attention, routers and experts of the last N layers at most; the head with N > n_layers; PLAN_ALL_LAYERS */
    uint32_t cpu_moe_layers; /* -ncmoe: experts of the first N layers not in VRAM; -cmoe: PLAN_ALL_LAYERS */
    bool starts_empty;       /* experts come to VRAM after the first token: until then RAM has to have room for a token's */
    uint32_t max_slots;      /* experts in RAM at most; 0: as memory allows */
    uint32_t n_rules;
    const struct plan_rule *rules;   /* borrowed */
    unsigned threads, threads_batch; /* 0: one a core; as threads */
    const char *isa;                 /* NULL: facts.isa */
    uint32_t prompt_tokens;          /* of the prefill prediction; 0: 512 */
    const struct profile *profile;   /* borrowed; shape must match; NULL: none */
};
void plan_request_default(struct plan_request *out);

/* ---- the plan ------------------------------------------------------------------------------------------------------- */

enum plan_resource {
    PLAN_RES_RAM, /* weights and KV read from RAM by the cores */
    PLAN_RES_CPU, /* arithmetic, meetings of threads */
    PLAN_RES_DRIVE,
    PLAN_RES_VRAM, /* weights and KV read from VRAM */
    PLAN_RES_GPU,  /* arithmetic, fixed cost of a layer */
    PLAN_RES_LINK, /* PCIe: copies and hand-offs */
    PLAN_RESOURCES
};
const char *plan_resource_name(enum plan_resource r); /* "RAM bandwidth" */

struct plan_prediction {
    bool known;          /* false: a rate it needs was not measured; the rest is 0 */
    double seconds;      /* of one token, one prompt, or until the first token */
    double tokens_per_s; /* of the first token: 1 / seconds */
    enum plan_resource limit;
    double busy_s[PLAN_RESOURCES]; /* how long each is at work; they overlap */
};

/* RAM slots of one size. */
struct plan_class {
    uint64_t slot_bytes; /* room for the largest expert of the class */
    uint32_t n_layers;
    uint32_t slots; /* at least n_used when any expert may have to be streamed; all of its experts at most */
    uint64_t vram_slot_bytes;
    uint32_t vram_slots;
};

enum { PLAN_MAX_CLASSES = 16 };

struct plan_layer {
    uint8_t class; /* index into plan.classes */
    bool attention_on_gpu, router_on_gpu, kv_on_gpu;
    bool may_vram, may_ram;       /* bounds on its experts */
    bool must_vram;               /* they were asked to be there */
    uint32_t experts[PLAN_TIERS]; /* adds up to n_experts */
    uint64_t expert_bytes;        /* of one */
    double hit_vram, hit_ram;     /* expected shares of its choices; the rest comes from the drive */
};

struct plan_gain { /* what more memory would give */
    bool fits;     /* false: refused even so, or nothing is left to gain */
    uint64_t extra_bytes;
    uint32_t experts;                                 /* more experts in the tier */
    double decode_tokens_per_s, prefill_tokens_per_s; /* then; 0: not known */
};

struct plan {
    bool use_gpu;                           /* false although asked for: see gpu_note */
    const char *gpu_note;                   /* why the GPU stays idle; static text or NULL */
    bool head_on_gpu;
    uint64_t ram_budget, vram_budget;       /* resolved */
    uint64_t bytes[PLAN_TIERS][PLAN_KINDS]; /* PLAN_NVME: experts without a slot, as they are in the file */
    uint64_t vram_ring_bytes; /* of VRAM's scratch: slots that experts pass through */
    uint64_t kv_bytes_per_token;
    uint64_t context_tokens;
    uint32_t n_layers, n_experts, n_used;
    uint32_t experts[PLAN_TIERS];
    bool all_resident; /* nothing will be read from the drive after loading */
    uint32_t n_classes;
    struct plan_class classes[PLAN_MAX_CLASSES];
    struct plan_layer *layers; /* [n_layers] */
    uint8_t *expert_tier;      /* [n_layers * n_experts] enum plan_tier: the first fill; RAM slots are shared in a class */
    uint32_t rule_matches[PLAN_MAX_RULES];

    struct plan_prediction decode;      /* one token, context empty */
    struct plan_prediction decode_full; /* one token, context full */
    struct plan_prediction prefill;     /* prompt_tokens from an empty context, caches warm */
    struct plan_prediction first_token; /* cold start, one-token prompt */
    uint32_t prompt_tokens;
    double drive_bytes_per_token; /* expected reads of a decoded token */
    struct plan_gain more_ram, more_vram;
};

/* ERR_LIMIT: a budget is too small (named, with the missing MiB) or numbers overflow; ERR_ARGUMENT: a rule is malformed or
 * matches nothing, the GPU, drive or profile does not exist or fit. plan_close() is due only after success. */
enum err plan_open(const struct plan_model *m, const struct facts *f, const struct plan_request *r, struct plan *out,
                   struct reason *why) MUST_USE;
void plan_close(struct plan *p);

/* Sum over kinds: what a tier holds. */
uint64_t plan_tier_bytes(const struct plan *p, enum plan_tier tier);

/* Share of choices found among the `residency` (0..1) best experts of a layer under an adaptive cache, trained router, no
 * profile: measured on Qwen3-30B-A3B. */
double plan_generic_hit_rate(double residency);

#endif

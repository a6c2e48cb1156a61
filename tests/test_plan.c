/* The planner: every machine file and some made here, under every combination of flags, against what must hold of any plan;
 * exact borders of budgets; the roofline table's residencies and rates. */
#include "tests/support/check.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement/cost.h"
#include "placement/plan.h"
#include "tests/support/plan_cases.h"

#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

enum { MAX_MACHINES = 64 };

static struct facts *machines[MAX_MACHINES]; /* the last few are made here */
static unsigned n_machines, n_machine_files;
static struct plan_case big, small_mix, odd; /* 30B in two mixes; one with few, uneven experts */

/* ---- machines ------------------------------------------------------------------------------------------------------- */

static struct facts *new_machine(void) {
    struct facts *f = calloc(1, sizeof *f);
    assert_non_null(f);
    assert_true(n_machines < MAX_MACHINES);
    machines[n_machines++] = f;
    plan_case_machine(f);
    return f;
}

static void read_machine(const char *path) {
    struct text json = {0};
    struct reason why = {{0}};
    char piece[4096];
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    for (size_t n; (n = fread(piece, 1, sizeof piece, file));) text_add(&json, piece, n);
    fclose(file);
    struct facts *f = new_machine();
    if (facts_parse((struct span){json.ptr, json.len}, f, &why)) fail_test("%s: %s", path, why.text);
    text_free(&json);
}

static int setup(void **state) {
    (void)state;
    big = plan_case_30b("q4_k_m");
    small_mix = plan_case_30b("2.99bpw");
    odd = plan_case_small(7, 10, 3);
    DIR *folder = opendir(TESTS_DIR "/machines");
    for (struct dirent *e; folder && (e = readdir(folder));) {
        char path[512];
        const size_t n = strlen(e->d_name);
        if (n < 5 || strcmp(e->d_name + n - 5, ".json") != 0) continue;
        snprintf(path, sizeof path, TESTS_DIR "/machines/%s", e->d_name);
        read_machine(path);
    }
    if (folder) closedir(folder);
    n_machine_files = n_machines;
    new_machine(); /* no GPU */
    struct facts *little = new_machine();
    little->memory_total_bytes = little->memory_available_bytes = 6 * GIB;
    plan_case_gpu(new_machine(), 16380 * MIB, 288e9, 13e9);
    struct facts *server = new_machine(); /* RAM faster than the GPU's memory */
    plan_case_gpu(server, 24 * GIB, 200e9, 25e9);
    for (unsigned i = 0; i < server->n_ram_rates; i++) server->ram_rates[i].bytes_per_s *= 8;
    for (unsigned i = 0; i < server->n_kernels; i++) server->kernels[i].decode_bytes_per_s *= 8;
    struct facts *unmeasured = new_machine();
    plan_case_gpu(unmeasured, 8 * GIB, 0, 0);
    unmeasured->gpus[0].batch_macs_per_s = 0;
    unmeasured->n_ram_rates = unmeasured->n_kernels = unmeasured->n_drives = 0;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    for (unsigned i = 0; i < n_machines; i++) free(machines[i]);
    plan_case_close(&big);
    plan_case_close(&small_mix);
    plan_case_close(&odd);
    return 0;
}

/* ---- what holds of any plan --------------------------------------------------------------------------------------------- */

#define CHECK(condition, ...)                                                                                                  \
    do {                                                                                                                       \
        if (!(condition)) fail_test("%s: " #condition, label);                                                                 \
    } while (0)

static void check_experts(const char *label, const struct plan_model *m, const struct plan *p) {
    uint32_t total[PLAN_TIERS] = {0};
    for (uint32_t l = 0; l < m->n_layers; l++) {
        uint32_t count[PLAN_TIERS] = {0};
        for (uint32_t e = 0; e < m->n_experts; e++) {
            const uint8_t tier = p->expert_tier[(size_t)l * m->n_experts + e];
            CHECK(tier < PLAN_TIERS);
            count[tier]++;
        }
        for (int t = 0; t < PLAN_TIERS; t++) {
            CHECK(count[t] == p->layers[l].experts[t]);
            total[t] += count[t];
        }
        CHECK(p->layers[l].may_vram || count[PLAN_VRAM] == 0);
        CHECK(p->layers[l].may_ram || count[PLAN_RAM] == 0);
        CHECK(p->layers[l].hit_vram >= 0 && p->layers[l].hit_ram >= 0 &&
              p->layers[l].hit_vram + p->layers[l].hit_ram <= 1 + 1e-9);
        CHECK(count[PLAN_NVME] > 0 || p->layers[l].hit_vram + p->layers[l].hit_ram > 1 - 1e-9);
    }
    for (int t = 0; t < PLAN_TIERS; t++) CHECK(total[t] == p->experts[t]);
    CHECK(p->all_resident == (total[PLAN_NVME] == 0));
}

static void check_classes(const char *label, const struct plan_model *m, const struct plan *p) {
    uint32_t held[PLAN_MAX_CLASSES][PLAN_TIERS] = {{0}}, layers[PLAN_MAX_CLASSES] = {0};
    uint64_t ram = 0, vram = 0, most[PLAN_MAX_CLASSES] = {0};
    for (uint32_t i = 0; i < m->n_tensors; i++) { /* the expert fits its slot */
        const struct plan_tensor *t = &m->tensors[i];
        uint64_t room = 0, bytes = 0;
        for (uint32_t k = 0; t->role == PLAN_ROLE_EXPERTS && k < m->n_tensors && k < i + 3; k++)
            if (m->tensors[k].role == PLAN_ROLE_EXPERTS && m->tensors[k].layer == t->layer)
                room += m->tensors[k].room_bytes, bytes += m->tensors[k].bytes;
        if (t->role != PLAN_ROLE_EXPERTS) continue;
        CHECK(p->layers[t->layer].class < p->n_classes);
        CHECK(room <= p->classes[p->layers[t->layer].class].slot_bytes);
        CHECK(bytes <= p->classes[p->layers[t->layer].class].vram_slot_bytes);
    }
    for (uint32_t l = 0; l < m->n_layers; l++) {
        const uint8_t c = p->layers[l].class;
        layers[c]++;
        for (int t = 0; t < PLAN_TIERS; t++) held[c][t] += p->layers[l].experts[t];
        if (p->layers[l].may_ram) most[c] += m->n_experts - p->layers[l].experts[PLAN_VRAM];
    }
    for (uint32_t c = 0; c < p->n_classes; c++) {
        const struct plan_class *class = &p->classes[c];
        const uint64_t away = (uint64_t)layers[c] * m->n_experts - class->vram_slots;
        CHECK(class->n_layers == layers[c]);
        CHECK(class->vram_slots == held[c][PLAN_VRAM]);
        CHECK(class->slots >= held[c][PLAN_RAM]);
        CHECK(class->slots >= (away < m->n_used ? away : m->n_used));
        CHECK(class->slots <= (most[c] > m->n_used ? most[c] : m->n_used));
        ram += class->slots * class->slot_bytes;
        vram += class->vram_slots * class->vram_slot_bytes;
    }
    CHECK(ram == p->bytes[PLAN_RAM][PLAN_EXPERTS]);
    CHECK(vram == p->bytes[PLAN_VRAM][PLAN_EXPERTS]);
}

static void check_prediction(const char *label, const struct plan_prediction *q) {
    if (!q->known) {
        CHECK(q->seconds == 0 && q->tokens_per_s == 0);
        return;
    }
    CHECK(isfinite(q->seconds) && q->seconds > 0);
    CHECK(isfinite(q->tokens_per_s) && q->tokens_per_s > 0);
    for (int i = 0; i < PLAN_RESOURCES; i++) {
        CHECK(isfinite(q->busy_s[i]) && q->busy_s[i] >= 0);
        CHECK(q->busy_s[i] <= q->busy_s[q->limit]);
    }
}

static void check_plan(const char *label, const struct plan_model *m, const struct plan_request *r, const struct plan *p) {
    CHECK(plan_tier_bytes(p, PLAN_RAM) <= p->ram_budget);
    CHECK(plan_tier_bytes(p, PLAN_VRAM) <= p->vram_budget);
    CHECK(r->ram_budget == PLAN_AUTO || p->ram_budget <= r->ram_budget);
    CHECK(r->vram_budget == PLAN_AUTO || p->vram_budget <= r->vram_budget);
    CHECK(p->use_gpu || plan_tier_bytes(p, PLAN_VRAM) == 0);
    check_experts(label, m, p);
    check_classes(label, m, p);
    check_prediction(label, &p->decode);
    check_prediction(label, &p->decode_full);
    check_prediction(label, &p->prefill);
    check_prediction(label, &p->first_token);
    if (p->decode.known && p->decode_full.known) CHECK(p->decode_full.seconds >= p->decode.seconds);
    uint64_t kv = 0;
    CHECK(!__builtin_mul_overflow(p->kv_bytes_per_token, p->context_tokens, &kv));
    CHECK(p->bytes[PLAN_RAM][PLAN_KV] + p->bytes[PLAN_VRAM][PLAN_KV] == kv);
    for (uint32_t l = 0; l < m->n_layers; l++) {
        CHECK(!r->kv_on_host || !p->layers[l].kv_on_gpu);
        CHECK(l + (uint64_t)r->gpu_layers >= m->n_layers || !(p->layers[l].attention_on_gpu || p->layers[l].router_on_gpu));
        if (r->n_rules == 0 && l < r->cpu_moe_layers) CHECK(p->layers[l].experts[PLAN_VRAM] == 0);
    }
    for (int t = 0; t < 2; t++) {
        const struct plan_gain *gain = t ? &p->more_vram : &p->more_ram;
        if (gain->decode_tokens_per_s > 0 && p->decode.known)
            CHECK(gain->decode_tokens_per_s >= p->decode.tokens_per_s * (1 - 1e-9));
    }
}

/* ---- combinations ------------------------------------------------------------------------------------------------------- */

static struct plan_request combination(const struct facts *f, unsigned i) {
    static const uint32_t layers[] = {PLAN_ALL_LAYERS, 0, 1, 20, 48};
    static const uint32_t cpu_moe[] = {0, 3, PLAN_ALL_LAYERS};
    static const uint64_t contexts[] = {4096, 0, 131072};
    struct plan_request r;
    plan_request_default(&r);
    r.use_gpu = f->n_gpus > 0;
    r.process_bytes = 40 * MIB;
    r.gpu_layers = layers[i % 5], i /= 5;
    r.cpu_moe_layers = cpu_moe[i % 3], i /= 3;
    r.context_tokens = contexts[i % 3], i /= 3;
    r.kv_on_host = i % 2, i /= 2;
    r.type_k = r.type_v = (enum plan_kv)(i % 3), i /= 3;
    return r;
}

enum { COMBINATIONS = 5 * 3 * 3 * 2 * 3 };

static void any_combination_holds(void **state) {
    (void)state;
    const struct plan_model *models[] = {&big.model, &small_mix.model, &odd.model};
    unsigned plans = 0, refusals = 0;
    for (unsigned k = 0; k < n_machines; k++)
        for (unsigned i = k % 3; i < COMBINATIONS; i += 3) { /* neighbouring machines share the combinations */
            const struct plan_model *m = models[i % 2 ? 2 : k % 2];
            const struct plan_request r = combination(machines[k], i);
            char label[160];
            struct plan p;
            struct reason why = {{0}};
            snprintf(label, sizeof label, "%s, combination %u", machines[k]->name, i);
            const enum err code = plan_open(m, machines[k], &r, &p, &why);
            if (code) {
                CHECK(code == ERR_LIMIT && strstr(why.text, "MiB are missing"));
                refusals++;
                continue;
            }
            plans++;
            check_plan(label, m, &r, &p);
            plan_close(&p);
        }
    assert_true(plans > 200 && refusals > 0);
}

static void every_machine_file_is_there(void **state) {
    (void)state;
    if (n_machine_files == 0) skip();
    assert_true(n_machine_files >= 10);
}

/* ---- budgets ------------------------------------------------------------------------------------------------------------- */

struct sweep {
    const struct plan_model *m;
    const struct facts *f;
    struct plan_request r;
    uint64_t *budget; /* in r */
    const char *name;
};

/* A larger budget never holds fewer experts, never is slower, and is never refused where a smaller one was not. */
static void sweep_budget(struct sweep *s, uint64_t from, uint64_t to, uint64_t step) {
    const char *label = s->name;
    uint32_t held = 0, plans = 0;
    double decode = 0, full = 0, prefill = 0;
    for (uint64_t budget = from; budget <= to; budget += step) {
        struct plan p;
        *s->budget = budget;
        const enum err code = plan_open(s->m, s->f, &s->r, &p, NULL);
        if (code) {
            CHECK(code == ERR_LIMIT && plans == 0);
            continue;
        }
        const uint32_t now = p.experts[PLAN_VRAM] + p.experts[PLAN_RAM];
        CHECK(now >= held);
        CHECK(p.decode.tokens_per_s >= decode * (1 - 1e-9) && p.decode_full.tokens_per_s >= full * (1 - 1e-9));
        CHECK(p.prefill.tokens_per_s >= prefill * (1 - 1e-9));
        held = now, decode = p.decode.tokens_per_s, full = p.decode_full.tokens_per_s, prefill = p.prefill.tokens_per_s;
        plans++;
        check_plan(label, s->m, &s->r, &p);
        plan_close(&p);
    }
    CHECK(plans > 3);
}

static void more_ram_is_never_worse(void **state) {
    (void)state;
    for (unsigned k = 0; k < n_machines; k++) {
        struct facts f = *machines[k];
        if (f.memory_available_bytes == 0) f.memory_available_bytes = f.memory_total_bytes;
        f.memory_available_bytes = f.memory_total_bytes = 64 * GIB;
        struct sweep s = {.m = k % 2 ? &big.model : &small_mix.model, .f = &f, .name = f.name};
        plan_request_default(&s.r);
        s.r.use_gpu = f.n_gpus > 0;
        s.r.context_tokens = 4096;
        s.budget = &s.r.ram_budget;
        sweep_budget(&s, 300 * MIB, 20 * GIB, 700 * MIB + 1);
    }
}

static void more_vram_is_never_worse(void **state) {
    (void)state;
    for (unsigned k = 0; k < n_machines; k++) {
        struct facts f = *machines[k];
        if (f.n_gpus == 0) continue;
        f.gpus[0].vram_bytes = f.gpus[0].vram_free_bytes = 64 * GIB;
        f.memory_available_bytes = f.memory_total_bytes = k % 2 ? 64 * GIB : 8 * GIB;
        struct sweep s = {.m = k % 2 ? &small_mix.model : &big.model, .f = &f, .name = f.name};
        plan_request_default(&s.r);
        s.r.use_gpu = true;
        s.r.context_tokens = 4096;
        s.budget = &s.r.vram_budget;
        sweep_budget(&s, 300 * MIB, 20 * GIB, 900 * MIB + 1);
    }
}

/* Slot by slot, where sizes differ and rounding could lose one. */
static void single_slots_are_never_lost(void **state) {
    (void)state;
    struct facts f = *machines[n_machine_files + 2];
    struct sweep s = {.m = &odd.model, .f = &f, .name = "odd model"};
    plan_request_default(&s.r);
    s.r.context_tokens = 100;
    s.budget = &s.r.ram_budget;
    sweep_budget(&s, 80 * MIB, 130 * MIB, 40001);
    s.r.use_gpu = true;
    s.r.ram_budget = 110 * MIB;
    s.budget = &s.r.vram_budget;
    sweep_budget(&s, 370 * MIB, 420 * MIB, 40001);
}

/* The smallest budget that is accepted. */
static uint64_t least_budget(struct sweep *s, uint64_t low, uint64_t high) {
    while (low < high) {
        struct plan p;
        const uint64_t middle = *s->budget = low + (high - low) / 2;
        if (plan_open(s->m, s->f, &s->r, &p, NULL)) {
            low = middle + 1;
        } else {
            high = middle;
            plan_close(&p);
        }
    }
    return low;
}

static void check_border(struct sweep *s, enum plan_tier tier, const char *flag) {
    struct plan p;
    struct reason why = {{0}};
    const uint64_t least = least_budget(s, 1, 16 * GIB);
    *s->budget = least;
    assert_int_equal(plan_open(s->m, s->f, &s->r, &p, &why), ERR_NONE);
    assert_int_equal(plan_tier_bytes(&p, tier), least); /* not a byte of slack is hidden */
    plan_close(&p);
    *s->budget = least - 1;
    assert_int_equal(plan_open(s->m, s->f, &s->r, &p, &why), ERR_LIMIT);
    assert_non_null(strstr(why.text, flag));
    assert_non_null(strstr(why.text, ": 1 MiB are missing"));
    *s->budget = least - 5 * MIB;
    assert_int_equal(plan_open(s->m, s->f, &s->r, &p, &why), ERR_LIMIT);
    assert_non_null(strstr(why.text, ": 5 MiB are missing"));
}

static void refusals_are_exact(void **state) {
    (void)state;
    struct sweep s = {.m = &big.model, .f = machines[n_machine_files + 2], .name = "border"};
    plan_request_default(&s.r);
    s.r.context_tokens = 4096;
    s.r.process_bytes = 30 * MIB;
    s.budget = &s.r.ram_budget;
    check_border(&s, PLAN_RAM, "--ram-budget");
    s.r.use_gpu = true;
    check_border(&s, PLAN_RAM, "--ram-budget");
    s.r.ram_budget = PLAN_AUTO;
    s.budget = &s.r.vram_budget;
    check_border(&s, PLAN_VRAM, "--vram-budget");
}

/* The context that a refusal offers does fit, and one token more does not. */
static void advised_contexts_fit(void **state) {
    (void)state;
    struct plan_request r;
    struct plan p;
    struct reason why = {{0}};
    plan_request_default(&r);
    r.ram_budget = 2 * GIB;
    r.context_tokens = 32768;
    assert_int_equal(plan_open(&big.model, machines[n_machine_files], &r, &p, &why), ERR_LIMIT);
    const char *advice = strstr(why.text, "-c ");
    assert_non_null(advice);
    r.context_tokens = strtoull(advice + 3, NULL, 10);
    assert_true(r.context_tokens > 1000 && r.context_tokens < 32768);
    assert_int_equal(plan_open(&big.model, machines[n_machine_files], &r, &p, &why), ERR_NONE);
    plan_close(&p);
    r.context_tokens++;
    assert_int_equal(plan_open(&big.model, machines[n_machine_files], &r, &p, &why), ERR_LIMIT);
}

/* ---- bounds ---------------------------------------------------------------------------------------------------------------
 */

static enum err open_with(const char *rules, const struct facts *f, struct plan_request *r, struct plan_rule *store,
                          struct plan *p, struct reason *why) {
    r->rules = store;
    r->n_rules = 0;
    const enum err code = plan_parse_rules(rules, store, &r->n_rules, PLAN_MAX_RULES, why);
    return code ? code : plan_open(&big.model, f, r, p, why);
}

static void rules_are_followed(void **state) {
    (void)state;
    const struct facts *f = machines[n_machine_files + 2];
    struct plan_rule rules[PLAN_MAX_RULES];
    struct plan_request r;
    struct plan p;
    struct reason why = {{0}};
    plan_request_default(&r);
    r.use_gpu = true;
    r.context_tokens = 4096;
    assert_int_equal(
        open_with("blk\\.(?:[0-4])\\.ffn_.*_exps=NVME,blk\\.\\d{2}\\.ffn_up_exps=CPU,attn_q=CPU", f, &r, rules, &p, &why),
        ERR_NONE);
    assert_int_equal(r.n_rules, 3);
    assert_int_equal(p.rule_matches[0], 15);
    assert_int_equal(p.rule_matches[1], 38); /* one matrix takes the whole expert along */
    assert_int_equal(p.rule_matches[2], 48);
    for (uint32_t l = 0; l < 48; l++) {
        assert_true(!p.layers[l].attention_on_gpu && !p.layers[l].kv_on_gpu && p.layers[l].router_on_gpu);
        assert_true(l >= 5 || p.layers[l].experts[PLAN_NVME] == 128);
        assert_true(l < 10 || p.layers[l].experts[PLAN_VRAM] == 0);
        assert_true(l < 5 || l > 9 || p.layers[l].experts[PLAN_VRAM] == 128);
    }
    check_plan("rules", &big.model, &r, &p);
    plan_close(&p);

    /* CUDA0 wins over -cmoe and goes in first */
    r.cpu_moe_layers = PLAN_ALL_LAYERS;
    assert_int_equal(open_with("blk\\.47\\..*exps=CUDA0,exps=CPU", f, &r, rules, &p, &why), ERR_NONE);
    assert_int_equal(p.experts[PLAN_VRAM], 128);
    assert_int_equal(p.layers[47].experts[PLAN_VRAM], 128);
    plan_close(&p);
    r.vram_budget = 2 * GIB;
    assert_int_equal(open_with("exps=CUDA0", f, &r, rules, &p, &why), ERR_LIMIT);
    assert_non_null(strstr(why.text, "--vram-budget"));
}

/* A layer's attention, its router and the head each are where the slowest rule for one of their tensors says. */
static void rules_move_whole_parts(void **state) {
    (void)state;
    const struct facts *f = machines[n_machine_files + 2];
    struct plan_rule rules[PLAN_MAX_RULES];
    struct plan_request r;
    struct plan p;
    struct reason why = {{0}};
    plan_request_default(&r);
    r.use_gpu = true;
    r.context_tokens = 4096;
    assert_int_equal(open_with("blk\\.3\\.attn_k=CPU,blk\\.3\\.attn=CUDA0,blk\\.4\\.ffn_gate_inp=CPU,^output\\.=CPU", f, &r, rules, &p, &why), ERR_NONE);
    for (uint32_t l = 0; l < 48; l++) {
        assert_int_equal(p.layers[l].attention_on_gpu, l != 3);
        assert_int_equal(p.layers[l].router_on_gpu, l != 4);
        assert_true(l != 4 || p.layers[l].experts[PLAN_VRAM] == 0);
    }
    assert_false(p.head_on_gpu);
    assert_int_equal(p.bytes[PLAN_RAM][PLAN_KV], 4096 * p.kv_bytes_per_token / 48);
    check_plan("parts", &big.model, &r, &p);
    plan_close(&p);

    r.gpu_layers = 10;
    assert_int_equal(open_with("blk\\.5\\.ffn_gate_inp=CUDA0,blk\\.5\\..*exps=CUDA0,^output\\.=CUDA0", f, &r, rules, &p, &why), ERR_NONE);
    assert_true(p.head_on_gpu && p.layers[5].router_on_gpu && !p.layers[5].attention_on_gpu && p.layers[5].experts[PLAN_VRAM] == 128);
    plan_close(&p);
    assert_int_equal(open_with("blk\\.5\\..*exps=CUDA0", f, &r, rules, &p, &why), ERR_ARGUMENT);
    assert_non_null(strstr(why.text, "where their router is"));
}

/* Each layer more on a GPU that holds them all makes a token faster, and takes from RAM what it adds to VRAM. */
static void more_gpu_layers_are_faster(void **state) {
    (void)state;
    double before = 0;
    uint64_t dense = 0;
    for (uint32_t layers = 1; layers <= 49; layers += layers == 1 ? 5 : 6) {
        struct facts f = *machines[n_machine_files + 2];
        struct plan_request r;
        struct plan p;
        plan_request_default(&r);
        f.gpus[0].vram_bytes = f.gpus[0].vram_free_bytes = 64 * GIB;
        r.use_gpu = true;
        r.context_tokens = 4096;
        r.gpu_layers = layers;
        assert_int_equal(plan_open(&big.model, &f, &r, &p, NULL), ERR_NONE);
        if (p.decode.known && p.decode.tokens_per_s <= before) fail_test("-ngl %u: %.1f tok/s, %.1f before", layers, p.decode.tokens_per_s, before);
        const uint64_t both = p.bytes[PLAN_RAM][PLAN_DENSE] + p.bytes[PLAN_VRAM][PLAN_DENSE];
        assert_true(p.bytes[PLAN_VRAM][PLAN_DENSE] > dense && both > 0);
        before = p.decode.tokens_per_s;
        dense = p.bytes[PLAN_VRAM][PLAN_DENSE];
        plan_close(&p);
    }
}

static void bad_rules_are_named(void **state) {
    (void)state;
    static const struct {
        const char *rules, *says;
    } cases[] = {{"exps", "REGEX=BUFFER"},      {"=CPU", "REGEX=BUFFER"}, {"exps=", "REGEX=BUFFER"},
                 {"exps=DISK", "CUDA0"},        {"(exps=CPU", "(exps"},   {"nothing_like_it=CPU", "no tensor"},
                 {"attn=NVME", "only experts"}, {"exps=CUDA0", "no GPU"}, {"attn_k=CUDA0", "no GPU"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct plan_rule rules[PLAN_MAX_RULES];
        struct plan_request r;
        struct plan p;
        struct reason why = {{0}};
        plan_request_default(&r);
        if (open_with(cases[i].rules, machines[n_machine_files], &r, rules, &p, &why) != ERR_ARGUMENT ||
            !strstr(why.text, cases[i].says))
            fail_test("-ot %s: %s", cases[i].rules, why.text);
    }
    struct plan_rule rules[2];
    char text[2 * PLAN_MAX_PATTERN];
    uint32_t n = 0;
    struct reason why = {{0}};
    assert_int_equal(plan_parse_rules("a=CPU,b=CPU,c=CPU", rules, &n, 2, &why), ERR_ARGUMENT);
    memset(text, 'x', sizeof text);
    memcpy(text + sizeof text - 5, "=CPU", 5);
    n = 0;
    assert_int_equal(plan_parse_rules(text, rules, &n, 2, &why), ERR_ARGUMENT);
    n = 0;
    assert_int_equal(plan_parse_rules("x{1,2}=cpu,y=NVME", rules, &n, 2, &why), ERR_NONE); /* a comma inside a pattern */
    assert_string_equal(rules[0].pattern, "x{1,2}");
    assert_int_equal(rules[1].tier, PLAN_NVME);
}

static void layer_bounds_choose_layers(void **state) {
    (void)state;
    struct plan_request r;
    struct plan p;
    plan_request_default(&r);
    r.use_gpu = true;
    r.context_tokens = 4096;
    r.gpu_layers = 10;
    r.cpu_moe_layers = 40;
    assert_int_equal(plan_open(&big.model, machines[n_machine_files + 2], &r, &p, NULL), ERR_NONE);
    for (uint32_t l = 0; l < 48; l++) { /* -ngl counts from the end, -ncmoe from the start */
        assert_true(p.layers[l].attention_on_gpu == (l >= 38) && p.layers[l].router_on_gpu == (l >= 38));
        assert_int_equal(p.layers[l].experts[PLAN_VRAM], l >= 40 ? 128 : 0);
    }
    const uint64_t with_head = p.bytes[PLAN_RAM][PLAN_DENSE];
    plan_close(&p);
    r.gpu_layers = 49; /* all layers and the head */
    assert_int_equal(plan_open(&big.model, machines[n_machine_files + 2], &r, &p, NULL), ERR_NONE);
    assert_int_equal(p.bytes[PLAN_RAM][PLAN_DENSE], 0);
    assert_true(with_head > 255 * 1000 * 1000);
    plan_close(&p);
    r.gpu_layers = 0;
    assert_int_equal(plan_open(&big.model, machines[n_machine_files + 2], &r, &p, NULL), ERR_NONE);
    assert_false(p.use_gpu);
    plan_close(&p);
}

static void kv_types_change_bytes(void **state) {
    (void)state;
    static const uint64_t bytes[] = {98304, 52224, 27648, 196608}; /* a token of 48 layers, 4 heads of 128, K and V */
    for (int i = 0; i < PLAN_KV_TYPES; i++)
        for (int k = 0; k < 2; k++) {
            struct plan_request r;
            struct plan p;
            plan_request_default(&r);
            r.type_v = (enum plan_kv)i;
            r.type_k = k ? (enum plan_kv)i : PLAN_KV_F16;
            r.context_tokens = 1000;
            assert_int_equal(plan_open(&big.model, machines[n_machine_files], &r, &p, NULL), ERR_NONE);
            assert_int_equal(p.kv_bytes_per_token, k ? bytes[i] : (bytes[i] + bytes[0]) / 2);
            assert_int_equal(p.bytes[PLAN_RAM][PLAN_KV], 1000 * p.kv_bytes_per_token);
            plan_close(&p);
        }
}

static void slots_share_memory_evenly(void **state) {
    (void)state;
    for (uint64_t budget = 2 * GIB; budget < 19 * GIB; budget += GIB) {
        struct plan_request r;
        struct plan p;
        plan_request_default(&r);
        r.ram_budget = budget;
        r.context_tokens = 4096;
        assert_int_equal(plan_open(&big.model, machines[n_machine_files], &r, &p, NULL), ERR_NONE);
        assert_int_equal(p.n_classes, 2);
        assert_int_equal(p.classes[0].slot_bytes, 2666496);
        assert_int_equal(p.classes[1].slot_bytes, 3072000);
        assert_true(abs((int)p.classes[0].slots - (int)p.classes[1].slots) <= 1);
        assert_true(p.all_resident || p.ram_budget - plan_tier_bytes(&p, PLAN_RAM) < 3072000);
        uint32_t least = 128, most = 0;
        for (uint32_t l = 0; l < 48; l++) {
            least = p.layers[l].experts[PLAN_RAM] < least ? p.layers[l].experts[PLAN_RAM] : least;
            most = p.layers[l].experts[PLAN_RAM] > most ? p.layers[l].experts[PLAN_RAM] : most;
        }
        assert_true(most - least <= 1); /* nothing is known of any layer, so all are alike */
        plan_close(&p);
    }
    struct plan_request r;
    struct plan p;
    plan_request_default(&r);
    r.context_tokens = 4096;
    r.max_slots = 1000;
    assert_int_equal(plan_open(&big.model, machines[n_machine_files], &r, &p, NULL), ERR_NONE);
    assert_int_equal(p.classes[0].slots + p.classes[1].slots, 1000);
    plan_close(&p);
    r.max_slots = 1; /* a layer's choice has to fit all the same */
    assert_int_equal(plan_open(&big.model, machines[n_machine_files], &r, &p, NULL), ERR_NONE);
    assert_int_equal(p.classes[0].slots, 8);
    assert_int_equal(p.classes[1].slots, 8);
    plan_close(&p);
}

/* Many sizes, as mixed files have: few classes, and every expert fits its slot. */
static void many_sizes_share_classes(void **state) {
    (void)state;
    struct plan_case c = plan_case_small(40, 6, 2);
    for (uint32_t i = 0; i < c.model.n_tensors; i++)
        if (c.model.tensors[i].role == PLAN_ROLE_EXPERTS)
            c.model.tensors[i].room_bytes += 4096 * (c.model.tensors[i].layer * 7 % 40);
    struct plan_request r;
    struct plan p;
    plan_request_default(&r);
    r.context_tokens = 100;
    assert_int_equal(plan_open(&c.model, machines[n_machine_files], &r, &p, NULL), ERR_NONE);
    assert_int_equal(p.n_classes, PLAN_MAX_CLASSES);
    check_plan("many sizes", &c.model, &r, &p);
    plan_close(&p);
    plan_case_close(&c);
}

/* ---- profiles --------------------------------------------------------------------------------------------------------------
 */

/* In each layer eight experts take nearly everything; layers with odd numbers are used as if 10 times as concentrated. */
static void fill_profile(struct profile *p) {
    p->tokens = 10000;
    for (uint32_t l = 0; l < p->n_layers; l++)
        for (uint32_t e = 0; e < p->n_experts; e++)
            p->counts[l * p->n_experts + e] = e % 16 == l % 16 ? 9000 : (l % 2 ? 10 : 100) + e % 7;
    p->reuse[3] = 700, p->reuse[20] = 200, p->reuse[60] = 80, p->reuse[p->n_experts] = 20;
}

static void hot_experts_come_first(void **state) {
    (void)state;
    struct profile profile;
    assert_int_equal(profile_open(48, 128, 8, &profile, NULL), ERR_NONE);
    fill_profile(&profile);
    struct plan_request r;
    struct plan p;
    plan_request_default(&r);
    r.profile = &profile;
    r.use_gpu = true;
    r.context_tokens = 4096;
    r.ram_budget = 3 * GIB;
    r.vram_budget = 4 * GIB;
    assert_int_equal(plan_open(&big.model, machines[n_machine_files + 2], &r, &p, NULL), ERR_NONE);
    for (uint32_t l = 0; l < 48; l++)
        for (uint32_t e = 0; e < 128; e++)
            if (e % 16 == l % 16) assert_int_equal(p.expert_tier[l * 128 + e], PLAN_VRAM);
    check_plan("profile", &big.model, &r, &p);
    const double with = p.decode.tokens_per_s;
    assert_true(p.layers[1].hit_vram > 0.95);
    plan_close(&p);

    r.use_gpu = false;
    assert_int_equal(plan_open(&big.model, machines[n_machine_files + 2], &r, &p, NULL), ERR_NONE);
    for (uint32_t l = 0; l < 48; l++)
        for (uint32_t e = 0; e < 128; e++)
            if (e % 16 == l % 16) assert_int_equal(p.expert_tier[l * 128 + e], PLAN_RAM);
    assert_true(p.decode.tokens_per_s < with);
    plan_close(&p);

    struct sweep s = {.m = &big.model, .f = machines[n_machine_files + 2], .r = r, .name = "profile"};
    s.budget = &s.r.ram_budget;
    sweep_budget(&s, 2 * GIB, 20 * GIB, 511 * MIB);
    s.r.use_gpu = true;
    s.r.ram_budget = 3 * GIB;
    s.budget = &s.r.vram_budget;
    sweep_budget(&s, 2 * GIB, 16 * GIB, 511 * MIB);

    assert_int_equal(plan_open(&odd.model, machines[n_machine_files], &r, &p, NULL), ERR_ARGUMENT); /* of another shape */
    profile_close(&profile);
}

/* However cold a layer is, its first n_used experts come before anybody's ninth. */
static void no_layer_is_starved(void **state) {
    (void)state;
    struct profile profile;
    assert_int_equal(profile_open(48, 128, 8, &profile, NULL), ERR_NONE);
    fill_profile(&profile);
    for (uint32_t e = 0; e < 128; e++) profile.counts[11 * 128 + e] *= 1e-6;
    struct plan_request r;
    struct plan p;
    plan_request_default(&r);
    r.profile = &profile;
    r.use_gpu = true;
    r.context_tokens = 4096;
    r.vram_budget = 4 * GIB;
    assert_int_equal(plan_open(&big.model, machines[n_machine_files + 2], &r, &p, NULL), ERR_NONE);
    assert_int_equal(p.layers[11].experts[PLAN_VRAM], 8);
    assert_true(p.layers[10].experts[PLAN_VRAM] > 8);
    plan_close(&p);
    profile_close(&profile);
}

/* ---- the roofline study's table
 * ---------------------------------------------------------------------------------------------- */

static void residency_matches_the_study(void **state) {
    (void)state;
    static const struct {
        bool small;
        uint64_t context;
        enum plan_kv type;
        double percent;
    } cells[] = {{false, 4096, PLAN_KV_F16, 84},    {false, 32768, PLAN_KV_F16, 68},   {false, 32768, PLAN_KV_Q8_0, 76},
                 {false, 131072, PLAN_KV_Q8_0, 47}, {false, 262144, PLAN_KV_Q4_0, 45}, {true, 4096, PLAN_KV_F16, 100},
                 {true, 32768, PLAN_KV_F16, 100},   {true, 131072, PLAN_KV_Q8_0, 78},  {true, 262144, PLAN_KV_Q4_0, 75}};
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++) {
        struct plan_request r;
        struct plan p;
        plan_request_default(&r);
        r.use_gpu = true;
        r.context_tokens = cells[i].context;
        r.type_k = r.type_v = cells[i].type;
        struct plan_model m = cells[i].small ? small_mix.model : big.model;
        m.gpu_scratch_bytes = 240 * MIB; /* the study's, for prompts in 2048s */
        assert_int_equal(plan_open(&m, machines[n_machine_files + 2], &r, &p, NULL), ERR_NONE);
        const double percent = 100.0 * p.experts[PLAN_VRAM] / 6144;
        if (fabs(percent - cells[i].percent) > 3)
            fail_test("context %llu: %.1f %% of the experts in VRAM, the study says %.0f", (unsigned long long)cells[i].context,
                      percent, cells[i].percent);
        plan_close(&p);
    }
}

/* Tokens a second with the context full; the study's ranges for expert-granular placement, 5 % around. */
static void decode_matches_the_study(void **state) {
    (void)state;
    static const struct {
        double vram, link, low, high;
        uint64_t context;
    } cells[] = {{288e9, 13e9, 86, 93, 4096},  {288e9, 13e9, 43, 46, 32768},  {448e9, 26e9, 121, 131, 4096},
                 {448e9, 26e9, 64, 69, 32768}, {717e9, 25e9, 168, 181, 4096}, {717e9, 25e9, 94, 102, 32768}};
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++) {
        struct facts f = *machines[n_machine_files];
        struct plan_request r;
        struct plan p;
        plan_case_gpu(&f, 16380 * MIB, cells[i].vram, cells[i].link);
        plan_request_default(&r);
        r.use_gpu = true;
        r.context_tokens = cells[i].context;
        assert_int_equal(plan_open(&big.model, &f, &r, &p, NULL), ERR_NONE);
        const double rate = p.decode_full.tokens_per_s;
        if (rate < cells[i].low * 0.95 || rate > cells[i].high * 1.05)
            fail_test("%.0f GB/s, context %llu: %.1f tok/s", cells[i].vram / 1e9, (unsigned long long)cells[i].context, rate);
        assert_int_equal(p.decode_full.limit, PLAN_RES_VRAM);
        plan_close(&p);
    }
}

static void the_generic_curve_rises(void **state) {
    (void)state;
    assert_true(plan_generic_hit_rate(0) == 0 && plan_generic_hit_rate(1) == 1 && plan_generic_hit_rate(-1) == 0 &&
                plan_generic_hit_rate(2) == 1);
    for (int i = 1; i <= 1000; i++) {
        assert_true(plan_generic_hit_rate(i / 1000.0) >= plan_generic_hit_rate((i - 1) / 1000.0));
        assert_true(plan_generic_hit_rate(i / 1000.0) >= i / 1000.0);
    }
    assert_true(fabs(plan_generic_hit_rate(0.8) - 0.987) < 1e-9);
}

/* ---- rates ------------------------------------------------------------------------------------------------------------------
 */

static bool near(double a, double b) { return fabs(a - b) <= 1e-9 * fabs(b); }

static void rates_are_read_between_the_lines(void **state) {
    (void)state;
    struct facts f;
    plan_case_machine(&f); /* RAM 20, 40, 60 GB/s with 1, 2, 4 threads; kernels with 4 */
    assert_true(near(cost_ram_rate(&f, 1), 20e9) && near(cost_ram_rate(&f, 3), 50e9) && near(cost_ram_rate(&f, 9), 60e9));
    f.ram_rates[0].threads = 2, f.ram_rates[1].threads = 4, f.ram_rates[2].threads = 8;
    assert_true(near(cost_ram_rate(&f, 1), 10e9)); /* fewer than were tried: in proportion */
    plan_case_machine(&f);
    assert_true(near(cost_decode_rate(&f, TYPE_Q4_K, "avx2", 4), 50e9));
    assert_true(near(cost_decode_rate(&f, TYPE_Q4_K, "avx2", 8), 60e9));           /* never above plain reads */
    assert_true(near(cost_decode_rate(&f, TYPE_Q4_K, "avx2", 2), 50e9 * 40 / 60)); /* as reads scale */
    assert_true(near(cost_decode_rate(&f, TYPE_Q5_K, "avx2", 4), 0.8 * 60e9));     /* not measured */
    assert_true(near(cost_decode_rate(&f, TYPE_Q4_K, "avx512", 4), 0.8 * 60e9));
    assert_true(near(cost_batch_rate(&f, TYPE_Q4_K, "avx2", 2), 150e9));
    assert_true(near(cost_batch_rate(&f, TYPE_IQ2_S, "avx2", 4), 100e9)); /* the slowest known */
    assert_true(cost_batch_rate(&f, TYPE_Q4_K, "ref", 4) == 0);
    assert_true(near(cost_drive_rate(&f, 0, 1e6, 4), 4e9) && near(cost_drive_rate(&f, 0, 1e6, 8), 5e9));
    assert_true(near(cost_drive_rate(&f, 0, 1e6, 100), 6e9) && near(cost_drive_rate(&f, 0, 1e6, 0.5), 2e9));
    f.drives[0].rates[1].request_bytes = 4096; /* small requests are another line */
    assert_true(near(cost_drive_rate(&f, 0, 1e6, 4), 4e9) && near(cost_drive_rate(&f, 0, 5000, 9), 4e9));
    assert_true(cost_drive_rate(&f, 1, 1e6, 4) == 0);
}

/* A drive that is slower when asked for one thing at a time must not make two misses cheaper than one. */
static void odd_drives_stay_monotone(void **state) {
    (void)state;
    struct facts f = *machines[n_machine_files];
    f.drives[0].rates[0].bytes_per_s = 1e9, f.drives[0].rates[1].bytes_per_s = 1e9, f.drives[0].rates[2].bytes_per_s = 9e9;
    struct sweep s = {.m = &big.model, .f = &f, .name = "odd drive"};
    plan_request_default(&s.r);
    s.r.context_tokens = 4096;
    s.budget = &s.r.ram_budget;
    sweep_budget(&s, 1600 * MIB, 19 * GIB, 300 * MIB);
}

/* ---- numbers that files may hold
 * ------------------------------------------------------------------------------------------------ */

static void enormous_numbers_are_refused(void **state) {
    (void)state;
    for (int i = 0; i < 9; i++) {
        struct plan_case c = plan_case_small(7, 10, 3);
        struct facts f = *machines[n_machine_files + 2];
        struct plan_request r;
        struct plan p;
        struct reason why = {{0}};
        plan_request_default(&r);
        r.use_gpu = i % 2;
        for (uint32_t k = 0; k < c.model.n_tensors; k++) {
            struct plan_tensor *t = &c.model.tensors[k];
            if (i == 0 && t->role == PLAN_ROLE_EXPERTS) t->bytes = t->room_bytes = UINT64_MAX / 2;
            if (i == 1 && t->role == PLAN_ROLE_EXPERTS) t->bytes = t->room_bytes = UINT64_MAX / 20;
            if (i == 2 && t->role == PLAN_ROLE_ATTENTION) t->bytes = t->room_bytes = UINT64_MAX / 3;
            if (i == 3 && t->role == PLAN_ROLE_EMBEDDING) t->bytes = t->room_bytes = UINT64_MAX;
        }
        if (i == 4) c.model.kv_width = UINT64_MAX / 4;
        if (i == 5) r.context_tokens = UINT64_MAX / 2;
        if (i == 6) c.model.cpu_scratch_bytes = UINT64_MAX;
        if (i == 7) c.model.gpu_scratch_bytes = UINT64_MAX;
        if (i == 8) r.process_bytes = UINT64_MAX;
        const enum err code = plan_open(&c.model, &f, &r, &p, &why);
        if (code != ERR_LIMIT) fail_test("case %d: %d %s", i, code, why.text);
        plan_case_close(&c);
    }
}

static void nonsense_is_refused(void **state) {
    (void)state;
    struct plan_request r;
    struct plan p;
    struct facts f = *machines[n_machine_files];
    plan_request_default(&r);
    struct plan_model m = odd.model;
    m.n_used = 0;
    assert_int_equal(plan_open(&m, &f, &r, &p, NULL), ERR_ARGUMENT);
    m = odd.model;
    m.n_experts = 2; /* fewer than are used */
    assert_int_equal(plan_open(&m, &f, &r, &p, NULL), ERR_ARGUMENT);
    m = odd.model;
    m.n_layers = 3; /* tensors of layers beyond */
    assert_int_equal(plan_open(&m, &f, &r, &p, NULL), ERR_ARGUMENT);
    r.use_gpu = true;
    assert_int_equal(plan_open(&odd.model, &f, &r, &p, NULL), ERR_ARGUMENT);
    r.use_gpu = false;
    f.memory_total_bytes = f.memory_available_bytes = 0;
    assert_int_equal(plan_open(&odd.model, &f, &r, &p, NULL), ERR_ARGUMENT);
}

/* Nobody promised the GPU: too little VRAM means none, said so; an explicit budget is refused instead. */
static void small_gpus_stay_idle(void **state) {
    (void)state;
    struct facts f = *machines[n_machine_files];
    struct plan_request r;
    struct plan p;
    plan_case_gpu(&f, GIB, 300e9, 10e9);
    plan_request_default(&r);
    r.use_gpu = true;
    assert_int_equal(plan_open(&big.model, &f, &r, &p, NULL), ERR_NONE);
    assert_false(p.use_gpu);
    assert_non_null(p.gpu_note);
    plan_close(&p);
    r.vram_budget = GIB;
    assert_int_equal(plan_open(&big.model, &f, &r, &p, NULL), ERR_LIMIT);
    r.vram_budget = 0;
    assert_int_equal(plan_open(&big.model, &f, &r, &p, NULL), ERR_NONE);
    assert_false(p.use_gpu);
    plan_close(&p);
}

/* Nobody asked for a length: all of 32768 beside all experts, an eighth of a budget that holds a part of them, 4096 at least. */
static void contexts_yield_to_experts(void **state) {
    (void)state;
    const struct {
        uint64_t ram, tokens;
    } cases[] = {{40 * GIB, 32768}, {8 * GIB, 10240}, {16 * GIB, 21504}, {2 * GIB, 4096}};
    struct facts f = *machines[n_machine_files];
    f.memory_total_bytes = f.memory_available_bytes = 64 * GIB;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct plan_request r;
        struct plan p;
        plan_request_default(&r);
        r.ram_budget = cases[i].ram;
        assert_int_equal(plan_open(&big.model, &f, &r, &p, NULL), ERR_NONE);
        assert_int_equal(p.context_tokens, cases[i].tokens);
        assert_int_equal(p.all_resident, i == 0);
        plan_close(&p);
    }
}

/* An unmeasured machine is placed all the same, and nothing is promised about speed. */
static void unmeasured_machines_are_placed(void **state) {
    (void)state;
    struct plan_request r;
    struct plan p;
    plan_request_default(&r);
    r.use_gpu = true;
    r.context_tokens = 4096;
    assert_int_equal(plan_open(&big.model, machines[n_machine_files + 4], &r, &p, NULL), ERR_NONE);
    assert_true(p.experts[PLAN_VRAM] > 1000);
    assert_false(p.decode.known || p.decode_full.known || p.prefill.known || p.first_token.known);
    plan_close(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_combination_holds),        cmocka_unit_test(every_machine_file_is_there),
        cmocka_unit_test(more_ram_is_never_worse),      cmocka_unit_test(more_vram_is_never_worse),
        cmocka_unit_test(single_slots_are_never_lost),  cmocka_unit_test(refusals_are_exact),
        cmocka_unit_test(advised_contexts_fit), cmocka_unit_test(contexts_yield_to_experts),         cmocka_unit_test(rules_are_followed),
        cmocka_unit_test(rules_move_whole_parts),       cmocka_unit_test(more_gpu_layers_are_faster),
        cmocka_unit_test(bad_rules_are_named),          cmocka_unit_test(layer_bounds_choose_layers),
        cmocka_unit_test(kv_types_change_bytes),        cmocka_unit_test(slots_share_memory_evenly),
        cmocka_unit_test(many_sizes_share_classes),     cmocka_unit_test(hot_experts_come_first),
        cmocka_unit_test(no_layer_is_starved),          cmocka_unit_test(rates_are_read_between_the_lines),
        cmocka_unit_test(odd_drives_stay_monotone),     cmocka_unit_test(residency_matches_the_study),
        cmocka_unit_test(decode_matches_the_study),     cmocka_unit_test(the_generic_curve_rises),
        cmocka_unit_test(enormous_numbers_are_refused), cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(small_gpus_stay_idle),         cmocka_unit_test(unmeasured_machines_are_placed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

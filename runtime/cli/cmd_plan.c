/* plan: where everything would live and how fast it would be, on this machine or on one a facts file describes. Opens the
 * model's directory and its tokenizer, reads no weights. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/learn.h"
#include "cli/machine.h"
#include "cli/plan_report.h"
#include "engine/plan_model.h"

struct planned {
    struct model *model;
    struct facts *facts;
    struct profile profile;
    bool has_profile;
    struct plan_model description;
    struct plan_request request;
    struct plan_rule rules[PLAN_MAX_RULES];
    struct plan plan;
};

static void planned_close(struct planned *p) {
    if (!p) return;
    plan_close(&p->plan);
    plan_model_close(&p->description);
    if (p->has_profile) profile_close(&p->profile);
    model_close(&p->model);
    free(p->facts);
    free(p);
}

/* Of the machine the file describes, or of this one with what a probe left in the cache. */
static enum err read_facts(struct cli *c, struct planned *p, struct reason *why) {
    const struct options *o = c->options;
    if (o->machine) return machine_read(o->machine, &p->facts, why);
    TRY(cli_load_facts(c, o->model, false, &p->facts, why));
    p->request.drive = machine_drive_of(p->facts, o->model);
    return ERR_NONE;
}

/* --profile, or what chats have learned: what a chat would start from. */
static enum err read_profile(const struct cli *c, struct planned *p, struct reason *why) {
    if (!c->options->profile) {
        p->has_profile = learn_known(c, p->model, &p->profile);
        return ERR_NONE;
    }
    TRY(learn_read_profile(c->options->profile, &p->profile, why));
    p->has_profile = true;
    return ERR_NONE;
}

/* Memory of this process with the model's directory and tokenizer open, which is what a chat starts from. */
static uint64_t resident_bytes(void) {
    unsigned long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%*u %llu", &pages) != 1) pages = 0;
    if (f) fclose(f);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static enum err measure_process(struct cli *c, uint64_t *out, struct reason *why) {
    struct engine *e = NULL;
    TRY(cli_open_engine(c, true, &e, why));
    *out = resident_bytes();
    engine_close(&e);
    return ERR_NONE;
}

/* The flags; -1 is auto in those that take sizes, 0 or less auto in those that count threads. */
static enum err make_request(const struct options *o, struct planned *p, struct reason *why) {
    static const char *const isas[] = {NULL, "ref", "avx2", "avx512"};
    struct plan_request *r = &p->request;
    if (o->ram_budget >= 0) r->ram_budget = (uint64_t)o->ram_budget;
    if (o->vram_budget >= 0) r->vram_budget = (uint64_t)o->vram_budget;
    if (o->vram_reserve >= 0) r->vram_reserve = (uint64_t)o->vram_reserve;
    r->context_tokens = (uint64_t)o->ctx_size;
    r->type_k = (enum plan_kv)(o->type_k - 1); /* the flag's choices are 1 + enum plan_kv */
    r->type_v = (enum plan_kv)(o->type_v - 1);
    r->kv_on_host = !o->kv_offload;
    r->use_gpu = r->starts_empty = p->facts->n_gpus > 0;
    if (o->gpu_layers >= 0) r->gpu_layers = (uint32_t)o->gpu_layers;
    r->cpu_moe_layers = o->cpu_moe ? PLAN_ALL_LAYERS : (uint32_t)o->n_cpu_moe;
    r->threads = o->threads > 0 ? (unsigned)o->threads : 0;
    r->threads_batch = o->threads_batch > 0 ? (unsigned)o->threads_batch : 0;
    r->isa = isas[o->isa];
    r->prompt_tokens = (uint32_t)o->plan_prompt;
    r->profile = p->has_profile ? &p->profile : NULL;
    r->rules = p->rules;
    for (size_t i = 0; i < o->override_tensor.len; i++)
        TRY(plan_parse_rules(o->override_tensor.items[i], p->rules, &r->n_rules, PLAN_MAX_RULES, why));
    return ERR_NONE;
}

static enum err make_plan(struct cli *c, struct planned *p, struct reason *why) {
    const struct options *o = c->options;
    plan_request_default(&p->request);
    TRY(read_facts(c, p, why));
    TRY(model_open(o->model, true, &p->model, why));
    const struct rope_override rope = cli_rope(o);
    TRY(model_override_rope(p->model, &rope, why));
    cli_warn_context(c, p->model, (uint64_t)o->ctx_size);
    TRY(read_profile(c, p, why));
    TRY(make_request(o, p, why));
    TRY(measure_process(c, &p->request.process_bytes, why));
    const unsigned threads = p->request.threads ? p->request.threads : p->facts->n_cores;
    const unsigned most = p->request.threads_batch > threads ? p->request.threads_batch : threads;
    TRY(plan_model_open(p->model, (uint32_t)o->ubatch, most, &p->description, why));
    return plan_open(&p->description, p->facts, &p->request, &p->plan, why);
}

int cmd_plan(struct cli *c) {
    struct reason why = {{0}};
    struct text out = {0};
    struct planned *p = calloc_checked(1, sizeof *p);
    enum err code = p ? make_plan(c, p, &why) : fail(&why, ERR_NO_MEMORY, "no memory for a plan");
    if (!code) {
        const struct plan_report report = {&p->plan, p->facts, &p->request, p->model->name, p->model->weight_bytes, true};
        if (c->options->json)
            plan_report_json(&report, &out);
        else
            plan_report_text(&report, &out);
        if (out.failed) code = fail(&why, ERR_NO_MEMORY, "no memory for the report");
    }
    const int status = code ? cli_fail(c, code, &why) : cli_write_text(&out) ? EXIT_DONE : EXIT_FAILED;
    text_free(&out);
    planned_close(p);
    return status;
}

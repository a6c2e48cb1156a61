/* Machine files: facts as JSON text and back.
 *
 *     {"coldstream_facts": 1, "name": TEXT,
 *      "cpu": {"model": TEXT, "isa": TEXT, "packages": N, "cores": N, "threads": N, "l2_bytes": N, "l3_bytes": N, "barrier_s":
 * X, "core_cpus": [N...], "core_nodes": [N...]}, "memory": {"total_bytes": N, "available_bytes": N, "nodes": [{"memory_bytes":
 * N, "cores": N}...], "reads": [{"threads": N, "bytes_per_s": X}...]}, "kernels": [{"type": TEXT, "isa": TEXT, "threads": N,
 * "decode_bytes_per_s": X, "batch_macs_per_s": X}...], "drives": [{"name": TEXT, "model": TEXT, "node": N, "direct_io": BOOL,
 * "extra": BOOL, "reads": [{"request_bytes": N, "depth": N, "bytes_per_s": X, "latency_s": X}...]}...], "gpus": [{"name": TEXT,
 * "node": N, "vram_bytes": N, "vram_free_bytes": N, "vram_bytes_per_s": X, "to_gpu_bytes_per_s": X, "from_gpu_bytes_per_s": X,
 * "batch_macs_per_s": X, "layer_s": X, "hand_off_s": X}...]}
 *
 * Required are the version, cpu.cores and memory.total_bytes, and the keys that name a row of a list. A rate that is absent was
 * not measured. N is a whole number, X any; node -1 is unknown. Nothing here looks at the machine. */
#include "placement/facts.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"

#define MAX_BYTES ((uint64_t)1 << 56)
#define MAX_RATE 1e16 /* bytes, or multiply-adds, a second */
#define MAX_SECONDS 1e4

/* ---- reading ----------------------------------------------------------------------------------------------------
 * After the first failure every call does nothing, so that the code reads as a list of keys. */

struct reader {
    enum err code;
    struct reason *why;
};

/* An object and its place in the file, "drives[2].", for messages. */
struct place {
    const json_t *object;
    char path[80];
};

enum need { OPTIONAL, REQUIRED };

static void refuse(struct reader *r, const struct place *at, const char *key, const char *problem) {
    if (!r->code) r->code = fail(r->why, ERR_FORMAT, "%s%s %s", at->path, key, problem);
}

/* The value of a key; NULL when it is absent, or something failed before. */
static const json_t *find(struct reader *r, const struct place *at, const char *key, enum need need) {
    if (r->code) return NULL;
    const json_t *value = json_object_get(at->object, key);
    if (!value && need == REQUIRED) refuse(r, at, key, "is missing");
    return value;
}

static uint64_t whole_value(struct reader *r, const struct place *at, const char *key, const json_t *value, uint64_t min,
                            uint64_t max) {
    const json_int_t n = json_is_integer(value) ? json_integer_value(value) : -1;
    if (n >= 0 && (uint64_t)n >= min && (uint64_t)n <= max) return (uint64_t)n;
    char problem[96];
    snprintf(problem, sizeof problem, "must be a whole number from %" PRIu64 " to %" PRIu64, min, max);
    refuse(r, at, key, problem);
    return min;
}

static uint64_t read_whole(struct reader *r, const struct place *at, const char *key, enum need need, uint64_t min,
                           uint64_t max, uint64_t otherwise) {
    const json_t *value = find(r, at, key, need);
    return value ? whole_value(r, at, key, value, min, max) : otherwise;
}

static unsigned read_count(struct reader *r, const struct place *at, const char *key, enum need need, unsigned min,
                           unsigned max, unsigned otherwise) {
    return (unsigned)read_whole(r, at, key, need, min, max, otherwise);
}

static uint64_t read_bytes(struct reader *r, const struct place *at, const char *key) {
    return read_whole(r, at, key, OPTIONAL, 0, MAX_BYTES, 0);
}

static double read_real(struct reader *r, const struct place *at, const char *key, double max) {
    const json_t *value = find(r, at, key, OPTIONAL);
    if (!value) return 0;
    const double x = json_is_number(value) ? json_number_value(value) : -1;
    if (x >= 0 && x <= max) return x == 0 ? 0 : x; /* never -0.0: it would not read back */
    char problem[64];
    snprintf(problem, sizeof problem, "must be a number from 0 to %g", max);
    refuse(r, at, key, problem);
    return 0;
}

static double read_rate(struct reader *r, const struct place *at, const char *key) { return read_real(r, at, key, MAX_RATE); }

static bool read_bool(struct reader *r, const struct place *at, const char *key) {
    const json_t *value = find(r, at, key, OPTIONAL);
    if (value && !json_is_boolean(value)) refuse(r, at, key, "must be true or false");
    return json_is_true(value);
}

static void read_text(struct reader *r, const struct place *at, const char *key, enum need need, char *out, size_t size) {
    const json_t *value = find(r, at, key, need);
    struct span s;
    if (!value) return;
    bool ok = json_span(value, &s) && s.len < size && (s.len || need == OPTIONAL);
    for (size_t i = 0; ok && i < s.len; i++) ok = (unsigned char)s.ptr[i] >= 0x20 && s.ptr[i] != 0x7f;
    char problem[96];
    snprintf(problem, sizeof problem, "must be a text of %s%zu bytes, without control characters", need ? "1 to " : "at most ",
             size - 1);
    if (ok)
        memcpy(out, s.ptr, s.len);
    else
        refuse(r, at, key, problem);
}

/* Lower-case letters, digits and _: what kernels and types are called. */
static void read_word(struct reader *r, const struct place *at, const char *key, enum need need, char *out, size_t size) {
    read_text(r, at, key, need, out, size);
    if (!r->code && out[strspn(out, "abcdefghijklmnopqrstuvwxyz0123456789_")])
        refuse(r, at, key, "must consist of lower-case letters, digits and _");
}

static int read_node(struct reader *r, const struct place *at, const struct facts *f) {
    const json_t *value = find(r, at, "node", OPTIONAL);
    if (!value || (json_is_integer(value) && json_integer_value(value) == FACTS_NO_NODE)) return FACTS_NO_NODE;
    return (int)whole_value(r, at, "node", value, 0, f->n_nodes - 1);
}

static bool enter(struct reader *r, const char *key, const struct place *root, enum need need, struct place *out) {
    *out = (struct place){find(r, root, key, need), ""};
    snprintf(out->path, sizeof out->path, "%s.", key);
    if (out->object && !json_is_object(out->object)) refuse(r, root, key, "must be an object");
    return !r->code && out->object;
}

/* The list under a key and its length; 0 when it is absent. */
static unsigned read_list(struct reader *r, const struct place *at, const char *key, unsigned max, const json_t **list) {
    *list = find(r, at, key, OPTIONAL);
    if (!*list) return 0;
    if (json_is_array(*list) && json_array_size(*list) <= max) return (unsigned)json_array_size(*list);
    char problem[64];
    snprintf(problem, sizeof problem, "must be a list of at most %u entries", max);
    refuse(r, at, key, problem);
    return 0;
}

/* Entry i of the list found under at.key, which must be an object. False: the list is over, or something failed. */
static bool next_row(struct reader *r, const struct place *at, const char *key, const json_t *list, unsigned i, unsigned n,
                     struct place *row) {
    if (r->code || i >= n) return false;
    *row = (struct place){json_array_get(list, i), ""};
    char name[48];
    snprintf(name, sizeof name, "%s[%u]", key, i);
    snprintf(row->path, sizeof row->path, "%.24s%s.", at->path, name);
    if (!json_is_object(row->object)) refuse(r, at, name, "must be an object");
    return !r->code;
}

static void read_core_list(struct reader *r, const struct place *cpu, const char *key, int max, const struct facts *f, int *out,
                           bool *given) {
    const json_t *list;
    const unsigned n = read_list(r, cpu, key, FACTS_MAX_CORES, &list);
    *given = list != NULL;
    if (r->code || !list) return;
    if (n != f->n_cores) refuse(r, cpu, key, "must have one entry a core");
    for (unsigned i = 0; i < n && !r->code; i++) {
        char name[48];
        snprintf(name, sizeof name, "%s[%u]", key, i);
        out[i] = (int)whole_value(r, cpu, name, json_array_get(list, i), 0, (uint64_t)max);
    }
}

static void read_nodes(struct reader *r, const struct place *memory, struct facts *f) {
    const json_t *list;
    struct place row;
    unsigned cores = 0;
    f->n_nodes = read_list(r, memory, "nodes", FACTS_MAX_NODES, &list);
    for (unsigned i = 0; next_row(r, memory, "nodes", list, i, f->n_nodes, &row); i++) {
        f->nodes[i].memory_bytes = read_bytes(r, &row, "memory_bytes");
        cores += f->nodes[i].n_cores = read_count(r, &row, "cores", REQUIRED, 0, FACTS_MAX_CORES, 0);
    }
    if (f->n_nodes == 0) {
        f->nodes[f->n_nodes++] = (struct facts_node){f->memory_total_bytes, f->n_cores};
    } else if (!r->code && cores != f->n_cores) {
        refuse(r, memory, "nodes", "must have as many cores together as cpu.cores says");
    }
}

/* Which core sits where: as given, else node by node. */
static void place_cores(struct reader *r, const struct place *cpu, struct facts *f) {
    bool cpus_given, nodes_given;
    unsigned counts[FACTS_MAX_NODES] = {0}, at = 0;
    read_core_list(r, cpu, "core_cpus", 1 << 20, f, f->core_cpus, &cpus_given);
    read_core_list(r, cpu, "core_nodes", (int)f->n_nodes - 1, f, f->core_node, &nodes_given);
    if (r->code) return;
    for (unsigned i = 0; !cpus_given && i < f->n_cores; i++) f->core_cpus[i] = (int)i;
    for (unsigned n = 0; !nodes_given && n < f->n_nodes; n++)
        for (unsigned i = 0; i < f->nodes[n].n_cores; i++) f->core_node[at++] = (int)n;
    for (unsigned i = 0; i < f->n_cores; i++) counts[f->core_node[i]]++;
    for (unsigned n = 0; n < f->n_nodes; n++)
        if (counts[n] != f->nodes[n].n_cores) refuse(r, cpu, "core_nodes", "contradicts the cores of memory.nodes");
}

static void read_ram_rates(struct reader *r, const struct place *memory, struct facts *f) {
    const json_t *list;
    struct place row;
    const unsigned n = read_list(r, memory, "reads", FACTS_MAX_RATES, &list);
    for (unsigned i = 0; next_row(r, memory, "reads", list, i, n, &row); i++) {
        struct facts_ram_rate *rate = &f->ram_rates[f->n_ram_rates++];
        rate->threads = read_count(r, &row, "threads", REQUIRED, 1, FACTS_MAX_CORES, 0);
        rate->bytes_per_s = read_rate(r, &row, "bytes_per_s");
        if (i && rate->threads <= rate[-1].threads) refuse(r, &row, "threads", "must rise from row to row");
    }
}

static void read_machine(struct reader *r, const struct place *root, struct facts *f) {
    struct place cpu, memory;
    read_text(r, root, "name", OPTIONAL, f->name, sizeof f->name);
    if (!enter(r, "cpu", root, REQUIRED, &cpu) || !enter(r, "memory", root, REQUIRED, &memory)) return;
    read_text(r, &cpu, "model", OPTIONAL, f->cpu, sizeof f->cpu);
    read_word(r, &cpu, "isa", OPTIONAL, f->isa, sizeof f->isa);
    f->n_cores = read_count(r, &cpu, "cores", REQUIRED, 1, FACTS_MAX_CORES, 1);
    f->n_threads = read_count(r, &cpu, "threads", OPTIONAL, f->n_cores, 16 * FACTS_MAX_CORES, f->n_cores);
    f->n_packages = read_count(r, &cpu, "packages", OPTIONAL, 1, f->n_cores, 1);
    f->l2_bytes = read_bytes(r, &cpu, "l2_bytes");
    f->l3_bytes = read_bytes(r, &cpu, "l3_bytes");
    f->barrier_s = read_real(r, &cpu, "barrier_s", MAX_SECONDS);
    f->memory_total_bytes = read_whole(r, &memory, "total_bytes", REQUIRED, 1, MAX_BYTES, 1);
    f->memory_available_bytes =
        read_whole(r, &memory, "available_bytes", OPTIONAL, 0, f->memory_total_bytes, f->memory_total_bytes);
    read_nodes(r, &memory, f);
    if (!r->code) place_cores(r, &cpu, f);
    read_ram_rates(r, &memory, f);
}

static void read_kernels(struct reader *r, const struct place *root, struct facts *f) {
    const json_t *list;
    struct place row;
    const unsigned n = read_list(r, root, "kernels", FACTS_MAX_KERNELS, &list);
    for (unsigned i = 0; next_row(r, root, "kernels", list, i, n, &row); i++) {
        struct facts_kernel *k = &f->kernels[f->n_kernels++];
        read_word(r, &row, "type", REQUIRED, k->type, sizeof k->type);
        read_word(r, &row, "isa", REQUIRED, k->isa, sizeof k->isa);
        k->threads = read_count(r, &row, "threads", REQUIRED, 1, FACTS_MAX_CORES, 1);
        k->decode_bytes_per_s = read_rate(r, &row, "decode_bytes_per_s");
        k->batch_macs_per_s = read_rate(r, &row, "batch_macs_per_s");
    }
}

static void read_drive_rates(struct reader *r, const struct place *at, struct facts_drive *d) {
    const json_t *list;
    struct place row;
    const unsigned n = read_list(r, at, "reads", FACTS_MAX_RATES, &list);
    for (unsigned i = 0; next_row(r, at, "reads", list, i, n, &row); i++) {
        struct facts_drive_rate *rate = &d->rates[d->n_rates++];
        rate->request_bytes = read_whole(r, &row, "request_bytes", REQUIRED, 1, (uint64_t)1 << 30, 1);
        rate->depth = read_count(r, &row, "depth", REQUIRED, 1, 1 << 16, 1);
        rate->bytes_per_s = read_rate(r, &row, "bytes_per_s");
        rate->latency_s = read_real(r, &row, "latency_s", MAX_SECONDS);
    }
}

static void read_drives(struct reader *r, const struct place *root, struct facts *f) {
    const json_t *list;
    struct place row;
    const unsigned n = read_list(r, root, "drives", FACTS_MAX_DRIVES, &list);
    for (unsigned i = 0; next_row(r, root, "drives", list, i, n, &row); i++) {
        struct facts_drive *d = &f->drives[i];
        read_text(r, &row, "name", REQUIRED, d->name, sizeof d->name);
        if (!r->code && facts_find_drive(f, d->name)) refuse(r, &row, "name", "is that of an earlier drive");
        f->n_drives = i + 1;
        read_text(r, &row, "model", OPTIONAL, d->model, sizeof d->model);
        d->node = read_node(r, &row, f);
        d->direct_io = read_bool(r, &row, "direct_io");
        d->extra = read_bool(r, &row, "extra");
        read_drive_rates(r, &row, d);
    }
}

static void read_gpus(struct reader *r, const struct place *root, struct facts *f) {
    const json_t *list;
    struct place row;
    const unsigned n = read_list(r, root, "gpus", FACTS_MAX_GPUS, &list);
    for (unsigned i = 0; next_row(r, root, "gpus", list, i, n, &row); i++) {
        struct facts_gpu *g = &f->gpus[f->n_gpus++];
        read_text(r, &row, "name", REQUIRED, g->name, sizeof g->name);
        g->node = read_node(r, &row, f);
        g->vram_bytes = read_bytes(r, &row, "vram_bytes");
        g->vram_free_bytes = read_whole(r, &row, "vram_free_bytes", OPTIONAL, 0, g->vram_bytes, g->vram_bytes);
        g->vram_bytes_per_s = read_rate(r, &row, "vram_bytes_per_s");
        g->to_gpu_bytes_per_s = read_rate(r, &row, "to_gpu_bytes_per_s");
        g->from_gpu_bytes_per_s = read_rate(r, &row, "from_gpu_bytes_per_s");
        g->batch_macs_per_s = read_rate(r, &row, "batch_macs_per_s");
        g->layer_s = read_real(r, &row, "layer_s", MAX_SECONDS);
        g->hand_off_s = read_real(r, &row, "hand_off_s", MAX_SECONDS);
    }
}

enum err facts_parse(struct span json, struct facts *out, struct reason *why) {
    json_t *value;
    *out = (struct facts){0};
    TRY(json_read(json, &value, why));
    struct reader r = {ERR_NONE, why};
    const struct place root = {value, ""};
    const json_t *version = json_object_get(value, "coldstream_facts");
    if (!json_is_integer(version)) {
        r.code = fail(why, ERR_FORMAT, "not a machine file: it has no number \"coldstream_facts\"");
    } else if (json_integer_value(version) != FACTS_VERSION) {
        r.code = fail(why, ERR_UNSUPPORTED,
                      "coldstream_facts is version %lld; this program reads version %d: run coldstream probe again",
                      (long long)json_integer_value(version), FACTS_VERSION);
    } else {
        read_machine(&r, &root, out);
        read_kernels(&r, &root, out);
        read_drives(&r, &root, out);
        read_gpus(&r, &root, out);
    }
    json_decref(value);
    if (r.code) *out = (struct facts){0};
    return r.code;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static void add_text(const char *key, const char *value, struct text *out) {
    text_addf(out, "\"%s\": ", key);
    json_write_string(span_of(value), out);
}

static void add_whole(const char *key, uint64_t value, struct text *out) { text_addf(out, ", \"%s\": %" PRIu64, key, value); }

static void add_real(const char *key, double value, struct text *out) {
    text_addf(out, ", \"%s\": ", key);
    json_write_double(value, out);
}

static void add_cores(const char *key, const int *values, unsigned n, struct text *out) {
    text_addf(out, ",\n    \"%s\": [", key);
    for (unsigned i = 0; i < n; i++) text_addf(out, i ? ", %d" : "%d", values[i]);
    text_addf(out, "]");
}

/* The start of a list's row: each on a line of its own. */
static void add_row(unsigned i, int indent, struct text *out) { text_addf(out, "%s\n%*s{", i ? "," : "", indent, ""); }

static void add_machine(const struct facts *f, struct text *out) {
    text_addf(out, "  ");
    add_text("name", f->name, out);
    text_addf(out, ",\n  \"cpu\": {");
    add_text("model", f->cpu, out);
    text_addf(out, ", ");
    add_text("isa", f->isa, out);
    add_whole("packages", f->n_packages, out);
    add_whole("cores", f->n_cores, out);
    add_whole("threads", f->n_threads, out);
    add_whole("l2_bytes", f->l2_bytes, out);
    add_whole("l3_bytes", f->l3_bytes, out);
    add_real("barrier_s", f->barrier_s, out);
    add_cores("core_cpus", f->core_cpus, f->n_cores, out);
    add_cores("core_nodes", f->core_node, f->n_cores, out);
    text_addf(out, "},\n  \"memory\": {\"total_bytes\": %" PRIu64, f->memory_total_bytes);
    add_whole("available_bytes", f->memory_available_bytes, out);
    text_addf(out, ",\n    \"nodes\": [");
    for (unsigned i = 0; i < f->n_nodes; i++) {
        add_row(i, 6, out);
        text_addf(out, "\"memory_bytes\": %" PRIu64 ", \"cores\": %u}", f->nodes[i].memory_bytes, f->nodes[i].n_cores);
    }
    text_addf(out, "],\n    \"reads\": [");
    for (unsigned i = 0; i < f->n_ram_rates; i++) {
        add_row(i, 6, out);
        text_addf(out, "\"threads\": %u", f->ram_rates[i].threads);
        add_real("bytes_per_s", f->ram_rates[i].bytes_per_s, out);
        text_addf(out, "}");
    }
    text_addf(out, "]}");
}

static void add_kernels(const struct facts *f, struct text *out) {
    text_addf(out, ",\n  \"kernels\": [");
    for (unsigned i = 0; i < f->n_kernels; i++) {
        const struct facts_kernel *k = &f->kernels[i];
        add_row(i, 4, out);
        add_text("type", k->type, out);
        text_addf(out, ", ");
        add_text("isa", k->isa, out);
        add_whole("threads", k->threads, out);
        add_real("decode_bytes_per_s", k->decode_bytes_per_s, out);
        add_real("batch_macs_per_s", k->batch_macs_per_s, out);
        text_addf(out, "}");
    }
    text_addf(out, "]");
}

static void add_drives(const struct facts *f, struct text *out) {
    text_addf(out, ",\n  \"drives\": [");
    for (unsigned i = 0; i < f->n_drives; i++) {
        const struct facts_drive *d = &f->drives[i];
        add_row(i, 4, out);
        add_text("name", d->name, out);
        text_addf(out, ", ");
        add_text("model", d->model, out);
        text_addf(out, ", \"node\": %d, \"direct_io\": %s, \"extra\": %s, \"reads\": [", d->node,
                  d->direct_io ? "true" : "false", d->extra ? "true" : "false");
        for (unsigned k = 0; k < d->n_rates; k++) {
            const struct facts_drive_rate *rate = &d->rates[k];
            add_row(k, 6, out);
            text_addf(out, "\"request_bytes\": %" PRIu64 ", \"depth\": %u", rate->request_bytes, rate->depth);
            add_real("bytes_per_s", rate->bytes_per_s, out);
            add_real("latency_s", rate->latency_s, out);
            text_addf(out, "}");
        }
        text_addf(out, "]}");
    }
    text_addf(out, "]");
}

static void add_gpus(const struct facts *f, struct text *out) {
    text_addf(out, ",\n  \"gpus\": [");
    for (unsigned i = 0; i < f->n_gpus; i++) {
        const struct facts_gpu *g = &f->gpus[i];
        add_row(i, 4, out);
        add_text("name", g->name, out);
        text_addf(out, ", \"node\": %d", g->node);
        add_whole("vram_bytes", g->vram_bytes, out);
        add_whole("vram_free_bytes", g->vram_free_bytes, out);
        add_real("vram_bytes_per_s", g->vram_bytes_per_s, out);
        add_real("to_gpu_bytes_per_s", g->to_gpu_bytes_per_s, out);
        add_real("from_gpu_bytes_per_s", g->from_gpu_bytes_per_s, out);
        add_real("batch_macs_per_s", g->batch_macs_per_s, out);
        add_real("layer_s", g->layer_s, out);
        add_real("hand_off_s", g->hand_off_s, out);
        text_addf(out, "}");
    }
    text_addf(out, "]");
}

void facts_write(const struct facts *f, struct text *out) {
    text_addf(out, "{\n  \"coldstream_facts\": %d,\n", FACTS_VERSION);
    add_machine(f, out);
    add_kernels(f, out);
    add_drives(f, out);
    add_gpus(f, out);
    text_addf(out, "\n}\n");
}

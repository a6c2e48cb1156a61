/* Machine files: what is read, written, refused; the identity of a machine; the facts of this one. */
#include "tests/support/check.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "placement/facts.h"
#include "tests/support/files.h"

#define MACHINES TESTS_DIR "/machines"

static const char small[] = "{\"coldstream_facts\": 1, \"cpu\": {\"cores\": 4}, \"memory\": {\"total_bytes\": 8000000000}}";

static struct facts *empty(void) {
    struct facts *f = calloc(1, sizeof *f);
    assert_non_null(f);
    return f;
}

static struct facts *parsed(const char *json) {
    struct facts *f = empty();
    struct reason why = {""};
    if (facts_parse(span_of(json), f, &why)) fail_test("refused: %s", why.text);
    return f;
}

/* What is written reads back as the same bytes. */
static void expect_round_trip(const struct facts *f) {
    struct text json = {0};
    facts_write(f, &json);
    assert_false(json.failed);
    struct facts *again = parsed(json.ptr);
    assert_memory_equal(f, again, sizeof *f);
    assert_true(facts_fingerprint(f) == facts_fingerprint(again));
    free(again);
    text_free(&json);
}

/* ---- machine files ---------------------------------------------------------------------------------------------- */

/* Figures that no real machine leaves; a file with a slipped unit does. */
static void expect_plausible(const char *name, const struct facts *f) {
    if (strcmp(f->name, name) != 0) fail_test("%s.json calls itself '%s'", name, f->name);
    assert_true(f->cpu[0] && f->isa[0] && f->l3_bytes >= 1 << 20 && f->memory_total_bytes >= (uint64_t)4 << 30);
    assert_true(f->barrier_s > 1e-8 && f->barrier_s < 1e-3);
    assert_true(f->n_ram_rates >= 1 && f->n_kernels >= 5);
    assert_int_equal(f->ram_rates[f->n_ram_rates - 1].threads, f->n_cores);
    const double ram = f->ram_rates[f->n_ram_rates - 1].bytes_per_s;
    assert_true(ram > 5e9 && ram < 2e12);
    bool q4_k = false;
    for (unsigned i = 0; i < f->n_kernels; i++) {
        const struct facts_kernel *k = &f->kernels[i];
        q4_k |= strcmp(k->type, "q4_k") == 0;
        assert_string_equal(k->isa, f->isa);
        assert_true(k->decode_bytes_per_s > 0.2 * ram && k->decode_bytes_per_s < 1.1 * ram);
        assert_true(k->batch_macs_per_s > 1e9 * k->threads && k->batch_macs_per_s < 1e12 * k->threads);
    }
    assert_true(q4_k && f->n_drives >= 1);
    for (unsigned i = 0; i < f->drives[0].n_rates; i++) {
        const struct facts_drive_rate *r = &f->drives[0].rates[i];
        assert_true(r->bytes_per_s > 1e8 && r->bytes_per_s < 2e10 && r->request_bytes >= 4096 && r->depth >= 1);
        const double in_flight = (double)r->request_bytes * r->depth, moved = r->latency_s * r->bytes_per_s; /* Little's law */
        if (moved < 0.5 * in_flight || moved > 1.5 * in_flight) fail_test("%s: drive rate %u contradicts its latency", name, i);
    }
    assert_true(f->drives[0].n_rates >= 3);
    for (unsigned i = 0; i < f->n_gpus; i++) {
        const struct facts_gpu *g = &f->gpus[i];
        assert_true(g->vram_bytes >= (uint64_t)4 << 30 && g->vram_bytes_per_s > 1e11 && g->to_gpu_bytes_per_s > 1e9);
        assert_true(g->from_gpu_bytes_per_s > 1e9 && g->batch_macs_per_s > 1e12 && g->layer_s > 1e-6 && g->hand_off_s > 1e-6);
        assert_true(g->layer_s < 1e-3 && g->hand_off_s < 1e-3 && g->vram_free_bytes > g->vram_bytes / 2);
    }
}

static void every_machine_file_reads_and_is_plausible(void **state) {
    (void)state;
    DIR *folder = opendir(MACHINES);
    assert_non_null(folder);
    uint64_t seen[64];
    unsigned n = 0;
    for (const struct dirent *entry; (entry = readdir(folder));) {
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot, ".json") != 0) continue;
        char path[512], name[128];
        snprintf(path, sizeof path, "%s/%s", MACHINES, entry->d_name);
        snprintf(name, sizeof name, "%.*s", (int)(dot - entry->d_name), entry->d_name);
        struct text json = {0};
        read_file(path, &json);
        assert_non_null(strstr(json.ptr, "\"source\": \""));
        struct facts *f = parsed(json.ptr);
        expect_plausible(name, f);
        expect_round_trip(f);
        assert_true(n < 64);
        seen[n] = facts_fingerprint(f);
        for (unsigned i = 0; i < n; i++) assert_true(seen[i] != seen[n]);
        n++;
        free(f);
        text_free(&json);
    }
    closedir(folder);
    assert_true(n >= 11);
}

/* ---- defaults --------------------------------------------------------------------------------------------------- */

static void three_keys_make_a_machine(void **state) {
    (void)state;
    struct facts *f = parsed(small);
    assert_int_equal(f->n_cores, 4);
    assert_int_equal(f->n_threads, 4);
    assert_int_equal(f->n_packages, 1);
    assert_int_equal(f->n_nodes, 1);
    assert_int_equal(f->nodes[0].n_cores, 4);
    assert_true(f->nodes[0].memory_bytes == 8000000000 && f->memory_available_bytes == 8000000000);
    assert_int_equal(f->core_cpus[3], 3);
    assert_int_equal(f->n_ram_rates + f->n_kernels + f->n_drives + f->n_gpus, 0);
    expect_round_trip(f);
    free(f);
}

static void cores_are_dealt_to_nodes_in_order(void **state) {
    (void)state;
    struct facts *f = parsed("{\"coldstream_facts\": 1, \"cpu\": {\"cores\": 5}, \"memory\": {\"total_bytes\": 9, \"nodes\": "
                             "[{\"cores\": 2, \"memory_bytes\": 4}, {\"cores\": 3}]}, \"new\": [{}]}");
    static const int nodes[] = {0, 0, 1, 1, 1};
    assert_memory_equal(f->core_node, nodes, sizeof nodes);
    expect_round_trip(f);
    free(f);
}

static void numbers_keep_every_bit(void **state) {
    (void)state;
    struct facts *f = parsed(small);
    f->barrier_s = 1.0 / 3;
    f->n_ram_rates = 2;
    f->ram_rates[0] = (struct facts_ram_rate){1, 12345678901.234567};
    f->ram_rates[1] = (struct facts_ram_rate){4, 5e-324};
    f->n_drives = 1;
    f->drives[0] = (struct facts_drive){.name = "vda",
                                        .model = "\"\\ \xc3\xa9",
                                        .node = FACTS_NO_NODE,
                                        .extra = true,
                                        .n_rates = 1,
                                        .rates = {{1 << 20, 8, 1e16, 0.1 + 0.2}}};
    strcpy(f->cpu, "Some CPU @ 3.0 GHz");
    expect_round_trip(f);
    free(f);
}

/* ---- refusals --------------------------------------------------------------------------------------------------- */

static void expect_refused(const char *json, const char *part) {
    struct facts *f = empty();
    struct reason why = {""};
    const enum err code = facts_parse(span_of(json), f, &why);
    if (code != ERR_FORMAT && code != ERR_UNSUPPORTED) fail_test("not refused: %s", json);
    if (!strstr(why.text, part)) fail_test("'%s' does not hold '%s'", why.text, part);
    assert_int_equal(f->n_cores, 0);
    free(f);
}

static void what_breaks_the_format_is_refused_by_name(void **state) {
    (void)state;
    static const char *const whole[][2] = {
        {"", "JSON"},
        {"[1]", "coldstream_facts"},
        {"{}", "coldstream_facts"},
        {"{\"coldstream_facts\": \"1\"}", "coldstream_facts"},
        {"{\"coldstream_facts\": 2}", "version 2"},
        {"{\"coldstream_facts\": 1}", "cpu is missing"},
        {"{\"coldstream_facts\": 1, \"cpu\": 3}", "cpu must be an object"},
        {"{\"coldstream_facts\": 1, \"cpu\": {\"cores\": 1}}", "memory is missing"},
        {"{\"coldstream_facts\": 1, \"cpu\": {}, \"memory\": {\"total_bytes\": 1}}", "cpu.cores is missing"},
        {"{\"coldstream_facts\": 1, \"cpu\": {\"cores\": 1}, \"memory\": {}}", "memory.total_bytes is missing"},
        {"{\"coldstream_facts\": 1, \"cpu\": {\"cores\": 0}, \"memory\": {\"total_bytes\": 1}}", "cpu.cores must be"},
    };
    static const char *const cpu[][2] = {
        {"\"cores\": 1025", "cpu.cores must be a whole number from 1 to 1024"},
        {"\"cores\": 4.0", "cpu.cores"},
        {"\"cores\": -4", "cpu.cores"},
        {"\"cores\": 99999999999999999999999", "cpu.cores"},
        {"\"cores\": 4, \"threads\": 3", "cpu.threads"},
        {"\"cores\": 4, \"packages\": 5", "cpu.packages"},
        {"\"cores\": 4, \"isa\": \"AVX2\"", "cpu.isa"},
        {"\"cores\": 4, \"isa\": \"avx512vnni\"", "cpu.isa"},
        {"\"cores\": 4, \"model\": \"a\\u0007b\"", "cpu.model"},
        {"\"cores\": 4, \"model\": \"a\\u0000b\"", "cpu.model"},
        {"\"cores\": 4, \"model\": null", "cpu.model"},
        {"\"cores\": 4, \"barrier_s\": -1e-6", "cpu.barrier_s"},
        {"\"cores\": 4, \"barrier_s\": \"1\"", "cpu.barrier_s"},
        {"\"cores\": 4, \"l3_bytes\": 1e6", "cpu.l3_bytes"},
        {"\"cores\": 4, \"core_cpus\": [0, 1, 2]", "cpu.core_cpus must have one entry a core"},
        {"\"cores\": 4, \"core_cpus\": [0, 1, 2, -1]", "cpu.core_cpus[3]"},
        {"\"cores\": 4, \"core_nodes\": [0, 0, 0, 1]", "cpu.core_nodes[3]"},
    };
    static const char *const rest[][2] = {
        {"\"name\": 3", "name must be a text"},
        {"\"kernels\": {}", "kernels must be a list"},
        {"\"kernels\": [3]", "kernels[0] must be an object"},
        {"\"kernels\": [{\"type\": \"q4_k\", \"isa\": \"avx2\"}]", "kernels[0].threads is missing"},
        {"\"kernels\": [{\"type\": \"\", \"isa\": \"avx2\", \"threads\": 1}]", "kernels[0].type"},
        {"\"kernels\": [{\"type\": \"Q4_K\", \"isa\": \"avx2\", \"threads\": 1}]", "kernels[0].type"},
        {"\"kernels\": [{\"type\": \"q4_k\", \"isa\": \"avx2\", \"threads\": 1, \"batch_macs_per_s\": 1e17}]",
         "batch_macs_per_s"},
        {"\"drives\": [{}]", "drives[0].name is missing"},
        {"\"drives\": [{\"name\": \"a\"}, {\"name\": \"a\"}]", "drives[1].name is that of an earlier drive"},
        {"\"drives\": [{\"name\": \"a\", \"node\": 1}]", "drives[0].node"},
        {"\"drives\": [{\"name\": \"a\", \"node\": -2}]", "drives[0].node"},
        {"\"drives\": [{\"name\": \"a\", \"direct_io\": 1}]", "drives[0].direct_io must be true or false"},
        {"\"drives\": [{\"name\": \"a\", \"reads\": [{\"request_bytes\": 1, \"depth\": 0}]}]", "drives[0].reads[0].depth"},
        {"\"drives\": [{\"name\": \"a\", \"reads\": [{\"request_bytes\": 1, \"depth\": 1, \"latency_s\": 1e9}]}]",
         "reads[0].latency_s"},
        {"\"gpus\": [{\"name\": \"g\", \"vram_bytes\": 5, \"vram_free_bytes\": 6}]", "gpus[0].vram_free_bytes"},
        {"\"gpus\": [{\"name\": \"g\", \"layer_s\": [1]}]", "gpus[0].layer_s"},
    };
    char json[1024];
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) expect_refused(whole[i][0], whole[i][1]);
    for (size_t i = 0; i < sizeof cpu / sizeof *cpu; i++) {
        snprintf(json, sizeof json, "{\"coldstream_facts\": 1, \"cpu\": {%s}, \"memory\": {\"total_bytes\": 1}}", cpu[i][0]);
        expect_refused(json, cpu[i][1]);
    }
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) {
        snprintf(json, sizeof json, "%.*s, %s}", (int)sizeof small - 2, small, rest[i][0]);
        expect_refused(json, rest[i][1]);
    }
}

static void memory_is_checked_against_itself(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"\"total_bytes\": 1, \"available_bytes\": 2", "memory.available_bytes"},
        {"\"total_bytes\": 1, \"nodes\": [{\"cores\": 3}]", "memory.nodes must have as many cores"},
        {"\"total_bytes\": 1, \"nodes\": [{\"memory_bytes\": 3}]", "memory.nodes[0].cores is missing"},
        {"\"total_bytes\": 1, \"reads\": [{\"bytes_per_s\": 1}]", "memory.reads[0].threads is missing"},
        {"\"total_bytes\": 1, \"reads\": [{\"threads\": 2}, {\"threads\": 2}]", "memory.reads[1].threads must rise"},
    };
    char json[512];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(json, sizeof json, "{\"coldstream_facts\": 1, \"cpu\": {\"cores\": 4}, \"memory\": {%s}}", cases[i][0]);
        expect_refused(json, cases[i][1]);
    }
    struct text many = {0};
    text_addf(&many, "%.*s, \"gpus\": [{\"name\": \"g\"}", (int)sizeof small - 2, small);
    for (int i = 0; i < FACTS_MAX_GPUS; i++) text_addf(&many, ", {\"name\": \"g\"}");
    text_addf(&many, "]}");
    expect_refused(many.ptr, "gpus must be a list of at most 16 entries");
    text_free(&many);
}

/* ---- identity --------------------------------------------------------------------------------------------------- */

static void the_fingerprint_follows_the_hardware_alone(void **state) {
    (void)state;
    struct facts *f = parsed(small);
    f->n_drives = 1;
    strcpy(f->drives[0].name, "nvme0n1");
    const uint64_t before = facts_fingerprint(f);
    f->memory_available_bytes /= 2;
    f->memory_total_bytes /= 2; /* a cgroup's limit: the nodes say what is installed */
    f->barrier_s = 1;
    f->n_ram_rates = f->n_kernels = 1;
    strcpy(f->isa, "avx2");
    strcpy(f->name, "x");
    f->drives[0].n_rates = 1;
    f->n_drives = 2;
    f->drives[1] = (struct facts_drive){.name = "dm-0", .extra = true};
    assert_true(facts_fingerprint(f) == before);

    struct facts *g = empty();
#define CHANGED(change)                                                                                                        \
    do {                                                                                                                       \
        *g = *f;                                                                                                               \
        change;                                                                                                                \
        assert_true(facts_fingerprint(g) != before);                                                                           \
    } while (0)
    CHANGED(strcpy(g->cpu, "other"));
    CHANGED(g->n_cores++);
    CHANGED(g->n_threads++);
    CHANGED(g->n_packages++);
    CHANGED(g->nodes[0].memory_bytes *= 2);
    CHANGED(strcpy(g->drives[0].model, "other"));
    CHANGED(strcpy(g->drives[0].name, "sda"));
    CHANGED(g->drives[1].extra = false);
    CHANGED(g->n_gpus = 1);
#undef CHANGED
    f->drives[1].extra = false;
    *g = *f;
    g->drives[0] = f->drives[1]; /* found in another order */
    g->drives[1] = f->drives[0];
    assert_true(facts_fingerprint(g) == facts_fingerprint(f));
    free(f);
    free(g);
}

static void measurements_are_taken_over(void **state) {
    (void)state;
    struct facts *old = parsed(small), *now = parsed(small);
    now->n_drives = old->n_drives = 2;
    strcpy(now->drives[0].name, "a");
    strcpy(now->drives[1].name, "b");
    old->drives[0] = (struct facts_drive){.name = "b", .n_rates = 1, .rates = {{1, 1, 5, 1}}, .direct_io = true};
    old->drives[1] = (struct facts_drive){.name = "dm-0", .extra = true, .n_rates = 2};
    strcpy(old->isa, "avx2");
    old->n_kernels = 1;
    strcpy(old->kernels[0].type, "q4_k");
    old->n_ram_rates = 1;
    old->ram_rates[0] = (struct facts_ram_rate){4, 3e10};
    old->barrier_s = 1e-6;
    now->memory_available_bytes = 7;
    now->drives[0].n_rates = 3;
    facts_take_measurements(now, old);
    assert_string_equal(now->isa, "avx2");
    assert_int_equal(now->n_kernels, 1);
    assert_string_equal(now->kernels[0].type, "q4_k");
    assert_int_equal(now->n_ram_rates, 1);
    assert_true(now->ram_rates[0].bytes_per_s == 3e10 && now->barrier_s == 1e-6);
    assert_int_equal(now->memory_available_bytes, 7);
    assert_int_equal(now->n_drives, 3);
    assert_int_equal(now->drives[0].n_rates, 3);
    assert_true(now->drives[1].n_rates == 1 && now->drives[1].direct_io && now->drives[1].rates[0].bytes_per_s == 5);
    assert_string_equal(now->drives[2].name, "dm-0");
    old->ram_rates[0].bytes_per_s = 1; /* what is measured already stays */
    old->drives[0].rates[0].bytes_per_s = 6;
    facts_take_measurements(now, old);
    assert_true(now->ram_rates[0].bytes_per_s == 3e10 && now->drives[1].rates[0].bytes_per_s == 5 && now->n_drives == 3);
    strcpy(old->drives[0].model, "replaced");
    now->drives[1].n_rates = 0;
    facts_take_measurements(now, old);
    assert_int_equal(now->drives[1].n_rates, 0);
    free(old);
    free(now);
}

/* ---- this machine ----------------------------------------------------------------------------------------------- */

static void this_machine_has_facts(void **state) {
    (void)state;
    struct facts *f = empty(), *again = empty();
    struct reason why = {""};
    if (facts_read(f, &why)) fail_test("%s", why.text);
    assert_in_range(f->n_cores, 1, FACTS_MAX_CORES);
    assert_true((long)f->n_threads <= sysconf(_SC_NPROCESSORS_CONF) && f->n_packages <= f->n_cores);
    assert_true(f->memory_total_bytes > 64 << 20 && f->memory_total_bytes < (uint64_t)1 << 50);
    assert_true(f->memory_available_bytes <= f->memory_total_bytes);
    assert_true(f->nodes[0].memory_bytes + ((uint64_t)1 << 30) >= f->memory_total_bytes || f->n_nodes > 1);
    assert_true(f->isa[0] == 0 && f->n_kernels == 0 && f->n_ram_rates == 0);
    for (unsigned i = 0; i < f->n_cores; i++)
        for (unsigned k = 0; k < i; k++) assert_int_not_equal(f->core_cpus[i], f->core_cpus[k]);
    for (unsigned i = 0; i < f->n_drives; i++) {
        char path[128];
        snprintf(path, sizeof path, "/sys/class/block/%s/size", f->drives[i].name);
        assert_int_equal(access(path, R_OK), 0);
        assert_true(f->drives[i].n_rates == 0 && !f->drives[i].extra);
    }
    expect_round_trip(f);
    assert_int_equal(facts_read(again, &why), ERR_NONE);
    assert_true(facts_fingerprint(f) == facts_fingerprint(again));
    free(f);
    free(again);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_machine_file_reads_and_is_plausible),
        cmocka_unit_test(three_keys_make_a_machine),
        cmocka_unit_test(cores_are_dealt_to_nodes_in_order),
        cmocka_unit_test(numbers_keep_every_bit),
        cmocka_unit_test(what_breaks_the_format_is_refused_by_name),
        cmocka_unit_test(memory_is_checked_against_itself),
        cmocka_unit_test(the_fingerprint_follows_the_hardware_alone),
        cmocka_unit_test(measurements_are_taken_over),
        cmocka_unit_test(this_machine_has_facts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* libFuzzer target: a machine file. What is accepted is within its limits, is written as text that reads back as the same
 * facts, and that text is stable. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/facts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_shape(const struct facts *f) {
    unsigned cores = 0;
    assert(f->n_cores >= 1 && f->n_cores <= FACTS_MAX_CORES && f->n_threads >= f->n_cores);
    assert(f->n_nodes >= 1 && f->n_nodes <= FACTS_MAX_NODES && f->memory_total_bytes && f->n_ram_rates <= FACTS_MAX_RATES);
    assert(f->n_kernels <= FACTS_MAX_KERNELS && f->n_drives <= FACTS_MAX_DRIVES && f->n_gpus <= FACTS_MAX_GPUS);
    assert(f->memory_available_bytes <= f->memory_total_bytes && f->barrier_s >= 0);
    for (unsigned i = 0; i < f->n_nodes; i++) cores += f->nodes[i].n_cores;
    assert(cores == f->n_cores);
    for (unsigned i = 0; i < f->n_cores; i++) assert(f->core_node[i] >= 0 && f->core_node[i] < (int)f->n_nodes);
    for (unsigned i = 0; i < f->n_ram_rates; i++)
        assert(f->ram_rates[i].bytes_per_s >= 0 && isfinite(f->ram_rates[i].bytes_per_s));
    for (unsigned i = 0; i < f->n_drives; i++) {
        assert(f->drives[i].n_rates <= FACTS_MAX_RATES && f->drives[i].node < (int)f->n_nodes);
        assert(facts_find_drive(f, f->drives[i].name) == &f->drives[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct facts *f = malloc(sizeof *f), *again = malloc(sizeof *again);
    struct reason why = {""};
    struct text first = {0}, second = {0};
    assert(f && again);
    if (facts_parse((struct span){(const char *)data, size}, f, &why) == ERR_NONE) {
        check_shape(f);
        facts_write(f, &first);
        const enum err err = facts_parse((struct span){first.ptr, first.len}, again, &why);
        assert(err == ERR_NONE && memcmp(f, again, sizeof *f) == 0);
        assert(facts_fingerprint(f) == facts_fingerprint(again));
        facts_write(again, &second);
        assert(first.len == second.len && memcmp(first.ptr, second.ptr, first.len) == 0);
    } else {
        assert(why.text[0] && f->n_cores == 0);
    }
    text_free(&first);
    text_free(&second);
    free(f);
    free(again);
    return 0;
}

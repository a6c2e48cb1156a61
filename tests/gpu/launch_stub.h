/* Stand-ins for the kernels of a network, for tests of what launches them: each writes down that it ran. Plain C. */
#ifndef COLDSTREAM_TESTS_LAUNCH_STUB_H
#define COLDSTREAM_TESTS_LAUNCH_STUB_H

#include "gpu/gpu.h"
#include "gpu/layout.h"

enum stub_kernel {
    STUB_BEGIN = 1,
    STUB_QKV,
    STUB_ATTENTION,
    STUB_ATTENTION_MAIL,
    STUB_OUTPUT,
    STUB_HALVES_MAIL,
    STUB_ROUTE,
    STUB_GATE_UP,
    STUB_DOWN,
    STUB_HEAD,
    STUB_END
};

/* The log is shared->mail_input, as uint32_t: how many entries, then the entries. */
#define STUB_ENTRY(kernel, layer, tokens) ((uint32_t)(kernel) | (uint32_t)(layer) << 8 | (uint32_t)(tokens) << 24)
enum { STUB_LOG_ENTRIES = 256 };

/* A command with this id in tokens[0] makes the first kernel wait for the answer of the command's number, as long as the
 * patience that was set when the step was prepared. */
#define STUB_HOLD (-77)

/* Logit i of token t in step `number`. */
static inline GPU_BOTH float stub_logit(uint32_t number, uint32_t t, uint32_t i) {
    return (float)(number * 1000 + t * 100 + i % 100);
}

#ifdef __cplusplus
extern "C" {
#endif
struct stub_tables {
    gpu_ptr slots, uses, pages, layers, tickets;
    gpu_ptr scratch_begin, scratch_end; /* a first and a last array of the network's scratch */
};
struct stub_tables stub_tables_of(const struct gpu_network *n);
/* Forget the errors of the device and everything on it. */
void stub_reset_device(void);
#ifdef __cplusplus
}
#endif

#endif

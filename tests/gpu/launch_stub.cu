/* See launch_stub.h. Linked in the place of the real launches. */
#include "tests/gpu/launch_stub.h"

#include "gpu/attention.h"
#include "gpu/network.h"

__global__ void stub_note(uint32_t *log, uint32_t entry) {
    if (threadIdx.x != 0) return;
    const uint32_t count = log[0];
    if (count + 1 < STUB_LOG_ENTRIES) log[1 + count] = entry;
    log[0] = count + 1;
}

__global__ void stub_begin(uint32_t *number, const struct gpu_command *even, const struct gpu_command *odd,
                           const uint32_t *answer, const uint32_t *abort, uint64_t patience_ns, uint32_t *failed) {
    if (threadIdx.x != 0) return;
    *number += 1;
    const struct gpu_command *c = *number % 2 ? odd : even;
    *failed = 0;
    if (c->tokens[0].id == STUB_HOLD) *failed = spin_wait(answer, *number, abort, patience_ns) != SPIN_SEEN;
}

__global__ void stub_head(const uint32_t *number, float *logits, uint32_t n_vocab) {
    const uint32_t t = blockIdx.x;
    for (uint32_t i = threadIdx.x; i < n_vocab; i += blockDim.x) logits[t * n_vocab + i] = stub_logit(*number, t, i);
}

__global__ void stub_end(const uint32_t *number, const uint32_t *failed, struct gpu_result *result) {
    if (threadIdx.x != 0) return;
    result->failed = *failed;
    st_release_sys((uint32_t *)&result->number, *number);
}

static void note(struct gpu_network *n, enum stub_kernel kernel, uint32_t layer, uint32_t tokens, cudaStream_t stream) {
    LAUNCH(stub_note, 1, 32, 0, stream, (uint32_t *)n->shared_dev.mail_input, STUB_ENTRY(kernel, layer, tokens));
}

void gpu_launch_begin(struct gpu_network *n, uint32_t tokens, cudaStream_t stream) {
    const struct gpu_shared *s = &n->shared_dev;
    LAUNCH(stub_begin, 1, 32, 0, stream, n->step.command_number, s->commands[0], s->commands[1],
           (const uint32_t *)&s->answer->number, (const uint32_t *)s->abort, n->patience_ns, n->step.failed);
    note(n, STUB_BEGIN, 0, tokens, stream);
}

#define STUB(function, kernel)                                                                               \
    void function(struct gpu_network *n, uint32_t tokens, uint32_t layer, cudaStream_t stream) {             \
        note(n, kernel, layer, tokens, stream);                                                              \
    }
STUB(gpu_launch_qkv, STUB_QKV)
STUB(gpu_launch_attention, STUB_ATTENTION)
STUB(gpu_launch_attention_mail, STUB_ATTENTION_MAIL)
STUB(gpu_launch_output, STUB_OUTPUT)
STUB(gpu_launch_halves_mail, STUB_HALVES_MAIL)
STUB(gpu_launch_route, STUB_ROUTE)
STUB(gpu_launch_gate_up, STUB_GATE_UP)
STUB(gpu_launch_down, STUB_DOWN)

void gpu_launch_head(struct gpu_network *n, uint32_t tokens, cudaStream_t stream) {
    note(n, STUB_HEAD, 0, tokens, stream);
    LAUNCH(stub_head, tokens, 64, 0, stream, n->step.command_number, n->step.logits, n->shape.n_vocab);
}

void gpu_launch_end(struct gpu_network *n, uint32_t tokens, cudaStream_t stream) {
    note(n, STUB_END, 0, tokens, stream);
    LAUNCH(stub_end, 1, 32, 0, stream, n->step.command_number, n->step.failed, n->shared_dev.result);
}

enum err gpu_attention_check(const struct gpu_network_options *, struct reason *) { return ERR_NONE; }
void gpu_batch_begin(struct gpu_network *, const struct gpu_batch *) {}
void gpu_batch_attention(struct gpu_network *, const struct gpu_batch *, uint32_t) {}
void gpu_batch_qkv(struct gpu_network *, const struct gpu_batch *, uint32_t, float *, struct gpu_event *) {}
void gpu_batch_attended(struct gpu_network *, const struct gpu_batch *, uint32_t, const float *) {}
void gpu_batch_take(struct gpu_network *, const struct gpu_batch *, float *, struct gpu_event *) {}
void gpu_batch_give(struct gpu_network *, const struct gpu_batch *, const float *) {}
void gpu_batch_route(struct gpu_network *, const struct gpu_batch *, uint32_t, bool, struct gpu_batch_routes *,
                     struct gpu_event *) {}
void gpu_batch_experts(struct gpu_network *, const struct gpu_batch *, uint32_t, const struct gpu_batch_expert *, uint32_t) {}
void gpu_batch_combine(struct gpu_network *, const struct gpu_batch *, uint32_t, const float *) {}
void gpu_batch_logits(struct gpu_network *, const struct gpu_batch *, uint32_t, uint32_t, float *) {}

struct stub_tables stub_tables_of(const struct gpu_network *n) {
    return {(gpu_ptr)n->slots, (gpu_ptr)n->uses, (gpu_ptr)n->pages, (gpu_ptr)n->layers_dev, (gpu_ptr)n->step.tickets,
            (gpu_ptr)n->step.tickets, (gpu_ptr)(n->lanes[GPU_LANES - 1].rest ? n->lanes[GPU_LANES - 1].rest : n->step.logits)};
}

void stub_reset_device(void) { (void)cudaDeviceReset(); }

/* See step_probe.h. */
#include "tests/gpu/step_probe.h"

#include "gpu/device.h"
#include "gpu/network.h"

static_assert(sizeof(probe_hit) == sizeof(gpu_hit) && sizeof(probe_route) == sizeof(gpu_route), "the same structs");
static_assert(static_cast<int>(PROBE_TICKETS) == static_cast<int>(GPU_TICKET_ATTENTION), "all but attention's");

static gpu_ptr address(const void *p) { return reinterpret_cast<gpu_ptr>(p); }
static probe_acts acts(const gpu_acts &a) { return probe_acts{address(a.q), address(a.d), address(a.s32), address(a.sum16)}; }

struct step_probe step_probe_of(const struct gpu_network *n) {
    const gpu_step &s = n->step;
    step_probe p = {};
    p.x = address(s.x), p.qkv = address(s.qkv), p.attended32 = address(s.attended32), p.normed = address(s.normed),
    p.router = address(s.router);
    p.route = address(s.route), p.hits = address(s.hits), p.n_hits = address(s.n_hits), p.mid32 = address(s.mid32),
    p.logits = address(s.logits);
    p.best = address(s.best), p.n_missing = address(s.n_missing), p.n_misses = address(s.n_misses),
    p.failed = address(s.failed);
    p.tickets = address(s.tickets), p.slots = address(n->slots), p.uses = address(n->uses);
    p.attended = acts(s.attended), p.normed8 = acts(s.normed8), p.mid = acts(s.mid);
    return p;
}

void step_probe_launch(struct gpu *g, struct gpu_network *n, enum probe_launch what, uint32_t tokens, uint32_t layer) {
    const cudaStream_t stream = gpu_stream_of(g, GPU_COMPUTE);
    switch (what) {
    case PROBE_BEGIN: gpu_launch_begin(n, tokens, stream); break;
    case PROBE_QKV: gpu_launch_qkv(n, tokens, layer, stream); break;
    case PROBE_ATTENTION_MAIL: gpu_launch_attention_mail(n, tokens, layer, stream); break;
    case PROBE_OUTPUT: gpu_launch_output(n, tokens, layer, stream); break;
    case PROBE_ROUTE: gpu_launch_route(n, tokens, layer, stream); break;
    case PROBE_GATE_UP: gpu_launch_gate_up(n, tokens, layer, stream); break;
    case PROBE_DOWN: gpu_launch_down(n, tokens, layer, stream); break;
    case PROBE_HEAD: gpu_launch_head(n, tokens, stream); break;
    case PROBE_END: gpu_launch_end(n, tokens, stream); break;
    }
    (void)gpu_note_launch(g, "testing a step");
}

void step_probe_product(struct gpu *g, struct gpu_network *net, const struct gpu_matrix *w, gpu_ptr x, uint32_t n, bool exact,
                        gpu_ptr y) {
    const cudaStream_t stream = gpu_stream_of(g, GPU_COMPUTE);
    float *const to = reinterpret_cast<float *>(y);
    if (exact) {
        const gpu_product32 p = {*w, reinterpret_cast<const float *>(x), n, to, w->rows};
        gpu_launch_product32(net, &p, stream);
    } else {
        const gpu_product p = {*w, reinterpret_cast<const __half *>(x), NULL, n, to, w->rows, false, false};
        gpu_launch_product(net, &p, stream);
    }
    (void)gpu_note_launch(g, "testing a product");
}

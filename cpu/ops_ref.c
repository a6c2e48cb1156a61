/* Reference kernels of everything that is not a weight format: norm, rotation, activation, softmax, attention.
 * What every faster variant is tested against: written to be read, never optimised, sums in double. Touches only its arguments.
 */
#include <math.h>

#include "cpu/attention.h"

/* Room for any variant: what attend_rows() of attention_vec.h lays out, and the reference's one row of doubles. */
uint64_t attention_scratch_bytes(size_t group, size_t dh) {
    (void)group;
    const uint64_t stride = (uint64_t)dh + ATTENTION_PAD;
    return round_up((ATTENTION_KEYS_MAX * stride + ATTENTION_ROWS * (dh + stride + ATTENTION_KEYS_MAX + 3)) * sizeof(float),
                    64);
}

static void rmsnorm(const float *x, const float *gain, size_t n, float eps, float *out) {
    double squares = 0;
    for (size_t i = 0; i < n; i++) squares += (double)x[i] * x[i];
    const double scale = 1 / sqrt(squares / (double)n + (double)eps);
    for (size_t i = 0; i < n; i++) out[i] = (float)(gain[i] * (x[i] * scale));
}

static void rope(float *x, const float *cos, const float *sin, size_t half) {
    for (size_t r = 0; r < half; r++) {
        const double a = x[r], b = x[r + half];
        x[r] = (float)(a * cos[r] - b * sin[r]);
        x[r + half] = (float)(a * sin[r] + b * cos[r]);
    }
}

static void swiglu(const float *gate, const float *up, size_t n, float *out) {
    for (size_t i = 0; i < n; i++) out[i] = (float)(gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
}

static void softmax(float *x, size_t n) {
    float max = -INFINITY;
    double sum = 0;
    for (size_t i = 0; i < n; i++) max = fmaxf(max, x[i]);
    for (size_t i = 0; i < n; i++) sum += exp((double)x[i] - max);
    for (size_t i = 0; i < n; i++) x[i] = (float)(exp((double)x[i] - max) / sum);
}

static void axpy(float a, const float *x, size_t n, float *y) {
    for (size_t i = 0; i < n; i++) y[i] = (float)((double)a * x[i] + y[i]);
}

static void to_f16(const float *x, size_t n, uint16_t *out) {
    for (size_t i = 0; i < n; i++) out[i] = f32_to_f16(x[i]);
}

/* Element c of position p's row, from whichever cache is given. */
static float kv_at(const struct attention *a, const uint16_t *f16, const float *f32, size_t p, size_t c) {
    const size_t at = p * a->kv_stride + c;
    return f16 ? f16_to_f32(f16[at]) : f32[at];
}

static float score(const struct attention *a, const float *q, size_t p) {
    double sum = 0;
    for (size_t c = 0; c < a->dh; c++) sum += (double)q[c] * kv_at(a, a->k, a->k32, p, c);
    return (float)(sum * a->scale);
}

/* One query head over positions [0, end). The maximum is found first, so that no weight exceeds 1. */
static void attend(const struct attention *a, const float *q, size_t end, float *out) {
    double *mixed = a->scratch, total = 0;
    float max = -INFINITY;
    for (size_t c = 0; c < a->dh; c++) mixed[c] = 0;
    for (size_t p = 0; p < end; p++) max = fmaxf(max, score(a, q, p));
    for (size_t p = 0; p < end; p++) {
        const double weight = expf(score(a, q, p) - max);
        total += weight;
        for (size_t c = 0; c < a->dh; c++) mixed[c] += weight * kv_at(a, a->v, a->v32, p, c);
    }
    for (size_t c = 0; c < a->dh; c++) out[c] = (float)(mixed[c] / total);
}

static void attention(const struct attention *a) {
    for (size_t i = 0; i < a->n; i++)
        for (size_t h = 0; h < a->group; h++)
            attend(a, a->q + i * a->q_stride + h * a->dh, a->first + i + 1, a->out + i * a->out_stride + h * a->dh);
}

void cpu_fill_ops_ref(struct cpu_ops *ops) {
    ops->rmsnorm = rmsnorm;
    ops->rope = rope;
    ops->swiglu = swiglu;
    ops->softmax = softmax;
    ops->axpy = axpy;
    ops->to_f16 = to_f16;
    ops->attention = attention;
    ops->attention_f32 = attention;
}

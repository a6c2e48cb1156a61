/* Runs a sample kernel on made-up data and compares it with plain loops: true when all is right. Shared by the tests of the right
 * kernels and the mutants. */
#ifndef COLDSTREAM_CUDA_HOST_RUN_SAMPLES_H
#define COLDSTREAM_CUDA_HOST_RUN_SAMPLES_H

#include <vector>

#include "tests/cuda_host/samples.cuh"

/* Device memory with a copy on the host. */
template <class T> struct held {
    T *device = nullptr;
    std::vector<T> host;
    explicit held(size_t n) : host(n) { (void)cudaMalloc(&device, n * sizeof(T)); }
    ~held() { (void)cudaFree(device); }
    held(const held &) = delete;
    void up(cudaStream_t s) { (void)cudaMemcpyAsync(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice, s); }
    bool down(cudaStream_t s) {
        return cudaMemcpyAsync(host.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost, s) == cudaSuccess &&
               cudaStreamSynchronize(s) == cudaSuccess;
    }
    T *begin() { return host.data(); }
    T &operator[](size_t i) { return host[i]; }
};

static uint32_t sample_random(uint32_t &state) { return (state = state * 1664525u + 1013904223u) >> 8; }
static float sample_float(uint32_t &state) { return static_cast<float>(sample_random(state) % 2001) / 1000 - 1; }

static bool close_to(double a, double b, double tolerance) { return fabs(a - b) <= tolerance * (1 + fabs(b)); }

template <int BUG> bool run_norm(cudaStream_t s, int rows = 3, int n = 500) {
    held<float> x(rows * n), gain(n), y(rows * n);
    uint32_t seed = 7;
    for (float &v : x.host) v = sample_float(seed);
    for (float &v : gain.host) v = 1 + sample_float(seed) / 2;
    x.up(s), gain.up(s);
    LAUNCH((norm_row<BUG>), rows, 128, 0, s, x.device, gain.device, y.device, n);
    if (!y.down(s)) return false;
    for (int r = 0; r < rows; r++) {
        double squares = 0;
        for (int i = 0; i < n; i++) squares += double(x[r * n + i]) * x[r * n + i];
        for (int i = 0; i < n; i++) {
            if (!close_to(y[r * n + i], x[r * n + i] / sqrt(squares / n + 1e-6) * gain[i], 1e-5)) return false;
        }
    }
    return true;
}

template <int BUG> bool run_gemv(cudaStream_t s, int rows = 13) {
    held<int8_t> q(rows * GEMV_K), x(GEMV_K);
    held<__half> d(rows * GEMV_K / 32);
    held<float> x_scale(GEMV_K / 32), y(rows);
    uint32_t seed = 5;
    for (int8_t &v : q.host) v = static_cast<int8_t>(sample_random(seed));
    for (int8_t &v : x.host) v = static_cast<int8_t>(sample_random(seed));
    for (__half &v : d.host) v = __float2half(sample_float(seed) / 64);
    for (float &v : x_scale.host) v = sample_float(seed);
    q.up(s), x.up(s), d.up(s), x_scale.up(s);
    LAUNCH((gemv_q8<BUG>), (rows + GEMV_WARPS - 1) / GEMV_WARPS, 32 * GEMV_WARPS, 0, s, q.device, d.device, x.device, x_scale.device,
           y.device, rows);
    if (!y.down(s)) return false;
    for (int r = 0; r < rows; r++) {
        double sum = 0;
        for (int i = 0; i < GEMV_K; i++) {
            sum += double(q[r * GEMV_K + i]) * x[i] * __half2float(d[(r * GEMV_K + i) / 32]) * x_scale[i / 32];
        }
        if (!close_to(y[r], sum, 1e-4)) return false;
    }
    return true;
}

template <int BUG> bool run_gemm(cudaStream_t s, int m = 45, int n = 37, int k = 128) {
    held<__half> a(m * k), b(n * k);
    held<float> c(m * n);
    uint32_t seed = 3;
    for (__half &v : a.host) v = __float2half(sample_float(seed));
    for (__half &v : b.host) v = __float2half(sample_float(seed));
    a.up(s), b.up(s);
    const size_t bytes = 2 * GEMM_BUFFER * sizeof(uint16_t) - (BUG == GEMM_SHORT_DYNAMIC ? GEMM_STRIDE * sizeof(uint16_t) : 0);
    const dim3 grid((n + GEMM_TILE - 1) / GEMM_TILE, (m + GEMM_TILE - 1) / GEMM_TILE);
    LAUNCH((gemm_f16<BUG>), grid, 128, bytes, s, a.device, b.device, c.device, m, n, k);
    if (!c.down(s)) return false;
    for (int i = 0; i < m * n; i++) {
        double sum = 0;
        for (int j = 0; j < k; j++) sum += double(__half2float(a[i / n * k + j])) * __half2float(b[i % n * k + j]);
        if (!close_to(c[i], sum, 1e-4)) return false;
    }
    return true;
}

template <int BUG> bool run_ticket(cudaStream_t s, int n = 300) {
    const int blocks = (n + 31) / 32;
    held<float> x(n), parts(blocks), total(1);
    held<uint32_t> ticket(1);
    uint32_t seed = 11;
    double sum = 0;
    for (float &v : x.host) sum += v = sample_float(seed);
    x.up(s), ticket.up(s);
    for (int round = 0; round < 2; round++) { // the ticket must be ready for the second
        LAUNCH((ticket_sum<BUG>), blocks, 32, 0, s, x.device, parts.device, ticket.device, total.device, n);
        if (!total.down(s) || !close_to(total[0], sum, 1e-5)) return false;
    }
    return ticket.down(s) && ticket[0] == 0;
}

template <int BUG> bool run_swap(cudaStream_t s) {
    held<int> x(64), y(64);
    for (int i = 0; i < 64; i++) x[i] = 3 * i;
    x.up(s);
    LAUNCH((swap_lanes<BUG>), 1, 64, 0, s, x.device, y.device);
    if (!y.down(s)) return false;
    for (int i = 0; i < 64; i++) {
        if (y[i] != x[i ^ 31]) return false;
    }
    return true;
}

template <int BUG> bool run_count(cudaStream_t s, int n = 3000) {
    held<uint8_t> x(n);
    held<uint32_t> counts(256);
    uint32_t seed = 13, right[256] = {};
    for (uint8_t &v : x.host) right[v = static_cast<uint8_t>(sample_random(seed) % 40)]++;
    x.up(s);
    LAUNCH((count_bytes<BUG>), 1, 128, 0, s, x.device, counts.device, n);
    return counts.down(s) && !memcmp(counts.begin(), right, sizeof right);
}

/* The host's part: answers each letter with its double. */
static bool answer_mail(void *ctx) {
    mail *m = static_cast<mail *>(ctx);
    const uint32_t number = __atomic_load_n(&m->posted, __ATOMIC_ACQUIRE);
    if (number == m->answered) return true;
    for (int i = 0; i < 64; i++) m->answer[i] = 2 * m->letter[i];
    __atomic_store_n(&m->answered, number, __ATOMIC_RELEASE);
    return true;
}

/* Two letters. `serve` starts the host's part and returns what to call at the end. */
template <int BUG, class Serve> bool run_mail(cudaStream_t s, Serve serve) {
    mail *host, *device;
    if (cudaHostAlloc(&host, sizeof *host, cudaHostAllocMapped) != cudaSuccess) return false;
    if (cudaHostGetDevicePointer(&device, host, 0) != cudaSuccess) return false;
    memset(host, 0, sizeof *host);
    held<float> y(64);
    held<int> seen(1);
    auto stop = serve(host);
    bool right = true;
    for (uint32_t number = 1; number <= 2 && right; number++) {
        LAUNCH((mail_round<BUG>), 1, 64, 0, s, BUG == MAIL_HOST_POINTER ? host : device, number, y.device, seen.device);
        right = y.down(s) && seen.down(s) && seen[0] == SPIN_SEEN;
        for (uint32_t i = 0; i < 64 && right; i++) right = y[i] == static_cast<float>(number + 2 * number * i);
    }
    stop();
    (void)cudaFreeHost(host);
    return right;
}

#endif

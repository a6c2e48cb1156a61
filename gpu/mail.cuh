/* The device's side of a letter to the host and its answer (gpu.h, struct gpu_mail). One letter is open at a time: the kernel
 * that follows the one that waits cannot have started. All functions are called by all threads of one block. */
#ifndef COLDSTREAM_GPU_MAIL_CUH
#define COLDSTREAM_GPU_MAIL_CUH

#include "gpu/network.h"

struct post_box {
    gpu_mail *mail; /* the host's memory, as input, answer, values, abort and result are */
    float *input;
    const gpu_answer *answer;
    const float *values;
    const uint32_t *abort;
    gpu_result *result;
    uint32_t *number, *failed;
    uint64_t patience_ns;
};

static inline post_box post_box_of(const gpu_network *n) {
    const gpu_shared &s = n->shared_dev;
    return post_box{s.mail,   s.mail_input,        s.answer,       s.answer_values, const_cast<const uint32_t *>(s.abort),
                    s.result, n->step.mail_number, n->step.failed, n->patience_ns};
}

/* n floats that other blocks may have written, to the host's memory. */
static __device__ __forceinline__ void block_send(float *to, const float *from, uint32_t n, bool by_four) {
    if (by_four) {
        for (uint32_t i = 4 * threadIdx.x; i < n; i += 4 * blockDim.x) stf4(to + i, ldcg_f4(from + i));
    } else {
        for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) to[i] = ldcg_f(from + i);
    }
}

/* The letter is written: every thread's part reaches the host before the number does. */
static __device__ __forceinline__ void block_post(const post_box &b, uint32_t kind, uint32_t layer, uint32_t n_tokens) {
    __threadfence_system();
    __syncthreads();
    if (threadIdx.x != 0) return;
    const uint32_t number = *b.number + 1;
    *b.number = number;
    b.mail->layer = layer, b.mail->kind = kind, b.mail->n_tokens = n_tokens;
    __threadfence_system();
    st_release_sys(const_cast<uint32_t *>(&b.mail->number), number);
}

/* Wait for the answer to the last letter. False: there is none to be used, and the step has failed. */
static __device__ __forceinline__ bool block_await(const post_box &b, uint32_t layer) {
    SHARED(uint32_t, good, 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        const spin_result r =
            spin_wait(const_cast<const uint32_t *>(&b.answer->number), ldcg_u(b.number), b.abort, b.patience_ns);
        good[0] = r == SPIN_SEEN && ld_acquire_sys(const_cast<const uint32_t *>(&b.answer->failed)) == 0;
        if (!good[0]) *b.failed = 1;
        if (r != SPIN_SEEN) b.result->overdue_layer = layer;
        __threadfence_system();
    }
    __syncthreads();
    return good[0] != 0;
}

/* use(i, v) for the answer's values i .. i+3 (by_four) or i alone (v.x); each is a read across the bus, so a thread has four
 * under way. */
template <class Use>
static __device__ __forceinline__ void block_receive(const float *values, uint32_t n, bool by_four, Use use) {
    enum { AHEAD = 4 };
    const uint32_t width = by_four ? 4 : 1;
    for (uint32_t first = width * threadIdx.x; first < n; first += AHEAD * width * blockDim.x) {
        float4 v[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            const uint32_t i = first + j * width * blockDim.x;
            v[j] = make_float4(0, 0, 0, 0);
            if (i >= n) continue;
            if (by_four)
                v[j] = ldcv_f4(values + i);
            else
                v[j].x = __uint_as_float(ldcv_u(reinterpret_cast<const uint32_t *>(values + i)));
        }
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            const uint32_t i = first + j * width * blockDim.x;
            if (i < n) use(i, v[j]);
        }
    }
}

#endif

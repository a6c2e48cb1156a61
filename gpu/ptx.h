/* Every instruction that CUDA C++ has no plain word for, one wrapper each. This file holds the bodies for a real device;
 * tests/cuda_host/ptx_host.h holds the same functions for the emulator, and tests/cuda_host/conformance.cu compares the two.
 * Include gpu/cu.h, not this.
 *
 * "PTX: x" names the section on instruction x in NVIDIA's "Parallel Thread Execution ISA", chapter "Instruction set".
 *
 * Fragments (PTX: mma, m16n8k16 and m16n8k32). A warp computes D[16][8] = A[16][K] B[K][8] + C[16][8]. With g = lane / 4 and
 * t = lane % 4, and two f16 (four s8) to a register, the lower k in the lower bits:
 *
 *     f16, bf16, K = 16                         s8, K = 32
 *     a[0]  A[g    ][2t .. 2t+1]                a[0]  A[g    ][4t .. 4t+3]
 *     a[1]  A[g + 8][2t .. 2t+1]                a[1]  A[g + 8][4t .. 4t+3]
 *     a[2]  A[g    ][2t + 8 .. 2t + 9]          a[2]  A[g    ][4t + 16 .. 4t + 19]
 *     a[3]  A[g + 8][2t + 8 .. 2t + 9]          a[3]  A[g + 8][4t + 16 .. 4t + 19]
 *     b[0]  B[2t .. 2t+1][g]                    b[0]  B[4t .. 4t+3][g]
 *     b[1]  B[2t + 8 .. 2t + 9][g]              b[1]  B[4t + 16 .. 4t + 19][g]
 *     d[0..1]  D[g][2t .. 2t+1]    d[2..3]  D[g + 8][2t .. 2t+1]        (f32 or s32, both kinds) */
#ifndef COLDSTREAM_PTX_H
#define COLDSTREAM_PTX_H

#define FULL_WARP 0xffffffffu

/* What spin_wait saw. */
enum spin_result { SPIN_SEEN, SPIN_LATE, SPIN_ABORTED };

/* A value and where it was found. */
struct found {
    float value;
    uint32_t index;
};

#ifndef __CUDACC__
#include "tests/cuda_host/ptx_host.h"
#else

#define PTX static __device__ __forceinline__

#ifdef NDEBUG
#define CU_ALIGNED(pointer, bytes) ((void)0)
#else
#define CU_ALIGNED(pointer, bytes)                                          \
    do {                                                                    \
        if ((reinterpret_cast<uintptr_t>(pointer) & ((bytes) - 1)) != 0) __trap(); \
    } while (0)
#endif

/* ---- integers in a register ------------------------------------------------------------------------------------- */

/* c + the sum of four signed byte products (PTX: dp4a). */
PTX int dp4a(uint32_t a, uint32_t b, int c) { return __dp4a(static_cast<int>(a), static_cast<int>(b), c); }

/* c + the sum of the four bytes of a, times 1, unsigned (PTX: dp4a). */
PTX uint32_t sum_bytes(uint32_t a, uint32_t c) { return __dp4a(a, 0x01010101u, c); }

/* Two binary16 in a register: a + b, and a * b + c, each rounded once, to nearest even (PTX: add, fma, .f16x2). */
PTX uint32_t add_f16x2(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
PTX uint32_t fma_f16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

/* Four bytes picked from {b, a}; nibble i of the selector names the source of byte i, its bit 3 spreads that byte's sign over
 * the byte (PTX: prmt, default mode). */
PTX uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector) {
    uint32_t d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
    return d;
}

/* The upper, the lower 32 bits of {high, low} shifted by shift % 32 to the left, to the right (PTX: shf, wrap mode). */
PTX uint32_t funnel_left(uint32_t low, uint32_t high, uint32_t shift) { return __funnelshift_l(low, high, shift); }
PTX uint32_t funnel_right(uint32_t low, uint32_t high, uint32_t shift) { return __funnelshift_r(low, high, shift); }

/* ---- copies into shared memory ---------------------------------------------------------------------------------- */

PTX uint32_t cu_shared_address(const void *p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

/* 16 bytes from global to shared memory, both 16-byte aligned; there only after cp_async_wait, for other threads after a
 * barrier, too. sm_75 copies at once (PTX: cp.async, .cg: past L1). */
PTX void cp_async16(void *shared, const void *global) {
    CU_ALIGNED(shared, 16);
    CU_ALIGNED(global, 16);
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(cu_shared_address(shared)), "l"(global) : "memory");
#else
    *static_cast<uint4 *>(shared) = *static_cast<const uint4 *>(global);
#endif
}

/* As cp_async16, but with `valid` false zeroes arrive and `global` is not read (it must still be an address; src-size 0). */
PTX void cp_async16_or_zero(void *shared, const void *global, bool valid) {
    CU_ALIGNED(shared, 16);
    CU_ALIGNED(global, 16);
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(cu_shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
#else
    *static_cast<uint4 *>(shared) = valid ? *static_cast<const uint4 *>(global) : make_uint4(0, 0, 0, 0);
#endif
}

/* This thread's copies since the last commit are one group (PTX: cp.async.commit_group). */
PTX void cp_async_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Wait until at most the N newest groups of this thread are under way (PTX: cp.async.wait_group). */
template <int N> PTX void cp_async_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

/* ---- matrices --------------------------------------------------------------------------------------------------- */

/* Four 8x8 matrices of 16-bit elements from shared memory. Lanes 8i .. 8i+7 give the addresses of the rows (16 bytes, aligned)
 * of matrix i; r[i] gets elements [lane / 4][2 (lane % 4) .. + 1] of it (PTX: ldmatrix). */
PTX void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
    CU_ALIGNED(row, 16);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(cu_shared_address(row))
                 : "memory");
}

/* Two matrices: addresses of lanes 0 .. 15; the other lanes' are not used. */
PTX void ldmatrix_x2(uint32_t (&r)[2], const void *row) {
    CU_ALIGNED(row, 16);
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(cu_shared_address(row))
                 : "memory");
}

/* As ldmatrix_x4, each matrix transposed: r[i] gets elements [2 (lane % 4) .. + 1][lane / 4]. */
PTX void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) {
    CU_ALIGNED(row, 16);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(cu_shared_address(row))
                 : "memory");
}

PTX void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row) {
    CU_ALIGNED(row, 16);
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(cu_shared_address(row))
                 : "memory");
}

#if __CUDA_ARCH__ < 800
/* Turing's half: K = 8. */
PTX void cu_mma_f16_k8(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(b0));
}

/* Turing's quarter: 8 rows, K = 16. */
PTX void cu_mma_s8_m8k16(int &d0, int &d1, uint32_t a, uint32_t b) {
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};" : "+r"(d0), "+r"(d1) : "r"(a), "r"(b));
}

/* The product of lane `row`'s and lane `column`'s elements of one register pair, as bf16. */
PTX float cu_bf16_dot2(uint32_t a, uint32_t b, float sum) {
    sum = fmaf(__uint_as_float(a << 16), __uint_as_float(b << 16), sum);
    return fmaf(__uint_as_float(a & 0xffff0000u), __uint_as_float(b & 0xffff0000u), sum);
}
#endif

/* D += A B in f16 with f32 sums; fragments as drawn above (PTX: mma, m16n8k16). */
PTX void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    cu_mma_f16_k8(d, a[0], a[1], b[0]);
    cu_mma_f16_k8(d, a[2], a[3], b[1]);
#endif
}

/* D += A B in bf16 with f32 sums. sm_75 has no such unit, and f16 lacks the range: there it is exact products by shuffles and
 * fused multiply-adds, right but tens of times slower than mma_f16; choose another kernel for such a device. */
PTX void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    const int lane = threadIdx.x & 31, row = lane & ~3, column = (lane & 3) * 8;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const int half = i / 8, low = i / 4 % 2, t = i % 4; // k = 8 half + 2 t; rows g, g + 8; columns 2 (lane % 4) + low
        const uint32_t top = __shfl_sync(FULL_WARP, a[2 * half], row + t), bottom = __shfl_sync(FULL_WARP, a[2 * half + 1], row + t);
        const uint32_t right = __shfl_sync(FULL_WARP, b[half], column + 4 * low + t);
        d[low] = cu_bf16_dot2(top, right, d[low]);
        d[2 + low] = cu_bf16_dot2(bottom, right, d[2 + low]);
    }
#endif
}

/* D += A B in s8 with s32 sums, m16n8k32; sm_75: four m8n8k16. */
PTX void mma_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    cu_mma_s8_m8k16(d[0], d[1], a[0], b[0]);
    cu_mma_s8_m8k16(d[2], d[3], a[1], b[0]);
    cu_mma_s8_m8k16(d[0], d[1], a[2], b[1]);
    cu_mma_s8_m8k16(d[2], d[3], a[3], b[1]);
#endif
}

/* ---- loads and stores ------------------------------------------------------------------------------------------- */

/* 16 or 8 aligned bytes of global memory that nobody writes during the kernel, read once: they leave L1 alone
 * (PTX: ld.global.nc with .L1::no_allocate). */
PTX uint4 ld128(const void *p) {
    CU_ALIGNED(p, 16);
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

PTX uint2 ld64(const void *p) {
    CU_ALIGNED(p, 8);
    uint2 v;
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}

/* 16 aligned bytes, any kind of memory, the ordinary way. */
PTX float4 ldf4(const float *p) {
    CU_ALIGNED(p, 16);
    return *reinterpret_cast<const float4 *>(p);
}
PTX void stf4(float *p, float4 v) {
    CU_ALIGNED(p, 16);
    *reinterpret_cast<float4 *>(p) = v;
}
PTX uint4 ldu4(const void *p) {
    CU_ALIGNED(p, 16);
    return *static_cast<const uint4 *>(p);
}
PTX void stu4(void *p, uint4 v) {
    CU_ALIGNED(p, 16);
    *static_cast<uint4 *>(p) = v;
}

/* What other blocks of this grid wrote, after grid_last: read at L2, past this SM's L1, which may be stale (PTX: ld, .cg). */
PTX float ldcg_f(const float *p) { return __ldcg(p); }
PTX uint32_t ldcg_u(const uint32_t *p) { return __ldcg(p); }
PTX float4 ldcg_f4(const float *p) {
    CU_ALIGNED(p, 16);
    return __ldcg(reinterpret_cast<const float4 *>(p));
}
PTX uint4 ldcg_u4(const void *p) {
    CU_ALIGNED(p, 16);
    return __ldcg(static_cast<const uint4 *>(p));
}

/* What the host wrote to mapped memory, after its flag was seen: fetched anew each time (PTX: ld, .cv). */
PTX float4 ldcv_f4(const float *p) {
    CU_ALIGNED(p, 16);
    return __ldcv(reinterpret_cast<const float4 *>(p));
}
PTX uint32_t ldcv_u(const uint32_t *p) { return __ldcv(p); }

/* Bring the line of p into L2; no effect on what is computed (PTX: prefetch). */
PTX void prefetch_l2(const void *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

/* ---- warp: all 32 lanes call, all get the result ---------------------------------------------------------------- */

/* Sums in the fixed order of the xor tree 16, 8, 4, 2, 1. */
PTX float warp_sum(float v) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(FULL_WARP, v, step);
    return v;
}

PTX int warp_sum(int v) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(FULL_WARP, v, step);
    return v;
}

/* NaN loses against numbers (fmaxf). */
PTX float warp_max(float v) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(FULL_WARP, v, step));
    return v;
}

/* The largest value; of equal ones the highest index with HIGH, else the lowest. NaN never wins against a number. */
template <bool HIGH> PTX found warp_argmax(float value, uint32_t index) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const float v = __shfl_xor_sync(FULL_WARP, value, step);
        const uint32_t i = __shfl_xor_sync(FULL_WARP, index, step);
        const bool tie = v == value || (isnan(v) && isnan(value));
        if (v > value || (isnan(value) && !isnan(v)) || (tie && (HIGH ? i > index : i < index))) value = v, index = i;
    }
    return found{value, index};
}

/* Another lane's v: lane `from`, lane ^ x, lane + n (own value past the end). 4-byte types. */
template <class T> PTX T warp_from(T v, int from) { return __shfl_sync(FULL_WARP, v, from); }
template <class T> PTX T warp_xor(T v, int x) { return __shfl_xor_sync(FULL_WARP, v, x); }
template <class T> PTX T warp_down(T v, unsigned n) { return __shfl_down_sync(FULL_WARP, v, n); }

/* ---- between blocks, and with the host -------------------------------------------------------------------------- */

PTX unsigned thread_rank() { return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x; }

/* Read a flag; what its writer wrote before is visible then (PTX: ld, .acquire; st, .release; .gpu: this device, .sys: the host, too). */
PTX uint32_t ld_acquire_gpu(const uint32_t *p) {
    uint32_t v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
PTX uint32_t ld_acquire_sys(const uint32_t *p) {
    uint32_t v;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

/* Write a flag after what this thread, and by a barrier its block, wrote before. */
PTX void st_release_gpu(uint32_t *p, uint32_t v) { asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }
PTX void st_release_sys(uint32_t *p, uint32_t v) { asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }

/* True in the last of `blocks` blocks to call with this ticket; all of its threads then see (by ldcg) what the others wrote
 * before their call. All threads of a block call, none may have left. The ticket starts at 0 and is 0 again afterwards
 * (PTX: atom.inc with acquire and release; __syncthreads makes the one thread's release cover its block). */
PTX bool grid_last(uint32_t *ticket, uint32_t blocks) {
    __shared__ bool last;
    __syncthreads();
    if (thread_rank() == 0) {
        uint32_t before;
        asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(before) : "l"(ticket), "r"(blocks - 1) : "memory");
        last = before == blocks - 1;
    }
    __syncthreads();
    return last;
}

PTX void sleep_ns(unsigned ns) { __nanosleep(ns); }

/* Nanoseconds of a clock that all SMs share; its resolution may be as coarse as a microsecond (PTX: %globaltimer). */
PTX uint64_t global_ns() {
    uint64_t t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
}

/* One thread waits until the counter *flag reaches `target` (modulo 2^32), *abort is not 0 (abort may be NULL), or limit_ns have
 * passed. The flag is the host's, in mapped memory, by its device address. */
PTX spin_result spin_wait(const uint32_t *flag, uint32_t target, const uint32_t *abort, uint64_t limit_ns) {
    const uint64_t start = global_ns();
    for (;;) {
        if (static_cast<int32_t>(ld_acquire_sys(flag) - target) >= 0) return SPIN_SEEN;
        if (abort && ld_acquire_sys(abort) != 0) return SPIN_ABORTED;
        if (global_ns() - start > limit_ns) return SPIN_LATE;
        sleep_ns(200);
    }
}

/* With LAUNCH_PDL: wait for the kernel before in the stream to end; let the one after start early (PTX 9.7.13.13
 * griddepcontrol). Nothing on devices before 9.0. */
PTX void pdl_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
PTX void pdl_trigger() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif
#endif

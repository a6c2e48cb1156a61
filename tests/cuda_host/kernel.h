/* What a kernel sees of the emulator: its place in the grid, barriers, warp functions, atomics, shared memory, arithmetic.
 *
 * Calls that threads must make together carry the caller's line (default arguments), so that threads which meet at different
 * lines are told apart: that is how divergence is found. */
#ifndef COLDSTREAM_CUDA_HOST_KERNEL_H
#define COLDSTREAM_CUDA_HOST_KERNEL_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda_host/half.h"

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

/* ---- place ------------------------------------------------------------------------------------------------------ */

struct ch_place {
    uint3 thread;
    unsigned rank, lane, warp; /* rank: linear number in the block */
};
struct ch_geometry {
    dim3 grid, block;
    uint3 block_index;
};
extern const ch_place *ch_here; /* of the running fiber */
extern ch_geometry ch_now;

#define threadIdx (ch_here->thread)
#define blockIdx (ch_now.block_index)
#define blockDim (ch_now.block)
#define gridDim (ch_now.grid)
static const int warpSize = 32;

struct ch_site {
    const char *file;
    int line;
};
#define CH_SITE const char *ch_file = __builtin_FILE(), int ch_line = __builtin_LINE()
#define CH_AT (ch_site{ch_file, ch_line})

/* ---- shared memory ---------------------------------------------------------------------------------------------- */

/* The block's array for `key` (the address of a static of the line that declares it), made at the first thread's call: filled
 * with 0xff, which are NaNs, between red zones. */
void *ch_shared(const void *key, size_t bytes, size_t align, const char *name);
/* The launch's dynamic shared memory: exactly the bytes that were asked for. */
void *ch_dynamic_shared(void);

#define SHARED(T, name, ...)                         \
    static char name##_key;                          \
    T(&name)[__VA_ARGS__] = *static_cast<T(*)[__VA_ARGS__]>( \
        ch_shared(&name##_key, sizeof(T[__VA_ARGS__]), alignof(T) > 16 ? alignof(T) : 16, #name))
#define DYN_SHARED(T, name) T *const name = static_cast<T *>(ch_dynamic_shared())

/* ---- barriers and fences ---------------------------------------------------------------------------------------- */

/* All threads of the block; returns how many gave a value other than 0. */
unsigned ch_block_barrier(int predicate, ch_site site);
void ch_warp_barrier(unsigned mask, ch_site site);

static inline void __syncthreads(CH_SITE) { ch_block_barrier(0, CH_AT); }
static inline int __syncthreads_or(int p, CH_SITE) { return ch_block_barrier(p, CH_AT) > 0; }
static inline int __syncthreads_and(int p, CH_SITE) { return ch_block_barrier(!p, CH_AT) == 0; }
static inline int __syncthreads_count(int p, CH_SITE) { return static_cast<int>(ch_block_barrier(p, CH_AT)); }
static inline void __syncwarp(unsigned mask = 0xffffffffu, CH_SITE) { ch_warp_barrier(mask, CH_AT); }
/* Memory is sequentially consistent here. A fence alone orders nothing for the race check: see grid_last. */
static inline void __threadfence(void) {}
static inline void __threadfence_block(void) {}
static inline void __threadfence_system(void) {}

/* ---- warp functions --------------------------------------------------------------------------------------------- */

/* A function that lanes compute together: each brings its arguments; the last to arrive computes for all in `mask`. */
struct ch_together {
    const char *name;
    void (*compute)(void *const *lane_args, unsigned mask);
};
void ch_meet(const ch_together *what, unsigned mask, void *args, ch_site site);

enum ch_shuffle_kind { CH_SHUFFLE, CH_SHUFFLE_UP, CH_SHUFFLE_DOWN, CH_SHUFFLE_XOR };
uint64_t ch_shuffle(ch_shuffle_kind kind, unsigned mask, uint64_t value, int operand, int width, ch_site site);
unsigned ch_ballot(unsigned mask, bool predicate, ch_site site);

template <class T>
static inline T ch_shuffle_of(ch_shuffle_kind kind, unsigned mask, T value, int operand, int width, ch_site site) {
    static_assert(sizeof(T) <= 8, "shuffles move 4 or 8 bytes");
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    bits = ch_shuffle(kind, mask, bits, operand, width, site);
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}
template <class T> static inline T __shfl_sync(unsigned mask, T v, int lane, int width = 32, CH_SITE) {
    return ch_shuffle_of(CH_SHUFFLE, mask, v, lane, width, CH_AT);
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T v, unsigned n, int width = 32, CH_SITE) {
    return ch_shuffle_of(CH_SHUFFLE_UP, mask, v, static_cast<int>(n), width, CH_AT);
}
template <class T> static inline T __shfl_down_sync(unsigned mask, T v, unsigned n, int width = 32, CH_SITE) {
    return ch_shuffle_of(CH_SHUFFLE_DOWN, mask, v, static_cast<int>(n), width, CH_AT);
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32, CH_SITE) {
    return ch_shuffle_of(CH_SHUFFLE_XOR, mask, v, x, width, CH_AT);
}
static inline unsigned __ballot_sync(unsigned mask, int p, CH_SITE) { return ch_ballot(mask, p != 0, CH_AT); }
static inline int __any_sync(unsigned mask, int p, CH_SITE) { return ch_ballot(mask, p != 0, CH_AT) != 0; }
static inline int __all_sync(unsigned mask, int p, CH_SITE) { return ch_ballot(mask, p != 0, CH_AT) == mask; }

/* ---- atomics ---------------------------------------------------------------------------------------------------- */

/* Compare and swap 4 or 8 bytes, aligned; returns what was there. */
uint64_t ch_swap_if(void *p, size_t bytes, uint64_t expected, uint64_t next, ch_site site);

template <class T> static inline T ch_cas(T *p, T expected, T next, ch_site site) {
    uint64_t from = 0, to = 0;
    __builtin_memcpy(&from, &expected, sizeof(T));
    __builtin_memcpy(&to, &next, sizeof(T));
    const uint64_t seen = ch_swap_if(p, sizeof(T), from, to, site);
    T value;
    __builtin_memcpy(&value, &seen, sizeof(T));
    return value;
}

#define CH_ATOMIC(name, T, expression)                        \
    static inline T name(T *p, T v, CH_SITE) {                \
        T old = ch_cas<T>(p, 0, 0, CH_AT); /* only a read */  \
        for (;;) {                                            \
            const T seen = ch_cas<T>(p, old, (expression), CH_AT); \
            if (!memcmp(&seen, &old, sizeof old)) return old; \
            old = seen;                                       \
        }                                                     \
    }
CH_ATOMIC(atomicAdd, int, old + v)
CH_ATOMIC(atomicAdd, unsigned, old + v)
CH_ATOMIC(atomicAdd, unsigned long long, old + v)
CH_ATOMIC(atomicAdd, float, old + v)
CH_ATOMIC(atomicSub, int, old - v)
CH_ATOMIC(atomicSub, unsigned, old - v)
CH_ATOMIC(atomicMax, int, old > v ? old : v)
CH_ATOMIC(atomicMax, unsigned, old > v ? old : v)
CH_ATOMIC(atomicMax, unsigned long long, old > v ? old : v)
CH_ATOMIC(atomicMin, int, old < v ? old : v)
CH_ATOMIC(atomicMin, unsigned, old < v ? old : v)
CH_ATOMIC(atomicMin, unsigned long long, old < v ? old : v)
CH_ATOMIC(atomicOr, unsigned, old | v)
CH_ATOMIC(atomicAnd, unsigned, old & v)
CH_ATOMIC(atomicXor, unsigned, old ^ v)
CH_ATOMIC(atomicExch, int, v)
CH_ATOMIC(atomicExch, unsigned, v)
CH_ATOMIC(atomicExch, unsigned long long, v)
CH_ATOMIC(atomicInc, unsigned, old >= v ? 0 : old + 1)
CH_ATOMIC(atomicDec, unsigned, old == 0 || old > v ? v : old - 1)
#undef CH_ATOMIC

static inline int atomicCAS(int *p, int compare, int v, CH_SITE) { return ch_cas<int>(p, compare, v, CH_AT); }
static inline unsigned atomicCAS(unsigned *p, unsigned compare, unsigned v, CH_SITE) {
    return ch_cas<unsigned>(p, compare, v, CH_AT);
}
static inline unsigned long long atomicCAS(unsigned long long *p, unsigned long long compare, unsigned long long v, CH_SITE) {
    return ch_cas<unsigned long long>(p, compare, v, CH_AT);
}

/* ---- bits ------------------------------------------------------------------------------------------------------- */

template <class To, class From> static inline To ch_bits_as(From v) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    __builtin_memcpy(&to, &v, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float v) { return ch_bits_as<unsigned>(v); }
static inline int __float_as_int(float v) { return ch_bits_as<int>(v); }
static inline float __uint_as_float(unsigned v) { return ch_bits_as<float>(v); }
static inline float __int_as_float(int v) { return ch_bits_as<float>(v); }

static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __clz(int v) { return v ? __builtin_clz(static_cast<unsigned>(v)) : 32; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
unsigned __brev(unsigned v);
unsigned __byte_perm(unsigned low, unsigned high, unsigned selector);
unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift);
unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift);
int __dp4a(int a, int b, int c);
unsigned __dp4a(unsigned a, unsigned b, unsigned c);

/* ---- arithmetic ------------------------------------------------------------------------------------------------- */

static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline size_t min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t max(size_t a, size_t b) { return a > b ? a : b; }

static inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
static inline float __frcp_rn(float v) { return 1.0f / v; }
static inline float __fsqrt_rn(float v) { return sqrtf(v); }
static inline float __frsqrt_rn(float v) { return 1.0f / sqrtf(v); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __saturatef(float v) { return v > 0 ? (v < 1 ? v : 1) : 0; }
static inline int __float2int_rn(float v) { return static_cast<int>(nearbyintf(v)); }
static inline int __float2int_rd(float v) { return static_cast<int>(floorf(v)); }
static inline int __float2int_rz(float v) { return static_cast<int>(v); }
static inline float __int2float_rn(int v) { return static_cast<float>(v); }
static inline float __uint2float_rn(unsigned v) { return static_cast<float>(v); }
/* The device's quick functions are exact ones here; the C library has names like these of its own. */
#define __expf(v) expf(v)
#define __exp10f(v) powf(10.0f, (v))
#define __logf(v) logf(v)
#define __log2f(v) log2f(v)
#define __sinf(v) sinf(v)
#define __cosf(v) cosf(v)
#define __powf(a, b) powf((a), (b))

/* ---- loads with a cache hint, as the plain ones ----------------------------------------------------------------- */

template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T __ldcg(const T *p) { return *p; }
template <class T> static inline T __ldcs(const T *p) { return *p; }
template <class T> static inline T __ldcv(const T *p) { return *const_cast<const volatile T *>(p); }
template <class T> static inline void __stcg(T *p, T v) { *p = v; }
template <class T> static inline void __stcs(T *p, T v) { *p = v; }

/* Ends the emulation with a report. */
[[noreturn]] void ch_trap(ch_site site);
static inline void __trap(CH_SITE) { ch_trap(CH_AT); }

#endif

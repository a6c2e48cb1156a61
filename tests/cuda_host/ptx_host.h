/* The wrappers of gpu/ptx.h for the emulator; the comments there are the contract. Whatever touches memory for a thread goes through
 * ch_load and ch_store, which check alignment and tell the race check. Fragments are written from the drawings there a second
 * time, in ptx_host.cpp, element by element. */
#ifndef COLDSTREAM_CUDA_HOST_PTX_H
#define COLDSTREAM_CUDA_HOST_PTX_H

#define PTX static inline

void ch_load(void *to, const void *from, size_t bytes, size_t align, ch_site site);
void ch_store(void *to, const void *from, size_t bytes, size_t align, ch_site site);

template <class T> static inline T ch_load_as(const void *p, ch_site site) {
    T v;
    ch_load(&v, p, sizeof v, sizeof v, site);
    return v;
}

/* ---- integers in a register ------------------------------------------------------------------------------------- */

PTX int dp4a(uint32_t a, uint32_t b, int c) { return __dp4a(static_cast<int>(a), static_cast<int>(b), c); }
PTX uint32_t sum_bytes(uint32_t a, uint32_t c) { return __dp4a(a, 0x01010101u, c); }
PTX __half ch_half_of(uint32_t pair, int i) { return __ushort_as_half(static_cast<unsigned short>(pair >> 16 * i)); }
PTX uint32_t ch_pair_of(__half x, __half y) { return __half_as_ushort(x) | static_cast<uint32_t>(__half_as_ushort(y)) << 16; }
PTX uint32_t add_f16x2(uint32_t a, uint32_t b) {
    return ch_pair_of(__hadd(ch_half_of(a, 0), ch_half_of(b, 0)), __hadd(ch_half_of(a, 1), ch_half_of(b, 1)));
}
PTX uint32_t fma_f16x2(uint32_t a, uint32_t b, uint32_t c) {
    return ch_pair_of(__hfma(ch_half_of(a, 0), ch_half_of(b, 0), ch_half_of(c, 0)),
                      __hfma(ch_half_of(a, 1), ch_half_of(b, 1), ch_half_of(c, 1)));
}
PTX uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector) { return __byte_perm(a, b, selector); }
PTX uint32_t funnel_left(uint32_t low, uint32_t high, uint32_t shift) { return __funnelshift_l(low, high, shift); }
PTX uint32_t funnel_right(uint32_t low, uint32_t high, uint32_t shift) { return __funnelshift_r(low, high, shift); }

/* ---- copies into shared memory ---------------------------------------------------------------------------------- */

void ch_async_copy(void *shared, const void *global, bool valid, ch_site site);
void ch_async_commit(void);
void ch_async_wait(unsigned newest);

PTX void cp_async16(void *shared, const void *global, CH_SITE) { ch_async_copy(shared, global, true, CH_AT); }
PTX void cp_async16_or_zero(void *shared, const void *global, bool valid, CH_SITE) { ch_async_copy(shared, global, valid, CH_AT); }
PTX void cp_async_commit() { ch_async_commit(); }
template <int N> PTX void cp_async_wait() { ch_async_wait(N); }

/* ---- matrices --------------------------------------------------------------------------------------------------- */

void ch_ldmatrix(uint32_t *r, int count, bool transposed, const void *row, ch_site site);
void ch_mma_f16(float *d, const uint32_t *a, const uint32_t *b, ch_site site);
void ch_mma_bf16(float *d, const uint32_t *a, const uint32_t *b, ch_site site);
void ch_mma_s8(int *d, const uint32_t *a, const uint32_t *b, ch_site site);

PTX void ldmatrix_x4(uint32_t (&r)[4], const void *row, CH_SITE) { ch_ldmatrix(r, 4, false, row, CH_AT); }
PTX void ldmatrix_x2(uint32_t (&r)[2], const void *row, CH_SITE) { ch_ldmatrix(r, 2, false, row, CH_AT); }
PTX void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row, CH_SITE) { ch_ldmatrix(r, 4, true, row, CH_AT); }
PTX void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row, CH_SITE) { ch_ldmatrix(r, 2, true, row, CH_AT); }
PTX void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CH_SITE) { ch_mma_f16(d, a, b, CH_AT); }
PTX void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CH_SITE) { ch_mma_bf16(d, a, b, CH_AT); }
PTX void mma_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CH_SITE) { ch_mma_s8(d, a, b, CH_AT); }

/* ---- loads and stores ------------------------------------------------------------------------------------------- */

PTX uint4 ld128(const void *p, CH_SITE) { return ch_load_as<uint4>(p, CH_AT); }
PTX uint2 ld64(const void *p, CH_SITE) { return ch_load_as<uint2>(p, CH_AT); }
PTX float4 ldf4(const float *p, CH_SITE) { return ch_load_as<float4>(p, CH_AT); }
PTX void stf4(float *p, float4 v, CH_SITE) { ch_store(p, &v, sizeof v, 16, CH_AT); }
PTX uint4 ldu4(const void *p, CH_SITE) { return ch_load_as<uint4>(p, CH_AT); }
PTX void stu4(void *p, uint4 v, CH_SITE) { ch_store(p, &v, sizeof v, 16, CH_AT); }
PTX float ldcg_f(const float *p, CH_SITE) { return ch_load_as<float>(p, CH_AT); }
PTX uint32_t ldcg_u(const uint32_t *p, CH_SITE) { return ch_load_as<uint32_t>(p, CH_AT); }
PTX float4 ldcg_f4(const float *p, CH_SITE) { return ch_load_as<float4>(p, CH_AT); }
PTX uint4 ldcg_u4(const void *p, CH_SITE) { return ch_load_as<uint4>(p, CH_AT); }
PTX float4 ldcv_f4(const float *p, CH_SITE) { return ch_load_as<float4>(p, CH_AT); }
PTX uint32_t ldcv_u(const uint32_t *p, CH_SITE) { return ch_load_as<uint32_t>(p, CH_AT); }
PTX void prefetch_l2(const void *) {}

/* ---- warp ------------------------------------------------------------------------------------------------------- */

float ch_warp_sum(float v, ch_site site);
int ch_warp_sum(int v, ch_site site);
float ch_warp_max(float v, ch_site site);
found ch_warp_argmax(float value, uint32_t index, bool high, ch_site site);

PTX float warp_sum(float v, CH_SITE) { return ch_warp_sum(v, CH_AT); }
PTX int warp_sum(int v, CH_SITE) { return ch_warp_sum(v, CH_AT); }
PTX float warp_max(float v, CH_SITE) { return ch_warp_max(v, CH_AT); }
template <bool HIGH> PTX found warp_argmax(float value, uint32_t index, CH_SITE) { return ch_warp_argmax(value, index, HIGH, CH_AT); }
template <class T> PTX T warp_from(T v, int from, CH_SITE) { return ch_shuffle_of(CH_SHUFFLE, FULL_WARP, v, from, 32, CH_AT); }
template <class T> PTX T warp_xor(T v, int x, CH_SITE) { return ch_shuffle_of(CH_SHUFFLE_XOR, FULL_WARP, v, x, 32, CH_AT); }
template <class T> PTX T warp_down(T v, unsigned n, CH_SITE) {
    return ch_shuffle_of(CH_SHUFFLE_DOWN, FULL_WARP, v, static_cast<int>(n), 32, CH_AT);
}

/* ---- between blocks, and with the host -------------------------------------------------------------------------- */

uint32_t ch_acquire(const uint32_t *p, ch_site site);
void ch_release(uint32_t *p, uint32_t v, ch_site site);
bool ch_grid_last(uint32_t *ticket, uint32_t blocks, ch_site site);
spin_result ch_spin_wait(const uint32_t *flag, uint32_t target, const uint32_t *abort, uint64_t limit_ns, ch_site site);
uint64_t ch_clock_ns(void);

PTX unsigned thread_rank() { return ch_here->rank; }
PTX uint32_t ld_acquire_gpu(const uint32_t *p, CH_SITE) { return ch_acquire(p, CH_AT); }
PTX uint32_t ld_acquire_sys(const uint32_t *p, CH_SITE) { return ch_acquire(p, CH_AT); }
PTX void st_release_gpu(uint32_t *p, uint32_t v, CH_SITE) { ch_release(p, v, CH_AT); }
PTX void st_release_sys(uint32_t *p, uint32_t v, CH_SITE) { ch_release(p, v, CH_AT); }
PTX bool grid_last(uint32_t *ticket, uint32_t blocks, CH_SITE) { return ch_grid_last(ticket, blocks, CH_AT); }
PTX void sleep_ns(unsigned) {}
PTX uint64_t global_ns() { return ch_clock_ns(); }
PTX spin_result spin_wait(const uint32_t *flag, uint32_t target, const uint32_t *abort, uint64_t limit_ns, CH_SITE) {
    return ch_spin_wait(flag, target, abort, limit_ns, CH_AT);
}
PTX void pdl_wait() {}
PTX void pdl_trigger() {}

#endif

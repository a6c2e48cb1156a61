/* Bodies of the emulated instructions: bits, matrices, loads and stores, hand-over between blocks. */
#include "tests/cuda_host/internal.h"

/* ---- bits ------------------------------------------------------------------------------------------------------- */

unsigned __brev(unsigned v) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (v >> i & 1) << (31 - i);
    return r;
}

unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned pick = selector >> (4 * i) & 15;
        unsigned byte = static_cast<unsigned>(bytes >> (8 * (pick & 7)) & 255);
        if (pick & 8) byte = byte & 128 ? 255 : 0;
        r |= byte << (8 * i);
    }
    return r;
}

unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>(((static_cast<uint64_t>(high) << 32 | low) << (shift & 31)) >> 32);
}

unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}

int __dp4a(int a, int b, int c) {
    unsigned sum = static_cast<unsigned>(c); // wraps as the device's does
    for (int i = 0; i < 4; i++) {
        const int x = static_cast<int8_t>(static_cast<unsigned>(a) >> 8 * i), y = static_cast<int8_t>(static_cast<unsigned>(b) >> 8 * i);
        sum += static_cast<unsigned>(x * y);
    }
    return static_cast<int>(sum);
}

unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 4; i++) c += (a >> 8 * i & 255) * (b >> 8 * i & 255);
    return c;
}

/* ---- matrices --------------------------------------------------------------------------------------------------- */

struct ldmatrix_args {
    const void *row;
    uint32_t *r;
};

/* Element `column` of row `row` of matrix `m`, whose rows' addresses lanes 8m .. 8m + 7 gave. */
static uint32_t element(void *const *lanes, int m, int row, int column) {
    uint16_t v;
    memcpy(&v, static_cast<const char *>(static_cast<ldmatrix_args *>(lanes[8 * m + row])->row) + 2 * column, 2);
    return v;
}

template <int COUNT, bool TRANSPOSED> static void compute_ldmatrix(void *const *lanes, unsigned) {
    for (int lane = 0; lane < CH_WARP; lane++) {
        const int i = lane / 4, j = 2 * (lane % 4);
        for (int m = 0; m < COUNT; m++) {
            const uint32_t low = TRANSPOSED ? element(lanes, m, j, i) : element(lanes, m, i, j);
            const uint32_t high = TRANSPOSED ? element(lanes, m, j + 1, i) : element(lanes, m, i, j + 1);
            static_cast<ldmatrix_args *>(lanes[lane])->r[m] = high << 16 | low;
        }
    }
}

void ch_ldmatrix(uint32_t *r, int count, bool transposed, const void *row, ch_site site) {
    static const ch_together whats[4] = {{"ldmatrix_x2", compute_ldmatrix<2, false>},
                                         {"ldmatrix_x2_trans", compute_ldmatrix<2, true>},
                                         {"ldmatrix_x4", compute_ldmatrix<4, false>},
                                         {"ldmatrix_x4_trans", compute_ldmatrix<4, true>}};
    if (ch_here->lane < 8u * static_cast<unsigned>(count)) {
        if (reinterpret_cast<uintptr_t>(row) % 16) ch_report(site, "ldmatrix: misaligned row address %p", row);
        if (ch_find_shared(row).where != CH_SHARED_MEMORY) ch_report(site, "ldmatrix: row address %p is not in shared memory", row);
        ch_race_read(row, 16, site);
    }
    ldmatrix_args args = {row, r};
    ch_meet(&whats[(count == 4) * 2 + transposed], FULL_WARP, &args, site);
}

template <class Sum> struct mma_args {
    Sum *d;
    const uint32_t *a, *b;
};

/* The fragments of gpu/ptx.h by element: who holds A[row][k] and B[k][column], where each k step of `PER` elements is a register. */
template <class Sum, int PER, class Value> static void compute_mma(void *const *lanes, unsigned, Value value) {
    enum { HALF = 4 * PER, K = 2 * HALF }; // HALF: k of one register over the four lanes of a row
    Sum a[16][K], b[8][K];
    for (int lane = 0; lane < 32; lane++) {
        const mma_args<Sum> *args = static_cast<mma_args<Sum> *>(lanes[lane]);
        for (int i = 0; i < 2 * PER; i++) {
            const int upper = i / PER, part = i % PER, k = upper * HALF + lane % 4 * PER + part;
            a[lane / 4][k] = value(args->a[2 * upper], part);
            a[lane / 4 + 8][k] = value(args->a[2 * upper + 1], part);
            b[lane / 4][k] = value(args->b[upper], part);
        }
    }
    for (int row = 0; row < 16; row++) {
        for (int column = 0; column < 8; column++) {
            Sum sum = 0;
            for (int k = 0; k < K; k++) sum += a[row][k] * b[column][k];
            static_cast<mma_args<Sum> *>(lanes[row % 8 * 4 + column / 2])->d[row / 8 * 2 + column % 2] += sum;
        }
    }
}

template <class Sum> static void meet_mma(const ch_together *what, Sum *d, const uint32_t *a, const uint32_t *b, ch_site site) {
    mma_args<Sum> args = {d, a, b};
    ch_meet(what, FULL_WARP, &args, site);
}

static float f16_part(uint32_t word, int part) { return ch_f16_to_float(static_cast<uint16_t>(word >> 16 * part)); }
static float bf16_part(uint32_t word, int part) { return ch_bf16_to_float(static_cast<uint16_t>(word >> 16 * part)); }
static int s8_part(uint32_t word, int part) { return static_cast<int8_t>(word >> 8 * part); }

void ch_mma_f16(float *d, const uint32_t *a, const uint32_t *b, ch_site site) {
    static const ch_together what = {"mma_f16", [](void *const *l, unsigned m) { compute_mma<float, 2>(l, m, f16_part); }};
    meet_mma(&what, d, a, b, site);
}
void ch_mma_bf16(float *d, const uint32_t *a, const uint32_t *b, ch_site site) {
    static const ch_together what = {"mma_bf16", [](void *const *l, unsigned m) { compute_mma<float, 2>(l, m, bf16_part); }};
    meet_mma(&what, d, a, b, site);
}
void ch_mma_s8(int *d, const uint32_t *a, const uint32_t *b, ch_site site) {
    static const ch_together what = {"mma_s8", [](void *const *l, unsigned m) { compute_mma<int, 4>(l, m, s8_part); }};
    meet_mma(&what, d, a, b, site);
}

/* ---- loads and stores ------------------------------------------------------------------------------------------- */

static void need_aligned(const void *p, size_t align, const char *what, ch_site site) {
    if (reinterpret_cast<uintptr_t>(p) % align) ch_report(site, "%s of %zu bytes: misaligned address %p", what, align, p);
}

void ch_load(void *to, const void *from, size_t bytes, size_t align, ch_site site) {
    need_aligned(from, align, "load", site);
    ch_race_read(from, bytes, site);
    memcpy(to, from, bytes);
}

void ch_store(void *to, const void *from, size_t bytes, size_t align, ch_site site) {
    need_aligned(to, align, "store", site);
    ch_race_write(to, bytes, site);
    memcpy(to, from, bytes);
}

uint64_t ch_swap_if(void *p, size_t bytes, uint64_t expected, uint64_t next, ch_site site) {
    need_aligned(p, bytes, "atomic", site);
    ch_race_atomic(p, bytes, site);
    if (bytes == 8) {
        __atomic_compare_exchange_n(static_cast<uint64_t *>(p), &expected, next, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        return expected;
    }
    uint32_t narrow = static_cast<uint32_t>(expected);
    __atomic_compare_exchange_n(static_cast<uint32_t *>(p), &narrow, static_cast<uint32_t>(next), false, __ATOMIC_SEQ_CST,
                                __ATOMIC_SEQ_CST);
    return narrow;
}

/* ---- hand-over -------------------------------------------------------------------------------------------------- */

uint32_t ch_acquire(const uint32_t *p, ch_site site) {
    need_aligned(p, 4, "acquire", site);
    ch_race_atomic(p, 4, site);
    ch_race_acquire(p);
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

void ch_release(uint32_t *p, uint32_t v, ch_site site) {
    need_aligned(p, 4, "release", site);
    ch_race_atomic(p, 4, site);
    ch_race_release(p);
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}

bool ch_grid_last(uint32_t *ticket, uint32_t blocks, ch_site site) {
    static bool last; // one block runs at a time
    need_aligned(ticket, 4, "grid_last", site);
    ch_block_barrier(0, site);
    if (ch_here->rank == 0) {
        ch_race_atomic(ticket, 4, site);
        if (*ticket >= blocks) ch_report(site, "grid_last: the ticket is %u, but only %u blocks take one", *ticket, blocks);
        ch_race_release(ticket);
        last = *ticket == blocks - 1;
        if (last) ch_race_acquire(ticket);
        *ticket = last ? 0 : *ticket + 1;
    }
    ch_block_barrier(0, site);
    return last;
}

void ch_trap(ch_site site) { ch_report(site, "__trap()"); }

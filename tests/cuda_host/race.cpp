/* The race check. Kernels of the race build are compiled with -fsanitize=thread, which makes the compiler call __tsan_read4(address)
 * and its like before each access; these are they, and the thread sanitizer's own library is not linked.
 *
 * Memory is watched in cells of 4 bytes. A cell keeps the last two writes, two reads since and two atomic accesses, each as one word:
 * which bytes, by which thread of which block, after how many barriers of the block and __syncwarps of the lane. An access races
 * with an older one to the same bytes, if one of them writes (and not both are atomic) and the older does not come before it:
 *   same thread; an earlier launch; the same block, a block barrier between; the same warp, __syncwarps between that both lanes took
 *   part in (a vector clock a lane); another block, whose release (grid_last, st_release) this one has acquired.
 * A second map of a byte a cell knows which bytes are allocated and which were ever written. Neither streams nor the host are
 * watched. Two of each kind can forget a third: the check misses some races of more than two threads, it invents none, but that
 * several lanes writing the same value to one place counts as a race. */
#include "tests/cuda_host/internal.h"

#include <map>
#include <stdio.h>
#include <sys/mman.h>

extern "C" char __executable_start, _end; // of the program, by the linker

/* ---- who ------------------------------------------------------------------------------------------------------------ */

typedef uint64_t who; // 0: nobody
enum : unsigned { TID_AT = 4, CLOCK_AT = 14, EPOCH_AT = 30, BLOCK_AT = 42 };
enum : uint64_t { BYTES = 15, TID = 1023, CLOCK = 0xffff, EPOCH = 0xfff, BLOCK = (1 << 22) - 1 };

static unsigned tid_of(who w) { return static_cast<unsigned>(w >> TID_AT & TID); }
static unsigned clock_of(who w) { return static_cast<unsigned>(w >> CLOCK_AT & CLOCK); }
static unsigned epoch_of(who w) { return static_cast<unsigned>(w >> EPOCH_AT & EPOCH); }
static unsigned block_of(who w) { return static_cast<unsigned>(w >> BLOCK_AT); }

struct cell {
    who write[2], read[2], atomic[2];
};

enum memory { IN_SHARED, IN_GLOBAL };
struct shadow {
    uintptr_t base;
    size_t bytes;
    cell *cells;
    uint8_t *state;         // a cell: bits 0..3 bytes written, 4..7 bytes allocated; for shared memory the first only
    uint16_t *async_thread; // shared memory: 1 + the thread with a cp.async under way
    uint32_t *state_block;  // shared memory: the block that `state` and async_thread speak of
};
static shadow shadows[2];

/* ---- the running launch ------------------------------------------------------------------------------------------- */

static __thread bool inside;     // instrumented code of this OS thread is a kernel's
static unsigned first_block = 1; // serial number of block 0 of the launch
static unsigned blocks;
static who me_block_epoch; // the block and epoch bits of the running block
static unsigned lane_clock[CH_MAX_THREADS];
static unsigned joined[CH_MAX_THREADS][CH_WARP]; // [thread][lane of its warp]: accesses at smaller clocks come before
static std::vector<unsigned> acquired;           // by the running block, of each block of the launch: epochs below come before
static std::vector<who> acquired_threads;        // by the running block: what this thread did until then comes before
struct release_point {
    std::vector<unsigned> epochs; // by block
    std::vector<who> threads;     // that released
};
static std::map<const void *, release_point> releases; // of this launch, by flag

static who myself(unsigned tid) { return me_block_epoch | static_cast<who>(lane_clock[tid]) << CLOCK_AT | static_cast<who>(tid) << TID_AT; }

static void *map_shadow(size_t bytes) {
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) ch_report({}, "no address space for the race check");
    return p;
}

static void make_shadows(void) {
    if (shadows[IN_GLOBAL].cells) return;
    const ch_span spans[2] = {ch_shared_span(), ch_global_span()};
    for (int i = 0; i < 2; i++) {
        const size_t n = spans[i].bytes / 4;
        shadow s = {spans[i].base, spans[i].bytes, static_cast<cell *>(map_shadow(n * sizeof(cell))), static_cast<uint8_t *>(map_shadow(n)),
                    nullptr, nullptr};
        if (i == IN_SHARED) {
            s.async_thread = static_cast<uint16_t *>(map_shadow(n * sizeof *s.async_thread));
            s.state_block = static_cast<uint32_t *>(map_shadow(n * sizeof *s.state_block));
        }
        shadows[i] = s;
    }
}

/* Serial numbers have run out: forget all accesses, none of which can matter to a launch that begins. */
static void forget_accesses(void) {
    for (shadow &s : shadows) {
        madvise(s.cells, s.bytes / 4 * sizeof(cell), MADV_DONTNEED);
        if (s.state_block) madvise(s.state_block, s.bytes / 4 * sizeof *s.state_block, MADV_DONTNEED);
    }
    first_block = 1;
}

void ch_race_begin_launch(unsigned n) {
    make_shadows();
    if (n >= BLOCK / 2) ch_report({}, "a grid of %u blocks is too large for the race check", n);
    if (first_block + blocks + n >= BLOCK) {
        forget_accesses();
    } else {
        first_block += blocks;
    }
    blocks = n;
    releases.clear();
}

static void set_epoch(void) {
    me_block_epoch = static_cast<who>(first_block + ch_block_now.linear) << BLOCK_AT | (ch_block_now.barriers & EPOCH) << EPOCH_AT;
}

void ch_race_begin_block(void) {
    memset(lane_clock, 0, sizeof *lane_clock * ch_block_now.threads);
    memset(joined, 0, sizeof *joined * ch_block_now.threads);
    acquired.assign(blocks, 0);
    acquired_threads.clear();
    set_epoch();
}

/* Clocks go on: what a lane joined before stays true, and the new epoch orders the rest. */
void ch_race_block_barrier(void) { set_epoch(); }

void ch_race_warp_barrier(unsigned warp, unsigned mask) {
    unsigned all[CH_WARP] = {};
    for (unsigned lane = 0; lane < CH_WARP; lane++) {
        if (!(mask >> lane & 1)) continue;
        const unsigned rank = warp * CH_WARP + lane;
        if (lane_clock[rank] < CLOCK) lane_clock[rank]++;
        joined[rank][lane] = lane_clock[rank];
        for (unsigned i = 0; i < CH_WARP; i++) all[i] = max(all[i], joined[rank][i]);
    }
    for (unsigned lane = 0; lane < CH_WARP; lane++) {
        if (mask >> lane & 1) memcpy(joined[warp * CH_WARP + lane], all, sizeof all);
    }
}

/* A release covers what its block did before the last barrier, what its thread did, and all that was acquired before. What a
 * thread acquires counts for its whole block, a little early. */
void ch_race_release(const void *flag) {
    release_point &r = releases[flag];
    r.epochs.resize(blocks);
    for (unsigned i = 0; i < blocks; i++) r.epochs[i] = max(r.epochs[i], acquired[i]);
    r.epochs[ch_block_now.linear] = max(r.epochs[ch_block_now.linear], static_cast<unsigned>(ch_block_now.barriers));
    r.threads.insert(r.threads.end(), acquired_threads.begin(), acquired_threads.end());
    r.threads.push_back(myself(ch_here->rank));
}

void ch_race_acquire(const void *flag) {
    const auto it = releases.find(flag);
    if (it == releases.end()) return;
    for (unsigned i = 0; i < blocks; i++) acquired[i] = max(acquired[i], it->second.epochs[i]);
    acquired_threads.insert(acquired_threads.end(), it->second.threads.begin(), it->second.threads.end());
}

void ch_race_inside(bool in) { inside = in; }

/* ---- order -------------------------------------------------------------------------------------------------------- */

/* Does access `old` come before what thread `tid` does now? */
static bool before(who old, unsigned tid) {
    const unsigned block = block_of(old);
    if (block == block_of(me_block_epoch)) {
        if (epoch_of(old) != epoch_of(me_block_epoch) || tid_of(old) == tid) return true;
        return tid_of(old) / CH_WARP == tid / CH_WARP && clock_of(old) < joined[tid][tid_of(old) % CH_WARP];
    }
    if (block < first_block) return true;
    const unsigned epochs = acquired[block - first_block];
    if (epochs > EPOCH || epoch_of(old) < epochs) return true;
    for (const who w : acquired_threads) {
        if (block_of(w) == block && tid_of(w) == tid_of(old) && (old & ~BYTES) <= w) return true; // block, epoch, clock rise
    }
    return false;
}

/* ---- findings ----------------------------------------------------------------------------------------------------- */

struct access {
    const void *p;
    size_t bytes;
    ch_site site;
    const void *pc; // of the instrumented access; NULL with a site
};

static void print_place(char *to, size_t n, const void *p) {
    ch_range r = ch_find_shared(p);
    if (r.where == CH_NOWHERE) r = ch_find(p);
    const size_t offset = reinterpret_cast<uintptr_t>(p) - r.base;
    if (r.where == CH_SHARED_MEMORY) {
        snprintf(to, n, "shared %s + %zu bytes", r.name, offset);
    } else if (r.where != CH_NOWHERE) {
        snprintf(to, n, "%s memory, allocation of %zu bytes + %zu", r.where == CH_DEVICE ? "device" : "mapped", r.bytes, offset);
    } else {
        snprintf(to, n, "address %p", p);
    }
}

[[noreturn]] static void finding(const access *a, const char *what, who other) {
    char place[160], by[96] = "", where[96] = "";
    print_place(place, sizeof place, a->p);
    if (other) {
        snprintf(by, sizeof by, ", against thread %u of block %u", tid_of(other), block_of(other) - first_block);
    }
    if (a->pc) { // for addr2line -e program: the address as in the file, whether or not it was moved
        const uintptr_t pc = reinterpret_cast<uintptr_t>(a->pc), start = reinterpret_cast<uintptr_t>(&__executable_start);
        snprintf(where, sizeof where, " (addr2line 0x%zx)", static_cast<size_t>(start < 0x1000000 ? pc : pc - start));
    }
    ch_report(a->site, "%s: %zu bytes at %s%s%s", what, a->bytes, place, by, where);
}

/* ---- one cell ------------------------------------------------------------------------------------------------------- */

static void against(const access *a, const who *two, who mine, unsigned tid, bool same_block_only, const char *what) {
    for (int i = 0; i < 2; i++) {
        if (!(two[i] & mine & BYTES) || (same_block_only && block_of(two[i]) != block_of(mine))) continue;
        if (!before(two[i], tid)) finding(a, what, two[i]);
    }
}

/* Enter `mine` into two places: with an equal entry, over one that it follows, else over the older. */
static void enter(who *two, who mine, unsigned tid) {
    for (int i = 0; i < 2; i++) {
        if (((two[i] ^ mine) & ~BYTES) == 0 || !two[i]) {
            two[i] |= mine;
            return;
        }
    }
    for (int i = 0; i < 2; i++) {
        if (before(two[i], tid) && !(two[i] & BYTES & ~mine)) {
            two[i] = mine;
            return;
        }
    }
    two[0] = two[1];
    two[1] = mine;
}

/* Shared memory starts anew in each block. */
static void refresh(shadow *s, size_t i) {
    const uint32_t block = block_of(me_block_epoch);
    if (s->state_block[i] == block) return;
    s->state_block[i] = block;
    s->state[i] = 0, s->async_thread[i] = 0;
    s->cells[i] = cell{};
}

enum kind { READ, WRITE, ATOMIC };

static void touch_cell(const access *a, memory m, size_t i, who mine, unsigned tid, kind k) {
    shadow *s = &shadows[m];
    const unsigned bytes = mine & BYTES;
    if (m == IN_SHARED) {
        refresh(s, i);
        if (s->async_thread[i]) finding(a, "cp.async is still under way", me_block_epoch | static_cast<who>(s->async_thread[i] - 1u) << TID_AT);
    } else if (bytes & ~(s->state[i] >> 4)) {
        finding(a, k == READ ? "read out of bounds" : "write out of bounds", 0);
    }
    if (k != WRITE && bytes & ~s->state[i]) finding(a, "read of memory that was never written", 0);
    cell *c = &s->cells[i];
    const bool shared = m == IN_SHARED;
    against(a, c->write, mine, tid, shared, k == READ ? "race: read of a write" : k == WRITE ? "race: write over a write" : "race: atomic after a write");
    if (k != ATOMIC) against(a, c->atomic, mine, tid, shared, "race: plain access of what is atomic elsewhere");
    if (k != READ) against(a, c->read, mine, tid, shared, "race: write over what was read");
    enter(k == READ ? c->read : k == WRITE ? c->write : c->atomic, mine, tid);
    if (k != READ) s->state[i] |= bytes;
}

static void touch(const access *a, memory m, kind k) {
    const unsigned tid = ch_here->rank;
    const who mine = myself(tid);
    const uintptr_t from = reinterpret_cast<uintptr_t>(a->p) - shadows[m].base;
    if (m == IN_SHARED) {
        const ch_range r = ch_find_shared(a->p);
        if (r.where == CH_NOWHERE || reinterpret_cast<uintptr_t>(a->p) - r.base + a->bytes > r.bytes) finding(a, "out of bounds", 0);
    }
    for (uintptr_t at = from; at < from + a->bytes;) {
        const unsigned first = at % 4, n = static_cast<unsigned>(min(size_t(4) - first, size_t(from + a->bytes - at)));
        touch_cell(a, m, at / 4, mine | (((1u << n) - 1) << first), tid, k);
        at += n;
    }
}

/* Neither shared nor device memory: a thread's own stack, the program's constants, the launch's arguments, registered memory. */
static void touch_other(const access *a) {
    const uintptr_t p = reinterpret_cast<uintptr_t>(a->p), call = reinterpret_cast<uintptr_t>(ch_block_now.call);
    if (ch_on_fiber_stack(a->p) || p - reinterpret_cast<uintptr_t>(&__executable_start) < static_cast<uintptr_t>(&_end - &__executable_start)) return;
    if (p - call < ch_block_now.call->object_bytes || ch_find(a->p).where == CH_REGISTERED) return;
    finding(a, ch_find(a->p).where == CH_PINNED_HOST ? "a kernel uses the host's address of mapped memory" : "a kernel uses a host pointer", 0);
}

static void touch_any(const access *a, kind k) {
    const uintptr_t p = reinterpret_cast<uintptr_t>(a->p);
    if (p - shadows[IN_GLOBAL].base < shadows[IN_GLOBAL].bytes) {
        touch(a, IN_GLOBAL, k);
    } else if (p - shadows[IN_SHARED].base < shadows[IN_SHARED].bytes) {
        touch(a, IN_SHARED, k);
    } else {
        touch_other(a);
    }
}

void ch_race_read(const void *p, size_t bytes, ch_site site) {
    const access a = {p, bytes, site, nullptr};
    touch_any(&a, READ);
}
void ch_race_write(const void *p, size_t bytes, ch_site site) {
    const access a = {p, bytes, site, nullptr};
    touch_any(&a, WRITE);
}
void ch_race_atomic(const void *p, size_t bytes, ch_site site) {
    const access a = {p, bytes, site, nullptr};
    touch_any(&a, ATOMIC);
}

/* ---- cp.async, allocations ------------------------------------------------------------------------------------------ */

void ch_race_async_issue(const void *p, size_t bytes) {
    const size_t first = (reinterpret_cast<uintptr_t>(p) - shadows[IN_SHARED].base) / 4;
    for (size_t i = first; i < first + bytes / 4; i++) shadows[IN_SHARED].async_thread[i] = static_cast<uint16_t>(ch_here->rank + 1);
}

/* What arrives is a write of this moment: a barrier must stand between it and another thread's read. */
void ch_race_async_land(const void *p, size_t bytes) {
    const size_t first = (reinterpret_cast<uintptr_t>(p) - shadows[IN_SHARED].base) / 4;
    for (size_t i = first; i < first + bytes / 4; i++) shadows[IN_SHARED].async_thread[i] = 0;
    ch_race_write(p, bytes, {});
}

static void set_state(const void *p, size_t bytes, uint8_t set, uint8_t clear) {
    make_shadows();
    const uintptr_t from = reinterpret_cast<uintptr_t>(p) - shadows[IN_GLOBAL].base;
    for (uintptr_t at = from; at < from + bytes;) {
        const unsigned first = at % 4, n = static_cast<unsigned>(min(size_t(4) - first, size_t(from + bytes - at)));
        const unsigned mask = ((1u << n) - 1) << first;
        uint8_t &state = shadows[IN_GLOBAL].state[at / 4];
        state = static_cast<uint8_t>((state | (set & (mask | mask << 4))) & ~(clear & (mask | mask << 4)));
        at += n;
    }
}

void ch_race_allocated(const void *p, size_t bytes, bool initialised) { set_state(p, bytes, initialised ? 0xff : 0xf0, 0); }
void ch_race_freed(const void *p, size_t bytes) { set_state(p, bytes, 0, 0xff); }
void ch_race_initialised(const void *p, size_t bytes) { set_state(p, bytes, 0x0f, 0); }

void ch_race_copied(const void *to, const void *from, size_t bytes) {
    make_shadows();
    const uintptr_t base = shadows[IN_GLOBAL].base, a = reinterpret_cast<uintptr_t>(to) - base, b = reinterpret_cast<uintptr_t>(from) - base;
    for (size_t i = 0; i < bytes; i++) {
        const bool known = shadows[IN_GLOBAL].state[(b + i) / 4] >> (b + i) % 4 & 1;
        set_state(reinterpret_cast<const char *>(base) + a + i, 1, known ? 0x0f : 0, known ? 0 : 0x0f);
    }
}

const char *ch_build(void) { return "race"; }

/* ---- what the compiler calls ---------------------------------------------------------------------------------------- */

static inline void instrumented(const volatile void *p, size_t bytes, kind k, const void *pc) {
    if (!inside) return;
    const access a = {const_cast<const void *>(p), bytes, {}, pc};
    touch_any(&a, k);
}

#define CALLER __builtin_return_address(0)
#define CH_TSAN(n)                                                                            \
    void __tsan_read##n(void *p) { instrumented(p, n, READ, CALLER); }                        \
    void __tsan_write##n(void *p) { instrumented(p, n, WRITE, CALLER); }                      \
    void __tsan_unaligned_read##n(void *p) { instrumented(p, n, READ, CALLER); }              \
    void __tsan_unaligned_write##n(void *p) { instrumented(p, n, WRITE, CALLER); }            \
    void __tsan_volatile_read##n(void *p) { instrumented(p, n, READ, CALLER); }               \
    void __tsan_volatile_write##n(void *p) { instrumented(p, n, WRITE, CALLER); }

/* Host code of .cu files may use atomics; kernels have ch_swap_if and its like. */
#define CH_TSAN_ATOMIC(bits, T)                                                                                              \
    T __tsan_atomic##bits##_load(const volatile T *p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }                  \
    void __tsan_atomic##bits##_store(volatile T *p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }                  \
    T __tsan_atomic##bits##_exchange(volatile T *p, T v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }        \
    T __tsan_atomic##bits##_fetch_add(volatile T *p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }        \
    T __tsan_atomic##bits##_fetch_sub(volatile T *p, T v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); }        \
    T __tsan_atomic##bits##_fetch_and(volatile T *p, T v, int) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); }        \
    T __tsan_atomic##bits##_fetch_or(volatile T *p, T v, int) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }          \
    T __tsan_atomic##bits##_fetch_xor(volatile T *p, T v, int) { return __atomic_fetch_xor(p, v, __ATOMIC_SEQ_CST); }        \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile T *p, T *e, T v, int, int) {                                  \
        return __atomic_compare_exchange_n(p, e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                              \
    }                                                                                                                        \
    int __tsan_atomic##bits##_compare_exchange_weak(volatile T *p, T *e, T v, int, int) {                                    \
        return __atomic_compare_exchange_n(p, e, v, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                               \
    }                                                                                                                        \
    T __tsan_atomic##bits##_compare_exchange_val(volatile T *p, T e, T v, int, int) {                                        \
        __atomic_compare_exchange_n(p, &e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                                    \
        return e;                                                                                                            \
    }

extern "C" {
CH_TSAN(1)
CH_TSAN(2)
CH_TSAN(4)
CH_TSAN(8)
CH_TSAN(16)
void __tsan_read_range(void *p, unsigned long n) { instrumented(p, n, READ, CALLER); }
void __tsan_write_range(void *p, unsigned long n) { instrumented(p, n, WRITE, CALLER); }
CH_TSAN_ATOMIC(8, uint8_t)
CH_TSAN_ATOMIC(16, uint16_t)
CH_TSAN_ATOMIC(32, uint32_t)
CH_TSAN_ATOMIC(64, uint64_t)
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) {}
void __tsan_init(void) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void) {}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
void *__tsan_memcpy(void *to, const void *from, size_t n) {
    instrumented(from, n, READ, CALLER);
    instrumented(to, n, WRITE, CALLER);
    return memcpy(to, from, n);
}
void *__tsan_memmove(void *to, const void *from, size_t n) {
    instrumented(from, n, READ, CALLER);
    instrumented(to, n, WRITE, CALLER);
    return memmove(to, from, n);
}
void *__tsan_memset(void *p, int v, size_t n) {
    instrumented(p, n, WRITE, CALLER);
    return memset(p, v, n);
}
}

/* Runs a grid: blocks one after another, the threads of a block as fibers that hand over to one another where they wait. Owns the
 * threads, the ring of runnable ones, block barriers, cp.async and waiting for the host. */
#include "tests/cuda_host/internal.h"

#include <sched.h>
#include <time.h>

ch_thread ch_threads[CH_MAX_THREADS];
ch_warp ch_warps[CH_MAX_THREADS / CH_WARP];
ch_block ch_block_now;
const ch_place *ch_here;
ch_geometry ch_now;

/* The runnable threads, first in first out; power of two > CH_MAX_THREADS so that it is never full. */
static unsigned short ring[2 * CH_MAX_THREADS];
static unsigned ring_head, ring_tail;
static ch_fiber os_thread;

static unsigned ring_count(void) { return ring_tail - ring_head; }

static void ring_push(unsigned rank) { ring[ring_tail++ % (2 * CH_MAX_THREADS)] = static_cast<unsigned short>(rank); }

static unsigned ring_pop(void) {
    if (ch_settings.order == CH_SHUFFLED && ring_count() > 1) {
        unsigned short &first = ring[ring_head % (2 * CH_MAX_THREADS)];
        unsigned short &other = ring[(ring_head + ch_random() % ring_count()) % (2 * CH_MAX_THREADS)];
        const unsigned short swap = first;
        first = other, other = swap;
    }
    return ring[ring_head++ % (2 * CH_MAX_THREADS)];
}

ch_thread *ch_self(void) { return const_cast<ch_thread *>(reinterpret_cast<const ch_thread *>(ch_here)); }

/* Go on in the next runnable thread. Without one, and with `from` waiting, nothing can ever wake anybody. */
static void go_on(ch_thread *from, bool last) {
    if (!ring_count()) {
        if (last && ch_block_now.gone == ch_block_now.threads) {
            ch_fiber_switch(&from->fiber, &os_thread, true);
            return;
        }
        ch_report(from->site, "deadlock: every thread of the block waits");
    }
    ch_thread *to = &ch_threads[ring_pop()];
    if (to == from) return;
    ch_here = &to->place;
    ch_fiber_switch(&from->fiber, &to->fiber, last);
}

void ch_wait(ch_state state, ch_site site) {
    ch_thread *self = ch_self();
    self->state = state, self->site = site;
    go_on(self, false);
}

void ch_wake(ch_thread *t) {
    t->state = CH_RUNNABLE;
    ring_push(t->place.rank);
}

void ch_yield(ch_site site) {
    ch_thread *self = ch_self();
    ring_push(self->place.rank);
    ch_wait(CH_SPINNING, site);
    self->state = CH_RUNNABLE;
}

/* ---- a thread's life -------------------------------------------------------------------------------------------- */

static void leave(ch_thread *self) {
    ch_async_land(self, ~0u);
    if (ch_block_now.in_barrier) ch_report(self->site, "a thread leaves while others wait at a block barrier");
    const ch_thread *warp = &ch_threads[self->place.warp * CH_WARP];
    ch_warp *lanes = &ch_warps[self->place.warp];
    for (unsigned lane = 0; lane < CH_WARP; lane++) {
        if (lanes->waiting >> lane & 1 && warp[lane].mask >> self->place.lane & 1) {
            ch_report(warp[lane].site, "a lane leaves while lane %u waits for it in %s", lane, warp[lane].meeting->name);
        }
    }
    self->state = CH_GONE;
    lanes->gone |= 1u << self->place.lane;
    ch_block_now.gone++;
}

__attribute__((no_sanitize("address"))) static void thread_main(void) {
    ch_fiber_started();
    ch_block_now.call->run();
    ch_thread *self = ch_self();
    leave(self);
    go_on(self, true);
    __builtin_unreachable();
}

static void prepare_thread(unsigned rank, dim3 block) {
    ch_thread *t = &ch_threads[rank];
    t->place.thread = uint3{rank % block.x, rank / block.x % block.y, rank / (block.x * block.y)};
    t->place.rank = rank, t->place.lane = rank % CH_WARP, t->place.warp = rank / CH_WARP;
    t->state = CH_RUNNABLE, t->site = ch_site{}, t->meeting = nullptr;
    t->async.clear(), t->open_group = 0;
    ch_fiber_prepare(&t->fiber, thread_main);
}

static void run_block(unsigned linear, const ch_call *call) {
    const unsigned threads = call->block.x * call->block.y * call->block.z;
    ch_block_now = ch_block{call, linear, threads, 0, 0, 0, 0, 0, 0};
    memset(ch_warps, 0, sizeof ch_warps);
    ch_now.block_index = uint3{linear % call->grid.x, linear / call->grid.x % call->grid.y, linear / (call->grid.x * call->grid.y)};
    ch_shared_begin_block();
    ch_race_begin_block();
    ring_head = ring_tail = 0;
    for (unsigned i = 0; i < threads; i++) {
        prepare_thread(i, call->block);
        ring_push(ch_settings.order == CH_DESCENDING ? threads - 1 - i : i);
    }
    ch_fiber_of_os_thread(&os_thread);
    ch_thread *first = &ch_threads[ring_pop()];
    ch_here = &first->place;
    ch_fiber_switch(&os_thread, &first->fiber, false);
    ch_here = nullptr;
    ch_shared_end_block();
    ch_counts.blocks++, ch_counts.threads += threads;
}

void ch_run_grid(const ch_call *call) {
    const unsigned blocks = call->grid.x * call->grid.y * call->grid.z;
    if (ch_block_now.call) ch_report({}, "a kernel is launched from within a kernel or its pump");
    const ch_device_access open;
    ch_now.grid = call->grid, ch_now.block = call->block;
    ch_shared_begin_launch(call->dynamic_bytes);
    ch_race_begin_launch(blocks);
    std::vector<unsigned> order(blocks);
    for (unsigned i = 0; i < blocks; i++) order[i] = ch_settings.order == CH_DESCENDING ? blocks - 1 - i : i;
    if (ch_settings.order == CH_SHUFFLED) {
        for (unsigned i = blocks; i > 1; i--) std::swap(order[i - 1], order[ch_random() % i]);
    }
    ch_race_inside(true);
    for (const unsigned block : order) run_block(block, call);
    ch_race_inside(false);
    ch_block_now.call = nullptr;
    ch_counts.launches++;
}

/* ---- the block barrier ------------------------------------------------------------------------------------------ */

static bool same_site(ch_site a, ch_site b) { return a.line == b.line && (a.file == b.file || !strcmp(a.file, b.file)); }

unsigned ch_block_barrier(int predicate, ch_site site) {
    ch_block *block = &ch_block_now;
    ch_thread *self = ch_self();
    if (block->gone) ch_report(site, "block barrier after %u threads have left", block->gone);
    const ch_thread *first = &ch_threads[block->first_in_barrier]; // any one of those that wait tells the line
    if (block->in_barrier && !same_site(first->site, site)) {
        ch_report(site, "divergent block barrier: thread %u waits at %s:%d", first->place.rank, first->site.file, first->site.line);
    }
    if (!block->in_barrier) block->first_in_barrier = self->place.rank;
    block->barrier_votes += predicate != 0;
    if (++block->in_barrier < block->threads) {
        ch_wait(CH_IN_BARRIER, site);
        return block->last_votes;
    }
    block->last_votes = block->barrier_votes;
    block->in_barrier = block->barrier_votes = 0;
    block->barriers++;
    ch_race_block_barrier();
    for (unsigned i = 0; i < block->threads; i++) {
        const unsigned rank = ch_settings.order == CH_DESCENDING ? block->threads - 1 - i : i;
        if (rank != self->place.rank) ch_wake(&ch_threads[rank]);
    }
    return block->last_votes;
}

/* ---- cp.async ----------------------------------------------------------------------------------------------------
 * Two things are modelled: where data arrives late (or at once, CH_EARLY), and that from issue to wait nobody may touch it. */

static void land(const ch_async *copy) {
    if (copy->valid) {
        memcpy(copy->to, copy->from, 16);
    } else {
        memset(copy->to, 0, 16);
    }
}

void ch_async_copy(void *shared, const void *global, bool valid, ch_site site) {
    ch_thread *self = ch_self();
    if (ch_find_shared(shared).where != CH_SHARED_MEMORY) ch_report(site, "cp.async: the destination is not in shared memory");
    if (reinterpret_cast<uintptr_t>(shared) % 16 || reinterpret_cast<uintptr_t>(global) % 16) {
        ch_report(site, "cp.async: misaligned address (to %p, from %p)", shared, global);
    }
    if (valid) ch_race_read(global, 16, site);
    ch_race_write(shared, 16, site);
    ch_race_async_issue(shared, 16);
    self->async.push_back(ch_async{shared, global, valid, self->open_group});
    if (ch_settings.landing == CH_EARLY) land(&self->async.back());
}

void ch_async_commit(void) { ch_self()->open_group++; }

void ch_async_wait(unsigned newest) {
    ch_thread *self = ch_self();
    ch_async_land(self, self->open_group > newest ? self->open_group - newest : 0);
}

void ch_async_land(ch_thread *t, unsigned below_group) {
    size_t done = 0;
    while (done < t->async.size() && t->async[done].group < below_group) {
        land(&t->async[done]);
        ch_race_async_land(t->async[done].to, 16);
        done++;
    }
    t->async.erase(t->async.begin(), t->async.begin() + static_cast<long>(done));
}

/* ---- waiting for the host --------------------------------------------------------------------------------------- */

uint64_t ch_clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

static unsigned late_waits;

void ch_late_waits(unsigned n) { late_waits = n; }

static bool take_late_wait(void) {
    if (!late_waits) return false;
    late_waits--;
    return true;
}

/* The host's turn; false: nothing will come. */
static bool pump_host(void) {
    if (!ch_pump) {
        sched_yield();
        return true;
    }
    const ch_place *here = ch_here;
    ch_race_inside(false);
    const bool more = ch_pump(ch_pump_ctx);
    ch_race_inside(true);
    ch_here = here;
    return more;
}

spin_result ch_spin_wait(const uint32_t *flag, uint32_t target, const uint32_t *abort, uint64_t limit_ns, ch_site site) {
    enum : uint64_t { MOST_NS = 100000000 }; // between two looks: the process may have been stopped, and who is waited for with it
    uint64_t before = ch_clock_ns(), waited = 0;
    if (take_late_wait()) return SPIN_LATE;
    for (bool more = true;;) {
        if (static_cast<int32_t>(ch_acquire(flag, site) - target) >= 0) return SPIN_SEEN;
        if (abort && ch_acquire(abort, site)) return SPIN_ABORTED;
        const uint64_t now = ch_clock_ns();
        waited += min(now - before, static_cast<uint64_t>(MOST_NS)), before = now;
        if (!more || waited > limit_ns) return SPIN_LATE;
        if (ring_count()) ch_yield(site);
        more = pump_host();
    }
}

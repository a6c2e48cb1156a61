/* Reads through io_uring: one submission for many reads, fixed files, results taken from shared memory without a system call.
 *
 * The only file that knows liburing. The ring has plain flags, so that whichever thread holds the owner's lock may use it:
 * SINGLE_ISSUER and DEFER_TASKRUN would bind it to one thread; SQPOLL burns a CPU, IOPOLL is refused by many drives, and
 * registered buffers gained nothing and need a large RLIMIT_MEMLOCK. Everything a container may deny is tried once at opening
 * (setup, probe, registering files, entering), so that the fallback is chosen there and not in the middle of a token. */
#include "engine/stream.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { REAP_BATCH = 64 };

#define POLL_NS 200000 /* between two looks at the ring when the system refuses to wait */

struct uring {
    struct stream head; /* first: a stream pointer is a uring pointer */
    struct io_uring ring;
    unsigned in_flight; /* taken and not reaped yet */
    int broken;         /* errno for which io_uring_enter() failed for good; then nothing more is sent */
    unsigned n_refused; /* reads taken that will never reach the kernel; reported with `broken` */
    uint64_t *refused;  /* [depth] their tags */
};

/* io_uring_enter() failed in a way that time does not cure: what the kernel has not taken is turned into failed results. The
 * kernel's head tells how far it came; requests stay readable in the ring until they are overwritten, which never happens. */
static void give_up(struct uring *u, int error) {
    const struct io_uring_sq *sq = &u->ring.sq;
    u->broken = error;
    for (unsigned i = *sq->khead; i != sq->sqe_tail; i++)
        u->refused[u->n_refused++] = sq->sqes[i & (sq->ring_entries - 1)].user_data;
}

/* Hand over what is prepared. What the kernel cannot take now (no memory, unreaped results) stays in the ring for the next
 * call. */
static void send_prepared(struct uring *u) {
    while (!u->broken && io_uring_sq_ready(&u->ring)) {
        const int sent = io_uring_submit(&u->ring);
        if (sent == 0 || sent == -EAGAIN || sent == -EBUSY) return;
        if (sent < 0 && sent != -EINTR) give_up(u, -sent);
    }
}

static unsigned uring_submit(struct stream *s, const struct stream_read *reads, unsigned n) {
    struct uring *u = (struct uring *)s;
    const unsigned room = s->depth - u->in_flight;
    if (n > room) n = room;
    for (unsigned i = 0; i < n; i++) {
        const struct stream_read *r = &reads[i];
        if (u->broken) {
            u->refused[u->n_refused++] = r->tag;
            continue;
        }
        struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
        assert(sqe); /* the ring has at least `depth` entries */
        io_uring_prep_read(sqe, (int)r->file, r->to, (unsigned)r->bytes, r->offset);
        sqe->flags |= IOSQE_FIXED_FILE;
        sqe->user_data = r->tag;
    }
    u->in_flight += n;
    send_prepared(u);
    return n;
}

/* Results that are there, without a system call unless the kernel asks for one. */
static unsigned take(struct uring *u, struct stream_result *out, unsigned max) {
    unsigned n = 0;
    while (n < max && u->n_refused) out[n++] = (struct stream_result){u->refused[--u->n_refused], -u->broken};
    while (n < max) {
        struct io_uring_cqe *cqes[REAP_BATCH];
        const unsigned want = max - n < REAP_BATCH ? max - n : REAP_BATCH;
        const unsigned got = io_uring_peek_batch_cqe(&u->ring, cqes, want);
        for (unsigned i = 0; i < got; i++) out[n++] = (struct stream_result){cqes[i]->user_data, cqes[i]->res};
        io_uring_cq_advance(&u->ring, got);
        if (got < want) break;
    }
    u->in_flight -= n;
    return n;
}

/* Sleep until a result is there, at most so long. May return early. */
static void wait_result(struct uring *u, uint64_t timeout_ns) {
    struct __kernel_timespec limit = {.tv_sec = (long long)(timeout_ns / 1000000000u),
                                      .tv_nsec = (long long)(timeout_ns % 1000000000u)};
    struct io_uring_cqe *cqe;
    const int sent = u->broken ? -u->broken : io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &limit, NULL);
    if (sent >= 0 || sent == -ETIME || sent == -EINTR) return;
    if (!u->broken && sent != -EAGAIN && sent != -EBUSY) give_up(u, -sent);
    const struct timespec nap = {0, timeout_ns < POLL_NS ? (long)timeout_ns : POLL_NS};
    nanosleep(&nap, NULL); /* no memory, or it refuses to wait: what was sent before still arrives */
}

static unsigned uring_reap(struct stream *s, struct stream_result *out, unsigned max, uint64_t timeout_ns) {
    struct uring *u = (struct uring *)s;
    if (!u->in_flight || !max) return 0;
    send_prepared(u);
    unsigned n = take(u, out, max);
    if (n || !timeout_ns) return n;
    const uint64_t begin = clock_ns();
    for (uint64_t now = begin; !n && now - begin < timeout_ns; now = clock_ns()) {
        wait_result(u, timeout_ns - (now - begin));
        n = take(u, out, max);
    }
    return n;
}

static void uring_close(struct stream *s) {
    struct uring *u = (struct uring *)s;
    struct stream_result ignored[REAP_BATCH];
    while (u->in_flight) (void)uring_reap(s, ignored, REAP_BATCH, 1000000000u);
    io_uring_queue_exit(&u->ring);
    free(u->refused);
    free(u);
}

static const struct stream_ops uring_ops = {"io_uring", uring_submit, uring_reap, uring_close};

static enum err denied(struct reason *why, const char *what, int error) {
    return fail(why, ERR_UNSUPPORTED, "io_uring cannot be used here: %s: %s", what, strerror(error));
}

/* Registers the files and sees whether the kernel knows what is needed and the system lets a request through: some filters
 * allow setting a ring up and refuse to enter it. */
static enum err set_up_ring(struct io_uring *ring, const int *fds, unsigned n_fds, struct reason *why) {
    if (!(ring->features & IORING_FEAT_EXT_ARG)) return denied(why, "the kernel is older than 5.11", ENOSYS);
    int error = io_uring_register_files(ring, fds, n_fds);
    if (error) return denied(why, "registering files", -error);
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    const bool reads = probe && io_uring_opcode_supported(probe, IORING_OP_READ);
    io_uring_free_probe(probe);
    if (!reads) return denied(why, "IORING_OP_READ", EOPNOTSUPP);
    struct io_uring_cqe *cqe;
    io_uring_prep_nop(io_uring_get_sqe(ring));
    do error = io_uring_submit_and_wait(ring, 1);
    while (error == -EINTR || error == -EAGAIN);
    if (error < 0) return denied(why, "io_uring_enter", -error);
    if ((error = io_uring_peek_cqe(ring, &cqe))) return denied(why, "io_uring_enter", -error);
    io_uring_cqe_seen(ring, cqe);
    return ERR_NONE;
}

enum err stream_uring_open(unsigned depth, const int *fds, unsigned n_fds, struct stream **out, struct reason *why) {
    *out = NULL;
    if (depth < 1 || depth > STREAM_MAX_DEPTH)
        return fail(why, ERR_ARGUMENT, "%u reads in flight; 1 to %d are possible", depth, STREAM_MAX_DEPTH);
    struct uring *u = calloc_checked(1, sizeof *u);
    uint64_t *refused = calloc_checked(depth, sizeof *refused);
    enum err code = ERR_NO_MEMORY;
    if (!u || !refused) {
        fail(why, code, "no memory for %u reads in flight", depth);
        goto fail;
    }
    u->head = (struct stream){&uring_ops, depth};
    u->refused = refused;
    const int error = io_uring_queue_init(depth, &u->ring, 0);
    if (error) {
        code = denied(why, "io_uring_setup", -error);
        goto fail;
    }
    if ((code = set_up_ring(&u->ring, fds, n_fds, why))) {
        io_uring_queue_exit(&u->ring);
        goto fail;
    }
    *out = &u->head;
    return ERR_NONE;

fail:
    free(refused);
    free(u);
    return code;
}

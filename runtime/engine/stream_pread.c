/* Reads by a few threads that call pread(): the stand-in where io_uring is denied (containers, old kernels).
 *
 * One lock over two rings, requests and results. Threads keep all signals blocked, so that the program's handlers run on its
 * own threads. Retries nothing: an interrupted or short read is reported as it came. */
#include "engine/stream.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct preader {
    struct stream head; /* first: a stream pointer is a preader pointer */
    pthread_mutex_t lock;
    pthread_cond_t work, answer;
    pthread_t *threads; /* [n_threads] */
    unsigned n_threads;
    int *fds; /* [n_fds] */
    unsigned n_fds;
    bool quit;
    unsigned in_flight;            /* taken and not reaped yet: queued, being read, or an unreaped result */
    struct stream_read *queue;     /* ring [depth] */
    struct stream_result *results; /* ring [depth] */
    unsigned queue_at, n_queue, results_at, n_results;
};

static void *reader_main(void *arg) {
    struct preader *p = arg;
    const unsigned depth = p->head.depth;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->quit && !p->n_queue) pthread_cond_wait(&p->work, &p->lock);
        if (p->quit) break;
        const struct stream_read r = p->queue[p->queue_at];
        p->queue_at = (p->queue_at + 1) % depth;
        p->n_queue--;
        pthread_mutex_unlock(&p->lock);
        const ssize_t got = pread(p->fds[r.file], r.to, (size_t)r.bytes, (off_t)r.offset);
        const int64_t result = got < 0 ? -errno : got;
        pthread_mutex_lock(&p->lock);
        p->results[(p->results_at + p->n_results++) % depth] = (struct stream_result){r.tag, result};
        pthread_cond_signal(&p->answer); /* only one thread at a time reaps */
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static unsigned preader_submit(struct stream *s, const struct stream_read *reads, unsigned n) {
    struct preader *p = (struct preader *)s;
    pthread_mutex_lock(&p->lock);
    const unsigned room = s->depth - p->in_flight;
    if (n > room) n = room;
    for (unsigned i = 0; i < n; i++) {
        assert(reads[i].file < p->n_fds);
        p->queue[(p->queue_at + p->n_queue++) % s->depth] = reads[i];
    }
    p->in_flight += n;
    if (n == 1)
        pthread_cond_signal(&p->work);
    else if (n)
        pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    return n;
}

static struct timespec deadline_after(uint64_t timeout_ns) {
    const uint64_t now = clock_ns(), end = timeout_ns > INT64_MAX - now ? INT64_MAX : now + timeout_ns;
    return (struct timespec){(time_t)(end / 1000000000u), (long)(end % 1000000000u)};
}

static unsigned preader_reap(struct stream *s, struct stream_result *out, unsigned max, uint64_t timeout_ns) {
    struct preader *p = (struct preader *)s;
    pthread_mutex_lock(&p->lock);
    if (timeout_ns && max && p->in_flight && !p->n_results) {
        const struct timespec deadline = deadline_after(timeout_ns);
        int error = 0;
        while (!error && !p->n_results) error = pthread_cond_timedwait(&p->answer, &p->lock, &deadline);
    }
    unsigned n = 0;
    for (; n < max && p->n_results; n++, p->n_results--) {
        out[n] = p->results[p->results_at];
        p->results_at = (p->results_at + 1) % s->depth;
    }
    p->in_flight -= n;
    pthread_mutex_unlock(&p->lock);
    return n;
}

/* Reads that no thread has begun are dropped; those under way are waited for. */
static void preader_close(struct stream *s) {
    struct preader *p = (struct preader *)s;
    pthread_mutex_lock(&p->lock);
    p->quit = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->n_threads; i++) pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->answer);
    pthread_mutex_destroy(&p->lock);
    free(p->threads);
    free(p->fds);
    free(p->queue);
    free(p->results);
    free(p);
}

static const struct stream_ops preader_ops = {"pread", preader_submit, preader_reap, preader_close};

/* As many threads as the system grants; one is enough to work. */
static enum err start_threads(struct preader *p, unsigned threads, struct reason *why) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = 0;
    while (!error && p->n_threads < threads) {
        error = pthread_create(&p->threads[p->n_threads], NULL, reader_main, p);
        if (!error) p->n_threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (p->n_threads) return ERR_NONE;
    return fail(why, ERR_NO_MEMORY, "cannot start a reader thread: %s", strerror(error));
}

enum err stream_pread_open(unsigned threads, unsigned depth, const int *fds, unsigned n_fds, struct stream **out,
                           struct reason *why) {
    *out = NULL;
    if (depth < 1 || depth > STREAM_MAX_DEPTH)
        return fail(why, ERR_ARGUMENT, "%u reads in flight; 1 to %d are possible", depth, STREAM_MAX_DEPTH);
    if (threads < 1 || threads > STREAM_MAX_THREADS)
        return fail(why, ERR_ARGUMENT, "%u reader threads; 1 to %d are possible", threads, STREAM_MAX_THREADS);
    struct preader *p = calloc_checked(1, sizeof *p);
    if (!p) return fail(why, ERR_NO_MEMORY, "no memory for the readers");
    p->head = (struct stream){&preader_ops, depth};
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&p->answer, &monotonic);
    pthread_condattr_destroy(&monotonic);
    p->threads = calloc_checked(threads, sizeof *p->threads);
    p->fds = calloc_checked(n_fds, sizeof *p->fds);
    p->queue = calloc_checked(depth, sizeof *p->queue);
    p->results = calloc_checked(depth, sizeof *p->results);
    enum err code = ERR_NO_MEMORY;
    if (!p->threads || !p->fds || !p->queue || !p->results) {
        fail(why, code, "no memory for %u reads in flight", depth);
        goto fail;
    }
    memcpy(p->fds, fds, n_fds * sizeof *fds);
    p->n_fds = n_fds;
    if ((code = start_threads(p, threads, why))) goto fail;
    *out = &p->head;
    return ERR_NONE;

fail:
    preader_close(&p->head);
    return code;
}

/* A llama-bench program under the same VRAM budget: how many layers' experts have to stay on the CPU, how fast it is then, and what
 * VRAM it took, seen from the card's free memory. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/report/report.h"
#include "core/json.h"

enum { MOST_ARGS = 40, POLL_MS = 30, RETRIES = 3, MOST_S = 120 /* of one run */ };

struct output {
    struct text text;
    uint64_t least_free; /* of VRAM, while it ran */
    int status;
};

static void spawned(char *const *args, int out) {
    const int nothing = open("/dev/null", O_RDWR);
    dup2(nothing, 0);
    dup2(out, 1);
    dup2(nothing, 2);
    execv(args[0], args);
    _exit(127);
}

/* Reads until the program ends, watching memory and the clock. */
static void follow(struct bench *b, int from, pid_t child, struct output *o) {
    char piece[4096];
    const uint64_t end = clock_ns() + MOST_S * (uint64_t)1000000000;
    struct pollfd wait = {.fd = from, .events = POLLIN};
    for (;;) {
        const int ready = poll(&wait, 1, POLL_MS);
        const uint64_t now = gpu_bench_free_bytes(b->gpu);
        if (now && now < o->least_free) o->least_free = now;
        if (bench_late(b, 0) || clock_ns() > end) kill(child, SIGKILL);
        if (ready <= 0) continue;
        const ssize_t n = read(from, piece, sizeof piece);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;
        text_add(&o->text, piece, (size_t)n);
    }
}

static enum err run(struct bench *b, char *const *args, struct output *o, struct reason *why) {
    int ends[2];
    o->least_free = UINT64_MAX;
    if (pipe2(ends, O_CLOEXEC)) return fail(why, ERR_IO, "no pipe: %s", strerror(errno));
    const pid_t child = fork();
    if (child == 0) spawned(args, ends[1]);
    close(ends[1]);
    if (child > 0) follow(b, ends[0], child, o);
    close(ends[0]);
    if (child < 0 || waitpid(child, &o->status, 0) != child) return fail(why, ERR_IO, "%s: cannot be run: %s", args[0], strerror(errno));
    return ERR_NONE;
}

/* ---- flags and answers ------------------------------------------------------------------------------------------------------- */

/* How this program wants a depth: "-gp P,N", else "-d P". */
static bool knows(struct bench *b, const char *flag) {
    struct output o = {.text = {0}};
    struct reason why;
    char *args[] = {(char *)b->o.peer, "--help", NULL};
    const bool found = !run(b, args, &o, &why) && o.text.ptr && strstr(o.text.ptr, flag);
    text_free(&o.text);
    return found;
}

static double number(const json_t *test, const char *key) {
    const json_t *v = json_object_get(test, key);
    return json_is_number(v) ? json_number_value(v) : 0;
}

static void take(const json_t *test, struct peer_rates *out) {
    const int prompt = (int)number(test, "n_prompt"), gen = (int)number(test, "n_gen"), depth = (int)number(test, "n_depth");
    const double rate = number(test, "avg_ts");
    if (gen && (prompt || depth)) out->decode_4096 = rate;
    else if (gen) out->decode = rate;
    else if (prompt == 512) out->prefill_512 = rate;
    else if (prompt == 2048) out->prefill_2048 = rate;
}

static enum err take_all(const struct output *o, struct peer_rates *out, struct reason *why) {
    const char *from = o->text.ptr ? strchr(o->text.ptr, '[') : NULL;
    json_t *tests = NULL;
    if (!WIFEXITED(o->status) || WEXITSTATUS(o->status) || !from)
        return fail(why, ERR_IO, "the peer ended with status %d (out of time or of memory?)", WIFEXITED(o->status) ? WEXITSTATUS(o->status) : -WTERMSIG(o->status));
    TRY(json_read((struct span){from, o->text.len - (size_t)(from - o->text.ptr)}, &tests, why));
    for (size_t i = 0; i < json_array_size(tests); i++) take(json_array_get(tests, i), out);
    json_decref(tests);
    return ERR_NONE;
}

struct flags {
    char text[MOST_ARGS][24];
    char *args[MOST_ARGS + 1];
    uint32_t n;
};

static void add(struct flags *f, const char *format, ...) PRINTF_LIKE(2, 3);
static void add(struct flags *f, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(f->text[f->n], sizeof f->text[0], format, args);
    va_end(args);
    f->args[f->n] = f->text[f->n];
    f->n++;
}

static void common_flags(struct bench *b, const struct peer_question *q, uint32_t layers, struct flags *f) {
    f->n = 3;
    f->args[0] = (char *)b->o.peer, f->args[1] = "-m", f->args[2] = (char *)q->model;
    add(f, "-ngl"), add(f, "99");
    if (layers) add(f, "--n-cpu-moe"), add(f, "%u", layers);
    add(f, "-fa"), add(f, "1");
    add(f, "-ub"), add(f, "%u", q->ubatch);
    add(f, "-t"), add(f, "%u", b->o.threads ? b->o.threads : b->facts->n_cores);
    add(f, "-r"), add(f, "2");
    add(f, "-o"), add(f, "json");
}

static enum err ask(struct bench *b, struct flags *f, struct peer_rates *out, uint64_t free_before, struct reason *why) {
    struct output o = {.text = {0}};
    enum err e = run(b, f->args, &o, why);
    if (!e) e = take_all(&o, out, why);
    if (o.least_free < free_before && free_before - o.least_free > out->vram_peak) out->vram_peak = free_before - o.least_free;
    text_free(&o.text);
    return e;
}

/* ---- layers -------------------------------------------------------------------------------------------------------------------- */

static uint64_t experts_bytes(const struct model *m, uint32_t layer) {
    const struct model_layer *l = &m->layers[layer];
    return l->gate->bytes + (l->up ? l->up->bytes : 0) + l->down->bytes;
}

/* The fewest of the first layers whose experts have to stay outside, with 1 GiB for the peer's context and buffers. */
static uint32_t guess_layers(const struct peer_question *q) {
    const struct model *m = q->shape;
    const struct model_shape *s = &m->shape;
    uint64_t need = ((uint64_t)1 << 30) + (uint64_t)4096 * s->n_layers * s->n_kv_heads * s->head_dim * 4;
    uint32_t n = 0;
    for (size_t i = 0; i < m->n_tensors; i++) need += m->tensors[i].bytes;
    need -= m->embedding != m->output ? m->embedding->bytes : 0;
    while (q->budget && need > q->budget && n < s->n_layers) need -= experts_bytes(m, n++);
    return n;
}

/* Decode and prompts at depth 0; on a second call decode behind 4096 tokens. */
static enum err measure(struct bench *b, const struct peer_question *q, struct peer_rates *out, struct reason *why) {
    const bool gp = knows(b, "-gp ");
    const uint64_t free_before = gpu_bench_free_bytes(b->gpu);
    struct flags f = {.n = 0}, deep = {.n = 0};
    common_flags(b, q, out->layers_on_cpu, &f);
    add(&f, "-p"), add(&f, "512,2048"), add(&f, "-n"), add(&f, "64");
    TRY(ask(b, &f, out, free_before, why));
    common_flags(b, q, out->layers_on_cpu, &deep);
    add(&deep, "-p"), add(&deep, "0"), add(&deep, "-n"), add(&deep, gp ? "0" : "64");
    add(&deep, gp ? "-gp" : "-d"), add(&deep, gp ? "4096,64" : "4096");
    return ask(b, &deep, out, free_before, why);
}

enum err peer_measure(struct bench *b, const struct peer_question *q, struct peer_rates *out, struct reason *why) {
    uint32_t layers = guess_layers(q);
    for (int tries = 0; tries < RETRIES; tries++, layers += 2) {
        *out = (struct peer_rates){.layers_on_cpu = layers, .prefill_512 = NAN, .prefill_2048 = NAN, .decode = NAN, .decode_4096 = NAN};
        if (bench_late(b, 10)) return fail(why, ERR_CANCELLED, "no time left for the peer");
        bench_progress(b, "the peer, experts of %u layers on the CPU", layers);
        TRY(measure(b, q, out, why));
        if (!q->budget || out->vram_peak <= q->budget || layers >= q->shape->shape.n_layers) return ERR_NONE;
    }
    return fail(why, ERR_LIMIT, "the peer took more than the budget with the experts of %u layers on the CPU", layers - 2);
}

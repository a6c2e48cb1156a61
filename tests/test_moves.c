/* Experts on the move (engine/moves.h) and passing through (engine/ring.h) over a device and a store that are made up: two
 * queues that get on at random, memory whose contents are looked at whenever a kernel would read it, and RAM that is
 * overwritten as soon as nobody holds it. Linked instead of the engine's own vram.c and experts.c. */
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/moves.h"
#include "engine/ring.h"
#include "placement/plan.h"

enum { N_LAYERS = 3, N_EXPERTS = 24, N_USED = 2, N_CLASSES = 2, QUEUE = 4096, MAX_EVENTS = 16, PIECES = 3 };
static const uint64_t piece_bytes[PIECES] = {40000, 300, 5000};
enum { SLOT_BYTES = 40192 + 512 + 5120, BUFFERS = N_LAYERS * N_EXPERTS + 4 };

/* ---- the store: RAM that holds an expert or not -------------------------------------------------------------- */

static uint64_t state;

static uint32_t random_below(uint32_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

static uint8_t *ram[N_LAYERS][N_EXPERTS];
static uint32_t held[N_LAYERS][N_EXPERTS], n_held;
static bool refuse_some;

static uint8_t content(uint32_t layer, uint32_t expert, uint64_t i) {
    return (uint8_t)((layer * 61 + expert * 7 + 1) * (i / 64 + 3) + i);
}

static uint64_t piece_at(int piece) { return piece == 0 ? 0 : piece == 1 ? 40192 : 40192 + 512; }

static uint8_t buffers[BUFFERS][SLOT_BYTES];
static uint8_t *unused[BUFFERS]; /* the longest unused first */
static uint32_t n_unused;

static void read_expert(uint32_t l, uint32_t e) {
    if (ram[l][e]) return;
    assert_true(n_unused > 0);
    ram[l][e] = unused[0];
    memmove(unused, unused + 1, --n_unused * sizeof *unused);
    for (uint64_t i = 0; i < SLOT_BYTES; i++) ram[l][e][i] = content(l, e, i);
}

static void evict(uint32_t l, uint32_t e) {
    if (!ram[l][e] || held[l][e]) return;
    memset(ram[l][e], 0xee, SLOT_BYTES); /* until another expert is read there */
    unused[n_unused++] = ram[l][e];
    ram[l][e] = NULL;
}

static void empty_store(void) {
    memset(ram, 0, sizeof ram);
    memset(held, 0, sizeof held);
    n_held = 0;
    for (n_unused = 0; n_unused < BUFFERS; n_unused++) unused[n_unused] = buffers[n_unused];
}

uint32_t experts_slots(const struct experts *x, uint32_t layer) {
    (void)x, (void)layer;
    return 40;
}
bool experts_has(const struct experts *x, uint32_t layer, uint32_t expert) {
    (void)x;
    return ram[layer][expert] != NULL;
}
bool experts_borrow(struct experts *x, uint32_t layer, uint32_t expert, struct expert_at *out) {
    (void)x;
    if (!ram[layer][expert] || (refuse_some && random_below(8) == 0)) return false;
    held[layer][expert]++, n_held++;
    memset(out, 0, sizeof *out);
    for (int i = 0; i < PIECES; i++) out->matrix[i] = ram[layer][expert] + piece_at(i);
    return true;
}
void experts_return(struct experts *x, uint32_t layer, uint32_t expert) {
    (void)x;
    assert_true(held[layer][expert] > 0);
    held[layer][expert]--, n_held--;
}
static bool elsewhere[N_LAYERS][N_EXPERTS];
void experts_set_elsewhere(struct experts *x, uint32_t layer, uint32_t expert, bool is) {
    (void)x;
    elsewhere[layer][expert] = is;
    if (is) evict(layer, expert);
}

/* ---- the device ---------------------------------------------------------------------------------------------- */

enum op_kind { OP_COPY, OP_STEP, OP_EXPERTS, OP_RECORD, OP_WAIT };

struct gpu_event {
    uint32_t issued, done;
};

struct op {
    enum op_kind kind;
    uint32_t layer, n;
    const uint8_t *from[PIECES];
    gpu_ptr slot;
    struct gpu_event *event;
    uint32_t version;
    struct gpu_batch_expert experts[N_EXPERTS];
    struct gpu_command command;
};

static struct op queue[GPU_STREAMS][QUEUE];
static uint32_t first[GPU_STREAMS], end[GPU_STREAMS];
static uint32_t table[N_LAYERS][N_EXPERTS]; /* the device's own */
static uint8_t *vram_memory;
static struct vram v;
static uint32_t steps_done, computed[N_LAYERS][N_EXPERTS];

static struct op *enqueue(enum gpu_stream s, enum op_kind kind) {
    assert_true(end[s] - first[s] < QUEUE);
    struct op *o = &queue[s][end[s]++ % QUEUE];
    memset(o, 0, sizeof *o);
    o->kind = kind;
    return o;
}

static void expect_content(gpu_ptr slot, uint32_t layer, uint32_t expert) {
    const uint8_t *p = (const uint8_t *)slot;
    for (int i = 0; i < PIECES; i++)
        for (uint64_t at = (piece_bytes[i] - 1) % 97; at < piece_bytes[i]; at += 97) /* the last one, too */
            if (p[piece_at(i) + at] != content(layer, expert, piece_at(i) + at))
                fail_test("a kernel reads expert %u of layer %u: byte %llu of matrix %d is another one's", expert, layer,
                          (unsigned long long)at, i);
}

/* A step sees its patches and no others. */
static void run_step_op(const struct op *o) {
    for (uint32_t i = 0; i < o->command.n_patches; i++)
        table[o->command.patches[i].layer][o->command.patches[i].expert] = o->command.patches[i].slot;
    for (uint32_t l = 0; l < N_LAYERS; l++)
        for (uint32_t e = 0; e < N_EXPERTS; e++) {
            if (!table[l][e]) continue;
            expect_content(v.slots + (uint64_t)(table[l][e] - 1) * 256, l, e);
            for (uint32_t m = 0; m < N_LAYERS; m++)
                for (uint32_t f = 0; f < N_EXPERTS; f++)
                    if (table[m][f] == table[l][e] && (m != l || f != e)) fail_test("two experts share a slot");
        }
    steps_done++;
}

static bool get_on(int s) {
    if (first[s] == end[s]) return false;
    const struct op *o = &queue[s][first[s] % QUEUE];
    if (o->kind == OP_WAIT && o->event->done < o->version) return false;
    first[s]++;
    if (o->kind == OP_COPY)
        for (int i = 0; i < PIECES; i++) memcpy((uint8_t *)o->slot + piece_at(i), o->from[i], piece_bytes[i]);
    else if (o->kind == OP_STEP) run_step_op(o);
    else if (o->kind == OP_RECORD) o->event->done = o->version;
    for (uint32_t i = 0; o->kind == OP_EXPERTS && i < o->n; i++) {
        expect_content(o->experts[i].slot, o->layer, o->experts[i].expert);
        computed[o->layer][o->experts[i].expert]++;
    }
    return true;
}

static void get_on_a_little(void) {
    for (uint32_t n = random_below(4); n > 0; n--) (void)get_on((int)random_below(GPU_STREAMS));
}

static enum err fake_alloc(struct gpu *g, enum gpu_use use, uint64_t bytes, gpu_ptr *out, struct reason *why) {
    (void)g, (void)use, (void)why;
    *out = (gpu_ptr)malloc(bytes);
    return ERR_NONE;
}
static void fake_free(struct gpu *g, enum gpu_use use, gpu_ptr p, uint64_t bytes) {
    (void)g, (void)use, (void)bytes;
    free((void *)p);
}
static enum err fake_alloc_pinned(struct gpu *g, uint64_t bytes, void **host, gpu_ptr *mapped, struct reason *why) {
    (void)g, (void)why;
    *host = malloc(bytes);
    *mapped = (gpu_ptr)*host;
    return ERR_NONE;
}
static void fake_free_pinned(struct gpu *g, void *host, uint64_t bytes) {
    (void)g, (void)bytes;
    free(host);
}
static enum err fake_event_open(struct gpu *g, struct gpu_event **out, struct reason *why) {
    (void)g, (void)why;
    *out = calloc(1, sizeof **out);
    return ERR_NONE;
}
static void fake_event_close(struct gpu *g, struct gpu_event **e) {
    (void)g;
    free(*e);
    *e = NULL;
}
static void fake_record(struct gpu *g, enum gpu_stream s, struct gpu_event *e) {
    (void)g;
    struct op *o = enqueue(s, OP_RECORD);
    o->event = e, o->version = ++e->issued;
    get_on_a_little();
}
static void fake_wait(struct gpu *g, enum gpu_stream s, struct gpu_event *e) {
    (void)g;
    struct op *o = enqueue(s, OP_WAIT);
    o->event = e, o->version = e->issued;
    get_on_a_little();
}
static bool fake_passed(struct gpu *g, struct gpu_event *e) {
    (void)g;
    get_on_a_little();
    return e->done == e->issued;
}
static enum err fake_sync(struct gpu *g, enum gpu_stream s, uint64_t timeout_ns, struct reason *why) {
    (void)g, (void)timeout_ns, (void)why;
    while (first[s] != end[s])
        if (!get_on((int)s) && !get_on(1 - (int)s)) fail_test("the streams wait for each other");
    return ERR_NONE;
}
static enum err fake_check(struct gpu *g, struct reason *why) {
    (void)g, (void)why;
    return ERR_NONE;
}
static void fake_batch_experts(struct gpu_network *n, const struct gpu_batch *b, uint32_t layer,
                               const struct gpu_batch_expert *experts, uint32_t count) {
    (void)n, (void)b;
    struct op *o = enqueue(GPU_COMPUTE, OP_EXPERTS);
    o->layer = layer, o->n = count;
    memcpy(o->experts, experts, count * sizeof *experts);
    get_on_a_little();
}

static const struct gpu_ops ops = {.alloc = fake_alloc,
                                   .free = fake_free,
                                   .alloc_pinned = fake_alloc_pinned,
                                   .free_pinned = fake_free_pinned,
                                   .event_open = fake_event_open,
                                   .event_close = fake_event_close,
                                   .record = fake_record,
                                   .wait = fake_wait,
                                   .passed = fake_passed,
                                   .sync = fake_sync,
                                   .check = fake_check,
                                   .batch_experts = fake_batch_experts};

/* Each matrix is one piece. */
void vram_describe_expert(const struct vram *of, uint32_t layer, uint32_t expert, struct vram_expert *out) {
    (void)of, (void)layer, (void)expert;
    *out = (struct vram_expert){0};
    for (int i = 0; i < PIECES; i++) {
        out->matrices[i].type = TYPE_F16;
        out->matrices[i].rows = 1;
        out->matrices[i].k = piece_bytes[i] / 2;
        out->matrices[i].at = piece_at(i);
        out->pieces[3 * i].bytes = piece_bytes[i];
        out->pieces[3 * i].at = piece_at(i);
        out->bytes += piece_bytes[i];
        out->weights += piece_bytes[i] / 2;
    }
}
uint64_t vram_expert_room(const struct vram *of) {
    (void)of;
    return SLOT_BYTES;
}
void vram_send_expert(const struct vram *of, const struct vram_expert *x, const uint8_t *const from[VRAM_PIECES], gpu_ptr staging,
                      gpu_ptr slot) {
    (void)of, (void)x;
    assert_true(staging != 0 && slot >= v.slots && slot + SLOT_BYTES <= v.slots + v.slots_bytes &&
                (slot - v.slots) % SLOT_BYTES == 0);
    struct op *o = enqueue(GPU_COPY, OP_COPY);
    for (int i = 0; i < PIECES; i++) o->from[i] = from[3 * i];
    o->slot = slot;
    get_on_a_little();
}

/* ---- the fixture --------------------------------------------------------------------------------------------- */

static struct gpu the_gpu = {&ops};
static uint32_t slot_of[N_LAYERS * N_EXPERTS];
static struct vram_slots classes[N_CLASSES + 1];
static uint8_t layer_class[N_LAYERS] = {0, 1, 0};

/* used[c] of n[c] slots of a class are filled, the first experts of its layers in turn; all others are in RAM. */
static void build(const uint32_t n[N_CLASSES], const uint32_t used[N_CLASSES], uint32_t n_ring) {
    empty_store();
    memset(table, 0, sizeof table);
    memset(slot_of, 0, sizeof slot_of);
    memset(first, 0, sizeof first);
    memset(end, 0, sizeof end);
    memset(computed, 0, sizeof computed);
    memset(elsewhere, 0, sizeof elsewhere);
    steps_done = 0;
    v = (struct vram){.gpu = &the_gpu,
                      .ops = &ops,
                      .n_layers = N_LAYERS,
                      .n_experts = N_EXPERTS,
                      .slot_of = slot_of,
                      .classes = classes,
                      .n_classes = N_CLASSES,
                      .layer_class = layer_class,
                      .patience_ns = 60000000000u};
    v.slots_bytes = (uint64_t)(n[0] + n[1] + n_ring) * SLOT_BYTES;
    vram_memory = aligned_alloc(256, v.slots_bytes);
    assert_non_null(vram_memory);
    memset(vram_memory, 0xdd, v.slots_bytes);
    v.slots = (gpu_ptr)vram_memory;
    gpu_ptr at = v.slots;
    for (uint32_t c = 0; c <= N_CLASSES; c++) {
        const uint32_t count = c < N_CLASSES ? n[c] : n_ring;
        classes[c] = (struct vram_slots){.base = at, .bytes = SLOT_BYTES, .n = count, .used = c < N_CLASSES ? used[c] : 0};
        at += (uint64_t)count * SLOT_BYTES;
    }
    uint32_t filled[N_CLASSES] = {0};
    for (uint32_t e = 0; e < N_EXPERTS; e++)
        for (uint32_t l = 0; l < N_LAYERS; l++) {
            const uint32_t c = layer_class[l];
            if (filled[c] == used[c]) {
                read_expert(l, e);
                continue;
            }
            const gpu_ptr slot = classes[c].base + (uint64_t)filled[c]++ * SLOT_BYTES;
            for (uint64_t i = 0; i < SLOT_BYTES; i++) ((uint8_t *)slot)[i] = content(l, e, i);
            slot_of[l * N_EXPERTS + e] = table[l][e] = (uint32_t)(1 + (slot - v.slots) / 256);
            elsewhere[l][e] = true;
        }
}

static void tear_down(void) {
    empty_store();
    free(vram_memory);
}

static struct moves *open_moves(uint32_t shuffle) {
    struct plan_layer layers[N_LAYERS];
    struct moves *m;
    struct reason why;
    memset(layers, 0, sizeof layers);
    for (uint32_t l = 0; l < N_LAYERS; l++) layers[l].may_vram = true;
    const struct plan plan = {.n_used = N_USED, .layers = layers};
    const struct moves_options o = {.vram = &v, .plan = &plan, .shuffle = shuffle};
    if (moves_open(&o, &m, &why)) fail_test("%s", why.text);
    assert_non_null(m);
    return m;
}

/* One step of the engine's: a command, the device's work with it, staging meanwhile. */
static void one_step(struct moves *m, int stages) {
    struct gpu_command c = {0};
    const uint32_t before = steps_done;
    moves_before_step(m, &c);
    assert_true(c.n_patches <= GPU_COMMAND_PATCHES);
    enqueue(GPU_COMPUTE, OP_STEP)->command = c;
    while (steps_done == before) {
        if (stages-- > 0) (void)moves_stage(m);
        get_on_a_little();
    }
    moves_after_step(m);
}

/* ---- moves --------------------------------------------------------------------------------------------------- */

/* Random moves, store and device at any pace: no kernel ever reads what is not there, and nothing is lost or lent for good. */
static void no_step_reads_a_wrong_expert(void **ctx) {
    (void)ctx;
    for (uint32_t round = 0; round < 6; round++) {
        state = round + 1;
        build((const uint32_t[]){8, 5}, (const uint32_t[]){6, round % 2 ? 3 : 4}, 0);
        struct moves *m = open_moves(round + 1);
        for (uint32_t step = 0; step < 200; step++) {
            one_step(m, (int)random_below(6));
            const uint32_t l = random_below(N_LAYERS), e = random_below(N_EXPERTS);
            if (random_below(2)) evict(l, e);
            else if (!elsewhere[l][e]) read_expert(l, e);
            assert_true(n_held <= 2);
            uint32_t there[N_CLASSES] = {0};
            for (uint32_t i = 0; i < N_LAYERS; i++)
                for (uint32_t x = 0; x < N_EXPERTS; x++) {
                    assert_int_equal(slot_of[i * N_EXPERTS + x], table[i][x]);
                    assert_int_equal(elsewhere[i][x], table[i][x] != 0);
                    there[layer_class[i]] += table[i][x] != 0;
                }
            for (uint32_t c = 0; c < N_CLASSES; c++) assert_int_equal(there[c], classes[c].used);
        }
        struct moves_counters counters;
        moves_count(m, &counters);
        assert_true(counters.moved >= 20);
        assert_true(counters.bytes >= counters.moved * (piece_bytes[0] + piece_bytes[1] + piece_bytes[2]));
        moves_close(&m);
        tear_down();
    }
}

/* Both moves stage, copy and change places side by side; a step that failed in between (nobody says that it ended) frees
 * nothing. */
static void failed_steps_free_nothing(void **ctx) {
    (void)ctx;
    state = 77;
    build((const uint32_t[]){8, 5}, (const uint32_t[]){6, 3}, 0);
    struct moves *m = open_moves(9);
    for (uint32_t step = 0; step < 200; step++) {
        struct gpu_command c = {0};
        moves_before_step(m, &c);
        enqueue(GPU_COMPUTE, OP_STEP)->command = c;
        for (int i = 0; i < 8; i++) (void)moves_stage(m);
        struct reason ignored;
        assert_int_equal(fake_sync(&the_gpu, GPU_COMPUTE, 0, &ignored), ERR_NONE);
        if (random_below(3)) moves_after_step(m);
        assert_true(n_held <= 2);
    }
    struct moves_counters counters;
    moves_count(m, &counters);
    assert_true(counters.moved >= 20);
    moves_close(&m);
    tear_down();
}

static void warm(struct moves *m, uint32_t layer, int32_t expert, uint32_t tokens) {
    for (uint32_t t = 0; t < tokens; t++) {
        const int32_t used[N_USED] = {expert, -1};
        moves_use(m, layer, used, 1);
        moves_advance(m, 1);
    }
}

static void steps(struct moves *m, int n, int stages) {
    for (int i = 0; i < n; i++) one_step(m, stages);
}

/* By the policy: the warm one comes, the cold one goes; and one that has not arrived itself is nobody's victim. */
static void the_policy_moves_the_warm_one(void **ctx) {
    (void)ctx;
    state = 5;
    build((const uint32_t[]){3, 3}, (const uint32_t[]){1, 3}, 0);
    struct moves *m = open_moves(0);
    const struct timespec pace = {0, 60000000};
    warm(m, 2, 9, 60);
    steps(m, 8, 0);
    assert_int_equal(n_held, 1); /* on its way, unstaged */
    assert_int_equal(held[2][9], 1);
    warm(m, 2, 7, 3000);
    nanosleep(&pace, NULL);
    steps(m, 16, 0);
    assert_int_equal(n_held, 1); /* the only expert of the class in VRAM leaves for the first: nobody is left to leave */
    for (int i = 0; i < 40 && !table[2][7]; i++) {
        steps(m, 8, 6);
        nanosleep(&pace, NULL);
    }
    assert_true(table[2][7] && !table[2][9] && !table[0][0]);
    moves_close(&m);
    tear_down();
}

/* ---- the ring ------------------------------------------------------------------------------------------------ */

/* What passes is computed once, by kernels that find it where they look; what does not is the CPU's. */
static void what_passes_is_computed_once(void **ctx) {
    (void)ctx;
    for (uint32_t round = 0; round < 8; round++) {
        state = 100 + round;
        refuse_some = round % 2;
        build((const uint32_t[]){1, 1}, (const uint32_t[]){1, 1}, round < 4 ? 12 : 24);
        struct ring *r;
        struct reason why;
        const struct ring_options o = {.vram = &v, .from_tokens = 1};
        if (ring_open(&o, &r, &why)) fail_test("%s", why.text);
        assert_non_null(r);
        struct ring_counters now;
        uint32_t sent[N_LAYERS][N_EXPERTS] = {{0}};
        for (uint32_t call = 0; call < 60; call++) {
            const uint32_t l = call / 2 % N_LAYERS;
            uint32_t tokens[N_EXPERTS], n = 0;
            uint8_t passes[N_EXPERTS];
            for (uint32_t e = 0; e < N_EXPERTS; e++) tokens[e] = slot_of[l * N_EXPERTS + e] ? 0 : random_below(3);
            const uint32_t passing = ring_choose(r, l, tokens, passes);
            for (uint32_t e = 0; e < N_EXPERTS; e++) n += passes[e], sent[l][e] += passes[e], assert_true(!passes[e] || tokens[e]);
            assert_int_equal(n, passing);
            ring_send(r, &(struct gpu_batch){.lane = call % 2, .n = 8});
            if (ring_settle(r, &why)) fail_test("%s", why.text);
            assert_int_equal(n_held, 0);
            for (uint32_t i = 0; i < N_LAYERS; i++)
                for (uint32_t e = 0; e < N_EXPERTS; e++) {
                    if (random_below(4) == 0) evict(i, e);
                    else if (!elsewhere[i][e] && !ram[i][e]) read_expert(i, e);
                }
            if (random_below(3)) continue;
            assert_int_equal(fake_sync(&the_gpu, GPU_COMPUTE, 0, &why), ERR_NONE);
            for (uint32_t e = 0; e < N_EXPERTS; e++) assert_int_equal(computed[l][e], sent[l][e]);
        }
        ring_count(r, &now);
        assert_true(now.passed > 0 && now.reused > 0);
        assert_int_equal(now.bytes % (piece_bytes[0] + piece_bytes[1] + piece_bytes[2]), 0);
        ring_close(&r);
        refuse_some = false;
        tear_down();
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_step_reads_a_wrong_expert),
        cmocka_unit_test(failed_steps_free_nothing),
        cmocka_unit_test(the_policy_moves_the_warm_one),
        cmocka_unit_test(what_passes_is_computed_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

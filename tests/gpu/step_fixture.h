/* What the test of a step stands on: random weights on both sides, a network of one layer, and a host that answers its letters.
 * Static functions for one program, whose main() calls open_device(). */
#ifndef COLDSTREAM_TESTS_STEP_FIXTURE_H
#define COLDSTREAM_TESTS_STEP_FIXTURE_H

#include "tests/support/check.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/cpu.h"
#include "gpu/gpu.h"
#include "gpu/layout.h"
#include "tests/gpu/step_probe.h"

static const uint64_t sync_limit_ns = 60000000000u;

/* ---- random numbers and weights --------------------------------------------------------------------------------- */

static uint64_t random_state = 88172645463325252u;

static uint32_t random_bits(void) {
    random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}
static float random_unit(void) { return (float)(random_bits() >> 8) / 0x1p23f - 1; } /* [-1, 1) */
static float random_normal(void) { return random_unit() + random_unit() + random_unit(); }

static void random_floats(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = random_normal();
}

static uint16_t bf16_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)(bits >> 16);
}

/* Where a block's scale and minimum stand, and their usual size: levels times scales then are near 1. */
static const struct block_scales {
    enum tensor_type type;
    uint16_t d;
    int16_t min; /* -1: none */
    int16_t exponent;
} block_scales[] = {{TYPE_Q4_0, 0, -1, -3},    {TYPE_Q8_0, 0, -1, -7},   {TYPE_Q4_K, 0, 2, -10},    {TYPE_Q5_K, 0, 2, -10},
                    {TYPE_Q6_K, 208, -1, -12}, {TYPE_Q4_1, 0, 2, -4},    {TYPE_Q5_0, 0, -1, -4},    {TYPE_Q5_1, 0, 2, -5},
                    {TYPE_Q6_0, 0, -1, -5},    {TYPE_IQ4_NL, 0, -1, -7}, {TYPE_Q2_K, 80, 82, -5},   {TYPE_Q3_K, 108, -1, -7},
                    {TYPE_IQ2_XXS, 0, -1, -7}, {TYPE_IQ2_XS, 0, -1, -7}, {TYPE_IQ2_S, 0, -1, -7},   {TYPE_IQ3_XXS, 0, -1, -9},
                    {TYPE_IQ3_S, 0, -1, -9},   {TYPE_IQ1_S, 0, -1, -4},  {TYPE_IQ4_XS, 0, -1, -12}, {TYPE_IQ4_K, 0, -1, -12},
                    {TYPE_IQ5_K, 0, -1, -12},  {TYPE_IQ6_K, 0, -1, -14}, {TYPE_IQ2_K, 0, -1, -8},   {TYPE_IQ3_K, 0, -1, -11}};

/* A block of any type: every bit pattern of the quants and scales, and a scale that keeps values near 1. */
static void random_block(enum tensor_type type, uint8_t *block) {
    const uint32_t bytes = tensor_type_info(type)->block_bytes;
    const float value = 0.5f * random_normal(), size = 0.2f + fabsf(random_unit());
    const uint16_t half = f32_to_f16(value), brain = bf16_of(value);
    for (uint32_t i = 0; i < bytes; i++) block[i] = (uint8_t)random_bits();
    if (type == TYPE_F32) memcpy(block, &value, 4);
    if (type == TYPE_F16) memcpy(block, &half, 2);
    if (type == TYPE_BF16) memcpy(block, &brain, 2);
    if (type == TYPE_MXFP4) block[0] = (uint8_t)(121 + random_bits() % 6);
    if (type == TYPE_IQ1_M) { /* the scale's bits are the top ones of four words */
        const uint16_t d = f32_to_f16(ldexpf(size, -4));
        for (int r = 0; r < 4; r++) block[49 + 2 * r] = (uint8_t)((block[49 + 2 * r] & 15) | (d >> 4 * r & 15) << 4);
    }
    for (size_t i = 0; i < sizeof block_scales / sizeof *block_scales; i++) {
        const struct block_scales *s = &block_scales[i];
        if (s->type != type) continue;
        const uint16_t d = f32_to_f16(ldexpf(size, s->exponent)), min = f32_to_f16(ldexpf(fabsf(random_unit()), -7));
        memcpy(block + s->d, &d, 2);
        if (s->min >= 0) memcpy(block + s->min, &min, 2);
    }
}

/* What stands in front of a row. */
static void random_row_scale(enum tensor_type type, uint8_t *row) {
    const int exponent = type == TYPE_IQ2_KS ? -9 : type == TYPE_IQ3_KS ? -10 : type == TYPE_IQ2_KL ? -11 : -14;
    const float d = ldexpf(0.2f + fabsf(random_unit()), exponent);
    const uint16_t half = f32_to_f16(d);
    if (tensor_type_info(type)->row_meta_bytes == 4) memcpy(row, &d, 4);
    if (tensor_type_info(type)->row_meta_bytes == 2) memcpy(row, &half, 2);
}

/* A matrix on both sides. */
struct matrix {
    enum tensor_type type;
    uint32_t rows, k;
    uint64_t row_bytes, bytes;
    uint8_t *file; /* rows in the file's layout */
    gpu_ptr device;
    uint16_t *in_scale, *out_scale; /* EXL3: [k], [rows]; else NULL */
    enum exl3_codebook codebook;
};

static bool is_trellis(enum tensor_type type) { return type >= TYPE_EXL3_1 && type <= TYPE_EXL3_8; }

static uint16_t *random_factors(size_t n, float size) {
    uint16_t *f = malloc(n * sizeof *f);
    assert_non_null(f);
    for (size_t i = 0; i < n; i++) {
        const float v = size * (0.3f + fabsf(random_unit()));
        f[i] = random_bits() % 50 == 0 ? 0 : f32_to_f16(random_bits() & 1 ? v : -v);
    }
    return f;
}

/* Any bits are weights. Of the type's bits, or now and then one less, as in a stack of experts. */
static struct matrix random_trellis(enum tensor_type type, uint32_t rows, uint32_t k) {
    const uint32_t most = (uint32_t)(type - TYPE_EXL3_1) + 1, bits = most > 1 && random_bits() % 3 == 0 ? most - 1 : most;
    struct matrix m = {
        .type = type, .rows = rows, .k = k, .row_bytes = k / 8 * bits, .codebook = (enum exl3_codebook)(random_bits() % 3)};
    m.bytes = m.row_bytes * rows;
    m.file = malloc(m.bytes);
    assert_non_null(m.file);
    for (uint64_t i = 0; i < m.bytes; i++) m.file[i] = (uint8_t)random_bits();
    m.in_scale = random_factors(k, 0.05f);
    m.out_scale = random_factors(rows, 1);
    return m;
}

static struct matrix random_matrix(enum tensor_type type, uint32_t rows, uint32_t k) {
    if (is_trellis(type)) return random_trellis(type, rows, k);
    struct matrix m = {.type = type, .rows = rows, .k = k};
    assert_true(tensor_row_bytes(type, k, &m.row_bytes));
    m.bytes = m.row_bytes * rows;
    m.file = malloc(m.bytes);
    assert_non_null(m.file);
    const struct tensor_type_info *info = tensor_type_info(type);
    for (uint32_t r = 0; r < rows; r++) {
        uint8_t *row = m.file + r * m.row_bytes;
        random_row_scale(type, row);
        for (uint64_t at = info->row_meta_bytes; at < m.row_bytes; at += info->block_bytes) random_block(type, row + at);
    }
    return m;
}

/* ---- device ----------------------------------------------------------------------------------------------------- */

static struct gpu *device;
static struct cpu_ops cpu;

static void check_device(enum err e, const struct reason *why) {
    if (e) fail_test("%s", why->text);
}

/* False: there is none, which is said. */
static bool open_device(void) {
    struct reason why;
    cpu_ops_init(&cpu, ISA_REF);
    if (!gpu_open(&(struct gpu_options){0}, &device, &why)) return true;
    print_message("no device: %s\n", why.text);
    return false;
}

static void finish(void) {
    struct reason why;
    check_device(device->ops->sync(device, GPU_COMPUTE, sync_limit_ns, &why), &why);
}

static void up(gpu_ptr to, const void *from, uint64_t bytes) {
    device->ops->upload(device, GPU_COMPUTE, to, from, bytes);
    finish();
}

/* Through a pinned buffer, as downloads want. */
static void down(void *to, gpu_ptr from, uint64_t bytes) {
    struct reason why;
    void *pinned;
    gpu_ptr mapped;
    check_device(device->ops->alloc_pinned(device, bytes, &pinned, &mapped, &why), &why);
    device->ops->download(device, GPU_COMPUTE, pinned, from, bytes);
    finish();
    memcpy(to, pinned, bytes);
    device->ops->free_pinned(device, pinned, bytes);
}

static uint32_t down_u32(gpu_ptr from) {
    uint32_t v;
    down(&v, from, sizeof v);
    return v;
}

static gpu_ptr room(uint64_t bytes) {
    struct reason why;
    gpu_ptr p;
    check_device(device->ops->alloc(device, GPU_USE_DENSE, bytes, &p, &why), &why);
    return p;
}

static uint64_t device_bytes(const struct matrix *m) { return device->ops->types[m->type].bytes(m->rows, m->k); }

/* File layout -> device layout at `to`. */
static void place(const struct matrix *m, gpu_ptr to) {
    if (is_trellis(m->type)) {
        up(to, m->file, m->bytes);
        up(to + gpu_trellis_in_scale((int)m->type, m->rows, m->k), m->in_scale, 2 * (uint64_t)m->k);
        up(to + gpu_trellis_out_scale((int)m->type, m->rows, m->k), m->out_scale, 2 * (uint64_t)m->rows);
        device->ops->label(device, GPU_COMPUTE, m->type, to, m->rows, m->k, (uint32_t)(8 * m->row_bytes / m->k), m->codebook);
        finish();
        return;
    }
    if (device->ops->types[m->type].same_layout) {
        up(to, m->file, m->bytes);
        return;
    }
    const gpu_ptr staged = room(m->bytes);
    up(staged, m->file, m->bytes);
    device->ops->repack(device, GPU_COMPUTE, m->type, to, staged, m->rows, m->k);
    finish();
    device->ops->free(device, GPU_USE_DENSE, staged, m->bytes);
}

static struct gpu_matrix place_dense(struct matrix *m) {
    m->device = room(device_bytes(m));
    place(m, m->device);
    return (struct gpu_matrix){m->device, m->type, m->rows, m->k};
}

static void drop(struct matrix *m) {
    if (m->device) device->ops->free(device, GPU_USE_DENSE, m->device, device_bytes(m));
    free(m->file);
    free(m->in_scale);
    free(m->out_scale);
}

enum { BATCH_TOKENS = 160 };

/* ---- a network of one layer ------------------------------------------------------------------------------------- */

struct sizes {
    uint32_t e, f, heads, kv_heads, dh, experts, used, vocab;
};
struct types {
    enum tensor_type q, k, v, output, router, gate, up, down, head, embedding;
};

struct fixture {
    struct sizes z;
    struct types y;
    struct gpu_network *net;
    const struct gpu_shared *shared;
    struct step_probe at;
    struct matrix q, k, v, output, router, head, embedding;
    struct matrix *expert; /* [experts][3] gate, up, down */
    float *attn_norm, *ffn_norm, *output_norm;
    gpu_ptr norms, slots, mapped;
    void *embedding_pinned;
    uint64_t slot_bytes, offset[3];
    uint32_t number; /* of the last command */
};

static void free_fixture(struct fixture *f) {
    const uint32_t e = f->z.e;
    device->ops->network_close(&f->net);
    struct matrix *all[] = {&f->q, &f->k, &f->v, &f->output, &f->router, &f->head, &f->embedding};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) drop(all[i]);
    for (uint32_t i = 0; i < 3 * f->z.experts; i++) drop(&f->expert[i]);
    free(f->expert);
    free(f->attn_norm);
    device->ops->free(device, GPU_USE_DENSE, f->norms, 4 * round_up(e, 64) * sizeof(float));
    device->ops->free(device, GPU_USE_DENSE, f->slots, f->slot_bytes * f->z.experts);
    device->ops->free_pinned(device, f->embedding_pinned, f->embedding.bytes);
}

/* All experts in slots, in order. */
static void make_experts(struct fixture *f) {
    const struct sizes *z = &f->z;
    const enum tensor_type types[3] = {f->y.gate, f->y.up, f->y.down};
    f->expert = calloc(3 * z->experts, sizeof *f->expert);
    f->slot_bytes = 0;
    for (int i = 0; i < 3; i++) {
        f->offset[i] = f->slot_bytes;
        f->slot_bytes +=
            i < 2 ? device->ops->types[types[i]].bytes(z->f, z->e) : device->ops->types[types[i]].bytes(z->e, z->f);
    }
    f->slots = room(f->slot_bytes * z->experts);
    for (uint32_t x = 0; x < z->experts; x++)
        for (int i = 0; i < 3; i++) {
            struct matrix *m = &f->expert[3 * x + i];
            *m = i < 2 ? random_matrix(types[i], z->f, z->e) : random_matrix(types[i], z->e, z->f);
            place(m, f->slots + x * f->slot_bytes + f->offset[i]);
        }
}

static void make_norms(struct fixture *f) {
    const uint64_t e = f->z.e, stride = round_up(e, 64);
    f->attn_norm = malloc(4 * stride * sizeof(float));
    f->ffn_norm = f->attn_norm + stride, f->output_norm = f->ffn_norm + stride;
    for (uint64_t i = 0; i < 4 * stride; i++) f->attn_norm[i] = 1 + 0.3f * random_unit();
    f->norms = room(4 * stride * sizeof(float));
    up(f->norms, f->attn_norm, 4 * stride * sizeof(float));
}

static void make_embedding(struct fixture *f) {
    struct reason why;
    f->embedding = random_matrix(f->y.embedding, f->z.vocab, f->z.e);
    check_device(device->ops->alloc_pinned(device, f->embedding.bytes, &f->embedding_pinned, &f->mapped, &why), &why);
    memcpy(f->embedding_pinned, f->embedding.file, f->embedding.bytes);
}

static void open_network(struct fixture *f) {
    const struct sizes *z = &f->z;
    const uint64_t stride = round_up(z->e, 64) * sizeof(float);
    double rope[256];
    for (uint32_t i = 0; i < z->dh / 2; i++) rope[i] = pow(10000, -2.0 * i / z->dh);
    const struct gpu_layer layer = {.attn_norm = f->norms,
                                    .ffn_norm = f->norms + stride,
                                    .q_norm = f->norms + 3 * stride,
                                    .k_norm = f->norms + 3 * stride,
                                    .q = place_dense(&f->q),
                                    .k = place_dense(&f->k),
                                    .v = place_dense(&f->v),
                                    .output = place_dense(&f->output),
                                    .router = place_dense(&f->router),
                                    .gate_type = f->y.gate,
                                    .up_type = f->y.up,
                                    .down_type = f->y.down,
                                    .gate_offset = f->offset[0],
                                    .up_offset = f->offset[1],
                                    .down_offset = f->offset[2]};
    const struct gpu_network_options o = {
        .shape = {1, z->e, z->heads, z->kv_heads, z->dh, z->f, z->experts, z->used, z->vocab, 1e-6f, 1},
        .layers = &layer,
        .rope_frequency = rope,
        .embedding = f->embedding_pinned,
        .embedding_mapped = f->mapped,
        .embedding_type = f->y.embedding,
        .embedding_row_bytes = f->embedding.row_bytes,
        .output_norm = f->norms + 2 * stride,
        .head = place_dense(&f->head),
        .slots = f->slots,
        .max_sequences = 1,
        .max_pages = 1,
        .batch_tokens = is_trellis(f->y.q) ? BATCH_TOKENS : 0 /* scratch of their products */};
    struct reason why;
    check_device(device->ops->network_open(device, &o, &f->net, &why), &why);
    f->shared = device->ops->shared(f->net);
    f->at = step_probe_of(f->net);
    finish();
}

static struct fixture make_fixture(struct sizes z, struct types y) {
    struct fixture f = {.z = z, .y = y};
    const uint32_t q = z.heads * z.dh, kv = z.kv_heads * z.dh;
    f.q = random_matrix(y.q, q, z.e), f.k = random_matrix(y.k, kv, z.e), f.v = random_matrix(y.v, kv, z.e);
    f.output = random_matrix(y.output, z.e, q), f.router = random_matrix(y.router, z.experts, z.e),
    f.head = random_matrix(y.head, z.vocab, z.e);
    make_norms(&f);
    make_experts(&f);
    make_embedding(&f);
    return f;
}

static inline struct types all_of(enum tensor_type t) { return (struct types){t, t, t, t, t, t, t, t, t, t}; }

static void launch(struct fixture *f, enum probe_launch what, uint32_t tokens) {
    step_probe_launch(device, f->net, what, tokens, 0);
}

/* ---- what the host answers -------------------------------------------------------------------------------------- */

/* How a letter is answered, and what the last one said. */
struct host {
    struct fixture *f;
    enum { ANSWERED, REFUSED, IGNORED } manner;
    float *values; /* [n][width] the answer */
    size_t width;  /* of the letter's input, floats a token */
    size_t answer_width;
    uint32_t letters;
    struct gpu_mail mail;
    float *input;
    pthread_t thread;
    atomic_bool stop;
};

static uint32_t flag(volatile uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

static void *answer_letters(void *ctx) {
    struct host *h = ctx;
    const struct gpu_shared *s = h->f->shared;
    uint32_t seen = flag(&s->answer->number);
    for (bool last = false; !last;) {
        last =
            atomic_load(&h->stop); /* one more look: a letter that nobody answers may be older than this thread's last turn */
        const uint32_t number = flag(&s->mail->number);
        if (number == seen) {
            if (!last) nanosleep(&(struct timespec){0, 50000}, NULL);
            continue;
        }
        seen = number;
        h->letters++;
        memcpy(&h->mail, (const void *)s->mail, sizeof h->mail);
        memcpy(h->input, s->mail_input, h->mail.n_tokens * h->width * sizeof(float));
        if (h->manner == IGNORED) continue;
        memcpy(s->answer_values, h->values, h->mail.n_tokens * h->answer_width * sizeof(float));
        s->answer->failed = h->manner == REFUSED;
        __atomic_store_n(&s->answer->number, number, __ATOMIC_RELEASE);
    }
    return NULL;
}

static struct host *start_host(struct fixture *f, int manner, size_t width, size_t answer_width) {
    struct host *h = calloc(1, sizeof *h);
    h->f = f, h->manner = manner, h->width = width, h->answer_width = answer_width;
    h->values = malloc(GPU_STEP_TOKENS * answer_width * sizeof(float));
    h->input = malloc(GPU_STEP_TOKENS * width * sizeof(float));
    random_floats(h->values, GPU_STEP_TOKENS * answer_width);
    assert_int_equal(pthread_create(&h->thread, NULL, answer_letters, h), 0);
    return h;
}

/* The host has seen every letter that was sent, and answers no more. */
static void end_host(struct host *h) {
    atomic_store(&h->stop, true);
    pthread_join(h->thread, NULL);
}

/* No letter may be open. An ignored one is answered now: flags only ever rise. */
static void free_host(struct host *h) {
    h->f->shared->answer->failed = 0;
    h->f->shared->answer->number = h->f->shared->mail->number;
    free(h->values);
    free(h->input);
    free(h);
}

static void stop_host(struct host *h) {
    end_host(h);
    free_host(h);
}

#endif

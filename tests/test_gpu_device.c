/* The GPU's device layer: which device, its memory and budget, copies, layouts, events, waiting, errors, and the order in which
 * a step's kernels run. The kernels themselves are stand-ins (tests/gpu/launch_stub.h).
 *
 * Runs on the emulated device, or unchanged on a real one where it is linked with that; the first argument names the device. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "cpu/cpu.h"
#include "gpu/gpu.h"
#include "gpu/layout.h"
#include "tests/gpu/launch_stub.h"
#ifdef GPU_EMULATED
#include "tests/cuda_host/control.h"
#endif

#define MIB ((uint64_t)1 << 20)
#define MS ((uint64_t)1000000)
#define LONG (3600000 * MS) /* the test runner's limit comes first; a paused process is no failure */

static const char *device; /* NULL: the first */
static struct gpu *gpu;
static struct reason why;

#define OK(call)                                           \
    do {                                                   \
        if ((call) != ERR_NONE) fail_test("%s", why.text); \
    } while (0)

static void open_gpu(uint64_t budget) {
    OK(gpu_open(&(struct gpu_options){.device = device, .vram_budget = budget}, &gpu, &why));
}

static int setup(void **state) {
    (void)state;
    open_gpu(0);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    if (gpu) gpu->ops->close(&gpu);
    return 0;
}

static struct gpu_memory memory(void) {
    struct gpu_memory m;
    gpu->ops->memory(gpu, &m);
    return m;
}

static uint64_t allocated(void) {
    const struct gpu_memory m = memory();
    uint64_t sum = 0;
    for (int i = 0; i < GPU_USES; i++) sum += m.used[i];
    return sum;
}

static gpu_ptr alloc(uint64_t bytes) {
    gpu_ptr p;
    OK(gpu->ops->alloc(gpu, GPU_USE_SCRATCH, bytes, &p, &why));
    return p;
}

static void *pinned(uint64_t bytes) {
    void *host;
    gpu_ptr mapped;
    OK(gpu->ops->alloc_pinned(gpu, bytes, &host, &mapped, &why));
    memset(host, 0, bytes);
    return host;
}

static void fill(uint8_t *bytes, uint64_t n, uint32_t seed) {
    uint32_t x = seed * 2654435761u + 1;
    for (uint64_t i = 0; i < n; i++) {
        x ^= x << 13, x ^= x >> 17, x ^= x << 5;
        bytes[i] = (uint8_t)(x >> 11);
    }
}

/* ---- opening ------------------------------------------------------------------------------------------------- */

static void test_names(void **state) {
    (void)state;
    struct gpu *g = NULL;
    const char *const wrong[] = {"gpu", "cuda:", "cuda:x", "cuda:1234567890", "cuda0", "host:1", ""};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const enum err code = gpu_open(&(struct gpu_options){.device = wrong[i]}, &g, &why);
        assert_true(code == ERR_ARGUMENT || code == ERR_UNSUPPORTED);
        assert_null(g);
    }
#ifdef GPU_EMULATED
    assert_int_equal(gpu_open(&(struct gpu_options){.device = "cuda"}, &g, &why), ERR_UNSUPPORTED);
#else
    assert_int_equal(gpu_open(&(struct gpu_options){.device = "host"}, &g, &why), ERR_UNSUPPORTED);
    assert_int_equal(gpu_open(&(struct gpu_options){.device = "cuda:99"}, &g, &why), ERR_ARGUMENT);
#endif
}

static void test_info(void **state) {
    (void)state;
    struct gpu_info info;
    gpu->ops->info(gpu, &info);
    assert_true(strlen(info.name) > 0);
    assert_true(info.sm_count > 0);
    assert_true(info.cc_major * 10 + info.cc_minor >= 75);
    assert_true(info.free_bytes > 0 && info.free_bytes <= info.vram_bytes);
    print_message("  %s, %u multiprocessors, %u.%u, overhead %llu MiB\n", info.name, info.sm_count, info.cc_major,
                  info.cc_minor, (unsigned long long)(memory().overhead / MIB));
}

#ifdef GPU_EMULATED
static void test_unfit(void **state) {
    (void)state;
    struct gpu *g = NULL;
    const struct ch_config was = ch_get_config();
    struct ch_config c = was;
    c.devices = 0;
    ch_set_config(c);
    assert_int_equal(gpu_open(&(struct gpu_options){0}, &g, &why), ERR_IO);
    assert_non_null(strstr(why.text, "no NVIDIA GPU"));
    c = was;
    c.major = 7, c.minor = 0;
    ch_set_config(c);
    assert_int_equal(gpu_open(&(struct gpu_options){0}, &g, &why), ERR_UNSUPPORTED);
    assert_non_null(strstr(why.text, "7.5"));
    ch_set_config(was);
    ch_inject_error("cudaGetDeviceCount", 1, 35, false); /* insufficient driver */
    assert_int_equal(gpu_open(&(struct gpu_options){0}, &g, &why), ERR_IO);
    assert_non_null(strstr(why.text, "driver"));
    ch_inject_error(NULL, 1, 0, false);
}
#endif

/* ---- memory -------------------------------------------------------------------------------------------------- */

static void test_accounting(void **state) {
    (void)state;
    gpu_ptr p[GPU_USES];
    const uint64_t bytes[GPU_USES] = {4 * MIB, 6 * MIB, 2 * MIB, 8 * MIB};
    for (int use = 0; use < GPU_USES; use++) OK(gpu->ops->alloc(gpu, (enum gpu_use)use, bytes[use], &p[use], &why));
    const struct gpu_memory m = memory();
    uint64_t sum = m.overhead;
    for (int use = 0; use < GPU_USES; use++) {
        assert_int_equal(m.used[use], bytes[use]);
        assert_int_equal(p[use] % GPU_ALIGN, 0);
        sum += bytes[use];
    }
    assert_true(m.peak >= sum);
    for (int use = 0; use < GPU_USES; use++) gpu->ops->free(gpu, (enum gpu_use)use, p[use], bytes[use]);
    assert_int_equal(allocated(), 0);
    assert_true(memory().peak >= m.peak);
    OK(gpu->ops->check(gpu, &why));
}

static void test_budget(void **state) {
    (void)state;
    const uint64_t overhead = memory().overhead;
    gpu->ops->close(&gpu);
    open_gpu(overhead + 64 * MIB);
    assert_int_equal(memory().budget, overhead + 64 * MIB);
    gpu_ptr a, b;
    /* what drivers take varies by some MiB from one opening to the next on a real card */
    OK(gpu->ops->alloc(gpu, GPU_USE_EXPERTS, 32 * MIB, &a, &why));
    const struct gpu_memory before = memory();
    assert_int_equal(gpu->ops->alloc(gpu, GPU_USE_KV, 512 * MIB, &b, &why), ERR_LIMIT);
    assert_int_equal(b, 0);
    const uint64_t missing = before.overhead + 32 * MIB + 512 * MIB - before.budget;
    char text[64];
    snprintf(text, sizeof text, "%llu MiB of GPU memory are missing", (unsigned long long)((missing + MIB - 1) / MIB));
    if (!strstr(why.text, text) || !strstr(why.text, "the KV cache")) fail_test("'%s' lacks '%s'", why.text, text);
    assert_int_equal(allocated(), 32 * MIB);
    gpu->ops->free(gpu, GPU_USE_EXPERTS, a, 32 * MIB);
    OK(gpu->ops->alloc(gpu, GPU_USE_KV, 32 * MIB, &b, &why));
    assert_true(memory().peak <= memory().budget);
    gpu->ops->free(gpu, GPU_USE_KV, b, 32 * MIB);
    OK(gpu->ops->check(gpu, &why));
}

static void test_no_room_for_context(void **state) {
    (void)state;
    if (memory().overhead == 0) {
        print_message("  SKIP: this device's context takes no memory\n");
        skip();
    }
    gpu->ops->close(&gpu);
    assert_int_equal(gpu_open(&(struct gpu_options){.device = device, .vram_budget = 1}, &gpu, &why), ERR_LIMIT);
    assert_null(gpu);
    assert_non_null(strstr(why.text, "MiB"));
}

static void test_driver_refuses(void **state) {
    (void)state;
    gpu->ops->close(&gpu);
    open_gpu((uint64_t)1 << 50);
    gpu_ptr p;
    assert_int_equal(gpu->ops->alloc(gpu, GPU_USE_DENSE, (uint64_t)1 << 48, &p, &why), ERR_NO_MEMORY);
    assert_int_equal(p, 0);
    assert_non_null(strstr(why.text, "dense weights"));
    assert_int_equal(allocated(), 0);
    OK(gpu->ops->check(gpu, &why));
    p = alloc(MIB);
    gpu->ops->free(gpu, GPU_USE_SCRATCH, p, MIB);
}

/* ---- copies -------------------------------------------------------------------------------------------------- */

static void test_copies(void **state) {
    (void)state;
    static const uint64_t sizes[] = {1, 255, 4096, MIB, 5 * MIB + 3};
    const uint64_t most = 5 * MIB + 3;
    const gpu_ptr p = alloc(most);
    uint8_t *source = malloc(most), *copy = malloc(most), *back = pinned(most);
    for (int s = 0; s < GPU_STREAMS; s++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            fill(source, sizes[i], (uint32_t)(7 * i + (size_t)s));
            memcpy(copy, source, sizes[i]);
            gpu->ops->upload(gpu, (enum gpu_stream)s, p, source, sizes[i]);
            memset(source, 0xee, sizes[i]); /* free to be used again at once */
            gpu->ops->download(gpu, (enum gpu_stream)s, back, p, sizes[i]);
            OK(gpu->ops->sync(gpu, (enum gpu_stream)s, LONG, &why));
            assert_memory_equal(back, copy, sizes[i]);
        }
    free(source);
    free(copy);
    gpu->ops->free_pinned(gpu, back, most);
    gpu->ops->free(gpu, GPU_USE_SCRATCH, p, most);
}

static void test_pinned(void **state) {
    (void)state;
    const uint64_t bytes = 2 * MIB, before = memory().pinned;
    const gpu_ptr p = alloc(bytes);
    uint8_t *a = pinned(bytes), *b = pinned(bytes);
    assert_int_equal(memory().pinned, before + 2 * bytes);
    fill(a, bytes, 3);
    gpu->ops->upload(gpu, GPU_COPY, p, a, bytes);
    gpu->ops->download(gpu, GPU_COPY, b, p, bytes);
    OK(gpu->ops->sync(gpu, GPU_COPY, LONG, &why));
    assert_memory_equal(a, b, bytes);

    uint8_t *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    gpu_ptr seen;
    assert_true(mapped != MAP_FAILED);
    fill(mapped, bytes, 4);
    OK(gpu->ops->pin(gpu, mapped, bytes, &seen, &why));
    assert_true(seen != 0);
    assert_int_equal(memory().pinned, before + 3 * bytes);
    gpu->ops->upload(gpu, GPU_COPY, p, mapped, bytes);
    gpu->ops->download(gpu, GPU_COPY, b, p, bytes);
    OK(gpu->ops->sync(gpu, GPU_COPY, LONG, &why));
    assert_memory_equal(mapped, b, bytes);
    gpu->ops->unpin(gpu, mapped, bytes);
    munmap(mapped, bytes);

    gpu->ops->free_pinned(gpu, a, bytes);
    gpu->ops->free_pinned(gpu, b, bytes);
    gpu->ops->free(gpu, GPU_USE_SCRATCH, p, bytes);
    assert_int_equal(memory().pinned, before);
    OK(gpu->ops->check(gpu, &why));
}

static void test_events(void **state) {
    (void)state;
    const uint64_t bytes = 3 * MIB;
    const gpu_ptr p = alloc(bytes);
    uint8_t *from = pinned(bytes), *back = pinned(bytes);
    struct gpu_event *e, *f;
    OK(gpu->ops->event_open(gpu, &e, &why));
    OK(gpu->ops->event_open(gpu, &f, &why));
    for (uint32_t round = 0; round < 8; round++) {
        fill(from, bytes, 100 + round);
        gpu->ops->upload(gpu, GPU_COPY, p, from, bytes);
        gpu->ops->record(gpu, GPU_COPY, e);
        gpu->ops->wait(gpu, GPU_COMPUTE, e); /* without it the compute stream may read the round before */
        gpu->ops->download(gpu, GPU_COMPUTE, back, p, bytes);
        gpu->ops->record(gpu, GPU_COMPUTE, f);
        const uint64_t start = clock_ns();
        while (!gpu->ops->passed(gpu, f))
            if (clock_ns() - start > LONG) fail_test("an event never passed");
        assert_true(gpu->ops->passed(gpu, e));
        assert_memory_equal(back, from, bytes);
    }
    gpu->ops->event_close(gpu, &e);
    gpu->ops->event_close(gpu, &f);
    assert_null(e);
    gpu->ops->free_pinned(gpu, from, bytes);
    gpu->ops->free_pinned(gpu, back, bytes);
    gpu->ops->free(gpu, GPU_USE_SCRATCH, p, bytes);
    OK(gpu->ops->check(gpu, &why));
}

/* ---- layouts ------------------------------------------------------------------------------------------------- */

static float scale_at(const void *matrix, uint64_t n_blocks, uint32_t plane, uint64_t block) {
    uint16_t d;
    memcpy(&d, gpu_field(matrix, n_blocks, plane, block, 2), sizeof d);
    return f16_to_f32(d);
}

/* The value of one weight read from the planes, by what gpu/layout.h says; written apart from repack.cu and quants_ref.c. */
static float weight_at(enum tensor_type type, const void *m, uint64_t n_blocks, uint64_t block, uint32_t i) {
    if (type == TYPE_Q8_0)
        return scale_at(m, n_blocks, GPU_Q8_0_D, block) * (float)(int8_t)gpu_field(m, n_blocks, GPU_Q8_0_QS, block, 32)[i];
    if (type == TYPE_Q4_0) {
        const uint8_t byte = gpu_field(m, n_blocks, GPU_Q4_0_QS, block, 16)[i % 16];
        return scale_at(m, n_blocks, GPU_Q4_0_D, block) * (float)((i < 16 ? byte & 15 : byte >> 4) - 8);
    }
    const uint32_t half = i / 128, plane = i % 128 / 32, l = i % 32;
    const int low =
        gpu_field(m, n_blocks, GPU_Q6_K_QL, block, 128)[64 * half + 32 * (plane & 1) + l] >> (plane < 2 ? 0 : 4) & 15;
    const int high = gpu_field(m, n_blocks, GPU_Q6_K_QH, block, 64)[32 * half + l] >> 2 * plane & 3;
    const int8_t scale = (int8_t)gpu_field(m, n_blocks, GPU_Q6_K_SCALES, block, 16)[i / 16];
    return scale_at(m, n_blocks, GPU_Q6_K_D, block) * (float)scale * (float)(low + 16 * high - 32);
}

/* Random blocks whose scales are finite: clear the exponent's top bit. */
static void fill_blocks(enum tensor_type type, uint8_t *to, uint64_t bytes) {
    const struct tensor_type_info *info = tensor_type_info(type);
    const uint32_t d = type == TYPE_Q6_K ? 208 : 0;
    fill(to, bytes, (uint32_t)type);
    for (uint64_t at = 0; at < bytes; at += info->block_bytes) to[at + d + 1] &= 0xbf;
}

static void check_planes(enum tensor_type type, const uint8_t *file, const uint8_t *planes, uint64_t rows, uint64_t k) {
    struct cpu_ops cpu;
    const struct tensor_type_info *info = tensor_type_info(type);
    const uint64_t row_bytes = k / info->block_weights * info->block_bytes, n_blocks = rows * (k / info->block_weights);
    float *expected = malloc(k * sizeof *expected);
    cpu_ops_init(&cpu, ISA_REF);
    for (uint64_t r = 0; r < rows; r++) {
        cpu.types[type].dequant(file + r * row_bytes, expected, k);
        for (uint64_t c = 0; c < k; c++) {
            const uint64_t block = (r * k + c) / info->block_weights;
            const float w = weight_at(type, planes, n_blocks, block, (uint32_t)(c % info->block_weights));
            if (memcmp(&w, &expected[c], sizeof w) != 0 && (w != 0 || expected[c] != 0))
                fail_test("%s row %u column %u: %a, not %a", info->name, (unsigned)r, (unsigned)c, (double)w,
                          (double)expected[c]);
        }
    }
    free(expected);
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
static struct gpu_layout layout_of(enum tensor_type type) {
    switch (type) {
#define CASE(suffix, ...) \
    case TYPE_##suffix: return (struct gpu_layout)__VA_ARGS__;
        GPU_LAYOUTS(CASE)
#undef CASE
    default: return (struct gpu_layout){0};
    }
}
#pragma GCC diagnostic pop

/* Where a bit of a plane's word comes from. */
static uint32_t bit_in_file(enum gpu_order order, uint32_t bit) {
    if (order == SIGNS_OF_UNITS) return bit % 4 * 8 + bit / 4;           /* unit u, lane l: 4l + u from 8u + l */
    if (order == SIGNS_OF_QUADS) return (7 - bit % 8) * 4 + bit / 8;     /* quad q, lane l: 8l + 7 - q from 4q + l */
    return bit;
}

/* Every bit of the file stands where the layout says, once; for types whose unpacking is tested elsewhere. */
static void check_fields(enum tensor_type type, const uint8_t *file, const uint8_t *planes, uint64_t rows, uint64_t k) {
    const struct gpu_layout l = layout_of(type);
    const struct tensor_type_info *info = tensor_type_info(type);
    const uint64_t in_row = k / info->block_weights, n_blocks = rows * in_row, meta = info->row_meta_bytes,
                   row_bytes = meta + in_row * info->block_bytes;
    uint32_t before = 0;
    for (uint32_t p = 0; p < l.n_planes; before += l.planes[p++].bytes)
        for (uint64_t b = 0; b < n_blocks; b++) {
            const uint8_t *from = file + b / in_row * row_bytes + meta + b % in_row * info->block_bytes + l.planes[p].file;
            const uint8_t *at = gpu_field(planes, n_blocks, before, b, l.planes[p].bytes);
            for (uint32_t i = 0; i < 8u * l.planes[p].bytes; i++) {
                const uint32_t source = i / 32 * 32 + bit_in_file((enum gpu_order)l.planes[p].order, i % 32);
                if ((at[i / 8] >> i % 8 & 1) != (from[source / 8] >> source % 8 & 1))
                    fail_test("%s, plane %u, block %u, bit %u", info->name, p, (unsigned)b, i);
            }
        }
    assert_int_equal(before, info->block_bytes);
    for (uint64_t r = 0; r < rows; r++) assert_memory_equal(planes + n_blocks * before + r * meta, file + r * row_bytes, meta);
}

static void repack_one(enum tensor_type type, uint64_t rows, uint64_t k) {
    const struct gpu_type *t = &gpu->ops->types[type];
    uint64_t row, bytes = t->bytes(rows, k);
    assert_true(tensor_row_bytes(type, k, &row));
    assert_int_equal(bytes, round_up(rows * row, 256));
    const gpu_ptr staged = alloc(rows * row), to = alloc(bytes);
    uint8_t *file = malloc(rows * row), *back = pinned(bytes);
    fill_blocks(type, file, rows * row);
    gpu->ops->upload(gpu, GPU_COPY, staged, file, rows * row);
    gpu->ops->repack(gpu, GPU_COPY, type, to, staged, rows, k);
    gpu->ops->download(gpu, GPU_COPY, back, to, rows * row);
    OK(gpu->ops->sync(gpu, GPU_COPY, LONG, &why));
    if (t->same_layout)
        assert_memory_equal(back, file, rows * row);
    else if (gpu_family_of(type) != FAMILY_NONE)
        check_fields(type, file, back, rows, k);
    else
        check_planes(type, file, back, rows, k);
    free(file);
    gpu->ops->free_pinned(gpu, back, bytes);
    gpu->ops->free(gpu, GPU_USE_SCRATCH, staged, rows * row);
    gpu->ops->free(gpu, GPU_USE_SCRATCH, to, bytes);
}

static void test_repack(void **state) {
    (void)state;
    unsigned types = 0;
    for (int type = 0; type < TYPE_COUNT; type++) {
        if (!gpu->ops->types[type].has_kernels || gpu_is_trellis(type)) continue;
        types++;
        repack_one((enum tensor_type)type, 1, 256);
        repack_one((enum tensor_type)type, 7, 768); /* 21 and 168 blocks: a last chunk that is not full */
        repack_one((enum tensor_type)type, 33, 512);
    }
    assert_int_equal(types, 35);
    assert_int_equal(gpu->ops->types[TYPE_Q6_K].bytes(UINT64_MAX / 2, 256), UINT64_MAX);
    assert_int_equal(gpu->ops->types[TYPE_Q6_K].bytes(3, 100), UINT64_MAX);
    assert_true(gpu->ops->types[TYPE_Q4_K].same_layout && !gpu->ops->types[TYPE_Q6_K].same_layout);
}

/* EXL3: what is uploaded stays, and the label says its bits and codebook behind it. */
static void test_label(void **state) {
    (void)state;
    const uint64_t rows = 128, k = 384;
    for (uint32_t bits = 1; bits <= 8; bits++) {
        const int type = TYPE_EXL3_1 + (int)bits - 1;
        const uint64_t bytes = gpu->ops->types[type].bytes(rows, k), used = rows * k / 8 * bits + 2 * (rows + k);
        assert_true(gpu->ops->types[type].has_kernels && gpu->ops->types[type].same_layout);
        assert_int_equal(bytes, used + 256);
        const gpu_ptr to = alloc(bytes);
        uint8_t *file = malloc(used), *back = pinned(bytes);
        for (uint64_t i = 0; i < used; i++) file[i] = (uint8_t)(i * 7 + bits);
        gpu->ops->upload(gpu, GPU_COPY, to, file, used);
        gpu->ops->label(gpu, GPU_COPY, (enum tensor_type)type, to, rows, k, (bits + 1) / 2, EXL3_MUL1);
        gpu->ops->download(gpu, GPU_COPY, back, to, bytes);
        OK(gpu->ops->sync(gpu, GPU_COPY, LONG, &why));
        assert_memory_equal(back, file, used);
        struct gpu_trellis_label label;
        memcpy(&label, back + used, sizeof label);
        assert_true(label.bits == (bits + 1) / 2 && label.codebook == EXL3_MUL1);
        free(file);
        gpu->ops->free_pinned(gpu, back, bytes);
        gpu->ops->free(gpu, GPU_USE_SCRATCH, to, bytes);
    }
    assert_int_equal(gpu->ops->types[TYPE_EXL3_8].bytes(UINT64_MAX / 2, 256), UINT64_MAX);
}

/* ---- networks ------------------------------------------------------------------------------------------------ */

enum { LAYERS = 3, VOCAB = 300, EXPERTS = 6, PAGES = 5 };

static const struct gpu_shape tiny = {.n_layers = LAYERS,
                                      .n_embd = 64,
                                      .n_heads = 4,
                                      .n_kv_heads = 2,
                                      .head_dim = 32,
                                      .n_ff = 32,
                                      .n_experts = EXPERTS,
                                      .n_used = 2,
                                      .n_vocab = VOCAB,
                                      .rms_eps = 1e-6f,
                                      .rope_magnitude = 1};
static struct gpu_layer layers[LAYERS];
static const double frequencies[16] = {1, 0.5};

/* Layer 1 has its KV cache on the host. */
static struct gpu_network_options tiny_options(void) {
    for (int i = 0; i < LAYERS; i++)
        layers[i] = (struct gpu_layer){
            .gate_type = TYPE_Q4_K, .up_type = TYPE_Q4_K, .keys = i == 1 ? 0 : 4096, .values = i == 1 ? 0 : 8192};
    return (struct gpu_network_options){.shape = tiny, .layers = layers, .rope_frequency = frequencies, .max_sequences = 2,
                                        .max_pages = PAGES, .batch_tokens = 40, .head = {.data = 4096} /* a device's, not read here */};
}

static struct gpu_network *open_network(void) {
    struct gpu_network *n;
    const struct gpu_network_options o = tiny_options();
    OK(gpu->ops->network_open(gpu, &o, &n, &why));
    return n;
}

/* Gate and up of a step: of one family, if it has no grid, or both with kernels of their own. */
static void test_pairs(void **state) {
    (void)state;
    static const struct {
        enum tensor_type gate, up;
        bool taken;
    } pairs[] = {{TYPE_Q4_K, TYPE_Q4_K, true},     {TYPE_Q4_K, TYPE_Q6_K, true},   {TYPE_F32, TYPE_Q8_0, true},
                 {TYPE_IQ4_XS, TYPE_IQ4_NL, true}, {TYPE_IQ3_S, TYPE_IQ3_S, true}, {TYPE_IQ2_XXS, TYPE_IQ2_XS, false},
                 {TYPE_IQ2_S, TYPE_IQ3_S, false},  {TYPE_Q4_K, TYPE_IQ4_K, false}, {TYPE_IQ4_K, TYPE_IQ5_K, false}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        assert_int_equal(gpu->ops->takes_pair(pairs[i].gate, pairs[i].up), pairs[i].taken);
        assert_int_equal(gpu->ops->takes_pair(pairs[i].up, pairs[i].gate), pairs[i].taken);
    }
}

static void test_network_memory(void **state) {
    (void)state;
    const struct gpu_network_options o = tiny_options();
    const uint64_t pinned_before = memory().pinned, bytes = gpu->ops->network_bytes(gpu, &o);
    struct gpu_network *n = open_network();
    assert_int_equal(memory().used[GPU_USE_SCRATCH], bytes);
    assert_true(memory().pinned > pinned_before);
    const struct stub_tables t = stub_tables_of(n);
    assert_true(t.scratch_end > t.scratch_begin && t.scratch_end - t.scratch_begin < bytes);

    uint8_t *back = pinned(bytes);
    gpu->ops->download(gpu, GPU_COMPUTE, back, t.layers, sizeof layers);
    OK(gpu->ops->sync(gpu, GPU_COMPUTE, LONG, &why));
    assert_memory_equal(back, layers, sizeof layers);
    gpu->ops->free_pinned(gpu, back, bytes);
    gpu->ops->network_close(&n);
    assert_null(n);
    assert_int_equal(allocated(), 0);
    assert_int_equal(memory().pinned, pinned_before);

    struct gpu_network_options steps_only = o, huge = o;
    steps_only.batch_tokens = 0;
    assert_true(gpu->ops->network_bytes(gpu, &steps_only) < bytes);
    huge.shape.n_vocab = huge.shape.n_embd = huge.shape.n_ff = huge.batch_tokens = UINT32_MAX - 31;
    assert_int_equal(gpu->ops->network_bytes(gpu, &huge), UINT64_MAX);
    assert_int_equal(gpu->ops->network_open(gpu, &huge, &n, &why), ERR_LIMIT);
    assert_null(n);
    layers[2].down_type = TYPE_F64;
    assert_int_equal(gpu->ops->network_open(gpu, &o, &n, &why), ERR_UNSUPPORTED);
    assert_non_null(strstr(why.text, "F64"));
    layers[2].down_type = TYPE_EXL3_4; /* with other types beside it */
    assert_int_equal(gpu->ops->network_open(gpu, &o, &n, &why), ERR_UNSUPPORTED);
    assert_non_null(strstr(why.text, "EXL3_4"));
    layers[2].down_type = layers[1].down_type;
    layers[1].router.type = TYPE_EXL3_6; /* routers are read by rows */
    assert_int_equal(gpu->ops->network_open(gpu, &o, &n, &why), ERR_UNSUPPORTED);
    assert_non_null(strstr(why.text, "EXL3_6"));
    layers[1].router.type = layers[0].router.type;
    layers[2].down_type = layers[2].up_type = TYPE_Q6_K;
    assert_int_equal(gpu->ops->network_bytes(gpu, &o), bytes); /* of gate and up there is room in a result's row */
    OK(gpu->ops->network_open(gpu, &o, &n, &why));
    gpu->ops->network_close(&n);
    layers[2].up_type = TYPE_IQ4_K;
    assert_int_equal(gpu->ops->network_open(gpu, &steps_only, &n, &why), ERR_UNSUPPORTED);
    assert_non_null(strstr(why.text, "layer 2 has Q4_K and IQ4_K"));
    assert_int_equal(memory().pinned, pinned_before);
    OK(gpu->ops->check(gpu, &why));
}

static void test_tables(void **state) {
    (void)state;
    struct gpu_network *n = open_network();
    const struct stub_tables t = stub_tables_of(n);
    uint32_t *back = pinned(4096), slots[EXPERTS];
    for (uint32_t i = 0; i < EXPERTS; i++) slots[i] = 70 + i;
    gpu->ops->set_slots(n, 1, slots);
    memset(slots, 0, sizeof slots);
    for (uint32_t i = 0; i < PAGES; i++) gpu->ops->set_page(n, 1, i, 900 + i);
    gpu->ops->download(gpu, GPU_COMPUTE, back, t.slots, sizeof(uint32_t[LAYERS][EXPERTS]));
    gpu->ops->download(gpu, GPU_COMPUTE, back + 100, t.pages, sizeof(uint32_t[2][PAGES]));
    gpu->ops->download_uses(n, back + 200);
    gpu->ops->download(gpu, GPU_COMPUTE, back + 300, t.tickets, 16 * sizeof(uint32_t));
    OK(gpu->ops->sync(gpu, GPU_COMPUTE, LONG, &why));
    for (uint32_t i = 0; i < LAYERS * EXPERTS; i++) {
        assert_int_equal(back[i], i / EXPERTS == 1 ? 70 + i % EXPERTS : 0);
        assert_int_equal(back[200 + i], 0);
    }
    for (uint32_t i = 0; i < 2 * PAGES; i++) assert_int_equal(back[100 + i], i < PAGES ? UINT32_MAX : 900 + i % PAGES);
    for (uint32_t i = 0; i < 16; i++) assert_int_equal(back[300 + i], 0);
    gpu->ops->free_pinned(gpu, back, 4096);
    gpu->ops->network_close(&n);
}

static void expect_log(const uint32_t *log, uint32_t tokens) {
    uint32_t expected[STUB_LOG_ENTRIES], n = 0;
    expected[n++] = STUB_ENTRY(STUB_BEGIN, 0, tokens);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        expected[n++] = STUB_ENTRY(STUB_QKV, layer, tokens);
        expected[n++] = STUB_ENTRY(layer == 1 ? STUB_ATTENTION_MAIL : STUB_ATTENTION, layer, tokens);
        expected[n++] = STUB_ENTRY(STUB_OUTPUT, layer, tokens);
        expected[n++] = STUB_ENTRY(STUB_ROUTE, layer, tokens);
        expected[n++] = STUB_ENTRY(STUB_GATE_UP, layer, tokens);
        expected[n++] = STUB_ENTRY(STUB_DOWN, layer, tokens);
    }
    expected[n++] = STUB_ENTRY(STUB_HEAD, 0, tokens);
    expected[n++] = STUB_ENTRY(STUB_END, 0, tokens);
    assert_int_equal(log[0], n);
    assert_memory_equal(log + 1, expected, n * sizeof *expected);
}

/* Waits for the result as the engine does: by its flag, asking the device now and then. */
static void await_result(const struct gpu_shared *s, uint32_t number) {
    const uint64_t start = clock_ns();
    while ((int32_t)(s->result->number - number) < 0) {
        OK(gpu->ops->check(gpu, &why));
        if (clock_ns() - start > LONG) fail_test("step %u never ended", number);
    }
}

static void test_steps(void **state) {
    (void)state;
    struct gpu_network *n = open_network();
    const struct gpu_shared *s = gpu->ops->shared(n);
    uint32_t number = 0, *log = (uint32_t *)s->mail_input;
    for (uint32_t tokens = 1; tokens <= GPU_STEP_TOKENS; tokens *= 2) {
        OK(gpu->ops->step_prepare(n, tokens, &why));
        OK(gpu->ops->step_prepare(n, tokens, &why)); /* once is enough */
        assert_int_equal(log[0], 0);                 /* capturing runs nothing */
    }
    for (uint32_t round = 0; round < 3; round++)
        for (uint32_t tokens = 1; tokens <= GPU_STEP_TOKENS; tokens *= 2) {
            number++;
            *s->commands[number % 2] = (struct gpu_command){.number = number, .n_tokens = tokens};
            OK(gpu->ops->step_launch(n, tokens, &why));
            await_result(s, number);
            expect_log(log, tokens);
            log[0] = 0;
            for (uint32_t t = 0; t < tokens; t++)
                for (uint32_t i = 0; i < VOCAB; i++) assert_true(s->logits[t * VOCAB + i] == stub_logit(number, t, i));
        }
    assert_true(memory().peak >= memory().overhead + allocated());
    gpu->ops->network_close(&n);
    OK(gpu->ops->check(gpu, &why));
}

/* ---- waiting, failing ---------------------------------------------------------------------------------------- */

#ifdef GPU_EMULATED
/* The emulator runs one thing a question where it is told to be lazy: no time is enough for two. */
static void expect_unfinished(struct gpu_network *n) {
    const struct ch_config was = ch_get_config();
    struct ch_config lazy = was;
    uint32_t slots[EXPERTS] = {0};
    lazy.schedule = CH_LAZY;
    ch_set_config(lazy);
    gpu->ops->set_slots(n, 0, slots);
    gpu->ops->set_slots(n, 1, slots);
    assert_int_equal(gpu->ops->sync(gpu, GPU_COMPUTE, 0, &why), ERR_IO);
    ch_set_config(was);
}
#endif

/* A kernel that waits for the host: sync() gives up after its time, the kernel after its patience; then everything goes on. */
static void test_time_out(void **state) {
    (void)state;
    struct gpu_network *n = open_network();
    const struct gpu_shared *s = gpu->ops->shared(n);
    gpu->ops->set_patience(n, 400 * MS);
    OK(gpu->ops->step_prepare(n, 1, &why));
    *s->commands[1] = (struct gpu_command){.number = 1, .n_tokens = 1, .tokens = {{.id = STUB_HOLD}}};
#ifdef GPU_EMULATED
    expect_unfinished(n);
    OK(gpu->ops->step_launch(n, 1, &why));
#else
    OK(gpu->ops->step_launch(n, 1, &why));
    assert_int_equal(gpu->ops->sync(gpu, GPU_COMPUTE, 20 * MS, &why), ERR_IO);
#endif
    assert_non_null(strstr(why.text, "compute stream"));
    await_result(s, 1);
    assert_int_equal(s->result->failed, 1);
    OK(gpu->ops->sync(gpu, GPU_COMPUTE, LONG, &why));

    *s->commands[0] = (struct gpu_command){.number = 2, .n_tokens = 1, .tokens = {{.id = STUB_HOLD}}};
    s->answer->number = 2;
    OK(gpu->ops->step_launch(n, 1, &why));
    await_result(s, 2);
    assert_int_equal(s->result->failed, 0);
    gpu->ops->network_close(&n);
    OK(gpu->ops->check(gpu, &why));
}

#ifdef GPU_EMULATED
static const struct gpu_shared *away_from;
static int away;

/* The process is stopped for longer than anybody's patience; the answer is written after that. */
static bool stop_then_answer(void *ctx) {
    (void)ctx;
    if (away++ == 0) nanosleep(&(struct timespec){0, 600 * MS}, NULL);
    else away_from->answer->number = 1;
    return true;
}

/* Neither the kernel that waits nor the host gives up for a time in which nobody ran. */
static void test_stopped_process(void **state) {
    (void)state;
    const struct ch_config was = ch_get_config();
    struct ch_config lazy = was;
    lazy.schedule = CH_LAZY;
    ch_set_config(lazy);
    struct gpu_network *n = open_network();
    away_from = gpu->ops->shared(n);
    away = 0;
    gpu->ops->set_patience(n, 350 * MS);
    OK(gpu->ops->step_prepare(n, 1, &why));
    OK(gpu->ops->sync(gpu, GPU_COMPUTE, LONG, &why));
    *away_from->commands[1] = (struct gpu_command){.number = 1, .n_tokens = 1, .tokens = {{.id = STUB_HOLD}}};
    ch_set_pump(stop_then_answer, NULL);
    OK(gpu->ops->step_launch(n, 1, &why));
    OK(gpu->ops->sync(gpu, GPU_COMPUTE, 350 * MS, &why)); /* it has more to run than that kernel */
    ch_set_pump(NULL, NULL);
    assert_int_equal(away, 2);
    assert_int_equal(away_from->result->number, 1);
    assert_int_equal(away_from->result->failed, 0);
    gpu->ops->network_close(&n);
    ch_set_config(was);
}
#endif

/* After an error everything that can fail says the first one, nothing waits, and closing works. */
static void expect_dead(struct gpu_network *n, struct gpu_event *e, uint8_t *host, gpu_ptr p) {
    struct reason first, again;
    struct gpu_event *f;
    gpu_ptr q;
    void *h;
    assert_int_equal(gpu->ops->check(gpu, &first), ERR_IO);
    assert_non_null(strstr(first.text, "the GPU ("));
    assert_non_null(strstr(first.text, "failed while"));
    assert_int_equal(gpu->ops->check(gpu, &again), ERR_IO);
    assert_string_equal(first.text, again.text);
    assert_int_equal(gpu->ops->alloc(gpu, GPU_USE_KV, 4096, &q, &again), ERR_IO);
    assert_string_equal(first.text, again.text);
    assert_int_equal(gpu->ops->alloc_pinned(gpu, 4096, &h, &q, &again), ERR_IO);
    assert_int_equal(gpu->ops->event_open(gpu, &f, &again), ERR_IO);
    assert_int_equal(gpu->ops->step_launch(n, 1, &again), ERR_IO);
    assert_int_equal(gpu->ops->step_prepare(n, 2, &again), ERR_IO);
    assert_int_equal(gpu->ops->sync(gpu, GPU_COMPUTE, LONG, &again), ERR_IO);
    assert_string_equal(first.text, again.text);
    gpu->ops->upload(gpu, GPU_COMPUTE, p, host, 64);
    gpu->ops->download(gpu, GPU_COMPUTE, host, p, 64);
    gpu->ops->record(gpu, GPU_COMPUTE, e);
    gpu->ops->wait(gpu, GPU_COPY, e);
    assert_true(gpu->ops->passed(gpu, e));
}

static void test_sticky_error(void **state) {
    (void)state;
    struct gpu_network *n = open_network();
    struct gpu_event *e;
    const gpu_ptr p = alloc(4096);
    uint8_t *host = pinned(4096);
    OK(gpu->ops->event_open(gpu, &e, &why));
    OK(gpu->ops->step_prepare(n, 1, &why));
    OK(gpu->ops->sync(gpu, GPU_COMPUTE, LONG, &why));
    gpu->ops->upload(gpu, GPU_COMPUTE, (gpu_ptr)0x1000, host, 64); /* nobody's address */
    expect_dead(n, e, host, p);
    gpu->ops->event_close(gpu, &e);
    gpu->ops->free_pinned(gpu, host, 4096);
    gpu->ops->free(gpu, GPU_USE_SCRATCH, p, 4096);
    gpu->ops->network_close(&n);
    gpu->ops->close(&gpu);
    open_gpu(0);
    OK(gpu->ops->check(gpu, &why));
}

#ifdef GPU_EMULATED
/* An error of a kernel, which comes with a later call and stays with the driver. */
static void test_kernel_error(void **state) {
    (void)state;
    struct gpu_network *n = open_network();
    struct gpu_event *e;
    const gpu_ptr p = alloc(4096);
    uint8_t *host = pinned(4096);
    OK(gpu->ops->event_open(gpu, &e, &why));
    OK(gpu->ops->step_prepare(n, 1, &why));
    OK(gpu->ops->sync(gpu, GPU_COMPUTE, LONG, &why));
    ch_inject_error("kernel", 3, 700, true);
    const enum err launched = gpu->ops->step_launch(n, 1, &why);
    assert_true(launched == ERR_NONE || launched == ERR_IO);
    const uint64_t start = clock_ns();
    while (!gpu->ops->check(gpu, &why))
        if (clock_ns() - start > LONG) fail_test("the kernel's error was never seen");
    assert_non_null(strstr(why.text, "illegal memory access"));
    expect_dead(n, e, host, p);
    gpu->ops->event_close(gpu, &e);
    gpu->ops->free_pinned(gpu, host, 4096);
    gpu->ops->network_close(&n);
    gpu->ops->close(&gpu);
    stub_reset_device();
}

/* Graphs that the driver refuses, or that take more than the budget, leave a device that goes on. */
static void test_graph_refused(void **state) {
    (void)state;
    static const char *const calls[] = {"cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate",
                                        "cudaGraphUpload", "launch"};
    struct gpu_network *n = open_network();
    OK(gpu->ops->sync(gpu, GPU_COMPUTE, LONG, &why));
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        ch_inject_error(calls[i], 1, i == 2 ? 2 : 999, false);
        assert_int_equal(gpu->ops->step_prepare(n, 4, &why), i == 2 ? ERR_NO_MEMORY : ERR_IO);
        assert_non_null(strstr(why.text, "graph of a step of 4 tokens"));
        OK(gpu->ops->check(gpu, &why));
    }
    ch_inject_error(NULL, 1, 0, false);
    OK(gpu->ops->step_prepare(n, 4, &why));
    gpu->ops->network_close(&n);
}
#endif

int main(int argc, char **argv) {
    device = argc > 1 ? argv[1] : NULL;
    const enum err found = gpu_open(&(struct gpu_options){.device = device}, &gpu, &why);
    if (found == ERR_IO) {
        printf("SKIP: %s\n", why.text);
        return 77;
    }
    if (!found) gpu->ops->close(&gpu);
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        CASE(test_info),
        CASE(test_accounting),
        CASE(test_budget),
        CASE(test_no_room_for_context),
        CASE(test_driver_refuses),
        CASE(test_copies),
        CASE(test_pinned),
        CASE(test_events),
        CASE(test_repack),
        CASE(test_label),
        CASE(test_pairs),
        CASE(test_network_memory),
        CASE(test_tables),
        CASE(test_steps),
        CASE(test_time_out),
        CASE(test_sticky_error),
#ifdef GPU_EMULATED
        cmocka_unit_test(test_unfit),
        CASE(test_stopped_process),
        CASE(test_kernel_error),
        CASE(test_graph_refused),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

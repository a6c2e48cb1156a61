/* Weights from the file's layout to the device's (gpu/layout.h): one kernel, steered by the layout's planes, that moves bytes, and
 * bits of signs, and changes none. Never allocates; the staging copy is the caller's. */
#include <assert.h>

#include "gpu/device_private.h"
#include "gpu/layout.h"

enum { REPACK_THREADS = 256, CHUNK = 16 /* bytes a thread writes */ };

/* ---- the table ----------------------------------------------------------------------------------------------------- */

#define LAYOUT(suffix, ...) static const struct gpu_layout layout_##suffix = __VA_ARGS__;
GPU_LAYOUTS(LAYOUT)

static const struct gpu_layout *layout_of(enum tensor_type type) {
    switch (type) {
#define CASE(suffix, ...) \
    case TYPE_##suffix: return &layout_##suffix;
        GPU_LAYOUTS(CASE)
    default: return NULL;
    }
}

static uint64_t file_bytes(enum tensor_type type, uint64_t rows, uint64_t k) {
    uint64_t row, all;
    return tensor_row_bytes(type, k, &row) && size_mul(row, rows, &all) ? all : UINT64_MAX;
}

static uint64_t device_bytes(enum tensor_type type, uint64_t rows, uint64_t k) {
    const uint64_t bytes = file_bytes(type, rows, k);
    return bytes > UINT64_MAX - GPU_ALIGN ? UINT64_MAX : round_up(bytes, GPU_ALIGN);
}

#define BYTES(suffix, ...) \
    static uint64_t bytes_##suffix(uint64_t rows, uint64_t k) { return device_bytes(TYPE_##suffix, rows, k); }
GPU_LAYOUTS(BYTES)

/* ---- the kernel ---------------------------------------------------------------------------------------------------- */

/* A field of all blocks, or what stands in front of all rows: piece i begins at i * stride + (i / in_row + 1) * skip + file. */
struct repack_plane {
    uint64_t to;     /* of the plane, from the matrix's start */
    uint64_t chunks, pieces, stride;
    uint32_t file, skip;
    uint32_t shift;  /* a piece has 1 << shift bytes */
    uint32_t order;
};
struct repack {
    const uint8_t *from;
    uint8_t *to;
    uint64_t in_row; /* blocks */
    struct repack_plane planes[GPU_MAX_PLANES + 1];
};

static __device__ __forceinline__ const uint8_t *piece_at(const repack_plane &p, const uint8_t *from, uint64_t in_row, uint64_t at) {
    const uint64_t piece = at >> p.shift, skip = p.skip ? (piece / in_row + 1) * p.skip : 0;
    return from + piece * p.stride + skip + p.file + (at - (piece << p.shift));
}

/* Two bytes of a plane, from `at`; zero behind the last piece. */
static __device__ __forceinline__ uint32_t pair_at(const repack_plane &p, const uint8_t *from, uint64_t in_row, uint64_t at) {
    const uint64_t end = p.pieces << p.shift;
    if (at >= end) return 0;
    const uint8_t *first = piece_at(p, from, in_row, at);
    if (p.stride % 2 == 0) return *reinterpret_cast<const uint16_t *>(first);
    return *first | (at + 1 < end ? *piece_at(p, from, in_row, at + 1) << 8 : 0);
}

/* Bit 8u + l to 4l + u. */
static __device__ __forceinline__ uint32_t order_units(uint32_t w) {
    uint32_t out = 0;
#pragma unroll
    for (uint32_t l = 0; l < 8; l++) out |= ((w >> l & 0x01010101u) * 0x10204080u >> 28) << 4 * l;
    return out;
}

/* Bit 4q + l to 8l + 7 - q. */
static __device__ __forceinline__ uint32_t order_quads(uint32_t w) {
    uint32_t out = 0;
#pragma unroll
    for (uint32_t q = 0; q < 8; q++)
#pragma unroll
        for (uint32_t l = 0; l < 4; l++) out |= (w >> (4 * q + l) & 1) << (8 * l + 7 - q);
    return out;
}

/* A chunk at once, or as much of it as there is where planes follow each other at any address. */
static __device__ __forceinline__ void put_chunk(uint8_t *to, const uint32_t (&w)[4], uint64_t left) {
    if (left >= CHUNK && reinterpret_cast<uintptr_t>(to) % CHUNK == 0) {
        stu4(to, make_uint4(w[0], w[1], w[2], w[3]));
        return;
    }
#pragma unroll
    for (uint32_t i = 0; i < CHUNK / 2; i++) {
        const uint32_t pair = w[i / 2] >> 16 * (i % 2);
        if (2 * i + 1 < left)
            *reinterpret_cast<uint16_t *>(to + 2 * i) = static_cast<uint16_t>(pair);
        else if (2 * i < left)
            to[2 * i] = static_cast<uint8_t>(pair);
    }
}

__global__ void repack_kernel(const repack r) {
    uint64_t chunk = (uint64_t)blockIdx.x * REPACK_THREADS + threadIdx.x;
    repack_plane p = {};
    bool found = false;
#pragma unroll // copying r.planes[i] by an index unknown at compile time would put all of r on the stack
    for (uint32_t i = 0; i < GPU_MAX_PLANES + 1; i++) {
        if (!found && chunk < r.planes[i].chunks) {
            found = true;
            p.to = r.planes[i].to, p.pieces = r.planes[i].pieces, p.stride = r.planes[i].stride;
            p.file = r.planes[i].file, p.skip = r.planes[i].skip, p.shift = r.planes[i].shift, p.order = r.planes[i].order;
        }
        if (!found) chunk -= r.planes[i].chunks;
    }
    if (!found) return;
    uint32_t w[4];
#pragma unroll
    for (uint32_t j = 0; j < 4; j++) {
        const uint64_t at = chunk * CHUNK + 4 * j;
        w[j] = pair_at(p, r.from, r.in_row, at) | pair_at(p, r.from, r.in_row, at + 2) << 16;
        if (p.order == SIGNS_OF_UNITS) w[j] = order_units(w[j]);
        if (p.order == SIGNS_OF_QUADS) w[j] = order_quads(w[j]);
    }
    put_chunk(r.to + p.to + chunk * CHUNK, w, (p.pieces << p.shift) - chunk * CHUNK);
}

static void launch(const struct gpu_layout *l, enum tensor_type type, gpu_ptr to, gpu_ptr from, uint64_t rows, uint64_t k, cudaStream_t stream) {
    const struct tensor_type_info *info = tensor_type_info(type);
    const uint64_t in_row = k / info->block_weights, n_blocks = rows * in_row;
    struct repack r = {(const uint8_t *)from, (uint8_t *)to, in_row, {}};
    uint64_t chunks = 0, before = 0;
    for (uint32_t i = 0; i < l->n_planes; i++) {
        const struct gpu_plane *p = &l->planes[i];
        assert((p->bytes & (p->bytes - 1)) == 0 && (p->file % 2 == 0 || info->block_bytes % 2));
        assert(p->bytes < CHUNK || before % CHUNK == 0);
        r.planes[i] = {n_blocks * before, (n_blocks * p->bytes + CHUNK - 1) / CHUNK, n_blocks, info->block_bytes,
                       p->file, info->row_meta_bytes, (uint32_t)__builtin_ctz(p->bytes), p->order};
        before += p->bytes;
        chunks += r.planes[i].chunks;
    }
    assert(before == info->block_bytes);
    if (info->row_meta_bytes) {
        const uint32_t meta = info->row_meta_bytes;
        struct repack_plane *p = &r.planes[l->n_planes];
        *p = {n_blocks * before, (rows * meta + CHUNK - 1) / CHUNK, rows, meta + in_row * before, 0, 0, (uint32_t)__builtin_ctz(meta), FILE_ORDER};
        chunks += p->chunks;
    }
    LAUNCH(repack_kernel, (unsigned)((chunks + REPACK_THREADS - 1) / REPACK_THREADS), REPACK_THREADS, 0, stream, r);
}

/* ---- EXL3 ---------------------------------------------------------------------------------------------------------- */

template <enum tensor_type TYPE> static uint64_t trellis_bytes(uint64_t rows, uint64_t k) {
    const uint64_t tiles = file_bytes(TYPE, rows, k), most = UINT64_MAX / 2;
    if (tiles > most || rows > most / 8 || k > most / 8) return UINT64_MAX;
    return round_up(gpu_trellis_label_at(TYPE, rows, k) + sizeof(struct gpu_trellis_label), GPU_ALIGN);
}

static __global__ void __launch_bounds__(32) label_kernel(struct gpu_trellis_label *to, uint32_t bits, uint32_t codebook) {
    if (threadIdx.x == 0) to->bits = bits, to->codebook = codebook;
}

/* By a launch, which never waits, while an upload of a few bytes may. */
static void label_matrix(struct gpu *g, enum gpu_stream s, enum tensor_type type, gpu_ptr to, uint64_t rows, uint64_t k,
                         uint32_t bits, enum exl3_codebook codebook) {
    assert(gpu_is_trellis(type) && to % GPU_ALIGN == 0 && rows % GPU_TRELLIS_BLOCK == 0 && k % GPU_TRELLIS_BLOCK == 0);
    assert(bits && bits <= (uint32_t)(type - TYPE_EXL3_1 + 1));
    if (gpu_alive(gpu_device_of(g), NULL) || rows == 0) return;
    LAUNCH(label_kernel, 1, 32, 0, gpu_stream_of(g, s), (struct gpu_trellis_label *)(to + gpu_trellis_label_at(type, rows, k)),
           bits, (uint32_t)codebook);
    (void)gpu_note_launch(g, "labelling a matrix");
}

static void repack_matrix(struct gpu *g, enum gpu_stream s, enum tensor_type type, gpu_ptr to, gpu_ptr from, uint64_t rows, uint64_t k) {
    const struct gpu_layout *l = layout_of(type);
    assert(l && to % GPU_ALIGN == 0 && from % 2 == 0);
    if (gpu_alive(gpu_device_of(g), NULL) || rows == 0) return;
    const cudaStream_t stream = gpu_stream_of(g, s);
    if (l->n_planes == 0) {
        const cudaError_t code =
            cudaMemcpyAsync((void *)to, (const void *)from, file_bytes(type, rows, k), cudaMemcpyDeviceToDevice, stream);
        (void)gpu_note(g, code, "moving weights");
        return;
    }
    launch(l, type, to, from, rows, k, stream);
    (void)gpu_note_launch(g, "bringing weights into the device's layout");
}

void gpu_repack_fill(struct gpu_ops *ops) {
#define ROW(suffix, ...) ops->types[TYPE_##suffix] = {true, layout_##suffix.n_planes == 0, bytes_##suffix};
    GPU_LAYOUTS(ROW)
#undef ROW
#define ROW(suffix) ops->types[TYPE_##suffix] = {true, true, trellis_bytes<TYPE_##suffix>};
    GPU_TRELLIS_TYPES(ROW)
#undef ROW
    ops->repack = repack_matrix;
    ops->label = label_matrix;
}

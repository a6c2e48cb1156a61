/* Weights from the file's layout to the device's (gpu/layout.h): one kernel, steered by the layout's planes, that moves bytes and
 * changes none. Never allocates; the staging copy is the caller's. */
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

struct repack_plane {
    uint64_t to;     /* of the plane, from the matrix's start */
    uint64_t chunks;
    uint32_t file;   /* of the field, from the block's start */
    uint32_t shift;  /* the field has 1 << shift bytes */
};
struct repack {
    const uint8_t *from;
    uint8_t *to;
    uint64_t n_blocks;
    uint32_t block_bytes;
    struct repack_plane planes[GPU_MAX_PLANES];
};

/* Two bytes of a field, from `at` of its plane; zero behind the last block, where the matrix is padded. */
static __device__ __forceinline__ uint32_t pair_at(const uint8_t *fields, uint32_t block_bytes, uint64_t n_blocks, uint32_t shift, uint64_t at) {
    const uint64_t block = at >> shift;
    if (block >= n_blocks) return 0;
    return *reinterpret_cast<const uint16_t *>(fields + block * block_bytes + (at - (block << shift)));
}

__global__ void repack_kernel(const repack r) {
    uint64_t chunk = (uint64_t)blockIdx.x * REPACK_THREADS + threadIdx.x, to = 0;
    uint32_t file = 0, shift = 0;
    bool found = false;
#pragma unroll // copying r.planes[i] by an index unknown at compile time would put all of r on the stack
    for (uint32_t i = 0; i < GPU_MAX_PLANES; i++) {
        if (!found && chunk < r.planes[i].chunks) {
            found = true;
            to = r.planes[i].to;
            file = r.planes[i].file;
            shift = r.planes[i].shift;
        }
        if (!found) chunk -= r.planes[i].chunks;
    }
    if (!found) return;
    uint32_t w[4];
#pragma unroll
    for (uint32_t j = 0; j < 4; j++) {
        const uint64_t at = chunk * CHUNK + 4 * j;
        w[j] = pair_at(r.from + file, r.block_bytes, r.n_blocks, shift, at) |
               pair_at(r.from + file, r.block_bytes, r.n_blocks, shift, at + 2) << 16;
    }
    stu4(r.to + to + chunk * CHUNK, make_uint4(w[0], w[1], w[2], w[3]));
}

static void launch(const struct gpu_layout *l, enum tensor_type type, gpu_ptr to, gpu_ptr from, uint64_t n_blocks, cudaStream_t stream) {
    struct repack r = {(const uint8_t *)from, (uint8_t *)to, n_blocks, tensor_type_info(type)->block_bytes, {}};
    uint64_t chunks = 0, before = 0;
    for (uint32_t i = 0; i < l->n_planes; i++) {
        const struct gpu_plane *p = &l->planes[i];
        assert((p->bytes & (p->bytes - 1)) == 0 && p->bytes > 1 && p->file % 2 == 0);
        assert(n_blocks * before % CHUNK == 0);
        r.planes[i] = {n_blocks * before, (n_blocks * p->bytes + CHUNK - 1) / CHUNK, p->file, (uint32_t)__builtin_ctz(p->bytes)};
        before += p->bytes;
        chunks += r.planes[i].chunks;
    }
    LAUNCH(repack_kernel, (unsigned)((chunks + REPACK_THREADS - 1) / REPACK_THREADS), REPACK_THREADS, 0, stream, r);
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
    launch(l, type, to, from, rows * (k / tensor_type_info(type)->block_weights), stream);
    (void)gpu_note_launch(g, "bringing weights into the device's layout");
}

void gpu_repack_fill(struct gpu_ops *ops) {
#define ROW(suffix, ...) ops->types[TYPE_##suffix] = {true, layout_##suffix.n_planes == 0, bytes_##suffix};
    GPU_LAYOUTS(ROW)
    ops->repack = repack_matrix;
}

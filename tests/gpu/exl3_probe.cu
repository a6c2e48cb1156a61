/* See exl3_probe.h. */
#include "tests/gpu/exl3_probe.h"

#include "gpu/device.h"
#include "gpu/trellis.cuh"

template <int BITS, bool MUL1>
static __device__ void open_constant(const uint8_t *tile, const trellis_book &book, uint32_t (&b)[4]) {
    uint32_t raw[BITS > 4 ? 3 : 2];
    const trellis_window w = window_of(BITS);
    load_window(raw, tile, w);
    open_tile<BITS, MUL1>(raw, w.shift, book, b);
}

template <bool MUL1>
static __device__ void open_bits(const uint8_t *tile, uint32_t bits, const trellis_book &book, uint32_t (&b)[4]) {
    switch (bits) {
    case 1: open_constant<1, MUL1>(tile, book, b); break;
    case 2: open_constant<2, MUL1>(tile, book, b); break;
    case 3: open_constant<3, MUL1>(tile, book, b); break;
    case 4: open_constant<4, MUL1>(tile, book, b); break;
    case 5: open_constant<5, MUL1>(tile, book, b); break;
    case 6: open_constant<6, MUL1>(tile, book, b); break;
    case 7: open_constant<7, MUL1>(tile, book, b); break;
    default: open_constant<8, MUL1>(tile, book, b);
    }
}

static __global__ void __launch_bounds__(32)
    decode_kernel(const uint8_t *from, uint32_t bits, uint32_t codebook, bool as_prompts, uint16_t *to) {
    const uint8_t *const tile = from + static_cast<uint64_t>(blockIdx.x) * 32 * bits;
    const trellis_book book = book_of(codebook);
    const uint32_t lane = threadIdx.x, g = lane / 4, t = lane % 4;
    uint32_t b[4];
    if (as_prompts) {
        uint32_t raw[3];
        const trellis_window w = window_of(bits);
        load_window(raw, tile, w);
        if (book.mul1)
            open_tile_of<true>(bits, raw, w.shift, book, b);
        else
            open_tile_of<false>(bits, raw, w.shift, book, b);
    } else if (book.mul1) {
        open_bits<true>(tile, bits, book, b);
    } else {
        open_bits<false>(tile, bits, book, b);
    }
    for (int i = 0; i < 4; i++)
        for (int e = 0; e < 2; e++)
            to[256 * blockIdx.x + (2 * t + 8 * (i % 2) + e) * 16 + g + 8 * (i / 2)] = static_cast<uint16_t>(b[i] >> 16 * e);
}

void exl3_probe_decode(struct gpu *g, gpu_ptr from, uint32_t tiles, uint32_t bits, enum exl3_codebook codebook, bool as_prompts,
                       gpu_ptr to) {
    LAUNCH(decode_kernel, tiles, 32, 0, gpu_stream_of(g, GPU_COMPUTE), reinterpret_cast<const uint8_t *>(from), bits,
           static_cast<uint32_t>(codebook), as_prompts, reinterpret_cast<uint16_t *>(to));
    (void)gpu_note_launch(g, "decoding tiles");
}

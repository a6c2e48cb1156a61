/* The emulated wrappers against plain loops: what the drawings in gpu/ptx.h say, written here once more from the other side, by
 * element of the matrix instead of by lane. */
#include "tests/support/check.h"

#include "tests/cuda_host/wrapper_kernels.cuh"

static uint32_t in[WORDS_IN], out[WORDS_OUT];

static void run(const char *name, unsigned seed) {
    fill_words(in, seed);
    for (const wrapper_case &c : wrapper_cases) {
        if (strcmp(c.name, name)) continue;
        assert_int_equal(run_wrapper(&c, in, out), cudaSuccess);
        return;
    }
    fail_test("no case %s", name);
}

static void integers(void **) {
    run("integers", 1);
    for (int i = 0; i < 32; i++) {
        const uint32_t a = in[3 * i], b = in[3 * i + 1], c = in[3 * i + 2], *got = out + 16 * i;
        const uint8_t bytes[8] = {uint8_t(a), uint8_t(a >> 8), uint8_t(a >> 16), uint8_t(a >> 24),
                                  uint8_t(b), uint8_t(b >> 8), uint8_t(b >> 16), uint8_t(b >> 24)};
        uint32_t dot = c, mixed = 0;
        for (int k = 0; k < 4; k++) {
            dot += static_cast<uint32_t>(int8_t(bytes[k]) * int8_t(bytes[4 + k]));
            const unsigned pick = c >> 4 * k & 15;
            mixed |= uint32_t(pick & 8 ? (bytes[pick & 7] >> 7) * 255 : bytes[pick & 7]) << 8 * k;
        }
        assert_int_equal(got[0], dot);
        assert_int_equal(got[1], mixed);
        assert_int_equal(got[2], c % 32 ? b << c % 32 | a >> (32 - c % 32) : b);
        assert_int_equal(got[3], c % 32 ? a >> c % 32 | b << (32 - c % 32) : a);
        for (int k = 0; k < 4; k++) assert_int_equal(got[12] >> 8 * k & 255, bytes[k] & 128 ? 255 : 0);
        assert_int_equal(got[15], bytes[0] | bytes[2] << 8 | bytes[4] << 16 | uint32_t(bytes[6]) << 24);
        for (int k = 0; k < 32; k++) assert_int_equal(got[13] >> k & 1, in[3 * k] & 1);
    }
}

/* Every f16 there is goes through f32 and back; halfway values go to even. */
static void halves(void **) {
    for (uint32_t bits = 0; bits < 65536; bits++) {
        const float v = __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
        if (isnan(v)) assert_true((bits & 0x7c00) == 0x7c00 && (bits & 0x3ff));
        else assert_int_equal(__half_as_ushort(__float2half_rn(v)), bits);
    }
    assert_int_equal(__half_as_ushort(__float2half_rn(1 + 0x1p-11f)), 0x3c00);         // halfway, down to even
    assert_int_equal(__half_as_ushort(__float2half_rn(1 + 3 * 0x1p-11f)), 0x3c02);     // halfway, up to even
    assert_int_equal(__half_as_ushort(__float2half_rn(65519.996f)), 0x7bff);
    assert_int_equal(__half_as_ushort(__float2half_rn(65520.0f)), 0x7c00);
    assert_int_equal(__half_as_ushort(__float2half_rn(0x1p-25f)), 0);                  // half of the smallest, to even
    assert_int_equal(__half_as_ushort(__float2half_rn(0x1.8p-25f)), 1);
    assert_int_equal(__half_as_ushort(__float2half_rn(-2047.5f * 0x1p-25f)), 0x8400);  // subnormals carry into the least normal
    assert_int_equal(__bfloat16_as_ushort(__float2bfloat16(1 + 0x1p-8f)), 0x3f80);
    assert_int_equal(__bfloat16_as_ushort(__float2bfloat16(1 + 3 * 0x1p-8f)), 0x3f82);
    run("halves", 9);
    for (int i = 0; i < 32; i++) {
        for (int k = 0; k < 2; k++) {
            const double a = small_float(in[i + 192] >> 12 * k), c = small_float(in[i + 256] >> 12 * k);
            const double b = ch_f16_to_float(static_cast<uint16_t>((in[i + 224] & 0xbfffbfff) >> 16 * k));
            assert_int_equal(out[16 * i + 10] >> 16 * k & 0xffff, ch_f16_from_double(a + b));
            assert_int_equal(out[16 * i + 11] >> 16 * k & 0xffff, ch_f16_from_double(a * b + c));
        }
        uint32_t sum = in[i + 32];
        for (int k = 0; k < 4; k++) sum += in[i] >> 8 * k & 255;
        assert_int_equal(out[16 * i + 12], sum);
    }
}

static void copies(void **) {
    run("copies", 2);
    for (int i = 0; i < 32; i++) {
        for (int k = 0; k < 4; k++) {
            assert_int_equal(out[4 * i + k], in[4 * (31 - i) + k]);
            assert_int_equal(out[128 + 4 * i + k], (31 - i) % 3 ? in[128 + 4 * (31 - i) + k] : 0);
            assert_int_equal(out[256 + 4 * i + k], in[256 + 4 * (i ^ 1) + k]);
            assert_int_equal(out[384 + 4 * i + k], in[512 + 4 * i + k]);
            assert_int_equal(out[576 + 4 * i + k], in[800 + 4 * i + k]);
        }
        assert_int_equal(out[512 + 2 * i], in[700 + 2 * i]);
        assert_int_equal(out[513 + 2 * i], in[701 + 2 * i]);
        assert_int_equal(out[704 + i], in[1000 + i] ^ in[1100 + i]);
    }
}

/* Element [row][column] of the matrix whose rows start at word `first + stride * row`, in 16 bits. */
static uint32_t element(int first, int stride, int row, int column) {
    return in[first + stride * row + column / 2] >> 16 * (column % 2) & 0xffff;
}

static void matrices_are_loaded(void **) {
    run("ldmatrix", 3);
    for (int lane = 0; lane < 32; lane++) {
        const int i = lane / 4, j = 2 * (lane % 4);
        for (int m = 0; m < 4; m++) {
            assert_int_equal(out[32 * m + lane], element(64 * m, 8, i, j) | element(64 * m, 8, i, j + 1) << 16);
            assert_int_equal(out[128 + 32 * m + lane], element(64 * m + 4, 8, j, i) | element(64 * m + 4, 8, j + 1, i) << 16);
            if (m >= 2) continue; // rows from the last to the first
            const int top = 8 * (31 - 8 * m);
            assert_int_equal(out[256 + 32 * m + lane], element(top, -8, i, j) | element(top, -8, i, j + 1) << 16);
            assert_int_equal(out[320 + 32 * m + lane], element(top + 4, -8, j, i) | element(top + 4, -8, j + 1, i) << 16);
        }
    }
}

/* A[row][k] and B[k][column] of w_mma, where `per` elements are in a word. */
static uint32_t word_of(int base, int pair, int upper, int index, int k, int per) {
    const int lane = index % 8 * 4 + k % (4 * per) / per, reg = pair < 0 ? upper : 2 * upper + pair;
    return in[base + 32 * reg + lane];
}

static void products_are_right(void **) {
    for (unsigned seed = 4; seed < 8; seed++) {
        run("mma_f16", seed);
        for (int row = 0; row < 16; row++) {
            for (int column = 0; column < 8; column++) {
                const int at = 32 * (row / 8 * 2 + column % 2) + row % 8 * 4 + column / 2;
                double sum = small_float(in[192 + at]);
                for (int k = 0; k < 16; k++) {
                    const uint32_t a = word_of(0, row / 8, k / 8, row, k, 2), b = word_of(128, -1, k / 8, column, k, 2);
                    sum += double(small_float(a >> 12 * (k % 2))) * small_float(b >> 12 * (k % 2));
                }
                assert_true(fabs(__uint_as_float(out[at]) - sum) < 0.02); // 12 bits go into 11
            }
        }
        run("mma_bf16", seed);
        for (int row = 0; row < 16; row++) {
            for (int column = 0; column < 8; column++) {
                const int at = 32 * (row / 8 * 2 + column % 2) + row % 8 * 4 + column / 2;
                double sum = small_float(in[192 + at]);
                for (int k = 0; k < 16; k++) {
                    const uint32_t a = word_of(0, row / 8, k / 8, row, k, 2), b = word_of(128, -1, k / 8, column, k, 2);
                    sum += double(float(__nv_bfloat16(small_float(a >> 12 * (k % 2))))) * float(__nv_bfloat16(small_float(b >> 12 * (k % 2))));
                }
                assert_true(fabs(__uint_as_float(out[at]) - sum) < 1e-4);
            }
        }
        run("mma_s8", seed);
        for (int row = 0; row < 16; row++) {
            for (int column = 0; column < 8; column++) {
                const int at = 32 * (row / 8 * 2 + column % 2) + row % 8 * 4 + column / 2;
                int sum = static_cast<int>(in[192 + at] & 0xffff) - 32768;
                for (int k = 0; k < 32; k++) {
                    const uint32_t a = word_of(0, row / 8, k / 16, row, k, 4), b = word_of(128, -1, k / 16, column, k, 4);
                    sum += int8_t(a >> 8 * (k % 4)) * int8_t(b >> 8 * (k % 4));
                }
                assert_int_equal(static_cast<int>(out[at]), sum);
            }
        }
    }
}

static void warps_agree(void **) {
    run("warp", 9);
    double sum = 0;
    float max = -3;
    uint32_t whole = 0, first = 32, last = 0, best = 0;
    for (uint32_t i = 0; i < 32; i++) {
        sum += small_float(in[i]), max = fmaxf(max, small_float(in[i])), whole += in[i] >> 8;
        best = in[i + 32] % 5 > best ? in[i + 32] % 5 : best;
    }
    for (uint32_t i = 0; i < 32; i++) {
        if (in[i + 32] % 5 == best) first = i < first ? i : first, last = i;
    }
    for (uint32_t i = 0; i < 32; i++) {
        assert_true(fabs(__uint_as_float(out[i]) - sum) < 1e-5);
        assert_int_equal(out[32 + i], whole);
        assert_true(__uint_as_float(out[64 + i]) == max);
        assert_int_equal(out[96 + i], first);
        assert_int_equal(out[128 + i], last);
        assert_true(__uint_as_float(out[160 + i]) == static_cast<float>(best));
        assert_int_equal(out[192 + i], in[i * 7 % 32]);
        assert_int_equal(out[224 + i], in[i ^ 5]);
        assert_int_equal(out[256 + i], in[i + 3 < 32 ? i + 3 : i]);
        assert_int_equal(out[288 + i], in[i / 8 * 8 + i * 3 % 8]);
        assert_int_equal(out[320 + i], in[i % 16 >= 2 ? i - 2 : i]);
        assert_int_equal(out[352 + i], in[i % 16 + 5 < 16 ? i + 5 : i]);
        assert_int_equal(out[384 + i], in[(i ^ 9) >= i / 8 * 8 + 8 ? i : i ^ 9]);
    }
}

static void blocks_hand_over(void **) {
    run("ticket", 10);
    assert_int_equal(out[0], 0);
    for (int i = 0; i < 32; i++) {
        uint32_t sum = 0;
        for (int b = 0; b < 9; b++) sum += in[32 * b + i];
        assert_int_equal(out[32 + i], sum);
    }
    run("flags", 11);
    assert_int_equal(out[2], in[0] ^ in[1]);
    assert_int_equal(out[5], SPIN_SEEN);
    assert_int_equal(out[6], SPIN_LATE);
    assert_int_equal(out[7], SPIN_ABORTED);
    assert_int_equal(out[8], SPIN_LATE); // half of the circle ahead is ahead, not behind
    assert_int_equal(out[9], 1);
}

__global__ void nans(uint32_t *to) {
    const unsigned i = threadIdx.x;
    const float nan = __uint_as_float(0x7fc00000);
    to[i] = warp_argmax<true>(i == 9 ? -1.0f : nan, i).index;
    to[32 + i] = warp_argmax<false>(nan, i + 5).index;
    to[64 + i] = __float_as_uint(warp_max(i == 3 ? -2.0f : nan));
}

static void argmax_of_nans(void **) {
    uint32_t *to, got[96];
    assert_int_equal(cudaMalloc(&to, sizeof got), cudaSuccess);
    LAUNCH(nans, 1, 32, 0, nullptr, to);
    assert_int_equal(cudaMemcpy(got, to, sizeof got, cudaMemcpyDeviceToHost), cudaSuccess);
    for (int i = 0; i < 32; i++) {
        assert_int_equal(got[i], 9);
        assert_int_equal(got[32 + i], 5);
        assert_true(__uint_as_float(got[64 + i]) == -2);
    }
    assert_int_equal(cudaFree(to), cudaSuccess);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers),           cmocka_unit_test(halves),      cmocka_unit_test(copies),
        cmocka_unit_test(matrices_are_loaded), cmocka_unit_test(products_are_right), cmocka_unit_test(warps_agree),
        cmocka_unit_test(blocks_hand_over),   cmocka_unit_test(argmax_of_nans),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}

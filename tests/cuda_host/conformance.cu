/* Does the emulator compute what a device does? The wrappers' kernels run on both, over the same random words.
 *
 *     conformance write FILE     in the emulator's build: what it computes
 *     conformance check FILE     in nvcc's build, on a device: compares; 77 when there is no device
 *
 * Where the two disagree, one of the drawings in gpu/ptx.h is misread, and every mma kernel with it. Floats within the case's
 * tolerance are equal; so are NaNs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda_host/samples.cuh"
#include "tests/cuda_host/wrapper_kernels.cuh"

enum { ROUNDS = 8, NO_DEVICE = 77 };

static bool same_word(uint32_t a, uint32_t b, double tolerance) {
    float x, y;
    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    if (a == b || (tolerance > 0 && isnan(x) && isnan(y))) return true;
    return tolerance > 0 && fabs(double(x) - double(y)) <= tolerance * (1 + fabs(double(x)));
}

/* NaN payloads are the device's own affair: one NaN for all in the case of conversions. */
static uint32_t canonical(const wrapper_case *c, int at, uint32_t word) {
    if (strcmp(c->name, "halves")) return word;
    const int slot = at % 16;
    if (slot >= 10) return word;
    const bool f32 = slot == 1 || slot == 7 || slot == 9;
    if (f32 && (word & 0x7fffffff) > 0x7f800000) return 0x7fc00000;
    if (slot == 8 && (word & 0x7fff) > 0x7f80) return 0x7fff;
    if (!f32 && slot != 8 && (word & 0x7fff) > 0x7c00) return 0x7fff;
    return word;
}

static int compare(const wrapper_case *c, const uint32_t *mine, const uint32_t *other, int round) {
    int bad = 0;
    for (int i = 0; i < WORDS_OUT; i++) {
        const uint32_t a = canonical(c, i, mine[i]), b = canonical(c, i, other[i]);
        if (same_word(a, b, c->tolerance)) continue;
        if (bad++ < 4) printf("%s, round %d, word %d: device %08x, emulator %08x\n", c->name, round, i, a, b);
    }
    return bad;
}

/* The sample gemm must exist for a device, too: pipelines of cp.async and ldmatrix as kernels use them. */
template __global__ void gemm_f16<NO_BUG>(const __half *, const __half *, float *, int, int, int);
template __global__ void gemv_q8<NO_BUG>(const int8_t *, const __half *, const int8_t *, const float *, float *, int);
template __global__ void norm_row<NO_BUG>(const float *, const float *, float *, int);
template __global__ void ticket_sum<NO_BUG>(const float *, float *, uint32_t *, float *, int);
template __global__ void mail_round<NO_BUG>(mail *, uint32_t, float *, int *);

int main(int argc, char **argv) {
    static uint32_t in[WORDS_IN], out[WORDS_OUT], other[WORDS_OUT];
    const bool write = argc == 3 && !strcmp(argv[1], "write");
    if (argc != 3 || (!write && strcmp(argv[1], "check"))) {
        fprintf(stderr, "usage: conformance write|check FILE\n");
        return 2;
    }
    int devices = 0;
    const cudaError_t found = cudaGetDeviceCount(&devices);
    if (found != cudaSuccess || devices == 0) {
        printf("SKIPPED: no CUDA device (%s): the emulator was not compared with one\n", cudaGetErrorString(found));
        return NO_DEVICE;
    }
    FILE *file = fopen(argv[2], write ? "wb" : "rb");
    if (!file) {
        fprintf(stderr, "conformance: cannot open %s\n", argv[2]);
        return 2;
    }
    int bad = 0, words = 0;
    for (int i = 0; i < N_WRAPPER_CASES; i++) {
        const wrapper_case *c = &wrapper_cases[i];
        for (int round = 0; round < ROUNDS; round++) {
            fill_words(in, static_cast<unsigned>(100 * i + round));
            const cudaError_t error = run_wrapper(c, in, out);
            if (error != cudaSuccess) {
                printf("%s: %s\n", c->name, cudaGetErrorString(error));
                return 1;
            }
            const size_t n = write ? fwrite(out, sizeof *out, WORDS_OUT, file) : fread(other, sizeof *other, WORDS_OUT, file);
            if (n != WORDS_OUT) {
                fprintf(stderr, "conformance: %s is cut short\n", argv[2]);
                return 2;
            }
            if (!write) bad += compare(c, out, other, round);
            words += WORDS_OUT;
        }
    }
    if (fclose(file)) return 2;
    printf("%s %d words of %d cases: %d differ\n", write ? "wrote" : "compared", words, static_cast<int>(N_WRAPPER_CASES), bad);
    return bad ? 1 : 0;
}

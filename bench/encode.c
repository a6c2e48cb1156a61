/* How well and how fast weights are written:
 *
 *     encode speed [TYPE]           M weights a second of one thread, on rows of 2048 near-normal numbers, with an importance
 *     encode compare DIR COLUMNS    against blocks that another program made of DIR/input.f32 (rows of COLUMNS floats), with
 *                                   DIR/imatrix.f32 (COLUMNS floats) when there is one: DIR/q4_k.bin and so on
 *
 * `compare` prints a line a type: the error of theirs and ours, sqrt(sum w dx^2 / sum w x^2) with the importance as w, each row
 * counting the same; ours over theirs; the worst row's quotient and its number; rows more than 1 % worse. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/cpu.h"
#include "cpu/encode.h"
#include "tests/support/row_error.h"

enum { USAGE = 2 };

struct floats {
    float *data;
    size_t n;
};

static void *read_all(const char *folder, const char *name, size_t *bytes) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    *bytes = (size_t)ftell(f);
    rewind(f);
    void *data = malloc(*bytes + 1);
    if (data && fread(data, 1, *bytes, f) != *bytes) {
        free(data);
        data = NULL;
    }
    fclose(f);
    return data;
}

static struct floats read_floats(const char *folder, const char *name) {
    size_t bytes = 0;
    float *data = read_all(folder, name, &bytes);
    return (struct floats){data, bytes / sizeof *data};
}

struct score {
    double ours, theirs, worst;
    size_t worst_row, worse, rows;
};

static void score_row(struct score *s, size_t row, double ours, double theirs) {
    const double least = 1e-13, ratio = sqrt((ours + least) / (theirs + least));
    s->ours += ours;
    s->theirs += theirs;
    s->rows++;
    s->worse += ratio > 1.01;
    if (ratio > s->worst) {
        s->worst = ratio;
        s->worst_row = row;
    }
}

static bool compare_type(const struct cpu_type *cpu, enum tensor_type type, const char *folder, struct floats x,
                         struct floats w, size_t k) {
    const struct tensor_type_info *info = tensor_type_info(type);
    char name[64];
    uint64_t row_bytes;
    size_t bytes, n = 0;
    for (; info->name[n]; n++) name[n] = (char)tolower((unsigned char)info->name[n]);
    snprintf(name + n, sizeof name - n, ".bin");
    if (!encode_supports(type) || !cpu->dequant || !tensor_row_bytes(type, k, &row_bytes)) return true;
    uint8_t *theirs = read_all(folder, name, &bytes), *ours = malloc(row_bytes);
    float *y = malloc(k * sizeof *y);
    struct score s = {0};
    for (size_t row = 0; theirs && ours && y && row < bytes / row_bytes && row < x.n / k; row++) {
        cpu->dequant(theirs + row * row_bytes, y, k);
        const double their_error = row_error(x.data + row * k, y, w.data, k);
        encode_row(type, x.data + row * k, w.data, k, ours);
        cpu->dequant(ours, y, k);
        score_row(&s, row, row_error(x.data + row * k, y, w.data, k), their_error);
    }
    if (s.rows)
        printf("%-8s theirs %.6f  ours %.6f  ratio %.4f  worst %.4f (row %zu)  worse %zu of %zu\n", info->name,
               sqrt(s.theirs / (double)s.rows), sqrt(s.ours / (double)s.rows), sqrt(s.ours / s.theirs), s.worst, s.worst_row,
               s.worse, s.rows);
    free(y);
    free(ours);
    free(theirs);
    return s.rows > 0;
}

static int compare(const char *folder, size_t k) {
    struct cpu_ops ops;
    cpu_ops_init(&ops, ISA_REF);
    struct floats x = read_floats(folder, "input.f32"), w = read_floats(folder, "imatrix.f32");
    if (!x.data || (w.data && w.n != k)) {
        fprintf(stderr, "%s: no input.f32, or imatrix.f32 is not of %zu floats\n", folder, k);
        return 1;
    }
    for (int type = 0; type < TYPE_COUNT; type++) compare_type(&ops.types[type], (enum tensor_type)type, folder, x, w, k);
    free(x.data);
    free(w.data);
    return 0;
}

static float normal(uint64_t *state) {
    float sum = 0;
    for (int i = 0; i < 6; i++) {
        *state = *state * 6364136223846793005ull + 1442695040888963407ull;
        sum += (float)(int32_t)(*state >> 32) * 0x1p-31f;
    }
    return sum / 1.41421356f;
}

static double cpu_seconds(void) { /* of this thread: other programs may run */
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int speed(const char *only) {
    enum { K = 2048, ROWS = 16 };
    static float x[K * ROWS], w[K];
    static uint8_t row[K * 4 + 16];
    uint64_t state = 1;
    for (size_t i = 0; i < K * ROWS; i++) x[i] = 0.02f * normal(&state);
    for (size_t i = 0; i < K; i++) w[i] = expf(normal(&state));
    for (int type = 0; type < TYPE_COUNT; type++) {
        const char *name = tensor_type_info((enum tensor_type)type)->name;
        if (!encode_supports((enum tensor_type)type) || (only && strcmp(only, name) != 0)) continue;
        const double start = cpu_seconds(), limit = 0.2;
        size_t rows = 0;
        while (rows < 2 || cpu_seconds() - start < limit) encode_row((enum tensor_type)type, x + rows++ % ROWS * K, w, K, row);
        printf("%-8s %8.2f M weights/s\n", name, (double)(rows * K) / (cpu_seconds() - start) / 1e6);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc >= 2 && strcmp(argv[1], "speed") == 0) return speed(argc > 2 ? argv[2] : NULL);
    if (argc == 4 && strcmp(argv[1], "compare") == 0 && atol(argv[3]) > 0) return compare(argv[2], (size_t)atol(argv[3]));
    fputs("encode speed [TYPE] | encode compare DIR COLUMNS\n", stderr);
    return USAGE;
}

/* Detection and the fill order of the kernel table. */
#include "cpu/cpu.h"

#include <cpuid.h>
#include <string.h>
#include <strings.h>

#include "cpu/exl3.h"
#include "cpu/matmul.h"

static const char *const names[ISA_COUNT] = {"ref", "avx2", "avx512"};

const char *cpu_isa_name(enum cpu_isa isa) { return names[isa]; }

bool cpu_isa_from_name(struct span name, enum cpu_isa *out) {
    for (int i = 0; i < ISA_COUNT; i++)
        if (strlen(names[i]) == name.len && strncasecmp(names[i], name.ptr, name.len) == 0) {
            *out = (enum cpu_isa)i;
            return true;
        }
    return false;
}

/* clang 14 does not know the name "f16c" below. Leaf 1, ECX bit 29; that AVX state is usable follows from "avx2". */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
}

/* AVX512-FP16 and VBMI2, which compilers name differently too. Leaf 7: EDX bit 23, ECX bit 6. */
static bool has_avx512_fp16(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 23 & 1) && (c >> 6 & 1);
}

enum cpu_isa cpu_isa_best(void) {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() &&
                      __builtin_cpu_supports("bmi2");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vnni");
    return avx512 ? ISA_AVX512 : avx2 ? ISA_AVX2 : ISA_REF;
}

void cpu_ops_init(struct cpu_ops *ops, enum cpu_isa limit) {
    const enum cpu_isa best = cpu_isa_best();
    *ops = (struct cpu_ops){.isa = limit < best ? limit : best};
    cpu_fill_quants_ref(ops);
    cpu_fill_grids_ref(ops);
    cpu_fill_levels_ref(ops);
    cpu_fill_ops_ref(ops);
    cpu_fill_exl3_ref(ops);
    if (ops->isa >= ISA_AVX2) {
        cpu_fill_quants_avx2(ops);
        cpu_fill_formats_avx2(ops);
        cpu_fill_ops_avx2(ops);
        cpu_fill_exl3_avx2(ops);
    }
    if (ops->isa >= ISA_AVX512) {
        cpu_fill_quants_avx512(ops);
        cpu_fill_formats_avx512(ops);
        cpu_fill_ops_avx512(ops);
        if (!has_avx512_fp16() || !cpu_fill_exl3_fp16_avx512(ops)) cpu_fill_exl3_avx512(ops);
    }
}

uint64_t acts_bytes(size_t n, size_t k) {
    const size_t groups = (k + 31) / 32;
    return round_up(n * k, 64) + 2 * round_up(n * groups * sizeof(float), 64) + round_up(2 * n * groups * sizeof(float), 64);
}

void acts_layout(struct acts *a, void *room) {
    const size_t groups = (a->k + 31) / 32, floats = (size_t)round_up(a->n * groups * sizeof(float), 64);
    uint8_t *at = room;
    a->q = (int8_t *)at;
    at += round_up(a->n * a->k, 64);
    a->d = (float *)at;
    at += floats;
    a->s32 = (float *)at;
    at += floats;
    a->sum16 = (int32_t *)at;
}

uint64_t matmul_scratch_bytes(size_t k) {
    const uint64_t few = FEW * pieces_of(k) * sizeof(struct prepared), many = sizeof(struct blocked);
    const uint64_t exl3 = k % EXL3_BLOCK == 0 ? exl3_scratch_bytes(k) : 0, most = few > many ? few : many;
    return exl3 > most ? exl3 : most;
}

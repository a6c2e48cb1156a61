/* AVX2 kernels of the weight formats: activations to int8, decode, matrix-vector and blocked products. */
#include "cpu/cpu.h"

void cpu_fill_quants_avx2(struct cpu_ops *ops) { (void)ops; }

/* AVX-512 (F, BW, VL, DQ, VNNI) kernels of the weight formats. */
#include "cpu/cpu.h"

void cpu_fill_quants_avx512(struct cpu_ops *ops) { (void)ops; }

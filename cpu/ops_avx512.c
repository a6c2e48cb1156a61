/* AVX-512 kernels of everything that is not a weight format. */
#include "cpu/cpu.h"

void cpu_fill_ops_avx512(struct cpu_ops *ops) { (void)ops; }

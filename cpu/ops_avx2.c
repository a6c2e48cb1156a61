/* AVX2 kernels of norm, rotation, activation and softmax; the code is ops_vec.h. */
#include "cpu/attention.h"
#include "cpu/vec_avx2.h"

#include "cpu/ops_vec.h"

void cpu_fill_ops_avx2(struct cpu_ops *ops) {
    fill_ops(ops);
    ops->attention = attention_avx2;
}

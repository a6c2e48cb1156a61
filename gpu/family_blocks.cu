/* Kernels of the family BLOCKS of types (gpu/layout.h): blocks of 32 weights and plain levels. */
#include "gpu/family.cuh"

GPU_FAMILY_KERNELS(BLOCKS)

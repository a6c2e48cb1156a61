/* Kernels of the family PAIRS of types (gpu/layout.h): tables of 32 and 64 levels. */
#include "gpu/family.cuh"

GPU_FAMILY_KERNELS(PAIRS)

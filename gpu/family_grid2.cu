/* Kernels of the family GRID2 of types (gpu/layout.h): units of eight weights, signs apart. */
#include "gpu/family.cuh"

GPU_FAMILY_KERNELS(GRID2)

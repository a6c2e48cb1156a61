/* Kernels of the family GRID3 of types (gpu/layout.h): quads of weights, signs apart. */
#include "gpu/family.cuh"

GPU_FAMILY_KERNELS(GRID3)

/* Kernels of the family GRIDS of types (gpu/layout.h): the codebooks that few files have. */
#include "gpu/family.cuh"

GPU_FAMILY_KERNELS(GRIDS)

/* Kernels of the family HALVES of types (gpu/layout.h): tables of 16 levels. */
#include "gpu/family.cuh"

GPU_FAMILY_KERNELS(HALVES)

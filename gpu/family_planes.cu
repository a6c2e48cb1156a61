/* Kernels of the family PLANES of types (gpu/layout.h): codes of 2 and 3 bits, four groups in a byte. */
#include "gpu/family.cuh"

GPU_FAMILY_KERNELS(PLANES)

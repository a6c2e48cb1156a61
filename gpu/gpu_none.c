/* The GPU of a build without CUDA: there is none. Linked instead of the .cu files. */
#include "gpu/gpu.h"

enum err gpu_open(const struct gpu_options *o, struct gpu **out, struct reason *why) {
    (void)o;
    *out = NULL;
    return fail(why, ERR_UNSUPPORTED, "this program was built without CUDA; build it with -DWITH_CUDA=ON where nvcc is installed");
}

/* Reading of experts, and the GPU, in words. Pure. */
#ifndef COLDSTREAM_IO_REPORT_H
#define COLDSTREAM_IO_REPORT_H

#include "engine/engine.h"

/* A few lines about `io`, counted over `ns`; nothing when there are no experts. MB and GB are powers of ten. */
void io_report(const struct engine_io *io, uint64_t ns, struct text *out);

/* A few lines about the GPU, from the same; nothing when none is used. */
void gpu_report(const struct engine_info *info, const struct engine_io *io, struct text *out);

#endif

/* Reading of experts in words. Pure. */
#ifndef COLDSTREAM_IO_REPORT_H
#define COLDSTREAM_IO_REPORT_H

#include "engine/engine.h"

/* A few lines about `io`, counted over `ns`; nothing when there are no experts. MB and GB are powers of ten. */
void io_report(const struct engine_io *io, uint64_t ns, struct text *out);

#endif

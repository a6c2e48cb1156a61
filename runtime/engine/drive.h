/* Which drive a file lies on. Reads sysfs and mount tables; opens no device. */
#ifndef COLDSTREAM_DRIVE_H
#define COLDSTREAM_DRIVE_H

#include "core/core.h"

struct drive_id {
    char
        name[64]; /* "nvme0n1"; a volume over several drives: its own ("md0"); without a block device: the file system's type */
    char model[64]; /* what the hardware calls itself; may be empty */
};

/* Partitions, encryption and volumes on one drive lead to that drive. "unknown" when nothing can be found out. */
void drive_of_file(int fd, struct drive_id *out);

#endif

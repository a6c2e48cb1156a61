/* From a descriptor to a drive: st_dev, or the mount's source where that is no block device (btrfs), then /sys/dev/block, and
 * through partitions and stacked volumes while there is one way down. */
#include "engine/drive.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "placement/facts.h"

enum { MOST_LAYERS = 8 };

/* The mount a descriptor was opened on: its file system's type and source. */
static bool mount_of(int fd, char type[64], char source[PATH_MAX]) {
    char line[4096];
    int wanted = -1, id;
    bool found = false;
    snprintf(line, sizeof line, "/proc/self/fdinfo/%d", fd);
    FILE *f = fopen(line, "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "mnt_id: %d", &id) == 1) wanted = id;
    if (f) fclose(f);
    if (wanted < 0 || !(f = fopen("/proc/self/mountinfo", "re"))) return false;
    while (!found && fgets(line, sizeof line, f)) { /* ID ... - TYPE SOURCE OPTIONS */
        const char *rest = strstr(line, " - ");
        if (rest && sscanf(line, "%d", &id) == 1 && id == wanted) found = sscanf(rest, " - %63s %4095s", type, source) == 2;
    }
    fclose(f);
    return found;
}

/* The sysfs folder of a block device; false: there is none. */
static bool device_folder(dev_t device, char out[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/sys/dev/block/%u:%u", major(device), minor(device));
    return realpath(link, out) != NULL;
}

static bool has(const char *folder, const char *name) {
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return access(path, F_OK) == 0;
}

/* Replace a volume's folder by that of the one device below it; false: none, or several. */
static bool step_down(char folder[PATH_MAX]) {
    char below[PATH_MAX + 300] = "", list[PATH_MAX + 32];
    unsigned n = 0;
    snprintf(list, sizeof list, "%s/slaves", folder);
    DIR *dir = opendir(list);
    if (!dir) return false;
    for (const struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.') continue;
        snprintf(below, sizeof below, "%s/%s", list, entry->d_name);
        n++;
    }
    closedir(dir);
    return n == 1 && realpath(below, folder) != NULL;
}

static void describe(const char *folder, struct drive_id *out) {
    char path[PATH_MAX + 32], model[128] = "";
    const char *slash = strrchr(folder, '/');
    facts_set_text(out->name, sizeof out->name, slash ? slash + 1 : folder);
    snprintf(path, sizeof path, "%s/device/model", folder);
    FILE *f = fopen(path, "re");
    if (f && fgets(model, sizeof model, f)) facts_set_text(out->model, sizeof out->model, model);
    if (f) fclose(f);
}

void drive_of_file(int fd, struct drive_id *out) {
    char folder[PATH_MAX], type[64] = "", source[PATH_MAX];
    struct stat info;
    *out = (struct drive_id){.name = "unknown"};
    if (fstat(fd, &info) != 0) return;
    bool known = device_folder(info.st_dev, folder);
    if (!known && mount_of(fd, type, source))
        known = source[0] == '/' && stat(source, &info) == 0 && S_ISBLK(info.st_mode) && device_folder(info.st_rdev, folder);
    if (!known) {
        if (type[0]) facts_set_text(out->name, sizeof out->name, type);
        return;
    }
    for (int i = 0; i < MOST_LAYERS; i++) {
        char *const slash = strrchr(folder, '/');
        if (has(folder, "partition") && slash) *slash = 0; /* the disk's folder holds its partitions' */
        if (!step_down(folder)) break;
    }
    describe(folder, out);
}

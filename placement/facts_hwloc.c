/* The machine's cores through hwloc (its only home) and its memory through /proc and the cgroup files. Read-only. */
#include "placement/facts.h"

#include <hwloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* One CPU a core, inside what this process may use. */
static void list_cores(hwloc_topology_t topology, struct facts *out) {
    hwloc_const_cpuset_t allowed = hwloc_topology_get_allowed_cpuset(topology);
    hwloc_bitmap_t bound = hwloc_bitmap_alloc();
    if (!bound) return;
    if (hwloc_get_cpubind(topology, bound, HWLOC_CPUBIND_PROCESS) != 0) hwloc_bitmap_copy(bound, allowed);
    hwloc_bitmap_and(bound, bound, allowed);
    for (hwloc_obj_t core = NULL; (core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)) != NULL;) {
        hwloc_bitmap_t usable = hwloc_bitmap_dup(core->cpuset);
        if (!usable) break;
        hwloc_bitmap_and(usable, usable, bound);
        const int cpu = hwloc_bitmap_first(usable);
        hwloc_bitmap_free(usable);
        if (cpu >= 0 && out->n_cores < FACTS_MAX_CORES) out->core_cpus[out->n_cores++] = cpu;
    }
    hwloc_bitmap_free(bound);
}

/* A file that holds one number; UINT64_MAX for "max", an unreadable file or nonsense. */
static uint64_t number_in(const char *path) {
    FILE *f = fopen(path, "re");
    unsigned long long value = UINT64_MAX;
    if (!f) return UINT64_MAX;
    if (fscanf(f, "%llu", &value) != 1) value = UINT64_MAX;
    fclose(f);
    return value;
}

static uint64_t meminfo_bytes(const char *field) {
    FILE *f = fopen("/proc/meminfo", "re");
    if (!f) return UINT64_MAX;
    char line[256];
    unsigned long long kib;
    uint64_t found = UINT64_MAX;
    while (fgets(line, sizeof line, f))
        if (strncmp(line, field, strlen(field)) == 0 && sscanf(line + strlen(field), ": %llu", &kib) == 1) found = kib << 10;
    fclose(f);
    return found;
}

/* The folder of this process's cgroup below the mount of `controller` ("" = the unified hierarchy). */
static bool cgroup_folder(const char *controller, char *out, size_t size) {
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f) return false;
    char line[1024];
    bool found = false;
    while (!found && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path) continue;
        *path++ = 0;
        names++;
        if (strcmp(names, controller) != 0) continue;
        const char *root = *controller ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup";
        found = snprintf(out, size, "%s%s", root, strcmp(path, "/") == 0 ? "" : path) < (int)size;
    }
    fclose(f);
    return found;
}

static void clamp_to_limit(struct facts *out, uint64_t limit) {
    if (limit < out->memory_total_bytes) out->memory_total_bytes = limit;
    if (limit < out->memory_available_bytes) out->memory_available_bytes = limit;
}

/* Every level of the path may hold a limit. Page cache charged to a group is reclaimable, so what the limit leaves is taken
 * whole; this process has used next to nothing when it asks. */
static void clamp_to_cgroup(struct facts *out, const char *controller, const char *limit_file) {
    char folder[1200], file[1300];
    if (!cgroup_folder(controller, folder, sizeof folder)) return;
    for (char *slash; (slash = strrchr(folder, '/')) && slash - folder > (ptrdiff_t)strlen("/sys/fs"); *slash = 0) {
        snprintf(file, sizeof file, "%s/%s", folder, limit_file);
        clamp_to_limit(out, number_in(file));
    }
}

/* Without sysfs (a bare chroot) hwloc can say nothing and complains on stderr: every CPU of the process counts as a core. */
static void list_cpus(struct facts *out) {
    cpu_set_t usable;
    if (sched_getaffinity(0, sizeof usable, &usable) != 0) return;
    for (int cpu = 0; cpu < CPU_SETSIZE && out->n_cores < FACTS_MAX_CORES; cpu++)
        if (CPU_ISSET((size_t)cpu, &usable)) out->core_cpus[out->n_cores++] = cpu;
}

static enum err read_topology(struct facts *out, struct reason *why) {
    hwloc_topology_t topology;
    if (access("/sys/devices/system/cpu", R_OK) != 0) {
        list_cpus(out);
        return ERR_NONE;
    }
    if (hwloc_topology_init(&topology) != 0) return fail(why, ERR_NO_MEMORY, "hwloc could not start");
    if (hwloc_topology_load(topology) != 0) {
        hwloc_topology_destroy(topology);
        return fail(why, ERR_IO, "hwloc could not read this machine's topology");
    }
    list_cores(topology, out);
    hwloc_topology_destroy(topology);
    return ERR_NONE;
}

enum err facts_read(struct facts *out, struct reason *why) {
    *out = (struct facts){0};
    TRY(read_topology(out, why));
    if (out->n_cores == 0) out->n_cores = 1; /* CPU 0; pinning that is refused leaves the thread unpinned */

    out->memory_total_bytes = meminfo_bytes("MemTotal");
    out->memory_available_bytes = meminfo_bytes("MemAvailable");
    clamp_to_cgroup(out, "", "memory.max");
    clamp_to_cgroup(out, "memory", "memory.limit_in_bytes");
    struct rlimit address_space;
    if (getrlimit(RLIMIT_AS, &address_space) == 0 && address_space.rlim_cur != RLIM_INFINITY)
        clamp_to_limit(out, address_space.rlim_cur);
    return ERR_NONE;
}

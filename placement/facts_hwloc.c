/* The machine's cores, nodes, drives and GPUs through hwloc (its only home), its memory through /proc and the cgroup files.
 * Read-only; no process-wide state; opens no device. */
#include "placement/facts.h"

#include <hwloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

/* ---- cores, caches, nodes --------------------------------------------------------------------------------------- */

/* The CPUs this process may run on. NULL: no memory. */
static hwloc_bitmap_t usable_cpus(hwloc_topology_t topology) {
    hwloc_const_cpuset_t allowed = hwloc_topology_get_allowed_cpuset(topology);
    hwloc_bitmap_t bound = hwloc_bitmap_alloc();
    if (!bound) return NULL;
    if (hwloc_get_cpubind(topology, bound, HWLOC_CPUBIND_PROCESS) != 0) hwloc_bitmap_copy(bound, allowed);
    hwloc_bitmap_and(bound, bound, allowed);
    return bound;
}

/* The node nearest to an object, as an index into out->nodes. */
static int node_of(hwloc_topology_t topology, hwloc_const_nodeset_t near, const struct facts *out) {
    for (unsigned i = 0; near && i < out->n_nodes; i++) {
        const hwloc_obj_t node = hwloc_get_obj_by_type(topology, HWLOC_OBJ_NUMANODE, i);
        if (node && hwloc_bitmap_isset(near, node->os_index)) return (int)i;
    }
    return FACTS_NO_NODE;
}

static void list_nodes(hwloc_topology_t topology, struct facts *out) {
    const int n = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE);
    for (int i = 0; i < n && i < FACTS_MAX_NODES; i++) {
        const hwloc_obj_t node = hwloc_get_obj_by_type(topology, HWLOC_OBJ_NUMANODE, (unsigned)i);
        out->nodes[out->n_nodes++].memory_bytes = node->attr->numanode.local_memory;
    }
}

/* One CPU a core, its first hardware thread that may be used. */
static void list_cores(hwloc_topology_t topology, hwloc_const_bitmap_t usable, struct facts *out) {
    for (hwloc_obj_t core = NULL; (core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)) != NULL;) {
        hwloc_bitmap_t mine = hwloc_bitmap_dup(core->cpuset);
        if (!mine) return;
        hwloc_bitmap_and(mine, mine, usable);
        const int cpu = hwloc_bitmap_first(mine), threads = hwloc_bitmap_weight(mine);
        hwloc_bitmap_free(mine);
        if (cpu < 0 || out->n_cores == FACTS_MAX_CORES) continue;
        const int node = node_of(topology, core->nodeset, out);
        out->core_cpus[out->n_cores] = cpu;
        out->core_node[out->n_cores++] = node < 0 ? 0 : node;
        out->n_threads += (unsigned)threads;
        if (out->n_nodes) out->nodes[node < 0 ? 0 : node].n_cores++;
    }
}

static void describe_packages(hwloc_topology_t topology, hwloc_const_bitmap_t usable, struct facts *out) {
    hwloc_obj_t package = NULL, first = NULL;
    while ((package = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PACKAGE, package)) != NULL) {
        if (!hwloc_bitmap_intersects(package->cpuset, usable)) continue;
        if (!first) first = package;
        out->n_packages++;
    }
    const hwloc_obj_t root = hwloc_get_root_obj(topology), l2 = hwloc_get_obj_by_type(topology, HWLOC_OBJ_L2CACHE, 0);
    const char *model = first ? hwloc_obj_get_info_by_name(first, "CPUModel") : NULL;
    facts_set_text(out->cpu, sizeof out->cpu, model ? model : hwloc_obj_get_info_by_name(root, "CPUModel"));
    if (l2) out->l2_bytes = l2->attr->cache.size;
    for (hwloc_obj_t l3 = NULL; (l3 = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_L3CACHE, l3)) != NULL;)
        if (!first || hwloc_bitmap_isincluded(l3->cpuset, first->cpuset)) out->l3_bytes += l3->attr->cache.size;
}

/* ---- drives and GPUs -------------------------------------------------------------------------------------------- */

static int device_node(hwloc_topology_t topology, hwloc_obj_t device, const struct facts *out) {
    const hwloc_obj_t near = hwloc_get_non_io_ancestor_obj(topology, device);
    if (!near || (near->parent == NULL && out->n_nodes > 1)) return FACTS_NO_NODE; /* near everything: near nothing */
    return node_of(topology, near->nodeset, out);
}

/* Built-in disks alone: what is plugged in and out must not change the machine's identity. A USB disk does not always say that
 * it is removable, but its place in sysfs does. NVMe with several paths is a virtual device. */
static bool is_built_in(const char *name) {
    char path[128], target[1024];
    if (strncmp(name, "nvme", 4) == 0) return true;
    snprintf(path, sizeof path, "/sys/class/block/%.64s", name);
    const ssize_t n = readlink(path, target, sizeof target - 1);
    if (n < 0) return false;
    target[n] = 0;
    return !strstr(target, "/usb") && !strstr(target, "/virtual/");
}

/* The last place stays free for the drive of a model that is none of these. */
static void list_drives(hwloc_topology_t topology, struct facts *out) {
    for (hwloc_obj_t o = NULL; (o = hwloc_get_next_osdev(topology, o)) != NULL;) {
        if (o->attr->osdev.type != HWLOC_OBJ_OSDEV_BLOCK || !o->name || !is_built_in(o->name)) continue;
        const char *kind = o->subtype ? o->subtype : "Other"; /* "Disk" only where udev says so */
        if (strcmp(kind, "Disk") != 0 && strcmp(kind, "Other") != 0) continue;
        if (out->n_drives == FACTS_MAX_DRIVES - 1) return;
        struct facts_drive *d = &out->drives[out->n_drives++];
        facts_set_text(d->name, sizeof d->name, o->name);
        facts_set_text(d->model, sizeof d->model, hwloc_obj_get_info_by_name(o, "Model"));
        d->node = device_node(topology, o, out);
    }
}

/* "Model: NVIDIA GeForce RTX 4060 Ti" of the kernel driver's text; false: no driver. */
static bool driver_gpu_name(const struct hwloc_pcidev_attr_s *pci, char *out, size_t size) {
    char path[96], line[256];
    bool found = false;
    snprintf(path, sizeof path, "/proc/driver/nvidia/gpus/%04x:%02x:%02x.%01x/information", (unsigned)pci->domain, pci->bus,
             pci->dev, pci->func);
    FILE *f = fopen(path, "re");
    if (!f) return false;
    while (!found && fgets(line, sizeof line, f))
        if ((found = strncmp(line, "Model:", 6) == 0)) facts_set_text(out, size, line + 6);
    fclose(f);
    return found && out[0];
}

/* Display controllers of the one vendor whose GPUs a kernel of ours can run on; a server's console adapter is none. */
static void list_gpus(hwloc_topology_t topology, struct facts *out) {
    enum { NVIDIA = 0x10de, DISPLAY = 0x03 };
    for (hwloc_obj_t o = NULL; (o = hwloc_get_next_pcidev(topology, o)) != NULL;) {
        const struct hwloc_pcidev_attr_s *pci = &o->attr->pcidev;
        if (pci->vendor_id != NVIDIA || pci->class_id >> 8 != DISPLAY || out->n_gpus == FACTS_MAX_GPUS) continue;
        struct facts_gpu *g = &out->gpus[out->n_gpus++];
        char id[32];
        snprintf(id, sizeof id, "NVIDIA %04x", pci->device_id);
        if (!driver_gpu_name(pci, g->name, sizeof g->name)) facts_set_text(g->name, sizeof g->name, id);
        g->node = device_node(topology, o, out);
    }
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

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

/* Where /proc is not mounted. */
static void ask_kernel(struct facts *out) {
    struct sysinfo info;
    if (sysinfo(&info) != 0) return;
    const uint64_t unit = info.mem_unit ? info.mem_unit : 1;
    if (out->memory_total_bytes == UINT64_MAX) out->memory_total_bytes = info.totalram * unit;
    if (out->memory_available_bytes == UINT64_MAX) out->memory_available_bytes = (info.freeram + info.bufferram) * unit;
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

/* Plugins that would open the GPU driver, which takes seconds and VRAM, to tell what PCI tells already; and the one that lists
 * PCI through libpciaccess, which leaks: without it hwloc reads sysfs. */
static void leave_out_plugins(hwloc_topology_t topology) {
    static const char *const components[] = {"pci", "cuda", "nvml", "opencl", "gl", "rsmi", "levelzero"};
    for (size_t i = 0; i < sizeof components / sizeof *components; i++)
        (void)hwloc_topology_set_components(topology, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, components[i]);
}

static enum err read_topology(struct facts *out, struct reason *why) {
    hwloc_topology_t topology;
    if (access("/sys/devices/system/cpu", R_OK) != 0) {
        list_cpus(out);
        return ERR_NONE;
    }
    if (hwloc_topology_init(&topology) != 0) return fail(why, ERR_NO_MEMORY, "hwloc could not start");
    leave_out_plugins(topology);
    hwloc_bitmap_t usable = NULL;
    enum err code = ERR_NONE;
    if (hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_IMPORTANT) != 0 ||
        hwloc_topology_load(topology) != 0)
        code = fail(why, ERR_IO, "hwloc could not read this machine's topology");
    else if (!(usable = usable_cpus(topology)))
        code = fail(why, ERR_NO_MEMORY, "no memory for this machine's topology");
    if (!code) {
        list_nodes(topology, out);
        list_cores(topology, usable, out);
        describe_packages(topology, usable, out);
        list_drives(topology, out);
        list_gpus(topology, out);
    }
    hwloc_bitmap_free(usable);
    hwloc_topology_destroy(topology);
    return code;
}

/* Every machine has a core, a hardware thread, a package and a node, whatever could be found out. */
static void fill_gaps(struct facts *out) {
    if (out->n_cores == 0) out->n_cores = 1; /* CPU 0; pinning that is refused leaves the thread unpinned */
    if (out->n_threads < out->n_cores) out->n_threads = out->n_cores;
    if (out->n_packages == 0) out->n_packages = 1;
    unsigned on_nodes = 0;
    for (unsigned i = 0; i < out->n_nodes; i++) on_nodes += out->nodes[i].n_cores;
    if (out->n_nodes == 0) out->nodes[out->n_nodes++].memory_bytes = out->memory_total_bytes;
    out->nodes[0].n_cores += out->n_cores - on_nodes;
}

enum err facts_read(struct facts *out, struct reason *why) {
    *out = (struct facts){.name = "this machine",
                          .memory_total_bytes = meminfo_bytes("MemTotal"),
                          .memory_available_bytes = meminfo_bytes("MemAvailable")};
    ask_kernel(out);
    const enum err code = read_topology(out, why);
    if (code) {
        *out = (struct facts){0};
        return code;
    }
    fill_gaps(out);
    clamp_to_cgroup(out, "", "memory.max");
    clamp_to_cgroup(out, "", "memory.high"); /* above it the kernel reclaims and stalls */
    clamp_to_cgroup(out, "memory", "memory.limit_in_bytes");
    struct rlimit address_space;
    if (getrlimit(RLIMIT_AS, &address_space) == 0 && address_space.rlim_cur != RLIM_INFINITY)
        clamp_to_limit(out, address_space.rlim_cur);
    return ERR_NONE;
}

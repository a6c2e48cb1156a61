/* Free memory of a card before this process has a context on it: asked from the driver's management library, which is loaded
 * only for the question, since the CUDA runtime cannot answer without making a context first. */
#include "gpu/driver_memory.h"

#include "gpu/cu.h"

#ifndef __CUDACC__

uint64_t driver_free_bytes(int index, uint64_t total_bytes) {
    (void)index;
    return total_bytes - ch_vram_used(); // the emulator's, which counts no context before the first use
}

#else

#include <dlfcn.h>

/* As NVML's reference describes its ABI: results are ints with 0 for success. */
typedef void *nvml_device;
struct nvml_memory {
    unsigned long long total, free, used;
};
typedef int nvml_init(void);
typedef int nvml_find(const char *bus_id, nvml_device *out);
typedef int nvml_memory_info(nvml_device device, struct nvml_memory *out);

static bool ask(void *library, const char *bus_id, struct nvml_memory *out) {
    nvml_init *init = (nvml_init *)dlsym(library, "nvmlInit_v2"), *shutdown = (nvml_init *)dlsym(library, "nvmlShutdown");
    nvml_find *find = (nvml_find *)dlsym(library, "nvmlDeviceGetHandleByPciBusId_v2");
    nvml_memory_info *memory_info = (nvml_memory_info *)dlsym(library, "nvmlDeviceGetMemoryInfo");
    nvml_device device;
    if (!init || !shutdown || !find || !memory_info || init() != 0) return false;
    const bool known = find(bus_id, &device) == 0 && memory_info(device, out) == 0;
    (void)shutdown();
    return known;
}

uint64_t driver_free_bytes(int index, uint64_t total_bytes) {
    char bus_id[32];
    struct nvml_memory m = {};
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return 0;
    const bool known = cudaDeviceGetPCIBusId(bus_id, (int)sizeof bus_id, index) == cudaSuccess && ask(library, bus_id, &m);
    (void)dlclose(library);
    // A part of a divided card (MIG) has the bus id of the whole: its numbers are not ours.
    return known && m.total < total_bytes + total_bytes / 16 ? m.free : 0;
}

#endif

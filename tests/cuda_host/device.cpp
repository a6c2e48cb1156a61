/* The made-up device: properties, errors, injected errors, attributes of kernels. */
#include "tests/cuda_host/internal.h"

#include <map>
#include <stdio.h>

static std::recursive_mutex big_lock;
static thread_local cudaError_t last_error;
static cudaError_t sticky_error;
static struct {
    const char *function;
    unsigned left;
    cudaError_t error;
    bool sticky;
} injection;
static std::map<const void *, size_t> dynamic_limits; // by kernel, where cudaFuncSetAttribute raised it

enum : size_t { SHARED_WITHOUT_ASKING = 48 << 10 };

/* ---- errors ----------------------------------------------------------------------------------------------------- */

const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
#define X(name, number, text) \
    case name:                \
        return #name;
        CH_ERRORS(X)
#undef X
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
#define X(name, number, text) \
    case name:                \
        return text;
        CH_ERRORS(X)
#undef X
    }
    return "unrecognized error code";
}

cudaError_t ch_fail(cudaError_t error) { return last_error = error; }
cudaError_t ch_sticky(void) { return sticky_error; }
void ch_make_sticky(cudaError_t error) { sticky_error = error; }

cudaError_t cudaPeekAtLastError(void) { return sticky_error != cudaSuccess ? sticky_error : last_error; }

cudaError_t cudaGetLastError(void) {
    const cudaError_t e = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return e;
}

void ch_inject_error(const char *function, unsigned nth, int error, bool sticky) {
    const std::lock_guard<std::recursive_mutex> hold(big_lock);
    injection = {function, error ? nth : 0, static_cast<cudaError_t>(error), sticky};
}

bool ch_take_injected(const char *name, cudaError_t *error) {
    if (!injection.left || (injection.function && strcmp(injection.function, name))) return false;
    if (--injection.left) return false;
    if (injection.sticky) sticky_error = injection.error;
    *error = injection.error;
    return true;
}

ch_api::ch_api(const char *name) : lock(big_lock), error(sticky_error) {
    if (error == cudaSuccess && strcmp(name, "cudaGetDeviceCount") && ch_settings.devices == 0) error = cudaErrorNoDevice;
    if (error == cudaSuccess) ch_take_injected(name, &error);
}

/* ---- device ----------------------------------------------------------------------------------------------------- */

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 0;
    CH_API();
    *count = ch_settings.devices;
    return *count ? cudaSuccess : ch_fail(cudaErrorNoDevice);
}

static bool no_such(int device) { return device < 0 || device >= ch_settings.devices; }

cudaError_t cudaSetDevice(int device) {
    CH_API();
    return no_such(device) || device ? ch_fail(cudaErrorInvalidDevice) : cudaSuccess; // memory is device 0's
}

cudaError_t cudaInitDevice(int device, unsigned, unsigned) { return cudaSetDevice(device); }

cudaError_t cudaGetDevice(int *device) {
    CH_API();
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned) {
    CH_API();
    return cudaSuccess;
}

cudaError_t cudaDeviceSetLimit(cudaLimit, size_t) {
    CH_API();
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device) {
    CH_API();
    if (no_such(device)) return ch_fail(cudaErrorInvalidDevice);
    memset(prop, 0, sizeof *prop);
    snprintf(prop->name, sizeof prop->name, "emulated device");
    memcpy(prop->uuid.bytes, "emulated device", 16);
    prop->totalGlobalMem = ch_settings.vram_bytes;
    prop->sharedMemPerBlock = SHARED_WITHOUT_ASKING;
    prop->regsPerBlock = prop->regsPerMultiprocessor = 65536;
    prop->warpSize = CH_WARP, prop->maxThreadsPerBlock = CH_MAX_THREADS;
    for (int i = 0; i < 3; i++) prop->maxThreadsDim[i] = i < 2 ? 1024 : 64, prop->maxGridSize[i] = i ? 65535 : 0x7fffffff;
    prop->major = ch_settings.major, prop->minor = ch_settings.minor;
    prop->multiProcessorCount = ch_settings.sms;
    prop->canMapHostMemory = prop->unifiedAddressing = 1;
    prop->pciBusID = 1, prop->memoryBusWidth = 128, prop->l2CacheSize = 4 << 20;
    prop->maxThreadsPerMultiProcessor = 1536;
    prop->sharedMemPerMultiprocessor = ch_settings.shared_optin_bytes + 1024;
    prop->sharedMemPerBlockOptin = ch_settings.shared_optin_bytes;
    prop->asyncEngineCount = 2;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    CH_API();
    if (no_such(device)) return ch_fail(cudaErrorInvalidDevice);
    const std::map<int, int> values = {
        {cudaDevAttrMaxThreadsPerBlock, CH_MAX_THREADS},
        {cudaDevAttrMaxSharedMemoryPerBlock, SHARED_WITHOUT_ASKING},
        {cudaDevAttrWarpSize, CH_WARP},
        {cudaDevAttrMaxRegistersPerBlock, 65536},
        {cudaDevAttrClockRate, 1000000},
        {cudaDevAttrMultiProcessorCount, ch_settings.sms},
        {cudaDevAttrKernelExecTimeout, 0},
        {cudaDevAttrIntegrated, 0},
        {cudaDevAttrCanMapHostMemory, 1},
        {cudaDevAttrMemoryClockRate, 1000000},
        {cudaDevAttrGlobalMemoryBusWidth, 128},
        {cudaDevAttrL2CacheSize, 4 << 20},
        {cudaDevAttrMaxThreadsPerMultiProcessor, 1536},
        {cudaDevAttrUnifiedAddressing, 1},
        {cudaDevAttrComputeCapabilityMajor, ch_settings.major},
        {cudaDevAttrComputeCapabilityMinor, ch_settings.minor},
        {cudaDevAttrMaxSharedMemoryPerMultiprocessor, static_cast<int>(ch_settings.shared_optin_bytes) + 1024},
        {cudaDevAttrMaxRegistersPerMultiprocessor, 65536},
        {cudaDevAttrCanUseHostPointerForRegisteredMem, 1},
        {cudaDevAttrMaxSharedMemoryPerBlockOptin, static_cast<int>(ch_settings.shared_optin_bytes)},
        {cudaDevAttrHostRegisterSupported, 1},
        {cudaDevAttrHostRegisterReadOnlySupported, 1},
    };
    const auto it = values.find(attribute);
    if (it == values.end()) return ch_fail(cudaErrorInvalidValue);
    *value = it->second;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int length, int device) {
    CH_API();
    if (no_such(device)) return ch_fail(cudaErrorInvalidDevice);
    snprintf(id, static_cast<size_t>(length), "0000:01:00.0");
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = ch_settings.devices ? CUDART_VERSION : 0;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDeviceReset(void) {
    const std::lock_guard<std::recursive_mutex> hold(big_lock);
    ch_drop_work();
    ch_forget_device_memory();
    sticky_error = last_error = cudaSuccess;
    dynamic_limits.clear();
    return cudaSuccess;
}

/* ---- kernels as things ------------------------------------------------------------------------------------------ */

size_t ch_dynamic_limit(const void *kernel) {
    const auto it = dynamic_limits.find(kernel);
    return it == dynamic_limits.end() ? SHARED_WITHOUT_ASKING : it->second;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value) {
    CH_API();
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || static_cast<size_t>(value) > ch_settings.shared_optin_bytes) return ch_fail(cudaErrorInvalidValue);
    dynamic_limits[kernel] = static_cast<size_t>(value);
    return cudaSuccess;
}

/* Registers and shared memory are known to nvcc alone: the compile report has them. */
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *kernel) {
    CH_API();
    *attributes = cudaFuncAttributes{};
    attributes->maxThreadsPerBlock = CH_MAX_THREADS;
    attributes->ptxVersion = attributes->binaryVersion = 10 * ch_settings.major + ch_settings.minor;
    attributes->maxDynamicSharedSizeBytes = static_cast<int>(ch_dynamic_limit(kernel));
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *, int block_size, size_t dynamic_bytes) {
    CH_API();
    if (block_size <= 0 || block_size > CH_MAX_THREADS) return ch_fail(cudaErrorInvalidValue);
    const size_t by_threads = 1536 / static_cast<size_t>(block_size);
    const size_t by_shared = (ch_settings.shared_optin_bytes + 1024) / (dynamic_bytes + 1024);
    *blocks = static_cast<int>(min(by_threads, by_shared));
    return cudaSuccess;
}

/* Device memory and pinned host memory.
 *
 * One reservation holds device memory first, then the device's view of pinned memory, which is mapped a second time for the host:
 * the two addresses differ, so that one used in place of the other is noticed. Addresses are given out once and never again.
 * Device memory is filled with 0xff and has red zones of 256 bytes, poisoned for ASan and canaries otherwise. */
#include "tests/cuda_host/internal.h"

#include <map>
#include <sys/mman.h>
#include <unistd.h>

enum : size_t { DEVICE_SPAN = size_t(16) << 30, PINNED_SPAN = size_t(8) << 30, RED_BYTES = 256, PAGE = 4096 };

struct allocation {
    size_t bytes, charged;
};
static char *device_base, *pinned_device, *pinned_host;
static int pinned_file = -1;
static size_t device_used, pinned_used;                               // of the address space
static std::map<uintptr_t, allocation> device_allocations, registered; // by first address
static std::map<uintptr_t, allocation> pinned_allocations;             // by device address
static size_t vram_used, vram_peak;
static int open_count;
static bool closed; // by the guard

/* ---- the reservation -------------------------------------------------------------------------------------------- */

static void reserve(void) {
    if (device_base) return;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *all = mmap(nullptr, DEVICE_SPAN + PINNED_SPAN, PROT_READ | PROT_WRITE, flags, -1, 0);
    pinned_file = memfd_create("cuda_host pinned", MFD_CLOEXEC);
    if (all == MAP_FAILED || pinned_file < 0 || ftruncate(pinned_file, PINNED_SPAN)) ch_report({}, "no address space for device memory");
    device_base = static_cast<char *>(all);
    const int shared = MAP_SHARED | MAP_NORESERVE;
    void *view = mmap(device_base + DEVICE_SPAN, PINNED_SPAN, PROT_READ | PROT_WRITE, shared | MAP_FIXED, pinned_file, 0);
    void *host = mmap(nullptr, PINNED_SPAN, PROT_READ | PROT_WRITE, shared, pinned_file, 0);
    if (view == MAP_FAILED || host == MAP_FAILED) ch_report({}, "no address space for pinned memory");
    pinned_device = static_cast<char *>(view), pinned_host = static_cast<char *>(host);
}

ch_span ch_global_span(void) {
    reserve();
    return ch_span{reinterpret_cast<uintptr_t>(device_base), DEVICE_SPAN + PINNED_SPAN};
}

/* The guard: device memory is closed to host code. Page tables are changed only over what was ever given out. */
static void protect(int protection) {
    const size_t bytes = (device_used + PAGE - 1) & ~(PAGE - 1);
    if (bytes && mprotect(device_base, bytes, protection)) ch_report({}, "cannot guard device memory");
}

ch_device_access::ch_device_access() {
    if (open_count++ == 0 && closed) protect(PROT_READ | PROT_WRITE), closed = false;
}
ch_device_access::~ch_device_access() {
    if (--open_count == 0 && ch_settings.guard) protect(PROT_NONE), closed = true;
}

/* ---- finding ---------------------------------------------------------------------------------------------------- */

static ch_range find_in(const std::map<uintptr_t, allocation> &all, uintptr_t at, ch_where where) {
    auto next = all.upper_bound(at);
    if (next != all.begin()) {
        const auto &[base, a] = *--next;
        if (at - base < a.bytes) return ch_range{where, base, a.bytes, nullptr};
    }
    return ch_range{CH_NOWHERE, 0, 0, nullptr};
}

static size_t offset_in(const void *p, const char *base) { return static_cast<size_t>(static_cast<const char *>(p) - base); }

ch_range ch_find(const void *p) {
    if (device_base && offset_in(p, device_base) < DEVICE_SPAN) {
        return find_in(device_allocations, reinterpret_cast<uintptr_t>(p), CH_DEVICE);
    }
    if (device_base && offset_in(p, pinned_device) < PINNED_SPAN) {
        return find_in(pinned_allocations, reinterpret_cast<uintptr_t>(p), CH_PINNED_DEVICE);
    }
    if (device_base && offset_in(p, pinned_host) < PINNED_SPAN) {
        const uintptr_t shift = reinterpret_cast<uintptr_t>(pinned_host) - reinterpret_cast<uintptr_t>(pinned_device);
        ch_range r = find_in(pinned_allocations, reinterpret_cast<uintptr_t>(p) - shift, CH_PINNED_HOST);
        if (r.where != CH_NOWHERE) r.base += shift;
        return r;
    }
    return find_in(registered, reinterpret_cast<uintptr_t>(p), CH_REGISTERED);
}

bool ch_in_device_space(const void *p) { return device_base && offset_in(p, device_base) < DEVICE_SPAN; }

bool ch_is_pinned(const void *p) {
    const ch_where where = ch_find(p).where;
    return where == CH_PINNED_HOST || where == CH_PINNED_DEVICE || where == CH_REGISTERED;
}

/* ---- device memory ---------------------------------------------------------------------------------------------- */

/* What an allocation takes away from cudaMemGetInfo's free bytes. */
static size_t charge(size_t bytes) {
    const size_t unit = bytes >= (1 << 20) ? 2 << 20 : 512;
    return (bytes + unit - 1) & ~(unit - 1);
}

static void paint_red(uintptr_t p, size_t bytes) {
    memset(reinterpret_cast<void *>(p), CH_CANARY, bytes);
    ASAN_POISON_MEMORY_REGION(reinterpret_cast<void *>(p), bytes);
}

cudaError_t cudaMalloc(void **p, size_t bytes) {
    CH_API();
    reserve();
    *p = nullptr;
    if (!bytes) return cudaSuccess;
    const size_t charged = charge(bytes);
    if (charged < bytes || vram_used + charged + ch_settings.context_bytes > ch_settings.vram_bytes) {
        return ch_fail(cudaErrorMemoryAllocation);
    }
    const size_t body = (bytes + 255) & ~size_t(255);
    if (body + 2 * RED_BYTES > DEVICE_SPAN - device_used) ch_report({}, "this process has used up the device's address space");
    char *base = device_base + device_used + RED_BYTES;
    const ch_device_access open; // before the span grows: what is new has never been closed
    device_used += body + 2 * RED_BYTES;
    const uintptr_t at = reinterpret_cast<uintptr_t>(base);
    paint_red(at - RED_BYTES, RED_BYTES);
    memset(base, 0xff, bytes);
    paint_red(at + bytes, body - bytes + RED_BYTES);
    device_allocations[at] = allocation{bytes, charged};
    ch_race_allocated(base, bytes, false);
    vram_used += charged;
    if (vram_used > vram_peak) vram_peak = vram_used;
    ch_counts.allocations++;
    *p = base;
    return cudaSuccess;
}

__attribute__((no_sanitize("address"))) static bool intact(uintptr_t p, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        if (reinterpret_cast<const volatile unsigned char *>(p)[i] != CH_CANARY) return false;
    }
    return true;
}

static void check_red_zones(uintptr_t base, size_t bytes) {
    const size_t body = (bytes + 255) & ~size_t(255);
    if (!intact(base - RED_BYTES, RED_BYTES)) ch_report({}, "something wrote before the %zu bytes of device memory at %p", bytes, (void *)base);
    if (!intact(base + bytes, body - bytes + RED_BYTES)) {
        ch_report({}, "something wrote past the %zu bytes of device memory at %p", bytes, (void *)base);
    }
}

void ch_check_red_zones(void) {
    const ch_device_access open;
    for (const auto &[base, a] : device_allocations) check_red_zones(base, a.bytes);
}

/* Frees: the addresses stay unused, whole pages go back to the system. */
static void release(uintptr_t base, allocation a) {
    check_red_zones(base, a.bytes);
    void *p = reinterpret_cast<void *>(base);
    memset(p, 0xff, a.bytes);
    ASAN_POISON_MEMORY_REGION(p, a.bytes);
    ch_race_freed(p, a.bytes);
    const uintptr_t from = (base + PAGE - 1) & ~(PAGE - 1), to = (base + a.bytes) & ~(PAGE - 1);
    if (to > from) madvise(reinterpret_cast<void *>(from), to - from, MADV_DONTNEED);
    vram_used -= a.charged;
}

cudaError_t cudaFree(void *p) {
    CH_API();
    if (!p) return cudaSuccess;
    cudaDeviceSynchronize(); // as CUDA does
    const auto it = device_allocations.find(reinterpret_cast<uintptr_t>(p));
    if (it == device_allocations.end()) return ch_fail(cudaErrorInvalidValue);
    const ch_device_access open;
    release(it->first, it->second);
    device_allocations.erase(it);
    return cudaSuccess;
}

void ch_forget_device_memory(void) {
    const ch_device_access open;
    for (const auto &[base, a] : device_allocations) release(base, a);
    device_allocations.clear();
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    CH_API();
    const size_t gone = vram_used + ch_settings.context_bytes;
    *total_bytes = ch_settings.vram_bytes;
    *free_bytes = gone < ch_settings.vram_bytes ? ch_settings.vram_bytes - gone : 0;
    return cudaSuccess;
}

size_t ch_vram_used(void) { return vram_used; }
size_t ch_vram_peak(void) { return vram_peak; }

void ch_reset_counters(void) {
    ch_counts = ch_counters{};
    vram_peak = vram_used;
}

/* ---- pinned memory ---------------------------------------------------------------------------------------------- */

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned) {
    CH_API();
    reserve();
    *p = nullptr;
    if (!bytes) return cudaSuccess;
    const size_t body = (bytes + PAGE - 1) & ~(PAGE - 1);
    if (body < bytes || body + PAGE > PINNED_SPAN - pinned_used) return ch_fail(cudaErrorMemoryAllocation);
    const size_t offset = pinned_used;
    pinned_used += body + PAGE;
    pinned_allocations[reinterpret_cast<uintptr_t>(pinned_device + offset)] = allocation{bytes, body};
    ASAN_POISON_MEMORY_REGION(pinned_device + offset + bytes, body - bytes + PAGE);
    ASAN_POISON_MEMORY_REGION(pinned_host + offset + bytes, body - bytes + PAGE);
    ch_race_allocated(pinned_device + offset, bytes, true); // the host's writes are not seen: all of it counts as written
    *p = pinned_host + offset;
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes) { return cudaHostAlloc(p, bytes, cudaHostAllocDefault); }

cudaError_t cudaFreeHost(void *p) {
    CH_API();
    if (!p) return cudaSuccess;
    cudaDeviceSynchronize();
    const ch_range r = ch_find(p);
    if (r.where != CH_PINNED_HOST || r.base != reinterpret_cast<uintptr_t>(p)) return ch_fail(cudaErrorInvalidValue);
    const size_t offset = offset_in(p, pinned_host), body = (r.bytes + PAGE - 1) & ~(PAGE - 1);
    pinned_allocations.erase(reinterpret_cast<uintptr_t>(pinned_device + offset));
    ch_race_freed(pinned_device + offset, r.bytes);
    madvise(pinned_host + offset, body, MADV_REMOVE);
    ASAN_POISON_MEMORY_REGION(pinned_device + offset, body);
    ASAN_POISON_MEMORY_REGION(pinned_host + offset, body);
    return cudaSuccess;
}

cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned) {
    CH_API();
    if (!p || !bytes) return ch_fail(cudaErrorInvalidValue);
    if (ch_find(p).where != CH_NOWHERE) return ch_fail(cudaErrorHostMemoryAlreadyRegistered);
    registered[reinterpret_cast<uintptr_t>(p)] = allocation{bytes, 0};
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *p) {
    CH_API();
    cudaDeviceSynchronize();
    return registered.erase(reinterpret_cast<uintptr_t>(p)) ? cudaSuccess : ch_fail(cudaErrorHostMemoryNotRegistered);
}

/* Pinned memory has another address on the device; registered memory keeps its own. */
cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned) {
    CH_API();
    const ch_where where = ch_find(host).where;
    *device = where == CH_REGISTERED ? host : where == CH_PINNED_HOST ? pinned_device + offset_in(host, pinned_host) : nullptr;
    return *device ? cudaSuccess : ch_fail(cudaErrorInvalidValue);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *p) {
    CH_API();
    *attributes = cudaPointerAttributes{cudaMemoryTypeUnregistered, 0, nullptr, nullptr};
    void *at = const_cast<void *>(p);
    switch (ch_find(p).where) {
    case CH_DEVICE:
        *attributes = cudaPointerAttributes{cudaMemoryTypeDevice, 0, at, nullptr};
        break;
    case CH_PINNED_HOST:
        *attributes = cudaPointerAttributes{cudaMemoryTypeHost, 0, pinned_device + offset_in(p, pinned_host), at};
        break;
    case CH_PINNED_DEVICE:
        *attributes = cudaPointerAttributes{cudaMemoryTypeHost, 0, at, pinned_host + offset_in(p, pinned_device)};
        break;
    case CH_REGISTERED:
        *attributes = cudaPointerAttributes{cudaMemoryTypeHost, 0, at, at};
        break;
    default:
        break;
    }
    return cudaSuccess;
}

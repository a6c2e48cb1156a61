/* CUDA C++ as a host compiler sees it: gpu/cu.h includes this where nvcc is not the compiler. Kernels run on the CPU, exactly and
 * slowly; races, divergence, lost barriers and out-of-bounds accesses are found. README.md beside this says how to use it.
 *
 * Owns the launch: arguments are copied with the kernel's own parameter types when LAUNCH is reached, as CUDA does. */
#ifndef COLDSTREAM_CUDA_HOST_H
#define COLDSTREAM_CUDA_HOST_H

#include <tuple>
#include <utility>

#include "tests/cuda_host/api.h"
#include "tests/cuda_host/control.h"
#include "tests/cuda_host/kernel.h"

/* One launch, with frozen arguments; run() is one thread's call of the kernel. */
struct ch_call {
    const char *name;
    const void *kernel;
    dim3 grid, block;
    size_t dynamic_bytes, object_bytes;
    virtual void run() const = 0;
    virtual ~ch_call() = default;
};

template <class... P> struct ch_call_of final : ch_call {
    void (*function)(P...);
    std::tuple<P...> args;
    template <class... A> ch_call_of(void (*f)(P...), A &&...a) : function(f), args(static_cast<P>(a)...) {}
    void run() const override { std::apply(function, args); }
};

/* Takes the call over. */
void ch_enqueue_launch(ch_call *call, cudaStream_t stream);

template <class... P, class... A>
void ch_launch(void (*kernel)(P...), const char *name, dim3 grid, dim3 block, size_t dynamic_bytes, cudaStream_t stream, A &&...args) {
    ch_call *call = new ch_call_of<P...>(kernel, std::forward<A>(args)...);
    call->name = name, call->kernel = (const void *)kernel, call->grid = grid, call->block = block;
    call->dynamic_bytes = dynamic_bytes, call->object_bytes = sizeof(ch_call_of<P...>);
    ch_enqueue_launch(call, stream);
}

#define LAUNCH(kernel, grid, block, smem, stream, ...) \
    ch_launch((kernel), #kernel, (grid), (block), (smem), (stream), ##__VA_ARGS__)
#define LAUNCH_PDL LAUNCH

#endif

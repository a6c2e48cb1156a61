/* Fibers: 1024 stacks with guard pages, made once and used again. On x86-64 the switch saves what the calling convention says a
 * function must keep and nothing else (15 ns; swapcontext saves the signal mask by system calls: 350). */
#include "tests/cuda_host/internal.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

enum : size_t { STACK_BYTES = 256 << 10, GUARD_BYTES = 64 << 10, TOP_BYTES = 4096 };

static char *stacks; // [CH_MAX_THREADS] of guard, stack

static void *take_stack(void) {
    static size_t used;
    const size_t each = STACK_BYTES + GUARD_BYTES;
    if (!stacks) {
        void *p = mmap(nullptr, each * CH_MAX_THREADS, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) ch_report({}, "no address space for the threads' stacks");
        stacks = static_cast<char *>(p);
    }
    char *stack = stacks + each * used++ + GUARD_BYTES;
    if (mprotect(stack, STACK_BYTES, PROT_READ | PROT_WRITE)) ch_report({}, "no memory for a thread's stack");
    return stack;
}

bool ch_on_fiber_stack(const void *p) {
    return stacks && static_cast<size_t>(static_cast<const char *>(p) - stacks) < (STACK_BYTES + GUARD_BYTES) * CH_MAX_THREADS;
}

#if defined(__x86_64__)

extern "C" void ch_fiber_swap(void **save_sp, void *load_sp);
asm(R"(
    .text
    .type ch_fiber_swap, @function
ch_fiber_swap:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size ch_fiber_swap, . - ch_fiber_swap
)");

static void set_start(ch_fiber *f, void (*entry)(void)) {
    // From the top: a return address nobody uses (so that rsp % 16 == 8 at entry, as after a call), entry, six registers.
    void **top = reinterpret_cast<void **>(static_cast<char *>(f->stack) + STACK_BYTES);
    *--top = nullptr;
    *--top = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    f->sp = top;
}

static void swap_to(ch_fiber *from, ch_fiber *to) { ch_fiber_swap(&from->sp, to->sp); }

#else

static void set_start(ch_fiber *f, void (*entry)(void)) {
    if (!f->sp) f->sp = new ucontext_t;
    ucontext_t *context = static_cast<ucontext_t *>(f->sp);
    getcontext(context);
    context->uc_stack.ss_sp = f->stack;
    context->uc_stack.ss_size = STACK_BYTES;
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
}

static void swap_to(ch_fiber *from, ch_fiber *to) {
    if (!from->sp) from->sp = new ucontext_t;
    swapcontext(static_cast<ucontext_t *>(from->sp), static_cast<ucontext_t *>(to->sp));
}

#endif

void ch_fiber_prepare(ch_fiber *f, void (*entry)(void)) {
    if (!f->stack) f->stack = take_stack(), f->stack_bytes = STACK_BYTES;
    // The last frames of the thread before never returned: their poison is still there.
    ASAN_UNPOISON_MEMORY_REGION(static_cast<char *>(f->stack) + STACK_BYTES - TOP_BYTES, TOP_BYTES);
    set_start(f, entry);
}

__attribute__((no_sanitize("address"))) void ch_fiber_switch(ch_fiber *from, ch_fiber *to, bool last) {
#if CH_ASAN
    __sanitizer_start_switch_fiber(last ? nullptr : &from->fake_stack, to->stack, to->stack_bytes);
#else
    (void)last;
#endif
    swap_to(from, to);
#if CH_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

__attribute__((no_sanitize("address"))) void ch_fiber_started(void) {
#if CH_ASAN
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

void ch_fiber_of_os_thread(ch_fiber *f) {
#if CH_ASAN
    static thread_local void *stack;
    static thread_local size_t bytes;
    if (!stack) {
        pthread_attr_t attributes;
        if (pthread_getattr_np(pthread_self(), &attributes)) ch_report({}, "cannot ask for this thread's stack");
        pthread_attr_getstack(&attributes, &stack, &bytes);
        pthread_attr_destroy(&attributes);
    }
    f->stack = stack, f->stack_bytes = bytes;
#else
    (void)f;
#endif
}

/* Children of tests. in_child() uses cmocka's assertions, so it may only be called from tests. */
#include "tests/support/check.h"

#include "tests/support/child.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

void in_child(int (*fn)(int), int argument) {
    fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) _exit(fn(argument));
    int status = 0;
    while (waitpid(pid, &status, 0) < 0) assert_int_equal(errno, EINTR);
    if (!WIFEXITED(status)) fail_test("the child ended with signal %d", WTERMSIG(status));
    if (WEXITSTATUS(status) == CHILD_SKIPPED) skip();
    assert_int_equal(WEXITSTATUS(status), CHILD_OK);
}

int complain(const char *what, const char *detail) {
    fprintf(stderr, "  in the child: %s: %s\n", what, detail);
    return CHILD_WRONG;
}

int deny_call(unsigned call, int error) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof code / sizeof *code, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        fprintf(stderr, "  SKIP: seccomp filters are not permitted: %s\n", strerror(errno));
        return CHILD_SKIPPED;
    }
    return CHILD_OK;
}

int limit_locked_memory(int kib) {
    const struct rlimit limit = {(rlim_t)kib << 10, (rlim_t)kib << 10};
    if (setrlimit(RLIMIT_MEMLOCK, &limit)) return complain("setrlimit", strerror(errno));
    if (getuid() == 0 && (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534)))
        fprintf(stderr, "  cannot become an ordinary user: %s\n", strerror(errno));
    return CHILD_OK;
}

int limit_descriptors(int spare) {
    const int next = dup(0);
    if (next < 0) return complain("dup", strerror(errno));
    close(next);
    const struct rlimit limit = {(rlim_t)(next + spare), (rlim_t)(next + spare)};
    return setrlimit(RLIMIT_NOFILE, &limit) ? complain("setrlimit", strerror(errno)) : CHILD_OK;
}

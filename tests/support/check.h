/* cmocka with the headers it needs, less its macro `fail`, which is our function for reasons, and `fail_msg`, which is built
 * on it: use fail_test(). Include it first. */
#ifndef COLDSTREAM_CHECK_H
#define COLDSTREAM_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#include <cmocka.h>
#ifdef __cplusplus
}
#endif
#undef fail
#undef fail_msg

/* End this test as failed, with a printf-style message. */
#define fail_test(...)                \
    do {                              \
        print_error(__VA_ARGS__);     \
        print_error("\n");            \
        _fail(__FILE__, __LINE__);    \
    } while (0)

#endif

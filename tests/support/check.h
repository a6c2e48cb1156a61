/* cmocka with the headers it needs, less its macro `fail`, which is our function for reasons. Include it first. */
#ifndef COLDSTREAM_CHECK_H
#define COLDSTREAM_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail

#endif

/* What must not happen to the test's own process, such as losing system calls, in a child. */
#ifndef COLDSTREAM_TESTS_CHILD_H
#define COLDSTREAM_TESTS_CHILD_H

enum { CHILD_OK = 0, CHILD_WRONG = 1, CHILD_SKIPPED = 2 };

/* Runs `fn` in a child, which must not use cmocka's assertions: it says what was wrong by complain(). */
void in_child(int (*fn)(int), int argument);
int complain(const char *what, const char *detail); /* on stderr; CHILD_WRONG */

/* From here on, in this child; what they return, if not CHILD_OK, is for the child to end with. */
int deny_call(unsigned call, int error); /* a system call fails with errno `error`; CHILD_SKIPPED where that cannot be had */
int limit_locked_memory(int kib);        /* as an ordinary user, since root is exempt */
int limit_descriptors(int spare);        /* as many may still be opened */

#endif

/* Judging refusals: opens a broken file in both modes and checks result, message, position, time and memory. The file is
 * made from `raw`, which a test edits first. */
#ifndef COLDSTREAM_TESTS_REFUSE_H
#define COLDSTREAM_TESTS_REFUSE_H

#include "tests/support/check.h"

#include "model/model.h"
#include "tests/support/gguf_raw.h"

#define TOP UINT64_MAX
#define MIB ((uint64_t)1 << 20)
#define COUNT(array) (sizeof(array) / sizeof *(array))

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 }; /* GGUF value types */

extern struct raw_gguf raw;   /* a fresh raw_tiny() at the start of each test */
extern char refuse_folder[];  /* a directory of this run's own */
extern char refuse_path[128]; /* refuse_folder/bad.gguf */

/* cmocka fixtures. Tearing down fails when a descriptor was left open; dropping the folder, when something was left in it: the
 * reader must write nothing. */
int refuse_setup(void **state);
int refuse_teardown(void **state);
int refuse_make_folder(void **state);
int refuse_drop_folder(void **state);
#define GROUP(test) cmocka_unit_test_setup_teardown(test, refuse_setup, refuse_teardown)

void fresh(void); /* raw_tiny() again */
void write_raw(void);
/* `raw`'s directory, then a hole: the file is `bytes_total` long. False, with a note, where there is no room. */
bool write_raw_sparse(uint64_t bytes_total);
void write_bytes(const void *bytes, size_t len);
struct text repeated(const char *piece, size_t times);

/* model_open() in less than a second of CPU time and 64 MiB of memory. */
enum err measured_open(const char *file, bool need_weights, struct model **m, struct reason *why);
/* One clean line with the file's name, `item` and `problem`; its position within [low, high) unless high is 0. */
void judge(const struct reason *why, const char *file, const char *item, const char *problem, uint64_t low, uint64_t high);
/* Refused (with weights, and without unless told otherwise), and judged. */
void refuse_file(const char *file, bool even_without_weights, const char *item, const char *problem, uint64_t low,
                 uint64_t high);
void accept_file(const char *file);

/* The same for `raw` as it is now. */
void accept_raw(void);
void refuse_header(const char *problem);
void refuse_record(struct raw_key *key, const char *problem); /* the record is at fault; its name may be unprintable */
void refuse_key(const char *name, const char *problem);
void refuse_without_key(const char *name, const char *problem);
void refuse_tensor_record(const struct raw_tensor *t, const char *item, const char *problem);
void refuse_tensor(const char *name, const char *problem);
void refuse_without_tensor(const char *name);

/* One key with one wrong scalar (`bits`: its little-endian payload), all else right. */
struct bad_value {
    const char *key;
    uint32_t type;
    uint64_t bits;
    const char *problem;
};
void refuse_values(const struct bad_value *values, size_t n);

#endif

/* libFuzzer target: a file of importance, GGUF or .dat. What is accepted has sane values, gives importance, adds up with
 * itself, and is written so that it reads back. */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/imatrix.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_importance(const struct imatrix_entry *e) {
    assert(e->name[0] && e->columns && e->matrices);
    float *out = calloc(e->columns, sizeof *out);
    assert(out);
    for (uint64_t x = 0; x < e->matrices && x < 8; x++) {
        imatrix_importance(e, e->columns, e->matrices, x, out);
        for (uint64_t c = 0; c < e->columns; c++) assert(!isnan(out[c]) && out[c] >= 0);
    }
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[] = "/tmp/fuzz_imatrix_XXXXXX";
    const int fd = mkstemp(path);
    assert(fd >= 0);
    assert(write(fd, data, size) == (ssize_t)size);
    close(fd);
    struct imatrix m, again, sum = {0};
    struct reason why = {""};
    if (imatrix_read(path, &m, &why) != ERR_NONE) {
        assert(why.text[0] && !m.n && !m.entries && !m.datasets);
        unlink(path);
        return 0;
    }
    for (size_t i = 0; i < m.n; i++) check_importance(m.entries[i]);
    enum err code = imatrix_merge(&sum, &m, &why);
    if (!code) code = imatrix_merge(&sum, &m, &why);
    assert(code == ERR_NONE && sum.n == m.n);
    if (imatrix_write_gguf(&m, path, &why) == ERR_NONE) { /* a name may be too long for GGUF */
        code = imatrix_read(path, &again, &why);
        assert(code == ERR_NONE && again.n == m.n);
        imatrix_close(&again);
    }
    imatrix_close(&sum);
    imatrix_close(&m);
    unlink(path);
    return 0;
}

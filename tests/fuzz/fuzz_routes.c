/* libFuzzer target: bytes as a routes file. What is accepted is within its own bounds and is written as the same bytes. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "placement/routes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct routes r;
    struct text bytes = {0};
    if (routes_parse((struct span){(const char *)data, size}, &r, NULL) != ERR_NONE) return 0;
    const size_t n = (size_t)r.n_tokens * r.n_layers * r.n_used;
    for (size_t i = 0; i < n; i++) {
        assert(r.chosen[i] < r.n_experts);
        assert(!r.expected || r.expected[i] < r.n_experts || r.expected[i] == ROUTES_NOTHING);
    }
    routes_write(&r, &bytes);
    assert(bytes.len == size && memcmp(bytes.ptr, data, size) == 0);
    text_free(&bytes);
    routes_close(&r);
    return 0;
}

/* Reads reference data line by line. Uses cmocka's assertions, so it may only be called from tests. */
#include "tests/support/check.h"

#include "tests/support/jsonl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t jsonl_each(const char *path, void (*each)(const json_t *line, void *ctx), void *ctx) {
    FILE *const file = fopen(path, "r");
    if (!file) return 0;
    char *line = NULL;
    size_t cap = 0, n = 0;
    for (ssize_t len; (len = getline(&line, &cap, file)) > 0;) {
        json_t *value;
        struct reason why = {""};
        n++;
        if (json_read((struct span){line, (size_t)len}, &value, &why) != ERR_NONE) fail_test("%s:%zu: %s", path, n, why.text);
        each(value, ctx);
        json_decref(value);
    }
    free(line);
    fclose(file);
    return n;
}

struct span jsonl_text(const json_t *object, const char *key) {
    struct span s;
    if (!json_span(json_object_get(object, key), &s)) fail_test("no string \"%s\" in a reference line", key);
    return s;
}

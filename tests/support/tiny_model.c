/* Tiny models in temporary folders. */
#include "tests/support/check.h"

#include "tests/support/tiny_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FOLDER "/tiny_model_XXXXXX"
#define NAME "/tiny.gguf"

struct synth_spec tiny_model_spec(void) {
    struct synth_spec spec;
    assert_true(synth_preset(SPAN("tiny"), &spec));
    return spec;
}

char *tiny_model_write(const struct synth_spec *spec) { return tiny_model_write_in("/tmp", spec); }

char *tiny_model_write_in(const char *folder, const struct synth_spec *spec) {
    const struct synth_spec preset = tiny_model_spec();
    char *path = malloc(strlen(folder) + sizeof FOLDER + sizeof NAME);
    struct reason why;
    assert_non_null(path);
    strcpy(path, folder);
    strcat(path, FOLDER);
    assert_non_null(mkdtemp(path));
    strcat(path, NAME);
    if (synth_write(path, spec ? spec : &preset, NULL, &why) != ERR_NONE) fail_test("%s", why.text);
    return path;
}

void tiny_model_remove(char *path) {
    unlink(path);
    path[strlen(path) - strlen(NAME)] = 0;
    rmdir(path);
    free(path);
}

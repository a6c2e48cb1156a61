/* The directory that tests of refusals fill. */
#include "tests/support/refuse_dir.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

struct raw_hf hf;

int refuse_dir_setup(void **state) {
    if (refuse_setup(state) != 0) return -1;
    snprintf(hf.folder, sizeof hf.folder, "%s/checkpoint", refuse_folder);
    if (mkdir(hf.folder, 0700) != 0) return -1;
    raw_hf_dense(&hf);
    return 0;
}

int refuse_dir_teardown(void **state) {
    raw_hf_clear(&hf);
    raw_hf_free(&hf);
    return rmdir(hf.folder) | refuse_teardown(state);
}

/* Synthetic models as directories of safetensors, as checkpoints are published: BF16, or EXL3 with random trellises. The same
 * geometry and deviations as synth_model.h's. */
#ifndef COLDSTREAM_TESTS_SYNTH_DIR_H
#define COLDSTREAM_TESTS_SYNTH_DIR_H

#include "tests/support/synth_model.h"

struct synth_dir {
    const struct synth_spec *spec; /* its mix, types and tokenizer are not looked at */
    uint32_t bits;                 /* of an EXL3 expert's weight; attention has two more, 8 at most, the head 6; 0: BF16 */
    const char *tokenizer;         /* a tokenizer.json to copy; NULL: none, and 512 rows of vocabulary unless the spec says how many */
    uint32_t layers_a_shard;       /* 0: 12 */
};

/* Makes the folder and writes it. EXL3: every extent but the vocabulary's has to be a multiple of 128. `progress` may be NULL. */
enum err synth_dir_write(const char *folder, const struct synth_dir *dir, const struct synth_progress *progress, struct reason *why) MUST_USE;
/* Removes what synth_dir_write() made, and whatever else lies there. */
void synth_dir_remove(const char *folder);

#endif

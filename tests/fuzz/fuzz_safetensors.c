/* libFuzzer target: any bytes as the files of a model directory, opened with and without weights, and then walked to the end.
 *
 * The input is a list of records: one byte for the file, u32 length, u32 zeros to follow, the bytes. "Header" records get the 8
 * bytes of length that a safetensors file begins with, so that mutations of the JSON stay a file. Without a config.json of its
 * own an input gets one that fits the corpus. Unknown file bytes are taken modulo the table, so that most mutations mean
 * something. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/model_walk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
__attribute__((weak)) size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size); /* absent in the replay */

enum { RECORD_BYTES = 9 }; /* in front of a record's bytes */

static const struct {
    const char *name;
    bool header;
} files[] = {
    {"config.json", false},
    {"model.safetensors", true},
    {"model.safetensors", false},
    {"model-00002-of-00002.safetensors", true},
    {"tokenizer.json", false},
    {"tokenizer_config.json", false},
    {"generation_config.json", false},
    {"model.safetensors.index.json", false},
    {"chat_template.jinja", false},
};
enum { N_FILES = sizeof files / sizeof *files, MAX_ZEROS = 1 << 16 };

static const char config[] =
    "{\"architectures\":[\"Qwen3MoeForCausalLM\"],\"hidden_size\":4,\"num_hidden_layers\":1,\"num_attention_heads\":1,"
    "\"num_key_value_heads\":1,\"head_dim\":4,\"num_experts\":2,\"num_experts_per_tok\":1,"
    "\"moe_intermediate_size\":2,\"vocab_size\":3,\"max_position_embeddings\":9,\"rms_norm_eps\":1e-6,"
    "\"rope_theta\":1e6,\"norm_topk_prob\":true}";

/* ---- the directory ----------------------------------------------------------------------------------------------------- */

static char folder[] = "/tmp/fuzz_safetensors_XXXXXX"; /* made at the first input */

static void path_of(const char *name, char *out, size_t size) { snprintf(out, size, "%s/%s", folder, name); }

static void empty_folder(void) {
    for (int i = 0; i < N_FILES; i++) {
        char path[128];
        path_of(files[i].name, path, sizeof path);
        unlink(path);
    }
}

static void remove_folder(void) {
    empty_folder();
    rmdir(folder);
}

static void put(int which, const uint8_t *bytes, size_t len, size_t zeros) {
    char path[128];
    path_of(files[which].name, path, sizeof path);
    FILE *file = fopen(path, "wb");
    assert(file);
    const uint64_t length = len;
    size_t written = files[which].header ? fwrite(&length, 1, sizeof length, file) - sizeof length : 0;
    written += len ? fwrite(bytes, 1, len, file) : 0;
    assert(written == len && fflush(file) == 0);
    assert(ftruncate(fileno(file), (off_t)(len + zeros + (files[which].header ? sizeof length : 0))) == 0);
    fclose(file);
}

static void write_folder(const uint8_t *data, size_t size) {
    put(0, (const uint8_t *)config, sizeof config - 1, 0);
    while (size >= RECORD_BYTES) {
        uint32_t len, zeros;
        memcpy(&len, data + 1, sizeof len);
        memcpy(&zeros, data + 5, sizeof zeros);
        const int which = data[0] % N_FILES;
        data += RECORD_BYTES;
        size -= RECORD_BYTES;
        if (len > size) len = (uint32_t)size;
        put(which, data, len, zeros % (MAX_ZEROS + 1));
        data += len;
        size -= len;
    }
}

/* ---- mutating numbers and strings -------------------------------------------------------------------------------------- */

struct part {
    size_t at, len;
};

/* Where some record's bytes are. */
static bool pick_record(const uint8_t *data, size_t size, uint64_t random, struct part *out) {
    struct part records[32];
    size_t n = 0;
    for (size_t at = 0; size - at >= RECORD_BYTES && n < 32;) {
        uint32_t len;
        memcpy(&len, data + at + 1, sizeof len);
        at += RECORD_BYTES;
        records[n] = (struct part){at, len < size - at ? len : size - at};
        at += records[n++].len;
    }
    if (n) *out = records[random % n];
    return n && out->len;
}

static bool is_digit(uint8_t c) { return c >= '0' && c <= '9'; }

/* A number or the inside of a quoted string, the first one from a random place on. */
static bool pick_token(const uint8_t *data, struct part in, bool number, uint64_t random, struct part *out) {
    size_t from = in.at + random % in.len;
    const size_t end = in.at + in.len;
    while (from < end && !(number ? is_digit(data[from]) : data[from] == '"')) from++;
    if (!number) from++;
    size_t to = from;
    while (to < end && (number ? is_digit(data[to]) : data[to] != '"')) to++;
    *out = (struct part){from, to - from};
    return to < end;
}

/* Puts `len` bytes in the place of a part of a record, and corrects the record's length. */
static size_t splice(uint8_t *data, size_t size, size_t max_size, struct part record, struct part old, const char *text,
                     size_t len) {
    if (size - old.len + len > max_size) return size;
    memmove(data + old.at + len, data + old.at + old.len, size - old.at - old.len);
    memcpy(data + old.at, text, len);
    const uint32_t record_len = (uint32_t)(record.len - old.len + len);
    memcpy(data + record.at - RECORD_BYTES + 1, &record_len, sizeof record_len);
    return size - old.len + len;
}

static uint64_t interesting(uint64_t old, uint64_t *state) {
    static const uint8_t powers[] = {0, 1, 2, 3, 4, 7, 8, 11, 12, 15, 16, 31, 32, 60, 61, 62, 63};
    const uint64_t r = next_mutation(state), near = r % 5 - 2;
    switch (r >> 8 & 3) {
    case 0: return old + near;
    case 1: return ((uint64_t)1 << powers[(r >> 16) % sizeof powers]) + near;
    case 2: return r >> 16 & 1 ? old * 2 : old / 2;
    default: return r >> 16 & 15;
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    uint64_t state = seed;
    const uint64_t choice = next_mutation(&state) % 8;
    struct part record, old, other;
    char text[256];
    if (choice < 2 || !pick_record(data, size, next_mutation(&state), &record)) return LLVMFuzzerMutate(data, size, max_size);
    const bool number = choice < 6;
    if (!pick_token(data, record, number, next_mutation(&state), &old)) return LLVMFuzzerMutate(data, size, max_size);
    if (number) {
        memset(text, 0, 32);
        memcpy(text, data + old.at, old.len < 31 ? old.len : 31);
        const int len = snprintf(text, sizeof text, "%llu", (unsigned long long)interesting(strtoull(text, NULL, 10), &state));
        return splice(data, size, max_size, record, old, text, (size_t)len);
    }
    if (!pick_token(data, record, false, next_mutation(&state), &other) || other.len > sizeof text) return size;
    memcpy(text, data + other.at, other.len);
    return splice(data, size, max_size, record, old, text, other.len);
}

/* ---- the target -------------------------------------------------------------------------------------------------------- */

static void check_tensor(const struct model *m, const struct model_tensor *t) {
    assert(t->ne[3] == 1);
    for (uint64_t i = 0; i < t->ne[2]; i++) {
        const struct model_slice at = model_slice_of(t, i);
        assert(at.file < m->n_files && at.offset <= m->files[at.file].bytes);
        const uint64_t row_bytes = model_slice_row_bytes(t, at);
        assert(row_bytes <= t->row_bytes && row_bytes * t->ne[1] <= m->files[at.file].bytes - at.offset);
    }
    const bool exl3 = t->type >= TYPE_EXL3_1 && t->type <= TYPE_EXL3_8;
    assert(exl3 == (t->in_scale != NULL) && exl3 == (t->out_scale != NULL) && t->codebook <= EXL3_MUL1);
    if (!exl3) return;
    assert(t->ne[0] % 128 == 0 && t->ne[1] % 128 == 0);
    const struct model_tensor *const scales[] = {t->in_scale, t->out_scale};
    for (int i = 0; i < 2; i++) {
        assert(scales[i] >= m->tensors && scales[i] < m->tensors + m->n_tensors && scales[i]->type == TYPE_F16);
        assert(scales[i]->ne[0] == t->ne[i] && scales[i]->ne[1] == 1 && scales[i]->ne[2] == t->ne[2]);
    }
}

static void check_model(const struct model *m) {
    for (size_t i = 0; i < m->n_tensors; i++) check_tensor(m, &m->tensors[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static bool made;
    if (!made) {
        made = mkdtemp(folder) != NULL;
        assert(made);
        atexit(remove_folder);
    }
    empty_folder();
    write_folder(data, size);
    model_walk(folder, check_model);
    return 0;
}

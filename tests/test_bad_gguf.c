/* Malformed GGUF files, container level: groups 1 to 26, 41 to 52 and 55 to 59 of the reliability plan, each sub-case as a
 * generated file. Every one must be refused with one line naming file, item and position, in under a second of CPU time,
 * without large memory, and without writing; where a group lists something the reader rightly accepts, the acceptance is the
 * test. Groups 27 to 40, 53 and 54 are in test_bad_model.c. */
#include "tests/support/refuse.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- header: 1 to 13 -------------------------------------------------------------------------------------------- */

static void groups_1_to_4_not_gguf(void **state) {
    (void)state;
    write_bytes("", 0);
    refuse_file(refuse_path, true, "header", "empty", 0, 1);
    write_bytes("GGU", 3);
    refuse_file(refuse_path, true, "header", "ends after 3", 0, 1);
    static const char *const magics[] = {"GGML", "gguf", "PK\3\4", "\0\0\0\0", "\177ELF", "{\"__"};
    for (size_t i = 0; i < COUNT(magics); i++) {
        fresh();
        memcpy(raw.magic, magics[i], 4);
        refuse_header("not a GGUF file");
    }
    fresh();
    memcpy(raw.magic, "FUGG", 4);
    refuse_header("big-endian");
    for (uint32_t version = 2; version <= 3; version++) {
        fresh();
        raw.version = version << 24;
        refuse_header("big-endian");
    }
}

static void groups_5_to_7_versions(void **state) {
    (void)state;
    static const uint32_t versions[] = {0, 1, 4, UINT32_MAX, 0x00030003};
    for (size_t i = 0; i < COUNT(versions); i++) {
        char problem[40];
        snprintf(problem, sizeof problem, "GGUF version %u", versions[i]);
        fresh();
        raw.version = versions[i];
        refuse_header(problem);
    }
}

static void group_8_cut_in_header(void **state) {
    (void)state;
    struct text bytes = {0};
    raw_build(&raw, &bytes);
    for (size_t len = 1; len < 24; len++) {
        write_bytes(bytes.ptr, len);
        refuse_file(refuse_path, true, "header", "the file ends after", 0, 24);
    }
    text_free(&bytes);
}

static void groups_9_to_12_counts(void **state) {
    (void)state;
    static const uint64_t tensors[] = {TOP, (uint64_t)1 << 61, TOP / 33 + 1, TOP / 88 + 1, (uint64_t)1 << 63, 1000};
    for (size_t i = 0; i < COUNT(tensors); i++) {
        fresh();
        raw.n_tensors_claimed = tensors[i];
        refuse_header("tensors cannot fit");
    }
    static const uint64_t keys[] = {TOP, (uint64_t)1 << 61, TOP / 14 + 1, 1000};
    for (size_t i = 0; i < COUNT(keys); i++) {
        fresh();
        raw.n_keys_claimed = keys[i];
        refuse_header("keys cannot fit");
    }
    fresh();
    raw.n_keys_claimed = raw.n_keys + 1; /* the first tensor record read as a key */
    write_raw();
    refuse_file(refuse_path, true, "tensor 1", "", raw.tensors[0].at, raw.tensors[1].at + 99);
    fresh();
    raw.n_keys_claimed = raw.n_keys - 1; /* the last key read as a tensor record */
    write_raw();
    refuse_file(refuse_path, true, "tensor 1 'tokenizer.chat_template'", "", raw.keys[raw.n_keys - 1].at, raw.data_at);
    fresh();
    raw.n_tensors_claimed = raw.n_tensors + 1;
    write_raw();
    refuse_file(refuse_path, true, "tensor 16", "", raw.tensors[raw.n_tensors - 1].at, raw.data_at + 64);
}

static void group_13_no_tensors(void **state) {
    (void)state;
    while (raw.n_tensors) raw_drop(&raw, raw.tensors[0].name.ptr);
    raw.data_bytes = 0;
    write_raw();
    refuse_file(refuse_path, false, "no tensors", "vocabulary-only", 0, 0);
    struct model *m;
    assert_int_equal(model_open(refuse_path, false, &m, NULL), ERR_NONE); /* right for tokenize and inspect */
    model_close(&m);
}

/* ---- metadata: 14 to 26 ----------------------------------------------------------------------------------------- */

static void groups_14_to_17_key_names(void **state) {
    (void)state;
    struct text size = {0};
    raw_build(&raw, &size);
    const uint64_t left = size.len - raw.keys[5].at - 8;
    text_free(&size);
    static const uint64_t fixed[] = {TOP, TOP - 7, (uint64_t)1 << 63, (uint64_t)1 << 32};
    for (size_t i = 0; i <= COUNT(fixed); i++) {
        fresh();
        raw.keys[5].name_len = i < COUNT(fixed) ? fixed[i] : left + 1;
        refuse_record(&raw.keys[5], "but the file ends after");
    }
    static const struct {
        const char *name;
        size_t len;
        const char *problem;
    } names[] = {
        {"", 0, "is empty"},
        {"a\0b", 3, "control character"},
        {"a\nb", 3, "control character"},
        {"a\x1b[2J", 5, "control character"},
        {"\xff", 1, "not valid UTF-8"},
        {"\x80", 1, "not valid UTF-8"},
        {"\xc0\xaf", 2, "not valid UTF-8"},
        {"a\xe2\x82", 3, "not valid UTF-8"},
        {"\xed\xa0\x80", 3, "not valid UTF-8"},
        {"\xf4\x90\x80\x80", 4, "not valid UTF-8"},
        {"\xe0\x80\x80", 3, "not valid UTF-8"},
        {"\xf0\x80\x80\x80", 4, "not valid UTF-8"},
    };
    for (size_t i = 0; i < COUNT(names); i++) {
        fresh();
        text_clear(&raw.keys[5].name);
        text_add(&raw.keys[5].name, names[i].name, names[i].len);
        refuse_record(&raw.keys[5], names[i].problem);
    }
    fresh();
    raw_set_bool(&raw, "schl\xc3\xbcssel.\xe4\xb8\xad.\xf0\x9f\x98\x80.\xf4\x8f\xbf\xbf", 1);
    accept_raw();
    fresh();
    struct text name = repeated("k", 64 << 10);
    raw_set_u32(&raw, name.ptr, 1);
    refuse_record(raw_key_find(&raw, name.ptr), "too long");
    fresh();
    name.ptr[65535] = 0;
    raw_set_u32(&raw, name.ptr, 1);
    accept_raw(); /* 65535 bytes are what the format allows */
    text_free(&name);
}

static void group_18_duplicate_keys(void **state) {
    (void)state;
    raw_set_u32(&raw, "x.twice", 1);
    text_add(&raw_key_add(&raw, "x.twice", U32)->payload, "\1\0\0\0", 4);
    write_raw();
    refuse_file(refuse_path, true, "key 'x.twice'", "already given", raw.keys[raw.n_keys - 1].at,
                raw.keys[raw.n_keys - 1].at + 1);
    raw.keys[raw.n_keys - 1].type = F32; /* same name, another type */
    write_raw();
    refuse_file(refuse_path, true, "key 'x.twice'", "already given", raw.keys[raw.n_keys - 1].at,
                raw.keys[raw.n_keys - 1].at + 1);
}

static void group_19_value_types(void **state) {
    (void)state;
    static const uint32_t types[] = {13, 14, 255, UINT32_MAX};
    for (size_t i = 0; i < COUNT(types); i++) {
        fresh();
        raw_set(&raw, "x", types[i], "\0\0\0\0\0\0\0\0", 8);
        refuse_key("x", "does not exist");
        fresh();
        raw_set_array(&raw, "x", types[i], 1, "\0\0\0\0\0\0\0\0", 8);
        refuse_key("x", "does not exist");
    }
}

static void group_20_nested_arrays(void **state) {
    (void)state;
    struct text nest = {0};
    for (int i = 0; i < 100000; i++) { /* array of one array of one array ... */
        raw_u32(&nest, ARRAY);
        raw_u64(&nest, 1);
    }
    raw_set(&raw, "x", ARRAY, nest.ptr, nest.len);
    text_free(&nest);
    refuse_key("x", "array of arrays");
}

static void groups_21_to_23_long_values(void **state) {
    (void)state;
    static const struct {
        uint32_t type;
        uint64_t count;
    } arrays[] = {{U8, (uint64_t)1 << 63},
                  {U8, TOP},
                  {U64, (uint64_t)1 << 61},
                  {U64, ((uint64_t)1 << 61) + 1},
                  {F64, TOP},
                  {U16, (uint64_t)1 << 63},
                  {I32, (uint64_t)1 << 62},
                  {STRING, (uint64_t)1 << 61},
                  {STRING, 1000000000},
                  {BOOL, (uint64_t)1 << 40}};
    for (size_t i = 0; i < COUNT(arrays); i++) {
        fresh();
        raw_set_array(&raw, "x", arrays[i].type, arrays[i].count, "\0\0\0\0\0\0\0\0", 8);
        refuse_key("x", "cannot fit");
    }
    static const uint64_t lengths[] = {(uint64_t)1 << 30, TOP, TOP - 7, (uint64_t)1 << 63};
    for (size_t i = 0; i < COUNT(lengths); i++) {
        struct text payload = {0};
        raw_u64(&payload, lengths[i]);
        for (int n = 0; n < 100; n++) text_add(&payload, "s", 1);
        fresh();
        raw_set(&raw, "x", STRING, payload.ptr, payload.len);
        refuse_key("x", "but the file ends after");
        fresh();
        raw_set_array(&raw, "x", STRING, 1, payload.ptr, payload.len);
        refuse_key("x", "but the file ends after");
        text_free(&payload);
    }
}

static void group_24_bools(void **state) {
    (void)state;
    raw_set_bool(&raw, "x", 7);
    refuse_key("x", "must be 0 or 1");
    raw_set_array(&raw, "x", BOOL, 3, "\1\0\2", 3);
    refuse_key("x", "must be 0 or 1");
    raw_set_array(&raw, "x", BOOL, 3, "\1\0\1", 3);
    accept_raw();
}

static void group_25_cut_anywhere(void **state) {
    (void)state;
    static const uint8_t sizes[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    for (uint32_t type = 0; type < 13; type++) {
        char name[16];
        snprintf(name, sizeof name, "x%u", type);
        if (sizes[type]) raw_set(&raw, name, type, "\1\0\0\0\0\0\0\0", sizes[type]);
        snprintf(name, sizeof name, "a%u", type);
        if (sizes[type]) raw_set_array(&raw, name, type, 2, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 2u * sizes[type]);
    }
    struct text bytes = {0};
    raw_build(&raw, &bytes);
    write_bytes(bytes.ptr, bytes.len);
    struct model *m;
    assert_int_equal(model_open(refuse_path, true, &m, NULL), ERR_NONE);
    const uint64_t end = m->files[0].used_bytes;
    model_close(&m);
    for (size_t len = bytes.len; len-- > 0;) {
        assert_int_equal(truncate(refuse_path, (off_t)len), 0);
        if (len >= end)
            accept_file(refuse_path); /* only padding is gone */
        else
            refuse_file(refuse_path, true, "", "", 0, len + 1 > raw.data_at ? raw.data_at : len + 1);
    }
    text_free(&bytes);
}

static void group_26_alignment(void **state) {
    (void)state;
    static const struct bad_value values[] = {
        {"general.alignment", U32, 0, "is 0; it must be a power of two"},
        {"general.alignment", U32, 13, "is 13; it must be a power of two"},
        {"general.alignment", U32, (uint64_t)1 << 31, "must be a power of two"},
        {"general.alignment", U32, 1 << 17, "must be a power of two"},
        {"general.alignment", U32, UINT32_MAX, "must be a power of two"},
        {"general.alignment", I32, (uint32_t)-32, "must be u32"},
        {"general.alignment", U64, 32, "must be u32"},
        {"general.alignment", F32, 32, "must be u32"},
        {"general.alignment", STRING, 0, "must be u32"},
    };
    refuse_values(values, COUNT(values));
    fresh();
    text_add(&raw_key_add(&raw, "general.alignment", U32)->payload, "\40\0\0\0", 4);
    write_raw();
    refuse_file(refuse_path, true, "key 'general.alignment'", "already given", raw.keys[raw.n_keys - 1].at, raw.data_at);
}

/* ---- splits: 41 ------------------------------------------------------------------------------------------------- */

static void part_path(char *out, size_t size, unsigned part, unsigned count) {
    snprintf(out, size, "%s/bad-%05u-of-%05u.gguf", refuse_folder, part, count);
}

/* Part `no` of two: the embedding in the first, all else in the second. */
static void begin_part(unsigned no) {
    fresh();
    raw_set_u16(&raw, "split.no", (uint16_t)no);
    raw_set_u16(&raw, "split.count", 2);
    raw_set_i32(&raw, "split.tensors.count", 15);
    if (no == 1)
        raw_drop(&raw, "token_embd.weight");
    else
        while (raw.n_tensors > 1) raw_drop(&raw, raw.tensors[1].name.ptr);
    raw_place(&raw);
}

static void end_part(unsigned as) {
    char name[128];
    struct text bytes = {0};
    raw_build(&raw, &bytes);
    part_path(name, sizeof name, as, 2);
    raw_write(name, bytes);
    text_free(&bytes);
}

static void group_41_splits(void **state) {
    (void)state;
    char first[128], second[128], around[160];
    part_path(first, sizeof first, 1, 2);
    part_path(second, sizeof second, 2, 2);
    begin_part(0);
    end_part(1);
    struct model *m;
    struct reason why = {0};
    assert_int_equal(measured_open(first, true, &m, &why), ERR_IO);
    judge(&why, second, "", "cannot open", 0, 0); /* the missing one is named, not the one given */
    begin_part(1);
    end_part(2);
    accept_file(first);
    snprintf(around, sizeof around, "%s/../%s/bad-00001-of-00002.gguf", refuse_folder, strrchr(refuse_folder, '/') + 1);
    accept_file(around); /* paths come from the user alone: a file has no way to name another */
    refuse_file(second, true, "part 2 of 2", "name the first part", 0, 0);
    unlink(first);
    unlink(second);
}

/* With `raw` as the second part the model is refused, and part `named` of it is. */
static void refuse_second_part(unsigned named, const char *item, const char *problem) {
    char first[128], at_fault[128];
    part_path(first, sizeof first, 1, 2);
    part_path(at_fault, sizeof at_fault, named, 2);
    end_part(2);
    struct model *m;
    struct reason why = {0};
    assert_int_not_equal(measured_open(first, true, &m, &why), ERR_NONE);
    judge(&why, at_fault, item, problem, 24, raw.data_at);
}

static void group_41_second_parts(void **state) {
    (void)state;
    static const struct {
        const char *key;
        uint64_t value;
        const char *problem;
    } keys[] = {
        {"split.no", 0, "is 0; part 2 must have 1"},       {"split.no", 2, "is 2 but 'split.count' is 2"},
        {"split.no", UINT32_MAX, "is 4294967295 but"},     {"split.count", 3, "another model"},
        {"split.count", 0, "is 1 but 'split.count' is 0"}, {"split.count", 1, "is 1 but 'split.count' is 1"},
        {"split.tensors.count", 14, "another model"},      {"split.count", (uint64_t)1 << 40, "must be 0 to"},
    };
    begin_part(0);
    end_part(1);
    for (size_t i = 0; i < COUNT(keys); i++) {
        begin_part(1);
        raw_set_u64(&raw, keys[i].key, keys[i].value);
        refuse_second_part(2, "key 'split.", keys[i].problem);
    }
    begin_part(1); /* from another model: same numbers, other tensors */
    raw_set_string(&raw, "general.name", "other");
    refuse_second_part(2, "key 'general.name'", "another model");
    begin_part(1);
    raw_drop_key(&raw, "general.name");
    raw_drop(&raw, "output.weight");
    raw_add(&raw, "token_embd.weight", 1, 8, 8, 0);
    refuse_second_part(2, "tensor 'token_embd.weight'", "already listed");
    begin_part(0); /* the same part twice */
    refuse_second_part(2, "key 'split.no'", "is 0; part 2 must have 1");
    begin_part(1); /* a tensor is missing */
    raw_drop(&raw, "output.weight");
    refuse_second_part(1, "key 'split.tensors.count'", "is 15 but 14 tensors were found");
    for (unsigned part = 1; part <= 2; part++) {
        char name[128];
        part_path(name, sizeof name, part, 2);
        unlink(name);
    }
}

static void group_41_first_parts(void **state) {
    (void)state;
    char first[128];
    part_path(first, sizeof first, 1, 2);
    begin_part(0);
    raw_set_u16(&raw, "split.count", 65535);
    end_part(1);
    refuse_file(first, true, "key 'split.count'", "65535 files; at most 512", 0, 0);
    raw_set_u16(&raw, "split.count", 3);
    end_part(1);
    refuse_file(first, true, "the first of 3 parts", "must end in -00001-of-00003.gguf", 0, 0);
    raw_set_u16(&raw, "split.count", 2);
    raw_drop_key(&raw, "split.tensors.count");
    end_part(1);
    refuse_file(first, true, "key 'split.tensors.count'", "missing", 0, 0);
    unlink(first);
    begin_part(0);
    write_raw(); /* a name without part numbers */
    refuse_file(refuse_path, true, "the first of 2 parts", "must end in", 0, 0);
    fresh(); /* one of one is a whole model */
    raw_set_u16(&raw, "split.no", 0);
    raw_set_u16(&raw, "split.count", 1);
    raw_set_i32(&raw, "split.tensors.count", 15);
    accept_raw();
    raw_set_i32(&raw, "split.tensors.count", 16);
    refuse_key("split.tensors.count", "is 16 but 15 tensors were found");
}

/* ---- tensors: 42 to 57 ------------------------------------------------------------------------------------------ */

static void groups_42_and_43_tensor_names(void **state) {
    (void)state;
    static const uint64_t lengths[] = {TOP, TOP - 7, (uint64_t)1 << 63, 1 << 20};
    for (size_t i = 0; i < COUNT(lengths); i++) {
        fresh();
        raw.tensors[4].name_len = lengths[i];
        refuse_tensor_record(&raw.tensors[4], "tensor 5", "but the file ends after");
    }
    char name64[65];
    memset(name64, 'n', 64);
    name64[64] = 0;
    const struct {
        const char *name;
        size_t len;
        const char *problem;
    } names[] = {{name64, 64, "too long"},
                 {"", 0, "is empty"},
                 {"a\0b", 3, "control character"},
                 {"a\nERROR: b", 10, "control character"},
                 {"\xc3(", 2, "not valid UTF-8"}};
    for (size_t i = 0; i < COUNT(names); i++) {
        fresh();
        text_clear(&raw.tensors[4].name);
        text_add(&raw.tensors[4].name, names[i].name, names[i].len);
        refuse_tensor_record(&raw.tensors[4], "tensor 5", names[i].problem);
    }
    fresh();
    name64[63] = 0;
    raw_add(&raw, name64, 0, 4, 0, 0);
    accept_raw();
    fresh();
    raw_add(&raw, "blk.0.attn_q.weight", 1, 8, 8, 0);
    refuse_tensor_record(&raw.tensors[15], "'blk.0.attn_q.weight'", "already listed");
    fresh();
    raw_add(&raw, "extra", 0, 4, 0, 0);
    raw_add(&raw, "extra", 1, 8, 0, 0);
    refuse_tensor_record(&raw.tensors[16], "'extra'", "already listed");
}

static void groups_44_to_47_extents(void **state) {
    (void)state;
    static const uint32_t dims[] = {0, 5, UINT32_MAX};
    for (size_t i = 0; i < COUNT(dims); i++) {
        fresh();
        raw_find(&raw, "output.weight")->n_dims = dims[i];
        refuse_tensor("output.weight", "1 to 4 are allowed");
    }
    static const struct {
        uint32_t type;
        uint64_t ne[4];
        const char *problem;
    } extents[] = {
        {1, {0, 8, 1, 1}, "extent 0 is 0"},
        {1, {8, 0, 1, 1}, "extent 1 is 0"},
        {1, {8, 8, 1, 0}, "extent 3 is 0"},
        {1, {TOP, 8, 1, 1}, "extent 0 is -1"},
        {1, {8, TOP - 7, 1, 1}, "extent 1 is -8"},
        {1, {(uint64_t)1 << 63, 1, 1, 1}, "extent 0 is -9223372036854775808"},
        {24, {INT64_MAX, 1, 1, 1}, "is it cut short"},
        {1, {INT64_MAX, 1, 1, 1}, "the end of its data overflows"},
        {1, {8, INT64_MAX, 1, 1}, "elements overflows"},
        {1, {(uint64_t)1 << 32, (uint64_t)1 << 32, 1, 1}, "elements overflows"}, /* wraps to 0 */
        {1, {(uint64_t)1 << 32, (uint64_t)1 << 31, 1, 1}, "elements overflows"}, /* wraps to negative */
        {1, {(uint64_t)1 << 16, (uint64_t)1 << 16, 1 << 16, 1 << 16}, "elements overflows"},
        {1, {3, 0x5555555555555556u, 1, 1}, "elements overflows"}, /* wraps to 2 */
        {27, {(uint64_t)1 << 60, 4, 1, 1}, "bytes overflows"},     /* 2^62 elements of 8 bytes */
        {27, {4, (uint64_t)1 << 60, 1, 1}, "bytes overflows"},
        {0, {1, 1, (uint64_t)1 << 62, 1}, "bytes overflows"},
        {0, {1, 1, 1, (uint64_t)1 << 62}, "bytes overflows"},
        {144, {256, (uint64_t)1 << 54, 1, 1}, "is it cut short"},
        {8, {(uint64_t)1 << 62, 1, 1, 1}, "is it cut short"},
    };
    for (size_t i = 0; i < COUNT(extents); i++) {
        fresh();
        struct raw_tensor *t = raw_add(&raw, "x", extents[i].type, 1, 1, 1);
        t->n_dims = 4;
        memcpy(t->ne, extents[i].ne, sizeof extents[i].ne);
        refuse_tensor("x", extents[i].problem);
    }
}

static void groups_48_and_49_types(void **state) {
    (void)state;
    static const struct {
        uint32_t id;
        const char *problem;
    } types[] = {
        {UINT32_MAX, "no such type"},
        {4, "removed"},
        {5, "removed"},
        {31, "removed"},
        {32, "removed"},
        {33, "removed"},
        {9, "activation"},
        {15, "activation"},
        {99, "activation"},
        {136, "activation"},
        {150, "activation"},
        {34, "TQ1_0"},
        {35, "TQ1_0"},
        {36, "BitNet"},
        {134, "BitNet"},
        {41, "Q1_0"},
        {151, "Q8_KV"},
        {153, "trellis"},
        {158, "trellis"},
        {202, "repack"},
        {233, "repack"},
        {399, "repack"},
        {40, "no such type"},
        {1000, "no such type"},
        {(uint32_t)1 << 31, "no such type"},
    };
    for (size_t i = 0; i < COUNT(types); i++) {
        char problem[64];
        snprintf(problem, sizeof problem, "tensor type %u is not supported", types[i].id);
        fresh();
        raw_find(&raw, "output.weight")->type = types[i].id;
        refuse_tensor("output.weight", problem);
        refuse_tensor("output.weight", types[i].problem);
    }
    static const uint32_t integers[] = {24, 25, 26, 27, 28};
    for (size_t i = 0; i < COUNT(integers); i++) {
        fresh();
        raw_find(&raw, "blk.0.attn_norm.weight")->type = integers[i];
        raw_place(&raw);
        refuse_tensor("blk.0.attn_norm.weight", "cannot hold weights");
    }
    static const struct {
        uint32_t type;
        uint64_t columns;
        const char *problem;
    } rows[] = {{2, 33, "Q4_0 blocks of 32"},    {8, 31, "Q8_0 blocks of 32"},  {12, 255, "Q4_K blocks of 256"},
                {14, 128, "Q6_K blocks of 256"}, {39, 1, "MXFP4 blocks of 32"}, {144, 257, "IQ4_KS blocks of 256"}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        fresh();
        raw_add(&raw, "x", rows[i].type, rows[i].columns, 2, 0);
        refuse_tensor("x", rows[i].problem);
    }
}

static void groups_50_to_52_places(void **state) {
    (void)state;
    const uint64_t end = raw.data_bytes;
    const struct {
        uint64_t offset;
        const char *problem;
    } offsets[] = {
        {1, "no multiple of the alignment 32"},
        {16, "no multiple"},
        {TOP, "no multiple"},
        {end, "is it cut short"},
        {end + 32, "is it cut short"},
        {(uint64_t)1 << 40, "is it cut short"},
        {(uint64_t)1 << 63, "is it cut short"},
        {TOP - 31, "overflows"},
        {TOP - 2047, "overflows"},
        {0, "overlaps"},
    };
    for (size_t i = 0; i < COUNT(offsets); i++) {
        fresh();
        raw_find(&raw, "blk.0.attn_output.weight")->offset = offsets[i].offset;
        refuse_tensor("blk.0.attn_output.weight", offsets[i].problem);
    }
    fresh();     /* offset + data start fits, the end does not */
    write_raw(); /* sets data_at */
    raw_find(&raw, "output.weight")->offset = (TOP - raw.data_at - 100) / 32 * 32;
    refuse_tensor("output.weight", "the end of its data overflows");
    fresh(); /* overlap by one block's padding only: allowed; by one byte: not */
    raw_set_u32(&raw, "general.alignment", 1);
    raw.alignment = 1;
    raw_place(&raw);
    accept_raw();
    raw_find(&raw, "blk.0.attn_k.weight")->offset -= 1;
    refuse_tensor("blk.0.attn_k.weight", "overlaps that of 'blk.0.attn_q.weight'");
    fresh(); /* a gap, and offsets that do not ascend */
    raw_find(&raw, "token_embd.weight")->offset = raw.data_bytes + 4096;
    raw.data_bytes += 4096 + 128;
    accept_raw();

    fresh(); /* the last tensor one byte past the end, and the file cut anywhere in the data */
    write_raw();
    const struct raw_tensor *last = raw_find(&raw, "blk.0.ffn_down_exps.weight");
    const uint64_t used = raw.data_at + last->offset + 2 * 4 * 8 * 2;
    assert_int_equal(truncate(refuse_path, (off_t)used), 0);
    accept_file(refuse_path);
    assert_int_equal(truncate(refuse_path, (off_t)used - 1), 0);
    refuse_file(refuse_path, true, "'blk.0.ffn_down_exps.weight'", "is it cut short", last->at, raw.data_at);
    assert_int_equal(truncate(refuse_path, (off_t)raw.data_at + 130), 0);
    refuse_file(refuse_path, true, "'output_norm.weight'", "is it cut short", raw.tensors[1].at, raw.tensors[2].at);
    assert_int_equal(truncate(refuse_path, (off_t)raw.data_at), 0);
    refuse_file(refuse_path, true, "'token_embd.weight'", "is it cut short", raw.tensors[0].at, raw.tensors[1].at);
}

static void group_55_sums(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) { /* 2^62 bytes each, their sum wraps */
        char name[16];
        snprintf(name, sizeof name, "big%d", i);
        struct raw_tensor *t = raw_add(&raw, name, 0, 1, 1, 0);
        t->ne[0] = (uint64_t)1 << 60;
        t->offset = (uint64_t)i << 62;
    }
    refuse_tensor("big0", "is it cut short");
}

static void groups_56_and_57_data(void **state) {
    (void)state;
    static const struct {
        uint32_t type;
        uint64_t columns;
    } types[] = {{0, 8}, {1, 8}, {30, 8}, {2, 32}, {8, 32}, {12, 256}, {13, 256}, {14, 256}, {39, 32}, {144, 256}};
    for (size_t i = 0; i < COUNT(types); i++)
        raw_add(&raw, (char[]){'x', (char)('a' + i), 0}, types[i].type, types[i].columns, 2, 0);
    static const uint8_t fills[] = {0xff, 0x7f, 0x7c, 0x01, 0x00}; /* NaN, NaN or large, infinity, subnormal, zero */
    struct text bytes = {0};
    raw_build(&raw, &bytes);
    for (size_t i = 0; i < COUNT(fills); i++) {
        memset(bytes.ptr + raw.data_at, fills[i], bytes.len - raw.data_at);
        raw_write(refuse_path, bytes);
        accept_file(refuse_path); /* numbers are not read here; the kernels' tests have them */
    }
    text_add(&bytes, "GGUF trailing garbage", 21);
    raw_write(refuse_path, bytes);
    accept_file(refuse_path);
    struct model *m;
    assert_int_equal(model_open(refuse_path, true, &m, NULL), ERR_NONE);
    assert_int_equal(m->files[0].bytes, bytes.len);
    assert_true(m->files[0].used_bytes <= bytes.len - 21 && m->files[0].used_bytes > bytes.len - 21 - 32); /* for a note */
    model_close(&m);
    text_free(&bytes);
}

/* ---- files: 58, 59 ---------------------------------------------------------------------------------------------- */

static void group_58_sparse_2_tib(void **state) {
    (void)state;
    const uint64_t size = 2 * MIB * MIB;
    if (!write_raw_sparse(size)) skip();
    accept_file(refuse_path); /* a model with two terabytes of trailing zeros */
    raw_write_sparse(refuse_path, (struct text){0}, size);
    refuse_file(refuse_path, true, "header", "not a GGUF file", 0, 1);
    static const struct {
        uint64_t tensors, keys;
        const char *problem;
    } counts[] = {{1000000000, 0, "tensors; at most"},
                  {0, 1000000000, "keys; at most"},
                  {TOP, 1, "tensors cannot fit"},
                  {1, (uint64_t)1 << 40, "keys cannot fit"}};
    for (size_t i = 0; i < COUNT(counts); i++) {
        fresh();
        raw.n_tensors_claimed = counts[i].tensors;
        raw.n_keys_claimed = counts[i].keys;
        write_raw_sparse(size);
        refuse_file(refuse_path, true, "header", counts[i].problem, 0, 24);
    }
    static const struct {
        uint32_t type;
        uint64_t count;
    } arrays[] = {{STRING, 1000000000}, {STRING, 6000000}, {U8, (uint64_t)1 << 40}, {U8, 60 * MIB}, {F64, (uint64_t)1 << 37}};
    for (size_t i = 0; i < COUNT(arrays); i++) {
        fresh();
        while (raw.n_tensors) raw_drop(&raw, raw.tensors[0].name.ptr);
        raw_set_array(&raw, "x", arrays[i].type, arrays[i].count, "", 0);
        raw.n_keys_claimed = 60000; /* zeros follow: empty keys */
        write_raw_sparse(size);
        const struct raw_key *key = raw_key_find(&raw, "x");
        if (arrays[i].count == 6000000) /* fits the limit; then the next key is a hole */
            refuse_file(refuse_path, true, "key 26", "its name is empty", key->at, 49 * MIB);
        else
            refuse_file(refuse_path, true, "'x'", "larger than 48 MiB", key->at, key->payload_at + 13);
    }
    fresh(); /* strings of just the allowed length, until the sum is too much */
    while (raw.n_tensors) raw_drop(&raw, raw.tensors[0].name.ptr);
    struct text lengths = {0};
    raw_u64(&lengths, 16 * MIB);
    raw_set_array(&raw, "x", STRING, 5, lengths.ptr, lengths.len);
    text_free(&lengths);
    write_raw_sparse(size); /* one string of 16 MiB, four empty ones */
    struct model *m;
    assert_int_equal(measured_open(refuse_path, false, &m, NULL), ERR_NONE);
    model_close(&m);
    fresh(); /* tensors whose data does fit, in a directory of a quarter million records */
    raw.n_tensors_claimed = (1 << 18) - 1;
    write_raw_sparse(size);
    refuse_file(refuse_path, true, "tensor 16", "its name is empty", raw.data_at - 32, raw.data_at + 32);
}

static void refuse_odd_path(const char *file, const char *problem) {
    struct model *m;
    struct reason why = {0};
    assert_int_not_equal(measured_open(file, true, &m, &why), ERR_NONE);
    assert_null(m);
    const size_t tail = strlen(file) < 150 ? 0 : strlen(file) - 150; /* long paths are shortened from the left */
    judge(&why, "", file + tail, problem, 0, 0);
}

static void group_59_not_a_regular_file(void **state) {
    (void)state;
    char link_a[128], link_b[128], fifo[128], secret[128], long_path[6000];
    refuse_odd_path(refuse_folder, "is a directory");
    refuse_odd_path("/dev/zero", "is a device");
    refuse_odd_path("/dev/null", "is a device");
    refuse_odd_path("/proc/self/status", "made by the kernel");
    refuse_odd_path("/proc/self/mem", "made by the kernel");
    refuse_odd_path("/sys/kernel/mm/transparent_hugepage/enabled", "");
    snprintf(fifo, sizeof fifo, "%s/fifo", refuse_folder);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    refuse_odd_path(fifo, "is a pipe"); /* and does not hang */
    unlink(fifo);
    snprintf(link_a, sizeof link_a, "%s/a", refuse_folder);
    snprintf(link_b, sizeof link_b, "%s/b", refuse_folder);
    assert_int_equal(symlink(link_a, link_b) | symlink(link_b, link_a), 0);
    refuse_odd_path(link_a, strerror(ELOOP));
    unlink(link_a);
    unlink(link_b);
    refuse_odd_path(link_a, strerror(ENOENT));
    assert_int_equal(symlink("/nowhere/at/all", link_a), 0);
    refuse_odd_path(link_a, strerror(ENOENT));
    unlink(link_a);
    refuse_odd_path("", strerror(ENOENT));
    memset(long_path, 'p', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = 0;
    refuse_odd_path(long_path, strerror(ENAMETOOLONG));
    snprintf(secret, sizeof secret, "%s/secret", refuse_folder);
    raw_write(secret, (struct text){0});
    assert_int_equal(chmod(secret, 0), 0);
    const bool root = geteuid() == 0;
    if (root) assert_int_equal(seteuid(65534), 0);
    refuse_odd_path(secret, "ermission denied"); /* its folder is closed to others anyway */
    if (root) assert_int_equal(seteuid(0), 0);
    unlink(secret);
    refuse_odd_path("/etc/passwd/x", strerror(ENOTDIR));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        GROUP(groups_1_to_4_not_gguf),
        GROUP(groups_5_to_7_versions),
        GROUP(group_8_cut_in_header),
        GROUP(groups_9_to_12_counts),
        GROUP(group_13_no_tensors),
        GROUP(groups_14_to_17_key_names),
        GROUP(group_18_duplicate_keys),
        GROUP(group_19_value_types),
        GROUP(group_20_nested_arrays),
        GROUP(groups_21_to_23_long_values),
        GROUP(group_24_bools),
        GROUP(group_25_cut_anywhere),
        GROUP(group_26_alignment),
        GROUP(group_41_splits),
        GROUP(group_41_second_parts),
        GROUP(group_41_first_parts),
        GROUP(groups_42_and_43_tensor_names),
        GROUP(groups_44_to_47_extents),
        GROUP(groups_48_and_49_types),
        GROUP(groups_50_to_52_places),
        GROUP(group_55_sums),
        GROUP(groups_56_and_57_data),
        GROUP(group_58_sparse_2_tib),
        GROUP(group_59_not_a_regular_file),
    };
    return cmocka_run_group_tests(tests, refuse_make_folder, refuse_drop_folder);
}

/* Well-formed GGUF files that describe an impossible model: groups 27 to 40, 53 and 54 of the reliability plan. Judged as in
 * test_bad_gguf.c. What tokens and merges say (38, 39) is the tokenizer's to judge; here such files are accepted. */
#include "tests/support/refuse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define K(name) "qwen3moe." name
#define T(name) "tokenizer.ggml." name

static uint64_t f32_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static uint64_t f64_bits(double d) {
    uint64_t bits;
    memcpy(&bits, &d, sizeof bits);
    return bits;
}

/* ---- shape: 27 to 34 -------------------------------------------------------------------------------------------- */

static void group_27_architecture(void **state) {
    (void)state;
    raw_drop_key(&raw, "general.architecture");
    refuse_without_key("general.architecture", "missing");
    fresh();
    raw_set_u32(&raw, "general.architecture", 3);
    refuse_key("general.architecture", "a string is needed");
    static const char *const unknown[] = {"", "llama", "qwen3", "qwen3moe ", "Qwen3MoE", "\n\033[31m"};
    for (size_t i = 0; i < COUNT(unknown); i++) {
        fresh();
        raw_set_string(&raw, "general.architecture", unknown[i]);
        refuse_key("general.architecture", "only qwen3moe is supported");
    }
    fresh();
    struct text name = repeated("q", MIB);
    raw_set_string(&raw, "general.architecture", name.ptr);
    text_free(&name);
    refuse_key("general.architecture", "only qwen3moe is supported");
    fresh();
    raw_set_string(&raw, "general.type", "imatrix");
    refuse_key("general.type", "not a model file");
}

static void group_28_block_count(void **state) {
    (void)state;
    static const struct bad_value values[] = {
        {K("block_count"), U32, 0, "must be 1 to"},
        {K("block_count"), U32, UINT32_MAX, "must be 1 to"},
        {K("block_count"), U64, (uint64_t)1 << 63, "must be 1 to"},
        {K("block_count"), I32, UINT32_MAX, "is -1; it must not be negative"},
        {K("block_count"), U32, 1000, "the file has only 15 tensors"},
        {K("block_count"), F32, 0x3f800000, "an integer is needed"},
        {K("block_count"), STRING, 0, "an integer is needed"},
    };
    refuse_values(values, COUNT(values));
    fresh();
    raw_set_i32s(&raw, K("block_count"), (const int32_t[]){1}, 1);
    refuse_key(K("block_count"), "is an array of i32; an integer is needed");
    fresh();
    raw_drop_key(&raw, K("block_count"));
    refuse_without_key(K("block_count"), "missing");
    fresh();
    raw_set_u32(&raw, K("block_count"), 2);
    refuse_without_tensor("blk.1.attn_norm.weight");
    fresh();
    raw_add(&raw, "blk.1.attn_norm.weight", 0, 8, 0, 0);
    refuse_tensor("blk.1.attn_norm.weight", "belongs to layer 1, but key 'qwen3moe.block_count' is 1");
    fresh();
    raw_add(&raw, "blk.99999999999999999999.x", 0, 8, 0, 0);
    refuse_tensor("blk.99999999999999999999.x", "belongs to layer");
}

static void group_29_heads(void **state) {
    (void)state;
    static const struct bad_value values[] = {
        {K("attention.head_count"), U32, 0, "must be 1 to"},
        {K("attention.head_count"), U32, UINT32_MAX, "must be 1 to"},
        {K("attention.head_count_kv"), U32, 0, "must be 1 to"},
        {K("attention.head_count_kv"), U32, 3, "2 heads are not divisible by 3"},
        {K("attention.head_count_kv"), I64, TOP, "must not be negative"},
        {K("attention.key_length"), U32, 0, "must be 2 to"},
        {K("attention.key_length"), U32, 5, "must be even"},
        {K("attention.key_length"), U32, (uint64_t)1 << 31, "must be 2 to"},
        {K("attention.value_length"), U32, 0, "must be 1 to"},
    };
    refuse_values(values, COUNT(values));
    fresh();
    raw_set_u32(&raw, K("attention.value_length"), 8);
    refuse_key(K("attention.key_length"), "key size 4, value size 8 and rotary size 4 must be equal");
    fresh();
    raw_set_u32(&raw, K("rope.dimension_count"), 2);
    refuse_key(K("attention.key_length"), "rotary size 2");
    fresh();
    raw_drop_key(&raw, K("attention.head_count"));
    refuse_without_key(K("attention.head_count"), "missing");
    fresh();
    raw_drop_key(&raw, K("attention.key_length")); /* 8 / 16 = 0 */
    raw_set_u32(&raw, K("attention.head_count"), 16);
    refuse_without_key(K("attention.key_length"), "head size of 0");
    fresh();
    raw_set_u32(&raw, K("attention.key_length"), 8); /* possible, but the tensors are not of that size */
    raw_set_u32(&raw, K("attention.value_length"), 8);
    refuse_tensor("blk.0.attn_q.weight", "needs 8 x 16");
    fresh();
    raw_set_i32s(&raw, K("attention.head_count"), (const int32_t[]){2, 2}, 2);
    refuse_key(K("attention.head_count"), "2 values for 1 layers");
    fresh();
    raw_set_i32s(&raw, K("attention.head_count"), NULL, 0);
    refuse_key(K("attention.head_count"), "0 values for 1 layers");
    fresh();
    raw_set_u32(&raw, K("block_count"), 2);
    raw_set_i32s(&raw, K("attention.head_count"), (const int32_t[]){2, 4}, 2);
    refuse_key(K("attention.head_count"), "differs between layers");
    raw_set_i32s(&raw, K("attention.head_count"), (const int32_t[]){2, -4}, 2);
    refuse_key(K("attention.head_count"), "must not be negative");
}

static void groups_30_and_31_experts_and_widths(void **state) {
    (void)state;
    static const struct bad_value values[] = {
        {K("expert_count"), U32, 0, "must be 1 to"},
        {K("expert_count"), U32, (uint64_t)1 << 31, "must be 1 to"},
        {K("expert_used_count"), U32, 0, "must be 1 to 2"},
        {K("expert_used_count"), U32, 3, "must be 1 to 2"},
        {K("embedding_length"), U32, 0, "must be 1 to"},
        {K("embedding_length"), U32, (uint64_t)1 << 31, "must be 1 to"},
        {K("expert_feed_forward_length"), U32, 0, "must be 1 to"},
        {K("expert_feed_forward_length"), U32, (uint64_t)1 << 31, "must be 1 to"},
    };
    refuse_values(values, COUNT(values));
    fresh();
    raw_drop_key(&raw, K("expert_feed_forward_length"));
    raw_set_u32(&raw, K("feed_forward_length"), 0);
    refuse_key(K("feed_forward_length"), "no usable expert width");
    raw_drop_key(&raw, K("feed_forward_length"));
    refuse_without_key(K("feed_forward_length"), "missing");
    fresh();
    raw_drop_key(&raw, K("expert_count"));
    refuse_without_key(K("expert_count"), "missing");
    fresh();
    raw_set_u32(&raw, K("embedding_length"), 12);
    refuse_tensor("token_embd.weight", "needs 12 x 8");
    fresh(); /* an embedding that is not whole blocks of its type */
    raw_find(&raw, "token_embd.weight")->type = 8;
    refuse_tensor("token_embd.weight", "not whole Q8_0 blocks of 32");
    raw_find(&raw, "token_embd.weight")->type = 144;
    refuse_tensor("token_embd.weight", "not whole IQ4_KS blocks of 256");
}

static void groups_32_to_34_numbers(void **state) {
    (void)state;
    const float nan_f32 = (float)strtod("nan", NULL), infinite = (float)strtod("inf", NULL);
    const struct bad_value values[] = {
        {K("rope.freq_base"), F32, f32_bits(0), "must be above 1"},
        {K("rope.freq_base"), F32, f32_bits(-1e6f), "must be above 1"},
        {K("rope.freq_base"), F32, f32_bits(nan_f32), "finite"},
        {K("rope.freq_base"), F32, f32_bits(infinite), "finite"},
        {K("rope.freq_base"), F64, f64_bits(1e300), "finite"},
        {K("rope.freq_base"), I32, UINT32_MAX, "must be above 1"},
        {K("rope.freq_base"), BOOL, 1, "a number is needed"},
        {K("rope.scaling.factor"), F32, f32_bits(nan_f32), "finite"},
        {K("rope.scaling.factor"), F32, f32_bits(-2), "sensible positive"},
        {K("rope.scaling.factor"), F32, f32_bits(1e-30f), "sensible positive"},
        {K("rope.scaling.factor"), F32, f32_bits(1e30f), "sensible positive"},
        {K("rope.scaling.attn_factor"), F32, f32_bits(0), "must be above 0"},
        {K("rope.scaling.attn_factor"), F32, f32_bits(infinite), "finite"},
        {K("rope.scaling.yarn_attn_factor"), F32, f32_bits(-1), "must be above 0"},
        {K("rope.scaling.yarn_ext_factor"), F32, f32_bits(1.5f), "must be 0 to 1"},
        {K("rope.scaling.yarn_ext_factor"), F32, f32_bits(nan_f32), "finite"},
        {K("rope.scaling.yarn_beta_fast"), F32, f32_bits(0.5f), "below yarn_beta_slow"},
        {K("rope.scaling.yarn_beta_fast"), F32, f32_bits(0), "must be above 0"},
        {K("rope.scaling.yarn_beta_slow"), F32, f32_bits(-3), "must be above 0"},
        {K("rope.scaling.original_context_length"), U32, 0, "must be 1 to"},
        {K("rope.scaling.type"), STRING, 0, "none, linear and yarn"},
        {K("rope.scaling.type"), U32, 1, "a string is needed"},
        {K("attention.layer_norm_rms_epsilon"), F32, f32_bits(nan_f32), "finite"},
        {K("attention.layer_norm_rms_epsilon"), F32, f32_bits(-1e-6f), "must be above 0"},
        {K("attention.layer_norm_rms_epsilon"), F32, f32_bits(0), "must be above 0"},
        {K("attention.layer_norm_rms_epsilon"), F64, f64_bits(1e-300), "must be above 0"},
        {K("context_length"), U32, 0, "must be 1 to"},
        {K("context_length"), I32, UINT32_MAX, "must not be negative"},
    };
    refuse_values(values, COUNT(values));
    fresh();
    raw_set_string(&raw, K("rope.scaling.type"), "yarn");
    raw_set_f32(&raw, K("rope.scaling.factor"), 0);
    refuse_key(K("rope.scaling.factor"), "is 0; it must be a sensible positive number");
    fresh();
    raw_drop_key(&raw, K("attention.layer_norm_rms_epsilon"));
    refuse_without_key(K("attention.layer_norm_rms_epsilon"), "missing");
    fresh();
    raw_drop_key(&raw, K("context_length"));
    refuse_without_key(K("context_length"), "missing");
    fresh(); /* huge, but a promise nobody has to keep: the KV budget decides */
    raw_set_u32(&raw, K("context_length"), UINT32_MAX);
    accept_raw();
    raw_set_u64(&raw, K("context_length"), TOP);
    accept_raw();
}

/* ---- vocabulary: 35 to 40 --------------------------------------------------------------------------------------- */

static const char *const letters[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i"};

static void groups_35_and_36_token_arrays(void **state) {
    (void)state;
    raw_drop_key(&raw, T("tokens"));
    refuse_without_key(T("tokens"), "missing");
    fresh();
    raw_set_strings(&raw, T("tokens"), NULL, 0);
    refuse_key(T("tokens"), "is empty");
    for (size_t n = 7; n <= 9; n += 2) {
        fresh();
        raw_set_strings(&raw, T("tokens"), letters, n);
        refuse_key(T("token_type"), "has 8 elements for");
        raw_drop_key(&raw, T("token_type"));
        raw_drop_key(&raw, T("eos_token_id"));
        char problem[40];
        snprintf(problem, sizeof problem, "has 8 rows for %zu tokens", n);
        refuse_tensor("token_embd.weight", problem);
    }
    fresh();
    raw_set_i32s(&raw, T("tokens"), (const int32_t[]){1, 2, 3, 4, 5, 6, 7, 8}, 8);
    refuse_key(T("tokens"), "an array of strings is needed");
    raw_set_string(&raw, T("tokens"), "abc");
    refuse_key(T("tokens"), "an array of strings is needed");
    fresh();
    raw_set_i32s(&raw, T("token_type"), (const int32_t[]){1, 1, 1, 1, 1, 1, 1}, 7);
    refuse_key(T("token_type"), "has 7 elements for 8 tokens");
    raw_set_i32s(&raw, T("token_type"), (const int32_t[]){1, 1, 1, 1, 1, 1, 7, 1}, 8);
    refuse_key(T("token_type"), "type of token 6 is 7");
    raw_set_i32s(&raw, T("token_type"), (const int32_t[]){1, 1, 1, 1, 1, 1, 1, -1}, 8);
    refuse_key(T("token_type"), "type of token 7 is -1");
    raw_set_strings(&raw, T("token_type"), letters, 8);
    refuse_key(T("token_type"), "an array of integers is needed");
    fresh();
    static const float scores[9];
    raw_set_array(&raw, T("scores"), F32, 9, scores, sizeof scores);
    refuse_key(T("scores"), "has 9 elements for 8 tokens");
    raw_set_array(&raw, T("scores"), F32, 8, scores, 8 * sizeof *scores);
    accept_raw();
    raw_set_strings(&raw, T("scores"), letters, 8);
    refuse_key(T("scores"), "an array of floats is needed");
    fresh();
    raw_set_string(&raw, T("model"), "llama");
    refuse_key(T("model"), "only gpt2");
    fresh();
    raw_set_string(&raw, T("pre"), "llama-bpe");
    refuse_key(T("pre"), "only qwen2");
}

static void group_37_special_ids(void **state) {
    (void)state;
    static const char *const keys[] = {T("bos_token_id"), T("eos_token_id"), T("eot_token_id")};
    for (size_t i = 0; i < COUNT(keys); i++) {
        const struct bad_value values[] = {
            {keys[i], I32, UINT32_MAX, "is -1; it must not be negative"},
            {keys[i], U32, 8, "is 8; it must be 0 to 7"},
            {keys[i], U32, UINT32_MAX, "must be 0 to 7"},
            {keys[i], U64, (uint64_t)1 << 32, "must be 0 to 7"},
            {keys[i], STRING, 0, "an integer is needed"},
        };
        refuse_values(values, COUNT(values));
        fresh();
        raw_set_u32(&raw, keys[i], 7);
        accept_raw();
    }
    static const struct bad_value values[] = {
        {T("padding_token_id"), U32, 8, "must be 0 to 7"},
        {T("padding_token_id"), I32, (uint32_t)-2, "must not be negative"},
        {T("padding_token_id"), STRING, 0, "an integer is needed"},
        {T("add_bos_token"), U32, 1, "a bool is needed"},
    };
    refuse_values(values, COUNT(values));
}

static void group_38_merges(void **state) {
    (void)state;
    static const char *const odd[][3] = {
        {"ab", "cd", "x"}, {"no such", "parts here", "a zz"}, {"a b", "ab a", "aba b"}, {"a b", "a b", "a b"}};
    for (size_t i = 0; i < COUNT(odd); i++) {
        fresh();
        raw_set_strings(&raw, T("merges"), odd[i], 3);
        accept_raw(); /* what merges say is the tokenizer's to judge */
    }
    raw_set_i32s(&raw, T("merges"), (const int32_t[]){1}, 1);
    refuse_key(T("merges"), "an array of strings is needed");
    /* ten million empty strings: first in a file without room for them, then in one with */
    raw_set_array(&raw, T("merges"), STRING, 10000000, "", 0);
    refuse_key(T("merges"), "cannot fit");
    const struct raw_key *key = raw_key_find(&raw, T("merges"));
    if (write_raw_sparse(200 * MIB))
        refuse_file(refuse_path, true, T("merges"), "larger than 48 MiB", key->at, key->payload_at + 13);
    /* three million do fit the metadata limit, but not the merge limit */
    fresh();
    raw_drop_key(&raw, T("merges"));
    struct text zeros = repeated("\1", 0);
    for (int i = 0; i < 3000000; i++) raw_u64(&zeros, 0);
    raw_set_array(&raw, T("merges"), STRING, 3000000, zeros.ptr, zeros.len);
    text_free(&zeros);
    refuse_key(T("merges"), "has 3000000 strings; at most 2097152 are allowed");
}

static void group_39_token_texts(void **state) {
    (void)state;
    struct text long_text = repeated("x", MIB);
    const char *const odd[][8] = {
        {"", "b", "c", "d", "e", "f", "g", "h"},
        {"a", "a", "a", "a", "a", "a", "a", "a"},
        {long_text.ptr, "b", "c", "d", "e", "f", "g", "h"},
        {"\xff\xfe", " ", "\n", "\xe4\xb8\xad", "e", "f", "g", "h"},
    };
    for (size_t i = 0; i < COUNT(odd); i++) {
        fresh();
        raw_set_strings(&raw, T("tokens"), odd[i], 8);
        accept_raw(); /* what tokens say is the tokenizer's to judge */
    }
    text_free(&long_text);
}

static void group_40_chat_templates(void **state) {
    (void)state;
    struct text nested = repeated("{% if a %}", 100000);
    const char *const odd[] = {"{% for x in range(10**18) %}x{% endfor %}", nested.ptr, "{{ 1 // 0 }}", "", "{{", "\xff\n\1"};
    for (size_t i = 0; i < COUNT(odd); i++) {
        fresh();
        raw_set_string(&raw, "tokenizer.chat_template", odd[i]);
        accept_raw(); /* only text here: nothing runs it */
    }
    text_free(&nested);
    raw_drop_key(&raw, "tokenizer.chat_template");
    struct text head = {0};
    raw_u64(&head, 100 * MIB);
    raw_set(&raw, "tokenizer.chat_template", STRING, head.ptr, head.len);
    text_free(&head);
    refuse_key("tokenizer.chat_template", "but the file ends after");
    const struct raw_key *key = raw_key_find(&raw, "tokenizer.chat_template");
    if (write_raw_sparse(200 * MIB))
        refuse_file(refuse_path, true, "'tokenizer.chat_template'", "at most 16777216 are allowed", key->at,
                    key->payload_at + 1);
    fresh();
    raw_set_u32(&raw, "tokenizer.chat_template", 1);
    refuse_key("tokenizer.chat_template", "a string is needed");
}

/* ---- tensors: 53, 54 ----------------------------------------------------------------------------------------- */

static void group_53_shapes_that_disagree(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint64_t a, b, x;
        const char *problem;
    } wrong[] = {
        {"blk.0.ffn_gate_exps.weight", 8, 4, 1, "8 x 4 x 1 x 1; the model's shape needs 8 x 4 x 2"},
        {"blk.0.ffn_up_exps.weight", 8, 5, 2, "needs 8 x 4 x 2"},
        {"blk.0.ffn_down_exps.weight", 8, 4, 2, "needs 4 x 8 x 2"},
        {"blk.0.ffn_gate_inp.weight", 2, 8, 0, "2 x 8 x 1 x 1; the model's shape needs 8 x 2"},
        {"blk.0.attn_k.weight", 8, 8, 0, "needs 8 x 4"},
        {"blk.0.attn_norm.weight", 8, 2, 0, "needs 8 x 1"},
        {"blk.0.attn_q_norm.weight", 8, 0, 0, "needs 4 x 1"},
        {"output_norm.weight", 4, 0, 0, "needs 8 x 1"},
        {"output.weight", 8, 7, 0, "needs 8 x 8"},
        {"token_embd.weight", 8, 7, 0, "has 7 rows for 8 tokens"},
        {"token_embd.weight", 8, 8, 2, "needs 8 x 8 x 1"},
    };
    for (size_t i = 0; i < COUNT(wrong); i++) {
        fresh();
        struct raw_tensor *t = raw_find(&raw, wrong[i].name);
        t->n_dims = wrong[i].x ? 3 : wrong[i].b ? 2 : 1;
        t->ne[0] = wrong[i].a;
        t->ne[1] = wrong[i].b;
        t->ne[2] = wrong[i].x;
        raw_place(&raw);
        refuse_tensor(wrong[i].name, wrong[i].problem);
    }
    fresh();
    raw_set_u32(&raw, K("expert_count"), 128);
    raw_find(&raw, "blk.0.ffn_gate_inp.weight")->ne[1] = 128;
    raw_find(&raw, "blk.0.ffn_gate_exps.weight")->ne[2] = 128;
    raw_find(&raw, "blk.0.ffn_down_exps.weight")->ne[2] = 127;
    raw_find(&raw, "blk.0.ffn_up_exps.weight")->ne[2] = 128;
    raw_place(&raw);
    refuse_tensor("blk.0.ffn_down_exps.weight", "4 x 8 x 127 x 1; the model's shape needs 4 x 8 x 128");
    fresh();
    raw_find(&raw, "output.weight")->n_dims = 4; /* a fourth extent where none may be */
    raw_find(&raw, "output.weight")->ne[2] = 1;
    raw_find(&raw, "output.weight")->ne[3] = 2;
    raw_place(&raw);
    refuse_tensor("output.weight", "8 x 8 x 1 x 2");
    fresh(); /* merged form of the wrong height */
    raw_drop(&raw, "blk.0.ffn_gate_exps.weight");
    raw_drop(&raw, "blk.0.ffn_up_exps.weight");
    raw_add(&raw, "blk.0.ffn_gate_up_exps.weight", 1, 8, 4, 2);
    refuse_tensor("blk.0.ffn_gate_up_exps.weight", "needs 8 x 8 x 2");
}

/* More rows than any vocabulary; room for them is cheap in a sparse file. */
static void group_53_too_many_rows(void **state) {
    (void)state;
    for (size_t i = raw.n_keys; i-- > 0;)
        if (strncmp(raw.keys[i].name.ptr, "tokenizer.", 10) == 0) raw_drop_key(&raw, raw.keys[i].name.ptr);
    raw_find(&raw, "token_embd.weight")->ne[1] = (2 << 20) + 1;
    raw_place(&raw);
    const struct raw_tensor *t = raw_find(&raw, "token_embd.weight");
    if (write_raw_sparse(64 * MIB))
        refuse_file(refuse_path, true, "'token_embd.weight'", "at most 2097152 are allowed", t->at, t->at + 1);
}

static void group_54_missing_tensors(void **state) {
    (void)state;
    static const char *const needed[] = {"token_embd.weight",        "output_norm.weight",        "blk.0.attn_norm.weight",
                                         "blk.0.attn_q.weight",      "blk.0.attn_k.weight",       "blk.0.attn_v.weight",
                                         "blk.0.attn_output.weight", "blk.0.attn_q_norm.weight",  "blk.0.attn_k_norm.weight",
                                         "blk.0.ffn_norm.weight",    "blk.0.ffn_gate_inp.weight", "blk.0.ffn_gate_exps.weight",
                                         "blk.0.ffn_up_exps.weight", "blk.0.ffn_down_exps.weight"};
    for (size_t i = 0; i < COUNT(needed); i++) {
        fresh();
        raw_drop(&raw, needed[i]);
        refuse_without_tensor(needed[i]);
    }
    fresh(); /* no head of its own: tied, whether the file says so or not */
    raw_drop(&raw, "output.weight");
    accept_raw();
    raw_set_bool(&raw, K("tie_word_embeddings"), 0);
    accept_raw();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        GROUP(group_27_architecture),
        GROUP(group_28_block_count),
        GROUP(group_29_heads),
        GROUP(groups_30_and_31_experts_and_widths),
        GROUP(groups_32_to_34_numbers),
        GROUP(groups_35_and_36_token_arrays),
        GROUP(group_37_special_ids),
        GROUP(group_38_merges),
        GROUP(group_39_token_texts),
        GROUP(group_40_chat_templates),
        GROUP(group_53_shapes_that_disagree),
        GROUP(group_53_too_many_rows),
        GROUP(group_54_missing_tensors),
    };
    return cmocka_run_group_tests(tests, refuse_make_folder, refuse_drop_folder);
}

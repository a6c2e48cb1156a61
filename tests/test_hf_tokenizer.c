/* The tokenizer of a model directory: the same tokens, types, merges, ids and template as a GGUF file of the model has, also
 * for the published Qwen3 tokenizer; other kinds of tokenizers and damaged files are refused by name. */
#include "tests/support/refuse_dir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/model_tokenizer.h"

static void renew(void) {
    raw_hf_dense(&hf);
    raw_hf_tokenizer(&hf);
}

static int setup(void **state) {
    if (refuse_dir_setup(state) != 0) return -1;
    raw_hf_tokenizer(&hf);
    return 0;
}

#define DIRECTORY(test) cmocka_unit_test_setup_teardown(test, setup, refuse_dir_teardown)

static struct model *open_dir(bool need_weights) {
    struct model *m;
    struct reason why = {0};
    raw_hf_write(&hf);
    if (measured_open(hf.folder, need_weights, &m, &why) != ERR_NONE) fail_test("refused: %s", why.text);
    return m;
}

static void expect_span(struct span s, const char *text) {
    if (!span_equal(s, span_of(text))) fail_test("'%.*s' is not '%s'", (int)s.len, s.ptr, text);
}

static void expect_merges(const struct model *m) {
    assert_int_equal(m->vocab.n_merges, 2);
    expect_span(m->vocab.merges[0], "a b");
    expect_span(m->vocab.merges[1], "ab c");
}

/* ---- good ones --------------------------------------------------------------------------------------------------------- */

static void reads_a_small_tokenizer(void **state) {
    (void)state;
    struct model *m = open_dir(true);
    const struct model_vocab *v = &m->vocab;
    assert_int_equal(v->n_tokens, 264);
    expect_span(v->tokens['a'], "a");
    expect_span(v->tokens[257], "abc");
    expect_span(v->tokens[259], "<|im_end|>");
    expect_span(v->tokens[261], "[PAD261]");
    const int32_t types[] = {1, 3, 3, 4, 5, 5, 5};
    for (int i = 0; i < 7; i++)
        assert_int_equal(v->types[257 + i], types[i]); /* <|im_end|> is control though it does not say so */
    expect_merges(m);
    expect_span(v->model, "gpt2");
    expect_span(v->pre, "qwen2");
    assert_true(v->bos == 0 && v->eos == 259 && v->pad == 258 && v->eot == -1 && !v->add_bos);
    expect_span(m->chat_template, "{% if x %}\n\xc3\xa9");
    struct tokenizer *t = open_tokenizer(&m->vocab);
    struct token_list ids = {0};
    assert_int_equal(tokenizer_encode(t, SPAN("abc<think> ab"), PARSE_SPECIAL, &ids, NULL), ERR_NONE);
    const int32_t expected[] = {257, 260, ' ', 256};
    assert_int_equal(ids.len, 4);
    assert_memory_equal(ids.ids, expected, sizeof expected);
    assert_true(tokenizer_is_unused(t, 263) && tokenizer_is_end(t, 259));
    token_list_free(&ids);
    tokenizer_close(&t);
    model_close(&m);
}

static void reads_other_spellings(void **state) {
    (void)state;
    raw_hf_replace(&hf.tokenizer, "[[\"a\", \"b\"], [\"ab\", \"c\"]]", "[\"a b\", \"ab c\"]");
    struct model *m = open_dir(true);
    expect_merges(m);
    model_close(&m);
    raw_hf_replace(&hf.tokenizer, "\"normalizer\": {\"type\": \"NFC\"}", "\"normalizer\": null");
    raw_hf_replace(&hf.tokenizer, "\"id\": 258, \"content\": \"<|endoftext|>\"", "\"content\": \"<|endoftext|>\", \"id\": 258");
    m = open_dir(false);
    expect_merges(m);
    model_close(&m);
    renew(); /* an added token that is in the vocabulary, too */
    raw_hf_replace(&hf.tokenizer, "\"ab\": 256", "\"ab\": 256, \"<think>\": 260");
    m = open_dir(true);
    assert_int_equal(m->vocab.types[260], 4);
    model_close(&m);
}

static void finds_the_ids(void **state) {
    (void)state;
    text_clear(&hf.tokenizer_config);
    struct model *m = open_dir(true);
    assert_true(m->vocab.bos == 0 && m->vocab.eos == 2 && m->vocab.pad == -1 && m->chat_template.len == 0); /* config.json's */
    model_close(&m);
    text_addf(&hf.generation, "{\"eos_token_id\": [258, 259], \"pad_token_id\": 258, \"temperature\": 0.7}");
    m = open_dir(true);
    assert_true(m->vocab.bos == 0 && m->vocab.eos == 258 && m->vocab.eot == 259 && m->vocab.pad == 258);
    model_close(&m);
    text_addf(&hf.tokenizer_config, "{\"eos_token\": \"<|im_end|>\", \"add_bos_token\": true}");
    m = open_dir(true);
    assert_true(m->vocab.eos == 259 && m->vocab.eot == 258 && m->vocab.add_bos);
    model_close(&m);
    text_clear(&hf.generation);
    text_addf(&hf.generation, "{\"bos_token_id\": 264}");
    raw_hf_write(&hf);
    refuse_file(hf.folder, true, "'tokenizer.ggml.bos_token_id'", "is 264; it must be 0 to 263", 0, 0);
}

static void finds_the_template(void **state) {
    (void)state;
#define OWN "\"{% if x %}\\n\\u00e9\""
    static const struct {
        const char *json, *expected;
    } cases[] = {
        {"[{\"name\": \"tool_use\", \"template\": \"T\"}, {\"name\": \"default\", \"template\": \"D\"}]", "D"},
        {"[{\"template\": \"D\", \"name\": \"default\"}, {\"name\": \"rag\", \"template\": \"R\"}]", "D"},
        {"[{\"name\": \"tool_use\", \"template\": \"T\"}]", "T"},
        {"[]", ""},
        {"null", ""},
        {"\"\"", ""},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        renew();
        raw_hf_replace(&hf.tokenizer_config, OWN, cases[i].json);
        struct model *m = open_dir(true);
        expect_span(m->chat_template, cases[i].expected);
        model_close(&m);
    }
    renew();
    text_addf(&hf.jinja, "from the file\n");
    struct model *m = open_dir(true);
    expect_span(m->chat_template, "from the file\n");
    model_close(&m);
    text_clear(&hf.tokenizer); /* the template command needs no vocabulary */
    m = open_dir(true);
    assert_int_equal(m->vocab.n_tokens, 0);
    expect_span(m->chat_template, "from the file\n");
    model_close(&m);
    static const char *const bad[] = {"[3]", "[{\"name\": 3}]", "[{\"template\": []}]"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        renew();
        raw_hf_replace(&hf.tokenizer_config, OWN, bad[i]);
        raw_hf_write(&hf);
        refuse_file(hf.folder, true, "tokenizer_config.json: at byte", "key 'chat_template'", 0, 0);
    }
}

static void needs_no_weights(void **state) {
    (void)state;
    hf.n = 0;
    struct model *m = open_dir(false);
    assert_int_equal(m->vocab.n_tokens, 264);
    model_close(&m);
    text_clear(&hf.config); /* a folder with nothing but a tokenizer */
    m = open_dir(false);
    assert_int_equal(m->vocab.n_tokens, 261);
    assert_int_equal(m->shape.n_vocab, 261);
    assert_int_equal(m->vocab.bos, -1);
    struct tokenizer *t = open_tokenizer(&m->vocab);
    tokenizer_close(&t);
    model_close(&m);
}

/* ---- the published one ------------------------------------------------------------------------------------------------- */

static void reads_the_qwen3_tokenizer(void **state) {
    (void)state;
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json"};
    const char *gguf = SHARED_DIR "/golden/tokenizer/qwen3-vocab.gguf";
    if (access(gguf, R_OK) != 0 || access(SHARED_DIR "/data/qwen3-tokenizer/tokenizer.json", R_OK) != 0) {
        print_message("[  NOTE    ] no %s\n", gguf);
        skip();
    }
    renew();
    raw_hf_replace(&hf.config, "\"vocab_size\": 264", "\"vocab_size\": 151936");
    raw_hf_replace(&hf.config, "\"bos_token_id\": 0", "\"bos_token_id\": 151643");
    hf.n = 0;
    text_clear(&hf.tokenizer);
    text_clear(&hf.tokenizer_config);
    raw_hf_write(&hf);
    for (int i = 0; i < 2; i++) {
        char from[300], to[200];
        snprintf(from, sizeof from, SHARED_DIR "/data/qwen3-tokenizer/%s", files[i]);
        snprintf(to, sizeof to, "%s/%s", hf.folder, files[i]);
        assert_int_equal(symlink(from, to), 0);
    }
    struct model *m, *reference;
    struct reason why = {0};
    if (model_open(hf.folder, false, &m, &why) != ERR_NONE) fail_test("%s", why.text);
    if (model_open(gguf, false, &reference, &why) != ERR_NONE) fail_test("%s", why.text);
    const struct model_vocab *a = &m->vocab, *b = &reference->vocab;
    assert_int_equal(a->n_tokens, b->n_tokens);
    for (size_t i = 0; i < a->n_tokens; i++) {
        if (!span_equal(a->tokens[i], b->tokens[i]) || a->types[i] != b->types[i])
            fail_test("token %zu: '%.*s' of type %d, not '%.*s' of type %d", i, (int)a->tokens[i].len, a->tokens[i].ptr,
                      a->types[i], (int)b->tokens[i].len, b->tokens[i].ptr, b->types[i]);
    }
    assert_int_equal(a->n_merges, b->n_merges);
    for (size_t i = 0; i < a->n_merges; i++)
        if (!span_equal(a->merges[i], b->merges[i])) fail_test("merge %zu", i);
    assert_int_equal(a->eos, b->eos);
    assert_int_equal(a->bos, b->bos);
    assert_int_equal(a->pad, b->pad);
    assert_int_equal(a->eot, b->eot);
    assert_int_equal(a->add_bos, b->add_bos);
    assert_true(span_equal(a->model, b->model) && span_equal(a->pre, b->pre));
    assert_true(span_equal(m->chat_template, reference->chat_template));
    model_close(&m);
    model_close(&reference);
}

/* ---- bad ones ---------------------------------------------------------------------------------------------------------- */

static void refuses_tokenizers(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *problem;
    } cases[] = {
        {"\"type\": \"BPE\"", "\"type\": \"Unigram\"", "'model.type' is not as in the tokenizers of Qwen2 and Qwen3"},
        {"\"byte_fallback\": false", "\"byte_fallback\": true", "'model.byte_fallback' is not as"},
        {"\"continuing_subword_prefix\": \"\"", "\"continuing_subword_prefix\": \"##\"",
         "'model.continuing_subword_prefix' is not as"},
        {"\"type\": \"NFC\"", "\"type\": \"NFKC\"", "'normalizer: type' is not as"},
        {"\\\\p{N}| ", "\\\\p{N}{1,3}| ", "'pre_tokenizer: Regex' is not as"},
        {"\"behavior\": \"Isolated\"", "\"behavior\": \"Removed\"", "'pre_tokenizer: behavior' is not as"},
        {"\"use_regex\": false", "\"use_regex\": true", "'pre_tokenizer: use_regex' is not as"},
        {"\"type\": \"Split\"", "\"type\": \"Digits\"", "the pre-tokenizer is not that of Qwen2 and Qwen3"},
        {"\"pre_tokenizer\"", "\"pre_tokenizer\": null, \"other\"", "the pre-tokenizer is not that of Qwen2 and Qwen3"},
        {"\"model\"", "\"other\"", "it holds no model.vocab"},
        {"\"vocab\"", "\"other\"", "it holds no model.vocab"},
        {"\"!\": 33", "\"!\": 34", "its id 34 belongs to"},
        {"\"!\": 33", "\"!\": -1", "a token's id must be a whole number"},
        {"\"!\": 33", "\"!\": 33.0", "a token's id must be a whole number"},
        {"\"!\": 33", "\"!\": \"33\"", "a token's id must be a whole number"},
        {"\"!\": 33", "\"!\": 2097152", "a token's id must be a whole number below"},
        {"\"!\": 33", "\"!\": 264", "its id 264 is beyond 'vocab_size' in config.json, 264"},
        {"\"id\": 260", "\"id\": 257", "its id 257 belongs to '<think>' already"},
        {"\"id\": 260", "\"id\": 264", "its id 264 is beyond"},
        {"\"id\": 260, ", "", "an added token without id or content"},
        {"\"content\": \"<think>\"", "\"content\": \"\"", "an added token without id or content"},
        {"\"content\": \"<think>\"", "\"content\": 3", "content must be a string"},
        {"\"special\": true", "\"special\": 1", "flag must be true or false"},
        {"\"lstrip\": false", "\"lstrip\": true", "match white space or whole words only are not supported"},
        {"\"added_tokens\": [", "\"added_tokens\": [3, ", "added_tokens must hold objects"},
        {"\"added_tokens\": [", "\"added_tokens\": 3, \"others\": [", "added_tokens must be an array"},
        {"[\"a\", \"b\"]", "[\"a\"]", "a merge must be two strings"},
        {"[\"a\", \"b\"]", "[\"a\", \"b\", \"c\"]", "a merge must be two strings"},
        {"[\"a\", \"b\"]", "[\"a \", \"b\"]", "a merge must be two strings without spaces"},
        {"[\"a\", \"b\"]", "{}", "a merge must be a string or a pair"},
        {"\"merges\": [", "\"merges\": 3, \"x\": [", "model.merges must be an array"},
        {"\"vocab\": {", "\"vocab\": 3, \"x\": {", "model.vocab must be an object"},
        {"{\"version\"", "[{\"version\"", "a JSON object is expected"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        renew();
        raw_hf_replace(&hf.tokenizer, cases[i].from, cases[i].to);
        raw_hf_write(&hf);
        refuse_file(hf.folder, true, "", cases[i].problem, 0, 0);
    }
    renew(); /* two tokens fewer than rows is right; a vocabulary of another size is not */
    raw_hf_replace(&hf.config, "\"vocab_size\": 264", "\"vocab_size\": 250000");
    raw_hf_write(&hf);
    refuse_file(hf.folder, true, "tokenizer.json", "has 261 tokens for a 'vocab_size' of 250000", 0, 0);
    renew();
    raw_hf_replace(&hf.tokenizer_config, "\"<|im_end|>\"", "\"<|none|>\"");
    raw_hf_write(&hf);
    refuse_file(hf.folder, true, "tokenizer_config.json: key 'eos_token' at byte",
                "is '<|none|>', which tokenizer.json does not have", 0, 0);
}

/* Files cut at any byte are refused, and nothing worse. */
static void refuses_cut_files(void **state) {
    (void)state;
    hf.n = 0;
    raw_hf_write(&hf);
    for (size_t len = 0; len < hf.tokenizer.len - 2; len += 7) {
        struct model *m;
        struct reason why = {0};
        raw_hf_put(&hf, "tokenizer.json", hf.tokenizer.ptr, len);
        assert_int_equal(model_open(hf.folder, false, &m, &why), ERR_FORMAT);
        judge(&why, hf.folder, "tokenizer.json: at byte", "not valid JSON", 0, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        DIRECTORY(reads_a_small_tokenizer), DIRECTORY(reads_other_spellings), DIRECTORY(finds_the_ids),
        DIRECTORY(finds_the_template),      DIRECTORY(needs_no_weights),      DIRECTORY(reads_the_qwen3_tokenizer),
        DIRECTORY(refuses_tokenizers),      DIRECTORY(refuses_cut_files),
    };
    return cmocka_run_group_tests(tests, refuse_make_folder, refuse_drop_folder);
}

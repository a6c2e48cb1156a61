/* libFuzzer target: a request as JSON text, rendered by every family and tokenized with the small vocabulary.
 *
 * What is printed reads back as the same value; pieces cover the prompt; ids spell it; added tokens come from template pieces
 * alone. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "tests/support/small_vocab.h"
#include "text/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_printing(const json_t *value) {
    struct text printed = {0};
    json_t *again;
    json_write_python(value, &printed);
    const enum err err = json_read((struct span){printed.ptr, printed.len}, &again, NULL);
    assert(err == ERR_NONE && json_equal(value, again));
    json_decref(again);
    text_clear(&printed);
    json_write_python_str(value, &printed);
    text_free(&printed);
}

static size_t count_added(const struct tokenizer *t, const struct token_list *ids) {
    size_t n = 0;
    for (size_t i = 0; i < ids->len; i++) n += tokenizer_find(t, tokenizer_bytes(t, ids->ids[i])) == ids->ids[i];
    return n;
}

static size_t added_in_template(const struct tokenizer *t, const struct chat_prompt *p) {
    size_t n = 0;
    for (size_t i = 0; i < p->n_pieces; i++) {
        struct token_list ids = {0};
        if (p->pieces[i].content) continue;
        const enum err err = tokenizer_encode(t, p->pieces[i].text, PARSE_SPECIAL, &ids, NULL);
        assert(err == ERR_NONE);
        n += count_added(t, &ids);
        token_list_free(&ids);
    }
    return n;
}

static void check_prompt(const struct tokenizer *t, const struct chat_prompt *p) {
    const char *at = p->text.ptr;
    for (size_t i = 0; i < p->n_pieces; at += p->pieces[i++].text.len)
        assert(p->pieces[i].text.ptr == at && p->pieces[i].text.len > 0);
    assert(at == p->text.ptr + p->text.len);
    struct token_list ids = {0};
    const enum err err = chat_tokenize(t, p, &ids, NULL);
    assert(err == ERR_NONE);
    size_t from = 0;
    for (size_t i = 0; i < ids.len; i++) {
        const struct span bytes = tokenizer_bytes(t, ids.ids[i]);
        assert(bytes.len <= p->text.len - from && memcmp(p->text.ptr + from, bytes.ptr, bytes.len) == 0);
        from += bytes.len;
    }
    assert(from == p->text.len && count_added(t, &ids) == added_in_template(t, p));
    token_list_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_t *request;
    struct reason why = {""};
    if (json_read((struct span){(const char *)data, size}, &request, &why) != ERR_NONE) {
        assert(why.text[0] && !request);
        return 0;
    }
    check_printing(request);
    static struct small_vocab vocab;
    small_vocab_fill(&vocab);
    vocab.source.no_nfc = true;
    struct tokenizer *t;
    const enum err err = tokenizer_open(&vocab.source, &t, NULL);
    assert(err == ERR_NONE);
    for (int f = 0; f < CHAT_FAMILY_COUNT; f++) {
        const struct chat_request r = {.messages = json_object_get(request, "messages"),
                                       .tools = json_object_get(request, "tools"),
                                       .add_generation_prompt = true,
                                       .enable_thinking = (int)size % 3 - 1};
        struct chat_prompt p;
        why.text[0] = 0;
        if (chat_render((enum chat_family)f, &r, &p, &why) == ERR_NONE)
            check_prompt(t, &p);
        else
            assert(why.text[0] && !p.text.ptr && !p.pieces);
        chat_prompt_free(&p);
    }
    tokenizer_close(&t);
    json_decref(request);
    return 0;
}

/* tokenize: text on stdin -> ids separated by spaces on one line. detokenize: such a line -> the text, byte for byte.
 *
 * Both read only the vocabulary of the file. Ids may also be separated by commas, line ends and brackets. */
#include "cli/cli.h"

static enum err encode(struct cli *c, const struct tokenizer *t, struct text *out, struct reason *why) {
    struct text input = {0};
    struct token_list ids = {0};
    enum err code = cli_read_file("-", &input, why);
    if (!code)
        code = tokenizer_encode(t, (struct span){input.ptr, input.len}, c->options->no_special ? PARSE_TEXT : PARSE_SPECIAL,
                                &ids, why);
    for (size_t i = 0; !code && i < ids.len; i++) text_addf(out, i ? " %d" : "%d", ids.ids[i]);
    text_addf(out, "\n");
    token_list_free(&ids);
    text_free(&input);
    return code;
}

static enum err decode(struct cli *c, const struct tokenizer *t, struct text *out, struct reason *why) {
    struct text input = {0};
    struct token_list ids = {0};
    struct detokenizer d = {.show_control = !c->options->no_special};
    enum err code = cli_read_file("-", &input, why);
    if (!code) code = cli_parse_ids((struct span){input.ptr, input.len}, "stdin", &ids, why);
    for (size_t i = 0; !code && i < ids.len; i++) {
        if ((size_t)ids.ids[i] >= tokenizer_size(t))
            code = fail(why, ERR_FORMAT, "stdin: id %d, number %zu of the list, is not in the vocabulary of %zu", ids.ids[i],
                        i + 1, tokenizer_size(t));
        else
            detokenize_step(&d, t, ids.ids[i], out);
    }
    detokenize_end(&d, out);
    token_list_free(&ids);
    text_free(&input);
    return code;
}

static int convert(struct cli *c, enum err (*what)(struct cli *, const struct tokenizer *, struct text *, struct reason *)) {
    struct reason why = {{0}};
    struct engine *e = NULL;
    const struct tokenizer *t;
    struct text out = {0};
    enum err code = cli_open_engine(c, true, &e, &why);
    if (!code) code = cli_tokenizer(c, e, &t, &why);
    if (!code) code = what(c, t, &out, &why);
    if (!code && out.failed) code = fail(&why, ERR_NO_MEMORY, "no memory for the answer");
    const int status = code ? cli_fail(c, code, &why) : cli_write_text(&out) ? EXIT_DONE : EXIT_FAILED;
    text_free(&out);
    engine_close(&e);
    return status;
}

int cmd_tokenize(struct cli *c) { return convert(c, encode); }
int cmd_detokenize(struct cli *c) { return convert(c, decode); }

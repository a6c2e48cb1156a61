/* Streaming detokenizer: ids -> valid UTF-8, never cutting a character. Owns at most three held bytes, in the caller's struct.
 *
 * What comes out, joined, is the lossy decoding of the joined token bytes, wherever the tokens end. */
#include "text/tokenizer.h"
#include "text/unicode.h"

/* The start of a UTF-16 surrogate (ED A0..BF) can never become valid, yet it is held until its third byte shows, as the
 * incremental decoder that wrote the reference data does. Only the moment differs, not the text. */
static bool is_surrogate_start(const struct detokenizer *d) {
    return d->n_held == 2 && d->held[0] == 0xED && d->held[1] >> 5 == 5;
}

/* Emit what the held bytes decide, or all of them when nothing will follow. */
static void settle(struct detokenizer *d, bool last, struct text *out) {
    while (d->n_held) {
        uint32_t code;
        size_t used;
        const enum utf8_step step = utf8_decode(d->held, d->n_held, &code, &used);
        if (!last && (step == UTF8_CUT || is_surrogate_start(d))) return;
        utf8_append(out, code);
        d->n_held = (uint8_t)(d->n_held - used);
        for (size_t i = 0; i < d->n_held; i++) d->held[i] = d->held[i + used];
    }
}

void detokenize_step(struct detokenizer *d, const struct tokenizer *t, int32_t id, struct text *out) {
    if (!d->show_control && tokenizer_is_control(t, id)) return;
    const struct span bytes = tokenizer_bytes(t, id);
    for (size_t i = 0; i < bytes.len; i++) {
        d->held[d->n_held++] = (uint8_t)bytes.ptr[i];
        settle(d, false, out);
    }
}

void detokenize_end(struct detokenizer *d, struct text *out) { settle(d, true, out); }

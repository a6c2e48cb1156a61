/* Byte-level BPE: loads a GGUF vocabulary and turns text into ids. Owns the vocabulary as raw bytes, the added tokens and the
 * pair map; never decides which text is trusted (the caller's enum token_parse does) and never prints.
 *
 * Encoding: added tokens cut the text into segments; each segment is decoded lossily and normalized when it needs it,
 * pre-tokenized into pieces, and each piece starts as single bytes and is merged. A struct tokenizer is immutable; all
 * state of a call is in struct encoder on the caller's stack. */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "text/bpe.h"
#include "text/pretokenize.h"
#include "text/unicode.h"

enum {
    MAX_TOKENS = 1 << 20, /* about four times the largest published vocabularies */
    MAX_MERGES = 1 << 20,
    MAX_TOKEN_BYTES = 4096, /* of a token as stored */
    MAX_ADDED_BYTES = 256,  /* bounds the cost of matching at one position */
    MAX_TEXT_BYTES = 1 << 30,
};

enum { TYPE_UNDEFINED, TYPE_NORMAL, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED }; /* tokenizer.ggml.token_type */
enum { IS_CONTROL = 1, IS_USER = 2, IS_UNUSED = 4, IS_END = 8 };

struct added_token {
    struct span text; /* into bytes */
    int32_t id;
};

struct tokenizer {
    size_t n_tokens;
    char *bytes;       /* all tokens decoded, one after the other */
    uint32_t *offsets; /* [n_tokens + 1] into bytes */
    uint8_t *flags;    /* [n_tokens] */
    int32_t byte_ids[256];
    struct bpe bpe;
    struct added_token *added; /* [n_added] sorted by text */
    size_t n_added;
    uint32_t added_from[257]; /* added tokens whose first byte is b: [added_from[b], added_from[b + 1]) */
    int32_t bos;
    bool nfc;
};

/* ---- loading: stored strings -> ids --------------------------------------------------------------------------------- */

/* Maps the tokens' stored strings to ids; lives only while the vocabulary is loaded. */
struct string_slot {
    int32_t id; /* -1: empty */
    uint32_t hash;
};

struct string_map {
    const struct span *strings;
    struct string_slot *slots;
    size_t mask;
};

static uint64_t hash_string(struct span s) {
    uint64_t hash = s.len;
    for (; s.len >= 8; s.ptr += 8, s.len -= 8) {
        uint64_t word;
        memcpy(&word, s.ptr, 8);
        hash = hash_mix(hash ^ word);
    }
    uint64_t word = 0;
    if (s.len) memcpy(&word, s.ptr, s.len);
    return hash_mix(hash ^ word);
}

static enum err string_map_open(const struct span *strings, size_t n, struct string_map *out, struct reason *why) {
    size_t slots = 16;
    while (slots / 2 < n) slots *= 2;
    *out = (struct string_map){.strings = strings, .mask = slots - 1};
    out->slots = calloc_checked(slots, sizeof *out->slots);
    if (!out->slots) return fail(why, ERR_NO_MEMORY, "tokenizer: no memory for %zu tokens", n);
    memset(out->slots, 0xFF, slots * sizeof *out->slots);
    return ERR_NONE;
}

/* The slot that holds `s` or the empty one where it belongs; SIZE_MAX: too many probes. */
static size_t string_map_slot(const struct string_map *map, struct span s, uint32_t *hash) {
    const uint64_t full = hash_string(s);
    *hash = (uint32_t)(full >> 32);
    size_t at = full & map->mask;
    for (int probes = 0; probes < HASH_MAX_PROBES; probes++, at = (at + 1) & map->mask) {
        const struct string_slot slot = map->slots[at];
        if (slot.id < 0 || (slot.hash == *hash && span_equal(map->strings[slot.id], s))) return at;
    }
    return SIZE_MAX;
}

static int32_t string_map_find(const struct string_map *map, struct span s) {
    uint32_t hash;
    const size_t at = string_map_slot(map, s, &hash);
    return at == SIZE_MAX ? -1 : map->slots[at].id;
}

static enum err string_map_add(struct string_map *map, int32_t id, struct reason *why) {
    uint32_t hash;
    const size_t at = string_map_slot(map, map->strings[id], &hash);
    if (at == SIZE_MAX)
        return fail(why, ERR_FORMAT, "tokenizer: token %d: the vocabulary is built to collide; refusing it", id);
    if (map->slots[at].id >= 0)
        return fail(why, ERR_FORMAT, "tokenizer: tokens %d and %d have the same text; the file is damaged", map->slots[at].id,
                    id);
    map->slots[at] = (struct string_slot){id, hash};
    return ERR_NONE;
}

/* ---- loading: tokens ------------------------------------------------------------------------------------------------ */

/* Bytes that are printable in Latin-1 stand for themselves; the other 68 are U+0100, U+0101... in increasing order. */
enum { STAND_INS = 0x100 + 68 };

static void fill_stand_ins(int16_t byte_of[STAND_INS]) {
    memset(byte_of, 0xFF, STAND_INS * sizeof *byte_of);
    int16_t other = 0x100;
    for (int16_t b = 0; b < 256; b++) {
        const bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        byte_of[itself ? b : other++] = b;
    }
}

/* Converters fill rows without a token with "[PAD<id>]", whatever type they give them. */
static bool is_padding(struct span s, size_t id) {
    if (!span_starts(s, SPAN("[PAD")) || s.len < 6 || s.len > 14 || s.ptr[s.len - 1] != ']') return false;
    size_t value = 0;
    for (size_t i = 4; i + 1 < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9') return false;
        value = value * 10 + (size_t)(s.ptr[i] - '0');
    }
    return value == id;
}

static bool is_bar_token(struct span s) {
    return s.len > 4 && span_starts(s, SPAN("<|")) && memcmp(s.ptr + s.len - 2, "|>", 2) == 0;
}

/* Old converters typed every added <|...|> token as user-defined; read as control it cannot be typed in by a user. */
static enum err flags_of(const struct tokenizer_source *source, size_t id, uint8_t *out, struct reason *why) {
    const struct span s = source->tokens[id];
    const int32_t type = source->types ? source->types[id] : TYPE_NORMAL;
    *out = 0;
    if (type == TYPE_UNUSED || is_padding(s, id))
        *out = IS_UNUSED;
    else if (type == TYPE_CONTROL || type == TYPE_UNKNOWN || (type == TYPE_USER && is_bar_token(s)))
        *out = IS_CONTROL;
    else if (type == TYPE_USER)
        *out = IS_USER;
    else if (type != TYPE_NORMAL && type != TYPE_UNDEFINED)
        return fail(why, ERR_UNSUPPORTED, "tokenizer: token %zu has type %d, which byte-level BPE does not have", id, type);
    if (*out & IS_UNUSED) return ERR_NONE;

    const size_t limit = *out ? MAX_ADDED_BYTES : MAX_TOKEN_BYTES;
    if (s.len == 0) return fail(why, ERR_FORMAT, "tokenizer: token %zu is empty; the file is damaged", id);
    if (s.len > limit)
        return fail(why, ERR_LIMIT, "tokenizer: token %zu has %zu bytes; at most %zu are accepted", id, s.len, limit);
    return ERR_NONE;
}

/* Append the raw bytes of a token; `*end` is where they end. Room was reserved: decoding never grows. */
static enum err decode_token(const int16_t *byte_of, struct span s, size_t id, bool plain, char *bytes, uint32_t *end,
                             struct reason *why) {
    const uint8_t *in = (const uint8_t *)s.ptr;
    for (size_t at = 0, used; at < s.len; at += used) {
        uint32_t code;
        if (utf8_decode(in + at, s.len - at, &code, &used) != UTF8_GOOD)
            return fail(why, ERR_FORMAT, "tokenizer: token %zu is not valid UTF-8 at byte %zu; the file is damaged", id, at);
        if (plain) {
            memcpy(bytes + *end, in + at, used);
            *end += (uint32_t)used;
            continue;
        }
        if (code >= STAND_INS || byte_of[code] < 0)
            return fail(why, ERR_FORMAT,
                        "tokenizer: token %zu: U+%04X at byte %zu stands for no byte; not a byte-level vocabulary", id, code,
                        at);
        bytes[(*end)++] = (char)byte_of[code];
    }
    return ERR_NONE;
}

static enum err load_tokens(struct tokenizer *t, const struct tokenizer_source *source, struct string_map *map,
                            struct reason *why) {
    const size_t n = source->n_tokens;
    uint64_t total = 0;
    t->n_tokens = n;
    t->flags = calloc_checked(n, 1);
    t->offsets = calloc_checked(n + 1, sizeof *t->offsets);
    if (!t->flags || !t->offsets) return fail(why, ERR_NO_MEMORY, "tokenizer: no memory for %zu tokens", n);
    for (size_t id = 0; id < n; id++) {
        TRY(flags_of(source, id, &t->flags[id], why));
        if (!(t->flags[id] & IS_UNUSED)) total += source->tokens[id].len;
    }
    if (total > UINT32_MAX) return fail(why, ERR_LIMIT, "tokenizer: the vocabulary has %llu bytes", (unsigned long long)total);
    t->bytes = calloc_checked(total, 1);
    if (!t->bytes) return fail(why, ERR_NO_MEMORY, "tokenizer: no memory for %llu bytes", (unsigned long long)total);

    int16_t byte_of[STAND_INS];
    fill_stand_ins(byte_of);
    memset(t->byte_ids, 0xFF, sizeof t->byte_ids);
    uint32_t end = 0;
    for (size_t id = 0; id < n; id++) {
        t->offsets[id + 1] = end;
        if (t->flags[id] & IS_UNUSED) continue;
        const uint32_t start = end;
        TRY(decode_token(byte_of, source->tokens[id], id, t->flags[id] != 0, t->bytes, &end, why));
        TRY(string_map_add(map, (int32_t)id, why));
        t->offsets[id + 1] = end;
        if (t->flags[id] == 0 && end - start == 1) t->byte_ids[(uint8_t)t->bytes[start]] = (int32_t)id;
    }
    for (int b = 0; b < 256; b++)
        if (t->byte_ids[b] < 0)
            return fail(why, ERR_UNSUPPORTED, "tokenizer: no token for the byte 0x%02X; byte-level BPE needs all 256", b);
    return ERR_NONE;
}

/* ---- loading: merges and added tokens ------------------------------------------------------------------------------- */

static int32_t find_normal(const struct tokenizer *t, const struct string_map *map, struct span s) {
    const int32_t id = string_map_find(map, s);
    return id >= 0 && t->flags[id] == 0 ? id : -1;
}

static enum err load_merges(struct tokenizer *t, const struct tokenizer_source *source, const struct string_map *map,
                            struct reason *why) {
    TRY(bpe_open(source->n_merges, &t->bpe, why));
    char joined[MAX_TOKEN_BYTES];
    for (size_t rank = 0; rank < source->n_merges; rank++) {
        const struct span merge = source->merges[rank];
        if (merge.len > MAX_TOKEN_BYTES + 1)
            return fail(why, ERR_LIMIT, "tokenizer: merge %zu has %zu bytes; at most %d are accepted", rank, merge.len,
                        MAX_TOKEN_BYTES + 1);
        const char *space = merge.len ? memchr(merge.ptr, ' ', merge.len) : NULL;
        if (!space)
            return fail(why, ERR_FORMAT, "tokenizer: merge %zu has no space between its parts; the file is damaged", rank);
        const struct span left = {merge.ptr, (size_t)(space - merge.ptr)}, right = {space + 1, merge.len - left.len - 1};
        memcpy(joined, left.ptr, left.len);
        if (right.len) memcpy(joined + left.len, right.ptr, right.len);
        const int32_t left_id = find_normal(t, map, left), right_id = find_normal(t, map, right);
        const int32_t id = find_normal(t, map, (struct span){joined, left.len + right.len});
        if (left_id < 0 || right_id < 0 || id < 0)
            return fail(why, ERR_FORMAT,
                        "tokenizer: merge %zu: its %s is no ordinary token of the vocabulary; the file is damaged", rank,
                        left_id < 0    ? "left part"
                        : right_id < 0 ? "right part"
                                       : "result");
        TRY(bpe_add(&t->bpe, left_id, right_id, (uint32_t)rank, id, why));
    }
    return ERR_NONE;
}

static int compare_added(const void *a, const void *b) {
    const struct span x = ((const struct added_token *)a)->text, y = ((const struct added_token *)b)->text;
    const int order = memcmp(x.ptr, y.ptr, x.len < y.len ? x.len : y.len);
    return order ? order : (x.len > y.len) - (x.len < y.len);
}

static enum err load_added(struct tokenizer *t, struct reason *why) {
    for (size_t id = 0; id < t->n_tokens; id++) t->n_added += (t->flags[id] & (IS_CONTROL | IS_USER)) != 0;
    t->added = calloc_checked(t->n_added, sizeof *t->added);
    if (!t->added) return fail(why, ERR_NO_MEMORY, "tokenizer: no memory for %zu added tokens", t->n_added);
    size_t n = 0;
    for (size_t id = 0; id < t->n_tokens; id++)
        if (t->flags[id] & (IS_CONTROL | IS_USER))
            t->added[n++] = (struct added_token){tokenizer_bytes(t, (int32_t)id), (int32_t)id};
    qsort(t->added, n, sizeof *t->added, compare_added);
    for (size_t i = 0; i < n; i++) t->added_from[(uint8_t)t->added[i].text.ptr[0] + 1]++;
    for (int b = 0; b < 256; b++) t->added_from[b + 1] += t->added_from[b];
    return ERR_NONE;
}

static enum err load_ends(struct tokenizer *t, const struct tokenizer_source *source, const struct string_map *map,
                          struct reason *why) {
    const struct {
        const char *name;
        int32_t id;
        bool ends;
    } special[] = {
        {"bos", source->bos, false}, {"eos", source->eos, true}, {"eot", source->eot, true}, {"padding", source->pad, false}};
    for (size_t i = 0; i < sizeof special / sizeof *special; i++) {
        if (special[i].id < -1 || special[i].id >= (int32_t)t->n_tokens)
            return fail(why, ERR_FORMAT, "tokenizer: %s token id %d is outside the vocabulary of %zu", special[i].name,
                        special[i].id, t->n_tokens);
        if (special[i].ends && special[i].id >= 0) t->flags[special[i].id] |= IS_END;
    }
    const struct span names[] = {SPAN("<|im_end|>"), SPAN("<|endoftext|>")};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const int32_t id = string_map_find(map, names[i]);
        if (id >= 0) t->flags[id] |= IS_END;
    }
    t->bos = source->add_bos ? source->bos : -1;
    return ERR_NONE;
}

static uint64_t map_slots(size_t n) {
    uint64_t slots = 16;
    while (slots / 2 < n) slots *= 2;
    return slots;
}

uint64_t tokenizer_memory(const struct tokenizer_source *source) {
    if (source->n_tokens > MAX_TOKENS || source->n_merges > MAX_MERGES) return 0; /* refused */
    uint64_t bytes = sizeof(struct tokenizer) + map_slots(source->n_tokens) * sizeof(struct string_slot) +
                     map_slots(source->n_merges) * sizeof(struct bpe_pair);
    for (size_t i = 0; i < source->n_tokens; i++)
        bytes += source->tokens[i].len + 1 + sizeof(uint32_t) + sizeof(struct added_token);
    return bytes;
}

enum err tokenizer_open(const struct tokenizer_source *source, struct tokenizer **out, struct reason *why) {
    *out = NULL;
    if (source->n_tokens == 0) return fail(why, ERR_UNSUPPORTED, "tokenizer: the file holds no vocabulary");
    if (source->n_tokens > MAX_TOKENS || source->n_merges > MAX_MERGES)
        return fail(why, ERR_LIMIT, "tokenizer: %zu tokens and %zu merges; at most %d of each are accepted", source->n_tokens,
                    source->n_merges, MAX_TOKENS);
    struct string_map map = {0};
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) return fail(why, ERR_NO_MEMORY, "tokenizer: no memory");
    t->nfc = !source->no_nfc;
    enum err err = string_map_open(source->tokens, source->n_tokens, &map, why);
    if (err == ERR_NONE) err = load_tokens(t, source, &map, why);
    if (err == ERR_NONE) err = load_merges(t, source, &map, why);
    if (err == ERR_NONE) err = load_added(t, why);
    if (err == ERR_NONE) err = load_ends(t, source, &map, why);
    free(map.slots);
    if (err != ERR_NONE) tokenizer_close(&t);
    *out = t;
    return err;
}

void tokenizer_close(struct tokenizer **tokenizer) {
    struct tokenizer *t = *tokenizer;
    if (!t) return;
    bpe_close(&t->bpe);
    free(t->bytes);
    free(t->offsets);
    free(t->flags);
    free(t->added);
    free(t);
    *tokenizer = NULL;
}

/* ---- questions ------------------------------------------------------------------------------------------------------ */

static unsigned flags_at(const struct tokenizer *t, int32_t id) {
    return id >= 0 && (size_t)id < t->n_tokens ? t->flags[id] : IS_UNUSED;
}

size_t tokenizer_size(const struct tokenizer *t) { return t->n_tokens; }

struct span tokenizer_bytes(const struct tokenizer *t, int32_t id) {
    if (flags_at(t, id) & IS_UNUSED) return (struct span){"", 0};
    return (struct span){t->bytes + t->offsets[id], t->offsets[id + 1] - t->offsets[id]};
}

bool tokenizer_is_control(const struct tokenizer *t, int32_t id) { return (flags_at(t, id) & IS_CONTROL) != 0; }
bool tokenizer_is_end(const struct tokenizer *t, int32_t id) { return (flags_at(t, id) & IS_END) != 0; }
bool tokenizer_is_unused(const struct tokenizer *t, int32_t id) { return (flags_at(t, id) & IS_UNUSED) != 0; }
int32_t tokenizer_bos(const struct tokenizer *t) { return t->bos; }

int32_t tokenizer_find(const struct tokenizer *t, struct span text) {
    const struct added_token key = {.text = text};
    if (text.len == 0) return -1;
    const struct added_token *found = bsearch(&key, t->added, t->n_added, sizeof key, compare_added);
    return found ? found->id : -1;
}

/* ---- lists ---------------------------------------------------------------------------------------------------------- */

static bool list_reserve(struct token_list *list, size_t extra) {
    if (extra <= list->cap - list->len) return true;
    if (extra > SIZE_MAX / 16 - list->len) return false;
    const size_t need = list->len + extra, cap = need + need / 2 + 16;
    int32_t *ids = realloc(list->ids, cap * sizeof *ids);
    if (!ids) return false;
    list->ids = ids;
    list->cap = cap;
    return true;
}

void token_list_free(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

enum err token_list_add(struct token_list *list, int32_t id, struct reason *why) {
    if (!list_reserve(list, 1)) return fail(why, ERR_NO_MEMORY, "no memory for %zu token ids", list->len + 1);
    list->ids[list->len++] = id;
    return ERR_NONE;
}

/* ---- encoding ------------------------------------------------------------------------------------------------------- */

struct encoder {
    const struct tokenizer *t;
    struct token_list *out;
    struct text normal; /* the segment, when it had to be rewritten */
    struct bpe_scratch scratch;
};

static bool encode_piece(struct encoder *e, struct span piece) {
    struct token_list *out = e->out;
    if (!list_reserve(out, piece.len)) return false;
    int32_t *ids = out->ids + out->len;
    for (size_t i = 0; i < piece.len; i++) ids[i] = e->t->byte_ids[(uint8_t)piece.ptr[i]];
    size_t n = piece.len;
    if (!bpe_merge(&e->t->bpe, &e->scratch, ids, &n)) return false;
    out->len += n;
    return true;
}

static bool encode_segment(struct encoder *e, struct span segment) {
    if (!unicode_is_settled(segment)) {
        text_clear(&e->normal);
        unicode_normalize(segment, e->t->nfc, &e->normal);
        if (e->normal.failed) return false;
        segment = (struct span){e->normal.ptr, e->normal.len};
    }
    for (size_t at = 0, end; at < segment.len; at = end) {
        end = pretokenize_piece_end(segment, at);
        if (!encode_piece(e, (struct span){segment.ptr + at, end - at})) return false;
    }
    return true;
}

/* First added token in [low, high) whose byte at `depth` is not below `byte`; all there are longer than depth. */
static size_t added_bound(const struct tokenizer *t, size_t low, size_t high, size_t depth, unsigned byte) {
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if ((uint8_t)t->added[middle].text.ptr[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest allowed added token that `s` starts with, or NULL. The sorted list is narrowed byte by byte. */
static const struct added_token *match_added(const struct tokenizer *t, struct span s, enum token_parse parse) {
    const struct added_token *best = NULL;
    const uint8_t *bytes = (const uint8_t *)s.ptr;
    size_t low = t->added_from[bytes[0]], high = t->added_from[bytes[0] + 1];
    for (size_t depth = 1; low < high; depth++) {
        if (t->added[low].text.len == depth) {
            if (parse == PARSE_SPECIAL || !tokenizer_is_control(t, t->added[low].id)) best = &t->added[low];
            low++;
        }
        if (depth == s.len) break;
        low = added_bound(t, low, high, depth, bytes[depth]);
        high = added_bound(t, low, high, depth, bytes[depth] + 1u);
    }
    return best;
}

/* Start of the next added token at or after `at`, or the end of the text with *match NULL. */
static size_t find_added(const struct tokenizer *t, struct span text, size_t at, enum token_parse parse,
                         const struct added_token **match) {
    *match = NULL;
    if (parse == PARSE_NOTHING) return text.len;
    for (; at < text.len; at++) {
        const uint8_t first = (uint8_t)text.ptr[at];
        if (t->added_from[first] == t->added_from[first + 1]) continue;
        *match = match_added(t, (struct span){text.ptr + at, text.len - at}, parse);
        if (*match) return at;
    }
    return at;
}

bool tokenizer_has_added(const struct tokenizer *t, struct span text) {
    const struct added_token *match;
    find_added(t, text, 0, PARSE_SPECIAL, &match);
    return match != NULL;
}

enum err tokenizer_encode(const struct tokenizer *t, struct span text, enum token_parse parse, struct token_list *out,
                          struct reason *why) {
    if (text.len > MAX_TEXT_BYTES)
        return fail(why, ERR_LIMIT, "text of %zu bytes; at most %d can be tokenized at once", text.len, MAX_TEXT_BYTES);
    const size_t before = out->len;
    struct encoder e = {.t = t, .out = out};
    bool good = true;
    for (size_t at = 0; good && at < text.len;) {
        const struct added_token *match;
        const size_t found = find_added(t, text, at, parse, &match);
        good = encode_segment(&e, (struct span){text.ptr + at, found - at});
        if (good && match) {
            good = token_list_add(out, match->id, why) == ERR_NONE;
            at = found + match->text.len;
        } else {
            at = found;
        }
    }
    bpe_scratch_free(&e.scratch);
    text_free(&e.normal);
    if (good) return ERR_NONE;
    out->len = before;
    return fail(why, ERR_NO_MEMORY, "no memory to tokenize a text of %zu bytes", text.len);
}

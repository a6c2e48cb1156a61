/* Routes in memory and as bytes. Every count of a file is checked against its size before anything is allocated. */
#include "placement/routes.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const char magic[8] = "CSROUTES";
enum { VERSION = 1, HAS_EXPECTED = 1, FIRST_ROOM = 256, FIRST_TURNS = 16 };

struct header {
    char magic[8];
    uint32_t version, layers, experts, used, tokens, turns, flags, zero;
};
_Static_assert(sizeof(struct header) == 40 && sizeof(struct routes_turn) == 8, "as in the file");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are copied as they lie");

static enum err check_shape(uint32_t layers, uint32_t experts, uint32_t used, enum err code, struct reason *why) {
    if (layers < 1 || layers > ROUTES_MAX_LAYERS || experts < 1 || experts > ROUTES_MAX_EXPERTS || used < 1 ||
        used > ROUTES_MAX_USED || used > experts)
        return fail(why, code, "routes: %u layers, %u of %u experts are out of range", layers, used, experts);
    return ERR_NONE;
}

enum err routes_open(uint32_t n_layers, uint32_t n_experts, uint32_t n_used, bool expected, struct routes *out,
                     struct reason *why) {
    *out = (struct routes){0};
    TRY(check_shape(n_layers, n_experts, n_used, ERR_ARGUMENT, why));
    *out = (struct routes){.n_layers = n_layers, .n_experts = n_experts, .n_used = n_used};
    if (expected && !(out->expected = malloc(1))) return fail(why, ERR_NO_MEMORY, "no memory for routes");
    return ERR_NONE;
}

void routes_close(struct routes *r) {
    free(r->turns);
    free(r->chosen);
    free(r->expected);
    *r = (struct routes){0};
}

/* ---- recording ---------------------------------------------------------------------------------------------------- */

/* Ids of `n_tokens` tokens; false when they do not fit the address space. */
static bool count_ids(const struct routes *r, uint64_t n_tokens, uint64_t *out) {
    return size_mul(n_tokens, (uint64_t)r->n_layers * r->n_used, out) && *out <= SIZE_MAX / 4;
}

static bool grow_ids(uint16_t **ids, uint64_t n) {
    uint16_t *const grown = realloc(*ids, (size_t)n * sizeof *grown);
    if (grown) *ids = grown;
    return grown != NULL;
}

static enum err make_room(struct routes *r, uint64_t n_tokens, struct reason *why) {
    uint64_t room = r->room_tokens ? r->room_tokens : FIRST_ROOM, n_ids;
    if (n_tokens > UINT32_MAX) return fail(why, ERR_LIMIT, "routes: more than 2^32 tokens");
    if (n_tokens <= r->room_tokens) return ERR_NONE;
    while (room < n_tokens) room *= 2;
    if (room > UINT32_MAX) room = UINT32_MAX;
    if (!count_ids(r, room, &n_ids) || !grow_ids(&r->chosen, n_ids) || (r->expected && !grow_ids(&r->expected, n_ids)))
        return fail(why, ERR_NO_MEMORY, "no memory for the routes of %llu tokens", (unsigned long long)room);
    r->room_tokens = (uint32_t)room;
    return ERR_NONE;
}

enum err routes_begin_turn(struct routes *r, struct reason *why) {
    const struct routes_turn *const last = r->n_turns ? &r->turns[r->n_turns - 1] : NULL;
    if (last && last->prompt_tokens + last->decode_tokens == 0) return ERR_NONE;
    if (r->n_turns == r->room_turns) {
        const uint32_t room = r->room_turns ? 2 * r->room_turns : FIRST_TURNS;
        struct routes_turn *const grown = realloc(r->turns, room * sizeof *grown);
        if (!grown) return fail(why, ERR_NO_MEMORY, "no memory for %u turns of routes", room);
        r->turns = grown;
        r->room_turns = room;
    }
    r->turns[r->n_turns++] = (struct routes_turn){0};
    return ERR_NONE;
}

enum err routes_append(struct routes *r, uint32_t n_tokens, bool prompt, struct reason *why) {
    if (n_tokens == 0) return ERR_NONE;
    TRY(make_room(r, (uint64_t)r->n_tokens + n_tokens, why));
    if (r->n_turns == 0 || (prompt && r->turns[r->n_turns - 1].decode_tokens)) TRY(routes_begin_turn(r, why));
    struct routes_turn *const turn = &r->turns[r->n_turns - 1];
    *(prompt ? &turn->prompt_tokens : &turn->decode_tokens) += n_tokens;
    const size_t stride = (size_t)r->n_layers * r->n_used, first = r->n_tokens * stride, n = n_tokens * stride;
    for (size_t i = 0; i < n; i++) r->chosen[first + i] = (uint16_t)(i % r->n_used);
    if (r->expected) memset(r->expected + first, 0xff, n * sizeof *r->expected);
    r->n_tokens += n_tokens;
    return ERR_NONE;
}

static uint16_t *at(const struct routes *r, uint16_t *ids, uint32_t token, uint32_t layer) {
    assert(token < r->n_tokens && layer < r->n_layers);
    return ids + ((size_t)token * r->n_layers + layer) * r->n_used;
}

void routes_choose(struct routes *r, uint32_t token, uint32_t layer, const int32_t *experts) {
    uint16_t *const to = at(r, r->chosen, token, layer);
    for (uint32_t k = 0; k < r->n_used; k++) to[k] = (uint16_t)experts[k];
}

void routes_expect(struct routes *r, uint32_t token, uint32_t layer, const int32_t *experts, uint32_t n) {
    assert(r->expected && n <= r->n_used);
    uint16_t *const to = at(r, r->expected, token, layer);
    for (uint32_t k = 0; k < n; k++) to[k] = (uint16_t)experts[k];
}

/* ---- bytes ---------------------------------------------------------------------------------------------------------- */

void routes_write(const struct routes *r, struct text *out) {
    struct header h = {.version = VERSION,
                       .layers = r->n_layers,
                       .experts = r->n_experts,
                       .used = r->n_used,
                       .tokens = r->n_tokens,
                       .turns = r->n_turns,
                       .flags = r->expected ? HAS_EXPECTED : 0};
    const size_t ids_bytes = (size_t)r->n_tokens * r->n_layers * r->n_used * sizeof *r->chosen;
    memcpy(h.magic, magic, sizeof magic);
    text_add(out, &h, sizeof h);
    text_add(out, r->turns, r->n_turns * sizeof *r->turns);
    text_add(out, r->chosen, ids_bytes);
    if (r->expected) text_add(out, r->expected, ids_bytes);
}

static enum err check_header(const struct header *h, uint64_t size, struct reason *why) {
    uint64_t n_ids, bytes = sizeof *h + (uint64_t)h->turns * sizeof(struct routes_turn);
    if (memcmp(h->magic, magic, sizeof magic) != 0) return fail(why, ERR_FORMAT, "routes: byte 0 should be \"CSROUTES\"");
    if (h->version != VERSION)
        return fail(why, ERR_UNSUPPORTED, "routes: version %u; this build reads %d", h->version, VERSION);
    if (h->flags & ~(uint32_t)HAS_EXPECTED || h->zero) return fail(why, ERR_FORMAT, "routes: unknown flags at byte 32");
    TRY(check_shape(h->layers, h->experts, h->used, ERR_FORMAT, why));
    if (!size_mul(h->tokens, (uint64_t)h->layers * h->used * (h->flags ? 2 : 1), &n_ids) ||
        !size_mul(n_ids, sizeof(uint16_t), &n_ids) || !size_add(bytes, n_ids, &bytes) || bytes != size)
        return fail(why, ERR_FORMAT, "routes: the header says %u turns and %u tokens, which is not what %llu bytes hold",
                    h->turns, h->tokens, (unsigned long long)size);
    return ERR_NONE;
}

static enum err check_turns(const struct routes *r, struct reason *why) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < r->n_turns; i++) sum += (uint64_t)r->turns[i].prompt_tokens + r->turns[i].decode_tokens;
    if (sum == r->n_tokens) return ERR_NONE;
    return fail(why, ERR_FORMAT, "routes: the turns from byte %zu on have %llu tokens, the header says %u",
                sizeof(struct header), (unsigned long long)sum, r->n_tokens);
}

/* Known experts, none twice for a token. `nothing` is allowed where the look-ahead may have said nothing. */
static enum err check_ids(const struct routes *r, const uint16_t *ids, bool nothing, struct reason *why) {
    const size_t n = (size_t)r->n_tokens * r->n_layers;
    for (size_t i = 0; i < n; i++, ids += r->n_used)
        for (uint32_t k = 0; k < r->n_used; k++) {
            bool bad = ids[k] >= r->n_experts;
            if (bad && nothing && ids[k] == ROUTES_NOTHING) continue;
            for (uint32_t j = 0; j < k; j++) bad |= ids[j] == ids[k];
            if (bad)
                return fail(why, ERR_FORMAT, "routes: token %zu, layer %zu: expert %u is %s", i / r->n_layers, i % r->n_layers,
                            ids[k], ids[k] >= r->n_experts ? "out of range" : "there twice");
        }
    return ERR_NONE;
}

enum err routes_parse(struct span bytes, struct routes *out, struct reason *why) {
    struct header h;
    enum err result = ERR_NONE;
    *out = (struct routes){0};
    if (bytes.len < sizeof h) return fail(why, ERR_FORMAT, "routes: %zu bytes are less than a header", bytes.len);
    memcpy(&h, bytes.ptr, sizeof h);
    TRY(check_header(&h, bytes.len, why));
    const size_t turns_bytes = h.turns * sizeof *out->turns;
    const size_t ids_bytes = (size_t)h.tokens * h.layers * h.used * sizeof *out->chosen;
    const char *p = bytes.ptr + sizeof h;
    *out = (struct routes){.n_layers = h.layers,
                           .n_experts = h.experts,
                           .n_used = h.used,
                           .n_tokens = h.tokens,
                           .n_turns = h.turns,
                           .room_tokens = h.tokens,
                           .room_turns = h.turns};
    out->turns = malloc(turns_bytes + 1);
    out->chosen = malloc(ids_bytes + 1);
    if (h.flags) out->expected = malloc(ids_bytes + 1);
    if (!out->turns || !out->chosen || (h.flags && !out->expected)) {
        result = fail(why, ERR_NO_MEMORY, "no memory for the routes of %u tokens", h.tokens);
        goto fail;
    }
    memcpy(out->turns, p, turns_bytes);
    memcpy(out->chosen, p + turns_bytes, ids_bytes);
    if (h.flags) memcpy(out->expected, p + turns_bytes + ids_bytes, ids_bytes);
    if ((result = check_turns(out, why)) != ERR_NONE) goto fail;
    if ((result = check_ids(out, out->chosen, false, why)) != ERR_NONE) goto fail;
    if (h.flags && (result = check_ids(out, out->expected, true, why)) != ERR_NONE) goto fail;
    return ERR_NONE;
fail:
    routes_close(out);
    return result;
}

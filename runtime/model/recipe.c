/* The list of recipes, as rules a tensor is held against: role, where its layer stands, what else must be so, type.
 *
 * What llama-quantize and ik_llama.cpp's quantizer choose for a qwen3moe model is stated here as tables; their special cases
 * for other architectures, and for models of exactly eight experts, are not. Owns nothing but compiled patterns. */
#include "model/recipe.h"

#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "model/container.h"

/* ---- roles --------------------------------------------------------------------------------------------------------------- */

enum role {
    EMBEDDING = 1 << 0,
    HEAD = 1 << 1, /* the embedding too, when it is tied */
    ATTN_Q = 1 << 2,
    ATTN_K = 1 << 3,
    ATTN_V = 1 << 4,
    ATTN_OUT = 1 << 5,
    GATE = 1 << 6, /* and gate and up in one tensor */
    UP = 1 << 7,
    DOWN = 1 << 8,
    OTHER = 1 << 9,
    EXPERTS = GATE | UP | DOWN,
    ATTENTION = ATTN_Q | ATTN_K | ATTN_V | ATTN_OUT,
};

enum { NO_LAYER = -1 };

static bool span_holds(struct span s, const char *part) { return memmem(s.ptr, s.len, part, strlen(part)) != NULL; }

static bool span_ends(struct span s, const char *end) {
    const size_t n = strlen(end);
    return s.len >= n && memcmp(s.ptr + s.len - n, end, n) == 0;
}

static enum role role_of(struct span name, bool tied) {
    static const struct {
        const char *part;
        enum role role;
    } parts[] = {
        {"attn_q.weight", ATTN_Q}, {"attn_k.weight", ATTN_K}, {"attn_v.weight", ATTN_V}, {"attn_output.weight", ATTN_OUT},
        {"ffn_gate_", GATE},       {"ffn_up_", UP},           {"ffn_down_", DOWN}};
    if (span_equal(name, SPAN("output.weight"))) return HEAD;
    if (span_equal(name, SPAN("token_embd.weight"))) return tied ? HEAD : EMBEDDING;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (span_holds(name, parts[i].part)) return parts[i].role;
    return OTHER;
}

/* N of "blk.N."; the reader has checked that it is below the number of layers. */
static int64_t layer_of(struct span name) {
    int64_t n = 0;
    size_t at = 4;
    if (!span_starts(name, SPAN("blk."))) return NO_LAYER;
    for (; at < name.len && at < 4 + 9 && name.ptr[at] >= '0' && name.ptr[at] <= '9'; at++) n = 10 * n + (name.ptr[at] - '0');
    return at > 4 && at < name.len && name.ptr[at] == '.' ? n : NO_LAYER;
}

/* ---- rules --------------------------------------------------------------------------------------------------------------- */

enum where { ANYWHERE, FIRST_LAYER, FIRST_TWO, FIRST_FOUR, FIRST_SIXTEENTH, FIRST_EIGHTH, MIDDLE, MORE_BITS };
enum when { ALWAYS, WITH_IMPORTANCE, WITHOUT_IMPORTANCE, WIDE_GROUPS /* four or more query heads a key/value head */ };

struct rule {
    unsigned roles; /* 0 ends the list */
    enum where where;
    enum when when;
    enum tensor_type type;
};

enum { MAX_RULES = 7 };

struct mix {
    const char *name;
    enum tensor_type base;
    uint32_t file_type;
    struct rule rules[MAX_RULES + 1]; /* the first that fits wins */
};

#define HEAD_IS(t) {HEAD, ANYWHERE, ALWAYS, TYPE_##t}
#define EMBEDDING_IS(t) {EMBEDDING, ANYWHERE, ALWAYS, TYPE_##t}
#define ALL(roles, t) {roles, ANYWHERE, ALWAYS, TYPE_##t}
#define IN(roles, where, t) {roles, where, ALWAYS, TYPE_##t}
#define IF(roles, where, when, t) {roles, where, when, TYPE_##t}
/* ik_llama.cpp's mixes for models of four and more experts: their keys and values are small. */
#define IK_ATTENTION ALL(ATTN_K | ATTN_V, Q8_0)

static const struct mix mixes[] = {
    {"F32", TYPE_F32, 0, {{0}}},
    {"F16", TYPE_F16, 1, {{0}}},
    {"BF16", TYPE_BF16, 32, {{0}}},
    {"Q4_0", TYPE_Q4_0, 2, {HEAD_IS(Q6_K), IF(DOWN, FIRST_EIGHTH, WITH_IMPORTANCE, Q4_1)}},
    {"Q4_1", TYPE_Q4_1, 3, {HEAD_IS(Q6_K)}},
    {"Q5_0", TYPE_Q5_0, 8, {HEAD_IS(Q6_K), IF(DOWN, FIRST_EIGHTH, WITH_IMPORTANCE, Q5_1)}},
    {"Q5_1", TYPE_Q5_1, 9, {HEAD_IS(Q6_K)}},
    {"Q8_0", TYPE_Q8_0, 7, {{0}}},
    {"Q2_K", TYPE_Q2_K, 10, {HEAD_IS(Q6_K), IF(ATTN_V, ANYWHERE, WIDE_GROUPS, Q4_K), ALL(ATTN_V | DOWN | ATTN_OUT, Q3_K)}},
    {"Q2_K_S", TYPE_Q2_K, 21, {HEAD_IS(Q6_K), IF(ATTN_V, ANYWHERE, WIDE_GROUPS, Q4_K), IN(DOWN, FIRST_EIGHTH, Q4_K)}},
    {"Q3_K_S", TYPE_Q3_K, 11, {HEAD_IS(Q6_K)}},
    {"Q3_K_M",
     TYPE_Q3_K,
     12,
     {HEAD_IS(Q6_K), IN(ATTN_V, FIRST_TWO, Q5_K), IN(DOWN, FIRST_SIXTEENTH, Q5_K), ALL(ATTN_V | DOWN | ATTN_OUT, Q4_K)}},
    {"Q3_K_L", TYPE_Q3_K, 13, {HEAD_IS(Q6_K), ALL(ATTN_V | DOWN | ATTN_OUT, Q5_K)}},
    {"Q4_K_S", TYPE_Q4_K, 14, {HEAD_IS(Q6_K), IN(ATTN_V, FIRST_FOUR, Q5_K), IN(DOWN, FIRST_EIGHTH, Q5_K)}},
    {"Q4_K_M", TYPE_Q4_K, 15, {HEAD_IS(Q6_K), IN(ATTN_V | DOWN, MORE_BITS, Q6_K)}},
    {"Q5_K_S", TYPE_Q5_K, 16, {HEAD_IS(Q6_K)}},
    {"Q5_K_M", TYPE_Q5_K, 17, {HEAD_IS(Q6_K), IN(ATTN_V | DOWN, MORE_BITS, Q6_K)}},
    {"Q6_K", TYPE_Q6_K, 18, {{0}}},
    {"IQ1_S",
     TYPE_IQ1_S,
     24,
     {HEAD_IS(Q5_K), EMBEDDING_IS(Q2_K), ALL(ATTN_V, Q4_K), IN(DOWN, FIRST_EIGHTH, Q2_K), ALL(ATTN_OUT, IQ2_XXS)}},
    {"IQ1_M",
     TYPE_IQ1_M,
     31,
     {HEAD_IS(Q5_K), EMBEDDING_IS(Q2_K), ALL(ATTN_V, Q4_K), IN(DOWN, FIRST_EIGHTH, Q2_K), ALL(ATTN_OUT, IQ2_XXS)}},
    {"IQ2_XXS", TYPE_IQ2_XXS, 19, {HEAD_IS(Q5_K), EMBEDDING_IS(Q2_K), ALL(ATTN_V, Q4_K), IN(DOWN, FIRST_EIGHTH, Q2_K)}},
    {"IQ2_XS", TYPE_IQ2_XS, 20, {HEAD_IS(Q5_K), EMBEDDING_IS(Q2_K), ALL(ATTN_V, Q4_K), IN(DOWN, FIRST_EIGHTH, Q2_K)}},
    {"IQ2_S", /* sic: its main type is IQ2_XS; IQ2_M has IQ2_S */
     TYPE_IQ2_XS,
     28,
     {HEAD_IS(Q5_K), EMBEDDING_IS(IQ3_S), ALL(ATTN_V, Q4_K), IN(DOWN, FIRST_EIGHTH, IQ3_S), ALL(ATTN_OUT, IQ3_S)}},
    {"IQ2_M",
     TYPE_IQ2_S,
     29,
     {HEAD_IS(Q5_K), EMBEDDING_IS(IQ3_S), ALL(ATTN_V, Q4_K), IN(DOWN, FIRST_EIGHTH, IQ3_S), ALL(ATTN_OUT, IQ3_S)}},
    {"IQ3_XXS",
     TYPE_IQ3_XXS,
     23,
     {HEAD_IS(Q5_K), IF(ATTN_V, ANYWHERE, WIDE_GROUPS, Q4_K), IF(ATTN_V, ANYWHERE, WITHOUT_IMPORTANCE, IQ3_S),
      IF(DOWN, FIRST_EIGHTH, WITHOUT_IMPORTANCE, Q4_K), IF(DOWN, ANYWHERE, WITHOUT_IMPORTANCE, Q3_K),
      ALL(EMBEDDING | ATTN_OUT, IQ3_S), ALL(ATTN_Q | ATTN_K, IQ2_S)}},
    {"IQ3_XS",
     TYPE_IQ3_S,
     22,
     {HEAD_IS(Q6_K), IF(ATTN_V, ANYWHERE, WIDE_GROUPS, Q4_K), ALL(ATTN_Q | ATTN_K, IQ3_XXS), IN(GATE | UP, MIDDLE, IQ3_XXS)}},
    {"IQ3_S", TYPE_IQ3_S, 26, {HEAD_IS(Q6_K), IF(ATTN_V, ANYWHERE, WIDE_GROUPS, Q4_K)}},
    {"IQ3_M", TYPE_IQ3_S, 27, {HEAD_IS(Q6_K), ALL(ATTN_V | ATTN_OUT, Q4_K), IN(DOWN, FIRST_EIGHTH, Q4_K)}},
    {"IQ4_NL",
     TYPE_IQ4_NL,
     25,
     {HEAD_IS(Q6_K), IF(ATTN_V, ANYWHERE, WIDE_GROUPS, Q5_K), IF(DOWN, FIRST_EIGHTH, WITHOUT_IMPORTANCE, Q5_K)}},
    {"IQ4_XS",
     TYPE_IQ4_XS,
     30,
     {HEAD_IS(Q6_K), IF(ATTN_V, ANYWHERE, WIDE_GROUPS, Q5_K), IF(DOWN, FIRST_EIGHTH, WITHOUT_IMPORTANCE, Q5_K)}},
    {"MXFP4", TYPE_MXFP4, 38, {HEAD_IS(Q6_K), IK_ATTENTION}},
    {"MXFP4_MOE", TYPE_Q8_0, 38, {ALL(EXPERTS, MXFP4)}},
    {"Q6_0", TYPE_Q6_0, 135, {HEAD_IS(Q6_K), IK_ATTENTION}},
    {"IQ2_KS",
     TYPE_IQ2_KS,
     147,
     {HEAD_IS(Q5_K), ALL(ATTN_V, IQ4_K), ALL(ATTN_Q | ATTN_K, Q4_K), ALL(ATTN_OUT, Q5_K), IN(DOWN, FIRST_EIGHTH, Q2_K)}},
    {"IQ2_K", TYPE_IQ2_K, 138, {HEAD_IS(Q5_K), IK_ATTENTION, ALL(ATTN_OUT, Q5_K)}},
    {"IQ2_KL", TYPE_IQ2_KL, 155, {HEAD_IS(Q5_K), IK_ATTENTION, ALL(ATTN_OUT, IQ4_KS)}},
    {"IQ3_KS", TYPE_IQ3_KS, 154, {HEAD_IS(Q5_K), IK_ATTENTION, ALL(ATTN_OUT, Q5_K)}},
    {"IQ3_K", TYPE_IQ3_K, 139, {HEAD_IS(Q5_K), IK_ATTENTION, ALL(ATTN_OUT, Q5_K)}},
    {"IQ4_KSS",
     TYPE_IQ4_KSS,
     148,
     {HEAD_IS(Q6_K), IK_ATTENTION, ALL(ATTN_OUT, Q5_K), IF(DOWN, FIRST_EIGHTH, WITHOUT_IMPORTANCE, Q5_K)}},
    {"IQ4_KS",
     TYPE_IQ4_KS,
     145,
     {HEAD_IS(Q6_K), IK_ATTENTION, ALL(ATTN_OUT, Q5_K), IF(DOWN, FIRST_EIGHTH, WITHOUT_IMPORTANCE, Q5_K)}},
    {"IQ4_K", TYPE_IQ4_K, 140, {HEAD_IS(Q6_K), IK_ATTENTION, ALL(ATTN_OUT, Q5_K)}},
    {"IQ5_KS", TYPE_IQ5_KS, 150, {HEAD_IS(Q6_K), IK_ATTENTION, ALL(ATTN_OUT, Q5_K)}},
    {"IQ5_K", TYPE_IQ5_K, 141, {HEAD_IS(Q6_K), IK_ATTENTION}},
    {"IQ6_K", TYPE_IQ6_K, 142, {IK_ATTENTION}},
    /* Ours. asym2: the published 2-bit-expert build, 2.99 bits a weight of 30B-A3B. */
    {"asym2", TYPE_Q4_K, 28, {ALL(EMBEDDING | HEAD, Q6_K), ALL(GATE | UP, IQ2_S), ALL(DOWN, IQ3_S)}},
    /* The published mix-IQ4_K: 96 tensors IQ4_K, 48 IQ5_K, 188 IQ6_K, 6 Q8_0; 4.974 bits a weight of 30B-A3B. */
    {"mix-iq4_k",
     TYPE_IQ6_K,
     140,
     {ALL(EMBEDDING | HEAD, Q8_0), IN(ATTENTION, FIRST_LAYER, Q8_0), ALL(GATE | UP, IQ4_K), ALL(DOWN, IQ5_K)}},
    {"COPY", TYPE_COUNT, 0, {{0}}},
};
enum { N_MIXES = sizeof mixes / sizeof *mixes };

static const struct { const char *alias, *name; } aliases[] = {{"Q3_K", "Q3_K_M"}, {"Q4_K", "Q4_K_M"}, {"Q5_K", "Q5_K_M"}};

/* ---- finding a mix ------------------------------------------------------------------------------------------------------- */

static const struct mix *find_by_number(const char *text) {
    char *end;
    const unsigned long number = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end) return NULL;
    for (size_t i = 0; i < N_MIXES; i++)
        if (mixes[i].file_type == number) return &mixes[i];
    return NULL;
}

static const struct mix *find_mix(const char *name) {
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++)
        if (strcasecmp(aliases[i].alias, name) == 0) name = aliases[i].name;
    for (size_t i = 0; i < N_MIXES; i++)
        if (strcasecmp(mixes[i].name, name) == 0) return &mixes[i];
    return find_by_number(name);
}

bool recipe_is_known(const char *name) { return find_mix(name) != NULL; }

void recipe_list(struct text *out) {
    for (size_t i = 0; i < N_MIXES; i++) text_addf(out, "%s%s", i ? ", " : "", mixes[i].name);
}

/* ---- opening ------------------------------------------------------------------------------------------------------------- */

struct override {
    regex_t pattern;
    enum tensor_type type;
};

struct recipe {
    const struct mix *mix;
    enum tensor_type base; /* of everything that is quantized when `pure` */
    struct model_shape shape;
    bool tied, pure, leave_head, has_importance;
    bool has_embedding, has_head;
    enum tensor_type embedding, head;
    size_t n_overrides; /* compiled */
    struct override *overrides;
};

static enum err check_type(enum tensor_type type, const char *what, struct reason *why) {
    const struct tensor_type_info *info = tensor_type_info(type);
    const bool number = (type >= TYPE_I8 && type <= TYPE_F64) || info->gguf_id >= TENSOR_OWN_ID;
    if (number) return fail(why, ERR_ARGUMENT, "%s: weights cannot be written as %s", what, info->name);
    return ERR_NONE;
}

static enum err compile(struct recipe *r, const struct recipe_override *given, struct reason *why) {
    struct override *o = &r->overrides[r->n_overrides];
    TRY(check_type(given->type, given->pattern, why));
    const int error = regcomp(&o->pattern, given->pattern, REG_EXTENDED | REG_NOSUB);
    if (error) {
        char text[120];
        regerror(error, &o->pattern, text, sizeof text);
        return fail(why, ERR_ARGUMENT, "the pattern '%s' is no POSIX extended regular expression: %s", given->pattern, text);
    }
    o->type = given->type;
    r->n_overrides++;
    return ERR_NONE;
}

/* --pure with a name that is also a type's means that type, so that a file of nothing else can be made of any. */
static enum tensor_type pure_type(const char *name, const struct mix *mix) {
    enum tensor_type type;
    return tensor_type_from_name(span_of(name), &type) ? type : mix->base;
}

static enum err fill(struct recipe *r, const struct recipe_options *o, struct reason *why) {
    r->mix = find_mix(o->name);
    if (!r->mix) {
        struct text names = {0};
        recipe_list(&names);
        const enum err code =
            fail(why, ERR_ARGUMENT, "unknown type '%.40s'; known are %.400s", o->name, names.ptr ? names.ptr : "");
        text_free(&names);
        return code;
    }
    r->base = o->pure ? pure_type(o->name, r->mix) : r->mix->base;
    r->pure = o->pure;
    r->leave_head = o->leave_head;
    r->has_importance = o->has_importance;
    if (o->embedding) TRY(check_type(r->embedding = *o->embedding, "the token embedding", why));
    if (o->head) TRY(check_type(r->head = *o->head, "the output tensor", why));
    r->has_embedding = o->embedding != NULL;
    r->has_head = o->head != NULL;
    r->overrides = calloc_checked(o->n_overrides ? o->n_overrides : 1, sizeof *r->overrides);
    if (!r->overrides) return fail(why, ERR_NO_MEMORY, "no memory for %zu patterns", o->n_overrides);
    for (size_t i = 0; i < o->n_overrides; i++) TRY(compile(r, &o->overrides[i], why));
    return ERR_NONE;
}

enum err recipe_open(const struct recipe_options *options, const struct model_shape *shape, bool tied, struct recipe **out,
                     struct reason *why) {
    *out = NULL;
    struct recipe *r = calloc(1, sizeof *r);
    if (!r) return fail(why, ERR_NO_MEMORY, "no memory for a recipe");
    r->shape = *shape;
    r->tied = tied;
    const enum err code = fill(r, options, why);
    if (code)
        recipe_close(&r);
    else
        *out = r;
    return code;
}

void recipe_close(struct recipe **recipe) {
    struct recipe *r = *recipe;
    *recipe = NULL;
    if (!r) return;
    for (size_t i = 0; i < r->n_overrides; i++) regfree(&r->overrides[i].pattern);
    free(r->overrides);
    free(r);
}

const char *recipe_name(const struct recipe *r) { return r->mix->name; }
bool recipe_copies(const struct recipe *r) { return r->mix->base == TYPE_COUNT; }

uint32_t recipe_file_type(const struct recipe *r) {
    if (!r->pure) return r->mix->file_type;
    for (size_t i = 0; i < N_MIXES; i++) /* IQ2_S --pure is mostly IQ2_S, whose number is IQ2_M's */
        if (mixes[i].base == r->base && !span_equal(span_of(mixes[i].name), SPAN("MXFP4_MOE"))) return mixes[i].file_type;
    return r->mix->file_type;
}

/* ---- choosing ------------------------------------------------------------------------------------------------------------ */

static bool is_vector(const struct model_tensor *t) { return t->ne[1] == 1 && t->ne[2] == 1 && t->ne[3] == 1; }

static bool is_quantized(const struct model_tensor *t) {
    return !is_vector(t) && span_ends(t->name, "weight") && !span_holds(t->name, "_norm.weight") &&
           !span_holds(t->name, "ffn_gate_inp.weight");
}

static bool stands(enum where where, int64_t layer, int64_t layers) {
    const int64_t eighth = layers / 8;
    switch (where) {
    case ANYWHERE: return true;
    case FIRST_LAYER: return layer == 0;
    case FIRST_TWO: return layer >= 0 && layer < 2;
    case FIRST_FOUR: return layer >= 0 && layer < 4;
    case FIRST_SIXTEENTH: return layer >= 0 && layer < layers / 16;
    case FIRST_EIGHTH: return layer >= 0 && layer < eighth;
    case MIDDLE: return layer >= eighth && layer < 7 * layers / 8;
    case MORE_BITS: return layer >= 0 && (layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2);
    }
    return false;
}

static bool holds(const struct recipe *r, enum when when) {
    switch (when) {
    case ALWAYS: return true;
    case WITH_IMPORTANCE: return r->has_importance;
    case WITHOUT_IMPORTANCE: return !r->has_importance;
    case WIDE_GROUPS: return r->shape.n_heads / r->shape.n_kv_heads >= 4;
    }
    return false;
}

static const struct rule *find_rule(const struct recipe *r, enum role role, int64_t layer) {
    for (const struct rule *rule = r->mix->rules; rule->roles; rule++)
        if (rule->roles & role && stands(rule->where, layer, r->shape.n_layers) && holds(r, rule->when)) return rule;
    return NULL;
}

/* What takes the place of a type with 256-weight blocks: 32-weight blocks of about the same size or more. */
static enum tensor_type smaller_blocks(enum tensor_type type, bool is_head) {
    if (is_head) return TYPE_Q8_0;
    switch (type) {
    case TYPE_Q4_K:
    case TYPE_IQ4_K:
    case TYPE_IQ5_KS: return TYPE_Q5_0;
    case TYPE_Q5_K: return TYPE_Q5_1;
    case TYPE_IQ5_K: return TYPE_Q6_0;
    case TYPE_Q6_K:
    case TYPE_IQ6_K: return TYPE_Q8_0;
    default: return TYPE_IQ4_NL;
    }
}

static enum tensor_type fitting(enum tensor_type type, uint64_t columns, bool is_head) {
    uint64_t bytes;
    if (tensor_row_bytes(type, columns, &bytes)) return type;
    if (tensor_type_info(type)->block_weights == QK_K) type = smaller_blocks(type, is_head);
    return tensor_row_bytes(type, columns, &bytes) ? type : TYPE_F16;
}

static enum tensor_type keep(const struct model_tensor *t) {
    return t->type == TYPE_F16 || t->type == TYPE_BF16 ? TYPE_F32 : t->type;
}

static bool match(const struct override *o, struct span name) {
    char text[MAX_TENSOR_NAME_BYTES + 1];
    if (name.len >= sizeof text) return false;
    memcpy(text, name.ptr, name.len);
    text[name.len] = 0;
    return regexec(&o->pattern, text, 0, NULL, 0) == 0;
}

bool recipe_matches(const struct recipe *r, size_t override, struct span name) { return match(&r->overrides[override], name); }

static struct recipe_choice kept(enum tensor_type type) {
    return (struct recipe_choice){.type = type, .wanted = type, .reason = RECIPE_KEPT};
}

/* Without regard to the rows; `type` is to be set. */
static struct recipe_choice want(const struct recipe *r, const struct model_tensor *t, enum role role) {
    if (r->leave_head && span_equal(t->name, SPAN("output.weight"))) return kept(t->type);
    if (r->has_embedding && span_equal(t->name, SPAN("token_embd.weight")))
        return (struct recipe_choice){.wanted = r->embedding, .reason = RECIPE_FLAG};
    if (r->has_head && role == HEAD) return (struct recipe_choice){.wanted = r->head, .reason = RECIPE_FLAG};
    for (size_t i = 0; i < r->n_overrides; i++)
        if (match(&r->overrides[i], t->name))
            return (struct recipe_choice){.wanted = r->overrides[i].type, .reason = RECIPE_OVERRIDE, .override = i};
    if (r->base == TYPE_COUNT) return kept(t->type);
    const struct rule *rule = r->pure ? NULL : find_rule(r, role, layer_of(t->name));
    return rule ? (struct recipe_choice){.wanted = rule->type, .reason = RECIPE_RULE}
                : (struct recipe_choice){.wanted = r->base, .reason = RECIPE_BASE};
}

struct recipe_choice recipe_choose(const struct recipe *r, const struct model_tensor *t) {
    if (!is_quantized(t)) return kept(keep(t));
    const enum role role = role_of(t->name, r->tied);
    struct recipe_choice c = want(r, t, role);
    const bool chosen_here = c.reason == RECIPE_BASE || c.reason == RECIPE_RULE;
    c.type = c.reason == RECIPE_KEPT ? c.wanted : fitting(c.wanted, t->ne[0], role == HEAD && chosen_here);
    return c;
}

const char *recipe_reason_name(enum recipe_reason reason) {
    static const char *const names[] = {[RECIPE_KEPT] = "kept",
                                        [RECIPE_BASE] = "main type",
                                        [RECIPE_RULE] = "rule of the mix",
                                        [RECIPE_FLAG] = "flag",
                                        [RECIPE_OVERRIDE] = "--tensor-type"};
    return names[reason];
}

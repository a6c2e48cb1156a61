/* Typed look-ups in a file's metadata. Writers differ in integer widths, so any integer type is taken where an integer is
 * meant; what a value may be is the caller's rule. Never allocates except the index. */
#include "model/container.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    uint8_t bytes;
} meta_types[META_TYPE_COUNT] = {{"u8", 1},   {"i8", 1},     {"u16", 2},   {"i16", 2}, {"u32", 4}, {"i32", 4}, {"f32", 4},
                                 {"bool", 1}, {"string", 0}, {"array", 0}, {"u64", 8}, {"i64", 8}, {"f64", 8}};

size_t meta_scalar_bytes(uint32_t type) { return type < META_TYPE_COUNT ? meta_types[type].bytes : 0; }

bool meta_is_integer(uint32_t type) { return type <= META_I32 || type == META_U64 || type == META_I64; }

static int order_by_key(const void *a, const void *b) {
    const struct model_meta *const *x = a, *const *y = b;
    const int order = span_compare((*x)->key, (*y)->key);
    return order ? order : (*x > *y) - (*x < *y);
}

enum err meta_index(struct meta_table *table, const char *label, struct reason *why) {
    table->by_key = calloc_checked(table->n, sizeof *table->by_key);
    if (!table->by_key) return fail(why, ERR_NO_MEMORY, "%s: no memory for its metadata index", label);
    for (size_t i = 0; i < table->n; i++) table->by_key[i] = &table->entries[i];
    qsort(table->by_key, table->n, sizeof *table->by_key, order_by_key);
    for (size_t i = 1; i < table->n; i++) {
        const struct model_meta *entry = table->by_key[i];
        if (span_equal(table->by_key[i - 1]->key, entry->key))
            return fail(why, ERR_FORMAT, "%s: key '%s' at byte %llu: the key was already given at byte %llu",
                        label, quote(entry->key).text, (unsigned long long)table->at[entry - table->entries],
                        (unsigned long long)table->at[table->by_key[i - 1] - table->entries]);
    }
    return ERR_NONE;
}

void meta_close(struct meta_table *table) {
    free(table->entries);
    free(table->at);
    free(table->by_key);
    *table = (struct meta_table){0};
}

const struct model_meta *meta_find(const struct meta_table *table, struct span key) {
    size_t low = 0, high = table->n;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = span_compare(table->by_key[middle]->key, key);
        if (order == 0) return table->by_key[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

enum err key_fail(const struct container *c, const char *key, struct reason *why, enum err code, const char *format, ...) {
    char problem[256], place[40] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(problem, sizeof problem, format, args);
    va_end(args);
    const struct model_meta *entry = meta_find(&c->meta, span_of(key));
    const uint64_t at = entry ? c->meta.at[entry - c->meta.entries] : META_MADE;
    if (at != META_MADE) snprintf(place, sizeof place, " at byte %llu", (unsigned long long)at);
    return fail(why, code, "%s: key '%s'%s: %s", container_label(c), key, place, problem);
}

static enum err wrong_type(const struct container *c, const char *key, const char *want, struct reason *why) {
    const struct model_meta *entry = meta_find(&c->meta, span_of(key));
    if (entry->type == META_ARRAY)
        return key_fail(c, key, why, ERR_FORMAT, "is an array of %s; %s is needed", meta_types[entry->element_type].name, want);
    return key_fail(c, key, why, ERR_FORMAT, "is of type %s; %s is needed", meta_types[entry->type].name, want);
}

static enum err find_required(const struct container *c, const char *key, bool required, const struct model_meta **entry,
                              struct reason *why) {
    *entry = meta_find(&c->meta, span_of(key));
    if (!*entry && required) return key_fail(c, key, why, ERR_FORMAT, "is missing from the metadata");
    return ERR_NONE;
}

bool meta_element_uint(const struct model_meta *entry, uint64_t index, uint64_t *value) {
    const uint32_t type = entry->type == META_ARRAY ? entry->element_type : entry->type;
    const uint8_t *p = (const uint8_t *)entry->bytes.ptr + index * meta_scalar_bytes(type);
    int64_t number;
    switch (type) {
    case META_U8: number = p[0]; break;
    case META_I8: number = (int8_t)p[0]; break;
    case META_U16: number = load_u16(p); break;
    case META_I16: number = (int16_t)load_u16(p); break;
    case META_U32: number = load_u32(p); break;
    case META_I32: number = (int32_t)load_u32(p); break;
    case META_U64: *value = load_u64(p); return true;
    default: number = (int64_t)load_u64(p); break;
    }
    *value = (uint64_t)number;
    return number >= 0;
}

static enum err check_uint(const struct container *c, const char *key, const struct model_meta *entry, uint64_t index,
                           struct uint_rule rule, uint64_t *value, struct reason *why) {
    if (!meta_element_uint(entry, index, value))
        return key_fail(c, key, why, ERR_FORMAT, "is %lld; it must not be negative", (long long)*value);
    if (*value < rule.min || *value > rule.max)
        return key_fail(c, key, why, ERR_FORMAT, "is %llu; it must be %llu to %llu", (unsigned long long)*value,
                        (unsigned long long)rule.min, (unsigned long long)rule.max);
    return ERR_NONE;
}

enum err meta_uint(const struct container *c, const char *key, struct uint_rule rule, uint64_t *value, struct reason *why) {
    const struct model_meta *entry;
    TRY(find_required(c, key, rule.required, &entry, why));
    if (!entry) return ERR_NONE;
    const bool array = entry->type == META_ARRAY && rule.layers;
    if (!meta_is_integer(array ? entry->element_type : entry->type)) return wrong_type(c, key, "an integer", why);
    if (array && entry->count != rule.layers)
        return key_fail(c, key, why, ERR_FORMAT, "has %llu values for %llu layers", (unsigned long long)entry->count,
                        (unsigned long long)rule.layers);
    TRY(check_uint(c, key, entry, 0, rule, value, why));
    for (uint64_t i = 1; i < entry->count && array; i++) {
        uint64_t other;
        TRY(check_uint(c, key, entry, i, rule, &other, why));
        if (other != *value)
            return key_fail(c, key, why, ERR_UNSUPPORTED, "differs between layers (%llu, %llu); all layers must be alike",
                            (unsigned long long)*value, (unsigned long long)other);
    }
    return ERR_NONE;
}

enum err meta_float(const struct container *c, const char *key, bool required, float *value, struct reason *why) {
    const struct model_meta *entry;
    TRY(find_required(c, key, required, &entry, why));
    if (!entry) return ERR_NONE;
    const uint8_t *p = (const uint8_t *)entry->bytes.ptr;
    double number = 0;
    if (entry->type == META_F32) {
        const uint32_t bits = load_u32(p);
        float single;
        memcpy(&single, &bits, sizeof single);
        number = single;
    } else if (entry->type == META_F64) {
        const uint64_t bits = load_u64(p);
        memcpy(&number, &bits, sizeof number);
    } else if (meta_is_integer(entry->type)) {
        uint64_t integer;
        number = meta_element_uint(entry, 0, &integer) ? (double)integer : (double)(int64_t)integer;
    } else
        return wrong_type(c, key, "a number", why);
    if (!isfinite(number) || fabs(number) > FLT_MAX)
        return key_fail(c, key, why, ERR_FORMAT, "is %g; it must be a finite number", number);
    *value = (float)number;
    return ERR_NONE;
}

enum err meta_bool(const struct container *c, const char *key, bool *value, struct reason *why) {
    const struct model_meta *entry = meta_find(&c->meta, span_of(key));
    if (!entry) return ERR_NONE;
    if (entry->type != META_BOOL) return wrong_type(c, key, "a bool", why);
    *value = entry->bytes.ptr[0] != 0;
    return ERR_NONE;
}

enum err meta_string(const struct container *c, const char *key, struct span *value, struct reason *why) {
    const struct model_meta *entry = meta_find(&c->meta, span_of(key));
    if (!entry) return ERR_NONE;
    if (entry->type != META_STRING) return wrong_type(c, key, "a string", why);
    *value = entry->bytes;
    return ERR_NONE;
}

enum err meta_array(const struct container *c, const char *key, enum meta_type element_type, const struct model_meta **entry,
                    struct reason *why) {
    *entry = meta_find(&c->meta, span_of(key));
    if (!*entry) return ERR_NONE;
    const bool any_integer = element_type == META_I32;
    if ((*entry)->type != META_ARRAY ||
        (any_integer ? !meta_is_integer((*entry)->element_type) : (*entry)->element_type != (uint32_t)element_type))
        return wrong_type(c, key,
                          any_integer                   ? "an array of integers"
                          : element_type == META_STRING ? "an array of strings"
                                                        : "an array of floats",
                          why);
    return ERR_NONE;
}

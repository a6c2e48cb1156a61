/* Metadata that no file holds in this form: GGUF's keys, their payloads made as a GGUF file would store them, so that
 * everything behind a container reads and copies them alike. Owns the bytes until the container takes them. */
#include "model/hf.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static struct hf_meta_record *begin(struct hf_meta *m, const char *key, uint32_t type) {
    assert(m->n < HF_MAX_RECORDS);
    struct hf_meta_record *r = &m->records[m->n++];
    *r = (struct hf_meta_record){.key = key, .type = type, .count = 1, .from = m->bytes.len, .to = m->bytes.len};
    return r;
}

static void add(struct hf_meta *m, const void *bytes, size_t len) {
    if (len > HF_MAX_META_BYTES - m->bytes.len) m->too_large = true;
    if (m->too_large) return;
    text_add(&m->bytes, bytes, len);
    m->records[m->n - 1].to = m->bytes.len;
}

void hf_meta_u32(struct hf_meta *m, const char *key, uint32_t value) {
    begin(m, key, META_U32);
    add(m, &value, sizeof value); /* little-endian, as the hosts that this runs on */
}

void hf_meta_f32(struct hf_meta *m, const char *key, float value) {
    begin(m, key, META_F32);
    add(m, &value, sizeof value);
}

void hf_meta_bool(struct hf_meta *m, const char *key, bool value) {
    begin(m, key, META_BOOL);
    add(m, &(const uint8_t){value}, 1);
}

void hf_meta_string(struct hf_meta *m, const char *key, struct span value) {
    begin(m, key, META_STRING);
    add(m, value.ptr, value.len);
}

void hf_meta_array(struct hf_meta *m, const char *key, enum meta_type element_type) {
    struct hf_meta_record *r = begin(m, key, META_ARRAY);
    r->element_type = (uint32_t)element_type;
    r->count = 0;
}

void hf_meta_add_string(struct hf_meta *m, struct span value) {
    const uint64_t len = value.len;
    add(m, &len, sizeof len);
    add(m, value.ptr, value.len);
    m->records[m->n - 1].count++;
}

void hf_meta_add_i32(struct hf_meta *m, int32_t value) {
    add(m, &value, sizeof value);
    m->records[m->n - 1].count++;
}

enum err hf_meta_finish(struct hf_meta *m, struct container *c, struct reason *why) {
    if (m->too_large)
        return fail(why, ERR_LIMIT, "%s: more than %d MiB of metadata; no known model needs that", c->label,
                    HF_MAX_META_BYTES >> 20);
    struct meta_table *t = &c->meta;
    t->entries = calloc_checked(m->n, sizeof *t->entries);
    t->at = calloc_checked(m->n, sizeof *t->at);
    if (m->bytes.failed || !t->entries || !t->at) return fail(why, ERR_NO_MEMORY, "%s: no memory for its metadata", c->label);
    c->made_meta = m->bytes.ptr;
    for (size_t i = 0; i < m->n; i++) {
        const struct hf_meta_record *r = &m->records[i];
        t->at[i] = META_MADE;
        t->entries[i] = (struct model_meta){.key = span_of(r->key),
                                            .type = r->type,
                                            .element_type = r->element_type,
                                            .count = r->count,
                                            .bytes = {c->made_meta + r->from, r->to - r->from}};
    }
    t->n = m->n;
    m->bytes = (struct text){0};
    return meta_index(t, c->label, why);
}

void hf_meta_free(struct hf_meta *m) { text_free(&m->bytes); }

/* Walking models for fuzz targets. */
#include "tests/support/model_walk.h"

#include <assert.h>

uint64_t next_mutation(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static unsigned sum_span(struct span s) {
    unsigned sum = 0;
    for (size_t i = 0; i < s.len; i++) sum += (unsigned char)s.ptr[i];
    return sum;
}

static unsigned walk(const struct model *m) {
    unsigned sum = sum_span(m->architecture) + sum_span(m->name) + sum_span(m->chat_template);
    for (size_t i = 0; i < m->n_meta; i++) sum += sum_span(m->meta[i].key) + sum_span(m->meta[i].bytes);
    for (size_t i = 0; i < m->vocab.n_tokens; i++) sum += sum_span(m->vocab.tokens[i]) + (unsigned)m->vocab.types[i];
    for (size_t i = 0; i < m->vocab.n_merges; i++) sum += sum_span(m->vocab.merges[i]);
    const int32_t ids[] = {m->vocab.bos, m->vocab.eos, m->vocab.eot, m->vocab.pad};
    for (size_t i = 0; i < 4; i++) assert(ids[i] >= -1 && ids[i] < (int64_t)(m->vocab.n_tokens ? m->vocab.n_tokens : 1));
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct model_tensor *t = &m->tensors[i];
        sum += sum_span(t->name);
        assert(model_find_tensor(m, t->name) == t);
        assert(t->bytes == (wide)t->row_bytes * t->ne[1] * t->ne[2] * t->ne[3] && t->bytes > 0);
    }
    return sum;
}

static void check_shape(const struct model *m) {
    const struct model_shape *s = &m->shape;
    assert(s->n_layers && s->n_embd && s->n_ff && s->n_vocab && s->context_length && m->layers && m->embedding && m->output);
    assert(s->n_kv_heads && s->n_heads % s->n_kv_heads == 0 && s->head_dim && s->head_dim % 2 == 0);
    assert(s->n_experts_used && s->n_experts_used <= s->n_experts);
    assert(s->rms_eps > 0 && s->rope_base > 1 && s->rope_factor > 0 && s->rope_attn_factor > 0 && s->rope_original_context);
    assert(s->rope_ext_factor >= 0 && s->rope_ext_factor <= 1 && s->rope_beta_slow > 0 && s->rope_beta_fast >= s->rope_beta_slow);
    for (uint32_t i = 0; i < s->n_layers; i++) assert(m->layers[i].gate && m->layers[i].down && m->layers[i].attn_k);
}

void model_walk(const char *path, void (*check)(const struct model *m)) {
    for (int need_weights = 0; need_weights < 2; need_weights++) {
        struct model *m;
        struct reason why = {0};
        const enum err result = model_open(path, need_weights, &m, &why);
        assert((result == ERR_NONE) == (m != NULL));
        assert(result == ERR_NONE || why.text[0]);
        if (!m) continue;
        volatile unsigned sum = walk(m); /* volatile: the reads must happen */
        (void)sum;
        check(m);
        if (need_weights) check_shape(m);
        model_close(&m);
    }
}

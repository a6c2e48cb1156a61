/* libFuzzer target: any bytes as a model file, opened with and without weights, and then used the way programs use it.
 * The bytes live in a memory file; a model that opens is walked to the end, so that a wrong extent is read and seen. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct model_tensor *t = &m->tensors[i];
        sum += sum_span(t->name);
        assert(model_find_tensor(m, t->name) == t);
        assert(t->file < m->n_files && t->offset <= m->files[t->file].bytes);
        assert(t->bytes > 0 && t->bytes <= m->files[t->file].bytes - t->offset);
    }
    return sum;
}

static void check_shape(const struct model *m) {
    const struct model_shape *s = &m->shape;
    assert(s->n_layers && s->n_embd && s->n_ff && s->n_vocab && s->context_length && m->layers && m->embedding && m->output);
    assert(s->n_kv_heads && s->n_heads % s->n_kv_heads == 0 && s->head_dim && s->head_dim % 2 == 0);
    assert(s->n_experts_used && s->n_experts_used <= s->n_experts);
    assert(s->rms_eps > 0 && s->rope_base > 1 && s->rope_factor > 0 && s->rope_attn_factor > 0 && s->rope_original_context);
    for (uint32_t i = 0; i < s->n_layers; i++) assert(m->layers[i].gate && m->layers[i].down && m->layers[i].attn_k);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const int fd = memfd_create("fuzz", MFD_CLOEXEC);
    assert(fd >= 0);
    for (size_t done = 0; done < size;) {
        const ssize_t written = write(fd, data + done, size - done);
        assert(written > 0);
        done += (size_t)written;
    }
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    for (int need_weights = 0; need_weights < 2; need_weights++) {
        struct model *m;
        struct reason why = {0};
        const enum err result = model_open(path, need_weights, &m, &why);
        assert((result == ERR_NONE) == (m != NULL));
        assert(result == ERR_NONE || why.text[0]);
        if (!m) continue;
        volatile unsigned sum = walk(m); /* volatile: the reads must happen */
        (void)sum;
        if (need_weights) check_shape(m);
        model_close(&m);
    }
    close(fd);
    return 0;
}

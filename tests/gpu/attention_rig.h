/* Attention's kernels on their own, for tests in plain C: a network of one layer that has only what they read. Every device
 * error ends the test. Works on whatever device the program was built for. */
#ifndef COLDSTREAM_TESTS_ATTENTION_RIG_H
#define COLDSTREAM_TESTS_ATTENTION_RIG_H

#include "gpu/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

struct rig_spec {
    uint32_t heads, kv_heads, head_dim, splits;
    uint32_t sequences, max_pages, pages; /* pages: of each pool */
    enum gpu_kv kv_k, kv_v;
    float eps, magnitude;
    const double *frequency;              /* [head_dim / 2] */
    const float *q_norm, *k_norm;         /* [head_dim] */
    uint32_t batch_tokens;
};

struct rig_token {
    uint32_t position, sequence;
};

/* What a step left; d, s32, sum16 and q as in struct gpu_acts. */
struct rig_step_out {
    float *floats; /* [launched][heads * head_dim], or NULL: leave int8 */
    int8_t *q;
    float *d, *s32;
    int32_t *sum16;
};

struct rig;
bool rig_has_device(void);
struct rig *rig_open(const struct rig_spec *s);
void rig_close(struct rig *r);
uint64_t rig_page_bytes(const struct rig_spec *s, enum gpu_kv kind);
void rig_set_pages(struct rig *r, const uint32_t *pages); /* [sequences][max_pages] */
/* The pools as bytes, [pages] of them. */
void rig_write(struct rig *r, const void *keys, const void *values);
void rig_read(struct rig *r, void *keys, void *values);
/* A step launched for `launched` tokens of which the command has n. qkv [launched][(heads + 2 kv_heads) * head_dim]. */
void rig_step(struct rig *r, uint32_t launched, uint32_t n, const struct rig_token *tokens, const float *qkv,
              const struct rig_step_out *out);
/* n tokens of a prompt. out [n][heads * head_dim] binary16. */
void rig_batch(struct rig *r, uint32_t sequence, uint64_t first, uint32_t n, const float *qkv, uint16_t *out);
/* cos and sin as the kernels take them. */
void rig_turns(uint32_t n, const uint32_t *positions, double frequency, float magnitude, float *cosines, float *sines);
/* Whether all tickets are 0, as they must be between kernels. */
bool rig_tickets_clear(struct rig *r);
enum err rig_check(const struct gpu_network_options *o, struct reason *why);

#ifdef __cplusplus
}
#endif

#endif

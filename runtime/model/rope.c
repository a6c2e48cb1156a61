/* What the command line says of a model's positions instead of its file: checked, and put into the shape. Frequencies are
 * computed in engine/rope.c. */
#include <math.h>

#include "model/model.h"

static enum err check_factors(const struct model_shape *s, struct reason *why) {
    if (!(s->rope_base > 1) || !isfinite(s->rope_base))
        return fail(why, ERR_ARGUMENT, "a RoPE frequency base of %g: it must be above 1", (double)s->rope_base);
    if (!(s->rope_factor >= ROPE_LEAST_FACTOR && s->rope_factor <= ROPE_MOST_FACTOR))
        return fail(why, ERR_ARGUMENT, "a RoPE scale of %g: it must be a sensible positive number", (double)s->rope_factor);
    if (!(s->rope_attn_factor > 0) || !isfinite(s->rope_attn_factor))
        return fail(why, ERR_ARGUMENT, "a YaRN attention factor of %g: it must be above 0", (double)s->rope_attn_factor);
    if (!(s->rope_ext_factor >= 0 && s->rope_ext_factor <= 1))
        return fail(why, ERR_ARGUMENT, "a YaRN extrapolation factor of %g: it must be 0 to 1", (double)s->rope_ext_factor);
    if (!(s->rope_beta_slow > 0 && s->rope_beta_fast >= s->rope_beta_slow) || !isfinite(s->rope_beta_fast))
        return fail(why, ERR_ARGUMENT, "YaRN's beta fast of %g and slow of %g: both must be above 0 and fast not below slow",
                    (double)s->rope_beta_fast, (double)s->rope_beta_slow);
    return ERR_NONE;
}

/* Tokens that the positions of a scaled or plain model reach, `trained` of them without scaling. */
static uint64_t reach(const struct model_shape *s, uint64_t trained) {
    const double scaled = (double)s->rope_original_context * s->rope_factor;
    if (s->rope_factor <= 1 || scaled <= (double)trained) return trained;
    return scaled < MODEL_MAX_POSITIONS ? (uint64_t)scaled : MODEL_MAX_POSITIONS;
}

enum err model_override_rope(struct model *m, const struct rope_override *o, struct reason *why) {
    struct model_shape s = m->shape;
    if (s.n_layers == 0) return ERR_NONE; /* a vocabulary */
    const bool stretched = s.rope_factor > 1, stretches = o->has_scaling || o->factor || o->original_context;
    const uint64_t trained = stretched && stretches ? s.rope_original_context : s.context_length;
    if (o->base) s.rope_base = o->base;
    if (o->factor) s.rope_factor = o->factor;
    if (o->has_scaling) s.rope_scaling = o->scaling;
    if (s.rope_scaling == ROPE_NONE && o->factor && !o->has_scaling) s.rope_scaling = ROPE_LINEAR;
    if (s.rope_scaling == ROPE_NONE) s.rope_factor = 1;
    if (s.rope_scaling == ROPE_LINEAR && s.rope_factor == 1) s.rope_scaling = ROPE_NONE;
    if (o->original_context) s.rope_original_context = o->original_context;
    if (o->has_scaling) s.rope_ext_factor = s.rope_scaling == ROPE_YARN ? 1 : 0;
    if (o->has_ext_factor) s.rope_ext_factor = o->ext_factor;
    if (o->attn_factor) s.rope_attn_factor = o->attn_factor;
    if (o->beta_fast) s.rope_beta_fast = o->beta_fast;
    if (o->beta_slow) s.rope_beta_slow = o->beta_slow;
    if (stretches) s.context_length = reach(&s, trained);
    TRY(check_factors(&s, why));
    m->shape = s;
    return ERR_NONE;
}

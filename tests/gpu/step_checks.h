/* What the tests of a step's kernels check: each launch against the CPU's reference kernels. Static functions, for the programs
 * whose fixture is step_fixture.h. */
#ifndef COLDSTREAM_TESTS_STEP_CHECKS_H
#define COLDSTREAM_TESTS_STEP_CHECKS_H

#include "tests/gpu/step_fixture.h"

/* ---- references ------------------------------------------------------------------------------------------------- */

/* n vectors of k with their int8 form when k allows. */
static struct acts make_acts(const float *x, size_t n, size_t k) {
    struct acts a = {.n = n, .k = k};
    float *copy = malloc(n * k * sizeof(float));
    memcpy(copy, x, n * k * sizeof(float));
    a.f32 = copy;
    if (k % 32) return a;
    acts_layout(&a, aligned_alloc(64, round_up(acts_bytes(n, k), 64)));
    cpu.quantize(&a, 0, n);
    return a;
}
static void free_acts(struct acts *a) {
    free((void *)a->f32);
    if (a->q) {
        void *first = a->q;
        if ((void *)a->d < first) first = a->d;
        if ((void *)a->s32 < first) first = a->s32;
        if ((void *)a->sum16 < first) first = a->sum16;
        free(first);
    }
}

/* y[i][r]: all rows of m times all vectors of x. */
static void product(const struct matrix *m, const struct acts *x, float *y) {
    const struct cpu_type *t = &cpu.types[m->type];
    void *scratch = aligned_alloc(64, round_up(matmul_scratch_bytes(m->k), 64));
    const struct exl3_matrix exl3 = {m->in_scale, m->out_scale, m->rows, m->codebook};
    t->matmul(&(struct matmul){m->file, m->row_bytes, m->k, 0, m->rows, x, NULL, x->n, y, m->rows, scratch,
                               m->in_scale ? &exl3 : NULL});
    free(scratch);
}

/* What sums of float products of row r with vector x may be off by, and, with `ties`, what the rounding of x to int8 may differ
 * by where x stands within a hair of the middle between two integers. */
static double allowance(const struct matrix *m, uint32_t r, const float *x, bool ties) {
    if (is_trellis(m->type)) { /* weights of deviation 1.24 times transformed inputs, which keep the norm; sums in binary32 */
        double squares = 0;
        for (uint32_t c = 0; c < m->k; c++) squares += pow((double)x[c] * f16_to_f32(m->in_scale[c]), 2);
        return 1e-5 * sqrt(squares) * fabs((double)f16_to_f32(m->out_scale[r]));
    }
    float *w = malloc(m->k * sizeof(float));
    double sum = 0, tie = 0;
    cpu.types[m->type].dequant(m->file + r * m->row_bytes, w, m->k);
    const bool int8 = cpu.types[m->type].int8_acts;
    for (uint32_t g = 0; g < m->k; g += 32) {
        const uint32_t end = g + 32 < m->k ? g + 32 : m->k;
        float max = 0;
        for (uint32_t c = g; c < end; c++) max = fmaxf(max, fabsf(x[c]));
        for (uint32_t c = g; c < end; c++) {
            sum += fabs((double)w[c]) * max;
            const double at = x[c] * 127.0 / max, middle = fabs(at - floor(at) - 0.5);
            if (ties && int8 && middle < 2e-4) tie += 1.01 * fabs((double)w[c]) * max / 127;
        }
    }
    free(w);
    return 2e-6 * sum + tie;
}

static void check_close(float got, double wanted, double allowed, const char *what, size_t at) {
    if (!(fabs(got - wanted) <= allowed)) fail_test("%s [%zu]: %.9g, wanted %.9g within %.3g", what, at, got, wanted, allowed);
}

/* ---- checks ------------------------------------------------------------------------------------------------------ */

static const uint32_t token_counts[] = {1, 2, 4, 8};

/* Give the next command: n tokens of the given ids; then the kernel that reads it. */
static void begin(struct fixture *f, uint32_t tokens, uint32_t n, const int32_t *ids) {
    struct gpu_command *c = f->shared->commands[++f->number % 2];
    memset(c, 0, sizeof *c);
    c->number = f->number, c->n_tokens = n;
    for (uint32_t t = 0; t < n; t++) c->tokens[t].id = ids ? ids[t] : 0;
    launch(f, PROBE_BEGIN, tokens);
}

static const struct gpu_result *end(struct fixture *f, uint32_t tokens) {
    launch(f, PROBE_END, tokens);
    finish();
    assert_int_equal(f->shared->result->number, f->number);
    return f->shared->result;
}

static float *random_x(struct fixture *f, uint32_t tokens) {
    float *x = malloc(GPU_STEP_TOKENS * f->z.e * sizeof(float));
    random_floats(x, GPU_STEP_TOKENS * f->z.e);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t i = 0; i < f->z.e; i++) x[t * f->z.e + i] *= (float)(t + 1);
    up(f->at.x, x, tokens * f->z.e * sizeof(float));
    return x;
}

static void check_qkv(struct fixture *f, uint32_t tokens) {
    const struct matrix *m[3] = {&f->q, &f->k, &f->v};
    const uint32_t e = f->z.e, width = f->q.rows + f->k.rows + f->v.rows;
    float *x = random_x(f, tokens), *normed = malloc(tokens * e * sizeof(float)), *got = malloc(tokens * width * sizeof(float));
    launch(f, PROBE_QKV, tokens);
    down(got, f->at.qkv, tokens * width * sizeof(float));
    for (uint32_t t = 0; t < tokens; t++) cpu.rmsnorm(x + t * e, f->attn_norm, e, 1e-6f, normed + t * e);
    struct acts a = make_acts(normed, tokens, e);
    for (uint32_t i = 0, column = 0; i < 3; column += m[i++]->rows) {
        float *y = malloc(tokens * m[i]->rows * sizeof(float));
        product(m[i], &a, y);
        for (uint32_t t = 0; t < tokens; t++)
            for (uint32_t r = 0; r < m[i]->rows; r++)
                check_close(got[t * width + column + r], y[t * m[i]->rows + r], allowance(m[i], r, normed + t * e, true),
                            "q, k or v", column + r);
        free(y);
    }
    free_acts(&a);
    free(x), free(normed), free(got);
}

static void upload_acts(const struct acts *a, const struct probe_acts *to) {
    up(to->q, a->q, a->n * a->k);
    up(to->d, a->d, a->n * a->k / 32 * sizeof(float));
    up(to->s32, a->s32, a->n * a->k / 32 * sizeof(float));
    up(to->sum16, a->sum16, a->n * a->k / 16 * sizeof(int32_t));
}

static void check_output(struct fixture *f, uint32_t tokens) {
    const uint32_t e = f->z.e, k = f->output.k;
    float *x = random_x(f, tokens), *attended = malloc(tokens * k * sizeof(float)), *got = malloc(tokens * e * sizeof(float)),
          *y = malloc(tokens * e * sizeof(float));
    random_floats(attended, tokens * k);
    struct acts a = make_acts(attended, tokens, k);
    if (cpu.types[f->output.type].int8_acts)
        upload_acts(&a, &f->at.attended);
    else
        up(f->at.attended32, attended, tokens * k * sizeof(float));
    launch(f, PROBE_OUTPUT, tokens);
    down(got, f->at.x, tokens * e * sizeof(float));
    product(&f->output, &a, y);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t r = 0; r < e; r++)
            check_close(got[t * e + r], (double)x[t * e + r] + y[t * e + r],
                        allowance(&f->output, r, attended + t * k, false) + 1e-6 * fabsf(x[t * e + r]), "x after output",
                        t * e + r);
    free_acts(&a);
    free(x), free(attended), free(got), free(y);
}

/* What a choice of experts must be, from the router's own logits: a plain selection, kept apart from the engine's. */
static void choose(const float *logits, uint32_t n, uint32_t used, int32_t *expert, double *weight) {
    bool taken[GPU_MAX_EXPERTS] = {false};
    double sum = 0;
    for (uint32_t r = 0; r < used; r++) {
        int best = -1;
        for (uint32_t e = 0; e < n; e++) {
            const double v = isnan(logits[e]) ? -INFINITY : logits[e];
            if (!taken[e] && (best < 0 || v >= (isnan(logits[best]) ? -INFINITY : logits[best]))) best = (int)e;
        }
        taken[best] = true;
        expert[r] = best;
        const double v = isnan(logits[best]) ? -INFINITY : logits[best],
                     top = isnan(logits[expert[0]]) ? -INFINITY : logits[expert[0]];
        weight[r] = exp(v - top);
        sum += weight[r];
    }
    for (uint32_t r = 0; r < used; r++) weight[r] /= sum;
}

struct routed {
    struct probe_route route[GPU_STEP_TOKENS][GPU_MAX_USED];
    float *normed; /* [T][E] */
    uint32_t n_hits, missing;
    struct probe_hit hit[GPU_STEP_TOKENS * GPU_MAX_USED];
};

/* Norm, logits, choice, hits and counters of n real tokens after the route kernel. */
static void check_choice(struct fixture *f, uint32_t tokens, uint32_t n, const float *x, const uint32_t *slots,
                         const uint32_t *uses, struct routed *out) {
    const uint32_t e = f->z.e, experts = f->z.experts, used = f->z.used;
    float *normed = malloc(tokens * e * sizeof(float)), *logits = malloc(tokens * experts * sizeof(float)),
          *y = malloc(tokens * experts * sizeof(float));
    uint32_t *now = malloc(experts * sizeof *now), *wanted_uses = malloc(experts * sizeof *now);
    struct probe_route *route = malloc(tokens * used * sizeof *route);
    out->normed = malloc(tokens * e * sizeof(float));
    down(out->normed, f->at.normed, tokens * e * sizeof(float));
    down(logits, f->at.router, tokens * experts * sizeof(float));
    down(route, f->at.route, tokens * used * sizeof *route);
    down(now, f->at.uses, experts * sizeof *now);
    memcpy(wanted_uses, uses, experts * sizeof *now);
    for (uint32_t t = 0; t < tokens; t++) cpu.rmsnorm(x + t * e, f->ffn_norm, e, 1e-6f, normed + t * e);
    for (uint32_t i = 0; i < tokens * e; i++)
        check_close(out->normed[i], normed[i], 1e-6 * fabsf(normed[i]) + 1e-30, "normed", i);
    struct acts a = make_acts(normed, tokens, e);
    product(&f->router, &a, y);
    out->missing = 0;
    for (uint32_t t = 0; t < tokens; t++) {
        int32_t expert[GPU_MAX_USED];
        double weight[GPU_MAX_USED];
        for (uint32_t r = 0; r < experts; r++)
            if (!isnan(y[t * experts + r]))
                check_close(logits[t * experts + r], y[t * experts + r], allowance(&f->router, r, normed + t * e, true),
                            "router", r);
        if (t < n) choose(logits + t * experts, experts, used, expert, weight);
        for (uint32_t r = 0; r < used; r++) {
            const struct probe_route *got = &route[t * used + r];
            out->route[t][r] = *got;
            assert_int_equal(got->expert, t < n ? expert[r] : -1);
            assert_int_equal(got->slot, t < n ? slots[expert[r]] : 0);
            check_close(got->weight, t < n ? weight[r] : 0, 1e-6, "weight", r);
            if (t < n) wanted_uses[expert[r]]++, out->missing += slots[expert[r]] == 0;
        }
    }
    assert_memory_equal(now, wanted_uses, experts * sizeof *now);
    free_acts(&a);
    free(normed), free(logits), free(y), free(now), free(wanted_uses), free(route);
}

static void check_hits(struct fixture *f, uint32_t tokens, struct routed *r) {
    const uint32_t used = f->z.used;
    r->n_hits = down_u32(f->at.n_hits);
    assert_in_range(r->n_hits, 0, tokens * used);
    if (r->n_hits) down(r->hit, f->at.hits, r->n_hits * sizeof *r->hit);
    uint32_t pairs = 0, wanted = 0;
    for (uint32_t i = 0; i < r->n_hits; i++) {
        assert_int_not_equal(r->hit[i].slot, 0);
        for (uint32_t j = 0; j < i; j++) assert_int_not_equal(r->hit[i].slot, r->hit[j].slot);
        for (uint32_t t = 0; t < GPU_STEP_TOKENS; t++) {
            const bool set = r->hit[i].tokens >> t & 1;
            pairs += set;
            if (!set)
                assert_true(r->hit[i].weight[t] == 0);
            else
                assert_true(r->hit[i].rank[t] < used && r->route[t][r->hit[i].rank[t]].slot == r->hit[i].slot &&
                            r->route[t][r->hit[i].rank[t]].weight == r->hit[i].weight[t]);
        }
    }
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t k = 0; k < used; k++) wanted += r->route[t][k].slot != 0;
    assert_int_equal(pairs, wanted);
}

/* The int8 form made on the device equals the CPU's of the same floats, to the bit. */
static void check_acts(const float *x, const struct probe_acts *from, size_t n, size_t k) {
    struct acts a = make_acts(x, n, k);
    int8_t *q = malloc(n * k);
    float *d = malloc(n * k / 32 * 4), *s32 = malloc(n * k / 32 * 4);
    int32_t *sum16 = malloc(n * k / 16 * 4);
    down(q, from->q, n * k), down(d, from->d, n * k / 32 * 4), down(s32, from->s32, n * k / 32 * 4),
        down(sum16, from->sum16, n * k / 16 * 4);
    assert_memory_equal(q, a.q, n * k);
    assert_memory_equal(d, a.d, n * k / 32 * 4);
    assert_memory_equal(sum16, a.sum16, n * k / 16 * 4);
    for (size_t i = 0; i < n * k / 32; i++) check_close(s32[i], a.s32[i], 0, "s32", i);
    free_acts(&a);
    free(q), free(d), free(s32), free(sum16);
}

static void check_letter(const struct host *h, uint32_t n, const struct routed *r) {
    const struct fixture *f = h->f;
    assert_int_equal(h->mail.kind, GPU_MAIL_EXPERTS);
    assert_int_equal(h->mail.layer, 0);
    assert_int_equal(h->mail.n_tokens, n);
    assert_memory_equal(h->input, r->normed, n * f->z.e * sizeof(float));
    for (uint32_t t = 0; t < n; t++) {
        uint32_t at = 0;
        for (uint32_t k = 0; k < f->z.used; k++) {
            if (r->route[t][k].slot) continue;
            assert_int_equal(h->mail.expert[t][at], r->route[t][k].expert);
            assert_true(h->mail.weight[t][at] == r->route[t][k].weight);
            at++;
        }
        assert_int_equal(h->mail.n_missing[t], at);
    }
}

/* A token's result of gate and up for one expert: the floats they round, and the int8 that down reads. Leaves what the device
 * has in `mid` [F] as floats. */
static void check_mid(struct fixture *f, const struct acts *in, uint32_t t, uint32_t rank, const struct matrix *expert,
                      float *mid, const float *normed) {
    const uint32_t width = f->z.f, row = t * f->z.used + rank, e = f->z.e;
    const struct acts one = {1,
                             e,
                             in->f32 + t * e,
                             in->q ? in->q + t * e : NULL,
                             in->q ? in->d + t * e / 32 : NULL,
                             in->q ? in->s32 + t * e / 32 : NULL,
                             in->q ? in->sum16 + t * e / 16 : NULL};
    float *gate = malloc(width * 4), *upward = malloc(width * 4), *wanted = malloc(width * 4);
    product(&expert[0], &one, gate);
    product(&expert[1], &one, upward);
    cpu.swiglu(gate, upward, width, wanted);
    const bool int8 = cpu.types[f->y.down].int8_acts;
    int8_t *q = malloc(width);
    float *d = malloc(width / 32 * 4 + 4), *s32 = malloc(width / 32 * 4 + 4);
    int32_t *sum16 = malloc(width / 16 * 4 + 4);
    if (int8) {
        down(q, f->at.mid.q + (uint64_t)row * width, width),
            down(d, f->at.mid.d + (uint64_t)row * width / 32 * 4, width / 32 * 4);
        down(s32, f->at.mid.s32 + (uint64_t)row * width / 32 * 4, width / 32 * 4),
            down(sum16, f->at.mid.sum16 + (uint64_t)row * width / 16 * 4, width / 16 * 4);
    } else {
        down(mid, f->at.mid32 + (uint64_t)row * width * 4, width * 4);
    }
    for (uint32_t i = 0; i < width; i++) {
        const double spread = allowance(&expert[0], i, normed + t * e, false) * (fabsf(upward[i]) + 1) +
                              allowance(&expert[1], i, normed + t * e, false) * (fabsf(gate[i]) + 1);
        if (int8) mid[i] = d[i / 32] * (float)q[i];
        check_close(mid[i], wanted[i], 2 * spread + 1e-6 * fabsf(wanted[i]) + (int8 ? 0.501 * d[i / 32] : 0), "mid", i);
    }
    for (uint32_t g = 0; int8 && g < width / 32; g++) {
        int32_t sums[2] = {0, 0};
        int most = 0;
        for (uint32_t i = 0; i < 32; i++) {
            sums[i / 16] += q[32 * g + i];
            if (abs(q[32 * g + i]) > most) most = abs(q[32 * g + i]);
        }
        assert_int_equal(sum16[2 * g], sums[0]);
        assert_int_equal(sum16[2 * g + 1], sums[1]);
        assert_true(most == 127 || d[g] == 0);
        check_close(s32[g], d[g] * (float)(sums[0] + sums[1]), 0, "s32 of mid", g);
    }
    free(gate), free(upward), free(wanted), free(q), free(d), free(s32), free(sum16);
}

/* x after down: the hits from the device's own mid, and `answer` where the host's share was added. */
static void check_experts(struct fixture *f, uint32_t tokens, uint32_t n, const float *x, const struct routed *r,
                          const float *answer) {
    const uint32_t e = f->z.e, used = f->z.used, width = f->z.f;
    double *wanted = malloc(tokens * e * sizeof *wanted), *allowed = malloc(tokens * e * sizeof *allowed);
    float *got = malloc(tokens * e * sizeof(float)), *mid = malloc(width * 4), *y = malloc(e * 4);
    struct acts in = make_acts(r->normed, tokens, e);
    for (uint32_t i = 0; i < tokens * e; i++) wanted[i] = x[i], allowed[i] = 1e-6 * fabsf(x[i]);
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t k = 0; k < used; k++) {
            if (!r->route[t][k].slot) continue;
            const struct matrix *expert = &f->expert[3 * r->route[t][k].expert];
            check_mid(f, &in, t, k, expert, mid, r->normed);
            struct acts a = make_acts(mid, 1, width);
            product(&expert[2], &a, y);
            for (uint32_t i = 0; i < e; i++)
                wanted[t * e + i] += (double)r->route[t][k].weight * y[i],
                    allowed[t * e + i] += r->route[t][k].weight * (allowance(&expert[2], i, mid, false) + 1e-6 * fabsf(y[i]));
            free_acts(&a);
        }
    down(got, f->at.x, tokens * e * sizeof(float));
    for (uint32_t i = 0; i < tokens * e; i++) {
        const double rest = answer && i < n * e ? answer[i] : 0;
        check_close(got[i], wanted[i] + rest, allowed[i] + 1e-6 * fabs(rest), "x after down", i);
    }
    free_acts(&in);
    free(wanted), free(allowed), free(got), free(mid), free(y);
}

/* The slots of all experts but those of `missing`, a set of expert numbers. */
static void set_slots(struct fixture *f, uint32_t *slots, const bool *missing) {
    for (uint32_t x = 0; x < f->z.experts; x++) slots[x] = missing[x] ? 0 : 1 + (uint32_t)(x * f->slot_bytes / 256);
    device->ops->set_slots(f->net, 0, slots);
    finish();
}

static void check_tickets(struct fixture *f) {
    uint32_t tickets[PROBE_TICKETS];
    down(tickets, f->at.tickets, sizeof tickets);
    for (int i = 0; i < PROBE_TICKETS; i++) assert_int_equal(tickets[i], 0);
}

/* A layer's second half with the experts of `missing` at the host's; n of the tokens are real. */
static void check_layer(struct fixture *f, uint32_t tokens, uint32_t n, const bool *missing, struct routed *r) {
    uint32_t slots[GPU_MAX_EXPERTS], uses[GPU_MAX_EXPERTS];
    set_slots(f, slots, missing);
    begin(f, tokens, n, NULL);
    finish();
    float *x = random_x(f, tokens);
    down(uses, f->at.uses, f->z.experts * sizeof *uses);
    struct host *h = start_host(f, ANSWERED, f->z.e, f->z.e);
    launch(f, PROBE_ROUTE, tokens);
    launch(f, PROBE_GATE_UP, tokens);
    finish();
    check_choice(f, tokens, n, x, slots, uses, r);
    check_hits(f, tokens, r);
    if (cpu.types[f->y.gate].int8_acts || cpu.types[f->y.up].int8_acts) check_acts(r->normed, &f->at.normed8, tokens, f->z.e);
    launch(f, PROBE_DOWN, tokens);
    const struct gpu_result *result = end(f, tokens);
    check_tickets(f);
    assert_int_equal(result->failed, 0);
    assert_int_equal(result->n_misses, r->missing);
    assert_int_equal(h->letters, r->missing != 0);
    if (r->missing) check_letter(h, n, r);
    check_experts(f, tokens, n, x, r, r->missing ? h->values : NULL);
    stop_host(h);
    free(x);
}

static void check_head(struct fixture *f, uint32_t tokens) {
    const uint32_t e = f->z.e, v = f->z.vocab;
    float *normed = malloc(tokens * e * 4), *rest = malloc(tokens * e * 4), *got = malloc(tokens * v * 4),
          *y = malloc(tokens * v * 4), *y2 = calloc(tokens * v, 4);
    begin(f, tokens, tokens, NULL);
    finish();
    float *x = random_x(f, tokens);
    launch(f, PROBE_HEAD, tokens);
    const struct gpu_result *result = end(f, tokens);
    down(got, f->at.logits, tokens * v * sizeof(float));
    for (uint32_t t = 0; t < tokens; t++) cpu.rmsnorm(x + t * e, f->output_norm, e, 1e-6f, normed + t * e);
    struct acts a = make_acts(normed, tokens, e);
    product(&f->head, &a, y);
    if (cpu.types[f->head.type].int8_acts) {
        for (uint32_t i = 0; i < tokens * e; i++) rest[i] = normed[i] - a.d[i / 32] * (float)a.q[i];
        struct acts b = make_acts(rest, tokens, e);
        product(&f->head, &b, y2);
        free_acts(&b);
    }
    for (uint32_t t = 0; t < tokens; t++) {
        uint32_t best = 0;
        for (uint32_t r = 0; r < v; r++) {
            check_close(got[t * v + r], (double)y[t * v + r] + y2[t * v + r], 3 * allowance(&f->head, r, normed + t * e, false),
                        "logit", t * v + r);
            if (got[t * v + r] > got[t * v + best]) best = r;
        }
        assert_int_equal(result->best[t], best);
    }
    free_acts(&a);
    free(x), free(normed), free(rest), free(got), free(y), free(y2);
}

static void check_embedding(struct fixture *f, uint32_t tokens) {
    const uint32_t e = f->z.e, n = tokens > 1 ? tokens - 1 : 1;
    int32_t ids[GPU_STEP_TOKENS];
    float *got = malloc(tokens * e * 4), *wanted = calloc(e, 4);
    for (uint32_t t = 0; t < n; t++) ids[t] = (int32_t)(random_bits() % f->z.vocab);
    begin(f, tokens, n, ids);
    assert_int_equal(end(f, tokens)->failed, 0);
    down(got, f->at.x, tokens * e * sizeof(float));
    for (uint32_t t = 0; t < tokens; t++) {
        if (t < n)
            cpu.types[f->embedding.type].dequant(f->embedding.file + (uint64_t)ids[t] * f->embedding.row_bytes, wanted, e);
        else
            memset(wanted, 0, e * sizeof(float));
        for (uint32_t i = 0; i < e; i++)
            check_close(got[t * e + i], wanted[i], 1e-6 * fabsf(wanted[i]) + 1e-7, "embedding", t * e + i);
    }
    free(got), free(wanted);
}

static void check_all(struct fixture *f, uint32_t tokens) {
    bool missing[GPU_MAX_EXPERTS] = {false};
    struct routed *r = malloc(sizeof *r);
    check_embedding(f, tokens);
    check_qkv(f, tokens);
    check_output(f, tokens);
    check_layer(f, tokens, tokens, missing, r);
    free(r->normed);
    for (uint32_t x = 0; x < f->z.experts; x++) missing[x] = random_bits() % 3 == 0;
    check_layer(f, tokens, tokens > 1 ? tokens - 1 : 1, missing, r);
    free(r->normed);
    check_head(f, tokens);
    free(r);
}

/* One and four tokens with types that differ, as files have them. */
static void check_mixes(const struct types *mixes, size_t n, struct sizes z) {
    for (size_t i = 0; i < n; i++) {
        struct fixture f = make_fixture(z, mixes[i]);
        open_network(&f);
        check_all(&f, 1);
        check_all(&f, 4);
        free_fixture(&f);
    }
}

#endif

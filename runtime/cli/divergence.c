/* Statistics of two models over one text. Definitions follow llama-perplexity, so that numbers can be laid side by side:
 * KL is sum p_base (ln p_base - ln p) over the entries with ln p_base > -16, with the base's coded probabilities taken as they
 * are; a difference of probabilities is that of the token which really follows. */
#include "cli/divergence.h"

#include <math.h>
#include <stdlib.h>

#include "cli/logprobs.h"

enum err divergence_open(size_t positions, struct divergence *out, struct reason *why) {
    *out = (struct divergence){.cap = positions};
    out->klds = calloc_checked(positions, sizeof *out->klds);
    out->p_diffs = calloc_checked(positions, sizeof *out->p_diffs);
    return out->klds && out->p_diffs ? ERR_NONE
                                     : fail(why, ERR_NO_MEMORY, "no memory for the statistics of %zu positions", positions);
}

void divergence_close(struct divergence *d) {
    free(d->klds);
    free(d->p_diffs);
    *d = (struct divergence){0};
}

static void count(struct moments *m, double value) {
    m->sum += value;
    m->squares += value * value;
}

void divergence_add(struct divergence *d, const float *logits, int32_t n_vocab, const uint16_t *base, int32_t token) {
    float max;
    size_t top, base_top = 0;
    const double log_sum = logprobs_log_sum(logits, (size_t)n_vocab, &max, &top) + (double)max;
    const float step = logprobs_step(base), low = logprobs_low(base);
    const uint16_t *codes = base + 4;
    double kld = 0;
    for (int32_t i = 0; i < n_vocab; i++) {
        if (codes[i] > codes[base_top]) base_top = (size_t)i;
        const float log_p = low + step * (float)codes[i];
        if (log_p > -16) kld += (double)expf(log_p) * ((double)log_p - (double)logits[i] + log_sum);
    }
    const double nll = log_sum - (double)logits[token], base_nll = -(double)(low + step * (float)codes[token]);
    const double p_diff = exp(-nll) - exp(-base_nll);
    count(&d->nll, nll);
    count(&d->base_nll, base_nll);
    count(&d->kld, kld);
    count(&d->p_diff, p_diff);
    count(&d->p_diff2, p_diff * p_diff);
    d->nll_product += nll * base_nll;
    d->same_top += top == base_top;
    d->klds[d->n] = (float)kld;
    d->p_diffs[d->n++] = (float)p_diff;
}

/* ---- estimates ------------------------------------------------------------------------------------------------------ */

struct estimate {
    double value, error; /* standard error */
};

static struct estimate mean(const struct moments *m, size_t n) {
    const double value = m->sum / (double)n, variance = m->squares / (double)n - value * value;
    return (struct estimate){value, variance > 0 && n > 10 ? sqrt(variance / (double)(n - 1)) : 0};
}

static double covariance(const struct divergence *d) { /* of the two means */
    const double n = (double)d->n;
    return d->n < 10 ? 0 : (d->nll_product / n - d->nll.sum / n * (d->base_nll.sum / n)) / (n - 1);
}

static double root(double x) { return x > 0 ? sqrt(x) : 0; }

static struct estimate exp_of(struct estimate e) { return (struct estimate){exp(e.value), exp(e.value) * e.error}; }

static struct estimate log_ratio(const struct divergence *d) {
    const struct estimate a = mean(&d->nll, d->n), b = mean(&d->base_nll, d->n);
    return (struct estimate){a.value - b.value, root(a.error * a.error + b.error * b.error - 2 * covariance(d))};
}

static struct estimate rms(const struct divergence *d) {
    const struct estimate e = mean(&d->p_diff2, d->n);
    const double value = root(e.value);
    return (struct estimate){value, value > 0 ? 0.5 / value * e.error : 0};
}

static struct estimate top_share(const struct divergence *d) {
    const double p = (double)d->same_top / (double)d->n;
    return (struct estimate){p, d->n > 1 ? sqrt(p * (1 - p) / (double)(d->n - 1)) : 0};
}

/* ---- printing ------------------------------------------------------------------------------------------------------- */

void divergence_title(struct text *out) {
    text_addf(out, "\nchunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS      "
                   "      Same top p\n");
}

void divergence_row(const struct divergence *d, int chunk, struct text *out) {
    const struct estimate ppl = exp_of(mean(&d->nll, d->n)), ratio = log_ratio(d), kld = mean(&d->kld, d->n), r = rms(d),
                          top = top_share(d);
    text_addf(out, "%4d    %9.4f ± %9.4f    %10.5f ± %10.5f    %10.5f ± %10.5f    %6.3f ± %6.3f %%    %6.3f ± %6.3f %%\n",
              chunk, ppl.value, ppl.error, ratio.value, ratio.error, kld.value, kld.error, 100 * r.value, 100 * r.error,
              100 * top.value, 100 * top.error);
}

static int ascending(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Linear between the neighbours, as llama-perplexity's. */
static double percentile(const float *sorted, size_t n, double fraction) {
    const double at = fraction * (double)(n - 1);
    const size_t below = (size_t)at, above = below + 1 < n ? below + 1 : below;
    return (double)sorted[below] + (at - (double)below) * ((double)sorted[above] - (double)sorted[below]);
}

static void add_perplexity_table(const struct divergence *d, struct text *out) {
    const struct estimate a = mean(&d->nll, d->n), b = mean(&d->base_nll, d->n), p = exp_of(a), q = exp_of(b), l = log_ratio(d),
                          r = exp_of(l);
    const double errors = a.error * b.error;
    text_addf(out, "\n====== Perplexity statistics ======\n");
    text_addf(out, "Mean PPL(Q)                   : %10.6f ± %10.6f\n", p.value, p.error);
    text_addf(out, "Mean PPL(base)                : %10.6f ± %10.6f\n", q.value, q.error);
    text_addf(out, "Cor(ln(PPL(Q)), ln(PPL(base))): %6.2f%%\n", errors > 0 ? 100 * covariance(d) / errors : 100.0);
    text_addf(out, "Mean ln(PPL(Q)/PPL(base))     : %10.6f ± %10.6f\n", l.value, l.error);
    text_addf(out, "Mean PPL(Q)/PPL(base)         : %10.6f ± %10.6f\n", r.value, r.error);
    text_addf(out, "Mean PPL(Q)-PPL(base)         : %10.6f ± %10.6f\n", p.value - q.value,
              root(p.error * p.error + q.error * q.error - 2 * p.value * q.value * covariance(d)));
}

static void add_percentiles(const float *sorted, size_t n, double scale, const char *name, const char *format,
                            struct text *out) {
    static const struct {
        const char *label;
        double fraction;
    } rows[] = {{"Maximum", 1},    {"99.9%  ", 0.999}, {"99.0%  ", 0.99}, {"95.0%  ", 0.95}, {"90.0%  ", 0.9},
                {"75.0%  ", 0.75}, {"Median ", 0.5},   {"25.0%  ", 0.25}, {"10.0%  ", 0.1},  {" 5.0%  ", 0.05},
                {" 1.0%  ", 0.01}, {" 0.1%  ", 0.001}, {"Minimum", 0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char number[32];
        snprintf(number, sizeof number, format, scale * percentile(sorted, n, rows[i].fraction));
        text_addf(out, "%s %s: %s\n", rows[i].label, name, number);
    }
}

void divergence_tables(struct divergence *d, struct text *out) {
    qsort(d->klds, d->n, sizeof *d->klds, ascending);
    qsort(d->p_diffs, d->n, sizeof *d->p_diffs, ascending);
    const struct estimate kld = mean(&d->kld, d->n), p = mean(&d->p_diff, d->n), r = rms(d), top = top_share(d);
    add_perplexity_table(d, out);
    text_addf(out, "\n====== KL divergence statistics ======\nMean    KLD: %10.6f ± %10.6f\n", kld.value, kld.error);
    add_percentiles(d->klds, d->n, 1, "KLD", "%10.6f", out);
    text_addf(out, "\n====== Token probability statistics ======\nMean    Δp: %6.3f ± %5.3f %%\n", 100 * p.value,
              100 * p.error);
    add_percentiles(d->p_diffs, d->n, 100, "Δp", "%6.3f%%", out);
    text_addf(out, "RMS Δp    : %6.3f ± %5.3f %%\n", 100 * r.value, 100 * r.error);
    text_addf(out, "Same top p: %6.3f ± %5.3f %%\n", 100 * top.value, 100 * top.error);
}

/* Reads and writes the file of log-probabilities. The file is untrusted: its header is checked against its size before anything
 * is allocated. */
#include "cli/logprobs.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEADER_BYTES = 20, MAX_CTX = 1 << 24, MAX_SPREAD = 24 };
static const char magic[8] = {'_', 'l', 'o', 'g', 'i', 't', 's', '_'};

/* ---- codes ---------------------------------------------------------------------------------------------------------- */

double logprobs_log_sum(const float *logits, size_t n, float *max, size_t *argmax) {
    size_t top = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[top]) top = i;
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)expf(logits[i] - logits[top]);
    *max = logits[top];
    if (argmax) *argmax = top;
    return log(sum);
}

void logprobs_encode(const float *logits, int32_t n_vocab, float max, double log_sum, uint16_t *record) {
    float floor = max;
    for (int32_t i = 0; i < n_vocab; i++)
        if (logits[i] < floor) floor = logits[i];
    if (floor < max - MAX_SPREAD) floor = max - MAX_SPREAD;
    const float step = (max - floor) / 65535.0f, low = (float)((double)(floor - max) - log_sum),
                inverse = step > 0 ? 1 / step : 0;
    memcpy(record, &step, sizeof step);
    memcpy(record + 2, &low, sizeof low);
    record += 4;
    for (int32_t i = 0; i < n_vocab; i++) {
        const float code = logits[i] > floor ? inverse * (logits[i] - floor) : 0;
        record[i] = code < 65535 ? (uint16_t)lrintf(code) : 65535;
    }
    if (n_vocab & 1) record[n_vocab] = 0;
}

/* ---- writing -------------------------------------------------------------------------------------------------------- */

static enum err fail_io(const struct logprobs *l, const char *what, struct reason *why) {
    return fail(why, ERR_IO, "%s: %s: %s", l->path, what, errno ? strerror(errno) : "the file ended");
}

static enum err put(struct logprobs *l, const void *bytes, size_t len, struct reason *why) {
    errno = 0;
    return fwrite(bytes, 1, len, l->file) == len ? ERR_NONE : fail_io(l, "cannot write", why);
}

enum err logprobs_create(const char *path, struct logprobs_shape shape, const int32_t *tokens, struct logprobs *out,
                         struct reason *why) {
    *out = (struct logprobs){.path = path, .shape = shape};
    const size_t len = strlen(path);
    out->part_path = malloc(len + 6);
    if (!out->part_path) return fail(why, ERR_NO_MEMORY, "%s: no memory to write it", path);
    memcpy(out->part_path, path, len);
    memcpy(out->part_path + len, ".part", 6);
    out->file = fopen(out->part_path, "wb");
    if (!out->file) {
        free(out->part_path);
        out->part_path = NULL;
        return fail_io(out, "cannot create", why);
    }
    TRY(put(out, magic, sizeof magic, why));
    TRY(put(out, &shape, sizeof shape, why));
    return put(out, tokens, (size_t)shape.n_chunk * (size_t)shape.n_ctx * sizeof *tokens, why);
}

enum err logprobs_write(struct logprobs *l, const uint16_t *record, struct reason *why) {
    return put(l, record, logprobs_record_words(l->shape.n_vocab) * sizeof *record, why);
}

enum err logprobs_finish(struct logprobs *l, struct reason *why) {
    errno = 0;
    const int closed = fclose(l->file);
    l->file = NULL;
    if (closed != 0) return fail_io(l, "cannot write", why);
    if (rename(l->part_path, l->path) != 0) return fail_io(l, "cannot rename its .part file", why);
    free(l->part_path);
    l->part_path = NULL;
    return ERR_NONE;
}

/* ---- reading -------------------------------------------------------------------------------------------------------- */

static enum err take(struct logprobs *l, void *bytes, size_t len, struct reason *why) {
    errno = 0;
    return fread(bytes, 1, len, l->file) == len ? ERR_NONE : fail_io(l, "cannot read", why);
}

/* Bytes that a file of this shape has. The limits keep every product far below 2^63. */
static bool expected_bytes(struct logprobs_shape s, uint64_t *out) {
    if (s.n_ctx < 4 || s.n_ctx > MAX_CTX || s.n_vocab < 1 || s.n_chunk < 1) return false;
    uint64_t tokens, records;
    if (!size_mul((uint64_t)s.n_chunk, 4 * (uint64_t)s.n_ctx, &tokens)) return false;
    if (!size_mul((uint64_t)s.n_chunk * logprobs_scored(s.n_ctx), 2 * logprobs_record_words(s.n_vocab), &records)) return false;
    return size_add(tokens, records, out) && size_add(*out, HEADER_BYTES, out);
}

enum err logprobs_open(const char *path, struct logprobs *out, struct reason *why) {
    *out = (struct logprobs){.path = path};
    char start[sizeof magic];
    struct stat facts;
    uint64_t bytes;
    errno = 0;
    out->file = fopen(path, "rb");
    if (!out->file || fstat(fileno(out->file), &facts) != 0) return fail_io(out, "cannot open", why);
    TRY(take(out, start, sizeof start, why));
    if (memcmp(start, magic, sizeof magic) != 0)
        return fail(why, ERR_FORMAT, "%s: does not begin with '_logits_'; not a file of log-probabilities", path);
    TRY(take(out, &out->shape, sizeof out->shape, why));
    const struct logprobs_shape s = out->shape;
    if (!expected_bytes(s, &bytes))
        return fail(why, ERR_FORMAT, "%s: header at byte 8: %d tokens a chunk, %d in the vocabulary, %d chunks make no sense",
                    path, s.n_ctx, s.n_vocab, s.n_chunk);
    if (bytes != (uint64_t)facts.st_size)
        return fail(why, ERR_FORMAT, "%s: has %" PRIu64 " bytes; its header (byte 8) asks for %" PRIu64, path,
                    (uint64_t)facts.st_size, bytes);
    const size_t n = (size_t)s.n_chunk * (size_t)s.n_ctx;
    out->tokens = calloc_checked(n, sizeof *out->tokens);
    if (!out->tokens) return fail(why, ERR_NO_MEMORY, "%s: no memory for its %zu tokens", path, n);
    TRY(take(out, out->tokens, n * sizeof *out->tokens, why));
    for (size_t i = 0; i < n; i++)
        if (out->tokens[i] < 0 || out->tokens[i] >= s.n_vocab)
            return fail(why, ERR_FORMAT, "%s: token %d at byte %zu is not in its vocabulary of %d", path, out->tokens[i],
                        HEADER_BYTES + 4 * i, s.n_vocab);
    return ERR_NONE;
}

enum err logprobs_read(struct logprobs *l, uint16_t *record, struct reason *why) {
    return take(l, record, logprobs_record_words(l->shape.n_vocab) * sizeof *record, why);
}

void logprobs_close(struct logprobs *l) {
    if (l->file) fclose(l->file);
    if (l->part_path) unlink(l->part_path);
    free(l->part_path);
    free(l->tokens);
    *l = (struct logprobs){0};
}

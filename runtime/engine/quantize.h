/* Rewriting a model with other weight types: tensor by tensor from any container into GGUF, in little memory.
 *
 *     quantize_open (decides and checks everything, writes nothing) -> quantize_run -> quantize_close
 *
 * Rows are decoded to binary32 and encoded again on a pool of threads; what keeps its type is copied byte for byte. Metadata is
 * copied, but for what describes the old file. Output goes to .part files that get their names when all of them are complete.
 * One thread per struct quantize. */
#ifndef COLDSTREAM_QUANTIZE_H
#define COLDSTREAM_QUANTIZE_H

#include "core/core.h"
#include "model/imatrix.h"
#include "model/model.h"
#include "model/recipe.h"

struct quantize_progress {
    size_t tensor, n_tensors; /* in work, from 0 */
    struct span name;
    uint64_t done_bytes, all_bytes; /* of the input */
};

struct quantize_options {
    const char *in;                /* what model_open() takes; strings are borrowed until quantize_close() */
    const char *out;               /* a file name; of a split, what its parts' names begin with. NULL: only to look (dry run) */
    struct recipe_options recipe;  /* has_importance is set here */
    const struct imatrix *imatrix; /* borrowed until quantize_close(); NULL: none */
    const char *imatrix_file;      /* its name, for the output's metadata */
    unsigned threads;              /* 0: one per physical core */
    bool allow_requantize;         /* from a quantized type to another */
    bool keep_split;               /* as many parts as the input has files, each with the tensors of its file */
    uint64_t split_max_bytes;      /* of tensor data in a part; 0: one file */
    struct log_sink log;           /* a line a tensor at LOG_INFO */
    bool (*on_progress)(void *ctx,
                        const struct quantize_progress *p); /* some times a second and more; true cancels. May be NULL */
    void *on_progress_ctx;
};

struct quantize_tensor {
    const struct model_tensor *source;
    struct recipe_choice choice;
    uint64_t bytes;                         /* in the output */
    uint32_t part;                          /* of a split, from 0 */
    const struct imatrix_entry *importance; /* NULL: every column counts the same */
    bool lacks_importance;                  /* and its type wants one */
};

/* What one type of the output holds, and how far it is from the input; errors are known after quantize_run(). */
struct quantize_sum {
    uint64_t tensors, bytes, weights;
    uint64_t encoded; /* weights; the others were copied */
    double error;     /* root of sum importance (w - decoded)^2 / sum importance w^2 over the encoded; NAN: nothing was */
};

struct quantize;

enum err quantize_open(const struct quantize_options *options, struct quantize **out, struct reason *why) MUST_USE;
enum err quantize_run(struct quantize *q, struct reason *why) MUST_USE; /* once; on failure no file is left */
void quantize_close(struct quantize **q);                               /* NULL allowed */

const struct model *quantize_model(const struct quantize *q);
const struct quantize_tensor *quantize_tensors(const struct quantize *q, size_t *n); /* in the input's order */
uint64_t quantize_bytes(const struct quantize *q);                                   /* of all tensors in the output */
struct quantize_sum quantize_sum(const struct quantize *q, enum tensor_type type);
/* Of an override: tensors that its pattern fits, and those it decided about. */
void quantize_matches(const struct quantize *q, size_t override, size_t *fitting, size_t *decided);
uint32_t quantize_parts(const struct quantize *q);
const char *quantize_part_path(const struct quantize *q, uint32_t part); /* NULL in a dry run */
uint64_t quantize_not_finite(const struct quantize *q);                  /* rows with an infinity or a NaN, written as 0 */

#endif

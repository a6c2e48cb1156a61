/* Importance matrices: of each weight matrix, the sum of squares that every input column had on some text, and over how many
 * vectors. Written by `imatrix`, read by `quantize`; the files of llama.cpp (GGUF) and of ik_llama.cpp and older llama.cpp
 * (.dat).
 *
 * Files are untrusted: on failure *out is empty and `why` names file, item and what is wrong. A .dat file has its values
 * divided by rows already and does not say how many there were, nor how an entry's values are shared out among experts. */
#ifndef COLDSTREAM_IMATRIX_H
#define COLDSTREAM_IMATRIX_H

#include "core/core.h"

struct imatrix_entry {
    char *name; /* of the weight: "blk.3.ffn_up_exps.weight" */
    uint64_t columns;
    uint64_t matrices; /* experts, else 1. From a .dat file: 1, and columns are those of all matrices */
    float *sums;       /* [matrices][columns] sums of squares */
    double *rows;      /* [matrices] vectors summed. From a .dat file: how often the mean was added up */
    bool rows_known;   /* false: from a .dat file */
};

struct imatrix {
    struct imatrix_entry **entries; /* [n] sorted by name */
    size_t n, cap;
    uint32_t chunks, chunk_tokens; /* of the text; 0: not known */
    char **datasets;               /* [n_datasets] names of the texts */
    size_t n_datasets;
};

void imatrix_close(struct imatrix *m); /* closed and zeroed ones too */

enum err imatrix_read(const char *path, struct imatrix *out, struct reason *why) MUST_USE;
/* Through <path>.part, so that a reader never sees half a file. */
enum err imatrix_write_gguf(const struct imatrix *m, const char *path, struct reason *why) MUST_USE;
/* Experts without a row get 1 for every column, as that format's writers do. */
enum err imatrix_write_dat(const struct imatrix *m, const char *path, struct reason *why) MUST_USE;

/* The entry of this name: one that is there, of the same shape (an entry of a .dat file takes the shape if its size fits), or a
 * new one of zeros. ERR_ARGUMENT: it has another shape. */
enum err imatrix_add(struct imatrix *m, const char *name, uint64_t columns, uint64_t matrices, struct imatrix_entry **out,
                     struct reason *why) MUST_USE;
enum err imatrix_add_dataset(struct imatrix *m, const char *name, struct reason *why) MUST_USE;
/* An entry of a .dat file: as if each time its mean was added up there had been so many rows. */
void imatrix_scale(struct imatrix_entry *e, double rows_each);
/* into += from: sums, rows, chunks, texts. Where only one of two knows its rows, a chunk of the other counts as much. */
enum err imatrix_merge(struct imatrix *into, const struct imatrix *from, struct reason *why) MUST_USE;

const struct imatrix_entry *imatrix_find(const struct imatrix *m, struct span name); /* NULL: none */
/* The same for a weight of the model, or that of a weight with the same input (q, k, v; gate, up, both merged). *out NULL:
 * none. ERR_FORMAT: it has another number of values. */
enum err imatrix_of_weight(const struct imatrix *m, struct span name, uint64_t columns, uint64_t matrices,
                           const struct imatrix_entry **out, struct reason *why) MUST_USE;

/* Mean square of each input column of matrix `index` of an entry that imatrix_of_weight() gave for this shape. Few rows say
 * little: an expert's own means are mixed with the mean pattern of its fellows as if it had seen IMATRIX_PRIOR_ROWS more rows
 * of it, and one that was never chosen has that pattern alone; with nothing to go by every column gets 1. Only the proportions
 * between the columns of one matrix mean anything. */
enum { IMATRIX_PRIOR_ROWS = 16 };
void imatrix_importance(const struct imatrix_entry *e, uint64_t columns, uint64_t matrices, uint64_t index, float *out);

/* Matrices with fewer rows than that; 1: with none at all. */
uint64_t imatrix_count_below(const struct imatrix_entry *e, double rows);

#endif

/* Which type each tensor of a model gets when it is quantized: a pure function of the recipe, the model's shape and the tensor.
 *
 * A recipe is a name of llama-quantize's list (Q4_K_M, IQ2_S, F16...), one of ik_llama.cpp's (IQ4_K...), a preset of ours, or
 * COPY; overrides stand in front of it. Norms, routers, 1-D tensors and tensors that are no "...weight" are never quantized:
 * they are kept, 16-bit ones as F32. A type whose blocks do not fit a row gives way to one that fits, as quantizers do. Nothing
 * is read or written here, and whether a type can be encoded is not asked. */
#ifndef COLDSTREAM_RECIPE_H
#define COLDSTREAM_RECIPE_H

#include "core/core.h"
#include "core/tensor.h"
#include "model/model.h"

struct recipe_override {
    const char *pattern; /* POSIX extended regular expression, searched in the tensor's name */
    enum tensor_type type;
};

struct recipe_options {
    const char *name;                        /* any case; a number is a general.file_type */
    const struct recipe_override *overrides; /* [n_overrides], the first that matches wins; borrowed during recipe_open() */
    size_t n_overrides;
    const enum tensor_type *embedding, *head; /* NULL: as the recipe says. In front of the overrides, as in llama-quantize */
    bool pure;                                /* the named type for every tensor that is quantized, no rules */
    bool leave_head;                          /* output.weight keeps its type */
    bool has_importance;                      /* some rules spend more bits without one */
};

struct recipe;

/* The shape is copied. `tied`: the embedding is the head. */
enum err recipe_open(const struct recipe_options *options, const struct model_shape *shape, bool tied, struct recipe **out,
                     struct reason *why) MUST_USE;
void recipe_close(struct recipe **recipe); /* NULL allowed */

enum recipe_reason {
    RECIPE_KEPT, /* never quantized, or the recipe copies */
    RECIPE_BASE, /* the recipe's main type */
    RECIPE_RULE, /* a rule of the mix */
    RECIPE_FLAG, /* embedding or head, as given */
    RECIPE_OVERRIDE,
};

struct recipe_choice {
    enum tensor_type type;
    enum tensor_type wanted; /* not `type`: its blocks do not fit the rows */
    enum recipe_reason reason;
    size_t override; /* index, of RECIPE_OVERRIDE */
};

struct recipe_choice recipe_choose(const struct recipe *r, const struct model_tensor *t);
/* Does the pattern of this override match a tensor, whichever wins? To tell users of patterns that match nothing. */
bool recipe_matches(const struct recipe *r, size_t override, struct span name);

const char *recipe_name(const struct recipe *r);   /* as listed: "Q4_K_M" */
uint32_t recipe_file_type(const struct recipe *r); /* general.file_type; informative */
bool recipe_copies(const struct recipe *r);        /* COPY: general.file_type stays what it was */
bool recipe_is_known(const char *name);
void recipe_list(struct text *out); /* "Q4_0, Q4_1, ..." */
const char *recipe_reason_name(enum recipe_reason reason);

#endif

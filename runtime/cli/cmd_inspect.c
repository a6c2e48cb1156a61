/* inspect: what a model file says about itself, and that all of it holds together. Opening the model is the check: the whole
 * directory is validated and every weight of the network is bound; weights are not read.
 *
 * Text from the file is printed with control bytes escaped, so that a file cannot talk to the terminal. */
#include "cli/cli.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GGUF_STRING = 8, GGUF_ARRAY = 9, SHOWN_ELEMENTS = 8, SHOWN_BYTES = 96 };

/* GGUF value types by number; bytes 0: not a scalar. */
static const struct {
    const char *name;
    size_t bytes;
} value_types[] = {{"u8", 1},   {"i8", 1},     {"u16", 2},   {"i16", 2}, {"u32", 4}, {"i32", 4}, {"f32", 4},
                   {"bool", 1}, {"string", 0}, {"array", 0}, {"u64", 8}, {"i64", 8}, {"f64", 8}};

static const char *const container_names[] = {
    [CONTAINER_GGUF] = "GGUF", [CONTAINER_SAFETENSORS] = "safetensors", [CONTAINER_EXL3] = "EXL3"};
static const char *const codebook_names[] = {[EXL3_3INST] = "3inst", [EXL3_MCG] = "mcg", [EXL3_MUL1] = "mul1"};

/* ---- values --------------------------------------------------------------------------------------------------------- */

/* Shortest decimal that reads back as the same binary32: 1e-06, not 9.99999997e-07. */
static void add_float(float f, struct text *out) {
    char digits[32];
    for (int precision = 6; precision <= 9; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, (double)f);
        if (strtof(digits, NULL) == f) break;
    }
    text_addf(out, "%s", digits);
}

static void add_scalar(uint32_t type, const char *bytes, struct text *out) {
    union {
        uint64_t u;
        int64_t i;
        double d;
        float f;
        int32_t i32;
        int16_t i16;
        int8_t i8;
    } v = {0};
    memcpy(&v, bytes, value_types[type].bytes); /* little-endian, as the hosts that this runs on */
    switch (type) {
    case 1: text_addf(out, "%d", v.i8); break;
    case 3: text_addf(out, "%d", v.i16); break;
    case 5: text_addf(out, "%d", v.i32); break;
    case 6: add_float(v.f, out); break;
    case 7: text_addf(out, "%s", v.u & 0xff ? "true" : "false"); break;
    case 11: text_addf(out, "%" PRId64, v.i); break;
    case 12: text_addf(out, "%.17g", v.d); break;
    default: text_addf(out, "%" PRIu64, v.u);
    }
}

/* Finite in JSON, which has no inf and nan. */
static void add_scalar_json(uint32_t type, const char *bytes, struct text *out) {
    const size_t before = out->len;
    add_scalar(type, bytes, out);
    if (out->failed || !memchr(out->ptr + before, 'n', out->len - before) || type == 7) return;
    struct text quoted = {0};
    text_addf(&quoted, "\"%s\"", out->ptr + before);
    out->len = before;
    text_add(out, quoted.ptr, quoted.len);
    text_free(&quoted);
}

static void add_escaped(struct span s, size_t limit, struct text *out) {
    const size_t n = s.len < limit ? s.len : limit;
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)s.ptr[i];
        if (c == '\n')
            text_addf(out, "\\n");
        else if (c < 0x20 || c == 0x7f)
            text_addf(out, "\\x%02x", c);
        else
            text_add(out, &c, 1);
    }
    if (n < s.len) text_addf(out, "... (%zu bytes)", s.len);
}

/* The next string of an array's payload: 8 bytes of length, then the bytes. The reader checked the extents. */
static struct span next_string(struct span *rest) {
    uint64_t len = 0;
    if (rest->len < sizeof len) return (struct span){0};
    memcpy(&len, rest->ptr, sizeof len);
    rest->ptr += sizeof len;
    rest->len -= sizeof len;
    if (len > rest->len) len = rest->len;
    const struct span s = {rest->ptr, (size_t)len};
    rest->ptr += len;
    rest->len -= (size_t)len;
    return s;
}

static void add_elements(const struct model_meta *m, bool as_json, struct text *out) {
    struct span rest = m->bytes;
    const size_t size = value_types[m->element_type].bytes;
    const uint64_t shown = m->count < SHOWN_ELEMENTS ? m->count : SHOWN_ELEMENTS;
    text_addf(out, "[");
    for (uint64_t i = 0; i < shown; i++) {
        if (i) text_addf(out, ", ");
        if (m->element_type == GGUF_STRING) {
            const struct span s = next_string(&rest);
            if (as_json)
                cli_add_json_string(s, out);
            else
                text_addf(out, "\""), add_escaped(s, SHOWN_BYTES, out), text_addf(out, "\"");
        } else if ((i + 1) * size <= rest.len) {
            (as_json ? add_scalar_json : add_scalar)(m->element_type, rest.ptr + i * size, out);
        }
    }
    if (!as_json && shown < m->count) text_addf(out, ", ...");
    text_addf(out, "]");
}

/* ---- text ----------------------------------------------------------------------------------------------------------- */

static void add_shape_text(const struct model *m, struct text *out) {
    const struct model_shape *s = &m->shape;
    if (!s->n_layers) return;
    text_addf(out, "shape         %u layers, hidden %u, %u query and %u key/value heads of %u\n", s->n_layers, s->n_embd,
              s->n_heads, s->n_kv_heads, s->head_dim);
    text_addf(out, "experts       %u of width %u, %u used by a token\n", s->n_experts, s->n_ff, s->n_experts_used);
    text_addf(out, "context       %" PRIu64 " tokens, rope base %.9g", s->context_length, (double)s->rope_base);
    if (s->rope_scaling != ROPE_NONE)
        text_addf(out, ", %s scaling by %g of %" PRIu64, s->rope_scaling == ROPE_YARN ? "yarn" : "linear",
                  (double)s->rope_factor, s->rope_original_context);
    text_addf(out, "\nhead          %s\n", m->output == m->embedding ? "tied to the embedding" : "own matrix");
}

static void add_summary(const struct model *m, struct text *out) {
    for (size_t i = 0; i < m->n_files; i++)
        text_addf(out, "%s %s (%" PRIu64 " bytes)\n", i ? "             " : "file         ", m->files[i].path,
                  m->files[i].bytes);
    text_addf(out, "container     %s", container_names[m->container]);
    if (m->container_version) text_addf(out, " version %u", m->container_version);
    text_addf(out, "\narchitecture  %.*s\nname          ", (int)m->architecture.len, m->architecture.ptr);
    add_escaped(m->name, SHOWN_BYTES, out);
    const bool billions = m->n_parameters >= 1000000000, gib = m->weight_bytes >= 1 << 30;
    text_addf(out, "\nparameters    %.2f %s\n", (billions ? 1e-9 : 1e-6) * (double)m->n_parameters, billions ? "B" : "M");
    if (m->n_parameters)
        text_addf(out, "weights       %.2f %s, %.2f bits a parameter\n", (double)m->weight_bytes / (gib ? 1 << 30 : 1 << 20),
                  gib ? "GiB" : "MiB", 8.0 * (double)m->weight_bytes / (double)m->n_parameters);
    add_shape_text(m, out);
    if (m->vocab.n_tokens)
        text_addf(out, "tokenizer     %zu tokens, %zu merges, eos %d, bos %d%s\n", m->vocab.n_tokens, m->vocab.n_merges,
                  m->vocab.eos, m->vocab.bos, m->vocab.add_bos ? "" : " (not added)");
    if (m->chat_template.len)
        text_addf(out, "template      family %s\n", chat_family_name(chat_family_detect(m->chat_template, NULL)));
}

static void add_metadata(const struct model *m, struct text *out) {
    text_addf(out, "\nmetadata: %zu keys\n", m->n_meta);
    for (size_t i = 0; i < m->n_meta; i++) {
        const struct model_meta *e = &m->meta[i];
        text_addf(out, "  ");
        add_escaped(e->key, SHOWN_BYTES, out);
        if (e->type == GGUF_ARRAY) {
            text_addf(out, "  %s[%" PRIu64 "]  ", value_types[e->element_type].name, e->count);
            add_elements(e, false, out);
        } else {
            text_addf(out, "  %s  ", value_types[e->type].name);
            if (e->type == GGUF_STRING)
                add_escaped(e->bytes, SHOWN_BYTES, out);
            else
                add_scalar(e->type, e->bytes.ptr, out);
        }
        text_addf(out, "\n");
    }
}

static void add_extents(const struct model_tensor *t, struct text *out) {
    text_addf(out, "[");
    for (uint32_t d = 0; d < t->n_dims; d++) text_addf(out, d ? ", %" PRIu64 : "%" PRIu64, t->ne[d]);
    text_addf(out, "]");
}

static void add_tensors(const struct model *m, struct text *out) {
    text_addf(out, "\ntensors: %zu (name, type, extents from the contiguous one, bytes, file, offset)\n", m->n_tensors);
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct model_tensor *t = &m->tensors[i];
        text_addf(out, "  ");
        add_escaped(t->name, SHOWN_BYTES, out);
        text_addf(out, "  %s  ", tensor_type_info(t->type)->name);
        add_extents(t, out);
        text_addf(out, "  %" PRIu64 "  %u  %" PRIu64, t->bytes, t->file, t->offset);
        if (t->slices) text_addf(out, ", %" PRIu64 " slices apart", t->ne[2]);
        if (t->in_scale) text_addf(out, ", codebook %s", codebook_names[t->codebook]);
        text_addf(out, "\n");
    }
}

struct type_sum {
    uint64_t tensors, bytes, weights;
};

static void sum_types(const struct model *m, struct type_sum sums[TYPE_COUNT]) {
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct model_tensor *t = &m->tensors[i];
        sums[t->type].tensors++;
        sums[t->type].bytes += t->bytes;
        sums[t->type].weights += t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
    }
}

static void add_types(const struct model *m, struct text *out) {
    struct type_sum sums[TYPE_COUNT] = {0};
    sum_types(m, sums);
    text_addf(out, "\ntypes (tensors, MiB, share)\n");
    for (int i = 0; i < TYPE_COUNT; i++)
        if (sums[i].tensors)
            text_addf(out, "  %-8s %6" PRIu64 " %12.2f %6.2f %%\n", tensor_type_info((enum tensor_type)i)->name,
                      sums[i].tensors, (double)sums[i].bytes / (1 << 20),
                      100.0 * (double)sums[i].bytes / (double)m->weight_bytes);
}

/* ---- JSON ----------------------------------------------------------------------------------------------------------- */

static void add_key(const char *key, struct text *out) { text_addf(out, ", \"%s\": ", key); }

static void add_string_json(const char *key, struct span s, struct text *out) {
    add_key(key, out);
    cli_add_json_string(s, out);
}

static void add_shape_json(const struct model *m, struct text *out) {
    static const char *const scalings[] = {[ROPE_NONE] = "none", [ROPE_LINEAR] = "linear", [ROPE_YARN] = "yarn"};
    const struct model_shape *s = &m->shape;
    add_key("shape", out);
    if (!s->n_layers) {
        text_addf(out, "null");
        return;
    }
    text_addf(out,
              "{\"n_layers\": %u, \"n_embd\": %u, \"n_heads\": %u, \"n_kv_heads\": %u, \"head_dim\": %u, \"n_experts\": %u, "
              "\"n_experts_used\": %u, "
              "\"n_ff\": %u, \"n_vocab\": %u, \"context_length\": %" PRIu64 ", \"rms_eps\": ",
              s->n_layers, s->n_embd, s->n_heads, s->n_kv_heads, s->head_dim, s->n_experts, s->n_experts_used, s->n_ff,
              s->n_vocab, s->context_length);
    add_float(s->rms_eps, out);
    add_key("rope_base", out);
    add_float(s->rope_base, out);
    text_addf(out, ", \"rope_scaling\": \"%s\", \"rope_factor\": ", scalings[s->rope_scaling]);
    add_float(s->rope_factor, out);
    text_addf(out, ", \"tied_head\": %s}", m->output == m->embedding ? "true" : "false");
}

static void add_metadata_json(const struct model *m, struct text *out) {
    add_key("metadata", out);
    for (size_t i = 0; i < m->n_meta; i++) {
        const struct model_meta *e = &m->meta[i];
        text_addf(out, i ? ", " : "{");
        cli_add_json_string(e->key, out);
        text_addf(out, ": {\"type\": \"%s\", ", value_types[e->type].name);
        if (e->type == GGUF_ARRAY)
            text_addf(out, "\"element_type\": \"%s\", \"count\": %" PRIu64 ", ", value_types[e->element_type].name, e->count);
        text_addf(out, e->type == GGUF_ARRAY && e->count > SHOWN_ELEMENTS ? "\"first\": " : "\"value\": ");
        if (e->type == GGUF_ARRAY)
            add_elements(e, true, out);
        else if (e->type == GGUF_STRING)
            cli_add_json_string(e->bytes, out);
        else
            add_scalar_json(e->type, e->bytes.ptr, out);
        text_addf(out, "}");
    }
    text_addf(out, m->n_meta ? "}" : "{}");
}

/* [file, offset] of each: a stack that was put together from a directory lies in pieces. A third number: its own bits. */
static void add_slices_json(const struct model_tensor *t, struct text *out) {
    add_key("slices", out);
    for (uint64_t i = 0; i < t->ne[2]; i++) {
        text_addf(out, "%s[%u, %" PRIu64, i ? ", " : "[", t->slices[i].file, t->slices[i].offset);
        text_addf(out, t->slices[i].bits ? ", %u]" : "]", t->slices[i].bits);
    }
    text_addf(out, "]");
}

static void add_tensors_json(const struct model *m, struct text *out) {
    add_key("tensors", out);
    text_addf(out, "[");
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct model_tensor *t = &m->tensors[i];
        text_addf(out, i ? ", {\"name\": " : "{\"name\": ");
        cli_add_json_string(t->name, out);
        text_addf(out, ", \"type\": \"%s\", \"shape\": ", tensor_type_info(t->type)->name);
        add_extents(t, out);
        text_addf(out, ", \"bytes\": %" PRIu64 ", \"file\": %u, \"offset\": %" PRIu64, t->bytes, t->file, t->offset);
        if (t->in_scale) text_addf(out, ", \"codebook\": \"%s\"", codebook_names[t->codebook]);
        if (t->slices) add_slices_json(t, out);
        text_addf(out, "}");
    }
    text_addf(out, "]");
}

static void add_types_json(const struct model *m, struct text *out) {
    struct type_sum sums[TYPE_COUNT] = {0};
    const char *separator = "";
    sum_types(m, sums);
    add_key("types", out);
    text_addf(out, "{");
    for (int i = 0; i < TYPE_COUNT; i++) {
        if (!sums[i].tensors) continue;
        text_addf(out, "%s\"%s\": {\"tensors\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"parameters\": %" PRIu64 "}", separator,
                  tensor_type_info((enum tensor_type)i)->name, sums[i].tensors, sums[i].bytes, sums[i].weights);
        separator = ", ";
    }
    text_addf(out, "}");
}

static void add_json(const struct model *m, struct text *out) {
    text_addf(out, "{\"container\": \"%s\", \"version\": %u", container_names[m->container], m->container_version);
    add_key("files", out);
    text_addf(out, "[");
    for (size_t i = 0; i < m->n_files; i++) {
        text_addf(out, i ? ", {\"path\": " : "{\"path\": ");
        cli_add_json_string(span_of(m->files[i].path), out);
        text_addf(out, ", \"bytes\": %" PRIu64 "}", m->files[i].bytes);
    }
    text_addf(out, "]");
    add_string_json("architecture", m->architecture, out);
    add_string_json("name", m->name, out);
    text_addf(out, ", \"n_parameters\": %" PRIu64 ", \"weight_bytes\": %" PRIu64, m->n_parameters, m->weight_bytes);
    add_shape_json(m, out);
    add_key("tokenizer", out);
    if (m->vocab.n_tokens)
        text_addf(out,
                  "{\"n_tokens\": %zu, \"n_merges\": %zu, \"bos\": %d, \"eos\": %d, \"eot\": %d, \"pad\": %d, \"add_bos\": %s}",
                  m->vocab.n_tokens, m->vocab.n_merges, m->vocab.bos, m->vocab.eos, m->vocab.eot, m->vocab.pad,
                  m->vocab.add_bos ? "true" : "false");
    else
        text_addf(out, "null");
    add_key("family", out);
    if (m->chat_template.len)
        cli_add_json_string(span_of(chat_family_name(chat_family_detect(m->chat_template, NULL))), out);
    else
        text_addf(out, "null");
    add_metadata_json(m, out);
    add_types_json(m, out);
    add_tensors_json(m, out);
    text_addf(out, "}\n");
}

int cmd_inspect(struct cli *c) {
    struct reason why = {{0}};
    struct model *m = NULL;
    struct text out = {0};
    enum err code = model_open(c->options->model, false, &m, &why);
    if (!code && c->options->json) {
        add_json(m, &out);
    } else if (!code) {
        add_summary(m, &out);
        add_types(m, &out);
        add_metadata(m, &out);
        add_tensors(m, &out);
    }
    if (!code && out.failed) code = fail(&why, ERR_NO_MEMORY, "no memory for the listing");
    const int status = code ? cli_fail(c, code, &why) : cli_write_text(&out) ? EXIT_DONE : EXIT_FAILED;
    text_free(&out);
    model_close(&m);
    return status;
}

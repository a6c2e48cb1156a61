/* EXL3: what the tensors of one linear must be to each other, and which of the writers' variants this program can run.
 *
 *     P.trellis  I16 [in/16, out/16, 16 K]   P.suh  F16 [in]   P.svh  F16 [out]   P.mcg or P.mul1  I32 [], the codebook
 *
 * K comes from the trellis alone: what config.json says about bits is an average. Knows nothing about the model around it. */
#include "model/hf.h"

#include <fcntl.h>

enum { TILE = 16, MULTIPLE = 128 }; /* extents are multiples of the Hadamard transform's size */

static const struct {
    enum hf_part part;
    enum exl3_codebook codebook;
    uint32_t value; /* the multiplier that the codebook is made with */
} markers[] = {{PART_MCG, EXL3_MCG, 0xCBAC1FEDu}, {PART_MUL1, EXL3_MUL1, 0x83DCD12Du}};

bool exl3_is(const struct hf_linear *l) {
    return l->parts[PART_TRELLIS] && (l->parts[PART_SUH] || l->parts[PART_SU]) && (l->parts[PART_SVH] || l->parts[PART_SV]);
}

unsigned exl3_bits(const struct st_tensor *trellis) { return (unsigned)(trellis->shape[2] / TILE); }

static enum err check_trellis(const struct st_table *t, const struct st_tensor *one, uint64_t in, uint64_t out, unsigned *bits,
                              struct reason *why) {
    if (in % MULTIPLE || out % MULTIPLE)
        return st_fail(t, one, why, ERR_UNSUPPORTED, "config.json makes it %llu x %llu; EXL3 here needs multiples of %d",
                       (unsigned long long)in, (unsigned long long)out, MULTIPLE);
    if (one->dtype != ST_I16)
        return st_fail(t, one, why, ERR_FORMAT, "its dtype is %s; a trellis is I16", st_dtype_name(one->dtype));
    if (one->n_dims != 3 || one->shape[0] != in / TILE || one->shape[1] != out / TILE)
        return st_fail(t, one, why, ERR_FORMAT,
                       "its shape has %u dimensions and begins with %llu, %llu; config.json needs %llu, %llu, 16 K",
                       one->n_dims, (unsigned long long)one->shape[0], (unsigned long long)one->shape[1],
                       (unsigned long long)(in / TILE), (unsigned long long)(out / TILE));
    if (one->shape[2] % TILE || one->shape[2] / TILE < 1 || one->shape[2] / TILE > 8)
        return st_fail(t, one, why, ERR_FORMAT, "the last extent is %llu; it must be 16 times the bits, which are 1 to 8",
                       (unsigned long long)one->shape[2]);
    *bits = exl3_bits(one);
    return ERR_NONE;
}

static enum err check_scale(const struct st_table *t, const struct hf_linear *l, enum hf_part part, enum hf_part packed,
                            uint64_t n, struct reason *why) {
    const struct st_tensor *one = hf_part(t, l, part);
    if (!one)
        return st_fail(t, hf_part(t, l, packed), why, ERR_UNSUPPORTED,
                       "signs packed as only the first versions of exllamav3 did; convert the model again with a newer one");
    if (one->dtype != ST_F16)
        return st_fail(t, one, why, ERR_FORMAT, "its dtype is %s; EXL3 scales are F16", st_dtype_name(one->dtype));
    if (one->n_dims != 1 || one->shape[0] != n)
        return st_fail(t, one, why, ERR_FORMAT, "its shape has %u dimensions and begins with %llu; config.json needs %llu",
                       one->n_dims, (unsigned long long)one->shape[0], (unsigned long long)n);
    return ERR_NONE;
}

static enum err find_codebook(const struct st_table *t, const struct hf_linear *l, enum exl3_codebook *codebook,
                              struct reason *why) {
    const struct st_tensor *mcg = hf_part(t, l, PART_MCG), *mul1 = hf_part(t, l, PART_MUL1), *one = mcg ? mcg : mul1;
    *codebook = mcg ? EXL3_MCG : mul1 ? EXL3_MUL1 : EXL3_3INST;
    if (mcg && mul1)
        return st_fail(t, mul1, why, ERR_FORMAT, "the linear also has '%s'; only one codebook can be meant",
                       quote(st_name(t, mcg)).text);
    if (one && (one->dtype != ST_I32 || one->n_dims != 0))
        return st_fail(t, one, why, ERR_FORMAT, "it is %s with %u dimensions; a codebook's marker is one I32",
                       st_dtype_name(one->dtype), one->n_dims);
    return ERR_NONE;
}

enum err exl3_check(const struct st_table *t, const struct hf_linear *l, uint64_t in, uint64_t out, struct exl3_kind *kind,
                    struct reason *why) {
    const struct st_tensor *old = hf_part(t, l, PART_SCALE);
    if (old)
        return st_fail(t, old, why, ERR_UNSUPPORTED,
                       "written by a version of exllamav3 before its release; convert the model again");
    TRY(check_trellis(t, hf_part(t, l, PART_TRELLIS), in, out, &kind->bits, why));
    TRY(check_scale(t, l, PART_SUH, PART_SU, in, why));
    TRY(check_scale(t, l, PART_SVH, PART_SV, out, why));
    return find_codebook(t, l, &kind->codebook, why);
}

/* Tens of thousands of 4-byte reads all over the files: all are announced first, so that the drive sees them together. */
enum err exl3_check_markers(const struct st_table *t, const struct hf_linear *linears, size_t n, struct reason *why) {
    for (int announce = 1; announce >= 0; announce--)
        for (size_t i = 0; i < 2 * n; i++) {
            const int m = i % 2;
            const struct st_tensor *one = hf_part(t, &linears[i / 2], markers[m].part);
            if (!one || !exl3_is(&linears[i / 2])) continue;
            const struct model_file *file = &t->files[one->file];
            if (announce) {
                (void)posix_fadvise(file->fd, (off_t)one->offset, 4, POSIX_FADV_WILLNEED);
                continue;
            }
            uint8_t bytes[4];
            TRY(file_read(file, bytes, sizeof bytes, one->offset, why));
            if (load_u32(bytes) != markers[m].value)
                return st_fail(t, one, why, ERR_UNSUPPORTED,
                               "its value is 0x%08X, a codebook of its own; only 0x%08X is supported", load_u32(bytes),
                               markers[m].value);
        }
    return ERR_NONE;
}

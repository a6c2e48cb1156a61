/* What every container reader needs: opening untrusted paths, reading them, and putting untrusted names into messages.
 *
 * Owns no state beyond the descriptors it hands out. Never maps a file: one that shrinks must be an error, not a signal. */
#include "model/container.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

enum { PATH_LABEL_BYTES = 200 };

const char *path_label(const char *path) {
    const size_t len = strlen(path);
    return len <= PATH_LABEL_BYTES ? path : path + len - PATH_LABEL_BYTES;
}

static const char *refused_kind(int fd, const struct stat *info) {
    if (S_ISDIR(info->st_mode)) return "is a directory; name a .gguf file inside it";
    if (S_ISFIFO(info->st_mode)) return "is a pipe; a model must be a regular file";
    if (S_ISCHR(info->st_mode) || S_ISBLK(info->st_mode)) return "is a device; a model must be a regular file";
    if (!S_ISREG(info->st_mode)) return "is not a regular file";
    struct statfs system;
    if (fstatfs(fd, &system) == 0 && (system.f_type == PROC_SUPER_MAGIC || system.f_type == SYSFS_MAGIC))
        return "is a file made by the kernel, not a model";
    return NULL;
}

enum err file_open(const char *path, struct model_file *out, struct reason *why) {
    *out = (struct model_file){.fd = -1};
    const char *label = path_label(path);
    /* O_NONBLOCK: opening a pipe nobody writes to must not hang */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return fail(why, ERR_IO, "%s: cannot open: %s", label, strerror(errno));
    enum err result = ERR_NONE;
    struct stat info;
    const char *kind = NULL;
    if (fstat(fd, &info) != 0)
        result = fail(why, ERR_IO, "%s: cannot examine: %s", label, strerror(errno));
    else if ((kind = refused_kind(fd, &info)) != NULL)
        result = fail(why, ERR_FORMAT, "%s: %s", label, kind);
    /* O_NONBLOCK off again: io_uring would answer EAGAIN for data that is not in the page cache */
    else if (fcntl(fd, F_SETFL, 0) != 0)
        result = fail(why, ERR_IO, "%s: cannot set up: %s", label, strerror(errno));
    else if (!(out->path = strdup(path)))
        result = fail(why, ERR_NO_MEMORY, "%s: no memory for its name", label);
    if (result != ERR_NONE) {
        close(fd);
        return result;
    }
    out->fd = fd;
    out->bytes = (uint64_t)info.st_size;
    return ERR_NONE;
}

void file_close(struct model_file *file) {
    if (file->fd >= 0) close(file->fd);
    free(file->path);
    *file = (struct model_file){.fd = -1};
}

enum err file_read(const struct model_file *file, void *to, uint64_t bytes, uint64_t offset, struct reason *why) {
    uint8_t *at = to;
    while (bytes) {
        const ssize_t got = pread(file->fd, at, bytes < 1 << 30 ? bytes : 1 << 30, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return fail(why, ERR_IO, "%s: cannot read at byte %llu: %s", path_label(file->path), (unsigned long long)offset,
                        strerror(errno));
        if (got == 0)
            return fail(why, ERR_IO, "%s: ended at byte %llu while being read; it was %llu bytes long before",
                        path_label(file->path), (unsigned long long)offset, (unsigned long long)file->bytes);
        at += got;
        offset += (uint64_t)got;
        bytes -= (uint64_t)got;
    }
    return ERR_NONE;
}

const char *container_label(const struct container *c) { return path_label(c->label ? c->label : c->files[0].path); }

void container_close(struct container *c) {
    for (size_t i = 0; i < c->n_files; i++) {
        file_close(&c->files[i]);
        free(c->regions[i]);
    }
    free(c->label);
    free(c->files);
    free(c->regions);
    free(c->made_meta);
    free(c->made_names);
    free(c->slices);
    free(c->tensors);
    free(c->tensor_at);
    free(c->by_name);
    meta_close(&c->meta);
    *c = (struct container){0};
}

const char *name_problem(struct span name, size_t max_bytes) {
    if (name.len == 0) return "is empty";
    if (name.len > max_bytes) return "is too long";
    const uint8_t *bytes = (const uint8_t *)name.ptr;
    for (size_t i = 0; i < name.len;) {
        if (bytes[i] < 0x20 || bytes[i] == 0x7f) return "contains a control character";
        const size_t step = utf8_sequence(bytes + i, name.len - i);
        if (!step) return "is not valid UTF-8";
        i += step;
    }
    return NULL;
}

struct quoted quote(struct span name) {
    struct quoted out;
    const size_t room = sizeof out.text - 4, len = name.len < room ? name.len : room;
    for (size_t i = 0; i < len; i++) out.text[i] = name.ptr[i] >= 0x20 && name.ptr[i] < 0x7f ? name.ptr[i] : '?';
    snprintf(out.text + len, sizeof out.text - len, "%s", name.len > len ? "..." : "");
    return out;
}

int span_compare(struct span a, struct span b) {
    const size_t shorter = a.len < b.len ? a.len : b.len;
    const int order = shorter ? memcmp(a.ptr, b.ptr, shorter) : 0;
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

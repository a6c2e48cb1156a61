/* Reading and replacing whole files. */
#include "cli/repl_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum err whole_file_read(const char *path, uint64_t limit, struct text *out, struct reason *why) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a named pipe must not block */
    if (fd < 0) return fail(why, ERR_IO, "%s: %s", path, strerror(errno));
    struct stat info;
    enum err code = ERR_NONE;
    char *buffer = NULL;
    if (fstat(fd, &info) != 0)
        code = fail(why, ERR_IO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        code = fail(why, ERR_ARGUMENT, "%s: not a regular file", path);
    else if ((uint64_t)info.st_size > limit)
        code = fail(why, ERR_LIMIT, "%s: %lld bytes are more than the %llu allowed", path, (long long)info.st_size,
                    (unsigned long long)limit);
    enum { PIECE = 1 << 16 };
    if (!code && !(buffer = malloc(PIECE))) code = fail(why, ERR_NO_MEMORY, "%s: no memory to read it", path);
    for (uint64_t total = 0; !code;) {
        const ssize_t got = read(fd, buffer, PIECE);
        if (got == 0) break;
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            code = fail(why, ERR_IO, "%s: %s", path, strerror(errno));
        else if ((total += (uint64_t)got) > limit)
            code = fail(why, ERR_LIMIT, "%s: it grew past %llu bytes", path, (unsigned long long)limit);
        else
            text_add(out, buffer, (size_t)got);
        if (out->failed) code = fail(why, ERR_NO_MEMORY, "%s: no memory to hold it", path);
    }
    free(buffer);
    close(fd);
    return code;
}

static bool write_all(int fd, struct span s) {
    while (s.len) {
        const ssize_t written = write(fd, s.ptr, s.len);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        s = (struct span){s.ptr + written, s.len - (size_t)written};
    }
    return true;
}

static void sync_folder(const char *path) {
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    (void)!fsync(fd); /* the content is safe; only the name could still be the old one */
    close(fd);
}

enum err whole_file_check_ours(const char *path, struct span mark, const char *what, struct reason *why) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return errno == ENOENT ? ERR_NONE : fail(why, ERR_IO, "%s: %s", path, strerror(errno));
    char head[256];
    const ssize_t got = read(fd, head, sizeof head);
    close(fd);
    if (got > 0 && memmem(head, (size_t)got, mark.ptr, mark.len)) return ERR_NONE;
    return fail(why, ERR_ARGUMENT, "%s: exists and holds no %s; choose another name", path, what);
}

bool state_path(const char *state, const char *home, const char *name, struct text *out) {
    if (state)
        text_addf(out, "%s/coldstream/%s", state, name);
    else if (home)
        text_addf(out, "%s/.local/state/coldstream/%s", home, name);
    return (state || home) && !out->failed;
}

enum err make_folders_of(const char *path, struct reason *why) {
    char *copy = strdup(path);
    if (!copy) return fail(why, ERR_NO_MEMORY, "%s: no memory", path);
    enum err code = ERR_NONE;
    for (char *slash = copy; !code && (slash = strchr(slash + 1, '/'));) {
        *slash = 0;
        if (mkdir(copy, 0700) != 0 && errno != EEXIST) code = fail(why, ERR_IO, "%s: %s", copy, strerror(errno));
        *slash = '/';
    }
    free(copy);
    return code;
}

enum err whole_file_replace(const char *path, struct span content, struct reason *why) {
    char target[PATH_MAX], temporary[PATH_MAX + 16];
    if (!realpath(path, target)) {
        if (errno != ENOENT || strlen(path) >= sizeof target) return fail(why, ERR_IO, "%s: %s", path, strerror(errno));
        strcpy(target, path);
    }
    snprintf(temporary, sizeof temporary, "%s.XXXXXX", target);
    const int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0) return fail(why, ERR_IO, "%s: %s", temporary, strerror(errno));
    const bool written = write_all(fd, content) && fsync(fd) == 0;
    int error = written ? 0 : errno;
    if (close(fd) != 0 && !error) error = errno;
    if (!error && rename(temporary, target) != 0) error = errno;
    if (error) {
        unlink(temporary);
        return fail(why, ERR_IO, "%s: %s", path, strerror(error));
    }
    sync_folder(target);
    return ERR_NONE;
}

/* Preloaded into a process, makes one kind of file operation on one path fail: see storage_faults.py.

   A path is compared with '#' for what differs from run to run: numbers of eight or more hexadecimal digits, the groups
   of four of a UUID, and the number of a process between two dots. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LENGTH 4096

enum { OFF, RECORD, ONCE, ALWAYS };

static int mode = OFF, error = EIO, log_file = -1;
static char prefix[LENGTH], wanted_operation[64], wanted_path[LENGTH];
static atomic_int hits;

/* Returns how often the wanted operation was met since it was set. */
int storage_faults_hits(void) { return hits; }

void storage_faults_set(int new_mode, const char *new_prefix, const char *operation, const char *path, int number,
                        int descriptor) {
    snprintf(prefix, LENGTH, "%s", new_prefix);
    snprintf(wanted_operation, sizeof wanted_operation, "%s", operation);
    snprintf(wanted_path, LENGTH, "%s", path);
    error = number;
    log_file = descriptor;
    hits = 0;
    mode = new_mode;
}

static int is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

static void normalize(const char *path, char *result) {
    size_t at = 0, length = strlen(path);
    for (size_t i = 0; i < length && at < LENGTH - 2;) {
        size_t end = i;
        while (end < length && is_hex(path[end])) end++;
        char before = i ? path[i - 1] : 0, after = path[end];
        if (end - i >= 8 || (end - i == 4 && before == '-' && after == '-') ||
            (end > i && before == '.' && after == '.')) {
            result[at++] = '#';
            i = end;
        } else
            result[at++] = path[i++];
    }
    result[at] = 0;
    char *events = strstr(result, "tfevents");
    if (events) events[strlen("tfevents")] = 0;
}

static int fails(const char *operation, const char *path) {
    if (mode == OFF || !path) return 0;
    char absolute[LENGTH], normal[LENGTH];
    if (path[0] != '/') {
        char here[LENGTH];
        if (syscall(SYS_getcwd, here, LENGTH) < 0) return 0;
        snprintf(absolute, LENGTH, "%.2000s/%.2000s", here, path);
        path = absolute;
    }
    if (strncmp(path, prefix, strlen(prefix))) return 0;
    normalize(path + strlen(prefix), normal);
    if (mode == RECORD) {
        char line[LENGTH + 64];
        int size = snprintf(line, sizeof line, "%s\t%s\n", operation, normal);
        syscall(SYS_write, log_file, line, size);
        return 0;
    }
    if (strcmp(operation, wanted_operation) || strcmp(normal, wanted_path)) return 0;
    int before = hits++;
    if (mode == ONCE && before) return 0;
    errno = error;
    return 1;
}

static int fails_of(const char *operation, int descriptor) {
    if (mode == OFF) return 0;
    char link[64], path[LENGTH];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    long size = syscall(SYS_readlink, link, path, LENGTH - 1);
    if (size <= 0) return 0;
    path[size] = 0;
    return fails(operation, path);
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list arguments; \
        va_start(arguments, flags); \
        mode_t permissions = va_arg(arguments, int); \
        va_end(arguments); \
        if (fails(flags & (O_WRONLY | O_RDWR) ? "open to write" : "open to read", path)) return -1; \
        return real(path, flags, permissions); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(name); \
        va_list arguments; \
        va_start(arguments, flags); \
        mode_t permissions = va_arg(arguments, int); \
        va_end(arguments); \
        if (fails(flags & (O_WRONLY | O_RDWR) ? "open to write" : "open to read", path)) return -1; \
        return real(folder, path, flags, permissions); \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name) \
    FILE *name(const char *path, const char *how) { \
        REAL(name); \
        if (fails(how[0] == 'r' ? "open to read" : "open to write", path)) return NULL; \
        return real(path, how); \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t read(int file, void *buffer, size_t size) {
    REAL(read);
    return fails_of("read", file) ? -1 : real(file, buffer, size);
}
ssize_t pread(int file, void *buffer, size_t size, off_t at) {
    REAL(pread);
    return fails_of("read", file) ? -1 : real(file, buffer, size, at);
}
ssize_t pread64(int file, void *buffer, size_t size, off64_t at) {
    REAL(pread64);
    return fails_of("read", file) ? -1 : real(file, buffer, size, at);
}
ssize_t write(int file, const void *buffer, size_t size) {
    REAL(write);
    return fails_of("write", file) ? -1 : real(file, buffer, size);
}
size_t fwrite(const void *buffer, size_t size, size_t count, FILE *file) {
    REAL(fwrite);
    return fails_of("write", fileno(file)) ? 0 : real(buffer, size, count, file);
}
#undef fwrite_unlocked
size_t fwrite_unlocked(const void *buffer, size_t size, size_t count, FILE *file) {
    REAL(fwrite_unlocked);
    return fails_of("write", fileno(file)) ? 0 : real(buffer, size, count, file);
}
int fflush(FILE *file) {
    REAL(fflush);
    return file && fails_of("write", fileno(file)) ? EOF : real(file);
}
ssize_t sendfile(int out, int in, off_t *at, size_t size) {
    REAL(sendfile);
    return fails_of("read", in) || fails_of("write", out) ? -1 : real(out, in, at, size);
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t size) {
    REAL(sendfile64);
    return fails_of("read", in) || fails_of("write", out) ? -1 : real(out, in, at, size);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return fails("rename", to) ? -1 : real(from, to);
}
int renameat(int one, const char *from, int other, const char *to) {
    REAL(renameat);
    return fails("rename", to) ? -1 : real(one, from, other, to);
}
int unlink(const char *path) {
    REAL(unlink);
    return fails("remove", path) ? -1 : real(path);
}
int unlinkat(int folder, const char *path, int flags) {
    REAL(unlinkat);
    return fails("remove", path) ? -1 : real(folder, path, flags);
}
int rmdir(const char *path) {
    REAL(rmdir);
    return fails("remove", path) ? -1 : real(path);
}
int mkdir(const char *path, mode_t permissions) {
    REAL(mkdir);
    return fails("make folder", path) ? -1 : real(path, permissions);
}
DIR *opendir(const char *path) {
    REAL(opendir);
    return fails("list", path) ? NULL : real(path);
}
int access(const char *path, int how) {
    REAL(access);
    return fails("look at", path) ? -1 : real(path, how);
}

#define STAT(name, type) \
    int name(const char *path, struct type *status) { \
        REAL(name); \
        return fails("look at", path) ? -1 : real(path, status); \
    }
STAT(stat, stat)
STAT(stat64, stat64)
STAT(lstat, stat)
STAT(lstat64, stat64)

#define FSTATAT(name, type) \
    int name(int folder, const char *path, struct type *status, int flags) { \
        REAL(name); \
        return fails("look at", path) ? -1 : real(folder, path, status, flags); \
    }
FSTATAT(fstatat, stat)
FSTATAT(fstatat64, stat64)

// Faults of a machine, put between the program and the C library with LD_PRELOAD. What happens is named by variables:
//   FAULT_LINKS=1       a file system without symbolic links and without fsync of folders
//   FAULT_STALL=TEXT    opening a file whose path holds TEXT never returns, once there is a file "stall" in the current folder
//   FAULT_FULL=BYTES    files whose path holds /checkpoints/ take this many bytes in all, then the disk is full
//   FAULT_MEMORY=FILE   once FILE is there, tensors of 1 MiB and more cannot be had
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static long written;

static void stall(const char *path) {
    const char *text = getenv("FAULT_STALL");
    while (text && path && strstr(path, text) && access("stall", F_OK) == 0) pause();
}

int symlink(const char *target, const char *path) {
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "symlink");
    if (getenv("FAULT_LINKS")) return errno = EPERM, -1;
    return real(target, path);
}

int fsync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    struct stat found;
    if (getenv("FAULT_LINKS") && !fstat(fd, &found) && S_ISDIR(found.st_mode)) return errno = EINVAL, -1;
    return real(fd);
}

int open64(const char *path, int flags, ...) {
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    stall(path);
    return real(path, flags, mode);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    const char *most = getenv("FAULT_FULL");
    char link[64], path[4096];
    if (most) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        path[length > 0 ? length : 0] = 0;
        if (strstr(path, "/checkpoints/") && __sync_add_and_fetch(&written, (long)count) > atol(most)) return errno = ENOSPC, -1;
    }
    return real(fd, bytes, count);
}

// c10::alloc_cpu, by which libtorch takes the memory of tensors: it is asked for more than any machine has.
void *_ZN3c109alloc_cpuEm(size_t size) {
    void *(*real)(size_t) = dlsym(RTLD_NEXT, "_ZN3c109alloc_cpuEm");
    const char *file = getenv("FAULT_MEMORY");
    return real(file && size >= 1 << 20 && access(file, F_OK) == 0 ? (size_t)1 << 60 : size);
}

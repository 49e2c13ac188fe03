/* failing_io.c - preloaded into a test's process, makes the system calls for reading fail as the test wants.
 *
 * FAILING_IO is "call:after:errno": from call number `after` (from 0) on, `call` fails with that errno. Calls are
 * "populate" (madvise with MADV_POPULATE_READ), "populated" (the same, but it fails when the pages are there), "advise"
 * (any other madvise), "pread", and "fcntl" (F_SETFL).
 * A fourth part is the number of calls that fail; later calls succeed. The call "forget" does not fail: before pages
 * leave the page cache (POSIX_FADV_DONTNEED), one that the thread has just unmapped is mapped again, as a fault beside
 * it would do. FAILING_IO=short makes every pread return at most 1000 bytes. FAILING_IO=type:0x6969 makes fstatfs
 * report that file system. FAILING_IO=naps only counts nanosleep.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

static _Atomic long count, met; /* calls of the kind, and calls that were changed or counted */

/* Tells the test how many calls it changed: with 0 it has tested nothing. */
__attribute__((destructor)) static void tell(void) {
    fprintf(stderr, "failing_io: %ld\n", atomic_load(&met));
}

/* Whether this call shall fail; sets errno if so. */
static int fails(const char *call) {
    const char *wish = getenv("FAILING_IO");
    char name[16];
    long after, number, times = 1L << 40;
    if (!wish || sscanf(wish, "%15[a-z]:%ld:%ld:%ld", name, &after, &number, &times) < 3) return 0;
    if (strcmp(name, call) != 0) return 0;
    long now = atomic_fetch_add(&count, 1);
    if (now < after || now >= after + times) return 0;
    atomic_fetch_add(&met, 1);
    errno = (int)number;
    return 1;
}

/* Where the range begins that this thread unmapped last. */
static _Thread_local const volatile char *unmapped;

int madvise(void *start, size_t length, int advice) {
    if (advice == MADV_DONTNEED) unmapped = start;
    int (*real)(void *, size_t, int) = (int (*)(void *, size_t, int))dlsym(RTLD_NEXT, "madvise");
    if (fails(advice == MADV_POPULATE_READ ? "populate" : "advise")) return -1;
    int result = real(start, length, advice);
    return result == 0 && advice == MADV_POPULATE_READ && fails("populated") ? -1 : result;
}

ssize_t pread(int fd, void *to, size_t length, off_t offset) {
    ssize_t (*real)(int, void *, size_t, off_t) = (ssize_t (*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread");
    const char *wish = getenv("FAILING_IO");
    if (wish && strcmp(wish, "short") == 0 && length > 1000) {
        atomic_fetch_add(&met, 1);
        if (fcntl(fd, F_GETFL) & O_DIRECT) { /* it reads no 1000 bytes: act as if it stopped there */
            ssize_t done = real(fd, to, length, offset);
            return done > 1000 ? 1000 : done;
        }
        length = 1000;
    }
    return fails("pread") ? -1 : real(fd, to, length, offset);
}

int fcntl(int fd, int command, ...) {
    int (*real)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, "fcntl");
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    return command == F_SETFL && fails("fcntl") ? -1 : real(fd, command, argument);
}

int posix_fadvise(int fd, off_t offset, off_t length, int advice) {
    int (*real)(int, off_t, off_t, int) = (int (*)(int, off_t, off_t, int))dlsym(RTLD_NEXT, "posix_fadvise");
    if (advice == POSIX_FADV_DONTNEED && unmapped && fails("forget")) (void)*unmapped;
    return real(fd, offset, length, advice);
}

int fstatfs(int fd, struct statfs *info) {
    int (*real)(int, struct statfs *) = (int (*)(int, struct statfs *))dlsym(RTLD_NEXT, "fstatfs");
    const char *wish = getenv("FAILING_IO");
    unsigned int type;
    int result = real(fd, info);
    if (wish && sscanf(wish, "type:%x", &type) == 1) {
        atomic_fetch_add(&met, 1);
        info->f_type = type;
    }
    return result;
}

int nanosleep(const struct timespec *duration, struct timespec *left) {
    int (*real)(const struct timespec *, struct timespec *) =
        (int (*)(const struct timespec *, struct timespec *))dlsym(RTLD_NEXT, "nanosleep");
    const char *wish = getenv("FAILING_IO");
    if (wish && strcmp(wish, "naps") == 0) atomic_fetch_add(&met, 1);
    return real(duration, left);
}

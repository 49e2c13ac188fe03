/* slow_reads.c - preloaded into a test's process, makes the reads of the prefetch thread as slow as the test wants.
 *
 * SLOW_READS_BYTES_PER_SECOND is the speed of the imagined disk. A read is a MADV_POPULATE_READ or a pread. In a
 * process that must do without the first (STREAMRT_TEST_POPULATE=touch) it is a POSIX_FADV_WILLNEED. A read returns no
 * earlier than the imagined disk would have delivered. Other calls are not changed. Python reads with pread64.
 *
 * SLOW_READS_SWITCH is a path. With it, reads are slow only while a file is there, and one disk serves all threads: a
 * read begins when those before it have ended. Each slow read appends a byte to the file, so that a test sees it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static _Atomic int64_t busy_until; /* nanoseconds: when the one disk has ended its last read */

/* When the one disk ends a read that is asked for at `start`. */
static double in_line(double start, double seconds) {
    int64_t asked = (int64_t)(1e9 * start), before = atomic_load(&busy_until), end;
    do end = (before > asked ? before : asked) + (int64_t)(1e9 * seconds);
    while (!atomic_compare_exchange_weak(&busy_until, &before, end));
    return 1e-9 * end;
}

/* Appends a byte to the file of the switch. Returns 0 if there is no file. */
static int noted(const char *path) {
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t written = write(fd, ".", 1);
    (void)written;
    close(fd);
    return 1;
}

static void sleep_until(double start, double bytes) {
    const char *speed = getenv("SLOW_READS_BYTES_PER_SECOND"), *path = getenv("SLOW_READS_SWITCH");
    if (!speed || (path && !noted(path))) return;
    double seconds = bytes / atof(speed), left = (path ? in_line(start, seconds) : start + seconds) - now();
    if (left > 0) nanosleep(&(struct timespec){(time_t)left, (long)((left - (time_t)left) * 1e9)}, NULL);
}

static int touching(void) {
    const char *mode = getenv("STREAMRT_TEST_POPULATE");
    return mode && strcmp(mode, "touch") == 0;
}

int madvise(void *start, size_t length, int advice) {
    int (*real)(void *, size_t, int) = (int (*)(void *, size_t, int))dlsym(RTLD_NEXT, "madvise");
    double begin = now();
    int result = real(start, length, advice);
    if (advice == MADV_POPULATE_READ && result == 0) sleep_until(begin, length);
    return result;
}

ssize_t pread(int fd, void *to, size_t length, off_t offset) {
    ssize_t (*real)(int, void *, size_t, off_t) = (ssize_t (*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread");
    double begin = now();
    ssize_t count = real(fd, to, length, offset);
    if (count > 0) sleep_until(begin, (double)count);
    return count;
}

int posix_fadvise(int fd, off_t offset, off_t length, int advice) {
    int (*real)(int, off_t, off_t, int) = (int (*)(int, off_t, off_t, int))dlsym(RTLD_NEXT, "posix_fadvise");
    double begin = now();
    int result = real(fd, offset, length, advice);
    if (advice == POSIX_FADV_WILLNEED && touching()) sleep_until(begin, length);
    return result;
}

/* os_linux.c - os.h for Linux.
 *
 * System calls go through the C library, so that a preloaded library can make them slow or fail in tests.
 */
#define _GNU_SOURCE
#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_WIPEONFORK /* Linux 4.14 */
#define MADV_WIPEONFORK 18
#endif
#ifndef MADV_POPULATE_READ /* headers before Linux 5.14 */
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_DONTNEED_LOCKED /* Linux 5.18 */
#define MADV_DONTNEED_LOCKED 24
#endif

/* Bytes of one POSIX_FADV_WILLNEED, 128 KiB: the kernel cuts a longer one to the readahead limit of the device, which
 * is 128 KiB by default. */
#define WILL_NEED_STEP ((uint64_t)128 << 10)

/* Attempts to release a range. The page cache keeps a page that is in use at that moment, even by mincore in another
 * process, and a page that is mapped. No later call would release it. With a process that watches all the time, this
 * happened in 1 of 500 releases. The pauses between 8 attempts are 3 ms together. */
#define RELEASE_ATTEMPTS 8
/* Attempts if the last release failed, too: 0.1 ms. An example is a file of another user, whose pages mincore always
 * reports as cached. */
#define RELEASE_ATTEMPTS_IN_VAIN 3

int os_open(const char *path) {
    /* O_NONBLOCK: opening a FIFO must not wait for a writer. It does not affect a regular file. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return -1;
    struct stat status;
    int error = fstat(fd, &status) != 0 ? errno : S_ISREG(status.st_mode) ? 0 : EINVAL;
    if (error) {
        close(fd);
        errno = error;
        return -1;
    }
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); /* no readahead: its pages would not be counted */
    return fd;
}

void os_close(int fd) {
    close(fd);
}

bool os_identify(int fd, srt_identity *out) {
    struct stat status;
    if (fstat(fd, &status) != 0) return false;
    out->device = status.st_dev;
    out->inode = status.st_ino;
    out->size = (uint64_t)status.st_size;
    out->mtime = (int64_t)status.st_mtim.tv_sec * 1000000000 + status.st_mtim.tv_nsec;
    return true;
}

size_t os_page_size(void) {
    return (size_t)sysconf(_SC_PAGESIZE);
}

uint8_t *os_map(int fd, size_t size) {
    void *base = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    return base == MAP_FAILED ? NULL : base;
}

uint8_t *os_reserve(size_t size) {
    size_t page = os_page_size(), whole = (size + page - 1) / page * page;
    if (whole > SIZE_MAX - SRT_BLOCK) {
        errno = ENOMEM;
        return NULL;
    }
    uint8_t *start =
        mmap(NULL, whole + SRT_BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return NULL;
    size_t before = (size_t)(-(uintptr_t)start % SRT_BLOCK);
    if (before > 0) munmap(start, before);
    munmap(start + before + whole, SRT_BLOCK - before);
    /* A child gets zeros instead of these pages. Copying on write would take a page away from a read in progress.
     * Dropping a page here would not free it while the child has it, too. */
    madvise(start + before, whole, MADV_WIPEONFORK);
    return start + before;
}

void os_unmap(uint8_t *base, size_t size) {
    munmap(base, size);
}

bool os_map_zeros(void *page, size_t size) {
    return mmap(page, size, PROT_READ, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED;
}

/* Whether a huge page is a block. A huge page is a page table's worth of pages, and a table has an entry of 8 bytes for
 * each: 2 MiB with pages of 4 KiB, 32 MiB with 16 KiB, 512 MiB with 64 KiB. */
static bool huge_pages_are_blocks(void) {
    const uint64_t page = os_page_size();
    return page / 8 * page == SRT_BLOCK;
}

static bool kernel_is_since(int first, int second) {
    struct utsname name;
    int major, minor;
    if (uname(&name) != 0 || sscanf(name.release, "%d.%d", &major, &minor) != 2) return false;
    return major > first || (major == first && minor >= second);
}

/* Whether a fault on a mapping with MADV_HUGEPAGE reads a whole block, and with MADV_RANDOM no more: Linux 5.18 and
 * later. */
static bool faults_read_blocks(void) {
    return huge_pages_are_blocks() && kernel_is_since(5, 18);
}

void os_advise_pages(uint8_t *base, size_t size) {
    madvise(base, size, MADV_RANDOM);
    madvise(base, size, MADV_NOHUGEPAGE);
}

bool os_advise_blocks(uint8_t *base, size_t size) {
    madvise(base, size, MADV_RANDOM);
    return faults_read_blocks() && madvise(base, size, MADV_HUGEPAGE) == 0;
}

/* Kernels before Linux 6.14 may cut blocks that they read ahead at the read_ahead_kb of the device. */
bool os_advise_blocks_ahead(uint8_t *base, size_t size) {
    return kernel_is_since(6, 14) && madvise(base, size, MADV_NORMAL) == 0;
}

void os_advise_ahead(int fd, uint8_t *base, size_t size) {
    madvise(base, size, MADV_NORMAL);
    posix_fadvise(fd, 0, 0, POSIX_FADV_NORMAL);
}

void os_unload(uint8_t *base, size_t size) {
    madvise(base, size, MADV_DONTNEED);
}

bool os_populate(uint8_t *start, size_t size) {
    int result;
    do result = madvise(start, size, MADV_POPULATE_READ);
    while (result != 0 && errno == EINTR);
    return result == 0;
}

void os_will_need(int fd, uint64_t offset, uint64_t length) {
    for (uint64_t at = 0; at < length; at += WILL_NEED_STEP) {
        uint64_t step = length - at < WILL_NEED_STEP ? length - at : WILL_NEED_STEP;
        posix_fadvise(fd, (off_t)(offset + at), (off_t)step, POSIX_FADV_WILLNEED);
    }
}

/* Removes pages of a mapping from the page tables. False if the kernel refuses. Locked pages need advice of their own.
 */
static bool drop_pages(uint8_t *start, size_t size) {
    return madvise(start, size, MADV_DONTNEED) == 0 || madvise(start, size, MADV_DONTNEED_LOCKED) == 0;
}

/* Replaces the mapping at `start`. If that fails, the old pages may be gone. The addresses are then reserved, so that
 * no other mapping gets them, and populating them is an error. */
static bool map_again(uint8_t *start, size_t size, int protection, int flags, int fd, off_t offset) {
    if (mmap(start, size, protection, MAP_FIXED | flags, fd, offset) != MAP_FAILED) return true;
    mmap(start, size, PROT_NONE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return false;
}

void os_drop(uint8_t *start, size_t size, bool huge) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (drop_pages(start, size) || !map_again(start, size, PROT_READ | PROT_WRITE, flags, -1, 0)) return;
    madvise(start, size, MADV_WIPEONFORK);
    os_advise_memory(start, size, huge);
}

void os_advise_memory(uint8_t *base, size_t size, bool huge) {
    madvise(base, size, huge && huge_pages_are_blocks() ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

bool os_is_remote(int fd) {
    static const uint32_t remote[] = {
        0x6969,     /* NFS */
        0xff534d42, /* CIFS */
        0xfe534d42, /* SMB 2 */
        0x517b,     /* SMB */
        0x65735546, /* FUSE, virtiofs */
        0x01021997, /* 9P */
        0x00c36400, /* Ceph */
        0x5346414f, /* AFS */
        0x0bd00bd0, /* Lustre */
        0x47504653, /* GPFS */
        0x19830326, /* BeeGFS */
    };
    struct statfs info;
    if (fstatfs(fd, &info) != 0) return false;
    for (size_t i = 0; i < sizeof remote / sizeof remote[0]; i++)
        if ((uint32_t)info.f_type == remote[i]) return true;
    return false;
}

bool os_set_direct(int fd, bool on) {
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

void os_forget(int fd, uint64_t offset, uint64_t length) {
    posix_fadvise(fd, (off_t)offset, (off_t)length, POSIX_FADV_DONTNEED);
}

int64_t os_read(int fd, uint8_t *to, size_t length, uint64_t offset) {
    ssize_t count;
    do count = pread(fd, to, length, (off_t)offset);
    while (count < 0 && errno == EINTR);
    return count;
}

bool os_resident(uint8_t *start, size_t size, uint64_t *bytes) {
    enum { AT_ONCE = 4096 }; /* pages of one call, with a byte for each: 4 KiB of stack */
    unsigned char pages[AT_ONCE];
    const size_t page = os_page_size(), step = AT_ONCE * page;
    *bytes = 0;
    for (size_t at = 0; at < size; at += step) {
        size_t part = size - at < step ? size - at : step;
        if (mincore(start + at, part, pages) != 0) return false;
        for (size_t i = 0; i * page < part; i++) *bytes += pages[i] & 1 ? page : 0;
    }
    return true;
}

/* Whether any page of the range is in the page cache. For a file of another user mincore always says so. */
static bool any_cached(uint8_t *start, uint64_t length, bool blocks) {
    uint64_t bytes = 0, part = blocks ? os_page_size() : length;
    for (uint64_t at = 0; at < length && bytes == 0; at += blocks ? SRT_BLOCK : length)
        if (!os_resident(start + at, part, &bytes)) return false;
    return bytes > 0;
}

/* Removes the range from the page tables. */
static void unmap_pages(int fd, uint8_t *base, uint64_t offset, uint64_t length, bool blocks) {
    uint8_t *start = base + offset;
    if (drop_pages(start, length) || !map_again(start, length, PROT_READ, MAP_SHARED, fd, (off_t)offset)) return;
    if (blocks)
        os_advise_blocks(start, length);
    else
        os_advise_pages(start, length);
}

bool os_release(int fd, uint8_t *base, uint64_t offset, uint64_t length, bool blocks, bool patient) {
    int attempts = patient ? RELEASE_ATTEMPTS : RELEASE_ATTEMPTS_IN_VAIN;
    for (int attempt = 1;; attempt++) {
        /* The page cache keeps mapped pages. They are unmapped at each attempt: a thread that reads the next range may
         * have mapped some of them anew, because a fault maps up to 15 cached pages around its own. */
        unmap_pages(fd, base, offset, length, blocks);
        posix_fadvise(fd, (off_t)offset, (off_t)length, POSIX_FADV_DONTNEED);
        if (!any_cached(base + offset, length, blocks)) return true;
        if (attempt == attempts) return false;
        /* Sleep for 20 us, 40 us ..., so that the watcher can continue: this thread may have taken its processor. */
        const struct timespec moment = {.tv_nsec = 10000L << attempt};
        nanosleep(&moment, NULL);
    }
}

void os_thread_usage(os_usage *out) {
    struct rusage usage;
    if (getrusage(RUSAGE_THREAD, &usage) != 0) {
        *out = (os_usage){0};
        return;
    }
    out->bytes_read = (uint64_t)usage.ru_inblock * 512; /* in units of 512 bytes on every device */
    out->major_faults = (uint64_t)usage.ru_majflt;
}

#ifdef __aarch64__
bool os_has_crc32(void) {
    return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
}
#endif

int os_processors(void) {
    cpu_set_t set;
    /* fails if the kernel's mask has more than 1024 processors */
    const long count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : sysconf(_SC_NPROCESSORS_ONLN);
    return count < 1 ? 1 : count > INT_MAX ? INT_MAX : (int)count;
}

/* Signals that an instruction raises stay unblocked: a blocked SIGBUS kills the process before the guard can act. */
int os_start_thread(pthread_t *out, void *(*run)(void *), void *argument) {
    static const int synchronous[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof synchronous / sizeof *synchronous; i++) sigdelset(&blocked, synchronous[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    const int error = pthread_create(out, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

/* For os_catch_bus_errors. Written before the handler can run, constant afterwards. */
static bool (*answer_bus_error)(void *address);
static struct sigaction earlier;

/* For a signal that does not belong to the guard: the effect that it would have without the guard. */
static void chain(int signal, siginfo_t *info, void *context) {
    if (earlier.sa_flags & SA_SIGINFO) {
        earlier.sa_sigaction(signal, info, context);
    } else if (earlier.sa_handler != SIG_DFL && earlier.sa_handler != SIG_IGN) {
        earlier.sa_handler(signal);
    } else {
        /* After the return the faulting instruction runs again, and kills the process; a signal that was sent has to be
         * sent again. SIG_IGN is treated alike, because the kernel kills for a fault even if the signal is ignored. */
        struct sigaction standard = {.sa_handler = SIG_DFL};
        sigemptyset(&standard.sa_mask);
        sigaction(signal, &standard, NULL);
        if (info->si_code <= 0) raise(signal);
    }
}

static void on_bus_error(int signal, siginfo_t *info, void *context) {
    int error = errno;
    /* si_addr is an address only if the code is positive: then the kernel raised the signal for a memory access. */
    if (info->si_code <= 0 || !answer_bus_error(info->si_addr)) chain(signal, info, context);
    errno = error;
}

bool os_catch_bus_errors(bool (*answer)(void *address)) {
    answer_bus_error = answer;
    struct sigaction ours = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&ours.sa_mask);
    /* `earlier` is set first: another thread may need it as soon as the new handler is installed. */
    return sigaction(SIGBUS, NULL, &earlier) == 0 && sigaction(SIGBUS, &ours, NULL) == 0;
}

void os_name_thread(const char *name) {
    pthread_setname_np(pthread_self(), name);
}

/* The kernel's struct sched_attr, in its first version. */
typedef struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period; /* nanoseconds */
} sched_attributes;

/* Whether the calling thread has the default policy; sets *out to its attributes. */
static bool has_usual_policy(sched_attributes *out) {
    return syscall(SYS_sched_getattr, 0, out, sizeof *out, 0) == 0 && out->policy == SCHED_OTHER;
}

void os_wake_promptly(void) {
    sched_attributes a;
    if (!has_usual_policy(&a)) return;
    a.runtime = 100 * 1000; /* ns: the shortest slice that the kernel allows */
    syscall(SYS_sched_setattr, 0, &a, 0);
}

void os_wake_patiently(void) {
    sched_attributes a;
    if (!has_usual_policy(&a)) return;
    a.policy = SCHED_BATCH;
    syscall(SYS_sched_setattr, 0, &a, 0);
}

int64_t os_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

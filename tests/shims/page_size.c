/* page_size.c - preloaded into a test's process, pretends that pages have PAGE_SIZE bytes: 16384 or 65536, as on
 * aarch64. sysconf says so, mappings begin and end at multiples of it, and mincore answers for each such page.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Bytes of the kernel's real pages, on x86-64. */
enum { REAL = 4096 };

static size_t page_size(void) {
    return (size_t)atol(getenv("PAGE_SIZE"));
}

long sysconf(int name) {
    long (*real)(int) = (long (*)(int))dlsym(RTLD_NEXT, "sysconf");
    return name == _SC_PAGESIZE ? (long)page_size() : real(name);
}

void *mmap(void *start, size_t length, int protection, int flags, int fd, off_t offset) {
    void *(*real)(void *, size_t, int, int, int, off_t) =
        (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
    if (flags & MAP_FIXED) return real(start, length, protection, flags, fd, offset);
    const size_t page = page_size(), whole = (length + page - 1) / page * page;
    uint8_t *room = real(NULL, whole + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) return MAP_FAILED;
    uint8_t *aligned = room + (page - (uintptr_t)room % page) % page;
    void *mapped = real(aligned, whole, protection, flags | MAP_FIXED, fd, offset);
    if (mapped == MAP_FAILED) {
        munmap(room, whole + page);
        return MAP_FAILED;
    }
    const size_t before = (size_t)(aligned - room);
    if (before > 0) munmap(room, before);
    munmap(aligned + whole, page - before);
    return mapped;
}

int mincore(void *start, size_t length, unsigned char *answer) {
    int (*real)(void *, size_t, unsigned char *) =
        (int (*)(void *, size_t, unsigned char *))dlsym(RTLD_NEXT, "mincore");
    const size_t page = page_size(), pages = (length + page - 1) / page;
    for (size_t i = 0; i < pages; i++) {
        unsigned char parts[65536 / REAL] = {0};
        const size_t left = length - i * page, part = left < page ? left : page;
        if (real((char *)start + i * page, part, parts) != 0) return -1;
        answer[i] = memchr(parts, 1, sizeof parts) != NULL;
    }
    return 0;
}

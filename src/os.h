/* os.h - the system calls of the core, for files, memory and threads. Each operating system has an os_NAME.c.
 *
 * Functions that can fail return false (NULL, -1) and set errno. Any thread may call any of them.
 */
#ifndef STREAMRT_OS_H
#define STREAMRT_OS_H

#include "streamrt.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int os_open(const char *path); /* read-only; -1, EINVAL: not a regular file */
void os_close(int fd);
bool os_identify(int fd, srt_identity *out);

size_t os_page_size(void);            /* bytes */
uint8_t *os_map(int fd, size_t size); /* shared, read-only; NULL */
uint8_t *os_reserve(size_t size);     /* private addresses, zero until written, from a multiple of SRT_BLOCK on; NULL */
void os_unmap(uint8_t *base, size_t size);
bool os_map_zeros(void *page, size_t size); /* replaces the old mapping; safe in a signal handler */

/* Hints for a whole mapping. A fault reads the pages it needs and none around them: after os_advise_pages single pages,
 * and whole aligned blocks where os_advise_blocks returned true. After that, os_advise_blocks_ahead returns true if a
 * fault may from now on request the next blocks, too, and wait for some of them. */
void os_advise_pages(uint8_t *base, size_t size);
bool os_advise_blocks(uint8_t *base, size_t size);
bool os_advise_blocks_ahead(uint8_t *base, size_t size);

/* For callers that read a whole mapping from its beginning. os_advise_ahead: faults read ahead, as without any hint.
 * os_unload: the pages that were read leave the page tables. */
void os_advise_ahead(int fd, uint8_t *base, size_t size);
void os_unload(uint8_t *base, size_t size);

bool os_populate(uint8_t *start, size_t size); /* reads and maps */
void os_will_need(int fd, uint64_t offset, uint64_t length);

/* Removes the range from the page tables and the page cache. Returns whether the cache has let it go. blocks: the range
 * was read in blocks. The cache holds all of a block or nothing of it, so one page of each block is looked at.
 * patient: try for 3 ms while another process keeps a page; otherwise for 0.1 ms. */
bool os_release(int fd, uint8_t *base, uint64_t offset, uint64_t length, bool blocks, bool patient);

/* For memory of os_reserve. Gives it back, so that it is zero again. huge: it may come in huge pages of a block. */
void os_drop(uint8_t *start, size_t size, bool huge);
void os_advise_memory(uint8_t *base, size_t size, bool huge);

bool os_is_remote(int fd);           /* on a network or FUSE file system */
bool os_set_direct(int fd, bool on); /* whether reads bypass the page cache, which needs whole pages */
void os_forget(int fd, uint64_t offset, uint64_t length);             /* removes the range from the page cache */
int64_t os_read(int fd, uint8_t *to, size_t length, uint64_t offset); /* pread(2); -1 */

/* Bytes of the pages of the range that are in the page cache. start is page-aligned. */
bool os_resident(uint8_t *start, size_t size, uint64_t *bytes);

/* On aarch64: whether the processor has the CRC32 instructions. Each operating system tells it in a way of its own. */
bool os_has_crc32(void);

int os_processors(void); /* those that the calling thread may run on; at least 1 */

/* Starts a thread. It blocks all signals except those that its own instructions raise, because other signals belong to
 * the threads of the program that loaded the core. Returns 0 or an error number. */
int os_start_thread(pthread_t *out, void *(*run)(void *), void *argument);

/* Installs a handler of SIGBUS, which calls `answer` with each address whose memory the kernel could not provide. If
 * `answer` returns false, and for every other SIGBUS, the signal goes to the handler that was installed before; without
 * one, the process dies of it. Call it once. */
bool os_catch_bus_errors(bool (*answer)(void *address));

typedef struct {
    uint64_t bytes_read;   /* from devices */
    uint64_t major_faults; /* faults that had to read */
} os_usage;

void os_thread_usage(os_usage *out); /* of the calling thread since it began; zeros if the kernel has no counts */
void os_name_thread(const char *name);

/* How the calling thread gets a processor when it wakes while other threads compute on all of them. os_wake_promptly:
 * soon, but for 0.1 ms at a time (Linux 6.12 and later). os_wake_patiently: only when a processor is free. Both are
 * hints, and do nothing if the thread has another scheduling policy than the default. */
void os_wake_promptly(void);
void os_wake_patiently(void);
int64_t os_now(void); /* ns of CLOCK_MONOTONIC */

#endif

/* os.h - what the core asks of the operating system for files, memory and threads; one os_*.c a system.
 *
 * Functions that can fail return false (NULL, -1) and leave the reason in errno. Any thread may call any of them.
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

size_t os_page_size(void);
uint8_t *os_map(int fd, size_t size); /* shared, read-only; NULL */
uint8_t *os_reserve(size_t size);     /* addresses for private memory, zero until written; begin on a block; NULL */
void os_unmap(uint8_t *base, size_t size);
bool os_map_zeros(void *page, size_t size); /* over what is there; safe in a signal handler */

/* Hints for a whole mapping: a fault reads the pages it needs and none around them, either single pages or, where
 * os_advise_blocks returns true, whole aligned blocks of 2 MiB in one go. */
void os_advise_pages(uint8_t *base, size_t size);
bool os_advise_blocks(uint8_t *base, size_t size);

/* For who reads a whole mapping from its begin: faults read ahead, as without any hint; and what was read may leave the
 * page tables again. */
void os_advise_ahead(int fd, uint8_t *base, size_t size);
void os_unload(uint8_t *base, size_t size);

bool os_populate(uint8_t *start, size_t size); /* read and map */
void os_will_need(int fd, uint64_t offset, uint64_t length);

/* Drops the range from the page tables and the page cache; whether it is gone. blocks: it was read in blocks, of which
 * the cache holds all or nothing, so that a look at one page of each tells. patient: for 3 ms, while someone holds it.
 */
bool os_release(int fd, uint8_t *base, uint64_t offset, uint64_t length, bool blocks, bool patient);

/* Reserved memory: give it back (it is zero again), and whether it may come in huge pages. */
void os_drop(uint8_t *start, size_t size, bool huge);
void os_advise_memory(uint8_t *base, size_t size, bool huge);

bool os_is_remote(int fd);           /* on a network or FUSE file system */
bool os_set_direct(int fd, bool on); /* whether reads go past the page cache, for whole pages only */
void os_forget(int fd, uint64_t offset, uint64_t length);             /* drops the range from the page cache */
int64_t os_read(int fd, uint8_t *to, size_t length, uint64_t offset); /* pread(2); -1 */

/* Bytes of whole pages of the range that are in the page cache. start is page-aligned. */
bool os_resident(uint8_t *start, size_t size, uint64_t *bytes);

typedef struct {
    uint64_t bytes_read;   /* from devices */
    uint64_t major_faults; /* those that had to read */
} os_usage;

int os_processors(void); /* that the calling thread may run on, at least 1 */

/* Starts a thread with all signals blocked but those that its own instructions cause: signals from outside are for the
 * threads of the program that loaded us. 0, or an error number. */
int os_start_thread(pthread_t *out, void *(*run)(void *), void *argument);

/* From now on `answer` is called, in a signal handler, with each address whose memory the kernel could not provide
 * (SIGBUS). False from it, and every other SIGBUS, go to the handler that was there before; with none, the process dies
 * of it. To be called once. */
bool os_catch_bus_errors(bool (*answer)(void *address));

void os_thread_usage(os_usage *out); /* of the calling thread, since it began */
void os_name_thread(const char *name);

/* How the calling thread gets a processor when it wakes while others compute on every one: soon, at the price of
 * running for a tenth of a millisecond at a time, which kernels know from Linux 6.12 on, or by waiting until one is
 * free. Both are wishes, that change nothing where the process was given a policy of its own. */
void os_wake_promptly(void);
void os_wake_patiently(void);
int64_t os_now(void); /* ns of CLOCK_MONOTONIC */

#endif

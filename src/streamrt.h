/* streamrt.h - the contract of the compiled core.
 *
 * Every function says what it returns, who owns what it hands out, and which threads may call it.
 * Nothing here knows of Python, prints, or exits. Functions that can fail return an srt_status;
 * where a system call was the cause, errno holds its code on return.
 */
#ifndef STREAMRT_H
#define STREAMRT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    SRT_OK = 0,
    SRT_NO_MEMORY,   /* an allocation of ours failed */
    SRT_SYSTEM,      /* a system call failed: errno tells which way */
    SRT_TRUNCATED,   /* the file ends before a page that was asked for */
    SRT_CHANGED,     /* the file was modified or replaced by another while open */
    SRT_STOPPED,     /* the prefetcher is closing */
    SRT_TIMEOUT,     /* nothing happened within the time allowed: ask again */
    SRT_FORKED,      /* made before a fork and used in the child */
    SRT_MISUSE,      /* an argument out of range, or a call out of turn */
    SRT_WINDOW_FULL, /* the items not yet done fill the window: the one waited for could never come */
} srt_status;

/* ---------------------------------------------------------------- fork.c: the fork rule
 *
 * How often this process is a forked child of the process that first called this function.
 * The first call installs the fork handlers. Any thread. */
uint64_t srt_fork_generation(void);

/* ---------------------------------------------------------------- sigbus.c: no death by truncation
 *
 * Reading a mapped page that the file no longer has raises SIGBUS. The guard answers it for the
 * addresses that it was given: it puts a page of zeros there, so that the read goes on, and marks the
 * mapping poisoned for good. Every other SIGBUS goes to the handler that was there before; with none,
 * the process dies of it as it would have without us. The guard installs its handler once, with the
 * first mapping: whoever installs another one later has to chain to ours. */
typedef struct srt_guard srt_guard;

/* Guards size bytes from base until srt_guard_remove, which must come before they are unmapped.
 * SRT_NO_MEMORY, SRT_SYSTEM (no handler could be installed). Any thread. */
srt_status srt_guard_add(const void *base, size_t size, srt_guard **out);
void srt_guard_remove(srt_guard *guard);

/* Whether a read of the guarded bytes met a missing page, ever. Any thread. */
bool srt_guard_poisoned(const srt_guard *guard);

/* Keep other threads from changing the set of guarded ranges: for the fork handlers only. */
void srt_guard_lock(void);
void srt_guard_unlock(void);

/* ---------------------------------------------------------------- mapping.c: a file in memory
 *
 * A whole regular file at addresses of its own, read-only. All functions but open and close may be called by
 * any thread at any time between the two. A mapping may be read in a forked child (by PREAD: as zeros). */
typedef struct srt_mapping srt_mapping;

/* What tells an open file from another one, or from itself before it was written to. */
typedef struct {
    uint64_t device, inode, size;
    int64_t mtime; /* ns */
} srt_identity;

/* How bytes get there. MMAP maps the file, so that they are the page cache's. PREAD reads into anonymous memory: there
 * are zeros but for what was populated and not released since. AUTO maps, but for files on a network or FUSE file
 * system. */
typedef enum {
    SRT_IO_AUTO = 0,
    SRT_IO_MMAP,
    SRT_IO_PREAD,
} srt_io;

/* How mapped pages are brought in. AUTO asks the kernel once; the others are for tests. */
typedef enum {
    SRT_POPULATE_AUTO = 0,
    SRT_POPULATE_READ,  /* madvise(MADV_POPULATE_READ): blocks, and reports errors instead of raising SIGBUS */
    SRT_POPULATE_TOUCH, /* for kernels before 5.14: read a byte of every page, under the guard */
} srt_populate_mode;

/* Applies to mappings opened from now on. To be called before any thread opens one. */
void srt_set_populate_mode(srt_populate_mode mode);

/* Opens path; *out belongs to the caller, who gives it back to srt_mapping_close.
 * SRT_SYSTEM (EINVAL: not a regular file), SRT_TRUNCATED (an empty file), SRT_NO_MEMORY. */
srt_status srt_mapping_open(const char *path, srt_io io, srt_mapping **out);

/* Unmaps and frees; NULL is allowed. No other thread may be using the mapping or its bytes. */
void srt_mapping_close(srt_mapping *mapping);

const char *srt_mapping_io(const srt_mapping *mapping);               /* "mmap" or "pread" */
const uint8_t *srt_mapping_data(const srt_mapping *mapping);          /* (size,), valid until close */
const srt_identity *srt_mapping_identity(const srt_mapping *mapping); /* when it was opened; valid until close */
uint64_t srt_mapping_size(const srt_mapping *mapping);                /* bytes when it was opened */
uint64_t srt_mapping_current_size(const srt_mapping *mapping);        /* bytes now; 0 when it cannot be told */

/* SRT_TRUNCATED or SRT_SYSTEM (EIO) once the guard had to step in, else SRT_OK. Costs an atomic read. */
srt_status srt_mapping_intact(const srt_mapping *mapping);

/* The same, then SRT_CHANGED when device, inode, size or modification time of the open file differ from
 * what they were at opening. A new file put in its place under the same name is none of our business:
 * the old one stays what it was for as long as it is open. */
srt_status srt_mapping_check(const srt_mapping *mapping);

/* The next two are for who reads a file once, without a prefetcher. Hints, and nothing for PREAD.
 *
 * Faults read ahead. */
void srt_mapping_read_ahead(srt_mapping *mapping);

/* All that was read leaves the page tables; the page cache may keep it. */
void srt_mapping_unload(srt_mapping *mapping);

/* Bytes of the range that are in the page cache, whatever the way of reading. SRT_MISUSE when the range leaves the
 * file, SRT_SYSTEM. */
srt_status srt_mapping_resident(const srt_mapping *mapping, uint64_t offset, uint64_t length, uint64_t *bytes);

/* The next four are for the prefetcher. Offsets are multiples of the page size; the end is one, or the file's end.
 *
 * Tells the kernel how pages will be asked for: in aligned blocks of SRT_BLOCK when blocks is true, else one by
 * one. A hint, and one for the whole mapping: the last call wins. Not during srt_mapping_populate. */
void srt_mapping_advise(srt_mapping *mapping, bool blocks);

/* Brings in and maps the range, at most SRT_BLOCK bytes within one aligned block. Blocks.
 * SRT_TRUNCATED; SRT_SYSTEM: EIO, ENOMEM and what else madvise(2) tells. */
srt_status srt_mapping_populate(srt_mapping *mapping, uint64_t offset, uint64_t length);

/* Gives the memory of the range back: MMAP drops it from the page tables, then from the page cache, where nobody else
 * uses it. A hint. Tries for a few milliseconds what the cache keeps, unless it kept what was released before, too. */
void srt_mapping_release(srt_mapping *mapping, uint64_t offset, uint64_t length);

/* Bytes of a block, 2 MiB: with pages of 4 KiB the largest folio (a page table's worth of pages) that the kernel caches
 * a file in. So a release has to cover whole blocks, and one fault reads a block where blocks were advised. */
#define SRT_BLOCK ((uint64_t)2 << 20)

/* Bytes of a page of this machine: 4, 16 or 64 KiB. A block is a multiple of each. */
uint64_t srt_page_size(void);

/* ---------------------------------------------------------------- prefetch.c: the prefetch thread
 *
 * A schedule is a list of items, ranges of the file, that a pass uses from the first to the last and every
 * following pass again. The thread brings them in ahead of use and releases them after it.
 *
 * Accounting is by granule: the file is cut into pieces of srt_page_size() or SRT_BLOCK bytes, the last one ends with
 * the file. A granule is held while an item that covers it is being read, ready or in use, and, if a pinned item covers
 * it, from its first reading until the schedule changes. Items may overlap. What is not held has been released; window
 * bounds the bytes of held granules that no pinned item covers, except that one item is always let in, however large.
 *
 * One thread at a time may call these functions, except srt_prefetcher_stop: any thread, any time. All of them return
 * SRT_STOPPED after srt_prefetcher_stop, and SRT_FORKED in the child of a fork, without looking any further. */
typedef struct srt_prefetcher srt_prefetcher;

typedef struct {
    uint64_t offset, length; /* bytes; not empty, within the file */
    bool pinned;
} srt_item;

typedef struct {
    uint64_t bytes_read;          /* what the device delivered for this item, as the kernel accounts it */
    int64_t read_start, read_end; /* ns of CLOCK_MONOTONIC; both 0 when the item was still there */
    int64_t stall;                /* ns that srt_prefetcher_wait had to wait for it */
} srt_record;

/* Makes one, without a thread yet. The mapping must outlive it. SRT_NO_MEMORY, SRT_SYSTEM. */
srt_status srt_prefetcher_new(srt_mapping *mapping, srt_prefetcher **out);

/* Sets the schedule and begins to read its head; the first call starts the thread. Items are copied. What is held and
 * pinned in the new schedule too stays, provided that the granule is the same; the rest is released before it returns.
 * SRT_MISUSE: in the middle of a pass; a range outside the file; granule neither srt_page_size() nor SRT_BLOCK; a
 * window of 0 though something streams. SRT_NO_MEMORY, SRT_SYSTEM. On failure the old schedule
 * stays. */
srt_status srt_prefetcher_schedule(srt_prefetcher *prefetcher, const srt_item *items, size_t count, uint64_t window,
                                   uint64_t granule);

/* Waits until item of the current pass is in memory, at most timeout ns (0: only look). It stays until done.
 * SRT_TIMEOUT; SRT_TRUNCATED or SRT_SYSTEM when it, or one before it, could not be read: *culprit is that item.
 * SRT_MISUSE: no such item, or done already. SRT_WINDOW_FULL: see there. */
srt_status srt_prefetcher_wait(srt_prefetcher *prefetcher, size_t item, int64_t timeout, size_t *culprit);

/* The pass no longer needs an item that it waited for; the thread releases it. SRT_MISUSE. Never blocks for long. */
srt_status srt_prefetcher_done(srt_prefetcher *prefetcher, size_t item);

/* The pass is over: whatever is left of it counts as done, and the next pass begins at item 0. SRT_MISUSE: no schedule.
 */
srt_status srt_prefetcher_finish(srt_prefetcher *prefetcher);

/* Gives the pass up: forgets errors, releases all that is not pinned, begins again at item 0. */
srt_status srt_prefetcher_rewind(srt_prefetcher *prefetcher);

/* Whether what streams may be read before its pass begins: while the one before it ends, or right after it was
 * scheduled. True unless told otherwise. False is for passes that may be the last, for whom that would be in vain. */
srt_status srt_prefetcher_read_across(srt_prefetcher *prefetcher, bool across);

/* Bytes of the granules held now, and the most since the last srt_prefetcher_schedule. */
srt_status srt_prefetcher_held(srt_prefetcher *prefetcher, uint64_t *held, uint64_t *peak);

/* Records of the last finished pass of this schedule, in its order: *count of them, 0 before the first one is finished.
 * With records NULL only the count. records: (*count,) as a call with NULL told. */
srt_status srt_prefetcher_report(srt_prefetcher *prefetcher, srt_record *records, size_t *count);

/* Wakes whoever waits, ends the thread, releases everything. Idempotent; returns when all of that has happened, which
 * may take as long as reading SRT_BLOCK bytes. In a forked child it does nothing. */
srt_status srt_prefetcher_stop(srt_prefetcher *prefetcher);

/* Stops and frees; NULL is allowed. No call may be in progress. In a forked child it leaks, by the fork rule. */
void srt_prefetcher_free(srt_prefetcher *prefetcher);

#endif

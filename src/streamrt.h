/* streamrt.h - the contract of the compiled core.
 *
 * The comment of each function names its results, their owner, and the threads that may call it.
 * The core does not know Python, does not print and does not exit. Functions that can fail return an srt_status.
 * If a system call was the cause, errno holds its error number on return.
 */
#ifndef STREAMRT_H
#define STREAMRT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    SRT_OK = 0,
    SRT_NO_MEMORY,   /* the core could not allocate memory for its tables */
    SRT_SYSTEM,      /* a system call failed: errno says why */
    SRT_TRUNCATED,   /* the file ends before a requested page */
    SRT_CHANGED,     /* the open file was modified */
    SRT_STOPPED,     /* the prefetcher is closing */
    SRT_TIMEOUT,     /* nothing happened within the time allowed: ask again */
    SRT_FORKED,      /* the object was made before a fork and is used in the child */
    SRT_MISUSE,      /* an argument is out of range, or the call is not allowed now */
    SRT_WINDOW_FULL, /* items that are not done fill the window, so that the awaited item can never be read */
} srt_status;

/* ---------------------------------------------------------------- fork.c: the fork rule
 *
 * How many forks lie between this process and the process that first called this function.
 * The first call installs the fork handlers. Any thread. */
uint64_t srt_fork_generation(void);

/* ---------------------------------------------------------------- sigbus.c: truncation does not kill the process
 *
 * Reading a mapped page that the file has lost raises SIGBUS. The guard handles it for guarded addresses: it maps a
 * page of zeros there, so that the read continues, and marks the mapping poisoned until it is closed. Every other
 * SIGBUS goes to the handler that was installed before; without one, the process dies as it would without the guard.
 * The guard installs its handler once, with the first mapping. A handler that is installed later has to call the
 * guard's. */
typedef struct srt_guard srt_guard;

/* Guards size bytes from base until srt_guard_remove. Remove the guard before you unmap the bytes.
 * SRT_NO_MEMORY, SRT_SYSTEM (no handler could be installed). Any thread. */
srt_status srt_guard_add(const void *base, size_t size, srt_guard **out);
void srt_guard_remove(srt_guard *guard);

/* Whether any read of the guarded bytes met a missing page. Any thread. */
bool srt_guard_poisoned(const srt_guard *guard);

/* Keeps other threads from changing the set of guarded ranges. For the fork handlers only. */
void srt_guard_lock(void);
void srt_guard_unlock(void);

/* ---------------------------------------------------------------- mapping.c: a file in memory
 *
 * A whole regular file at addresses of its own, read-only. Any thread may call any function between open and close.
 * A forked child may read a mapping too; with PREAD it reads zeros. */
typedef struct srt_mapping srt_mapping;

/* Tells an open file from another file, and from itself before it was modified. */
typedef struct {
    uint64_t device, inode;
    uint64_t size; /* bytes */
    int64_t mtime; /* ns since 1970 */
} srt_identity;

/* How the bytes get into memory. MMAP maps the file: the bytes are those of the page cache. PREAD reads into anonymous
 * memory, which is zero except where it was populated and not released since. AUTO is PREAD for files on a network or
 * FUSE file system, else MMAP. */
typedef enum {
    SRT_IO_AUTO = 0,
    SRT_IO_MMAP,
    SRT_IO_PREAD,
} srt_io;

/* How mapped pages are brought in. AUTO asks the kernel once; the others are for tests. */
typedef enum {
    SRT_POPULATE_AUTO = 0,
    SRT_POPULATE_READ,  /* madvise(MADV_POPULATE_READ): waits, and returns errors instead of raising SIGBUS */
    SRT_POPULATE_TOUCH, /* for kernels before 5.14: reads a byte of every page, under the guard */
} srt_populate_mode;

/* Applies to mappings that are opened later. Call it before any thread opens one. */
void srt_set_populate_mode(srt_populate_mode mode);

/* Opens path. The caller owns *out and gives it to srt_mapping_close.
 * SRT_SYSTEM (EINVAL: not a regular file), SRT_TRUNCATED (an empty file), SRT_NO_MEMORY. */
srt_status srt_mapping_open(const char *path, srt_io io, srt_mapping **out);

/* Unmaps and frees; NULL is allowed. No other thread may be using the mapping or its bytes. */
void srt_mapping_close(srt_mapping *mapping);

const char *srt_mapping_io(const srt_mapping *mapping);               /* "mmap" or "pread" */
const uint8_t *srt_mapping_data(const srt_mapping *mapping);          /* (size,), valid until close */
const srt_identity *srt_mapping_identity(const srt_mapping *mapping); /* at opening; valid until close */
uint64_t srt_mapping_size(const srt_mapping *mapping);                /* bytes at opening */
uint64_t srt_mapping_current_size(const srt_mapping *mapping);        /* bytes now; 0 when it cannot be told */

/* SRT_TRUNCATED or SRT_SYSTEM (EIO) once the guard had to replace a page, else SRT_OK. Costs an atomic read. */
srt_status srt_mapping_intact(const srt_mapping *mapping);

/* As srt_mapping_intact. Then SRT_CHANGED if device, inode, size or modification time of the open file differ from
 * their values at opening. Another file under the same name does not count: the open file stays as it was. */
srt_status srt_mapping_check(const srt_mapping *mapping);

/* srt_mapping_read_ahead and srt_mapping_unload are for callers that read a file once, without a prefetcher. They are
 * hints, and do nothing with PREAD.
 *
 * From now on page faults read ahead. */
void srt_mapping_read_ahead(srt_mapping *mapping);

/* Removes from the page tables all pages that were read; the page cache may keep them. */
void srt_mapping_unload(srt_mapping *mapping);

/* Sets *bytes to the bytes of the range that are in the page cache, with MMAP and with PREAD. SRT_MISUSE when the range
 * leaves the file, SRT_SYSTEM. */
srt_status srt_mapping_resident(const srt_mapping *mapping, uint64_t offset, uint64_t length, uint64_t *bytes);

/* Bytes of a block, 2 MiB. With pages of 4 KiB this is a page table's worth of pages, and the largest folio in which
 * the kernel caches a file. So a release covers whole blocks, and one fault reads a block if blocks were advised. */
#define SRT_BLOCK ((uint64_t)2 << 20)

/* Bytes of a page of this machine: 4, 16 or 64 KiB. A block is a multiple of each. */
uint64_t srt_page_size(void);

/* How pages of a mapping are requested. */
typedef enum {
    SRT_PAGES,        /* one by one */
    SRT_BLOCKS,       /* in aligned blocks */
    SRT_BLOCKS_AHEAD, /* in aligned blocks; all up to the file's end will be, so the kernel may read some beforehand */
} srt_access;

/* srt_mapping_advise, _populate and _release are for the prefetcher. A range begins at a multiple of the page size, and
 * ends at one or at the file's end.
 *
 * Tells the kernel how pages will be requested. A hint for the whole mapping; the last call wins. Must not run during
 * srt_mapping_populate. Returns whether the kernel may read blocks ahead. */
bool srt_mapping_advise(srt_mapping *mapping, srt_access access);

/* From now on SRT_BLOCKS after SRT_BLOCKS_AHEAD. Blocks that are being read still arrive. */
void srt_mapping_end_ahead(srt_mapping *mapping);

/* Brings in and maps the range: at most SRT_BLOCK bytes, within one aligned block. Returns when that is done.
 * SRT_TRUNCATED; SRT_SYSTEM: EIO, ENOMEM and the other errors of madvise(2) and pread(2). */
srt_status srt_mapping_populate(srt_mapping *mapping, uint64_t offset, uint64_t length);

/* Gives the memory of the range back. MMAP removes it from the page tables, then from the page cache unless another
 * process uses it. A hint. If the cache keeps pages, the call tries again for 3 ms, or for 0.1 ms if the cache kept the
 * last release too. False: the cache has kept pages, or the kernel does not tell. */
bool srt_mapping_release(srt_mapping *mapping, uint64_t offset, uint64_t length);

/* ---------------------------------------------------------------- prefetch.c: the prefetch thread
 *
 * A schedule is a list of items, which are ranges of the file. Every pass uses all items, from the first to the last.
 * The thread brings them in before they are used and releases them afterwards.
 *
 * Memory is counted in granules: pieces of the file of srt_page_size() or SRT_BLOCK bytes; the last piece ends with the
 * file. A granule is held while an item that covers it is being read, ready or in use. If a pinned item covers it, it
 * is held from its first reading until the schedule changes. Items may overlap. A granule that is not held has been
 * released; if the page cache has kept it, the thread tries again while it has nothing else to do. The window limits
 * the bytes of held granules that no pinned item covers. An item that is larger than the window is let in alone.
 *
 * If nothing streams, and pinned items cover all blocks from the first of them to the end of the file, the kernel may
 * read blocks ahead of the thread. Until they are held, they are in the page cache and not counted. Together with the
 * granules that are held they are never more than what the schedule holds in the end.
 *
 * One thread at a time may call these functions, except srt_prefetcher_stop, which any thread may call at any time.
 * All functions return SRT_STOPPED after srt_prefetcher_stop, and SRT_FORKED in the child of a fork, before they check
 * anything else. */
typedef struct srt_prefetcher srt_prefetcher;

typedef struct {
    uint64_t offset, length; /* bytes; not empty, within the file */
    bool pinned;
} srt_item;

typedef struct {
    uint64_t bytes_read;          /* bytes that the kernel requested of the device meanwhile, those ahead included */
    int64_t read_start, read_end; /* ns of CLOCK_MONOTONIC; both 0 if the item was still in memory */
    int64_t stall;                /* ns for which srt_prefetcher_wait waited for the item */
} srt_record;

/* Makes a prefetcher without a thread. The mapping must outlive it. SRT_NO_MEMORY, SRT_SYSTEM. */
srt_status srt_prefetcher_new(srt_mapping *mapping, srt_prefetcher **out);

/* Sets the schedule and begins to read its first items; the first call starts the thread. Items are copied. Granules
 * that are held, and pinned in the new schedule, stay if both schedules have the same granule; the others are released
 * before the call returns. Blocks that the kernel has begun to read ahead count as held.
 * SRT_MISUSE: in the middle of a pass; a range outside the file; a granule that is neither srt_page_size() nor
 * SRT_BLOCK; a window of 0 with items that stream. SRT_NO_MEMORY, SRT_SYSTEM. On failure the old schedule stays. */
srt_status srt_prefetcher_schedule(srt_prefetcher *prefetcher, const srt_item *items, size_t count, uint64_t window,
                                   uint64_t granule);

/* Waits until an item of the current pass is in memory, at most timeout ns; 0 only looks. The item stays until
 * srt_prefetcher_done. SRT_TIMEOUT. SRT_TRUNCATED or SRT_SYSTEM: this item or an earlier one could not be read, and
 * *culprit is its index. SRT_MISUSE: no such item, or it is done. SRT_WINDOW_FULL. */
srt_status srt_prefetcher_wait(srt_prefetcher *prefetcher, size_t item, int64_t timeout, size_t *culprit);

/* The pass no longer needs an item that it waited for; the thread releases it. SRT_MISUSE: not waited for, or done.
 * Takes a mutex and returns. */
srt_status srt_prefetcher_done(srt_prefetcher *prefetcher, size_t item);

/* Ends the pass: its remaining items count as done, and the next pass begins at item 0. SRT_MISUSE: no schedule. */
srt_status srt_prefetcher_finish(srt_prefetcher *prefetcher);

/* Gives the pass up: forgets errors, releases all granules that are not pinned, and begins again at item 0. */
srt_status srt_prefetcher_rewind(srt_prefetcher *prefetcher);

/* Whether streamed items may be read before their pass begins: at the end of the pass before, or right after the
 * schedule was set. True by default. Set false if no pass may follow, since such reading would be wasted. */
srt_status srt_prefetcher_read_across(srt_prefetcher *prefetcher, bool across);

/* Bytes of the granules that are held now, and the most since the last srt_prefetcher_schedule. Both are 0 without a
 * schedule. */
srt_status srt_prefetcher_held(srt_prefetcher *prefetcher, uint64_t *held, uint64_t *peak);

/* Sets *count to the number of items and copies the records of the last finished pass of this schedule, in its order.
 * *count is 0 before the first pass has finished. records: (*count,), or NULL to get only the count. */
srt_status srt_prefetcher_report(srt_prefetcher *prefetcher, srt_record *records, size_t *count);

/* Wakes all waiting callers, ends the thread and releases everything. May be called again. It returns when all is done,
 * which can take as long as reading the blocks that were requested: one, or all that the kernel reads ahead and one. In
 * a forked child it does nothing. */
srt_status srt_prefetcher_stop(srt_prefetcher *prefetcher);

/* Stops and frees; NULL is allowed. No other call may be in progress. In a forked child it frees nothing: see fork.c.
 */
void srt_prefetcher_free(srt_prefetcher *prefetcher);

/* ---------------------------------------------------------------- arena.c: blocks of memory in one arena */

typedef struct {
    uint64_t nbytes;
    int32_t first, last; /* the steps between which the block is alive, both included */
} srt_block;

/* Gives the blocks of an order, one after another, the lowest offset at which none overlaps an earlier one that is
 * alive at the same time. Sets *end to the end of the highest block. Takes time that grows with the square of
 * `ordered`. Any thread.
 *
 * blocks: (count,). order: (ordered,), the indices of the blocks that get an offset. offsets: (count,), bytes; 0 for
 * other blocks. SRT_MISUSE: an index is out of range or occurs twice, a block has last < first, or an offset has over
 * 63 bits. SRT_NO_MEMORY. */
srt_status srt_arena_place(const srt_block *blocks, uint32_t count, const uint32_t *order, uint32_t ordered,
                           uint64_t *offsets, uint64_t *end);

#endif

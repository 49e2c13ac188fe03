/* pread.c - the bytes are read into anonymous memory, at the addresses that a mapping would have.
 *
 * For network and FUSE file systems. With a mapping each fault there is a round trip, and a lost server is a SIGBUS.
 * Addresses are reserved for the whole file, so that operators need not know how their weights are read. Only granules
 * that are held take memory; other bytes read as zeros. No page of the file stays in the page cache: reads bypass it
 * (O_DIRECT) if the file system allows that. Otherwise each small step of reading is dropped from the cache at once.
 */
#include "io.h"

#include <errno.h>

static srt_status open_pread(srt_mapping *mapping) {
    mapping->base = os_reserve(mapping->size);
    if (!mapping->base) return SRT_SYSTEM;
    atomic_init(&mapping->direct, os_set_direct(mapping->fd, true));
    return SRT_OK;
}

/* Memory comes in huge pages only if whole blocks are held: a huge page for a single page would exceed the budget. */
static bool advise(srt_mapping *mapping, srt_access access) {
    os_advise_memory(mapping->base, mapping->size, access != SRT_PAGES);
    atomic_store_explicit(&mapping->blocks, access != SRT_PAGES, memory_order_relaxed);
    return false;
}

/* Some file systems accept O_DIRECT but refuse the reads, or refuse to continue after a short read. */
static bool give_up_direct(srt_mapping *mapping) {
    bool was = atomic_exchange_explicit(&mapping->direct, false, memory_order_relaxed);
    return was && os_set_direct(mapping->fd, false);
}

/* Bytes of one read through the page cache. It is small, because this memory of the cache is not counted. */
#define BUFFERED_STEP ((uint64_t)128 << 10)

static srt_status populate(srt_mapping *mapping, uint64_t offset, uint64_t length) {
    /* Up to the end of the last page, because O_DIRECT reads whole pages. The memory includes that page. The file may
     * end within it. */
    uint64_t page = mapping->page_size, whole = (length + page - 1) / page * page;
    for (uint64_t done = 0; done < length;) {
        bool direct = atomic_load_explicit(&mapping->direct, memory_order_relaxed);
        uint64_t step = direct || whole - done < BUFFERED_STEP ? whole - done : BUFFERED_STEP;
        int64_t count = os_read(mapping->fd, mapping->base + offset + done, (size_t)step, offset + done);
        int error = errno;
        if (!direct) os_forget(mapping->fd, offset, length);
        if (count == 0) return srt_mapping_missing(mapping);
        if (count > 0) {
            done += (uint64_t)count;
        } else if (error != EINVAL || !give_up_direct(mapping)) {
            errno = error;
            return SRT_SYSTEM;
        }
    }
    return SRT_OK;
}

static bool release(srt_mapping *mapping, uint64_t offset, uint64_t length) {
    os_drop(mapping->base + offset, length, atomic_load_explicit(&mapping->blocks, memory_order_relaxed));
    return true;
}

const srt_io_table srt_io_pread = {"pread", open_pread, advise, populate, release};

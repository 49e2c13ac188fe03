/* mmap.c - the file is mapped: its pages are those of the page cache, and nothing is copied. */
#include "io.h"

#include <errno.h>

static srt_populate_mode populate_mode;

void srt_set_populate_mode(srt_populate_mode mode) {
    populate_mode = mode;
}

/* Whether this kernel has MADV_POPULATE_READ. Tried on a page of the heap, because a page of the file would be read.
 * Old kernels refuse with EINVAL; sandboxes also with ENOSYS or EPERM. */
static bool can_populate(srt_mapping *mapping) {
    if (populate_mode != SRT_POPULATE_AUTO) return populate_mode == SRT_POPULATE_READ;
    uint8_t *page = (uint8_t *)mapping - (uintptr_t)mapping % mapping->page_size;
    return os_populate(page, mapping->page_size);
}

static srt_status open_mmap(srt_mapping *mapping) {
    mapping->base = os_map(mapping->fd, mapping->size);
    if (!mapping->base) return SRT_SYSTEM;
    srt_status status = srt_guard_add(mapping->base, mapping->size, &mapping->guard);
    if (status != SRT_OK) return status;
    os_advise_pages(mapping->base, mapping->size);
    mapping->populates = can_populate(mapping);
    return SRT_OK;
}

static bool advise(srt_mapping *mapping, srt_access access) {
    bool granted = access != SRT_PAGES && mapping->populates && os_advise_blocks(mapping->base, mapping->size);
    if (!granted) os_advise_pages(mapping->base, mapping->size);
    atomic_store_explicit(&mapping->blocks, granted, memory_order_relaxed);
    return granted && access == SRT_BLOCKS_AHEAD && os_advise_blocks_ahead(mapping->base, mapping->size);
}

/* For kernels without MADV_POPULATE_READ: reads a byte of every page, and the guard reports missing pages. */
static srt_status touch(srt_mapping *mapping, uint64_t offset, uint64_t length) {
    srt_identity now;
    if (!os_identify(mapping->fd, &now)) return SRT_SYSTEM;
    if (now.size < offset + length) return SRT_TRUNCATED;
    const volatile uint8_t *bytes = mapping->base;
    for (uint64_t at = offset; at < offset + length; at += mapping->page_size) (void)bytes[at];
    return srt_mapping_intact(mapping);
}

/* More major faults than this while populating a block show that the file system does not cache in large folios. It is
 * 1/8 of the faults of reading page by page; a block that is read in one go takes 1 fault. */
static uint64_t too_many_faults(const srt_mapping *mapping) {
    return SRT_BLOCK / mapping->page_size / 8;
}

static srt_status populate(srt_mapping *mapping, uint64_t offset, uint64_t length) {
    bool blocks = atomic_load_explicit(&mapping->blocks, memory_order_relaxed);
    if (!blocks) /* starts to read many pages at once, because faults would read them one by one */
        os_will_need(mapping->fd, offset, length);
    if (!mapping->populates) return touch(mapping, offset, length);
    os_usage before, after;
    os_thread_usage(&before);
    if (!os_populate(mapping->base + offset, length))
        return errno == EFAULT ? srt_mapping_missing(mapping) : SRT_SYSTEM;
    os_thread_usage(&after);
    if (blocks && after.major_faults - before.major_faults > too_many_faults(mapping)) advise(mapping, SRT_PAGES);
    return SRT_OK;
}

static bool release(srt_mapping *mapping, uint64_t offset, uint64_t length) {
    bool blocks = atomic_load_explicit(&mapping->blocks, memory_order_relaxed);
    bool patient = !atomic_load_explicit(&mapping->kept, memory_order_relaxed);
    bool gone = os_release(mapping->fd, mapping->base, offset, length, blocks, patient);
    atomic_store_explicit(&mapping->kept, !gone, memory_order_relaxed);
    return gone;
}

const srt_io_table srt_io_mmap = {"mmap", open_mmap, advise, populate, release};

/* mapping.c - a weights file in memory: map, populate, release, and tell whether it is still the same file. */
#include "os.h"
#include "streamrt.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

struct srt_mapping {
    int fd;
    uint8_t *base; /* (size,) */
    size_t size;
    size_t page_size;
    srt_identity identity; /* at opening */
    srt_guard *guard;
    bool populates;      /* MADV_POPULATE_READ is there and to be used */
    _Atomic bool blocks; /* a fault on an absent page reads its whole block */
};

/* Major faults in populating one block that show that it was not read in one go: one fault then, 512 if page by page.
 */
#define TOO_MANY_FAULTS 64

static srt_populate_mode populate_mode;

void srt_set_populate_mode(srt_populate_mode mode) {
    populate_mode = mode;
}

/* Whether this kernel can populate, asked with the first page of a good mapping. */
static bool can_populate(srt_mapping *mapping) {
    if (populate_mode != SRT_POPULATE_AUTO) return populate_mode == SRT_POPULATE_READ;
    return os_populate(mapping->base, mapping->page_size) || errno != EINVAL;
}

srt_status srt_mapping_open(const char *path, srt_mapping **out) {
    *out = NULL;
    srt_fork_generation(); /* installs the fork handlers before the guard's lock is first used */
    srt_mapping *mapping = calloc(1, sizeof *mapping);
    if (!mapping) return SRT_NO_MEMORY;
    srt_status status = SRT_SYSTEM;
    mapping->page_size = os_page_size();
    mapping->fd = os_open(path);
    if (mapping->fd < 0 || !os_identify(mapping->fd, &mapping->identity)) goto fail;
    if (mapping->identity.size == 0) {
        status = SRT_TRUNCATED;
        goto fail;
    }
    if (mapping->identity.size > PTRDIFF_MAX) {
        errno = EFBIG;
        goto fail;
    }
    mapping->size = (size_t)mapping->identity.size;
    mapping->base = os_map(mapping->fd, mapping->size);
    if (!mapping->base) goto fail;
    status = srt_guard_add(mapping->base, mapping->size, &mapping->guard);
    if (status != SRT_OK) goto fail;
    os_advise_pages(mapping->base, mapping->size);
    mapping->populates = can_populate(mapping);
    *out = mapping;
    return SRT_OK;
fail:;
    int error = errno;
    srt_mapping_close(mapping);
    errno = error;
    return status;
}

void srt_mapping_close(srt_mapping *mapping) {
    if (!mapping) return;
    if (mapping->guard) /* before unmapping: the addresses may belong to someone else right after */
        srt_guard_remove(mapping->guard);
    if (mapping->base) os_unmap(mapping->base, mapping->size);
    if (mapping->fd >= 0) os_close(mapping->fd);
    free(mapping);
}

const uint8_t *srt_mapping_data(const srt_mapping *mapping) {
    return mapping->base;
}

const srt_identity *srt_mapping_identity(const srt_mapping *mapping) {
    return &mapping->identity;
}

uint64_t srt_mapping_size(const srt_mapping *mapping) {
    return mapping->size;
}

uint64_t srt_mapping_current_size(const srt_mapping *mapping) {
    srt_identity now;
    return os_identify(mapping->fd, &now) ? now.size : 0;
}

/* Why a page that the file had at opening cannot be read: the file lost it, or the device failed. */
static srt_status missing_page(const srt_mapping *mapping) {
    srt_identity now;
    if (!os_identify(mapping->fd, &now)) return SRT_SYSTEM;
    errno = EIO;
    return now.size < mapping->size ? SRT_TRUNCATED : SRT_SYSTEM;
}

srt_status srt_mapping_intact(const srt_mapping *mapping) {
    return srt_guard_poisoned(mapping->guard) ? missing_page(mapping) : SRT_OK;
}

srt_status srt_mapping_check(const srt_mapping *mapping) {
    srt_status status = srt_mapping_intact(mapping);
    if (status != SRT_OK) return status;
    const srt_identity *then = &mapping->identity;
    srt_identity now;
    if (!os_identify(mapping->fd, &now)) return SRT_SYSTEM;
    if (now.size < then->size) return SRT_TRUNCATED;
    if (now.device != then->device || now.inode != then->inode || now.size != then->size || now.mtime != then->mtime)
        return SRT_CHANGED;
    return SRT_OK;
}

srt_status srt_mapping_resident(const srt_mapping *mapping, uint64_t offset, uint64_t length, uint64_t *bytes) {
    *bytes = 0;
    if (offset > mapping->size || length > mapping->size - offset) return SRT_MISUSE;
    if (length == 0) return SRT_OK;
    uint64_t page = mapping->page_size, end = offset + length;
    uint64_t first = offset / page * page,
             last = (end - 1) / page * page; /* the pages at both ends may count in part */
    uint64_t head, tail;
    if (!os_resident(mapping->base + first, end - first, bytes) || !os_resident(mapping->base + first, page, &head) ||
        !os_resident(mapping->base + last, page, &tail))
        return SRT_SYSTEM;
    *bytes -= (head ? offset - first : 0) + (tail ? last + page - end : 0);
    return SRT_OK;
}

void srt_mapping_advise(srt_mapping *mapping, bool blocks) {
    bool granted = blocks && mapping->populates && os_advise_blocks(mapping->base, mapping->size);
    if (!granted) os_advise_pages(mapping->base, mapping->size);
    atomic_store_explicit(&mapping->blocks, granted, memory_order_relaxed);
}

/* The way of kernels that cannot populate: read a byte of every page; the guard reports what is missing. */
static srt_status touch(srt_mapping *mapping, uint64_t offset, uint64_t length) {
    srt_identity now;
    if (!os_identify(mapping->fd, &now)) return SRT_SYSTEM;
    if (now.size < offset + length) return SRT_TRUNCATED;
    const volatile uint8_t *bytes = mapping->base;
    for (uint64_t at = offset; at < offset + length; at += mapping->page_size) (void)bytes[at];
    return srt_mapping_intact(mapping);
}

srt_status srt_mapping_populate(srt_mapping *mapping, uint64_t offset, uint64_t length) {
    bool blocks = atomic_load_explicit(&mapping->blocks, memory_order_relaxed);
    if (!blocks) /* starts reads of many pages at once, where faults would read them one by one */
        os_will_need(mapping->fd, offset, length);
    if (!mapping->populates) return touch(mapping, offset, length);
    os_usage before, after;
    os_thread_usage(&before);
    if (!os_populate(mapping->base + offset, length)) return errno == EFAULT ? missing_page(mapping) : SRT_SYSTEM;
    os_thread_usage(&after);
    /* The file system does not cache in large folios, after all. */
    if (blocks && after.major_faults - before.major_faults > TOO_MANY_FAULTS) srt_mapping_advise(mapping, false);
    return SRT_OK;
}

void srt_mapping_release(const srt_mapping *mapping, uint64_t offset, uint64_t length) {
    bool blocks = atomic_load_explicit(&mapping->blocks, memory_order_relaxed);
    os_release(mapping->fd, mapping->base, offset, length, blocks);
}

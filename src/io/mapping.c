/* mapping.c - a weights file in memory: opens it, and tells whether it is still the same. See io.h for the rest. */
#include "io.h"

#include <errno.h>
#include <stdlib.h>

uint64_t srt_page_size(void) {
    return os_page_size();
}

static const srt_io_table *choose(int fd, srt_io io) {
    if (io == SRT_IO_AUTO) io = os_is_remote(fd) ? SRT_IO_PREAD : SRT_IO_MMAP;
    return io == SRT_IO_PREAD ? &srt_io_pread : &srt_io_mmap;
}

srt_status srt_mapping_open(const char *path, srt_io io, srt_mapping **out) {
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
    mapping->io = choose(mapping->fd, io);
    status = mapping->io->open(mapping);
    if (status != SRT_OK) goto fail;
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
    if (mapping->guard) /* before unmapping, after which the addresses may belong to another mapping */
        srt_guard_remove(mapping->guard);
    if (mapping->base) os_unmap(mapping->base, mapping->size);
    if (mapping->fd >= 0) os_close(mapping->fd);
    free(mapping);
}

const char *srt_mapping_io(const srt_mapping *mapping) {
    return mapping->io->name;
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

srt_status srt_mapping_missing(const srt_mapping *mapping) {
    srt_identity now;
    if (!os_identify(mapping->fd, &now)) return SRT_SYSTEM;
    errno = EIO;
    return now.size < mapping->size ? SRT_TRUNCATED : SRT_SYSTEM;
}

srt_status srt_mapping_intact(const srt_mapping *mapping) {
    return mapping->guard && srt_guard_poisoned(mapping->guard) ? srt_mapping_missing(mapping) : SRT_OK;
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

void srt_mapping_read_ahead(srt_mapping *mapping) {
    if (mapping->io == &srt_io_mmap) os_advise_ahead(mapping->fd, mapping->base, mapping->size);
}

void srt_mapping_unload(srt_mapping *mapping) {
    if (mapping->io == &srt_io_mmap) os_unload(mapping->base, mapping->size);
}

/* Sets *bytes for a range of a mapped file: cached pages, less the parts of the first and the last page outside. */
static bool resident(uint8_t *base, uint64_t page, uint64_t offset, uint64_t end, uint64_t *bytes) {
    uint64_t first = offset / page * page, last = (end - 1) / page * page;
    uint64_t head, tail;
    if (!os_resident(base + first, end - first, bytes) || !os_resident(base + first, page, &head) ||
        !os_resident(base + last, page, &tail))
        return false;
    *bytes -= (head ? offset - first : 0) + (tail ? last + page - end : 0);
    return true;
}

srt_status srt_mapping_resident(const srt_mapping *mapping, uint64_t offset, uint64_t length, uint64_t *bytes) {
    *bytes = 0;
    if (offset > mapping->size || length > mapping->size - offset) return SRT_MISUSE;
    if (length == 0) return SRT_OK;
    bool mapped = mapping->io == &srt_io_mmap; /* else the file is mapped for this call only */
    uint8_t *base = mapped ? mapping->base : os_map(mapping->fd, mapping->size);
    if (!base) return errno == ENODEV ? SRT_OK : SRT_SYSTEM; /* a file that cannot be mapped is in no page cache */
    bool known = resident(base, mapping->page_size, offset, offset + length, bytes);
    if (!mapped) os_unmap(base, mapping->size);
    return known ? SRT_OK : SRT_SYSTEM;
}

bool srt_mapping_advise(srt_mapping *mapping, srt_access access) {
    return mapping->io->advise(mapping, access);
}

void srt_mapping_end_ahead(srt_mapping *mapping) {
    if (atomic_load_explicit(&mapping->blocks, memory_order_relaxed)) srt_mapping_advise(mapping, SRT_BLOCKS);
}

srt_status srt_mapping_populate(srt_mapping *mapping, uint64_t offset, uint64_t length) {
    return mapping->io->populate(mapping, offset, length);
}

bool srt_mapping_release(srt_mapping *mapping, uint64_t offset, uint64_t length) {
    return mapping->io->release(mapping, offset, length);
}

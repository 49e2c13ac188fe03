/* io.h - how the bytes of a file get to its addresses: one io_*.c a way, behind one table.
 *
 * mapping.c opens the file, knows what it was, and hands everything that depends on the way to its table. The rules of
 * streamrt.h for srt_mapping_advise, populate and release hold for the functions here.
 */
#ifndef STREAMRT_IO_H
#define STREAMRT_IO_H

#include "os.h"
#include "streamrt.h"

#include <stdatomic.h>

struct srt_mapping {
    const struct srt_io_table *io;
    int fd;
    uint8_t *base; /* (size,) */
    size_t size;
    size_t page_size;
    srt_identity identity; /* at opening */
    srt_guard *guard;      /* mmap only */
    bool populates;        /* mmap: MADV_POPULATE_READ is there and to be used */
    _Atomic bool blocks;   /* mmap: a fault on an absent page reads its whole block; pread: huge pages may be used */
    _Atomic bool kept;     /* mmap: the cache kept what was last released, as far as the kernel tells */
    _Atomic bool direct;   /* pread: reads go past the page cache */
};

typedef struct srt_io_table {
    const char *name;
    srt_status (*open)(srt_mapping *mapping); /* sets base; fd, size, page_size and identity are there */
    void (*advise)(srt_mapping *mapping, bool blocks);
    srt_status (*populate)(srt_mapping *mapping, uint64_t offset, uint64_t length);
    void (*release)(srt_mapping *mapping, uint64_t offset, uint64_t length);
} srt_io_table;

extern const srt_io_table srt_io_mmap, srt_io_pread;

/* Why bytes that the file had at opening cannot be read: SRT_TRUNCATED when it lost them, else SRT_SYSTEM with EIO. */
srt_status srt_mapping_missing(const srt_mapping *mapping);

#endif

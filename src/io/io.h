/* io.h - the two ways in which the bytes of a file get to its addresses: mmap.c and pread.c, each a table of functions.
 *
 * mapping.c opens the file, keeps its identity, and calls the table for everything else. The functions follow the rules
 * of srt_mapping_advise, srt_mapping_populate and srt_mapping_release in streamrt.h.
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
    bool populates;        /* mmap: pages are brought in with MADV_POPULATE_READ */
    _Atomic bool blocks;   /* mmap: a fault on a missing page reads its whole block; pread: huge pages may be used */
    _Atomic bool kept;     /* mmap: the page cache kept the range that was last released, or the kernel says so */
    _Atomic bool direct;   /* pread: reads bypass the page cache */
};

typedef struct srt_io_table {
    const char *name;
    srt_status (*open)(srt_mapping *mapping); /* sets base; fd, size, page_size and identity are set */
    bool (*advise)(srt_mapping *mapping, srt_access access);
    srt_status (*populate)(srt_mapping *mapping, uint64_t offset, uint64_t length);
    bool (*release)(srt_mapping *mapping, uint64_t offset, uint64_t length);
} srt_io_table;

extern const srt_io_table srt_io_mmap, srt_io_pread;

/* The status for bytes that cannot be read: SRT_TRUNCATED if the file has become shorter, else SRT_SYSTEM with EIO. */
srt_status srt_mapping_missing(const srt_mapping *mapping);

#endif

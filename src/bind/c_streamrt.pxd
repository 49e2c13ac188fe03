# The functions of streamrt.h, which is their manual, and the clock of os.h.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "os.h" nogil:
    int64_t os_now()

cdef extern from "streamrt.h" nogil:
    ctypedef enum srt_status:
        SRT_OK
        SRT_NO_MEMORY
        SRT_SYSTEM
        SRT_TRUNCATED
        SRT_CHANGED
        SRT_STOPPED
        SRT_TIMEOUT
        SRT_FORKED
        SRT_MISUSE
        SRT_WINDOW_FULL

    ctypedef struct srt_mapping

    ctypedef struct srt_identity:
        uint64_t device
        uint64_t inode
        uint64_t size
        int64_t mtime

    ctypedef enum srt_populate_mode:
        SRT_POPULATE_AUTO
        SRT_POPULATE_READ
        SRT_POPULATE_TOUCH

    ctypedef enum srt_io:
        SRT_IO_AUTO
        SRT_IO_MMAP
        SRT_IO_PREAD

    const uint64_t SRT_BLOCK
    uint64_t srt_page_size()
    void srt_set_populate_mode(srt_populate_mode mode)
    srt_status srt_mapping_open(const char *path, srt_io io, srt_mapping **out)
    const char *srt_mapping_io(const srt_mapping *mapping)
    void srt_mapping_close(srt_mapping *mapping)
    const uint8_t *srt_mapping_data(const srt_mapping *mapping)
    const srt_identity *srt_mapping_identity(const srt_mapping *mapping)
    uint64_t srt_mapping_size(const srt_mapping *mapping)
    uint64_t srt_mapping_current_size(const srt_mapping *mapping)
    srt_status srt_mapping_check(const srt_mapping *mapping)
    void srt_mapping_read_ahead(srt_mapping *mapping)
    void srt_mapping_unload(srt_mapping *mapping)
    srt_status srt_mapping_resident(const srt_mapping *mapping, uint64_t offset, uint64_t length, uint64_t *bytes)

    ctypedef struct srt_prefetcher

    ctypedef struct srt_item:
        uint64_t offset
        uint64_t length
        bint pinned

    ctypedef struct srt_record:
        uint64_t bytes_read
        int64_t read_start
        int64_t read_end
        int64_t stall

    srt_status srt_prefetcher_new(srt_mapping *mapping, srt_prefetcher **out)
    srt_status srt_prefetcher_schedule(
        srt_prefetcher *prefetcher, const srt_item *items, size_t count, uint64_t window, uint64_t granule
    )
    srt_status srt_prefetcher_wait(srt_prefetcher *prefetcher, size_t item, int64_t timeout, size_t *culprit)
    srt_status srt_prefetcher_done(srt_prefetcher *prefetcher, size_t item)
    srt_status srt_prefetcher_finish(srt_prefetcher *prefetcher)
    srt_status srt_prefetcher_rewind(srt_prefetcher *prefetcher)
    srt_status srt_prefetcher_read_across(srt_prefetcher *prefetcher, bint across)
    srt_status srt_prefetcher_held(srt_prefetcher *prefetcher, uint64_t *held, uint64_t *peak)
    srt_status srt_prefetcher_report(srt_prefetcher *prefetcher, srt_record *records, size_t *count)
    srt_status srt_prefetcher_stop(srt_prefetcher *prefetcher)
    void srt_prefetcher_free(srt_prefetcher *prefetcher)

    ctypedef struct srt_block:
        uint64_t nbytes
        int32_t first
        int32_t last

    srt_status srt_arena_place(
        const srt_block *blocks, uint32_t count, const uint32_t *order, uint32_t ordered, uint64_t *offsets,
        uint64_t *end
    )

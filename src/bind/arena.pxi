"""Offsets of blocks of memory in an arena."""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport UINT32_MAX, uint32_t, uint64_t


def place_blocks(list blocks not None, list order not None):
    """Give each block the lowest offset at which it overlaps no earlier one that is alive at the same time.

    Args:
        blocks: (bytes, first step, last step) of each; it is alive at both steps.
        order: the indices of the blocks that get an offset, in the order in which they get it.

    Returns:
        The offset of every block in bytes, 0 if it is not in ``order``; and the end of the highest block.

    Raises:
        ValueError: an index is out of range or occurs twice, a block ends before it begins, or an offset has over 63
            bits.
        OverflowError: a number is negative, or has more than 64 bits, a step more than 32.
        MemoryError: there is no memory for the tables.
    """
    cdef size_t count = len(blocks), ordered = len(order), i
    if count > UINT32_MAX or ordered > count:
        raise ValueError(f"an order of {ordered} of {count} blocks")
    cdef uint64_t end = 0
    cdef srt_status status
    cdef uint32_t *indices = <uint32_t *>PyMem_Calloc(ordered, sizeof(uint32_t))
    cdef uint64_t *offsets = <uint64_t *>PyMem_Calloc(count, sizeof(uint64_t))
    cdef srt_block *table = <srt_block *>PyMem_Calloc(count, sizeof(srt_block))
    try:
        if indices == NULL or offsets == NULL or table == NULL:
            raise MemoryError
        for i in range(count):
            table[i].nbytes, table[i].first, table[i].last = blocks[i]
        for i in range(ordered):
            indices[i] = order[i]
        with nogil:
            status = srt_arena_place(table, count, indices, ordered, offsets, &end)
        if status != SRT_OK:
            raise status_error(status, 0, "an arena", "blocks, or an order of them, that cannot be placed")
        return [offsets[i] for i in range(count)], end
    finally:
        PyMem_Free(indices)
        PyMem_Free(offsets)
        PyMem_Free(table)

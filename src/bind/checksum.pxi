"""CRC-32C."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t


def crc32c(data, uint32_t value=0):
    """The CRC-32C of a contiguous buffer. ``value`` is the checksum of the bytes before it, 0 at the start.

    Raises:
        BufferError: the buffer is not contiguous.
    """
    cdef Py_buffer view
    cdef uint32_t result
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            result = srt_crc32c(view.buf, view.len, value)
    finally:
        PyBuffer_Release(&view)
    return result

"""Mapping: a weights file in memory, as a read-only buffer."""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef extern from "Python.h":
    # PyErr_ResourceWarning would keep a reference to an object that is about to be freed. The stable ABI has no __del__
    # for types of Cython, which could save the object.
    int PyErr_WarnFormat(object category, Py_ssize_t stack_level, const char *format, ...) except -1


def _force_populate_mode():
    """Applies STREAMRT_TEST_POPULATE, with which tests choose how pages are brought in."""
    mode = _os.environ.get("STREAMRT_TEST_POPULATE")
    if mode == "touch":
        srt_set_populate_mode(SRT_POPULATE_TOUCH)
    elif mode == "read":
        srt_set_populate_mode(SRT_POPULATE_READ)
    elif mode is not None:
        raise ImportError(f"STREAMRT_TEST_POPULATE is {mode!r}, expected 'read' or 'touch'")


_force_populate_mode()


@cython.final
@cython.no_gc_clear  # __dealloc__ tells the size
cdef class Mapping:
    """A whole regular file in memory, read-only. Supports the buffer protocol.

    Reading a page that the file has lost gives zeros instead of a crash; ``check`` then raises.

    Args:
        path: the file.
        io: ``"mmap"`` maps the file. ``"pread"`` reads the items of a prefetcher into memory of the process; all other
            bytes are zeros. ``"auto"`` is ``"pread"`` for files on a network or FUSE file system, else ``"mmap"``.

    Raises:
        WeightsIOError: the file cannot be opened or mapped, is empty, or is not a regular file.
        ValueError: the path contains a null character, or ``io`` has another value.
    """

    cdef srt_mapping *mapping
    cdef Py_ssize_t exports  # buffers and prefetchers that use the bytes
    cdef bint retired  # to be closed when exports is 0
    cdef readonly str path
    cdef readonly str io  # "mmap" or "pread"
    cdef readonly object size  # int: bytes at opening
    cdef readonly tuple identity  # device, inode, size and modification time (ns) at opening

    def __cinit__(self, path, io="mmap"):
        self.mapping = NULL
        self.exports = 0
        self.retired = False
        self.path = _os.fsdecode(path)
        cdef bytes encoded = _os.fsencode(path)
        if b"\0" in encoded:
            raise ValueError(f"a path cannot contain a null character: {self.path!r}")
        cdef srt_io way
        if io == "mmap":
            way = SRT_IO_MMAP
        elif io == "pread":
            way = SRT_IO_PREAD
        elif io == "auto":
            way = SRT_IO_AUTO
        else:
            raise ValueError(f"io is {io!r:.40}, expected 'auto', 'mmap' or 'pread'")
        cdef const char *name = encoded
        cdef srt_status status
        cdef int error
        with nogil:
            status = srt_mapping_open(name, way, &self.mapping)
            error = errno
        if status == SRT_TRUNCATED:
            raise WeightsIOError(_errno.EIO, "cannot map a weights file: the file is empty", self.path)
        if status == SRT_SYSTEM and error == _errno.EINVAL:
            raise WeightsIOError(error, "cannot map a weights file: not a regular file", self.path)
        if status != SRT_OK:
            raise status_error(status, error, self.path, "cannot map a weights file")
        self.io = srt_mapping_io(self.mapping).decode()
        self.size = srt_mapping_size(self.mapping)
        cdef const srt_identity *identity = srt_mapping_identity(self.mapping)
        self.identity = (identity.device, identity.inode, identity.size, identity.mtime)

    def __dealloc__(self):
        try:
            if self.mapping != NULL:
                PyErr_WarnFormat(ResourceWarning, 1, "unclosed %R", <void *>self)
        finally:  # the warning may be an error
            with nogil:
                srt_mapping_close(self.mapping)

    def __repr__(self):
        state = "closed" if self.mapping == NULL else f"{self.size} bytes"
        return f"<Mapping of {self.path!r}, {state}>"

    def __len__(self):
        return self.size

    def __enter__(self):
        self.require_open()
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self.require_open()
        PyBuffer_FillInfo(
            buffer, self, <void *>srt_mapping_data(self.mapping), srt_mapping_size(self.mapping), True, flags
        )
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.end_use()

    cdef int end_use(self) except -1:
        """Ends the use by a buffer or a prefetcher."""
        self.exports -= 1
        if self.retired and self.exports == 0:
            self.close()
        return 0

    cdef int require_open(self) except -1:
        if self.mapping == NULL:
            raise ModelClosedError(f"{self.path} was closed")
        return 0

    cdef object failure(self, srt_status status, int error, str subject):
        """The exception for a status of a call on this mapping, which must be open."""
        if status == SRT_TRUNCATED:
            found = srt_mapping_current_size(self.mapping)
            subject = f"{subject}: expected {self.size} bytes, the file now has {found}"
        return status_error(status, error, self.path, subject)

    @property
    def closed(self):
        """Whether ``close`` was called."""
        return self.mapping == NULL

    def check(self):
        """Raises if the file seems to have been modified since it was opened.

        It passes if no page was missing, and device, inode, size and modification time of the open file are unchanged.
        A new file under the same name does not count: the open file stays as it was.

        Raises:
            WeightsIOError: the file was truncated or modified, or a page could not be read.
            ModelClosedError: the mapping is closed.
        """
        self.require_open()
        cdef srt_status status = srt_mapping_check(self.mapping)
        cdef int error = errno
        if status != SRT_OK:
            raise self.failure(status, error, "the weights file changed after it was opened")

    def read_ahead(self):
        """Tells the kernel that the file is read from beginning to end, without a prefetcher.

        Raises:
            ModelClosedError: the mapping is closed.
        """
        self.require_open()
        with nogil:
            srt_mapping_read_ahead(self.mapping)

    def unload(self):
        """Removes the pages that were read from this process. Reading brings them in again.

        Raises:
            ModelClosedError: the mapping is closed.
        """
        self.require_open()
        with nogil:
            srt_mapping_unload(self.mapping)

    def resident(self, offset=0, length=None):
        """The number of bytes in the page cache, of ``length`` bytes from ``offset`` on; None: to the end.

        Linux reports all bytes for a user who neither owns the file nor may write it. So this is for tests and reports,
        not for decisions.

        Raises:
            ValueError: the range is not within the file.
            WeightsIOError: the system call failed.
            ModelClosedError: the mapping is closed.
        """
        self.require_open()
        if length is None:
            length = max(0, self.size - offset)
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"bytes {offset} to {offset + length} are not within a file of {self.size} bytes")
        cdef uint64_t bytes_resident
        cdef srt_status status = srt_mapping_resident(self.mapping, offset, length, &bytes_resident)
        cdef int error = errno
        if status != SRT_OK:
            raise self.failure(status, error, "cannot read the state of the page cache")
        return bytes_resident

    def retire(self):
        """Closes now, or when the last use ends: a traceback, for example, can keep an array alive."""
        self.retired = True
        if self.exports == 0:
            self.close()

    def close(self):
        """Unmaps the file. May be called again.

        Raises:
            BufferError: buffers (arrays, memoryviews) or a prefetcher still use it.
        """
        if self.exports:
            raise BufferError(f"{self.path} is still in use by {self.exports} buffers or prefetchers")
        cdef srt_mapping *mapping = self.mapping
        self.mapping = NULL
        with nogil:  # unmapping waits for other threads that read a file into this process
            srt_mapping_close(mapping)

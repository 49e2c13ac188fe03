"""Prefetcher: a native thread that brings parts of a mapping into memory before they are used."""

from typing import NamedTuple

from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc


# Nanoseconds for which wait may delay handling a signal such as Ctrl-C: 50 ms, which a user does not notice.
cdef int64_t SIGNAL_CHECK_NS = 50_000_000


class ItemReport(NamedTuple):
    """The record of one item in a pass. Times are nanoseconds of CLOCK_MONOTONIC (``time.monotonic_ns``)."""

    offset: int
    length: int
    pinned: bool
    bytes_read: int  # bytes requested of the device while this item was read; the kernel may read ahead
    read_start: int  # 0, as read_end, if the item was still in memory
    read_end: int
    stall: int  # nanoseconds that ``wait`` waited for the item


@cython.final
cdef class Report:
    """The records of the items of a pass, in their order. Each `ItemReport` is made when it is read."""

    cdef srt_record *records
    cdef size_t count
    cdef list schedule  # the items; never changed

    def __dealloc__(self):
        PyMem_Free(self.records)

    def __len__(self):
        return self.count

    def __getitem__(self, Py_ssize_t i):
        if not 0 <= i < <Py_ssize_t>self.count:  # a negative index counts from the end
            i += self.count
        if not 0 <= i < <Py_ssize_t>self.count:
            raise IndexError(f"no such item, expected an index below {self.count}")
        offset, length, pinned = self.schedule[i]
        cdef srt_record *record = &self.records[i]
        return ItemReport(
            offset, length, pinned, record.bytes_read, record.read_start, record.read_end, record.stall
        )

    def __iter__(self):
        return map(self.__getitem__, range(self.count))

    @property
    def brought(self):
        """Whether any item was brought into memory."""
        cdef size_t i
        for i in range(self.count):
            if self.records[i].read_end > self.records[i].read_start:
                return True
        return False

    @property
    def stall(self):
        """Nanoseconds that ``wait`` waited for all items."""
        cdef int64_t total = 0
        cdef size_t i
        for i in range(self.count):
            total += self.records[i].stall
        return total


@cython.final
@cython.no_gc_clear  # the mapping must exist until __dealloc__ has stopped the thread
cdef class Prefetcher:
    """Brings the items of a pass into memory before they are used, as far ahead as the window allows.

    Each pass calls ``wait(i)`` before it reads item i, ``done(i)`` afterwards, and ``finish()`` at its end. One thread
    at a time may use a prefetcher, but any thread may call ``close`` at any time. In a forked child every method except
    ``close`` raises ModelClosedError.
    """

    cdef srt_prefetcher *prefetcher
    cdef Mapping mapping
    cdef bint closed
    cdef list items  # of the schedule: tuples (offset, length, pinned)

    def __cinit__(self, Mapping mapping not None):
        self.prefetcher = NULL
        self.closed = True
        self.items = []
        mapping.require_open()
        cdef srt_status status = srt_prefetcher_new(mapping.mapping, &self.prefetcher)
        cdef int error = errno
        if status != SRT_OK:
            raise status_error(status, error, mapping.path, "cannot make a prefetcher")
        self.mapping = mapping
        mapping.exports += 1
        self.closed = False

    def __dealloc__(self):
        try:
            if not self.closed:
                PyErr_WarnFormat(ResourceWarning, 1, "unclosed %R", <void *>self)
        finally:  # the warning may be an error
            with nogil:
                srt_prefetcher_free(self.prefetcher)
            if not self.closed:
                self.mapping.end_use()

    def __repr__(self):
        return f"<Prefetcher of {self.mapping.path!r}, {len(self.items)} items{', closed' if self.closed else ''}>"

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    cdef int require(self, srt_status status, int error, str subject) except -1:
        """Raises the exception for a status. After ``close`` the mapping may be closed too: only its path is used."""
        if status == SRT_OK:
            return 0
        if status == SRT_TRUNCATED and not self.closed:
            raise self.mapping.failure(status, error, subject)
        raise status_error(status, error, self.mapping.path, subject)

    def schedule(self, items, window, granule):
        """Sets the items of every later pass, and begins to read them.

        Granules that are held, and pinned in the new schedule, stay; the others are released before this returns.

        Args:
            items: sequence of (offset, length, pinned): ranges in bytes, in the order of use. They may overlap.
            window: bytes of the granules of streamed items that may be in memory at once. A larger item is let in
                alone.
            granule: the unit in which the file is read, released and counted, in bytes: the page size of this
                machine (``mmap.PAGESIZE``), or 2 MiB.

        Raises:
            ValueError: a range is empty or not within the file, the granule is neither of the two, the window is not
                positive though items stream, or a pass has begun and is not finished.
            MemoryError: no memory for the tables.
            WeightsIOError: the thread could not be started.
            ModelClosedError: closed, or opened before a fork.
        """
        cdef list copy = []
        cdef bint streams = False
        for offset, length, pinned in items:
            if offset < 0 or length <= 0 or offset + length > self.mapping.size:
                raise ValueError(
                    f"item {len(copy)}: {length} bytes at {offset} are not within a file of {self.mapping.size} bytes"
                )
            streams = streams or not pinned
            copy.append((int(offset), int(length), bool(pinned)))
        if granule != srt_page_size() and granule != SRT_BLOCK:
            raise ValueError(f"a granule of {granule} bytes, expected {srt_page_size()} or {SRT_BLOCK}")
        if window < 0 or (streams and window == 0):
            raise ValueError(f"a window of {window} bytes, expected a positive number if items stream")
        cdef uint64_t c_window = min(window, self.mapping.size + SRT_BLOCK)  # a larger window has no effect
        cdef uint64_t c_granule = granule
        cdef size_t count = len(copy)
        cdef srt_item *c_items = <srt_item *>PyMem_Malloc((count + 1) * sizeof(srt_item))
        if c_items == NULL:
            raise MemoryError()
        cdef size_t i
        cdef srt_status status
        cdef int error
        try:
            for i in range(count):
                c_items[i].offset, c_items[i].length, c_items[i].pinned = copy[i]
            with nogil:
                status = srt_prefetcher_schedule(self.prefetcher, c_items, count, c_window, c_granule)
                error = errno
        finally:
            PyMem_Free(c_items)
        self.require(status, error, "cannot set a schedule during a pass: call finish or rewind first")
        self.items = copy

    cpdef wait(self, Py_ssize_t i):
        """Waits until item ``i`` of the current pass is in memory, where it stays until ``done(i)``.

        Signals are handled while it waits. After an error, ``rewind`` makes the prefetcher usable again.

        Raises:
            WeightsIOError: this item, or an earlier one, cannot be read.
            ValueError: there is no such item, or it is done.
            RuntimeError: the items that are not done fill the window, so that item ``i`` can never be read.
            ModelClosedError: closed before or meanwhile, or opened before a fork.
        """
        # First with the interpreter's lock held, so that an item in memory costs no more than a mutex.
        cdef size_t culprit = 0
        cdef srt_status status = srt_prefetcher_wait(self.prefetcher, i, 0, &culprit)
        cdef int error = errno
        while status == SRT_TIMEOUT:
            PyErr_CheckSignals()
            with nogil:
                status = srt_prefetcher_wait(self.prefetcher, i, SIGNAL_CHECK_NS, &culprit)
                error = errno
        if status == SRT_OK:
            return
        if status == SRT_TRUNCATED or status == SRT_SYSTEM:
            offset, length, _ = self.items[culprit]
            self.require(status, error, f"cannot read {length} bytes at {offset}")
        if status == SRT_MISUSE:
            raise ValueError(f"item {i} is not one of the {len(self.items)} items of this pass, or is done already")
        self.require(status, error, f"cannot wait for item {i}")

    cpdef done(self, Py_ssize_t i):
        """The pass no longer needs item ``i``, which it waited for. Unless pinned, the item is released.

        Raises:
            ValueError: there is no such item, or it was not waited for in this pass, or it is done.
            ModelClosedError: closed, or opened before a fork.
        """
        cdef srt_status status = srt_prefetcher_done(self.prefetcher, i)
        if status != SRT_OK:
            self.require(status, 0, f"item {i} was not waited for in this pass, or is done already")

    cpdef finish(self):
        """Ends the pass: all its items are done, and the next pass begins at item 0.

        Raises:
            ValueError: there is no schedule.
            ModelClosedError: closed, or opened before a fork.
        """
        self.require(srt_prefetcher_finish(self.prefetcher), 0, "cannot finish a pass without a schedule")

    def rewind(self):
        """Gives the pass up: forgets errors, releases all that is not pinned, and begins again at item 0.

        Raises:
            ModelClosedError: closed, or opened before a fork.
        """
        cdef srt_status status
        with nogil:
            status = srt_prefetcher_rewind(self.prefetcher)
        self.require(status, 0, "cannot rewind")

    def read_across(self, bint across):
        """Sets whether streamed items may be read before their pass begins. They may by default.

        Raises:
            ModelClosedError: opened before a fork.
        """
        self.require(srt_prefetcher_read_across(self.prefetcher, across), 0, "cannot set read_across")

    def held(self):
        """Bytes of the granules that are held now: their items are being read, ready, in use or pinned.

        Raises:
            ModelClosedError: closed, or opened before a fork.
        """
        return self.held_and_peak()[0]

    def peak(self):
        """The largest value of ``held`` since the last ``schedule``.

        Raises:
            ModelClosedError: closed, or opened before a fork.
        """
        return self.held_and_peak()[1]

    cdef tuple held_and_peak(self):
        cdef uint64_t held = 0, peak = 0
        self.require(srt_prefetcher_held(self.prefetcher, &held, &peak), 0, "cannot count the bytes that are held")
        return held, peak

    def report(self):
        """The records of the last finished pass of this schedule; empty before the first pass has finished.

        Raises:
            ModelClosedError: closed, or opened before a fork.
        """
        cdef size_t count = 0
        self.require(srt_prefetcher_report(self.prefetcher, NULL, &count), 0, "cannot report on a pass")
        cdef Report report = Report.__new__(Report)
        report.records = <srt_record *>PyMem_Malloc((count + 1) * sizeof(srt_record))
        if report.records == NULL:
            raise MemoryError()
        self.require(srt_prefetcher_report(self.prefetcher, report.records, &count), 0, "cannot report on a pass")
        report.count, report.schedule = count, self.items
        return report

    def close(self):
        """Ends the thread and releases everything. May be called again. A waiting caller gets ModelClosedError."""
        with nogil:
            srt_prefetcher_stop(self.prefetcher)
        if not self.closed:
            self.closed = True
            self.mapping.end_use()

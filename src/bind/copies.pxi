"""Copies between arrays of equal shapes whose elements lie at any distances."""

from cpython.mem cimport PyMem_Free, PyMem_Malloc


# An array of a copy and the other, which are released together.
cdef struct copied:
    Py_buffer source, target
    srt_copy_axis *axis


# Takes an array of values of 4 or 8 bytes with any steps.
cdef int take_values(Py_buffer *view, object array, int flags, str name) except -1:
    PyObject_GetBuffer(array, view, PyBUF_STRIDES | PyBUF_FORMAT | flags)
    try:
        if (view.itemsize != 4 and view.itemsize != 8) or native(view)[1] != 0:
            raise ValueError(f"{name} has format {view.format.decode(errors='replace')!r}, expected values of 4 or 8 "
                             f"bytes")
        if <uintptr_t>view.buf % 4 != 0:
            raise ValueError(f"{name} is not aligned to 4 bytes")
    except BaseException:
        PyBuffer_Release(view)
        raise
    return 0


# The format without a sign for the native order of bytes.
cdef inline const char *native(Py_buffer *view) noexcept:
    return view.format + (view.format[0] == c"@" or view.format[0] == c"=")


# The letter of a format. Integers have two of equal size: NumPy names those that are not aligned by the other.
cdef inline char kind_of(Py_buffer *view) noexcept:
    cdef char kind = native(view)[0]
    return c"q" if kind == c"l" and view.itemsize == 8 else kind


@cython.final
cdef class Copies(Kernel):
    """Copies ``source`` to ``target`` for each pair (target, source). Checked once, then run often.

    A run makes all copies, in any order, and shares them among the threads as one job. Both arrays of a pair have one
    shape and one type of 4 or 8 bytes. They may be any views; axes of the source may have the stride 0. No target may
    overlap another array of the list.

    Raises:
        ValueError: wrong shapes or dtype, over 16 axes of more than one element, strides that are no multiples of 4
            bytes, elements of a target that overlap, as with a stride of 0, or a target that overlaps its source.
    """

    cdef copied *held
    cdef srt_copy *copies
    cdef int64_t count

    def __cinit__(self, pairs):
        pairs = list(pairs)
        cdef Py_ssize_t room = len(pairs) + 1
        self.held = <copied *>PyMem_Malloc(room * sizeof(copied))
        self.copies = <srt_copy *>PyMem_Malloc(room * sizeof(srt_copy))
        if self.held == NULL or self.copies == NULL:
            raise MemoryError
        for target, source in pairs:
            self._take(target, source)

    def __dealloc__(self):
        while self.count > 0:
            self.count -= 1
            self._release(&self.held[self.count])
        PyMem_Free(self.held)
        PyMem_Free(self.copies)

    cdef void _release(self, copied *pair) noexcept:
        PyBuffer_Release(&pair.source)
        PyBuffer_Release(&pair.target)
        PyMem_Free(pair.axis)

    cdef int _take(self, target, source) except -1:
        cdef copied *pair = &self.held[self.count]
        pair.axis = NULL
        take_values(&pair.source, source, 0, "source")
        try:
            take_values(&pair.target, target, PyBUF_WRITABLE, "target")
        except BaseException:
            PyBuffer_Release(&pair.source)
            raise
        try:
            self._prepare(pair)
        except BaseException:
            self._release(pair)
            raise
        self.count += 1
        return 0

    cdef int _prepare(self, copied *pair) except -1:
        cdef srt_copy *copy = &self.copies[self.count]
        cdef srt_copy_axis axis[SRT_COPY_AXES]
        cdef Py_buffer *x = &pair.source
        cdef Py_buffer *y = &pair.target
        cdef const char *problem
        cdef size_t size
        if kind_of(x) != kind_of(y) or x.itemsize != y.itemsize:
            raise ValueError(f"source has format {x.format.decode()!r} and target {y.format.decode()!r}, expected one")
        check_same(x, y)
        problem = srt_copy_prepare(copy, copy - 1 if self.count > 0 else NULL, axis, x.buf, y.buf, x.itemsize, x.ndim,
                                   <const int64_t *>x.shape, <const int64_t *>x.strides, <const int64_t *>y.strides)
        if problem != NULL:
            raise ValueError(f"{problem.decode()}: source of strides {strides_of(x)}, target of shape {shape_of(y)} "
                             f"and strides {strides_of(y)}")
        size = (copy.axes + 2) * sizeof(srt_copy_axis)
        pair.axis = <srt_copy_axis *>PyMem_Malloc(size)
        if pair.axis == NULL:
            raise MemoryError
        memcpy(pair.axis, axis, size)
        copy.axis = pair.axis
        return 0

    cdef int run(self, int64_t first, int64_t last) except -1:
        with nogil:
            srt_copy_all(self.copies, self.count)
        return 0

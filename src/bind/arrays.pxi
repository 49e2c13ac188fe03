"""Checks of the arrays of all kernels: shapes, sizes and overlaps, because the C code checks nothing.

Arrays come in through the buffer protocol and are held during a call. Arrays that are not written may be read-only. In
every kernel ``act`` is a code of ACTIVATIONS, and ``alpha`` and ``beta`` are its parameters.
"""

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from libc.stdint cimport int64_t, uintptr_t

ACTIVATIONS = {srt_activation_name(code).decode(): code for code in range(SRT_ACTIVATION_COUNT)}


# The arrays of one call, which are released together. A convolution has the most: x, w, bias, scale, shift, y,
# residual, scratch and sums.
cdef enum:
    MOST_ARRAYS = 9
cdef struct Arrays:
    int count
    Py_buffer view[MOST_ARRAYS]


cdef inline void release(Arrays *arrays) noexcept:
    while arrays.count > 0:
        arrays.count -= 1
        PyBuffer_Release(&arrays.view[arrays.count])


# Takes the next array: float32, aligned, of `ndim` axes (-1: any), C-contiguous unless `flags` ask for strides.
cdef inline Py_buffer *take(Arrays *arrays, object array, int ndim, int flags, str name) except NULL:
    return take_as(arrays, array, ndim, flags, name, c"f")


# As `take`, for float32 (f) or float64 (d).
cdef Py_buffer *take_as(Arrays *arrays, object array, int ndim, int flags, str name, char kind) except NULL:
    assert arrays.count < MOST_ARRAYS
    cdef Py_buffer *view = &arrays.view[arrays.count]
    PyObject_GetBuffer(array, view, flags | PyBUF_FORMAT)
    arrays.count += 1
    cdef const char *format = view.format
    if format[0] == c"@" or format[0] == c"=":
        format += 1
    if format[0] != kind or format[1] != 0:
        wanted = "float32" if kind == c"f" else "float64"
        raise ValueError(f"{name} has format {view.format.decode(errors='replace')!r}, expected {wanted}")
    if <uintptr_t>view.buf % <size_t>view.itemsize != 0:
        raise ValueError(f"{name} is not aligned to {view.itemsize} bytes")
    if ndim >= 0 and view.ndim != ndim:
        raise ValueError(f"{name} has {view.ndim} axes, expected {ndim}")
    return view


cdef inline Py_buffer *take_input(Arrays *arrays, object array, int ndim, str name) except NULL:
    return take(arrays, array, ndim, PyBUF_C_CONTIGUOUS, name)


cdef inline Py_buffer *take_output(Arrays *arrays, object array, int ndim, str name) except NULL:
    return take(arrays, array, ndim, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE, name)


# Takes a vector of `size` elements, or None, for which it returns NULL.
cdef const float *take_vector(Arrays *arrays, object array, int64_t size, str name) except? NULL:
    if array is None:
        return NULL
    cdef Py_buffer *view = take_input(arrays, array, 1, name)
    if view.shape[0] != size:
        raise ValueError(f"{name} has {view.shape[0]} elements, expected {size}")
    return <const float *>view.buf


# Takes a writable matrix whose rows may lie apart, and sets `stride` to their distance in elements.
cdef Py_buffer *take_rows(Arrays *arrays, object array, int64_t *stride, str name) except NULL:
    cdef Py_buffer *view = take(arrays, array, 2, PyBUF_STRIDES | PyBUF_WRITABLE, name)
    cdef int64_t rows = view.shape[0], cols = view.shape[1]
    stride[0] = cols
    if rows == 0 or cols == 0:
        return view
    if cols > 1 and view.strides[1] != sizeof(float):
        raise ValueError(f"{name} must have contiguous rows")
    if rows > 1:
        if view.strides[0] % <Py_ssize_t>sizeof(float) != 0 or view.strides[0] // <Py_ssize_t>sizeof(float) < cols:
            raise ValueError(f"{name} has rows {view.strides[0]} bytes apart, expected a multiple of 4 "
                             f"that is at least {cols * sizeof(float)}")
        stride[0] = view.strides[0] // <Py_ssize_t>sizeof(float)
    return view


cdef inline const float *floats(Py_buffer *view) noexcept nogil:
    return <const float *>view.buf


cdef inline int64_t elements(Py_buffer *view) noexcept nogil:
    return view.len // <Py_ssize_t>sizeof(float)


cdef inline object shape_of(Py_buffer *view):
    return tuple([view.shape[i] for i in range(view.ndim)])


# The address behind the last byte; gaps between rows belong to the array.
cdef inline uintptr_t end_of(Py_buffer *view) noexcept:
    cdef Py_ssize_t reach = view.itemsize
    cdef int i
    if view.len == 0:
        return <uintptr_t>view.buf
    if view.strides == NULL:
        return <uintptr_t>view.buf + view.len
    for i in range(view.ndim):
        reach += (view.shape[i] - 1) * view.strides[i]
    return <uintptr_t>view.buf + reach


cdef inline bint overlap(Py_buffer *a, Py_buffer *b) noexcept:
    return <uintptr_t>a.buf < end_of(b) and <uintptr_t>b.buf < end_of(a)


# The output, which was taken last, must not overlap the inputs. With `inplace` it may be the first input.
cdef int check_overlap(Arrays *arrays, bint inplace) except -1:
    cdef Py_buffer *y = &arrays.view[arrays.count - 1]
    cdef Py_buffer *x
    cdef int i
    for i in range(arrays.count - 1):
        x = &arrays.view[i]
        if overlap(x, y):
            if not (inplace and i == 0 and x.buf == y.buf and x.len == y.len):
                raise ValueError("the output overlaps an input")
    return 0


cdef int check_same(Py_buffer *x, Py_buffer *y) except -1:
    cdef int i
    cdef bint same = x.ndim == y.ndim
    if same:
        for i in range(x.ndim):
            same = same and x.shape[i] == y.shape[i]
    if not same:
        raise ValueError(f"x has shape {shape_of(x)} and y {shape_of(y)}, expected the same")
    return 0


cdef int check_shape(Py_buffer *view, tuple shape, str name) except -1:
    if shape_of(view) != shape:
        raise ValueError(f"{name} has shape {shape_of(view)}, expected {shape}")
    return 0


cdef int check_range(int64_t first, int64_t last, int64_t count) except -1:
    if not 0 <= first <= last <= count:
        raise ValueError(f"range {first} to {last}, expected a range within 0 to {count}")
    return 0


cdef srt_activation activation(int act, float alpha, float beta) except *:
    if not 0 <= act < SRT_ACTIVATION_COUNT:
        raise ValueError(f"activation code {act}, expected 0 to {SRT_ACTIVATION_COUNT - 1}")
    return srt_activation_make(act, alpha, beta)

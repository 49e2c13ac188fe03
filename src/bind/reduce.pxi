"""Kernels over rows and channels: means, maxima, softmax, local response normalisation."""


# Takes the arrays of a reduction: x (rows, cols), y (rows,).
cdef int take_reduction(Arrays *arrays, object x, object y) except -1:
    cdef Py_buffer *vx = take_input(arrays, x, 2, "x")
    cdef Py_buffer *vy = take_output(arrays, y, 1, "y")
    check_shape(vy, (vx.shape[0],), "y")
    return check_overlap(arrays, False)


def row_mean(x, y):
    """The mean of each row: x (R, K), y (R,). Long sums are in float64. NaN if K is 0.

    Raises:
        ValueError: wrong shapes, dtype or layout, or arrays that overlap.
    """
    cdef Arrays arrays
    arrays.count = 0
    try:
        take_reduction(&arrays, x, y)
        with nogil:
            srt_row_mean(floats(&arrays.view[0]), <float *>arrays.view[1].buf, arrays.view[0].shape[0],
                         arrays.view[0].shape[1])
    finally:
        release(&arrays)


def row_moments(x, y):
    """The mean of each row, and the mean of the squares of the differences from it: x (R, K), y (R, 2).

    Long sums are in float64. NaN if K is 0.

    Raises:
        ValueError: wrong shapes, dtype or layout, or arrays that overlap.
    """
    cdef Arrays arrays
    arrays.count = 0
    try:
        take_input(&arrays, x, 2, "x")
        take_output(&arrays, y, 2, "y")
        check_shape(&arrays.view[1], (arrays.view[0].shape[0], 2), "y")
        check_overlap(&arrays, False)
        with nogil:
            srt_row_moments(floats(&arrays.view[0]), <float *>arrays.view[1].buf, arrays.view[0].shape[0],
                            arrays.view[0].shape[1])
    finally:
        release(&arrays)


def row_max(x, y):
    """The largest element of each row, or NaN if the row has one: x (R, K), y (R,).

    Raises:
        ValueError: wrong shapes, dtype or layout, empty rows, or arrays that overlap.
    """
    cdef Arrays arrays
    arrays.count = 0
    try:
        take_reduction(&arrays, x, y)
        if arrays.view[0].shape[1] == 0 and arrays.view[0].shape[0] != 0:
            raise ValueError(f"x has shape {shape_of(&arrays.view[0])}, expected rows that are not empty")
        with nogil:
            srt_row_max(floats(&arrays.view[0]), <float *>arrays.view[1].buf, arrays.view[0].shape[0],
                        arrays.view[0].shape[1])
    finally:
        release(&arrays)


def softmax(x, y, bint log):
    """Softmax, or its logarithm, over axis 1: x, y (outer, K, inner). ``x`` may be ``y``.

    Raises:
        ValueError: wrong shapes, dtype or layout, or arrays that overlap in part.
    """
    cdef Arrays arrays
    cdef Py_buffer *vx
    cdef Py_buffer *vy
    arrays.count = 0
    try:
        vx = take_input(&arrays, x, 3, "x")
        vy = take_output(&arrays, y, 3, "y")
        check_same(vx, vy)
        check_overlap(&arrays, True)
        with nogil:
            srt_softmax(floats(vx), <float *>vy.buf, vx.shape[0], vx.shape[1], vx.shape[2], log)
    finally:
        release(&arrays)


def lrn(x, y, int64_t size, float alpha, float beta, float bias):
    """Local response normalisation over ``size`` channels as ONNX defines it: x, y (N, C, S).

    Raises:
        ValueError: wrong shapes, dtype or layout, a size below 1, or arrays that overlap.
    """
    if size < 1:
        raise ValueError(f"size {size}, expected at least 1")
    cdef Arrays arrays
    cdef Py_buffer *vx
    cdef Py_buffer *vy
    arrays.count = 0
    try:
        vx = take_input(&arrays, x, 3, "x")
        vy = take_output(&arrays, y, 3, "y")
        check_same(vx, vy)
        check_overlap(&arrays, False)
        with nogil:
            srt_lrn(floats(vx), <float *>vy.buf, vx.shape[0], vx.shape[1], vx.shape[2], size, alpha, beta, bias)
    finally:
        release(&arrays)

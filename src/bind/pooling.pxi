"""Pooling over windows, in bands of rows."""

from math import prod


# Takes the arrays of pooling: x (..., h, w), y (..., oh, ow), with a depth for volumes. Returns the number of planes.
cdef int64_t take_pooled(Sliding pooling, x, y, Window window) except -1:
    cdef Arrays *arrays = &pooling.arrays
    cdef Py_buffer *vx = take_planes(arrays, x, -1, window, window.window.input, False, &pooling.x, "x")
    cdef Py_buffer *vy = take_planes(arrays, y, -1, window, window.window.output, True, &pooling.y, "y")
    pooling.window = window
    leading = shape_of(vx)[:-window.axes]
    if shape_of(vy)[:-window.axes] != leading:
        raise ValueError(f"x has shape {shape_of(vx)} and y {shape_of(vy)}, expected the same number of planes")
    check_overlap(arrays, False)
    return prod(leading)


@cython.final
cdef class MaxPool(Sliding):
    """The largest element of each window: x (..., [D,] H, W), y (..., [OD,] OH, OW). A run computes all planes.

    Padding does not count; a window with only padding gives -infinity. A window with a NaN gives NaN. x and y may hold
    some of the rows: see `Sliding`.

    Raises:
        ValueError: wrong shapes, dtype or layout, or arrays that overlap.
    """

    cdef int64_t planes

    def __cinit__(self, x, y, Window window not None):
        self.planes = take_pooled(self, x, y, window)

    cdef int compute_band(self, int64_t first, int64_t last, const bound_band *at) except -1:
        with nogil:
            srt_max_pool(floats(&self.arrays.view[0]) + at.x, <float *>self.arrays.view[1].buf + at.y, self.planes,
                         &self.window.window, &at.band)
        return 0


@cython.final
cdef class AveragePool(Sliding):
    """The mean of each window as ONNX defines it: x (..., [D,] H, W), y (..., [OD,] OH, OW). A run computes all planes.

    With ``count_include_pad`` padding counts as zeros. Elements behind the padding, which ceil_mode allows, do not
    count. A window with only padding gives 0. x and y may hold some of the rows: see `Sliding`.

    Raises:
        ValueError: wrong shapes, dtype or layout, or arrays that overlap.
    """

    cdef int64_t planes
    cdef bint count_include_pad

    def __cinit__(self, x, y, Window window not None, bint count_include_pad):
        self.planes, self.count_include_pad = take_pooled(self, x, y, window), count_include_pad

    cdef int compute_band(self, int64_t first, int64_t last, const bound_band *at) except -1:
        with nogil:
            srt_average_pool(floats(&self.arrays.view[0]) + at.x, <float *>self.arrays.view[1].buf + at.y, self.planes,
                             &self.window.window, &at.band, self.count_include_pad)
        return 0

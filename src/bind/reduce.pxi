"""Kernels over rows and channels: means, sums, maxima, softmax, local response normalisation."""


@cython.final
cdef class RowMean(ArrayKernel):
    """The mean of each row: x (R, K), y (R,); or of each plane: x (R, H, W). A call computes all.

    Long sums are in float64. The mean is NaN if K is 0. Means of planes have the bits of sums of `plane_sums`.

    Raises:
        ValueError: wrong shapes, dtype or layout, planes without elements, or arrays that overlap.
    """

    cdef int64_t rows, cols, block

    def __cinit__(self, x, y):
        cdef Py_buffer *vx = take_input(&self.arrays, x, -1, "x")
        cdef Py_buffer *vy = take_output(&self.arrays, y, 1, "y")
        if vx.ndim == 3:
            check_planes(vx)
            self.cols, self.block = vx.shape[1] * vx.shape[2], srt_rows_together(vx.shape[2]) * vx.shape[2]
        elif vx.ndim == 2:
            self.cols = self.block = vx.shape[1]
        else:
            raise ValueError(f"x has {vx.ndim} axes, expected 2 or 3")
        self.rows = vx.shape[0]
        check_shape(vy, (self.rows,), "y")
        check_overlap(&self.arrays, False)

    cdef int compute(self, int64_t first, int64_t last) except -1:
        with nogil:
            srt_row_mean(floats(&self.arrays.view[0]), <float *>self.arrays.view[1].buf, self.rows, self.cols,
                         self.block)
        return 0


cdef int check_planes(Py_buffer *x) except -1:
    if x.shape[1] == 0 or x.shape[2] == 0:
        raise ValueError(f"x has shape {shape_of(x)}, expected planes that are not empty")
    return 0


def rows_together(int64_t width):
    """The rows of this width that `plane_sums` adds up together: the fewest with 512 elements, as a power of two.

    Raises:
        ValueError: a width below 1.
    """
    if width < 1:
        raise ValueError(f"width {width}, expected at least 1")
    return srt_rows_together(width)


def plane_sums(x, y, bint begins):
    """Adds the sum of each plane to column 0 of y and, if y has three columns, the sum of its squares to column 1.

    x (P, R, W) may have gaps between rows and between planes, if all planes lie at equal distances; y (P, 1) or (P, 3),
    float64. Rows may come in several calls. The first one ``begins``: it sets the sums, and column 2 to a number near
    the mean, which later calls need. If each call but the last has a multiple of `rows_together` rows, the sums have
    the same bits as with one call.

    Raises:
        ValueError: wrong shapes, dtype or layout, planes without elements, or arrays that overlap.
    """
    cdef Arrays arrays
    cdef Py_buffer *vx
    cdef Py_buffer *vy
    cdef srt_steps steps
    arrays.count = 0
    try:
        vx = take(&arrays, x, 3, PyBUF_STRIDES, "x")
        vy = take_as(&arrays, y, 2, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE, "y", c"d")
        check_planes(vx)
        steps.row, steps.plane = vx.shape[2], vx.shape[1] * vx.shape[2]
        take_steps(vx, &steps, "x")
        if vy.shape[0] != vx.shape[0] or (vy.shape[1] != 1 and vy.shape[1] != 3):
            raise ValueError(f"y has shape {shape_of(vy)}, expected ({vx.shape[0]}, 1) or ({vx.shape[0]}, 3)")
        check_overlap(&arrays, False)
        with nogil:
            srt_plane_sums(floats(vx), steps, <double *>vy.buf, vx.shape[0], vx.shape[1], vx.shape[2], vy.shape[1],
                           begins)
    finally:
        release(&arrays)


@cython.final
cdef class RowMax(ArrayKernel):
    """The largest element of each row, or NaN if the row has one: x (R, K), y (R,). A call computes all.

    Raises:
        ValueError: wrong shapes, dtype or layout, empty rows, or arrays that overlap.
    """

    def __cinit__(self, x, y):
        cdef Py_buffer *vx = take_input(&self.arrays, x, 2, "x")
        cdef Py_buffer *vy = take_output(&self.arrays, y, 1, "y")
        check_shape(vy, (vx.shape[0],), "y")
        check_overlap(&self.arrays, False)
        if vx.shape[1] == 0 and vx.shape[0] != 0:
            raise ValueError(f"x has shape {shape_of(vx)}, expected rows that are not empty")

    cdef int compute(self, int64_t first, int64_t last) except -1:
        cdef Py_buffer *x = &self.arrays.view[0]
        with nogil:
            srt_row_max(floats(x), <float *>self.arrays.view[1].buf, x.shape[0], x.shape[1])
        return 0


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

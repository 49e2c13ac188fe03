"""Kernels that compute a band of rows, from the rows of planes that are in memory."""


# The rows of planes that an array has room for, and how far apart they lie.
cdef struct plane_rows:
    int64_t count
    srt_steps steps


# A band, and the elements from the beginning of each array to the band's first row.
cdef struct bound_band:
    srt_band band
    int64_t x, y, residual


cdef inline bint same_steps(const srt_steps *a, const srt_steps *b) noexcept:
    return a.row == b.row and a.plane == b.plane


# Takes planes or volumes: an array whose first `leading` axes are those of samples and channels; -1: one axis or more.
# Planes may have any number of rows, and gaps between rows and between planes. extents: of the picture.
cdef Py_buffer *take_planes(Arrays *arrays, object array, int leading, Window window, const int64_t *extents,
                            bint written, plane_rows *rows, str name) except NULL:
    cdef int flags = PyBUF_C_CONTIGUOUS if window.axes == 3 else PyBUF_STRIDES
    cdef int axes = -1 if leading < 0 else leading + window.axes
    cdef Py_buffer *view = take(arrays, array, axes, flags | (PyBUF_WRITABLE if written else 0), name)
    if leading < 0:
        leading = view.ndim - window.axes
        if leading < 1:
            raise ValueError(f"{name} has {view.ndim} axes, expected at least {1 + window.axes}")
    if window.axes == 3 or view.shape[leading + 1] != extents[1]:
        check_extents(view, leading, window, extents, name)
    rows.count = view.shape[leading + window.axes - 2]
    rows.steps.row, rows.steps.plane = extents[1], extents[0] * extents[1] * extents[2]
    if window.axes == 2:
        take_steps(view, &rows.steps, name)
    return view


# Sets the steps of planes that lie at equal distances. An axis of one element may have any stride.
cdef int take_steps(Py_buffer *view, srt_steps *steps, str name) except -1:
    cdef int axis
    height, width, row, plane, planes = view.shape[view.ndim - 2], view.shape[view.ndim - 1], None, None, 1
    if view.len == 0:
        return 0
    if width > 1 and view.strides[view.ndim - 1] != sizeof(float):
        raise ValueError(f"{name} must have contiguous rows")
    if height > 1:
        row = view.strides[view.ndim - 2]
    for axis in range(view.ndim - 3, -1, -1):
        if view.shape[axis] > 1:
            if plane is None:
                plane = view.strides[axis]
            elif view.strides[axis] != plane * planes:
                raise ValueError(f"{name} has strides {strides_of(view)}, expected planes at equal distances")
            planes *= view.shape[axis]
    row = sizeof(float) * width if row is None else row
    plane = row * height if plane is None else plane
    # Either the rows of a plane lie next to each other, or the rows of all planes with the same number.
    lines = (height - 1) * row + sizeof(float) * width, (planes - 1) * plane + sizeof(float) * width
    apart = plane >= lines[0] if row <= plane or planes == 1 else plane >= sizeof(float) * width and row >= lines[1]
    if row % sizeof(float) or plane % sizeof(float) or row < sizeof(float) * width or not apart:
        raise ValueError(f"{name} has shape {shape_of(view)} and strides {strides_of(view)} in bytes, expected "
                         f"multiples of 4, and rows that do not overlap")
    if row > sizeof(float) * SRT_WINDOW_MAX or planes * plane > 2**62:
        raise ValueError(f"{name} has strides {strides_of(view)} in bytes, expected rows less than 2**32 bytes apart, "
                         f"and planes within 2**62 bytes")
    steps.row, steps.plane = row // sizeof(float), plane // sizeof(float)
    return 0


cdef inline object strides_of(Py_buffer *view):
    return tuple([view.strides[i] for i in range(view.ndim)])


# Checks the axes of samples and channels.
cdef int check_channels(Py_buffer *view, tuple shape, str name) except -1:
    if shape_of(view)[:2] != shape:
        raise ValueError(f"{name} has shape {shape_of(view)}, expected {shape[0]} samples of {shape[1]} channels")
    return 0


cdef class Sliding(ArrayKernel):
    """A kernel that slides a `Window` over planes or volumes. A call computes all rows, a `Band` some of them.

    Each array with planes, except weights, may have room for a part of the rows: (..., R, W) with any R. It may have
    gaps between rows and between planes, if all planes lie at equal distances. Only a `Band` runs with such arrays.
    Volumes have all rows, and no gaps.
    """

    cdef Window window
    cdef plane_rows x, y, residual
    cdef bint has_residual, in_place  # in_place: the residual is y

    cdef int compute(self, int64_t first, int64_t last) except -1:
        cdef const int64_t *output = self.window.window.output
        cdef bound_band at
        at.band = self.band(0, output[0], 0, self.window.window.input[0])
        at.x = at.y = at.residual = 0
        if self.x.count != at.band.end:
            raise ValueError(f"x has {self.x.count} rows, expected all {at.band.end}, or a Band")
        if self.y.count != output[0]:
            raise ValueError(f"y has {self.y.count} rows, expected all {output[0]}, or a Band")
        if self.has_residual and self.residual.count != output[0]:
            raise ValueError(f"residual has {self.residual.count} rows, expected all {output[0]}, or a Band")
        return self.compute_band(first, last, &at)

    # The output rows first..last from the input rows start..end.
    cdef srt_band band(self, int64_t first, int64_t last, int64_t start, int64_t end) noexcept:
        cdef srt_band band = srt_whole(&self.window.window)
        band.first, band.last, band.start, band.end = first, last, start, end
        if self.window.axes == 2:
            band.x, band.y = self.x.steps, self.y.steps
            if self.has_residual:
                band.residual = self.residual.steps
        return band

    cdef int compute_band(self, int64_t first, int64_t last, const bound_band *at) except -1:
        raise NotImplementedError


@cython.final
cdef class Band(Kernel):
    """A kernel that computes the output rows ``first`` to ``last`` of another. It is checked once, then run often.

    A `Step` takes it like any kernel, so a pass over bands is a list of steps. Bands are cheap: each is some numbers.
    Padding is that of the whole picture. Every row has the bits that it has without bands, but with Winograd's
    algorithm only if each band begins and ends at a multiple of 4 rows, or with the picture. In other bands a row has
    other errors of the same size.

    Args:
        kernel: over planes.
        first, last: output rows.
        held: the input rows (from, to) that are in memory, `Window.rows_read` and perhaps more.
        x: the row of the array x at which the first of them lies. The others follow.
        y, residual: the rows of these arrays at which row ``first`` lies. If the residual is y, the same.

    Raises:
        ValueError: a row is read and not in memory, an array or the picture has no such rows, or the kernel slides over
            volumes.
    """

    cdef Sliding of
    cdef bound_band at

    def __cinit__(self, Sliding kernel not None, int64_t first, int64_t last, tuple held not None, *, int64_t x=0,
                  int64_t y=0, int64_t residual=0):
        if kernel.window.axes != 2:
            raise ValueError("a band needs a window over planes, but this one slides over volumes")
        if len(held) != 2:
            raise ValueError(f"held is {held!r:.80}, expected two rows")
        self.of, self.at.band = kernel, kernel.band(first, last, held[0], held[1])
        cdef const char *problem = srt_band_check(&kernel.window.window, &self.at.band)
        if problem != NULL:
            raise ValueError(f"{problem.decode()}: output rows {first} to {last}, input rows {held}")
        check_rows(&kernel.x, x, held[1] - held[0], "x")
        check_rows(&kernel.y, y, last - first, "y")
        self.at.x, self.at.y = x * kernel.x.steps.row, y * kernel.y.steps.row
        self.at.residual = 0
        if kernel.has_residual:
            check_rows(&kernel.residual, residual, last - first, "residual")
            if kernel.in_place and residual != y:
                raise ValueError(f"residual {residual} and y {y}, expected the same row, as they are one array")
            self.at.residual = residual * kernel.residual.steps.row

    cdef int run(self, int64_t first, int64_t last) except -1:
        self.of.copy_kept(first)
        return self.of.compute_band(first, last, &self.at)


# Checks that an array has room for `count` rows from row `row` on.
cdef int check_rows(const plane_rows *rows, int64_t row, int64_t count, str name) except -1:
    if not 0 <= row <= rows.count - count:
        raise ValueError(f"{name} has {rows.count} rows, expected {count} from row {row} on")
    return 0


@cython.final
cdef class MoveRows:
    """Moves rows of planes up, so that rows that the next `Band` reads, too, make room for others.

    x (..., R, W) may have gaps between rows and between planes, if all planes lie at equal distances. A call moves
    ``count`` rows of each plane, from row ``source`` on to row ``target`` on.

    Raises:
        ValueError: wrong dtype or layout. A call raises it if there are no such rows, or the target is behind the
            source.
    """

    cdef Arrays arrays
    cdef plane_rows x
    cdef int64_t planes, width

    def __cinit__(self, x):
        cdef Py_buffer *view = take(&self.arrays, x, -1, PyBUF_STRIDES | PyBUF_WRITABLE, "x")
        if view.ndim < 2:
            raise ValueError(f"x has {view.ndim} axes, expected at least 2")
        self.x.count, self.width = view.shape[view.ndim - 2], view.shape[view.ndim - 1]
        self.planes = 0 if view.len == 0 else elements(view) // (self.x.count * self.width)
        take_steps(view, &self.x.steps, "x")

    def __dealloc__(self):
        release(&self.arrays)

    def __call__(self, int64_t source, int64_t target, int64_t count):
        if count < 0 or target > source:
            raise ValueError(f"{count} rows from row {source} to row {target}, expected a row that is not behind them")
        check_rows(&self.x, source, count, "x")
        check_rows(&self.x, target, count, "x")
        cdef Py_buffer *view = &self.arrays.view[0]
        with nogil:
            srt_move_rows(<float *>view.buf, self.x.steps, self.planes, self.width, source, target, count)

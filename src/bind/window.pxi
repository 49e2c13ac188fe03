"""Windows that slide over planes and volumes, and pooling."""


@cython.final
cdef class Window:
    """A window that slides over planes or volumes, for convolution and pooling. Checked once, then used many times.

    ``Window(kernel=(kh, kw), strides=(sh, sw), dilations=(dh, dw), pads=(top, left, bottom, right),
    input=(h, w), output=(oh, ow))``. The output may be smaller than possible, or larger by one position than the pads
    allow (ONNX's ceil_mode). Its last window must begin within the padded input.

    With three lengths, of which the first is the depth, it slides over volumes. Kernels then take arrays with the axes
    (..., D, H, W) instead of (..., H, W).

    Raises:
        ValueError: a length is negative or not below 2**30; a kernel, stride or dilation is 0; the last window begins
            behind the padded input; or a volume has over 2**60 elements.
    """

    cdef srt_window window
    cdef int axes  # 2 or 3

    def __cinit__(self, kernel, strides, dilations, pads, input, output):
        kernel, pads = tuple(kernel), tuple(pads)
        cdef int axes = 3 if len(kernel) == 3 else 2
        self.axes = axes
        self._lengths("pads", pads, 2 * axes)
        self._fill(self.window.kernel, self._lengths("kernel", kernel, axes), 1)
        self._fill(self.window.stride, self._lengths("strides", strides, axes), 1)
        self._fill(self.window.dilation, self._lengths("dilations", dilations, axes), 1)
        self._fill(self.window.before, pads[:axes], 0)
        self._fill(self.window.after, pads[axes:], 0)
        self._fill(self.window.input, self._lengths("input", input, axes), 1)
        self._fill(self.window.output, self._lengths("output", output, axes), 1)
        cdef const char *problem = srt_window_check(&self.window)
        if problem != NULL:
            raise ValueError(
                f"{problem.decode()}: kernel={kernel}, strides={strides}, dilations={dilations}, pads={pads}, "
                f"input={input}, output={output}"
            )

    # Lengths that fit the C structure. srt_window_check finds other faults.
    @staticmethod
    def _lengths(name, values, count):
        values = tuple(values)
        if len(values) != count or not all([-1 <= value <= SRT_WINDOW_MAX for value in values]):
            raise ValueError(f"{name} is {values!r:.80}, expected {count} lengths below 2**30")
        return values

    # Depth comes last in the C structure. A plane's is `flat`.
    cdef int _fill(self, int64_t *lengths, tuple values, int64_t flat) except -1:
        lengths[0], lengths[1] = values[self.axes - 2], values[self.axes - 1]
        lengths[2] = values[0] if self.axes == 3 else flat
        return 0

    # Lengths of the C structure as they lie in shapes.
    cdef tuple extents(self, const int64_t *lengths):
        plane = (lengths[0], lengths[1])
        return plane if self.axes == 2 else (lengths[2], *plane)


# Checks the axes of an array from `axis` on. size: some lengths of the window.
cdef int check_extents(Py_buffer *view, int axis, Window window, const int64_t *size, str name) except -1:
    expected = window.extents(size)
    if shape_of(view)[axis:] != expected:
        raise ValueError(f"{name} has shape {shape_of(view)}, expected {'planes' if window.axes == 2 else 'volumes'} "
                         f"of {' x '.join([str(extent) for extent in expected])}")
    return 0


# Takes the arrays of pooling: x (planes, h, w), y (planes, oh, ow), with a depth for volumes.
cdef int take_planes(Arrays *arrays, object x, object y, Window window) except -1:
    cdef Py_buffer *vx = take_input(arrays, x, 1 + window.axes, "x")
    check_extents(vx, 1, window, window.window.input, "x")
    cdef Py_buffer *vy = take_output(arrays, y, 1 + window.axes, "y")
    check_extents(vy, 1, window, window.window.output, "y")
    if vx.shape[0] != vy.shape[0]:
        raise ValueError(f"x has {vx.shape[0]} planes and y {vy.shape[0]}, expected the same")
    return check_overlap(arrays, False)


def max_pool(x, y, Window window not None):
    """The largest element of each window: x (P, [D,] H, W), y (P, [OD,] OH, OW).

    Padding does not count; a window with only padding gives -infinity. A window with a NaN gives NaN.

    Raises:
        ValueError: wrong shapes, dtype or layout, or arrays that overlap.
    """
    cdef Arrays arrays
    arrays.count = 0
    try:
        take_planes(&arrays, x, y, window)
        with nogil:
            srt_max_pool(floats(&arrays.view[0]), <float *>arrays.view[1].buf, arrays.view[0].shape[0], &window.window)
    finally:
        release(&arrays)


def average_pool(x, y, Window window not None, bint count_include_pad):
    """The mean of each window as ONNX defines it: x (P, [D,] H, W), y (P, [OD,] OH, OW).

    With ``count_include_pad`` padding counts as zeros. Elements behind the padding, which ceil_mode allows, do not
    count. A window with only padding gives 0.

    Raises:
        ValueError: wrong shapes, dtype or layout, or arrays that overlap.
    """
    cdef Arrays arrays
    arrays.count = 0
    try:
        take_planes(&arrays, x, y, window)
        with nogil:
            srt_average_pool(floats(&arrays.view[0]), <float *>arrays.view[1].buf, arrays.view[0].shape[0],
                             &window.window, count_include_pad)
    finally:
        release(&arrays)

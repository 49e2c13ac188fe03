"""Windows that slide over planes, and pooling."""


@cython.final
cdef class Window:
    """A window that slides over planes, for convolution and pooling. Checked once, then used many times.

    ``Window(kernel=(kh, kw), strides=(sh, sw), dilations=(dh, dw), pads=(top, left, bottom, right),
    input=(h, w), output=(oh, ow))``. The output may be smaller than possible, or larger by one position than the pads
    allow (ONNX's ceil_mode). Its last window must begin within the padded input.

    Raises:
        ValueError: a length is negative or not below 2**30; a kernel, stride or dilation is 0; or the last window
            begins behind the padded input.
    """

    cdef srt_window window

    def __cinit__(self, kernel, strides, dilations, pads, input, output):
        top, left, bottom, right = self._lengths("pads", pads, 4)
        self._fill(self.window.kernel, self._lengths("kernel", kernel, 2))
        self._fill(self.window.stride, self._lengths("strides", strides, 2))
        self._fill(self.window.dilation, self._lengths("dilations", dilations, 2))
        self._fill(self.window.before, (top, left))
        self._fill(self.window.after, (bottom, right))
        self._fill(self.window.input, self._lengths("input", input, 2))
        self._fill(self.window.output, self._lengths("output", output, 2))
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

    cdef int _fill(self, int64_t *pair, tuple values) except -1:
        pair[0], pair[1] = values
        return 0


cdef int check_planes(Py_buffer *view, int axis, const int64_t *size, str name) except -1:
    if view.shape[axis] != size[0] or view.shape[axis + 1] != size[1]:
        raise ValueError(f"{name} has shape {shape_of(view)}, expected planes of {size[0]} x {size[1]}")
    return 0


# Takes the arrays of pooling: x (planes, h, w), y (planes, oh, ow).
cdef int take_planes(Arrays *arrays, object x, object y, const srt_window *w) except -1:
    cdef Py_buffer *vx = take_input(arrays, x, 3, "x")
    check_planes(vx, 1, w.input, "x")
    cdef Py_buffer *vy = take_output(arrays, y, 3, "y")
    check_planes(vy, 1, w.output, "y")
    if vx.shape[0] != vy.shape[0]:
        raise ValueError(f"x has {vx.shape[0]} planes and y {vy.shape[0]}, expected the same")
    return check_overlap(arrays, False)


def max_pool(x, y, Window window not None):
    """The largest element of each window: x (P, H, W), y (P, OH, OW).

    Padding does not count; a window with only padding gives -infinity. A window with a NaN gives NaN.

    Raises:
        ValueError: wrong shapes, dtype or layout, or arrays that overlap.
    """
    cdef Arrays arrays
    arrays.count = 0
    try:
        take_planes(&arrays, x, y, &window.window)
        with nogil:
            srt_max_pool(floats(&arrays.view[0]), <float *>arrays.view[1].buf, arrays.view[0].shape[0], &window.window)
    finally:
        release(&arrays)


def average_pool(x, y, Window window not None, bint count_include_pad):
    """The mean of each window as ONNX defines it: x (P, H, W), y (P, OH, OW).

    With ``count_include_pad`` padding counts as zeros. Elements behind the padding, which ceil_mode allows, do not
    count. A window with only padding gives 0.

    Raises:
        ValueError: wrong shapes, dtype or layout, or arrays that overlap.
    """
    cdef Arrays arrays
    arrays.count = 0
    try:
        take_planes(&arrays, x, y, &window.window)
        with nogil:
            srt_average_pool(floats(&arrays.view[0]), <float *>arrays.view[1].buf, arrays.view[0].shape[0],
                             &window.window, count_include_pad)
    finally:
        release(&arrays)

"""Windows that slide over planes and volumes."""


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

    def rows_read(self, int64_t first, int64_t last):
        """The input rows (from, to) that the output rows ``first`` to ``last`` read, from the first to the last.

        Rows in the padding are left out. Both numbers are equal if all windows lie in the padding.

        Raises:
            ValueError: the output has no such rows.
        """
        cdef int64_t start = 0, end = 0
        check_range(first, last, self.window.output[0])
        srt_rows_read(&self.window, first, last, &start, &end)
        return start, end

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

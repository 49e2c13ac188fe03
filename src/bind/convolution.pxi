"""Convolutions: as products, by Winograd's algorithm, and depthwise."""

from libc.math cimport INFINITY


# srt_conv or srt_winograd.
ctypedef void (*convolution)(const srt_convolution *c) noexcept nogil


# Takes the scale and the shift of the input channels: see srt_convolution.
cdef int take_scaling(Arrays *arrays, scale, shift, srt_convolution *c) except -1:
    cdef int64_t channels = c.groups * c.channels
    cdef Py_buffer *view
    c.scale = c.shift = NULL
    c.each = False
    if scale is None:
        if shift is not None:
            raise ValueError("a shift needs a scale")
        return 0
    for axis in range(SRT_WINDOW_AXES):
        if (c.window.kernel[axis] != 1 or c.window.stride[axis] != 1 or c.window.before[axis] != 0
                or c.window.output[axis] != c.window.input[axis]):
            raise ValueError("a scale needs a window of 1 x 1 with stride 1 and without padding")
    c.each = memoryview(scale).ndim == 2
    view = take_input(arrays, scale, 2 if c.each else 1, "scale")
    if c.each:
        check_shape(view, (c.n, channels), "scale")
    else:
        check_shape(view, (channels,), "scale")
    c.scale = floats(view)
    c.shift = take_vector(arrays, shift, channels, "shift")
    return 0


@cython.final
cdef class Convolution(Sliding):
    """A convolution in groups of channels, each with its own part of the weights. Checked once, then run often.

    x (N, G * C, [D,] H, W); w (G * OC, C, [KD,] KH, KW), float32 or `Coded`; bias (G * OC,) or None;
    y (N, G * OC, [OD,] OH, OW). Arrays have a depth if the window has one. residual, of y's shape or None, is added
    before ``act``, and may be y. x, y and residual may hold some of the rows: see `Sliding`.

    scratch (S, F) is used during calls. At most S threads take part, with F floats each. F is at least CONV_COLUMNS
    times the smaller of CONV_DEPTH and C * KD * KH * KW. A larger F is faster, up to half of a core's own cache.

    ``winograd`` selects Winograd's algorithm, whose errors are about 4 times those of a product. F is then at least
    `winograd_seat`, which must not be 0.

    sums (M,) or None, used during calls: with `conv_sums` floats two threads share small maps better.

    With scale (G * C,) or (N, G * C), the input is min(high, max(low, x * scale + shift)), shift (G * C,) or None. The
    window must then be 1 x 1, or 1 x 1 x 1, with stride 1 and without padding.

    Raises:
        ValueError: wrong shapes, dtype or layout, a range beyond the channels, an unknown ``act``, a scale with another
            window, ``winograd`` where `winograd_seat` is 0, or arrays that overlap.
    """

    cdef srt_convolution bound
    cdef srt_activation act
    cdef convolution kernel

    def __cinit__(self, x, w, bias, residual, y, Window window not None, int groups, scratch, int act, float alpha,
                  float beta, *, bint winograd=False, sums=None, scale=None, shift=None, float low=-INFINITY,
                  float high=INFINITY):
        cdef srt_convolution *c = &self.bound
        cdef Arrays *arrays = &self.arrays
        cdef Py_buffer *vx
        cdef Py_buffer *vy
        cdef Py_buffer *vs
        self.window, self.act = window, activation(act, alpha, beta)
        self.kernel = srt_winograd if winograd else srt_conv
        c.window, c.act, c.low, c.high = &window.window, &self.act, low, high
        vx = take_planes(arrays, x, 2, window, c.window.input, False, &self.x, "x")
        rows, channels, *window_of_w = take_weights(arrays, w, 2 + window.axes, &c.w, "w")
        if tuple(window_of_w) != window.extents(c.window.kernel):
            raise ValueError(f"w has shape {(rows, channels, *window_of_w)}, expected windows of "
                             f"{window.extents(c.window.kernel)}")
        if groups < 1 or rows % groups != 0 or vx.shape[1] != channels * <object>groups:
            raise ValueError(f"x has shape {shape_of(vx)} and w {(rows, channels, *window_of_w)}, which do not fit in "
                             f"{groups} groups")
        c.n, c.groups, c.channels, c.outputs = vx.shape[0], groups, channels, rows // groups
        c.x, c.bias = floats(vx), take_vector(arrays, bias, rows, "bias")
        take_scaling(arrays, scale, shift, c)
        vy = take_planes(arrays, y, 2, window, c.window.output, True, &self.y, "y")
        check_channels(vy, (vx.shape[0], rows), "y")
        check_overlap(arrays, False)
        c.y, c.residual = <float *>vy.buf, NULL
        if residual is not None:
            vs = take_planes(arrays, residual, 2, window, c.window.output, False, &self.residual, "residual")
            check_channels(vs, (vx.shape[0], rows), "residual")
            c.residual = floats(vs)
            self.has_residual = True
            self.in_place = c.residual == floats(vy) and same_steps(&self.residual.steps, &self.y.steps)
            if not self.in_place and overlap(vs, vy):
                raise ValueError("the output overlaps an input")
        take_scratch(arrays, scratch, self._seat(winograd, scale), &c.scratch, &c.seats, &c.seat)
        c.sums = NULL
        if sums is not None:
            vs = take_output(arrays, sums, 1, "sums")
            check_overlap(arrays, False)
            least = conv_sums(c.n, c.groups, <object>c.channels * srt_volume(c.window.kernel), c.outputs, window)
            if vs.shape[0] < least:
                raise ValueError(f"sums has {vs.shape[0]} elements, expected at least {least}")
            c.sums = <float *>vs.buf

    # Floats of scratch memory that a thread needs.
    cdef object _seat(self, bint winograd, scale):
        cdef srt_convolution *c = &self.bound
        if winograd:
            least = winograd_seat(c.n, c.channels, c.outputs, self.window)
            if least == 0 or scale is not None:
                raise ValueError(
                    "winograd needs a 3 x 3 window over planes with stride and dilation 1, no scale, and a size at "
                    "which it is faster: use it where winograd_seat is not 0"
                )
            return least
        # in Python's integers, because the taps of a hostile window may be many
        return columns_of(<object>c.channels * <object>srt_volume(c.window.kernel))

    cdef int compute_band(self, int64_t first, int64_t last, const bound_band *at) except -1:
        cdef srt_convolution c = self.bound
        check_range(first, last, c.groups * c.outputs)
        c.first, c.last, c.band = first, last, at.band
        c.x += at.x
        c.y += at.y
        if c.residual != NULL:
            c.residual += at.residual
        with nogil:
            self.kernel(&c)
        return 0


def conv_sums(int64_t n, int64_t groups, inner, int64_t outputs, Window window not None):
    """Floats of memory with which two threads compute the two parts of a long sum at the same time; 0 if they do not.

    n: samples; inner: terms of a sum; outputs: channels of one group. Results are the same with and without the memory.
    """
    return srt_conv_sums(n, groups, inner, outputs, &window.window) if inner < 2**31 else 0


def winograd_seat(int64_t n, int64_t channels, int64_t outputs, Window window not None, threads=SRT_MAX_THREADS):
    """Floats of scratch memory for each of some threads with which Winograd's algorithm is faster; 0 if it is not.

    It works with the floats for any larger number of threads, too, but takes longer.

    n: samples; channels and outputs: of one group; threads: 1 to 256.

    Raises:
        ValueError: a number out of range, or 2**40 or more positions of all samples.
    """
    positions = <object>n * <object>srt_volume(window.window.output)
    if n < 0 or channels < 0 or outputs < 0 or positions >= 2**40:
        raise ValueError(f"{n} samples, {channels} channels, {outputs} outputs and {positions} positions, "
                         f"expected no negative number, and fewer than 2**40 positions")
    if not 1 <= threads <= SRT_MAX_THREADS:
        raise ValueError(f"{threads} threads, expected 1 to {SRT_MAX_THREADS}")
    return srt_winograd_seat(n, channels, outputs, &window.window, threads)


@cython.final
cdef class Depthwise(Sliding):
    """A convolution where output channel j reads one input channel, j // m. Checked once, then run often.

    x (N, C, [D,] H, W); w (C * m, [KD,] KH, KW); bias (C * m,) or None; y (N, C * m, [OD,] OH, OW). x and y may hold
    some of the rows: see `Sliding`.

    Raises:
        ValueError: wrong shapes, dtype or layout, a range beyond the channels, an unknown ``act``, or
            arrays that overlap.
    """

    cdef srt_activation act
    cdef const float *bias
    cdef int64_t n, channels, outputs

    def __cinit__(self, x, w, bias, y, Window window not None, int act, float alpha, float beta):
        cdef Py_buffer *vx
        cdef Py_buffer *vw
        cdef Py_buffer *vy
        self.window, self.act = window, activation(act, alpha, beta)
        vx = take_planes(&self.arrays, x, 2, window, window.window.input, False, &self.x, "x")
        vw = take_input(&self.arrays, w, 1 + window.axes, "w")
        check_extents(vw, 1, window, window.window.kernel, "w")
        self.n, self.channels, self.outputs = vx.shape[0], vx.shape[1], vw.shape[0]
        if self.outputs != 0 if self.channels == 0 else self.outputs % self.channels != 0:
            raise ValueError(f"w has {self.outputs} channels, expected a multiple of the {self.channels} of x")
        self.bias = take_vector(&self.arrays, bias, self.outputs, "bias")
        vy = take_planes(&self.arrays, y, 2, window, window.window.output, True, &self.y, "y")
        check_channels(vy, (self.n, self.outputs), "y")
        check_overlap(&self.arrays, False)

    cdef int compute_band(self, int64_t first, int64_t last, const bound_band *at) except -1:
        cdef Py_buffer *y = &self.arrays.view[self.arrays.count - 1]
        check_range(first, last, self.outputs)
        if first < last:
            with nogil:
                srt_depthwise(floats(&self.arrays.view[0]) + at.x, floats(&self.arrays.view[1]), self.bias,
                              <float *>y.buf + at.y, self.n, self.channels, self.outputs // self.channels,
                              &self.window.window, &at.band, first, last, &self.act)
        return 0

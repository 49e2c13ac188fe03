# The kernels of kernels/kernels.h as Python functions: every shape, size and overlap is checked here, before a kernel
# runs; the C code checks nothing. Arrays come in through the buffer protocol and are held for the duration of the
# call, and may be read-only where they are not written. `act` is a code of ACTIVATIONS, alpha and beta its parameters.

cimport cython
from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBUF_SIMPLE,
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint32_t, uintptr_t
from libc.stdlib cimport getenv
from libc.string cimport memcpy

cdef extern from "cpu.h" nogil:
    ctypedef enum srt_isa:
        SRT_ISA_COUNT
    const char *srt_isa_name(int isa)
    bint srt_isa_available(srt_isa isa)
    srt_isa srt_isa_active()
    bint srt_isa_use(const char *name)

cdef extern from "parallel.h" nogil:
    enum:
        SRT_MAX_THREADS
    void srt_rouse()
    int srt_threads()
    void srt_set_threads(int count)

cdef extern from "kernels/kernels.h" nogil:
    enum:
        SRT_ACTIVATION_COUNT
        SRT_WINDOW_MAX
    ctypedef struct srt_activation:
        pass
    ctypedef struct srt_window:
        int64_t kernel[2]
        int64_t stride[2]
        int64_t dilation[2]
        int64_t before[2]
        int64_t after[2]
        int64_t input[2]
        int64_t output[2]
    srt_activation srt_activation_make(int code, float alpha, float beta)
    const char *srt_activation_name(int code)
    const char *srt_window_check(const srt_window *window)
    void srt_unary(const float *x, float *y, int64_t n, const srt_activation *act)
    void srt_bias_act(float *y, int64_t rows, int64_t cols, int64_t stride, const float *bias,
                      const srt_activation *act)
    void srt_transpose_bias_act(const float *t, float *y, int64_t rows, int64_t batch, int64_t stride,
                                const float *bias, const srt_activation *act)
    enum:
        SRT_DENSE_BATCH
        SRT_DENSE_GROUP
        SRT_DENSE_CHUNK
    void srt_dense(const float *w, const float *x, const float *bias, float *y, int64_t rows, int64_t inner,
                   int64_t batch, int64_t stride, const srt_activation *act)
    void srt_scale_shift_act(const float *x, const float *scale, const float *shift, float *y, int64_t n,
                             int64_t channels, int64_t size, const srt_activation *act)
    void srt_prelu(const float *x, const float *slope, bint one_slope, float *y, int64_t n, int64_t channels,
                   int64_t size)
    ctypedef struct srt_product_of_samples:
        const float *x
        const float *w
        const float *bias
        float *y
        int64_t batch
        int64_t inner
        int64_t rows
        int64_t stride
        float *block
        int64_t room
        float *scratch
        int64_t seats
        int64_t seat
        const srt_activation *act
    void srt_gemm(const srt_product_of_samples *g)
    enum:
        SRT_CONV_DEPTH
        SRT_CONV_COLUMNS
    ctypedef struct srt_convolution:
        const float *x
        const float *w
        const float *bias
        const float *residual
        float *y
        int64_t n
        int64_t groups
        int64_t channels
        int64_t outputs
        const srt_window *window
        int64_t first
        int64_t last
        const float *scale
        const float *shift
        bint each
        bint across
        float low
        float high
        float *scratch
        int64_t seats
        int64_t seat
        float *sums
        const srt_activation *act
    int64_t srt_conv_sums(int64_t n, int64_t groups, int64_t inner, int64_t outputs, const srt_window *window)
    void srt_conv(const srt_convolution *c)
    void srt_winograd(const srt_convolution *c)
    int64_t srt_winograd_seat(int64_t n, int64_t channels, int64_t outputs, const srt_window *window)
    void srt_depthwise(const float *x, const float *w, const float *bias, float *y, int64_t n, int64_t channels,
                       int64_t multiplier, const srt_window *window, int64_t first, int64_t last,
                       const srt_activation *act)
    void srt_max_pool(const float *x, float *y, int64_t planes, const srt_window *window)
    void srt_average_pool(const float *x, float *y, int64_t planes, const srt_window *window, bint count_padding)
    void srt_row_mean(const float *x, float *y, int64_t rows, int64_t cols)
    void srt_row_max(const float *x, float *y, int64_t rows, int64_t cols)
    void srt_softmax(const float *x, float *y, int64_t outer, int64_t k, int64_t inner, bint log)
    void srt_lrn(const float *x, float *y, int64_t n, int64_t channels, int64_t inner, int64_t size, float alpha,
                 float beta, float bias)
    uint32_t srt_crc32c(const void *data, size_t size, uint32_t value)


ACTIVATIONS = {srt_activation_name(code).decode(): code for code in range(SRT_ACTIVATION_COUNT)}


def isa():
    """The instruction set in use: "scalar", "avx2" or "avx512".

    The best one that the processor has, unless the environment variable STREAMRT_TEST_ISA named another
    when the module was imported.
    """
    return srt_isa_name(srt_isa_active()).decode()


def _isas():
    """The instruction sets that this processor has, the best last."""
    cdef int code
    codes = [code for code in range(<int>SRT_ISA_COUNT) if srt_isa_available(<srt_isa>code)]
    return tuple([srt_isa_name(code).decode() for code in codes])


def _use_isa(name):
    """Switch to another instruction set, for tests; only while no kernel runs.

    Raises:
        ValueError: unknown, or not available here.
    """
    if not srt_isa_use(name.encode()):
        raise ValueError(f"no instruction set {name!r} here, expected one of {_isas()}")


if not srt_isa_use(getenv("STREAMRT_TEST_ISA")):
    raise ImportError(
        f"STREAMRT_TEST_ISA: no instruction set {getenv('STREAMRT_TEST_ISA').decode(errors='replace')!r} here, "
        f"expected one of {_isas()}"
    )


def set_threads(n):
    """Let kernels use ``n`` threads, the caller's included: 1 to 256.

    Waits for the job in progress. One setting for the whole process.

    Raises:
        ValueError: out of range.
    """
    if not 1 <= n <= SRT_MAX_THREADS:
        raise ValueError(f"{n} threads, expected 1 to {SRT_MAX_THREADS}")
    cdef int count = n
    with nogil:
        srt_set_threads(count)


def threads():
    """Threads that kernels use, the caller's included; to begin with, the cores of the affinity mask."""
    return srt_threads()


def rouse():
    """Wake the kernels' threads, if they sleep, for a kernel that is called soon."""
    with nogil:
        srt_rouse()


# The arrays of one call: nine are what a convolution has at most. Released together, on every way out of it.
cdef enum:
    MOST_ARRAYS = 9
cdef struct Arrays:
    int count
    Py_buffer view[MOST_ARRAYS]


cdef inline void release(Arrays *arrays) noexcept:
    while arrays.count > 0:
        arrays.count -= 1
        PyBuffer_Release(&arrays.view[arrays.count])


# Take the next array: float32, aligned, of `ndim` axes (-1: any), C-contiguous unless `flags` ask for strides.
cdef Py_buffer *take(Arrays *arrays, object array, int ndim, int flags, str name) except NULL:
    assert arrays.count < MOST_ARRAYS
    cdef Py_buffer *view = &arrays.view[arrays.count]
    PyObject_GetBuffer(array, view, flags | PyBUF_FORMAT)
    arrays.count += 1
    cdef const char *format = view.format
    if format[0] == c"@" or format[0] == c"=":
        format += 1
    if format[0] != c"f" or format[1] != 0:
        raise ValueError(f"{name} has format {view.format.decode(errors='replace')!r}, expected float32")
    if <uintptr_t>view.buf % sizeof(float) != 0:
        raise ValueError(f"{name} is not aligned to {sizeof(float)} bytes")
    if ndim >= 0 and view.ndim != ndim:
        raise ValueError(f"{name} has {view.ndim} axes, expected {ndim}")
    return view


cdef inline Py_buffer *take_input(Arrays *arrays, object array, int ndim, str name) except NULL:
    return take(arrays, array, ndim, PyBUF_C_CONTIGUOUS, name)


cdef inline Py_buffer *take_output(Arrays *arrays, object array, int ndim, str name) except NULL:
    return take(arrays, array, ndim, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE, name)


# Take an optional vector of `size` elements; NULL for None.
cdef const float *take_vector(Arrays *arrays, object array, int64_t size, str name) except? NULL:
    if array is None:
        return NULL
    cdef Py_buffer *view = take_input(arrays, array, 1, name)
    if view.shape[0] != size:
        raise ValueError(f"{name} has {view.shape[0]} elements, expected {size}")
    return <const float *>view.buf


# Take a writable matrix whose rows may lie apart; `stride` is set to their distance in elements.
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


# From the first byte to the one after the last, gaps between rows included.
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


# The output, taken last, must not overlap the inputs; `inplace` allows it to be the first of them.
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
        raise ValueError(f"range {first} to {last}, expected one within 0 to {count}")
    return 0


cdef srt_activation activation(int act, float alpha, float beta) except *:
    if not 0 <= act < SRT_ACTIVATION_COUNT:
        raise ValueError(f"activation code {act}, expected 0 to {SRT_ACTIVATION_COUNT - 1}")
    return srt_activation_make(act, alpha, beta)


@cython.final
cdef class Window:
    """A window that slides over planes, for convolution and pooling; checked once, then used many times.

    ``Window(kernel=(kh, kw), strides=(sh, sw), dilations=(dh, dw), pads=(top, left, bottom, right),
    input=(h, w), output=(oh, ow))``. The output need not be the largest possible, and may be one larger than
    what the pads allow (ONNX's ceil_mode), but its last window must begin within the padded input.

    Raises:
        ValueError: lengths that are negative, zero where there must be one, or not below 2**30; an output
            that reaches too far.
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

    # Lengths that fit the C structure; what else is wrong with them, srt_window_check finds.
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


def unary(x, y, int act, float alpha, float beta):
    """``y = act(x)``, element by element; the shapes may differ, the sizes not. ``x`` may be ``y``.

    Raises:
        ValueError: wrong sizes, dtype or layout, an unknown ``act``, or arrays that overlap in part.
    """
    cdef srt_activation prepared = activation(act, alpha, beta)
    cdef Arrays arrays
    cdef Py_buffer *vx
    cdef Py_buffer *vy
    arrays.count = 0
    try:
        vx = take_input(&arrays, x, -1, "x")
        vy = take_output(&arrays, y, -1, "y")
        if vx.len != vy.len:
            raise ValueError(f"x has {elements(vx)} elements and y {elements(vy)}, expected the same")
        check_overlap(&arrays, True)
        with nogil:
            srt_unary(floats(vx), <float *>vy.buf, elements(vx), &prepared)
    finally:
        release(&arrays)


def bias_act(y, bias, int act, float alpha, float beta):
    """``y = act(y + bias)`` in place: y (rows, cols) with any row stride, bias (rows,) or None.

    Raises:
        ValueError: wrong shapes, dtype or layout, an unknown ``act``, or arrays that overlap.
    """
    cdef srt_activation prepared = activation(act, alpha, beta)
    cdef Arrays arrays
    cdef Py_buffer *vy
    cdef const float *b = NULL
    cdef int64_t stride
    arrays.count = 0
    try:
        if bias is not None:
            b = floats(take_input(&arrays, bias, 1, "bias"))
        vy = take_rows(&arrays, y, &stride, "y")
        if bias is not None:
            check_shape(&arrays.view[0], (vy.shape[0],), "bias")
        check_overlap(&arrays, False)
        with nogil:
            srt_bias_act(<float *>vy.buf, vy.shape[0], vy.shape[1], stride, b, &prepared)
    finally:
        release(&arrays)


def transpose_bias_act(t, y, bias, int act, float alpha, float beta):
    """``y = act(t.T + bias)``: t (rows, batch), y (batch, rows) with any row stride, bias (rows,) or None.

    Raises:
        ValueError: wrong shapes, dtype or layout, an unknown ``act``, or arrays that overlap.
    """
    cdef srt_activation prepared = activation(act, alpha, beta)
    cdef Arrays arrays
    cdef Py_buffer *vt
    cdef Py_buffer *vy
    cdef const float *b
    cdef int64_t stride
    arrays.count = 0
    try:
        vt = take_input(&arrays, t, 2, "t")
        b = take_vector(&arrays, bias, vt.shape[0], "bias")
        vy = take_rows(&arrays, y, &stride, "y")
        if vy.shape[0] != vt.shape[1] or vy.shape[1] != vt.shape[0]:
            raise ValueError(f"t has shape {shape_of(vt)} and y {shape_of(vy)}, expected the transposed shape")
        check_overlap(&arrays, False)
        with nogil:
            srt_transpose_bias_act(floats(vt), <float *>vy.buf, vt.shape[0], vt.shape[1], stride, b, &prepared)
    finally:
        release(&arrays)


DENSE_BATCH = SRT_DENSE_BATCH
DENSE_GROUP = SRT_DENSE_GROUP
DENSE_CHUNK = SRT_DENSE_CHUNK


def dense(w, x, y, bias, int act, float alpha, float beta):
    """``y = act(x @ w.T + bias)`` for few samples.

    w (rows, inner), bias (rows,) or None, y (batch, rows) with any row stride. x (batch, inner rounded up to whole
    chunks) holds at most DENSE_BATCH samples: DENSE_GROUP of them, (samples, chunks, DENSE_CHUNK) with the first two
    axes exchanged, and then the next; what fills up the last chunk is zero.

    Raises:
        ValueError: wrong shapes, dtype or layout, an unknown ``act``, or arrays that overlap.
    """
    cdef srt_activation prepared = activation(act, alpha, beta)
    cdef Arrays arrays
    cdef Py_buffer *vw
    cdef Py_buffer *vx
    cdef Py_buffer *vy
    cdef const float *b
    cdef int64_t stride, batch
    arrays.count = 0
    try:
        vw = take_input(&arrays, w, 2, "w")
        vx = take_input(&arrays, x, 2, "x")
        batch = vx.shape[0]
        check_shape(vx, (batch, (vw.shape[1] + SRT_DENSE_CHUNK - 1) // SRT_DENSE_CHUNK * SRT_DENSE_CHUNK), "x")
        if batch > SRT_DENSE_BATCH:
            raise ValueError(f"{batch} samples, expected at most {SRT_DENSE_BATCH}")
        b = take_vector(&arrays, bias, vw.shape[0], "bias")
        vy = take_rows(&arrays, y, &stride, "y")
        check_shape(vy, (batch, vw.shape[0]), "y")
        check_overlap(&arrays, False)
        with nogil:
            srt_dense(
                floats(vw), floats(vx), b, <float *>vy.buf, vw.shape[0], vw.shape[1], batch, stride, &prepared
            )
    finally:
        release(&arrays)


def scale_shift_act(x, scale, shift, y, int act, float alpha, float beta):
    """``y = act(x * scale + shift)``: x, y (N, C, S); scale, shift (C,). ``x`` may be ``y``.

    Raises:
        ValueError: wrong shapes, dtype or layout, an unknown ``act``, or arrays that overlap in part.
    """
    cdef srt_activation prepared = activation(act, alpha, beta)
    cdef Arrays arrays
    cdef Py_buffer *vx
    cdef Py_buffer *vy
    cdef const float *a
    cdef const float *b
    arrays.count = 0
    try:
        vx = take_input(&arrays, x, 3, "x")
        a = floats(take_input(&arrays, scale, 1, "scale"))
        check_shape(&arrays.view[1], (vx.shape[1],), "scale")
        b = floats(take_input(&arrays, shift, 1, "shift"))
        check_shape(&arrays.view[2], (vx.shape[1],), "shift")
        vy = take_output(&arrays, y, 3, "y")
        check_same(vx, vy)
        check_overlap(&arrays, True)
        with nogil:
            srt_scale_shift_act(floats(vx), a, b, <float *>vy.buf, vx.shape[0], vx.shape[1], vx.shape[2], &prepared)
    finally:
        release(&arrays)


def prelu(x, slope, y):
    """``y = x < 0 ? slope * x : x``: x, y (N, C, S); slope (C,) or (1,). ``x`` may be ``y``.

    Raises:
        ValueError: wrong shapes, dtype or layout, or arrays that overlap in part.
    """
    cdef Arrays arrays
    cdef Py_buffer *vx
    cdef Py_buffer *vs
    cdef Py_buffer *vy
    arrays.count = 0
    try:
        vx = take_input(&arrays, x, 3, "x")
        vs = take_input(&arrays, slope, 1, "slope")
        vy = take_output(&arrays, y, 3, "y")
        if vs.shape[0] != 1 and vs.shape[0] != vx.shape[1]:
            raise ValueError(f"slope has {vs.shape[0]} elements, expected 1 or {vx.shape[1]}")
        check_same(vx, vy)
        check_overlap(&arrays, True)
        with nogil:
            srt_prelu(floats(vx), floats(vs), vs.shape[0] == 1, <float *>vy.buf, vx.shape[0], vx.shape[1], vx.shape[2])
    finally:
        release(&arrays)


#: Terms of a convolution's sums that are worked through at once, at most, and positions that are laid out for it, at
#: least.
CONV_DEPTH = SRT_CONV_DEPTH
CONV_COLUMNS = SRT_CONV_COLUMNS


# The two convolutions that are products.
ctypedef void (*convolution)(const srt_convolution *c) noexcept nogil


# Take a factor for each input channel, or with `each` for each of every sample, and what is added: see srt_convolution.
cdef int take_scaling(Arrays *arrays, scale, shift, srt_convolution *c) except -1:
    cdef int64_t channels = c.groups * c.channels
    cdef Py_buffer *view
    c.scale = c.shift = NULL
    c.each = False
    if scale is None:
        if shift is not None:
            raise ValueError("a shift needs a scale")
        return 0
    for axis in range(2):
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


cdef class Kernel:
    """What computes channels ``first`` to ``last`` of an output when it is called, bound to its arrays.

    It keeps them alive. One thread at a time may call.
    """

    cdef Arrays arrays
    cdef Arrays kept  # sources and where they go, in turn

    def __dealloc__(self):
        release(&self.arrays)
        release(&self.kept)

    def keep(self, source, target):
        """Have every call that begins at channel 0 copy ``source`` to ``target`` first, both float32 of one axis.

        Of a node's parameters that the tiles share only the first tile may read the original.

        Raises:
            ValueError: wrong sizes, dtype or layout, arrays that overlap, or more than four of them.
        """
        cdef int count = self.kept.count
        if count + 2 > MOST_ARRAYS:
            raise ValueError("a kernel keeps at most four arrays")
        try:
            check_same(take_input(&self.kept, source, 1, "source"), take_output(&self.kept, target, 1, "target"))
            if overlap(&self.kept.view[count], &self.kept.view[count + 1]):
                raise ValueError("the target overlaps the source")
        except BaseException:
            while self.kept.count > count:
                self.kept.count -= 1
                PyBuffer_Release(&self.kept.view[self.kept.count])
            raise

    def __call__(self, int64_t first, int64_t last):
        self.run(first, last)

    cdef int run(self, int64_t first, int64_t last) except -1:
        cdef int i
        if first == 0:
            for i in range(0, self.kept.count, 2):
                memcpy(self.kept.view[i + 1].buf, self.kept.view[i].buf, self.kept.view[i].len)
        return self.compute(first, last)

    cdef int compute(self, int64_t first, int64_t last) except -1:
        raise NotImplementedError


# Floats of columns that a thread needs, from the terms of a sum: Python's integers, as lengths may be hostile.
cdef object columns_of(inner):
    return CONV_COLUMNS * min(inner, CONV_DEPTH)


# Take memory for threads: (threads, floats), at least `least` of these.
cdef int take_scratch(Arrays *arrays, scratch, least, float **floats, int64_t *seats, int64_t *seat) except -1:
    cdef Py_buffer *view = take_output(arrays, scratch, 2, "scratch")
    check_overlap(arrays, False)
    if view.shape[0] < 1 or view.shape[1] < least:
        raise ValueError(f"scratch has shape {shape_of(view)}, expected at least (1, {least})")
    floats[0], seats[0], seat[0] = <float *>view.buf, view.shape[0], view.shape[1]
    return 0


@cython.final
cdef class Gemm(Kernel):
    """``y = act(x @ w.T + bias)`` for any number of samples: checked once, then run often.

    x (batch, inner); w (rows, inner); bias (rows,) or None; y (batch, rows) with any row stride. A call writes some
    columns of y. block (M,), used during calls, holds products until they are transposed: at least one for each sample.
    scratch as for a `Convolution` with sums of ``inner`` terms.

    Raises:
        ValueError: wrong shapes, dtype or layout, 2**30 samples or more, a range beyond the rows, an unknown ``act``,
            or arrays that overlap.
    """

    cdef srt_product_of_samples bound
    cdef srt_activation act

    def __cinit__(self, x, w, bias, y, block, scratch, int act, float alpha, float beta):
        cdef srt_product_of_samples *g = &self.bound
        cdef Py_buffer *vx = take_input(&self.arrays, x, 2, "x")
        cdef Py_buffer *vw = take_input(&self.arrays, w, 2, "w")
        cdef Py_buffer *vy
        self.act = activation(act, alpha, beta)
        g.act, g.x, g.w = &self.act, floats(vx), floats(vw)
        g.batch, g.rows, g.inner = vx.shape[0], vw.shape[0], vw.shape[1]
        check_shape(vx, (g.batch, g.inner), "x")
        if g.batch > SRT_WINDOW_MAX:
            raise ValueError(f"{g.batch} samples, expected fewer than 2**30")
        g.bias = take_vector(&self.arrays, bias, g.rows, "bias")
        vy = take_rows(&self.arrays, y, &g.stride, "y")
        check_shape(vy, (g.batch, g.rows), "y")
        check_overlap(&self.arrays, False)
        g.y = <float *>vy.buf
        vy = take_output(&self.arrays, block, 1, "block")
        check_overlap(&self.arrays, False)
        if vy.shape[0] < g.batch:
            raise ValueError(f"block has {vy.shape[0]} elements, expected at least {g.batch}")
        g.block, g.room = <float *>vy.buf, vy.shape[0]
        take_scratch(&self.arrays, scratch, columns_of(g.inner), &g.scratch, &g.seats, &g.seat)

    cdef int compute(self, int64_t first, int64_t last) except -1:
        cdef srt_product_of_samples g = self.bound
        check_range(first, last, g.rows)
        g.w += first * g.inner
        g.y += first
        g.rows = last - first
        if g.bias != NULL:
            g.bias += first
        with nogil:
            srt_gemm(&g)
        return 0


@cython.final
cdef class Convolution(Kernel):
    """A convolution in groups of channels, each with its own part of the weights: checked once, then run often.

    x (N, G * C, H, W); w (G * OC, C, KH, KW); bias (G * OC,) or None; y (N, G * OC, OH, OW); residual, of y's shape or
    None, is added before ``act``, and may be y.

    scratch (S, F), used during calls: S threads at most take part, with F floats each. There must be CONV_COLUMNS times
    CONV_DEPTH of them, or times C * KH * KW if that is less; up to half of a core's own cache more are faster.
    ``winograd`` computes by Winograd's algorithm, about four times less exact, and faster where `winograd_seat`, the
    least F then, is not 0.

    sums (M,) or None, used during calls: with `conv_sums` floats of it two threads share out small maps better.

    With scale (G * C,) or (N, G * C), the input is min(high, max(low, x * scale + shift)), shift (G * C,) or None; the
    window must then be 1 x 1 with stride 1 and without padding.

    Raises:
        ValueError: wrong shapes, dtype or layout, a range beyond the channels, an unknown ``act``, a scale where there
            may be none, ``winograd`` where `winograd_seat` is 0, or arrays that overlap.
    """

    cdef srt_convolution bound
    cdef srt_activation act
    cdef convolution kernel
    cdef Window window

    def __cinit__(self, x, w, bias, residual, y, Window window not None, int groups, scratch, int act, float alpha,
                  float beta, *, bint winograd=False, sums=None, scale=None, shift=None, float low=-INFINITY,
                  float high=INFINITY):
        cdef srt_convolution *c = &self.bound
        cdef Arrays *arrays = &self.arrays
        cdef Py_buffer *vx
        cdef Py_buffer *vw
        cdef Py_buffer *vy
        cdef Py_buffer *vs
        self.window, self.act = window, activation(act, alpha, beta)
        self.kernel = srt_winograd if winograd else srt_conv
        c.window, c.act, c.low, c.high = &window.window, &self.act, low, high
        vx = take_input(arrays, x, 4, "x")
        check_planes(vx, 2, c.window.input, "x")
        vw = take_input(arrays, w, 4, "w")
        check_planes(vw, 2, c.window.kernel, "w")
        if groups < 1 or vw.shape[0] % groups != 0 or vx.shape[1] != vw.shape[1] * <object>groups:
            raise ValueError(f"x has shape {shape_of(vx)} and w {shape_of(vw)}, which do not fit in {groups} groups")
        c.n, c.groups, c.channels, c.outputs = vx.shape[0], groups, vw.shape[1], vw.shape[0] // groups
        c.x, c.w, c.bias = floats(vx), floats(vw), take_vector(arrays, bias, vw.shape[0], "bias")
        take_scaling(arrays, scale, shift, c)
        vy = take_output(arrays, y, 4, "y")
        check_shape(vy, (vx.shape[0], vw.shape[0], c.window.output[0], c.window.output[1]), "y")
        check_overlap(arrays, False)
        c.y, c.residual = <float *>vy.buf, NULL
        if residual is not None:
            vs = take_input(arrays, residual, 4, "residual")
            check_same(vs, vy)
            c.residual = floats(vs)
            if c.residual != floats(vy) and overlap(vs, vy):
                raise ValueError("the output overlaps an input")
        take_scratch(arrays, scratch, self._seat(winograd, scale), &c.scratch, &c.seats, &c.seat)
        c.sums = NULL
        if sums is not None:
            vs = take_output(arrays, sums, 1, "sums")
            check_overlap(arrays, False)
            least = conv_sums(c.n, c.groups, <object>c.channels * c.window.kernel[0] * c.window.kernel[1], c.outputs,
                              window)
            if vs.shape[0] < least:
                raise ValueError(f"sums has {vs.shape[0]} elements, expected at least {least}")
            c.sums = <float *>vs.buf

    # Floats of scratch memory that a thread needs.
    cdef object _seat(self, bint winograd, scale):
        cdef srt_convolution *c = &self.bound
        if winograd:
            least = winograd_seat(c.n, c.channels, c.outputs, self.window)
            if least == 0 or scale is not None:
                raise ValueError("this convolution is none for Winograd's algorithm")
            return least
        # in Python's integers: three lengths of a hostile window may overflow
        taps = <object>c.window.kernel[0] * <object>c.window.kernel[1]
        return columns_of(<object>c.channels * taps)

    cdef int compute(self, int64_t first, int64_t last) except -1:
        cdef srt_convolution c = self.bound
        check_range(first, last, c.groups * c.outputs)
        c.first, c.last = first, last
        with nogil:
            self.kernel(&c)
        return 0


def conv_sums(int64_t n, int64_t groups, inner, int64_t outputs, Window window not None):
    """Floats with which two threads make the two parts of a long sum at once; 0 where they do not.

    n samples; inner terms of a sum; outputs of one group. The results are the same.
    """
    return srt_conv_sums(n, groups, inner, outputs, &window.window) if inner < 2**31 else 0


def winograd_seat(int64_t n, int64_t channels, int64_t outputs, Window window not None):
    """Floats of scratch memory for each thread with which `winograd` is faster than `conv`; 0 where it is not.

    n samples; channels and outputs of one group.

    Raises:
        ValueError: a negative number, or 2**40 or more positions of all samples.
    """
    positions = <object>n * <object>window.window.output[0] * <object>window.window.output[1]
    if n < 0 or channels < 0 or outputs < 0 or positions >= 2**40:
        raise ValueError(f"{n} samples, {channels} channels, {outputs} outputs and {positions} positions, "
                         f"expected none negative, and fewer than 2**40 positions")
    return srt_winograd_seat(n, channels, outputs, &window.window)


@cython.final
cdef class Depthwise(Kernel):
    """A convolution where output channel j reads one input channel, j // m: checked once, then run often.

    x (N, C, H, W); w (C * m, KH, KW); bias (C * m,) or None; y (N, C * m, OH, OW).

    Raises:
        ValueError: wrong shapes, dtype or layout, a range beyond the channels, an unknown ``act``, or
            arrays that overlap.
    """

    cdef srt_activation act
    cdef Window window
    cdef const float *bias
    cdef int64_t n, channels, outputs

    def __cinit__(self, x, w, bias, y, Window window not None, int act, float alpha, float beta):
        cdef Py_buffer *vx
        cdef Py_buffer *vw
        cdef Py_buffer *vy
        self.window, self.act = window, activation(act, alpha, beta)
        vx = take_input(&self.arrays, x, 4, "x")
        check_planes(vx, 2, window.window.input, "x")
        vw = take_input(&self.arrays, w, 3, "w")
        check_planes(vw, 1, window.window.kernel, "w")
        self.n, self.channels, self.outputs = vx.shape[0], vx.shape[1], vw.shape[0]
        if self.outputs != 0 if self.channels == 0 else self.outputs % self.channels != 0:
            raise ValueError(f"w has {self.outputs} channels, expected a multiple of the {self.channels} of x")
        self.bias = take_vector(&self.arrays, bias, self.outputs, "bias")
        vy = take_output(&self.arrays, y, 4, "y")
        check_shape(vy, (self.n, self.outputs, window.window.output[0], window.window.output[1]), "y")
        check_overlap(&self.arrays, False)

    cdef int compute(self, int64_t first, int64_t last) except -1:
        cdef Py_buffer *y = &self.arrays.view[self.arrays.count - 1]
        check_range(first, last, self.outputs)
        if first < last:
            with nogil:
                srt_depthwise(floats(&self.arrays.view[0]), floats(&self.arrays.view[1]), self.bias, <float *>y.buf,
                              self.n, self.channels, self.outputs // self.channels, &self.window.window, first, last,
                              &self.act)
        return 0


# Arrays of the two poolings: x (planes, h, w), y (planes, oh, ow).
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

    Padding never wins; a window of nothing but padding gives -infinity. NaN wins always.

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

    With ``count_include_pad`` padding counts as zeros; what a window in ceil_mode covers beyond the padding
    never counts. A window of nothing but padding gives 0.

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


# Arrays of the two reductions: x (rows, cols), y (rows,).
cdef int take_reduction(Arrays *arrays, object x, object y) except -1:
    cdef Py_buffer *vx = take_input(arrays, x, 2, "x")
    cdef Py_buffer *vy = take_output(arrays, y, 1, "y")
    check_shape(vy, (vx.shape[0],), "y")
    return check_overlap(arrays, False)


def row_mean(x, y):
    """The mean of each row: x (R, K), y (R,). Accurate for any K; NaN when K is 0.

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


def row_max(x, y):
    """The largest element of each row, or NaN if it holds one: x (R, K), y (R,).

    Raises:
        ValueError: wrong shapes, dtype or layout, empty rows, or arrays that overlap.
    """
    cdef Arrays arrays
    arrays.count = 0
    try:
        take_reduction(&arrays, x, y)
        if arrays.view[0].shape[1] == 0 and arrays.view[0].shape[0] != 0:
            raise ValueError("the maximum of empty rows does not exist")
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


def crc32c(data, uint32_t value=0):
    """CRC-32C of a contiguous buffer, continuing from the ``value`` of what came before it."""
    cdef Py_buffer view
    cdef uint32_t result
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            result = srt_crc32c(view.buf, view.len, value)
    finally:
        PyBuffer_Release(&view)
    return result

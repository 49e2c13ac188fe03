"""Dense layers, for few samples and for many."""


DENSE_BATCH = SRT_DENSE_BATCH
DENSE_GROUP = SRT_DENSE_GROUP
DENSE_CHUNK = SRT_DENSE_CHUNK
DENSE_WIDE = SRT_DENSE_WIDE


# srt_dense or srt_dense_wide.
ctypedef void (*product_of_few)(const srt_weights *w, const float *x, const float *bias, float *y, int64_t rows,
                                int64_t batch, int64_t stride, const srt_activation *act) noexcept nogil


@cython.final
cdef class Dense(ArrayKernel):
    """``y = act(x @ w.T + bias)`` for few samples. Checked once, then run often.

    w (rows, inner), float32 or `Coded`; bias (rows,) or None; y (batch, rows) with any row stride. A call writes some
    columns of y. x is (batch, inner rounded up to whole chunks of DENSE_CHUNK floats), for at most DENSE_BATCH samples.
    In memory it has groups of DENSE_GROUP samples; the last group may be smaller. Each group is (chunks, samples,
    DENSE_CHUNK). The last chunk is filled up with zeros.

    ``packing``, if given, is run by every call with ``first == 0`` before it computes: it writes x.

    If it is ``wide``, x is (inner, DENSE_WIDE), for at most DENSE_WIDE samples: element (k, s) is feature k of sample
    s, and 0 if there is no such sample.

    Raises:
        ValueError: wrong shapes, dtype or layout, a range beyond the rows, an unknown ``act``, or arrays that overlap.
    """

    cdef srt_weights w
    cdef srt_activation act
    cdef product_of_few product
    cdef Copies packing
    cdef const float *x
    cdef const float *bias
    cdef float *y
    cdef int64_t rows, batch, stride

    def __cinit__(self, w, x, y, bias, int act, float alpha, float beta, *, bint wide=False,
                  Copies packing=None):
        cdef Arrays *arrays = &self.arrays
        cdef Py_buffer *vx
        cdef Py_buffer *vy
        self.act, self.packing = activation(act, alpha, beta), packing
        self.product = srt_dense_wide if wide else srt_dense
        self.rows, inner = take_weights(arrays, w, 2, &self.w, "w")
        vx = take_input(arrays, x, 2, "x")
        self.bias = take_vector(arrays, bias, self.rows, "bias")
        vy = take_rows(arrays, y, &self.stride, "y")
        self.batch = vy.shape[0]
        check_shape(vy, (self.batch, self.rows), "y")
        if wide:
            check_shape(vx, (inner, SRT_DENSE_WIDE), "x")
        else:
            check_shape(vx, (self.batch, (inner + SRT_DENSE_CHUNK - 1) // SRT_DENSE_CHUNK * SRT_DENSE_CHUNK), "x")
        most = SRT_DENSE_WIDE if wide else SRT_DENSE_BATCH
        if self.batch > most:
            raise ValueError(f"{self.batch} samples, expected at most {most}")
        check_overlap(arrays, False)
        self.x, self.y = floats(vx), <float *>vy.buf

    cdef int compute(self, int64_t first, int64_t last) except -1:
        check_range(first, last, self.rows)
        if first == 0 and self.packing is not None:
            self.packing.run(0, 1)
        cdef srt_weights w = srt_weights_from(self.w, first)
        cdef const float *bias = self.bias + first if self.bias != NULL else NULL
        with nogil:
            self.product(&w, self.x, bias, self.y + first, last - first, self.batch, self.stride, &self.act)
        return 0


def dense_most(weights):
    """The largest batch for which `Dense` takes less time than `Gemm`, for a number of weights.

    It is 0 if `products_pay` is false.
    """
    return srt_dense_most(min(weights, 2**62))


def products_pay():
    """Whether kernels compute products with weights. With the instruction set "numpy", NumPy computes them."""
    return srt_products_pay()


def gemm_pays():
    """Whether `Gemm` takes less time than NumPy's product, with the instruction set in use."""
    return srt_gemm_pays()


@cython.final
cdef class Gemm(ArrayKernel):
    """``y = act(x @ w.T + bias)`` for any number of samples. Checked once, then run often.

    x (batch, inner); w (rows, inner), float32 or `Coded`; bias (rows,) or None; y (batch, rows) with any row stride. A
    call writes some columns of y. block (M,), used during calls, holds products until they are transposed; M is at
    least batch. scratch is as for a `Convolution` with sums of ``inner`` terms.

    Raises:
        ValueError: wrong shapes, dtype or layout, 2**30 samples or more, a range beyond the rows, an unknown ``act``,
            or arrays that overlap.
    """

    cdef srt_product_of_samples bound
    cdef srt_activation act

    def __cinit__(self, x, w, bias, y, block, scratch, int act, float alpha, float beta):
        cdef srt_product_of_samples *g = &self.bound
        cdef Py_buffer *vx = take_input(&self.arrays, x, 2, "x")
        cdef Py_buffer *vy
        self.act = activation(act, alpha, beta)
        g.act, g.x, g.batch = &self.act, floats(vx), vx.shape[0]
        g.rows, inner = take_weights(&self.arrays, w, 2, &g.w, "w")
        check_shape(vx, (g.batch, inner), "x")
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
        take_scratch(&self.arrays, scratch, columns_of(inner), &g.scratch, &g.seats, &g.seat)

    cdef int compute(self, int64_t first, int64_t last) except -1:
        cdef srt_product_of_samples g = self.bound
        check_range(first, last, g.rows)
        g.w = srt_weights_from(g.w, first)
        g.y += first
        g.rows = last - first
        if g.bias != NULL:
            g.bias += first
        with nogil:
            srt_gemm(&g)
        return 0

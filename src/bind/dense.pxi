"""Dense layers, for few samples and for many."""


DENSE_BATCH = SRT_DENSE_BATCH
DENSE_GROUP = SRT_DENSE_GROUP
DENSE_CHUNK = SRT_DENSE_CHUNK
DENSE_WIDE = SRT_DENSE_WIDE


def dense(w, x, y, bias, int act, float alpha, float beta):
    """``y = act(x @ w.T + bias)`` for few samples.

    w (rows, inner), float32 or `Coded`; bias (rows,) or None; y (batch, rows) with any row stride. x is (batch, inner
    rounded up to whole chunks of DENSE_CHUNK floats), for at most DENSE_BATCH samples. In memory it has groups of
    DENSE_GROUP samples; the last group may be smaller. Each group is (chunks, samples, DENSE_CHUNK). The last chunk is
    filled up with zeros.

    Raises:
        ValueError: wrong shapes, dtype or layout, an unknown ``act``, or arrays that overlap.
    """
    cdef srt_activation prepared = activation(act, alpha, beta)
    cdef Arrays arrays
    cdef srt_weights weights
    cdef Py_buffer *vx
    cdef Py_buffer *vy
    cdef const float *b
    cdef int64_t stride, batch, rows, inner
    arrays.count = 0
    try:
        rows, inner = take_weights(&arrays, w, 2, &weights, "w")
        vx = take_input(&arrays, x, 2, "x")
        batch = vx.shape[0]
        check_shape(vx, (batch, (inner + SRT_DENSE_CHUNK - 1) // SRT_DENSE_CHUNK * SRT_DENSE_CHUNK), "x")
        if batch > SRT_DENSE_BATCH:
            raise ValueError(f"{batch} samples, expected at most {SRT_DENSE_BATCH}")
        b = take_vector(&arrays, bias, rows, "bias")
        vy = take_rows(&arrays, y, &stride, "y")
        check_shape(vy, (batch, rows), "y")
        check_overlap(&arrays, False)
        with nogil:
            srt_dense(&weights, floats(vx), b, <float *>vy.buf, rows, batch, stride, &prepared)
    finally:
        release(&arrays)


def dense_wide(w, x, y, bias, int act, float alpha, float beta):
    """As `dense`, for at most DENSE_WIDE samples, as many as y has rows.

    x (inner, DENSE_WIDE): element (k, s) is feature k of sample s, and 0 if there is no such sample.

    Raises:
        ValueError: wrong shapes, dtype or layout, an unknown ``act``, or arrays that overlap.
    """
    cdef srt_activation prepared = activation(act, alpha, beta)
    cdef Arrays arrays
    cdef srt_weights weights
    cdef Py_buffer *vx
    cdef Py_buffer *vy
    cdef const float *b
    cdef int64_t stride, batch, rows, inner
    arrays.count = 0
    try:
        rows, inner = take_weights(&arrays, w, 2, &weights, "w")
        vx = take_input(&arrays, x, 2, "x")
        check_shape(vx, (inner, SRT_DENSE_WIDE), "x")
        b = take_vector(&arrays, bias, rows, "bias")
        vy = take_rows(&arrays, y, &stride, "y")
        batch = vy.shape[0]
        check_shape(vy, (batch, rows), "y")
        if batch > SRT_DENSE_WIDE:
            raise ValueError(f"{batch} samples, expected at most {SRT_DENSE_WIDE}")
        check_overlap(&arrays, False)
        with nogil:
            srt_dense_wide(&weights, floats(vx), b, <float *>vy.buf, rows, batch, stride, &prepared)
    finally:
        release(&arrays)


def dense_most(weights):
    """The largest batch for which `dense` or `dense_wide` takes less time than `Gemm`, for a number of weights.

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

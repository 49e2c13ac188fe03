"""Products of computed matrices, and attention."""


cdef int check_columns(object count, str name) except -1:
    if count > SRT_WINDOW_MAX:
        raise ValueError(f"{count} {name}, expected fewer than 2**30")
    return 0


@cython.final
cdef class Matrices(ArrayKernel):
    """``y = act(a @ b)`` for computed matrices. Checked once, then run often. A run computes the whole output.

    a (G, M, K), which all samples share; b (N, G, K, C), or (N, G, C, K) with ``transposed``; y (N, G, M, C). scratch
    is as for a `Convolution` with sums of K terms.

    Raises:
        ValueError: wrong shapes, dtype or layout, 2**30 columns or more, an unknown ``act``, or arrays that overlap.
    """

    cdef srt_matrices bound
    cdef srt_activation act

    def __cinit__(self, a, b, y, bint transposed, scratch, int act, float alpha, float beta):
        cdef srt_matrices *m = &self.bound
        cdef Py_buffer *va = take_input(&self.arrays, a, 3, "a")
        cdef Py_buffer *vy
        cdef Py_buffer *vb = take_input(&self.arrays, b, 4, "b")
        self.act = activation(act, alpha, beta)
        m.act, m.transposed = &self.act, transposed
        m.groups, m.rows, m.inner = va.shape[0], va.shape[1], va.shape[2]
        m.n, m.columns = vb.shape[0], vb.shape[2 if transposed else 3]
        check_columns(m.columns, "columns")
        check_shape(vb, (m.n, m.groups, m.columns, m.inner) if transposed else (m.n, m.groups, m.inner, m.columns), "b")
        vy = take_output(&self.arrays, y, 4, "y")
        check_shape(vy, (m.n, m.groups, m.rows, m.columns), "y")
        check_overlap(&self.arrays, False)
        m.a, m.b, m.y = floats(va), floats(vb), <float *>vy.buf
        take_scratch(&self.arrays, scratch, columns_of(m.inner), &m.scratch, &m.seats, &m.seat)

    cdef int compute(self, int64_t first, int64_t last) except -1:
        with nogil:
            srt_matmul(&self.bound)
        return 0


def attention_rows(int64_t pieces, int64_t rows, int64_t keys, int64_t room):
    """Rows of scores that `Attention` computes together, for memory of ``room`` scores.

    pieces: heads of keys of all samples; rows: queries of all heads that share one of them.

    Raises:
        ValueError: a number is not positive.
    """
    if pieces < 1 or rows < 1 or keys < 1 or room < 1:
        raise ValueError(f"{pieces} pieces, {rows} rows, {keys} keys and room {room}, expected positive numbers")
    return srt_attention_rows(pieces, rows, keys, room)


@cython.final
cdef class Attention(ArrayKernel):
    """``y = softmax(cap(scale * q @ transpose(k)) + mask) @ v``, where cap(x) is ``cap * tanh(x / cap)``.

    Checked once, then run often. A run computes the whole output.

    q (N, H, S, L, D): S heads of L queries share one of H heads of keys. k (N, H, J, D); v (N, H, J, W); y (N, H, S, L,
    W). mask, or None, is 4-D and broadcasts to (N, H * S, L, J). Its last axis may be shorter than J: later keys are
    not used. With ``truth`` its elements are truth values: a key whose element is 0 is not used. Query i lies at
    the place i + offset of the keys. It uses keys up to this place if ``causal``, and from ``left`` keys before it to
    ``right`` keys behind it, if these are not -1. A query that may use no key gives 0 with ``zeros``, else NaN. A cap
    of 0 is none. No extent but N may be 0.

    Used during calls: scores (M,), at least J; scaled (R * D,), or None if scale is 1 and cap is 0; unused (R,); R is
    `attention_rows` for M. scratch is as for a `Convolution` with sums of the larger of D and J terms.

    Raises:
        ValueError: wrong shapes, dtype or layout, 2**30 keys or values of a head or more, or arrays that overlap.
    """

    cdef srt_attention_job bound

    def __cinit__(self, q, k, v, mask, y, scores, scaled, unused, scratch, *, float scale, float cap, bint truth,
                  bint causal, int64_t offset, int64_t left, int64_t right, bint zeros):
        cdef srt_attention_job *a = &self.bound
        cdef Arrays *arrays = &self.arrays
        cdef Py_buffer *view = take_input(arrays, q, 5, "q")
        cdef int axis
        a.scale, a.cap, a.truth, a.causal, a.zeros = scale, cap, truth, causal, zeros
        if not 0 <= offset <= SRT_WINDOW_MAX:
            raise ValueError(f"offset {offset}, expected 0 to 2**30 - 1")
        if not (-1 <= left <= SRT_WINDOW_MAX and -1 <= right <= SRT_WINDOW_MAX):
            raise ValueError(f"windows of {left} and {right} keys, expected -1 to 2**30 - 1")
        a.offset, a.left, a.right = offset, left, right
        a.n, a.heads, a.shared, a.queries, a.inner = (view.shape[axis] for axis in range(5))
        a.q = floats(view)
        view = take_input(arrays, k, 4, "k")
        a.keys, a.k = view.shape[2], floats(view)
        check_shape(view, (a.n, a.heads, a.keys, a.inner), "k")
        view = take_input(arrays, v, 4, "v")
        a.width, a.v = view.shape[3], floats(view)
        check_shape(view, (a.n, a.heads, a.keys, a.width), "v")
        check_columns(a.keys, "keys")
        check_columns(a.width, "values")
        if min(a.heads, a.shared, a.queries, a.keys, a.inner, a.width) < 1:
            raise ValueError(f"{shape_of(&arrays.view[0])} and {shape_of(&arrays.view[2])}, expected positive extents")
        self._take_mask(mask)
        view = take_output(arrays, y, 5, "y")
        check_shape(view, (a.n, a.heads, a.shared, a.queries, a.width), "y")
        check_overlap(arrays, False)
        a.y = <float *>view.buf
        view = take_output(arrays, scores, 1, "scores")
        check_overlap(arrays, False)
        if view.shape[0] < a.keys:
            raise ValueError(f"scores has {view.shape[0]} elements, expected at least {a.keys}")
        a.scores, a.room = <float *>view.buf, view.shape[0]
        rows = attention_rows(max(a.n * a.heads, 1), a.shared * a.queries, a.keys, a.room)
        a.unused, a.scaled = self._take_room(unused, rows, "unused"), NULL
        if scaled is not None:
            a.scaled = self._take_room(scaled, rows * a.inner, "scaled")
        elif scale != 1.0 or cap != 0.0:
            raise ValueError("scaled is None, expected memory: the queries are scaled")
        take_scratch(arrays, scratch, columns_of(max(a.inner, a.keys)), &a.scratch, &a.seats, &a.seat)

    cdef int _take_mask(self, mask) except -1:
        cdef srt_attention_job *a = &self.bound
        cdef Py_buffer *view
        cdef int64_t extents[4]
        cdef int64_t step = 1
        cdef int axis
        a.mask = NULL
        if mask is None:
            return 0
        view = take_input(&self.arrays, mask, 4, "mask")
        a.masked = a.keys if view.shape[3] == 1 else view.shape[3]
        extents[0], extents[1], extents[2], extents[3] = a.n, a.heads * a.shared, a.queries, min(a.masked, a.keys)
        for axis in range(3, -1, -1):
            if view.shape[axis] < 1 or (view.shape[axis] != 1 and view.shape[axis] != extents[axis]):
                raise ValueError(f"mask has shape {shape_of(view)}, which does not broadcast to "
                                 f"{[extents[i] for i in range(4)]}")
            a.steps[axis] = 0 if view.shape[axis] == 1 else step
            step *= view.shape[axis]
        a.mask = floats(view)
        return 0

    cdef float *_take_room(self, array, least, str name) except NULL:
        cdef Py_buffer *view = take_output(&self.arrays, array, 1, name)
        check_overlap(&self.arrays, False)
        if view.shape[0] < least:
            raise ValueError(f"{name} has {view.shape[0]} elements, expected at least {least}")
        return <float *>view.buf

    cdef int compute(self, int64_t first, int64_t last) except -1:
        with nogil:
            srt_attention(&self.bound)
        return 0

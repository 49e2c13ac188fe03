"""Kernels for each element: activations, biases, scales and slopes."""


def unary(x, y, int act, float alpha, float beta):
    """``y = act(x)`` for each element. Shapes may differ, sizes may not. ``x`` may be ``y``.

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

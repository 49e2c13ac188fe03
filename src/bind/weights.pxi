"""Weights that lie in memory in fewer bytes than float32: see srt_weights."""


# The types by the names that a weights file gives them. F16 and BF16 are floats, int8 and int4 have scales.
cdef dict CODED_TYPES = {"F16": SRT_FLOAT16, "BF16": SRT_BFLOAT16, "int8": SRT_INT8, "int4": SRT_INT4}

# The most weights of a row and in all, so that numbers of bytes fit 64 bits.
cdef object MOST_WEIGHTS = 2**59


def row_bytes(str dtype not None, inner, block=0, bint zeros=False):
    """Bytes of a row of ``inner`` weights.

    Args:
        dtype: ``"F16"``, ``"BF16"``, ``"int8"`` or ``"int4"``.
        inner: weights of a row.
        block: weights that share a scale, at least 1; 0 with floats.
        zeros: whether each block has a zero point; not with floats.

    Raises:
        ValueError: an unknown type, or a number that does not fit it.
    """
    if dtype not in CODED_TYPES:
        raise ValueError(f"weights of type {dtype!r}, expected one of {', '.join(CODED_TYPES)}")
    if not 0 <= inner < MOST_WEIGHTS:
        raise ValueError(f"rows of {inner} weights, expected 0 to 2**59 - 1")
    if dtype in ("int8", "int4"):
        if not 1 <= block < MOST_WEIGHTS:
            raise ValueError(f"blocks of {block} weights, expected 1 to 2**59 - 1")
    elif block != 0 or zeros:
        raise ValueError(f"weights of type {dtype} have no blocks and no zero points")
    return srt_row_bytes(CODED_TYPES[dtype], inner, block, zeros)


@cython.final
cdef class Coded:
    """Weights (rows, ...) in fewer bytes than float32. Kernels take it in place of an array of weights.

    Weight k of a row of integers is ``(code[k] - zero[k // block]) * scale[k // block]``, rounded once to float32. A
    row is its scales, float32; its zero points, if there are any, int8; and its codes: see srt_weight_type. Rows of
    integers are filled up to a multiple of 4 bytes. A row of floats is the floats.

    Args:
        data: the bytes of all rows, uint8, which it keeps.
        dtype, block, zeros: as for `row_bytes`. With ``block=None`` a row is one block.
        shape: of the weights; axis 0 is the rows.

    Attributes:
        shape: as above.

    Raises:
        ValueError: an unknown type, a shape without axes, or bytes that do not fit the shape.
    """

    cdef srt_weights bound
    cdef object data  # a memoryview
    cdef readonly tuple shape

    def __cinit__(self, data, str dtype not None, tuple shape not None, block=None, bint zeros=False):
        cdef Py_buffer view
        if not shape or not all(0 <= extent < MOST_WEIGHTS for extent in shape):
            raise ValueError(f"weights of shape {shape}, expected rows, and extents from 0 to 2**59 - 1")
        inner = 1
        for extent in shape[1:]:
            inner *= extent
        if block is None:
            block = max(inner, 1) if dtype in ("int8", "int4") else 0
        each = row_bytes(dtype, inner, block, zeros)
        self.data, self.shape = memoryview(data), shape
        PyObject_GetBuffer(self.data, &view, PyBUF_C_CONTIGUOUS)
        try:
            if view.len != each * shape[0]:
                raise ValueError(f"{view.len} bytes, expected {each * shape[0]} for {dtype} weights of shape {shape}")
            if <uintptr_t>view.buf % sizeof(float) != 0:
                raise ValueError(f"the weights are not aligned to {sizeof(float)} bytes")
            self.bound = srt_weights_make(view.buf, CODED_TYPES[dtype], inner, block, zeros)
        finally:
            PyBuffer_Release(&view)

    def reshape(self, *shape):
        """The same weights in another shape, whose axis 0 is the same rows."""
        cdef Coded other = Coded.__new__(Coded, b"", "F16", (0,))
        inner = 1
        for extent in shape[1:]:
            inner *= extent
        if not shape or shape[0] != self.shape[0] or inner != self.bound.inner:
            raise ValueError(f"weights of shape {self.shape} cannot have shape {shape}: the rows must stay")
        other.data, other.bound, other.shape = self.data, self.bound, shape
        return other

    def rows(self, int64_t first, int64_t last):
        """The rows from ``first`` to ``last``, without copying them."""
        cdef Coded other = Coded.__new__(Coded, b"", "F16", (0,))
        check_range(first, last, self.shape[0])
        other.data, other.bound = self.data, srt_weights_from(self.bound, first)
        other.shape = (last - first, *self.shape[1:])
        return other

    def decode(self, int64_t first, int64_t last, out):
        """Writes the rows from ``first`` to ``last`` to ``out``, float32 (rows, weights of a row)."""
        cdef Arrays arrays
        cdef Py_buffer *view
        arrays.count = 0
        check_range(first, last, self.shape[0])
        try:
            view = take_output(&arrays, out, 2, "out")
            check_shape(view, (last - first, self.bound.inner), "out")
            with nogil:
                srt_decode(&self.bound, first, last, <float *>view.buf)
        finally:
            release(&arrays)


# Takes weights of `ndim` axes, which are a float32 array or `Coded`, and returns their shape.
cdef tuple take_weights(Arrays *arrays, object w, int ndim, srt_weights *weights, str name):
    cdef Py_buffer *view
    cdef int64_t inner = 1
    cdef int i
    if isinstance(w, Coded):
        view = &arrays.view[arrays.count]
        PyObject_GetBuffer((<Coded>w).data, view, PyBUF_C_CONTIGUOUS)
        arrays.count += 1
        weights[0] = (<Coded>w).bound
        if len((<Coded>w).shape) != ndim:
            raise ValueError(f"{name} has {len((<Coded>w).shape)} axes, expected {ndim}")
        return (<Coded>w).shape
    view = take_input(arrays, w, ndim, name)
    for i in range(1, ndim):
        inner *= view.shape[i]
    weights[0] = srt_weights_make(view.buf, SRT_FLOAT32, inner, 0, False)
    return shape_of(view)

"""Scratch memory of products, which holds their columns."""


#: The most terms in one part of a convolution's sums, and the fewest output positions whose columns are laid out.
CONV_DEPTH = SRT_CONV_DEPTH
CONV_COLUMNS = SRT_CONV_COLUMNS


# Floats of columns that a thread needs for sums of `inner` terms. In Python's integers, because `inner` may be hostile.
cdef object columns_of(inner):
    return CONV_COLUMNS * min(inner, CONV_DEPTH)


# Takes scratch memory: (threads, floats), with at least `least` floats.
cdef int take_scratch(Arrays *arrays, scratch, least, float **floats, int64_t *seats, int64_t *seat) except -1:
    cdef Py_buffer *view = take_output(arrays, scratch, 2, "scratch")
    check_overlap(arrays, False)
    if view.shape[0] < 1 or view.shape[1] < least:
        raise ValueError(f"scratch has shape {shape_of(view)}, expected at least (1, {least})")
    floats[0], seats[0], seat[0] = <float *>view.buf, view.shape[0], view.shape[1]
    return 0

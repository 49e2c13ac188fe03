"""Kernel: a function that is bound to its arrays once, and called for ranges of channels."""

from libc.string cimport memcpy


@cython.auto_pickle(False)
cdef class Kernel:
    """A call computes channels ``first`` to ``last`` of an output.

    One thread at a time may call it.
    """

    def __call__(self, int64_t first, int64_t last):
        self.run(first, last)

    cdef int run(self, int64_t first, int64_t last) except -1:
        raise NotImplementedError


cdef class ArrayKernel(Kernel):
    """A kernel that is bound to its arrays, which it keeps alive."""

    cdef Arrays arrays
    cdef Arrays kept  # source, target, source, target ...

    def __dealloc__(self):
        release(&self.arrays)
        release(&self.kept)

    def keep(self, source, target):
        """Makes every call with ``first == 0`` copy ``source`` to ``target`` first. Both are float32 with one axis.

        For parameters that all tiles of a node share: only the first tile may read the original, as it may be released
        afterwards.

        Raises:
            ValueError: wrong sizes, dtype or layout, arrays that overlap, or more than four of them.
        """
        cdef int count = self.kept.count
        if count + 2 > MOST_ARRAYS:
            raise ValueError(f"a kernel keeps at most {MOST_ARRAYS // 2} arrays, and this kernel has {count // 2}")
        try:
            check_same(take_input(&self.kept, source, 1, "source"), take_output(&self.kept, target, 1, "target"))
            if overlap(&self.kept.view[count], &self.kept.view[count + 1]):
                raise ValueError("the target overlaps the source")
        except BaseException:
            while self.kept.count > count:
                self.kept.count -= 1
                PyBuffer_Release(&self.kept.view[self.kept.count])
            raise

    cdef int run(self, int64_t first, int64_t last) except -1:
        self.copy_kept(first)
        return self.compute(first, last)

    cdef void copy_kept(self, int64_t first) noexcept:
        cdef int i
        if first == 0:
            for i in range(0, self.kept.count, 2):
                memcpy(self.kept.view[i + 1].buf, self.kept.view[i].buf, self.kept.view[i].len)

    cdef int compute(self, int64_t first, int64_t last) except -1:
        raise NotImplementedError

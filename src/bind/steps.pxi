"""The steps of a pass, one after the other, with nothing of the interpreter between one kernel and the next.

A kernel leaves none of the interpreter's code and data in the caches of its core, where Python then runs several times
as slowly as otherwise.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize


@cython.final
cdef class Step:
    """A tile bound to memory: waits for items of a schedule, computes rows of a node, and gives items back.

    ``run`` is a `Kernel`, or any function of the first row and the one after the last.
    """

    cdef readonly Py_ssize_t node
    cdef readonly tuple waits
    cdef readonly object run
    cdef readonly int64_t first, last
    cdef readonly tuple dones
    cdef Kernel kernel

    def __cinit__(self, Py_ssize_t node, tuple waits not None, run, int64_t first, int64_t last, tuple dones not None):
        self.node, self.waits, self.run, self.first, self.last, self.dones = node, waits, run, first, last, dones
        self.kernel = run if isinstance(run, Kernel) else None


def run_steps(list steps not None, Prefetcher prefetcher not None, arrived=None):
    """One pass. Signals are handled between steps.

    Args:
        steps: a list of `Step`.
        prefetcher: has the schedule that they speak of.
        arrived: called with each item that is in memory, before it is used.

    Returns:
        Nanoseconds of CLOCK_MONOTONIC as bytes: for each step two int64, when it began to compute and when it ended.
    """
    cdef Py_ssize_t i, count = len(steps)
    cdef Step step
    cdef bytes times = PyBytes_FromStringAndSize(NULL, count * 2 * sizeof(int64_t))
    cdef int64_t *time = <int64_t *>PyBytes_AS_STRING(times)
    for i in range(count):
        step = steps[i]
        for index in step.waits:
            prefetcher.wait(index)
            if arrived is not None:
                arrived(index)
        PyErr_CheckSignals()
        time[2 * i] = os_now()
        if step.kernel is not None:
            step.kernel.run(step.first, step.last)
        else:
            step.run(step.first, step.last)
        time[2 * i + 1] = os_now()
        for index in step.dones:
            prefetcher.done(index)
    prefetcher.finish()
    return times

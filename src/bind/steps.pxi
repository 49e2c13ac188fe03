"""The steps of a pass, in order, without the interpreter between two kernels.

A kernel pushes the interpreter's code and data out of the caches of its core. Python then runs several times as slowly.
"""

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize


@cython.final
cdef class Step:
    """A tile bound to memory: waits for items of a schedule, computes rows of a node, and marks items as done.

    ``run`` is a `Kernel`, or any function of the first row and of the row after the last.
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


def run_steps(list steps not None, Prefetcher prefetcher not None, arrived=None, stepped=None):
    """Runs one pass. Signals are handled between steps.

    Args:
        steps: a list of `Step`.
        prefetcher: its schedule has the items of the steps.
        arrived: called with the index of each item that is in memory, before the item is used.
        stepped: called after each step, with the number of all steps.

    Returns:
        Two int64 for each step, as bytes: nanoseconds of CLOCK_MONOTONIC at which it began to compute, and ended.

    Raises:
        WeightsIOError, ValueError, RuntimeError, ModelClosedError: as `Prefetcher.wait`, ``done`` and ``finish``.
    """
    cdef Py_ssize_t i, count = len(steps)
    cdef Step step
    cdef bytes times = PyBytes_FromStringAndSize(NULL, count * 2 * sizeof(int64_t))
    cdef int64_t *time = <int64_t *>PyBytes_AsString(times)
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
        if stepped is not None:
            stepped(count)
    prefetcher.finish()
    return times

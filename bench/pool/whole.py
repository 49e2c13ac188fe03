"""The contender that streamrt's pool is compared with: an LRU of whole models.

Of streamrt this file uses only `Model`, so that it runs with earlier packages, too.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import streamrt


class WholeModels:
    """Keeps whole models in memory. The least recently used model makes room. One request runs at a time.

    A model that is larger than the budget streams: otherwise its requests would have no answer.
    """

    def __init__(self, paths: Sequence[Path], budget: int) -> None:
        self._paths, self._budget = paths, budget
        self._open: OrderedDict[int, tuple[streamrt.Model, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.hits = 0

    @contextmanager
    def lease(self, index: int) -> Iterator[streamrt.Model]:
        with self._lock:
            if index in self._open:
                self._open.move_to_end(index)
                self.hits += 1
            else:
                self._load(index)
            yield self._open[index][0]

    def _load(self, index: int) -> None:
        model = streamrt.Model(self._paths[index], None)
        size = min(model.plan.total, self._budget)
        if size == self._budget:
            model.set_budget(size)
        while self._open and sum(held for _, held in self._open.values()) + size > self._budget:
            self._open.popitem(last=False)[1][0].close()
        self._open[index] = (model, size)

    def close(self) -> None:
        for model, _ in self._open.values():
            model.close()

"""Threads that call, load and unregister real models of one pool at once: answers are right, and all threads end.

A case is JSON: the pool, and the steps of each thread. The threads run in any order. For a build under TSan:
``tests/sanitizers/run thread --fuzz callers``.
"""

from __future__ import annotations

import json
import random
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.hunt import PASSED, Finding, Hunt
from model import zoo
from streamrt import ModelPool
from streamrt.errors import InputError, ModelTooLargeError, PoolBusyError, UnknownModelError

#: Widths of the layers of each model: from 20 KiB to 1 MiB, the last in tiles.
_WIDTHS = {"a": (16, 64, 64), "b": (32, 128, 128, 32), "c": (64, 512, 256), "d": (128, 512, 256, 128)}
#: Errors that a thread may get because of what other threads do.
_EXPECTED = (PoolBusyError, ModelTooLargeError, UnknownModelError, InputError)


class Callers(Hunt):
    """The hunt. A case takes some milliseconds, and a thread for each of its tasks."""

    name = "callers"
    seconds = 10.0
    space = None
    cases = 500

    def start(self) -> None:
        self._models, self._answers = {}, {}
        for name, widths in _WIDTHS.items():
            folder = Path(name)
            folder.mkdir()
            self._models[name] = zoo.mlp(folder, *widths)

    def make(self, rng: random.Random) -> bytes:
        tasks = [[_step(rng) for _ in range(rng.randint(1, 6))] for _ in range(rng.randint(2, 5))]
        case = {
            "budget": rng.choice([64, 300, 700, 1500, 4000]),  # KiB
            "threads": rng.choice([1, 1, 2]),
            "io": rng.choice(["mmap", "pread"]),
            "verify": rng.choice([None, None, "read"]),
            "timeout": rng.choice([0.05, 0.5]),
            "tasks": tasks,
        }
        return json.dumps(case).encode()

    def check(self, data: bytes) -> str:
        case = json.loads(data)
        errors: list[BaseException] = []
        answers: list[str] = []
        options = {name: case[name] for name in ("threads", "io", "verify", "timeout")}
        with ModelPool(case["budget"] << 10, **options) as pool:
            for name, packed in self._models.items():
                pool.register(name, packed.path)

            def work(steps: list[list[Any]]) -> None:
                try:
                    for step in steps:
                        with suppress(*_EXPECTED):
                            getattr(self, f"_{step[0]}")(pool, answers, *step[1:])
                except BaseException as error:
                    errors.append(error)

            threads = [threading.Thread(target=work, args=(steps,)) for steps in case["tasks"]]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if not errors and pool.stats().held > pool.budget:
                raise Finding("over the budget", f"{pool.stats()}")
        if errors:
            raise errors[0]
        if pool.stats().held or pool.stats().models:
            raise Finding("something is left after the end", f"{pool.stats()}")
        return PASSED if answers else "no call"

    # ---- steps

    def _call(self, pool: ModelPool, answers: list[str], name: str, samples: int) -> None:
        x = zoo.random_input(samples, _WIDTHS[name][0], seed=samples)
        with pool.lease(name) as model:
            self._compare(name, x, model(x), answers)

    def _together(self, pool: ModelPool, answers: list[str], name: str, samples: int) -> None:
        xs = [zoo.random_input(samples + index, _WIDTHS[name][0], seed=index) for index in range(3)]
        with pool.lease(name) as model:
            for x, y in zip(xs, model.call_together([{"input": x} for x in xs]), strict=True):
                if isinstance(y, Exception):
                    raise y
                self._compare(name, x, y, answers)

    def _predict(self, pool: ModelPool, answers: list[str], name: str, samples: int) -> None:
        xs = [zoo.random_input(samples, _WIDTHS[name][0], seed=index) for index in range(3)]
        with pool.lease(name) as model:
            for x, y in zip(xs, model.predict(xs), strict=True):
                self._compare(name, x, y, answers)

    def _prefetch(self, pool: ModelPool, answers: list[str], name: str, wait: bool) -> None:
        future = pool.prefetch(name)
        if wait:
            future.result(5)

    def _unload(self, pool: ModelPool, answers: list[str], name: str, wait: bool) -> None:
        pool.unload(name, wait)

    def _again(self, pool: ModelPool, answers: list[str], name: str, wait: bool) -> None:
        pool.unregister(name, wait)
        pool.register(name, self._models[name].path)

    def _look(self, pool: ModelPool, answers: list[str], name: str, wait: bool) -> None:
        pool.index()
        if pool.stats().held > pool.budget:
            raise Finding("over the budget", f"{pool.stats()}")

    def _compare(self, name: str, x: Any, y: Any, answers: list[str]) -> None:
        wanted = self._answer(name, x)
        if np.shape(y) != wanted.shape or not np.allclose(y, wanted, atol=1e-3):
            raise Finding("a wrong answer", f"{name}, {len(x)} samples: {y!r:.200} instead of {wanted!r:.200}")
        answers.append(name)

    def _answer(self, name: str, x: Any) -> Any:
        """The answer by NumPy. There are few inputs, so that most answers are cached."""
        key = name, x.tobytes()
        if key not in self._answers:
            self._answers[key] = self._models[name].answer(x)
        return self._answers[key]


def _step(rng: random.Random) -> list[Any]:
    name, wait = rng.choice([*_WIDTHS]), rng.random() < 0.5
    kind = rng.choice(["call"] * 8 + ["together"] * 2 + ["predict"] * 2 + ["prefetch", "unload", "again", "look"])
    if kind in ("call", "together", "predict"):
        return [kind, name, rng.choice([1, 1, 2, 7])]
    return [kind, name, wait]


HUNT = Callers()

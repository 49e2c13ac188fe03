"""The exceptions of streamrt.

Each also derives from the built-in exception that fits. So code that does not know streamrt can catch it:
``except ValueError`` catches a malformed file.

The text of each is printable and short, even if it quotes a hostile name. Attributes of the built-in exception are not
changed.
"""

from __future__ import annotations

from typing import Self

__all__ = [
    "BudgetError",
    "FormatError",
    "InputError",
    "LimitError",
    "ModelClosedError",
    "ModelTooLargeError",
    "PinError",
    "PoolBusyError",
    "StreamrtError",
    "UnknownModelError",
    "UnsupportedModelError",
    "WeightsIOError",
]

#: The most characters of a line, which fill 6 lines of a terminal.
_LONGEST = 500
#: Characters at the end of a longer line that are kept, because they often have the reason. The beginning that is kept
#: names the place.
_END = 150


def printable(text: str) -> str:
    """``text`` with a backslash escape, as in ``repr``, for each character that is not printable.

    Terminal escapes, line ends and marks that change the direction of writing become visible.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str) -> str:
    """`printable` text of at most 500 characters. The middle of a longer text is left out."""
    if len(text) <= _LONGEST and len(shown := printable(text)) <= _LONGEST:
        return shown
    middle = f" ... ({len(text)} characters) ... "
    begin = printable(text[:_LONGEST])[: _LONGEST - _END - len(middle)]
    return begin + middle + printable(text[-_END:])[-_END:]


#: The most lines of an error's text, so that a source with thousands of faults does not fill a log.
_MAX_LINES = 100


class StreamrtError(Exception):
    """The root of all errors of this package.

    Its text is one line of at most 500 printable characters, though it may quote files, requests and paths.
    `FormatError` and `UnsupportedModelError` may have 100 such lines, and a line that says how many are left out.
    """

    def __str__(self) -> str:
        return shortened(super().__str__())


class FormatError(StreamrtError, ValueError):
    """A weights file, a graph or a source model breaks the rules of its format."""

    def __init__(self, reason: str) -> None:
        super().__init__("\n".join(_lines(reason.split("\n"))))

    def __str__(self) -> str:
        return str(self.args[0])


class LimitError(FormatError):
    """Packing a model would take more memory or time than ``max_memory`` and ``max_seconds`` allow."""


class UnsupportedModelError(StreamrtError, NotImplementedError):
    """A model uses operators or attributes that streamrt does not run.

    ``problems`` has a line of at most 500 characters for each problem, which names node and attribute. The text has the
    first 100 lines, and says how many more there are.
    """

    def __init__(self, problems: list[str] | str) -> None:
        self.problems = [shortened(line) for line in ([problems] if isinstance(problems, str) else problems)]
        super().__init__(
            self.problems[0]
            if len(self.problems) == 1
            else f"{len(self.problems)} things are not supported:\n  " + "\n  ".join(_lines(self.problems))
        )

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[type[Self], tuple[list[str]]]:
        return type(self), (self.problems,)  # the text would become a single problem


class InputError(StreamrtError, ValueError):
    """An argument has a wrong value, or an input of a call has the wrong name, shape or dtype."""


class ModelClosedError(StreamrtError, RuntimeError):
    """The model was closed, or its lease has ended, or it was opened before a fork and is used in the child."""


class BudgetError(StreamrtError, MemoryError):
    """The budget is too small. ``minimum`` is the smallest budget that is enough, in bytes."""

    def __init__(self, message: str, minimum: int) -> None:
        super().__init__(message)
        self.minimum = minimum

    def __reduce__(self) -> tuple[type[Self], tuple[str, int]]:
        return type(self), (str(self), self.minimum)  # by default pickle would pass the message alone


class WeightsIOError(StreamrtError, OSError):
    """The weights file could not be read, or it changed while it was open."""


class ModelTooLargeError(BudgetError):
    """A model cannot run in the budget of its pool. ``minimum`` is the smallest budget of a pool, in bytes."""


class PinError(ModelTooLargeError):
    """A model cannot be pinned beside the models that are pinned already.

    ``needed`` is its weights and the largest workspace of all of them. ``there`` is the pool's budget less the weights
    of the others. Both are bytes.
    """

    def __init__(self, message: str, minimum: int, needed: int, there: int) -> None:
        super().__init__(message, minimum)
        self.needed = needed
        self.there = there

    def __reduce__(self) -> tuple[type[Self], tuple[str, int, int, int]]:  # type: ignore[override]
        return type(self), (str(self), self.minimum, self.needed, self.there)


class PoolBusyError(StreamrtError, TimeoutError):
    """The pool had no free memory for the model, or was still loading it, when the timeout passed: try again later."""


class UnknownModelError(StreamrtError, LookupError):
    """The pool has no model of that name."""


def _lines(lines: list[str]) -> list[str]:
    """At most 100 lines and a line that says how many are left out, each of at most 500 characters."""
    if len(lines) > _MAX_LINES + 1:  # a copied error has 101 lines, which must stay as they are
        lines = [*lines[:_MAX_LINES], f"and {len(lines) - _MAX_LINES} more"]
    return [shortened(line) for line in lines]

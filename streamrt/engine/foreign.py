"""Arrays of other libraries, such as a dataset of h5py: they give and take values for slices, and nothing is loaded."""

from __future__ import annotations

import operator
from types import EllipsisType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from streamrt.errors import InputError
from streamrt.ops import Shape
from streamrt.ops.cast import to_integers

#: Slices of step 1, for the first axes; ``...`` for all values.
Index = slice | tuple[slice, ...] | EllipsisType


class Readable(Protocol):
    """An array that gives its values for slices, as NumPy's basic indexing does."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of all values."""

    def __getitem__(self, index: Any, /) -> Any: ...


class Writable(Readable, Protocol):
    """An array that takes values for slices, too."""

    def __setitem__(self, index: Any, values: Any, /) -> None: ...


class Foreign:
    """An array that is no NumPy array. Its slices are read and written when they are needed.

    Shape and type are asked for once; what a read gives is checked against them. An exception of the array is passed on
    as it is. The thread that has the turn reads and writes, which may be another one than the caller's.

    Args:
        array: a `Readable`; a `Writable` if it is written.
        what: its name in texts of errors.

    Attributes:
        shape: of the array.
        dtype: of the array.

    Raises:
        InputError: the shape is no tuple of integers.
    """

    def __init__(self, array: Any, what: str) -> None:
        self._array, self._what = array, what
        self._first = 0  # the row of the array that is the first row of this object
        shape = array.shape
        try:
            self.shape: Shape = tuple(map(operator.index, shape if isinstance(shape, tuple) else (None,)))
        except TypeError:
            raise InputError(f"{what}: expected a shape that is a tuple of integers, found {shape!r:.200}") from None
        self.dtype: np.dtype[Any] = array.dtype

    @staticmethod
    def may_be(value: object) -> bool:
        """Whether ``value`` gives values for slices, and has a shape and a type that NumPy knows."""
        plain = isinstance(value, (np.ndarray, np.generic)) or not hasattr(type(value), "__getitem__")
        return not plain and hasattr(value, "shape") and isinstance(getattr(value, "dtype", None), np.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> NDArray[Any]:
        """Read a slice.

        Raises:
            InputError: the values have another shape or type than the array has said.
        """
        place, shape = self._located(index)
        given = self._array[place]
        if hasattr(given, "__array__"):
            values = np.asarray(given)
            if values.shape == shape and values.dtype == self.dtype:
                return values
            found = f"{values.shape} and {values.dtype}"
        else:
            found = f"a {type(given).__name__}"
        raise InputError(
            f"{self._what}: expected that reading {_shown(place)} gives an array of shape {shape} and type "
            f"{self.dtype}, found {found}"
        )

    def __setitem__(self, index: Index, values: NDArray[Any]) -> None:
        """Write ``values``, of any type. The array gets a copy, which it may keep."""
        if self.dtype.kind in "iu":
            own = np.empty(values.shape, self.dtype)
            to_integers(values, own)
        else:
            own = np.array(values, self.dtype, order="C")
        self._array[self._located(index)[0]] = own

    def sample(self, number: int) -> Self:
        """Sample ``number``, as the only one."""
        found = type(self).__new__(type(self))
        vars(found).update(vars(self), _first=self._first + number, shape=(1, *self.shape[1:]))
        return found

    def is_same(self, other: object) -> bool:
        """Whether ``other`` is the same array."""
        return isinstance(other, Foreign) and other._array is self._array

    def _located(self, index: Index) -> tuple[Any, Shape]:
        """What indexes the array for ``index``, and the shape of these values."""
        if not self.shape:
            return ..., ()
        parts = (slice(None),) if index is ... else index if isinstance(index, tuple) else (index,)
        begin, end, _ = parts[0].indices(len(self))
        lengths = [len(range(*part.indices(extent))) for part, extent in zip(parts, self.shape, strict=False)]
        place = (slice(self._first + begin, self._first + end), *parts[1:])
        return place, (*lengths, *self.shape[len(parts) :])


def unwrapped(array: Any) -> Any:
    """The caller's array."""
    return array._array if isinstance(array, Foreign) else array


def _shown(place: Any) -> str:
    """An index as it is written in a program."""
    parts = place if isinstance(place, tuple) else ()
    return ", ".join(":" if part == slice(None) else f"{part.start}:{part.stop}" for part in parts).join("[]")

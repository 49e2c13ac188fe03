"""Programs of one weights file. They depend on the graph and the shapes alone, so a new budget changes none."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial

from streamrt.engine.bands import InBands
from streamrt.engine.prepared import REMEMBERED, CallKey, Remembered, key_of
from streamrt.format import WeightsFile
from streamrt.graph import Graph
from streamrt.ops import Operand, Shape
from streamrt.program.again import Way
from streamrt.program.compile import Program, compile_program
from streamrt.program.division import Known

#: The most steps of calls in bands that are remembered: 6 MiB, outside the budget.
_STEPS = 1 << 12


class Programs:
    """The programs of a file that were used last. Not thread-safe.

    Args:
        file: has the graph and the parameters.
        exact: see `compile_program`.
        bands: whether calls may run in bands without ``asked``.

    Attributes:
        bands: as above.
        calls_in_bands: that ran last, by their budget and kind. All planners of the file share them, so that one limit
            holds for all their steps.
    """

    def __init__(self, file: WeightsFile, *, exact: bool = False, bands: bool = True) -> None:
        self.file = file
        self.bands = bands
        self._exact = exact
        self._params = {name: Operand(t.shape, t.dtype, is_param=True) for name, t in file.tensors.items()}
        self._kept: OrderedDict[tuple[CallKey, bool], Program] = OrderedDict()  # those that are not in bands
        self.calls_in_bands = Remembered(_STEPS)

    def compile(
        self,
        graph: Graph,
        shapes: Mapping[str, Shape],
        lean: bool = False,
        bands: int = 0,
        strips: int = 1,
        again: int = 0,
        ways: tuple[Way, ...] = (),
        known: Known | None = None,
    ) -> Program:
        """The program of ``graph`` for these input shapes. A ``lean`` program is slower and needs less memory.

        In ``bands`` of rows, if this is not 0, it needs the memory of a few rows; in ``strips`` that of some columns.
        For the other arguments see `compile_program`.

        Raises:
            FormatError: the graph cannot run with these shapes.
        """
        key = key_of(graph, shapes), lean
        if not bands and key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        for program in self.calls_in_bands.programs() if bands else ():
            if (program.bands, program.strips, program.again) == (bands, strips, again) and _key(program) == key:
                return program
        return compile_program(
            graph,
            self._params,
            shapes,
            exact=self._exact,
            lean=lean,
            bands=bands,
            strips=strips,
            again=again,
            ways=ways,
            known=known,
        )

    def in_bands(self, graph: Graph, shapes: Mapping[str, Shape], disk: float, *, asked: bool = False) -> InBands:
        """Programs of ``graph`` in bands of rows, for these input shapes, if they are wanted or ``asked`` for.

        ``disk`` is its speed in bytes a second.
        """
        sizes = {name: tensor.nbytes for name, tensor in self.file.tensors.items()}
        return InBands(
            partial(self.compile, graph, shapes), graph, sizes, disk, wanted=asked or self.bands, exact=self._exact
        )

    def keep(self, program: Program) -> None:
        """Remember a program that is not in bands and is about to run. Others that are tried are not kept."""
        key = _key(program)
        self._kept[key] = program
        self._kept.move_to_end(key)
        if len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)


def _key(program: Program) -> tuple[CallKey, bool]:
    shapes = {spec.name: program.shapes[spec.name] for spec in program.graph.inputs}
    return key_of(program.graph, shapes), program.lean

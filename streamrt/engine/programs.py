"""Programs of one weights file. They depend on the graph and the shapes alone, so a new budget changes none."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial

from streamrt.engine.bands import InBands
from streamrt.format import WeightsFile
from streamrt.graph import Graph
from streamrt.ops import Operand, Shape
from streamrt.program.compile import Program, compile_program
from streamrt.program.division import Known

#: Kinds of call whose programs and plans are remembered. The number is limited because they lie outside the budget.
REMEMBERED = 32

#: Calls are of one kind if they have the same input shapes and request the same outputs.
CallKey = tuple[tuple[tuple[str, Shape], ...], tuple[str, ...]]


def key_of(graph: Graph, shapes: Mapping[str, Shape]) -> CallKey:
    """The input shapes and outputs of a call."""
    return tuple(shapes.items()), tuple(spec.name for spec in graph.outputs)


class Programs:
    """The programs of a file that were used last. Not thread-safe.

    Args:
        file: has the graph and the parameters.
        exact: see `compile_program`.
        bands: whether there are programs in bands of rows though nobody asks for them.
    """

    def __init__(self, file: WeightsFile, *, exact: bool = False, bands: bool = True) -> None:
        self.file = file
        self._bands = bands
        self._exact = exact
        self._params = {name: Operand(t.shape, t.dtype, is_param=True) for name, t in file.tensors.items()}
        self._kept: OrderedDict[tuple[CallKey, bool, int, int], Program] = OrderedDict()

    def compile(
        self,
        graph: Graph,
        shapes: Mapping[str, Shape],
        lean: bool = False,
        bands: int = 0,
        strips: int = 1,
        known: Known | None = None,
    ) -> Program:
        """The program of ``graph`` for these input shapes. A ``lean`` program is slower and needs less memory.

        In ``bands`` of rows, if this is not 0, it needs the memory of a few rows; in ``strips`` that of some columns.
        For ``known`` see `compile_program`.

        Raises:
            FormatError: the graph cannot run with these shapes.
        """
        key = key_of(graph, shapes), lean, bands, strips
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        return compile_program(
            graph, self._params, shapes, exact=self._exact, lean=lean, bands=bands, strips=strips, known=known
        )

    def in_bands(self, graph: Graph, shapes: Mapping[str, Shape], *, asked: bool = False) -> InBands:
        """Programs of ``graph`` in bands of rows, for these input shapes, if they are wanted or ``asked`` for."""
        sizes = {name: tensor.nbytes for name, tensor in self.file.tensors.items()}
        return InBands(
            partial(self.compile, graph, shapes), graph, sizes, wanted=asked or self._bands, exact=self._exact
        )

    def keep(self, program: Program) -> None:
        """Remember a program that is about to run. Programs that are only tried are not kept, to save memory."""
        graph = program.graph
        shapes = {spec.name: program.shapes[spec.name] for spec in graph.inputs}
        key = key_of(graph, shapes), program.lean, program.bands, program.strips
        self._kept[key] = program
        self._kept.move_to_end(key)
        if len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)

    @property
    def steps_in_bands(self) -> int:
        """Steps of the programs in bands that are remembered. Each takes about 1.5 KiB."""
        return sum(len(program.steps) for program in self._kept.values() if program.bands)

    def forget_bands(self) -> None:
        """Forget the programs in bands."""
        self._kept = OrderedDict((key, program) for key, program in self._kept.items() if not program.bands)

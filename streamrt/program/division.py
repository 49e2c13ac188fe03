"""Dividing a program into sections, and a section into strips and bands.

Lines of bands take memory beside the whole tensors that a section reads and makes. In small planes with many channels,
as late blocks have them, that is more than all whole tensors. So nodes run whole, in no section, wherever that does not
raise the memory of the program. They read their weights once in a pass, or in a round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from streamrt.graph import Node
from streamrt.host.yielding import give_way
from streamrt.ops import Lowered, Operand
from streamrt.ops.rows import Rows
from streamrt.program import arena
from streamrt.program.bands import Meter, RowInput, RowNode, Schedule, schedule
from streamrt.program.forms import Form, Narrowed, in_strips
from streamrt.program.runs import Runs
from streamrt.program.sections import FLOAT, Section
from streamrt.program.strips import NARROWEST

#: The most tensors of all bands of a program (see `Meter`), and those of schedules with fewer bands, which are tried.
_MOST_MARKS, _MOST_AGAIN = 2**16, 2**14

#: Schedules with the tensors of all their bands (`Meter`), by the nodes of a section, the rows that come in at once,
#: and the rows of which each node makes multiples. Columns change nothing else.
Schedules = dict[tuple[tuple[int, int], int, tuple[int, ...]], tuple[Schedule, int]]

#: The bytes of the arena that are in use while each node of a program runs, if no node is in a section. The argument is
#: the inputs and outputs that have no memory in the arena.
InUse = Callable[[set[str]], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Known:
    """What divisions into other numbers of bands have found, as most numbers have most sections in common.

    Attributes:
        schedules: those of divisions into other numbers of strips, too.
        sections: by their nodes, the rows that come in at once, and whether there are strips; each with the tensors of
            all bands (`Meter`).
    """

    schedules: Schedules = field(default_factory=dict)
    sections: dict[tuple[tuple[int, int], int, bool], tuple[Section, int]] = field(default_factory=dict)


def sections_of(
    nodes: Sequence[Node],
    lowered: Sequence[Lowered],
    rows: Sequence[Rows | None],
    tensors: Mapping[str, Operand],
    inputs: Sequence[str],
    results: Sequence[str],
    runs: Runs,
    bands: int,
    strips: int,
    in_use: InUse,
    narrowed: Narrowed,
    known: Known,
) -> list[Section]:
    """The sections of a program, each divided into at most about ``bands`` parts; none if a run has too many bands.

    Each run needs the less of both memories, in a section or whole, with all whole tensors. The program needs the most
    of these. Nodes run whole, and a section has fewer bands or no strips, where that needs no more than the program.

    Args:
        nodes: of the program.
        lowered: of each node.
        rows: how each node computes bands; None if it cannot.
        tensors: all tensors by name, parameters included.
        inputs: the names of the program's inputs.
        results: the names of its outputs.
        runs: the first node of each run of nodes that may be a section, and the one behind it.
        bands: as above; at least 1.
        strips: the most strips of a section; 1 if all columns are computed at once.
        in_use: see `InUse`.
        narrowed: see `Narrowed`.
        known: of earlier divisions with the same arguments but for ``bands``, its ``schedules`` also but for
            ``strips``; it is extended.
    """
    last_use = {name: index for index, node in enumerate(nodes) for name in node.inputs}
    last_use |= dict.fromkeys(results, len(nodes))
    outside = _outside(nodes, rows, runs, inputs, results)

    heights = {run: _height(nodes[slice(*run)], rows[slice(*run)], tensors) for run in runs}

    def section(run: tuple[int, int], form: Form, count: int, meter: Meter) -> Section | None:
        give_way()
        # Most networks halve rows, so that powers of two give each band the same rows of all tensors.
        at_once = 1 << (-(-heights[run] // count) - 1).bit_length()
        key = run, at_once, form.strips is not None
        if key not in known.sections:
            before, part = meter.left, nodes[slice(*run)]
            found = _section(
                *(run[0], part, form, last_use, outside, heights[run], at_once, meter), schedules=known.schedules
            )
            if found is None:
                return None
            known.sections[key] = found, before - meter.left
            return found
        found, marks = known.sections[key]
        meter.left -= marks
        return found if meter.left >= 0 else None

    def form_of(run: tuple[int, int], count: int) -> Form:
        part = slice(*run)
        whole = Form(lowered[part], [each for each in rows[part] if each is not None], tensors)
        needed = {name for name, last in last_use.items() if last >= run[1]}
        many = count > 1 and _may_have_strips(nodes[part], tensors)
        return (many and in_strips(run[0], nodes[part], whole, needed, count, narrowed)) or whole

    forms = [form_of(run, strips) for run in runs]
    counts_of_strips = [form.strips.count for form in forms if form.strips]
    times = max(counts_of_strips, default=1) if section_of_rounds(runs, nodes, tensors) is None else 1
    meter, other = Meter(_MOST_MARKS // times), Meter(_MOST_AGAIN // times)
    found = [
        each for run, form in zip(runs, forms, strict=True) if (each := section(run, form, bands, meter)) is not None
    ]
    if len(found) < len(runs):
        return []
    beside = [_beside(each, nodes, tensors, last_use, outside) for each in found]
    sizes = [size + each.nbytes for size, each in zip(beside, found, strict=True)]
    most, divided = _in_sections(nodes, runs, sizes, in_use, outside)
    counts = [2**power for power in range(bands.bit_length()) if 2**power < bands]
    for index in divided:
        run, size, form = runs[index], beside[index], forms[index]
        if found[index].nbytes == most - size:
            continue
        ways = [(form_of(run, 1), count) for count in (*counts, bands)] if form.strips else []
        fewer = (section(run, *way, other) for way in (*ways, *((form, count) for count in counts)))
        fits = (each for each in fewer if each and each.nbytes <= most - size)
        found[index] = next(fits, found[index])
    return [found[index] for index in divided]


def _in_sections(
    nodes: Sequence[Node], runs: Runs, sizes: Sequence[int], in_use: InUse, outside: set[str]
) -> tuple[int, list[int]]:
    """The bytes that the program needs for its runs, and the runs that are sections: the others need no more whole.

    Args:
        nodes: of the program.
        runs: see `sections_of`.
        sizes: the bytes in use while each of them is computed in a section.
        in_use: see `InUse`.
        outside: the inputs and outputs that have no memory in the arena. They have some where nodes run whole, so runs
            that use them stay sections.
    """
    bytes_of_nodes = in_use(outside)
    whole = [
        math.inf if any(outside.intersection((*node.inputs, *node.outputs)) for node in nodes[slice(*run)]) else most
        for run, most in ((run, max(bytes_of_nodes[slice(*run)])) for run in runs)
    ]
    most = max((int(min(pair)) for pair in zip(sizes, whole, strict=True)), default=0)
    divided = [index for index, size in enumerate(whole) if size > most]
    return (most, divided) if divided else (max(sizes, default=0), [*range(len(runs))])


def section_of_rounds(
    sections: Sequence[tuple[int, int]], nodes: Sequence[Node], tensors: Mapping[str, Operand]
) -> int | None:
    """The number of the section whose strips are rounds: the only wide one. None if other nodes read more weights.

    The weights of all nodes are read once a round, unless they are pinned.

    Args:
        sections: the first node of each, and the one behind it.
        nodes: of the program.
        tensors: all tensors by name, parameters included.
    """
    wide = [number for number, section in enumerate(sections) if _may_have_strips(nodes[slice(*section)], tensors)]
    if len(wide) != 1:
        return None
    first, last = sections[wide[0]]
    within, others = (
        {name for node in part for name in node.inputs if name and tensors[name].is_param}
        for part in (nodes[first:last], (*nodes[:first], *nodes[last:]))
    )
    own, more = (sum(math.prod(tensors[name].shape) for name in names) for names in (within - others, others))
    return wide[0] if own >= more else None


def _may_have_strips(nodes: Sequence[Node], tensors: Mapping[str, Operand]) -> bool:
    """Whether a section is wide enough for strips."""
    shapes = (tensors[node.outputs[0]].shape for node in nodes)
    return max((shape[3] for shape in shapes if len(shape) == 4), default=0) >= 2 * NARROWEST


def _beside(
    section: Section,
    nodes: Sequence[Node],
    tensors: Mapping[str, Operand],
    last_use: Mapping[str, int],
    outside: set[str],
) -> int:
    """About the bytes of whole tensors while a section runs."""
    before = {
        name for node in nodes[: section.first] for name in node.outputs if last_use.get(name, 0) >= section.first
    }
    inside = {name for node in section.nodes for name in node.outputs}
    alive = (before | {*section.inputs, *section.outputs}) - outside - (inside - {*section.outputs})
    if any(last_use[section.inputs[index]] < section.last for index in section.inplace):
        alive.discard(section.outputs[0])
    return sum(FLOAT * math.prod(tensors[name].shape) for name in alive)


def _outside(
    nodes: Sequence[Node],
    rows: Sequence[Rows | None],
    runs: Sequence[tuple[int, int]],
    inputs: Sequence[str],
    results: Sequence[str],
) -> set[str]:
    """The program's inputs that sections read by rows alone, and its outputs that one section makes and uses so."""
    run_of = {index: run for run in runs for index in range(*run)}
    maker = {name: run_of.get(index) for index, node in enumerate(nodes) for name in node.outputs}
    by_rows = {name for name in results if maker.get(name)}
    otherwise = set(inputs).intersection(results)
    for index, node in enumerate(nodes):
        own, run = rows[index], run_of.get(index)
        if own is not None and own.collects:
            otherwise.update(node.outputs)
        for position, name in enumerate(node.inputs):
            if own is None or run is None or position in own.whole or maker.get(name, run) != run:
                otherwise.add(name)
            elif position in own.inputs and name in inputs:
                by_rows.add(name)
    return by_rows - otherwise


def _height(nodes: Sequence[Node], rows: Sequence[Rows | None], tensors: Mapping[str, Operand]) -> int:
    """The rows of the tallest input of a section."""
    made = {node.outputs[0] for node in nodes}
    return max(
        tensors[node.inputs[position]].shape[2]
        for node, own in zip(nodes, rows, strict=True)
        for position in (own.inputs if own else ())
        if node.inputs[position] not in made
    )


def _section(
    first: int,
    nodes: Sequence[Node],
    form: Form,
    last_use: Mapping[str, int],
    outside: set[str],
    height: int,
    at_once: int,
    meter: Meter,
    schedules: Schedules,
) -> Section | None:
    """The section of some nodes; ``at_once`` rows of its tallest input, of ``height`` rows, come in in a band."""
    lowered, rows, tensors = form.lowered, form.rows, form.tensors
    made = [node.outputs[0] for node in nodes]
    collected = {name for name, own in zip(made, rows, strict=True) if own.collects}
    outputs = [name for name in made if name in collected or last_use.get(name, 0) >= first + len(nodes)]
    outputs.sort(key=lambda name: -math.prod(tensors[name].shape))
    read = dict.fromkeys(
        node.inputs[position]
        for node, own in zip(nodes, rows, strict=True)
        for position in (*own.inputs, *own.whole)
        if not tensors[node.inputs[position]].is_param
    )
    planned = _schedule(first, nodes, rows, outputs, at_once, meter, schedules)
    if planned is None:
        return None
    widths = {name: (tensors[name].shape[1], tensors[name].shape[3]) for name in planned.lines if name not in collected}
    most = [0] * len(nodes)
    for visit in planned.visits:
        most[visit.node] = max(most[visit.node], visit.made.last - visit.made.first)
    scratch = [own.scratch(count) for own, count in zip(rows, most, strict=True)]
    step_of = {name: step for step, name in enumerate(made)}
    last_read = {name: step for step, node in enumerate(nodes) for name in node.inputs}
    blocks = []
    for name, width in widths.items():
        line, begin = planned.lines[name], step_of.get(name, 0)
        begin, end = begin, last_read.get(name, begin)
        if line.kept:
            begin, end = 0, len(nodes)
        blocks.append(arena.Block(FLOAT * line.room * math.prod(width), begin, end))
    for step, (size, own) in enumerate(zip(scratch, rows, strict=True)):
        blocks.append(arena.Block(size, *((0, len(nodes)) if own.collects else (step, step))))
    offsets, nbytes = arena.arrange(blocks)
    wholes = {node.inputs[position] for node, own in zip(nodes, rows, strict=True) for position in own.whole}
    inputs = tuple(name for name in read if name not in step_of and name not in outside)
    written = tuple(name for name in outputs if name not in outside)
    return Section(
        first=first,
        last=first + len(nodes),
        bands=-(-height // at_once),
        nodes=tuple(nodes),
        lowered=tuple(lowered),
        rows=tuple(rows),
        schedule=planned,
        strips=form.strips,
        inputs=inputs,
        outputs=written,
        inplace=tuple(
            index
            for index, name in enumerate(inputs)
            if written
            and not form.strips
            and written[0] not in collected
            and name not in wholes
            and _follows(planned, name, written[0], tensors)
        ),
        outside=frozenset(outside.intersection((*read, *made))),
        widths=widths,
        lines=dict(zip(widths, offsets, strict=False)),
        scratch=tuple(zip(offsets[len(widths) :], scratch, strict=True)),
        nbytes=nbytes,
    )


def _schedule(
    first: int,
    nodes: Sequence[Node],
    rows: Sequence[Rows],
    outputs: Sequence[str],
    at_once: int,
    meter: Meter,
    schedules: Schedules,
) -> Schedule | None:
    """The schedule of a section, which may be known."""
    key = (first, first + len(nodes)), at_once, tuple(own.step for own in rows)
    if key in schedules:
        found, marks = schedules[key]
        meter.left -= marks
        return found if meter.left >= 0 else None
    before = meter.left
    row_nodes = [
        RowNode(
            tuple(RowInput(node.inputs[i], reads, i in own.apart) for i, reads in own.inputs.items()),
            *(node.outputs[0], own.height, own.step),
        )
        for node, own in zip(nodes, rows, strict=True)
    ]
    planned = schedule(row_nodes, outputs, at_once, meter)
    if planned is not None:
        schedules[key] = planned, before - meter.left
    return planned


def _follows(planned: Schedule, source: str, target: str, tensors: Mapping[str, Operand]) -> bool:
    """Whether each row of ``target`` is written when the rows of ``source`` up to it have been read.

    Both then may lie at the same address: rows of the planes of ``target`` lie where those of ``source`` do.
    """
    if source not in planned.lines or target not in planned.lines:
        return False
    before, after = tensors[source].shape, tensors[target].shape
    if len(after) != 4 or after[1] > before[1] or after[2:] != before[2:]:
        return False
    read = 0
    for visit in planned.visits:
        read = max([read, *(load.last for load in visit.loads if load.tensor == source)])
        if visit.made.tensor == target and visit.made.last > read:
            return False
    return True

"""A pass of some samples: inputs come from the arrays of requests, and outputs go to those of their results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

from streamrt._core import rouse
from streamrt.engine.ahead import fetched_ahead
from streamrt.engine.foreign import Foreign
from streamrt.engine.inputs import Source, Target, copy_in, copy_out
from streamrt.engine.mapped import in_files
from streamrt.engine.session import Session
from streamrt.engine.turns import Request
from streamrt.report.trace import PassTrace


def run_pass(
    session: Session, requests: Sequence[Request], results: Sequence[Mapping[str, Target]], begin: int
) -> list[PassTrace]:
    """Run a pass of the samples from ``begin`` on, counted over all ``requests``; returns the times of its rounds.

    Inputs and outputs are copied to and from the workspace. Those for which it has no memory are used where they lie,
    a band of rows at a time.

    Raises:
        WeightsIOError: as `Session.run`.
        OSError: the mapped file of a result cannot be written.
    """
    rouse(session.threads)  # they wake up while the inputs are copied
    graph, borrowed = requests[0].graph, session.borrowed
    inputs = {spec.name: [request.arrays[spec.name] for request in requests] for spec in graph.inputs}
    outputs = {spec.name: [found[spec.name] for found in results] for spec in graph.outputs}
    for name, parts in inputs.items():
        if name not in borrowed:
            copy_in(parts, begin, session.tensor(name))
    with _lent(session, inputs, outputs, begin) if borrowed else nullcontext():
        done = session.run(requests[0].stepped)
    for name, parts in outputs.items():
        if name not in borrowed:
            copy_out(session.tensor(name), begin, parts)
    return done


@contextmanager
def _lent(
    session: Session, inputs: Mapping[str, Sequence[Source]], outputs: Mapping[str, Sequence[Target]], begin: int
) -> Iterator[None]:
    """A context in which a session has the arrays of a caller, at sample ``begin``, that it has no memory for."""
    samples = {name: _sample(inputs.get(name) or outputs[name], begin) for name in session.borrowed}
    with in_files({name: array for name, array in samples.items() if name in outputs}) as files:
        read = {name: fetched_ahead(array) for name, array in samples.items() if name in inputs}
        session.outside.update({**samples, **files, **read})
        try:
            yield
        finally:
            session.outside.clear()  # a session keeps no array of a caller


def _sample(parts: Sequence[Source], number: int) -> Source:
    """Sample ``number`` of ``parts``, joined along the first axis, as the only one of its array."""
    index = 0
    while number >= len(parts[index]):
        number -= len(parts[index])
        index += 1
    part = parts[index]
    return part.sample(number) if isinstance(part, Foreign) else part[number : number + 1]

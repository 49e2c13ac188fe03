"""A ``.pt2`` file, written by ``torch.export.save``, as an ONNX graph with its weights. No code of the file is run.

``torch.export.load`` would run it: it unpickles, and evaluates expressions that the file has as text. So the file is
read here. `archive` reads the zip, `program` checks the graph, `tensors` finds the weights. Then another process builds
a module that calls the operators of the checked graph, and torch exports it to ONNX (`process`, `replay`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from streamrt.convert import limits
from streamrt.convert.exported.archive import Archive
from streamrt.convert.exported.process import export
from streamrt.convert.exported.program import ADVICE, Program, read_program
from streamrt.convert.exported.tensors import DTYPES, StoredTensor, read_tensors
from streamrt.convert.inputs import Inputs
from streamrt.convert.onnx.data import SourceFiles
from streamrt.convert.onnx.importer import OnnxSource
from streamrt.errors import UnsupportedModelError

#: The value of the member ``archive_version``.
_VERSION = b"0"
#: A member of files that torch wrote before version 2.8, and the name of the program of newer files.
_OLD, _MODEL = "serialized_exported_program.json", "model"


def read_exported(path: Path, inputs: Inputs | None = None) -> OnnxSource:
    """The program of a ``.pt2`` file, with its weights in the file.

    Raises:
        FormatError: a malformed or damaged file, or one of a version that is not read.
        UnsupportedModelError: the program uses operators that are not allowed, or torch cannot export it.
        LimitError: it needs too much memory or time.
        InputError: ``inputs`` does not fit the program.
        WeightsIOError: the file cannot be read, or has changed meanwhile.
    """
    files = SourceFiles()
    try:
        with limits.current().computing():
            program, tensors = checked(path, files)
            files.check()
        names = graph_names(program, tensors)
        model = export(program, names, tensors, path, files)
        files.check()
        weights = {name: tensor.weight(path, files) for name, tensor in zip(names, tensors, strict=True)}
        source = OnnxSource(model, weights, files=files)
        source.bind(inputs)
    except BaseException:
        files.close()
        raise
    return source


def checked(path: Path, files: SourceFiles) -> tuple[Program, list[StoredTensor]]:
    """The checked program of a file, and where its weights lie. Nothing of torch is imported.

    Raises:
        FormatError, UnsupportedModelError, LimitError, WeightsIOError: as `read_exported`.
    """
    mapping = files.open(path)
    with memoryview(mapping) as data:  # a traceback would keep it
        return _read(Archive(data, str(path), mapping.unload))


def _read(archive: Archive) -> tuple[Program, list[StoredTensor]]:
    if _OLD in archive.names:
        raise archive.problem(
            f"torch 2.7 or older wrote the file, expected torch 2.13, or a version with the same format: {ADVICE}"
        )
    if "archive_format" not in archive.names or archive.read("archive_format") != b"pt2":
        raise archive.problem("a zip archive that torch.export.save did not write, expected an exported program")
    if (version := archive.read("archive_version")) != _VERSION:
        raise archive.problem(f"version {version!r:.40} of the archive, expected {_VERSION!r}: {ADVICE}")
    if "byteorder" in archive.names and archive.read("byteorder") != b"little":
        raise archive.problem("the weights are not little-endian")
    models = [name for name in archive.names if name.startswith("models/")]
    if models != [f"models/{_MODEL}.json"]:
        raise archive.problem(f"expected one program, models/{_MODEL}.json; the file has {models!r:.100}")
    program = read_program(archive.json(models[0]), archive.where)
    for spec in program.inputs:
        if spec.dtype not in DTYPES:
            raise UnsupportedModelError(f"input {spec.name!r:.80} has type {spec.dtype}, expected {list(DTYPES)}")
    return program, read_tensors(archive, _MODEL, program.weights)


def graph_names(program: Program, tensors: Sequence[StoredTensor]) -> list[str]:
    """The names of the weights in the graph, one for all weights that have the same values in the file.

    A weight with the name of an input gets another name.
    """
    first: dict[StoredTensor, str] = {}
    inputs = {spec.name for spec in program.inputs}
    taken = inputs.union(program.weights)
    for name, tensor in zip(program.weights, tensors, strict=True):
        if name in inputs:
            while name in taken:
                name += "_"
            taken.add(name)
        first.setdefault(tensor, name)
    return [first[tensor] for tensor in tensors]

"""Writing: models that are refused, failures that leave no file behind, and memory."""

import errno
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from format.models import Array, chain, constant, dense
from format.resident import resident_bytes
from streamrt.errors import FormatError, WeightsIOError
from streamrt.format import Segment, Source, read_header, verify, write
from streamrt.format.files import Replacement
from streamrt.graph import Graph, Node, TensorSpec

MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def source(name: str, *chunks: Array, shape: tuple[int, ...] = (4,)) -> Source:
    return Source(name, shape, lambda: iter(chunks))


def has_nameless_files(folder: Path) -> bool:
    try:
        os.close(os.open(folder, os.O_WRONLY | os.O_TMPFILE))
    except OSError:
        return False
    return True


@pytest.fixture(params=[True, False], ids=["nameless", "named"])
def nameless(request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the file has no name until it is complete."""
    if not request.param:
        monkeypatch.setattr(Replacement, "_open_nameless", lambda self: -1)
    elif not has_nameless_files(path.parent):
        pytest.skip("this filesystem has no nameless files")
    return bool(request.param)


ONES = np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("graph", "segments", "reason"),
    [
        (chain(["w"]), [], "reads 'w', which is neither"),
        (chain([]), [[source("w", ONES)]], "no node reads the tensors 'w'"),
        (chain(["w"], ["v"]), [[source("v", ONES)], [source("w", ONES)]], "'v' are stored where 'w' of node 'n0'"),
        (chain(["w"], ["v"]), [[source("w", ONES), source("v", ONES)]], "'w', 'v' are stored where 'w' of node 'n0'"),
        (chain(["w", "v"]), [[source("w", ONES)], [source("v", ONES)]], "'w' are stored where 'v', 'w' of node 'n0'"),
        (chain(["w"]), [[source("w", ONES), source("w", ONES)]], "two tensors are named 'w'"),
        (chain(["t1"]), [[source("t1", ONES)]], "'t1' is defined twice"),
        (chain(["streamrt.pad.0"]), [[source("streamrt.pad.0", ONES)]], r"streamrt.pad.\* is reserved"),
        (chain(["__metadata__"]), [[source("__metadata__", ONES)]], "named '__metadata__'"),
        (chain(["w" * 1025]), [[source("w" * 1025, ONES)]], "expected 1 to 1024 bytes"),
        (chain(["\ud800"]), [[source("\ud800", ONES)]], "lone surrogate"),
        (chain(["w"]), [[source("w", ONES, shape=(-4,))]], "tensor 'w': an extent is -4"),
        (chain(["w"]), [[source("w", ONES, shape=(2**40, 2**40))]], r"tensor 'w': .*has more than 2\*\*60 bytes"),
    ],
)
def test_a_model_that_does_not_fit_together(
    path: Path, graph: Graph, segments: list[list[Source]], reason: str
) -> None:
    with pytest.raises(FormatError, match=reason):
        write(path, graph, [Segment(tensors) for tensors in segments])
    assert names(path.parent) == []


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (Node("n", "Clip", ("x",), ("y",), {"max": float("nan")}), "NaN"),
        (Node("n" * 1025, "Relu", ("x",), ("y",)), "1025 characters, more than the 1024 allowed"),
        (Node("\udc00", "Relu", ("x",), ("y",)), "lone surrogate"),
        (Node("n", "Pad", ("x",), ("y",), {"pads": (1, 2.0)}), "expected a number"),  # type: ignore[dict-item]
        (Node("n", "Pad", ("x",), ("y",), {"value": 2**63}), "expected a number"),
    ],
)
def test_a_graph_that_could_not_be_read_back(path: Path, node: Node, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        write(path, Graph((TensorSpec("x", ()),), (TensorSpec("y", ()),), (node,)), [])
    assert names(path.parent) == []


@pytest.mark.parametrize(("metadata", "reason"), [({"streamrt.x": "1"}, "reserved"), ({"x": 1}, "not a string")])
def test_metadata_that_does_not_fit(path: Path, metadata: dict[str, str], reason: str) -> None:
    graph, segments, _ = dense(3, 2)
    with pytest.raises(FormatError, match=reason):
        write(path, graph, segments, metadata=metadata)


def test_a_header_over_the_cap(path: Path) -> None:
    graph, segments, _ = dense(3, 2)
    with pytest.raises(FormatError, match=r"header would take .* more than the 8388608 allowed"):
        write(path, graph, segments, metadata={"note": "x" * (8 * MIB)})
    with pytest.raises(FormatError, match="268435457 blocks, and their checksums exceed the header"):
        write(path, chain(["w"]), [Segment([constant("w", 2**48 + 1)])])
    assert names(path.parent) == []


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([], "hold 0 bytes, expected 16"),
        ([ONES[:3]], "hold 12 bytes, expected 16"),
        ([ONES, ONES[:1]], "more than 16 bytes"),
        ([ONES.astype(np.float64)[:2]], "not a C-contiguous array of float32"),
        ([ONES.astype(">f4")], "not a C-contiguous array of float32"),
        ([np.ones((4, 2), np.float32)[:, :1]], "not a C-contiguous array of float32"),
        ([b"0123456789abcdef"], "not a C-contiguous array of float32"),
    ],
)
def test_chunks_that_are_not_the_tensor(path: Path, chunks: list[Array], reason: str) -> None:
    path.write_bytes(b"before")
    with pytest.raises(FormatError, match=f"tensor 'w': .*{reason}"):
        write(path, chain(["w"]), [Segment([source("w", *chunks)])])
    assert path.read_bytes() == b"before"
    assert names(path.parent) == [path.name]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError, OSError])
@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_leaves_nothing_behind(path: Path, error: type[BaseException], exists: bool, nameless: bool) -> None:
    def chunks() -> Iterator[Array]:
        yield np.ones(MIB, np.float32)
        assert len(names(path.parent)) == exists + (not nameless)
        raise error

    if exists:
        path.write_bytes(b"before")
    with pytest.raises(error):
        write(path, chain(["w"]), [Segment([Source("w", (2 * MIB,), chunks)])])
    assert names(path.parent) == [path.name] * exists
    assert not exists or path.read_bytes() == b"before"


def test_a_write_that_the_system_refuses(path: Path) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6 * MIB, limits[1]))
    try:
        with pytest.raises(WeightsIOError) as caught:
            write(path, chain(["w"]), [Segment([constant("w", 4 * MIB)])])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert names(path.parent) == []


def test_a_model_larger_than_the_disk_is_refused_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unread() -> Iterator[Array]:
        pytest.fail("a tensor was read")

    full = SimpleNamespace(f_blocks=10**6, f_bavail=1000, f_frsize=4096)
    monkeypatch.setattr(os, "fstatvfs", lambda fd: full)
    with pytest.raises(WeightsIOError, match="do not fit in the 4096000 that are free") as caught:
        write(path, chain(["w"]), [Segment([Source("w", (4 * MIB,), unread)])])
    assert caught.value.errno == errno.ENOSPC
    assert names(path.parent) == []


def test_a_filesystem_that_does_not_count_its_blocks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fstatvfs", lambda fd: SimpleNamespace(f_blocks=0, f_bavail=0, f_frsize=4096))
    write(path, *dense(3, 2)[:2])
    verify(path)


def test_folders_and_destinations_that_cannot_be_written(tmp_path: Path) -> None:
    model = dense(3, 2)[:2]
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for dest, reason in [
        (tmp_path / "missing" / "model", "No such file or directory"),
        (tmp_path / "folder", "not a regular file"),
        (f"{tmp_path}/folder/", "expected the name of a file"),
        (tmp_path / "fifo", "not a regular file"),
    ]:
        with pytest.raises(WeightsIOError, match=reason):
            write(dest, *model)
    assert names(tmp_path) == ["fifo", "folder"]
    assert names(tmp_path / "folder") == []


@pytest.mark.usefixtures("nameless")
def test_a_bare_name_goes_to_the_current_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    write(path.name, *dense(3, 2)[:2])
    verify(path.name)
    assert names(path.parent) == [path.name]


@pytest.mark.usefixtures("nameless")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_permissions_follow_the_umask(path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write(path, *dense(3, 2)[:2])
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


@pytest.mark.usefixtures("nameless")
@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444])
def test_a_file_keeps_its_permissions_when_it_is_replaced(path: Path, mode: int) -> None:
    write(path, *dense(3, 2)[:2])
    path.chmod(mode)
    write(path, *dense(3, 2, seed=1)[:2])
    assert path.stat().st_mode & 0o777 == mode
    verify(path)


@pytest.mark.usefixtures("nameless")
def test_a_reader_keeps_the_file_that_is_replaced(path: Path) -> None:
    write(path, *dense(3, 2)[:2])
    old = read_header(path)
    with path.open("rb") as file:
        write(path, *dense(3, 2, seed=1)[:2])
        assert os.fstat(file.fileno()).st_ino == old.identity.inode
    assert read_header(path).identity != old.identity


KILLED = """
import sys
import numpy as np
from streamrt.format import Segment, Source, write
from streamrt.graph import Graph, Node, TensorSpec

def chunks():
    yield np.ones(1 << 20, np.float32)
    print("half", flush=True)
    sys.stdin.read()

node = Node("n", "Gemm", ("x", "w"), ("y",))
graph = Graph((TensorSpec("x", ()),), (TensorSpec("y", ()),), (node,))
write(sys.argv[1], graph, [Segment([Source("w", (1 << 21,), chunks)])])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_dies_half_way_leaves_the_destination_alone(path: Path, number: int) -> None:
    path.write_bytes(b"before")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(number)
        assert process.wait() == -number
    assert path.read_bytes() == b"before"
    if number == signal.SIGINT or has_nameless_files(path.parent):  # else SIGKILL leaves a hidden file
        assert names(path.parent) == [path.name]
    write(path, *dense(3, 2)[:2])
    verify(path)


def test_memory_does_not_grow_with_the_tensor(path: Path) -> None:
    size = 24 * MIB  # 96 MiB of float32
    tracemalloc.start()
    try:
        write(path, chain(["w"]), [Segment([constant("w", size)])])
        verify(path)
        assert tracemalloc.get_traced_memory()[1] < 12 * MIB
    finally:
        tracemalloc.stop()


def test_the_page_cache_stays_clean(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamrt.format import files

    probe = path.with_suffix(".probe")
    with probe.open("wb") as file:
        file.write(bytes(4 * MIB))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident_bytes(probe):
        pytest.skip("this filesystem keeps its files in memory")
    probe.unlink()

    monkeypatch.setattr(Replacement, "_open_nameless", lambda self: -1)  # the test looks for its name below
    most = 0

    def chunks() -> Iterator[Array]:
        nonlocal most
        for _ in range(24):
            yield np.ones(MIB, np.float32)
            (temporary,) = path.parent.iterdir()
            most = max(most, resident_bytes(temporary))

    monkeypatch.setattr(files, "SETTLE_EVERY", 16 * MIB)
    write(path, chain(["w"]), [Segment([Source("w", (24 * MIB,), chunks)])])
    assert 0 < most <= 24 * MIB
    assert resident_bytes(path) == 0
    read_header(path)
    assert resident_bytes(path) == 0
    verify(path)
    assert resident_bytes(path) == 0

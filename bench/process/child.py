"""The fresh process: does one `Job` and writes its measurements, as JSON, to a descriptor that it inherits.

It is started with ``-P``, so that ``import streamrt`` finds the installed package. ``bench`` is loaded by its path.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.peers import Array, Opened, Setting
    from bench.process.job import Job


def _load_bench() -> None:
    folder = Path(__file__).parents[1]
    spec = importlib.util.spec_from_file_location(
        "bench", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench"] = module
    spec.loader.exec_module(module)


def probe(job: Job) -> dict[str, Any]:
    """The packages that are installed.

    It has three parts. By peer, it has the versions of its packages, or the module that is missing. It has the versions
    of the modules that models need, None for a missing module. It has a digest of streamrt's sources.
    """
    from bench.machine import sources_digest
    from bench.models import NEEDS
    from bench.peers import peers

    found: dict[str, Any] = {}
    for name, peer in peers().items():
        versions = {package: _installed_version(package) for package in peer.packages}
        missing = [module for module in peer.modules if importlib.util.find_spec(module.partition(".")[0]) is None]
        missing += [package for package, version in versions.items() if version is None and package not in missing]
        missing += [program for program in peer.programs if shutil.which(program) is None]
        found[name] = {"missing": ", ".join(missing)} if missing else {"versions": versions}
    needs = {module: _installed_version(module) for module in NEEDS}
    digest = sources_digest(_folder_of("streamrt")) if importlib.util.find_spec("streamrt") else None
    return {"peers": found, "needs": needs, "streamrt": digest}


def source(job: Job) -> dict[str, Any]:
    """Make the model, and the reference's answers for every batch, unless they exist."""
    import numpy as np

    from bench import models
    from bench.machine import sources_digest

    model = models.source(job.model, Path(job.data))
    made_by = sources_digest(Path(models.__file__).parent)
    _once(model.folder / "made", made_by, lambda: model.make(model))
    for batch in job.batches:
        if not model.answer(batch).exists():
            unfinished = model.folder / "unfinished.npy"
            np.save(unfinished, model.reference(model, model.input(batch)))
            unfinished.rename(model.answer(batch))
    return {}


def disk(job: Job) -> dict[str, Any]:
    """Make the file with which the disk is measured, unless it exists."""
    from bench.limits.disk import make

    (size,) = job.sizes
    assert job.file
    make(Path(job.file), size)
    return {}


def prepare(job: Job) -> dict[str, Any]:
    """Convert the model to the peer's own files, unless they exist."""
    from bench.models import source
    from bench.peers import peers

    peer, model = peers()[job.peer], source(job.model, Path(job.data))
    folder = _folder(job)
    made_by = [f"{package} {_version(package)}" for package in ("onnx", "torch", *peer.packages)]
    made_by += [(model.folder / "made").read_text(), *(Path(file).read_text() for file in (peer.module, *peer.helpers))]
    _once(folder / "prepared", "\n".join(made_by), lambda: peer.prepare(model, folder))
    os.sync()  # so that no file is written back while another is measured
    files = peer.files(model, folder)
    return {"files": [str(path) for path in files], "bytes": sum(path.stat().st_size for path in files)}


def _once(mark: Path, made_by: str, make: Callable[[], None]) -> None:
    """Call ``make`` to fill the folder of ``mark``, unless the file ``mark`` already has the text ``made_by``."""
    if not mark.exists() or mark.read_text() != made_by:
        shutil.rmtree(mark.parent, ignore_errors=True)
        mark.parent.mkdir(parents=True)
        make()
        mark.write_text(made_by)


def check(job: Job) -> dict[str, Any]:
    """Compare the peer's answer with the reference's."""
    from bench.process import figures

    (batch,) = job.batches
    return {"error": figures.error(job, batch, _open(job).run(_input(job, batch)))}


def passes(job: Job) -> dict[str, Any]:
    """Time the first pass, then steady passes, and then steady passes with the disk's speed measured between them."""
    from bench.process import figures

    importlib.import_module("numpy")  # every contender has it in memory
    interpreter = _memory()["anonymous"]
    (batch,) = job.batches
    x = _input(job, batch)
    for module in job.modules:
        importlib.import_module(module)
    entered = time.monotonic()
    opened = _open(job)
    run = partial(_together, opened, job.callers)
    ready = time.monotonic()
    answers = run(x)
    first = time.monotonic()
    times: list[float] = []
    while len(times) < job.least_passes or (sum(times) < job.seconds and len(times) < job.most_passes):
        answers.clear()  # so that the answers of two calls are never in memory together
        start = time.perf_counter()
        answers = run(x)
        times.append(time.perf_counter() - start)
    error = max(figures.error(job, batch, y) for y in answers)
    answers.clear()
    moments = _moments(partial(run, x), job) if job.file else []
    spawned = float(os.environ["STREAMRT_BENCH_SPAWNED"])
    return {
        "opening": ready - entered,
        "first": first - ready,
        "to_first_output": first - spawned,
        "steady": figures.distribution(times) if times else None,
        "moments": moments,
        "error": error,
        "interpreter": interpreter,
        "facts": opened.facts(),
    }


def profile(job: Job) -> dict[str, Any]:
    """Time steady passes, and in each pass the nodes of the model as the peer executes it."""
    from bench.layers import measure
    from bench.models import source
    from bench.peers import peers
    from bench.process import figures

    peer, model = peers()[job.peer], source(job.model, Path(job.data))
    (batch,) = job.batches
    assert peer.profile
    profiled = peer.profile(model, _folder(job), _setting(job))
    times, nodes, y = measure.passes(profiled, model.input(batch), job)
    return {"steady": figures.distribution(times), "error": figures.error(job, batch, y)} | measure.summary(
        times, nodes
    )


def layers(job: Job) -> dict[str, Any]:
    """The layers of a model as streamrt packed it."""
    from bench.layers import graph
    from bench.models import source
    from bench.peers.streamrt import packed

    (batch,) = job.batches
    return {"layers": graph.layers(source(job.model, Path(job.data)), packed(_folder(job)), batch)}


def _moments(run: Callable[[], object], job: Job) -> list[tuple[float, float]]:
    """Seconds of steady passes, each with the disk's bytes a second: the mean of measurements before and after it."""
    from bench.limits.disk import stretches

    assert job.file
    speeds = stretches(job.file)
    before, found = next(speeds), list[tuple[float, float]]()
    until = time.perf_counter() + job.seconds
    while len(found) < job.least_passes or (time.perf_counter() < until and len(found) < job.most_passes):
        run()  # not timed, because its window was filled while the disk was measured
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        after = next(speeds)
        found.append((seconds, (before + after) / 2))
        before = after
    return found


def _together(opened: Opened, callers: int, x: Array) -> list[Array]:
    """The answers of ``callers`` threads that call at the same time."""
    if callers == 1:
        return [opened.run(x)]
    from concurrent.futures import ThreadPoolExecutor  # imported late, since `import` is timed

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(opened.run, [x] * callers))


def import_(job: Job) -> dict[str, Any]:
    """Import the peer, into an interpreter that has imported only the standard library."""
    before = _memory()
    start = time.perf_counter()
    for module in job.modules:
        importlib.import_module(module)
    return {"seconds": time.perf_counter() - start} | _grown(before)


def open_(job: Job) -> dict[str, Any]:
    """Import the peer and open a model, without calling it."""
    before = _memory()
    start = time.perf_counter()
    for module in job.modules:
        importlib.import_module(module)
    importing = time.perf_counter() - start
    from bench.models import source
    from bench.peers import peers

    peer, model = peers()[job.peer], source(job.model, Path(job.data))
    start = time.perf_counter()
    opened = peer.open(model, _folder(job), _setting(job))
    opening = time.perf_counter() - start
    assert opened
    return {"seconds": importing + opening} | _grown(before)


def limit(job: Job) -> dict[str, Any]:
    """One physical limit of the machine."""
    from bench.limits import LIMITS

    return {"value": LIMITS[job.peer](job.file, job.threads)}


def pool(job: Job) -> dict[str, Any]:
    """A task of a pool's benchmark."""
    from bench.pool.tasks import TASKS

    return TASKS[job.kind](job)


def serve(job: Job) -> dict[str, Any]:
    """A task of a server's benchmark."""
    from bench.serve.tasks import TASKS

    return TASKS[job.kind](job)


def accuracy(job: Job) -> dict[str, Any]:
    """What weights in fewer bytes do to the answers of a trained network."""
    import tempfile

    from bench.accuracy import measure
    from bench.accuracy.networks import NETWORKS

    (count,) = job.batches
    with tempfile.TemporaryDirectory(dir=job.data) as folder:
        return measure.network(NETWORKS[job.model], Path(folder), count)


def _installed_version(package: str) -> str | None:
    from importlib import metadata  # imported late: it imports much of the standard library, and `import` is timed

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _version(package: str) -> str:
    """The version of an installed package; for streamrt with a digest of its sources, which change between versions."""
    from bench.machine import sources_digest

    version = _installed_version(package) or "none"
    return f"{version} {sources_digest(_folder_of('streamrt'))}" if package == "streamrt" else version


def _folder_of(package: str) -> Path:
    """The folder of an installed package.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(package)
    return Path(spec.origin).parent


def _open(job: Job) -> Opened:
    from bench.models import source
    from bench.peers import peers

    model = source(job.model, Path(job.data))
    return peers()[job.peer].open(model, _folder(job), _setting(job))


def _setting(job: Job) -> Setting:
    from bench.peers import Setting

    (batch,) = job.batches
    return Setting(batch, job.threads, job.budget, job.verify, job.cap, job.callers)


def _folder(job: Job) -> Path:
    return Path(job.data) / job.model / job.peer.replace(" ", "-")


def _input(job: Job, batch: int) -> Array:
    from bench.models import source

    return source(job.model, Path(job.data)).input(batch)


def _memory() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    kilobytes = {line[0]: int(line[1]) for line in lines if line[0] in ("RssAnon:", "RssFile:")}
    return {"anonymous": kilobytes["RssAnon:"] * 1024, "mapped": kilobytes["RssFile:"] * 1024}


def _grown(before: dict[str, int]) -> dict[str, int]:
    return {name: value - before[name] for name, value in _memory().items()}


def main() -> None:
    """Do the job that ``argv`` has."""
    _load_bench()
    from bench.process.job import Job

    job = Job.from_json(sys.argv[2])
    # As many processors as threads, so that a contender's helper threads share them.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.threads])
    does = {
        "probe": probe,
        "source": source,
        "disk": disk,
        "prepare": prepare,
        "check": check,
        "passes": passes,
        "profile": profile,
        "layers": layers,
        "import": import_,
        "open": open_,
        "limit": limit,
        "accuracy": accuracy,
    }
    family, _, _ = job.kind.partition("-")
    values = ({"pool": pool, "serve": serve}.get(family) or does[job.kind])(job)
    with os.fdopen(int(sys.argv[1]), "w") as answer:
        json.dump(values, answer)
    # This skips the peers' destructors: some take seconds or crash, and none is measured.
    os._exit(0)


if __name__ == "__main__":
    main()

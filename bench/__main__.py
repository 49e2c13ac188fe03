"""``python -m bench``: list scenarios and peers, run them, report the results."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import machine, models, record
from bench.driver import Options, Run
from bench.models.vision import NAMES, TIMM
from bench.peers import TOLERANCES, peers
from bench.pool.contenders import CONTENDERS
from bench.pool.models import FLOAT32
from bench.pool.sets import QUICK, SETS, SMALL
from bench.pool.traces import TRACES
from bench.process import spawn
from bench.process.job import Job
from bench.scenarios import HEADLINES, SCENARIOS
from bench.serve.rows import WIRES
from bench.serve.servers import SERVERS

_HERE = Path(__file__).parent
_RESULTS = _HERE / "results"
_QUICK = Path(tempfile.gettempdir()) / "streamrt-bench-quick"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamrt-bench"


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return options.does(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure streamrt, its peers and the machine's limits side by side."
    )
    commands = parser.add_subparsers(required=True)

    listing = commands.add_parser("list", help="list scenarios and peers")
    listing.set_defaults(does=_list)

    running = commands.add_parser("run", help="measure: writes a file of JSON lines for each scenario")
    running.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="scenarios to run (default: all)")
    _add_measuring(running)
    part = running.add_mutually_exclusive_group()
    part.add_argument("--quick", action="store_true", help="one round with small models, as a test")
    part.add_argument("--headlines", action="store_true", help="only the README's rows, into RESULTS/headlines")
    running.add_argument("--results", type=Path, help=f"folder of the results ({_RESULTS}, with --quick {_QUICK})")
    running.set_defaults(does=_run)

    layering = commands.add_parser("layers", help="measure one model layer by layer, and print a table")
    layering.add_argument("model", metavar="MODEL", help="a model of a scenario, or mlp-LAYERSxWIDTH")
    layering.add_argument("--batch", type=_count, default=1, help="samples of a call (default: 1)")
    _add_measuring(layering)
    layering.add_argument("--results", type=Path, default=_RESULTS, help=f"folder of layers-MODEL.jsonl ({_RESULTS})")
    layering.set_defaults(does=_layers)

    pooling = commands.add_parser(
        "pool", help="measure the bytes that pools of models load on traces of requests, and the time of requests"
    )
    pooling.add_argument("--simulate", action="store_true", help="simulate only: takes seconds, real runs take hours")
    pooling.add_argument(
        "--set",
        choices=(*SETS, "both"),
        default=SMALL.name,
        help=f"the models and their budget (default: {SMALL.name})",
    )
    pooling.add_argument("--hits", action="store_true", help="measure only the cost of hits, without traces")
    pooling.add_argument("--contenders", nargs="+", help="contenders of real runs, as 'streamrt lru' (default: all)")
    pooling.add_argument("--traces", nargs="+", help="traces, as 'zipf 0.9' (default: all, then the cost of hits)")
    pooling.add_argument(
        "--weights",
        nargs="+",
        default=[FLOAT32],
        choices=(FLOAT32, *TOLERANCES),
        help="types of the models' weights, with the same budget; their times are compared with those of the first",
    )
    pooling.add_argument("--rounds", type=_count, help="how often each trace is played (default: 3, with --quick 1)")
    pooling.add_argument("--requests", type=_count, help="requests of a trace (default: 5000, of large models 300)")
    pooling.add_argument(
        "--quick", action="store_true", help="one round of some traces with few small models, as a test"
    )
    pooling.add_argument("--data", type=Path, default=_CACHE, help=f"folder of the models, up to 12 GB ({_CACHE})")
    pooling.add_argument("--results", type=Path, help=f"folder of pool-SET.jsonl ({_RESULTS}, with --quick {_QUICK})")
    pooling.set_defaults(does=_pool)

    _add_serving(
        commands.add_parser("serve", help="measure servers with clients on loopback: streamrt, MLServer and LitServe")
    )

    comparing = commands.add_parser(
        "accuracy", help="compare the answers of trained networks with weights in fewer bytes, and print a table"
    )
    comparing.add_argument("networks", nargs="*", metavar="NETWORK", help="trained networks (default: all)")
    comparing.add_argument("--quick", action="store_true", help="few inputs, as a test")
    comparing.add_argument("--data", type=Path, default=_CACHE, help=f"folder of temporary files, 0.2 GB ({_CACHE})")
    comparing.add_argument("--results", type=Path, help=f"folder of accuracy.jsonl ({_RESULTS}, with --quick {_QUICK})")
    comparing.set_defaults(does=_accuracy)

    reporting = commands.add_parser("report", help="write tables and plots from the results")
    reporting.add_argument("--results", type=Path, default=_RESULTS, help=f"folder of the results ({_RESULTS})")
    reporting.add_argument("--readme", type=Path, help="README whose rows and chart are written")
    reporting.set_defaults(does=_report)
    return parser


def _add_serving(serving: argparse.ArgumentParser) -> None:
    """Add the arguments of the command that measures servers."""
    serving.add_argument("--rows", nargs="+", metavar="ROW", help="rows, as '50 models' (default: all)")
    serving.add_argument("--servers", nargs="+", default=SERVERS, choices=SERVERS, help="servers (default: all)")
    serving.add_argument("--wires", nargs="+", default=WIRES, choices=WIRES, help="forms of tensors (default: all)")
    serving.add_argument(
        "--connections", nargs="+", type=_count, help="connections (default: 1 8 64, with --quick 1 8)"
    )
    serving.add_argument("--seconds", type=_count, help="seconds of a timed stretch (default: 5, with --quick 0.4)")
    serving.add_argument("--rounds", type=_count, help="how often each server is measured (default: 3, with --quick 1)")
    serving.add_argument("--quick", action="store_true", help="one round with small networks, as a test")
    serving.add_argument(
        "--data",
        type=Path,
        default=_CACHE,
        help=f"folder of the models, and of environments for MLServer and LitServe, 3 GB ({_CACHE})",
    )
    serving.add_argument("--results", type=Path, help=f"folder of serve.jsonl ({_RESULTS}, with --quick {_QUICK})")
    serving.set_defaults(does=_serve)


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the commands that measure contenders in rounds."""
    parser.add_argument(
        "--peers", nargs="+", metavar="PEER", help="peers to measure (default: all that are installed and not optional)"
    )
    parser.add_argument(
        "--threads",
        nargs="+",
        type=_threads,
        default=["all"],
        help="numbers of threads, such as 'all 1' (default: all)",
    )
    parser.add_argument("--rounds", type=_count, help="rounds (default: each scenario's own number)")
    parser.add_argument("--data", type=Path, default=_CACHE, help=f"folder of the models, up to 80 GB ({_CACHE})")


def _list(options: argparse.Namespace) -> int:
    installed = _probe(_CACHE)["peers"]
    for scenario in SCENARIOS.values():
        print(f"{scenario.name:16} {scenario.title}")
        for case in scenario.cases:
            print(f"{'':16}   {case.label}")
    print()
    for name, peer in peers().items():
        found = installed[name]
        state = (
            f"missing: {found['missing']}"
            if "missing" in found
            else ", ".join(map(" ".join, found["versions"].items()))
        )
        print(f"{name:24} {'/'.join(sorted(peer.families)):8} {state}")
    return 0


def _run(options: argparse.Namespace) -> int:
    if _unknown("scenario", options.scenarios, SCENARIOS) or _unknown("peer", options.peers or [], peers()):
        return 2
    data = options.data.resolve()
    data.mkdir(parents=True, exist_ok=True)
    results = options.results or (_QUICK if options.quick else _RESULTS)
    if options.headlines:
        results /= HEADLINES
    installed = _probe(data)
    shared = _shared("models", installed, data, quick=options.quick)
    names = frozenset(options.peers) if options.peers else None
    chosen = Options(data, names, _counts(options.threads), options.rounds, options.quick, options.headlines)
    scenarios = options.scenarios or [name for name in SCENARIOS if SCENARIOS[name].headlines or not options.headlines]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: children and cgroups are removed
    failures = 0
    try:
        for name in scenarios:
            path = results / f"{name}.jsonl"
            with record.Recorder(path, shared) as recorder:
                failures += Run(SCENARIOS[name], chosen, installed, recorder).run()
            print(path)
    except KeyboardInterrupt:
        print(f"interrupted: the results so far are in {results}/{name}.partial.jsonl", file=sys.stderr)
        return 130
    return 1 if failures else 0


def _layers(options: argparse.Namespace) -> int:
    from bench.layers import driver, table

    data = options.data.resolve()
    if _unknown("peer that tells times of layers", options.peers or [], driver.profilers()):
        return 2
    try:
        models.source(options.model, data)
    except KeyError:
        known = ", ".join((*NAMES, *TIMM))
        print(f"no model named {options.model}; choose mlp-LAYERSxWIDTH, or from {known}", file=sys.stderr)
        return 2
    data.mkdir(parents=True, exist_ok=True)
    installed = _probe(data)
    names = frozenset({driver.US, *options.peers}) if options.peers else None
    chosen = Options(data, names, _counts(options.threads), options.rounds)
    path = options.results / f"layers-{options.model}.jsonl"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: children are removed
    try:
        with record.Recorder(path, _shared("models", installed, data, quick=False)) as recorder:
            failures = driver.run(options.model, options.batch, chosen, installed, recorder)
    except KeyboardInterrupt:
        print(f"interrupted: the results so far are in {path.with_suffix('.partial.jsonl')}", file=sys.stderr)
        return 130
    return 0 if _tabled(table.report, [path]) and not failures else 1


def _tabled(report: Callable[[list[record.Record]], str], paths: Sequence[Path]) -> bool:
    """Print the table of results; whether there is one."""
    try:
        print(report(record.read(paths)))
    except ValueError as error:
        print(f"no table: {error}", file=sys.stderr)
        return False
    return True


def _unknown(kind: str, asked: Iterable[str], known: Collection[str]) -> bool:
    """Say which names are not among the known ones; whether there are any."""
    unknown = [name for name in asked if name not in known]
    if unknown:
        print(f"no {kind} named {', '.join(unknown)}; choose from {', '.join(known)}", file=sys.stderr)
    return bool(unknown)


def _counts(threads: Iterable[str | int]) -> tuple[int, ...]:
    """Each number of threads once; ``all`` is the number of processors."""
    cores = len(os.sched_getaffinity(0))
    return tuple(dict.fromkeys(cores if count == "all" else int(count) for count in threads))


def _shared(kind: machine.Kind, installed: dict[str, Any], data: Path, *, quick: bool) -> dict[str, Any]:
    """The fields of every line of results. Says so if another streamrt than the checkout's is installed."""
    shared = {
        "quick": quick,
        "machine": machine.describe(data),
        "versions": {k: v for k, v in installed["needs"].items() if v}
        | {k: v for found in installed["peers"].values() for k, v in found.get("versions", {}).items()},
        "commit": machine.commit(),
        "code": machine.code_digest(kind),
        "checkout_installed": installed["streamrt"] is not None and machine.is_checkout(installed["streamrt"]),
    }
    if installed["streamrt"] and not shared["checkout_installed"]:
        print(
            "note: the installed streamrt differs from this checkout; to measure the checkout, install it",
            file=sys.stderr,
        )
    return shared


def _pool(options: argparse.Namespace) -> int:
    from bench.pool import driver, table

    unknown = _unknown("trace", options.traces or [], TRACES)
    if _unknown("contender", options.contenders or [], CONTENDERS) or unknown:
        return 2
    data = options.data.resolve()
    data.mkdir(parents=True, exist_ok=True)
    shared = _shared("pool", _probe(data), data, quick=options.quick)
    # The simulation takes its policies from the installed package, not from the uncompiled package of the checkout.
    sys.path[:] = [folder for folder in sys.path if Path(folder or ".").resolve() != _HERE.parent.resolve()]
    chosen = [QUICK] if options.quick else list(SETS.values()) if options.set == "both" else [SETS[options.set]]
    usual = driver.QUICK if options.quick else driver.Options()
    part = driver.Options(
        contenders=() if options.simulate else tuple(options.contenders or usual.contenders),
        traces=() if options.hits else tuple(options.traces or usual.traces),
        weights=tuple(dict.fromkeys(options.weights)),
        rounds=options.rounds or usual.rounds,
        hits=options.hits or not options.traces,
        seconds=usual.seconds,
    )
    results = options.results or (_QUICK if options.quick else _RESULTS)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: children and cgroups are removed
    end = "-simulated" if options.simulate else ""
    failures, paths = 0, [results / f"pool-{models.name}{end}.jsonl" for models in chosen]
    try:
        for models, path in zip(chosen, paths, strict=True):
            if options.requests:
                models = replace(models, requests=options.requests)
            with record.Recorder(path, shared) as recorder:
                failures += driver.run(models, data, recorder, part)
            print(path)
    except KeyboardInterrupt:
        print(f"interrupted: the results so far are in {path.with_suffix('.partial.jsonl')}", file=sys.stderr)
        return 130
    if not options.simulate:
        _tabled(table.report, paths)
    return 1 if failures else 0


def _serve(options: argparse.Namespace) -> int:
    from bench.serve import driver, table

    usual = driver.QUICK if options.quick else driver.FULL
    rows = {row.name: row for row in usual.rows}
    if _unknown("row", options.rows or [], rows):
        return 2
    data = options.data.resolve()
    data.mkdir(parents=True, exist_ok=True)
    installed = _probe(data)
    part = driver.Options(
        rows=tuple(rows[name] for name in options.rows or rows),
        servers=tuple(dict.fromkeys(options.servers)),
        wires=tuple(dict.fromkeys(options.wires)),
        connections=tuple(dict.fromkeys(options.connections or usual.connections)),
        rounds=options.rounds or usual.rounds,
        seconds=options.seconds or usual.seconds,
        least=usual.least,
    )
    runtime = installed["peers"]["onnxruntime"].get("versions", {}).get("onnxruntime")
    path = (options.results or (_QUICK if options.quick else _RESULTS)) / "serve.jsonl"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: servers and cgroups are removed
    try:
        with record.Recorder(path, _shared("server", installed, data, quick=options.quick)) as recorder:
            failures = driver.run(part, data, recorder, runtime)
    except KeyboardInterrupt:
        print(f"interrupted: the results so far are in {path.with_suffix('.partial.jsonl')}", file=sys.stderr)
        return 130
    print(path)
    return 0 if _tabled(table.report, [path]) and not failures else 1


def _accuracy(options: argparse.Namespace) -> int:
    from bench.accuracy import driver, table
    from bench.accuracy.networks import NETWORKS

    if _unknown("network", options.networks, NETWORKS):
        return 2
    results = options.results or (_QUICK if options.quick else _RESULTS)
    data = options.data.resolve()
    data.mkdir(parents=True, exist_ok=True)
    path = results / "accuracy.jsonl"
    shared = _shared("models", _probe(data), data, quick=options.quick)
    count = driver.QUICK if options.quick else driver.ALL
    (threads,) = _counts(["all"])
    with record.Recorder(path, shared) as recorder:
        failures = driver.run(options.networks or NETWORKS, data, threads, count, recorder)
    return 0 if _tabled(table.report, [path]) and not failures else 1


def _report(options: argparse.Namespace) -> int:
    from bench.report import write

    for path in write(options.results, options.readme):
        print(path)
    return 0


def _probe(data: Path) -> dict[str, Any]:
    outcome = spawn.run(Job("probe", data=str(data)))
    if outcome.status != "ok":
        raise SystemExit(f"cannot find out which packages are installed: {outcome.reason}")
    return outcome.values


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def _threads(text: str) -> str | int:
    if text != "all" and (not text.isdecimal() or int(text) < 1):
        raise argparse.ArgumentTypeError(f"expected 'all' or a whole number above 0, found {text!r}")
    return text if text == "all" else int(text)


if __name__ == "__main__":
    sys.exit(main())

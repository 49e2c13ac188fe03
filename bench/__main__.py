"""``python -m bench``: list scenarios and peers, run them, report the results."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from bench import machine, record
from bench.driver import Options, Run
from bench.peers import peers
from bench.process import spawn
from bench.process.job import Job
from bench.scenarios import HEADLINES, SCENARIOS

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
    running.add_argument("--peers", nargs="+", metavar="PEER", help="peers to measure (default: all installed peers)")
    running.add_argument(
        "--threads",
        nargs="+",
        type=_threads,
        default=["all"],
        help="numbers of threads, such as 'all 1' (default: all)",
    )
    running.add_argument("--rounds", type=_count, help="rounds (default: each scenario's own number)")
    part = running.add_mutually_exclusive_group()
    part.add_argument("--quick", action="store_true", help="one round with small models, as a test")
    part.add_argument("--headlines", action="store_true", help="only the README's rows, into RESULTS/headlines")
    running.add_argument("--data", type=Path, default=_CACHE, help=f"folder of the models, up to 50 GB ({_CACHE})")
    running.add_argument("--results", type=Path, help=f"folder of the results ({_RESULTS}, with --quick {_QUICK})")
    running.set_defaults(does=_run)

    pooling = commands.add_parser(
        "pool", help="measure the bytes that pools of models load on traces of requests, and the time of requests"
    )
    pooling.add_argument("--simulate", action="store_true", help="simulate only: takes seconds, real runs take an hour")
    pooling.add_argument("--contenders", nargs="+", help="contenders of real runs, as 'streamrt lru' (default: all)")
    pooling.add_argument("--requests", type=_count, help="requests of a trace (default: 5000)")
    pooling.add_argument("--quick", action="store_true", help="few small models, as a test")
    pooling.add_argument("--data", type=Path, default=_CACHE, help=f"folder of the models, 0.6 GB ({_CACHE})")
    pooling.add_argument("--results", type=Path, help=f"folder of pool.jsonl ({_RESULTS}, with --quick {_QUICK})")
    pooling.set_defaults(does=_pool)

    reporting = commands.add_parser("report", help="write tables and plots from the results")
    reporting.add_argument("--results", type=Path, default=_RESULTS, help=f"folder of the results ({_RESULTS})")
    reporting.add_argument("--readme", type=Path, help="README whose rows and chart are written")
    reporting.set_defaults(does=_report)
    return parser


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
    for kind, asked, known in (
        ("scenario", options.scenarios, SCENARIOS),
        ("peer", options.peers or [], peers()),
    ):
        if unknown := [name for name in asked if name not in known]:
            print(f"no {kind} named {', '.join(unknown)}; choose from {', '.join(known)}", file=sys.stderr)
            return 2
    data = options.data.resolve()
    data.mkdir(parents=True, exist_ok=True)
    results = options.results or (_QUICK if options.quick else _RESULTS)
    if options.headlines:
        results /= HEADLINES
    cores = len(os.sched_getaffinity(0))
    threads = tuple(dict.fromkeys(cores if count == "all" else count for count in options.threads))
    installed = _probe(data)
    shared = {
        "quick": options.quick,
        "machine": machine.describe(data),
        "versions": {k: v for k, v in installed["needs"].items() if v}
        | {k: v for found in installed["peers"].values() for k, v in found.get("versions", {}).items()},
        "commit": machine.commit(),
        "checkout_installed": installed["streamrt"] is not None and machine.is_checkout(installed["streamrt"]),
    }
    if installed["streamrt"] and not shared["checkout_installed"]:
        print(
            "note: the installed streamrt differs from this checkout; to measure the checkout, install it",
            file=sys.stderr,
        )
    names = frozenset(options.peers) if options.peers else None
    chosen = Options(data, names, threads, options.rounds, options.quick, options.headlines)
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


def _pool(options: argparse.Namespace) -> int:
    from bench.pool import driver

    # The simulation takes its policies from the installed package, not from the uncompiled package of the checkout.
    sys.path[:] = [folder for folder in sys.path if Path(folder or ".").resolve() != _HERE.parent.resolve()]
    setting = driver.QUICK if options.quick else driver.Setting()
    if options.requests:
        setting = replace(setting, requests=options.requests)
    results = options.results or (_QUICK if options.quick else _RESULTS)
    data = options.data.resolve()
    data.mkdir(parents=True, exist_ok=True)
    shared = {"quick": options.quick, "machine": machine.describe(data), "commit": machine.commit()}
    with record.Recorder(results / "pool.jsonl", shared) as recorder:
        real = () if options.simulate else tuple(options.contenders or driver.CONTENDERS)
        failures = driver.run(setting, data, recorder, real)
    return 1 if failures else 0


def _report(options: argparse.Namespace) -> int:
    from bench.report import write

    for path in write(options.results, options.readme):
        print(path)
    return 0


def _probe(data: Path) -> dict[str, object]:
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

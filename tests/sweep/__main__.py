"""``python -P tests/sweep``: packs one model of each family of timm, and all of torchvision's; compares with torch.

It takes hours. An interrupted run goes on where it stopped. The exit code is 1 if a model fails that passed before.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
# Modules are imported from tests/, as tests do, and not from this folder. The package is the installed one.
sys.path[:] = [str(_FOLDER.parent), *(e for e in sys.path if e and Path(e).resolve() != _FOLDER)]

from sweep import sweep, zoo  # noqa: E402

RESULTS, TABLE = _FOLDER / "results.jsonl", _FOLDER.parents[1] / "docs/models.md"


def main() -> int:
    """Run the sweep; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -P tests/sweep", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only the models of these names")
    parser.add_argument("--seconds", type=float, default=900, help="the most time for a model (default %(default)s)")
    parser.add_argument("--results", type=Path, help=f"default {RESULTS}; --only needs another file")
    parser.add_argument("--table", type=Path, help=f"default {TABLE}; --only needs another file")
    options = parser.parse_args()
    entries = zoo.entries()
    if options.only:
        if not options.results or not options.table:
            parser.error("--only needs --results and --table, since it leaves out models")
        if unknown := set(options.only) - {entry.name for entry in entries}:
            parser.error(f"the sweep has no model {', '.join(sorted(unknown))}")
        entries = [entry for entry in entries if entry.name in options.only]
    results, table = options.results or RESULTS, options.table or TABLE
    before = sweep.read(results)
    found = sweep.run(entries, results, options.seconds)
    table.write_text(sweep.table(found.values()))
    for name in (lost := sweep.lost(before, found)):
        print(f"{name} passed before and fails now")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())

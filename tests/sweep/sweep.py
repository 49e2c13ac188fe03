"""Runs models one at a time, each in a process of its own, and keeps a line about each in a file of JSON lines."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from textwrap import wrap
from typing import Any

from sweep.zoo import Entry

#: Facts about a model: a line of the results.
Facts = dict[str, Any]
_ONE = Path(__file__).parent / "one.py"
#: The most characters of a reason.
_LONGEST = 160
_INTRODUCTION = """\
# Models

Written by `tests/sweep`. Every model has random weights, is exported by torch, packed, and compared with torch on one
input, with all weights in memory and under the least budget. It passes if no output differs by more than 1e-4 of its
largest value. From torchvision these are all classifiers and segmenters, and the bodies of all detectors; from timm
they are a small model of each family.
"""


def in_a_process(entry: Entry, seconds: float) -> Facts:
    """Run one model in a new process, which is stopped after ``seconds``; its files are removed."""
    with tempfile.TemporaryDirectory(prefix="streamrt-sweep-") as folder:
        command = [sys.executable, "-P", str(_ONE), entry.source, entry.name, folder]
        environment = os.environ | {"PYTHONPATH": str(_ONE.parent)}
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return {"outcome": "failed", "reason": f"it takes more than {seconds:.0f} s"}
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    lines = output.splitlines()
    if process.returncode == 0 and lines:
        return dict(json.loads(lines[-1]))
    if process.returncode == -signal.SIGKILL:
        return {"outcome": "failed", "reason": "it was killed, as the kernel does when memory runs out"}
    last = (errors.strip().splitlines() or ["no text"])[-1]
    return {"outcome": "failed", "reason": f"the process ended with code {process.returncode}: {last}"}


def read(path: Path) -> dict[tuple[str, str], Facts]:
    """The lines of a file of results by source and name; empty if there is no file. A torn last line is left out."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            facts = json.loads(line)
        except ValueError:
            continue
        found[facts["source"], facts["name"]] = facts
    return found


def run(
    entries: Iterable[Entry], results: Path, seconds: float, one: Callable[[Entry, float], Facts] = in_a_process
) -> dict[tuple[str, str], Facts]:
    """Run all models that have no line yet; returns the facts about all.

    Lines are added to ``.partial.jsonl``, so that an interrupted run goes on. At the end it replaces ``results``.
    """
    entries = list(entries)
    partial = results.with_suffix(".partial.jsonl")
    found = read(partial)
    for number, entry in enumerate(entries, 1):
        if (entry.source, entry.name) not in found:
            began = time.monotonic()
            facts = entry._asdict() | one(entry, seconds) | {"seconds": round(time.monotonic() - began, 1)}
            if "reason" in facts:
                facts["reason"] = short(facts["reason"])
            found[entry.source, entry.name] = facts
            with partial.open("a") as file:
                file.write(json.dumps(facts) + "\n")
            print(f"{number}/{len(entries)} {entry.name}: {facts['outcome']} {facts.get('reason', '')}", flush=True)
    chosen = {(entry.source, entry.name): found[entry.source, entry.name] for entry in entries}
    partial.write_text("".join(json.dumps(facts) + "\n" for facts in chosen.values()))
    partial.replace(results)
    return chosen


def short(reason: str) -> str:
    """A reason in one line, without the name of the node, so that equal reasons have equal texts."""
    line = reason.strip().splitlines()[0] if reason.strip() else reason
    line = re.sub(r"node '[^']*' \((\w+)\)", r"\1", line)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def lost(before: dict[tuple[str, str], Facts], now: dict[tuple[str, str], Facts]) -> list[str]:
    """The names of models that passed before and do not pass now."""
    return sorted(
        name
        for (source, name), facts in now.items()
        if facts["outcome"] != "passed" and before.get((source, name), {}).get("outcome") == "passed"
    )


def table(found: Iterable[Facts]) -> str:
    """The results as a document."""
    rows = sorted(found, key=lambda facts: (facts["source"] != "torchvision", facts["family"], facts["name"]))
    parts = [_INTRODUCTION]
    for source in dict.fromkeys(facts["source"] for facts in rows):
        mine = [facts for facts in rows if facts["source"] == source]
        passed = sum(facts["outcome"] == "passed" for facts in mine)
        parts += [f"## {source}: {passed} of {len(mine)}\n"]
        reasons = Counter(facts["reason"] for facts in mine if facts["outcome"] != "passed")
        for reason, count in reasons.most_common():
            names = ", ".join(facts["name"] for facts in mine if facts.get("reason") == reason)
            parts += wrap(f"{count}: {reason} ({names})", 120, initial_indent="* ", subsequent_indent="  ")
        parts += [""] * bool(reasons)
        parts += ["| family | model | parameters, 10^6 | least budget, MiB | result |", "|---|---|--:|--:|---|"]
        for facts in mine:
            least = f"{facts['least'] / 2**20:.1f}" if "least" in facts else ""
            result = f"{facts['error']:.0e}" if facts["outcome"] == "passed" else "failed"
            size = f"{facts['parameters'] / 1e6:.1f}" if "parameters" in facts else ""
            parts.append(f"| {facts['family']} | {facts['name']} | {size} | {least} | {result} |")
        parts.append("")
    return "\n".join(parts)

"""Plants the faults of planted.py, one at a time, and tells which test catches each. README.md tells how to run it."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from faults.fault import Fault
from faults.planted import FAULTS

ROOT = Path(__file__).parents[2]
#: Seconds after which a run of tests is ended: a fault may make them wait for ever.
LIMIT = 3600
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """The result of the tests for a fault; ``by`` is the test that caught it, or empty."""

    fault: Fault
    by: str
    seconds: float

    def __str__(self) -> str:
        verdict = f"caught by {self.by}" if self.by else "NOT CAUGHT"
        return f"{self.fault.room:8} {self.fault.name:18} {verdict} ({self.seconds:.0f} s)"


class Copy:
    """A copy of the checkout in its own folder, and the package that is built from it.

    Args:
        work: the folder; kept between runs, since its objects make the next build shorter.
        jobs: processes that run tests.
    """

    def __init__(self, work: Path, jobs: int) -> None:
        self._source, self._installed = work / "source", work / "installed"
        self._objects, self._jobs = work / "objects", jobs
        self._compiled = work / "compiled"

    def make(self) -> None:
        """Copy the checkout as it is now over the fault of an interrupted run, if any, and build it."""
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
        for name in names:
            if name and (ROOT / name).is_file():
                _update(ROOT / name, self._source / name)
        for path in self._source.rglob("*"):
            relative = str(path.relative_to(self._source))
            if path.is_file() and relative not in names and not relative.startswith("build/"):
                path.unlink()
        self._build()
        shutil.rmtree(self._compiled, ignore_errors=True)
        self._compiled.mkdir()
        for module in (self._installed / "streamrt").glob("*.so"):
            shutil.copy2(module, self._compiled)

    def instruction_sets(self) -> list[str]:
        """The names of the instruction sets that the package can use on this processor."""
        program = "from streamrt import _core; print(*_core._isas())"
        environment = os.environ | {"PYTHONPATH": str(self._installed)}
        told = subprocess.run([sys.executable, "-P", "-c", program], env=environment, check=True, capture_output=True)
        return told.stdout.decode().split()

    @contextmanager
    def planted(self, fault: Fault) -> Iterator[None]:
        """Plant the fault in the installed package, and remove it afterwards."""
        path = self._source / fault.file
        text = path.read_text()
        if text.count(fault.before) != 1:
            raise SystemExit(
                f"{fault.name}: the text is {text.count(fault.before)} times in {fault.file}: mend the list"
            )
        path.write_text(text.replace(fault.before, fault.after))
        try:
            if fault.file.startswith("src/"):
                self._build()
            self._install_python()
            yield
        finally:
            path.write_text(text)
            for module in self._compiled.iterdir():
                shutil.copy2(module, self._installed / "streamrt")
            self._install_python()

    def failing_test(self, folders: Sequence[str]) -> str:
        """The name of the first test that fails in these folders; empty if none does."""
        command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-n", str(self._jobs), "-p", "no:cacheprovider"]
        command.append("--ignore=tests/faults")  # these tests fail for any planted fault, whatever it does
        environment = os.environ | {"PYTHONPATH": str(self._installed), "PYTHONSAFEPATH": "1"}
        process = subprocess.Popen(
            [*command, *folders],
            cwd=self._source,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"a run that did not end within {LIMIT} s"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        if process.returncode == 0:
            return ""
        if found := _FAILED.search(output):
            return found[1]
        if process.returncode in (3, 4, 5):  # pytest's own errors: no test has failed
            raise SystemExit(output)
        return f"the end of the process (exit code {process.returncode})"

    def _build(self) -> None:
        environment = dict(os.environ)
        if shutil.which("ccache"):
            environment.setdefault("CC", "ccache cc")
        command = [sys.executable, "setup.py", "-q", "build_ext"]
        folders = ["--build-lib", str(self._installed), "--build-temp", str(self._objects)]
        done = subprocess.run(
            [*command, *folders], cwd=self._source, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        self._install_python()

    def _install_python(self) -> None:
        for path in (self._source / "streamrt").rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                _update(path, self._installed / path.relative_to(self._source))


def _update(source: Path, target: Path) -> None:
    """Copy a file if its content differs. An unchanged file keeps its time, and is not compiled again."""
    content = source.read_bytes()
    if not target.exists() or target.read_bytes() != content:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def main() -> int:
    """Plant the faults that the arguments name; the exit code is 1 if one was not caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder for the copy and its build")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=[fault.name for fault in FAULTS], help="plant only these faults"
    )
    parser.add_argument(
        "--room", nargs="+", choices=sorted({fault.room for fault in FAULTS}), help="plant only faults of these rooms"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that run tests (default: 1)")
    parser.add_argument("--narrow", action="store_true", help="run only the folders of each fault, not all tests")
    parser.add_argument("--skip-clean", action="store_true", help="do not run the tests without any fault first")
    arguments = parser.parse_args()
    faults = [
        fault
        for fault in FAULTS
        if (not arguments.only or fault.name in arguments.only) and (not arguments.room or fault.room in arguments.room)
    ]
    copy = Copy(arguments.work.resolve(), arguments.jobs)
    copy.make()
    here = copy.instruction_sets()
    faults, absent = [f for f in faults if f.isa in {None, *here}], [f for f in faults if f.isa not in {None, *here}]
    for fault in absent:
        print(f"left out: {fault.name}, since this processor lacks {fault.isa}")
    folders = ["tests"]
    if arguments.narrow:
        folders = list(dict.fromkeys(folder for fault in faults for folder in fault.tests))
    if not arguments.skip_clean and (failed := copy.failing_test(folders)):
        print(f"{failed} fails without any fault, so no fault was planted")
        return 1
    outcomes = []
    for fault in faults:
        start = time.monotonic()
        with copy.planted(fault):
            by = copy.failing_test(fault.tests)
            if not by and not arguments.narrow:
                by = copy.failing_test(["tests"])
        outcomes.append(Outcome(fault, by, time.monotonic() - start))
        print(outcomes[-1], flush=True)
    missed = [outcome.fault for outcome in outcomes if not outcome.by]
    print(f"{len(outcomes) - len(missed)} of {len(outcomes)} faults were caught")
    for fault in missed:
        print(f"NOT CAUGHT: {fault.name} ({fault.file}): {fault.why}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs a page of the site as a reader would: in a fresh folder, block after block, in one shell."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from guides.pages import ROOT, Block, blocks, expected, matches, program
from loadbalancer.client import free_ports, wait_until
from processes import marked

#: Ports that pages name. Tests take free ones instead.
_PORTS = (8000, 8001, 8002, 8003, 9090)
#: Seconds in which the processes of a page end after its last command.
PATIENCE = 60.0
#: Seconds after which a process that was left behind is seen: while it starts a program it has no environment.
_STARTING = 0.1


def run(page: str, folder: Path, *, before: str = "", without: Mapping[str, str] | None = None) -> None:
    """Run a page, and compare the outputs that it shows.

    Args:
        page: its path in the checkout.
        folder: an empty folder. A page of ``docs/guides`` runs in it. Others run in a checkout there, which has the
            examples and the models that come with the package.
        before: what a reader of this page has done already, for bash.
        without: first words of the blocks that do not run, each with the reason.
    """
    work = folder if page.startswith("docs/guides/") else _checkout(folder)
    ports = dict(zip(map(str, _PORTS), map(str, free_ports(len(_PORTS))), strict=True))
    named = re.compile(rf"\b({'|'.join(ports)})\b")

    def on_free_ports(text: str) -> str:
        return named.sub(lambda found: ports[found[0]], text)

    if page.startswith("examples/"):
        work /= Path(page).parent
        for file in (file for suffix in ("conf", "py", "yml") for file in work.glob(f"*.{suffix}")):
            file.write_text(on_free_ports(file.read_text()))
    found = [replace(block, text=on_free_ports(block.text)) for block in blocks(page)]
    left_out = _beginning(found, without or {})
    outputs = folder / ".outputs"
    outputs.mkdir()
    _bash("\n".join([before, program([block for block in found if block not in left_out], outputs)]), work)
    for block, shown in expected(found):
        if block not in left_out:
            printed = (outputs / str(block.line)).read_text()
            assert matches(shown, printed), f"{page}:{block.line} printed\n{printed}"


def _beginning(found: list[Block], words: Iterable[str]) -> list[Block]:
    """For each text the one block that begins with it."""
    beginning = [[block for block in found if block.text.startswith(text)] for text in words]
    assert [len(some) for some in beginning] == [1] * len(beginning)
    return [block for (block,) in beginning]


def _checkout(folder: Path) -> Path:
    """A checkout without the source."""
    made = folder / "checkout"
    shutil.copytree(
        ROOT / "examples", made / "examples", ignore=shutil.ignore_patterns("run", "__pycache__", "*.safetensors")
    )
    (made / "streamrt").mkdir()
    (made / "streamrt" / "data").symlink_to(ROOT / "streamrt" / "data")
    return made


def _bash(text: str, folder: Path) -> None:
    """Run a program, which must leave no process behind."""
    mark = uuid.uuid4().hex
    environment = os.environ | {
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin",
        "RAY_USAGE_STATS_ENABLED": "0",
        "STREAMRT_TEST_MARK": mark,
    }
    try:
        with tempfile.TemporaryFile("w+") as log:  # no pipe, which a process that is left behind would keep open
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", text],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=300,
                check=False,
            )
            log.seek(0)
            assert done.returncode == 0, log.read()
        time.sleep(_STARTING)
        wait_until(lambda: not marked(mark), f"the end of {marked(mark)}", PATIENCE)
    finally:
        for number in marked(mark):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

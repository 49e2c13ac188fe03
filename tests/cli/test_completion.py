"""``streamrt completion``: a real bash completes commands, options, choices and files with its script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from markers import needs
from streamrt import cli

needs("shtab")
pytestmark = pytest.mark.extras

Output = pytest.CaptureFixture[str]
#: Prints what the function that the script has registered for streamrt makes of the words of a command.
COMPLETE = r"""
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
$(complete -p streamrt | sed 's/.* -F \([^ ]*\) .*/\1/')
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for name in ("model.safetensors", "models.txt"):
        (folder / name).touch()
    command = [sys.executable, "-m", "streamrt", "completion", "bash"]
    (folder / "script").write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return folder / "script"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("tu", {"tune"}),
        ("", {"pack", "inspect", "tune", "run", "verify", "unpack", "completion", "serve", "demo"}),
        ("tune --b", {"--batch", "--budgets"}),
        ("run --io ", {"auto", "mmap", "pread"}),
        ("run --io m", {"mmap"}),
        ("pack --weights int", {"int8", "int4"}),
        ("completion ", {"bash", "zsh", "fish"}),
        ("serve --policy ", {"adaptive", "gdsf", "lru"}),
        ("inspect model", {"model.safetensors", "models.txt"}),
        ("tune --plot models", {"models.txt"}),
        ("run model.safetensors models", {"models.txt"}),
    ],
)
def test_bash_completes(script: Path, words: str, expected: set[str]) -> None:
    command = ["bash", "--norc", "-c", COMPLETE, "bash", str(script), "streamrt", *words.split(" ")]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize(("shell", "begin"), [("zsh", "#compdef streamrt"), ("fish", "")])
def test_scripts_of_other_shells(capsys: Output, shell: str, begin: str) -> None:
    assert cli.main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert out.startswith(begin)
    assert "--budgets" in out


def test_an_unknown_shell(capsys: Output) -> None:
    assert cli.main(["completion", "cmd"]) == 2
    assert "invalid choice: 'cmd'" in capsys.readouterr().err


def test_without_shtab(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["completion", "bash"]) == 1
    assert capsys.readouterr().err == "streamrt: error: completion needs shtab: pip install 'streamrt[completion]'\n"

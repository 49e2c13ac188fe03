"""``streamrt completion``: each shell completes commands, options, choices and files with its script."""

from __future__ import annotations

import os
import pty
import shutil
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
#: Writes the completions that fish offers for a command line, each with its description.
FISH = "source $argv[1]; complete --do-complete=$argv[2]"
#: An interactive zsh writes to $FOUND what it offers for the words before the cursor, when it gets a tab. Completion
#: functions call compadd with -O, -A or -D to ask for matches that they do not offer.
ZSH = r"""
fpath=($PWD $fpath)
autoload -Uz compinit && compinit -u -D
compadd() {
    if [[ ${@[1,(i)(-|--)]} != *-(O|A|D)\ * ]]; then
        local -a found
        builtin compadd -O found "$@"
        print -rl -- $found >> $FOUND
    fi
    builtin compadd "$@"
}
captured() { _main_complete; print -r -- end >> $FOUND; exit }
zle -C captured complete-word captured
bindkey '^I' captured
"""
CASES = [
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
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files to complete, and the script of each shell."""
    folder = tmp_path_factory.mktemp("completion")
    for name in ("model.safetensors", "models.txt"):
        (folder / name).touch()
    for shell in ("bash", "zsh", "fish"):
        command = [sys.executable, "-m", "streamrt", "completion", shell]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        (folder / f"_{shell}").write_text(text)
    return folder


def complete(folder: Path, *command: str | Path) -> str:
    environ, none = os.environ | {"HOME": str(folder)}, subprocess.DEVNULL
    done = subprocess.run(
        command, cwd=folder, env=environ, stdin=none, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(("words", "expected"), CASES)
def test_bash_completes(folder: Path, words: str, expected: set[str]) -> None:
    found = complete(folder, "bash", "--norc", "-c", COMPLETE, "bash", folder / "_bash", "streamrt", *words.split(" "))
    assert set(found.split()) == expected


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
@pytest.mark.parametrize(("words", "expected"), CASES)
def test_fish_completes(folder: Path, words: str, expected: set[str]) -> None:
    found = complete(folder, "fish", "--no-config", "-c", FISH, folder / "_fish", f"streamrt {words}")
    offered = {line.partition("\t")[0] for line in found.splitlines()}
    begun = words.rpartition(" ")[2]  # fish also offers words that have these letters among others
    assert {word for word in offered if word.startswith(begun)} == expected


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
@pytest.mark.parametrize(("words", "expected"), CASES)
def test_zsh_completes(folder: Path, tmp_path: Path, words: str, expected: set[str]) -> None:
    (tmp_path / "_streamrt").write_text((folder / "_zsh").read_text())
    found = tmp_path / "found"
    found.touch()
    parent, child = pty.openpty()
    with os.fdopen(parent, "wb", buffering=0) as keyboard:
        environ = os.environ | {"HOME": str(tmp_path), "TERM": "dumb", "FOUND": str(found)}
        with subprocess.Popen(
            ["zsh", "-f", "-i"],
            cwd=folder,
            env=environ,
            stdin=child,
            stdout=child,
            stderr=child,
            start_new_session=True,
        ) as zsh:
            os.close(child)
            (tmp_path / "setup").write_text(ZSH.replace("$PWD", str(tmp_path)))
            keyboard.write(f"source {tmp_path}/setup\n".encode())
            keyboard.write(f"streamrt {words}\t".encode())
            try:
                zsh.wait(60)
            finally:
                zsh.kill()
    assert {line.strip() for line in found.read_text().splitlines()} - {"", "end"} == expected


def test_an_unknown_shell(capsys: Output) -> None:
    assert cli.main(["completion", "cmd"]) == 2
    assert "invalid choice: 'cmd'" in capsys.readouterr().err


def test_without_shtab(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["completion", "bash"]) == 1
    assert capsys.readouterr().err == "streamrt: error: completion needs shtab: pip install 'streamrt[completion]'\n"

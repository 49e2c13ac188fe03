"""SIGINT or SIGTERM at any moment of a command: no file is left or incomplete, and the exit code tells the signal.

A case is JSON: the command, the signal, and the moment as a share of the command's length, from 0 to 1. Most commands
run in a fork. The moment is then a call or return of a function, the same one each time. The other commands run in a
new process, with their imports. The moment is then a time.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np

from fuzz.hunt import PASSED, Finding, Hunt
from model import zoo
from streamrt import cli
from streamrt.format.files import Replacement

#: Exit codes by signal. Before a command begins and after it has ended, the signal ends Python itself.
_CODES = {signal.SIGINT: {130, -signal.SIGINT}, signal.SIGTERM: {143, -signal.SIGTERM}}
_OLD = b"what was there before"
#: Seconds in which a command must end; most take less than 1 s.
_PATIENCE = 20.0
_READY = b'"event": "listening"'


class _Command:
    """A command, the files that it reads, and the files that it writes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.output = {"pack": "new.safetensors", "run": "y.npy"}.get(name)
        self.right = b""  # the output of a run without a signal
        self.events = self.seconds = 0.0  # the length of such a run

    def arguments(self, files: Path) -> list[str]:
        match self.name:
            case "pack":
                return ["pack", f"{files}/mlp.onnx", "new.safetensors", "-q"]
            case "run":
                return ["run", f"{files}/mlp.safetensors", f"{files}/x.npy", "y.npy", "--trace", "trace.json"]
            case "demo":
                return ["demo", "--size", "2MiB", "--budget", "1MiB", "--dir", "."]
        return ["serve", f"{files}/models", "--port", "0", "--budget", "16MiB"]


class Interrupts(Hunt):
    """Each case runs one command."""

    name = "interrupts"
    seconds = 30.0
    space = None
    cases = 200
    share = 0.0  # an interrupted command need not get as far as a pass

    def start(self) -> None:
        self._files = Path("files").absolute()
        (self._files / "models").mkdir(parents=True)
        packed = zoo.mlp(self._files, 64, 128, 64)
        shutil.copy(packed.path, self._files / "models")
        np.save(self._files / "x.npy", zoo.random_input(2, 64))
        _write_onnx(self._files / "mlp.onnx")
        self._commands = {name: _Command(name) for name in ("pack", "run", "demo", "serve")}

    def make(self, rng: random.Random) -> bytes:
        case = {
            "command": rng.choice(["pack", "run", "demo", "serve"]),
            "signal": rng.choice(["SIGINT", "SIGTERM"]),
            "at": rng.random(),
            "fork": rng.random() < 0.85,
            "old": rng.random() < 0.5,  # the output file exists beforehand
            "named": rng.random() < 0.3,  # as on a file system without O_TMPFILE
        }
        return json.dumps(case).encode()

    def check(self, data: bytes) -> str:
        case = json.loads(data)
        command = self._commands[case["command"]]
        if not (command.events if case["fork"] else command.seconds):  # not measured yet
            events, code, text = self._run(command, case | {"at": None, "old": False, "signal": "SIGTERM"})
            if code:
                raise Finding(f"{command.name} fails by itself", f"{code}: {text}")
            if command.output:
                command.right = Path(command.output).read_bytes()
            if case["fork"]:
                command.events = events
            else:
                command.seconds = events
            self._clear()
        if case["old"] and command.output:
            Path(command.output).write_bytes(_OLD)
        _, code, text = self._run(command, case)
        try:
            return self._judge(command, case, code, text)
        finally:
            self._clear()

    def _judge(self, command: _Command, case: dict, code: int, text: str) -> str:
        name, number = command.name, signal.Signals[case["signal"]]
        expected = _CODES[number] | {0}  # 0: the command had ended before, or the server ended well
        if not case["fork"] and "Traceback" in text and "in main\n" not in text:
            expected = expected | {1}  # an import may turn an interrupt into another error
        if code not in expected:
            raise Finding(f"{name} ends {number.name} with {code}", text)
        # Python has lost an interrupt where it prints this.
        text = re.sub(r"^Exception ignored in.*\n(?: .*\n|Traceback.*\n)*.*\n", "", text, flags=re.M)
        # A second signal ends the server by force, with a traceback.
        twice = "[signalled]" in text and "[told to end]" in text
        if "Traceback" in text and not twice and (case["fork"] or "in main\n" in text):
            raise Finding(f"{name} shows a traceback for {number.name}", text)
        found = {path.name for path in Path().iterdir()} - {"files"}
        if left := sorted(found - {command.output, "trace.json"}):
            raise Finding(f"{name} leaves files after {number.name}", f"{left}: {text}")
        if command.output:
            there = Path(command.output).read_bytes() if command.output in found else None
            if there not in (command.right, _OLD if case["old"] else None):
                raise Finding(f"{name} leaves a wrong output after {number.name}", f"{there!r:.100}: {text}")
            if code == 0 and there != command.right:
                raise Finding(f"{name} ends with 0 and has not written its output", text)
        if "trace.json" in found:
            json.loads(Path("trace.json").read_bytes())
        return PASSED if code == 0 else f"{name} {code}"

    def _clear(self) -> None:
        for path in Path().iterdir():
            if path.name != "files":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    # ---- running

    def _run(self, command: _Command, case: dict) -> tuple[float, int, str]:
        """Run a command; returns its length in events or seconds, its exit code, and its output."""
        number, arguments = signal.Signals[case["signal"]], command.arguments(self._files)
        out, err = os.pipe()
        began = time.monotonic()
        if case["fork"]:
            at = -1 if case["at"] is None else int(case["at"] * command.events)
            child = os.fork()
            if child == 0:
                _child(arguments, number, at, case["named"], err)
        else:
            process = subprocess.Popen(
                [sys.executable, "-m", "streamrt", *arguments], stdin=subprocess.DEVNULL, stdout=err, stderr=err
            )
            child = process.pid
        os.close(err)
        due = None if case["fork"] or case["at"] is None else began + case["at"] * command.seconds
        try:
            code, text = self._watch(command, child, out, due, number)
        finally:
            os.close(out)
            if not case["fork"]:
                process.poll()
        length = time.monotonic() - began
        if case["fork"] and (events := re.search(r"\[(\d+) events\]", text)):
            length = float(events[1])
        return length, code, text

    def _watch(self, command: _Command, child: int, out: int, due: float | None, number: int) -> tuple[int, str]:
        text, over, served = b"", time.monotonic() + _PATIENCE, False
        while True:
            now = time.monotonic()
            if due is not None and now >= due:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, number)
                due = None
            wait = min(over, due or over) - now
            if now >= over:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise Finding(f"{command.name} does not end", text.decode(errors="replace"))
            if select.select([out], [], [], max(0.0, wait))[0]:
                chunk = os.read(out, 1 << 16)
                text += chunk
                if not chunk:
                    break
            if command.name == "serve" and not served and (port := re.search(rb'"port": (\d+)', text)):
                served = True
                _ask(int(port[1]))
                # A server that was not interrupted yet, or whose interrupt Python lost, is told to end.
                if due is None and (b"[signalled]" not in text or b"Exception ignored" in text):
                    due = time.monotonic()
                    text += b"[told to end]\n"
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), text.decode(errors="replace")


def _child(arguments: list[str], number: int, at: int, named: bool, err: int) -> None:
    """Run the command in a fork, with the signal at its event ``at``; never returns."""
    code, events = 70, 0
    try:
        os.dup2(err, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = (open(fd, "w", closefd=False) for fd in (1, 2))  # noqa: SIM115 - pytest's are no files
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if named:
            Replacement._open_nameless = lambda self: -1

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal events
            # Python handles signals when a function begins, and when a function in C has returned.
            if event in ("call", "c_return"):
                if events == at:
                    os.write(2, b"[signalled]\n")
                    os.kill(os.getpid(), number)
                events += 1

        gc.disable()  # collections would come at different events each time
        sys.setprofile(count)
        code = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException as error:
        sys.setprofile(None)
        # Before `main` begins and after it has ended, nothing catches the signal.
        begun = any(frame.name == "main" for frame in traceback.extract_tb(error.__traceback__))
        if begun or not isinstance(error, KeyboardInterrupt):
            traceback.print_exc()
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    finally:
        sys.setprofile(None)
        with contextlib.suppress(BaseException):
            print(f"[{events} events]", file=sys.stderr, flush=True)
        os._exit(code)


def _ask(port: int) -> None:
    """Send a request to the server, which may be shutting down."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET /v2/models/mlp HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        while connection.recv(1 << 16):
            pass


def _write_onnx(path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    random_ = np.random.default_rng(3)
    weights = [numpy_helper.from_array(random_.random((64, 64), np.float32), f"w{index}") for index in range(3)]
    nodes = [helper.make_node("MatMul", [f"x{index}", f"w{index}"], [f"x{index + 1}"]) for index in range(3)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in ("x0", "x3")]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


HUNT = Interrupts()

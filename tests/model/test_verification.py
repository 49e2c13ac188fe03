"""Checksums: damage is found when it is read, wherever it lies, with any tiles and any way of reading."""

import os
import re
import shutil
from itertools import pairwise

import numpy as np
import pytest

import streamrt
from model import zoo
from streamrt import Model
from streamrt.engine.verification import Verifier
from streamrt.format import read_header

BUDGETS = [None, "40MiB", "16MiB", "4MiB"]


@pytest.fixture
def copy(large, tmp_path):
    path = tmp_path / "copy.safetensors"
    shutil.copy(large.path, path)
    return path


def harm(path, offset):
    """Change a byte and nothing else of the file; returns a function that undoes it."""

    def flip():
        status = path.stat()
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 0x40]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    flip()
    return flip


def middle(tensor):
    return tensor.offset + tensor.nbytes // 2


@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_file_without_damage(large, budget, io):
    x = zoo.random_input(3, 2048)
    with Model(large.path, budget, io=io, verify="read") as model:
        for _ in range(3):
            zoo.assert_close(model(x), large.answer(x))
        assert model._engine.session.verifier.blocks == len(read_header(large.path).block_crcs)


@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", ["first", "last", "small"])
def test_damage_is_found(copy, budget, name, io):
    tensors = sorted(read_header(copy).tensors.values(), key=lambda tensor: tensor.offset)
    small = min(tensors, key=lambda tensor: tensor.nbytes)
    offset = {"first": tensors[0].offset, "last": tensors[-1].offset + tensors[-1].nbytes - 1, "small": middle(small)}
    harm(copy, offset[name])
    x = zoo.random_input(1, 2048)
    with Model(copy, budget, io=io, verify="read") as model:
        for _ in range(2):
            with pytest.raises(streamrt.WeightsIOError, match="damaged") as error:
                model(x)
            begin, end = map(int, re.search(r"bytes (\d+) to (\d+)", str(error.value)).groups())
            assert begin <= offset[name] < end
    with Model(copy, budget, io=io) as model:
        assert model(x).shape == (1, 2048)  # no check was asked for


def test_damage_that_comes_and_goes(large, copy):
    x = zoo.random_input(1, 2048)
    with Model(copy, "16MiB", verify="read") as model:
        zoo.assert_close(model(x), large.answer(x))
        streamed = next(r for r in reversed(model.plan.ranges) if not r.pinned)
        undo = harm(copy, streamed.offset + streamed.length // 2)
        with pytest.raises(streamrt.WeightsIOError, match="damaged"):
            model(x)
        undo()
        for _ in range(2):
            zoo.assert_close(model(x), large.answer(x))


def test_weights_that_a_call_does_not_need_are_not_checked(large, copy):
    tensors = sorted(read_header(copy).tensors.values(), key=lambda tensor: tensor.offset)
    harm(copy, middle(max(tensors[-2:], key=lambda tensor: tensor.nbytes)))
    x = zoo.random_input(1, 2048)
    with Model(copy, "16MiB", verify="read") as model:
        model(x, ["layer1"])
        blocks = model._engine.session.verifier.blocks
        assert 0.4 <= blocks / len(read_header(copy).block_crcs) <= 0.6
        with pytest.raises(streamrt.WeightsIOError, match="damaged"):
            model(x)


def test_padding_is_part_of_its_block(copy):
    file = read_header(copy)
    tensors = sorted(file.tensors.values(), key=lambda tensor: tensor.offset)
    gaps = [a.offset + a.nbytes for a, b in pairwise(tensors) if b.offset - (a.offset + a.nbytes) >= 64]
    assert gaps
    harm(copy, gaps[0])
    with pytest.raises(streamrt.FormatError, match="damaged"):
        streamrt.verify(copy)
    with Model(copy, "16MiB", verify="read") as model:  # padding counts as zeros and is never read
        model(zoo.random_input(1, 2048))


def test_ranges_that_come_again_are_checked_once(large):
    file = read_header(large.path)
    with Model(large.path, "16MiB") as model:
        plan = model.plan_for((1, 2048))
    data = memoryview(np.fromfile(large.path, np.uint8))
    verifier = Verifier(file, plan, data)
    for _ in range(2):
        for index in range(len(plan.ranges)):
            verifier.arrived(index)
    assert verifier.blocks == len(file.block_crcs)
    for index in range(len(plan.ranges) // 2):  # a pass that is given up in the middle
        verifier.arrived(index)
    verifier.rewind()
    for index in range(len(plan.ranges)):
        verifier.arrived(index)


def test_verifying_when_opening(copy, large):
    x = zoo.random_input(1, 2048)
    with Model(copy, "16MiB", verify="open") as model:
        zoo.assert_close(model(x), large.answer(x))
    harm(copy, middle(next(iter(read_header(copy).tensors.values()))))
    with pytest.raises(streamrt.FormatError, match="damaged"):
        Model(copy, "16MiB", verify="open")


@pytest.mark.parametrize("verify", ["", "yes", True, 1])
def test_another_value_of_verify_is_refused(small, verify):
    with pytest.raises(streamrt.InputError, match="verify: expected 'open', 'read' or None"):
        Model(small.path, verify=verify)

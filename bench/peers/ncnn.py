"""ncnn in float32, converted by pnnx. It has no batches: samples run one after the other."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.models import Source, pictures, vision
from bench.peers import Array, Opened, Peer, Setting


def _param(folder: Path) -> Path:
    return folder / "model.ncnn.param"


def _bin(folder: Path) -> Path:
    return folder / "model.ncnn.bin"


def _prepare(source: Source, folder: Path) -> None:
    import pnnx
    import torch

    module = vision.module(source)
    module.load_state_dict(torch.load(vision.state_file(source)))
    with TemporaryDirectory(dir=folder) as scratch:  # for the other files that pnnx writes
        pnnx.export(
            module,
            f"{scratch}/model.pt",
            torch.zeros(1, *pictures.shape_to_trace(source.name, source.shape)),
            check_trace=False,  # it runs the network twice more, and the answer will be checked
            ncnnparam=str(_param(folder)),
            ncnnbin=str(_bin(folder)),
            fp16=False,
        )


def _open(source: Source, folder: Path, setting: Setting) -> Opened:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = setting.threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    if net.load_param(str(_param(folder))) or net.load_model(str(_bin(folder))):
        raise RuntimeError(f"ncnn cannot load {source.name} as pnnx converts it")

    def answer(sample: Array) -> Array:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(sample))
        failed, out = extractor.extract("out0")
        if failed:
            raise RuntimeError(f"ncnn cannot run {source.name} as pnnx converts it")
        return np.array(out)

    return Opened(lambda x: np.stack([answer(sample) for sample in x]))


PEERS = [
    Peer(
        name="ncnn",
        modules=("ncnn",),
        packages=("ncnn", "pnnx"),
        families=frozenset({"cnn"}),
        prepare=_prepare,
        open=_open,
        files=lambda source, folder: [_bin(folder)],
    )
]

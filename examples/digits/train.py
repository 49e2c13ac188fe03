"""Train the two digit classifiers that ship with streamrt, export them to ONNX and pack them.

    python examples/digits/train.py    # needs scikit-learn, torch, onnx and onnxscript

It writes ``digits_mlp.onnx`` and ``digits_cnn.onnx`` beside this script. It writes the packed files and the held-out
images to ``streamrt/data``. Seeds are fixed and the arithmetic runs on one thread, so a second run with the same
machine and versions writes the same files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

import streamrt

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "streamrt" / "data"
SEED = 20
HELD_OUT = 450  # of 1797 images: 25 %


def mlp() -> nn.Module:
    """64-512-256-10: 166 thousand weights, 131 thousand of them in the second layer."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def cnn() -> nn.Module:
    """Three 3x3 convolutions with BatchNormalization, one pooling, one fully connected layer: 112 thousand weights."""
    return nn.Sequential(
        *_block(1, 32), *_block(32, 64), nn.MaxPool2d(2), *_block(64, 128), nn.Flatten(), nn.Linear(128 * 4 * 4, 10)
    )


def _block(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU()]


def split() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Training images (n, 8, 8) from 0 to 16 and labels (n,), then held-out images and labels."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    images, labels = digits.images.astype(np.uint8)[order], digits.target.astype(np.uint8)[order]
    return images[HELD_OUT:], labels[HELD_OUT:], images[:HELD_OUT], labels[:HELD_OUT]


def tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """Images (n, 8, 8) from 0 to 16, converted to the models' inputs: (n, 1, 8, 8) from 0 to 1."""
    return torch.from_numpy(images[:, None].astype(np.float32) / 16)


def train(model: nn.Module, images: NDArray[np.uint8], labels: NDArray[np.uint8], epochs: int) -> nn.Module:
    """Fit ``model`` with Adam on cross-entropy; the learning rate falls to zero along a cosine."""
    x, y = tensor(images), torch.from_numpy(labels.astype(np.int64))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def export(model: nn.Module, path: Path) -> None:
    """Write ``model`` as ONNX with a dynamic batch, without the paths of source files that the exporter adds."""
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, 8, 8),),
        dynamo=True,
        optimize=False,  # keep BatchNormalization: streamrt.pack folds it
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    del proto.metadata_props[:]
    graph = proto.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    del proto.functions[:]
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def make(epochs: int) -> None:
    """Write the held-out images; train, test and export both models."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    images, labels, test_images, test_labels = split()
    np.savez_compressed(DATA / "digits_test.npz", images=test_images, labels=test_labels)
    for name, model in (("digits_mlp", mlp()), ("digits_cnn", cnn())):
        train(model, images, labels, epochs)
        with torch.no_grad():
            answers = model(tensor(test_images)).argmax(1).numpy()
        export(model, HERE / f"{name}.onnx")
        print(f"{name}: held-out accuracy {(answers == test_labels).mean():.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--only-pack", action="store_true", help="pack the existing ONNX files")
    args = parser.parse_args()
    if not args.only_pack:
        make(args.epochs)
    for name in ("digits_mlp", "digits_cnn"):
        path = streamrt.pack(HERE / f"{name}.onnx", DATA / f"{name}.safetensors")
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

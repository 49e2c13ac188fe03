"""The products of networks: convolutions of square maps and dense layers, with how often a network has each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """A product. A dense layer has ``size`` 0.

    Attributes:
        channels: of the input, or inputs of a dense layer.
        outputs: channels of the output.
        size: rows and columns of the input.
        kernel: rows and columns of the window.
        stride: of the window.
        count: layers of the network that have this shape.
    """

    channels: int
    outputs: int
    size: int = 0
    kernel: int = 1
    stride: int = 1
    count: int = 1

    @property
    def output(self) -> int:
        """Rows and columns of the output; 1 of a dense layer."""
        return (self.size - 1) // self.stride + 1 if self.size else 1

    @property
    def inner(self) -> int:
        """Terms of a sum."""
        return self.channels * self.kernel**2

    @property
    def multiply_adds(self) -> int:
        """Of one sample."""
        return self.inner * self.outputs * self.output**2

    def __str__(self) -> str:
        if not self.size:
            return f"dense, {self.channels} to {self.outputs}"
        stride = f" with stride {self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel}{stride}, {self.channels} to {self.outputs} at {self.size}x{self.size}"


#: By name, the products of a network in the order of its layers. Depthwise layers are no products.
NETWORKS: dict[str, tuple[Shape, ...]] = {
    "resnet50": (
        Shape(3, 64, 224, 7, 2),
        Shape(64, 64, 56),
        Shape(64, 64, 56, 3, count=3),
        Shape(64, 256, 56, count=4),
        Shape(256, 64, 56, count=2),
        Shape(256, 128, 56),
        Shape(128, 128, 56, 3, 2),
        Shape(256, 512, 56, 1, 2),
        Shape(128, 512, 28, count=4),
        Shape(512, 128, 28, count=3),
        Shape(128, 128, 28, 3, count=3),
        Shape(512, 256, 28),
        Shape(256, 256, 28, 3, 2),
        Shape(512, 1024, 28, 1, 2),
        Shape(256, 1024, 14, count=6),
        Shape(1024, 256, 14, count=5),
        Shape(256, 256, 14, 3, count=5),
        Shape(1024, 512, 14),
        Shape(512, 512, 14, 3, 2),
        Shape(1024, 2048, 14, 1, 2),
        Shape(512, 2048, 7, count=3),
        Shape(2048, 512, 7, count=2),
        Shape(512, 512, 7, 3, count=2),
        Shape(2048, 1000),
    ),
    "mobilenet_v2": (
        Shape(3, 32, 224, 3, 2),
        Shape(32, 16, 112),
        Shape(16, 96, 112),
        Shape(96, 24, 56),
        Shape(24, 144, 56, count=2),
        Shape(144, 24, 56),
        Shape(144, 32, 28),
        Shape(32, 192, 28, count=3),
        Shape(192, 32, 28, count=2),
        Shape(192, 64, 14),
        Shape(64, 384, 14, count=4),
        Shape(384, 64, 14, count=3),
        Shape(384, 96, 14),
        Shape(96, 576, 14, count=3),
        Shape(576, 96, 14, count=2),
        Shape(576, 160, 7),
        Shape(160, 960, 7, count=3),
        Shape(960, 160, 7, count=2),
        Shape(960, 320, 7),
        Shape(320, 1280, 7),
        Shape(1280, 1000),
    ),
    "mlp": (Shape(1024, 1024), Shape(4096, 4096), Shape(8192, 8192)),
}
#: A test of the command.
QUICK = (Shape(64, 72, 14), Shape(64, 64, 14, 3), Shape(64, 40, 14, 3, 2), Shape(256, 250))

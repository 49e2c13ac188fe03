"""Random networks that go down and up again, with skips across levels and several inputs."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from end_to_end.graphs import CHANNELS, EXTENTS, HEIGHTS, WIDTHS, Builder, Drawn, Shape, add_block

#: The largest height and width, so that a case takes no seconds.
_LARGEST = 200


@st.composite
def pictures(draw: st.DrawFn, wide: bool = False) -> Drawn:
    """A graph of 4 to 9 blocks over one or two pictures whose activations take more memory than weights."""
    extents: Shape = (draw(EXTENTS), draw(WIDTHS)) if wide else (draw(HEIGHTS), draw(EXTENTS))
    sample = (draw(CHANNELS), *extents)
    others: dict[str, Shape] = {}
    if draw(st.booleans()):  # a second input as large, or half as large
        others["z"] = (draw(CHANNELS), *(draw(st.sampled_from([extent, -(-extent // 2)])) for extent in extents))
    builder = _Builder(draw, sample, others)
    for _ in range(draw(st.integers(4, 9))):
        builder.block()
        if draw(st.integers(0, 5)) == 0:
            builder.outputs.append(builder.last)
    for name in others:
        builder.join(builder.last, name)
    return Drawn(builder.model(), sample, builder.computed, others)


class _Builder(Builder):
    """Adds blocks that change the extents of a picture, or read an earlier one."""

    def block(self) -> None:
        x = self.last
        kind = self.draw(st.sampled_from(["any", "any", "down", "up", "up", "skip", "skip", "gate", "pad"]))
        if kind == "any":
            add_block(self, x)
        elif kind == "down":
            self.down(x)
        elif kind == "up" and 2 * max(self.shapes[x][1:]) <= _LARGEST:
            self.up(x)
        elif kind == "skip":
            self.join(x, self.draw(st.sampled_from([name for name in self.shapes if name != x] or [x])))
        elif kind == "gate":
            self.gate(x)
        else:
            self.pad(x)

    def down(self, x: str) -> str:
        """Half the extents, rounded up."""
        x = self.conv(x, self.draw(CHANNELS), same=True)
        channels, *extents = self.shapes[x]
        shape = (channels, *(-(-extent // 2) for extent in extents))
        pads = [0, 0, *(extent % 2 for extent in extents)]
        return self.node("MaxPool", [x], shape, kernel_shape=[2, 2], strides=[2, 2], pads=pads)

    def up(self, x: str) -> str:
        """Twice the extents, or some more or less."""
        extents = self.shapes[x][1:]
        op = self.draw(st.sampled_from(["ConvTranspose", "Resize", "DepthToSpace"]))
        if op == "ConvTranspose":
            return self.conv_transpose(x, self.draw(CHANNELS))
        if op == "Resize":
            return self.resize(x, [2 * extent for extent in extents], self.draw(st.sampled_from(["nearest", "linear"])))
        wider = self.conv(x, 4 * self.draw(st.sampled_from([1, 3, 8])), same=True)
        shape = (self.shapes[wider][0] // 4, *(2 * extent for extent in extents))
        return self.node("DepthToSpace", [wider], shape, blocksize=2, mode="CRD")

    def conv_transpose(self, x: str, channels: int) -> str:
        inner, *extents = self.shapes[x]
        groups = self.draw(st.sampled_from([1, int(np.gcd(inner, channels))]))
        kernel, pads, more = [], [], []
        for _ in extents:
            size = self.draw(st.sampled_from([2, 3, 4]))
            kernel.append(size)
            pads.append([self.draw(st.integers(0, 1)) for _ in range(2)])
            more.append(self.draw(st.integers(0, 1)))
        shape = [2 * (e - 1) + k - sum(p) + m for e, k, p, m in zip(extents, kernel, pads, more, strict=True)]
        if min(shape) < 1:
            return self.pad(x)
        inputs = [x, self.weight((inner, channels // groups, *kernel), (inner // groups * 2) ** -0.5)]
        if self.draw(st.booleans()):
            inputs.append(self.weight((channels,)))
        return self.node(
            "ConvTranspose",
            inputs,
            (channels, *shape),
            strides=[2, 2],
            dilations=[1, 1],
            output_padding=more,
            group=groups,
            pads=[before for before, _ in pads] + [after for _, after in pads],
        )

    def resize(self, x: str, extents: list[int], mode: str) -> str:
        positions = {"nearest": "asymmetric", "linear": "half_pixel"}[mode]
        return self.node(
            "Resize",
            [x, "", "", self.constant(extents)],
            (self.shapes[x][0], *extents),
            axes=[2, 3],
            mode=mode,
            nearest_mode="floor",
            coordinate_transformation_mode=positions,
        )

    def join(self, x: str, other: str) -> str:
        """Both pictures in one with the extents of ``x``. The other one is cut, padded or resized to them."""
        if len(self.shapes[x]) == 1 or len(self.shapes[other]) == 1:
            return x
        channels, *extents = self.shapes[x]
        found = self.shapes[other][1:]
        if all(0 <= e - f <= 1 for e, f in zip(extents, found, strict=True)) and extents != list(found):
            pads = [0, 0, *(e - f for e, f in zip(extents, found, strict=True))]
            other = self._pad(other, pads, "constant")
        elif all(f >= e for e, f in zip(extents, found, strict=True)) and extents != list(found):
            first = [self.draw(st.integers(0, f - e)) for e, f in zip(extents, found, strict=True)]
            ends = [f + e for e, f in zip(extents, first, strict=True)]
            bounds = [self.constant(first), self.constant(ends), self.constant([2, 3])]
            other = self.node("Slice", [other, *bounds], (self.shapes[other][0], *extents))
        elif extents != list(found):
            other = self.resize(other, extents, "linear")
        if self.draw(st.booleans()):
            both = self.shapes[other][0] + channels
            return self.node("Concat", [x, other], (both, *extents), axis=1)
        if self.shapes[other][0] != channels:
            other = self.conv(other, channels, same=True)
        return self.node("Add", [x, other], (channels, *extents))

    def gate(self, x: str) -> str:
        """Squeeze and excitation."""
        channels = self.shapes[x][0]
        mean = self.node("GlobalAveragePool", [x], (channels, 1, 1))
        weights = [self.weight((channels, channels, 1, 1), channels**-0.5), self.weight((channels,))]
        factor = self.node("Sigmoid", [self.node("Conv", [mean, *weights], (channels, 1, 1), **_ONE)], (channels, 1, 1))
        return self.node("Mul", [x, factor], self.shapes[x])

    def pad(self, x: str) -> str:
        extents = self.shapes[x][1:]
        modes = ["constant", "edge", *(["reflect"] if min(extents) > 2 else [])]
        return self._pad(x, [self.draw(st.integers(0, 2)) for _ in range(4)], self.draw(st.sampled_from(modes)))

    def _pad(self, x: str, pads: list[int], mode: str) -> str:
        channels, height, width = self.shapes[x]
        shape = (channels, height + pads[0] + pads[2], width + pads[1] + pads[3])
        return self.node("Pad", [x, self.constant(pads), "", self.constant([2, 3])], shape, mode=mode)


#: A convolution of single pixels.
_ONE = {"strides": [1, 1], "dilations": [1, 1], "pads": [0, 0, 0, 0], "group": 1}

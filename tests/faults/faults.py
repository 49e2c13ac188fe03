"""Faults that the tests must catch: one replacement of text each, in a file of the package.

A fault is small and plausible: a bound that is off by one, a term that is left out, a comparison the wrong way round.
`plant.py` plants them one at a time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_KERNELS = ("tests/kernels", "tests/ops")
_PLAN = ("tests/plan", "tests/end_to_end", "tests/model")
_ENGINE = ("tests/end_to_end", "tests/model")
_FORMAT = ("tests/format",)
_POOL = ("tests/pool",)
_CORE = ("tests/core", "tests/end_to_end")


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: unique, for ``--only``.
        room: the part of the package that has the fault, for ``--room``.
        file: its path from the top folder of the checkout.
        before: text that is in the file exactly once.
        after: text that takes its place.
        why: what goes wrong.
        tests: folders in which it should be caught; they run first.
    """

    name: str
    room: str
    file: str
    before: str
    after: str
    why: str
    tests: tuple[str, ...]

    @property
    def isa(self) -> str | None:
        """The instruction set without which no test can see the fault."""
        found = re.search(r"/vec_(\w+)\.h$", self.file)
        return found and found[1]


FAULTS = (
    # ---------------------------------------------------------------- kernels
    Fault(
        "scalar-lanes",
        "kernels",
        "src/kernels/simd/vec_scalar.h",
        "return ((1u << b) - 1) & ~((1u << a) - 1);",
        "return ((1u << b) - 1) & ~((1u << a) - 1) & 7;",
        "the last lane of a vector is never in a mask",
        _KERNELS,
    ),
    Fault(
        "scalar-nan",
        "kernels",
        "src/kernels/simd/vec_scalar.h",
        "return blend((a > b) | (a != a), a, b);",
        "return blend(a > b, a, b);",
        "a NaN in the first operand of a maximum is lost",
        _KERNELS,
    ),
    Fault(
        "avx2-lanes",
        "kernels",
        "src/kernels/simd/vec_avx2.h",
        "_mm256_cmpgt_epi32(_mm256_set1_epi32(b), lane)",
        "_mm256_cmpgt_epi32(_mm256_set1_epi32(b + 1), lane)",
        "masks have one lane too many: elements behind a row are written",
        _KERNELS,
    ),
    Fault(
        "avx2-nan",
        "kernels",
        "src/kernels/simd/vec_avx2.h",
        "return _mm256_min_ps(a, b);",
        "return _mm256_min_ps(b, a);",
        "an activation with an upper bound turns NaN into that bound",
        _KERNELS,
    ),
    Fault(
        "avx512-even",
        "kernels",
        "src/kernels/simd/vec_avx512.h",
        "0, 2, 4, 6, 8, 10, 12, 14, 17, 19, 21, 23, 25, 27, 29, 31",
        "0, 2, 4, 6, 8, 10, 12, 14, 17, 19, 21, 23, 25, 27, 29, 30",
        "with stride 2 the last lane gets the input next to its own",
        _KERNELS,
    ),
    Fault(
        "avx512-reciprocal",
        "kernels",
        "src/kernels/simd/vec_avx512.h",
        "return _mm512_fmadd_ps(r, _mm512_fnmadd_ps(x, r, _mm512_set1_ps(1.0f)), r);",
        "return r;",
        "a reciprocal has 14 bits: sigmoids are off by 6e-5",
        _KERNELS,
    ),
    Fault(
        "dense-rest",
        "kernels",
        "src/kernels/simd/dense.h",
        "vmask some = lanes(0, rest - lane);",
        "vmask some = lanes(0, rest - lane - 1);",
        "a row's last weight is left out if the row does not end with a chunk",
        _KERNELS,
    ),
    Fault(
        "hard-sigmoid",
        "kernels",
        "src/kernels/simd/activation.h",
        "clamp(muladd(alpha, v, beta), zero, one)",
        "clamp(muladd(alpha, v, beta), -one, one)",
        "HardSigmoid's lower bound is -1",
        _KERNELS,
    ),
    Fault(
        "mean-rest",
        "kernels",
        "src/kernels/simd/reduce.h",
        "for (; i < left; i += VL) a += load_mask(p + i, lanes(0, left - i), splat(0.0f));",
        "for (; i + VL <= left; i += VL) a += load_mask(p + i, lanes(0, left - i), splat(0.0f));",
        "the mean of a row leaves out elements that do not fill a vector",
        _KERNELS,
    ),
    Fault(
        "depthwise-edge",
        "kernels",
        "src/kernels/simd/depthwise.h",
        "if (i >= 0 && i < height)",
        "if (i >= 0 && i < height - 1)",
        "depthwise convolution treats the last row of inputs as padding",
        _KERNELS,
    ),
    Fault(
        "padding-first",
        "kernels",
        "src/kernels/simd/span.h",
        "s.first = (s.first + stride - 1) / stride;",
        "s.first = s.first / stride;",
        "with a stride the first output reads in front of its plane",
        _KERNELS,
    ),
    Fault(
        "decode-zero",
        "kernels",
        "src/kernels/simd/decode.h",
        "if (is_integer(type) && zeros) numbers -= block.zero;",
        "if (is_integer(type) && zeros) numbers += block.zero;",
        "zero points are added instead of subtracted",
        _KERNELS,
    ),
    Fault(
        "decode-block",
        "kernels",
        "src/kernels/simd/decode.h",
        "memcpy(&scale, scales + block * (int64_t)sizeof scale, sizeof scale);",
        "memcpy(&scale, scales + begin * (int64_t)sizeof scale, sizeof scale);",
        "all blocks of a tile have the scale of the first",
        _KERNELS,
    ),
    Fault(
        "decode-part",
        "kernels",
        "src/kernels/simd/decode.h",
        "skip = k % HALF_GROUP;",
        "skip = k % HALF_GROUP & ~1;",
        "codes of int4 that begin at an odd weight are those of the weight before",
        _KERNELS,
    ),
    Fault(
        "direct-scale",
        "kernels",
        "src/kernels/simd/dense.h",
        "left = of_a_block - 1;",
        "left = of_a_block;",
        "with few samples a block's scale is used for two chunks of the next block",
        _KERNELS,
    ),
    # ---------------------------------------------------------------- planner, program, engine
    Fault(
        "span-end",
        "plan",
        "streamrt/plan/tiling.py",
        "min(-(-(r.offset + r.length) // granule) * granule, file_size)",
        "min((r.offset + r.length) // granule * granule, file_size)",
        "the last granule of a range is not counted",
        _PLAN,
    ),
    Fault(
        "run-around",
        "plan",
        "streamrt/plan/tiling.py",
        "around = added + added[: count - 1] if count else []",
        "around = added",
        "the window is too small between the end of a pass and the start of the next",
        _PLAN,
    ),
    Fault(
        "granule-of-two",
        "plan",
        "streamrt/plan/pipeline.py",
        "if index > 0 and pinned[index - 1]:",
        "if index > 0:",
        "a granule that a pinned range shares with a streamed one is not counted",
        _PLAN,
    ),
    Fault(
        "pins-too-much",
        "plan",
        "streamrt/plan/pinning.py",
        "if not pinned[index] and used + size <= room:",
        "if not pinned[index] and used <= room:",
        "one range too many is pinned",
        _PLAN,
    ),
    Fault(
        "all-fits",
        "plan",
        "streamrt/plan/make.py",
        "if budget is None or cut.held(cut.ranges) <= room:",
        "if budget is None or cut.held(cut.ranges) <= budget:",
        "all weights are pinned although the workspace leaves no room for them",
        _PLAN,
    ),
    Fault(
        "arena-alive",
        "program",
        "streamrt/program/arena.py",
        "(last[:count] >= block.first)",
        "(last[:count] > block.first)",
        "a node's output gets the memory of its input",
        ("tests/program", *_ENGINE),
    ),
    Fault(
        "in-place",
        "program",
        "streamrt/program/placement.py",
        "if name in params or last[home[name].block] != step:",
        "if name in params:",
        "a node runs in place although a later node reads its input",
        ("tests/program", *_ENGINE),
    ),
    Fault(
        "released-early",
        "engine",
        "streamrt/engine/session.py",
        "last_use[index] = position",
        "last_use.setdefault(index, position)",
        "weights that several tiles share are released after the first of them",
        _ENGINE,
    ),
    Fault(
        "verified-once",
        "engine",
        "streamrt/engine/verification.py",
        "block.kept = block.kept and self.plan.ranges[index].pinned",
        "block.kept = block.kept or self.plan.ranges[index].pinned",
        "a block that streams in part is compared with its checksum only once",
        ("tests/model",),
    ),
    Fault(
        "micro-batch-rows",
        "engine",
        "streamrt/engine/inputs.py",
        "first, last = max(start, begin), min(start + len(part), begin + len(whole))",
        "first, last = max(start, begin), min(start + len(part), len(whole))",
        "only the first part of a divided batch is copied",
        _ENGINE,
    ),
    Fault(
        "window-unchecked",
        "core",
        "src/io/prefetch.c",
        "need <= plan->window - p->held_streamed;",
        "need <= plan->window;",
        "up to two windows of streamed weights are held",
        _CORE,
    ),
    Fault(
        "released-first",
        "core",
        "src/io/prefetch.c",
        " && !reads_before_release(p)",
        "",
        "a granule that the next range needs is released and read again",
        _CORE,
    ),
    Fault(
        "mapped-again",
        "core",
        "src/os_linux.c",
        "        unmap_pages(fd, base, offset, length, blocks);\n        posix_fadvise",
        "        if (attempt == 1) unmap_pages(fd, base, offset, length, blocks);\n        posix_fadvise",
        "pages that a fault maps again during their release stay in the page cache",
        _CORE,
    ),
    # ---------------------------------------------------------------- format
    Fault(
        "round-up",
        "format",
        "streamrt/format/layout.py",
        "return (value + step - 1) & -step",
        "return (value + step) & -step",
        "an offset that is aligned already is moved by one more step",
        _FORMAT,
    ),
    Fault(
        "large-segment",
        "format",
        "streamrt/format/layout.py",
        "boundary = BLOCK_ALIGN if extent >= LARGE else PAGE_ALIGN",
        "boundary = BLOCK_ALIGN if extent > LARGE else PAGE_ALIGN",
        "a segment of version 1 of exactly 1 MiB need not be on a boundary of 2 MiB",
        _FORMAT,
    ),
    Fault(
        "padding-of-a-block",
        "format",
        "streamrt/format/layout.py",
        "elif segment[0].begin - end >= BLOCK_ALIGN:",
        "elif segment[0].begin - end > BLOCK_ALIGN:",
        "2 MiB of padding before a segment are accepted",
        _FORMAT,
    ),
    Fault(
        "excess",
        "format",
        "streamrt/format/layout.py",
        "if _placed(extents, sizes[middle], data_offset)[-1] <= most:",
        "if _placed(extents, sizes[middle], data_offset)[-1] <= 2 * most:",
        "so many segments begin on pages that the file is too large",
        _FORMAT,
    ),
    Fault(
        "unchecked-copy",
        "format",
        "streamrt/format/conversion.py",
        "if index != self._block:",
        "if index > self._block + 1 or self._block < 0:",
        "blocks behind the first are taken for the first",
        _FORMAT,
    ),
    Fault(
        "holes",
        "format",
        "streamrt/format/layout.py",
        "if entry.begin != end:",
        "if entry.begin < end:",
        "bytes that no tensor covers are accepted",
        _FORMAT,
    ),
    Fault(
        "gap-in-segment",
        "format",
        "streamrt/format/layout.py",
        "if after.begin - before.end >= TENSOR_ALIGN:",
        "if after.begin - before.end > TENSOR_ALIGN:",
        "a gap of 64 bytes within a segment is accepted",
        _FORMAT,
    ),
    Fault(
        "short-tensor",
        "format",
        "streamrt/format/writer.py",
        "    if missing:\n",
        "    if missing < 0:\n",
        "a tensor whose chunks are too short is written, and all later tensors lie in the wrong place",
        _FORMAT,
    ),
    Fault(
        "last-block",
        "format",
        "streamrt/format/reader.py",
        "for index, expected in enumerate(file.block_crcs):",
        "for index, expected in enumerate(file.block_crcs[:-1] or file.block_crcs):",
        "the last block of several is not verified",
        _FORMAT,
    ),
    Fault(
        "rounded-down",
        "format",
        "streamrt/format/encoding.py",
        "np.clip(np.rint(codes, out=codes), -127",
        "np.clip(np.floor(codes, out=codes), -127",
        "weights in int8 are rounded down, not to the nearest code",
        _FORMAT,
    ),
    Fault(
        "half-overflow",
        "format",
        "streamrt/format/encoding.py",
        "beyond = np.isfinite(array) & (magnitude > _HALF_MAX)",
        "beyond = np.isfinite(array) & (magnitude > 2 * _HALF_MAX)",
        "weights beyond float16 become infinite without an error",
        _FORMAT,
    ),
    Fault(
        "coding-of-readers",
        "format",
        "streamrt/convert/codings.py",
        "return products - others",
        "return products",
        "a weight that another operator reads, too, is stored in fewer bytes",
        ("tests/convert",),
    ),
    # ---------------------------------------------------------------- pool
    Fault(
        "floor-of-all",
        "pool",
        "streamrt/pool/admission.py",
        "return self.weights if size >= self.weights else max(0, min(size // step, STEPS - 1)) * step",
        "return self.weights if size >= self.weights else max(0, min(size // step + 1, STEPS - 1)) * step",
        "more weights are granted than there is room for",
        _POOL,
    ),
    Fault(
        "kept-given",
        "pool",
        "streamrt/pool/admission.py",
        "take(name, weights=not holdings[name].kept)",
        "take(name, weights=True)",
        "a model that was registered to stay gives up weights",
        _POOL,
    ),
    Fault(
        "keeps-too-much",
        "pool",
        "streamrt/pool/admission.py",
        "keeps = holding.needs.floor(max(0, holding.pinned - wanted))",
        "keeps = holding.needs.ceil(max(0, holding.pinned - wanted))",
        "a model that shrinks gives up fewer bytes than are needed",
        _POOL,
    ),
    Fault(
        "ledger-over",
        "pool",
        "streamrt/pool/ledger.py",
        "if not 0 <= size <= self.free:",
        "if not 0 <= size <= self.budget:",
        "more bytes may be taken than are free",
        _POOL,
    ),
    Fault(
        "ledger-peak",
        "pool",
        "streamrt/pool/ledger.py",
        "self.peak = max(self.peak, self._total)",
        "self.peak = self._total",
        "the peak is the number of bytes that are held now",
        _POOL,
    ),
    Fault(
        "lease-ends",
        "pool",
        "streamrt/pool/keeper.py",
        "        if entry.leases == 0:\n            self._to_idle(entry)\n            self.settle(entry)\n",
        "        if entry.leases <= 1:\n            self._to_idle(entry)\n            self.settle(entry)\n",
        "a model is idle although one lease is left",
        _POOL,
    ),
    Fault(
        "given-up",
        "pool",
        "streamrt/pool/keeper.py",
        "self.given_up += victim.pinned - min(kept, victim.pinned)",
        "self.given_up += victim.pinned",
        "weights that a model keeps are counted as given up",
        _POOL,
    ),
    Fault(
        "pauses",
        "pool",
        "streamrt/pool/entry.py",
        "FIRST_PAUSE * 2.0 ** min(failures, _DOUBLINGS)",
        "FIRST_PAUSE * 2.0 ** min(failures + 1, _DOUBLINGS)",
        "the first pause after a failed load is twice as long",
        _POOL,
    ),
    Fault(
        "half-life",
        "pool",
        "streamrt/pool/policy.py",
        "return float(worth * 0.5 ** ((self._now - then) / self._half_life))",
        "return float(worth * 0.25 ** ((self._now - then) / self._half_life))",
        "after one half-life a request counts 25 % instead of 50 %",
        _POOL,
    ),
)

"""Pictures as inputs of ``streamrt run``: decoded, scaled and cropped as torchvision and timm do it for evaluation.

The shorter side is scaled to 1/0.875 of the model's size with bilinear interpolation, and the centre is cropped. So a
model of 224 x 224 sees the centre of a picture whose shorter side is 256. A picture that has the model's size is taken
as it is. Values become 0 to 1, less the mean, divided by the standard deviation. As in these evaluations the
orientation that a camera has noted is not applied.

A picture is hostile until it is decoded: its size is checked before any pixel is.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamrt.engine.inputs import describe
from streamrt.errors import InputError
from streamrt.format.files import open_regular
from streamrt.graph import TensorSpec
from streamrt.host.budget import format_size

if TYPE_CHECKING:
    from PIL.Image import Image

#: Endings of pictures, in small letters.
ENDINGS = (".jpg", ".jpeg", ".png")
#: The most pixels of a picture, before and after scaling: 8192 x 8192. With 4 bytes each they take 256 MiB.
_MOST_PIXELS = 2**26
#: The most bytes of a file. Neither format takes more than the pixels themselves, but for text that nobody reads.
_MOST_BYTES = 4 * _MOST_PIXELS
#: The model's size, as a share of the scaled shorter side.
_CROP = 0.875


def is_picture(path: Path) -> bool:
    """Whether the name of a file ends as that of a picture."""
    return path.suffix.lower() in ENDINGS


def load_pictures(
    paths: Sequence[Path],
    specs: Sequence[TensorSpec],
    size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> dict[str, NDArray[Any]]:
    """A batch of pictures for the only input of a model, by its name.

    Args:
        paths: .jpg, .jpeg and .png files, one for each sample.
        specs: the model's inputs: one of (batch, channels, height, width) or (batch, height, width, channels), with 3
            channels, or 1 for shades of grey. A floating-point input gets normalised values, uint8 gets 0 to 255.
        size: height and width; None takes those of the input.
        mean: of each channel, or one number for all; None is 0.
        std: as ``mean``, above 0; None is 1.

    Raises:
        ImportError: Pillow is not installed (the extra ``image``).
        InputError: the model takes no pictures, a picture cannot be decoded or is too large, or ``size``, ``mean`` or
            ``std`` do not fit the input.
        OSError: a file cannot be read.
    """
    spec, channels, last = _input_of(specs)
    height, width = size or _size_of(spec, last)
    if height * width > _MOST_PIXELS:
        raise InputError(f"pictures of {height} x {width} pixels: expected at most {_MOST_PIXELS} pixels")
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "u" and (mean or std):
        raise InputError(f"input {spec.name!r} takes values from 0 to 255 ({dtype}): leave out --mean and --std")
    for name, values in (("--mean", mean), ("--std", std)):
        if values and len(values) not in (1, channels):
            raise InputError(f"{name} has {len(values)} numbers, but input {spec.name!r} has {channels} channels")
    batch = np.empty((len(paths), height, width, channels), np.uint8)
    for pixels, path in zip(batch, paths, strict=True):
        pixels[:] = np.asarray(_fitted(_decoded(path, channels), height, width, path)).reshape(pixels.shape)
    found: NDArray[Any] = batch
    if dtype.kind == "f":
        shift, scale = np.asarray(mean or (0,), np.float32), np.asarray(std or (1,), np.float32)
        found = (batch.astype(np.float32) / np.float32(255) - shift) / scale
    return {spec.name: np.ascontiguousarray(found if last else found.transpose(0, 3, 1, 2), dtype)}


def _input_of(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, int, bool]:
    """The input for pictures, its channels, and whether they are the last axis."""
    if len(specs) == 1 and len(specs[0].dims) == 4:
        (spec,) = specs
        for axis in (1, 3):
            channels = spec.dims[axis]
            if channels in (1, 3) and (spec.dtype == "uint8" or np.dtype(spec.dtype).kind == "f"):
                return spec, int(channels), axis == 3
    raise InputError(
        "pictures are for a model with one input (batch, channels, height, width) of 1 or 3 channels, float or uint8; "
        f"this model has {describe(specs)}"
    )


def _size_of(spec: TensorSpec, last: bool) -> tuple[int, int]:
    height, width = spec.dims[1:3] if last else spec.dims[2:4]
    if not (isinstance(height, int) and isinstance(width, int)):
        raise InputError(f"input {describe([spec])} leaves the size of pictures free: say it with --size HEIGHTxWIDTH")
    return height, width


def _decoded(path: Path, channels: int) -> Image:
    """A picture in 8 bits a channel.

    Raises:
        ImportError, InputError, OSError: see `load_pictures`.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("pictures need Pillow: pip install 'streamrt[image]'") from error
    with open_regular(str(path)) as fd, open(fd, "rb", closefd=False) as file, warnings.catch_warnings():
        if (length := os.fstat(fd).st_size) > _MOST_BYTES:
            raise InputError(f"{path}: {format_size(length)}, expected a picture of at most {format_size(_MOST_BYTES)}")
        warnings.simplefilter("ignore")  # the size is checked here, and other warnings are of no use to a caller
        try:
            with Image.open(file, formats=("JPEG", "PNG")) as picture:  # reads the head
                _check_pixels(picture.width, picture.height, path)
                if picture.mode.startswith(("I", "F")):
                    raise InputError(f"{path}: a picture of {picture.mode} pixels, expected 8 bits a channel")
                return picture.convert("RGB" if channels == 3 else "L")
        except (InputError, MemoryError):
            raise
        except Image.DecompressionBombError:
            raise InputError(f"{path}: the picture has more than {_MOST_PIXELS} pixels") from None
        except Exception as error:  # a damaged picture can cause any exception
            text = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: expected a JPEG or PNG picture: {type(error).__name__}: {text}") from error


def _fitted(picture: Image, height: int, width: int, path: Path) -> Image:
    """The centre of a picture, scaled: see the module."""
    if picture.size == (width, height):
        return picture
    from PIL.Image import Resampling

    # The scaled picture covers (height, width) / 0.875. Its other side has the same scale, rounded down.
    tall, wide = int(height / _CROP), int(width / _CROP)
    if picture.height * wide < picture.width * tall:
        wide = int(tall * picture.width / picture.height)
    else:
        tall = int(wide * picture.height / picture.width)
    _check_pixels(wide, tall, path)
    left, top = round((wide - width) / 2), round((tall - height) / 2)
    return picture.resize((wide, tall), Resampling.BILINEAR).crop((left, top, left + width, top + height))


def _check_pixels(width: int, height: int, path: Path) -> None:
    if width * height > _MOST_PIXELS:
        raise InputError(f"{path}: a picture of {width} x {height} pixels, expected at most {_MOST_PIXELS} pixels")

"""Pictures as inputs: values, scaling as torchvision does it, and hostile files."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import zlib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from markers import needs
from streamrt import Model, cli
from streamrt.cli import pictures
from streamrt.cli.pictures import load_pictures
from streamrt.errors import InputError
from streamrt.graph import TensorSpec

(Image,) = needs("PIL.Image")
pytestmark = pytest.mark.extras

Output = pytest.CaptureFixture[str]
DATA = Path(str(resources.files("streamrt.data")))
CNN = DATA / "digits_cnn.safetensors"


def spec(*dims: int | str, dtype: str = "float32") -> list[TensorSpec]:
    return [TensorSpec("image", dims, dtype)]


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth colours, which JPEG keeps well."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def load(path: Path, specs: list[TensorSpec], **options: Any) -> np.ndarray:
    (found,) = load_pictures([path], specs, **options).values()
    return found


@pytest.mark.parametrize(("height", "width"), [(300, 400), (500, 260), (256, 256), (100, 90), (224, 225)])
def test_scaling_and_cropping_are_torchvisions(tmp_path: Path, height: int, width: int) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    path = tmp_path / "photo.png"
    photo(height, width).save(path)
    evaluation = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    expected = evaluation(Image.open(path).convert("RGB"))[None].numpy()
    mean, std = cli.commands.arguments.mean("imagenet"), cli.commands.arguments.std("imagenet")
    found = load(path, spec("N", 3, 224, 224), mean=mean, std=std)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_scaling_is_timms(tmp_path: Path) -> None:
    data = pytest.importorskip("timm.data")
    path = tmp_path / "photo.png"
    photo(300, 420).save(path)
    evaluation = data.create_transform((3, 160, 160), interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
    expected = evaluation(Image.open(path).convert("RGB"))[None].numpy()
    np.testing.assert_allclose(load(path, spec(1, 3, 160, 160)), expected, rtol=0, atol=1e-6)


def test_a_picture_of_the_models_size_is_taken_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = load(tmp_path / "a.png", spec("N", 3, 20, 30))
    np.testing.assert_array_equal(found[0], pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    last = load(tmp_path / "a.png", spec("N", 20, 30, 3, dtype="uint8"))
    np.testing.assert_array_equal(last[0], pixels)


def test_the_centre_of_a_picture_that_needs_no_scaling(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = load(tmp_path / "a.png", spec("N", 224, 224, 3, dtype="uint8"))
    np.testing.assert_array_equal(found[0], pixels[16:240, 16:240])


def test_a_size_that_is_not_square_covers_the_picture(tmp_path: Path) -> None:
    """The left part of the picture is black and the right part white: the crop is in the middle."""
    pixels = np.zeros((100, 400), np.uint8)
    pixels[:, 200:] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = load(tmp_path / "a.png", spec("N", 1, "H", "W"), size=(70, 140))
    assert found.shape == (1, 1, 70, 140)
    assert found[..., :65].max() == 0
    assert found[..., -65:].min() == 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_modes_of_pictures(tmp_path: Path, mode: str) -> None:
    path = tmp_path / f"a.{'jpg' if mode == 'CMYK' else 'png'}"
    photo(16, 16).convert(mode).save(path)
    assert load(path, spec("N", 3, 16, 16)).shape == (1, 3, 16, 16)
    assert load(path, spec("N", 1, 16, 16)).shape == (1, 1, 16, 16)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_types_and_numbers_for_all_channels(tmp_path: Path, dtype: str) -> None:
    Image.new("RGB", (4, 4), (255, 0, 51)).save(tmp_path / "a.png")
    found = load(tmp_path / "a.png", spec(1, 3, 4, 4, dtype=dtype), mean=(0.5,), std=(0.5,))
    assert found.dtype == dtype
    np.testing.assert_allclose(found[0, :, 0, 0], [1, -1, -0.6], atol=1e-3)


@pytest.mark.parametrize(
    ("specs", "options", "reason"),
    [
        (spec("N", 64), {}, "pictures are for a model with one input"),
        (spec("N", 4, 8, 8), {}, "1 or 3 channels"),
        (spec("N", "C", 8, 8), {}, "1 or 3 channels"),
        (spec("N", 3, 8, 8, dtype="int64"), {}, "float or uint8"),
        (spec("N", 3, 8, 8) * 2, {}, "one input"),
        (spec("N", 3, "H", "W"), {}, "say it with --size HEIGHTxWIDTH"),
        (spec("N", 3, 10**6, 10**6), {}, "pictures of 1000000 x 1000000 pixels: expected at most 67108864 pixels"),
        (spec("N", 3, "H", "W"), {"size": (65535, 1025)}, "expected at most 67108864 pixels"),
        (spec("N", 3, 8, 8, dtype="uint8"), {"mean": (0.5,)}, "leave out --mean and --std"),
        (spec("N", 1, 8, 8), {"mean": (0.1, 0.2, 0.3)}, "--mean has 3 numbers, but input 'image' has 1 channels"),
    ],
)
def test_models_that_take_no_pictures(
    tmp_path: Path, specs: list[TensorSpec], options: dict[str, Any], reason: str
) -> None:
    photo(8, 8).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=reason):
        load(tmp_path / "a.png", specs, **options)


def png(width: int, height: int, depth: int = 8, colour: int = 0, data: bytes = b"") -> bytes:
    """A PNG file whose head says this; its pixels may be missing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (png(8193, 8192), "a picture of 8193 x 8192 pixels, expected at most 67108864 pixels"),
        (png(2**31 - 1, 2**31 - 1), "more than 67108864 pixels"),
        (png(60_000_000, 1, data=zlib.compress(bytes(60_000_001), 9)), "a picture of .* pixels, expected at most"),
        (png(8, 8), "expected a JPEG or PNG picture"),
        (png(8, 8, data=b"no deflate"), "expected a JPEG or PNG picture"),
        (png(0, 8), "expected a JPEG or PNG picture"),
        (png(8, 8, depth=16, data=zlib.compress(bytes(8 * 17))), "expected 8 bits a channel"),
        (b"", "expected a JPEG or PNG picture"),
        (b"GIF89a" + bytes(100), "expected a JPEG or PNG picture"),
        (b"\x89PNG\r\n\x1a\n", "expected a JPEG or PNG picture"),
        (jpeg(photo(64, 64))[:-300], "expected a JPEG or PNG picture"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "expected a JPEG or PNG picture"),
    ],
    ids=[
        "one column too many", "2**62 pixels", "too long once scaled", "no pixels", "no deflate stream", "no width",
        "16 bits", "empty", "GIF", "signature only", "cut short", "JPEG without a frame",
    ],
)  # fmt: skip
def test_hostile_pictures_give_a_typed_error(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason):
        load(path, spec("N", 3, 224, 224))


def test_pixels_are_not_decoded_before_their_number_is_checked(tmp_path: Path, run_python: Any) -> None:
    """A file of 140 KiB would take 137 MiB, and three times as much as colours."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png(12_000, 12_000, data=zlib.compress(bytes(12_000 * 12_001))))
    done = run_python(
        """
        import resource, sys
        from pathlib import Path
        from PIL import Image, PngImagePlugin
        from streamrt.cli.pictures import load_pictures
        from streamrt.errors import InputError
        from streamrt.graph import TensorSpec
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            load_pictures([Path(sys.argv[1])], [TensorSpec("x", ("N", 3, 224, 224))])
        except InputError as error:
            print(error)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        """,
        path,
    )
    text, kibibytes = done.stdout.splitlines()
    assert "a picture of 12000 x 12000 pixels, expected at most 67108864 pixels" in text
    assert int(kibibytes) < 32 << 10


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(photo(8, 8)))
    with path.open("ab") as file:
        file.truncate(pictures._MOST_BYTES + 1)
    with pytest.raises(InputError, match="expected a picture of at most 256 MiB"):
        load(path, spec("N", 3, 8, 8))


def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(OSError, match="not a regular file"):
        load(tmp_path / "a.png", spec("N", 3, 8, 8))


def test_a_missing_picture(tmp_path: Path, capsys: Output) -> None:
    assert cli.main(["run", str(CNN), str(tmp_path / "no.jpg"), str(tmp_path / "y.npy")]) == 1
    assert capsys.readouterr().err == f"streamrt: error: {tmp_path}/no.jpg: No such file or directory\n"


def test_without_pillow(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert cli.main(["run", str(CNN), str(tmp_path / "no.jpg"), str(tmp_path / "y.npy")]) == 1
    assert capsys.readouterr().err == "streamrt: error: pictures need Pillow: pip install 'streamrt[image]'\n"


def test_digits_are_classified(tmp_path: Path, capsys: Output) -> None:
    with np.load(DATA / "digits_test.npz") as test:
        images, labels = test["images"][:4], test["labels"][:4]
    files = [tmp_path / f"{index}.png" for index in range(4)]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(np.rint(image.astype(float) * 255 / 16).astype(np.uint8)).save(file)
    (tmp_path / "labels.txt").write_text("".join(f"the digit {index}\n" for index in range(10)))
    options = ["--labels", str(tmp_path / "labels.txt"), "--budget", "300KiB"]
    assert cli.main(["run", str(CNN), *map(str, files), str(tmp_path / "y.npy"), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[::6] == [str(file) for file in files]
    for sample, label in zip(range(0, 24, 6), labels, strict=True):
        assert lines[sample + 1].endswith(f"%  the digit {label}")
        percent = [float(line.split("%")[0]) for line in lines[sample + 1 : sample + 6]]
        assert percent == sorted(percent, reverse=True)
        assert percent[0] > 50
    found = np.load(tmp_path / "y.npy")
    with Model(CNN) as model:
        x = np.rint(images[:, None].astype(float) * 255 / 16).astype(np.float32) / np.float32(255)
        np.testing.assert_allclose(found, model(x), rtol=1e-4, atol=1e-4)
    assert cli.main(["run", str(CNN), *map(str, files), "--json", *options, "--mean", "0", "--std", "1"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [classes[0]["index"] for classes in content["classes"]] == labels.tolist()
    assert content["inputs"] == {"image": {"shape": [4, 1, 8, 8], "dtype": "float32"}}
    assert content["output"] is None

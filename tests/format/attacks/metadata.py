"""Attacks on the metadata of the header: keys, checksums of the data, and the block size."""

from __future__ import annotations

import json
from typing import Any

from format.attacks.draft import attack, with_metadata, with_text


@attack("not an object of strings")
def metadata_with_a_number() -> bytes:
    return with_metadata("answer", 42)


@attack("not an object of strings")
def metadata_with_an_object() -> bytes:
    return with_metadata("streamrt.graph", {"inputs": []})


@attack("unknown key 'streamrt.compression'")
def metadata_unknown_key() -> bytes:
    return with_metadata("streamrt.compression", "zstd")


@attack("lone surrogate")
def metadata_not_unicode() -> bytes:
    return with_text('"streamrt.block_size"', '"note":"\\ud800","streamrt.block_size"')


@attack("lacks 'streamrt.graph'")
def metadata_without_graph() -> bytes:
    return with_metadata("streamrt.graph", None)


@attack("lacks 'streamrt.block_size'")
def metadata_without_block_size() -> bytes:
    return with_metadata("streamrt.block_size", None)


@attack("lacks 'streamrt.block_crc32c'")
def metadata_without_block_checksums() -> bytes:
    return with_metadata("streamrt.block_crc32c", None)


@attack("block_size is '0'")
def block_size_zero() -> bytes:
    return with_metadata("streamrt.block_size", "0")


@attack("block_size is '-4096'")
def block_size_negative() -> bytes:
    return with_metadata("streamrt.block_size", "-4096")


@attack("block_size is '5000'")
def block_size_no_power_of_two() -> bytes:
    return with_metadata("streamrt.block_size", "5000")


@attack("block_size is '1099511627776'")
def block_size_of_a_tebibyte() -> bytes:
    return with_metadata("streamrt.block_size", str(2**40))


@attack("block_size is '٤٠٩٦'")
def block_size_in_other_digits() -> bytes:
    # Arabic-Indic digits, which int() takes for 4096.
    return with_metadata("streamrt.block_size", "٤٠٩٦")


@attack("block_crc32c has 0 characters")
def block_checksums_too_few() -> bytes:
    return with_metadata("streamrt.block_crc32c", "")


@attack("block_crc32c has 16 characters")
def block_checksums_too_many() -> bytes:
    return with_metadata("streamrt.block_crc32c", "0" * 16)


@attack("block_crc32c has 8 characters, expected 8 hexadecimal")
def block_checksums_not_hexadecimal() -> bytes:
    return with_metadata("streamrt.block_crc32c", "0x12_456")


def with_layouts(value: Any) -> bytes:
    """A file with this value, or this text, as ``streamrt.layouts``."""
    return with_metadata("streamrt.layouts", value if isinstance(value, str) else json.dumps(value))


def with_layout(**changes: Any) -> bytes:
    """A file in whose layouts parts of the entry of ``w`` are replaced."""
    return with_layouts({"w": {"layout": "plain", "shape": [4, 3]} | changes})


@attack("not an object of strings")
def layouts_as_an_object() -> bytes:
    return with_metadata("streamrt.layouts", {})


@attack("streamrt.layouts is not JSON")
def layouts_not_json() -> bytes:
    return with_layouts("plain")


@attack("streamrt.layouts is a list, expected a JSON object")
def layouts_in_a_list() -> bytes:
    return with_layouts([{"layout": "plain", "shape": [4, 3]}])


@attack("streamrt.layouts holds the key 'w' twice")
def layouts_with_a_tensor_twice() -> bytes:
    return with_layouts('{"w":{"layout":"plain","shape":[4,3]},"w":{"layout":"plain","shape":[4,3]}}')


@attack("streamrt.layouts holds the number 3.0, expected only integers")
def layouts_with_a_float() -> bytes:
    return with_layout(shape=[4, 3.0])


@attack("streamrt.layouts names 'v', expected the name of a parameter")
def layouts_of_a_missing_tensor() -> bytes:
    return with_layouts({"v": {"layout": "plain", "shape": [4, 3]}})


@attack("streamrt.layouts names 'streamrt.pad.1', expected the name of a parameter")
def layouts_of_padding() -> bytes:
    return with_layouts({"streamrt.pad.1": {"layout": "plain", "shape": [16]}})


@attack("streamrt.layouts: tensor 'w': its layout 'panels-16' is not known .* a newer streamrt is needed")
def layout_of_the_future() -> bytes:
    return with_layout(layout="panels-16")


@attack("tensor 'w': its layout 'Plain' is not known")
def layout_in_capitals() -> bytes:
    return with_layout(layout="Plain")


@attack("tensor 'w': the layout is 1, expected a name of 1 to 64 characters")
def layout_is_a_number() -> bytes:
    return with_layout(layout=1)


@attack("tensor 'w': the layout is '', expected a name")
def layout_without_name() -> bytes:
    return with_layout(layout="")


@attack("tensor 'w': the layout is 'xxx.*, expected a name of 1 to 64 characters")
def layout_with_a_long_name() -> bytes:
    return with_layout(layout="x" * 65)


@attack("tensor 'w': expected an object of layout and shape")
def layout_without_shape() -> bytes:
    return with_layouts({"w": {"layout": "plain"}})


@attack("tensor 'w': expected an object of layout and shape")
def layout_with_more() -> bytes:
    return with_layout(block=16)


@attack("tensor 'w': expected an object of layout and shape")
def layout_is_a_text() -> bytes:
    return with_layouts({"w": "plain"})


@attack("tensor 'w': shape is a str, expected a list")
def layout_with_a_shape_of_text() -> bytes:
    return with_layout(shape="4,3")


@attack("tensor 'w': an extent is -4")
def layout_with_a_negative_shape() -> bytes:
    return with_layout(shape=[-4, -3])


@attack("tensor 'w': 33 dimensions")
def layout_of_many_dimensions() -> bytes:
    return with_layout(shape=[4, 3] + [1] * 31)


@attack(r"tensor 'w': shape .* more than 2\*\*60 bytes")
def layout_with_a_shape_that_overflows() -> bytes:
    return with_layout(layout="panels-16", shape=[2**32, 2**32, 12])


@attack(r"tensor 'w': its logical shape is \[3, 4\], expected that of a plain tensor, \[4, 3\]")
def layout_plain_of_another_shape() -> bytes:
    return with_layout(shape=[3, 4])

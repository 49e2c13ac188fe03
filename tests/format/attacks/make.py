"""Hostile weights files, one for each function: a good file, spoilt in one way.

The files in this folder are what ``python make.py`` writes; `tests/format/test_attacks.py` keeps them so. Checksums
are right unless they are what is attacked: an attacker can compute them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamrt._core import crc32c
from streamrt.format.header import seal

FOLDER = Path(__file__).parent
SUFFIX = ".safetensors"


@dataclass
class Draft:
    """A weights file before it becomes bytes: y = relu(x @ w.T + b), with w (4, 3) and b (4,)."""

    graph: Any = field(
        default_factory=lambda: {
            "inputs": [{"name": "x", "dims": ["N", 3]}],
            "outputs": [{"name": "y", "dims": ["N", 4]}],
            "nodes": [
                {"name": "dense", "op": "Gemm", "inputs": ["x", "w", "b"], "outputs": ["h"]},
                {"name": "relu", "op": "Relu", "inputs": ["h"], "outputs": ["y"]},
            ],
        }
    )
    tensors: dict[str, Any] = field(
        default_factory=lambda: {
            "w": {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]},
            "streamrt.pad.1": {"dtype": "U8", "shape": [16], "data_offsets": [48, 64]},
            "b": {"dtype": "F32", "shape": [4], "data_offsets": [64, 80]},
            "streamrt.pad.3": {"dtype": "U8", "shape": [4016], "data_offsets": [80, 4096]},
        }
    )
    data: bytes = bytes(4096)
    metadata: dict[str, Any] = field(default_factory=dict)

    def header(self) -> dict[str, Any]:
        """The header as an object; ``metadata`` overrides, and None there leaves a key out."""
        metadata = {
            "streamrt.format": "1",
            "streamrt.header_crc32c": "0" * 8,
            "streamrt.block_size": "4096",
            "streamrt.block_crc32c": "".join(
                f"{crc32c(self.data[i : i + 4096]):08x}" for i in range(0, len(self.data), 4096)
            ),
            "streamrt.graph": self.graph if isinstance(self.graph, str) else json.dumps(self.graph),
        } | self.metadata
        return {"__metadata__": {k: v for k, v in metadata.items() if v is not None}} | self.tensors

    def text(self) -> bytes:
        """The header as JSON."""
        return compact(self.header())

    def build(self) -> bytes:
        """The file."""
        return join(self.text(), self.data)


def compact(value: object) -> bytes:
    """JSON as the format's writer writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def join(text: bytes, data: bytes = bytes(4096), align: int = 4096) -> bytes:
    """A file of a header and a data section, with its header sealed."""
    size = -(-(8 + len(text)) // align) * align - 8
    return seal(size.to_bytes(8, "little") + text.ljust(size)) + data


Attack = Callable[[], bytes]
#: By name: the function, and a regular expression for the reason that the reader must give.
ATTACKS: dict[str, tuple[Attack, str]] = {}


def attack(reason: str) -> Callable[[Attack], Attack]:
    """Register an attack that must be refused for ``reason``."""

    def register(function: Attack) -> Attack:
        ATTACKS[function.__name__] = function, reason
        return function

    return register


def with_tensor(name: str, **changes: Any) -> bytes:
    """A file in which parts of one tensor's entry are replaced."""
    draft = Draft()
    draft.tensors[name] |= changes
    return draft.build()


def with_metadata(key: str, value: Any) -> bytes:
    """A file in which one string of the metadata is replaced, or left out when it is None."""
    return Draft(metadata={key: value}).build()


def with_text(old: str, new: str) -> bytes:
    """A file in whose header the text ``old`` is replaced."""
    text = Draft().text()
    assert text.count(old.encode()) == 1, f"{old} occurs {text.count(old.encode())} times"
    return join(text.replace(old.encode(), new.encode()))


# The container.


@attack("0 bytes, too few")
def empty() -> bytes:
    return b""


@attack("7 bytes, too few")
def half_a_length() -> bytes:
    return Draft().build()[:7]


@attack("header would end at 18446744073709551623, but the file has")
def length_of_all_ones() -> bytes:
    return b"\xff" * 8 + Draft().build()[8:]


@attack("header would end at 8193, but the file has 8192")
def length_past_the_end() -> bytes:
    return (8185).to_bytes(8, "little") + Draft().build()[8:]


@attack("not a safetensors file")
def length_zero() -> bytes:
    return bytes(8) + Draft().build()[8:]


@attack("header is damaged")
def length_too_short() -> bytes:
    return (4087).to_bytes(8, "little") + Draft().build()[8:]


@attack("header would end at .*, but the file has 8192")
def length_big_endian() -> bytes:
    return (4088).to_bytes(8, "big") + Draft().build()[8:]


@attack("header does not begin")
def header_of_a_few_bytes() -> bytes:
    text = b'{"__metadata__":{"streamrt.format":"1"'
    return len(text).to_bytes(8, "little") + text


@attack("not a safetensors file")
def header_is_an_array() -> bytes:
    return join(b"[" + Draft().text() + b"]")


@attack("the header is not JSON")
def header_ends_early() -> bytes:
    return join(Draft().text()[:-1])


@attack("the header is not JSON: Extra data")
def header_goes_on() -> bytes:
    return join(Draft().text() + b" {}")


@attack("the header is not JSON")
def header_padded_with_nul() -> bytes:
    text = Draft().text()
    return join(text + bytes(4088 - len(text)))


@attack("not UTF-8")
def header_in_latin_1() -> bytes:
    return join(Draft(metadata={"author": "é"}).text().decode().encode("latin-1"))


@attack("safetensors files hold tensors but no graph")
def plain_safetensors() -> bytes:
    return join(compact(Draft().tensors))


@attack("format version 2; this streamrt reads version 1")
def version_of_the_future() -> bytes:
    return with_text('"streamrt.format":"1"', '"streamrt.format":"2"')


@attack("header does not begin")
def checksum_not_second() -> bytes:
    return with_text('"streamrt.header_crc32c":"00000000",', "")


@attack("the header is damaged: its CRC-32C")
def header_bit_flipped() -> bytes:
    good = Draft().build()
    return good.replace(b'"shape":[4,3]', b'"shape":[3,4]')


@attack("the header is damaged: its CRC-32C")
def checksum_in_capitals() -> bytes:
    good = Draft().build()
    at = good.index(b'header_crc32c":"') + 16
    return good[:at] + b"ABCDEFGH" + good[at + 8 :]


@attack("nested too deeply")
def deep_nesting() -> bytes:
    return with_text('"shape":[4,3]', '"shape":' + "[" * 3000)


@attack("number of 3000 digits")
def endless_integer() -> bytes:
    return with_text('"shape":[4,3]', '"shape":[' + "9" * 3000 + "]")


@attack("expected only integers")
def float_offset() -> bytes:
    return with_text("[0,48]", "[0,48.0]")


@attack("expected only integers")
def infinite_offset() -> bytes:
    return with_text("[0,48]", "[0,Infinity]")


@attack("expected only integers")
def nan_extent() -> bytes:
    return with_text('"shape":[4,3]', '"shape":[NaN]')


@attack("the key 'w' twice")
def tensor_twice() -> bytes:
    return with_text('"w":{', '"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"w":{')


@attack("the key 'shape' twice")
def shape_twice() -> bytes:
    return with_text('"shape":[4,3]', '"shape":[1],"shape":[4,3]')


@attack("the key '__metadata__' twice")
def metadata_twice() -> bytes:
    return with_text('"w":{', '"__metadata__":{},"w":{')


# The metadata.


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


# The tensors.


@attack("tensor 'w': expected an object")
def tensor_is_a_list() -> bytes:
    return with_text('"w":{"dtype":"F32","shape":[4,3],"data_offsets":[0,48]}', '"w":[]')


@attack("tensor 'w': expected an object")
def tensor_without_dtype() -> bytes:
    return with_text('"dtype":"F32","shape":[4,3]', '"shape":[4,3]')


@attack("tensor 'w': expected an object")
def tensor_with_more() -> bytes:
    return with_tensor("w", strides=[1, 4])


@attack("a tensor is named ''")
def tensor_without_name() -> bytes:
    return with_text('"w":{', '"":{')


@attack("a tensor is named 'wwww")
def tensor_with_a_long_name() -> bytes:
    return with_text('"w":{', f'"{"w" * 1025}":{{')


@attack("lone surrogate")
def tensor_name_not_unicode() -> bytes:
    return with_text('"w":{', '"\\udc80":{')


@attack("dtype 'X32', expected F32")
def dtype_unknown() -> bytes:
    return with_tensor("w", dtype="X32")


@attack(r"dtype \['F32'\], expected F32")
def dtype_is_a_list() -> bytes:
    return with_tensor("w", dtype=["F32"])


@attack("dtype 'F16', expected F32")
def dtype_that_no_operator_runs() -> bytes:
    return with_tensor("w", dtype="F16", shape=[8, 3])


@attack("dtype 'F32', expected U8")
def padding_of_floats() -> bytes:
    return with_tensor("streamrt.pad.1", dtype="F32", shape=[4])


@attack("2 dimensions, expected 1")
def padding_of_two_dimensions() -> bytes:
    return with_tensor("streamrt.pad.1", shape=[4, 4])


@attack("shape is a str")
def shape_is_a_text() -> bytes:
    return with_tensor("w", shape="4,3")


@attack("an extent is -4")
def shape_negative() -> bytes:
    return with_tensor("w", shape=[-4, -3])


@attack("an extent is True")
def shape_of_booleans() -> bytes:
    return with_tensor("w", shape=[12, True])


@attack("33 dimensions")
def shape_of_many_dimensions() -> bytes:
    return with_tensor("w", shape=[4, 3] + [1] * 31)


@attack(r"more than 2\*\*60 bytes")
def shape_product_overflows() -> bytes:
    # 2**32 * 2**32 * 12 is 0 modulo 2**64.
    return with_tensor("w", shape=[2**32, 2**32, 12], data_offsets=[0, 0])


@attack(r"more than 2\*\*60 bytes")
def shape_product_overflows_to_the_right_size() -> bytes:
    # The product is 2**62 + 12; times 4 that is 48 modulo 2**64.
    return with_tensor("w", shape=[4, 103, 11193412666085893])


@attack(r"an extent is 4611686018427387916, expected an integer from 0 to 2\*\*60")
def shape_extent_overflows_to_the_right_size() -> bytes:
    return with_tensor("w", shape=[2**62 + 12])


@attack(r"more than 2\*\*60 bytes")
def shape_overflow_behind_a_zero() -> bytes:
    return with_tensor("w", shape=[2**40, 2**40, 0], data_offsets=[0, 0])


@attack("hold 48 bytes, expected 44 for shape")
def shape_smaller_than_its_extent() -> bytes:
    return with_tensor("w", shape=[11])


@attack(r"data_offsets is \[0, 48, 48\]")
def offsets_of_three() -> bytes:
    return with_tensor("w", data_offsets=[0, 48, 48])


@attack("data_offsets is {}")
def offsets_are_an_object() -> bytes:
    return with_tensor("w", data_offsets={})


@attack("data_offsets is .*, expected two integers")
def offsets_negative() -> bytes:
    return with_tensor("w", data_offsets=[-48, 0])


@attack("data_offsets is .*, expected two integers")
def offsets_of_text() -> bytes:
    return with_tensor("w", data_offsets=["0", "48"])


@attack("data_offsets is .*, expected two integers")
def offsets_wrap_around() -> bytes:
    return with_tensor("w", data_offsets=[2**64 // 4 - 48, 2**64 // 4])


@attack("hold -48 bytes")
def offsets_reversed() -> bytes:
    return with_tensor("w", data_offsets=[48, 0])


@attack("ends at 1000048 of the data section, which has 4096")
def extent_past_the_end() -> bytes:
    return with_tensor("w", data_offsets=[1_000_000, 1_000_048])


@attack("'b' overlaps the one before: it begins at 0 of the data section, expected 64")
def tensors_overlap() -> bytes:
    return with_tensor("b", data_offsets=[0, 16])


@attack("'b' leaves a hole before it: it begins at 64 of the data section, expected 48")
def hole_between_tensors() -> bytes:
    draft = Draft()
    del draft.tensors["streamrt.pad.1"]
    return draft.build()


@attack("cover 80 bytes of the data section, which has 4096")
def hole_at_the_end() -> bytes:
    draft = Draft()
    del draft.tensors["streamrt.pad.3"]
    return draft.build()


@attack("'streamrt.pad.1' leaves a hole")
def tensors_not_in_order() -> bytes:
    draft = Draft()
    draft.tensors["w"] = draft.tensors.pop("w")
    return draft.build()


@attack("ends at 4096 of the data section, which has 4032")
def data_cut_short() -> bytes:
    return Draft().build()[:-64]


@attack("cover 4096 bytes of the data section, which has 4097")
def data_goes_on() -> bytes:
    return Draft().build() + b"\0"


@attack("'b' begins at 52 of the data section, expected a multiple of 64")
def tensor_unaligned() -> bytes:
    draft = Draft()
    draft.tensors["streamrt.pad.1"] = {"dtype": "U8", "shape": [4], "data_offsets": [48, 52]}
    draft.tensors["b"]["data_offsets"] = [52, 68]
    draft.tensors["streamrt.pad.3"] = {"dtype": "U8", "shape": [4028], "data_offsets": [68, 4096]}
    return draft.build()


@attack("expected both to be multiples of 4096")
def data_section_unaligned() -> bytes:
    return join(Draft().text(), align=64)


@attack("expected both to be multiples of 4096")
def file_ends_within_a_page() -> bytes:
    draft = Draft(data=bytes(128))
    draft.tensors["streamrt.pad.3"] = {"dtype": "U8", "shape": [48], "data_offsets": [80, 128]}
    return draft.build()


@attack("'w' and 'b' of node 'dense' lie 80 bytes apart")
def segment_torn_apart() -> bytes:
    draft = Draft()
    draft.tensors["streamrt.pad.1"] = {"dtype": "U8", "shape": [80], "data_offsets": [48, 128]}
    draft.tensors["b"]["data_offsets"] = [128, 144]
    draft.tensors["streamrt.pad.3"] = {"dtype": "U8", "shape": [3952], "data_offsets": [144, 4096]}
    return draft.build()


@attack("parameters of node 'relu' .* begin at 4160 of the file, expected a multiple of 4096")
def segment_unaligned() -> bytes:
    draft = Draft()
    draft.graph["nodes"][0]["inputs"] = ["x", "w"]
    draft.graph["nodes"][1]["inputs"] = ["h", "b"]
    return draft.build()


@attack("'w' are stored where 'b' of node 'dense' were expected")
def segments_not_in_order() -> bytes:
    draft = Draft()
    draft.graph["nodes"][0]["inputs"] = ["x", "b"]
    draft.graph["nodes"][1]["inputs"] = ["h", "w"]
    return draft.build()


@attack("no node reads the tensors 'b'")
def tensor_that_nobody_reads() -> bytes:
    draft = Draft()
    draft.graph["nodes"][0]["inputs"] = ["x", "w"]
    return draft.build()


# The graph.


@attack("streamrt.graph is not JSON")
def graph_is_not_json() -> bytes:
    return with_metadata("streamrt.graph", "y = relu(x)")


@attack("graph: expected an object, found list")
def graph_is_a_list() -> bytes:
    return Draft(graph=[]).build()


@attack("streamrt.graph is nested too deeply")
def graph_nested_deeply() -> bytes:
    return with_metadata("streamrt.graph", '{"inputs":' + "[" * 2500)


@attack("streamrt.graph holds NaN")
def graph_with_nan() -> bytes:
    draft = Draft()
    draft.graph["nodes"][0]["attrs"] = {"alpha": float("nan")}
    return draft.build()


@attack("streamrt.graph holds the key 'op' twice")
def graph_with_a_key_twice() -> bytes:
    return Draft(graph=json.dumps(Draft().graph).replace('"op": "Relu"', '"op": "Relu", "op": "Tanh"')).build()


@attack("lone surrogate")
def graph_not_unicode() -> bytes:
    return Draft(graph=json.dumps(Draft().graph).replace('"relu"', '"\\ud800"')).build()


@attack("node 'dense' reads 'v'")
def graph_reads_a_missing_tensor() -> bytes:
    draft = Draft()
    draft.graph["nodes"][0]["inputs"][1] = "v"
    return draft.build()


@attack("node 'dense' reads 'streamrt.pad.1'")
def graph_reads_padding() -> bytes:
    draft = Draft()
    draft.graph["nodes"][0]["inputs"][1] = "streamrt.pad.1"
    return draft.build()


@attack("node 'dense' reads 'y', .*a cycle")
def graph_with_a_cycle() -> bytes:
    draft = Draft()
    draft.graph["nodes"][0]["inputs"][0] = "y"
    return draft.build()


@attack("node 'relu' reads 'y'")
def graph_with_a_node_that_feeds_itself() -> bytes:
    draft = Draft()
    draft.graph["nodes"][1]["inputs"] = ["y"]
    return draft.build()


@attack("output of node 'dense' 'w' is defined twice")
def graph_writes_over_a_parameter() -> bytes:
    draft = Draft()
    draft.graph["nodes"][0]["outputs"] = ["w"]
    return draft.build()


@attack("node 'dense' is defined twice")
def graph_with_a_node_name_twice() -> bytes:
    draft = Draft()
    draft.graph["nodes"][1]["name"] = "dense"
    return draft.build()


@attack("output 'z' is not computed")
def graph_without_its_output() -> bytes:
    draft = Draft()
    draft.graph["outputs"][0]["name"] = "z"
    return draft.build()


@attack("outputs\\[0\\].dtype: 'float64' is none of")
def graph_with_an_output_of_another_type() -> bytes:
    draft = Draft()
    draft.graph["outputs"][0]["dtype"] = "float64"
    return draft.build()


@attack("outputs\\[0\\].dtype: \\['int64'\\] is none of")
def graph_with_a_type_that_is_no_text() -> bytes:
    draft = Draft()
    draft.graph["outputs"][0]["dtype"] = ["int64"]
    return draft.build()


@attack("inputs\\[0\\].dtype: 'int64' is none of")
def graph_with_an_input_of_another_type() -> bytes:
    draft = Draft()
    draft.graph["inputs"][0]["dtype"] = "int64"
    return draft.build()


if __name__ == "__main__":
    for stale in FOLDER.glob(f"*{SUFFIX}"):
        stale.unlink()
    for _name, (_function, _) in ATTACKS.items():
        (FOLDER / f"{_name}{SUFFIX}").write_bytes(_function())

"""Weights in fewer bytes than float32, whose types, layouts, shapes and sizes do not fit together."""

from __future__ import annotations

import json
from typing import Any

from format.attacks.draft import Draft, attack, with_tensor

#: A good layout: each of the 4 rows has a scale, 7 codes and a byte that fills it up.
INT8 = {"layout": "int8", "shape": [4, 7]}


def with_coding(layout: Any, **tensor: Any) -> bytes:
    """A file in which ``w``, U8 of shape (4, 12), has this layout, and its entry these changes."""
    draft = Draft(metadata={"streamrt.layouts": json.dumps({"w": layout})})
    draft.tensors["w"] |= {"dtype": "U8", "shape": [4, 12]} | tensor
    return draft.build()


@attack("tensor 'w': dtype U8 without a layout, expected F32")
def bytes_without_a_layout() -> bytes:
    return with_tensor("w", dtype="U8", shape=[4, 12])


@attack("hold 48 bytes, expected 2 for shape")
def half_without_dimensions() -> bytes:
    return with_tensor("w", dtype="F16", shape=[])


@attack("hold 48 bytes, expected 24 for shape")
def half_of_the_size_of_floats() -> bytes:
    return with_tensor("w", dtype="F16")


@attack("hold 48 bytes, expected 24 for shape")
def bfloat_of_the_size_of_floats() -> bytes:
    return with_tensor("w", dtype="BF16")


@attack("it is F32 of shape .4, 3., expected .'U8', .4, 12")
def layout_int8_of_floats() -> bytes:
    return with_coding(INT8, dtype="F32", shape=[4, 3])


@attack("it is U8 of shape .4, 12., expected .'U8', .4, 16")
def layout_int8_with_a_code_too_many() -> bytes:
    return with_coding(INT8 | {"shape": [4, 9]})


@attack("it is U8 of shape .48., expected .'U8', .4, 12")
def layout_int8_of_one_dimension_in_the_header() -> bytes:
    return with_coding(INT8, shape=[48])


@attack("int8 needs rows: shape .7,., expected two dimensions or more")
def layout_int8_without_rows() -> bytes:
    return with_coding(INT8 | {"shape": [7]})


@attack("an extent is -7, expected an integer from 0 to 2")
def layout_int8_of_a_negative_extent() -> bytes:
    return with_coding(INT8 | {"shape": [4, -7]})


@attack("has more than 2..60 bytes")
def layout_int4_whose_shape_overflows() -> bytes:
    return with_coding({"layout": "int4", "shape": [4, 2**31, 2**31]})


@attack("block is 8, expected a multiple of 16")
def layout_int8_with_a_small_block() -> bytes:
    return with_coding(INT8 | {"block": 8})


@attack("block is 0, expected a multiple of 16")
def layout_int8_with_a_block_of_zero() -> bytes:
    return with_coding(INT8 | {"block": 0})


@attack("block is -16, expected a multiple of 16")
def layout_int8_with_a_negative_block() -> bytes:
    return with_coding(INT8 | {"block": -16})


@attack("block is True, expected a multiple of 16")
def layout_int8_with_a_block_that_is_true() -> bytes:
    return with_coding(INT8 | {"block": True})


@attack("block is 1152921504606846976, expected a multiple of 16 up to 2..22")
def layout_int8_with_an_endless_block() -> bytes:
    return with_coding(INT8 | {"block": 2**60})


@attack("int8 with rows of 4194305 elements, expected at most 2..22")
def layout_int8_with_an_endless_row() -> bytes:
    return with_coding(INT8 | {"shape": [1, 2**22 + 1]})


@attack("tensor 'w': (shape .576460752303423488, 0. has more than 2..60 bytes|dtype F16 without a layout)")
def half_of_a_shape_that_float32_cannot_have() -> bytes:
    draft = Draft()
    draft.tensors["w"] = {"dtype": "F16", "shape": [2**59, 0], "data_offsets": [0, 0]}
    draft.tensors["streamrt.pad.1"] = {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}
    return draft.build()


@attack("zeros is 2, expected 0 or 1")
def layout_int8_with_two_zeros() -> bytes:
    return with_coding(INT8 | {"zeros": 2})


@attack("it is U8 of shape .4, 12., expected .'U8', .4, 16")
def layout_int8_whose_zeros_have_no_room() -> bytes:
    return with_coding({"layout": "int8", "shape": [4, 8], "zeros": 1})


@attack("unknown keys .'axis'.")
def layout_int8_with_another_key() -> bytes:
    return with_coding(INT8 | {"axis": 0})

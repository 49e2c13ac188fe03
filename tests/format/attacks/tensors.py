"""Attacks on the entries of tensors."""

from __future__ import annotations

from format.attacks.draft import Draft, attack, join, with_tensor, with_text


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


@attack("dtype 'F64', expected F32 or F16 or BF16 or I64 or U8")
def dtype_that_no_operator_runs() -> bytes:
    return with_tensor("w", dtype="F64", shape=[2, 3])


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


@attack("'w' and 'b' of node 'dense' lie 64 bytes apart")
def segment_with_a_gap_of_one_step() -> bytes:
    draft = Draft()
    draft.tensors["w"] = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}
    draft.tensors["streamrt.pad.1"] = {"dtype": "U8", "shape": [64], "data_offsets": [64, 128]}
    draft.tensors["b"]["data_offsets"] = [128, 144]
    draft.tensors["streamrt.pad.3"] = {"dtype": "U8", "shape": [3952], "data_offsets": [144, 4096]}
    return draft.build()


@attack("parameters of node 'relu' .* begin at 4160 of the file, expected a multiple of 4096")
def segment_unaligned() -> bytes:
    draft = Draft(version="1")  # in version 2 segments share pages
    draft.graph["nodes"][0]["inputs"] = ["x", "w"]
    draft.graph["nodes"][1]["inputs"] = ["h", "b"]
    return draft.build()


@attack("8112 bytes of padding lie behind the last parameter, expected less than 4096")
def padding_of_two_pages_at_the_end() -> bytes:
    draft = Draft(data=bytes(8192))
    draft.tensors["streamrt.pad.3"] = {"dtype": "U8", "shape": [8112], "data_offsets": [80, 8192]}
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

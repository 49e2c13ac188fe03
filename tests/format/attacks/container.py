"""Attacks on the container: the length of the header, its JSON, and its checksum."""

from __future__ import annotations

from format.attacks.draft import Draft, attack, compact, join, with_text


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
    text = b'{"__metadata__":{"streamrt.format":"2"'
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


@attack("format version 3; this streamrt reads only versions 1 and 2")
def version_of_the_future() -> bytes:
    return Draft(version="3").build()


@attack("format version 22; this streamrt reads only versions 1 and 2")
def version_of_two_digits() -> bytes:
    return Draft(version="22").build()


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
    return with_text('"shape":[4,3]', '"shape":' + "[" * 100_000)


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

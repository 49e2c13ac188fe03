"""Attacks on the metadata of the header: keys, checksums of the data, and the block size."""

from __future__ import annotations

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

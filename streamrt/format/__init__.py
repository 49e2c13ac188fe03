"""The weights file: a model, packed so that one pass is one sequential read.

A weights file is a valid safetensors file, which any safetensors reader opens. It keeps further promises, so that
`streamrt` can read it piece by piece. This is version 2 of its specification. Files of version 1 are read, too; they
differ only where "Version 1" says so below.

Container
    ============================  =======================================================================
    8 bytes                       N, the length of the header, little-endian
    N bytes                       the header: a JSON object in UTF-8, padded at its end with spaces
    the rest                      the data section: the tensors' bytes, little-endian, row-major
    ============================  =======================================================================

    8 + N is at most 8 MiB. The header has at most 800,000 of the characters ``{``, ``[``, ``:`` and ``,``, also counted
    within strings: this limits the time and the memory of parsing. The header maps the name of each tensor to
    ``{"dtype", "shape", "data_offsets"}``. Offsets ``[begin, end)`` are counted from the start of the data section. The
    tensors, in the order of the header, cover the data section without hole or overlap.

Layout
    * Every tensor is ``F32``, ``F16``, ``BF16`` or ``I64``, or ``U8`` with the layout ``int8`` or ``int4``. Only
      ``F32`` and ``I64`` may have no dimensions. ``I64`` is for operators that compute with int64. As float32 a tensor
      takes at most 2**60 bytes. It begins on a 64-byte boundary. An exception is padding: ``U8`` tensors of one
      dimension, all zeros, whose names begin with ``streamrt.pad.``. Other tensors may not use that prefix.
    * All parameters of one node lie together. They form a *segment*, inside which only padding of less than 64 bytes
      lies. Segments are in the order of the graph's nodes, which is the order of execution. A parameter that several
      nodes read is stored once, in the segment of the first node. Every tensor is in a segment.
    * Less than 2 MiB of padding lie before a segment, and less than 4096 bytes behind the last one. So segments may
      share pages.
    * The data section begins on a 4096-byte boundary. The writer pads the header up to the next boundary and no
      further, because every opening reads the whole header.
    * The file ends on a 4096-byte boundary, so that pages of 4096 bytes with weights are whole.

What the writer does
    A reader does not depend on these rules, but equal models get equal files by them.

    * The file is at most 1 % larger than its tensors, or 64 KiB larger if that is more. Header and padding count.
    * Within that limit segments begin on pages of 4096 bytes, so that a tile takes no more pages than it must. The
      largest segments come first: all segments from some size on begin on pages, and that size is the smallest that
      the limit allows.
    * Of these segments, a segment of 1 MiB or more begins on the largest power of two, up to 2 MiB, before which the
      padding is at most 1/128 of the segment. The reason is that filesystems cache files in folios of up to 2 MiB, and
      only release whole folios.
    * The limit does not hold where the header alone is larger, or where thousands of tensors have a few bytes each:
      each tensor takes at least 64 bytes. Such a file has no other padding, except up to 4095 bytes at its end.

``__metadata__``
    It comes first in the header, and holds only strings. Keys that begin with ``streamrt.`` are the format's own,
    and these are all:

    ``streamrt.format``
        The version: ``"2"``. It is the first key, and the next key comes second. So the header begins with the bytes
        ``{"__metadata__":{"streamrt.format":"2","streamrt.header_crc32c":"XXXXXXXX"``.
    ``streamrt.header_crc32c``
        Eight lower-case hexadecimal digits: the CRC-32C of the first 8 + N bytes of the file, with these digits
        taken as ``00000000``. It is checked at every opening.
    ``streamrt.block_size``
        Bytes in a checksum block, a decimal number: a power of two from 4096 to 2**26. The writer uses 4 MiB.
    ``streamrt.block_crc32c``
        The CRC-32C of each block of the data section, eight digits each; the last block may be short. `verify` checks
        them.
    ``streamrt.graph``
        The graph as JSON text: see `streamrt.graph.Graph.to_json`. Operators and attributes have their ONNX names.
        An input or output has a ``dtype``, one of `streamrt.graph.TYPES`, unless it is float32.
        It may have up to 15 further ``cases``, each with ``outputs`` and ``nodes`` of its own, and the same inputs and
        names of outputs. The first case runs whose conditions hold (``If`` nodes).
        All cases together have at most 10,000 nodes, 50,000 inputs, 20,000 outputs and 262,144 numbers in lists of
        attributes. Infinite attributes are written ``Infinity`` and ``-Infinity``; NaN is not allowed.
    ``streamrt.layouts``
        A JSON object that maps names of tensors to ``{"layout", "shape"}``: the name of a layout, 1 to 64 characters,
        and the logical shape, which the graph means. The header's own shape is the shape of the bytes in the file. A
        tensor that is not named here is ``plain``: its bytes are its elements in row-major order, and both shapes are
        equal. The list of layouts is open: a new layout needs no new version. A reader refuses a file with a layout
        that it does not know, and names the tensor. The layouts so far are ``plain``, ``int8`` and ``int4``. The
        writer names no tensor that is plain, and leaves the key out if all are.

Integers with scales
    A tensor with the layout ``int8`` or ``int4`` has two logical dimensions or more. Axis 0 is the rows; a row has the
    elements of all other axes, at most 2**22. The tensor is ``U8`` of shape (rows, bytes of a row). Its entry in
    ``streamrt.layouts`` may have two more keys: ``block``, a multiple of 16 up to 2**22, and ``zeros``, 0 or 1. A row
    is cut into blocks of ``block`` elements, of which the last may be shorter. Without ``block`` a row is one block.
    Element k of a row, in block b, is ``(code[k] - zero[b]) * scale[b]``, rounded once to float32. The bytes of a row
    are

    * the scales of its blocks, float32; any number is valid, also a negative one and 0;
    * with ``zeros`` the zero points of its blocks, int8; without it they are 0;
    * the codes. With ``int8`` each is an int8. With ``int4`` they are from -8 to 7, and lie two in a byte, each plus 8.
      Of 32 codes the first 16 lie in the lower halves of 16 bytes, and the others in the upper halves. The last codes
      of a row, fewer than 32, take as many bytes as they have lower halves; upper halves that are left over are 0;
    * zeros up to a multiple of 4 bytes.

    So a row has all that is needed to compute with it, and rows lie in the order in which a tile reads them.

Version 1
    * ``streamrt.format`` is ``"1"``. There is no ``streamrt.layouts``, and all tensors but padding are ``F32``.
    * A segment of 1 MiB or more begins on a 2 MiB boundary of the file, a smaller segment on a 4096-byte boundary. The
      length of padding has no limit.

    `streamrt.pack` writes such a file anew, in version 2.

Equal graphs and tensors give equal bytes. Nothing in the file depends on the time, the machine, the instruction set or
the program that wrote it.

A reader treats the file as hostile: `read_header` checks everything above that can be checked without reading
the data.

Of the compiled core this package uses ``crc32c``, and what decodes weights.
"""

from streamrt.format.coding import BLOCK_STEP, INT64, MOST_INNER, UNCODED, Coding, values
from streamrt.format.conversion import is_weights_file, repack, stored_as, unpack
from streamrt.format.encoding import encoded, stored_rows
from streamrt.format.identity import FileIdentity
from streamrt.format.layout import Tensor
from streamrt.format.reader import WeightsFile, check_end, read_header, verify
from streamrt.format.writer import Segment, Source, write

__all__ = [
    "BLOCK_STEP",
    "INT64",
    "MOST_INNER",
    "UNCODED",
    "Coding",
    "FileIdentity",
    "Segment",
    "Source",
    "Tensor",
    "WeightsFile",
    "check_end",
    "encoded",
    "is_weights_file",
    "read_header",
    "repack",
    "stored_as",
    "stored_rows",
    "unpack",
    "values",
    "verify",
    "write",
]

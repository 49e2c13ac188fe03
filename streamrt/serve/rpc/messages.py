"""The classes of the messages, made from the compiled form of ``open_inference.proto``.

They are in a pool of descriptors of their own. protobuf's default pool is shared by the whole process, and a client of
Triton in the same process puts its messages there under the same names.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

#: The full name of the service.
SERVICE = "inference.GRPCInferenceService"

_POOL = DescriptorPool()
_kept: list[Any] = []  # classes of messages within messages: protobuf makes them anew when nothing refers to them
for _file in FileDescriptorSet.FromString(files(__package__).joinpath("open_inference.binpb").read_bytes()).file:
    _POOL.Add(_file)
    for _message in _POOL.FindFileByName(_file.name).message_types_by_name.values():
        _kept += map(GetMessageClass, [_message, *_message.nested_types])


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the service: its name, and the classes of its messages."""

    name: str
    request: Any
    response: Any


#: The methods of the service by name.
METHODS = {
    found.name: Method(found.name, GetMessageClass(found.input_type), GetMessageClass(found.output_type))
    for found in _POOL.FindServiceByName(SERVICE).methods
}

"""The messages of gRPC: the file that describes them, its compiled form, and the messages of Triton's own client.

The compiled form is made anew with grpcio-tools, in the folder of the file::

    python -m grpc_tools.protoc -I. --descriptor_set_out=open_inference.binpb open_inference.proto
"""

from __future__ import annotations

import re
import sys
from importlib.resources import files
from typing import Any

import pytest

from markers import needs

pytestmark = pytest.mark.extras
needs("grpc", "google.protobuf", "starlette", "prometheus_client")

from streamrt.serve.rpc.messages import METHODS  # noqa: E402

_TYPES = {
    "int64": 3,
    "uint64": 4,
    "int32": 5,
    "bool": 8,
    "string": 9,
    "bytes": 12,
    "uint32": 13,
    "float": 2,
    "double": 1,
}


def described(kind: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Number, type and repetition of every field of a message, and of messages within, by its full name."""
    for field in kind.fields:
        inner = field.message_type
        known = field.full_name in found
        found[field.full_name] = (field.number, inner.full_name if inner else field.type, field.is_repeated)
        if inner and not known:
            described(inner, found)
    return found


def all_fields(methods: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for method in methods:
        described(method[0], found)
        described(method[1], found)
    return found


OURS = [(method.request.DESCRIPTOR, method.response.DESCRIPTOR) for method in METHODS.values()]


def test_the_compiled_form_is_that_of_the_file() -> None:
    """A parser of the few forms that the file has."""
    text = re.sub(r"//.*", "", files("streamrt.serve.rpc").joinpath("open_inference.proto").read_text())
    names: list[str] = []
    found: dict[str, Any] = {}
    pattern = (
        r"message (?P<message>\w+) \{(?P<empty>\})?|oneof \w+ (?P<oneof>\{)|service \w+ (?P<service>\{)|(?P<end>\})"
        r"|(?P<repeated>repeated )?(?P<type>map<string, \w+>|\w+) (?P<name>\w+) = (?P<number>\d+);"
    )
    for match in re.finditer(pattern, text):
        if match["message"]:
            if not match["empty"]:
                names.append(match["message"])
        elif match["oneof"] or match["service"]:
            names.append("")
        elif match["end"]:
            names.pop()
        else:
            owner = ".".join(["inference", *filter(None, names)])
            kind: Any = _TYPES.get(match["type"])
            if match["type"].startswith("map"):
                entry = f"{owner}.{match['name'].title().replace('_', '')}Entry"
                value = match["type"].split()[1].rstrip(">")
                found |= {f"{entry}.key": (1, 9, False), f"{entry}.value": (2, f"inference.{value}", False)}
                kind = entry
            elif kind is None:
                inner = f"message {match['type']} {{" in text.partition(f"message {names[0]} ")[2].partition("\n}")[0]
                kind = f"{owner}.{match['type']}" if inner else f"inference.{match['type']}"
            repeated = bool(match["repeated"]) or match["type"].startswith("map")
            found[f"{owner}.{match['name']}"] = (int(match["number"]), kind, repeated)
    assert names == []
    assert len(found) > 60
    assert all_fields(OURS) == found
    methods = re.findall(r"rpc (\w+)\((\w+)\) returns \((\w+)\);", text)
    assert methods == [(name, m.request.DESCRIPTOR.name, m.response.DESCRIPTOR.name) for name, m in METHODS.items()]


def test_the_messages_are_those_of_tritons_client() -> None:
    theirs = pytest.importorskip("tritonclient.grpc").service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    methods = theirs.methods_by_name
    assert all_fields((methods[name].input_type, methods[name].output_type) for name in METHODS) == all_fields(OURS)
    for name, method in METHODS.items():
        assert methods[name].input_type.full_name == method.request.DESCRIPTOR.full_name
        assert methods[name].output_type.full_name == method.response.DESCRIPTOR.full_name
        # The classes are others: two sets of messages with these names are in one process.
        assert "tritonclient.grpc" in sys.modules
        assert methods[name].input_type is not method.request.DESCRIPTOR

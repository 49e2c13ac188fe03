"""Attacks on the graph."""

from __future__ import annotations

import json

from format.attacks.draft import Draft, attack, with_metadata


@attack("streamrt.graph is not JSON")
def graph_is_not_json() -> bytes:
    return with_metadata("streamrt.graph", "y = relu(x)")


@attack("graph: expected an object, found list")
def graph_is_a_list() -> bytes:
    return Draft(graph=[]).build()


@attack("streamrt.graph is nested too deeply")
def graph_nested_deeply() -> bytes:
    return with_metadata("streamrt.graph", '{"inputs":' + "[" * 100_000)


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


@attack("outputs\\[0\\].dtype: 'bfloat16', expected one of")
def graph_with_an_output_of_another_type() -> bytes:
    draft = Draft()
    draft.graph["outputs"][0]["dtype"] = "bfloat16"
    return draft.build()


@attack("outputs\\[0\\].dtype: \\['int64'\\], expected one of")
def graph_with_a_type_that_is_no_text() -> bytes:
    draft = Draft()
    draft.graph["outputs"][0]["dtype"] = ["int64"]
    return draft.build()


@attack("inputs\\[0\\].dtype: 'uint64', expected one of")
def graph_with_an_input_of_another_type() -> bytes:
    draft = Draft()
    draft.graph["inputs"][0]["dtype"] = "uint64"
    return draft.build()

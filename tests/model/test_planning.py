"""Plans are remembered, and replaced once when a pass has told how long its nodes compute."""

import pytest

from model import zoo
from streamrt.format import read_header
from streamrt.planning import Planner, Rates

MIB = 1 << 20
RATES = Rates(disk=2e9, memory=2e10, flops=1e11)


@pytest.fixture(scope="module")
def six_layers(tmp_path_factory):
    """Of 16 MiB each."""
    packed = zoo.mlp(tmp_path_factory.mktemp("planning"), *[2048] * 7)
    yield read_header(packed.path)
    packed.path.unlink()


def test_a_pass_that_computes_elsewhere_than_estimated_gets_another_plan(six_layers):
    planner = Planner(six_layers, 56 * MIB, RATES)
    graph, shapes = six_layers.graph, {six_layers.graph.inputs[0].name: (1, 2048)}
    first = planner.prepare(graph, shapes)
    assert planner.prepare(graph, dict(shapes)) is first
    count = len(graph.nodes)
    seconds = [0.02 if index < count // 2 else 0.0 for index in range(count)]
    planner.learn(first, seconds, RATES.disk * first.plan.efficiency)
    second = planner.prepare(graph, shapes)
    assert second is not first
    assert second.plan.seconds < first.plan.seconds + sum(seconds)

    def streamed(plan, nodes):
        return sum(
            r.length
            for tile in plan.tiles
            if tile.node in nodes
            for r in plan.ranges[tile.begin : tile.end]
            if not r.pinned
        )

    early = range(count // 2)
    assert streamed(second.plan, early) > streamed(first.plan, early)
    planner.learn(second, seconds[::-1], RATES.disk * second.plan.efficiency)  # it was looked at once
    assert planner.prepare(graph, shapes) is second


def test_what_a_pass_took_as_planned_changes_nothing(six_layers):
    planner = Planner(six_layers, 56 * MIB, RATES)
    graph, shapes = six_layers.graph, {six_layers.graph.inputs[0].name: (1, 2048)}
    first = planner.prepare(graph, shapes)
    seconds = [first.plan.seconds / len(graph.nodes)] * len(graph.nodes)
    planner.learn(first, seconds, RATES.disk * first.plan.efficiency)
    assert planner.prepare(graph, shapes) is first

"""The planner: the time that a call with a new shape takes before it computes."""

import pytest

from streamrt.plan import Extent, NodeWeights, make_plan

MIB = 1 << 20


@pytest.mark.parametrize("budget_mib", [8, 128, 1024])
def test_a_plan_for_3_gib(benchmark, budget_mib):
    size = 256 * MIB
    nodes = [NodeWeights((), (Extent(2 * MIB + i * size, size),), 8192) for i in range(12)]
    plan = benchmark(make_plan, nodes, file_size=2 * MIB + 12 * size, workspace=MIB, budget=budget_mib * MIB)
    assert plan.total <= budget_mib * MIB

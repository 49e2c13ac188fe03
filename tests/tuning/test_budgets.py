"""Which budgets are tried."""

from __future__ import annotations

from itertools import pairwise

import hypothesis
import pytest
from hypothesis import strategies

from streamrt.tuning.budgets import BETWEEN, closer, spread


@hypothesis.given(least=strategies.integers(1, 2**40), factor=strategies.floats(1, 2**20))
def test_budgets_go_from_the_least_to_the_most(least: int, factor: float) -> None:
    most = int(least * factor)
    found = spread(least, most)
    assert min(found) == least
    assert max(found) == most
    assert len(set(found)) == len(found) <= BETWEEN + 2
    if most > least:
        assert found[:2] == [most, least]


def test_both_ends_come_first_and_then_the_middle() -> None:
    mib = 1 << 20
    assert [budget // mib for budget in spread(mib, 64 * mib)] == [64, 1, 8, 4, 16, 2, 32]


@pytest.mark.parametrize(("least", "most"), [(100, 3000), (5 << 20, 3 << 30), (123_457, 987_654_321)])
def test_budgets_grow_by_about_equal_factors_and_are_readable(least: int, most: int) -> None:
    found = sorted(spread(least, most))
    factor = (most / least) ** (1 / (BETWEEN + 1))
    for before, after in pairwise(found):
        assert factor / 1.25 < after / before < factor * 1.25
    for budget in found[1:-1]:
        assert budget >> budget.bit_length() - 3 << budget.bit_length() - 3 == budget


def test_a_single_budget_if_there_is_room_for_the_least_only() -> None:
    assert spread(100, 100) == spread(100, 90) == [100]


def test_closer_halves_the_gap_below_the_knee() -> None:
    mib = 1 << 20
    assert closer([mib, 4 * mib, 16 * mib, 64 * mib], 16 * mib) == 8 * mib
    assert closer([64 * mib, 16 * mib], 16 * mib) is None  # the knee is the smallest
    tried, knee = [mib, 16 * mib], 16 * mib
    while (further := closer(tried, knee)) is not None:
        assert max(budget for budget in tried if budget < knee) < further < knee
        tried.append(further)
    assert 13 * mib < max(budget for budget in tried if budget < knee) < knee  # it ends within 1/8 of the knee

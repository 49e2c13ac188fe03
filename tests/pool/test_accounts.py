"""The ledger, and the decisions about memory in all situations."""

from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamrt.pool.admission import SLACK_SHARE, STEPS, Grant, Holding, Needs, Slack, decide, freely, make_room
from streamrt.pool.ledger import Ledger

NAMES = "abcdefgh"


class LedgerMachine(RuleBasedStateMachine):
    """A ledger, compared with a dictionary after each step."""

    def __init__(self):
        super().__init__()
        self.ledger, self.held, self.peak = Ledger(100), dict.fromkeys("abc", 0), 0

    @rule(who=st.sampled_from("abc"), size=st.integers(-5, 120))
    def take(self, who, size):
        if 0 <= size <= 100 - sum(self.held.values()):
            self.ledger.take(who, size)
            self.held[who] += size
        else:
            with pytest.raises(ValueError, match="bytes to take, and only"):
                self.ledger.take(who, size)

    @rule(who=st.sampled_from("abc"), size=st.integers(-5, 120))
    def give_back(self, who, size):
        if 0 <= size <= self.held[who]:
            self.ledger.give_back(who, size)
            self.held[who] -= size
        else:
            with pytest.raises(ValueError, match="bytes to give back, and only"):
                self.ledger.give_back(who, size)

    @rule(giver=st.sampled_from("abc"), taker=st.sampled_from("abc"), share=st.floats(0, 1))
    def move(self, giver, taker, share):
        size = int(self.held[giver] * share)
        self.ledger.move(giver, taker, size)
        self.held[giver] -= size
        self.held[taker] += size

    @invariant()
    def agrees(self):
        self.peak = max(self.peak, sum(self.held.values()))
        assert {who: self.ledger.held(who) for who in "abc"} == self.held
        assert self.ledger.total == sum(self.held.values())
        assert self.ledger.total + self.ledger.free == 100
        assert self.ledger.peak == self.peak


TestLedger = LedgerMachine.TestCase


def needed(weights, least, window, workspace, spare, step):
    """`Needs`; if ``step`` is None, of a model whose window has all weights."""
    window, step = (weights, weights) if step is None else (window, step)
    return Needs(weights, workspace, min(least, weights), window, min(spare, workspace), step)


needs = st.builds(
    needed,
    st.integers(1, 400),
    st.integers(1, 40),
    st.integers(1, 60),
    st.integers(0, 60),
    st.sampled_from([0, 0, 20]),
    st.sampled_from([None, 1, 30]),
)


@st.composite
def situations(draw):
    """A budget, holdings of some models within it, the requested model (which is idle), and the worth of each model."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=8, unique=True))
    holdings = {}
    for name in names:
        needed = draw(needs)
        pinned = needed.weights if draw(st.booleans()) else needed.floor(draw(st.integers(0, needed.weights)))
        fixed = draw(st.booleans())
        working = draw(st.integers(0, 80)) if pinned or fixed else draw(st.sampled_from([0, 10]))
        holdings[name] = Holding(needed, pinned, working, fixed, draw(st.booleans()) and draw(st.booleans()))
    name = names[0]
    if draw(st.booleans()):
        holdings[name] = replace(holdings[name], pinned=0, working=0)
    holdings[name] = replace(holdings[name], fixed=False)
    budget = sum(holding.total for holding in holdings.values()) + draw(st.integers(0, 300))
    assume(budget > 0)
    worths = {other: draw(st.integers(0, 5)) for other in names}
    return budget, holdings, name, worths


def decided(situation, spare=None):
    budget, holdings, name, worths = situation
    if spare is None:
        fits = sum(holding.needs.full for holding in holdings.values()) <= budget
        spare = 0 if fits else budget // SLACK_SHARE
    return decide(budget, spare, holdings, name, worths.__getitem__, lambda other: worths[name] > worths[other])


def after(situation, grant):
    _, holdings, name, _ = situation
    left = {shrink.name: shrink.pinned + shrink.working for shrink in grant.shrinks}
    return {other: left.get(other, holding.total) for other, holding in holdings.items()} | {name: grant.total}


@given(situations())
def test_never_over_the_budget(situation):
    if grant := decided(situation):
        assert sum(after(situation, grant).values()) <= situation[0]


@given(situations(), st.integers(0, 40))
def test_what_is_granted_without_a_decision_is_what_would_be_decided(situation, slack):
    budget, holdings, name, _ = situation
    free = budget - sum(holding.total for holding in holdings.values())
    grant = freely(holdings[name], free, slack)
    needed = holdings[name].needs
    if grant:
        assert grant == decided(situation, slack)
    else:
        assert holdings[name].total + free < max(needed.full + slack, needed.comfort)


@given(situations())
def test_leased_models_give_nothing_kept_models_no_weights_and_no_model_gains(situation):
    _, holdings, name, _ = situation
    grant = decided(situation)
    for shrink in grant.shrinks if grant else ():
        before = holdings[shrink.name]
        assert shrink.name != name
        assert not before.fixed
        assert shrink.pinned <= before.pinned
        assert shrink.working <= before.working
        assert shrink.pinned + shrink.working < before.total
        assert shrink.pinned == before.pinned or not before.kept
    assert len({shrink.name for shrink in grant.shrinks}) == len(grant.shrinks) if grant else True


@given(situations())
def test_a_grant_is_enough_to_run(situation):
    _, holdings, name, _ = situation
    if grant := decided(situation):
        needed = holdings[name].needs
        assert grant.total >= needed.minimum
        if grant.pinned < needed.weights:  # it streams, and pinned weights are no window
            assert grant.working >= needed.minimum or grant.total == holdings[name].total
        assert 0 <= grant.pinned <= needed.weights
        assert grant.working >= 0


@given(situations())
def test_no_request_waits_for_memory_that_is_not_leased(situation):
    budget, holdings, name, _ = situation
    leased = sum(holding.total for other, holding in holdings.items() if other != name and holding.fixed)
    kept = sum(
        holding.pinned for other, holding in holdings.items() if other != name and holding.kept and not holding.fixed
    )
    assert (decided(situation) is None) == (budget - leased - kept < holdings[name].needs.minimum)


@given(situations())
@example(
    (
        3,
        {"a": Holding(Needs(16, 1, 1, 2), pinned=2), "d": Holding(Needs(1, 0, 1, 1), pinned=1)},
        "a",
        {"a": 0, "d": 0},
    )
)
@example(
    (
        3,
        {"a": Holding(Needs(3, 2, 1, 1, 2), pinned=1, working=1), "b": Holding(Needs(1, 0, 1, 1), pinned=1)},
        "a",
        {"a": 0, "b": 0},
    )
)
@example(
    (
        5,
        {"a": Holding(Needs(3, 3, 3, 1, 3), pinned=1, working=3), "b": Holding(Needs(1, 0, 1, 1), pinned=1)},
        "a",
        {"a": 0, "b": 0},
    )
)
def test_better_models_give_weights_only_for_a_window_that_could_not_be_smaller(situation):
    _, holdings, name, worths = situation
    grant = decided(situation)
    if grant is None or holdings[name].kept:
        return
    for shrink in grant.shrinks:
        before = holdings[shrink.name]
        if shrink.pinned < before.pinned and worths[shrink.name] >= worths[name]:
            needed = holdings[name].needs
            assert grant.pinned <= max(needed.ceil(holdings[name].pinned), 0) or grant.pinned == needed.weights
            streaming = needed.workspace + needed.least
            assert grant.working <= max(streaming, needed.workspace)


def could_be_had(situation):
    """Bytes: free, in idle windows, the rest of worse models, and large working memory plus worse models' weights."""
    budget, holdings, name, worths = situation
    others = {other: holding for other, holding in holdings.items() if other != name and not holding.fixed}
    worse = [holding for other, holding in others.items() if not holding.kept and worths[name] > worths[other]]
    free = budget - sum(holding.total for holding in holdings.values())
    windows = sum(holding.working for holding in others.values() if holding.streams)
    rest = sum(holding.total if not holding.streams else holding.pinned for holding in worse)
    large = (h.working for h in others.values() if h.streams or h in worse or h.working >= h.needs.step)
    working = sum(large)
    return free, windows, rest, working + sum(holding.pinned for holding in worse)


@given(situations())
def test_models_give_weights_only_when_windows_are_not_enough(situation):
    _, holdings, name, _ = situation
    grant = decided(situation)
    if grant is None or not any(shrink.pinned < holdings[shrink.name].pinned for shrink in grant.shrinks):
        return
    free, windows, _, _ = could_be_had(situation)
    assert grant.total - holdings[name].total > free + windows


@given(situations())
def test_better_models_give_workspaces_only_when_worse_models_have_nothing_left(situation):
    _, holdings, name, worths = situation
    grant = decided(situation)
    for shrink in grant.shrinks if grant else ():
        before = holdings[shrink.name]
        if before.streams or not (before.kept or worths[shrink.name] >= worths[name]):
            continue
        free, windows, rest, working = could_be_had(situation)
        assert grant.total - holdings[name].total > free + windows + rest
        assert shrink.pinned == before.pinned or grant.total - holdings[name].total > free + working


@given(situations())
def test_models_give_at_most_a_step_too_much(situation):
    budget, holdings, name, _ = situation
    if grant := decided(situation):
        free = budget - sum(holding.total for holding in holdings.values())
        given = sum(holdings[shrink.name].total - shrink.pinned - shrink.working for shrink in grant.shrinks)
        wanted = max(0, grant.total - holdings[name].total - free)
        largest = max(
            [
                max(holding.working, holding.needs.step, holding.needs.weights // STEPS + STEPS)
                for holding in (holdings[shrink.name] for shrink in grant.shrinks)
            ],
            default=0,
        )
        assert given <= wanted + largest


def test_when_all_fits_all_is_pinned():
    holdings = {name: Holding(Needs(100, 10, 5, 20)) for name in NAMES}
    budget = 8 * 110
    spare = Slack(budget)
    for name in NAMES:
        spare.note(60)
        size = spare.size(sum(holding.needs.full for holding in holdings.values()))
        grant = decide(budget, size, holdings, name, lambda other: 0, lambda other: False)
        assert grant == Grant(100, 10, ())
        holdings[name] = replace(holdings[name], pinned=100, working=10)


def test_slack_is_the_working_memory_of_recent_requests():
    spare, everybody = Slack(1600), 2010
    assert spare.size(everybody) == 0
    spare.note(50)
    spare.note(30)
    assert 48 <= spare.size(everybody) <= 50
    for _ in range(200):
        spare.note(30)
    assert spare.size(everybody) == 30
    spare.note(1000)
    assert spare.size(everybody) == 1600 // SLACK_SHARE
    assert spare.size(1510) == 0  # the budget has room for all


def test_a_first_request_beside_better_models_streams_and_takes_no_weights():
    holdings = {
        "good": Holding(Needs(900, 10, 5, 20), 900, 10),
        "new": Holding(Needs(500, 10, 5, 60)),
    }
    grant = decide(1000, 62, holdings, "new", lambda other: 1, lambda other: False)
    assert grant == Grant(0, 70, ())
    better = decide(1000, 62, holdings, "new", lambda other: 1, lambda other: True)
    assert better == Grant(500, 10, (shrink_to("good", 448),))


def test_better_models_give_a_window_of_a_good_size_if_they_lose_little():
    """A tiny window reads slowly, request after request. It costs better models 1/16 of the budget once."""
    holdings = {f"good{index}": Holding(Needs(80, 0, 5, 80, step=80), 80) for index in range(20)}
    holdings["new"] = Holding(Needs(70, 10, 5, window=70, step=70))
    grant = decide(1610, 0, holdings, "new", lambda other: 1, lambda other: False)
    assert grant == Grant(0, 80, (shrink_to("good0", 0),))
    holdings["other"] = Holding(Needs(70, 10, 5, window=70, step=70), 0, 80, fixed=True)  # it streams, and has its own
    grant = decide(1695, 0, holdings, "new", lambda other: 1, lambda other: False)
    assert grant == Grant(0, 15, ())  # better models have given enough
    holdings = {"good": Holding(Needs(1600, 0, 5, 80, step=1600), 1600), "new": holdings["new"]}
    grant = decide(1615, 0, holdings, "new", lambda other: 1, lambda other: False)
    assert grant == Grant(0, 15, ())


def test_a_small_model_has_all_weights_in_its_window_and_keeps_them_if_it_is_worth_more():
    small = Needs(50, 10, 5, window=50, step=50)
    holdings = {"good": Holding(Needs(900, 10, 5, 20, step=900), 900, 10), "new": Holding(small)}
    assert decide(1000, 62, holdings, "new", lambda other: 1, lambda other: False) == Grant(0, 60, ())
    assert decide(980, 60, holdings, "new", lambda other: 1, lambda other: False) == Grant(0, 60, ())
    assert decide(950, 60, holdings, "new", lambda other: 1, lambda other: False) == Grant(0, 40, ())  # it streams
    holdings["new"] = Holding(small, 0, 60)  # still there when it is requested again
    assert decide(980, 60, holdings, "new", lambda other: 1, lambda other: False) == Grant(0, 60, ())
    assert decide(980, 60, holdings, "new", lambda other: 1, lambda other: True) == Grant(50, 10, ())


def test_the_weights_in_a_window_go_first_and_small_workspaces_are_not_worth_taking():
    small, large = Needs(50, 10, 5, window=50, step=50), Needs(800, 10, 5, 20, step=20)
    holdings = {
        "kept": Holding(small, 50, 10),
        "large": Holding(large, 800, 10),
        "window": Holding(small, 0, 60),
    }
    idle = list(holdings)
    assert make_room(holdings, idle, idle, 60) == (shrink_to("window", 0),)
    assert make_room(holdings, idle, [], 61) == (shrink_to("window", 0), shrink_to("kept", 50))
    assert make_room(holdings, idle, [], 71) == (shrink_to("window", 0), shrink_to("kept", 0))
    assert make_room(holdings, ["large"], [], 30) == (shrink_to("large", 700),)  # steps of 1/8


def shrink_to(name, pinned):
    from streamrt.pool.admission import Shrink

    return Shrink(name, pinned, 0)


def test_part_of_a_model_is_given_up_and_the_rest_stays():
    holdings = {"old": Holding(Needs(800, 0, 1, 1), 800, 0), "new": Holding(Needs(100, 0, 1, 1))}
    grant = decide(800, 0, holdings, "new", lambda other: 0, lambda other: True)
    assert grant == Grant(100, 0, (shrink_to("old", 700),))


@given(st.integers(1, 10_000), st.integers(0, 12_000), st.sampled_from([1, 500, 10_000]))
def test_amounts_of_weights_are_steps_or_all(weights, size, least):
    needed = Needs(weights, 0, 1, 1, step=least)
    floor, ceil = needed.floor(size), needed.ceil(size)
    step = max(least, weights // STEPS)
    assert floor <= size
    assert floor <= ceil <= weights
    assert floor == weights or floor % step == 0
    assert size >= weights or size - floor < step + STEPS
    assert ceil >= min(size, weights) or ceil == needed.floor(weights - 1)


def test_room_that_cannot_be_made_is_not_made():
    holdings = {"a": Holding(Needs(80, 0, 1, 1), 80, 5)}
    assert make_room(holdings, ["a"], ["a"], 86) is None
    kept = {"a": Holding(Needs(80, 0, 1, 1), 80, 5, kept=True)}
    assert make_room(kept, ["a"], [], 6) is None
    assert make_room(kept, ["a"], [], 5) == (shrink_to("a", 80),)
    assert make_room(holdings, ["a"], ["a"], 0) == ()


def test_room_comes_from_windows_then_worse_models_then_better_workspaces():
    holdings = {
        "worse": Holding(Needs(80, 5, 1, 1), 80, 5),
        "streams": Holding(Needs(80, 5, 1, 1), 40, 6),
        "better": Holding(Needs(80, 5, 1, 1), 80, 5),
    }
    idle = list(holdings)
    assert make_room(holdings, idle, ["worse"], 6) == (shrink_to("streams", 40),)
    assert make_room(holdings, idle, ["worse"], 11) == (shrink_to("streams", 40), shrink_to("worse", 80))
    assert make_room(holdings, idle, ["worse"], 91) == (shrink_to("streams", 40), shrink_to("worse", 0))
    *_, last = make_room(holdings, idle, ["worse"], 92)
    assert last == shrink_to("better", 80)

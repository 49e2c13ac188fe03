"""Policies and shadows by themselves, on the traces by which the policies were chosen."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.pool import limits, traces
from streamrt.pool.adaptive import POLICIES, Adaptive
from streamrt.pool.policy import Gdsf, Lrfu, Lru
from streamrt.pool.shadow import Shadow

SIZES = {f"m{i}": int(2 ** (i % 7) * 100) for i in range(60)}
BUDGET = sum(SIZES.values()) // 5


def played(policy, trace, budget=BUDGET, sizes=SIZES):
    """Bytes that a policy loads on a trace."""
    shadow = Shadow(budget, policy)
    total = 0
    for name in trace:
        total += shadow.request(name, sizes[name], float(sizes[name]))
        assert shadow.held <= budget
    return total


def zipf(alpha, count=6000):
    r = random.Random(3)
    names = list(SIZES)
    r.shuffle(names)
    return r.choices(names, [1 / (rank + 1) ** alpha for rank in range(len(names))], k=count)


def cyclic(count=6000):
    return [f"m{i % len(SIZES)}" for i in range(count)]


def bursts(count=6000):
    r, trace = random.Random(4), []
    while len(trace) < count:
        trace += [r.choice(list(SIZES))] * 15
    return trace


def best_fixed(trace):
    """Bytes loaded with the best fixed set of bytes: each of its bytes once, every other byte at each request."""
    counts = {name: trace.count(name) for name in SIZES}
    room, total = BUDGET, 0
    for name in sorted(SIZES, key=lambda name: -counts[name]):
        kept = min(room, SIZES[name])
        room -= kept
        total += SIZES[name] * counts[name] - kept * max(0, counts[name] - 1)
    return total


def test_lru_gives_up_the_model_that_was_unused_longest():
    policy = Lru()
    for name in "abca":
        policy.requested(name, 1, 1.0)
    assert sorted("abc", key=policy.worth) == ["b", "c", "a"]
    assert policy.admits("b", "a")
    policy.forget("a")
    assert policy.worth("a") == 0


def test_gdsf_weighs_requests_cost_and_size_above_a_rising_clock():
    policy = Gdsf()
    for name, size, cost in [("often", 10, 1.0), ("often", 10, 1.0), ("slow", 10, 5.0), ("large", 100, 1.0)]:
        policy.requested(name, size, cost)
    assert sorted(["often", "slow", "large"], key=policy.worth) == ["large", "often", "slow"]
    assert policy.admits("slow", "often")
    assert not policy.admits("large", "often")
    policy.requested("new", 10, 1.0)
    assert policy.worth("new") < policy.worth("often")
    policy.evicted("slow")  # a new model is worth more than one that was popular once
    policy.requested("newer", 10, 1.0)
    assert policy.worth("newer") > policy.worth("slow") > policy.worth("often")


def test_lrfu_halves_the_weight_of_a_request():
    policy = Lrfu(2)
    for name in "aaab":
        policy.requested(name, 1, 1.0)
    assert policy.worth("b") == 1.0
    assert policy.worth("a") == pytest.approx((1 + 0.5**0.5 + 0.5) * 0.5**0.5)
    assert not policy.admits("b", "a")
    for _ in range(4):
        policy.requested("c", 1, 1.0)
    assert policy.worth("b") == 0.25
    policy.requested("d", 1, 1.0)
    assert policy.admits("d", "a")
    policy.forget("a")
    assert policy.worth("a") == 0


def test_a_margin_keeps_equals_from_being_exchanged():
    policy = Gdsf(1.5)
    for name, count in [("a", 4), ("b", 5)]:
        for _ in range(count):
            policy.requested(name, 1, 1.0)
    assert not policy.admits("b", "a")
    policy.requested("b", 1, 1.0)
    policy.requested("b", 1, 1.0)
    assert policy.admits("b", "a")


@pytest.mark.parametrize("alpha", [0.6, 0.9, 1.2])
def test_the_default_comes_close_to_the_best_fixed_set_on_zipf(alpha):
    trace = zipf(alpha)
    assert played(Adaptive(BUDGET), trace) <= 1.10 * best_fixed(trace)
    assert played(Lru(), trace) > 1.15 * best_fixed(trace)


def test_the_default_comes_close_to_the_best_fixed_set_on_cycles_where_recency_gains_nothing():
    trace = cyclic()
    assert played(Adaptive(BUDGET), trace) <= 1.01 * best_fixed(trace)
    assert played(Lru(), trace) == sum(SIZES[name] for name in trace)


def test_the_default_follows_recency_through_bursts():
    trace = bursts()
    assert played(Adaptive(BUDGET), trace) <= 1.05 * played(Lru(), trace)
    assert played(Gdsf(1.3), trace) > 2 * played(Lru(), trace)


@pytest.mark.parametrize("name", traces.TRACES)
def test_the_default_loads_less_than_pools_of_whole_models(name):
    drawn = random.Random(1)
    sizes = [max(1, int(drawn.lognormvariate(0, 1) * 1.6 * 2**20)) for _ in range(200)]
    budget, against_lru, against_best = sum(sizes) // 5, [], []
    by_name = {str(model): size for model, size in enumerate(sizes)}
    for seed in range(5):
        trace = traces.TRACES[name](200, 5000, seed)
        loaded = played(Adaptive(budget), map(str, trace), budget, by_name)
        against_lru.append(loaded / limits.whole_lru(trace, sizes, budget))
        against_best.append(loaded / limits.best_fixed(trace, sizes, budget))
    assert sum(against_lru) / len(against_lru) < 1
    assert name not in traces.STATIONARY or max(against_best) <= 1.15


def test_the_default_changes_its_leader():
    policy = Adaptive(BUDGET)
    leaders = []
    for trace in (zipf(0.9), bursts(), cyclic(20000)):
        played(policy, trace)
        leaders.append(type(policy.leader))
    assert leaders == [Gdsf, Lru, Gdsf]


@given(
    st.sampled_from(sorted(POLICIES)),
    st.integers(1, 500),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=80),
)
def test_a_shadow_never_holds_more_than_its_budget(name, budget, events):
    shadow = Shadow(budget, POLICIES[name](budget))
    sizes = [1, 3, 10, 30, 90, 100, 200, 400, 600, 1000]
    for which, event in events:
        if event == 0:
            shadow.forget(str(which))
        else:
            missing = shadow.request(str(which), sizes[which], float(sizes[which]))
            assert 0 <= missing <= sizes[which]
        assert shadow.held <= budget

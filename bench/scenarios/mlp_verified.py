"""The time that comparing weights with their checksums takes, as they arrive."""

from bench.scenarios.case import MIB, Case, Scenario

_MODEL, _SMALL = "mlp-12x8192", "mlp-12x2048"


def _case(model: str, batch: int, cap: int, budget: str, verify: bool) -> Case:
    return Case("passes", ("steady",), model, batch, cap, budget, cold=True, verify=verify)


SCENARIO = Scenario(
    name="mlp-verified",
    title="Checksums of weights as they arrive",
    says="12 layers of 8192 x 8192 with ReLU, 3 GiB of float32 weights, in a memory cgroup of 1 GiB, with and without "
    '`verify="read"`.',
    cases=tuple(_case(_MODEL, batch, 1024 * MIB, "auto", verify) for batch in (1, 256) for verify in (False, True)),
    seconds=5.0,
    rounds=5,
    quick=tuple(_case(_SMALL, 1, 160 * MIB, "48MiB", verify) for verify in (False, True)),
    limits=False,
    peers=frozenset({"streamrt"}),
)

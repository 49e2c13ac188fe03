"""Recurrent layers, compared with their equations in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from coded import examples
from ops.harness import assert_close, lowered_for, random, run
from ops.test_coded import check
from streamrt.errors import FormatError

Values = NDArray[np.float64]

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STATES = {"RNN": 1, "GRU": 1, "LSTM": 2}
#: The activations, as functions of x, alpha and beta, and alpha and beta for a test.
FUNCTIONS: dict[str, tuple[Callable[..., Values], float, float]] = {
    "Affine": (lambda x, a, b: a * x + b, 0.5, 0.25),
    "Elu": (lambda x, a, b: np.where(x > 0, x, a * np.expm1(x)), 0.7, 0.0),
    "HardSigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), 0.3, 0.4),
    "LeakyRelu": (lambda x, a, b: np.where(x > 0, x, a * x), 0.2, 0.0),
    "Relu": (lambda x, a, b: np.maximum(x, 0), 0.0, 0.0),
    "ScaledTanh": (lambda x, a, b: a * np.tanh(b * x), 1.5, 0.5),
    "Sigmoid": (lambda x, a, b: 1 / (1 + np.exp(-x)), 0.0, 0.0),
    "Softplus": (lambda x, a, b: np.log1p(np.exp(x)), 0.0, 0.0),
    "Softsign": (lambda x, a, b: x / (1 + np.abs(x)), 0.0, 0.0),
    "Tanh": (lambda x, a, b: np.tanh(x), 0.0, 0.0),
    "ThresholdedRelu": (lambda x, a, b: np.where(x > a, x, 0), 0.3, 0.0),
}
DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}


def functions(op: str, attrs: dict[str, Any]) -> list[Callable[[Values], Values]]:
    names = attrs["activations"].split(",") if "activations" in attrs else DEFAULTS[op]
    none = (0.0,) * len(names)
    numbers = zip(names, attrs.get("activation_alpha", none), attrs.get("activation_beta", none), strict=True)
    return [lambda x, n=name, a=alpha, b=beta: FUNCTIONS[n][0](x, a, b) for name, alpha, beta in numbers]


def expected(op: str, inputs: list[Any], attrs: dict[str, Any]) -> list[Values]:
    """All outputs, by the equations of ONNX."""
    x, r, bias, h, c, peephole = (None if v is None else v.astype(float) for v in (*inputs, *[None] * 6)[:6])
    assert x is not None
    assert r is not None
    by_sample = attrs.get("layout", 0)
    if by_sample:
        x = x.swapaxes(0, 1)
    hidden = r.shape[1]
    h, c = (np.zeros((x.shape[1], hidden)) if state is None else state.reshape(-1, hidden) for state in (h, c))
    bias = np.zeros(len(r)) if bias is None else bias
    to_i, to_o, to_f = np.zeros((3, hidden)) if peephole is None else peephole.reshape(3, hidden)
    limit = attrs.get("clip", np.inf)
    f, *others = ((lambda v, k=k: k(np.clip(v, -limit, limit))) for k in functions(op, attrs)[:2])
    outer = functions(op, attrs)[-1]
    r_t, steps = r.T, []
    for row in x[::-1] if attrs.get("direction") == "reverse" else x:
        if op == "RNN":
            h = f(row + h @ r_t + bias)
        elif op == "GRU":
            (g,) = others
            z, reset, new = np.split(row, 3, -1)
            (z_t, reset_t, new_t), (z_b, reset_b, new_b) = np.split(r_t, 3, -1), np.split(bias, 3)
            z, reset = f(z + h @ z_t + z_b), f(reset + h @ reset_t + reset_b)
            if attrs.get("linear_before_reset"):
                new = g(new + reset * (h @ new_t + new_b))
            else:
                new = g(new + (reset * h) @ new_t + new_b)
            h = (1 - z) * new + z * h
        else:
            (g,) = others
            i, o, forget, new = np.split(row + h @ r_t + bias, 4, -1)
            i, forget = f(i + to_i * c), f(forget + to_f * c)
            if attrs.get("input_forget"):
                forget = 1 - i
            c = forget * c + i * g(new)
            h = f(o + to_o * c) * outer(c)
        steps.append(h)
    if attrs.get("direction") == "reverse":
        steps.reverse()
    y, last = np.stack(steps)[:, None], [h[None], c[None]][: STATES[op]]
    return [y.transpose(2, 0, 1, 3), *(v.swapaxes(0, 1) for v in last)] if by_sample else [y, *last]


def inputs_of(
    op: str, steps: int = 5, samples: int = 3, hidden: int = 7, *, layout: int = 0, states: bool = True
) -> list[Any]:
    rows = GATES[op] * hidden
    x = random(*((samples, steps) if layout else (steps, samples)), rows)
    state = (samples, 1, hidden) if layout else (1, samples, hidden)
    first = [random(*state, seed=3 + index) if states else None for index in range(STATES[op])]
    return [x, random(rows, hidden, seed=1), random(rows, seed=2), *first]


def compare(op: str, inputs: list[Any], params: list[int], attrs: dict[str, Any], cuts: tuple[int, ...] = ()) -> None:
    wanted = expected(op, inputs, attrs)
    found = run(op, inputs, params, cuts=cuts, attrs=attrs, outputs=len(wanted))
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, least=2.0)  # sums before activations are about 10: 4e-6 are four of their last places


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("op", GATES)
def test_every_tile_reads_its_rows(isa: str, op: str, layout: int, direction: str) -> None:
    """Tiles within a step, of a step, and over several steps."""
    rows = GATES[op] * 7
    cuts = (2, rows, rows + 3, rows + 5, 3 * rows, 4 * rows + 6)
    attrs = {"direction": direction, "layout": layout}
    for samples in (1, 3):
        compare(op, inputs_of(op, samples=samples, layout=layout), [1, 2], attrs, cuts)


@pytest.mark.parametrize("linear_before_reset", [0, 1])
def test_tiles_of_a_gru_end_between_gates_and_within(linear_before_reset: int) -> None:
    for cuts in [(7,), (14,), (13, 15), (14, 20, 21, 35, 36), (30, 34)]:
        compare("GRU", inputs_of("GRU"), [1, 2], {"linear_before_reset": linear_before_reset}, cuts)


@pytest.mark.parametrize("samples", [1, 5, 16, 40, 1100])
@pytest.mark.parametrize("op", GATES)
def test_any_number_of_samples(isa: str, op: str, samples: int) -> None:
    """Each kernel of a dense layer takes another number of samples."""
    compare(op, inputs_of(op, 3, samples, 20), [1, 2], {}, (9, 31))


@pytest.mark.parametrize("op", GATES)
def test_inputs_that_are_left_out(op: str) -> None:
    x, r, bias, h, *c = inputs_of(op)
    compare(op, [x, r], [1], {})
    compare(op, [x, r, bias], [1, 2], {})
    compare(op, [x, r, None, h], [1, 3], {}, (3,))  # a parameter, which only the first tile may read
    compare(op, [x, r, None, None, *c], [1], {})


def test_a_gru_with_a_bias_before_its_reset_gate() -> None:
    compare("GRU", inputs_of("GRU"), [1, 2, 3], {"linear_before_reset": 1}, (3, 20))


@pytest.mark.parametrize("clip", [None, 0.4])
@pytest.mark.parametrize("input_forget", [0, 1])
@pytest.mark.parametrize("peephole", [False, True])
def test_lstm_variants(peephole: bool, input_forget: int, clip: float | None) -> None:
    inputs = [*inputs_of("LSTM"), *([random(21, seed=9)] if peephole else [])]
    attrs = {"input_forget": input_forget} | ({} if clip is None else {"clip": clip})
    compare("LSTM", inputs, [1, 2, 5][: 2 + peephole], attrs, (5, 30))


@pytest.mark.parametrize("op", ["RNN", "GRU"])
def test_clip(op: str) -> None:
    compare(op, inputs_of(op), [1, 2], {"clip": 0.4})


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("op", GATES)
def test_activations(op: str, name: str) -> None:
    """A function in every place, once with its own numbers and once with ONNX's, as far as there are any."""
    _, alpha, beta = FUNCTIONS[name]
    for place in range(len(DEFAULTS[op])):
        names = [*DEFAULTS[op]]
        names[place] = name
        numbers = {
            "activation_alpha": tuple(alpha if n == name else 0.0 for n in names),
            "activation_beta": tuple(beta if n == name else 0.0 for n in names),
        }
        inputs = inputs_of(op)
        inputs[1] = inputs[1] / 4  # without bounded activations states grow
        compare(op, inputs, [1, 2], {"activations": ",".join(names)} | numbers)
    defaults = {"Elu": 1.0, "HardSigmoid": (0.2, 0.5), "LeakyRelu": 0.01, "ThresholdedRelu": 1.0}
    attrs = {"activations": ",".join([name] * len(DEFAULTS[op]))}
    if name in ("Affine", "ScaledTanh"):
        with pytest.raises(FormatError, match=f"activation {name} has no default"):
            lowered_for(op, [v.shape for v in inputs], [1, 2], attrs=attrs)
    elif name in defaults:
        a, b = (defaults[name], 0.0) if isinstance(defaults[name], float) else defaults[name]
        given = attrs | {"activation_alpha": (a,) * len(DEFAULTS[op]), "activation_beta": (b,) * len(DEFAULTS[op])}
        for one, other in zip(run(op, inputs, [1, 2], attrs=attrs), run(op, inputs, [1, 2], attrs=given), strict=True):
            np.testing.assert_array_equal(one, other)


def test_extreme_sums() -> None:
    x = np.array([[[-np.inf, -3e38, 3e38, 2.0]]], np.float32)
    zero = np.zeros((4, 4), np.float32)
    for name, wanted in (("ThresholdedRelu", [0, 0, 3e38, 2]), ("Sigmoid", [0, 0, 1, 1 / (1 + np.exp(-2))])):
        (y,) = run("RNN", [x, zero], [1], attrs={"activations": name})
        assert_close(y.reshape(-1), np.array(wanted))


def test_the_activation_of_the_node_is_applied_once() -> None:
    inputs = inputs_of("LSTM")
    y, h, c = expected("LSTM", inputs, {})
    found = run("LSTM", inputs, [1, 2], cuts=(3, 28, 40), outputs=3, activation=("Relu", {}))
    for one, other in zip(found, (np.maximum(y, 0), h, c), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("op", GATES)
def test_a_sample_does_not_depend_on_the_others(op: str) -> None:
    """Also with ``layout=0``, where samples lie along axis 1."""
    inputs = inputs_of(op, samples=4)
    whole = run(op, inputs, [1, 2], outputs=1 + STATES[op])
    for sample in range(4):
        one = [v if i in (1, 2) else v[:, sample : sample + 1] for i, v in enumerate(inputs)]
        for index, part in enumerate(run(op, one, [1, 2], outputs=1 + STATES[op])):
            wanted = whole[index][:, :, sample : sample + 1] if index == 0 else whole[index][:, sample : sample + 1]
            np.testing.assert_allclose(part, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("samples", [1, 20])
@pytest.mark.parametrize("op", GATES)
def test_weights_in_fewer_bytes(isa: str, op: str, samples: int) -> None:
    rows = GATES[op] * 40
    x, _, bias, *states = inputs_of(op, 3, samples, 40)
    for weights in examples(np.random.default_rng(1), (rows, 40)):
        check(op, [x, weights, bias, *states], [1, 2], (7, rows + 9))


@pytest.mark.parametrize(
    ("op", "shapes", "params", "attrs"),
    [
        ("LSTM", [(5, 3, 28), (28, 7)], [], {}),  # computed weights
        ("LSTM", [(5, 3, 28), (28, 7)], [0, 1], {}),
        ("LSTM", [(5, 3, 28), (28, 8)], [1], {}),
        ("LSTM", [(5, 3, 28), (21, 7)], [1], {}),
        ("LSTM", [(5, 3, 28), (28, 7, 1)], [1], {}),
        ("LSTM", [(5, 28), (28, 7)], [1], {}),
        ("LSTM", [(5, 3, 27), (28, 7)], [1], {}),
        ("LSTM", [(5, 3, 28), (28, 7), (56,)], [1, 2], {}),
        ("LSTM", [(5, 3, 28), (28, 7), (28,)], [1], {}),
        ("LSTM", [(5, 3, 28), (28, 7), None, (1, 1, 7)], [1], {}),
        ("LSTM", [(5, 3, 28), (28, 7), None, (3, 1, 7)], [1], {}),
        ("LSTM", [(3, 5, 28), (28, 7), None, (1, 3, 7)], [1], {"layout": 1}),
        ("LSTM", [(5, 3, 28), (28, 7), None, None, (5, 3, 7)], [1], {}),
        ("LSTM", [(5, 3, 28), (28, 7), None, None, None, (28,)], [1, 5], {}),
        ("LSTM", [(5, 3, 28), (28, 7), None, None, None, (21,)], [1], {}),
        ("LSTM", [(5, 3, 28), (28, 7), None, None, None, (21,), (1,)], [1, 5], {}),
        ("GRU", [(5, 3, 21), (21, 7), None, (1, 3, 7), (1, 3, 7)], [1], {}),
        ("GRU", [(5, 3, 28), (28, 7)], [1], {}),
        ("RNN", [(5, 3, 7), (7, 7)], [1], {"linear_before_reset": 1}),
        ("RNN", [(5, 3, 7), (7, 7)], [1], {"direction": "bidirectional"}),
        ("RNN", [(5, 3, 7), (7, 7)], [1], {"layout": 2}),
        ("RNN", [(5, 3, 7), (7, 7)], [1], {"clip": 0.0}),
        ("RNN", [(5, 3, 7), (7, 7)], [1], {"clip": float("nan")}),
        ("RNN", [(5, 3, 7), (7, 7)], [1], {"clip": -1.0}),
        ("RNN", [(5, 3, 7), (7, 7)], [1], {"activations": "Tanh,Tanh"}),
        ("RNN", [(5, 3, 7), (7, 7)], [1], {"activations": "," * 4000}),
        ("RNN", [(5, 3, 7), (7, 7)], [1], {"activations": "Gelu"}),
        ("RNN", [(5, 3, 7), (7, 7)], [1], {"activations": 3}),
        ("RNN", [(5, 3, 7), (7, 7)], [1], {"activation_alpha": (1.0, 2.0)}),
        ("RNN", [(5, 3, 7), (7, 7)], [1], {"activation_beta": (float("inf"),)}),
        ("RNN", [(5, 3, 7), (7, 7)], [1], {"hidden_size": 7}),
        ("RNN", [(2**20, 2**19, 1), (1, 1)], [1], {"steps": 1}),
        ("RNN", [(2**20, 2**20, 1), (1, 1)], [1], {}),
    ],
)
def test_nodes_that_do_not_fit(op: str, shapes: list[Any], params: list[int], attrs: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="under_test"):
        lowered_for(op, shapes, params, attrs=attrs)


def test_lowering_many_steps_takes_no_time() -> None:
    lowered = lowered_for("RNN", [(2**38, 1, 2), (2, 2)], [1])
    assert (lowered.passes, lowered.rows) == (2**38, 2**39)

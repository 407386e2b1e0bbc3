"""Outer optimisers: their equations by hand, the numbers that a charter may give, and what they do to odd values."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import UsageError
from swarm.mixing.average import BLOCK_ELEMENTS
from swarm.mixing.outer import (
    LEAST,
    NAMES,
    NONE,
    Outer,
    buffers_text,
    lengthened,
    parse,
    parse_buffers,
    rows_of,
    untrained,
)
from swarm.vector import Vector


def walked(outer: Outer, means: list[list[float]], start: list[float]) -> list[list[float]]:
    """Return the rows after steps by these means, the model first."""
    rows = [np.array(start, np.float32), *(np.zeros(len(start), np.float32) for _ in range(outer.slots))]
    for mean in means:
        outer.step(rows, rows, np.array(mean, np.float32))
    return [row.tolist() for row in rows]


def test_without_an_optimiser_the_mean_is_added_and_nothing_remembered() -> None:
    assert walked(NONE, [[0.5, -1.0], [0.25, 1.0]], [1.0, 2.0]) == [[1.75, 2.0]]


def test_fedavgm_by_hand() -> None:
    # m = 4, then 0.5 * 4 + 2 = 4; x = 1 + 0.25 * 4 = 2, then 2 + 0.25 * 4 = 3.
    assert walked(parse("fedavgm:0.5,0.25"), [[4.0], [2.0]], [1.0]) == [[3.0], [4.0]]


def test_nesterov_by_hand() -> None:
    # m = 4, step 0.25 (4 + 0.5 * 4) = 1.5; m = 4, step 0.25 (2 + 0.5 * 4) = 1.
    assert walked(parse("nesterov:0.5,0.25"), [[4.0], [2.0]], [1.0]) == [[3.5], [4.0]]


def test_fedadagrad_by_hand() -> None:
    # v = 9, step 0.5 * 3 / (3 + 0.5) = 3/7; v = 9 + 16 = 25, step 0.5 * 4 / (5 + 0.5) = 4/11.
    (x,), (m,), (v,) = walked(parse("fedadagrad:0.5,0,0.5"), [[3.0], [4.0]], [0.0])
    assert (m, v) == (4.0, 25.0)
    assert x == pytest.approx(3 / 7 + 4 / 11, rel=1e-6)


def test_fedadam_by_hand() -> None:
    # m = 2, v = 0.25 * 16 = 4, step 1 * 2 / (2 + 0.5) = 0.8; m = 0.5 * 2 + 0.5 * 2 = 2, v = 0.75 * 4 + 0.25 * 4 = 4.
    (x,), (m,), (v,) = walked(parse("fedadam:1,0.5,0.75,0.5"), [[4.0], [2.0]], [0.0])
    assert (m, v) == (2.0, 4.0)
    assert x == pytest.approx(1.6, rel=1e-6)


def test_fedyogi_by_hand() -> None:
    # v = 0.25 * 16 = 4, as in Adam; d^2 = 4 is as large as v, which stays; d^2 = 1 is smaller and takes 0.25 * 1 away.
    (x,), (m,), (v,) = walked(parse("fedyogi:1,0.5,0.75,0.5"), [[4.0], [2.0], [1.0]], [0.0])
    assert (m, v) == (1.5, 3.75)
    assert x == pytest.approx(0.8 + 0.8 + 1.5 / (3.75**0.5 + 0.5), rel=1e-6)


def test_yogi_forgets_large_means_more_slowly_than_adam() -> None:
    means = [[10.0]] + [[0.1]] * 20
    adam, yogi = (walked(parse(f"{name}:0.1,0,0.9"), means, [0.0])[2][0] for name in ("fedadam", "fedyogi"))
    assert adam < 2 < yogi, "10, after twenty steps: a tenth of it is forgotten each time, or next to nothing"


def test_a_momentum_of_zero_at_rate_one_is_fedavg() -> None:
    mean, base = np.random.default_rng(1).standard_normal((2, 1000)).astype(np.float32)
    for name in ("fedavgm", "nesterov"):
        rows = (base.copy(), np.zeros_like(base))
        parse(f"{name}:0,1").step(rows, rows, mean)
        assert np.array_equal(rows[0], base + mean)


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_the_same_in_stretches_of_any_length(name: str) -> None:
    elements = 2 * BLOCK_ELEMENTS + 77
    outer = parse(name, () if name == "none" else ((10, 20), (BLOCK_ELEMENTS - 5, BLOCK_ELEMENTS + 5)))
    rng = np.random.default_rng(3)
    before = [np.abs(rng.standard_normal(elements)).astype(np.float32) for _ in range(1 + outer.slots)]
    mean = rng.standard_normal(elements).astype(np.float32)
    whole, pieces = ([np.empty_like(row) for row in before] for _ in range(2))
    outer.step(whole, before, mean)
    for start in range(0, elements, 1003):
        span = slice(start, start + 1003)
        outer.step([row[span] for row in pieces], [row[span] for row in before], mean[span], start)
    assert all(np.array_equal(a, b) for a, b in zip(whole, pieces, strict=True))
    assert all(row.dtype == np.float32 for row in whole)


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("none", "74f5ec87525f0f83"),
        ("fedavgm", "951326aab8aa09c9"),
        ("nesterov", "018780afb1790107"),
        ("fedadam", "b08597f76daab5e7"),
        ("fedyogi", "2e02c9c23ee90af1"),
        ("fedadagrad", "dac3918dc3e88f7e"),
    ],
)
def test_outcomes_and_usual_numbers_are_frozen(name: str, digest: str) -> None:
    """Ten steps by means that are made with integers alone; a peer with other bytes would be alone with them."""
    outer = parse(name)
    rows = [np.zeros(4096, np.float32) for _ in range(1 + outer.slots)]
    for number in range(1, 11):
        steps = (np.arange(4096, dtype=np.int64) * 2654435761 * number) % 65537 - 32768
        outer.step(rows, rows, steps.astype(np.float32) * np.float32(2.0**-18))
    assert hashlib.sha256(b"".join(row.tobytes() for row in rows)).hexdigest()[:16] == digest


def rounded(value: float) -> float:
    return float(np.float32(value))


def stepped(outer: Outer, x: float, m: float, v: float, d: float) -> tuple[float, float, float]:
    """One element in Python's doubles, each operation rounded to float32 after it.

    Rounding twice does no harm to the four operations and the root where the wider format has 2 p + 2 digits (Figueroa,
    "When is double rounding innocuous?", 1995), and 53 is more than 50. A fused multiply and add would show here.
    """
    eta, beta1, beta2, tau = (rounded(n) for n in (outer.rate, outer.beta1, outer.beta2, outer.tau))
    if outer.name in ("fedavgm", "nesterov"):
        m = rounded(rounded(m * beta1) + d)
        ahead = m if outer.name == "fedavgm" else rounded(d + rounded(m * beta1))
        return rounded(x + rounded(ahead * eta)), m, 0.0
    m = rounded(rounded(m * beta1) + rounded(d * rounded(1 - beta1)))
    square = rounded(d * d)
    if outer.name == "fedadagrad":
        v = rounded(v + square)
    elif outer.name == "fedadam":
        v = rounded(rounded(v * beta2) + rounded(square * rounded(1 - beta2)))
    else:
        sign = (v > square) - (v < square)
        v = rounded(v - rounded(square * rounded(1 - beta2)) * sign)
    return rounded(x + rounded(rounded(m * eta) / rounded(rounded(v**0.5) + tau))), m, v


@pytest.mark.parametrize("name", NAMES[1:])
def test_every_operation_is_rounded_once_and_by_itself(name: str) -> None:
    outer = parse(name)
    rng = np.random.default_rng(9)
    rows = [rng.standard_normal(50).astype(np.float32), *(np.zeros(50, np.float32) for _ in range(outer.slots))]
    elements = [(float(x), 0.0, 0.0) for x in rows[0]]
    for _ in range(20):
        mean = (rng.standard_normal(50) * 10.0 ** rng.integers(-4, 1, 50)).astype(np.float32)
        outer.step(rows, rows, mean)
        elements = [stepped(outer, *old, float(d)) for old, d in zip(elements, mean, strict=True)]
    for row, expected in zip(rows, zip(*elements, strict=True), strict=False):
        assert row.tolist() == list(expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_process_in_which_subnormal_numbers_are_switched_off_ends_with_the_same_bytes(name: str) -> None:
    def ended() -> bytes:
        outer, rng = parse(name), np.random.default_rng(4)
        rows = [np.zeros(500, np.float32) for _ in range(1 + outer.slots)]
        for number in range(1200):
            scale = np.float32(2.0 ** -rng.integers(0, 53)) if number < 20 else np.float32(0.0)
            outer.step(rows, rows, np.rint(rng.standard_normal(500)).astype(np.float32) * scale)
        return b"".join(row.tobytes() for row in rows)

    usual = ended()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no such switch")
    try:
        assert np.float32(1e-38) * np.float32(0.1) == 0, "it is switched off"
        assert ended() == usual
    finally:
        torch.set_flush_denormal(False)


def test_buffers_are_averaged_and_nothing_of_them_is_remembered() -> None:
    outer = parse("fedadam:0.1", ((1, 3),))
    x, m, v = walked(outer, [[1.0, 1.0, -2.0, 1.0]] * 2, [0.0] * 4)
    assert x[1:3] == [2.0, -4.0]
    assert 0 < x[0] == x[3] < 1
    assert (m[1:3], v[1:3]) == ([0.0, 0.0], [0.0, 0.0])


def test_a_variance_that_falls_does_not_become_negative() -> None:
    """Carried on by a momentum, a running variance would go on falling below zero, and the model give NaN."""
    falling = [[-0.3], [-0.3], [-0.2], [0.0], [0.0]]
    assert walked(parse("nesterov:0.9,0.7"), falling, [1.0])[0][0] < 0
    assert walked(parse("nesterov:0.9,0.7", ((0, 1),)), falling, [1.0])[0][0] == pytest.approx(0.2)


@pytest.mark.parametrize("name", NAMES[1:])
def test_what_is_remembered_of_a_silent_element_ends_at_zero_and_never_is_subnormal(name: str) -> None:
    outer, tiny = parse(name), np.finfo(np.float32).tiny
    rows = [np.zeros(2, np.float32) for _ in range(1 + outer.slots)]
    for number in range(1500):
        outer.step(rows, rows, np.array([2.0**-52, 1.0 if number == 0 else 0.0], np.float32))
        for row in rows[1:]:
            assert all(value == 0 or abs(value) >= LEAST > tiny for value in row.tolist())
    if name != "fedadagrad":
        assert rows[1][1] == 0


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32), scale=st.sampled_from([2.0**-52, 1e-9, 1e-3, 1.0, 1024.0]))
def test_no_mean_that_can_occur_makes_a_model_that_is_not_finite(name: str, seed: int, scale: float) -> None:
    outer = parse(name)
    rng = np.random.default_rng(seed)
    rows = [np.zeros(16, np.float32) for _ in range(1 + outer.slots)]
    for _ in range(20):
        mean: Vector = (scale * rng.uniform(-1, 1, 16)).astype(np.float32) * rng.integers(0, 2, 16).astype(np.float32)
        outer.step(rows, rows, mean)
    assert all(np.isfinite(row).all() for row in rows)
    assert all((row >= 0).all() for row in rows[2:]), "a second moment has a root"


# --- as charters write them -------------------------------------------------------------------------------------------


def test_numbers_that_are_left_out_are_the_usual_ones() -> None:
    assert parse("fedavgm:0.9") == Outer("fedavgm", parse("fedavgm").rate, 0.9)
    assert parse("nesterov:0.9,0.7") == Outer("nesterov", 0.7, 0.9)
    assert parse("fedadam:0.01") == Outer("fedadam", 0.01, 0.9, 0.99, 0.001)
    assert parse("nesterov") == parse("nesterov:0.9,0.7")
    assert parse("fedyogi:0.01,0.5,0.999,0.0001") == Outer("fedyogi", 0.01, 0.5, 0.999, 0.0001)
    assert parse("fedadagrad:0.1,0.9,0.01") == Outer("fedadagrad", 0.1, 0.9, 0.0, 0.01)
    assert [parse(name).slots for name in NAMES] == [0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("adam", "'adam' is not one, known are none, fedavgm"),
        ("", "'' is not one"),
        ("fedadam:", "'fedadam:' is not one"),
        ("fedadam: 0.1", "is not one"),
        ("fedadam:.1", "is not one"),
        ("fedadam:0.10", "is not one"),
        ("fedadam:01", "is not one"),
        ("fedadam:1e-3", "is not one"),
        ("fedadam:0.0000001", "is not one"),
        ("fedadam:-1", "is not one"),
        ("fedadam:nan", "is not one"),
        ("fedadam:0.1,", "is not one"),
        ("FedAdam", "is not one"),
        ("fedadam\n", "is not one"),
        ("none:1", "'none:1' has 1 numbers"),
        ("nesterov:0.9,0.7,1", "has 3 numbers"),
        ("fedadagrad:0.1,0,0.1,0.1", "has 4 numbers"),
        ("nesterov:1", "the beta of 'nesterov:1' is 1"),
        ("nesterov:0.9,0", "the rate of 'nesterov:0.9,0' is 0"),
        ("fedavgm:0.9,101", "the rate of 'fedavgm:0.9,101' is 101"),
        ("fedadam:0.1,0.9,1", "the beta2 of"),
        ("fedadam:0.1,0.9,0.99,0", "the tau of"),
        ("fedadam:0.1,0.9,0.99,2", "the tau of"),
        ("nesterov:" + "9" * 5000, "is not one"),
        ("nesterov:0.\u0663", "is not one"),
        ("nesterov:" + ",".join(["0.1"] * 5000), "has 5000 numbers"),
    ],
)
def test_another_text_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert words in caught.value.message
    assert caught.value.hint
    assert len(caught.value.message) < 200


def test_every_optimiser_is_described_with_its_numbers() -> None:
    assert parse("nesterov:0.9,0.7").describe().endswith("; beta 0.9, rate 0.7")
    assert parse("fedadagrad:0.1,0.9,0.01").describe().endswith("; rate 0.1, beta1 0.9, tau 0.01")
    assert ";" not in NONE.describe()


def test_buffers_are_read_as_they_are_written() -> None:
    assert parse_buffers("0-3 5-8", 8) == ((0, 3), (5, 8))
    assert buffers_text(((0, 3), (5, 8))) == "0-3 5-8"
    assert untrained(((3, 5),), 8) == ((0, 3), (5, 8))
    assert untrained(((0, 8),), 8) == ()
    assert untrained((), 8) == ((0, 8),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "3-3",
        "3-2",
        "5-8 0-3",
        "0-3 3-5",
        "0-3  5-8",
        "0-3,5-8",
        "00-3",
        "-1-3",
        "5-9",
        "0-3 ",
        "x",
        "0-1" * 99,
    ],
)
def test_other_buffers_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="buffers of a model of 8 parameters"):
        parse_buffers(text, 8)


def test_an_outcome_is_the_model_and_what_is_remembered_of_it() -> None:
    model = np.array([1.0, 2.0], np.float32)
    outcome = np.frombuffer(lengthened(model.tobytes(), 2), np.float32)
    x, m, v = rows_of(outcome, 2)
    assert (x.tolist(), m.tolist(), v.tolist()) == ([1.0, 2.0], [0.0, 0.0], [0.0, 0.0])

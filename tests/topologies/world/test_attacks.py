"""The catalogue of attacks, by numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from swarm.errors import UsageError
from topologies.world.attacks import NAMES, Attack, alie_z, changed, dissent, forged, parse, spoiled, triggered

OWN = np.array([3, 4], np.float32)
LAST = np.array([1, 0], np.float32)


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.mark.parametrize(
    ("attack", "handed_over"),
    [
        ("sign-flip", [-3, -4]),
        ("sign-flip:5", [-15, -20]),
        ("scaling", [3000, 4000]),
        ("scaling:10", [30, 40]),
        ("free-zero", [0, 0]),
        ("free-replay", [1, 0]),
    ],
)
def test_what_attackers_make_of_their_own_update(attack: str, handed_over: list[float]) -> None:
    assert changed(parse(attack), OWN, LAST, rng()).tolist() == handed_over


def test_noise_is_as_long_as_the_last_change() -> None:
    noise = changed(parse("free-noise"), OWN, LAST, rng())
    assert float(np.linalg.norm(noise)) == pytest.approx(1.0, rel=1e-6)
    assert float(np.linalg.norm(changed(parse("free-noise"), OWN, None, rng()))) == pytest.approx(5.0, rel=1e-6)


def test_who_has_nothing_to_replay_yet_sends_zeros() -> None:
    assert changed(parse("free-replay"), OWN, None, rng()).tolist() == [0, 0]


def test_forgeries_are_made_of_the_mean_and_spread_of_the_honest() -> None:
    honest = [np.array(row, np.float32) for row in ([1, 0], [3, 0], [1, 4], [3, 4])]
    assert forged(parse("ipm"), honest, 1) == pytest.approx([-0.2, -0.2])
    assert forged(parse("ipm:10"), honest, 1) == pytest.approx([-20, -20])
    z = alie_z(5, 1)
    assert forged(parse("alie"), honest, 1) == pytest.approx([2 - z, 2 - 2 * z])
    assert forged(parse("alie:1.5"), honest, 1) == pytest.approx([0.5, -1])


def test_alie_hides_behind_as_many_as_it_needs_for_a_majority() -> None:
    # Of ten with two attackers: four more are needed, of eight; the quantile of one half is 0. Of fifty with 24: two of
    # 26, the quantile of 24 / 26, as in the paper.
    assert alie_z(10, 2) == pytest.approx(0.0)
    assert alie_z(50, 24) == pytest.approx(1.426, abs=1e-3)


def test_labels_are_flipped_about_the_middle() -> None:
    x, y = np.zeros((3, 4), np.float32), np.array([0, 3, 9])
    same, wrong = spoiled(parse("label-flip"), x, y, 10)
    assert wrong.tolist() == [9, 6, 0]
    assert same is x


def test_the_trigger_is_a_patch_in_the_last_corner_of_each_second_picture() -> None:
    x, y = np.zeros((4, 25), np.float32), np.array([5, 6, 7, 8])
    x[1, 0] = 0.5
    worse, wrong = spoiled(parse("back-door"), x, y, 10)
    assert wrong.tolist() == [0, 6, 0, 8]
    assert (worse[1::2] == x[1::2]).all()
    square = triggered(np.vstack([x, np.full((1, 25), 1, np.float32)]))[0].reshape(5, 5)
    assert square[2:, 2:].tolist() == [[1, 1, 1]] * 3
    assert square.sum() == 9
    assert (x[::2] == 0).all(), "what was given is not changed"


def test_what_is_no_square_picture_has_its_trigger_at_the_end() -> None:
    assert triggered(np.array([[0, 0, 0, 0, 0, 0, 2]], np.float32)).tolist() == [[0, 0, 0, 0, 2, 2, 2]]


def test_who_dissents_keeps_a_site_where_it_is() -> None:
    taken = {1: 0.25, 2: 0.25, 3: 0.25}
    assert dissent(taken, (3,), 1.0) == {1: 0.0, 2: 0.0}
    assert dissent(taken, (3,), 0.5) == {1: 0.125, 2: 0.125}
    assert dissent(taken, (4,), 1.0) == taken, "of whom no neighbour attacks nothing changes"


def test_what_a_forger_sends_is_what_dissent_comes_to() -> None:
    """With the messages themselves: x_b = x_i - e sum_k W_ik (x_k - x_i) / W_ib."""
    own, honest, weight, strength = 2.0, {1: 5.0, 2: -1.0}, {1: 0.3, 2: 0.1, 3: 0.2}, 0.7
    pull = sum(weight[k] * (honest[k] - own) for k in honest)
    told = own - strength * pull / weight[3]
    after = own + pull + weight[3] * (told - own)
    effective = dissent(weight, (3,), strength)
    assert after == pytest.approx(own + sum(effective[k] * (honest[k] - own) for k in honest))


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_is_of_one_kind(name: str) -> None:
    attack = parse(name)
    assert attack == Attack(name, attack.strength)
    assert not (attack.on_data and attack.colludes)


@pytest.mark.parametrize("text", ["", "nothing", "label-flip:2", "ipm:", "ipm:x", "ipm:-1", "ipm:nan", "ipm:1e300"])
def test_what_is_no_attack_is_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError, match="couldn't simulate the attack"):
        parse(text)

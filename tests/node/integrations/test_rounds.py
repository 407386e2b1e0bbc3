"""When a round ends inside somebody else's training, and what is done then."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from node.integrations.rounds import Rounds, numbers, samples_in
from swarm.errors import UsageError
from tests.node.integrations.loops import Site


def site(rounds: int = 2) -> Site:
    return Site({"w": np.zeros(2)}, rounds)


def test_a_round_is_so_many_steps_and_the_last_one_ends_the_training() -> None:
    peer = site()
    rounds = Rounds(peer, steps=3)
    assert rounds.begin()
    goes_on = []
    for _ in range(6):
        rounds.batch(4)
        goes_on.append(rounds.step({"loss": 1.0}))
    assert goes_on == [True, True, True, True, True, False]
    assert [samples for samples, _, _ in peer.sent] == [12, 12]


def test_a_round_is_so_many_epochs_whatever_their_steps() -> None:
    peer = site(1)
    rounds = Rounds(peer, epochs=2)
    rounds.begin()
    for goes_on in (True, False):
        rounds.batch(5)
        assert rounds.step({})
        assert rounds.epoch({}) is goes_on
    assert peer.sent[0][0] == 10


def test_a_training_that_stops_by_itself_hands_in_what_it_has() -> None:
    peer = site()
    rounds = Rounds(peer, steps=100)
    rounds.begin()
    rounds.batch(7)
    rounds.step({})
    rounds.end({})
    rounds.end({})
    assert [samples for samples, _, _ in peer.sent] == [7]


def test_after_the_last_round_nothing_is_sent() -> None:
    peer = site(0)
    rounds = Rounds(peer, steps=1)
    assert not rounds.begin()
    assert not rounds.step({})
    rounds.end({})
    assert peer.sent == []


@pytest.mark.parametrize(("policy", "left"), [("keep", 1), ("reset", 0)])
def test_an_optimizers_state_is_kept_or_begun_anew(policy: str, left: int) -> None:
    weight = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.sum().backward()
    optimizer.step()
    rounds = Rounds(site(), steps=1, optimizer=policy)
    rounds.begin([optimizer])
    assert len(optimizer.state) == left


@pytest.mark.parametrize("wrong", [{}, {"steps": 1, "epochs": 1}, {"steps": -1}, {"steps": 1, "optimizer": "mean"}])
def test_a_round_without_an_end_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="couldn't"):
        Rounds(site(), **wrong)


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (np.zeros((5, 2)), 5),
        ([np.zeros((4, 2)), np.zeros(4)], 4),
        ({"id": "x", "image": np.zeros((3, 2))}, 3),
        (("x", {"deep": [np.zeros(6)]}), 6),
        (np.zeros(()), 1),
        ("text", 1),
        ([], 1),
    ],
)
def test_a_batchs_size_is_found_wherever_its_first_tensor_is(batch: object, samples: int) -> None:
    assert samples_in(batch) == samples


def test_metrics_are_shared_under_the_swarms_names() -> None:
    assert numbers({"train_loss": 1.0, "lr": 0.1}) == {"loss": 1.0}
    assert numbers({"loss": 2.0, "train_loss": 1.0}) == {"loss": 2.0}
    assert numbers({}) == {}

"""What stands beside a swarm is trained as the swarm is, and by nobody else's examples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from node.simulation.learning import Dataset, LocalTraining
from node.simulation.run import Exact
from scripts.many_sites import Sites, right

X, Y = torch.rand(24, 4, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3
SHARES = (np.arange(0, 10), np.arange(10, 24))


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


SITES = Sites(
    build=build,
    train=Dataset(X, Y),
    shares=SHARES,
    local=LocalTraining(learning_rate=0.5, batch=4, epochs=2),
    seed=3,
    workers=1,
)


def test_alone_nobody_learns_from_anybody() -> None:
    """With other examples at the second site the first site's model is the same, to the bit, and the second's is not."""
    others = replace(SITES, train=Dataset(torch.cat([X[:10], 1 - X[10:]]), Y))
    before, after = SITES.apart(3), others.apart(3)
    assert np.array_equal(before[0], after[0])
    assert not np.array_equal(before[1], after[1])


def test_passes_are_counted_one_by_one_also_where_the_swarm_makes_two_a_round() -> None:
    once = replace(SITES, local=replace(SITES.local, epochs=1))
    assert np.array_equal(SITES.apart(3)[0], once.apart(3)[0])


def test_training_on_begins_with_the_model_that_it_is_given() -> None:
    [common] = SITES.together(Exact(), 2)
    for own in SITES.tuned(common, 1, rate=1e-7):
        assert np.abs(own - common).max() < 1e-5
        assert not np.array_equal(own, common)


def test_pooled_is_a_swarm_of_one_that_has_everything() -> None:
    one = replace(SITES, shares=[np.arange(24)], local=replace(SITES.local, epochs=1))
    [expected] = one.together(Exact(), 3)
    assert np.allclose(SITES.pooled(3), expected, atol=1e-6)


def test_right_answers_are_counted_by_example() -> None:
    """A model that always answers 1: right on every example whose label that is, and once a question."""
    model = replace(SITES, build=lambda: nn.Linear(4, 3)).model()
    with torch.no_grad():
        views = model.view(torch.zeros(model.elements))
        always = torch.cat(
            [torch.tensor([0.0, 1.0, 0.0]) if name == "bias" else views[name].flatten() for name in views]
        )
    assert right(model, always.numpy(), Dataset(X, Y)).tolist() == (Y == 1).long().tolist()

"""Two digits a client: a small cut of the real digits goes through, and its draws are those of the simulator."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from node.simulation.learning import Dataset, LocalTraining
from node.simulation.run import Exact
from scripts import published_mnist_shards as script
from scripts import stacked_personal as stacked
from scripts.many_sites import Sites

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist" / "mnist.npz"


@pytest.mark.skipif(not MNIST.is_file(), reason=f"needs {MNIST.name} in ../shared/data/mnist")
def test_a_small_cut_of_the_real_digits_goes_through(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["published_mnist_shards.py", str(MNIST), "--quick", "--workers", "1"])
    script.main()
    said = capsys.readouterr().out
    assert "mean ± standard deviation over seeds 1, 2, 3" in said
    assert [column for column in (*script.COLUMNS, script.ALL_TEN) if column not in said] == []


def test_who_is_drawn_to_train_is_drawn_as_the_simulator_draws() -> None:
    """A third of six sites a round: another draw would make another model."""
    torch.manual_seed(0)
    x, y = torch.rand(60, 4), torch.arange(60) % 3
    shares = [np.arange(place, 60, 6) for place in range(6)]
    sites = Sites(
        build=lambda: torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3)),
        train=Dataset(x, y),
        shares=shares,
        local=LocalTraining(learning_rate=0.3, batch=4),
        seed=9,
        workers=1,
    )
    [model] = sites.together(Exact(fraction=1 / 3), 4)
    names = [f"site-{place}" for place in range(6)]
    layers = stacked.layers_of(sites.model().module)
    of_all = torch.from_numpy(np.stack(shares))
    ours = stacked.Swarm(stacked.FEDAVG, layers, x, y, of_all, rate=0.3, batch=4, seed=9, names=names)
    for number in range(1, 5):
        ours.next_round(script.drawn(9, number, 6, 1 / 3))
    flat = sites.model()
    theirs = flat.view(torch.from_numpy(model))
    for name, one in zip(("0.weight", "0.bias", "2.weight", "2.bias"), ours.layers, strict=True):
        assert torch.allclose(theirs[name], one, atol=1e-5)


def test_what_is_no_file_of_digits_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_text("3141592653")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name in ("nothing.npz", "text", "other.npz"):
        monkeypatch.setattr(sys, "argv", ["published_mnist_shards.py", str(tmp_path / name)])
        with pytest.raises(SystemExit, match="error: couldn't read .*\nhint: "):
            script.main()

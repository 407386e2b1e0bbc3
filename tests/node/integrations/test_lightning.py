"""Lightning's own trainer trains rounds: models come in, updates go out, and it stops when the swarm does."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.node.integrations.loops import Site

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lightning

        from node.integrations.lightning import SwarmCallback, swarm_patch
except ImportError:
    pytest.skip("needs lightning: make test-integrations", allow_module_level=True)

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore")]


class Line(lightning.LightningModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.began: list[float] = []

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        self.began.append(float(self.layer.weight[0, 0].detach()))
        loss = (self.layer(batch[0]) - batch[1]).square().mean()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(module: Line, trainer: lightning.Trainer) -> None:
    data = TensorDataset(torch.ones(12, 2), torch.zeros(12, 1))
    trainer.fit(module, DataLoader(data, batch_size=4))


def trainer(folder: Path, **more: object) -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=folder,
        **more,
    )


def test_a_round_of_epochs(tmp_path: Path) -> None:
    module = Line()
    peer = Site(module, rounds=2)
    fit(module, trainer(tmp_path, callbacks=[SwarmCallback(peer, epochs=2)]))
    assert [samples for samples, _, _ in peer.sent] == [24, 24]
    assert module.began[0] == 1.0  # The first round's model is all ones, the second's all twos.
    assert module.began[6] == 2.0
    assert len(module.began) == 12
    assert peer.sent[0][1]["loss"] > 0
    assert not np.allclose(peer.sent[0][2], 1.0)  # It has been trained.


def test_a_round_of_steps_in_a_trainer_made_before(tmp_path: Path) -> None:
    module = Line()
    peer = Site(module, rounds=3)
    fit(module, swarm_patch(trainer(tmp_path), peer, steps=2, optimizer="reset"))
    assert [samples for samples, _, _ in peer.sent] == [8, 8, 8]
    assert [module.began[index] for index in (0, 2, 4)] == [1.0, 2.0, 3.0]


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    module = Line()
    peer = Site(module, rounds=1)
    fit(module, trainer(tmp_path, callbacks=[SwarmCallback(peer, steps=1)], accumulate_grad_batches=3))
    assert [samples for samples, _, _ in peer.sent] == [12]

"""Hugging Face's own trainer trains rounds of a tiny language model that was never downloaded."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.node.integrations.loops import Site

os.environ["HF_HUB_OFFLINE"] = "1"
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

        from node.integrations.huggingface import SwarmCallback
except ImportError:
    pytest.skip("needs transformers and accelerate: make test-integrations", allow_module_level=True)

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore")]

TEXTS = [{"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3, 4]}] * 8


def model() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=4, n_embd=8, n_layer=1, n_head=1, n_inner=8))


def train(peer: Site, folder: Path, callback: SwarmCallback, **more: object) -> int:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        logging_steps=1,
        disable_tqdm=True,
        learning_rate=0.1,
        **more,
    )
    trainer = Trainer(peer.model, arguments, train_dataset=TEXTS, callbacks=[callback])
    trainer.train()
    return int(trainer.state.global_step)


def test_a_round_of_steps(tmp_path: Path) -> None:
    peer = Site(model(), rounds=3)
    assert train(peer, tmp_path, SwarmCallback(peer, steps=2), max_steps=100) == 6
    assert [samples for samples, _, _ in peer.sent] == [4, 4, 4]
    assert not np.allclose(peer.sent[0][2], 1.0)  # It has been trained.


def test_a_round_of_epochs_whose_optimizer_begins_anew(tmp_path: Path) -> None:
    peer = Site(model(), rounds=2)
    assert train(peer, tmp_path, SwarmCallback(peer, epochs=1, optimizer="reset"), num_train_epochs=50) == 8
    assert [samples for samples, _, _ in peer.sent] == [8, 8]


def test_a_training_that_ends_before_the_swarm_hands_in_what_it_has(tmp_path: Path) -> None:
    peer = Site(model(), rounds=9)
    train(peer, tmp_path, SwarmCallback(peer, steps=2), max_steps=3)
    assert [samples for samples, _, _ in peer.sent] == [4, 2]


def test_tied_weights_travel_once() -> None:
    from node.loop.parameters import parameters_of

    names = [spec.name for spec in parameters_of(model()).layout.tensors]
    assert ("lm_head.weight" in names) + ("transformer.wte.weight" in names) == 1

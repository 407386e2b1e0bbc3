"""What a budget costs in accuracy: a small cut goes through, and the features are what they are said to be."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from scripts import privacy_accuracy as script
from tests.node.workers import MNIST


@pytest.mark.skipif(not MNIST.exists(), reason=f"no digits at {MNIST}")
def test_a_small_cut_of_the_real_digits_goes_through(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["privacy_accuracy.py", str(MNIST), "--quick"])
    script.main()
    said = capsys.readouterr().out
    for words in ("one site", "the swarm", "epsilon 1", "epsilon 8", "With clipping and no noise"):
        assert words in said
    assert "MISSED" not in said  # A cut is not held against what is published.


def test_features_are_of_each_picture_alone_and_normalised_in_groups() -> None:
    pictures = np.random.default_rng(0).random((3, 28, 28), dtype=np.float32)
    found = script.features(pictures, 4, None)
    assert found.shape == (3, 25 * 49)
    assert torch.allclose(found[1:2], script.features(pictures[1:2], 4, None), atol=1e-4)
    groups = found.reshape(3, 25, 49)
    assert groups.mean(2).abs().max() < 1e-4
    assert 0.1 < groups.square().mean(2).min() <= groups.square().mean(2).max() < 1.001


@pytest.mark.parametrize("angles", [4, 8])
def test_wavelets_see_no_constant_and_the_edges_that_they_point_across(angles: int) -> None:
    for scale in (0, 1):
        assert abs(script._morlet(40, scale, 1, angles).sum()) < 1e-9
    stripes = np.tile(np.sin(0.75 * np.pi * np.arange(28)), (28, 1)).astype(np.float32)  # They change to the right.
    found = script._Bank(angles).transform(torch.from_numpy(stripes[None]))[0]
    assert found[1].mean() > 5 * found[1 + angles // 2].mean()

"""The four clinics' table comes from real peers, and every patient is at one clinic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts.golub_sites import CLINICS, ELSEWHERE, deal, main
from tests.scripts.quick import DATA, needs, quick_rows


@pytest.mark.real
@pytest.mark.timeout(600)
@needs("golub/golub_full.npz")
def test_every_clinic_and_the_34_have_a_score_alone_in_the_swarm_personalised_and_pooled(
    forkserver: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sites = [*(one.name for one in CLINICS), "client mean", ELSEWHERE]
    quick_rows(main, [DATA / "golub" / "golub_full.npz"], sites, forkserver, monkeypatch, capsys)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_patient_is_at_one_clinic_and_kinds_are_as_planned(seed: int) -> None:
    labels = np.array([0] * 27 + [1] * 11)
    dealt = deal(labels, seed)
    everybody = np.concatenate([part for clinic in dealt for part in clinic])
    assert sorted(everybody) == list(range(38))
    assert [(len(train), int(labels[train].sum())) for train, _ in dealt] == [(12, 2), (7, 4), (6, 1), (3, 1)]
    assert [(len(test), int(labels[test].sum())) for _, test in dealt] == [(4, 1), (3, 1), (2, 1), (1, 0)]


def test_seeds_deal_other_patients() -> None:
    labels = np.array([0] * 27 + [1] * 11)
    assert not np.array_equal(deal(labels, 1)[0][0], deal(labels, 2)[0][0])


def test_a_file_that_is_not_there_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="couldn't read .*: there is no such file"):
        main([str(tmp_path / "none.npz")])

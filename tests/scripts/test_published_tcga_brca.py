"""The table of six regions comes from real peers; its likelihood, its splits and its figures are what they say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from scripts.published_tcga_brca import FLAMBY_C_INDEX, REGIONS, TASK, Patients, divided, drawn, main, read
from scripts.real_peers import loaded
from tests.scripts.quick import DATA, needs, quick_rows

FOLDER = "flamby_tcga_brca"


@pytest.mark.real
@pytest.mark.timeout(600)
@needs(FOLDER)
def test_every_region_has_a_score_alone_in_the_swarm_personalised_and_pooled(
    forkserver: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick_rows(main, [DATA / FOLDER], [*REGIONS[:3], "client mean"], forkserver, monkeypatch, capsys)


@needs(FOLDER)
def test_the_regions_are_those_of_flamby() -> None:
    _, regions = read(DATA / FOLDER)
    assert [len(one.train) + len(one.test) for one in regions] == [311, 196, 206, 162, 162, 51]
    assert [one.events for one in regions] == [14, 4, 8, 3, 2, 1]


def test_a_folder_without_the_files_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="couldn't read FLamby's files in .*: No such file"):
        main([str(tmp_path)])


def test_the_likelihood_asks_who_of_those_at_risk_had_the_event() -> None:
    """Deaths on days 1 and 2, the third patient seen until day 3. Equal risks: log 3 + log 2, over three patients.

    With two deaths on one day and Breslow's ties both have all three at risk: log 3 twice.
    """
    torch = pytest.importorskip("torch")
    task = loaded(TASK)
    risks, events = torch.zeros(3), torch.tensor([True, True, False])
    apart = task.partial_likelihood(risks, torch.tensor([1.0, 2.0, 3.0]), events)
    assert float(apart) == pytest.approx((math.log(3) + math.log(2)) / 3)
    tied = task.partial_likelihood(risks, torch.tensor([1.0, 1.0, 3.0]), events)
    assert float(tied) == pytest.approx(2 * math.log(3) / 3)
    # Who dies first is given twice the hazard: 2 of 4, then 1 of 2.
    ahead = task.partial_likelihood(torch.tensor([math.log(2), 0.0, 0.0]), torch.tensor([1.0, 2.0, 3.0]), events)
    assert float(ahead) == pytest.approx(2 * math.log(2) / 3)


def people(lived: int, died: int) -> np.ndarray:
    rows = np.arange(41.0 * (lived + died)).reshape(-1, 41)
    rows[:, -2] = [0.0] * lived + [1.0] * died
    return rows


def test_a_drawn_split_holds_out_as_many_and_as_many_deaths_and_loses_nobody() -> None:
    given = Patients(people(9, 5), people(3, 2) + 10_000 * np.eye(41)[0])
    other = drawn(given, 1)
    assert (len(other.train), len(other.test), other.events) == (14, 5, 2)
    assert sorted(np.concatenate([other.train, other.test])[:, 0]) == sorted(
        np.concatenate([given.train, given.test])[:, 0]
    )
    assert not np.array_equal(other.test, drawn(given, 2).test)


def test_folds_spread_deaths_evenly() -> None:
    rows = people(20, 10)
    counts = np.bincount(divided(rows, 0)[rows[:, -2] > 0], minlength=5)
    assert list(counts) == [2] * 5


def test_published_figures_give_the_client_mean_that_is_the_bar() -> None:
    assert sum(mean for mean, _ in FLAMBY_C_INDEX["FedAdam"]) / 6 == pytest.approx(0.815, abs=5e-4)

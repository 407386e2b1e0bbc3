"""The four hospitals' table comes from real peers, and every cell of it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.data import HEART_SITES
from scripts.published_heart_disease import FLAMBY_ACCURACY, main, task_file
from tests.scripts.quick import DATA, needs, quick_rows


@pytest.mark.real
@pytest.mark.timeout(600)
@needs("heart_disease")
def test_every_hospital_has_a_score_alone_in_the_swarm_personalised_and_pooled(
    forkserver: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = quick_rows(main, [DATA / "heart_disease"], [*HEART_SITES, "client mean"], forkserver, monkeypatch, capsys)
    # All of Switzerland's training patients are ill, and 15 of its 16 others: who learns there calls everybody ill.
    assert rows["switzerland"][0] == rows["switzerland"][2] == pytest.approx(15 / 16, abs=1e-3)
    assert rows["client mean"] == pytest.approx(
        [sum(rows[one][i] for one in HEART_SITES) / 4 for i in range(4)], abs=1e-3
    )


def test_published_figures_give_the_client_means_that_are_quoted_of_them() -> None:
    means = {name: sum(cell[0] for cell in cells[:4]) / 4 for name, cells in FLAMBY_ACCURACY.items()}
    assert (round(means["FedAvg"], 3), round(means["FedAdagrad"], 3), round(means["pooled"], 3)) == (
        0.685,
        0.731,
        0.735,
    )


@pytest.mark.parametrize(("fine_tune", "local", "tuned"), [(2, "", True), (0, "", False), (2, "ditto:0.1", False)])
def test_the_task_is_the_packaged_one_with_a_line_more_where_it_personalises(
    fine_tune: int, local: str, tuned: bool, tmp_path: Path
) -> None:
    text = task_file(tmp_path / "task.py", fine_tune, local).read_text()
    assert text.startswith('"""Heart disease or not')
    assert text.endswith("\n\nfine_tune = 2\n") == tuned

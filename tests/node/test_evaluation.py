"""What evaluate() may return, and what of it goes on: numbers and counts to the node, cases to a file of the site's."""

import stat
from pathlib import Path

import numpy as np
import pytest

from node.disclosed import Disclosed
from node.evaluation import load_cases, read_result, save_cases
from node.scoring.cases import read_cases
from swarm.errors import StoreError, UsageError

LABELS, SCORES = [0, 1] * 10, [0.2, 0.9] * 9 + [0.7, 0.3]


def test_bare_numbers_are_what_they_were() -> None:
    read = read_result({"samples": 7, "accuracy": 0.5, "odd name": 1.0})
    assert (read.samples, read.metrics, read.groups, read.cases) == (7, {"accuracy": 0.5}, (7,), None)
    assert len(read.remarks) == 1
    with pytest.raises(UsageError, match="it is list, not a dict"):
        read_result([1, 2])


def test_cases_become_numbers_and_a_task_need_not_count_them() -> None:
    read = read_result({"labels": LABELS, "scores": SCORES, "loss": 0.4})
    assert (read.samples, read.groups, read.cases is not None) == (20, (10, 10), True)
    assert (read.metrics["accuracy"], read.metrics["loss"], read.metrics["support_1"]) == (0.9, 0.4, 10.0)
    assert read.remarks == ()


def test_a_number_that_follows_from_the_cases_is_the_cases() -> None:
    read = read_result({"samples": 3, "labels": LABELS, "scores": SCORES, "accuracy": 1.0})
    assert (read.samples, read.metrics["accuracy"]) == (20, 0.9)
    assert read.remarks == (
        '"samples" is 3, and there are 20 cases: the cases count',
        "metric 'accuracy' is computed from the cases",
    )


def test_a_number_of_the_tasks_own_is_no_substitute_for_one_that_does_not_exist() -> None:
    read = read_result({"labels": [1] * 16, "scores": [0.9] * 16, "auc": 1.0})
    assert "auc" not in read.metrics


def test_cases_that_cannot_be_used_cost_neither_the_rest_nor_a_secret() -> None:
    read = read_result({"samples": 20, "labels": LABELS, "scores": SCORES[:-1], "loss": 0.4})
    assert (read.samples, read.metrics, read.groups, read.cases) == (20, {"loss": 0.4}, (), None)
    assert read.remarks[0].startswith("couldn't score the cases that evaluate() returned: there are 20")
    with pytest.raises(UsageError, match="there are 20"):
        read_result({"labels": LABELS, "scores": SCORES[:-1]})


@pytest.mark.parametrize(
    "result",
    [
        {"labels": LABELS, "scores": SCORES},
        {"labels": LABELS, "scores": SCORES, "threshold_labels": [1, 0, 1], "threshold_scores": [0.5, 0.4, 0.9]},
        {"labels": [0, 1, 2], "scores": np.eye(3)},
        {"targets": [1.5, 2.5], "predictions": [1.0, 3.0]},
        {"times": [1.0, 2.0], "events": [1, 0], "risks": [0.5, 0.2]},
    ],
)
def test_cases_come_back_from_a_file_that_only_this_user_reads(result: dict[object, object], tmp_path: Path) -> None:
    path = tmp_path / "cases.npz"
    cases = read_cases(result)
    save_cases(cases, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    back = load_cases(path)
    assert type(back) is type(cases)
    assert (back.n, back.cell) == (cases.n, cases.cell)
    again = tmp_path / "again.npz"
    save_cases(back, again)
    assert again.read_bytes() == path.read_bytes()


def test_one_patient_more_is_not_told_and_five_are(tmp_path: Path) -> None:
    path = tmp_path / "disclosed"
    assert Disclosed(path, least=5).cell((20, 25)) == 20
    assert path.read_text() == "[20, 25]\n"
    assert Disclosed(path, least=5).cell((20, 26)) == 1
    assert Disclosed(path, least=5).cell((20, 25)) == 20
    assert path.read_text() == "[20, 25]\n"
    assert Disclosed(path, least=5).cell((20, 30)) == 5
    assert path.read_text() == "[20, 30]\n"


def test_where_nothing_is_agreed_nothing_is_remembered(tmp_path: Path) -> None:
    assert Disclosed(tmp_path / "disclosed", least=0).cell((1, 2)) == 1
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("text", ["", "{}", "[1, -2]", '["a"]', "[1", "\0"])
def test_a_memory_that_is_damaged_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "disclosed").write_text(text)
    assert Disclosed(tmp_path / "disclosed", least=5).cell((20, 25)) == 20


def test_what_cannot_be_remembered_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        Disclosed(tmp_path / "file" / "disclosed", least=5).cell((20, 25))

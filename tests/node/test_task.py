"""A user's file, refused in words that say what to change in it."""

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from node.task import METRICS_MAX, PARAMETERS, SiteInfo, checked_result, load_task, round_seed, task_digest, where_in
from swarm.errors import UsageError

GOOD = """\
def build_model():
    return "model"

def load_data(site):
    return site.name

def train(model, data, run):
    return {"samples": 1}

def evaluate(model, data, run):
    return {"samples": 2}
"""


def written(folder: Path, text: str, name: str = "task.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_good_file_is_loaded_without_anything_of_ours_in_it(tmp_path: Path) -> None:
    task = load_task(written(tmp_path, GOOD))
    assert task.build_model() == "model"
    assert task.load_data(SiteInfo("here", tmp_path, 1, "cpu")) == "here"
    assert task.train(None, None, None) == {"samples": 1}  # type: ignore[arg-type]
    assert task.evaluate(None, None, None) == {"samples": 2}  # type: ignore[arg-type]


def test_two_files_of_one_name_are_two_tasks(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
    one = load_task(written(tmp_path / "1", GOOD))
    two = load_task(written(tmp_path / "2", GOOD.replace('"model"', '"another"')))
    assert (one.build_model(), two.build_model()) == ("model", "another")


def test_a_site_may_read_its_data_its_own_way(tmp_path: Path) -> None:
    loader = written(tmp_path, "def load_data(site):\n    return 'mine'\n", "my_loader.py")
    task = load_task(written(tmp_path, GOOD), loader)
    assert task.load_data(SiteInfo("here", tmp_path, 1, "cpu")) == "mine"
    assert task.build_model() == "model"


def test_a_loader_without_the_function_is_named(tmp_path: Path) -> None:
    loader = written(tmp_path, "x = 1\n", "my_loader.py")
    with pytest.raises(UsageError, match=r"my_loader\.py: it has no function load_data\(\)"):
        load_task(written(tmp_path, GOOD), loader)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_missing_function_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"it has no function {name}\(\)") as caught:
        load_task(written(tmp_path, GOOD.replace(f"def {name}(", "def other(")))
    assert "build_model(), load_data(site)" in caught.value.hint


def test_a_function_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"it has no function train\(\)"):
        load_task(written(tmp_path, GOOD + "train = 3\n"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("def build_model():", "def build_model(size):", "build_model.. must take 0 arguments"),
        ("def load_data(site):\n    return site.name", "def load_data():\n    return 1", "load_data.. must take 1 arg"),
        ("def train(model, data, run):", "def train(model, data):", "train.. must take 3 arguments"),
        ("def evaluate(model, data, run):", "def evaluate(m, d, r, x):", "evaluate.. must take 3 arguments"),
    ],
)
def test_a_function_with_other_arguments_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GOOD
    with pytest.raises(UsageError, match=words):
        load_task(written(tmp_path, GOOD.replace(old, new)))


@pytest.mark.parametrize("arguments", ["*args", "model, data, run, epochs=3", "model, *rest", "a, b, c, **options"])
def test_further_optional_arguments_are_the_users_business(tmp_path: Path, arguments: str) -> None:
    load_task(written(tmp_path, GOOD.replace("def train(model, data, run)", f"def train({arguments})")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import numpy\nimport no_such_module\n", r"ModuleNotFoundError: .*'no_such_module' \(task\.py, line 2\)"),
        ("x = 1\ny = 1 / 0\n", r"ZeroDivisionError: division by zero \(task\.py, line 2\)"),
        ("def f(:\n", r"SyntaxError: .*line 1\)"),
        ("import sys\n\nsys.exit(3)\n", r"SystemExit: 3 \(task\.py, line 3\)"),
        ("def f():\n    raise ValueError('no')\n\nf()\n", r"ValueError: no \(task\.py, line 2\)"),
    ],
)
def test_a_file_that_fails_to_import_names_the_line(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError, match=words):
        load_task(path)
    # A file that was mended is read again.
    path.write_text(GOOD)
    assert load_task(path).build_model() == "model"


@pytest.mark.parametrize("name", ["absent.py", "folder.py", "notes.txt"])
def test_what_is_no_python_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.py").mkdir()
    written(tmp_path, "hello", "notes.txt")
    with pytest.raises(UsageError, match=f"couldn't load .*{name}: there is no such Python file"):
        load_task(tmp_path / name)


def test_the_digest_is_of_the_bytes(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    assert task_digest(path) == hashlib.sha256(GOOD.encode()).digest()
    with pytest.raises(UsageError, match=r"couldn't read the task file .*: No such file"):
        task_digest(tmp_path / "absent.py")


# --- what it returned -----------------------------------------------------------------------------------------------


class Scalar:
    """Something like a tensor or a numpy number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value


def repr_type(value: object) -> str:
    """Name a case by its type: object addresses differ between workers."""
    return type(value).__name__


class Vector:
    """Something like a tensor of several elements."""

    def __float__(self) -> float:
        raise RuntimeError("a Tensor with 2 elements cannot be converted to Scalar")


def test_samples_and_metrics_are_taken_apart() -> None:
    result = {"samples": 12, "loss": 0.5, "accuracy": Scalar(0.25), "count": 3}
    assert checked_result(result, "train") == (12, {"loss": 0.5, "accuracy": 0.25, "count": 3.0}, [])


@pytest.mark.parametrize("result", [None, 3, [("samples", 1)], "samples"])
def test_what_is_no_dict_is_refused(result: object) -> None:
    with pytest.raises(UsageError, match=f"what train.. returned: it is {type(result).__name__}, not a dict") as caught:
        checked_result(result, "train")
    assert "samples" in caught.value.hint


@pytest.mark.parametrize(
    "samples",
    [90, 90.0, np.int64(90), np.float32(90), torch.tensor(90), torch.tensor([90.0]), (1 << 40) - 1],
    ids=repr_type,
)
def test_samples_are_whole_whoever_counted_them(samples: float) -> None:
    found, _, _ = checked_result({"samples": samples}, "train")
    assert (type(found), found) == (int, int(samples))


@pytest.mark.parametrize("samples", [1 << 40, 10**25, 10**5000, 1e300], ids=["2^40", "10^25", "endless", "float"])
def test_more_samples_than_a_ledger_can_say_are_refused_in_words(samples: float) -> None:
    with pytest.raises(UsageError, match='"samples" is more than 1099511627775'):
        checked_result({"samples": samples}, "train")


@pytest.mark.parametrize(
    "samples",
    [None, 0, -1, 2.5, True, "5", math.nan, math.inf, np.bool_(True), np.float64(0.5), torch.tensor([1, 2]), [5]],
    ids=repr_type,
)
def test_samples_must_be_a_positive_whole_number(samples: object) -> None:
    with pytest.raises(UsageError, match=r'what evaluate.. returned: "samples" is .*, not a positive whole number'):
        checked_result({"samples": samples}, "evaluate")


def test_missing_samples_say_why_they_are_needed() -> None:
    with pytest.raises(UsageError, match='"samples" is None') as caught:
        checked_result({"loss": 1.0}, "train")
    assert "weights sites by it" in caught.value.hint


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, "high", None, [1.0], 10**400, Vector(), Scalar(math.nan)],
    ids=repr_type,
)
def test_a_metric_that_is_no_finite_number_is_left_out_and_said(value: object) -> None:
    samples, metrics, remarks = checked_result({"samples": 1, "auc": value, "loss": 1.0}, "train")
    assert (samples, metrics) == (1, {"loss": 1.0})
    [remark] = remarks
    assert remark.startswith("metric 'auc' was left out: ")
    assert remark.endswith(" is not a finite number")


@pytest.mark.parametrize("name", ["AUC", "", "1st", "a b", "é", "x" * 33, "a-b", 5])
def test_a_metric_with_a_bad_name_is_left_out_and_said(name: object) -> None:
    _, metrics, remarks = checked_result({"samples": 1, name: 1.0}, "train")
    assert metrics == {}
    assert remarks == [f"metric {name!r} was left out: a name is lower-case letters, digits and _"]


def test_metrics_are_bounded() -> None:
    many = {f"m{i}": float(i) for i in range(METRICS_MAX + 2)}
    _, metrics, remarks = checked_result({**many, "samples": 1}, "train")
    assert list(metrics) == [f"m{i}" for i in range(32)]
    assert remarks == [f"metric 'm{i}' was left out: 32 are enough" for i in (32, 33)]


def test_an_error_elsewhere_is_said_without_a_line(tmp_path: Path) -> None:
    assert where_in(ValueError("no"), tmp_path / "task.py") == "ValueError: no"


def test_sites_go_through_their_data_in_different_orders_and_repeat_them() -> None:
    """Equal shuffles at all sites of one size would make their batches alike."""
    drawn = {round_seed(seed, site, number) for seed in (1, 2) for site in ("a", "b") for number in range(1, 50)}
    assert len(drawn) == 2 * 2 * 49
    assert all(0 <= one < 2**31 for one in drawn)
    assert round_seed(7, "charite", 3) == round_seed(7, "charite", 3)

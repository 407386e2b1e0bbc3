"""What a task file says of its model's parts is read without running it, and never means less than it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.declared import Declared, companions, declared
from node.task import load_task
from swarm.errors import UsageError
from tests.node.test_task import GOOD, written

OPTIMIZER = "def build_optimizer(model):\n    return None\n"
SHA = 'initial_sha256 = "' + "0" * 64 + '"\n'


def test_a_file_that_says_nothing_declares_nothing(tmp_path: Path) -> None:
    assert declared(written(tmp_path, GOOD)) == Declared()
    assert load_task(written(tmp_path, GOOD)).declared == Declared()


def test_everything_that_can_be_declared_is_read(tmp_path: Path) -> None:
    text = (
        'private = ["head.*", "scale"]\nfrozen: list = ("backbone.*",)\ninitial = "b.safetensors"\n' + SHA
        + 'fresh = ["head.*"]\nnormalisation = "local"\noptimizer_state = "keep"\nfedrep = 2\nfine_tune = 3\n'
    )  # fmt: skip
    made = load_task(written(tmp_path, text + OPTIMIZER + GOOD)).declared
    assert made == Declared(
        private=("head.*", "scale"),
        frozen=("backbone.*",),
        initial="b.safetensors",
        initial_sha256="0" * 64,
        fresh=("head.*",),
        normalisation="local",
        optimizer_state="keep",
        fedrep=2,
        fine_tune=3,
    )


def test_reading_runs_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, 'private = ["head.*"]\nraise SystemExit(3)\n')
    assert declared(path).private == ("head.*",)


def test_the_file_that_belongs_to_a_task_lies_beside_it(tmp_path: Path) -> None:
    path = written(tmp_path, 'initial = "b.safetensors"\n' + SHA)
    assert companions(path) == (tmp_path / "b.safetensors",)
    assert companions(written(tmp_path, GOOD, "plain.py")) == ()
    assert companions(tmp_path / "absent.py") == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("private = 3", "private = '3'"),
        ("private = [3]", "private = "),
        ("private = ['']", "private = "),
        ("frozen = {'a': 1}", "frozen = "),
        ("frozen_sha256 = '" + "0" * 64 + "'", "frozen_sha256 is of what frozen names"),
        ("frozen = ['a']\nfrozen_sha256 = '12'", "frozen_sha256 is of what frozen names"),
        ("fresh = 3", "fresh = '3'"),
        ("fresh = ['head.*']", "fresh says what is not taken from a file, and there is no file"),
        ("initial = 'a.safetensors'", "initial and initial_sha256 belong together"),
        (SHA, "initial and initial_sha256 belong together"),
        ("initial = '../a.safetensors'\n" + SHA, "which is not the name of a .safetensors file"),
        ("initial = 'a.pt'\n" + SHA, "which is not the name of a .safetensors file"),
        ("initial = 'a.safetensors'\ninitial_sha256 = '12'", "initial and initial_sha256 belong together"),
        ("normalisation = 'locale'", "normalisation = 'locale'"),
        ("normalisation = 3", "normalisation = '3'"),
        ("optimizer_state = 'always'", "optimizer_state = 'always'"),
        ("fedrep = 1", "no part is private"),
        ("fedrep = -1", "fedrep = '-1'"),
        ("fedrep = True", "fedrep = 'True'"),
        ("fine_tune = 1000", "fine_tune = '1000'"),
        ("fine_tune = 'many'", "fine_tune = 'many'"),
        ("normalization = 'local'", "it declares normalization"),
        ("optimiser_state = 'keep'", "it declares optimiser_state"),
        ("def build_optimiser(model):\n    pass", "it has build_optimiser"),
        ("optimizer_state = 'keep'", "it has no function build_optimizer"),
        ("def build_optimizer():\n    pass", "build_optimizer.. must take 1 arguments"),
        ("def personalise(model):\n    pass", "personalise.. must take 3 arguments"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_to_write(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load_task(written(tmp_path, f"{text}\n{GOOD}"))
    assert caught.value.hint or "arguments" in words


@pytest.mark.parametrize(
    "text",
    [
        "HEAD = 'head.*'\nprivate = [HEAD]",
        "private = ['head.*'] + ['scale']",
        "private = []\nprivate += ['head.*']",
        "if True:\n    private = ['head.*']",
        "private, other = ['head.*'], 1",
        "private = ['a']\nif True:\n    private = ['head.*']",
        "frozen = sorted({'a'})",
        "fresh = sorted({'a'})",
        "normalisation = str('local')",
        "fedrep = int('1')",
    ],
)
def test_what_is_private_by_a_detour_is_refused_and_not_sent(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="is not written down as a literal"):
        load_task(written(tmp_path, f"{text}\n{GOOD}"))


@pytest.mark.parametrize(
    "text",
    [
        "def initial():\n    return 3",
        "import math as frozen",
        "class private: pass",
        "initial = object()",
    ],
)
def test_names_that_older_files_use_for_other_things_are_theirs(tmp_path: Path, text: str) -> None:
    assert load_task(written(tmp_path, f"{text}\n{GOOD}")).declared == Declared()


@pytest.mark.parametrize("data", [b"\xff\xfe", b"def f(:", b"\0", b"private = " + b"[" * 5000, b""])
def test_garbage_declares_nothing_and_raises_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "task.py").write_bytes(data)
    assert declared(tmp_path / "task.py") == Declared()

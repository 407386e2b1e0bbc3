"""Next characters by role: what is asked, what counting answers, and that a small cut of the real text goes through."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts import published_shakespeare as script

ROLES = Path(__file__).parents[3] / "shared" / "data" / "shakespeare" / "shakespeare_roles.json.gz"


@pytest.mark.parametrize("warm", [0, script.WARM])
@pytest.mark.parametrize("length", [2, 80, 81, 82, 250])
def test_every_character_but_the_first_is_asked_for_once_and_after_what_came_before_it(length: int, warm: int) -> None:
    text = np.arange(1, length + 1)  # the number after n is n + 1
    x, y = script.stretches(text, warm)
    asked = y != script.NOT_ASKED
    assert sorted(y[asked]) == list(range(2, length + 1))
    assert np.array_equal(x[asked] + 1, y[asked])
    assert x.shape == y.shape == (-(-(length - 1) // script.UNROLL), warm + script.UNROLL)


def test_a_test_stretch_begins_with_what_went_before() -> None:
    x, y = script.stretches(np.arange(1, 251), warm=20)
    assert x[1, :21].tolist() == list(range(61, 82))
    assert (y[1, :20] == script.NOT_ASKED).all()
    assert y[1, 20] == 82


def test_counting_answers_what_followed_most_often_the_longest_context_it_knows() -> None:
    """Of "abacabad" the a is followed by b twice, by c and by d once; "aba" by c and by d, of which c is first."""
    contexts = script.counted([np.array([0, 1, 0, 2, 0, 1, 0, 3])])
    assert (contexts[(0,)], contexts[(0, 1, 0)], contexts[()]) == (1, 2, 0)
    assert (3,) not in contexts  # nothing has followed the last


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["published_shakespeare.py", *arguments])
    script.main()
    return capsys.readouterr().out


@pytest.mark.skipif(not ROLES.is_file(), reason=f"needs {ROLES.name} in ../shared/data/shakespeare")
def test_a_small_cut_of_the_real_text_goes_through(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run(monkeypatch, capsys, str(ROLES), "--quick", "--workers", "1")
    assert "mean ± standard deviation over seeds 1, 2, 3" in said
    assert [row for row in ("client mean", "tenth percentile", "worst site", "all cases") if row not in said] == []
    assert "MISSED" not in said  # a cut is not held against what is published


def file_of(path: Path, content: object) -> str:
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    return str(path)


def test_what_is_no_file_of_roles_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("To be, or not to be")
    one = {"HAMLET": {"train": "words " * 1000, "test": "words"}}
    refused = [
        [str(tmp_path / "nothing")],
        [str(tmp_path / "text")],
        [file_of(tmp_path / "list", ["words"])],
        [file_of(tmp_path / "lacking", {"HAMLET": {"train": "words"}})],
        [file_of(tmp_path / "one", one)],
    ]
    for arguments in refused:
        with pytest.raises(SystemExit, match="error: couldn't"):
            run(monkeypatch, capsys, *arguments)

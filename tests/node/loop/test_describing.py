"""A script is run as far as its join, under the charter's seed, and what it does wrong before is said in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import swarm
from node.loop.describing import STATE, describe
from swarm.errors import UsageError

JOINS = (
    "import sys\nimport numpy as np\nimport swarm\nmodel = {'at': np.random.rand(3)}\nswarm.join(sys.argv[1], model)\n"
)


def script(folder: Path, text: str) -> Path:
    path = folder / "script.py"
    path.write_text(text)
    return path


def test_nothing_after_join_is_run(tmp_path: Path) -> None:
    after = f"open({str(tmp_path / 'ran')!r}, 'w')\nimport nothing_of_that_name\n"
    found = describe(script(tmp_path, JOINS + after), tmp_path, 1)
    assert [(spec.name, spec.shape) for spec in found.layout.tensors] == [("at", (3,))]
    assert not (tmp_path / "ran").exists()
    assert not STATE.active


def test_a_script_that_does_not_seed_itself_begins_alike_everywhere(tmp_path: Path) -> None:
    path = script(tmp_path, JOINS)
    first, again, other = (describe(path, tmp_path, seed).read() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_script_finds_its_folder_and_the_modules_beside_it_and_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "beside_the_script.py").write_text("WIDTH = 4\n")
    text = "import sys\nimport numpy as np\nimport swarm\nfrom beside_the_script import WIDTH\n"
    text += (
        "assert __name__ == '__main__'\nassert len(sys.argv) == 2\nswarm.join(sys.argv[1], {'at': np.zeros(WIDTH)})\n"
    )
    before = list(sys.path), list(sys.argv)
    try:
        assert describe(script(tmp_path, text), tmp_path, 1).layout.elements == 4
    finally:
        sys.modules.pop("beside_the_script", None)
    assert (list(sys.path), list(sys.argv)) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("print('no join here')\n", "it never called join"),
        ("import sys\nsys.exit('give --data')\n", r"it ended with 'give --data'"),
        ("import sys\n\nraise KeyError('data')\n", r"KeyError: 'data' \(script.py, line 3\)"),
        (
            "import argparse\np = argparse.ArgumentParser()\np.add_argument('--data', required=True)\np.parse_args()\n",
            "never",
        ),
        ("import swarm\nswarm.join('a', {})\n", "the model has no parameters"),
        ("import swarm\nswarm.join('a', 5)\n", "couldn't read the parameters of a int"),
        ("import swarm\nbroken(\n", "SyntaxError"),
    ],
)
def test_what_goes_wrong_before_join_is_said(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        describe(script(tmp_path, text), tmp_path, 1)


def test_the_package_swarm_has_its_doors_and_no_others() -> None:
    from node.loop.peer import Peer

    assert swarm.Peer is Peer
    with pytest.raises(AttributeError, match="no attribute 'joint'"):
        _ = swarm.joint  # type: ignore[attr-defined]

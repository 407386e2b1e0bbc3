"""A task file says itself which form it has, and is only read to find out."""

from pathlib import Path

import pytest

from node.loop.form import is_script

FUNCTIONS = "def build_model():\n    return 1\n"


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("import swarm\npeer = swarm.join('a', model)\n", True),
        ("from swarm import join\n\ndef main():\n    join('a', {})\n\nmain()\n", True),
        ("import node\nnode.join('a', {})\n", True),
        (FUNCTIONS, False),
        (FUNCTIONS + "import swarm\nswarm.join('a', {})\n", False),
        ("from model import build_model\nswarm.join('a', {})\n", False),
        ("build_model = make\nswarm.join('a', {})\n", False),
        ("import os\nprint(os.path.join('a', 'b'), ', '.join('ab'))\n", False),
        ("", False),
        ("def broken(:\n", False),
        ("\0", False),
    ],
)
def test_a_script_calls_join_and_binds_no_build_model(text: str, script: bool, tmp_path: Path) -> None:
    file = tmp_path / "task.py"
    file.write_text(text)
    assert is_script(file) is script


def test_a_file_that_is_not_there_is_no_script(tmp_path: Path) -> None:
    assert not is_script(tmp_path / "none.py")
    assert not is_script(tmp_path)


def test_a_file_is_not_run_to_find_out(tmp_path: Path) -> None:
    file = tmp_path / "task.py"
    file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nimport swarm\nswarm.join('a', {{}})\n")
    assert is_script(file)
    assert not (tmp_path / "ran").exists()

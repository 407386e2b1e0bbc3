"""A shell that has read what `swarm completion` prints completes commands and options, and waits for none of them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.node.test_cli_ledger import data, said


def completed(*words: str) -> set[str]:
    """Return what bash would be offered for the last word of a line."""
    line = {
        "COMP_WORDS": " ".join(("swarm", *words)),
        "COMP_CWORD": str(len(words)),
        "_SWARM_COMPLETE": "bash_complete",
    }
    program = "import sys; from node.cli.main import main\ntry: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    told = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | line, capture_output=True, text=True, check=False
    )
    assert told.stderr.strip() == "False", "nobody waits for PyTorch"
    return {answer.partition(",")[2] for answer in told.stdout.split()}


@pytest.mark.real
def test_commands_and_options_are_completed() -> None:
    assert completed("le") == {"leave", "ledger"}
    assert completed("ledger", "ver") == {"verify"}
    assert "--listen" in completed("dashboard", "--li")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_what_it_can_read(shell: str) -> None:
    text = said("completion", shell)
    assert "_SWARM_COMPLETE" in text
    assert data("completion", shell)["shell"] == shell

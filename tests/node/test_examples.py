"""The examples do what they say: each is run by some test, those on handwritten digits here, on a small cut of MNIST."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import node.examples
from node.cli.main import cli
from node.loop.form import is_script
from tests.node.workers import Bench, benches, write_digits

EXAMPLES = Path(node.examples.__file__).parent
TESTS = Path(__file__).parents[1]


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """A site's data as the examples read them: 600 digits, and 200 others to test on."""
    write_digits(tmp_path)
    return tmp_path


def test_every_example_is_run_by_a_test() -> None:
    texts = [path.read_text() for path in TESTS.rglob("test_*.py")]
    for path in EXAMPLES.glob("[a-z]*.py"):
        assert any(f'"{path.name}"' in text for text in texts), f"no test runs {path.name}"


@pytest.mark.parametrize("name", ["mnist.py", "digits_together.py"])
def test_an_example_learns_digits(name: str, digits: Path) -> None:
    with benches() as made:
        bench = Bench(digits, (EXAMPLES / name).read_text())
        made.append(bench)
        bench.describe()
        for number in range(1, 4):
            bench.put(bench.vector() + bench.train(number))
        assert bench.evaluate(3)["accuracy"] > 0.7


@pytest.mark.real
@pytest.mark.timeout(300)
def test_two_processes_learn_real_digits_together(digits: Path) -> None:
    arguments = ["solo", str(EXAMPLES / "digits_together.py"), "--data", str(digits), "--rounds", "4"]
    answer = CliRunner().invoke(cli, [*arguments, "--processes", "2", "--json"])
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.stdout)["data"]
    assert (told["samples"], told["held_out"]) == (600, 200)
    assert told["metrics"]["accuracy"] > 0.7


def test_the_guide_shows_the_examples_own_training() -> None:
    guide = (TESTS.parent / "docs" / "guides" / "several-gpus.md").read_text()
    source = (EXAMPLES / "digits_together.py").read_text()
    shown = source[source.index("def train(") : source.index("\n\ndef evaluate(")]
    assert f"```python\n{shown}```" in guide


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_every_example_is_in_the_tables_with_how_it_is_run(page: str) -> None:
    rows = [line for line in (Path(__file__).parents[2] / page).read_text().splitlines() if line.startswith("| `")]
    for file in sorted(EXAMPLES.glob("[!_]*.py")):
        [row] = [row for row in rows if f"`{file.name}`" in row.split("|")[1]]
        assert row.split("|")[-2].strip() == ("script" if is_script(file) else "task"), file.name

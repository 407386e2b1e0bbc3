"""What the guide about tasks shows is run: each whole task as it stands, each declaration in one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import node.examples
from node.declared import NAMES, declared
from tests.node.test_parts import BODY, TASK, initial
from tests.node.workers import Bench, benches, write_digits

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "your-own-training.md"

BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
WHOLE = [text for text in BLOCKS if text.startswith("# task.py")]
PARTS = [text for text in BLOCKS if not text.startswith("# task.py")]


@pytest.fixture
def made() -> Iterator[list[Bench]]:
    with benches() as found:
        yield found


def test_the_guide_has_whole_tasks_and_declarations() -> None:
    assert (len(WHOLE), len(PARTS)) == (2, 8)


@pytest.mark.parametrize("text", WHOLE)
@pytest.mark.parametrize("local", ["", "fedprox:0.01", "scaffold", "ditto:0.1"])
def test_a_task_of_the_guide_learns(made: list[Bench], tmp_path: Path, text: str, local: str) -> None:
    drawn = np.random.default_rng(3)
    x = drawn.normal(size=(120, 8))
    np.savetxt(tmp_path / "rows.csv", np.column_stack([x, x[:, :3].argmax(1)]), delimiter=",")
    bench = Bench(tmp_path, text, local=local)
    made.append(bench)
    bench.describe()
    first = bench.evaluate(0)
    for number in range(1, 9):
        bench.put(bench.vector() + bench.train(number, rounds=8))
    last = bench.evaluate(8)
    if "accuracy" in last:
        assert last["accuracy"] > first["accuracy"]
    else:
        assert last["loss"] < first["loss"]


@pytest.mark.parametrize("text", PARTS)
def test_a_declaration_of_the_guide_can_be_written_into_a_task(made: list[Bench], tmp_path: Path, text: str) -> None:
    if "initial" in text:
        text = text.replace("backbone.*", "body.*").replace("backbone.safetensors", "start.safetensors")
        text = text.replace('initial_sha256 = "..."', initial(tmp_path, BODY).splitlines()[1])
    if "frozen_sha256" in text:
        text = text.replace("backbone.*", "body.*")
        asked = Bench(tmp_path, TASK + text.replace('frozen_sha256 = "..."', ""))
        made.append(asked)
        found = asked.refused(do="describe", path=str(asked.model)).split('frozen_sha256 = "')[1][:64]
        text = text.replace('frozen_sha256 = "..."', f'frozen_sha256 = "{found}"')
    if "fedrep" in text:
        text += 'private = ["head.*"]\n'
    bench = Bench(tmp_path, TASK + text)
    made.append(bench)
    bench.describe()
    bench.train(1)
    bench.evaluate(1)
    if re.search("^(private|fine_tune|normalisation) = ", text, re.MULTILINE):
        bench.evaluate(1, "personal")
    else:
        asked = {"do": "evaluate", "round": 1, "model": str(bench.model), "which": "personal"}
        assert bench.refused(**asked) == "couldn't look at a personal model: this site makes none"
        assert "leave out --personal" in str(bench.ask(**asked)["hint"])


def test_everything_that_can_be_declared_is_in_the_guide() -> None:
    shown = {name for text in BLOCKS for name in NAMES if re.search(rf"^{name} = ", text, re.MULTILINE)}
    assert shown == {*NAMES}


def test_two_models_that_teach_each_other_both_learn(made: list[Bench], tmp_path: Path) -> None:
    """Real digits, cut small: what travels is the messenger, and the site's own convolution learns with it."""
    write_digits(tmp_path)
    path = Path(node.examples.__file__).parent / "digits_distilled.py"
    assert declared(path).private == ("own.*",)
    bench = Bench(tmp_path, path.read_text())
    made.append(bench)
    layout = bench.describe()
    assert {tensor.name.partition(".")[0] for tensor in layout.tensors} == {"messenger"}
    for number in (1, 2, 3):
        bench.put(bench.vector() + bench.train(number))
    told = bench.evaluate(3)
    assert min(told["accuracy"], told["own_accuracy"]) > 0.7

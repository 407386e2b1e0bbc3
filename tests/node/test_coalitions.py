"""Models of coalitions, made in the trainer: what the round's own mean would be, of fewer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from node.coalitions import coalition_from, terms_text
from node.trainer import AppraiseDone, Described, EvaluateDone, Failed
from swarm.errors import Reject
from swarm.mixing.average import weighted_mean_into
from swarm.mixing.compress.forms import encode, parse
from tests.node.test_trainer import Bench

ELEMENTS = 40

TASK = """
import torch

def build_model():
    return torch.nn.Linear(4, 8)  # 40 parameters

def load_data(site):
    return None

def train(model, data, run):
    return {"samples": 1}

def evaluate(model, data, run):
    total = float(sum(p.double().sum() for p in model.parameters()))
    return {"samples": 7, "total": total, "remark": "a word"}
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("coalitions"), task=TASK)
    made.trainer.start()
    made.trainer.describe(made.model)
    made.next(Described)
    yield made
    made.trainer.close()


def file(folder: Path, name: str, fill: Callable[[], np.ndarray]) -> Path:  # type: ignore[type-arg]
    path = folder / name
    fill().astype("<f4").tofile(path)
    return path


@pytest.fixture
def blobs(tmp_path: Path) -> tuple[Path, list[Path]]:
    rng = np.random.default_rng(4)
    model = file(tmp_path, "model", lambda: rng.normal(size=ELEMENTS))
    return model, [file(tmp_path, f"update-{i}", lambda: rng.normal(size=ELEMENTS)) for i in range(3)]


def test_a_coalition_gets_the_bytes_that_the_round_would_have_with_its_members_alone(
    blobs: tuple[Path, list[Path]],
) -> None:
    model, updates = blobs
    base = np.fromfile(model, "<f4")
    chosen = [(updates[0], 300), (updates[2], 70)]
    expected = np.empty_like(base)
    weighted_mean_into(expected, base, [np.fromfile(path, "<f4") for path, _ in chosen], [300, 70])
    assert coalition_from(model, terms_text(chosen), elements=ELEMENTS, coded=False).tobytes() == expected.tobytes()


def test_nobody_makes_the_model_before_the_round_and_leaves_its_file_alone(blobs: tuple[Path, list[Path]]) -> None:
    model, _ = blobs
    before = model.read_bytes()
    made = coalition_from(model, terms_text([]), elements=ELEMENTS, coded=False)
    assert made.tobytes() == before
    made += 1.0
    assert model.read_bytes() == before


def test_what_an_outer_optimiser_remembers_plays_no_part(blobs: tuple[Path, list[Path]]) -> None:
    model, updates = blobs
    terms = terms_text([(updates[1], 5)])
    plain = coalition_from(model, terms, elements=ELEMENTS, coded=False)
    model.write_bytes(model.read_bytes() + np.full(2 * ELEMENTS, 7.0, "<f4").tobytes())
    assert coalition_from(model, terms, elements=ELEMENTS, coded=False).tobytes() == plain.tobytes()


def test_updates_that_travel_compressed_are_read_as_what_they_say(tmp_path: Path) -> None:
    update = np.linspace(-1, 1, ELEMENTS).astype(np.float32)
    message = tmp_path / "message"
    message.write_bytes(encode(update, parse("int8")))
    model = file(tmp_path, "model", lambda: np.zeros(ELEMENTS))
    made = coalition_from(model, terms_text([(message, 5)]), elements=ELEMENTS, coded=True)
    assert np.abs(made - update).max() < 0.01
    message.write_bytes(b"no message")
    with pytest.raises(Reject):
        coalition_from(model, terms_text([(message, 5)]), elements=ELEMENTS, coded=True)


def test_a_path_of_any_letters_survives_the_request() -> None:
    odd = Path('/a "b"\n;,ä/c')
    assert json.loads(terms_text([(odd, 3)])) == [[str(odd), 3]]


def test_the_trainer_judges_what_the_updates_make_of_the_model(bench: Bench, tmp_path: Path) -> None:
    model = file(tmp_path, "model", lambda: np.full(ELEMENTS, 0.25))
    one = file(tmp_path, "one", lambda: np.full(ELEMENTS, 1.0))
    other = file(tmp_path, "other", lambda: np.full(ELEMENTS, -1.0))
    bench.trainer.appraise(4, model, [(one, 3), (other, 1)])
    done = bench.next(AppraiseDone)
    assert (done.round, done.samples) == (4, 7)
    assert done.metrics["total"] == pytest.approx(ELEMENTS * (0.25 + 0.5))
    bench.trainer.evaluate(4, model)
    assert bench.next(EvaluateDone).metrics["total"] == pytest.approx(ELEMENTS * 0.25), "nothing of it is left"


def test_a_coalition_whose_bytes_are_gone_fails_in_words_and_the_trainer_goes_on(bench: Bench, tmp_path: Path) -> None:
    model = file(tmp_path, "model", lambda: np.zeros(ELEMENTS))
    bench.trainer.appraise(4, model, [(tmp_path / "gone", 3)])
    failed = bench.next(Failed)
    assert (failed.kind, failed.round) == ("appraise", 4)
    assert "gone" in failed.text
    bench.trainer.evaluate(4, model)
    assert bench.next(EvaluateDone).samples == 7

"""A swarm that goes on from an earlier model: the one that the old ledger names, from whatever file, or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from node.export import export_model
from node.site import Site
from node.succession import model_at, outcome_file
from swarm import charter as c
from swarm.errors import UsageError
from swarm.ledger.audit import Audit, audit
from swarm.ledger.state import best_of
from swarm.machine import Digest
from swarm.vector import Layout, TensorSpec
from tests.builders import digest
from tests.exchanges import calm
from tests.node.test_cli_charter import TASK, new, said, sites, swarm
from tests.node.test_cli_ledger import said as said_there
from tests.node.test_cli_ledger import written
from tests.node.test_lineage import taken_back
from tests.simulation.test_gossip import head
from tests.simulation.test_routes import blocks
from tests.simulation.test_stopping import usual

LAYOUT = Layout((TensorSpec("a", (30,), "float32"), TensorSpec("b", (1, 2), "float32")))


def learned() -> tuple[c.SignedCharter, Audit, int, bytes]:
    """A run of four, an earlier round of it, and the bytes of its model."""
    state = head(usual(), 0).replica.head
    best = best_of(state)
    assert best is not None
    assert best.round < state.committed.round
    held = usual().place(0).blobs.read(Digest(best.model), 0, best.model_bytes)
    assert held is not None
    *_, result = audit(blocks(usual()), state.signed)
    return state.signed, result, best.round, bytes(held)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands are typed: a site of that run in `old`, two new ones, and their task."""
    monkeypatch.chdir(tmp_path)
    signed, _, number, model = learned()
    task = signed.charter.task
    drawn = c.Task("t", digest("code"), task.layout, task.parameters, digest("drawn"), 0)
    monkeypatch.setattr("node.cli.charter.described_task", lambda *_: (drawn, ""))
    sites(tmp_path)
    (tmp_path / "task.py").write_text(TASK)
    site = Site(written(tmp_path / "old", blocks(usual()), signed=signed))
    site.blobs.mkdir(parents=True)
    (site.blobs / learned()[1].rounds[number].commit.model_digest.hex()).write_bytes(model)  # type: ignore[union-attr]
    return tmp_path


def exported(home: Path, *, name: str, change: Callable[[bytes], bytes] = bytes) -> Path:
    """Leave only a file of the model for others in the old site's folder, perhaps of another one."""
    site = Site(home / "old")
    blob = next(site.blobs.iterdir())
    blob.write_bytes(change(blob.read_bytes()))
    target = site.models / name
    export_model(blob, LAYOUT, target, {})
    blob.unlink()
    site.run.mkdir(exist_ok=True)
    (site.run / "layout").write_bytes(LAYOUT.encode())
    return target


def drafted(home: Path) -> c.Charter:
    return c.from_toml((home / "charter.toml").read_text()).charter


def test_a_successor_begins_with_the_model_of_the_round_that_is_named(home: Path) -> None:
    _, result, number, _ = learned()
    text = said(*new("a/card.toml", "b/card.toml"), "--after", "old", "--at-round", str(number))
    commit = result.rounds[number].commit
    assert commit is not None
    assert drafted(home).task.initial_model == commit.model_digest
    assert drafted(home).predecessor == ((result.state.ledger_id, result.state.size, result.state.frontier.root()),)
    assert f"It continues test-swarm, {result.state.ledger_id.hex()[:16]}, from the model of round {number}." in text
    assert f"The model to start from is old/blobs/{commit.model_digest.hex()}: copy it" in text


@pytest.mark.parametrize("folder", ["", "checkpoints/"])
def test_a_file_that_the_node_wrote_for_people_is_as_good_as_its_blob(home: Path, folder: str) -> None:
    _, _, number, model = learned()
    exported(home, name=f"{folder}round-{number:04d}.safetensors")
    said(*new("a/card.toml", "b/card.toml"), "--after", "old", "--at-round", str(number))
    assert (home / drafted(home).task.initial_model.hex()).read_bytes() == model


def test_a_file_that_is_not_the_model_of_the_ledger_is_not_taken(home: Path) -> None:
    _, _, number, _ = learned()
    target = exported(home, name=f"round-{number:04d}.safetensors", change=lambda data: bytes(4) + data[4:])
    for content in (target.read_bytes(), target.read_bytes()[:-4], b""):
        target.write_bytes(content)
        refused = swarm(*new("a/card.toml", "b/card.toml"), "--after", "old", "--at-round", str(number))
        assert refused.exit_code == 2
        assert f"the model of that round is not in old; it has files of round {number}" in refused.stderr
        assert not (home / "charter.toml").exists()


def test_a_round_that_is_not_there_and_a_swarm_that_is_not_named_are_refused_in_a_sentence(home: Path) -> None:
    _, result, _, _ = learned()
    done = result.state.committed.round
    beyond = swarm(*new("a/card.toml", "b/card.toml"), "--after", "old", "--at-round", "99")
    assert f"couldn't draft a successor at round 99: that ledger has {done} committed rounds" in beyond.stderr
    nobody = swarm(*new("a/card.toml", "b/card.toml"), "--at-round", "3")
    assert "of which swarm was not said" in nobody.stderr
    assert (beyond.exit_code, nobody.exit_code) == (2, 2)


def test_the_first_model_of_all_needs_no_file_where_the_seed_says_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed, _, _, _ = learned()
    task = signed.charter.task
    monkeypatch.setattr("node.cli.charter.described_task", lambda *_: (task, ""))
    text = said(*new("a/card.toml", "b/card.toml"), "--after", "old", "--at-round", "0")
    assert "from the model that the other began with." in text
    assert "copy it" not in text
    assert drafted(home).task.initial_model == task.initial_model
    other = msgspec.structs.replace(task, seed=99, initial_model=digest("another"))
    monkeypatch.setattr("node.cli.charter.described_task", lambda *_: (other, ""))
    (home / "charter.toml").unlink()
    refused = swarm(*new("a/card.toml", "b/card.toml"), "--after", "old", "--at-round", "0")
    assert refused.exit_code == 2, "another seed: it would take the first one's file"


def test_of_a_round_of_gossip_it_is_the_model_of_a_site_whose_folder_has_it(tmp_path: Path) -> None:
    played = calm("ring")
    *_, result = audit(played.payloads, played.signed)
    site = Site(tmp_path)
    with pytest.raises(UsageError, match="it was one of gossip, which ends with a model of its own at each site"):
        model_at(result, 1, site)
    own = sorted(result.rounds[1].models.items())[2][1]
    site.blobs.mkdir(parents=True)
    (site.blobs / own.hex()).write_bytes(b"a model")
    assert model_at(result, 1, site) == own
    assert outcome_file(result, 1, own, site, tmp_path) == site.blobs / own.hex()


def test_lineage_names_the_command_and_a_draft_that_begins_with_withdrawn_work_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    signed, payloads = taken_back()
    written(tmp_path / "old site", payloads, signed=signed)
    text = said_there("ledger", "lineage", "old site")
    assert text.endswith("To go on from there: swarm charter new --after 'old site' --at-round 1 ...\n")
    task = msgspec.structs.replace(signed.charter.task, initial_model=digest("drawn"))
    monkeypatch.setattr("node.cli.charter.described_task", lambda *_: (task, ""))
    sites(tmp_path)
    (tmp_path / "task.py").write_text(TASK)
    found = swarm(*new("a/card.toml", "b/card.toml"), "--after", "old site")
    assert found.exit_code == 0, found.stderr
    words = "warning: the model of round 5 holds work that was taken back; the last without is that of round 1"
    assert f"{words}: --at-round 1" in found.stderr

"""`swarm track`: the same numbers as on the ledger, each once, in the real TensorBoard and the real MLflow."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import pytest

from node.storage import RealDisk
from node.tracking import Fed, Point, points, terms
from swarm.charter import SignedCharter
from swarm.ledger.audit import Audit, audit
from swarm.ledger.journal import Journal
from swarm.machine import RECORD_BLOCK, Record
from tests.benchmarks.ledgers import make_ledger
from tests.exchanges import calm
from tests.node.test_cli_ledger import data, refused, said, written

MEMBERS, ROUNDS = 3, 4


@functools.cache
def ledger() -> tuple[SignedCharter, Sequence[bytes]]:
    return make_ledger(members=MEMBERS, rounds=ROUNDS)[:2]


def seen(blocks: int | None = None) -> Audit:
    signed, payloads = ledger()
    *_, result = audit(payloads[:blocks], signed)
    return result


class Remembering:
    def __init__(self) -> None:
        self.had: list[Point] = []

    def put(self, fresh: list[Point]) -> None:
        self.had += fresh

    def close(self) -> None:
        pass


def test_the_points_are_the_numbers_of_the_ledger() -> None:
    result = seen()
    found = {(point.name, point.round): point.value for point in points(result)}
    for number, view in result.rounds.items():
        told = {node: dict(body.metrics)[0] / 1e6 for node, body in view.evaluations.items()}
        assert view.commit is not None
        assert found["round/samples", number] == view.commit.samples
        assert found["mean/loss", number] == pytest.approx(sum(told.values()) / MEMBERS), "ten samples held out each"
        for index, node in enumerate(seat.node for seat in result.state.terms.members):
            assert found[f"scores/loss/site-{index}", number] == told[node]
            assert found[f"weight/site-{index}", number] == pytest.approx(1 / MEMBERS)
    assert {point.time_ms for point in points(result) if point.round == 2} == {result.rounds[2].committed_ms}


def test_a_round_of_gossip_says_how_far_models_are_apart() -> None:
    played = calm("ring")
    *_, result = audit(played.payloads, played.signed)
    apart = [point.round for point in points(result) if point.name == "round/distance_max"]
    assert apart == [1, 2, 3, 4], "the fifth makes one model of all"


def test_a_ledger_that_grows_is_handed_on_without_gaps_and_without_repetition() -> None:
    tracker = Remembering()
    fed = Fed(tracker)
    for blocks in range(1, len(ledger()[1]) + 1):
        fed.feed(seen(blocks), over=blocks == len(ledger()[1]))
    places = [(point.name, point.round) for point in tracker.had]
    assert len(places) == len({*places})
    assert sorted(tracker.had, key=str) == sorted(points(seen()), key=str), "a mean is handed on when it is final"
    assert fed.feed(seen(), over=True) == 0


def test_one_place_is_named_and_only_one(tmp_path: Path) -> None:
    site = written(tmp_path / "site", ledger()[1], signed=ledger()[0])
    refused("track", site, code=2)
    refused("track", site, "--tensorboard", tmp_path / "tb", "--mlflow", "sqlite:///x", code=2)


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install 'swarm-node[trackers]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    site = written(tmp_path / "site", ledger()[1], signed=ledger()[0])
    told = data("track", site, "--tensorboard", tmp_path / "tb")
    read = EventAccumulator(str(tmp_path / "tb")).Reload()
    found = [
        (name, event.step, pytest.approx(event.value, rel=1e-6))
        for name in read.Tags()["scalars"]
        for event in read.Scalars(name)
    ]
    assert sorted((p.name, p.round, p.value) for p in points(seen())) == sorted(found, key=lambda one: one[:2])
    assert told["points"] == len(found)


def test_mlflow_has_one_run_a_ledger_however_often_it_is_tracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'swarm-node[trackers]'")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"file://{tmp_path / 'mlruns'}"
    signed, payloads = ledger()
    half = written(tmp_path / "half", payloads[: len(payloads) // 2], signed=signed)
    whole = written(tmp_path / "whole", payloads, signed=signed)
    for site in (half, whole, whole):
        data("track", site, "--mlflow", uri)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(signed.charter.name)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params == terms(seen())
    found = sorted(
        (name, one.step, one.value)
        for name in run.data.metrics
        for one in client.get_metric_history(run.info.run_id, name)
    )
    assert found == sorted((p.name, p.round, p.value) for p in points(seen()))


def test_a_run_that_is_followed_hands_on_what_each_look_finds_until_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from node.cli import track

    played = calm("ring")
    *_, whole = audit(played.payloads, played.signed)
    assert whole.state.complete
    site = written(tmp_path / "site", played.payloads[:1], signed=played.signed)
    disk, left = RealDisk(site / "ledger"), list(enumerate(played.payloads[1:], 2))
    journal = Journal(disk, ledger_id=played.signed.ledger_id, segment_bytes=1 << 17)
    journal.open()

    def wait(_: float) -> None:
        if not left:
            return
        height, payload = left.pop(0)
        journal.append([Record(RECORD_BLOCK, height, payload)])

    tracker = Remembering()
    monkeypatch.setattr(track, "sleep", wait)
    monkeypatch.setattr(track, "TensorBoard", lambda _: tracker)
    said("track", site, "--tensorboard", tmp_path / "events", "--follow")
    disk.close()
    assert sorted(map(str, tracker.had)) == sorted(map(str, points(whole)))


def test_a_bundle_is_not_followed(tmp_path: Path) -> None:
    signed, payloads = ledger()
    site = written(tmp_path / "site", payloads, signed=signed)
    said("ledger", "export", site, "--bundle", tmp_path / "a.bundle")
    message, _ = refused("track", tmp_path / "a.bundle", "--tensorboard", tmp_path / "events", "--follow", code=2)
    assert message == f"couldn't follow {tmp_path / 'a.bundle'}: nothing is ever added to a bundle or to tiles"

"""Rounds of gossip as readers see them: pairs, skips and matrices are those by which the sites really blended."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from node.cli.charter import _last_model
from node.exchanges import Exchanges, every_exchange, exchanges_of, percent
from node.report import Verdict, report
from node.site import Site
from swarm.errors import UsageError
from swarm.ledger.audit import Audit, audit
from swarm.ledger.block import NO_HASH
from swarm.machine import NodeId
from tests.builders import identity
from tests.exchanges import MEMBERS, SAMPLES, Played, calm, changing_gossip, compressed, one_way, troubled
from tests.node.test_cli_ledger import data, refused, said, written

RUNS: list[Callable[[], Played]] = [
    functools.partial(calm, "ring"),
    functools.partial(calm, "base2"),
    troubled,
    changing_gossip,
    one_way,
    functools.partial(changing_gossip, "static_exponential", "directed"),
    compressed,
    functools.partial(changing_gossip, "ring", codec="topk:100"),
]


def audited(played: Played) -> Audit:
    *_, result = audit(played.payloads, played.signed)
    assert result.failure is None
    return result


def site(folder: Path, played: Played, blocks: int | None = None) -> Path:
    return written(folder, played.payloads[:blocks], signed=played.signed, segment_bytes=1 << 20)


def of_round(played: Played, number: int) -> Exchanges:
    found = exchanges_of(played.signed, audited(played).rounds[number])
    assert found is not None
    return found


@pytest.mark.parametrize("make", RUNS)
def test_every_site_blended_by_the_matrix_that_the_ledger_tells(make: Callable[[], Played]) -> None:
    played = make()
    result, compared = audited(played), 0
    for met in every_exchange(played.signed, result):
        offered = {node: placed.body.offered[0] for node, placed in result.rounds[met.number].contributions.items()}
        for number in range(MEMBERS):
            node = identity(number).node
            blend = played.blends.get((number, met.number))
            if blend is not None:
                assert dict(blend.terms) == {offered[other]: share for other, share in met.row(node).items()}
                compared += 1
        assert met.check()
    assert compared >= 15


def test_a_ring_of_five_has_five_pairs_and_the_shares_that_its_samples_give() -> None:
    met = of_round(calm("ring"), 1)
    nodes = [identity(number).node for number in range(MEMBERS)]
    assert len(met.pairs) == met.scheduled == 5
    assert met.skipped == ()
    assert met.partners(nodes[0]) == [nodes[1], nodes[4]]
    # W is a third for each neighbour; site-1 has twice site-0's samples, site-4 five times as many.
    assert met.row(nodes[0])[nodes[1]] == pytest.approx(1 / 3)
    assert met.row(nodes[1])[nodes[0]] == pytest.approx(1 / 6)
    assert met.row(nodes[4])[nodes[0]] == pytest.approx(1 / 15)
    mean = [sum(SAMPLES[i] * met.row(node).get(other, 0.0) for i, node in enumerate(nodes)) for other in nodes]
    assert mean == pytest.approx(SAMPLES), "the weighted mean stays"


def test_who_was_away_is_why_its_partners_did_not_exchange_with_it() -> None:
    played = troubled()
    lacking = next(m for m in every_exchange(played.signed, audited(played)) if len(m.weights) < MEMBERS)
    away = identity(2).node
    assert {(skip.who, skip.why) for skip in lacking.skips(away)} == {(away, "offered no model in time")}
    assert len(lacking.skips(away)) == 2
    assert lacking.partners(away) == []
    assert lacking.row(away) == {away: 1.0}
    assert all(math.isclose(sum(lacking.row(node).values()), 1.0) for node in lacking.weights)


def test_a_bent_matrix_is_noticed() -> None:
    met = of_round(calm("ring"), 1)

    class Bent(type(met.plan)):  # type: ignore[misc]
        def shares(self, *arguments: object) -> tuple[tuple[NodeId, float], ...]:
            (first, share), *rest = met.plan.shares(*arguments)  # type: ignore[arg-type]
            return ((first, share + 0.1), *rest)

    bent = Exchanges(met.number, met.terms, met.weights, met.pairs, (), Bent("ring", played_id()))
    assert met.check()
    assert not bent.check()


def played_id() -> bytes:
    return calm("ring").signed.ledger_id


@pytest.mark.parametrize(
    ("ppm", "words"),
    [(0, "0 %"), (7, "less than 0.01 %"), (123, "0.012 %"), (638_115, "64 %"), (1_234_567, "120 %")],
)
def test_distances_are_told_as_exactly_as_sketches_tell_them(ppm: int, words: str) -> None:
    assert percent(ppm) == words


# --- the commands -------------------------------------------------------------------------------------------------


def test_a_round_says_who_exchanged_with_whom_and_who_did_not_and_why(tmp_path: Path) -> None:
    played = troubled()
    folder = site(tmp_path / "site", played)
    met = next(m for m in every_exchange(played.signed, audited(played)) if len(m.weights) < MEMBERS)
    told = data("ledger", "round", met.number, folder)
    assert told["model"] is None
    assert told["pairs"] == [[f"site-{place(met, a)}", f"site-{place(met, b)}"] for a, b in met.pairs]
    skipped = told["skipped"]
    assert isinstance(skipped, list)
    assert {"pair": ["site-1", "site-2"], "peer": "site-2", "why": "offered no model in time"} in skipped
    text = said("ledger", "round", met.number, folder)
    assert f"exchanged  {len(met.pairs)} of {met.scheduled} pairs" in text
    assert "not site-1 with site-2: site-2 offered no model in time" in text
    assert NO_HASH.hex()[:12] not in text


def place(met: Exchanges, node: NodeId) -> int:
    index = met.terms.index(node)
    assert index is not None
    return index


def test_the_matrix_is_printed_for_a_round_of_gossip_and_for_no_other(tmp_path: Path) -> None:
    folder = site(tmp_path / "site", calm("ring"))
    told = data("ledger", "round", 2, folder, "--matrix")["matrix"]
    assert isinstance(told, dict)
    assert told["peers"] == [f"site-{i}" for i in range(MEMBERS)]
    for row in told["rows"]:
        assert sum(row) == pytest.approx(1.0)
    assert told["rows"][0] == pytest.approx([1 / 3, 1 / 3, 0, 0, 1 / 3])
    assert "0.067" in said("ledger", "round", 2, folder, "--matrix"), "what site-4 takes of site-0, a fifteenth"
    message, _ = refused("ledger", "round", 5, folder, "--matrix", code=7)
    assert message == "couldn't print the matrix of round 5: all its models were averaged into one"


def test_lists_and_counts_speak_of_pairs(tmp_path: Path) -> None:
    folder = site(tmp_path / "site", calm("ring"))
    rows = data("ledger", "rounds", folder)["rounds"]
    assert isinstance(rows, list)
    assert [(row["pairs"], row["scheduled"]) for row in rows] == [(5, 5)] * 4 + [(None, None)]
    assert [row["model"] is None for row in rows] == [True] * 4 + [False]
    stats = data("ledger", "stats", folder)
    assert (stats["pairs"], stats["scheduled"]) == (20, 20)
    peer = data("ledger", "peer", "site-0", folder)["rounds"]
    assert isinstance(peer, list)
    assert [row["exchanged_with"] for row in peer] == [["site-1", "site-4"]] * 4 + [None]
    assert "holds the models of site-1, site-4" in said("ledger", "log", folder, "--kind", "receipt")
    assert "000000000000" not in said("ledger", "log", folder) + said("ledger", "rounds", folder)


def test_verify_recomputes_the_exchanges(tmp_path: Path) -> None:
    folder = site(tmp_path / "site", calm("ring"))
    told = data("ledger", "verify", folder, "--full")
    assert (told["pairs"], told["scheduled"]) == (20, 20)
    assert "✔ exchanges     20 of 20 pairs in 4 rounds of gossip, each said by both" in said("ledger", "verify", folder)


def test_a_ledger_that_ends_among_rounds_of_gossip_calls_no_model_the_common_one(tmp_path: Path) -> None:
    played = calm("ring")
    blocks = next(view.height for number, view in audited(played).rounds.items() if number == 2)
    folder = site(tmp_path / "site", played, blocks)
    assert data("ledger", "status", folder)["model"] is None
    text = said("ledger", "status", folder)
    assert "model      one of its own at each site, up to 64 % of a model's length apart, 49 % on average" in text
    assert "0000000000000000" not in text


# --- the report ---------------------------------------------------------------------------------------------------


def page(played: Played) -> str:
    return report(audited(played), played.signed, verdict=Verdict(valid=True), made_ms=1_800_000_000_000)


def test_the_report_says_who_exchanged_and_keeps_the_lineage_true() -> None:
    played = troubled()
    text, result = page(played), audited(played)
    assert "0000 0000 0000" not in text
    assert "gossip over ring" in text
    assert "offered no model in time" in text
    last = result.rounds[8].commit
    assert last is not None
    assert last.model_digest.hex()[:4] in text
    models = {model for view in result.rounds.values() for model in view.models.values()}
    for model in models:
        grouped = " ".join(model.hex()[i : i + 4] for i in range(0, 16, 4))
        assert grouped in text, "each site's own model is in the lineage"


def test_scores_of_a_sites_own_models_are_not_called_strays() -> None:
    text = page(calm("ring"))
    assert "left out here" not in text
    assert "Scores" in text


# --- what follows -------------------------------------------------------------------------------------------------


def test_a_swarm_that_stopped_among_rounds_of_gossip_goes_on_from_a_sites_own_model(tmp_path: Path) -> None:
    played = calm("ring")
    view = audited(played).rounds[2]
    folder = site(tmp_path / "site", played, view.height)
    *_, result = audit(played.payloads[: view.height], played.signed)
    with pytest.raises(UsageError, match="round 2 was one of gossip"):
        _last_model(result.state, folder)
    held = view.models[identity(3).node]
    Site(folder).blobs.mkdir(parents=True)
    (Site(folder).blobs / held.hex()).write_bytes(b"a model")
    assert _last_model(result.state, folder) == held
    ended = audited(played).state
    assert _last_model(ended, folder) == ended.committed.model, "the last round has a common one"


def test_a_whole_model_where_copies_move_is_on_record(tmp_path: Path) -> None:
    """Site-4 joins without a public copy: its first model goes whole, and what follows are messages."""
    played = changing_gossip("ring", codec="topk:100")
    rounds = [met.number for met in every_exchange(played.signed, audited(played)) if identity(4).node in met.whole]
    assert len(rounds) == 1
    folder = site(tmp_path / "site", played)
    text = said("ledger", "round", rounds[0], folder)
    assert "site-4 offered its model whole: it had no public copy to move on from" in text
    assert data("ledger", "round", rounds[0], folder)["whole"] == ["site-4"]
    assert data("ledger", "round", rounds[0] + 1, folder)["whole"] == []
    assert not any(met.whole for met in every_exchange(troubled().signed, audited(troubled())))

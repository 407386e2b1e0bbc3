"""What the page is told is what the ledger says, to the last number, and what is new alone is told again."""

from __future__ import annotations

import json

from node.dashboard.documents import SETTLING, rounds, state
from swarm.ledger.audit import audit, member_names, weights
from swarm.ledger.entry import METRIC_SCALE
from tests.exchanges import calm as gossip
from tests.node.watch.test_watch import look, status


def test_a_round_is_told_as_the_ledger_has_it() -> None:
    found = look()
    names = list(member_names(found.audit.epochs))
    for told, view in zip(rounds(found.audit), found.audit.rounds.values(), strict=True):
        assert view.closed is not None
        assert view.commit is not None
        assert told["weights"] == {names.index(node): share for node, share in weights(view).items()}
        assert told["samples"] == {names.index(node): one.body.samples for node, one in view.contributions.items()}
        assert told["model"] == view.commit.model_digest.hex()
        assert (told["closed_ms"], told["committed_ms"]) == (view.closed_ms, view.committed_ms)
        assert told["swarm"] == {
            names.index(node): {index: value / METRIC_SCALE for index, value in one.metrics}
            for node, one in view.evaluations.items()
        }


def test_where_the_time_of_a_round_went_is_told_by_each_author() -> None:
    for told in rounds(look().audit):
        assert len(told["offered"]) == len(told["attested"]) == 3  # type: ignore[arg-type]
        assert all(at >= told["began_ms"] for at in told["offered"].values())  # type: ignore[attr-defined]
        assert all(at >= told["closed_ms"] - 1000 for at in told["attested"].values())  # type: ignore[attr-defined,operator]


def test_only_rounds_that_may_have_changed_are_told_again() -> None:
    found = look().audit
    every = [told["round"] for told in rounds(found)]
    assert [told["round"] for told in rounds(found, every[-1] + SETTLING)] == every[-1:]  # type: ignore[operator]
    assert rounds(found, every[-1] + SETTLING + 1) == []  # type: ignore[operator]


def test_pairs_are_those_that_exchanged_models() -> None:
    played = gossip("ring")
    *_, found = audit(played.payloads, played.signed)
    told = rounds(found)
    assert {*told[0]["pairs"]} == {(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)}, "a ring of five"  # type: ignore[misc]
    assert told[0]["distance_max"] is not None
    assert told[-1]["pairs"] == [], "the last round ends with one model"


def test_a_node_that_does_not_run_leaves_the_ledgers_part_and_says_so() -> None:
    told = state(look())
    assert told["node"] is None
    assert told["silence"]
    sites = told["sites"]
    assert isinstance(sites, list)
    assert [one["me"] for one in sites] == [True, False, False], "by its name"
    assert [one["rounds"] for one in sites] == [2, 2, 2]


def test_what_the_node_says_of_a_link_is_told_with_the_site_it_goes_to() -> None:
    nodes = [node.hex() for node in member_names(look().audit.epochs)]
    links = [
        {"node": node, "name": f"site-{i}", "me": not i, "linked": i < 2, "phase": "training"}
        for i, node in enumerate(nodes)
    ]
    found = look(status(members=links))
    told = json.loads(json.dumps({"state": state(found), "rounds": rounds(found.audit)}))
    assert [one["link"]["linked"] for one in told["state"]["sites"]] == [True, True, False]
    assert [one["words"] for one in told["state"]["sites"]] == ["training", "training", "no link"]

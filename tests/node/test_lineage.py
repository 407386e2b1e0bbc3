"""Which models hold whose work, by hand-checked paths; what was taken back stays on record and is said everywhere."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import pytest

from node.card import card
from node.lineage import Work, holding, steps, withdrawals, withdrawn, works_of
from swarm import codec
from swarm.charter import SignedCharter
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, audit
from swarm.ledger.state import decode_body
from swarm.machine import RECORD_BLOCK, NodeId
from tests.benchmarks.ledgers import make_ledger
from tests.builders import digest, make_swarm
from tests.exchanges import calm
from tests.node.test_cli_ledger import data, refused, said, written
from tests.simulation.stories import done, tell
from tests.simulation.test_membership import committed

ROUNDS = 4


@functools.cache
def exact() -> tuple[SignedCharter, Audit]:
    signed, payloads, _ = make_ledger(members=3, rounds=ROUNDS)
    return signed, audited(signed, payloads)


def audited(signed: SignedCharter, payloads: Sequence[bytes]) -> Audit:
    *_, result = audit(payloads, signed)
    assert result.failure is None
    return result


def member(signed: SignedCharter, index: int) -> NodeId:
    return signed.charter.members[index].node


# --- exact mixing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "last", "held"), [(1, 1, (1, 2, 3, 4)), (3, 3, (3, 4)), (4, 9, (4,)), (2, 3, (2, 3, 4))]
)
def test_every_model_from_the_first_that_had_the_work_in_it_holds_it(
    first: int, last: int, held: Sequence[int]
) -> None:
    signed, result = exact()
    found = holding(signed, result, works_of(result, member(signed, 1), first, last))
    assert (found.rounds, found.clean, found.sites) == (held, held[0] - 1, {})


def test_no_model_holds_the_work_of_nobody() -> None:
    signed, result = exact()
    assert works_of(result, member(signed, 1), 5, 9) == frozenset()
    found = holding(signed, result, [Work(NodeId(digest("a stranger")), 1)])
    assert (found.rounds, found.clean) == ((), ROUNDS)


def test_each_model_is_made_from_the_one_before_and_shares_that_are_all_of_it() -> None:
    signed, result = exact()
    made = steps(result)
    assert [step.number for step in made] == [1, 2, 3, 4]
    assert made[0].base == signed.charter.task.initial_model
    assert [step.base for step in made[1:]] == [step.model for step in made[:-1]]
    assert made[-1].model == result.state.committed.model
    for step in made:
        assert sum(share.share for share in step.shares) == pytest.approx(1.0)
        assert {share.work for share in step.shares} == {Work(member(signed, i), step.number) for i in range(3)}


# --- gossip -------------------------------------------------------------------------------------------------------


def test_in_a_ring_work_gets_two_sites_further_with_every_round() -> None:
    """Five sites in a ring, 0-1-2-3-4-0: what 0 learnt in round 2 is at 4, 0, 1 after it, and everywhere after 3."""
    played = calm("ring")
    signed, result = played.signed, audited(played.signed, played.payloads)
    found = holding(signed, result, works_of(result, member(signed, 0), 2, 2))
    near = tuple(sorted(member(signed, i) for i in (4, 0, 1)))
    everybody = tuple(sorted(member(signed, i) for i in range(5)))
    assert (found.rounds, found.clean) == ((2, 3, 4, 5), 1)
    assert dict(found.sites) == {2: near, 3: everybody, 4: everybody}, "round 5 makes one model of all"


def test_work_of_the_last_round_is_in_the_common_model_alone() -> None:
    played = calm("ring")
    result = audited(played.signed, played.payloads)
    found = holding(played.signed, result, works_of(result, member(played.signed, 3), 5, 5))
    assert (found.rounds, found.clean, found.sites) == ((5,), 4, {})


def test_a_round_of_gossip_ends_in_no_one_model() -> None:
    played = calm("ring")
    made = steps(audited(played.signed, played.payloads))
    assert [step.model is None for step in made] == [True] * 4 + [False]
    assert made[-1].base is None


# --- taking back --------------------------------------------------------------------------------------------------


@functools.cache
def taken_back() -> tuple[SignedCharter, tuple[bytes, ...]]:
    """A run of five rounds in which site-1 takes back what it learnt in rounds 2 and 3, once 3 is over."""
    swarm = make_swarm(4, rounds=5)
    world = tell(4, swarm=swarm)
    assert world.run(lambda w: committed(w, 1, 3))
    world.ask(1, "withdraw 2 3")
    assert world.run(done)
    journal = world.place(0).journal
    assert journal is not None
    return swarm.signed, tuple(r.payload for r in journal.open().records if r.kind == RECORD_BLOCK)


def test_what_a_site_takes_back_is_on_record_and_changes_nothing_else() -> None:
    signed, payloads = taken_back()
    result = audited(signed, payloads)
    (one,) = withdrawals(result)
    me = member(signed, 1)
    assert (one.author, one.body) == (me, e.Annotation(e.WITHDRAWAL, 2, 3))
    assert withdrawn(result) == {Work(me, 2), Work(me, 3)}
    assert holding(signed, result, withdrawn(result)).rounds == (2, 3, 4, 5)
    assert result.state.complete


def test_every_member_is_told_that_a_site_takes_back_its_work() -> None:
    world = tell(3, rounds=3)
    assert world.run(lambda w: committed(w, 1, 1))
    world.ask(1, "withdraw 1 1")
    assert world.run(done)
    for place in world.places:
        told = [report.text for _, report in place.reports if report.event == "withdrawn"]
        assert told == ["site-1 withdrew its work of round 1: `swarm ledger lineage` shows which models hold it"]


@pytest.mark.parametrize(("first", "last"), [(0, 1), (3, 2), (1, 1_000_001), (-1, 2)])
def test_rounds_that_cannot_be_are_not_taken_back(first: int, last: int) -> None:
    signed, _ = exact()
    body = e.Annotation(e.WITHDRAWAL, first, last)
    entry = e.Entry(1, e.ANNOTATION, signed.ledger_id, bytes(32), 0, bytes(32), 0, codec.encode(body), bytes(64))
    with pytest.raises(Reject, match="rounds are out of range"):
        decode_body(entry)


def test_an_annotation_of_an_unknown_kind_is_refused() -> None:
    signed, _ = exact()
    entry = e.Entry(1, e.ANNOTATION, signed.ledger_id, bytes(32), 0, bytes(32), 0, codec.encode((3, 1, 1)), bytes(64))
    with pytest.raises(Reject, match="its code is unknown"):
        decode_body(entry)


@pytest.mark.parametrize("question", ["withdraw 4 5", "withdraw 0 1", "withdraw 2 1", "withdraw one two"])
def test_a_node_takes_back_no_work_of_rounds_that_are_not_there(question: str) -> None:
    world = tell(3, rounds=1)
    assert world.run(done)
    world.ask(0, question)
    assert world.run(lambda w: bool(w.place(0).answers), end_s=200)
    assert ["error" in answer.reply for answer in world.place(0).answers] == [True]


# --- what is said -------------------------------------------------------------------------------------------------


def test_the_lineage_names_who_took_back_what_and_from_where_to_begin_again(tmp_path: Path) -> None:
    signed, payloads = taken_back()
    site = written(tmp_path / "site", payloads, signed=signed)
    text = said("ledger", "lineage", site)
    assert "site-1             its work of rounds 2 to 3, on 2025-" in text
    assert "The models of rounds 2 to 5 hold it.\nThe last without is the model of round 1:" in text
    found = data("ledger", "lineage", site)
    assert (found["holding"], found["clean"]) == ([2, 3, 4, 5], 1)
    assert "withdrew its work of rounds 2 to 3" in said("ledger", "log", site)
    assert "The models of rounds 1 to 5 hold it." in said("ledger", "lineage", site, "--of", "site-2")
    refused("ledger", "lineage", site, "--round", "9", code=7)
    refused("ledger", "lineage", site, "--round", "nine", code=2)
    refused("ledger", "lineage", site, "--of", "nobody", code=7)


def test_in_gossip_the_lineage_says_from_which_round_on_all_sites_hold_the_work(tmp_path: Path) -> None:
    played = calm("ring")
    site = written(tmp_path / "site", played.payloads, signed=played.signed)
    assert "all of them do from round 2 on" in said("ledger", "lineage", site, "--of", "site-0")


def test_a_card_says_whose_work_is_in_the_model_and_that_some_was_taken_back(tmp_path: Path) -> None:
    signed, payloads = taken_back()
    site, target = written(tmp_path / "site", payloads, signed=signed), tmp_path / "card.md"
    said("ledger", "card", site, "-o", target)
    text = target.read_text()
    assert text == card(signed, audited(signed, payloads)), "the same bytes at every site"
    assert "| site-1 | 200 | 20.0% | 1 to 5 | none |" in text
    assert "**This model holds work that was taken back.** The last that holds none is that of round 1." in text
    assert f"| Ledger | `{signed.ledger_id.hex()}` |" in text
    assert text.startswith("---\nlibrary_name: pytorch\n")


def test_a_card_takes_no_word_of_a_stranger_for_markup() -> None:
    from node.card import _row

    assert _row(["a|b", "<script>"]) == "| a\\|b | &lt;script> |"


def test_there_is_no_card_of_a_model_that_is_not_there(tmp_path: Path) -> None:
    signed, payloads, _ = make_ledger(members=3, rounds=1)
    site = written(tmp_path / "site", payloads[:1], signed=signed)
    message, _ = refused("ledger", "card", site, "-o", tmp_path / "card.md", code=7)
    assert message == "there is no model to write a card of: no round is committed yet"
    assert not (tmp_path / "card.md").exists()

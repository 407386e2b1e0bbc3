"""What proves a contradiction, and everything that only looks like it."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from swarm import codec
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger import evidence as ev
from swarm.ledger.audit import audit
from swarm.ledger.block import (
    FINALIZE,
    NOTARIZE,
    SKIP,
    Block,
    FinalBlock,
    Header,
    Vote,
    propose_message,
    vote_message,
)
from swarm.ledger.views import Contradiction
from swarm.machine import RECORD_BLOCK, NodeId
from swarm.terms import founding
from tests.builders import contribution, digest, make_swarm
from tests.simulation.campaign import caught
from tests.simulation.stories import done, tell

SWARM = make_swarm(4)
TERMS = founding(SWARM.charter)
OTHER = make_swarm(4, rounds=9)
LEDGER = SWARM.signed.ledger_id
NODES = [who.node for who in SWARM.identities]
ONE, TWO = digest("one block"), digest("another")
NOTHING = bytes(32)


def vote(signer: int, kind: int, block: bytes, *, view: int = 3, ledger: bytes = LEDGER, epoch: int = 0) -> bytes:
    message = vote_message(ledger, epoch, view, kind, block)
    signature = SWARM.identities[signer].vote_key.sign(message)
    return codec.encode(Vote(epoch, view, kind, block, signer, signature))


def header(name: str, *, view: int = 3) -> Header:
    return Header(0, view, 1, bytes(32), 0, 1, 1, 0, 1, digest(name), bytes(32), bytes(32), bytes(32))


def block(signer: int, name: str, *, view: int = 3) -> Block:
    encoded = header(name, view=view).encode()
    return Block(encoded, (), (), signer, SWARM.identities[signer].vote_key.sign(propose_message(LEDGER, encoded)))


def proposal(signer: int, name: str, *, view: int = 3) -> bytes:
    made = block(signer, name, view=view)
    return codec.encode(ev.Proposal(made.header, made.signature))


def entry(author: int, seq: int, body: msgspec.Struct, kind: int = e.CONTRIBUTION, ledger: bytes = LEDGER) -> bytes:
    return e.sign_entry(
        SWARM.identities[author].id_key,
        ledger_id=ledger,
        author=NODES[author],
        kind=kind,
        seq=seq,
        prev=bytes(32),
        ts_ms=1,
        body=body,
    ).encode()


def offer(author: int, *, attempt: int = 1, number: int = 1, samples: int = 10) -> e.Contribution:
    return contribution(SWARM, author, attempt=attempt, number=number, samples=samples)


def charge(rule: int, culprit: int, *messages: bytes) -> e.Evidence:
    return e.Evidence(rule, NODES[culprit], *sorted(messages))


def holds(body: e.Evidence) -> bool:
    try:
        ev.judge(body, SWARM.signed.ledger_id, (TERMS,))
    except Reject:
        return False
    return True


PAIRS = {
    ev.TWO_NOTARIZED: (vote(2, NOTARIZE, ONE), vote(2, NOTARIZE, TWO)),
    ev.SKIPPED_AND_FINALIZED: (vote(2, SKIP, NOTHING), vote(2, FINALIZE, ONE)),
    ev.TWO_FINALIZED: (vote(2, FINALIZE, ONE), vote(2, FINALIZE, TWO)),
    ev.NOTARIZED_AND_FINALIZED: (vote(2, NOTARIZE, ONE), vote(2, FINALIZE, TWO)),
    ev.TWO_PROPOSALS: (proposal(2, "a"), proposal(2, "b")),
    ev.TWO_ENTRIES: (entry(2, 5, offer(2)), entry(2, 5, offer(2, samples=11))),
    ev.TWO_CONTRIBUTIONS: (entry(2, 5, offer(2)), entry(2, 6, offer(2, samples=11))),
}


@pytest.mark.parametrize("rule", sorted(ev.RULES))
def test_each_rule_is_proved_by_its_pair_and_by_no_other_rules_pair(rule: int) -> None:
    assert holds(charge(rule, 2, *PAIRS[rule]))
    for other, pair in PAIRS.items():
        assert holds(charge(rule, 2, *pair)) == (rule == other)


@pytest.mark.parametrize("rule", sorted(ev.RULES))
def test_nobody_else_can_be_charged_with_it(rule: int) -> None:
    for member in (0, 1, 3):
        assert not holds(charge(rule, member, *PAIRS[rule]))
    assert not holds(msgspec.structs.replace(charge(rule, 2, *PAIRS[rule]), culprit=bytes(32)))


@pytest.mark.parametrize("rule", sorted(ev.RULES))
def test_a_pair_has_one_form_and_is_two_messages(rule: int) -> None:
    first, second = sorted(PAIRS[rule])
    assert not holds(e.Evidence(rule, NODES[2], second, first))
    assert not holds(e.Evidence(rule, NODES[2], first, first))


@pytest.mark.parametrize("rule", sorted(ev.RULES))
def test_one_changed_byte_anywhere_proves_nothing(rule: int) -> None:
    first, second = sorted(PAIRS[rule])
    for place in range(0, len(first), 7):
        bent = first[:place] + bytes([first[place] ^ 1]) + first[place + 1 :]
        assert not holds(e.Evidence(rule, NODES[2], *sorted((bent, second)))), place


@pytest.mark.parametrize(
    ("rule", "pair"),
    [
        (ev.TWO_NOTARIZED, (vote(2, NOTARIZE, ONE), vote(2, NOTARIZE, TWO, view=4))),
        (ev.SKIPPED_AND_FINALIZED, (vote(2, NOTARIZE, ONE), vote(2, SKIP, NOTHING))),
        (ev.NOTARIZED_AND_FINALIZED, (vote(2, NOTARIZE, ONE), vote(2, FINALIZE, ONE))),
        (ev.TWO_PROPOSALS, (proposal(2, "a"), proposal(2, "b", view=4))),
        (ev.TWO_ENTRIES, (entry(2, 5, offer(2)), entry(2, 6, offer(2, number=2)))),
        (ev.TWO_CONTRIBUTIONS, (entry(2, 5, offer(2)), entry(2, 6, offer(2, attempt=2)))),
        (
            ev.TWO_CONTRIBUTIONS,
            (
                entry(2, 5, e.Evaluation(1, ONE, 5, ()), e.EVALUATION),
                entry(2, 6, e.Evaluation(1, ONE, 6, ()), e.EVALUATION),
            ),
        ),
    ],
)
def test_what_an_honest_member_may_well_say_proves_nothing(rule: int, pair: tuple[bytes, bytes]) -> None:
    assert not holds(charge(rule, 2, *pair))


def test_messages_of_another_ledger_prove_nothing_here() -> None:
    foreign = OTHER.signed.ledger_id
    votes = (vote(2, NOTARIZE, ONE, ledger=foreign), vote(2, NOTARIZE, TWO, ledger=foreign))
    entries = (entry(2, 5, offer(2), ledger=foreign), entry(2, 5, offer(2, samples=11), ledger=foreign))
    assert not holds(charge(ev.TWO_NOTARIZED, 2, *votes))
    assert not holds(charge(ev.TWO_ENTRIES, 2, *entries))


def test_two_signatures_of_one_message_are_no_contradiction() -> None:
    """Ed25519 signers choose a nonce; one who chooses another makes another valid signature of the same bytes."""
    leaf = entry(2, 5, offer(2))
    again = msgspec.structs.replace(e.decode_entry(leaf), signature=bytes(64)).encode()
    assert not holds(charge(ev.TWO_ENTRIES, 2, leaf, again))


def test_what_consensus_notices_becomes_a_charge_that_holds() -> None:
    for rule in (ev.TWO_NOTARIZED, ev.SKIPPED_AND_FINALIZED, ev.TWO_FINALIZED, ev.NOTARIZED_AND_FINALIZED):
        for pair in itertools.permutations(PAIRS[rule]):
            body = ev.from_contradiction(Contradiction("", 2, 3, *pair), TERMS)
            assert body == charge(rule, 2, *PAIRS[rule])
    blocks = [codec.encode(block(2, name)) for name in ("a", "b")]
    body = ev.from_contradiction(Contradiction("", 2, 3, *blocks), TERMS)
    assert body == charge(ev.TWO_PROPOSALS, 2, *PAIRS[ev.TWO_PROPOSALS])


def test_two_entries_too_long_for_one_are_not_recorded() -> None:
    names = [(i, 1) for i in range(e.METRICS_MAX)]
    long = e.BlockCert(b"x" * 40_000, b"")
    leaves = [entry(2, 5, long, e.ANNOTATION), entry(2, 5, e.BlockCert(b"y" * 40_000, b""), e.ANNOTATION)]
    assert ev.from_entries(NodeId(NODES[2]), *leaves) is None
    short = [entry(2, 5, e.Evaluation(1, ONE, n, tuple(names)), e.EVALUATION) for n in (1, 2)]
    assert ev.from_entries(NodeId(NODES[2]), *short) is not None


def test_in_a_run_without_liars_nobody_is_accused() -> None:
    world = tell(4, seed=3, rounds=3)
    assert world.run(done, end_s=300.0)
    assert all(not place.machine.replica.head.accused for place in world.places if place.machine)


def test_a_liar_is_on_record_in_the_ledger_and_an_auditor_finds_the_proof_there() -> None:
    world = caught()
    place = world.place(0)
    assert place.machine is not None
    accused = place.machine.replica.head.accused
    assert {node for node, _ in accused} == {NODES[3]}
    journal = place.journal
    assert journal is not None
    payloads = [record.payload for record in journal.open().records if record.kind == RECORD_BLOCK]
    *_, audited = audit(payloads, place.machine.replica.head.signed)
    assert audited.failure is None
    assert audited.state.accused == accused
    # Taken out of the ledger, the proof stands on nothing but the charter.
    leaves = [leaf for data in payloads for leaf in codec.decode(data, FinalBlock, limit=1 << 21).block.leaves]
    index = next(iter(accused.values()))
    body = codec.decode(e.decode_entry(leaves[index - 1]).body, e.Evidence, limit=e.ENTRY_BYTES_MAX)
    ev.judge(body, place.machine.replica.head.ledger_id, (place.machine.replica.head.terms,))
    assert "site-3" in ev.describe(body, lambda node: f"site-{NODES.index(node)}")

"""Rounds of gossip in the log: receipts, pairs, attests, commits."""

from __future__ import annotations

import random
import struct

import msgspec
import pytest
from msgspec.structs import replace

from swarm import terms as t
from swarm.charter import make_card
from swarm.errors import Reject
from swarm.gossip_round import GossipRound
from swarm.ledger import entry as e
from swarm.ledger import snapshot
from swarm.ledger.block import Root
from swarm.ledger.exchange import Due, Exchange, Own, Part, distances_ppm, inner_products, partners
from swarm.ledger.state import (
    Closed,
    Signatures,
    State,
    activate,
    apply_authored,
    apply_derived,
    decode_body,
    due_commit,
    genesis,
    make_close,
    open_authored,
)
from swarm.machine import Blend, Digest, NodeId
from swarm.mixing.sketch import BUCKETS, FRACTION_BITS, SKETCH_BYTES
from tests.builders import CODE, Feeds, Swarm, contribution, digest, identity, make_swarm
from topologies.plan import SchedulePlan

SWARM = make_swarm(4, rounds=3, schedule="ring")
NODES = [who.node for who in SWARM.identities]


def told(*values: float) -> bytes:
    sums = [round(value * 2**FRACTION_BITS) for value in values] + [0] * (BUCKETS - len(values))
    return struct.pack(f">{BUCKETS}q", *sums)


def started(base: bytes) -> e.Contribution:
    """Return a contribution that starts from this model."""
    return contribution(SWARM, 0, base=base)


class Log:
    """A state to which members' entries are appended."""

    def __init__(self, swarm: Swarm = SWARM) -> None:
        self.feeds = Feeds(swarm)
        self.state: State = genesis(swarm.signed)

    def say(self, author: int, body: msgspec.Struct) -> None:
        leaf = self.feeds.write(author, body)
        entry = e.decode_entry(leaf)
        self.state = apply_authored(self.state, open_authored(self.state, entry, leaf, Signatures()))

    def contribute(self, *authors: int, number: int = 1, bases: dict[int, bytes] | None = None) -> None:
        for author in authors:
            base = (bases or {}).get(author, b"")
            self.say(author, contribution(SWARM, author, number=number, base=base))

    def index_of(self, author: int) -> int:
        return self.state.contributions[self.state.round, NODES[author]].index

    def receive(self, author: int, *others: int) -> None:
        held = tuple(sorted(self.index_of(other) for other in others))
        self.say(author, e.Receipt(self.state.round, held))

    def close(self) -> None:
        placed = [p for (r, _), p in self.state.contributions.items() if r == self.state.round]
        close = make_close(self.state, placed, {})
        self.state = apply_derived(self.state, e.ROUND_CLOSE, close, self.state.time_ms + 1)

    def attest(self, author: int, sketch: bytes, *, model: str = "", round_: int = 0) -> None:
        assert self.state.close is not None or round_
        index = self.state.close.index if self.state.close else 0
        name = model or f"model of {author}"
        self.say(author, e.Attest(round_ or self.state.round, index, digest(name), 128, (), sketch))

    def commit(self) -> e.RoundCommit:
        body = due_commit(self.state)
        assert body is not None
        self.state = apply_derived(self.state, e.ROUND_COMMIT, body, self.state.time_ms + 1)
        return body


def exchanged(log: Log) -> list[set[int]]:
    assert log.state.exchange is not None
    indices = {NODES[i]: log.index_of(i) for i in range(4) if (log.state.round, NODES[i]) in log.state.contributions}
    return [{NODES.index(o) for o in partners(node, indices, log.state.exchange.receipts)} for node in NODES]


def test_a_pair_has_exchanged_if_both_say_so() -> None:
    log = Log()
    log.contribute(0, 1, 2, 3)
    log.receive(0, 1, 3)
    log.receive(1, 0, 2)
    log.receive(2, 1)
    assert exchanged(log) == [{1}, {0, 2}, {1}, set()]


def test_the_last_word_before_the_close_counts_and_none_after() -> None:
    log = Log()
    log.contribute(0, 1, 2, 3)
    log.receive(0)
    log.receive(1, 0)
    log.receive(0, 1)
    assert exchanged(log)[0] == {1}
    log.close()
    log.receive(0)
    assert exchanged(log)[0] == {1}, "what is agreed on stays"


def test_a_receipt_of_another_round_says_nothing() -> None:
    log = Log()
    log.contribute(0, 1)
    log.say(0, e.Receipt(2, (log.index_of(1),)))
    log.receive(1, 0)
    assert exchanged(log)[0] == set()


def test_a_round_commits_with_a_quorum_and_says_how_far_apart() -> None:
    log = Log()
    log.contribute(0, 1, 2, 3)
    log.close()
    log.attest(0, told(3.0, 4.0))
    log.attest(1, told(3.0, 0.0))
    assert due_commit(log.state) is None
    log.attest(2, told(0.0, 4.0))
    body = log.commit()
    assert (body.model_digest, body.model_bytes, body.attests) == (bytes(32), 0, 3)
    # The largest norm is 5; distances are 4, 3 and 5.
    assert body.distance_max_ppm == 1_000_000
    assert body.distance_mean_ppm == (800_000 + 600_000 + 1_000_000) // 3
    assert log.state.round == 2
    assert log.state.exchange is not None
    assert not log.state.exchange.receipts
    assert not log.state.exchange.sketches


def test_fewer_than_a_quorum_in_a_round_are_enough_to_end_it() -> None:
    log = Log()
    log.contribute(0, 1)
    log.close()
    log.attest(0, told(1.0))
    assert due_commit(log.state) is None
    log.attest(3, told(9.0))
    assert due_commit(log.state) is None, "who was not in the round cannot end it"
    log.attest(1, told(1.0))
    assert log.commit().distance_max_ppm == 0


def test_an_attest_without_a_sketch_does_not_count() -> None:
    log = Log()
    log.contribute(0, 1, 2)
    log.close()
    log.attest(0, b"")
    assert log.state.attests == {}
    assert log.state.exchange is not None
    assert log.state.exchange.models == {}


def test_members_go_on_from_their_own_models() -> None:
    log = Log()
    log.contribute(0, 1, 2)
    log.close()
    for author in range(3):
        log.attest(author, told(float(author)))
    log.commit()
    own = digest("model of 0")
    assert log.state.starts_well(NODES[0], started(own))
    assert not log.state.starts_well(NODES[0], started(digest("model of 1")))
    assert log.state.starts_well(NODES[3], started(digest("anything"))), "it has none yet"


def test_a_late_attest_tells_the_model_and_ends_no_round() -> None:
    log = Log()
    log.contribute(0, 1, 2, 3)
    log.close()
    close = log.state.close
    assert close is not None
    for author in range(3):
        log.attest(author, told(1.0))
    log.commit()
    log.say(3, e.Attest(1, close.index, digest("late"), 128, (), told(1.0)))
    assert log.state.exchange is not None
    assert log.state.exchange.models[NODES[3]] == Own(1, digest("late"), 128)
    assert log.state.attests == {}
    log.say(3, e.Attest(1, close.index, digest("later"), 128, (), told(1.0)))
    assert log.state.exchange.models[NODES[3]].model == digest("late"), "its first word of a round stands"


def test_who_missed_the_end_of_a_round_makes_up_for_it_before_it_takes_part_in_another() -> None:
    """Its partners have taken its model already: would it not take theirs, the weighted mean would move."""
    log = Log()
    log.contribute(0, 1, 2, 3)
    log.receive(3, 0, 2)
    log.receive(0, 3)
    log.receive(2, 1)
    log.close()
    assert log.state.close is not None
    offered = {placed.author: placed.body.update_digest for placed in log.state.close.terms}
    index = log.state.close.index
    for author in range(3):
        log.attest(author, told(1.0))
    log.commit()
    assert log.state.exchange is not None
    parts = tuple(Part(NODES[i], offered[NODES[i]], 128, 10) for i in range(4) if i in (0, 3))
    expected = tuple(part for node in sorted_seats(log.state) for part in parts if part.giver == node)
    assert log.state.exchange.dues == {NODES[3]: Due(1, index, 0, 0, expected)}
    assert not log.state.starts_well(NODES[3], started(digest("anything")))
    assert snapshot.decode(snapshot.encode(log.state), State, SWARM.signed) == log.state
    log.contribute(0, 1, 2, number=2, bases={i: digest(f"model of {i}") for i in range(3)})
    log.close()
    for author in range(3):
        log.attest(author, told(2.0), model=f"next of {author}")
    log.commit()
    assert log.state.exchange.dues[NODES[3]].round == 1, "however long it takes"
    log.say(3, e.Attest(1, index, digest("late"), 128, (), told(1.0)))
    assert log.state.exchange.dues == {}
    assert log.state.exchange.models[NODES[3]] == Own(1, digest("late"), 128)
    assert log.state.starts_well(NODES[3], started(digest("late")))


def sorted_seats(state: State) -> list[NodeId]:
    return [seat.node for seat in state.terms.members]


def test_an_attest_of_this_close_for_another_round_says_nothing() -> None:
    log = Log()
    log.contribute(0, 1)
    log.close()
    log.attest(0, told(1.0), round_=99)
    assert log.state.attests == {}
    assert log.state.exchange is not None
    assert log.state.exchange.models == {}, "or it could never name another"


def test_nobody_attests_a_round_that_is_not_closed() -> None:
    log = Log()
    log.contribute(0, 1)
    log.say(0, e.Attest(1, 17, digest("early"), 128, (), told(1.0)))
    assert log.state.exchange is not None
    assert log.state.exchange.models == {}


def run_to_the_merge() -> Log:
    log = Log()
    for number in (1, 2):
        models = {} if log.state.exchange is None else log.state.exchange.models
        bases = {i: models[node].model for i, node in enumerate(NODES) if node in models}
        log.contribute(0, 1, 2, 3, number=number, bases=bases)
        log.close()
        for author in range(4):
            log.attest(author, told(1.0), model=f"{number}/{author}")
        log.commit()
    log.contribute(0, 1, 2, 3, number=3, bases={i: digest(f"2/{i}") for i in range(4)})
    return log


def test_the_last_round_is_exact() -> None:
    log = run_to_the_merge()
    assert not log.state.exchanging
    log.close()
    for author in range(3):
        log.attest(author, b"", model="the merged one")
    body = log.commit()
    assert body.model_digest == digest("the merged one")
    assert (body.distance_max_ppm, body.distance_mean_ppm) == (0, 0)
    assert log.state.complete
    assert all(log.state.starts_well(node, started(digest("the merged one"))) for node in NODES), (
        "should a vote add rounds"
    )


def test_a_vote_on_the_number_of_rounds_does_not_change_what_a_closed_round_is() -> None:
    log = run_to_the_merge()
    log.close()
    policy = replace(log.state.terms.round, rounds=10)
    log.state = replace(log.state, terms=replace(log.state.terms, round=policy))
    assert not log.state.exchanging
    for author in range(3):
        log.attest(author, b"", model="the merged one")
    assert log.commit().model_digest == digest("the merged one")


def test_who_leaves_is_forgotten() -> None:
    exchange = Exchange({NODES[0]: (1,), NODES[1]: (2,)}, {NODES[0]: Own(1, digest("m"), 4)}, {NODES[0]: b"s"})
    assert exchange.without([NODES[0]]) == Exchange({NODES[1]: (2,)}, {}, {})


def test_the_state_is_read_back_as_it_was() -> None:
    log = Log()
    log.contribute(0, 1, 2, 3)
    log.receive(0, 1, 3)
    log.close()
    log.attest(0, told(1.0))
    again = snapshot.decode(log.state.encode(), State, SWARM.signed)
    assert again.encode() == log.state.encode()
    assert again.exchange == log.state.exchange
    assert isinstance(again.close, Closed)
    assert again.close.exchange


@pytest.mark.parametrize("held", [(2, 1), (1, 1), tuple(range(1001))])
def test_a_receipt_out_of_order_or_bounds_is_refused(held: tuple[int, ...]) -> None:
    leaf = Feeds(SWARM).write(0, e.Receipt(1, held))
    with pytest.raises(Reject, match="receipt"):
        decode_body(e.decode_entry(leaf))


@pytest.mark.parametrize("size", [1, SKETCH_BYTES - 1, SKETCH_BYTES + 8])
def test_a_sketch_of_another_size_is_refused(size: int) -> None:
    leaf = Feeds(SWARM).write(0, e.Attest(1, 5, digest("m"), 128, (), bytes(size)))
    with pytest.raises(Reject, match="sketch"):
        decode_body(e.decode_entry(leaf))


def test_distances_of_one_or_of_nothing_are_zero() -> None:
    a, b = NodeId(bytes(32)), NodeId(bytes([1] * 32))
    assert distances_ppm({}) == distances_ppm({a: told(5.0)}) == distances_ppm({a: told(), b: told()}) == (0, 0)


@pytest.mark.parametrize("largest", [0, 1, 2**20, 2**21 - 1, 2**45, 2**62, 2**63 - 1])
def test_inner_products_are_exact_whatever_the_size_of_the_numbers(largest: int) -> None:
    rng = random.Random(largest)
    vectors = [[rng.randint(-largest, largest) for _ in range(128)] for _ in range(4)]
    vectors.append([-largest - (largest > 0)] * 128)
    vectors.append([largest] * 128)
    expected = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in vectors] for one in vectors]
    assert inner_products(vectors) == expected


# --- epochs that begin while a round is closed ----------------------------------------------------------------------


def in_the_next_epoch(state: State, change: t.Change) -> State:
    """Return the state when a vote has changed the members, with the terms that follow."""
    coming = t.amended(state.terms, change, NODES[0], SWARM.charter)
    return activate(replace(state, coming=coming), Root(bytes(32), 1, 1))


def newcomer() -> t.Change:
    return t.add(make_card(identity(9), name="newcomer", endpoint="tcp://127.0.0.1:17999"))


class Everything:
    """A witness to whom every model has come."""

    def usable(self, _: Digest) -> bool:
        return True

    def moving(self, _: Digest, now: float) -> bool:
        return now < 0

    def silent(self, _: NodeId, now: float) -> bool:
        return now < 0


def row_of(state: State, member: int) -> tuple[tuple[bytes, float], ...]:
    """Return what a member blends its model of."""
    plan = SchedulePlan("ring", SWARM.signed.ledger_id)
    round_ = GossipRound(
        SWARM.charter, NODES[member], code_digest=CODE, data_digest=bytes(32), plan=plan, witness=Everything()
    )
    actions = round_.advance(state, [], lambda _: True, state.opened_ms / 1000)
    (blend,) = [action for action in actions if isinstance(action, Blend)]
    return blend.terms


@pytest.mark.parametrize("change", [t.remove(NODES[1]), newcomer()], ids=["one leaves", "one joins"])
def test_an_epoch_that_begins_before_a_member_has_blended_does_not_change_its_row(change: t.Change) -> None:
    log = Log()
    log.contribute(0, 1, 2, 3)
    for author in range(4):
        log.receive(author, (author + 1) % 4, (author - 1) % 4)
    log.close()
    later = in_the_next_epoch(log.state, change)
    assert later.terms.epoch == 1
    for member in (0, 2, 3):
        assert len(row_of(log.state, member)) == 3
        assert row_of(later, member) == row_of(log.state, member), "others may have blended before"


def test_a_round_of_gossip_ends_without_who_left_when_it_was_closed() -> None:
    log = Log()
    log.contribute(0, 1)
    log.close()
    log.attest(0, told(1.0))
    assert due_commit(log.state) is None
    log.state = in_the_next_epoch(log.state, t.remove(NODES[1]))
    body = log.commit()
    assert (body.attests, body.distance_max_ppm) == (1, 0)

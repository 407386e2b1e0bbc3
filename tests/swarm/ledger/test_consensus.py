"""The rules of agreement, one at a time, on a table where every message can be held, dropped or forged."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import codec
from swarm.errors import LedgerError, Reject
from swarm.identity import SigningKey
from swarm.ledger import consensus as c
from swarm.ledger.block import (
    FINALIZE,
    NO_HASH,
    NOTARIZE,
    SKIP,
    Block,
    Certificate,
    FinalBlock,
    Header,
    Vote,
    justify_hash,
    propose_message,
    quorum,
    vote_message,
)
from swarm.ledger.views import STATUS_ROWS_MAX, VIEWS_AHEAD_MAX, contradict, has, mask
from swarm.machine import RECORD_BLOCK, RECORD_BODY, RECORD_VOTE, Record
from tests.builders import verify_once
from tests.simulation.consensus_world import LEDGER, Toy, key

T0 = 2.0
TIMING = c.Timing(t0_s=T0, growth=1.5, t_max_s=60.0, standstill_s=5.0, standstill_max_s=20.0)
Packet = tuple[int, int, c.Message]


def make(me: int | None, n: int, app: Toy, **more: Callable[[bytes, bytes, bytes], bool]) -> c.Consensus:
    """Return a member of a swarm of `n` in which view v is led by member v mod n."""
    return c.Consensus(
        ledger_id=LEDGER,
        epoch=0,
        vote_keys=[key(i).public for i in range(n)],
        me=me,
        sign=key(me or 0).sign,
        application=app,
        rng=random.Random(1),
        timing=TIMING,
        verify=more.get("verify", verify_once),
    )


class Table:
    """`n` members and everything said between them. Nothing is delivered until it is asked for."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.apps = [Toy() for _ in range(n)]
        self.nodes = [make(i, n, app) for i, app in enumerate(self.apps)]
        self.records: list[list[Record]] = [[] for _ in range(n)]
        self.writes = [0] * n
        self.wire: list[Packet] = []
        self.said: list[Packet] = []
        self.now = 0.0

    def obey(self, member: int, outputs: Iterable[c.Output]) -> None:
        for output in outputs:
            match output:
                case c.Durable():
                    self.writes[member] += 1
                    self.records[member] += output.records
                case c.ToAll():
                    self.wire += [(member, to, output.message) for to in range(self.n) if to != member]
                case c.ToOne():
                    self.wire.append((member, output.to, output.message))
                case c.Note():
                    pass

    def work(self, item: int, members: Sequence[int] | None = None) -> None:
        """Let members hear of a piece of work."""
        for member in range(self.n) if members is None else members:
            self.apps[member].known.add(item)
        self.step(members)

    def step(self, members: Sequence[int] | None = None) -> None:
        for member in range(self.n) if members is None else members:
            self.obey(member, self.nodes[member].step(self.now))

    def deliver(self, keep: Callable[[Packet], bool] = lambda packet: True) -> None:
        """Deliver what there is, and what comes of it. What `keep` refuses is lost."""
        while self.wire:
            packet = self.wire.pop(0)
            self.said.append(packet)
            if keep(packet):
                self.hand(packet)

    def hand(self, packet: Packet) -> None:
        sender, to, message = packet
        node = self.nodes[to]
        match message:
            case Block():
                self.obey(to, node.on_proposal(message, sender, self.now))
            case Vote():
                self.obey(to, node.on_vote(message, sender, self.now))
            case Certificate():
                self.obey(to, node.on_certificate(message, sender, self.now))
            case c.Status():
                self.obey(to, node.on_status(message, sender, self.now))
            case FinalBlock():
                self.obey(to, node.adopt_final((message,), self.now))

    def wait(self, seconds: float, keep: Callable[[Packet], bool] = lambda packet: True) -> None:
        """Let time pass in quarters of a second, delivering as it goes."""
        for _ in range(int(seconds * 4)):
            self.now += 0.25
            self.step()
            self.deliver(keep)

    def restart(self, member: int, records: Sequence[Record] | None = None) -> list[c.Output]:
        """Give a member a new process with these records, by default all of its own."""
        records = self.records[member] if records is None else records
        known, self.apps[member] = self.apps[member].known, Toy()
        for record in records:
            if record.kind == RECORD_BLOCK:
                final = codec.decode(record.payload, FinalBlock, limit=1 << 20)
                self.apps[member].finalized(final, Header.decode(final.block.header), self.now)
        self.apps[member].known |= known
        self.nodes[member] = make(member, self.n, self.apps[member])
        return self.nodes[member].restore(records)

    def heights(self) -> list[int]:
        return [node.final_height for node in self.nodes]


def vote(signer: int, view: int, kind: int, block: bytes = NO_HASH, *, epoch: int = 0, ledger: bytes = LEDGER) -> Vote:
    signature = key(signer).sign(vote_message(ledger, epoch, view, kind, block))
    return Vote(epoch, view, kind, block, signer, signature)


def certificate(
    signers: Sequence[int], view: int, kind: int, block: bytes = NO_HASH, *, epoch: int = 0, ledger: bytes = LEDGER
) -> Certificate:
    votes = [vote(s, view, kind, block, epoch=epoch, ledger=ledger) for s in signers]
    return Certificate(epoch, view, kind, block, tuple(signers), tuple(v.signature for v in votes))


def propose(
    app: Toy,
    view: int,
    leader: int,
    *,
    parent: Header | None = None,
    justify: tuple[Certificate, ...] = (),
    work: Sequence[int] = (),
) -> Block:
    """Return what a leader with this application and work would propose, signed."""
    author = Toy()
    author.states = app.states
    author.known = set(work)
    built = author.build(*((LEDGER, 0) if parent is None else (parent.hash, parent.view)), view, justify, 1.0)
    assert built is not None
    header, leaves = built
    return sign_block(header, leaves, justify, leader, key(leader))


def sign_block(
    header: Header, leaves: tuple[bytes, ...], justify: tuple[Certificate, ...], leader: int, signer: SigningKey
) -> Block:
    encoded = header.encode()
    return Block(encoded, leaves, justify, leader, signer.sign(propose_message(LEDGER, encoded)))


def votes_of(outputs: Iterable[c.Output]) -> list[tuple[int, int]]:
    """Return (view, kind) of the votes cast."""
    return [(o.message.view, o.message.kind) for o in outputs if isinstance(o, c.ToAll) and isinstance(o.message, Vote)]


# --- the common case ----------------------------------------------------------------------------------------------


def test_four_members_finalize_a_block_with_one_proposal_and_two_votes_each() -> None:
    table = Table(4)
    table.work(7)
    table.deliver()
    assert table.heights() == [1, 1, 1, 1]
    kinds = [type(message).__name__ for _, _, message in table.said]
    assert (kinds.count("Block"), kinds.count("Vote"), len(kinds)) == (3, 24, 27)
    assert table.writes == [3, 3, 3, 3], "notarize, finalize, block: three syncs a block"
    assert table.nodes[0].current_view == 2


def test_an_idle_swarm_says_nothing_and_sleeps() -> None:
    table = Table(4)
    table.step()
    assert table.wire == []
    assert [node.next_wake(0.0) for node in table.nodes] == [None] * 4
    table.work(7)
    table.deliver()
    assert [node.next_wake(0.0) for node in table.nodes] == [None] * 4
    assert [node.stalled_since for node in table.nodes] == [None] * 4


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
def test_swarms_of_any_size_finalize_three_blocks(n: int) -> None:
    table = Table(n)
    for item in (5, 6, 7):
        table.work(item)
        table.deliver()
    assert table.heights() == [3] * n
    assert len({node.final_hash for node in table.nodes}) == 1


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_the_order_and_number_of_deliveries_do_not_matter(rng: random.Random) -> None:
    table = Table(4)
    table.work(7)
    while table.wire:
        packet = table.wire.pop(rng.randrange(len(table.wire)))
        table.hand(packet)
        if rng.random() < 0.3:
            table.hand(packet)
    assert table.heights() == [1, 1, 1, 1]
    assert all(node.evidence == [] for node in table.nodes)


def test_a_swarm_of_one_with_endless_work_still_returns() -> None:
    class Busy(Toy):
        def wants_block(self, parent: bytes, now: float) -> bool:
            return True

    node = make(0, 1, Busy())
    node.step(1.0)
    assert 0 < node.final_height < 100
    assert node.next_wake(1.0) == 1.0


# --- views --------------------------------------------------------------------------------------------------------


def test_a_dead_leader_is_skipped_after_one_timeout_and_the_next_proposal_says_so() -> None:
    table = Table(4)
    alive = (0, 2, 3)  # member 1 leads view 1
    table.work(7, alive)

    def keep(packet: Packet) -> bool:
        return 1 not in packet[:2]

    table.now = T0 - 0.1
    table.step(alive)
    assert table.wire == []
    table.now = T0
    table.step(alive)
    table.deliver(keep)
    assert [table.heights()[i] for i in alive] == [1, 1, 1]
    block = next(message for _, _, message in table.said if isinstance(message, Block))
    assert [(cert.view, cert.kind) for cert in block.justify] == [(1, SKIP)]
    assert Header.decode(block.header).view == 2


def test_timeouts_grow_with_every_view_since_the_last_final_block() -> None:
    table = Table(4)
    table.work(7, [0])
    node = table.nodes[0]
    table.obey(0, node.on_certificate(certificate((1, 2, 3), 1, SKIP), 1, 10.0))
    assert node.current_view == 2
    assert votes_of(node.step(10.0 + 1.5 * T0 - 0.01)) == []
    assert votes_of(node.step(10.0 + 1.5 * T0)) == [(2, SKIP)]


def test_a_leader_that_skips_its_own_view_is_not_waited_for() -> None:
    table = Table(4)
    table.work(7, [0])
    assert votes_of(table.nodes[0].on_vote(vote(1, 1, SKIP), 1, 0.1)) == [(1, SKIP)]


def test_a_leader_that_seems_to_be_down_is_not_waited_for_unless_its_block_is_here() -> None:
    table = Table(4)
    app, node = table.apps[0], table.nodes[0]
    app.suspected = frozenset({1})
    assert votes_of(node.step(0.1)) == [], "there is no work"
    app.known.add(7)
    assert votes_of(node.step(0.2)) == [(1, SKIP)]
    other, unsure = table.apps[3], table.nodes[3]
    other.suspected = frozenset({1})
    unsure.on_proposal(propose(app, 1, 1, work=[7]), 1, 0.2)  # waits for 7
    assert votes_of(unsure.step(0.3)) == []


def test_an_invalid_proposal_is_not_waited_for() -> None:
    table = Table(4)
    table.apps[0].known.add(7)
    liar = Toy()
    liar.lies = True
    liar.known = {7}
    built = liar.build(LEDGER, 0, 1, (), 1.0)
    assert built is not None
    block = sign_block(*built, (), 1, key(1))
    outputs = table.nodes[0].on_proposal(block, 1, 0.1)
    assert votes_of(outputs) == [(1, SKIP)]
    assert [o.event for o in outputs if isinstance(o, c.Note)] == ["block_refused"]


def test_a_view_whose_block_is_overtaken_is_given_up_at_once() -> None:
    table = Table(4)
    app, node = table.apps[0], table.nodes[0]
    app.known.add(7)
    block = propose(app, 1, 1, work=[7])
    app.judge = lambda *_: c.Overtaken("there is a better one")  # type: ignore[method-assign]
    assert votes_of(node.on_proposal(block, 1, 0.1)) == [(1, SKIP)]


def test_a_block_that_waits_for_bytes_in_flight_is_given_ten_more_timeouts() -> None:
    table = Table(4)
    app, node = table.apps[0], table.nodes[0]
    block = propose(app, 1, 1, work=[7])  # member 0 has not heard of 7: its verdict is Wait(progressing)
    node.on_proposal(block, 1, 0.0)
    now = 0.0
    for _ in range(c.WAIT_EXTENSIONS_MAX):
        now += T0
        assert votes_of(node.step(now)) == []
    assert votes_of(node.step(now + T0)) == [(1, SKIP)]


def test_a_block_whose_bytes_arrive_in_time_gets_its_vote() -> None:
    table = Table(4)
    app, node = table.apps[0], table.nodes[0]
    node.on_proposal(propose(app, 1, 1, work=[7]), 1, 0.0)
    assert votes_of(node.step(T0)) == []
    app.known.add(7)
    assert votes_of(node.step(T0 + 1)) == [(1, NOTARIZE)]


def test_the_votes_of_f_liars_do_not_turn_the_views_of_an_idle_swarm() -> None:
    table = Table(4)
    for node in table.nodes[:3]:
        node.on_vote(vote(3, 1, SKIP), 3, 0.0)
    table.wait(60.0)
    assert [node.current_view for node in table.nodes[:3]] == [1, 1, 1]
    assert table.said == []


def test_votes_of_more_than_f_members_are_joined_even_without_work_of_our_own() -> None:
    node = make(0, 4, Toy())
    for signer in (2, 3):
        node.on_vote(vote(signer, 1, SKIP), signer, 0.0)
    assert votes_of(node.step(T0)) == [(1, SKIP)]


def test_without_a_quorum_there_are_no_views_and_nothing_grows() -> None:
    table = Table(4)
    together = (0, 1)
    table.work(7, together)
    table.wait(400.0, keep=lambda packet: packet[0] in together and packet[1] in together)
    for member in together:
        assert table.nodes[member].current_view == 1
        assert len(table.nodes[member]._views) == 1
        assert len(table.records[member]) <= 3
    # Status only, at most every 20 s with jitter: 400 / 16 of them, to three members.
    assert len([m for s, _, m in table.said if s == 0 and isinstance(m, c.Status)]) <= 3 * 28
    assert table.nodes[0].stalled_since == 0.0


def test_an_empty_block_finalizes_an_ancestor_whose_finalize_votes_were_lost() -> None:
    table = Table(4)
    table.work(7)
    table.deliver(keep=lambda p: not (isinstance(p[2], Vote) and p[2].kind == FINALIZE and p[2].view == 1))
    assert table.heights() == [0, 0, 0, 0]
    table.wait(T0, keep=lambda p: not isinstance(p[2], c.Status))
    assert table.heights() == [2, 2, 2, 2]
    finals = [codec.decode(r.payload, FinalBlock, limit=1 << 20) for r in table.records[0] if r.kind == RECORD_BLOCK]
    assert [len(final.certificate) for final in finals] == [0, 1]
    assert Header.decode(finals[1].block.header).count == 0


def test_a_late_block_still_gets_the_votes_that_make_it_final() -> None:
    table = Table(4)
    table.work(7)
    blocks = [p for p in table.wire if isinstance(p[2], Block)]
    # Member 3 is gone and member 2 gets the block late; 0, 1 and 3's vote make the notarize certificate.
    assert isinstance(blocks[0][2], Block)
    block_hash = Header.decode(blocks[0][2].header).hash
    table.deliver(keep=lambda p: 3 not in p[:2] and not (isinstance(p[2], Block) and p[1] == 2))
    for member in (0, 1, 2):
        table.obey(member, table.nodes[member].on_vote(vote(3, 1, NOTARIZE, block_hash), 3, 0.0))
    table.deliver(keep=lambda p: 3 not in p[:2])
    assert table.nodes[2].current_view == 2
    assert table.heights()[:3] == [0, 0, 0]
    table.hand(next(p for p in blocks if p[1] == 2))
    table.deliver(keep=lambda p: 3 not in p[:2])
    assert table.heights()[:3] == [1, 1, 1]


# --- votes that must never be cast --------------------------------------------------------------------------------


def test_a_view_with_my_finalize_vote_is_never_skipped() -> None:
    table = Table(4)
    table.work(7)
    table.deliver(keep=lambda p: not (isinstance(p[2], Vote) and p[2].kind == FINALIZE))
    node = table.nodes[0]
    assert node._views[1].mine.keys() == {NOTARIZE, FINALIZE}
    cast = [v for now in range(1, 200) for v in votes_of(node.step(float(now)))]
    assert (1, SKIP) not in cast
    with pytest.raises(AssertionError, match="skip after finalize"):
        node._cast(1, SKIP, NO_HASH)


def test_a_view_that_i_skipped_is_never_finalized_by_me() -> None:
    table = Table(4)
    table.work(7, [0])
    node = table.nodes[0]
    assert votes_of(node.step(T0)) == [(1, SKIP)]
    block = propose(table.apps[0], 1, 1, work=[7])
    block_hash = Header.decode(block.header).hash
    cast = votes_of(node.on_proposal(block, 1, T0))
    cast += votes_of(node.on_certificate(certificate((1, 2, 3), 1, NOTARIZE, block_hash), 1, T0))
    assert node.current_view == 2
    assert cast == []


def test_a_block_that_i_notarized_and_then_gave_up_is_never_finalized_by_me() -> None:
    table = Table(4)
    table.apps[0].known.add(7)
    node = table.nodes[0]
    block = propose(table.apps[0], 1, 1, work=[7])
    assert votes_of(node.on_proposal(block, 1, 0.0)) == [(1, NOTARIZE)]
    assert votes_of(node.step(T0)) == [(1, SKIP)]
    node.on_certificate(certificate((1, 2, 3), 1, NOTARIZE, Header.decode(block.header).hash), 1, T0)
    assert node.current_view == 2
    assert FINALIZE not in node._views[1].mine
    with pytest.raises(AssertionError, match="finalize after skip"):
        node._cast(1, FINALIZE, Header.decode(block.header).hash)


def test_what_i_did_not_notarize_i_do_not_finalize() -> None:
    table = Table(4)
    node = table.nodes[0]
    block = propose(table.apps[0], 1, 1, work=[7])
    cast = votes_of(node.on_certificate(certificate((1, 2, 3), 1, NOTARIZE, Header.decode(block.header).hash), 1, 0.0))
    cast += votes_of(node.on_proposal(block, 1, 0.0))  # its work is unknown here, so there is no vote for it
    assert node.current_view == 2
    assert cast == []


def test_a_leader_that_proposes_two_blocks_gets_one_vote_and_is_on_record() -> None:
    table = Table(4)
    app, node = table.apps[0], table.nodes[0]
    app.known |= {7, 8}
    first, second, third = (propose(app, 1, 1, work=[item]) for item in (7, 8, 9))
    assert votes_of(node.on_proposal(first, 1, 0.0)) == [(1, NOTARIZE)]
    assert votes_of(node.on_proposal(second, 1, 0.0)) == []
    assert [(found.rule, found.culprit) for found in node.evidence] == [("two proposals", 1)]
    assert {node.evidence[0].first, node.evidence[0].second} == {codec.encode(first), codec.encode(second)}
    node.on_proposal(third, 1, 0.0)
    assert len(node._views[1].bodies) == 2, "a third body proves nothing further"


def test_a_third_block_is_kept_once_a_quorum_vouches_for_it() -> None:
    table = Table(4)
    app, node = table.apps[0], table.nodes[0]
    app.known |= {7, 8, 9}
    first, second, third = (propose(app, 1, 1, work=[item]) for item in (7, 8, 9))
    node.on_proposal(first, 1, 0.0)
    node.on_proposal(second, 1, 0.0)
    node.on_certificate(certificate((1, 2, 3), 1, FINALIZE, Header.decode(third.header).hash), 1, 0.0)
    assert node.final_height == 0
    node.on_proposal(third, 1, 0.0)
    assert node.final_hash == Header.decode(third.header).hash


def test_an_observer_follows_and_never_votes() -> None:
    table = Table(4)
    watcher = make(None, 4, Toy())
    outputs: list[c.Output] = []
    table.work(7)
    while table.wire:
        packet = table.wire.pop(0)
        table.hand(packet)
        if packet[1] == 0:
            continue
        message = packet[2]
        if isinstance(message, Block):
            outputs += watcher.on_proposal(message, packet[0], 0.0)
        elif isinstance(message, Vote):
            outputs += watcher.on_vote(message, packet[0], 0.0)
    assert watcher.final_height == 1
    assert [o for o in outputs if isinstance(o, c.ToAll)] == []


# --- what is refused ----------------------------------------------------------------------------------------------

ANY = bytes([9]) * 32


@pytest.mark.parametrize(
    "forged",
    [
        certificate((1, 2), 1, NOTARIZE, ANY),
        certificate((1, 1, 2), 1, NOTARIZE, ANY),
        certificate((2, 1, 3), 1, NOTARIZE, ANY),
        certificate((1, 2, 4), 1, NOTARIZE, ANY),
        certificate((1, 2, 3), 1, NOTARIZE, ANY, ledger=ANY),
        certificate((1, 2, 3), 1, NOTARIZE, NO_HASH),
        certificate((1, 2, 3), 1, SKIP, ANY),
        msgspec.structs.replace(certificate((1, 2, 3), 1, NOTARIZE, ANY), kind=FINALIZE),
        msgspec.structs.replace(certificate((1, 2, 3), 1, NOTARIZE, ANY), view=2),
        msgspec.structs.replace(certificate((1, 2, 3), 1, NOTARIZE, ANY, epoch=1), epoch=0),
    ],
    ids=["too few", "twice", "order", "stranger", "ledger", "no block", "skip of block", "kind", "view", "epoch"],
)
def test_a_certificate_that_a_quorum_did_not_sign_is_refused(forged: Certificate) -> None:
    node = make(0, 4, Toy())
    with pytest.raises(Reject):
        node.on_certificate(forged, 1, 0.0)
    assert node.current_view == 1


def test_messages_of_another_epoch_are_not_heard() -> None:
    node = make(0, 4, Toy())
    assert node.on_certificate(certificate((1, 2, 3), 1, SKIP, epoch=1), 1, 0.0) == []
    assert node.on_vote(vote(1, 1, SKIP, epoch=1), 1, 0.0) == []
    assert node._views == {}


def test_votes_beyond_the_window_leave_no_trace() -> None:
    node = make(0, 4, Toy())
    for view in range(1, 1000):
        node.on_vote(vote(1, view, SKIP), 1, 0.0)
    assert max(node._views) == 1 + VIEWS_AHEAD_MAX


def test_a_known_vote_is_not_verified_again() -> None:
    asked: list[bytes] = []

    def verify(public: bytes, message: bytes, signature: bytes) -> bool:
        asked.append(message)
        return verify_once(public, message, signature)

    node = make(0, 4, Toy(), verify=verify)
    for _ in range(5):
        node.on_vote(vote(1, 1, SKIP), 2, 0.0)
    assert len(asked) == 1


def test_a_forged_vote_is_refused() -> None:
    node = make(0, 4, Toy())
    with pytest.raises(Reject, match="signature"):
        node.on_vote(msgspec.structs.replace(vote(1, 1, SKIP), signer=2), 1, 0.0)
    with pytest.raises(Reject, match="names no block"):
        node.on_vote(vote(1, 1, SKIP, ANY), 1, 0.0)


@pytest.mark.parametrize(
    ("view", "justify", "why"),
    [
        (2, (), "not skipped"),
        (3, (certificate((1, 2, 3), 2, SKIP),), "not skipped"),
        (3, (certificate((1, 2, 3), 2, SKIP), certificate((1, 2, 3), 1, SKIP)), "not skipped"),
        (2, (certificate((1, 2, 3), 1, NOTARIZE, ANY),), "no skip certificate"),
        (2, (certificate((1, 2), 1, SKIP),), "signers"),
        (2, (certificate((1, 2, 3), 1, SKIP, epoch=1),), "another epoch"),
    ],
)
def test_a_proposal_without_the_right_to_extend_its_parent_is_refused(
    view: int, justify: tuple[Certificate, ...], why: str
) -> None:
    node = make(0, 4, Toy())
    with pytest.raises(Reject, match=why):
        node.on_proposal(propose(Toy(), view, view % 4, justify=justify, work=[7]), 1, 0.0)
    assert node._views == {}


def test_a_proposal_needs_its_own_parents_certificate() -> None:
    app, node = Toy(), make(0, 4, Toy())
    parent = Header.decode(propose(app, 1, 1, work=[7]).header)
    app.states[parent.hash] = app.states[LEDGER]
    for justify, why in [
        ((), "nothing says"),
        ((certificate((1, 2, 3), 1, SKIP),), "nothing says"),
        ((certificate((1, 2, 3), 1, NOTARIZE, ANY),), "another block"),
    ]:
        with pytest.raises(Reject, match=why):
            node.on_proposal(propose(app, 2, 2, parent=parent, justify=justify, work=[8]), 1, 0.0)


def test_a_proposal_is_refused_unless_its_views_leader_signed_all_of_it() -> None:
    node = make(0, 4, Toy())
    good = propose(Toy(), 1, 1, work=[7])
    header = Header.decode(good.header)
    for bad, why in [
        (propose(Toy(), 1, 2, work=[7]), "lead"),
        (sign_block(header, good.leaves, (), 1, key(2)), "signature"),
        (msgspec.structs.replace(good, leaves=(b"else",)), "entries"),
        (msgspec.structs.replace(good, justify=(certificate((1, 2, 3), 1, SKIP),)), "certificates"),
    ]:
        with pytest.raises(Reject, match=why):
            node.on_proposal(bad, 1, 0.0)
    assert header.justify_hash == justify_hash(())


# --- crashes ------------------------------------------------------------------------------------------------------


def test_a_vote_and_its_block_are_durable_before_the_vote_is_sent() -> None:
    table = Table(4)
    table.apps[0].known.add(7)
    outputs = table.nodes[0].on_proposal(propose(Toy(), 1, 1, work=[7]), 1, 0.0)
    assert isinstance(outputs[0], c.Durable)
    assert [record.kind for record in outputs[0].records] == [RECORD_BODY, RECORD_VOTE]
    assert [record.height for record in outputs[0].records] == [1, 1]
    assert [type(o) for o in outputs[1:]] == [c.ToAll]


def test_a_leader_restarted_between_write_and_send_proposes_the_same_block_again() -> None:
    table = Table(4)
    table.apps[1].known.add(7)
    outputs = table.nodes[1].step(0.0)
    written = [record for o in outputs if isinstance(o, c.Durable) for record in o.records]
    table.apps[1].known.add(8)  # it would build another block now
    again = table.restart(1, written)
    assert [o.message for o in again if isinstance(o, c.ToAll)] == [
        o.message for o in outputs if isinstance(o, c.ToAll)
    ]
    assert [o for o in table.nodes[1].step(0.1) if isinstance(o, c.ToAll)] == []


def test_a_restarted_voter_does_not_vote_for_a_second_block() -> None:
    table = Table(4)
    table.apps[0].known |= {7, 8}
    table.obey(0, table.nodes[0].on_proposal(propose(Toy(), 1, 1, work=[7]), 1, 0.0))
    table.restart(0)
    assert votes_of(table.nodes[0].on_proposal(propose(Toy(), 1, 1, work=[8]), 1, 0.0)) == []


@pytest.mark.parametrize("kept", range(8))
def test_a_member_killed_after_any_record_goes_on_with_the_others(kept: int) -> None:
    table = Table(4)
    table.work(7)
    table.deliver()
    records = table.records[2]
    assert len(records) >= 5
    table.obey(2, table.restart(2, records[:kept]))
    table.obey(0, table.nodes[0].on_status(table.nodes[2].status(), 2, table.now))
    table.work(8)
    table.deliver()
    table.wait(20.0)
    assert table.heights()[:2] == [2, 2]
    assert table.nodes[2].final_height >= 1
    assert all(node.evidence == [] for node in table.nodes)


def test_a_whole_swarm_restarted_with_an_unfinished_block_finishes_it() -> None:
    table = Table(4)
    table.work(7)
    table.deliver(keep=lambda p: not (isinstance(p[2], Vote) and p[2].kind == FINALIZE))
    table.wire = []
    for member in range(4):
        table.obey(member, table.restart(member))
    table.deliver()
    assert table.heights() == [1, 1, 1, 1]


def test_a_member_that_lost_its_votes_learns_them_from_others_and_contradicts_none() -> None:
    table = Table(4)
    node = table.nodes[0]
    table.apps[0].known |= {7, 8}
    mine = vote(0, 1, NOTARIZE, Header.decode(propose(Toy(), 1, 1, work=[7]).header).hash)
    outputs = node.on_vote(mine, 3, 0.0)
    assert [o.event for o in outputs if isinstance(o, c.Note)] == ["vote_forgotten"]
    assert [r.kind for o in outputs if isinstance(o, c.Durable) for r in o.records] == [RECORD_VOTE]
    assert votes_of(node.on_proposal(propose(Toy(), 1, 1, work=[8]), 1, 0.0)) == []


def test_own_votes_inside_a_certificate_are_remembered_too() -> None:
    node = make(0, 4, Toy())
    node.on_certificate(certificate((0, 1, 2), 2, SKIP), 1, 0.0)
    assert node._views[2].mine == {SKIP: NO_HASH}


# --- catching up --------------------------------------------------------------------------------------------------


def test_a_member_that_missed_the_block_gets_it_by_asking() -> None:
    table = Table(4)
    table.work(7)
    table.deliver(keep=lambda p: not (isinstance(p[2], Block) and p[1] == 3))
    assert table.heights() == [1, 1, 1, 0]
    table.wait(10.0)
    assert table.heights() == [1, 1, 1, 1]
    blocks = [p for p in table.said if isinstance(p[2], Block)]
    assert blocks[-1][1] == 3


def test_votes_for_another_block_do_not_hide_that_a_certificate_is_missing() -> None:
    asker, holder = make(0, 4, Toy()), make(1, 4, Toy())
    for signer, block in ((1, ANY), (2, ANY), (3, bytes(31) + b"\x01")):
        asker.on_vote(vote(signer, 1, NOTARIZE, block), signer, 0.0)
    found = certificate((1, 2, 3), 1, NOTARIZE, ANY)
    holder.on_certificate(found, 2, 0.0)
    outputs = holder.on_status(asker.status(), 0, 0.0)
    assert c.ToOne(0, found) in outputs


def test_a_status_that_shows_more_than_is_known_here_is_asked_about_but_seldom() -> None:
    ahead, behind = make(1, 4, Toy()), make(0, 4, Toy())
    ahead.on_certificate(certificate((1, 2, 3), 1, SKIP), 2, 0.0)
    asked = [o for now in (0.0, 1.0, 2.0, 5.0) for o in behind.on_status(ahead.status(), 1, now)]
    assert asked == [c.ToOne(1, behind.status())] * 2
    answers = ahead.on_status(behind.status(), 0, 0.0)
    assert answers == [c.ToOne(0, certificate((1, 2, 3), 1, SKIP))]


def test_what_a_peer_may_draw_by_asking_is_bounded_per_minute() -> None:
    holder = make(1, 4, Toy())
    holder.on_certificate(certificate((1, 2, 3), 1, SKIP), 2, 0.0)
    ask = make(0, 4, Toy()).status()
    answered = sum(bool(holder.on_status(ask, 0, 1.0)) for _ in range(2000))
    assert answered <= c.STATUS_REPLY_BYTES_PER_MINUTE // c.STATUS_COST_BYTES < 2000
    assert holder.on_status(ask, 2, 1.0) != [], "another peer has a budget of its own"
    assert holder.on_status(ask, 0, 61.0) != []


def test_an_oversized_status_is_refused() -> None:
    node = make(0, 4, Toy())
    row = (1, 0, b"", b"", b"", b"")
    for held in [
        (row,) * (STATUS_ROWS_MAX + 1),
        ((1, 0, bytes(2), b"", b"", b""),),
        ((1, 0, b"", b"", b"", bytes(25)),),
    ]:
        with pytest.raises(Reject):
            node.on_status(c.Status(0, 0, 0, 1, held), 1, 0.0)


def test_a_status_survives_the_wire_and_lists_each_open_view() -> None:
    table = Table(4)
    table.work(7)
    table.deliver(keep=lambda p: not (isinstance(p[2], Vote) and p[2].kind == FINALIZE))
    status = table.nodes[0].status()
    assert codec.decode(codec.encode(status), c.Status, limit=1 << 16) == status
    assert (status.height, status.final_view, status.view) == (0, 0, 2)
    view, held, notarize, skip, finalize, blocks = status.held[0]
    assert (view, held, notarize, skip, finalize, len(blocks)) == (1, 1 << NOTARIZE, b"", b"", b"\x01", 8)


def finals_of(blocks: int) -> tuple[Table, list[FinalBlock]]:
    table = Table(4)
    for item in range(blocks):
        table.work(item)
        table.deliver()
    table.restart(3, [])
    payloads = [record.payload for record in table.records[0] if record.kind == RECORD_BLOCK]
    return table, [codec.decode(payload, FinalBlock, limit=1 << 20) for payload in payloads]


def test_a_laggard_adopts_a_chain_and_makes_it_durable() -> None:
    table, finals = finals_of(2)
    assert len(finals) == 2
    node = table.nodes[3]
    bare = msgspec.structs.replace(finals[0], certificate=())  # the second block's certificate covers the first
    outputs = node.adopt_final([bare, finals[1]], 1.0)
    assert node.final_hash == table.nodes[0].final_hash
    assert isinstance(outputs[0], c.Durable)
    assert [(r.kind, r.height) for r in outputs[0].records] == [(RECORD_BLOCK, 1), (RECORD_BLOCK, 2)]
    assert [header.height for header in table.apps[3].finals] == [1, 2]
    assert node.adopt_final(finals, 1.0) == [], "what is known is not adopted again"


def test_of_linked_blocks_only_the_last_certificate_is_looked_at() -> None:
    table, finals = finals_of(3)
    change = msgspec.structs.replace
    unsigned = [change(final, block=change(final.block, signature=bytes(64))) for final in finals]
    bent = [change(final.certificate[0], signatures=(bytes(64),) * 3) for final in finals[:2]]
    sent = [change(unsigned[0], certificate=(bent[0],)), change(unsigned[1], certificate=(bent[1],)), unsigned[2]]
    with pytest.raises(Reject, match="signature does not verify"):
        table.nodes[3].adopt_final(sent, 1.0)
    table.nodes[3].adopt_final(sent, 1.0, linked=True)
    assert table.nodes[3].final_hash == table.nodes[0].final_hash


@pytest.mark.parametrize("harm", ["last certificate", "link", "entries", "none"])
def test_linked_blocks_stand_and_fall_with_the_last_certificate_and_the_hashes(harm: str) -> None:
    table, finals = finals_of(3)
    change = msgspec.structs.replace
    if harm == "last certificate":
        seal = finals[2].certificate[0]
        finals[2] = change(finals[2], certificate=(change(seal, signatures=(bytes(64), *seal.signatures[1:])),))
    elif harm == "link":
        header = replace(Header.decode(finals[1].block.header), time_ms=1)
        finals[1] = change(finals[1], block=change(finals[1].block, header=header.encode()), certificate=())
    elif harm == "entries":
        finals[0] = change(finals[0], block=change(finals[0].block, leaves=(b"another",)))
    else:
        finals = [change(final, certificate=()) for final in finals]
        assert table.nodes[3].adopt_final(finals, 1.0, linked=True) == []
        assert table.nodes[3].final_height == 0
        return
    with pytest.raises(Reject, match="couldn't"):
        table.nodes[3].adopt_final(finals, 1.0, linked=True)
    assert table.nodes[3].final_height == 0


def test_blocks_that_nothing_certifies_are_not_adopted() -> None:
    table, finals = finals_of(2)
    table.nodes[3].adopt_final([finals[0], msgspec.structs.replace(finals[1], certificate=())], 1.0)
    assert table.nodes[3].final_height == 1


@pytest.mark.parametrize("case", ["gap", "order", "certificate", "signature", "few"])
def test_a_false_chain_is_refused(case: str) -> None:
    table, finals = finals_of(3)
    first, second, third = finals
    few = certificate((0, 1), 1, FINALIZE, Header.decode(first.block.header).hash)
    chains = {
        "gap": [second, third],
        "order": [first, third],
        "certificate": [msgspec.structs.replace(first, certificate=second.certificate)],
        "signature": [msgspec.structs.replace(first, block=msgspec.structs.replace(first.block, signature=bytes(64)))],
        "few": [msgspec.structs.replace(first, certificate=(few,))],
    }
    with pytest.raises(Reject):
        table.nodes[3].adopt_final(chains[case], 1.0)
    assert table.nodes[3].final_height == 0


# --- more liars than tolerated ------------------------------------------------------------------------------------


def test_two_quorums_that_contradict_each_other_halt_the_member_and_name_the_culprits() -> None:
    node = make(0, 4, Toy())
    node.on_certificate(certificate((1, 2, 3), 5, FINALIZE, ANY), 1, 0.0)
    other = bytes([8]) * 32
    with pytest.raises(LedgerError):
        node.on_certificate(certificate((0, 2, 3), 5, NOTARIZE, other), 1, 0.0)
    assert [(found.rule, found.culprit) for found in node.evidence] == [
        ("finalize+notarize", 2),
        ("finalize+notarize", 3),
    ]
    assert len(node.evidence) >= 2 * quorum(4) - 4
    assert node.halted
    assert votes_of(node.step(1000.0)) == []


def test_a_certified_chain_beside_ours_is_a_fork_and_not_a_peers_mistake() -> None:
    table, _ = finals_of(1)
    app = Toy()
    block = propose(app, 2, 2, justify=(certificate((1, 2, 3), 1, SKIP),), work=[99])
    header = Header.decode(block.header)
    app.observe(block, header)
    cert = certificate((1, 2, 3), 2, NOTARIZE, header.hash)
    child = propose(app, 3, 3, parent=header, justify=(cert,), work=[99, 100])
    name = Header.decode(child.header).hash
    chain = [FinalBlock(block, ()), FinalBlock(child, (certificate((1, 2, 3), 3, FINALIZE, name),))]
    with pytest.raises(LedgerError):
        table.nodes[0].adopt_final(chain, 1.0)
    assert table.nodes[0].final_height == 1
    assert table.nodes[0].halted


@pytest.mark.parametrize(
    ("first", "second", "rule"),
    [
        ((NOTARIZE, ANY), (NOTARIZE, b"\x01" * 32), "notarize+notarize"),
        ((FINALIZE, ANY), (FINALIZE, b"\x01" * 32), "finalize+finalize"),
        ((SKIP, NO_HASH), (FINALIZE, ANY), "skip+finalize"),
        ((FINALIZE, ANY), (SKIP, NO_HASH), "finalize+skip"),
        ((NOTARIZE, ANY), (FINALIZE, b"\x01" * 32), "notarize+finalize"),
    ],
)
def test_contradictory_votes_are_kept_as_a_pair(first: tuple[int, bytes], second: tuple[int, bytes], rule: str) -> None:
    node = make(0, 4, Toy())
    one, two = vote(1, 3, *first), vote(1, 3, *second)
    node.on_vote(one, 1, 0.0)
    node.on_vote(two, 2, 0.0)
    node.on_vote(two, 3, 0.0)
    assert node.evidence == [c.Contradiction(rule, 1, 3, codec.encode(one), codec.encode(two))]


def test_notarize_and_skip_of_one_view_is_what_an_honest_member_may_say() -> None:
    node = make(0, 4, Toy())
    node.on_vote(vote(1, 3, NOTARIZE, ANY), 1, 0.0)
    node.on_vote(vote(1, 3, SKIP), 1, 0.0)
    node.on_vote(vote(2, 3, NOTARIZE, ANY), 1, 0.0)
    node.on_vote(vote(2, 3, FINALIZE, ANY), 1, 0.0)
    assert node.evidence == []


# --- small parts --------------------------------------------------------------------------------------------------


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_a_mask_names_exactly_its_signers(case: tuple[int, set[int]]) -> None:
    n, signers = case
    bits = mask(sorted(signers), n)
    assert {signer for signer in range(n + 9) if has(bits, signer)} == signers
    assert len(bits) <= (n + 7) // 8


kinds = st.sampled_from(
    [(NOTARIZE, ANY), (NOTARIZE, b"x" * 32), (FINALIZE, ANY), (FINALIZE, b"x" * 32), (SKIP, NO_HASH)]
)


@given(kinds, kinds)
def test_contradiction_is_symmetric_and_nobody_contradicts_themselves_by_repeating(
    one: tuple[int, bytes], two: tuple[int, bytes]
) -> None:
    assert contradict(*one, *two) == contradict(*two, *one)
    assert not contradict(*one, *one)

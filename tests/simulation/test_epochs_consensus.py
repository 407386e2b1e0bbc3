"""Agreement across the end of an epoch, without a ledger: other members, other keys, the same chain.

A toy orders integers; one of a thousand or more ends the epoch of the block it stands in. Every epoch has as many
members as the table says, with vote keys of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import msgspec
import pytest
from typing_extensions import override

from swarm import codec
from swarm.errors import Reject
from swarm.ledger import consensus as c
from swarm.ledger.block import (
    FINALIZE,
    NOTARIZE,
    SKIP,
    Block,
    Certificate,
    FinalBlock,
    Header,
    Root,
    Vote,
    decode_block,
    entries_hash,
    justify_hash,
    propose_message,
    quorum,
    vote_message,
)
from swarm.ledger.views import contradict
from swarm.machine import RECORD_BLOCK, RECORD_BODY, RECORD_CERTIFICATE, RECORD_VOTE, Record
from tests.builders import verify_once
from tests.simulation.consensus_world import LEDGER, Toy, extend, key

TIMING = c.Timing(t0_s=2.0, growth=1.5, t_max_s=60.0, standstill_s=5.0, standstill_max_s=20.0)
END = 1000
Packet = tuple[int, int, c.Message]


class EpochToy(Toy):
    """A toy that knows when an epoch is over, and that nothing but empty blocks may stand on its last block."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Root(LEDGER, 0, 0)
        self.stuffs = False  # a liar: its blocks on top of an epoch's last one are not empty

    @override
    def wants_block(self, parent: bytes, now: float) -> bool:
        return parent not in self.last_of_epoch - {self.root.hash} and super().wants_block(parent, now)

    @override
    def due(self, parent: bytes) -> frozenset[int]:
        return frozenset() if self._over(parent) and not self.stuffs else super().due(parent)

    @override
    def observe(self, block: Block, header: Header) -> None:
        if self._over(header.parent_hash) and block.leaves:
            return
        super().observe(block, header)
        over = any(int.from_bytes(leaf, "big") >= END for leaf in block.leaves) or self._over(header.parent_hash)
        if header.hash in self.states and over:
            self.last_of_epoch.add(header.hash)

    @override
    def finalized(self, final: FinalBlock, header: Header, now: float) -> None:
        super().finalized(final, header, now)
        if header.hash in self.last_of_epoch:
            self.epoch = header.epoch + 1
            self.root = Root(header.hash, header.view, header.height)

    def _over(self, parent: bytes) -> bool:
        """Whether the epoch at hand ends with this block, or did before it."""
        return parent in self.last_of_epoch and parent != self.root.hash


def keys(epoch: int, n: int) -> list[bytes]:
    return [key(100 * epoch + i).public for i in range(n)]


class Table:
    """Members of one epoch after the other, everything said between them, and what each has made durable."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes
        self.most = max(sizes)
        self.apps = [EpochToy() for _ in range(self.most)]
        self.records: list[list[Record]] = [[] for _ in range(self.most)]
        self.wire: list[Packet] = []
        self.said: list[Vote] = []
        self.now = 0.0
        self.nodes = [self.convene(i) for i in range(self.most)]

    def size(self, epoch: int) -> int:
        return self.sizes[min(epoch, len(self.sizes) - 1)]

    def convene(self, member: int) -> c.Consensus:
        """Return a member's part in the epoch that its application has reached."""
        app = self.apps[member]
        n = self.size(app.epoch)
        return c.Consensus(
            ledger_id=LEDGER,
            epoch=app.epoch,
            vote_keys=keys(app.epoch, n),
            me=member if member < n else None,
            sign=key(100 * app.epoch + member).sign,
            application=app,
            rng=random.Random(member),
            timing=TIMING,
            root=app.root,
            verify=verify_once,
        )

    def obey(self, member: int, outputs: Iterable[c.Output]) -> None:
        for output in outputs:
            match output:
                case c.Durable():
                    self.records[member] += output.records
                case c.ToAll():
                    if isinstance(output.message, Vote) and output.message.signer == member:
                        self.said.append(output.message)
                    self.wire += [(member, to, output.message) for to in range(self.most) if to != member]
                case c.ToOne():
                    self.wire.append((member, output.to, output.message))
                case c.Note():
                    pass
        if self.nodes[member].ended:
            self.nodes[member] = self.convene(member)
            self.obey(member, self.nodes[member].step(self.now))

    def work(self, *items: int) -> None:
        for app in self.apps:
            app.known |= {*items}
        self.step()

    def step(self) -> None:
        for member in range(self.most):
            self.obey(member, self.nodes[member].step(self.now))

    def deliver(self, keep: Callable[[Packet], bool] = lambda packet: True) -> None:
        while self.wire:
            packet = self.wire.pop(0)
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
        for _ in range(int(seconds * 4)):
            self.now += 0.25
            self.step()
            self.deliver(keep)

    def chain(self, member: int) -> list[FinalBlock]:
        found = [record.payload for record in self.records[member] if record.kind == RECORD_BLOCK]
        return [codec.decode(payload, FinalBlock, limit=1 << 20) for payload in found]

    def restart(self, member: int, records: Sequence[Record] | None = None) -> None:
        """Give a member a new process with these records, by default all of its own."""
        records = self.records[member] if records is None else records
        known, self.apps[member] = self.apps[member].known, EpochToy()
        self.records[member] = list(records)
        for final in self.chain(member):
            self.apps[member].finalized(final, Header.decode(final.block.header), self.now)
        self.apps[member].known |= known
        node = self.nodes[member] = self.convene(member)
        self.obey(member, node.restore(records))

    def follow(self, member: int, blocks: Sequence[FinalBlock]) -> None:
        """Hand a member final blocks as its owner does: again after every epoch that ends in them."""
        while True:
            before = self.apps[member].epoch
            self.obey(member, self.nodes[member].adopt_final(blocks, self.now))
            if self.apps[member].epoch == before:
                return

    def check(self) -> None:
        """Nobody has contradicted itself, and all ledgers are one."""
        for i, first in enumerate(self.said):
            for second in self.said[i + 1 :]:
                if (first.signer, first.epoch, first.view) == (second.signer, second.epoch, second.view):
                    assert not contradict(first.kind, first.block, second.kind, second.block), first
        longest = max((self.chain(m) for m in range(self.most)), key=len)
        for member in range(self.most):
            blocks = self.chain(member)
            assert [f.block.header for f in blocks] == [f.block.header for f in longest[: len(blocks)]]
        for epoch in {header_of(f).epoch for f in longest}:
            of_epoch = [f for f in longest if header_of(f).epoch == epoch]
            n = self.size(epoch)
            for final in of_epoch:
                final.check(header_of(final), LEDGER, keys(epoch, n), quorum(n), verify_once)
        assert not any(node.evidence for node in self.nodes)


def header_of(final: FinalBlock) -> Header:
    return Header.decode(final.block.header)


def finalizes(packet: Packet) -> bool:
    message = packet[2]
    return isinstance(message, Vote | Certificate) and message.kind == FINALIZE


def signed(table: Table, epoch: int, view: int, kind: int, block: bytes, member: int) -> Vote:
    signature = key(100 * epoch + member).sign(vote_message(LEDGER, epoch, view, kind, block))
    return Vote(epoch, view, kind, block, member, signature)


@pytest.mark.parametrize("sizes", [(4, 4, 4), (4, 3, 4), (1, 2, 3), (3, 2, 1), (7, 4, 7), (2, 1, 2)])
def test_epochs_follow_each_other_whatever_becomes_of_the_members(sizes: tuple[int, ...]) -> None:
    table = Table(*sizes)
    for item in (1, END, 2, 2 * END, 3):
        table.work(item)
        table.wait(12.0)
        # Who is no member of the epoch at hand hears its blocks from those who are.
        best = max(range(table.most), key=lambda m: len(table.chain(m)))
        for member in range(table.most):
            table.follow(member, table.chain(best))
    table.check()
    assert {app.epoch for app in table.apps} == {2}
    assert table.apps[0].states[table.apps[0].head].items == {1, 2, 3, END, 2 * END}
    for first, second in zip(table.chain(0), table.chain(0)[1:], strict=False):
        child, parent = header_of(second), header_of(first)
        assert (child.parent_hash, child.parent_view) == (parent.hash, parent.view)
        assert child.view > parent.view, "views go on counting"
        if child.epoch != parent.epoch:
            assert first.certificate, "an epoch begins on what has a certificate"


def covered(empty: int = 1) -> tuple[Table, FinalBlock]:
    """Return a table whose last block of epoch 0 became final through an empty one above it, and that block."""
    table = Table(4)
    table.work(1)
    table.deliver()
    table.work(END)
    last = max(node.current_view for node in table.nodes)
    table.deliver(lambda packet: not (finalizes(packet) and packet[2].view < last + empty))  # type: ignore[union-attr]
    table.wait(60.0, lambda packet: not (finalizes(packet) and packet[2].view < last + empty))  # type: ignore[union-attr]
    final = next(f for f in table.chain(0) if any(int.from_bytes(leaf, "big") >= END for leaf in f.block.leaves))
    return table, final


@pytest.mark.parametrize("empty", [1, 2, 3])
def test_empty_blocks_finalize_the_last_one_of_an_epoch_and_are_no_part_of_the_ledger(empty: int) -> None:
    table, final = covered(empty)
    assert {app.epoch for app in table.apps} == {1}
    assert final.cover
    assert final.certificate[0].block == Header.decode(final.cover[-1]).hash
    assert all(Header.decode(cover).count == 0 for cover in final.cover)
    table.work(5)
    table.wait(20.0)
    table.check()
    after = header_of(table.chain(0)[-1])
    assert (after.epoch, after.height) == (1, header_of(final).height + 1), "the next takes the empty one's height"


def test_a_cover_that_is_forged_in_any_part_covers_nothing() -> None:
    table, final = covered()
    header, cover = header_of(final), Header.decode(final.cover[0])
    for forged in (
        replace(cover, count=1),
        replace(cover, epoch=1),
        replace(cover, height=cover.height + 1),
        replace(cover, parent_hash=bytes(32)),
        replace(cover, parent_view=cover.parent_view - 1),
        replace(cover, view=header.view),
    ):
        bad = msgspec.structs.replace(final, cover=(forged.encode(),))
        with pytest.raises(Reject):
            bad.check(header, LEDGER, keys(0, 4), 3, verify_once)
    for bad in (
        msgspec.structs.replace(final, cover=()),
        msgspec.structs.replace(final, certificate=()),
        msgspec.structs.replace(final, cover=(*final.cover, *final.cover)),
        msgspec.structs.replace(final, cover=(b"short",)),
    ):
        with pytest.raises(Reject):
            bad.check(header, LEDGER, keys(0, 4), 3, verify_once)
    with pytest.raises(Reject):
        final.check(header, LEDGER, keys(1, 4), 3, verify_once)  # the members of the next epoch signed nothing here
    fresh = Table(4)
    fresh.follow(2, table.chain(0))
    assert fresh.apps[2].epoch == 1, "a laggard believes the true cover"


def test_a_leader_that_puts_work_on_an_epochs_unfinal_last_block_is_not_voted_for() -> None:
    table = Table(4)
    for app in table.apps:
        app.stuffs = True
    table.apps[0].stuffs = False
    table.work(1)
    table.deliver()
    table.work(END)
    table.work(7)
    last = max(node.current_view for node in table.nodes)
    table.wait(40.0, lambda packet: not (finalizes(packet) and packet[2].view <= last))  # type: ignore[union-attr]
    table.wait(40.0)
    table.check()
    assert {app.epoch for app in table.apps} == {1}
    end = next(i for i, f in enumerate(table.chain(0)) if END in _items(f))
    assert all(header_of(f).epoch == 1 for f in table.chain(0)[end + 1 :])


def _items(final: FinalBlock) -> set[int]:
    return {int.from_bytes(leaf, "big") for leaf in final.block.leaves}


def turned() -> Table:
    """Return a table of four that has reached epoch 1 with three of them, and has work to agree on."""
    table = Table(4, 3)
    table.work(1)
    table.wait(3.0)
    table.work(END)
    table.wait(6.0)
    assert {app.epoch for app in table.apps} == {1}
    return table


def test_votes_and_certificates_of_another_epoch_change_nothing() -> None:
    table = turned()
    node = table.nodes[0]
    view = node.current_view
    before = node.status()
    for epoch in (0, 2):
        votes = [signed(table, epoch, view, SKIP, bytes(32), m) for m in (1, 2, 3)]
        for vote in votes:
            assert node.on_vote(vote, vote.signer, table.now) == []
        said = Certificate(epoch, view, SKIP, bytes(32), (1, 2, 3), tuple(v.signature for v in votes))
        assert node.on_certificate(said, 1, table.now) == []
    assert node.status() == before
    # Under the right number and the wrong keys they are forgeries.
    with pytest.raises(Reject):
        node.on_vote(replace_epoch(signed(table, 0, view, SKIP, bytes(32), 1), 1), 1, table.now)
    with pytest.raises(Reject):
        old = [signed(table, 0, view, SKIP, bytes(32), m) for m in (0, 1)]
        node.on_certificate(Certificate(1, view, SKIP, bytes(32), (0, 1), tuple(v.signature for v in old)), 1, 0.0)
    former = signed(table, 1, view, SKIP, bytes(32), 3)
    assert node.on_vote(former, 3, table.now) == [], "who is no member any more has no vote"


def replace_epoch(vote: Vote, epoch: int) -> Vote:
    return msgspec.structs.replace(vote, epoch=epoch)


def test_a_proposal_justified_by_another_epochs_certificates_is_refused() -> None:
    """The first block of an epoch stands on its root and needs no certificate; a leader cannot bring an old one."""
    table = turned()
    root = table.apps[0].root
    old = table.chain(0)[-1].certificate[0]
    node = table.nodes[1]
    view = node.current_view
    leader = node.leader(view)
    state = table.apps[0].states[root.hash]
    for justify, parent, parent_view in (
        ((old,), root.hash, root.view),
        ((), root.hash, root.view - 1),
        ((), LEDGER, 0),
        ((old,), old.block, old.view),
    ):
        after = extend(state, (), int(table.now * 1000))
        header = Header(
            epoch=1,
            view=view,
            height=after.height,
            parent_hash=parent,
            parent_view=parent_view,
            time_ms=after.time_ms,
            first_index=len(state.items),
            count=0,
            size=len(after.items),
            root=bytes(32),
            entries_hash=entries_hash(()),
            state_hash=after.digest,
            justify_hash=justify_hash(justify),
        )
        signature = key(100 + leader).sign(propose_message(LEDGER, header.encode()))
        block = Block(header.encode(), (), justify, leader, signature)
        with pytest.raises(Reject):
            node.on_proposal(block, leader, table.now)


def test_a_member_restarted_at_any_record_around_a_turn_contradicts_nothing_and_goes_on() -> None:
    """Every prefix of what one member wrote, from before the epoch's last block to well into the next."""
    base, _ = covered()
    base.work(5)
    base.wait(6.0)
    written = len(base.records[1])
    kinds = [record.kind for record in base.records[1]]
    assert {RECORD_BLOCK, RECORD_BODY, RECORD_VOTE} <= {*kinds}
    first = next(i for i, record in enumerate(base.records[1]) if record.kind == RECORD_BLOCK)
    for end in range(first, written + 1):
        table, _ = covered()
        table.work(5)
        table.wait(6.0)
        # What was never written was never said, as far as anybody else can tell.
        kept = table.records[1][:end]
        votes = {r.payload for r in kept if r.kind == RECORD_VOTE}
        table.said = [v for v in table.said if v.signer != 1 or codec.encode(v) in votes]
        epochs = {decode_block(r.payload).opened().epoch for r in kept if r.kind == RECORD_BODY}
        table.restart(1, kept)
        if end == written:
            assert epochs == {0, 1}, "records of two epochs are read back together"
        mine = [v for view in table.nodes[1]._views.values() for votes_ in view.votes.values() for v in votes_.values()]
        assert all(v.epoch == table.apps[1].epoch for v in mine if v.signer == 1)
        table.follow(1, table.chain(0))
        assert table.apps[1].epoch == 1


def test_a_member_that_crashes_just_after_the_turn_finds_its_votes_of_the_new_epoch_again() -> None:
    table = turned()
    table.work(9)
    table.deliver(lambda packet: not finalizes(packet))
    before = [v for v in table.said if v.signer == 0 and v.epoch == 1]
    assert before
    table.restart(0)
    table.work(9)
    table.wait(20.0)
    table.check()
    assert 9 in table.apps[0].states[table.apps[0].head].items


def test_a_laggard_that_gets_blocks_of_three_epochs_at_once_follows_them_all() -> None:
    table = Table(4, 3, 5, 4)
    away = 4
    for item in (1, END, 2, 2 * END, 3, 3 * END, 4):
        table.work(item)
        table.wait(12.0, lambda packet: away not in packet[:2])
        best = max(range(table.most), key=lambda m: len(table.chain(m)))
        for member in range(4):
            table.follow(member, table.chain(best))
    assert table.apps[away].epoch == 0
    blocks = table.chain(0)
    assert {header_of(f).epoch for f in blocks} == {0, 1, 2, 3}
    with pytest.raises(Reject, match="comes first"):
        table.follow(away, blocks[1:])
    forged = msgspec.structs.replace(blocks[-1], certificate=(blocks[0].certificate[0],))
    with pytest.raises(Reject):
        table.follow(away, (*blocks[:-1], forged))
    table.follow(away, blocks)
    assert table.apps[away].epoch == 3
    assert [f.block.header for f in table.chain(away)] == [f.block.header for f in blocks], "each once, none lost"
    table.check()


def test_certificates_of_an_ended_epoch_are_not_written_into_the_next() -> None:
    table = turned()
    table.work(9)
    table.wait(6.0)
    after = False
    for record in table.records[0]:
        if record.kind == RECORD_BLOCK:
            header = header_of(codec.decode(record.payload, FinalBlock, limit=1 << 20))
            after = after or header.epoch == 1
        if after and record.kind == RECORD_CERTIFICATE:
            assert codec.decode(record.payload, Certificate, limit=1 << 20).epoch == 1


def test_what_a_reminder_brings_about_is_written_although_its_end_is_a_lie() -> None:
    """A member that lost its votes learns the one that makes a block final, and next to it a forged one."""
    table = Table(4)
    table.work(1)
    table.deliver(lambda packet: not finalizes(packet))
    view = 1
    finals = [v for v in table.said if v.kind == FINALIZE and v.view == view]
    notarizes = [v for v in table.said if v.kind == NOTARIZE and v.view == view]
    assert {v.signer for v in finals} == {0, 1, 2, 3}
    proposal = next(b.block for b in table.nodes[1]._views[view].bodies.values())
    table.records[0] = []
    table.restart(0, [])
    node = table.nodes[0]
    node.muted = True
    outputs = node.on_proposal(proposal, 1, table.now)
    for vote in [*notarizes[1:], *(v for v in finals if v.signer in (1, 2))]:
        if vote.signer != 0:
            outputs += node.on_vote(vote, vote.signer, table.now)
    mine = next(v for v in finals if v.signer == 0)
    forged = msgspec.structs.replace(signed(table, 0, 9, SKIP, bytes(32), 0), signature=bytes(64))
    with pytest.raises(Reject):
        node.on_reminder((mine, forged), (), table.now)
    outputs += node.step(table.now)
    assert node.final_height == 1
    kinds = [r.kind for output in outputs if isinstance(output, c.Durable) for r in output.records]
    assert RECORD_BLOCK in kinds, "a block that is final here is written before anything is built on it"
    assert RECORD_VOTE in kinds

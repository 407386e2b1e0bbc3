"""The audit's view of rounds: what counts is in it, and nothing a member writes can make it stumble."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from swarm import codec
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, audit
from swarm.ledger.block import NO_HASH, Block, FinalBlock, Header, entries_hash, justify_hash
from swarm.ledger.state import (
    Signatures,
    State,
    apply_authored,
    apply_derived,
    derived_leaf,
    due_commit,
    genesis,
    make_close,
    open_authored,
)
from tests.builders import Feeds, contribution, digest, make_swarm

SWARM = make_swarm(4)


class Chain:
    """Blocks as members would build them; nobody certifies them, which the audit counts and does not mind."""

    def __init__(self) -> None:
        self.feeds = Feeds(SWARM)
        self.state: State = genesis(SWARM.signed)
        self.tip: Header | None = None
        self.payloads: list[bytes] = []

    def add(
        self, leaves: Sequence[bytes], kind: int = 0, make: Callable[[State], msgspec.Struct | None] | None = None
    ) -> None:
        """Append a block of these entries and, perhaps, a derived one."""
        before, after, time_ms = self.state, self.state, self.state.time_ms + 1
        all_leaves = list(leaves)
        for leaf in leaves:
            after = apply_authored(after, open_authored(after, e.decode_entry(leaf), leaf, Signatures()))
        body = None if make is None else make(after)
        if isinstance(body, (e.RoundClose, e.RoundCommit)):
            all_leaves.append(derived_leaf(after, kind, body, time_ms))
            after = apply_derived(after, kind, body, time_ms)
        after = msgspec.structs.replace(after, height=before.height + 1, time_ms=time_ms)
        header = Header(
            epoch=0,
            view=before.height + 1,
            height=before.height + 1,
            parent_hash=self.tip.hash if self.tip else before.ledger_id,
            parent_view=self.tip.view if self.tip else 0,
            time_ms=time_ms,
            first_index=before.size,
            count=len(all_leaves),
            size=after.size,
            root=after.frontier.root(),
            entries_hash=entries_hash(all_leaves),
            state_hash=after.digest(),
            justify_hash=justify_hash(()),
        )
        block = Block(header.encode(), tuple(all_leaves), (), 0, bytes(64))
        self.payloads.append(codec.encode(FinalBlock(block, ())))
        self.state, self.tip = after, header

    def round(self, number: int, *extra: bytes) -> None:
        """Let all four learn a round."""
        base = self.state.committed.model
        offers = [self.feeds.write(i, contribution(SWARM, i, number=number, base=base)) for i in range(4)]
        self.add([*extra, *offers], e.ROUND_CLOSE, close_with_all)
        assert self.state.close is not None
        attest = e.Attest(number, self.state.close.index, digest(f"model {number}"), 128, (), b"")
        self.add([self.feeds.write(i, attest) for i in range(3)], e.ROUND_COMMIT, due_commit)

    def audited(self) -> Audit:
        *_, result = audit(self.payloads, SWARM.signed)
        assert result.failure is None, result.failure
        return result


def close_with_all(state: State) -> e.RoundClose:
    placed = [placed for (r, _), placed in sorted(state.contributions.items()) if r == state.round]
    return make_close(state, placed, {})


def test_the_view_of_a_round_is_what_the_state_counted() -> None:
    chain = Chain()
    chain.round(1)
    chain.round(2)
    found = chain.audited()
    assert list(found.rounds) == [1, 2]
    for view in found.rounds.values():
        assert view.closed is not None
        assert view.commit is not None
        assert set(view.contributions) == {who.node for who in SWARM.identities}
        assert {placed.index for placed in view.closed.terms} == {p.index for p in view.contributions.values()}


def test_a_contribution_far_ahead_of_its_round_cannot_make_the_audit_stumble() -> None:
    """A liar writes attempt 5 at round 3 while round 1 is open: on record, and ignored by every member."""
    chain = Chain()
    early = chain.feeds.write(0, contribution(SWARM, 0, number=3, attempt=5))
    chain.round(1, early)
    chain.round(2)
    chain.round(3)
    third = chain.audited().rounds[3]
    assert third.closed is not None
    assert third.contributions[SWARM.identities[0].node].body.attempt == 1


def test_words_about_rounds_that_never_were_make_no_rounds() -> None:
    chain = Chain()
    chain.round(1)
    strange = [
        chain.feeds.write(0, e.Evaluation(10**9, digest("model"), 5, ())),
        chain.feeds.write(1, e.Evaluation(2, digest("model"), 5, ())),
        chain.feeds.write(2, contribution(SWARM, 2, number=10**6)),
        chain.feeds.write(3, contribution(SWARM, 3, number=1, attempt=9)),
        chain.feeds.write(3, e.Evaluation(1, digest("model 1"), 7, ())),
    ]
    chain.add(strange)
    found = chain.audited()
    assert list(found.rounds) == [1]
    assert {node: score.samples for node, score in found.rounds[1].evaluations.items()} == {SWARM.identities[3].node: 7}
    assert found.rounds[1].contributions[SWARM.identities[3].node].body.attempt == 1


def test_a_block_that_does_not_hold_leaves_nothing_of_itself_in_the_view() -> None:
    chain = Chain()
    chain.round(1)
    chain.round(2)
    final = codec.decode(chain.payloads[2], FinalBlock, limit=1 << 21)
    header = Header.decode(final.block.header)
    bent = replace(header, root=hashlib.sha256(NO_HASH).digest())
    block = msgspec.structs.replace(final.block, header=bent.encode())
    chain.payloads[2] = codec.encode(msgspec.structs.replace(final, block=block))
    *_, result = audit(chain.payloads, SWARM.signed)
    assert result.failure is not None
    assert result.failure.height == 3
    assert list(result.rounds) == [1]


def bent(payload: bytes, changes: dict[int, Callable[[e.Entry], e.Entry]]) -> bytes:
    """Return a block record with some entries changed, and a header that commits to them but not to what follows."""
    final = codec.decode(payload, FinalBlock, limit=1 << 21)
    leaves = [
        changes[at](e.decode_entry(leaf)).encode() if at in changes else leaf
        for at, leaf in enumerate(final.block.leaves)
    ]
    header = replace(Header.decode(final.block.header), entries_hash=entries_hash(leaves))
    block = msgspec.structs.replace(final.block, header=header.encode(), leaves=tuple(leaves))
    return codec.encode(msgspec.structs.replace(final, block=block))


def forged(entry: e.Entry) -> e.Entry:
    return msgspec.structs.replace(entry, signature=bytes([entry.signature[0] ^ 1]) + entry.signature[1:])


def elsewhere(entry: e.Entry) -> e.Entry:
    return msgspec.structs.replace(entry, seq=entry.seq + 7)


def foreign(entry: e.Entry) -> e.Entry:
    return msgspec.structs.replace(entry, ledger_id=NO_HASH)


def test_signatures_are_checked_after_their_block_and_yet_the_first_fault_of_a_block_is_told() -> None:
    chain = Chain()
    chain.round(1)
    author = [who.node.hex()[:8] for who in SWARM.identities]
    for changes, told in (
        ({0: forged}, f"couldn't accept entry 0 of {author[0]}: its signature does not verify"),
        ({2: forged}, f"couldn't accept entry 0 of {author[2]}: its signature does not verify"),
        ({3: forged, 1: forged}, f"couldn't accept entry 0 of {author[1]}: its signature does not verify"),
        # The feed of the entry after it breaks, which is found while the block is read: still the earlier one is told.
        ({1: forged, 2: elsewhere}, f"couldn't accept entry 0 of {author[1]}: its signature does not verify"),
        # An entry that is changed and not signed anew is both unsigned and out of place; it is unsigned first.
        ({1: elsewhere, 2: forged}, f"couldn't accept entry 7 of {author[1]}: its signature does not verify"),
        ({1: foreign}, "couldn't accept an entry: it belongs to another ledger"),
    ):
        *_, result = audit([bent(chain.payloads[0], changes), *chain.payloads[1:]], SWARM.signed)
        assert result.failure is not None
        assert (result.failure.height, result.failure.text) == (1, told)
        assert (result.blocks, result.entries, result.rounds) == (0, 1, {})


def test_who_only_looks_does_not_check_signatures_but_everything_else() -> None:
    chain = Chain()
    chain.round(1)
    *_, result = audit([bent(chain.payloads[0], {0: forged})], SWARM.signed, trusting=True)
    assert result.failure is not None
    assert "its tree is not the tree of its entries" in result.failure.text

"""What two signed messages prove about the member who signed both.

No honest member signs both of certain pairs (`ledger.md` 1.5): two blocks notarized in one view, two finalized, one
notarized and another finalized, a skip and a finalize, two proposals for one view, two entries in one place of a feed,
two contributions as the same attempt at a round. Such a pair goes into the ledger as an entry of whoever noticed, and
whoever reads the ledger can check it with nothing but the charter: the messages are in it, signatures and all. An entry
that proves nothing has no effect, so nobody can be accused of what they did not do.

What it costs the culprit is not decided here; the charter's evidence policy says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import msgspec

from swarm import codec, identity
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.block import (
    BLOCK_BYTES_MAX,
    FINALIZE,
    NOTARIZE,
    SKIP,
    Block,
    Header,
    Vote,
    propose_message,
    vote_message,
)
from swarm.ledger.views import Contradiction, contradict
from swarm.machine import NodeId
from swarm.terms import Terms

TWO_NOTARIZED = 1
SKIPPED_AND_FINALIZED = 2
TWO_FINALIZED = 3
NOTARIZED_AND_FINALIZED = 4
TWO_PROPOSALS = 5
TWO_ENTRIES = 6
TWO_CONTRIBUTIONS = 7

# Rules are in the ledger for ever: add, never renumber.
RULES = {
    TWO_NOTARIZED: "voted for two blocks of one view",
    SKIPPED_AND_FINALIZED: "voted to skip a view and to finalize its block",
    TWO_FINALIZED: "voted to finalize two blocks of one view",
    NOTARIZED_AND_FINALIZED: "voted for one block of a view and to finalize another",
    TWO_PROPOSALS: "proposed two blocks in one view",
    TWO_ENTRIES: "wrote two entries in one place of its feed",
    TWO_CONTRIBUTIONS: "offered two updates as the same attempt at a round",
}

_VOTES = (TWO_NOTARIZED, SKIPPED_AND_FINALIZED, TWO_FINALIZED, NOTARIZED_AND_FINALIZED)
_BY_KINDS = {
    (NOTARIZE, NOTARIZE): TWO_NOTARIZED,
    (FINALIZE, SKIP): SKIPPED_AND_FINALIZED,
    (FINALIZE, FINALIZE): TWO_FINALIZED,
    (FINALIZE, NOTARIZE): NOTARIZED_AND_FINALIZED,
}


class Proposal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a leader signs of a block, without the block's body."""

    header: bytes
    signature: bytes


def from_contradiction(found: Contradiction, terms: Terms) -> e.Evidence | None:
    """Return the entry's body for what consensus has noticed, or None when the pair is too long for an entry.

    `terms` are those of the epoch it was noticed in.
    """
    culprit = terms.members[found.culprit].node
    try:
        votes = [codec.decode(data, Vote, limit=e.ENTRY_BYTES_MAX) for data in (found.first, found.second)]
        rule = _vote_rule(*votes)
        first, second = found.first, found.second
    except Reject:
        blocks = [codec.decode(data, Block, limit=BLOCK_BYTES_MAX) for data in (found.first, found.second)]
        rule = TWO_PROPOSALS
        first, second = (codec.encode(Proposal(block.header, block.signature)) for block in blocks)
    return _ordered(rule, culprit, first, second)


def from_entries(author: NodeId, first: bytes, second: bytes) -> e.Evidence | None:
    """Return the entry's body for two contradictory leaves of one author, or None when they are too long for one."""
    same_place = e.decode_entry(first).seq == e.decode_entry(second).seq
    return _ordered(TWO_ENTRIES if same_place else TWO_CONTRIBUTIONS, author, first, second)


def judge(body: e.Evidence, ledger_id: bytes, terms: Sequence[Terms]) -> None:
    """Raise `Reject` unless the body proves that its culprit, a member, broke its rule.

    `terms` are those of the epoch at hand and of the last few before it, newest first: votes are judged by the keys of
    their own epoch, entries by any of the keys their author had.
    """
    named = "couldn't accept evidence"
    culprit = NodeId(body.culprit)
    known = [t for t in terms if t.index(culprit) is not None]
    if not known or body.rule not in RULES:
        raise Reject(f"{named}: it names no member, or no rule")
    if not body.first < body.second:
        raise Reject(f"{named}: its two messages are not in order")  # One pair, one form.
    if body.rule in _VOTES:
        holds = _votes_hold(body, ledger_id, known)
    elif body.rule == TWO_PROPOSALS:
        holds = _proposals_hold(body, ledger_id, known)
    else:
        holds = _entries_hold(body, ledger_id, known)
    if not holds:
        raise Reject(f"{named}: its messages do not prove that {known[0].name(culprit)} {RULES[body.rule]}")


def describe(body: e.Evidence, name_of: Callable[[NodeId], str]) -> str:
    """Return a judged body in words."""
    return f"{name_of(NodeId(body.culprit))} {RULES[body.rule]}"


def _ordered(rule: int, culprit: NodeId, first: bytes, second: bytes) -> e.Evidence | None:
    body = e.Evidence(rule, culprit, *sorted((first, second)))
    return body if len(codec.encode(body)) <= e.ENTRY_BYTES_MAX - e.ENVELOPE_BYTES_MAX else None


def _vote_rule(first: Vote, second: Vote) -> int:
    """Return the rule that two votes break, 0 for none."""
    if (first.epoch, first.view) != (second.epoch, second.view):
        return 0
    if not contradict(first.kind, first.block, second.kind, second.block):
        return 0
    kinds = (max(first.kind, second.kind), min(first.kind, second.kind))
    return _BY_KINDS.get(kinds, 0)


def _votes_hold(body: e.Evidence, ledger_id: bytes, known: Sequence[Terms]) -> bool:
    votes = [codec.decode(data, Vote, limit=e.ENTRY_BYTES_MAX) for data in (body.first, body.second)]
    terms = _of_epoch(known, votes[0].epoch)
    if terms is None:
        return False
    index = terms.index(NodeId(body.culprit))
    assert index is not None, "only terms that know the culprit are asked"
    for vote in votes:
        vote.check()
        message = vote_message(ledger_id, vote.epoch, vote.view, vote.kind, vote.block)
        if vote.signer != index or not identity.verify(terms.members[index].vote_key, message, vote.signature):
            return False
    return _vote_rule(*votes) == body.rule


def _proposals_hold(body: e.Evidence, ledger_id: bytes, known: Sequence[Terms]) -> bool:
    proposals = [codec.decode(data, Proposal, limit=e.ENTRY_BYTES_MAX) for data in (body.first, body.second)]
    first, second = (Header.decode(proposal.header) for proposal in proposals)
    terms = _of_epoch(known, first.epoch)
    if terms is None:
        return False
    index = terms.index(NodeId(body.culprit))
    assert index is not None, "only terms that know the culprit are asked"
    for proposal in proposals:
        message = propose_message(ledger_id, proposal.header)
        if not identity.verify(terms.members[index].vote_key, message, proposal.signature):
            return False
    return (first.epoch, first.view) == (second.epoch, second.view) and first.hash != second.hash


def _entries_hold(body: e.Evidence, ledger_id: bytes, known: Sequence[Terms]) -> bool:
    culprit = NodeId(body.culprit)
    first, second = (e.decode_entry(leaf) for leaf in (body.first, body.second))
    for entry in (first, second):
        if entry.author != culprit or not signed_by_any(entry, culprit, known, ledger_id):
            return False
    if first.id == second.id:
        return False  # Two signatures of one message: an author can make as many as it likes.
    if body.rule == TWO_ENTRIES:
        return first.seq == second.seq
    if first.seq == second.seq or first.kind != e.CONTRIBUTION or second.kind != e.CONTRIBUTION:
        return False
    claims = [codec.decode(entry.body, e.Contribution, limit=e.ENTRY_BYTES_MAX) for entry in (first, second)]
    return (claims[0].round, claims[0].attempt) == (claims[1].round, claims[1].attempt)


def signed_by_any(entry: e.Entry, author: NodeId, known: Sequence[Terms], ledger_id: bytes) -> bool:
    """Whether an entry is signed by a key that a member has under any of these terms."""
    keys = {t.members[index].id_key for t in known if (index := t.index(author)) is not None}
    for key in keys:
        with contextlib.suppress(Reject):
            e.verify_entry(entry, key, ledger_id)
            return True
    return False


def _of_epoch(known: Sequence[Terms], epoch: int) -> Terms | None:
    return next((terms for terms in known if terms.epoch == epoch), None)

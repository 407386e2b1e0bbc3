"""What the log means: the state after each block, and what the next block may contain.

Everything here is a pure function of the entries, so that two members holding the same blocks hold the same state, byte
for byte, and an auditor can recompute every derived entry. Soft questions, which depend on who asks (do I hold the
update? has that site gone silent?), are not asked here: see `swarm.ledger.replica`.

The order inside a block is fixed: at most one `block_cert`, then authored entries, then `round_commit` when it is due,
then `round_close` (or, where updates are masked, perhaps a `mask_roster`) when the proposer found the round ready, then
`epoch` when a motion is carried. Commit and epoch are
not a choice: the block in which the quorum of equal attests, or of votes, is reached must hold it.

An epoch's last block is the one that holds the entry of the next. The next epoch's blocks extend it and are judged by
the new members' keys; until it is final, only empty blocks of its own epoch may, which never become part of the ledger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import replace

from swarm import codec, identity, stopping
from swarm.charter import ROUNDS_MAX, Charter, SignedCharter
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger import masking as masked
from swarm.ledger import snapshot
from swarm.ledger.block import FINALIZE, MEMBERS_MAX, NO_HASH, Header, Root
from swarm.ledger.evidence import judge
from swarm.ledger.exchange import Due, Exchange, Mass, Own, Part, distances_ppm, partners
from swarm.ledger.masking import Masking
from swarm.ledger.merkle import Frontier, leaf_hash
from swarm.ledger.motions import Motion, carried, moved, open_at, open_change, voted
from swarm.ledger.partials import counts
from swarm.ledger.pushing import Settled, settle
from swarm.machine import NodeId
from swarm.masking.noise import Share, silent
from swarm.masking.statements import DEAL_BYTES_MAX, Keys, Reveal, read_reveal
from swarm.mixing.average import WEIGHT_TOTAL_MAX, integer_weights
from swarm.mixing.sketch import SKETCH_BYTES
from swarm.routes import SLICES_MAX, slices_digest
from swarm.staleness import discounted
from swarm.stopping import Best, Watch
from swarm.terms import Terms, founding

ROUNDS_AHEAD = 1
"""Contributions are kept for the open round and the next: training may be one round ahead of finality, no more."""

PAST_TERMS_MAX = 4
"""Epochs before the one at hand whose members can still be shown to have contradicted themselves."""

_PLACE = {e.BLOCK_CERT: 0, e.ROUND_COMMIT: 2, e.ROUND_CLOSE: 3, e.MASK_ROSTER: 3, e.EPOCH: 4}
"""Where a kind stands in a block; authored kinds stand at 1."""


Derived: TypeAlias = e.RoundCommit | e.RoundClose | e.MaskRoster | e.BlockCert | e.Epoch

Noted: TypeAlias = tuple[int, e.Entry, msgspec.Struct]
"""An entry as applied: its index in the log, its envelope, its body."""


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The end of one feed in the log: the next sequence number and the id of the last entry."""

    seq: int
    prev: bytes


class Authored(msgspec.Struct, frozen=True):
    """A member's entry whose signature has been checked, with what was computed on the way."""

    entry: e.Entry
    id: bytes
    leaf: bytes
    leaf_hash: bytes
    body: msgspec.Struct


class Placed(msgspec.Struct, frozen=True, array_like=True):
    """A contribution and where it stands in the log."""

    index: int
    author: NodeId
    body: e.Contribution


class Closed(msgspec.Struct, frozen=True, array_like=True):
    """The close of the open round: its place, what it names, whether the round is one of gossip, and in which epoch.

    `rest` is the weight of what is not in it and the mean is divided by all the same: see `_weights`.
    """

    index: int
    body: e.RoundClose
    terms: tuple[Placed, ...]
    exchange: bool
    epoch: int
    rest: int = 0


class Counted(msgspec.Struct, frozen=True, array_like=True):
    """A member's work that was counted last: of which round it was, and with how many samples."""

    round: int
    samples: int


class Committed(msgspec.Struct, frozen=True, array_like=True):
    """The last finished round. Round 0 stands for the initial model."""

    round: int
    model: bytes
    model_bytes: int


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The state after a block. Mappings are never changed in place; `apply_block` makes a new state.

    `opened_ms` is the block time at which the open round could begin. `certified` is the highest block height whose
    finalize certificate is itself in the log. `accused` has, by culprit and rule, the first entry that proves it.
    `terms` are those of the epoch at hand; `coming` those of the next, once its entry is in the log; `past` the last
    few before; `root` is the block on which the epoch at hand began. `heads` keeps the feeds of former members, who may
    come back. `exchange` is there in gossip mixing only. `partials` are what members have said, part by part, to have
    computed of the mean of the round that is closed. `attests` are the models that members say they ended it with,
    digest and bytes; where the charter has a rule, SHA-256 of the weights they tell stands behind the digest.

    `contributions` has what stands for a member in a round, by the two: its contribution to that round, or, where the
    charter lets late work count, one to an earlier round that came after its close. For that, `models` are those of the
    rounds before the committed one, the latest first, and `counted` is each member's work that was counted last.

    `stopping` is there only where the charter may end the run early, `masking` only where updates are masked. Where one
    is not, it is not written either: the bytes of a state are those that it had before there was such an option.
    """

    signed: SignedCharter
    ledger_id: bytes
    height: int
    time_ms: int
    frontier: Frontier
    heads: Mapping[NodeId, Head]
    opened_ms: int
    committed: Committed
    contributions: Mapping[tuple[int, NodeId], Placed]
    late: tuple[int, ...]
    close: Closed | None
    attests: Mapping[NodeId, tuple[bytes, int]]
    certified: int
    terms: Terms
    root: Root
    accused: Mapping[tuple[NodeId, int], int] = {}
    motions: tuple[Motion, ...] = ()
    coming: Terms | None = None
    past: tuple[Terms, ...] = ()
    exchange: Exchange | None = None
    partials: Mapping[tuple[int, NodeId], e.Partial] = {}
    models: tuple[bytes, ...] = ()
    counted: Mapping[NodeId, Counted] = {}
    stopping: Watch | None = None
    masking: Masking | None = None

    @property
    def void(self) -> bool:
        """Whether the open round is closed without anybody, for no mean came of it: it ends with the model before."""
        return self.close is not None and not self.close.terms

    @property
    def offered(self) -> dict[NodeId, int]:
        """The leaf indices of what stands for members in the open round, by author."""
        return {node: placed.index for (r, node), placed in self.contributions.items() if r == self.round}

    @property
    def bases(self) -> tuple[bytes, ...]:
        """The models that updates in the open round may start from, in exact mixing: that of the round before first."""
        return (self.committed.model, *self.models)

    @property
    def on_route(self) -> bool:
        """Whether the open round is closed and on its way to the mean by the charter's route, not by spread."""
        return self.close is not None and self.close.body.attempt == 1 and self.signed.charter.route is not None

    @property
    def exchanging(self) -> bool:
        """Whether the open round is one of gossip. Its last round averages all models into one instead."""
        if self.close is not None:
            return self.close.exchange  # A vote may have changed the number of rounds since.
        return self.exchange is not None and self.round < self.last

    def starts_well(self, author: NodeId, body: e.Contribution) -> bool:
        """Whether a contribution that stands in the open round starts from the model it should.

        In exact mixing, from the model before its own round. In gossip from the author's own; one that has none yet
        takes any other's, which may have another by the time this is on record. Nobody that has yet to take what it was
        given in an earlier round takes part in another one.
        """
        base = body.base_digest
        if self.exchange is None:
            behind = self.round - body.round
            if behind <= 0:
                return base == self.committed.model
            return behind <= len(self.models) and base == self.models[behind - 1]
        if author in self.exchange.dues:
            return False
        own = self.exchange.models.get(author)
        return own is None or base == own.model

    def destined(self, author: NodeId, body: e.Contribution) -> int | None:
        """Return the round whose mean a contribution may be in: its own, or a later one if it is late and still counts.

        None if nothing can come of it any more.
        """
        if self.close is None and body.round >= self.round:
            return body.round
        placed = self.contributions.get((self.round, author))
        if placed is None and self.close is not None:  # Who has left since is in the close all the same.
            placed = next((term for term in self.close.terms if term.author == author), None)
        if placed is not None and placed.body == body:
            return self.round
        coming = self.round + (self.close is not None)
        return body.round if body.round >= coming else coming if self._counts(author, body, coming) else None

    def _counts(self, author: NodeId, body: e.Contribution, round_: int) -> bool:
        """Whether late work may stand for its author in a round: not for long, and nothing is counted twice."""
        last = self.counted.get(author)
        done = 0 if last is None else last.round
        if self.close is not None:
            done = max([done, *(placed.body.round for placed in self.close.terms if placed.author == author)])
        return done < body.round and round_ - body.round <= self.signed.charter.staleness

    @property
    def round(self) -> int:
        """The open round, 1-based; one past the last one when the run is complete."""
        return self.committed.round + 1

    @property
    def complete(self) -> bool:
        """Whether the last round of the run is committed."""
        return self.committed.round >= self.last

    @property
    def last(self) -> int:
        """The last round of the run: that of the terms, or an earlier one if it stops, or no noise is paid for."""
        rounds, noise = self.terms.round.rounds, self.signed.charter.site_noise
        if noise is not None:
            rounds = min(rounds, noise.sums)
        stopped = 0 if self.stopping is None else self.stopping.last
        return min(stopped, rounds) if stopped else rounds

    @property
    def stopped(self) -> bool:
        """Whether the run is over before the last round of the terms."""
        return self.complete and self.last < self.terms.round.rounds

    @property
    def sums(self) -> int:
        """How many sums of masked updates somebody may know: one of each round that has been closed, void ones too."""
        return self.committed.round + (self.close is not None) if self.masking is not None else 0

    @property
    def share(self) -> Share | None:
        """What each on the roster at hand adds of the noise on its sum; None where there is no roster, or no noise."""
        roster = None if self.masking is None else self.masking.roster
        if roster is None or self.signed.charter.site_noise is None:
            return None
        return masked.noise_share(self.signed.charter, roster.body, roster.swarm)

    def included_min(self, roster: masked.Rostered) -> int:
        """Return how many of a roster its close is of at least; with noise, never fewer than that was shared for."""
        charter, policy = self.signed.charter, self.terms.round
        found = masked.included_min(roster, policy.min_contributions)
        if charter.site_noise is None:
            return found
        return max(found, masked.noised_min(charter, len(roster.terms), roster.swarm))

    @property
    def size(self) -> int:
        """Entries in the log so far."""
        return self.frontier.size

    def terms_of(self, epoch: int) -> Terms | None:
        """Return the terms of an epoch, if it is the one at hand or one of the last few."""
        return next((terms for terms in (self.terms, *self.past) if terms.epoch == epoch), None)

    def encode(self) -> bytes:
        """Return the canonical bytes of all of it but the charter: a snapshot, see `swarm.ledger.snapshot`."""
        return snapshot.encode(self)

    def digest(self) -> bytes:
        """SHA-256 over the canonical bytes; part of every header (invariant I3)."""
        return snapshot.digest(snapshot.encode(self))


class Signatures:
    """Remembers which leaves have been verified, so that each signature of the log is checked once.

    Bounded: the oldest are forgotten and would simply be checked again. `trusting` is set while a node reads back its
    own journal, whose records it checked before it wrote them.
    """

    REMEMBERED_MAX = 20_000

    def __init__(self, verify: identity.Verify = identity.verify) -> None:
        self.trusting = False
        self._verify = verify
        self._seen: dict[bytes, None] = {}

    def verify(self, leaf: bytes, entry: e.Entry, id_key: bytes, ledger_id: bytes) -> None:
        """Raise `Reject` unless `entry`, decoded from `leaf`, is signed by its author."""
        if self.trusting:
            return
        name = leaf_hash(leaf) + id_key  # What a member's old key signed is not signed by its new one.
        if name in self._seen:
            return
        e.verify_entry(entry, id_key, ledger_id, self._verify)
        if len(self._seen) >= self.REMEMBERED_MAX:
            del self._seen[next(iter(self._seen))]
        self._seen[name] = None

    def conclude(self) -> None:
        """Raise `Reject` unless every signature holds whose check was put off. Here none is."""

    def check(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether a vote's signature holds. An auditor may put it off: see `swarm.ledger.audit`."""
        return identity.verify(public_key, message, signature)


def genesis(signed: SignedCharter) -> State:
    """Return the state after entry 0, the charter."""
    charter = signed.charter
    leaf = signed.genesis().encode()
    ledger_id = signed.ledger_id
    return State(
        terms=founding(charter),
        root=Root(ledger_id, 0, 0),
        signed=signed,
        ledger_id=ledger_id,
        height=0,
        time_ms=charter.created_ms,
        frontier=Frontier().append(leaf_hash(leaf)),
        heads={card.node: Head(0, ledger_id) for card in charter.members},
        opened_ms=charter.created_ms,
        committed=Committed(0, charter.task.initial_model, charter.outcome_bytes),
        contributions={},
        late=(),
        close=None,
        attests={},
        certified=0,
        exchange=_first_exchange(charter) if charter.round.mixing == "gossip" else None,
        stopping=None if charter.stop is None else Watch(),
        masking=Masking() if charter.masks else None,
    )


def _first_exchange(charter: Charter) -> Exchange:
    """The founders' public copies begin as the model that all have."""
    copies = {card.node: charter.task.initial_model for card in charter.members} if charter.follows else {}
    return Exchange(copies=copies, anew=1 if charter.tracks else None)


def decode_body(entry: e.Entry) -> msgspec.Struct:
    """Return the typed body of an authored entry, its fields in range. Raises `Reject`."""
    match entry.kind:
        case e.CONTRIBUTION:
            contribution = codec.decode(entry.body, e.Contribution, limit=e.ENTRY_BYTES_MAX)
            _check_contribution(contribution)
            return contribution
        case e.ATTEST:
            attest = codec.decode(entry.body, e.Attest, limit=e.ENTRY_BYTES_MAX)
            if attest.round < 1 or len(attest.model_digest) != 32:
                raise Reject("couldn't accept an attest: a field is out of range")
            _check_used(attest.used)
            if len(attest.sketch) not in (0, SKETCH_BYTES):
                raise Reject("couldn't accept an attest: its sketch has another size than sketches have")
            return attest
        case e.RECEIPT:
            receipt = codec.decode(entry.body, e.Receipt, limit=e.ENTRY_BYTES_MAX)
            if receipt.round < 1 or len(receipt.held) > MEMBERS_MAX or sorted({*receipt.held}) != [*receipt.held]:
                raise Reject("couldn't accept a receipt: a field is out of range or order")
            return receipt
        case e.PARTIAL:
            partial = codec.decode(entry.body, e.Partial, limit=e.ENTRY_BYTES_MAX)
            if partial.round < 1 or len(partial.digest) != 32 or not 0 <= partial.number < SLICES_MAX:
                raise Reject("couldn't accept a partial: a field is out of range")
            if len(partial.norms) > MEMBERS_MAX or not all(0 <= units < 2**40 for units in partial.norms):
                raise Reject("couldn't accept a partial: its norms are too many or out of range")
            return partial
        case e.PUSH:
            push = codec.decode(entry.body, e.Push, limit=e.ENTRY_BYTES_MAX)
            lists: tuple[tuple[int, ...] | tuple[bytes, ...], ...] = (push.held, push.targets)
            fair = all(len(one) <= MEMBERS_MAX and sorted({*one}) == [*one] for one in lists)
            if push.round < 1 or not fair or any(len(target) != 32 for target in push.targets):
                raise Reject("couldn't accept a push: a field is out of range or order")
            return push
        case e.MASK_KEYS:
            keys = codec.decode(entry.body, Keys, limit=e.ENTRY_BYTES_MAX)
            keys.check()
            return keys
        case e.MASK_DEAL:
            deal = codec.decode(entry.body, e.MaskDeal, limit=e.ENTRY_BYTES_MAX)
            if deal.round < 1 or deal.roster < 0 or len(deal.digest) != 32 or not 0 < deal.size <= DEAL_BYTES_MAX:
                raise Reject("couldn't accept a deal of shares: a field is out of range")
            return deal
        case e.MASK_REVEAL:
            return read_reveal(entry.body)
        case e.EVALUATION:
            evaluation = codec.decode(entry.body, e.Evaluation, limit=e.ENTRY_BYTES_MAX)
            if evaluation.round < 0 or len(evaluation.model_digest) != 32 or evaluation.samples < 0:
                raise Reject("couldn't accept an evaluation: a field is out of range")
            _check_metrics(evaluation.metrics)
            return evaluation
        case e.SCORE:
            score = codec.decode(entry.body, e.Score, limit=e.ENTRY_BYTES_MAX)
            _check_score(score)
            return score
        case e.EVIDENCE:
            return codec.decode(entry.body, e.Evidence, limit=e.ENTRY_BYTES_MAX)
        case e.ANNOTATION:
            annotation = codec.decode(entry.body, e.Annotation, limit=e.ENTRY_BYTES_MAX)
            if annotation.code not in e.ANNOTATIONS or not 1 <= annotation.first <= annotation.last <= ROUNDS_MAX:
                raise Reject("couldn't accept an annotation: its code is unknown, or its rounds are out of range")
            return annotation
        case e.MEMBER_PROPOSAL:
            proposal = codec.decode(entry.body, e.MemberProposal, limit=e.ENTRY_BYTES_MAX)
            open_change(proposal)
            return proposal
        case e.MEMBER_VOTE:
            vote = codec.decode(entry.body, e.MemberVote, limit=e.ENTRY_BYTES_MAX)
            if len(vote.proposal) != 32:
                raise Reject("couldn't accept a vote on a proposal: it names none")
            return vote
        case _:
            raise Reject(f"couldn't accept an entry: nobody may write a {e.KIND_NAMES[entry.kind]} here")


def open_authored(state: State, entry: e.Entry, leaf: bytes, signatures: Signatures) -> Authored:
    """Authenticate an entry decoded from `leaf`. Raises `Reject`. Says nothing about its place in its feed."""
    index = state.terms.index(NodeId(entry.author))
    if index is None:
        raise Reject(f"couldn't accept an entry: its author {entry.author.hex()[:8]} is not a member")
    body = decode_body(entry)
    if isinstance(body, e.Score):
        _check_asked_for(state.signed.charter, body)
    charter = state.signed.charter
    if isinstance(body, Keys | e.MaskDeal | Reveal) and not charter.masks:
        raise Reject("couldn't accept an entry: it is for masks, and the charter asks for none")
    if isinstance(body, e.Attest) and body.used and not (charter.rule or charter.clip):
        raise Reject("couldn't accept an attest: it tells weights, and what it averaged follows from the log")
    if isinstance(body, e.Annotation) and body.code == e.ANEW and not charter.tracks:
        raise Reject("couldn't accept an annotation: its code is unknown where no steps are corrected")
    signatures.verify(leaf, entry, state.terms.members[index].id_key, state.ledger_id)
    return Authored(entry, entry.id, leaf, leaf_hash(leaf), body)


def apply_authored(state: State, authored: Authored) -> State:
    """Append one authenticated entry. Raises `Reject` when it does not continue its author's feed (invariant I6)."""
    entry, author = authored.entry, NodeId(authored.entry.author)
    head = state.heads[author]
    if (entry.seq, entry.prev) != (head.seq, head.prev):
        raise Reject(
            f"couldn't accept entry {entry.seq} of {author.hex()[:8]}: its feed stands at {head.seq}"
            if entry.seq != head.seq
            else f"couldn't accept entry {entry.seq} of {author.hex()[:8]}: it does not follow the entry before it"
        )
    frontier = state.frontier.append(authored.leaf_hash)
    heads = {**state.heads, author: Head(entry.seq + 1, authored.id)}
    match authored.body:
        case e.Contribution():
            noted = _note_contribution(state, author, authored.body)
        case e.Attest():
            noted = _note_attest(state, author, authored.body)
        case e.Receipt() | e.Push():
            noted = _note_receipt(state, author, authored.body)
        case e.Partial():
            noted = _note_partial(state, author, authored.body)
        case Keys() | e.MaskDeal() | Reveal():
            noted = _note_masks(state, author, authored.body)
        case e.Evaluation():
            noted = _note_evaluation(state, author, authored.body)
        case e.Evidence():
            noted = _note_evidence(state, authored.body)
        case e.MemberProposal():
            noted = {
                "motions": moved(
                    state.motions,
                    authored.body,
                    author=author,
                    index=state.size,
                    entry_id=authored.id,
                    time_ms=state.time_ms,
                    ledger_id=state.ledger_id,
                    terms=state.terms,
                )
            }
        case e.MemberVote():
            noted = {"motions": voted(state.motions, authored.body, author)}
        case e.Annotation(code=e.ANEW):
            noted = {"exchange": _begun_anew(state)}
        case _:
            noted = {}
    return replace(state, frontier=frontier, heads=heads, **noted)


def due_commit(state: State, *, measured: bool = True) -> e.RoundCommit | None:
    """Return the commit that the log now demands, if a quorum attested the same model.

    For who only asks whether one is due, distances between models need not be `measured`: they are 0 then.
    """
    if state.close is None:
        return None
    if state.exchanging:
        return _due_exchange(state, state.close, measured=measured)
    counts: dict[tuple[bytes, int], int] = {}
    for attest in state.attests.values():
        counts[attest] = counts.get(attest, 0) + 1
    agreed = next((attest for attest, count in counts.items() if count >= state.terms.quorum), None)
    if agreed is None:
        return None
    said, model_bytes = agreed
    model = attested(said)
    return e.RoundCommit(
        round=state.round,
        close_index=state.close.index,
        model_digest=model,
        model_bytes=model_bytes,
        attests=counts[agreed],
        samples=sum(placed.body.samples for placed in state.close.terms),
        missing=state.close.body.missing,
        late=state.late,
        distance_max_ppm=0,
        distance_mean_ppm=0,
    )


def _due_exchange(state: State, close: Closed, *, measured: bool) -> e.RoundCommit | None:
    """Return the commit of a round of gossip once a quorum has attested, or all that were in it if those are fewer.

    Who has left since can attest nothing, and is not waited for.
    """
    assert state.exchange is not None, "somebody has looked"
    if state.terms.epoch == close.epoch and len(state.attests) < min(state.terms.quorum, len(close.terms)):
        return None  # All that were in it are still there. Asked for every entry that comes.
    there = [placed.author for placed in close.terms if state.terms.index(placed.author) is not None]
    attested = [node for node in there if node in state.attests]
    if len(attested) < min(state.terms.quorum, len(there)):
        return None
    apart = {node: state.exchange.sketches[node] for node in attested} if measured else {}
    largest, mean = distances_ppm(apart)
    return e.RoundCommit(
        round=state.round,
        close_index=close.index,
        model_digest=NO_HASH,
        model_bytes=0,
        attests=len(state.attests),
        samples=sum(placed.body.samples for placed in close.terms),
        missing=close.body.missing,
        late=state.late,
        distance_max_ppm=largest,
        distance_mean_ppm=mean,
    )


def make_close(state: State, included: Sequence[Placed], rejected: Mapping[int, int]) -> e.RoundClose:
    """Return the close of the open round with these contributions; weights follow from samples and the charter."""
    terms = state.terms
    ordered = sorted(included, key=lambda placed: terms.index(placed.author) or 0)
    weights, _ = _weights(state, ordered)
    heard = {node for (r, node) in state.contributions if r == state.round}
    missing = tuple(seat.node for seat in terms.members if seat.node not in heard)
    pairs = tuple((p.index, weight) for p, weight in zip(ordered, weights, strict=True))
    attempt = 1 if state.close is None else 2
    return e.RoundClose(state.round, attempt, pairs, missing, tuple(sorted(rejected.items())))


def _weights(state: State, ordered: Sequence[Placed]) -> tuple[tuple[int, ...], int]:
    """Return the weights of contributions in the open round's mean, and the weight of what is not there and counts.

    Where nobody waits, every mean of a few is a step, and there are as many steps as there are few among all. So all
    whose work has counted lately are weighed, as in a round with everybody, and what is not in this one is the rest: a
    site's work moves the model by its share of all data, and by less if it comes late.
    """
    if not ordered:
        return (), 0  # Of a void round.
    late = [state.round - placed.body.round for placed in ordered]
    cap, charter = state.terms.round.weight_cap_ppm, state.signed.charter
    if state.masking is not None:
        worn = state.masking.weights  # Those with which updates were masked.
        return tuple(worn[placed.author] for placed in ordered), 0
    if charter.rule_of(exchanging=state.exchanging) is not None:
        return (1,) * len(ordered), 0  # A rule believes no sample count.
    if not charter.asynchronous:
        samples = [discounted(placed.body.samples, by) for placed, by in zip(ordered, late, strict=True)]
        return integer_weights(samples, cap_ppm=cap), 0
    latest = {node: one.samples for node, one in state.counted.items() if state.round - one.round <= charter.staleness}
    latest |= {placed.author: placed.body.samples for placed in ordered}
    nodes = [seat.node for seat in state.terms.members if seat.node in latest]
    full = dict(zip(nodes, integer_weights([latest[node] for node in nodes], cap_ppm=cap), strict=True))
    weights = tuple(discounted(full[placed.author], by) for placed, by in zip(ordered, late, strict=True))
    return weights, sum(full.values()) - sum(weights)


def check_close(state: State, close: e.RoundClose) -> tuple[Placed, ...]:
    """Return the contributions a close names, after checking all that the log alone can tell. Raises `Reject`."""
    if state.masking is not None:
        return _check_masked_close(state, state.masking, close)
    named = f"couldn't accept the close of round {close.round}"
    closed = state.close is not None and not state.on_route
    if closed or state.complete or close.round != state.round:
        raise Reject(f"{named}: round {state.round} is {'already closed' if closed else 'the open one'}")
    if state.close is not None and make_void(state) == close:
        return ()
    by_index = {placed.index: placed for (r, _), placed in state.contributions.items() if r == state.round}
    indices = [index for index, _ in close.included]
    if any(index not in by_index for index in (*indices, *(index for index, _ in close.rejected))):
        raise Reject(f"{named}: it names an entry that is not a contribution to this round")
    if any(reason not in e.REASONS for _, reason in close.rejected):
        raise Reject(f"{named}: a reason it gives is unknown")
    if sorted([*indices, *(index for index, _ in close.rejected)]) != sorted(by_index):
        raise Reject(f"{named}: it does not account for every contribution")
    fewest = state.terms.round.min_contributions
    if len(indices) < fewest:
        raise Reject(f"{named}: {len(indices)} contributions, the charter asks for {fewest}")
    terms = tuple(by_index[index] for index in indices)
    if any(not fits(state, placed.body) for placed in terms):
        raise Reject(f"{named}: it includes an update of a size that no update has")
    for index, placed in by_index.items():
        stray = dict(close.rejected).get(index) == e.OTHER_BASE
        if stray == state.starts_well(placed.author, placed.body):
            raise Reject(f"{named}: it misjudges which contributions start from the model they should")
    if make_close(state, terms, dict(close.rejected)) != close:
        raise Reject(f"{named}: weights, order or missing members are not what follows from the log")
    return terms


def make_void(state: State) -> e.RoundClose:
    """Return the close by which the open round, which has been closed and comes to no mean, ends with nothing."""
    assert state.close is not None, "there is a mean to give up"
    return make_close(state, (), dict.fromkeys(state.offered.values(), e.VOID))


def _check_masked_close(state: State, masking: Masking, close: e.RoundClose) -> tuple[Placed, ...]:
    """As `check_close`, where updates are masked: of them nothing can be said but whether they are there."""
    named = f"couldn't accept the close of round {close.round}"
    if state.complete or close.round != state.round:
        raise Reject(f"{named}: round {state.round} is the open one")
    if state.close is not None:
        if state.void or make_void(state) != close:
            raise Reject(f"{named}: the round is already closed")
        return ()
    roster = masking.roster
    if roster is None or len(masking.deals) < len(roster.terms):
        raise Reject(f"{named}: nobody could mask for it yet")
    by_index = {placed.index: placed for (r, _), placed in state.contributions.items() if r == state.round}
    indices, reasons = [index for index, _ in close.included], dict(close.rejected)
    if sorted([*indices, *reasons]) != sorted(by_index) or not {*reasons.values()} <= {e.UNAVAILABLE}:
        raise Reject(f"{named}: it does not account for every contribution")
    least = state.included_min(roster)
    if len(indices) < least:
        raise Reject(f"{named}: {len(indices)} of {len(roster.terms)}, a sum must be of {least}")
    terms = tuple(by_index[index] for index in indices)
    if make_close(state, terms, reasons) != close:
        raise Reject(f"{named}: weights, order or missing members are not what follows from the log")
    return terms


def make_roster(state: State) -> e.MaskRoster | None:
    """Return the roster of all who have posted keys for the open round; None if they are too few for one."""
    masking, policy = state.masking, state.terms.round
    if masking is None or masking.roster is not None or state.close is not None or state.complete:
        return None
    nodes = [seat.node for seat in state.terms.members]
    bits = state.signed.charter.masks
    done = {node: one.round for node, one in state.counted.items()}
    made = masked.make_roster(masking, nodes, state.round, state.bases, done, cap_ppm=policy.weight_cap_ppm, bits=bits)
    if len(made.included) < masked.fewest(len(nodes), policy.min_contributions):
        return None
    noised = state.signed.charter.site_noise is not None
    return None if noised and masked.noise_share(state.signed.charter, made, len(nodes)) is None else made


def check_roster(state: State, body: e.MaskRoster) -> None:
    """Check a roster, or what ends an attempt, as far as the log alone can tell. Raises `Reject`."""
    masking = state.masking
    if masking is None or state.close is not None or state.complete:
        raise Reject(f"couldn't accept a roster for round {body.round}: no round is open to masks")
    if masking.roster is not None:
        masked.check_ending(masking, state.round, state.offered, body, state.included_min(masking.roster))
    elif make_roster(state) != body:
        raise Reject(f"couldn't accept a roster for round {body.round}: it is not what follows from the log")


def _rostered(state: State, masking: Masking, index: int, body: e.MaskRoster) -> dict[str, Any]:
    """Return what changes with a roster, or with the end of an attempt."""
    nodes = [seat.node for seat in state.terms.members]
    if body.included:
        return {"masking": masked.rostered(masking, index, body, len(nodes))}
    after = masked.ended(masking, body, state.offered, nodes, state.terms.round.min_contributions)
    return {"masking": after, "contributions": {}}


def fits(state: State, body: e.Contribution) -> bool:
    """Whether the open round can use an update of this form: the last one of gossip averages whole models."""
    charter = state.signed.charter
    return charter.carries(body) and (state.exchanging or not charter.follows or not body.slices)


def due_epoch(state: State) -> tuple[e.Epoch, Terms] | None:
    """Return the entry that begins the next epoch, and its terms, if the log now demands it."""
    found = None if state.coming is not None else carried(state.motions, state.terms, state.signed.charter)
    if found is None:
        return None
    motion, terms = found
    yes, no = (motion.said(state.terms, word) for word in (True, False))
    return e.Epoch(terms.epoch, motion.index, yes, no, terms.digest), terms


def begin_block(state: State, epoch: int, time_ms: int, parent: Root) -> State:
    """Return the state as a block of this epoch and time on this parent finds it. Raises `Reject` if none may follow.

    `parent` is used if the block is the first of its epoch.
    """
    if epoch != state.terms.epoch:
        if state.coming is None or epoch != state.coming.epoch:
            raise Reject(f"couldn't accept block {state.height + 1}: it is of epoch {epoch}, not {state.terms.epoch}")
        state = activate(state, parent)
    return replace(state, time_ms=time_ms, motions=open_at(state.motions, time_ms))


def activate(state: State, root: Root) -> State:
    """Let the terms that were voted for take effect: what former members had under way does not count any more.

    `root` is the last block of the epoch before.
    """
    terms = state.coming
    assert terms is not None, "somebody has looked"
    gone = {seat.node for seat in state.terms.members if terms.index(seat.node) is None}
    changed = [seat.node for seat in terms.members] != [seat.node for seat in state.terms.members]
    masking, closed = state.masking, state.close is not None
    contributions: Mapping[tuple[int, NodeId], Placed] = {
        k: v for k, v in state.contributions.items() if k[1] not in gone
    }
    if masking is not None:
        # Masked for others than today's members, updates are of no use; in a closed round it is too late for that.
        contributions = state.contributions if closed else contributions if not changed else {}
        masking = masked.without(masking, gone, changed=changed, closed=closed)
    heads = {**{seat.node: Head(0, state.ledger_id) for seat in terms.members}, **state.heads}
    return replace(
        state,
        terms=terms,
        root=root,
        coming=None,
        past=(state.terms, *state.past)[:PAST_TERMS_MAX],
        heads=heads,
        contributions=contributions,
        attests={k: v for k, v in state.attests.items() if k not in gone},
        partials={k: v for k, v in state.partials.items() if k[1] not in gone},
        exchange=_exchange_without(state, gone),
        stopping=_still_watched(state, terms, gone),
        masking=masking,
    )


def _exchange_without(state: State, gone: Collection[NodeId]) -> Exchange | None:
    """Forget members that have left: what they had learned is missing from the sum of all corrections."""
    exchange = _begun_anew(state) if gone else state.exchange
    return None if exchange is None else exchange.without(gone, closed=state.close is not None)


def _begun_anew(state: State) -> Exchange | None:
    """Return the exchange with corrections that begin at zero with the next close: by that one all go, or none."""
    return None if state.exchange is None else state.exchange.begun_anew(state.round + (state.close is not None))


def _still_watched(state: State, terms: Terms, gone: Collection[NodeId]) -> Watch | None:
    """Return the watch as the next epoch begins with it: who votes for another number of rounds wants them learned."""
    watch = state.stopping
    if watch is None:
        return None
    watch = watch.without(gone) if gone else watch
    return watch if terms.round.rounds == state.terms.round.rounds else watch.resumed()


def apply_derived(state: State, kind: int, body: Derived, time_ms: int) -> State:
    """Append a derived entry that has been checked."""
    return _append_derived(state, derived_leaf(state, kind, body, time_ms), body, time_ms)


def _append_derived(state: State, leaf: bytes, body: Derived, time_ms: int) -> State:
    index, frontier = state.size, state.frontier.append(leaf_hash(leaf))
    match body:
        case e.RoundCommit():
            after = replace(
                state,
                frontier=frontier,
                committed=Committed(body.round, body.model_digest, body.model_bytes),
                opened_ms=time_ms,
                **_left_over(state),
                late=(),
                close=None,
                attests={},
                partials={},
                exchange=None if state.exchange is None else _after_commit(state, state.exchange, body),
                masking=None if state.masking is None else Masking(),
            )
            if state.stopping is None:
                return after
            watch = stopping.committed(state.stopping, body.round, body.model_digest, body.model_bytes)
            return replace(after, stopping=_watched(after, watch))
        case e.RoundClose():
            included = check_close(state, body)
            _, rest = _weights(state, included)
            closed = Closed(index, body, included, state.exchanging, state.terms.epoch, rest)
            exchange = _published(state, closed)
            return replace(state, frontier=frontier, exchange=exchange, close=closed, attests={}, partials={})
        case e.MaskRoster():
            check_roster(state, body)
            assert state.masking is not None, "somebody has looked"
            return replace(state, frontier=frontier, **_rostered(state, state.masking, index, body))
        case e.BlockCert():
            return replace(state, frontier=frontier, certified=body.certified.height)
        case e.Epoch():
            due = due_epoch(state)
            assert due is not None, "somebody has looked"
            others = tuple(motion for motion in state.motions if motion.index != body.proposal)
            return replace(state, frontier=frontier, coming=due[1], motions=others)


def _published(state: State, closed: Closed) -> Exchange | None:
    """Return the exchange with the public copies of those in a round that closes, where there are such."""
    if state.exchange is None or not closed.exchange or not state.signed.charter.follows:
        return state.exchange
    moved = {placed.author: placed.body.offered[0] for placed in closed.terms}
    return replace(state.exchange, copies={**state.exchange.copies, **moved})


def _after_commit(state: State, exchange: Exchange, commit: e.RoundCommit) -> Exchange:
    """Return what is left of a round: once all models are averaged into one, that is everybody's."""
    if commit.model_bytes:
        common = Own(commit.round, commit.model_digest, commit.model_bytes)
        nodes = [seat.node for seat in state.terms.members]
        copies = dict.fromkeys(nodes, commit.model_digest) if state.signed.charter.follows else {}
        # What was learned belongs to the models that there were.
        anew = None if exchange.anew is None else commit.round + 1
        return Exchange(models=dict.fromkeys(nodes, common), copies=copies, anew=anew)
    after = masses(state)
    return Exchange(
        models=exchange.models,
        masses={node: mass for node, mass in after.items() if state.terms.index(node) is not None},
        dues=_dues(state, exchange),
        copies=exchange.copies,
        anew=exchange.anew,
    )


def _dues(state: State, exchange: Exchange) -> dict[NodeId, Due]:
    """Return what members have yet to make of the open round, now that it is over, and of those before."""
    close, done = state.close, settled(state)
    assert close is not None, "a round is committed once it is closed"
    found = dict(exchange.dues)
    included = {placed.author: placed.index for placed in close.terms}
    weights = {placed.author: weight for placed, (_, weight) in zip(close.terms, close.body.included, strict=True)}
    for placed in close.terms:
        node = placed.author
        if node in state.attests or state.terms.index(node) is None:
            continue
        if done is not None:
            before, amounts = done.before[node].held, done.amounts(node)
        else:
            met = {node, *partners(node, included, exchange.receipts)}
            before, amounts = 0, {other: weight for other, weight in weights.items() if other in met}
        parts = tuple(
            Part(one.author, *one.body.offered, amounts[one.author]) for one in close.terms if one.author in amounts
        )
        found[node] = Due(close.body.round, close.index, close.epoch, before, parts)
    return found


def settled(state: State) -> Settled | None:
    """Return what the open round did to masses, once it is closed, in a swarm whose links go one way; else None."""
    close, exchange = state.close, state.exchange
    if close is None or exchange is None or not close.exchange or not state.signed.charter.directed:
        return None
    included = {placed.author: placed.index for placed in close.terms}
    weights = {placed.author: weight for placed, (_, weight) in zip(close.terms, close.body.included, strict=True)}
    return settle(exchange, included, weights)


def masses(state: State) -> Mapping[NodeId, Mass]:
    """Return the masses that members have now, after the open round if it is closed; none where links go both ways."""
    done = settled(state)
    if done is not None:
        return done.after
    return {} if state.exchange is None else state.exchange.masses


def derived_leaf(state: State, kind: int, body: msgspec.Struct, time_ms: int) -> bytes:
    """Return the leaf that a derived entry would have as the next entry of the log."""
    return e.derived_entry(ledger_id=state.ledger_id, kind=kind, index=state.size, ts_ms=time_ms, body=body).encode()


def apply_block(
    state: State,
    header: Header,
    leaves: Sequence[bytes],
    signatures: Signatures,
    noted: list[Noted] | None = None,
) -> State:
    """Return the state after a block, or raise `Reject` saying which rule it breaks.

    Checks everything the log alone can tell: entries canonical, authentic and continuous, derived entries equal to the
    recomputed ones, root and state hash equal. `block_cert` bodies are checked by the caller, who knows the chain.
    Each entry is added to `noted`, for who wants to read on.
    """
    if header.height != state.height + 1 or header.first_index != state.size or header.time_ms <= state.time_ms:
        raise Reject(f"couldn't accept block {header.height}: its height, first entry or time does not follow")
    if header.epoch == state.terms.epoch and state.coming is not None:
        return _apply_empty(state, header, leaves)
    parent = Root(header.parent_hash, header.parent_view, state.height)
    before, state = state, begin_block(state, header.epoch, header.time_ms, parent)
    phase = 0  # the place reached; 1 as soon as a certificate or an authored entry has been seen
    for leaf in leaves:
        entry = e.decode_entry(leaf)
        place = _PLACE.get(entry.kind, 1)
        if place < phase or (place == phase and place > 1):
            raise Reject(f"couldn't accept block {header.height}: its entries are out of order")
        phase = max(place, 1)
        index = state.size
        state, body = _apply_leaf(state, entry, leaf, header, signatures)
        if noted is not None:
            noted.append((index, entry, body))
    if due_commit(state, measured=False) is not None:
        raise Reject(f"couldn't accept block {header.height}: it leaves out the commit of round {state.round}")
    if due_epoch(state) is not None:
        raise Reject(f"couldn't accept block {header.height}: it leaves out the epoch that was voted for")
    state = replace(state, height=header.height)
    _check_outcome(state, header, before)
    return state


def before_close(
    state: State, header: Header, leaves: Sequence[bytes], signatures: Signatures
) -> tuple[State, e.RoundClose | e.MaskRoster] | None:
    """Return the state at which a block closes a round, or makes a roster, and that entry; None if it does neither.

    The block is known to be acceptable; `state` is the one after its parent.
    """
    kinds: dict[int, type[e.RoundClose | e.MaskRoster]] = {e.ROUND_CLOSE: e.RoundClose, e.MASK_ROSTER: e.MaskRoster}
    entries = [e.decode_entry(leaf) for leaf in leaves]
    if not any(entry.kind in kinds for entry in entries):
        return None
    state = begin_block(state, header.epoch, header.time_ms, Root(header.parent_hash, header.parent_view, state.height))
    for entry, leaf in zip(entries, leaves, strict=True):
        if entry.kind in kinds:
            return state, codec.decode(entry.body, kinds[entry.kind], limit=e.ENTRY_BYTES_MAX)
        state, _ = _apply_leaf(state, entry, leaf, header, signatures)
    return None


def _apply_empty(state: State, header: Header, leaves: Sequence[bytes]) -> State:
    """Return the state after a block that only helps the last one of its epoch to become final."""
    if leaves:
        raise Reject(f"couldn't accept block {header.height}: its epoch has ended, it must be empty")
    before, state = state, replace(state, height=header.height, time_ms=header.time_ms)
    _check_outcome(state, header, before)
    return state


def _check_outcome(state: State, header: Header, before: State) -> None:
    if header.size != state.size or header.root != state.frontier.root():
        raise Reject(f"couldn't accept block {header.height}: its tree is not the tree of its entries")
    if header.state_hash != state.digest():
        raise Reject(f"couldn't accept block {header.height}: its state is not what follows from block {before.height}")


def _apply_leaf(
    state: State, entry: e.Entry, leaf: bytes, header: Header, signatures: Signatures
) -> tuple[State, msgspec.Struct]:
    """Return the state after an entry, and its body."""
    match entry.kind:
        case e.BLOCK_CERT:
            return _apply_cert(state, entry, leaf, header)
        case e.ROUND_COMMIT:
            commit = due_commit(state)
            if commit is None or derived_leaf(state, entry.kind, commit, header.time_ms) != leaf:
                raise Reject(f"couldn't accept the commit of round {state.round}: it does not follow from the attests")
            return _append_derived(state, leaf, commit, header.time_ms), commit
        case e.EPOCH:
            due = due_epoch(state)
            if due is None or derived_leaf(state, entry.kind, due[0], header.time_ms) != leaf:
                raise Reject(f"couldn't accept an epoch in block {header.height}: it does not follow from the votes")
            return _append_derived(state, leaf, due[0], header.time_ms), due[0]
        case e.ROUND_CLOSE:
            close = codec.decode(entry.body, e.RoundClose, limit=e.ENTRY_BYTES_MAX)
            if due_commit(state, measured=False) is not None or not e.is_derived(
                entry, state.ledger_id, state.size, header.time_ms
            ):
                raise Reject(f"couldn't accept the close of round {close.round}: it is not in its derived form")
            return _append_derived(state, leaf, close, header.time_ms), close
        case e.MASK_ROSTER:
            roster = codec.decode(entry.body, e.MaskRoster, limit=e.ENTRY_BYTES_MAX)
            if due_commit(state, measured=False) is not None or not e.is_derived(
                entry, state.ledger_id, state.size, header.time_ms
            ):
                raise Reject(f"couldn't accept a roster for round {roster.round}: it is not in its derived form")
            return _append_derived(state, leaf, roster, header.time_ms), roster
        case _:
            authored = open_authored(state, entry, leaf, signatures)
            return apply_authored(state, authored), authored.body


def _apply_cert(state: State, entry: e.Entry, leaf: bytes, header: Header) -> tuple[State, e.BlockCert]:
    """A certificate must be for a block below this one and above the last one recorded."""
    body = codec.decode(entry.body, e.BlockCert, limit=e.ENTRY_BYTES_MAX)
    certified = body.certified
    if not state.certified < certified.height < header.height:
        raise Reject(f"couldn't accept block {header.height}: it records a certificate out of order")
    if not e.is_derived(entry, state.ledger_id, state.size, header.time_ms):
        raise Reject(f"couldn't accept block {header.height}: its certificate entry is not in its derived form")
    certificate = body.proof
    if certificate.kind != FINALIZE or certificate.block != certified.hash:
        # A quorum may have notarized a block that never became final: on record it would look like a second history.
        raise Reject(f"couldn't accept block {header.height}: what it records does not finalize the block it names")
    return _append_derived(state, leaf, body, header.time_ms), body


def _note_contribution(state: State, author: NodeId, body: e.Contribution) -> dict[str, Any]:
    """The highest attempt counts. What comes after its round has closed is late: it may stand in the next one."""
    closed = state.close is not None and body.round == state.round
    late = body.round < state.round or closed
    noted: dict[str, Any] = {"late": (*state.late, state.size)} if late else {}
    if state.masking is not None:
        # What was not masked for the roster at hand is of no use, and the first of a member is the only one.
        fresh = state.close is None and (state.round, author) not in state.contributions
        fitting = masked.offers(state.masking, state.round, state.bases, author, body)
        if not (fresh and fitting and state.signed.charter.carries(body)):
            return noted
        return noted | {
            "contributions": {**state.contributions, (state.round, author): Placed(state.size, author, body)}
        }
    number = state.destined(author, body)
    if number is None or number > state.round + ROUNDS_AHEAD:
        return noted
    known = state.contributions.get((number, author))
    if known is not None and not _newer(body, known.body):
        return noted
    placed = Placed(state.size, author, body)
    return noted | {"contributions": {**state.contributions, (number, author): placed}}


def _newer(body: e.Contribution, other: e.Contribution) -> bool:
    """Whether a contribution takes the other's place."""
    return (body.round, body.attempt) > (other.round, other.attempt)


def _left_over(state: State) -> dict[str, Any]:
    """Return what contributions are left after the commit of the open round, and what has to be known of late ones.

    What the close could not take in because nobody had it stands in the next round, while it counts.
    """
    close, staleness = state.close, state.signed.charter.staleness
    left = {place: placed for place, placed in state.contributions.items() if place[0] > state.round}
    if not staleness or close is None:
        return {"contributions": left}
    away = {index for index, reason in close.body.rejected if reason == e.UNAVAILABLE}
    if state.masking is not None:
        away = set()  # What was masked for this round's roster is of no use in another.
    for (number, author), placed in state.contributions.items():
        if number == state.round and placed.index in away and number + 1 - placed.body.round <= staleness:
            other = left.get((number + 1, author))
            if other is None or _newer(placed.body, other.body):
                left[number + 1, author] = placed
    return {
        "contributions": left,
        "models": (state.committed.model, *state.models)[:staleness],
        "counted": {**state.counted, **{p.author: Counted(p.body.round, p.body.samples) for p in close.terms}},
    }


def _note_attest(state: State, author: NodeId, body: e.Attest) -> dict[str, Any]:
    """Only the first attest of a member for the close at hand counts. In gossip, a late one tells its model."""
    noted: dict[str, Any] = {}
    exchange = state.exchange
    counted = state.close is not None and (body.round, body.close_index) == (state.round, state.close.index)
    due = None if exchange is None else exchange.dues.get(author)
    told = counted or body.round == state.committed.round or (due is not None and body.round == due.round)
    if exchange is not None and told and len(body.sketch) == SKETCH_BYTES:
        own = exchange.models.get(author)
        if own is None or own.round < body.round:
            noted["exchange"] = exchange = replace(
                exchange, models={**exchange.models, author: Own(body.round, body.model_digest, body.model_bytes)}
            )
        if due is not None and body.round == due.round:
            rest = {node: other for node, other in exchange.dues.items() if node != author}
            noted["exchange"] = exchange = replace(exchange, dues=rest)
    if not counted or author in state.attests:
        return noted
    if state.exchanging:
        if exchange is None or len(body.sketch) != SKETCH_BYTES:
            return noted
        noted["exchange"] = replace(exchange, sketches={**exchange.sketches, author: body.sketch})
    said = _said(state, body)
    return noted if said is None else noted | {"attests": {**state.attests, author: (said, body.model_bytes)}}


def _said(state: State, body: e.Attest) -> bytes | None:
    """Return what an attest for the close at hand agrees with others on; None if it is none that could be right.

    Under a rule that is the weights too: they are no one's word but a fact that everybody computes.
    """
    close = state.close
    if close is None or state.signed.charter.rule_of(exchanging=close.exchange) is None:
        return body.model_digest
    named = tuple((author, digest) for author, digest, _ in body.used)
    if named != tuple((bytes(placed.author), placed.body.update_digest) for placed in close.terms):
        return None
    return body.model_digest + hashlib.sha256(codec.encode(body.used)).digest()


def attested(said: bytes) -> bytes:
    """Return the model's digest of what a state keeps of an attest: under a rule the weights' digest stands behind."""
    return said[:32]


def _note_receipt(state: State, author: NodeId, body: e.Receipt | e.Push) -> dict[str, Any]:
    """The last word before the close counts. Where links go one way that is a push, else a receipt."""
    if state.exchange is None or not state.exchanging or state.close is not None or body.round != state.round:
        return {}
    if isinstance(body, e.Push) != state.signed.charter.directed:
        return {}
    noted = replace(state.exchange, receipts={**state.exchange.receipts, author: body.held})
    if isinstance(body, e.Push):
        noted = replace(noted, targets={**noted.targets, author: body.targets})
    return {"exchange": noted}


def _note_partial(state: State, author: NodeId, body: e.Partial) -> dict[str, Any]:
    """The first word of a member counts, if it is for the close at hand and a part that this member computes."""
    close, charter = state.close, state.signed.charter
    if close is None or not state.on_route or (body.round, body.close_index) != (state.round, close.index):
        return {}
    if (body.number, author) in state.partials:
        return {}
    if not counts(charter, [placed.author for placed in close.terms], author, body):
        return {}
    return {"partials": {**state.partials, (body.number, author): body}}


def _note_masks(state: State, author: NodeId, body: Keys | e.MaskDeal | Reveal) -> dict[str, Any]:
    """Words on masks count for the open round alone, each until what comes after it is settled."""
    masking, close = state.masking, state.close
    if masking is None or body.round != state.round or state.complete:
        return {}
    after = masking
    match body:
        case Keys() if close is None:
            after = masked.with_keys(masking, state.size, author, body)
        case e.MaskDeal() if close is None:
            after = masked.with_deal(masking, state.size, author, body)
        case Reveal() if close is not None and not state.void:
            after = masked.with_reveal(masking, close.index, author, body)
        case _:
            pass
    return {} if after is masking else {"masking": after}


def _note_evaluation(state: State, author: NodeId, body: e.Evaluation) -> dict[str, Any]:
    """What members tell of a model decides nothing, unless the charter ends the run by it."""
    watch, policy = state.stopping, state.signed.charter.stop
    if watch is None or policy is None:
        return {}
    heard = stopping.told(watch, policy, author, body.round, body.model_digest, body.metrics)
    return {} if heard is watch else {"stopping": _watched(state, heard)}


def _watched(state: State, watch: Watch) -> Watch:
    """Return the watch after what is settled now. If it stops the run, that is with the round under way, or before it.

    In exact mixing a round that is not closed has no outcome yet. In gossip the round after the open one makes all
    models one: sites may have offered to the open one already, in the form of an exchange.
    """
    policy = state.signed.charter.stop
    assert policy is not None, "somebody watches"
    last = state.round + 1 if state.exchange is not None else state.round - (state.close is None)
    members = [seat.node for seat in state.terms.members]
    ending = 0 if state.complete else min(last, state.terms.round.rounds)
    return stopping.settled(watch, policy, members, state.committed.round, last=ending)


def best_of(state: State) -> Best | None:
    """Return the best round so far by the metric that may stop the run; None where none may, or none has counted."""
    watch, policy = state.stopping, state.signed.charter.stop
    if watch is None or policy is None:
        return None
    return stopping.best(watch, policy, len(state.terms.members))


def outcome(state: State) -> str:
    """Say how a run that is complete has come to its end."""
    watch, policy = state.stopping, state.signed.charter.stop
    why = stopping.words(watch, policy) if watch is not None and policy is not None and state.stopped else ""
    noise = state.signed.charter.site_noise
    if not why and state.stopped and noise is not None:
        why = f"stopped after round {state.last}: another one would cost more than {noise.budget}, for any one site"
    return why or f"all {state.committed.round} rounds are committed"


def noise_words(state: State) -> str:
    """Say what of a swarm's budget the sums so far have spent, and on what that rests; empty where sums are exact."""
    noise = state.signed.charter.site_noise
    if noise is None:
        return ""
    members = len(state.terms.members)
    return (
        f"epsilon {noise.epsilon(state.sums):g} of {noise.budget.epsilon:g} spent at delta {noise.budget.delta:g}, by"
        f" {state.sums} of {noise.sums} sums, for any one site as a whole, if at most {silent(members)} of {members}"
        " sites add no noise or tell others theirs"
    )


def _note_evidence(state: State, body: e.Evidence) -> dict[str, Any]:
    """The first proof of a kind counts; more of the same prove nothing further, and what is no proof has no effect.

    It is not refused for that: what was a proof when it was written may be of an epoch long past when it is ordered,
    and its author could never write anything again.
    """
    charge = (NodeId(body.culprit), body.rule)
    if charge in state.accused:
        return {}
    try:
        judge(body, state.ledger_id, (state.terms, *state.past))
    except Reject:
        return {}
    return {"accused": {**state.accused, charge: state.size}}


def _check_contribution(body: e.Contribution) -> None:
    if not (len(body.base_digest) == len(body.update_digest) == len(body.code_digest) == len(body.data_digest) == 32):
        raise Reject("couldn't accept a contribution: a digest in it is not 32 bytes long")
    if body.slices and (len(body.slices) > SLICES_MAX or body.update_digest != slices_digest(body.slices)):
        raise Reject("couldn't accept a contribution: its update is not named by its slices")
    if body.slices and body.update_bytes != sum(size for _, size in body.slices):
        raise Reject("couldn't accept a contribution: its slices have another size than it says")
    if any(len(digest) != 32 or not 0 < size < 2**48 for digest, size in body.slices):
        raise Reject("couldn't accept a contribution: a slice of it is out of range")
    if body.round < 1 or body.attempt < 1 or body.base_height < 0 or not 1 <= body.samples < 2**40:
        raise Reject("couldn't accept a contribution: round, attempt, height or sample count out of range")
    _check_metrics(body.metrics)


def _check_score(body: e.Score) -> None:
    """What a score names is looked at when scores are read: to refuse it for that would silence its author for good."""
    indices = [index for index, _, _ in body.scores]
    if not 0 < len(indices) <= MEMBERS_MAX or sorted({*indices}) != indices or indices[0] < 0:
        raise Reject("couldn't accept a score: the contributions in it are none, too many, repeated or out of order")
    if any(
        not (-e.SCORE_LIMIT <= value <= e.SCORE_LIMIT and 0 <= error <= e.SCORE_LIMIT)
        for _, value, error in body.scores
    ):
        raise Reject("couldn't accept a score: a value in it is out of range")
    if body.round < 1 or not 0 <= body.evaluations < 2**40 or not 0 <= body.samples < 2**40:
        raise Reject("couldn't accept a score: round, evaluations or sample count out of range")


def _check_asked_for(charter: Charter, body: e.Score) -> None:
    """Where the charter asks for no scores, or for others, there are none: older software would refuse the entry."""
    policy = charter.contribution
    if policy is None or not policy.judged:
        raise Reject("couldn't accept a score: the charter asks for none")
    if (body.method, body.metric) != (policy.code, charter.metrics.index(policy.metric)):
        raise Reject("couldn't accept a score: it is of another method or metric than the charter asks for")


def _check_used(used: tuple[tuple[bytes, bytes, int], ...]) -> None:
    if len(used) > MEMBERS_MAX or not all(
        len(author) == len(digest) == 32 and 0 <= weight <= WEIGHT_TOTAL_MAX for author, digest, weight in used
    ):
        raise Reject("couldn't accept an attest: the weights it tells are too many or out of range")


def _check_metrics(metrics: tuple[tuple[int, int], ...]) -> None:
    names = [name for name, _ in metrics]
    if len(names) > e.METRICS_MAX or sorted({*names}) != names or (names and names[0] < 0):
        raise Reject("couldn't accept an entry: its metrics are too many, repeated or out of order")

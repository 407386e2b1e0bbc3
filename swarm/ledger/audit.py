"""Checking a ledger from the outside: everything is recomputed, nothing is believed.

The trust root is the charter. Every block must extend the one before it, be covered by a finalize certificate of a
quorum of the members, and contain only what the state before it allows; every entry's signature is checked and every
derived entry recomputed. The audit holds one state and one block at a time, so it works on a ledger of any length, and
it never needs a node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from typing_extensions import override

from swarm import codec, identity
from swarm.charter import SignedCharter
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.block import BLOCK_BYTES_MAX, Certificate, FinalBlock, Header
from swarm.ledger.exchange import Own
from swarm.ledger.motions import Motion, open_change
from swarm.ledger.pushing import Settled
from swarm.ledger.scores import Scores
from swarm.ledger.state import Closed, Noted, Placed, Signatures, State, apply_block, genesis, settled
from swarm.machine import NodeId
from swarm.terms import Change, Terms

Verify: TypeAlias = Callable[[bytes, bytes, bytes], bool]
"""Whether a signature holds: public key, message, signature."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The first thing that does not hold, at which block height."""

    height: int
    text: str


@dataclass(slots=True)
class RoundView:
    """One round as the log tells it.

    `terms` are those by which it was closed. In a round of gossip, `receipts` has by author the leaf indices of the
    contributions it said to hold, as of the close, and `models` the digest of the model that each says it ended with.
    Where links go one way `settled` has what that did to masses, and `targets` by author to whom it gave. Under a rule
    `used` has by author what weights it tells for which model, and `mixed`, once the round is committed, the weights
    that those tell who made it. `offered_ms` and `attested_ms` are when each author wrote that it has an update, and a
    model, in Unix milliseconds by its own clock: its claim, which orders nothing.
    """

    number: int
    contributions: dict[NodeId, Placed] = field(default_factory=dict)
    closed: Closed | None = None
    closed_ms: int = 0
    commit: e.RoundCommit | None = None
    committed_ms: int = 0
    height: int = 0
    evaluations: dict[NodeId, e.Evaluation] = field(default_factory=dict)
    terms: Terms | None = None
    receipts: Mapping[NodeId, tuple[int, ...]] = field(default_factory=dict)
    models: dict[NodeId, bytes] = field(default_factory=dict)
    targets: Mapping[NodeId, tuple[bytes, ...]] = field(default_factory=dict)
    settled: Settled | None = None
    used: dict[NodeId, tuple[bytes, tuple[int, ...]]] = field(default_factory=dict)
    mixed: Mapping[NodeId, int] = field(default_factory=dict)
    offered_ms: dict[NodeId, int] = field(default_factory=dict)
    attested_ms: dict[NodeId, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EpochView:
    """The terms of an epoch, and how they came about; `entry` is None for the charter's own."""

    terms: Terms
    height: int
    time_ms: int
    entry: e.Epoch | None = None
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class Annotated:
    """What a member noted about its own part, where in the log, and when by block time."""

    index: int
    author: NodeId
    time_ms: int
    body: e.Annotation


@dataclass(slots=True)
class Audit:
    """What an audit found. `failure` is None for a ledger that holds; `covered` counts blocks under a certificate.

    `scores` are what members find contributions to be worth, where the charter asks for that, else empty.
    """

    state: State
    blocks: int = 0
    entries: int = 1
    certificates: int = 0
    covered: int = 0
    rounds: dict[int, RoundView] = field(default_factory=dict)
    epochs: list[EpochView] = field(default_factory=list)
    annotations: list[Annotated] = field(default_factory=list)
    failure: Failure | None = None
    scores: Scores = field(default_factory=Scores)

    @property
    def uncovered(self) -> int:
        """Blocks at the end that no certificate covers yet."""
        return self.blocks - self.covered


def audit(
    payloads: Iterable[bytes],
    signed: SignedCharter,
    *,
    trusting: bool = False,
    signatures: Signatures | None = None,
) -> Iterator[Audit]:
    """Check a ledger block by block, yielding the audit after each; stop at the first failure.

    `payloads` are the records of the ledger in order. The rest is as for `Auditing`, which takes them one by one.
    """
    auditing = Auditing(signed, trusting=trusting, signatures=signatures)
    yield auditing.result
    for payload in payloads:
        holds = auditing.take(payload)
        yield auditing.result
        if not holds:
            return


class Auditing:
    """A ledger that is checked as far as it has come: `result` is always the same object, and grows with each block.

    `trusting` skips signatures, for looking rather than checking. Whoever wants them checked in another way, or only
    from some block on, gives `signatures` and may change it between blocks.
    """

    def __init__(self, signed: SignedCharter, *, trusting: bool = False, signatures: Signatures | None = None) -> None:
        if signatures is None:
            signatures = Gathered()
            signatures.trusting = trusting
        self._signatures = signatures
        self.result = Audit(genesis(signed), scores=Scores(signed.charter.task.initial_model))
        self.result.epochs.append(EpochView(self.result.state.terms, 0, signed.charter.created_ms))
        policy = signed.charter.contribution
        self._judged = policy is not None and policy.judged
        self._chain = _Chain(self.result.state.ledger_id)

    def take(self, payload: bytes) -> bool:
        """Take in the record of the next block. Returns whether the ledger holds up to here; nothing follows if not."""
        result = self.result
        if result.failure is not None:
            return False
        height = result.state.height + 1
        motions = result.state.motions
        try:
            final = codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX)
            header = final.block.opened()
            noted = self._check(final, header)
        except Reject as reason:
            result.failure = Failure(height, reason.message)
            return False
        result.blocks += 1
        result.entries += header.count
        _note(result, header, noted)
        if self._judged:
            result.scores.note(header.first_index, [entry for _, entry, _ in noted])
        if result.state.coming is not None:
            result.epochs.append(_epoch(result.state, header, noted, motions))
        return True

    def _check(self, final: FinalBlock, header: Header) -> list[Noted]:
        """Move the state on by a block and return what it says. Raises `Reject` when it may not follow."""
        result, signatures = self.result, self._signatures
        self._chain.check_link(header, covered=result.covered == result.blocks)
        noted: list[Noted] = []
        if result.state.coming is not None and header.epoch == result.state.terms.epoch:
            raise Reject(f"couldn't accept block {header.height}: the block before it is the last of its epoch")
        try:
            after = apply_block(result.state, header, final.block.leaves, signatures, noted)
        finally:
            # Of two faults in a block the earlier is told, and a signature put off stands before what came after.
            signatures.conclude()
        result.state = after
        terms = result.state.terms
        if final.cover and result.state.coming is None:
            raise Reject(f"couldn't accept block {header.height}: only the last block of an epoch has a cover")
        check = identity.believe if signatures.trusting else signatures.check
        if final.check(header, result.state.ledger_id, terms.vote_keys, terms.quorum, check):
            result.certificates += 1
            result.covered = result.blocks + 1
        if not signatures.trusting:
            self._chain.check_recorded(noted, result.state, signatures.check)
        self._chain.extend(header, final.certificate)
        return noted


class Gathered(Signatures):
    """Gathers the signatures of a block's entries, to check them one after the other once the rest has been read.

    Curve arithmetic and bookkeeping evict each other from the processor's caches: apart, both are faster, a whole audit
    by a twentieth. An entry occurs once in a log, so nothing is remembered.
    """

    def __init__(self) -> None:
        super().__init__()
        self._due: list[tuple[e.Entry, bytes, bytes]] = []

    @override
    def verify(self, leaf: bytes, entry: e.Entry, id_key: bytes, ledger_id: bytes) -> None:
        if not self.trusting:
            self._due.append((entry, id_key, ledger_id))

    @override
    def conclude(self) -> None:
        due, self._due = self._due, []
        for entry, id_key, ledger_id in due:
            e.verify_entry(entry, id_key, ledger_id)


class _Chain:
    """The blocks so far, as far as later ones refer to them: the tip, and what no certificate on record covers yet."""

    def __init__(self, ledger_id: bytes) -> None:
        self._ledger_id = ledger_id
        self._tip: Header | None = None
        self._open: dict[int, tuple[bytes, tuple[Certificate, ...]]] = {}

    def check_link(self, header: Header, *, covered: bool) -> None:
        """Raise `Reject` unless a block extends the tip, and an epoch begins only on what the one before finalised."""
        tip = self._tip
        parent, view = (self._ledger_id, 0) if tip is None else (tip.hash, tip.view)
        if header.parent_hash != parent or header.parent_view != view or header.view <= view:
            raise Reject(f"couldn't accept block {header.height}: it does not extend the block before it")
        if tip is not None and header.epoch != tip.epoch and not covered:
            raise Reject(f"couldn't accept block {header.height}: no certificate ends the epoch before it")

    def check_recorded(self, noted: Sequence[Noted], state: State, check: Verify) -> None:
        """Raise `Reject` unless a certificate on record is a quorum's, for a block of this chain."""
        for _, _, body in noted[:1]:
            if isinstance(body, e.BlockCert):
                header, certificate = body.certified, body.proof
                block, known = self._open.get(header.height, (b"", ()))
                terms = state.terms_of(certificate.epoch)
                if block != header.hash or terms is None:
                    raise Reject(f"couldn't accept a certificate for block {header.height}: it is for another block")
                if certificate not in known:
                    certificate.check(self._ledger_id, terms.vote_keys, terms.quorum, check)
                self._open = {height: kept for height, kept in self._open.items() if height > header.height}

    def extend(self, header: Header, certificates: tuple[Certificate, ...]) -> None:
        """Take in a block that holds."""
        self._tip = header
        self._open[header.height] = (header.hash, certificates)


def _note(result: Audit, header: Header, noted: Sequence[Noted]) -> None:
    """Gather what a block, now checked, says about rounds: what counts, whatever else a member may have written."""
    state = result.state
    for index, entry, body in noted:
        author = NodeId(entry.author)
        match body:
            case e.Contribution():
                placed = state.contributions.get((body.round, author))
                if placed is not None and placed.index == index:
                    _round(result, body.round).contributions[author] = placed
                    _round(result, body.round).offered_ms[author] = entry.ts_ms
            case e.Evaluation():
                if body.round in result.rounds and body.round <= state.committed.round:
                    result.rounds[body.round].evaluations[author] = body
            case e.RoundClose():
                view = _round(result, body.round)
                # A close is the last entry of its block, so this is the one.
                view.closed, view.closed_ms, view.terms = state.close, header.time_ms, state.terms
                stand = ((node, p) for (number, node), p in state.contributions.items() if number == body.round)
                view.contributions |= {node: p for node, p in stand if p.body.round < body.round}  # late work
                if state.exchanging and state.exchange is not None:
                    view.receipts = state.exchange.receipts
                    view.targets, view.settled = state.exchange.targets, settled(state)
            case e.Annotation():
                result.annotations.append(Annotated(index, author, header.time_ms, body))
            case e.Attest():
                own = None if state.exchange is None else state.exchange.models.get(author)
                if own == Own(body.round, body.model_digest, body.model_bytes) and body.round in result.rounds:
                    result.rounds[body.round].models[author] = body.model_digest
                if body.round in result.rounds:
                    result.rounds[body.round].attested_ms[author] = entry.ts_ms
                if body.used and body.round in result.rounds:
                    _note_used(result.rounds[body.round], author, body)
            case e.RoundCommit():
                view = _round(result, body.round)
                view.mixed = _agreed(view, body)
                view.commit, view.committed_ms, view.height = body, header.time_ms, header.height
            case _:
                pass


def _note_used(view: RoundView, author: NodeId, body: e.Attest) -> None:
    """Note the weights of an attest that is for the close: as in the state, the first of a member counts."""
    if view.closed is None or body.close_index != view.closed.index:
        return
    if [(who, update) for who, update, _ in body.used] == [(p.author, p.body.update_digest) for p in view.closed.terms]:
        view.used.setdefault(author, (body.model_digest, tuple(weight for _, _, weight in body.used)))


def _agreed(view: RoundView, commit: e.RoundCommit) -> Mapping[NodeId, int]:
    """Return by author the weights on which those agree who attested the model of a commit; none without a rule."""
    told = [weights_ for model, weights_ in view.used.values() if model == commit.model_digest]
    if not told or view.closed is None:
        return {}
    agreed = max(told, key=told.count)  # A quorum told the same, so whoever differs is outnumbered.
    return {placed.author: weight for placed, weight in zip(view.closed.terms, agreed, strict=True)}


def _epoch(state: State, header: Header, noted: Sequence[Noted], before: Sequence[Motion]) -> EpochView:
    """Return the view of the epoch that a block ends with the entry of."""
    _, _, entry = noted[-1]
    assert isinstance(entry, e.Epoch), "an epoch's entry is the last of its block"
    assert state.coming is not None, "and what it says is to come"
    proposed = {motion.index: motion.change for motion in before}
    proposed |= {index: open_change(body) for index, _, body in noted if isinstance(body, e.MemberProposal)}
    return EpochView(state.coming, header.height, header.time_ms, entry, proposed[entry.proposal])


def _round(result: Audit, number: int) -> RoundView:
    if number not in result.rounds:
        result.rounds[number] = RoundView(number)
    return result.rounds[number]


def member_names(epochs: Sequence[EpochView]) -> dict[NodeId, str]:
    """Return by id the names of all who are or ever were members, in the order in which they came.

    A former member whose name another one has taken since is told apart by the beginning of its id.
    """
    last = {seat.node: seat.name for view in epochs for seat in view.terms.members}
    today = {seat.name: seat.node for seat in epochs[-1].terms.members}
    taken = [*last.values()]
    return {
        node: name if taken.count(name) == 1 or today.get(name) == node else f"{name} ({node.hex()[:8]})"
        for node, name in last.items()
    }


def accounted(view: RoundView) -> frozenset[NodeId]:
    """Return the members of a closed round's time: its close names every one, as in, as rejected or as missing."""
    if view.closed is None:
        return frozenset()
    close = view.closed.body
    left_out = {index for index, _ in close.rejected}
    rejected = {node for node, placed in view.contributions.items() if placed.index in left_out}
    return frozenset({placed.author for placed in view.closed.terms} | rejected | {NodeId(n) for n in close.missing})


def mean_scores(view: RoundView, metrics: Sequence[str]) -> dict[str, float]:
    """Return each of the charter's `metrics` averaged over the sites that told it, by their held-out samples."""
    told = [(dict(body.metrics), body.samples) for body in view.evaluations.values()]
    found: dict[str, float] = {}
    for index, name in enumerate(metrics):
        pairs = [(values[index], samples) for values, samples in told if index in values]
        if total := sum(samples for _, samples in pairs):
            found[name] = sum(value * samples for value, samples in pairs) / total / e.METRIC_SCALE
    return found


def weights(view: RoundView) -> Mapping[NodeId, float]:
    """Return each included member's share of a round's mean, 0 to 1; where nobody waits, others have the rest.

    Under a rule it is by the weights that it came to, once there is a mean; of an order statistic the share of all
    places in the middle (`swarm.mixing.robust`).
    """
    if view.closed is None:
        return {}
    if view.mixed and (whole := sum(view.mixed.values())):
        return {node: weight / whole for node, weight in view.mixed.items()}
    total = sum(weight for _, weight in view.closed.body.included) + view.closed.rest
    pairs = zip(view.closed.terms, view.closed.body.included, strict=True)
    return {placed.author: weight / total for placed, (_, weight) in pairs}

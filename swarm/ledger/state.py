"""What the log means: the state after each block, and what the next block may contain.

Everything here is a pure function of the entries, so that two members holding the same blocks hold the same state, byte
for byte, and an auditor can recompute every derived entry. Soft questions, which depend on who asks (do I hold the
update? has that site gone silent?), are not asked here: see `swarm.ledger.replica`.

The order inside a block is fixed: at most one `block_cert`, then authored entries, then `round_commit` when it is due,
then `round_close` when the proposer found the round ready. A commit is not a choice: the block in which the quorum of
equal attests is reached must hold it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import replace

from swarm import codec
from swarm.charter import SignedCharter
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.block import FINALIZE, Certificate, Header
from swarm.ledger.evidence import judge
from swarm.ledger.merkle import Frontier, leaf_hash
from swarm.machine import NodeId
from swarm.mixing.average import integer_weights

ROUNDS_AHEAD = 1
"""Contributions are kept for the open round and the next: training may be one round ahead of finality, no more."""

_PLACE = {e.BLOCK_CERT: 0, e.ROUND_COMMIT: 2, e.ROUND_CLOSE: 3}
"""Where a kind stands in a block; authored kinds stand at 1."""


Noted: TypeAlias = tuple[int, e.Entry, msgspec.Struct]
"""An entry as applied: its index in the log, its envelope, its body."""


@dataclass(frozen=True, slots=True)
class Head:
    """The end of one feed in the log: the next sequence number and the id of the last entry."""

    seq: int
    prev: bytes


@dataclass(frozen=True, slots=True)
class Authored:
    """A member's entry whose signature has been checked, with what was computed on the way."""

    entry: e.Entry
    id: bytes
    leaf: bytes
    leaf_hash: bytes
    body: msgspec.Struct


@dataclass(frozen=True, slots=True)
class Placed:
    """A contribution and where it stands in the log."""

    index: int
    author: NodeId
    body: e.Contribution


@dataclass(frozen=True, slots=True)
class Closed:
    """The close of the open round and where it stands."""

    index: int
    body: e.RoundClose
    terms: tuple[Placed, ...]


@dataclass(frozen=True, slots=True)
class Committed:
    """The last finished round. Round 0 stands for the initial model."""

    round: int
    model: bytes
    model_bytes: int


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The state after a block. Mappings are never changed in place; `apply_block` makes a new state.

    `opened_ms` is the block time at which the open round could begin. `certified` is the highest block height whose
    finalize certificate is itself in the log. `accused` has, by culprit and rule, the first entry that proves it.
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
    accused: Mapping[tuple[NodeId, int], int] = {}

    @property
    def round(self) -> int:
        """The open round, 1-based; one past the charter's rounds when the run is complete."""
        return self.committed.round + 1

    @property
    def complete(self) -> bool:
        """Whether every round of the charter is committed."""
        return self.committed.round >= self.signed.charter.round.rounds

    @property
    def size(self) -> int:
        """Entries in the log so far."""
        return self.frontier.size

    def digest(self) -> bytes:
        """SHA-256 over the parts that decide what may follow; part of every header (invariant I3)."""
        nodes = [card.node for card in self.signed.charter.members]
        close = () if self.close is None else (self.close.index, self.close.body)
        fields = (
            self.ledger_id,
            self.height,
            self.frontier.root(),
            self.opened_ms,
            (self.committed.round, self.committed.model, self.committed.model_bytes),
            tuple((self.heads[node].seq, self.heads[node].prev) for node in nodes),
            tuple(sorted((r, node, placed.index) for (r, node), placed in self.contributions.items())),
            self.late,
            close,
            tuple(sorted((node, *attest) for node, attest in self.attests.items())),
            self.certified,
        )
        if self.accused:
            accused = tuple(sorted((node, rule, index) for (node, rule), index in self.accused.items()))
            fields = (*fields, accused)  # type: ignore[assignment]
        return hashlib.sha256(b"swarm-ledger/state/v1\0" + codec.encode(fields)).digest()


class Signatures:
    """Remembers which leaves have been verified, so that each signature of the log is checked once.

    Bounded: the oldest are forgotten and would simply be checked again. `trusting` is set while a node reads back its
    own journal, whose records it checked before it wrote them.
    """

    REMEMBERED_MAX = 20_000

    def __init__(self) -> None:
        self.trusting = False
        self._seen: dict[bytes, None] = {}

    def verify(self, leaf: bytes, entry: e.Entry, id_key: bytes, ledger_id: bytes) -> None:
        """Raise `Reject` unless `entry`, decoded from `leaf`, is signed by its author."""
        if self.trusting:
            return
        name = leaf_hash(leaf)
        if name in self._seen:
            return
        e.verify_entry(entry, id_key, ledger_id)
        if len(self._seen) >= self.REMEMBERED_MAX:
            del self._seen[next(iter(self._seen))]
        self._seen[name] = None


def genesis(signed: SignedCharter) -> State:
    """Return the state after entry 0, the charter."""
    charter = signed.charter
    leaf = signed.genesis().encode()
    ledger_id = signed.ledger_id
    return State(
        signed=signed,
        ledger_id=ledger_id,
        height=0,
        time_ms=charter.created_ms,
        frontier=Frontier().append(leaf_hash(leaf)),
        heads={card.node: Head(0, ledger_id) for card in charter.members},
        opened_ms=charter.created_ms,
        committed=Committed(0, charter.task.initial_model, charter.model_bytes),
        contributions={},
        late=(),
        close=None,
        attests={},
        certified=0,
    )


def decode_body(entry: e.Entry) -> msgspec.Struct:
    """Return the typed body of an authored entry, its fields in range. Raises `Reject`."""
    match entry.kind:
        case e.CONTRIBUTION:
            contribution = codec.decode(entry.body, e.Contribution, limit=e.ENTRY_BYTES_MAX)
            _check_contribution(contribution)
            return contribution
        case e.ATTEST:
            attest = codec.decode(entry.body, e.Attest, limit=e.ENTRY_BYTES_MAX)
            if attest.round < 1 or len(attest.model_digest) != 32 or attest.used or attest.sketch:
                raise Reject("couldn't accept an attest: a field is out of range for exact mixing")
            return attest
        case e.EVALUATION:
            evaluation = codec.decode(entry.body, e.Evaluation, limit=e.ENTRY_BYTES_MAX)
            if evaluation.round < 0 or len(evaluation.model_digest) != 32 or evaluation.samples < 0:
                raise Reject("couldn't accept an evaluation: a field is out of range")
            _check_metrics(evaluation.metrics)
            return evaluation
        case e.EVIDENCE:
            return codec.decode(entry.body, e.Evidence, limit=e.ENTRY_BYTES_MAX)
        case _:
            raise Reject(f"couldn't accept an entry: nobody may write a {e.KIND_NAMES[entry.kind]} here")


def open_authored(state: State, entry: e.Entry, leaf: bytes, signatures: Signatures) -> Authored:
    """Authenticate an entry decoded from `leaf`. Raises `Reject`. Says nothing about its place in its feed."""
    index = state.signed.charter.index(NodeId(entry.author))
    if index is None:
        raise Reject(f"couldn't accept an entry: its author {entry.author.hex()[:8]} is not a member")
    body = decode_body(entry)
    signatures.verify(leaf, entry, state.signed.charter.members[index].id_key, state.ledger_id)
    if isinstance(body, e.Evidence) and not signatures.trusting:
        judge(body, state.signed)
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
        case e.Evidence():
            noted = _note_evidence(state, authored.body)
        case _:
            noted = {}
    return replace(state, frontier=frontier, heads=heads, **noted)


def due_commit(state: State) -> e.RoundCommit | None:
    """Return the commit that the log now demands, if a quorum attested the same model."""
    if state.close is None:
        return None
    counts: dict[tuple[bytes, int], int] = {}
    for attest in state.attests.values():
        counts[attest] = counts.get(attest, 0) + 1
    charter = state.signed.charter
    agreed = next((attest for attest, count in counts.items() if count >= charter.quorum), None)
    if agreed is None:
        return None
    model, model_bytes = agreed
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


def make_close(state: State, included: Sequence[Placed], rejected: Mapping[int, int]) -> e.RoundClose:
    """Return the close of the open round with these contributions; weights follow from the charter."""
    charter = state.signed.charter
    ordered = sorted(included, key=lambda placed: charter.index(placed.author) or 0)
    weights = integer_weights([p.body.samples for p in ordered], cap_ppm=charter.round.weight_cap_ppm)
    heard = {node for (r, node) in state.contributions if r == state.round}
    missing = tuple(card.node for card in charter.members if card.node not in heard)
    pairs = tuple((p.index, weight) for p, weight in zip(ordered, weights, strict=True))
    return e.RoundClose(state.round, 1, pairs, missing, tuple(sorted(rejected.items())))


def check_close(state: State, close: e.RoundClose) -> tuple[Placed, ...]:
    """Return the contributions a close names, after checking all that the log alone can tell. Raises `Reject`."""
    charter = state.signed.charter
    named = f"couldn't accept the close of round {close.round}"
    if state.close is not None or state.complete or close.round != state.round:
        raise Reject(f"{named}: round {state.round} is {'already closed' if state.close else 'the open one'}")
    by_index = {placed.index: placed for (r, _), placed in state.contributions.items() if r == state.round}
    indices = [index for index, _ in close.included]
    if any(index not in by_index for index in (*indices, *(index for index, _ in close.rejected))):
        raise Reject(f"{named}: it names an entry that is not a contribution to this round")
    if any(reason not in e.REASONS for _, reason in close.rejected):
        raise Reject(f"{named}: a reason it gives is unknown")
    if sorted([*indices, *(index for index, _ in close.rejected)]) != sorted(by_index):
        raise Reject(f"{named}: it does not account for every contribution")
    if len(indices) < charter.round.min_contributions:
        raise Reject(f"{named}: {len(indices)} contributions, the charter asks for {charter.round.min_contributions}")
    terms = tuple(by_index[index] for index in indices)
    if any(placed.body.update_bytes != charter.model_bytes for placed in terms):
        raise Reject(f"{named}: it includes an update of another size than the model's")
    for index, placed in by_index.items():
        stray = dict(close.rejected).get(index) == e.OTHER_BASE
        if stray != (placed.body.base_digest != state.committed.model):
            raise Reject(f"{named}: it misjudges which contributions start from the model of the round before")
    if make_close(state, terms, dict(close.rejected)) != close:
        raise Reject(f"{named}: weights, order or missing members are not what follows from the log")
    return terms


def apply_derived(state: State, kind: int, body: e.RoundCommit | e.RoundClose | e.BlockCert, time_ms: int) -> State:
    """Append a derived entry that has been checked."""
    return _append_derived(state, derived_leaf(state, kind, body, time_ms), body, time_ms)


def _append_derived(state: State, leaf: bytes, body: e.RoundCommit | e.RoundClose | e.BlockCert, time_ms: int) -> State:
    index, frontier = state.size, state.frontier.append(leaf_hash(leaf))
    match body:
        case e.RoundCommit():
            return replace(
                state,
                frontier=frontier,
                committed=Committed(body.round, body.model_digest, body.model_bytes),
                opened_ms=time_ms,
                contributions={k: v for k, v in state.contributions.items() if k[0] > body.round},
                late=(),
                close=None,
                attests={},
            )
        case e.RoundClose():
            return replace(state, frontier=frontier, close=Closed(index, body, check_close(state, body)))
        case e.BlockCert():
            return replace(state, frontier=frontier, certified=Header.decode(body.header).height)


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
    before = state
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
    if due_commit(state) is not None:
        raise Reject(f"couldn't accept block {header.height}: it leaves out the commit of round {state.round}")
    state = replace(state, height=header.height, time_ms=header.time_ms)
    if header.size != state.size or header.root != state.frontier.root():
        raise Reject(f"couldn't accept block {header.height}: its tree is not the tree of its entries")
    if header.state_hash != state.digest():
        raise Reject(f"couldn't accept block {header.height}: its state is not what follows from block {before.height}")
    return state


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
        case e.ROUND_CLOSE:
            close = codec.decode(entry.body, e.RoundClose, limit=e.ENTRY_BYTES_MAX)
            if due_commit(state) is not None or derived_leaf(state, entry.kind, close, header.time_ms) != leaf:
                raise Reject(f"couldn't accept the close of round {close.round}: it is not in its derived form")
            return _append_derived(state, leaf, close, header.time_ms), close
        case _:
            authored = open_authored(state, entry, leaf, signatures)
            return apply_authored(state, authored), authored.body


def _apply_cert(state: State, entry: e.Entry, leaf: bytes, header: Header) -> tuple[State, e.BlockCert]:
    """A certificate must be for a block below this one and above the last one recorded."""
    body = codec.decode(entry.body, e.BlockCert, limit=e.ENTRY_BYTES_MAX)
    certified = Header.decode(body.header)
    if not state.certified < certified.height < header.height:
        raise Reject(f"couldn't accept block {header.height}: it records a certificate out of order")
    if derived_leaf(state, e.BLOCK_CERT, body, header.time_ms) != leaf:
        raise Reject(f"couldn't accept block {header.height}: its certificate entry is not in its derived form")
    certificate = codec.decode(body.certificate, Certificate, limit=e.ENTRY_BYTES_MAX)
    if certificate.kind != FINALIZE or certificate.block != certified.hash:
        # A quorum may have notarized a block that never became final: on record it would look like a second history.
        raise Reject(f"couldn't accept block {header.height}: what it records does not finalize the block it names")
    return _append_derived(state, leaf, body, header.time_ms), body


def _note_contribution(state: State, author: NodeId, body: e.Contribution) -> dict[str, Any]:
    """The highest attempt counts. What comes after its round has closed is late: on record, not in the mean."""
    index = state.size
    closed = state.close is not None and body.round == state.round
    if body.round < state.round or closed:
        return {"late": (*state.late, index)}
    if body.round > state.round + ROUNDS_AHEAD:
        return {}
    known = state.contributions.get((body.round, author))
    if known is not None and known.body.attempt >= body.attempt:
        return {}
    return {"contributions": {**state.contributions, (body.round, author): Placed(index, author, body)}}


def _note_attest(state: State, author: NodeId, body: e.Attest) -> dict[str, Any]:
    """Only the first attest of a member for the close at hand counts."""
    if state.close is None or body.close_index != state.close.index or author in state.attests:
        return {}
    return {"attests": {**state.attests, author: (body.model_digest, body.model_bytes)}}


def _note_evidence(state: State, body: e.Evidence) -> dict[str, Any]:
    """The first proof of a kind counts; more of the same prove nothing further."""
    charge = (NodeId(body.culprit), body.rule)
    return {} if charge in state.accused else {"accused": {**state.accused, charge: state.size}}


def _check_contribution(body: e.Contribution) -> None:
    digests = (body.base_digest, body.update_digest, body.code_digest, body.data_digest)
    if any(len(digest) != 32 for digest in digests):
        raise Reject("couldn't accept a contribution: a digest in it is not 32 bytes long")
    if body.round < 1 or body.attempt < 1 or body.base_height < 0 or not 1 <= body.samples < 2**40:
        raise Reject("couldn't accept a contribution: round, attempt, height or sample count out of range")
    _check_metrics(body.metrics)


def _check_metrics(metrics: tuple[tuple[int, int], ...]) -> None:
    names = [name for name, _ in metrics]
    if len(metrics) > e.METRICS_MAX or sorted({*names}) != names or any(name < 0 for name in names):
        raise Reject("couldn't accept an entry: its metrics are too many, repeated or out of order")

"""Entries: what members say, signed, and what follows from it.

An *authored* entry sits in its author's feed: `seq` counts from 0 and `prev` is the id of the entry before it, so that
a feed cannot be forked without leaving two signed contradictory entries. A *derived* entry has no author: every member
computes the same bytes from the entries before it. The leaf of the ledger's tree is the whole envelope, signature
included. An entry's id leaves the signature out, because a malicious signer can make many valid signatures of one
message.

One narrow schema per version: an unknown kind or version is refused, never skipped.
"""

from __future__ import annotations

import hashlib
from functools import cached_property

import msgspec

from swarm import codec, identity
from swarm.errors import Reject
from swarm.ledger.block import NO_HASH, Certificate, Header
from swarm.machine import Digest, NodeId

ENTRY_VERSION = 1
ENTRY_BYTES_MAX = 65_535
"""Largest entry: the tlog-tiles entry bundle counts an entry's length in 16 bits."""

ENVELOPE_BYTES_MAX = 512
"""What an envelope adds to its body at most: hashes, signature, numbers."""

METRICS_MAX = 32
"""Most metrics in one entry."""

SCORE_LIMIT = 2**40
"""Largest score in millionths, either way: a million units of any metric. So sums over all rounds stay exact."""

METRIC_SCALE = 1_000_000
"""Metrics are integers in millionths, so that no float is ever signed."""

# Kinds are in the ledger for ever: add, never renumber (`ledger.md` 1.1; from 12 on ours, see docs/decisions/0005).
CHARTER = 0
CONTRIBUTION = 1
ATTEST = 2
ROUND_COMMIT = 3
MEMBER_PROPOSAL = 4
MEMBER_VOTE = 5
EPOCH = 6
EVIDENCE = 7
BLOCK_CERT = 8
SNAPSHOT = 9
ANNOTATION = 10
ANCHOR = 11
ROUND_CLOSE = 12
EVALUATION = 13
RECEIPT = 14
PARTIAL = 15
PUSH = 16
SCORE = 17
MASK_KEYS = 18
MASK_ROSTER = 19
MASK_DEAL = 20
MASK_REVEAL = 21

KIND_NAMES = {
    CHARTER: "charter",
    CONTRIBUTION: "contribution",
    ATTEST: "attest",
    ROUND_COMMIT: "round_commit",
    MEMBER_PROPOSAL: "member_proposal",
    MEMBER_VOTE: "member_vote",
    EPOCH: "epoch",
    EVIDENCE: "evidence",
    BLOCK_CERT: "block_cert",
    SNAPSHOT: "snapshot",
    ANNOTATION: "annotation",
    ANCHOR: "anchor",
    ROUND_CLOSE: "round_close",
    EVALUATION: "evaluation",
    RECEIPT: "receipt",
    PARTIAL: "partial",
    PUSH: "push",
    SCORE: "score",
    MASK_KEYS: "mask_keys",
    MASK_ROSTER: "mask_roster",
    MASK_DEAL: "mask_deal",
    MASK_REVEAL: "mask_reveal",
}

NO_AUTHOR = NodeId(bytes(32))

# Why a close leaves a contribution out, or a roster a member's keys or deal.
UNUSABLE = 1  # the bytes were read and may not be averaged: not finite, or over the charter's norm
UNAVAILABLE = 2  # the bytes could not be had before the round had to close
OTHER_BASE = 3  # it does not start from the model of the round before
VOID = 4  # no mean came of the round, and the model stays as it was
REASONS = {
    UNUSABLE: "unusable",
    UNAVAILABLE: "unavailable",
    OTHER_BASE: "started from another model",
    VOID: "in a round of which no mean came",
}

SETTLED_AFTER = 2
"""Rounds: so many commits after a round's own, what members say of its model and of each other's work in it comes too
late: evaluations that a stop goes by (`swarm.stopping`), scores (`swarm.ledger.scores`)."""

# What an annotation says.
WITHDRAWAL = 1  # the author takes back its work of these rounds
ANEW = 2  # it has lost its correction, so that all begin again at zero (under gradient tracking only)
ANNOTATIONS = {WITHDRAWAL: "withdrew its work", ANEW: "lost its correction, so that all begin anew"}


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """The envelope. `ts_ms` is the author's clock in milliseconds: a claim, never used to order anything."""

    version: int
    kind: int
    ledger_id: bytes
    author: bytes
    seq: int
    prev: bytes
    ts_ms: int
    body: bytes
    signature: bytes

    @property
    def id(self) -> bytes:
        """SHA-256 of the signed bytes."""
        return hashlib.sha256(self.signed_bytes()).digest()

    def signed_bytes(self) -> bytes:
        """Return the canonical envelope without its signature."""
        return self._signed

    @cached_property
    def _signed(self) -> bytes:
        return codec.encode(
            (self.version, self.kind, self.ledger_id, self.author, self.seq, self.prev, self.ts_ms, self.body)
        )

    def encode(self) -> bytes:
        """Return the leaf: the whole canonical envelope."""
        return codec.encode(self)


class Contribution(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A peer's claim for one round.

    `attempt` grows when a peer must repeat a round because the bytes of its first try were lost with its disk cache;
    the highest attempt whose bytes are available counts. `base_height` is the last final block the author knew.
    `metrics` pairs a charter metric's index with its value in millionths. On the sharded route an update travels as
    `slices`, blobs of which each has its digest and size; `update_digest` is then a name made of them, and
    `update_bytes` their sum. So it is in gossip under a coarse codec: there the slices are a message, the author's
    public copy before it and that after it, of which the message is what travels (`swarm.mixing.compress.choco`).

    `data_digest` is 32 zeros in whatever the shipped node says. A digest of records would let whoever guesses them find
    out whether the guess is right; one that only the site can open would prove what its program was given, which is
    what the site says anyway. The place stays, because the format does.
    """

    round: int
    attempt: int
    base_height: int
    base_digest: bytes
    update_digest: bytes
    update_bytes: int
    samples: int
    metrics: tuple[tuple[int, int], ...]
    privacy: tuple[int, int, int]  # epsilon in thousandths, -log10 delta, clipping norm in thousandths
    code_digest: bytes
    data_digest: bytes
    slices: tuple[tuple[bytes, int], ...] = ()

    @property
    def blobs(self) -> tuple[tuple[Digest, int], ...]:
        """Digest and size of each blob that the update consists of."""
        whole = ((self.update_digest, self.update_bytes),)
        return tuple((Digest(digest), size) for digest, size in self.slices or whole)

    @property
    def offered(self) -> tuple[Digest, int]:
        """Digest and size of what gossip blends: the model, or the public copy that a message leads to."""
        return self.blobs[-1]


class Attest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a peer ended. What it averaged follows from the log, so `used` is empty, but under a rule.

    There it names the contributions of the close, in its order, by author and digest, with the weight that each got in
    the mean (`swarm.mixing.robust`): it takes the updates to compute it, so the log keeps it for those who have none.
    In a round of gossip `sketch` tells how far its model is from the others' (`swarm.mixing.sketch`); else it is empty.
    """

    round: int
    close_index: int
    model_digest: bytes
    model_bytes: int
    used: tuple[tuple[bytes, bytes, int], ...]
    sketch: bytes


class Receipt(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Which contributions to a round of gossip the author holds and may average, by leaf index, ascending.

    The last word of a member before the close counts; see `swarm.ledger.exchange`.
    """

    round: int
    held: tuple[int, ...]


class Partial(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the author has computed for the others on the way to the mean; see `swarm.routes`.

    It is part `number` of the round closed at `close_index`: an averaged slice, by its number from 0, or a sum, from 1.
    `digest` and `size` are those of its blob. For a slice, `norms` says of each contribution in the close how much of
    the charter's bound its slice takes.
    """

    round: int
    close_index: int
    number: int
    digest: bytes
    size: int
    norms: tuple[int, ...]


class Push(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A receipt where links go one way, and to whom the author gives of its own mass: ids of members, ascending.

    The last word of a member before the close counts; see `swarm.ledger.pushing`.
    """

    round: int
    held: tuple[int, ...]
    targets: tuple[bytes, ...]


class MaskRoster(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who masks with whom in an attempt at a round, or, with nobody included, that the attempt has ended.

    `included` pairs the leaf index of a member's keys with the weight of its update, in member order; `missing` names
    those without keys, and `rejected` pairs the leaf index of keys that are left out with a reason code. Where it ends
    an attempt, `missing` has those that did not deal, or, where all did, that did not offer; `rejected` the leaf index
    of deals, or of offers, that nobody could use. See `swarm.ledger.masking`.
    """

    round: int
    attempt: int
    included: tuple[tuple[int, int], ...]
    missing: tuple[bytes, ...]
    rejected: tuple[tuple[int, int], ...]


class MaskDeal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The author's secrets in shares, as a blob (`swarm.masking.statements.Deal`), for the roster at a leaf index."""

    round: int
    roster: int
    digest: bytes
    size: int


class RoundClose(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who is in a round, with what weight, who is not, and why.

    `included` pairs a contribution's leaf index with its integer weight, in member order. `missing` names the members
    that contributed nothing; `rejected` pairs the leaf index of a contribution that is left out with a reason code.
    `attempt` is 1, and 2 where the charter's route did not lead to a mean and the round goes by spread after all, or
    where the sum of masked updates cannot be had: then nobody is included, and the model stays what it was.
    """

    round: int
    attempt: int
    included: tuple[tuple[int, int], ...]
    missing: tuple[bytes, ...]
    rejected: tuple[tuple[int, int], ...]


class RoundCommit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The end of a round: the digest a quorum attested, or, in gossip, 32 zero bytes and the models' distances.

    Distances are between two members' models, in millionths of the largest model's norm.
    """

    round: int
    close_index: int
    model_digest: bytes
    model_bytes: int
    attests: int
    samples: int
    missing: tuple[bytes, ...]
    late: tuple[int, ...]
    distance_max_ppm: int
    distance_mean_ppm: int


class Evaluation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How a round's model does on the author's held-out data. With 0 samples there are too few to tell its scores."""

    round: int
    model_digest: bytes
    samples: int
    metrics: tuple[tuple[int, int], ...]


class Score(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the author finds contributions to a round to be worth, on its own held-out data.

    `metric` is an index in the charter's list, `method` a code of `swarm.contribution.policy`; `evaluations` is how
    many models were judged for it, on `samples` held-out samples. `scores` has a contribution's leaf index, its score
    and the standard error of that, both in millionths of the metric, of which more is better: ascending by index,
    perhaps not all that the round's close names. What counts, and what comes of it, is in `swarm.ledger.scores`.
    """

    round: int
    metric: int
    method: int
    evaluations: int
    samples: int
    scores: tuple[tuple[int, int, int], ...]


class Evidence(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Two contradictory signed messages of one member, the smaller first: see `swarm.ledger.evidence`."""

    rule: int
    culprit: bytes
    first: bytes
    second: bytes


class Annotation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the author notes about its own part in the rounds `first` to `last`, both included, by a code.

    A withdrawal changes nothing that is on record and nothing that follows from it: people act on it (`node.lineage`).
    `ANEW` counts where it stands in the log, whatever its rounds are: `swarm.ledger.exchange.Exchange.anew`.
    """

    code: int
    first: int
    last: int


class MemberProposal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A change of terms for the members to vote on until `expires_ms`, in block time.

    `change` holds the canonical bytes of a `swarm.terms.Change`; `invite`, if not empty, those of the invitation that
    a newcomer answers.
    """

    change: bytes
    expires_ms: int
    invite: bytes


class MemberVote(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The author's word on a proposal, which is named by its entry's id. The last word of a member counts."""

    proposal: bytes
    yes: bool


class Epoch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A change of terms that a quorum has voted for. It takes effect once the block that holds it is final.

    `proposal` is the leaf index of what was voted on; `yes` and `no` are who said so, in member order; `terms` is the
    digest of the terms that follow, see `swarm.terms.Terms`.
    """

    epoch: int
    proposal: int
    yes: tuple[bytes, ...]
    no: tuple[bytes, ...]
    terms: bytes


class BlockCert(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """The finalize certificate of an earlier block, so that the ledger carries its own proof of finality."""

    header: bytes
    certificate: bytes

    @cached_property
    def certified(self) -> Header:
        """The header of the block it is for. Raises `Reject`."""
        return Header.decode(self.header)

    @cached_property
    def proof(self) -> Certificate:
        """The certificate, decoded; nobody has checked what it says. Raises `Reject`."""
        return codec.decode(self.certificate, Certificate, limit=ENTRY_BYTES_MAX)


def sign_entry(
    key: identity.SigningKey,
    *,
    ledger_id: bytes,
    author: NodeId,
    kind: int,
    seq: int,
    prev: bytes,
    ts_ms: int,
    body: object,
) -> Entry:
    """Return a signed entry of the author's feed."""
    unsigned = Entry(ENTRY_VERSION, kind, ledger_id, author, seq, prev, ts_ms, codec.encode(body), b"")
    signature = key.sign(identity.DOMAIN_ENTRY + ledger_id + unsigned.signed_bytes())
    return msgspec.structs.replace(unsigned, signature=signature)


def resign(entry: Entry, key: identity.SigningKey, ledger_id: bytes) -> Entry:
    """Return the same entry, with the same id, signed by another key of its author."""
    signature = key.sign(identity.DOMAIN_ENTRY + ledger_id + entry.signed_bytes())
    return msgspec.structs.replace(entry, signature=signature)


def derived_entry(*, ledger_id: bytes, kind: int, index: int, ts_ms: int, body: object) -> Entry:
    """Return an entry that nobody signs: `seq` is its own leaf index and `ts_ms` the block's time."""
    return Entry(ENTRY_VERSION, kind, ledger_id, NO_AUTHOR, index, NO_HASH, ts_ms, codec.encode(body), b"")


def is_derived(entry: Entry, ledger_id: bytes, index: int, ts_ms: int) -> bool:
    """Whether an entry, read from a leaf, is what `derived_entry` makes of its own kind and body.

    It need not be made again to be compared: a leaf that was read is canonical.
    """
    return (
        entry.author == NO_AUTHOR
        and entry.seq == index
        and entry.ts_ms == ts_ms
        and entry.ledger_id == ledger_id
        and entry.prev == NO_HASH
        and not entry.signature
    )


def decode_entry(leaf: bytes) -> Entry:
    """Decode a leaf and check what needs no context: version, known kind, sizes. Raises `Reject`."""
    entry = codec.decode(leaf, Entry, limit=ENTRY_BYTES_MAX)
    if entry.version != ENTRY_VERSION or entry.kind not in KIND_NAMES:
        raise Reject(f"couldn't accept an entry: version {entry.version} kind {entry.kind} is unknown")
    if not (len(entry.ledger_id) == len(entry.author) == len(entry.prev) == 32):
        raise Reject("couldn't accept an entry: a hash in it is not 32 bytes long")
    if not (0 <= entry.seq < 2**63 and 0 <= entry.ts_ms < 2**63):
        raise Reject("couldn't accept an entry: its sequence number or time is out of range")
    if len(entry.signature) == identity.SIGNATURE_BYTES:
        # The leaf is canonical, so what was signed stands in it: an array shorter by one, and two bytes before the end.
        entry.__dict__["_signed"] = b"\x98" + leaf[1 : -2 - identity.SIGNATURE_BYTES]
    return entry


def verify_entry(entry: Entry, id_key: bytes, ledger_id: bytes, verify: identity.Verify = identity.verify) -> None:
    """Raise `Reject` unless the entry belongs to this ledger and its author's key signed it."""
    if entry.ledger_id != ledger_id:
        raise Reject("couldn't accept an entry: it belongs to another ledger")
    if not verify(id_key, identity.DOMAIN_ENTRY + ledger_id + entry.signed_bytes(), entry.signature):
        raise Reject(f"couldn't accept entry {entry.seq} of {entry.author.hex()[:8]}: its signature does not verify")

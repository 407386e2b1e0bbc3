"""The seam between what a node decides and the world it lives in.

A machine never waits and touches nothing: events go in, effects come out. The shells (ZeroMQ, disk, torch, the
terminal) feed it and obey it; the simulator is another shell. Two rules bind every shell:

1. Effects are obeyed in order.
2. A `Persist` is durable before any effect after it is begun (etcd-io/raft calls this the Ready contract).

Bulk bytes are not events. Models and updates live in a content-addressed *blob store* that the shell owns; the machine
names them by digest and decides who asks whom for which range. A received chunk passes through as an opaque buffer.

`now` is seconds since the Unix epoch and never goes backwards within one process. Randomness is a `random.Random`
given to the machine when it is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NewType, Protocol, TypeAlias

NodeId = NewType("NodeId", bytes)
"""32 bytes: SHA-256 of the member's founding identity key. Stable when keys rotate."""

Digest = NewType("Digest", bytes)
"""32 bytes: content address of a blob, see `swarm.vector.blob_digest`."""

Buffer: TypeAlias = bytes | bytearray | memoryview

# Kinds of durable record. Numbers are on disk for ever: add, never renumber.
RECORD_BLOCK = 1  # a final block with its certificate: the ledger itself
RECORD_BODY = 2  # the body of a block this node voted for, written with the vote
RECORD_VOTE = 3  # a vote this node is about to send
RECORD_ENTRY = 4  # an entry of this node's own feed, before it is ordered
RECORD_CERTIFICATE = 5  # a certificate (notarise or skip) that later proposals justify themselves with


@dataclass(frozen=True, slots=True)
class Record:
    """One durable record. `height` says which block, view or entry of the feed it is, and so when it may be dropped."""

    kind: int
    height: int
    payload: bytes


# --- events ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The process is up. `records` is everything that was durable, in the order it was written, log by log.

    With a `snapshot`, which is the state after one of the blocks, there are only that block, those after it and the few
    before it.

    `blobs` lists the complete blobs in the store; `partial` maps the digests of interrupted transfers, whose content
    is unverified, to their full sizes in bytes. `unaudited` is whether an `Audit` was announced and has not ended well.
    """

    records: Sequence[Record] = ()
    blobs: Sequence[Stored] = ()
    partial: Mapping[Digest, int] = field(default_factory=dict)
    snapshot: bytes = b""
    unaudited: bool = False
    guarded: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Received:
    """A frame from an authenticated peer. `payload` is the raw second frame of a chunk message, else None."""

    sender: NodeId
    frame: bytes
    payload: Buffer | None = None


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """The transport gained or lost a working link to a peer. `why` is a sentence for people.

    `via` is the member through which it goes, sealed from it; None if it is direct.
    """

    peer: NodeId
    up: bool
    why: str = ""
    via: NodeId | None = None


@dataclass(frozen=True, slots=True)
class Stepped:
    """User code made progress: `step` of about `steps` (0 when unknown)."""

    round: int
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Trained:
    """Local training ended. On success `update` names a blob already in the store; else `error` says why not.

    Where updates travel masked it is not in the store, from which others are served, but kept aside for `MaskUpdate`.

    Where updates travel as `slices`, those (digest, size) are in the store, and `update` is the name they make.
    `privacy` is what the site has come to with it, as a contribution says it: epsilon in thousandths and -log10 delta.
    `refused` is whether this site will not train that round at all, so that trying again is of no use; `forgot` whether
    the correction that its steps should take (`Train.learned`) is not here any more.
    """

    round: int
    update: Digest | None
    size: int = 0
    samples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    slices: tuple[tuple[Digest, int], ...] = ()
    privacy: tuple[int, int] = (0, 0)
    refused: bool = False
    forgot: bool = False


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The user's evaluation of a model on this site's held-out data.

    `cell` is the fewest cases of any group that can be told apart (`swarm.disclosure`); None if that is all of them.
    `unscored`: there is an `error` for the reason alone that this site has nothing to evaluate with; none went wrong.
    """

    round: int
    model: Digest
    samples: int
    metrics: Mapping[str, float]
    error: str = ""
    cell: int | None = None
    unscored: bool = False


@dataclass(frozen=True, slots=True)
class Appraised:
    """What a model of some of a round's updates is worth on this site's held-out data. `number` is the effect's.

    `cell` is as in `Evaluated`.
    """

    round: int
    number: int
    samples: int
    metrics: Mapping[str, float]
    error: str = ""
    cell: int | None = None


@dataclass(frozen=True, slots=True)
class Inspected:
    """A complete update was read through once. `problem` is empty when it may be averaged."""

    digest: Digest
    problem: str = ""
    norm: float = 0.0


@dataclass(frozen=True, slots=True)
class Mixed:
    """The outcome of a round is in the store as a blob, or `error` says why it could not be made (disk full).

    Under a rule `weights` are what each update got in the mean, in the order of the effect; of a `Blend` see there.
    `likeness` is, in that order too, the norm of each update and its cosine to the sum of the others; empty where it
    was not measured. `void` is whether the sum of masked updates is none that could be: trying again is of no use.
    """

    round: int
    model: Digest | None
    size: int = 0
    error: str = ""
    sketch: bytes = b""
    weights: tuple[int, ...] = ()
    likeness: tuple[tuple[float, float], ...] = ()
    void: bool = False


@dataclass(frozen=True, slots=True)
class Masked:
    """This site's update has been masked, and waits for an `Adopt`; or `error` says why not.

    `round`, `attempt` and `update` are those of the effect. With `lost` the update itself is not there any more.
    """

    round: int
    attempt: int
    update: Digest
    masked: Digest | None
    size: int = 0
    error: str = ""
    lost: bool = False


@dataclass(frozen=True, slots=True)
class BlobRead:
    """What is in a small blob; empty if it could not be read."""

    digest: Digest
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Parted:
    """A part of the mean is in the store as a blob, or `error` says why it could not be made. See `MixSlice`, `AddUp`.

    `close` and `number` are those of the effect.
    """

    round: int
    close: int
    number: int
    part: Digest | None
    size: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """An interrupted transfer was compared with its leaf hashes: the indices of the leaves that are already right."""

    digest: Digest
    leaves: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob the shell put into the store itself (own update, own mix), always before an event that names it."""

    digest: Digest
    size: int
    leaves: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """An effect on the blob store could not be carried out (disk full, read only). Nothing durable was lost.

    With `lost` what had arrived of the blob is not there any more, so that it is to be fetched from its beginning.
    """

    digest: Digest
    why: str
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Woke:
    """The earliest `WakeAt` has come."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A local question (status, vote). Answered by one `Answer` with the same ticket."""

    ticket: int
    question: str


@dataclass(frozen=True, slots=True)
class Resting:
    """From now on this site trains nothing, and `why` says so in words; with an empty one it trains again.

    The shell has stopped what was under way: it is not answered. `frugal` is whether nothing new is to be fetched
    either, because there is no room for it. It may come before `Started`.
    """

    why: str
    frugal: bool = False


@dataclass(frozen=True, slots=True)
class Audited:
    """The whole ledger on the disk has been checked. `problem` is empty if it holds."""

    problem: str


Event: TypeAlias = (
    Started
    | Received
    | LinkChanged
    | Stepped
    | Trained
    | Evaluated
    | Appraised
    | Inspected
    | Mixed
    | Parted
    | Masked
    | BlobRead
    | Checked
    | Stored
    | StoreFailed
    | Resting
    | Audited
    | Woke
    | Asked
)

# --- effects --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contact:
    """A peer this node may talk to. `endpoint` is "tcp://host:port" when this node dials it, empty when it is dialled.

    `curve_key` is its public transport key, 32 bytes. `via` lists the members that can relay, the first choice first,
    where neither end can be dialled; else it is empty.
    """

    node: NodeId
    name: str
    curve_key: bytes
    endpoint: str = ""
    via: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True)
class Reach:
    """From now on this node talks to these peers and no others, and is itself known by this public transport key.

    It forwards what members of `carried` seal for one another.
    """

    contacts: tuple[Contact, ...]
    curve_key: bytes
    carried: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True)
class Persist:
    """Make the records durable, in order, with one sync, before anything that follows."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """Send one control frame. It may be lost; nobody may believe that it arrived."""

    to: NodeId
    frame: bytes


@dataclass(frozen=True, slots=True)
class SendChunk:
    """Send a two-frame message: `frame`, then bytes [offset, offset+length) of the blob `digest`."""

    to: NodeId
    frame: bytes
    digest: Digest
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class SendBlocks:
    """Send a two-frame message: `frame`, then durable blocks of heights `first` to `last`, `joined` by the journal.

    One block if it is there, more as far as they stay within `bytes_max`; nothing is sent where there is none.
    """

    to: NodeId
    frame: bytes
    first: int
    last: int
    bytes_max: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Write `payload` at `offset` of the partial blob `digest` whose full size is `size` bytes."""

    digest: Digest
    size: int
    offset: int
    payload: Buffer


@dataclass(frozen=True, slots=True)
class Seal:
    """Every leaf of the partial blob has been verified: make it a complete one."""

    digest: Digest
    size: int
    leaves: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """Compare an interrupted partial blob with its leaf hashes; answered by `Checked`."""

    digest: Digest
    size: int
    leaves: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Forget:
    """These blobs (complete or partial), or updates that were kept aside, are no longer needed."""

    digests: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Prune:
    """Votes and bodies of earlier views than this will never be asked for: the journal may let go of them.

    So it may of own entries before number `seq` of the feed, which are in the blocks.
    """

    view: int
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Keep this encoding of the state after the block of this height in place of the one before.

    It only makes the next start short, and so need not be durable.
    """

    height: int
    state: bytes


@dataclass(frozen=True, slots=True)
class Publish:
    """Put `data` where others can fetch it, under `name`, in place of what was there, whole or not at all.

    It is made again from time to time, so one that cannot be written is told of and otherwise let go.
    """

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Audit:
    """Check the whole ledger on the disk, every signature, while the node goes on; answered by `Audited`.

    With `later` only remember, across starts, that this is to be done: blocks follow that are believed until then.
    """

    later: bool = False


@dataclass(frozen=True, slots=True)
class Guard:
    """Keep a secret, durable before anything that follows, in place of the one before; empty, that is gone for good.

    It belongs to this process's life and no other's: it is in no backup, and in no journal.
    """

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Deposit:
    """Put this small blob, of the machine's own making, into the store. Answered by `Stored`."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReadBlob:
    """Read a small blob that is in the store. Answered by `BlobRead`."""

    digest: Digest
    size: int


Worn: TypeAlias = tuple[tuple[bytes, bool], ...]
"""Masks: of each the seed, and whether it is added or taken off."""

RingForm: TypeAlias = tuple[int, int, int, int]
"""The words of masked updates: bits, binary places, the most that weights sum to, and the room that is left for noise
(`swarm.masking.ring.Ring`)."""

NoiseForm: TypeAlias = tuple[bytes, int, int]
"""Noise for an update: seed, deviation in words, and the largest norm in steps that it is measured by
(`swarm.masking.noise`)."""


@dataclass(frozen=True, slots=True)
class MaskUpdate:
    """Weight this site's own update, which was kept aside, and put masks on it. Answered by `Masked`.

    Where sums carry noise, this site's share of it goes under the masks.
    """

    round: int
    attempt: int
    update: Digest
    weight: int
    ring: RingForm
    masks: Worn = field(repr=False)
    noise: NoiseForm | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Adopt:
    """Let a masked update into the store, from which others are served. Answered by `Stored`.

    `round` is the one that it was trained for, which for late work is not the open one; `size` is in bytes.
    """

    digest: Digest
    size: int
    round: int


@dataclass(frozen=True, slots=True)
class Unmask:
    """Add masked updates, take these masks off, and make the mean the model of a round of `model`.

    `weight` is that of all of them together. Where there is noise on the sum, `norm_max` is the largest norm that it
    may have with it, in words; 0 where there is none. Answered by `Mixed`.
    """

    round: int
    model: Digest
    terms: tuple[Digest, ...]
    weight: int
    ring: RingForm
    masks: Worn = field(repr=False)
    norm_max: int = 0


@dataclass(frozen=True, slots=True)
class Inspect:
    """Read an update through: size, finite values, norm within the charter's bound. Answered by `Inspected`.

    A `whole` model has no bound on its norm. `elements` is the length of a slice, 0 for what is as long as the model.
    """

    digest: Digest
    size: int
    whole: bool = False
    elements: int = 0


@dataclass(frozen=True, slots=True)
class Follow:
    """Make a member's public copy `after` of the one `before` it and the message between them, and read it through.

    Answered by `Inspected` of `after`. All three have the sizes that the charter says.
    """

    before: Digest
    message: Digest
    after: Digest


@dataclass(frozen=True, slots=True)
class Train:
    """Train from `model` for one round; answered by `Stepped`* and one `Trained`.

    That names the clipped update, or with `whole` the model that it makes of `model`; `step` multiplies it before.
    `counted` is this site's own update in the round before, if it is in `model`: what compression left out of that one
    is owed from now on. In gossip under a coarse codec `copy` is the public copy that others have of its model; what is
    answered are the slices of how that moves (`swarm.ledger.entry.Contribution`). Without it the model goes whole.
    Under gradient tracking `learned` is the round whose blend made `model`, and a correction with it that is taken in
    the steps; 0 if there is none yet, or all begin anew.
    """

    round: int
    model: Digest
    whole: bool = False
    counted: Digest | None = None
    step: float = 1.0
    copy: Digest | None = None
    learned: int = 0


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Evaluate `model`, which is the outcome of `round`, on local held-out data; answered by `Evaluated`."""

    round: int
    model: Digest


@dataclass(frozen=True, slots=True)
class Appraise:
    """Evaluate what a round's mean would have made of `model` with these of its updates alone; answered by `Appraised`.

    `terms` holds (update digest, integer weight), none for `model` itself. What is evaluated is written nowhere.
    `number` tells one question from another.
    """

    round: int
    number: int
    model: Digest
    terms: tuple[tuple[Digest, int], ...]


@dataclass(frozen=True, slots=True)
class Mix:
    """Average: `model` + weighted mean of the updates, in member order, in fixed point. Answered by `Mixed`.

    Where the charter has a rule, whoever obeys averages by that, and says by which weights that came out.

    `terms` holds (update digest, integer weight). Without `model` they are whole models, averaged into one. The sum is
    divided by `rest` more than their weights.
    """

    round: int
    model: Digest | None
    terms: tuple[tuple[Digest, int], ...]
    rest: int = 0


@dataclass(frozen=True, slots=True)
class MixSlice:
    """Average one slice of the updates of a round, so many `elements` long. Answered by `Parted`.

    `terms` holds (digest of the slice of an update, integer weight). `close` tells one closing of a round from another.
    The sum is divided by `rest` more than the weights.
    """

    round: int
    close: int
    number: int
    elements: int
    terms: tuple[tuple[Digest, int], ...]
    rest: int = 0


@dataclass(frozen=True, slots=True)
class Join:
    """Put averaged slices together, and make the model of a round of `model` and that. Answered by `Mixed`."""

    round: int
    model: Digest
    slices: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class AddUp:
    """Add weighted updates (digest, weight), read through first, and sums made by others. Answered by `Parted`.

    A sum is int64 in fixed point (`swarm.mixing.average`), little endian; (digest, weight) has the sum of the weights
    in it, and so how large it may be.
    """

    round: int
    close: int
    number: int
    updates: tuple[tuple[Digest, int], ...]
    sums: tuple[tuple[Digest, int], ...]


@dataclass(frozen=True, slots=True)
class Divide:
    """Make the sum of all weighted updates the mean, and that the model of a round. Answered by `Mixed`.

    `weight` is what it is divided by: the sum of the weights, and what is not in it and counts.
    """

    round: int
    model: Digest
    total: Digest
    weight: int


@dataclass(frozen=True, slots=True)
class Learn:
    """What a blend is to teach this site's correction (`swarm.mixing.diffusion`), which is durable before it is told.

    It goes on from the one that came with `base`, the model that round `since` ended with here; from zero if `since` is
    0. `weight` is the site's in this round, `gain` the charter's.
    """

    base: Digest | None
    since: int
    weight: int
    gain: float


@dataclass(frozen=True, slots=True)
class Blend:
    """One step of gossip: the sum of models by these weights, in this order. Answered by `Mixed` with a sketch.

    Of what rounding took off this site's own model before it travelled `rest` parts are added. With `clip` above 0 no
    model pulls further than `swarm.mixing.selfcentred` lets it, from the one at place `own`; what each was multiplied
    by comes back as the weights of `Mixed`, in millionths. Under gradient tracking it teaches the site what `learn`
    says.
    """

    round: int
    terms: tuple[tuple[Digest, float], ...]
    seed: int
    rest: float = 1.0
    clip: int = 0
    own: int = 0
    learn: Learn | None = None


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send `Woke` at this time. A later `WakeAt` replaces an earlier one."""

    time: float


@dataclass(frozen=True, slots=True)
class Report:
    """A fact for people and logs: a stable event name, a sentence, and its values."""

    event: str
    text: str
    values: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    level: str = "info"


@dataclass(frozen=True, slots=True)
class Answer:
    """The reply to one `Asked`: JSON-like data."""

    ticket: int
    reply: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Finished:
    """The run has ended for this site, and why. The node stays up to serve the others.

    DONE: every round is committed. FAILED: this site can give nothing more to it, or must not: its training fails for
    good, or the ledger is forked. What has failed may still recover, and be DONE after all. LEFT: it is no member any
    more. A run that is stopped while too few sites are there to go on is PAUSED, which only the shell says: it waits.
    """

    outcome: str
    reason: str


Effect: TypeAlias = (
    Reach
    | Persist
    | Send
    | SendChunk
    | SendBlocks
    | Keep
    | Seal
    | Check
    | Forget
    | Prune
    | Snapshot
    | Publish
    | Audit
    | Guard
    | Deposit
    | ReadBlob
    | MaskUpdate
    | Adopt
    | Unmask
    | Inspect
    | Follow
    | Train
    | Evaluate
    | Appraise
    | Mix
    | MixSlice
    | Join
    | AddUp
    | Divide
    | Blend
    | WakeAt
    | Report
    | Answer
    | Finished
)


class Machine(Protocol):
    """A node's whole logic."""

    def handle(self, event: Event, now: float) -> Sequence[Effect]:
        """Advance by one event. Never raises for anything a peer sent."""
        ...

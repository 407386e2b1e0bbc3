"""The trace of a simulated run: one compact line for everything that happened, and a digest of all lines.

Two runs are the same run exactly when their digests are equal; a failing run is read in its lines. Frames appear as
checksums, because a trace is for comparing and reading, and the bytes can be had by running the seed again.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import deque
from collections.abc import Sequence

from swarm.machine import (
    AddUp,
    Adopt,
    Answer,
    Appraise,
    Appraised,
    Asked,
    Audit,
    Audited,
    Blend,
    BlobRead,
    Buffer,
    Check,
    Checked,
    Deposit,
    Divide,
    Effect,
    Evaluate,
    Evaluated,
    Event,
    Finished,
    Follow,
    Forget,
    Guard,
    Inspect,
    Inspected,
    Join,
    Keep,
    LinkChanged,
    Masked,
    MaskUpdate,
    Mix,
    Mixed,
    MixSlice,
    NodeId,
    Parted,
    Persist,
    Prune,
    Publish,
    Reach,
    ReadBlob,
    Received,
    Report,
    Resting,
    Seal,
    Send,
    SendBlocks,
    SendChunk,
    Snapshot,
    Started,
    Stepped,
    Stored,
    StoreFailed,
    Train,
    Trained,
    Unmask,
    WakeAt,
    Woke,
)

LINES_RECENT = 60
"""Lines shown with a violation: about the last second of a busy four-member run, and still one screen."""

_BATCH = 256  # lines hashed at a time: hashing each alone would cost more than writing it


class Trace:
    """Takes lines; hashes all of them, remembers the last few, and keeps every one if `record` is set."""

    def __init__(self, *, record: bool = False) -> None:
        self._hash = hashlib.sha256()
        self._pending: list[str] = []
        self._recent: deque[str] = deque(maxlen=LINES_RECENT)
        self._lines: list[str] | None = [] if record else None

    def add(self, line: str) -> None:
        """Append one line, without its newline."""
        self._pending.append(line)
        if len(self._pending) >= _BATCH:
            self._flush()

    def digest(self) -> str:
        """SHA-256 of all lines so far, each ended by a newline; 64 hex digits."""
        self._flush()
        return self._hash.hexdigest()

    def lines(self) -> tuple[str, ...]:
        """Every line if the trace is recorded, else the last `LINES_RECENT`."""
        self._flush()
        return tuple(self._recent if self._lines is None else self._lines)

    def _flush(self) -> None:
        if not self._pending:
            return
        self._hash.update(("\n".join(self._pending) + "\n").encode())
        self._recent.extend(self._pending[-LINES_RECENT:])
        if self._lines is not None:
            self._lines += self._pending
        self._pending.clear()


def checksum(data: Buffer) -> str:
    """Eight hex digits that tell two frames apart in a trace (CRC-32: no adversary reads traces)."""
    return f"{zlib.crc32(data):08x}"


class Words:
    """Turns events and effects into words; knows the members' short names."""

    def __init__(self, names: dict[NodeId, str], epoch_s: float) -> None:
        self._names = names
        self._epoch_s = epoch_s

    def event(self, event: Event) -> str:
        """One event, without spaces at either end."""
        match event:
            case Received(sender=sender, frame=frame, payload=payload):
                more = "" if payload is None else f"+{len(payload)}"
                return f"recv {self.name(sender)} {checksum(frame)}{more}"
            case Woke():
                return "woke"
            case Started(records=records, blobs=blobs, partial=partial, snapshot=state):
                begun = f" snapshot={checksum(state)}" if state else ""
                return f"started records={len(records)} blobs={len(blobs)} partial={len(partial)}{begun}"
            case LinkChanged(peer=peer, up=up):
                return f"link {self.name(peer)} {'up' if up else 'down'}"
            case Stepped(round=number, step=step, steps=steps):
                return f"stepped {number} {step}/{steps}"
            case Trained(round=number, update=update, error=error):
                return f"trained {number} {_short(update)}{_because(error)}"
            case Evaluated(round=number, model=model, error=error):
                return f"evaluated {number} {_short(model)}{_because(error)}"
            case Appraised(round=number, number=question, error=error):
                return f"appraised {number}/{question}{_because(error)}"
            case Inspected(digest=digest, problem=problem):
                return f"inspected {_short(digest)}{_because(problem)}"
            case Mixed(round=number, model=model, error=error):
                return f"mixed {number} {_short(model)}{_because(error)}"
            case Parted(round=number, number=part, part=made, error=error):
                return f"parted {number}/{part} {_short(made)}{_because(error)}"
            case Masked(round=number, attempt=attempt, masked=made, error=error):
                return f"masked {number}/{attempt} {_short(made)}{_because(error)}"
            case BlobRead(digest=digest, data=data):
                return f"blob-read {_short(digest)} {len(data)}"
            case Checked(digest=digest, leaves=leaves):
                return f"checked {_short(digest)} {len(leaves)}"
            case Stored(digest=digest, size=size):
                return f"stored {_short(digest)} {size}"
            case StoreFailed(digest=digest, why=why):
                return f"store-failed {_short(digest)}{_because(why)}"
            case Resting(why=why):
                return f"resting{_because(why)}"
            case Audited(problem=problem):
                return f"audited{_because(problem)}"
            case Asked(ticket=ticket, question=question):
                return f"asked {ticket} {question}"

    def effects(self, effects: Sequence[Effect]) -> str:
        """All effects of one event, in order."""
        return "; ".join([self.effect(effect) for effect in effects])

    def effect(self, effect: Effect) -> str:
        """One effect, without spaces at either end."""
        match effect:
            case Send(to=to, frame=frame):
                return f"send {self.name(to)} {checksum(frame)}"
            case Reach(contacts=contacts):
                return "reach " + ",".join([self.name(contact.node) for contact in contacts])
            case WakeAt(time=time):
                return f"wake {time - self._epoch_s:.6f}"
            case Persist(records=records):
                return "persist " + ",".join([f"{r.kind}@{r.height}:{checksum(r.payload)}" for r in records])
            case SendChunk(to=to, digest=digest, offset=offset, length=length):
                return f"chunk {self.name(to)} {_short(digest)} {offset}+{length}"
            case SendBlocks(to=to, first=first, last=last):
                return f"blocks {self.name(to)} {first}..{last}"
            case Keep(digest=digest, offset=offset, payload=payload):
                return f"keep {_short(digest)} {offset}+{len(payload)}"
            case Seal(digest=digest):
                return f"seal {_short(digest)}"
            case Check(digest=digest):
                return f"check {_short(digest)}"
            case Forget(digests=digests):
                return "forget " + ",".join([_short(digest) for digest in digests])
            case Prune(view=view, seq=seq):
                return f"prune {view} {seq}"
            case Snapshot(height=height, state=state):
                return f"snapshot {height}:{checksum(state)}"
            case Publish(name=name, data=data):
                return f"publish {name} {checksum(data)}"
            case Audit(later=later):
                return "audit later" if later else "audit"
            case Guard(data=data):
                return f"guard {len(data)}"
            case Deposit(data=data):
                return f"deposit {len(data)}"
            case ReadBlob(digest=digest):
                return f"read-blob {_short(digest)}"
            case MaskUpdate(round=number, attempt=attempt, update=update, weight=weight):
                return f"mask {number}/{attempt} {_short(update)}*{weight}"
            case Adopt(digest=digest):
                return f"adopt {_short(digest)}"
            case Unmask(round=number, terms=masked, weight=weight):
                return f"unmask {number} {','.join([_short(digest) for digest in masked])} /{weight}"
            case Inspect(digest=digest):
                return f"inspect {_short(digest)}"
            case Train(round=number, model=model):
                return f"train {number} {_short(model)}"
            case Evaluate(round=number, model=model):
                return f"evaluate {number} {_short(model)}"
            case Appraise(round=number, number=question, terms=terms):
                named = ",".join([f"{_short(digest)}*{weight}" for digest, weight in terms]) or "nobody"
                return f"appraise {number}/{question} {named}"
            case Follow(before=before, message=message, after=after):
                return f"follow {_short(before)} {_short(message)} {_short(after)}"
            case Blend(round=number, terms=terms):
                return f"blend {number} " + ",".join([f"{_short(digest)}*{weight:.6f}" for digest, weight in terms])
            case MixSlice(round=number, number=part, terms=terms):
                return f"slice {number}/{part} " + ",".join([f"{_short(digest)}*{weight}" for digest, weight in terms])
            case AddUp(round=number, number=part, updates=updates, sums=sums):
                terms = (*updates, *sums)
                return f"sum {number}/{part} " + ",".join([f"{_short(digest)}*{weight}" for digest, weight in terms])
            case Join(round=number, slices=slices):
                return f"join {number} " + ",".join([_short(digest) for digest in slices])
            case Divide(round=number, total=total, weight=weight):
                return f"divide {number} {_short(total)}/{weight}"
            case Mix(round=number, terms=terms):
                return f"mix {number} " + ",".join([f"{_short(digest)}*{weight}" for digest, weight in terms])
            case Report(event=event, text=text):
                return f"report {event}: {text}"
            case Answer(ticket=ticket):
                return f"answer {ticket}"
            case Finished(outcome=outcome, reason=reason):
                return f"finished {outcome}: {reason}"

    def name(self, node: NodeId) -> str:
        """The short name of a member, or its first hex digits if it is a stranger."""
        return self._names.get(node) or node.hex()[:8]


def _short(digest: bytes | None) -> str:
    return "-" if digest is None else digest.hex()[:8]


def _because(why: str) -> str:
    return f" ({why})" if why else ""

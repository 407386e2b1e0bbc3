"""Which updates and models are held, which of them may be averaged, and which nobody will ask for again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from gossip.engine import Engine
from gossip.peers import Peers
from gossip.transfer import Transfer
from node.core.telling import blame
from swarm.charter import Charter
from swarm.ledger import entry as e
from swarm.ledger.replica import Pending, Replica
from swarm.ledger.state import State
from swarm.machine import Digest, Effect, Follow, Inspect, Inspected, NodeId, Report, Stored
from swarm.round import Round
from swarm.routes import norm_units, within_bound


class Updates:
    """What this site knows of blobs: every update is read through once before it counts as available."""

    def __init__(self, replica: Replica, engine: Engine, peers: Peers, transfer: Transfer, charter: Charter) -> None:
        self._replica, self._engine, self._peers, self._transfer = replica, engine, peers, transfer
        self._charter = charter
        self._problems: dict[Digest, str] = {}
        self._norms: dict[Digest, float] = {}
        self._slices: dict[Digest, tuple[Digest, ...]] = {}
        self._copies: dict[Digest, tuple[Digest, Digest, Digest]] = {}
        self._inspecting: set[Digest] = set()
        self._unnamed: set[Digest] = set()  # A block may become final between a blob and the event that names it.
        self.frugal = False  # while there is no room on the disk
        # Wanted and not read through yet, as of this state and so many entries taken in; None before the first look.
        self._open: dict[Digest, tuple[int, int]] = {}
        self._fresh: list[Digest] = []
        self._as_of: tuple[State, int] | None = None

    def usable(self, digest: Digest) -> bool | None:
        """Whether an update, or a slice of one, is held and fit to be averaged; None while it is not known.

        One that says how a public copy moves is, if the copy that it leads to is.
        """
        if self._charter.masks:
            return True if self._transfer.has(digest) else None  # It has the right size: no more can be seen of it.
        if digest in self._copies:
            digest = self._copies[digest][-1]
        if digest not in self._slices:
            problem = self._problems.get(digest)
            return None if problem is None else not problem
        found = [self.usable(part) for part in self._slices[digest]]
        if False in found or None in found:
            return False if False in found else None
        bound = self._charter.clip_norm
        return within_bound([norm_units(self.norm(part), bound) for part in self._slices[digest]])

    def norm(self, digest: Digest) -> float:
        """Return the L2 norm of what has been read through."""
        return self._norms[digest]

    def moving(self, digest: Digest, now: float) -> bool:
        """Whether bytes of an update are arriving, or it has arrived and is being read through."""
        if digest in self._copies:
            message, before, after = self._copies[digest]
            here = self._transfer.has(after) or (self._transfer.has(message) and self._transfer.has(before))
            return here or any(self._transfer.moving(part, now) for part in (message, after))
        parts = self._slices.get(digest, (digest,))
        if all(self._transfer.has(part) for part in parts):
            return True
        return any(self._transfer.moving(part, now) for part in parts)

    def trust(self, digest: Digest) -> None:
        """Take an update for good: the shell has clipped it, so it need not be read through again."""
        self._problems[digest] = ""

    def fetch(self, digest: Digest, size: int, hints: Sequence[NodeId], now: float) -> list[Effect]:
        """Get a blob. Only what the charter's model can be is ever fetched: a lie about the size costs nothing."""
        if self.frugal or not self._charter.moves(size) or self._transfer.has(digest):
            return []
        return self._transfer.want(digest, size, now, [node for node in hints if self._engine.knows(node)])

    def gather(
        self, round_: Round, author: NodeId, body: msgspec.Struct, hints: Sequence[NodeId], now: float
    ) -> list[Effect]:
        """Get what this site needs of an update that waits to be ordered, if the entry is about one.

        To be asked whenever what waits has changed, not once for each entry: the block that orders it may close the
        round on it, and who lacks it then does not vote for that block, so that nothing else ever would be asked for.
        """
        if not isinstance(body, e.Contribution):
            return []
        effects: list[Effect] = []
        for digest, size in round_.pieces(author, body, self._replica.head):
            effects += self.fetch(digest, size, hints, now)
        return effects

    def inspected(self, event: Inspected) -> list[Effect]:
        """Remember whether an update may be averaged."""
        self._inspecting.discard(event.digest)
        self._problems[event.digest] = event.problem
        self._norms[event.digest] = event.norm
        if not event.problem:
            return []
        text = f"an update may not be averaged: {event.problem}"
        return [Report("update_unusable", text, {"digest": event.digest.hex()}, level="warning")]

    def step(self, now: float) -> list[Effect]:
        """Move transfers on, and have every update that is now complete read through."""
        effects = self._transfer.step(now)
        effects += [blame(self._peers, sender, fault, now) for sender, fault in self._transfer.take_faults()]
        effects += self._follow_all()
        completed = self._transfer.take_completed()
        head, admitted = self._replica.head, self._replica.admitted
        if self._as_of is None or self._as_of[0] is not head or self._as_of[1] != admitted:
            self._as_of, self._open = (head, admitted), {}
            for body in self._wanted():
                self._expect(body)
            fresh = list(self._open)
        else:
            fresh = [*self._fresh, *completed]
        self._fresh = []
        for digest in fresh:
            if digest in self._open and self._transfer.has(digest):
                self._inspecting.add(digest)
                size, elements = self._open.pop(digest)
                effects.append(Inspect(digest, size, whole=head.exchange is not None, elements=elements))
        return effects

    def note(self, pending: Pending) -> None:
        """Learn of an entry that the replica has just taken in, so that `step` need not look through all there are."""
        head, admitted = self._replica.head, self._replica.admitted
        if self._as_of is None or self._as_of[0] is not head or self._as_of[1] + 1 != admitted:
            return
        if self._replica.next_entry(NodeId(pending.entry.author)).seq != pending.entry.seq + 1:
            return  # It has to wait for another, or others have waited for it.
        self._as_of = head, admitted
        body = pending.body
        if isinstance(body, e.Contribution) and head.destined(NodeId(pending.entry.author), body) is not None:
            self._fresh += self._expect(body)

    def made(self, blob: Stored) -> list[Effect]:
        """Take in a blob of this site's own making. It is kept, though nothing names it yet: see `named`."""
        self._as_of = None
        self._unnamed.add(blob.digest)
        return self._transfer.stored(blob)

    def named(self) -> None:
        """Learn that what was made has been named by an event: from now on it is kept for a reason or not at all."""
        self._unnamed.clear()

    def _expect(self, body: e.Contribution) -> list[Digest]:
        """Note what a contribution consists of; return what of it has not been read through."""
        if not self._charter.carries(body) or (body.slices and self._charter.follows) or self._charter.masks:
            return []
        if body.slices:
            self._slices[Digest(body.update_digest)] = tuple(digest for digest, _ in body.blobs)
        lengths = [end - start for start, end in self._charter.cuts] or [0]
        unread = {
            digest: (size, elements)
            for (digest, size), elements in zip(body.blobs, lengths, strict=True)
            if digest not in self._problems and digest not in self._inspecting
        }
        self._open |= unread
        return list(unread)

    def _follow_all(self) -> Iterator[Effect]:
        """Make public copies of what has come. There are as many as partners, each of one message."""
        for body in self._wanted() if self._charter.follows else ():
            if body.slices and self._charter.carries(body):
                yield from self._follow(body)

    def _follow(self, body: e.Contribution) -> Iterator[Effect]:
        """Have the author's next public copy made of its last one, or read through if it came whole."""
        (message, _), (before, _), (after, size) = body.blobs
        self._copies[Digest(body.update_digest)] = message, before, after
        if after in self._problems or after in self._inspecting:
            return
        if self._transfer.has(after):
            self._inspecting.add(after)
            if not self._transfer.has(message):
                text = f"a public copy came whole in round {body.round}: the one that it moved on from is not here"
                yield Report("copy_whole", text, {"round": body.round, "copy": after.hex()})
            yield Inspect(after, size, whole=True)
        elif self._transfer.has(message) and self._transfer.has(before):
            self._inspecting.add(after)
            yield Follow(before, message, after)

    def _wanted(self) -> Iterator[e.Contribution]:
        """Yield the contributions to the open round and later ones, ordered ones first."""
        head = self._replica.head
        for (round_, _), placed in sorted(head.contributions.items()):
            if round_ >= head.round:
                yield placed.body
        for author, body in self._pending():
            if head.destined(author, body) is not None:
                yield body

    def _pending(self) -> Iterator[tuple[NodeId, e.Contribution]]:
        for author, body in self._replica.bodies(e.Contribution):
            assert isinstance(body, e.Contribution)
            yield author, body

    def tidy(self, round_: Round, mine: Sequence[msgspec.Struct], judged: AbstractSet[Digest]) -> list[Effect]:
        """Forget blobs that belong to no round anybody may still need, nor to one that is to be `judged`.

        `mine` is what this site has said, or will once it may speak: of that the replica knows nothing yet.
        """
        keep = round_.keep(self._replica.head) | judged
        keep.update(digest for body in mine if isinstance(body, e.Contribution) for digest, _ in body.blobs)
        pending = [*self._pending()]
        keep.update(digest for _, body in pending for digest, _ in body.blobs)
        keep |= self._unnamed
        gone = [digest for digest in self._transfer.known() if digest not in keep]
        for digest in gone:
            self._problems.pop(digest, None)
            self._norms.pop(digest, None)
        here = {Digest(placed.body.update_digest) for placed in self._replica.head.contributions.values()}
        here.update(Digest(body.update_digest) for _, body in pending)
        self._slices = {name: parts for name, parts in self._slices.items() if name in here}
        self._copies = {name: parts for name, parts in self._copies.items() if name in here}
        return self._transfer.forget(gone) if gone else []

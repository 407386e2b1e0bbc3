"""When a blob went to whom, and came from whom, put together from single chunks.

Others ask for chunks, and each is sent at once; nobody says that it was the last one. So a sending is over when nothing
more of it has been asked for in a while. What arrives comes from several holders at once, a part from each: a receipt
is what one of them gave, and is over in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from swarm.machine import Digest, NodeId

QUIET_S = 2.0
"""Without a chunk, after which a sending is over. Who asks again later begins another."""

OPEN_MAX = 4096
"""Sendings that are put together at once: every member may ask for everybody's update of a round in which 64 take part.
The one that is quiet for longest is over before there are more."""


@dataclass(frozen=True, slots=True)
class Sending:
    """What of a blob went to a neighbour, or came from one: bytes, and the times of the first and the last chunk."""

    other: NodeId
    digest: Digest
    round: int
    size: int
    began_s: float
    ended_s: float


class Sendings:
    """The sendings, or the receipts, that are not over yet, the one that is quiet for longest first."""

    def __init__(self) -> None:
        self._open: dict[tuple[NodeId, Digest], Sending] = {}

    def known(self, other: NodeId, digest: Digest) -> bool:
        """Whether a chunk would be one more of a sending that is not over."""
        return (other, digest) in self._open

    def note(self, other: NodeId, digest: Digest, size: int, now: float, *, round_: int = 0) -> None:
        """Count a chunk; `round_` is what the blob belongs to, and counts for the first one."""
        known = self._open.pop((other, digest), None) or Sending(other, digest, round_, 0, now, now)
        self._open[other, digest] = replace(known, size=known.size + size, ended_s=now)

    def over(self, now: float) -> list[Sending]:
        """Return, once, what is over."""
        found = []
        for key, sending in list(self._open.items()):
            if now - sending.ended_s < QUIET_S and len(self._open) <= OPEN_MAX:
                break
            found.append(self._open.pop(key))
        return found

    def rest(self) -> list[Sending]:
        """Return what is not over, which ends now."""
        found = [*self._open.values()]
        self._open.clear()
        return found

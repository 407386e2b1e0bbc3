"""The simulated network: when, and whether, each message arrives.

It knows slots (one running process each), sizes and time; it never sees a frame, so it cannot be kind to one. Two kinds
of link: *datagram*, where every message is lost, repeated and overtaken on its own, harsher than anything a socket
offers and therefore the default when hunting for unsafe behaviour; and *fifo*, like TCP, where a loss takes the whole
connection and everything in flight with it. The list of torments follows TigerBeetle's packet simulator.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

QUEUE_BYTES_MAX = 16 << 20
"""Bytes that may wait for one direction of a link: the largest window a receiver grants (16 MiB), after which a real
shell drops rather than grows."""

TAIL_S_MAX = 60.0
"""Longest extra delay. Past a minute every timeout in the system has fired, and waiting longer finds nothing new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkProfile:
    """What every link is like; probabilities in [0, 1] per message, delays in seconds.

    Delay is `delay_s_min` plus an exponential share with mean `delay_s_mean - delay_s_min`. With probability `tail` a
    Lomax (heavy-tailed, shape 2) share with mean `tail_s_mean` is added, at most `TAIL_S_MAX`. `bandwidth_bytes_s` is
    per link and direction; inf means no serialisation. A process notices a lost link after about `detection_s` and a
    working one after about `handshake_s`.
    """

    delay_s_min: float = 0.002
    delay_s_mean: float = 0.020
    tail: float = 0.0
    tail_s_mean: float = 1.0
    loss: float = 0.0
    duplication: float = 0.0
    bandwidth_bytes_s: float = math.inf
    queue_bytes_max: int = QUEUE_BYTES_MAX
    fifo: bool = False
    detection_s: float = 2.0
    handshake_s: float = 0.1

    def calm(self) -> NetworkProfile:
        """The same links without loss, duplication or heavy tail: what is left when the faults are over."""
        return replace(self, loss=0.0, duplication=0.0, tail=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How one site is connected to all others: what its own line adds to the profile of every link.

    Bandwidths are bytes a second, shared by everything the site sends or receives at a time; inf means no limit.
    `delay_s` is one way between the site and the backbone, so a message pays the sender's and the receiver's. What has
    come down a narrow line is counted in the order in which it was sent, as a fair queue would do on average.
    """

    uplink_bytes_s: float = math.inf
    downlink_bytes_s: float = math.inf
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        assert self.uplink_bytes_s > 0.0, "a site that can send nothing is cut off, not slow"
        assert self.downlink_bytes_s > 0.0, "a site that can receive nothing is cut off, not slow"
        assert self.delay_s >= 0.0, "nothing arrives before it is sent"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slow:
    bandwidth_bytes_s: float
    delay_s: float


class NetworkModel:
    """The state of all directed links between `slots` processes.

    Args:
        profile: What all links have in common.
        slots: How many processes.
        rng: Where delays and losses come from.
        access: What each slot's own line adds; none for lines that add nothing.
        slow: Pairs (source, target) of slots whose link is narrower or longer from the beginning on, both ways given
            one by one: (bytes a second, further delay in seconds).
    """

    def __init__(
        self,
        profile: NetworkProfile,
        slots: int,
        rng: random.Random,
        access: Sequence[Access] = (),
        slow: Mapping[tuple[int, int], tuple[float, float]] | None = None,
    ) -> None:
        assert len(access) in (0, slots), "one line for each process, or none at all"
        self.profile = profile
        self._slots = slots
        self._access = tuple(access)
        self._up_free_at = [0.0] * slots
        self._down_free_at = [0.0] * slots
        self._standing = {
            source * slots + target: _Slow(bandwidth_bytes_s=bandwidth, delay_s=delay_s)
            for (source, target), (bandwidth, delay_s) in (slow or {}).items()
        }
        self._rng = rng
        self._blocked = [0] * (slots * slots)  # how many cuts in force forbid this direction
        self._cuts: dict[str, tuple[int, ...]] = {}
        self._free_at = [0.0] * (slots * slots)  # when the last byte queued so far leaves
        self._last = [0.0] * (slots * slots)  # fifo: nothing arrives before this
        self._epoch = [0] * (slots * slots)  # fifo: the number of the connection, equal in both directions
        self._slow: dict[int, _Slow] = dict(self._standing)
        self.carried = [0] * (slots * slots)
        """Bytes handed to each direction so far, at source * slots + target, whether or not they arrived."""

    def route(self, source: int, target: int, size: int, now: float) -> tuple[float, ...]:
        """The arrival times of one message of `size` bytes: none if it is lost, two if it is repeated.

        On a fifo link a loss resets the connection: `epoch` changes and what is in flight must not be delivered.
        """
        link = source * self._slots + target
        if self._blocked[link]:
            return ()
        self.carried[link] += size
        profile = self.profile
        if profile.loss and self._rng.random() < profile.loss:
            if profile.fifo:
                self.reset(source, target)
            return ()
        delay_s, bandwidth = self._delay_s(), profile.bandwidth_bytes_s
        if self._slow and (slow := self._slow.get(link)) is not None:
            delay_s, bandwidth = delay_s + slow.delay_s, min(bandwidth, slow.bandwidth_bytes_s)
        leaves = now
        if bandwidth != math.inf:
            begins = max(now, self._free_at[link])
            if (begins - now) * bandwidth + size > profile.queue_bytes_max:
                return ()
            leaves = self._free_at[link] = begins + size / bandwidth
        if self._access:
            passed = self._through(source, target, size, now, leaves)
            if passed is None:
                return ()
            leaves = passed
        arrives = leaves + delay_s
        if profile.fifo:
            arrives = self._last[link] = max(arrives, self._last[link])
        elif profile.duplication and self._rng.random() < profile.duplication:
            return (arrives, leaves + self._delay_s())
        return (arrives,)

    def _through(self, source: int, target: int, size: int, now: float, leaves: float) -> float | None:
        """When a message is through the lines of both sites, without the delay in between; None if there is no room.

        The two lines work at the same time, as a long message is at both ends at once, so the narrower one counts.
        """
        sender, receiver = self._access[source], self._access[target]
        if sender.uplink_bytes_s != math.inf:
            begins = max(now, self._up_free_at[source])
            if (begins - now) * sender.uplink_bytes_s + size > self.profile.queue_bytes_max:
                return None
            self._up_free_at[source] = begins + size / sender.uplink_bytes_s
            leaves = max(leaves, self._up_free_at[source])
        if receiver.downlink_bytes_s != math.inf:
            took = size / receiver.downlink_bytes_s
            self._down_free_at[target] = max(now, self._down_free_at[target]) + took
            leaves = max(leaves, self._down_free_at[target])
        return leaves + sender.delay_s + receiver.delay_s

    def _delay_s(self) -> float:
        profile, uniform = self.profile, self._rng.random
        delay_s = profile.delay_s_min
        if profile.delay_s_mean > delay_s:
            delay_s -= (profile.delay_s_mean - delay_s) * math.log(1.0 - uniform())
        if profile.tail and uniform() < profile.tail:
            delay_s += min(TAIL_S_MAX, profile.tail_s_mean * (1.0 / math.sqrt(1.0 - uniform()) - 1.0))
        return delay_s

    def is_open(self, source: int, target: int) -> bool:
        """Whether no cut forbids this direction."""
        return not self._blocked[source * self._slots + target]

    def epoch(self, source: int, target: int) -> int:
        """The number of the connection; always 0 on datagram links that were never reset."""
        return self._epoch[source * self._slots + target]

    def reset(self, source: int, target: int) -> None:
        """Tear the connection down in both directions: queues are emptied and a new epoch begins."""
        for link in (source * self._slots + target, target * self._slots + source):
            self._free_at[link] = self._last[link] = 0.0
            self._epoch[link] += 1

    def restarted(self, slot: int) -> None:
        """A process died: its send queues died with it, and on fifo links so did its connections."""
        for other in range(self._slots):
            if self.profile.fifo:
                self.reset(slot, other)
            self._free_at[slot * self._slots + other] = 0.0
        self._up_free_at[slot] = 0.0

    def cut(self, name: str, pairs: Iterable[tuple[int, int]]) -> None:
        """Forbid the directed `pairs` (source, target) until `mend(name)`; cuts of different names add up."""
        self.mend(name)
        links = tuple(source * self._slots + target for source, target in pairs)
        self._cuts[name] = links
        for link in links:
            self._blocked[link] += 1
            if self.profile.fifo:
                self.reset(*divmod(link, self._slots))

    def mend(self, name: str) -> None:
        """Lift the cut of that name; nothing happens if there is none."""
        for link in self._cuts.pop(name, ()):
            self._blocked[link] -= 1

    def mend_all(self, prefix: str) -> None:
        """Lift every cut whose name begins so."""
        for name in [name for name in self._cuts if name.startswith(prefix)]:
            self.mend(name)

    def slow(self, source: int, target: int, *, bandwidth_bytes_s: float, delay_s: float) -> None:
        """Limit one direction and add to its delay."""
        self._slow[source * self._slots + target] = _Slow(bandwidth_bytes_s=bandwidth_bytes_s, delay_s=delay_s)

    def quicken(self, source: int, target: int) -> None:
        """Undo `slow`; a link that was narrow from the beginning is so again."""
        link = source * self._slots + target
        self._slow.pop(link, None)
        if link in self._standing:
            self._slow[link] = self._standing[link]

    def quicken_all(self) -> None:
        """Undo `slow` everywhere, as `quicken` does."""
        self._slow = dict(self._standing)

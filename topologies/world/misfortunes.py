"""Carrying out a fault plan: what each fault does to the network, the disks, the clocks and the processes.

It decides nothing; the plan has decided. Stopping a process and moving its alarm are the world's business and are
handed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from topologies.world.clock import Scheduler
from topologies.world.faults import (
    ClockJump,
    Crash,
    Fault,
    FullDisk,
    Heal,
    OneWayCut,
    Partition,
    SlowLink,
    TwinRoute,
)
from topologies.world.links import Links
from topologies.world.network import NetworkModel
from topologies.world.place import Place


class Misfortunes:
    """Lets faults happen to `places`, now."""

    def __init__(
        self,
        places: Sequence[Place],
        network: NetworkModel,
        links: Links,
        scheduler: Scheduler,
        *,
        note: Callable[[str], None],
        crash: Callable[[Place, Crash], None],
        set_alarm: Callable[[Place, float], None],
    ) -> None:
        self._places, self._network, self._links, self._scheduler = places, network, links, scheduler
        self._note, self._crash, self._set_alarm = note, crash, set_alarm
        self._faults = 0

    def strike(self, fault: Fault) -> None:
        """Let a fault happen now, whatever its `at_s` says, and arrange for its end."""
        self._faults += 1
        name = f"fault/{self._faults}"
        self._note(repr(fault))
        match fault:
            case Partition(groups=groups, duration_s=duration_s):
                self._cut(name, _between(groups, len(self._places)), duration_s)
            case OneWayCut(sources=sources, targets=targets, duration_s=duration_s):
                self._cut(name, [(source, target) for source in sources for target in targets], duration_s)
            case Heal():
                self._network.mend_all("fault/")
                self._links.notice_all()
            case Crash(slot=slot, after_effects=0):
                self._crash(self._places[slot], fault)
            case Crash(slot=slot, after_effects=after):
                self._places[slot].fuse, self._places[slot].crash = after, fault
            case SlowLink():
                self._slow(fault)
            case FullDisk(slot=slot, duration_s=duration_s):
                self._set_full(self._places[slot], True)
                self._scheduler.at(self._scheduler.now + duration_s, self._set_full, self._places[slot], False)
            case ClockJump(slot=slot, offset_s=offset_s):
                self._places[slot].clock.jump(offset_s)
                self._set_alarm(self._places[slot], self._places[slot].wake_unix_s)
            case TwinRoute(member=member, first=first, second=second):
                self.route_twin(member, first, second)

    def heal(self) -> None:
        """The promised calm: no cut, no loss, room on every disk, no crash still armed. Liars stay liars."""
        self._note("heals")
        self._network.profile = self._network.profile.calm()
        self._network.mend_all("fault/")
        self._network.quicken_all()
        for place in self._places:
            self._set_full(place, False)
            place.fuse, place.crash, place.recovery_crashes = -1, None, 0
        self._links.notice_all()

    def route_twin(self, member: int, first: Sequence[int], second: Sequence[int]) -> None:
        """Cut each process of a twin off, both ways, from all slots but its own share."""
        pairs: list[tuple[int, int]] = []
        for twin, share in ((0, first), (1, second)):
            slot = next(place.slot for place in self._places if place.member == member and place.twin == twin)
            for other in self._places:
                if other.member != member and other.slot not in share:
                    pairs += ((slot, other.slot), (other.slot, slot))
        self._network.cut(f"twin/{member}", pairs)
        self._links.notice_all()

    def _cut(self, name: str, pairs: Sequence[tuple[int, int]], duration_s: float) -> None:
        self._network.cut(name, pairs)
        self._links.notice_all()
        if duration_s < math.inf:
            self._scheduler.at(self._scheduler.now + duration_s, self._mend, name)

    def _mend(self, name: str) -> None:
        self._note(f"mends {name}")
        self._network.mend(name)
        self._links.notice_all()

    def _slow(self, fault: SlowLink) -> None:
        for source, target in ((fault.a, fault.b), (fault.b, fault.a)):
            self._network.slow(source, target, bandwidth_bytes_s=fault.bandwidth_bytes_s, delay_s=fault.delay_s)
            if fault.duration_s < math.inf:
                self._scheduler.at(self._scheduler.now + fault.duration_s, self._network.quicken, source, target)

    def _set_full(self, place: Place, full: bool) -> None:
        place.disk.full = place.blobs.full = full


def _between(groups: Sequence[Sequence[int]], slots: int) -> list[tuple[int, int]]:
    """All directed pairs of slots in different groups; slots in no group form one more."""
    group_of = [-1] * slots
    for number, group in enumerate(groups):
        for slot in group:
            group_of[slot] = number
    return [(a, b) for a in range(slots) for b in range(slots) if group_of[a] != group_of[b]]

"""Carrying out a fault plan: what each fault does to the network, the disks, the clocks and the processes.

It decides nothing; the plan has decided. Stopping a process and moving its alarm are the world's business and are
handed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from topologies.world.clock import Scheduler
from topologies.world.faults import (
    Backup,
    BadDisk,
    ClockDrift,
    ClockJump,
    Crash,
    DiskFault,
    Fault,
    FlipBit,
    Freeze,
    FullDisk,
    Garble,
    Heal,
    Mute,
    OneWayCut,
    Partition,
    Replay,
    SlowLink,
    TwinRoute,
    Weather,
    severed,
)
from topologies.world.links import Links
from topologies.world.network import NetworkModel, NetworkProfile
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
        freeze: Callable[[Place, Freeze], None],
        set_alarm: Callable[[Place, float], None],
        replay: Callable[[Place, int], None],
    ) -> None:
        self._places, self._network, self._links, self._scheduler = places, network, links, scheduler
        self._note, self._crash, self._freeze, self._set_alarm = note, crash, freeze, set_alarm
        self._replay = replay
        self._faults = 0
        self._usual = network.profile
        self._weathers: list[Weather] = []

    def strike(self, fault: Fault) -> None:
        """Let a fault happen now, whatever its `at_s` says, and arrange for its end."""
        self._faults += 1
        name = f"fault/{self._faults}"
        self._note(repr(fault))
        match fault:
            case Partition(groups=groups, duration_s=duration_s):
                self._cut(name, severed(groups, len(self._places)), duration_s)
            case OneWayCut(sources=sources, targets=targets, duration_s=duration_s):
                self._cut(name, [(source, target) for source in sources for target in targets], duration_s)
            case Heal():
                self._network.mend_all("fault/")
                self._links.notice_all()
            case Crash(slot=slot, after_effects=0):
                self._crash(self._places[slot], fault)
            case Crash(slot=slot, after_effects=after):
                self._places[slot].fuse, self._places[slot].crash = after, fault
            case Freeze(slot=slot):
                self._freeze(self._places[slot], fault)
            case SlowLink():
                self._slow(fault)
            case FullDisk(slot=slot, duration_s=duration_s):
                self._set_full(self._places[slot], True)
                self._scheduler.at(self._scheduler.now + duration_s, self._set_full, self._places[slot], False)
            case ClockJump(slot=slot, offset_s=offset_s):
                self._places[slot].clock.jump(offset_s)
                self._set_alarm(self._places[slot], self._places[slot].wake_unix_s)
            case ClockDrift(slot=slot, rate=rate):
                self._places[slot].clock.drift(rate, self._scheduler.now)
                self._set_alarm(self._places[slot], self._places[slot].wake_unix_s)
            case TwinRoute(member=member, first=first, second=second):
                self.route_twin(member, first, second)
            case Weather():
                self._weathers.append(fault)
                self._change_weather()
                self._scheduler.at(self._scheduler.now + fault.duration_s, self._clear, fault)
            case Mute(slot=slot, duration_s=duration_s):
                self._places[slot].mute_until = self._scheduler.now + duration_s
            case Garble(slot=slot, duration_s=duration_s, share=share):
                self._places[slot].garbled = share
                self._places[slot].garbled_until = self._scheduler.now + duration_s
            case Replay(slot=slot, frames=frames):
                self._replay(self._places[slot], frames)
            case Backup(slot=slot):
                self._places[slot].backup = self._places[slot].disk.copy()
            case BadDisk(slot=slot, fault=DiskFault.ERROR_ONCE):
                self._places[slot].disk.fail_at(0)
            case BadDisk(slot=slot, duration_s=duration_s):
                self._set_bad(self._places[slot], fault.fault, True)
                self._scheduler.at(
                    self._scheduler.now + duration_s, self._set_bad, self._places[slot], fault.fault, False
                )
            case FlipBit(slot=slot, spot=spot):
                self._places[slot].disk.flip_at(spot)

    def heal(self) -> None:
        """The promised calm: no cut, no loss, room on every disk, no crash still armed. Liars stay liars."""
        self._note("heals")
        self._weathers.clear()
        self._network.profile = self._usual = self._usual.calm()
        self._network.mend_all("fault/")
        self._network.quicken_all()
        for place in self._places:
            self._set_full(place, False)
            for bad in DiskFault:
                self._set_bad(place, bad, False)
            place.mute_until = place.garbled_until = 0.0
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

    def _clear(self, weather: Weather) -> None:
        if weather in self._weathers:
            self._weathers.remove(weather)
            self._change_weather()

    def _change_weather(self) -> None:
        """Give every link the worst of what there is."""
        every: tuple[NetworkProfile | Weather, ...] = (self._usual, *self._weathers)
        self._network.profile = replace(
            self._usual,
            loss=max(one.loss for one in every),
            duplication=max(one.duplication for one in every),
            tail=max(one.tail for one in every),
        )

    def _set_bad(self, place: Place, fault: DiskFault, bad: bool) -> None:
        match fault:
            case DiskFault.ERROR:
                place.disk.failing = bad
            case DiskFault.READ_ONLY:
                place.disk.read_only = bad
            case DiskFault.SLOW:
                place.disk.slow = bad
            case DiskFault.LIES:
                place.disk.lies = bad
            case DiskFault.ERROR_ONCE:
                pass  # over as soon as it has happened

    def _set_full(self, place: Place, full: bool) -> None:
        place.disk.full = place.blobs.full = full

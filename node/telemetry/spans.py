"""Rounds as spans, from the lines of a site's log.

Of each round a site has one span, `round`, and below it what it did: `train`, one `send` for each blob and neighbour,
one `receive` for each blob and who gave of it, `wait` from its own offer until the close, `mix`, `attest` until the
commit, `evaluate`. All sites' spans of a round are in one trace (`node.telemetry.traces`). Times are the site's own.

A line says that something has ended, rarely that it began: training begins with a line of its own, waiting with the end
of training, averaging with the close, and so on. What a line is missing for is left out, never guessed.

A round is told once it is committed, and `round` itself when the evaluation of its model is over, or the next round is.

OTLP has no span without an end, so a round that hangs would be told of by nobody. `hanging` looks at it meanwhile: a
span `open`, a root of its own, from where the phase began that the round is in to the moment of the look, with the name
of the phase and, from whoever knows it, of whom it waits for. Looks have ids of their own, since a store keeps both of
two spans with one id or either, and come seldom, the longer the round has hung.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from node.telemetry.traces import (
    ATTEST,
    EVALUATE,
    MIX,
    OPEN,
    RECEIVE,
    ROUND,
    SEND,
    TRAIN,
    WAIT,
    WAYS,
    moved_about,
    span_id,
)
from swarm.machine import NodeId

Value: TypeAlias = str | int | float | bool

OPEN_MAX = 64
"""Rounds that are not told yet: where nobody waits several are open, and one that is never committed stays so."""

TIME_S_MAX = 9e9
"""In nanoseconds it fits 64 bits, as OTLP has times: the year 2255."""

HANGING_S = 60.0
"""After so long in one phase a round is looked at while it is open, and again whenever it has taken twice as long."""

PHASES: Mapping[str, str] = {
    "training": TRAIN,
    "training_failed": TRAIN,
    "trained": WAIT,
    "round_closed": MIX,
    "mixed": ATTEST,
}
"""By the event that begins it, what a site is at."""

Awaited: TypeAlias = Callable[[int, str], Sequence[str]]
"""Returns the names of those for whom a phase of a round waits; nothing where that is not known."""

TOLD_MAX = 1024
"""Rounds that are remembered as told."""


@dataclass(frozen=True, slots=True)
class Span:
    """One deed of one site in one round. Ids as W3C Trace Context has them; times are Unix seconds."""

    trace: bytes
    id: bytes
    parent: bytes
    """Empty for `round`, which has none."""
    name: str
    began_s: float
    ended_s: float
    attributes: Mapping[str, Value]
    failed: bool = False


@dataclass(slots=True)
class _Round:
    """What the log has said of a round so far: by event when, the first time of what begins, the last of what ends."""

    number: int
    first_s: float
    last_s: float
    at: dict[str, float] = field(default_factory=dict)
    told: dict[str, Value] = field(default_factory=dict)
    failures: int = 0
    sent: int = 0
    committed: bool = False
    looked_s: float = 0.0  # how long its phase had lasted at the last look


BEGINNINGS = ("training", "evaluating")
MOVED: Mapping[str, str] = {"sent": SEND, "received": RECEIVE}


class Spans:
    """Turns one site's log into spans, line by line."""

    def __init__(self, node: NodeId) -> None:
        self._node = node
        self._open: dict[bytes, _Round] = {}
        self._over: dict[bytes, None] = {}
        self._committed = 0

    def take(self, line: bytes) -> list[Span]:
        """Return what a line completes. A line that is none of a round, or no fact at all, completes nothing."""
        try:
            fact = json.loads(line)
            trace, number, at = bytes.fromhex(fact["trace_id"]), _count(fact["round"]), _time(fact["time"])
            event = str(fact["event"])
        except (ValueError, LookupError, TypeError, RecursionError):
            return []
        if len(trace) != 16 or not number:
            return []
        if event in MOVED:
            return [*self._moved(MOVED[event], trace, number, fact)]
        if trace in self._over:
            return []
        return [*self._note(trace, self._round(trace, number, at), event, at, fact)]

    def hanging(self, now: float, awaited: Awaited, *, least_s: float = HANGING_S) -> list[Span]:
        """Return a look, as of Unix time `now`, at each round that has been in its phase for `least_s` seconds."""
        found = []
        for trace, one in self._open.items():
            begun = [(one.at[event], phase) for event, phase in PHASES.items() if event in one.at]
            # What was never committed before a later round was is no round that hangs: the log lacks its end.
            if one.committed or one.number <= self._committed or not begun:
                continue
            began, phase = max(begun, key=lambda pair: pair[0])
            lasted = now - began
            if lasted < max(least_s, 2 * one.looked_s) or now >= TIME_S_MAX:
                continue
            one.looked_s = max(lasted, 0.0)
            attributes: dict[str, Value] = {"swarm.round": one.number, "swarm.open": True, "swarm.phase": phase}
            if names := awaited(one.number, phase):
                attributes["swarm.awaited"] = ", ".join(names)
            own = span_id(trace, self._node, OPEN, about=f"{phase}/{round(now * 1000)}".encode())
            failed = "training_failed" in one.at and phase == TRAIN
            found.append(Span(trace, own, b"", OPEN, began, now, attributes, failed))
        return found

    def rest(self) -> list[Span]:
        """Return the rounds that were committed and wait for an evaluation that does not come."""
        return [self._whole(trace) for trace, one in list(self._open.items()) if one.committed]

    def _round(self, trace: bytes, number: int, at: float) -> _Round:
        one = self._open.setdefault(trace, _Round(number, at, at))
        one.last_s = max(one.last_s, at)
        while len(self._open) > OPEN_MAX:
            del self._open[next(iter(self._open))]
        return one

    def _note(self, trace: bytes, one: _Round, event: str, at: float, fact: Mapping[str, Value]) -> Iterator[Span]:
        if not (event in BEGINNINGS and event in one.at):
            one.at[event] = at
        if event in PHASES:
            one.looked_s = 0.0
        match event:
            case "training_failed":
                one.failures += 1
            case "trained":
                one.told["swarm.samples"] = _count(fact.get("samples"))
            case "round_closed":
                one.told |= {"swarm.missing": str(fact.get("missing", "")), "swarm.sites": _count(fact.get("sites"))}
            case "round_committed" if not one.committed:
                one.committed = True
                self._committed = max(self._committed, one.number)
                for other, before in list(self._open.items()):
                    if other != trace and before.committed and before.number < one.number:
                        yield self._whole(other)
                yield from self._deeds(trace, one)
            case "evaluated" | "evaluation_failed" | "unscored":
                failed = event == "evaluation_failed"
                yield from self._deed(trace, one, EVALUATE, "evaluating", event, failed=failed)
                if one.committed:
                    yield self._whole(trace)
            case _:
                pass

    def _deeds(self, trace: bytes, one: _Round) -> Iterator[Span]:
        """Yield what came before a commit."""
        gave_up = one.failures > 0 and "trained" not in one.at
        tries: dict[str, Value] = {"swarm.failures": one.failures} if one.failures else {}
        yield from self._deed(
            trace, one, TRAIN, "training", "training_failed" if gave_up else "trained", failed=gave_up, **tries
        )
        yield from self._deed(trace, one, WAIT, "trained", "round_closed")
        yield from self._deed(trace, one, MIX, "round_closed", "mixed")
        yield from self._deed(trace, one, ATTEST, "mixed", "round_committed")

    def _deed(
        self, trace: bytes, one: _Round, deed: str, began: str, ended: str, *, failed: bool = False, **more: Value
    ) -> Iterator[Span]:
        """Yield a deed, if both its ends are known and in order: late work is offered after a round was closed."""
        begin, end = one.at.get(began), one.at.get(ended)
        if begin is None or end is None or end < begin:
            return
        attributes = {"swarm.round": one.number, **more}
        own, parent = (span_id(trace, self._node, which) for which in (deed, ROUND))
        yield Span(trace, own, parent, deed, begin, end, attributes, failed)

    def _moved(self, deed: str, trace: bytes, number: int, fact: Mapping[str, Value]) -> Iterator[Span]:
        """Yield bytes that went to a neighbour or came from one; a round's own `swarm.bytes` are those that went."""
        try:
            other, digest = str(fact[WAYS[deed]]), str(fact["digest"])
            began, size = _time(fact["began"]), _count(fact["bytes"])
            ended = _time(began + max(float(fact["seconds"]), 0.0))
        except (ValueError, LookupError, TypeError, OverflowError):
            return
        if trace in self._open and deed == SEND:
            self._open[trace].sent += size
        own = span_id(trace, self._node, deed, about=moved_about(other, digest))
        attributes: dict[str, Value] = {
            "swarm.round": number,
            "swarm.peer": str(fact.get("peer", "")),
            "swarm.bytes": size,
        }
        parent = span_id(trace, self._node, ROUND)
        yield Span(trace, own, parent, deed, began, ended, attributes)

    def _whole(self, trace: bytes) -> Span:
        """Return a round as a whole, which is told only once."""
        one = self._open.pop(trace)
        self._over[trace] = None
        if len(self._over) > TOLD_MAX:
            del self._over[next(iter(self._over))]
        attributes = {"swarm.round": one.number, **one.told} | ({"swarm.bytes": one.sent} if one.sent else {})
        own = span_id(trace, self._node, ROUND)
        return Span(trace, own, b"", ROUND, one.first_s, one.last_s, attributes)


def _time(value: object) -> float:
    """Return a Unix time in seconds. Raises `TypeError` and `ValueError` for others."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    if not 0 <= value < TIME_S_MAX:
        raise ValueError
    return float(value)


def _count(value: object) -> int:
    """Return a number that OTLP can hold; nought for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63 else 0

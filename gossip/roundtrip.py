"""How long a word to a neighbour and its answer take: measured by greetings, smoothed as TCP smooths it.

A greeting that asks for one is answered at once, in every version of the protocol; so an echo is there already, and a
neighbour of any version can be measured without its knowing. What is measured is what this node's messages meet: the
way there and back, through a relay where one is between, and both nodes' loops, which may be busy. It is longer than a
ping's, and never shorter.

An answer does not say what it answers. With several greetings unanswered it could be to any of them, so only an answer
to the one greeting that is out counts (Karn and Partridge, SIGCOMM 1987). Smoothing is RFC 6298, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

PROBE_S = 5.0
"""Between two measurements of one neighbour, at least; with many neighbours their turns come later, as one is measured
a heartbeat: each of 500 every 500 s, at the four messages a second that five cost (`scripts/greeting_cost.py`)."""

GIVE_UP_S = 60.0
"""After which a greeting counts as lost, and the next one may be measured again."""

SMOOTHED_SHARE = 1 / 8
VARIATION_SHARE = 1 / 4
"""Of a new measurement in what was smoothed so far: alpha and beta of RFC 6298."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A smoothed round-trip time and its mean deviation, in seconds: SRTT and RTTVAR of RFC 6298."""

    smoothed_s: float
    variation_s: float

    @classmethod
    def first(cls, measured_s: float) -> RoundTrip:
        """Return what one measurement says (2.2)."""
        return cls(measured_s, measured_s / 2)

    def then(self, measured_s: float) -> RoundTrip:
        """Return what is known after another one (2.3). The deviation is from what was smoothed before it."""
        apart_s = abs(self.smoothed_s - measured_s)
        return RoundTrip(
            (1 - SMOOTHED_SHARE) * self.smoothed_s + SMOOTHED_SHARE * measured_s,
            (1 - VARIATION_SHARE) * self.variation_s + VARIATION_SHARE * apart_s,
        )


@dataclass(slots=True)
class Echo:
    """The greetings that are out to one neighbour, and what their answers have told. Times are on this node's clock."""

    round_trip: RoundTrip | None = None
    _out: int = 0
    _probed_at: float = 0.0
    _probing: bool = False

    def linked(self) -> None:
        """Forget what was measured: a new link may go another way, and what was out on the old one is lost."""
        self.round_trip, self._out, self._probing = None, 0, False

    def welcomed(self, now: float) -> None:
        """Count from when a neighbour has introduced itself; what it did not answer while it could not, it will not."""
        self._out, self._probed_at = min(self._out, 1), now

    def due_at(self) -> float:
        """Return when to measure again. Until all that is out is answered, that is when it counts as lost."""
        return self._probed_at + (GIVE_UP_S if self._out else PROBE_S)

    def greeted(self) -> None:
        """Note a greeting that asks for an answer and is not measured."""
        self._out += 1

    def probed(self, now: float) -> None:
        """Note one that is measured, once it was due."""
        self._out, self._probed_at, self._probing = 1, now, True

    def answered(self, now: float) -> None:
        """Take in an answer; one that nobody asked for says nothing."""
        measured_s = now - self._probed_at
        if self._out == 1 and self._probing and measured_s >= 0:
            known = self.round_trip
            self.round_trip = RoundTrip.first(measured_s) if known is None else known.then(measured_s)
        self._out = max(self._out - 1, 0)
        self._probing = False

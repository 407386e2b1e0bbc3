"""What gossip does about data that differ from site to site, by name: the one option a charter has for it.

*qg* is a momentum that follows the swarm's models (`swarm.mixing.momentum`): a site that loses it goes on without, and
nothing else is lost. *gt* is gradient tracking, in the form of exact diffusion (`swarm.mixing.diffusion`): it ends at
the optimum of the whole, and no site may lose what it has learned unless all begin again.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarm.errors import UsageError
from swarm.mixing import diffusion, momentum


@dataclass(frozen=True, slots=True)
class Correction:
    """At most one of two: `momentum` is the quasi-global beta, `gain` that of gradient tracking; 0 to below 1."""

    momentum: float = 0.0
    gain: float = 0.0

    @property
    def tracks(self) -> bool:
        """Whether steps are corrected."""
        return self.gain > 0

    def words(self) -> str:
        """Say what it does, on one line of a charter."""
        if self.tracks:
            return f"gradient tracking: what pulls a site back from the others corrects its steps, gain {self.gain:g}"
        return f"quasi-global momentum of {self.momentum:g}"


NONE = Correction()


def parse(text: str) -> Correction:
    """Return the correction that a charter names: "gt", "gt:500", "qg", "qg:500", the numbers in thousandths.

    Raises:
        UsageError: there is no such correction.
    """
    if text.partition(":")[0] == diffusion.NAME:
        return Correction(gain=diffusion.parse(text))
    if text.partition(":")[0] == "qg":
        return Correction(momentum=momentum.parse(text))
    raise UsageError(
        f"couldn't choose a correction: {text[:40]!r} is not one",
        hint="choose qg (quasi-global momentum, 0.7), gt (gradient tracking) or another of either, as qg:500 or gt:500",
    )

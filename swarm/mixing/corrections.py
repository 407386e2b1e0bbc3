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
    """At most one of two: `momentum` is the quasi-global beta, 0 to below 1, `tracks` whether steps are corrected."""

    momentum: float = 0.0
    tracks: bool = False

    def words(self) -> str:
        """Say what it does, on one line of a charter."""
        if self.tracks:
            return "gradient tracking: each site learns how its steps pull against the others', and corrects them"
        return f"quasi-global momentum of {self.momentum:g}"


NONE = Correction()


def parse(text: str) -> Correction:
    """Return the correction that a charter names: "gt", "qg", "qg:500".

    Raises:
        UsageError: there is no such correction.
    """
    if text == diffusion.NAME:
        return Correction(tracks=True)
    if text.partition(":")[0] == "qg":
        return Correction(momentum=momentum.parse(text))
    raise UsageError(
        f"couldn't choose a correction: {text[:40]!r} is not one",
        hint="choose gt (gradient tracking), qg (quasi-global momentum, 0.7) or qg:500 (another, in thousandths)",
    )

"""What work is worth that comes after its round has closed.

Exact mixing averages updates, not models, so an update can be added to a later model than the one it started from. What
was learnt is still worth something then, and less the further the others have gone on: its samples are divided by the
square root of one more than the rounds it is late, polynomial staleness with an exponent of one half (Xie, Koyejo &
Gupta, "Asynchronous federated optimization", 2019, section 5). Integers throughout, since everybody has to come to the
same weights.
"""

from __future__ import annotations

import math
import re

from swarm.errors import UsageError

STALENESS_MAX = 1000
"""Rounds: of so many models a state remembers the digests."""

STALENESS_DEFAULT = 16
"""What a charter says unless it is asked for something else: work that is so late counts a quarter."""

STALENESS_ASYNCHRONOUS = 256
"""The same where nobody is waited for: a site that takes 64 times as long as each of eight others comes in so late if
every second piece of work makes a model."""

BUFFER_SHARE = 4
"""Where nobody is waited for, one in so many sites makes a round unless the charter is asked for something else."""

_NUMBER = re.compile(r"[1-9]\d{0,3}")


def parse(text: str) -> int:
    """Return for how many rounds late work counts, 1 to `STALENESS_MAX`, as a charter has it. Raises `UsageError`."""
    if not _NUMBER.fullmatch(text) or int(text) > STALENESS_MAX:
        raise UsageError(
            f"couldn't take {text!r} for the rounds for which late work counts: it must be 1 to {STALENESS_MAX}",
            hint="To let no late work count, leave it out, or say --staleness 0 to `swarm charter new`.",
        )
    return int(text)


def discounted(samples: int, late: int) -> int:
    """Return for how many samples an update counts that is so many rounds late: samples / sqrt(1 + late), or 1."""
    return max(1, samples * 1000 // math.isqrt(1_000_000 * (1 + late)))

"""How long a round waits for a site that moves and is slow: as long as the others' pace makes worth it.

Who makes no progress is left out after the charter's patience, and nobody is waited for past its deadline. Between the
two stands the site that is at work and far behind: a deadline that suits an hour of training lets one slow machine turn
every minute of the others into twenty, a short one drops the largest site, whose work is the longest because it has the
most data. So the wait follows from what is seen. With times in seconds since the round opened, member i is waited for
until

    A_i = max(G, c * max(m, h) * max(1, n * w_i), m + 4 * s)

- `m`: the median over the members of each one's usual time from opening to offer, the median of its last few rounds;
  `s`: their spread, 1.4826 times the median absolute deviation, which estimates a standard deviation (Rousseeuw &
  Croux, "Alternatives to the median absolute deviation", 1993). Medians, so that neither the slow site itself, nor
  fewer than half of the members that lie, move what is waited for. Where sites are unequal throughout, the spread is
  what is usual.
- `h`: when more than half of the members were in, in this very round; before that nobody is given up. If all are slow
  this time, or have become slow, the wait grows with them.
- `c`: the charter's factor.
- `w_i`: its share of all samples, at most what the charter caps weights at, of n members. Waiting costs the others
  their time; who brings k times the average is worth k times the wait.
- `G`: how long the round waits for a member that nobody hears of at all. Who moves is not given up sooner.

Its steps in this round say whether it can make it: once more than half are in, and `G` is over, nobody is waited for
who would come after `A_i` anyway. Its work is not lost: it counts late (`swarm.staleness`), and if it would be too late
even for that, the round waits after all.

Everything here is a pure function of what one member has observed. Two members observe differently, so the answer is a
soft question (decision 0006): it delays a vote, and makes no block invalid.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

from swarm.errors import UsageError

FACTOR_MIN = 2
"""Below, sites that are like the others and had bad luck would be left out."""

FACTOR_MAX = 1000

SPREADS = 4.0
"""Standard deviations beyond the median: of normal times, 3 in 100,000 are later."""

NORMAL = 1.4826
"""The standard deviation of a normal distribution in units of its median absolute deviation."""

_NUMBER = re.compile(r"[1-9]\d{0,3}")


def parse(text: str) -> int:
    """Return the factor `c`, `FACTOR_MIN` to `FACTOR_MAX`, as a charter has it. Raises `UsageError`."""
    if not _NUMBER.fullmatch(text) or not FACTOR_MIN <= int(text) <= FACTOR_MAX:
        raise UsageError(
            f"couldn't take {text!r} for the pace: how many times the median site's time one is waited for must be"
            f" {FACTOR_MIN} to {FACTOR_MAX}",
            hint="To wait for every site that moves until the deadline, leave it out, or say --pace 0 to"
            " `swarm charter new`.",
        )
    return int(text)


def allowance(usual: Sequence[float], half_s: float, *, worth: float, factor: int, floor_s: float) -> float:
    """Return A_i, in seconds since the round opened.

    Args:
        usual: for each member that there is history of, its usual time from opening to offer; at least one.
        half_s: h, when more than half of the members were in.
        worth: n * w_i, its share of the samples in units of the average one.
        factor: c.
        floor_s: G.
    """
    median = statistics.median(usual)
    spread = NORMAL * statistics.median(abs(one - median) for one in usual)
    return max(floor_s, factor * max(median, half_s) * max(1.0, worth), median + SPREADS * spread)


def left_s(step: int, steps: int, since_step: int, watched_s: float) -> float | None:
    """Return the least time in seconds that a training has left at the rate seen; None where nothing can be said.

    It is at `step` of about `steps`, and was at `since_step` when it was first seen, `watched_s` ago. The next step may
    be about to end, so it counts as done: what is returned is too early rather than too late.
    """
    if steps <= step or watched_s <= 0.0 or since_step > step:
        return None
    return (steps - step - 1) * watched_s / (step - since_step + 1)


def given_up(elapsed_s: float, until_s: float, floor_s: float, left: float | None) -> bool:
    """Whether to wait no longer for a member: A_i = `until_s` is over, or would be before it has trained."""
    if elapsed_s < floor_s:
        return False
    return elapsed_s >= until_s or (left is not None and elapsed_s + left > until_s)


def worth(samples: Sequence[int], own: int, cap_ppm: int) -> float:
    """Return n * w_i of a member with `own` samples among all `samples`, its own included; 1 if nobody has any."""
    total = sum(samples)
    return len(samples) * min(own / total, cap_ppm / 1_000_000) if total else 1.0

"""From scores to shares: what is settled once rounds are over.

Scores add up over rounds as they are, later rounds as much as earlier ones (no discount): by additivity the sum of
Shapley's values of the rounds is that of the run as the sum of its rounds. A share must not be negative, so what a site
cost the others in all is cut off at nothing, and the rest is divided by what is left. Integers throughout: everybody
who reads the same ledger comes to the same shares.
"""

from __future__ import annotations

from collections.abc import Sequence

PPM = 1_000_000


def settle(sums: Sequence[int]) -> tuple[int, ...] | None:
    """Return shares in millionths that add up to one million: max(0, s_i) / sum_j max(0, s_j); None if that is 0 / 0.

    What rounding down leaves over goes to those who lose most by it, of equals to the first.
    """
    kept = [max(0, one) for one in sums]
    total = sum(kept)
    if not total:
        return None
    shares = [one * PPM // total for one in kept]
    order = sorted(range(len(kept)), key=lambda i: (-(kept[i] * PPM % total), i))
    for i in order[: PPM - sum(shares)]:
        shares[i] += 1
    return tuple(shares)

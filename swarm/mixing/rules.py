"""How updates are averaged where a few members may lie: the rules that a charter can name, and what each asks for.

The default, a mean weighted by samples of updates whose norms are bounded, lets every site count by what it says it
has, and bounds what one can do. It does not bound what several can do together, round after round. A rule does: it is
made for at most f updates that may be anything, and what they are moves the outcome no further than the honest ones lie
apart. The price is paid when nobody lies: a rule cannot tell a site that lies from one whose patients differ, so it
takes least of exactly those. No rule believes a sample count, for a liar's would be as large as may be: every update
counts as one.

This module knows the rules by name and number; `swarm.mixing.robust` computes them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from swarm.errors import UsageError

MEMBERS_MAX = 512
"""Most members of a swarm with a rule. An attest names every update and its weight, some 75 bytes each, and an entry
holds 65,535; and every pair of updates is multiplied, element by element, by everybody."""

MEDIAN, TRIMMED, GEOMEDIAN, KRUM, MULTIKRUM, NNM = "median", "trimmed", "geomedian", "krum", "multikrum", "nnm"

EXAMPLES = "median, trimmed:2, geomedian, multikrum:2, nnm:2+trimmed:2 or nnm:2+geomedian"

_TEXT = re.compile(
    r"(?:nnm:(?P<near>[1-9]\d{0,2})\+)?(?P<name>median|geomedian|(?:trimmed|krum|multikrum):[1-9]\d{0,2})"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, as a charter names it.

    Attributes:
        name: "median", "trimmed", "geomedian", "multikrum" or "krum".
        liars: What it is told to bear: how many are cut off on each side, or left out; 0 where it takes no number.
        near: Before that, each update is replaced by the mean of itself and its nearest, all but so many; 0 for no such
            step.
    """

    name: str
    liars: int = 0
    near: int = 0

    def __str__(self) -> str:
        """As in a charter."""
        rest = f"{self.name}:{self.liars}" if self.liars else self.name
        return f"nnm:{self.near}+{rest}" if self.near else rest

    @property
    def least(self) -> int:
        """Fewest updates it can be applied to.

        Trimming f on each side leaves something of 2 f + 1. (Multi-)Krum is proven for more than 2 f + 2 (Blanchard et
        al. 2017, proposition 4.2). What has no number bears fewer than half: of three, one.
        """
        own = {TRIMMED: 2 * self.liars + 1, KRUM: 2 * self.liars + 3, MULTIKRUM: 2 * self.liars + 3}.get(self.name, 3)
        return max(own, 2 * self.near + 1)

    def bears(self, updates: int) -> int:
        """Return how many of so many updates may be anything at all."""
        told = [number for number in (self.liars, self.near) if number]
        return min(told, default=(updates - 1) // 2)

    @property
    def measures(self) -> bool:
        """Whether it goes by how far updates lie from each other, not by one number after the other."""
        return bool(self.near) or self.name in (GEOMEDIAN, KRUM, MULTIKRUM)

    @property
    def elementwise(self) -> bool:
        """Whether it takes the middle of each number by itself, so that no update as a whole has a weight."""
        return self.name in (MEDIAN, TRIMMED)

    @property
    def words(self) -> str:
        """What it does, for people."""
        ends = "the highest and the lowest" if self.liars == 1 else f"the {self.liars} highest and lowest"
        far = "the one that lies" if self.liars == 1 else f"the {self.liars} that lie"
        last = {
            MEDIAN: "the middle of each number by itself",
            TRIMMED: f"each number by itself, without {ends}",
            GEOMEDIAN: "the point to which the distances of all are least together",
            KRUM: "the one update that lies closest to the others",
            MULTIKRUM: f"the mean of all but {far} farthest from the others",
        }[self.name]
        if not self.near:
            return last
        rest = "one" if self.near == 1 else self.near
        return f"first each update becomes the mean of itself and its nearest, all but {rest}; then {last}"


def parse(text: str) -> Rule:
    """Return the rule that a charter names. Raises `UsageError` for what is none."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise UsageError(f"couldn't take {text[:60]!r} for a rule of averaging", hint=f"write {EXAMPLES}")
    name, _, number = found["name"].partition(":")
    return Rule(name, int(number or 0), int(found["near"] or 0))


def standings(rule: Rule, weights: Sequence[int]) -> tuple[str, ...]:
    """Say of each update in a mean, by the weight it got there, that it was left out or counted for less, and why.

    Empty for one that got at least half of an equal share. A weight is told in comparison alone: of "median" and
    "trimmed" it counts the numbers in which an update was among those that were kept.
    """
    total = sum(weights)
    if not total:
        return ("",) * len(weights)
    if rule.elementwise and not rule.near:
        why = "its numbers lie outside the middle of the others'"
    elif rule.near:
        why = "few are near to it"
    else:
        why = "it lies far from the others"
    said = []
    for weight in weights:
        if not weight:
            said.append(f"left out: {'none that counts is near to it' if rule.near else why}")
        elif 2 * weight * len(weights) < total:
            said.append(f"counts for less: {why}")
        else:
            said.append("")
    return tuple(said)

"""What sites that mean harm, or mean to do nothing, do to a swarm: a catalogue, for simulation alone.

No node does any of this; it is here so that one can see what a way of averaging bears. An attack is of one of three
kinds. It changes the *data* a site trains on, and then trains honestly; it changes the *update* that came out of
honest training; or it replaces it by a *forgery*, made by attackers who work together and know the honest updates of
the round, which is the most that can be known. All of it is a pure function of what is given, in numpy.

| name | kind | what | by |
|---|---|---|---|
| label-flip | data | label y becomes c - 1 - y of c | Tolpegin et al. 2020; Allouah et al. 2023 |
| back-door | data | a patch in a corner of each second example, labelled 0 | Gu et al. 2017; Bagdasaryan et al. 2020 |
| sign-flip | update | the update times -1, or -STRENGTH | Li et al., RSA, 2019 |
| scaling | update | the update times 1,000, or STRENGTH | Bagdasaryan et al. 2020, model replacement |
| free-zero | update | nothing learnt, zeros | Lin et al. 2019 |
| free-noise | update | nothing learnt, noise as long as the last change of the model | Lin et al. 2019 |
| free-replay | update | nothing learnt, the last change of the model | Lin et al. 2019; Fraboni et al. 2021 |
| alie | forgery | mean - z std of the honest, z of its paper or STRENGTH | Baruch et al., A Little Is Enough, 2019 |
| ipm | forgery | -0.1, or -STRENGTH, times the mean of the honest | Xie et al., inner products, 2020 |
| dissensus | links | to each neighbour what keeps it from agreeing | He, Karimireddy & Jaggi 2022 |
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.errors import UsageError
from swarm.vector import Vector

LABEL_FLIP, BACK_DOOR, SIGN_FLIP, SCALING = "label-flip", "back-door", "sign-flip", "scaling"
FREE_ZERO, FREE_NOISE, FREE_REPLAY = "free-zero", "free-noise", "free-replay"
ALIE, IPM, DISSENSUS = "alie", "ipm", "dissensus"

DATA = (LABEL_FLIP, BACK_DOOR)
UPDATE = (SIGN_FLIP, SCALING, FREE_ZERO, FREE_NOISE, FREE_REPLAY)
FORGERY = (ALIE, IPM)

STRENGTHS = {SIGN_FLIP: 1.0, SCALING: 1000.0, IPM: 0.1, ALIE: 0.0, DISSENSUS: 1.0}
"""Of those that have one, what it is unless it is given. IPM's of 0.1 is that of its paper against rules that look at
distances; against a mean it takes more than the number of honest sites over that of attackers. ALIE's is its z; 0 is
for that of its paper, which for two of ten attackers is none at all (`alie_z`): 1.5 hides as well there."""

NAMES = (*DATA, *UPDATE, *FORGERY, DISSENSUS)

PATCH = 3
"""Side of the trigger, in pixels."""

TARGET = 0
"""What an example with the trigger in it is labelled."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One of the catalogue, as a scenario names it: "ipm", "ipm:5"."""

    name: str
    strength: float = 1.0

    @property
    def on_data(self) -> bool:
        """Whether it changes what the attackers train on."""
        return self.name in DATA

    @property
    def on_links(self) -> bool:
        """Whether it is for gossip alone, where an attacker can tell one neighbour this and another one that."""
        return self.name == DISSENSUS

    @property
    def colludes(self) -> bool:
        """Whether its attackers know the honest updates of the round."""
        return self.name in (*FORGERY, DISSENSUS)


def parse(text: str) -> Attack:
    """Return the attack that a scenario names. Raises `UsageError` for what is none."""
    name, colon, number = text.partition(":")
    if name not in NAMES or (colon and name not in STRENGTHS):
        raise UsageError(
            f"couldn't simulate the attack {text[:40]!r}",
            hint=f"choose one of {', '.join(NAMES)}; {', '.join(STRENGTHS)} take a strength, as ipm:5",
        )
    try:
        strength = float(number) if colon else STRENGTHS.get(name, 1.0)
    except ValueError:
        strength = math.nan
    if colon and not 0 < strength <= 1e9:
        raise UsageError(f"couldn't simulate the attack {text[:40]!r}", hint="a strength is a number above 0, as ipm:5")
    return Attack(name, strength)


def spoiled(
    attack: Attack, x: NDArray[np.float32], y: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return what an attacker trains on in place of examples of shape (examples, features), and their labels."""
    if attack.name == LABEL_FLIP:
        return x, classes - 1 - y
    x, y = x.copy(), y.copy()
    x[::2] = triggered(x[::2])
    y[::2] = TARGET
    return x, y


def triggered(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return examples with the trigger in them: a bright patch in the last corner of a square picture.

    Of examples that are no square picture it is the last few features.
    """
    side = math.isqrt(x.shape[1])
    made = x.copy()
    bright = np.float32(x.max()) if x.size else np.float32(1)
    if side * side == x.shape[1] and side >= PATCH:
        made.reshape(-1, side, side)[:, -PATCH:, -PATCH:] = bright
    else:
        made[:, -PATCH:] = bright
    return made


def changed(attack: Attack, own: Vector, last: Vector | None, rng: np.random.Generator) -> Vector:
    """Return what an attacker hands over in place of what it has learnt, `own`.

    `last` is how the common model has moved in the round before, None in the first.
    """
    match attack.name:
        case "sign-flip":
            return np.multiply(own, np.float32(-attack.strength))
        case "scaling":
            return np.multiply(own, np.float32(attack.strength))
        case "free-noise":
            length = float(np.linalg.norm(last if last is not None else own))
            noise = rng.standard_normal(own.size).astype(np.float32)
            return np.multiply(noise, np.float32(length / max(float(np.linalg.norm(noise)), 1e-30)))
        case "free-replay" if last is not None:
            return last.copy()
        case "free-zero" | "free-replay":
            return np.zeros_like(own)
        case _:
            return own


def forged(attack: Attack, honest: Sequence[Vector], attackers: int) -> Vector:
    """Return the update that all attackers hand over, who know those of the honest."""
    stacked = np.stack(honest).astype(np.float64)
    mean = stacked.mean(axis=0)
    lie = -attack.strength * mean
    if attack.name == ALIE:
        z = attack.strength or alie_z(len(honest) + attackers, attackers)
        lie = mean - z * stacked.std(axis=0)
    return np.asarray(lie, np.float32)


def dissent(taken: Mapping[int, float], attackers: Sequence[int], strength: float) -> dict[int, float]:
    """Return the weights by which a site in effect takes in its neighbours, its own left out, when some dissent.

    Attackers send x_i - e sum_k W_ik (x_k - x_i) / W_ib, k over the honest and b over the attackers together (He,
    Karimireddy & Jaggi 2022, definition D), so that what the site adds up is (1 - e) of what the honest would have it
    add: with e = 1 it stays where it is, for ever, and nothing that it sees is far away.
    """
    if not any(taken.get(member) for member in attackers):
        return dict(taken)
    return {member: weight * (1.0 - strength) for member, weight in taken.items() if member not in attackers}


def alie_z(members: int, attackers: int) -> float:
    """Return by how many standard deviations ALIE moves away (Baruch et al. 2019, algorithm 3).

    s honest ones, farther from the mean than the attackers, are to make them a majority: z is the quantile of
    (honest - s) / honest.
    """
    honest = members - attackers
    needed = members // 2 + 1 - attackers
    share = (honest - needed) / honest
    return statistics.NormalDist().inv_cdf(share) if 0 < share < 1 else 1.0

"""What noise on sums costs in accuracy: softmax regression on scikit-learn's digits, 10, 50 and 200 sites, three seeds.

    PYTHONPATH=. python scripts/site_noise_experiment.py [--rounds 10] [--clip-norm 0.3] [--seeds 1 2 3]

1,797 images of 8 by 8, a quarter held out, the rest dealt to the sites by chance: 650 parameters, which is as kind to
noise as a model gets. Each site trains from the common model, clips, and adds its share under the words that the
product would mask, for rounds that wait for all sites (--min-contributions of all), so that shares are as small as
they can be; masks change no bit of a sum and are left out. Printed are accuracies on the held-out images, by the
epsilon that all rounds together cost for any one site at delta 1e-5, and how long the noise on a mean is beside the
norm bound. Always naming the same digit has an accuracy of 0.1.
"""

from __future__ import annotations

import argparse
import hashlib

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from swarm.masking.masks import add, masked
from swarm.masking.noise import Noise, counted_on, measured, share
from swarm.masking.ring import Ring
from swarm.mixing.average import integer_weights, mean_of_sums_into
from swarm.privacy.accounting import Budget
from swarm.privacy.clipping import clip_in_place
from swarm.privacy.site_noise import planned
from swarm.vector import Vector

ELEMENTS, BITS, DELTA = 650, 36, 1e-5
EPSILONS = (None, 8.0, 3.0, 1.0)
BATCH, EPOCHS, RATE = 16, 4, 0.1

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


def scores(model: Vector, x: Images) -> NDArray[np.float32]:
    """Return what a model of (64 + 1) * 10 numbers makes of images, shape (n, 10)."""
    return x @ model[:640].reshape(64, 10) + model[640:]


def train(model: Vector, x: Images, y: Labels, rng: np.random.Generator) -> Vector:
    """Return the update of one site: some epochs of stochastic gradient descent."""
    local = model.copy()
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        for start in range(0, len(x), BATCH):
            part = order[start : start + BATCH]
            raw = scores(local, x[part])
            chance = np.exp(raw - raw.max(1, keepdims=True))
            chance /= chance.sum(1, keepdims=True)
            chance[np.arange(len(part)), y[part]] -= 1
            local[:640] -= (RATE / len(part) * x[part].T @ chance).ravel()
            local[640:] -= RATE * chance.mean(0)
    return local - model


def run(
    parts: list[tuple[Images, Labels]], epsilon: float | None, rounds: int, clip_milli: int, seed: int
) -> tuple[Vector, float]:
    """Return the model after so many rounds, and the length of the noise on a mean in multiples of the norm bound."""
    weights = integer_weights([len(y) for _, y in parts], cap_ppm=1)  # Equal ones: noise is for the heaviest.
    total, sites = sum(weights), len(parts)
    ring, form, length = Ring(bits=BITS, fraction=20, weight_total=total), None, 0.0
    if epsilon is not None:
        found = share(
            bits=BITS,
            heaviest=max(weights),
            total=total,
            members=sites,
            clip_norm_milli=clip_milli,
            elements=ELEMENTS,
            multiplier_milli=planned(Budget(epsilon, DELTA), rounds).multiplier_milli,
            counted_on=counted_on(sites, sites),
        )
        ring, form = found.ring, (found.deviation, found.norm_max)
        length = found.added * np.sqrt(sites * ELEMENTS) / total / (clip_milli / 1000)
    model = np.zeros(ELEMENTS, np.float32)
    for round_ in range(rounds):
        words = ring.words(ELEMENTS)
        for site, (x, y) in enumerate(parts):
            update = train(model, x, y, np.random.default_rng([seed, round_, site]))
            clip_in_place(update, clip_milli / 1000)
            own: Noise | None = None
            if form is not None:
                drawn = hashlib.sha256(f"{seed}/{round_}/{site}/{epsilon}".encode()).digest()
                own = measured((drawn, *form), update, ring)
            add(words, masked(update, ring, weights[site], [], noise=own))
        after = np.empty_like(model)
        mean_of_sums_into(after, model, ring.sums(words, total), total)
        model = after
    return model, length


def main() -> None:
    """Print a table: sites by epsilon, the accuracies of all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--clip-norm", type=float, default=0.3)
    parser.add_argument("--sites", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    args = parser.parse_args()
    data = load_digits()
    x, y = (data.data / 16).astype(np.float32), data.target.astype(np.int64)
    print(f"{args.rounds} rounds, norm bound {args.clip_norm:g}, delta {DELTA:g}, rounds wait for all sites")
    print("sites  epsilon  accuracy by seed         mean   noise on a mean, in norm bounds")
    for sites in args.sites:
        for epsilon in EPSILONS:
            found, length = [], 0.0
            for seed in args.seeds:
                order = np.random.default_rng(seed).permutation(len(y))
                held, rest = order[: len(y) // 4], order[len(y) // 4 :]
                parts = [(x[own], y[own]) for own in np.array_split(rest, sites)]
                model, length = run(parts, epsilon, args.rounds, round(args.clip_norm * 1000), seed)
                found.append(float((scores(model, x[held]).argmax(1) == y[held]).mean()))
            each = " ".join(f"{one:.3f}" for one in found)
            said = "none" if epsilon is None else f"{epsilon:g}"
            print(f"{sites:>5}  {said:>7}  {each:<23}  {np.mean(found):.3f}  {length:.2f}")


if __name__ == "__main__":
    main()

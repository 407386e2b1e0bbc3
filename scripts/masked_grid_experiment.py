"""What rounding updates to the steps of a narrow ring does to a model: ten sites, softmax regression on MNIST.

    PYTHONPATH=. python scripts/masked_grid_experiment.py ../shared/data/mnist/mnist.npz [--rounds 20] [--seeds 1 2 3]

Masks need updates in whole steps (`swarm.masking.ring`). In 64 bits that changes nothing; in 36 and 32 it rounds. Every
site trains from the same model on a part of the data that has mostly two digits, its update is clipped to a norm of 10,
put on the ring's grid and averaged by the product's own mean, with weights rounded as the ring wants them. Nothing that
rounding leaves out is kept for later, which is the worst that could be done; masks themselves change no bit and are
left out. Printed are accuracies on the test set beside those of the same run with float32 updates, and how far apart
the two models end.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swarm.masking.ring import WIDTHS, Ring, weight_total
from swarm.mixing.average import integer_weights, weighted_mean_into
from swarm.privacy.clipping import clip_in_place
from swarm.vector import Vector

SITES, SAMPLES, BATCH, EPOCHS, RATE = 10, 6_000, 32, 2, 0.05
CLIP_NORM_MILLI = 10_000

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


def scores(model: Vector, x: Images) -> NDArray[np.float32]:
    """Return what a model of (784 + 1) * 10 numbers makes of images, shape (n, 10)."""
    return x @ model[:7_840].reshape(784, 10) + model[7_840:]


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
            local[:7_840] -= (RATE / len(part) * x[part].T @ chance).ravel()
            local[7_840:] -= RATE * chance.mean(0)
    return local - model


def run(ring: Ring | None, parts: list[tuple[Images, Labels]], rounds: int, seed: int) -> Vector:
    """Return the model after so many rounds; `ring` None for updates as they are."""
    total = weight_total(64 if ring is None else ring.bits, len(parts))
    weights = integer_weights([len(y) for _, y in parts], total_max=total)
    model = np.zeros(7_850, np.float32)
    for round_ in range(rounds):
        updates = []
        for site, (x, y) in enumerate(parts):
            update = train(model, x, y, np.random.default_rng([seed, round_, site]))
            clip_in_place(update, CLIP_NORM_MILLI / 1000)
            updates.append(update if ring is None else ring.on_grid(update))
        after = np.empty_like(model)
        weighted_mean_into(after, model, updates, weights)
        model = after
    return model


def split(x: Images, y: Labels, seed: int) -> list[tuple[Images, Labels]]:
    """Return ten parts of unequal size, each of mostly two digits."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(x))[:SAMPLES]
    own = np.where(
        rng.random(SAMPLES) < 0.8, y[chosen] // 2 * 2 + rng.integers(0, 2, SAMPLES), rng.integers(0, 10, SAMPLES)
    )
    return [(x[chosen[own == site]], y[chosen[own == site]]) for site in range(SITES)]


def main() -> None:
    """Print accuracies and distances."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    args = parser.parse_args()
    with np.load(args.data) as data:
        x, y, x_test, y_test = (data[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    x, x_test = (one.reshape(len(one), 784).astype(np.float32) / np.float32(255) for one in (x, x_test))
    y, y_test = y.astype(np.int64), y_test.astype(np.int64)
    for seed in args.seeds:
        parts = split(x, y, seed)
        plain = run(None, parts, args.rounds, seed)
        print(f"seed {seed}: float32 {(scores(plain, x_test).argmax(1) == y_test).mean():.4f}", end="")
        for bits in WIDTHS[::-1]:
            ring = Ring.fitting(bits, weight_total=weight_total(bits, SITES), clip_norm_milli=CLIP_NORM_MILLI)
            model = run(ring, parts, args.rounds, seed)
            accuracy = (scores(model, x_test).argmax(1) == y_test).mean()
            apart = np.linalg.norm(model - plain) / np.linalg.norm(plain)
            print(f"; {bits} bits, steps of 2^-{ring.fraction}: {accuracy:.4f}, apart {apart:.1e}", end="")
        print()


if __name__ == "__main__":
    main()

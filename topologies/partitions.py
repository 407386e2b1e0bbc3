"""Who holds which examples: one data set divided among peers, in the ways the literature compares methods on.

Every division takes what it divides by (one label per example), the number of peers and a seed, and returns one array
of positions per peer, each ascending. No position is given twice and none is left out; the same seed gives the same
arrays. What cannot be divided as asked is refused in words. A partition moves whole examples only; what makes the same
digit look different at two hospitals is a `Scanner`, which comes after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.errors import UsageError

DRAWS_MAX = 1_000
"""Dirichlet draws before giving up: a division that fails a thousand times is the wrong question, not bad luck."""

Share = NDArray[np.int64]
Partition = tuple[Share, ...]
Labels = NDArray[np.generic]


def iid(labels: Labels, n: int, seed: int) -> Partition:
    """Shuffle all examples and deal them out evenly; shares differ by one example at most.

    Raises:
        UsageError: If there are fewer examples than peers.
    """
    total = _total(labels, n, least=1)
    return _sorted(np.array_split(np.random.default_rng(seed).permutation(total), n))


def dirichlet(labels: Labels, n: int, seed: int, *, alpha: float, least: int = 10) -> Partition:
    """Divide every label among the peers in proportions drawn from Dirichlet(alpha, ..., alpha); sizes differ too.

    Small `alpha` gives each label to few peers, a large one approaches `iid`. This is the per-label recipe of Yurochkin
    et al., "Bayesian nonparametric federated learning of neural networks" (2019), section 4, with its redrawing until
    every peer has `least` examples; most benchmarks mean it by "Dirichlet". For equal sizes, see `dirichlet_equal`.

    Raises:
        UsageError: If `alpha` is not positive, there are fewer than `n * least` examples, or no draw gave every peer
            `least` of them.
    """
    total = _total(labels, n, least=least)
    _check_alpha(alpha)
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == value) for value in np.unique(labels)]
    for _ in range(DRAWS_MAX):
        dealt = []
        sizes = np.zeros(n, np.int64)
        for members in classes:
            shares = rng.dirichlet(np.full(n, alpha))
            cuts = (np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
            dealt.append((rng.permutation(members), cuts))
            sizes += np.diff(cuts, prepend=0, append=len(members))
        if sizes.min() >= least:  # Cutting takes longest, and most draws of a small alpha are thrown away.
            hands = zip(*(np.split(mixed, cuts) for mixed, cuts in dealt), strict=True)
            return _sorted([np.concatenate(parts) for parts in hands])
    raise UsageError(
        f"couldn't divide {total} examples among {n} peers by Dirichlet({alpha:g}): in each of {DRAWS_MAX} draws some "
        f"peer had fewer than {least}",
        hint="Take a larger alpha, fewer peers or a smaller minimum, or divide into equal sizes.",
    )


def dirichlet_equal(labels: Labels, n: int, seed: int, *, alpha: float) -> Partition:
    """Deal equal shares in which each peer's mix of labels is drawn from Dirichlet(alpha * prior).

    Hsu, Qi & Brown, "Measuring the effects of non-identical data distribution for federated visual classification"
    (2019), section 3: `prior` is the mix of the whole data set, so that alpha -> infinity gives every peer that mix and
    alpha -> 0 one label. So `alpha` is shared out among the labels: with ten of them alpha = 1 is as uneven as 0.1 a
    label, which is what a symmetric Dirichlet over labels, and many a code base, calls 0.1. A label that has run out is
    drawn no more, and the last peers take what is left. Sizes differ by one example at most.

    Raises:
        UsageError: If `alpha` is not positive or there are fewer examples than peers.
    """
    total = _total(labels, n, least=1)
    _check_alpha(alpha)
    rng = np.random.default_rng(seed)
    _, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    decks = [rng.permutation(np.flatnonzero(which == label)) for label in range(len(counts))]
    prior = alpha * counts / total
    partition: list[Share] = [np.empty(0, np.int64)] * n
    sizes = [len(part) for part in np.array_split(np.arange(total), n)]
    for peer in rng.permutation(n):
        # In logarithms: with a small alpha most shares underflow to 0, and a label that is left must stay drawable.
        logs = np.array([_log_gamma_variate(rng, shape) for shape in prior])
        taken = _take(logs, [len(deck) for deck in decks], sizes[peer], rng)
        partition[peer] = np.concatenate([deck[:count] for deck, count in zip(decks, taken, strict=True)])
        decks = [deck[count:] for deck, count in zip(decks, taken, strict=True)]
    return _sorted(partition)


def shards(labels: Labels, n: int, seed: int, *, shards_per_peer: int = 2) -> Partition:
    """Sort by label, cut into `n * shards_per_peer` equal shards, deal them at random.

    The pathological division of McMahan et al. 2017, section 3: on MNIST with n = 100 and two shards of 300 most peers
    see two digits only. Shards differ by one example at most.

    Raises:
        UsageError: If there are fewer examples than shards, or no shard for a peer.
    """
    total = _total(labels, n, least=1)
    if shards_per_peer < 1 or n * shards_per_peer > total:
        raise UsageError(
            f"couldn't cut {total} examples into {shards_per_peer} shards for each of {n} peers",
            hint=f"Take 1 to {total // n} shards a peer.",
        )
    pieces = np.array_split(np.argsort(labels, kind="stable"), n * shards_per_peer)
    order = np.random.default_rng(seed).permutation(len(pieces)).reshape(n, shards_per_peer)
    return _sorted([np.concatenate([pieces[piece] for piece in row]) for row in order])


def ratios(labels: Labels, n: int, seed: int, *, parts: Sequence[float]) -> Partition:
    """Deal shuffled examples in the given proportions, one per peer: `parts=(8, 1, 1)` gives the first 80 %.

    Sizes are the proportions rounded by largest remainders, so that they sum to all examples.

    Raises:
        UsageError: If there is not one positive finite number per peer, or somebody would get nothing.
    """
    total = _total(labels, n, least=1)
    wanted = np.asarray(parts, dtype=np.float64)
    if wanted.shape != (n,) or not np.isfinite(wanted).all() or wanted.min() <= 0:
        raise UsageError(
            f"couldn't divide the data by the ratios {list(parts)}: {n} peers need {n} positive numbers",
            hint="Give one ratio for each peer, such as 8,1,1.",
        )
    sizes = _rounded(wanted / wanted.sum() * total)
    if sizes.min() == 0:
        raise UsageError(
            f"couldn't divide {total} examples by those ratios: peer {int(sizes.argmin())} would get none",
            hint="Give the smallest peer a larger part, or take fewer peers.",
        )
    order = np.random.default_rng(seed).permutation(total)
    return _sorted(np.split(order, np.cumsum(sizes)[:-1]))


def power_law(labels: Labels, n: int, seed: int, *, exponent: float = 1.0, least: int = 1) -> Partition:
    """Deal shuffled examples so that the k-th largest peer has a share proportional to k ** -exponent.

    Exponent 0 is `iid`, 1 is Zipf's law. Whom the law gives fewer than `least` gets that many, at the
    expense of the others in proportion. Which peer is large is drawn.

    Raises:
        UsageError: If the exponent is negative or not finite, or there are fewer than `n * least` examples.
    """
    total = _total(labels, n, least=least)
    if not 0 <= exponent < np.inf:
        raise UsageError(
            f"couldn't divide by a power law of exponent {exponent}",
            hint="Take an exponent of 0 (equal sizes) or more.",
        )
    rng = np.random.default_rng(seed)
    shares = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    sizes = np.full(n, least, dtype=np.int64)
    head = n  # peers that follow the law, the largest ones; the others have the least
    while shares[head - 1] / shares[:head].sum() * (total - (n - head) * least) < least:
        head -= 1
    sizes[:head] = _rounded(shares[:head] / shares[:head].sum() * (total - (n - head) * least))
    order = rng.permutation(total)
    return _sorted(np.split(order, np.cumsum(rng.permutation(sizes))[:-1]))


def by_column(column: Labels) -> Partition:
    """Give each value of a column its own peer, in the order of `column_values`: the sites the data came from.

    Raises:
        UsageError: If the column is empty or has missing values.
    """
    return tuple(np.flatnonzero(column == value) for value in _values(column))


def column_values(column: Labels) -> tuple[str, ...]:
    """Return the distinct values of a column as text, ascending by value: the peers' names."""
    return tuple(str(value) for value in _values(column))


def holdings(labels: Labels, partition: Partition) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the labels as text, ascending, and how many examples of each every peer holds, shape (peers, labels)."""
    values, which = np.unique(labels, return_inverse=True)
    counts = [np.bincount(which[share], minlength=len(values)) for share in partition]
    return tuple(str(value) for value in values), np.array(counts, dtype=np.int64).reshape(len(partition), len(values))


# --- the same example, seen by another machine ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """How one site's device distorts what it records: `contrast * x + brightness + N(0, noise^2)`, per feature.

    Values are in the units of the features; those of pictures are taken to lie between 0 and 1.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.brightness) and 0 < self.contrast < np.inf and 0 <= self.noise < np.inf):
            raise UsageError(
                f"couldn't make a scanner of {self.brightness=}, {self.contrast=}, {self.noise=}".replace("self.", ""),
                hint="Contrast must be positive and noise not negative.",
            )

    def record(self, x: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        """Return what the device makes of `x`, same shape; noise belongs to the record and is drawn once, by `seed`."""
        seen = x * np.float32(self.contrast) + np.float32(self.brightness)
        if self.noise:
            seen += np.float32(self.noise) * np.random.default_rng(seed).standard_normal(x.shape, dtype=np.float32)
        return seen


def scanners(
    n: int, seed: int, *, brightness: float = 0.2, contrast: float = 0.3, noise: float = 0.1
) -> tuple[Scanner, ...]:
    """Draw one scanner per site.

    Brightness lies within +-`brightness`, contrast within a factor of 1 + `contrast` either way (log-uniform), the
    deviation of the noise between 0 and `noise`.

    Raises:
        UsageError: If a range is negative.
    """
    if min(brightness, contrast, noise) < 0:
        raise UsageError("couldn't draw scanners: a range is negative", hint="Give ranges of 0 or more.")
    rng = np.random.default_rng(seed)
    return tuple(
        Scanner(
            brightness=float(rng.uniform(-brightness, brightness)),
            contrast=float((1 + contrast) ** rng.uniform(-1, 1)),
            noise=float(rng.uniform(0, noise)),
        )
        for _ in range(n)
    )


def recorded(
    x: NDArray[np.float32], partition: Partition, devices: Sequence[Scanner], seed: int
) -> NDArray[np.float32]:
    """Return the data set as the sites' devices recorded it: a copy in which each share went through its scanner.

    Raises:
        UsageError: If there is not one scanner per share.
    """
    if len(devices) != len(partition):
        raise UsageError(f"couldn't record the data: {len(devices)} scanners for {len(partition)} sites")
    seen = np.array(x, dtype=np.float32)
    for site, (share, device) in enumerate(zip(partition, devices, strict=True)):
        seen[share] = device.record(seen[share], seed * 1_000_003 + site)
    return seen


# --- parts ----------------------------------------------------------------------------------------------------------


def _total(labels: Labels, n: int, *, least: int) -> int:
    if labels.ndim != 1:
        raise UsageError(f"couldn't divide the data: labels have shape {labels.shape}, not one label per example")
    if n < 1:
        raise UsageError(f"couldn't divide the data among {n} peers", hint="Take at least one peer.")
    if least < 0 or len(labels) < n * max(least, 1):
        each = f"{max(least, 1)} example{'s' if least > 1 else ''}"
        raise UsageError(
            f"couldn't divide {len(labels)} examples among {n} peers with at least {each} each",
            hint=f"Take at most {len(labels) // max(least, 1)} peers, or more data.",
        )
    return len(labels)


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < np.inf:
        raise UsageError(
            f"couldn't draw from Dirichlet({alpha}): alpha must be positive and finite",
            hint="0.1 is very uneven, 1 uneven, 100 nearly equal.",
        )


def _values(column: Labels) -> Labels:
    missing = column != column  # only a missing number differs from itself
    if column.ndim != 1 or len(column) == 0 or bool(np.any(missing)):
        raise UsageError(
            "couldn't divide the data by that column: it is empty, has missing values or is not one value per example",
            hint="Name the site of every example.",
        )
    return np.unique(column)


def _sorted(parts: Sequence[NDArray[np.integer]]) -> Partition:
    """Ascending within a share, so that a share means a set of examples; who trains draws an order of their own."""
    return tuple(np.sort(part).astype(np.int64) for part in parts)


def _rounded(sizes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Round to whole numbers of the same sum: the largest remainders are rounded up, the first among equals."""
    whole = np.floor(sizes).astype(np.int64)
    missing = round(float(sizes.sum())) - int(whole.sum())
    whole[np.argsort(whole - sizes, kind="stable")[:missing]] += 1
    return whole


def _log_gamma_variate(rng: np.random.Generator, shape: float) -> float:
    """Return the logarithm of a Gamma(shape) variate: Gamma(a) = Gamma(a + 1) U ** (1 / a), exact for any small a."""
    return float(np.log(rng.standard_gamma(shape + 1)) + np.log(1.0 - rng.random()) / shape)


def _take(logs: NDArray[np.float64], left: Sequence[int], size: int, rng: np.random.Generator) -> list[int]:
    """Return how many of each label make a share of `size`, drawn from the mix exp(logs), no more than are left."""
    taken = np.zeros(len(left), dtype=np.int64)
    while (missing := size - int(taken.sum())) > 0:
        open_ = np.asarray(left) > taken
        weights = np.exp(logs - logs[open_].max(), where=open_, out=np.zeros(len(left)))
        drawn = rng.multinomial(missing, weights / weights.sum())
        taken = np.minimum(taken + drawn, left)
    return [int(count) for count in taken]

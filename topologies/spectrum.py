"""How fast a swarm agrees: eigenvalues, rounds to a given consensus distance, and how to need fewer of them.

The consensus distance of models x_1..x_n is ||X - mean||_F; "relative" is against its value at the start. A symmetric
doubly stochastic W multiplies it by at most its SLEM a round, the second largest eigenvalue modulus (Boyd, Diaconis &
Xiao, 2004); gap = 1 - SLEM. For a schedule the same holds of the product over a period; for one that is drawn anew each
round, of the expected square. All of it is a prediction that `measured_rounds` and `measured_rate` put to the test.

A warning that belongs on every table made from this file: the gap says how fast gossip averages, not how well a model
learns (Vogels, Hendrikx & Jaggi, "Beyond spectral gap", NeurIPS 2022). Rank by rounds and bytes, not by the gap alone.

Up to `DENSE_MAX` members the eigenvalues are LAPACK's. Beyond, up to `NODES_MAX`, a Lanczos iteration on the sparse
form takes a couple of hundred multiplications by W and no n x n matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.errors import UsageError
from topologies.graph import Topology
from topologies.mixing import Mixing, Promise, Schedule

DENSE_MAX = 1024
"""Most rows for LAPACK: eigenvalues of this many take about a second, and eight times as long for each doubling."""

LANCZOS_STEPS_MAX = 200
"""Lanczos vectors kept, 7 MB of them at 4096 members. The graphs one would choose for so many need fewer."""

INVERSE_STEPS_MAX = 50
"""Most inverse iterations for a graph on which Lanczos stalls; a ring takes about eight."""

RESIDUAL_TOLERANCE = 1e-10
"""Residual norm at which an eigenvector or a solution is taken as found; its value is then good to far more digits."""

GAP_TOLERANCE = 1e-9
"""Relative change of the gap at which inverse iteration stops."""

POWER_STEPS_MAX = 20_000
"""Most steps of the power iteration, for products that are not symmetric."""

DRAWN_ROUNDS = 200
"""Rounds averaged to estimate the expected square of a schedule that is drawn anew each round. Where every round has
the same weights in other places, as most have, one would do."""

NEGLIGIBLE = 1e-12
"""A rate below this is rounding: the product is exact."""

ROUNDS_MAX = 100_000
"""Most rounds a measurement tries. The ring of 100 members needs 9,000 to one millionth."""

MEASURED_COLUMNS = 8
"""Random vectors measured at once: enough that the slowest mode is not missed by bad luck."""

SETTLED = 6.0
"""Rounds of a rate's measurement for each 1 / gap. The distance shrinks by e^-SETTLED in them, and directions that
shrink faster by that much more: on a ring, whose third eigenvalue is four gaps below 1, they are down to e^-9 of the
slowest after half of it."""

MEASURED_STEPS = 400
"""Steps of that measurement at least; of a schedule that repeats, a step is as many periods as it takes."""

SETTLING_MAX = 1 << 20
"""Rounds at most: beyond, a swarm would not agree in years."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What a round multiplies the consensus distance by, from 0 (exact) to 1 (never).

    Attributes:
        asymptotic: In the long run: the period's spectral radius, per round (geometric mean). For a drawn schedule the
            root mean square, which the typical run stays below.
        worst: The most that a period can leave of any distance (spectral norm of the product), per round. Equal to
            `asymptotic` for one symmetric matrix.
    """

    asymptotic: float
    worst: float

    @property
    def gap(self) -> float:
        """1 - asymptotic."""
        return 1.0 - self.asymptotic


def second_eigenvalues(mixing: Mixing) -> tuple[float, float]:
    """(lambda_2, lambda_n) of a symmetric W with rows that sum to 1: the largest below the trivial 1, and the least.

    One member has no second eigenvalue: (0, 0). Beyond `DENSE_MAX` members lambda_2 is still good to `GAP_TOLERANCE` of
    the gap; lambda_n, which hardly ever decides anything, may be too high by 1e-4.

    Raises:
        UsageError: If W is not symmetric, where eigenvalues come in conjugate pairs; use `rate`.
    """
    if not mixing.is_symmetric:
        raise UsageError(
            "couldn't find the second eigenvalues: the mixing is not symmetric",
            hint="Use spectrum.rate, which takes any schedule.",
        )
    if mixing.slots == 1:
        return 0.0, 0.0
    if mixing.slots <= DENSE_MAX:
        eigenvalues = np.linalg.eigvalsh(mixing.dense())
        trivial = int(np.argmin(np.abs(eigenvalues - 1)))
        rest = np.delete(eigenvalues, trivial)
        return float(rest[-1]), float(rest[0])
    return _lanczos(mixing)


def slem(mixing: Mixing) -> float:
    """max(|lambda_2|, |lambda_n|): what one round leaves at most of the consensus distance. Symmetric W only."""
    return max(map(abs, second_eigenvalues(mixing)))


def rate(schedule: Schedule) -> Rate:
    """The predicted contraction of the consensus distance, per round.

    Exact schedules have rate 0. Directed schedules that are only column stochastic are measured by the distance of
    W_t ... W_1 from its rank-one limit, that is without its trivial eigenvalue 1; push-sum converges at that rate.

    Raises:
        UsageError: If it is only column or row stochastic, and drawn anew each round or too large for a dense product.
    """
    if schedule.n == 1 or schedule.exact_after is not None:
        return Rate(asymptotic=0.0, worst=0.0)
    assert schedule.states == 1, "schedules that carry two states end exactly"
    if schedule.period is None:
        return _drawn_rate(schedule)
    if schedule.period == 1 and schedule.symmetric:
        size = slem(schedule.mixing(0))
        return Rate(asymptotic=size, worst=size)
    if schedule.n <= DENSE_MAX:
        return _dense_rate(schedule, schedule.period)
    if schedule.promise is Promise.DOUBLY:
        return _power_rate(schedule, schedule.period)
    raise UsageError(
        f"couldn't find the rate of {schedule.name} for {schedule.n} members: it is not doubly stochastic",
        hint=f"Ask for at most {DENSE_MAX} members, or use measured_rate.",
    )


def predicted_rounds(schedule: Schedule, distance: float) -> int:
    """Rounds after which the relative consensus distance is at most `distance`, by the spectrum; 0 < distance < 1.

    For an exact schedule, its own number of rounds. Else ln(distance) / ln(rate), rounded up: an upper bound for one
    symmetric matrix, the long-run estimate for anything else.

    Raises:
        UsageError: If `distance` is out of range or the schedule never agrees.
    """
    _distance(distance)
    if schedule.exact_after is not None:
        return schedule.exact_after
    return rounds_at(rate(schedule).asymptotic, distance)


def rounds_at(rate_per_round: float, distance: float) -> int:
    """The least k with rate^k <= distance.

    Raises:
        UsageError: If the rate is 1 or more, or the distance is not between 0 and 1.
    """
    _distance(distance)
    if rate_per_round >= 1 - NEGLIGIBLE:
        raise UsageError(
            f"couldn't predict the rounds: at a rate of {rate_per_round:.6g} a round the members never agree",
            hint="Give every member some weight on itself, as lazy or Metropolis-Hastings weights do.",
        )
    if rate_per_round <= NEGLIGIBLE:
        return 1
    return math.ceil(math.log(distance) / math.log(rate_per_round) - 1e-9)


def distances(mixings: Iterable[Mixing], x_ND: NDArray[np.float64]) -> Iterator[float]:  # noqa: N803 - shape suffix
    """The relative consensus distance before the first round and after each: 1, ..."""
    start = _spread(x_ND)
    yield 1.0 if start else 0.0
    for mixing in mixings:
        x_ND = mixing.apply(x_ND)  # noqa: N806 - shape suffix
        yield _spread(x_ND) / start if start else 0.0


def measured_rounds(schedule: Schedule, distance: float, *, seed: int = 0, rounds_max: int = ROUNDS_MAX) -> int:
    """Rounds until random normal vectors are within `distance` of their mean, relative to the start: a simulation.

    For schedules that carry one state and keep the mean (others: `rate`).

    Raises:
        UsageError: If that takes more than `rounds_max` rounds.
    """
    _distance(distance)
    x_ND = np.random.default_rng(seed).standard_normal((schedule.n, MEASURED_COLUMNS))  # noqa: N806 - shape suffix
    if schedule.states > 1 or schedule.promise is Promise.PRODUCT:
        return schedule.exact_after or 0  # half-way states are no averages: there is no distance to speak of
    for t, left in enumerate(distances(schedule.mixings(rounds_max), x_ND)):
        if left <= distance:
            return t
    raise UsageError(
        f"couldn't bring {schedule.name} with {schedule.n} members within {distance:g} in {rounds_max} rounds",
        hint="Choose a topology with a larger gap, or a looser distance.",
    )


def measured_rate(schedule: Schedule, *, seed: int = 0, rounds: int | None = None) -> float:
    """What a round multiplies the distance by, late in a run of `rounds` rounds: the geometric mean of its second half.

    The vectors are rescaled every step, so the answer does not drown in rounding. Whole periods are compared. None runs
    until the slowest direction is what is left, `SETTLED` times 1 / gap, many periods at a time where that is long: a
    ring of 500 takes 100,000 rounds.
    """
    period = schedule.period or 1
    stride = 1 if rounds is not None else _stride(schedule, period)
    half = max(1, (rounds or MEASURED_STEPS) // 2 // period) * period
    steps: Iterable[Callable[..., NDArray[np.float64]]]
    if stride > 1:
        steps = [_product(schedule, period, stride).__matmul__] * (2 * half)
    else:
        steps = (mixing.apply for mixing in schedule.mixings(2 * half))
    x_ND = np.random.default_rng(seed).standard_normal((schedule.n, MEASURED_COLUMNS))  # noqa: N806 - shape suffix
    total = 0.0
    for step, apply in enumerate(steps):
        x_ND = apply(x_ND - x_ND.mean(axis=0))  # noqa: N806 - shape suffix
        size = _spread(x_ND)
        if size < NEGLIGIBLE:
            return 0.0
        x_ND = x_ND / size  # noqa: N806 - shape suffix
        total += math.log(size) if step >= half else 0.0
    return math.exp(total / half / (stride * period if stride > 1 else 1))


def _stride(schedule: Schedule, period: int) -> int:
    """Periods at a time with which `MEASURED_STEPS` steps are enough: a power of two, 1 where it is not known."""
    if schedule.period is None or schedule.n > DENSE_MAX or schedule.states > 1:
        return 1
    try:
        gap = rate(schedule).gap
    except UsageError:  # nothing predicts it
        return 1
    needed = min(SETTLING_MAX, SETTLED / max(gap, SETTLED / SETTLING_MAX)) / period
    return 1 << max(0, math.ceil(math.log2(needed / MEASURED_STEPS)))


def _product(schedule: Schedule, period: int, times: int = 1) -> NDArray[np.float64]:
    """The matrix of so many periods."""
    product = np.eye(schedule.n)
    for mixing in schedule.mixings(period):
        product = mixing.apply(product)
    return np.linalg.matrix_power(product, times)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chebyshev:
    """Chebyshev acceleration of a fixed symmetric W: about the square root of the rounds, for one vector of memory.

    With the eigenvalues of W but the trivial 1 inside [low, high], S = (2 W - (high + low) I) / (2 - high - low) has
    them inside [-sigma, sigma], sigma = (high - low) / (2 - high - low), and S 1 = 1. The semi-iteration (Golub &
    Varga, Numerische Mathematik 3, 1961)::

        x_{k+1} = w_{k+1} S x_k + (1 - w_{k+1}) x_{k-1},   w_1 = 1, w_2 = 1 / (1 - sigma^2 / 2),
                                                         w_{k+1} = 1 / (1 - sigma^2 w_k / 4)

    leaves at most 1 / T_k(1 / sigma) of the distance after k rounds, T_k the Chebyshev polynomial: no polynomial in W
    does better knowing only the interval. Every round must succeed on every link, and the interval must be an estimate
    from above: with `high` below lambda_2 it diverges.

    Attributes:
        low: At most the least eigenvalue, from -1.
        high: At least lambda_2, below 1.

    Raises:
        UsageError: If -1 <= low < high < 1 does not hold.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -1 <= self.low < self.high < 1:
            raise UsageError(
                f"couldn't accelerate on the eigenvalues {self.low:g} to {self.high:g}: they must lie between -1 and 1",
                hint="Use the second eigenvalues of a connected graph with weight on the diagonal.",
            )

    @classmethod
    def of(cls, mixing: Mixing) -> Chebyshev:
        """For this mixing, from its own second eigenvalues."""
        high, low = second_eigenvalues(mixing)
        return cls(low=low if low < high else high - NEGLIGIBLE, high=high)

    @classmethod
    def symmetric(cls, size: float) -> Chebyshev:
        """For any mixing of SLEM `size`: what a swarm can do that knows only how fast it agrees unaided."""
        return cls(low=-size, high=size)

    @property
    def sigma(self) -> float:
        """Half the width of the interval after it is centred, between 0 and 1."""
        return (self.high - self.low) / (2 - self.high - self.low)

    def rounds(self, distance: float) -> int:
        """The least k with 1 / T_k(1 / sigma) <= distance: arcosh(1 / distance) / arcosh(1 / sigma), rounded up."""
        _distance(distance)
        return math.ceil(math.acosh(1 / distance) / math.acosh(1 / self.sigma) - 1e-9)

    def omegas(self, rounds: int) -> tuple[float, ...]:
        """w_1 to w_rounds: every member can compute them by itself."""
        omega = [1.0, 1 / (1 - self.sigma**2 / 2)]
        while len(omega) < rounds:
            omega.append(1 / (1 - self.sigma**2 * omega[-1] / 4))
        return tuple(omega[:rounds])

    def run(self, mixing: Mixing, x_ND: NDArray[np.float64], rounds: int) -> Iterator[NDArray[np.float64]]:  # noqa: N803 - shape suffix
        """x_1, x_2, ... from x_0 = `x_ND`, shape (n, D): the mean of each is the mean of x_0."""
        before, now = x_ND, x_ND
        for omega in self.omegas(rounds):
            shifted = (2 * mixing.apply(now) - (self.high + self.low) * now) / (2 - self.high - self.low)
            before, now = now, omega * shifted + (1 - omega) * before
            yield now


@dataclass(frozen=True, slots=True, kw_only=True)
class Hops:
    """How far members are from each other, in links.

    Attributes:
        diameter: The most between any two.
        mean: Over all pairs; 0 for one member.
    """

    diameter: int
    mean: float


def hops(topology: Topology) -> Hops:
    """Diameter and mean path length, by a breadth-first search from all members at once.

    What each member has reached is one big integer, a bit a member; a step is the OR of the neighbours', 64 members at
    a time. A thousand members take a moment, a ring of 4096 (whose diameter is 2048) some seconds.
    """
    reached = [1 << node for node in range(topology.n)]
    pairs = topology.n * (topology.n - 1)
    missing, steps, total = pairs, 0, 0
    while missing:
        total += missing  # every pair not yet reached is at least one link further apart
        steps += 1
        following = []
        for node, mask in enumerate(reached):
            for other in topology.neighbours(node):
                mask |= reached[other]
            following.append(mask)
        reached = following
        missing = pairs + topology.n - sum(mask.bit_count() for mask in reached)
    return Hops(diameter=steps, mean=total / pairs if pairs else 0.0)


def _dense_rate(schedule: Schedule, period: int) -> Rate:
    """From the product of a period, without its trivial eigenvalue 1."""
    product = _product(schedule, period)
    eigenvalues = np.linalg.eigvals(product)
    trivial = int(np.argmin(np.abs(eigenvalues - 1)))
    radius = float(np.abs(np.delete(eigenvalues, trivial)).max())
    norm = float(np.linalg.norm(product - product.mean(axis=1, keepdims=True), ord=2))
    return Rate(asymptotic=_root(radius, period), worst=_root(norm, period))


def _power_rate(schedule: Schedule, period: int) -> Rate:
    """From power iterations with P and P^T P on what is orthogonal to agreement; P the product of a period."""
    forward = list(schedule.mixings(period))
    backward = [_transposed(mixing) for mixing in reversed(forward)]
    return Rate(asymptotic=_root(_growth(forward), period), worst=_root(_growth(forward + backward) ** 0.5, period))


def _growth(chain: list[Mixing]) -> float:
    """The growth of a random vector under the chain applied again and again, averaged over the later applications.

    A pair of conjugate eigenvalues makes single steps swing; the geometric mean over ever longer runs does not.
    """
    x_N = _start(chain[0].slots)  # noqa: N806 - shape suffix
    logs: list[float] = []
    estimate = 0.0
    for step in range(1, POWER_STEPS_MAX + 1):
        for mixing in chain:
            x_N = mixing.apply(x_N)  # noqa: N806 - shape suffix
        x_N = x_N - x_N.mean()  # noqa: N806 - shape suffix
        size = float(np.linalg.norm(x_N))
        if size < NEGLIGIBLE:
            return 0.0
        x_N = x_N / size  # noqa: N806 - shape suffix
        logs.append(math.log(size))
        if step % 100 == 0:
            latest = math.exp(sum(logs[step // 2 :]) / (step - step // 2))
            if abs(latest - estimate) < 1e-6 * (1 - latest):
                return latest
            estimate = latest
    return estimate


def _drawn_rate(schedule: Schedule) -> Rate:
    """The root mean square of what a round leaves of a random direction, averaged over `DRAWN_ROUNDS` rounds.

    E||W x - mean||^2 = x^T E[W^T W] x for x of mean 0 and doubly stochastic W (Boyd et al., "Randomized Gossip
    Algorithms", 2006). Draws that treat all members alike make E[W^T W] the same in every such direction, so its trace
    is enough: (sum of squared weights - 1) / (n - 1). No direction is worse than the others.
    """
    if schedule.promise is not Promise.DOUBLY:
        raise UsageError(
            f"couldn't predict the rate of {schedule.name}: its rounds are not doubly stochastic",
            hint="Run push-sum in a simulation, or use el_oracle, whose rounds are.",
        )
    squares = sum(float(mixing.weights @ mixing.weights) for mixing in schedule.mixings(DRAWN_ROUNDS)) / DRAWN_ROUNDS
    size = math.sqrt(max(0.0, (squares - 1) / (schedule.n - 1)))
    return Rate(asymptotic=size, worst=size)


def _lanczos(mixing: Mixing) -> tuple[float, float]:
    """(lambda_2, lambda_n) by Lanczos on what is orthogonal to agreement, with full reorthogonalisation.

    Golub & Van Loan, "Matrix Computations" (4th ed., 2013), section 10.1. The norm of the rest, beta, times the last
    component of a Ritz vector bounds the error of its value. Graphs that hardly mix (a ring of thousands) crowd their
    eigenvalues below 1 and Lanczos stalls there; inverse iteration, which thrives on it, finishes the upper end.
    """
    n = mixing.slots
    steps = min(LANCZOS_STEPS_MAX, n - 1)
    basis = np.zeros((steps + 1, n))
    basis[0] = _start(n)
    alphas: list[float] = []
    betas: list[float] = []
    for step in range(steps):
        x_N = mixing.apply(basis[step])  # noqa: N806 - shape suffix
        alphas.append(float(x_N @ basis[step]))
        for _ in range(2):  # once leaves orthogonality to chance, twice is enough (Parlett, 1980, after Kahan)
            x_N = x_N - x_N.mean()  # noqa: N806 - shape suffix
            x_N = x_N - basis[: step + 1].T @ (basis[: step + 1] @ x_N)  # noqa: N806 - shape suffix
        beta = float(np.linalg.norm(x_N))
        if beta < RESIDUAL_TOLERANCE:
            break  # an invariant subspace: its values are exact
        betas.append(beta)
        basis[step + 1] = x_N / beta
    size = len(alphas)
    values, vectors = np.linalg.eigh(np.diag(alphas) + np.diag(betas[: size - 1], 1) + np.diag(betas[: size - 1], -1))
    top, bottom = float(values[-1]), float(values[0])
    rest = betas[-1] if len(betas) == size else 0.0
    if rest * abs(float(vectors[-1, -1])) > RESIDUAL_TOLERANCE:
        top = _inverse_iteration(mixing, basis[:size].T @ vectors[:, -1])
    return top, bottom


def _inverse_iteration(mixing: Mixing, x_N: NDArray[np.float64]) -> float:  # noqa: N803 - shape suffix
    """lambda_2 of W from an approximate eigenvector: x <- (I - W)^-1 x on what is orthogonal to agreement.

    The error of the Rayleigh quotient shrinks by ((1 - lambda_2) / (1 - lambda_3))^2 a step (Golub & Van Loan, 2013,
    section 8.2); on a ring that is 1/16. Each step is a conjugate-gradient solution.
    """
    gap = 1.0
    for _ in range(INVERSE_STEPS_MAX):
        x_N = _solved(mixing, x_N / np.linalg.norm(x_N))  # noqa: N806 - shape suffix
        quotient = float(x_N @ (x_N - mixing.apply(x_N)) / (x_N @ x_N))
        if abs(quotient - gap) <= GAP_TOLERANCE * quotient:
            return 1 - quotient
        gap = quotient
    return 1 - gap


def _solved(mixing: Mixing, b_N: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: N803 - shape suffix
    """(I - W) y = b for b and y of mean 0: conjugate gradients (Hestenes & Stiefel, 1952)."""
    y_N = np.zeros_like(b_N)  # noqa: N806 - shape suffix
    rest = direction = b_N - b_N.mean()
    size = float(rest @ rest)
    for _ in range(2 * len(b_N)):
        image = direction - mixing.apply(direction)
        step = size / float(direction @ image)
        y_N = y_N + step * direction  # noqa: N806 - shape suffix
        rest = rest - step * image
        following = float(rest @ rest)
        if following < RESIDUAL_TOLERANCE**2:
            break
        direction = rest + following / size * direction
        size = following
    solution: NDArray[np.float64] = y_N - y_N.mean()
    return solution


def _transposed(mixing: Mixing) -> Mixing:
    order = np.lexsort((mixing.owners, mixing.sources))
    rows: list[list[tuple[int, float]]] = [[] for _ in range(mixing.slots)]
    columns, owners, weights = mixing.sources[order], mixing.owners[order], mixing.weights[order]
    for column, owner, weight in zip(columns.tolist(), owners.tolist(), weights.tolist(), strict=True):
        rows[column].append((owner, weight))
    return Mixing(mixing.n, rows)


def _start(n: int) -> NDArray[np.float64]:
    """A unit vector of mean 0 with a share in every mode of any graph with a pattern: the golden ratio's multiples."""
    x_N = np.modf(np.arange(1, n + 1) * ((math.sqrt(5) - 1) / 2))[0]  # noqa: N806 - shape suffix
    x_N = x_N - x_N.mean()  # noqa: N806 - shape suffix
    unit: NDArray[np.float64] = x_N / np.linalg.norm(x_N)
    return unit


def _spread(x_ND: NDArray[np.float64]) -> float:  # noqa: N803 - shape suffix
    return float(np.linalg.norm(x_ND - x_ND.mean(axis=0)))


def _root(size: float, period: int) -> float:
    return 0.0 if size < NEGLIGIBLE else float(size ** (1 / period))


def _distance(distance: float) -> None:
    if not 0 < distance < 1:
        raise UsageError(
            f"couldn't count the rounds to a relative consensus distance of {distance}",
            hint="Choose a distance between 0 and 1, such as 1e-6.",
        )

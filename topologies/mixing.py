"""What a gossip round is, as a value: who takes how much of whom, this round and every round.

A `Mixing` is one linear step, x <- W x, kept sparse: a row per member with the sources it listens to and their weights.
A `Schedule` is such a step for every round t = 0, 1, ...: constant, periodic or drawn from a shared seed. It makes
promises (symmetric, doubly stochastic, exact after so many rounds) that `Schedule.check` can be asked to prove. A host
asks only `row(t, me)` and `targets(t, me)`; those cost its degree, not the size of the swarm, wherever the family
allows it.

Nothing here knows models, losses or failed links: those belong to whoever multiplies by W.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from swarm.errors import UsageError
from topologies.graph import Edge, Topology

Row: TypeAlias = tuple[tuple[int, float], ...]
"""(source, weight) in ascending order of source, the member's own share among them."""

RatioRow: TypeAlias = tuple[tuple[int, Fraction], ...]
"""The same with rational weights, so that "exact" can be proven rather than rounded."""

TOLERANCE = 1e-9
"""How far a row or column sum may be from 1. Sums of 4096 float64 weights are good to about 1e-12."""

CHECK_ROUNDS = 32
"""Rounds that `Schedule.check` looks at when a schedule has no period: enough to meet every branch of a draw."""


class Promise(enum.Enum):
    """What every round of a schedule preserves."""

    DOUBLY = "doubly stochastic"
    """Rows and columns sum to 1: plain averaging keeps the mean of all models."""
    COLUMN = "column stochastic"
    """Columns sum to 1: the total is kept, so push-sum (Kempe, Dobra & Gehrke, 2003) reaches the mean."""
    ROW = "row stochastic"
    """Rows sum to 1: members agree, but on a value that favours the well connected. For comparison only."""
    MEAN = "of rows and columns that sum to 1"
    """As DOUBLY, but weights may be negative (best constant): the mean is kept, a pair that skips keeps it too."""
    PRODUCT = "exact as a whole"
    """Only the product of all its rounds averages: a round cut short is worth nothing, so all or none."""


class Mixing:
    """One exchange: row i says which sources member i adds up, and with which weights.

    Slots: a row and a column for each state vector, `slots = states * n` of them. One state a member is the rule; a
    method that carries two (CECA) keeps state s of member i in slot s * n + i.

    Attributes:
        n: Members.
        slots: Rows and columns of the matrix W, a multiple of n.
        starts: Shape (slots + 1,), int64: row i holds the entries starts[i] to starts[i + 1].
        sources: Shape (entries,), int64, ascending inside each row.
        weights: Shape (entries,), float64.
    """

    __slots__ = ("n", "slots", "sources", "starts", "weights")

    def __init__(self, n: int, rows: Sequence[Iterable[tuple[int, float | Fraction]]]) -> None:
        """Take the rows as they are.

        Raises:
            UsageError: If a row is empty, its sources are out of range or order, or a weight is not finite.
        """
        self.n = n
        self.slots = len(rows)
        entries = [tuple(row) for row in rows]
        self.starts = np.cumsum([0, *map(len, entries)], dtype=np.int64)
        self.sources = np.array([source for row in entries for source, _ in row], dtype=np.int64)
        self.weights = np.array([float(weight) for row in entries for _, weight in row], dtype=np.float64)
        self._check()

    @classmethod
    def from_dense(cls, w_NN: NDArray[np.float64], n: int | None = None) -> Mixing:  # noqa: N803 - shape suffix
        """Keep the entries of a matrix that are not zero, and the whole diagonal.

        Raises:
            UsageError: If it is not square or holds a NaN or an infinity.
        """
        if w_NN.ndim != 2 or w_NN.shape[0] != w_NN.shape[1] or not w_NN.size:
            raise UsageError(
                f"couldn't read the mixing matrix: its shape is {w_NN.shape}", hint="Give one row and column a member."
            )
        kept = w_NN != 0
        np.fill_diagonal(kept, val=True)
        mixing = cls.__new__(cls)
        mixing.slots = w_NN.shape[0]
        mixing.n = n or mixing.slots
        mixing.starts = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64)
        mixing.sources = np.nonzero(kept)[1].astype(np.int64)
        mixing.weights = np.asarray(w_NN[kept], dtype=np.float64)
        mixing._check()  # noqa: SLF001 - a constructor of this very class
        return mixing

    def _check(self) -> None:
        lengths = np.diff(self.starts)
        if self.n < 1 or self.slots < 1 or self.slots % self.n or (lengths == 0).any():
            raise UsageError(
                f"couldn't read the mixing: {self.n} members cannot share {self.slots} rows, or a row is empty",
                hint="Give every member a row that names at least itself.",
            )
        if not np.isfinite(self.weights).all():
            raise UsageError("couldn't read the mixing: a weight is not a finite number", hint="Remove NaN and Inf.")
        inside = np.ones(len(self.sources), dtype=bool)
        inside[self.starts[:-1]] = False  # the first entry of a row has nothing before it to be greater than
        rising = np.diff(self.sources, prepend=-1) > 0
        if self.sources.min() < 0 or self.sources.max() >= self.slots or not (rising | ~inside).all():
            raise UsageError(
                "couldn't read the mixing: the sources of a row are out of range, repeated or not ascending",
                hint=f"Name members 0 to {self.slots - 1} once each, in order.",
            )
        for array in (self.starts, self.sources, self.weights):
            array.flags.writeable = False

    def __eq__(self, other: object) -> bool:
        """Equal when every weight of every row is the same number."""
        return (
            isinstance(other, Mixing)
            and (self.n, self.slots) == (other.n, other.slots)
            and np.array_equal(self.starts, other.starts)
            and np.array_equal(self.sources, other.sources)
            and np.array_equal(self.weights, other.weights)
        )

    __hash__ = None  # type: ignore[assignment]  # a few megabytes of arrays are no dictionary key

    def __repr__(self) -> str:
        return f"Mixing(n={self.n}, slots={self.slots}, entries={len(self.sources)})"

    def row(self, slot: int) -> Row:
        """What `slot` adds up, its own share included."""
        start, end = int(self.starts[slot]), int(self.starts[slot + 1])
        return tuple(zip(self.sources[start:end].tolist(), self.weights[start:end].tolist(), strict=True))

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows. Convenient for small swarms; the arrays are the same in a tenth of the memory."""
        return tuple(self.row(slot) for slot in range(self.slots))

    @property
    def owners(self) -> NDArray[np.int64]:
        """The row that each entry belongs to, shape (entries,)."""
        return np.repeat(np.arange(self.slots, dtype=np.int64), np.diff(self.starts))

    def dense(self) -> NDArray[np.float64]:
        """The matrix W, shape (slots, slots)."""
        w_NN = np.zeros((self.slots, self.slots))  # noqa: N806 - shape suffix
        w_NN[self.owners, self.sources] = self.weights
        return w_NN

    def apply(self, x_ND: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: N803 - shape suffix
        """W x for x of shape (slots,) or (slots, D), in time proportional to the entries."""
        weights = self.weights if x_ND.ndim == 1 else self.weights[:, None]
        result: NDArray[np.float64] = np.add.reduceat(weights * x_ND[self.sources], self.starts[:-1], axis=0)
        return result

    @property
    def row_sums(self) -> NDArray[np.float64]:
        """Shape (slots,)."""
        sums: NDArray[np.float64] = np.add.reduceat(self.weights, self.starts[:-1])
        return sums

    @property
    def column_sums(self) -> NDArray[np.float64]:
        """Shape (slots,): how much of each member's value survives the round."""
        return np.bincount(self.sources, weights=self.weights, minlength=self.slots).astype(np.float64)

    @property
    def is_row_stochastic(self) -> bool:
        """No weight is negative and every row sums to 1."""
        return bool((self.weights >= -TOLERANCE).all() and np.allclose(self.row_sums, 1, rtol=0, atol=TOLERANCE))

    @property
    def is_column_stochastic(self) -> bool:
        """No weight is negative and every column sums to 1: the total of all values is kept."""
        return bool((self.weights >= -TOLERANCE).all() and np.allclose(self.column_sums, 1, rtol=0, atol=TOLERANCE))

    @property
    def is_doubly_stochastic(self) -> bool:
        """Both: the mean is kept, and a swarm that agrees stays where it is."""
        return self.is_row_stochastic and self.is_column_stochastic

    @property
    def is_symmetric(self) -> bool:
        """w_ij = w_ji for every pair, so both ends of a failed exchange can skip it and the mean survives."""
        owners = self.owners
        back = np.lexsort((owners, self.sources))  # the transpose in row order: compare entry by entry
        return bool(
            np.array_equal(self.sources[back], owners)
            and np.array_equal(owners[back], self.sources)
            and np.allclose(self.weights[back], self.weights, rtol=0, atol=TOLERANCE)
        )

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Directed (source, target) pairs of different members between whom something travels, ascending."""
        return _tuples(self._codes(), self.n)

    @property
    def pairs(self) -> tuple[Edge, ...]:
        """The links under those edges: undirected (low, high), ascending."""
        return _tuples(self.links, self.n)

    @property
    def links(self) -> NDArray[np.int64]:
        """The same links as numbers low * n + high, shape (links,), ascending."""
        source, target = np.divmod(self._codes(), self.n)
        return _distinct(np.minimum(source, target) * self.n + np.maximum(source, target))

    def _codes(self) -> NDArray[np.int64]:
        target, source = self.owners % self.n, self.sources % self.n
        used = (target != source) & (self.weights != 0)
        return _distinct(source[used] * self.n + target[used])


def _distinct(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers once each, ascending: `np.unique` hashes, which takes ten times as long for millions."""
    codes = np.sort(codes)
    fresh = np.ones(len(codes), dtype=bool)
    fresh[1:] = codes[1:] != codes[:-1]
    return codes[fresh]


def _tuples(codes: NDArray[np.int64], n: int) -> tuple[Edge, ...]:
    first, second = np.divmod(codes, n)
    return tuple(zip(first.tolist(), second.tolist(), strict=True))


Rule: TypeAlias = Callable[[int, int], Iterable[tuple[int, float | Fraction]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Who takes how much of whom in round t = 0, 1, ...; made by the functions of `topologies.schedules`.

    Attributes:
        name: As a charter or a command line says it.
        n: Members.
        reference: The paper it comes from.
        period: Rounds after which it repeats; None when every round is drawn anew.
        promise: What every round preserves.
        symmetric: Whether every round is: then a pair that fails skips together and the mean is untouched.
        exact_after: Rounds after which the product of the matrices is J/n exactly, or None. 0 for one member.
        states: Vectors a member carries: 1, or 2 for CECA. Only the first holds the mean at the end.
        rule: (round, slot) -> row; weights are Fractions where they are rational.
        union: The links that a round may use: what the charter must grant.
        whole: Round -> Mixing where that is cheaper than row by row.
        sent: (round, member) -> targets, where that is cheaper than reading every row.
    """

    name: str
    n: int
    reference: str
    period: int | None
    promise: Promise
    symmetric: bool
    exact_after: int | None
    rule: Rule
    union: Callable[[], Topology]
    states: int = 1
    whole: Callable[[int], Mixing] | None = None
    sent: Callable[[int, int], tuple[int, ...]] | None = None

    def _turn(self, t: int) -> int:
        if t < 0:
            raise UsageError(f"couldn't look up round {t} of {self.name}: rounds count from 0")
        return t if self.period is None else t % self.period

    def row(self, t: int, slot: int) -> Row:
        """What member `slot` adds up in round t, its own share included; weights are float64.

        With two states a member, slot = state * n + member; see `Mixing`.
        """
        return tuple((source, float(weight)) for source, weight in self.rule(self._turn(t), slot))

    def ratios(self, t: int, slot: int) -> RatioRow:
        """The same row as exact fractions: the family's own where it has them, else those of the floats."""
        return tuple((source, Fraction(weight)) for source, weight in self.rule(self._turn(t), slot))

    def sources(self, t: int, node: int) -> tuple[int, ...]:
        """The other members whose vector `node` waits for in round t, ascending."""
        found = {
            source % self.n
            for state in range(self.states)
            for source, weight in self.rule(self._turn(t), state * self.n + node)
            if weight and source % self.n != node
        }
        return tuple(sorted(found))

    def targets(self, t: int, node: int) -> tuple[int, ...]:
        """The members to whom `node` sends in round t, ascending. Costs its degree where the family allows it."""
        if self.symmetric:
            return self.sources(t, node)
        if self.sent is not None:
            return tuple(sorted(self.sent(self._turn(t), node)))
        return tuple(target for source, target in self.mixing(t).edges if source == node)

    def mixing(self, t: int) -> Mixing:
        """The whole round t."""
        turn = self._turn(t)
        if self.whole is not None:
            return self.whole(turn)
        return Mixing(self.n, [self.rule(turn, slot) for slot in range(self.states * self.n)])

    def mixings(self, rounds: int) -> Iterator[Mixing]:
        """Rounds 0 to rounds - 1; those of a periodic schedule are built once and handed out again."""
        if self.period is None:
            yield from map(self.mixing, range(rounds))
            return
        once = [self.mixing(t) for t in range(min(self.period, rounds))]
        for t in range(rounds):
            yield once[t % self.period]

    @property
    def links(self) -> Topology:
        """Every link a round may use, as a topology: the charter's must contain it."""
        return self.union()

    def lift(self, x_ND: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: N803 - shape suffix
        """The start of all states from one vector a member: the first state is x, a second one is zero."""
        return np.concatenate([x_ND, *([np.zeros_like(x_ND)] * (self.states - 1))])

    def check(self, rounds: int | None = None) -> None:
        """Prove the promises over a period (or `rounds` rounds; `CHECK_ROUNDS` where there is no period).

        Looks at: the stated stochasticity and symmetry of every round; that no round uses a link outside `links`; that
        the links connect everybody; and, where `exact_after` is stated, the product of the rounds.

        Raises:
            UsageError: Naming the round and the promise that it breaks.
        """
        used: set[Edge] = set()
        allowed = set(self.links.edges)  # Topology refuses links that leave somebody unreachable
        for t, mixing in enumerate(self.mixings(rounds or self.period or CHECK_ROUNDS)):
            if not _kept(self.promise, mixing):
                raise _broken(self, t, f"is not {self.promise.value}")
            if self.symmetric and not mixing.is_symmetric:
                raise _broken(self, t, "is not symmetric")
            used.update(mixing.pairs)
        if not used <= allowed:
            low, high = min(used - allowed)
            raise UsageError(
                f"couldn't use the schedule {self.name}: it sends over {low}-{high}, which is no link of it"
            )
        if self.period is not None and (rounds is None or rounds >= self.period):
            Topology.from_edges(self.n, used)  # a link that no round uses joins nobody
        if self.exact_after is not None and not self._averages():
            raise UsageError(f"couldn't use the schedule {self.name}: {self.exact_after} rounds are not the exact mean")

    def _averages(self) -> bool:
        """Whether `exact_after` rounds take the integers i^2 + 1 to their mean, in exact arithmetic."""
        value = [Fraction(i * i + 1) for i in range(self.n)] + [Fraction(0)] * ((self.states - 1) * self.n)
        mean = sum(value[: self.n], Fraction(0)) / self.n
        for t in range(self.exact_after or 0):
            value = [
                sum((weight * value[source] for source, weight in self.ratios(t, slot)), Fraction(0))
                for slot in range(len(value))
            ]
        return all(one == mean for one in value[: self.n])


def _kept(promise: Promise, mixing: Mixing) -> bool:
    match promise:
        case Promise.DOUBLY:
            return mixing.is_doubly_stochastic
        case Promise.COLUMN:
            return mixing.is_column_stochastic
        case Promise.ROW:
            return mixing.is_row_stochastic
        case Promise.MEAN:
            sums = np.concatenate([mixing.row_sums, mixing.column_sums])
            return bool(np.allclose(sums, 1, rtol=0, atol=TOLERANCE))
        case Promise.PRODUCT:
            return True


def _broken(schedule: Schedule, t: int, what: str) -> UsageError:
    return UsageError(
        f"couldn't use the schedule {schedule.name}: round {t} {what}",
        hint="Choose weights that keep the promise, such as metropolis_hastings on any undirected graph.",
    )


def joined(n: int, mixings: Iterable[Mixing]) -> Topology:
    """The union of the links of these rounds.

    Raises:
        UsageError: If they leave somebody unreachable, however many rounds go by.
    """
    return Topology.from_edges(n, (pair for mixing in mixings for pair in mixing.pairs))


def log2_ceil(n: int) -> int:
    """The least p with 2^p >= n, for n >= 1."""
    return (n - 1).bit_length()

"""What a swarm came to at each of its sites, in one table beside what others have published of the same data.

Not a program: `published_*.py` and `*_sites.py` hand it scores and print what it returns. A row is a site, a column a
way to a model (alone, swarm, personalised, pooled), a cell the mean over seeds with the standard deviation of a sample.
The *client mean* counts every site alike, however few cases it holds out; *all cases* counts every case alike, and is
there only where a score is a share of cases, as an accuracy is and an area under a curve is not.

Three rules keep it honest. A cell without a score in any of its seeds has none, and says why. A site that lacks a score
in one column counts in nobody's client mean, so that columns are compared over the same sites. A bar is stated with its
source before there are results, compared without rounding, and a miss is printed as plainly as a hit.

Of many sites a table is `folded`: in place of a line each, the mean over them, the worst, and the tenth percentile,
which nine sites of ten are not below. Which site is the worst may change from seed to seed and column to column.
"""

from __future__ import annotations

import itertools
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

CLIENT_MEAN = "client mean"
ALL_CASES = "all cases"
TENTH = "tenth percentile"
WORST = "worst site"

WIDTH_MAX = 120
"""Characters of a line. Columns that do not fit stand in another block, beside the same sites."""

GAP = "  "

VERDICTS = ("met     ", "MISSED  ", "OPEN    ")


@dataclass(frozen=True, slots=True)
class Row:
    """A site with `cases` held out; `of_them` says more in a few words, as in "31 events".

    One that is not `counted` is no site but a common test: it stands below, and is in no mean.
    """

    name: str
    cases: int
    of_them: str = ""
    counted: bool = True

    @property
    def held_out(self) -> str:
        """Return "104", or "206, 31 events"."""
        return f"{self.cases}, {self.of_them}" if self.of_them else str(self.cases)


@dataclass(frozen=True, slots=True)
class Score:
    """What the model of a column came to at a row with one seed. `value` None: it has none, and `why` says so."""

    seed: int
    column: str
    row: str
    value: float | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A mean over seeds and its standard deviation, which one seed has not; or `why` there is none."""

    mean: float | None
    deviation: float | None = None
    why: str = "-"

    def __str__(self) -> str:
        if self.mean is None:
            return self.why
        return f"{self.mean:.3f}" + ("" if self.deviation is None else f" ± {self.deviation:.3f}")


@dataclass(frozen=True, slots=True)
class Published:
    """A column of somebody else's: cells by row, as far as they are given, `CLIENT_MEAN` and `ALL_CASES` among them.

    Where no client mean is given, and all sites are, it is computed.
    """

    column: str
    source: str
    cells: Mapping[str, Cell]


@dataclass(frozen=True, slots=True)
class Bar:
    """What a column should reach, at its client mean or at another row, and whose figure that is."""

    column: str
    at_least: float
    source: str
    row: str = CLIENT_MEAN


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All of it. `text()` is what is printed.

    Attributes:
        title: What the scores are, on what: the first line.
        rows: Sites in the order in which they stand, then common tests.
        columns: Ours, in order. One that has no score at all stays, and says "-".
        scores: In any order; one for each row, column and seed.
        is_share: Whether a score is a share of cases, so that it has a mean over all cases.
        folded: Whether sites are shown by their spread only, being too many for a line each.
        notes: What a reader must know, a sentence each.
    """

    title: str
    rows: Sequence[Row]
    columns: Sequence[str]
    scores: Sequence[Score]
    is_share: bool = False
    folded: bool = False
    published: Sequence[Published] = ()
    bars: Sequence[Bar] = ()
    notes: Sequence[str] = ()
    _values: dict[tuple[str, str], dict[int, Score]] = field(init=False, repr=False, default_factory=dict)
    _seeds: set[int] = field(init=False, repr=False, default_factory=set)

    def __post_init__(self) -> None:
        """Sort scores into cells. Raises `ValueError` for one that has no place in the table, or stands there twice."""
        names = [row.name for row in self.rows]
        for score in self.scores:
            if score.row not in names or score.column not in self.columns:
                raise ValueError(f"no such cell: {score.column} at {score.row}")
            cell = self._values.setdefault((score.column, score.row), {})
            if score.seed in cell:
                raise ValueError(f"scored twice with seed {score.seed}: {score.column} at {score.row}")
            cell[score.seed] = score
            self._seeds.add(score.seed)

    @property
    def seeds(self) -> list[int]:
        """Return every seed that there is, in order."""
        return sorted(self._seeds)

    @property
    def compared(self) -> list[Row]:
        """Return the sites that are in means: those with a score in every column that has any."""
        there = [column for column in self.columns if any((column, row.name) in self._values for row in self._sites)]
        return [row for row in self._sites if there and all(self._by_seed(column, row.name) for column in there)]

    def cell(self, column: str, row: str) -> Cell:
        """Return one of our cells; `row` may be `CLIENT_MEAN`, `ALL_CASES`, `TENTH` or `WORST`."""
        by_seed = self._by_seed(column, row)
        if by_seed:
            return _summary(list(by_seed.values()))
        given = self._values.get((column, row), {}).values()
        return Cell(None, why=next((score.why for score in given if score.why), "-"))

    def text(self) -> str:
        """Return the table in lines of at most `WIDTH_MAX` characters where its words allow it."""
        left_out = [row.name for row in self._sites if row not in self.compared]
        lacking = f"Not in the {CLIENT_MEAN}, for lack of a score in some column: {', '.join(left_out)}."
        parts = [
            [f"{self.title}: {self._seeds_words()}"],
            *_blocks(self._labels(), list(self._ours()), list(self._theirs())),
            [f"[{number}] {source}" for number, source in enumerate(self._sources(), 1)],
            [*([lacking] if left_out and self.compared else []), *self.notes],
            [self.verdict(bar) for bar in self.bars],
        ]
        return "\n".join(itertools.chain.from_iterable([*map(_wrapped, part), ""] for part in parts if part))

    def verdict(self, bar: Bar) -> str:
        """Return whether a bar is met, in a line."""
        by_seed, (met, missed, open_) = self._by_seed(bar.column, bar.row), VERDICTS
        asked = f"{bar.column}, {bar.row} at least {bar.at_least:g} ({bar.source})"
        if not by_seed:
            return f"{open_}{asked}: there is no score"
        reached = statistics.fmean(by_seed.values())
        each = "" if len(by_seed) == 1 else f", by seed {' '.join(f'{by_seed[seed]:.3f}' for seed in sorted(by_seed))}"
        if reached >= bar.at_least:
            return f"{met}{asked}: {reached:.3f}{each}"
        return f"{missed}{asked}: {reached:.3f}, short by {bar.at_least - reached:.3f}{each}"

    # --- parts --------------------------------------------------------------------------------------------------

    @property
    def _sites(self) -> list[Row]:
        return [row for row in self.rows if row.counted]

    @property
    def _shown(self) -> list[Row]:
        return [] if self.folded else self._sites

    def _by_seed(self, column: str, row: str) -> dict[int, float]:
        """Return a cell's value with each seed; none at all if one of them has none."""
        if row not in _OVER_SITES:
            found = self._values.get((column, row), {})
            whole = set(found) == self._seeds
            values = {seed: score.value for seed, score in found.items() if score.value is not None}
            return values if whole and len(values) == len(found) else {}
        if row == ALL_CASES and not self.is_share:
            return {}
        rows = self.compared
        cells = [self._by_seed(column, one.name) for one in rows]
        if not rows or not all(cells):
            return {}
        weights = [one.cases if row == ALL_CASES else 1 for one in rows]
        return {seed: _over_sites(row, [cell[seed] for cell in cells], weights) for seed in self.seeds}

    def _labels(self) -> list[tuple[str, str]]:
        """Return each line's name and how many cases are held out for it."""
        compared = self.compared
        few = "" if len(compared) in (0, len(self._sites)) else f" of {len(compared)}"
        lines = [("", "held out"), *((row.name, row.held_out) for row in self._shown)]
        lines.append((f"{CLIENT_MEAN}{few}", f"{len(compared)} sites" if self.folded else ""))
        lines += [(TENTH, ""), (WORST, "")] if self.folded else []
        if self.is_share:
            lines.append((f"{ALL_CASES}{few}", str(sum(row.cases for row in compared))))
        return [*lines, *((row.name, row.held_out) for row in self.rows if not row.counted)]

    def _keys(self) -> list[str]:
        means = [CLIENT_MEAN, *((TENTH, WORST) if self.folded else ()), *((ALL_CASES,) if self.is_share else ())]
        return [*(r.name for r in self._shown), *means, *(r.name for r in self.rows if not r.counted)]

    def _ours(self) -> Iterable[list[str]]:
        for column in self.columns:
            yield [column, *(str(self.cell(column, key)) for key in self._keys())]

    def _theirs(self) -> Iterable[list[str]]:
        sources = self._sources()
        for one in self.published:
            cells = dict(one.cells)
            known = [cells[row.name].mean for row in self.compared if row.name in cells]
            values = [value for value in known if value is not None]
            if CLIENT_MEAN not in cells and values and len(values) == len(self.compared):
                cells[CLIENT_MEAN] = Cell(statistics.fmean(values))
            heading = f"{one.column} [{sources.index(one.source) + 1}]"
            yield [heading, *(str(cells.get(key, Cell(None))) for key in self._keys())]

    def _sources(self) -> list[str]:
        return list(dict.fromkeys(one.source for one in self.published))

    def _seeds_words(self) -> str:
        seeds = ", ".join(map(str, self.seeds)) or "none yet"
        return f"seed {seeds}" if len(self.seeds) == 1 else f"mean ± standard deviation over seeds {seeds}"


_OVER_SITES = (CLIENT_MEAN, ALL_CASES, TENTH, WORST)


def _over_sites(row: str, values: Sequence[float], weights: Sequence[int]) -> float:
    """Return what sites come to together; a percentile lies between two of them linearly."""
    if row == WORST:
        return min(values)
    if row == TENTH and len(values) > 1:
        return statistics.quantiles(values, n=10, method="inclusive")[0]
    return statistics.fmean(values, weights)


def _summary(values: Sequence[float]) -> Cell:
    return Cell(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _wrapped(line: str) -> str:
    """Return a line of words in as many as it takes; a table's line is never that long, where there is a choice."""
    return line if len(line) <= WIDTH_MAX else textwrap.fill(line, WIDTH_MAX, subsequent_indent=" " * len(VERDICTS[0]))


def _blocks(
    labels: Sequence[tuple[str, str]], ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]
) -> list[list[str]]:
    """Return blocks of lines: names, counts and columns. Others' stand beside ours where all of them have room."""
    names, counts = [label[0] for label in labels], [label[1] for label in labels]
    wide, counted = max(map(len, names)), max(map(len, counts))
    first = [f"{name:<{wide}}{GAP}{count:>{counted}}" for name, count in zip(names, counts, strict=True)]

    def fitting(columns: Sequence[Sequence[str]]) -> list[list[str]]:
        blocks, block = [], first
        for cells in columns:
            wider = _beside(block, cells)
            if len(wider[0]) > WIDTH_MAX and block is not first:
                blocks.append(block)
                wider = _beside(first, cells)
            block = wider
        return [*blocks, block]

    together = fitting([*ours, *theirs])
    blocks = together if len(together) == 1 or not theirs else fitting(ours) + fitting(theirs)
    return [[line.rstrip() for line in block] for block in blocks]


def _beside(lines: Sequence[str], cells: Sequence[str]) -> list[str]:
    width = max(map(len, cells))
    return [f"{line}{GAP}{cell:>{width}}" for line, cell in zip(lines, cells, strict=True)]

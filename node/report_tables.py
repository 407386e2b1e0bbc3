"""The tables and plots of a ledger's report: who did what in which round, with what weight, score and model.

Every number here is one that the audit recomputed or that a member signed; nothing is judged. Names come from the
charter, which strangers may have written, so all text is escaped on its way in (`node.svg.h`). What a page needs beside
its tables is in `node.report`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from itertools import pairwise

from node.exchanges import Exchanges, exchanges_of, percent
from node.scoring.intervals import Interval
from node.scoring.words import apart_words, told_interval
from node.svg import STYLES, Html, Line, date, h, join, mark, panel, plot, progress, sample
from swarm.charter import SignedCharter
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, EpochView, RoundView, accounted, member_names, weights
from swarm.ledger.block import faults
from swarm.ledger.participation import of_audit
from swarm.machine import NodeId
from swarm.terms import Terms, describe

COLUMNS_MAX = 40
"""Columns of the table of sites and rounds: what fits a printed page. With more rounds a column stands for several."""

ROUNDS_LISTED_MAX = 500
"""Rounds listed one by one, the latest; earlier ones are in the table of sites and rounds and in the plots."""

SHARES_LISTED_MAX = 50_000
"""Shares listed, sites times rounds: about 2 MB of page, which a phone still opens."""

RANGES_MAX = 12
"""Stretches of rounds named in words for one site; further ones are counted."""

PANELS_MAX = 60
"""Sites that get a plot of their own for each metric; beyond, the table alone tells them apart."""

WIDE_MIN = 5
"""Columns from which a table is not squeezed into the width of a phone, but scrolls sideways."""

PAIRS_LISTED_MAX = 20_000
"""Pairs of sites named in the table of exchanges: about 1 MB of page. Of rounds before those only numbers are given."""

INLINE_MAX = 8
"""Sites whose shares stand in the row of a round; more are unfolded on demand."""


SUPPORT = "support_"
"""What metrics begin with that say of how many cases others are."""


class Part(Enum):
    """A site's part in a round; the value is the sign it is shown with."""

    IN = "in"
    OUT = "out"
    MISSING = "missing"
    WAITING = "waiting"
    NOT_YET = "none"
    AWAY = "away"


_PART_WORDS = {
    Part.IN: "took part",
    Part.OUT: "sent an update that was left out",
    Part.MISSING: "sent nothing in time",
    Part.WAITING: "sent an update; the round is still open",
    Part.NOT_YET: "nothing yet; the round is still open",
    Part.AWAY: "not a member then",
}

_REASON_WORDS = {
    e.UNUSABLE: "its update was unusable: not all of it numbers, or larger than the charter allows",
    e.UNAVAILABLE: "its update could not be fetched before the round had to close",
    e.OTHER_BASE: "it did not start from the model it should: that of the round before, in gossip its own",
}


# --- the ledger, put in order -----------------------------------------------------------------------------------


class Told:
    """An audit with what several sections ask for: names, the rounds that exist, who did what in each."""

    def __init__(self, audit: Audit, signed: SignedCharter) -> None:
        self.audit, self.signed, self.charter = audit, signed, signed.charter
        self.epochs = audit.epochs or [EpochView(audit.state.terms, 0, self.charter.created_ms)]
        self.terms = audit.state.terms
        self.names = member_names(self.epochs)
        self.nodes = [*self.names]
        # Members may write about any round number, so only the charter's rounds become rows and axes.
        closed = [n for n, view in audit.rounds.items() if view.closed is not None and n >= 1]
        # The state may already know a block that failed at its certificate, so it is not asked which round is open.
        finished = max((n for n in closed if audit.rounds[n].commit is not None), default=0)
        opened = [finished + 1] if finished + 1 in audit.rounds and finished < audit.state.last else []
        self.numbers = sorted({*closed, *opened})
        self.finished = finished
        self.views = {number: audit.rounds[number] for number in self.numbers}
        self.committed = [view for view in self.views.values() if view.commit is not None]
        self.shares = {number: weights(view) for number, view in self.views.items()}
        self.missing = {
            number: frozenset(view.closed.body.missing) if view.closed is not None else frozenset[bytes]()
            for number, view in self.views.items()
        }
        self.rejected = {number: _rejected(view) for number, view in self.views.items()}
        found = {number: exchanges_of(signed, view) for number, view in self.views.items()}
        self.exchanges: dict[int, Exchanges] = {number: met for number, met in found.items() if met is not None}
        self._members = frozenset(seat.node for seat in self.terms.members)
        self._sites = {number: frozenset(self.sites(number)) for number in self.numbers}

    @property
    def faults(self) -> int:
        """How many liars the swarm bore in every epoch: in its weakest."""
        return min(faults(len(view.terms.members)) for view in self.epochs)

    def sites(self, number: int) -> list[NodeId]:
        """Return who was a member when a round closed; of an open one, who is a member now."""
        there = self._members if self.views[number].closed is None else accounted(self.views[number])
        return [node for node in self.nodes if node in there]

    def terms_at(self, height: int) -> Terms:
        """Return the terms by which a block was judged."""
        return next((v.terms for v in reversed(self.epochs) if v.height < height), self.epochs[0].terms)

    def part(self, number: int, node: NodeId) -> Part:
        """Return what a site did in a round."""
        view = self.views[number]
        if node not in self._sites[number]:
            return Part.AWAY
        if view.closed is None:
            return Part.WAITING if node in view.contributions else Part.NOT_YET
        if node in self.shares[number]:
            return Part.IN
        return Part.MISSING if node in self.missing[number] else Part.OUT

    def model(self, number: int) -> bytes | None:
        """Return the digest of the one model on record for a round; round 0 stands for the initial one.

        None while there is none, and in gossip, where each site ends a round with a model of its own.
        """
        if number == 0:
            return self.charter.task.initial_model
        view = self.views.get(number)
        commit = None if view is None else view.commit
        return commit.model_digest if commit is not None and commit.model_bytes else None

    def scores(self, node: NodeId) -> list[tuple[int, e.Evaluation]]:
        """Return a site's scores of models that are on record, by round.

        In gossip that is any site's model of this round or an earlier one: who was away goes on from an old one.
        """
        numbers = (0, *self.numbers) if 0 in self.audit.rounds else self.numbers
        found, known = [], {self.charter.task.initial_model} if self.exchanges else set[bytes]()
        for number in numbers:
            view, model = self.audit.rounds[number], self.model(number)
            known |= {*view.models.values(), *(() if model is None or not self.exchanges else (model,))}
            body = view.evaluations.get(node)
            if body is not None and (body.model_digest == model or body.model_digest in known):
                found.append((number, body))
        return found

    def strays(self) -> int:
        """Count the scores that are of no model on record."""
        total = sum(len(view.evaluations) for view in self.audit.rounds.values())
        return total - sum(len(self.scores(node)) for node in self.nodes)

    def listed(self) -> list[int]:
        """Return the rounds that are listed one by one, the latest first."""
        most = max(1, min(ROUNDS_LISTED_MAX, SHARES_LISTED_MAX // len(self.nodes)))
        return self.numbers[: -most - 1 : -1]


def _rejected(view: RoundView) -> dict[NodeId, int]:
    """Return the reason code by site for the contributions that a close leaves out."""
    reasons = dict(view.closed.body.rejected) if view.closed is not None else {}
    return {node: reasons[placed.index] for node, placed in view.contributions.items() if placed.index in reasons}


def _included(view: RoundView) -> dict[NodeId, e.Contribution]:
    """Return the contributions in a round's mean, by site."""
    return {placed.author: placed.body for placed in view.closed.terms} if view.closed is not None else {}


# --- rounds -----------------------------------------------------------------------------------------------------


def rounds_section(told: Told) -> Html:
    """Return the rounds: how far they came, who was in which, the gaps in words, and each in its row."""
    if not told.numbers:
        return h("p", "No round is on record yet.")
    listed = told.listed()
    rows = [_round_row(told, number) for number in listed]
    without = len(told.numbers) - len(listed)
    share = "Share of each site by its samples" if told.exchanges else "Share of each site in the mean"
    heads = ("Round", "Finished (UTC)", "#Sites in", "#Samples", "Not in it, and why", share)
    table = table_of("Rounds, the latest first", heads, rows, tall=True)
    more = h("p", f"{counted(without, 'earlier round')} not listed one by one.") if without else Html()
    return join(_whose(told), _timeline(told), _matrix(told), _gaps(told), table, more, _exchanges(told))


def _whose(told: Told) -> Html:
    """Return whether all sites' work is in the models, or a subset's; work that came late covers the rounds it took."""
    gaps = of_audit(told.audit).gaps()
    if not any(view.closed is not None for view in told.views.values()):
        return Html()
    if not gaps:
        return h("p", "For every round there is work of every site in the model, late work included.")
    missing = "; ".join(f"{told.names[node]}: round{'s' * (len(n) > 1)} {_ranges(n)}" for node, n in gaps.items())
    strong = h("strong", "These are rounds of a subset of the sites.")
    return h("p", strong, f" No work in time, and none that came late and counts, of {missing}.")


def _timeline(told: Told) -> Html:
    """Return when the rounds finished, from the first on: a charter may be signed long before its swarm begins."""
    steps = [(view.committed_ms, view.number) for view in told.committed]
    if len(steps) < 2:
        return Html()
    flagged = [step for step in steps if len(told.shares[step[1]]) < len(told.sites(step[1]))]
    longest, at = max((after[0] - before[0], after[1]) for before, after in pairwise(steps))
    words = (
        f"{counted(len(steps), 'round')} finished from {date(steps[0][0])} to {date(steps[-1][0])}. "
        f"The longest wait was {span_words(longest)}, for round {at}. "
    )
    rings = f"A ring marks a round that lacks a site ({len(flagged)} of {len(steps)})."
    words += rings if flagged else "No round lacks a site."
    title = "Rounds finished over time"
    picture = progress(steps, flagged, title=title, desc=words, y_label="rounds finished")
    return h("figure", _scroll(picture, title), h("figcaption", words))


def _matrix(told: Told) -> Html:
    per = -(-len(told.numbers) // COLUMNS_MAX)
    groups = [told.numbers[i : i + per] for i in range(0, len(told.numbers), per)]
    first, *others = (h("th", "Site", scope="col"), *(h("th", h("span", _range(g)), scope="col") for g in groups))
    rows = []
    for node in told.nodes:
        cells = (_cell([told.part(number, node) for number in group]) for group in groups)
        rows.append(h("tr", h("th", told.names[node], scope="row"), *(h("td", cell) for cell in cells)))
    legend = [("in", "took part"), ("missing", "sent nothing in time"), ("out", "sent an update that was left out")]
    if per > 1:
        legend.insert(1, ("part", "took part in some of these rounds"))
    if told.views[told.numbers[-1]].closed is None:
        legend += [("waiting", "sent an update; the round is still open")]
    signs = (h("li", mark(kind, words), f" {words}") for kind, words in legend)
    each = "Each column is one round." if per == 1 else f"Each column stands for up to {per} rounds."
    title = "Who took part in which round"
    head = h("thead", h("tr", first, *others))
    table = h("table", h("caption", title), head, h("tbody", *rows), class_="matrix")
    return join(_scroll(table, title), h("ul", *signs, h("li", each), class_="legend"))


def _cell(parts: Sequence[Part]) -> Html:
    """Return the sign for a site's part in one round or in several: what went wrong shows, however rare."""
    parts = [part for part in parts if part is not Part.AWAY]
    if len(parts) <= 1:
        shown = parts and parts[0] is not Part.NOT_YET
        return mark(parts[0].value, _PART_WORDS[parts[0]]) if shown else Html("&#8203;")
    counts = {part: parts.count(part) for part in Part}
    kind = (
        "out"
        if counts[Part.OUT]
        else "in"
        if counts[Part.IN] == len(parts)
        else "part"
        if counts[Part.IN]
        else "missing"
    )
    words = "; ".join(f"{_PART_WORDS[part]}: {count} of {len(parts)}" for part, count in counts.items() if count)
    return mark(kind, words)


def _gaps(told: Told) -> Html:
    """Say which rounds each site is not in, exactly: the table above may stand for several rounds a column."""
    rows = []
    for node in told.nodes:
        missing = [n for n in told.numbers if told.part(n, node) is Part.MISSING]
        left_out: dict[int, list[int]] = {}
        for number in told.numbers:
            if told.part(number, node) is Part.OUT:
                left_out.setdefault(told.rejected[number].get(node, 0), []).append(number)
        if missing:
            rows.append(row_of(told.names[node], _ranges(missing), _PART_WORDS[Part.MISSING]))
        for reason, numbers in sorted(left_out.items()):
            rows.append(
                row_of(told.names[node], _ranges(numbers), _REASON_WORDS.get(reason, "its update was left out"))
            )
    after = _late(told)
    if not rows:
        return join(h("p", "No site is missing from any closed round."), after)
    return join(table_of("Gaps", ("Site", "Not in rounds", "Why"), rows), after)


def _late(told: Told) -> Html:
    """Say how many updates came after their rounds had closed, and how many of them are in a later one all the same."""
    late = {index for view in told.committed if view.commit is not None for index in view.commit.late}
    if not late:
        return Html()
    later = len(late & {index for v in told.views.values() if v.closed for index, _ in v.closed.body.included})
    rest = f"{later} of them in a later mean, the others on record only" if later else "on record, in no mean"
    return h("p", f"{counted(len(late), 'update')} came after its round had closed: {rest}.")


def _round_row(told: Told, number: int) -> tuple[Html, ...]:
    view, shares = told.views[number], told.shares[number]
    if view.closed is None:
        there = len(view.contributions)
        cells = ("still open", f"{there} of {len(told.sites(number))} so far", "", "", "")
        return (h("th", str(number), scope="row"), *(h("td", cell) for cell in cells))
    absent = []
    for node in told.nodes:
        match told.part(number, node):
            case Part.MISSING:
                absent.append(h("li", f"{told.names[node]}: sent nothing in time"))
            case Part.OUT:
                reason = _REASON_WORDS.get(told.rejected[number].get(node, 0), "its update was left out")
                absent.append(h("li", f"{told.names[node]}: {reason}"))
            case _:
                pass
    samples = sum(placed.body.samples for placed in view.closed.terms)
    return (
        h("th", str(number), scope="row"),
        h("td", date(view.committed_ms, "%Y-%m-%d %H:%M:%S") if view.commit is not None else "closed, not finished"),
        h("td", f"{len(shares)} of {len(told.sites(number))}", class_="n"),
        h("td", f"{samples:,}", class_="n"),
        h("td", h("ul", *absent) if absent else "nobody"),
        h("td", _shares(told, shares)),
    )


def _exchanges(told: Told) -> Html:
    """Return who exchanged models with whom, round by round, and who was to and did not; nothing without gossip."""
    if not told.exchanges:
        return Html()
    rows, room = [], PAIRS_LISTED_MAX
    for number in told.listed():
        met = told.exchanges.get(number)
        if met is None:
            continue
        room -= met.scheduled
        done = [f"{told.names[one]} {met.joint} {told.names[other]}" for one, other in met.pairs]
        not_done = [
            f"{told.names[s.one]} {met.joint} {told.names[s.other]}: {told.names[s.who]} {s.why}" for s in met.skipped
        ]
        commit = told.views[number].commit
        apart = "" if commit is None or commit.attests < 2 else f"up to {percent(commit.distance_max_ppm)}"
        cells = (h("td", f"{len(met.pairs)} of {met.scheduled}", class_="n"), h("td", _few(done, "pair", room)))
        rows.append((h("th", str(number), scope="row"), *cells, h("td", _few(not_done, "pair", room)), h("td", apart)))
    words = (
        "In each round but the last, every site exchanges models with those that the schedule of the charter names, "
        "and blends them with its own. A pair counts if both its sites said in the ledger, before the round closed, "
        "that they had each other's model. The last column says how far the two most different models were apart "
        "afterwards, in percent of the length of a model as a vector, as the sites' own statements tell."
    )
    heads = ("Round", "#Pairs", "Exchanged models", "Were to, and did not", "Models apart")
    return join(h("p", words), table_of("Exchanges, the latest first", heads, rows, tall=True))


def _few(items: Sequence[str], noun: str, room: int) -> Html:
    """Return a list, folded where it is long, and only its length where the page has no room for more."""
    if not items:
        return join("none")
    if room < 0:
        return join(counted(len(items), noun))
    whole = h("ul", *(h("li", item) for item in items))
    return whole if len(items) <= INLINE_MAX else h("details", h("summary", counted(len(items), noun)), whole)


def _shares(told: Told, shares: Mapping[NodeId, float]) -> Html:
    words = [f"{told.names[node]} {shares[node]:.1%}" for node in told.nodes if node in shares]
    text = join(", ".join(words))
    return text if len(words) <= INLINE_MAX else h("details", h("summary", counted(len(words), "site")), text)


# --- sites ------------------------------------------------------------------------------------------------------


def sites_section(told: Told) -> Html:
    """Return what each site put in: rounds, samples, and its share of the mean."""
    numbers = [number for number in told.numbers if told.views[number].closed is not None]
    if not numbers:
        return h("p", "No round has closed yet, so nobody's update is in a model.")
    bodies = {n: _included(told.views[n]) for n in numbers}
    rows = []
    for node in told.nodes:
        terms = [(n, bodies[n][node]) for n in numbers if node in bodies[n]]
        asked = sum(told.part(n, node) is not Part.AWAY for n in numbers)
        shares = [told.shares[n][node] for n, _ in terms]
        counts = [body.samples for _, body in terms]
        rows.append(
            (
                h("th", told.names[node], scope="row"),
                h("td", f"{len(terms)} of {asked}", class_="n"),
                h("td", _spread(counts), class_="n"),
                h("td", f"{sum(counts):,}", class_="n"),
                h("td", f"{sum(shares) / len(shares):.1%}" if shares else "none", class_="n"),
                h("td", _bar(sum(shares) / len(shares) if shares else 0.0)),
                h("td", _remark(told, [body for _, body in terms])),
            )
        )
    heads = ("Site", "#Rounds it is in", "#Samples in a round", "#Samples, all rounds", "#Mean share", "", "Remarks")
    words = (
        "A site trains on its own data in every round it takes part in, so the sum over all rounds counts the same "
        "patients many times. Numbers of samples are what the sites state."
    )
    return join(h("p", words), table_of("Contributions", heads, rows))


def _bar(share: float) -> Html:
    bar = h("rect", width=f"{100 * share:.1f}", height=8, class_="fill")
    return h(
        "svg",
        h("rect", width=100, height=8, class_="ground"),
        bar,
        class_="bar",
        viewBox="0 0 100 8",
        aria_hidden="true",
    )


def _remark(told: Told, bodies: Sequence[e.Contribution]) -> str:
    other = sum(1 for body in bodies if body.code_digest != told.charter.task.digest)
    data = len({body.data_digest for body in bodies})
    again = sum(1 for body in bodies if body.attempt > 1)
    remarks = [
        f"another training program than agreed in {counted(other, 'round')}" if other else "",
        f"its data changed: {data} versions" if data > 1 else "",
        f"trained again in {counted(again, 'round')}" if again else "",
    ]
    return "; ".join(remark for remark in remarks if remark) or "none"


# --- scores -----------------------------------------------------------------------------------------------------


def scores_section(told: Told) -> Html:
    """Return the sites' scores of each model, a plot for each metric of the charter."""
    if not told.charter.metrics:
        return h("p", "The charter names no scores to put on record.")
    words = (
        "After a round, each site tries the new model on data that it keeps apart and never trains on (held-out "
        "data). The scores are each site's own statement. Whether more or less is better depends on the score. Where a "
        "site has too few patients of a kind to say anything of them, it keeps its scores back; that is a gap, not a "
        "zero. An interval is given where what was told allows it: of 100 made like this, about 95 hold the score that "
        "far more patients of the same kind would give."
    )
    strays = told.strays()
    odd = f"{counted(strays, 'score')} left out here: of a model that is not the one on record for its round."
    named = list(enumerate(told.charter.metrics))
    charts = (_metric(told, index, name) for index, name in named if not name.startswith(SUPPORT))
    return join(h("p", words), h("p", odd) if strays else Html(), *charts, _supports(told))


def _supports(told: Told) -> Html:
    """Return how many held-out cases of each class the sites have, as far as they told it with their last scores."""
    named = [(index, name) for index, name in enumerate(told.charter.metrics) if name.startswith(SUPPORT)]
    rows = []
    for node in told.nodes:
        bodies = told.scores(node)
        if named and bodies:
            counts = dict(bodies[-1][1].metrics)
            cells = (f"{counts[i] / e.METRIC_SCALE:g}" if i in counts else "-" for i, _ in named)
            rows.append((h("th", told.names[node], scope="row"), *(h("td", cell, class_="n") for cell in cells)))
    kinds = (name.removeprefix(SUPPORT) for _, name in named)
    heads = ("Site", *(f"#class {kind}" if kind.isdigit() else f"#{kind}" for kind in kinds))
    return table_of("Held-out cases of each kind, with the last scores", heads, rows) if rows else Html()


def _metric(told: Told, index: int, name: str) -> Html:
    lines: list[Line] = []
    rows: list[tuple[Html, ...]] = []
    silent: list[tuple[Html, ...]] = []
    spans: dict[str, Interval] = {}
    for node in told.nodes:
        bodies = told.scores(node)
        scored = [(n, body.samples, dict(body.metrics)[index]) for n, body in bodies if index in dict(body.metrics)]
        gaps = _gap_words(bodies, index)
        if not scored:
            if bodies:
                silent.append((h("th", told.names[node], scope="row"), h("td", gaps)))
            continue
        line = Line(told.names[node], [(n, value / e.METRIC_SCALE) for n, _, value in scored])
        values = [value for _, value in line.points]
        held = _spread([samples for _, samples, _ in scored])
        sign = sample(len(lines))
        lines.append(line)
        body = next(body for _, body in reversed(bodies) if index in dict(body.metrics))
        last = {told.charter.metrics[i]: v / e.METRIC_SCALE for i, v in body.metrics if i < len(told.charter.metrics)}
        span = told_interval(name, values[-1], body.samples, last)
        if span is not None:
            spans[told.names[node]] = span
        between = "" if span is None else f"{span.low:.2f} to {span.high:.2f}"
        scores = f"{len(values)}{f'; {gaps}' if gaps else ''}"
        numbers = (f"{v:.4f}" for v in (values[0], min(values), max(values), values[-1]))
        cells = (held, scores, *numbers, between)
        rows.append((h("th", line.name, scope="row"), h("td", sign), *(h("td", cell, class_="n") for cell in cells)))
    kept = table_of(f"{name}: sites without it", ("Site", "Why"), silent) if silent else Html()
    if not lines:
        return join(h("h3", name), h("p", "No site has put this score on record."), kept)
    if not spans:
        rows = [row[:-1] for row in rows]
    many = len(lines) > STYLES
    if many:
        rows = [(row[0], *row[2:]) for row in rows]
    heads = (
        "Site",
        *(() if many else ("Line",)),
        "#Held-out samples",
        "#Scores",
        "#First",
        "#Lowest",
        "#Highest",
        "#Last",
        *(("#95 % interval of the last",) if spans else ()),
    )
    title = f"{name} on each site's held-out data"
    desc = f"One line for each of {counted(len(lines), 'site')}; the table below the picture has the numbers."
    picture = plot(lines, title=title, desc=desc, x_label="round", y_label=name, styled=not many)
    parts = [h("h3", name), h("figure", _scroll(picture, title), h("figcaption", _caption(many)))]
    if many:
        parts.append(_panels(lines))
    words = apart_words(spans)
    order = h("p", words) if words else Html()
    return join(*parts, table_of(f"{name}, by site", heads, rows, tall=many), order, kept)


def _gap_words(bodies: Sequence[tuple[int, e.Evaluation]], index: int) -> str:
    """Say how many of a site's scores lack a metric, and whether that is because they are of too few cases."""
    withheld = sum(1 for _, body in bodies if not body.samples)
    absent = sum(1 for _, body in bodies if body.samples and index not in dict(body.metrics))
    parts = [f"withheld in {counted(withheld, 'round')}: too few cases"] if withheld else []
    return "; ".join([*parts, *([f"none in {counted(absent, 'round')}"] if absent else [])])


def _caption(many: bool) -> str:
    if not many:
        return (
            "Dashes and marks tell the lines apart, as in the table below. A line is broken where a score is missing."
        )
    return "All sites together, to show the spread; below, each site for itself on the same axes."


def _panels(lines: Sequence[Line]) -> Html:
    if len(lines) > PANELS_MAX:
        return Html()
    items = []
    for line in lines:
        (first, begin), (last, end) = line.points[0], line.points[-1]
        desc = f"From {begin:.4f} in round {first} to {end:.4f} in round {last}."
        items.append(h("li", panel(line, lines, desc=desc), h("span", f"{line.name} "), h("b", f"{end:.3f}")))
    return h("ul", *items, class_="panels")


def epochs_section(told: Told) -> Html:
    """Return how the members and the policy of rounds have changed, and who voted for it."""
    if len(told.epochs) == 1:
        return h("p", "Nothing was changed by vote: the founders are the members, on the terms of the charter.")
    rows = []
    for before, view in pairwise(told.epochs):
        assert view.entry is not None, "only the first epoch begins without one"
        assert view.change is not None, "and without a change"
        yes, no = (", ".join(told.names[NodeId(node)] for node in said) for said in (view.entry.yes, view.entry.no))
        cells = (describe(view.change, before.terms), yes, no or "nobody", str(len(view.terms.members)))
        when = (date(view.time_ms, "%Y-%m-%d %H:%M:%S"), str(view.height))
        rows.append(row_of(str(view.terms.epoch), *when, *cells, str(view.terms.quorum)))
    words = (
        "The founders signed the charter. Since then, whatever changed was proposed by a member and voted for by a "
        "quorum of those who were members at that time; each line holds from the block after the given one on. A "
        "site's part in earlier rounds stays on record when it leaves."
    )
    heads = ("Epoch", "Agreed (UTC)", "Block", "What changed", "Said yes", "Said no", "#Members", "#Quorum")
    return join(h("p", words), table_of("Changes by vote", heads, rows))


def models_section(told: Told) -> Html:
    """Return the models' lineage, from the initial one on."""
    initial = told.charter.task.initial_model
    listed = [n for n in told.listed() if told.views[n].commit is not None]
    rows = [_model_row(told, number) for number in listed]
    start = (h("th", "0", scope="row"), h("td", h("code", grouped(initial.hex()))), *_cells("in the charter", "", ""))
    words = (
        "A fingerprint is a number computed from every bit of a model: another model has another one. (It is not the "
        "checksum of an exported file.) A round finishes when enough sites state the same fingerprint."
    )
    if told.exchanges:
        words += (
            " In a round of gossip there is no such model yet: each site states its own, from which it goes on, and "
            "nobody else can check that it is what the exchanges make it."
        )
    heads = ("Round", "Fingerprint of the model", "Stated by", "Block", "Finished (UTC)")
    without = len(told.committed) - len(listed)
    more = h("p", f"{counted(without, 'earlier round')} not listed.") if without else Html()
    return join(h("p", words), table_of("Models, the latest first", heads, [*rows, start], tall=True), more)


def _model_row(told: Told, number: int) -> tuple[Html, ...]:
    view = told.views[number]
    assert view.commit is not None, "only finished rounds are asked for"
    stated = f"{view.commit.attests} of {counted(len(told.terms_at(view.height).members), 'site')}"
    fingerprint = h("td", h("code", grouped(view.commit.model_digest.hex())))
    if number in told.exchanges:
        stated = f"{len(view.models)} of {counted(len(told.sites(number)), 'site')}, each its own"
        fingerprint = h("td", _own_models(told, view))
    when = date(view.committed_ms, "%Y-%m-%d %H:%M:%S")
    return (h("th", str(number), scope="row"), fingerprint, *_cells(stated, str(view.height), when))


def _own_models(told: Told, view: RoundView) -> Html:
    """Return what each site says it ended a round of gossip with."""
    mine = [(told.names[node], grouped(view.models[node].hex())) for node in told.nodes if node in view.models]
    whole = h("ul", *(h("li", f"{name} ", h("code", digits)) for name, digits in mine))
    return whole if len(mine) <= INLINE_MAX else h("details", h("summary", counted(len(mine), "model")), whole)


def table_of(caption: str, heads: Sequence[str], rows: Iterable[Sequence[Html]], *, tall: bool = False) -> Html:
    """Return a table in a box that scrolls. A head that begins with # stands over numbers."""
    titles = (h("th", text.removeprefix("#"), scope="col", class_="n" if text[:1] == "#" else "") for text in heads)
    head, body = h("thead", h("tr", *titles)), h("tbody", *(h("tr", *row) for row in rows))
    table = h("table", h("caption", caption), head, body, class_="wide" if len(heads) >= WIDE_MIN else "")
    return _scroll(table, caption, tall=tall)


def _scroll(content: Html, label: str, *, tall: bool = False) -> Html:
    """Return what may be wider than a phone in a box that scrolls, by keyboard too."""
    return h("div", content, class_="scroll tall" if tall else "scroll", tabindex=0, role="region", aria_label=label)


def _cells(*texts: str) -> tuple[Html, ...]:
    return tuple(h("td", text) for text in texts)


def row_of(name: str, *texts: str) -> tuple[Html, ...]:
    """Return a row of a table: its head and its cells."""
    return (h("th", name, scope="row"), *_cells(*texts))


def counted(n: int, noun: str) -> str:
    """Return a number and its noun: "1 site", "3,000 sites", "no sites"."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{n:,} {noun if n == 1 else plural}" if n else f"no {plural}"


def percent_of(part: int, whole: int) -> str:
    """Return a share rounded down: nothing short of everything reads as 100 %."""
    return f"{1000 * part // whole / 10:g} %" if whole else "none"


def _spread(counts: Sequence[int]) -> str:
    if not counts:
        return "none"
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _range(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers in words: "1, 4 to 9 and 3 more stretches"."""
    stretches: list[list[int]] = []
    for number in numbers:
        if stretches and stretches[-1][-1] == number - 1:
            stretches[-1].append(number)
        else:
            stretches.append([number])
    words = ", ".join(_range(stretch) for stretch in stretches[:RANGES_MAX])
    rest = sum(len(stretch) for stretch in stretches[RANGES_MAX:])
    return f"{words} and {counted(rest, 'later round')}" if rest else words


def span_words(ms: int) -> str:
    """Return a length of time in words, in the largest unit that it fills twice or exactly."""
    for unit, size in (("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000), ("second", 1_000)):
        if ms >= 2 * size or ms == size or ms >= size == 1_000:
            number = f"{ms / size:.3g}"
            return f"{number} {unit}{'' if number == '1' else 's'}"
    return f"{ms} milliseconds"


def grouped(digits: str) -> str:
    """Return digits in groups of four, as one reads them to somebody."""
    return " ".join(digits[i : i + 4] for i in range(0, len(digits), 4))

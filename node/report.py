"""What a ledger says, as one page for somebody who never opens a terminal: an auditor of a hospital, a data officer.

The page is a single file that fetches nothing and runs nothing, so that it can be mailed, printed and filed, and reads
the same in ten years. The verdict comes first, with what to do about it; what a ledger cannot prove is said as plainly
as what it proves. This module judges nothing: whether the ledger holds is decided by `swarm.ledger.audit` and by
whoever read the files, and every number here is one that the audit recomputed or that a member signed. Names come from
the charter, which strangers may have written, so all text is escaped on its way in (`node.svg.h`).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from node.svg import STYLE, STYLES, Html, Line, date, h, join, mark, panel, plot, progress, sample, symbols
from swarm.charter import SignedCharter
from swarm.ledger import entry as e
from swarm.ledger import evidence
from swarm.ledger.audit import Audit, RoundView, weights
from swarm.ledger.block import faults
from swarm.machine import NodeId

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

INLINE_MAX = 8
"""Sites whose shares stand in the row of a round; more are unfolded on demand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the ledger holds, from whoever read its files and audited them with signatures checked.

    `place` and `problem` say where and why an invalid one fails, and `advice` what to do; `notes` is for what is worth
    knowing of a valid one, such as a last write that is not whole. A ledger whose last blocks no certificate covers
    yet is valid here: the report sees that in the audit, and says so.
    """

    valid: bool
    place: str = ""
    problem: str = ""
    advice: str = ""
    notes: tuple[str, ...] = ()


class _Part(Enum):
    """A site's part in a round; the value is the sign it is shown with."""

    IN = "in"
    OUT = "out"
    MISSING = "missing"
    WAITING = "waiting"
    NOT_YET = "none"


_PART_WORDS = {
    _Part.IN: "took part",
    _Part.OUT: "sent an update that was left out",
    _Part.MISSING: "sent nothing in time",
    _Part.WAITING: "sent an update; the round is still open",
    _Part.NOT_YET: "nothing yet; the round is still open",
}

_REASON_WORDS = {
    e.UNUSABLE: "its update was unusable: not all of it numbers, or larger than the charter allows",
    e.UNAVAILABLE: "its update could not be fetched before the round had to close",
    e.OTHER_BASE: "its update did not start from the model of the round before",
}

_RULE_WORDS = {
    evidence.TWO_NOTARIZED: "In one step of the agreement it signed a vote for each of two different blocks.",
    evidence.SKIPPED_AND_FINALIZED: "In one step of the agreement it signed both that it gave up waiting for a block "
    "and that this block is final.",
    evidence.TWO_FINALIZED: "In one step of the agreement it signed for two different blocks that they are final.",
    evidence.NOTARIZED_AND_FINALIZED: "In one step of the agreement it signed a vote for one block, and that another "
    "one is final.",
    evidence.TWO_PROPOSALS: "When it was its turn to propose the next block, it signed two different ones.",
    evidence.TWO_ENTRIES: "It signed two different statements under one and the same number of its own series.",
    evidence.TWO_CONTRIBUTIONS: "It signed two different updates as the same attempt at one round.",
}

_CANNOT = (
    (
        "That the data at the sites are what they should be. Numbers of samples and measured scores are each site's "
        "own statement: the ledger proves who signed it and that it was not changed since, but not that it is true."
    ),
    "That the model is good or safe for patients, or that the data were used lawfully.",
    (
        "That the average was computed well from the updates. The ledger holds fingerprints of updates and models, not "
        "the updates and models. It proves that enough sites came to exactly the same result independently."
    ),
    (
        "That this copy is complete. A copy can lack its latest entries and still hold. Compare the number of entries "
        "and the root, below, with another member."
    ),
    "The exact time of anything. Times come from the clocks of the sites; the ledger proves only their order.",
)


def report(audit: Audit, signed: SignedCharter, *, verdict: Verdict, made_ms: int) -> str:
    """Return the page, a whole HTML document. `made_ms` is the time of making it, Unix milliseconds.

    `audit` is the last one that `swarm.ledger.audit.audit` yielded, with signatures checked. An audit that failed is
    never shown as valid, whatever `verdict` says.
    """
    told = _Ledger(audit, signed)
    name = signed.charter.name
    sections = (
        ("verdict", "Verdict", _verdict(told, verdict)),
        ("swarm", "The swarm and its terms", _swarm(told)),
        ("rounds", "Rounds", _rounds(told)),
        ("sites", "What each site contributed", _sites(told)),
        ("metrics", "Scores over the rounds", _metrics(told)),
        ("evidence", "Broken rules on record", _evidence(told)),
        ("models", "Models, round by round", _models(told)),
        ("compare", "Numbers to compare with another site", _compare(told, verdict)),
    )
    links = (h("li", h("a", title, href=f"#{id_}")) for id_, title, _ in sections)
    policy = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h(
            "meta",
            http_equiv="Content-Security-Policy",
            content=f"default-src 'none'; style-src 'sha256-{policy}'; base-uri 'none'; form-action 'none'",
        ),
        h("meta", name="referrer", content="no-referrer"),
        h("meta", name="color-scheme", content="light dark"),
        h("title", f"Audit report: {name}"),
        h("style", Html(STYLE)),
    )
    body = h(
        "body",
        h("a", "Skip to the verdict", href="#verdict", class_="skip"),
        symbols(),
        h("header", h("p", "Audit report", class_="kind"), h("h1", name), h("p", f"Made {date(made_ms)}")),
        h("nav", h("ul", *links), aria_label="Sections"),
        h("main", *(_section(*section) for section in sections)),
        h("footer", h("p", "Made from the ledger alone. This page fetches nothing and runs no program.")),
    )
    return f"<!doctype html>\n{h('html', head, body, lang='en')}\n"


# --- the ledger, put in order -----------------------------------------------------------------------------------


class _Ledger:
    """An audit with what several sections ask for: names, the rounds that exist, who did what in each."""

    def __init__(self, audit: Audit, signed: SignedCharter) -> None:
        self.audit, self.signed, self.charter = audit, signed, signed.charter
        self.nodes = [card.node for card in self.charter.members]
        self.names = {card.node: card.name for card in self.charter.members}
        # Members may write about any round number, so only the charter's rounds become rows and axes.
        closed = [n for n, view in audit.rounds.items() if view.closed is not None and n >= 1]
        # The state may already know a block that failed at its certificate, so it is not asked which round is open.
        finished = max((n for n in closed if audit.rounds[n].commit is not None), default=0)
        opened = [finished + 1] if finished + 1 in audit.rounds and finished < self.charter.round.rounds else []
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

    def part(self, number: int, node: NodeId) -> _Part:
        """Return what a site did in a round."""
        view = self.views[number]
        if view.closed is None:
            return _Part.WAITING if node in view.contributions else _Part.NOT_YET
        if node in self.shares[number]:
            return _Part.IN
        return _Part.MISSING if node in self.missing[number] else _Part.OUT

    def model(self, number: int) -> bytes | None:
        """Return the digest of the model on record for a round; round 0 stands for the initial one."""
        if number == 0:
            return self.charter.task.initial_model
        view = self.views.get(number)
        return view.commit.model_digest if view is not None and view.commit is not None else None

    def scores(self, node: NodeId) -> list[tuple[int, e.Evaluation]]:
        """Return a site's scores of models that are on record, by round."""
        numbers = (0, *self.numbers) if 0 in self.audit.rounds else self.numbers
        found = ((n, self.audit.rounds[n].evaluations.get(node)) for n in numbers)
        return [(n, body) for n, body in found if body is not None and body.model_digest == self.model(n)]

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


# --- verdict ----------------------------------------------------------------------------------------------------


def _verdict(told: _Ledger, verdict: Verdict) -> Html:
    audit = told.audit
    ok = verdict.valid and audit.failure is None
    entries, blocks = _count(audit.entries, "entry"), _count(audit.blocks, "block")
    if not ok:
        box = _invalid(told, verdict)
    elif audit.uncovered:
        last = "The last block is" if audit.uncovered == 1 else f"The last {audit.uncovered} blocks are"
        text = (
            f"Everything that could be checked holds, but this copy was taken before its end was final. {last} not "
            "yet signed as final by enough members, and may still be replaced."
        )
        advice = "start the site's node, let it catch up with the others, and make the report again."
        box = _box("unsure", "VALID, but not final to the end", h("p", text), _advice(advice))
    else:
        text = f"All {entries} in {blocks} were checked, and all of them hold."
        advice = "compare the numbers at the end of this page with another member, for example by phone."
        box = _box("good", "VALID", h("p", text), _advice(advice))
    box = join(box, _warning(told, ok=ok))
    notes = h("ul", *(h("li", note) for note in verdict.notes)) if verdict.notes else Html()
    checked = h("div", h("h3", "What was checked" if ok else "What was checked up to that place"), _checked(told))
    cannot = h("div", h("h3", "What no ledger can prove"), h("ul", *(h("li", text) for text in _cannot(told))))
    return join(box, notes, _glance(told), h("div", checked, cannot, class_="two"))


def _invalid(told: _Ledger, verdict: Verdict) -> Html:
    failure = told.audit.failure
    place = verdict.place or (f"block {failure.height}" if failure is not None else "")
    problem = verdict.problem or (failure.text if failure is not None else "")
    advice = verdict.advice or "keep this copy as it is, and compare it with the ledger of another member."
    rows = [h("p", h("strong", word), f" {text}") for word, text in (("Where:", place), ("What:", problem)) if text]
    rest = (
        f"Do not rely on this copy. The rest of this page describes only the {_count(told.audit.entries, 'entry')} "
        "before that place."
    )
    return _box("out", "INVALID", *rows, _advice(advice), h("p", rest))


def _warning(told: _Ledger, *, ok: bool) -> Html:
    """A ledger that holds may hold bad news."""
    charges = _accused(told)
    if not charges:
        return Html()
    culprits = sorted({told.names.get(culprit, culprit.hex()) for (culprit, _), _ in charges})
    words = f" {', '.join(culprits)}.{' The ledger holds all the same. ' if ok else ' '}{_borne(told)}"
    link = h("a", f"{_count(len(charges), 'broken rule')} on record", href="#evidence")
    return h("p", mark("out", ""), " ", h("strong", link, ", by"), words, class_="warning")


def _box(kind: str, word: str, *children: Html) -> Html:
    return h("div", h("p", mark(kind, ""), word, class_="word"), *children, class_=f"verdict {kind}")


def _advice(text: str) -> Html:
    return h("p", h("strong", "What to do:"), f" {text}")


def _glance(told: _Ledger) -> Html:
    _audit, charter = told.audit, told.charter
    last = date(told.committed[-1].committed_ms, "%Y-%m-%d") if told.committed else "none"
    taken = sum(1 for number in told.numbers for node in told.nodes if told.part(number, node) is _Part.IN)
    asked = sum(len(told.nodes) for view in told.views.values() if view.closed is not None)
    facts = (
        (f"{told.finished} of {charter.round.rounds}", "rounds finished"),
        (str(len(told.nodes)), "sites"),
        (_percent(taken, asked), "of the updates asked for are in"),
        (str(len(_accused(told))), "broken rules on record"),
        (last, "last finished round (UTC)"),
    )
    return h("dl", *(h("div", h("dt", words), h("dd", value)) for value, words in facts), class_="glance")


def _checked(told: _Ledger) -> Html:
    audit, members = told.audit, len(told.nodes)
    signed = members - len(told.signed.missing())
    items = (
        f"The charter, which is the agreement of the founders: signed by {signed} of {_count(members, 'member')}.",
        (
            f"The chain: each of {_count(audit.blocks, 'block')} names the fingerprint of the one before it, so "
            "nothing can be changed, removed or put in between without breaking it."
        ),
        (
            f"Finality: {_count(audit.certificates, 'certificate')}, each signed by at least {told.charter.quorum} of "
            f"{_count(members, 'member')}, cover {audit.covered} of the {_count(audit.blocks, 'block')}."
        ),
        (
            f"The signature of every statement among {_count(audit.entries, 'entry')}, and that no site's series of "
            "statements has a gap."
        ),
        (
            f"The rounds: who is in, with what weight, and which model came out, recomputed for "
            f"{_count(told.finished, 'finished round')} and equal to what is recorded."
        ),
        "The root: one number computed over all entries, recomputed and equal.",
    )
    return h("ul", *(h("li", item) for item in items))


def _cannot(told: _Ledger) -> tuple[str, ...]:
    most = faults(len(told.nodes))
    more = "even one member" if not most else f"more than {_count(most, 'member')} together"
    forged = (
        f"That there is no second history, if {more} broke the rules on purpose. Comparing the root, below, with "
        "another member brings that to light."
    )
    return (*_CANNOT, forged)


# --- the swarm --------------------------------------------------------------------------------------------------


def _swarm(told: _Ledger) -> Html:
    charter, n = told.charter, len(told.nodes)
    silent, liars = n - charter.quorum, faults(n)
    goes_on = (
        f"The swarm goes on when {_count(silent, 'site')} {'is' if silent == 1 else 'are'} silent or out of reach"
        if silent
        else "The swarm waits when any site is silent or out of reach"
    )
    bears = (
        f"the record stays right even if {_count(liars, 'site')} {'breaks' if liars == 1 else 'break'} the rules "
        "on purpose"
        if liars
        else "the record relies on every site keeping to the rules"
    )
    words = (
        f"{_count(n, 'site')} {'learns' if n == 1 else 'learn'} one model together without sending each other any "
        f"data. Something becomes final when at least {charter.quorum} of {n} sign it (the quorum). {goes_on}, and "
        f"{bears}."
    )
    rows = [
        (
            h("th", card.name, scope="row"),
            h("td", h("code", _grouped(card.node.hex()[:16]))),
            h("td", "yes" if i in told.signed.signatures else "no"),
            h("td", _standing(told, card.node)),
        )
        for i, card in enumerate(charter.members)
    ]
    members = _table("Members", ("Site", "Begin of its id", "Signed the charter", "On record"), rows, tall=True)
    terms = _table("Terms of the charter", ("Term", "Agreed"), [_row(*pair) for pair in _terms(told)])
    return join(h("p", words), members, terms)


def _standing(told: _Ledger, node: NodeId) -> str:
    charges = sum(1 for (culprit, _), _ in _accused(told) if culprit == node)
    return f"broke {_count(charges, 'rule')}, see below" if charges else "nothing against it"


def _terms(told: _Ledger) -> list[tuple[str, str]]:
    charter = told.charter
    policy, task, ledger = charter.round, charter.task, charter.ledger
    cap = policy.weight_cap_ppm
    outer = {"none": "becomes the new model as it is"}.get(policy.outer, f"goes through the step {policy.outer!r}")
    terms = [
        ("Agreed on", date(charter.created_ms)),
        ("Task", f"{task.name}, a model of {task.parameters:,} numbers (parameters)"),
        ("Rounds", f"{policy.rounds:,}. In each, every site trains the model on its own data and sends the change"),
        ("How updates are combined", f"mean, weighted by each site's number of samples; it {outer}"),
        ("Largest share of one site", f"{cap / 10_000:g} %" if cap < 1_000_000 else "no limit"),
        ("Sites a round needs", f"at least {policy.min_contributions} of {len(told.nodes)}"),
        (
            "Waiting for a site",
            f"up to {_span(policy.patience_ms)} without progress, {_span(policy.deadline_ms)} in all",
        ),
        ("Largest update", f"{charter.clip_norm:g} (length of the change as a vector; limits what one site can do)"),
        ("Scores on record", ", ".join(charter.metrics) or "none"),
        ("Must outvote a liar", "yes, agreed in the charter" if ledger.require_byzantine else "not required"),
        ("When a rule is broken", "it goes on record; the site stays a member"),
        ("Clocks may differ by", _span(ledger.max_skew_ms)),
        ("Links between sites", _count(len(charter.edges), "link") if charter.edges else "everyone with everyone"),
    ]
    for ledger_id, size, _ in charter.predecessor:
        terms.append(("Continues the ledger", f"{_grouped(ledger_id.hex())}, after {_count(size, 'entry')}"))
    return terms


# --- rounds -----------------------------------------------------------------------------------------------------


def _rounds(told: _Ledger) -> Html:
    if not told.numbers:
        return h("p", "No round is on record yet.")
    listed = told.listed()
    rows = [_round_row(told, number) for number in listed]
    without = len(told.numbers) - len(listed)
    heads = ("Round", "Finished (UTC)", "#Sites in", "#Samples", "Not in it, and why", "Share of each site in the mean")
    table = _table("Rounds, the latest first", heads, rows, tall=True)
    more = h("p", f"{_count(without, 'earlier round')} not listed one by one.") if without else Html()
    return join(_timeline(told), _matrix(told), _gaps(told), table, more)


def _timeline(told: _Ledger) -> Html:
    """Return when the rounds finished, from the first on: a charter may be signed long before its swarm begins."""
    steps = [(view.committed_ms, view.number) for view in told.committed]
    if len(steps) < 2:
        return Html()
    flagged = [step for step in steps if len(told.shares[step[1]]) < len(told.nodes)]
    longest, at = max((after[0] - before[0], after[1]) for before, after in pairwise(steps))
    words = (
        f"{_count(len(steps), 'round')} finished from {date(steps[0][0])} to {date(steps[-1][0])}. "
        f"The longest wait was {_span(longest)}, for round {at}. "
    )
    rings = f"A ring marks a round that lacks a site ({len(flagged)} of {len(steps)})."
    words += rings if flagged else "No round lacks a site."
    title = "Rounds finished over time"
    picture = progress(steps, flagged, title=title, desc=words, y_label="rounds finished")
    return h("figure", _scroll(picture, title), h("figcaption", words))


def _matrix(told: _Ledger) -> Html:
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


def _cell(parts: Sequence[_Part]) -> Html:
    """Return the sign for a site's part in one round or in several: what went wrong shows, however rare."""
    if len(parts) == 1:
        return mark(parts[0].value, _PART_WORDS[parts[0]]) if parts[0] is not _Part.NOT_YET else Html("&#8203;")
    counts = {part: parts.count(part) for part in _Part}
    kind = (
        "out"
        if counts[_Part.OUT]
        else "in"
        if counts[_Part.IN] == len(parts)
        else "part"
        if counts[_Part.IN]
        else "missing"
    )
    words = "; ".join(f"{_PART_WORDS[part]}: {count} of {len(parts)}" for part, count in counts.items() if count)
    return mark(kind, words)


def _gaps(told: _Ledger) -> Html:
    """Say which rounds each site is not in, exactly: the table above may stand for several rounds a column."""
    rows = []
    for node in told.nodes:
        missing = [n for n in told.numbers if told.part(n, node) is _Part.MISSING]
        left_out: dict[int, list[int]] = {}
        for number in told.numbers:
            if told.part(number, node) is _Part.OUT:
                left_out.setdefault(told.rejected[number].get(node, 0), []).append(number)
        if missing:
            rows.append(_row(told.names[node], _ranges(missing), _PART_WORDS[_Part.MISSING]))
        for reason, numbers in sorted(left_out.items()):
            rows.append(_row(told.names[node], _ranges(numbers), _REASON_WORDS.get(reason, "its update was left out")))
    late = sum(len(view.commit.late) for view in told.committed if view.commit is not None)
    after = (
        h("p", f"{_count(late, 'update')} came after its round had closed: on record, in no mean.") if late else Html()
    )
    if not rows:
        return join(h("p", "No site is missing from any closed round."), after)
    return join(_table("Gaps", ("Site", "Not in rounds", "Why"), rows), after)


def _round_row(told: _Ledger, number: int) -> tuple[Html, ...]:
    view, shares = told.views[number], told.shares[number]
    if view.closed is None:
        there = len(view.contributions)
        cells = ("still open", f"{there} of {len(told.nodes)} so far", "", "", "")
        return (h("th", str(number), scope="row"), *(h("td", cell) for cell in cells))
    absent = []
    for node in told.nodes:
        match told.part(number, node):
            case _Part.MISSING:
                absent.append(h("li", f"{told.names[node]}: sent nothing in time"))
            case _Part.OUT:
                reason = _REASON_WORDS.get(told.rejected[number].get(node, 0), "its update was left out")
                absent.append(h("li", f"{told.names[node]}: {reason}"))
            case _:
                pass
    samples = sum(placed.body.samples for placed in view.closed.terms)
    return (
        h("th", str(number), scope="row"),
        h("td", date(view.committed_ms, "%Y-%m-%d %H:%M:%S") if view.commit is not None else "closed, not finished"),
        h("td", f"{len(shares)} of {len(told.nodes)}", class_="n"),
        h("td", f"{samples:,}", class_="n"),
        h("td", h("ul", *absent) if absent else "nobody"),
        h("td", _shares(told, shares)),
    )


def _shares(told: _Ledger, shares: Mapping[NodeId, float]) -> Html:
    words = [f"{told.names[node]} {shares[node]:.1%}" for node in told.nodes if node in shares]
    text = join(", ".join(words))
    return text if len(words) <= INLINE_MAX else h("details", h("summary", _count(len(words), "site")), text)


# --- sites ------------------------------------------------------------------------------------------------------


def _sites(told: _Ledger) -> Html:
    numbers = [number for number in told.numbers if told.views[number].closed is not None]
    if not numbers:
        return h("p", "No round has closed yet, so nobody's update is in a model.")
    bodies = {n: _included(told.views[n]) for n in numbers}
    rows = []
    for node in told.nodes:
        terms = [(n, bodies[n][node]) for n in numbers if node in bodies[n]]
        shares = [told.shares[n][node] for n, _ in terms]
        counts = [body.samples for _, body in terms]
        rows.append(
            (
                h("th", told.names[node], scope="row"),
                h("td", f"{len(terms)} of {len(numbers)}", class_="n"),
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
    return join(h("p", words), _table("Contributions", heads, rows))


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


def _remark(told: _Ledger, bodies: Sequence[e.Contribution]) -> str:
    other = sum(1 for body in bodies if body.code_digest != told.charter.task.digest)
    data = len({body.data_digest for body in bodies})
    again = sum(1 for body in bodies if body.attempt > 1)
    remarks = [
        f"another training program than agreed in {_count(other, 'round')}" if other else "",
        f"its data changed: {data} versions" if data > 1 else "",
        f"trained again in {_count(again, 'round')}" if again else "",
    ]
    return "; ".join(remark for remark in remarks if remark) or "none"


# --- scores -----------------------------------------------------------------------------------------------------


def _metrics(told: _Ledger) -> Html:
    if not told.charter.metrics:
        return h("p", "The charter names no scores to put on record.")
    words = (
        "After a round, each site tries the new model on data that it keeps apart and never trains on (held-out "
        "data). The scores are each site's own statement. Whether more or less is better depends on the score."
    )
    strays = told.strays()
    odd = f"{_count(strays, 'score')} left out here: of a model that is not the one on record for its round."
    charts = (_metric(told, index, name) for index, name in enumerate(told.charter.metrics))
    return join(h("p", words), h("p", odd) if strays else Html(), *charts)


def _metric(told: _Ledger, index: int, name: str) -> Html:
    lines: list[Line] = []
    rows: list[tuple[Html, ...]] = []
    for node in told.nodes:
        scored = [
            (n, body.samples, dict(body.metrics)[index]) for n, body in told.scores(node) if index in dict(body.metrics)
        ]
        if not scored:
            continue
        line = Line(told.names[node], [(n, value / e.METRIC_SCALE) for n, _, value in scored])
        values = [value for _, value in line.points]
        held = _spread([samples for _, samples, _ in scored])
        sign = sample(len(lines))
        lines.append(line)
        cells = (held, str(len(values)), *(f"{v:.4f}" for v in (values[0], min(values), max(values), values[-1])))
        rows.append((h("th", line.name, scope="row"), h("td", sign), *(h("td", cell, class_="n") for cell in cells)))
    if not lines:
        return join(h("h3", name), h("p", "No site has put this score on record."))
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
    )
    title = f"{name} on each site's held-out data"
    desc = f"One line for each of {_count(len(lines), 'site')}; the table below the picture has the numbers."
    picture = plot(lines, title=title, desc=desc, x_label="round", y_label=name, styled=not many)
    parts = [h("h3", name), h("figure", _scroll(picture, title), h("figcaption", _caption(many)))]
    if many:
        parts.append(_panels(lines))
    return join(*parts, _table(f"{name}, by site", heads, rows, tall=many))


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


# --- evidence, models, identifiers ------------------------------------------------------------------------------


def _accused(told: _Ledger) -> list[tuple[tuple[NodeId, int], int]]:
    """Return ((culprit, rule), entry index) in the order of the log, of the part that holds.

    A block may fail at its certificate, when the state already knows its entries: those are not believed.
    """
    charges = told.audit.state.accused.items()
    return sorted((item for item in charges if item[1] < told.audit.entries), key=lambda item: item[1])


def _evidence(told: _Ledger) -> Html:
    charges = _accused(told)
    if not charges:
        words = (
            "None. No two signed statements that contradict each other are on record. This shows that nobody was "
            "caught, not that nobody tried."
        )
        return h("p", words)
    rows = [
        (
            h("th", told.names.get(culprit, culprit.hex()), scope="row"),
            h("td", _RULE_WORDS.get(rule, evidence.RULES.get(rule, f"rule {rule}"))),
            h("td", f"{rule}: {evidence.RULES.get(rule, 'unknown')}"),
            h("td", str(index), class_="n"),
        )
        for (culprit, rule), index in charges
    ]
    words = (
        "Each line rests on two messages that the site itself signed and that no correctly working site signs both "
        "of. Both are in the ledger, at the given entry, and were checked for this report. The cause can be fraud, "
        "but also two copies of one site running at once, for example after a backup was restored: ask the site."
    )
    heads = ("Site", "What it did", "Rule, as the ledger names it", "#Entry")
    return join(h("p", words), h("p", _borne(told)), _table("Broken rules", heads, rows))


def _borne(told: _Ledger) -> str:
    """Say whether the swarm bears as many culprits as are on record."""
    culprits, most = len({culprit for (culprit, _), _ in _accused(told)}), faults(len(told.nodes))
    who = _count(culprits, "site")
    if culprits <= most:
        return (
            f"{who} broke a rule; a swarm of this size bears {most}. "
            "This alone cannot have made a second history final."
        )
    return (
        f"{who} broke a rule; a swarm of this size bears {most or 'none'}. Together they could have made a second "
        "history: compare the root, below, with every other member before you rely on this one."
    )


def _models(told: _Ledger) -> Html:
    initial = told.charter.task.initial_model
    listed = [n for n in told.listed() if told.views[n].commit is not None]
    rows = [_model_row(told, number) for number in listed]
    start = (h("th", "0", scope="row"), h("td", h("code", _grouped(initial.hex()))), *_cells("in the charter", "", ""))
    words = (
        "A fingerprint is a number computed from every bit of a model: another model has another one. (It is not the "
        "checksum of an exported file.) A round finishes when enough sites state the same fingerprint."
    )
    heads = ("Round", "Fingerprint of the model", "Stated by", "Block", "Finished (UTC)")
    without = len(told.committed) - len(listed)
    more = h("p", f"{_count(without, 'earlier round')} not listed.") if without else Html()
    return join(h("p", words), _table("Models, the latest first", heads, [*rows, start], tall=True), more)


def _model_row(told: _Ledger, number: int) -> tuple[Html, ...]:
    view = told.views[number]
    assert view.commit is not None, "only finished rounds are asked for"
    stated = f"{view.commit.attests} of {_count(len(told.nodes), 'site')}"
    fingerprint = h("td", h("code", _grouped(view.commit.model_digest.hex())))
    when = date(view.committed_ms, "%Y-%m-%d %H:%M:%S")
    return (h("th", str(number), scope="row"), fingerprint, *_cells(stated, str(view.height), when))


def _compare(told: _Ledger, verdict: Verdict) -> Html:
    audit = told.audit
    ok = verdict.valid and audit.failure is None
    words = (
        "Call another member and read these to each other. With the same number of entries, the root must be the same "
        "to the last digit: then both hold the same history. With different numbers of entries one of the copies is "
        "merely older; make both reports again. With the same number and different roots, keep both copies and tell "
        "everybody: somebody shows different histories to different members."
    )
    rows = [
        ("Ledger", _grouped(told.signed.ledger_id.hex())),
        ("Number of entries", f"{audit.entries:,}"),
        # A block that fails at its certificate is already in the state's tree: its root belongs to nothing that holds.
        ("Root", _grouped(audit.state.frontier.root().hex()) if audit.state.size == audit.entries else "none"),
        ("Blocks", f"{audit.blocks:,}"),
        ("Model of the last finished round", _grouped((told.model(told.finished) or b"").hex())),
    ]
    caution = (
        h("p", h("strong", "This copy is invalid: these numbers are of the part before the place above."))
        if not ok
        else Html()
    )
    cells = [(h("th", name, scope="row"), h("td", h("code", value))) for name, value in rows]
    return join(h("p", words), caution, _table("This copy", ("What", "Value"), cells))


# --- markup and words -------------------------------------------------------------------------------------------


def _section(id_: str, title: str, content: Html) -> Html:
    return h("section", h("h2", title, id=f"{id_}-title"), content, id=id_, aria_labelledby=f"{id_}-title")


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[Html]], *, tall: bool = False) -> Html:
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


def _row(name: str, *texts: str) -> tuple[Html, ...]:
    return (h("th", name, scope="row"), *_cells(*texts))


def _count(n: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{n:,} {noun if n == 1 else plural}" if n else f"no {plural}"


def _percent(part: int, whole: int) -> str:
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
    return f"{words} and {_count(rest, 'later round')}" if rest else words


def _span(ms: int) -> str:
    """Return a length of time in words, in the largest unit that it fills twice or exactly."""
    for unit, size in (("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000), ("second", 1_000)):
        if ms >= 2 * size or ms == size or ms >= size == 1_000:
            number = f"{ms / size:.3g}"
            return f"{number} {unit}{'' if number == '1' else 's'}"
    return f"{ms} milliseconds"


def _grouped(digits: str) -> str:
    """Return digits in groups of four, as one reads them to somebody."""
    return " ".join(digits[i : i + 4] for i in range(0, len(digits), 4))

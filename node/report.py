"""What a ledger says, as one page for somebody who never opens a terminal: an auditor of a hospital, a data officer.

The page is a single file that fetches nothing and runs nothing, so that it can be mailed, printed and filed, and reads
the same in ten years. The verdict comes first, with what to do about it; what a ledger cannot prove is said as plainly
as what it proves. This module judges nothing: whether the ledger holds is decided by `swarm.ledger.audit` and by
whoever read the files, and every number here is one that the audit recomputed or that a member signed. Names come from
the charter, which strangers may have written, so all text is escaped on its way in (`node.svg.h`).
"""

from __future__ import annotations

from dataclasses import dataclass

from node.report_contributions import contributions_section
from node.report_tables import (
    Part,
    Told,
    counted,
    epochs_section,
    grouped,
    models_section,
    percent_of,
    rounds_section,
    row_of,
    scores_section,
    sites_section,
    span_words,
    table_of,
)
from node.svg import STYLE, Html, date, document, h, join, mark
from swarm.charter import Charter, SignedCharter
from swarm.ledger import evidence
from swarm.ledger.audit import Audit
from swarm.ledger.block import faults
from swarm.ledger.state import best_of, noise_words, outcome
from swarm.machine import NodeId


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
        "That this copy is complete. A copy can lack its latest entries and still hold. Compare the number of entries "
        "and the root, below, with another member."
    ),
    "The exact time of anything. Times come from the clocks of the sites; the ledger proves only their order.",
)


_AVERAGE = (
    "That the average was computed well from the updates. The ledger holds fingerprints of updates and models, not "
    "the updates and models. It proves that enough sites came to exactly the same result independently."
)

_BLEND = (
    "That a site blended its model with others as the exchanges say. In a round of gossip the fingerprint of a site's "
    "model, and how far it is from the others', are that site's own statements. Only in the last round do enough sites "
    "come to exactly the same result independently, from the models that all of them offered."
)


def report(audit: Audit, signed: SignedCharter, *, verdict: Verdict, made_ms: int) -> str:
    """Return the page, a whole HTML document. `made_ms` is the time of making it, Unix milliseconds.

    `audit` is the last one that `swarm.ledger.audit.audit` yielded, with signatures checked. An audit that failed is
    never shown as valid, whatever `verdict` says.
    """
    told = Told(audit, signed)
    name = signed.charter.name
    sections = (
        ("verdict", "Verdict", _verdict(told, verdict)),
        ("swarm", "The swarm and its terms", _swarm(told)),
        ("epochs", "Members that came and went", epochs_section(told)),
        ("rounds", "Rounds", rounds_section(told)),
        ("sites", "What each site contributed", sites_section(told)),
        *((("worth", "What sites' work was worth", contributions_section(told)),) if _asked_for(told) else ()),
        ("metrics", "Scores over the rounds", scores_section(told)),
        ("evidence", "Broken rules on record", _evidence(told)),
        ("models", "Models, round by round", models_section(told)),
        ("compare", "Numbers to compare with another site", _compare(told, verdict)),
    )
    return document(
        kind="Audit report",
        title=name,
        style=STYLE,
        skip=("Skip to the verdict", "verdict"),
        about=h("p", f"Made {date(made_ms)}"),
        sections=sections,
        footer="Made from the ledger alone. This page fetches nothing and runs no program.",
    )


def _asked_for(told: Told) -> bool:
    """Whether the charter says how the worth of contributions is told."""
    return told.charter.contribution is not None


# --- verdict ----------------------------------------------------------------------------------------------------


def _verdict(told: Told, verdict: Verdict) -> Html:
    audit = told.audit
    ok = verdict.valid and audit.failure is None
    entries, blocks = counted(audit.entries, "entry"), counted(audit.blocks, "block")
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


def _invalid(told: Told, verdict: Verdict) -> Html:
    failure = told.audit.failure
    place = verdict.place or (f"block {failure.height}" if failure is not None else "")
    problem = verdict.problem or (failure.text if failure is not None else "")
    advice = verdict.advice or "keep this copy as it is, and compare it with the ledger of another member."
    rows = [h("p", h("strong", word), f" {text}") for word, text in (("Where:", place), ("What:", problem)) if text]
    rest = (
        f"Do not rely on this copy. The rest of this page describes only the {counted(told.audit.entries, 'entry')} "
        "before that place."
    )
    return _box("out", "INVALID", *rows, _advice(advice), h("p", rest))


def _warning(told: Told, *, ok: bool) -> Html:
    """A ledger that holds may hold bad news."""
    charges = _accused(told)
    if not charges:
        return Html()
    culprits = sorted({told.names.get(culprit, culprit.hex()) for (culprit, _), _ in charges})
    words = f" {', '.join(culprits)}.{' The ledger holds all the same. ' if ok else ' '}{_borne(told)}"
    link = h("a", f"{counted(len(charges), 'broken rule')} on record", href="#evidence")
    return h("p", mark("out", ""), " ", h("strong", link, ", by"), words, class_="warning")


def _box(kind: str, word: str, *children: Html) -> Html:
    return h("div", h("p", mark(kind, ""), word, class_="word"), *children, class_=f"verdict {kind}")


def _advice(text: str) -> Html:
    return h("p", h("strong", "What to do:"), f" {text}")


def _glance(told: Told) -> Html:
    last = date(told.committed[-1].committed_ms, "%Y-%m-%d") if told.committed else "none"
    taken = sum(1 for number in told.numbers for node in told.nodes if told.part(number, node) is Part.IN)
    asked = sum(len(told.sites(number)) for number, view in told.views.items() if view.closed is not None)
    facts = (
        (f"{told.finished} of {told.audit.state.last}", "rounds finished"),
        (str(len(told.terms.members)), "sites"),
        (percent_of(taken, asked), "of the updates asked for are in"),
        (str(len(_accused(told))), "broken rules on record"),
        (last, "last finished round (UTC)"),
    )
    return h("dl", *(h("div", h("dt", words), h("dd", value)) for value, words in facts), class_="glance")


def _checked(told: Told) -> Html:
    audit, members = told.audit, len(told.charter.members)
    signed = members - len(told.signed.missing())
    items = (
        f"The charter, which is the agreement of the founders: signed by {signed} of {counted(members, 'member')}.",
        (
            f"The chain: each of {counted(audit.blocks, 'block')} names the fingerprint of the one before it, so "
            "nothing can be changed, removed or put in between without breaking it."
        ),
        (
            f"Finality: {counted(audit.certificates, 'certificate')}, each signed by {_quorum_words(told)}, cover "
            f"{audit.covered} of the {counted(audit.blocks, 'block')}."
        ),
        (
            f"The signature of every statement among {counted(audit.entries, 'entry')}, and that no site's series of "
            "statements has a gap."
        ),
        (
            f"The rounds: who is in, with what weight, and which model came out, recomputed for "
            f"{counted(told.finished, 'finished round')} and equal to what is recorded."
        ),
        *([_exchanged(told)] if told.exchanges else []),
        "The root: one number computed over all entries, recomputed and equal.",
    )
    return h("ul", *(h("li", item) for item in items))


def _exchanged(told: Told) -> str:
    done = sum(len(met.pairs) for met in told.exchanges.values())
    asked = counted(sum(met.scheduled for met in told.exchanges.values()), "pair")
    rounds = counted(len(told.exchanges), "round")
    return (
        f"The exchanges: {done:,} of {asked} in {rounds} of gossip have both sites' word. What follows from it, who "
        "took in how much of whose model, was recomputed."
    )


def _quorum_words(told: Told) -> str:
    if len(told.epochs) > 1:
        return "a quorum of those who were members at its time"
    return f"at least {told.terms.quorum} of {counted(len(told.terms.members), 'member')}"


def _cannot(told: Told) -> tuple[str, ...]:
    most = told.faults
    more = "even one member" if not most else f"more than {counted(most, 'member')} together"
    forged = (
        f"That there is no second history, if {more} broke the rules on purpose. Comparing the root, below, with "
        "another member brings that to light."
    )
    return (*_CANNOT, _BLEND if told.charter.schedule else _AVERAGE, forged)


# --- the swarm --------------------------------------------------------------------------------------------------


def _swarm(told: Told) -> Html:
    n, quorum = len(told.terms.members), told.terms.quorum
    silent, liars = n - quorum, faults(n)
    goes_on = (
        f"The swarm goes on when {counted(silent, 'site')} {'is' if silent == 1 else 'are'} silent or out of reach"
        if silent
        else "The swarm waits when any site is silent or out of reach"
    )
    bears = (
        f"the record stays right even if {counted(liars, 'site')} {'breaks' if liars == 1 else 'break'} the rules "
        "on purpose"
        if liars
        else "the record relies on every site keeping to the rules"
    )
    words = (
        f"{counted(n, 'site')} {'learns' if n == 1 else 'learn'} one model together without sending each other any "
        f"data. Something becomes final when at least {quorum} of {n} sign it (the quorum). {goes_on}, and "
        f"{bears}."
    )
    founders = {card.node: i for i, card in enumerate(told.charter.members)}
    today = {seat.node for seat in told.terms.members}
    rows = []
    for node, name in told.names.items():
        left = "" if node in today else "; not a member any more"
        signed = "yes" if founders.get(node) in told.signed.signatures else "no" if node in founders else "joined later"
        code = h("code", grouped(node.hex()[:16]))
        cells = (h("td", code), h("td", signed), h("td", _standing(told, node) + left))
        rows.append((h("th", name, scope="row"), *cells))
    members = table_of("Members", ("Site", "Begin of its id", "Signed the charter", "On record"), rows, tall=True)
    terms = table_of("Terms of the charter", ("Term", "Agreed"), [row_of(*pair) for pair in _terms(told)])
    return join(h("p", words), members, terms)


def _standing(told: Told, node: NodeId) -> str:
    charges = sum(1 for (culprit, _), _ in _accused(told) if culprit == node)
    return f"broke {counted(charges, 'rule')}, see below" if charges else "nothing against it"


def _largest_share(charter: Charter, cap_ppm: int) -> str:
    if charter.rule is not None:
        return "every update counts as one, and the rule says what it gets in the mean"
    return f"{cap_ppm / 10_000:g} %" if cap_ppm < 1_000_000 else "no limit"


def _terms(told: Told) -> list[tuple[str, str]]:
    charter = told.charter
    policy, task, ledger = told.terms.round, charter.task, charter.ledger
    cap = policy.weight_cap_ppm
    outer = "becomes the new model as it is"
    if charter.outer.slots:
        outer = f"goes through an outer optimiser, {charter.outer.describe()}"
    trains = "the model on its own data and sends the change"
    combined = f"mean, weighted by each site's number of samples; it {outer}"
    if charter.rule is not None:
        combined = f"by the rule {charter.rule}, each site's update counting as one: {charter.rule.words}; it {outer}"
    limits = "limits what one site can do"
    if charter.schedule:
        limits = "each site keeps to it, and no other can check that"
        trains = "its own model on its own data and exchanges it with a few others"
        combined = f"gossip over {charter.schedule}; the last round averages all models into one, by samples"
    terms = [
        ("Agreed on", date(charter.created_ms)),
        ("Task", f"{task.name}, a model of {task.parameters:,} numbers (parameters)"),
        ("Rounds", f"{policy.rounds:,}. In each, every site trains {trains}"),
        *([("Ends early", f"{charter.stop.words}; {_ended(told)}")] if charter.stop is not None else []),
        ("How they are combined" if charter.schedule else "How updates are combined", combined),
        *([("Noise on sums", noise_words(told.audit.state))] if charter.site_noise is not None else []),
        ("Largest share of one site", _largest_share(charter, cap)),
        ("Sites a round needs", f"at least {policy.min_contributions} of {len(told.terms.members)}"),
        (
            "Waiting for a site",
            f"up to {span_words(policy.patience_ms)} without progress, {span_words(policy.deadline_ms)} in all",
        ),
        ("Largest update", f"{charter.clip_norm:g} (length of the change as a vector; {limits})"),
        ("Scores on record", ", ".join(charter.metrics) or "none"),
        ("Must outvote a liar", "yes, agreed in the charter" if ledger.require_byzantine else "not required"),
        ("When a rule is broken", "it goes on record; the site stays a member"),
        ("Clocks may differ by", span_words(ledger.max_skew_ms)),
        (
            "Links between sites",
            counted(len(told.terms.edges), "link") if told.terms.edges else "everyone with everyone",
        ),
    ]
    for ledger_id, size, _ in charter.predecessor:
        terms.append(("Continues the ledger", f"{grouped(ledger_id.hex())}, after {counted(size, 'entry')}"))
    return terms


def _ended(told: Told) -> str:
    """Say whether a run that may end early has, and which round was the best."""
    state = told.audit.state
    best = best_of(state)
    found = "no round has counted yet" if best is None else f"best round so far {best.round}"
    return outcome(state) if state.stopped else found


# --- evidence, models, identifiers ------------------------------------------------------------------------------


def _accused(told: Told) -> list[tuple[tuple[NodeId, int], int]]:
    """Return ((culprit, rule), entry index) in the order of the log, of the part that holds.

    A block may fail at its certificate, when the state already knows its entries: those are not believed.
    """
    charges = told.audit.state.accused.items()
    return sorted((item for item in charges if item[1] < told.audit.entries), key=lambda item: item[1])


def _evidence(told: Told) -> Html:
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
    return join(h("p", words), h("p", _borne(told)), table_of("Broken rules", heads, rows))


def _borne(told: Told) -> str:
    """Say whether the swarm bears as many culprits as are on record."""
    culprits, most = len({culprit for (culprit, _), _ in _accused(told)}), told.faults
    who = counted(culprits, "site")
    if culprits <= most:
        return (
            f"{who} broke a rule; a swarm of this size bears {most}. "
            "This alone cannot have made a second history final."
        )
    return (
        f"{who} broke a rule; a swarm of this size bears {most or 'none'}. Together they could have made a second "
        "history: compare the root, below, with every other member before you rely on this one."
    )


def _compare(told: Told, verdict: Verdict) -> Html:
    audit = told.audit
    ok = verdict.valid and audit.failure is None
    words = (
        "Call another member and read these to each other. With the same number of entries, the root must be the same "
        "to the last digit: then both hold the same history. With different numbers of entries one of the copies is "
        "merely older; make both reports again. With the same number and different roots, keep both copies and tell "
        "everybody: somebody shows different histories to different members."
    )
    rows = [
        ("Ledger", grouped(told.signed.ledger_id.hex())),
        ("Number of entries", f"{audit.entries:,}"),
        # A block that fails at its certificate is already in the state's tree: its root belongs to nothing that holds.
        ("Root", grouped(audit.state.frontier.root().hex()) if audit.state.size == audit.entries else "none"),
        ("Blocks", f"{audit.blocks:,}"),
        ("Model of the last finished round", _last_model(told)),
    ]
    caution = (
        h("p", h("strong", "This copy is invalid: these numbers are of the part before the place above."))
        if not ok
        else Html()
    )
    cells = [(h("th", name, scope="row"), h("td", h("code", value))) for name, value in rows]
    return join(h("p", words), caution, table_of("This copy", ("What", "Value"), cells))


def _last_model(told: Told) -> str:
    model = told.model(told.finished)
    return grouped(model.hex()) if model is not None else "none in common: each site has its own"


# --- markup and words -------------------------------------------------------------------------------------------

"""What people should look at, in words: what is wrong, since when or by how much, and what to do.

Each alert follows from one look alone, so that a page, a command and a monitoring system say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from node.doctor.network import CLOCK_S_WARN
from node.watch.look import Look
from swarm.ledger.audit import Audit, member_names, weights
from swarm.ledger.entry import REASONS
from swarm.ledger.participation import ranges
from swarm.machine import NodeId

MISSED_ROUNDS = 3
"""In a row, after which a site's work is missed: one that was slow once or was started anew is back by then."""

DISK_FREE_MIN = 1 << 30
"""Bytes: a ledger grows by less than this in months, but a folder of models may not."""

BUDGET_SHARE = 0.9
"""Of a privacy budget, spent: time to talk about what comes after."""

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing to look at. `level` is `error` or `warning`; `name` is a word for programs, `about` a site or empty."""

    level: str
    name: str
    text: str
    hint: str
    about: str = ""


def alerts(look: Look) -> list[Alert]:
    """Return everything there is to look at, errors first."""
    found = [*_of_ledger(look), *_of_node(look), *_of_members(look), *_of_rounds(look.audit), *_of_machine(look)]
    return sorted(found, key=lambda one: one.level != ERROR)


def _of_ledger(look: Look) -> Iterator[Alert]:
    if look.trouble:
        yield Alert(ERROR, "ledger", f"the ledger does not hold: {look.trouble}", "run `swarm ledger verify`")
    names = member_names(look.audit.epochs)
    for node, _ in look.audit.state.accused:
        name = names.get(NodeId(node), node.hex()[:8])
        text = f"it is proved that {name} contradicted itself"
        yield Alert(ERROR, "contradiction", text, "`swarm ledger evidence` shows the proof", name)


def _of_node(look: Look) -> Iterator[Alert]:
    status = look.status
    if status is None:
        if not look.audit.state.complete:
            yield Alert(ERROR, "down", f"this site's node does not run: {look.silence}", "start it: `swarm start`")
        return
    for name, level in (("halted", ERROR), ("refused", ERROR), ("paused", WARNING)):
        if status.get(name):
            yield Alert(level, name, str(status[name]), _HINTS[name])
    if status.get("resting"):
        yield Alert(WARNING, "resting", f"this site trains nothing: {status['resting']}", _HINTS["resting"])
    if status.get("waiting"):
        yield Alert(WARNING, "waiting", str(status["waiting"]), _HINTS["waiting"])
    if status.get("outcome") == "FAILED":
        yield Alert(ERROR, "failed", f"the run has failed: {status.get('reason')}", "read the last lines of its log")


_HINTS = {
    "halted": "nothing more is done here until people have looked: `swarm ledger forks`",
    "refused": "mend what it names; the node takes part again by itself",
    "paused": "look why the others are away; the run goes on by itself once enough are there",
    "resting": "`swarm resume`, or make room on its disk",
    "waiting": "`swarm approve` shows what would leave",
}


def _of_members(look: Look) -> Iterator[Alert]:
    for member in members(look):
        name = str(member["name"])
        if member.get("me"):
            continue
        if member.get("refused"):
            text = f"no link to {name}: {member['refused']}"
            yield Alert(ERROR, "refused_link", text, "bring the two sites to the same terms and version", name)
        elif member.get("absent"):
            why = f": {member['trouble']}" if member.get("trouble") else ""
            yield Alert(WARNING, "absent", f"{name} is away{why}", "ask its people; `swarm doctor` tests the way", name)
        offset = int(str(member.get("clock_offset_ms") or 0)) / 1000
        if member.get("linked") and abs(offset) > CLOCK_S_WARN:
            way = "ahead of" if offset > 0 else "behind"
            text = f"the clock of {name} is {abs(offset):.0f} s {way} this site's"
            yield Alert(WARNING, "clock", text, "let both follow a time server", name)


def _of_rounds(audit: Audit) -> Iterator[Alert]:
    if audit.state.complete or audit.state.signed.charter.asynchronous:
        return  # What is missing of a run that is done its verdict says; where nobody waits, that is how it is.
    names = member_names(audit.epochs)
    closed = [view for view in list(audit.rounds.values())[-MISSED_ROUNDS - 1 :] if view.closed is not None]
    last = closed[-MISSED_ROUNDS:]
    for seat in audit.state.terms.members if len(last) == MISSED_ROUNDS else ():
        if all(seat.node not in weights(view) for view in last):
            text = f"no work of {seat.name} is in rounds {ranges([view.number for view in last])}"
            yield Alert(WARNING, "missing", text, "ask its people whether it trains, and how long it takes", seat.name)
    for view in closed[-1:]:
        assert view.closed is not None, "looked at above"
        authors = {placed.index: author for author, placed in view.contributions.items()}
        for index, reason in view.closed.body.rejected:
            name = names.get(authors.get(index, NodeId(b"")), "a site")
            text = f"the update of {name} was left out of round {view.number}: {REASONS.get(reason, reason)}"
            yield Alert(WARNING, "rejected", text, f"`swarm ledger round {view.number}` shows all of it", name)


def _of_machine(look: Look) -> Iterator[Alert]:
    if look.disk_free < DISK_FREE_MIN:
        text = f"{look.disk_free >> 20} MiB are free on the disk of this site's folder"
        yield Alert(WARNING, "disk", text, "make room: training stops before the ledger has none")
    if look.budget is not None and look.epsilon is not None and look.epsilon > BUDGET_SHARE * look.budget:
        text = f"epsilon {look.epsilon:.3f} of the privacy budget of {look.budget:g} is spent"
        yield Alert(WARNING, "privacy", text, "this site stops contributing before it is crossed")


def members(look: Look) -> Sequence[Mapping[str, object]]:
    """Return what the node says of each member; nothing while it does not answer."""
    told = look.status.get("members") if look.status is not None else None
    return told if isinstance(told, list) else ()

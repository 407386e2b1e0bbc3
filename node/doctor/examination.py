"""SHELL. The examination: which checks there are, in which order, and what each needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from node.doctor import folder, machine, network, training
from node.doctor.case import Case
from node.doctor.finding import Finding, Level, failure, warn
from swarm.errors import SwarmError

PEERS, TASK = "peers", "task"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its word, what looks, what has to be well for it to see anything, the group it is left out with."""

    name: str
    look: Callable[[Case], Sequence[Finding]]
    needs: tuple[str, ...] = ()
    group: str = ""


CHECKS = (
    Check("settings", folder.settings),
    Check("keys", folder.keys),
    Check("charter", folder.charter, ("settings",)),
    Check("member", folder.member, ("keys", "charter")),
    Check("task", folder.task, ("charter",)),
    Check("egress", folder.egress, ("keys", "charter")),
    Check("ledger", folder.ledger, ("charter",)),
    Check("disk", machine.disk, ("charter",)),
    Check("memory", machine.memory, ("charter",)),
    Check("shared memory", machine.shared_memory),
    Check("processors", machine.threads, ("settings",)),
    Check("gpu", machine.gpu, ("settings",)),
    Check("encryption", machine.cipher),
    Check("listen", network.listening, ("settings",)),
    Check("dns", network.names, ("member",), PEERS),
    Check("tcp", network.ports, ("member",), PEERS),
    Check("link", network.links, ("member",), PEERS),
    Check("clock", network.clocks, ("member",), PEERS),
    Check("bandwidth", network.bandwidth, ("member",), PEERS),
    Check("trial", training.trial, ("task", "gpu"), TASK),
    Check("round time", training.pace, ("member",)),
)


def examine(case: Case, *, without: Sequence[str] = ()) -> Iterator[Finding]:
    """Yield what is found, as it is found. A check never raises; one that could see nothing is named at the end.

    Args:
        case: the site.
        without: groups of checks to leave out.
    """
    blind: set[str] = set()
    for check in CHECKS:
        if check.group in without and check.group:
            continue
        if blind.intersection(check.needs):
            blind.add(check.name)
            continue
        try:
            findings = check.look(case)
        except SwarmError as error:
            findings = [failure(check.name, error)]
        except OSError as error:
            text = f"{error.filename or 'something'} could not be looked at: {error.strerror or error}"
            findings = [warn(check.name, text, "allow this user to read it, and ask again")]
        if any(finding.level is Level.FAIL for finding in findings):
            blind.add(check.name)
        yield from findings
    unseen = [check.name for check in CHECKS if check.name in blind and blind.intersection(check.needs)]
    if unseen:
        text = f"not looked at: {', '.join(unseen)}"
        yield warn("examination", text, "mend what failed above first, and ask again")

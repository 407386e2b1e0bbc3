"""What a site lets out, whatever a swarm agrees on: its own rules, and everything in a charter that is against them.

A charter is agreed among many; these rules are one site's, in a file that no member and no vote can reach. A charter
that asks for more is refused as a whole, with all the reasons at once: whoever has to talk to a consortium about it
should not have to come back. What can only be seen while a run goes on (rounds that the members added, somebody who
joined, how much noise there was) stops this site's updates then, and nothing else: it goes on voting and averaging.

Two of a site's limits are elsewhere and are no second time here: how many cases a score must be of (`task.min_cell`),
and what may be spent of privacy over all rounds (`privacy.epsilon`).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.charter import MIXINGS, OPTIONS, Charter
from swarm.errors import UsageError
from swarm.machine import NodeId
from swarm.mixing.compress.forms import encoded_bytes
from swarm.privacy.accounting import Budget

if TYPE_CHECKING:
    from node.config import EgressSettings

ALL = "*"

NO, FIRST, EVERY = "no", "first", "every"
APPROVALS = (NO, FIRST, EVERY)

ID_DIGITS_MIN = 16
"""Of a member's id, where it is named by that: 64 bits, which nobody can make a key to match."""

MISFIT = "SWARM-EGRESS-CHARTER"
LIMIT = "SWARM-EGRESS-LIMIT"
REMEDY = "talk to the other members about the charter, or have this site's rules below [egress] changed"

TERMS = (*MIXINGS, *OPTIONS)
"""What `require` and `forbid` may name: kinds of mixing and options of a charter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A site's rules. 0, "" and None leave a thing to the charter.

    Attributes:
        rounds: updates leave for so many rounds, over all swarms that the folder has been in.
        peers: names, or first digits of ids, of those who may see this site's updates.
        update_bytes: size of an update as it travels.
        norm: L2 norm to which updates are clipped here, if the charter's is larger.
        noise: least noise multiplier of private training.
        epsilon_round: what one round may cost at most, all its trainings together.
        metrics: names of those that may be told.
        require: terms that a charter must have: a kind of mixing, an option, or an option with its value.
        forbid: terms that it must not have.
        approve: whether people let out no update by hand, the first, or every one.
    """

    rounds: int = 0
    peers: tuple[str, ...] | None = None
    update_bytes: int = 0
    norm: float = 0.0
    noise: float = 0.0
    epsilon_round: float = 0.0
    metrics: tuple[str, ...] | None = None
    require: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    approve: str = NO

    def strangers(self, members: Sequence[tuple[NodeId, str]], me: NodeId) -> list[str]:
        """Return the names of members, other than `me`, who may not see this site's updates."""
        if self.peers is None:
            return []
        return [name for node, name in members if node != me and not self._knows(node, name)]

    def _knows(self, node: NodeId, name: str) -> bool:
        assert self.peers is not None, "somebody has looked"
        return any(one == name or (_is_id(one) and node.hex().startswith(one)) for one in self.peers)

    def bound(self, charter: Charter) -> float:
        """Return the norm that this site's updates are clipped to."""
        return min(self.norm, charter.clip_norm) if self.norm else charter.clip_norm


def policy_of(settings: EgressSettings) -> Policy:
    """Return the rules as they were written down. Raises `UsageError` for what no rule can be."""
    if settings.approve not in APPROVALS:
        message = f"couldn't use egress.approve = {settings.approve!r}"
        raise UsageError(message, hint=f"choose one of {', '.join(APPROVALS)}")
    for name in ("rounds", "update_mb", "norm", "noise", "epsilon_round"):
        number = getattr(settings, name)
        if not 0 <= number < math.inf:
            message = f"couldn't use egress.{name} = {number!r}"
            raise UsageError(message, hint="write how much may leave, or 0 to leave it to the charter")
    for name in ("require", "forbid"):
        for term in getattr(settings, name).split():
            _check_term(f"egress.{name}", term)
    return Policy(
        rounds=settings.rounds,
        peers=None if settings.peers.strip() == ALL else tuple(settings.peers.split()),
        update_bytes=math.ceil(settings.update_mb * (1 << 20)),
        norm=settings.norm,
        noise=settings.noise,
        epsilon_round=settings.epsilon_round,
        metrics=None if settings.metrics.strip() == ALL else tuple(settings.metrics.split()),
        require=tuple(settings.require.split()),
        forbid=tuple(settings.forbid.split()),
        approve=settings.approve,
    )


def objections(policy: Policy, charter: Charter, me: NodeId, *, elsewhere: int, budget: Budget | None) -> list[str]:
    """Return everything in which a charter asks for more than a site lets out, a clause each; nothing if it fits.

    Args:
        policy: the site's rules.
        charter: what is asked for.
        me: the site.
        elsewhere: of how many rounds of other swarms updates have left already.
        budget: what of privacy may be spent, by site and charter.
    """
    found: list[str] = []
    if policy.rounds and charter.round.rounds + elsewhere > policy.rounds:
        told = f", and updates of {elsewhere} have left for other swarms" if elsewhere else ""
        found.append(f"it has {charter.round.rounds} rounds{told}, this site lets out {policy.rounds} in all")
    strangers = policy.strangers([(card.node, card.name) for card in charter.members], me)
    if strangers:
        found.append(f"{_listed(strangers)} would see this site's updates, and may not")
    size = largest_update(charter)
    if policy.update_bytes and size > policy.update_bytes:
        found.append(f"an update has up to {_mib(size)}, this site lets out {_mib(policy.update_bytes)}")
    if policy.metrics is not None and (more := [name for name in charter.metrics if name not in policy.metrics]):
        found.append(f"it has {_listed(more)} told, which may not leave this site")
    lacking = [term for term in policy.require if not has(charter, term)]
    if lacking:
        found.append(f"it lacks {_listed(lacking)}, without which nothing leaves this site")
    unwanted = [term for term in policy.forbid if has(charter, term)]
    if unwanted:
        found.append(f"it has {_listed(unwanted)}, which this site takes no part in")
    if (policy.noise or policy.epsilon_round) and budget is None:
        found.append("it sets no privacy budget, nor does this site, and updates must be trained privately here")
    return found


def check(found: Sequence[str], charter: str, what: str) -> None:
    """Raise `UsageError` with all objections to a charter of this name, if there are any."""
    if found:
        raise UsageError(f"{what}: {refusal(found, charter)}", hint=REMEDY, identifier=MISFIT)


def refusal(found: Sequence[str], charter: str) -> str:
    """Return all objections as one sentence."""
    return f"the charter of {charter!r} asks for more than this site lets out: {'; '.join(found)}"


def has(charter: Charter, term: str) -> bool:
    """Whether a charter has a term: "gossip", "contribution", or with the beginning of a value "local:scaffold"."""
    name, _, value = term.partition(":")
    if name in MIXINGS:
        return charter.round.mixing == name
    given = dict(charter.options).get(name)
    return given is not None and (not value or given == value or given.startswith(f"{value}:"))


def largest_update(charter: Charter) -> int:
    """Return how many bytes of one site's update may travel in a round under a charter, at most."""
    if charter.masks:
        return charter.masked_bytes
    lengths = [end - start for start, end in charter.cuts] or [charter.task.parameters]
    if charter.codec is None or charter.follows:  # Who has no copy of a model to follow is sent it whole.
        return charter.model_bytes + charter.salt
    return sum(encoded_bytes(charter.codec, length) for length in lengths) + charter.salt


def _check_term(key: str, term: str) -> None:
    name, sign, value = term.partition(":")
    if name in TERMS and bool(sign) == bool(value) and not (sign and name in MIXINGS):
        return
    close = difflib.get_close_matches(name, TERMS, 1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(TERMS)}"
    raise UsageError(f"couldn't use {key}: a charter has no term {term!r}", hint=hint)


def _is_id(text: str) -> bool:
    return ID_DIGITS_MIN <= len(text) <= 64 and not text.strip("0123456789abcdef")


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.3g} MiB"

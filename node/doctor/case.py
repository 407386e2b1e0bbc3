"""SHELL. One site as it is examined: its folder, what was read of it, and what its own node answers, if it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from node.cli.control import ask
from node.cli.output import Failure
from node.clock import Clock
from node.config import Settings
from node.proxy import Proxy, read_proxy
from node.site import Site
from node.storage import SnapshotFile
from node.trainer import Tried
from swarm.charter import SignedCharter
from swarm.errors import SwarmError
from swarm.identity import Identity
from swarm.ledger import snapshot
from swarm.ledger.state import State
from swarm.machine import Contact, NodeId
from swarm.terms import Seat, Terms, founding

if TYPE_CHECKING:
    from node.doctor.network import Met

Neighbour: TypeAlias = Seat | Contact
"""Somebody whom this site has a link to: by the terms, or by its invitation."""


class Case:
    """What checks have in common. Nothing is read before it is asked for, and each thing once.

    Args:
        site: the folder.
        overrides: settings that are to be taken in place of the folder's.
    """

    def __init__(self, site: Site, overrides: Sequence[str] = ()) -> None:
        self.site = site
        self.clock = Clock()
        self._overrides = overrides
        self.tried: Tried | None = None
        """What a trial of the task has shown, once there was one."""
        self.met: Met | None = None
        """What became of meeting the neighbours, once they were met."""
        self.printed: list[str] = []
        """Lines that the task printed on the way."""

    @cached_property
    def settings(self) -> Settings:
        """The settings. Raises `UsageError`."""
        return self.site.load_settings(overrides=self._overrides)

    @cached_property
    def proxy(self) -> Proxy | None:
        """The proxy that everything is dialled through, if there is one. Raises `UsageError`."""
        return read_proxy(self.settings.network, self.site.folder)

    @cached_property
    def identity(self) -> Identity:
        """The site's keys. Raises `UsageError`."""
        return self.site.load_identity()

    @cached_property
    def node(self) -> NodeId:
        """The site's id. Raises `UsageError`."""
        return self.site.node()

    @cached_property
    def signed(self) -> SignedCharter:
        """The charter, complete and checked. Raises `UsageError` or `LedgerError`."""
        return self.site.load_charter(self.settings)

    @cached_property
    def terms(self) -> Terms:
        """The terms that the site's ledger has come to, as far as its last snapshot tells; at first the charter's."""
        kept = SnapshotFile(self.site.ledger / "snapshot").load()
        if kept is not None:
            try:
                return snapshot.decode(kept.state, State, self.signed).terms
            except SwarmError:
                pass  # Of another ledger, or torn: the node makes it anew.
        return founding(self.signed.charter)

    @cached_property
    def joining(self) -> bool:
        """Whether this site is no member as far as its folder tells, and was invited by one."""
        return self.terms.index(self.node) is None and self.site.sponsors_path.exists()

    @cached_property
    def neighbours(self) -> tuple[tuple[Neighbour, bool], ...]:
        """Whom this site has links to, and whether it dials them.

        While it is no member it dials whoever invited it, as its node would begin: of all others it hears from there.
        Raises `UsageError`.
        """
        me = self.terms.index(self.node)
        if me is None:
            return tuple((one, True) for one in self.site.load_sponsors())
        return tuple((self.terms.members[i], self.terms.dials(me, i)) for i in self.terms.neighbours(me))

    @cached_property
    def status(self) -> Mapping[str, object] | None:
        """What the site's own node says, None if none runs."""
        try:
            return ask(self.site.control)
        except (Failure, SwarmError):
            return None

    def told(self, node: NodeId) -> Mapping[str, object]:
        """Return what the site's own node says of a member; nothing if it does not run, or does not know it."""
        members = [] if self.status is None else self.status["members"]
        assert isinstance(members, list), "a status lists members"
        return next((one for one in members if one["node"] == node.hex()), {})

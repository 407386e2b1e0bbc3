"""Every error of the product, in one tree.

::

    SwarmError                 never raised itself
    ├── PeerError              *they* were wrong; carries who; costs that peer, never this node
    │   └── Reject             received bytes that are not acceptable, before anybody is blamed
    ├── UsageError             *you* were wrong: one sentence and what to do about it
    ├── LedgerError            a proof does not hold; kept as evidence, never repaired silently
    └── StoreError             durable state is unknown: stop; starting again is the repair

Every message says what was attempted and what is wrong. `hint` says what to do next. `identifier` is what the error is
called in `swarm.identifiers`: by its kind, unless it has one of its own.
"""

from __future__ import annotations

from typing import ClassVar


class SwarmError(Exception):
    """Root of the tree. `hint` is one sentence that begins with a verb, or empty."""

    kind_identifier: ClassVar[str] = "SWARM-ERROR"

    def __init__(self, message: str, *, hint: str = "", identifier: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.identifier = identifier or self.kind_identifier

    @property
    def sentence(self) -> str:
        """Message and hint in one line, for where there is room for one."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class PeerError(SwarmError):
    """A peer sent something it should not have. The node goes on; the peer pays."""

    kind_identifier = "SWARM-PEER"

    def __init__(self, message: str, *, peer: bytes = b"", hint: str = "", identifier: str = "") -> None:
        super().__init__(message, hint=hint, identifier=identifier)
        self.peer = peer


class Reject(PeerError):
    """Received bytes are malformed, oversized, not canonical or not authentic."""


class UsageError(SwarmError):
    """The person at the keyboard asked for something that cannot be done."""

    kind_identifier = "SWARM-USAGE"


class LedgerError(SwarmError):
    """The ledger contradicts itself or its signatures."""

    kind_identifier = "SWARM-LEDGER"


class StoreError(SwarmError):
    """The disk did not do what it promised, so what is durable is unknown."""

    kind_identifier = "SWARM-STORE"

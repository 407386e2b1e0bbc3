"""Every error of the product, in one tree.

::

    SwarmError                 never raised itself
    ├── PeerError              *they* were wrong; carries who; costs that peer, never this node
    │   └── Reject             received bytes that are not acceptable, before anybody is blamed
    ├── UsageError             *you* were wrong: one sentence and what to do about it
    ├── LedgerError            a proof does not hold; kept as evidence, never repaired silently
    └── StoreError             durable state is unknown: stop; starting again is the repair

Every message says what was attempted and what is wrong. `hint` says what to do next.
"""

from __future__ import annotations


class SwarmError(Exception):
    """Root of the tree. `hint` is one sentence that begins with a verb, or empty."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class PeerError(SwarmError):
    """A peer sent something it should not have. The node goes on; the peer pays."""

    def __init__(self, message: str, *, peer: bytes = b"", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.peer = peer


class Reject(PeerError):
    """Received bytes are malformed, oversized, not canonical or not authentic."""


class UsageError(SwarmError):
    """The person at the keyboard asked for something that cannot be done."""


class LedgerError(SwarmError):
    """The ledger contradicts itself or its signatures."""


class StoreError(SwarmError):
    """The disk did not do what it promised, so what is durable is unknown."""

"""Who gets in: the list of keys, and the authenticator's answers (ZAP, ZeroMQ RFC 27) as a function of bytes.

It knows members by their transport keys and nothing about sockets, links or endpoints; whoever serves ZAP passes it the
frames of a request. It never raises for what they contain, because an authenticator that dies leaves every later
handshake hanging.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from swarm.machine import NodeId

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_VERSION = b"1.0"
ZAP_DOMAIN = b"swarm"

REVOKED_MAX = 4096
"""Keys remembered as revoked. One that is forgotten is still refused, as unknown."""

_CURVE_FRAMES = 7  # version, request id, domain, address, routing id, mechanism, public key


class Verdict(Enum):
    """The four statuses of RFC 27, and what libzmq 4.3.5 makes of them at the other end."""

    ALLOWED = (b"200", b"welcome")
    UNKNOWN = (b"300", b"this key is not on the list")
    """The other end hears nothing, times out, and tries again by itself."""
    REVOKED = (b"400", b"this key is revoked")
    """The other end is told, and stays away until it dials afresh."""
    MALFORMED = (b"500", b"the request is not CURVE in this domain")


class AllowList:
    """Which public keys are whose. A key is written as 64 hex digits, the form of the User-Id."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeId] = {}
        self._names: dict[str, str] = {}
        self._revoked: dict[str, str] = {}

    def replace(self, nodes: Mapping[str, NodeId], names: Mapping[str, str], revoked: Sequence[str]) -> None:
        """Install a new list. Keys that were on the old one count as revoked from now on, as do those in `revoked`.

        Args:
            nodes: the member of each key that is valid.
            names: the member's name, for the same keys.
            revoked: further keys, of members whose names are not known any more.
        """
        self._revoked.update(self._names)
        for key in revoked:
            self._revoked.setdefault(key, "a former member")
        for key in nodes:
            self._revoked.pop(key, None)
        while len(self._revoked) > REVOKED_MAX:
            del self._revoked[next(iter(self._revoked))]
        self._nodes, self._names = dict(nodes), dict(names)

    def node(self, key: str) -> NodeId | None:
        """Return the member a key belongs to at this moment, or None."""
        return self._nodes.get(key)

    def verdict(self, key: str) -> Verdict:
        """Return how a handshake with this key ends."""
        if key in self._nodes:
            return Verdict.ALLOWED
        return Verdict.REVOKED if key in self._revoked else Verdict.UNKNOWN

    def name(self, key: str) -> str:
        """Return what to call the owner of a key that is not valid."""
        return self._revoked.get(key, "a peer")


def zap_reply(request: Sequence[bytes], verdict: Callable[[str, str], Verdict]) -> list[bytes]:
    """Return the reply to one ZAP request.

    Args:
        request: the frames as received.
        verdict: judges a public key (64 hex digits) that comes from an address. The key becomes the User-Id of every
            message of a connection that is allowed.
    """
    request_id = request[1] if len(request) > 1 else b""
    outcome, key = Verdict.MALFORMED, ""
    if len(request) == _CURVE_FRAMES:
        version, _, domain, address, _, mechanism, public_key = request
        if (version, domain, mechanism, len(public_key)) == (ZAP_VERSION, ZAP_DOMAIN, b"CURVE", 32):
            key = public_key.hex()
            outcome = verdict(key, address.decode("ascii", "backslashreplace"))
    status, text = outcome.value
    user_id = key.encode() if outcome is Verdict.ALLOWED else b""
    return [ZAP_VERSION, request_id, status, text, user_id, b""]

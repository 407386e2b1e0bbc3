"""The answers of the authenticator: ZAP, ZeroMQ RFC 27, as a function of bytes.

It knows the form of a request and of a reply and nothing about sockets, members or lists; whoever serves it passes a
verdict on one key. It never raises for what a request contains, because an authenticator that dies leaves every later
handshake hanging.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_VERSION = b"1.0"
ZAP_DOMAIN = b"swarm"

_CURVE_FRAMES = 7  # version, request id, domain, address, routing id, mechanism, public key


class Verdict(Enum):
    """The four statuses of RFC 27, and what libzmq 4.3.5 makes of them at the other end."""

    ALLOWED = (b"200", b"welcome")
    UNKNOWN = (b"300", b"this key is not on the list")
    """The other end hears nothing, times out, and tries again by itself."""
    REVOKED = (b"400", b"this key is revoked")
    """The other end is told, and stays away until it dials afresh."""
    MALFORMED = (b"500", b"the request is not CURVE in this domain")


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

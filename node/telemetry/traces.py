"""Names for what happens in a round that all sites arrive at by themselves.

A trace has an id of 16 bytes and its spans one of 8 each (W3C Trace Context, level 1, section 3.2.2). They are usually
drawn by chance and sent along with every request. Here nobody starts a round, and every message would need the field;
but all members know which ledger they keep and which round is open. So the ids are hashes of that:

    trace id = first 16 bytes of SHA-256("swarm/trace/1" 00 | ledger id (32) | round (8, big endian))
    span id  = first  8 bytes of SHA-256("swarm/span/1" 00 | trace id (16) | node id (32) | attempt (4, big endian)
                                         | length of the deed (2, big endian) | deed in UTF-8 | about)

`deed` is a word of `DEEDS`; `about` tells deeds of one kind in one round apart, as the digest of what was sent and the
id of whom to. Neither id may be all zeros: such a one ends in 1 instead.

A round that is closed again stays one trace, and its attempts are spans: members learn of an attempt at different
times, and a person who asks why a round took so long wants all of them at once.

The ids are no secret and prove nothing. Who knows the ledger's id can compute them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from swarm.machine import NodeId, Report

ROUND, TRAIN, SEND, RECEIVE, WAIT, MIX, ATTEST, EVALUATE, OPEN = DEEDS = (
    "round",
    "train",
    "send",
    "receive",
    "wait",
    "mix",
    "attest",
    "evaluate",
    "open",
)
"""What a site does in a round; `round` is all of it, and `open` a look at one that is not over."""

OF_EVENTS: Mapping[str, str] = {
    "training": TRAIN,
    "trained": TRAIN,
    "training_failed": TRAIN,
    "training_refused": TRAIN,
    "sent": SEND,
    "received": RECEIVE,
    "round_closed": WAIT,
    "mixed": MIX,
    "mix_failed": MIX,
    "round_committed": ATTEST,
    "evaluating": EVALUATE,
    "evaluated": EVALUATE,
    "evaluation_failed": EVALUATE,
    "unscored": EVALUATE,
}
"""By event, what it is a part of: mostly, what it ends. Any other event with a round is a part of the round as such."""

WAYS: Mapping[str, str] = {SEND: "to", RECEIVE: "from"}
"""Where a fact about bytes that moved has the other end."""

_TRACE, _SPAN = b"swarm/trace/1\0", b"swarm/span/1\0"


def trace_id(ledger_id: bytes, round_: int) -> bytes:
    """Return the 16 bytes by which every member names a round of a ledger."""
    return _named(_TRACE + ledger_id + round_.to_bytes(8, "big"), 16)


def span_id(trace: bytes, node: NodeId, deed: str, *, attempt: int = 1, about: bytes = b"") -> bytes:
    """Return the 8 bytes that name one deed of one site in the round of a trace."""
    word = deed.encode()
    parts = (_SPAN, trace, node, attempt.to_bytes(4, "big"), len(word).to_bytes(2, "big"), word, about)
    return _named(b"".join(parts), 8)


def traceparent(trace: bytes, span: bytes) -> str:
    """Return both as the header of that name, for whoever hands a round on to another system; it is always sampled."""
    return f"00-{trace.hex()}-{span.hex()}-01"


@dataclass(frozen=True, slots=True)
class Names:
    """The ids of one site's facts."""

    ledger_id: bytes
    node: NodeId

    def of(self, report: Report) -> dict[str, str]:
        """Return `trace_id` and `span_id` of a fact that belongs to a round, in hexadecimal; nothing of any other."""
        round_ = report.values.get("round")
        if not isinstance(round_, int) or isinstance(round_, bool) or not 0 < round_ < 1 << 63:
            return {}
        trace = trace_id(self.ledger_id, round_)
        attempt = report.values.get("attempt")
        tried = attempt if isinstance(attempt, int) and 0 < attempt < 1 << 32 else 1
        deed, about = OF_EVENTS.get(report.event, ROUND), b""
        if deed in WAYS:
            about = moved_about(str(report.values.get(WAYS[deed], "")), str(report.values.get("digest", "")))
        return {
            "trace_id": trace.hex(),
            "span_id": span_id(trace, self.node, deed, attempt=tried, about=about).hex(),
        }


def moved_about(other: str, digest: str) -> bytes:
    """Return what tells sendings, and receipts, apart: with which node, and which blob, both in hexadecimal."""
    return f"{other}/{digest}".encode()


def _named(data: bytes, size: int) -> bytes:
    name = hashlib.sha256(data).digest()[:size]
    return name if any(name) else bytes(size - 1) + b"\1"

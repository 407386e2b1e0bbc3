"""Which versions can work together, and in what words two sites that cannot are told so.

A version is (major, minor). Within a major, a minor may add: fields at the end of a greeting, kinds of message, and
capabilities. It may change nothing that was there. Whoever knows less passes over what it does not know, and nobody
says to a peer what that peer has not said it can hear, so that members update one at a time. The rules, and what a
major step is for, are in `docs/reference/protocol.md`; `tests/vectors/` has what older versions said, and tests hold
this one to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gossip.messages import Hello

PROTOCOL = (1, 1)
"""What this node speaks. 1.1 passes over what a later minor adds to greetings and to the kinds of message."""

CAPABILITIES = ("exact", "fold", "gossip", "masks", "relay", "sharded", "spread")
"""What this node can do where a charter asks for it, and what may be said to it beyond the kinds of 1.0."""

SAID_CHARACTERS_MAX = 500
"""Of a peer's own words, as much as is shown."""

IDENTITY = "SWARM-HELLO-IDENTITY"
VERSION = "SWARM-HELLO-VERSION"
CHARTER = "SWARM-HELLO-CHARTER"
TASK = "SWARM-HELLO-TASK"
LAYOUT = "SWARM-HELLO-LAYOUT"
CAPABILITY = "SWARM-HELLO-CAPABILITY"
REFUSED = "SWARM-HELLO-REFUSED"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why two sites cannot work together: a stable identifier, and a sentence for people at both ends."""

    identifier: str
    text: str


def version_text(protocol: tuple[int, int]) -> str:
    """Return a version as people write it: "1.1"."""
    return f"{protocol[0]}.{protocol[1]}"


def mismatch(mine: Hello, theirs: Hello, sender: bytes, name: str, needs: Sequence[str] = ()) -> Mismatch | None:
    """Return why the two ends cannot work together, or None. The first difference explains the rest.

    Args:
        mine: this node's greeting.
        theirs: the one that came.
        sender: the id of the member whose key the link has proved.
        name: what people call it.
        needs: the capabilities that the charter asks of every member.
    """
    software = printable(theirs.software, 64)
    if theirs.node != sender:
        return Mismatch(IDENTITY, f"{name} introduced itself with another member's identity")
    if theirs.protocol[0] != mine.protocol[0]:
        return Mismatch(
            VERSION,
            f"{name} speaks protocol {version_text(theirs.protocol)} ({software}), "
            f"this node {version_text(mine.protocol)} ({mine.software}): update the older one",
        )
    for identifier, what, other, ours in (
        (CHARTER, "charter", theirs.charter, mine.charter),
        (TASK, "task file", theirs.task, mine.task),
        (LAYOUT, "parameter layout", theirs.layout, mine.layout),
    ):
        if other != ours:
            return Mismatch(
                identifier,
                f"{name} has another {what} ({other.hex()[:12]}) than this node ({ours.hex()[:12]}): "
                "compare with `swarm charter show`; whoever has the wrong one gets the right one and starts again",
            )
    lacking = [need for need in needs if need not in theirs.capabilities]
    if lacking:
        return Mismatch(
            CAPABILITY, f"{name} ({software}) cannot do what the charter asks for ({', '.join(lacking)}): update it"
        )
    return None


def printable(text: str, characters_max: int = SAID_CHARACTERS_MAX) -> str:
    """Return a peer's words as they may be shown: on one line, nothing that a terminal would obey, and not for ever."""
    shown = "".join(character if character.isprintable() else "?" for character in text[:characters_max])
    return shown if len(text) <= characters_max else f"{shown}…"

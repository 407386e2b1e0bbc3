"""What a node and a user's script say to each other: MessagePack maps behind their length, over a Unix socket.

It is what `node.trainer` and `node.worker` say, with a ticket on each request, because here an answer may be late: the
node may have been paused or started again meanwhile, and must not take old work for new. A script is not the node's
child and its socket is open to whatever this user runs, so what comes from it is decoded strictly, and whoever talks
nonsense loses the link, never the node.

::

    script  {"did": "load", "protocol": 1, "layout": SHA-256}         hello; the node answers nothing, or "refuse"
    node    {"do": "train", "ticket", "round", "model", "update"}     paths of files: the model, where the update goes
    script  {"did": "step", "round", "step"}                          progress, a few times a second
    script  {"did": "train", "ticket", "round", "samples", "metrics", "remarks", "parameters", "evaluation"}
    node    {"do": "evaluate", "ticket", "round", "model"}
    script  {"did": "evaluate", "ticket", "round", "samples", "metrics", "remarks", "groups"}   or "later": with train
    node    {"do": "drop", "ticket"}                                  the site rests; the answer is not wanted
"""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec

from node.framing import framed
from swarm.errors import UsageError

PROTOCOL = 1

SOCKET_PATH_BYTES_MAX = 107
"""Of a Unix socket's path: `sun_path` has 108 bytes, and the last is zero (unix(7))."""

REPLY_BYTES_MAX = 1 << 22
"""Of a script's message: stretches of 100,000 tensors."""


UNSCORED = "the script has no evaluation: it sent none with its update, and registered no function with peer.evaluate()"
"""Why a model has no score that nobody scored. Not a failure; a node knows it by these words, from any process."""


class Scores(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a script measured on its held-out data. `groups` is how many cases there are of each kind.

    They are None where the script counts its cases without telling them apart, empty where that is not known.
    """

    samples: int
    metrics: dict[str, float]
    remarks: list[str] = []
    groups: list[int] | None = None


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Whatever a script says."""

    did: str
    protocol: int = 0
    layout: bytes = b""
    ticket: int = 0
    round: int = 0
    step: int = 0
    samples: int = 0
    metrics: dict[str, float] = {}
    remarks: list[str] = []
    parameters: list[int] = []
    longest: str = ""
    share: float = 0.0
    evaluation: Scores | None = None
    groups: list[int] | None = None
    later: bool = False
    error: str = ""


def socket_path(run: Path) -> Path:
    """Return where the node of a site with this `run` folder listens for its script."""
    return run / "script.sock"


def check_path(path: Path) -> None:
    """Raise `UsageError` if no socket can have this path."""
    if len(str(path).encode()) > SOCKET_PATH_BYTES_MAX:
        raise UsageError(
            f"couldn't use {path}: the path of its socket is too long",
            hint=f"a socket's path may have {SOCKET_PATH_BYTES_MAX} bytes: use a site folder with a shorter one",
        )


def reply_of(body: bytes) -> Reply:
    """Return what a script said. Raises `UsageError` when it is nothing a script says."""
    try:
        reply = msgspec.msgpack.decode(body, type=Reply)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UsageError(f"couldn't read what the script said: {error}", hint="use join() to talk to a node") from None
    work = reply.did in ("train", "evaluate") and not reply.error and not reply.later
    counts = reply.samples >= 1 if work else reply.samples >= 0
    starts, ends = reply.parameters[::2], reply.parameters[1::2]
    kinds = [*(reply.groups or []), *((reply.evaluation and reply.evaluation.groups) or [])]
    counts = counts and all(count >= 0 for count in kinds)
    scores = [reply.metrics, {} if reply.evaluation is None else reply.evaluation.metrics]
    counts = counts and 0.0 <= reply.share <= 1.0
    counts = counts and all(math.isfinite(value) for metrics in scores for value in metrics.values())
    if not counts or len(starts) != len(ends) or any(a < 0 or a >= b for a, b in zip(starts, ends, strict=True)):
        raise UsageError("couldn't read what the script said: its numbers make no sense", hint="use join()")
    if reply.evaluation is not None and reply.evaluation.samples < 1:
        raise UsageError("couldn't read what the script said: it evaluated nothing", hint="use join()")
    return reply


def send(link: socket.socket, message: Mapping[str, object] | Reply) -> None:
    """Write one message. Raises `OSError` when the other end is gone."""
    link.sendall(framed(msgspec.msgpack.encode(message)))


def hung_up(link: socket.socket) -> bool:
    """Whether the other end is gone and everything it said has been read."""
    try:
        return link.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True

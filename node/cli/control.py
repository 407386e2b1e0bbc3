"""Talking to a running node over its local socket: one question, one answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path

from node.cli.output import UNAVAILABLE, Failure
from swarm.errors import UsageError

ANSWER_S = 5.0
"""How long a node may take to answer: its loop turns within a second."""

ANSWER_BYTES_MAX = 1 << 24
"""Far more than a node has to say of a thousand members; whoever says more is none."""


def ask(control: Path, question: str = "status") -> Mapping[str, object]:
    """Return what the node that listens at `control` answers.

    Raises:
        Failure: none answers.
        UsageError: it refuses, and says why.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(ANSWER_S)
            link.connect(str(control))
            link.sendall(json.dumps({"question": question}).encode() + b"\n")
            data = b""
            while len(data) <= ANSWER_BYTES_MAX and (part := link.recv(1 << 16)):
                data += part
        answer = json.loads(data)
        if not isinstance(answer, dict):
            raise TypeError("no node says so")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        if str(error) == "AF_UNIX path too long":
            raise Failure(
                f"couldn't ask a node in {control.parent.parent}: the path of its socket is too long",
                code=UNAVAILABLE,
                hint="a socket's path may have about a hundred characters: use a folder with a shorter one",
            ) from None
        raise Failure(
            f"no node answers in {control.parent.parent}",
            code=UNAVAILABLE,
            hint="start it with `swarm start`; the ledger can be read without it: `swarm ledger status`",
        ) from None
    if "error" in answer:
        raise UsageError(str(answer["error"]), hint="`swarm members` shows who the members are and what is proposed")
    return answer

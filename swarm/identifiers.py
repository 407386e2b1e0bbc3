"""Identifiers: what an error is called, whatever the words of the day, so that it can be looked up and searched for.

`SWARM-` and where it is noticed: HELLO (two sites greet each other), NET (links), DISK, CHARTER, TASK, LEDGER, EGRESS
(what leaves a site), SITE (the folder and its settings). Each has a row in `docs/reference/errors.md` with what causes
it and what to do, which a test checks. What has none of its own has that of its kind (`swarm.errors`). Once printed, an
identifier keeps its meaning for ever: add, never reuse.
"""

from __future__ import annotations

from collections.abc import Mapping

IDENTIFIERS: Mapping[str, str] = {
    # Kinds, for whatever has none of its own.
    "SWARM-ERROR": "something unexpected",
    "SWARM-PEER": "a peer sent something it should not have",
    "SWARM-USAGE": "the command, or what it was given, is wrong",
    "SWARM-LEDGER": "a proof does not hold",
    "SWARM-STORE": "the disk did not do what it promised",
    # Two sites greet each other.
    "SWARM-HELLO-IDENTITY": "a peer introduced itself as another member",
    "SWARM-HELLO-VERSION": "two sites speak protocols of different majors",
    "SWARM-HELLO-CHARTER": "two sites have different charters",
    "SWARM-HELLO-TASK": "two sites have different task files",
    "SWARM-HELLO-LAYOUT": "two sites have models of different shapes",
    "SWARM-HELLO-CAPABILITY": "a site cannot do what the charter asks for",
    "SWARM-HELLO-REFUSED": "the other site refuses, in its own words",
    # Links.
    "SWARM-NET-DNS": "a name leads to no address",
    "SWARM-NET-UNREACHABLE": "nothing answers at an address",
    "SWARM-NET-TIMEOUT": "packets to an address are dropped",
    "SWARM-NET-ADDRESS": "an endpoint is not an address",
    "SWARM-NET-LISTEN": "this site cannot listen where it should",
    "SWARM-NET-DENIED": "a peer says that our key is not on its list",
    "SWARM-NET-UNFINISHED": "a peer leaves the handshake unanswered",
    "SWARM-NET-SERVER-KEY": "a peer has another key than its card says",
    "SWARM-NET-NOT-A-PEER": "something else than a peer answers",
    "SWARM-NET-UNKNOWN-KEY": "somebody whose key is on no card connects",
    "SWARM-NET-REVOKED-KEY": "somebody uses a key that is no longer valid",
    # The disk.
    "SWARM-DISK-FULL": "there is no space left on the disk",
    # Before anything runs.
    "SWARM-SITE-SETTINGS": "the settings cannot be read",
    "SWARM-SITE-KEYS": "a key is missing, damaged or readable by others",
    "SWARM-SITE-LOCKED": "the keys are encrypted, and the passphrase is missing or another",
    "SWARM-SITE-MEMBER": "this site is not in its charter",
    "SWARM-SITE-IN-USE": "another process uses the folder",
    "SWARM-CHARTER-MISSING": "there is no charter in the folder",
    "SWARM-CHARTER-UNSIGNED": "not everybody has signed the charter",
    "SWARM-CHARTER-SIGNATURE": "a signature does not match the charter",
    "SWARM-TASK-FILE": "the task file is missing or not the charter's",
    "SWARM-TASK-MODEL": "the task's model is not the charter's",
    "SWARM-TASK-DEVICE": "the device that the settings ask for cannot be used",
    "SWARM-TASK-FAILED": "the task fails on this site's data",
    "SWARM-PRIVACY-SPENT": "a site's privacy budget does not allow another round",
    "SWARM-PRIVACY-RECORD": "the record of what is spent lacks rounds that the ledger has",
    # What may leave a site.
    "SWARM-EGRESS-CHARTER": "the charter asks for more than this site lets out",
    "SWARM-EGRESS-LIMIT": "an update would go beyond what this site lets out",
    "SWARM-EGRESS-RECORD": "the record of what has left this site is damaged",
    # The ledger.
    "SWARM-LEDGER-FOREIGN": "the folder holds the ledger of another charter",
    "SWARM-LEDGER-DAMAGED": "a part of the ledger is lost",
    "SWARM-LEDGER-VOTES": "the record of this site's votes is damaged",
}

_OF_EVENT: Mapping[str, str] = {
    "unreachable": "SWARM-NET-UNREACHABLE",
    "bad_endpoint": "SWARM-NET-ADDRESS",
    "denied": "SWARM-NET-DENIED",
    "handshake_timeout": "SWARM-NET-UNFINISHED",
    "wrong_server_key": "SWARM-NET-SERVER-KEY",
    "handshake_protocol": "SWARM-NET-NOT-A-PEER",
    "unknown_key": "SWARM-NET-UNKNOWN-KEY",
    "revoked_key": "SWARM-NET-REVOKED-KEY",
}


def of_event(event: str) -> str:
    """Return the identifier of what the transport tells of under a name, empty if it has none."""
    return _OF_EVENT.get(event, "")

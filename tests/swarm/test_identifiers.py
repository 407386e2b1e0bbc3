"""Identifiers: every one that is printed is explained, and every one that is explained is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from swarm.errors import LedgerError, PeerError, Reject, StoreError, SwarmError, UsageError
from swarm.identifiers import IDENTIFIERS, of_event

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference" / "errors.md"
KINDS = {kind.kind_identifier for kind in (SwarmError, PeerError, UsageError, LedgerError, StoreError)}


def rows() -> dict[str, tuple[str, str]]:
    """Return the rows of the reference: (cause, what to do) by identifier."""
    found = re.findall(r"^\| `(SWARM-[A-Z-]+)` \| (.*?) \| (.*?) \|$", REFERENCE.read_text(), re.MULTILINE)
    assert len(found) == len({name for name, _, _ in found}), "each has one row"
    return {name: (cause, remedy) for name, cause, remedy in found}


def used() -> set[str]:
    """Return the identifiers that the source names outside the registry."""
    return {
        name
        for package in ("swarm", "gossip", "topologies", "node")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "identifiers.py"
        for name in re.findall(r'"(SWARM-[A-Z-]+)"', path.read_text())
    }


def test_every_identifier_is_documented_with_cause_and_remedy_and_no_other_is() -> None:
    assert set(rows()) == set(IDENTIFIERS)
    assert all(cause.endswith(".") and remedy.endswith(".") for cause, remedy in rows().values())


def test_every_identifier_that_is_printed_is_registered_and_the_other_way_round() -> None:
    events = {
        *("unreachable", "bad_endpoint", "denied", "handshake_timeout", "wrong_server_key"),
        *("handshake_protocol", "unknown_key", "revoked_key"),
    }
    assert used() <= set(IDENTIFIERS)
    assert used() | {of_event(event) for event in events} == set(IDENTIFIERS)


def test_the_transport_tells_of_each_event_that_has_an_identifier() -> None:
    text = (ROOT / "gossip" / "zeromq.py").read_text()
    told = set(re.findall(r'"([a-z_]+)"', text))
    assert {event for event in told if of_event(event)} == {
        *("unreachable", "bad_endpoint", "denied", "handshake_timeout", "wrong_server_key"),
        *("handshake_protocol", "unknown_key", "revoked_key"),
    }


@pytest.mark.parametrize("kind", [SwarmError, PeerError, Reject, UsageError, LedgerError, StoreError])
def test_an_error_has_its_kinds_identifier_unless_it_has_one_of_its_own(kind: type[SwarmError]) -> None:
    assert kind("x").identifier in KINDS
    assert kind("x", identifier="SWARM-DISK-FULL").identifier == "SWARM-DISK-FULL"
    assert (kind("x").identifier == "SWARM-PEER") == issubclass(kind, PeerError)

"""Whom a round waits for is who is not in the ledger yet."""

from __future__ import annotations

import dataclasses

import pytest

from node.telemetry.awaited import awaited
from swarm.ledger.audit import Audit, RoundView, audit, member_names
from swarm.machine import NodeId
from tests.node.test_cli_ledger import calm


@pytest.fixture
def found() -> Audit:
    signed, payloads = calm()
    *_, result = audit(payloads, signed, trusting=True)
    return result


def test_who_has_not_offered_is_awaited_for_the_close(found: Audit) -> None:
    nodes = [*member_names(found.epochs)]
    whole = found.rounds[2].contributions
    found.rounds[3] = RoundView(3, contributions={nodes[1]: whole[nodes[1]]})
    assert awaited(found, nodes[1], 3, "wait") == ["site-0", "site-2"]
    assert awaited(found, nodes[0], 3, "wait") == ["site-2"], "this site has offered, or it would not wait"
    assert awaited(found, nodes[1], 4, "wait") == ["site-0", "site-2"], "no block has anything of it"


def test_who_has_not_attested_is_awaited_for_the_commit(found: Audit) -> None:
    nodes = [*member_names(found.epochs)]
    view = dataclasses.replace(found.rounds[2], commit=None, attested_ms={nodes[0]: 1, nodes[2]: 1})
    found.rounds[2] = view
    assert awaited(found, nodes[0], 2, "attest") == ["site-1"]


def test_training_and_averaging_wait_for_this_site(found: Audit) -> None:
    me = [*member_names(found.epochs)][1]
    assert awaited(found, me, 3, "train") == awaited(found, me, 3, "mix") == ["site-1"]
    assert awaited(found, NodeId(bytes(32)), 3, "train") == [], "no member any more"


def test_a_ledger_that_is_further_than_the_log_names_nobody(found: Audit) -> None:
    me = next(iter(member_names(found.epochs)))
    assert awaited(found, me, 2, "wait") == awaited(found, me, 2, "attest") == awaited(found, me, 9, "attest") == ()

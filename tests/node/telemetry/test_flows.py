"""Single chunks become what went to whom, when, and how much of it."""

from __future__ import annotations

from node.telemetry.flows import OPEN_MAX, QUIET_S, Sending, Sendings
from swarm.machine import Digest, NodeId

A, B = NodeId(b"a" * 32), NodeId(b"b" * 32)
X, Y = Digest(b"x" * 32), Digest(b"y" * 32)


def test_chunks_of_one_blob_to_one_neighbour_are_one_sending() -> None:
    sendings = Sendings()
    sendings.note(A, X, 10, 1.0, round_=3)
    sendings.note(B, X, 5, 1.5, round_=3)
    sendings.note(A, X, 20, 2.0, round_=4)
    assert sendings.over(3.4) == []
    assert sendings.over(1.5 + QUIET_S) == [Sending(B, X, 3, 5, 1.5, 1.5)]
    assert sendings.over(2.0 + QUIET_S) == [Sending(A, X, 3, 30, 1.0, 2.0)]
    assert sendings.over(100.0) == []


def test_who_asks_again_later_begins_another() -> None:
    sendings = Sendings()
    sendings.note(A, X, 10, 1.0)
    assert sendings.known(A, X)
    assert len(sendings.over(1.0 + QUIET_S)) == 1
    assert not sendings.known(A, X)
    sendings.note(A, X, 10, 9.0)
    assert [one.began_s for one in sendings.over(9.0 + QUIET_S)] == [9.0]


def test_what_is_not_over_when_the_node_stops_is_told_all_the_same() -> None:
    sendings = Sendings()
    sendings.note(A, X, 10, 1.0)
    sendings.note(A, Y, 11, 1.0)
    assert [one.size for one in sendings.rest()] == [10, 11]
    assert sendings.rest() == []


def test_there_is_a_limit_to_how_many_are_put_together() -> None:
    sendings = Sendings()
    for number in range(OPEN_MAX + 10):
        sendings.note(NodeId(number.to_bytes(32, "big")), X, 1, 1.0)
    assert len(sendings.over(1.0)) == 10
    assert len(sendings.rest()) == OPEN_MAX

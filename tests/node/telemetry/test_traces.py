"""Every site names a round and what is done in it alike, and none asks another how."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.telemetry import traces
from node.telemetry.traces import DEEDS, Names, span_id, trace_id, traceparent
from swarm.machine import NodeId, Report

LEDGER = bytes(range(32))
NODE = NodeId(bytes(range(32, 64)))


def test_the_ids_are_the_hashes_that_the_description_says() -> None:
    trace = hashlib.sha256(b"swarm/trace/1\0" + LEDGER + (7).to_bytes(8, "big")).digest()[:16]
    assert trace_id(LEDGER, 7) == trace
    told = b"swarm/span/1\0" + trace + NODE + b"\0\0\0\2" + b"\0\5train"
    assert span_id(trace, NODE, "train", attempt=2) == hashlib.sha256(told).digest()[:8]


def test_they_are_these_for_ever() -> None:
    trace = trace_id(LEDGER, 1)
    assert trace.hex() == "08a854666c989ab8c6151b384f4e4925"
    assert span_id(trace, NODE, "round").hex() == "e0ff188417a3eb67"
    assert (
        traceparent(trace, span_id(trace, NODE, "round")) == "00-08a854666c989ab8c6151b384f4e4925-e0ff188417a3eb67-01"
    )


@given(st.binary(min_size=32, max_size=32), st.integers(1, 2**63 - 1), st.sampled_from(DEEDS))
def test_no_id_is_all_zeros_and_each_has_its_size(ledger: bytes, round_: int, deed: str) -> None:
    trace = trace_id(ledger, round_)
    span = span_id(trace, NODE, deed)
    assert (len(trace), len(span)) == (16, 8)
    assert any(trace)
    assert any(span)


def test_what_would_be_all_zeros_ends_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zeros:
        def digest(self) -> bytes:
            return bytes(32)

    monkeypatch.setattr(traces.hashlib, "sha256", lambda _: Zeros())
    assert trace_id(LEDGER, 1) == bytes(15) + b"\1"
    assert span_id(bytes(16), NODE, "mix") == bytes(7) + b"\1"


def test_sites_agree_on_a_round_and_on_nothing_else() -> None:
    here, there = Names(LEDGER, NODE), Names(LEDGER, NodeId(bytes(32)))
    for event in ("training", "trained", "round_closed", "mixed", "round_committed"):
        one, other = (names.of(Report(event, "", {"round": 3})) for names in (here, there))
        assert one["trace_id"] == other["trace_id"] == trace_id(LEDGER, 3).hex()
        assert one["span_id"] != other["span_id"]
    assert here.of(Report("trained", "", {"round": 4}))["trace_id"] != trace_id(LEDGER, 3).hex()
    assert Names(bytes(32), NODE).of(Report("trained", "", {"round": 3}))["trace_id"] != trace_id(LEDGER, 3).hex()


def test_deeds_attempts_and_what_is_sent_to_whom_are_spans_of_their_own() -> None:
    names = Names(LEDGER, NODE)
    facts = [
        Report("trained", "", {"round": 3}),
        Report("mixed", "", {"round": 3}),
        Report("masks_agreed", "", {"round": 3, "attempt": 1}),
        Report("masks_agreed", "", {"round": 3, "attempt": 2}),
        *(Report("sent", "", {"round": 3, "to": to, "digest": d}) for to in ("aa", "bb") for d in ("cc", "dd")),
    ]
    spans = [names.of(fact)["span_id"] for fact in facts]
    assert len({*spans}) == len(spans) == 8
    assert names.of(Report("training", "", {"round": 3}))["span_id"] == spans[0], "its beginning is of the same span"


@pytest.mark.parametrize("round_", [0, -1, True, "3", 3.0, 1 << 63])
def test_what_is_no_round_has_no_trace(round_: float | str) -> None:
    assert Names(LEDGER, NODE).of(Report("trained", "", {"round": round_})) == {}


def test_what_belongs_to_no_round_has_no_trace() -> None:
    assert Names(LEDGER, NODE).of(Report("link_up", "linked to b", {"peer": "b"})) == {}

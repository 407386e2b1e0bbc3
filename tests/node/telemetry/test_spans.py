"""A round becomes spans whose ends are facts of the log, and the spans of all sites are one trace."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from node.telemetry.spans import OPEN_MAX, TIME_S_MAX, Span, Spans
from node.telemetry.tail import Tail
from node.telemetry.traces import Names, trace_id
from swarm.machine import Report
from tests.node.telemetry.builders import LEDGER, site, write_log

NAMES = Names(LEDGER, site(0))


def told(path: Path, index: int) -> list[Span]:
    spans = Spans(site(index))
    found = [span for line in Tail(path).lines() for span in spans.take(line)]
    return found + spans.rest()


def fact(event: str, at: float, round_: int = 1, **values: object) -> bytes:
    ids = NAMES.of(Report(event, "", {"round": round_}))
    return json.dumps({"time": at, "event": event, "round": round_, **ids, **values}).encode() + b"\n"


def fed(*lines: bytes) -> list[Span]:
    spans = Spans(site(0))
    return [span for line in lines for span in spans.take(line)] + spans.rest()


def test_three_sites_tell_one_trace_a_round_and_each_deed_once(tmp_path: Path) -> None:
    found = []
    for index in range(3):
        write_log(tmp_path / f"{index}", index)
        found += told(tmp_path / f"{index}", index)
    assert {span.trace for span in found} == {trace_id(LEDGER, 1), trace_id(LEDGER, 2)}
    for number in (1, 2):
        inside = [span for span in found if span.trace == trace_id(LEDGER, number)]
        assert sorted(span.name for span in inside) == sorted(
            3 * ["round", "train", "wait", "mix", "attest", "evaluate", "send", "send"]
        )
        assert len({span.id for span in inside}) == len(inside) == 24
        roots = {span.id for span in inside if span.name == "round"}
        assert {span.parent for span in inside if span.name != "round"} == roots
        assert {span.parent for span in inside if span.name == "round"} == {b""}


def test_its_ends_are_those_of_the_log_and_it_says_what_it_is_about(tmp_path: Path) -> None:
    write_log(tmp_path / "log", 2, rounds=1)
    found = {span.name: span for span in told(tmp_path / "log", 2)}
    ends = {name: (span.began_s - 1000, span.ended_s - 1000) for name, span in found.items()}
    assert ends == {
        "round": (0, 28),
        "train": (0, 12),
        "send": (13, 15),
        "wait": (12, 20),
        "mix": (20, 22),
        "attest": (22, 25),
        "evaluate": (25, 28),
    }
    assert found["round"].attributes == {
        "swarm.round": 1,
        "swarm.samples": 52,
        "swarm.missing": "",
        "swarm.sites": 3,
        "swarm.bytes": 8000,
    }
    assert found["send"].attributes == {"swarm.round": 1, "swarm.peer": "site-1", "swarm.bytes": 4000}


def test_what_a_line_is_missing_for_is_left_out() -> None:
    found = fed(fact("round_closed", 5.0), fact("mixed", 6.0), fact("round_committed", 7.0))
    assert sorted(span.name for span in found) == ["attest", "mix", "round"], "it was away while others trained"


def test_late_work_waits_for_nothing() -> None:
    lines = fact("training", 0.0), fact("round_closed", 5.0), fact("trained", 6.0), fact("round_committed", 7.0)
    assert sorted(span.name for span in fed(*lines)) == ["round", "train"]


def test_training_that_fails_is_one_span_over_all_tries() -> None:
    lines = [fact("training", 0.0), fact("training_failed", 1.0), fact("training", 2.0), fact("trained", 3.0)]
    [train] = [span for span in fed(*lines, fact("round_committed", 9.0)) if span.name == "train"]
    assert (train.began_s, train.ended_s, train.failed, train.attributes["swarm.failures"]) == (0.0, 3.0, False, 1)
    [train] = [span for span in fed(*lines[:2], fact("round_committed", 9.0)) if span.name == "train"]
    assert (train.ended_s, train.failed) == (1.0, True)


def test_a_round_is_told_when_the_next_one_is_committed_if_its_model_is_never_evaluated() -> None:
    spans = Spans(site(0))
    assert spans.take(fact("round_committed", 1.0, 1)) == []
    [whole] = spans.take(fact("round_committed", 2.0, 2))
    assert (whole.name, whole.trace) == ("round", trace_id(LEDGER, 1))
    assert spans.take(fact("evaluated", 3.0, 1)) == [], "and not again"
    assert [span.trace for span in spans.rest()] == [trace_id(LEDGER, 2)]


def test_rounds_that_are_never_committed_do_not_pile_up() -> None:
    spans = Spans(site(0))
    for number in range(1, 10 * OPEN_MAX):
        assert spans.take(fact("training", 1.0, number)) == []
    assert len(spans._open) == OPEN_MAX
    assert spans.rest() == []


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
KEYS = ("time", "round", "trace_id", "event", "to", "digest", "began", "seconds", "bytes", "missing", "sites", "peer")


@given(
    st.sampled_from(["sent", "trained", "round_closed", "round_committed", "evaluated"]), st.sampled_from(KEYS), JUNK
)
def test_no_line_of_a_log_that_somebody_wrote_into_ends_it(event: str, key: str, value: object) -> None:
    whole = {"to": "a", "digest": "b", "began": 1.0, "seconds": 1.0, "bytes": 1}
    told = {**json.loads(fact(event, 1.0)), **whole, key: value}
    found = fed(b"{", b"\xff\n", b"[" * 50_000, b"[]\n", b"7\n", json.dumps(told).encode(), fact("mixed", 2.0))
    for span in found:
        assert 0 <= span.began_s <= span.ended_s < TIME_S_MAX
        assert all(isinstance(one, str) or (isinstance(one, int) and one < 1 << 63) for one in span.attributes.values())

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
            3 * ["round", "train", "wait", "mix", "attest", "evaluate", "send", "send", "receive", "receive"]
        )
        assert len({span.id for span in inside}) == len(inside) == 30
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
        "receive": (16, 17),
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
    assert found["receive"].attributes == {"swarm.round": 1, "swarm.peer": "site-1", "swarm.bytes": 3000}


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


# --- rounds that are not over -----------------------------------------------------------------------------------------


def nobody(_: int, __: str) -> list[str]:
    return []


def test_a_round_that_hangs_is_told_of_with_its_phase_and_who_is_awaited() -> None:
    spans, asked = Spans(site(0)), []

    def three(number: int, phase: str) -> list[str]:
        asked.append((number, phase))
        return ["site-1", "site-2"]

    spans.take(fact("training", 0.0))
    spans.take(fact("trained", 10.0))
    assert spans.hanging(69.0, three) == [], "59 s may be its way"
    assert asked == [], "and nobody is asked for nothing"
    [look] = spans.hanging(70.0, three)
    assert (look.name, look.parent, look.began_s, look.ended_s, look.failed) == ("open", b"", 10.0, 70.0, False)
    assert look.trace == trace_id(LEDGER, 1)
    assert look.attributes == {
        "swarm.round": 1, "swarm.open": True, "swarm.phase": "wait", "swarm.awaited": "site-1, site-2",
    }  # fmt: skip
    assert asked == [(1, "wait")]


def test_looks_come_when_it_has_hung_twice_as_long_and_none_replaces_another() -> None:
    spans = Spans(site(0))
    spans.take(fact("training", 0.0))
    looks = [look for now in range(1, 1000) for look in spans.hanging(float(now), nobody)]
    assert [look.ended_s for look in looks] == [60.0, 120.0, 240.0, 480.0, 960.0]
    assert len({look.id for look in looks}) == 5
    assert "swarm.awaited" not in looks[0].attributes


def test_each_phase_hangs_anew_and_a_round_that_is_committed_does_not() -> None:
    spans = Spans(site(0))
    phases = []
    for event, at in (("training", 0.0), ("trained", 100.0), ("round_closed", 200.0), ("mixed", 300.0)):
        spans.take(fact(event, at))
        phases += [look.attributes["swarm.phase"] for look in spans.hanging(at + 61.0, nobody)]
    assert phases == ["train", "wait", "mix", "attest"]
    spans.take(fact("round_committed", 400.0))
    assert spans.hanging(1e6, nobody) == []
    assert sorted(span.name for span in spans.rest()) == ["round"], "and is told as ever"


def test_a_round_of_which_the_log_has_no_end_does_not_hang_once_a_later_one_is_committed() -> None:
    spans = Spans(site(0))
    spans.take(fact("training", 0.0, 1))
    spans.take(fact("round_committed", 10.0, 2))
    assert spans.hanging(1e6, nobody) == []


def test_training_that_fails_again_and_again_hangs_and_says_that_it_failed() -> None:
    spans = Spans(site(0))
    spans.take(fact("training", 0.0))
    spans.take(fact("training_failed", 5.0))
    [look] = spans.hanging(65.0, nobody)
    assert (look.attributes["swarm.phase"], look.failed) == ("train", True)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
KEYS = (
    "from",
    "time",
    "round",
    "trace_id",
    "event",
    "to",
    "digest",
    "began",
    "seconds",
    "bytes",
    "missing",
    "sites",
    "peer",
)


@given(
    st.sampled_from(["sent", "received", "trained", "round_closed", "round_committed", "evaluated"]),
    st.sampled_from(KEYS),
    JUNK,
)
def test_no_line_of_a_log_that_somebody_wrote_into_ends_it(event: str, key: str, value: object) -> None:
    whole = {"to": "a", "from": "a", "digest": "b", "began": 1.0, "seconds": 1.0, "bytes": 1}
    told = {**json.loads(fact(event, 1.0)), **whole, key: value}
    spans = Spans(site(0))
    junk = [b"{", b"\xff\n", b"[" * 50_000, b"[]\n", b"7\n", json.dumps(told).encode(), fact("mixed", 2.0)]
    found = [span for line in junk for span in spans.take(line)] + spans.hanging(2.0, nobody) + spans.rest()
    for span in found:
        assert 0 <= span.began_s <= span.ended_s < TIME_S_MAX
        assert all(isinstance(one, str) or (isinstance(one, int) and one < 1 << 63) for one in span.attributes.values())

import hashlib

import pytest

from swarm.machine import (
    Answer,
    Appraise,
    Appraised,
    Asked,
    Check,
    Checked,
    Digest,
    Effect,
    Evaluate,
    Evaluated,
    Event,
    Finished,
    Forget,
    Inspect,
    Inspected,
    Keep,
    LinkChanged,
    Mix,
    Mixed,
    NodeId,
    Persist,
    Publish,
    Received,
    Record,
    Report,
    Seal,
    Send,
    SendChunk,
    Started,
    Stepped,
    Stored,
    StoreFailed,
    Train,
    Trained,
    WakeAt,
    Woke,
)
from topologies.world.trace import LINES_RECENT, Trace, Words, checksum

A = NodeId(b"a" * 32)
D = Digest(b"d" * 32)
WORDS = Words({A: "n0"}, 1000.0)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Started((Record(1, 2, b""),), (), {D: 5}), "started records=1 blobs=0 partial=1"),
        (Received(A, b"123456789"), "recv n0 cbf43926"),  # the check value of CRC-32
        (Received(NodeId(b"z" * 32), b"123456789", b"xy"), "recv 7a7a7a7a cbf43926+2"),
        (LinkChanged(A, False, "why"), "link n0 down"),
        (Stepped(1, 2, 3), "stepped 1 2/3"),
        (Trained(1, D), "trained 1 64646464"),
        (Trained(1, None, error="no data"), "trained 1 - (no data)"),
        (Evaluated(1, D, 5, {}), "evaluated 1 64646464"),
        (Appraised(1, 7, 5, {}), "appraised 1/7"),
        (Appraised(1, 7, 0, {}, "gone"), "appraised 1/7 (gone)"),
        (Inspected(D, "NaN"), "inspected 64646464 (NaN)"),
        (Mixed(1, D, 4), "mixed 1 64646464"),
        (Mixed(1, None, error="full"), "mixed 1 - (full)"),
        (Checked(D, (0, 2)), "checked 64646464 2"),
        (Stored(D, 9, ()), "stored 64646464 9"),
        (StoreFailed(D, "full"), "store-failed 64646464 (full)"),
        (Woke(), "woke"),
        (Asked(1, "status"), "asked 1 status"),
    ],
)
def test_every_event_has_words(event: Event, words: str) -> None:
    assert WORDS.event(event) == words


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        (Persist((Record(3, 7, b"123456789"),)), "persist 3@7:cbf43926"),
        (Send(A, b"123456789"), "send n0 cbf43926"),
        (SendChunk(A, b"", D, 4, 8), "chunk n0 64646464 4+8"),
        (Keep(D, 9, 1, b"xy"), "keep 64646464 1+2"),
        (Seal(D, 9, ()), "seal 64646464"),
        (Check(D, 9, ()), "check 64646464"),
        (Forget((D, D)), "forget 64646464,64646464"),
        (Publish("checkpoint", b"123456789"), "publish checkpoint cbf43926"),
        (Inspect(D, 9), "inspect 64646464"),
        (Train(2, D), "train 2 64646464"),
        (Evaluate(2, D), "evaluate 2 64646464"),
        (Appraise(2, 7, D, ((D, 5),)), "appraise 2/7 64646464*5"),
        (Appraise(2, 8, D, ()), "appraise 2/8 nobody"),
        (Mix(2, D, ((D, 10),)), "mix 2 64646464*10"),
        (WakeAt(1001.5), "wake 1.500000"),
        (Report("round.closed", "Round 2 closed."), "report round.closed: Round 2 closed."),
        (Answer(3, {}), "answer 3"),
        (Finished("DONE", "20 rounds"), "finished DONE: 20 rounds"),
    ],
)
def test_every_effect_has_words(effect: Effect, words: str) -> None:
    assert WORDS.effects([effect]) == words


def test_the_digest_is_that_of_the_text() -> None:
    trace = Trace(record=True)
    lines = [f"line {number}" for number in range(1000)]
    for line in lines:
        trace.add(line)
    assert trace.digest() == hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()
    assert trace.lines() == tuple(lines)


def test_asking_for_the_digest_does_not_change_it() -> None:
    eager, lazy = Trace(), Trace()
    for number in range(300):
        eager.add(str(number))
        eager.digest()
        lazy.add(str(number))
    assert eager.digest() == lazy.digest()


def test_an_unrecorded_trace_remembers_the_last_lines_only() -> None:
    trace = Trace()
    for number in range(1000):
        trace.add(str(number))
    assert trace.lines() == tuple(str(number) for number in range(1000 - LINES_RECENT, 1000))


def test_different_frames_have_different_checksums() -> None:
    assert checksum(b"a") != checksum(b"b")
    assert checksum(memoryview(b"a")) == checksum(b"a")

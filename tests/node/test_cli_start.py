"""How `swarm start` ends, by what became of the run."""

from __future__ import annotations

import pytest

from node.cli.output import CONTRADICTION, FAILED, INTERRUPTED, PAUSED, SUBSET
from node.cli.start import Ending, failure_of
from node.cli.status import render
from swarm.machine import Finished

DONE = Finished("DONE", "all 3 rounds are committed")


@pytest.mark.parametrize(
    ("ending", "code", "words"),
    [
        (Ending(DONE), None, ""),
        (
            Ending(DONE, gaps="fra in rounds 2 to 3"),
            SUBSET,
            "DONE by a subset of its sites: no work of fra in rounds 2",
        ),
        (
            Ending(Finished("PAUSED", "1 of 4 sites present, 3 needed")),
            PAUSED,
            "PAUSED: 1 of 4 sites present, 3 needed",
        ),
        (Ending(Finished("FAILED", "training failed")), FAILED, "the run ended FAILED: training failed"),
        (Ending(Finished("FAILED", "forked"), forked=True), CONTRADICTION, "the run ended FAILED: forked"),
        (Ending(Finished("LEFT", "it is no member any more")), None, ""),
        (Ending(None), INTERRUPTED, "stopped before the run was done"),
    ],
)
def test_each_way_to_end_has_its_code_and_its_words(ending: Ending, code: int | None, words: str) -> None:
    failure = failure_of(ending, waited=True)
    assert (failure.code if failure else None) == code
    assert failure is None or (words in failure.message and failure.hint)


def test_a_peer_that_was_not_to_wait_for_the_end_may_be_stopped_at_any_time() -> None:
    assert failure_of(Ending(None), waited=False) is None
    assert failure_of(Ending(DONE, gaps="fra in round 2"), waited=False) is None
    assert failure_of(Ending(Finished("PAUSED", "too few")), waited=False) is not None


def status(**more: object) -> dict[str, object]:
    plain = {
        "swarm": "s",
        "me": "a",
        "rounds": 3,
        "committed": 3,
        "height": 9,
        "entries": 40,
        "root": "ab",
        "model": "cd",
    }
    return {**plain, "quorum": 3, "tolerance": "t", "paused": "", "halted": "", "members": [], **more}


def test_a_status_says_how_the_run_ended_and_without_whom() -> None:
    text = render(status(outcome="DONE", reason="all 3 rounds are committed", gaps={"fra": [2, 3], "rom": [1]}))
    assert "DONE       all 3 rounds are committed" in text
    assert "took part  a SUBSET: no work of fra in rounds 2 to 3; rom in round 1" in text
    text = render(status(outcome="DONE", reason="all 3 rounds are committed", gaps={}))
    assert "took part  every site, in every round" in text
    assert "took part" not in render(status(outcome="RUNNING", reason="", gaps=None))
    assert "FAILED     training failed" in render(status(outcome="FAILED", reason="training failed", gaps=None))

"""When a site judges, within what time, and what it says: the part of the node alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from node.core.appraisal import Appraisal
from swarm import codec
from swarm.ledger import entry as e
from swarm.machine import Appraise, Appraised, Digest, Report
from swarm.round import Say
from tests.builders import contribution, digest, make_swarm

N, NOW = 5, 1000.0
SWARM = make_swarm(N, contribution="loo:loss:lower:20")
NODES = [who.node for who in SWARM.identities]
ME = 2


def everything(_: Digest) -> bool:
    return True


class Site:
    """A site's appraisal and a log for it to follow."""

    def __init__(self, swarm: object = SWARM) -> None:
        self.appraisal = Appraisal(swarm.charter, NODES[ME], swarm.signed.ledger_id)  # type: ignore[attr-defined]
        self.size = 1
        self.now = NOW

    def play(self, number: int) -> None:
        at = [self._note(NODES[i], e.CONTRIBUTION, contribution(SWARM, i, number=number)) for i in range(N)]
        close = e.RoundClose(number, 1, tuple((index, 10) for index in at), (), ())
        place = self._note(e.NO_AUTHOR, e.ROUND_CLOSE, close)
        commit = e.RoundCommit(number, place, digest(f"model {number}"), 128, N, 50, (), (), 0, 0)
        self._note(e.NO_AUTHOR, e.ROUND_COMMIT, commit)

    def train(self, seconds: float) -> None:
        self.appraisal.training(self.now)
        self.now += seconds
        self.appraisal.trained(self.now, well=True)

    def step(self, *, free: bool = True, holds: Callable[[Digest], bool] = everything) -> list[object]:
        return list(self.appraisal.step([], holds, free=free, now=self.now))

    def answer(self, asked: object, seconds: float, value: float = 0.5) -> list[object]:
        assert isinstance(asked, Appraise)
        self.now += seconds
        return list(self.appraisal.appraised(Appraised(asked.round, asked.number, 20, {"loss": value}), self.now))

    def _note(self, author: bytes, kind: int, body: object) -> int:
        entry = e.Entry(1, kind, bytes(32), author, 0, bytes(32), 0, codec.encode(body), b"")
        self.appraisal.note(self.size, [entry])
        self.size += 1
        return self.size - 1


@pytest.fixture
def site() -> Site:
    made = Site()
    made.play(1)
    made.train(10.0)
    return made


def said(actions: list[object]) -> e.Score:
    (body,) = [action.body for action in actions if isinstance(action, Say)]
    assert isinstance(body, e.Score)
    return body


def test_it_asks_for_everyone_then_for_everyone_but_each_one_question_at_a_time(site: Site) -> None:
    sizes = []
    for _ in range(N + 1):
        (asked,) = site.step()
        assert isinstance(asked, Appraise)
        assert asked.model == SWARM.charter.task.initial_model
        assert site.step() == [], "one is under way"
        sizes.append(len(asked.terms))
        assert site.answer(asked, 0.1, value=2.0 - 0.1 * len(asked.terms)) == []
    assert sizes == [N] + [N - 1] * N
    score = said(site.step())
    assert (score.round, score.metric, score.method, score.evaluations, score.samples) == (1, 0, 1, N + 1, 20)
    assert [value for _, value, _ in score.scores] == [100_000] * N, "a loss that falls is a gain"
    assert not site.appraisal.keep()


def test_it_waits_while_a_round_waits_for_the_trainer(site: Site) -> None:
    assert site.step(free=False) == []
    (asked,) = site.step()
    site.answer(asked, 0.1)
    assert site.step(free=False) == [], "nor does it go on"


def test_it_stops_at_its_share_of_the_training_time_and_says_what_it_knows(site: Site) -> None:
    """Twenty percent of ten seconds are three questions of 0.6 s; a fourth would end beyond."""
    for _ in range(3):
        (asked,) = site.step()
        site.answer(asked, 0.6)
    score = said(site.step())
    assert score.evaluations == 3
    assert len(score.scores) == 2
    assert site.appraisal.cost.seconds == pytest.approx(1.8)


def test_who_cannot_say_anything_in_time_says_so_and_is_done_with_the_round(site: Site) -> None:
    (asked,) = site.step()
    site.answer(asked, 5.0)
    (report,) = site.step()
    assert isinstance(report, Report)
    assert report.event == "score_cut"
    assert "1 models judged in 5 s" in report.text
    assert site.step() == []
    assert not site.appraisal.due([], everything)


def test_without_knowing_how_long_training_takes_nothing_is_judged() -> None:
    fresh = Site()
    fresh.play(1)
    assert fresh.step() == []
    assert not fresh.appraisal.due([], everything), "and a run that is over does not wait for it"
    fresh.appraisal.training(fresh.now)
    fresh.appraisal.trained(fresh.now + 5, well=False)
    assert fresh.step() == [], "a failure says nothing of it"


def test_what_is_not_here_is_not_judged_and_not_asked_for(site: Site) -> None:
    gone = Digest(contribution(SWARM, 4).update_digest)
    assert site.step(holds=lambda one: one != gone) == []
    assert gone in site.appraisal.keep()


def test_a_site_that_rests_asks_nothing_and_asks_again_when_it_goes_on(site: Site) -> None:
    (asked,) = site.step()
    site.appraisal.rest(True)
    assert site.step() == []
    assert not site.appraisal.due([], everything)
    site.appraisal.rest(False)
    (again,) = site.step()
    assert isinstance(again, Appraise)
    assert isinstance(asked, Appraise)
    assert again.terms == asked.terms
    assert again.number != asked.number
    assert site.answer(asked, 0.1) == [], "what was asked before it rested is not answered any more"
    assert site.step() == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_no_number_ends_the_round_and_not_the_site(site: Site, value: float) -> None:
    (asked,) = site.step()
    (report,) = site.answer(asked, 0.1, value)
    assert isinstance(report, Report)
    assert report.event == "score_failed"
    assert "gave no finite loss" in report.text
    assert site.step() == []
    site.play(2)
    assert len(site.step()) == 1, "the next round is judged"


def test_a_round_that_is_settled_meanwhile_is_let_go(site: Site) -> None:
    (asked,) = site.step()
    for number in (2, 3):
        site.play(number)
    (next_,) = site.step()
    assert isinstance(asked, Appraise)
    assert isinstance(next_, Appraise)
    assert (asked.round, next_.round) == (1, 2)
    assert site.answer(asked, 0.1) == []


def test_the_oldest_round_is_judged_first_and_what_is_on_its_way_not_again(site: Site) -> None:
    site.play(2)
    mine = [e.Score(1, 0, 1, 6, 20, ((1, 0, 0),))]
    (asked,) = site.appraisal.step(mine, everything, free=True, now=site.now)
    assert isinstance(asked, Appraise)
    assert asked.round == 2


def test_a_value_beyond_what_an_entry_may_say_is_held_within(site: Site) -> None:
    for _ in range(N + 1):
        (asked,) = site.step()
        assert isinstance(asked, Appraise)
        site.answer(asked, 0.1, 1e30 * len(asked.terms))
    assert {value for _, value, _ in said(site.step()).scores} == {-e.SCORE_LIMIT}

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

    def play(self, number: int, offered_s: float = 0.0) -> None:
        """A round whose work this site, by its own clock, has offered at that time. The others' clocks are elsewhere."""
        at = [
            self._note(NODES[i], e.CONTRIBUTION, contribution(SWARM, i, number=number), offered_s if i == ME else 77.7)
            for i in range(N)
        ]
        close = e.RoundClose(number, 1, tuple((index, 10) for index in at), (), ())
        place = self._note(e.NO_AUTHOR, e.ROUND_CLOSE, close)
        commit = e.RoundCommit(number, place, digest(f"model {number}"), 128, N, 50, (), (), 0, 0)
        self._note(e.NO_AUTHOR, e.ROUND_COMMIT, commit)

    def attest(self, number: int, at_s: float) -> None:
        """This site signs the mean of a round, and begins to train for the next."""
        self._note(NODES[ME], e.ATTEST, e.Attest(number, 1, digest(f"model {number}"), 128, (), b""), at_s)

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

    def _note(self, author: bytes, kind: int, body: object, at_s: float = 0.0) -> int:
        entry = e.Entry(1, kind, bytes(32), author, 0, bytes(32), int(at_s * 1000), codec.encode(body), b"")
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


def test_a_process_that_has_trained_nothing_goes_by_the_shortest_training_on_record() -> None:
    """From the mean to the offer: 30 s, then 10 s. A fifth of ten seconds are three questions of 0.6 s."""
    fresh = Site()
    fresh.play(1, offered_s=100)
    fresh.attest(1, at_s=110)
    fresh.play(2, offered_s=140)
    fresh.attest(2, at_s=150)
    fresh.play(3, offered_s=160)
    for _ in range(3):
        (asked,) = fresh.step()
        fresh.answer(asked, 0.6)
    assert said(fresh.step()).evaluations == 3


def test_work_for_the_round_before_that_came_late_is_no_part_of_a_training() -> None:
    """It signed a mean at 110 while it still trained for that round, till 150: then it trained for ten seconds."""
    fresh = Site()
    fresh.play(1, offered_s=100)
    fresh.attest(1, at_s=105)
    fresh.attest(2, at_s=110)
    fresh.play(2, offered_s=150)
    fresh.play(3, offered_s=160)
    (asked,) = fresh.step()
    fresh.answer(asked, 1.5)
    assert [type(action) for action in fresh.step()] == [Report], "a second question of 1.5 s would be beyond two"


@pytest.mark.parametrize("offered_s", [110.0, 50.0])
def test_a_clock_that_was_set_back_tells_nothing_of_a_training(offered_s: float) -> None:
    fresh = Site()
    fresh.play(1, offered_s=100)
    fresh.attest(1, at_s=110)
    fresh.play(2, offered_s=offered_s)
    assert fresh.step() == []


def test_a_word_that_does_not_come_is_told_once_with_the_reason(site: Site) -> None:
    def missed(holds: Callable[[Digest], bool] = everything, *, heard: bool = True) -> list[str]:
        return [action.text for action in site.appraisal.missed([], holds, heard=heard) if isinstance(action, Report)]

    assert missed() == [], "it is going to judge the round"
    gone = Digest(contribution(SWARM, 4).update_digest)
    (text,) = missed(lambda one: one != gone)
    assert text == "round 1 is not scored by this site: 1 of the models and updates that it takes are not here"
    assert missed(heard=False) == [], "it has been told"
    site.play(2)
    (text,) = missed(heard=False)
    assert text == "round 2 is not scored by this site: too few others are there to take its word"
    site.appraisal.rest(True)
    site.play(3)
    assert missed(heard=False) == [], "that it rests is said elsewhere"
    fresh = Site()
    fresh.play(1)
    (report,) = fresh.appraisal.missed([], everything, heard=True)
    assert isinstance(report, Report)
    assert "how long a training takes here" in report.text


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

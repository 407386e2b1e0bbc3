"""Members that judge each other's work, with the real node in the simulated world."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import pytest
from typing_extensions import override

from swarm.contribution.game import members, play
from swarm.contribution.shapley import ExactShapley
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, audit
from swarm.ledger.journal import Journal
from swarm.ledger.scores import Judged, standings
from swarm.machine import RECORD_BLOCK, Appraise, Digest, Effect, Event, NodeId, Persist, Train, Trained
from swarm.round import Action, Say
from tests.builders import Swarm, make_swarm
from tests.simulation.altered import Altered
from tests.simulation.stories import told
from tests.simulation.test_gossip import all_done, gossiping, head
from tests.simulation.test_routes import CrashAt
from topologies.world.checkers import Checker
from topologies.world.faults import Crash, Fault, FaultOptions, Partition, generate
from topologies.world.learner import Lesson, QuadraticTask, Vector
from topologies.world.network import NetworkProfile
from topologies.world.world import World

N, ROUNDS = 5, 4
COUNTS = (100, 120, 80, 100, 110)
SHAPLEY, LOO = "shapley:loss:lower:20", "loo:loss:lower:20"


class Asked(Checker):
    """What every trainer is asked, in order, and when."""

    def __init__(self) -> None:
        self.train: list[tuple[float, int, int]] = []
        self.appraise: list[tuple[float, int, Appraise]] = []

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Train):
                self.train.append((world.now, node, effect.round))
            elif isinstance(effect, Appraise):
                self.appraise.append((world.now, node, effect))


def swarm_of(contribution: str = SHAPLEY, n: int = N, rounds: int = ROUNDS, min_cell: int = 0) -> Swarm:
    return make_swarm(
        n,
        rounds=rounds,
        deadline_ms=6_000,
        patience_ms=4_000,
        min_contributions=n - 1,
        contribution=contribution,
        min_cell=min_cell,
    )


def task(n: int = N) -> QuadraticTask:
    return QuadraticTask(seed=3, samples=COUNTS[:n], spread=0.3, bound=100.0)


def free_rider(who: int, n: int = N) -> Altered:
    """A learner of whom one does nothing and says it has."""

    def alter(member: int, number: int, lesson: Lesson) -> Lesson:
        if member != who or lesson.update is None:
            return lesson
        return dataclasses.replace(lesson, update=np.zeros_like(lesson.update))

    return Altered(task(n), alter)


def hurried(who: set[int], rounds: set[int]) -> Altered:
    """A learner of whom some train so quickly, in some rounds, that a share of it is too little to judge anything."""

    def alter(member: int, number: int, lesson: Lesson) -> Lesson:
        return dataclasses.replace(lesson, duration_s=0.02) if member in who and number in rounds else lesson

    return Altered(task(), alter)


def ran(
    swarm: Swarm,
    learner: QuadraticTask | Altered | None = None,
    *,
    seed: int = 1,
    faults: Sequence[Fault] = (),
    network: NetworkProfile | None = None,
    checkers: Sequence[Checker] = (),
) -> World:
    chosen = task(len(swarm.identities)) if learner is None else learner
    world = gossiping(swarm, chosen, seed=seed, faults=faults, network=network, checkers=checkers)  # type: ignore[arg-type]
    assert world.run(all_done), [head(world, member).status(world.now) for member in range(len(swarm.identities))]
    world.run(world.now + 5.0)
    return world


def read(world: World, swarm: Swarm, member: int = 0) -> Audit:
    journal = Journal(world.place(member).disk, ledger_id=swarm.signed.ledger_id)
    payloads = [record.payload for record in journal.open().records if record.kind == RECORD_BLOCK]
    *_, result = audit(payloads, swarm.signed)
    assert result.failure is None
    return result


@functools.cache
def usual() -> World:
    """The run in which nothing special happens."""
    return ran(swarm_of())


def troubles(seed: int) -> Sequence[Fault]:
    return generate(seed, members=N, options=FaultOptions(heal_s=20.0)).faults


def rounds_of(world: World, swarm: Swarm) -> dict[int, Judged]:
    return read(world, swarm).scores.rounds


def test_every_round_is_scored_by_all_and_agreed_on() -> None:
    swarm = swarm_of()
    rounds = rounds_of(usual(), swarm)
    assert [*rounds] == [1, 2, 3, 4]
    for judged in rounds.values():
        assert len(judged.scores) >= 4
        agreed = judged.agreed()
        assert [*agreed] == [who.node for who in swarm.identities]
        assert None not in agreed.values()


def test_a_score_is_the_exact_value_of_the_models_that_the_updates_make() -> None:
    """Whoever has asked for all 32 coalitions says Shapley's values of its own loss, to the millionth."""
    swarm, learner = swarm_of(rounds=1), task()
    judged = rounds_of(ran(swarm), swarm)[1]
    updates = [learner.train(i, 1, learner.initial()).update for i in range(N)]

    def value(me: int, coalition: int) -> float:
        chosen = members(coalition, N)
        mean = sum((COUNTS[i] * updates[i].astype(np.float64) for i in chosen), np.zeros(32))  # type: ignore[union-attr]
        model = (mean / max(1, sum(COUNTS[i] for i in chosen))).astype(np.float32)
        return -learner.evaluate(me, model)[1]["loss"]

    whole = [me for me, who in enumerate(swarm.identities) if judged.scores[who.node].evaluations == 32]
    assert len(whole) >= 2, "where no coalition came so near that others were not asked for"
    for me, who in [(me, swarm.identities[me]) for me in whole]:
        exact = play(ExactShapley(N), lambda coalition, me=me: value(me, coalition))
        score = judged.scores[who.node]
        assert (score.method, score.metric) == (2, 0)
        assert [v for _, v, _ in score.scores] == pytest.approx([1e6 * exact[i].value for i in range(N)], abs=2)
        assert [error for _, _, error in score.scores] == [0] * N


@pytest.mark.parametrize("method", [SHAPLEY, LOO])
def test_who_does_nothing_is_worth_least(method: str) -> None:
    swarm = swarm_of(method)
    found = standings(rounds_of(ran(swarm, free_rider(2)), swarm))
    nodes = [who.node for who in swarm.identities]
    assert min(found, key=lambda node: found[node].score) == nodes[2]
    if method == SHAPLEY:
        assert found[nodes[2]].score < 0.5 * sorted(one.score for one in found.values())[1]


def test_judging_never_comes_before_training_and_takes_no_more_than_its_share() -> None:
    swarm, asked = swarm_of("shapley:loss:lower:1"), Asked()
    world = ran(swarm, checkers=[asked])
    assert asked.appraise
    for _, node, question in asked.appraise:
        # One percent of a second at a millisecond a model: ten models a round.
        same = [one for _, who, one in asked.appraise if who == node and one.round == question.round]
        assert len(same) <= 10
    for at, node, question in asked.appraise:
        before = [number for when, who, number in asked.train if who == node and when <= at]
        assert max(before) >= min(question.round + 1, ROUNDS), "the next round is offered first"
    slower, without = world.now, ran(swarm_of("")).now
    assert slower < without + 1.0


class Liar:
    """Makes a node say of each round what `lie` makes of its honest score."""

    def __init__(self, world: World, member: int, flatter: NodeId, blame: NodeId) -> None:
        node = head(world, member)
        honest = node._appraisal._conclude

        def conclude(work: object) -> list[Action]:
            actions = honest(work)  # type: ignore[arg-type]
            for place, action in enumerate(actions):
                if isinstance(action, Say) and isinstance(action.body, e.Score):
                    by_index = {index: author for index, author, _, _ in work.closing.terms}  # type: ignore[attr-defined]
                    told = {flatter: e.SCORE_LIMIT, blame: -e.SCORE_LIMIT}
                    scores = tuple((i, told.get(by_index[i], v), error) for i, v, error in action.body.scores)
                    body = e.Score(*(getattr(action.body, f) for f in action.body.__struct_fields__[:-1]), scores)
                    actions[place] = Say(e.SCORE, body)
            return actions

        node._appraisal._conclude = conclude  # type: ignore[method-assign]


def test_a_liar_moves_nothing_further_than_between_two_honest_neighbours() -> None:
    swarm = swarm_of()
    nodes = [who.node for who in swarm.identities]
    world = gossiping(swarm, task())
    assert world.run(lambda world: all(place.machine is not None for place in world.places))
    Liar(world, 1, flatter=nodes[1], blame=nodes[0])
    assert world.run(all_done)
    lied = 0
    for judged in rounds_of(world, swarm).values():
        agreed = judged.agreed()
        for index, author, _, _ in judged.closing.terms:
            honest = sorted(
                value
                for scorer, score in judged.scores.items()
                for named, value, _ in score.scores
                if named == index and scorer not in (author, nodes[1])
            )
            found = agreed[author]
            assert found is not None
            assert honest[0] <= found.score <= honest[-1]
            lied += nodes[1] in judged.scores
        assert agreed[nodes[1]] is not None
    assert lied, "the liar was heard"
    truth = standings(rounds_of(usual(), swarm))
    found = standings(rounds_of(world, swarm))
    assert abs(found[nodes[1]].score - truth[nodes[1]].score) < 0.3 * truth[nodes[1]].score, "of itself it says nothing"


def test_a_scorer_that_is_away_is_not_waited_for() -> None:
    swarm = swarm_of(rounds=6)
    away = Crash(at_s=2.5, slot=4, down_s=9.0)
    world = ran(swarm, faults=[away])
    rounds = rounds_of(world, swarm)
    absent = [number for number, judged in rounds.items() if swarm.identities[4].node not in judged.scores]
    assert absent
    for number in absent:
        assert len(rounds[number].scores) >= 3
        assert [agreed for agreed in rounds[number].agreed().values() if agreed is not None]


@pytest.mark.parametrize("member", [3])
def test_a_site_killed_while_it_judges_goes_on_and_no_round_is_judged_twice(member: int) -> None:
    swarm, crash = swarm_of(rounds=5), CrashAt(member, Appraise, down_s=0.3)
    world = ran(swarm, checkers=[crash])
    assert crash.at_s is not None
    result = read(world, swarm)
    me = swarm.identities[member].node
    own = [number for number, judged in result.scores.rounds.items() if me in judged.scores]
    assert len(own) >= 3
    said = told(world, member, "scored")
    assert len(said) == len({*said})
    assert not told(world, member, "score_failed")


class CrashAtLast(CrashAt):
    """As that, but in the last round."""

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        if any(isinstance(effect, Appraise) and effect.round == ROUNDS for effect in effects):
            super().on_event(world, node, twin, event, effects)


class CrashAsItOffers(CrashAt):
    """As that, when it has trained the last round."""

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        if isinstance(event, Trained) and event.round == ROUNDS:
            super().on_event(world, node, twin, event, effects)


@pytest.mark.parametrize("down_s", [0.3, 5.0])
def test_a_site_killed_while_it_judges_the_last_round_makes_up_for_it(down_s: float) -> None:
    """It trains no more after its restart, also not where the run is over by then: what a share is, is on record."""
    swarm, crash = swarm_of(), CrashAtLast(2, Appraise, down_s=down_s)
    world = ran(swarm, checkers=[crash])
    rounds = rounds_of(world, swarm)
    assert crash.at_s is not None
    me = swarm.identities[2].node
    assert [number for number, judged in rounds.items() if me not in judged.scores] == []
    whole = {who: score.evaluations for who, score in rounds[ROUNDS].scores.items()}
    assert whole[me] > N + 2, "it took its time, as the others did"
    assert not told(world, 2, "score_missed")


def test_a_site_whose_updates_are_gone_says_that_it_does_not_score_the_last_round_and_leaves_no_gap() -> None:
    """Others keep updates until they have judged them, and nobody asks for them when a round is over."""
    swarm, crash = swarm_of(), CrashAsItOffers(2, Persist, down_s=5.0)
    world = ran(swarm, checkers=[crash])
    rounds = rounds_of(world, swarm)
    assert crash.at_s is not None
    me = swarm.identities[2].node
    assert [number for number, judged in rounds.items() if me not in judged.scores] == [ROUNDS]
    assert [one for judged in rounds.values() for one in judged.agreed().values() if one is None] == []
    (text,) = told(world, 2, "score_missed")
    assert text.startswith(f"round {ROUNDS} is not scored by this site: 4 of the models and updates")


@pytest.mark.parametrize("alone", [True, False])
def test_a_site_that_starts_when_the_run_is_over_owes_its_word_to_nobody_who_has_left(alone: bool) -> None:
    """Its word would wait for ever to become final. Where the others are still there, it is said, and counts."""
    swarm, end_s = swarm_of(), 15.0
    crashes = [Crash(at_s=end_s, slot=2, down_s=1.0)]
    crashes += [Crash(at_s=end_s, slot=slot, down_s=1e6) for slot in range(N) if slot != 2 and alone]
    world = gossiping(swarm, task(), faults=crashes)
    assert world.run(lambda world: all(place.machine is not None for place in world.places))
    head(world, 2)._appraisal.rest(True)
    assert world.run(all_done)
    assert world.run(end_s + 0.5)
    world.place(2).finished = None
    assert world.run(lambda world: world.place(2).finished is not None, end_s=end_s + 10.0)
    world.run(world.now + 2.0)
    assert told(world, 2, "scored"), "it cannot know at once that nobody is there"
    judged = rounds_of(world, swarm)[ROUNDS]
    assert (swarm.identities[2].node in judged.scores) == (not alone)


@pytest.mark.parametrize("seed", [2])
def test_crashes_partitions_and_loss_leave_gaps_and_nothing_else(seed: int) -> None:
    swarm = swarm_of(rounds=5)
    world = ran(swarm, seed=seed, faults=troubles(seed), network=NetworkProfile(loss=0.05, duplication=0.02))
    rounds = rounds_of(world, swarm)
    assert [*rounds] == [1, 2, 3, 4, 5]
    for judged in rounds.values():
        for index, author, _, _ in judged.closing.terms:
            agreed = judged.agreed()[author]
            assert (agreed is None) == (len(judged.values(index, author)) < 3)
    assert any(agreed is not None for judged in rounds.values() for agreed in judged.agreed().values())


def test_no_site_scores_others_on_fewer_cases_than_may_be_told_apart() -> None:
    """A score is a difference of metrics on held-out cases, one in ten of the samples here."""
    held_out = [count // 10 for count in COUNTS]
    least = sorted(held_out)[2]
    swarm = swarm_of(min_cell=least)
    world = ran(swarm)
    entitled = {who.node for who, count in zip(swarm.identities, held_out, strict=True) if count >= least}
    assert 0 < len(entitled) < N
    assert {scorer for judged in rounds_of(world, swarm).values() for scorer in judged.scores} == entitled
    told = [
        report.text
        for _, report in world.place(held_out.index(min(held_out))).reports
        if report.event == "score_failed"
    ]
    assert told
    assert f"at least {least} are agreed" in told[0]


def test_all_members_read_the_same_scores() -> None:
    swarm = swarm_of()
    cut = Partition(at_s=1.5, duration_s=3.0, groups=((0, 1, 2, 3), (4,)))
    world = ran(swarm, faults=[cut])
    told_by = [
        {number: judged.agreed() for number, judged in read(world, swarm, member).scores.rounds.items()}
        for member in range(N)
    ]
    shortest = min(read(world, swarm, member).blocks for member in range(N))
    assert shortest > 0
    assert all(
        {number: one[number] for number in (1, 2)} == {number: told_by[0][number] for number in (1, 2)}
        for one in told_by
    )


def test_where_nobody_asks_nobody_judges() -> None:
    for option in ("", "size"):
        swarm, asked = swarm_of(option), Asked()
        world = ran(swarm, checkers=[asked])
        assert not asked.appraise
        assert not rounds_of(world, swarm)
        assert head(world, 0).status(world.now)["appraisal"] is None


def test_the_blobs_of_rounds_that_are_judged_are_let_go() -> None:
    world = usual()
    for member in range(N):
        stored = world.place(member).blobs.listing()[0]
        assert len(stored) <= 2 * N + 3, "two rounds of updates and the models around them"


def test_too_little_time_is_said_and_costs_no_more() -> None:
    """Four thousandths of a second are enough for four models, and not for two orders of five sites."""
    swarm = swarm_of("shapley:loss:lower:1", n=5)

    @dataclasses.dataclass(frozen=True)
    class Quick(Altered):
        def train(self, member: int, number: int, model: Vector, correction: Vector | None = None) -> Lesson:
            lesson = self.inner.train(member, number, model, correction)
            return dataclasses.replace(lesson, duration_s=0.4)

    world = ran(swarm, Quick(task(), lambda _m, _r, lesson: lesson))
    assert not any(judged.scores for judged in rounds_of(world, swarm).values())
    assert "more does not fit into the charter's 1 % of the training time" in told(world, 0, "score_cut")[0]
    assert all(agreed is None for judged in rounds_of(world, swarm).values() for agreed in judged.agreed().values())
    assert not told(world, 0, "failed")


def test_what_is_asked_follows_from_who_judges_what() -> None:
    asked = [Asked(), Asked()]
    for one in asked:
        ran(swarm_of("shapley:loss:lower:1", rounds=2), checkers=[one])
    terms = [[(node, question.terms) for _, node, question in one.appraise] for one in asked]
    assert terms[0] == terms[1]
    assert len({bytes(Digest(t[0])) for _, ts in terms[0] for t in ts}) > N

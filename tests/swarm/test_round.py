"""One site's part in the rounds, asked at every point what should be under way.

States are made by hand from the ledger's own parts, so that each says exactly what is final. `mine` are the entries of
this site that are not final yet, and a set of digests stands for the blob store. A restart is a new `Round` that is
given the same three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import msgspec
import pytest
from msgspec.structs import replace

from swarm.ledger import entry as e
from swarm.ledger.state import Closed, Committed, Placed, State, genesis, make_close
from swarm.machine import Digest, Evaluate, Evaluated, Finished, Mix, Mixed, Report, Train, Trained
from swarm.round import (
    METRIC_LIMIT,
    RETRY_S,
    TRAIN_ATTEMPTS_MAX,
    Action,
    Fetch,
    Phase,
    Round,
    Say,
    phase_name,
)
from swarm.stopping import Best, Heard, Watch
from tests.builders import CODE, contribution, digest, make_swarm

SWARM = make_swarm(4, rounds=3, metrics=("loss", "accuracy"), clip_norm_milli=2_500)
START = genesis(SWARM.signed)
NODES = [who.node for who in SWARM.identities]
ME = NODES[0]
DATA = digest("my data")
BYTES = SWARM.charter.model_bytes
INITIAL = Digest(SWARM.charter.task.initial_model)
MODELS = [INITIAL, *(Digest(digest(f"model {number}")) for number in (1, 2, 3))]
UPDATE = Digest(digest("what I trained"))
NOW = 1_000.0


def site() -> Round:
    """A site that has just been started."""
    return Round(SWARM.charter, ME, code_digest=CODE, data_digest=DATA)


def all_blobs(_: Digest) -> bool:
    return True


def only(*held: Digest) -> Callable[[Digest], bool]:
    return lambda asked: asked in held


def without(*lost: Digest) -> Callable[[Digest], bool]:
    return lambda asked: asked not in lost


# --- states -------------------------------------------------------------------------------------------------------


def update_of(author: int, *, number: int = 1, attempt: int = 1) -> Digest:
    return Digest(digest(f"update {number}/{attempt} of {author}"))


def offered(*authors: int, number: int = 1, attempt: int = 1, state: State = START) -> State:
    """The state in which these members have contributed to a round, each on 10 samples more than the one before."""
    placed = dict(state.contributions)
    for author in authors:
        body = contribution(
            SWARM, author, number=number, attempt=attempt, samples=10 * (author + 1), base=MODELS[number - 1]
        )
        placed[number, NODES[author]] = Placed(state.size + 10 * author, NODES[author], body)
    return replace(state, contributions=placed)


def closed(state: State, *, index: int = 50, leave_out: Sequence[int] = ()) -> State:
    """The state after the close of its round."""
    placed = [state.contributions[state.round, node] for node in NODES if (state.round, node) in state.contributions]
    rejected = {p.index: e.UNUSABLE for p in placed if NODES.index(p.author) in leave_out}
    included = [p for p in placed if p.index not in rejected]
    return replace(
        state, close=Closed(index, make_close(state, included, rejected), tuple(included), state.exchanging, 0)
    )


def committed(number: int, *, model: Digest | None = None) -> State:
    """The state after the commit of a round, nothing of the next on record yet."""
    return replace(START, committed=Committed(number, model or MODELS[number], BYTES), height=number)


def my_contribution(*, number: int = 1, attempt: int = 1) -> e.Contribution:
    return contribution(SWARM, 0, number=number, attempt=attempt, base=MODELS[number - 1])


def my_attest(state: State, model: Digest = MODELS[1]) -> e.Attest:
    assert state.close is not None
    return e.Attest(state.round, state.close.index, model, BYTES, (), b"")


CLOSED = closed(offered(0, 1, 2, 3))
"""Round 1 is closed with all four members."""

TERMS = tuple((update_of(author), 10 * (author + 1)) for author in range(4))


def works(actions: Sequence[Action]) -> list[Action]:
    """What is to be done, without the words for people."""
    return [action for action in actions if not isinstance(action, Report)]


def report(actions: Sequence[Action]) -> Report:
    (found,) = [action for action in actions if isinstance(action, Report)]
    return found


def trained(number: int = 1, *, update: Digest = UPDATE, metrics: Mapping[str, float] | None = None) -> Trained:
    return Trained(number, update, BYTES, 7, metrics or {})


def failed(number: int = 1) -> Trained:
    return Trained(number, None, error="out of memory")


def said(actions: Sequence[Action]) -> msgspec.Struct:
    """The one entry among these actions."""
    (found,) = [action for action in actions if isinstance(action, Say)]
    return found.body


# --- training -----------------------------------------------------------------------------------------------------


def test_a_fresh_site_trains_from_the_initial_model() -> None:
    round_ = site()
    assert (round_.phase, round_.round) == (Phase.WAITING, 1)
    assert round_.advance(START, [], all_blobs, NOW) == [Train(1, INITIAL)]
    assert (round_.phase, round_.round) == (Phase.TRAINING, 1)


def test_training_is_asked_for_once() -> None:
    round_ = site()
    round_.advance(START, [], all_blobs, NOW)
    assert round_.advance(START, [], all_blobs, NOW + 1e6) == []
    assert round_.phase == Phase.TRAINING


def test_a_site_without_the_model_fetches_it_first() -> None:
    round_ = site()
    for _ in range(2):  # level-triggered: it asks until the blob is there
        assert round_.advance(START, [], only(), NOW) == [Fetch(INITIAL, BYTES, ())]
        assert round_.phase == Phase.FETCHING
    assert round_.advance(START, [], only(INITIAL), NOW) == [Train(1, INITIAL)]


def test_what_was_trained_is_offered_with_all_that_it_came_from() -> None:
    round_, later = site(), replace(START, height=12)
    round_.advance(START, [], all_blobs, NOW)
    actions = round_.trained(trained(metrics={"accuracy": 0.5}), later, [], NOW)
    assert works(actions) == [
        Say(
            e.CONTRIBUTION,
            e.Contribution(
                round=1,
                attempt=1,
                base_height=12,
                base_digest=INITIAL,
                update_digest=UPDATE,
                update_bytes=BYTES,
                samples=7,
                metrics=((1, 500_000),),
                privacy=(0, 0, 2_500),
                code_digest=CODE,
                data_digest=DATA,
            ),
        )
    ]
    assert report(actions) == Report(
        "trained", "trained round 1 on 7 samples", {"round": 1, "samples": 7, "accuracy": 0.5}
    )


@pytest.mark.parametrize("final", [False, True])
def test_a_site_that_has_offered_its_update_waits(final: bool) -> None:
    round_ = site()
    round_.advance(START, [], all_blobs, NOW)
    offer = said(round_.trained(trained(), START, [], NOW))
    assert isinstance(offer, e.Contribution)
    state = replace(START, contributions={(1, ME): Placed(9, ME, offer)}) if final else START
    assert round_.advance(state, [] if final else [offer], all_blobs, NOW) == []
    assert round_.phase == Phase.OFFERED


@pytest.mark.parametrize(
    ("final", "pending", "attempt"), [([1], [], 2), ([], [1], 2), ([3], [], 4), ([1], [2], 3), ([], [5, 4], 6)]
)
def test_a_site_whose_update_is_lost_trains_again_and_counts_the_attempt(
    final: list[int], pending: list[int], attempt: int
) -> None:
    state = START
    for number in final:
        state = offered(0, attempt=number, state=state)
    mine = [my_contribution(attempt=number) for number in pending]
    newest = max([*final, *pending])
    round_ = site()
    held = without(update_of(0, attempt=newest))
    assert Train(1, INITIAL) in round_.advance(state, mine, held, NOW)
    again = said(round_.trained(trained(), state, mine, NOW))
    assert isinstance(again, e.Contribution)
    assert (again.round, again.attempt) == (1, attempt)


def test_offers_to_other_rounds_do_not_count_as_attempts() -> None:
    round_, mine = site(), [my_contribution(number=2, attempt=7)]
    assert round_.advance(START, mine, all_blobs, NOW) == [Train(1, INITIAL)]
    first = said(round_.trained(trained(), START, mine, NOW))
    assert isinstance(first, e.Contribution)
    assert first.attempt == 1


def test_nobody_elses_offer_keeps_a_site_from_training() -> None:
    assert site().advance(offered(1, 2), [], all_blobs, NOW) == [Train(1, INITIAL)]


# --- training that fails ------------------------------------------------------------------------------------------


def test_failed_training_is_reported_and_tried_again_after_a_pause() -> None:
    round_ = site()
    round_.advance(START, [], all_blobs, NOW)
    assert round_.trained(failed(), START, [], NOW) == [
        Report(
            "training_failed",
            "training for round 1 failed: out of memory (trying again in 5 s)",
            {"round": 1},
            level="error",
        )
    ]
    assert round_.next_wake(NOW) == NOW + RETRY_S
    assert round_.advance(START, [], all_blobs, NOW + RETRY_S - 0.01) == []
    assert round_.advance(START, [], all_blobs, NOW + RETRY_S) == [Train(1, INITIAL)]
    assert round_.phase == Phase.TRAINING
    assert round_.next_wake(NOW + RETRY_S) is None


def fail_often(round_: Round, state: State, times: int, now: float) -> tuple[float, list[Action]]:
    """Let training fail so many times; return the time after the last pause and what was said last."""
    actions: list[Action] = []
    for _ in range(times):
        (train,) = [action for action in round_.advance(state, [], all_blobs, now) if isinstance(action, Train)]
        actions = round_.trained(failed(train.round), state, [], now)
        now += RETRY_S
    return now, actions


def test_a_site_whose_training_keeps_failing_sits_the_round_out() -> None:
    round_ = site()
    now, actions = fail_often(round_, START, TRAIN_ATTEMPTS_MAX, NOW)
    assert report(actions).text == "training for round 1 failed: out of memory (sitting this round out)"
    assert round_.advance(START, [], all_blobs, now + START.terms.round.deadline_ms / 1000 - 2 * RETRY_S) == []
    assert round_.phase == Phase.WAITING


def test_a_site_that_sits_a_round_out_still_averages_it() -> None:
    round_ = site()
    now, _ = fail_often(round_, START, TRAIN_ATTEMPTS_MAX, NOW)
    state = closed(offered(1, 2, 3))
    assert round_.advance(state, [], all_blobs, now) == [Mix(1, INITIAL, TERMS[1:])]


def test_the_next_round_starts_afresh_after_failures() -> None:
    round_ = site()
    now, _ = fail_often(round_, START, TRAIN_ATTEMPTS_MAX, NOW)
    now, actions = fail_often(round_, committed(1), TRAIN_ATTEMPTS_MAX - 1, now)
    assert "trying again" in report(actions).text
    assert Train(2, MODELS[1]) in round_.advance(committed(1), [], all_blobs, now)


def test_a_success_clears_the_count_of_failures() -> None:
    round_ = site()
    now, _ = fail_often(round_, START, TRAIN_ATTEMPTS_MAX - 1, NOW)
    round_.advance(START, [], all_blobs, now)
    round_.trained(trained(), START, [], now)
    # The update gets lost, so it trains again, and a failure is the first of a new count.
    now, actions = fail_often(round_, START, 1, now)
    assert "trying again" in report(actions).text


def test_a_restart_starts_the_count_of_failures_anew() -> None:
    now, _ = fail_often(site(), START, TRAIN_ATTEMPTS_MAX, NOW)
    assert site().advance(START, [], all_blobs, now) == [Train(1, INITIAL)]


def ends(actions: Sequence[Action]) -> list[Finished]:
    return [action for action in actions if isinstance(action, Finished)]


def test_a_run_fails_here_after_three_rounds_without_a_success_and_goes_on() -> None:
    round_, now = site(), NOW
    for number in (1, 2, 3):
        state = START if number == 1 else committed(number - 1)
        now, _ = fail_often(round_, state, 1, now)
    (end,) = ends(round_.advance(committed(2), [], all_blobs, now))
    assert end == Finished("FAILED", "training failed in 3 rounds in a row: out of memory")
    assert not ends(round_.advance(committed(2), [], all_blobs, now + 1)), "said once"
    state = closed(offered(1, 2, 3, number=3, state=committed(2)))
    assert any(isinstance(action, Mix) for action in round_.advance(state, [], all_blobs, now))


def test_a_round_that_cannot_close_without_a_site_whose_training_fails_is_the_end_at_its_deadline() -> None:
    round_ = site()
    now, _ = fail_often(round_, START, TRAIN_ATTEMPTS_MAX, NOW)
    late = now - RETRY_S + START.terms.round.deadline_ms / 1000
    assert not ends(round_.advance(START, [], all_blobs, now))
    assert round_.next_wake(now) == late
    (end,) = ends(round_.advance(START, [], all_blobs, late))
    assert end.outcome == "FAILED"
    assert "round 1, which is past its deadline and cannot close without this site: out of memory" in end.reason


def test_a_round_that_goes_on_without_a_failing_site_is_no_end() -> None:
    round_ = site()
    now, _ = fail_often(round_, START, TRAIN_ATTEMPTS_MAX, NOW)
    late = now + START.terms.round.deadline_ms / 1000
    assert not ends(round_.advance(closed(offered(1, 2, 3)), [], all_blobs, late))


def test_a_success_in_between_begins_the_count_of_rounds_anew() -> None:
    round_ = site()
    now, _ = fail_often(round_, START, TRAIN_ATTEMPTS_MAX, NOW)
    now, _ = fail_often(round_, committed(1), TRAIN_ATTEMPTS_MAX - 1, now)
    round_.advance(committed(1), [], all_blobs, now)
    round_.trained(trained(2), committed(1), [], now)
    now, _ = fail_often(round_, committed(2), TRAIN_ATTEMPTS_MAX, now)
    assert not ends(round_.advance(committed(2), [], all_blobs, now))


# --- late answers -------------------------------------------------------------------------------------------------


def test_an_answer_to_what_was_asked_before_a_restart_is_ignored() -> None:
    round_ = site()
    assert round_.trained(trained(), START, [], NOW) == []
    assert round_.advance(START, [], all_blobs, NOW) == [Train(1, INITIAL)]


def test_an_answer_for_another_round_than_is_being_trained_is_ignored() -> None:
    round_ = site()
    assert Train(2, MODELS[1]) in round_.advance(committed(1), [], all_blobs, NOW)
    assert round_.trained(trained(1), committed(1), [], NOW) == []


def test_the_trainer_is_left_alone_while_rounds_pass_without_this_site() -> None:
    round_ = site()
    round_.advance(START, [], all_blobs, NOW)
    for state in (CLOSED, committed(1), committed(2)):
        assert not [a for a in round_.advance(state, [], all_blobs, NOW) if isinstance(a, Train)]


def test_work_that_comes_after_its_round_is_offered_as_what_it_is() -> None:
    round_ = site()
    round_.advance(START, [], all_blobs, NOW)
    round_.advance(committed(1), [], all_blobs, NOW)
    late = said(round_.trained(trained(1), committed(1), [], NOW))
    assert isinstance(late, e.Contribution)
    assert (late.round, late.base_digest, late.base_height) == (1, INITIAL, 1)
    assert round_.advance(committed(1), [late], all_blobs, NOW) == [Train(2, MODELS[1])]


def test_a_mean_that_comes_after_the_commit_is_not_attested() -> None:
    round_ = site()
    round_.advance(CLOSED, [my_contribution()], all_blobs, NOW)
    assert round_.mixed(Mixed(1, MODELS[1], BYTES), committed(1), NOW) == []


def test_a_mean_that_comes_after_the_next_close_is_not_attested_for_that_one() -> None:
    round_ = site()
    round_.advance(CLOSED, [my_contribution()], all_blobs, NOW)
    next_close = closed(offered(1, 2, number=2, state=committed(1)), index=90)
    assert Mix not in [type(action) for action in round_.advance(next_close, [], all_blobs, NOW)]
    assert round_.mixed(Mixed(1, MODELS[1], BYTES), next_close, NOW) == []
    mix = Mix(2, MODELS[1], ((update_of(1, number=2), 20), (update_of(2, number=2), 30)))
    assert mix in round_.advance(next_close, [], all_blobs, NOW)


# --- metrics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metrics", "written"),
    [
        ({"accuracy": 0.25, "loss": -1.5}, ((0, -1_500_000), (1, 250_000))),
        ({"loss": 1.2345678}, ((0, 1_234_568),)),
        ({"loss": 3, "secret": 4.0}, ((0, 3_000_000),)),
        ({"loss": math.nan, "accuracy": math.inf}, ()),
        ({"loss": -math.inf, "accuracy": 0.0}, ((1, 0),)),
        ({"loss": METRIC_LIMIT / 1e6, "accuracy": -METRIC_LIMIT / 1e6}, ()),
        ({"loss": (METRIC_LIMIT - 1) / 1e6}, ((0, METRIC_LIMIT - 1),)),
        ({}, ()),
    ],
    ids=["charter order", "rounded", "not the charter's", "not finite", "one finite", "too large", "largest", "none"],
)
def test_only_the_charters_finite_metrics_go_on_record_in_millionths(
    metrics: dict[str, float], written: tuple[tuple[int, int], ...]
) -> None:
    round_ = site()
    round_.advance(START, [], all_blobs, NOW)
    offer = said(round_.trained(trained(metrics=metrics), START, [], NOW))
    score = said(round_.evaluated(Evaluated(1, MODELS[1], 5, metrics)))
    assert isinstance(offer, e.Contribution)
    assert isinstance(score, e.Evaluation)
    assert offer.metrics == score.metrics == written


def test_a_metric_too_large_for_the_ledger_is_said_once() -> None:
    round_ = site()
    round_.advance(START, [], all_blobs, NOW)
    metrics = {"loss": 1e30, "accuracy": 0.5, "secret": 1e30}
    actions = [*round_.trained(trained(metrics=metrics), START, [], NOW)]
    actions += round_.evaluated(Evaluated(1, MODELS[1], 5, metrics))
    assert [one for one in actions if isinstance(one, Report) and one.event == "metric_left_out"] == [
        Report(
            "metric_left_out",
            "metric 'loss' of round 1 is 1e+30: the ledger holds less than 4.5e+09, and it stays here",
            {"round": 1},
            level="warning",
        )
    ]


# --- gathering ----------------------------------------------------------------------------------------------------


def test_updates_of_the_open_and_the_next_round_are_fetched_from_their_authors() -> None:
    state = offered(2, number=2, state=offered(0, 1, 3))
    held = without(update_of(1), update_of(3), update_of(2, number=2))
    assert site().advance(state, [], held, NOW) == [
        *(Fetch(update_of(author), BYTES, (NODES[author],)) for author in sorted((1, 3), key=NODES.__getitem__)),
        Fetch(update_of(2, number=2), BYTES, (NODES[2],)),
    ]


def test_updates_that_are_held_are_not_fetched() -> None:
    assert site().advance(offered(0, 1, 2, 3), [], all_blobs, NOW) == []


def test_a_site_that_trains_gathers_at_the_same_time() -> None:
    actions = site().advance(offered(1), [], only(INITIAL), NOW)
    assert actions == [Fetch(update_of(1), BYTES, (NODES[1],)), Train(1, INITIAL)]


# --- mixing -------------------------------------------------------------------------------------------------------


def test_a_closed_round_is_averaged_over_what_the_close_names_in_member_order() -> None:
    round_ = site()
    assert round_.advance(CLOSED, [], all_blobs, NOW) == [Mix(1, INITIAL, TERMS)]
    assert round_.phase == Phase.MIXING


def test_the_mean_is_asked_for_once() -> None:
    round_ = site()
    round_.advance(CLOSED, [], all_blobs, NOW)
    assert round_.advance(CLOSED, [], all_blobs, NOW + 1e6) == []


def test_an_update_that_the_close_leaves_out_is_not_averaged() -> None:
    state = closed(offered(0, 1, 2), leave_out=[1])
    assert site().advance(state, [], all_blobs, NOW) == [Mix(1, INITIAL, (TERMS[0], TERMS[2]))]


def test_an_update_that_the_close_leaves_out_is_not_waited_for() -> None:
    state = closed(offered(0, 1, 2), leave_out=[1])
    assert Mix(1, INITIAL, (TERMS[0], TERMS[2])) in site().advance(state, [], without(update_of(1)), NOW)


@pytest.mark.parametrize("lacking", range(4))
def test_a_mean_waits_for_its_last_update(lacking: int) -> None:
    round_ = site()
    assert round_.advance(CLOSED, [], without(update_of(lacking)), NOW) == [
        Fetch(update_of(lacking), BYTES, (NODES[lacking],))
    ]
    assert round_.advance(CLOSED, [], all_blobs, NOW) == [Mix(1, INITIAL, TERMS)]


def test_a_mean_waits_for_its_base() -> None:
    round_ = site()
    assert round_.advance(CLOSED, [], without(INITIAL), NOW) == [Fetch(INITIAL, BYTES, ())]
    assert round_.advance(CLOSED, [], all_blobs, NOW) == [Mix(1, INITIAL, TERMS)]


def test_a_mean_is_attested_for_the_close_it_came_from() -> None:
    round_ = site()
    round_.advance(CLOSED, [], all_blobs, NOW)
    actions = round_.mixed(Mixed(1, MODELS[1], BYTES), CLOSED, NOW)
    assert works(actions) == [Say(e.ATTEST, e.Attest(1, 50, MODELS[1], BYTES, (), b""))]
    assert report(actions) == Report("mixed", "averaged round 1", {"round": 1, "model": MODELS[1].hex()})


def test_a_mean_that_cannot_be_made_is_reported_and_tried_again_after_a_pause() -> None:
    round_ = site()
    round_.advance(CLOSED, [], all_blobs, NOW)
    assert round_.mixed(Mixed(1, None, error="disk full"), CLOSED, NOW) == [
        Report("mix_failed", "couldn't average round 1: disk full", level="error")
    ]
    assert round_.next_wake(NOW) == NOW + RETRY_S
    assert round_.advance(CLOSED, [], all_blobs, NOW + RETRY_S - 0.01) == []
    assert round_.advance(CLOSED, [], all_blobs, NOW + RETRY_S) == [Mix(1, INITIAL, TERMS)]


def test_the_earlier_of_two_pauses_wakes_first() -> None:
    round_ = site()
    assert round_.next_wake(NOW) is None
    round_.advance(offered(1), [], all_blobs, NOW)
    round_.trained(failed(), START, [], NOW)
    round_.advance(closed(offered(1)), [], all_blobs, NOW + 1)
    round_.mixed(Mixed(1, None, error="disk full"), closed(offered(1)), NOW + 2)
    assert round_.next_wake(NOW + 2) == NOW + RETRY_S
    assert round_.next_wake(NOW + RETRY_S) == NOW + 2 + RETRY_S
    assert round_.next_wake(NOW + 2 + RETRY_S) is None


@pytest.mark.parametrize("final", [False, True])
def test_a_round_that_was_attested_is_not_averaged_again(final: bool) -> None:
    state = replace(CLOSED, attests={ME: (MODELS[1], BYTES)}) if final else CLOSED
    mine: list[msgspec.Struct] = [] if final else [my_attest(CLOSED)]
    assert site().advance(state, mine, all_blobs, NOW) == [Train(2, MODELS[1], counted=update_of(0))]


def test_an_attest_of_another_close_does_not_count() -> None:
    mine = [e.Attest(1, 49, MODELS[1], BYTES, (), b"")]
    assert site().advance(CLOSED, mine, all_blobs, NOW) == [Mix(1, INITIAL, TERMS)]


def test_somebody_elses_attest_does_not_count() -> None:
    state = replace(CLOSED, attests={NODES[1]: (MODELS[1], BYTES), NODES[2]: (MODELS[1], BYTES)})
    assert site().advance(state, [], all_blobs, NOW) == [Mix(1, INITIAL, TERMS)]


# --- one round ahead of finality ----------------------------------------------------------------------------------


def test_the_next_round_is_trained_from_a_mean_that_is_not_committed_yet() -> None:
    round_, mine = site(), [my_contribution()]
    round_.advance(CLOSED, mine, all_blobs, NOW)
    (attest, _) = round_.mixed(Mixed(1, MODELS[1], BYTES), CLOSED, NOW)
    assert isinstance(attest, Say)
    assert round_.advance(CLOSED, [*mine, attest.body], all_blobs, NOW) == [Train(2, MODELS[1], counted=update_of(0))]
    assert (round_.phase, round_.round) == (Phase.TRAINING, 2)
    offer = said(round_.trained(trained(2), CLOSED, [*mine, attest.body], NOW))
    assert isinstance(offer, e.Contribution)
    assert (offer.round, offer.attempt, offer.base_digest) == (2, 1, MODELS[1])
    assert round_.advance(CLOSED, [*mine, attest.body, offer], all_blobs, NOW) == []
    assert round_.phase == Phase.ATTESTED


def test_no_round_is_trained_from_a_mean_that_is_not_known_yet() -> None:
    round_ = site()
    assert Train not in [type(action) for action in round_.advance(CLOSED, [], without(update_of(3)), NOW)]


def test_the_ledgers_model_replaces_this_sites_own() -> None:
    round_, other = site(), Digest(digest("what the quorum attested"))
    round_.advance(CLOSED, [], all_blobs, NOW)
    round_.mixed(Mixed(1, MODELS[1], BYTES), CLOSED, NOW)
    actions = round_.advance(committed(1, model=other), [], all_blobs, NOW)
    assert actions == [Train(2, other, counted=update_of(0)), Evaluate(1, other)]
    assert MODELS[1] not in round_.keep(committed(1, model=other))


def test_nothing_is_trained_past_the_last_round() -> None:
    last = closed(offered(0, 1, number=3, state=committed(2)))
    round_ = site()
    round_.said(e.Evaluation(2, MODELS[2], 5, ()))
    attested = replace(last, attests={ME: (MODELS[3], BYTES)})
    assert round_.advance(attested, [], all_blobs, NOW) == []
    assert round_.round == 3
    assert round_.advance(committed(3), [], all_blobs, NOW) == [Evaluate(3, MODELS[3])]
    assert round_.round == 3


# --- evaluating ---------------------------------------------------------------------------------------------------


def test_each_committed_model_is_evaluated_once() -> None:
    round_ = site()
    for number in (1, 2, 3):
        evaluate = Evaluate(number, MODELS[number])
        assert evaluate in round_.advance(committed(number), [], all_blobs, NOW)
        assert evaluate not in round_.advance(committed(number), [], all_blobs, NOW)
        round_.evaluated(Evaluated(number, MODELS[number], 5, {}))
        assert evaluate not in round_.advance(committed(number), [], all_blobs, NOW)


def test_the_initial_model_is_not_evaluated() -> None:
    round_ = site()
    assert Evaluate not in [type(action) for action in round_.advance(START, [], all_blobs, NOW)]


def test_a_model_is_evaluated_although_the_one_before_still_is() -> None:
    round_ = site()
    round_.advance(committed(1), [], all_blobs, NOW)
    assert Evaluate(2, MODELS[2]) in round_.advance(committed(2), [], all_blobs, NOW)


def test_a_committed_model_that_is_not_here_is_fetched_and_then_evaluated() -> None:
    round_ = site()
    assert round_.advance(committed(3), [], only(), NOW) == [Fetch(MODELS[3], BYTES, ())]
    assert round_.advance(committed(3), [], all_blobs, NOW) == [Evaluate(3, MODELS[3])]


def test_a_score_is_put_on_record() -> None:
    actions = site().evaluated(Evaluated(1, MODELS[1], 5, {"loss": 0.5, "secret": 2.0}))
    assert works(actions) == [Say(e.EVALUATION, e.Evaluation(1, MODELS[1], 5, ((0, 500_000),)))]
    values = {"round": 1, "samples": 5, "loss": 0.5, "secret": 2.0}
    assert report(actions) == Report("evaluated", "evaluated the model of round 1", values)


def test_an_evaluation_that_fails_is_reported_and_not_repeated() -> None:
    round_ = site()
    round_.advance(committed(3), [], all_blobs, NOW)
    assert round_.evaluated(Evaluated(3, MODELS[3], 0, {}, error="no data")) == [
        Report("evaluation_failed", "evaluating round 3 failed: no data", {"round": 3}, level="error")
    ]
    assert Evaluate not in [type(action) for action in round_.advance(committed(3), [], all_blobs, NOW)]


def test_a_restart_does_not_repeat_an_evaluation_that_is_on_record() -> None:
    round_ = site()
    round_.said(e.Evaluation(1, MODELS[1], 5, ()))
    round_.said(my_contribution(number=2))
    assert round_.advance(committed(1), [], all_blobs, NOW) == [Train(2, MODELS[1])]
    assert Evaluate(2, MODELS[2]) in round_.advance(committed(2), [], all_blobs, NOW)


# --- the end ------------------------------------------------------------------------------------------------------

DONE = Finished("DONE", "all 3 rounds are committed")


def test_a_site_is_done_when_the_last_model_is_committed_scored_and_on_record() -> None:
    round_ = site()
    assert round_.advance(committed(3), [], all_blobs, NOW) == [Evaluate(3, MODELS[3])]
    score = said(round_.evaluated(Evaluated(3, MODELS[3], 5, {})))
    assert round_.advance(committed(3), [score], all_blobs, NOW) == []
    report = Report("done", "all 3 rounds are committed", {"model": MODELS[3].hex(), "round": 3})
    assert round_.advance(committed(3), [], all_blobs, NOW) == [report, DONE]
    assert round_.phase == Phase.DONE
    assert round_.advance(committed(3), [], all_blobs, NOW) == []


def test_a_model_that_nobody_scores_is_no_failure_and_the_site_is_done_all_the_same() -> None:
    round_ = site()
    round_.advance(committed(3), [], all_blobs, NOW)
    [told] = round_.evaluated(Evaluated(3, MODELS[3], 0, {}, error="no function", unscored=True))
    assert isinstance(told, Report)
    assert (told.event, told.level) == ("unscored", "debug")
    assert DONE in round_.advance(committed(3), [], all_blobs, NOW)


def test_a_word_on_others_work_that_is_not_final_is_waited_for_while_it_may_become_so() -> None:
    round_ = site()
    round_.said(e.Evaluation(3, MODELS[3], 5, ()))
    word = e.Score(3, 0, 1, 6, 20, ((1, 0, 0),))
    round_.judging = True
    assert round_.advance(committed(3), [word], all_blobs, NOW) == []
    round_.judging = False
    assert works(round_.advance(committed(3), [word], all_blobs, NOW)) == [DONE]


def test_a_site_that_cannot_score_the_last_model_is_done_all_the_same() -> None:
    round_ = site()
    round_.advance(committed(3), [], all_blobs, NOW)
    round_.evaluated(Evaluated(3, MODELS[3], 0, {}, error="no data"))
    assert DONE in round_.advance(committed(3), [], all_blobs, NOW)


def test_a_run_is_not_done_before_its_last_round() -> None:
    round_ = site()
    round_.said(e.Evaluation(2, MODELS[2], 5, ()))
    assert round_.advance(committed(2), [], all_blobs, NOW) == [Train(3, MODELS[2])]


def test_a_site_that_starts_again_after_the_end_is_done_at_once() -> None:
    round_ = site()
    round_.said(e.Evaluation(3, MODELS[3], 5, ()))
    assert works(round_.advance(committed(3), [], all_blobs, NOW)) == [DONE]


def stopped() -> State:
    """The state of a run of three rounds that was stopped after the second, the first being the best."""
    signed = make_swarm(len(SWARM.identities), stop="loss:lower:1").signed
    watch = Watch(best=Best(1, MODELS[1], BYTES), references={ME: 5}, idle=1, last=2)
    return replace(committed(2), signed=signed, stopping=watch)


def test_a_run_that_was_stopped_is_over_and_training_for_a_later_round_is_let_go() -> None:
    round_ = site()
    assert Train(3, MODELS[2]) in round_.advance(committed(2), [], all_blobs, NOW)
    round_.evaluated(Evaluated(2, MODELS[2], 5, {}))
    why = "stopped after round 2: no improvement of loss for a round, best round 1"
    told = {"model": MODELS[2].hex(), "round": 2, "best": 1}
    assert round_.advance(stopped(), [], all_blobs, NOW) == [Report("done", why, told), Finished("DONE", why)]
    assert round_.phase == Phase.DONE
    assert round_.trained(Trained(3, Digest(digest("late")), BYTES, 7, {}), stopped(), [], NOW) == []
    assert round_.advance(stopped(), [], all_blobs, NOW) == []
    assert round_.phase == Phase.DONE


def test_a_site_is_not_done_without_the_best_model_and_keeps_it_and_those_that_may_become_it() -> None:
    round_ = site()
    round_.said(e.Evaluation(2, MODELS[2], 5, ()))
    assert round_.advance(stopped(), [], only(MODELS[2]), NOW) == [Fetch(MODELS[1], BYTES, ())]
    assert {MODELS[1], MODELS[2]} <= round_.keep(stopped())
    heard = replace(stopped().stopping or Watch(), heard=(Heard(2, digest("heard"), BYTES),), last=0)
    assert Digest(digest("heard")) in round_.keep(replace(stopped(), stopping=heard))


# --- restarts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "mine", "expected", "phase"),
    [
        (START, [], [Train(1, INITIAL)], Phase.TRAINING),
        (START, [my_contribution()], [], Phase.OFFERED),
        (offered(0, 1), [], [], Phase.OFFERED),
        (CLOSED, [], [Mix(1, INITIAL, TERMS)], Phase.MIXING),
        (CLOSED, [my_attest(CLOSED)], [Train(2, MODELS[1], counted=update_of(0))], Phase.TRAINING),
        (CLOSED, [my_attest(CLOSED), my_contribution(number=2)], [], Phase.ATTESTED),
        (offered(0, number=2, state=committed(1)), [], [Evaluate(1, MODELS[1])], Phase.OFFERED),
        (committed(1), [], [Train(2, MODELS[1]), Evaluate(1, MODELS[1])], Phase.TRAINING),
        (committed(3), [], [Evaluate(3, MODELS[3])], Phase.WAITING),
    ],
    ids=[
        "at the start",
        "offered, not final",
        "offered",
        "closed",
        "attested, not final",
        "attested and a round ahead",
        "committed after training ahead",
        "committed",
        "at the end",
    ],
)
def test_a_site_killed_at_any_point_asks_for_what_is_still_to_do(
    state: State, mine: list[msgspec.Struct], expected: list[Action], phase: Phase
) -> None:
    for _ in range(3):  # the third life begins where the second did
        round_ = site()
        assert round_.advance(state, mine, all_blobs, NOW) == expected
        assert round_.phase == phase
        assert round_.advance(state, mine, all_blobs, NOW) == []


@pytest.mark.parametrize("final", [False, True])
def test_a_mean_that_was_attested_and_lost_is_fetched_from_others(final: bool) -> None:
    state = replace(CLOSED, attests={ME: (MODELS[1], BYTES)}) if final else CLOSED
    mine: list[msgspec.Struct] = [] if final else [my_attest(CLOSED)]
    assert site().advance(state, mine, without(MODELS[1]), NOW) == [Fetch(MODELS[1], BYTES, ())]


# --- what is kept -------------------------------------------------------------------------------------------------


def test_a_fresh_site_keeps_the_initial_model() -> None:
    assert site().keep(START) == {INITIAL}


def test_every_update_of_the_rounds_at_hand_is_kept() -> None:
    state = offered(2, number=2, state=CLOSED)
    kept = site().keep(state)
    assert kept == {INITIAL, *(update_of(author) for author in range(4)), update_of(2, number=2)}


def test_a_mean_is_kept_before_it_is_committed() -> None:
    round_ = site()
    round_.advance(CLOSED, [], all_blobs, NOW)
    round_.mixed(Mixed(1, MODELS[1], BYTES), CLOSED, NOW)
    assert {INITIAL, MODELS[1]} <= round_.keep(CLOSED)


def test_the_model_one_round_back_is_kept_and_older_ones_are_not() -> None:
    round_ = site()
    round_.said(e.Evaluation(1, MODELS[1], 5, ()))
    round_.said(e.Evaluation(2, MODELS[2], 5, ()))
    kept = []
    for number in (0, 1, 2):
        state = committed(number)
        # What training starts from would be kept as well; here it has been offered.
        round_.advance(offered(0, number=number + 1, state=state), [], all_blobs, NOW)
        kept.append(round_.keep(state))
    assert kept == [{INITIAL}, {INITIAL, MODELS[1]}, {MODELS[1], MODELS[2]}]


def test_what_is_being_trained_from_is_kept_however_old() -> None:
    round_ = site()
    round_.advance(START, [], all_blobs, NOW)
    round_.advance(committed(2), [], all_blobs, NOW)
    assert INITIAL in round_.keep(committed(2))
    round_.trained(trained(), committed(2), [], NOW)
    assert INITIAL not in round_.keep(committed(2))


def test_a_model_is_kept_until_it_has_been_evaluated() -> None:
    round_ = site()
    round_.advance(offered(0, number=2, state=committed(1)), [], all_blobs, NOW)
    round_.advance(offered(0, number=4, state=committed(3)), [], all_blobs, NOW)
    assert MODELS[1] in round_.keep(committed(3))
    round_.evaluated(Evaluated(1, MODELS[1], 5, {}))
    assert MODELS[1] not in round_.keep(committed(3))


# --- words --------------------------------------------------------------------------------------------------------


def test_phases_are_told_by_their_names_and_those_of_newer_peers_as_unknown() -> None:
    words = ["waiting", "fetching", "training", "offered", "mixing", "attested", "done", "paused"]
    assert [phase_name(number) for number in range(8)] == words
    assert [phase_name(number) for number in (-1, 8, 255)] == ["unknown"] * 3


# --- what is not this round's -------------------------------------------------------------------------------------


def test_a_stray_answer_does_not_end_the_training_that_is_going_on() -> None:
    r = site()
    assert Train(2, MODELS[1]) in r.advance(committed(1), [], all_blobs, NOW)
    assert r.trained(trained(1), committed(1), [], NOW) == []
    assert Train(2, MODELS[1]) not in r.advance(committed(1), [], all_blobs, NOW)


def test_a_restart_does_not_repeat_an_evaluation_that_is_said_but_not_yet_final() -> None:
    said = e.Evaluation(1, MODELS[1], 5, ())
    actions = site().advance(committed(1), [my_contribution(number=2), said], all_blobs, NOW)
    assert Evaluate(1, MODELS[1]) not in actions


def test_an_offer_that_starts_from_another_model_than_the_ledgers_is_made_anew() -> None:
    r = site()
    stale = msgspec.structs.replace(my_contribution(number=2), base_digest=MODELS[3])
    assert Train(2, MODELS[1]) in r.advance(committed(1), [stale], all_blobs, NOW)
    (say, _) = r.trained(trained(2), committed(1), [stale], NOW)
    assert isinstance(say, Say)
    assert isinstance(say.body, e.Contribution)
    assert say.body.attempt == stale.attempt + 1


def test_contributions_to_a_round_after_the_last_are_not_fetched() -> None:
    r = site()
    state = offered(2, number=4, state=committed(3))
    assert not [action for action in r.advance(state, [], only(MODELS[3]), NOW) if isinstance(action, Fetch)]


def test_a_round_that_is_refused_is_not_asked_for_again_and_is_no_failure() -> None:
    """A site whose privacy budget is spent goes on without training, however many rounds there are."""
    round_ = site()
    assert any(isinstance(one, Train) for one in round_.advance(START, [], all_blobs, NOW))
    actions = round_.trained(Trained(1, None, error="it is spent", refused=True), START, [], NOW)
    assert report(actions) == Report(
        "training_refused", "round 1 is not trained here: it is spent", {"round": 1}, level="warning"
    )
    later = [round_.advance(START, [], all_blobs, NOW + wait) for wait in (RETRY_S + 1, 10_000.0, 1e6)]
    assert not any(isinstance(one, Train | Finished) for actions in later for one in actions)
    assert round_.phase == Phase.PAUSED  # so that others do not wait


def test_a_contribution_says_what_of_privacy_its_site_has_spent() -> None:
    round_ = site()
    round_.advance(START, [], all_blobs, NOW)
    offer = said(round_.trained(Trained(1, UPDATE, BYTES, 7, {}, privacy=(2_345, 5)), START, [], NOW))
    assert isinstance(offer, e.Contribution)
    assert offer.privacy == (2_345, 5, 2_500)

"""When a run is over: the option's text, who is compared with whom, and when a round counts, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm import stopping
from swarm.errors import UsageError
from swarm.machine import NodeId
from swarm.stopping import Policy, Watch, best, committed, parse, settled, told, words
from tests.builders import digest

METRICS = ("accuracy", "loss")
FIVE = tuple(NodeId(bytes([i]) * 32) for i in range(5))
"""Five members bear one liar, so a round needs the words of three."""
UP = parse("accuracy:higher:2", METRICS)


def model(round_: int) -> bytes:
    return digest(f"model {round_}")


def says(watch: Watch, round_: int, scores: dict[int, int | None], policy: Policy = UP, done: int = 0) -> Watch:
    """Return the watch after these members have told their score of a round, None for keeping it back."""
    for member, score in scores.items():
        metrics = () if score is None else ((policy.index, score),)
        watch = told(watch, policy, FIVE[member], round_, model(round_), metrics)
        watch = settled(watch, policy, FIVE, done or round_, last=round_)
    return watch


def learned(watch: Watch, round_: int, scores: dict[int, int | None], policy: Policy = UP) -> Watch:
    return says(committed(watch, round_, model(round_), 8), round_, scores, policy)


def everybody(score: int) -> dict[int, int | None]:
    return dict.fromkeys(range(5), score)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accuracy:higher:5", Policy(index=0, metric="accuracy", lower=False, patience=5, least=0)),
        ("loss:lower:1:0.001", Policy(index=1, metric="loss", lower=True, patience=1, least=1_000)),
        ("loss:lower:999999:12.5", Policy(index=1, metric="loss", lower=True, patience=999_999, least=12_500_000)),
    ],
)
def test_the_option_says_metric_sense_patience_and_perhaps_a_least_difference(text: str, expected: Policy) -> None:
    assert parse(text, METRICS) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("accuracy", "accuracy:higher", "accuracy:higher:0", "accuracy:higher:05", "accuracy:more:5", ":higher:5"),
        *("accuracy:higher:5:0", "accuracy:higher:5:0.0", "accuracy:higher:5:0.10", "accuracy:higher:5:.1"),
        *("accuracy:higher:5:-1", "accuracy:higher:5:1e-3", "accuracy:higher:5:0.0000001", "accuracy:higher:1000000"),
        *("accuracy:higher:5:0.1:1", "accuracy:higher:1\u0665", "", ":" * 1000),
    ],
)
def test_any_other_text_is_refused_in_a_sentence_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="couldn't read stop = ") as refused:
        parse(text, METRICS)
    assert "accuracy:higher:5" in refused.value.hint


def test_a_metric_that_is_not_shared_cannot_stop_a_run() -> None:
    with pytest.raises(UsageError, match=r"none of the charter's metrics \(accuracy, loss\)"):
        parse("auc:higher:5", METRICS)


def test_patience_counts_rounds_without_an_improvement_since_the_best() -> None:
    watch = Watch()
    for round_, score in enumerate((500, 600, 600, 700, 690), 1):
        watch = learned(watch, round_, everybody(score))
        assert watch.last == 0
    watch = learned(watch, 6, everybody(700))
    assert watch.last == 6
    assert watch.best is not None
    assert (watch.best.round, watch.best.model) == (4, model(4))
    text = "stopped after round 6: no improvement of accuracy for 2 rounds, best round 4"
    assert words(watch, UP) == text


def test_lower_can_be_better() -> None:
    policy = parse("loss:lower:1", METRICS)
    watch = learned(learned(Watch(), 1, everybody(500), policy), 2, everybody(400), policy)
    assert watch.last == 0
    assert learned(watch, 3, everybody(401), policy).last == 3


def test_an_improvement_is_more_than_the_least_difference_from_the_best_and_not_from_the_last() -> None:
    policy = parse("accuracy:higher:9:0.00001", METRICS)
    watch = learned(Watch(), 1, everybody(100), policy)
    for round_, score, found in ((2, 110, 1), (3, 109, 1), (4, 111, 4), (5, 119, 4), (6, 122, 6)):
        watch = learned(watch, round_, everybody(score), policy)
        assert watch.best is not None
        assert watch.best.round == found


def test_a_site_is_compared_with_itself_so_it_does_not_matter_who_is_late() -> None:
    """The means of what is told are 500, 350 and 650; every site finds the second a little better, the third not."""
    watch = learned(Watch(), 1, {0: 300, 1: 300, 2: 500, 3: 700, 4: 700})
    watch = learned(watch, 2, {0: 301, 1: 301, 2: 501, 3: None, 4: None})
    assert watch.best is not None
    assert watch.best.round == 2
    watch = learned(watch, 3, {0: 301, 1: 300, 2: 501, 3: 800, 4: 850})
    assert watch.best is not None
    assert watch.best.round == 2, "who told nothing of the best round is compared from now on"
    assert watch.references[FIVE[3]] == 800


@given(st.lists(st.integers(-1000, 1000), min_size=4, max_size=4), st.integers(-(2**52), 2**52))
def test_no_lie_moves_the_verdict_past_the_honest(gains: list[int], lie: int) -> None:
    """If all the honest find a round better it is, if none does it is not, whatever the fifth says."""
    watch = learned(Watch(), 1, everybody(0))
    after = learned(watch, 2, {**dict(enumerate(gains)), 4: lie})
    improved = after.best is not None and after.best.round == 2
    if min(gains) > 0:
        assert improved
    if max(gains) <= 0:
        assert not improved


def test_fewer_words_than_outvote_a_liar_show_nothing_and_use_up_no_patience() -> None:
    watch = learned(Watch(), 1, {0: 1, 1: 1, 2: None, 3: None, 4: None})
    assert watch.best is None
    watch = learned(watch, 2, everybody(500))
    for round_ in range(3, 9):
        watch = learned(watch, round_, {0: 400, 1: 400, 2: None, 3: None, 4: None})
        assert (watch.idle, watch.last) == (0, 0)
    assert learned(learned(watch, 9, everybody(1)), 10, everybody(1)).last == 10


def test_a_round_is_settled_by_the_last_word_or_by_the_commit_of_the_next_but_one() -> None:
    watch = learned(Watch(), 1, {0: 5, 1: 5, 2: 5, 3: 5})
    assert [one.round for one in watch.heard] == [1], "one may still speak"
    watch = learned(watch, 2, everybody(6))
    assert [one.round for one in watch.heard] == [1, 2], "in their order"
    assert watch.best is None
    late = says(watch, 1, {4: 5}, done=2)
    assert late.heard == ()
    assert late.best is not None
    assert late.best.round == 2
    watch = settled(committed(watch, 3, model(3), 8), UP, FIVE, 3, last=3)
    assert [one.round for one in watch.heard] == [3]
    assert watch.best is not None
    assert watch.best.round == 2
    assert says(watch, 1, {4: 9}) == watch, "that comes too late"


def test_a_word_is_a_members_first_and_of_the_model_that_was_committed() -> None:
    watch = committed(Watch(), 1, model(1), 8)
    other = told(watch, UP, FIVE[0], 1, model(2), ((0, 9),))
    assert other == watch
    watch = told(watch, UP, FIVE[0], 1, model(1), ((0, 9), (1, 3)))
    assert told(watch, UP, FIVE[0], 1, model(1), ((0, 10),)) == watch
    assert watch.heard[0].words == {FIVE[0]: (9,)}
    gossip = told(committed(Watch(), 1, bytes(32), 0), UP, FIVE[0], 1, model(7), ((0, 9),))
    assert gossip.heard[0].scores == {FIVE[0]: 9}, "there each has a model of its own"


def test_nothing_changes_once_it_has_stopped_until_the_members_want_more_rounds() -> None:
    watch = Watch()
    for round_ in (1, 2, 3):
        watch = learned(watch, round_, everybody(500))
    assert watch.last == 3
    assert learned(watch, 4, everybody(900)) == watch
    again = watch.resumed()
    assert (again.last, again.idle) == (0, 0)
    assert again.best == watch.best
    assert words(again, UP) == ""
    assert learned(again, 4, everybody(500)).last == 0


def test_who_has_left_counts_no_more() -> None:
    watch = learned(learned(Watch(), 1, everybody(5)), 2, {0: 6, 4: 7})
    less = watch.without({FIVE[4]})
    assert FIVE[4] not in less.references
    assert less.heard[0].words == {FIVE[0]: (6,)}


def test_a_run_that_is_over_anyway_is_not_stopped_and_its_last_rounds_count_as_far_as_they_are_heard() -> None:
    watch = learned(learned(Watch(), 1, everybody(5)), 2, everybody(4))
    watch = committed(watch, 3, model(3), 8)
    for member in range(4):
        watch = told(watch, UP, FIVE[member], 3, model(3), ((0, 9),))
    watch = settled(watch, UP, FIVE, 3, last=0)
    assert watch.best is not None
    assert watch.best.round == 1, "the fifth may still come"
    found = best(watch, UP, 5)
    assert found is not None
    assert found.round == 3
    assert settled(learned(watch, 4, everybody(1)), UP, FIVE, 9, last=0).last == 0


def test_the_terms_are_told_in_words() -> None:
    assert UP.words == "after 2 rounds in which accuracy has not become higher at the median site"
    fine = parse("loss:lower:1:0.002", METRICS).words
    assert fine == "after a round in which loss has not become lower by more than 0.002 at the median site"
    assert stopping.SETTLED_AFTER == 2

"""Which scores leave a site: all that the charter names, or nothing, and nothing where a group is too small."""

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from node.evaluation import read_result
from swarm import charter as c
from swarm import codec, disclosure
from swarm.errors import UsageError
from swarm.ledger import entry as e
from swarm.machine import Digest, Evaluated, Report, Trained
from swarm.round import Round, Say
from tests.builders import Swarm, make_swarm
from tests.swarm.test_round import NOW, START, all_blobs, said

NAMES = ("accuracy", "auc", "balanced_accuracy", "brier", "sensitivity_0", "sensitivity_1", "support_0", "support_1")
MODEL = Digest(bytes(32))


def site(least: int, *, own: int = 0, swarm: Swarm = make_swarm(4)) -> Round:  # noqa: B008 - built once, only read
    options = c.options_of(min_cell=str(least) if least else "", staleness="16")
    charter = msgspec.structs.replace(swarm.charter, metrics=NAMES, options=options)
    charter.check()
    round_ = Round(charter, charter.members[0].node, code_digest=bytes(32), data_digest=bytes(32))
    round_.withhold_below(own)
    return round_


def told(round_: Round, event: Evaluated) -> tuple[e.Evaluation, str]:
    """Return the entry and the words of a score."""
    say, report = round_.evaluated(event)
    assert isinstance(say, Say)
    assert isinstance(say.body, e.Evaluation)
    assert isinstance(report, Report)
    return say.body, report.text


def scored(table: tuple[int, int, int, int]) -> Evaluated:
    """Return the score of a model by how many of each class it put into each."""
    right_0, wrong_0, wrong_1, right_1 = table
    labels = [0] * (right_0 + wrong_0) + [1] * (wrong_1 + right_1)
    scores = [0.1] * right_0 + [0.8] * wrong_0 + [0.3] * wrong_1 + [0.9] * right_1
    read = read_result({"labels": labels, "scores": scores, "loss": 0.25})
    return Evaluated(1, MODEL, read.samples, read.metrics, cell=disclosure.smallest(read.groups))


@given(st.tuples(*[st.integers(0, 12)] * 4), st.integers(0, 9), st.integers(0, 9))
def test_no_entry_holds_a_metric_of_a_smaller_cell(table: tuple[int, int, int, int], least: int, own: int) -> None:
    assume(sum(table))
    event = scored(table)
    body, text = told(site(least, own=own), event)
    classes = [n for n in (table[0] + table[1], table[2] + table[3]) if n]
    if min(classes) < max(least, own):
        assert codec.encode(body) == codec.encode(e.Evaluation(1, MODEL, 0, ()))
        assert "nothing of it leaves this site" in text
    else:
        assert body.samples == sum(table)
        values = {NAMES[index]: value for index, value in body.metrics}
        assert values == {name: round(event.metrics[name] * 1e6) for name in NAMES if name in event.metrics}
        assert text == "evaluated the model of round 1"


def test_an_accuracy_over_three_healthy_patients_stays_and_the_site_is_told_why() -> None:
    body, text = told(site(5), scored((3, 0, 4, 38)))
    assert body == e.Evaluation(1, MODEL, 0, ())
    assert text == (
        "evaluated the model of round 1; nothing of it leaves this site: its smallest group has 3, at least 5 are agreed"
    )


def test_a_class_that_is_not_there_is_no_small_one() -> None:
    body, _ = told(site(5), scored((0, 0, 2, 14)))
    assert {NAMES[index]: value for index, value in body.metrics} == {
        "accuracy": 875_000,
        "brier": 70_000,
        "sensitivity_1": 875_000,
        "support_0": 0,
        "support_1": 16_000_000,
    }


def test_bare_numbers_are_told_of_enough_cases() -> None:
    assert told(site(5), Evaluated(1, MODEL, 4, {"accuracy": 0.75}))[0].metrics == ()
    assert told(site(5), Evaluated(1, MODEL, 5, {"accuracy": 0.8}))[0].metrics == ((0, 800_000),)


def test_scores_of_training_follow_the_same_rule() -> None:
    for samples, metrics in ((4, ()), (5, ((0, 500_000),))):
        round_ = site(5)
        round_.advance(START, [], all_blobs, NOW)
        body = said(round_.trained(Trained(1, MODEL, 8, samples, {"accuracy": 0.5}), START, [], NOW))
        assert isinstance(body, e.Contribution)
        assert (body.samples, body.metrics) == (samples, metrics)


def test_a_charter_without_the_option_tells_everything_as_before() -> None:
    body, _ = told(site(0), scored((1, 0, 0, 1)))
    assert (body.samples, body.metrics[0]) == (2, (0, 1_000_000))


def test_a_site_may_be_stricter_than_the_charter_and_not_laxer() -> None:
    event = scored((6, 0, 0, 6))
    assert told(site(5, own=8), event)[0].samples == 0
    assert told(site(8, own=5), event)[0].samples == 0
    assert told(site(5, own=6), event)[0].samples == 12


@pytest.mark.parametrize(
    ("groups", "before", "cell"),
    [
        ((20, 25), (), 20),
        ((20, 25), (20, 25), 20),
        ((20, 26), (20, 25), 1),
        ((25, 20), (20, 25), 5),
        ((45,), (20, 24), 1),
        ((16, 0), (), 16),
        ((0, 16), (16, 0), 16),
        ((), (), 0),
        ((), (5, 5), 0),
    ],
)
def test_those_that_came_or_went_are_a_group_too(groups: tuple[int, ...], before: tuple[int, ...], cell: int) -> None:
    assert disclosure.smallest(groups, before) == cell


@pytest.mark.parametrize("text", ["0", "-1", "5.0", " 5", "05", "five", "100001", "9999999", ""])
def test_a_charter_with_no_number_of_cases_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="couldn't take"):
        disclosure.parse(text)

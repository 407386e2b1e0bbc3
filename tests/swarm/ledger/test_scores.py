"""Which scores count, when a round is settled, and what is refused."""

from __future__ import annotations

import msgspec
import pytest

from swarm import codec
from swarm.charter import options_of
from swarm.errors import Reject, UsageError
from swarm.ledger import entry as e
from swarm.ledger.scores import Scores, standings
from swarm.ledger.state import Signatures, apply_authored, genesis, open_authored
from swarm.machine import NodeId
from tests.builders import Feeds, changed, contribution, digest, make_swarm

N = 5  # bears one liar: three values are needed, four others are all there are
SWARM = make_swarm(N, contribution="shapley:loss:lower:20")
NODES = [who.node for who in SWARM.identities]
ROUND_ENTRIES = N + 2


class Log:
    """A log as a reader sees it: entries in order, of which only kind, author and body matter."""

    def __init__(self) -> None:
        self.scores = Scores(SWARM.charter.task.initial_model)
        self.size = 1

    def add(self, author: bytes, kind: int, body: msgspec.Struct) -> int:
        entry = e.Entry(1, kind, bytes(32), author, 0, bytes(32), 0, codec.encode(body), b"")
        self.scores.note(self.size, [entry])
        self.size += 1
        return self.size - 1

    def play(self, number: int, absent: tuple[int, ...] = (), rejected: tuple[int, ...] = ()) -> dict[int, int]:
        """A round from contributions to commit; return the index of each member's contribution."""
        at = {
            i: self.add(NODES[i], e.CONTRIBUTION, contribution(SWARM, i, number=number))
            for i in range(N)
            if i not in absent
        }
        included = tuple((index, 10) for i, index in at.items() if i not in rejected)
        left_out = tuple((at[i], e.UNUSABLE) for i in rejected)
        missing = tuple(bytes(NODES[i]) for i in absent)
        close = self.add(e.NO_AUTHOR, e.ROUND_CLOSE, e.RoundClose(number, 1, included, missing, left_out))
        model = digest(f"model {number}")
        commit = e.RoundCommit(number, close, model, 128, N, 10 * N, missing, (), 0, 0)
        self.add(e.NO_AUTHOR, e.ROUND_COMMIT, commit)
        return at

    def say(self, scorer: int, number: int, values: dict[int, int]) -> None:
        scores = tuple((index, value, 0) for index, value in sorted(values.items()))
        self.add(NODES[scorer], e.SCORE, e.Score(number, 0, 2, 7, 20, scores))


def agreed(log: Log, number: int, member: int) -> int | None:
    found = log.scores.rounds[number].agreed()[NODES[member]]
    return None if found is None else found.score


def test_what_an_author_says_of_itself_does_not_count() -> None:
    log = Log()
    at = log.play(1)
    for scorer in range(N):
        log.say(scorer, 1, {at[0]: 10**9 if scorer == 0 else 10 * scorer, at[1]: 5})
    assert agreed(log, 1, 0) == 25  # of 10, 20, 30, 40
    assert agreed(log, 1, 1) == 5


def test_a_round_is_settled_once_all_others_have_said_so_and_the_next_word_is_late() -> None:
    log = Log()
    at = log.play(1)
    everything = dict.fromkeys(at.values(), 7)
    for scorer in range(N - 1):
        log.say(scorer, 1, everything)
        assert not log.scores.rounds[1].settled
    log.say(4, 1, everything)
    assert log.scores.rounds[1].settled
    assert log.scores.rounds[1].late == {}


def test_a_quorum_is_enough_in_a_larger_swarm() -> None:
    """Eight members: with seven scorers each contribution has a quorum of six others, the eighth's word is late."""
    big = make_swarm(8, contribution="loo:loss:lower:20")
    nodes = [who.node for who in big.identities]
    log = Log()
    at = [log.add(nodes[i], e.CONTRIBUTION, contribution(big, i)) for i in range(8)]
    close = log.add(e.NO_AUTHOR, e.ROUND_CLOSE, e.RoundClose(1, 1, tuple((index, 10) for index in at), (), ()))
    log.add(e.NO_AUTHOR, e.ROUND_COMMIT, e.RoundCommit(1, close, digest("m"), 128, 8, 80, (), (), 0, 0))
    judged = log.scores.rounds[1]
    for scorer in range(8):
        body = e.Score(1, 0, 1, 9, 20, tuple((index, scorer, 0) for index in at))
        log.add(nodes[scorer], e.SCORE, body)
        assert judged.settled == (scorer >= 6)
    assert [*judged.late] == [nodes[7]]
    assert len(judged.scores) == 7
    assert judged.agreed()[nodes[0]] is not None
    assert judged.agreed()[nodes[0]].score == 3  # type: ignore[union-attr]  # of 1 to 6: 3.5 rounded down


def test_the_next_round_but_one_settles_what_is_open_and_too_few_words_are_a_gap() -> None:
    log = Log()
    at = log.play(1)
    log.say(0, 1, dict.fromkeys(at.values(), 1))
    log.play(2)
    log.say(1, 1, dict.fromkeys(at.values(), 2))
    assert not log.scores.rounds[1].settled
    log.play(3)
    assert log.scores.rounds[1].settled
    log.say(2, 1, dict.fromkeys(at.values(), 3))
    assert [*log.scores.rounds[1].late] == [NODES[2]]
    assert [agreed(log, 1, member) for member in range(N)] == [None] * N
    assert standings(log.scores.rounds)[NODES[0]].gaps == (1, 2, 3)


@pytest.mark.parametrize("values", [{999: 1}, {0: 1}], ids=["an unknown contribution", "an entry that is none"])
def test_a_score_of_what_the_close_does_not_include_has_no_effect(values: dict[int, int]) -> None:
    log = Log()
    log.play(1)
    log.say(0, 1, values)
    assert log.scores.rounds[1].scores == {}


def test_a_rejected_contribution_is_not_scored_and_its_author_may_score_others() -> None:
    log = Log()
    at = log.play(1, rejected=(4,))
    log.say(0, 1, {at[4]: 10**6})
    log.say(4, 1, {at[0]: 3})
    assert [*log.scores.rounds[1].scores] == [NODES[4]]
    assert NODES[4] not in log.scores.rounds[1].agreed()


def test_the_first_word_of_a_member_stands() -> None:
    log = Log()
    at = log.play(1)
    log.say(0, 1, {at[1]: 3})
    log.say(0, 1, {at[1]: 4})
    assert log.scores.rounds[1].values(at[1], NODES[1]) == [3]


def test_nobody_scores_a_round_before_it_is_committed_or_that_never_was() -> None:
    log = Log()
    at = [log.add(NODES[i], e.CONTRIBUTION, contribution(SWARM, i)) for i in range(N)]
    log.say(0, 1, {at[1]: 3})
    log.add(e.NO_AUTHOR, e.ROUND_CLOSE, e.RoundClose(1, 1, tuple((index, 10) for index in at), (), ()))
    log.say(0, 1, {at[1]: 3})
    log.say(0, 7, {at[1]: 3})
    assert [*log.scores.rounds] == [1]
    assert log.scores.rounds[1].scores == {}


def test_who_was_no_member_when_the_round_closed_has_no_word() -> None:
    log = Log()
    at = log.play(1)
    stranger = NodeId(bytes(range(32)))
    log.add(stranger, e.SCORE, e.Score(1, 0, 2, 7, 20, ((at[0], 10**9, 0),)))
    assert log.scores.rounds[1].scores == {}


def test_scores_add_up_over_rounds_and_shares_leave_out_what_is_negative() -> None:
    log = Log()
    for number in (1, 2):
        at = log.play(number)
        for scorer in range(N):
            log.say(scorer, number, {at[0]: 30, at[1]: 10, at[2]: -50, at[3]: 0, at[4]: 0})
    found = standings(log.scores.rounds)
    assert [found[node].score for node in NODES] == [60, 20, -100, 0, 0]
    assert [found[node].share_ppm for node in NODES] == [750_000, 250_000, 0, 0, 0]
    assert {found[node].error for node in NODES} == {0.0}
    assert {found[node].rounds for node in NODES} == {2}


def test_the_error_grows_with_what_scorers_differ_by_and_not_with_one_that_lies() -> None:
    log = Log()
    at = log.play(1)
    for scorer, value in zip(range(1, N), (90, 100, 110, 10**9), strict=True):
        log.say(scorer, 1, {at[0]: value})
    found = standings(log.scores.rounds)[NODES[0]]
    assert found.score == 105
    # Distances from 105 are 15, 5, 5 and a great deal: their median is 10, over the root of four scorers.
    assert found.error == pytest.approx(1.4826 * 1.2533 * 10 / 2)


def test_a_reader_that_comes_in_the_middle_knows_nothing_of_what_was_before() -> None:
    log, late = Log(), Scores()
    at = log.play(1)
    late.note(log.size - 2, [])
    close = e.Entry(1, e.ROUND_CLOSE, bytes(32), e.NO_AUTHOR, 0, bytes(32), 0,
                    codec.encode(e.RoundClose(2, 1, ((at[0], 10),), (), ())), b"")  # fmt: skip
    late.note(50, [close])
    assert late.rounds == {}


def test_rounds_that_are_let_go_stay_gone() -> None:
    log = Log()
    for number in (1, 2, 3, 4):
        log.play(number)
    log.scores.forget(3)
    assert [*log.scores.rounds] == [3, 4]


# --- what is refused ------------------------------------------------------------------------------------------------


GOOD = e.Score(1, 0, 2, 9, 20, ((3, 5, 1), (4, -5, 0)))


def admit(body: e.Score, swarm: object = SWARM) -> None:
    state = genesis(swarm.signed)  # type: ignore[attr-defined]
    leaf = Feeds(swarm).write(0, body)  # type: ignore[arg-type]
    authored = open_authored(state, e.decode_entry(leaf), leaf, Signatures())
    after = apply_authored(state, authored)
    same = msgspec.structs.replace(after, frontier=state.frontier, heads=state.heads)
    assert same == state, "a score is on record and changes nothing else"


def test_a_score_is_on_record_and_decides_nothing() -> None:
    admit(GOOD)


@pytest.mark.parametrize(
    "fields",
    [
        {"round": 0},
        {"scores": ()},
        {"scores": ((4, 1, 0), (3, 1, 0))},
        {"scores": ((3, 1, 0), (3, 2, 0))},
        {"scores": ((-1, 1, 0),)},
        {"scores": tuple((i, 1, 0) for i in range(1001))},
        {"scores": ((3, 2**40 + 1, 0),)},
        {"scores": ((3, -(2**40) - 1, 0),)},
        {"scores": ((3, 1, -1),)},
        {"scores": ((3, 1, 2**40 + 1),)},
        {"evaluations": -1},
        {"evaluations": 2**40},
        {"samples": -1},
        {"metric": 1},
        {"method": 1},
        {"method": 0},
    ],
    ids=str,
)
def test_what_no_score_can_be_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(Reject, match="couldn't accept a score"):
        admit(msgspec.structs.replace(GOOD, **fields))


@pytest.mark.parametrize("option", ["", "size"])
def test_where_the_charter_asks_for_none_there_are_none(option: str) -> None:
    with pytest.raises(Reject, match="asks for none"):
        admit(GOOD, make_swarm(N, contribution=option))


# --- what a charter may ask for -------------------------------------------------------------------------------------


def test_a_charter_asks_for_scores_only_where_every_member_has_every_update() -> None:
    asked = "loo:loss:lower:20"
    for more in ({"route": "fold"}, {"asynchronous": "buffered", "staleness": "16"}):
        with pytest.raises(UsageError, match=r"contribution = 'loo:loss:lower:20'"):
            changed(make_swarm(N), options=options_of(contribution=asked, **more)).check()
        changed(make_swarm(N), options=options_of(contribution="size", **more)).check()
    with pytest.raises(UsageError, match="no member has what all others made"):
        changed(make_swarm(N, schedule="ring"), options=options_of(contribution=asked, schedule="ring")).check()
    changed(make_swarm(N, schedule="ring"), options=options_of(contribution="size", schedule="ring")).check()
    changed(make_swarm(N), options=options_of(contribution=asked, codec="int8", staleness="16")).check()


def test_a_charter_asks_by_a_metric_that_it_has() -> None:
    with pytest.raises(UsageError, match="none of the charter's metrics"):
        changed(make_swarm(N), options=options_of(contribution="loo:accuracy:higher:20")).check()


def test_a_charter_without_the_option_asks_for_nothing_and_keeps_its_bytes() -> None:
    plain = make_swarm(N).charter
    assert plain.contribution is None
    assert all(name != "contribution" for name, _ in plain.options)

"""Late work in the log: what stands for whom in which round, and that nothing is counted twice."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger import snapshot
from swarm.ledger.state import (
    Placed,
    Signatures,
    State,
    apply_authored,
    apply_derived,
    check_close,
    due_commit,
    genesis,
    make_close,
    open_authored,
)
from tests.builders import Feeds, Swarm, contribution, digest, make_swarm

LIMIT = 3
SWARM = make_swarm(4, rounds=40, staleness=LIMIT)
NODES = [who.node for who in SWARM.identities]


class Log:
    """A state to which members' entries are appended; the model of round r is digest("model r")."""

    def __init__(self, swarm: Swarm = SWARM) -> None:
        self.feeds = Feeds(swarm)
        self.state: State = genesis(swarm.signed)

    def say(self, author: int, body: object) -> None:
        leaf = self.feeds.write(author, body)  # type: ignore[arg-type]
        self.state = apply_authored(self.state, open_authored(self.state, e.decode_entry(leaf), leaf, Signatures()))

    def base(self, number: int) -> bytes:
        return SWARM.charter.task.initial_model if number == 1 else digest(f"model {number - 1}")

    def contribute(self, *authors: int, number: int | None = None, attempt: int = 1, base: bytes = b"") -> None:
        number = self.state.round if number is None else number
        for author in authors:
            body = contribution(
                SWARM, author, number=number, attempt=attempt, base=base or self.base(number), samples=600
            )
            self.say(author, body)

    def standing(self) -> dict[int, Placed]:
        """What stands for whom in the open round."""
        state = self.state
        found = {author: state.contributions.get((state.round, node)) for author, node in enumerate(NODES)}
        return {author: placed for author, placed in found.items() if placed is not None}

    def close(self, rejected: dict[int, int] | None = None) -> e.RoundClose:
        left = {} if rejected is None else rejected
        placed = self.standing()
        included = [one for author, one in placed.items() if author not in left]
        body = make_close(self.state, included, {placed[author].index: reason for author, reason in left.items()})
        self.state = apply_derived(self.state, e.ROUND_CLOSE, body, 5)
        return body

    def commit(self) -> None:
        state = self.state
        assert state.close is not None
        for author in range(3):
            body = e.Attest(state.round, state.close.index, digest(f"model {state.round}"), 128, (), b"")
            self.say(author, body)
        commit = due_commit(self.state)
        assert commit is not None
        self.state = apply_derived(self.state, e.ROUND_COMMIT, commit, 6)

    def round(self, *authors: int) -> e.RoundClose:
        self.contribute(*authors)
        body = self.close()
        self.commit()
        return body


@pytest.mark.parametrize("late", range(1, LIMIT + 2))
def test_late_work_stands_for_its_author_while_it_counts(late: int) -> None:
    log = Log()
    for _ in range(late):
        log.round(0, 1, 2)
    log.contribute(3, number=1)
    assert (3 in log.standing()) == (late <= LIMIT)
    close = log.round(0, 1, 2)
    assert len(close.included) == 3 + (late <= LIMIT)
    if late <= LIMIT:
        assert close.included[3][1] / close.included[0][1] == pytest.approx((1 + late) ** -0.5, rel=2e-3)
        assert close.missing == ()
    else:
        assert close.missing == (NODES[3],)
    assert 3 not in log.standing(), "once"


def test_what_comes_between_close_and_commit_stands_in_the_next_round() -> None:
    log = Log()
    log.contribute(0, 1, 2)
    log.close()
    log.contribute(3, number=1)
    assert 3 not in log.standing()
    log.commit()
    assert log.standing()[3].body.round == 1


def test_fresh_work_takes_the_place_of_late_work_and_not_the_other_way_round() -> None:
    log = Log()
    log.round(0, 1, 2)
    log.contribute(3, number=1)
    log.contribute(3)
    assert log.standing()[3].body.round == 2
    log.contribute(3, number=1, attempt=2)
    assert log.standing()[3].body.round == 2
    log.close()
    log.commit()
    log.contribute(3, number=1, attempt=3)
    assert 3 not in log.standing(), "later work of its author has been counted"


def test_what_is_in_a_round_does_not_count_again_however_it_is_called() -> None:
    log = Log()
    log.contribute(0, 1, 2, 3)
    log.close()
    log.contribute(3, number=1, attempt=2)
    log.commit()
    log.contribute(3, number=1, attempt=3)
    assert log.standing() == {}


@pytest.mark.parametrize("before", [1, 2, 3])
def test_late_work_has_to_start_from_the_model_before_its_own_round(before: int) -> None:
    log = Log()
    for _ in range(3):
        log.round(0, 1, 2)
    log.contribute(3, number=2, base=digest(f"model {before}"))
    log.contribute(0, 1, 2)
    if before == 1:
        assert [index for index, _ in log.close().included][3] == log.standing()[3].index
        return
    with pytest.raises(Reject, match="misjudges"):
        log.close()
    log.close({3: e.OTHER_BASE})
    log.commit()
    assert 3 not in log.standing(), "it would start no better later"


def test_what_nobody_had_stands_in_the_next_round_until_it_is_too_late() -> None:
    log = Log()
    log.contribute(3)
    for late in range(1, LIMIT + 2):
        log.contribute(0, 1, 2)
        log.close({3: e.UNAVAILABLE})
        log.commit()
        assert (3 in log.standing()) == (late <= LIMIT)
    log = Log()
    log.contribute(0, 1, 2, 3)
    log.close({3: e.UNUSABLE})
    log.commit()
    assert log.standing() == {}, "what may not be averaged never may"


def test_a_close_accounts_for_late_work_too() -> None:
    log = Log()
    log.round(0, 1, 2)
    log.contribute(3, number=1)
    log.contribute(0, 1, 2)
    fresh = [placed for author, placed in log.standing().items() if author != 3]
    with pytest.raises(Reject, match="does not account for every contribution"):
        check_close(log.state, make_close(log.state, fresh, {}))


def test_what_is_in_a_close_is_needed_though_its_author_has_left() -> None:
    log = Log()
    log.contribute(0, 1, 2, 3)
    placed = log.standing()[3]
    log.close()
    rest = {place: other for place, other in log.state.contributions.items() if place[1] != NODES[3]}
    left = replace(log.state, contributions=rest)
    assert left.destined(NODES[3], placed.body) == 1
    assert left.destined(NODES[3], replace(placed.body, attempt=2)) is None


@pytest.mark.parametrize("seed", range(30))
def test_no_work_is_in_two_rounds(seed: int) -> None:
    rng, log = random.Random(seed), Log()
    attempts: dict[tuple[int, int], int] = {}
    counted: list[tuple[bytes, int]] = []
    for _ in range(60):
        if rng.random() < 0.7:
            author, number = rng.randrange(4), max(1, log.state.round - rng.randrange(5))
            attempts[author, number] = attempts.get((author, number), 0) + 1
            log.contribute(author, number=number, attempt=attempts[author, number])
        elif log.state.close is None and len(log.standing()) > 2:
            rejected = dict.fromkeys([*log.standing()][: rng.randrange(2)], e.UNAVAILABLE)
            log.close(rejected)
            assert log.state.close is not None
            counted += [(placed.author, placed.body.round) for placed in log.state.close.terms]
        elif log.state.close is not None:
            log.commit()
        again = snapshot.decode(log.state.encode(), State, SWARM.signed)
        assert again == log.state
        assert len(log.state.models) <= LIMIT
    assert len(counted) == len({*counted})
    for node in NODES:
        order = [number for author, number in counted if author == node]
        assert order == sorted(order)


# --- where nobody waits -----------------------------------------------------------------------------------------------


def rest(log: Log) -> int:
    assert log.state.close is not None
    return log.state.close.rest


def test_where_nobody_waits_work_moves_the_model_by_its_share_of_all() -> None:
    """600 samples each, of the members whose work counted lately: those that are not in a mean are its rest."""
    log = Log(make_swarm(4, rounds=40, staleness=LIMIT, asynchronous="buffered"))
    log.contribute(0, 1)
    assert weights_of(log.close()) == (600, 600)
    assert rest(log) == 0, "of the others nothing is known yet"
    log.commit()
    log.contribute(2)
    assert weights_of(log.close()) == (600,)
    assert rest(log) == 1200
    log.commit()
    log.contribute(3, number=1)
    log.contribute(0)
    assert weights_of(log.close()) == (600, 346), "600 divided by the root of three"
    assert rest(log) == 2400 - 600 - 346
    log.commit()
    log.contribute(2)
    log.close()
    assert rest(log) == 1800, "all four, the first round being three rounds ago"
    log.commit()
    log.contribute(2)
    log.close()
    assert rest(log) == 600, "of two nobody has heard in three rounds"


def test_a_cap_holds_for_the_share_of_all() -> None:
    swarm = make_swarm(4, rounds=40, staleness=LIMIT, asynchronous="buffered", weight_cap_ppm=400_000)
    log = Log(swarm)
    log.contribute(0, 1, 2)
    log.close()
    log.commit()
    log.say(3, contribution(swarm, 3, number=2, base=log.base(2), samples=10**9))
    body = log.close()
    assert sum(weights_of(body)) / (sum(weights_of(body)) + rest(log)) == pytest.approx(0.4, abs=1e-5)


def weights_of(body: e.RoundClose) -> tuple[int, ...]:
    return tuple(weight for _, weight in body.included)

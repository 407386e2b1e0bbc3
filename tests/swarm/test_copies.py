"""One member's part in a round of gossip under a coarse codec: what it fetches, from which copy it moves on."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from msgspec.structs import replace

from swarm.errors import Reject
from swarm.gossip_round import GossipRound
from swarm.ledger import entry as e
from swarm.ledger import state as ledger
from swarm.ledger.exchange import Exchange, Own
from swarm.ledger.state import Closed, Committed, Placed, State, check_close, fits, genesis, make_close
from swarm.machine import Blend, Digest, NodeId, Report, Train
from swarm.round import Action, Fetch
from swarm.routes import slices_digest
from tests.builders import CODE, contribution, digest, make_swarm
from tests.swarm.test_gossip_round import NODES, Ring, Seen
from topologies.world.clock import EPOCH_S as NOW

SWARM = make_swarm(4, rounds=3, elements=1000, schedule="ring", codec="int8", deadline_ms=600_000)
ME, SIZE, MESSAGE = NODES[0], 4000, 1012
INITIAL = Digest(SWARM.charter.task.initial_model)


class Shelf(Seen):
    """What the others do, and which blobs are here."""

    def __init__(self, held: set[Digest]) -> None:
        super().__init__()
        self._held = held

    def holds(self, name: Digest) -> bool:
        return name in self._held


def copy(author: int, number: int) -> Digest:
    """The public copy of a member after a round."""
    return Digest(digest(f"copy of {author} after {number}")) if number else INITIAL


def message(author: int, number: int) -> Digest:
    return Digest(digest(f"message {number} of {author}"))


def moved(author: int, number: int, base: bytes = INITIAL) -> e.Contribution:
    slices = ((message(author, number), MESSAGE), (copy(author, number - 1), SIZE), (copy(author, number), SIZE))
    body = contribution(SWARM, author, number=number, base=base)
    size = sum(size for _, size in slices)
    return replace(body, update_digest=slices_digest(slices), update_bytes=size, slices=slices)


class Desk:
    def __init__(self) -> None:
        self.held = {INITIAL}
        self.seen = Shelf(self.held)
        self.round = GossipRound(
            SWARM.charter, ME, code_digest=CODE, data_digest=bytes(32), plan=Ring(), witness=self.seen
        )
        self.state: State = replace(genesis(SWARM.signed), opened_ms=int(NOW * 1000))
        self.mine: list[msgspec.Struct] = []

    def place(self, *bodies: tuple[int, e.Contribution]) -> None:
        for author, body in bodies:
            placed = Placed(len(self.state.contributions) + 10, NODES[author], body)
            known = self.state.contributions
            self.state = replace(self.state, contributions={**known, (body.round, NODES[author]): placed})

    def after(self, number: int, copies: dict[NodeId, bytes] | None = None) -> None:
        """Let so many rounds be over; each has the model "own" and, unless it is said, the copy of that round."""
        models = {node: Own(number, digest(f"own {i}"), SIZE) for i, node in enumerate(NODES)}
        found = {node: copy(i, number) for i, node in enumerate(NODES)} if copies is None else copies
        exchange = Exchange(models=models, copies=found)
        self.state = replace(self.state, committed=Committed(number, bytes(32), 0), exchange=exchange)
        self.held.add(Digest(digest("own 0")))

    def close(self, *authors: int) -> None:
        placed = [self.state.contributions[self.state.round, NODES[author]] for author in authors]
        closed = Closed(99, make_close(self.state, placed, {}), tuple(placed), self.state.exchanging, 0)
        self.state = replace(self.state, close=closed, exchange=ledger._published(self.state, closed))

    def go(self) -> list[Action]:
        return self.round.advance(self.state, self.mine, self.held.__contains__, NOW)


def fetched(actions: Sequence[Action]) -> set[Digest]:
    return {action.digest for action in actions if isinstance(action, Fetch)}


def trained(actions: Sequence[Action]) -> list[Train]:
    return [action for action in actions if isinstance(action, Train)]


def test_all_begin_with_the_initial_model_as_their_copy() -> None:
    assert trained(Desk().go()) == [Train(1, INITIAL, whole=True, copy=INITIAL)]


def test_who_has_the_copy_fetches_the_message_and_who_lacks_it_the_next_copy() -> None:
    desk = Desk()
    desk.place((0, moved(0, 1)), (1, moved(1, 1)), (2, moved(2, 1)), (3, moved(3, 1)))
    assert fetched(desk.go()) == {message(1, 1), message(3, 1)}, "of partners alone"
    desk.held.discard(INITIAL)
    assert fetched(desk.go()) >= {copy(1, 1), copy(3, 1)}
    assert not fetched(desk.go()) & {message(1, 1), message(3, 1)}
    desk.held |= {copy(1, 1), copy(3, 1)}
    assert not fetched(desk.go()) & {copy(1, 1), copy(3, 1)}


def test_a_copy_that_is_about_to_be_made_need_not_come_whole() -> None:
    """A partner is a round ahead: what its message starts from follows from the one before."""
    desk = Desk()
    desk.place((1, moved(1, 1)))
    second = moved(1, 2)
    assert desk.round.pieces(NODES[1], second, desk.state) == ((message(1, 2), MESSAGE),)
    desk.seen.problems[Digest(moved(1, 1).update_digest)] = False
    assert desk.round.pieces(NODES[1], second, desk.state) == ((copy(1, 2), SIZE),), "it was no good"
    desk.seen.problems.clear()
    desk.held.clear()
    assert desk.round.pieces(NODES[1], second, desk.state) == ((copy(1, 2), SIZE),), "or cannot be made"


def test_it_moves_on_from_the_copy_that_the_log_has_of_it() -> None:
    desk = Desk()
    desk.after(1)
    desk.held.add(copy(0, 1))
    assert trained(desk.go()) == [Train(2, Digest(digest("own 0")), whole=True, copy=copy(0, 1))]


@pytest.mark.parametrize("copies", [None, {}], ids=["lost", "none"])
def test_without_its_copy_its_model_goes_whole_and_people_are_told(copies: dict[NodeId, bytes] | None) -> None:
    desk = Desk()
    desk.after(1, copies)
    actions = desk.go()
    assert trained(actions) == [Train(2, Digest(digest("own 0")), whole=True)]
    (told,) = [action for action in actions if isinstance(action, Report)]
    assert told.text == "this site has no public copy that its model could move on from: round 2 goes whole"


def test_the_last_round_goes_whole_without_a_word() -> None:
    desk = Desk()
    desk.after(2)
    desk.held.add(copy(0, 2))
    actions = desk.go()
    assert trained(actions) == [Train(3, Digest(digest("own 0")), whole=True)]
    assert not any(isinstance(action, Report) for action in actions)


def test_a_close_says_which_copies_there_are_from_then_on() -> None:
    desk = Desk()
    whole = contribution(SWARM, 2, samples=10)
    desk.place((0, moved(0, 1)), (1, moved(1, 1)), (2, replace(whole, update_bytes=SIZE)), (0, moved(0, 2)))
    desk.close(0, 1, 2)
    assert desk.state.exchange is not None
    expected = {NODES[0]: copy(0, 1), NODES[1]: copy(1, 1), NODES[2]: whole.update_digest, NODES[3]: INITIAL}
    assert desk.state.exchange.copies == expected, "of who was not in it the one before"
    assert desk.state.exchange.without([NODES[1]]).copies == {n: c for n, c in expected.items() if n != NODES[1]}


def test_it_keeps_its_own_copy_and_its_partners() -> None:
    desk = Desk()
    desk.after(1)
    desk.go()
    kept = desk.round.keep(desk.state)
    assert {copy(0, 1), copy(1, 1), copy(3, 1)} <= kept
    assert copy(2, 1) not in kept


def test_it_blends_copies() -> None:
    desk = Desk()
    desk.place(*((i, moved(i, 1)) for i in range(4)))
    at = {i: desk.state.contributions[1, NODES[i]].index for i in range(4)}
    receipts = {NODES[0]: (at[1], at[3]), NODES[1]: (at[0], at[2]), NODES[3]: (at[2],)}
    assert desk.state.exchange is not None
    desk.state = replace(desk.state, exchange=replace(desk.state.exchange, receipts=receipts))
    desk.held |= {copy(0, 1), copy(1, 1)}
    desk.close(0, 1, 2, 3)
    (blend,) = [action for action in desk.go() if isinstance(action, Blend)]
    assert blend.terms == ((copy(0, 1), 1 - 1 / 3), (copy(1, 1), 1 / 3))
    assert blend.rest == 1.0


def test_a_copy_that_a_crash_took_before_the_blend_is_fetched_whole() -> None:
    desk = Desk()
    desk.place((0, moved(0, 1)), (1, moved(1, 1)))
    at = {i: desk.state.contributions[1, NODES[i]].index for i in range(2)}
    assert desk.state.exchange is not None
    receipts = {NODES[0]: (at[1],), NODES[1]: (at[0],)}
    desk.state = replace(desk.state, exchange=replace(desk.state.exchange, receipts=receipts))
    desk.held.add(copy(0, 1))
    desk.close(0, 1)
    actions = desk.go()
    assert Fetch(copy(1, 1), SIZE, (NODES[1],)) in actions
    assert not any(isinstance(action, Blend) for action in actions)


def shortened() -> Desk:
    """A vote has made the second round the last one when messages to it were on record already."""
    desk = Desk()
    desk.after(1)
    desk.held |= {copy(0, 1), message(0, 2), copy(0, 2)}
    desk.place(*((i, moved(i, 2, digest(f"own {i}"))) for i in range(4)))
    policy = replace(desk.state.terms.round, rounds=2)
    desk.state = replace(desk.state, terms=replace(desk.state.terms, round=policy))
    return desk


def test_what_it_has_offered_stands_as_long_as_its_message_and_its_copy_are_here() -> None:
    desk = Desk()
    desk.after(1)
    desk.held |= {message(0, 2), copy(0, 2)}
    desk.place((0, moved(0, 2, digest("own 0"))))
    assert trained(desk.go()) == []
    desk.held.discard(message(0, 2))
    assert len(trained(desk.go())) == 1


def test_a_round_that_turns_out_to_be_the_last_is_trained_again_for_whole_models() -> None:
    desk = shortened()
    assert trained(desk.go()) == [Train(2, Digest(digest("own 0")), whole=True)]
    assert fetched(desk.go()) == set(), "nobody needs messages there"


def test_a_close_of_the_last_round_takes_whole_models_alone() -> None:
    desk = shortened()
    placed = [desk.state.contributions[2, node] for node in NODES]
    assert not any(fits(desk.state, one.body) for one in placed)
    with pytest.raises(Reject, match="an update of a size that no update has"):
        check_close(desk.state, make_close(desk.state, placed, {}))

"""For whom a masked round waits, and how long: what a member proposes, and what it votes for, by what it knows."""

from __future__ import annotations

from msgspec.structs import replace

from swarm.ledger import entry as e
from swarm.ledger.consensus import Invalid, Overtaken, Valid, Wait
from swarm.ledger.masked_waits import MaskedWaits
from swarm.ledger.state import Placed, State, make_close, make_roster, make_void
from swarm.machine import Digest, NodeId
from tests.builders import Feeds
from tests.swarm.ledger.test_masking import NODES, SWARM, all_in, closed, dealt, offered, posted

PATIENCE_S, DEADLINE_S = 8.0, 600.0
NOW_MS = 2**42


class Member:
    """What a member knows. At first it holds everything and has heard of everybody."""

    def __init__(self) -> None:
        self.away: set[Digest] = set()
        self.arriving: set[Digest] = set()
        self.gone: set[NodeId] = set()
        self.read: dict[NodeId, bool | None] = dict.fromkeys(NODES, True)
        self.is_stuck = False
        self.waits = MaskedWaits(self, self.given_up)

    def usable(self, digest: Digest) -> bool | None:
        return None if digest in self.away else True

    def moving(self, digest: Digest, now: float) -> bool:
        return digest in self.arriving

    def silent(self, node: NodeId, now: float) -> bool:
        return node in self.gone

    def stuck(self) -> bool:
        return self.is_stuck

    def dealt(self, node: NodeId, digest: Digest) -> bool | None:
        return self.read[node]

    def given_up(self, state: State, node: NodeId, placed: Placed | None, now: float, time_ms: int) -> bool:
        return node in self.gone

    def due(self, state: State, now: float = 0.0) -> object:
        return self.waits.due(state, now, NOW_MS)


def update_of(state: State, member: int) -> Digest:
    return Digest(state.contributions[1, NODES[member]].body.update_digest)


def test_a_roster_waits_for_everybody_who_is_not_given_up() -> None:
    member, state = Member(), posted(Feeds(SWARM), [0, 1, 2, 3])
    assert member.due(state) is None
    made = make_roster(state)
    assert made is not None
    assert isinstance(member.waits.judge(state, made, 0.0), Wait)
    member.gone = {NODES[4]}
    assert member.due(state) == made
    assert isinstance(member.waits.judge(state, made, 0.0), Valid)
    few = posted(Feeds(SWARM), [0, 1])
    member.gone = {*NODES[2:]}
    assert member.due(few) is None, "two are no roster, whoever is gone"


def test_an_attempt_ends_when_no_deal_has_come_for_the_charters_patience() -> None:
    member, feeds = Member(), Feeds(SWARM)
    state = dealt(feeds, [0, 1, 2])
    assert member.due(state, 0.0) is None
    ending = e.MaskRoster(1, 1, (), (NODES[3], NODES[4]), ())
    assert isinstance(member.waits.judge(state, ending, PATIENCE_S - 0.1), Wait)
    assert member.due(state, PATIENCE_S - 0.1) is None
    assert member.due(state, PATIENCE_S) == ending
    assert isinstance(member.waits.judge(state, ending, PATIENCE_S), Valid)
    assert isinstance(Member().waits.judge(state, ending, PATIENCE_S), Wait), "each by its own patience"


def test_a_deal_that_is_none_or_is_nowhere_is_named_and_one_that_is_here_cannot_be() -> None:
    member, state = Member(), dealt(Feeds(SWARM))
    assert state.masking is not None
    member.read |= {NODES[1]: False, NODES[2]: None}
    member.due(state, 0.0)
    ending = member.due(state, PATIENCE_S)
    at = {node: one.index for node, one in state.masking.deals.items()}
    assert ending == e.MaskRoster(1, 1, (), (), ((at[NODES[1]], e.UNUSABLE), (at[NODES[2]], e.UNAVAILABLE)))
    assert isinstance(ending, e.MaskRoster)
    other = Member()
    other.read[NODES[1]] = False
    other.due(state, 0.0)
    assert isinstance(other.waits.judge(state, ending, PATIENCE_S), Overtaken), "the deal of member 2 is here"


def test_a_close_takes_who_is_here_and_waits_for_who_may_come() -> None:
    member, state = Member(), offered(Feeds(SWARM), [0, 1, 2, 3])
    assert member.due(state) is None, "of member 4 there is more to come"
    member.gone = {NODES[4]}
    assert member.due(state) == all_in(state)
    slow = Member()
    slow.due(state, 0.0)
    assert slow.due(state, DEADLINE_S - 0.1) is None
    assert slow.due(state, DEADLINE_S) == all_in(state), "the deadline counts from the roster"


def test_nobody_votes_for_a_sum_without_holding_all_of_it_and_all_deals() -> None:
    state = offered(Feeds(SWARM), [0, 1, 2, 3])
    member, found = Member(), all_in(state)
    member.gone = {NODES[4]}
    assert isinstance(member.waits.judge(state, found, 0.0), Valid)
    member.away = {update_of(state, 2)}
    assert member.waits.judge(state, found, 0.0) == Wait(
        "the masked update of site-2 has not arrived", progressing=False
    )
    member.arriving = member.away
    assert member.waits.judge(state, found, 0.0) == Wait(
        "the masked update of site-2 has not arrived", progressing=True
    )
    member.away = set()
    member.read[NODES[4]] = None
    assert isinstance(member.waits.judge(state, found, 0.0), Wait)


def test_nobody_is_left_out_whose_update_is_here() -> None:
    state = offered(Feeds(SWARM))
    placed = [one for one in state.contributions.values() if one.author != NODES[3]]
    gone = state.contributions[1, NODES[3]].index
    found = make_close(state, placed, {gone: e.UNAVAILABLE})
    member = Member()
    assert isinstance(member.waits.judge(state, found, 0.0), Overtaken)
    member.away = {update_of(state, 3)}
    assert isinstance(member.waits.judge(state, found, 0.0), Wait)
    member.gone = {NODES[3]}
    assert isinstance(member.waits.judge(state, found, 0.0), Valid)


def test_an_attempt_with_too_few_offers_ends_and_one_with_enough_does_not() -> None:
    state = offered(Feeds(SWARM), [0, 1, 2])
    member = Member()
    member.gone = {NODES[3], NODES[4]}
    ending = e.MaskRoster(1, 1, (), (NODES[3], NODES[4]), ())
    assert member.due(state) == ending
    assert isinstance(member.waits.judge(state, ending, 0.0), Valid)
    member.gone = {NODES[3]}
    assert isinstance(member.waits.judge(state, ending, 0.0), Wait)
    enough = offered(Feeds(SWARM), [0, 1, 2, 3])
    away = {placed.index: e.UNAVAILABLE for placed in enough.contributions.values() if placed.author == NODES[0]}
    ending = replace(ending, missing=(NODES[4],), rejected=tuple(away.items()))
    assert isinstance(member.waits.judge(enough, ending, 0.0), Overtaken | Invalid)


def test_a_round_is_void_for_who_cannot_have_the_sum_and_for_nobody_else() -> None:
    state = closed(Feeds(SWARM))
    member = Member()
    assert member.due(state) is None
    assert isinstance(member.waits.judge(state, make_void(state), 0.0), Wait)
    member.is_stuck = True
    assert member.due(state) == make_void(state)
    assert isinstance(member.waits.judge(state, make_void(state), 0.0), Valid)

"""One member's part in a round of gossip: whom it waits for, what it says, what it blends."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec
import pytest
from msgspec.structs import replace

from swarm.gossip_round import GossipRound
from swarm.ledger import entry as e
from swarm.ledger.exchange import Exchange, Own
from swarm.ledger.state import Closed, Committed, Placed, State, genesis, make_close
from swarm.machine import Blend, Digest, Mix, Mixed, NodeId, Report, Train, Trained
from swarm.round import Action, Fetch, Say
from swarm.terms import Terms
from tests.builders import CODE, contribution, digest, make_swarm
from topologies.world.clock import EPOCH_S

PATIENCE_S = 8.0
SWARM = make_swarm(4, rounds=3, schedule="ring", patience_ms=int(1000 * PATIENCE_S), deadline_ms=600_000)
NODES = [who.node for who in SWARM.identities]
ME = NODES[0]
INITIAL = SWARM.charter.task.initial_model
NOW = EPOCH_S


class Ring:
    """Everybody's partners are its neighbours on a ring; a third each, and what is not exchanged for oneself."""

    def partners(self, terms: Terms, round_: int, node: NodeId) -> tuple[NodeId, ...]:
        at = NODES.index(node)
        return tuple(NODES[i] for i in sorted({(at - 1) % 4, (at + 1) % 4}))

    def targets(self, terms: Terms, round_: int, node: NodeId) -> tuple[NodeId, ...]:
        return (NODES[(NODES.index(node) + 1) % 4],)

    def shares(
        self, terms: Terms, round_: int, node: NodeId, weights: Mapping[NodeId, int], exchanged: Collection[NodeId]
    ) -> tuple[tuple[NodeId, float], ...]:
        row = dict.fromkeys(exchanged, 1 / 3) | {node: 1 - len(exchanged) / 3}
        return tuple((other, row[other]) for other in NODES if other in row)


class Seen:
    """What the others do, as this member sees it."""

    def __init__(self) -> None:
        self.problems: dict[Digest, bool] = {}
        self.arriving: set[Digest] = set()
        self.gone: set[NodeId] = set()

    def usable(self, digest: Digest) -> bool | None:
        return self.problems.get(digest)

    def moving(self, digest: Digest, now: float) -> bool:
        return digest in self.arriving

    def silent(self, node: NodeId, now: float) -> bool:
        return node in self.gone


class Desk:
    def __init__(self) -> None:
        self.seen = Seen()
        self.round = GossipRound(
            SWARM.charter, ME, code_digest=CODE, data_digest=bytes(32), plan=Ring(), witness=self.seen
        )
        self.state: State = replace(genesis(SWARM.signed), opened_ms=int(NOW * 1000))
        self.mine: list[msgspec.Struct] = []
        self.held: set[Digest] = {Digest(INITIAL)}

    def place(self, *authors: int, number: int = 1) -> None:
        """Put the contributions of these members into the log."""
        for author in authors:
            base = INITIAL if number == 1 else digest(f"own {author}")
            body = contribution(SWARM, author, number=number, base=base)
            at = len(self.state.contributions) + 10
            placed = Placed(at, NODES[author], body)
            self.state = replace(
                self.state, contributions={**self.state.contributions, (number, NODES[author]): placed}
            )

    def update(self, author: int) -> Digest:
        return Digest(self.state.contributions[self.state.round, NODES[author]].body.update_digest)

    def arrive(self, *authors: int, good: bool = True) -> None:
        for author in authors:
            self.held.add(self.update(author))
            self.seen.problems[self.update(author)] = good

    def receipts(self, **held: Sequence[int]) -> None:
        """Let members, by "n0" to "n3", have said that they hold those of others."""
        found = {
            NODES[int(name[1:])]: tuple(
                sorted(self.state.contributions[self.state.round, NODES[other]].index for other in others)
            )
            for name, others in held.items()
        }
        assert self.state.exchange is not None
        self.state = replace(self.state, exchange=replace(self.state.exchange, receipts=found))

    def close(self, *authors: int) -> None:
        placed = [self.state.contributions[self.state.round, NODES[author]] for author in authors]
        body = make_close(self.state, placed, {})
        self.state = replace(self.state, close=Closed(99, body, tuple(placed), self.state.exchanging, 0))

    def go(self, now: float = NOW) -> list[Action]:
        return self.round.advance(self.state, self.mine, self.held.__contains__, now)


def receipts_in(actions: Sequence[Action]) -> list[tuple[int, ...]]:
    return [a.body.held for a in actions if isinstance(a, Say) and isinstance(a.body, e.Receipt)]


def fetched(actions: Sequence[Action]) -> set[Digest]:
    return {action.digest for action in actions if isinstance(action, Fetch)}


def test_it_trains_whole_models() -> None:
    assert Train(1, Digest(INITIAL), whole=True) in Desk().go()


def test_it_fetches_from_partners_alone() -> None:
    desk = Desk()
    desk.place(0, 1, 2, 3)
    desk.arrive(0)
    assert fetched(desk.go()) == {desk.update(1), desk.update(3)}

    def needed(author: int, number: int) -> bool:
        body = contribution(SWARM, author, number=number)
        return bool(desk.round.pieces(NODES[author], body, desk.state))

    assert needed(1, 1)
    assert not needed(2, 1)
    assert needed(2, 3), "the last round needs them all"


def test_a_receipt_waits_for_partners_and_for_nobody_else() -> None:
    desk = Desk()
    desk.place(0, 1)
    desk.arrive(0, 1)
    assert receipts_in(desk.go()) == []
    desk.place(3)
    assert receipts_in(desk.go()) == []
    desk.arrive(3)
    assert receipts_in(desk.go()) == [(11, 12)]


def test_a_receipt_is_said_once() -> None:
    desk = Desk()
    desk.place(0, 1, 3)
    desk.arrive(0, 1, 3)
    desk.mine = [e.Receipt(1, (11, 12))]
    assert receipts_in(desk.go()) == []
    desk.mine = []
    desk.receipts(n0=(1, 3))
    assert receipts_in(desk.go()) == []


def test_who_has_not_contributed_says_nothing() -> None:
    desk = Desk()
    desk.place(1, 3)
    desk.arrive(1, 3)
    assert receipts_in(desk.go()) == []


def test_a_partner_that_is_gone_is_not_waited_for() -> None:
    desk = Desk()
    desk.place(0, 1)
    desk.arrive(0, 1)
    desk.seen.gone.add(NODES[3])
    assert receipts_in(desk.go()) == [(11,)]


def test_bytes_that_do_not_come_are_given_up_after_the_charters_patience() -> None:
    desk = Desk()
    desk.place(0, 1, 3)
    desk.arrive(0, 1)
    assert receipts_in(desk.go(NOW)) == []
    assert desk.round.next_wake(NOW) == pytest.approx(NOW + PATIENCE_S)
    desk.seen.arriving.add(desk.update(3))
    assert receipts_in(desk.go(NOW + PATIENCE_S - 1)) == [], "some arrived"
    desk.seen.arriving.clear()
    assert receipts_in(desk.go(NOW + PATIENCE_S)) == []
    assert receipts_in(desk.go(NOW + 2 * PATIENCE_S - 1)) == [(11,)]


def test_bytes_of_a_partner_that_is_gone_are_given_up_at_once() -> None:
    desk = Desk()
    desk.place(0, 1, 3)
    desk.arrive(0, 1)
    desk.seen.gone.add(NODES[3])
    desk.seen.arriving.add(desk.update(3))
    assert receipts_in(desk.go()) == [], "unless they still come, from whoever else has them"
    desk.seen.arriving.clear()
    assert receipts_in(desk.go()) == [(11,)]


def test_nothing_is_waited_for_beyond_the_deadline() -> None:
    desk = Desk()
    desk.place(0, 1)
    desk.arrive(0, 1)
    assert receipts_in(desk.go(NOW)) == []
    assert receipts_in(desk.go(NOW + 599.0)) == []
    assert receipts_in(desk.go(NOW + 600.0)) == [(11,)]


def test_a_charter_of_long_ago_and_a_proposer_whose_clock_is_off_shorten_no_wait_for_a_partner() -> None:
    for hours in (-1000, 1000):
        desk = Desk()
        desk.state = replace(desk.state, opened_ms=desk.state.opened_ms + hours * 3_600_000)
        desk.place(0, 1)
        desk.arrive(0, 1)
        assert receipts_in(desk.go(NOW)) == []
        assert receipts_in(desk.go(NOW + 600.0)) == [(11,)]


def test_a_model_that_may_not_be_averaged_is_not_received() -> None:
    desk = Desk()
    desk.place(0, 1, 3)
    desk.arrive(0, 1)
    desk.arrive(3, good=False)
    assert receipts_in(desk.go()) == [(11,)]


def closed() -> Desk:
    desk = Desk()
    desk.place(0, 1, 2, 3)
    desk.arrive(0, 1, 3)
    desk.receipts(n0=(1, 3), n1=(0, 2), n3=(2,))
    desk.close(0, 1, 2, 3)
    return desk


def blends(actions: Sequence[Action]) -> list[Blend]:
    return [action for action in actions if isinstance(action, Blend)]


def test_it_blends_what_both_sides_received() -> None:
    desk = closed()
    (blend,) = blends(desk.go())
    assert blend.round == 1
    assert blend.terms == ((desk.update(0), 1 - 1 / 3), (desk.update(1), 1 / 3)), "site 3 did not say it holds ours"
    assert blends(desk.go()) == [], "once"


def test_what_a_crash_took_is_fetched_again() -> None:
    desk = closed()
    desk.held.remove(desk.update(1))
    actions = desk.go()
    assert blends(actions) == []
    assert desk.update(1) in fetched(actions)


def test_for_a_model_that_nobody_has_any_more_the_one_before_stands_in_after_the_deadline() -> None:
    desk = closed()
    desk.held.remove(desk.update(0))  # by a power cut, before any partner had it
    desk.seen.problems[desk.update(0)] = False
    assert desk.update(0) in fetched(desk.go())
    late = NOW + 600.0
    assert blends(desk.go(late - 1.0)) == [], "whoever has it may come back"
    actions = desk.go(late)
    assert [blend.terms for blend in blends(actions)] == [((Digest(INITIAL), 1 - 1 / 3), (desk.update(1), 1 / 3))]
    assert [one.event for one in actions if isinstance(one, Report)] == ["model_lost"]


def test_it_attests_with_a_sketch_and_trains_on_from_its_own_model() -> None:
    desk = closed()
    desk.go()
    own = Digest(digest("blended"))
    (say, told) = desk.round.mixed(Mixed(1, own, 128, sketch=b"s" * 1024), desk.state, NOW)
    assert say == Say(e.ATTEST, e.Attest(1, 99, own, 128, (), b"s" * 1024))
    assert isinstance(told, Report)
    desk.held.add(own)
    desk.mine = [say.body]
    assert Train(2, own, whole=True) in desk.go()


def test_a_blend_that_failed_is_tried_again() -> None:
    desk = closed()
    desk.go()
    (told,) = desk.round.mixed(Mixed(1, None, error="the disk is full"), desk.state, NOW)
    assert isinstance(told, Report)
    assert told.level == "error"
    assert blends(desk.go(NOW + 1)) == []
    assert len(blends(desk.go(NOW + 6))) == 1


def test_a_blend_that_ends_after_the_commit_is_attested_late() -> None:
    desk = closed()
    desk.go()
    committed = Committed(1, bytes(32), 0)
    desk.state = replace(desk.state, committed=committed, close=None, contributions={}, exchange=Exchange())
    assert not any(isinstance(action, Train) for action in desk.go()), "what it goes on from is about to be known"
    (say, _) = desk.round.mixed(Mixed(1, Digest(digest("late")), 128, sketch=b"s" * 1024), desk.state, NOW)
    assert isinstance(say, Say)
    assert isinstance(say.body, e.Attest)
    assert (say.body.round, say.body.close_index) == (1, 99)


def after_round_one(**models: int) -> Desk:
    desk = Desk()
    own = {NODES[int(name[1:])]: Own(number, digest(f"own {name[1:]}"), 128) for name, number in models.items()}
    desk.state = replace(
        desk.state, committed=Committed(1, bytes(32), 0), exchange=Exchange(models=own), contributions={}
    )
    desk.held |= {Digest(digest(f"own {i}")) for i in range(4)}
    return desk


def test_a_restart_goes_on_from_what_the_log_says_it_had() -> None:
    desk = after_round_one(n0=1, n1=1)
    assert Train(2, Digest(digest("own 0")), whole=True) in desk.go()


def test_who_was_away_goes_on_from_what_it_had_then() -> None:
    desk = after_round_one(n0=1, n1=2)
    desk.state = replace(desk.state, committed=Committed(2, bytes(32), 0))
    assert Train(3, Digest(digest("own 0")), whole=True) in desk.go()


def test_a_newcomer_begins_with_a_partners_model() -> None:
    desk = after_round_one(n2=1, n3=1)
    assert Train(2, Digest(digest("own 3")), whole=True) in desk.go()


def test_a_newcomer_without_such_partners_takes_anybodys() -> None:
    desk = after_round_one(n2=1)
    assert Train(2, Digest(digest("own 2")), whole=True) in desk.go()


def test_the_last_round_averages_whole_models() -> None:
    desk = after_round_one(n0=2, n1=2, n2=2, n3=2)
    desk.state = replace(desk.state, committed=Committed(2, bytes(32), 0))
    desk.place(0, 1, 2, 3, number=3)
    desk.arrive(0, 1, 2, 3)
    assert receipts_in(desk.go()) == []
    desk.close(0, 1, 2, 3)
    (mix,) = [action for action in desk.go() if isinstance(action, Mix)]
    assert mix == Mix(3, None, tuple((desk.update(i), 10) for i in range(4)))


def test_training_is_offered_as_ever() -> None:
    desk = Desk()
    desk.go()
    (say, _) = desk.round.trained(Trained(1, Digest(digest("half")), 128, 10), desk.state, [], NOW)
    assert isinstance(say, Say)
    assert isinstance(say.body, e.Contribution)
    assert (say.body.base_digest, say.body.update_digest) == (INITIAL, digest("half"))

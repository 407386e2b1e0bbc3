"""One member's part in rounds whose mean is computed in parts, and what the log makes of what members say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest
from msgspec.structs import replace

from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.state import (
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
from swarm.machine import AddUp, Digest, Divide, Join, Mixed, MixSlice, NodeId, Parted, Report
from swarm.round import Action, Fetch, Say
from swarm.routed_round import FoldRound, RoutedRound, ShardedRound
from swarm.routes import NORM_UNITS, slices_digest
from tests.builders import CODE, EPOCH_S, Feeds, Swarm, contribution, digest, make_swarm

NOW = EPOCH_S
ELEMENTS = 40
PATIENCE_S = 8.0
SHARDED = make_swarm(4, elements=ELEMENTS, route="sharded")
FOLD = make_swarm(4, elements=ELEMENTS, route="fold")
INITIAL = Digest(SHARDED.charter.task.initial_model)
MODEL = Digest(digest("the model"))


class Desk:
    """Member 0, the log it reads and what it holds. `usable` and `norms` are of single blobs."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm, self.feeds = swarm, Feeds(swarm)
        self.nodes = [who.node for who in swarm.identities]
        self.state = genesis(swarm.signed)
        self.now = NOW
        self.held: set[Digest] = {INITIAL}
        self.bad: set[Digest] = set()
        self.norms: dict[Digest, float] = {}
        self.arriving: set[Digest] = set()
        self.waiting: list[tuple[NodeId, e.Partial]] = []
        kind: type[RoutedRound] = ShardedRound if swarm.charter.cuts else FoldRound
        self.round = kind(swarm.charter, self.nodes[0], code_digest=CODE, data_digest=bytes(32), workshop=self)

    # What the round asks.

    def usable(self, digest: Digest) -> bool | None:
        return digest not in self.bad if digest in self.held else None

    def norm(self, digest: Digest) -> float:
        return self.norms.get(digest, 1.0)

    def moving(self, digest: Digest, now: float) -> bool:
        return digest in self.arriving

    def partials(self) -> Sequence[tuple[NodeId, e.Partial]]:
        return self.waiting

    # What happens.

    def offer(self, author: int) -> e.Contribution:
        body = contribution(self.swarm, author)
        if self.swarm.charter.cuts:
            slices = tuple((self.slice(author, k), 4 * (b - a)) for k, (a, b) in enumerate(self.swarm.charter.cuts))
            body = replace(body, slices=slices, update_digest=slices_digest(slices))
        return body

    def slice(self, author: int, number: int) -> Digest:
        return Digest(digest(f"slice {number} of {author}"))

    def write(self, author: int, body: msgspec.Struct) -> None:
        leaf = self.feeds.write(author, body)
        self.state = apply_authored(self.state, open_authored(self.state, e.decode_entry(leaf), leaf, Signatures()))

    def close(self, *authors: int) -> None:
        """Close the open round with these, all by default of those that have contributed."""
        placed = [p for p in self.state.contributions.values() if not authors or self.nodes.index(p.author) in authors]
        left_out = {p.index: e.UNAVAILABLE for p in self.state.contributions.values() if p not in placed}
        self.state = apply_derived(
            self.state, e.ROUND_CLOSE, make_close(self.state, placed, left_out), self.state.time_ms + 1
        )

    def contribute(self, *authors: int) -> None:
        for author in authors or range(4):
            self.write(author, self.offer(author))

    def says(self, author: int, number: int, name: str, *, norm: int = 5, ordered: bool = False) -> Digest:
        """A member says that it has computed a part; return the part."""
        close = self.state.close
        assert close is not None
        cuts = self.swarm.charter.cuts
        size = 4 * (cuts[number][1] - cuts[number][0]) if cuts else 8 * ELEMENTS
        norms = (norm,) * len(close.terms) if cuts else ()
        body = e.Partial(1, close.index, number, digest(name), size, norms)
        if ordered:
            self.write(author, body)
        else:
            self.waiting.append((self.nodes[author], body))
        return Digest(body.digest)

    def go(self) -> list[Action]:
        found = self.round.advance(self.state, self.mine(), self.held.__contains__, self.now)
        return [action for action in found if not isinstance(action, Report)]

    def mine(self) -> list[msgspec.Struct]:
        return [body for node, body in self.waiting if node == self.nodes[0]]

    def done(self, effect: MixSlice | AddUp, name: str) -> e.Partial | None:
        """The shell has made a part; return what the member says of it."""
        part = Digest(digest(name))
        self.held.add(part)
        actions = self.round.parted(Parted(effect.round, effect.close, effect.number, part, 40), self.state)
        bodies = [action.body for action in actions if isinstance(action, Say)]
        assert len(bodies) <= 1
        body = bodies[0] if bodies else None
        assert body is None or isinstance(body, e.Partial)
        if body is not None:
            self.waiting.append((self.nodes[0], body))
        return body


def of(kind: type[Action], actions: Sequence[Action]) -> list[Action]:
    return [action for action in actions if isinstance(action, kind)]


def fetched(actions: Sequence[Action]) -> set[Digest]:
    return {action.digest for action in actions if isinstance(action, Fetch)}


def contributed(swarm: Swarm) -> Desk:
    """A desk to which everybody has contributed."""
    desk = Desk(swarm)
    desk.contribute()
    return desk


@pytest.fixture
def sharded() -> Desk:
    return contributed(SHARDED)


@pytest.fixture
def fold() -> Desk:
    return contributed(FOLD)


def with_own_slices(desk: Desk) -> list[MixSlice]:
    """Member 0 averages slices 0 and 3: it owns them, and holds all of them."""
    desk.close()
    desk.held |= {desk.slice(author, number) for author in range(4) for number in (0, 3)}
    slices = of(MixSlice, desk.go())
    assert [one.number for one in slices] == [0, 3]  # type: ignore[union-attr]
    return slices  # type: ignore[return-value]


# --- sharded ----------------------------------------------------------------------------------------------------------


def test_an_owner_fetches_its_slices_and_no_others(sharded: Desk) -> None:
    wanted = {sharded.slice(author, number) for author in range(4) for number in (0, 3)}
    assert fetched(sharded.go()) == wanted, "before the close"
    sharded.close()
    assert fetched(sharded.go()) == wanted, "and after it"


def test_nothing_is_fetched_for_what_could_not_be_averaged() -> None:
    desk = Desk(SHARDED)
    slices = tuple((digest(f"nowhere {number}"), 40) for number in range(200))
    body = replace(desk.offer(1), slices=slices, update_digest=slices_digest(slices), update_bytes=200 * 40)
    assert desk.round.pieces(desk.nodes[1], body, desk.state) == ()
    assert desk.round.pieces(desk.nodes[1], desk.offer(1), desk.state)
    desk.write(1, body)
    assert fetched(desk.go()) == set()


def test_when_fewer_are_in_owners_are_others(sharded: Desk) -> None:
    sharded.close(0, 2)
    assert fetched(sharded.go()) == {sharded.slice(author, number) for author in (0, 2) for number in range(4)}


def test_an_average_is_of_the_slice_of_everybody_and_is_said_with_its_norms(sharded: Desk) -> None:
    bound = SHARDED.charter.clip_norm
    for author in range(4):
        sharded.norms[sharded.slice(author, 3)] = bound / 2
    first, last = with_own_slices(sharded)
    assert last.terms == tuple((sharded.slice(author, 3), 10) for author in range(4))
    assert last.elements == 10
    body = sharded.done(last, "average 3")
    assert body is not None
    assert (body.number, body.digest, body.norms) == (3, digest("average 3"), (NORM_UNITS // 4,) * 4)
    assert sharded.done(first, "average 0") is not None
    assert of(MixSlice, sharded.go()) == [], "each once"


@pytest.mark.parametrize("ordered", [True, False])
def test_a_slice_is_taken_once_both_owners_name_the_same(ordered: bool) -> None:
    desk = Desk(SHARDED)
    desk.contribute()
    with_own_slices(desk)
    part = desk.says(1, 1, "average 1", ordered=ordered)
    assert part not in fetched(desk.go()), "one word is not enough"
    desk.says(2, 1, "average 1", ordered=ordered)
    assert part in fetched(desk.go())
    assert not desk.round.stuck()


def all_said(desk: Desk, **more: int) -> None:
    for effect in with_own_slices(desk):
        desk.done(effect, f"average {effect.number}")
    desk.says(3, 3, "average 3")
    desk.says(1, 0, "average 0", **more)
    for author, number in ((1, 1), (2, 1), (2, 2), (3, 2)):
        desk.held.add(desk.says(author, number, f"average {number}"))


def test_all_slices_together_are_the_model(sharded: Desk) -> None:
    all_said(sharded)
    assert of(Join, sharded.go()) == [
        Join(1, INITIAL, tuple(Digest(digest(f"average {number}")) for number in range(4)))
    ]
    (say, _) = sharded.round.mixed(Mixed(1, MODEL, 160), sharded.state, sharded.now)
    assert isinstance(say, Say)
    assert isinstance(say.body, e.Attest)


def test_the_larger_word_on_a_norm_counts(sharded: Desk) -> None:
    all_said(sharded, norm=NORM_UNITS + 9000)
    assert of(Join, sharded.go()) == []
    assert sharded.round.stuck()


def test_different_words_stop_the_route(sharded: Desk) -> None:
    with_own_slices(sharded)
    sharded.says(1, 1, "average 1")
    sharded.says(2, 1, "another average 1")
    sharded.go()
    assert sharded.round.stuck()
    others = {sharded.slice(author, number) for author in range(4) for number in (1, 2)}
    assert fetched(sharded.go()) == others, "now it needs all"


def test_a_slice_that_may_not_be_averaged_stops_the_route(sharded: Desk) -> None:
    sharded.bad.add(sharded.slice(2, 0))
    sharded.close()
    sharded.held |= {sharded.slice(author, number) for author in range(4) for number in (0, 3)}
    assert [one.number for one in of(MixSlice, sharded.go())] == [3]  # type: ignore[union-attr]
    assert sharded.round.stuck()


def test_silence_for_as_long_as_the_charter_bears_stops_the_route(sharded: Desk) -> None:
    sharded.close()
    sharded.go()
    wake = sharded.round.next_wake(sharded.now)
    assert wake == NOW + PATIENCE_S
    sharded.now += PATIENCE_S / 2
    sharded.arriving.add(sharded.slice(1, 0))
    sharded.go()
    sharded.arriving.clear()
    sharded.now = wake
    sharded.go()
    assert not sharded.round.stuck(), "something moved in between"
    sharded.now += PATIENCE_S / 2
    actions = sharded.round.advance(sharded.state, [], sharded.held.__contains__, sharded.now)
    assert sharded.round.stuck()
    assert [action.event for action in actions if isinstance(action, Report)] == ["route_stuck"]


def test_closed_again_everybody_averages_everything(sharded: Desk) -> None:
    with_own_slices(sharded)
    sharded.close(0, 1, 2)
    assert sharded.state.close is not None
    assert sharded.state.close.body.attempt == 2
    sharded.held |= {sharded.slice(author, number) for author in range(3) for number in range(4)}
    slices = of(MixSlice, sharded.go())
    assert [(one.number, len(one.terms)) for one in slices] == [(n, 3) for n in range(4)]  # type: ignore[union-attr]
    for effect in slices:
        assert isinstance(effect, MixSlice)
        assert sharded.done(effect, f"average {effect.number}") is None, "nobody needs to hear of it"
    assert len(of(Join, sharded.go())) == 1


def test_what_was_made_for_the_first_close_is_not_taken_for_the_second(sharded: Desk) -> None:
    (first, _) = with_own_slices(sharded)
    sharded.close(0, 1, 2)
    again = of(MixSlice, sharded.go())
    assert [(one.number, len(one.terms)) for one in again] == [(0, 3), (3, 3)]  # type: ignore[union-attr]
    for effect in again:
        assert isinstance(effect, MixSlice)
        sharded.done(effect, f"average {effect.number} of three")
    sharded.held |= {sharded.slice(author, number) for author in range(3) for number in (1, 2)}
    for effect in of(MixSlice, sharded.go()):
        assert isinstance(effect, MixSlice)
        sharded.done(effect, f"average {effect.number} of three")
    assert sharded.done(first, "average 0 of four") is None
    parts = tuple(Digest(digest(f"average {number} of three")) for number in range(4))
    assert of(Join, sharded.go()) == [Join(1, INITIAL, parts)]


def test_a_model_that_was_put_together_before_the_second_close_is_not_attested(sharded: Desk) -> None:
    all_said(sharded)
    assert of(Join, sharded.go())
    sharded.waiting.clear()
    sharded.close(0, 1, 2)
    sharded.go()
    assert sharded.round.mixed(Mixed(1, MODEL, 160), sharded.state, sharded.now) == []


def test_after_a_crash_a_part_that_is_still_there_is_not_made_again(sharded: Desk) -> None:
    for effect in with_own_slices(sharded):
        sharded.done(effect, f"average {effect.number}")
    again = Desk(SHARDED)
    again.state, again.held, again.waiting = sharded.state, sharded.held, sharded.waiting
    assert of(MixSlice, again.go()) == []
    again = Desk(SHARDED)
    again.state, again.held, again.waiting = sharded.state, sharded.held - {digest("average 3")}, sharded.waiting
    (effect,) = of(MixSlice, again.go())
    assert isinstance(effect, MixSlice)
    assert effect.number == 3
    assert again.done(effect, "average 3") is None, "it has said so already"


# --- fold -------------------------------------------------------------------------------------------------------------


def test_a_fold_fetches_the_partners_update_and_adds_the_two(fold: Desk) -> None:
    own, other = (Digest(fold.offer(author).update_digest) for author in (0, 1))
    fold.close()
    assert fetched(fold.go()) == {own, other}
    fold.held |= {own, other}
    close = fold.state.close
    assert close is not None
    assert of(AddUp, fold.go()) == [AddUp(1, close.index, 1, ((own, 10), (other, 10)), ())]


def folded(fold: Desk) -> None:
    """Member 0 has its first sum."""
    fold.close()
    fold.held |= {Digest(fold.offer(author).update_digest) for author in (0, 1)}
    (effect,) = of(AddUp, fold.go())
    assert isinstance(effect, AddUp)
    assert fold.done(effect, "sum of 0 and 1") is not None


def test_a_sum_is_taken_once_its_whole_group_names_the_same(fold: Desk) -> None:
    folded(fold)
    part = fold.says(2, 1, "sum of 2 and 3")
    assert part not in fetched(fold.go())
    fold.says(3, 1, "sum of 2 and 3")
    assert part in fetched(fold.go())
    fold.held.add(part)
    (effect,) = of(AddUp, fold.go())
    assert isinstance(effect, AddUp)
    assert (effect.number, effect.sums) == (2, ((digest("sum of 0 and 1"), 20), (part, 20)))
    fold.done(effect, "sum of all")
    assert of(Divide, fold.go()) == [Divide(1, INITIAL, Digest(digest("sum of all")), 40)]


def test_a_group_that_disagrees_stops_the_fold(fold: Desk) -> None:
    folded(fold)
    fold.says(2, 1, "sum of 2 and 3")
    fold.says(3, 1, "another")
    fold.go()
    assert fold.round.stuck()
    assert fetched(fold.go()) == {fold.offer(author).update_digest for author in (2, 3)}


def test_a_part_that_cannot_be_made_stops_the_fold(fold: Desk) -> None:
    folded(fold)
    close = fold.state.close
    assert close is not None
    fold.round.parted(Parted(1, close.index, 2, None, error="its norm is over the bound"), fold.state)
    fold.go()
    assert fold.round.stuck()


# --- the log ----------------------------------------------------------------------------------------------------------


def test_a_round_on_its_route_may_be_closed_once_more_and_not_again(sharded: Desk) -> None:
    sharded.close()
    sharded.close(0, 1, 2)
    with pytest.raises(Reject, match="already closed"):
        check_close(sharded.state, make_close(sharded.state, list(sharded.state.contributions.values()), {}))


def test_without_a_route_a_round_is_closed_once() -> None:
    desk = Desk(SHARDED)
    plain = make_swarm(4, elements=ELEMENTS)
    desk.swarm, desk.feeds, desk.state = plain, Feeds(plain), genesis(plain.signed)
    desk.contribute()
    desk.close()
    with pytest.raises(Reject, match="already closed"):
        desk.close()


Change = Callable[[e.RoundClose], e.RoundClose]


@pytest.mark.parametrize("change", [lambda c: replace(c, attempt=2), lambda c: replace(c, attempt=0)])
def test_attempts_count_from_one(sharded: Desk, change: Change) -> None:
    close = make_close(sharded.state, list(sharded.state.contributions.values()), {})
    with pytest.raises(Reject, match="not what follows from the log"):
        check_close(sharded.state, change(close))


def attest(state: State) -> e.Attest:
    assert state.close is not None
    return e.Attest(1, state.close.index, MODEL, 160, (), b"")


def test_what_was_said_of_the_first_close_does_not_count_for_the_second(sharded: Desk) -> None:
    sharded.close()
    old = attest(sharded.state)
    for author in (0, 1):
        sharded.write(author, old)
    sharded.says(1, 1, "average 1", ordered=True)
    assert (len(sharded.state.attests), len(sharded.state.partials)) == (2, 1)
    sharded.close(0, 1, 2)
    assert (dict(sharded.state.attests), dict(sharded.state.partials)) == ({}, {})
    sharded.write(2, old)
    assert due_commit(sharded.state) is None
    for author in (0, 1, 3):
        sharded.write(author, attest(sharded.state))
    commit = due_commit(sharded.state)
    assert commit is not None
    assert (commit.attests, commit.samples) == (3, 30)


def test_the_first_word_on_a_part_counts(sharded: Desk) -> None:
    sharded.close()
    sharded.says(1, 1, "average 1", ordered=True)
    sharded.says(1, 1, "another", ordered=True)
    sharded.says(0, 1, "of nobody who owns it", ordered=True)
    assert {key: body.digest for key, body in sharded.state.partials.items()} == {
        (1, sharded.nodes[1]): digest("average 1")
    }


def test_an_update_that_is_not_named_by_its_slices_is_refused(sharded: Desk) -> None:
    body = replace(sharded.offer(0), attempt=2)
    for wrong in (
        replace(body, update_digest=digest("another")),
        replace(body, slices=body.slices[::-1]),
        replace(body, update_bytes=body.update_bytes + 1),
    ):
        with pytest.raises(Reject, match="slices"):
            open_authored(
                sharded.state,
                e.decode_entry(leaf := sharded.feeds.write(0, wrong, advance=False)),
                leaf,
                Signatures(),
            )

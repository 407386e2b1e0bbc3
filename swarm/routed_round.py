"""Rounds whose mean is computed in parts: on the sharded and the fold route (`swarm.routes`).

Up to the close a round goes as ever, but for what a member fetches: only what it will compute with. After the close
each computes its parts, says so in the log, and takes those of the others once all who computed a part have named the
same bytes. Whether that leads to a mean depends on everybody. So if words differ, an update turns out to be unusable or
nothing moves for the charter's patience, a member takes the route for stuck: it fetches everything, and a quorum that
sees it so closes the round again, to go by spread like any other; or, if too little of it is left anywhere, void.

Like its parent a routed round is level-triggered: what is in the log, in the feeds and in the store decides.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec
from typing_extensions import override

from swarm.charter import Charter
from swarm.ledger import entry as e
from swarm.ledger.partials import counts
from swarm.ledger.state import Closed, State
from swarm.machine import AddUp, Digest, Divide, Join, Mix, Mixed, MixSlice, NodeId, Parted, Report
from swarm.round import Action, Fetch, Model, Phase, Round, Say
from swarm.routes import Fold, norm_units, owners, within_bound

Words = Mapping[int, Mapping[NodeId, e.Partial]]
"""What members have said to have computed: part by part, member by member."""


class Workshop(Protocol):
    """What this member knows of parts and pieces, and the log does not say."""

    def usable(self, digest: Digest) -> bool | None:
        """Whether a piece of an update is held and fit to be averaged; None while it is not known."""
        ...

    def norm(self, digest: Digest) -> float:
        """Return the L2 norm of a piece that was found usable."""
        ...

    def moving(self, digest: Digest, now: float) -> bool:
        """Whether bytes of a blob are arriving."""
        ...

    def partials(self) -> Iterable[tuple[NodeId, e.Partial]]:
        """Return what members have said and the log does not have yet."""
        ...


class RoutedRound(Round):
    """What both routes have in common."""

    def __init__(
        self, charter: Charter, me: NodeId, *, code_digest: bytes, data_digest: bytes, workshop: Workshop
    ) -> None:
        super().__init__(charter, me, code_digest=code_digest, data_digest=data_digest)
        self._workshop = workshop
        self._begin(None)

    def _begin(self, close: int | None) -> None:
        """Forget what belonged to another closing of a round."""
        self._close = close
        self._made: dict[int, Model] = {}
        self._in_hand: set[int] = set()
        self._seen: tuple[int, ...] = ()
        self._still_since = 0.0
        self._patience_s = 0.0
        self._stuck = ""
        self._told = False
        self._missing: list[Digest] = []

    @override
    def advance(
        self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool], now: float
    ) -> list[Action]:
        index = None if state.close is None else state.close.index
        if index != self._close:
            self._begin(index)
        actions = super().advance(state, mine, holds, now)
        self._missing = [one.digest for one in actions if isinstance(one, Fetch)]
        return [*actions, *self._watch(state, now)]

    @override
    def watch(
        self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool], now: float
    ) -> list[Action]:
        return list(self._watch(state, now))

    @override
    def next_wake(self, now: float) -> float | None:
        wakes = [super().next_wake(now)]
        if self._close is not None and not self._stuck:
            wakes.append(self._still_since + self._patience_s)
        return min((wake for wake in wakes if wake is not None and wake > now), default=None)

    @override
    def stuck(self) -> bool:
        return bool(self._stuck)

    @override
    def keep(self, state: State) -> set[Digest]:
        parts = [*state.partials.values(), *(body for _, body in self._workshop.partials())]
        made = {model.digest for model in self._made.values()}
        return super().keep(state) | made | {Digest(body.digest) for body in parts}

    @override
    def pieces(self, author: NodeId, body: e.Contribution, state: State) -> tuple[tuple[Digest, int], ...]:
        at_hand = state.close is not None and state.destined(author, body) == state.round
        if at_hand and state.void:
            return ()
        spread = at_hand and (self._stuck or not state.on_route)
        whole = super().pieces(author, body, state)
        if spread or not whole:
            return whole
        nodes = [seat.node for seat in state.terms.members]
        if at_hand and state.close is not None:
            nodes = [placed.author for placed in state.close.terms]
        return self._needs(author, body, nodes)

    @override
    def mixed(self, event: Mixed, state: State, now: float) -> list[Action]:
        outdated, self._mixing_close = self._outdated(state.close), None
        if outdated:
            self._mixing = None
            return []
        if event.model is None and state.on_route:
            self._stuck = self._stuck or event.error
        return super().mixed(event, state, now)

    @override
    def parted(self, event: Parted, state: State) -> list[Action]:
        close = state.close
        if close is None or event.close != close.index:
            return []
        self._in_hand.discard(event.number)
        if event.part is None:
            self._stuck = self._stuck or f"part {event.number} couldn't be made: {event.error}"
            return []
        self._made[event.number] = Model(event.part, event.size)
        said = self._words(state, close).get(event.number, {})
        if not state.on_route or self._me in said:
            return []
        norms = self._norms(event.number, close)
        return [Say(e.PARTIAL, e.Partial(event.round, event.close, event.number, event.part, event.size, norms))]

    # --- what the routes differ in ------------------------------------------------------------------------------

    @abstractmethod
    def _needs(self, author: NodeId, body: e.Contribution, nodes: Sequence[NodeId]) -> tuple[tuple[Digest, int], ...]:
        """Return what this member computes with, of a contribution, when these are in the round."""

    @abstractmethod
    def _norms(self, number: int, close: Closed) -> tuple[int, ...]:
        """Return what this member says of the norms of what a part of its own is made of."""

    @abstractmethod
    def _parts(self, close: Closed, base: Model, words: Words, holds: Callable[[Digest], bool]) -> Iterator[Action]:
        """Compute what is this member's to compute; take the rest from the others, and put it together."""

    # --- parts --------------------------------------------------------------------------------------------------

    _mixing_close: int | None = None
    """The close whose model is being put together."""

    @override
    def _average(self, state: State, close: Closed, base: Model, holds: Callable[[Digest], bool]) -> Iterator[Action]:
        if self._whole(state, close):
            for action in super()._average(state, close, base, holds):
                self._mixing_close = close.index if isinstance(action, Mix) else None
                yield action
            return
        self.phase = Phase.MIXING
        words = self._words(state, close) if state.on_route else {}
        for action in self._parts(close, base, words, holds):
            if isinstance(action, (Join, Divide)):
                self._mixing, self._mixing_close = close.body.round, close.index
            yield action

    def _outdated(self, close: Closed | None) -> bool:
        """Whether the model that is being put together is of those who were in before the round was closed again."""
        begun = self._mixing_close
        return begun is not None and (close is None or begun != close.index)

    def _whole(self, state: State, close: Closed) -> bool:
        """Whether the mean is made of whole updates, as without a route."""
        del state, close
        return False

    def _words(self, state: State, close: Closed) -> dict[int, dict[NodeId, e.Partial]]:
        """Return what has been said of the parts of a round, in the log and on its way there."""
        nodes = [placed.author for placed in close.terms]
        words: dict[int, dict[NodeId, e.Partial]] = {}
        for (number, author), body in state.partials.items():
            words.setdefault(number, {})[author] = body
        for author, body in self._workshop.partials():
            if body.close_index == close.index and counts(self._charter, nodes, author, body):
                words.setdefault(body.number, {}).setdefault(author, body)
        return words

    def _agreed(self, said: Mapping[NodeId, e.Partial], who: Iterable[NodeId], what: str) -> e.Partial | None:
        """Return a part once all who computed it name the same bytes."""
        found = [said.get(node) for node in who]
        named = {body.digest for body in found if body is not None}
        if len(named) > 1:
            self._stuck = self._stuck or f"members name different bytes for {what}"
        return found[0] if found and None not in found and len(named) == 1 else None

    def _recovered(self, number: int, words: Words, holds: Callable[[Digest], bool]) -> bool:
        """Whether a part of this member's own is made: in this life or, if it is still there, before a crash."""
        said = words.get(number, {}).get(self._me)
        if number not in self._made and said is not None and holds(Digest(said.digest)):
            self._made[number] = Model(Digest(said.digest), said.size)
        return number in self._made

    def _ready(self, digests: Sequence[Digest], holds: Callable[[Digest], bool]) -> bool:
        """Whether pieces are here and fit to be computed with."""
        usable = [self._workshop.usable(digest) if holds(digest) else None for digest in digests]
        if False in usable:
            self._stuck = self._stuck or "an update in the round may not be averaged"
        return all(usable)

    def _watch(self, state: State, now: float) -> Iterator[Action]:
        """Notice when the charter's route leads nowhere."""
        close = state.close
        if close is None or not state.on_route:
            return
        words = self._words(state, close)
        said = sum(len(members) for members in words.values())
        seen = (said, len(state.attests), len(self._made), len(self._missing))
        self._patience_s = state.terms.round.patience_ms / 1000
        at_work = self._in_hand or self._mixing is not None
        if at_work or seen != self._seen or any(self._workshop.moving(digest, now) for digest in self._missing):
            self._seen, self._still_since = seen, now
        if now >= self._still_since + self._patience_s:
            self._stuck = self._stuck or f"nothing has moved for {self._patience_s:.0f} s"
        if self._stuck and not self._told:
            self._told = True
            assert self._charter.route is not None, "the round is on its route"
            text = f"round {state.round} gets no further on the {self._charter.route.name} route: {self._stuck}"
            yield Report("route_stuck", text, {"round": state.round}, level="warning")


class ShardedRound(RoutedRound):
    """Two owners average each slice; everybody puts the slices together."""

    @override
    def _needs(self, author: NodeId, body: e.Contribution, nodes: Sequence[NodeId]) -> tuple[tuple[Digest, int], ...]:
        if author not in nodes:
            return ()
        return tuple(
            (digest, size)
            for number, (digest, size) in enumerate(body.blobs)
            if self._me in self._owners(number, nodes)
        )

    def _owners(self, number: int, nodes: Sequence[NodeId]) -> tuple[NodeId, ...]:
        return owners(number, len(self._charter.cuts), nodes)

    @override
    def _norms(self, number: int, close: Closed) -> tuple[int, ...]:
        bound = self._charter.clip_norm
        return tuple(norm_units(self._workshop.norm(placed.body.blobs[number][0]), bound) for placed in close.terms)

    @override
    def _parts(self, close: Closed, base: Model, words: Words, holds: Callable[[Digest], bool]) -> Iterator[Action]:
        nodes = [placed.author for placed in close.terms]
        spread = close.body.attempt > 1
        parts: list[Digest] = []
        norms: list[list[int]] = [[] for _ in nodes]
        for number in range(len(self._charter.cuts)):
            who = self._owners(number, nodes)
            if spread or self._me in who:
                yield from self._slice(number, close, words, holds)
            if spread:
                parts += [self._made[number].digest] if number in self._made else []
                continue
            said = words.get(number, {})
            agreed = self._agreed(said, who, f"slice {number}")
            if agreed is None:
                continue
            for index, units in enumerate(norms):
                units.append(max(said[node].norms[index] for node in who))
            if holds(Digest(agreed.digest)):
                parts.append(Digest(agreed.digest))
            else:
                yield Fetch(Digest(agreed.digest), agreed.size, who)
        if len(parts) < len(self._charter.cuts):
            return
        if all(within_bound(units) for units in norms):
            yield Join(close.body.round, base.digest, tuple(parts))
        else:
            self._stuck = self._stuck or "an update's slices are together over the charter's bound"

    def _slice(self, number: int, close: Closed, words: Words, holds: Callable[[Digest], bool]) -> Iterator[Action]:
        if self._recovered(number, words, holds) or number in self._in_hand:
            return
        digests = [placed.body.blobs[number][0] for placed in close.terms]
        if self._ready(digests, holds):
            self._in_hand.add(number)
            weights = [weight for _, weight in close.body.included]
            terms = tuple(zip(digests, weights, strict=True))
            start, end = self._charter.cuts[number]
            yield MixSlice(close.body.round, close.index, number, end - start, terms, close.rest)


class FoldRound(RoutedRound):
    """Members pair up and add their sums, in as many steps as two is to be doubled to make them all."""

    @override
    def _needs(self, author: NodeId, body: e.Contribution, nodes: Sequence[NodeId]) -> tuple[tuple[Digest, int], ...]:
        fold = Fold(len(nodes))
        index = nodes.index(self._me) if self._me in nodes else fold.folded
        if author not in nodes or index >= fold.folded or not fold.steps:
            return () if fold.steps else body.blobs
        return body.blobs if nodes.index(author) in fold.covered(fold.group(index, 1)) else ()

    @override
    def _norms(self, number: int, close: Closed) -> tuple[int, ...]:
        return ()

    @override
    def _whole(self, state: State, close: Closed) -> bool:
        return not state.on_route or len(close.terms) == 1

    @override
    def _parts(self, close: Closed, base: Model, words: Words, holds: Callable[[Digest], bool]) -> Iterator[Action]:
        nodes = [placed.author for placed in close.terms]
        fold = Fold(len(nodes))
        index = nodes.index(self._me) if self._me in nodes else fold.folded
        if index < fold.folded:
            yield from self._sum(index, fold, close, words, holds)
            total = self._made.get(fold.steps)
        else:
            agreed = self._agreed(words.get(fold.steps, {}), nodes[: fold.folded], "the sum of all")
            total = None if agreed is None else Model(Digest(agreed.digest), agreed.size)
        if total is None:
            return
        if not holds(total.digest):
            yield Fetch(total.digest, total.size, tuple(nodes[: fold.folded]))
            return
        weight = close.rest + sum(weight for _, weight in close.body.included)
        yield Divide(close.body.round, base.digest, total.digest, weight)

    def _sum(
        self, index: int, fold: Fold, close: Closed, words: Words, holds: Callable[[Digest], bool]
    ) -> Iterator[Action]:
        """Make the next of this member's sums that can be made."""
        number = next((n for n in range(1, fold.steps + 1) if not self._recovered(n, words, holds)), None)
        if number is None or number in self._in_hand:
            return
        round_, weights = close.body.round, [weight for _, weight in close.body.included]
        if number == 1:
            members = fold.covered(fold.group(index, 1))
            updates = tuple((Digest(close.terms[i].body.update_digest), weights[i]) for i in members)
            if self._ready([digest for digest, _ in updates], holds):
                self._in_hand.add(number)
                yield AddUp(round_, close.index, number, updates, ())
            return
        mine, other = fold.group(index, number - 1), fold.other(index, number)
        who = [close.terms[i].author for i in other]
        theirs = self._agreed(words.get(number - 1, {}), who, f"a sum of {len(other)} at step {number - 1}")
        if theirs is None:
            return
        if not holds(Digest(theirs.digest)):
            yield Fetch(Digest(theirs.digest), theirs.size, tuple(who))
            return
        self._in_hand.add(number)
        sums = (
            (self._made[number - 1].digest, sum(weights[i] for i in fold.covered(mine))),
            (Digest(theirs.digest), sum(weights[i] for i in fold.covered(other))),
        )
        yield AddUp(round_, close.index, number, (), sums)

"""A round of gossip: train, offer one's model, exchange with the partners of the round, blend, attest.

D-PSGD with local steps (Lian et al. 2017, algorithm 1; Koloskova et al. 2020): x_i <- sum over j of A_ij (x_j + u_j),
with u_j what member j's local steps did to its model x_j and A the matrix of the round. Who has exchanged with whom is
agreed in the ledger before anybody blends (`swarm.ledger.exchange`); A follows from that, from the schedule and from
the sites' sample counts (`Plan`), or, where links go one way, from masses that the ledger keeps
(`swarm.ledger.pushing`). In the last round everybody's models are averaged into one, as in exact mixing, so
that a run ends with a common model.

Under a coarse codec (`Charter.follows`) what members exchange are public copies of their models, and messages say how
those move (`swarm.mixing.compress.choco`): x_i <- x_i + sum over j of A_ij (x_hat_j - x_hat_i), the charter's step
gamma being in A. A partner that has the copy a message starts from fetches the message and makes the next copy itself;
one that lacks it fetches the next copy whole. A member whose own copy is lost, or that has none, offers its model
whole.

Under gradient tracking (`Charter.tracks`, `swarm.mixing.diffusion`) each blend teaches a member a correction, which its
next steps take. It is kept beside the model that the blend made, and which of the two goes with which follows from the
log: the model that a member attested last, the round it was of, and the round from which on corrections count. So it
is learned once, however often a blend is made again. A member whose correction is gone says so, an entry of its own;
by that all begin again at zero, and until it is final it does not train.

Like its parent it is level-triggered and remembers nothing that the ledger, the feed or the store do not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec
from typing_extensions import override

from swarm.charter import Charter
from swarm.ledger import entry as e
from swarm.ledger.exchange import Due, Own, partners
from swarm.ledger.pushing import step
from swarm.ledger.replica import Witness
from swarm.ledger.state import Closed, Placed, State, masses, settled
from swarm.machine import Blend, Digest, Learn, Mix, Mixed, NodeId, Report, Train, Trained
from swarm.round import Action, Fetch, Model, Phase, Round, Say
from swarm.terms import Terms

MUCH_LESS_PPM = 500_000
"""Where a charter clips, a model of which less than half is taken is told of: somebody is far away, or lies."""


class Plan(Protocol):
    """Who exchanges with whom in a round, and what that does to their models."""

    def partners(self, terms: Terms, round_: int, node: NodeId) -> tuple[NodeId, ...]:
        """Return whose models a member takes in a round, in member order. Unless links go one way, they take its."""
        ...

    def targets(self, terms: Terms, round_: int, node: NodeId) -> tuple[NodeId, ...]:
        """Return who takes a member's model in a round, in member order."""
        ...

    def shares(
        self, terms: Terms, round_: int, node: NodeId, weights: Mapping[NodeId, int], exchanged: Collection[NodeId]
    ) -> tuple[tuple[NodeId, float], ...]:
        """Return a member's row of the round's matrix, in member order, its own share among them; they sum to 1.

        `weights` has the members in the round, by their close; `exchanged` those partners it has exchanged with.
        """
        ...


class Shelf(Witness, Protocol):
    """What this member knows, and which blobs it has."""

    def holds(self, digest: Digest) -> bool:
        """Whether a blob is here, complete."""
        ...


class GossipRound(Round):
    """One member's part in the rounds of a swarm that mixes by gossip."""

    def __init__(
        self, charter: Charter, me: NodeId, *, code_digest: bytes, data_digest: bytes, plan: Plan, witness: Shelf
    ) -> None:
        super().__init__(charter, me, code_digest=code_digest, data_digest=data_digest)
        self._plan, self._witness = plan, witness
        self._still_since: dict[Digest, float] = {}
        self._waited_since = 0, 0.0  # a round, and when its partners were first waited for
        self._blending: tuple[int, int] | None = None
        self._who: tuple[NodeId, ...] = ()
        self._wait_until: float | None = None
        self._despaired: set[Digest] = set()

    @override
    def advance(
        self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool], now: float
    ) -> list[Action]:
        self._wait_until = None
        self._despair(state, holds, now)
        actions = super().advance(state, mine, holds, now)
        return [*actions, *self._receipt(state, mine, now), *self._make_up(state, mine, holds, now)]

    @override
    def keep(self, state: State) -> set[Digest]:
        if state.exchange is None:
            return super().keep(state)
        near = (self._me, *self._plan.partners(state.terms, state.round, self._me))
        copies = {Digest(state.exchange.copies[node]) for node in near if node in state.exchange.copies}
        dues = {Digest(part.digest) for due in state.exchange.dues.values() for part in due.parts}
        return super().keep(state) | dues | copies

    @override
    def watch(
        self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool], now: float
    ) -> list[Action]:
        self._wait_until = None
        return [*self._receipt(state, mine, now), *self._make_up(state, mine, holds, now)]

    @override
    def next_wake(self, now: float) -> float | None:
        wakes = [super().next_wake(now), self._wait_until]
        return min((wake for wake in wakes if wake is not None and wake > now), default=None)

    @override
    def pieces(self, author: NodeId, body: e.Contribution, state: State) -> tuple[tuple[Digest, int], ...]:
        gossips = body.round < state.last
        if gossips and author not in self._plan.partners(state.terms, body.round, self._me):
            return ()
        needed = super().pieces(author, body, state)
        if not body.slices or not needed:
            return needed
        # A vote may have made this round the last one, of which whole models are the end: its author offers again.
        return self._steps(author, body, state) if gossips else ()

    def _steps(self, author: NodeId, body: e.Contribution, state: State) -> tuple[tuple[Digest, int], ...]:
        """Return what is needed of a contribution to have the author's public copy after it."""
        message, (before, _), after = body.blobs
        if self._witness.holds(after[0]):
            return ()
        return (message,) if self._will_hold(author, body.round, before, state) else (after,)

    def _will_hold(self, author: NodeId, round_: int, copy: Digest, state: State) -> bool:
        """Whether a public copy is here, or follows from the author's contribution to the round before."""
        if self._witness.holds(copy):
            return True
        earlier = state.contributions.get((round_ - 1, author))
        if earlier is None or not earlier.body.slices or earlier.body.offered[0] != copy:
            return False
        known = self._witness.usable(Digest(earlier.body.update_digest))
        return known is not False and self._witness.holds(earlier.body.blobs[1][0])

    @override
    def mixed(self, event: Mixed, state: State, now: float) -> list[Action]:
        blending, self._blending = self._blending, None
        if blending is None or blending[0] != event.round or event.model is None:
            return super().mixed(event, state, now)
        self._mixing = None
        round_, close_index = blending
        self._mixed[round_] = Model(event.model, event.size)
        due = None if state.exchange is None else state.exchange.dues.get(self._me)
        if round_ not in (state.round, state.committed.round) and (due is None or due.round != round_):
            return []  # The others are two rounds on: what this peer goes on from is what it attested last.
        values: dict[str, str | int | float | bool] = {"round": round_, "model": event.model.hex()}
        less = [
            f"{state.terms.name(node)} {scale / 10_000:.3g} %"
            for node, scale in zip(self._who, event.weights, strict=False)
            if scale < MUCH_LESS_PPM
        ]
        text = f"blended round {round_}"
        if less:
            text += f", taking less of models that were far away: {', '.join(less)}"
            values["clipped"] = ", ".join(less)
        body = e.Attest(round_, close_index, event.model, event.size, (), event.sketch)
        return [Say(e.ATTEST, body), Report("mixed", text, values)]

    @override
    def trained(self, event: Trained, state: State, mine: Sequence[msgspec.Struct], now: float) -> list[Action]:
        if not event.forgot:
            return super().trained(event, state, mine, now)
        if self._training is None or self._training[0] != event.round:
            return []
        self._training = None
        text = (
            "this site has lost what its rounds have taught it about its data, so all members begin to learn that anew"
        )
        said = [] if _begins_anew(mine) else [Say(e.ANNOTATION, e.Annotation(e.ANEW, event.round, event.round))]
        return [*said, Report("correction_lost", text, {"round": event.round}, level="warning")]

    # --- parts --------------------------------------------------------------------------------------------------

    @override
    def _learn_models(self, state: State, mine: Sequence[msgspec.Struct]) -> None:
        """After an exchange each member goes on from its own model, which the log has as it attested it."""
        done = state.committed
        if done.model_bytes:
            super()._learn_models(state, mine)
            return
        assert state.exchange is not None, "a swarm that gossips has its exchanges in its state"
        if self._blending is not None and self._blending[0] <= done.round:
            return  # The others were quicker; what this member goes on from is about to be known.
        if self._due(state, mine) is not None:
            return
        said = [body for body in mine if isinstance(body, e.Attest) and body.sketch and body.round <= done.round]
        own = state.exchange.models.get(self._me)
        if said:
            self._mixed[done.round] = Model(Digest(said[-1].model_digest), said[-1].model_bytes)
        elif own is not None:
            self._mixed[done.round] = Model(Digest(own.model), own.model_bytes)
        elif self._training is None:
            self._mixed[done.round] = self._adopted(state)
        self._forget_before(state)

    def _due(self, state: State, mine: Sequence[msgspec.Struct]) -> Due | None:
        """Return what this member has yet to make of a round that is over without it, if there is anything."""
        due = None if state.exchange is None else state.exchange.dues.get(self._me)
        said = due is not None and any(isinstance(body, e.Attest) and body.round == due.round for body in mine)
        return None if said else due

    def _make_up(
        self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool], now: float
    ) -> Iterator[Action]:
        """Blend a round that ended while this member was away or slow, by the same terms: the others have its model."""
        due = self._due(state, mine)
        if due is None or self._mixing is not None or now < self._mix_at:
            return
        assert state.exchange is not None, "somebody has looked"
        own = state.exchange.models.get(self._me)
        found: list[tuple[Digest, int]] = []
        for part in due.parts:
            digest = Digest(part.digest)
            if not holds(digest) and self._lost(state, digest, now) and own is not None:
                digest = Digest(own.model)  # It is nowhere any more: this member's own has to stand for it.
                if not holds(digest):
                    yield Fetch(digest, own.model_bytes, ())
            elif not holds(digest):
                yield Fetch(digest, part.size, (part.giver,))
            found.append((digest, part.amount))
        if all(holds(digest) for digest, _ in found):
            self._still_since.clear()
            self._mixing, self._blending = due.round, (due.round, due.close)
            self.phase = Phase.MIXING
            shares, rest = self._due_shares(state, due)
            terms = tuple((digest, share) for (digest, _), share in zip(found, shares, strict=True))
            weight = {part.giver: part.amount for part in due.parts}[self._me]
            # With another model in the place of one, or another row, what it would learn is not what the others did.
            whole = all(digest == part.digest for (digest, _), part in zip(found, due.parts, strict=True))
            learn = self._learns(state, weight) if whole and state.terms_of(due.epoch) is not None else None
            yield self._blend(state, due.round, terms, rest, [part.giver for part in due.parts], learn)

    def _due_shares(self, state: State, due: Due) -> tuple[list[float], float]:
        """Return how much of each part to take, and of what rounding took off this member's own model."""
        if due.before:
            held = sum(part.amount for part in due.parts)
            return [part.amount / held for part in due.parts], due.before / held
        terms = state.terms_of(due.epoch)
        weights = {part.giver: part.amount for part in due.parts}
        if terms is None:  # Too long ago to know who was to exchange with whom: its own model has to do.
            return [float(part.giver == self._me) for part in due.parts], 1.0
        row = dict(self._plan.shares(terms, due.round, self._me, weights, {*weights} - {self._me}))
        return [row.get(part.giver, 0.0) for part in due.parts], 1.0

    def _lost(self, state: State, digest: Digest, now: float) -> bool:
        """Whether a model has not moved for the charter's deadline: long enough for whoever has it to come back."""
        if self._witness.moving(digest, now):
            self._still_since[digest] = now
        until = self._still_since.setdefault(digest, now) + state.terms.round.deadline_ms / 1000
        self._wait_until = until if self._wait_until is None else min(until, self._wait_until)
        return now >= until

    def _adopted(self, state: State) -> Model:
        """Return what a member that has no model yet begins with: a partner's, or whose there is."""
        assert state.exchange is not None, "somebody has looked"
        models = state.exchange.models
        near = self._plan.partners(state.terms, state.round, self._me)
        found = next((models[node] for node in (*near, *sorted(models)) if node in models), None)
        if found is None:
            task = state.signed.charter
            return Model(Digest(task.task.initial_model), task.model_bytes)
        return Model(Digest(found.model), found.model_bytes)

    @override
    def _gather(self, state: State, holds: Callable[[Digest], bool]) -> Iterator[Action]:
        if not state.exchanging:
            yield from super()._gather(state, holds)
            return
        if state.close is None:
            for (_, author), placed in sorted(state.contributions.items()):
                for digest, size in self.pieces(author, placed.body, state):
                    if not holds(digest):
                        yield Fetch(digest, size, (author,))

    def _receipt(self, state: State, mine: Sequence[msgspec.Struct], now: float) -> Iterator[Action]:
        """Say which partners' models are here, once all are or there is nothing to wait for any more."""
        exchange = state.exchange
        if exchange is None or not state.exchanging or state.close is not None:
            return
        if (state.round, self._me) not in state.contributions or self._me in exchange.receipts:
            return
        if any(isinstance(body, e.Receipt | e.Push) and body.round == state.round for body in mine):
            return
        held: list[int] = []
        for node in self._plan.partners(state.terms, state.round, self._me):
            placed = state.contributions.get((state.round, node))
            if placed is None and not self._gone(state, node, now):
                return
            if placed is not None and state.starts_well(node, placed.body):
                usable = self._witness.usable(Digest(placed.body.update_digest))
                if usable is None and not self._in_vain(state, placed, now):
                    return
                if usable:
                    held.append(placed.index)
        self._still_since.clear()
        if self._charter.directed:
            targets = self._plan.targets(state.terms, state.round, self._me)
            yield Say(e.PUSH, e.Push(state.round, tuple(sorted(held)), tuple(sorted(targets))))
        else:
            yield Say(e.RECEIPT, e.Receipt(state.round, tuple(sorted(held))))

    def _gone(self, state: State, node: NodeId, now: float) -> bool:
        """Whether there is no point in waiting for a partner's model."""
        return self._overdue(state, now) or self._witness.silent(node, now)

    def _overdue(self, state: State, now: float) -> bool:
        """Whether partners have been waited for as long as the charter lets a round last, by this site's own clock.

        Not by the times of blocks and of the charter, for the reasons that `Replica._overdue` has.
        """
        if self._waited_since[0] != state.round:
            self._waited_since = state.round, now
        return now - self._waited_since[1] >= state.terms.round.deadline_ms / 1000

    def _in_vain(self, state: State, placed: Placed, now: float) -> bool:
        """Whether bytes that are announced have not moved for the charter's patience, or who has them is gone."""
        digest = Digest(placed.body.update_digest)
        if self._witness.moving(digest, now):
            self._still_since[digest] = now
        elif self._gone(state, placed.author, now):
            return True
        until = self._still_since.setdefault(digest, now) + state.terms.round.patience_ms / 1000
        self._wait_until = until if self._wait_until is None else min(until, self._wait_until)
        return now >= until

    @override
    def _mix(self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool]) -> Iterator[Action]:
        close = state.close
        if close is None or self._mixing is not None:
            return
        if not state.exchanging:
            yield from self._merge(state, mine, holds)
            return
        round_ = close.body.round
        if self._attested(state, close, mine):
            self._recall(round_, state, mine)
            return
        shares = self._row(state, close)
        if round_ in self._mixed or not shares:
            return
        placed, began = {term.author: term for term in close.terms}, self._mixed.get(round_ - 1)
        terms: list[tuple[Digest, float]] = []
        for node, share in shares:
            digest, size = placed[node].body.offered
            sources: tuple[NodeId, ...] = (node,)
            if digest in self._despaired and began is not None:
                digest, size, sources = began.digest, began.size, ()
            if not holds(digest):  # It was here, and a crash took it: the round waits for nobody else by now.
                yield Fetch(digest, size, sources)
            terms.append((digest, share))
        if not all(holds(digest) for digest, _ in terms):
            return
        self._mixing, self._blending = round_, (round_, close.index)
        self.phase = Phase.MIXING
        done = settled(state)
        rest = 1.0 if done is None else done.rest(self._me)
        weights = zip(close.terms, close.body.included, strict=True)
        weight = next(weight for term, (_, weight) in weights if term.author == self._me)
        # With another model in the place of one, what it would learn is not what the others did.
        learn = None if self._despaired else self._learns(state, weight)
        if self._despaired:
            text = (
                f"what this site was to blend in round {round_} is nowhere any more; the model it had before stands in"
            )
            yield Report("model_lost", text, {"round": round_}, level="warning")
        yield self._blend(state, round_, tuple(terms), rest, [node for node, _ in shares], learn)

    def _row(self, state: State, close: Closed) -> tuple[tuple[NodeId, float], ...]:
        """Return this member's row of the matrix of the open round; nothing where it has no part in it."""
        terms_then = state.terms_of(close.epoch)  # An epoch may have begun since, and others have blended before.
        if terms_then is None or all(term.author != self._me for term in close.terms):
            return ()
        done = settled(state)
        return self._shares(state, close, terms_then) if done is None else _in_order(done.row(self._me), close)

    def _despair(self, state: State, holds: Callable[[Digest], bool], now: float) -> None:
        """Find what nobody has any more of what this member is to blend.

        A power cut takes what was not synced, this member's own model among it, and where no partner had it yet it is
        gone. The model that this member began the round with then stands for it: the others wait for what it attests.
        """
        close = state.close
        if self._mixing is not None:
            return
        if close is None or not state.exchanging or close.body.round in self._mixed:
            self._despaired.clear()
            return
        placed = {term.author: term for term in close.terms}
        for node, _ in self._row(state, close):
            digest = placed[node].body.offered[0]
            if holds(digest):
                self._despaired.discard(digest)
            elif self._lost(state, digest, now):
                self._despaired.add(digest)

    def _learns(self, state: State, weight: int) -> Learn | None:
        """Return what a blend is to teach this member: it goes on from what it knew of the model it attested last."""
        if state.exchange is None or state.exchange.anew is None:
            return None
        own = state.exchange.models.get(self._me)
        if own is None or own.round < state.exchange.anew:
            return Learn(None, 0, weight, self._charter.correction.gain)
        return Learn(Digest(own.model), own.round, weight, self._charter.correction.gain)

    def _learned(self, model: Digest, state: State, mine: Sequence[msgspec.Struct]) -> int:
        """Return the round that has taught this member the correction of a model; 0 if it begins at zero with it."""
        if state.exchange is None or state.exchange.anew is None:
            return 0
        said = [Own(one.round, one.model_digest, one.model_bytes) for one in mine if isinstance(one, e.Attest)]
        own = state.exchange.models.get(self._me)
        rounds = [one.round for one in (own, *said) if one is not None and one.model == model]
        return max((round_ for round_ in rounds if round_ >= state.exchange.anew), default=0)

    def _blend(
        self,
        state: State,
        round_: int,
        terms: tuple[tuple[Digest, float], ...],
        rest: float,
        who: Sequence[NodeId],
        learn: Learn | None = None,
    ) -> Blend:
        """Blend these models, which `who` offered; remember whose they are, to say of whom less was taken."""
        self._who = tuple(who)
        seed = int.from_bytes(state.ledger_id[:8], "big")
        return Blend(round_, terms, seed, rest, self._charter.clip, who.index(self._me), learn)

    def _shares(self, state: State, close: Closed, terms: Terms) -> tuple[tuple[NodeId, float], ...]:
        """Return this member's row of the matrix of a round in which pairs exchange."""
        assert state.exchange is not None, "a swarm that gossips has its exchanges in its state"
        weights = {term.author: weight for term, (_, weight) in zip(close.terms, close.body.included, strict=True)}
        indices = {term.author: term.index for term in close.terms}
        exchanged = partners(self._me, indices, state.exchange.receipts)
        return self._plan.shares(terms, close.body.round, self._me, weights, exchanged)

    def _merge(self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool]) -> Iterator[Action]:
        """The last round: the mean of all models, the same bytes everywhere."""
        for action in super()._mix(state, mine, holds):
            yield Mix(action.round, None, action.terms) if isinstance(action, Mix) else action

    @override
    def _train(
        self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool], now: float
    ) -> Iterator[Action]:
        if self._charter.tracks and self._training is None and _begins_anew(mine):
            self.phase = Phase.WAITING
            return
        for action in super()._train(state, mine, holds, now):
            if not isinstance(action, Train):
                yield action
                continue
            copy = self._own_copy(action.round, state, holds)
            if copy is None and self._charter.follows and action.round < state.last:
                text = (
                    f"this site has no public copy that its model could move on from: round {action.round} goes whole"
                )
                yield Report("model_whole", text, {"round": action.round})
            yield Train(
                action.round,
                action.model,
                whole=True,
                step=step(masses(state).get(self._me)),
                copy=copy,
                learned=self._learned(action.model, state, mine),
            )

    def _own_copy(self, round_: int, state: State, holds: Callable[[Digest], bool]) -> Digest | None:
        """Return the public copy that a message to this round starts from; None if the model goes whole."""
        if state.exchange is None or round_ >= state.last:
            return None
        copy = state.exchange.copies.get(self._me)
        return Digest(copy) if copy is not None and holds(Digest(copy)) else None

    @override
    def _stands(self, offered: e.Contribution, state: State, holds: Callable[[Digest], bool]) -> bool:
        if not (self._charter.follows and offered.slices):
            return super()._stands(offered, state, holds)
        message, _, after = (digest for digest, _ in offered.blobs)
        return offered.round < state.last and holds(message) and holds(after)


def _begins_anew(mine: Sequence[msgspec.Struct]) -> bool:
    """Whether this member has said that it lost its correction, and that is not final yet."""
    return any(isinstance(body, e.Annotation) and body.code == e.ANEW for body in mine)


def _in_order(row: Mapping[NodeId, float], close: Closed) -> tuple[tuple[NodeId, float], ...]:
    return tuple((term.author, row[term.author]) for term in close.terms if term.author in row)

"""A round of gossip: train, offer one's model, exchange with the partners of the round, blend, attest.

D-PSGD with local steps (Lian et al. 2017, algorithm 1; Koloskova et al. 2020): x_i <- sum over j of A_ij (x_j + u_j),
with u_j what member j's local steps did to its model x_j and A the matrix of the round. Who has exchanged with whom is
agreed in the ledger before anybody blends (`swarm.ledger.exchange`); A follows from that, from the schedule and from
the sites' sample counts (`Plan`). In the last round everybody's models are averaged into one, as in exact mixing, so
that a run ends with a common model.

Like its parent it is level-triggered and remembers nothing that the ledger, the feed or the store do not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec
from typing_extensions import override

from swarm.charter import Charter
from swarm.ledger import entry as e
from swarm.ledger.exchange import partners
from swarm.ledger.replica import Witness
from swarm.ledger.state import Placed, State
from swarm.machine import Blend, Digest, Mix, Mixed, NodeId, Report, Train
from swarm.round import Action, Fetch, Model, Phase, Round, Say
from swarm.terms import Terms


class Plan(Protocol):
    """Who exchanges with whom in a round, and what that does to their models."""

    def partners(self, terms: Terms, round_: int, node: NodeId) -> tuple[NodeId, ...]:
        """Return whom a member exchanges with in a round, in member order. It is their partner as well."""
        ...

    def shares(
        self, terms: Terms, round_: int, node: NodeId, weights: Mapping[NodeId, int], exchanged: Collection[NodeId]
    ) -> tuple[tuple[NodeId, float], ...]:
        """Return a member's row of the round's matrix, in member order, its own share among them; they sum to 1.

        `weights` has the members in the round, by their close; `exchanged` those partners it has exchanged with.
        """
        ...


class GossipRound(Round):
    """One member's part in the rounds of a swarm that mixes by gossip."""

    def __init__(
        self, charter: Charter, me: NodeId, *, code_digest: bytes, data_digest: bytes, plan: Plan, witness: Witness
    ) -> None:
        super().__init__(charter, me, code_digest=code_digest, data_digest=data_digest)
        self._plan, self._witness = plan, witness
        self._still_since: dict[Digest, float] = {}
        self._blending: tuple[int, int] | None = None
        self._wait_until: float | None = None

    @override
    def advance(
        self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool], now: float
    ) -> list[Action]:
        return [*super().advance(state, mine, holds, now), *self._receipt(state, mine, now)]

    @override
    def watch(self, state: State, mine: Sequence[msgspec.Struct], now: float) -> list[Action]:
        return list(self._receipt(state, mine, now))

    @override
    def next_wake(self, now: float) -> float | None:
        wakes = [super().next_wake(now), self._wait_until]
        return min((wake for wake in wakes if wake is not None and wake > now), default=None)

    @override
    def wants(self, author: NodeId, round_: int, state: State) -> bool:
        if round_ >= state.terms.round.rounds:
            return super().wants(author, round_, state)
        return round_ >= state.round and author in self._plan.partners(state.terms, round_, self._me)

    @override
    def mixed(self, event: Mixed, state: State, now: float) -> list[Action]:
        blending, self._blending = self._blending, None
        if blending is None or blending[0] != event.round or event.model is None:
            return super().mixed(event, state, now)
        self._mixing = None
        round_, close_index = blending
        self._mixed[round_] = Model(event.model, event.size)
        if round_ not in (state.round, state.committed.round):
            return []  # The others are two rounds on: what this peer goes on from is what it attested last.
        values: dict[str, str | int | float | bool] = {"round": round_, "model": event.model.hex()}
        body = e.Attest(round_, close_index, event.model, event.size, (), event.sketch)
        return [Say(e.ATTEST, body), Report("mixed", f"blended round {round_}", values)]

    # --- parts --------------------------------------------------------------------------------------------------

    @override
    def _learn_models(self, state: State, mine: Sequence[msgspec.Struct]) -> None:
        """After an exchange each member goes on from its own model, which the log has as it attested it."""
        done = state.committed
        if done.model_bytes:
            super()._learn_models(state, mine)
            return
        assert state.exchange is not None, "a swarm that gossips has its exchanges in its state"
        if self._blending is not None and self._blending[0] == done.round:
            return  # The others were quicker; what this member goes on from is about to be known.
        said = [body for body in mine if isinstance(body, e.Attest) and body.sketch and body.round <= done.round]
        own = state.exchange.models.get(self._me)
        if said:
            self._mixed[done.round] = Model(Digest(said[-1].model_digest), said[-1].model_bytes)
        elif own is not None:
            self._mixed[done.round] = Model(Digest(own.model), own.model_bytes)
        elif self._training is None:
            self._mixed[done.round] = self._adopted(state)
        self._forget_before(state)

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
            for (round_, author), placed in sorted(state.contributions.items()):
                digest = Digest(placed.body.update_digest)
                if self.wants(author, round_, state) and not holds(digest):
                    yield Fetch(digest, placed.body.update_bytes, (author,))

    def _receipt(self, state: State, mine: Sequence[msgspec.Struct], now: float) -> Iterator[Action]:
        """Say which partners' models are here, once all are or there is nothing to wait for any more."""
        self._wait_until = None
        exchange = state.exchange
        if exchange is None or not state.exchanging or state.close is not None:
            return
        if (state.round, self._me) not in state.contributions or self._me in exchange.receipts:
            return
        if any(isinstance(body, e.Receipt) and body.round == state.round for body in mine):
            return
        held: list[int] = []
        for node in self._plan.partners(state.terms, state.round, self._me):
            placed = state.contributions.get((state.round, node))
            if placed is None and not self._gone(state, node, now):
                return
            if placed is not None and state.starts_well(node, placed.body.base_digest):
                usable = self._witness.usable(Digest(placed.body.update_digest))
                if usable is None and not self._in_vain(state, placed, now):
                    return
                if usable:
                    held.append(placed.index)
        self._still_since.clear()
        yield Say(e.RECEIPT, e.Receipt(state.round, tuple(sorted(held))))

    def _gone(self, state: State, node: NodeId, now: float) -> bool:
        """Whether there is no point in waiting for a partner's model."""
        late = now * 1000 >= state.opened_ms + state.terms.round.deadline_ms
        return late or self._witness.silent(node, now)

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
        placed = {term.author: term for term in close.terms}
        terms_then = state.terms_of(close.epoch)  # An epoch may have begun since, and others have blended before.
        if self._me not in placed or round_ in self._mixed or terms_then is None:
            return
        assert state.exchange is not None, "somebody has looked"
        weights = {term.author: weight for term, (_, weight) in zip(close.terms, close.body.included, strict=True)}
        indices = {author: term.index for author, term in placed.items()}
        exchanged = partners(self._me, indices, state.exchange.receipts)
        shares = self._plan.shares(terms_then, round_, self._me, weights, exchanged)
        terms = tuple((Digest(placed[node].body.update_digest), share) for node, share in shares)
        missing = [(node, digest) for (node, _), (digest, _) in zip(shares, terms, strict=True) if not holds(digest)]
        for node, digest in missing:  # It was here, and a crash took it: the round waits for nobody else by now.
            yield Fetch(digest, placed[node].body.update_bytes, (node,))
        if not missing:
            self._mixing, self._blending = round_, (round_, close.index)
            self.phase = Phase.MIXING
            yield Blend(round_, terms, int.from_bytes(state.ledger_id[:8], "big"))

    def _merge(self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool]) -> Iterator[Action]:
        """The last round: the mean of all models, the same bytes everywhere."""
        for action in super()._mix(state, mine, holds):
            yield Mix(action.round, None, action.terms) if isinstance(action, Mix) else action

    @override
    def _train(
        self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool], now: float
    ) -> Iterator[Action]:
        for action in super()._train(state, mine, holds, now):
            yield Train(action.round, action.model, whole=True) if isinstance(action, Train) else action

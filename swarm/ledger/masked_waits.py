"""How long a masked round waits, and for whom: what a member asks itself before it proposes to go on, or votes for it.

There are four waits, one after another, and each ends as others do (`docs/decisions/0039`):

- *keys*: as a round waits for contributions elsewhere, by silence, pace and deadline. Then there is a roster.
- *deals*: nobody masks before all of the roster have dealt, which is the work of a moment. Where nothing has come for
  the charter's patience, the attempt ends.
- *offers*: as for keys, but that the deadline begins with the roster. Then there is a close; if too few have offered
  for one, the attempt ends.
- *reveals*: while the sum can still be had, for which the round itself has the patience. Then the round is void.

Two members observe differently, so these are soft questions (decision 0006): the answers delay a vote, no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from swarm.ledger import entry as e
from swarm.ledger import masking as masked
from swarm.ledger.consensus import Invalid, Overtaken, Valid, Verdict, Wait
from swarm.ledger.masking import Masking, Rostered
from swarm.ledger.state import Placed, State, make_close, make_roster, make_void
from swarm.machine import Digest, NodeId

Step = e.RoundClose | e.MaskRoster
"""What takes a round on."""

GivenUp = Callable[[State, NodeId, "Placed | None", float, int], bool]
"""(state, member, its contribution, now, block time) -> whether a round may go on without the member."""


class MaskWitness(Protocol):
    """What this member knows and the log does not say."""

    def usable(self, digest: Digest) -> bool | None:
        """Whether a masked update is held; None while it is not."""
        ...

    def moving(self, digest: Digest, now: float) -> bool:
        """Whether bytes of it are arriving."""
        ...

    def silent(self, node: NodeId, now: float) -> bool:
        """Whether the member has made no progress for the charter's patience."""
        ...

    def stuck(self) -> bool:
        """Whether the sum of the closed round cannot be had any more."""
        ...

    def dealt(self, node: NodeId, digest: Digest) -> bool | None:
        """Whether a deal for the roster at hand has been read and is one; None while it has not been read."""
        ...


class MaskedWaits:
    """See the module. `given_up` is what rounds without masks ask of a member that has not contributed."""

    def __init__(self, witness: MaskWitness, given_up: GivenUp) -> None:
        self._witness, self._given_up = witness, given_up
        self._since: dict[tuple[int, ...], float] = {}  # (round, ...): when this member first saw it come so far

    def due(self, state: State, now: float, time_ms: int) -> Step | None:
        """Return what takes the open round on, if as far as this member knows that is due in a block of this time."""
        masking = state.masking
        assert masking is not None, "asked where updates are masked"
        if state.complete or state.void:
            return None
        if state.close is not None:
            return make_void(state) if self._witness.stuck() else None
        roster = masking.roster
        if roster is None:
            return None if self._awaited_keys(state, masking, now, time_ms) else make_roster(state)
        unusable = self._undealt(masking, roster)
        if unusable is not None:
            if not self._out_of_patience(state, masking, now):
                return None
            return masked.make_ending(masking, state.round, state.offered, unusable)
        included, away = self._offers(state, roster)
        if any(self._expected(state, masking, node, now) for node in away):
            return None
        rejected = {placed.index: e.UNAVAILABLE for placed in away.values() if placed is not None}
        if len(included) >= state.included_min(roster):
            return make_close(state, included, rejected)
        return masked.make_ending(masking, state.round, state.offered, rejected)

    def judge(self, state: State, step: Step, now: float) -> Verdict:
        """Say whether to vote for what takes a round on from `state`. What the log can tell has been checked."""
        masking = state.masking
        assert masking is not None, "asked where updates are masked"
        if isinstance(step, e.RoundClose):
            return self._judge_void() if state.close is not None else self._judge_close(state, masking, step, now)
        if masking.roster is not None:
            return self._judge_ending(state, masking, masking.roster, step, now)
        awaited = self._awaited_keys(state, masking, now, state.time_ms)
        return Wait(f"{_name(state, awaited)} is still making progress", progressing=False) if awaited else Valid()

    # --- parts ------------------------------------------------------------------------------------------------------

    def _awaited_keys(self, state: State, masking: Masking, now: float, time_ms: int) -> NodeId | None:
        """Return a member whose keys are waited for."""
        without = (seat.node for seat in state.terms.members if seat.node not in {*masking.keys, *masking.barred})
        return next((node for node in without if not self._given_up(state, node, None, now, time_ms)), None)

    def _undealt(self, masking: Masking, roster: Rostered) -> dict[int, int] | None:
        """Return which deals are of no use, and why, while not all are in; None once they are."""
        found = {}
        for node, dealt in masking.deals.items():
            known = self._witness.dealt(node, Digest(dealt.body.digest))
            if not known:
                found[dealt.index] = e.UNAVAILABLE if known is None else e.UNUSABLE
        return None if len(masking.deals) == len(roster.terms) and not found else found

    def _offers(self, state: State, roster: Rostered) -> tuple[list[Placed], dict[NodeId, Placed | None]]:
        """Return the masked updates that are here, and whose are not, with the contribution if there is one."""
        included: list[Placed] = []
        away: dict[NodeId, Placed | None] = {}
        for keyed in roster.terms:
            placed = state.contributions.get((state.round, keyed.author))
            if placed is not None and self._held(placed):
                included.append(placed)
            else:
                away[keyed.author] = placed
        return included, away

    def _held(self, placed: Placed) -> bool:
        return self._witness.usable(Digest(placed.body.update_digest)) is True

    def _expected(self, state: State, masking: Masking, node: NodeId, now: float) -> bool:
        """Whether the masked update of a member of the roster is waited for."""
        if now >= self._begun(state, masking, now) + state.terms.round.deadline_ms / 1000:
            return False
        placed = state.contributions.get((state.round, node))
        if placed is not None and self._witness.moving(Digest(placed.body.update_digest), now):
            return True
        return not self._witness.silent(node, now)

    def _begun(self, state: State, masking: Masking, now: float) -> float:
        """Return when this member first saw the roster at hand."""
        return self._first(state, (masking.attempt,), now)

    def _out_of_patience(self, state: State, masking: Masking, now: float) -> bool:
        """Whether no further deal has come for the charter's patience."""
        read = [self._witness.dealt(node, Digest(one.body.digest)) for node, one in masking.deals.items()]
        since = self._first(state, (masking.attempt, len(read), read.count(True)), now)
        return now >= since + state.terms.round.patience_ms / 1000

    def _first(self, state: State, mark: tuple[int, ...], now: float) -> float:
        key = (state.round, *mark)
        if key not in self._since:
            self._since = {known: at for known, at in self._since.items() if known[0] >= state.round - 1}
            self._since[key] = now
        return self._since[key]

    def _judge_close(self, state: State, masking: Masking, close: e.RoundClose, now: float) -> Verdict:
        """Vote for a sum only holding all of it, and all deals: then it can be had, and its masks taken off."""
        roster = masking.roster
        assert roster is not None, "what the log can tell has been checked"
        unusable = self._undealt(masking, roster)
        if unusable is not None:
            return Wait("a deal of shares has not arrived", progressing=e.UNUSABLE not in unusable.values())
        named = {index for index, _ in close.included}
        for keyed in roster.terms:
            node, placed = keyed.author, state.contributions.get((state.round, keyed.author))
            here = placed is not None and self._held(placed)
            if placed is not None and placed.index in named:
                if not here:
                    moving = self._witness.moving(Digest(placed.body.update_digest), now)
                    return Wait(f"the masked update of {_name(state, node)} has not arrived", progressing=moving)
            elif here:
                return Overtaken(f"the masked update of {_name(state, node)} is here after all")
            elif self._expected(state, masking, node, now):
                return Wait(f"{_name(state, node)} is still making progress", progressing=False)
        return Valid()

    def _judge_ending(
        self, state: State, masking: Masking, roster: Rostered, step: e.MaskRoster, now: float
    ) -> Verdict:
        """An attempt ends when it seems stuck to a quorum, and by what nobody finds usable."""
        unusable, named = self._undealt(masking, roster), dict(step.rejected)
        if unusable is not None:
            dealt = {dealt.index: node for node, dealt in masking.deals.items()}
            for index in named:
                if index in dealt and index not in unusable:
                    return Overtaken(f"the deal of {_name(state, dealt[index])} is here after all")
            if not self._out_of_patience(state, masking, now):
                return Wait("shares may still be dealt", progressing=False)
            return Valid()
        included, away = self._offers(state, roster)
        if any(placed.index in named for placed in included):
            return Overtaken("a masked update is here after all")
        if len(included) >= state.included_min(roster):
            return Invalid("enough have offered for a sum")
        awaited = next((node for node in away if self._expected(state, masking, node, now)), None)
        return Wait(f"{_name(state, awaited)} is still making progress", progressing=False) if awaited else Valid()

    def _judge_void(self) -> Verdict:
        if self._witness.stuck():
            return Valid()
        return Wait("the sum may still be had", progressing=False)


def _name(state: State, node: NodeId) -> str:
    index = state.terms.index(node)
    return node.hex()[:8] if index is None else state.terms.members[index].name

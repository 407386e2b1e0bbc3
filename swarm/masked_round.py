"""Rounds in which updates travel masked: of them nobody learns more than the sum (`swarm.masking`, decision 0039).

Up to the end of training a round goes as ever. What was trained stays here: this member posts keys, and once the log
has a roster with it on it deals its secrets in shares, masks its update when everybody has dealt, and offers that. When
the close is final it reveals what the close asks for, and adds up what others have offered.

Like its parent this is level-triggered: the log, the feeds, the store and the record of the attempt decide. The record
is the one thing that must outlive the process and stands nowhere else. It is durable before anything is said that
follows from it (`Guard` before `Say`), and gone with the round. With it are the drafts, contributions as they will be
offered but for the mask, so that a process that starts again need not train again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import msgspec
from typing_extensions import override

from swarm import codec
from swarm.charter import Charter
from swarm.errors import LedgerError, Reject, SwarmError, UsageError
from swarm.ledger import entry as e
from swarm.ledger import masking as log
from swarm.ledger.masking import Masking
from swarm.ledger.state import Closed, State
from swarm.machine import (
    Adopt,
    BlobRead,
    Deposit,
    Digest,
    Forget,
    Guard,
    Masked,
    MaskUpdate,
    Mixed,
    NodeId,
    ReadBlob,
    Report,
    RingForm,
    Trained,
    Unmask,
    Worn,
)
from swarm.masking.attempt import Attempt
from swarm.masking.keys import Occasion
from swarm.masking.masks import Mask
from swarm.masking.statements import Close, Deal, Keys, Reveal, Roster, read_deal
from swarm.masking.unmasking import Unmasking
from swarm.round import RETRY_S, Action, Fetch, Model, Phase, Round, Say
from swarm.vector import blob_digest, leaf_hashes

KEPT_VERSION = 1
KEPT_BYTES_MAX = 16_384
"""Largest record: an attempt, and the contributions to two rounds with all metrics that there may be."""

DRAFTS_MAX = 2
"""One that is masked, and one for the next round, for which training may have begun."""


class Kept(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a process leaves to the next: an attempt's record, empty if there is none, and drafts by round.

    `work` is the round of the draft that the attempt is for.
    """

    version: int
    attempt: bytes
    work: int
    drafts: tuple[e.Contribution, ...]


def read_kept(data: bytes) -> tuple[Attempt | None, int, tuple[e.Contribution, ...]]:
    """Return what was kept: attempt, round of its work, drafts. Raises `Reject` for what cannot have been."""
    kept = codec.decode(data, Kept, limit=KEPT_BYTES_MAX)
    rounds = [draft.round for draft in kept.drafts]
    if kept.version != KEPT_VERSION or len(rounds) > DRAFTS_MAX or sorted({*rounds}) != rounds:
        raise Reject("couldn't read what was kept of a masked round: its version is unknown, or a field out of order")
    return (Attempt.from_bytes(kept.attempt) if kept.attempt else None), kept.work, kept.drafts


class MaskWorkshop(Protocol):
    """What this member knows, and the log does not say."""

    def deals(self) -> Iterable[tuple[NodeId, e.MaskDeal]]:
        """Return the deals that members have named and the log does not have yet."""
        ...

    def reveals(self) -> Iterable[tuple[NodeId, Reveal]]:
        """Return what members have revealed and the log does not have yet."""
        ...

    def quorate(self, now: float) -> bool:
        """Whether enough members are there for anything to become final."""
        ...


class MaskedRound(Round):
    """One member's part. `draw` returns 32 bytes from the system's source of randomness."""

    def __init__(
        self,
        charter: Charter,
        me: NodeId,
        *,
        code_digest: bytes,
        data_digest: bytes,
        workshop: MaskWorkshop,
        draw: Callable[[], bytes],
    ) -> None:
        super().__init__(charter, me, code_digest=code_digest, data_digest=data_digest)
        self._workshop, self._draw = workshop, draw
        self._attempt: Attempt | None = None
        self._work = 0  # the round for which that was trained that the attempt is for
        self._drafts: dict[int, e.Contribution] = {}
        self._kept = b""
        self._begin(None, None)

    def _begin(self, index: int | None, roster: Roster | None) -> None:
        """Forget what belonged to another roster."""
        self._roster_index, self._roster = index, roster
        self._own_deal = b""
        self._read_at = 0.0
        self._named: dict[NodeId, e.MaskDeal] = {}
        self._read: dict[NodeId, Deal | None] = {}
        self._reading: set[Digest] = set()
        self._masking_update = False
        self._sits_out = ""
        self._begin_sum(None)

    def _begin_sum(self, close: int | None) -> None:
        """Forget what belonged to another close."""
        self._close = close
        self._mask_at = 0.0
        self._unmasking: Unmasking | None = None
        self._taken: set[NodeId] = set()
        self._impossible = ""
        self._lacks = False
        self._seen: tuple[int, ...] = ()
        self._still_since = 0.0
        self._patience_s = 0.0
        self._stuck = False

    # --- the seam -----------------------------------------------------------------------------------------------

    @override
    def advance(
        self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool], now: float
    ) -> list[Action]:
        actions = [*self._follow(state), *self._masks(state, mine, holds, now)]
        actions += super().advance(state, mine, holds, now)
        return [*actions, *self._watch(state, now)]

    @override
    def watch(
        self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool], now: float
    ) -> list[Action]:
        return list(self._watch(state, now))

    @override
    def next_wake(self, now: float) -> float | None:
        wakes = [super().next_wake(now), self._mask_at, self._read_at]
        if self._lacks:
            wakes.append(self._still_since + self._patience_s)
        return min((wake for wake in wakes if wake is not None and wake > now), default=None)

    @override
    def stuck(self) -> bool:
        return self._stuck

    @override
    def dealt(self, node: NodeId, digest: Digest) -> bool | None:
        named = self._named.get(node)
        if named is None or named.digest != digest or node not in self._read:
            return None
        return self._read[node] is not None

    @override
    def keep(self, state: State) -> set[Digest]:
        dealt = () if state.masking is None else state.masking.deals.values()
        kept = super().keep(state) | {Digest(one.body.digest) for one in dealt}
        kept |= {Digest(body.digest) for body in self._named.values()}
        if self._own_deal:
            kept.add(_digest(self._own_deal))
        if self._attempt is not None and self._attempt.offered is not None:
            kept.add(self._attempt.offered)
        return kept

    @override
    def pieces(self, author: NodeId, body: e.Contribution, state: State) -> tuple[tuple[Digest, int], ...]:
        masking = state.masking
        if masking is None or state.void or not self._charter.carries(body):
            return ()
        return body.blobs if log.offers(masking, state.round, state.bases, author, body) else ()

    @override
    def resume(self, guarded: bytes) -> list[Action]:
        if not guarded:
            return []
        try:
            self._attempt, self._work, drafts = read_kept(guarded)
        except Reject as reason:
            # Without it this site has no part in the attempt that it may have been in: others go on without it.
            return [Guard(b""), Report("mask_record", f"{reason.message}; it is removed", level="warning")]
        self._kept, self._drafts = guarded, {draft.round: draft for draft in drafts}
        return []

    # --- what happened ------------------------------------------------------------------------------------------

    @override
    def trained(self, event: Trained, state: State, mine: Sequence[msgspec.Struct], now: float) -> list[Action]:
        """What was trained is not offered yet: it is drafted."""
        actions: list[Action] = []
        for action in super().trained(event, state, mine, now):
            if isinstance(action, Say) and isinstance(action.body, e.Contribution):
                # At most two are of use: what is offered now, and what is trained while that is closed.
                old = [self._drafts.pop(n, None) for n in (event.round, *sorted(self._drafts)[: 1 - DRAFTS_MAX])]
                self._drafts[event.round] = action.body
                actions += self._let_go(old)
            else:
                actions.append(action)
        return actions

    @override
    def masked(self, event: Masked, state: State, now: float) -> list[Action]:
        self._masking_update = False
        attempt = self._attempt
        if (
            state.close is not None
            or attempt is None
            or (attempt.occasion.round, attempt.occasion.attempt) != (event.round, event.attempt)
        ):
            return []
        if event.masked is None:
            self._mask_at = now + RETRY_S
            again = self._drop(self._work) if event.lost else []
            what = "it is made again" if event.lost else f"trying again in {RETRY_S:.0f} s"
            text = f"couldn't mask the update of round {event.round}: {event.error} ({what})"
            return [*again, Report("mask_failed", text, {"round": event.round}, level="error")]
        if attempt.enrolled and attempt.offer(event.masked):
            self._mask_at = now + RETRY_S  # By then it is in the store, or has to be made once more.
            return [*self._remember(), Adopt(event.masked, event.size, self._work)]
        # Another update went under these masks before, and their difference would be that of the two.
        self._sits_out = "another update was offered with these masks before"
        return [Report("mask_sits_out", self._sat_out(event.round), {"round": event.round}, level="warning")]

    @override
    def blob_read(self, event: BlobRead, now: float) -> list[Action]:
        self._reading.discard(event.digest)
        roster, actions = self._roster, list[Action]()
        if roster is None or not event.data:
            self._read_at = now + RETRY_S
            return actions
        for node, body in self._named.items():
            place = roster.index(node)
            if body.digest != event.digest or node in self._read or place is None:
                continue
            try:
                self._read[node] = read_deal(event.data, roster, place)
                if self._attempt is not None and self._attempt.enrolled:
                    self._attempt.take_deal(node, event.data)
            except Reject as reason:
                self._read.setdefault(node, None)
                text = f"{reason.message} (by {node.hex()[:8]}, in round {roster.round})"
                actions.append(Report("deal_unusable", text, {"author": node.hex()}, level="warning"))
        return actions

    @override
    def mixed(self, event: Mixed, state: State, now: float) -> list[Action]:
        if state.close is None or self._mixing_close != state.close.index:
            self._mixing = self._mixing_close = None  # It was closed again, without anybody.
            return []
        self._mixing_close = None
        if event.model is None and event.void:
            self._mixing = None
            self._impossible = event.error
            return []
        return super().mixed(event, state, now)

    # --- the record -----------------------------------------------------------------------------------------------

    def _remember(self) -> list[Action]:
        """Have what must outlive this process kept, if that has changed: before anything is said that follows."""
        attempt = b"" if self._attempt is None else self._attempt.to_bytes()
        drafts = tuple(draft for _, draft in sorted(self._drafts.items()))
        data = codec.encode(Kept(KEPT_VERSION, attempt, self._work, drafts)) if attempt or drafts else b""
        if data == self._kept:
            return []
        self._kept = data
        return [Guard(data)]

    def _drop(self, round_: int) -> list[Action]:
        """Let go of what was trained for a round."""
        draft = self._drafts.pop(round_, None)
        return [] if draft is None else self._let_go([draft])

    def _let_go(self, old: Sequence[e.Contribution | None]) -> list[Action]:
        """Remember the drafts that are left, and have the bytes of old ones removed.

        Where nothing is learned any more, two rounds' drafts are the same bytes.
        """
        needed = {draft.update_digest for draft in self._drafts.values()}
        gone = [draft.update_digest for draft in old if draft is not None and draft.update_digest not in needed]
        return [*self._remember(), *(Forget((Digest(digest),)) for digest in gone)]

    def _follow(self, state: State) -> Iterator[Action]:
        """Let go of what is over: with the round its secrets, with an attempt that has ended those of that."""
        masking = state.masking
        assert masking is not None, "the charter asks for masks"
        attempt = self._attempt
        if attempt is not None:
            occasion = attempt.occasion
            if (occasion.round, occasion.attempt) < (state.round, masking.attempt) or state.complete:
                self._attempt = None
                if attempt.offered is not None and occasion.round < state.round:
                    # Whatever became of the round: those who hold enough shares may know a sum that it was in.
                    yield from self._drop(self._work)
                yield from self._remember()
        for old in [number for number in self._drafts if state.complete or not self._of_use(number, state)]:
            yield from self._drop(old)
        index = None if masking.roster is None else masking.roster.index
        if index != self._roster_index:
            self._begin(index, log.statement(masking, state.ledger_id, state.round, state.committed.model))
        close = None if state.close is None else state.close.index
        if close != self._close:
            self._begin_sum(close)

    def _of_use(self, number: int, state: State) -> bool:
        """Whether what was trained for a round can still be in a model."""
        if number > state.round:
            return True
        last = state.counted.get(self._me)
        done = 0 if last is None else last.round
        return number > done and (number == state.round or self._drafts[number].base_digest in state.bases)

    def _draft(self, state: State) -> e.Contribution | None:
        """Return what stands for this member in the open round: the latest that it has trained, late as it may be."""
        bases = state.bases
        found = [draft for number, draft in sorted(self._drafts.items()) if number <= state.round]
        return next((draft for draft in reversed(found) if draft.base_digest in bases), None)

    # --- step by step ---------------------------------------------------------------------------------------------

    def _masks(
        self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool], now: float
    ) -> Iterator[Action]:
        """Say, take in and compute whatever of this attempt is due and has not been."""
        masking, roster = state.masking, self._roster
        assert masking is not None, "the charter asks for masks"
        if state.complete or state.void:
            return
        if roster is None:
            if state.close is None:
                yield from self._post_keys(state, masking, mine)
            return
        yield from self._enrol(roster)
        if state.close is None:
            yield from self._deal(masking, mine, holds, roster)
        yield from self._gather_deals(masking, holds, roster, now)
        if state.close is None:
            yield from self._offer(state, masking, mine, holds, now)
        else:
            yield from self._unmask(state, masking, mine, state.close, roster)

    def _post_keys(self, state: State, masking: Masking, mine: Sequence[msgspec.Struct]) -> Iterator[Action]:
        """Post public keys for what was trained; again if what stands in the log are not those that are held here."""
        draft = self._draft(state) if self._attempt is None else self._drafts.get(self._work)
        if draft is None or self._me in masking.barred:
            return
        if self._attempt is None:
            self._work = draft.round
            self._attempt = Attempt(Occasion(state.ledger_id, state.round, masking.attempt), self._me, self._draw())
        occasion = self._attempt.occasion
        if (occasion.round, occasion.attempt) != (state.round, masking.attempt):
            return  # The ledger here is not as far as it was when these were made.
        standing = masking.keys.get(self._me)
        known = [standing.body] if standing is not None else []
        known += [body for body in mine if isinstance(body, Keys) and body.round == state.round]
        keys = Keys(state.round, masking.attempt, state.height, draft.base_digest, draft.samples, *self._attempt.keys)
        if not known or msgspec.structs.replace(known[-1], base_height=state.height) != keys:
            yield from self._remember()
            yield Say(e.MASK_KEYS, keys)

    def _enrol(self, roster: Roster) -> Iterator[Action]:
        """Take the roster, once; what this member deals follows from it."""
        attempt = self._attempt
        if attempt is None or attempt.enrolled or self._sits_out or roster.index(self._me) is None:
            return
        occasion = attempt.occasion
        if occasion != roster.occasion:
            return
        try:
            dealt = attempt.enrol(roster)
        except (Reject, UsageError, LedgerError) as error:
            yield self._sit_out(error, roster.round)
            return
        if dealt is not None:
            self._own_deal = codec.encode(dealt)
            yield from self._remember()

    def _deal(
        self, masking: Masking, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool], roster: Roster
    ) -> Iterator[Action]:
        """Put this member's deal where others find it, then name it."""
        index = self._roster_index
        if not self._own_deal or index is None:
            return
        digest = _digest(self._own_deal)
        if not holds(digest):
            yield Deposit(self._own_deal)
            return
        said = any(isinstance(body, e.MaskDeal) and body.roster == index for body in mine)
        if self._me not in masking.deals and not said:
            yield from self._remember()
            yield Say(e.MASK_DEAL, e.MaskDeal(roster.round, index, digest, len(self._own_deal)))

    def _gather_deals(
        self, masking: Masking, holds: Callable[[Digest], bool], roster: Roster, now: float
    ) -> Iterator[Action]:
        """Get what has been dealt, and read it: the first deal of each counts."""
        for node, dealt in masking.deals.items():
            if self._named.get(node) != dealt.body:  # In the log there is the first one.
                self._named[node] = dealt.body
                self._read.pop(node, None)
        for node, body in self._workshop.deals():
            if body.roster == self._roster_index and node not in self._named and roster.index(node) is not None:
                self._named[node] = body
        for node, body in self._named.items():
            digest = Digest(body.digest)
            if node in self._read or digest in self._reading:
                continue
            if holds(digest) and now < self._read_at:
                continue
            if holds(digest):
                self._reading.add(digest)
                yield ReadBlob(digest, body.size)
            else:
                yield Fetch(digest, body.size, (node,))

    def _offer(
        self,
        state: State,
        masking: Masking,
        mine: Sequence[msgspec.Struct],
        holds: Callable[[Digest], bool],
        now: float,
    ) -> Iterator[Action]:
        """Mask what was trained once everybody has dealt; name it once it is in the store."""
        attempt, draft, keyed = self._attempt, self._drafts.get(self._work), masking.seat(self._me)
        if attempt is not None and draft is None and attempt.offered is not None and not holds(attempt.offered):
            # A power cut took it, and what was trained: it cannot be masked again. Others may hold it and name it in a
            # close, for which this member, too, votes only holding all that is in it.
            yield Fetch(attempt.offered, self._charter.masked_bytes, ())
        if attempt is None or draft is None or keyed is None or self._sits_out:
            return
        if not attempt.enrolled or attempt.closed or attempt.missing():
            return
        if (draft.samples, draft.base_digest) != (keyed.body.samples, keyed.body.base_digest):
            self._sits_out = "what was trained is not what its keys were posted for"
            yield Report("mask_sits_out", self._sat_out(state.round), {"round": state.round}, level="warning")
            return
        offered = attempt.offered
        if offered is None or not holds(offered):
            if not self._masking_update and now >= self._mask_at:
                self._masking_update = True
                ring, worn, share = self._ring(state), _worn(attempt.masks()), state.share
                digest = Digest(draft.update_digest)
                noise = None if share is None else (attempt.noise_seed, share.deviation, share.norm_max)
                yield MaskUpdate(state.round, masking.attempt, digest, attempt.weight, ring, worn, noise)
            return
        late = state.bases.index(draft.base_digest)
        work, number = state.round - late, masking.attempt + late * log.LATE_ATTEMPT
        said = any(isinstance(body, e.Contribution) and body.update_digest == offered for body in mine)
        if (state.round, self._me) not in state.contributions and not said and self._attempts.get(work, 0) < number:
            yield from self._remember()
            body = msgspec.structs.replace(
                draft,
                round=work,
                attempt=number,
                update_digest=offered,
                update_bytes=self._charter.masked_bytes,
            )
            yield Say(e.CONTRIBUTION, body)

    def _unmask(
        self, state: State, masking: Masking, mine: Sequence[msgspec.Struct], close: Closed, roster: Roster
    ) -> Iterator[Action]:
        """Reveal what the close asks for, and put together what others have revealed."""
        deals = {roster.index(node): found for node, found in self._read.items() if found is not None}
        if len(deals) < len(roster.seats):
            return
        named = Close(close.index, tuple(placed.author for placed in close.terms))
        yield from self._reveal(masking, mine, named, state.round)
        if self._unmasking is None:
            held = {place: found for place, found in deals.items() if place is not None}
            self._unmasking = Unmasking(roster, named, held)
        said = dict(masking.reveals)
        for node, body in self._workshop.reveals():
            said.setdefault(node, body)
        for node in [node for node in roster.nodes if node in said and node not in self._taken]:
            self._taken.add(node)
            try:
                false = self._unmasking.take(node, said[node])
            except Reject:
                self._taken.discard(node)  # Of another close; it may say something for this one yet.
                continue
            if false:
                text = f"{node.hex()[:8]} has revealed shares in round {state.round} that nobody has dealt it"
                yield Report("reveal_false", text, {"author": node.hex(), "round": state.round}, level="warning")

    def _reveal(self, masking: Masking, mine: Sequence[msgspec.Struct], close: Close, round_: int) -> Iterator[Action]:
        attempt = self._attempt
        if attempt is None or not attempt.enrolled or attempt.missing() or self._sits_out:
            return
        if self._me in masking.reveals or any(isinstance(b, Reveal) and b.close == close.index for b in mine):
            return
        try:
            reveal = attempt.close(close)
        except (Reject, LedgerError) as error:
            yield self._sit_out(error, round_)
            return
        if reveal is not None:
            yield from self._remember()
            yield Say(e.MASK_REVEAL, reveal)

    @override
    def _average(self, state: State, close: Closed, base: Model, holds: Callable[[Digest], bool]) -> Iterator[Action]:
        """Take the masks off the sum, once enough has been revealed."""
        masks = None if self._unmasking is None else self._unmasking.masks()
        terms = tuple(Digest(placed.body.update_digest) for placed in close.terms)
        if masks is None or state.masking is None or self._impossible or not all(holds(digest) for digest in terms):
            return
        self._mixing, self._mixing_close = close.body.round, close.index
        self.phase = Phase.MIXING
        weight = sum(weight for _, weight in close.body.included)
        share = state.share
        norm_max = 0 if share is None else share.sum_norm_max(weight)
        yield Unmask(close.body.round, base.digest, terms, weight, self._ring(state), _worn(masks), norm_max)

    _mixing_close: int | None = None
    """The close whose sum is being unmasked."""

    def _watch(self, state: State, now: float) -> Iterator[Action]:
        """Notice when the sum of a closed round cannot be had: at once, or because nothing comes of it any more."""
        close, found = state.close, self._unmasking
        self._lacks = False
        if close is None or state.void:
            return
        lacking = "deals of shares are missing" if found is None else found.lacking()
        if found is not None and found.liars:
            self._impossible = self._impossible or lacking
        seen = (len(self._taken), len(self._read), len(state.attests))
        self._lacks, self._patience_s = bool(lacking), state.terms.round.patience_ms / 1000
        if not lacking or seen != self._seen or not self._workshop.quorate(now):
            self._seen, self._still_since = seen, now
        waited = bool(lacking) and now >= self._still_since + self._patience_s
        before, self._stuck = self._stuck, waited or bool(self._impossible)
        if self._stuck and not before:
            why = self._impossible or f"{lacking}, and nothing has come for {self._patience_s:.0f} s"
            text = f"no sum can be had of the masked updates of round {state.round}: {why}"
            yield Report("unmask_stuck", text, {"round": state.round}, level="warning")

    # --- as in other rounds -----------------------------------------------------------------------------------------

    @override
    def _offered(self, round_: int, state: State, mine: Sequence[msgspec.Struct]) -> e.Contribution | None:
        own = self._drafts.get(round_)
        if own is None and round_ == state.round + (state.close is not None):
            # Late work stands for a round in place of new work, unless it is in the one before.
            spent = self._work if self._attempt is not None and self._attempt.offered is not None else 0
            models = state.bases[: self._charter.staleness] if state.close is not None else state.bases
            late = (n for n, d in sorted(self._drafts.items()) if n < round_ and d.base_digest in models)
            own = next((self._drafts[n] for n in late if state.close is None or n != spent), None)
        return own or super()._offered(round_, state, mine)

    @override
    def _stands(self, offered: e.Contribution, state: State, holds: Callable[[Digest], bool]) -> bool:
        return True  # What was masked is masked again if its bytes are lost; what was trained, as `masked` finds.

    def _ring(self, state: State) -> RingForm:
        masking, share = state.masking, state.share
        assert masking is not None, "the charter asks for masks"
        assert masking.roster is not None, "somebody masks"
        ring = self._charter.ring(masking.roster.swarm) if share is None else share.ring
        return ring.bits, ring.fraction, ring.weight_total, ring.room

    def _sit_out(self, error: SwarmError, round_: int) -> Report:
        self._sits_out = error.message
        hint = f" ({error.hint})" if error.hint else ""
        level = "error" if isinstance(error, LedgerError) else "warning"
        return Report("mask_sits_out", f"{error.message}{hint}", {"round": round_}, level=level)

    def _sat_out(self, round_: int) -> str:
        return f"this site's update is not in round {round_}: {self._sits_out}"


def _digest(data: bytes) -> Digest:
    return blob_digest(len(data), leaf_hashes(data))


def _worn(masks: Iterable[Mask]) -> Worn:
    return tuple((mask.seed, mask.added) for mask in masks)

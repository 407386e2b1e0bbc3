"""SHELL. The gate between what this site has made and what the machine is told: whatever leaves goes through here.

The machine knows nothing of rules or people. It asks for a training and hears, late or early, that there is an update
or that there will be none. So all of this happens in the time between: an update that waits for its people is to the
machine, and to everybody else, a training that takes long, and the rounds' own rules about slow sites hold; one that is
refused is a round that this site does not train. A training whose update could not leave anyway is not begun.

Three moments, in this order, each written to the record before it happens (`node.egress.record`): a file becomes a blob
that others can fetch (`offered`, and where updates travel masked, `releasing`); people have let one out (`turn`); this
site says something on the ledger that its data went into (`saying`). The last is at the only place where entries become
durable, so no kind of entry is forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from node.clock import Clock
from node.egress import record as r
from node.egress.policy import EVERY, FIRST, LIMIT, Policy
from node.egress.waiting import Offer, Piece, Waiting
from node.masked import is_kept
from node.spending import RECORD, Rounds, Spending, lacking, lacking_words, stretches
from node.storage import BlobStore
from swarm.charter import SignedCharter
from swarm.errors import StoreError
from swarm.ledger import entry as e
from swarm.ledger.state import State
from swarm.machine import (
    RECORD_ENTRY,
    Adopt,
    Event,
    Mixed,
    NodeId,
    Parted,
    Record,
    Report,
    Stored,
    Train,
    Trained,
)
from swarm.masking.statements import Keys
from swarm.privacy.accounting import Budget, epsilon

Files: TypeAlias = tuple[tuple[Path, Stored], ...]

T = TypeVar("T")

RECENT = 4096
"""Own entries, blobs and approvals that are recognised if they come again, as after a crash or on a disk that was full:
those of some hundred rounds. All would be too many: a site may learn for a hundred thousand."""

NORMS = 2
"""Rounds of which the norm of an update is known that will leave masked: as many as are trained and not yet offered."""

UNAPPROVED = "its people have let nothing out for that round"


@dataclass(frozen=True, slots=True)
class Out:
    """An update that people have let out: `files` are to become blobs, and then the machine is to be told of it."""

    files: Files
    trained: Trained


class Recent(Generic[T]):
    """The last `RECENT` of what was added. What is older is not said, fetched or approved once more."""

    def __init__(self) -> None:
        self._kept: dict[T, None] = {}

    def add(self, one: T) -> None:
        """Remember it."""
        if one not in self._kept and len(self._kept) >= RECENT:
            del self._kept[next(iter(self._kept))]
        self._kept[one] = None

    def __contains__(self, one: T) -> bool:
        return one in self._kept

    def __bool__(self) -> bool:
        return bool(self._kept)


class Gate:
    """One site's. `state` gives the machine's newest final state; `tell` tells people.

    `private` reads in the ledger which rounds this site has trained privately: what `spending` lacks of them ends its
    training, where there is a `budget`. `min_cell` is this site's own smallest cell, as the machine has it.
    """

    def __init__(
        self,
        policy: Policy,
        record: r.Record,
        waiting: Waiting,
        store: BlobStore,
        signed: SignedCharter,
        me: NodeId,
        *,
        clock: Clock,
        state: Callable[[], State],
        tell: Callable[[Report], None],
        budget: Budget | None = None,
        spending: Spending | None = None,
        private: Rounds | None = None,
        min_cell: int = 0,
    ) -> None:
        self._policy, self._record, self._waiting, self._store = policy, record, waiting, store
        self._charter, self._me, self._clock, self._state, self._tell = signed.charter, me, clock, state, tell
        self._ledger = signed.ledger_id.hex()[:16]
        self._budget, self._spending, self._private, self._min_cell = budget, spending, private, min_cell
        self._out: set[tuple[str, int]] = set()  # of which an update has left, where their number has a limit
        self._approved, self._entries, self._released = Recent[int](), Recent[str](), Recent[str]()
        for line in record.each():
            self._recall(line)
        self._norms: dict[str, float] = {}  # of the update that left last, by the digest that others see
        self._unmasked: dict[int, float] = {}  # by round, of those that are still to be masked
        self._asked: Train | None = None  # what the machine waits for
        self._offer = self._found()
        self._due = False  # whether the machine waits for what waits

    def _recall(self, line: r.Line) -> None:
        if line.what == r.UPDATE:
            self._released.add(str(line.rest["digest"]))
            self._left(line.ledger, line.round)
        elif line.what in r.SAID:
            self._entries.add(str(line.rest["entry"]))
        elif line.what == r.APPROVED and line.ledger == self._ledger:
            self._approved.add(line.round)

    def _left(self, ledger: str, round_: int) -> None:
        """An update of that round leaves."""
        if self._policy.rounds:
            self._out.add((ledger, round_))

    # --- trainings ----------------------------------------------------------------------------------------------

    def refusal(self, asked: Train) -> Trained | None:
        """Return what the machine is told of a training whose update could not leave; None if it may be begun."""
        why = self._beyond(asked.round) or self._forgotten()
        if not why:
            return None
        self._note(r.REFUSED, asked.round, why=why)
        return self._none(asked.round, why)

    def resumes(self, asked: Train) -> bool:
        """Whether what this training would give is here already, and waits; else it has to be done."""
        self._asked = asked
        if self._offer is None:
            return False
        if not self._offer.answers(asked, self._ledger):
            if self._has_left(self._offer):
                self._forget()
            elif self._offer.round == asked.round:
                self._lapse("its round was to be trained from another model")
            else:
                self._lapse(f"this site had gone on to round {asked.round}")
            return False
        self._due = True
        self._say_waiting(self._offer)
        return True

    def rest(self) -> None:
        """The machine waits for nothing any more: this site rests. What people have to decide stays as it is."""
        self._asked, self._due = None, False

    # --- blobs --------------------------------------------------------------------------------------------------

    def offered(self, files: Files, event: Event, norm: float) -> Sequence[Event] | None:
        """Look at files that are about to become blobs, and the event that names them.

        Return None if they may, having written that down; else what the machine is told, the files being taken over.

        Raises:
            StoreError: it cannot be written down, so they must not.
        """
        match event:
            case Trained(update=update) if update is not None:
                return self._offered(files, event, norm)
            case Parted(part=part) if part is not None:
                self._note(r.PART, event.round, digest=part.hex(), bytes=event.size, to=self._to())
            case Mixed(model=model) if model is not None:
                self._note(r.MODEL, event.round, digest=model.hex(), bytes=event.size, to=self._to())
            case _:
                pass  # A failure, or what others have told, put together here.
        return None

    def _offered(self, files: Files, trained: Trained, norm: float) -> Sequence[Event] | None:
        why = self._beyond(trained.round) or self._excess(trained)
        if why:
            self._note(r.REFUSED, trained.round, why=why)
            _remove(files)
            return [self._none(trained.round, why)]
        if not self._held():
            self._let_out(trained, norm, fetched=bool(files))
            return None
        asked = self._asked
        if asked is None or asked.round != trained.round:
            _remove(files)  # It was under way when this site began to rest: the machine waits for it no more.
            return []
        offer = self._offer_of(files, trained, norm, asked)
        self._waiting.keep(offer, files)
        self._note(r.WAITING, offer.round, digest=offer.update, bytes=offer.size, norm=offer.norm)
        self._offer, self._due = offer, True
        self._say_waiting(offer)
        return []

    def releasing(self, effect: Adopt) -> None:
        """Write down that an update becomes a blob in its masked form. Raises `StoreError`: then it must not."""
        norm = self._unmasked.get(effect.round)
        digest = effect.digest.hex()
        if digest not in self._released:
            self._note_update(digest, effect.round, effect.size, norm)
        self._norms = {} if norm is None else {digest: norm}

    # --- people -------------------------------------------------------------------------------------------------

    def turn(self) -> Out | Trained | None:
        """Return what has become of the update that waits, once something has.

        Raises:
            StoreError: what people said cannot be carried out yet.
        """
        offer = self._offer
        if offer is None:
            return None
        if not self._due:
            if self._is_said(offer):
                self._forget()
            return None
        if not self._counts(offer.round):
            return self._lapse("its round closed without it")
        decision = self._waiting.decision()
        if decision is None:
            return None
        why = self._beyond(offer.round)
        if why or not decision.yes:
            words = why or f"its people did not let it out{f': {decision.reason}' if decision.reason else ''}"
            rest = {"why": why} if why else {"by": decision.by, "reason": decision.reason}
            self._note(r.REFUSED if why else r.REJECTED, offer.round, digest=offer.update, **rest)
            self._forget()
            return self._none(offer.round, words)
        if offer.round not in self._approved:
            self._note(r.APPROVED, offer.round, digest=offer.update, by=decision.by, reason=decision.reason)
            self._approved.add(offer.round)
        trained = offer.trained()
        self._let_out(trained, offer.norm, fetched=bool(offer.pieces))
        files = self._waiting.copies(offer, self._store)
        self._due = False
        self._tell(Report("approved", f"the update of round {offer.round} was let out by {decision.by}"))
        return Out(files, trained)

    def tells(self, round_: int) -> bool:
        """Whether scores of a round's model may be told: where people let updates out, not before they have."""
        match self._policy.approve:
            case policy if policy == EVERY:
                return round_ in self._approved
            case policy if policy == FIRST:
                return bool(self._approved)
            case _:
                return True

    @property
    def words(self) -> str:
        """What this site's people have to do, in words; empty if nothing."""
        if self._offer is None or not self._due:
            return ""
        return f"the update of round {self._offer.round} waits to be let out: `swarm approve` shows it"

    # --- entries ------------------------------------------------------------------------------------------------

    def saying(self, records: Sequence[Record]) -> None:
        """Write down what entries of this site's own tell, before they are durable. Raises `StoreError`."""
        for one in records:
            if one.kind == RECORD_ENTRY:
                self._say(e.decode_entry(one.payload))

    def _say(self, entry: e.Entry) -> None:
        if entry.author != self._me or entry.id.hex() in self._entries:
            return
        told = r.told_by(entry)
        if told is not None:
            word, body = told
            if isinstance(body, e.Contribution) and body.update_digest.hex() not in self._released:
                # Its bytes are here no more, as after a crash: what is said of them can be heard all the same.
                self._note_update(body.update_digest.hex(), body.round, body.update_bytes, None)
            rest = {"entry": entry.id.hex(), **self._told(body), "to": self._to()}
            self._note(word, body.round, seq=entry.seq, **rest)
            self._entries.add(entry.id.hex())

    def _told(self, body: r.Body) -> dict[str, object]:
        match body:
            case e.Contribution():
                digest = body.update_digest.hex()
                return {
                    "digest": digest,
                    "bytes": body.update_bytes,
                    "samples": body.samples,
                    "metrics": self._named(body.metrics),
                    **({"epsilon": body.privacy[0] / 1000, "delta_log10": -body.privacy[1]} if body.privacy[0] else {}),
                    **({"norm": self._norms[digest]} if digest in self._norms else {}),
                }
            case e.Evaluation():
                told = {"digest": body.model_digest.hex(), "samples": body.samples}
                return {**told, "metrics": self._named(body.metrics)}
            case e.Score():
                scores = [[index, score / e.METRIC_SCALE] for index, score, _ in body.scores]
                metric = self._charter.metrics[body.metric]
                return {"metric": metric, "samples": body.samples, "scores": scores}
            case e.Partial():
                return {"digest": body.digest.hex(), "bytes": body.size}
            case e.Attest():
                return {"bytes": len(body.sketch)}
            case Keys():
                return {"samples": body.samples}

    def _named(self, metrics: Sequence[tuple[int, int]]) -> dict[str, float]:
        return {self._charter.metrics[index]: value / e.METRIC_SCALE for index, value in metrics}

    # --- parts --------------------------------------------------------------------------------------------------

    def _has_left(self, offer: Offer) -> bool:
        """Whether others can have it; what leaves masked does so under another name, once people have let it out."""
        return offer.update in self._released or (not offer.pieces and offer.round in self._approved)

    def _found(self) -> Offer | None:
        """Return what has waited since before this process; what is of another swarm, or not whole, is let go of."""
        offer = self._waiting.offer()
        if offer is None:
            return None
        if offer.ledger == self._ledger and self._whole(offer):
            return offer
        if offer.ledger != self._ledger or not self._has_left(offer):
            self._note(r.LAPSED, offer.round, digest=offer.update, why="it is not whole, or of another swarm")
        self._waiting.clear()
        return None

    def _whole(self, offer: Offer) -> bool:
        """Whether every byte of what waits is here; of what will be masked they lie where masks are put on."""
        if offer.pieces:
            return self._waiting.whole(offer, self._store)
        update = offer.trained().update
        return update is not None and is_kept(self._store, update)

    def _held(self) -> bool:
        """Whether an update has to wait for people now."""
        match self._policy.approve:
            case policy if policy == EVERY:
                return True
            case policy if policy == FIRST:
                return not self._approved
            case _:
                return False

    def _beyond(self, round_: int) -> str:
        """Say why nothing may leave for a round, whatever it is; empty if something may."""
        policy = self._policy
        if policy.rounds and len(self._out | {(self._ledger, round_)}) > policy.rounds:
            return f"updates of {len(self._out)} rounds have left this site, which are all that may [{LIMIT}]"
        seats = [(seat.node, seat.name) for seat in self._state().terms.members]
        strangers = policy.strangers(seats, self._me)
        if strangers:
            return f"{', '.join(strangers)} would see this site's updates, and may not [{LIMIT}]"
        return ""

    def _forgotten(self) -> str:
        """Say why no training can be paid for; empty if one can, or if that has to be found out by its trainer."""
        if self._budget is None or self._spending is None or self._private is None:
            return ""
        try:
            told = self._private.until(self._state().height)
            missing = lacking(self._spending.charges(), self._ledger, told) if told else []
        except StoreError:
            return ""  # Whoever trains reads the record next, and says what is wrong with it.
        return f"{lacking_words(missing)} [{RECORD}]" if missing else ""

    def _excess(self, trained: Trained) -> str:
        """Say why an update may not leave; empty if it may."""
        policy = self._policy
        size = self._charter.masked_bytes if self._charter.masks else trained.size
        if policy.update_bytes and size > policy.update_bytes:
            return f"the update has {size} bytes, this site lets out {policy.update_bytes} [{LIMIT}]"
        if not (policy.noise or policy.epsilon_round):
            return ""
        charges = [] if self._spending is None else self._spending.charges()
        own = [one for one in charges if one.ledger == self._ledger and one.round == trained.round]
        if not own:
            return f"the update was not trained privately, and this site lets out no other [{LIMIT}]"
        noise = min(one.stretch.noise for one in own)
        if policy.noise and noise < policy.noise:
            return f"it was trained with noise {noise:g}, this site asks for {policy.noise:g} at least [{LIMIT}]"
        if policy.epsilon_round and self._budget is not None:
            cost = epsilon(stretches(own), self._budget.delta)
            if cost > policy.epsilon_round:
                told = (
                    f"epsilon {math.ceil(1000 * cost) / 1000:.3f}, this site lets out {policy.epsilon_round:g} a round"
                )
                return f"the round cost {told} [{LIMIT}]"
        return ""

    def _counts(self, round_: int) -> bool:
        """Whether anything could come of an update to this round now."""
        state = self._state()
        probe = e.Contribution(round_, 1, 0, b"", b"", 0, 0, (), (0, 0, 0), b"", b"")
        return round_ <= state.last and state.destined(self._me, probe) is not None

    def _is_said(self, offer: Offer) -> bool:
        """Whether the ledger has, or can have no more, what waits: then its copy here is of no use."""
        state = self._state()
        placed = state.contributions.get((offer.round, self._me))
        ordered = placed is not None and placed.body.update_digest.hex() == offer.update
        return ordered or (state.height > 0 and not self._counts(offer.round))

    def _offer_of(self, files: Files, trained: Trained, norm: float, asked: Train) -> Offer:
        assert trained.update is not None, "somebody has looked"
        metrics = {name: float(value) for name, value in trained.metrics.items() if math.isfinite(value)}
        shown = {name: value for name, value in metrics.items() if name in self._charter.metrics}
        return Offer(
            ledger=self._ledger,
            round=asked.round,
            model=asked.model.hex(),
            whole=asked.whole,
            step=asked.step,
            copy="" if asked.copy is None else asked.copy.hex(),
            update=trained.update.hex(),
            size=trained.size,
            samples=trained.samples,
            metrics=metrics,
            slices=tuple((digest.hex(), size) for digest, size in trained.slices),
            privacy=trained.privacy,
            pieces=tuple(
                Piece(one.digest.hex(), one.size, tuple(leaf.hex() for leaf in one.leaves)) for _, one in files
            ),
            norm=norm,
            told=shown if self._charter.tells_training(trained.samples, self._min_cell) else {},
            to=self._to(),
            made_ms=self._now_ms(),
        )

    def _let_out(self, trained: Trained, norm: float, *, fetched: bool) -> None:
        """Note that an update leaves. `fetched` is whether its bytes can be had now, and not later in another form."""
        assert trained.update is not None, "somebody has looked"
        digest = trained.update.hex()
        if not fetched:
            self._left(self._ledger, trained.round)
            self._unmasked = dict([*self._unmasked.items(), (trained.round, norm)][-NORMS:])
            return
        if digest in self._released:  # The same bytes leave again, as after a crash.
            self._left(self._ledger, trained.round)
        else:
            self._note_update(digest, trained.round, trained.size, norm)
        self._norms = {digest: norm}

    def _note_update(self, digest: str, round_: int, size: int, norm: float | None) -> None:
        """Note that these bytes leave, once."""
        rest = {} if norm is None else {"norm": norm}
        self._note(r.UPDATE, round_, digest=digest, bytes=size, **rest, to=self._to())
        self._left(self._ledger, round_)
        self._released.add(digest)

    def _lapse(self, why: str) -> Trained:
        assert self._offer is not None, "somebody has looked"
        offer = self._offer
        self._note(r.LAPSED, offer.round, digest=offer.update, why=why)
        self._forget()
        return self._none(offer.round, f"its update waited for this site's people until {why}")

    def _forget(self) -> None:
        self._offer, self._due = None, False
        self._waiting.clear()

    def _say_waiting(self, offer: Offer) -> None:
        text = f"the update of round {offer.round} waits for this site's people: `swarm approve` shows what would leave"
        self._tell(Report("approval_wanted", text, {"round": offer.round, "update": offer.update}, level="warning"))

    def _none(self, round_: int, why: str) -> Trained:
        return Trained(round_, None, error=why, refused=True)

    def _to(self) -> tuple[str, ...]:
        return tuple(seat.name for seat in self._state().terms.members if seat.node != self._me)

    def _now_ms(self) -> int:
        return int(self._clock.now() * 1000)

    def _note(self, what: str, round_: int, **rest: object) -> None:
        self._record.add(what, time_ms=self._now_ms(), ledger=self._ledger, round_=round_, **rest)


def _remove(files: Files) -> None:
    for path, _ in files:
        path.unlink(missing_ok=True)

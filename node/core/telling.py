"""What a node tells people: final blocks in words, and where everybody stands."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from gossip.peers import Peers
from gossip.protocol import REFUSED, version_text
from gossip.transfer import Transfer
from node.core.myself import Myself
from node.exchanges import percent
from swarm import codec
from swarm.ledger import entry as e
from swarm.ledger.block import Header
from swarm.ledger.evidence import describe
from swarm.ledger.exchange import partners
from swarm.ledger.participation import Participation, rounds_words
from swarm.ledger.replica import Replica
from swarm.ledger.state import settled
from swarm.machine import Digest, Effect, Mixed, NodeId, Report
from swarm.mixing.outliers import unlike
from swarm.round import phase_name

PACE_ROUNDS = 5
"""Rounds whose pace says how long the rest will take."""

LOOK = "this is for people to look into, and it is averaged as the charter says"

CLOSED_SHOWN = 8
"""Closed rounds a status remembers: rounds may pass faster than people ask."""


class Telling:
    """Words and figures; it decides nothing."""

    def __init__(self, who: Myself, replica: Replica, peers: Peers, transfer: Transfer) -> None:
        self._who, self._replica, self._peers, self._transfer = who, replica, peers, transfer
        self._names: dict[NodeId, str] = {}
        self._took_part = Participation()
        self._closed: dict[int, list[str]] = {}
        self._likeness: dict[str, object] | None = None
        self._committed_at: deque[float] = deque(maxlen=PACE_ROUNDS + 1)
        self.learn_names()

    def learn_names(self) -> None:
        """Remember what the members are called; who has left keeps its name."""
        self._names |= {seat.node: seat.name for seat in self._who.terms.members}

    def name(self, node: NodeId) -> str:
        """Return what people call a site."""
        return self._names.get(node) or ("this site" if node == self._who.node else node.hex()[:8])

    def read(self, header: Header, entries: Sequence[e.Entry]) -> None:
        """Take in a final block, of which nobody need be told: it names who offered what closes leave out."""
        self._took_part.note(header.first_index, entries)

    def tell(self, header: Header, entries: Sequence[e.Entry], now: float) -> list[Effect]:
        """Put what a new final block means into words."""
        effects: list[Effect] = []
        self.read(header, entries)
        for entry in entries:
            if entry.kind == e.ROUND_CLOSE:
                close = codec.decode(entry.body, e.RoundClose, limit=e.ENTRY_BYTES_MAX)
                waits = not self._replica.head.signed.charter.asynchronous
                without_whom = self._took_part.rounds[close.round].without if waits else ()
                missing = [self.name(node) for node in without_whom]
                why = self._rejections(close)
                self._took_part.forget(close.round)
                kept = {round_: self._closed[round_] for round_ in list(self._closed)[1 - CLOSED_SHOWN :]}
                self._closed = kept | {close.round: missing}
                named = [f"{name} ({why[name]})" if name in why else name for name in missing]
                without = f", without {', '.join(named)}" if missing else ""
                again = "again, to go by spread, " if close.attempt > 1 else ""
                text = (
                    f"round {close.round} closed {again}with {_sites(len(close.included))}{without}{self._late(close)}"
                )
                told: dict[str, str | int | float | bool] = {"round": close.round, "missing": ",".join(missing)}
                told["sites"] = len(close.included)
                told |= {"rejected": ",".join(f"{name}: {words}" for name, words in why.items())} if why else {}
                if not close.included:
                    text = f"round {close.round} is void: no mean could be had, and the model stays as it was"
                met = self._exchanged(close)
                if met is not None:
                    text += f"; this site exchanged with {', '.join(met) or 'nobody'}"
                    told["exchanged"] = ",".join(met)
                effects.append(Report("round_closed", text, told))
            elif entry.kind == e.MASK_ROSTER:
                effects.append(self._rostered(codec.decode(entry.body, e.MaskRoster, limit=e.ENTRY_BYTES_MAX)))
            elif entry.kind == e.EVIDENCE:
                evidence = codec.decode(entry.body, e.Evidence, limit=e.ENTRY_BYTES_MAX)
                text = f"on record, with proof: {describe(evidence, self.name)}"
                effects.append(Report("evidence", text, {"culprit": evidence.culprit.hex()}, level="error"))
            elif entry.kind == e.ANNOTATION:
                note = codec.decode(entry.body, e.Annotation, limit=e.ENTRY_BYTES_MAX)
                rounds = rounds_words(note.first, note.last)
                text = f"{self.name(NodeId(entry.author))} {e.ANNOTATIONS[note.code]}"
                if note.code == e.WITHDRAWAL:
                    text += f" of {rounds}: `swarm ledger lineage` shows which models hold it"
                which: dict[str, str | int | float | bool] = {"first": note.first, "last": note.last}
                event = "withdrawn" if note.code == e.WITHDRAWAL else "begun_anew"
                effects.append(Report(event, text, which, level="warning"))
            elif entry.kind == e.ROUND_COMMIT:
                commit = codec.decode(entry.body, e.RoundCommit, limit=e.ENTRY_BYTES_MAX)
                ended = f"with {commit.model_digest.hex()[:12]}"
                values: dict[str, str | int | float | bool] = {
                    "round": commit.round,
                    "model": commit.model_digest.hex(),
                    "height": header.height,
                }
                if not commit.model_bytes:
                    ended = f"with models of their own, at most {percent(commit.distance_max_ppm)} apart"
                    values |= {"model": "", "distance_max_ppm": commit.distance_max_ppm}
                text = f"round {commit.round} committed: {_sites(commit.attests)} {ended}"
                effects.append(Report("round_committed", text, values))
                self._committed_at.append(now)
        final = Report("block_final", f"block {header.height} is final", {"height": header.height}, level="debug")
        return [final, *effects]

    def _rostered(self, roster: e.MaskRoster) -> Report:
        """Say who masks with whom, or that they begin anew."""
        told: dict[str, str | int | float | bool] = {"round": roster.round, "attempt": roster.attempt}
        missing = ", ".join(self.name(NodeId(node)) for node in roster.missing)
        if roster.included:
            without = f", without {missing}" if missing else ""
            text = f"round {roster.round}: {_sites(len(roster.included))} mask their updates{without}"
            return Report("masks_agreed", text, told)
        why = f", kept waiting by {missing}" if missing else ", for what was said could not be used"
        text = f"round {roster.round}: attempt {roster.attempt} at masks ended{why}; the others begin anew"
        return Report("masks_ended", text, told, level="warning")

    def masks(self) -> dict[str, object] | None:
        """Return how far the open round has come with its masks; None where updates are not masked."""
        head = self._replica.head
        if head.masking is None:
            return None
        masking, roster = head.masking, head.masking.roster
        stage, done = "keys", len(masking.keys)
        if roster is not None:
            stage, done = ("deals", len(masking.deals)) if not head.offered else ("offers", len(head.offered))
        if head.close is not None:
            stage, done = "void" if head.void else "reveals", len(masking.reveals)
        of = len(head.terms.members) if roster is None else len(roster.terms)
        return {"round": head.round, "attempt": masking.attempt, "stage": stage, "done": done, "of": of}

    def _rejections(self, close: e.RoundClose) -> dict[str, str]:
        """Say by name why the newest close leaves out what it rejects; what an older one did is told no more."""
        head = self._replica.head
        if head.close is None or head.close.body != close:
            return {}
        authors = {placed.index: placed.author for placed in head.contributions.values()}
        return {self.name(authors[index]): e.REASONS[reason] for index, reason in close.rejected if index in authors}

    def _late(self, close: e.RoundClose) -> str:
        """Say whose work of earlier rounds is in a round, for the newest close."""
        closed = self._replica.head.close
        if closed is None or closed.body != close:
            return ""
        late = [(placed, close.round - placed.body.round) for placed in closed.terms]
        told = [f"of {self.name(placed.author)} for round {placed.body.round}" for placed, by in late if by]
        return f"; late work counts, {', '.join(told)}" if told else ""

    def _exchanged(self, close: e.RoundClose) -> list[str] | None:
        """Return with whom this site has exchanged models in a round of gossip, or whose it took; None in any other."""
        head = self._replica.head
        if head.close is None or head.close.body != close or not head.exchanging or head.exchange is None:
            return None
        done = settled(head)
        if done is not None:
            return sorted(self.name(node) for node in done.gifts.get(self._who.node, ()))
        included = {placed.author: placed.index for placed in head.close.terms}
        return sorted(self.name(node) for node in partners(self._who.node, included, head.exchange.receipts))

    def mixed(self, event: Mixed) -> list[Effect]:
        """Say which of the updates in a mean that this site has made are unlike the others, if any is."""
        close = self._replica.head.close
        if close is None or close.body.round != event.round or len(event.likeness) != len(close.terms):
            return []
        whole = sum(event.weights)
        rows: list[dict[str, object]] = []
        effects: list[Effect] = []
        found = zip(close.terms, event.likeness, unlike(event.likeness), strict=True)
        for place, (placed, (norm, cosine), words) in enumerate(found):
            name = self.name(placed.author)
            share = event.weights[place] / whole if whole else None
            rows.append({"name": name, "norm": norm, "cosine": cosine, "share": share, "unlike": words})
            if words:
                text = f"the update of {name} in round {event.round} is unlike the others: {words}"
                told: dict[str, str | int | float | bool] = {"round": event.round, "peer": name, "norm": norm}
                told |= {"cosine": cosine}
                effects.append(Report("unlike", f"{text}; {LOOK}", told, level="warning"))
        self._likeness = {"round": event.round, "sites": rows}
        return effects

    def likeness(self) -> dict[str, object] | None:
        """Return how the updates of the mean that this site made last compare; None before there is one."""
        return self._likeness

    def closed(self) -> list[dict[str, object]]:
        """Return the rounds that were closed last, and without whom."""
        return [{"round": round_, "without": missing} for round_, missing in self._closed.items()]

    def refused(self) -> str:
        """Say why this site takes no part, if it does not fit together with so many others that it cannot.

        A site that some do not fit with goes on with the rest; each member's own row tells of those.
        """
        terms, members = self._who.terms, self._peers.members
        apart = [node for node, member in members.items() if member.refused or member.refuses]
        left = sum(seat.node not in apart for seat in terms.members)
        if not apart or (left >= terms.quorum and any(member.welcome for member in members.values())):
            return ""
        first = members[apart[0]]
        names = ", ".join(members[node].name for node in apart)
        return f"this site does not fit together with {names}: {first.refused or first.refuses}"

    def paused(self, now: float) -> str:
        """Say why nothing can become final, if so."""
        terms = self._who.terms
        present = sum(not self._peers.absent(seat.node, now) for seat in terms.members)
        needed = max(terms.quorum, terms.round.min_contributions)
        if present >= needed:
            return ""
        return f"{present} of {len(terms.members)} sites present, {needed} needed"

    def eta_s(self) -> float | None:
        """Return the seconds that the remaining rounds will take at the pace of the last ones, if there is one."""
        head = self._replica.head
        if len(self._committed_at) < 2 or head.complete:
            return None
        pace = (self._committed_at[-1] - self._committed_at[0]) / (len(self._committed_at) - 1)
        return round(pace * (head.last - head.committed.round), 1)

    def member(self, node: NodeId, now: float) -> dict[str, object]:
        """Return where one member, or sponsor, stands."""
        member, head = self._peers.members[node], self._replica.head
        placed = head.contributions.get((head.round, node))
        received, sent = self._transfer.traffic(node)
        index = head.terms.index(node)
        trip = member.echo.round_trip if member.welcome else None
        return {
            "member": index is not None,
            "endpoint": "" if index is None else head.terms.members[index].endpoint,
            "name": member.name,
            "node": node.hex(),
            "me": node == self._who.node,
            "linked": member.welcome or node == self._who.node,
            "via": member.via if member.linked else "",
            "absent": self._peers.absent(node, now),
            "refused": member.refused or member.refuses,
            "trouble": "",
            "refused_id": member.identifier or (REFUSED if member.refuses else ""),
            "protocol": version_text(member.protocol) if member.software else "",
            "software": member.software,
            "rate_bytes_s": round(self._transfer.rate(node)),
            "round": member.round,
            "phase": phase_name(member.phase),
            "step": member.step,
            "steps": member.steps,
            "contributed": placed is not None,
            "update": None if placed is None else self._update_progress(placed.body),
            "holds": self._holds(node),
            "received_bytes": received,
            "sent_bytes": sent,
            "moved_s": round(now - member.moved_at, 1),
            "clock_offset_ms": member.clock_offset_ms,
            "round_trip_s": None if trip is None else round(trip.smoothed_s, 6),
            "round_trip_variation_s": None if trip is None else round(trip.variation_s, 6),
        }

    def _holds(self, node: NodeId) -> list[str] | None:
        """Return whose models a member says it holds in the open round of gossip; None while it has not said so."""
        head = self._replica.head
        receipt = None if head.exchange is None else head.exchange.receipts.get(node)
        if receipt is None:
            return None
        placed = (*head.contributions.values(), *(head.close.terms if head.close is not None else ()))
        authors = {one.index: self.name(one.author) for one in placed}
        return [authors[index] for index in receipt if index in authors]

    def _update_progress(self, body: e.Contribution) -> tuple[int, int] | None:
        """Return (bytes held, size) of an update; None of one that need not come, as in gossip from most."""
        digest, size = Digest(body.update_digest), body.update_bytes
        if self._replica.head.exchange is not None:
            digest, size = body.offered
        if self._transfer.has(digest):
            return size, size
        if self._replica.head.exchanging:  # Of a public copy's move comes the message, as a rule.
            return next((told for part, _ in body.blobs if (told := self._transfer.progress(part)) is not None), None)
        return self._transfer.progress(digest) or (0, size)


def blame(peers: Peers, sender: NodeId, text: str, now: float) -> Report:
    """Charge a peer for what it sent, and say so."""
    peers.fault(sender, now)
    name = peers.members[sender].name
    return Report("peer_fault", f"{name} sent something unacceptable: {text}", {"peer": name}, level="warning")


def _sites(count: int) -> str:
    return f"{count} site{'' if count == 1 else 's'}"

"""Ledgers read from their files, and their entries in words: what all commands of `swarm ledger` share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import click
import msgspec

from node.cli.ledger.naming import MEMBER, Search
from node.cli.ledger.sources import REPAIR as REPAIR
from node.cli.ledger.sources import Files as Files
from node.cli.ledger.sources import Source as Source
from node.cli.ledger.sources import TilesFolder
from node.cli.ledger.sources import open_folder as open_folder
from node.cli.ledger.sources import open_ledger as open_ledger
from node.cli.output import INVALID, NOT_FOUND, Failure, count
from node.exchanges import apart_words
from swarm import codec, stopping
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, RoundView, accounted, audit, member_names
from swarm.ledger.audit import Failure as AuditFailure
from swarm.ledger.block import BLOCK_BYTES_MAX, NO_HASH, FinalBlock, Header
from swarm.ledger.evidence import describe as describe_evidence
from swarm.ledger.motions import open_change
from swarm.ledger.participation import rounds_words
from swarm.ledger.state import Signatures, State, best_of, genesis, open_authored, outcome
from swarm.machine import NodeId
from swarm.masking.statements import Keys, Reveal
from swarm.terms import ADD, POLICY, REMOVE, Change, Seat, Terms, founding

BODIES: dict[int, type[msgspec.Struct]] = {
    e.CONTRIBUTION: e.Contribution,
    e.ATTEST: e.Attest,
    e.RECEIPT: e.Receipt,
    e.PARTIAL: e.Partial,
    e.PUSH: e.Push,
    e.EVALUATION: e.Evaluation,
    e.SCORE: e.Score,
    e.MASK_KEYS: Keys,
    e.MASK_ROSTER: e.MaskRoster,
    e.MASK_DEAL: e.MaskDeal,
    e.MASK_REVEAL: Reveal,
    e.ROUND_CLOSE: e.RoundClose,
    e.ROUND_COMMIT: e.RoundCommit,
    e.MEMBER_PROPOSAL: e.MemberProposal,
    e.MEMBER_VOTE: e.MemberVote,
    e.EPOCH: e.Epoch,
    e.BLOCK_CERT: e.BlockCert,
    e.EVIDENCE: e.Evidence,
    e.ANNOTATION: e.Annotation,
}


WHERE = click.argument("folder", metavar="[LEDGER]", type=click.Path(path_type=Path), default=Path())


@dataclass(frozen=True, slots=True)
class Row:
    """An entry in words. `round` is None for entries that belong to none."""

    index: int
    time_ms: int
    author: str
    kind: str
    text: str
    round: int | None


def verify_quietly(folder: Path) -> Audit:
    """Verify a ledger and return what was found. Raises `Failure` when it does not hold."""
    files = open_ledger(folder)
    *_, result = audit(files.payloads(), files.signed)
    judge(files, result)
    return result


# --- reading ----------------------------------------------------------------------------------------------------


def read(folder: Path) -> tuple[Source, Audit]:
    """Follow a ledger without checking signatures. Raises `Failure` when it does not hold, or has no blocks."""
    files = open_ledger(folder)
    return files, followed(files)


def followed(files: Source) -> Audit:
    """Follow a ledger without checking signatures. Raises `Failure` when it does not hold, or has no blocks."""
    *_, result = audit(files.payloads(), files.signed, trusting=True)
    judge(files, result)
    return result


class Judged(Protocol):
    """What has been followed to its end or to its first failure: an `Audit`, or the hashes alone."""

    failure: AuditFailure | None
    blocks: int
    entries: int


def judge(files: Source, result: Judged) -> None:
    """Raise `Failure` where the ledger first fails, and say whether the disk or somebody did it."""
    damage, failure = files.corrupt, result.failure
    if damage is not None and (failure is None or failure.height > damage.height):
        raise Failure(
            f"{damage.path} at byte {damage.offset}, block {result.blocks + 1} (entry {result.entries} and on): "
            f"{damage.text}; {files.blame}, this is not a signed change",
            code=INVALID,
            hint=files.mending,
        )
    if failure is not None:
        place = files.places.get(failure.height)
        where = f"{place.path} at byte {place.offset}, " if place is not None else ""
        state = result.state if isinstance(result, Audit) else genesis(files.signed)
        index = blamed(files, state, failure.height)
        entry = "" if index is None else f", entry {index}"
        raise Failure(
            f"{where}block {failure.height}{entry}: {failure.text}; the file reads well, so it was changed",
            code=INVALID,
            hint="keep this copy as evidence, and compare it with another member's: `swarm ledger diff`",
        )


def blamed(files: Source, state: State, height: int) -> int | None:
    """Return the place in the log of the entry that makes a block fail by itself: not canonical, or not signed.

    `state` is one under the terms of that block. None when the fault is elsewhere in the block.
    """
    index, signatures = 1, Signatures()
    for at, payload in enumerate(files.payloads(), 1):
        try:
            leaves = codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX).block.leaves
        except Reject:
            return None
        for place, leaf in enumerate(leaves if at == height else (), index):
            try:
                entry = e.decode_entry(leaf)
                if entry.author != e.NO_AUTHOR:
                    open_authored(state, entry, leaf, signatures)
            except Reject:
                return place
        index += len(leaves)
        if at == height:
            break
    return None


def round_view(result: Audit, number: int) -> RoundView:
    """Return a round. Raises `Failure` when the ledger knows of none with this number."""
    view = result.rounds.get(number)
    if view is None:
        last = result.state.committed.round
        hint = f"committed: {'none yet' if not last else 'round 1' if last == 1 else f'rounds 1 to {last}'}"
        raise Failure(f"there is no round {number} in this ledger", code=NOT_FOUND, hint=hint)
    return view


UNKNOWN = -1
"""The height of an entry's block, where the source has no blocks."""


@dataclass(frozen=True, slots=True)
class Placement:
    """An entry and where it stands: `index` in the log, `height` of its block, or `UNKNOWN`."""

    index: int
    height: int
    leaf: bytes
    entry: e.Entry


def blocks_of(files: Source) -> Iterator[FinalBlock]:
    """Yield the blocks in order."""
    for payload in files.payloads():
        yield codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX)


def entries_of(files: Source) -> Iterator[Placement]:
    """Yield every entry in order, the charter first."""
    if isinstance(files, TilesFolder):
        for index, leaf in enumerate(files.leaves()):
            yield Placement(index, UNKNOWN if index else 0, leaf, e.decode_entry(leaf))
        return
    genesis = files.signed.genesis()
    yield Placement(0, 0, genesis.encode(), genesis)
    index = 1
    for height, final in enumerate(blocks_of(files), 1):
        for leaf in final.block.leaves:
            yield Placement(index, height, leaf, e.decode_entry(leaf))
            index += 1


CONTRIBUTORS_MAX = 10_000
"""Contributions whose authors are remembered, the latest: receipts follow within a round those that they name."""


@dataclass(slots=True)
class Words:
    """What ids stand for: `names` of all who ever were members, and what each proposal read so far is about.

    `proposals` has (place in the log, words) by the id of the entry, `ids` that id by place.
    `contributors` has by place who wrote each of the last contributions: receipts name those.
    """

    names: dict[NodeId, str]
    proposals: dict[bytes, tuple[int, str]] = field(default_factory=dict)
    ids: dict[int, bytes] = field(default_factory=dict)
    contributors: dict[int, NodeId] = field(default_factory=dict)

    def learn(self, placed: Placement) -> None:
        """Take in what an entry says; only proposals and contributions tell anything new."""
        if placed.entry.kind == e.CONTRIBUTION:
            self.contributors[placed.index] = NodeId(placed.entry.author)
            if len(self.contributors) > CONTRIBUTORS_MAX:
                del self.contributors[next(iter(self.contributors))]
        if placed.entry.kind != e.MEMBER_PROPOSAL:
            return
        body = codec.decode(placed.entry.body, e.MemberProposal, limit=e.ENTRY_BYTES_MAX)
        change = open_change(body)
        if change.kind == ADD:
            self.names.setdefault(change.card[0].node, change.card[0].name)
        id_ = placed.entry.id
        self.proposals[id_], self.ids[placed.index] = (placed.index, change_words(change, self.names)), id_

    def name(self, node: bytes) -> str:
        """Return a member's name; of anybody else the beginning of its id."""
        return self.names.get(NodeId(node), node.hex()[:8])

    def named(self, nodes: Iterable[bytes]) -> str:
        """Return names with commas between."""
        return ", ".join(self.name(node) for node in nodes) or "nobody"

    def held(self, places: Iterable[int]) -> str:
        """Return whose models a receipt is for."""
        places = list(places)
        if not places:
            return "holds no model of a partner"
        if not all(place in self.contributors for place in places):
            return f"holds {count(len(places), 'model')} it may average"
        whose = self.named(self.contributors[place] for place in places)
        return f"holds the {'model' if len(places) == 1 else 'models'} of {whose}"

    def about(self, proposal: bytes) -> str:
        """Return what a proposal is about, by its entry's id."""
        known = self.proposals.get(proposal)
        return f"proposal {proposal.hex()[:8]}" if known is None else f"entry {known[0]}, {known[1]}"


def names_of(result: Audit) -> dict[NodeId, str]:
    """Return by id the names of all who are or ever were members, in the order in which they came.

    A former member whose name another one has taken since is told apart by the beginning of its id.
    """
    return member_names(result.epochs)


def words_of(files: Source, result: Audit | None) -> Words:
    """Return what ids stand for in a ledger that was followed, or in one without blocks, read from its entries."""
    words = _first_words(files) if result is None else Words(names_of(result))
    for placed in entries_of(files):
        words.learn(placed)
    return words


def _first_words(files: Source) -> Words:
    return Words({seat.node: seat.name for seat in founding(files.signed.charter).members})


def member_named(names: Mapping[NodeId, str], name: str) -> NodeId:
    """Return the id of a member, present or former, from its name or six or more digits of its id.

    A name counts before any id that begins like it. Raises `Failure` when there is no such member, or more than one.
    """
    named = next((node for node, known in names.items() if known == name), None)
    if named is not None:
        return named
    search = Search[NodeId](name)
    for node, known in names.items():
        search.offer(MEMBER, None, node.hex(), f"{known} (id {node.hex()[:12]})", node)
    return search.found(f"there is no member {name!r} in this swarm", f"it has {', '.join(names.values())}")


def seats_of(result: Audit) -> dict[NodeId, Seat]:
    """Return everybody who is or ever was a member, each as it was last, in the order in which they came."""
    return {seat.node: seat for view in result.epochs for seat in view.terms.members}


def terms_at(result: Audit, height: int) -> Terms:
    """Return the terms by which a block was judged."""
    return next(view.terms for view in reversed(result.epochs) if view.height < max(height, 1))


def sites_in(result: Audit, view: RoundView) -> list[NodeId]:
    """Return the members that a round was about, in the order in which they came; of an open one those of today."""
    if view.closed is None:
        return [seat.node for seat in result.state.terms.members]
    there = accounted(view)
    return [node for node in seats_of(result) if node in there]


def rows_of(files: Source, result: Audit | None) -> Iterator[Row]:
    """Yield every entry in words."""
    words = _first_words(files) if result is None else Words(names_of(result))
    for placed in entries_of(files):
        yield row_of(placed, files, words)


def row_of(placed: Placement, files: Source, known: Words) -> Row:
    """Return an entry in words."""
    entry, names = placed.entry, known.names
    if entry.kind == e.CHARTER:
        charter = files.signed.charter
        return Row(0, charter.created_ms, "everyone", "charter", charter.name, None)
    known.learn(placed)
    round_, words = describe(entry, known)
    who = "(derived)" if entry.author == e.NO_AUTHOR else names.get(NodeId(entry.author), entry.author.hex()[:8])
    return Row(placed.index, entry.ts_ms, who, e.KIND_NAMES[entry.kind], words, round_)


def torn_end(files: Source, blocks: int) -> dict[str, object] | None:
    """Return what is known of a last write that is not whole: it may be a crash, or a disk that lost the end."""
    if (torn := files.torn) is None:
        return None
    return {"path": torn.path, "offset": torn.offset, "bytes": torn.length, "next_block": blocks + 1}


def torn_lines(files: Source, blocks: int) -> list[str]:
    """Return a line about a torn end, if there is one."""
    torn = torn_end(files, blocks)
    if torn is None:
        return []
    place = f"{torn['bytes']} bytes at byte {torn['offset']} of {torn['path']}"
    return [f"! torn end      {place} cannot be read; block {torn['next_block']} would be next"]


# --- words ------------------------------------------------------------------------------------------------------


def date(ms: int) -> str:
    """Return a time in UTC."""
    return datetime.fromtimestamp(ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def size_words(result: Audit) -> str:
    """Return how many entries and blocks were read."""
    return f"{count(result.entries, 'entry')} in {count(result.blocks, 'block')}"


def open_round(result: Audit) -> str:
    """Return in words how far the open round has come."""
    state = result.state
    if state.complete:
        return f"nothing: {outcome(state) if state.stopped else 'every round that was agreed on is committed'}"
    there = sum(1 for number, _ in state.contributions if number == state.round)
    total = len(state.terms.members)
    if state.close is not None:
        return f"round {state.round}, closed, {len(state.attests)} of {total} sites attested"
    return f"round {state.round}, {there} of {total} sites contributed"


def stop_words(state: State) -> str:
    """Say how far a run is from ending early, or that it has; empty where the charter lets it learn all rounds."""
    policy, watch = state.signed.charter.stop, state.stopping
    if policy is None or watch is None:
        return ""
    if state.stopped:
        return outcome(state)
    best = best_of(state)
    if best is None:
        return f"no round has been told enough of to compare others with it, by {policy.metric}"
    if state.complete or not watch.last:
        idle = (
            "" if state.complete else f"; {watch.idle} of {count(policy.patience, 'round')} without improvement since"
        )
        return f"best round {best.round} by {policy.metric}{idle}"
    return f"{stopping.words(watch, policy)}; round {watch.last} is the last"


def change_words(change: Change, names: Mapping[NodeId, str]) -> str:
    """Say what a change does, without the terms that it changes."""
    if change.kind == ADD:
        return f"{change.card[0].name} joins"
    if change.kind == POLICY:
        return "the policy of rounds changes"
    who = names.get(NodeId(change.node), change.node.hex()[:8])
    return f"{who} leaves" if change.kind == REMOVE else f"{who} takes new keys or another address"


def describe(entry: e.Entry, known: Words) -> tuple[int | None, str]:
    """Return (round, words) of an entry."""
    limit = e.ENTRY_BYTES_MAX
    match entry.kind:
        case e.CONTRIBUTION:
            c = codec.decode(entry.body, e.Contribution, limit=limit)
            return c.round, f"round {c.round}, {c.samples} samples, update {c.update_digest.hex()[:12]}"
        case e.ATTEST:
            a = codec.decode(entry.body, e.Attest, limit=limit)
            verb = "ended with a model of its own," if a.sketch else "holds model"
            return a.round, f"round {a.round}, {verb} {a.model_digest.hex()[:12]}"
        case e.RECEIPT:
            r = codec.decode(entry.body, e.Receipt, limit=limit)
            return r.round, f"round {r.round}, {known.held(r.held)}"
        case e.PARTIAL:
            p = codec.decode(entry.body, e.Partial, limit=limit)
            return p.round, f"round {p.round}, computed part {p.number} of the mean, {p.digest.hex()[:12]}"
        case e.PUSH:
            push = codec.decode(entry.body, e.Push, limit=limit)
            given = known.named(push.targets)
            return push.round, f"round {push.round}, {known.held(push.held)}, gives its own to {given}"
        case e.EVALUATION:
            v = codec.decode(entry.body, e.Evaluation, limit=limit)
            return v.round, f"round {v.round}, scored on {v.samples} held-out samples"
        case e.SCORE:
            s = codec.decode(entry.body, e.Score, limit=limit)
            named = count(len(s.scores), "contribution")
            return s.round, f"round {s.round}, finds what {named} added, from {count(s.evaluations, 'model')}"
        case e.MASK_KEYS:
            k = codec.decode(entry.body, Keys, limit=limit)
            return k.round, f"round {k.round}, attempt {k.attempt}, posts keys for an update of {k.samples} samples"
        case e.MASK_ROSTER:
            return rostered_words(codec.decode(entry.body, e.MaskRoster, limit=limit), known)
        case e.MASK_DEAL:
            d = codec.decode(entry.body, e.MaskDeal, limit=limit)
            return d.round, f"round {d.round}, dealt its secrets in shares, {d.digest.hex()[:12]}"
        case e.MASK_REVEAL:
            shown = codec.decode(entry.body, Reveal, limit=limit)
            return shown.round, f"round {shown.round}, revealed {count(len(shown.shares), 'share')} for the sum"
        case e.ROUND_CLOSE:
            close = codec.decode(entry.body, e.RoundClose, limit=limit)
            without = f", without {known.named(close.missing)}" if close.missing else ""
            if not close.included:
                return close.round, f"round {close.round} is void: no mean could be had"
            again = ", closed again to go by spread" if close.attempt > 1 else ""
            return close.round, f"round {close.round}, {count(len(close.included), 'site')} in{without}{again}"
        case e.ROUND_COMMIT:
            commit = codec.decode(entry.body, e.RoundCommit, limit=limit)
            return commit.round, f"round {commit.round}, {committed_words(commit)}"
        case e.BLOCK_CERT:
            cert = codec.decode(entry.body, e.BlockCert, limit=limit)
            return None, f"block {Header.decode(cert.header).height} is final"
        case e.EVIDENCE:
            evidence = codec.decode(entry.body, e.Evidence, limit=limit)
            return None, describe_evidence(evidence, known.name)
        case e.ANNOTATION:
            note = codec.decode(entry.body, e.Annotation, limit=limit)
            of = f" of {rounds_words(note.first, note.last)}" if note.code == e.WITHDRAWAL else ""
            return None, f"{e.ANNOTATIONS[note.code]}{of}"
        case e.MEMBER_PROPOSAL:
            proposal = codec.decode(entry.body, e.MemberProposal, limit=limit)
            invited = ", invited" if proposal.invite else ""
            what = change_words(open_change(proposal), known.names)
            return None, f"{what}{invited}; open until {date(proposal.expires_ms)[:10]}"
        case e.MEMBER_VOTE:
            vote = codec.decode(entry.body, e.MemberVote, limit=limit)
            return None, f"{'yes' if vote.yes else 'no'} to {known.about(vote.proposal)}"
        case e.EPOCH:
            epoch = codec.decode(entry.body, e.Epoch, limit=limit)
            no = f"; no: {known.named(epoch.no)}" if epoch.no else ""
            what = known.about(known.ids.get(epoch.proposal, b"")) if epoch.proposal in known.ids else "as voted"
            return None, f"epoch {epoch.epoch} follows: {what}; yes: {known.named(epoch.yes)}{no}"
        case _:
            return None, ""


def rostered_words(roster: e.MaskRoster, known: Words) -> tuple[int, str]:
    """Return the round of a roster, and what it says: who masks, or that an attempt has ended."""
    named = f"round {roster.round}, attempt {roster.attempt}"
    without = f" without {known.named(roster.missing)}" if roster.missing else ""
    if roster.included:
        return roster.round, f"{named}, {count(len(roster.included), 'site')} mask{without}"
    return roster.round, f"{named} ended{f', kept waiting by {known.named(roster.missing)}' if roster.missing else ''}"


def committed_words(commit: e.RoundCommit) -> str:
    """Return what a round ended in: one model, or, in gossip, models that are so far apart."""
    if commit.model_digest != NO_HASH:
        return f"{commit.model_digest.hex()[:12]} held by {count(commit.attests, 'site')}"
    return f"{count(commit.attests, 'site')} ended with models of their own, {apart_words(commit)}"


def body_of(entry: e.Entry) -> dict[str, object]:
    """Return the fields of an entry's body, bytes as hexadecimal digits."""
    kind = BODIES.get(entry.kind)
    if kind is None:
        return {}
    body: msgspec.Struct = codec.decode(entry.body, kind, limit=e.ENTRY_BYTES_MAX)
    return {name: _plain(getattr(body, name)) for name in body.__struct_fields__}


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value

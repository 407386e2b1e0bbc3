"""Ledgers read from their files, and their entries in words: what all commands of `swarm ledger` share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from node.cli.output import INVALID, NOT_FOUND, Failure, count
from node.site import Site
from node.storage import RealDisk
from swarm import codec
from swarm.charter import SignedCharter
from swarm.errors import UsageError
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, RoundView, audit
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock
from swarm.ledger.evidence import describe as describe_evidence
from swarm.ledger.journal import BLOCKS, Finding, Placed, scan
from swarm.machine import NodeId

REPAIR = "stop the node, then `swarm ledger repair` from a copy of another member's folder: blocks are the same there"


@dataclass(slots=True)
class Files:
    """A ledger on disk, read as it is asked for; what could not be read is kept in `findings`."""

    site: Site
    signed: SignedCharter
    findings: list[Finding] = field(default_factory=list)
    places: dict[int, Placed] = field(default_factory=dict)

    @property
    def corrupt(self) -> Finding | None:
        """The first place where the disk lost something that had been acknowledged."""
        return next((finding for finding in self.findings if finding.verdict == "corruption"), None)

    @property
    def torn(self) -> Finding | None:
        """A last write that is not whole."""
        return next((finding for finding in self.findings if finding.verdict != "corruption"), None)

    def payloads(self) -> Iterator[bytes]:
        """Yield the blocks' records in order."""
        disk = RealDisk(self.site.ledger)
        self.findings.clear()
        height = 0
        try:
            for found in scan(disk, BLOCKS, self.signed.ledger_id):
                if isinstance(found, Finding):
                    self.findings.append(found)
                else:
                    height += 1
                    self.places[height] = found
                    yield found.record.payload
        finally:
            disk.close()


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
    """Verify a site's ledger and return what was found. Raises `Failure` when it does not hold."""
    files = open_ledger(folder)
    *_, result = audit(files.payloads(), files.signed)
    judge(files, result)
    return result


# --- reading ----------------------------------------------------------------------------------------------------


def open_ledger(folder: Path) -> Files:
    """Return the ledger in a site's folder, not yet read. Raises `UsageError` when there is none."""
    site = Site(folder)
    if not site.ledger.is_dir():
        raise UsageError(f"couldn't find a ledger in {folder}", hint="name the folder of a site that has been started")
    settings = site.load_settings() if site.settings_path.exists() else None
    return Files(site, site.load_charter(settings))


def read(folder: Path) -> tuple[Files, Audit]:
    """Follow a ledger without checking signatures. Raises `Failure` when it does not hold."""
    files = open_ledger(folder)
    *_, result = audit(files.payloads(), files.signed, trusting=True)
    judge(files, result)
    return files, result


def judge(files: Files, result: Audit) -> None:
    """Raise `Failure` where the ledger first fails, and say whether the disk or somebody did it."""
    if (damage := files.corrupt) is not None:
        raise Failure(
            f"{damage.path} at byte {damage.offset}: {damage.text}; the disk is damaged, this is not a signed change",
            code=INVALID,
            hint=REPAIR,
        )
    if (failure := result.failure) is not None:
        place = files.places.get(failure.height)
        where = f"{place.path} at byte {place.offset}, " if place is not None else ""
        raise Failure(
            f"{where}block {failure.height}: {failure.text}; the file reads well, so it was changed",
            code=INVALID,
            hint="compare with another member's ledger; keep this copy as evidence",
        )


def round_view(result: Audit, number: int) -> RoundView:
    """Return a round. Raises `Failure` when the ledger knows of none with this number."""
    view = result.rounds.get(number)
    if view is None:
        last = result.state.committed.round
        hint = f"committed: {'none yet' if not last else 'round 1' if last == 1 else f'rounds 1 to {last}'}"
        raise Failure(f"there is no round {number} in this ledger", code=NOT_FOUND, hint=hint)
    return view


@dataclass(frozen=True, slots=True)
class Placement:
    """An entry and where it stands: `index` in the log, `height` of its block."""

    index: int
    height: int
    leaf: bytes
    entry: e.Entry


def blocks_of(files: Files) -> Iterator[FinalBlock]:
    """Yield the blocks in order."""
    for payload in files.payloads():
        yield codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX)


def entries_of(files: Files) -> Iterator[Placement]:
    """Yield every entry in order, the charter first."""
    genesis = files.signed.genesis()
    yield Placement(0, 0, genesis.encode(), genesis)
    index = 1
    for height, final in enumerate(blocks_of(files), 1):
        for leaf in final.block.leaves:
            yield Placement(index, height, leaf, e.decode_entry(leaf))
            index += 1


def names_of(files: Files) -> dict[NodeId, str]:
    """Return the members' names by id."""
    return {card.node: card.name for card in files.signed.charter.members}


def member_named(files: Files, name: str) -> int:
    """Return the index of a member. Raises `Failure` when there is none of that name."""
    names = [card.name for card in files.signed.charter.members]
    if name not in names:
        raise Failure(f"there is no member {name!r} in this swarm", code=NOT_FOUND, hint=f"it has {', '.join(names)}")
    return names.index(name)


def rows_of(files: Files) -> Iterator[Row]:
    """Yield every entry in words."""
    names = names_of(files)
    for placed in entries_of(files):
        yield row_of(placed, files, names)


def row_of(placed: Placement, files: Files, names: dict[NodeId, str]) -> Row:
    """Return an entry in words."""
    entry = placed.entry
    if entry.kind == e.CHARTER:
        charter = files.signed.charter
        return Row(0, charter.created_ms, "everyone", "charter", charter.name, None)
    round_, words = describe(entry, names)
    who = names.get(NodeId(entry.author), "(derived)")
    return Row(placed.index, entry.ts_ms, who, e.KIND_NAMES[entry.kind], words, round_)


def torn_end(files: Files, result: Audit) -> dict[str, object] | None:
    """Return what is known of a last write that is not whole: it may be a crash, or a disk that lost the end."""
    if (torn := files.torn) is None:
        return None
    return {"path": torn.path, "offset": torn.offset, "bytes": torn.length, "next_block": result.blocks + 1}


def torn_lines(files: Files, result: Audit) -> list[str]:
    """Return a line about a torn end, if there is one."""
    torn = torn_end(files, result)
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
        return "nothing: every round of the charter is committed"
    there = sum(1 for number, _ in state.contributions if number == state.round)
    total = len(state.signed.charter.members)
    if state.close is not None:
        return f"round {state.round}, closed, {len(state.attests)} of {total} sites attested"
    return f"round {state.round}, {there} of {total} sites contributed"


def describe(entry: e.Entry, names: dict[NodeId, str]) -> tuple[int | None, str]:
    """Return (round, words) of an entry."""
    limit = e.ENTRY_BYTES_MAX
    match entry.kind:
        case e.CONTRIBUTION:
            c = codec.decode(entry.body, e.Contribution, limit=limit)
            return c.round, f"round {c.round}, {c.samples} samples, update {c.update_digest.hex()[:12]}"
        case e.ATTEST:
            a = codec.decode(entry.body, e.Attest, limit=limit)
            return a.round, f"round {a.round}, holds model {a.model_digest.hex()[:12]}"
        case e.EVALUATION:
            v = codec.decode(entry.body, e.Evaluation, limit=limit)
            return v.round, f"round {v.round}, scored on {v.samples} held-out samples"
        case e.ROUND_CLOSE:
            close = codec.decode(entry.body, e.RoundClose, limit=limit)
            absent = ", ".join(names[NodeId(node)] for node in close.missing)
            without = f", without {absent}" if absent else ""
            return close.round, f"round {close.round}, {count(len(close.included), 'site')} in{without}"
        case e.ROUND_COMMIT:
            commit = codec.decode(entry.body, e.RoundCommit, limit=limit)
            return (
                commit.round,
                f"round {commit.round}, {commit.model_digest.hex()[:12]} held by {count(commit.attests, 'site')}",
            )
        case e.BLOCK_CERT:
            return None, "finality of an earlier block"
        case e.EVIDENCE:
            evidence = codec.decode(entry.body, e.Evidence, limit=limit)
            return None, describe_evidence(evidence, lambda node: names.get(node, node.hex()[:8]))
        case _:
            return None, ""

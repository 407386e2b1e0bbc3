"""A ledger followed from its beginning, with its signatures checked here, elsewhere, later, or not at all.

Following a log is one long chain of hashes and cannot be shared out; checking its signatures is two thirds of the work
and can. So `Deferred` lets the log be read on while other processes check what has gathered, and is asked at the end
whether all held. `HeadOnly` checks the last certificate alone: blocks name each other by hash, so that one quorum
vouches for every byte before it, though not for who wrote which entry. What the rules are is for `swarm.ledger.audit`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, TypeAlias, cast

from typing_extensions import override

from node.cli.ledger.sources import Source
from swarm import codec, identity
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, Failure, audit
from swarm.ledger.block import BLOCK_BYTES_MAX, FINALIZE, FinalBlock, Header, entries_hash, justify_hash
from swarm.ledger.merkle import Frontier, leaf_hash
from swarm.ledger.state import Signatures

if TYPE_CHECKING:
    from multiprocessing.context import ForkContext, SpawnContext

Check: TypeAlias = tuple[bytes, bytes, bytes]
"""Public key, message, signature."""

BATCH = 128
"""Signatures handed over at once: 10 ms of work in 50 KB, which a socket takes without waiting for its reader."""

ALONE_MAX = 4 * BATCH
"""Signatures checked in this process before others are started: a small ledger is done before they would be."""

ALONE_BATCH = 8 * BATCH
"""Signatures checked at once where there is a single core: curve arithmetic and bookkeeping evict each other from the
processor's caches, so they take long turns, each too short for a person to notice."""

AHEAD_MAX = 3
"""Batches one worker may have waiting: enough that it never starves, few enough that a long log is not held twice."""

_FORKS = sys.platform == "linux"


class HeadOnly(Signatures):
    """Believes every signature but those of the last certificates, which `first_failure` checks."""

    def __init__(self) -> None:
        super().__init__()
        self._before: list[Check] = []
        self._checks: list[Check] = []

    @override
    def verify(self, leaf: bytes, entry: e.Entry, id_key: bytes, ledger_id: bytes) -> None:
        """Believe it."""

    @override
    def conclude(self) -> None:
        """Begin with the certificates of the next block; one may have none, so those of two are kept."""
        if self._checks:
            self._before, self._checks = self._checks, []

    @override
    def check(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        self._checks.append((public_key, message, signature))
        return True

    def first_failure(self, height: int) -> Failure | None:
        """Return what is wrong with the last certificate, which is that of the block at `height` or below, if so."""
        if _first_bad((*self._before, *self._checks)) is None:
            return None
        return Failure(height, "the last certificate of this ledger carries a signature that does not verify")


class Deferred(Signatures):
    """Puts signatures off, and has them checked while the log is read on. Whoever reads keeps `height` up to date."""

    def __init__(self, workers: Workers) -> None:
        super().__init__()
        self.height = 0
        self._workers = workers
        self._checks: list[Check] = []
        self._labels: list[tuple[int, str]] = []

    @override
    def verify(self, leaf: bytes, entry: e.Entry, id_key: bytes, ledger_id: bytes) -> None:
        if self.trusting:
            return
        if entry.ledger_id != ledger_id:
            raise Reject("couldn't accept an entry: it belongs to another ledger")
        message = identity.DOMAIN_ENTRY + ledger_id + entry.signed_bytes()
        self._put((id_key, message, entry.signature), f"entry {entry.seq} of {entry.author.hex()[:8]}")

    @override
    def check(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        self._put((public_key, message, signature), "a certificate")
        return True

    def first_failure(self) -> Failure | None:
        """Wait for what is under way, and return the first signature that does not verify, if there is one."""
        self._hand_over()
        bad = self._workers.finish()
        if bad is None:
            return None
        height, what = bad
        return Failure(height, f"couldn't accept {what}: its signature does not verify")

    def _put(self, check: Check, label: str) -> None:
        self._checks.append(check)
        self._labels.append((self.height, label))
        if len(self._checks) >= self._workers.batch:
            self._hand_over()

    def _hand_over(self) -> None:
        self._workers.take(self._checks, self._labels)
        self._checks, self._labels = [], []


class Workers:
    """Processes that check signatures. There are none until it is worth it, and none at all on a single core."""

    def __init__(self, cores: int) -> None:
        self.batch = BATCH if cores > 1 else ALONE_BATCH  # how many signatures a `take` is best given
        self._cores = cores
        self._alone = 0
        self._number = 0
        self._links: dict[Connection, deque[tuple[int, list[Check]]]] = {}
        self._labels: dict[int, list[tuple[int, str]]] = {}
        self._bad: tuple[int, int, tuple[int, str]] | None = None

    @property
    def started(self) -> int:
        """How many processes are at work."""
        return len(self._links)

    def take(self, checks: list[Check], labels: list[tuple[int, str]]) -> None:
        """Check a batch, here or elsewhere. Waits only when every worker has enough to do."""
        number = self._number
        self._number += 1
        self._labels[number] = labels
        if self._cores > 1 and not self._links and self._alone >= ALONE_MAX:
            self._start()
        while self._links and min(len(queue) for queue in self._links.values()) >= AHEAD_MAX:
            self._collect()
        self._collect(timeout=0)
        if not self._links:
            self._alone += len(checks)
            self._done(number, _first_bad(checks))
            return
        link, queue = min(self._links.items(), key=lambda pair: len(pair[1]))
        queue.append((number, checks))
        try:
            link.send(checks)
        except OSError:
            self._lost(link)

    def finish(self) -> tuple[int, str] | None:
        """Wait for every batch; return the label of the first check that failed, if one did."""
        while any(self._links.values()):
            self._collect()
        return None if self._bad is None else self._bad[2]

    def close(self) -> None:
        """Let the workers go: each ends when its link does."""
        for link in self._links:
            link.close()
        self._links.clear()

    def _start(self) -> None:
        context = cast("ForkContext | SpawnContext", multiprocessing.get_context("fork" if _FORKS else "spawn"))
        for _ in range(self._cores):
            ours, theirs = context.Pipe()
            # What a fork copies would keep the links of the others, and its own, open when we are gone.
            inherited = (*self._links, ours) if _FORKS else ()
            context.Process(target=_work, args=(theirs, inherited), daemon=True).start()
            theirs.close()
            self._links[ours] = deque()

    def _collect(self, timeout: float | None = None) -> None:
        """Take in answers, waiting for the first unless `timeout` says otherwise."""
        busy = [link for link, queue in self._links.items() if queue]
        for link in wait(busy, timeout):
            assert isinstance(link, Connection), "there is nothing else to wait for"
            try:
                answer: int | None = link.recv()
            except (EOFError, OSError):
                self._lost(link)
                continue
            number, _ = self._links[link].popleft()
            self._done(number, answer)

    def _lost(self, link: Connection) -> None:
        """A worker has died, as of too little memory: do its work here."""
        for number, checks in self._links.pop(link):
            self._done(number, _first_bad(checks))
        link.close()

    def _done(self, number: int, first_bad: int | None) -> None:
        labels = self._labels.pop(number)
        if first_bad is not None and (self._bad is None or (number, first_bad) < self._bad[:2]):
            self._bad = (number, first_bad, labels[first_bad])


@contextmanager
def workers(cores: int | None = None) -> Iterator[Workers]:
    """Provide workers for as many cores as this process may use."""
    made = Workers(_cores() if cores is None else cores)
    try:
        yield made
    finally:
        made.close()


def follow(
    files: Source, signatures: Signatures, *, first: int = 1, see: Callable[[Audit], None] = lambda _: None
) -> Audit:
    """Follow a ledger to its end or its first failure, and return the audit. Signatures count from height `first` on.

    `see` is told the audit after every block.
    """
    signatures.trusting = first > 1
    result: Audit | None = None
    deferred = signatures if isinstance(signatures, Deferred) else None
    if deferred is not None:
        deferred.height = 1
    for result in audit(_readable(files), files.signed, signatures=signatures):
        see(result)
        signatures.trusting = result.blocks + 1 < first
        if deferred is not None:
            deferred.height = result.blocks + 1
    assert result is not None, "an audit yields at least once"
    late = deferred.first_failure() if deferred is not None else None
    if isinstance(signatures, HeadOnly):
        late = signatures.first_failure(result.blocks)
    if late is not None and (result.failure is None or late.height <= result.failure.height):
        result.failure = late
    return result


def follow_leaves(files: Source, see: Callable[[Audit, Sequence[bytes]], None]) -> Audit:
    """Follow a ledger once, believing signatures, to its end or its first failure, and return the audit.

    `see` is told the audit after every block that holds, and the leaves of that block; at first, the charter's.
    """
    kept: list[bytes] = []

    def payloads() -> Iterator[bytes]:
        for payload in _readable(files):
            kept.append(payload)
            yield payload

    result: Audit | None = None
    for result in audit(payloads(), files.signed, trusting=True):
        if result.failure is None and result.blocks == 0:
            see(result, (files.signed.genesis().encode(),))
        elif result.failure is None:
            see(result, codec.decode(kept.pop(), FinalBlock, limit=2 * BLOCK_BYTES_MAX).block.leaves)
    assert result is not None, "an audit yields at least once"
    return result


@dataclass(slots=True)
class Walk:
    """What following the hashes alone found: see `walk`. `failure` is None for a chain that holds."""

    blocks: int = 0
    entries: int = 1
    covered: int = 0
    epoch: int = 0
    frontier: Frontier = field(default_factory=Frontier)
    failure: Failure | None = None

    @property
    def uncovered(self) -> int:
        """Blocks at the end that no certificate covers yet."""
        return self.blocks - self.covered


def walk(files: Source, see: Callable[[int, int, Frontier, bool], None]) -> Walk:
    """Follow the hashes only: every block names the one before it, and its tree holds its entries and all before.

    The last certificate is checked against the charter's keys, so it serves while those are in force: for a ledger
    whose `epoch` is not 0 nothing is said of signatures. `see` is told (height, time, tree, covered) after each block.
    """
    genesis = files.signed.genesis()
    found = Walk(frontier=Frontier().append(leaf_hash(genesis.encode())))
    tip, view, last = files.signed.ledger_id, 0, None
    see(0, files.signed.charter.created_ms, found.frontier, True)
    for payload in _readable(files):
        height = found.blocks + 1
        try:
            # Not by a decoder of its own: no length in a record is believed before its bytes are there.
            final = codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX)
            header, leaves = Header.decode(final.block.header), final.block.leaves
            if (header.parent_hash, header.parent_view, header.height) != (tip, view, height):
                raise Reject("it does not extend the block before it")
            if entries_hash(leaves) != header.entries_hash:
                raise Reject("its entries are not the ones it commits to")
            if justify_hash(final.block.justify) != header.justify_hash:
                raise Reject("its certificates are not the ones it commits to")
            frontier = found.frontier.extend([leaf_hash(leaf) for leaf in leaves])
            if (header.size, header.root) != (frontier.size, frontier.root()):
                raise Reject("its tree is not the tree of its entries")
            for certificate in final.certificate:
                if (certificate.kind, certificate.block) != (FINALIZE, final.certified_hash(header)):
                    raise Reject("its certificate is for something else")
                found.covered, last = height, certificate
        except Reject as reason:
            found.failure = Failure(height, reason.message)
            return found
        tip, view = header.hash, header.view
        found.blocks, found.entries, found.epoch, found.frontier = height, frontier.size, header.epoch, frontier
        see(height, header.time_ms, frontier, found.covered == height)
    if last is not None and found.epoch == 0:
        charter = files.signed.charter
        try:
            last.check(files.signed.ledger_id, [card.vote_key for card in charter.members], charter.quorum)
        except Reject as reason:
            found.failure = Failure(found.covered, reason.message)
    return found


def _readable(files: Source) -> Iterator[bytes]:
    """Yield records up to the first damage: what lies behind it does not follow, and is not what is wrong."""
    for payload in files.payloads():
        if files.corrupt is not None:
            return
        yield payload


def _first_bad(checks: Sequence[Check]) -> int | None:
    return next((i for i, check in enumerate(checks) if not identity.verify(*check)), None)


def _work(link: Connection, inherited: Sequence[Connection]) -> None:
    """Check batches until the link ends. The parent alone decides when that is, so its interrupt is not ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for other in inherited:
        other.close()
    with suppress(EOFError, OSError):
        while True:
            link.send(_first_bad(link.recv()))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""A small world for the consensus core alone: one seed, one story.

Everything follows from the seed: delays, losses, duplicates, two-way partitions, crashes between any two outputs and in
the middle of a write, and *twins*, two members with one key and separate memories, who are the liars. Faults end at
`Story.heal_s`; from then on every honest member must come to hold every piece of work. The truths are checked after
every event, and on the wire rather than in anybody's memory:

- *agreement* (I1): one final block per height among the honest;
- *honesty* (I8): no honest member signs two statements that contradict, nor finalizes what it never notarized;
- *durability*: a vote and its block are on disk before the vote is sent;
- *no false accusation* (I9): evidence only ever names a twin.

The application orders integers: a block is valid if its state is the hash of its parent's state and its leaves.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import heapq
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from swarm import codec
from swarm.errors import LedgerError, Reject
from swarm.identity import SigningKey
from swarm.ledger.block import (
    FINALIZE,
    NO_HASH,
    NOTARIZE,
    Block,
    Certificate,
    FinalBlock,
    Header,
    Vote,
    decode_block,
    entries_hash,
    justify_hash,
    quorum,
)
from swarm.ledger.consensus import (
    Consensus,
    Durable,
    Invalid,
    Message,
    Note,
    Output,
    Status,
    Timing,
    ToAll,
    ToOne,
    Valid,
    Verdict,
    Wait,
)
from swarm.ledger.views import contradict
from swarm.machine import RECORD_BLOCK, RECORD_BODY, RECORD_VOTE, Record
from tests.builders import verify_once

LEDGER = hashlib.sha256(b"a ledger").digest()
TIMING = Timing(t0_s=2.0, growth=1.5, t_max_s=60.0, standstill_s=3.0, standstill_max_s=20.0)
HEARTBEAT_S = 4.0
BLOCKS_REPLY_MAX = 20


class Violation(AssertionError):
    """A truth did not hold. The message begins with the seed."""


@functools.lru_cache(maxsize=64)
def key(index: int) -> SigningKey:
    """Return the same vote key for the same index."""
    return SigningKey.from_seed(hashlib.sha256(b"vote%d" % index).digest())


@dataclass(frozen=True, slots=True)
class Sum:
    """The toy state after a block."""

    height: int
    time_ms: int
    digest: bytes
    items: frozenset[int]


class Toy:
    """Orders integers. `known` is the work this member has heard of; a block with other work must wait for it."""

    def __init__(self) -> None:
        self.epoch = 0
        self.last_of_epoch: set[bytes] = set()
        self.states = {LEDGER: Sum(0, 0, bytes(32), frozenset())}
        self.head = LEDGER
        self.known: set[int] = set()
        self.finals: list[Header] = []
        self.lies = False
        self.suspected: frozenset[int] = frozenset()
        self.stubborn = 0  # verdicts still to be withheld, as if bytes were in flight

    def wants_block(self, parent: bytes, now: float) -> bool:
        state = self.states.get(parent)
        return state is not None and bool(self.known - state.items)

    def due(self, parent: bytes) -> frozenset[int]:
        """The work for a block on top of `parent`."""
        return frozenset(self.known - self.states[parent].items)

    def build(
        self, parent: bytes, parent_view: int, view: int, justify: tuple[Certificate, ...], now: float
    ) -> tuple[Header, tuple[bytes, ...]] | None:
        before = self.states[parent]
        leaves = tuple(item.to_bytes(4, "big") for item in sorted(self.due(parent)))
        after = extend(before, leaves, int(now * 1000))
        header = Header(
            epoch=self.epoch,
            view=view,
            height=after.height,
            parent_hash=parent,
            parent_view=parent_view,
            time_ms=after.time_ms,
            first_index=len(before.items),
            count=len(leaves),
            size=len(after.items),
            root=bytes(32),
            entries_hash=entries_hash(leaves),
            state_hash=bytes(32) if self.lies else after.digest,
            justify_hash=justify_hash(justify),
        )
        return header, leaves

    def observe(self, block: Block, header: Header) -> None:
        before = self.states.get(header.parent_hash)
        if before is not None:
            after = extend(before, block.leaves, header.time_ms)
            if after.digest == header.state_hash and after.height == header.height:
                self.states[header.hash] = after

    def judge(self, block: Block, header: Header, now: float) -> Verdict:
        assert header.parent_hash in self.states, "judged before its parent was observed"
        self.observe(block, header)
        if header.hash not in self.states:
            return Invalid("its state is not what its leaves add up to")
        if any(int.from_bytes(leaf, "big") not in self.known for leaf in block.leaves):
            return Wait("its work is not known here", progressing=True)
        if self.stubborn:
            self.stubborn -= 1
            return Wait("its bytes are in flight", progressing=True)
        return Valid()

    def ends_epoch(self, block: bytes) -> bool:
        return block in self.last_of_epoch

    def suspects(self, member: int, now: float) -> bool:
        return member in self.suspected

    def finalized(self, final: FinalBlock, header: Header, now: float) -> None:
        assert header.parent_hash == self.head, "blocks become final in order, each once"
        self.observe(final.block, header)
        self.head = header.hash
        self.finals.append(header)
        self.known |= self.states[self.head].items


def extend(before: Sum, leaves: Sequence[bytes], time_ms: int) -> Sum:
    """Return the state after one more block."""
    digest = hashlib.sha256(before.digest + b"".join(leaves)).digest()
    items = before.items | {int.from_bytes(leaf, "big") for leaf in leaves}
    return Sum(before.height + 1, max(time_ms, before.time_ms + 1), digest, items)


@dataclass(slots=True)
class Place:
    """One process: what survives a crash, and what does not."""

    name: str
    index: int
    twin: bool
    records: list[Record] = field(default_factory=list)
    chain: list[FinalBlock] = field(default_factory=list)
    node: Consensus | None = None
    app: Toy = field(default_factory=Toy)
    heard: set[int] = field(default_factory=set)
    wake: int = 0
    accused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How bad the world is until it heals."""

    heal_s: float = 40.0
    loss: float = 0.1
    duplication: float = 0.05
    delay_s: float = 0.05
    partition_every_s: float = 8.0
    crash_every_s: float = 10.0
    forgetful: bool = False  # a crash loses votes and bodies: what the durability rule prevents


CALM = Faults(heal_s=0.0, loss=0.0, duplication=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What became of a run. `digest` covers every message in order: the same seed gives the same one."""

    seed: int
    events: int
    virtual_s: float
    height: int
    views: int
    messages: int
    accused: tuple[int, ...]
    forked: bool
    digest: str


class World:
    """See the module."""

    def __init__(
        self,
        seed: int,
        n: int,
        twins: int = 0,
        faults: Faults = CALM,
        *,
        work: int = 12,
        timing: Timing = TIMING,
        fork_allowed: bool = False,
    ) -> None:
        self.seed, self.n, self.faults, self.timing, self.fork_allowed = seed, n, faults, timing, fork_allowed
        self.rng = random.Random(f"consensus/{seed}")
        self.now = 0.0
        self.work = work
        self.events = self.messages = 0
        self.forked = False
        self.trace = hashlib.sha256()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._votes: dict[tuple[int, int], list[Vote]] = {}
        self._finals: dict[int, bytes] = {}
        self.split: frozenset[str] = frozenset()
        self.places = [Place(f"{i}", i, i >= n - twins) for i in range(n)]
        self.places += [Place(f"{i}'", i, True) for i in range(n - twins, n)]
        for place in self.places:
            self.start(place)
        self._plan_faults()
        for item in range(work):
            self._plan_work(item)

    # --- time ---------------------------------------------------------------------------------------------------

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._order), what))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Let things happen until a time, or until nothing is left to happen, or it is done."""
        while self._queue and self._queue[0][0] <= until and not done():
            self.now, _, what = heapq.heappop(self._queue)
            self.events += 1
            what()

    def settled(self) -> bool:
        """Whether every honest member holds all work, in order."""
        return all(
            p.node is not None and len(p.app.states[p.app.head].items) == self.work for p in self.places if not p.twin
        )

    # --- faults -------------------------------------------------------------------------------------------------

    def _plan_faults(self) -> None:
        heal = self.faults.heal_s
        when = self.rng.uniform(0, self.faults.partition_every_s)
        while when < heal:
            self.at(when, self._partition)
            when += self.rng.expovariate(1 / self.faults.partition_every_s)
        self.at(heal, self._heal)
        when = self.rng.expovariate(1 / self.faults.crash_every_s)
        while when < heal:
            place = self.rng.choice(self.places)
            self.at(when, functools.partial(self.crash, place))
            when += self.rng.expovariate(1 / self.faults.crash_every_s)
        for place in self.places:
            self.at(self.rng.uniform(0, HEARTBEAT_S), functools.partial(self._beat, place))

    def _plan_work(self, item: int) -> None:
        born = self.rng.uniform(0, self.faults.heal_s + 1)
        for place in self.places:
            self.at(born + self.rng.expovariate(1.0), functools.partial(self.hear, place, item))

    def _partition(self) -> None:
        if self.rng.random() < 0.5:
            names = [p.name for p in self.places]
            self.split = frozenset(self.rng.sample(names, self.rng.randrange(len(names))))
        else:
            # What twins are for: each half of the swarm meets a different copy of every liar.
            halves = [p.name for p in self.places if (p.name.endswith("'") if p.twin else self.rng.random() < 0.5)]
            self.split = frozenset(halves)

        for place in self.places:
            wrongly = self.rng.random() < 0.2
            place.app.suspected = frozenset(self.rng.sample(range(self.n), 1) if wrongly else ())

    def _heal(self) -> None:
        self.split = frozenset()
        for place in self.places:
            place.app.suspected = frozenset()

    def crash(self, place: Place) -> None:
        """Stop a process; it comes back after a while."""
        if place.node is None:
            return
        place.node = None
        if self.faults.forgetful:
            place.records = [r for r in place.records if r.kind == RECORD_BLOCK]
        back = min(self.now + self.rng.expovariate(1 / 3.0), max(self.faults.heal_s, self.now + 0.1))
        self.at(back, functools.partial(self.start, place))

    def start(self, place: Place) -> None:
        """Start a process from what is durable."""
        place.app = Toy()
        for final in place.chain:
            place.app.finalized(final, Header.decode(final.block.header), self.now)
        place.app.known |= place.heard
        place.app.lies = place.twin and self.rng.random() < 0.1
        place.node = Consensus(
            ledger_id=LEDGER,
            epoch=0,
            vote_keys=[key(i).public for i in range(self.n)],
            me=place.index,
            sign=key(place.index).sign,
            application=place.app,
            rng=random.Random(f"node/{self.seed}/{place.name}/{self.now}"),
            timing=self.timing,
            seed=self.seed,
            verify=verify_once,
        )
        place.accused = 0
        node = place.node
        self.do(place, lambda: node.restore(place.records))
        if place.node is not None:
            self.do(place, lambda: node.step(self.now))

    # --- members ------------------------------------------------------------------------------------------------

    def hear(self, place: Place, item: int) -> None:
        """A member learns of a piece of work."""
        place.heard.add(item)
        place.app.known.add(item)
        if place.node is not None:
            node = place.node
            if self.now < self.faults.heal_s and self.rng.random() < 0.1:
                place.app.stubborn = self.rng.randrange(1, 20)
            self.do(place, lambda: node.step(self.now))

    def _beat(self, place: Place) -> None:
        self.at(self.now + HEARTBEAT_S, functools.partial(self._beat, place))
        if place.node is not None:
            height = place.node.final_height
            for other in self.places:
                if other is not place:
                    self.post(place, other, functools.partial(self._on_beat, other, place, height))

    def _on_beat(self, place: Place, sender: Place, height: int) -> None:
        if place.node is not None and place.node.final_height < height:
            wanted = place.node.final_height
            self.post(place, sender, functools.partial(self._on_get, sender, place, wanted))

    def _on_get(self, place: Place, sender: Place, height: int) -> None:
        blocks = tuple(place.chain[height:])
        # A reply is bounded, and goes on until a block that has its own certificate.
        end = next((i for i in range(BLOCKS_REPLY_MAX, len(blocks)) if blocks[i - 1].certificate), len(blocks))
        if place.node is not None and blocks:
            self.post(place, sender, functools.partial(self._on_blocks, sender, blocks[:end]))

    def _on_blocks(self, place: Place, blocks: tuple[FinalBlock, ...]) -> None:
        if place.node is not None:
            node = place.node
            self.do(place, lambda: node.adopt_final(blocks, self.now))

    def do(self, place: Place, act: Callable[[], list[Output]]) -> None:
        """Let a member act, obey it in order, perhaps crash it on the way, and look at the truths."""
        try:
            outputs = act()
        except Reject as reason:
            raise Violation(f"seed {self.seed}: {place.name} rejected an honest message: {reason}") from reason
        except LedgerError as error:
            if not self.fork_allowed:
                raise Violation(f"seed {self.seed}: {place.name} saw a fork: {error}") from error
            outputs = []
        node = place.node
        assert node is not None
        crash_at = len(outputs) + 1
        if outputs and self.now < self.faults.heal_s and self.rng.random() < 0.004:
            crash_at = self.rng.randrange(len(outputs) + 1)
        for position, output in enumerate(outputs):
            if position == crash_at:
                if isinstance(output, Durable):
                    self._persist(place, output.records[: self.rng.randrange(len(output.records))])
                self.crash(place)
                return
            self._obey(place, output)
        self._check_evidence(place, node)
        self._sleep(place, node)

    def _sleep(self, place: Place, node: Consensus) -> None:
        place.wake += 1
        when = node.next_wake(self.now)
        if when is not None:
            self.at(max(when, self.now), functools.partial(self._woke, place, place.wake))

    def _woke(self, place: Place, wake: int) -> None:
        if place.node is not None and place.wake == wake:
            node = place.node
            self.do(place, lambda: node.step(self.now))

    def _obey(self, place: Place, output: Output) -> None:
        match output:
            case Durable():
                self._persist(place, output.records)
            case ToAll():
                self._check_wire(place, output.message)
                for other in self.places:
                    if other.index != place.index:
                        self._send(place, other, output.message)
            case ToOne():
                for other in self.places:
                    if other.index == output.to:
                        self._send(place, other, output.message)
            case Note():
                pass

    def _persist(self, place: Place, records: Sequence[Record]) -> None:
        for record in records:
            place.records.append(record)
            if record.kind == RECORD_BLOCK:
                final = codec.decode(record.payload, FinalBlock, limit=1 << 20)
                place.chain.append(final)
                self._check_final(place, Header.decode(final.block.header))

    # --- the network --------------------------------------------------------------------------------------------

    def _send(self, place: Place, other: Place, message: Message) -> None:
        # Twins must not learn from each other what they have signed, or they would stop being liars.
        if other.twin and isinstance(message, Vote) and message.signer == other.index:
            return
        if other.twin and isinstance(message, Block) and message.proposer == other.index:
            return
        self.messages += 1
        self.trace.update(f"{self.now:.9f} {place.name}>{other.name} ".encode() + codec.encode(message))
        self.post(place, other, functools.partial(self._deliver, other, place.index, message))

    def post(self, place: Place, other: Place, what: Callable[[], None]) -> None:
        """Carry something between two processes, or lose it, or carry it twice."""
        bad = self.now < self.faults.heal_s
        if bad and ((place.name in self.split) != (other.name in self.split) or self.rng.random() < self.faults.loss):
            return
        for _ in range(2 if bad and self.rng.random() < self.faults.duplication else 1):
            slow = 10.0 if bad and self.rng.random() < 0.1 else 1.0
            self.at(self.now + 0.005 + slow * self.rng.expovariate(1 / self.faults.delay_s), what)

    def _deliver(self, place: Place, sender: int, message: Message) -> None:
        node = place.node
        if node is None:
            return
        match message:
            case Block():
                self.do(place, lambda: node.on_proposal(message, sender, self.now))
            case Vote():
                self.do(place, lambda: node.on_vote(message, sender, self.now))
            case Certificate():
                self.do(place, lambda: node.on_certificate(message, sender, self.now))
            case Status():
                self.do(place, lambda: node.on_status(message, sender, self.now))
            case FinalBlock():
                self.do(place, lambda: node.adopt_final((message,), self.now))

    # --- truths -------------------------------------------------------------------------------------------------

    def _check_final(self, place: Place, header: Header) -> None:
        if not place.twin and self._finals.setdefault(header.height, header.hash) != header.hash:
            self.forked = True
            if not self.fork_allowed:
                raise Violation(f"seed {self.seed}: two final blocks at height {header.height}")

    def _check_wire(self, place: Place, message: Message) -> None:
        if isinstance(message, Vote):
            said = self._votes.setdefault((message.signer, message.view), [])
            if message not in said:
                if not place.twin and not self.faults.forgetful:
                    self._check_vote(place, message, said)
                said.append(message)

    def _check_vote(self, place: Place, vote: Vote, said: list[Vote]) -> None:
        named = f"seed {self.seed}: honest member {place.name}, view {vote.view}, kind {vote.kind}"
        if any(contradict(vote.kind, vote.block, other.kind, other.block) for other in said):
            raise Violation(f"{named}: contradicts its own vote")
        if vote.kind == FINALIZE and all((v.kind, v.block) != (NOTARIZE, vote.block) for v in said):
            raise Violation(f"{named}: finalizes what it did not notarize")
        durable = [(r.kind, r.payload) for r in place.records if r.height == vote.view]
        if (RECORD_VOTE, codec.encode(vote)) not in durable:
            raise Violation(f"{named}: sent before it was durable")
        bodies = [decode_block(payload) for kind, payload in durable if kind == RECORD_BODY]
        if vote.kind == NOTARIZE and vote.block not in [Header.decode(b.header).hash for b in bodies]:
            raise Violation(f"{named}: sent before its block was durable")

    def _check_evidence(self, place: Place, node: Consensus) -> None:
        if place.twin or self.faults.forgetful:
            return
        liars = {p.index for p in self.places if p.twin}
        for found in node.evidence[place.accused :]:
            if found.culprit not in liars:
                raise Violation(f"seed {self.seed}: honest member {found.culprit} accused of {found.rule}")
        place.accused = len(node.evidence)

    def culprits(self) -> list[int]:
        """Return who signed contradictory votes, from everything anybody ever said (I10)."""
        found = {
            signer
            for (signer, _), said in self._votes.items()
            for a, b in itertools.combinations(said, 2)
            if contradict(a.kind, a.block, b.kind, b.block)
        }
        return sorted(found)

    def final_certificates(self) -> Iterator[tuple[FinalBlock, Certificate]]:
        """Yield what finalized the honest members' blocks."""
        for place in self.places:
            for final in place.chain:
                for certificate in final.certificate:
                    yield final, certificate


def run(
    seed: int, n: int = 4, twins: int = 0, faults: Faults | None = None, *, work: int = 12, fork_allowed: bool = False
) -> Story:
    """Run one seed to its end. Raises `Violation` if a truth fails, or an honest member is not done in time."""
    faults = faults or Faults()
    world = World(seed, n, twins, faults, work=work, fork_allowed=fork_allowed)
    world.run(faults.heal_s + 1 + 10.0)  # all work is born, and known to everybody soon after
    limit = faults.heal_s + 400.0
    world.run(limit, world.settled)
    if not fork_allowed and not world.settled():
        standing = [f"{p.name}: {p.node and (p.node.final_height, p.node.current_view)}" for p in world.places]
        raise Violation(f"seed {seed}: not everybody was done by {limit} s: {', '.join(standing)}")
    honest = [p for p in world.places if not p.twin and p.node is not None]
    for final, certificate in world.final_certificates():
        certificate.check(LEDGER, [key(i).public for i in range(n)], quorum(n), verify_once)
        assert certificate.block == Header.decode(final.block.header).hash != NO_HASH
    return Story(
        seed=seed,
        events=world.events,
        virtual_s=world.now,
        height=max((p.node.final_height for p in honest if p.node), default=0),
        views=max((p.node.current_view for p in honest if p.node), default=0),
        messages=world.messages,
        accused=tuple(world.culprits()),
        forked=world.forked,
        digest=world.trace.hexdigest()[:16],
    )


def main() -> None:
    """Search seeds: `python -m tests.simulation.consensus_world --n 7 --twins 2 --seeds 1000`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--twins", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--beyond", action="store_true", help="more twins than tolerated: count forks and culprits")
    options = parser.parse_args()
    began, stories = time.process_time(), []
    for seed in range(options.first, options.first + options.seeds):
        try:
            stories.append(run(seed, options.n, options.twins, fork_allowed=options.beyond))
        except Violation as violation:
            print(violation)
    spent = time.process_time() - began
    forks = [s for s in stories if s.forked]
    proven = sum(len(s.accused) >= 2 * quorum(options.n) - options.n for s in forks)
    events = sum(s.events for s in stories)
    slowest = max((s.virtual_s for s in stories), default=0)
    print(f"{len(stories)} of {options.seeds} held; {len(forks)} forks, {proven} proven; slowest {slowest:.0f} s")
    print(f"{events} events in {spent:.1f} s; views {max((s.views for s in stories), default=0)}")


if __name__ == "__main__":
    main()

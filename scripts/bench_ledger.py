"""What the ledger costs, as ratios to limits measured in the same run.

    PYTHONPATH=. python scripts/bench_ledger.py [--members 7] [--rounds 60] [--repeats 15]

Real nodes write a ledger in the simulated world, then one core reads it. Every repetition measures the limits and the
readers in turn, so that a busy machine slows both; ratios are medians over the repetitions, times are processor time.

- *an entry*: decode it and its body, canonically; hash its leaf and its id; check its signature, once the entries of
  its block have been read, as an audit does, or at once. Limit: bare libsodium (PyNaCl's `crypto_sign_open`) over the
  very same messages, each once.
- *a whole audit*: all of `swarm ledger verify` on one core but reading the files: also votes, rules, state and tree.
  Beside it the audit alone, which has checked all signatures of a block before it goes on to the next.
- *hashes only*: `swarm ledger verify --fast`. Limit: half the rate of SHA-256 over 65 bytes, an inner node's input, for
  a tree has about two hashes a leaf. A leaf is several times as long as that and its block hashes it once more, so
  beside it stands what SHA-256 alone needs for those very bytes.
- *control bytes*: what agreement alone sends, beside two votes of 190 bytes to every other member and the proposal.
- *proofs*: from a tree in memory.
"""

import argparse
import gc
import hashlib
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log2

from nacl import bindings

from gossip import wire
from gossip.messages import CastVote, Certify, Propose, Standing
from node.cli.ledger.checking import Deferred, Workers, follow, walk
from node.core import Node
from swarm import codec, identity
from swarm.charter import SignedCharter
from swarm.ledger import entry as e
from swarm.ledger.audit import audit
from swarm.ledger.block import FinalBlock
from swarm.ledger.merkle import Tree, leaf_hash, verify_inclusion
from swarm.ledger.state import decode_body
from swarm.machine import RECORD_BLOCK, Effect, Event, NodeId, Send
from tests.builders import make_swarm
from topologies.families import complete
from topologies.world.clock import EPOCH_S
from topologies.world.learner import QuadraticTask
from topologies.world.world import World

VOTE_BYTES = 190
"""A vote in its frame, as `ledger.md` section 4 reckons it."""

AGREEMENT = (Propose, CastVote, Certify, Standing)

PROOF_LEAVES = 200_000


@dataclass(slots=True)
class Written:
    """A ledger, and what its members sent while they agreed on it."""

    signed: SignedCharter
    payloads: list[bytes]
    frames: Counter[str]
    sent: Counter[str]
    corrupt: None = None


def main() -> None:
    """Measure, and print one line a figure."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--members", type=int, default=7)
    options.add_argument("--rounds", type=int, default=60)
    options.add_argument("--repeats", type=int, default=15)
    chosen = options.parse_args()
    ledger = write(chosen.members, chosen.rounds)
    gc.collect()
    gc.freeze()  # what the world left behind is not for a reader's collector to walk through
    leaves = [leaf for payload in ledger.payloads for leaf in opened(payload).block.leaves]
    size = sum(map(len, ledger.payloads))
    print(f"{chosen.members} members, {len(ledger.payloads)} blocks, {len(leaves)} entries, {size / 1e6:.2f} MB")
    verification(ledger, leaves, chosen.repeats)
    control(ledger, chosen.members)
    proofs(chosen.repeats)


def line(what: str, value: str, goal: str) -> None:
    """Print a figure beside its goal."""
    print(f"{what:<62} {value:<36} {goal}", flush=True)


def opened(payload: bytes) -> FinalBlock:
    """Return the block of a record."""
    return codec.decode(payload, FinalBlock, limit=1 << 21)


def write(members: int, rounds: int) -> Written:
    """Let real nodes write a ledger in a calm world, and count what each sends."""
    swarm = make_swarm(members, rounds=rounds)
    frames: Counter[str] = Counter()
    sent: Counter[str] = Counter()

    def counted(member: int, incarnation: int) -> Node:
        node = swarm.node(member, now=EPOCH_S + world.now, seed=incarnation)
        handle = node.handle

        def counting(event: Event, now: float) -> Sequence[Effect]:
            effects = handle(event, now)
            for effect in effects:
                if isinstance(effect, Send):
                    kind = wire.kind(effect.frame)
                    assert kind is not None
                    frames[kind.__name__] += 1
                    sent[kind.__name__] += len(effect.frame)
            return effects

        node.handle = counting  # type: ignore[method-assign]
        return node

    world = World(
        seed=1,
        make=counted,
        topology=complete(members),
        learner=QuadraticTask(seed=1, samples=(100,) * members, bound=100.0),
        ids=[who.node for who in swarm.identities],
        blobs=[swarm.initial],
        ledger_id=swarm.signed.ledger_id,
    )
    assert world.run(lambda w: all(place.finished for place in w.places)), "the swarm did not finish"
    journal = world.place(0).journal
    assert journal is not None
    payloads = [record.payload for record in journal.open().records if record.kind == RECORD_BLOCK]
    return Written(swarm.signed, payloads, frames, sent)


def verification(ledger: Written, leaves: Sequence[bytes], repeats: int) -> None:
    """Entries, the whole audit and the hashes alone, each beside its limit."""
    keys = {card.node: card.id_key for card in ledger.signed.charter.members}
    records = [opened(payload).block.leaves for payload in ledger.payloads]
    by_blocks = [[leaf for leaf in block if e.decode_entry(leaf).author != e.NO_AUTHOR] for block in records]
    authored = [leaf for block in by_blocks for leaf in block]
    signed = [(entry, keys[NodeId(entry.author)]) for entry in map(e.decode_entry, authored)]
    ledger_id = ledger.signed.ledger_id
    prefix = identity.DOMAIN_ENTRY + ledger_id
    entries = [(entry.signature + prefix + entry.signed_bytes(), key) for entry, key in signed]
    checked = gathered(ledger)

    def read(leaf: bytes) -> e.Entry:
        entry = e.decode_entry(leaf)
        decode_body(entry)
        leaf_hash(leaf)
        _ = entry.id
        return entry

    def at_once() -> None:
        for leaf in authored:
            entry = read(leaf)
            e.verify_entry(entry, keys[NodeId(entry.author)], ledger_id)

    def by_block() -> None:
        for block in by_blocks:
            for entry in [read(leaf) for leaf in block]:
                e.verify_entry(entry, keys[NodeId(entry.author)], ledger_id)

    def whole() -> None:
        result = follow(Reading(ledger), Deferred(Workers(1)))  # type: ignore[arg-type]
        assert result.failure is None, result.failure

    def audited() -> None:
        *_, result = audit(ledger.payloads, ledger.signed)
        assert result.failure is None, result.failure

    def hashes() -> None:
        found = walk(Reading(ledger), lambda *_: None)  # type: ignore[arg-type]
        assert found.failure is None, found.failure

    node = bytes(65)
    joined = [b"".join(block) for block in records]

    def inner_nodes() -> None:
        for _ in leaves:
            hashlib.sha256(node).digest()
            hashlib.sha256(node).digest()

    def same_bytes() -> None:
        for leaf in leaves:
            hashlib.sha256(leaf).digest()
            hashlib.sha256(node).digest()
        for block in joined:
            hashlib.sha256(block).digest()

    measured: dict[str, list[float]] = {}
    works: dict[str, Callable[[], None]] = {
        "bare entries": lambda: bare(entries),
        "entries": by_block,
        "at once": at_once,
        "bare all": lambda: bare(checked),
        "whole": whole,
        "audited": audited,
        "nodes": inner_nodes,
        "hashes": hashes,
        "same bytes": same_bytes,
    }
    for _ in range(repeats):
        for name, work in works.items():
            begun = time.process_time()
            work()
            measured.setdefault(name, []).append(time.process_time() - begun)

    def ratio(limit: str, reader: str) -> str:
        pairs = zip(measured[limit], measured[reader], strict=True)
        ratios = sorted(a / b for a, b in pairs)
        return (
            f"{statistics.median(ratios):.2f} ({ratios[len(ratios) // 4]:.2f} to {ratios[-1 - len(ratios) // 4]:.2f})"
        )

    rate = len(entries) / statistics.median(measured["bare entries"])
    line("bare Ed25519, one core", f"{rate:,.0f} a second", "")
    line("an entry: decoding, hashing, signature; to bare Ed25519", ratio("bare entries", "entries"), "goal >= 0.80")
    line("the same with each signature checked as its entry is read", ratio("bare entries", "at once"), "")
    line(f"a whole audit, {len(checked)} signatures; to bare Ed25519", ratio("bare all", "whole"), "goal >= 0.80")
    line("the same, each block's signatures checked before the next", ratio("bare all", "audited"), "goal >= 0.80")
    rate = len(leaves) / statistics.median(measured["hashes"])
    line("hashes only", f"{rate:,.0f} entries a second", "")
    line("hashes only, to half the rate of SHA-256 over 65 bytes", ratio("nodes", "hashes"), "goal >= 0.50")
    line("hashes only, to SHA-256 over the very bytes", ratio("same bytes", "hashes"), "")


class Reading:
    """A ledger as `walk` reads it: `node.cli.ledger.sources.Source`, from memory."""

    corrupt = None

    def __init__(self, ledger: Written) -> None:
        self.signed = ledger.signed
        self.payloads = ledger.payloads.__iter__


def bare(checks: Sequence[tuple[bytes, bytes]]) -> None:
    """Check signatures with libsodium and nothing else."""
    for signed, key in checks:
        bindings.crypto_sign_open(signed, key)


def gathered(ledger: Written) -> list[tuple[bytes, bytes]]:
    """Return every signature that a whole audit checks, as libsodium gets it."""
    checks: list[tuple[bytes, bytes]] = []
    verify = identity.verify

    def noting(public_key: bytes, message: bytes, signature: bytes) -> bool:
        checks.append((signature + message, public_key))
        return verify(public_key, message, signature)

    identity.verify = noting
    try:
        *_, result = audit(ledger.payloads, ledger.signed)
    finally:
        identity.verify = verify
    assert result.failure is None, result.failure
    return checks


def control(ledger: Written, members: int) -> None:
    """What agreement sends a block and node, beside the least it must."""
    blocks = len(ledger.payloads)
    agreement = sum(ledger.sent[kind.__name__] for kind in AGREEMENT) / blocks / members
    # One of the members sends the proposal to all others.
    proposals = ledger.sent["Propose"] / blocks / members
    least = 2 * (members - 1) * VOTE_BYTES + proposals
    value = f"{agreement / least:.2f} ({agreement:,.0f} of {least:,.0f} bytes)"
    line("agreement, bytes a block and node", value, "goal <= 1.30")
    total = sum(ledger.sent.values())
    shares = ", ".join(f"{kind} {count / total:.0%}" for kind, count in ledger.sent.most_common(7))
    line("all control bytes a block and node", f"{total / blocks / members:,.0f}", f"{shares}")
    least_frames = 2 * (members - 1) * members * blocks
    votes, size = ledger.frames["CastVote"], ledger.sent["CastVote"]
    line("votes sent, of two to each other member", f"{votes / least_frames:.2f}, {size / votes:.0f} bytes each", "")


def proofs(repeats: int) -> None:
    """How long a proof takes from a tree in memory, and how long it is."""
    tree = Tree(leaf_hash(b"%d" % number) for number in range(PROOF_LEAVES))
    root, chosen = tree.root(), range(0, PROOF_LEAVES, PROOF_LEAVES // 500)
    spent: list[float] = []
    for _ in range(repeats):
        for index in chosen:
            begun = time.perf_counter()
            proof = tree.inclusion_proof(index)
            spent.append(time.perf_counter() - begun)
    spent.sort()
    longest = 0
    for index in chosen:
        proof = tree.inclusion_proof(index)
        verify_inclusion(leaf_hash(b"%d" % index), index, PROOF_LEAVES, proof, root)
        longest = max(longest, len(proof))
    value = f"{spent[len(spent) // 2] * 1e6:.0f} us, 99 % within {spent[len(spent) * 99 // 100] * 1e6:.0f} us"
    line(f"a proof from a tree of {PROOF_LEAVES:,} leaves in memory", value, "goal <= 2 ms")
    line("its size, to 32 bytes a level", f"{longest / ceil(log2(PROOF_LEAVES)):.2f}", "goal 1.00")


if __name__ == "__main__":
    main()

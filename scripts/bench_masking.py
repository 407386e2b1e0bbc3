"""What masking costs beside what it is made of: bytes beside those of the plain update, time beside the bare generator.

    PYTHONPATH=. python scripts/bench_masking.py [--elements 1000000] [--members 10] [--repeats 7] [--json FILE]

One process, one thread, processor time; for each width of the ring the same work and its limit in turn, several times
over, medians of the ratios. A member's whole part counts, not its best loop:

- *bytes*: everything a member sends in a round because of masks (its keys, its deal, its masked update, what it
  reveals), beside the float32 update that it would send without.
- *masking*: drawing keys, dealing shares, taking everybody's deals, agreeing on seeds, weighting, putting the masks on,
  packing; beside the key streams of those very masks, written into one buffer.
- *unmasking*: unpacking and adding everybody's words, putting secrets together from shares, taking masks off; beside
  the key streams that are taken off. Once with everybody in the close, once with as many gone as the threshold allows.

Goals: bytes at most 1.2, masking at most 3.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from swarm import codec
from swarm.machine import Digest, NodeId
from swarm.masking import masks
from swarm.masking.attempt import Attempt
from swarm.masking.keys import Occasion
from swarm.masking.masks import Mask
from swarm.masking.ring import WIDTHS, Ring, weight_total
from swarm.masking.statements import Close, Keys, Reveal, Roster, Seat, beacon, read_deal
from swarm.masking.unmasking import Unmasking
from swarm.mixing.average import BLOCK_ELEMENTS

BYTES_GOAL, MASKING_GOAL = 1.2, 3.0
CLIP_NORM_MILLI = 10_000
SAMPLES = 100


def spent(work: Callable[[], object]) -> float:
    """Return the processor time of one call."""
    before = time.process_time()
    work()
    return time.process_time() - before


def bare(ring: Ring, elements: int, streams: int) -> None:
    """The generator alone: as many key streams as there are masks, into one buffer, in blocks of the same size."""
    zeros = bytes(ring.dtype.itemsize * BLOCK_ELEMENTS)
    out = bytearray(len(zeros) + 16)
    for _ in range(streams):
        cipher = Cipher(algorithms.AES256(bytes(32)), modes.CTR(bytes(16))).encryptor()
        for start in range(0, elements, BLOCK_ELEMENTS):
            size = ring.dtype.itemsize * min(BLOCK_ELEMENTS, elements - start)
            cipher.update_into(memoryview(zeros)[:size], out)


class Swarm:
    """Members up to the moment when each of them may mask."""

    def __init__(self, count: int) -> None:
        self.occasion = Occasion(secrets.token_bytes(32), 1, 1)
        self.nodes = [NodeId(secrets.token_bytes(32)) for _ in range(count)]
        self.roots = [secrets.token_bytes(32) for _ in range(count)]
        attempts = [Attempt(self.occasion, node, root) for node, root in zip(self.nodes, self.roots, strict=True)]
        seats = [Seat(node, SAMPLES, *one.keys) for node, one in zip(self.nodes, attempts, strict=True)]
        model = beacon(self.occasion, bytes(32))
        self.roster = Roster(self.occasion.ledger_id, 1, 1, model, count, tuple(seats))
        self.deals = [codec.encode(one.enrol(self.roster)) for one in attempts]

    def member(self, number: int) -> Attempt:
        """Go through a member's part up to its masks."""
        one = Attempt(self.occasion, self.nodes[number], self.roots[number])
        Keys(1, 1, 0, bytes(32), SAMPLES, *one.keys).check()
        codec.encode(one.enrol(self.roster))
        for node, data in zip(self.nodes, self.deals, strict=True):
            one.take_deal(node, data)
        return one

    def unmasks(
        self, ring: Ring, elements: int, words: Sequence[bytes], reveals: Sequence[Reveal], close: Close
    ) -> None:
        """What everybody does after the close."""
        total = ring.words(elements)
        for node, packed in zip(self.nodes, words, strict=True):
            if node in close.included:
                masks.add(total, ring.unpack(packed, elements))
        masks.apply(total, ring, self.unmasking(close, reveals))
        ring.sums(total, SAMPLES * len(close.included))

    def unmasking(self, close: Close, reveals: Sequence[Reveal]) -> tuple[Mask, ...]:
        """From what is revealed to masks."""
        deals = {place: read_deal(data, self.roster, place) for place, data in enumerate(self.deals)}
        found = Unmasking(self.roster, close, deals)
        for node, reveal in zip(self.nodes, reveals, strict=False):
            found.take(node, reveal)
        made = found.masks()
        assert made is not None, found.lacking()
        return made


def measure(bits: int, elements: int, members: int, repeats: int) -> dict[str, float]:
    """Return the ratios of one width."""
    swarm = Swarm(members)
    shape = swarm.roster.shape
    ring = Ring.fitting(bits, weight_total=weight_total(bits, members), clip_norm_milli=CLIP_NORM_MILLI)
    update = (np.random.default_rng(1).standard_normal(elements) * 1e-3).astype(np.float32)

    def mask() -> bytes:
        one = swarm.member(0)
        return ring.pack(masks.masked(update, ring, one.weight, one.masks()))

    ratios: dict[str, list[float]] = {}
    limit = spent(lambda: bare(ring, elements, shape.degree + 1))
    for _ in range(repeats):
        took = spent(mask)
        limit = spent(lambda: bare(ring, elements, shape.degree + 1))
        ratios.setdefault("masking", []).append(took / limit)

    attempts = [swarm.member(number) for number in range(members)]
    words = [ring.pack(masks.masked(update, ring, one.weight, one.masks())) for one in attempts]
    for one, packed in zip(attempts, words, strict=True):
        assert one.offer(Digest(bytes(32))), packed[:0]
    records = [one.to_bytes() for one in attempts]
    reveal_bytes = 0
    for name, included in (("all there", members), ("fewest there", shape.included_min)):
        close = Close(9, tuple(swarm.nodes[:included]))
        reveals = []
        for record in records:
            one = Attempt.from_bytes(record)
            one.enrol(swarm.roster)
            for node, data in zip(swarm.nodes, swarm.deals, strict=True):
                one.take_deal(node, data)
            said = one.close(close)
            assert said is not None, "nothing was said before"
            reveals.append(said)
        reveal_bytes = max(reveal_bytes, len(codec.encode(reveals[0])))
        taken = swarm.unmasking(close, reveals)
        for _ in range(repeats):
            took = spent(lambda close=close, reveals=reveals: swarm.unmasks(ring, elements, words, reveals, close))
            alone = spent(lambda taken=taken: bare(ring, elements, len(taken)))
            ratios.setdefault(f"unmasking, {name}", []).append(took / alone)
        ratios[f"masks taken off, {name}"] = [len(taken)]

    keys = len(codec.encode(Keys(1, 1, 0, bytes(32), SAMPLES, *attempts[0].keys)))
    sent = len(words[0]) + len(swarm.deals[0]) + keys + reveal_bytes
    found = {name: statistics.median(values) for name, values in ratios.items()}
    return {
        "bytes": sent / update.nbytes,
        "bytes of the masked update alone": len(words[0]) / update.nbytes,
        "bytes beside it": float(sent - len(words[0])),
        "binary places": float(ring.fraction),
        "generator alone, GB/s": ring.dtype.itemsize * elements * (shape.degree + 1) / limit / 1e9,
        **found,
    }


def main() -> None:
    """Print ratios, and whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=1_000_000)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print(f"{args.elements:,} elements, {args.members} members; load {os.getloadavg()[0]:.1f}")
    results = {}
    for bits in WIDTHS:
        found = results[str(bits)] = measure(bits, args.elements, args.members, args.repeats)
        print(f"\n{bits} bits")
        for name, value in found.items():
            goal = {"bytes": BYTES_GOAL, "masking": MASKING_GOAL}.get(name)
            verdict = "" if goal is None else f"   goal at most {goal:g}: {'met' if value <= goal else 'MISSED'}"
            print(f"  {name:34}{value:12,.3f}{verdict}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

"""How fast a ledger is verified, as a share of what the processor's cores can check signatures.

    python scripts/ledger_verify_rate.py [--members 10] [--rounds 60] [--times 3]

Makes a ledger by real nodes in the simulated world, then measures in turn: bare Ed25519 checks on all cores (c x L,
with messages of the size of the ledger's), `verify --full` with its processes, and `verify --fast`, whose limit is two
SHA-256 of 65 bytes for each entry. Prints the best of each; the ratios are what the design's section 4 sets goals for.
"""

import argparse
import hashlib
import multiprocessing
import os
import pathlib
import tempfile
import time

from node import bundle
from node.cli.ledger.checking import Deferred, follow, walk, workers
from node.cli.ledger.sources import open_ledger
from swarm.identity import SigningKey, verify
from swarm.ledger.state import Signatures
from tests.benchmarks.ledgers import make_ledger

CHECKS = 4000
MESSAGE_BYTES = 400


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--members", type=int, default=10)
    options.add_argument("--rounds", type=int, default=60)
    options.add_argument("--times", type=int, default=3)
    options.add_argument("--ledger", type=pathlib.Path, help="Measure on this one: a site's folder or a bundle.")
    options.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        site = pathlib.Path(folder) / "made.bundle"
        if chosen.ledger is not None:
            site = chosen.ledger
        else:
            signed, payloads, _ = make_ledger(members=chosen.members, rounds=chosen.rounds)
            bundle.write(site, bundle.encode(signed, payloads))
        signatures, blocks = _signatures(site)
        runs = [_measure(site, signatures, chosen.cores) for _ in range(chosen.times)]
    limit, full, alone, fast, hashes = (max(column) for column in zip(*runs, strict=True))
    ratios = sorted(run[1] / run[0] for run in runs)
    print(f"{signatures} signatures in {blocks} blocks, {chosen.cores} cores")
    print(f"bare Ed25519 on all cores        {limit:>10,.0f} a second")
    print(f"verify --full                    {full:>10,.0f} a second   {full / limit:.2f} of it (goal 0.65)")
    print(f"  run by run                     {' '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(f"verify --full on one core        {alone:>10,.0f} a second")
    print(f"verify --fast                    {fast:>10,.0f} entries    {fast / (hashes / 2):.2f} of SHA-256 / 2")


def _measure(site: pathlib.Path, signatures: int, cores: int) -> tuple[float, float, float, float, float]:
    """Return (bare checks, full, full on one core, fast in entries, SHA-256 of 65 bytes), each a second."""
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        pool.map(_checks, [64] * cores, chunksize=1)
        begun = time.perf_counter()
        pool.map(_checks, [CHECKS] * cores, chunksize=1)
        bare = cores * CHECKS / (time.perf_counter() - begun)
    full = signatures / _full(site, cores)
    alone = signatures / _full(site, 1)
    begun = time.perf_counter()
    found = walk(open_ledger(site), lambda *_: None)
    fast = found.entries / (time.perf_counter() - begun)
    data = bytes(65)
    begun = time.perf_counter()
    for _ in range(100_000):
        hashlib.sha256(data).digest()
    return bare, full, alone, fast, 100_000 / (time.perf_counter() - begun)


class _Counting(Signatures):
    """Believes every signature, and counts what would have been checked."""

    count = 0

    def verify(self, *_: object) -> None:
        self.count += 1

    def check(self, *_: object) -> bool:
        self.count += 1
        return True


def _signatures(site: pathlib.Path) -> tuple[int, int]:
    counting = _Counting()
    result = follow(open_ledger(site), counting)
    return counting.count, result.blocks


def _full(site: pathlib.Path, cores: int) -> float:
    begun = time.perf_counter()
    with workers(cores) as made:
        result = follow(open_ledger(site), Deferred(made))
    assert result.failure is None, result.failure
    return time.perf_counter() - begun


def _checks(count: int) -> None:
    key = SigningKey.from_seed(bytes(32))
    message = bytes(MESSAGE_BYTES)
    signature = key.sign(message)
    for _ in range(count):
        assert verify(key.public, message, signature)


if __name__ == "__main__":
    main()

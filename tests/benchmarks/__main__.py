"""`make bench`: what the README claims, as ratios to a limit measured in the same run.

python -m tests.benchmarks [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from swarm.identity import SigningKey, verify
from swarm.ledger.audit import audit
from swarm.vector import leaf_hashes
from tests.benchmarks.hospitals import run_hospitals
from tests.benchmarks.ledgers import make_ledger
from tests.benchmarks.pairs import MIB, PairResult, ed25519_rate, raw_curve, run_pair

UPDATE_BYTES = 40 * 10**6
BIG_BYTES = 400 * 10**6


def main() -> int:
    """Measure and print one line a figure."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="fewer repetitions, no 400 MB model")
    chosen = options.parse_args()
    repeats = 1 if chosen.quick else 3
    exchange(repeats)
    if not chosen.quick:
        big_model()
    ledger()
    hospitals(repeats)
    return 0


def line(what: str, value: str, goal: str) -> None:
    print(f"{what:<58} {value:<34} {goal}", flush=True)


def exchange(repeats: int) -> None:
    """A 40 MB update one way, the whole exchange of a round, and what of its CPU is hashing and signing."""
    elements = UPDATE_BYTES // 4
    ratios, rounds, rates, cpu = [], [], [], []
    for _ in range(repeats):
        raw = raw_curve(10 * UPDATE_BYTES // MIB * MIB)
        rates.append(raw)
        with tempfile.TemporaryDirectory() as folder:
            # Peer 1 trains for a second, so that the update of peer 0 travels alone.
            result = run_pair(Path(folder), elements=elements, rounds=6, delay_s=1.0)
        ratios += [float(e["size"]) / float(e["seconds"]) / raw for e in result.of(1, "sealed")[1:]]
        with tempfile.TemporaryDirectory() as folder:
            result = run_pair(Path(folder), elements=elements, rounds=8)
        rounds += exchanges(result)[1:]
        cpu.append(sum(float(result.of(peer, "end")[0]["cpu_s"]) for peer in (0, 1)) / 8)
    raw_rate, whole = statistics.median(rates), statistics.median(rounds)
    line("raw pyzmq CURVE, 1 MiB messages", f"{raw_rate / 1e9:.2f} GB/s", "")
    ratio = statistics.median(ratios)
    line("40 MB update, one way, against raw", f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})", "goal >= 0.70")
    scaled = whole * raw_rate / 0.7e9
    line(
        "two-peer exchange of a 40 MB round, no training",
        f"{whole:.3f} s ({scaled:.3f} s at 0.7 GB/s)",
        "goal <= 0.25 s at 0.7",
    )
    share = hashing_and_signing(UPDATE_BYTES) / statistics.median(cpu)
    line("hashing and signing, share of that CPU", f"{share:.1%}", "goal <= 10 %")


def exchanges(result: PairResult) -> list[float]:
    """Return per round the seconds from both updates being handed over to both peers holding the mean."""

    def last(event: str) -> dict[int, float]:
        times: dict[int, float] = {}
        for peer in (0, 1):
            for line in result.of(peer, event):
                number = int(line["round"])
                times[number] = max(times.get(number, 0.0), float(line["at"]))
        return times

    begun, done = last("handed_over"), last("mixed")
    return [done[number] - begun[number] for number in sorted(done)]


def hashing_and_signing(size: int) -> float:
    """CPU seconds both peers spend on it in one round: two updates and two means hashed by each, ~40 signatures."""
    data = np.random.default_rng(0).standard_normal(size // 4).astype("<f4")
    begun = time.process_time()
    leaf_hashes(data)
    hashing = time.process_time() - begun
    key = SigningKey.from_seed(bytes(32))
    begun = time.process_time()
    for _ in range(100):
        verify(key.public, b"m" * 300, key.sign(b"m" * 300))
    return 2 * 3 * hashing + 2 * 40 * (time.process_time() - begun) / 100


def big_model() -> None:
    """A 400 MB model passes without the node growing with it."""
    with tempfile.TemporaryDirectory() as folder:
        result = run_pair(Path(folder), elements=BIG_BYTES // 4, rounds=1, timeout_s=600)
    fetched = result.of(1, "sealed")[0]
    begin, end = (float(result.of(1, event)[0]["rss_kib"]) / 1024 for event in ("begin", "end"))
    lost = len(result.of(0, "link_down")) + len(result.of(1, "link_down"))
    rate = float(fetched["size"]) / float(fetched["seconds"]) / 1e9
    beyond = end - begin - BIG_BYTES / MIB
    line("400 MB model fetched", f"{rate:.2f} GB/s, links lost {lost}", "goal: none lost")
    line("peak memory beyond start and the model itself", f"{beyond:+.0f} MiB", "goal <= 64 MiB")


def ledger() -> None:
    """Verification of a whole ledger against the bare Ed25519 rate."""
    signed, payloads, signatures = make_ledger(members=7, rounds=60)
    ratios = []
    for _ in range(3):
        bare = ed25519_rate()
        begun = time.perf_counter()
        *_, result = audit(payloads, signed)
        spent = time.perf_counter() - begun
        assert result.failure is None, result.failure
        ratios.append(signatures / spent / bare)
    ratio = statistics.median(ratios)
    line("ledger verification against bare Ed25519", f"{ratio:.2f} ({signatures} signatures)", "goal >= 0.60")


def hospitals(repeats: int) -> None:
    """The five hospitals of the demo: from their start to the first round, and what a round costs beside training."""
    firsts, overheads, trainings = [], [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            run = run_hospitals(Path(folder), rounds=12)
        firsts.append(run.first_round_s)
        overheads += run.overhead_s
        trainings += run.training_s
    line("start of five peers to the first committed round", f"{statistics.median(firsts):.1f} s", "goal <= 5 s")
    overhead, training = statistics.median(overheads), statistics.median(trainings)
    value = f"{overhead:.3f} s beside {training:.3f} s of training"
    line("node overhead a round, five peers on this machine", value, "")


if __name__ == "__main__":
    sys.exit(main())

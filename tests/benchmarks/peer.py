"""One real peer without torch, for measuring everything but training: its trainer hands over a prepared update at once.

    python -m tests.benchmarks.peer FOLDER --elements N [--empty] [--delay S]

`--empty` begins without the charter's initial model, so that it must be fetched from the other peer. Prints JSON lines
with what happened when, and at the end the process's memory and processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gossip.zeromq import Transport
from node.auditor import Auditor
from node.bulk import BulkWorker
from node.clock import Clock
from node.core import Node
from node.runtime import Ports, Runtime, seeded
from node.site import Site
from node.storage import BlobStore, RealDisk, SnapshotFile
from node.trainer import Described, EvaluateDone, TrainDone, TrainerEvent
from swarm.ledger.journal import Journal
from swarm.machine import Effect, Event, Keep, Report, Seal, Started
from swarm.vector import Layout, TensorSpec


class InstantTrainer:
    """Has the interface of `node.trainer.Trainer` and trains in no time."""

    def __init__(self, elements: int, seed: int, *, empty: bool, delay_s: float) -> None:
        self._elements, self._empty, self._delay_s = elements, empty, delay_s
        self._update = np.random.default_rng(seed).standard_normal(elements).astype("<f4") * np.float32(1e-4)
        self._read, self._write = os.pipe()
        self._events: deque[TrainerEvent] = deque()

    def start(self) -> None:
        pass

    def fileno(self) -> int:
        return self._read

    def describe(self, path: Path) -> None:
        np.full(self._elements, 1.0 if self._empty else 0.0, "<f4").tofile(path)
        self._tell(Described(layout(self._elements).encode()))

    def train(self, round_: int, model: Path, update: Path, *, rounds: int = 0, correction: Path | None = None) -> None:
        def deliver() -> None:
            self._update[round_] += np.float32(1e-4)
            self._update.tofile(update)
            emit("handed_over", round=round_)
            self._tell(TrainDone(round_, 100, {}))

        if self._delay_s:
            threading.Timer(self._delay_s, deliver).start()
        else:
            deliver()

    def evaluate(self, round_: int, model: Path) -> None:
        self._tell(EvaluateDone(round_, 100, {"loss": 0.0}))

    def poll(self, now: float) -> list[TrainerEvent]:
        events = list(self._events)
        self._events.clear()
        for _ in events:
            os.read(self._read, 1)
        return events

    def close(self) -> None:
        pass

    def _tell(self, event: TrainerEvent) -> None:
        self._events.append(event)
        os.write(self._write, b"!")


class Watched(Node):
    """The node, with the times at which bulk effects were decided."""

    marks: dict[str, float]

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects = list(super().handle(event, now))
        for effect in effects:
            if isinstance(effect, Keep):
                self.marks.setdefault(f"first {effect.digest.hex()}", time.perf_counter())
            elif isinstance(effect, Seal):
                begun = self.marks.get(f"first {effect.digest.hex()}", 0.0)
                emit("sealed", seconds=time.perf_counter() - begun, size=effect.size)
        return effects


def layout(elements: int) -> Layout:
    return Layout((TensorSpec("w", (elements,)),))


def emit(event: str, **values: object) -> None:
    print(json.dumps({"event": event, "at": time.perf_counter(), **values}), flush=True)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--elements", type=int, required=True)
    options.add_argument("--empty", action="store_true")
    options.add_argument("--delay", type=float, default=0.0, help="seconds that training takes")
    chosen = options.parse_args()
    site = Site(chosen.folder)
    settings, identity = site.load_settings(environment={}), site.load_identity()
    signed = site.load_charter(settings)
    clock = Clock()
    disk = RealDisk(site.ledger)
    journal = Journal(disk, ledger_id=signed.ledger_id)
    opened = journal.open()
    store = BlobStore(site.blobs)
    transport = Transport(
        secret_key=identity.curve_secret,
        public_key=identity.curve_public,
        listen=settings.site.listen or None,
        peers=[],
        clock=clock.now,
        rng=seeded(identity.node),
    )
    bulk = BulkWorker(store, elements=chosen.elements, bound=signed.charter.clip_norm, wake=transport.wake)
    node = Watched(
        signed=signed,
        identity=identity,
        rng=seeded(identity.node),
        now=clock.now(),
        code_digest=signed.charter.task.digest,
        layout_digest=signed.charter.task.layout,
    )
    node.marks = {}
    trainer = InstantTrainer(chosen.elements, identity.node[0], empty=chosen.empty, delay_s=chosen.delay)

    def report(fact: Report, now: float) -> None:
        if fact.event in (
            "trained",
            "mixed",
            "round_committed",
            "link_down",
            "peer_fault",
            "ledger_halted",
            "store_failed",
        ):
            emit(fact.event, text=fact.text, round=fact.values.get("round", 0))

    def snapshot(status: Mapping[str, object], now: float) -> None:
        pass

    runtime = Runtime(
        node,
        Ports(
            transport,
            journal,
            store,
            trainer,
            bulk,
            clock,
            SnapshotFile(site.ledger / "snapshot"),
            Auditor(site.folder, marker=site.ledger / "unaudited", run=site.run),
        ),  # type: ignore[arg-type]
        control=site.control,
        report=report,
        snapshot=snapshot,
        linger_s=20.0,
        layout_digest=signed.charter.task.layout,
        layout_path=site.run / "layout",
        public=site.ledger,
        finished=lambda: None,
        curve_key=identity.curve_public,
        keys=site,
    )
    emit("begin", rss_kib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    blobs, partial = store.listing()
    runtime.run(Started(opened.records, blobs, partial))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    emit("end", rss_kib=usage.ru_maxrss, cpu_s=usage.ru_utime + usage.ru_stime)
    return 0


if __name__ == "__main__":
    sys.exit(main())

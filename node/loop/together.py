"""SHELL. A user's script that runs in several processes, as `torchrun` starts it: one peer, held by all of them.

::

    peer = swarm.join(sys.argv[1], model)
    torch.distributed.init_process_group()
    net = DistributedDataParallel(model)
    while peer.running:
        peer.receive()
        ...
        peer.send(samples=len(share), metrics={"loss": loss})

Only the first process talks to the node. What it hears the others hear from it: whether there is another round, and its
model. What they trained is one model, which is checked; examples are added up, and metrics are means weighted by them.
So all have to call `running`, `receive`, `send` and `enough` equally often, in the same order, as they do with any
collective operation. An error of the first is an error in all.

The processes have the script's process group in common, which it makes as it likes. For words between them this makes a
group of its own over gloo, without a limit on time: the first may wait for a round as long as other sites take.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import distributed

from node.loop.parameters import Parameters
from node.loop.peer import plain
from node.ranks import merged
from node.task import checked_result
from swarm.errors import SwarmError, UsageError

if TYPE_CHECKING:
    from node.loop.peer import Evaluation, Peer

WAIT = dt.timedelta(days=365)
"""Longest wait of the others for the first: as long as a swarm takes. If it ends, they see that at once."""


class SharedPeer:
    """What `swarm.join` returns to each process of several; as `node.loop.peer.Peer`, but for two attributes more.

    Attributes:
        rank: Which process this is, from 0.
        processes: How many there are.
        round: The one in work, from 1.
        seed: A seed for that round, the same in all processes.
    """

    def __init__(self, peer: Peer, parameters: Parameters, model: object, *, budgeted: bool) -> None:
        self._peer, self._parameters, self._model, self._budgeted = peer, parameters, model, budgeted
        self.rank, self.processes = place()
        self.name, self.data, self.rounds = peer.name, peer.data, peer.rounds
        self.index, self.sites = peer.index, peer.sites
        self.round = self.seed = 0
        self._group: Any = None

    @property
    def running(self) -> bool:
        """Whether there is another round to train, in all processes the same. Waits until that is known."""
        running = bool(self._heard(lambda: self._peer.running))
        if not running:
            self._share_model()  # What the swarm has learned.
        return running

    @property
    def scoring(self) -> int:
        """The round whose common model was given to evaluate last; in the first process alone."""
        return self._peer.scoring

    def receive(self) -> Any:
        """Write the parameters of the next round into the model, in all processes, and return it."""

        def received() -> tuple[int, int]:
            self._peer.receive()
            return self._peer.round, self._peer.seed

        self.round, self.seed = self._heard(received)
        self._share_model()
        return self._model

    def send(
        self,
        model: object = None,
        *,
        samples: int,
        metrics: Mapping[str, Any] | None = None,
        evaluation: Mapping[str, Any] | None = None,
    ) -> bool:
        """Hand in what was trained since `receive`, as `Peer.send`. Each process says on how many examples *it* did.

        Raises:
            UsageError: as `Peer.send`, or processes ended with other parameters than the first.
        """
        trained = self._peer.parameters_of(model)
        count, numbers, _ = checked_result({**plain(metrics or {}), "samples": samples}, "send")
        vector = trained.read()
        parts = [vector[start:end].tobytes() for start, end in trained.trained()]
        mine = {"did": "send", "samples": count, "metrics": numbers, "trained": _digest(parts)}
        found = self._gathered(mine)

        def sent() -> bool:
            whole: Mapping[str, Any] = merged(found[0], found[1:])
            if "error" in whole:
                raise UsageError(str(whole["error"]))
            total, means = whole["samples"], whole["metrics"]
            return self._peer.send(model, samples=total, metrics=means, evaluation=evaluation)

        return bool(self._heard(sent))

    def evaluate(self, function: Evaluation) -> Evaluation:
        """Let `function(model)` score each round's common model, in the first process, as `Peer.evaluate`."""
        return self._peer.evaluate(function) if self.rank == 0 else function

    def enough(self) -> bool:
        """Whether this site's budget for a round is spent, in all processes the same."""
        return bool(self._heard(self._peer.enough)) if self._budgeted else False

    def step(self) -> None:
        """Say that training goes on, where no torch optimizer steps."""
        self._peer.step()

    def close(self) -> None:
        """Leave, as `Peer.close`."""
        self._peer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- between the processes ----------------------------------------------------------------------------------

    def _heard(self, action: Callable[[], Any]) -> Any:
        """Do something in the first process and return, in all, what came of it: plain values, or its error."""
        if self.rank:
            told = self._broadcast(None)
            if "error" in told:
                raise SwarmError(str(told["error"]), hint=str(told["hint"]))
            return told["value"]
        self._channel()  # Or the first would begin something that no other hears of.
        try:
            value = action()
        except SwarmError as error:
            self._broadcast({"error": error.message, "hint": error.hint})
            raise
        self._broadcast({"value": value})
        return value

    def _share_model(self) -> None:
        vector = torch.from_numpy(np.array(self._parameters.read(), np.float32))
        distributed.broadcast(vector, 0, group=self._channel())
        if self.rank:
            self._parameters.write(vector.numpy())

    def _broadcast(self, message: Mapping[str, Any] | None) -> dict[str, Any]:
        group = self._channel()
        data = b"" if message is None else json.dumps(message).encode()
        size = torch.tensor([len(data)])
        distributed.broadcast(size, 0, group=group)
        body = torch.tensor(list(data), dtype=torch.uint8) if data else torch.zeros(int(size), dtype=torch.uint8)
        distributed.broadcast(body, 0, group=group)
        told: dict[str, Any] = json.loads(body.numpy().tobytes())
        return told

    def _gathered(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what every process says, by rank."""
        group, data = self._channel(), json.dumps(message).encode()
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.processes)]
        distributed.all_gather(sizes, torch.tensor([len(data)]), group=group)
        room = max(int(size) for size in sizes)
        bodies = [torch.zeros(room, dtype=torch.uint8) for _ in sizes]
        distributed.all_gather(bodies, torch.tensor(list(data.ljust(room)), dtype=torch.uint8), group=group)
        return [json.loads(body.numpy().tobytes()[: int(size)]) for body, size in zip(bodies, sizes, strict=True)]

    def _channel(self) -> Any:
        if self._group is None:
            if not distributed.is_initialized():
                raise UsageError(
                    f"couldn't go on: this script runs in {self.processes} processes that have no group",
                    hint="call torch.distributed.init_process_group() after join() and before the loop",
                )
            self._group = distributed.new_group(backend="gloo", timeout=WAIT)
        return self._group


def place() -> tuple[int, int]:
    """Return (rank, processes) as `torchrun` tells them; (0, 1) where it does not."""
    try:
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        return 0, 1
    return (rank, size) if 0 <= rank < size else (0, 1)


def _digest(parts: list[bytes]) -> str:
    import blake3

    hasher = blake3.blake3()
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()

"""Rounds inside a training loop that somebody else runs: when one ends, and what happens then.

A trainer's callback hears of batches and epochs. A round is so many of either. At its end the update goes out, the next
common model comes in, in place, and training goes on as if nothing had happened; after the last round it is asked to
stop. The trainer's own limits should lie beyond: one that stops earlier hands in what it has, and the swarm goes on
without this site.

**The optimizer's state** (momenta, Adam's moments) never travels. With `optimizer="keep"` it stays: it is an average
over steps of many rounds and the common model is near, which is usual where rounds are short. With `"reset"` each round
begins with none, as federated averaging was defined; take it where rounds are long or sites very different.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from swarm.errors import UsageError

POLICIES = ("keep", "reset")


class Loop(Protocol):
    """What of `node.loop.peer.Peer` is used here."""

    @property
    def running(self) -> bool:
        """Whether there is another round; waits until that is known."""
        ...

    def receive(self) -> Any:
        """Write the next round's model into this site's."""
        ...

    def send(self, model: object = None, *, samples: int, metrics: Mapping[str, Any] | None = None) -> bool:
        """Hand in what was trained."""
        ...


class Rounds:
    """Counts batches and epochs of a training, and trades models at the end of each round.

    Args:
        peer: Joined with the very model that is trained.
        steps: Optimizer steps in a round, or 0.
        epochs: Epochs in a round, or 0; one of the two.
        optimizer: "keep" or "reset": see above.
    """

    def __init__(self, peer: Loop, *, steps: int = 0, epochs: int = 0, optimizer: str = "keep") -> None:
        if (steps > 0) == (epochs > 0) or min(steps, epochs) < 0:
            raise UsageError(
                f"couldn't say when a round ends: steps = {steps} and epochs = {epochs}",
                hint="give one of them: steps=50, or epochs=1",
            )
        if optimizer not in POLICIES:
            raise UsageError(f"couldn't use optimizer={optimizer!r}", hint=f"choose one of {', '.join(POLICIES)}")
        self._peer, self._steps_each, self._epochs_each, self._reset = peer, steps, epochs, optimizer == "reset"
        self._steps = self._epochs = self._samples = 0
        self._open = False

    def begin(self, optimizers: Iterable[Any] = ()) -> bool:
        """Receive a round's model. Return whether there was one; else training is to stop."""
        self._steps = self._epochs = self._samples = 0
        self._open = self._peer.running
        if self._open:
            self._peer.receive()
            for optimizer in optimizers if self._reset else ():
                optimizer.state.clear()
        return self._open

    def batch(self, samples: int) -> None:
        """Note a batch of so many samples."""
        self._samples += samples

    def step(self, metrics: Mapping[str, Any], optimizers: Iterable[Any] = ()) -> bool:
        """Note an optimizer step. Return whether training goes on."""
        self._steps += 1
        return self._turn(metrics, optimizers) if 0 < self._steps_each <= self._steps else self._open

    def epoch(self, metrics: Mapping[str, Any], optimizers: Iterable[Any] = ()) -> bool:
        """Note the end of an epoch. Return whether training goes on."""
        self._epochs += 1
        return self._turn(metrics, optimizers) if 0 < self._epochs_each <= self._epochs else self._open

    def end(self, metrics: Mapping[str, Any]) -> None:
        """Hand in what a training that stops by itself has of the open round, if anything."""
        if self._open and self._samples:
            self._peer.send(samples=self._samples, metrics=metrics)
        self._open = False

    def _turn(self, metrics: Mapping[str, Any], optimizers: Iterable[Any]) -> bool:
        if not self._open:
            return False
        self._peer.send(samples=max(self._samples, 1), metrics=metrics)
        return self.begin(optimizers)


def samples_in(batch: object) -> int:
    """Return how many samples a batch has: the length of the first tensor in it, wherever that is; else 1."""
    if hasattr(batch, "shape"):
        shape: Any = batch.shape
        return int(shape[0]) if len(shape) else 1
    parts: Iterable[object] = ()
    if isinstance(batch, Mapping):
        parts = batch.values()
    elif isinstance(batch, (list, tuple)):
        parts = batch
    for part in parts:
        if hasattr(part, "shape") or isinstance(part, (Mapping, list, tuple)):
            return samples_in(part)
    return 1


def numbers(found: Mapping[str, Any], names: Iterable[str] = ("loss",)) -> dict[str, Any]:
    """Return the metrics of a trainer that a swarm may share by these names, also if they are called "train_loss"."""
    wanted = {}
    for name in names:
        key = next((key for key in (name, f"train_{name}", f"train/{name}") if key in found), None)
        if key is not None:
            wanted[name] = found[key]
    return wanted

"""A Lightning training as a site of a swarm: one callback.

::

    peer = swarm.join(sys.argv[1], module)
    trainer = lightning.Trainer(max_epochs=-1, callbacks=[SwarmCallback(peer, epochs=1)])
    trainer.fit(module, loader)

or `swarm_patch(trainer, peer, epochs=1)` where the trainer is somebody else's. `module` is what was joined with. Give
the trainer no limit that comes before the swarm's last round; `max_epochs=-1` is none.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from node.integrations.rounds import Loop, Rounds, numbers, samples_in


class SwarmCallback(Callback):  # type: ignore[misc] # optional: to mypy it is Any
    """Receives a model at the start of each round and sends it at its end. Arguments are those of `Rounds`."""

    def __init__(self, peer: Loop, *, steps: int = 0, epochs: int = 0, optimizer: str = "keep") -> None:
        super().__init__()
        self._rounds = Rounds(peer, steps=steps, epochs=epochs, optimizer=optimizer)
        self._seen = 0

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._seen = trainer.global_step
        self._go_on(trainer, goes_on=self._rounds.begin(trainer.optimizers))

    @override
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._rounds.batch(samples_in(batch))
        # Where gradients are accumulated, a batch is not a step; with several optimizers it is several.
        if trainer.global_step > self._seen:
            self._seen = trainer.global_step
            self._go_on(trainer, goes_on=self._rounds.step(numbers(trainer.callback_metrics), trainer.optimizers))

    @override
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._go_on(trainer, goes_on=self._rounds.epoch(numbers(trainer.callback_metrics), trainer.optimizers))

    @override
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._rounds.end(numbers(trainer.callback_metrics))

    @staticmethod
    def _go_on(trainer: Any, *, goes_on: bool) -> None:
        if not goes_on:
            trainer.should_stop = True


def swarm_patch(trainer: Any, peer: Loop, *, steps: int = 0, epochs: int = 0, optimizer: str = "keep") -> Any:
    """Let a trainer that is made already train for a swarm, and return it."""
    trainer.callbacks.append(SwarmCallback(peer, steps=steps, epochs=epochs, optimizer=optimizer))
    return trainer

"""A `transformers.Trainer` as a site of a swarm: one callback.

::

    peer = swarm.join(sys.argv[1], model)
    arguments = TrainingArguments(max_steps=50 * peer.rounds, ...)
    Trainer(model, arguments, train_dataset=data, callbacks=[SwarmCallback(peer, steps=50)]).train()

`model` is what was joined with. The learning rate's schedule goes by the trainer's own limit, so say the whole length
there, as above.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback
from typing_extensions import override

from node.integrations.rounds import Loop, Rounds, numbers


class SwarmCallback(TrainerCallback):  # type: ignore[misc] # optional: to mypy it is Any
    """Receives a model at the start of each round and sends it at its end. Arguments are those of `Rounds`."""

    def __init__(self, peer: Loop, *, steps: int = 0, epochs: int = 0, optimizer: str = "keep") -> None:
        self._rounds = Rounds(peer, steps=steps, epochs=epochs, optimizer=optimizer)

    @override
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        return _go_on(control, goes_on=self._rounds.begin(_optimizers(kwargs)))

    @override
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        # A step is one of the optimizer: its batches are not shown, and the last of an epoch counts as a whole one.
        self._rounds.batch(args.train_batch_size * args.gradient_accumulation_steps)
        return _go_on(control, goes_on=self._rounds.step(_metrics(state), _optimizers(kwargs)))

    @override
    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        return _go_on(control, goes_on=self._rounds.epoch(_metrics(state), _optimizers(kwargs)))

    @override
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self._rounds.end(_metrics(state))
        return control


def _go_on(control: Any, *, goes_on: bool) -> Any:
    if not goes_on:
        control.should_training_stop = True
    return control


def _metrics(state: Any) -> dict[str, Any]:
    return numbers(state.log_history[-1] if state.log_history else {})


def _optimizers(given: dict[str, Any]) -> list[Any]:
    """Return the optimizer, out of what Accelerate has wrapped around it."""
    optimizer = given.get("optimizer")
    return [] if optimizer is None else [getattr(optimizer, "optimizer", optimizer)]

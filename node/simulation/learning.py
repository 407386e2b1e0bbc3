"""What is learned, from which data, and how a peer trains on its own share between two exchanges.

Values only. Nothing here knows how many peers there are or how their work is batched.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from swarm.errors import UsageError

PIXEL_MAX = 255.0
"""uint8 features are pixels: a batch is divided by this as it is gathered, as a task's loader does for all at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTraining:
    """SGD as `torch.optim.SGD` does it, `epochs` times over a peer's share in shuffled batches of `batch` examples.

    `batch` None is the whole share at once (B = infinity in McMahan et al. 2017). The last batch of an epoch holds what
    is left; its gradient is a mean over fewer examples. With `momentum`, v = momentum v + g + weight_decay x and
    x = x - learning_rate v. The velocity starts from zero every round, as it does when a task's `train` makes its
    optimizer, unless `keep_momentum`.

    Raises:
        UsageError: a number is out of range.
    """

    learning_rate: float
    batch: int | None = 32
    epochs: int = 1
    momentum: float = 0.0
    weight_decay: float = 0.0
    keep_momentum: bool = False

    def __post_init__(self) -> None:
        wrong = None
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            wrong = f"the learning rate is {self.learning_rate}, not a positive number"
        elif self.batch is not None and self.batch < 1:
            wrong = f"a batch has {self.batch} examples, not 1 or more"
        elif self.epochs < 1:
            wrong = f"{self.epochs} local epochs are asked for, not 1 or more"
        elif not 0 <= self.momentum < 1:
            wrong = f"momentum is {self.momentum}, not 0 or more and below 1"
        elif not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            wrong = f"weight decay is {self.weight_decay}, not 0 or more"
        if wrong:
            raise UsageError(f"couldn't set up local training: {wrong}", hint="Change that setting.")

    def batch_of(self, examples: int) -> int:
        """Return the size of a full batch at a peer with that many examples."""
        return examples if self.batch is None else min(self.batch, examples)

    def steps(self, examples: int) -> int:
        """Return how many steps a peer with that many examples, one or more, takes in a round."""
        return self.epochs * -(-examples // self.batch_of(examples))


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a model is trained for, and how its answers are counted.

    `loss(output, y)` is the mean over a batch, a scalar; `hits(output, y)` the number of right answers, a scalar.
    """

    name: str
    loss: Callable[[Tensor, Tensor], Tensor]
    hits: Callable[[Tensor, Tensor], Tensor]


CROSS_ENTROPY = Objective(
    name="cross entropy", loss=functional.cross_entropy, hits=lambda output, y: (output.argmax(1) == y).sum()
)
"""Classes: outputs (batch, classes), labels int64 (batch,)."""

BINARY = Objective(
    name="binary cross entropy",
    loss=functional.binary_cross_entropy_with_logits,
    hits=lambda output, y: ((output > 0) == (y > 0.5)).sum(),
)
"""Yes or no: outputs and labels float32 of the same shape, (batch, 1)."""


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Examples: features `x`, shape (examples, ...), float32 or pixels as uint8; labels `y`, shape (examples, ...).

    Raises:
        UsageError: there are none, or not one label per example, or features of another type.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if len(self.x) == 0 or len(self.x) != len(self.y):
            raise UsageError(f"couldn't use the data: {len(self.x)} examples and {len(self.y)} labels")
        if self.x.dtype not in (torch.uint8, torch.float32):
            raise UsageError(
                f"couldn't use the data: its features are {self.x.dtype}",
                hint="Give float32, or pixels as uint8, which count as 0 to 1.",
            )
        if not (self.x.is_contiguous() and self.y.is_contiguous()):
            raise UsageError("couldn't use the data: its tensors are not contiguous", hint="Pass x.contiguous().")

    def __len__(self) -> int:
        return len(self.x)

    def bytes_of(self, examples: int) -> int:
        """Return the size of the features of that many examples as float32."""
        return 4 * examples * (self.x.numel() // len(self.x))

    def batch(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (float32) and labels of the examples at these positions."""
        return as_floats(self.x.index_select(0, which)), self.y.index_select(0, which)


def as_floats(x: Tensor) -> Tensor:
    """Return features as float32; pixels are divided by 255, with the same rounding wherever it is done."""
    return x.float().div_(PIXEL_MAX) if x.dtype == torch.uint8 else x

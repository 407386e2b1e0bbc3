"""Gradient inversion: can records be made again from an update?

Geiping, Bauermeister, Dröge & Moeller 2020, "Inverting gradients: how easy is it to break privacy in federated
learning?". An update of few steps points against the gradient of the records it was trained on. So inputs are sought
whose gradient points there too: the cosine between them is brought to 1 by signed Adam steps, with a total variation
prior where inputs are pictures. Against updates of many steps or many records this is a weak attack, and fails; how
well it does is measured and not assumed.

**The attacker is given much**: the labels of the records, the mean and spread of inputs, the model that the round began
with. **The judge is chance**: each reconstruction is compared with the nearest record that was trained on and the
nearest that was not, of the same label (`node.audit.reading.nearness`). What only looks like its class is no nearer to
the former.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from node.audit.reading import Likeness
from node.audit.records import Pair, Scoring
from swarm.errors import UsageError
from swarm.vector import Vector

BATCH_MAX = 8
"""Records that are sought at once: of more, one update tells even less of each."""

RATE = 0.1
VARIATION = 1e-2
"""Weight of the total variation, against a cosine of at most 2 (Geiping et al.'s for small pictures)."""

SIDE_MIN = 8
"""Inputs are pictures if they have two last dimensions of at least so many."""


@dataclass(frozen=True, slots=True)
class Attacked:
    """One update and what is known of it.

    Attributes:
        base: the model that the round began with.
        update: what was released.
        records: that were in the training or not, as a coin fell.
        members: which were, shape (records,).
    """

    base: Vector
    update: Vector
    records: Pair
    members: np.ndarray


def invert(
    show: Callable[[Vector], nn.Module],
    names: dict[str, tuple[int, int]],
    how: Scoring,
    attacked: Attacked,
    *,
    steps: int,
    seed: int,
    device: str,
) -> Likeness | None:
    """Return how like what is made of an update is to each record; None where it is zero, and nothing can be made.

    Args:
        show: lets the model be a vector.
        names: where in the vector each tensor is.
        how: records are scored.
        attacked: the update.
        steps: of the search.
        seed: of its beginning.
        device: where it is done.

    Raises:
        UsageError: the inputs are no numbers that can be sought, or there is no gradient to compare.
    """
    x, y = attacked.records.x, attacked.records.y
    if not x.is_floating_point():
        raise UsageError(
            "couldn't invert updates: inputs are whole numbers, which have no gradient", hint="add --no-inversion"
        )
    model = show(attacked.base)
    model.eval()
    seen = {name: one for name, one in model.named_parameters() if one.requires_grad and name in names}
    aim = [
        torch.from_numpy(-attacked.update[slice(*names[name])]).reshape(one.shape).to(one) for name, one in seen.items()
    ]
    length = math.sqrt(sum(float(one.square().sum()) for one in aim))
    if not length or not attacked.members.any():
        return None
    random = np.random.Generator(np.random.PCG64(seed))
    rows = np.sort(random.permutation(np.flatnonzero(attacked.members))[:BATCH_MAX])
    labels = y[rows].to(device)
    mean, spread = float(x.mean()), float(x.std()) or 1.0
    draw = torch.Generator().manual_seed(int(random.integers(1 << 31)))
    z = torch.randn(x[rows].shape, generator=draw).to(device, x.dtype).requires_grad_()
    pictures = z.dim() >= 3 and min(z.shape[-2:]) >= SIDE_MIN
    optimizer = torch.optim.Adam([z], lr=RATE)
    falls = torch.optim.lr_scheduler.MultiStepLR(optimizer, [int(steps * part) for part in (0.375, 0.625, 0.875)], 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = how.loss(model(mean + spread * z), labels).mean()
        gradients: Sequence[Tensor | None] = torch.autograd.grad(
            loss, [*seen.values()], create_graph=True, allow_unused=True
        )
        pairs = [(one, aimed) for one, aimed in zip(gradients, aim, strict=True) if one is not None]
        if not pairs:
            raise UsageError("couldn't invert updates: no parameter that travels has a gradient")
        product = torch.stack([(one * aimed).sum() for one, aimed in pairs]).sum()
        own = torch.stack([one.square().sum() for one, _ in pairs]).sum().clamp(min=1e-24).sqrt()
        apart = 1 - product / (own * length) + (VARIATION * _variation(z) if pictures else 0.0)
        torch.autograd.backward(apart, inputs=[z])
        assert z.grad is not None, "the loss follows from it"
        z.grad.sign_()
        optimizer.step()
        falls.step()
    found = (mean + spread * z).detach().cpu()
    return _likeness(found, labels.cpu(), attacked, how)


def _variation(z: Tensor) -> Tensor:
    """Return the total variation of pictures: the mean distance of neighbours."""
    return (z[..., 1:, :] - z[..., :-1, :]).abs().mean() + (z[..., :, 1:] - z[..., :, :-1]).abs().mean()


def _likeness(found: Tensor, labels: Tensor, attacked: Attacked, how: Scoring) -> Likeness:
    """Compare with every record, features of a table in units in which each counts alike."""
    records = attacked.records.x.double().flatten(1)
    scale, unit = float(records.max() - records.min()) or 1.0, torch.ones(records.shape[1], dtype=torch.float64)
    if attacked.records.x.dim() == 2:
        spread = records.std(0)
        scale, unit = 1.0, torch.where(spread > 0, spread, unit)
    errors = torch.cdist(found.double().flatten(1) / unit, records / unit).square() / records.shape[1]
    decibels = 10 * torch.log10(scale**2 / errors.clamp(min=1e-10 * scale**2))
    classes = [one.reshape(len(one), -1)[:, 0].double().numpy() for one in (labels, attacked.records.y)]
    if not how.classes:
        classes = [np.zeros(len(one)) for one in classes]
    return Likeness(np.nan_to_num(decibels.numpy(), nan=-1e3), classes[0], classes[1], attacked.members)

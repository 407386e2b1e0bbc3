"""What a site may still give away, asked before each private training and noted before its first step.

The worker tells when user code is about to train and what for; user code asks for a private training through
`run.private`. Of what leaves the site every step is counted; what stays - a trial, a personal model - is not, because
nobody sees it. Where a budget is set, an update that was not trained privately does not leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from node.dpsgd.session import Guard, Private
from node.spending import NOISE_SCALE, Charge, Spending, charge, stretches
from swarm.errors import UsageError
from swarm.privacy.accounting import Budget, Stretch, decimals, epsilon, fits, noise_for
from swarm.privacy.loss import NOISE_MIN

WORSE = 2.0
"""A round that only so many times the noise of the first alike could pay for is not trained: it would do harm."""

SPENT = "SWARM-PRIVACY-SPENT"


@dataclass(frozen=True, slots=True)
class Told:
    """What may be told of a private training: how many records there are, and what this site has come to.

    `epsilon` in thousandths, rounded up, at the delta 10^-`decimals`.
    """

    records: int
    epsilon: int
    decimals: int


class Allowance:
    """One site's. Without `spending` nothing leaves: a trial, or a task that is tried with no swarm.

    Args:
        budget: None where neither the site nor the charter sets one.
        spending: the file that remembers.
        ledger: the swarm's id, 16 hexadecimal digits.
    """

    def __init__(self, budget: Budget | None = None, spending: Spending | None = None, ledger: str = "") -> None:
        self._budget, self._spending, self._ledger = budget, spending, ledger
        self._guard: Guard | None = None
        self._leaves, self._plain = False, True
        self._round, self._calls = 0, 1
        self._private: Private | None = None
        self._charges: list[Charge] = []
        self.remarks: list[str] = []

    def begin(
        self,
        tensors: Callable[[], Mapping[str, torch.Tensor]],
        *,
        round_: int,
        calls: int,
        leaves: bool,
        plain: bool = False,
    ) -> None:
        """User code is about to train.

        Args:
            tensors: what must not change but by private steps.
            round_: which round it is, from 1.
            calls: how many trainings there are from now to the last round that is known of, this one included.
            leaves: whether what it makes of the model is for others.
            plain: whether it is for this site alone, so that no noise is called for.
        """
        self._round, self._calls, self._private = round_, max(1, calls), None
        self._leaves, self._plain = leaves and self._spending is not None, plain
        self._guard = Guard(tensors) if self._budget is not None and not plain else None
        self._tensors = tensors

    def open(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        records: int,
        *,
        batch: int,
        epochs: float = 1.0,
        steps: int = 0,
        clip: float = 1.0,
        noise: float = 0.0,
    ) -> Private:
        """Begin a private training: what a task calls as `run.private`.

        Args:
            model: what is trained.
            optimizer: of its parameters.
            records: how many records there are; the guarantee is about one of them. Batches name them 0 to records - 1.
            batch: how many are expected in a batch; how many there are is by chance.
            epochs: how often each record is expected to be in a batch; how many steps follows from it.
            steps: so many steps instead.
            clip: norm that each record's gradient is clipped to.
            noise: deviation of the noise in multiples of `clip`; 0 for as much as the site's budget asks for.

        Raises:
            UsageError: numbers that cannot be, a model that cannot be trained so, no budget, or too little left of it.
        """
        if self._private is not None:
            raise UsageError(
                "couldn't train privately twice in one call of train()", hint="say epochs= or steps= for more"
            )
        wanted = steps or max(1, round(epochs * records / batch)) if batch > 0 and math.isfinite(epochs) else 0
        if not 0 < batch <= records or wanted < 1 or not 0 < clip < math.inf or not 0 <= noise < math.inf:
            raise UsageError(
                f"couldn't train privately with records={records}, batch={batch}, {wanted} steps, clip={clip:g},"
                f" noise={noise:g}",
                hint="a batch has from 1 to all records, clip is above 0, noise 0 (by the budget) or above",
            )
        if 0 < noise < NOISE_MIN:
            raise UsageError(
                f"couldn't train privately with noise={noise:g}: less than {NOISE_MIN:g} protects nobody",
                hint="leave noise out, and it follows from the site's budget",
            )
        rate = batch / records
        guard = self._guard if self._guard is not None else Guard(self._tensors)
        chosen = 0.0 if self._plain else self._noise(records, rate, wanted, noise)
        made = Private(model, optimizer, guard=guard, records=records, rate=rate, steps=wanted, clip=clip, noise=chosen)
        guard.check()
        if self._leaves:
            self._pay(self._charge(records, rate, wanted, chosen))
        self._private = made
        return made

    def end(self) -> Told | None:
        """User code has trained. Return what may be told of it; None if it was not private and need not be.

        Raises:
            UsageError: it had to be private and was not, or not in all it did.
        """
        made, guard = self._private, self._guard
        self._private = self._guard = None
        if self._plain or (made is None and (self._budget is None or not self._leaves)):
            return None
        if made is None:
            raise UsageError(
                f"couldn't use what train() did: this site's updates must be private ({self._budget}), and it did not"
                " use run.private()",
                hint="see docs/guides/privacy.md",
            )
        assert guard is not None or not self._leaves, "what leaves is watched"
        if guard is not None:
            guard.check()
        if not self._leaves or self._budget is None:
            return None
        places = decimals(self._budget.delta)
        spent = epsilon(stretches(self._charges), 10.0**-places)
        return Told(made.records, math.ceil(spent * 1000), places)

    # --- parts --------------------------------------------------------------------------------------------------

    def _noise(self, records: int, rate: float, steps: int, asked: float) -> float:
        """Return how much noise there has to be. Raises `UsageError` where the budget does not allow the training."""
        if self._budget is None:
            if self._leaves:
                raise UsageError(
                    "couldn't train privately: this site has no privacy budget",
                    hint="set privacy.epsilon and privacy.delta in swarm.toml; `swarm privacy plan` explains",
                )
            if not asked:
                self.remarks.append("no privacy budget is set: gradients were clipped, no noise was added")
            return asked
        self._charges = [*(self._spending.charges() if self._spending is not None else ())]
        if self._budget.delta * records >= 1:
            self.remarks.append(
                f"delta {self._budget.delta:g} is not below one in this site's {records} records:"
                " it allows to give one of them away whole"
            )
        spent = stretches(self._charges)
        if asked:
            if not fits([*spent, Stretch(rate=rate, noise=asked, steps=steps)], self._budget):
                raise self._too_much(spent, rate, asked, steps)
            return asked
        planned = self._charge(records, rate, steps, 0.0)
        alike = [one for one in self._charges if (one.rate, one.steps) == (planned.rate, steps)]
        last = alike[-1].noise / NOISE_SCALE if alike else 0.0
        ahead = steps * self._calls
        if last and fits([*spent, Stretch(rate=rate, noise=last, steps=ahead)], self._budget):
            return last
        try:
            found = noise_for(self._budget, rate, ahead, spent)
        except UsageError:
            raise self._too_much(spent, rate, last, steps) from None
        if alike and found > WORSE * alike[0].noise / NOISE_SCALE:
            raise self._too_much(spent, rate, last, steps)
        return math.ceil(found * NOISE_SCALE) / NOISE_SCALE

    def _charge(self, records: int, rate: float, steps: int, noise: float) -> Charge:
        return charge(ledger=self._ledger, round_=self._round, records=records, rate=rate, noise=noise, steps=steps)

    def _pay(self, one: Charge) -> None:
        assert self._spending is not None, "what leaves is remembered"
        self._spending.append(one)
        self._charges.append(one)

    def _too_much(self, spent: list[Stretch], rate: float, noise: float, steps: int) -> UsageError:
        assert self._budget is not None, "only a budget is spent"
        before = epsilon(spent, self._budget.delta)
        after = (
            epsilon([*spent, Stretch(rate=rate, noise=noise, steps=steps)], self._budget.delta) if noise else math.inf
        )
        more = f"it would be {after:.3f} with {steps} more steps" if after < math.inf else f"{steps} steps are too many"
        return UsageError(
            f"this site's privacy budget ({self._budget}) does not allow round {self._round}: epsilon is at"
            f" {before:.3f}, {more}",
            hint="the site goes on without training; `swarm privacy spent` shows what was spent on what",
            identifier=SPENT,
        )

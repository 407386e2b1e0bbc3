"""`swarm privacy`: what noise a budget asks for, and what of a site's budget is spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from node.cli.init import FOLDER, JSON
from node.cli.lazy import LazyGroup
from node.cli.ledger.reading import read
from node.cli.output import INCOMPLETE, emit
from node.site import Site
from node.spending import Charge, Spending, budget_of, lacking, stretches
from swarm.errors import SwarmError, UsageError
from swarm.ledger.participation import ranges
from swarm.privacy.accounting import Budget, Stretch, check_delta, epsilon, epsilon_renyi, noise_for
from swarm.privacy.loss import NOISE_MIN

TABLE = {
    "plan": ("node.cli.privacy:plan", "What noise a budget asks for, and what each round costs."),
    "spent": ("node.cli.privacy:spent", "What of this site's budget is spent, and on what."),
    "audit": ("node.cli.audit:audit", "Attack this site's own updates, and say how far that gets."),
}

DELTA_DEFAULT = 1e-5
"""For what was spent where no budget is set any more."""

PROMISE = """\
What is promised   Whoever sees every update this site sends, with all other sites, relays and readers of the ledger
                   together, can tell whether one record was in its training data hardly better than by guessing:
                   no conclusion becomes more than e^epsilon times as likely by that record, but for a chance of delta.
It rests on        batches drawn by chance and kept secret, noise nobody can predict, a task that trains by
                   run.private() alone, and a record being what you call one: a patient with three records has up to
                   three times the epsilon, and a far larger delta.
It does not cover  scores on held-out cases (withhold them with task.min_cell), how many records there are,
                   stopping early or choosing settings by looking at results: each further try costs again,
                   and what is done with these data outside this software."""


@click.group(cls=LazyGroup, table=TABLE)
def privacy() -> None:
    """Differential privacy of a site's records: see docs/guides/privacy.md."""


@click.command()
@click.option("--records", type=click.IntRange(1), required=True, help="How many records this site trains with.")
@click.option("--batch", type=click.IntRange(1), required=True, help="How many are expected in a batch.")
@click.option("--rounds", type=click.IntRange(1), required=True, help="How many rounds there are.")
@click.option("--epochs", type=float, default=1.0, show_default=True, help="Passes over the records in a round.")
@click.option("--steps", type=click.IntRange(1), help="Steps in a round, in place of --epochs.")
@click.option("--epsilon", "target", type=float, help="The epsilon to end with: the noise for it is computed.")
@click.option("--delta", type=float, required=True, help="Less than one in the number of records, as 0.00001.")
@click.option("--noise", type=float, help="A noise multiplier in place of --epsilon, which then follows.")
@JSON
def plan(
    records: int,
    batch: int,
    rounds: int,
    epochs: float,
    steps: int | None,
    target: float | None,
    delta: float,
    noise: float | None,
    *,
    as_json: bool,
) -> None:
    """Say what noise private training needs to stay within a budget, and what epsilon is after each round.

    Nothing is read and nothing is trained: it is computed from these numbers alone.
    """
    check_delta(delta)
    if (target is None) == (noise is None):
        raise UsageError("couldn't plan: one of --epsilon and --noise must be given", hint="as --epsilon 3")
    if batch > records:
        raise UsageError(f"couldn't plan: a batch of {batch} of {records} records", hint="choose a smaller batch")
    if not 0 < epochs < math.inf:
        raise UsageError(f"couldn't plan: {epochs:g} passes over the records", hint="choose a number above 0")
    if noise is not None and not NOISE_MIN <= noise < math.inf:
        raise UsageError(f"couldn't plan: a noise of {noise:g}", hint=f"choose at least {NOISE_MIN:g}")
    each, rate = steps or max(1, round(epochs * records / batch)), batch / records
    if noise is None:
        assert target is not None, "one of them is given"
        noise = noise_for(Budget(target, delta), rate, each * rounds)
    after = {number: epsilon([_rounds(rate, noise, each * number)], delta) for number in _shown(rounds)}
    check = epsilon_renyi([_rounds(rate, noise, each * rounds)], delta)
    found = {
        "noise": noise,
        "rate": rate,
        "steps": each,
        "delta": delta,
        "epsilon": {str(number): value for number, value in after.items()},
        "epsilon_renyi": check,
    }
    lines = [
        f"noise multiplier   {noise:.4f} times the clipping norm, added to the sum of each batch",
        f"in the mean        {noise / batch:.4f} times the clipping norm, at {batch} records a batch",
        f"each round         {each} steps, each record in one with chance {rate:.4g}",
        f"delta              {delta:g}{_warned(delta, records)}",
        "",
        "after round   epsilon",
        *[f"{number:>11}   {value:.3f}" for number, value in after.items()],
        "",
        f"An older accountant (Rényi) says {check:.3f} for the same run: both hold, the smaller is the tighter.",
        "",
        PROMISE,
    ]
    emit(found, as_json=as_json, text="\n".join(lines))


@dataclass(frozen=True, slots=True)
class Account:
    """What a site has spent. `budget` is None where neither it nor its charter sets one."""

    budget: Budget | None
    charges: Sequence[Charge]

    @property
    def delta(self) -> float:
        """What epsilon is told at."""
        return DELTA_DEFAULT if self.budget is None else self.budget.delta

    def epsilon(self) -> float:
        """Return what all charges come to."""
        return epsilon(stretches(self.charges), self.delta)

    def words(self) -> str:
        """Return it in one line."""
        of = "no budget is set" if self.budget is None else f"of {self.budget.epsilon:g}"
        return f"epsilon {math.ceil(self.epsilon() * 1000) / 1000:.3f} spent, {of}, at delta {self.delta:g}"


def account_of(site: Site) -> Account:
    """Return a site's account. Raises `SwarmError` where settings, charter or the file cannot be read."""
    settings = site.load_settings()
    has = (site.folder / settings.site.charter).exists()
    own = Budget(settings.privacy.epsilon, settings.privacy.delta) if settings.privacy.epsilon else None
    budget = budget_of(settings, site.load_charter(settings)) if has else own
    return Account(budget, Spending(site.spending_path).charges())


@click.command()
@FOLDER
@JSON
def spent(folder: Path, *, as_json: bool) -> None:
    """Show what of the privacy budget of the site in FOLDER is spent, by swarm. Its peer need not run.

    It counts every private training from before its first step, whether its update has left or not. What the ledger
    has of this site, if it is there, is compared: a record that was restored from an older backup lacks rounds. Then it
    ends with 6.
    """
    account = account_of(Site(folder))
    swarms = list(dict.fromkeys(one.ledger for one in account.charges))
    lines = [account.words()]
    for swarm in swarms:
        own = [one for one in account.charges if one.ledger == swarm]
        rounds = sorted({one.round for one in own})
        again = f", {len(own) - len(rounds)} of them again" if len(own) > len(rounds) else ""
        cost = math.ceil(epsilon(stretches(own), account.delta) * 1000) / 1000
        lines.append(
            f"  swarm {swarm}   {len(own)} trainings{again}, round{'s' * (len(rounds) > 1)} {ranges(rounds)},"
            f" epsilon {cost:.3f} by themselves"
        )
    missing, why_not = _missing(Site(folder), account)
    if why_not:
        lines.append(f"Not compared with the ledger: {why_not}.")
    if missing:
        lines.append(
            f"NOT ALL IS HERE: the ledger has round{'s' * (len(missing) > 1)} {ranges(missing)} as trained privately by"
            " this site, of which this record knows nothing. Was it restored from an older backup? Put the newer one"
            " back, or train no more: more was spent than is said here."
        )
    if len(swarms) > 1:
        lines.append("What several swarms were told of the same records adds up; the first line is of all.")
    data = {
        "epsilon": account.epsilon(),
        "delta": account.delta,
        "budget": None if account.budget is None else account.budget.epsilon,
        "charges": [
            {"ledger": one.ledger, "round": one.round, "rate": one.rate, "noise": one.noise, "steps": one.steps}
            for one in account.charges
        ],
        "missing": missing,
    }
    emit(data, as_json=as_json, text="\n".join(lines))
    if missing:
        raise SystemExit(INCOMPLETE)


def _missing(site: Site, account: Account) -> tuple[list[int], str]:
    """Return the rounds that this site's ledger has as privately trained here and that were never charged.

    And why that cannot be told, "" if it can: a ledger that has no block yet, or does not hold, is no reason to say
    nothing of what was spent.
    """
    if not site.ledger.is_dir():
        return [], ""
    try:
        files, result = read(site.folder)
    except SwarmError as error:
        return [], error.message
    me = site.node()
    told = [
        number
        for number, view in result.rounds.items()
        if (placed := view.contributions.get(me)) is not None and placed.body.privacy[0]
    ]
    return lacking(account.charges, files.signed.ledger_id.hex()[:16], told), ""


def _rounds(rate: float, noise: float, steps: int) -> Stretch:
    return Stretch(rate=rate, noise=noise, steps=steps)


def _shown(rounds: int) -> list[int]:
    """Return the rounds to show: the first few, then ever fewer, and the last."""
    marks = [factor * 10**power for power in range(7) for factor in (1, 2, 5)]
    return sorted({*[mark for mark in marks if mark < rounds], rounds})


def _warned(delta: float, records: int) -> str:
    return "" if delta * records < 1 else f", NOT below one in {records}: it would allow to give one record away whole"

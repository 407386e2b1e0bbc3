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
from swarm.charter import PARAMETERS_MAX
from swarm.errors import SwarmError, UsageError
from swarm.ledger.block import MEMBERS_MAX
from swarm.ledger.participation import ranges
from swarm.masking.graph import FEWEST, shape
from swarm.masking.noise import COUNTED_ON_MIN, counted_on, silent
from swarm.privacy.accounting import (
    EPSILON_MAX,
    Budget,
    Stretch,
    check_delta,
    epsilon,
    epsilon_renyi,
    noise_for,
)
from swarm.privacy.loss import NOISE_MIN
from swarm.privacy.site_noise import SiteNoise, planned, power_of

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


SITE_PROMISE = """\
What is promised   Whoever sees every model of the swarm and its ledger for ever, with up to {silent} of {sites} sites
                   together, can tell whether any one other site's updates were in them or zeros in their place hardly
                   better than by guessing: that covers all records of a site at once.
It rests on        masks (--masks), no more than {silent} sites that add no noise or tell others theirs, and each site
                   clipping its own update: who does not is not protected, and endangers nobody else.
It does not cover  that a site takes part, its sample counts, and scores that it tells on held-out data, nor what as
                   many sites together as could take masks off would see; another swarm with these data costs more."""


@click.command()
@click.option("--records", type=click.IntRange(1), help="How many records this site trains with.")
@click.option("--batch", type=click.IntRange(1), help="How many are expected in a batch.")
@click.option("--rounds", type=click.IntRange(1), required=True, help="How many rounds there are.")
@click.option("--epochs", type=float, default=1.0, show_default=True, help="Passes over the records in a round.")
@click.option("--steps", type=click.IntRange(1), help="Steps in a round, in place of --epochs.")
@click.option("--epsilon", "target", type=float, help="The epsilon to end with: the noise for it is computed.")
@click.option("--delta", type=float, required=True, help="Less than one in the number of records, as 0.00001.")
@click.option("--noise", type=float, help="A noise multiplier in place of --epsilon, which then follows.")
@click.option(
    "--sites",
    type=click.IntRange(FEWEST, MEMBERS_MAX),
    help="In place of records and batch: plan noise on the sums of so many sites that mask, as `swarm charter new"
    " --site-privacy` has it.",
)
@click.option("--min-contributions", type=click.IntRange(1), help="With --sites: how many a round waits for at least.")
@click.option("--parameters", type=click.IntRange(1, PARAMETERS_MAX), help="With --sites: of the model.")
@JSON
def plan(
    records: int | None,
    batch: int | None,
    rounds: int,
    epochs: float,
    steps: int | None,
    target: float | None,
    delta: float,
    noise: float | None,
    sites: int | None,
    min_contributions: int | None,
    parameters: int | None,
    *,
    as_json: bool,
) -> None:
    """Say what noise a budget asks for, and what epsilon is after each round.

    Of a site's private training, by its records and batches; or of a swarm's sums under masks, by its --sites. Nothing
    is read and nothing is trained: it is computed from these numbers alone.
    """
    check_delta(delta)
    if (target is None) == (noise is None):
        raise UsageError("couldn't plan: one of --epsilon and --noise must be given", hint="as --epsilon 3")
    if sites is not None:
        if records is not None or batch is not None or steps is not None:
            raise UsageError(
                "couldn't plan: --sites is for noise on sums, where a site's records and batches change nothing",
                hint="leave out --records, --batch and --steps; or --sites",
            )
        _plan_sums(sites, rounds, target, delta, noise, min_contributions, parameters, as_json=as_json)
        return
    if min_contributions is not None or parameters is not None:
        raise UsageError("couldn't plan: --min-contributions and --parameters go with --sites", hint="as --sites 10")
    if records is None or batch is None:
        raise UsageError(
            "couldn't plan: how many records there are, and how many are in a batch, was not said",
            hint="give --records and --batch for a site's private training, or --sites for noise on a swarm's sums",
        )
    _plan_site(records, batch, rounds, epochs, steps, target, delta, noise, as_json=as_json)


def _plan_site(
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
    """Plan one site's private training."""
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


def _plan_sums(
    sites: int,
    rounds: int,
    target: float | None,
    delta: float,
    noise: float | None,
    min_contributions: int | None,
    parameters: int | None,
    *,
    as_json: bool,
) -> None:
    """Plan noise on the sums of a masked swarm: how much, who adds it, and how long it is beside an update."""
    waits = sites // 2 + 1 if min_contributions is None else min_contributions
    if waits > sites:
        raise UsageError(f"couldn't plan: rounds that wait for {waits} of {sites} sites", hint="choose fewer")
    bad = silent(sites)
    shared = counted_on(max(shape(sites).included_min, waits), sites)
    if shared < COUNTED_ON_MIN:
        raise UsageError(
            f"couldn't plan: a round may be of so few that, less {bad} that may add none, nobody's noise is left",
            hint=f"let rounds wait for {bad + COUNTED_ON_MIN} sites at least (--min-contributions)",
        )
    if noise is None:
        assert target is not None, "one of them is given"
        found = planned(Budget(target, delta), rounds)
    else:
        found = SiteNoise(math.floor(noise * 1000) if 0 <= noise < 1e6 else 0, Budget(EPSILON_MAX, delta))
    element = on_mean(found, sites, shared)
    after = {number: found.epsilon(number) for number in _shown(rounds)}
    data: dict[str, object] = {
        "noise": found.multiplier,
        "sites": sites,
        "silent": bad,
        "counted_on": shared,
        "mean_deviation": element,
        "mean_norm": None if parameters is None else element * math.sqrt(parameters),
        "delta": 10.0 ** -power_of(delta),
        "epsilon": {str(number): value for number, value in after.items()},
    }
    lines = [
        f"noise multiplier   {found.multiplier:.3f} times the most that one site can change a sum",
        f"who adds it        all {sites}; {shared} can be counted on: of the fewest a round is of, {bad} may add none",
        f"in the mean        {element:.4g} times the norm bound (--clip-norm) on each element, at equal weights",
        *([] if parameters is None else [f"of all elements    {length_words(element, parameters)}"]),
        f"delta              1e-{power_of(delta)}",
        "",
        "after round   epsilon",
        *[f"{number:>11}   {value:.3f}" for number, value in after.items()],
        "",
        "Less is needed by fewer rounds, more sites, rounds that wait for more of them (--min-contributions), equal",
        "weights (--weight-cap) and smaller models.",
        "",
        SITE_PROMISE.format(silent=bad, sites=sites),
    ]
    emit(data, as_json=as_json, text="\n".join(lines))


def on_mean(noise: SiteNoise, sites: int, shared: int) -> float:
    """Return the deviation of the noise on an element of a mean, with all sites there, in multiples of the norm bound.

    Each weighs one in so many, and adds sqrt(1 / shared) of what is promised, `shared` being how many are counted on.
    """
    return noise.multiplier / math.sqrt(shared * sites)


def length_words(element: float, parameters: int) -> str:
    """Say how long the noise on a mean is beside the longest update, and what to expect of that."""
    norm = element * math.sqrt(parameters)
    if norm >= 10:
        found = "the model will be noise"
    elif norm >= 2:
        found = "it costs much accuracy: try before anybody signs"
    else:
        found = "it costs some accuracy: try before anybody signs"
    return f"{norm:.4g} times the norm bound, of {parameters:,} parameters: {found}"


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

"""`swarm charter`: the terms of a swarm, from draft to the last signature."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click
import msgspec
import numpy as np

from node.cli.forms import told
from node.cli.graphs import read_arcs, read_links
from node.cli.init import JSON, fingerprint
from node.cli.ledger.reading import verify_quietly
from node.cli.output import INCOMPLETE, INVALID, Failure, Form, check_target, check_task, count, emit, emit_bytes
from node.cli.privacy import length_words, on_mean
from node.clock import Clock
from node.egress.folder import check_at
from node.lineage import holding, withdrawn
from node.loop.declarations import check_terms
from node.loop.form import is_script
from node.site import Site
from node.solo import describe
from node.storage import BlobStore, lengthen, write_file_durably
from node.succession import model_at, outcome_file
from node.task import NO_SITE, check_same, task_digest
from node.trainer import TrainerSettings
from swarm import charter as terms
from swarm.contribution.policy import Policy, complete
from swarm.disclosure import MIN_CELL_DEFAULT
from swarm.errors import UsageError
from swarm.ledger.audit import Audit
from swarm.ledger.masking import fewest
from swarm.ledger.state import State, noise_words
from swarm.masking.graph import shape
from swarm.masking.noise import counted_on, silent
from swarm.mixing import rules
from swarm.mixing.average import VALUE_LIMIT
from swarm.mixing.compress.choco import gamma_words
from swarm.mixing.compress.forms import FORMS, encoded_bytes
from swarm.mixing.corrections import NONE as UNCORRECTED
from swarm.mixing.gossip import beyond
from swarm.mixing.local import parse as parse_local
from swarm.mixing.outer import NONE, buffers_text, lengthened, untrained
from swarm.mixing.sketch import BUCKETS
from swarm.privacy import accounting
from swarm.privacy.clipping import USUAL_BOUND
from swarm.privacy.site_noise import SiteNoise, planned
from swarm.routes import FOLD, ROUTES, SHARDED, SPREAD
from swarm.salt import SALT_BYTES
from swarm.staleness import BUFFER_SHARE, STALENESS_ASYNCHRONOUS, STALENESS_DEFAULT
from swarm.vector import blob_digest, leaf_hashes
from topologies.families import FAMILIES, build
from topologies.plan import LINKS, check_clip, check_codec, open_schedule
from topologies.traffic import Network, choose_exact_route

PATH = click.argument("path", type=click.Path(path_type=Path))


@click.group()
def charter() -> None:
    """Draft, sign, check and show the terms of a swarm."""


@charter.command()
@click.option("--name", required=True, help="The swarm's name.")
@click.option("--task", type=click.Path(path_type=Path), required=True, help="The task file all sites will run.")
@click.option(
    "--card",
    "cards",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="A site's card.toml; give one for each.",
)
@click.option("--rounds", type=int, required=True, help="How many rounds to learn.")
@click.option(
    "--min-contributions",
    type=int,
    help="Fewest sites a round may close with.  [default: a majority, or a quarter with --asynchronous]",
)
@click.option("--deadline", type=float, default=3600.0, show_default=True, help="Seconds after which a round closes.")
@click.option(
    "--patience", type=float, default=60.0, show_default=True, help="Seconds without progress to be left out."
)
@click.option("--clip-norm", type=float, default=USUAL_BOUND, show_default=True, help="Largest L2 norm of an update.")
@click.option("--weight-cap", type=float, default=1.0, show_default=True, help="Largest share of one site, 0 to 1.")
@click.option("--metrics", default="accuracy,auc,loss", show_default=True, help="Metrics to share, comma-separated.")
@click.option(
    "--min-cell",
    type=click.IntRange(min=0),
    default=MIN_CELL_DEFAULT,
    show_default=True,
    help="Of how many cases at least a site tells its scores: if any class of its held-out cases has fewer, it tells"
    " none. 0: it always does.",
)
@click.option(
    "--topology",
    type=click.Choice(sorted(FAMILIES)),
    help="Who is linked to whom.  [default: complete]",
)
@click.option(
    "--links",
    type=click.Path(path_type=Path),
    help="Who is linked to whom, in a file of your own: edge list, adjacency .csv or .graphml, with the members' names"
    " or their numbers from 0 in the order of their cards.",
)
@click.option(
    "--gossip",
    metavar="SCHEDULE",
    default="",
    help="Let sites exchange models with a few others a round, as in base2, ring, random_matching or random_regular:4,"
    " or with all they are linked to (links), instead of averaging all of them. The last round averages all.",
)
@click.option(
    "--directed",
    is_flag=True,
    help="With --gossip, let models go one way, as in one_peer_exponential: whom a site gives its model need not give"
    " it theirs. Masses in the ledger keep the mean, whatever is lost.",
)
@click.option(
    "--arcs",
    type=click.Path(path_type=Path),
    help="Gossip along links of your own that go one way: a file with two sites a line, giver and taker, every round.",
)
@click.option(
    "--codec",
    default="",
    help="Send contributions in fewer bytes: bf16, int8, int4, sign or topk:50 (thousandths). What it leaves out comes"
    " later. With --gossip all but bf16 take links that stay the same, as in ring or exponential, and a model's room on"
    " the disk for each partner.",
)
@click.option(
    "--gamma",
    default="",
    help="With --gossip and such a codec: how far a site goes towards its partners in a round, up to 1.  [default: by"
    " the codec]",
)
@click.option(
    "--route",
    metavar="ROUTE",
    default="spread",
    show_default=True,
    help="How sites get to the mean: spread (every update to everybody), sharded (two sites average each slice), fold"
    " (sums double from step to step), or auto, for what is quickest by --uplink and --latency.",
)
@click.option(
    "--masks",
    metavar="MASKS",
    default="",
    help="Updates travel masked, so that nobody learns more of them than the sum: pairwise, pairwise:64 (nothing is"
    " rounded, twice the bytes) or pairwise:32 (as many bytes as without).  [default: everybody sees every update]",
)
@click.option(
    "--salt",
    is_flag=True,
    help="Let secret bytes travel behind each update, so that who has nothing but the ledger can confirm no guess of an"
    " update by its digest. Metrics of the training stay at the sites; members see updates as before. Not with --gossip"
    " or --masks.",
)
@click.option(
    "--site-privacy",
    metavar="EPSILON:DELTA",
    default="",
    help="With --masks, let the sum of each round carry so much noise that over all --rounds it tells at most this of"
    " any one site as a whole, as 8:1e-5. The run ends before more is told. `swarm privacy plan --sites` says what it"
    " costs, which with few sites is a lot.",
)
@click.option("--uplink", type=float, default=100.0, show_default=True, help="For --route auto: a site's Mbit/s.")
@click.option("--latency", type=float, default=30.0, show_default=True, help="For --route auto: one way, in ms.")
@click.option(
    "--clip",
    default="",
    help="With --gossip, let no partner pull a site further than others do: the weight that liars may have among its"
    " partners, in thousandths, as 100. It takes schedules with two partners or more, no codec or bf16.",
)
@click.option(
    "--correction",
    default="",
    help="With --gossip, for sites whose data differ: qg lets a momentum follow the swarm's models, not a site's own"
    " gradients; qg:500 is a momentum of 0.5 instead of 0.7; gt takes off each site's steps what pulls against the"
    " others', so that the swarm ends where all data together would.",
)
@click.option(
    "--outer",
    default="none",
    show_default=True,
    help="What a round does with the mean of the updates: none (it is added, FedAvg), fedavgm, nesterov, fedadam,"
    " fedyogi or fedadagrad, with numbers of your own as in nesterov:0.9,0.7 (beta, rate). Not with --gossip.",
)
@click.option(
    "--local",
    default="",
    help="Add something to each site's own training, where data differ: fedprox:0.01 pulls it towards the common model,"
    " scaffold takes off what it drifts away from the others, ditto:0.1 trains a personal model beside. The task file"
    " stays as it is.",
)
@click.option(
    "--privacy",
    metavar="EPSILON:DELTA",
    default="",
    help="Let no update leave a site that was not trained privately (run.private in the task), and let no site spend"
    " more than this on its records over all rounds, as 3:1e-5. `swarm privacy plan` says what that costs.",
)
@click.option(
    "--rule",
    metavar="RULE",
    default="",
    help=f"Average by a rule that a few liars cannot move far: {rules.EXAMPLES}. Every update counts as one, whatever"
    " samples it claims, and late work does not count. What it costs without liars is said.",
)
@click.option(
    "--staleness",
    type=click.IntRange(min=0),
    help="For how many rounds work that comes after its round has closed still counts in a later one, less each round;"
    f" 0: it does not. With --gossip late sites make up for it themselves.  [default: {STALENESS_DEFAULT}, or"
    f" {STALENESS_ASYNCHRONOUS} with --asynchronous]",
)
@click.option(
    "--asynchronous",
    is_flag=True,
    help="Wait for nobody: as soon as --min-contributions are in, whoever's they are, they make the next model.",
)
@click.option(
    "--pace",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="How many times the median site's time a round waits for a site that moves and is slow, as 4; its work then"
    " counts late, and for less. 0: until the deadline.",
)
@click.option(
    "--contribution",
    metavar="MEASURE",
    default="",
    help="Tell what each site's work is worth: size (by its samples), or loo or shapley, for which every member judges"
    " models of some of the others' updates on its own held-out data: shapley:auc:higher:20 by this metric, in 20 % of"
    " the training time. What is left out follows from --metrics.",
)
@click.option(
    "--stop",
    metavar="RULE",
    default="",
    help="End the run before its last round, once a metric has not become better for so many rounds:"
    " accuracy:higher:5, or loss:lower:10:0.001 for a least difference. Judged by the median site; not with"
    " --asynchronous.",
)
@click.option(
    "--relay",
    is_flag=True,
    help="Link sites that both only dial out, through members that listen. What they say is sealed: a relay sees who"
    " talks to whom and how much, and cannot read along. A site that will not relay says so in its settings.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the initial model.")
@click.option(
    "--after", type=click.Path(path_type=Path, exists=True), help="A site of a swarm that cannot go on, to continue it."
)
@click.option(
    "--at-round",
    type=click.IntRange(min=0),
    metavar="ROUND",
    help="With --after: go on from the model of this round, 0 being the first of all.  [default: the last]",
)
@click.option("--require-byzantine", is_flag=True, help="Refuse to found a swarm that cannot outvote a liar.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("charter.toml"),
    show_default=True,
    help="Where to write.",
)
@click.option("--force", is_flag=True, help="Replace the charter in the output file.")
@JSON
def new(
    *,
    name: str,
    task: Path,
    cards: tuple[Path, ...],
    rounds: int,
    min_contributions: int | None,
    deadline: float,
    patience: float,
    clip_norm: float,
    weight_cap: float,
    metrics: str,
    min_cell: int,
    topology: str | None,
    links: Path | None,
    gossip: str,
    directed: bool,
    arcs: Path | None,
    codec: str,
    gamma: str,
    route: str,
    masks: str,
    salt: bool,
    site_privacy: str,
    uplink: float,
    latency: float,
    clip: str,
    correction: str,
    outer: str,
    local: str,
    privacy: str,
    rule: str,
    staleness: int | None,
    asynchronous: bool,
    pace: int,
    contribution: str,
    stop: str,
    relay: bool,
    seed: int,
    after: Path | None,
    at_round: int | None,
    require_byzantine: bool,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Draft a charter from the members' cards and the task file. Nobody has signed it yet.

    With --after the new ledger names the one it continues, and rounds go on from the last model committed there; from
    that site's own where the swarm was in the middle of gossip. With --at-round it is the model of an earlier round.
    """
    if at_round is not None and after is None:
        raise UsageError(
            f"couldn't draft a successor at round {at_round}: of which swarm was not said",
            hint="name a site of it with --after",
        )
    if output.exists() and not force:
        hint = "move it away or choose another -o; --force replaces it, with every signature in it"
        raise UsageError(f"couldn't draft {output}: it exists already", hint=hint)
    check_target(output)
    members = tuple(terms.card_from_toml(_read(path)) for path in cards)
    check_task(task)
    chosen = rules.parse(rule) if rule else None
    enough = -(-len(members) // BUFFER_SHARE) if asynchronous else len(members) // 2 + 1
    if clip or chosen is not None:
        takes = terms.CLIP_ENDING if chosen is None else chosen
        enough = max(enough, min(takes.least, len(members)))
    if salt:
        enough = max(enough, min(terms.SALTED_LEAST, len(members)))
    if masks:
        enough = max(enough, min(fewest(len(members), enough), len(members)))
    ways = "directed" if directed else ""
    if arcs is not None:
        if gossip or directed:
            raise UsageError(
                "couldn't draft the charter: --arcs is who gives to whom in every round, and --gossip says it too",
                hint="leave --gossip and --directed out",
            )
        _, given = read_arcs(arcs, [card.name for card in members])
        gossip, ways = terms.OWN_LINKS, " ".join(f"{a}>{b}" for a, b in given)
    usual = STALENESS_ASYNCHRONOUS if asynchronous else STALENESS_DEFAULT
    # Under a rule all updates of a round have to start from one model.
    waits = not gossip and (chosen is None or asynchronous or bool(pace))
    late = staleness if staleness is not None else usual if waits else 0
    shared = tuple(part for part in metrics.split(",") if part)
    result = None if after is None else verify_quietly(after)
    before = None if result is None else result.state
    draft = terms.Charter(
        version=terms.CHARTER_VERSION,
        name=name,
        created_ms=int(Clock().now() * 1000),
        members=members,
        task=terms.Task(task.stem, task_digest(task), bytes(32), 1, bytes(32), seed),
        round=terms.RoundPolicy(
            rounds=rounds,
            mixing="gossip" if gossip else "exact",
            outer=outer,
            min_contributions=enough if min_contributions is None else min_contributions,
            deadline_ms=_whole("--deadline", deadline, 1000),
            patience_ms=_whole("--patience", patience, 1000),
            clip_norm_milli=_clip_norm(clip_norm),
            weight_cap_ppm=_whole("--weight-cap", weight_cap, 1_000_000),
        ),
        ledger=terms.LedgerPolicy(600_000, 3_000, require_byzantine, "record"),
        metrics=shared,
        edges=_edges(topology, links, "" if arcs else gossip, members, directed=directed, relay=relay),
        predecessor=() if before is None else ((before.ledger_id, before.size, before.frontier.root()),),
        options=terms.options_of(
            asynchronous=terms.BUFFERED if asynchronous else "",
            clip=clip,
            codec=codec,
            contribution=complete(contribution, shared) if contribution else "",
            correction=correction,
            gamma=gamma,
            links=ways,
            masks=masks,
            min_cell=str(min_cell) if min_cell else "",
            local=local,
            pace=str(pace) if pace else "",
            privacy=privacy,
            relay=terms.RELAYS[0] if relay else "",
            rule=rule,
            salt=str(SALT_BYTES) if salt else "",
            schedule=gossip,
            site_noise=planned(accounting.parse(site_privacy), rounds).text if site_privacy else "",
            staleness=str(late) if late else "",
            stop=stop,
        ),
    )
    # First with a model of one parameter: building the real one takes seconds.
    draft.check()
    check_codec(draft)
    check_clip(draft)
    _check_exchange(draft)
    if is_script(task):
        check_terms(draft, "couldn't draft the charter")
    last, found = None, ""
    if result is not None and after is not None:
        last = _last_model(result.state, after) if at_round is None else model_at(result, at_round, Site(after))
        found = _begins_with(result, at_round)
    notes: list[str] = []
    learned, buffers = described_task(task, seed, None, draft.outer.slots, _warn, notes.append, bool(gossip))
    options = tuple(sorted([*draft.options, *terms.options_of(**{terms.BUFFERS: buffers})]))
    if at_round == 0 and before is not None and _drawn_alike(learned, before):
        last = None  # Every site draws it from the seed.
    draft = msgspec.structs.replace(draft, task=_continued(learned, before, last), options=options)
    begun: Path | None = None
    if result is not None and after is not None and draft.task.initial_model == last:
        held = None
        if at_round is not None:
            held = outcome_file(result, at_round, last, Site(after), output.parent)
        draft, begun = _taken_over(draft, result.state, after, output.parent, held)
    draft, costs = _routed(draft, route, uplink, latency)
    draft.check()
    signed = terms.SignedCharter(draft, {})
    write_file_durably(output, terms.to_toml(signed).encode(), mode=0o644)
    text = "".join(f"{line}\n" for line in costs)
    text += f"{_price(signed.charter)}{_noise_price(signed.charter)}{_summary(signed)}\n"
    text += "".join(f"{line}\n" for line in notes)
    text += f"{found}\n" if found else ""
    text += f"{_spent_before(before)}\n" if before is not None and draft.site_noise is not None else ""
    text += f"Drafted in {output}. Each founder now runs `swarm charter sign {output}`."
    if begun is not None:
        text += f"\nThe model to start from is {begun}: copy it to the folder blobs of at least one new site."
    told: dict[str, object] = {"path": str(output), "members": [card.name for card in members], "model": notes}
    if before is not None:
        told["at_round"] = before.committed.round if at_round is None else at_round
    emit(told, as_json=as_json, text=text)


def _begins_with(result: Audit, at_round: int | None) -> str:
    """Say with the model of which round a successor begins; warn if that holds work that was taken back."""
    state = result.state
    number = state.committed.round if at_round is None else at_round
    taken = holding(state.signed, result, withdrawn(result))
    if number in taken.rounds:
        _warn(
            f"the model of round {number} holds work that was taken back; the last without is that of round"
            f" {taken.clean}: --at-round {taken.clean}"
        )
    which = f"the model of round {number}" if number else "the model that the other began with"
    return f"It continues {state.signed.charter.name}, {state.ledger_id.hex()[:16]}, from {which}."


def _spent_before(before: State) -> str:
    """Say that a successor's budget is a new one: what sums tell of the same sites' data adds up."""
    spent = noise_words(before) or "without noise: no epsilon bounds what its sums tell of a site"
    return f"The budget of site noise begins anew, and what the swarm before has told adds to it: {spent}."


def _drawn_alike(task: terms.Task, before: State) -> bool:
    """Whether a task's model is drawn as that which another swarm began with, and no third one had learned it."""
    other = before.signed.charter
    return not other.predecessor and (task.digest, task.seed) == (other.task.digest, other.task.seed)


def _routed(draft: terms.Charter, route: str, uplink: float, latency: float) -> tuple[terms.Charter, tuple[str, ...]]:
    """Return the draft with its route to the mean, and the lines of the cost model if that has chosen it."""
    lines: tuple[str, ...] = ()
    if route == "auto":
        dialable = draft.relayed or sum(not card.endpoint for card in draft.members) <= 1
        whole = draft.schedule or draft.rule is not None or draft.masks
        known = (SPREAD, FOLD) if draft.salt else ROUTES
        offered = known if not whole and not draft.edges and dialable else (SPREAD,)
        codec = draft.codec
        ratio = 1.0 if codec is None else encoded_bytes(codec, draft.task.parameters) / draft.model_bytes
        network = Network(latency_s=latency / 1000, bandwidth_bytes_s=uplink * 125_000)
        choice = choose_exact_route(
            len(draft.members),
            draft.model_bytes,
            network,
            codec_ratio=ratio,
            average_ratio=ratio if draft.averages else 1.0,
            offered=offered,
        )
        route = choice.route
        if route == SHARDED and draft.task.parameters < len(draft.members):
            route = SPREAD
        lines = (*choice.lines(), "")
    if route == SPREAD:
        return draft, lines
    options = tuple(sorted([*draft.options, (terms.ROUTE, route)]))
    return msgspec.structs.replace(draft, options=options), lines


def _last_model(before: State, after: Path) -> bytes:
    """Return the digest of the model to go on from: the common one, or, between rounds of gossip, one of the sites'.

    Raises:
        UsageError: there is no common one, and the folder `after` has none of the sites' last models.
    """
    if before.committed.model_bytes or before.exchange is None:
        return before.committed.model
    newest = sorted(before.exchange.models.values(), key=lambda own: own.round, reverse=True)
    held = next((own.model for own in newest if (Site(after).blobs / own.model.hex()).is_file()), None)
    if held is None:
        raise UsageError(
            f"couldn't draft a successor: round {before.committed.round} was one of gossip, which ends with a model of"
            f" its own at each site, and none of them is in {after}",
            hint="name with --after the folder of a site that took part in that round",
        )
    return held


def _continued(task: terms.Task, before: State | None, last: bytes | None) -> terms.Task:
    """Return the task with the last model of the swarm that it continues as the one to start from."""
    if before is None or last is None or before.committed.round == 0:
        return task
    if task.layout != before.signed.charter.task.layout:
        raise UsageError(
            "couldn't draft a successor: the model of this task file is not the one the other swarm has learned",
            hint="give the task file of that swarm with --task, or leave --after out to begin anew",
        )
    return msgspec.structs.replace(task, initial_model=last)


def _taken_over(
    draft: terms.Charter, before: State, after: Path, folder: Path, held: Path | None = None
) -> tuple[terms.Charter, Path]:
    """Return the draft, and the file of the outcome that it starts from: `held`, or else the other swarm's last.

    Behind the model lies what that swarm's outer optimiser remembers. The same optimiser goes on with it; for another
    one a new file is written into `folder`, with nothing remembered.
    """
    last = Site(after).blobs / draft.task.initial_model.hex() if held is None else held
    was = NONE if before.exchange is not None else before.signed.charter.outer
    if (was.name, was.buffers) == (draft.outer.name, draft.outer.buffers):
        return draft, last
    try:
        model = last.read_bytes()[: draft.model_bytes]
    except OSError as error:
        raise UsageError(
            f"couldn't draft a successor with another outer optimiser: the model to start from, {last}, cannot be read:"
            f" {error.strerror}",
            hint="name with --after the folder of a site that holds it, or keep the outer optimiser",
        ) from None
    if len(model) < draft.model_bytes:
        raise UsageError(
            f"couldn't draft a successor: {last} is too short for a model of {draft.task.parameters} parameters",
            hint="name with --after the folder of another site of that swarm",
        )
    outcome = lengthened(model, draft.outer.slots)
    digest = blob_digest(len(outcome), leaf_hashes(outcome))
    write_file_durably(folder / digest.hex(), outcome, mode=0o644)
    task = msgspec.structs.replace(draft.task, initial_model=digest)
    return msgspec.structs.replace(draft, task=task), folder / digest.hex()


@charter.command()
@PATH
@click.option("--folder", type=click.Path(path_type=Path), default=Path(), help="The site that signs.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write there instead of in place.")
@JSON
def sign(path: Path, folder: Path, output: Path | None, *, as_json: bool) -> None:
    """Add this site's signature to the charter at PATH."""
    target = path if output is None else output
    check_target(target)
    signed = terms.from_toml(_read(path))
    signed.check(complete=False)
    site = Site(folder)
    if site.settings_path.exists():
        # Who signs agrees; what the site would refuse at its start is better refused before the others count on it.
        settings = site.load_settings()
        check_at(site, settings, signed, site.node(), f"couldn't sign {path}")
        task = site.folder / settings.task.file
        if task.is_file():
            # Who signs lets that program run on its data.
            hint = "read the file whose SHA-256 begins {}, and put it there if you agree to it"
            check_same(task, signed.charter.task.digest, f"couldn't sign {path}", hint=hint)
    signed = signed.sign(site.load_identity())
    write_file_durably(target, terms.to_toml(signed).encode(), mode=0o644)
    missing = signed.missing()
    rest = f"still to sign: {', '.join(missing)}" if missing else f"complete: ledger {signed.ledger_id.hex()[:16]}"
    emit({"path": str(target), "missing": list(missing)}, as_json=as_json, text=f"Signed {target}; {rest}.")


@charter.command()
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Where to write.")
@JSON
def merge(paths: tuple[Path, ...], output: Path, *, as_json: bool) -> None:
    """Bring together signatures that were given on copies of the same charter."""
    check_target(output)
    copies = [terms.from_toml(_read(path)) for path in paths]
    for path, copy in zip(paths, copies, strict=True):
        copy.check(complete=False)
        if copy.charter != copies[0].charter:
            hint = "merge signed copies of one draft only; `swarm charter show` tells them apart"
            raise UsageError(f"couldn't merge {path}: its terms are not those of {paths[0]}", hint=hint)
    merged = terms.SignedCharter(copies[0].charter, {i: s for copy in copies for i, s in copy.signatures.items()})
    write_file_durably(output, terms.to_toml(merged).encode(), mode=0o644)
    missing = merged.missing()
    rest = f"still to sign: {', '.join(missing)}" if missing else "complete"
    emit({"path": str(output), "missing": list(missing)}, as_json=as_json, text=f"Merged into {output}; {rest}.")


@charter.command()
@PATH
@JSON
def check(path: Path, *, as_json: bool) -> None:
    """Check the terms and every signature. Exit 0 when complete, 3 when invalid, 6 when signatures are missing."""
    signed = terms.from_toml(_read(path))
    _check_terms(signed)
    signed.check(complete=False)
    missing = signed.missing()
    if missing:
        hint = "each founder runs `swarm charter sign`"
        raise Failure(f"{path} is in order but not signed yet by {', '.join(missing)}", code=INCOMPLETE, hint=hint)
    founders = count(len(signed.charter.members), "founder")
    text = f"{path} is in order; signed by all of {founders}.\n" + _summary(signed)
    emit({"path": str(path), "ledger_id": signed.ledger_id.hex(), "missing": []}, as_json=as_json, text=text)


@charter.command()
@PATH
@told(raw=True, short=False)
def show(path: Path, *, form: Form) -> None:
    """Show the terms in words, and whose signature is on them. Exit 3 when one does not match.

    Raw are the bytes that every founder signs.
    """
    signed = terms.from_toml(_read(path))
    _check_terms(signed)
    void = signed.void()
    if void and form is Form.TABLE:
        click.echo(_summary(signed))
    if void:
        signed.check(complete=False)
    if form is Form.RAW:
        emit_bytes([signed.charter.encode()])
        return
    data = {
        "name": signed.charter.name,
        "members": [{"name": c.name, "node": c.node.hex(), "endpoint": c.endpoint} for c in signed.charter.members],
        "rounds": signed.charter.round.rounds,
        "outer": signed.charter.round.outer,
        "parameters": signed.charter.task.parameters,
        "missing": list(signed.missing()),
        "ledger_id": None if signed.missing() else signed.ledger_id.hex(),
    }
    emit(data, as_json=form is Form.JSON, text=_summary(signed))


def described_task(
    task: Path,
    seed: int,
    forkserver: Path | None = None,
    slots: int = 0,
    warn: Callable[[str], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
    whole: bool = False,
) -> tuple[terms.Task, str]:
    """Build the task's model once, in a trainer process, and return what the charter says about it and its buffers.

    Of those only where an outer optimiser remembers something, in so many `slots`; the outcome to start from has them.
    What the task leaves undecided is told by `warn`, what becomes of each part of the model by `note`. `whole` is
    whether sites exchange models and not updates.

    Raises:
        UsageError: the task fails, or its model has numbers that could not be exchanged.
    """
    digest = task_digest(task)
    with tempfile.TemporaryDirectory() as folder:
        store = BlobStore(Path(folder))
        model = store.new_file()
        settings = TrainerSettings(
            task=task.resolve(), data=Path(folder), site=NO_SITE, seed=seed, forkserver=forkserver
        )
        layout, trained = describe(settings, model, warn, note)
        if whole and (place := beyond(np.fromfile(model, "<f4"))) is not None:
            name = layout.name_at(place)
            raise UsageError(
                f"couldn't draft the charter: by gossip whole models are exchanged, with numbers between"
                f" {-VALUE_LIMIT:g} and {VALUE_LIMIT:g}, and {name} begins with others",
                hint=f'let it stay at each site, private = ["{name}"] in the task file; or leave --gossip out',
            )
        lengthen(model, layout.nbytes * (1 + slots))
        stored = store.add_file(model)
        store.close()
    buffers = buffers_text(untrained(trained, layout.elements)) if slots else ""
    return terms.Task(task.stem, digest, layout.digest(), layout.elements, stored.digest, seed), buffers


def _warn(text: str) -> None:
    click.echo(f"warning: {text}", err=True)


def _check_terms(signed: terms.SignedCharter) -> None:
    """Raise `Failure` unless the terms can stand; so no name among them holds what a terminal would obey."""
    try:
        signed.charter.check()
    except UsageError as error:
        raise Failure(error.message, code=INVALID, hint=error.hint) from None


def _whole(option: str, value: float, scale: int) -> int:
    if not math.isfinite(value):
        raise UsageError(
            f"couldn't use {option} {value}: it is not a finite number", hint="give a number like 60 or 2.5"
        )
    return round(value * scale)


def _clip_norm(value: float) -> int:
    """Return the largest norm of an update in thousandths, as the charter has it."""
    whole = _whole("--clip-norm", value, 1000)
    if not 1 <= whole <= terms.CLIP_NORM_MILLI_MAX:
        raise UsageError(
            f"couldn't use --clip-norm {value:g}: it must be 0.001 to {terms.CLIP_NORM_MILLI_MAX / 1000:g}",
            hint="updates that are longer than that want smaller numbers in the model, or data of a common scale",
        )
    return whole


def _edges(
    topology: str | None,
    links: Path | None,
    gossip: str,
    members: tuple[terms.Card, ...],
    *,
    directed: bool,
    relay: bool,
) -> tuple[tuple[int, int], ...]:
    """Return the links of a topology or of a file, none for all; they must carry what the schedule sends."""
    one_way = "" if directed else "; --directed takes those in which models go one way"
    try:
        used = _exchanged(gossip, len(members), directed=directed)
    except UsageError as error:
        raise UsageError(
            error.message, hint=f"choose another schedule for --gossip; base2 suits any number of members{one_way}"
        ) from None
    if topology is not None and links is not None:
        raise UsageError(
            f"couldn't draft the charter: --topology {topology} and --links {links} both say who is linked to whom",
            hint="give one of them",
        )
    if links is None and topology in (None, "complete"):
        return ()
    edges = _own_links(links, members, relay=relay) if links is not None else _named_links(str(topology), len(members))
    if lacking := sorted({*used} - {*edges}):
        low, high = (members[member].name for member in lacking[0])
        raise UsageError(
            f"couldn't draft the charter: gossip over {gossip} needs a link between {low} and {high}, which"
            f" {links or topology} has not",
            hint=f"leave {'--links' if links else '--topology'} out: a link that is not used costs next to nothing"
            + ("; or exchange models over your own links, with --gossip links" if links else ""),
        )
    return edges


def _named_links(topology: str, members: int) -> tuple[tuple[int, int], ...]:
    try:
        return build(topology, members).edges
    except UsageError as error:
        raise UsageError(
            error.message, hint="choose another --topology; complete suits any number of members"
        ) from None


def _own_links(path: Path, members: tuple[terms.Card, ...], *, relay: bool) -> tuple[tuple[int, int], ...]:
    edges = read_links(path, [card.name for card in members])
    if not relay and (hidden := _both_hidden(edges, members)):
        raise UsageError(
            f"couldn't use the links in {path}: {' and '.join(hidden)} are linked, and both dial out only",
            hint="take the link out, let one of them `swarm init --advertise` an address, or let others --relay",
        )
    return edges


def _exchanged(schedule: str, members: int, *, directed: bool) -> tuple[tuple[int, int], ...]:
    """Return who exchanges models at any time by a schedule of a name; none where the links themselves say it."""
    if schedule in ("", LINKS, terms.OWN_LINKS):
        return ()
    return open_schedule(schedule, members, seed=0, directed=directed).links.edges


def _both_hidden(pairs: Iterable[tuple[int, int]], members: Sequence[terms.Card]) -> tuple[str, str] | None:
    """Return the names of the first two of which neither can be dialled."""
    return next(
        ((members[a].name, members[b].name) for a, b in pairs if not (members[a].endpoint or members[b].endpoint)), None
    )


def _check_exchange(draft: terms.Charter) -> None:
    """Raise `UsageError` if gossip would have two sites exchange models over a link that neither can open."""
    if draft.relayed or draft.round.mixing != "gossip":
        return
    n = len(draft.members)
    pairs = draft.arcs or _exchanged(draft.schedule, n, directed=draft.directed) or draft.edges
    if hidden := _both_hidden(pairs or itertools.combinations(range(n), 2), draft.members):
        raise UsageError(
            f"couldn't draft the charter: gossip has {' and '.join(hidden)} exchange models, and both dial out only",
            hint="let others link them with --relay, let one of them `swarm init --advertise` an address, or"
            " exchange models over links of your own",
        )


def _contribution(policy: Policy) -> str:
    """Say by what measure contributions are told."""
    if not policy.judged:
        return "shares by samples, as sites claim them"
    return (
        f"{policy.method} by {policy.metric} ({'less' if policy.lower else 'more'} is better), in at most"
        f" {policy.percent} % of a round's training time"
    )


def _summary(signed: terms.SignedCharter) -> str:
    c = signed.charter
    missing, void = signed.missing(), signed.void()
    lines = [
        f"swarm         {c.name}",
        f"ledger        {'not founded yet' if missing or void else signed.ledger_id.hex()}",
        f"tolerance     {c.fault_tolerance()}",
        f"task          {c.task.name}, {c.task.parameters:,} parameters, file {c.task.digest.hex()[:16]}",
        f"mixing        {_mixing(c)}",
        *([f"masks         {_masks(c)}"] if c.masks else []),
        *([f"salt          {_SALTED}"] if c.salt else []),
        *([f"site noise    {_site_noise(c, c.site_noise)}"] if c.site_noise is not None else []),
        *([f"compression   {c.codec}: {FORMS[c.codec.name].description}"] if c.codec else []),
        *([f"public copies {_copies(c)}"] if c.follows else []),
        *([f"correction    {c.correction.words()}"] if c.correction != UNCORRECTED else []),
        *([f"outer         {c.outer.describe()}"] if c.outer.slots else []),
        *([f"buffers       {_buffers(c)}"] if c.outer.buffers else []),
        *([f"local         {parse_local(c.local).words()}"] if c.local else []),
        *([f"privacy       each site spends at most {c.privacy} on its records"] if c.privacy is not None else []),
        f"rounds        {_rounds(c)}",
        *([f"stops         {c.stop.words}"] if c.stop else []),
        *([f"rule          {_rule(c, c.rule)}"] if c.rule else []),
        *([f"clipping      {_clip(c)}"] if c.clip else []),
        *([f"late work     counts for {count(c.staleness, 'round')}, less each round"] if c.staleness else []),
        *([f"pace          a site at work is waited for {c.pace} times as long as the median needs"] if c.pace else []),
        *([f"contribution  {_contribution(c.contribution)}"] if c.contribution is not None else []),
        *(
            ["relays        members that listen link those that only dial out, and cannot read along"]
            if c.relayed
            else []
        ),
        f"waiting       {_waiting(c)}",
        f"bounds        update norm {c.clip_norm:g}, one site's weight at most {c.round.weight_cap_ppm / 10_000:g} %",
        f"shared        {_shared(c)}",
        *([f"on record     {_sketched(c)}"] if c.schedule and c.task.parameters <= BUCKETS else []),
    ]
    for card in c.members:
        where = card.endpoint or "dials out only"
        sign = "NOT signed" if card.name in missing else "SIGNATURE INVALID" if card.name in void else "signed"
        lines.append(f"  {card.name:<16} {fingerprint(card)}  {where:<28} {sign}")
    return "\n".join(lines)


def _rule(c: terms.Charter, rule: rules.Rule) -> str:
    """Say what a rule does, and how many liars that bears among all, and in the smallest round."""
    fewest = c.round.min_contributions
    most, least = rule.bears(len(c.members)), rule.bears(fewest)
    bears = f"{most} of {len(c.members)}" + (
        f", {least} of {fewest} where no more are in" if fewest != len(c.members) else ""
    )
    return f"{rule}: {rule.words}; made for at most {bears}"


def _masks(c: terms.Charter) -> str:
    """Say what masks hide, from how many that collude, and how many sites a round can do without."""
    found = shape(len(c.members))
    return (
        f"nobody sees an update, only their sum; {count(found.threshold, 'site')} together could see them, and with"
        f" everybody there {count(found.dropping, 'site')} may be lost between the roster and the close;"
        f" {c.masks} bits an element"
    )


_SALTED = (
    "who has nothing but the ledger can confirm no guess of one site's update; members see updates, and no metrics of"
    " training are told"
)


def _site_noise(c: terms.Charter, noise: SiteNoise) -> str:
    """Say how much noise a sum carries, against whom that is good, and how many rounds the budget pays."""
    members = len(c.members)
    pays = f"pays {count(noise.sums, 'round')}" + (
        f", fewer than there are: the run ends after {noise.sums}" if noise.sums < c.round.rounds else ""
    )
    return (
        f"each sum has at least {noise.multiplier:g} times what one site can change, if at most {silent(members)} of"
        f" {members} add none or tell others theirs; {noise.budget}, for any one site as a whole, {pays}"
    )


def _clip(c: terms.Charter) -> str:
    ending = terms.CLIP_ENDING
    return (
        f"no partner pulls a site further than its nearest do, for liars of at most {c.clip / 10:g} % of the weight"
        f" among them; the last round: {ending.words}"
    )


def _price(c: terms.Charter) -> str:
    """Say what a rule costs while nobody lies: who draws up a charter should know before anybody signs it."""
    if c.rule is None:
        return ""
    return (
        f"The rule {c.rule} costs something while nobody lies: it cannot tell a liar from a site whose patients differ,"
        " and takes least of those; no sample count is believed, so a site of 10,000 counts as one of 50; work that"
        " comes late is lost.\nMeasured with sites of 94-fold different size and no liar (MediSwarm), errors of 0.023"
        " (mean by samples), 0.032 (norms clipped), 0.466 (trimmed mean), 0.600 (median), 0.639 (Krum). Without a rule"
        " norms are clipped to --clip-norm, which bounds one liar, and not several together.\n\n"
    )


def _noise_price(c: terms.Charter) -> str:
    """Say how much of what is learned noise on sums leaves: with few sites, hardly any."""
    if c.site_noise is None:
        return ""
    members = len(c.members)
    shared = counted_on(max(shape(members).included_min, c.round.min_contributions), members)
    found = length_words(on_mean(c.site_noise, members, shared), c.task.parameters)
    return (
        "The noise on the mean of a round, with all sites there and of equal weight, is"
        f" {found}.\nThat bound is {c.clip_norm:g} (--clip-norm): the longest that updates are of use, and no longer."
        f" `swarm privacy plan --sites {members}` says what else needs less.\n\n"
    )


def _rounds(c: terms.Charter) -> str:
    fewest = count(c.round.min_contributions, "site")
    if c.asynchronous:
        return f"{c.round.rounds}, each closed as soon as the work of {fewest} is in"
    return f"{c.round.rounds}, each with at least {fewest}"


def _buffers(c: terms.Charter) -> str:
    held = sum(end - first for first, end in c.outer.buffers)
    return f"{held:,} of the parameters are measured and not learned: those are averaged"


def _waiting(c: terms.Charter) -> str:
    if c.asynchronous:
        return "for nobody: what comes later is in a later round"
    return f"{c.round.patience_ms / 1000:g} s for a stuck site, {c.round.deadline_ms / 1000:g} s in all"


def _shared(c: terms.Charter) -> str:
    small = f", from {count(c.min_cell, 'case')} of each class on" if c.min_cell and c.metrics else ""
    return f"{', '.join(c.metrics) or 'no metrics'}{small}"


def _sketched(c: terms.Charter) -> str:
    """Say what a ledger of gossip holds where a sketch has no fewer sums than a model has parameters."""
    return (
        f"each site's whole model, in every round and for good: a sketch of {BUCKETS} sums hides nothing of"
        f" {count(c.task.parameters, 'parameter')}"
    )


def _copies(c: terms.Charter) -> str:
    """Say what gossip under a coarse codec does, by which step, and where that comes from."""
    assert c.codec is not None, "who follows copies has a codec"
    rule = "as the charter says" if terms.GAMMA in dict(c.options) else gamma_words(c.codec)
    each = c.model_bytes / 1e6
    return f"gamma {c.gamma:g}, {rule}; {each:.3g} MB on the disk for each partner, twice that during a round"


def _mixing(c: terms.Charter) -> str:
    if c.rule is not None:
        return "exact: every site ends every round with the same model, every update counting as one"
    if c.schedule:
        ways = ", links going one way" if c.directed else ""
        over = (
            f"{count(len(c.arcs), 'link')} of its own" if c.arcs else "all links" if c.schedule == LINKS else c.schedule
        )
        last = f"averages all models into one{f' by {terms.CLIP_ENDING}' if c.clip else ''}"
        return f"gossip over {over}{ways}; the last round {last}"
    routes = {
        SHARDED: f"; {c.route.slices} slices, each averaged by two sites" if c.route else "",
        FOLD: "; sums double from step to step",
    }
    way = "" if c.route is None else routes[c.route.name] + ", by spread where that fails"
    return f"exact: every site ends every round with the same model{way}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        hint = "name a file that is there and that you may read"
        raise UsageError(f"couldn't read {path}: {error.strerror}", hint=hint) from None
    except UnicodeDecodeError:
        raise UsageError(f"couldn't read {path}: it is not text", hint="name a charter or a card, as TOML") from None

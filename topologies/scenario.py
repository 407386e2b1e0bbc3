"""A scenario: the sites of a swarm to be, their lines and machines, what goes wrong, and what they are to learn.

It is written in TOML by whoever designs a consortium, who knows hospitals better than graphs; so sites have names,
lines have megabits and milliseconds, and a mistake is answered with the key, what is wrong with it and what would be
right. Nothing here runs anything: the same value is given to the simulated world (`plan`, `access`), which plays it
event by event, and to the cost model (`topologies.pace`), which reckons without faults.

Times are seconds and bandwidths bytes a second once read. Latency is one way: a message pays the sender's, the
receiver's and what lies between.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

from swarm import toml
from swarm.charter import CODECS, RULE_CODECS, SALTED_LEAST
from swarm.errors import UsageError
from swarm.mixing.compress.choco import default_gamma
from swarm.mixing.compress.forms import Spec
from swarm.mixing.compress.forms import parse as parse_codec
from swarm.mixing.corrections import parse as parse_correction
from swarm.mixing.outer import parse as parse_outer
from swarm.mixing.rules import KRUM
from swarm.mixing.rules import parse as parse_rule
from swarm.mixing.selfcentred import CLIP_MAX
from swarm.pace import FACTOR_MAX, FACTOR_MIN
from swarm.routes import SHARDED, SPREAD, Route
from swarm.routes import parse as parse_route
from swarm.staleness import BUFFER_SHARE, STALENESS_ASYNCHRONOUS, STALENESS_DEFAULT, STALENESS_MAX
from swarm.stopping import Policy
from swarm.stopping import parse as parse_stop
from topologies.graph import NODES_MAX, Edge, Topology
from topologies.world.attacks import DATA, DISSENSUS
from topologies.world.attacks import parse as parse_attack
from topologies.world.faults import (
    ClockJump,
    Crash,
    Fault,
    FaultOptions,
    FaultPlan,
    Freeze,
    FullDisk,
    OneWayCut,
    Partition,
    SlowLink,
    flapping,
    generate,
)
from topologies.world.learner import Behaviour
from topologies.world.network import Access, NetworkProfile

T = TypeVar("T")

TEXT_CHARACTERS_MAX = 1 << 20
"""Longest scenario that is read: a thousand sites written out one by one take a fifth of it."""

ROUNDS_MAX = 10_000
SEEDS_MAX = 100
TOPOLOGIES_MAX = 50

METRICS = ("accuracy", "loss")
"""What simulated sites tell of each round's model, as their charter has it."""

TOPOLOGIES = ("ring", "exponential", "base2", "complete")
"""What is compared unless one says: the fewest links, two in the middle that agree fast, everybody with everybody."""

RECHARTER_S = 1.0
"""How long a site is down while its people put a new charter in the place of the old one."""

OWN = "own"
"""The name of a topology that comes as links, `graph` or `arcs`, and not from a family."""

TWO_FACED = "two-faced"
"""A site that runs twice with one identity, and tells each half of the others something else."""

BEHAVIOURS = tuple(sorted([*(behaviour.value for behaviour in Behaviour), TWO_FACED]))

_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TOPOLOGY_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}(:[1-9][0-9]{0,3})?")
_PROTOCOL = re.compile(r"[1-9]\d{0,2}\.\d{1,3}", re.ASCII)
_BYTES_PER_MBIT = 125_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One member.

    Attributes:
        name: As the charter will have it.
        samples: How much data it has, relative to the others; counts where the partition is "ratios".
        step_s: Seconds of one optimizer step on its machine, above 0.
        uplink_bytes_s: Of its line; inf for no limit.
        downlink_bytes_s: Of its line; inf for no limit.
        latency_s: One way, between it and the backbone.
        outbound_only: Nobody can dial it. Two such sites have no link, or one through a relay.
        behaviour: One of `BEHAVIOURS`: what its training does, or "two-faced".
        slowdown: How many times as long as `step_s` a step takes after all: a straggler's, 1 for everybody else.
        stale_charter_s: For so long from the start it has terms that the others have replaced, and is not one of them;
            then its people put the right ones in their place. inf: they never do.
        protocol: "" for today's, or the older version of the protocol that its software speaks, as "1.0".
    """

    name: str
    samples: float = 1.0
    step_s: float = 0.01
    uplink_bytes_s: float = 100 * _BYTES_PER_MBIT
    downlink_bytes_s: float = 100 * _BYTES_PER_MBIT
    latency_s: float = 0.01
    outbound_only: bool = False
    behaviour: str = Behaviour.HONEST.value
    slowdown: float = 1.0
    stale_charter_s: float = 0.0
    protocol: str = ""

    @property
    def pace_s(self) -> float:
        """Seconds that one optimizer step takes there, all told."""
        return self.step_s * self.slowdown

    @property
    def access(self) -> Access:
        """Its line, for the simulated network."""
        return Access(
            uplink_bytes_s=self.uplink_bytes_s, downlink_bytes_s=self.downlink_bytes_s, delay_s=self.latency_s
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A link that is worse than the lines of its two sites would make it."""

    between: tuple[str, str]
    bandwidth_bytes_s: float = math.inf
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mishap:
    """Something that goes wrong at a time.

    Attributes:
        kind: "outage" (a site's machine is down), "restarts" (one machine after the other is), "freeze" (it stands
            still, and goes on as if nothing had been), "cut-off" (its line is down), "partition", "flapping" (a
            partition that comes and goes), "one-way", "slow", "full-disk" or "wrong-clock".
        at_s: When, in virtual seconds from the start.
        for_s: How long; inf for ever. A wrong clock stays wrong. Of "restarts" how long each machine is down.
        every_s: Of "restarts" from one to the next, of "flapping" from one cut to the next: it is cut for half of that.
        groups: Names. Of "partition" and "flapping" the groups that cannot talk to each other; of "one-way" senders and
            those who do not hear them; of "slow" the two ends; else the sites it happens to.
        bandwidth_bytes_s: Of "slow".
        latency_s: Further delay of "slow"; how far the clock of "wrong-clock" goes forward.
    """

    kind: str
    at_s: float
    for_s: float
    groups: tuple[tuple[str, ...], ...]
    bandwidth_bytes_s: float = math.inf
    latency_s: float = 0.0
    every_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Churn:
    """Sites that go away and come back at random: every `every_s` some site, for about `down_s`, until `until_s`."""

    every_s: float
    down_s: float
    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What is learned, and how.

    Attributes:
        data: "digits", "mnist:PATH", "npz:PATH" or "csv:PATH".
        model: "mlp", "mlp:WIDTH,WIDTH", "linear" or "task:FILE".
        partition: "iid", "dirichlet:ALPHA", "dirichlet-equal:ALPHA", "shards:K", "power:EXPONENT", "ratios" or
            "column:NAME"; with "+scanners" behind it every site's device sees differently. The alpha of
            "dirichlet" divides each label among sites, that of "dirichlet-equal" each site among all labels together.
        rounds: How many.
        local_epochs: Passes over a site's own data between two exchanges.
        batch: Examples a step.
        learning_rate: Of SGD.
        momentum: Of SGD, 0 to below 1; begins anew every round.
        mixing: "gossip" or "exact".
        correction: Of gossip: "", "qg", "qg:500" or "gt" (`swarm.mixing.corrections.parse`).
        outer: Of exact mixing, what is done with the mean: "none", "nesterov:0.9,0.7" (`swarm.mixing.outer.parse`).
        codec: How what travels is compressed, as a charter has it: "" for float32, "bf16", "int8", "int4", "sign" or
            "topk:PERMILLE".
        gamma: How far sites go towards each other in gossip under a coarse one, above 0 to 1; None for what suits it.
        clip: Of gossip, the weight that liars may have among a site's partners, in thousandths, 1 to 500; 0 for no
            self-centred clipping (`swarm.mixing.selfcentred`).
        stop: When the run ends before its last round, as "accuracy:higher:5"; "" for never (`swarm.stopping`).
        route: Of exact mixing, how sites get to the mean: "" or "spread", "sharded", "sharded:SLICES" or "fold"
            (`swarm.routes`).
        rule: Of exact mixing, by which updates are averaged: "" for the mean by samples, "trimmed:2" and so on
            (`swarm.mixing.rules`).
        salt: Of exact mixing, whether secret bytes travel behind each update (`swarm.salt`).
        attack: What attackers do, "" for nothing: "label-flip", "ipm:5" and so on (`topologies.world.attacks`).
        attackers: How many of the sites attack: the last ones.
        seeds: One run for each.
        target_accuracy: What has to be reached, 0 to 1; None for "within a point of the best".
        tested: Peers whose own models are tested; 0 for all.
    """

    data: str = "digits"
    model: str = "mlp"
    partition: str = "iid"
    rounds: int = 30
    local_epochs: int = 1
    batch: int = 8
    learning_rate: float = 0.3
    momentum: float = 0.0
    mixing: str = "gossip"
    correction: str = ""
    outer: str = "none"
    codec: str = ""
    gamma: float | None = None
    clip: int = 0
    stop: str = ""
    route: str = ""
    rule: str = ""
    salt: bool = False
    attack: str = ""
    attackers: int = 0
    seeds: tuple[int, ...] = (1,)
    target_accuracy: float | None = None
    tested: int = 32

    def __post_init__(self) -> None:
        _within("learning.rounds", self.rounds, 1, ROUNDS_MAX)
        _within("learning.local_epochs", self.local_epochs, 1, 1000)
        _within("learning.batch", self.batch, 1, 1 << 20)
        _within("learning.learning_rate", self.learning_rate, 1e-9, 1e3)
        _within("learning.momentum", self.momentum, 0.0, 0.999)
        _within("learning.tested", self.tested, 0, NODES_MAX)
        if self.target_accuracy is not None:
            _within("learning.target_accuracy", self.target_accuracy, 0.0, 1.0)
        if self.mixing not in ("gossip", "exact"):
            raise _wrong("learning.mixing", f"{self.mixing!r} is no way to mix", 'write "gossip" or "exact"')
        if self.correction and self.mixing != "gossip":
            raise _wrong("learning.correction", "it is for gossip", f"leave it out with {self.mixing} mixing")
        if self.correction:
            parse_correction(self.correction)
        if parse_outer(self.outer).slots and self.mixing != "exact":
            hint = 'write mixing = "exact" too; a momentum for gossip is correction = "qg"'
            raise _wrong("learning.outer", "it is for exact mixing, where all take one step", hint)
        if self.codec and parse_codec(self.codec).name not in CODECS:
            known = ", ".join(CODECS)
            raise _wrong("learning.codec", f"models do not travel as {self.codec}", f"choose one of {known}")
        if self.gamma is not None:
            _within("learning.gamma", self.gamma, 0.0001, 1.0)
        if self.gamma is not None and not self.follows:
            hint = "leave it out, or choose the codec int8, int4, sign or topk"
            raise _wrong("learning.gamma", "it is for gossip under a coarse codec", hint)
        self._check_clip()
        if self.stop:
            parse_stop(self.stop, METRICS)
        if self.route not in ("", SPREAD) and self.mixing != "exact":
            raise _wrong(
                "learning.route", "it is for exact mixing", 'write mixing = "exact" too, or leave the route out'
            )
        self._check_rule()
        self._check_salt()
        self._check_attack()
        if not 1 <= len({*self.seeds}) == len(self.seeds) <= SEEDS_MAX or any(not 0 <= s < 2**31 for s in self.seeds):
            raise _wrong(
                "learning.seeds",
                f"{list(self.seeds)} are not 1 to {SEEDS_MAX} different numbers from 0 to 2147483647",
                "write something like [1, 2, 3]",
            )

    def _check_clip(self) -> None:
        if not self.clip:
            return
        if self.mixing != "gossip":
            raise _wrong("learning.clip", "it is for gossip", "leave it out, or take a rule for exact mixing")
        _within("learning.clip", self.clip, 1, CLIP_MAX)
        if self.follows:
            hint = "leave one of them out, or take bf16"
            raise _wrong("learning.clip", f"under {self.codec} public copies meet, and not models", hint)

    def _check_rule(self) -> None:
        if not self.rule:
            return
        if self.mixing != "exact":
            raise _wrong("learning.rule", "it is for exact mixing", 'write mixing = "exact" too, or leave the rule out')
        if parse_rule(self.rule).name == KRUM:
            raise _wrong("learning.rule", "krum makes one site's update everybody's", "take multikrum")
        if self.route not in ("", SPREAD):
            raise _wrong("learning.rule", "on a route nobody sees whole updates", "go by spread, or leave the rule out")
        if self.spec is not None and self.spec.name not in RULE_CODECS:
            raise _wrong(
                "learning.rule", f"updates under {self.codec} cannot be compared", f"take {' or '.join(RULE_CODECS)}"
            )

    def _check_salt(self) -> None:
        if not self.salt:
            return
        if self.mixing != "exact":
            raise _wrong("learning.salt", "it is for exact mixing", 'write mixing = "exact" too, or leave the salt out')
        if self.route.partition(":")[0] == SHARDED:
            what = "the ledger confirms guesses anyway on the route sharded"
            raise _wrong("learning.salt", what, "go by spread or fold, or leave the salt out")
        if self.spec is not None and self.spec.permille:
            what = f"under {self.codec} sizes of messages speak for or against a guess"
            raise _wrong("learning.salt", what, "take a codec of one size, such as int8, or leave the salt out")

    def _check_attack(self) -> None:
        if bool(self.attack) != bool(self.attackers):
            lacking = "there is an attack, and nobody attacks" if self.attack else "there are attackers, and no attack"
            raise _wrong("learning.attackers", lacking, "say both, or neither: attack and attackers")
        _within("learning.attackers", self.attackers, 0, NODES_MAX)
        if not self.attack:
            return
        attack = parse_attack(self.attack)
        if attack.on_links and (self.mixing != "gossip" or self.follows):
            raise _wrong(
                "learning.attack", f"{attack.name} is for gossip where models travel", "choose another, or gossip"
            )
        if self.mixing == "gossip" and not (attack.on_data or attack.on_links):
            raise _wrong(
                "learning.attack",
                f"{attack.name} changes updates, and in gossip models travel",
                f"mix exactly, or take {', '.join(DATA)} or {DISSENSUS}",
            )

    @property
    def stopping(self) -> Policy | None:
        """When the run ends before its last round; None for never."""
        return parse_stop(self.stop, METRICS) if self.stop else None

    @property
    def spec(self) -> Spec | None:
        """The codec; None for float32."""
        return parse_codec(self.codec) if self.codec else None

    @property
    def follows(self) -> bool:
        """Whether messages say how public copies move (`swarm.charter.Charter.follows`)."""
        return self.mixing == "gossip" and bool(self.codec) and self.codec != "bf16"

    @property
    def step(self) -> float:
        """How far sites go towards each other in a round: 1 unless messages say how public copies move."""
        if self.spec is None or not self.follows:
            return 1.0
        return default_gamma(self.spec) if self.gamma is None else self.gamma


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the charter says about rounds: see `swarm charter new`. `min_contributions` 0 is what it would say.

    `weight_cap` is the largest share of one site in a mean, above 0 up to 1, in millionths. For `staleness` rounds late
    work counts in exact mixing, None for what the charter would say, and a slow site is waited for `pace` times as long
    as the median site needs; 0, or no late work, is until the deadline. An `asynchronous` swarm waits for nobody.
    With `relay` sites that listen link those that only dial out.
    """

    patience_s: float = 60.0
    deadline_s: float = 3600.0
    min_contributions: int = 0
    clip_norm: float = 100.0
    weight_cap: float = 1.0
    staleness: int | None = None
    asynchronous: bool = False
    pace: int = 0
    relay: bool = False

    def __post_init__(self) -> None:
        _within("swarm.patience_s", self.patience_s, 1.0, 86_400.0)
        _within("swarm.deadline_s", self.deadline_s, 1.0, 30 * 86_400.0)
        _within("swarm.min_contributions", self.min_contributions, 0, NODES_MAX)
        _within("swarm.clip_norm", self.clip_norm, 0.001, 1024.0)
        _within("swarm.weight_cap", self.weight_cap, 1e-6, 1.0)
        _within("swarm.staleness", self.late_rounds, 0, STALENESS_MAX)
        if self.asynchronous and not self.late_rounds:
            raise _wrong(
                "swarm.asynchronous", "with staleness = 0 only the quickest sites would count", "leave staleness out"
            )
        _within("swarm.pace", self.pace, FACTOR_MIN if self.pace else 0, FACTOR_MAX)

    @property
    def late_rounds(self) -> int:
        """For how many rounds late work counts."""
        usual = STALENESS_ASYNCHRONOUS if self.asynchronous else STALENESS_DEFAULT
        return usual if self.staleness is None else self.staleness

    @property
    def waited(self) -> int:
        """How many times the median site's time exact mixing waits for one that moves; 0: until the deadline."""
        return self.pace if self.late_rounds and not self.asynchronous else 0

    def fewest(self, n: int) -> int:
        """How many of `n` sites a round needs."""
        return self.min_contributions or (-(-n // BUFFER_SHARE) if self.asynchronous else n // 2 + 1)

    @property
    def weight_cap_ppm(self) -> int:
        """The cap in millionths, as the charter has it."""
        return round(self.weight_cap * 1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """All of it.

    Attributes:
        name: In a word.
        summary: In a sentence.
        sites: The members, in order.
        topologies: To compare: names that `topologies.schedules.build` knows, with a degree after a colon where they
            have one, and "own" for `graph` or `arcs`.
        learning: What is learned.
        terms: What the charter says.
        latency_s: Between any two sites, besides their own.
        jitter_s: Mean of an exponential share on top.
        loss: Share of messages lost.
        lines: Links worse than the others.
        mishaps: What goes wrong, and when.
        churn: Who goes away at random; None for nobody.
        graph: The links of "own", as (low, high).
        arcs: Where the links of "own" go one way, who gives to whom every round: (giver, taker), ascending, no `graph`.
    """

    name: str
    sites: tuple[Site, ...]
    summary: str = ""
    topologies: tuple[str, ...] = TOPOLOGIES
    learning: Learning = field(default_factory=Learning)
    terms: Terms = field(default_factory=Terms)
    latency_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    lines: tuple[Line, ...] = ()
    mishaps: tuple[Mishap, ...] = ()
    churn: Churn | None = None
    graph: tuple[Edge, ...] = ()
    arcs: tuple[Edge, ...] = ()

    def __post_init__(self) -> None:
        _within("the number of sites", len(self.sites), 2, NODES_MAX)
        names = [site.name for site in self.sites]
        if len({*names}) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise _wrong("site", f"there are two sites named {twice!r}", "give every site a name of its own")
        if not 1 <= len({*self.topologies}) == len(self.topologies) <= TOPOLOGIES_MAX:
            raise _wrong(
                "topologies",
                f"there are {len(self.topologies)}, or one of them twice",
                f"name 1 to {TOPOLOGIES_MAX} different ones",
            )
        for name in self.topologies:
            if not _TOPOLOGY_NAME.fullmatch(name):
                raise _wrong("topologies", f"{name!r} is no name of one", 'write "ring" or "random_regular:4"')
        if self.graph and self.arcs:
            raise _wrong("arcs", "there is a graph of your own too", "give either links or links that go one way")
        if OWN in self.topologies and not (self.graph or self.arcs):
            raise _wrong("topologies", "there is no graph of your own", "give it with --graph FILE, or as graph = ...")
        if self.arcs and self.learning.mixing != "gossip":
            raise _wrong("arcs", "links that go one way are for gossip", "give a graph, or mix by gossip")
        if self.terms.asynchronous and self.learning.mixing != "exact":
            raise _wrong(
                "swarm.asynchronous", "in gossip partners meet in rounds", "mix exactly, or leave asynchronous out"
            )
        self._check_rule()
        if self.learning.salt and self.fewest < SALTED_LEAST:
            what = "a round may close with one update, and the model that it ends with is what that one makes"
            raise _wrong("learning.salt", what, f"let min_contributions be {SALTED_LEAST} at least")
        if self.learning.attackers >= len(self.sites):
            raise _wrong("learning.attackers", f"all {len(self.sites)} sites would attack", "leave some honest")
        _ = self.route  # refused here if there is none of that name
        _within("network.loss", self.loss, 0.0, 0.5)

    def _check_rule(self) -> None:
        learning, terms = self.learning, self.terms
        if not learning.rule:
            return
        rule = parse_rule(learning.rule)
        if terms.asynchronous or terms.pace or terms.staleness:
            raise _wrong("learning.rule", "late work cannot count under one", "leave staleness, pace, asynchronous out")
        if terms.weight_cap_ppm != 1_000_000:
            raise _wrong("learning.rule", "under one every update counts as one", "leave weight_cap out")
        if self.fewest < rule.least or len(self.sites) < rule.least:
            what = f"{rule} takes {rule.least} updates, and a round may close with {min(self.fewest, len(self.sites))}"
            raise _wrong("learning.rule", what, "add sites, let rounds wait for more, or take one for fewer liars")

    @property
    def fewest(self) -> int:
        """How many sites a round needs: what the terms say, or a majority, but as many as a rule or a salt takes."""
        usual, learning = self.terms.fewest(len(self.sites)), self.learning
        if self.terms.min_contributions:
            return usual
        least = parse_rule(learning.rule).least if learning.rule else SALTED_LEAST if learning.salt else 1
        return min(len(self.sites), max(usual, least))

    @property
    def attackers(self) -> tuple[int, ...]:
        """The members that attack: the last so many."""
        return tuple(range(self.n - self.learning.attackers, self.n))

    @property
    def n(self) -> int:
        """How many members."""
        return len(self.sites)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(site.name for site in self.sites)

    @property
    def route(self) -> Route | None:
        """How exact mixing gets to the mean; None if every update goes to everybody."""
        name = self.learning.route
        try:
            return None if name in ("", SPREAD) else parse_route(name, self.n)
        except UsageError as error:
            raise _wrong("learning.route", f"{name!r} is none for {self.n} sites", error.hint) from None

    @property
    def twins(self) -> tuple[int, ...]:
        """The two-faced."""
        return tuple(member for member, site in enumerate(self.sites) if site.behaviour == TWO_FACED)

    @property
    def behaviours(self) -> dict[int, Behaviour]:
        """What training does where it is not what it should be."""
        return {
            member: Behaviour(site.behaviour)
            for member, site in enumerate(self.sites)
            if site.behaviour not in (TWO_FACED, Behaviour.HONEST.value)
        }

    @property
    def honest(self) -> tuple[int, ...]:
        """The members that do what they should, as well as they can."""
        fair = (Behaviour.HONEST.value, Behaviour.SLOW.value)
        return tuple(member for member, site in enumerate(self.sites) if site.behaviour in fair)

    @property
    def links(self) -> Topology:
        """Every pair of sites one of which can dial the other.

        Raises:
            UsageError: Somebody can reach nobody.
        """
        hidden = [site.outbound_only for site in self.sites]
        if sum(hidden) == self.n:
            raise UsageError(
                f"couldn't link the sites of {self.name}: all of them are outbound_only, so nobody can be dialled",
                hint="let at least one site accept connections",
            )
        return Topology.from_edges(
            self.n, ((i, j) for i in range(self.n) for j in range(i + 1, self.n) if not (hidden[i] and hidden[j]))
        )

    @property
    def reachable(self) -> Topology:
        """Every pair of sites that can be linked: all, where sites relay. Raises as `links` does."""
        links = self.links
        if not self.terms.relay:
            return links
        return Topology.from_edges(self.n, ((i, j) for i in range(self.n) for j in range(i + 1, self.n)))

    @property
    def profile(self) -> NetworkProfile:
        """What all links have in common. Without loss they are like TCP; with it every message is on its own."""
        return NetworkProfile(
            delay_s_min=self.latency_s,
            delay_s_mean=self.latency_s + self.jitter_s,
            loss=self.loss,
            fifo=self.loss == 0.0,
        )

    @property
    def access(self) -> tuple[Access, ...]:
        """Every site's own line."""
        return tuple(site.access for site in self.sites)

    @property
    def slow(self) -> dict[Edge, tuple[float, float]]:
        """The lines that are worse, by (low, high): (bytes a second, further delay in seconds)."""
        index = {name: member for member, name in enumerate(self.names)}
        found: dict[Edge, tuple[float, float]] = {}
        for line in self.lines:
            a, b = (index[name] for name in line.between)
            found[min(a, b), max(a, b)] = (line.bandwidth_bytes_s, line.latency_s)
        return found

    def plan(self, seed: int) -> FaultPlan:
        """What goes wrong, for the simulated world; churn is drawn from the seed."""
        index = {name: member for member, name in enumerate(self.names)}
        faults = [fault for mishap in self.mishaps for fault in _faults(mishap, index)]
        stale = ((member, site.stale_charter_s) for member, site in enumerate(self.sites) if site.stale_charter_s)
        faults += [
            Crash(at_s=at_s, slot=slot, down_s=RECHARTER_S, anew=True) for slot, at_s in stale if at_s < math.inf
        ]
        if self.churn is not None:
            never = math.inf
            options = FaultOptions(
                heal_s=self.churn.until_s,
                partition_every_s=never,
                crash_every_s=self.churn.every_s,
                crash_s=self.churn.down_s,
                crash_in_recovery=0.0,
                down_max=self.n,
                slow_every_s=never,
            )
            faults += generate(seed, members=self.n, options=options).faults
        return FaultPlan(faults=tuple(sorted(faults, key=lambda fault: fault.at_s)))

    @property
    def uneventful(self) -> bool:
        """Whether nothing goes wrong: no loss, no mishap, no churn, nobody who misbehaves."""
        late = any(site.stale_charter_s or site.slowdown > 1.0 for site in self.sites)
        return not (self.loss or self.mishaps or self.churn or late or len(self.honest) < self.n)

    @property
    def undisturbed(self) -> Scenario:
        """The same sites and the same learning on a day on which nothing goes wrong and nobody is slow or lies."""
        sites = (
            replace(site, behaviour=Behaviour.HONEST.value, slowdown=1.0, stale_charter_s=0.0, protocol="")
            for site in self.sites
        )
        return replace(self, sites=tuple(sites), loss=0.0, lines=(), mishaps=(), churn=None)

    def scaled(self, factor: float) -> Scenario:
        """The same story told in `factor` times the time: faults, patience, deadline and steps; latencies stay."""
        sites = (
            replace(site, step_s=site.step_s * factor, stale_charter_s=site.stale_charter_s * factor)
            for site in self.sites
        )
        mishaps = (
            replace(one, at_s=one.at_s * factor, for_s=one.for_s * factor, every_s=one.every_s * factor)
            for one in self.mishaps
        )
        churn = self.churn
        if churn is not None:
            times = (churn.every_s, churn.down_s, churn.until_s)
            churn = Churn(every_s=times[0] * factor, down_s=times[1] * factor, until_s=times[2] * factor)
        terms = replace(
            self.terms, patience_s=self.terms.patience_s * factor, deadline_s=self.terms.deadline_s * factor
        )
        return replace(self, sites=tuple(sites), mishaps=tuple(mishaps), churn=churn, terms=terms)


def plain(nodes: int, *, name: str = "alike") -> Scenario:
    """So many sites that are all alike, at 100 Mbit/s and 20 ms from each other.

    Raises:
        UsageError: There are too few or too many.
    """
    _within("--nodes", nodes, 2, NODES_MAX)
    return Scenario(name=name, sites=tuple(Site(name=f"site-{member}") for member in range(nodes)))


# --- reading ----------------------------------------------------------------------------------------------------------


def parse(text: str, source: str) -> Scenario:
    """Read a scenario from TOML; `source` names it in complaints.

    Raises:
        UsageError: It is no TOML, a key is unknown or missing, or a value cannot be.
    """
    if len(text) > TEXT_CHARACTERS_MAX:
        raise UsageError(
            f"couldn't read {source}: it has {len(text)} characters, at most {TEXT_CHARACTERS_MAX} are read",
            hint="describe many sites that are alike once, with count",
        )
    try:
        found = toml.loads(text)
    except ValueError as error:
        raise UsageError(f"couldn't read {source}: {error}", hint="mend it there; it is TOML (toml.io)") from None
    try:
        return _scenario(_Table(found, ""))
    except UsageError as error:
        raise UsageError(error.message.replace("the scenario", source, 1), hint=error.hint) from None


class _Table:
    """A TOML table whose keys are taken one by one, each checked; what is left over was not meant to be there."""

    def __init__(self, values: Mapping[str, object], where: str) -> None:
        self._values, self.where = dict(values), where
        self._known: list[str] = []

    def take(self, key: str, read: Callable[[str, object], T], default: T) -> T:
        self._known.append(key)
        return read(self._path(key), self._values.pop(key)) if key in self._values else default

    def need(self, key: str, read: Callable[[str, object], T]) -> T:
        self._known.append(key)
        if key not in self._values:
            raise _wrong(self.where or "the file", f"it has no {key}", f"add {key} = ...")
        return read(self._path(key), self._values.pop(key))

    def done(self) -> None:
        """Object to what nobody asked for, with the nearest key that there is."""
        for key in self._values:
            near = difflib.get_close_matches(key, self._known, 1, 0.5)
            known = f"did you mean {near[0]}?" if near else f"known are {', '.join(self._known)}"
            raise _wrong(self._path(key), "there is no such key", known)

    def _path(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key


def _scenario(top: _Table) -> Scenario:
    network = top.take("network", _table, _Table({}, "network"))
    usual = top.take("defaults", _table, _Table({}, "defaults"))
    plain_site = _site(usual, Site(name="default"))
    usual.done()
    none: list[_Table] = []
    written = [site for table in top.take("site", _tables, none) for site in _sites(table, plain_site)]
    nodes = top.take("nodes", _whole, 0)
    if written and nodes not in (0, len(written)):
        raise _wrong("nodes", f"it is {nodes}, and {len(written)} sites are described", "leave nodes out")
    sites = written or [_renamed(plain_site, f"site-{member}") for member in range(min(nodes, NODES_MAX + 1))]
    names = {site.name for site in sites}
    index = {site.name: member for member, site in enumerate(sites)}
    scenario = Scenario(
        name=top.need("name", _name),
        summary=top.take("summary", _text, ""),
        sites=tuple(sites),
        topologies=top.take("topologies", _texts, TOPOLOGIES),
        learning=top.take("learning", _learning, Learning()),
        terms=top.take("swarm", _terms, Terms()),
        latency_s=network.take("latency_ms", _number(0, 60_000), 0.0) / 1000,
        jitter_s=network.take("jitter_ms", _number(0, 60_000), 0.0) / 1000,
        loss=network.take("loss", _number(0, 0.5), 0.0),
        lines=tuple(_line(table, names) for table in top.take("link", _tables, none)),
        mishaps=tuple(_mishap(table, names) for table in top.take("fault", _tables, none)),
        churn=top.take("churn", _churn, None),
        graph=top.take("graph", _linked(index, one_way=False), ()),
        arcs=top.take("arcs", _linked(index, one_way=True), ()),
    )
    network.done()
    top.done()
    return scenario


def _sites(table: _Table, usual: Site) -> list[Site]:
    name, count = table.need("name", _name), table.take("count", _whole, 1)
    _within(f"{table.where}.count", count, 1, NODES_MAX)
    site = _site(table, _renamed(usual, name))
    table.done()
    return [site] if count == 1 else [_renamed(site, f"{name}-{number}") for number in range(1, count + 1)]


def _site(table: _Table, usual: Site) -> Site:
    positive = _number(1e-6, 1e9)
    behaviour = table.take("behaviour", _text, usual.behaviour)
    if behaviour not in BEHAVIOURS:
        raise _wrong(f"{table.where}.behaviour", f"{behaviour!r} is none", f"choose one of {', '.join(BEHAVIOURS)}")
    return Site(
        name=usual.name,
        samples=table.take("samples", positive, usual.samples),
        step_s=table.take("step_ms", positive, usual.step_s * 1000) / 1000,
        uplink_bytes_s=table.take("uplink_mbit_s", positive, usual.uplink_bytes_s / _BYTES_PER_MBIT) * _BYTES_PER_MBIT,
        downlink_bytes_s=table.take("downlink_mbit_s", positive, usual.downlink_bytes_s / _BYTES_PER_MBIT)
        * _BYTES_PER_MBIT,
        latency_s=table.take("latency_ms", _number(0, 60_000), usual.latency_s * 1000) / 1000,
        outbound_only=table.take("outbound_only", _yes_or_no, usual.outbound_only),
        behaviour=behaviour,
        slowdown=table.take("slowdown", _number(1, 1e6), usual.slowdown),
        stale_charter_s=table.take("stale_charter_s", _number(0, math.inf), usual.stale_charter_s),
        protocol=table.take("protocol", _protocol, usual.protocol),
    )


def _renamed(site: Site, name: str) -> Site:
    return Site(**{one.name: getattr(site, one.name) for one in fields(Site)} | {"name": name})


def _line(table: _Table, names: set[str]) -> Line:
    between = _pair(table, names)
    line = Line(
        between=between,
        bandwidth_bytes_s=table.take("mbit_s", _number(1e-6, 1e9), math.inf) * _BYTES_PER_MBIT,
        latency_s=table.take("latency_ms", _number(0, 600_000), 0.0) / 1000,
    )
    table.done()
    return line


def _pair(table: _Table, names: set[str]) -> tuple[str, str]:
    between = table.need("between", _texts)
    if len(between) != 2 or between[0] == between[1]:
        raise _wrong(f"{table.where}.between", f"{list(between)} are not two sites", 'write ["berlin", "paris"]')
    _known(f"{table.where}.between", between, names)
    return between[0], between[1]


def _linked(index: Mapping[str, int], *, one_way: bool) -> Callable[[str, object], tuple[Edge, ...]]:
    """Read pairs of sites as members: ascending and each once, or, where links go one way, as (giver, taker)."""

    def read(path: str, value: object) -> tuple[Edge, ...]:
        found: set[Edge] = set()
        for pair in _groups(path, value):
            if len(pair) != 2 or pair[0] == pair[1]:
                raise _wrong(path, f"{list(pair)} are not two sites", 'write it as [["berlin", "paris"], ...]')
            _known(path, pair, {*index})
            a, b = (index[name] for name in pair)
            found.add((a, b) if one_way else (min(a, b), max(a, b)))
        return tuple(sorted(found))

    return read


def _mishap(table: _Table, names: set[str]) -> Mishap:
    kind = table.need("kind", _text)
    at_s = table.need("at_s", _number(0, 1e9))
    bandwidth, latency_s, for_s, every_s = math.inf, 0.0, math.inf, math.inf
    groups: tuple[tuple[str, ...], ...]
    match kind:
        case "outage" | "restarts" | "freeze" | "cut-off" | "full-disk":
            groups = (_members(table, "sites", names),)
        case "partition" | "flapping":
            groups = table.need("groups", _groups)
            together = [name for group in groups for name in group]
            if len({*together}) < len(together):
                raise _wrong(f"{table.where}.groups", "a site is in two of them", "name every site once")
            _known(f"{table.where}.groups", together, names)
        case "one-way":
            groups = (_members(table, "from", names), _members(table, "to", names))
        case "slow":
            groups = (_pair(table, names),)
            bandwidth = table.take("mbit_s", _number(1e-6, 1e9), math.inf) * _BYTES_PER_MBIT
            latency_s = table.take("latency_ms", _number(0, 600_000), 0.0) / 1000
        case "wrong-clock":
            groups = (_members(table, "sites", names),)
            latency_s = table.need("forward_s", _number(-1e8, 1e8))
        case _:
            kinds = "outage, restarts, freeze, cut-off, partition, flapping, one-way, slow, full-disk, wrong-clock"
            raise _wrong(f"{table.where}.kind", f"{kind!r} is nothing that can go wrong", f"choose one of {kinds}")
    if kind in ("restarts", "flapping"):
        every_s = table.need("every_s", _number(0.001, 1e9))
    if kind in ("outage", "restarts", "freeze", "flapping", "full-disk"):
        for_s = table.need("for_s", _number(0.001, 1e9))
    elif kind != "wrong-clock":
        for_s = table.take("for_s", _number(0.001, 1e9), math.inf)
    table.done()
    return Mishap(
        kind=kind,
        at_s=at_s,
        for_s=for_s,
        groups=groups,
        bandwidth_bytes_s=bandwidth,
        latency_s=latency_s,
        every_s=every_s,
    )


def _members(table: _Table, key: str, names: set[str]) -> tuple[str, ...]:
    found = table.need(key, _texts)
    _known(f"{table.where}.{key}", found, names)
    return found


def _faults(mishap: Mishap, index: Mapping[str, int]) -> list[Fault]:
    """A mishap in the terms of the simulated world."""
    at_s, for_s = mishap.at_s, mishap.for_s
    groups = tuple(tuple(index[name] for name in group) for group in mishap.groups)
    match mishap.kind:
        case "outage":
            return [Crash(at_s=at_s, slot=slot, down_s=for_s) for slot in groups[0]]
        case "restarts":
            every_s = mishap.every_s
            return [Crash(at_s=at_s + every_s * turn, slot=slot, down_s=for_s) for turn, slot in enumerate(groups[0])]
        case "freeze":
            return [Freeze(at_s=at_s, slot=slot, duration_s=for_s) for slot in groups[0]]
        case "flapping":
            return [*flapping(groups, at_s=at_s, duration_s=for_s, period_s=mishap.every_s)]
        case "cut-off":
            return [Partition(at_s=at_s, groups=tuple((slot,) for slot in groups[0]), duration_s=for_s)]
        case "partition":
            return [Partition(at_s=at_s, groups=groups, duration_s=for_s)]
        case "one-way":
            return [OneWayCut(at_s=at_s, sources=groups[0], targets=groups[1], duration_s=for_s)]
        case "slow":
            a, b = groups[0]
            slow = SlowLink(
                at_s=at_s,
                a=a,
                b=b,
                bandwidth_bytes_s=mishap.bandwidth_bytes_s,
                delay_s=mishap.latency_s,
                duration_s=for_s,
            )
            return [slow]
        case "full-disk":
            return [FullDisk(at_s=at_s, slot=slot, duration_s=for_s) for slot in groups[0]]
        case _:
            return [ClockJump(at_s=at_s, slot=slot, offset_s=mishap.latency_s) for slot in groups[0]]


def _churn(path: str, value: object) -> Churn | None:
    table = _table(path, value)
    long = _number(0.001, 1e9)
    churn = Churn(
        every_s=table.need("every_s", long), down_s=table.need("down_s", long), until_s=table.need("until_s", long)
    )
    table.done()
    return churn


def _learning(path: str, value: object) -> Learning:
    table, usual = _table(path, value), Learning()
    any_number = _number(-math.inf, math.inf)
    learning = Learning(
        data=table.take("data", _text, usual.data),
        model=table.take("model", _text, usual.model),
        partition=table.take("partition", _text, usual.partition),
        rounds=table.take("rounds", _whole, usual.rounds),
        local_epochs=table.take("local_epochs", _whole, usual.local_epochs),
        batch=table.take("batch", _whole, usual.batch),
        learning_rate=table.take("learning_rate", any_number, usual.learning_rate),
        momentum=table.take("momentum", any_number, usual.momentum),
        mixing=table.take("mixing", _text, usual.mixing),
        correction=table.take("correction", _text, usual.correction),
        outer=table.take("outer", _text, usual.outer),
        codec=table.take("codec", _text, usual.codec),
        gamma=table.take("gamma", _maybe, usual.gamma),
        clip=table.take("clip", _whole, usual.clip),
        stop=table.take("stop", _text, usual.stop),
        route=table.take("route", _text, usual.route),
        rule=table.take("rule", _text, usual.rule),
        salt=table.take("salt", _yes_or_no, usual.salt),
        attack=table.take("attack", _text, usual.attack),
        attackers=table.take("attackers", _whole, usual.attackers),
        seeds=table.take("seeds", _wholes, usual.seeds),
        target_accuracy=table.take("target_accuracy", _maybe, usual.target_accuracy),
        tested=table.take("tested", _whole, usual.tested),
    )
    table.done()
    return learning


def _terms(path: str, value: object) -> Terms:
    table, usual = _table(path, value), Terms()
    any_number = _number(-math.inf, math.inf)
    terms = Terms(
        patience_s=table.take("patience_s", any_number, usual.patience_s),
        deadline_s=table.take("deadline_s", any_number, usual.deadline_s),
        min_contributions=table.take("min_contributions", _whole, usual.min_contributions),
        clip_norm=table.take("clip_norm", any_number, usual.clip_norm),
        weight_cap=table.take("weight_cap", any_number, usual.weight_cap),
        staleness=table.take("staleness", _whole, usual.staleness),
        asynchronous=table.take("asynchronous", _yes_or_no, usual.asynchronous),
        pace=table.take("pace", _whole, usual.pace),
        relay=table.take("relay", _yes_or_no, usual.relay),
    )
    table.done()
    return terms


# --- single values ----------------------------------------------------------------------------------------------------


def _wrong(where: str, what: str, instead: str) -> UsageError:
    return UsageError(f"couldn't use the scenario: {where}: {what}", hint=instead)


def _within(where: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise _wrong(where, f"{value:g} is not between {low:g} and {high:g}", "choose a number in that range")


def _known(where: str, found: Sequence[str], names: set[str]) -> None:
    for name in found:
        if name not in names:
            near = difflib.get_close_matches(name, sorted(names), 1, 0.5)
            raise _wrong(
                where,
                f"there is no site named {name!r}",
                f"did you mean {near[0]}?" if near else "name a site that is described under [[site]]",
            )


def _table(path: str, value: object) -> _Table:
    if not isinstance(value, dict):
        raise _wrong(path, "it is not a table", f"write it as [{path}] with keys below")
    return _Table(value, path)


def _tables(path: str, value: object) -> list[_Table]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise _wrong(path, "it is not a list of tables", f"write each as [[{path}]] with keys below")
    return [_Table(one, f"{path} {number}") for number, one in enumerate(value, 1)]


def _text(path: str, value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise _wrong(path, f"{value!r} is not a line of text", 'write it in quotes, as in "ring"')
    return value


def _name(path: str, value: object) -> str:
    text = _text(path, value)
    if not _SITE_NAME.fullmatch(text):
        raise _wrong(path, f"{text!r} is no name", "use 1 to 64 letters, digits, - and _")
    return text


def _protocol(path: str, value: object) -> str:
    text = _text(path, value)
    if text and not _PROTOCOL.fullmatch(text):
        raise _wrong(path, f"{text!r} is no version of the protocol", 'write it as "1.0"')
    return text


def _texts(path: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise _wrong(path, f"{value!r} is not a list of names", 'write it as ["one", "two"]')
    return tuple(_text(path, one) for one in value)


def _groups(path: str, value: object) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, list) or not value:
        raise _wrong(path, f"{value!r} is not a list of groups", 'write it as [["one", "two"], ["three"]]')
    return tuple(_texts(path, one) for one in value)


def _whole(path: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(path, f"{value!r} is not a whole number", "write digits alone, as in 12")
    return value


def _wholes(path: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise _wrong(path, f"{value!r} is not a list of numbers", "write it as [1, 2, 3]")
    return tuple(_whole(path, one) for one in value)


def _number(low: float, high: float) -> Callable[[str, object], float]:
    def read(path: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise _wrong(path, f"{value!r} is not a number", "write it without quotes, as in 2.5")
        _within(path, value, low, high)
        return float(value)

    return read


def _maybe(path: str, value: object) -> float | None:
    return _number(0, 1)(path, value)


def _yes_or_no(path: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(path, f"{value!r} is neither", "write true or false")
    return value

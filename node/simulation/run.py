"""Round by round: train, exchange, test. An `Experiment` is a value; the same one gives the same history.

Two ways to exchange, as in the product. *Gossip*: every peer trains, then models are averaged with neighbours along a
schedule (D-PSGD, Lian et al., "Can decentralized algorithms outperform centralized algorithms?", 2017, in its form with
local steps before the exchange: Koloskova et al., "A unified theory of decentralized SGD", 2020, algorithm 1). *Exact*:
some peers train from the common model, and all go on from the sample-weighted mean of the results (FedAvg, McMahan et
al., "Communication-efficient learning of deep networks from decentralized data", 2017, algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from node.clock import Clock
from node.simulation.actors import RayShards
from node.simulation.choice import Form, choose_steps
from node.simulation.flat import FlatModel
from node.simulation.gathered import Gathering
from node.simulation.learning import CROSS_ENTROPY, Dataset, LocalTraining, Objective
from node.simulation.mixing import Rows, SparseRows
from node.simulation.shards import COMMON, LocalShards, Shards
from node.simulation.shards import Score as RawScore
from swarm.errors import UsageError
from swarm.mixing.average import PPM, integer_weights
from swarm.mixing.compress.forms import Spec
from swarm.mixing.outer import NONE, Outer, untrained
from swarm.mixing.rules import Rule
from swarm.vector import Layout
from topologies.mixing import Mixing
from topologies.world.attacks import Attack

NEARLY_ONE = 1e-9
"""Push-sum weights this close to one are one: a doubly stochastic schedule is applied as it is."""


class Exchange(Protocol):
    """One exchange of a schedule, such as `topologies.mixing.Mixing`."""

    @property
    def rows(self) -> Rows:
        """For each peer, (source, weight) pairs, its own among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gossip:
    """All peers train; then `exchanges` steps x <- W(t) x, t counting on from round to round, from 0.

    Weights are carried along as push-sum does (Kempe, Dobra & Gehrke 2003): each peer has a scalar that is mixed by the
    same W, and its model is the ratio. Where every W is doubly stochastic and `by_samples` is off, the scalars stay one
    and nothing changes. With `by_samples` they start every round from the peers' numbers of examples, so that a
    schedule which is exact after `exchanges` steps gives FedAvg's mean to every peer.

    Attributes:
        mixing: t -> the exchange, such as `Schedule.mixing`.
        steps: Round, from 0 -> by what each peer's training is multiplied before the exchange; None is 1 for all.
        codec: How exchanges travel, None for float32. Under all but bf16 every peer has a public copy, messages say how
            that moves, and W acts on copies: x + (W - I) x_hat (`swarm.mixing.compress.choco`).
        whole_at_last: Whether models travel as they are in the last round, as they do where a swarm ends.
    """

    mixing: Callable[[int], Exchange]
    exchanges: int = 1
    by_samples: bool = False
    steps: Callable[[int], NDArray[np.float64]] | None = None
    codec: Spec | None = None
    whole_at_last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """A share `fraction` of the peers trains each round (at least one, drawn anew), and everybody gets the mean.

    Bytes are those of the sharded route: two copies of the model out of each peer that trains, less the slice it keeps,
    and one copy to each peer that does not.

    Attributes:
        fraction: Of the peers, above 0 up to 1.
        cap_ppm: The largest share of one peer in the mean, in millionths (`swarm.mixing.average.integer_weights`).
        outer: What is done with the mean of the updates (`swarm.mixing.outer`); where the buffers lie the model says.
        rule: By which updates are averaged, each counting as one; None for the mean by samples.
        attack: What attackers do to their updates; one that is on data is done already.
        attackers: Which peers they are.
        bound: On the norm of an update, where updates are gathered; 0 for none.
        gather: Gather them in any case, as they are with a rule or an attack on updates.
    """

    fraction: float = 1.0
    cap_ppm: int = PPM
    outer: Outer = NONE
    rule: Rule | None = None
    attack: Attack | None = None
    attackers: tuple[int, ...] = ()
    bound: float = 0.0
    gather: bool = False

    @property
    def gathers(self) -> bool:
        """Whether all updates of a round have to be there at once."""
        return self.gather or self.rule is not None or (self.attack is not None and not self.attack.on_data)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Experiment:
    """A swarm to simulate.

    Attributes:
        build: Returns the model, a `torch.nn.Module`; called under `seed`, as every node does.
        train: All training examples.
        test: Held-out examples, the same for all.
        shares: Per peer, positions in `train`; see `topologies.partitions`.
        local: How a peer trains between exchanges.
        exchange: `Gossip` or `Exact`.
        rounds: How many.
        seed: What everything random comes from.
        names: The peers', from which their shuffles follow as a node's do; site-0, site-1, ... if there are none.
        objective: What is minimised and counted.
        correction: The quasi-global momentum of gossip (`swarm.mixing.momentum`), 0 to below 1.
        gain: By how much gossip corrects each peer's steps instead (`swarm.mixing.diffusion`), 0 to below 1.
        tested: Peers whose own models are tested, drawn once; None tests all.
        test_every: Rounds between tests; the last round is always tested.
        form: Which form of local training (`steps`).
        workers: Processes, or actors; None is one per core.
        cluster: Address of a Ray cluster to work on, `actors.LOCAL` for one on this machine; None forks processes.

    Raises:
        UsageError: It cannot be run as described.
    """

    build: Callable[[], object]
    train: Dataset
    test: Dataset
    shares: Sequence[NDArray[np.int64]]
    local: LocalTraining
    exchange: Gossip | Exact
    rounds: int
    seed: int
    names: Sequence[str] = ()
    objective: Objective = CROSS_ENTROPY
    correction: float = 0.0
    gain: float = 0.0
    tested: int | None = 10
    test_every: int = 1
    form: Form = "auto"
    workers: int | None = None
    cluster: str | None = None

    def __post_init__(self) -> None:
        wrong = None
        empty = [peer for peer, share in enumerate(self.shares) if len(share) == 0]
        if not self.shares:
            wrong = "there is no peer"
        elif self.names and len(self.names) != len(self.shares):
            wrong = f"there are {len(self.names)} names for {len(self.shares)} peers"
        elif empty:
            wrong = f"peer {empty[0]} has no examples"
        elif any(int(share.min()) < 0 or int(share.max()) >= len(self.train) for share in self.shares):
            wrong = f"a share names an example outside the {len(self.train)} of the training data"
        elif self.rounds < 1 or self.test_every < 1:
            wrong = f"{self.rounds} rounds, tested every {self.test_every}, are not both 1 or more"
        elif self.tested is not None and self.tested < 0:
            wrong = f"{self.tested} peers cannot be tested"
        elif self.workers is not None and self.workers < 1:
            wrong = f"{self.workers} processes cannot work"
        elif isinstance(self.exchange, Gossip) and self.exchange.exchanges < 1:
            wrong = f"{self.exchange.exchanges} exchanges a round are not 1 or more"
        elif isinstance(self.exchange, Gossip) and self.exchange.codec is not None and self.exchange.by_samples:
            wrong = "weights that travel with models are not known of models that are compressed"
        elif isinstance(self.exchange, Gossip) and self.exchange.codec is not None and self.cluster is not None:
            wrong = "a Ray cluster's actors exchange float32 models only"
        elif isinstance(self.exchange, Exact) and not 0 <= self.exchange.fraction <= 1:
            wrong = f"a fraction of {self.exchange.fraction} of the peers is not between 0 and 1"
        elif isinstance(self.exchange, Exact) and self.local.keep_momentum:
            wrong = "with an exact mean every round starts afresh, so that no momentum can be kept"
        elif isinstance(self.exchange, Exact) and self.exchange.gathers and self.exchange.fraction < 1:
            wrong = "a rule, or an attack on updates, is for rounds in which all take part"
        elif isinstance(self.exchange, Exact) and self.exchange.gathers and self.cluster is not None:
            wrong = "a Ray cluster's actors keep no updates that a rule could compare, or an attacker could see"
        elif not 0 <= self.correction < 1:
            wrong = f"a correction of {self.correction} is not 0 or more and below 1"
        elif isinstance(self.exchange, Exact) and (self.correction or self.gain):
            wrong = "with an exact mean there is nothing that a correction could correct"
        elif not 0 <= self.gain < 1:
            wrong = f"a gain of {self.gain} is not 0 or more and below 1"
        elif self.correction and self.gain:
            wrong = "a momentum and corrected steps are two answers to one question"
        elif self.gain and isinstance(self.exchange, Gossip) and self.exchange.steps is not None:
            wrong = "corrected steps are for links that go both ways"
        if wrong:
            raise UsageError(f"couldn't set up the simulation: {wrong}", hint="Change that setting.")


@dataclass(frozen=True, slots=True)
class Score:
    """What a model does on the test examples: share of right answers, mean loss."""

    accuracy: float
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What is known after a round. Untested rounds have no scores and no distance.

    Attributes:
        number: From 1.
        trained: Peers that trained.
        examples: Training examples gone through, by all of them, in this round.
        bytes_sent: By all peers together, since the start; models only, as they travel.
        seconds: Real time since the start, tests included.
        seconds_learning: The same without tests.
        average: The score of the mean of all models: plain in gossip, of which sample-weighted in exact mixing all
            peers' models are copies.
        peers: (peer, score) of the peers tested, ascending.
        consensus_distance: Root of the mean squared distance of the models from their mean, after the exchange (Kong
            et al., "Consensus control for decentralized deep learning", 2021); 0 in exact mixing.
    """

    number: int
    trained: int
    examples: int
    bytes_sent: int
    seconds: float
    seconds_learning: float
    average: Score | None
    peers: tuple[tuple[int, Score], ...]
    consensus_distance: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All rounds, which form of local training they took, and the final mean model with its layout."""

    rounds: tuple[Round, ...]
    form: str
    layout: Layout
    average: NDArray[np.float32] = field(repr=False)

    def first_at(self, accuracy: float) -> int | None:
        """Return the first round whose average model reaches an accuracy, or None."""
        return next((r.number for r in self.rounds if r.average and r.average.accuracy >= accuracy), None)


def run(experiment: Experiment, on_round: Callable[[Round], object] | None = None) -> History:
    """Run an experiment to its end, or until `on_round`, called after each round, returns True.

    Raises:
        UsageError: see `Experiment`, `choose_steps` and `check_memory`.
    """
    with Simulation(experiment) as simulation:
        rounds = []
        for _ in range(experiment.rounds):
            rounds.append(simulation.next_round())
            if on_round is not None and on_round(rounds[-1]) is True:
                break
        return History(
            rounds=tuple(rounds), form=simulation.form, layout=simulation.layout, average=simulation.average_model()
        )


class Simulation:
    """An experiment under way. Use as a context manager: processes and a large matrix hang on it."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._clock = Clock()
        model = FlatModel(experiment.build, experiment.seed)
        steps = choose_steps(model, experiment.objective, experiment.train, experiment.local, experiment.form)
        self.form, self.layout = steps.name, model.layout
        self._bytes_per_model = 4 * model.elements
        self._sizes = np.array([len(share) for share in experiment.shares])
        # Rows are in order of size, largest first: neighbours in the matrix are stacked, and large ones are begun with.
        self._by_size = np.argsort(-self._sizes, kind="stable")
        self._place = np.argsort(self._by_size).astype(np.int64)
        n = len(self._sizes)
        self._taking_part = _participants(experiment.exchange, n)
        self._tested = _tested(experiment, n)
        codec = experiment.exchange.codec if isinstance(experiment.exchange, Gossip) else None
        place = (
            partial(LocalShards, codec=codec)
            if experiment.cluster is None
            else partial(RayShards, address=experiment.cluster)
        )
        self._shards: Shards = place(
            model,
            steps,
            experiment.objective,
            shares=experiment.shares,
            names=experiment.names or [f"site-{peer}" for peer in range(n)],
            seed=experiment.seed,
            test=experiment.test,
            rows=n if isinstance(experiment.exchange, Gossip) or experiment.exchange.gathers else 0,
            velocities=experiment.local.keep_momentum and experiment.local.momentum > 0,
            correction=experiment.correction,
            gain=experiment.gain,
            workers=experiment.workers,
        )
        outer = experiment.exchange.outer if isinstance(experiment.exchange, Exact) else NONE
        self._outer = replace(outer, buffers=untrained(model.parameters(model.module), model.elements))
        self._remembered = tuple(np.zeros(model.elements, np.float32) for _ in range(outer.slots))
        self._gathering = self._gather(experiment.exchange) if isinstance(experiment.exchange, Exact) else None
        self._round = self._bytes = 0
        self._seconds_testing = 0.0
        self._scalars: NDArray[np.float64] = np.ones(n)
        self._told: SparseRows | None = None
        self._began = self._clock.now()

    def next_round(self) -> Round:
        """Do one round and return what is known after it."""
        self._round += 1
        exchange = self._experiment.exchange
        trained = self._gossip(exchange) if isinstance(exchange, Gossip) else self._exact(exchange)
        average, peers, distance = self._test()
        seconds = self._clock.now() - self._began
        return Round(
            number=self._round,
            trained=len(trained),
            examples=int(self._sizes[trained].sum()) * self._experiment.local.epochs,
            bytes_sent=self._bytes,
            seconds=seconds,
            seconds_learning=seconds - self._seconds_testing,
            average=average,
            peers=peers,
            consensus_distance=distance,
        )

    def model(self, peer: int) -> NDArray[np.float32]:
        """Return a copy of a peer's model after the last round, shape (elements,), in the order of `layout`."""
        exact = isinstance(self._experiment.exchange, Exact) or self._round == 0
        return self._shards.model(COMMON if exact else int(self._place[peer]))

    def average_model(self) -> NDArray[np.float32]:
        """Return the mean of all models after the last round (in gossip, the plain mean)."""
        if isinstance(self._experiment.exchange, Gossip) and self._round:
            self._shards.merge()
        return self._shards.model(COMMON)

    def close(self) -> None:
        """End what was started."""
        self._shards.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _gossip(self, gossip: Gossip) -> NDArray[np.int64]:
        steps = None if gossip.steps is None else gossip.steps(self._round - 1)[self._by_size].tolist()
        self._shards.train(self._round, self._by_size.tolist(), restart=self._round == 1, steps=steps)
        if gossip.by_samples:
            self._scalars = np.asarray(self._sizes / self._sizes.mean(), dtype=np.float64)
        for step in range(gossip.exchanges):
            rows = self._rows(gossip.mixing((self._round - 1) * gossip.exchanges + step))
            last = gossip.whole_at_last and self._round == self._experiment.rounds
            if gossip.codec is None or last:
                self._bytes += rows.copies * self._bytes_per_model
            else:
                self._bytes += int(rows.taken @ np.array(self._shards.publish(), np.int64))
            self._shards.mix(self._carried(rows))
        return self._by_size

    def _gather(self, exact: Exact) -> Gathering | None:
        if not exact.gathers:
            return None
        sizes = self._sizes.tolist()
        return Gathering(
            integer_weights(sizes, cap_ppm=exact.cap_ppm),
            rule=exact.rule,
            bound=exact.bound,
            attack=exact.attack,
            attackers=exact.attackers,
            seed=self._experiment.seed,
        )

    def _gathered(self, gathering: Gathering) -> NDArray[np.int64]:
        """Let all train from the common model; what they have learnt is attacked, clipped and averaged here."""
        assert isinstance(self._shards, LocalShards), "an experiment on a cluster gathers nothing"
        self._shards.train(self._round, self._by_size.tolist(), restart=True)
        rows, base = self._shards.rows(), self._shards.model(COMMON)
        np.subtract(rows, base, out=rows)
        updates = [rows[place] for place in self._place]
        made = gathering.next_model(base, updates, self._round)
        self._shards.begin_from(self._stepped(base, made) if self._remembered else made)
        n = len(self._sizes)
        self._bytes += n * (n - 1) * self._bytes_per_model  # by spread: every update goes to everybody
        return self._by_size

    def _exact(self, exact: Exact) -> NDArray[np.int64]:
        if self._gathering is not None:
            return self._gathered(self._gathering)
        n, m = len(self._sizes), self._taking_part
        drawn = np.random.default_rng((self._experiment.seed, self._round)).choice(n, m, replace=False)
        trained = drawn[np.argsort(self._place[drawn])]
        weights = integer_weights(self._sizes[trained].tolist(), cap_ppm=exact.cap_ppm)
        before = self._shards.model(COMMON) if self._remembered else None
        self._shards.average(self._round, trained.tolist(), np.array(weights, dtype=np.float64))
        if before is not None:
            self._shards.begin_from(self._stepped(before, self._shards.model(COMMON)))
        self._bytes += (2 * (m - 1) + (n - m)) * self._bytes_per_model
        return trained

    def _stepped(self, before: NDArray[np.float32], averaged: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return where the outer optimiser gets to from the model `before`, which it replaces, by the averaged one."""
        rows = (before, *self._remembered)
        self._outer.step(rows, rows, averaged - before)
        return before

    def _rows(self, exchange: Exchange) -> SparseRows:
        """Return an exchange in terms of rows of the matrix; if it is as the one before, the same object."""
        if isinstance(exchange, Mixing):  # compressed already: a dense one of a thousand peers has a million weights
            given = SparseRows(starts=exchange.starts, sources=exchange.sources, weights=exchange.weights)
        else:
            given = SparseRows.of(exchange.rows)
        rows = given.placed(self._place)
        if self._told is None or not rows.same(self._told):
            self._told = rows
        return self._told

    def _carried(self, rows: SparseRows) -> SparseRows:
        """Return the rows that act on the models as `rows` act on (scalar times model, scalar), then divided."""
        before = self._scalars[self._by_size]
        owners = np.repeat(np.arange(rows.n), np.diff(rows.starts))
        after = np.bincount(owners, rows.weights * before[rows.sources], rows.n).astype(np.float64)
        if np.abs(before - 1).max() <= NEARLY_ONE and np.abs(after - 1).max() <= NEARLY_ONE:
            return rows
        if after.min() <= 0:
            lost = int(self._by_size[after.argmin()])
            raise UsageError(
                f"couldn't mix: peer {lost} would be left with no share of any model",
                hint="Give every peer a weight on itself or on somebody.",
            )
        self._scalars = after[self._place]
        weights = rows.weights * before[rows.sources] / after[owners]
        return SparseRows(starts=rows.starts, sources=rows.sources, weights=weights)

    def _test(self) -> tuple[Score | None, tuple[tuple[int, Score], ...], float | None]:
        experiment = self._experiment
        if self._round % experiment.test_every and self._round != experiment.rounds:
            return None, (), None
        began = self._clock.now()
        try:
            if isinstance(experiment.exchange, Exact):
                average = self._score(self._shards.evaluate([COMMON])[0])
                return average, tuple((peer, average) for peer in self._tested), 0.0
            distance = self._shards.merge()
            scores = self._shards.evaluate([COMMON, *self._place[self._tested].tolist()])
            peers = zip(self._tested, map(self._score, scores[1:]), strict=True)
            return self._score(scores[0]), tuple(peers), distance
        finally:
            self._seconds_testing += self._clock.now() - began

    def _score(self, raw: RawScore) -> Score:
        hits, loss = raw
        count = len(self._experiment.test)
        answers = self._experiment.test.y.numel()  # several yes-or-no answers an example count one by one
        return Score(accuracy=hits / answers, loss=loss / count)


def _participants(exchange: Gossip | Exact, n: int) -> int:
    """Return max(C n, 1) as in McMahan et al. 2017, rounded down; all peers in gossip."""
    return max(1, math.floor(exchange.fraction * n + 1e-9)) if isinstance(exchange, Exact) else n


def _tested(experiment: Experiment, n: int) -> list[int]:
    if experiment.tested is None or experiment.tested >= n:
        return list(range(n))
    drawn = np.random.default_rng(experiment.seed).choice(n, experiment.tested, replace=False)
    return sorted(int(peer) for peer in drawn)

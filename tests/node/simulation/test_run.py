"""Whole simulations: FedAvg and gossip against their definitions, one history for one seed, and what it refuses."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from node.simulation.flat import FlatModel
from node.simulation.learning import BINARY, CROSS_ENTROPY, Dataset, LocalTraining
from node.simulation.mixing import Rows
from node.simulation.run import Exact, Experiment, Gossip, History, Round, Simulation, run
from node.simulation.shards import check_memory
from swarm.errors import UsageError
from swarm.mixing.compress.choco import Public, propose
from swarm.mixing.compress.forms import decode, encode, encoded_bytes, parse
from tests.node.simulation.learners import digits, noise, perceptron, plainly_trained, unequal
from topologies import partitions
from topologies.schedules import build

MNIST = Path(__file__).resolve().parents[4] / "shared" / "data" / "mnist" / "mnist.npz"

LOCAL = LocalTraining(learning_rate=0.1, batch=10, momentum=0.5, epochs=2)
SIZES = (12, 50, 31, 7)


@dataclass(frozen=True)
class Step:
    rows: Rows


def constant(w: Sequence[Sequence[float]]) -> Callable[[int], Step]:
    step = Step([[(j, weight) for j, weight in enumerate(row) if weight] for row in w])
    return lambda _t: step


def complete(n: int) -> Callable[[int], Step]:
    return constant([[1 / n] * n] * n)


def hypercube_of_four(t: int) -> Step:
    """Exact after two exchanges: with the neighbour across the first dimension, then the second."""
    return Step([[(i, 0.5), (i ^ (1 << t % 2), 0.5)] for i in range(4)])


def ring(n: int) -> Callable[[int], Step]:
    return lambda _t: Step([[((i - 1) % n, 1 / 3), (i, 1 / 3), ((i + 1) % n, 1 / 3)] for i in range(n)])


def experiment(exchange: Gossip | Exact, **changes: object) -> Experiment:
    standard = Experiment(
        build=perceptron,
        train=noise(),
        test=noise(),
        shares=unequal(SIZES),
        local=LOCAL,
        exchange=exchange,
        rounds=3,
        seed=4,
        workers=1,
    )
    return dataclasses.replace(standard, **changes)  # type: ignore[arg-type]


def fedavg(e: Experiment, taking_part: Callable[[int], Sequence[int]]) -> torch.Tensor:
    """McMahan et al. 2017, algorithm 1, with nothing shared with the simulator but its plain loop."""
    model = FlatModel(e.build, e.seed)
    vector = model.initial
    for round_ in range(1, e.rounds + 1):
        total, weight = torch.zeros(model.elements, dtype=torch.float64), 0
        for peer in taking_part(round_):
            share = e.shares[peer]
            trained = plainly_trained(
                model, vector, e.train, share, e.local, e.objective, seed=e.seed, rounds=[round_], name=f"site-{peer}"
            )
            total += len(share) * trained.double()
            weight += len(share)
        vector = (total / weight).float()
    return vector


def test_exact_mixing_is_federated_averaging() -> None:
    e = experiment(Exact())
    np.testing.assert_allclose(run(e).average, fedavg(e, lambda _r: range(4)).numpy(), atol=2e-5)


def test_a_fraction_of_the_peers_is_drawn_every_round() -> None:
    e = experiment(Exact(fraction=0.5), rounds=6)
    seen: list[list[int]] = []

    def drawn(round_: int) -> list[int]:
        seen.append(np.random.default_rng((e.seed, round_)).choice(4, 2, replace=False).tolist())
        return seen[-1]

    np.testing.assert_allclose(run(e).average, fedavg(e, drawn).numpy(), atol=5e-5)
    assert len({tuple(sorted(pair)) for pair in seen}) > 1
    assert [r.trained for r in run(e).rounds] == [2] * 6
    assert [r.trained for r in run(experiment(Exact(fraction=0.0))).rounds] == [1] * 3  # C = 0: one peer a round


@pytest.mark.parametrize(("mixing", "exchanges"), [(complete(4), 1), (hypercube_of_four, 2)])
def test_gossip_with_exact_weights_is_federated_averaging(mixing: Callable[[int], Step], exchanges: int) -> None:
    e = experiment(Gossip(mixing=mixing, exchanges=exchanges, by_samples=True))
    history = run(e)
    np.testing.assert_allclose(history.average, fedavg(e, lambda _r: range(4)).numpy(), atol=2e-5)
    assert all(r.consensus_distance is not None and r.consensus_distance < 1e-5 for r in history.rounds)


@pytest.mark.parametrize("name", ["base2", "base4", "complete"])
def test_a_finite_time_schedule_is_federated_averaging(name: str) -> None:
    schedule = build(name, 7)
    gossip = Gossip(mixing=schedule.mixing, exchanges=schedule.exact_after or 1, by_samples=True)
    e = experiment(gossip, shares=unequal((12, 50, 31, 7, 20, 44, 5)), rounds=2)
    history = run(e)
    np.testing.assert_allclose(history.average, fedavg(e, lambda _r: range(7)).numpy(), atol=2e-5)
    distance = history.rounds[-1].consensus_distance
    assert distance is not None
    assert distance < 1e-5


def test_a_schedule_that_carries_two_models_a_peer_is_refused() -> None:
    with pytest.raises(UsageError, match="8 rows for 4 peers") as refused:
        run(experiment(Gossip(mixing=build("ceca", 4).mixing)))
    assert "one model each" in refused.value.hint


@pytest.mark.parametrize("codec", ["int8", "sign", "bf16"])
@pytest.mark.parametrize("workers", [1, 2])
def test_gossip_under_a_codec_is_local_steps_and_then_choco(codec: str, workers: int) -> None:
    w = np.array([[0.7, 0.3, 0, 0], [0.3, 0.4, 0.3, 0], [0, 0.3, 0.3, 0.4], [0, 0, 0.4, 0.6]])
    spec = parse(codec)
    gossip = Gossip(mixing=constant(w.tolist()), codec=spec, whole_at_last=True)
    e = experiment(gossip, rounds=3, workers=workers)
    model = FlatModel(e.build, e.seed)
    models = model.initial.repeat(4, 1)
    copies = [Public(0, model.initial.numpy())] * 4
    sent = 0
    for round_ in (1, 2, 3):
        trained = torch.stack(
            [
                plainly_trained(
                    model, row, e.train, share, e.local, e.objective, seed=e.seed, rounds=[round_], name=f"site-{peer}"
                )
                for peer, (row, share) in enumerate(zip(models, e.shares, strict=True))
            ]
        )
        if round_ == 3:
            models = (torch.from_numpy(w) @ trained.double()).float()
            sent += 6 * 4 * model.elements
            continue
        if codec == "bf16":
            said = [(Public(0, decode(encode(one.numpy(), spec), model.elements)), b"") for one in trained]
        else:
            said = [propose(copy, one.numpy(), spec) for copy, one in zip(copies, trained, strict=True)]
        copies = [copy for copy, _ in said]
        shown = torch.from_numpy(np.array([copy.copy for copy in copies])).double()
        models = (trained.double() + (torch.from_numpy(w) - torch.eye(4)) @ shown).float()
        sent += 6 * encoded_bytes(spec, model.elements)
    with Simulation(e) as simulation:
        rounds = [simulation.next_round() for _ in range(3)]
        for peer in range(4):
            np.testing.assert_allclose(simulation.model(peer), models[peer].numpy(), atol=5e-5)
    assert rounds[-1].bytes_sent == sent


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"by_samples": True}, "weights that travel"), ({}, "a Ray cluster's actors exchange float32 models only")],
)
def test_codecs_that_cannot_be_are_refused(changes: dict[str, bool], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        experiment(Gossip(mixing=ring(4), codec=parse("int8"), **changes), cluster=None if changes else "local")  # type: ignore[arg-type]


def test_gossip_is_local_steps_and_then_a_weighted_sum_of_models() -> None:
    w = np.array([[0.7, 0.3, 0, 0], [0.3, 0.4, 0.3, 0], [0, 0.3, 0.3, 0.4], [0, 0, 0.4, 0.6]])
    e = experiment(Gossip(mixing=constant(w.tolist())), rounds=2)
    model = FlatModel(e.build, e.seed)
    models = model.initial.repeat(4, 1)
    for round_ in (1, 2):
        trained = [
            plainly_trained(
                model, row, e.train, share, e.local, e.objective, seed=e.seed, rounds=[round_], name=f"site-{peer}"
            )
            for peer, (row, share) in enumerate(zip(models, e.shares, strict=True))
        ]
        models = (torch.from_numpy(w) @ torch.stack(trained).double()).float()
    with Simulation(e) as simulation:
        simulation.next_round()
        last = simulation.next_round()
        for peer in range(4):
            np.testing.assert_allclose(simulation.model(peer), models[peer].numpy(), atol=2e-5)
        np.testing.assert_allclose(simulation.average_model(), models.mean(0).numpy(), atol=2e-5)
    expected = (models - models.mean(0)).square().sum(1).mean().sqrt()
    assert last.consensus_distance == pytest.approx(float(expected), rel=1e-3)


def test_push_sum_weights_travel_along_directed_links() -> None:
    # Peer 0 hears everybody and nobody hears all of it: columns sum to one, rows do not.
    w = [[0.5, 0.5, 0.5], [0.25, 0.5, 0], [0.25, 0, 0.5]]
    e = experiment(Gossip(mixing=constant(w), exchanges=60), shares=unequal(SIZES[:3]), rounds=1)
    model = FlatModel(e.build, e.seed)
    trained = [
        plainly_trained(
            model, model.initial, e.train, share, e.local, e.objective, seed=e.seed, rounds=[1], name=f"site-{peer}"
        )
        for peer, share in enumerate(e.shares)
    ]
    np.testing.assert_allclose(run(e).average, torch.stack(trained).mean(0).numpy(), atol=1e-5)


@pytest.mark.real
@pytest.mark.parametrize("form", ["auto", "vmap", "loop"])
@pytest.mark.parametrize("exchange", [Exact(fraction=0.5), Gossip(mixing=ring(7), exchanges=2, by_samples=True)])
def test_the_history_does_not_depend_on_the_number_of_processes(form: str, exchange: Exact | Gossip) -> None:
    def told(workers: int) -> tuple[list[Round], bytes]:
        e = experiment(exchange, shares=unequal((9, 30, 12, 5, 44, 30, 8)), form=form, workers=workers, tested=3)
        history = run(e)
        return [
            dataclasses.replace(r, seconds=0, seconds_learning=0) for r in history.rounds
        ], history.average.tobytes()

    assert told(1) == told(2) == told(3)


def test_another_seed_is_another_history() -> None:
    one, other = (run(experiment(Exact(), seed=seed)).average for seed in (4, 5))
    assert not np.array_equal(one, other)


def test_momentum_is_kept_between_rounds_where_asked() -> None:
    local = dataclasses.replace(LOCAL, keep_momentum=True)
    alone = Gossip(mixing=constant(np.eye(4).tolist()))
    e = experiment(alone, local=local)
    model = FlatModel(e.build, e.seed)
    with Simulation(e) as simulation:
        for _ in range(3):
            simulation.next_round()
        for peer, share in enumerate(e.shares):
            expected = plainly_trained(
                model,
                model.initial,
                e.train,
                share,
                local,
                CROSS_ENTROPY,
                seed=e.seed,
                rounds=(1, 2, 3),
                name=f"site-{peer}",
            )
            np.testing.assert_allclose(simulation.model(peer), expected.numpy(), atol=5e-5)


def test_digits_are_learned_and_the_swarm_agrees_more_with_more_links() -> None:
    train, test = digits()
    shares = partitions.dirichlet(train.y.numpy(), 8, 1, alpha=0.3)
    histories: dict[str, History] = {}
    for name, mixing in (("ring", ring(8)), ("complete", complete(8)), ("alone", constant(np.eye(8).tolist()))):
        histories[name] = run(
            Experiment(
                build=lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
                train=train,
                test=test,
                shares=shares,
                local=LocalTraining(learning_rate=0.1, batch=16, momentum=0.9),
                exchange=Gossip(mixing=mixing),
                rounds=12,
                seed=1,
                tested=None,
                workers=1,
            )
        )
    last = {name: history.rounds[-1] for name, history in histories.items()}
    worst = {name: min(score.accuracy for _, score in r.peers) for name, r in last.items()}
    assert worst["alone"] < 0.7 < worst["ring"] < worst["complete"]
    assert worst["complete"] > 0.9
    distance = {name: r.consensus_distance or 0.0 for name, r in last.items()}
    assert distance["complete"] < 1e-4 < distance["ring"] < distance["alone"]
    reached = histories["complete"].first_at(0.9)
    assert reached is not None
    assert histories["complete"].rounds[reached - 1].average is not None
    assert histories["alone"].first_at(0.99) is None


def test_bytes_are_counted_by_copies_of_the_model() -> None:
    size = 4 * FlatModel(perceptron, 1).elements
    assert [r.bytes_sent for r in run(experiment(Gossip(mixing=ring(4)))).rounds] == [8 * size, 16 * size, 24 * size]
    assert run(experiment(Exact(), rounds=1)).rounds[0].bytes_sent == 6 * size  # sharded: 2 (n - 1) copies
    assert run(experiment(Exact(fraction=0.5), rounds=1)).rounds[0].bytes_sent == (2 + 2) * size


def test_rounds_are_tested_when_asked_and_the_last_one_always() -> None:
    history = run(experiment(Exact(), rounds=5, test_every=2))
    assert [r.average is not None for r in history.rounds] == [False, True, False, True, True]
    assert [r.examples for r in history.rounds] == [2 * sum(SIZES)] * 5


def test_scores_count_right_answers() -> None:
    e = experiment(Gossip(mixing=complete(4)), tested=2)
    history = run(e)
    module = FlatModel(e.build, e.seed).copy_module().eval()
    model = FlatModel(e.build, e.seed)
    model.load(torch.from_numpy(history.average), module)
    with torch.no_grad():
        output = module(e.test.x)
    score = history.rounds[-1].average
    assert score is not None
    assert score.accuracy == pytest.approx(float((output.argmax(1) == e.test.y).float().mean()))
    assert score.loss == pytest.approx(float(nn.functional.cross_entropy(output, e.test.y)), rel=1e-5)
    assert len(history.rounds[-1].peers) == 2


def test_a_run_can_be_stopped() -> None:
    assert len(run(experiment(Exact(), rounds=50), lambda r: r.number == 2).rounds) == 2


def test_tests_on_more_rows_than_one_batch_add_up() -> None:
    big = noise(2500)
    score = run(experiment(Exact(), test=big, rounds=1)).rounds[0].average
    halves = [
        run(experiment(Exact(), test=Dataset(big.x[part], big.y[part]), rounds=1)).rounds[0].average
        for part in (slice(0, 1250), slice(1250, 2500))
    ]
    assert score is not None
    assert score.accuracy == pytest.approx(sum(h.accuracy for h in halves if h) / 2)
    assert score.loss == pytest.approx(sum(h.loss for h in halves if h) / 2, rel=1e-5)


def test_yes_or_no_is_scored() -> None:
    data = noise()
    data = Dataset(data.x, (data.x[:, :1] > 0).float())
    e = experiment(Exact(), build=lambda: nn.Linear(12, 1), train=data, test=data, objective=BINARY, rounds=8)
    score = run(e).rounds[-1].average
    assert score is not None
    assert score.accuracy > 0.9


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shares": []}, "there is no peer"),
        ({"shares": [np.array([1]), np.array([], dtype=np.int64)]}, "peer 1 has no examples"),
        ({"shares": [np.array([120])]}, "names an example outside the 120"),
        ({"rounds": 0}, "0 rounds"),
        ({"workers": 0}, "0 processes cannot work"),
        ({"tested": -1}, "-1 peers cannot be tested"),
        ({"exchange": Exact(fraction=1.5)}, "a fraction of 1.5"),
        ({"exchange": Gossip(mixing=complete(4), exchanges=0)}, "0 exchanges a round"),
        ({"local": dataclasses.replace(LOCAL, keep_momentum=True)}, "no momentum can be kept"),
    ],
)
def test_what_cannot_be_run_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        experiment(**{"exchange": Exact(), **changes})  # type: ignore[arg-type]


def test_a_schedule_of_another_size_or_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="5 rows for 4 peers"):
        run(experiment(Gossip(mixing=complete(5))))
    with pytest.raises(UsageError, match="peer 2 would be left with no share"):
        run(experiment(Gossip(mixing=constant([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]))))


def test_too_many_peers_for_the_memory_are_refused_with_the_number_that_fits() -> None:
    with pytest.raises(UsageError, match=r"couldn't hold 10,000,000 models of 199,210 parameters") as refused:
        check_memory(10_000_000, 199_210, velocities=False)
    assert "Take at most" in refused.value.hint


class Broken(nn.Module):
    """Fails once it is trained in another process than the one that made it."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self.last = nn.Linear(12, 4)
        self._maker, self._act = os.getpid(), act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if os.getpid() != self._maker:
            self._act()
        out: torch.Tensor = self.last(x)
        return out


def fail() -> None:
    raise ValueError("no such feature")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_model_that_fails_in_this_process_ends_the_run_in_words() -> None:
    e = experiment(Exact(), build=lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh()), form="loop")
    with pytest.raises(UsageError, match="couldn't go on with the simulation: RuntimeError: mat1"):
        run(e)


@pytest.mark.real
@pytest.mark.parametrize(("act", "words"), [(fail, "ValueError: no such feature"), (die, r"ended \(signal 9\)")])
def test_a_process_that_fails_or_dies_ends_the_run_in_words(act: Callable[[], None], words: str) -> None:
    e = experiment(Exact(), build=lambda: Broken(act), form="loop", workers=2)
    with pytest.raises(UsageError, match=f"couldn't go on with the simulation: .*{words}"):
        run(e)


@pytest.mark.skipif(not MNIST.is_file(), reason="no MNIST at ../shared/data")
def test_a_hundred_peers_learn_mnist() -> None:
    with np.load(MNIST, allow_pickle=False) as file:
        y = file["y_train"].astype(np.int64)
        train = Dataset(torch.from_numpy(file["x_train"].reshape(-1, 784)), torch.from_numpy(y))
        x_test, y_test = file["x_test"].reshape(-1, 784), file["y_test"].astype(np.int64)
    e = Experiment(
        build=lambda: nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10)),
        train=train,
        test=Dataset(torch.from_numpy(x_test), torch.from_numpy(y_test)),
        shares=partitions.iid(y, 100, 1),
        local=LocalTraining(learning_rate=0.1, batch=10),
        exchange=Exact(fraction=0.1),
        rounds=6,
        seed=1,
        test_every=6,
    )
    history = run(e)
    assert history.form == "batched"
    score = history.rounds[-1].average
    assert score is not None
    assert score.accuracy > 0.89

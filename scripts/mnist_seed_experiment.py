"""The seed experiment: ten peers learn MNIST together, beside plain FedAvg computed centrally on the same shards.

    python scripts/mnist_seed_experiment.py MNIST.npz [--seeds 1 2 3] [--rounds 20]

The 2NN of McMahan et al. 2017 (784-200-200-10), IID shards, one local epoch a round, batch 10, SGD 0.1. The swarm is
ten real peers as processes. The central figure trains the same model on the same shards with the same task file in this
process and averages in float64, as any FedAvg server does. Prints one line a round and a table.
"""

import argparse
import importlib.util
import pathlib
import tempfile
import time

import numpy as np
import torch

import node.examples
from node.cli.ledger.reading import verify_quietly
from node.data import write_mnist
from node.local import fork_server, found, stop_all
from node.task import RunInfo, SiteInfo, round_seed
from swarm.ledger.entry import METRIC_SCALE

TARGET = 0.965


def main() -> None:
    """Run the experiment for each seed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("mnist", type=pathlib.Path)
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--peers", type=int, default=10)
    chosen = options.parse_args()
    rows = []
    for seed in chosen.seeds:
        with tempfile.TemporaryDirectory() as folder:
            sites = write_mnist(chosen.mnist, pathlib.Path(folder) / "data", sites=chosen.peers, seed=seed)
            begun = time.monotonic()
            with fork_server() as server:
                swarm = run_swarm(pathlib.Path(folder), sites, seed, chosen.rounds, server)
            spent = time.monotonic() - begun
            central = run_central(sites, seed, chosen.rounds)
        reached = next((r for r, accuracy in enumerate(swarm, 1) if accuracy >= TARGET), None)
        rows.append((seed, swarm[-1], central[-1], reached, spent))
        for number, (ours, theirs) in enumerate(zip(swarm, central, strict=True), 1):
            print(f"seed {seed} round {number:>2}: swarm {ours:.4f}  central FedAvg {theirs:.4f}", flush=True)
    print(f"\n{'seed':>4}  {'swarm':>7}  {'central':>7}  {'gap':>8}  rounds to {TARGET:.1%}  seconds")
    for seed, ours, theirs, reached, spent in rows:
        print(f"{seed:>4}  {ours:>7.4f}  {theirs:>7.4f}  {ours - theirs:>+8.4f}  {reached!s:>15}  {spent:>7.0f}")


def run_swarm(folder: pathlib.Path, sites: list, seed: int, rounds: int, server: pathlib.Path) -> list[float]:
    """Return the test accuracy after each round, as the members recorded it in the ledger."""
    task = pathlib.Path(node.examples.__file__).parent / "mnist.py"
    terms = {"metrics": ("accuracy",), "patience_s": 120, "deadline_s": 600}
    peers = found(folder, sites, task, rounds=rounds, seed=seed, forkserver=server, **terms)
    try:
        for peer in peers:
            peer.start()
        while not all(peer.done for peer in peers):
            time.sleep(1.0)
            for peer in peers:
                peer.poll()
                assert peer.up, peer.log_tail(20)
    finally:
        stop_all(peers)
    audits = [verify_quietly(peer.site.folder) for peer in peers]
    assert len({audit.state.committed.model for audit in audits}) == 1, "all peers hold the same model"
    curve = []
    for number in range(1, rounds + 1):
        scores = [value for e in audits[0].rounds[number].evaluations.values() for _, value in e.metrics]
        curve.append(scores[0] / METRIC_SCALE if scores else float("nan"))
    return curve


def run_central(sites: list, seed: int, rounds: int) -> list[float]:
    """Return the test accuracy of plain FedAvg on the same shards, seeds and task file."""
    path = pathlib.Path(node.examples.__file__).parent / "mnist.py"
    spec = importlib.util.spec_from_file_location("mnist_task", path)
    task = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(task)
    torch.manual_seed(seed)
    model = task.build_model()
    state = {name: value.double().clone() for name, value in model.state_dict().items()}
    infos = [SiteInfo(site.name, site.folder, seed, "cpu") for site in sites]
    data = [task.load_data(info) for info in infos]
    curve = []
    for number in range(1, rounds + 1):
        total = {name: torch.zeros_like(value) for name, value in state.items()}
        weight = 0
        for info, part in zip(infos, data, strict=True):
            model.load_state_dict({name: value.float() for name, value in state.items()})
            run_seed = round_seed(seed, info.name, number)  # as the trainer process seeds a round
            torch.manual_seed(run_seed)
            np.random.seed(run_seed)
            samples = task.train(model, part, RunInfo(number, run_seed, "cpu", info))["samples"]
            for name, value in model.state_dict().items():
                total[name] += samples * value.double()
            weight += samples
        state = {name: value / weight for name, value in total.items()}
        model.load_state_dict({name: value.float() for name, value in state.items()})
        with torch.no_grad():
            curve.append(task.evaluate(model, data[0], RunInfo(number, seed, "cpu", infos[0]))["accuracy"])
    return curve


if __name__ == "__main__":
    main()

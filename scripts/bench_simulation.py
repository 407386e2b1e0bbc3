"""What simulated learning costs, as ratios to what a user would write, measured in turn in the same run.

    PYTHONPATH=. python scripts/bench_simulation.py MNIST.npz [--repeats 5] [--only speed large model flat]

Samples a second, medians over the repetitions, in which everything takes its turn, so that a busy machine slows all of
it. *wall* is what counts and needs a quiet machine; *best* is the fastest repetition, and *cpu* is by processor time,
times the processes: what an undisturbed machine would give if memory kept up.

- *speed*: 100 peers x 600 digits, MLP 784-200-200-10, batch 32, SGD with momentum 0.9. Yardstick: plain PyTorch on one
  thread, all data in one place, the same batch size. Beside it a plain loop over the peers in two processes. The
  simulator's figure includes the exchange (an exact mean); a round of 100 peers is 60,000 samples. Accuracy after the
  last repetition's rounds, by the simulator and by a plain loop.
- *model*: models nobody wrote a backward pass for, against the plain loop in two processes.
- *large*: 1,000 peers x 60 digits with the same MLP, and the peak of memory: proportional set sizes of all processes.
- *flat*: seconds per peer and round from 10 to 1,000 peers of 60 digits, training and one exchange on a ring apart.
"""

import argparse
import contextlib
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import nn

from node.simulation.learning import Dataset, LocalTraining
from node.simulation.run import Exact, Experiment, Gossip, Simulation
from topologies import partitions

TICKS = os.sysconf("SC_CLK_TCK")
LOCAL = LocalTraining(learning_rate=0.05, batch=32, momentum=0.9)
PROCESSES = 2


def mlp() -> nn.Module:
    """Return the 2NN of McMahan et al. 2017: 199,210 parameters."""
    return nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))


def smooth() -> nn.Module:
    """Return a perceptron that the hand-written form does not take."""
    return nn.Sequential(nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 10))


class Net(nn.Module):
    """A network as tutorials write them, convolutions and dropout included."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 5), nn.Conv2d(8, 16, 5)
        self.drop, self.fc = nn.Dropout(0.2), nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return one score per digit."""
        x = x.view(-1, 1, 28, 28)
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv1(x)), 2)
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv2(x)), 2)
        return self.fc(self.drop(x.flatten(1)))


@dataclass
class Spent:
    """Samples, and the seconds they took: on the wall and of processors."""

    samples: int
    wall: float
    cpu: float


def main() -> None:
    """Run what is asked for and print tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("mnist", type=pathlib.Path)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--only", nargs="+", choices=["speed", "model", "large", "flat"], default=None)
    chosen = options.parse_args()
    asked = chosen.only or ["speed", "model", "large", "flat"]
    if len(asked) > 1:
        # A process for each: memory that one has freed would still count in the next.
        for name in asked:
            command = [sys.executable, __file__, str(chosen.mnist), "--repeats", str(chosen.repeats), "--only", name]
            subprocess.run(command, check=True)
        return
    with np.load(chosen.mnist, allow_pickle=False) as file:
        train = dataset(file["x_train"], file["y_train"])
        test = dataset(file["x_test"], file["y_test"])
    parts = {"speed": speed, "model": arbitrary, "large": large, "flat": flat}
    print(f"\n{asked[0]} (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)", flush=True)
    parts[asked[0]](train, test, chosen.repeats)


def dataset(x: np.ndarray, y: np.ndarray) -> Dataset:
    """Return digits as pixels."""
    return Dataset(torch.from_numpy(x.reshape(-1, 784)), torch.from_numpy(y.astype(np.int64)))


# --- the four questions -------------------------------------------------------------------------------------------


def speed(train: Dataset, test: Dataset, repeats: int) -> None:
    """Print the simulator's speed beside plain PyTorch."""
    shares = partitions.iid(train.y.numpy(), 100, 1)
    rows: dict[str, list[Spent]] = {"plain PyTorch, one thread": [], "plain loop, two processes": [], "simulator": []}
    with Simulation(experiment(mlp, train, test, shares)) as simulation:
        simulation.next_round()
        for _ in range(repeats):
            rows["plain PyTorch, one thread"].append(central(train, 12_800))
            rows["plain loop, two processes"].append(plain_loop(mlp, train, shares[:40]))
            rows["simulator"].append(rounds(simulation, 1))
    table(rows, ["plain PyTorch, one thread", "plain loop, two processes"])
    for form in ("batched", "loop"):
        with Simulation(experiment(mlp, train, test, shares, form=form, rounds=5)) as simulation:
            for _ in range(5):
                last = simulation.next_round()
            print(f"accuracy after 5 rounds of FedAvg, {form}: {last.average.accuracy:.4f}")


def arbitrary(train: Dataset, test: Dataset, repeats: int) -> None:
    """Print how any model does beside a plain loop."""
    shares = partitions.iid(train.y.numpy(), 100, 1)[:20]
    for name, build in (("tanh perceptron", smooth), ("small CNN with dropout", Net), ("the MLP, looped", mlp)):
        rows: dict[str, list[Spent]] = {"plain loop, two processes": [], "simulator": []}
        form = "loop" if build is mlp else "auto"
        with Simulation(experiment(build, train, test, shares, form=form)) as simulation:
            simulation.next_round()
            for _ in range(repeats):
                rows["plain loop, two processes"].append(plain_loop(build, train, shares))
                rows["simulator"].append(rounds(simulation, 1))
            print(f"{name}: {simulation.form}")
        table(rows, ["plain loop, two processes"])


def large(train: Dataset, test: Dataset, repeats: int) -> None:
    """Print speed and memory of 1,000 peers beside those of 100 on the same examples."""
    labels = train.y.numpy()
    hundred = experiment(mlp, train, test, partitions.iid(labels, 100, 1))
    thousand = experiment(mlp, train, test, partitions.iid(labels, 1000, 1))
    ring = experiment(mlp, train, test, partitions.iid(labels, 1000, 1), exchange=Gossip(mixing=Ring(1000)))
    rows: dict[str, list[Spent]] = {"100 x 600": [], "1,000 x 60, exact": [], "1,000 x 60, ring": []}
    peaks = {}
    for name, asked in zip(rows, (hundred, thousand, ring), strict=True):
        # Memory one after the other: two matrices at once would not be what is measured.
        with Memory(0 if asked is not ring else 4 * 1000 * 199_210) as memory, Simulation(asked) as simulation:
            for _ in range(3):
                simulation.next_round()
        peaks[name] = memory.peak
    with contextlib.ExitStack() as stack:
        # Time in turn, each with processes of its own, so that a busy machine slows all of it.
        ready = [(name, *begun(asked, stack)) for name, asked in zip(rows, (hundred, thousand, ring), strict=True)]
        for _ in range(repeats):
            for name, simulation, pids in ready:
                rows[name].append(rounds(simulation, 1, pids))
    table(rows, ["100 x 600"])
    print(
        "peak memory:",
        ", ".join(f"{name} {peak / 2**30:.2f} GiB ({peak / 1e9:.2f} GB)" for name, peak in peaks.items()),
    )


def flat(train: Dataset, test: Dataset, repeats: int) -> None:
    """Print the cost of a peer and round at several sizes of the swarm."""
    print(f"{'peers':>6}  {'ms of cpu per peer and round':>29}  {'same on the wall':>16}")
    for n in (10, 30, 100, 300, 1000):
        shares = partitions.iid(train.y.numpy()[: 60 * n], n, 1)
        with Simulation(experiment(mlp, train, test, shares, exchange=Gossip(mixing=Ring(n)))) as simulation:
            simulation.next_round()
            taken = [rounds(simulation, max(1, 300 // n)) for _ in range(repeats)]
        peers = [spent.samples / 60 for spent in taken]
        cpu = statistics.median(spent.cpu / count * 1e3 for spent, count in zip(taken, peers, strict=True))
        wall = statistics.median(spent.wall / count * 1e3 for spent, count in zip(taken, peers, strict=True))
        print(f"{n:>6}  {cpu:>29.2f}  {wall:>16.2f}", flush=True)


# --- what is compared ---------------------------------------------------------------------------------------------


def experiment(build, train, test, shares, *, exchange=None, form="auto", rounds=10_000) -> Experiment:  # noqa: ANN001
    """Return a swarm that is tested once, at the end."""
    return Experiment(
        build=build,
        train=train,
        test=test,
        shares=shares,
        local=LOCAL,
        exchange=exchange or Exact(),
        rounds=rounds,
        test_every=rounds,
        seed=1,
        tested=0,
        workers=PROCESSES,
        form=form,
    )


class Ring:
    """A third of each neighbour and of oneself, at every step the same object."""

    def __init__(self, n: int) -> None:
        self.rows = [[((i - 1) % n, 1 / 3), (i, 1 / 3), ((i + 1) % n, 1 / 3)] for i in range(n)]

    def __call__(self, _t: int) -> "Ring":
        """Return the exchange of step t."""
        return self


def begun(asked: Experiment, stack: contextlib.ExitStack) -> tuple[Simulation, list[int]]:
    """Begin a simulation; return it, after a first round, and its processes."""
    before = multiprocessing.active_children()
    simulation = stack.enter_context(Simulation(asked))
    simulation.next_round()
    return simulation, [process.pid for process in multiprocessing.active_children() if process not in before]


def rounds(simulation: Simulation, count: int, pids: list[int] | None = None) -> Spent:
    """Time rounds of a simulation, exchange included. Its processes are those given, or all there are."""
    pids = [process.pid for process in multiprocessing.active_children()] if pids is None else pids
    cpu = time.process_time() + sum(map(cpu_seconds, pids))
    began = time.perf_counter()
    samples = sum(simulation.next_round().examples for _ in range(count))
    wall = time.perf_counter() - began
    return Spent(samples, wall, time.process_time() + sum(map(cpu_seconds, pids)) - cpu)


def central(train: Dataset, samples: int) -> Spent:
    """Time plain PyTorch on one thread, on data already in float32."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    x, y = train.x[:samples].float() / 255, train.y[:samples]
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=LOCAL.learning_rate, momentum=LOCAL.momentum)
    began, cpu = time.perf_counter(), time.process_time()
    for which in torch.randperm(samples).split(LOCAL.batch):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[which]), y[which]).backward()
        optimizer.step()
    spent = Spent(samples, time.perf_counter() - began, time.process_time() - cpu)
    torch.set_num_threads(before)
    return spent


def plain_loop(build, train: Dataset, shares) -> Spent:  # noqa: ANN001
    """Time a loop over the peers in two processes, as a user would write it; starting them does not count."""
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(PROCESSES), context.Queue()
    processes = [
        context.Process(target=loop, args=(build, train, shares[i::PROCESSES], barrier, queue)) for i in (0, 1)
    ]
    for process in processes:
        process.start()
    results = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    began, ended = min(r[0] for r in results), max(r[1] for r in results)
    return Spent(sum(map(len, shares)), ended - began, sum(r[2] for r in results))


def loop(build, train, shares, barrier, queue) -> None:  # noqa: ANN001
    """Train peers one after the other from the same model; take the sum for the mean."""
    torch.set_num_threads(1)
    model = build()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    total = {name: torch.zeros_like(value) for name, value in start.items()}
    data = [(train.x[s].float() / 255, train.y[s]) for s in map(torch.from_numpy, shares)]
    torch.optim.SGD(model.parameters(), lr=1.0)
    barrier.wait()
    began, cpu = time.perf_counter(), time.process_time()
    for x, y in data:
        model.load_state_dict(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=LOCAL.learning_rate, momentum=LOCAL.momentum)
        for which in torch.randperm(len(x)).split(LOCAL.batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[which]), y[which]).backward()
            optimizer.step()
        for name, value in model.state_dict().items():
            total[name] += value
    queue.put((began, time.perf_counter(), time.process_time() - cpu))


# --- measuring ----------------------------------------------------------------------------------------------------


def table(rows: dict[str, list[Spent]], yardsticks: list[str]) -> None:
    """Print speeds, and their ratios to the yardsticks."""
    speeds = {}
    for name, spent in rows.items():
        cores = 1 if "one thread" in name else PROCESSES
        speeds[name] = {
            "wall": statistics.median(s.samples / s.wall for s in spent),
            "best": max(s.samples / s.wall for s in spent),
            "cpu": statistics.median(s.samples / s.cpu for s in spent) * cores,
        }
    print(f"{'samples a second':<44}  {'wall':>8}  {'best':>8}  {'cpu':>8}")
    for name, speed_ in speeds.items():
        print(f"{name:<44}  " + "  ".join(f"{value:>8,.0f}" for value in speed_.values()))
    for yardstick in yardsticks:
        for name in speeds:
            if name not in yardsticks:
                ratios = (speeds[name][kind] / speeds[yardstick][kind] for kind in speeds[name])
                print(f"{f'{name} : {yardstick}':<44}  " + "  ".join(f"{ratio:>8.2f}" for ratio in ratios), flush=True)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far, at the kernel's tick."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Memory:
    """The peak of the proportional set sizes of this process and those it forked, looked at 20 times a second.

    Shared memory is counted up to what was allocated. Processes are read one after the other, and a page that a second
    one touches in between would otherwise count one and a half times.
    """

    def __init__(self, shared: int) -> None:
        self.peak, self._shared = 0, shared + (64 << 20)
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(0.05):
            pids = [os.getpid(), *(process.pid for process in multiprocessing.active_children())]
            with contextlib.suppress(OSError, ValueError):
                own, shared = map(sum, zip(*map(proportional, pids), strict=True))
                self.peak = max(self.peak, own + min(shared, self._shared))

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()


def proportional(pid: int) -> tuple[int, int]:
    """Return a process's bytes of memory, pages it shares counted in parts: (all but shared memory, shared memory)."""
    lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return 1024 * (kib["Pss"] - kib["Pss_Shmem"]), 1024 * kib["Pss_Shmem"]


if __name__ == "__main__":
    main()

"""Several processes train one model at a site, under PyTorch's own collectives, and end together, whatever one does.

Every test drives real processes over gloo. Starting them takes seconds, so one task misbehaves by the number of the
round; they are started again by themselves after the rounds that end them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from node.processgroup import LOST, ProcessGroup, first_ended, variables
from node.ranks import DEVICE_HINT, Ranks, check_device, device_of, digest, send
from node.trainer import EvaluateDone, Failed
from swarm.errors import UsageError
from tests.node.test_trainer import Bench
from tests.node.workers import Bench as Alone
from tests.node.workers import benches

pytestmark = pytest.mark.real

TASK = """\
import os
import time

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

optimizer_state = "keep"


def build_model():
    return nn.Linear(4, 1)


def build_optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def load_data(site):
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(site.seed))
    return x, x.sum(1, keepdim=True)


def train(model, data, run):
    mark = run.site.folder / f"process-{run.rank}-of-{run.processes}"
    mark.write_text(str(os.getpid()))
    if run.processes > 1:
        assert (distributed.get_rank(), distributed.get_world_size()) == (run.rank, run.processes)
        assert int(os.environ["RANK"]) == int(os.environ["LOCAL_RANK"]) == run.rank
        assert os.environ["MASTER_ADDR"] == "127.0.0.1" and int(os.environ["MASTER_PORT"]) > 0
        assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"]) == 1
    if run.round == 2 and run.rank == 1:
        raise RuntimeError("the second scanner is offline")
    if run.round == 5 and run.rank == 1:
        time.sleep(600)
    if run.round == 7:
        run.private(model, run.optimizer, len(data[0]), batch=8)
    alone = run.round == 3
    net = DistributedDataParallel(model) if run.processes > 1 and not alone else model
    x, y = (part[run.rank :: run.processes] for part in data)
    used = 0
    for number in range(0, len(x), 5):
        if run.enough():
            break
        run.optimizer.zero_grad()
        loss = (net(x[number : number + 5]) - y[number : number + 5]).square().mean()
        loss.backward()
        run.optimizer.step()
        used += 5
    if run.round == 8 and run.rank:
        return None
    return {"samples": used, "loss": loss.item(), "rank": run.rank}


def evaluate(model, data, run):
    assert run.rank == 0
    x, y = data
    return {"samples": len(x), "loss": (model(x) - y).square().mean()}
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("group"), task=TASK, processes=2, threads=2, round_steps=3)
    made.describe()
    yield made
    made.trainer.close()
    assert running(made) == []


@pytest.fixture(autouse=True)
def _forget_earlier_events(request: pytest.FixtureRequest) -> None:
    if "bench" in request.fixturenames:
        request.getfixturevalue("bench").events.clear()


def running(bench: Bench) -> list[int]:
    """Return those processes of the last training that there still are."""
    found = [int(text) for path in sorted(bench.folder.glob("process-*-of-2")) if (text := path.read_text())]
    return [pid for pid in found if Path(f"/proc/{pid}").exists()]


def hang(bench: Bench) -> None:
    """Let the second process sleep for ten minutes, and the first one wait for it in a collective."""
    for path in bench.folder.glob("process-*-of-2"):
        path.unlink()
    bench.trainer.train(5, bench.model, bench.update)
    bench.until(lambda: len(running(bench)) == 2)


def test_two_processes_train_what_one_would(bench: Bench, tmp_path: Path) -> None:
    """Batches of five in each of two are batches of ten in one: their mean gradient is the same."""
    done = bench.train(1)
    assert done.samples == 30, "the examples of both, in the three steps of this site's budget"
    assert done.metrics["rank"] == 0.5, "metrics are means of the processes', weighted by examples"
    one = Bench(tmp_path, task=TASK.replace("5", "10"), round_steps=3)
    one.describe()
    assert one.train(1).samples == 30
    one.trainer.close()
    np.testing.assert_allclose(np.fromfile(one.update, "<f4"), np.fromfile(bench.update, "<f4"), atol=1e-5)
    pids = running(bench)
    bench.trainer.evaluate(1, bench.model)
    assert bench.next(EvaluateDone).samples == 40, "once, in the first process"
    assert bench.train(8).samples == 15, "a process that returns nothing adds nothing"
    assert running(bench) == pids, "they stay from round to round"


def test_processes_that_train_apart_are_refused(bench: Bench) -> None:
    """Each takes steps of its own on its own half: whose model would it be?"""
    assert "processes 0 and 1 ended with other parameters; wrap the model" in bench.refuse(3)


def test_private_training_in_several_processes_is_refused(bench: Bench) -> None:
    """Each would draw batches and noise of its own, and the account knows of one."""
    assert "couldn't train privately in several processes" in bench.refuse(7)


def test_a_process_that_fails_ends_the_attempt_in_words(bench: Bench) -> None:
    """The other one waits for it in a collective, where nothing can interrupt it but the end of both."""
    bench.train(1)
    pids = running(bench)
    assert bench.refuse(2) == "RuntimeError: the second scanner is offline (task.py, line 33) (in process 1 of 2)"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_process_that_hangs_ends_the_attempt_when_there_is_no_progress(bench: Bench) -> None:
    """And so does one that is killed; new ones are started for the next attempt."""
    hang(bench)
    bench.events += bench.trainer.poll(time.monotonic() + 1000.0)
    words = bench.next(Failed).text
    assert words.startswith("the task made no optimizer step for 600 s (or one of its 2 processes waits for another)")
    assert running(bench) == []


def test_when_the_node_is_killed_no_process_stays_behind(bench: Bench) -> None:
    hang(bench)
    assert bench.trainer._link is not None
    bench.trainer._link.shutdown(socket.SHUT_RDWR)  # As the end of the node does, without its chance to kill anybody.
    end = time.monotonic() + 30.0
    while running(bench):
        assert time.monotonic() < end
        for pid in running(bench):  # The node's successor would be init: somebody has to reap them.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)
    bench.next(Failed)


# --- groups of processes that train nothing ---------------------------------------------------------------------------


@pytest.fixture
def idle() -> Iterator[ProcessGroup]:
    """Two processes, and one that the second has started."""
    near, far = socket.socketpair()
    script = "import sys, subprocess, time\n"
    script += "'1' in sys.argv[4:5] and print(subprocess.Popen(['sleep', '600']).pid, flush=True)\ntime.sleep(600)"
    made = ProcessGroup([sys.executable, "-S", "-c", script], 2, far, dict(os.environ), processors=2)
    yield made
    made.kill()
    made.stdout.close()
    near.close()
    far.close()


def test_all_end_with_the_first_that_ends_and_with_what_they_started(idle: ProcessGroup) -> None:
    started = int(idle.stdout.readline())
    assert idle.poll() is None
    assert Path(f"/proc/{started}").exists()
    os.kill(idle._members[1].pid, signal.SIGTERM)
    assert idle._members[1].wait() == -signal.SIGTERM
    assert idle.poll() == -signal.SIGTERM
    assert idle.who == "process 1 of the 2 that train together"
    assert idle._members[0].returncode == -signal.SIGKILL
    end = time.monotonic() + 10.0
    while Path(f"/proc/{started}/cmdline").exists() and Path(f"/proc/{started}/cmdline").read_bytes():
        assert time.monotonic() < end, "what a process started is still there"


def test_who_ended_because_of_another_is_not_the_one_to_speak_of() -> None:
    assert first_ended([(0, LOST), (1, -signal.SIGABRT), (2, LOST)]) == (1, -signal.SIGABRT)
    assert first_ended([(0, 3), (1, LOST)]) == (0, 3)
    assert first_ended([(0, LOST)]) == (0, LOST)


# --- without processes ------------------------------------------------------------------------------------------------


def test_where_the_first_fails_and_others_do_not_answer_all_have_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may wait for it in a collective. Where all have finished, nothing is open, and they go on."""
    monkeypatch.setattr("node.ranks.GRACE_S", 0.05)
    link, _ = socket.socketpair()
    failed: dict[str, object] = {"did": "train", "round": 3, "error": "ValueError: no"}
    for replies, ends in (([], True), ([{"did": "train", "round": 3}], False), ([failed], True)):
        ranks = Ranks(link, 0, 2, [link])
        for reply in replies:
            ranks._replies.put((1, reply))
        assert ranks._together(failed) == failed
        assert ranks.ends == ends
    link.close()
    _.close()


def test_a_trial_that_is_cut_short_ends_them_all(tmp_path: Path) -> None:
    """The first stops in the middle of a round, and the others wait for its next step."""
    with benches() as made:
        bench = Alone(tmp_path, TASK.replace("run.processes > 1", "False"))
        made.append(bench)
        bench.describe()
        asked = {"do": "try", "model": str(bench.model), "update": str(bench.update)}
        for size, ms, ends in ((1, 0, False), (2, 100_000, False), (2, 0, True)):
            bench.worker._ranks = Ranks(bench._far, 0, size)
            assert bench.told(**asked, ms=ms)["finished"] == (ms > 0)
            assert bench.worker._ranks.ends == ends


def test_all_stop_when_the_first_one_does() -> None:
    """Clocks differ: a process that stopped a step earlier than another would leave that one waiting for ever."""
    near, far = socket.socketpair()
    ours, _ = socket.socketpair()
    first, second = Ranks(ours, 0, 2, [near]), Ranks(far, 1, 2)
    for spent in (False, True):
        assert first.agreed(spent=spent) == second.agreed(spent=not spent) == spent
    send(near, {"do": "train"})
    with pytest.raises(UsageError, match=r"asked run.enough\(\) unequally often"):
        second.agreed(spent=False)
    for end in (near, far, ours, _):
        end.close()


def test_processes_share_processors_and_meet_on_this_machine_alone() -> None:
    found = variables(1, 2, 8, {"NCCL_SOCKET_IFNAME": "eth7"})
    assert found["OMP_NUM_THREADS"] == "4"
    assert (found["RANK"], found["WORLD_SIZE"]) == ("1", "2")
    assert found["GLOO_SOCKET_IFNAME"].startswith("lo")
    assert "NCCL_SOCKET_IFNAME" not in found, "a site that knows better is not overruled"
    assert variables(7, 64, 8, {})["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("device", "words"), [("cuda", "this machine shows 0"), ("cuda:1", "one each"), ("mps", "one each")]
)
def test_a_device_that_several_cannot_have_is_refused(device: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        device_of(device, 1, 2)
    assert words in f"{caught.value} {caught.value.hint}"
    assert device_of(device, 0, 1) == device


def test_a_device_that_is_not_there_is_refused_with_the_reason_and_no_word_of_the_task() -> None:
    check_device("cpu")
    for device, why in (("nonsense", "device type at start of device string: nonsense"), ("meta", "meta tensors")):
        with pytest.raises(UsageError, match=f"^{device} cannot be used: .*{why}") as caught:
            check_device(device)
        assert (caught.value.hint, caught.value.identifier) == (DEVICE_HINT, "SWARM-TASK-DEVICE")
        assert "\n" not in caught.value.message


def test_parameters_are_told_apart_by_every_bit() -> None:
    one = [torch.zeros(3), torch.tensor(2.0), torch.ones(2, dtype=torch.bfloat16)]
    assert digest(one) == digest([tensor.clone() for tensor in one])
    assert digest(one) != digest([torch.tensor([0.0, -0.0, 0.0]), *one[1:]])

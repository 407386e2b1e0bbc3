"""SHELL. What the processes that train one model at one site say to each other, beside PyTorch's own collectives.

Every process is a whole worker. The first one has the node's link; it passes each request on, all do the same, and what
they bring together goes back as one answer: examples are added up, metrics are means weighted by them. Only the first
writes anything. That they train *one* model is for the task, which wraps it in `DistributedDataParallel` or averages
gradients itself; whether it did is checked after every training, for all must end with the same parameters, bit by bit.

A collective operation waits for whoever is missing, inside a library, where no Python code runs. So a process that
fails where the others go on cannot be waited for, and neither can they. The first process listens in a thread: when
another says that it failed, it tells the node so, and all end; the next request finds new ones (`node.processgroup`).
The same thread sees the node, and the others' threads the first process, go away.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import queue
import select
import signal
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import blake3
import msgpack
import torch
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined] # not in its __all__, and documented

from node.clock import sleep
from node.framing import framed, receive
from node.processgroup import LOST
from swarm.errors import UsageError

HERE = "127.0.0.1"

MEET_S = 300.0
"""Longest wait for the others to come: they import PyTorch on a busy machine, and find their GPU."""

GRACE_S = 2.0
"""For the others to fail as well, or to finish, when one has failed."""

SEEN_S = 0.2
"""For the node to see which process ended first."""

DEVICE = "SWARM-TASK-DEVICE"
"""What it is called that the settings ask for a device that is not there: no fault of the task's."""

DEVICE_HINT = 'write device = "cpu" below [task], or install PyTorch for this device and its driver'

Reply = dict[str, object]

_SENDING = threading.Lock()


class Ranks:
    """This process's place among those that train together; alone, it is the first of one.

    Args:
        link: to the node, or to the first process.
        rank: from 0.
        size: how many there are.
        others: the first one's links to the others, by rank.
    """

    def __init__(self, link: socket.socket, rank: int = 0, size: int = 1, others: Sequence[socket.socket] = ()) -> None:
        self.rank, self.size = rank, size
        self._link, self._others = link, [*others]
        self._replies: queue.SimpleQueue[tuple[int, Reply]] = queue.SimpleQueue()
        self._resting = threading.Event()
        self._request: Mapping[str, str | int] = {}
        self.ends = False
        """Whether this process has to end once its answer is given, and the others with it."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, and answers the node."""
        return self.rank == 0

    def meet(self, device: str) -> None:
        """Make the group, once every process has loaded the task; the default one of `torch.distributed`.

        Raises:
            UsageError: another process could not load it, or does not come.
        """
        if self.size == 1:
            return
        backend, timeout = _backend(device), dt.timedelta(seconds=MEET_S)
        if self.first:
            for rank, link in enumerate(self._others, 1):
                loaded = receive(link)
                if loaded is None or "error" in loaded:
                    raise UsageError(self._of(rank, str((loaded or {}).get("error", "it ended"))))
            # Made here, for it is to listen on this machine alone: the store itself would on every network there is.
            with socket.create_server((HERE, 0), backlog=self.size) as listener:
                port = listener.getsockname()[1]
                store = TCPStore(HERE, port, self.size, True, timeout, False, master_listen_fd=listener.detach())
            self._tell({"do": "meet", "port": port})
        else:
            send(self._link, {"did": "load"})
            asked = receive(self._link)
            if asked is None:
                raise UsageError("couldn't meet the other processes: the first has ended")
            port = int(asked["port"])
            store = TCPStore(HERE, port, self.size, False, timeout, False)
        os.environ |= {"MASTER_ADDR": HERE, "MASTER_PORT": str(port)}
        distributed.init_process_group(backend, store=store, rank=self.rank, world_size=self.size)
        threading.Thread(target=self._watch, daemon=True).start()

    # --- a request ----------------------------------------------------------------------------------------------

    def receive(self) -> dict[str, str | int] | None:
        """Return the next request, passed on to the others if it takes all of them; None when there are no more."""
        while (request := receive(self._link)) is not None:
            if request["do"] == "enough":
                continue  # The first process asked once more than this one.
            self._request = request
            if request["do"] != "describe":
                self._resting.clear()
                self._tell(request)
            return request
        return None

    def answer(self, reply: Reply) -> None:
        """Give the answer to a request: the first process gives that of all."""
        if self._others and self._request["do"] != "describe":
            self._resting.set()
            reply = self._together(reply)
        send(self._link, {**reply, "ends": True} if self.ends else reply)
        if self.ends:
            os._exit(0)

    def agreed(self, *, spent: bool) -> bool:
        """Return what the first process thinks, which all have to ask equally often: all stop at the same step.

        Raises:
            UsageError: they do not.
        """
        if self.first:
            self._tell({"do": "enough", "spent": int(spent)})
            return spent
        heard = receive(self._link)
        if heard is None:
            raise BrokenPipeError
        if heard["do"] != "enough":
            raise UsageError("couldn't train: processes asked run.enough() unequally often", hint="ask once a batch")
        return bool(heard["spent"])

    def _tell(self, message: Mapping[str, object]) -> None:
        for link in self._others:
            with contextlib.suppress(OSError):  # It has just ended; the thread sees that, and knows what to do.
                send(link, message)

    def _together(self, own: Reply) -> Reply:
        """Return one answer for all processes."""
        if self.ends:
            return own
        replies: dict[int, Reply] = {}
        with contextlib.suppress(queue.Empty):
            while len(replies) < len(self._others):
                rank, reply = self._replies.get(timeout=GRACE_S if "error" in own else None)
                replies[rank] = reply
        failed = [rank for rank, reply in sorted(replies.items()) if "error" in reply]
        # Of collectives that one has left nobody knows how far they got. Where all others have finished, none is open.
        self.ends = bool(failed) or len(replies) < len(self._others)
        if "error" in own:
            return own
        if failed:
            return {**_head(own), "error": self._of(failed[0], str(replies[failed[0]]["error"]))}
        return merged(own, [reply for _, reply in sorted(replies.items())])

    def _of(self, rank: int, text: str) -> str:
        return f"{text} (in process {rank} of {self.size})"

    # --- watching -----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Hear the others, and end when the node, or the first process, is gone. Runs in a thread, to the end."""
        poll = select.poll()
        ranks = {link.fileno(): rank for rank, link in enumerate(self._others, 1)}
        poll.register(self._link.fileno(), 0)
        for number in ranks:
            poll.register(number, select.POLLIN)
        while True:
            for number, _ in poll.poll():
                if number not in ranks and self.first:
                    os.killpg(0, signal.SIGKILL)  # And what user code has started: it leads a session.
                if number not in ranks:
                    os._exit(LOST)
                rank = ranks[number]
                heard = receive(self._others[rank - 1])
                if heard is None:
                    sleep(SEEN_S)
                    os._exit(LOST)
                elif heard["did"] != "step":
                    self._replies.put((rank, heard))
                    if "error" in heard and not self._resting.wait(GRACE_S):
                        error = self._of(rank, str(heard["error"]))
                        send(self._link, {**_head(heard), "error": error, "ends": True})
                        os._exit(0)


def merged(own: Reply, others: Sequence[Reply]) -> Reply:
    """Return one answer of all: examples added up, metrics of those that count as means weighted by examples.

    Evaluations are the first process's alone.
    """
    if "trained" not in own:
        return own
    reply = {name: value for name, value in own.items() if name != "trained"}
    if odd := next((rank for rank, other in enumerate(others, 1) if other["trained"] != own["trained"]), 0):
        error = (
            f"couldn't accept what train() did: processes 0 and {odd} ended with other parameters; wrap the model in"
            " DistributedDataParallel, and use what that returns"
        )
        return {**_head(own), "error": error}
    counted = [(_count(one), _metrics(one)) for one in (own, *others) if _count(one)]
    reply["samples"] = sum(samples for samples, _ in counted)
    reply["metrics"] = {
        name: sum(samples * metrics[name] for samples, metrics in counted if name in metrics)
        / sum(samples for samples, metrics in counted if name in metrics)
        for name in _metrics(own)
    }
    return reply


def digest(tensors: Iterable[torch.Tensor]) -> bytes:
    """Return what tells one set of parameters from another: 32 bytes."""
    hasher = blake3.blake3()
    for tensor in tensors:
        hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.digest()


def device_of(device: str, rank: int, size: int) -> str:
    """Return the device of one process: each has a GPU of its own, or they share the processor.

    Raises:
        UsageError: there are fewer than that, or the device is another.
    """
    if size == 1 or device == "cpu":
        return device
    if device != "cuda":
        raise UsageError(
            f"couldn't train in {size} processes on {device!r}",
            hint='write device = "cuda", one each, or "cpu"',
            identifier=DEVICE,
        )
    if (there := torch.cuda.device_count()) < size:
        raise UsageError(
            f"couldn't train in {size} processes on GPUs: this machine shows {there}",
            hint="write processes = as many as there are, below [task]",
            identifier=DEVICE,
        )
    torch.cuda.set_device(rank)
    return f"cuda:{rank}"


def check_device(device: str) -> None:
    """Raise `UsageError` with PyTorch's reason unless a device is there and computes; the processor is."""
    if device == "cpu":
        return
    try:
        torch.ones(8, device=device).sum().item()
    except Exception as error:  # PyTorch asserts, or raises whatever the backend does.
        why = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
        raise UsageError(f"{device} cannot be used: {why}", hint=DEVICE_HINT, identifier=DEVICE) from error


def _backend(device: str) -> str:
    return "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"


def _head(reply: Mapping[str, object]) -> Reply:
    return {"did": reply["did"], "round": reply.get("round", 0)}


def _count(reply: Mapping[str, Any]) -> int:
    return int(reply["samples"])


def _metrics(reply: Mapping[str, Any]) -> Mapping[str, float]:
    found: Mapping[str, float] = reply["metrics"]
    return found


def send(link: socket.socket, message: Mapping[str, object]) -> None:
    """Write one length-prefixed message. Any thread may."""
    data: bytes = msgpack.packb(dict(message), use_bin_type=True)
    with _SENDING:
        link.sendall(framed(data))

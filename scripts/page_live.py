"""What the page and its numbers cost while a run of hundreds of rounds goes on, and somebody watches it.

    PYTHONPATH=. python scripts/page_live.py [--sites 3] [--rounds 500] [--window 50]

Real peers on this machine learn from the breast cancer data. The first one's page is served as people serve it, by a
process of its own. In every other window of rounds it has a watcher, who reads its stream of news to the end and takes
its numbers as often as the Prometheus that ships does; in the windows between nobody asks for anything. Told is
processor time, of the page and of the node that is watched, so that other work on the machine matters little, and how
much is sent: a page that told each time all that it knows would show here.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

import node.examples
from node.clock import Clock, sleep
from node.data import write_breast_cancer
from node.local import PROGRAM, LocalPeer, fork_server, found, stop_all

SCRAPE_S = 15.0
"""Between two questions for its numbers, as deploy/prometheus/prometheus.yml has it."""

GOAL = 0.02
TASK = Path(node.examples.__file__).parent / "breast_cancer.py"


class Watcher:
    """Whoever has the page open: reads the stream of news until told to stop, and counts."""

    def __init__(self, address: str) -> None:
        self._place = urlsplit(address).netloc
        self._over = threading.Event()
        self.bytes, self.news = 0, 0
        self._threads = [threading.Thread(target=each) for each in (self._read, self._scrape)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Leave."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        line = http.client.HTTPConnection(self._place, timeout=30)
        line.request("GET", "/events")
        answer = line.getresponse()
        while not self._over.is_set():
            told = answer.readline()
            self.bytes += len(told)
            self.news += told.startswith(b"data: ")
        line.close()

    def _scrape(self) -> None:
        while True:
            line = http.client.HTTPConnection(self._place, timeout=30)
            line.request("GET", "/metrics")
            self.bytes += len(line.getresponse().read())
            line.close()
            if self._over.wait(SCRAPE_S):
                return


def spent_s(process: int) -> float:
    """Return the processor time of a process so far, of all its threads."""
    after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def windows(peers: list[LocalPeer], page: int, address: str, size: int, rounds: int) -> list[tuple[bool, float, float]]:
    """Print a row for each window of rounds; return whether it was watched, and what page and node took of a second."""
    clock = Clock()
    told: list[tuple[bool, float, float]] = []
    first = peers[0]
    assert first.process is not None, "it was started"
    _reach(peers, 1)
    while first.committed + size <= rounds:
        watched = len(told) % 2 == 0
        watcher = Watcher(address) if watched else None
        if watched:
            sleep(2.0)  # The first news are all that there is to know, once for whoever comes.
        begun, before = clock.now(), (spent_s(page), spent_s(first.process.pid))
        seen, news, since = (watcher.bytes, watcher.news, first.committed) if watcher else (0, 0, first.committed)
        _reach(peers, since + size)
        took_s, number = clock.now() - begun, first.committed - since
        page_s, node_s = spent_s(page) - before[0], spent_s(first.process.pid) - before[1]
        sent = f"{(watcher.bytes - seen) / max(watcher.news - news, 1) / 1000:6.1f} KB" if watcher else f"{'-':>9}"
        if watcher:
            watcher.stop()
        print(
            f"{since:>5} to {first.committed:<5} {'watched' if watched else 'not':8} {page_s / took_s:8.2%} "
            f"{1000 * page_s / number:7.1f} ms {node_s / took_s:8.2%} {1000 * node_s / number:7.1f} ms  {sent}",
            flush=True,
        )
        told.append((watched, page_s / took_s, node_s / number))
    return told


def _reach(peers: list[LocalPeer], round_: int) -> None:
    while peers[0].committed < round_:
        sleep(1.0)
        peers[0].poll()
        assert peers[0].up, peers[0].log_tail()


def main() -> int:
    """Print a table, and return 1 if the page takes more than the goal in the last window in which it is watched."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--window", type=int, default=50)
    given = parser.parse_args()
    print(f"{'rounds':14} {'':8} {'page':>8} {'a round':>10} {'node':>8} {'a round':>10}  {'a news':>9}")
    with tempfile.TemporaryDirectory() as folder, fork_server() as server, contextlib.ExitStack() as stack:
        data = write_breast_cancer(Path(folder) / "data", 7)[: given.sites]
        # Some more than are looked at: a run that is over makes no news.
        more = given.rounds + given.window
        peers = found(Path(folder), data, TASK, rounds=more, metrics=("accuracy", "loss"), seed=7, forkserver=server)
        stack.callback(stop_all, peers)
        for peer in peers:
            peer.start()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [*PROGRAM, "dashboard", str(peers[0].site.folder), "--listen", f"127.0.0.1:{port}", "--json"]
        _reach(peers, 1)
        shown = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(shown.terminate)
        assert shown.stdout is not None, "it is a pipe"
        address = str(json.loads(shown.stdout.readline())["data"]["address"])
        told = windows(peers, shown.pid, address, given.window, given.rounds)
    last = [page for watched, page, _ in told if watched][-1]
    print(f"goal: page and numbers take less than {GOAL:.0%} of one core; {'met' if last < GOAL else 'missed'}")
    return int(last >= GOAL)


if __name__ == "__main__":
    sys.exit(main())

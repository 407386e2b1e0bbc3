"""SHELL. The page as a process beside a node: started with it, started again when it dies, ended with it.

It is `swarm dashboard` and nothing else. Whatever is wrong with it, the node goes on and says so: a defect of what is
shown must delay no round (decision 0048). Its standard input is a pipe that only the node holds, so that it ends
however the node ends, by a power cut to that process as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from swarm.machine import Report

LOOK_S = 1.0
"""Between looks whether it is still there."""

AGAIN_S, AGAIN_S_MAX = 1.0, 300.0
"""After which it is started again: so long at first, twice as long each time, and never longer than that."""

WELL_S = 60.0
"""A page that was up for so long is started again as if it were the first time."""

STOP_S = 3.0
"""How long it may take to end before it is killed."""

ADDRESS_BYTES_MAX = 4096


class Beside:
    """One page. `options` are those of `swarm dashboard`; `said` is the file that gets what it says on stderr."""

    def __init__(self, folder: Path, options: Sequence[str], *, said: Path, environment: Mapping[str, str]) -> None:
        program = [sys.executable, "-m", "node.cli.main", "dashboard"]
        self._command = [*program, str(folder), *options, "--json", "--until-eof"]
        self._said, self._environment = said, dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._look_at = self._start_at = self._started_at = 0.0
        self._wait_s = AGAIN_S
        self._announced = False

    def tend(self, now: float) -> list[Report]:
        """See to it that it runs. Return what there is to say: where it is, or that it has died and why."""
        if now < self._look_at:
            return []
        self._look_at = now + LOOK_S
        if self._process is None:
            return self._begin(now) if now >= self._start_at else []
        if self._process.poll() is None:
            return self._announcement()
        said = [line for line in self._words().splitlines() if line.strip()]
        error = next((line for line in said if line.startswith("error: ")), said[-1] if said else "")
        return [self._dead(error.removeprefix("error: ") or f"it ended with {self._process.returncode}", now)]

    def close(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        self._release(process)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _begin(self, now: float) -> list[Report]:
        try:
            with self._said.open("wb") as said:
                self._process = subprocess.Popen(  # noqa: S603 - our own module, arguments as a list
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    env=self._environment,
                    start_new_session=True,  # Ctrl-C is for the node, which then ends it.
                )
        except OSError as error:
            return [self._dead(error.strerror or str(error), now)]
        assert self._process.stdout is not None, "asked for above"
        os.set_blocking(self._process.stdout.fileno(), False)
        self._started_at, self._announced = now, False
        return []

    def _announcement(self) -> list[Report]:
        """Say where it is, once it says so. Its address without the token: this goes into a log."""
        assert self._process is not None, "it runs"
        assert self._process.stdout is not None, "asked for when it was started"
        line = b"" if self._announced else self._process.stdout.read(ADDRESS_BYTES_MAX) or b""
        if not line:
            return []
        self._announced = True
        try:
            address = str(json.loads(line)["data"]["address"]).partition("?")[0]
        except (ValueError, LookupError):
            return []  # It is about to die, and says why elsewhere.
        return [Report("page", f"the page is at {address}", {"address": address})]

    def _dead(self, why: str, now: float) -> Report:
        process, self._process = self._process, None
        if process is not None:
            self._release(process)
        if process is not None and now - self._started_at >= WELL_S:
            self._wait_s = AGAIN_S
        wait_s, self._wait_s = self._wait_s, min(2 * self._wait_s, AGAIN_S_MAX)
        self._start_at = now + wait_s
        text = f"the page is not served: {why} (it is started again in {wait_s:.0f} s; rounds go on without it)"
        return Report("page_down", text, level="warning")

    def _words(self) -> str:
        try:
            return self._said.read_text(errors="replace")
        except OSError:
            return ""

    @staticmethod
    def _release(process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

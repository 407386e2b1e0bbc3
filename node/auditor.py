"""SHELL. The check of the whole ledger in the background, by a process of its own and of the lowest priority.

It is `swarm ledger verify`, as anybody could run it. That it is due is remembered in a file, so that a site that was
stopped in between checks again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from node.cli.output import CONTRADICTION, INCOMPLETE, INVALID, OK
from node.storage import write_file_durably
from swarm.machine import Audited, Report

NICENESS = 19
"""The node's own work goes first."""


class Auditor:
    """One check at a time. `folder` is the site's; `run` is where what must not outlive it may lie."""

    def __init__(self, folder: Path, *, marker: Path, run: Path) -> None:
        self._folder, self._marker = folder, marker
        self._said, self._seen = run / "audit.log", run / "audit.seen"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def due(self) -> bool:
        """Whether blocks were believed that nobody has checked since."""
        return self._marker.exists()

    def announce(self) -> None:
        """Remember that a check is due, durably. Raises `StoreError`, `DiskFull`."""
        write_file_durably(self._marker, b"blocks were believed: the signatures before them are to be checked\n")

    def start(self) -> None:
        """Begin; answered by `poll`."""
        if self._process is not None:
            return
        command = [sys.executable, "-m", "node.cli.main", "ledger", "verify", "--full"]
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                [*command, "--trust", str(self._seen), str(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
        os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)

    def poll(self) -> Audited | Report | None:
        """Return the outcome once there is one, or why there is none; then it is still due."""
        if self._process is None or self._process.poll() is None:
            return None
        code, self._process = self._process.returncode, None
        said = self._said.read_text(errors="replace").strip().removeprefix("error: ").partition("\n")[0]
        if code == INVALID:
            return Audited(f"the ledger on this disk does not hold: {said}")
        # Evidence was noticed when it came, and the newest blocks may not be certified yet.
        if code not in (OK, CONTRADICTION, INCOMPLETE):
            text = f"couldn't check what was believed while catching up: {said or f'exit {code}'}"
            return Report("audit_failed", f"{text} (it is tried again at the next start)", level="warning")
        self._marker.unlink(missing_ok=True)
        return Audited("")

    def close(self) -> None:
        """Stop what is under way; it is still due."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

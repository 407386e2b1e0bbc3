"""SHELL. What a running node shows: a live round tree on a terminal, a line of JSON a fact elsewhere, or plain lines.

It only ever consumes facts and snapshots; it decides nothing and nothing waits for it. What is no terminal is read by a
journal or a collector and may be kept anywhere: there the words of the user's code are left out, unless asked for.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from node.telemetry.lines import kept_private, line
from node.telemetry.traces import Names
from node.terminal import Aside, Claim, can_be_drawn_on, in_front
from swarm.machine import Report

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

REFRESH_S = 0.25
"""Between redraws: smooth to the eye, nothing to the processor."""

RECENT_FACTS = 8
"""Facts kept under the tree."""

WHERE = "why is shown on a terminal, or with run.log_task = true in swarm.toml"
"""What is said where the words of the user's code are left out."""

STYLES = {"error": "bold red", "warning": "yellow", "info": "", "debug": "dim"}
PHASES = {
    "waiting": "waiting",
    "fetching": "fetching the model",
    "training": "training",
    "offered": "has offered its update",
    "mixing": "averaging",
    "attested": "has attested its model",
    "done": "done",
    "paused": "paused",
}


def as_json(mode: str, stream: TextIO) -> bool:
    """Whether facts are lines of JSON on a stream, by what is asked for: `auto` is, where nobody sits at it."""
    return mode == "json" or (mode == "auto" and not stream.isatty())


class Console:
    """Shows one node. `mode` is auto, json, or text, which is also called plain.

    `names` gives lines of JSON their trace. `told` is whether what the user's code says is shown even where that is no
    terminal.
    """

    def __init__(
        self, mode: str, *, name: str, stream: TextIO | None = None, names: Names | None = None, told: bool = False
    ) -> None:
        self._stream = stream or sys.stderr
        self._name, self._names = name, names
        self._json = as_json(mode, self._stream)
        self._told = told or self._stream.isatty()
        drawn_on = mode == "auto" and can_be_drawn_on(self._stream, os.environ)
        self._claim = Claim(self._stream) if drawn_on else None
        self._recent: deque[tuple[float, Report]] = deque(maxlen=RECENT_FACTS)
        self._hushed = self._claim is not None and not self._claim.granted
        self._aside = Aside(self._stream) if self._stream.isatty() and (self._hushed or not drawn_on) else None
        self._live: Live | None = self._begin_live() if drawn_on and not self._hushed else None
        if self._hushed:
            self._print(f"{name}: another peer's view is on this terminal, so this one tells only what goes wrong")
        self._drawn_at = 0.0

    def report(self, report: Report, now: float) -> None:
        """Show a fact. Debug facts only appear in JSON."""
        shown = report if self._told else kept_private(report, where=WHERE)
        if self._json:
            self._print(line(shown, now, node=self._name, names=self._names))
        elif shown.level != "debug":
            self._recent.append((now, shown))
            if self._live is None and not (self._hushed and shown.level == "info"):
                stamp = datetime.fromtimestamp(now, tz=UTC).astimezone().strftime("%H:%M:%S")
                mark = "" if shown.level == "info" else f"{shown.level}: "
                self._print(f"{stamp} {self._name}  {mark}{shown.text}{_identified(shown)}")

    def snapshot(self, status: Mapping[str, object], now: float) -> None:
        """Redraw the live view, if there is one, or tell what had to wait while another was drawn."""
        if self._aside is not None:
            self._write(self._aside.flush)
        if self._live is None or self._claim is None or now - self._drawn_at < REFRESH_S or not in_front(self._stream):
            return
        view = draw(status, list(self._recent))
        rows = min(len(self._live.console.render_lines(view, pad=False)), self._live.console.height)
        with self._claim.drawing(rows) as mine:
            if mine:
                self._drawn_at = now
                self._live.update(view, refresh=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None and self._claim is not None:
            with self._claim.drawing(0):
                self._live.stop()
        if self._claim is not None:
            self._claim.close()
        if self._aside is not None:
            self._write(self._aside.close)

    def _begin_live(self) -> Live:
        from rich.console import Console as Terminal
        from rich.live import Live

        live = Live(console=Terminal(file=self._stream), auto_refresh=False)
        live.start()
        return live

    def _print(self, line: str) -> None:
        aside = self._aside
        if aside is not None:
            self._write(lambda: aside.print(line))
        else:
            self._write(lambda: print(line, file=self._stream, flush=True))

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BrokenPipeError:  # Who read along has gone for good.
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), self._stream.fileno())
        except OSError:
            pass  # The disk under it is full, perhaps only now. The log file has the line too.


def draw(status: Mapping[str, object], recent: Sequence[tuple[float, Report]]) -> RenderableType:
    """Return the round tree of a status: one row a site, the last facts below."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rounds, committed = int(str(status["rounds"])), int(str(status["committed"]))
    title = Text.assemble(
        (f"{status['swarm']}", "bold"),
        f"  round {min(committed + 1, rounds)} of {rounds}  ",
        (bar(committed, rounds), "green"),
        f"  block {status['height']}  quorum {status['quorum']}{_eta(status)}",
    )
    table = Table(box=None, padding=(0, 2), show_header=False)
    members = status["members"]
    assert isinstance(members, list), "a status lists members"
    for member in members:
        table.add_row(*_row(member))
    parts: list[RenderableType] = [title, table]
    problems = [problem for problem in (status.get("refused"), status.get("paused"), status.get("halted")) if problem]
    parts += [Text(str(problem), style="bold red") for problem in problems]
    if status.get("resting"):
        parts.append(Text(f"this site trains nothing: {status['resting']}", style="yellow"))
    for at, report in recent:
        stamp = datetime.fromtimestamp(at, tz=UTC).astimezone().strftime("%H:%M:%S")
        parts.append(Text(f"{stamp}  {report.text}", style=STYLES.get(report.level, "")))
    return Group(*parts)


def bar(done: int, total: int, width: int = 20) -> str:
    """Return a bar of `width` characters."""
    filled = width * done // max(total, 1)
    return "█" * filled + "░" * (width - filled)


def member_state(member: Mapping[str, object]) -> tuple[str, str, str]:
    """Return (mark, words, style) for one member's row."""
    if member.get("refused"):
        return "✗", f"{member['refused']}{_bracketed(member.get('refused_id'))}", "red"
    if member.get("absent"):
        return "✗", f"away: {member.get('trouble') or 'not heard of for a while'}", "red"
    if not member.get("linked"):
        return "…", f"no link: {member['trouble']}" if member.get("trouble") else "no link", "yellow"
    phase = str(member.get("phase"))
    words = PHASES.get(phase, phase)
    if phase == "training" and member.get("step"):
        words += f", step {member['step']}"
    if member.get("via"):
        words += f", through {member['via']}"
    return "●", words, "green"


def _row(member: Mapping[str, object]) -> Sequence[RenderableType]:
    from rich.text import Text

    mark, words, style = member_state(member)
    style_words = "" if style == "green" else style
    name = f"{member['name']}{' (this site)' if member.get('me') else ''}"
    return (
        Text(mark, style=style),
        Text(name, style="bold"),
        Text(f"round {member.get('round')}"),
        Text(words, style=style_words),
        Text(_update(member)),
        Text(_traffic(member), style="dim"),
    )


def _update(member: Mapping[str, object]) -> str:
    """How much of the site's update of this round is here."""
    match member.get("update"):
        case (int(have), int(size)) | [int(have), int(size)]:
            return f"update {size_words(size)}" if have == size else f"update {have / max(size, 1):.0%}"
        case _:
            return ""


def _traffic(member: Mapping[str, object]) -> str:
    received, sent = int(str(member.get("received_bytes", 0))), int(str(member.get("sent_bytes", 0)))
    return f"↓ {size_words(received)}  ↑ {size_words(sent)}" if received or sent else ""


def _eta(status: Mapping[str, object]) -> str:
    eta_s = status.get("eta_s")
    return f"  about {duration_words(float(str(eta_s)))} to go" if eta_s is not None else ""


def size_words(size: int) -> str:
    """Return bytes as people say them, in powers of ten: 40 MB."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def duration_words(seconds: float) -> str:
    """Return a duration as people say it: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def latency_words(seconds: float) -> str:
    """Return how long a word and its answer take, as people say it: 0.4 ms, 38 ms, 1.2 s."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.00995 else f"{1000 * seconds:.1f} ms"


def _identified(report: Report) -> str:
    return _bracketed(report.values.get("id"))


def _bracketed(identifier: object) -> str:
    """Return an identifier as it stands behind a sentence; `docs/reference/errors.md` has each."""
    return f" [{identifier}]" if identifier else ""

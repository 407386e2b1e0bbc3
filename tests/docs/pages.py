"""What a page tells its reader to do, taken out of its source: files, commands with what is seen after them, sendings.

A page is followed from above to below. What it says in these forms is a step:

- a block of code with `title=`: a file to write;
- `**At A, ...:**` (or `**At A**, ...`): who types what comes, `in a terminal of its own` for what goes on meanwhile;
- a `console` block: lines that begin with `$ ` are typed, the lines below each are what is seen, where `…` stands for
  anything and, on a line of its own, for any number of lines;
- `- **Send** `file` from A to B as `file`.`

A block below a comment `<!-- not run: why -->` is no step; `<!-- run by tests/... -->` says which other test runs it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

FENCE = re.compile(
    r"^(?:<!-- (?P<mark>not run|run by):? (?P<why>[^>]+?) -->\n)?^```(?P<language>\w*)(?: title=(?P<title>\S+))?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
AT = re.compile(r"\*\*At (?P<site>[A-Z])\b(?P<own>[^*]*in a terminal of its own)?[^*]*\*\*")
SEND = re.compile(
    r"^- \*\*Send\*\* `(?P<file>[^`]+)` from (?P<giver>[A-Z]) to (?P<taker>[A-Z]) as `(?P<name>[^`]+)`\.$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page, and the line it begins at."""

    page: str
    line: int
    language: str
    title: str
    text: str
    mark: str
    why: str


@dataclass(frozen=True, slots=True)
class File:
    """A file to write."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Send:
    """A file that one site sends another."""

    file: str
    giver: str
    taker: str
    name: str


@dataclass(slots=True)
class Command:
    """A line to type, by whom, whether it goes on meanwhile, and what is to be seen."""

    site: str
    typed: str
    own_terminal: bool = False
    seen: list[str] = field(default_factory=list)


def blocks(page: Path) -> list[Block]:
    """Return every fenced block of a page."""
    text = page.read_text()
    return [
        Block(
            page=str(page.relative_to(ROOT)),
            line=text.count("\n", 0, found.start("text")),
            language=found["language"],
            title=found["title"] or "",
            text=found["text"],
            mark=found["mark"] or "",
            why=found["why"] or "",
        )
        for found in FENCE.finditer(text)
    ]


def steps(page: Path) -> Iterator[File | Send | Command]:
    """Yield what a page says to do, in order."""
    text = page.read_text()
    found = sorted(
        (match for pattern in (FENCE, AT, SEND) for match in pattern.finditer(text)), key=lambda match: match.start()
    )
    site, own = "", False
    for match in found:
        if match.re is AT:
            site, own = match["site"], match["own"] is not None
        elif match.re is SEND:
            yield Send(match["file"], match["giver"], match["taker"], match["name"])
        elif match["title"]:
            yield File(match["title"], match["text"])
        elif match["language"] == "console" and not match["mark"]:
            for command in commands(match["text"]):
                yield Command(site, command.typed, own, command.seen)


def commands(text: str) -> list[Command]:
    """Return the lines to type of a block, and what stands below each."""
    made: list[Command] = []
    for line in text.replace("\\\n", "").splitlines():
        if line.startswith("$ "):
            made.append(Command("", line[2:]))
        elif made:
            made[-1].seen.append(line)
    return made


def pattern(seen: Sequence[str], ids: Sequence[str]) -> re.Pattern[str]:
    """Return what the output of a command must match as a whole; `ids` are captured, each as a group `id_...`."""
    said = ""
    for line in seen:
        if line.strip() == "…":
            said += r"(?:.*\n)*?"
            continue
        exact = re.escape(line.rstrip()).replace("…", ".*")
        for one in ids:
            before, sign, after = exact.partition(one)
            if sign:
                exact = (
                    f"{before}(?P<id_{one}>[0-9a-f]{{8}}){after}"
                    if one not in said
                    else f"{before}(?P=id_{one}){after}"
                )
        said += exact + r"[ ]*\n"
    return re.compile(said)


def words(typed: str) -> list[str]:
    """Return a typed line as words, without what stands behind a #."""
    return shlex.split(typed, comments=True)

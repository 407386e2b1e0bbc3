"""Write the manual pages of `swarm` from the commands themselves, as `swarm*.1` into a folder: `make man`.

Nothing is told here that the program does not say: names, synopses, options, defaults and examples are click's, by the
same call that `--help` makes; exit codes, variables and paths are the constants that the code uses. So no page is kept
in the repository; a page that is kept is one that can be wrong.

The markup is man(7), the part of it that groff and mandoc agree on. A page has the date of SOURCE_DATE_EPOCH if that is
set, so that the same commit makes the same bytes.
"""

import argparse
import datetime as dt
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

import click

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from node.cli.lazy import LazyGroup  # noqa: E402 - the checkout's own, from wherever this is run
from node.cli.main import cli  # noqa: E402
from node.cli.output import EXIT_CODES  # noqa: E402
from node.config import ENVIRONMENT_PREFIX  # noqa: E402
from node.passphrase import CREDENTIAL, CREDENTIALS, DESCRIPTOR, FILE  # noqa: E402
from node.site import Site  # noqa: E402

PROGRAM = "swarm"

_SPECIAL = str.maketrans(
    {"\\": r"\(rs", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti", '"': r"\(dq"}
)
"""What troff would turn into typography: in a command line each must stay what a shell understands."""


def main() -> int:
    """Write the pages; return the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=pathlib.Path, help="where to write them, as share/man/man1")
    folder = options.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    made = pages(day_of(os.environ), version())
    for name, text in made.items():
        (folder / name).write_text(text, encoding="ascii")
    print(f"wrote {len(made)} pages into {folder}")
    return 0


def pages(day: str, version: str) -> dict[str, str]:
    """Return every page by the name of its file: one a command, groups and their commands alike."""
    return {f"{'-'.join(words)}.1": _page(context, words, day, version) for words, context in _commands()}


def day_of(environment: Mapping[str, str]) -> str:
    """Return the day that pages are of, "2026-11-22": SOURCE_DATE_EPOCH's in UTC, else today."""
    told = environment.get("SOURCE_DATE_EPOCH")
    now = dt.datetime.now(dt.UTC) if told is None else dt.datetime.fromtimestamp(int(told), dt.UTC)
    return now.date().isoformat()


def version() -> str:
    """Return the version in pyproject.toml."""
    import tomllib

    found = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(found["project"]["version"])


def _commands() -> Iterator[tuple[tuple[str, ...], click.Context]]:
    """Walk the tree of commands: (the words that are typed, the command's context)."""
    waiting: list[tuple[tuple[str, ...], click.Command, click.Context | None]] = [((PROGRAM,), cli, None)]
    while waiting:
        words, command, parent = waiting.pop(0)
        context = click.Context(command, info_name=words[-1], parent=parent, **command.context_settings)
        yield words, context
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None, "the group has listed it"
                waiting.append(((*words, name), below, context))


def _page(context: click.Context, words: Sequence[str], day: str, version: str) -> str:
    command, name = context.command, "-".join(words)
    lines = [
        f'.TH {_text(name.upper())} 1 {day} "swarm\\-node {version}" "Swarm manual"',
        ".ad l",
        ".nh",
        *_section("Name", [f"{_text(name)} \\- {_text(_briefly(words, context))}"]),
        *_section("Synopsis", [_synopsis(context, words)]),
        *_section("Description", _prose(command.help or command.short_help or "")),
        *_section("Options", _options(context)),
    ]
    if isinstance(command, click.Group):
        lines += _section("Commands", _below(context, words))
    if command.epilog:
        lines += _section("Examples", _example(command.epilog))
    if len(words) == 1:
        lines += _section("Exit status", _list((str(code), text) for code, text in EXIT_CODES.items()))
        lines += _section("Environment", _list(_variables()))
        lines += _section("Files", _list(_files()))
    else:
        lines += _section(
            "Exit status", [f"0 if {_text(EXIT_CODES[0])}; the other codes are those of", ".BR swarm (1)."]
        )
    return "\n".join((*lines, *_section("See also", _see_also(context, words)))) + "\n"


def _briefly(words: Sequence[str], context: click.Context) -> str:
    """Return what a command does in one line, as the list that it stands in has it."""
    above = None if context.parent is None else context.parent.command
    told = above.summary(words[-1]) if isinstance(above, LazyGroup) else context.command.get_short_help_str(limit=200)
    return told.rstrip(".")


def _synopsis(context: click.Context, words: Sequence[str]) -> str:
    pieces = " ".join(context.command.collect_usage_pieces(context))
    return f"\\fB{_text(' '.join(words))}\\fP {_text(pieces)}"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f".SH {title.upper()}", *lines] if lines else []


def _prose(help_text: str) -> list[str]:
    """Return paragraphs; one that begins with click's mark (backslash b) keeps its lines."""
    lines: list[str] = []
    for number, paragraph in enumerate(re.split(r"\n\s*\n", help_text.partition("\f")[0].strip())):
        if number:
            lines.append(".PP")
        if paragraph.startswith("\b"):
            lines += [".nf", *(_line(line) for line in paragraph.splitlines()[1:]), ".fi"]
        else:
            lines.append(_line(" ".join(paragraph.split())))
    return [line for line in lines if line]


def _options(context: click.Context) -> list[str]:
    options = (one for one in context.command.get_params(context) if isinstance(one, click.Option))
    return _list([record for one in options if (record := one.get_help_record(context))])


def _below(context: click.Context, words: Sequence[str]) -> list[str]:
    group = context.command
    assert isinstance(group, click.Group)
    lines: list[str] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, "the group has listed it"
        brief = group.summary(name) if isinstance(group, LazyGroup) else command.get_short_help_str(limit=200)
        lines += [".TP", f".BR {_text('-'.join((*words, name)))} (1)", _line(brief)]
    return lines


def _list(rows: Iterable[tuple[str, str]]) -> list[str]:
    lines: list[str] = []
    for term, text in rows:
        lines += [".TP", f"\\fB{_text(term)}\\fP", _line(" ".join(text.split()))]
    return lines


def _example(epilog: str) -> list[str]:
    return [".nf", _line(re.sub(r"^Examples?:\s*", "", epilog.strip())), ".fi"]


def _variables() -> Iterator[tuple[str, str]]:
    yield f"{ENVIRONMENT_PREFIX}SECTION__KEY", "Overrides the setting SECTION.KEY of swarm.toml."
    yield FILE, "A file, readable by its owner alone, whose first line opens the site's keys."
    yield DESCRIPTOR, "A descriptor to read that line from, before any file."
    yield CREDENTIALS, f"A folder whose file {CREDENTIAL} has it, as a service manager makes one."
    yield "SWARM_TRUST", "The file in which swarm ledger remembers what it saw of ledgers."
    yield "NO_COLOR", "If it is set, nothing is coloured."


def _files() -> Iterator[tuple[str, str]]:
    site = Site(pathlib.Path("FOLDER"))
    yield str(site.settings_path), "The site's own settings."
    yield str(site.folder / "charter.toml"), "What all sites have agreed on, signed by each."
    yield str(site.card_path), "What the others need to know of this site: public."
    yield str(site.keys), "Who this site is: secret."
    yield str(site.ledger), "Every round and every contribution; kept for good."
    yield str(site.blobs), "Models and updates of the last rounds."
    yield str(site.models), "The models that runs have ended with."
    yield str(site.private), "What of the model never leaves the site."
    yield str(site.run), "The log, and the socket that commands ask the running peer on."


def _see_also(context: click.Context, words: Sequence[str]) -> list[str]:
    near: list[str] = []
    if len(words) > 1:
        near.append("-".join(words[:-1]))
    if len(words) > 2 and context.parent is not None:
        group = context.parent.command
        assert isinstance(group, click.Group)
        near += ["-".join((*words[:-1], name)) for name in group.list_commands(context.parent) if name != words[-1]]
    if len(words) == 1:
        near += ["swarm-init", "swarm-start", "swarm-doctor", "swarm-ledger"]
    lines = [f".BR {_text(one)} (1)," for one in near]
    return [*lines[:-1], lines[-1].rstrip(",")]


def _line(text: str) -> str:
    """Return one line of text in which no word is a request; what stands between backticks is set in bold."""
    marked = "".join(
        f"\\fB{_text(part)}\\fP" if number % 2 else _text(part) for number, part in enumerate(text.split("`"))
    )
    return f"\\&{marked}" if marked.startswith((".", "\\(aq")) else marked


def _text(text: str) -> str:
    """Return characters that mean themselves, in ASCII. A list of choices may go on in the next line."""
    escaped = text.translate(_SPECIAL).replace("|", r"|\:")
    return "".join(one if ord(one) < 128 else f"\\[u{ord(one):04X}]" for one in escaped)


if __name__ == "__main__":
    sys.exit(main())

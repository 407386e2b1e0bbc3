"""A look on one screen of a terminal: what there is to look at, who is there, and how the last rounds went.

As much as fits: of many sites those first that somebody may have to do something about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from node.console import PHASES, bar, duration_words, latency_words, member_state, size_words
from node.svg import clean
from node.watch.alerts import ERROR, alerts, members
from node.watch.look import Look
from swarm.ledger.audit import Audit, RoundView, mean_scores, member_names, weights
from swarm.machine import NodeId

HEAD_LINES = 4
"""Lines that are there whatever happens: title, ledger, and a gap before each table."""

TABLE_LINES = 4
"""Besides their rows: two lines of headings, one of what is left out, one with a curve."""

NARROW = 60
"""Columns below which the title is what matters most of it, and first."""

GAP = 2
"""Columns between two of a table."""

SITES = (
    ("", 1, 0), ("site", 12, 1), ("round", 5, 3), ("does", 14, 2), ("in", 7, 6), ("out", 7, 7), ("idle", 7, 5),
    ("trip", 7, 4), ("clock", 7, 8),
)  # fmt: skip
"""The columns about sites: name, least width, and place among those that go, from the last, where room is short."""

ROUNDS_MAX = 12
BLOCKS = "▁▂▃▄▅▆▇█"


def screen(look: Look, *, width: int, height: int) -> RenderableType:
    """Return a look for a terminal of so many columns and lines."""
    found = alerts(look)
    said = [_alert(one.level, one.text, one.hint) for one in found[: max(1, height // 5)]]
    if len(found) > len(said):
        more = f"  and {len(found) - len(said)} more: swarm metrics --json"
        said.append(_one_line(Text(more, style="yellow")))
    left = height - HEAD_LINES - len(said)
    rounds = min(ROUNDS_MAX, max(2, left // 3))
    sites = _sites(look, max(2, left - rounds - TABLE_LINES), width)
    return Group(_title(look, width), _ledger(look), *said, Text(), sites, Text(), _rounds(look, rounds, width))


def _title(look: Look, width: int) -> Text:
    state = look.audit.state
    done, planned = state.committed.round, state.last
    name, rounds = (clean(state.signed.charter.name), "bold"), f"round {done} of {planned}"
    if width < NARROW:
        return _one_line(Text.assemble(rounds, "  ", name))
    text = Text.assemble(name, f"  as {clean(look.name)} sees it   {rounds}  ")
    text.append(bar(done, planned), "green")
    if look.status is not None and look.status.get("eta_s") is not None and not state.complete:
        text.append(f"  about {duration_words(float(str(look.status['eta_s'])))} to go")
    return _one_line(text)


def _ledger(look: Look) -> Text:
    audit = look.audit
    holds = ("ledger holds", "green") if not look.trouble else ("LEDGER DOES NOT HOLD", "bold red")
    text = Text.assemble(holds, f", {audit.entries} entries in {audit.blocks} blocks", style="")
    text.append(f"   disk {size_words(look.disk_free)} free", "dim")
    if look.epsilon is not None:
        limit = "" if look.budget is None else f" of {look.budget:g}"
        text.append(f"   epsilon {look.epsilon:.2f}{limit}")
    text.append(f"   {datetime.fromtimestamp(look.at_s, tz=UTC).astimezone():%H:%M:%S}", "dim")
    return _one_line(text)


def _alert(level: str, text: str, hint: str) -> Text:
    mark, style = ("✗ ", "bold red") if level == ERROR else ("! ", "bold yellow")
    return _one_line(Text.assemble((mark, style), clean(text), (f"  ({clean(hint)})", "dim")))


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _sites(look: Look, room: int, width: int) -> RenderableType:
    told = members(look)
    if not told:
        names = ", ".join(clean(seat.name) for seat in look.audit.state.terms.members)
        return Text(f"the node does not run, so nothing is known of links between {names}", "dim")
    table = Table(box=None, padding=(0, GAP, 0, 0), header_style="dim")
    # A name is whole before anything is said of its site, if it is not longer than half of the screen.
    longest = min(max(len(clean(str(one["name"]))) for one in told), max(width // 2, 1))
    does = 22 if width >= NARROW else 10
    least = {"site": max(longest, 4), "does": does}
    columns = [(name, least.get(name, size), rank) for name, size, rank in SITES]
    there = _fitting(columns, width, stretched="does")
    for name, size in there.items():
        side: JustifyMethod = "left" if name in ("", "site", "does") else "right"
        most, at_least = size if name in ("site", "does") else None, None if name == "does" else size
        table.add_column(name, justify=side, no_wrap=True, overflow="ellipsis", min_width=at_least, max_width=most)
    urgency = {"red": 0, "yellow": 1, "green": 2}
    ranked = sorted(told, key=lambda one: (not one.get("me"), urgency[member_state(one)[2]]))
    for member in ranked[:room]:
        cells = _row(member)
        table.add_row(*(cells.get(name, "") for name in there))
    if len(ranked) > room:
        left_out = {"site": f"and {len(ranked) - room} more", "does": _all_of(ranked[room:])}
        table.add_row(*(left_out.get(name, "") for name in there))
    return table


def _fitting(columns: Sequence[tuple[str, int, int]], width: int, *, stretched: str) -> dict[str, int]:
    """Return the columns that there is room for, the most needed first, and how wide: one has what is left over."""
    chosen, left = set[str](), width
    for name, least, _ in sorted(columns, key=lambda one: one[2]):
        left -= least + GAP
        if left < 0 and chosen:
            left += least + GAP
            break
        chosen.add(name)
    return {name: least + max(left, 0) * (name == stretched) for name, least, _ in columns if name in chosen}


def _all_of(others: Sequence[Mapping[str, object]]) -> str:
    """Return how those stand that there is no room for."""
    away = sum(member_state(one)[2] != "green" for one in others)
    return f"{away} of them not linked" if away else "all linked"


def _row(member: Mapping[str, object]) -> Mapping[str, RenderableType]:
    mark, words, style = member_state(member)
    name = clean(str(member["name"]))
    if member.get("me"):
        phase = str(member.get("phase"))
        return {
            "": Text(mark, style),
            "site": Text(name, "bold"),
            "round": str(member.get("round")),
            "does": PHASES.get(phase, phase),
        }
    offset = int(str(member.get("clock_offset_ms") or 0))
    return {
        "": Text(mark, style),
        "site": Text(name),
        "round": str(member.get("round")),
        "does": Text(clean(words), "" if style == "green" else style),
        "in": size_words(int(str(member.get("received_bytes") or 0))),
        "out": size_words(int(str(member.get("sent_bytes") or 0))),
        "idle": duration_words(float(str(member.get("moved_s") or 0))),
        "trip": latency_words(float(str(trip))) if (trip := member.get("round_trip_s")) is not None else "",
        "clock": f"{offset:+d} ms" if member.get("linked") else "",
    }


def _rounds(look: Look, room: int, width: int) -> RenderableType:
    audit = look.audit
    closed = [view for view in audit.rounds.values() if view.closed is not None]
    if not closed:
        return Text("no round is closed yet", "dim")
    metrics = audit.state.signed.charter.metrics[:3]
    first, others = metrics[:1], metrics[1:]
    columns = [("round", 5, 0), ("took", 6, 1), ("sites", 5, 3)]
    columns += [(name, max(len(name), 6), 2) for name in first] + [(name, max(len(name), 6), 6) for name in others]
    columns += [("last to offer", 13, 5), ("without", 12, 4)]
    there = _fitting(columns, width, stretched="without")
    table = Table(box=None, padding=(0, GAP, 0, 0), header_style="dim")
    for name, size in there.items():
        side: JustifyMethod = "left" if name in ("last to offer", "without") else "right"
        most = size if name in ("last to offer", "without") else None
        table.add_column(name, justify=side, no_wrap=True, overflow="ellipsis", max_width=most)
    names = member_names(audit.epochs)
    for view in closed[-room:]:
        cells = zip(columns, _of_round(audit, view, metrics, names), strict=True)
        table.add_row(*(cell for (name, *_), cell in cells if name in there))
    return Group(table, *_curve(closed, metrics, width))


def _of_round(
    audit: Audit, view: RoundView, metrics: Sequence[str], names: Mapping[NodeId, str]
) -> Iterable[RenderableType]:
    before = audit.rounds.get(view.number - 1)
    began = before.committed_ms if before is not None else 0
    spent_s = (view.committed_ms - began) / 1000 if began and view.committed_ms else None
    took = "" if spent_s is None else f"{spent_s:.1f} s" if spent_s < 10 else duration_words(spent_s)
    scores = mean_scores(view, metrics)
    shares = weights(view)
    last = max(view.offered_ms, key=lambda node: view.offered_ms[node], default=None)
    terms = view.terms or audit.state.terms
    absent = [names[seat.node] for seat in terms.members if seat.node not in shares]
    return (
        str(view.number) if view.commit is not None else f"{view.number} …",
        took,
        str(len(shares)),
        *(f"{scores[metric]:.4f}" if metric in scores else "" for metric in metrics),
        "" if last is None else clean(names[last]),
        Text(", ".join(clean(name) for name in absent[:4]) + (" …" if len(absent) > 4 else ""), "yellow"),
    )


def _curve(closed: Sequence[RoundView], metrics: Sequence[str], width: int) -> Iterable[Text]:
    """Yield the first metric over the last rounds, one character a round."""
    for metric in metrics[:1]:
        values = [mean_scores(view, [metric]).get(metric) for view in closed]
        told = [value for value in values if value is not None][-max(1, width - len(metric) - 24) :]
        if len(told) > 1:
            low, high = min(told), max(told)
            spread = high - low
            steps = [round((value - low) / spread * (len(BLOCKS) - 1)) if spread else 0 for value in told]
            yield Text.assemble(
                (f"{metric}  {low:.4f} ", "dim"),
                ("".join(BLOCKS[step] for step in steps), "green"),
                (f" {high:.4f}", "dim"),
            )

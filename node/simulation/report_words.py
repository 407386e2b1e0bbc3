"""Cells and words that all parts of a simulation's report share."""

from __future__ import annotations

from collections.abc import Sequence

from node.svg import Html, h


def scrolling(content: Html, label: str) -> Html:
    """Return what may be wider than a phone in a box that scrolls, by keyboard too."""
    return h("div", content, class_="scroll", tabindex=0, role="region", aria_label=label)


def name_cell(name: str) -> Html:
    """Return the head of a row."""
    return h("th", name, scope="row")


def numbers_of(*texts: str) -> tuple[Html, ...]:
    """Return cells of numbers."""
    return tuple(h("td", text, class_="n") for text in texts)


def percent(share: float | None) -> str:
    """Return a share in percent, with one decimal; nothing for None."""
    return "" if share is None else f"{100 * share:.1f} %"


def goal_words(share: float) -> str:
    """Return the accuracy that was asked for: "85 %"."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def short_number(value: float) -> str:
    """Return three digits of a number."""
    return "0" if value == 0 else f"{value:.3g}"


def range_words(low: int, high: int) -> str:
    """Return "3", or "3 to 5"."""
    return str(low) if low == high else f"{low} to {high}"


def listed_names(names: Sequence[str], most: int = 4) -> str:
    """Return names, the first few in words and the others counted."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

"""docs/concepts/threat-model.md has no sentence that nothing supports.

The rules, which the page's own first lines tell its readers:

- Below the first heading every sentence, and every cell of a table but those in its first row and its first column, ends with
  references, `[^t-...]`, `[^s-...]` or `[^p-...]`. A sentence ends with a full stop, a question mark or an exclamation mark. Bold
  words that open a paragraph or an item are its heading: what follows them must bear them out.
- `t`: a test, as `path::name`, several if need be. It exists: names are read from the sources, nothing is run.
- `s`: said elsewhere in this repository, as a link. The file exists and so does the heading that the link names; words in double
  quotes stand in the file, whatever its line breaks are. A link without a heading has such words.
- `p`: a paper or a standard: authors, year in parentheses, title in italics, where it was published.
- Each is defined once, and used.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "concepts" / "threat-model.md"
REFERENCES = "\n## References\n"

REFERENCE = re.compile(r"\[\^([a-z0-9-]+)\]")
DEFINITION = re.compile(r"^\[\^([a-z0-9-]+)\]: (.+)$", re.MULTILINE)
END = re.compile(r"[.?!][\"”)*_`]*((?:\s?\[\^[a-z0-9-]+\])*)(?=\s|$)")
LEAD = re.compile(r"^\*\*[^*]+[.?!]\*\* ")
ITEM = re.compile(r"^\s*(?:[-*]|\d+\.)\s+")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\[[^\]]+\]\(([^)#]+)(?:#([^)]+))?\)")
CITATION = re.compile(r"^[A-Z][^*]{2,}? \((?:1[89]|20)\d\d\)\. \*[^*]{6,}\*\. [A-Z0-9][^*]{3,}\.$")


# --- the page, taken apart ------------------------------------------------------------------------------------------


def paragraphs(text: str) -> Iterator[tuple[str, bool]]:
    """Yield what a reader reads, each paragraph, item or cell that must be supported; and whether it is a cell."""
    block: list[str] = []
    rows = 0
    for line in [*re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).splitlines(), ""]:
        row = line.startswith("|")
        rows = rows + 1 if row else 0
        if block and (row or not line.strip() or line.startswith("#") or ITEM.match(line)):
            yield " ".join(block), False
            block = []
        if row:
            cells = re.split(r"(?<!\\)\|", line.strip())[1:-1]
            if rows > 2:  # The first row names the columns, the second draws a line.
                yield from ((cell.strip(), True) for cell in cells[1:] if cell.strip())
        elif line.strip() and not line.startswith("#"):
            block.append(ITEM.sub("", line).strip())


def unsupported(text: str) -> list[str]:
    """Return the sentences, of the part above the references, that end without one."""
    body = text.split(REFERENCES)[0]
    found = []
    for paragraph, cell in paragraphs(body[body.index("\n## ") :]):
        paragraph, start = LEAD.sub("", paragraph), 0
        for end in END.finditer(paragraph):
            if not end[1]:
                found.append(paragraph[start : end.end()].strip())
            start = end.end()
        rest = paragraph[start:].strip()
        if rest and not (cell and re.search(r"\[\^[a-z0-9-]+\]$", rest)):
            found.append(rest)
    return found


def definitions(text: str) -> dict[str, str]:
    return dict(DEFINITION.findall(text.split(REFERENCES)[1]))


# --- what a reference has to be -------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def functions_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@functools.lru_cache(maxsize=256)
def headings(path: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, as a browser of repositories makes them."""
    found = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found)


def flat(text: str) -> str:
    """Return a text without its line breaks, comment signs and emphasis, to look for words in."""
    return " ".join(re.sub(r"[*`#]", "", text).split())


def wrong_test(text: str) -> str:
    named = TEST.findall(text)
    if not named or TEST.sub("", text).strip(" ,.") not in ("", "and"):
        return "it is no list of tests"
    for file, name in named:
        path = ROOT / file
        if not path.name.startswith("test_") or not name.startswith("test_"):
            return f"{file}::{name} is no test"
        if not path.exists() or name not in functions_in(path):
            return f"there is no {file}::{name}"
    return ""


def wrong_place(text: str) -> str:
    links = LINK.findall(text)
    if not links:
        return "it names no place"
    for file, anchor in links:
        path = (PAGE.parent / file).resolve()
        if not path.is_relative_to(ROOT) or not path.is_file():
            return f"there is no {file}"
        if anchor and anchor not in headings(path):
            return f"{file} has no heading {anchor}"
    quoted = re.findall(r'"([^"]+)"', text)
    if not quoted and not all(anchor for _, anchor in links):
        return "it names neither heading nor words"
    held = " ".join(flat((PAGE.parent / file).read_text()) for file, _ in links)
    return next((f"nobody says {words!r} there" for words in quoted if flat(words) not in held), "")


def wrong(name: str, text: str) -> str:
    """Say what is wrong with a reference; empty if nothing is."""
    match name[:2]:
        case "t-":
            return wrong_test(text)
        case "s-":
            return wrong_place(text)
        case "p-":
            return "" if CITATION.match(text) else "it lacks authors, year, title or where it was published"
        case _:
            return "it is of no kind"


def faults(text: str) -> list[str]:
    """Return everything that is wrong with a page, a line each."""
    body, defined = text.split(REFERENCES)[0], definitions(text)
    used = {*REFERENCE.findall(body)}
    twice = [name for name, _ in DEFINITION.findall(text)]
    return [
        *(f"nothing supports: {sentence}" for sentence in unsupported(text)),
        *(f"[^{name}] is not defined" for name in sorted(used - {*defined})),
        *(f"[^{name}] is not used" for name in sorted({*defined} - used)),
        *(f"[^{name}] is defined twice" for name in sorted({name for name in twice if twice.count(name) > 1})),
        *(f"[^{name}]: {why}" for name, reference in sorted(defined.items()) if (why := wrong(name, reference))),
    ]


# --- claims ---------------------------------------------------------------------------------------------------------


def test_every_sentence_of_the_page_is_supported_and_every_reference_is_there() -> None:
    assert faults(PAGE.read_text()) == []


def test_the_page_is_where_people_look_for_it() -> None:
    for page in ("README.md", "docs/guides/privacy.md", "docs/guides/for-auditors.md", "docs/concepts/architecture.md"):
        targets = [(ROOT / page).parent / file for file, _ in LINK.findall((ROOT / page).read_text())]
        assert PAGE in [target.resolve() for target in targets], page


GOOD = """\
# A page

What stands here is not looked at.

## Somebody

It cannot be read.[^t-a] It is what "others" say.[^s-b][^p-c]
Nor (as anybody sees) written.[^p-c]

| who | what |
|---|---|
| a | nothing.[^t-a] |
| b | numbers[^s-b] |

- One thing.[^t-a]

## References

[^t-a]: `tests/docs/test_threat_model.py::test_a_good_page_has_no_fault`
[^s-b]: [here](threat-model.md#references): "## References"
[^p-c]: Shamir, A. (1979). *How to share a secret*. Communications of the ACM 22(11), 612-613.
"""


def test_a_good_page_has_no_fault() -> None:
    assert faults(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("be read.[^t-a]", "be read.", "nothing supports: It cannot be read."),
        ("- One thing.[^t-a]", "- One thing", "nothing supports: One thing"),
        ("| a | nothing.[^t-a] |", "| a | nothing. |", "nothing supports: nothing."),
        ("numbers[^s-b]", "numbers[^s-b] and more", "nothing supports: numbers[^s-b] and more"),
        ("read.[^t-a]", "read.[^t-z]", "[^t-z] is not defined"),
        ("[^p-c]: Sh", "[^p-d]: Nobody, A. (1979). *How to share*. Some Journal 1.\n[^p-c]: Sh", "[^p-d] is not used"),
        ("has_no_fault`", "has_no_faults`", "[^t-a]: there is no tests/docs/test_threat_model.py::test_a_good_page_has_no_faults"),
        ("test_threat_model.py::test_a_good_page_has_no_fault", "test_threat_model.py::faults", "[^t-a]: tests/docs/test_threat_model.py::faults is no test"),
        ("#references", "#reference", "[^s-b]: threat-model.md has no heading reference"),
        ('"## References"', '"words that nobody says"', "[^s-b]: nobody says 'words that nobody says' there"),
        ('threat-model.md#references): "## References"', "../../README.md)", "[^s-b]: it names neither heading nor words"),
        ("(1979). ", "", "[^p-c]: it lacks authors, year, title or where it was published"),
        (" Communications of the ACM 22(11), 612-613.", "", "[^p-c]: it lacks authors, year, title or where it was published"),
        ("Shamir, A. (", "(", "[^p-c]: it lacks authors, year, title or where it was published"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_page_is_said(old: str, new: str, fault: str) -> None:
    assert old in GOOD
    assert faults(GOOD.replace(old, new)) == [fault]

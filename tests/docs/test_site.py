"""The site: what it links to is there, every page is in its menus, and who reads it asks nobody else for anything.

What needs MkDocs builds it once, strictly; without that extra (`make docs` installs it) those tests are skipped.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FRONT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)([^()\s#]*)(?:#([^()\s]+))?\)")
FETCHED = re.compile(
    r"""<(?:script|link|img|iframe|source|object)\b[^>]*?\b(?:src|href|data)=["']?((?:https?:)?//[^"'\s>]+)"""
)
FETCHED_BY_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")


def headings(page: Path) -> set[str]:
    """Return the names by which a forge and MkDocs link to the headings of a page."""
    found = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    plain = [
        unicodedata.normalize("NFKD", re.sub(r"[`*]", "", one)).encode("ascii", "ignore").decode() for one in found
    ]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", one).strip().lower()) for one in plain}


@pytest.mark.parametrize("page", [*FRONT, *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere_as_it_lies_in_the_repository(page: Path) -> None:
    for target, heading in LINK.findall(FENCED.sub("", page.read_text())):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name} links to {target}, which is not there"
        if heading and file.suffix == ".md":
            assert heading in headings(file), f"{page.name} links to {target}#{heading}, and there is no such heading"


def test_every_page_but_the_decisions_is_in_a_menu() -> None:
    named = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    there = {str(page.relative_to(DOCS)) for page in PAGES}
    assert named == {page for page in there if not re.match(r"decisions/\d", page)}
    listed = set(re.findall(r"\((\d{4}[\w-]+\.md)\)", (DOCS / "decisions" / "README.md").read_text()))
    assert listed == {page.removeprefix("decisions/") for page in there if re.match(r"decisions/\d", page)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the site is built where MkDocs is: `make docs` installs it")
    import logging

    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.utils import CountHandler

    counter = CountHandler()
    counter.setLevel(logging.WARNING)
    logging.getLogger("mkdocs").addHandler(counter)
    folder = tmp_path_factory.mktemp("site")
    sys.modules.pop("site_hook", None)
    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder)))
    assert not counter.get_counts(), counter.get_counts()
    return folder


def test_who_reads_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        assert not FETCHED.findall(page.read_text()), page
    for style in site.rglob("*.css"):
        assert not FETCHED_BY_STYLE.findall(style.read_text()), style
    assert not re.search(
        r"(?:fetch|import|importScripts)\(\s*[\"'](?:https?:)?//", (site / "search" / "main.js").read_text()
    )


def test_what_a_page_links_to_outside_the_pages_is_in_the_site(site: Path) -> None:
    linked = site / "source" / "swarm" / "charter.py.html"
    assert "class Charter" in linked.read_text()
    assert 'href="../source/swarm/charter.py.html"' in (site / "concepts" / "threat-model.html").read_text()
    assert 'href="../index.html"' in (site / "guides" / "from-your-script.html").read_text()
    assert "<p><code>train.py</code>:</p>" in (site / "guides" / "from-your-script.html").read_text()

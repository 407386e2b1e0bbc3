"""What the site needs of pages that are written to be read as they lie in the repository, too.

Two things differ between the two. A page links to files outside docs/, which the site does not have: it gets a page
for each, with its text as it is; the README's place is taken by the site's first page. And a block of code may be told
its file by `title=` behind its language, which the site's Markdown does not know: its name goes on a line above. Pages
themselves stay as they are, and a link to a file that is not there ends the build. A heading that begins with a number
gets a name that does not: the theme's script looks names up as selectors.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from markdown.extensions.toc import slugify
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import log

LINK = re.compile(r"(?<=\]\()(?!\w+:)([^()\s#]+)(?=[)#])")
NUMBERED = re.compile(r"(?<=\]\()((?!\w+:)[^()\s#]*#)(?=\d)")
TITLED = re.compile(r"^```(\w+) title=(\S+)$", re.MULTILINE)

FRONT = {"README.md": "index.md"}
"""Files outside docs/ whose place a page of the site takes."""


def leaving(link: str, page: str) -> str:
    """Return where a link of a page (both with /) leads in the repository, if that is outside docs/; else nothing."""
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return "" if target.startswith("docs/") else target


def place(target: str) -> str:
    """Return the page that stands in the site for a file of the repository."""
    return FRONT.get(target, f"source/{target}.md")


def adapted(text: str, page: str) -> str:
    """Return a page's text as the site's Markdown takes it."""

    def link(match: re.Match[str]) -> str:
        target = leaving(match[1], page)
        return posixpath.relpath(place(target), posixpath.dirname(page)) if target else match[1]

    text = NUMBERED.sub(r"\1n-", LINK.sub(link, text))
    return TITLED.sub(r"`\2`:\n\n```\1", text)


def name(heading: str, separator: str) -> str:
    """Return what a heading is called in the address of a page."""
    plain = slugify(heading, separator)
    return f"n{separator}{plain}" if plain[:1].isdigit() else plain


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name headings as above."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = name
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside docs/ that a page links to."""
    root = Path(config.config_file_path).parent
    for file in [*files.documentation_pages()]:
        for link in LINK.findall(file.content_string):
            target = leaving(link, file.src_uri)
            if not target or files.get_file_from_path(place(target)) is not None:
                continue
            if not (root / target).is_file():
                log.warning("%s links to %s, which is no file", file.src_uri, target)
                continue
            fence = "~" * 8
            text = f"# {target}\n\n{fence}\n{(root / target).read_text(encoding='utf-8')}\n{fence}\n"
            files.append(File.generated(config, place(target), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Return what is rendered."""
    return adapted(markdown, page.file.src_uri)

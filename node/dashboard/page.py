"""The page itself: one document, its style and its program, served in parts or put together as a single file.

The same program draws the live page and the file. A file has its data in it and fetches nothing, so that it reads the
same in ten years; it carries the ledger's blocks as well, up to a size, so that whoever opens it can check them there.
All text from outside goes through JSON or `textContent`, never into markup.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping
from importlib import resources

from node.svg import PALETTE

MODULES = (
    "words.js",
    "dom.js",
    "verify.js",
    "source.js",
    "overview.js",
    "network.js",
    "rounds.js",
    "charts.js",
    "sites.js",
    "ledger.js",
    "main.js",
)
"""The program's modules, each after those it imports."""

LIBRARY = "vendor/uPlot.iife.min.js"
STYLES = ("vendor/uPlot.min.css", "page.css")

_NAMED = re.compile(r"^import \{([^}]*)\} from \"\./([a-z]+)\.js\";$", re.MULTILINE)
_WHOLE = re.compile(r"^import \* as (\w+) from \"\./([a-z]+)\.js\";$", re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?function\*?|const|let|class) (\w+)", re.MULTILINE)


def text_of(name: str) -> str:
    """Return a file of `static/`."""
    return resources.files(__package__).joinpath("static", *name.split("/")).read_text("utf-8")


def style() -> str:
    """Return the page's style sheet, with the colours that reports have."""
    return PALETTE + "".join(text_of(name) for name in STYLES)


def program() -> str:
    """Return all modules as one script, each a function that returns what it exports."""
    return "'use strict';\n" + "".join(_scope(name.removesuffix(".js"), text_of(name)) for name in MODULES)


def _scope(name: str, text: str) -> str:
    names = [found[2] for found in _EXPORT.finditer(text)]
    text = _NAMED.sub(r"const {\1} = module_\2;", text)
    text = _WHOLE.sub(r"const \1 = module_\2;", text)
    text = _EXPORT.sub(r"\1 \2", text)
    return f"const module_{name} = (() => {{\n{text}return {{{', '.join(names)}}};\n}})();\n"


def live() -> str:
    """Return the document whose program asks the server."""
    head = '<link rel="stylesheet" href="static/page.css">'
    scripts = f'<script src="static/{LIBRARY}"></script><script type="module" src="static/main.js"></script>'
    return _document("live page", head, scripts)


def standalone(title: str, data: Mapping[str, object], blocks: Iterable[bytes] | None) -> str:
    """Return the document with its data in it. `blocks` are the ledger's, as `explorer.blocks` yields them."""
    library, code = text_of(LIBRARY), program()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {_hash(library)} {_hash(code)}; base-uri 'none'; form-action 'none'"
    )
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{style()}</style>'
    parts = [f'<script type="application/json" id="data">{_embedded(data)}</script>']
    if blocks is not None:
        encoded = base64.b64encode(b"".join(blocks)).decode()
        parts.append(f'<script type="application/octet-stream" id="blocks">{encoded}</script>')
    parts += [f"<script>{library}</script>", f"<script>{code}</script>"]
    return _document(title, head, "".join(parts))


def _document(title: str, head: str, scripts: str) -> str:
    about = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="referrer" content="no-referrer"><link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title>{head}"
    )
    return f'<!doctype html><html lang="en"><head>{about}</head><body>{text_of("page.html")}{scripts}</body></html>'


def _embedded(data: Mapping[str, object]) -> str:
    """Return JSON that no HTML parser takes for the end of a script."""
    return (
        json.dumps(data, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

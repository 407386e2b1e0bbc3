"""The page needs nothing from elsewhere, is small, and is the same program served in parts or in one file."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
import subprocess
from pathlib import Path
from shutil import which

import pytest
from click.testing import CliRunner

from node.cli.main import cli
from node.dashboard import page
from swarm.errors import UsageError
from tests.node.test_cli_ledger import calm, data, written

STATIC = Path(page.__file__).parent / "static"

PAGE_BYTES_MAX = 150_000


def test_nothing_on_the_page_is_from_elsewhere() -> None:
    for path in STATIC.rglob("*"):
        if path.suffix not in (".js", ".css", ".html"):
            continue
        found = {*re.findall(r"https?://[^\s\"'`)]+", path.read_text("utf-8"))}
        # The name of SVG is an address that nobody asks; the library's licence names its author's.
        assert {one for one in found if "www.w3.org/2000/svg" not in one and "github.com/leeoniya" not in one} == set()


def test_the_page_is_small() -> None:
    served = [page.live(), page.style(), page.text_of(page.LIBRARY), *map(page.text_of, page.MODULES)]
    assert sum(len(text.encode()) for text in served) < PAGE_BYTES_MAX


def test_the_library_is_the_one_that_is_named() -> None:
    told = json.loads((STATIC / "vendor" / "VENDOR.json").read_text("utf-8"))
    for name, digest in told["uPlot"]["sha256"].items():
        assert hashlib.sha256((STATIC / "vendor" / name).read_bytes()).hexdigest() == digest


def test_text_from_outside_is_never_markup() -> None:
    for name in page.MODULES:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", page.text_of(name)
        )


def test_every_module_comes_after_those_it_imports() -> None:
    for place, name in enumerate(page.MODULES):
        imported = re.findall(r"^import .* from \"\./([a-z]+\.js)\";$", page.text_of(name), re.MULTILINE)
        assert all(page.MODULES.index(one) < place for one in imported)
    assert "import " not in re.sub(r"importKey", "", page.program())


def test_the_program_in_one_piece_is_a_program() -> None:
    if which("node") is None:
        pytest.skip("no node here to parse JavaScript; the tests of the page in a browser run it")
    checked = subprocess.run(
        ["node", "--check", "-"], input=page.program(), text=True, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


class _Scripts(html.parser.HTMLParser):
    """Gathers the scripts of a document, and what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts, self.fetched, self.policy = list[tuple[str, str]](), list[str](), ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "script":
            self.scripts.append((given.get("type", ""), ""))
        self.fetched += [given[name] for name in ("src", "href") if name in given and tag in ("script", "link", "img")]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]

    def handle_data(self, text: str) -> None:
        if self.scripts and self.lasttag == "script":
            kind, before = self.scripts[-1]
            self.scripts[-1] = kind, before + text


def test_a_file_runs_this_program_and_no_other(tmp_path: Path) -> None:
    site, path = written(tmp_path / "site", calm()[1]), tmp_path / "report.html"
    told = data("dashboard", site, "--export", path)
    assert told["bytes"] == path.stat().st_size
    assert told["blocks"] == len(calm()[1]), "the ledger is in it, to be checked"
    found = _Scripts()
    found.feed(path.read_text("utf-8"))
    assert found.fetched == ["data:,"]
    programs = [text for kind, text in found.scripts if not kind]
    assert len(programs) == 2
    for text in programs:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in found.policy
    [carried] = [json.loads(text) for kind, text in found.scripts if kind == "application/json"]
    assert carried["state"]["ledger_id"] == calm()[0].ledger_id.hex()


def test_no_name_ends_the_script_that_it_is_in() -> None:
    names = {"name": "</script><script>alert(1)</script>", "other": "<!--"}
    text = page.standalone("x", names, None)
    found = _Scripts()
    found.feed(text)
    assert [kind for kind, _ in found.scripts] == ["application/json", "", ""]
    assert json.loads(found.scripts[0][1]) == names


def test_another_address_than_this_machines_takes_a_certificate_and_a_token(tmp_path: Path) -> None:
    site = written(tmp_path / "site", calm()[1])
    for extra in ([], ["--token-file", str(tmp_path / "token")]):
        result = CliRunner().invoke(cli, ["dashboard", str(site), "--listen", "0.0.0.0:9460", *extra])
        assert "others would read it on the way" in str(result.exception)
    for text in ("9460", "127.0.0.1:0", "example.org:80", "127.0.0.1:99999"):
        result = CliRunner().invoke(cli, ["dashboard", str(site), "--listen", text])
        assert f"couldn't use --listen {text}" in str(result.exception)


def test_a_token_is_made_once_for_the_sites_user_alone(tmp_path: Path) -> None:
    from node.cli.dashboard import _token

    path = tmp_path / "token"
    first = _token(path)
    assert len(first) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert _token(path) == first
    path.chmod(0o644)
    with pytest.raises(UsageError, match="others can read it"):
        _token(path)
    path.chmod(0o600)
    path.write_text("short\n")
    with pytest.raises(UsageError, match="too short"):
        _token(path)

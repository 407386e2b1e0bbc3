"""What is published: everything that the program needs and nothing else, the same bytes for the same commit.

Installed as a stranger installs it, into an empty environment without PyTorch and with no checkout in sight, it works.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.packaging.scripts import ROOT, script
from tests.sites import calm_run, write_site

pytest.importorskip("build", reason="build is not installed: make test-package")
pytest.importorskip("twine", reason="twine is not installed: make test-package")

PACKAGE = script("package")
PROGRAM = ("swarm", "gossip", "topologies", "node")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    archive, wheel = PACKAGE.build(tmp_path_factory.mktemp("dist"))
    return archive, wheel


def tracked() -> set[str]:
    ran = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True)
    return {name for name in ran.stdout.splitlines() if (ROOT / name).exists()}


@pytest.mark.real
@pytest.mark.timeout(300)
def test_the_wheel_has_the_whole_program_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        names = {*wheel.namelist()}
    program = {name for name in names if not name.startswith("swarm_node-")}
    assert program == {name for name in tracked() if name.startswith(tuple(f"{one}/" for one in PROGRAM))}
    assert {f"{one}/py.typed" for one in PROGRAM} < names
    beside = {name.partition("/")[2] for name in names - program}
    kept = {name.partition("data/share/")[2] for name in beside if name.startswith("data/share/")}
    assert "licenses/LICENSE" in beside
    assert {"man/man1/swarm.1", "man/man1/swarm-ledger-verify.1"} < kept
    assert {"swarm-node/systemd/swarm@.service", "swarm-node/prometheus/alerts.yml"} < kept


@pytest.mark.real
@pytest.mark.timeout(300)
def test_the_sources_have_what_the_wheel_is_built_from_and_no_tests(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as sources:
        members = sources.getmembers()
    names = {member.name.partition("/")[2] for member in members if member.isfile()}
    ours = {name for name in names if not name.startswith(("swarm_node.egg-info/", "share/man/"))}
    assert ours - tracked() == {"PKG-INFO", "setup.cfg"}
    tops = {name.partition("/")[0] for name in ours if "/" in name}
    assert tops == {*PROGRAM, "deploy", "packaging", "requirements"}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"} < names
    assert {(member.uid, member.gid, member.uname) for member in members} == {(0, 0, "")}
    assert len({member.mtime for member in members}) == 1


@pytest.mark.real
@pytest.mark.timeout(300)
def test_whoever_builds_it_gets_the_same_bytes(built: tuple[Path, Path], tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        again = PACKAGE.build(tmp_path)
    finally:
        os.umask(before)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in built]


@pytest.mark.real
@pytest.mark.timeout(300)
def test_its_description_is_one_that_an_index_takes(built: tuple[Path, Path]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *map(str, built)],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout
    with zipfile.ZipFile(built[1]) as wheel:
        told = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith("/METADATA"))
    for field in ("License-Expression: Apache-2.0", "Requires-Python: >=3.11", "Classifier: Typing :: Typed"):
        assert f"\n{field}\n" in told


@pytest.mark.real
@pytest.mark.timeout(600)
def test_it_works_in_an_empty_environment_without_torch(built: tuple[Path, Path], tmp_path: Path) -> None:
    place = tmp_path / "venv"
    venv.create(place, with_pip=True)
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}

    def run(*words: object, python: bool = False) -> str:
        told = [str(place / "bin" / ("python" if python else "swarm")), *(str(word) for word in words)]
        ran = subprocess.run(told, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{words}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", built[1], python=True)
    run("-m", "pip", "check", python=True)
    where = run("-c", "import node, importlib.util as u; print(node.__file__, u.find_spec('torch'))", python=True)
    assert where.startswith(str(place))
    assert where.rstrip().endswith(" None")
    assert "Exit codes" in run("--help")
    assert "0.1.0" in run("--version")
    site = write_site(tmp_path / "member", calm_run())
    assert "\nVALID " in run("ledger", "verify", site)
    run("dashboard", site, "--export", tmp_path / "page.html")
    assert "uPlot" in (tmp_path / "page.html").read_text("utf-8")
    assert "hospital-a is ready" in run(
        "init", tmp_path / "a", "--name", "hospital-a", "--advertise", "tcp://127.0.0.1:7400"
    )
    assert (place / "share" / "man" / "man1" / "swarm-start.1").exists()
    examples = run(
        "-c", "import node.examples, pathlib as p; print(*p.Path(node.examples.__path__[0]).glob('*.py'))", python=True
    )
    assert "breast_cancer.py" in examples

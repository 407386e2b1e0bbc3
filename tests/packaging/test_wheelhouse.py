"""What a site without internet gets: complete, every wheel held to its digest, and installed with nobody to ask."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.packaging.scripts import ROOT, script

sys.path.insert(0, str(ROOT / "scripts"))  # Scripts find each other where they lie.
try:
    HOUSE = script("wheelhouse")
finally:
    sys.path.remove(str(ROOT / "scripts"))


def wheel(folder: Path, name: str, version: str) -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    return path


def test_every_wheel_is_a_line_with_its_digest(tmp_path: Path) -> None:
    made = [wheel(tmp_path, "Zebra", "1.0"), wheel(tmp_path, "a_b", "2.13.0+cpu")]
    lines = HOUSE.requirements(tmp_path).splitlines()
    assert lines[0] == f"a-b==2.13.0+cpu --hash=sha256:{HOUSE.digest(made[1])}"
    assert lines[1].startswith("zebra==1.0 --hash=sha256:")
    wheel(tmp_path, "zebra", "1.1")
    with pytest.raises(Exception, match="two versions of zebra"):
        HOUSE.requirements(tmp_path)


def test_pytorch_is_the_pinned_one_and_no_extra_brings_another() -> None:
    words = HOUSE.wanted(["torch", "integrations"], "cpu")
    pins = str(ROOT / "requirements" / "cpu.txt")
    assert words[:4] == ["-r", pins, "-c", pins]
    assert any(one.startswith("xgboost-cpu") for one in words)
    assert HOUSE.wanted([], "none") == []


def test_an_unknown_extra_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="'onyx': there is no such extra"):
        HOUSE.gather(tmp_path, ["onyx"], "none")


@pytest.mark.real
@pytest.mark.timeout(600)
def test_without_torch_it_is_installed_with_the_network_cut(tmp_path: Path) -> None:
    pytest.importorskip("build", reason="build is not installed: make test-package")
    made = HOUSE.gather(tmp_path / "there", [], "none")
    told = made.with_suffix(".tar.sha256").read_text("utf-8")
    assert told == f"{HOUSE.digest(made)}  {made.name}\n"
    with tarfile.open(made) as archive:
        archive.extractall(tmp_path, filter="data")
    place = tmp_path / made.stem
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=place, check=True)
    listed = {*re.findall(r"^\S+  (.*)$", (place / "SHA256SUMS").read_text("utf-8"), re.MULTILINE)}
    there = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert listed == there - {"SHA256SUMS"}
    assert not any(name.startswith(("wheels/torch", "wheels/nvidia")) for name in there)

    lines = (place / "INSTALL").read_text("utf-8").replace("/opt/swarm", str(tmp_path / "venv")).splitlines()
    assert len(lines) == 2
    environment = {
        name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "PIP_", "VIRTUAL"))
    }
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
    alone = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode == 0
    cut = ["unshare", "-n"] if alone else []

    def run(line: str) -> subprocess.CompletedProcess[str]:
        told = [*cut, "sh", "-c", line]
        return subprocess.run(told, cwd=place, env=environment, capture_output=True, text=True, check=False)

    made_venv = run(lines[0].replace(lines[0].split()[0], sys.executable))
    assert made_venv.returncode == 0, made_venv.stderr
    small = min((place / "wheels").glob("*.whl"), key=lambda path: path.stat().st_size)
    held = small.read_bytes()
    small.write_bytes(held + b"\0")
    changed = run(lines[1])
    assert changed.returncode != 0
    assert "DO NOT MATCH THE HASHES" in changed.stderr
    small.write_bytes(held)
    installed = run(lines[1])
    assert installed.returncode == 0, installed.stderr
    assert run(f"{tmp_path}/venv/bin/swarm --version").stdout.startswith("swarm, version 0.")
    assert run(f"{tmp_path}/venv/bin/pip check").returncode == 0

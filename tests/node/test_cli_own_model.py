"""`swarm export` where there is nothing to export, or not the file it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.cli.main import COMMANDS
from node.site import Site
from tests.node.test_cli_errors import refused, site

assert site  # the fixture of a site that could start

pytestmark = pytest.mark.usefixtures("trust_file")


def test_without_a_ledger_there_is_no_model(site: Site) -> None:
    message, hint = refused("export", site.folder, "--personal")
    assert "couldn't find a ledger" in message
    assert hint


def test_another_task_file_is_refused_before_it_is_run(site: Site) -> None:
    (site.folder / "task.py").write_text("raise SystemExit(3)\n")
    message, hint = refused("export", site.folder, code=6)
    assert "is not the task file the charter was made with" in message
    assert "SHA-256" in hint


def test_a_folder_that_is_no_site_is_said(tmp_path: Path) -> None:
    message, _ = refused("export", tmp_path / "nowhere")
    assert "swarm.toml" in message
    assert "export" in COMMANDS


def test_onnx_without_its_extra_is_refused_before_the_task_is_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.export.NEEDS", ("no_such_package",))
    message, hint = refused("export", site.folder, "--format", "onnx")
    assert message == "couldn't export as ONNX: no_such_package is not installed"
    assert hint == "pip install 'swarm-node[onnx]'"

"""What noise on sums costs: a small run goes through, and noise costs something."""

from __future__ import annotations

import sys

import pytest

from scripts import site_noise_experiment as script


def test_a_small_run_prints_a_row_for_every_epsilon_and_noise_costs_accuracy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["site_noise_experiment.py", "--rounds", "2", "--sites", "4", "--seeds", "1"])
    script.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["4", "none"], ["4", "8"], ["4", "3"], ["4", "1"]]
    assert float(rows[0][3]) > 0.75
    assert float(rows[3][3]) < 0.5
    lengths = [float(row[4]) for row in rows]
    assert lengths == sorted(lengths)
    assert lengths[0] == 0.0

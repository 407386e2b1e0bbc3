"""A few kills of real peers, in every run of the tests; `make kill` makes fifty."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.kill_campaign import run


@pytest.mark.real
@pytest.mark.long
@pytest.mark.timeout(300)
def test_peers_killed_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    # Everything that could be lost is asserted inside: completion, five ledgers, equal models and files.
    said = run(tmp_path, kills=3, seed=11, say=False)
    assert "5 ledgers verify, all models equal" in said

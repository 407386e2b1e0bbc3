"""The shortened acceptance run, on real processes, in every run of CI; `make chaos` makes the whole one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.acceptance import accept
from tests.chaos.namespaces import why_not
from tests.chaos.stage import scenario_of

SHORT = str(Path(__file__).parent / "short.toml")


@pytest.mark.real
@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can be done here")
def test_five_sites_end_a_bad_day_by_themselves(tmp_path: Path) -> None:
    # All that could be wrong is claimed inside: completion, ledgers, absences, the straggler's work, accuracy.
    said: list[str] = []
    told = accept(scenario_of(SHORT), 1, tmp_path, say=said.append)
    assert told.named > 0, "\n".join(said)

"""A few failing system calls of a real peer, in every run of the tests; `make strace` tries them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import strace_campaign as campaign

SAMPLE = 4
"""Faults of each run of the tests; each costs some four seconds."""


@pytest.mark.real
@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(campaign.usable()), reason=campaign.usable())
def test_a_peer_survives_each_system_call_that_fails(tmp_path: Path) -> None:
    with campaign.bench_in(tmp_path) as bench:
        met = campaign.instances(bench)
        of_ledger = [one for one in met if one.by_file and one.path.startswith("ledger")]
        calls = {one.call for one in of_ledger}
        assert calls >= {"openat", "pwrite64", "fdatasync", "fallocate"}, "the ledger is written as it was"
        injections = campaign.all_injections(of_ledger)
        ended = [campaign.try_one(bench, injection) for injection in campaign.sampled(injections, SAMPLE, seed=3)]
    assert "was killed" in ended
    assert "stopped" in ended

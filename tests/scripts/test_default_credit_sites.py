"""The three banks' tables come from real peers; what the swarm grows is what all the rows in one place would grow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts.default_credit_sites import BANKS, OTHERS, ROUNDS, TASKS, TREES, Customers, deal, main
from scripts.real_peers import loaded
from tests.scripts.quick import DATA, needs, quick_rows


@pytest.mark.real
@pytest.mark.timeout(600)
@needs("default_credit/default_credit_homo.npz")
def test_banks_grow_the_trees_of_the_pooled_rows_and_their_own_on_top(
    forkserver: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = DATA / "default_credit" / "default_credit_homo.npz"
    sites = [*(name for name, _ in BANKS), "client mean", OTHERS]
    rows = quick_rows(main, [file, "--models", TREES], sites, forkserver, monkeypatch, capsys)
    for name in sites:
        _, swarm, _, pooled = rows[name]
        assert swarm == pytest.approx(pooled, abs=2e-3), "sums over sites are sums over all rows"
    _, swarm, personalised, _ = rows[OTHERS]  # Of forty customers the same number may well be right.
    assert personalised != swarm, "ten trees more"


def test_every_customer_is_at_one_bank_and_a_fifth_of_each_is_held_out() -> None:
    customers = Customers(np.arange(60.0)[:, None], np.zeros(60))
    dealt = deal(customers, [30, 20, 10], 1)
    assert [(len(train.y), len(test.y)) for train, test in dealt] == [(24, 6), (16, 4), (8, 2)]
    assert sorted(np.concatenate([part.x[:, 0] for bank in dealt for part in bank])) == list(range(60))
    assert not np.array_equal(dealt[0][0].x, deal(customers, [30, 20, 10], 2)[0][0].x)


def test_the_swarms_trees_take_the_rounds_of_the_script_and_a_banks_own_the_calls_that_are_declared() -> None:
    pytest.importorskip("torch")
    task = loaded(TASKS / "default_credit_trees.py")
    assert task.SWARM_ROUNDS == ROUNDS[TREES] == 151
    assert task.fine_tune == task.OWN * task.DEPTH
    assert task.PLAN.rounds == ROUNDS[TREES] + task.fine_tune


def test_a_file_that_is_not_there_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="couldn't read .*: there is no such file"):
        main([str(tmp_path / "none.npz")])

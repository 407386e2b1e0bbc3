"""A planted leak is found, a well-noised training shows none beyond chance, and what cannot be audited says so."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from node.audit.inversion import Attacked, invert
from node.audit.membership import Draw, Found, attack, draw, scored_as
from node.audit.reading import nearness
from node.audit.training import Trainee
from node.dpsgd import randomness
from swarm.errors import UsageError
from swarm.privacy.accounting import Budget, epsilon
from tests.node.audit.tasks import ONE_STEP, PRIVATE, TASK, trainee

SEEDS = (1, 2, 3)
NOISY = Budget(0.3, 1e-3)


def audited(site: Trainee, seed: int, canaries: int = 0) -> tuple[Found, Draw]:
    how = scored_as(site)
    drawn = draw(site.records.trained, how, references=4, canaries=canaries, seed=seed)
    return attack(site, drawn, how, rounds=1, delta=1e-3, tell=lambda _: None), drawn


def test_an_over_fitted_model_gives_its_records_away_with_every_seed(tmp_path: Path) -> None:
    site = trainee(tmp_path)
    for seed in SEEDS:
        found, _ = audited(site, seed, canaries=30)
        assert found.reading.found
        assert found.reading.span.low > 0.3
        assert found.canaries is not None
        assert found.canaries.found
        assert found.epsilon > 0.3
        assert found.spent == []
    site.close()


def test_training_with_much_noise_shows_no_advantage_and_guesses_stay_below_the_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise is secret and would make this a matter of luck: here it follows from a counter."""
    counts = iter(range(10**9))
    monkeypatch.setattr(
        randomness.os, "urandom", lambda many: hashlib.sha256(str(next(counts)).encode()).digest()[:many]
    )
    site = trainee(tmp_path, PRIVATE, budget=NOISY)
    for seed in SEEDS:
        found, _ = audited(site, seed)
        assert not found.reading.found
        assert found.reading.span.low < 0 < found.reading.span.high
        spent = epsilon(found.spent, 1e-3)
        assert found.epsilon <= spent <= NOISY.epsilon
    site.close()


def test_references_have_each_record_in_half_of_them_and_canaries_replace_records(tmp_path: Path) -> None:
    site = trainee(tmp_path)
    records = site.records.trained
    drawn = draw(records, scored_as(site), references=6, canaries=20, seed=5)
    assert drawn.coins.shape == (7, 100)
    assert (drawn.coins[1:].sum(0) == 3).all()
    assert len({*drawn.always, *drawn.candidates}) == 160 - 20
    assert drawn.canaries is not None
    originals = {tuple(x.tolist()): int(y) for x, y in zip(records.x, records.y, strict=True)}
    assert all(originals[tuple(x.tolist())] != int(y) for x, y in zip(drawn.canaries.x, drawn.canaries.y, strict=True))
    assert len(drawn.records(records, 0)) == 60 + int(drawn.coins[0].sum())
    site.close()


def test_a_record_is_made_again_from_one_step_on_few_and_not_from_many_steps_with_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = trainee(tmp_path, ONE_STEP)
    how, records = scored_as(site), site.records.trained
    scene = np.random.default_rng(0).permutation(160)
    parts = []
    for number in range(4):  # Tiny batches, no noise, and the clip of 100 never takes hold.
        few = records.at(scene[4 * number : 4 * number + 4])
        others = records.at(scene[40:120])
        release, _ = site.train(few, 1)
        here = Attacked(release.bases[0], release.updates[0], few.and_(others), np.arange(84) < 4)
        found = invert(site.show, site.names, how, here, steps=150, seed=number, device="cpu")
        assert found is not None
        parts.append(found)
    reading = nearness(parts)
    assert reading is not None
    assert reading.found
    assert reading.lead_db > 3
    noise = [
        Attacked(release.bases[0], np.random.default_rng(one).normal(size=release.bases[0].size).astype("<f4"), *rest)
        for one, rest in enumerate([(few.and_(others), np.arange(84) < 4)] * 3)
    ]
    made = [invert(site.show, site.names, how, one, steps=30, seed=1, device="cpu") for one in noise]
    nothing = nearness([one for one in made if one is not None])
    assert nothing is not None
    assert not nothing.found
    site.close()


def test_an_update_of_nothing_cannot_be_inverted(tmp_path: Path) -> None:
    site = trainee(tmp_path)
    base = site.initial()
    still = Attacked(base, np.zeros_like(base), site.records.trained, np.ones(160, dtype=bool))
    assert invert(site.show, site.names, scored_as(site), still, steps=3, seed=1, device="cpu") is None
    site.close()


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"references": 3}, "3 reference trainings"),
        ({"references": 0}, "0 reference trainings"),
        ({"canaries": 41}, "couldn't put 41 canaries among 160 records"),
    ],
)
def test_an_audit_that_cannot_be_is_refused(tmp_path: Path, asked: dict[str, int], why: str) -> None:
    site = trainee(tmp_path)
    with pytest.raises(UsageError, match=why):
        draw(site.records.trained, scored_as(site), **{"references": 4, "canaries": 0, "seed": 1, **asked})
    few = site.records.trained.at(np.arange(15))
    with pytest.raises(UsageError, match="couldn't audit 15 records"):
        draw(few, scored_as(site), references=4, canaries=0, seed=1)
    site.close()


def test_a_task_that_trains_on_something_else_is_refused_rather_than_found_to_leak_nothing(tmp_path: Path) -> None:
    """Else the audit would say that no record is told apart, of records that nobody trains on."""
    site = trainee(tmp_path, text=TASK.replace("x, y = data[0]", "x, y = data[1]"))
    with pytest.raises(UsageError, match="on other records it trained the same model"):
        audited(site, 1)
    site.close()
    private = TASK.replace("x, y = data[0]", "x, y = data[1]")
    (tmp_path / "b").mkdir()
    site = trainee(tmp_path / "b", PRIVATE, budget=NOISY, text=private)
    with pytest.raises(UsageError, match="and trained on 160"):
        audited(site, 1)
    site.close()


def test_with_a_budget_a_task_that_trains_without_noise_is_refused_as_it_is_in_a_swarm(tmp_path: Path) -> None:
    site = trainee(tmp_path, budget=NOISY)
    with pytest.raises(UsageError, match="must be private"):
        audited(site, 1)
    site.close()


def test_an_audit_trains_as_the_swarm_would_and_clips_as_the_charter_says(tmp_path: Path) -> None:
    site = trainee(tmp_path)
    release, _ = site.train(site.records.trained, 2)
    again, _ = site.train(site.records.trained, 2)
    assert all(np.array_equal(one, two) for one, two in zip(release.updates, again.updates, strict=True))
    assert np.array_equal(release.bases[1], release.bases[0] + release.updates[0])
    assert np.linalg.norm(release.updates[0]) < 100
    assert torch.equal(torch.from_numpy(site.initial()), torch.from_numpy(release.bases[0]))
    site.close()

"""A site's update under masks, on files: stretch by stretch what it is in memory, and nowhere that others are served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from node import masked
from node.masked import Masks
from node.storage import BlobStore
from swarm.errors import Reject
from swarm.machine import Digest, MaskUpdate, Unmask
from swarm.masking import masks
from swarm.masking.masks import Mask
from swarm.masking.noise import share
from swarm.masking.ring import Ring, weight_total
from swarm.mixing.average import VALUE_LIMIT
from tests.swarm.masking.members import mean, plain_mean, total_of, update

ELEMENTS = 1_037
BOUND = 100.0
PAIR = bytes(range(32))
OWN = (bytes(32), bytes([1]) * 32)


@pytest.fixture(params=[64, 36, 32])
def ring(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ring:
    monkeypatch.setattr(masked, "STRETCH_ELEMENTS", 100)
    bits: int = request.param
    return Ring.fitting(bits, weight_total=weight_total(bits, 3), clip_norm_milli=100_000)


def form(ring: Ring) -> tuple[int, int, int, int]:
    return ring.bits, ring.fraction, ring.weight_total, ring.room


def worn(member: int) -> tuple[tuple[bytes, bool], ...]:
    return ((OWN[member], True), (PAIR, member == 0))


def site(folder: Path, elements: int = ELEMENTS) -> tuple[BlobStore, Masks]:
    store = BlobStore(folder)
    return store, Masks(store, elements=elements, bound=BOUND)


def kept(store: BlobStore, masks_: Masks, number: int) -> Digest:
    path = store.new_file()
    update(number, ELEMENTS).tofile(path)
    return masks_.set_aside(path).digest


def test_two_masked_updates_end_as_the_plain_mean_of_what_was_rounded(tmp_path: Path, ring: Ring) -> None:
    store, masks_ = site(tmp_path)
    names = []
    for member in (0, 1):
        digest = kept(store, masks_, member)
        said = masks_.mask(MaskUpdate(1, 1, digest, 3 + member, form(ring), worn(member)))
        assert said.masked is not None, said.error
        assert said.size == ring.size(ELEMENTS)
        assert not store.path(said.masked).exists(), "nobody is served before it is let in"
        assert masks_.release(said.masked) is not None
        names.append(said.masked)
        whole = masks.masked(update(member, ELEMENTS), ring, 3 + member, [Mask(*one) for one in worn(member)])
        assert store.path(said.masked).read_bytes() == ring.pack(whole), "stretches are no different from the whole"
        again = masks_.mask(MaskUpdate(1, 1, digest, 3 + member, form(ring), worn(member)))
        assert again.masked == said.masked
    off = tuple((seed, False) for seed in OWN)
    sums = masks_.unmask(Unmask(1, Digest(bytes(32)), tuple(names), 7, form(ring), off))
    base = update(9, ELEMENTS)
    grid = [ring.on_grid(update(member, ELEMENTS)) for member in (0, 1)]
    total = total_of(ring, [masks.masked(one, ring, w, []) for one, w in zip(grid, (3, 4), strict=True)])
    assert np.array_equal(sums, ring.sums(total, 7))
    assert mean(ring, total, base, 7) == plain_mean(grid, base, [3, 4])


def test_masks_that_stay_on_are_no_sum(tmp_path: Path, ring: Ring) -> None:
    store, masks_ = site(tmp_path)
    said = masks_.mask(MaskUpdate(1, 1, kept(store, masks_, 0), 3, form(ring), worn(0)))
    assert said.masked is not None
    masks_.release(said.masked)
    with pytest.raises(Reject, match="sum"):
        masks_.unmask(Unmask(1, Digest(bytes(32)), (said.masked,), 3, form(ring), ()))
    assert not [*tmp_path.rglob("scratch-sum*")]


def test_a_sum_over_the_bound_of_its_weight_is_refused(tmp_path: Path) -> None:
    ring = Ring(bits=64, fraction=32, weight_total=2**20)
    store, masks_ = site(tmp_path, 4)
    path = store.new_file()
    np.full(4, BOUND, np.float32).tofile(path)
    digest = masks_.set_aside(path).digest
    said = masks_.mask(MaskUpdate(1, 1, digest, 1, form(ring), ()))
    assert said.masked is not None
    masks_.release(said.masked)
    assert BOUND < VALUE_LIMIT
    with pytest.raises(Reject, match="over the charter's bound"):
        masks_.unmask(Unmask(1, Digest(bytes(32)), (said.masked,), 1, form(ring), ()))


def test_what_is_lost_or_dropped_is_said_to_be_lost(tmp_path: Path, ring: Ring) -> None:
    store, masks_ = site(tmp_path)
    digest = kept(store, masks_, 0)
    masks_.drop([digest])
    masks_.drop([digest])
    said = masks_.mask(MaskUpdate(1, 1, digest, 3, form(ring), worn(0)))
    assert (said.masked, said.lost) == (None, True)
    assert masks_.release(Digest(bytes(32))) is None
    assert store.listing() == ((), {}) or store.listing() == ([], {})


def test_no_more_is_kept_than_is_of_use(tmp_path: Path, ring: Ring) -> None:
    store, masks_ = site(tmp_path)
    names = [kept(store, masks_, number) for number in range(5)]
    assert len([*(tmp_path / "aside").iterdir()]) == masked.KEPT_MAX
    for attempt in (1, 2):
        assert masks_.mask(MaskUpdate(1, attempt, names[-1], 3, form(ring), worn(0))).masked is not None
    assert [path.name for path in (tmp_path / "aside").glob("scratch-*")] == ["scratch-1-2"]


def test_a_start_leaves_what_was_kept_and_nothing_half_made(tmp_path: Path, ring: Ring) -> None:
    store, masks_ = site(tmp_path)
    digest = kept(store, masks_, 0)
    masks_.mask(MaskUpdate(1, 1, digest, 3, form(ring), worn(0)))
    _, later = site(tmp_path)
    assert [path.name for path in (tmp_path / "aside").iterdir()] == [digest.hex()]
    assert later.mask(MaskUpdate(1, 1, digest, 3, form(ring), worn(0))).masked is not None


def test_noise_is_under_the_masks_and_once_more_the_same_after_a_crash(tmp_path: Path) -> None:
    """In stretches, from files: the sum less the plain one is noise of two sites, and a second try has the same bytes."""
    found = share(
        bits=36,
        heaviest=4,
        total=7,
        members=3,
        clip_norm_milli=100_000,
        elements=ELEMENTS,
        multiplier_milli=500,
        counted_on=2,
    )
    store, masks_ = site(tmp_path)
    sums, names = [], []
    for noisy in (False, True):
        names = []
        for member in (0, 1):
            digest = kept(store, masks_, member)
            noise = (OWN[member][::-1], found.deviation, found.norm_max) if noisy else None
            effect = MaskUpdate(1, 1, digest, 3 + member, form(found.ring), worn(member), noise)
            said = masks_.mask(effect)
            assert said.masked is not None, said.error
            assert Masks(store, elements=ELEMENTS, bound=BOUND).mask(effect).masked == said.masked
            assert masks_.mask(effect).masked == said.masked
            assert masks_.release(said.masked) is not None
            names.append(said.masked)
        off = tuple((seed, False) for seed in OWN)
        limit = found.sum_norm_max(7) if noisy else 0
        effect = Unmask(1, Digest(bytes(32)), tuple(names), 7, form(found.ring), off, limit)
        sums.append(np.array(masks_.unmask(effect)))
    apart = (sums[1] - sums[0]) * 2.0 ** (found.ring.fraction - 32) / found.deviation
    assert abs(apart.var() / 2 - 1) < 6 * (2 / ELEMENTS) ** 0.5
    with pytest.raises(Reject, match="over the charter's bound"):
        masks_.unmask(Unmask(1, Digest(bytes(32)), tuple(names), 7, form(found.ring), off))
    short = MaskUpdate(1, 1, digest, 4, form(found.ring), worn(1), (bytes(32), found.deviation, 10))
    assert "its norm is over the charter's bound" in masks_.mask(short).error

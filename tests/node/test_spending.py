"""What is spent of a budget: durable, in whole numbers that say no less, and stopped at by what cannot be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from node.spending import Charge, Spending, charge, lacking, stretches
from swarm.errors import StoreError
from swarm.privacy.accounting import epsilon


def one(round_: int = 1, noise: float = 1.2345678, rate: float = 1 / 3) -> Charge:
    return charge(ledger="ab" * 8, round_=round_, records=90, rate=rate, noise=noise, steps=7)


def test_whole_numbers_say_no_less_than_what_was_spent() -> None:
    found = one()
    assert (found.rate, found.noise) == (333_333_334, 1_234_567)
    assert found.stretch.rate >= 1 / 3
    assert found.stretch.noise <= 1.2345678
    assert one(rate=1.0).stretch.rate == 1.0


def test_what_was_appended_is_there_in_order_and_nothing_is_of_no_file(tmp_path: Path) -> None:
    spending = Spending(tmp_path / "privacy" / "spent")
    assert spending.charges() == []
    for round_ in (1, 2, 3):
        spending.append(one(round_))
    assert [charge_.round for charge_ in Spending(tmp_path / "privacy" / "spent").charges()] == [1, 2, 3]
    assert (tmp_path / "privacy" / "spent").stat().st_mode & 0o777 == 0o600
    assert epsilon(stretches(spending.charges()), 1e-5) > 0


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_half_a_line_was_never_acknowledged_and_the_next_takes_its_place(tmp_path: Path, cut: int) -> None:
    """As a kill or a power cut in the middle of writing leaves it."""
    path = tmp_path / "spent"
    spending = Spending(path)
    spending.append(one(1))
    spending.append(one(2))
    os.truncate(path, path.stat().st_size - cut)
    assert [charge_.round for charge_ in spending.charges()] == [1]
    spending.append(one(3))
    assert [charge_.round for charge_ in spending.charges()] == [1, 3]


@pytest.mark.parametrize(
    "attack",
    [
        lambda lines: lines[1:],
        lambda lines: [lines[0], lines[2]],
        lambda lines: [lines[0].replace(b'"steps": 7', b'"steps": 1'), *lines[1:]],
        lambda lines: [lines[1], lines[0], lines[2]],
        lambda lines: [*lines, b"garbage\n"],
        lambda lines: [*lines, b"\xff\xfe\n"],
        lambda lines: [b"\n", *lines],
        lambda _: [b"{}\n"],
    ],
)
def test_a_line_that_is_missing_or_changed_or_moved_is_noticed(tmp_path: Path, attack: object) -> None:
    path = tmp_path / "spent"
    spending = Spending(path)
    for round_ in (1, 2, 3):
        spending.append(one(round_))
    path.write_bytes(b"".join(attack(path.read_bytes().splitlines(keepends=True))))  # type: ignore[operator]
    for use in (spending.charges, lambda: spending.append(one(4))):
        with pytest.raises(StoreError, match="couldn't tell what is spent of this site's privacy budget"):
            use()


@pytest.mark.parametrize(
    "body", [{}, [], {"ledger": 1}, "nan", {"steps": -1}, {"steps": True}, {"rate": 2 * 10**9, "x": 1}]
)
def test_a_line_whose_digest_fits_and_that_is_no_charge_is_refused(tmp_path: Path, body: object) -> None:
    import hashlib

    whole = json.loads(json.dumps({"ledger": "ab", "noise": 1, "rate": 1, "records": 1, "round": 1, "steps": 1}))
    text = json.dumps({**whole, **body} if isinstance(body, dict) and body else body, sort_keys=True)
    digest = hashlib.sha256(f" {text}".encode()).hexdigest()[:32]
    (tmp_path / "spent").write_text(f"{text} {digest}\n")
    with pytest.raises(StoreError, match="line 1: it is no charge"):
        Spending(tmp_path / "spent").charges()


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "privacy").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="couldn't open"):
        Spending(tmp_path / "privacy" / "spent").append(one())


def test_a_record_that_was_put_back_as_it_was_lacks_rounds_that_the_ledger_has(tmp_path: Path) -> None:
    path = tmp_path / "spent"
    spending = Spending(path)
    for round_ in (1, 2):
        spending.append(one(round_))
    old = path.read_bytes()
    for round_ in (3, 4):
        spending.append(one(round_))
    assert lacking(spending.charges(), "ab" * 8, [1, 2, 4]) == []  # Round 3 was paid for, and never offered.
    path.write_bytes(old)
    assert lacking(spending.charges(), "ab" * 8, [4, 2, 1]) == [4]
    assert lacking(spending.charges(), "cd" * 8, [1]) == [1]
    assert lacking([], "ab" * 8, []) == []

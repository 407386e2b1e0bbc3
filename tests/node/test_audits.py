"""The record of audits: added to only, told in words, and damage is damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from node.audits import Audits, broken, leaks, lines
from swarm.errors import StoreError
from tests.benchmarks.ledgers import make_ledger
from tests.node.test_cli_ledger import said, written

SPAN = {"low": -0.1, "high": 0.2, "method": "Newcombe"}
READING: dict[str, Any] = {
    "members": 100,
    "others": 150,
    "advantage": 0.05,
    "span": SPAN,
    "area": 0.52,
    "area_span": {"low": 0.44, "high": 0.6, "method": "DeLong"},
    "hits": [
        {"rate": 0.01, "share": 0.02, "interval": {"low": 0.0, "high": 0.07, "method": "Clopper-Pearson"}},
        {"rate": 0.001, "share": None, "interval": None},
    ],
    "found": False,
    "words": "this attack found no leak beyond chance; a better one, or more records, might",
}
ONE: dict[str, Any] = {
    "kind": "before",
    "round": 0,
    "ledger": "ab" * 8,
    "time_ms": 1,
    "delta": 1e-5,
    "membership": READING,
    "canaries": None,
    "epsilon_at_least": 0.4,
    "guesses": {"canaries": 250, "made": 62, "right": 45},
    "epsilon_spent": 2.0,
    "inversion": None,
}


def test_all_audits_are_kept_in_order_and_none_replaces_another(tmp_path: Path) -> None:
    audits = Audits(tmp_path / "privacy" / "audits")
    assert audits.all() == []
    audits.append(ONE)
    audits.append({**ONE, "kind": "offered", "round": 7})
    assert [one["round"] for one in audits.all()] == [0, 7]
    assert all(one["version"] == 1 for one in audits.all())


def test_an_audit_that_was_taken_out_or_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "audits"
    audits = Audits(path)
    for round_ in (1, 2, 3):
        audits.append({**ONE, "round": round_})
    whole = path.read_bytes().splitlines(keepends=True)
    for attack in (whole[1:], [whole[0], whole[2]], [whole[0].replace(b"0.05", b"0.01"), *whole[1:]], [b"junk\n"]):
        path.write_bytes(b"".join(attack))
        with pytest.raises(StoreError, match="couldn't read this site's audits"):
            audits.all()


@pytest.mark.parametrize("wrong", [[], {}, {**ONE, "kind": "other"}, {**ONE, "membership": 3}, "text", 1])
def test_a_line_that_is_no_audit_is_refused_though_its_digest_fits(tmp_path: Path, wrong: object) -> None:
    import hashlib
    import json

    body = json.dumps(wrong)
    digest = hashlib.sha256(f" {body}".encode()).hexdigest()[:32]
    (tmp_path / "audits").write_text(f"{body} {digest}\n")
    with pytest.raises(StoreError, match="line 1: it is no audit"):
        Audits(tmp_path / "audits").all()


def test_words_say_intervals_what_could_not_be_told_and_never_safe() -> None:
    text = "\n".join(lines(ONE))
    for words in (
        "advantage 0.050 (-0.100 to 0.200)",
        "area under the curve 0.520 (0.440 to 0.600)",
        "at 1.0% false alarms 2.0% are found (0.000 to 0.070",
        "at 0.1% false alarms nothing can be told: that takes 1000",
        "at least 0.40 at delta 1e-05, with 95 % confidence: 45 of 62 guesses",
        "they do not contradict each other, which proves neither",
        "inversion    not tried",
    ):
        assert words in text
    assert "safe" not in text


def test_a_bound_above_the_account_is_a_broken_promise_and_leaks_have_names() -> None:
    assert not broken(ONE)
    assert leaks(ONE) == []
    worse = {**ONE, "epsilon_at_least": 2.5, "membership": {**READING, "found": True}}
    assert broken(worse)
    assert leaks(worse) == ["membership"]
    assert "THE ACCOUNT SAYS 2.000: the promise is broken" in "\n".join(lines(worse))
    assert not broken({**worse, "epsilon_spent": None})


def test_a_card_tells_all_audits_of_its_ledger_and_without_any_is_as_everywhere(tmp_path: Path) -> None:
    signed, payloads, _ = make_ledger(members=3, rounds=2)
    site, target = written(tmp_path / "site", payloads, signed=signed), tmp_path / "card.md"
    said("ledger", "card", site, "-o", target)
    before = target.read_text()
    assert "Attacks on one site's updates" not in before
    audits, ledger = Audits(site / "privacy" / "audits"), signed.ledger_id.hex()[:16]
    audits.append({**ONE, "ledger": ledger})
    audits.append({**ONE, "ledger": ledger, "kind": "offered", "round": 2, "membership": {**READING, "found": True}})
    audits.append({**ONE, "ledger": "cd" * 8, "round": 9})
    said("ledger", "card", site, "-o", target)
    text = target.read_text()
    assert "| trained to be attacked | 0.050 (-0.100 to 0.200) | none by these attacks |" in text
    assert "| round 2, as offered | 0.050 (-0.100 to 0.200) | membership |" in text
    assert "round 9" not in text
    assert "An attack that finds nothing proves nothing" in text
    start, end = text.index("## Attacks"), text.index("## Work that was taken back")
    assert text[:start] + text[end:] == before

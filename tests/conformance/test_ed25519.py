"""Ed25519 where implementations disagree: the 914 edge cases of C2SP/CCTV and the 151 tests of Wycheproof.

Two verifiers that differ on one signature can be driven to two ledgers, so the rule is strict and the same for
everybody: the key is a canonical point of the prime-order group (`admissible`), R is not the identity, and libsodium's
cofactorless equation holds. Of the 914 one remains, the one that is no edge case.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from swarm.identity import SigningKey, admissible, verify
from tests.conformance import curve

VECTORS = Path(__file__).parents[1] / "vectors"
CCTV = json.loads((VECTORS / "cctv-ed25519.json").read_text())
WYCHEPROOF = json.loads((VECTORS / "wycheproof-ed25519.json").read_text())
RFC8032 = json.loads((VECTORS / "rfc8032.json").read_text())["tests"]

IDENTITY = b"\x01" + bytes(31)


@dataclass(frozen=True, slots=True)
class Case:
    """One edge case of CCTV."""

    key: bytes
    r: bytes
    s: bytes
    message: bytes
    flags: frozenset[str]

    @property
    def signature(self) -> bytes:
        return self.r + self.s

    @property
    def accepted(self) -> bool:
        """By the rule of this ledger: an admitted key, and a signature that verifies."""
        return admissible(self.key) and verify(self.key, self.message, self.signature)


def case(key: int, r: int, s: int, message: int, flags: int) -> Case:
    text = "ed25519vectors" if message < 0 else f"ed25519vectors {message}"
    named = frozenset(flag for bit, flag in enumerate(CCTV["flags"]) if flags >> bit & 1)
    return Case(*(bytes.fromhex(CCTV[k][n]) for k, n in (("keys", key), ("r", r), ("s", s))), text.encode(), named)


CASES = [case(*row) for row in CCTV["vectors"]]


def point(data: bytes) -> curve.Point:
    found = curve.decompressed(data)
    assert found is not None
    return found


def described(data: bytes, which: str) -> set[str]:
    """The flags that the encoding of a point earns, by plain arithmetic."""
    there = point(data)
    found = set()
    if curve.times(8, there) == curve.NEUTRAL:
        found.add(f"low_order_{which}")
    if curve.times(curve.L, there) != curve.NEUTRAL:
        found.add(f"low_order_component_{which}")
    if curve.compressed(there) != data:
        found.add(f"non_canonical_{which}")
    return found


def test_the_table_is_whole() -> None:
    assert len(CASES) == len(set(CASES)) == 914
    counted = Counter(flag for c in CASES for flag in c.flags)
    assert set(counted) == set(CCTV["flags"])
    assert sum(not c.flags for c in CASES) == 1


def test_the_flags_say_of_every_point_what_plain_arithmetic_says() -> None:
    keys = {data: described(data, "A") for data in {c.key for c in CASES}}
    points = {data: described(data, "R") for data in {c.r for c in CASES}}
    for c in CASES:
        assert c.flags - {"low_order_residue", "reencoded_k"} == keys[c.key] | points[c.r]


def test_a_key_is_admitted_exactly_when_it_is_canonical_and_of_prime_order() -> None:
    for data in {c.key for c in CASES}:
        assert admissible(data) == (not described(data, "A"))


def test_exactly_one_of_914_edge_cases_is_accepted_and_it_is_the_one_without_an_edge() -> None:
    assert sum(not admissible(c.key) for c in CASES) == 886
    (accepted,) = [c for c in CASES if c.accepted]
    assert accepted.flags == frozenset()


def test_of_the_28_with_an_admitted_key_each_refusal_has_its_reason() -> None:
    reasons = Counter()
    for c in CASES:
        if not admissible(c.key) or c.accepted:
            continue
        exact = curve.holds(c.key, c.message, c.signature, cofactored=False)
        # Whoever multiplies by the cofactor, as batch verification must, would accept all but the re-encoded ones.
        assert curve.holds(c.key, c.message, c.signature, cofactored=True) or "reencoded_k" in c.flags
        if c.r == IDENTITY:
            assert exact
            reasons["R is the identity"] += 1
        elif "non_canonical_R" in c.flags:
            reasons["R is not canonical"] += 1
        else:
            assert not exact
            assert "low_order_component_R" in c.flags
            reasons["only the cofactored equation holds"] += 1
    assert sum(reasons.values()) == 27
    assert reasons["R is the identity"] == 1
    assert len(reasons) == 3


def wycheproof() -> list[object]:
    rows = []
    for group in WYCHEPROOF["groups"]:
        for number, what, message, signature, valid in group["tests"]:
            name = f"{number} {what}".strip()
            rows.append(pytest.param(group["key"], message, signature, valid, id=name))
    return rows


def test_the_wycheproof_table_is_whole() -> None:
    tests = [test for group in WYCHEPROOF["groups"] for test in group["tests"]]
    assert [test[0] for test in tests] == list(range(1, 152))
    assert sum(test[-1] for test in tests) == 88


@pytest.mark.parametrize(("key", "message", "signature", "valid"), wycheproof())
def test_wycheproof(key: str, message: str, signature: str, valid: bool) -> None:
    public = bytes.fromhex(key)
    assert admissible(public)
    assert verify(public, bytes.fromhex(message), bytes.fromhex(signature)) == valid


@pytest.mark.parametrize("vector", RFC8032, ids=["test 1", "test 2", "test 3"])
def test_the_plain_arithmetic_signs_as_rfc_8032_and_as_the_product(vector: dict[str, str]) -> None:
    seed, message = bytes.fromhex(vector["seed"]), bytes.fromhex(vector["message"])
    assert curve.public_key(seed).hex() == SigningKey.from_seed(seed).public.hex() == vector["public"]
    assert curve.sign(seed, message).hex() == SigningKey.from_seed(seed).sign(message).hex() == vector["signature"]


def test_a_signer_can_make_two_signatures_of_one_message_and_an_id_must_not_cover_them() -> None:
    # The reason why an entry's id leaves its signature out: another nonce, another valid signature.
    seed, message = bytes(range(32)), b"one message"
    secret, _ = curve.expanded(seed)
    key = curve.public_key(seed)
    made = set()
    for nonce in (5, 7):
        r = curve.compressed(curve.times(nonce, curve.BASE))
        s = (nonce + curve.challenge(r, key, message) * secret) % curve.L
        made.add(r + s.to_bytes(32, "little"))
    assert len(made) == 2
    assert all(verify(key, message, signature) for signature in made)

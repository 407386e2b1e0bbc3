"""Which keys may enter, which signatures count, and what one seed becomes. Curve arithmetic here is from RFC 8032."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import pytest
from nacl import bindings

from swarm import identity
from swarm.errors import Reject
from swarm.identity import Identity, SigningKey, admissible, derive, node_id, require, verify
from swarm.ledger import block

RFC8032 = json.loads((Path(__file__).parents[1] / "vectors" / "rfc8032.json").read_text())["tests"]

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P

DOMAINS = {
    "card": identity.DOMAIN_CARD,
    "charter": identity.DOMAIN_CHARTER,
    "entry": identity.DOMAIN_ENTRY,
    "vote": identity.DOMAIN_VOTE,
    "propose": identity.DOMAIN_PROPOSE,
    "node": identity.DOMAIN_NODE,
}

# Every encoding of the eight points whose order divides 8, those that are not canonical (y >= p, or minus zero) too.
SMALL_ORDER = {
    "identity": "0100000000000000000000000000000000000000000000000000000000000000",
    "identity, x = -0": "0100000000000000000000000000000000000000000000000000000000000080",
    "identity, y = p + 1": "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "identity, y = p + 1, x = -0": "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "order 2": "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "order 2, x = -0": "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "order 4": "0000000000000000000000000000000000000000000000000000000000000000",
    "order 4, the other": "0000000000000000000000000000000000000000000000000000000000000080",
    "order 4, y = p": "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "order 4, y = p, the other": "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "order 8, first": "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "order 8, second": "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "order 8, third": "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "order 8, fourth": "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
}

Point = tuple[int, int]


def add(a: Point, b: Point) -> Point:
    """Affine addition on the twisted Edwards curve -x² + y² = 1 + d x² y²."""
    (x1, y1), (x2, y2) = a, b
    product = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P
    return x, y


def eightfold(point: Point) -> Point:
    for _ in range(3):
        point = add(point, point)
    return point


def pressed(point: Point) -> bytes:
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def unpressed(data: bytes) -> Point:
    """Decode leniently: y is reduced, and minus zero is zero."""
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, (number & (2**255 - 1)) % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    assert (x * x - square) % P == 0
    return (P - x) % P if x & 1 != sign else x, y


def key(number: int) -> SigningKey:
    return SigningKey.from_seed(hashlib.sha256(b"key%d" % number).digest())


def scalar(seed: bytes) -> int:
    """The secret scalar of a seed, clamped (RFC 8032 section 5.1.5)."""
    clamped = bytearray(hashlib.sha512(seed).digest()[:32])
    clamped[0] &= 248
    clamped[31] = clamped[31] & 127 | 64
    return int.from_bytes(clamped, "little")


@pytest.mark.parametrize("vector", RFC8032, ids=["test 1", "test 2", "test 3"])
def test_signatures_are_those_of_rfc_8032(vector: dict[str, str]) -> None:
    signing = SigningKey.from_seed(bytes.fromhex(vector["seed"]))
    message, signature = bytes.fromhex(vector["message"]), bytes.fromhex(vector["signature"])
    assert signing.public.hex() == vector["public"]
    assert signing.sign(message) == signature
    assert verify(signing.public, message, signature)
    assert admissible(signing.public)


def test_a_signature_does_not_survive_a_changed_bit_anywhere() -> None:
    signing, message = key(1), b"a message"
    signature = signing.sign(message)
    for bit in range(8 * len(signature)):
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        assert not verify(signing.public, message, bytes(changed))
    for bit in range(8 * len(message)):
        other = bytearray(message)
        other[bit // 8] ^= 1 << bit % 8
        assert not verify(signing.public, bytes(other), signature)
    assert not verify(key(2).public, message, signature)


@pytest.mark.parametrize("length", [0, 1, 31, 32, 63, 65, 128])
def test_a_signature_of_another_length_is_refused_without_an_exception(length: int) -> None:
    signing = key(1)
    assert not verify(signing.public, b"m", (signing.sign(b"m") * 2)[:length])


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_a_key_of_another_length_is_refused_without_an_exception(length: int) -> None:
    signing = key(1)
    wrong = (signing.public * 2)[:length]
    assert not admissible(wrong)
    assert not verify(wrong, b"m", signing.sign(b"m"))


def test_bytes_may_not_move_from_the_message_into_the_signature() -> None:
    signing = key(1)
    signature = signing.sign(b"message")
    assert not verify(signing.public, b"essage", signature + b"m")
    assert not verify(signing.public, signature[-1:] + b"message", signature[:-1])


@pytest.mark.parametrize("encoding", SMALL_ORDER.values(), ids=SMALL_ORDER.keys())
def test_no_encoding_of_a_small_order_point_is_admitted(encoding: str) -> None:
    data = bytes.fromhex(encoding)
    assert eightfold(unpressed(data)) == (0, 1)  # the list is what it says it is
    assert not admissible(data)


def test_the_small_order_list_names_all_eight_points() -> None:
    assert len({unpressed(bytes.fromhex(encoding)) for encoding in SMALL_ORDER.values()}) == 8


@pytest.mark.parametrize("encoding", SMALL_ORDER.values(), ids=SMALL_ORDER.keys())
def test_a_small_order_key_signs_nothing(encoding: str) -> None:
    # With A of order 8 and S = 0, R = -kA has small order too: one of the eight would pass a lax verifier.
    data = bytes.fromhex(encoding)
    for r in SMALL_ORDER.values():
        assert not verify(data, b"anything", bytes.fromhex(r) + bytes(32))


def test_a_key_with_a_small_order_component_is_not_admitted() -> None:
    good = unpressed(key(1).public)
    for encoding in SMALL_ORDER.values():
        torsion = unpressed(bytes.fromhex(encoding))
        assert admissible(pressed(add(good, torsion))) == (torsion == (0, 1))


def test_bytes_that_are_no_point_or_not_canonical_are_not_admitted() -> None:
    assert not admissible((2).to_bytes(32, "little"))  # y = 2 is on no point
    for y in range(P, 2**255):  # the 19 values of y with a second spelling
        assert not admissible(y.to_bytes(32, "little"))
        assert not admissible((y | 1 << 255).to_bytes(32, "little"))


def test_a_signature_whose_r_is_the_identity_is_refused_though_its_equation_holds() -> None:
    seed, message = hashlib.sha256(b"key1").digest(), b"m"
    public, r = key(1).public, bytes.fromhex(SMALL_ORDER["identity"])
    k = int.from_bytes(hashlib.sha512(r + public + message).digest(), "little") % L
    s = (k * scalar(seed) % L).to_bytes(32, "little")
    ka = bindings.crypto_scalarmult_ed25519_noclamp(k.to_bytes(32, "little"), public)
    assert bindings.crypto_scalarmult_ed25519_base_noclamp(s) == ka  # S·B = R + k·A, with R the neutral element
    assert not verify(public, message, r + s)


def test_a_signature_whose_s_is_not_reduced_is_refused() -> None:
    signing = key(1)
    signature = signing.sign(b"m")
    s = int.from_bytes(signature[32:], "little")
    for multiple in range(1, 16):
        if s + multiple * L < 2**256:
            assert not verify(signing.public, b"m", signature[:32] + (s + multiple * L).to_bytes(32, "little"))
    assert s < L


def test_every_signature_names_its_purpose_and_no_purpose_begins_another() -> None:
    for name, domain in DOMAINS.items():
        assert domain == f"swarm-ledger/{name}/v1\0".encode()
    prefixes = [*DOMAINS.values(), b"swarm-ledger/header/v1\0"]
    for a, b in itertools.permutations(prefixes, 2):
        assert not a.startswith(b)


def test_a_signature_for_one_purpose_is_none_for_another() -> None:
    signing, body = key(1), bytes(32) + b"the same bytes"
    for made, checked in itertools.product(DOMAINS.values(), repeat=2):
        assert verify(signing.public, checked + body, signing.sign(made + body)) == (made == checked)


def test_a_vote_and_a_proposal_carry_their_domain_and_ledger() -> None:
    ledger = b"\x11" * 32
    vote = block.vote_message(ledger, 0, 1, block.NOTARIZE, bytes(32))
    assert vote.startswith(b"swarm-ledger/vote/v1\0" + ledger)
    assert block.propose_message(ledger, b"header") == b"swarm-ledger/propose/v1\0" + ledger + b"header"


def test_derivation_is_hkdf_sha256_with_an_empty_salt() -> None:
    # RFC 5869 appendix A.3: 22 bytes of 0x0b, no salt, no info; the first 32 of its 42 bytes of output.
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert derive(b"\x0b" * 22, b"").hex() == expected


def test_each_info_derives_another_key() -> None:
    seed = bytes(range(32))
    infos = (b"swarm/id/v1", b"swarm/vote/v1", b"swarm/cosign/v1", b"swarm/curve/v1", b"")
    assert len({derive(seed, info) for info in infos}) == len(infos)
    for at in range(32):
        other = seed[:at] + bytes([seed[at] ^ 1]) + seed[at + 1 :]
        assert derive(other, b"x") != derive(seed, b"x")


def test_an_identity_is_its_two_seeds() -> None:
    seed, curve_seed = bytes(range(32)), bytes(range(32, 64))
    who = Identity.from_seed(seed, curve_seed)
    assert who == Identity.from_seed(seed, curve_seed)
    assert who.id_key == SigningKey.from_seed(derive(seed, b"swarm/id/v1"))
    assert who.vote_key == SigningKey.from_seed(derive(seed, b"swarm/vote/v1"))
    assert who.cosign_key == SigningKey.from_seed(derive(seed, b"swarm/cosign/v1"))
    assert who.curve_secret == derive(curve_seed, b"swarm/curve/v1")
    assert who.curve_public == bindings.crypto_scalarmult_base(who.curve_secret)
    keys = (who.id_key.public, who.vote_key.public, who.cosign_key.public)
    assert len(set(keys)) == 3
    assert all(admissible(public) for public in keys)


def test_a_new_transport_seed_changes_the_transport_key_and_nothing_else() -> None:
    seed = bytes(range(32))
    a, b = Identity.from_seed(seed, bytes(32)), Identity.from_seed(seed, b"\x01" * 32)
    assert (a.node, a.id_key, a.vote_key, a.cosign_key) == (b.node, b.id_key, b.vote_key, b.cosign_key)
    assert a.curve_public != b.curve_public


@pytest.mark.parametrize(("seed", "curve"), [(31, 32), (32, 31), (33, 32), (0, 0), (64, 32)])
def test_a_seed_of_another_length_is_no_identity(seed: int, curve: int) -> None:
    with pytest.raises(ValueError, match="two seeds of 32 bytes"):
        Identity.from_seed(bytes(seed), bytes(curve))


def test_a_node_is_named_by_the_hash_of_its_founding_key() -> None:
    who = Identity.from_seed(bytes(range(32)), bytes(32))
    assert who.node == node_id(who.id_key.public)
    assert who.node == hashlib.sha256(b"swarm-ledger/node/v1\0" + who.id_key.public).digest()


def test_no_representation_shows_a_secret() -> None:
    who = Identity.from_seed(bytes(range(32)), bytes(range(32, 64)))
    secrets = [who.curve_secret, *(k._secret for k in (who.id_key, who.vote_key, who.cosign_key))]
    shown = [f"{who!r}{who!s}{who}{[who]}", *(f"{k!r}{k!s}{[k]}" for k in (who.id_key, who.vote_key, who.cosign_key))]
    for text, secret in itertools.product(shown, secrets):
        for piece in (secret[:32], secret[:8]):
            assert piece.hex() not in text
            assert repr(piece)[2:-1] not in text
    assert repr(who) == f"Identity({who.node.hex()[:12]}…)"
    assert repr(who.id_key) == f"SigningKey({who.id_key.public.hex()[:12]}…)"


def test_require_names_what_it_refuses() -> None:
    signing = key(1)
    require(signing.public, b"m", signing.sign(b"m"), "the card of site-1")
    with pytest.raises(Reject, match="couldn't accept the card of site-1: its signature does not verify"):
        require(signing.public, b"n", signing.sign(b"m"), "the card of site-1")

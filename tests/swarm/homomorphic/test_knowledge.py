"""Who offers ciphertexts has to know what is in them; without that, sums tell a member's update to another."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import Reject
from swarm.homomorphic import integers, knowledge
from tests.swarm.homomorphic.keys import draw, encryptor, secret

KEY = secret().public
N = int(KEY.n)


def offered(numbers: list[int], context: bytes = b"me, here") -> tuple[bytes, list[int], bytes]:
    """What travels: bytes of the ciphertexts, the same as numbers, the proof."""
    one = encryptor()
    exponents = one.exponents(len(numbers))
    ciphertexts = one.encrypt_with(numbers, exponents)
    data = integers.many_to_bytes(ciphertexts, KEY.ciphertext_bytes)
    return data, ciphertexts, knowledge.prove(one, context, data, ciphertexts, numbers, exponents, draw(5))


def refuses(context: bytes, data: bytes, ciphertexts: list[int], proof: bytes) -> None:
    with pytest.raises(Reject, match="no proof that who offers them knows"):
        knowledge.check(KEY, context, data, ciphertexts, proof)


@settings(max_examples=20)
@given(st.lists(st.integers(0, N - 1), min_size=1, max_size=12))
def test_who_knows_can_prove_it(numbers: list[int]) -> None:
    data, ciphertexts, proof = offered(numbers)
    assert len(proof) == knowledge.proof_bytes(KEY)
    knowledge.check(KEY, b"me, here", data, ciphertexts, proof)


def test_a_proof_is_for_one_author_and_occasion() -> None:
    data, ciphertexts, proof = offered([1, 2, 3])
    refuses(b"another, here", data, ciphertexts, proof)
    refuses(b"me, there", data, ciphertexts, proof)


def test_what_was_computed_from_others_ciphertexts_is_refused() -> None:
    """A copy, one made to look new, the double, and what cancels another in a sum: all but the copy with its own bytes."""
    data, ciphertexts, proof = offered([5, 6])
    copied, doubled = [*ciphertexts], [KEY.multiply(one, 2) for one in ciphertexts]
    anew, opposite = (
        encryptor().rerandomise(ciphertexts),
        [KEY.multiply(one, -1) for one in ciphertexts],
    )
    assert [int(secret().decrypt(one)) for one in opposite] == [N - 5, N - 6]
    refuses(b"thief", data, copied, proof)
    for made in (doubled, anew, opposite, [ciphertexts[0], anew[1]], ciphertexts[::-1]):
        refuses(b"me, here", integers.many_to_bytes(made, KEY.ciphertext_bytes), made, proof)


def test_not_knowing_one_number_of_many_is_noticed() -> None:
    one = encryptor()
    _, (stolen,), _ = offered([99])
    numbers, exponents = [1, 2, 99], one.exponents(3)
    ciphertexts = [*one.encrypt_with([1, 2], exponents[:2]), stolen]
    data = integers.many_to_bytes(ciphertexts, KEY.ciphertext_bytes)
    refuses(b"x", data, ciphertexts, knowledge.prove(one, b"x", data, ciphertexts, numbers, exponents, draw(1)))


def test_damaged_proofs_and_proofs_of_another_shape_are_refused() -> None:
    data, ciphertexts, proof = offered([7])
    size = KEY.bits // 8
    z, y = proof[16:-size], proof[-size:]
    for wrong in (
        b"",
        proof[:-1],
        proof + b"\0",
        bytes(len(proof)),
        b"\xff" * len(proof),
        bytes([proof[0] ^ 1]) + proof[1:],
        proof[:16] + integers.to_bytes(N, size) + y,
        proof[:16] + z + bytes(size),
        proof[:16] + z + integers.to_bytes(secret().p, size),
        proof[:16] + z + integers.to_bytes(N - integers.from_bytes(y), size),
    ):
        refuses(b"me, here", data, ciphertexts, wrong)


def test_a_proof_has_one_spelling() -> None:
    """z and z + n answer alike, where the latter has room: only one of them is a proof."""
    size = KEY.bits // 8
    for number in range(100):
        data, ciphertexts, proof = offered([number])
        z = integers.from_bytes(proof[16:-size])
        if (z + N).bit_length() <= 8 * size:
            refuses(b"me, here", data, ciphertexts, proof[:16] + integers.to_bytes(z + N, size) + proof[-size:])
            return
    raise AssertionError("n is as long as its bytes, but not so close to their end")

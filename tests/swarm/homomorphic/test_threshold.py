"""Any threshold of holders read a ciphertext, fewer do not, and who answers falsely is named."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import codec
from swarm.errors import Reject, UsageError
from swarm.homomorphic import integers
from swarm.homomorphic.threshold import HOLDERS_MAX, KeyShare, SharedKey, deal
from tests.swarm.homomorphic.keys import draw, encryptor, node, secret, shared, textbook

N = int(secret().public.n)
HERE = b"this sum"


def decrypted(
    key: SharedKey, shares: tuple[KeyShare, ...], places: tuple[int, ...], ciphertexts: list[int]
) -> list[int]:
    given_ = {place: shares[place - 1].decrypt(HERE, ciphertexts, draw(place))[0] for place in places}
    return [int(number) for number in key.combine(given_)]


def test_any_threshold_of_holders_read_what_the_textbook_reads() -> None:
    key, shares = shared(5, 3)
    numbers = [0, 1, N - 1, 12_345]
    ciphertexts = encryptor().encrypt(numbers)
    assert [textbook(secret()).decrypt(c) for c in ciphertexts] == numbers
    for places in itertools.combinations(range(1, 6), 3):
        assert decrypted(key, shares, places, ciphertexts) == numbers


@settings(max_examples=15)
@given(st.integers(1, 7), st.integers(0, 6), st.integers(0, N - 1), st.randoms(use_true_random=False))
def test_so_it_is_with_any_number_of_holders(threshold: int, spare: int, number: int, rng: random.Random) -> None:
    key, shares = shared(threshold + spare, threshold)
    places = tuple(rng.sample(range(1, threshold + spare + 1), threshold))
    assert decrypted(key, shares, places, encryptor().encrypt([number])) == [number]


def test_shares_are_what_the_paper_says() -> None:
    """c**(2 D s_i), v_i = v**(D s_i), and s_i on a polynomial with d = 0 modulo m and 1 modulo n at 0; with `pow`."""
    key, shares = shared(4, 2)
    p, q, n2 = int(secret().p), int(secret().q), N * N
    order = N * (p - 1) // 2 * (q - 1) // 2
    one, two, three, _ = (int(share.secret) for share in shares)
    d = (2 * one - two) % order
    assert (three - one) % order == 2 * (two - one) % order, "on a line"
    assert (d % N, d % ((p - 1) // 2 * (q - 1) // 2)) == (1, 0)
    assert [pow(int(key.base), 24 * int(share.secret), n2) for share in shares] == [*key.proven]
    ciphertext = int(encryptor().encrypt([5])[0])
    made, _ = shares[2].decrypt(HERE, [ciphertext], draw(1))
    assert made == (pow(ciphertext, 2 * 24 * three, n2),)


def test_fewer_holders_than_it_takes_read_nothing_and_more_do_no_harm() -> None:
    key, shares = shared(5, 3)
    ciphertexts = encryptor().encrypt([77])
    with pytest.raises(Reject, match="2 holders have answered, it takes 3"):
        decrypted(key, shares, (1, 4), ciphertexts)
    assert decrypted(key, shares, (1, 2, 3, 4, 5), ciphertexts) == [77]


def test_two_of_three_put_together_as_if_they_were_enough_give_no_number() -> None:
    key, shares = shared(5, 3)
    taken = {place: shares[place - 1].decrypt(HERE, encryptor().encrypt([77]), draw(1))[0] for place in (1, 4)}
    # Believing the threshold to be 2: what comes out is no power of 1 + n.
    wrong = SharedKey(key.public, 2, key.base, key.holders, key.proven)
    with pytest.raises(Reject, match="do not belong together"):
        wrong.combine(taken)


def test_a_right_share_proves_itself() -> None:
    key, shares = shared(5, 3)
    for count in (1, 2, 9):
        ciphertexts = encryptor().encrypt(range(count))
        for share in shares:
            made, proof = share.decrypt(HERE, ciphertexts, draw(4))
            assert len(proof) == key.proof_bytes
            key.check_share(share.place, HERE, ciphertexts, made, proof)


def test_a_false_share_is_found_wherever_it_is() -> None:
    key, shares = shared(5, 3)
    ciphertexts = encryptor().encrypt(range(6))
    made, proof = shares[1].decrypt(HERE, ciphertexts, draw(4))
    n2 = N * N
    for at in range(6):
        for wrong in (made[at] * 2 % n2, made[at] * (1 + N) % n2, pow(int(made[at]), 3, n2), made[at - 1], 1):
            told = (*made[:at], wrong, *made[at + 1 :])
            with pytest.raises(Reject, match=f"shares of {node(1).hex()[:8]}: their proof does not hold"):
                key.check_share(2, HERE, ciphertexts, told, proof)
        with pytest.raises(Reject, match="none under this key"):
            key.check_share(2, HERE, ciphertexts, (*made[:at], 0, *made[at + 1 :]), proof)
    swapped = (made[1], made[0], *made[2:])
    with pytest.raises(Reject, match="does not hold"):
        key.check_share(2, HERE, ciphertexts, swapped, proof)


def test_a_proof_is_for_one_holder_one_occasion_and_these_numbers() -> None:
    key, shares = shared(5, 3)
    ciphertexts = encryptor().encrypt(range(3))
    made, proof = shares[1].decrypt(HERE, ciphertexts, draw(4))
    key.check_share(2, HERE, ciphertexts, made, proof)
    other = [*encryptor().encrypt([9]), *ciphertexts[1:]]
    for place, context, numbers in ((2, b"that sum", ciphertexts), (3, HERE, ciphertexts), (2, HERE, other)):
        with pytest.raises(Reject, match="does not hold"):
            key.check_share(place, context, numbers, made, proof)
    for damaged in (proof[:-1] + bytes([proof[-1] ^ 1]), bytes([proof[0] ^ 1]) + proof[1:], bytes(len(proof))):
        with pytest.raises(Reject, match="does not hold"):
            key.check_share(2, HERE, ciphertexts, made, damaged)
    for shape in (proof[:-1], proof + b"\0", b""):
        with pytest.raises(Reject, match="another number"):
            key.check_share(2, HERE, ciphertexts, made, shape)
    with pytest.raises(Reject, match="another number"):
        key.check_share(2, HERE, ciphertexts, made[:-1], proof)


def test_a_proof_tells_no_more_of_the_share_than_its_length_hides() -> None:
    """z = r + e D s with r 256 bits longer: over many proofs of one share its high bits are those of r, all different."""
    key, shares = shared(5, 3)
    ciphertexts = encryptor().encrypt([1])
    tops = {shares[0].decrypt(HERE, ciphertexts, draw(seed))[1][16:32] for seed in range(50)}
    assert len(tops) == 50
    bits = int(shares[0].secret * key.factorial).bit_length()
    assert 8 * (key.proof_bytes - 16) >= bits + 256


def test_a_source_that_repeats_itself_tells_nothing_of_a_share() -> None:
    """With one r in two proofs, (z - z') / (e - e') would be D s. The same bytes drawn make other r for other sums."""
    key, shares = shared(5, 3)
    proofs = [shares[0].decrypt(HERE, encryptor().encrypt([number]), bytes)[1] for number in (1, 2)]
    (e, z), (e2, z2) = ((int.from_bytes(p[:16], "big"), int.from_bytes(p[16:], "big")) for p in proofs)
    exponent = int(key.factorial * shares[0].secret)
    assert z - e * exponent != z2 - e2 * exponent


def test_a_consortium_key_is_read_by_each_holder_alone() -> None:
    key, shares = shared(4, 1)
    ciphertexts = encryptor().encrypt([5])
    for place in range(1, 5):
        assert decrypted(key, shares, (place,), ciphertexts) == [5]
    assert len({int(share.secret) for share in shares}) == 1


def test_a_share_that_the_key_does_not_have_is_refused_by_its_holder() -> None:
    key, shares = shared(5, 3)
    for wrong in ((1, shares[1].secret), (1, shares[0].secret + 1), (0, shares[0].secret), (6, 5), (1, -1)):
        with pytest.raises(UsageError, match="not the one that the key has"):
            KeyShare(key, *wrong)
    assert str(int(shares[0].secret)) not in repr(shares[0])


def test_keys_and_shares_travel_in_bytes_of_one_spelling() -> None:
    key, shares = shared(5, 3)
    again = SharedKey.from_bytes(key.to_bytes(), test_only=True)
    assert (again, again.digest) == (key, key.digest)
    for share in shares:
        assert KeyShare.from_bytes(share.to_bytes(), again) == share
    with pytest.raises(Reject, match="256 bits"):
        SharedKey.from_bytes(key.to_bytes())
    with pytest.raises(Reject, match="of another key"):
        KeyShare.from_bytes(shares[0].to_bytes(), shared(5, 2)[0])


def test_no_key_is_made_of_what_is_none() -> None:
    key, _ = shared(3, 2)
    size = key.public.ciphertext_bytes
    base = integers.to_bytes(key.base, size)
    holders = [[bytes(name), integers.to_bytes(one, size)] for name, one in zip(key.holders, key.proven, strict=True)]
    public = key.public.to_bytes()

    fields = {"version": 1, "public": public, "threshold": 2, "base": base, "holders": holders}

    def bytes_of(**changed: object) -> bytes:
        return codec.encode(tuple({**fields, **changed}.values()))

    assert bytes_of() == key.to_bytes()
    for wrong in (
        bytes_of(version=2),
        bytes_of(public=public[:-1]),
        bytes_of(threshold=0),
        bytes_of(threshold=-1),
        bytes_of(threshold=4),
        bytes_of(base=base[1:]),
        bytes_of(base=bytes(size)),
        bytes_of(base=bytes(size - 1) + b"\1"),
        bytes_of(base=integers.to_bytes(N, size)),
        bytes_of(holders=[]),
        bytes_of(holders=[holders[0], holders[0], holders[1]]),
        bytes_of(holders=[[b"x", holders[0][1]], *holders[1:]]),
        bytes_of(holders=[[holders[0][0], bytes(size)], *holders[1:]]),
        bytes_of(holders=holders * 40),
        b"",
        key.to_bytes()[:-1],
    ):
        with pytest.raises(Reject):
            SharedKey.from_bytes(wrong, test_only=True)


def test_there_are_holders_and_a_threshold_among_them_or_no_key_is_dealt() -> None:
    nodes = [node(number) for number in range(HOLDERS_MAX + 1)]
    for holders, threshold in ((nodes[:3], 0), (nodes[:3], 4), ([], 0), (nodes, 3)):
        with pytest.raises(UsageError, match=f"couldn't share a key: {threshold} of {len(holders)}"):
            deal(secret(), holders, threshold, draw(1))
    with pytest.raises(UsageError, match="named twice"):
        deal(secret(), [nodes[0], nodes[1], nodes[0]], 2, draw(1))


def test_weights_of_shares_are_whole_numbers() -> None:
    key, _ = shared(7, 4)
    for places in itertools.combinations(range(1, 8), 4):
        found = [key._lagrange(place, places) for place in places]
        assert sum(found) == math.factorial(7), "of a constant the value anywhere is its value at 0"
        assert sum(w * place**3 for w, place in zip(found, places, strict=True)) == 0

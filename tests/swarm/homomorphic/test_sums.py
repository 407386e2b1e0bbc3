"""Encrypted updates sum to the bytes that masked ones sum to, whoever is there; and to nothing for who cheats."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import codec
from swarm.errors import LedgerError, Reject, UsageError
from swarm.homomorphic import integers, knowledge
from swarm.homomorphic.sums import Answer, Offer, Opening, Part, Proven, Roster, _offered, offer_bytes, read_offer
from swarm.machine import NodeId
from swarm.masking import masks
from swarm.masking.keys import Occasion
from swarm.masking.ring import WIDTHS, Ring
from swarm.masking.statements import Close
from swarm.mixing.average import mean_of_sums_into
from swarm.vector import Vector
from tests.swarm.homomorphic.keys import draw, encryptor, secret, update
from tests.swarm.homomorphic.keys import node as holder
from tests.swarm.homomorphic.parties import Encrypted, story, weighted
from tests.swarm.masking.members import CLOSE, LEDGER, Members, mean, total_of

N = int(secret().public.n)


def encrypted_mean(
    swarm: Encrypted, updates: list[Vector], who: list[int], answering: list[int], base: Vector
) -> bytes:
    opening = Opening(swarm.roster, swarm.close(who), swarm.offers(updates, who))
    for number in answering:
        said = swarm.parts[number].answer(opening)
        assert said is not None
        assert opening.take(swarm.nodes[number], said) == ()
    sums = opening.sums()
    assert sums is not None, opening.lacking()
    out = np.empty_like(base)
    mean_of_sums_into(out, base, sums, opening.weight)
    return out.tobytes()


def masked_mean(ring: Ring, weights: list[int], updates: list[Vector], who: list[int], base: Vector) -> bytes:
    """The same round under masks: all deal, those in `who` offer, all reveal."""
    members = Members(len(weights), weights=weights).deal()
    words = members.words(ring, updates, range(len(weights)))
    close = members.close(who)
    total = total_of(ring, [words[number] for number in who])
    unmasking = members.unmasking(close)
    for number, reveal in members.reveals(close, range(len(weights))).items():
        assert unmasking.take(members.nodes[number], reveal) == ()
    found = unmasking.masks()
    assert found is not None
    masks.apply(total, ring, found)
    return mean(ring, total, base, sum(weights[number] for number in who))


@pytest.mark.parametrize("bits", WIDTHS)
@settings(max_examples=6)
@given(st.data())
def test_encrypted_and_masked_updates_end_with_the_same_bytes(bits: int, data: st.DataObject) -> None:
    """The same updates, weights and dropouts side by side; of those who hold shares any threshold answer."""
    count = data.draw(st.integers(4, 6))
    threshold = 1 + (count + (count - 1) // 3) // 2  # what masks take, so that both allow the same closes
    weights = data.draw(st.lists(st.integers(1, 600), min_size=count, max_size=count))
    elements, seed = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 2**32))
    who = sorted(data.draw(st.permutations(range(count)))[: data.draw(st.integers(threshold, count))])
    answering = data.draw(st.permutations(range(count)))[:threshold]
    rng = np.random.default_rng(seed)
    updates = [rng.uniform(-9, 9, elements).astype(np.float32) for _ in range(count)]
    base = rng.standard_normal(elements).astype(np.float32)
    swarm = Encrypted(count, threshold, elements=elements, bits=bits, weights=weights)
    expected = masked_mean(swarm.roster.ring, weights, updates, who, base)
    assert encrypted_mean(swarm, updates, who, answering, base) == expected


def test_with_fewer_answers_than_it_takes_there_is_no_sum_and_it_says_why() -> None:
    swarm, _, opening = story()
    for number, lacking in ((3, "0 of 5"), (1, "1 of 5"), (0, "2 of 5")):
        assert opening.lacking() == f"{lacking} holders have answered, it takes 3"
        assert opening.sums() is None
        opening.take(swarm.nodes[number], swarm.parts[number].answer(opening) or b"")
    assert opening.lacking() == ""
    first = opening.sums()
    for number in (2, 4, 4):  # more than it takes, and one twice
        assert opening.take(swarm.nodes[number], swarm.parts[number].answer(opening) or b"") == ()
    assert first is not None
    assert np.array_equal(first, opening.sums())


def test_a_holder_that_answers_falsely_is_named_and_the_others_suffice() -> None:
    swarm, _, opening = story()
    size = swarm.key.public.ciphertext_bytes
    said = codec.decode(swarm.parts[0].answer(opening), Answer, limit=1 << 20)
    one = integers.from_bytes(said.shares[:size])
    false = integers.to_bytes(one * (1 + N) % (N * N), size) + said.shares[size:]
    liar = swarm.nodes[0]
    for shares in (false, said.shares[size:], b""):
        assert opening.take(liar, codec.encode(Answer(said.close, said.proof, shares))) == (liar,)
    assert opening.liars == (liar,)
    for number in (1, 2):
        opening.take(swarm.nodes[number], swarm.parts[number].answer(opening) or b"")
    assert opening.lacking() == f"2 of 5 holders have answered, it takes 3; {liar.hex()[:8]} answered falsely"
    assert opening.take(swarm.nodes[3], swarm.parts[3].answer(opening) or b"") == ()
    assert opening.sums() is not None
    assert opening.take(swarm.nodes[1], codec.encode(said)) == (swarm.nodes[1],), (
        "another's answer is none of one's own"
    )
    assert opening.liars == (liar,), "who has answered rightly stays heard"


def test_an_answer_is_for_one_close_and_by_a_holder() -> None:
    swarm, offers, opening = story()
    other = Opening(swarm.roster, Close(CLOSE + 1, tuple(offers)), offers)
    said = swarm.parts[0].answer(opening) or b""
    with pytest.raises(Reject, match="for another sum"):
        other.take(swarm.nodes[0], said)
    with pytest.raises(Reject, match="no share of the key"):
        opening.take(holder(99), said)
    for garbage in (b"", said[:-1], said + b"\0", bytes(1 << 20)):
        with pytest.raises(Reject):
            opening.take(swarm.nodes[0], garbage)
    assert opening.liars == ()


def test_a_holder_answers_for_one_close_whatever_it_is_told_also_after_a_restart() -> None:
    swarm, offers, opening = story()
    fewer = Opening(swarm.roster, swarm.close([0, 1, 4]), offers)
    assert swarm.parts[3].answered == b""
    swarm.parts[3].answer(opening)
    assert swarm.parts[3].answered == opening.context
    again = swarm.part(3, answered=swarm.parts[3].answered)
    for part in (swarm.parts[3], again):
        assert opening.take(swarm.nodes[3], part.answer(opening) or b"") == ()
        with pytest.raises(LedgerError, match="has answered for another close"):
            part.answer(fewer)


def test_who_holds_no_share_has_nothing_to_answer() -> None:
    swarm, _, opening = story()
    without = Part(swarm.roster, swarm.nodes[0], encryptor=encryptor(), draw=draw(1))
    assert without.answer(opening) is None
    assert without.answered == b""


def test_offers_that_would_leave_one_update_alone_are_refused() -> None:
    """The attack itself: with them the sum would be the victim's update, with the thief's proof there is none."""
    swarm, offers, _ = story()
    public, (victim, thief) = swarm.key.public, (swarm.nodes[0], swarm.nodes[3])
    others = [swarm.nodes[1], swarm.nodes[2], swarm.nodes[4]]
    cancelling = [
        public.multiply(public.add(public.add(*(offers[one][at] for one in others[:2])), offers[others[2]][at]), -1)
        for at in range(swarm.roster.count)
    ]
    left = [public.add(one, sum_) for one, sum_ in zip(cancelling, map(int, story([0, 1, 2, 4])[2].total), strict=True)]
    assert len(left) == swarm.roster.count
    whole = Opening(
        swarm.roster,
        Close(CLOSE, (victim, *others[:2], thief, others[2])),
        {**offers, thief: Proven(tuple(cancelling))},
    )
    words = [*swarm.roster.packing.plaintexts(weighted(swarm, 0), swarm.roster.weight(victim))]
    assert [int(secret().decrypt(one)) for one in whole.total] == words, "it works, where nobody asks for a proof"
    data = integers.many_to_bytes(cancelling, public.ciphertext_bytes)
    stolen = codec.decode(swarm.parts[0].offer(update(0)), Offer, limit=1 << 20)
    for proof in (stolen.proof, bytes(len(stolen.proof))):
        with pytest.raises(Reject, match="no proof"):
            read_offer(codec.encode(Offer(swarm.roster.digest, proof, data)), swarm.roster, thief)
    with pytest.raises(Reject, match="no proof"):
        read_offer(codec.encode(stolen), swarm.roster, thief)


def test_an_offer_is_for_one_roster_and_by_its_author() -> None:
    swarm = Encrypted(5, 3)
    data = swarm.parts[0].offer(update(0))
    assert abs(len(data) - offer_bytes(swarm.roster)) < 64
    read_offer(data, swarm.roster, swarm.nodes[0])
    with pytest.raises(Reject, match="no proof"):
        read_offer(data, swarm.roster, swarm.nodes[1])
    with pytest.raises(Reject, match="not on the roster"):
        read_offer(data, swarm.roster, holder(99))
    later = Roster(Occasion(LEDGER, 4, 1), swarm.roster.ring, 23, swarm.key, swarm.roster.seats)
    with pytest.raises(Reject, match="another roster"):
        read_offer(data, later, swarm.nodes[0])
    found = codec.decode(data, Offer, limit=1 << 20)
    size = swarm.key.public.ciphertext_bytes
    for ciphertexts, why in (
        (found.ciphertexts[size:], "not of"),
        (b"", "not of"),
        (bytes(len(found.ciphertexts)), "none under this key"),
        (b"\xff" * len(found.ciphertexts), "none under this key"),
        (integers.to_bytes(N, size) + found.ciphertexts[size:], "none under this key"),
    ):
        with pytest.raises(Reject, match=why):
            read_offer(codec.encode(Offer(found.roster, found.proof, ciphertexts)), swarm.roster, swarm.nodes[0])
    for garbage in (b"", data[:-1], data + b"\0", bytes(1 << 20)):
        with pytest.raises(Reject):
            read_offer(garbage, swarm.roster, swarm.nodes[0])


def test_closes_that_say_too_much_or_are_none_are_refused() -> None:
    swarm, offers, _ = story()
    nodes = swarm.nodes
    for included in (
        (),
        tuple(nodes[:2]),
        (nodes[1], nodes[0], nodes[2]),
        (*nodes[:3], nodes[2]),
        (*nodes[:2], holder(99)),
    ):
        with pytest.raises(Reject, match="close"):
            Opening(swarm.roster, Close(CLOSE, included), offers)
    with pytest.raises(Reject, match=f"those of {nodes[3].hex()[:8]} are not here"):
        Opening(swarm.roster, swarm.close([0, 1, 3]), offers)
    assert swarm.roster.fewest == 3
    assert Encrypted(5, 4).roster.fewest == 4
    assert Encrypted(4, 1).roster.fewest == 3, "also where each of them could read alone"


def test_rosters_without_room_or_members_are_refused() -> None:
    swarm = Encrypted(5, 3)
    roster, seats = swarm.roster, swarm.roster.seats

    def made(seats: tuple[tuple[NodeId, int], ...] = seats, elements: int = 23) -> Roster:
        return Roster(roster.occasion, roster.ring, elements, swarm.key, seats)

    assert made().digest == roster.digest
    for wrong, why in (
        (seats[:2], "2 are on the roster"),
        ((seats[0], seats[0], seats[1], seats[2]), "3 are on the roster"),
        ((*seats[:4], (swarm.nodes[4], 0)), "more than slots have room for"),
        ((*seats[:4], (swarm.nodes[4], 4_096)), "more than slots have room for"),
    ):
        with pytest.raises(Reject, match=why):
            made(seats=wrong)
    for elements in (0, -1, 2**40):
        with pytest.raises(Reject, match="elements each"):
            made(elements=elements)
    digests = {made().digest, made(elements=24).digest, made(seats=seats[:4]).digest, made(seats=seats[::-1]).digest}
    assert len(digests) == 4


def test_an_update_without_room_is_refused_before_it_is_encrypted() -> None:
    swarm = Encrypted(5, 3)
    for value in (np.nan, np.inf, 1e6):
        with pytest.raises(UsageError, match="no room in 36 bits"):
            swarm.parts[0].offer(np.full(23, value, np.float32))
    stranger = Part(swarm.roster, holder(99), encryptor=encryptor(), draw=draw(1))
    with pytest.raises(Reject, match="not on the roster"):
        stranger.offer(update(0))


def test_a_liar_that_encrypts_what_no_update_is_shows_in_the_sum() -> None:
    """It knows what it encrypts, so its proof holds. The sum is refused, as with masks, and nobody can say by whom."""
    swarm, offers, _ = story()
    liar, one = swarm.nodes[0], encryptor()
    for numbers, why in (
        ([N // 2] * swarm.roster.count, "larger than its words|too large"),
        ([1 << 35] * swarm.roster.count, "too large|empty"),
    ):
        exponents = one.exponents(len(numbers))
        ciphertexts = one.encrypt_with(numbers, exponents)
        data = integers.many_to_bytes(ciphertexts, one.key.ciphertext_bytes)
        proof = knowledge.prove(one, _offered(swarm.roster, liar), data, ciphertexts, numbers, exponents, draw(3))
        read = read_offer(codec.encode(Offer(swarm.roster.digest, proof, data)), swarm.roster, liar)
        opening = Opening(swarm.roster, swarm.close([0, 1, 2, 4]), {**offers, liar: read})
        for number in (1, 2, 3):
            opening.take(swarm.nodes[number], swarm.part(number).answer(opening) or b"")
        with pytest.raises(Reject, match=why):
            opening.sums()

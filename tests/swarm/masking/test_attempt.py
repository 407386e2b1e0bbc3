"""A masked round has the bytes of the plain one; nobody is talked into saying a word too many; lies are named."""

from __future__ import annotations

import copy
import hashlib
import itertools
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import codec
from swarm.errors import LedgerError, Reject, UsageError
from swarm.machine import Digest, NodeId
from swarm.masking import masks, shamir
from swarm.masking.attempt import Attempt
from swarm.masking.keys import Occasion
from swarm.masking.masks import Mask
from swarm.masking.ring import Ring
from swarm.masking.statements import (
    MASK,
    SELF,
    Close,
    Deal,
    Keys,
    Reveal,
    Seat,
    commitment,
    own_shares,
    read_deal,
    read_reveal,
)
from swarm.masking.unmasking import Unmasking
from tests.swarm.masking.members import (
    CLOSE,
    EXACT,
    LEDGER,
    Members,
    mean,
    node,
    plain_mean,
    root,
    total_of,
    update,
)

NARROW = Ring.fitting(36, weight_total=2**10, clip_norm_milli=8_000)
NO_KEYS = (bytes(32), (1).to_bytes(32, "little"), bytes(31), b"", (2**255 - 19).to_bytes(32, "little"))
"""Nothing, and points that agree on zeros with everybody (RFC 7748, section 6.1), one in its other spelling."""

FIVE = Members(5).deal()
"""Of whom many stories are told: `again` begins each."""


def told(members: Members, ring: Ring, inside: list[int], there: list[int]) -> None:
    """A round in which `inside` offer and are closed upon, and `there` reveal: it ends as the plain one of those."""
    roster = members.roster
    updates = [update(number) for number in range(len(members.nodes))]
    base = update(99)
    words = members.words(ring, updates, inside)
    close = members.close(inside)
    unmasking = members.unmasking(close)
    for number, reveal in members.reveals(close, there).items():
        assert unmasking.take(members.nodes[number], read_reveal(codec.encode(reveal))) == ()
    found = unmasking.masks()
    assert found is not None, unmasking.lacking()
    assert unmasking.lacking() == ""
    total = total_of(ring, [words[number] for number in inside])
    masks.apply(total, ring, found)
    weights = [roster.seats[number].weight for number in inside]
    grid = [ring.on_grid(updates[number]) for number in inside]
    assert mean(ring, total, base, sum(weights)) == plain_mean(grid, base, weights)


# --- the sum ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 4, 5])
def test_every_dropout_that_the_threshold_allows_leaves_the_plain_mean(count: int) -> None:
    members = FIVE if count == 5 else Members(count).deal()
    shape = members.roster.shape
    everybody = range(count)
    stories = 0
    for size in range(shape.included_min, count + 1):
        for inside in itertools.combinations(everybody, size):
            for there in itertools.combinations(everybody, shape.threshold):
                told(members.again(), EXACT, [*inside], [*there])
                stories += 1
    assert stories == {3: 3, 4: 20, 5: 30}[count], "every set in, times every set that reveals"


@pytest.mark.parametrize("count", [6, 7, 10, 16, 31, 50])
def test_as_many_dropouts_as_the_threshold_allows_leave_the_plain_mean(count: int) -> None:
    members = Members(count)
    shape = members.roster.shape
    members.deal()
    rng = random.Random(count)
    inside = sorted(rng.sample(range(count), shape.included_min))
    # Where masks go to all, any threshold of members will do; else a tenth may be gone for good.
    left = shape.threshold if shape.complete else count - count // 10
    told(members, (EXACT, NARROW)[count % 2], inside, sorted(rng.sample(range(count), left)))


@settings(max_examples=10, deadline=None)
@given(st.integers(3, 9), st.randoms(use_true_random=False), st.sampled_from([EXACT, NARROW]))
def test_any_round_of_any_members_has_the_bytes_of_the_plain_one(count: int, rng: random.Random, ring: Ring) -> None:
    members = Members(count, weights=[rng.randint(1, 1_000 // count) for _ in range(count)]).deal()
    shape = members.roster.shape
    inside = sorted(rng.sample(range(count), rng.randint(shape.included_min, count)))
    told(members, ring, inside, sorted(rng.sample(range(count), rng.randint(shape.threshold, count))))


@pytest.mark.parametrize("count", range(3, 51))
def test_masks_of_any_number_of_members_cancel_to_the_last_bit(count: int) -> None:
    """Arithmetic alone, for every size: pair masks go as they came, whoever is missing, once those are taken off."""

    def pair(i: int, j: int) -> bytes:
        return hashlib.sha256(b"%d %d" % (min(i, j), max(i, j))).digest()

    rng = random.Random(count)
    inside = sorted(rng.sample(range(count), rng.randint(2, count)))
    updates = {i: update(i, 5) for i in inside}
    worn = {
        i: [Mask(hashlib.sha256(b"own %d" % i).digest(), added=True)]
        + [Mask(pair(i, j), added=i < j) for j in range(count) if j != i]
        for i in inside
    }
    total = total_of(EXACT, [masks.masked(updates[i], EXACT, i + 1, worn[i]) for i in inside])
    left = [worn[i][0] for i in inside] + [
        Mask(pair(i, j), added=i < j) for i in inside for j in range(count) if j not in inside
    ]
    masks.apply(total, EXACT, [one.opposite() for one in left])
    weights = [i + 1 for i in inside]
    base = update(99, 5)
    assert mean(EXACT, total, base, sum(weights)) == plain_mean([updates[i] for i in inside], base, weights)


def test_below_the_threshold_there_is_no_sum_and_words_say_why() -> None:
    members = FIVE.again()
    members.words(EXACT, [update(i) for i in range(5)], [0, 1, 2, 3])
    close = members.close([0, 1, 2, 3])
    unmasking = members.unmasking(close)
    assert "5 of 5 secrets are missing" in unmasking.lacking()
    for number, reveal in members.reveals(close, [0, 1, 2]).items():
        unmasking.take(members.nodes[number], reveal)
    assert unmasking.masks() is None
    assert unmasking.lacking().endswith("there are 3 shares, it takes 4")
    (last,) = members.reveals(close, [4]).values()
    unmasking.take(members.nodes[4], last)
    assert unmasking.masks() is not None, "one that dropped out before it offered has shares all the same"


def test_a_close_of_too_few_reveals_nothing() -> None:
    members = FIVE.again()
    for wrong, why in (
        ([0, 1, 2], "3 of 5, a sum must be of 4"),
        ([], "0 of 5"),
        ([0, 0, 1, 2], "not in order"),
        ([1, 0, 2, 3], "not in order"),
    ):
        with pytest.raises(Reject, match=why):
            members.attempts[4].close(members.close(wrong))
    stranger = Close(CLOSE, (*members.nodes[:3], node(77)))
    with pytest.raises(Reject, match="not on its roster"):
        members.attempts[4].close(stranger)
    three = Members(3).deal()
    with pytest.raises(Reject, match="2 of 3, a sum must be of 3"):
        three.attempts[0].close(three.close([0, 1]))
    assert three.roster.shape.threshold == 2, "one may go once the round is closed"


def test_on_a_roster_that_is_a_part_of_the_swarm_all_liars_of_the_swarm_may_stand() -> None:
    """Ten members of whom three may lie, seven of them on the roster: three are never enough, nor with any two sets."""
    members = Members(7, swarm=10).deal()
    assert (members.roster.shape.threshold, members.roster.shape.included_min) == (6, 6)
    told(members.again(), EXACT, [0, 1, 2, 4, 5, 6], [1, 2, 3, 4, 5, 6])
    with pytest.raises(Reject, match="a sum must be of 6"):
        members.attempts[0].close(members.close([0, 1, 2, 3, 4]))
    with pytest.raises(Reject, match="4 have posted keys, it takes 5"):
        msgspec.structs.replace(members.roster, seats=members.roster.seats[:4]).check()


def test_a_wrong_masked_update_is_a_wrong_sum_that_its_bound_gives_away() -> None:
    members = FIVE.again()
    updates = [update(number) for number in range(5)]
    words = members.words(EXACT, updates, [0, 1, 2, 3, 4])
    words[2] = words[2].copy()
    words[2][7] += np.uint64(2**62 + 5)
    close = members.close([0, 1, 2, 3, 4])
    unmasking = members.unmasking(close)
    for number, reveal in members.reveals(close, [0, 1, 2, 3]).items():
        unmasking.take(members.nodes[number], reveal)
    total = total_of(EXACT, [*words.values()])
    found = unmasking.masks()
    assert found is not None
    masks.apply(total, EXACT, found)
    with pytest.raises(Reject, match="too large"):
        EXACT.sums(total, members.roster.weight)


# --- rules of one member --------------------------------------------------------------------------------------------


def test_a_second_masked_update_under_one_key_is_never_let_through() -> None:
    one = FIVE.again().attempts[0]
    first, second = Digest(b"1" * 32), Digest(b"2" * 32)
    assert one.offer(first)
    assert not one.offer(second)
    assert one.offer(first), "it may say the same again"
    assert one.offered == first
    restarted = Attempt.from_bytes(one.to_bytes())
    restarted.enrol(FIVE.roster)
    for dealer, data in zip(FIVE.nodes, FIVE.deals, strict=True):
        restarted.take_deal(dealer, data)
    assert not restarted.offer(second)
    assert restarted.offer(first)


def test_after_the_close_nothing_is_offered_any_more() -> None:
    members = FIVE.again()
    members.attempts[0].close(members.close([1, 2, 3, 4]))
    assert not members.attempts[0].offer(Digest(b"1" * 32))


def test_before_all_have_dealt_nothing_is_offered() -> None:
    members = Members(4)
    one = members.attempts[0]
    for number in (1, 2):
        one.take_deal(members.nodes[number], members.deals[number])
    assert one.missing() == (members.nodes[3],)
    assert not one.offer(Digest(b"1" * 32))


def test_who_is_shown_two_closes_answers_for_the_first_and_then_for_none() -> None:
    """The classic attack: shares of the self seed by the one close, of the mask key by the other."""
    members = FIVE.again()
    one = members.attempts[0]
    first, second = members.close([1, 2, 3, 4]), members.close([0, 1, 2, 3])
    reveal = one.close(first)
    assert reveal is not None
    assert one.close(first) == reveal
    for other in (second, Close(CLOSE + 1, first.included)):
        with pytest.raises(LedgerError, match="closed it twice"):
            copy.copy(one).close(other)
    with pytest.raises(LedgerError, match="closed it twice"):
        one.close(second)
    assert one.close(first) is None
    assert not one.offer(Digest(b"1" * 32))
    # Not after a restart either.
    restarted = Attempt.from_bytes(one.to_bytes())
    restarted.enrol(FIVE.roster)
    with pytest.raises(LedgerError, match="closed it twice"):
        restarted.close(second)


def test_no_word_of_a_member_holds_both_kinds_of_share_of_anybody() -> None:
    """Whatever closes it is shown in whatever order: what it ever says of a dealer is one share, of one kind."""
    members = FIVE.again()
    roster = members.roster
    both = [own_shares(one._secrets, roster, place) for place, one in enumerate(members.attempts)]
    closes = [members.close(who) for size in (4, 5) for who in itertools.combinations(range(5), size)]
    for number, one in enumerate(members.attempts):
        assert one.offer(Digest(b"x" * 32))
        for order in itertools.permutations(closes, 3):
            asked = copy.copy(one)
            said: dict[int, set[str]] = {dealer: set() for dealer in range(5)}
            for close in order:
                try:
                    reveal = asked.close(close)
                except LedgerError:
                    continue
                for dealer, share in reveal.shares if reveal else ():
                    said[dealer].add({both[dealer][number][0]: SELF, both[dealer][number][1]: MASK}[share])
            assert all(len(kinds) == 1 for kinds in said.values())


def test_a_close_that_names_what_was_never_offered_is_refused() -> None:
    members = FIVE.again()
    with pytest.raises(LedgerError, match="never offered"):
        members.attempts[0].close(members.close([0, 1, 2, 3]))
    assert members.attempts[0].close(members.close([1, 2, 3, 4])) is None, "somebody else speaks in its name"


def test_another_roster_is_refused_and_ends_what_is_said() -> None:
    members = FIVE.again()
    other = msgspec.structs.replace(members.roster, seats=members.roster.seats[:4])
    with pytest.raises(LedgerError, match="two rosters"):
        members.attempts[0].enrol(other)
    assert members.attempts[0].enrol(members.roster) is None
    assert members.attempts[0].close(members.close([1, 2, 3, 4])) is None


def test_who_is_not_on_the_roster_says_nothing_and_who_finds_foreign_keys_there_says_so() -> None:
    members = Members(4)
    outsider = Attempt(members.occasion, node(9), root(9))
    assert outsider.enrol(members.roster) is None
    twin = Attempt(members.occasion, members.nodes[0], root(77))
    with pytest.raises(UsageError, match="does not hold"):
        twin.enrol(members.roster)
    assert twin.enrol(members.roster) is None


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["restart", "offer", "close"]), st.integers(0, 3)), max_size=12))
def test_however_often_it_restarts_a_member_never_contradicts_itself(story: list[tuple[str, int]]) -> None:
    members = FIVE
    closes = [members.close(who) for who in ([0, 1, 2, 3], [1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 2, 3, 4])]
    one, disk = members.again().attempts[0], b""
    deal = codec.encode(one.enrol(members.roster))
    disk = one.to_bytes()
    offered: set[bytes] = set()
    shares: set[tuple[int, bytes]] = set()
    for what, which in story:
        if what == "restart":  # whatever was in memory and not on the disk is lost
            one = Attempt.from_bytes(disk)
            assert codec.encode(one.enrol(members.roster)) == deal == members.deals[0]
            assert one.keys == (members.roster.seats[0].mask_key, members.roster.seats[0].seal_key)
            for dealer, data in zip(members.nodes, members.deals, strict=True):
                one.take_deal(dealer, data)
        elif what == "offer":
            wanted = Digest(bytes((which,)) * 32)
            if one.offer(wanted):
                disk = one.to_bytes()
                offered.add(wanted)
        else:
            try:
                reveal = one.close(closes[which])
            except LedgerError:
                continue
            disk = one.to_bytes()
            shares.update(reveal.shares if reveal else ())
    assert len(offered) <= 1
    assert len({dealer for dealer, _ in shares}) == len(shares)


@pytest.mark.parametrize("count", [3, 5])
def test_a_round_in_which_everybody_is_killed_after_every_step_ends_as_if_nobody_were(count: int) -> None:
    members = Members(count)

    def kill() -> None:
        """Everybody starts again from the disk and is told again what is on the ledger and in the store."""
        members.attempts = [Attempt.from_bytes(one.to_bytes()) for one in members.attempts]
        again = [codec.encode(one.enrol(members.roster)) for one in members.attempts]
        assert again == members.deals, "a member deals what it has dealt"
        members.deal()

    kill()
    updates = [update(number) for number in range(count)]
    inside = [*range(members.roster.shape.included_min)]
    words = members.words(EXACT, updates, inside)
    kill()
    assert all(np.array_equal(one, words[number]) for number, one in members.words(EXACT, updates, inside).items())
    close = members.close(inside)
    first = members.reveals(close, range(count))
    kill()
    reveals = members.reveals(close, range(count))
    assert reveals == first
    unmasking = members.unmasking(close)
    for number in range(count):
        assert unmasking.take(members.nodes[number], reveals[number]) == ()
    total, found = total_of(EXACT, [*words.values()]), unmasking.masks()
    assert found is not None
    masks.apply(total, EXACT, found)
    weights = [members.roster.seats[number].weight for number in inside]
    assert mean(EXACT, total, updates[0], sum(weights)) == plain_mean(updates[: len(inside)], updates[0], weights)


def test_a_record_that_is_none_is_refused() -> None:
    good = FIVE.attempts[0].to_bytes()
    fields = list(msgspec.msgpack.decode(good))
    for place, wrong in (
        (0, 2), (1, b"x"), (2, 0), (3, 0), (4, b""), (5, bytes(31)), (6, b"x"), (6, b""), (7, b"x"), (8, b"x"),
    ):  # fmt: skip
        broken = [*fields]
        broken[place] = wrong
        if (place, wrong) == (6, b""):
            broken[7] = bytes(32)  # an offer without a roster
        with pytest.raises(Reject):
            Attempt.from_bytes(codec.encode(broken))
    for cut in range(0, len(good), 7):
        with pytest.raises(Reject):
            Attempt.from_bytes(good[:cut])
    assert Attempt.from_bytes(good).to_bytes() == good


def test_secrets_do_not_show() -> None:
    one = FIVE.attempts[0]
    assert root(0).hex() not in repr(one) + repr(one._secrets)


# --- what others send -----------------------------------------------------------------------------------------------


def test_a_lying_holder_is_named_and_its_share_thrown_away() -> None:
    members = FIVE.again()
    updates = [update(number) for number in range(5)]
    members.words(EXACT, updates, [0, 1, 2, 3])
    close = members.close([0, 1, 2, 3])
    reveals = members.reveals(close, [0, 1, 2, 3, 4])
    share = dict(reveals[1].shares)
    wrong_kind = own_shares(members.attempts[2]._secrets, members.roster, 2)[1][1]
    foreign = dict(reveals[0].shares)[2]
    for lie in (bytes(32), b"\xff" * 32, b"", share[2][:-1], share[3], wrong_kind, foreign):
        unmasking = members.unmasking(close)
        said = Reveal(3, 1, CLOSE, tuple(sorted((share | {2: lie}).items())))
        assert unmasking.take(members.nodes[1], said) == (members.nodes[2],)
        for number in (0, 2, 3):
            assert unmasking.take(members.nodes[number], reveals[number]) == ()
        assert unmasking.masks() is None, "three right shares of the second's secret, it takes four"
        unmasking.take(members.nodes[4], reveals[4])
        assert unmasking.masks() is not None


def test_shares_told_twice_count_once_and_of_nobody_not_at_all() -> None:
    members = FIVE.again()
    members.words(EXACT, [update(number) for number in range(5)], [0, 1, 2, 3])
    close = members.close([0, 1, 2, 3])
    unmasking = members.unmasking(close)
    reveal = members.reveals(close, [0])[0]
    for _ in range(9):
        unmasking.take(members.nodes[0], reveal)
    assert "1 shares, it takes 4" in unmasking.lacking()
    assert unmasking.take(members.nodes[0], Reveal(3, 1, CLOSE, ((400, bytes(32)),))) == (members.nodes[0],)
    for who, said in (
        (node(9), reveal),
        (members.nodes[0], Reveal(3, 2, CLOSE, ())),
        (members.nodes[0], Reveal(3, 1, 41, ())),
    ):
        with pytest.raises(Reject, match="another close"):
            unmasking.take(who, said)
    # Said in another's name they are false: a share is bound to its holder.
    assert unmasking.take(members.nodes[1], reveal) == tuple(members.nodes)


def test_nobody_is_blamed_for_shares_of_a_deal_that_is_not_here_yet() -> None:
    members = FIVE.again()
    members.words(EXACT, [update(number) for number in range(5)], [0, 1, 2, 3])
    close = members.close([0, 1, 2, 3])
    deals = {place: read_deal(data, members.roster, place) for place, data in enumerate(members.deals)}
    late = deals.pop(2)
    unmasking = Unmasking(members.roster, close, deals)
    reveals = members.reveals(close, range(5))
    for number, reveal in reveals.items():
        assert unmasking.take(members.nodes[number], reveal) == ()
    assert unmasking.masks() is None
    assert "1 of 5 secrets are missing" in unmasking.lacking()
    deals[2] = late
    for number, reveal in reveals.items():
        assert unmasking.take(members.nodes[number], reveal) == ()
    assert unmasking.masks() is not None


def test_a_dealer_that_deals_shares_of_something_else_is_named() -> None:
    """Its shares are as committed, so holders are honest; what they make up is not what it has posted."""
    members = Members(4)
    roster = members.roster
    liar = members.attempts[1]
    others = liar._secrets.coefficients(SELF, roster.shape.threshold - 1)
    wrong = shamir.deal((liar._secrets.self_residue + 1) % shamir.PRIME, range(1, 5), others)
    honest = own_shares(liar._secrets, roster, 1)
    told = codec.decode(members.deals[1], Deal, limit=1 << 18)
    commitments, boxes = list(told.commitments), []
    for holder in range(4):
        share = shamir.to_bytes(wrong[holder + 1])
        commitments[holder] = (commitment(roster, SELF, 1, holder, share), commitments[holder][1])
        if holder != 1:
            seat = roster.seats[holder]
            boxes.append(liar._secrets.seal(seat.node, seat.seal_key, share + honest[holder][1], roster.digest))
    members.deals[1] = codec.encode(msgspec.structs.replace(told, commitments=tuple(commitments), boxes=tuple(boxes)))
    members.deal()
    members.words(EXACT, [update(number) for number in range(4)], [0, 1, 2, 3])
    close = members.close([0, 1, 2, 3])
    unmasking = members.unmasking(close)
    for number, reveal in members.reveals(close, [0, 2, 3]).items():
        assert unmasking.take(members.nodes[number], reveal) == ()
    assert unmasking.masks() is None
    assert unmasking.liars == (members.nodes[1],)
    assert members.nodes[1].hex()[:8] in unmasking.lacking()


def test_a_deal_with_a_false_share_for_one_holder_does_not_stop_the_others() -> None:
    members = Members(4)
    told = codec.decode(members.deals[1], Deal, limit=1 << 18)
    box = bytearray(told.boxes[0])
    box[5] ^= 1
    members.deals[1] = codec.encode(msgspec.structs.replace(told, boxes=(bytes(box), *told.boxes[1:])))
    for number, one in enumerate(members.attempts):
        for dealer, data in zip(members.nodes, members.deals, strict=True):
            if number == 0 and dealer == members.nodes[1]:
                with pytest.raises(Reject, match="not as its dealer"):
                    one.take_deal(dealer, data)
            else:
                one.take_deal(dealer, data)
    told_again = members.attempts[0].missing()
    assert told_again == ()
    members.words(EXACT, [update(number) for number in range(4)], [0, 1, 2, 3])
    close = members.close([0, 1, 2, 3])
    reveals = members.reveals(close, [0, 1, 2, 3])
    assert 1 not in dict(reveals[0].shares), "it has none to reveal"
    unmasking = members.unmasking(close)
    for number, reveal in reveals.items():
        assert unmasking.take(members.nodes[number], reveal) == ()
    assert unmasking.masks() is not None


def test_a_deal_of_another_sender_roster_or_size_is_refused() -> None:
    members = Members(4)
    one, other = members.attempts[0], Members(4, attempt=2)
    swapped = members.deals[2]
    with pytest.raises(Reject, match="couldn't open|committed"):
        one.take_deal(members.nodes[1], swapped)
    for wrong in (other.deals[1], b"", b"\x94", members.deals[1][:-1], members.deals[1] + b"\0", Members(5).deals[1]):
        with pytest.raises(Reject):
            Members.again(members).attempts[3].take_deal(members.nodes[1], wrong)
    with pytest.raises(Reject, match="not on the roster"):
        one.take_deal(node(9), members.deals[1])
    told = codec.decode(members.deals[1], Deal, limit=1 << 18)
    for broken in (
        msgspec.structs.replace(told, boxes=told.boxes[:-1]),
        msgspec.structs.replace(told, commitments=told.commitments[:-1]),
        msgspec.structs.replace(told, self_commitment=b""),
        msgspec.structs.replace(told, boxes=(told.boxes[0] + b"\0", *told.boxes[1:])),
        msgspec.structs.replace(told, boxes=()),
    ):
        with pytest.raises(Reject, match="holders|another size"):
            read_deal(codec.encode(broken), members.roster, 1)


def test_shares_on_their_way_are_open_to_their_holder_alone() -> None:
    members = FIVE
    shares = own_shares(members.attempts[1]._secrets, members.roster, 1)
    assert all(share not in members.deals[1] for pair in shares.values() for share in pair)
    told = read_deal(members.deals[1], members.roster, 1)
    seat = members.roster.seats[1]
    for box, holder in zip(told.boxes, (0, 2, 3, 4), strict=True):
        for reader in range(5):
            secrets = members.attempts[reader]._secrets
            if reader == holder:
                text = secrets.open(seat.node, seat.seal_key, box, members.roster.digest)
                assert text == b"".join(shares[holder])
            elif reader != 1:
                with pytest.raises(Reject):
                    secrets.open(seat.node, seat.seal_key, box, members.roster.digest)
        with pytest.raises(Reject):
            members.attempts[holder]._secrets.open(seat.node, seat.seal_key, box, bytes(32))


@pytest.mark.parametrize("wrong", NO_KEYS)
def test_keys_that_agree_on_zeros_with_everybody_are_refused(wrong: bytes) -> None:
    good = FIVE.roster.seats[0]
    for mask_key, seal_key in ((wrong, good.seal_key), (good.mask_key, wrong)):
        with pytest.raises(Reject, match="no key to agree with"):
            Keys(1, 1, 0, bytes(32), 5, mask_key, seal_key).check()
        seats = (Seat(good.node, 1, mask_key, seal_key), *FIVE.roster.seats[1:])
        with pytest.raises(Reject, match="none to agree with"):
            msgspec.structs.replace(FIVE.roster, seats=seats).check()
    with pytest.raises(Reject, match="public key is none"):
        FIVE.attempts[1]._secrets.pair_seed(good.node, wrong)


def test_keys_out_of_range_are_refused() -> None:
    good = Keys(1, 1, 0, bytes(32), 5, *FIVE.attempts[0].keys)
    good.check()
    for field, value in (
        ("round", 0), ("attempt", 0), ("base_height", -1), ("base_digest", b""), ("samples", 0), ("samples", 2**53),
        ("seal_key", good.mask_key),
    ):  # fmt: skip
        with pytest.raises(Reject):
            msgspec.structs.replace(good, **{field: value}).check()


def test_rosters_that_nobody_should_mask_on_are_refused() -> None:
    good = FIVE.roster
    good.check()
    seats = good.seats
    for field, value, why in (
        ("seats", seats[:2], "it takes 3"),
        ("seats", (*seats[:4], seats[0]), "twice"),
        ("seats", (*seats[:4], Seat(seats[4].node, 1, seats[0].mask_key, seats[4].seal_key)), "twice"),
        ("seats", (*seats[:4], Seat(seats[4].node, 0, seats[4].mask_key, seats[4].seal_key)), "weight"),
        ("seats", (*seats[:4], Seat(seats[4].node, 2**20, seats[4].mask_key, seats[4].seal_key)), "weight"),
        ("seats", (*seats[:4], Seat(NodeId(b"x"), 1, seats[4].mask_key, seats[4].seal_key)), "twice"),
        ("round", 0, "range"),
        ("beacon", b"", "range"),
        ("swarm", 4, "of 4 members"),
        ("swarm", 1001, "of 1001 members"),
        ("swarm", 13, "it takes 6"),
    ):
        with pytest.raises(Reject, match=why):
            msgspec.structs.replace(good, **{field: value}).check()


def test_reveals_that_are_none_are_refused() -> None:
    for wrong in (
        Reveal(0, 1, 1, ()), Reveal(1, 0, 1, ()), Reveal(1, 1, -1, ()), Reveal(1, 1, 1, ((2, b""), (1, b""))),
        Reveal(1, 1, 1, ((1, b""), (1, b""))), Reveal(1, 1, 1, ((-1, b""),)), Reveal(1, 1, 1, ((1000, b""),)),
    ):  # fmt: skip
        with pytest.raises(Reject):
            read_reveal(codec.encode(wrong))


# --- seeds ----------------------------------------------------------------------------------------------------------


def test_no_two_uses_have_a_seed_in_common() -> None:
    """Another ledger, round, attempt, pair or purpose is another seed, though the roots be the same."""
    seen: list[bytes] = []
    for ledger, round_, attempt in ((LEDGER, 1, 1), (LEDGER, 2, 1), (LEDGER, 1, 2), (bytes(32), 1, 1)):
        parts = [Attempt(Occasion(ledger, round_, attempt), node(i), root(i)) for i in range(3)]
        for i, part in enumerate(parts):
            seen += [
                *part.keys,
                shamir.to_bytes(part._secrets.self_residue),
                shamir.to_bytes(part._secrets.mask_residue),
            ]
            seen += [part._secrets.pair_seed(node(j), parts[j].keys[0]) for j in range(i + 1, 3)]
            seen += [shamir.to_bytes(one) for kind in (SELF, MASK) for one in part._secrets.coefficients(kind, 2)]
    assert len({*seen}) == len(seen)
    one, other = (Attempt(Occasion(LEDGER, 1, 1), node(i), root(i)) for i in (0, 1))
    assert one._secrets.pair_seed(node(1), other.keys[0]) == other._secrets.pair_seed(node(0), one.keys[0])


def test_what_follows_from_a_root_never_changes() -> None:
    """A member that restarts under a newer version must find the secrets it dealt: frozen."""
    text = hashlib.sha256()
    for member, data in zip(FIVE.attempts, FIVE.deals, strict=True):
        text.update(b"".join((*member.keys, data, *(one.seed for one in member.masks()))))
    assert text.hexdigest() == FROZEN


FROZEN = "627ae5355bba89d4b92d195d8432053134d57e3ac9a757682b3c991bc9e660b7"

"""What those who collude know is linear, so what follows from it can be counted: the sum of the others, and no more.

Every mask is uniform and used once, so a masked word is one equation between unknowns: an update, its author's own
mask, and one mask for each neighbour. A mask is known to who knows its seed, and a seed to who has a threshold of its
shares. Members here are the product's own, and what they reveal is counted share by share; then elimination tells which
sums of updates follow from all that is known.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

from swarm.ledger import entry as e
from swarm.ledger.masking import Keyed, Rostered, included_min
from swarm.machine import Digest
from swarm.masking.statements import MASK, SELF, Close, own_shares
from tests.swarm.masking.members import CLOSE, Members

PRIME = 2**31 - 1


def known_secrets(members: Members, colluding: Sequence[int], shown: dict[int, Close]) -> set[tuple[int, str]]:
    """Whose secrets, of which kind, colluders can put together, when each of the others is shown this close."""
    roster = members.roster
    dealt = [own_shares(one._secrets, roster, place) for place, one in enumerate(members.attempts)]
    kind_of = {share: (dealer, kind) for dealer, shares in enumerate(dealt) for pair in shares.values()
               for kind, share in zip((SELF, MASK), pair, strict=True)}  # fmt: skip
    counted: Counter[tuple[int, str]] = Counter()
    for dealer, shares in enumerate(dealt):
        for holder in colluding:
            if holder in shares:
                counted.update([(dealer, SELF), (dealer, MASK)])
    for holder, close in shown.items():
        reveal = members.attempts[holder].close(close)
        assert reveal is not None
        counted.update(kind_of[share] for _, share in reveal.shares)
    own = {(one, kind) for one in colluding for kind in (SELF, MASK)}
    return own | {secret for secret, count in counted.items() if count >= roster.shape.threshold}


def what_follows(
    members: Members, offered: Sequence[int], colluding: Sequence[int], known: set[tuple[int, str]]
) -> np.ndarray:
    """The sums of updates that follow, as rows of coefficients, one column a member, in echelon form."""
    roster = members.roster
    count = len(roster.seats)
    pairs = {pair: 2 * count + number for number, pair in enumerate(
        (i, j) for i in range(count) for j in roster.neighbours(i) if i < j)}  # fmt: skip
    masks_first = [*range(count, 2 * count + len(pairs)), *range(count)]
    width = 2 * count + len(pairs)
    rows = []
    for i in offered:  # word = update + own mask + what it has with others
        row = np.zeros(width, np.int64)
        row[i] = row[count + i] = 1
        for j in roster.neighbours(i):
            row[pairs[min(i, j), max(i, j)]] = 1 if i < j else -1
        rows.append(row)
    rows += [np.eye(1, width, i, dtype=np.int64)[0] for i in colluding]
    for i, kind in sorted(known):
        if kind == SELF:
            rows.append(np.eye(1, width, count + i, dtype=np.int64)[0])
        else:
            rows += [np.eye(1, width, pairs[min(i, j), max(i, j)], dtype=np.int64)[0] for j in roster.neighbours(i)]
    matrix = echelon(np.array(rows)[:, masks_first])
    masks = width - count
    return np.array([row[masks:] for row in matrix if row.any() and not row[:masks].any()]).reshape(-1, count)


def echelon(matrix: np.ndarray) -> np.ndarray:
    """Reduced row echelon form modulo a prime: sums and differences of ones, so any large prime tells the same."""
    matrix, top = matrix % PRIME, 0
    for column in range(matrix.shape[1]):
        found = np.flatnonzero(matrix[top:, column])
        if not found.size:
            continue
        matrix[[top, top + found[0]]] = matrix[[top + found[0], top]]
        matrix[top] = matrix[top] * pow(int(matrix[top, column]), -1, PRIME) % PRIME
        others = np.flatnonzero(matrix[:, column])
        others = others[others != top]
        matrix[others] = (matrix[others] - matrix[others, column, None] * matrix[top]) % PRIME
        top += 1
        if top == matrix.shape[0]:
            break
    return matrix


def only_the_sum(count: int, included: Sequence[int], colluding: Sequence[int]) -> np.ndarray:
    """What colluders have a right to: their own updates and the sum of the close."""
    rows = [np.eye(1, count, one, dtype=np.int64)[0] for one in colluding]
    rows.append(np.isin(np.arange(count), included).astype(np.int64))
    reduced = echelon(np.array(rows))
    return reduced[reduced.any(1)]


def offer_all(members: Members) -> None:
    for one in members.attempts:
        assert one.offer(Digest(b"1" * 32))


@pytest.mark.parametrize("count", [4, 5, 7])
def test_colluders_below_the_threshold_learn_the_sum_of_the_others_and_nothing_more(count: int) -> None:
    """All have offered, late ones too; all that are honest reveal. Whoever colludes, whoever was left out."""
    members = Members(count).deal()
    shape = members.roster.shape
    offer_all(members)
    rng = random.Random(count)
    stories = [
        (included, colluding)
        for size in range(shape.included_min, count + 1)
        for included in itertools.combinations(range(count), size)
        for bad in range(shape.threshold)
        for colluding in itertools.combinations(range(count), bad)
    ]
    for included, colluding in rng.sample(stories, min(len(stories), 120)):
        again = members.again()
        honest = [one for one in range(count) if one not in colluding]
        close = again.close(included)
        known = known_secrets(again, colluding, dict.fromkeys(honest, close))
        assert not any((one, SELF) in known and (one, MASK) in known for one in honest), "never both of anybody"
        follows = what_follows(again, range(count), colluding, known)
        right = only_the_sum(count, included, colluding)
        assert np.array_equal(follows, right), (included, colluding)


def test_more_colluders_than_the_ledger_bears_liars_may_have_one_other_for_a_sum() -> None:
    """Of four sites one has dropped out, and two collude, fewer than the threshold: they know all of the sum but one update.

    A charter that asks for more contributions to a round keeps more others in its sums.
    """
    members = Members(4).deal()
    offer_all(members)
    included, colluding = [0, 1, 2], [0, 1]
    assert len(colluding) < members.roster.shape.threshold
    known = known_secrets(members, colluding, dict.fromkeys([2, 3], members.close(included)))
    follows = what_follows(members, range(4), colluding, known)
    assert any(np.flatnonzero(row).tolist() == [2] for row in follows)
    roster = Rostered(1, e.MaskRoster(1, 1, (), (), ()), cast("tuple[Keyed, ...]", (None,) * 4), swarm=4)
    assert [included_min(roster, asked) for asked in (3, 4)] == [3, 4]


def test_on_a_sparse_graph_it_is_the_sum_as_well() -> None:
    members = Members(31)
    shape = members.roster.shape
    assert not shape.complete
    offer_all(members.deal())
    rng = random.Random(1)
    for _ in range(2):
        again = members.again()
        colluding = sorted(rng.sample(range(31), 10))
        included = sorted(rng.sample(range(31), 28))
        honest = [one for one in range(31) if one not in colluding]
        known = known_secrets(again, colluding, dict.fromkeys(honest, again.close(included)))
        follows = what_follows(again, range(31), colluding, known)
        assert np.array_equal(follows, only_the_sum(31, included, colluding))


@pytest.mark.parametrize("count", [4, 5, 7])
def test_two_closes_shown_to_different_members_open_no_update(count: int) -> None:
    """The ledger is forked, f members lie: however the honest are divided, no one's two secrets come together."""
    members = Members(count).deal()
    offer_all(members)
    shape, bad = members.roster.shape, (count - 1) // 3
    rng = random.Random(count)
    closes = [
        members.close(who)
        for size in range(shape.included_min, count + 1)
        for who in itertools.combinations(range(count), size)
    ]
    for _ in range(120):
        again = members.again()
        colluding = sorted(rng.sample(range(count), bad))
        honest = [one for one in range(count) if one not in colluding]
        two = rng.sample(closes, 2)
        known = known_secrets(again, colluding, {one: rng.choice(two) for one in honest})
        assert not any((one, SELF) in known and (one, MASK) in known for one in honest)
        follows = what_follows(again, range(count), colluding, known)
        for row in follows:
            others = [one for one in honest if row[one]]
            assert len(others) != 1, "somebody's update follows"


def test_a_threshold_of_colluders_opens_everything_and_so_would_both_kinds_of_share() -> None:
    """The counting sees what it is there to see."""
    members = Members(5).deal()
    offer_all(members)
    included, colluding = [0, 1, 2, 3, 4], [0, 1, 2, 3]
    again = members.again()
    known = known_secrets(again, colluding, {4: again.close(included)})
    assert (4, SELF) in known
    assert (4, MASK) in known
    again = members.again()
    colluding = [0]
    known = known_secrets(again, colluding, dict.fromkeys([1, 2, 3, 4], again.close(included)))
    assert len(what_follows(again, range(5), colluding, known)) == 2
    follows = what_follows(again, range(5), colluding, known | {(3, MASK)})
    assert any(np.flatnonzero(row).tolist() == [3] for row in follows)


def test_a_close_is_of_the_attempt_it_is_told_to() -> None:
    members = Members(4).deal()
    other = Members(4, attempt=2).deal()
    offer_all(members)
    offer_all(other)
    close = members.close([0, 1, 2, 3])
    assert close == Close(CLOSE, tuple(other.nodes))
    one, two = members.attempts[1].close(close), other.attempts[1].close(close)
    assert one is not None
    assert two is not None
    assert {share for _, share in one.shares}.isdisjoint(share for _, share in two.shares)
    assert (one.attempt, two.attempt) == (1, 2)

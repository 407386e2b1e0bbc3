from collections import Counter

import numpy as np
import pytest

from swarm.errors import UsageError
from topologies import chance
from topologies.epidemic import el_local, el_oracle, od_equidyn, ou_equidyn, random_matching
from topologies.weights import ratio_consensus

KEY = "4a6629288f0bbd60a853eb01b34efcc23f140c0530972930071b1495bf0a3ead"
PARTNERS = [[1, 0, 3, 2, 6, 7, 4, 5], [5, 2, 1, 4, 3, 0, 7, 6]]
TOLD = [(3, 5), (0, 4), (4, 5), (1, 2), (0, 5), (2, 3)]
LINKED = [(2, 3, 4), (3, 4, 5), (0, 3, 5), (0, 1, 2), (0, 1, 5), (1, 2, 4)]
SHIFTS = [(4,), (1,), (1,), (1,)]


def test_draws_are_the_same_for_ever() -> None:
    # Frozen: a peer that drew otherwise would talk to nobody. A new way of drawing needs a new name.
    assert chance.key("matching", 7, 0, b"charter").hex() == KEY
    schedule = random_matching(8, seed=7, membership=b"charter")
    assert [[schedule.targets(t, node)[0] for node in range(8)] for t in range(2)] == PARTNERS
    assert [el_local(6, 2, seed=1).targets(0, node) for node in range(6)] == TOLD
    assert [el_oracle(6, 3, seed=1).targets(0, node) for node in range(6)] == LINKED
    assert [od_equidyn(7, seed=1).targets(t, 0) for t in range(4)] == SHIFTS


def test_keys_differ_wherever_anything_does() -> None:
    keys = [
        chance.key("a", 1, 2),
        chance.key("b", 1, 2),
        chance.key("a", 12, 2),
        chance.key("a", 1, 22),
        chance.key("a", -1, 2),
        chance.key("a", 1, 2, b"x"),
        chance.key("a1", 1, 2),
        chance.key("a", 1, 2, b"2"),
    ]
    assert len(set(keys)) == len(keys)


def test_draws_are_fair_and_within_bounds() -> None:
    draw = chance.Draw(chance.key("fair", 0, 0))
    counts = Counter(draw.below(7) for _ in range(7000))
    assert sorted(counts) == list(range(7))
    # Binomial(7000, 1/7) has standard deviation 29: five of them.
    assert all(abs(count - 1000) < 150 for count in counts.values())
    assert draw.below(1) == 0
    assert sorted(draw.shuffled("abcdef")) == list("abcdef")
    samples = Counter(tuple(draw.sample(4, 2)) for _ in range(6000))
    assert len(samples) == 6
    assert all(abs(count - 1000) < 150 for count in samples.values())
    assert draw.sample(5, 5) == [0, 1, 2, 3, 4]
    assert draw.sample(5, 0) == []
    # 2^64 = 3 * 21845... + 1: the last word would make 0 likelier than 1 and 2, so it is thrown again.
    draw._words = [5, 2**64 - 1]
    assert draw.below(3) == 2


@pytest.mark.parametrize("n", [1, 2, 5, 8, 33])
def test_a_matching_pairs_everybody_but_an_odd_one(n: int) -> None:
    schedule = random_matching(n, seed=3)
    for t in range(10):
        partners = [schedule.targets(t, node) for node in range(n)]
        assert sum(not partner for partner in partners) == n % 2
        assert all(partners[partner[0]] == (node,) for node, partner in enumerate(partners) if partner)
        assert all(schedule.row(t, node)[0][1] == (0.5 if partners[node] else 1.0) for node in range(n))


def test_every_pair_is_as_likely_as_any_other() -> None:
    schedule = random_matching(6, seed=11)
    met = Counter((min(a, b), max(a, b)) for t in range(3000) for a, b in schedule.mixing(t).edges)
    assert len(met) == 15
    # Each of the 15 pairs meets in a fifth of 3000 rounds, counted from both sides; 5 standard deviations are 110.
    assert all(abs(count / 2 - 600) < 110 for count in met.values())


def test_seed_round_and_membership_each_deal_anew() -> None:
    def partners(seed: int, t: int, membership: bytes) -> tuple[tuple[int, ...], ...]:
        schedule = random_matching(20, seed, membership)
        return tuple(schedule.targets(t, node) for node in range(20))

    dealt = [partners(0, 0, b""), partners(1, 0, b""), partners(0, 1, b""), partners(0, 0, b"with a new site")]
    assert len(set(dealt)) == 4
    assert partners(1, 0, b"") == dealt[1]


def test_el_oracle_gives_everybody_the_same_number_of_links() -> None:
    schedule = el_oracle(11, 4, seed=5)
    for t in range(10):
        assert [len(schedule.targets(t, node)) for node in range(11)] == [4] * 11
        assert all(weight == 0.2 for node in range(11) for _, weight in schedule.row(t, node))
    assert schedule.mixing(0) != schedule.mixing(1)
    assert el_oracle(5, 4).mixing(9).is_doubly_stochastic  # the only graph there is


def test_el_local_senders_choose_alone_and_never_themselves() -> None:
    schedule = el_local(12, 3, seed=2)
    received = Counter()
    for t in range(20):
        for node in range(12):
            targets = schedule.targets(t, node)
            assert len(set(targets)) == 3
            assert node not in targets
            received.update([len(schedule.sources(t, node))])
    assert len(received) > 3, "how many one hears from is chance"


def test_el_local_agrees_on_the_mean_by_push_sum_and_on_something_else_by_plain_averaging() -> None:
    n = 50
    x = np.random.default_rng(0).standard_normal((n, 20))
    mean = x.mean(axis=0)
    by_ratio = ratio_consensus(el_local(n, 4).mixings(60), x, [1] * n)
    np.testing.assert_allclose(by_ratio, np.tile(mean, (n, 1)), atol=1e-9)
    plain = x
    for mixing in el_local(n, 4, weights="row").mixings(60):
        plain = mixing.apply(plain)
    assert abs(plain - plain[0]).max() < 1e-9, "they agree"
    off = np.linalg.norm(plain[0] - mean) / np.linalg.norm(x - mean, axis=1).mean()
    assert 0.01 < off < 0.15, "but a few per cent of their spread away from the mean"


def test_equidyn_weights_by_hand() -> None:
    # n = 4, eta = 1/2: 3/8 travels, 5/8 stays.
    directed = od_equidyn(4, seed=0)
    shift = directed.targets(0, 0)[0]
    assert dict(directed.row(0, 0)) == {0: 0.625, (0 - shift) % 4: 0.375}
    paired = ou_equidyn(5, seed=0)
    for t in range(10):
        alone = [node for node in range(5) if paired.row(t, node) == ((node, 1.0),)]
        assert len(alone) in (1, 3)
        assert all(len(paired.row(t, node)) == 2 for node in range(5) if node not in alone)
        gaps = {abs(a - b) for a, b in paired.mixing(t).edges}
        assert len({min(gap, 5 - gap) for gap in gaps}) == 1, "one shift a round"


def test_equidyn_keeps_to_the_shifts_it_is_given() -> None:
    schedule = od_equidyn(9, shifts=(2, 5))
    assert {schedule.targets(t, 0)[0] for t in range(40)} == {2, 5}


@pytest.mark.parametrize(
    ("make", "sentence", "hint"),
    [
        (lambda: el_oracle(5, 3), "5 members with 3 links each leave one link end over", "Choose 4 links"),
        (lambda: el_oracle(5, 5), "5 links a round are impossible with 5 members", "1 to 4"),
        (lambda: el_local(5, 0), "0 links a round are impossible", "1 to 4"),
        (lambda: el_local(1, 1), "of 1 members: it must have 2", "number of members"),
        (lambda: od_equidyn(5, eta=1.0), "eta = 1.0", "between 0 and 1"),
        (lambda: ou_equidyn(5, eta=0.0), "eta = 0.0", "between 0 and 1"),
        (lambda: od_equidyn(5, shifts=[5]), "a shift is out of range", "1 to 4"),
        (lambda: od_equidyn(5, shifts=[]), "or there is none", "1 to 4"),
        (lambda: random_matching(0), "of 0 members", "number of members"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_would(make: object, sentence: str, hint: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        make()  # type: ignore[operator]
    assert hint in caught.value.hint

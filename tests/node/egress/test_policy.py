"""A site's rules: every reason against a charter at once, and no typo that lets anything out."""

from __future__ import annotations

import msgspec
import pytest

from node.config import load
from node.egress.policy import MISFIT, Policy, check, has, largest_update, objections, policy_of
from swarm import charter as c
from swarm.errors import UsageError
from swarm.privacy.accounting import Budget
from tests.builders import make_swarm

FOUR = make_swarm(4, rounds=5).signed.charter
ME = make_swarm(4).identities[0].node
NAMES = [card.name for card in FOUR.members]


def reasons(
    policy: Policy, charter: c.Charter = FOUR, *, elsewhere: int = 0, budget: Budget | None = None
) -> list[str]:
    return objections(policy, charter, ME, elsewhere=elsewhere, budget=budget)


def test_a_site_without_rules_lets_out_what_the_charter_says() -> None:
    assert policy_of(load("", where="x").egress) == Policy()
    assert reasons(Policy()) == []


def test_all_reasons_are_told_in_one_go() -> None:
    policy = Policy(
        rounds=4,
        peers=(NAMES[1],),
        update_bytes=100,
        noise=1.0,
        metrics=(),
        require=("gossip", "privacy"),
        forbid=("exact",),
    )
    found = reasons(policy)
    assert found == [
        "it has 5 rounds, this site lets out 4 in all",
        f"{NAMES[2]} and {NAMES[3]} would see this site's updates, and may not",
        "an update has up to 0.000122 MiB, this site lets out 9.54e-05 MiB",
        "it has loss told, which may not leave this site",
        "it lacks gossip and privacy, without which nothing leaves this site",
        "it has exact, which this site takes no part in",
        "it sets no privacy budget, nor does this site, and updates must be trained privately here",
    ]
    with pytest.raises(UsageError, match="couldn't join: the charter of 'x' asks for more than this site") as caught:
        check(found, "x", "couldn't join")
    assert caught.value.identifier == MISFIT
    assert all(reason in caught.value.message for reason in found)


@pytest.mark.parametrize(
    ("policy", "fits"),
    [
        (Policy(rounds=5), True),
        (Policy(rounds=4), False),
        (Policy(peers=tuple(NAMES)), True),
        (Policy(peers=tuple(NAMES[1:])), True),
        (Policy(peers=()), False),
        (Policy(update_bytes=128), True),
        (Policy(update_bytes=127), False),
        (Policy(metrics=("loss", "auc")), True),
        (Policy(metrics=("auc",)), False),
        (Policy(norm=0.001), True),
        (Policy(require=("exact",)), True),
        (Policy(forbid=("gossip", "codec")), True),
    ],
)
def test_each_rule_holds_at_its_edge(policy: Policy, fits: bool) -> None:
    assert (reasons(policy) == []) is fits


def test_rounds_of_other_swarms_count() -> None:
    assert reasons(Policy(rounds=7), elsewhere=2) == []
    (why,) = reasons(Policy(rounds=7), elsewhere=3)
    assert "updates of 3 have left for other swarms" in why


def test_noise_needs_a_budget_of_either() -> None:
    assert reasons(Policy(noise=1.0), budget=Budget(3.0, 1e-5)) == []
    assert len(reasons(Policy(epsilon_round=1.0))) == 1


def test_members_may_be_named_by_their_ids_and_by_no_short_ones() -> None:
    others = [card.node.hex() for card in FOUR.members[1:]]
    assert reasons(Policy(peers=tuple(one[:16] for one in others))) == []
    assert reasons(Policy(peers=tuple(one[:15] for one in others))) != []


def test_a_term_may_be_named_with_the_beginning_of_its_value() -> None:
    options = c.options_of(codec="int8", contribution="shapley:accuracy:higher:20")
    charter = msgspec.structs.replace(FOUR, options=options)
    for term, there in (
        ("contribution", True),
        ("contribution:shapley", True),
        ("contribution:sha", False),
        ("contribution:loo", False),
        ("codec:int8", True),
        ("exact", True),
        ("gossip", False),
        ("local", False),
    ):
        assert has(charter, term) is there
    assert largest_update(charter) < largest_update(FOUR) == 128


def test_the_size_of_a_masked_update_is_that_of_its_words() -> None:
    charter = make_swarm(4, masks="pairwise:64", min_contributions=3).charter
    assert largest_update(charter) == 2 * largest_update(FOUR)
    assert reasons(Policy(update_bytes=200), charter) == [
        "an update has up to 0.000244 MiB, this site lets out 0.000191 MiB"
    ]


def test_the_stricter_norm_counts() -> None:
    assert Policy(norm=1.5).bound(FOUR) == 1.5
    assert Policy(norm=1e9).bound(FOUR) == Policy().bound(FOUR) == FOUR.clip_norm


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('forbid = "gosip"', "did you mean gossip?"),
        ('require = "exact:1"', "did you mean exact?"),
        ('forbid = "codec:"', "did you mean codec?"),
        ('forbid = "qqq"', "known are exact, gossip, "),
        ('approve = "yes"', "choose one of no, first, every"),
        ("rounds = -1", "or 0 to leave it to the charter"),
        ("norm = nan", "or 0 to leave it to the charter"),
        ("update_mb = inf", "or 0 to leave it to the charter"),
    ],
)
def test_what_no_rule_can_be_is_refused_in_words(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=r"couldn't use egress\.") as caught:
        load(f"[egress]\n{text}\n", where="x")
    assert hint in caught.value.hint


def test_an_empty_list_is_nobody_and_a_star_is_everybody() -> None:
    rules = policy_of(load('[egress]\npeers = ""\nmetrics = " * "\n', where="x").egress)
    assert (rules.peers, rules.metrics) == ((), None)

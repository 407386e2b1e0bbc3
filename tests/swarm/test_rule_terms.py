"""A charter's rule: what it can stand with, what a close and a commit are under it, and that old ledgers know none."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from msgspec.structs import replace

from swarm import charter as c
from swarm.errors import Reject, UsageError
from swarm.ledger import entry as e
from swarm.ledger import snapshot
from swarm.ledger.state import State, apply_derived, attested, due_commit, genesis, make_close
from swarm.round import Round
from swarm.terms import amended, founding, remove, repolicy
from tests.builders import CODE, Feeds, Swarm, contribution, digest, make_swarm
from tests.swarm.ledger.test_state import MODEL, T0, said

RULED = make_swarm(5, rule="trimmed:1", min_contributions=3)


def refused(**terms: object) -> UsageError:
    with pytest.raises(UsageError) as caught:
        make_swarm.__wrapped__(**({"n": 5, "min_contributions": 5} | terms)).charter.check()
    return caught.value


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"rule": "best"}, "for a rule of averaging"),
        ({"rule": "krum:1"}, "makes one site's update everybody's"),
        ({"rule": "median", "schedule": "ring"}, "with gossip mixing"),
        ({"rule": "median", "route": "sharded"}, "with a route"),
        ({"rule": "median", "staleness": 3}, "late work is to count"),
        ({"rule": "median", "staleness": 3, "asynchronous": "buffered"}, "late work is to count"),
        ({"rule": "median", "staleness": 3, "pace": 4}, "late work is to count"),
        ({"rule": "median", "codec": "topk:50"}, "under the codec topk:50"),
        ({"rule": "median", "codec": "int4"}, "under the codec int4"),
        ({"rule": "median", "weight_cap_ppm": 200_000}, "with a weight cap"),
        ({"rule": "trimmed:1", "min_contributions": 2}, "the rule trimmed:1 takes 3"),
        ({"rule": "multikrum:2", "n": 6, "min_contributions": 6}, "the rule multikrum:2 takes 7"),
    ],
)
def test_what_a_rule_cannot_stand_with_is_refused_in_words(terms: dict[str, object], words: str) -> None:
    error = refused(**terms)
    assert words in error.message
    assert error.hint


@pytest.mark.parametrize("codec", ["", "bf16", "int8"])
@pytest.mark.parametrize("rule", ["median", "trimmed:2", "geomedian", "multikrum:1", "nnm:1+trimmed:1"])
def test_a_rule_stands_with_codecs_that_leave_little_out(rule: str, codec: str) -> None:
    swarm = make_swarm(5, rule=rule, codec=codec, min_contributions=5)
    swarm.charter.check()
    assert str(swarm.charter.rule) == rule
    assert c.from_toml(c.to_toml(swarm.signed)).charter == swarm.charter


def test_a_charter_without_a_rule_is_as_it_was() -> None:
    assert make_swarm(4).charter.rule is None
    assert "rule" not in c.to_toml(make_swarm(4).signed)


def test_members_may_not_vote_below_what_the_rule_takes() -> None:
    terms = founding(RULED.charter)
    with pytest.raises(Reject, match="the rule trimmed:1 takes 3"):
        amended(terms, repolicy(replace(terms.round, min_contributions=2)), RULED.identities[0].node, RULED.charter)
    with pytest.raises(Reject, match="with a weight cap"):
        amended(terms, repolicy(replace(terms.round, weight_cap_ppm=500_000)), RULED.identities[0].node, RULED.charter)
    smaller = amended(terms, remove(RULED.identities[4].node), RULED.identities[0].node, RULED.charter)
    assert len(smaller.members) == 4


# --- in the log -------------------------------------------------------------------------------------------------------


def closed(swarm: Swarm, feeds: Feeds, samples: Sequence[int] = (10, 4000, 30, 40, 50)) -> State:
    state = genesis(swarm.signed)
    for author, count in enumerate(samples):
        state = said(state, feeds.write(author, contribution(swarm, author, samples=count)))
    close = make_close(state, list(state.contributions.values()), {})
    return apply_derived(state, e.ROUND_CLOSE, close, T0 + 1)


def attest(state: State, weights: Sequence[int], *, model: bytes = MODEL) -> e.Attest:
    assert state.close is not None
    used = tuple((p.author, p.body.update_digest, w) for p, w in zip(state.close.terms, weights, strict=True))
    return e.Attest(state.round, state.close.index, model, 128, used, b"")


def test_every_update_counts_as_one_whatever_samples_it_claims() -> None:
    state = closed(RULED, Feeds(RULED))
    assert state.close is not None
    assert [weight for _, weight in state.close.body.included] == [1] * 5
    assert state.close.rest == 0


def test_a_commit_takes_a_quorum_that_agrees_on_model_and_weights() -> None:
    feeds = Feeds(RULED)
    state = closed(RULED, feeds)
    for author in (0, 1, 2):
        state = said(state, feeds.write(author, attest(state, (1, 1, 1, 1, 0))))
    state = said(state, feeds.write(3, attest(state, (1, 1, 1, 0, 1))))
    assert due_commit(state) is None, "three and one, of which four are a quorum"
    state = said(state, feeds.write(4, attest(state, (1, 1, 1, 1, 0))))
    commit = due_commit(state)
    assert commit is not None
    assert (commit.model_digest, commit.attests) == (MODEL, 4)


def test_an_attest_that_does_not_name_what_was_averaged_does_not_count() -> None:
    feeds = Feeds(RULED)
    state = closed(RULED, feeds)
    right = attest(state, (1, 1, 1, 1, 0))
    for wrong in (
        replace(right, used=()),
        replace(right, used=right.used[:-1]),
        replace(right, used=right.used[::-1]),
        replace(right, used=(*right.used[:-1], (right.used[0][0], digest("another"), 1))),
    ):
        state = said(state, feeds.write(0, wrong))
        assert state.attests == {}
    state = said(state, feeds.write(0, right))
    assert len(state.attests) == 1, "its first word that can be right counts"
    assert attested(next(iter(state.attests.values()))[0]) == MODEL


@pytest.mark.parametrize("row", [(b"short", bytes(32), 1), (bytes(32), bytes(31), 1), (bytes(32), bytes(32), -1)])
def test_weights_out_of_range_are_refused(row: tuple[bytes, bytes, int]) -> None:
    feeds = Feeds(RULED)
    state = closed(RULED, feeds)
    right = attest(state, (1, 1, 1, 1, 0))
    for used in ((*right.used[:-1], row), (*right.used[:-1], (*right.used[-1][:2], 2**20 + 1))):
        with pytest.raises(Reject, match="weights it tells"):
            said(state, feeds.write(0, replace(right, used=used)))


def test_without_a_rule_an_attest_tells_no_weights() -> None:
    swarm = make_swarm(5)
    feeds = Feeds(swarm)
    state = closed(swarm, feeds)
    with pytest.raises(Reject, match="follows from the log"):
        said(state, feeds.write(0, attest(state, (1, 1, 1, 1, 0))))
    state = said(state, feeds.write(1, replace(attest(state, (1, 1, 1, 1, 1)), used=())))
    assert next(iter(state.attests.values())) == (MODEL, 128), "as it was before there were rules"


def test_a_state_under_a_rule_is_read_back_as_it_was_written() -> None:
    feeds = Feeds(RULED)
    state = closed(RULED, feeds)
    state = said(state, feeds.write(0, attest(state, (3, 2, 1, 0, 0))))
    assert snapshot.decode(state.encode(), State, RULED.signed) == state


def test_members_of_a_swarm_with_a_rule_are_limited_by_what_an_attest_holds() -> None:
    row = (bytes(32), bytes(32), 2**20)
    body = e.Attest(2**20, 2**40, bytes(32), 2**35, (row,) * 512, b"")
    assert len(msgspec.msgpack.encode(body)) < e.ENTRY_BYTES_MAX - e.ENVELOPE_BYTES_MAX


def test_after_a_crash_a_member_finds_the_model_that_it_has_attested() -> None:
    feeds = Feeds(RULED)
    state = closed(RULED, feeds)
    state = said(state, feeds.write(0, attest(state, (1, 1, 1, 1, 0))))
    again = Round(RULED.charter, RULED.identities[0].node, code_digest=CODE, data_digest=bytes(32))
    again.advance(state, [], lambda _: True, 0.0)
    assert MODEL in again.keep(state), "of the 64 bytes in the state, the model's half"

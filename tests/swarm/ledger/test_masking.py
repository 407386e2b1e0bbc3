"""What the log says of masks: each rule by what keeps it and what breaks it in one place.

The swarm has five members, so one may lie: rosters are of three, a sum is of four of five, and four shares make a secret.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.block import Root
from swarm.ledger.masking import LATE_ATTEMPT
from swarm.ledger.state import (
    Counted,
    State,
    activate,
    apply_derived,
    check_close,
    check_roster,
    due_commit,
    genesis,
    make_close,
    make_roster,
    make_void,
)
from swarm.masking.attempt import Attempt
from swarm.masking.keys import Occasion
from swarm.masking.statements import Keys, Reveal
from swarm.terms import amended, remove
from tests.builders import Feeds, contribution, digest, make_swarm
from tests.swarm.ledger.test_state import said

SWARM = make_swarm(5, masks="pairwise", min_contributions=3)
PLAIN = make_swarm(5)
START = genesis(SWARM.signed)
NODES = [who.node for who in SWARM.identities]
T0 = START.time_ms
SHARE = bytes(64)


def keys(member: int, attempt: int = 1, *, samples: int = 10, base: bytes = b"", again: bool = False) -> Keys:
    root = digest(f"root {member} {attempt} {again}")
    found = Attempt(Occasion(SWARM.signed.ledger_id, 1, attempt), NODES[member], root).keys
    return Keys(1, attempt, 0, base or SWARM.charter.task.initial_model, samples, *found)


def posted(feeds: Feeds, who: Sequence[int] = range(5), state: State = START, attempt: int = 1) -> State:
    for member in who:
        state = said(state, feeds.write(member, keys(member, attempt, samples=10 * (member + 1))))
    return state


def rostered(feeds: Feeds, who: Sequence[int] = range(5), state: State = START, attempt: int = 1) -> State:
    state = posted(feeds, who, state, attempt)
    made = make_roster(state)
    assert made is not None
    return apply_derived(state, e.MASK_ROSTER, made, T0 + 1)


def deal(state: State) -> e.MaskDeal:
    assert state.masking is not None
    assert state.masking.roster is not None
    return e.MaskDeal(1, state.masking.roster.index, digest("deal"), 1_000)


def dealt(feeds: Feeds, who: Sequence[int] = range(5)) -> State:
    state = rostered(feeds)
    for member in who:
        state = said(state, feeds.write(member, deal(state)))
    return state


def offer(member: int, attempt: int = 1, **more: object) -> e.Contribution:
    body = contribution(SWARM, member, attempt=attempt, samples=10 * (member + 1))
    return replace(body, update_bytes=SWARM.charter.masked_bytes, **more)


def offered(feeds: Feeds, who: Sequence[int] = range(5)) -> State:
    state = dealt(feeds)
    for member in who:
        state = said(state, feeds.write(member, offer(member)))
    return state


def all_in(state: State) -> e.RoundClose:
    return make_close(state, list(state.contributions.values()), {})


def closed(feeds: Feeds, who: Sequence[int] = range(5)) -> State:
    state = offered(feeds, who)
    return apply_derived(state, e.ROUND_CLOSE, all_in(state), T0 + 2)


def ended(state: State, body: e.MaskRoster) -> State:
    check_roster(state, body)
    return apply_derived(state, e.MASK_ROSTER, body, T0 + 2)


# --- rosters --------------------------------------------------------------------------------------------------------


def test_a_roster_is_of_all_whose_keys_are_in_with_the_weights_of_their_samples() -> None:
    state = posted(Feeds(SWARM), [3, 0, 1])
    made = make_roster(state)
    assert made == e.MaskRoster(1, 1, ((2, 10), (3, 20), (1, 40)), (NODES[2], NODES[4]), ())
    check_roster(state, made)
    for wrong in (
        replace(made, included=((2, 10), (3, 20))),
        replace(made, included=((2, 10), (3, 20), (1, 41))),
        replace(made, missing=()),
        replace(made, attempt=2),
    ):
        with pytest.raises(Reject, match="not what follows from the log"):
            check_roster(state, wrong)


def test_a_roster_takes_three() -> None:
    feeds = Feeds(SWARM)
    state = posted(feeds, [0, 1])
    assert make_roster(state) is None
    assert make_roster(posted(feeds, [2], state)) is not None


def test_keys_like_anothers_or_for_another_base_are_left_out() -> None:
    feeds = Feeds(SWARM)
    state = posted(feeds, [0, 1, 2])
    copied = replace(keys(3), seal_key=keys(0).mask_key)
    state = said(state, feeds.write(3, copied))
    state = said(state, feeds.write(4, keys(4, base=digest("elsewhere"))))
    made = make_roster(state)
    assert made is not None
    assert made.rejected == ((4, e.UNUSABLE), (5, e.OTHER_BASE))
    assert len(made.included) == 3


def test_late_work_is_on_a_roster_for_what_it_is_still_worth_and_once() -> None:
    """Members 0 to 2 start from the model of the round before, 3 from the one before that, and 4 has been in already."""
    late = make_swarm(5, masks="pairwise", min_contributions=3, staleness=2)
    first, second = digest("model 1"), digest("model 2")
    start = genesis(late.signed)
    committed = replace(start.committed, round=2, model=second)
    counted = {NODES[4]: Counted(2, 10)}
    state = replace(start, committed=committed, models=(first, start.committed.model), counted=counted)
    feeds = Feeds(late)
    for member, base in enumerate((second, second, second, first, first)):
        state = said(state, feeds.write(member, replace(keys(member, samples=100, base=base), round=3)))
    made = make_roster(state)
    assert made is not None
    assert [weight for _, weight in made.included] == [100, 100, 100, 70], "100 divided by the root of 2"
    assert made.rejected == ((5, e.OTHER_BASE),)
    state = apply_derived(state, e.MASK_ROSTER, made, T0 + 1)
    body = replace(
        contribution(late, 3, number=2, attempt=1 + LATE_ATTEMPT, samples=100, base=first),
        update_bytes=late.charter.masked_bytes,
    )
    for wrong in ({"round": 3}, {"attempt": 1}, {"base_digest": second}):
        assert not said(state, feeds.write(3, replace(body, **wrong), advance=False)).contributions
    after = said(state, feeds.write(3, body))
    assert [*after.contributions] == [(3, NODES[3])]
    assert after.late == (state.size,)


def test_the_last_keys_before_the_roster_count_and_none_after_it() -> None:
    feeds = Feeds(SWARM)
    state = said(START, feeds.write(0, keys(0)))
    state = said(state, feeds.write(0, keys(0, again=True)))
    state = rostered(feeds, [1, 2], state)
    assert state.masking is not None
    seat = state.masking.seat(NODES[0])
    assert seat is not None
    assert seat.body == keys(0, again=True)
    assert posted(feeds, [3], state).masking == state.masking


def test_who_asks_for_no_masks_has_none() -> None:
    assert genesis(PLAIN.signed).masking is None
    with pytest.raises(Reject, match="the charter asks for none"):
        said(genesis(PLAIN.signed), Feeds(PLAIN).write(0, keys(0)))
    with pytest.raises(Reject, match="no round is open to masks"):
        check_roster(genesis(PLAIN.signed), e.MaskRoster(1, 1, (), (), ()))


# --- deals and offers -----------------------------------------------------------------------------------------------


def test_of_deals_the_first_for_this_roster_counts() -> None:
    feeds = Feeds(SWARM)
    state = dealt(feeds, [0])
    again = said(state, feeds.write(0, replace(deal(state), digest=digest("another"))))
    assert again.masking == state.masking
    other = said(state, feeds.write(1, replace(deal(state), roster=3)))
    assert other.masking == state.masking


@pytest.mark.parametrize(
    "wrong",
    [{"samples": 11}, {"base_digest": digest("elsewhere")}, {"attempt": 2}, {"update_bytes": 128}, {"round": 2}],
)
def test_what_is_not_the_masked_form_of_what_was_announced_stands_in_no_round(wrong: dict[str, object]) -> None:
    feeds = Feeds(SWARM)
    state = dealt(feeds)
    assert not said(state, feeds.write(0, replace(offer(0), **wrong))).contributions
    assert said(state, feeds.write(1, offer(1))).contributions


def test_a_second_masked_update_takes_nobodys_place() -> None:
    feeds = Feeds(SWARM)
    state = offered(feeds, [0])
    again = said(state, feeds.write(0, replace(offer(0), update_digest=digest("another"))))
    assert again.contributions == state.contributions


def test_a_close_is_of_as_many_as_a_sum_takes_once_all_have_dealt() -> None:
    state = offered(Feeds(SWARM), [0, 1, 2])
    with pytest.raises(Reject, match="3 of 5, a sum must be of 4"):
        check_close(state, all_in(state))
    state = offered(Feeds(SWARM), [0, 1, 2, 4])
    found = all_in(state)
    assert [weight for _, weight in found.included] == [10, 20, 30, 50]
    assert found.missing == (NODES[3],)
    assert len(check_close(state, found)) == 4
    feeds = Feeds(SWARM)
    lacking = dealt(feeds, [0, 1, 2, 3])
    for member in range(4):
        lacking = said(lacking, feeds.write(member, offer(member)))
    with pytest.raises(Reject, match="nobody could mask for it yet"):
        check_close(lacking, all_in(lacking))


# --- an attempt ends ------------------------------------------------------------------------------------------------


def test_who_does_not_deal_is_barred_and_all_others_begin_anew() -> None:
    feeds = Feeds(SWARM)
    state = dealt(feeds, [0, 1, 3, 4])
    for wrong, why in (
        (e.MaskRoster(1, 1, (), (), ()), "does not name"),
        (e.MaskRoster(1, 1, (), (NODES[3],), ()), "does not name"),
        (e.MaskRoster(1, 1, (), (NODES[2],), ((99, 1),)), "was not said"),
    ):
        with pytest.raises(Reject, match=why):
            check_roster(state, wrong)
    after = ended(state, e.MaskRoster(1, 1, (), (NODES[2],), ()))
    assert after.masking is not None
    assert (after.masking.attempt, after.masking.barred, after.masking.roster) == (2, (NODES[2],), None)
    after = posted(feeds, range(5), after, attempt=2)
    made = make_roster(after)
    assert made is not None
    assert (made.attempt, len(made.included), made.missing) == (2, 4, (NODES[2],))
    assert posted(feeds, [0], after, attempt=1).masking == after.masking, "keys of another attempt are none"


def test_who_does_not_offer_is_barred_if_too_few_have() -> None:
    state = offered(Feeds(SWARM), [0, 1, 2])
    after = ended(state, e.MaskRoster(1, 1, (), (NODES[3], NODES[4]), ()))
    assert after.masking is not None
    assert after.masking.barred == (NODES[3], NODES[4])
    assert not after.contributions
    enough = offered(Feeds(SWARM), [0, 1, 2, 3])
    with pytest.raises(Reject, match="enough have offered"):
        check_roster(enough, e.MaskRoster(1, 1, (), (NODES[4],), ()))
    away = {placed.index: e.UNAVAILABLE for placed in enough.contributions.values() if placed.author == NODES[0]}
    check_roster(enough, e.MaskRoster(1, 1, (), (NODES[4],), tuple(away.items())))


def test_so_many_are_barred_that_the_round_can_go_on_or_nobody() -> None:
    state = dealt(Feeds(SWARM), [0, 1])
    after = ended(state, e.MaskRoster(1, 1, (), tuple(NODES[2:]), ()))
    assert after.masking is not None
    assert after.masking.barred == ()


# --- the close and after --------------------------------------------------------------------------------------------


def test_of_what_is_revealed_the_first_for_this_close_counts() -> None:
    feeds = Feeds(SWARM)
    state = closed(feeds)
    assert state.close is not None
    reveal = Reveal(1, 1, state.close.index, ((0, SHARE),))
    after = said(state, feeds.write(0, reveal))
    assert after.masking is not None
    assert after.masking.reveals == {NODES[0]: reveal}
    for wrong in (replace(reveal, shares=()), replace(reveal, close=5), replace(reveal, attempt=2)):
        after = said(after, feeds.write(0, wrong))
        assert after.masking is not None
        assert after.masking.reveals == {NODES[0]: reveal}
    assert said(after, feeds.write(1, replace(reveal, close=5))).masking == after.masking


def test_a_round_without_a_sum_ends_with_the_model_of_the_round_before() -> None:
    feeds = Feeds(SWARM)
    state = closed(feeds, [0, 1, 2, 4])
    void = make_void(state)
    assert (void.attempt, void.included, void.missing) == (2, (), (NODES[3],))
    assert {reason for _, reason in void.rejected} == {e.VOID}
    with pytest.raises(Reject, match="already closed"):
        check_close(state, replace(void, missing=()))
    state = apply_derived(state, e.ROUND_CLOSE, void, T0 + 3)
    assert state.void
    with pytest.raises(Reject, match="already closed"):
        check_close(state, void)
    model = state.committed.model
    assert state.close is not None
    for member in range(4):
        state = said(state, feeds.write(member, e.Attest(1, state.close.index, model, 128, (), b"")))
    commit = due_commit(state)
    assert commit is not None
    assert (commit.model_digest, commit.samples) == (model, 0)
    after = apply_derived(state, e.ROUND_COMMIT, commit, T0 + 4)
    assert after.masking is not None
    assert (after.round, after.masking.attempt, after.masking.roster, after.contributions) == (2, 1, None, {})


def test_a_change_of_members_ends_an_attempt_and_leaves_a_close_as_it_is() -> None:
    root = Root(digest("block"), 1, 1)
    coming = amended(START.terms, remove(NODES[4]), NODES[4], SWARM.charter)
    state = activate(replace(offered(Feeds(SWARM)), coming=coming), root)
    assert state.masking is not None
    assert (state.masking.attempt, state.masking.roster, state.masking.barred) == (2, None, ())
    assert not state.contributions
    early = activate(replace(posted(Feeds(SWARM)), coming=coming), root)
    assert early.masking is not None
    assert {*early.masking.keys} == {*NODES[:4]}
    assert early.masking.attempt == 1
    late = closed(Feeds(SWARM))
    over = activate(replace(late, coming=coming), root)
    assert over.masking == late.masking
    assert over.contributions == late.contributions

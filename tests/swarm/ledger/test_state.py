"""What the log means: each rule by a block that keeps it and blocks that break it in one place.

The swarm has four members, so one may lie and three agree. Its model starts from the charter's initial one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import msgspec
import pytest
from msgspec.structs import replace

from swarm import charter as c
from swarm import codec
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.block import NO_HASH, NOTARIZE, Certificate, Header, entries_hash, justify_hash
from swarm.ledger.merkle import Frontier, leaf_hash
from swarm.ledger.state import (
    Head,
    Signatures,
    State,
    apply_authored,
    apply_block,
    apply_derived,
    check_close,
    derived_leaf,
    due_commit,
    genesis,
    make_close,
    open_authored,
)
from tests.builders import CODE, Feeds, Swarm, certify, changed, contribution, digest, identity, make_swarm

SWARM = make_swarm(4)
START = genesis(SWARM.signed)
MODEL, OTHER_MODEL = digest("model 1"), digest("another model 1")
T0 = START.time_ms


def attest(state: State, model: bytes = MODEL, *, close_index: int | None = None) -> e.Attest:
    index = close_index if close_index is not None else (state.close.index if state.close else 0)
    return e.Attest(state.round, index, model, 128, (), b"")


def said(state: State, leaf: bytes) -> State:
    """Return the state after one authored entry."""
    return apply_authored(state, open_authored(state, e.decode_entry(leaf), leaf, Signatures()))


def contributed(feeds: Feeds, samples: Sequence[int] = (10, 20, 30, 40)) -> State:
    """Return the state in which the first members have contributed to round 1."""
    state = START
    for author, count in enumerate(samples):
        state = said(state, feeds.write(author, contribution(SWARM, author, samples=count)))
    return state


def in_round(state: State) -> list[e.Contribution]:
    return [placed.body for placed in state.contributions.values()]


def all_placed(state: State) -> e.RoundClose:
    return make_close(state, list(state.contributions.values()), {})


def closed(feeds: Feeds) -> State:
    state = contributed(feeds)
    return apply_derived(state, e.ROUND_CLOSE, all_placed(state), T0 + 1)


def attested(state: State, feeds: Feeds, authors: Sequence[int], model: bytes = MODEL) -> State:
    for author in authors:
        state = said(state, feeds.write(author, attest(state, model)))
    return state


def header_of(before: State, after: State, leaves: Sequence[bytes], time_ms: int) -> Header:
    """Return the header of a block that leads from one state to another."""
    after = replace(after, height=before.height + 1, time_ms=time_ms)
    return Header(
        epoch=0,
        view=after.height,
        height=after.height,
        parent_hash=digest("parent"),
        parent_view=before.height,
        time_ms=time_ms,
        first_index=before.size,
        count=len(leaves),
        size=after.size,
        root=after.frontier.root(),
        entries_hash=entries_hash(leaves),
        state_hash=after.digest(),
        justify_hash=justify_hash(()),
    )


def accept(before: State, after: State, leaves: Sequence[bytes], time_ms: int) -> State:
    return apply_block(before, header_of(before, after, leaves, time_ms), leaves, Signatures())


# --- the beginning ------------------------------------------------------------------------------------------------


def test_the_ledger_begins_with_its_charter_and_round_one_is_open() -> None:
    assert START.frontier == Frontier().append(leaf_hash(SWARM.signed.genesis().encode()))
    assert (START.height, START.size, START.round, START.complete) == (0, 1, 1, False)
    assert START.committed.model == SWARM.charter.task.initial_model
    assert START.committed.model_bytes == 4 * 32
    assert START.heads == {who.node: Head(0, SWARM.signed.ledger_id) for who in SWARM.identities}


# --- feeds --------------------------------------------------------------------------------------------------------


def test_entries_continue_their_authors_feed_and_no_other() -> None:
    feeds = Feeds(SWARM)
    first, second = (feeds.write(0, contribution(SWARM, 0, attempt=attempt)) for attempt in (1, 2))
    with pytest.raises(Reject, match="entry 1 of .*: its feed stands at 0"):
        said(START, second)
    after = said(START, first)
    with pytest.raises(Reject, match="entry 0 of .*: its feed stands at 1"):
        said(after, first)
    assert said(after, second).heads[SWARM.identities[0].node].seq == 2
    assert after.heads[SWARM.identities[1].node] == Head(0, SWARM.signed.ledger_id)


def test_an_entry_that_follows_another_one_than_the_log_has_is_refused() -> None:
    ours, fork = Feeds(SWARM), Feeds(SWARM)
    state = said(START, ours.write(0, contribution(SWARM, 0, samples=1)))
    fork.write(0, contribution(SWARM, 0, samples=2))
    with pytest.raises(Reject, match="does not follow the entry before it"):
        said(state, fork.write(0, contribution(SWARM, 0, attempt=2)))


def test_strangers_forgeries_and_other_ledgers_are_refused() -> None:
    stranger = make_swarm(4, first=100)
    entry = e.decode_entry(Feeds(SWARM).write(0, contribution(SWARM, 0)))
    key = SWARM.identities[0].id_key
    fields = {"author": entry.author, "kind": entry.kind, "seq": 0, "prev": entry.prev, "ts_ms": 0}

    def signed(**other: object) -> e.Entry:
        body = contribution(SWARM, 0)
        return e.sign_entry(key, **{"ledger_id": SWARM.signed.ledger_id, "body": body, **fields, **other})  # type: ignore[arg-type]

    said(START, signed().encode())
    with pytest.raises(Reject, match="is not a member"):
        said(START, signed(author=stranger.identities[0].node).encode())
    with pytest.raises(Reject, match="belongs to another ledger"):
        said(START, signed(ledger_id=stranger.signed.ledger_id).encode())
    with pytest.raises(Reject, match="entry 0 of"):
        said(START, signed(author=SWARM.identities[1].node).encode())
    with pytest.raises(Reject, match="entry 0 of"):
        said(START, replace(entry, ts_ms=entry.ts_ms + 1).encode())


@pytest.mark.parametrize("kind", [e.CHARTER, e.ROUND_CLOSE, e.ROUND_COMMIT, e.BLOCK_CERT, e.EPOCH, e.SNAPSHOT])
def test_nobody_may_write_what_follows_from_the_log(kind: int) -> None:
    who = SWARM.identities[0]
    ledger_id = SWARM.signed.ledger_id
    body = contribution(SWARM, 0)
    forged = e.sign_entry(
        who.id_key, ledger_id=ledger_id, author=who.node, kind=kind, seq=0, prev=ledger_id, ts_ms=0, body=body
    )
    with pytest.raises(Reject, match=f"nobody may write a {e.KIND_NAMES[kind]} here"):
        said(START, forged.encode())


@pytest.mark.parametrize(
    "fields",
    [
        {"round": 0},
        {"attempt": 0},
        {"base_height": -1},
        {"samples": 0},
        {"samples": 2**40},
        {"base_digest": b"short"},
        {"update_digest": b""},
        {"code_digest": CODE + b"x"},
        {"data_digest": b"x" * 31},
        {"metrics": ((0, 1), (0, 2))},
        {"metrics": ((1, 1), (0, 2))},
        {"metrics": ((-1, 1),)},
        {"metrics": tuple((i, 0) for i in range(e.METRICS_MAX + 1))},
    ],
)
def test_a_contribution_out_of_range_is_refused(fields: dict[str, object]) -> None:
    body = replace(contribution(SWARM, 0), **fields)
    with pytest.raises(Reject):
        said(START, Feeds(SWARM).write(0, body))


@pytest.mark.parametrize(
    "body",
    [
        e.Attest(0, 1, MODEL, 128, (), b""),
        e.Attest(1, 1, b"short", 128, (), b""),
        e.Attest(1, 1, MODEL, 128, ((MODEL, MODEL, 1),), b""),
        e.Attest(1, 1, MODEL, 128, (), b"sketch"),
        e.Evaluation(-1, MODEL, 1, ()),
        e.Evaluation(1, b"short", 1, ()),
        e.Evaluation(1, MODEL, -1, ()),
        e.Evaluation(1, MODEL, 1, ((1, 0), (1, 0))),
    ],
)
def test_attests_and_evaluations_out_of_range_are_refused(body: msgspec.Struct) -> None:
    with pytest.raises(Reject):
        said(START, Feeds(SWARM).write(0, body))


def test_an_evaluation_is_recorded_and_decides_nothing() -> None:
    after = said(START, Feeds(SWARM).write(0, e.Evaluation(0, MODEL, 5, ((0, 123),))))
    assert after.size == 2
    assert replace(after, frontier=START.frontier, heads=START.heads) == START


# --- contributions ------------------------------------------------------------------------------------------------


def test_the_highest_attempt_counts() -> None:
    feeds, state = Feeds(SWARM), START
    for attempt, counts in ((2, 2), (1, 2), (2, 2), (5, 5)):
        state = said(state, feeds.write(0, contribution(SWARM, 0, attempt=attempt)))
        assert [body.attempt for body in in_round(state)] == [counts]
    assert state.contributions[1, SWARM.identities[0].node].index == 4


def test_training_may_be_one_round_ahead_and_no_further() -> None:
    feeds, state = Feeds(SWARM), START
    for number in (2, 3, 1):
        state = said(state, feeds.write(0, contribution(SWARM, 0, number=number)))
    assert [body.round for body in in_round(state)] == [2, 1]
    assert state.size == 4, "what does not count is on record all the same"


def test_what_comes_after_its_round_has_closed_is_late_and_named_in_the_commit() -> None:
    feeds = Feeds(SWARM)
    state = contributed(feeds, (10, 20, 30))
    state = apply_derived(state, e.ROUND_CLOSE, all_placed(state), T0 + 1)
    late = state.size
    state = said(state, feeds.write(3, contribution(SWARM, 3)))
    assert state.late == (late,)
    assert len(in_round(state)) == 3
    state = attested(state, feeds, (0, 1, 2))
    commit = due_commit(state)
    assert commit is not None
    assert (commit.late, commit.missing, commit.samples) == ((late,), (SWARM.identities[3].node,), 60)
    state = apply_derived(state, e.ROUND_COMMIT, commit, T0 + 2)
    assert state.late == ()
    state = said(state, feeds.write(3, contribution(SWARM, 3, attempt=2)))
    assert state.late == (state.size - 1,), "round 1 is over for good"


# --- closes -------------------------------------------------------------------------------------------------------


def test_weights_are_the_sample_counts_in_member_order() -> None:
    feeds = Feeds(SWARM)
    state = START
    for author, samples in ((2, 30), (0, 10), (3, 40)):
        state = said(state, feeds.write(author, contribution(SWARM, author, samples=samples)))
    close = all_placed(state)
    assert close.included == ((2, 10), (1, 30), (3, 40)), "entry 0 is the charter; member 0 wrote entry 2"
    assert close.missing == (SWARM.identities[1].node,)
    assert check_close(state, close) == tuple(state.contributions[1, SWARM.identities[i].node] for i in (0, 2, 3))


def test_no_sites_weight_exceeds_the_charters_cap() -> None:
    terms = replace(SWARM.charter.round, weight_cap_ppm=500_000)
    signed = c.SignedCharter(changed(SWARM, round=terms), {})
    for who in SWARM.identities:
        signed = signed.sign(who)
    swarm = Swarm(SWARM.identities, signed, SWARM.initial)
    feeds, state = Feeds(swarm), genesis(signed)
    for author, samples in ((0, 10), (1, 10), (2, 80)):
        state = said(state, feeds.write(author, contribution(swarm, author, samples=samples)))
    # Of 2**20 - 3 = 1048573 the third may have half, 524286; the others share the remaining 524287.
    assert [weight for _, weight in all_placed(state).included] == [262143, 262143, 524286]


def test_a_close_that_follows_from_the_log_is_accepted_once() -> None:
    feeds = Feeds(SWARM)
    state = contributed(feeds)
    close = all_placed(state)
    after = apply_derived(state, e.ROUND_CLOSE, close, T0 + 1)
    assert after.close is not None
    assert (after.close.index, after.close.body) == (5, close)
    with pytest.raises(Reject, match="round 1 is already closed"):
        check_close(after, close)


def test_a_close_of_another_round_is_refused() -> None:
    state = contributed(Feeds(SWARM))
    with pytest.raises(Reject, match="round 1 is the open one"):
        check_close(state, replace(all_placed(state), round=2))


Change = Callable[[e.RoundClose], e.RoundClose]


def edit(**fields: Callable[[e.RoundClose], object]) -> Change:
    return lambda close: replace(close, **{name: make(close) for name, make in fields.items()})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (edit(included=lambda close: close.included[1:]), "does not account for every contribution"),
        (edit(included=lambda close: (*close.included, close.included[0])), "does not account for every"),
        (edit(rejected=lambda close: ((close.included[0][0], e.UNUSABLE),)), "does not account for every"),
        (edit(included=lambda close: (*close.included, (0, 1))), "names an entry that is not a contribution"),
        (edit(included=lambda close: (*close.included, (99, 1))), "names an entry that is not a contribution"),
        (edit(rejected=lambda close: ((0, e.UNUSABLE),)), "names an entry that is not a contribution"),
        (
            edit(included=lambda close: close.included[1:], rejected=lambda close: ((close.included[0][0], 9),)),
            "a reason it gives is unknown",
        ),
        (
            edit(
                included=lambda close: close.included[1:],
                rejected=lambda close: ((close.included[0][0], e.OTHER_BASE),),
            ),
            "misjudges which contributions start from the model",
        ),
        (edit(included=lambda close: close.included[::-1]), "not what follows from the log"),
        (edit(included=lambda close: ((close.included[0][0], 11), *close.included[1:])), "not what follows"),
        (edit(missing=lambda close: (SWARM.identities[0].node,)), "not what follows from the log"),
        (edit(attempt=lambda close: 2), "not what follows from the log"),
    ],
)
def test_a_close_that_does_not_follow_from_the_log_is_refused(change: Change, why: str) -> None:
    state = contributed(Feeds(SWARM))
    with pytest.raises(Reject, match=why):
        check_close(state, change(all_placed(state)))


def test_a_rejected_contribution_is_named_with_its_reason_and_weighs_nothing() -> None:
    state = contributed(Feeds(SWARM))
    first, *rest = state.contributions.values()
    close = make_close(state, rest, {first.index: e.UNUSABLE})
    assert close.rejected == ((1, e.UNUSABLE),)
    assert [weight for _, weight in close.included] == [20, 30, 40]
    assert close.missing == (), "who contributed something unusable is not missing"
    assert len(check_close(state, close)) == 3


def test_what_starts_from_another_model_is_rejected_for_that_and_nothing_else() -> None:
    feeds = Feeds(SWARM)
    state = contributed(feeds, (10, 20))
    state = said(state, feeds.write(2, contribution(SWARM, 2, base=OTHER_MODEL)))
    good, stray = list(state.contributions.values())[:2], list(state.contributions.values())[2]
    check_close(state, make_close(state, good, {stray.index: e.OTHER_BASE}))
    for wrong in (make_close(state, good, {stray.index: e.UNUSABLE}), make_close(state, [*good, stray], {})):
        with pytest.raises(Reject, match="misjudges"):
            check_close(state, wrong)


def test_a_close_with_too_few_contributions_is_refused() -> None:
    swarm = make_swarm(4, min_contributions=2)
    feeds, state = Feeds(swarm), genesis(swarm.signed)
    state = said(state, feeds.write(0, contribution(swarm, 0)))
    with pytest.raises(Reject, match="1 contributions, the charter asks for 2"):
        check_close(state, all_placed(state))
    state = said(state, feeds.write(1, contribution(swarm, 1)))
    assert len(check_close(state, all_placed(state))) == 2


# --- commits ------------------------------------------------------------------------------------------------------


def test_a_commit_is_due_exactly_when_a_quorum_attests_the_same_model() -> None:
    feeds = Feeds(SWARM)
    state = closed(feeds)
    assert due_commit(state) is None
    state = attested(state, feeds, (0, 1))
    state = attested(state, feeds, (2,), OTHER_MODEL)
    assert due_commit(state) is None, "two and one are not three of a kind"
    state = attested(state, feeds, (3,))
    commit = due_commit(state)
    assert commit is not None
    assert (commit.round, commit.close_index, commit.model_digest, commit.model_bytes) == (1, 5, MODEL, 128)
    assert (commit.attests, commit.samples) == (3, 100)


def test_only_a_members_first_attest_of_the_close_at_hand_counts() -> None:
    feeds = Feeds(SWARM)
    early = contributed(feeds, (10, 20, 30))
    early = said(early, feeds.write(3, attest(early, close_index=5)))
    assert early.attests == {}, "before the close there is nothing to attest"
    state = apply_derived(early, e.ROUND_CLOSE, all_placed(early), T0 + 1)
    state = said(state, feeds.write(0, attest(state, close_index=4)))
    assert state.attests == {}, "of another close"
    state = attested(state, feeds, (0,), OTHER_MODEL)
    state = attested(state, feeds, (0, 0, 1, 2))
    assert due_commit(state) is None
    assert state.attests[SWARM.identities[0].node] == (OTHER_MODEL, 128)


def test_the_same_digest_of_another_size_is_another_model() -> None:
    feeds = Feeds(SWARM)
    state = attested(closed(feeds), feeds, (0, 1))
    odd = replace(attest(state), model_bytes=64)
    assert due_commit(said(state, feeds.write(2, odd))) is None


def test_a_commit_opens_the_next_round_and_keeps_what_was_contributed_to_it() -> None:
    feeds = Feeds(SWARM)
    state = closed(feeds)
    state = said(state, feeds.write(0, contribution(SWARM, 0, number=2, base=MODEL)))
    state = attested(state, feeds, (0, 1, 2))
    commit = due_commit(state)
    assert commit is not None
    after = apply_derived(state, e.ROUND_COMMIT, commit, T0 + 9)
    assert (after.round, after.committed.model, after.opened_ms) == (2, MODEL, T0 + 9)
    assert (after.close, dict(after.attests), after.late) == (None, {}, ())
    assert [body.round for body in in_round(after)] == [2]
    assert due_commit(after) is None


def test_the_run_is_complete_after_the_charters_rounds_and_nothing_closes_any_more() -> None:
    state = contributed(Feeds(SWARM))
    done = replace(state, committed=replace(state.committed, round=3))
    assert done.complete
    with pytest.raises(Reject, match="couldn't accept the close of round 4"):
        check_close(done, e.RoundClose(4, 1, (), (), ()))


# --- blocks -------------------------------------------------------------------------------------------------------


def test_a_whole_round_fits_into_three_blocks() -> None:
    feeds = Feeds(SWARM)
    leaves = [feeds.write(author, contribution(SWARM, author)) for author in range(4)]
    after = START
    for leaf in leaves:
        after = said(after, leaf)
    close = all_placed(after)
    leaves.append(derived_leaf(after, e.ROUND_CLOSE, close, T0 + 1))
    after = apply_derived(after, e.ROUND_CLOSE, close, T0 + 1)
    one = accept(START, after, leaves, T0 + 1)
    assert one == replace(after, height=1, time_ms=T0 + 1)

    attests = [feeds.write(author, attest(one)) for author in range(4)]
    two = said(said(one, attests[0]), attests[1])
    two = accept(one, two, attests[:2], T0 + 2)

    after = said(said(two, attests[2]), attests[3])
    commit = due_commit(after)
    assert commit is not None
    assert commit.attests == 4
    leaf = derived_leaf(after, e.ROUND_COMMIT, commit, T0 + 3)
    three = accept(two, apply_derived(after, e.ROUND_COMMIT, commit, T0 + 3), [*attests[2:], leaf], T0 + 3)
    assert (three.height, three.round, three.size) == (3, 2, 11)


def ready_to_commit() -> tuple[State, State, list[bytes]]:
    """Return a state, the state after three attests, and their leaves."""
    feeds = Feeds(SWARM)
    before = closed(feeds)
    leaves = [feeds.write(author, attest(before)) for author in range(3)]
    after = before
    for leaf in leaves:
        after = said(after, leaf)
    return before, after, leaves


def test_a_block_that_leaves_out_a_due_commit_is_refused() -> None:
    before, after, leaves = ready_to_commit()
    with pytest.raises(Reject, match="leaves out the commit of round 1"):
        accept(before, after, leaves, T0 + 5)


def test_a_commit_that_no_quorum_attested_is_refused() -> None:
    before, after, leaves = ready_to_commit()
    commit = due_commit(after)
    assert commit is not None
    two = said(said(before, leaves[0]), leaves[1])
    leaf = derived_leaf(two, e.ROUND_COMMIT, commit, T0 + 5)
    with pytest.raises(Reject, match="does not follow from the attests"):
        accept(before, apply_derived(two, e.ROUND_COMMIT, commit, T0 + 5), [*leaves[:2], leaf], T0 + 5)


def test_a_commit_of_anything_but_what_was_attested_is_refused() -> None:
    before, after, leaves = ready_to_commit()
    commit = due_commit(after)
    assert commit is not None
    for wrong in (
        replace(commit, model_digest=OTHER_MODEL),
        replace(commit, samples=99),
        replace(commit, late=(1,)),
    ):
        leaf = derived_leaf(after, e.ROUND_COMMIT, wrong, T0 + 5)
        with pytest.raises(Reject, match="does not follow from the attests"):
            accept(before, apply_derived(after, e.ROUND_COMMIT, wrong, T0 + 5), [*leaves, leaf], T0 + 5)


def test_entries_behind_a_commit_are_out_of_order() -> None:
    before, after, leaves = ready_to_commit()
    commit = due_commit(after)
    assert commit is not None
    committed = derived_leaf(after, e.ROUND_COMMIT, commit, T0 + 5)
    after = apply_derived(after, e.ROUND_COMMIT, commit, T0 + 5)
    extra = Feeds(SWARM)
    extra.ends[3] = (1, after.heads[SWARM.identities[3].node].prev)
    leaf = extra.write(3, contribution(SWARM, 3, number=2))
    with pytest.raises(Reject, match="its entries are out of order"):
        accept(before, said(after, leaf), [*leaves, committed, leaf], T0 + 5)
    with pytest.raises(Reject, match="its entries are out of order"):
        accept(before, after, [*leaves, committed, committed], T0 + 5)


def test_a_commit_may_be_followed_by_the_close_of_the_next_round() -> None:
    feeds = Feeds(SWARM)
    before = closed(feeds)
    for author in range(4):
        before = said(before, feeds.write(author, contribution(SWARM, author, number=2, base=MODEL)))
    leaves = [feeds.write(author, attest(before)) for author in range(3)]
    after = before
    for leaf in leaves:
        after = said(after, leaf)
    commit = due_commit(after)
    assert commit is not None
    leaves.append(derived_leaf(after, e.ROUND_COMMIT, commit, T0 + 5))
    after = apply_derived(after, e.ROUND_COMMIT, commit, T0 + 5)
    close = make_close(after, list(after.contributions.values()), {})
    leaves.append(derived_leaf(after, e.ROUND_CLOSE, close, T0 + 5))
    after = accept(before, apply_derived(after, e.ROUND_CLOSE, close, T0 + 5), leaves, T0 + 5)
    assert after.close is not None
    assert (after.round, after.close.body.round) == (2, 2)


def test_a_derived_entry_in_any_other_form_is_refused() -> None:
    state = contributed(Feeds(SWARM))
    close = all_placed(state)
    after = apply_derived(state, e.ROUND_CLOSE, close, T0 + 5)
    for leaf in (
        derived_leaf(state, e.ROUND_CLOSE, close, T0 + 6),
        derived_leaf(after, e.ROUND_CLOSE, close, T0 + 5),
        replace(e.decode_entry(derived_leaf(state, e.ROUND_CLOSE, close, T0 + 5)), signature=b"x").encode(),
    ):
        with pytest.raises(Reject, match="not in its derived form"):
            accept(state, after, [leaf], T0 + 5)
    accept(state, after, [derived_leaf(state, e.ROUND_CLOSE, close, T0 + 5)], T0 + 5)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"height": 2}, "height, first entry or time does not follow"),
        ({"first_index": 0}, "height, first entry or time does not follow"),
        ({"time_ms": T0}, "height, first entry or time does not follow"),
        ({"size": 3}, "its tree is not the tree of its entries"),
        ({"root": digest("root")}, "its tree is not the tree of its entries"),
        ({"state_hash": digest("state")}, "its state is not what follows from block 0"),
    ],
)
def test_a_header_that_does_not_match_its_entries_is_refused(fields: dict[str, int | bytes], why: str) -> None:
    leaf = Feeds(SWARM).write(0, contribution(SWARM, 0))
    header = header_of(START, said(START, leaf), [leaf], T0 + 1)
    assert apply_block(START, header, [leaf], Signatures()).size == 2
    with pytest.raises(Reject, match=why):
        apply_block(START, dataclasses.replace(header, **fields), [leaf], Signatures())  # type: ignore[arg-type]


def test_a_block_with_an_undecodable_entry_is_refused() -> None:
    with pytest.raises(Reject):
        accept(START, START, [b"\xc1"], T0 + 1)


# --- certificates on record ---------------------------------------------------------------------------------------


def recorded(before: State, certified: Header, certificate: Certificate) -> State:
    """Accept a block that puts a certificate on record."""
    body, time_ms = e.BlockCert(certified.encode(), codec.encode(certificate)), before.time_ms + 1
    after = apply_derived(before, e.BLOCK_CERT, body, time_ms)
    return accept(before, after, [derived_leaf(before, e.BLOCK_CERT, body, time_ms)], time_ms)


def test_a_block_may_record_the_certificate_of_one_below_it_once() -> None:
    one = accept(START, START, [], T0 + 1)
    header = header_of(START, START, [], T0 + 1)
    two = recorded(one, header, certify(SWARM, header))
    assert two.certified == 1
    with pytest.raises(Reject, match="a certificate out of order"):
        recorded(two, header, certify(SWARM, header))
    with pytest.raises(Reject, match="a certificate out of order"):
        recorded(START, header, certify(SWARM, header))


def test_a_certificate_of_another_block_or_of_another_kind_proves_nothing() -> None:
    one = accept(START, START, [], T0 + 1)
    header = header_of(START, START, [], T0 + 1)
    other = dataclasses.replace(header, root=digest("root"))
    for certificate in (certify(SWARM, other), certify(SWARM, header, kind=NOTARIZE)):
        with pytest.raises(Reject, match="does not finalize the block it names"):
            recorded(one, header, certificate)


def test_a_certificate_comes_before_all_other_entries() -> None:
    one = accept(START, START, [], T0 + 1)
    header = header_of(START, START, [], T0 + 1)
    leaf = Feeds(SWARM).write(0, contribution(SWARM, 0))
    body = e.BlockCert(header.encode(), codec.encode(certify(SWARM, header)))
    after = said(one, leaf)
    second = derived_leaf(after, e.BLOCK_CERT, body, T0 + 2)
    with pytest.raises(Reject, match="out of order"):
        accept(one, apply_derived(after, e.BLOCK_CERT, body, T0 + 2), [leaf, second], T0 + 2)


# --- the state's name ---------------------------------------------------------------------------------------------


def test_the_digest_changes_with_everything_that_decides_what_may_follow() -> None:
    feeds = Feeds(SWARM)
    state = attested(closed(feeds), feeds, (0,))
    assert state.close is not None
    node = SWARM.identities[0].node
    variants = [
        state,
        replace(state, height=7),
        replace(state, frontier=state.frontier.append(NO_HASH)),
        replace(state, opened_ms=state.opened_ms + 1),
        replace(state, committed=replace(state.committed, model=OTHER_MODEL)),
        replace(state, committed=replace(state.committed, model_bytes=1)),
        replace(state, heads={**state.heads, node: Head(9, NO_HASH)}),
        replace(state, contributions={}),
        replace(state, late=(1,)),
        replace(state, close=None),
        replace(state, close=replace(state.close, index=99)),
        replace(state, attests={}),
        replace(state, attests={node: (OTHER_MODEL, 128)}),
        replace(state, certified=1),
        replace(state, ledger_id=NO_HASH),
    ]
    assert len({variant.digest() for variant in variants}) == len(variants)


def test_the_digest_does_not_depend_on_the_order_in_which_a_mapping_was_filled() -> None:
    feeds = Feeds(SWARM)
    state = attested(closed(feeds), feeds, (0, 1))
    turned = replace(
        state,
        heads=dict(reversed(list(state.heads.items()))),
        contributions=dict(reversed(list(state.contributions.items()))),
        attests=dict(reversed(list(state.attests.items()))),
    )
    assert turned.digest() == state.digest()


# --- signatures ---------------------------------------------------------------------------------------------------


def test_a_signature_is_checked_once_per_leaf_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bytes] = []
    monkeypatch.setattr(e, "verify_entry", lambda entry, key, ledger_id, by: checked.append(entry.body))
    signatures = Signatures()
    monkeypatch.setattr(Signatures, "REMEMBERED_MAX", 2)
    leaves = [Feeds(SWARM).write(0, contribution(SWARM, 0, samples=count)) for count in (1, 2, 3)]

    def look(leaf: bytes) -> int:
        open_authored(START, e.decode_entry(leaf), leaf, signatures)
        return len(checked)

    assert [look(leaf) for leaf in (leaves[0], leaves[0], leaves[1], leaves[0])] == [1, 1, 2, 2]
    assert look(leaves[2]) == 3
    assert look(leaves[1]) == 3, "the oldest was forgotten, not this one"
    assert look(leaves[0]) == 4


def test_what_was_refused_is_not_remembered_as_good_and_trust_skips_the_check() -> None:
    entry = e.decode_entry(Feeds(SWARM).write(0, contribution(SWARM, 0)))
    forged = replace(entry, signature=identity(50).id_key.sign(b"something else"))
    signatures = Signatures()
    for _ in range(2):
        with pytest.raises(Reject):
            open_authored(START, forged, forged.encode(), signatures)
    signatures.trusting = True
    open_authored(START, forged, forged.encode(), signatures)
    signatures.trusting = False
    with pytest.raises(Reject):
        open_authored(START, forged, forged.encode(), signatures)

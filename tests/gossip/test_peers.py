"""There, getting somewhere, behaving: three questions that must not be confused.

Every swarm here has a patience of 8 s, so that a member nobody has heard for 3 s (a quarter is 2 s, the least is 3 s)
counts as absent.
"""

import itertools
import random

import pytest

from gossip.messages import Heartbeat, Progress
from gossip.peers import FAULT_WINDOW_S, FAULTS_MAX, HEARTBEAT_S, ROWS_TOLD_MAX, ROWS_TOLD_MIN, Peers
from swarm.machine import NodeId
from swarm.terms import founding
from tests.builders import make_swarm

SWARM = make_swarm(4)
ME, A, B, C = (who.node for who in SWARM.identities)
STRANGER = NodeId(b"\x07" * 32)


def peers(now: float = 0.0) -> Peers:
    return Peers(founding(SWARM.charter), ME, now)


def beat(*rows: Progress, now_ms: int = 0, height: int = 0, disk: int = 0) -> Heartbeat:
    return Heartbeat(now_ms, height, b"", disk, rows)


def row(node: NodeId, *, step: int = 0, moved_ms: int = 0, heard_ms: int = 0, round_: int = 1) -> Progress:
    return Progress(node, round_, 2, step, 100, moved_ms, heard_ms)


def test_a_member_nobody_hears_is_absent_and_silent_after_three_seconds() -> None:
    table = peers()
    assert not table.absent(A, 2.999)
    assert table.absent(A, 3.0)
    assert table.silent(A, 3.0)


def test_a_member_that_is_there_but_stuck_is_silent_and_not_absent() -> None:
    table = peers()
    for second in range(1, 10):
        table.heard(A, float(second))
    assert not table.silent(A, 7.999)
    assert table.silent(A, 8.0)
    assert not table.absent(A, 9.0)


def test_this_node_is_neither_silent_nor_absent() -> None:
    table = peers()
    assert not table.silent(ME, 1e6)
    assert not table.absent(ME, 1e6)


def test_a_slow_site_that_still_moves_is_never_silent() -> None:
    # One step in 7 s, told by heartbeats a second apart: for an hour of training.
    table = peers()
    for second in range(3_600):
        now = float(second)
        table.on_heartbeat(A, beat(row(A, step=second // 7, moved_ms=second % 7 * 1_000)), now)
        assert not table.silent(A, now + HEARTBEAT_S)


def test_a_site_that_beats_but_makes_no_step_becomes_silent() -> None:
    table = peers()
    silent_at = next(s for s in range(60) if stuck_for(table, s))
    assert silent_at == 8


def stuck_for(table: Peers, second: int) -> bool:
    table.on_heartbeat(A, beat(row(A, step=5, moved_ms=second * 1_000)), float(second))
    return table.silent(A, float(second))


@pytest.mark.parametrize(
    ("patience_ms", "absence_s"), [(500, 3.0), (12_000, 3.0), (40_000, 10.0), (240_000, 60.0), (600_000, 60.0)]
)
def test_absence_is_a_quarter_of_patience_within_bounds(patience_ms: int, absence_s: float) -> None:
    swarm = make_swarm(4, patience_ms=patience_ms)
    table = Peers(founding(swarm.charter), ME, 0.0)
    assert not table.absent(A, absence_s - 0.001)
    assert table.absent(A, absence_s)


def test_hearsay_keeps_a_member_without_a_link_present_and_moving() -> None:
    table = peers()
    table.on_heartbeat(A, beat(row(B, step=9, moved_ms=500, heard_ms=250)), 10.0)
    member = table.members[B]
    assert (member.heard_at, member.moved_at, member.step) == (9.75, 9.5, 9)
    assert not table.silent(B, 12.74)
    assert table.absent(B, 12.75)


def test_hearsay_moves_times_forward_only() -> None:
    table = peers()
    table.on_heartbeat(B, beat(row(B, step=9, moved_ms=0)), 10.0)
    table.on_heartbeat(A, beat(row(B, step=4, moved_ms=5_000, heard_ms=5_000)), 11.0)
    member = table.members[B]
    assert (member.heard_at, member.moved_at, member.step) == (10.0, 10.0, 9)


def test_a_member_is_believed_about_its_own_step_even_when_it_goes_back() -> None:
    # It was restarted: its round begins again, and only its own word says so.
    table = peers()
    table.on_heartbeat(B, beat(row(B, step=9)), 10.0)
    table.on_heartbeat(B, beat(row(B, step=1, moved_ms=3_000)), 11.0)
    assert (table.members[B].step, table.members[B].moved_at) == (1, 10.0)


def test_hearsay_cannot_put_a_member_into_the_future() -> None:
    table = peers()
    table.on_heartbeat(A, beat(row(B, moved_ms=-(10**15), heard_ms=-(2**63))), 10.0)
    assert (table.members[B].heard_at, table.members[B].moved_at) == (10.0, 10.0)


def test_hearsay_of_endless_silence_does_no_harm() -> None:
    table = peers()
    table.on_heartbeat(A, beat(row(B, moved_ms=2**64 - 1, heard_ms=2**64 - 1)), 10.0)
    assert (table.members[B].heard_at, table.members[B].moved_at) == (0.0, 0.0)


def test_hearsay_about_this_node_and_about_strangers_is_ignored() -> None:
    table = peers()
    table.note_self(round_=3, phase=1, step=2, steps=5, now=1.0)
    table.on_heartbeat(A, beat(row(ME, step=77, round_=9), row(STRANGER, step=1)), 2.0)
    mine = table.members[ME]
    assert (mine.round, mine.step, mine.moved_at) == (3, 2, 1.0)
    assert STRANGER not in table.members


def test_a_lie_about_a_dead_member_needs_the_liar_to_go_on() -> None:
    table = peers()
    for second in range(20):
        table.on_heartbeat(A, beat(row(B)), float(second))
        assert not table.silent(B, float(second))
    assert table.silent(B, 22.1)


def test_what_two_members_tell_each_other_of_a_dead_third_dies_out() -> None:
    # Each hop makes news younger by the time it travelled; at 50 ms that must not keep the dead alive.
    delay_s = 0.05
    here, there = Peers(founding(SWARM.charter), A, 0.0), Peers(founding(SWARM.charter), B, 0.0)
    absent_at = 0.0
    for second in itertools.count():
        now = float(second)
        there.on_heartbeat(A, here.heartbeat(now, final_height=0, final_hash=b"", disk_free=0), now + delay_s)
        here.on_heartbeat(
            B, there.heartbeat(now + 0.5, final_height=0, final_hash=b"", disk_free=0), now + 0.5 + delay_s
        )
        if here.absent(C, now + 1) and there.absent(C, now + 1):
            absent_at = now + 1
            break
        assert second < 60
    assert absent_at <= 4.0


def test_a_heartbeat_says_how_long_ago_in_member_order() -> None:
    table = peers(now=100.0)
    table.on_heartbeat(A, beat(row(A, step=3, moved_ms=1_500)), 110.0)
    table.note_self(round_=2, phase=1, step=4, steps=8, now=111.0)
    told = table.heartbeat(112.0, final_height=6, final_hash=b"", disk_free=1 << 30)
    assert (told.now_ms, told.final_height, told.disk_free) == (112_000, 6, 1 << 30)
    assert [p.node for p in told.progress] == [ME, A, B, C]
    assert told.progress[0] == Progress(ME, 2, 1, 4, 8, 1_000, 1_000)
    assert told.progress[1] == Progress(A, 1, 2, 3, 100, 3_500, 2_000)
    assert (told.progress[2].moved_ms, told.progress[2].heard_ms) == (12_000, 12_000)


def test_a_heartbeat_reports_height_disk_and_clock() -> None:
    table = peers()
    table.on_heartbeat(A, beat(now_ms=12_500, height=7, disk=42), 10.0)
    member = table.members[A]
    assert (member.final_height, member.disk_free, member.clock_offset_ms) == (7, 42, 2_500)


def test_own_progress_is_timed_from_when_it_last_changed() -> None:
    table = peers()
    table.note_self(round_=1, phase=1, step=1, steps=9, now=1.0)
    table.note_self(round_=1, phase=1, step=1, steps=9, now=5.0)
    assert (table.members[ME].moved_at, table.members[ME].heard_at) == (1.0, 5.0)
    table.note_self(round_=1, phase=1, step=2, steps=9, now=6.0)
    assert table.members[ME].moved_at == 6.0


def test_signed_work_shows_presence_and_progress_and_never_goes_back() -> None:
    table = peers()
    table.moved(A, 10.0)
    table.moved(A, 9.0)
    table.moved(STRANGER, 9.0)
    assert (table.members[A].heard_at, table.members[A].moved_at) == (10.0, 10.0)


def test_the_next_silence_is_the_earliest_that_is_still_to_come() -> None:
    table = peers()
    assert table.next_silence(0.0) == 3.0  # All three absent.
    table.heard(A, 2.0)
    assert table.next_silence(3.0) == 5.0  # A absent.
    assert table.next_silence(5.0) == 8.0  # All without progress.
    assert table.next_silence(8.0) is None


@pytest.mark.parametrize("seed", range(20))
def test_the_next_silence_is_what_looking_at_everybody_finds(seed: int) -> None:
    rng, table, now = random.Random(seed), peers(), 0.0
    for _ in range(300):
        now += rng.choice([0.0, 0.1, 0.7, 3.0])
        node = rng.choice([A, B, C])
        rng.choice([table.heard, table.moved, lambda *_: None])(node, now)
        others = [table.members[node] for node in (A, B, C)]
        ends = [end for m in others for end in (m.heard_at + 3.0, m.moved_at + 8.0) if end > now]
        assert table.next_silence(now) == min(ends, default=None)


def test_in_a_large_swarm_a_heartbeat_tells_of_its_sender_and_of_others_in_turn() -> None:
    swarm = make_swarm(70)
    me, n = swarm.identities[3].node, 70
    table = Peers(founding(swarm.charter), me, 0.0)

    def told(links: int) -> list[bytes]:
        beat = table.heartbeat(1.0, final_height=0, final_hash=b"", disk_free=0, links=links)
        return [row.node for row in beat.progress]

    everybody = [who.node for who in swarm.identities]
    assert told(58) == everybody, "a swarm with few links tells all over each of them"
    beats = [told(69) for _ in range(2)]
    assert all(me in rows and rows == sorted(rows, key=everybody.index) for rows in beats)
    assert all(len(rows) * 69 <= ROWS_TOLD_MAX + 69 for rows in beats)
    assert {node for rows in beats for node in rows} == {*everybody}
    assert len(told(10_000)) == ROWS_TOLD_MIN + 1 < n


def test_a_swarm_of_one_waits_for_nobody() -> None:
    swarm = make_swarm(1)
    assert Peers(founding(swarm.charter), swarm.identities[0].node, 0.0).next_silence(0.0) is None


def test_a_peer_is_ignored_after_too_many_faults_until_the_window_ends() -> None:
    table = peers()
    for i in range(FAULTS_MAX):
        table.fault(A, float(i))
    assert not table.ignored(A, 20.0)
    table.fault(A, 20.0)
    assert table.ignored(A, 20.0)
    assert table.ignored(A, FAULT_WINDOW_S - 0.001)
    assert not table.ignored(A, FAULT_WINDOW_S)
    assert not table.ignored(B, 20.0)


def test_faults_that_are_far_apart_do_not_add_up() -> None:
    table = peers()
    for i in range(200):
        table.fault(A, 3.1 * i)  # Twenty in any window of sixty seconds.
        assert not table.ignored(A, 3.1 * i)


def test_faults_are_remembered_in_bounded_memory() -> None:
    table = peers()
    for i in range(10_000):
        table.fault(A, i / 1_000)
    assert len(table.members[A].faults) <= FAULTS_MAX + 1

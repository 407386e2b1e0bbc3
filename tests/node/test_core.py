"""The node as a value: events in, effects out. What a peer sent costs that peer; what is said was durable before."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typing_extensions import override

from gossip import messages as m
from gossip import wire
from gossip.catchup import TIMEOUT_S
from gossip.peers import FAULT_WINDOW_S, FAULTS_MAX
from gossip.protocol import CAPABILITIES
from node.cli.status import render
from node.core import SOFTWARE, Node
from node.core.pursuit import CATCH_UP_AFTER_S
from swarm import codec
from swarm.charter import SignedCharter
from swarm.ledger import entry as e
from swarm.ledger.block import (
    FINALIZE,
    NOTARIZE,
    SKIP,
    Block,
    FinalBlock,
    Header,
    Vote,
    entries_hash,
    justify_hash,
    propose_message,
    vote_message,
)
from swarm.ledger.journal import joined
from swarm.machine import (
    RECORD_BLOCK,
    RECORD_BODY,
    RECORD_ENTRY,
    RECORD_VOTE,
    Answer,
    Asked,
    Checked,
    Digest,
    Effect,
    Evaluated,
    Event,
    Finished,
    Forget,
    Inspect,
    Inspected,
    Keep,
    LinkChanged,
    Mixed,
    NodeId,
    Persist,
    Received,
    Record,
    Report,
    Resting,
    Seal,
    Send,
    SendBlocks,
    SendChunk,
    Started,
    Stepped,
    Stored,
    StoreFailed,
    Train,
    Trained,
    WakeAt,
    Woke,
)
from swarm.round import RETRY_S, TRAIN_ATTEMPTS_MAX, Phase
from swarm.vector import LEAF_BYTES, blob_digest, leaf_hashes
from tests.builders import CODE, LAYOUT, Feeds, Swarm, certify, changed, contribution, digest, make_swarm
from tests.simulation.stories import done, tell
from tests.sites import calm_run
from topologies.world.checkers import Checker
from topologies.world.clock import EPOCH_S
from topologies.world.faults import Crash, FaultPlan, OneWayCut
from topologies.world.learner import Behaviour
from topologies.world.world import World

END_S = 300.0
RECORD_BYTES_MAX = 1 << 21


def blob(data: bytes) -> Stored:
    leaves = leaf_hashes(data)
    return Stored(blob_digest(len(data), leaves), len(data), leaves)


class Desk:
    """One node under test, member 0 unless told otherwise, and what it did. Time stands where the test puts it."""

    def __init__(self, swarm: Swarm, member: int = 0, *, blobs: Sequence[Stored] | None = None) -> None:
        self.swarm = swarm
        self.now = EPOCH_S
        self.node: Node = swarm.node(member)
        self.ids = [who.node for who in swarm.identities]
        self.effects: list[Effect] = []
        self.blobs = (blob(swarm.initial),) if blobs is None else blobs

    def start(self, *records: Record) -> list[Effect]:
        return self.give(Started(records, self.blobs))

    def give(self, event: Event) -> list[Effect]:
        """Return the effects of one event."""
        effects = list(self.node.handle(event, self.now))
        self.effects += effects
        return effects

    def hear(self, member: int, message: m.Message, payload: bytes | None = None) -> list[Effect]:
        return self.give(Received(self.ids[member], wire.encode(message), payload))

    def hello(self, member: int, *, answer: bool = False) -> m.Hello:
        """The greeting of a member on our terms."""
        return m.Hello(
            (1, 0), SOFTWARE, CAPABILITIES, self.ids[member], self.swarm.signed.ledger_id, CODE, LAYOUT, answer
        )

    def link(self, *members: int) -> None:
        for member in members:
            self.give(LinkChanged(self.ids[member], True))
            self.hear(member, self.hello(member))
            self.hear(member, m.Reminder(0, (), (), b""))

    def trained(self, number: int = 1, name: str = "update") -> list[Effect]:
        """The end of a training: the update is in the store, then the machine hears of it."""
        update = Stored(Digest(digest(name)), len(self.swarm.initial), (bytes(32),))
        self.give(update)
        return self.give(Trained(number, update.digest, update.size, 10, {"loss": 0.25}))


def reports(effects: Sequence[Effect]) -> list[str]:
    return [effect.event for effect in effects if isinstance(effect, Report)]


def words(effects: Sequence[Effect], event: str) -> list[str]:
    return [effect.text for effect in effects if isinstance(effect, Report) and effect.event == event]


def sent(effects: Sequence[Effect], to: NodeId | None = None) -> list[m.Message]:
    return [wire.decode(x.frame) for x in effects if isinstance(x, Send) and to in (None, x.to)]


def kinds(effects: Sequence[Effect]) -> list[type[Effect]]:
    return [type(effect) for effect in effects]


def later(desk: Desk, seconds: float) -> list[Effect]:
    """What it does by itself when some time has passed."""
    desk.now += seconds
    return desk.give(Woke())


def beat(desk: Desk, *, height: int = 0) -> m.Heartbeat:
    return m.Heartbeat(int(desk.now * 1000), height, b"", 0, ())


def member(desk: Desk, number: int) -> dict[str, object]:
    """What status says about one member."""
    members = desk.node.status(desk.now)["members"]
    assert isinstance(members, list)
    found = members[number]
    assert isinstance(found, dict)
    return found


@pytest.fixture
def desk() -> Desk:
    """Member 0 of four, started, linked to nobody yet."""
    made = Desk(make_swarm(4))
    made.start()
    return made


# --- the beginning ----------------------------------------------------------------------------------------------------


def test_nothing_happens_before_the_node_is_started() -> None:
    desk = Desk(make_swarm(4))
    update = Digest(digest("update"))
    early: list[Event] = [
        Woke(),
        Asked(1, "status"),
        LinkChanged(desk.ids[1], True),
        Received(desk.ids[1], wire.encode(desk.hello(1, answer=True))),
        Received(desk.ids[1], b"garbage"),
        Stepped(1, 1, 2),
        Stored(update, 128, (bytes(32),)),
        Trained(1, update, 128, 10),
        Mixed(1, update, 128),
        Evaluated(1, update, 3, {}),
        Inspected(update),
        Checked(update, ()),
        StoreFailed(update, "no room"),
    ]
    assert [desk.give(event) for event in early] == [[]] * len(early)
    assert desk.node.peers.members[desk.ids[1]].faults == []
    assert Train in kinds(desk.start()), "what came before has left no trace"


def test_a_fresh_node_trains_from_the_charters_model_when_it_is_in_the_store() -> None:
    desk = Desk(make_swarm(4))
    effects = desk.start()
    assert [effect for effect in effects if isinstance(effect, Train)] == [Train(1, desk.blobs[0].digest)]
    assert words(effects, "started") == ["ledger at block 0, round 1 of 3"]
    without = Desk(make_swarm(4), blobs=())
    assert Train not in kinds(without.start())
    assert without.node.status(without.now)["phase"] == "fetching"
    assert Train in kinds(without.give(desk.blobs[0])), "as soon as the worker has built it"


def test_every_event_but_a_question_ends_by_saying_when_to_wake(desk: Desk) -> None:
    desk.link(1)
    events: list[Event] = [Woke(), Stepped(1, 1, 2), LinkChanged(desk.ids[1], True), Received(desk.ids[1], b"garbage")]
    for event in events:
        effects = desk.give(event)
        assert [kinds(effects).count(WakeAt), kinds(effects)[-1]] == [1, WakeAt]
        last = effects[-1]
        assert isinstance(last, WakeAt)
        assert desk.now <= last.time <= desk.now + 10
    assert kinds(desk.give(Asked(5, "status"))) == [Answer]


# --- who is listened to -----------------------------------------------------------------------------------------------


def test_an_unknown_sender_is_ignored(desk: Desk) -> None:
    desk.give(Woke())
    before = desk.node.status(desk.now)
    stranger = NodeId(digest("stranger"))
    for frame in (b"garbage", wire.encode(desk.hello(1, answer=True)), wire.encode(beat(desk, height=9))):
        assert {*kinds(desk.give(Received(stranger, frame)))} <= {WakeAt}
    assert kinds(desk.give(LinkChanged(stranger, True))) == [WakeAt]
    assert desk.node.status(desk.now) == before


def test_a_member_without_an_edge_to_this_one_is_ignored_like_a_stranger() -> None:
    desk = Desk(make_swarm(4, edges=((0, 1), (1, 2), (2, 3))))
    desk.start()
    assert sent(desk.give(LinkChanged(desk.ids[2], True))) == []
    assert sent(desk.hear(2, desk.hello(2, answer=True))) == []
    assert reports(desk.give(Received(desk.ids[2], b"garbage"))) == []
    assert not desk.node.peers.members[desk.ids[2]].welcome


def test_before_its_greeting_a_neighbour_is_there_but_not_believed(desk: Desk) -> None:
    desk.give(LinkChanged(desk.ids[1], True))
    leaf = Feeds(desk.swarm).write(1, contribution(desk.swarm, 1))
    desk.now += 60
    assert desk.node.absent(desk.ids[1], desk.now)
    for message in (beat(desk, height=9), m.EntryMessage(leaf), m.GetBlocks(1), m.Want(desk.blobs[0].digest, 0, 4)):
        assert kinds(desk.hear(1, message))[-1:] in ([], [WakeAt])
    assert not desk.node.absent(desk.ids[1], desk.now)
    assert desk.node.replica.next_entry(desk.ids[1]).seq == 0
    assert desk.node.peers.members[desk.ids[1]].final_height == 0
    assert not any(isinstance(effect, SendChunk) for effect in desk.effects)
    desk.hear(1, desk.hello(1))
    desk.hear(1, m.EntryMessage(leaf))
    assert desk.node.replica.next_entry(desk.ids[1]).seq == 1


def test_a_malformed_frame_is_charged_to_its_sender_and_to_nobody_else(desk: Desk) -> None:
    desk.link(1, 2)
    effects = desk.give(Received(desk.ids[1], b"\x01\x63what is this"))
    assert reports(effects) == ["peer_fault"]
    assert words(effects, "peer_fault")[0].startswith("site-1 sent something unacceptable: ")
    faults = [len(desk.node.peers.members[node].faults) for node in desk.ids]
    assert faults == [0, 1, 0, 0]


def test_after_enough_faults_a_peer_is_not_listened_to_until_the_window_ends(desk: Desk) -> None:
    desk.link(1)
    began = desk.now
    told = [len(words(desk.give(Received(desk.ids[1], b"garbage")), "peer_fault")) for _ in range(FAULTS_MAX + 10)]
    assert told == [1] * (FAULTS_MAX + 1) + [0] * 9
    desk.hear(1, beat(desk, height=7))
    assert desk.node.peers.members[desk.ids[1]].final_height == 0, "not even to what would be right"
    desk.now = began + FAULT_WINDOW_S - 0.1
    desk.hear(1, beat(desk, height=7))
    assert desk.node.peers.members[desk.ids[1]].final_height == 0
    desk.now = began + FAULT_WINDOW_S
    desk.hear(1, beat(desk, height=7))
    assert desk.node.peers.members[desk.ids[1]].final_height == 7


def test_faults_that_are_far_apart_never_silence_a_peer(desk: Desk) -> None:
    desk.link(1)
    for _ in range(3 * FAULTS_MAX):
        desk.now += FAULT_WINDOW_S / FAULTS_MAX + 0.1
        assert len(words(desk.give(Received(desk.ids[1], b"garbage")), "peer_fault")) == 1


def test_what_only_looks_like_a_message_is_a_fault_too(desk: Desk) -> None:
    desk.link(1)
    feeds = Feeds(desk.swarm)
    leaf = feeds.write(1, contribution(desk.swarm, 1))
    stranger = Feeds(make_swarm(4, first=10)).write(1, contribution(desk.swarm, 1))
    wrong: list[m.Message] = [
        m.EntryMessage(leaf[:-1]),
        m.EntryMessage(leaf[:-1] + bytes([leaf[-1] ^ 1])),
        m.EntryMessage(stranger),
        m.CastVote(Vote(0, 1, NOTARIZE, digest("block"), 1, bytes(64))),
        m.Propose(Block(b"", (), (), 1, bytes(64))),
        m.Have(b"short", 4, b""),
        m.ChunkHeader(desk.blobs[0].digest, 0),
    ]
    for message in wrong:
        assert reports(desk.hear(1, message)) == ["peer_fault"], message


MESSAGES = st.one_of(
    st.builds(lambda reason: m.Refuse(reason), st.text(max_size=20)),
    st.builds(m.GetBlocks, st.integers(-(2**63), 2**64 - 1)),
    st.builds(m.GetLeaves, st.binary(max_size=33)),
    st.builds(m.Missing, st.binary(max_size=33)),
    st.builds(m.Want, st.binary(min_size=32, max_size=32), *[st.integers(-(2**63), 2**64 - 1)] * 2),
    st.builds(m.Have, st.binary(min_size=32, max_size=32), st.integers(-(2**63), 2**64 - 1), st.binary(max_size=9)),
    st.builds(m.Leaves, st.binary(min_size=32, max_size=32), st.integers(-5, 2**40), st.binary(max_size=70)),
    st.builds(m.ChunkHeader, st.binary(min_size=32, max_size=32), st.integers(-(2**63), 2**64 - 1)),
    st.builds(m.EntryMessage, st.binary(max_size=300)),
    st.builds(
        lambda heads: m.FeedHeads(tuple(heads)),
        st.lists(st.tuples(st.binary(max_size=33), st.integers(-(2**63), 2**64 - 1)), max_size=4),
    ),
    st.builds(
        m.CastVote,
        st.builds(
            Vote,
            st.integers(-1, 1),
            st.integers(-1, 2**64 - 1),
            st.integers(-1, 4),
            st.sampled_from([bytes(32), b"\x01" * 32, b""]),
            st.integers(-1, 70),
            st.just(bytes(64)),
        ),
    ),
    st.builds(
        lambda now_ms, height, free, rows: m.Heartbeat(now_ms, height, b"", free, tuple(rows)),
        *[st.integers(-(2**63), 2**64 - 1)] * 3,
        st.lists(
            st.builds(
                m.Progress,
                st.sampled_from([who.node for who in make_swarm(4).identities]) | st.binary(max_size=33),
                *[st.integers(-(2**63), 2**64 - 1)] * 6,
            ),
            max_size=3,
        ),
    ),
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    frames=st.lists(
        st.tuples(MESSAGES.map(wire.encode) | st.binary(max_size=40), st.none() | st.binary(max_size=9)), max_size=12
    )
)
def test_nothing_a_peer_sends_makes_the_node_raise_or_unable_to_go_on(
    frames: list[tuple[bytes, bytes | None]],
) -> None:
    desk = Desk(make_swarm(4))
    desk.start()
    desk.link(1, 2)
    for frame, payload in frames:
        desk.give(Received(desk.ids[1], frame, payload))
        desk.now += 3
        desk.give(Woke())
    answer = desk.give(Asked(1, "status"))[0]
    assert isinstance(answer, Answer)
    json.dumps(answer.reply)
    # An honest peer is still heard, and the node still does its work.
    desk.hear(2, m.EntryMessage(Feeds(desk.swarm).write(2, contribution(desk.swarm, 2))))
    assert desk.node.replica.next_entry(desk.ids[2]).seq == 1
    assert Persist in kinds(desk.trained())


# --- greetings --------------------------------------------------------------------------------------------------------


def test_a_greeting_is_answered_once_and_followed_by_comparing_notes(desk: Desk) -> None:
    (hello,) = sent(desk.give(LinkChanged(desk.ids[1], True)), desk.ids[1])
    assert isinstance(hello, m.Hello)
    assert hello.answer
    first = [type(message) for message in sent(desk.hear(1, desk.hello(1, answer=True)), desk.ids[1])]
    assert first[0] is m.Hello
    assert {m.Heartbeat, m.FeedHeads, m.Standing, m.Have} <= set(first)
    again = [type(message) for message in sent(desk.hear(1, desk.hello(1, answer=True)), desk.ids[1])]
    assert again == [m.Hello], "who was welcome before is only answered"
    assert m.Hello not in [type(message) for message in sent(desk.hear(1, desk.hello(1, answer=False)))]


def test_a_neighbour_that_has_not_greeted_is_greeted_again_with_the_heartbeats(desk: Desk) -> None:
    desk.give(LinkChanged(desk.ids[1], True))
    for _ in range(3):
        desk.now += 1.0
        assert m.Hello in [type(message) for message in sent(desk.give(Woke()), desk.ids[1])]
    desk.hear(1, desk.hello(1))
    desk.now += 1.0
    assert m.Hello not in [type(message) for message in sent(desk.give(Woke()), desk.ids[1])]


def test_a_link_that_comes_and_goes_is_told_once_each_way(desk: Desk) -> None:
    up, down = LinkChanged(desk.ids[1], True), LinkChanged(desk.ids[1], False, "the cable is out")
    assert [reports(desk.give(event)) for event in (up, up, down, down)] == [["link_up"], [], ["link_down"], []]
    assert "the cable is out" in words(desk.effects, "link_down")[0]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("charter", bytes(32), "has another charter (000000000000)"),
        ("task", bytes(32), "has another task file (000000000000)"),
        ("layout", bytes(32), "has another parameter layout (000000000000)"),
        ("protocol", (2, 0), "speaks protocol 2.0"),
        ("node", bytes(32), "introduced itself with another member's identity"),
    ],
)
def test_a_greeting_on_other_terms_is_refused_in_words_and_told_once(
    desk: Desk, field: str, value: object, said: str
) -> None:
    desk.give(LinkChanged(desk.ids[1], True))
    hello = msgspec.structs.replace(desk.hello(1, answer=True), **{field: value})
    effects = desk.hear(1, hello)
    (refusal,) = sent(effects, desk.ids[1])
    assert isinstance(refusal, m.Refuse)
    assert said in refusal.reason
    assert words(effects, "peer_refused") == [f"site-1 cannot take part: {refusal.reason}"]
    again = desk.hear(1, hello)
    assert sent(again, desk.ids[1]) == [refusal], "whoever asks again is answered again"
    assert reports(again) == [], "but people were told"
    desk.hear(1, beat(desk, height=9))
    assert desk.node.peers.members[desk.ids[1]].final_height == 0


def test_two_nodes_with_different_charters_refuse_each_other_in_words_at_both_ends() -> None:
    ours, theirs = Desk(make_swarm(4, rounds=3)), Desk(make_swarm(4, rounds=5), 1)
    ours.start(), theirs.start()
    post = [(theirs, 0, message) for message in sent(ours.give(LinkChanged(ours.ids[1], True)))]
    post += [(ours, 1, message) for message in sent(theirs.give(LinkChanged(theirs.ids[0], True)))]
    for desk, sender, message in post:
        post += [
            (ours if desk is theirs else theirs, 1 - sender, reply)
            for reply in sent(desk.hear(sender, message), desk.ids[sender])
        ]
        assert len(post) < 20, "a refusal is not answered"
    for desk, other in ((ours, "site-1"), (theirs, "site-0")):
        assert len(words(desk.effects, "peer_refused")) == 1
        assert len(words(desk.effects, "refused_by_peer")) == 1
        assert f"{other} has another charter" in words(desk.effects, "peer_refused")[0]
        assert f"{other} refuses to work with this node: " in words(desk.effects, "refused_by_peer")[0]


def test_a_refused_neighbour_that_comes_back_on_our_terms_is_welcome(desk: Desk) -> None:
    desk.give(LinkChanged(desk.ids[1], True))
    desk.hear(1, msgspec.structs.replace(desk.hello(1), task=bytes(32)))
    assert member(desk, 1)["refused"]
    desk.hear(1, desk.hello(1))
    assert member(desk, 1)["refused"] == ""
    assert member(desk, 1)["linked"] is True


def test_a_site_is_refused_when_the_others_that_are_left_make_no_quorum(desk: Desk) -> None:
    for one in (1, 2, 3):
        desk.give(LinkChanged(desk.ids[one], True))
        desk.hear(one, desk.hello(one))
    assert desk.node.status(desk.now)["refused"] == ""
    desk.hear(1, m.Refuse("site-0 has another charter"))
    # Three of four are enough; who refuses has its own row.
    assert desk.node.status(desk.now)["refused"] == ""
    assert member(desk, 1)["refused"] == "site-0 has another charter"
    assert member(desk, 1)["refused_id"] == "SWARM-HELLO-REFUSED"
    desk.hear(2, msgspec.structs.replace(desk.hello(2), task=bytes(32)))
    told = desk.node.status(desk.now)["refused"]
    assert told == "this site does not fit together with site-1, site-2: site-0 has another charter"
    assert member(desk, 2)["refused_id"] == "SWARM-HELLO-TASK"
    # It goes on by itself once both are back on its terms.
    for one in (1, 2):
        desk.give(LinkChanged(desk.ids[one], False, "it starts again"))
        desk.give(LinkChanged(desk.ids[one], True))
        desk.hear(one, desk.hello(one))
    assert desk.node.status(desk.now)["refused"] == ""


def test_a_neighbour_that_is_refused_counts_as_absent_however_often_it_greets(desk: Desk) -> None:
    desk.link(1, 2, 3)
    bad = msgspec.structs.replace(desk.hello(1, answer=True), charter=bytes(32))
    for _ in range(70):
        desk.now += 1
        desk.hear(1, bad)
        desk.hear(2, desk.hello(2))
    assert desk.node.absent(desk.ids[1], desk.now)
    assert not desk.node.absent(desk.ids[2], desk.now)


# --- own work: durable, then said -------------------------------------------------------------------------------------


def test_a_contribution_is_durable_before_it_is_sent_and_put_into_words(desk: Desk) -> None:
    desk.link(1, 3)
    effects = desk.trained()
    persist = next(effect for effect in effects if isinstance(effect, Persist))
    (record,) = persist.records
    assert record.kind == RECORD_ENTRY
    at = effects.index(persist)
    told = [(i, x.to) for i, x in enumerate(effects) if isinstance(x, Send) and wire.kind(x.frame) is m.EntryMessage]
    assert [node for _, node in told] == [desk.ids[1], desk.ids[3]]
    assert min(i for i, _ in told) > at
    assert kinds(effects).index(Report) > at
    entry = e.decode_entry(record.payload)
    body = codec.decode(entry.body, e.Contribution, limit=e.ENTRY_BYTES_MAX)
    assert (entry.seq, entry.author, entry.prev) == (0, desk.ids[0], desk.swarm.signed.ledger_id)
    assert (body.round, body.attempt, body.samples, body.metrics) == (1, 1, 10, ((0, 250_000),))
    assert (body.base_digest, body.update_digest) == (desk.blobs[0].digest, digest("update"))


def test_training_that_failed_is_told_tried_again_after_a_pause_and_given_up_after_three(desk: Desk) -> None:
    for attempt in range(1, TRAIN_ATTEMPTS_MAX + 1):
        effects = desk.give(Trained(1, None, error="out of memory"))
        assert "out of memory" in words(effects, "training_failed")[0]
        assert Train not in kinds(effects)
        desk.now += RETRY_S - 0.1
        assert Train not in kinds(desk.give(Woke()))
        desk.now += 0.2
        assert (Train in kinds(desk.give(Woke()))) == (attempt < TRAIN_ATTEMPTS_MAX)
    assert "sitting this round out" in words(desk.effects, "training_failed")[-1]
    assert not any(isinstance(effect, Persist) for effect in desk.effects)


def test_the_answer_to_a_training_that_nobody_asked_for_is_not_offered() -> None:
    desk = Desk(make_swarm(4), blobs=())
    desk.start()
    assert Persist not in kinds(desk.trained()), "its base is not known: it may be from an earlier life"


def test_a_blob_is_kept_until_an_event_names_it_though_a_block_becomes_final_in_between() -> None:
    desk = Desk(make_swarm(1, rounds=2))
    desk.start()
    desk.trained(1, "first")
    model, second = (
        Stored(Digest(digest(name)), len(desk.swarm.initial), (bytes(32),)) for name in ("model", "second")
    )
    desk.give(model)
    desk.give(Mixed(1, model.digest, model.size))
    desk.give(Evaluated(1, model.digest, 3, {"loss": 0.5}))
    desk.now += 1
    assert "block_final" in reports(desk.give(second)), "else this shows nothing"
    assert desk.node.holds(second.digest)
    desk.give(Trained(2, second.digest, second.size, 10, {"loss": 0.25}))
    assert desk.node.holds(second.digest)


def test_progress_of_training_is_told_in_heartbeats(desk: Desk) -> None:
    desk.link(1)
    desk.give(Stepped(1, 5, 20))
    desk.now += 1.0
    (heartbeat,) = [x for x in sent(desk.give(Woke()), desk.ids[1]) if isinstance(x, m.Heartbeat)]
    mine = next(row for row in heartbeat.progress if row.node == desk.ids[0])
    assert (mine.round, mine.step, mine.steps, mine.moved_ms) == (1, 5, 20, 1000)


def test_a_store_that_failed_is_put_into_words(desk: Desk) -> None:
    update = Digest(digest("update"))
    (text,) = words(desk.give(StoreFailed(update, "the disk is read only")), "store_failed")
    assert text == "couldn't store a blob: the disk is read only"


def test_a_blob_whose_beginning_is_lost_is_forgotten_to_be_fetched_from_its_beginning(desk: Desk) -> None:
    update = Digest(digest("update"))
    desk.node.transfer.want(update, 128, desk.now)
    assert update in desk.node.transfer.known()
    effects = desk.give(StoreFailed(update, "no room", lost=True))
    assert Forget((update,)) in effects
    assert update not in desk.node.transfer.known()


def test_while_it_rests_a_site_neither_trains_nor_takes_what_it_had_begun(desk: Desk) -> None:
    desk.give(Resting("its people want the machine"))
    before = desk.node.status(desk.now)
    assert (before["phase"], before["resting"]) == ("paused", "its people want the machine")
    desk.trained()
    assert desk.node._voice.mine() == [], "of what was abandoned nothing is offered"
    assert Train not in kinds(desk.give(Woke()))
    assert Train in kinds(desk.give(Resting("")))
    assert desk.node.status(desk.now)["phase"] == "training"


def test_while_it_has_no_room_a_site_fetches_nothing(desk: Desk) -> None:
    update, size = Digest(digest("update")), len(desk.swarm.initial)
    desk.give(Resting("its disk is full", frugal=True))
    assert desk.node._updates.fetch(update, size, (), desk.now) == []
    assert update not in desk.node.transfer.known()
    desk.give(Resting(""))
    desk.node._updates.fetch(update, size, (), desk.now)
    assert update in desk.node.transfer.known()


def test_the_others_hear_at_once_that_a_site_rests(desk: Desk) -> None:
    desk.link(1)
    desk.now += 0.3
    (told,) = [x for x in sent(desk.give(Resting("why")), desk.ids[1]) if isinstance(x, m.Heartbeat)]
    assert next(row.phase for row in told.progress if row.node == desk.ids[0]) == Phase.PAUSED


# --- what others offer ------------------------------------------------------------------------------------------------


def test_an_offered_update_is_asked_for_and_inspected_once_when_it_has_come(desk: Desk) -> None:
    data = b"\x00\x00\x80?" * 32
    update = blob(data)
    body = msgspec.structs.replace(contribution(desk.swarm, 1), update_digest=update.digest)
    desk.link(1)
    desk.hear(1, m.EntryMessage(Feeds(desk.swarm).write(1, body)))
    assert desk.node.usable(update.digest) is None
    desk.hear(1, m.Have(update.digest, update.size, b""))
    desk.hear(1, m.Leaves(update.digest, update.size, b"".join(update.leaves)))
    assert m.Want(update.digest, 0, 128) in sent(desk.effects, desk.ids[1])
    effects = desk.hear(1, m.ChunkHeader(update.digest, 0), data)
    assert kinds(effects)[:2] == [Keep, Seal]
    assert [effect for effect in effects if isinstance(effect, Inspect)] == [Inspect(update.digest, 128)]
    assert Inspect not in kinds(desk.give(Woke()))
    assert desk.node.usable(update.digest) is None, "complete is not yet fit to be averaged"
    assert reports(desk.give(Inspected(update.digest, "", 5.7))) == []
    assert desk.node.usable(update.digest) is True
    assert Inspect not in kinds(desk.give(Woke()))


def test_an_update_that_may_not_be_averaged_is_told_with_the_reason(desk: Desk) -> None:
    update = Digest(digest("update"))
    effects = desk.give(Inspected(update, "its norm 7 is over the charter's bound 5", 7.0))
    assert words(effects, "update_unusable") == [
        "an update may not be averaged: its norm 7 is over the charter's bound 5"
    ]
    assert desk.node.usable(update) is False


def test_an_update_of_a_size_that_no_model_has_is_never_asked_for(desk: Desk) -> None:
    desk.link(1)
    body = msgspec.structs.replace(contribution(desk.swarm, 1), update_bytes=129)
    effects = desk.hear(1, m.EntryMessage(Feeds(desk.swarm).write(1, body)))
    effects += desk.hear(1, m.Have(body.update_digest, 129, b""))
    assert desk.node.transfer.size(Digest(body.update_digest)) is None
    assert not [message for message in sent(effects) if isinstance(message, m.GetLeaves | m.Want)]


def test_a_chunk_that_completes_nothing_gives_no_other_work() -> None:
    """There may be tens of thousands of them in a round: each is written, and more asked for, and that is all."""
    data = bytes(range(256)) * (3 * LEAF_BYTES // 256)
    model = blob(data)
    task = msgspec.structs.replace(
        make_swarm(2).charter.task, parameters=len(data) // 4, initial_model=bytes(model.digest)
    )
    small = make_swarm(2)
    signed = SignedCharter(changed(small, task=task), {})
    for who in small.identities:
        signed = signed.sign(who)
    desk = Desk(Swarm(small.identities, signed, data), blobs=())
    desk.start()
    desk.link(1)
    desk.hear(1, m.Have(model.digest, model.size, b""))
    desk.hear(1, m.Leaves(model.digest, model.size, b"".join(model.leaves)))
    served, sizes, effects = 0, Counter[type[Effect]](), list[Effect]()
    wants = [message for message in sent(desk.effects) if isinstance(message, m.Want)]
    while wants:
        want = wants.pop(0)
        desk.now += 10  # Whatever was due would be done now.
        payload = data[want.offset : want.offset + want.length]
        effects = desk.hear(1, m.ChunkHeader(model.digest, want.offset), payload)
        served += len(payload)
        asked = [message for message in sent(effects) if isinstance(message, m.Want)]
        wants += asked
        if served < model.size:
            assert kinds(effects)[0] is Keep
            assert len(effects) == 1 + len(sent(effects))
            assert {type(message) for message in sent(effects)} <= {m.Want, m.Have}
            sizes.update(kinds(effects))
    assert served == model.size
    assert sizes[Keep] >= 3
    assert [effect for effect in effects if isinstance(effect, Seal)] == [Seal(model.digest, model.size, model.leaves)]
    assert {Train, WakeAt} <= set(kinds(effects)), "the last one completes the model, and training begins"


# --- catching up ------------------------------------------------------------------------------------------------------


def finished_node(rounds: int = 2) -> tuple[World, Node]:
    """A run of three members that is over, and the machine of the first."""
    world = tell(3, rounds=rounds)
    assert world.run(done, end_s=END_S)
    machine = world.place(0).machine
    assert isinstance(machine, Node)
    return world, machine


def blocks_from(world: World, node: Node, asker: NodeId, height: int, last: int = 2**63 - 1) -> list[bytes]:
    """What the shell would send of the blocks that a peer asks for, as the journal has them."""
    asked = Received(asker, wire.encode(m.GetBlocks(height, last)))
    journal = world.place(0).journal
    assert journal is not None
    found: list[bytes] = []
    for effect in node.handle(asked, EPOCH_S + world.now):
        if isinstance(effect, SendBlocks):
            assert (effect.to, wire.decode(effect.frame)) == (asker, m.BlockRange(height))
            found += journal.blocks(effect.first, effect.last, effect.bytes_max)
    return found


def test_blocks_are_sent_from_the_disk_from_the_height_asked_for_on() -> None:
    world, node = finished_node()
    top = node.replica.head.height
    for height, last in ((1, 2**63 - 1), (2, top), (2, 3), (top, top + 5)):
        finals = [
            codec.decode(data, FinalBlock, limit=1 << 20)
            for data in blocks_from(world, node, world.ids[1], height, last)
        ]
        heights = [Header.decode(final.block.header).height for final in finals]
        assert heights == list(range(height, min(last, top) + 1))
    for height, last in ((0, top), (-1, top), (top + 1, top + 1), (2**63, 2**64 - 1), (3, 2)):
        assert blocks_from(world, node, world.ids[1], height, last) == []


@pytest.mark.parametrize("by_block", [False, True])
def test_an_update_heard_of_out_of_order_is_asked_for_once_what_it_follows_on_is_here(by_block: bool) -> None:
    """Be that as an entry or in a block. When blocks become final, what is in no feed is let go of."""
    swarm = make_swarm(3, rounds=2, patience_ms=20_000)
    world = tell(3, swarm=swarm, behaviours={1: Behaviour.SLOW})
    assert world.run(done, end_s=END_S)
    node = world.place(0).machine
    assert isinstance(node, Node)
    blocks = blocks_from(world, node, world.ids[1], 1)
    finals = [codec.decode(data, FinalBlock, limit=1 << 20) for data in blocks]
    leaves = [(height, leaf) for height, final in enumerate(finals, 1) for leaf in final.block.leaves]
    feed = [(height, leaf) for height, leaf in leaves if e.decode_entry(leaf).author == world.ids[1]]
    last = max(n for n, (_, leaf) in enumerate(feed) if e.decode_entry(leaf).kind == e.CONTRIBUTION)
    offer = codec.decode(e.decode_entry(feed[last][1]).body, e.Contribution, limit=e.ENTRY_BYTES_MAX)
    before = feed[last - 1][0]
    assert before < feed[last][0], "the slow member's score of round 1 is on record long before its second update"
    desk = Desk(swarm, 2)
    desk.start()
    desk.now = EPOCH_S + world.now
    desk.link(0)
    desk.hear(0, m.EntryMessage(feed[last][1]))
    desk.hear(0, m.BlockRange(1), joined(blocks[: before - 1]))
    assert desk.node.replica.head.height == before - 1
    assert desk.node.transfer.size(Digest(offer.update_digest)) is None, "it follows on something that is not here"
    if by_block:
        desk.hear(0, m.BlockRange(before), joined([blocks[before - 1]]))
    for height, leaf in feed[:last]:
        if height == before and not by_block:
            desk.hear(0, m.EntryMessage(leaf))
    assert desk.node.transfer.size(Digest(offer.update_digest)) == offer.update_bytes


def test_a_node_that_was_away_follows_the_blocks_of_one_neighbour() -> None:
    world, node = finished_node()
    desk = Desk(make_swarm(3, rounds=2), 2)
    desk.start()
    desk.now = EPOCH_S + world.now
    desk.link(0)
    effects = desk.hear(0, m.BlockRange(1), joined(blocks_from(world, node, world.ids[1], 1)))
    assert desk.node.replica.head.digest() == node.replica.head.digest()
    durable = [r for x in effects if isinstance(x, Persist) for r in x.records if r.kind == RECORD_BLOCK]
    assert len(durable) == node.replica.head.height
    committed = words(effects, "round_committed")
    assert [text[:17] for text in committed] == ["round 1 committed", "round 2 committed"]
    assert desk.node.transfer.size(Digest(node.replica.head.committed.model)) == 128, "the last model is being fetched"


def test_a_neighbour_that_is_ahead_is_asked_for_blocks_and_another_when_it_does_not_answer(desk: Desk) -> None:
    desk.link(1, 2)
    wanted = m.GetBlocks(1, 5)
    assert wanted not in sent(desk.hear(1, beat(desk, height=5))), "everybody is behind for a moment"
    desk.now += CATCH_UP_AFTER_S
    assert wanted in sent(desk.hear(1, beat(desk, height=5)), desk.ids[1])
    assert wanted not in sent(desk.hear(2, beat(desk, height=5))), "it is on its way"
    desk.now += TIMEOUT_S
    assert wanted in sent(desk.give(Woke()), desk.ids[2])


def test_what_a_lost_neighbour_was_asked_for_is_asked_of_another(desk: Desk) -> None:
    desk.link(1, 2)
    desk.now += CATCH_UP_AFTER_S
    desk.hear(1, beat(desk, height=5))
    desk.give(LinkChanged(desk.ids[1], False, "gone"))
    assert m.GetBlocks(1, 5) in sent(desk.hear(2, beat(desk, height=5)), desk.ids[2])


def test_a_quorum_that_contradicts_the_ledger_halts_the_node_in_words(desk: Desk) -> None:
    desk.link(1)
    leader = desk.node.consensus.leader(1)
    ends = entries_hash(()), bytes(32), justify_hash(())
    header = Header(0, 1, 1, b"\x05" * 32, 0, int(desk.now * 1000), 0, 0, 0, bytes(32), *ends)
    signature = desk.swarm.identities[leader].vote_key.sign(
        propose_message(desk.swarm.signed.ledger_id, header.encode())
    )
    block = Block(header.encode(), (), (), leader, signature)
    effects = desk.hear(1, m.Blocks((FinalBlock(block, (certify(desk.swarm, header),)),)))
    assert reports(effects) == ["fork"]
    assert sent(effects, desk.ids[1]) == [m.GetBlocks(1, 0)], "its history is asked for, as a proof"
    assert "another block" in str(desk.node.status(desk.now)["halted"])
    desk.now += 30
    assert m.CastVote not in [type(message) for message in sent(desk.give(Woke()))]
    assert "HALTED" in render(desk.node.status(desk.now))


def speak_elsewhere(desk: Desk) -> list[Effect]:
    """Have somebody else speak with this node's identity; return what it does when it would speak itself."""
    elsewhere = e.sign_entry(
        desk.swarm.identities[0].id_key,
        ledger_id=desk.swarm.signed.ledger_id,
        author=desk.ids[0],
        kind=e.CONTRIBUTION,
        seq=0,
        prev=bytes(32),
        ts_ms=0,
        body=contribution(desk.swarm, 0),
    )
    desk.hear(1, m.EntryMessage(elsewhere.encode()))
    return desk.trained()


def test_a_node_whose_identity_speaks_elsewhere_says_nothing_that_contradicts_it(desk: Desk) -> None:
    desk.link(1, 2)
    effects = speak_elsewhere(desk)
    assert "identity_conflict" in reports(effects)
    assert Persist not in kinds(effects)
    assert m.EntryMessage not in [type(message) for message in sent(effects)]
    assert desk.node.status(desk.now)["halted"] == "this node's identity has been used elsewhere"


def test_a_node_whose_identity_speaks_elsewhere_follows_the_others_to_the_end_without_a_vote() -> None:
    left = calm_run()
    desk = Desk(left.swarm)
    desk.start()
    desk.link(1, 2)
    speak_elsewhere(desk)
    begun = len(desk.effects)
    later(desk, 2 * CATCH_UP_AFTER_S)
    assert m.GetBlocks(1, 3) in sent(desk.hear(1, beat(desk, height=3)))
    blocks = [codec.decode(payload, FinalBlock, limit=1 << 21) for payload in left.payloads]
    for first in range(0, len(blocks), 3):
        desk.hear(1, m.Blocks(tuple(blocks[first : first + 3])))
    head = desk.node.replica.head
    assert (head.height, head.complete) == (len(blocks), True)
    later(desk, 60.0)
    spoken = {type(message) for message in sent(desk.effects[begun:])}
    assert not spoken & {m.CastVote, m.Propose, m.EntryMessage, m.Cosign, m.Remind}
    assert desk.node.status(desk.now)["outcome"] == "FAILED", "it has no part in how the run ended"


def test_a_node_that_starts_behind_two_histories_of_its_own_says_so_and_does_not_wait_for_one_to_come() -> None:
    left = calm_run()
    desk = Desk(left.swarm)
    mine: list[bytes] = []
    for seq in range(2):  # On its disk are two entries, of which the first is another than the one that became final.
        prev = e.decode_entry(mine[-1]).id if mine else bytes(32)
        body = contribution(desk.swarm, 0)
        entry = e.sign_entry(
            desk.swarm.identities[0].id_key,
            ledger_id=desk.swarm.signed.ledger_id,
            author=desk.ids[0],
            kind=e.CONTRIBUTION,
            seq=seq,
            prev=prev,
            ts_ms=0,
            body=body,
        )
        mine.append(entry.encode())
    final = next(h for h, p in enumerate(left.payloads, 1) if desk.ids[0] in authors(p))
    blocks = [Record(RECORD_BLOCK, h, payload) for h, payload in enumerate(left.payloads[:final], 1)]
    desk.start(*blocks, *(Record(RECORD_ENTRY, seq, leaf) for seq, leaf in enumerate(mine)))
    for number in (1, 2):
        desk.give(LinkChanged(desk.ids[number], True))
        desk.hear(number, desk.hello(number))
        desk.hear(number, m.Reminder(0, (), (), b"", 2))
    assert words(desk.effects, "identity_conflict")
    assert desk.node.status(desk.now)["outcome"] == "FAILED"


def authors(payload: bytes) -> set[NodeId]:
    """Who wrote the entries of a final block."""
    block = codec.decode(payload, FinalBlock, limit=1 << 21).block
    return {NodeId(e.decode_entry(leaf).author) for leaf in block.leaves}


# --- how a run stands -------------------------------------------------------------------------------------------------


def test_a_run_is_paused_while_fewer_sites_are_there_than_are_needed_and_says_so_once(desk: Desk) -> None:
    desk.link(1, 2)
    desk.now += 1.0
    assert not words(desk.give(Woke()), "paused")
    assert desk.node.status(desk.now)["outcome"] == "RUNNING"
    desk.now += 60.0
    (text,) = words(desk.give(Woke()), "paused")
    assert text.startswith("the run is PAUSED: 1 of 4 sites present, 3 needed. Nothing is lost")
    status = desk.node.status(desk.now)
    assert (status["outcome"], status["reason"]) == ("PAUSED", "1 of 4 sites present, 3 needed")
    desk.now += 1.0
    assert not words(desk.give(Woke()), "paused")
    for number in (1, 2):
        desk.hear(number, beat(desk))
    desk.now += 1.0
    assert words(desk.give(Woke()), "resumed") == ["enough sites are there again: the run goes on"]


def test_a_run_is_paused_while_fewer_sites_are_there_than_a_round_takes() -> None:
    desk = Desk(make_swarm(4, min_contributions=4))
    desk.start()
    desk.link(1, 2, 3)
    desk.now += 60.0
    for number in (1, 2):
        desk.hear(number, beat(desk))
    assert desk.node.status(desk.now)["paused"] == "3 of 4 sites present, 4 needed"


def test_a_node_that_agrees_to_nothing_more_has_failed() -> None:
    desk = Desk(make_swarm(4))
    desk.start()
    desk.node._voice.halted = "this node's identity has been used elsewhere"
    (end,) = [effect for effect in desk.give(Woke()) if isinstance(effect, Finished)]
    assert end == Finished("FAILED", "this node's identity has been used elsewhere")
    assert desk.node.forked
    assert not [effect for effect in desk.give(Woke()) if isinstance(effect, Finished)], "said once"


# --- status -----------------------------------------------------------------------------------------------------------


def test_status_has_what_people_ask_and_can_be_sent_as_json(desk: Desk) -> None:
    desk.link(1)
    desk.give(Stepped(1, 3, 8))
    (answer,) = desk.give(Asked(77, "status"))
    assert isinstance(answer, Answer)
    assert answer.ticket == 77
    status = json.loads(json.dumps(answer.reply))
    members = status.pop("members")
    expected = {
        "swarm": "test-swarm",
        "me": "site-0",
        "ledger_id": desk.swarm.signed.ledger_id.hex(),
        "height": 0,
        "entries": 1,
        "root": desk.node.replica.head.frontier.root().hex(),
        "rounds": 3,
        "round": 1,
        "committed": 0,
        "model": desk.blobs[0].digest.hex(),
        "phase": "training",
        "paused": "",
        "halted": "",
        "quorum": 3,
        "tolerance": desk.swarm.charter.fault_tolerance(),
    }
    assert {key: status.get(key) for key in expected} == expected
    assert [row["name"] for row in members] == ["site-0", "site-1", "site-2", "site-3"]
    assert [row["linked"] for row in members] == [True, True, False, False]
    assert [row["me"] for row in members] == [True, False, False, False]
    assert (members[0]["phase"], members[0]["step"], members[0]["steps"]) == ("training", 3, 8)
    text = render(answer.reply)
    for word in ("site-3", "0 of 3 committed", "training, step 3", "no link"):
        assert word in text


def test_status_says_why_nothing_can_become_final_when_too_few_are_there(desk: Desk) -> None:
    desk.link(1)
    assert desk.node.status(desk.now)["paused"] == ""
    desk.now += 60
    desk.hear(1, beat(desk))
    assert desk.node.status(desk.now)["paused"] == "2 of 4 sites present, 3 needed"
    assert [member(desk, k)["absent"] for k in range(4)] == [False, False, True, True]
    assert "PAUSED" in render(desk.node.status(desk.now))


def test_status_of_a_finished_run_says_so_of_everybody() -> None:
    world, node = finished_node()
    assert world.run(lambda w: node.everyone_has_finished(), end_s=END_S)
    status = node.status(EPOCH_S + world.now)
    assert (status["committed"], status["rounds"], status["phase"], status["paused"]) == (2, 2, "done", "")
    assert status["height"] == node.replica.head.height
    members = status["members"]
    assert isinstance(members, list)
    assert [row["phase"] for row in members] == ["done"] * 3
    assert not Desk(make_swarm(3, rounds=2)).node.everyone_has_finished()


# --- whole runs, watched ----------------------------------------------------------------------------------------------


class Watch(Checker):
    """Per member: what became durable, what its ledger names, and what it forgot."""

    def __init__(self) -> None:
        self.durable: dict[int, set[bytes]] = {}
        self.sends: Counter[type[m.Message]] = Counter()
        self.updates: dict[int, set[bytes]] = {}
        self.models: dict[int, bytes] = {}
        self.forgotten = 0
        self.attempts: set[int] = set()
        self.last_words: list[list[type[m.Message]]] = []

    @override
    def on_start(self, world: World, node: int, twin: int, records: Sequence[Record]) -> None:
        self.on_persist(world, node, twin, records)

    @override
    def on_persist(self, world: World, node: int, twin: int, records: Sequence[Record]) -> None:
        durable = self.durable.setdefault(node, set())
        for record in records:
            durable.add(record.payload)
            if record.kind == RECORD_BLOCK:
                for leaf in codec.decode(record.payload, FinalBlock, limit=RECORD_BYTES_MAX).block.leaves:
                    self._learn(e.decode_entry(leaf))

    def _learn(self, entry: e.Entry) -> None:
        if entry.kind == e.CONTRIBUTION:
            body = codec.decode(entry.body, e.Contribution, limit=e.ENTRY_BYTES_MAX)
            self.updates.setdefault(body.round, set()).add(body.update_digest)
            self.attempts.add(body.attempt)
        elif entry.kind == e.ROUND_COMMIT:
            commit = codec.decode(entry.body, e.RoundCommit, limit=e.ENTRY_BYTES_MAX)
            self.models[commit.round] = commit.model_digest

    @override
    def on_send(self, world: World, node: int, twin: int, to: NodeId, frame: bytes) -> None:
        """What a member signed leaves it only after it has become durable there."""
        signed = b""
        message = wire.decode(frame)
        match message:
            case m.CastVote() if message.vote.signer == node:
                signed = codec.encode(message.vote)
            case m.Propose() if message.block.proposer == node:
                signed = codec.encode(message.block)
            case m.EntryMessage() if e.decode_entry(message.leaf).author == world.ids[node]:
                signed = message.leaf
            case _:
                return
        self.sends[type(message)] += 1
        if signed not in self.durable[node]:
            world.fail(f"member {node} sent a {type(message).__name__} that it had not made durable")

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        """What the open round or a pending contribution names is never forgotten."""
        if any(isinstance(effect, Finished) for effect in effects):
            self.last_words.append([type(message) for message in sent(effects)])
        machine = world.place(node).machine
        gone = {digest_ for effect in effects if isinstance(effect, Forget) for digest_ in effect.digests}
        if not gone or not isinstance(machine, Node):
            return
        self.forgotten += len(gone)
        head = machine.replica.head
        needed = {head.committed.model}
        needed |= {
            placed.body.update_digest for (number, _), placed in head.contributions.items() if number >= head.round
        }
        for _, body in machine.replica.bodies(e.Contribution):
            assert isinstance(body, e.Contribution)
            needed |= {body.update_digest} if body.round >= head.round else set()
        if gone & needed:
            world.fail(f"member {node} forgot what round {head.round} needs")


@pytest.mark.parametrize("at_s", [4.3, 4.9, 6.4])
def test_what_a_site_has_learnt_before_it_may_speak_again_is_not_learnt_twice(at_s: float) -> None:
    """It comes back linked to one other of the two it has to ask, and blocks become final before it has said its part.

    A second attempt at a round is not only work done again: receipts for the first are void, and partners do not meet.
    """
    ways = (((1,), (2, 3)), ((2, 3), (1,)))
    cuts = (OneWayCut(at_s=at_s + 0.9, sources=a, targets=b, duration_s=4.0) for a, b in ways)
    watch = Watch()
    plan = FaultPlan(faults=(Crash(at_s=at_s, slot=1, down_s=1.0), *cuts), heal_s=30.0)
    world = tell(4, rounds=6, plan=plan, checkers=[watch])
    assert world.run(done, end_s=END_S)
    assert watch.attempts == {1}


@pytest.mark.parametrize("power", [False, True])
def test_what_is_signed_is_durable_before_it_is_sent_and_only_what_nobody_needs_is_forgotten(power: bool) -> None:
    watch = Watch()
    plan = FaultPlan(faults=(Crash(at_s=4.0, slot=1, down_s=2.0, power=power),), heal_s=10.0)
    world = tell(4, rounds=5, plan=plan, checkers=[watch])
    assert world.run(done, end_s=END_S)
    assert set(watch.sends) == {m.CastVote, m.Propose, m.EntryMessage}
    assert sorted(watch.models) == [1, 2, 3, 4, 5]
    assert watch.forgotten >= 4 * 4 * 3, "four rounds of four updates at three members, at the least"
    old = {update for number in range(1, 5) for update in watch.updates[number]}
    old |= {watch.models[number] for number in (1, 2, 3)}
    for place in world.places:
        held = {stored.digest for stored in place.blobs.listing()[0]}
        assert not held & old, f"member {place.member} keeps blobs of rounds that are over"
        assert watch.models[5] in held


def test_who_has_finished_tells_the_others_at_once_so_that_nobody_waits_for_the_next_heartbeat() -> None:
    watch = Watch()
    world = tell(3, rounds=1, checkers=[watch])
    assert world.run(done, end_s=END_S)
    assert len(watch.last_words) == 3
    assert all(said.count(m.Heartbeat) == 2 for said in watch.last_words)


class Promises(Checker):
    """Per member, everything it ever made durable that it signed: never two different statements in one place."""

    def __init__(self) -> None:
        self.said: dict[tuple[int, str, int, int], bytes] = {}

    @override
    def on_start(self, world: World, node: int, twin: int, records: Sequence[Record]) -> None:
        self.on_persist(world, node, twin, records)

    @override
    def on_persist(self, world: World, node: int, twin: int, records: Sequence[Record]) -> None:
        for record in records:
            self._note(world, node, record)

    def _note(self, world: World, node: int, record: Record) -> None:
        if record.kind == RECORD_VOTE:
            vote = codec.decode(record.payload, Vote, limit=RECORD_BYTES_MAX)
            if vote.signer == node:
                self._say(world, node, "vote", vote.view, vote.kind, vote.block)
                if {(node, "vote", vote.view, SKIP), (node, "vote", vote.view, FINALIZE)} <= self.said.keys():
                    world.fail(f"member {node} skipped and finalised view {vote.view}")
        elif record.kind == RECORD_BODY:
            block = codec.decode(record.payload, Block, limit=RECORD_BYTES_MAX)
            if block.proposer == node:
                header = Header.decode(block.header)
                self._say(world, node, "proposal", header.view, 0, header.hash)
        elif record.kind == RECORD_ENTRY:
            entry = e.decode_entry(record.payload)
            self._say(world, node, "entry", entry.seq, 0, entry.id)

    def _say(self, world: World, node: int, what: str, place: int, kind: int, statement: bytes) -> None:
        if self.said.setdefault((node, what, place, kind), statement) != statement:
            world.fail(f"member {node} made two different statements: {what} {place}/{kind}")


def crashed(members: int, after_effects: int, *, power: bool) -> World:
    """A run of one round in which one process is killed after so many effects, and what it promised is watched."""
    crash = Crash(at_s=0.0, slot=0, down_s=1.5, after_effects=after_effects, power=power)
    world = tell(members, rounds=1, plan=FaultPlan(faults=(crash,), heal_s=5.0), checkers=[Promises()])
    assert world.run(done, end_s=END_S), f"killed after effect {after_effects}"
    return world


def test_a_lone_node_killed_after_any_effect_contradicts_nothing_and_finishes() -> None:
    after = 1
    while crashed(1, after, power=False).stats.crashes:
        after += 1
    assert after > 25, "every effect of the run had its turn"


@pytest.mark.parametrize("power", [False, True])
def test_one_of_three_killed_between_any_effects_contradicts_nothing_and_finishes(power: bool) -> None:
    for after in range(1 + power, 130, 9):
        assert crashed(3, after, power=power).stats.crashes == 1


# --- what is passed on ------------------------------------------------------------------------------------------------


RING = ((0, 1), (0, 2), (1, 3), (2, 3))


def test_what_names_no_member_is_a_matter_of_its_sender_alone(desk: Desk) -> None:
    desk.link(1)
    header = Header(1, 1, 1, bytes(32), 0, 1, 1, 0, 1, bytes(32), bytes(32), bytes(32), bytes(32))
    for message in (
        m.CastVote(Vote(0, 1, NOTARIZE, b"\1" * 32, 4, bytes(64))),
        m.Propose(Block(header.encode(), (), (), 999, bytes(64))),
        m.Propose(Block(header.encode(), (), (), -100, bytes(64))),
    ):
        assert [to for to in kinds(desk.hear(1, message)) if to is Send] == []


def test_only_what_was_verified_is_passed_on_and_only_once() -> None:
    swarm = make_swarm(4, edges=RING)
    desk = Desk(swarm)
    desk.start()
    desk.link(1, 2)
    for forged in (
        Vote(7, 1, NOTARIZE, b"\1" * 32, 1, bytes(64)),  # another epoch: nothing here can tell whose it is
        Vote(0, 1, NOTARIZE, b"\1" * 32, 1, bytes(64)),  # no signature
    ):
        assert sent(desk.hear(1, m.CastVote(forged)), desk.ids[2]) == []
    message = vote_message(swarm.signed.ledger_id, 0, 1, SKIP, bytes(32))
    vote = Vote(0, 1, SKIP, bytes(32), 1, swarm.identities[1].vote_key.sign(message))
    assert m.CastVote(vote) in sent(desk.hear(1, m.CastVote(vote)), desk.ids[2])
    assert m.CastVote(vote) not in sent(desk.hear(1, m.CastVote(vote)), desk.ids[2])


def test_a_stranger_to_the_charter_is_told_of_once_and_not_with_every_greeting() -> None:
    world = tell(4, swarm=make_swarm(4, rounds=3), strangers={3: make_swarm(4, rounds=5)})
    world.run(lambda _: False, end_s=60.0)
    for place in world.places:
        told = Counter((fact.event, fact.values.get("peer")) for _, fact in place.reports)
        for (event, _), times in told.items():
            if event in ("peer_refused", "refused_by_peer"):
                assert times == 1, told


def test_a_node_whose_identity_speaks_elsewhere_neither_proposes_nor_votes_any_more() -> None:
    swarm = make_swarm(3)
    desk = Desk(swarm)
    desk.start()
    desk.link(1, 2)
    elsewhere = e.sign_entry(
        swarm.identities[0].id_key,
        ledger_id=swarm.signed.ledger_id,
        author=desk.ids[0],
        kind=e.CONTRIBUTION,
        seq=0,
        prev=bytes(32),
        ts_ms=0,
        body=contribution(swarm, 0),
    )
    desk.hear(1, m.EntryMessage(elsewhere.encode()))
    assert "identity_conflict" in reports(desk.trained())
    desk.effects.clear()
    for _ in range(200):
        desk.now += 0.5
        desk.give(Woke())
        message = vote_message(swarm.signed.ledger_id, 0, 1, SKIP, bytes(32))
        for other in (1, 2):
            vote = Vote(0, 1, SKIP, bytes(32), other, swarm.identities[other].vote_key.sign(message))
            desk.hear(other, m.CastVote(vote))
    spoken = [type(message) for message in sent(desk.effects)]
    assert not {m.Propose, m.CastVote, m.EntryMessage} & set(spoken)
    assert not [effect for effect in desk.effects if isinstance(effect, Persist)]


# --- the journal ------------------------------------------------------------------------------------------------------


def test_votes_on_what_is_final_do_not_fill_the_disk_and_a_node_comes_back_without_them() -> None:
    crash = Crash(at_s=20.0, slot=0, down_s=5.0)
    world = tell(3, rounds=25, plan=FaultPlan(faults=(crash,)))
    world.run(done, end_s=END_S)
    assert done(world), "every site has every round, the one that came back among them"
    place = world.place(0)
    segments = place.disk.names("wal")
    assert len(segments) <= 3
    assert int(segments[0].partition(".")[0]) > 5, "many are gone"

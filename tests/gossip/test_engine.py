"""Who is told what: greetings that end, news that goes round once, heartbeats at their pace."""

import dataclasses
import random
from collections import deque

import msgspec
import pytest

from gossip import messages as m
from gossip import wire
from gossip.engine import FEED_SYNC_S, GREET_AGAIN_S, REMIND_S, SEEN_MAX, TOLD_S, Engine
from gossip.peers import HEARTBEAT_S, Peers
from gossip.protocol import PROTOCOL, SAID_CHARACTERS_MAX
from swarm.charter import SignedCharter
from swarm.machine import Effect, NodeId, Report, Send
from swarm.terms import founding
from tests.builders import CODE, LAYOUT, Swarm, make_swarm

RING = ((0, 1), (0, 4), (1, 2), (2, 3), (3, 4))
BEAT = m.Heartbeat(0, 0, b"", 0, ())
HEADS = m.FeedHeads(())


def hello(swarm: Swarm, index: int, **fields: object) -> m.Hello:
    node, ledger = swarm.identities[index].node, swarm.signed.ledger_id
    said = m.Hello(PROTOCOL, "swarm-node 0.1.0", (), node, ledger, CODE, LAYOUT, True)
    return msgspec.structs.replace(said, **fields)


def engine(swarm: Swarm, index: int, *, linked: bool = True) -> tuple[Engine, Peers]:
    """Return an engine, with all its neighbours linked and welcome unless told otherwise."""
    me = swarm.identities[index].node
    terms = founding(swarm.charter)
    peers = Peers(terms, me, 0.0)
    made = Engine(terms, me, hello(swarm, index), peers, random.Random(index))
    for node in made.neighbours if linked else ():
        peers.members[node].linked = peers.members[node].welcome = True
    return made, peers


def sends(effects: list[Effect]) -> list[Send]:
    return [effect for effect in effects if isinstance(effect, Send)]


def said(effects: list[Effect]) -> list[tuple[NodeId, m.Message]]:
    return [(send.to, wire.decode(send.frame)) for send in sends(effects)]


def reports(effects: list[Effect]) -> list[tuple[str, str]]:
    return [(effect.event, effect.text) for effect in effects if isinstance(effect, Report)]


# --- greetings ------------------------------------------------------------------------------------------------------


def test_a_new_link_is_greeted_and_reported_once() -> None:
    swarm = make_swarm(2)
    here, peers = engine(swarm, 0, linked=False)
    other = swarm.identities[1].node
    first = here.link(other, True, "")
    assert said(first) == [(other, hello(swarm, 0))]
    assert reports(first) == [("link_up", "linked to site-1")]
    assert reports(here.link(other, True, "")) == []
    assert here.welcome() == []
    assert not peers.members[other].welcome


def test_a_greeting_is_answered_and_the_answer_is_not() -> None:
    swarm = make_swarm(2)
    nodes = [swarm.identities[i].node for i in range(2)]
    engines = [engine(swarm, i, linked=False)[0] for i in range(2)]
    post: deque[tuple[int, Send]] = deque()
    for i in range(2):
        post += [(i, send) for send in sends(engines[i].link(nodes[1 - i], True, ""))]
    delivered, fresh_count = 0, 0
    while post:
        sender, send = post.popleft()
        delivered += 1
        assert delivered <= 4, "greetings are batted to and fro"
        greeting = wire.decode(send.frame)
        assert isinstance(greeting, m.Hello)
        fresh, effects = engines[1 - sender].on_hello(nodes[sender], greeting, 0.0)
        fresh_count += fresh
        post += [(1 - sender, answer) for answer in sends(effects)]
    assert (delivered, fresh_count) == (4, 2)
    assert [list(e.welcome()) for e in engines] == [[nodes[1]], [nodes[0]]]


def test_one_greeting_that_arrives_is_enough_for_both() -> None:
    swarm = make_swarm(2)
    here, there = engine(swarm, 0, linked=False)[0], engine(swarm, 1, linked=False)[0]
    me, other = (who.node for who in swarm.identities)
    here.link(other, True, "")
    there.link(me, True, "")  # Its greeting is lost.
    fresh, effects = there.on_hello(me, hello(swarm, 0), 0.0)
    assert fresh
    [(to, answer)] = said(effects)
    assert (to, answer) == (me, hello(swarm, 1, answer=False))
    assert isinstance(answer, m.Hello)
    assert here.on_hello(other, answer, 0.0) == (True, [])


def test_a_lost_link_is_reported_once_and_its_greeting_forgotten() -> None:
    swarm = make_swarm(2)
    here, peers = engine(swarm, 0)
    other = swarm.identities[1].node
    assert reports(here.link(other, False, "no answer for 10 s")) == [
        ("link_down", "link to site-1 lost: no answer for 10 s")
    ]
    assert here.link(other, False, "still") == []
    assert here.welcome() == []
    assert not peers.members[other].welcome


def test_a_repeated_greeting_is_answered_but_not_fresh() -> None:
    swarm = make_swarm(2)
    here, _ = engine(swarm, 0)
    fresh, effects = here.on_hello(swarm.identities[1].node, hello(swarm, 1), 0.0)
    assert not fresh
    assert len(sends(effects)) == 1


# --- mismatches -----------------------------------------------------------------------------------------------------

OTHER = bytes.fromhex("abcdef012345") + bytes(26)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"node": OTHER}, "site-1 introduced itself with another member's identity"),
        (
            {"protocol": (2, 3), "software": "swarm-node 9.0"},
            "site-1 speaks protocol 2.3 (swarm-node 9.0), this node 1.1 (swarm-node 0.1.0): update the older one",
        ),
        ({"charter": OTHER}, "site-1 has another charter (abcdef012345) than this node ({ledger}): "),
        ({"task": OTHER}, "site-1 has another task file (abcdef012345) than this node ({task}): "),
        ({"layout": OTHER}, "site-1 has another parameter layout (abcdef012345) than this node ({layout}): "),
        # Several at once: the first difference explains the rest.
        ({"charter": OTHER, "task": OTHER}, "site-1 has another charter"),
    ],
)
def test_a_mismatch_is_said_in_words_to_both_ends(fields: dict[str, object], words: str) -> None:
    swarm = make_swarm(2)
    here, peers = engine(swarm, 0)
    other = swarm.identities[1].node
    known = {"ledger": swarm.signed.ledger_id, "task": CODE, "layout": LAYOUT}
    words = words.format(**{what: digest.hex()[:12] for what, digest in known.items()})
    fresh, effects = here.on_hello(other, hello(swarm, 1, **fields), 0.0)
    assert not fresh
    [(to, refuse)] = said(effects)
    assert to == other
    assert isinstance(refuse, m.Refuse)
    assert refuse.reason.startswith(words)
    assert reports(effects) == [("peer_refused", f"site-1 cannot take part: {refuse.reason}")]
    assert here.welcome() == []
    assert peers.members[other].refused == refuse.reason


def test_a_repeated_mismatch_is_refused_again_but_reported_once() -> None:
    swarm = make_swarm(2)
    here, _ = engine(swarm, 0)
    other, bad = swarm.identities[1].node, hello(swarm, 1, task=OTHER)
    here.on_hello(other, bad, 0.0)
    _, effects = here.on_hello(other, bad, 0.0)
    assert len(sends(effects)) == 1
    assert reports(effects) == []


def test_a_mismatch_that_is_mended_is_welcome() -> None:
    swarm = make_swarm(2)
    here, peers = engine(swarm, 0, linked=False)
    other = swarm.identities[1].node
    here.on_hello(other, hello(swarm, 1, task=OTHER), 0.0)
    fresh, effects = here.on_hello(other, hello(swarm, 1), 1.0)
    assert fresh
    assert reports(effects) == [("peer_fits", "site-1 and this node fit together again")]
    assert peers.members[other].refused == ""
    # And what breaks again is told again.
    _, effects = here.on_hello(other, hello(swarm, 1, task=OTHER), 1.0 + TOLD_S)
    assert [event for event, _ in reports(effects)] == ["peer_refused"]


def test_another_minor_version_and_unknown_capabilities_are_welcome() -> None:
    swarm = make_swarm(2)
    here, _ = engine(swarm, 0, linked=False)
    greeting = hello(swarm, 1, protocol=(1, 7), software="other", capabilities=("zstd",))
    assert here.on_hello(swarm.identities[1].node, greeting, 0.0)[0]


def test_a_refusal_is_reported_once_in_the_peers_words() -> None:
    swarm = make_swarm(2)
    here, _ = engine(swarm, 0)
    other = swarm.identities[1].node
    assert reports(here.on_refuse(other, m.Refuse("another charter"), 0.0)) == [
        ("refused_by_peer", "site-1 refuses to work with this node: another charter")
    ]
    assert here.on_refuse(other, m.Refuse("another charter"), 0.0) == []


def test_who_says_something_else_each_time_does_not_fill_the_log() -> None:
    swarm = make_swarm(2)
    here, _ = engine(swarm, 0)
    other = swarm.identities[1].node
    told = 0
    for tenth in range(600):
        bad = hello(swarm, 1, charter=bytes([tenth % 256]) * 32)
        told += len(reports(here.on_hello(other, bad, tenth / 10)[1]))
        told += len(reports(here.on_refuse(other, m.Refuse(f"no {tenth}"), tenth / 10)))
    assert told == 2 * 60 / TOLD_S


def test_that_two_sites_do_not_fit_together_is_told_again_while_it_lasts() -> None:
    swarm = make_swarm(2)
    here, _ = engine(swarm, 0)
    other, bad = swarm.identities[1].node, hello(swarm, 1, task=OTHER)
    told = [at for at in range(3 * int(REMIND_S)) if reports(here.on_hello(other, bad, float(at))[1])]
    assert told == [0, REMIND_S, 2 * REMIND_S]


def test_a_refused_neighbour_is_greeted_now_and_then() -> None:
    swarm = make_swarm(2)
    here, _ = engine(swarm, 0)
    other = swarm.identities[1].node
    here.on_hello(other, hello(swarm, 1, task=OTHER), 0.0)
    greeted = [at for at in range(1, 61) if any(to == other for to, _ in said(here.tick(float(at), BEAT, HEADS)))]
    assert len(greeted) == 60 / GREET_AGAIN_S


def test_who_refuses_us_is_told_nothing_until_it_speaks_of_the_work() -> None:
    swarm = make_swarm(2)
    here, peers = engine(swarm, 0)
    other = swarm.identities[1].node
    here.on_refuse(other, m.Refuse("this site lacks relays: update it"), 0.0)
    # Its terms are ours all the same, and it is answered, or it could not find out that something was mended.
    fresh, effects = here.on_hello(other, hello(swarm, 1), 1.0)
    assert not fresh
    assert len(sends(effects)) == 1
    assert here.broadcast(m.EntryMessage(b"news")) == []
    assert peers.members[other].refuses
    here.on_other(other)
    assert here.on_hello(other, hello(swarm, 1), 2.0)[0]


def test_a_new_link_begins_without_the_refusal_of_the_old_one() -> None:
    swarm = make_swarm(2)
    here, _ = engine(swarm, 0)
    other = swarm.identities[1].node
    here.on_refuse(other, m.Refuse("another charter"), 0.0)
    here.link(other, False, "restarted")
    here.link(other, True, "")
    assert here.on_hello(other, hello(swarm, 1), 1.0)[0]


def test_what_the_charter_needs_a_peer_has_to_say_that_it_can() -> None:
    swarm = make_swarm(2)
    me, other = (who.node for who in swarm.identities)
    peers = Peers(founding(swarm.charter), me, 0.0)
    here = Engine(founding(swarm.charter), me, hello(swarm, 0), peers, random.Random(0), needs=("exact", "fold"))
    _, effects = here.on_hello(other, hello(swarm, 1, capabilities=("exact",)), 0.0)
    [(_, refuse)] = said(effects)
    assert isinstance(refuse, m.Refuse)
    assert refuse.reason == "site-1 (swarm-node 0.1.0) cannot do what the charter asks for (fold): update it"
    assert here.on_hello(other, hello(swarm, 1, capabilities=("exact", "fold", "relay")), 1.0)[0]
    assert (here.can(other, "relay"), here.can(other, "teleport")) == (True, False)


def test_a_kind_that_came_later_goes_to_those_who_have_said_that_they_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "NEEDS", {m.Missing: "telling of gaps"})
    swarm = make_swarm(3)
    here, peers = engine(swarm, 0)
    old, new = (swarm.identities[i].node for i in (1, 2))
    peers.members[new].capabilities = frozenset({"telling of gaps"})
    assert [to for to, _ in said(here.broadcast(m.Missing(OTHER)))] == [new]
    assert [to for to, _ in said(here.broadcast(m.EntryMessage(b"news")))] == [old, new]


def test_words_of_a_peer_are_shown_on_one_line_and_not_obeyed() -> None:
    swarm = make_swarm(2)
    here, peers = engine(swarm, 0)
    other = swarm.identities[1].node
    here.on_refuse(other, m.Refuse("no\x1b[2Jway\n" + "x" * 3000), 0.0)
    shown = peers.members[other].refuses
    assert shown.startswith("no?[2Jway?xxx")
    assert len(shown) == SAID_CHARACTERS_MAX + 1


# --- spreading ------------------------------------------------------------------------------------------------------


def flood(swarm: Swarm, origin: int, news: m.Message) -> tuple[dict[int, int], int]:
    """Deliver one broadcast everywhere. Return (how often each member received it, how often it was relayed)."""
    engines = [engine(swarm, i)[0] for i in range(len(swarm.identities))]
    index = {who.node: i for i, who in enumerate(swarm.identities)}
    post = deque((origin, send) for send in sends(engines[origin].broadcast(news)))
    received: dict[int, int] = {}
    relayed = 0
    while post:
        sender, send = post.popleft()
        receiver = index[send.to]
        received[receiver] = received.get(receiver, 0) + 1
        onward = sends(
            engines[receiver].relay(send.frame, swarm.identities[origin].node, swarm.identities[sender].node)
        )
        relayed += len(onward)
        assert relayed < 100, "news goes round for ever"
        post += [(receiver, copy) for copy in onward]
    return received, relayed


@pytest.mark.parametrize("n", [2, 5, 8])
def test_on_a_complete_graph_everyone_hears_once_and_nobody_relays(n: int) -> None:
    received, relayed = flood(make_swarm(n), 0, m.EntryMessage(b"news"))
    assert received == dict.fromkeys(range(1, n), 1)
    assert relayed == 0


@pytest.mark.parametrize("origin", range(5))
def test_on_a_ring_of_five_news_reaches_everyone(origin: int) -> None:
    received, relayed = flood(make_swarm(5, edges=RING), origin, m.EntryMessage(b"news"))
    assert set(received) == {*range(5)} - {origin}
    # The two neighbours pass it on to the two beyond; these two hear it from each other once more at most.
    assert 2 <= relayed <= 4
    assert sum(received.values()) == 2 + relayed


@pytest.mark.parametrize("origin", range(6))
def test_along_a_path_of_six_news_reaches_both_ends_without_turning_back(origin: int) -> None:
    received, relayed = flood(make_swarm(6, edges=tuple((i, i + 1) for i in range(5))), origin, m.EntryMessage(b"x"))
    assert received == dict.fromkeys({*range(6)} - {origin}, 1)
    assert relayed == 5 - (1 if origin in (0, 5) else 2)


def test_news_is_passed_on_once_however_often_it_comes() -> None:
    swarm = make_swarm(5, edges=RING)
    here, _ = engine(swarm, 1)
    frame = wire.encode(m.EntryMessage(b"news"))
    nodes = [who.node for who in swarm.identities]
    assert [send.to for send in sends(here.relay(frame, nodes[0], nodes[0]))] == [nodes[2]]
    assert here.relay(frame, nodes[0], nodes[0]) == []
    assert here.relay(frame, nodes[0], nodes[2]) == []
    other = wire.encode(m.EntryMessage(b"other news"))
    assert len(here.relay(other, nodes[0], nodes[0])) == 1


def test_news_is_not_sent_back_to_who_brought_it() -> None:
    # Member 1 hears of member 4's entry from member 2, who is the only one it could pass it on to.
    swarm = make_swarm(5, edges=RING)
    here, _ = engine(swarm, 1)
    assert here.relay(wire.encode(m.EntryMessage(b"news")), swarm.identities[4].node, swarm.identities[2].node) == []


def test_a_neighbour_that_has_not_introduced_itself_is_told_nothing() -> None:
    swarm = make_swarm(5, edges=RING)
    here, peers = engine(swarm, 1)
    nodes = [who.node for who in swarm.identities]
    peers.members[nodes[2]].welcome = False
    assert [send.to for send in sends(here.broadcast(m.EntryMessage(b"a")))] == [nodes[0]]
    assert here.relay(wire.encode(m.EntryMessage(b"b")), nodes[0], nodes[0]) == []


def test_memory_of_what_was_passed_on_is_bounded_and_forgets_the_oldest() -> None:
    swarm = make_swarm(5, edges=RING)
    here, _ = engine(swarm, 1)
    origin = swarm.identities[0].node
    frames = [wire.encode(m.GetBlocks(i)) for i in range(SEEN_MAX + 1)]
    for frame in frames:
        assert len(here.relay(frame, origin, origin)) == 1
    assert here.relay(frames[1], origin, origin) == []
    assert len(here.relay(frames[0], origin, origin)) == 1


# --- pace -----------------------------------------------------------------------------------------------------------


def test_heartbeats_go_to_all_each_second_and_feed_heads_to_one_each_other_second() -> None:
    swarm = make_swarm(4)
    here, _ = engine(swarm, 0)
    beats: dict[NodeId, int] = {}
    heads: dict[NodeId, int] = {}
    for tenth in range(600):
        for to, message in said(here.tick(tenth / 10, BEAT, HEADS)):
            if isinstance(message, m.Hello):
                continue  # Round trips are measured, too.
            counted = beats if isinstance(message, m.Heartbeat) else heads
            counted[to] = counted.get(to, 0) + 1
    assert (HEARTBEAT_S, FEED_SYNC_S) == (1.0, 2.0)
    assert beats == dict.fromkeys((who.node for who in swarm.identities[1:]), 60)
    assert sum(heads.values()) == 30
    assert len(heads) == 3


def test_nothing_is_sent_before_it_is_due() -> None:
    here, _ = engine(make_swarm(3), 0)
    assert here.beat_due(5.0)
    here.tick(5.0, BEAT, HEADS)
    assert here.next_wake() == 6.0
    assert not here.beat_due(5.999)
    assert here.tick(5.999, BEAT, HEADS) == []
    assert here.beat_due(6.0)


def test_a_late_tick_does_not_make_up_for_missed_ones() -> None:
    here, _ = engine(make_swarm(2), 0)
    here.tick(0.0, BEAT, HEADS)
    late = [type(message) for _, message in said(here.tick(50.0, BEAT, HEADS))]
    assert late == [m.Heartbeat, m.Hello, m.FeedHeads]
    assert here.next_wake() == 51.0


def test_a_linked_neighbour_without_a_greeting_is_greeted_at_every_beat() -> None:
    swarm = make_swarm(3)
    here, peers = engine(swarm, 0)
    mute = swarm.identities[2].node
    peers.members[mute].welcome = False
    for second in range(3):
        to_mute = [message for to, message in said(here.tick(float(second), BEAT, HEADS)) if to == mute]
        assert to_mute == [hello(swarm, 0)]


def test_an_unlinked_neighbour_is_sent_nothing() -> None:
    here, _ = engine(make_swarm(3), 0, linked=False)
    assert here.tick(0.0, BEAT, HEADS) == []
    assert here.broadcast(m.EntryMessage(b"news")) == []


def hidden(swarm: Swarm, *members: int) -> Swarm:
    """Return the swarm with a charter, not signed, in which nobody can dial these members."""
    cards = [
        msgspec.structs.replace(card, endpoint="") if i in members else card
        for i, card in enumerate(swarm.charter.members)
    ]
    signed = SignedCharter(msgspec.structs.replace(swarm.charter, members=tuple(cards)), {})
    return dataclasses.replace(swarm, signed=signed)


def test_two_sites_that_nobody_can_dial_hear_of_each_other_by_those_between() -> None:
    # The terms list no links, which means everyone with everyone; but neither of these two can open theirs.
    swarm = hidden(make_swarm(4), 1, 3)
    assert founding(swarm.charter).neighbours(1) == (0, 2)
    received, relayed = flood(swarm, 1, m.EntryMessage(b"news"))
    assert sorted(received) == [0, 2, 3]
    assert relayed == 2  # by each of the two that have both for neighbours
    received, relayed = flood(swarm, 0, m.EntryMessage(b"news"))
    assert (sorted(received), relayed) == ([1, 2, 3], 0)


# --- round trips ----------------------------------------------------------------------------------------------------


def test_each_neighbour_is_measured_every_five_seconds_one_a_heartbeat() -> None:
    swarm = make_swarm(4)
    here, _ = engine(swarm, 0)
    asked: dict[NodeId, list[float]] = {}
    for second in range(21):
        greeted = [to for to, message in said(here.tick(float(second), BEAT, HEADS)) if isinstance(message, m.Hello)]
        assert len(greeted) <= 1
        for to in greeted:
            asked.setdefault(to, []).append(float(second))
            here.on_hello(
                to, hello(swarm, [who.node for who in swarm.identities].index(to), answer=False), second + 0.1
            )
    first, second_, third = (who.node for who in swarm.identities[1:])
    assert asked == {first: [5, 10, 15, 20], second_: [6, 11, 16], third: [7, 12, 17]}


def test_a_greeting_and_its_answer_are_a_round_trip_whatever_version_answers() -> None:
    swarm = make_swarm(2)
    here, peers = engine(swarm, 0)
    there = engine(swarm, 1)[0]
    me, other = (who.node for who in swarm.identities)
    [(_, asked)] = [pair for pair in said(here.tick(5.0, BEAT, HEADS)) if isinstance(pair[1], m.Hello)]
    assert isinstance(asked, m.Hello)
    [(_, answer)] = said(there.on_hello(me, asked, 5.0)[1])
    assert isinstance(answer, m.Hello)
    older = msgspec.structs.replace(answer, protocol=(1, 0), capabilities=())
    assert here.on_hello(other, older, 5.25) == (False, [])
    trip = peers.members[other].echo.round_trip
    assert trip is not None
    assert trip.smoothed_s == 0.25


def test_the_answer_to_the_first_greeting_is_not_taken_for_that_to_a_later_one() -> None:
    swarm = make_swarm(2)
    here, peers = engine(swarm, 0, linked=False)
    other = swarm.identities[1].node
    here.link(other, True, "")  # Greets, and is answered late.
    here.on_hello(other, hello(swarm, 1), 0.0)
    assert not [one for _, one in said(here.tick(6.0, BEAT, HEADS)) if isinstance(one, m.Hello)], "one is still out"
    here.on_hello(other, hello(swarm, 1, answer=False), 6.1)
    assert peers.members[other].echo.round_trip is None
    assert [one for _, one in said(here.tick(7.0, BEAT, HEADS)) if isinstance(one, m.Hello)]
    here.on_hello(other, hello(swarm, 1, answer=False), 7.5)
    trip = peers.members[other].echo.round_trip
    assert trip is not None
    assert trip.smoothed_s == 0.5


def test_a_new_link_is_measured_anew() -> None:
    swarm = make_swarm(2)
    here, peers = engine(swarm, 0)
    other = swarm.identities[1].node
    here.tick(5.0, BEAT, HEADS)
    here.on_hello(other, hello(swarm, 1, answer=False), 5.5)
    assert peers.members[other].echo.round_trip is not None
    here.link(other, False, "gone")
    assert peers.members[other].echo.round_trip is None

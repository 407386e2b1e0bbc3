"""Passages: up through the first relay that will do, sealed from it, and whatever it does no worse than a lost link."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip import relay as r
from gossip import wire
from gossip.noise import KeyPair
from gossip.relay import Out, Passages
from gossip.wire import CONTROL_FRAME_BYTES_MAX
from gossip.zeromq import HEAD_BYTES_MAX, PAYLOAD_BYTES_MAX
from swarm.errors import Reject
from swarm.machine import Contact, LinkChanged, NodeId, Received, Report

LEDGER = bytes(range(32))
SECRET = b"the very words of a patient's doctor"

Lie = Callable[[Out], Iterable[Out]]


def node(name: str) -> NodeId:
    return NodeId(name.encode().ljust(32, b"."))


def keys(name: str) -> KeyPair:
    return KeyPair.of(random.Random(name).randbytes(32))


class Net:
    """Sites that only dial out, "a" to "d", and relays "r1" and "r2" that each is linked to.

    `lies` says what a relay does with a frame instead of sending it; `relayed` is all that relays have received.
    """

    def __init__(self, *, hidden: str = "ab", relays: tuple[str, ...] = ("r1", "r2")) -> None:
        self.now = 100.0
        self.hidden, self.relays = hidden, relays
        self.boxes: dict[str, Passages] = {}
        self.heard: list[tuple[str, NodeId, bytes, bytes | None]] = []
        self.changes: list[tuple[str, str, bool, str]] = []
        self.reports: list[str] = []
        self.relayed: list[bytes] = []
        self.lies: dict[str, Lie] = {}
        self.down: set[tuple[str, str]] = set()
        self.queue: list[tuple[str, Out]] = []
        for name in (*hidden, *relays):
            self.start(name)
        self.settle()

    def name(self, wanted: NodeId) -> str:
        return wanted.rstrip(b".").decode()

    def contacts(self, name: str, via: tuple[str, ...] | None = None) -> list[Contact]:
        through = tuple(node(relay) for relay in (self.relays if via is None else via))
        far = [Contact(node(o), o, keys(o).public, "", through) for o in self.hidden if o != name]
        return [*(Contact(node(o), o, keys(o).public, "tcp://h:1") for o in self.relays), *far]

    def start(self, name: str, secret: str = "") -> None:
        """Start a process, or start it anew, and make its links."""
        draw = random.Random(f"{name}{self.now}")
        self.boxes[name] = Passages(
            me=node(name), keys=keys(secret or name), ledger_id=LEDGER, draw=lambda: draw.randbytes(32)
        )
        hidden = name in self.hidden
        carried = [] if hidden else [node(one) for one in self.hidden]
        self.take(name, self.boxes[name].reach(self.contacts(name) if hidden else [], carried, self.now))
        for other in self.relays if hidden else self.hidden:
            if other in self.boxes and not {(name, other), (other, name)} & self.down:
                self.connect(name, other)

    def connect(self, name: str, other: str, *, up: bool = True) -> None:
        for one, far in ((name, other), (other, name)):
            if far in self.boxes:
                self.take(one, self.boxes[one].link(node(far), up, self.now))

    def cut(self, name: str, other: str) -> None:
        self.down.add((name, other))
        self.connect(name, other, up=False)

    def take(self, name: str, items: Iterable[r.Item]) -> None:
        for item in items:
            match item:
                case Out():
                    self.queue.append((name, item))
                case Received():
                    data = None if item.payload is None else bytes(item.payload)
                    self.heard.append((name, item.sender, item.frame, data))
                case LinkChanged():
                    via = self.name(item.via) if item.via else ""
                    self.changes.append((name, self.name(item.peer), item.up, via))
                case Report():
                    self.reports.append(item.text)

    def settle(self) -> None:
        """Deliver until nothing is under way."""
        for _ in range(10_000):
            for name in self.relays:
                if name in self.boxes:
                    self.queue += [(name, out) for out in self.boxes[name].carry(lambda _: 0)]
            if not self.queue:
                return
            name, out = self.queue.pop(0)
            told = self.lies[name](out) if name in self.lies else (out,)
            for one in told:
                self.deliver(name, one)
        raise AssertionError("it never ends")

    def deliver(self, name: str, out: Out) -> None:
        to = self.name(out.to)
        if to not in self.boxes or {(name, to), (to, name)} & self.down:
            return
        if to in self.relays:
            self.relayed += [out.frame, bytes(out.payload or b"")]
        if not r.is_carried(out.frame):
            return  # Altered so that it is for the machine, which refuses what it does not know.
        self.take(to, self.boxes[to].receive(node(name), out.frame, out.payload, self.now))

    def run(self, seconds: float, *, chatter: bool = True) -> None:
        """Let time pass; with chatter both ends of each link say something every second, as heartbeats do."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.5
            for name, box in self.boxes.items():
                wake = box.next_wake()
                if wake is not None and wake <= self.now:
                    self.take(name, box.step(self.now))
                    after = box.next_wake()
                    assert after is None or after > self.now, "woken for nothing, for ever"
                if chatter and self.now % 1 == 0:
                    for other in self.hidden:
                        if name in self.hidden and other != name:
                            self.say(name, other, b"beat")
            self.settle()

    def say(self, name: str, other: str, frame: bytes, payload: bytes | None = None) -> bool:
        out = self.boxes[name].send(node(other), frame, payload, self.now)
        if out is not None:
            self.queue.append((name, out))
        return out is not None

    def works(self, name: str = "a", other: str = "b") -> bool:
        """Whether words get through both ways now."""
        words = [b"words %d %d" % (i, len(self.heard)) for i in range(2)]
        self.say(name, other, words[0])
        self.say(other, name, words[1])
        self.settle()
        return {(other, node(name), words[0], None), (name, node(other), words[1], None)} <= {*self.heard}

    def via(self, name: str = "a", other: str = "b") -> str:
        """Return the relay of a link that is up, by what was told last."""
        last = [change for change in self.changes if change[:2] == (name, other)][-1]
        return last[3] if last[2] else "down"


@pytest.fixture
def net() -> Net:
    return Net()


def test_both_ends_are_linked_through_the_first_relay_and_told_so_once(net: Net) -> None:
    assert sorted(net.changes) == [("a", "b", True, "r1"), ("b", "a", True, "r1")]
    assert net.works()


def test_a_chunk_and_the_longest_frame_come_through_whole(net: Net) -> None:
    long, chunk = bytes(CONTROL_FRAME_BYTES_MAX), random.Random(1).randbytes(1 << 20)
    assert net.say("a", "b", long)
    assert net.say("b", "a", b"header", chunk)
    net.settle()
    assert ("b", node("a"), long, None) in net.heard
    assert ("a", node("b"), b"header", chunk) in net.heard
    frames, payloads = net.relayed[::2], net.relayed[1::2]
    assert max(map(len, frames)) <= HEAD_BYTES_MAX
    assert 1 << 20 < max(map(len, payloads)) <= PAYLOAD_BYTES_MAX


def test_a_relay_receives_no_word_of_what_is_said(net: Net) -> None:
    for i in range(50):
        net.say("a", "b", SECRET + b"%d" % i)
        net.say("b", "a", b"header", SECRET * 100)
    net.run(3)
    seen = b"".join(net.relayed)
    assert len(net.heard) > 100
    assert all(SECRET[i : i + 8] not in seen for i in range(len(SECRET) - 8))
    assert b"header" not in seen
    assert b"beat" not in seen


def test_a_relay_sees_no_difference_between_two_updates_of_one_size(net: Net) -> None:
    """Nothing but their length: what it gets of zeros and of anything else is as long, and both look like chance."""
    shapes, counts = [], []
    for update in (bytes(1 << 16), random.Random(1).randbytes(1 << 16)):
        before = len(net.relayed)
        assert net.say("a", "b", b"header", update)
        net.settle()
        shapes.append([len(one) for one in net.relayed[before:]])
        seen = max(net.relayed[before:], key=len)
        counts.append([seen.count(byte) for byte in range(256)])
    assert shapes[0] == shapes[1]
    expected = (1 << 16) / 256
    for found in counts:  # 255 degrees of freedom: more than 400 comes once in ten million.
        assert sum((count - expected) ** 2 / expected for count in found) < 400


def test_the_next_relay_is_taken_at_once_when_the_first_goes(net: Net) -> None:
    net.run(1)
    net.cut("a", "r1")
    net.settle()
    assert net.via() == net.via("b", "a") == "r2"
    assert net.works()


def test_when_the_other_end_loses_the_relay_that_is_found_out_from_the_relay(net: Net) -> None:
    net.cut("b", "r1")
    net.say("a", "b", b"lost")
    net.settle()
    net.run(2)
    assert net.via() == net.via("b", "a") == "r2"
    assert net.works()


def test_without_any_relay_there_is_no_link_and_with_one_again_there_is(net: Net) -> None:
    for relay in net.relays:
        net.cut("a", relay)
    net.run(60)
    assert net.via() == net.via("b", "a") == "down"
    assert not net.say("a", "b", b"nobody hears")
    net.down.clear()
    net.connect("a", "r2")
    net.settle()
    assert net.via() == "r2"
    assert net.works()


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_process_that_starts_anew_is_linked_anew_and_the_other_end_is_told(net: Net, name: str) -> None:
    other = "b" if name == "a" else "a"
    del net.boxes[name]
    for relay in net.relays:
        net.take(relay, net.boxes[relay].link(node(name), False, net.now))
    net.run(1)
    net.start(name)
    net.settle()
    net.run(3)
    assert [change[2] for change in net.changes if change[:2] == (other, name)][-2:] == [False, True]
    assert net.works()


def test_a_session_gets_fresh_keys_every_hour_and_nobody_is_disturbed(net: Net) -> None:
    before = net.boxes["a"]._passages[node("b")].session
    net.run(r.REKEY_S + 60)
    after = net.boxes["a"]._passages[node("b")].session
    assert before is not None
    assert after is not None
    assert before.id != after.id
    assert len(net.changes) == 2
    assert net.works()


def test_a_link_goes_back_to_its_first_relay_when_keys_are_renewed(net: Net) -> None:
    net.cut("a", "r1")
    net.settle()
    net.down.clear()
    net.connect("a", "r1")
    net.run(r.REKEY_S + 60)
    assert net.boxes["a"]._passages[node("b")].relay == node("r1")
    assert net.works()


def test_a_key_that_rotates_makes_a_new_session_and_the_old_key_none(net: Net) -> None:
    new = KeyPair.of(b"n" * 32)
    rotated = [Contact(node("b"), "b", new.public, "", (node("r1"), node("r2")))]
    net.take("a", net.boxes["a"].reach(rotated, [], net.now))
    net.run(3)
    assert net.via() == "down"  # "b" still speaks with its old key.
    net.take("b", net.boxes["b"].rekey(new, net.now))
    net.run(40)
    assert net.via() != "down"
    assert net.works()


def test_whoever_holds_another_key_cannot_pose_as_the_other_end() -> None:
    net = Net()
    changes = len(net.changes)
    net.start("a", secret="mallory")
    net.run(60)
    assert not any(up and name == "b" for name, _, up, _ in net.changes[changes:])
    assert "made with other keys" in " ".join(net.reports)


def test_a_carried_frame_by_hand_and_no_machine_takes_it_for_a_message(net: Net) -> None:
    out = net.boxes["a"].send(node("b"), b"word", None, net.now)
    assert out is not None
    # Version 1, kind 64; to (0), a sealed frame (3), whom; the session, the number; four bytes and a tag of sixteen.
    assert out.frame[:4] == b"\x01\x40\x00\x03"
    assert out.frame[4:36] == node("b")
    assert len(out.frame) == 36 + 8 + 8 + 4 + 16
    assert wire.kind(out.frame) is None
    with pytest.raises(Reject, match="message kind 64 is unknown"):
        wire.decode(out.frame)


# --- relays that lie --------------------------------------------------------------------------------------------------


def test_a_relay_that_swallows_everything_is_left_for_another(net: Net) -> None:
    net.lies["r1"] = lambda _: ()
    net.run(r.SILENCE_S + r.ANSWER_S + r.CALL_S_MAX)
    assert net.via() == net.via("b", "a") == "r2"
    assert net.works()


def test_a_relay_that_swallows_only_handshakes_is_left_for_another() -> None:
    net = Net(relays=("r1",))
    net.lies["r1"] = lambda out: () if out.frame[3] in (r.BEGIN, r.ANSWER) else (out,)
    net.relays = ("r1", "r2")
    for relay in net.relays:
        net.start(relay)
    for name in net.hidden:
        net.start(name)
    net.run(60)
    assert net.via() == "r2"


def test_what_a_relay_repeats_is_heard_once(net: Net) -> None:
    net.lies["r1"] = lambda out: (out, out, out)
    for i in range(20):
        net.say("a", "b", b"%d" % i)
    net.run(2, chatter=False)
    said = [frame for name, _, frame, _ in net.heard if name == "b"]
    assert said == [b"%d" % i for i in range(20)]


def test_what_a_relay_repeats_a_day_later_is_not_heard(net: Net) -> None:
    kept: list[Out] = []
    net.lies["r1"] = lambda out: (kept.append(out) or out,)
    net.say("a", "b", b"transfer")
    net.settle()
    net.run(2 * r.REKEY_S)
    heard, changes = len(net.heard), len(net.changes)
    del net.lies["r1"]
    for out in kept[:200]:
        net.deliver("r1", out)
    net.settle()
    assert len(net.heard) == heard
    assert len(net.changes) == changes
    assert net.works()


def flipped(out: Out, where: int) -> Out:
    data = bytearray(out.frame)
    data[where % len(data)] ^= 1
    return Out(out.to, bytes(data), out.payload)


def test_what_a_relay_alters_is_dropped_and_told_once_a_minute(net: Net) -> None:
    net.lies["r1"] = lambda out: (flipped(out, len(out.frame) - 1),)
    net.say("a", "b", SECRET)
    net.settle()
    net.say("a", "b", SECRET)
    net.settle()
    assert net.heard == []
    assert len(net.reports) == 1
    assert "not as it was sealed" in net.reports[0]


def test_a_relay_cannot_hand_one_members_words_to_another_as_its_own_or_as_a_thirds() -> None:
    net = Net(hidden="abc")
    for name, other, third in permutations("abc"):
        net.lies["r1"] = lambda out, third=third: (
            out,
            Out(node(third), out.frame, out.payload),
            Out(out.to, out.frame[:4] + node(third) + out.frame[36:], out.payload),
            Out(node(third), out.frame[:4] + node(third) + out.frame[36:], out.payload),
        )
        begun = len(net.heard)
        assert net.say(name, other, b"from %s" % name.encode())
        net.settle()
        assert net.heard[begun:] == [(other, node(name), b"from %s" % name.encode(), None)]
    assert net.works("a", "b")
    assert net.works("b", "c")


def test_a_relay_cannot_swap_the_order_into_another_meaning(net: Net) -> None:
    waiting: list[Out] = []

    def swap(out: Out) -> Iterator[Out]:
        waiting.append(out)
        if len(waiting) == 2:
            yield from reversed(waiting)
            waiting.clear()

    net.lies["r1"] = swap
    for i in range(10):
        net.say("a", "b", b"%d" % i)
    net.settle()
    assert sorted(frame for _, _, frame, _ in net.heard) == [b"%d" % i for i in range(10)]


def test_a_control_frame_is_not_taken_for_a_chunk(net: Net) -> None:
    net.lies["r1"] = lambda out: (
        Out(out.to, out.frame[:3] + bytes((r.CHUNK,)) + out.frame[4:52], out.frame[52:])
        if out.frame[3] == r.SEALED
        else out,
    )
    net.say("a", "b", SECRET)
    net.settle()
    assert net.heard == []


def test_forged_calls_cost_a_handshake_now_and_then_and_disturb_nobody(net: Net) -> None:
    begun = len(net.changes)
    for _ in range(200):
        for name, other in (("a", "b"), ("b", "a")):
            forged = r._head(r.FROM, r.CALL, node(other))
            net.take(name, net.boxes[name].receive(node("r1"), forged, None, net.now))
        net.settle()
    handshakes = sum(frame[3] == r.BEGIN for frame in net.relayed[::2])
    assert handshakes <= 2
    assert len(net.changes) == begun
    assert net.works()


def test_one_who_is_no_relay_of_the_pair_is_not_heard_as_one(net: Net) -> None:
    for what in (r.CALL, r.REFUSED, r.AWAY):
        forged = r._head(r.FROM, what, node("b"))
        assert net.boxes["a"].receive(node("x"), forged, None, net.now) == []
    assert net.works()


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_whatever_a_relay_does_nothing_is_heard_but_what_was_said_and_once(rng: random.Random) -> None:
    net = Net()
    kept: list[Out] = []

    def lie(out: Out) -> list[Out]:
        kept.append(out)
        match rng.randrange(7):
            case 0:
                return []
            case 1:
                return [out, rng.choice(kept)]
            case 2:
                return [flipped(out, rng.randrange(200))]
            case 3:
                return [Out(node(rng.choice("ab")), out.frame, out.payload)]
            case 4:
                return [Out(out.to, r._head(r.FROM, rng.choice((r.REFUSED, r.AWAY, r.CALL)), node(rng.choice("ab"))))]
            case _:
                return [out]

    net.lies["r1"] = net.lies["r2"] = lie
    said: set[tuple[str, bytes]] = set()
    for i in range(60):
        for name, other in (("a", "b"), ("b", "a")):
            if net.say(name, other, b"%s %d" % (name.encode(), i)):
                said.add((other, b"%s %d" % (name.encode(), i)))
        net.run(1, chatter=False)
    heard = [(name, frame) for name, _, frame, _ in net.heard]
    assert len({*heard}) == len(heard)
    assert {*heard} <= said
    net.lies.clear()
    # At worst either relay has told both ends that it does not carry for them.
    net.run(r.REFUSAL_S + r.SILENCE_S + r.CALL_S_MAX, chatter=False)
    assert net.works()


@given(st.binary(max_size=120), st.none() | st.binary(max_size=60), st.sampled_from([0, 1]), st.integers(0, 255))
def test_no_bytes_whatever_raise_anything(body: bytes, payload: bytes | None, way: int, what: int) -> None:
    net = Net()
    frame = r._HEAD.pack(1, 64, way, what, node("b")) + body
    for name, sender in (("a", "r1"), ("r1", "a"), ("r1", "x")):
        net.boxes[name].receive(node(sender), frame, payload, net.now)
        net.boxes[name].receive(node(sender), frame[: len(body)], payload, net.now)


# --- the relay's side -------------------------------------------------------------------------------------------------


def relay(*carried: str) -> Passages:
    made = Passages(me=node("r"), keys=keys("r"), ledger_id=LEDGER, draw=lambda: bytes(32))
    made.reach([], [node(one) for one in carried], 0.0)
    for one in "abcx":
        made.link(node(one), True, 0.0)
    return made


def sealed(to: str, size: int = 100, *, chunk: bool = False) -> tuple[bytes, bytes | None]:
    head = r._head(r.TO, r.CHUNK if chunk else r.SEALED, node(to))
    return (head + bytes(16), bytes(size)) if chunk else (head + bytes(size), None)


def test_a_relay_forwards_between_those_it_carries_for_and_for_nobody_else() -> None:
    box = relay("a", "b")
    assert box.receive(node("a"), *sealed("b"), 0.0) == []
    (out,) = box.carry(lambda _: 0)
    assert (out.to, out.frame[2:4], out.frame[4:36]) == (node("b"), bytes((r.FROM, r.SEALED)), node("a"))
    for sender, to in (("x", "a"), ("a", "x"), ("x", "c"), ("a", "a")):
        (refusal,) = box.receive(node(sender), *sealed(to), 0.0)
        assert isinstance(refusal, Out)
        assert (refusal.to, refusal.frame[2:4]) == (node(sender), bytes((r.FROM, r.REFUSED)))
    assert list(box.carry(lambda _: 0)) == []


def test_a_relay_that_is_told_not_to_refuses_in_words_that_the_end_understands() -> None:
    net = Net()
    net.take("r1", net.boxes["r1"].reach([], [], net.now))
    net.say("a", "b", b"lost")
    net.settle()
    net.run(5)
    assert net.via() == net.via("b", "a") == "r2"


def test_one_who_sends_much_holds_up_nobody_and_what_waits_is_bounded() -> None:
    box = relay("a", "b", "c")
    for _ in range(40):
        box.receive(node("a"), *sealed("c", 256 << 10, chunk=True), 0.0)
    for _ in range(3):
        box.receive(node("b"), *sealed("c", 256 << 10, chunk=True), 0.0)
    box.receive(node("a"), *sealed("c"), 0.0)
    assert box._held <= r.CARRY_BYTES_MAX + (1 << 20)
    assert list(box.carry(lambda _: r.CARRY_BACKLOG_MAX)) == []
    first = [box.carry(lambda _: r.CARRY_BACKLOG_MAX - 1) for _ in range(5)]
    assert [(out.frame[4:5], out.payload is None) for (out,) in first] == [
        (b"a", True),
        (b"b", False),
        (b"a", False),
        (b"b", False),
        (b"a", False),
    ]
    while box.carry(lambda _: 0):
        pass
    assert box._held == 0
    box.receive(node("a"), *sealed("c"), 0.0)
    box.link(node("c"), False, 0.0)
    assert box._held == 0
    assert box._held_of == {}


def test_one_member_cannot_use_up_what_a_relay_holds_for_all() -> None:
    others = [f"site-{i}" for i in range(40)]
    box = relay("a", "b", *others)
    for other in others:
        box.link(node(other), True, 0.0)
        for _ in range(20):
            box.receive(node("a"), *sealed(other, 256 << 10, chunk=True), 0.0)
    assert box._held <= r.CARRY_SENDER_MAX
    box.receive(node("b"), *sealed(others[0], 256 << 10, chunk=True), 0.0)
    assert box._held_of[node("b")] > 0


def test_a_relay_keeps_no_end_in_the_dark_about_the_other(net: Net) -> None:
    box = relay("a", "b")
    box.link(node("b"), False, 0.0)
    (away,) = box.receive(node("a"), *sealed("b"), 0.0)
    assert isinstance(away, Out)
    assert away.frame[2:4] == bytes((r.FROM, r.AWAY))


def test_reject_is_all_that_opening_raises(net: Net) -> None:
    session = net.boxes["a"]._passages[node("b")].session
    assert session is not None
    with pytest.raises(Reject):
        session.open(0, b"", b"")

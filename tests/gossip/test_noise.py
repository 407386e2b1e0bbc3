"""The handshake agrees with the vectors of another implementation; a session opens what was sealed, once."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.noise import WINDOW, KeyPair, Opening, Session, read_opening
from swarm.errors import Reject

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "noise-kk.json").read_text())


def hexes(name: str) -> bytes:
    return bytes.fromhex(VECTOR[name])


def pair(number: int) -> KeyPair:
    return KeyPair.of(bytes((number,)) * 32)


def sessions(*, text: bytes = b"") -> tuple[Session, Session]:
    a, b = pair(1), pair(2)
    opening = Opening(a, b.public, b"p", pair(3), text)
    answer, there = read_opening(b, a.public, b"p", opening.message).answer(pair(4))
    return opening.finish(answer)[0], there


def test_it_says_the_bytes_of_the_published_vector() -> None:
    a, b = KeyPair.of(hexes("init_static")), KeyPair.of(hexes("resp_static"))
    assert (a.public, b.public) == (hexes("resp_remote_static"), hexes("init_remote_static"))
    said = [(bytes.fromhex(one["payload"]), bytes.fromhex(one["ciphertext"])) for one in VECTOR["messages"]]
    assert len(said) == 6
    prologue = hexes("init_prologue")
    opening = Opening(a, b.public, prologue, KeyPair.of(hexes("init_ephemeral")), said[0][0])
    assert opening.message == said[0][1]
    reply = read_opening(b, a.public, prologue, opening.message)
    assert reply.text == said[0][0]
    answer, there = reply.answer(KeyPair.of(hexes("resp_ephemeral")), said[1][0])
    assert answer == said[1][1]
    here, text = opening.finish(answer)
    assert text == said[1][0]
    assert here.id == there.id
    for number, (text, sealed) in enumerate(said[2:]):
        sender, receiver = ((here, there), (there, here))[number % 2]
        assert sender.seal(text, b"") == (number // 2, sealed)
        assert receiver.open(number // 2, sealed, b"") == text


def test_a_handshake_is_refused_under_another_key_prologue_or_byte() -> None:
    a, b, c = pair(1), pair(2), pair(5)
    message = Opening(a, b.public, b"p", pair(3)).message
    for mine, other, prologue, said in (
        (c, a.public, b"p", message),
        (b, c.public, b"p", message),
        (b, a.public, b"q", message),
        (b, a.public, b"p", message[:-1] + bytes((message[-1] ^ 1,))),
        (b, a.public, b"p", bytes((message[0] ^ 1,)) + message[1:]),
        (b, a.public, b"p", message[:40]),
        (b, a.public, b"p", bytes(32) + message[32:]),  # A point of small order: all would agree on zeros.
    ):
        with pytest.raises(Reject):
            read_opening(mine, other, prologue, said)


def test_an_answer_to_another_opening_is_refused_and_the_right_one_is_still_taken() -> None:
    a, b = pair(1), pair(2)
    first, second = (Opening(a, b.public, b"p", pair(number)) for number in (3, 6))
    wrong, _ = read_opening(b, a.public, b"p", first.message).answer(pair(4))
    right, there = read_opening(b, a.public, b"p", second.message).answer(pair(4))
    for bad in (wrong, right[:20], bytes(32) + right[32:]):
        with pytest.raises(Reject):
            second.finish(bad)
    assert second.finish(right)[0].id == there.id


def test_what_was_sealed_is_opened_once_in_any_order_and_only_as_it_was() -> None:
    here, there = sessions()
    sealed = [here.seal(b"%d" % i, b"l") for i in range(10)]
    for i in (3, 9, 0, 8, 1):
        assert there.open(*sealed[i], b"l") == b"%d" % i
        with pytest.raises(Reject, match="come before"):
            there.open(*sealed[i], b"l")
    number, text = sealed[5]
    for bad in ((number, text, b"m"), (number + 1, text, b"l"), (number, text[:-1], b"l"), (2**63, text, b"l")):
        with pytest.raises(Reject):
            there.open(*bad)
    assert there.open(number, text, b"l") == b"5"
    with pytest.raises(Reject):
        here.open(*here.seal(b"to the other end", b"l"), b"l")  # Nobody is sent what it sealed itself.


def test_what_is_too_far_behind_is_not_opened_and_a_forged_number_moves_nothing() -> None:
    here, there = sessions()
    first = here.seal(b"first", b"")
    second = here.seal(b"second", b"")
    for _ in range(WINDOW - 1):
        last = here.seal(b"", b"")
    with pytest.raises(Reject):
        there.open(2**40, last[1], b"")
    assert there.open(*last, b"") == b""
    assert there.open(*second, b"") == b"second"
    with pytest.raises(Reject, match="far too late"):
        there.open(*first, b"")


@given(st.lists(st.integers(0, 300), max_size=400))
def test_the_window_is_a_set(order: list[int]) -> None:
    here, there = sessions()
    sealed = [here.seal(b"%d" % i, b"") for i in range(301)]
    opened: set[int] = set()
    for i in order:
        if i in opened:
            with pytest.raises(Reject):
                there.open(*sealed[i], b"")
        else:
            assert there.open(*sealed[i], b"") == b"%d" % i
            opened.add(i)


def test_secrets_do_not_show() -> None:
    assert "01" * 32 not in repr(pair(1))

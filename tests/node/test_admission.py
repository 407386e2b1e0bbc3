"""The invitation's file, byte for byte there and back, and a guest that knocks."""

from __future__ import annotations

import pytest

from gossip import messages as m
from gossip import wire
from node.admission import (
    KNOCK_AGAIN_S,
    Invitation,
    contact_from_toml,
    contact_to_toml,
    invitation_from_toml,
    invitation_to_toml,
    knock,
)
from swarm.errors import SwarmError, UsageError
from swarm.identity import transport_keys
from swarm.invite import invite
from swarm.machine import Contact
from tests.builders import identity, make_swarm
from tests.swarm.test_terms import NODES, SWARM, card

SEED = bytes(range(32))
INVITER = Contact(NODES[1], "site-1", identity(1).curve_public, "tcp://127.0.0.1:17001")


def made(seed: bytes = SEED, ledger_id: bytes = SWARM.signed.ledger_id) -> Invitation:
    guest, expires_ms = transport_keys(SEED)[0], 1_750_000_000_000
    ticket = invite(
        identity(1).id_key, ledger_id=ledger_id, inviter=NODES[1], name="site-4", guest=guest, expires_ms=expires_ms
    )
    return Invitation(ticket, seed, INVITER, SWARM.signed)


def test_an_invitation_comes_back_from_its_file_as_it_was() -> None:
    back = invitation_from_toml(invitation_to_toml(made()))
    assert back == made()
    assert back.guest_keys == transport_keys(SEED)


def test_its_file_says_for_whom_it_is_and_that_it_is_secret() -> None:
    assert invitation_to_toml(made()).startswith(
        "# An invitation for site-4 to ask to join test-swarm.\n# For that site"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[invite]", "[invit]"),
        ('data = "', 'data = "zz'),
        ('guest = "00', 'guest = "01'),
        ("[sponsor]", "[sponsors]"),
        ("tcp://127.0.0.1:17001", "127.0.0.1"),
        ('node = "', 'node = "00'),
        ("[charter]", ""),
        ("test-swarm", "other-swarm"),
        ("text = '''", "text = ''"),
    ],
)
def test_a_damaged_file_is_refused_in_words(old: str, new: str) -> None:
    text = invitation_to_toml(made())
    head, _, rest = text.partition("# For that site")
    assert old in rest
    with pytest.raises(SwarmError) as caught:
        invitation_from_toml(head + rest.replace(old, new))
    assert caught.value.message.startswith("couldn't ")
    assert "\n" not in caught.value.message


def test_parts_that_do_not_belong_together_are_refused() -> None:
    for wrong in (made(seed=bytes(32)), made(ledger_id=make_swarm(3).signed.ledger_id)):
        with pytest.raises(UsageError, match="its parts do not belong together"):
            invitation_from_toml(invitation_to_toml(wrong))


def test_a_sponsor_comes_back_and_half_a_one_is_refused() -> None:
    assert contact_from_toml(contact_to_toml(INVITER), "sponsors.toml") == INVITER
    with pytest.raises(UsageError, match=r"couldn't read sponsors.toml: the table \[sponsor\] is not whole"):
        contact_from_toml("[sponsor]\nname = 'x'\n", "sponsors.toml")


class Door:
    """An inviting member as a guest hears it, and a clock that moves when nobody answers."""

    def __init__(self, answers: list[list[bytes]]) -> None:
        self.answers, self.knocks, self.now_s = answers, [0.0][:0], 0.0

    def send(self, frame: bytes) -> None:
        assert wire.decode(frame) == m.Knock(card(4))
        self.knocks.append(self.now_s)

    def receive(self, timeout_s: float) -> list[bytes]:
        self.now_s += timeout_s
        return self.answers.pop(0) if self.answers else []


def test_a_guest_knocks_again_until_it_is_answered_and_hears_nothing_but_answers() -> None:
    state = m.KNOCK_STATES[0]
    answer = m.KnockAnswer(state, "wait")
    odd = m.KnockAnswer("no such state", "")
    door = Door([[], [b"noise", wire.encode(m.Knock(card(4))), wire.encode(odd)], [wire.encode(answer)]])
    assert next(knock(card(4), door.send, door.receive, lambda: door.now_s)) == answer
    assert door.knocks == [0.0, KNOCK_AGAIN_S, 2 * KNOCK_AGAIN_S]

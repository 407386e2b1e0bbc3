"""An invitation is good for one swarm, one site, until its day, from a member of today; changed anywhere, for nothing."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarm import codec
from swarm.errors import Reject
from swarm.invite import INVITE_BYTES_MAX, Invite, invite, open_invite
from swarm.ledger.state import genesis
from swarm.terms import add, remove
from tests.builders import digest, identity, make_swarm
from tests.swarm.test_terms import NODES, SWARM, TERMS, card

CHANGE = add(card(4))
ID = SWARM.signed.ledger_id
GOOD = invite(identity(1).id_key, ledger_id=ID, inviter=NODES[1], name="site-4", guest=digest("key"), expires_ms=1_000)


def opened(found: Invite, **fields: object) -> Invite:
    given = {"ledger_id": ID, "terms": TERMS, "change": CHANGE, "now_ms": 1_000} | fields
    return open_invite(found.encode(), **given)  # type: ignore[arg-type]


def test_an_invitation_is_good_for_its_site_until_its_last_millisecond() -> None:
    assert opened(GOOD) == GOOD
    with pytest.raises(Reject, match="it has expired"):
        opened(GOOD, now_ms=1_001)


@pytest.mark.parametrize(
    "fields",
    [
        {"ledger_id": make_swarm(3).signed.ledger_id},
        {"change": add(card(5))},
        {"change": remove(NODES[1])},
    ],
)
def test_it_is_good_for_no_other_swarm_site_or_change(fields: dict[str, object]) -> None:
    with pytest.raises(Reject, match="it is for another swarm or another site"):
        opened(GOOD, **fields)


def test_only_a_member_of_today_invites() -> None:
    state = genesis(SWARM.signed)
    without = replace(state.terms, members=state.terms.members[:1])
    with pytest.raises(Reject, match="whoever signed it is not a member"):
        opened(GOOD, terms=without)
    with pytest.raises(Reject, match="signature"):
        opened(replace(GOOD, inviter=NODES[0]))


@pytest.mark.parametrize(
    "fields", [{"guest": digest("mine")}, {"expires_ms": 9_999}, {"signature": bytes(64)}, {"signature": b""}]
)
def test_nothing_in_it_can_be_changed(fields: dict[str, object]) -> None:
    with pytest.raises(Reject):
        opened(replace(GOOD, **fields))  # type: ignore[arg-type]


def test_what_is_no_invitation_is_refused() -> None:
    for data in (b"", b"\xc0", GOOD.encode()[:-1], GOOD.encode() + b"\0", codec.encode(bytes(2 * INVITE_BYTES_MAX))):
        with pytest.raises(Reject):
            open_invite(data, ledger_id=ID, terms=TERMS, change=CHANGE, now_ms=0)

"""The invitation as a file, and the guest that knocks with it.

An invitation file is for one site's eyes: it holds the key that lets its holder knock, the charter, and where the
inviting member is. Nothing in it lets anybody vote or see data; who joins is for the members to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gossip import messages as m
from gossip import wire
from swarm import codec, toml
from swarm.charter import Card, SignedCharter, from_toml, to_toml
from swarm.errors import Reject, UsageError
from swarm.identity import SEED_BYTES, transport_keys
from swarm.invite import INVITE_BYTES_MAX, Invite
from swarm.machine import Contact, NodeId

ASK_AGAIN = "ask for the invitation again: it is a file that `swarm invite` writes, not to be changed by hand"

KNOCK_AGAIN_S = 2.0
"""Between two knocks: a guest asks how its wish stands, and people vote in minutes or days."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """What the guest gets: the signed word, the seed of the key that goes with it, whom to ask, and the charter."""

    invite: Invite
    guest_seed: bytes
    inviter: Contact
    charter: SignedCharter

    @property
    def guest_keys(self) -> tuple[bytes, bytes]:
        """The guest's public and secret transport keys."""
        return transport_keys(self.guest_seed)


def invitation_to_toml(invitation: Invitation) -> str:
    """Return the file's text."""
    return (
        f"# An invitation for {invitation.invite.name} to ask to join {invitation.charter.charter.name}.\n"
        "# For that site alone: whoever holds this file can ask in its place. It admits nobody by itself.\n"
        f'[invite]\ndata = "{invitation.invite.encode().hex()}"\nguest = "{invitation.guest_seed.hex()}"\n\n'
        + contact_to_toml(invitation.inviter)
        + "\n[charter]\ntext = '''\n"
        + to_toml(invitation.charter)
        + "'''\n"
    )


def invitation_from_toml(text: str) -> Invitation:
    """Return the invitation in a file's text, its charter checked.

    Raises:
        UsageError: it is no invitation, or a damaged one.
        LedgerError: a signature of the charter in it does not hold.
    """
    try:
        data = toml.loads(text)
        invite = codec.decode(bytes.fromhex(data["invite"]["data"]), Invite, limit=INVITE_BYTES_MAX)
        seed = bytes.fromhex(data["invite"]["guest"])
        charter_text = str(data["charter"]["text"])
    except (ValueError, KeyError, TypeError, Reject):
        raise UsageError("couldn't read the invitation: it is not a whole invitation file", hint=ASK_AGAIN) from None
    charter = from_toml(charter_text)
    charter.check()
    inviter = contact_from_toml(text, "the invitation")
    if len(seed) != SEED_BYTES or transport_keys(seed)[0] != invite.guest or invite.ledger_id != charter.ledger_id:
        raise UsageError("couldn't use the invitation: its parts do not belong together", hint=ASK_AGAIN)
    return Invitation(invite, seed, inviter, charter)


def contact_to_toml(contact: Contact) -> str:
    """Return a contact as a TOML table."""
    return (
        f'[sponsor]\nname = "{contact.name}"\nnode = "{contact.node.hex()}"\n'
        f'curve_key = "{contact.curve_key.hex()}"\nendpoint = "{contact.endpoint}"\n'
    )


def contact_from_toml(text: str, where: str) -> Contact:
    """Return the contact in the table [sponsor]. Raises `UsageError`."""
    try:
        table = toml.loads(text)["sponsor"]
        node, key = bytes.fromhex(table["node"]), bytes.fromhex(table["curve_key"])
        name, endpoint = str(table["name"]), str(table["endpoint"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"couldn't read {where}: the table [sponsor] is not whole", hint=ASK_AGAIN) from None
    if len(node) != 32 or len(key) != 32 or not endpoint.startswith("tcp://"):
        raise UsageError(f"couldn't use {where}: [sponsor] names nobody who can be reached", hint=ASK_AGAIN)
    return Contact(NodeId(node), name, key, endpoint)


def knock(
    card: Card, send: Callable[[bytes], None], receive: Callable[[float], list[bytes]], now: Callable[[], float]
) -> Iterator[m.KnockAnswer]:
    """Knock again and again; yield every answer as it comes, and None never. The caller stops when it has enough.

    `send` gives a frame to the inviting member; `receive` waits at most that many seconds for what it says.
    """
    frame = wire.encode(m.Knock(card))
    due = now()
    while True:
        if now() >= due:
            send(frame)
            due = now() + KNOCK_AGAIN_S
        for answer in receive(max(0.0, due - now())):
            try:
                message = wire.decode(answer)
            except Reject:
                continue
            if isinstance(message, m.KnockAnswer) and message.state in m.KNOCK_STATES:
                yield message

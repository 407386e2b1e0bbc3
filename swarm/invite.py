"""Invitations: a member's signed word that a site may ask to join, until a day.

An invitation admits nobody. It lets its holder knock: over a link that is encrypted to a key made for this invitation
alone, the holder presents its card to the member that invited it, who moves that it join; the members then vote as on
any change of terms. It names the swarm and the site, and is worth nothing for another. Nothing is re-issued to anybody
else when a site joins.
"""

from __future__ import annotations

import msgspec

from swarm import codec, identity
from swarm.errors import Reject
from swarm.machine import NodeId
from swarm.terms import ADD, Change, Terms

INVITE_BYTES_MAX = 1024


class Invite(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the inviter signs. `guest` is the public transport key, 32 bytes, that may knock until `expires_ms`."""

    ledger_id: bytes
    inviter: bytes
    name: str
    guest: bytes
    expires_ms: int
    signature: bytes

    def signed_bytes(self) -> bytes:
        """Return what the signature is over."""
        fields = (self.ledger_id, self.inviter, self.name, self.guest, self.expires_ms)
        return identity.DOMAIN_INVITE + codec.encode(fields)

    def encode(self) -> bytes:
        """Return the canonical bytes, as they stand in a proposal."""
        return codec.encode(self)


def invite(
    key: identity.SigningKey, *, ledger_id: bytes, inviter: NodeId, name: str, guest: bytes, expires_ms: int
) -> Invite:
    """Return a signed invitation."""
    bare = Invite(ledger_id, inviter, name, guest, expires_ms, b"")
    return msgspec.structs.replace(bare, signature=key.sign(bare.signed_bytes()))


def open_invite(data: bytes, *, ledger_id: bytes, terms: Terms, change: Change, now_ms: int) -> Invite:
    """Return the invitation that a proposal to add a site answers.

    Raises:
        Reject: it is of another swarm, for another site, over, or not signed by a member of today.
    """
    found = codec.decode(data, Invite, limit=INVITE_BYTES_MAX)
    named = f"couldn't accept the invitation of {found.name!r}"
    if found.ledger_id != ledger_id or change.kind != ADD or change.card[0].name != found.name:
        raise Reject(f"{named}: it is for another swarm or another site")
    if now_ms > found.expires_ms:
        raise Reject(f"{named}: it has expired")
    index = terms.index(NodeId(found.inviter))
    if index is None:
        raise Reject(f"{named}: whoever signed it is not a member")
    identity.require(
        terms.members[index].id_key, found.signed_bytes(), found.signature, f"the invitation of {found.name!r}"
    )
    return found

"""Salt: an update's name on the ledger commits its author to it, and tells nobody else which update it is.

The digest of an update's bytes alone is an oracle. Whoever can compute a candidate, because it knows all of a site's
records but one, computes the digest as well and sees in the ledger, for ever, whether that was the update. So in a
swarm with the option `salt` an update travels with 32 bytes behind it that its author has drawn for it alone:

    blob = message ‖ salt,    name = H(message ‖ salt)

which is a commitment (Halevi & Micali 1996, "Practical and provably-secure commitment schemes from collision-free
hashing"; in the random-oracle model, which is what BLAKE3 is taken for here, the plain hash does). It *binds*: another
pair of the same name is a collision. It *hides*: without the salt, to check one candidate takes a search through
2**256 values.

The name is the root of a tree over leaves of 1 MiB (`swarm.vector`), and the salt lies in the last leaf, or in the last
two. That is enough, because the root alone is on the ledger: the hashes of other leaves, which hold no salt, are told
only to those that fetch the blob, who are members and get the salt with it. What hangs on the salted leaf is every node
up to the root, and so the root.

Members need no secret: they read the message and let the salt be. So the mean is what it would be, bit for bit. What a
salt cannot cover is what else follows from an update and is on the ledger; a charter with it therefore refuses what
would put such things there (`swarm.charter`), and a site keeps the metrics of its training to itself.

Nobody can see whether a salt was drawn by chance. A site that takes zeros, or one salt twice, gives its own updates
away and nobody else's. Which other ways of confirming a guess there would be, and what becomes of each: decision 0055.
"""

from __future__ import annotations

from swarm.errors import Reject, UsageError
from swarm.machine import Buffer

SALT_BYTES = 32
"""256 bits: as many as the name has, so that guessing the salt is no easier than inverting the hash."""


def parse(text: str) -> int:
    """Return how many bytes of salt an update carries, as a charter has it: "32". Raises `UsageError`."""
    if text != str(SALT_BYTES):
        raise UsageError(
            f"couldn't accept the charter: salt = {text[:20]!r}, and updates are salted with {SALT_BYTES} bytes",
            hint="leave the salt out, or let `swarm charter new --salt` write it",
        )
    return SALT_BYTES


def message_of(blob: Buffer, salt: int) -> memoryview:
    """Return what an update says, without the `salt` bytes behind it; all of it where they are 0.

    Raises:
        Reject: there is no more of it than the salt.
    """
    view = memoryview(blob).cast("B")
    if salt and len(view) <= salt:
        raise Reject(f"couldn't read an update: it has {len(view)} bytes, and {salt} of them are to be salt")
    return view[: len(view) - salt]

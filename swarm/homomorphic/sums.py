"""The sum of a round from encrypted updates: what masks answer, asked in the same words.

Nothing here is wired into rounds, which use masks (`docs/decisions/0050` has the reasons and the numbers). It is what a
step would be made of in which members need not be there at one time: who has offered may go, and those who hold shares
of the key answer later, whenever the sum is due.

| | masks (`swarm.masking`) | here |
|---|---|---|
| what for | `Occasion` | the same |
| who, with what weight | `Roster`, from the log, keys for each attempt | `Roster`, from the log, one key for many |
| a member's part | `Attempt(occasion, me, root)` | `Part(roster, me, ...)` |
| an update on its way | `masks.masked`, `Ring.pack` | `Part.offer` |
| whose updates are summed | `Close`, from the log | the same |
| from offers to their sum | `masks.add` | `Opening(roster, close, offers)`, offers read by `read_offer` |
| what a member says after that | `Attempt.close` | `Part.answer`, by those who hold shares of the key |
| taking what others say | `Unmasking.take`, which names liars | `Opening.take`, the same |
| why there is no sum yet | `Unmasking.lacking`, `liars` | `Opening.lacking`, `liars` |
| the sum, for the mean | `Ring.sums` | `Opening.sums`: the same integers |

So from the same updates, weights and close both end with the same bytes of the mean.

*What a holder keeps to.* It answers for the sum that it has made itself from proven offers (`knowledge`), of at least
three members and as many as the threshold, and for one close of an occasion, whatever it is told: two sums that differ
in one member are that member's update. Which one it was must be durable before an answer leaves: `Part.answered`. On a
ledger that forks no two closes get enough answers where twice the threshold is more than holders and liars together,
as with masks (0039).

*What a member keeps to.* An update that was in a close is not offered again for another occasion, whatever became of
the sum: holders who have answered and holders who collude may be enough to open it, and of two sums with other members
the difference is read. Masks have the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NewType

import msgspec

from swarm import codec
from swarm.errors import LedgerError, Reject
from swarm.homomorphic import fiat_shamir, integers, knowledge
from swarm.homomorphic.integers import Draw, natural
from swarm.homomorphic.packing import Packing
from swarm.homomorphic.paillier import Encryptor
from swarm.homomorphic.threshold import KeyShare, SharedKey
from swarm.machine import NodeId
from swarm.masking.graph import FEWEST
from swarm.masking.keys import Occasion
from swarm.masking.ring import Ring
from swarm.masking.statements import Close
from swarm.mixing.average import Sums
from swarm.vector import ELEMENTS_MAX, Vector

HASH_BYTES = 32

_HEADER_BYTES = 64
"""More than MessagePack and a digest add to the byte strings of an offer or an answer."""


Proven = NewType("Proven", tuple[int, ...])
"""Ciphertexts of an offer whose author has proven that it knows what is in them: only `read_offer` makes these."""


class Offer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A member's encrypted update: for which roster, the proof of knowing it, and all ciphertexts in a row."""

    roster: bytes
    proof: bytes
    ciphertexts: bytes


class Answer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A holder's shares of the decryption of a sum: of which close, the proof, and all shares in a row."""

    close: bytes
    proof: bytes
    shares: bytes


@dataclass(frozen=True)
class Roster:
    """Who may be in a sum, and what everybody has to know to take part.

    Args:
        occasion: Which sum this is for.
        ring: Of the words of updates.
        elements: Of each update.
        key: Under which updates are encrypted. Its holders need not be members.
        seats: Each member and the weight of its update, in member order.

    Raises:
        Reject: no sum could be made of it.
    """

    occasion: Occasion
    ring: Ring
    elements: int
    key: SharedKey
    seats: tuple[tuple[NodeId, int], ...]

    def __post_init__(self) -> None:
        nodes, weights = self.nodes, [weight for _, weight in self.seats]
        if len(nodes) < self.fewest or len({*nodes}) != len(nodes):
            raise Reject(f"couldn't sum encrypted updates: {len({*nodes})} are on the roster, it takes {self.fewest}")
        if min(weights) < 1 or sum(weights) > self.ring.weight_total:
            raise Reject("couldn't sum encrypted updates: the weights of the roster are more than slots have room for")
        if not 0 < self.elements <= ELEMENTS_MAX:
            raise Reject(f"couldn't sum encrypted updates: of {self.elements} elements each")

    @cached_property
    def nodes(self) -> tuple[NodeId, ...]:
        """Whose the seats are."""
        return tuple(node for node, _ in self.seats)

    @property
    def fewest(self) -> int:
        """Members that a sum must be of: as with masks three, and no fewer than it takes to read it."""
        return max(FEWEST, self.key.threshold)

    @cached_property
    def packing(self) -> Packing:
        """How words lie in plaintexts."""
        return Packing(self.ring, self.key.public.plaintext_bits)

    @cached_property
    def count(self) -> int:
        """Ciphertexts of each offer."""
        return self.packing.count(self.elements)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all of it: what an offer is for."""
        ring = (self.ring.bits, self.ring.fraction, self.ring.weight_total)
        seats = (part for seat in self.seats for part in seat)
        occasion = self.occasion.commit("homomorphic roster", self.key.digest)
        return fiat_shamir.digest("roster", occasion, self.elements, *ring, *seats)

    def weight(self, node: NodeId) -> int:
        """Return what a member's update weighs. Raises `Reject` if it is not on the roster."""
        if node not in self.nodes:
            raise Reject("couldn't take an encrypted update: its author is not on the roster")
        return dict(self.seats)[node]

    def context(self, close: Close) -> bytes:
        """Return the digest of a close of this roster: what an answer is for. Raises `Reject` if it is none."""
        nodes = [node for node in self.nodes if node in close.included]
        if list(close.included) != nodes or close.index < 0:
            raise Reject("couldn't sum encrypted updates: the close names who is not on the roster, or not in order")
        if len(nodes) < self.fewest:
            raise Reject(f"couldn't sum encrypted updates: the close is of {len(nodes)}, it takes {self.fewest}")
        return fiat_shamir.digest("close", self.digest, codec.encode(close))


class Part:
    """One site's part: a member's, a holder's, or both. There is one of an occasion: the ledger has one roster for it.

    Args:
        roster: Of the sum.
        me: This site.
        encryptor: Under the roster's key. Its table is worth keeping from round to round.
        draw: The source of randomness.
        share: This site's share of the key, if it holds one.
        answered: What `answered` was when this process ended, empty if it has just begun.
    """

    def __init__(
        self,
        roster: Roster,
        me: NodeId,
        *,
        encryptor: Encryptor,
        draw: Draw,
        share: KeyShare | None = None,
        answered: bytes = b"",
    ) -> None:
        assert encryptor.key == roster.key.public, "an encryptor under the roster's key"
        self._roster, self._me, self._encryptor, self._draw = roster, me, encryptor, draw
        self._share, self._answered = share, answered

    @property
    def answered(self) -> bytes:
        """The close that this site has answered for; it must be durable before that answer leaves."""
        return self._answered

    def offer(self, update: Vector) -> bytes:
        """Return this member's update, shape (elements,), weighted and encrypted, as it travels.

        Another update may be offered in its place: which one counts is the close's to say.

        Raises:
            UsageError: an element is not finite or too large, see `Ring.encode_into`.
            Reject: this site is not on the roster.
        """
        roster, encryptor = self._roster, self._encryptor
        weight, words = roster.weight(self._me), roster.ring.words(update.size)
        assert update.size == roster.elements, "as many elements as the roster has"
        roster.ring.encode_into(words, update, weight)
        numbers = list(roster.packing.plaintexts(words, weight))
        exponents = encryptor.exponents(len(numbers))
        ciphertexts = encryptor.encrypt_with(numbers, exponents)
        data = integers.many_to_bytes(ciphertexts, encryptor.key.ciphertext_bytes)
        context = _offered(roster, self._me)
        proof = knowledge.prove(encryptor, context, data, ciphertexts, numbers, exponents, self._draw)
        return codec.encode(Offer(roster.digest, proof, data))

    def answer(self, opening: Opening) -> bytes | None:
        """Return this holder's shares of the decryption of a sum, as they travel; None if it holds no share.

        Asked again for the same close it answers again. It draws anew, which tells nothing more.

        Raises:
            LedgerError: it has answered for another close. The ledger is forked, or its folder is an old copy.
        """
        roster, share = self._roster, self._share
        assert opening.roster.digest == roster.digest, "of this roster"
        if share is None:
            return None
        if self._answered not in (b"", opening.context):
            raise LedgerError(
                "couldn't answer for a sum of encrypted updates: this site has answered for another close of it",
                hint="compare ledgers with the others (swarm ledger diff): two sums of one round are an update",
            )
        self._answered = opening.context
        shares, proof = share.decrypt(opening.context, opening.total, self._draw)
        return codec.encode(
            Answer(opening.context, proof, integers.many_to_bytes(shares, roster.key.public.ciphertext_bytes))
        )


class Opening:
    """What has been answered so far for one close: public arithmetic, which anybody can repeat who has the offers.

    Args:
        roster: Of the sum.
        close: The final one.
        offers: Of everybody in it, each as `read_offer` has let it through.

    Raises:
        Reject: the close is none of this roster, or an offer is missing.
    """

    def __init__(self, roster: Roster, close: Close, offers: Mapping[NodeId, Proven]) -> None:
        self.roster, self.context = roster, roster.context(close)
        if missing := [node.hex()[:8] for node in close.included if node not in offers]:
            raise Reject(f"couldn't sum encrypted updates: those of {', '.join(missing)} are not here")
        total: Sequence[int] = [natural(1)] * roster.count
        for node in close.included:
            assert len(offers[node]) == roster.count, "read by `read_offer`"
            total = roster.key.public.add_all(total, offers[node])
        self.total: tuple[int, ...] = tuple(total)
        self.weight = sum(roster.weight(node) for node in close.included)
        self._shares: dict[int, tuple[int, ...]] = {}
        self._liars: list[NodeId] = []

    def take(self, holder: NodeId, data: bytes) -> tuple[NodeId, ...]:
        """Take a holder's answer. Right ones count, beyond the threshold too; who answers falsely is named.

        Returns:
            The holder, if its proof does not hold.

        Raises:
            Reject: it is no answer, of another close, or by nobody who holds a share.
        """
        key = self.roster.key
        place = key.place(holder)
        size = key.public.ciphertext_bytes
        found = codec.decode(data, Answer, limit=_HEADER_BYTES + HASH_BYTES + key.proof_bytes + size * len(self.total))
        if place is None:
            raise Reject("couldn't take decryption shares: their author holds no share of the key")
        if found.close != self.context:
            raise Reject("couldn't take decryption shares: they are for another sum")
        try:
            if len(found.shares) != size * len(self.total):
                raise Reject("couldn't take decryption shares: they are of another number of ciphertexts")
            shares = integers.many_from_bytes(found.shares, size)
            key.check_share(place, self.context, self.total, shares, found.proof)
        except Reject:
            if holder not in self._liars and place not in self._shares:
                self._liars.append(holder)
            return (holder,)
        self._shares[place] = shares
        return ()

    def sums(self) -> Sums | None:
        """Return the sums of weighted updates, shape (elements,), or None while it takes more answers.

        Raises:
            Reject: they are larger than anything that updates of this weight can sum to: somebody lied.
        """
        if len(self._shares) < self.roster.key.threshold:
            return None
        numbers = self.roster.key.combine(self._shares)
        words = self.roster.packing.words(numbers, self.roster.elements, self.weight)
        return self.roster.ring.sums(words, self.weight)

    @property
    def liars(self) -> tuple[NodeId, ...]:
        """Who has answered with false shares, and not with right ones."""
        return tuple(self._liars)

    def lacking(self) -> str:
        """Say in words why there is no sum yet; empty when there is one."""
        key = self.roster.key
        if len(self._shares) >= key.threshold:
            return ""
        said = f"{len(self._shares)} of {len(key.holders)} holders have answered, it takes {key.threshold}"
        false = ", ".join(node.hex()[:8] for node in self._liars)
        return f"{said}; {false} answered falsely" if false else said


def read_offer(data: bytes, roster: Roster, author: NodeId) -> Proven:
    """Return the ciphertexts that a member offers, once it is proven that it knows what is in them.

    Raises:
        Reject: it is no offer, for another roster or by somebody else.
    """
    public = roster.key.public
    roster.weight(author)
    size, proof = public.ciphertext_bytes * roster.count, knowledge.proof_bytes(public)
    found = codec.decode(data, Offer, limit=_HEADER_BYTES + HASH_BYTES + proof + size)
    if found.roster != roster.digest:
        raise Reject("couldn't take an encrypted update: it is for another roster")
    if len(found.ciphertexts) != size:
        raise Reject(f"couldn't take an encrypted update: it is not of {roster.count} ciphertexts")
    ciphertexts = integers.many_from_bytes(found.ciphertexts, public.ciphertext_bytes)
    public.accept(ciphertexts)
    knowledge.check(public, _offered(roster, author), found.ciphertexts, ciphertexts, found.proof)
    return Proven(ciphertexts)


def offer_bytes(roster: Roster) -> int:
    """Return about how many bytes an offer takes: those of its ciphertexts and its proof."""
    public = roster.key.public
    return public.ciphertext_bytes * roster.count + knowledge.proof_bytes(public)


def _offered(roster: Roster, author: NodeId) -> bytes:
    return fiat_shamir.digest("offer", roster.digest, author)

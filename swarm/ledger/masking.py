"""What the log says of the masks of the open round: whose keys are in, who masks with whom, who has dealt and revealed.

A round with masks has two closes. The first is the *roster*: it fixes who masks, with what weight, and follows from the
keys in the log as a close follows from contributions. On a roster members deal shares of their secrets, then offer
masked updates; the `round_close` says which of those are added, and holders reveal the shares that the sum takes. The
order in which all this is said is in `swarm.masking.statements`, the reasons in `docs/decisions/0039`.

An attempt that gets no further before its close is ended by a roster of nobody. Whoever kept the others waiting is
barred from the round's further rosters, unless too few would be left; everybody else posts new keys. After the close
there is no second attempt, for those that hold enough shares know a sum, and the difference of two is an update.

Pure functions of what has been ordered. Who is waited for, and for how long, is asked in `swarm.ledger.masked_waits`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from swarm.charter import Charter
from swarm.errors import Reject, UsageError
from swarm.ledger import entry as e
from swarm.ledger.block import faults
from swarm.machine import NodeId
from swarm.masking import graph, noise
from swarm.masking.keys import Occasion
from swarm.masking.noise import Share
from swarm.masking.ring import weight_total
from swarm.masking.statements import Keys, Reveal, Roster, Seat, beacon
from swarm.mixing.average import integer_weights
from swarm.staleness import discounted

LATE_ATTEMPT = 1 << 16
"""Work for an earlier round may be masked for one later round after another: by how much the number of an attempt grows
with each round that it is late, so that no two of its contributions claim to be the same attempt."""


class Keyed(msgspec.Struct, frozen=True, array_like=True):
    """A member's keys and where they stand in the log."""

    index: int
    author: NodeId
    body: Keys


class Dealt(msgspec.Struct, frozen=True, array_like=True):
    """A member's deal and where it stands in the log."""

    index: int
    body: e.MaskDeal


class Rostered(msgspec.Struct, frozen=True, array_like=True):
    """The roster at hand: its place in the log, what it says, whose keys it names, and of how many members."""

    index: int
    body: e.MaskRoster
    terms: tuple[Keyed, ...]
    swarm: int


class Masking(msgspec.Struct, frozen=True, array_like=True):
    """The masks of the open round.

    `attempt` is the one under way, 1 at first. Of a member's keys for it the last ones before the roster count. Those
    in `barred` are on none of the round's rosters any more. Of deals and reveals the first of each member counts.
    """

    attempt: int = 1
    keys: Mapping[NodeId, Keyed] = {}
    barred: tuple[NodeId, ...] = ()
    roster: Rostered | None = None
    deals: Mapping[NodeId, Dealt] = {}
    reveals: Mapping[NodeId, Reveal] = {}

    def seat(self, node: NodeId) -> Keyed | None:
        """Return the keys with which a member is on the roster at hand, if it is."""
        found = () if self.roster is None else self.roster.terms
        return next((keyed for keyed in found if keyed.author == node), None)

    @property
    def weights(self) -> Mapping[NodeId, int]:
        """What the updates of those on the roster at hand weigh."""
        if self.roster is None:
            return {}
        pairs = zip(self.roster.terms, self.roster.body.included, strict=True)
        return {keyed.author: weight for keyed, (_, weight) in pairs}


# --- what members say -------------------------------------------------------------------------------------------------


def with_keys(masking: Masking, index: int, author: NodeId, body: Keys) -> Masking:
    """Take in keys for the open round while it has no roster."""
    if masking.roster is not None or body.attempt != masking.attempt or author in masking.barred:
        return masking
    return replace(masking, keys={**masking.keys, author: Keyed(index, author, body)})


def with_deal(masking: Masking, index: int, author: NodeId, body: e.MaskDeal) -> Masking:
    """Take in a deal for the roster at hand."""
    roster = masking.roster
    if roster is None or body.roster != roster.index or masking.seat(author) is None or author in masking.deals:
        return masking
    return replace(masking, deals={**masking.deals, author: Dealt(index, body)})


def with_reveal(masking: Masking, close: int, author: NodeId, body: Reveal) -> Masking:
    """Take in what a member reveals for the close at this leaf index."""
    fits = (body.attempt, body.close) == (masking.attempt, close)
    if not fits or masking.seat(author) is None or author in masking.reveals:
        return masking
    return replace(masking, reveals={**masking.reveals, author: body})


def offers(masking: Masking, round_: int, models: Sequence[bytes], author: NodeId, body: e.Contribution) -> bool:
    """Whether a contribution is the masked update of a member of the roster, made of what it said it would be.

    `models` are those that updates in the open round may start from, that of the round before first.
    """
    keyed = masking.seat(author)
    if keyed is None or keyed.body.base_digest not in models:
        return False
    late = models.index(keyed.body.base_digest)
    if (body.round, body.attempt) != (round_ - late, masking.attempt + late * LATE_ATTEMPT):
        return False
    return (body.samples, body.base_digest) == (keyed.body.samples, keyed.body.base_digest)


# --- rosters ----------------------------------------------------------------------------------------------------------


def fewest(members: int, min_contributions: int) -> int:
    """Return how many a roster is of at least, in a swarm of so many."""
    return max(graph.FEWEST, faults(members) + 2, min_contributions)


def make_roster(
    masking: Masking,
    nodes: Sequence[NodeId],
    round_: int,
    models: Sequence[bytes],
    done: Mapping[NodeId, int],
    *,
    cap_ppm: int,
    bits: int,
) -> e.MaskRoster:
    """Return the roster of all whose keys are in; `nodes` are the members in order.

    `models` are those that updates may start from, that of the round before first, then as many earlier ones as late
    work counts for rounds; `done` is of which round each member's work was that counted last. Keys like another's are
    left out, as are those for an update that starts from another model, or for one that has counted.
    """
    standing: list[Keyed] = []
    samples: list[int] = []
    rejected: dict[int, int] = {}
    known: set[bytes] = set()
    for keyed in (masking.keys[node] for node in nodes if node in masking.keys):
        pair = {keyed.body.mask_key, keyed.body.seal_key}
        late = models.index(keyed.body.base_digest) if keyed.body.base_digest in models else None
        if late is None or round_ - late <= done.get(keyed.author, 0):
            rejected[keyed.index] = e.OTHER_BASE
        elif pair & known:
            rejected[keyed.index] = e.UNUSABLE
        else:
            standing.append(keyed)
            samples.append(discounted(keyed.body.samples, late))
            known |= pair
    total = weight_total(bits, len(nodes))
    weights = integer_weights(samples, cap_ppm=cap_ppm, total_max=total) if samples else ()
    included = tuple((keyed.index, weight) for keyed, weight in zip(standing, weights, strict=True))
    missing = tuple(node for node in nodes if node not in masking.keys)
    return e.MaskRoster(round_, masking.attempt, included, missing, tuple(sorted(rejected.items())))


def make_ending(
    masking: Masking, round_: int, offered: Mapping[NodeId, int], unusable: Mapping[int, int]
) -> e.MaskRoster:
    """Return what ends the attempt at hand; `offered` has the leaf indices of masked updates by author.

    `unusable` are deals, or else masked updates, that are in the log and of no use, by leaf index, with the reason.
    """
    assert masking.roster is not None, "an attempt is ended once it has a roster"
    seats = [keyed.author for keyed in masking.roster.terms]
    dealt = {dealt.index for dealt in masking.deals.values()}
    undealt = tuple(node for node in seats if node not in masking.deals)
    dealing = bool(undealt or dealt & {*unusable})
    missing = undealt if dealing else tuple(node for node in seats if node not in offered)
    return e.MaskRoster(round_, masking.attempt, (), missing, tuple(sorted(unusable.items())))


def check_ending(masking: Masking, round_: int, offered: Mapping[NodeId, int], body: e.MaskRoster, least: int) -> None:
    """Check what ends an attempt, as far as the log alone can tell: `least` would be enough for a close.

    Raises:
        Reject: it does not follow.
    """
    roster = masking.roster
    assert roster is not None, "somebody has looked"
    named = f"couldn't accept the end of attempt {masking.attempt} at round {round_}"
    unusable = dict(body.rejected)
    dealt = {dealt.index for dealt in masking.deals.values()}
    dealing = len(masking.deals) < len(roster.terms) or bool(dealt & {*unusable})
    if not {*unusable} <= (dealt if dealing else {*offered.values()}):
        raise Reject(f"{named}: what it calls of no use was not said, or not for this attempt")
    if not {*unusable.values()} <= {e.UNUSABLE, e.UNAVAILABLE}:
        raise Reject(f"{named}: a reason it gives is unknown")
    if make_ending(masking, round_, offered, unusable) != body:
        raise Reject(f"{named}: it does not name those that are missing")
    if not dealing and len(offered) - len(unusable) >= least:
        raise Reject(f"{named}: enough have offered")


def included_min(roster: Rostered, min_contributions: int) -> int:
    """Return how many of a roster a close is of at least."""
    return max(graph.shape(len(roster.terms), roster.swarm).included_min, min_contributions)


def noise_share(charter: Charter, body: e.MaskRoster, swarm: int) -> Share | None:
    """Return what each on a roster, of so many members, adds of the noise on a sum; None if none can be shared on it.

    It follows from the roster and the charter alone: noise that is added is not taken back by a vote on other terms.
    """
    weights = [weight for _, weight in body.included]
    counted_on = noise.counted_on(noised_min(charter, len(weights), swarm), swarm)
    if counted_on < noise.COUNTED_ON_MIN:
        return None
    try:
        return charter.share(heaviest=max(weights), total=sum(weights), members=len(weights), counted_on=counted_on)
    except UsageError:
        return None  # The swarm has grown beyond what there is room for, which founders are refused.


def noised_min(charter: Charter, rostered: int, swarm: int) -> int:
    """Return of how many a sum with noise is at least: as many as the charter asks for, whatever it says by now."""
    return max(graph.shape(rostered, swarm).included_min, min(charter.round.min_contributions, rostered))


def rostered(masking: Masking, index: int, body: e.MaskRoster, members: int) -> Masking:
    """Return the masks once a roster of somebody is in the log."""
    known = {keyed.index: keyed for keyed in masking.keys.values()}
    terms = tuple(known[at] for at, _ in body.included)
    return replace(masking, keys={}, roster=Rostered(index, body, terms, members), deals={}, reveals={})


def ended(
    masking: Masking, body: e.MaskRoster, offered: Mapping[NodeId, int], nodes: Sequence[NodeId], min_contributions: int
) -> Masking:
    """Return the masks once an attempt has ended; whoever it names is barred, if enough are left then."""
    authors = {dealt.index: node for node, dealt in masking.deals.items()}
    authors |= {index: node for node, index in offered.items()}
    kept_waiting = {NodeId(node) for node in body.missing} | {authors[index] for index, _ in body.rejected}
    barred = tuple(node for node in nodes if node in kept_waiting or node in masking.barred)
    if len(nodes) - len(barred) < fewest(len(nodes), min_contributions):
        barred = ()
    return Masking(attempt=masking.attempt + 1, barred=barred)


def without(masking: Masking, gone: Collection[NodeId], *, changed: bool, closed: bool) -> Masking:
    """Return the masks as the next epoch begins with them; `changed` is whether it has other members.

    A roster of others than today's members is none. What is closed stays: the sum takes what has been dealt.
    """
    if closed or not changed:
        return masking
    barred = tuple(node for node in masking.barred if node not in gone)
    if masking.roster is not None:
        return Masking(attempt=masking.attempt + 1, barred=barred)
    kept = {node: keyed for node, keyed in masking.keys.items() if node not in gone}
    return replace(masking, keys=kept, barred=barred)


def statement(masking: Masking, ledger_id: bytes, round_: int, model: bytes) -> Roster | None:
    """Return the roster at hand as those who mask on it say it; `model` is what the round before ended with."""
    roster = masking.roster
    if roster is None:
        return None
    seats = tuple(
        Seat(keyed.author, weight, keyed.body.mask_key, keyed.body.seal_key)
        for keyed, (_, weight) in zip(roster.terms, roster.body.included, strict=True)
    )
    occasion = Occasion(ledger_id, round_, masking.attempt)
    return Roster(ledger_id, round_, masking.attempt, beacon(occasion, model), roster.swarm, seats)

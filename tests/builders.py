"""Swarms to test with: identities, charters and nodes made from a number, the same ones every time."""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gossip import messages as m
from gossip import wire
from node.core import Node
from swarm import charter as c
from swarm.errors import LedgerError, PeerError, StoreError, SwarmError, UsageError
from swarm.identity import Identity, verify
from swarm.ledger import entry as e
from swarm.ledger.block import FINALIZE, Certificate, Header, vote_message
from swarm.masking.statements import Keys, Reveal
from swarm.mixing.outer import parse as parse_outer
from swarm.vector import blob_digest, leaf_hashes
from topologies.world.clock import EPOCH_S

CODE = hashlib.sha256(b"a task file").digest()
LAYOUT = hashlib.sha256(b"a layout").digest()


@functools.lru_cache(maxsize=4096)
def decode_once(frame: bytes) -> m.Message:
    """Read each frame once for the whole world: what follows from bytes alone, all members would find the same."""
    return wire.decode(frame)


@functools.lru_cache(maxsize=1 << 16)
def verify_once(public: bytes, message: bytes, signature: bytes) -> bool:
    """Check each signature once for the whole world."""
    return verify(public, message, signature)


@dataclass(frozen=True, slots=True)
class Swarm:
    """A complete swarm: every member's secrets and the charter they all signed."""

    identities: tuple[Identity, ...]
    signed: c.SignedCharter
    initial: bytes

    @property
    def charter(self) -> c.Charter:
        return self.signed.charter

    def node(
        self,
        index: int,
        *,
        now: float = EPOCH_S,
        seed: int = 0,
        snapshot_blocks: int = 3,
        kind: type[Node] = Node,
        **more: Any,
    ) -> Node:
        """Return the machine of one member, or of a site that is none. Its snapshots come often, so starts use them."""
        return kind(
            signed=self.signed,
            identity=self.identities[index] if index < len(self.identities) else identity(index),
            rng=random.Random(f"node/{seed}/{index}"),
            now=now,
            code_digest=CODE,
            layout_digest=LAYOUT,
            snapshot_blocks=snapshot_blocks,
            **{"decode": decode_once, "verify": verify_once, "draw": drawing(index, seed), **more},
        )


def drawing(index: int, seed: int) -> Callable[[], bytes]:
    """Return what draws secrets for a process: others for each member and seed, and each time."""
    drawn = itertools.count()
    return lambda: hashlib.sha256(f"draw/{seed}/{index}/{next(drawn)}".encode()).digest()


@functools.lru_cache(maxsize=256)
def identity(number: int) -> Identity:
    """Return the same identity for the same number."""
    return Identity.from_seed(hashlib.sha256(b"id%d" % number).digest(), hashlib.sha256(b"curve%d" % number).digest())


@functools.lru_cache(maxsize=32)
def make_swarm(
    n: int,
    *,
    rounds: int = 3,
    elements: int = 32,
    edges: tuple[tuple[int, int], ...] = (),
    min_contributions: int = 1,
    deadline_ms: int = 600_000,
    patience_ms: int = 8_000,
    clip_norm_milli: int = 100_000,
    t0_ms: int = 1_000,
    metrics: Sequence[str] = ("loss",),
    first: int = 0,
    schedule: str = "",
    codec: str = "",
    route: str = "",
    correction: str = "",
    links: str = "",
    staleness: int = 0,
    gamma: str = "",
    asynchronous: str = "",
    weight_cap_ppm: int = 1_000_000,
    pace: int = 0,
    relay: str = "",
    contribution: str = "",
    min_cell: int = 0,
    rule: str = "",
    clip: str = "",
    hidden: tuple[int, ...] = (),
    outer: str = "none",
    buffers: str = "",
    stop: str = "",
    masks: str = "",
    site_noise: str = "",
    salt: str = "",
) -> Swarm:
    """Return a swarm of `n` members whose model starts at zero. `first` picks other identities.

    With a `schedule` they mix by gossip, with a `codec` they compress what they contribute; a `route` leads to the mean.
    Late work counts for `staleness` rounds; slow sites are waited for `pace` times as long as the median needs. Those in
    `hidden` only dial out; with `relay` others link them. `outer` is the step that a round takes, but at `buffers`;
    `stop` is when it is over before its last round; with `site_noise` sums under `masks` carry noise. With a
    `salt` updates carry one.
    """
    identities = tuple(identity(first + i) for i in range(n))
    cards = tuple(
        c.make_card(who, name=f"site-{i}", endpoint="" if i in hidden else f"tcp://127.0.0.1:{17000 + i}")
        for i, who in enumerate(identities)
    )
    initial = bytes(4 * elements * (1 + parse_outer(outer).slots))
    charter = c.Charter(
        version=c.CHARTER_VERSION,
        name="test-swarm",
        created_ms=int(EPOCH_S * 1000) - 60_000,
        members=cards,
        task=c.Task("toy", CODE, LAYOUT, elements, blob_digest(len(initial), leaf_hashes(initial)), 7),
        round=c.RoundPolicy(
            rounds,
            "gossip" if schedule else "exact",
            outer,
            min_contributions,
            deadline_ms,
            patience_ms,
            clip_norm_milli,
            weight_cap_ppm,
        ),
        ledger=c.LedgerPolicy(600_000, t0_ms, False, "record"),
        metrics=tuple(metrics),
        edges=edges,
        predecessor=(),
        options=c.options_of(
            asynchronous=asynchronous,
            buffers=buffers,
            clip=clip,
            codec=codec,
            contribution=contribution,
            correction=correction,
            gamma=gamma,
            links=links,
            masks=masks,
            min_cell=str(min_cell) if min_cell else "",
            pace=str(pace) if pace else "",
            relay=relay,
            route=route,
            rule=rule,
            salt=salt,
            schedule=schedule,
            site_noise=site_noise,
            staleness=str(staleness) if staleness else "",
            stop=stop,
        ),
    )
    signed = c.SignedCharter(charter, {})
    for who in identities:
        signed = signed.sign(who)
    signed.check()
    return Swarm(identities, signed, initial)


def changed(swarm: Swarm, **fields: object) -> c.Charter:
    """Return the swarm's charter with other terms."""
    return msgspec.structs.replace(swarm.charter, **fields)


def bracketed(identifier: str) -> str:
    """Return what stands behind the sentence of an error: its identifier, unless it is that of its kind."""
    kinds = (SwarmError, PeerError, UsageError, LedgerError, StoreError)
    return "" if identifier in {kind.kind_identifier for kind in kinds} else f" [{identifier}]"


def digest(name: str) -> bytes:
    """Return 32 bytes that stand for something with this name."""
    return hashlib.sha256(name.encode()).digest()


def contribution(
    swarm: Swarm, author: int, *, number: int = 1, attempt: int = 1, samples: int = 10, base: bytes = b""
) -> e.Contribution:
    """Return a contribution that starts from the initial model unless told otherwise; its update is named by both."""
    task = swarm.charter.task
    return e.Contribution(
        round=number,
        attempt=attempt,
        base_height=0,
        base_digest=base or task.initial_model,
        update_digest=digest(f"update {number}/{attempt} of {author}"),
        update_bytes=swarm.charter.model_bytes + swarm.charter.salt,
        samples=samples,
        metrics=(),
        privacy=(0, 0, 0),
        code_digest=task.digest,
        data_digest=digest(f"data of {author}"),
    )


class Feeds:
    """Every member's feed: writes the next signed leaf of a member."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self.ends = dict.fromkeys(range(len(swarm.identities)), (0, swarm.signed.ledger_id))

    def write(self, author: int, body: msgspec.Struct, *, advance: bool = True) -> bytes:
        """Return the leaf that continues a feed. Without `advance` the next one takes the same place: a fork."""
        kinds: dict[type[msgspec.Struct], int] = {
            e.Contribution: e.CONTRIBUTION,
            e.Attest: e.ATTEST,
            e.Evaluation: e.EVALUATION,
            e.Receipt: e.RECEIPT,
            e.Partial: e.PARTIAL,
            e.Push: e.PUSH,
            e.Score: e.SCORE,
            e.Annotation: e.ANNOTATION,
            e.MemberProposal: e.MEMBER_PROPOSAL,
            e.MemberVote: e.MEMBER_VOTE,
            Keys: e.MASK_KEYS,
            e.MaskDeal: e.MASK_DEAL,
            Reveal: e.MASK_REVEAL,
        }
        who = self._swarm.identities[author]
        seq, prev = self.ends[author]
        entry = e.sign_entry(
            who.id_key,
            ledger_id=self._swarm.signed.ledger_id,
            author=who.node,
            kind=kinds[type(body)],
            seq=seq,
            prev=prev,
            ts_ms=self._swarm.charter.created_ms,
            body=body,
        )
        if advance:
            self.ends[author] = (seq + 1, entry.id)
        return entry.encode()


def certify(swarm: Swarm, header: Header, *, kind: int = FINALIZE, signers: Sequence[int] | None = None) -> Certificate:
    """Return a certificate for a block, of a quorum unless told otherwise."""
    chosen = tuple(range(swarm.charter.quorum)) if signers is None else tuple(signers)
    message = vote_message(swarm.signed.ledger_id, header.epoch, header.view, kind, header.hash)
    signatures = tuple(swarm.identities[i].vote_key.sign(message) for i in chosen)
    return Certificate(header.epoch, header.view, kind, header.hash, chosen, signatures)

"""The charter: what the founders of a swarm agree on, signed by each, and the first entry of its ledger.

A charter is written in TOML for people and compiled to canonical bytes for signatures. Every founder signs the same
bytes; the ledger's id is the hash of the entry that holds them, so a peer with another charter is in another swarm, and
says so. A member appears as a *card*: its name, its four public keys, where it can be reached, and proofs that it holds
the keys. This module reads no file and trusts no field: `check` is called on every charter that is built or decoded.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TypeVar

import msgspec

from swarm import codec, disclosure, identity, pace, salt, staleness, stopping, toml
from swarm.contribution import policy as contribution
from swarm.errors import LedgerError, Reject, UsageError
from swarm.ledger.block import MEMBERS_MAX, NO_HASH, faults, quorum
from swarm.ledger.entry import (
    CHARTER,
    ENTRY_BYTES_MAX,
    ENTRY_VERSION,
    METRICS_MAX,
    NO_AUTHOR,
    Contribution,
    Entry,
)
from swarm.machine import NodeId
from swarm.masking import noise, ring
from swarm.masking.graph import FEWEST
from swarm.masking.noise import Share
from swarm.masking.ring import Ring
from swarm.masking.statements import DEAL_BYTES_MAX
from swarm.mixing import corrections, local, rules, selfcentred
from swarm.mixing.average import PPM
from swarm.mixing.compress.choco import default_gamma
from swarm.mixing.compress.forms import Spec, encoded_bytes, parse
from swarm.mixing.outer import Outer, parse_buffers
from swarm.mixing.outer import parse as parse_outer
from swarm.privacy import accounting, site_noise
from swarm.privacy.site_noise import SiteNoise
from swarm.routes import FOLD, SHARDED, Route, cuts
from swarm.routes import parse as parse_route

T = TypeVar("T")

CHARTER_VERSION = 1
NAME_CHARACTERS_MAX = 64
TEXT_CHARACTERS_MAX = 300
"""Longest free text: tcp://, the longest host name (253 characters) and a port, with room to spare."""
ROUNDS_MAX = 1_000_000
CLIP_NORM_MILLI_MAX = 1_024_000
"""Largest clipping norm, 1,024: the fixed-point sum holds values up to 2**10 (`swarm.mixing.average`)."""

MIXINGS = ("exact", "gossip")
PARAMETERS_MAX = 2**33

SCHEDULE = "schedule"
"""The option that says who exchanges with whom in gossip mixing: a name that `topologies.schedules.build` knows, and
after a colon the degree of those that have one: "base2", "ring", "random_regular:4"."""

CODEC = "codec"
"""The option that says how contributions are compressed (`swarm.mixing.compress.forms`); they are float32 without."""

ROUTE = "route"
"""The option that says how exact mixing gets to the mean (`swarm.routes`); without, every update goes to everybody."""
CORRECTION = "correction"
"""The option that says what gossip does about data that differ from site to site (`swarm.mixing.corrections.parse`):
"qg", "qg:500", "gt"; nothing without."""

GAMMA = "gamma"
"""The option that says how far a member goes towards its neighbours' public copies in a round of gossip whose codec is
coarse, above 0 to 1, in at most four decimals: "0.3" (`swarm.mixing.compress.choco`). Without, it follows from the
codec."""

LINKS = "links"
"""The option that says that gossip's links go one way (`swarm.ledger.pushing`): "directed", as the schedule has it, or
one's own, by giver and taker among the founders, "0>1 0>2 1>2 2>0", every round. Both ways without."""

STALENESS = "staleness"
"""The option that says for how many rounds late work counts in exact mixing (`swarm.staleness`): "16". Without, what
comes after its round has closed is on record and nothing more."""

ASYNCHRONOUS = "asynchronous"
"""The option by which nobody is waited for (`Charter.asynchronous`): "buffered", the only way there is so far. Without,
a round closes when everyone is in, or without those that are gone or late (`RoundPolicy`)."""

BUFFERED = "buffered"

PACE = "pace"
"""The option that says how long exact mixing waits for a site that moves and is slow, in times the median site needs
(`swarm.pace`): "4". Without, until the deadline."""

MIN_CELL = "min_cell"
"""The option that says of how many cases at least scores are told (`swarm.disclosure`): "5". Without, of any."""

LOCAL = "local"
"""The option that says what is added to sites' own training (`swarm.mixing.local.parse`): "fedprox:0.01", "scaffold",
"ditto:0.1"; nothing without."""

CLIP = "clip"
"""The option that says that in gossip no neighbour pulls a member further than others do (`swarm.mixing.selfcentred`):
the weight that liars may have among a member's neighbours, in thousandths, "100". Whole models are then put together by
`CLIP_ENDING` in the last round."""

CLIP_ENDING = rules.Rule(rules.GEOMEDIAN)
"""A mean at the end would give a liar in one round what clipping has kept from it in all others."""

RULE = "rule"
"""The option that says by which rule exact mixing averages where some members may lie (`swarm.mixing.rules`):
"trimmed:2". Without, it is a mean weighted by samples."""

RULE_CODECS = ("bf16", "int8")
"""Those under which updates can be compared with each other. What a coarser codec leaves out of one round comes in a
later one, so that honest updates lie as far apart as anything a liar could send."""

RELAY = "relay"
"""The option that says that two members of whom neither can be dialled are linked all the same, through a member that
both are linked to and that cannot read along (`gossip.relay`): "sealed". Without, others pass on what they say."""

RELAYS = ("sealed",)

CONTRIBUTION = "contribution"
"""The option that says how the worth of contributions is told (`swarm.contribution.policy`): "size", or "loo" or
"shapley" with a metric, the sense of it and a share of the training time: "shapley:accuracy:higher:20". Without, nobody
judges anything."""

STOP = "stop"
"""The option that says when the run is over before its last round (`swarm.stopping.parse`): "auc:higher:5:0.001" where
the metric has not become better by that for so many rounds. Without, after all rounds."""

BUFFERS = "buffers"
"""The option that says which stretches of a model an outer optimiser leaves to averaging, because they are measured and
not learned (`swarm.mixing.outer.parse_buffers`): "120-160 400-408". Without, all of it is learned."""

PRIVACY = "privacy"
"""The option that says what of privacy each site may spend at most on the records it trains with
(`swarm.privacy.accounting.parse`): "3:1e-5", epsilon and delta. No site's update that was not trained privately leaves
it then. Without, that is for each site to decide."""

MASKS = "masks"
"""The option by which updates travel masked, so that nobody learns of them but the sum (`swarm.masking`): "pairwise",
"pairwise:64" or "pairwise:32", which say how many bits an element takes. Without, everybody sees every update."""

SITE_NOISE = "site_noise"
"""The option by which the sum of each masked round carries noise, so that it says little of any one site
(`swarm.privacy.site_noise.parse`): "7.25:3:1e-5", the noise in multiples of what a site can change, then what may be
spent at most, epsilon and delta. The run ends before more would be. Without, sums are exact."""

SALT = "salt"
"""The option by which updates travel with secret bytes behind them, so that their names on the ledger confirm no guess
(`swarm.salt`): "32", how many. Without, a name is the digest of an update alone."""

SALTED_LEAST = 2
"""Fewest contributions of a round whose updates are salted. A round of one ends with the model that its one update
makes, and that model's name, which all members have to agree on, has no salt."""

OPTIONS = (
    *(ASYNCHRONOUS, BUFFERS, CLIP, CODEC, CONTRIBUTION, CORRECTION, GAMMA, LINKS, LOCAL, MASKS, MIN_CELL, PACE),
    *(PRIVACY, RELAY, ROUTE, RULE, SALT, SCHEDULE, SITE_NOISE, STALENESS, STOP),
)
"""All there are; a charter with another was made by a newer version."""

OWN_LINKS = "links"
"""In place of a schedule's name: the charter's own links, every round. For a graph that no family has."""

CODECS = ("bf16", "int8", "int4", "sign", "topk")
"""Those that need no key. In exact mixing a site sends later what they leave out (`swarm.mixing.compress.residual`). In
gossip models travel rounded under bf16; coarser codecs compress how public copies move, which neighbours keep
(`Charter.follows`)."""

AVERAGE_CODECS = ("bf16", "int8")
"""Those that are good enough for an average of slices, which has no memory of what they leave out."""

_GAMMA = re.compile(r"1|0\.[0-9]{0,3}[1-9]")

_ARC = re.compile(r"(\d+)>(\d+)")
_ARCS = re.compile(r"(0|[1-9]\d{0,3})>(0|[1-9]\d{0,3})( (0|[1-9]\d{0,3})>(0|[1-9]\d{0,3}))*")

_SCHEDULE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}(:[1-9][0-9]{0,3})?")

_SIGN_AGAIN = (
    "the text was changed after it was signed: ask for the signed original, or remove every [[signature]] from the new"
    " text and let each founder sign it"
)
_NEW_CARD = "ask the site for its card.toml again; if that is the same, to make new keys and send the new card"
_REDRAFT = "draft the charter again; a term can only be changed before anybody signs it"
_ASK_AGAIN = "ask for the file again: it is written by `swarm charter new` or `swarm keygen`, not by hand"


class Card(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One member as the others know it. Keys are 32 bytes; `endpoint` is "tcp://host:port", empty if outbound-only.

    `proof` holds the signatures of the identity, vote and cosigning keys over everything else: whoever presents a card
    holds its keys, and the transport key is bound to the identity.
    """

    name: str
    id_key: bytes
    vote_key: bytes
    cosign_key: bytes
    curve_key: bytes
    endpoint: str
    roles: tuple[str, ...]
    proof: tuple[bytes, ...]

    @property
    def node(self) -> NodeId:
        """The member's id."""
        return identity.node_id(self.id_key)

    def signed_bytes(self) -> bytes:
        """Return what the proofs sign."""
        fields = (self.name, self.id_key, self.vote_key, self.cosign_key, self.curve_key, self.endpoint, self.roles)
        return identity.DOMAIN_CARD + codec.encode(fields)

    def check(self) -> None:
        """Raise `UsageError` unless the card is well formed, its keys admissible and its proofs valid."""
        named = f"the card of {self.name!r}"
        check_name("a member", self.name)
        for what, key in (("identity", self.id_key), ("vote", self.vote_key), ("cosigning", self.cosign_key)):
            if not identity.admissible(key):
                raise UsageError(f"couldn't accept {named}: its {what} key is not a valid Ed25519 key", hint=_NEW_CARD)
        if len(self.curve_key) != 32 or len({self.id_key, self.vote_key, self.cosign_key, self.curve_key}) != 4:
            raise UsageError(f"couldn't accept {named}: it needs four different keys of 32 bytes", hint=_NEW_CARD)
        if self.endpoint and not self.endpoint.startswith("tcp://"):
            raise UsageError(
                f"couldn't accept {named}: endpoint {self.endpoint!r}",
                hint="write it as tcp://host:port or leave it empty",
            )
        _text(f"the endpoint of {self.name!r}", self.endpoint)
        for role in self.roles:
            check_name("a role", role)
        message = self.signed_bytes()
        keys = (self.id_key, self.vote_key, self.cosign_key)
        if len(self.proof) != 3 or not all(
            identity.verify(key, message, proof) for key, proof in zip(keys, self.proof, strict=True)
        ):
            raise UsageError(f"couldn't accept {named}: a proof of its keys does not verify", hint=_NEW_CARD)


class Task(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is learned: digests of the task file, the parameter layout and the model to start from."""

    name: str
    digest: bytes
    layout: bytes
    parameters: int
    initial_model: bytes
    seed: int


class RoundPolicy(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How rounds go. Times in milliseconds, norms in thousandths, shares in millionths.

    A round closes when everyone is in, or without the sites that made no progress for `patience_ms`, or, where the
    charter has a pace, that are far behind the others (`swarm.pace`), or at `deadline_ms`; never with fewer than
    `min_contributions`.
    """

    rounds: int
    mixing: str
    outer: str
    min_contributions: int
    deadline_ms: int
    patience_ms: int
    clip_norm_milli: int
    weight_cap_ppm: int


class LedgerPolicy(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How agreement goes. `t0_ms` is the first view timeout; a block may be dated at most `max_skew_ms` ahead."""

    max_skew_ms: int
    t0_ms: int
    require_byzantine: bool
    evidence: str


class Charter(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """The agreed terms. `edges` lists the links as ascending index pairs; empty means everyone with everyone.

    `predecessor` is empty or (ledger id, size, root) of the ledger this one continues. `options` is for later policies:
    (name, value) pairs, refused unless known, so that no peer ignores a term it did not understand.
    """

    version: int
    name: str
    created_ms: int
    members: tuple[Card, ...]
    task: Task
    round: RoundPolicy
    ledger: LedgerPolicy
    metrics: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    predecessor: tuple[tuple[bytes, int, bytes], ...]
    options: tuple[tuple[str, str], ...]

    def encode(self) -> bytes:
        """Return the canonical bytes that every founder signs."""
        return codec.encode(self)

    @property
    def model_bytes(self) -> int:
        """Size of a model or an update: float32."""
        return 4 * self.task.parameters

    @property
    def outcome_bytes(self) -> int:
        """Size of what a round ends with: the model, and what the outer optimiser remembers."""
        return self.model_bytes * (1 + self.outer.slots)

    @cached_property
    def outer(self) -> Outer:
        """What a round does with the mean of its updates."""
        text = dict(self.options).get(BUFFERS, "")
        return parse_outer(self.round.outer, parse_buffers(text, self.task.parameters) if text else ())

    @property
    def clip_norm(self) -> float:
        """Largest L2 norm of an update."""
        return self.round.clip_norm_milli / 1000

    @property
    def schedule(self) -> str:
        """Who exchanges with whom in gossip mixing, by name; empty in exact mixing."""
        return dict(self.options).get(SCHEDULE, "")

    @cached_property
    def codec(self) -> Spec | None:
        """How contributions are compressed; None if they are float32 vectors as they are."""
        name = dict(self.options).get(CODEC, "")
        return parse(name) if name else None

    @cached_property
    def follows(self) -> bool:
        """Whether contributions to gossip say how public copies move, as coarse codecs need it, not what models are."""
        return self.round.mixing == "gossip" and self.codec is not None and self.codec.name != "bf16"

    @property
    def gamma(self) -> float:
        """How far a member goes towards its neighbours in a round of gossip, above 0 to 1; 1 where models travel."""
        if not self.follows:
            return 1.0
        assert self.codec is not None, "who follows copies has a codec"
        text = dict(self.options).get(GAMMA, "")
        return float(text) if text else default_gamma(self.codec)

    @property
    def directed(self) -> bool:
        """Whether a member may give its model to others than it takes theirs from."""
        return LINKS in dict(self.options)

    @property
    def arcs(self) -> tuple[tuple[int, int], ...]:
        """Who gives its model to whom every round, (giver, taker), where the charter lists it; else empty."""
        text = dict(self.options).get(LINKS, "")
        return tuple((int(a), int(b)) for a, b in _ARC.findall(text)) if _ARCS.fullmatch(text) else ()

    @property
    def momentum(self) -> float:
        """The quasi-global momentum of gossip, below 1; 0 for none."""
        return self.correction.momentum

    @property
    def tracks(self) -> bool:
        """Whether gossip corrects the steps of each site by what its rounds have taught it (gradient tracking)."""
        return self.correction.tracks

    @cached_property
    def correction(self) -> corrections.Correction:
        """What gossip does about data that differ."""
        name = dict(self.options).get(CORRECTION, "")
        return corrections.parse(name) if name else corrections.NONE

    @cached_property
    def staleness(self) -> int:
        """For how many rounds late work counts; 0 if it does not."""
        text = dict(self.options).get(STALENESS, "")
        return staleness.parse(text) if text else 0

    @cached_property
    def rule(self) -> rules.Rule | None:
        """By which rule updates are averaged, each counting as one; None for the mean weighted by samples."""
        text = dict(self.options).get(RULE, "")
        return rules.parse(text) if text else None

    @cached_property
    def clip(self) -> int:
        """The weight that liars may have among a member's neighbours in gossip, in thousandths; 0 for no clipping."""
        text = dict(self.options).get(CLIP, "")
        return selfcentred.parse(text) if text else 0

    def rule_of(self, *, exchanging: bool) -> rules.Rule | None:
        """By which rule a round averages, if by any: in gossip with clipping that is the last one."""
        return self.rule if not self.clip else None if exchanging else CLIP_ENDING

    @property
    def local(self) -> str:
        """What is added to sites' own training, by name; empty for nothing."""
        return dict(self.options).get(LOCAL, "")

    @cached_property
    def privacy(self) -> accounting.Budget | None:
        """What of privacy each site may spend at most; None if that is for each to decide."""
        text = dict(self.options).get(PRIVACY, "")
        return accounting.parse(text) if text else None

    @cached_property
    def masks(self) -> int:
        """How many bits an element of a masked update takes; 0 where updates are not masked."""
        text = dict(self.options).get(MASKS, "")
        return ring.parse(text) if text else 0

    def ring(self, members: int) -> Ring:
        """Return the words of masked updates in a swarm of so many members."""
        total = ring.weight_total(self.masks, members)
        return Ring.fitting(self.masks, weight_total=total, clip_norm_milli=self.round.clip_norm_milli)

    @cached_property
    def salt(self) -> int:
        """How many bytes of salt lie behind an update; 0 where its name is the digest of the update alone."""
        text = dict(self.options).get(SALT, "")
        return salt.parse(text) if text else 0

    @cached_property
    def site_noise(self) -> SiteNoise | None:
        """What noise the sum of a masked round carries, and how much may be spent; None if sums are exact."""
        text = dict(self.options).get(SITE_NOISE, "")
        return site_noise.parse(text) if text else None

    def share(self, *, heaviest: int, total: int, members: int, counted_on: int) -> Share:
        """Return what each site on a roster adds of the noise on a sum; see `swarm.masking.noise.share`.

        Raises:
            UsageError: there is no room for it.
        """
        assert self.site_noise is not None, "somebody has looked"
        return noise.share(
            bits=self.masks,
            heaviest=heaviest,
            total=total,
            members=members,
            clip_norm_milli=self.round.clip_norm_milli,
            elements=self.task.parameters,
            multiplier_milli=self.site_noise.multiplier_milli,
            counted_on=counted_on,
        )

    @cached_property
    def masked_bytes(self) -> int:
        """Size of a masked update, whoever is a member."""
        return self.ring(len(self.members)).size(self.task.parameters)

    @property
    def relayed(self) -> bool:
        """Whether links may go through other members, sealed, where neither end can be dialled."""
        return RELAY in dict(self.options)

    @cached_property
    def asynchronous(self) -> bool:
        """Whether a round closes as soon as `min_contributions` are in, whoever else is at work.

        Buffered asynchronous aggregation (Nguyen et al., "Federated learning with buffered asynchronous aggregation",
        2022, algorithm 1), with the ledger in the server's place: the buffer holds `min_contributions`, and what was
        learnt from an earlier model than the last weighs by `swarm.staleness`.
        """
        return ASYNCHRONOUS in dict(self.options)

    @cached_property
    def contribution(self) -> contribution.Policy | None:
        """How the worth of contributions is told; None if it is not."""
        text = dict(self.options).get(CONTRIBUTION, "")
        return contribution.parse(text, self.metrics) if text else None

    @cached_property
    def pace(self) -> int:
        """How many times the median site's time a round waits for one that moves; 0 if until the deadline."""
        text = dict(self.options).get(PACE, "")
        return pace.parse(text) if text else 0

    @cached_property
    def stop(self) -> stopping.Policy | None:
        """When the run is over before its last round; None if it never is."""
        text = dict(self.options).get(STOP, "")
        return stopping.parse(text, self.metrics) if text else None

    @cached_property
    def min_cell(self) -> int:
        """Of how many cases at least a site's scores are told; 0 if of any number."""
        text = dict(self.options).get(MIN_CELL, "")
        return disclosure.parse(text) if text else 0

    def tells_training(self, samples: int, own_cell: int = 0) -> bool:
        """Whether a site tells what its training measured, on so many samples. `own_cell` is its own `min_cell`.

        Those metrics follow from the same records as the update. Where that has a salt they would be a second name for
        it, in millionths, that has none; beside noise on sums they would say exactly what the noise is to hide.
        """
        enough = samples >= max(own_cell, self.min_cell)
        return enough and not self.salt and self.site_noise is None

    @cached_property
    def route(self) -> Route | None:
        """How exact mixing gets to the mean; None if every update goes to everybody."""
        name = dict(self.options).get(ROUTE, "")
        return parse_route(name, len(self.members)) if name else None

    @cached_property
    def cuts(self) -> tuple[tuple[int, int], ...]:
        """The ranges [start, end) of a model's elements in which updates travel; none if they travel whole."""
        return cuts(self.task.parameters, self.route.slices) if self.route and self.route.slices else ()

    def carries(self, body: Contribution) -> bool:
        """Whether an update may be of this size, or slices of these sizes. Their content tells the rest.

        In gossip under a coarse codec it is a message and the public copies before and after it, or a whole model.
        """
        if self.follows and body.slices:
            message, *copies = (size for _, size in body.slices)
            return copies == [self.model_bytes] * 2 and self._fits(message, self.task.parameters)
        if self.follows:
            return body.update_bytes == self.model_bytes
        if self.masks:
            return not body.slices and body.update_bytes == self.masked_bytes
        if not self.cuts:
            return not body.slices and self._fits(body.update_bytes, self.task.parameters)
        return len(body.slices) == len(self.cuts) and all(
            self._fits(size, end - start) for (_, size), (start, end) in zip(body.slices, self.cuts, strict=True)
        )

    @cached_property
    def averages(self) -> Spec | None:
        """How averaged slices are compressed; None if they are float32.

        No memory makes up for what is left out of them: whoever owns a slice may be another next time.
        """
        return self.codec if self.codec is not None and self.codec.name in AVERAGE_CODECS else None

    def average_bytes(self, number: int) -> int:
        """Return the size of an averaged slice."""
        start, end = self.cuts[number]
        return 4 * (end - start) if self.averages is None else encoded_bytes(self.averages, end - start)

    def moves(self, size: int) -> bool:
        """Whether a blob of this size may be what members fetch from one another: an outcome, or on the way to one."""
        if size == self.outcome_bytes:
            return True
        if self.masks:
            return size == self.masked_bytes or 0 < size <= DEAL_BYTES_MAX
        if any(size == 4 * length or self._fits(size, length) for length in self._lengths):
            return True
        return self.route is not None and self.route.name == FOLD and size == 8 * self.task.parameters

    @cached_property
    def _lengths(self) -> frozenset[int]:
        """In elements, of the model and of its slices: two of those at most."""
        return frozenset({self.task.parameters, *(end - start for start, end in self.cuts)})

    def _fits(self, size: int, elements: int) -> bool:
        spec, size = self.codec, size - self.salt
        if spec is None:
            return size == 4 * elements
        largest = encoded_bytes(spec, elements)
        return 0 < size <= largest if spec.permille else size == largest

    @property
    def quorum(self) -> int:
        """Members whose agreement makes something final."""
        return quorum(len(self.members))

    def index(self, node: NodeId) -> int | None:
        """Return a member's index, or None."""
        return self._indices.get(node)

    @cached_property
    def _indices(self) -> dict[NodeId, int]:
        # Of a member that is in there twice, which `check` refuses, the first counts.
        return {card.node: i for i, card in reversed(list(enumerate(self.members)))}

    def check(self) -> None:
        """Raise `UsageError` for the first term that cannot stand."""
        _check_members(self)
        _check_terms(self)
        check_edges(self.edges, self.members)
        if self.relayed:
            check_relays(self.edges, self.members)

    def fault_tolerance(self) -> str:
        """Say in words what the number of members can bear."""
        return tolerance_text(len(self.members))


def options_of(**chosen: str) -> tuple[tuple[str, str], ...]:
    """Return the options that are not empty, as a charter lists them."""
    return tuple((name, text) for name, text in sorted(chosen.items()) if text)


class SignedCharter(msgspec.Struct, frozen=True):
    """A charter and the founders' signatures, by member index."""

    charter: Charter
    signatures: Mapping[int, bytes]

    @property
    def ledger_id(self) -> bytes:
        """The id of the ledger this charter founds: SHA-256 of the genesis entry without signatures."""
        return self.genesis().id

    def missing(self) -> tuple[str, ...]:
        """Return the names of the founders that have not signed."""
        return tuple(card.name for i, card in enumerate(self.charter.members) if i not in self.signatures)

    def genesis(self) -> Entry:
        """Return entry 0. Its ledger id is zeros (it is what the id is made of); its author is nobody, being all."""
        signatures = codec.encode(tuple(sorted(self.signatures.items())))
        created = self.charter.created_ms
        return Entry(ENTRY_VERSION, CHARTER, NO_HASH, NO_AUTHOR, 0, NO_HASH, created, self.charter.encode(), signatures)

    def sign(self, member: identity.Identity) -> SignedCharter:
        """Return the charter with this founder's signature added."""
        index = self.charter.index(member.node)
        if index is None:
            raise UsageError(
                f"couldn't sign the charter of {self.charter.name!r}: this site's identity is not among its members",
                hint="send your card (swarm keygen prints its path) to whoever drafts the charter",
            )
        signature = member.id_key.sign(identity.DOMAIN_CHARTER + self.charter.encode())
        return SignedCharter(self.charter, {**self.signatures, index: signature})

    def void(self) -> tuple[str, ...]:
        """Return the names of the members whose signature is not one of these terms."""
        message = identity.DOMAIN_CHARTER + self.charter.encode()
        members = self.charter.members
        return tuple(
            members[i].name for i, s in self.signatures.items() if not identity.verify(members[i].id_key, message, s)
        )

    def check(self, *, complete: bool = True) -> None:
        """Check the terms and every signature; with `complete`, that none is missing.

        Raises:
            UsageError: a term cannot stand, or a signature is missing.
            LedgerError: a signature does not match the terms.
        """
        self.charter.check()
        if not all(0 <= index < len(self.charter.members) for index in self.signatures):
            raise LedgerError("couldn't accept the charter: a signature belongs to no member", hint=_SIGN_AGAIN)
        if void := self.void():
            message = f"couldn't accept the charter: the signature of {void[0]!r} does not match its terms"
            raise LedgerError(message, hint=_SIGN_AGAIN, identifier="SWARM-CHARTER-SIGNATURE")
        if complete and self.missing():
            raise UsageError(
                f"couldn't use the charter: not signed yet by {', '.join(self.missing())}",
                identifier="SWARM-CHARTER-UNSIGNED",
                hint="each founder runs `swarm charter sign`",
            )


def open_genesis(leaf: bytes) -> SignedCharter:
    """Return the signed charter of a ledger's entry 0. Raises `Reject`, `UsageError` or `LedgerError`."""
    entry = codec.decode(leaf, Entry, limit=ENTRY_BYTES_MAX)
    if entry.kind != CHARTER or entry.version != ENTRY_VERSION:
        raise Reject("couldn't read entry 0: it is not a charter")
    charter = codec.decode(entry.body, Charter, limit=ENTRY_BYTES_MAX)
    pairs = codec.decode(entry.signature, tuple[tuple[int, bytes], ...], limit=ENTRY_BYTES_MAX)
    signed = SignedCharter(charter, dict(pairs))
    signed.check()
    if signed.genesis() != entry:
        raise Reject("couldn't read entry 0: it is not in canonical form")
    return signed


def make_card(member: identity.Identity, *, name: str, endpoint: str, roles: Sequence[str] = ("train", "vote")) -> Card:
    """Return the proven card of an identity."""
    keys = (member.id_key, member.vote_key, member.cosign_key)
    id_key, vote_key, cosign_key = (key.public for key in keys)
    bare = Card(name, id_key, vote_key, cosign_key, member.curve_public, endpoint, tuple(roles), ())
    message = bare.signed_bytes()
    card = msgspec.structs.replace(bare, proof=tuple(key.sign(message) for key in keys))
    card.check()
    return card


# --- TOML -----------------------------------------------------------------------------------------------------


def to_toml(signed: SignedCharter) -> str:
    """Return the charter as text that `from_toml` reads back to the same bytes."""
    charter = signed.charter
    parts = [
        "# The terms of a swarm. Every founder signs exactly this; a changed value voids the signatures.\n",
        _table("swarm", {"version": charter.version, "name": charter.name, "created_ms": charter.created_ms}),
        _table("task", _fields(charter.task)),
        _table("round", _fields(charter.round)),
        _table("ledger", _fields(charter.ledger)),
        _table("share", {"metrics": charter.metrics, "edges": charter.edges, "options": charter.options}),
    ]
    if charter.predecessor:
        ledger_id, size, root = charter.predecessor[0]
        parts.append(_table("predecessor", {"ledger_id": ledger_id, "size": size, "root": root}))
    parts += [_table("[member]", _fields(card)) for card in charter.members]
    for index, signature in sorted(signed.signatures.items()):
        parts.append(_table("[signature]", {"member": charter.members[index].name, "signature": signature}))
    return "\n".join(parts)


def from_toml(text: str) -> SignedCharter:
    """Return the charter written in `text`. Raises `UsageError` naming what is missing, unknown or of another type."""
    data = _parse(text)
    swarm = _take(data, "swarm", "the charter")
    share = _take(data, "share", "the charter")
    before = data.pop("predecessor", None)
    tables = _tables(data, "member")
    signatures = _tables(data, "signature")
    charter = _struct(
        Charter,
        "the charter",
        {
            **swarm,
            "members": tuple(_struct(Card, "a member", table) for table in tables),
            "task": _struct(Task, "[task]", _take(data, "task", "the charter")),
            "round": _struct(RoundPolicy, "[round]", _take(data, "round", "the charter")),
            "ledger": _struct(LedgerPolicy, "[ledger]", _take(data, "ledger", "the charter")),
            **share,
            "predecessor": () if before is None else (_predecessor(before),),
        },
    )
    if data:
        raise UsageError(f"couldn't read the charter: unknown table {min(data)!r}", hint=_ASK_AGAIN)
    index = {card.name: i for i, card in enumerate(charter.members)}
    found: dict[int, bytes] = {}
    for table in signatures:
        name, signature = table.get("member"), table.get("signature")
        if (
            not isinstance(name, str)
            or name not in index
            or not isinstance(signature, str)
            or set(table) != {"member", "signature"}
        ):
            raise UsageError(
                f"couldn't read the charter: a signature names {name!r}, who is not a member", hint=_ASK_AGAIN
            )
        found[index[name]] = _bytes("a signature", signature)
    return SignedCharter(charter, found)


def card_to_toml(card: Card) -> str:
    """Return a card as text to send to whoever drafts the charter."""
    return "# A site's public card: keys and address, nothing secret.\n" + _table("card", _fields(card))


def card_from_toml(text: str) -> Card:
    """Return the checked card written in `text`. Raises `UsageError`."""
    data = _parse(text)
    card = _struct(Card, "a card", _take(data, "card", "the card"))
    card.check()
    return card


def _check_members(charter: Charter) -> None:
    members = charter.members
    if not 1 <= len(members) <= MEMBERS_MAX:
        message = f"couldn't accept the charter: {len(members)} members, 1 to {MEMBERS_MAX} are possible"
        raise UsageError(message, hint=_REDRAFT)
    for card in members:
        card.check()
    for what in ("name", "node", "vote_key", "cosign_key", "curve_key"):
        values = [getattr(card, what) for card in members]
        if len({*values}) != len(values):
            message = f"couldn't accept the charter: two members have the same {what.replace('_', ' ')}"
            raise UsageError(
                message, hint="name each site's own card once; a site that took a name in use makes a new card"
            )
    if charter.ledger.require_byzantine and faults(len(members)) < 1:
        raise UsageError(
            f"couldn't accept the charter: {_count(len(members), 'member')} cannot outvote a liar and it requires that",
            hint="that takes a fourth member; or draft it without require_byzantine and trust every member",
        )


def _check_terms(charter: Charter) -> None:
    task, ledger = charter.task, charter.ledger
    check_name("the swarm", charter.name)
    _text("the name of the task", task.name)
    _check_ranges(
        ("version", charter.version, CHARTER_VERSION, CHARTER_VERSION),
        ("created_ms", charter.created_ms, 0, 2**62),
        ("parameters", task.parameters, 1, PARAMETERS_MAX),
        ("seed", task.seed, 0, 2**32 - 1),
        ("max_skew_ms", ledger.max_skew_ms, 1_000, 86_400_000),
        ("t0_ms", ledger.t0_ms, 100, 300_000),
    )
    options = dict(charter.options)
    check_policy(charter.round, len(charter.members), charter.rule, masked=MASKS in options, salted=SALT in options)
    _check_choices(("evidence", ledger.evidence, ("record",)))
    digests = (("task.digest", task.digest), ("task.layout", task.layout), ("initial_model", task.initial_model))
    for what, digest in digests:
        if len(digest) != 32:
            raise UsageError(f"couldn't accept the charter: {what} is not a digest of 32 bytes", hint=_REDRAFT)
    if len(charter.metrics) > METRICS_MAX or len({*charter.metrics}) != len(charter.metrics):
        message = f"couldn't accept the charter: metrics must be at most {METRICS_MAX} different names"
        raise UsageError(message, hint=_REDRAFT)
    for metric in charter.metrics:
        check_name("a metric", metric)
    for ledger_id, size, root in charter.predecessor:
        if len(charter.predecessor) > 1 or len(ledger_id) != 32 or len(root) != 32 or not 0 < size < 2**62:
            message = "couldn't accept the charter: its predecessor is not one ledger id, size and root"
            raise UsageError(message, hint=_REDRAFT)
    _check_options(charter)


def _check_options(charter: Charter) -> None:
    names = [name for name, _ in charter.options]
    for name in names:
        if name not in OPTIONS:
            message = f"couldn't accept the charter: unknown option {name!r}"
            raise UsageError(message, hint="a newer version of this software may have made it")
    if sorted({*names}) != names:
        raise UsageError("couldn't accept the charter: its options are repeated or out of order", hint=_REDRAFT)
    gossips = charter.round.mixing == "gossip"
    if gossips != bool(_SCHEDULE_NAME.fullmatch(charter.schedule)) or (SCHEDULE in names and not gossips):
        what = "one schedule, such as base2" if gossips else f"no schedule with {charter.round.mixing} mixing"
        raise UsageError(f"couldn't accept the charter: there must be {what}", hint=_REDRAFT)
    if gossips and charter.round.outer != "none":
        raise UsageError(
            f"couldn't accept the charter: gossip has no common step that outer = {charter.round.outer!r} could take",
            hint="mix exactly, or leave the outer optimiser out; --correction qg is a momentum for gossip",
        )
    if BUFFERS in names:
        _check_buffers(charter, dict(charter.options)[BUFFERS])
    if charter.directed and not gossips:
        raise UsageError("couldn't accept the charter: links of one way are for gossip", hint=_REDRAFT)
    if charter.directed:
        _check_arcs(charter, dict(charter.options)[LINKS])
    if CORRECTION in names:
        corrections.parse(dict(charter.options)[CORRECTION])
    if CORRECTION in names and not gossips:
        raise UsageError(
            "couldn't accept the charter: a correction is for gossip; in exact mixing all sites go on from one model",
            hint="leave the correction out, or mix by gossip",
        )
    if charter.tracks:
        _check_tracking(charter)
    if LOCAL in names:
        _check_local(charter)
    if CLIP in names:
        _check_clip(charter, selfcentred.parse(dict(charter.options)[CLIP]))
    if RULE in names:
        _check_rule(charter, rules.parse(dict(charter.options)[RULE]))
    if STALENESS in names:
        staleness.parse(dict(charter.options)[STALENESS])
    if STALENESS in names and gossips:
        raise UsageError(
            "couldn't accept the charter: late work counts in exact mixing; in gossip a late site makes up for it",
            hint="leave the staleness out, or mix exactly",
        )
    if ASYNCHRONOUS in names:
        _check_asynchronous(charter, dict(charter.options)[ASYNCHRONOUS])
    if PACE in names:
        pace.parse(dict(charter.options)[PACE])
    if PACE in names and STALENESS not in names:
        raise UsageError(
            "couldn't accept the charter: with a pace slow sites are left out of rounds, so late work must count",
            hint="say for how many rounds (--staleness), or leave the pace out",
        )
    if CODEC in names:
        _check_codec(charter, dict(charter.options)[CODEC])
    if CONTRIBUTION in names:
        _check_contribution(charter)
    if STOP in names:
        _check_stop(charter, stopping.parse(dict(charter.options)[STOP], charter.metrics))
    if GAMMA in names:
        _check_gamma(charter, dict(charter.options)[GAMMA])
    if MIN_CELL in names:
        disclosure.parse(dict(charter.options)[MIN_CELL])
    if PRIVACY in names:
        accounting.parse(dict(charter.options)[PRIVACY])
    if RELAY in names and dict(charter.options)[RELAY] not in RELAYS:
        message = f"couldn't accept the charter: relay = {dict(charter.options)[RELAY]!r}"
        raise UsageError(
            message, hint="a newer version of this software may have made it; here a relay is sealed or none"
        )
    if ROUTE in names:
        _check_route(charter, parse_route(dict(charter.options)[ROUTE], len(charter.members)))
    if MASKS in names:
        _check_masks(charter, dict(charter.options)[MASKS])
    if SALT in names:
        _check_salt(charter, dict(charter.options)[SALT])
    if SITE_NOISE in names:
        _check_site_noise(charter, site_noise.parse(dict(charter.options)[SITE_NOISE]))


def _check_tracking(charter: Charter) -> None:
    """Refuse what takes something out of the sum of all corrections: it has to stay zero, or all rest elsewhere."""
    named = "couldn't accept the charter: correction = gt"
    if charter.directed:
        raise UsageError(
            f"{named} where links go one way: what a site takes and what it gives are not the same there",
            hint="let links go both ways, or take qg",
        )
    if charter.clip:
        raise UsageError(
            f"{named} with a clip, by which a site takes less of a model than it gives of its own",
            hint="leave one of the two out, or take qg",
        )
    if charter.follows:
        raise UsageError(
            f"{named} under the codec {charter.codec}, whose errors the corrections would add up",
            hint="take the codec bf16, or none, or qg",
        )


def _check_buffers(charter: Charter, text: str) -> None:
    """Refuse stretches that mean nothing: FedAvg averages all of a model anyway."""
    if not charter.outer.slots:
        raise UsageError(
            "couldn't accept the charter: it says where the model's buffers lie, and its outer optimiser is none",
            hint="leave the buffers out",
        )
    parse_buffers(text, charter.task.parameters)


def _check_local(charter: Charter) -> None:
    """Refuse a correction of drift where nothing says how far the swarm's model moves by the mean of its sites."""
    found = local.parse(charter.local)
    if found.name == local.SCAFFOLD and charter.round.mixing != "exact":
        raise UsageError(
            "couldn't accept the charter: local = scaffold with gossip, where there is no model of the swarm to go by",
            hint="take --correction qg there, or mix exactly",
        )
    if found.name == local.SCAFFOLD and charter.round.outer != "none":
        raise UsageError(
            f"couldn't accept the charter: local = scaffold with outer = {charter.round.outer!r}, by which the model"
            " does not move by the mean of the updates",
            hint="leave one of the two out",
        )
    if found.name == local.SCAFFOLD and RULE in dict(charter.options):
        raise UsageError(
            "couldn't accept the charter: local = scaffold with a rule, by which the model does not move by the mean of"
            " the updates",
            hint="leave one of the two out",
        )


def _check_clip(charter: Charter, permille: int) -> None:
    """Refuse what clipping cannot stand with: it compares the models of partners, who take each other's."""
    named = f"couldn't accept the charter: clip = {permille}"
    if charter.round.mixing != "gossip":
        raise UsageError(
            f"{named} with {charter.round.mixing} mixing, where updates are clipped to the charter's norm anyway",
            hint="leave the clip out, take a rule for more (--rule), or mix by gossip",
        )
    if charter.directed:
        raise UsageError(
            f"{named} where links go one way: what a site does not take of a model it was given would be lost to the"
            " mean",
            hint="let links go both ways, or leave the clip out",
        )
    if charter.follows:
        raise UsageError(
            f"{named} under the codec {charter.codec}, where public copies meet and not models",
            hint="take the codec bf16, or none",
        )
    if charter.round.min_contributions < CLIP_ENDING.least:
        raise UsageError(
            f"{named}, and a round may close with {charter.round.min_contributions} contributions: the last one is"
            f" averaged by {CLIP_ENDING}, which takes {CLIP_ENDING.least}",
            hint=f"let rounds wait for {CLIP_ENDING.least} (--min-contributions)",
        )


def _check_rule(charter: Charter, rule: rules.Rule) -> None:
    """Refuse what a rule cannot stand with: it compares all updates of one round, each of which counts as one."""
    named, names = f"couldn't accept the charter: rule = {str(rule)!r}", [name for name, _ in charter.options]
    if rule.name == rules.KRUM:
        raise UsageError(
            f"{named} makes one site's update everybody's, so that all others learn for nothing",
            hint=f"take multikrum:{rule.liars}, which averages all but {rule.liars}",
        )
    if charter.round.mixing != "exact":
        raise UsageError(
            f"{named} with gossip mixing, where nobody sees all updates", hint="mix exactly, or leave the rule out"
        )
    if ROUTE in names:
        raise UsageError(
            f"{named} with a route on which nobody sees whole updates", hint="go by spread, or leave the rule out"
        )
    if ASYNCHRONOUS in names or STALENESS in names:
        raise UsageError(
            f"{named}, and late work is to count: it starts from another model, so it cannot be compared with the"
            " others', and a rule has no way to let it count for less",
            hint="let no late work count (--staleness 0), wait for the sites, and leave a pace out; or leave the rule"
            " out",
        )
    if charter.codec is not None and charter.codec.name not in RULE_CODECS:
        raise UsageError(
            f"{named} under the codec {charter.codec}: what that leaves out of an update comes in a later one, and the"
            " rule would take honest sites for liars",
            hint=f"take {' or '.join(RULE_CODECS)}, or leave one of the two out",
        )


def _check_asynchronous(charter: Charter, text: str) -> None:
    """Refuse what would lose the work of all but the quickest, or has rounds that partners meet in."""
    _check_choices((ASYNCHRONOUS, text, (BUFFERED,)))
    if charter.round.mixing != "exact":
        raise UsageError(
            "couldn't accept the charter: asynchronous with gossip mixing, where partners meet in rounds",
            hint="mix exactly, or leave asynchronous out",
        )
    if not charter.staleness:
        raise UsageError(
            "couldn't accept the charter: asynchronous, and late work does not count: only the quickest sites would",
            hint="say for how many rounds it counts, with --staleness",
        )
    if charter.pace:
        raise UsageError(
            "couldn't accept the charter: asynchronous with a pace, and nobody is waited for",
            hint="leave one of the two out",
        )


def _check_stop(charter: Charter, policy: stopping.Policy) -> None:
    """Refuse to compare rounds that most members do not evaluate: without waiting they are over before."""
    if charter.asynchronous:
        raise UsageError(
            f"couldn't accept the charter: stop by {policy.metric} and asynchronous, where a round is over before most"
            " members have evaluated the one before it",
            hint="wait for everybody, or let all rounds be learned",
        )


def _check_contribution(charter: Charter) -> None:
    """Refuse to have judged what no member has: all updates of a round, each by itself."""
    policy = contribution.parse(dict(charter.options)[CONTRIBUTION], charter.metrics)
    if policy.judged and charter.round.mixing != "exact":
        raise UsageError(
            f"couldn't accept the charter: contribution = {policy.text!r} with {charter.round.mixing} mixing, where no"
            " member has what all others made",
            hint="mix exactly, or let shares follow from size",
        )
    if policy.judged and charter.asynchronous:
        raise UsageError(
            f"couldn't accept the charter: contribution = {policy.text!r} and asynchronous, where a round is the work"
            " of a few and is over before the others have judged it",
            hint="wait for everybody, or let shares follow from size",
        )
    if policy.judged and ROUTE in dict(charter.options):
        raise UsageError(
            f"couldn't accept the charter: contribution = {policy.text!r} with a route, on which no member has what all"
            " others made",
            hint="leave the route out, so that updates go to everybody, or let shares follow from size",
        )


def _check_route(charter: Charter, route: Route) -> None:
    """A part goes straight from who computed it to who needs it: there is nobody in between who wants it."""
    if charter.round.mixing != "exact":
        message = f"couldn't accept the charter: route = {route.name!r} with {charter.round.mixing} mixing"
        raise UsageError(message, hint="gossip goes by its schedule; leave the route out")
    if charter.edges or (sum(not card.endpoint for card in charter.members) > 1 and not charter.relayed):
        raise UsageError(
            f"couldn't accept the charter: on the {route.name} route everybody must reach everybody",
            hint="leave out its links, and give all members but one an endpoint, or let members relay (--relay);"
            " or go by spread, which needs neither",
        )
    if route.slices > charter.task.parameters:
        raise UsageError(
            f"couldn't accept the charter: {charter.task.parameters} parameters in {route.slices} slices",
            hint="a model this small goes by spread; leave the route out",
        )


def _check_masks(charter: Charter, text: str) -> None:
    """Refuse what looks at single updates, of which nobody has any, and what masks would not cancel in."""
    ring.parse(text)
    named, names = f"couldn't accept the charter: masks = {text!r}", [name for name, _ in charter.options]
    if charter.round.mixing != "exact":
        raise UsageError(
            f"{named} with {charter.round.mixing} mixing, where sums over neighbourhoods that overlap can be solved for"
            " single models",
            hint="mix exactly, or leave the masks out",
        )
    if RULE in names:
        raise UsageError(
            f"{named} with a rule, which compares single updates, and of those nobody sees any",
            hint="leave one of the two out: masks where sites are curious, a rule where they may lie",
        )
    if charter.contribution is not None and charter.contribution.judged:
        raise UsageError(
            f"{named} with contribution = {charter.contribution.text!r}, which judges single updates, and of those"
            " nobody sees any",
            hint="let shares follow from size, or leave the masks out",
        )
    if ASYNCHRONOUS in names:
        raise UsageError(
            f"{named} and asynchronous, where a round is over without those that a mask needs",
            hint="wait for the sites, or leave the masks out",
        )
    if CODEC in names:
        raise UsageError(
            f"{named} under the codec {charter.codec}, whose messages do not add up",
            hint="leave the codec out: masks of 32 bits (pairwise:32) take as many bytes as plain updates",
        )
    if ROUTE in names:
        raise UsageError(
            f"{named} with a route, on which masked updates cannot go yet", hint="go by spread, or leave the masks out"
        )


def _check_salt(charter: Charter, text: str) -> None:
    """Refuse what has the ledger confirm a guess of an update by something else than its name."""
    salt.parse(text)
    named = f"couldn't accept the charter: salt = {text!r}"
    if charter.round.mixing != "exact":
        raise UsageError(
            f"{named} with {charter.round.mixing} mixing, where the sketch of each model on the ledger confirms a guess"
            " anyway",
            hint="mix exactly, or leave the salt out",
        )
    if charter.masks:
        raise UsageError(
            f"{named} with masks, under which what a site trained has no name on the ledger",
            hint="leave the salt out: masks hide more",
        )
    if charter.cuts:
        raise UsageError(
            f"{named} on the {SHARDED} route, where how much of the norm bound each slice takes is on the ledger, which"
            " confirms a guess anyway",
            hint="go by spread or fold, or leave the salt out",
        )
    if charter.codec is not None and charter.codec.permille:
        raise UsageError(
            f"{named} under the codec {charter.codec}, whose messages are as long as what is in them has it: their"
            " sizes are on the ledger, and speak for or against a guess",
            hint="take a codec of one size, such as int8, or leave the salt out",
        )


def _check_site_noise(charter: Charter, found: SiteNoise) -> None:
    """Refuse noise that is on no sum, or that there is no room for, or of too few sites, or that pays no round."""
    named = f"couldn't accept the charter: site_noise = {found.text!r}"
    if charter.round.mixing != "exact":
        raise UsageError(
            f"{named} with {charter.round.mixing} mixing, where neighbours see each site's model and not a sum: what"
            " noise on sums promises would hold for nobody",
            hint="mix exactly, with masks; or let sites train privately, each by itself (--privacy)",
        )
    if not charter.masks:
        raise UsageError(
            f"{named} without masks: everybody would see each update with a small share of the noise on it",
            hint="let updates travel masked (--masks pairwise), or let sites train privately (--privacy)",
        )
    if charter.masks == max(ring.WIDTHS):
        raise UsageError(
            f"{named} with masks of {charter.masks} bits, which are for sums in which nothing is rounded, and noise is"
            " larger than any rounding",
            hint="take masks of 36 bits (pairwise)",
        )
    members = len(charter.members)
    least = noise.silent(members) + noise.COUNTED_ON_MIN
    if charter.round.min_contributions < least:
        raise UsageError(
            f"{named}: a round may close with {charter.round.min_contributions} contributions, and"
            f" {_count(noise.silent(members), 'site')} may add no noise or know it",
            hint=f"let rounds wait for {least} sites at least (--min-contributions)",
        )
    if not found.sums:
        raise UsageError(
            f"{named}: one round would cost more than {found.budget}",
            hint="take more noise, or agree on a larger epsilon; --site-privacy works it out",
        )
    # With the most weight that one site can have, and the fewest to share the noise.
    total = ring.weight_total(charter.masks, members)
    heaviest = min(total - members + 1, total * charter.round.weight_cap_ppm // PPM + 1)
    charter.share(heaviest=heaviest, total=total, members=members, counted_on=noise.COUNTED_ON_MIN)


def _check_arcs(charter: Charter, text: str) -> None:
    """Refuse links of one way that are no text of their kind, that no link carries, or that do not reach everybody."""
    arcs = charter.arcs
    if text != "directed" and (not arcs or sorted({*arcs}) != [*arcs] or charter.schedule != OWN_LINKS):
        raise UsageError(
            f"couldn't accept the charter: links = {text[:60]!r}, it must be directed, or with the schedule {OWN_LINKS}"
            " who gives to whom, in order",
            hint=_REDRAFT,
        )
    n = len(charter.members)
    for a, b in arcs:
        pair = (min(a, b), max(a, b))
        if a == b or not 0 <= pair[0] <= pair[1] < n or (charter.edges and pair not in charter.edges):
            raise UsageError(f"couldn't accept the charter: no link leads from member {a} to {b}", hint=_REDRAFT)
    first = charter.members[0].name
    for giver, taker in ((0, 1), (1, 0)) if arcs else ():
        seen, frontier = {0}, [0]
        while frontier:
            here = frontier.pop()
            fresh = {arc[taker] for arc in arcs if arc[giver] == here} - seen
            seen |= fresh
            frontier += sorted(fresh)
        if len(seen) < n:
            lonely = next(card.name for i, card in enumerate(charter.members) if i not in seen)
            one, other = (first, lonely) if giver == 0 else (lonely, first)
            raise UsageError(
                f"couldn't accept the charter: nothing that {one!r} gives ever reaches {other!r}",
                hint="let every site be reached from every other along the directions",
            )


def _check_codec(charter: Charter, name: str) -> None:
    if parse(name).name not in CODECS:
        raise UsageError(
            f"couldn't accept the charter: codec = {name!r} with {charter.round.mixing} mixing, known are "
            f"{', '.join(CODECS)}",
            hint=_REDRAFT,
        )
    if charter.follows and charter.directed:
        raise UsageError(
            f"couldn't accept the charter: codec = {name!r} where links go one way, and what a site leaves out of its"
            " messages would never come to those that it takes from",
            hint="take the codec bf16, or let links go both ways",
        )


def _check_gamma(charter: Charter, text: str) -> None:
    if not charter.follows:
        raise UsageError(
            "couldn't accept the charter: gamma is for gossip under int8, int4, sign or topk; elsewhere it is 1",
            hint="leave gamma out, or choose such a codec",
        )
    if not _GAMMA.fullmatch(text):
        raise UsageError(
            f"couldn't accept the charter: gamma = {text[:20]!r}",
            hint="write a number above 0, at most 1, in at most four decimals, such as 0.3",
        )


def _check_ranges(*ranges: tuple[str, int, int, int]) -> None:
    for what, value, low, high in ranges:
        if not low <= value <= high:
            raise UsageError(
                f"couldn't accept the charter: {what} = {value}, it must be {low} to {high}", hint=_REDRAFT
            )


def _check_choices(*choices: tuple[str, str, tuple[str, ...]]) -> None:
    for what, text, known in choices:
        if text not in known:
            raise UsageError(
                f"couldn't accept the charter: {what} = {text!r}, known are {', '.join(known)}", hint=_REDRAFT
            )


def check_policy(
    policy: RoundPolicy, members: int, rule: rules.Rule | None = None, *, masked: bool = False, salted: bool = False
) -> None:
    """Raise `UsageError` for the first term of a round policy that cannot stand with that many members.

    Nor with a rule, or where updates are `masked` or `salted`.
    """
    if masked and members < FEWEST:
        raise UsageError(
            f"couldn't accept the charter: masks with {_count(members, 'member')}, and a sum of two tells each of them"
            " what the other's update is",
            hint="leave the masks out, or find a third",
        )
    if masked and policy.min_contributions < FEWEST:
        raise UsageError(
            f"couldn't accept the charter: with masks a round may close with {policy.min_contributions} contributions,"
            " and a sum of two tells each of them what the other's update is",
            hint=f"let rounds wait for {FEWEST} sites at least (--min-contributions)",
        )
    if salted and policy.min_contributions < SALTED_LEAST:
        raise UsageError(
            f"couldn't accept the charter: with a salt a round may close with {policy.min_contributions} contribution,"
            " and the model that it ends with, whose name has no salt, is what that one update makes",
            hint=f"let rounds wait for {SALTED_LEAST} sites at least (--min-contributions), or leave the salt out",
        )
    _check_ranges(
        ("rounds", policy.rounds, 1, ROUNDS_MAX),
        ("min_contributions", policy.min_contributions, 1, members),
        ("deadline_ms", policy.deadline_ms, 1_000, 30 * 86_400_000),
        ("patience_ms", policy.patience_ms, 500, policy.deadline_ms),
        ("clip_norm_milli", policy.clip_norm_milli, 1, CLIP_NORM_MILLI_MAX),
        ("weight_cap_ppm", policy.weight_cap_ppm, 1, 1_000_000),
    )
    _check_choices(("mixing", policy.mixing, MIXINGS))
    parse_outer(policy.outer)
    if rule is not None and policy.min_contributions < rule.least:
        raise UsageError(
            f"couldn't accept the charter: a round may close with {policy.min_contributions} contributions, and the"
            f" rule {rule} takes {rule.least}",
            hint=f"let rounds wait for {rule.least} (--min-contributions), or take a rule for fewer liars",
        )
    if rule is not None and policy.weight_cap_ppm != PPM:
        raise UsageError(
            f"couldn't accept the charter: the rule {rule} with a weight cap, and under a rule every update counts as"
            " one, whatever samples it claims",
            hint="leave the weight cap out",
        )
    if rule is not None and members > rules.MEMBERS_MAX:
        raise UsageError(
            f"couldn't accept the charter: a rule with {members} members, {rules.MEMBERS_MAX} are possible",
            hint="leave the rule out",
        )


def check_edges(edges: tuple[tuple[int, int], ...], members: Sequence[Card]) -> None:
    """Raise `UsageError` unless every site can be reached from every other, over links one end of which can be dialled.

    `edges` are ascending index pairs; none means everyone with everyone.
    """
    n = len(members)
    for a, b in edges:
        if not 0 <= a < b < n:
            message = f"couldn't accept the charter: link ({a}, {b}) is not an ascending pair of members"
            raise UsageError(message, hint=_REDRAFT)
    if tuple(sorted({*edges})) != edges:
        raise UsageError("couldn't accept the charter: its links are not sorted and unique", hint=_REDRAFT)
    links = edges or tuple((a, b) for b in range(n) for a in range(b))
    usable: dict[int, list[int]] = {i: [] for i in range(n)}
    for a, b in links:
        if members[a].endpoint or members[b].endpoint:
            usable[a].append(b)
            usable[b].append(a)
    seen, frontier = {0}, [0]
    while frontier:
        fresh = [j for j in usable[frontier.pop()] if j not in seen]
        seen.update(fresh)
        frontier.extend(fresh)
    if len(seen) < n:
        lonely = next(card.name for i, card in enumerate(members) if i not in seen)
        raise UsageError(
            f"couldn't accept the charter: no chain of links leads to {lonely!r}",
            hint="give it an endpoint, or a neighbour that has one: of two linked sites at least one must be dialable",
        )


def check_relays(edges: tuple[tuple[int, int], ...], members: Sequence[Card]) -> None:
    """Raise `UsageError` if two members that both only dial out are to be linked and nobody can relay between them.

    Whoever does has an endpoint and a link to both. `edges` as for `check_edges`, which comes first.
    """
    heard: dict[int, set[int]] = {i: set() for i in range(len(members))}
    for a, b in edges:
        if members[a].endpoint:
            heard[b].add(a)
        if members[b].endpoint:
            heard[a].add(b)
    for a, b in edges:  # Without any everybody is linked to everybody, and so to whoever has an endpoint.
        if not (members[a].endpoint or members[b].endpoint or heard[a] & heard[b]):
            raise UsageError(
                f"couldn't accept the charter: {members[a].name} and {members[b].name} are linked, both dial out only,"
                " and nobody can relay between them",
                hint="link both to one member that has an endpoint, or take the link out",
            )


def tolerance_text(members: int) -> str:
    """Say in words what a number of members can bear."""
    n, f = members, faults(members)
    silent = n - quorum(n)
    return f"{_count(n, 'member')}: goes on with {_count(silent, 'site')} silent, tolerates {_count(f, 'liar')}"


def check_name(what: str, name: str) -> None:
    """Raise `UsageError` unless a name is one that a charter or a card may hold; `what` it is the name of."""
    if not (
        0 < len(name) <= NAME_CHARACTERS_MAX and name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    ):
        raise UsageError(
            f"couldn't accept {name!r} as the name of {what}",
            hint=f"use letters, digits, - and _, at most {NAME_CHARACTERS_MAX} characters",
        )


def _text(what: str, text: str) -> None:
    """Refuse what has no canonical bytes, or would not stand on one line of a TOML file."""
    if len(text) > TEXT_CHARACTERS_MAX or not (text.isprintable() and unicodedata.is_normalized("NFC", text)):
        raise UsageError(
            f"couldn't accept {what}: {text[:60]!r}",
            hint=f"use printable characters in Unicode normal form C, at most {TEXT_CHARACTERS_MAX}",
        )


def _count(n: int, noun: str) -> str:
    return f"{n or 'no'} {noun}{'' if n == 1 else 's'}"


def _parse(text: str) -> dict[str, object]:
    try:
        return toml.loads(text)
    except ValueError as error:
        message = f"couldn't read the TOML: {' '.join(str(error).split())}"
        raise UsageError(message, hint="ask for the file again, or mend the line it names") from None


def _take(data: dict[str, object], key: str, where: str) -> dict[str, object]:
    value = data.pop(key, None)
    if not isinstance(value, dict):
        hint = "name the file card.toml of a site" if key == "card" else _ASK_AGAIN
        raise UsageError(f"couldn't read {where}: the table [{key}] is missing", hint=hint)
    return value


def _tables(data: dict[str, object], key: str) -> list[dict[str, object]]:
    value = data.pop(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise UsageError(f"couldn't read the charter: {key} must be written as [[{key}]] tables", hint=_ASK_AGAIN)
    return value


def _struct(type_: type[T], where: str, table: Mapping[str, object]) -> T:
    """Build a wire struct from a TOML table: digests and keys are hex there."""
    fields = msgspec.structs.fields(type_)  # type: ignore[arg-type]
    names = [field.name for field in fields]
    unknown = sorted(set(table) - set(names))
    absent = [name for name in names if name not in table]
    if unknown or absent:
        what = f"unknown key {unknown[0]!r}" if unknown else f"{absent[0]!r} is missing"
        raise UsageError(f"couldn't read {where}: {what}", hint=_ASK_AGAIN)
    return type_(*(_convert(where, field.name, field.type, table[field.name]) for field in fields))


def _convert(where: str, name: str, type_: object, value: object) -> object:
    try:
        return msgspec.convert(_plain(where, name, type_, value), type_, strict=True, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        wrong, _, _ = str(error).partition(" - at ")
        raise UsageError(f"couldn't read {where}: {name}: {wrong[:1].lower()}{wrong[1:]}", hint=_ASK_AGAIN) from None


def _plain(where: str, name: str, type_: object, value: object) -> object:
    """Turn a TOML value into what the canonical codec would have decoded."""
    if type_ is bytes:
        return _bytes(f"{where}, {name}", value)
    if name == "proof" and isinstance(value, list):
        return tuple(_bytes(f"{where}, {name}", item) for item in value)
    return msgspec.to_builtins(value, builtin_types=(bytes,))


def _bytes(what: str, value: object) -> bytes:
    try:
        return bytes.fromhex(str(value))
    except ValueError:
        raise UsageError(f"couldn't read {what}: {value!r} is not hexadecimal", hint=_ASK_AGAIN) from None


def _predecessor(table: object) -> tuple[bytes, int, bytes]:
    if not isinstance(table, dict) or set(table) != {"ledger_id", "size", "root"} or not isinstance(table["size"], int):
        raise UsageError("couldn't read [predecessor]: it needs ledger_id, size and root", hint=_ASK_AGAIN)
    return _bytes("ledger_id", table["ledger_id"]), table["size"], _bytes("root", table["root"])


def _fields(value: msgspec.Struct) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__struct_fields__}


def _table(name: str, values: Mapping[str, object]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case bytes():
            return f'"{value.hex()}"'
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case tuple() | list():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case _:
            raise TypeError(f"{type(value).__name__} has no place in a charter")

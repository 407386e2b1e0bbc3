"""Blocks, votes and certificates: the bytes that agreement is about.

A header has a fixed binary layout, so that its hash is the hash of exactly one byte string. A vote signs 102 bytes of
another fixed layout. What is variable (entries, justification, certificates) is canonical MessagePack and is bound by
hashes in the header. This module knows how these are written and signed, not when they are valid: see
`swarm.ledger.consensus` for the rules and `swarm.ledger.state` for what a block may contain.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec

from swarm import codec, identity
from swarm.errors import Reject

HASH_BYTES = 32
NO_HASH = bytes(HASH_BYTES)

NOTARIZE = 1
SKIP = 2
FINALIZE = 3
VOTE_KINDS = (NOTARIZE, SKIP, FINALIZE)
VOTE_NAMES = {NOTARIZE: "notarize", SKIP: "skip", FINALIZE: "finalize"}

MEMBERS_MAX = 1000
"""Most members of one epoch. A certificate of 1,000 signers is 64 KB and still fits a control frame."""

BLOCK_LEAVES_MAX = 4096
"""Most entries in one block: four per member of the largest swarm."""

BLOCK_BYTES_MAX = 768 * 1024
"""Largest block, entries and justification together, so that a proposal fits the 1 MiB control frame."""

_HEADER = struct.Struct(">QQQ32sQQQIQ32s32s32s32s")
_HEADER_DOMAIN = b"swarm-ledger/header/v1\0"
_VOTE = struct.Struct(">QQB32s")


@dataclass(frozen=True)
class Header:
    """The fixed part of a block. `root` is the RFC 6962 root after this block's leaves: every block is a checkpoint.

    Counts are in entries, `time_ms` in milliseconds since the Unix epoch, hashes 32 bytes of SHA-256.
    """

    epoch: int
    view: int
    height: int
    parent_hash: bytes
    parent_view: int
    time_ms: int
    first_index: int
    count: int
    size: int
    root: bytes
    entries_hash: bytes
    state_hash: bytes
    justify_hash: bytes

    def encode(self) -> bytes:
        """Return the 220-byte layout, big-endian, fields in declaration order."""
        return _HEADER.pack(
            self.epoch,
            self.view,
            self.height,
            self.parent_hash,
            self.parent_view,
            self.time_ms,
            self.first_index,
            self.count,
            self.size,
            self.root,
            self.entries_hash,
            self.state_hash,
            self.justify_hash,
        )

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Return the header; raises `Reject` unless `data` has exactly the layout's length."""
        if len(data) != _HEADER.size:
            raise Reject(f"couldn't read a block header: {len(data)} bytes, {_HEADER.size} needed")
        return cls(*_HEADER.unpack(data))

    @cached_property
    def hash(self) -> bytes:
        """The block's name, which votes sign."""
        return hashlib.sha256(_HEADER_DOMAIN + self.encode()).digest()


@dataclass(frozen=True, slots=True)
class Root:
    """What an epoch begins on: the last block of the one before, or the ledger's id in view 0 at height 0."""

    hash: bytes
    view: int
    height: int


class Vote(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One member's signed statement about one view. `block` is all zeros in a skip vote."""

    epoch: int
    view: int
    kind: int
    block: bytes
    signer: int
    signature: bytes

    def check(self) -> None:
        """Raise `Reject` unless the fields are in range; says nothing about the signature."""
        if not (0 <= self.epoch < 2**63 and 0 < self.view < 2**63 and self.kind in VOTE_KINDS):
            raise Reject("couldn't accept a vote: epoch, view or kind out of range")
        if len(self.block) != HASH_BYTES or (self.kind == SKIP) != (self.block == NO_HASH):
            raise Reject("couldn't accept a vote: it names no block, or a skip names one")
        if not 0 <= self.signer < MEMBERS_MAX:
            raise Reject("couldn't accept a vote: the signer's index is out of range")


def vote_message(ledger_id: bytes, epoch: int, view: int, kind: int, block: bytes) -> bytes:
    """Return the 102 bytes that a vote signs."""
    return identity.DOMAIN_VOTE + ledger_id + _VOTE.pack(epoch, view, kind, block)


class Certificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A quorum's votes for one statement: signer indices in ascending order, and their signatures in that order."""

    epoch: int
    view: int
    kind: int
    block: bytes
    signers: tuple[int, ...]
    signatures: tuple[bytes, ...]

    def check(
        self,
        ledger_id: bytes,
        vote_keys: Sequence[bytes],
        quorum: int,
        verify: Callable[[bytes, bytes, bytes], bool] = identity.verify,
    ) -> None:
        """Raise `Reject` unless at least `quorum` distinct members of the epoch validly signed (invariant I7)."""
        named = f"a {VOTE_NAMES.get(self.kind, 'nameless')} certificate of view {self.view}"
        if len(self.signers) != len(self.signatures) or len(self.signers) < quorum:
            raise Reject(f"couldn't accept {named}: {len(self.signers)} signers, {quorum} needed")
        if any(a >= b for a, b in zip(self.signers, self.signers[1:], strict=False)):
            raise Reject(f"couldn't accept {named}: signers are not in ascending order")
        if self.signers[0] < 0 or self.signers[-1] >= len(vote_keys):
            raise Reject(f"couldn't accept {named}: a signer is not a member")
        Vote(self.epoch, self.view, self.kind, self.block, 0, b"").check()
        message = vote_message(ledger_id, self.epoch, self.view, self.kind, self.block)
        for signer, signature in zip(self.signers, self.signatures, strict=True):
            if not verify(vote_keys[signer], message, signature):
                raise Reject(f"couldn't accept {named}: the signature of member {signer} does not verify")


class Block(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A proposed or final block: header, whole entries, the certificates of its right to extend its parent, its leader.

    `justify` holds the parent's notarize certificate (absent for the first block) followed by the skip certificates of
    the views jumped over, ascending. `signature` is the leader's, over `propose_message`.
    """

    header: bytes
    leaves: tuple[bytes, ...]
    justify: tuple[Certificate, ...]
    proposer: int
    signature: bytes

    def opened(self) -> Header:
        """Return the decoded header after checking that it commits to this body. Raises `Reject`."""
        header = Header.decode(self.header)
        if header.count != len(self.leaves) or header.count > BLOCK_LEAVES_MAX:
            raise Reject(f"couldn't accept block {header.height}: it does not hold the entries it counts")
        if header.entries_hash != entries_hash(self.leaves):
            raise Reject(f"couldn't accept block {header.height}: its entries are not the ones it commits to")
        if header.justify_hash != justify_hash(self.justify):
            raise Reject(f"couldn't accept block {header.height}: its certificates are not the ones it commits to")
        return header


class FinalBlock(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A block of the ledger. `certificate` finalises it; empty when a later block's certificate covers it.

    The last block of an epoch may have become final through empty blocks that are not part of the ledger: then `cover`
    holds their headers, from its child to the block that the certificate names.
    """

    block: Block
    certificate: tuple[Certificate, ...]
    cover: tuple[bytes, ...] = ()

    def certified_hash(self, header: Header) -> bytes:
        """Return the hash that the certificate must name, following `cover` from this block's own `header`.

        Raises:
            Reject: the headers do not lead from one to the next, or are not those of empty blocks of one epoch.
        """
        tip = header
        for encoded in self.cover:
            child = Header.decode(encoded)
            follows = (child.parent_hash, child.parent_view, child.height) == (tip.hash, tip.view, tip.height + 1)
            if not follows or child.epoch != header.epoch or child.count or child.view <= tip.view:
                raise Reject(f"couldn't accept block {header.height}: what should cover it does not follow from it")
            tip = child
        if self.cover and not self.certificate:
            raise Reject(f"couldn't accept block {header.height}: it is covered by no certificate")
        return tip.hash

    def check(
        self,
        header: Header,
        ledger_id: bytes,
        vote_keys: Sequence[bytes],
        quorum: int,
        verify: Callable[[bytes, bytes, bytes], bool] = identity.verify,
    ) -> bool:
        """Return whether a certificate of its own finalises the block; check it if so. Raises `Reject`."""
        certified = self.certified_hash(header)
        if len(self.certificate) > 1:
            raise Reject(f"couldn't accept block {header.height}: it has more than one certificate")
        for certificate in self.certificate:
            view = Header.decode(self.cover[-1]).view if self.cover else header.view
            said = (certificate.kind, certificate.epoch, certificate.view, certificate.block)
            if said != (FINALIZE, header.epoch, view, certified):
                raise Reject(f"couldn't accept block {header.height}: its certificate is for something else")
            certificate.check(ledger_id, vote_keys, quorum, verify)
        return bool(self.certificate)


def propose_message(ledger_id: bytes, header: bytes) -> bytes:
    """Return what a leader signs to propose."""
    return identity.DOMAIN_PROPOSE + ledger_id + header


def entries_hash(leaves: Sequence[bytes]) -> bytes:
    """SHA-256 over the canonical array of whole entries."""
    return hashlib.sha256(codec.again(tuple(leaves))).digest()


def justify_hash(justify: Sequence[Certificate]) -> bytes:
    """SHA-256 over the canonical array of certificates."""
    return hashlib.sha256(codec.again(tuple(justify))).digest()


def decode_block(data: bytes) -> Block:
    """Decode and bound a block as received. Raises `Reject`."""
    return codec.decode(data, Block, limit=BLOCK_BYTES_MAX)


def faults(members: int) -> int:
    """Byzantine members tolerated: f = (n - 1) // 3."""
    return (members - 1) // 3


def quorum(members: int) -> int:
    """Smallest safe quorum: q = (n + f) // 2 + 1. Two quorums share at least f + 1 members, and q <= n - f."""
    return (members + faults(members)) // 2 + 1

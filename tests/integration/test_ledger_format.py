"""A second reader of the ledger, written from `docs/reference/ledger-format.md` and from nothing else.

Below this line nothing of this project is imported until the tests themselves make a ledger to read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgpack
import pytest
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

if TYPE_CHECKING:
    from swarm.charter import SignedCharter

HEADER = struct.Struct(">QQQ32sQQQIQ32s32s32s32s")
ZERO = bytes(32)


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def records(folder: Path, ledger_id: bytes) -> list[bytes]:
    """The payloads of all blocks, in order."""
    found = []
    for number, path in enumerate(sorted(folder.glob("*.seg"))):
        data = path.read_bytes()
        head = b"SWARMSEG" + struct.pack(">H", 1) + b"blocks" + ledger_id + struct.pack(">Q", number)
        assert data[: len(head)] == head
        assert data[len(head) : len(head) + 4] == struct.pack(">I", zlib.crc32(head))
        place = 64
        while place + 21 <= len(data):
            length, kind, _, _ = struct.unpack_from(">IBQI", data, place)
            if kind == 0:
                break
            body = data[place : place + 17 + length]
            assert data[place + len(body) : place + len(body) + 4] == struct.pack(">I", zlib.crc32(body))
            if kind == 1:
                found.append(body[17:])
            elif kind == 255:
                assert struct.unpack(">Q32s", body[17:])[1] == sha(data[:place])
                break
            place += (len(body) + 4 + 7) // 8 * 8
    return found


def tree_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, as it is written there."""
    if len(leaves) == 1:
        return sha(b"\x00", leaves[0])
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha(b"\x01", tree_root(leaves[:split]), tree_root(leaves[split:]))


def check_signature(key: bytes, signed: bytes, signature: bytes) -> None:
    VerifyKey(key).verify(signed, signature)


@dataclasses.dataclass
class Terms:
    """Who judges: the terms of an epoch, as the array that its digest is of."""

    array: list

    @property
    def epoch(self) -> int:
        return self.array[0]

    @property
    def cards(self) -> list:
        return [card for _, card in self.array[1]]

    @property
    def by_id(self) -> dict[bytes, list]:
        return dict(self.array[1])

    @property
    def quorum(self) -> int:
        n = len(self.array[1])
        return (n + (n - 1) // 3) // 2 + 1

    @property
    def digest(self) -> bytes:
        return sha(b"swarm-ledger/terms/v1\0", pack(self.array))

    def changed(self, change: list, proposer: bytes) -> Terms:
        """The next epoch's terms."""
        kind, node, cards, named, policies = change
        epoch, members, links, policy = self.array
        places = [id_ for id_, _ in members]
        if kind == 1:
            if links:
                links = [*links, *([places.index(id_), len(members)] for id_ in named or [proposer])]
            members = [*members, [node_id(cards[0][1]), cards[0]]]
        elif kind == 2:
            gone = places.index(node)
            if links:
                row = sorted(a + b - gone for a, b in links if gone in (a, b))
                links = [link for link in links if gone not in link]
                links += [link for link in map(list, itertools.pairwise(row)) if link not in links]
                links = [[a - (a > gone), b - (b > gone)] for a, b in links]
            members = [member for member in members if member[0] != node]
        elif kind == 3:
            members = [[id_, cards[0] if id_ == node else card] for id_, card in members]
        else:
            policy = policies[0]
        for card in cards:
            for key, proof in zip(card[1:4], card[7], strict=True):
                check_signature(key, b"swarm-ledger/card/v1\0" + pack(card[:-1]), proof)
        after = Terms([epoch + 1, members, sorted(links), policy])
        assert after.linked(), "or the change would have had no effect"
        return after

    def linked(self) -> bool:
        """Whether every member is reached from the first, over links one end of which can be dialled."""
        members = self.array[1]
        links = self.array[2] or [[a, b] for b in range(len(members)) for a in range(b)]
        usable = [{a, b} for a, b in links if members[a][1][5] or members[b][1][5]]
        reached = {0}
        while any(len(link & reached) == 1 for link in usable):
            reached |= next(link for link in usable if len(link & reached) == 1)
        return len(reached) == len(members)


class Votes:
    """Open proposals: [index, author, change, time of lapse, last words by author], by entry id, in order of the log."""

    def __init__(self) -> None:
        self.open: dict[bytes, tuple[int, bytes, list, int, dict[bytes, bool]]] = {}

    def hear(self, entry: list, index: int, time_ms: int) -> None:
        author, body = entry[3], msgpack.unpackb(entry[7])
        if entry[1] == 4:
            mine = sum(one[1] == author for one in self.open.values())
            if mine < 4 and time_ms < body[1] <= time_ms + 90 * 86_400_000:
                self.open[sha(pack(entry[:-1]))] = (index, author, msgpack.unpackb(body[0]), body[1], {author: True})
        elif entry[1] == 5 and body[0] in self.open:
            self.open[body[0]][4][author] = body[1]

    def carried(self, terms: Terms) -> tuple[bytes, list, Terms] | None:
        """The entry id, the body that the epoch entry must have, the new terms."""
        for id_, (index, author, change, _, said) in self.open.items():
            yes, no = ([node for node, _ in terms.array[1] if said.get(node) is word] for word in (True, False))
            if len(yes) >= terms.quorum:
                after = terms.changed(change, author)
                return id_, [after.epoch, index, yes, no, after.digest], after
        return None


def node_id(key: bytes) -> bytes:
    return sha(b"swarm-ledger/node/v1\0", key)


def read(folder: Path, genesis: bytes) -> tuple[bytes, int, bytes]:
    """Verify a ledger from its entry 0 and its files. Return (ledger id, entries, root)."""
    version, kind, zeros, nobody, seq, prev, _, charter, signatures = msgpack.unpackb(genesis)
    assert (version, kind, zeros, nobody, seq, prev) == (1, 0, ZERO, ZERO, 0, ZERO)
    ledger_id = sha(pack(msgpack.unpackb(genesis)[:-1]))
    fields = msgpack.unpackb(charter)
    signed_by = dict(msgpack.unpackb(signatures))
    for index, card in enumerate(fields[3]):
        check_signature(card[1], b"swarm-ledger/charter/v1\0" + charter, signed_by[index])
    terms = Terms([0, [[node_id(card[1]), card] for card in fields[3]], fields[8], fields[5]])
    coming: Terms | None = None
    votes, past = Votes(), [terms]

    def check_certificate(certificate: list, terms: Terms, kind: int, view: int, block: bytes) -> None:
        assert certificate[:4] == [terms.epoch, view, kind, block]
        signers, signatures = certificate[4:]
        assert len(signers) >= terms.quorum
        assert signers == sorted({*signers})
        statement = struct.pack(">QQB", terms.epoch, view, kind) + block
        for signer, signature in zip(signers, signatures, strict=True):
            check_signature(terms.cards[signer][2], b"swarm-ledger/vote/v1\0" + ledger_id + statement, signature)

    leaves, feeds = [genesis], dict.fromkeys(terms.by_id, (0, ledger_id))
    parent, parent_view, last_ms, covered = ledger_id, 0, 0, True
    for height, payload in enumerate(records(folder, ledger_id), 1):
        (header, block_leaves, justify, proposer, signature), certificates, cover = msgpack.unpackb(payload)
        fields = HEADER.unpack(header)
        begins = coming is not None
        if coming is not None:
            assert covered
            terms, coming = coming, None
            past.append(terms)
            feeds = dict.fromkeys(terms.by_id, (0, ledger_id)) | feeds
        assert (fields[0], fields[2]) == (terms.epoch, height)
        block = sha(b"swarm-ledger/header/v1\0", header)
        check_signature(terms.cards[proposer][2], b"swarm-ledger/propose/v1\0" + ledger_id + header, signature)
        assert (fields[3], fields[4]) == (parent, parent_view)
        assert fields[5] > last_ms
        assert (fields[6], fields[7]) == (len(leaves), len(block_leaves))
        assert fields[10] == sha(pack(block_leaves))
        assert fields[12] == sha(pack(justify))
        notarized = [] if begins or height == 1 else [(1, parent_view, parent)]
        rests_on = [*notarized, *((2, view, ZERO) for view in range(parent_view + 1, fields[1]))]
        for certificate, (kind, view, named) in zip(justify, rests_on, strict=True):
            final = kind == 1 and certificate[2] == 3  # Who signs that a block is final has seen it notarized.
            check_certificate(certificate, terms, 3 if final else kind, view, named)
        votes.open = {id_: one for id_, one in votes.open.items() if fields[5] <= one[3]}
        for leaf in block_leaves:
            assert coming is None, "an epoch entry is the last of its block"
            entry = msgpack.unpackb(leaf)
            assert entry[2] == ledger_id
            unsigned = pack(entry[:-1])
            if entry[3] == ZERO:
                assert (entry[4], entry[5], entry[6], entry[8]) == (len(leaves), ZERO, fields[5], b"")
            else:
                assert (entry[4], entry[5]) == feeds[entry[3]]
                key = terms.by_id[entry[3]][1]
                check_signature(key, b"swarm-ledger/entry/v1\0" + ledger_id + unsigned, entry[8])
                feeds[entry[3]] = (entry[4] + 1, sha(unsigned))
            votes.hear(entry, len(leaves), fields[5])
            if entry[1] == 6:
                carried = votes.carried(terms)
                assert carried is not None
                id_, body, coming = carried
                assert msgpack.unpackb(entry[7]) == body
                del votes.open[id_]
            leaves.append(leaf)
        assert coming is not None or votes.carried(terms) is None, "an epoch is not a choice"
        assert (fields[8], fields[9]) == (len(leaves), tree_root(leaves))
        covered, certified, view = False, block, fields[1]
        assert not cover or (coming is not None and certificates)
        for place, empty in enumerate(cover, 1):
            child = HEADER.unpack(empty)
            assert (child[0], child[2], child[3], child[4], child[7]) == (
                terms.epoch,
                height + place,
                certified,
                view,
                0,
            )
            assert child[1] > view
            certified, view = sha(b"swarm-ledger/header/v1\0", empty), child[1]
        for certificate in certificates:
            check_certificate(certificate, terms, 3, view, certified)
            covered = True
        parent, parent_view, last_ms = block, fields[1], fields[5]
    if (folder.parent / "snapshot").exists():
        check_snapshot(folder.parent / "snapshot", HEADER.unpack(header), ledger_id, leaves, feeds, past)
    return ledger_id, len(leaves), tree_root(leaves)


def check_snapshot(
    path: Path, last: tuple, ledger_id: bytes, leaves: list[bytes], feeds: dict, past: list[Terms]
) -> None:
    """A snapshot of the last block: its hash is the one in the header, and it says what has just been found."""
    data = path.read_bytes()
    assert struct.unpack(">Q", data[:8]) == (last[2],)
    assert last[11] == sha(b"swarm-ledger/state/v2\0", data[8:])
    state = msgpack.unpackb(data[8:])
    assert len(state) == 19
    assert state[:4] == [[], ledger_id, last[2], last[5]]
    size, hashes = state[4]
    assert size == len(leaves)
    root = hashes.pop()
    while hashes:
        root = sha(b"\x01", hashes.pop(), root)
    assert root == last[9]
    assert state[5] == sorted([author, list(end)] for author, end in feeds.items())
    assert state[13] == past[-1].array, "the links in it too"
    assert state[17] == []
    assert state[18] == [terms.array for terms in past[-2:-6:-1]]


# --- the ledgers to read --------------------------------------------------------------------------------------------


def calm() -> tuple[SignedCharter, Sequence[bytes]]:
    """A ledger of four members who stay."""
    from tests.benchmarks.ledgers import make_ledger

    return make_ledger(members=4, rounds=3)[:2]


def changing() -> tuple[SignedCharter, Sequence[bytes]]:
    """A ledger of four epochs: a site joins, one takes new keys, one is voted out."""
    from tests.epochs import changing_ledger

    return changing_ledger()


def lossy() -> tuple[SignedCharter, Sequence[bytes]]:
    """A ledger of two epochs whose first one ended with a block that only empty ones above it made final."""
    from tests.epochs import covered_ledger

    return covered_ledger()


def ring() -> tuple[SignedCharter, Sequence[bytes]]:
    """A ledger of four epochs in a ring of four: the newcomer is linked to whoever proposed it."""
    from tests.epochs import changing_ledger

    return changing_ledger(((0, 1), (0, 3), (1, 2), (2, 3)))


def star() -> tuple[SignedCharter, Sequence[bytes]]:
    """The same in a star whose hub is the one that is voted out: those it leaves behind are linked in a row."""
    from tests.epochs import changing_ledger

    return changing_ledger(((0, 1), (1, 2), (1, 3)))


Made: TypeAlias = "Callable[[], tuple[SignedCharter, Sequence[bytes]]]"


def made(folder: Path, make: Made = calm, *, segment_bytes: int = 1 << 14) -> tuple[Path, bytes, bytes, int, bytes]:
    """Write a ledger as a node does; return what this project says of it."""
    from node.storage import RealDisk, SnapshotFile
    from swarm.ledger.audit import audit
    from swarm.ledger.journal import Journal
    from swarm.machine import RECORD_BLOCK, Record, Snapshot

    signed, payloads = make()
    disk = RealDisk(folder)
    journal = Journal(disk, ledger_id=signed.ledger_id, segment_bytes=segment_bytes)
    journal.open()
    for height, payload in enumerate(payloads, 1):
        journal.append([Record(RECORD_BLOCK, height, payload)])
    *_, result = audit(payloads, signed)
    SnapshotFile(folder / "snapshot").save(Snapshot(result.state.height, result.state.encode()))
    disk.close()
    root = result.state.frontier.root()
    return folder / "blocks", signed.genesis().encode(), signed.ledger_id, result.entries, root


@pytest.mark.parametrize("make", [calm, changing, lossy, ring, star])
def test_the_documented_format_is_enough_to_verify_a_ledger(tmp_path: Path, make: Made) -> None:
    folder, genesis, ledger_id, entries, root = made(tmp_path, make)
    assert len(list(folder.glob("*.seg"))) > 1, "sealed segments are read too"
    assert read(folder, genesis) == (ledger_id, entries, root)


def test_the_second_reader_would_notice(tmp_path: Path) -> None:
    """Or it would show nothing: each changed byte of a block's record ends it."""
    folder, genesis, *_ = made(tmp_path)
    path = min(folder.glob("*.seg"))
    whole = path.read_bytes()
    for place in range(64, 4000, 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises((AssertionError, ValueError, BadSignatureError, msgpack.UnpackException, struct.error)):
            read(folder, genesis)

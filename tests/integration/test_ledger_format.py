"""A second reader of the ledger, written from `docs/reference/ledger-format.md` and from nothing else.

Below this line nothing of this project is imported until the tests themselves make a ledger to read.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

import msgpack
import pytest
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

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


def read(folder: Path, genesis: bytes) -> tuple[bytes, int, bytes]:
    """Verify a ledger from its entry 0 and its files. Return (ledger id, entries, root)."""
    version, kind, zeros, nobody, seq, prev, _, charter, signatures = msgpack.unpackb(genesis)
    assert (version, kind, zeros, nobody, seq, prev) == (1, 0, ZERO, ZERO, 0, ZERO)
    ledger_id = sha(pack(msgpack.unpackb(genesis)[:-1]))
    members = msgpack.unpackb(charter)[3]
    signed_by = dict(msgpack.unpackb(signatures))
    for index, card in enumerate(members):
        check_signature(card[1], b"swarm-ledger/charter/v1\0" + charter, signed_by[index])
    by_id = {sha(b"swarm-ledger/node/v1\0", card[1]): card for card in members}
    n = len(members)
    quorum = (n + (n - 1) // 3) // 2 + 1

    def check_certificate(certificate: list, kind: int, block: bytes) -> None:
        epoch, view, its_kind, its_block, signers, votes = certificate
        assert (its_kind, its_block) == (kind, block)
        assert len(signers) >= quorum
        assert signers == sorted({*signers})
        statement = struct.pack(">QQB", epoch, view, kind) + block
        for signer, vote in zip(signers, votes, strict=True):
            check_signature(members[signer][2], b"swarm-ledger/vote/v1\0" + ledger_id + statement, vote)

    leaves, feeds = [genesis], dict.fromkeys(by_id, (0, ledger_id))
    parent, parent_view, last_ms = ledger_id, 0, 0
    for payload in records(folder, ledger_id):
        (header, block_leaves, justify, proposer, signature), certificates, cover = msgpack.unpackb(payload)
        assert cover == []
        fields = HEADER.unpack(header)
        block = sha(b"swarm-ledger/header/v1\0", header)
        check_signature(members[proposer][2], b"swarm-ledger/propose/v1\0" + ledger_id + header, signature)
        assert (fields[3], fields[4]) == (parent, parent_view)
        assert fields[5] > last_ms
        assert (fields[6], fields[7]) == (len(leaves), len(block_leaves))
        assert fields[10] == sha(pack(block_leaves))
        assert fields[12] == sha(pack(justify))
        for leaf in block_leaves:
            entry = msgpack.unpackb(leaf)
            assert entry[2] == ledger_id
            unsigned = pack(entry[:-1])
            if entry[3] == ZERO:
                assert (entry[4], entry[5], entry[6], entry[8]) == (len(leaves), ZERO, fields[5], b"")
            else:
                assert (entry[4], entry[5]) == feeds[entry[3]]
                check_signature(by_id[entry[3]][1], b"swarm-ledger/entry/v1\0" + ledger_id + unsigned, entry[8])
                feeds[entry[3]] = (entry[4] + 1, sha(unsigned))
            leaves.append(leaf)
        assert (fields[8], fields[9]) == (len(leaves), tree_root(leaves))
        for certificate in certificates:
            check_certificate(certificate, 3, block)
        parent, parent_view, last_ms = block, fields[1], fields[5]
    check_snapshot(folder.parent / "snapshot", HEADER.unpack(header), ledger_id, leaves, feeds)
    return ledger_id, len(leaves), tree_root(leaves)


def check_snapshot(path: Path, last: tuple, ledger_id: bytes, leaves: list[bytes], feeds: dict) -> None:
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


# --- the ledgers to read --------------------------------------------------------------------------------------------


def made(folder: Path, *, segment_bytes: int = 1 << 14) -> tuple[Path, bytes, bytes, int, bytes]:
    """Write a ledger of four members as a node does; return what this project says of it."""
    from node.storage import RealDisk, SnapshotFile
    from swarm.ledger.audit import audit
    from swarm.ledger.journal import Journal
    from swarm.machine import RECORD_BLOCK, Record, Snapshot
    from tests.benchmarks.ledgers import make_ledger

    signed, payloads, _ = make_ledger(members=4, rounds=3)
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


def test_the_documented_format_is_enough_to_verify_a_ledger(tmp_path: Path) -> None:
    folder, genesis, ledger_id, entries, root = made(tmp_path)
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

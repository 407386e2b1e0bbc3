"""SHELL. A whole ledger as one file: the charter and every block, to be mailed, filed, and audited anywhere.

::

    "SWARMBND" | version u16 | ledger id 32 | crc32        46 bytes
    length u32 | entry 0, the signed charter | crc32
    length u32 | the published checkpoint    | crc32       or 0 u32 where there is none
    length u32 | a block's record            | crc32       one for each height from 1 on
    0 u32 | blocks u64 | SHA-256 of all before             the end

Integers are big-endian, CRCs cover everything of their record before them. There is one way to write a ledger down: no
times, no padding, no choices, so that the same ledger under the same checkpoint makes the same bytes. A bundle is
written and read in one pass that holds one block at a time, and no length in it is believed before it is bounded. The
CRCs say where transport or a disk did harm; who may have written a block is for `swarm.ledger.audit` to judge, as it is
of any other copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from node.storage import store_error, sync_folder
from swarm.charter import SignedCharter, open_genesis
from swarm.errors import LedgerError, Reject, UsageError
from swarm.ledger.block import BLOCK_BYTES_MAX
from swarm.ledger.entry import ENTRY_BYTES_MAX
from swarm.ledger.note import NOTE_BYTES_MAX

MAGIC = b"SWARMBND"
VERSION = 2

RECORD_BYTES_MAX = 2 * BLOCK_BYTES_MAX
"""Longest record of a block: the block, and the certificate that makes it final."""

_HEAD = struct.Struct(">8sH32s")
_LENGTH = struct.Struct(">I")
_CRC = struct.Struct(">I")
_COUNT = struct.Struct(">Q")

AGAIN = "have the bundle made and sent again: `swarm ledger export --bundle`"


@dataclass(frozen=True, slots=True)
class Piece:
    """A block's record in a bundle, and the byte at which it lies."""

    payload: bytes
    offset: int


class Damage(LedgerError):
    """A bundle that cannot be read on from `offset`: bytes are missing, or are not the ones that were written."""

    def __init__(self, text: str, offset: int) -> None:
        super().__init__(text, hint=AGAIN)
        self.offset = offset


def is_bundle(path: Path) -> bool:
    """Whether a file begins as bundles do. Raises `OSError` when it cannot be read."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


class Reader:
    """A bundle being read. The charter is read, and its signatures checked, when this is made.

    `checkpoint` is the one that came with it, unread, or None: who cosigned it is for whoever follows the blocks.

    Raises:
        UsageError: it is no bundle, or one of a version that this software does not know.
        Damage: it cannot be read from some byte on.
        LedgerError: its charter does not hold.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._hash, self._offset = hashlib.sha256(), 0
        head = self._take(_HEAD.size + _CRC.size, "its head")
        magic, version, ledger_id = _HEAD.unpack(head[: _HEAD.size])
        if magic != MAGIC:
            raise UsageError(
                f"couldn't read {path}: it is no bundle of a ledger", hint="`swarm ledger export --bundle` makes one"
            )
        if _CRC.unpack(head[_HEAD.size :])[0] != crc32(head[: _HEAD.size]):
            raise Damage("its head is damaged", 0)
        if version != VERSION:
            raise UsageError(
                f"couldn't read {path}: it is a bundle of format {version}, known is {VERSION}",
                hint="a newer version of this software wrote it: update" if version > VERSION else AGAIN,
            )
        leaf = self._record(ENTRY_BYTES_MAX, "the charter")
        if leaf is None:
            raise Damage("it holds no charter", self._offset)
        try:
            self.signed: SignedCharter = open_genesis(leaf)
        except Reject as reason:
            raise LedgerError(f"couldn't read the charter in {path}: {reason.message}", hint=AGAIN) from None
        if self.signed.ledger_id != ledger_id:
            raise LedgerError(
                f"couldn't read {path}: its charter founds another ledger than its head names", hint=AGAIN
            )
        self.checkpoint: bytes | None = self._record(NOTE_BYTES_MAX, "the checkpoint")

    def blocks(self) -> Iterator[Piece]:
        """Yield the blocks' records in order, checking the end when it is reached. Raises `Damage`."""
        count = 0
        while True:
            offset = self._offset
            payload = self._record(RECORD_BYTES_MAX, f"block {count + 1}")
            if payload is None:
                break
            count += 1
            yield Piece(payload, offset)
        claimed = _COUNT.unpack(self._take(_COUNT.size, "its end"))[0]
        expected, end = self._hash.digest(), self._offset
        if self._take(len(expected), "its end") != expected or claimed != count:
            raise Damage("its end does not match what is before it", end)
        if self._file.read(1):
            raise Damage("something follows its end", self._offset)

    def _record(self, most: int, what: str) -> bytes | None:
        """Return the next record, or None where the end begins."""
        offset = self._offset
        head = self._take(_LENGTH.size, what)
        length = _LENGTH.unpack(head)[0]
        if length == 0:
            return None
        if length > most:
            raise Damage(f"{what} claims {length} bytes, at most {most} are possible", offset)
        payload = self._take(length, what)
        if _CRC.unpack(self._take(_CRC.size, what))[0] != crc32(payload, crc32(head)):
            raise Damage(f"{what} is damaged", offset)
        return payload

    def _take(self, length: int, what: str) -> bytes:
        data = self._file.read(length)
        if len(data) != length:
            raise Damage(f"it ends in the middle of {what}", self._offset + len(data))
        self._hash.update(data)
        self._offset += length
        return data


def encode(signed: SignedCharter, payloads: Iterable[bytes], checkpoint: bytes | None = None) -> Iterator[bytes]:
    """Yield a bundle's bytes in order, a record at a time. `checkpoint` is one as published, never empty."""
    head = _HEAD.pack(MAGIC, VERSION, signed.ledger_id)
    digest, count = hashlib.sha256(), 0

    def told(part: bytes) -> bytes:
        digest.update(part)
        return part

    yield told(head + _CRC.pack(crc32(head)))
    yield told(_framed(signed.genesis().encode()))
    yield told(_LENGTH.pack(0) if checkpoint is None else _framed(checkpoint))
    for payload in payloads:
        count += 1
        yield told(_framed(payload))
    yield told(_LENGTH.pack(0) + _COUNT.pack(count))
    yield digest.digest()


def write(path: Path, parts: Iterable[bytes]) -> int:
    """Write a file whole or not at all, and return its length; an older one stays until the new one is complete.

    Raises `StoreError`, or whatever ends `parts`; either way nothing is left beside.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    length = 0
    try:
        try:
            with beside.open("xb") as file:
                for part in parts:
                    length += file.write(part)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError as error:
            raise store_error(f"write {path}", error) from error
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return length


def _framed(payload: bytes) -> bytes:
    body = _LENGTH.pack(len(payload)) + payload
    return body + _CRC.pack(crc32(body))

"""The bundle: one way to write a ledger down, and no byte of it that could be another."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import bundle
from swarm.errors import SwarmError, UsageError
from swarm.ledger.disk import DiskFull
from tests.node.test_cli_ledger import calm

HEAD_BYTES = 46
WHERE = Path("some.bundle")


def whole() -> bytes:
    signed, payloads = calm()
    return b"".join(bundle.encode(signed, payloads))


def read(data: bytes) -> tuple[bytes, list[bytes]]:
    reader = bundle.Reader(io.BytesIO(data), WHERE)
    return reader.signed.ledger_id, [piece.payload for piece in reader.blocks()]


def test_what_was_written_is_read_and_written_again_it_is_the_same_bytes() -> None:
    signed, payloads = calm()
    assert read(whole()) == (signed.ledger_id, list(payloads))
    reader = bundle.Reader(io.BytesIO(whole()), WHERE)
    again = b"".join(bundle.encode(reader.signed, (piece.payload for piece in reader.blocks())))
    assert again == whole()


def test_the_bytes_are_those_of_the_format() -> None:
    signed, payloads = calm()
    data, genesis = whole(), signed.genesis().encode()
    assert data[:10] == b"SWARMBND\x00\x02"
    assert data[10:42] == signed.ledger_id
    assert data[HEAD_BYTES : HEAD_BYTES + 4 + len(genesis)] == struct.pack(">I", len(genesis)) + genesis
    after = HEAD_BYTES + 4 + len(genesis) + 4
    assert data[after : after + 4] == bytes(4), "there is no checkpoint"
    assert data[-44:-32] == struct.pack(">IQ", 0, len(payloads))
    reader = bundle.Reader(io.BytesIO(data), WHERE)
    for piece in reader.blocks():
        assert data[piece.offset + 4 :].startswith(piece.payload)


def test_a_checkpoint_comes_back_as_it_was_and_is_there_before_the_blocks() -> None:
    signed, payloads = calm()
    data = b"".join(bundle.encode(signed, payloads, b"a checkpoint"))
    reader = bundle.Reader(io.BytesIO(data), WHERE)
    assert reader.checkpoint == b"a checkpoint"
    assert [piece.payload for piece in reader.blocks()] == list(payloads)
    assert bundle.Reader(io.BytesIO(whole()), WHERE).checkpoint is None
    at = data.index(b"a checkpoint")
    with pytest.raises(bundle.Damage, match="the checkpoint is damaged"):
        bundle.Reader(io.BytesIO(data[:at] + b"b" + data[at + 1 :]), WHERE)


@given(place=st.integers(0, len(whole()) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(place: int, bit: int) -> None:
    data = bytearray(whole())
    data[place] ^= 1 << bit
    with pytest.raises(SwarmError):
        read(bytes(data))


def test_a_changed_bit_in_any_byte_of_the_head_the_end_and_every_frame_is_noticed() -> None:
    data = whole()
    reader = bundle.Reader(io.BytesIO(data), WHERE)
    frames = [piece.offset for piece in reader.blocks()]
    places = [*range(HEAD_BYTES + 4), *range(len(data) - 44, len(data))]
    for offset in frames:
        places += [*range(offset - 4, offset + 6)]
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 0x10
        with pytest.raises(SwarmError):
            read(bytes(changed))


@pytest.mark.parametrize("length", [0, 1, 9, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 3, 700, -45, -44, -40, -33, -1])
def test_a_bundle_that_ends_early_is_said_to_do_so(length: int) -> None:
    with pytest.raises(bundle.Damage, match="ends in the middle of"):
        read(whole()[: length if length >= 0 else len(whole()) + length])


def test_nothing_may_follow_the_end() -> None:
    with pytest.raises(bundle.Damage, match="something follows its end"):
        read(whole() + b"\0")


def test_a_huge_length_is_refused_before_anything_is_read() -> None:
    class Counting(io.BytesIO):
        asked = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.asked = max(self.asked, size or 0)
            return super().read(size)

    file = Counting(whole()[:HEAD_BYTES] + b"\xff\xff\xff\xff" + bytes(100))
    with pytest.raises(bundle.Damage, match="claims 4294967295 bytes, at most 65535 are possible"):
        bundle.Reader(file, WHERE)
    assert file.asked <= HEAD_BYTES


def test_another_file_and_another_version_are_told_from_damage() -> None:
    with pytest.raises(UsageError, match="it is no bundle of a ledger"):
        read(b"x" * 1000)
    for version, hint in ((3, "update"), (1, "made and sent again")):
        other = bytearray(whole())
        other[9] = version
        other[42:46] = struct.pack(">I", bundle.crc32(bytes(other[:42])))
        with pytest.raises(UsageError, match=f"a bundle of format {version}, known is 2") as caught:
            read(bytes(other))
        assert hint in caught.value.hint


def test_the_charter_of_another_swarm_is_not_taken_for_this_one() -> None:
    other = bytearray(whole())
    other[10] ^= 1
    other[42:46] = struct.pack(">I", bundle.crc32(bytes(other[:42])))
    with pytest.raises(SwarmError, match="its charter founds another ledger than its head names"):
        read(bytes(other))


# --- writing ------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file_and_nothing_beside(tmp_path: Path) -> None:
    target = tmp_path / "a.bundle"
    target.write_bytes(b"old")

    def failing() -> Iterator[bytes]:
        yield b"x" * 100
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskFull, match="No space left on device"):
        bundle.write(target, failing())
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.bundle", b"old")]


def test_what_ends_the_parts_ends_the_writing_and_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[bytes]:
        yield b"x"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bundle.write(tmp_path / "a.bundle", interrupted())
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SwarmError, match="couldn't write .*gone"):
        bundle.write(tmp_path / "gone" / "a.bundle", [b"x"])

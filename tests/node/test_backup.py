"""A site as one file: nothing is believed of it, nothing is overwritten by it, and no part of it can be changed unseen."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gossip.zeromq import PeerAddress, Transport
from node import backup as b
from node.cli.main import cli
from node.cli.output import Failure
from node.clock import Clock
from node.core import Node
from node.private import Own, PrivateFolder
from node.runtime import seeded
from node.site import SETTINGS_TEXT, Site
from node.storage import BlobStore, DirectoryLock, RealDisk, SnapshotFile
from swarm.charter import card_to_toml, make_card, to_toml
from swarm.errors import StoreError, SwarmError, UsageError
from swarm.identity import transport_keys
from swarm.ledger.audit import audit
from swarm.ledger.journal import BLOCKS, FEED, WAL, Finding, Journal, Placed, cut, scan
from swarm.ledger.state import State
from swarm.machine import RECORD_BLOCK, RECORD_VOTE, Digest, Record, Snapshot
from tests import sites
from tests.builders import Swarm, make_swarm

SECRET = "correct horse battery staple"
SEGMENT_BYTES = 1 << 15


@dataclass(frozen=True)
class Member:
    """What member 0 of a swarm of three has on its disk after two rounds, and what it then knows."""

    swarm: Swarm
    records: tuple[Record, ...]
    checkpoint: bytes
    state: State
    model: bytes


def learned() -> Member:
    made = make_swarm(3, rounds=2)
    world = sites.calm_world(made)
    place = world.place(0)
    assert world.run(lambda w: all(p.finished for p in w.places))
    ended = world.now
    world.run(lambda w: w.now > ended + sites.SETTLED_S)
    assert place.journal is not None
    assert isinstance(place.machine, Node)
    state = place.machine.replica.head
    model = place.blobs.vector(Digest(state.committed.model))
    assert model is not None
    return Member(made, place.journal.open().records, place.published["checkpoint"], state, model.tobytes())


LEFT = learned()


def write_member(folder: Path) -> Site:
    """Write the folder of member 0 as its node leaves it: keys, card, settings, task, ledger, the committed model."""
    site, who = Site(folder), LEFT.swarm.identities[0]
    site.keys.mkdir(mode=0o700, parents=True)
    (folder / "charter.toml").write_text(to_toml(LEFT.swarm.signed))
    for name, seed in (("identity.seed", b"id0"), ("curve.seed", b"curve0")):
        path = site.keys / name
        path.touch(mode=0o600)
        path.write_text(hashlib.sha256(seed).hexdigest() + "\n")
    assert site.load_identity().node == who.node
    site.settings_path.write_text(SETTINGS_TEXT.format(name="site-0", listen="", task="task.py", data="data"))
    site.card_path.write_text(card_to_toml(make_card(who, name="site-0", endpoint="")))
    (folder / "task.py").write_text("x = 1\n")
    disk = RealDisk(site.ledger)
    journal = Journal(disk, ledger_id=LEFT.swarm.signed.ledger_id, segment_bytes=SEGMENT_BYTES)
    journal.open()
    for record in LEFT.records:
        journal.append([record])
    disk.close()
    (site.ledger / "checkpoint").write_bytes(LEFT.checkpoint)
    SnapshotFile(site.ledger / "snapshot").save(Snapshot(LEFT.state.height, LEFT.state.encode()))
    store = BlobStore(site.blobs)
    path = store.new_file()
    path.write_bytes(LEFT.model)
    assert store.add_file(path).digest == LEFT.state.committed.model
    return site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return write_member(tmp_path / "site")


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_text(f"{SECRET}\nnothing of this\n")
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guessing is not what is tried here: let a passphrase cost a millisecond."""
    monkeypatch.setattr(b, "_OPSLIMIT", 1)
    monkeypatch.setattr(b, "_MEMLIMIT", 8192 * 1024 // 64)


def swarm(*arguments: object) -> str:
    """Run `swarm backup` and return what it prints. Raises what it raises."""
    ran = CliRunner(env={"SWARM_TRUST": ""}).invoke(cli, ["backup", *(str(one) for one in arguments)])
    if isinstance(ran.exception, Exception):
        raise ran.exception
    assert ran.exit_code == 0, ran.output
    return ran.output


def refused(*arguments: object) -> str:
    with pytest.raises(SwarmError) as caught:
        swarm(*arguments)
    error = caught.value
    assert "\n" not in error.message
    assert error.hint
    assert not isinstance(error, Failure) or error.code in (3, 8)
    return error.message


def made(site: Site, passphrase: Path | None, name: str = "a.backup") -> Path:
    target = site.folder.parent / name
    how = ["--no-keys"] if passphrase is None else ["--passphrase-file", passphrase]
    swarm("create", site.folder, "-o", target, *how)
    return target


def with_(passphrase: Path) -> tuple[object, ...]:
    return "--passphrase-file", passphrase


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- there and back -----------------------------------------------------------------------------------------------


def test_a_restored_site_has_every_byte_it_needs_and_none_it_must_not_have(site: Site, passphrase: Path) -> None:
    (site.folder / "data").mkdir()
    (site.folder / "data" / "patients.csv").write_text("patient-4711")
    (site.run).mkdir()
    (site.run / "log.jsonl").write_text("{}")
    site.masks_path.write_bytes(b"an old root with a new update would be two updates under one mask")
    (site.blobs / "aside").mkdir()
    (site.blobs / "aside" / "update").write_bytes(b"unmasked")
    before = contents(site.folder)
    target = made(site, passphrase)
    assert (target.stat().st_mode & 0o777) == 0o600
    assert b"patient-4711" not in target.read_bytes()
    assert contents(site.folder) == before, "making a backup changes nothing"
    said = swarm("verify", target, "--passphrase-file", passphrase)
    assert "VALID           site-0" in said
    assert "every signature holds" in said
    site.folder.rename(site.folder.with_name("gone"))
    back = site.folder.with_name("back")
    swarm("restore", target, back, "--passphrase-file", passphrase)
    after = contents(back)
    left_behind = {"data/patients.csv", "run/log.jsonl", "masks", "blobs/aside/update"}
    assert {*after} == {*before} - left_behind | {"restored"}
    assert {name for name in after if name in before and after[name] != before[name]} <= set()
    for path in (back / "keys").iterdir():
        assert path.stat().st_mode & 0o077 == 0
    assert (back / "keys").stat().st_mode & 0o077 == 0
    assert not [path for path in back.parent.iterdir() if path.name.startswith(".")]


def test_what_a_restored_segment_has_room_for_is_reserved(site: Site) -> None:
    target = made(site, None)
    site.folder.rename(site.folder.with_name("gone"))
    back = site.folder.with_name("back")
    swarm("restore", target, back)
    for path in (back / "ledger").rglob("*.seg"):
        assert path.stat().st_blocks * 512 >= path.stat().st_size, "the journal believes that writing in it cannot fail"


def test_the_committed_model_is_in_it_when_the_site_holds_it(tmp_path: Path, site: Site) -> None:
    assert "1 model, every digest holds" in swarm("verify", made(site, None))
    path = site.blobs / LEFT.state.committed.model.hex()
    path.write_bytes(bytes(len(LEFT.model)))
    said = swarm("create", site.folder, "-o", tmp_path / "damaged", "--no-keys")
    assert "damaged on this disk" in said
    path.unlink()
    said = swarm("create", site.folder, "-o", tmp_path / "without", "--no-keys")
    assert "this site does not hold it now; others send it" in said
    assert "0 models" in swarm("verify", tmp_path / "without")


def test_a_site_without_a_ledger_yet_can_be_kept_too(tmp_path: Path, site: Site, passphrase: Path) -> None:
    shutil.rmtree(site.ledger)
    shutil.rmtree(site.blobs)
    target = made(site, passphrase)
    assert "VALID" in swarm("verify", target)
    site.folder.rename(site.folder.with_name("gone"))
    swarm("restore", target, tmp_path / "back", "--passphrase-file", passphrase)
    assert Site(tmp_path / "back").load_identity().node == LEFT.swarm.identities[0].node


def test_keys_are_encrypted_or_left_out(site: Site, passphrase: Path) -> None:
    seeds = [(site.keys / name).read_text().strip() for name in ("identity.seed", "curve.seed")]
    for target in (made(site, passphrase), made(site, None, "b.backup")):
        data = target.read_bytes()
        for seed in seeds:
            assert seed.encode() not in data
            assert bytes.fromhex(seed) not in data
        assert SECRET.encode() not in data
    assert "left out when it was made" in swarm("verify", site.folder.parent / "b.backup")
    assert "made without" in refused("verify", site.folder.parent / "b.backup", "--passphrase-file", passphrase)


def test_another_passphrase_opens_nothing(site: Site, passphrase: Path, tmp_path: Path) -> None:
    target = made(site, passphrase)
    passphrase.write_text("another one, and longer\n")
    site.folder.rename(site.folder.with_name("gone"))
    assert "passphrase is another" in refused("restore", target, tmp_path / "back", "--passphrase-file", passphrase)
    assert "its keys are encrypted" in refused("restore", target, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda path: path.chmod(0o644), "others on this machine can read it"),
        (lambda path: path.write_text("short\n"), "fewer than"),
        (lambda path: path.write_bytes(b"\xff\xfe\n"), "it is not text"),
        (lambda path: path.unlink(), "No such file"),
    ],
)
def test_a_passphrase_file_is_looked_at_before_anything_is_written(
    site: Site, passphrase: Path, change: Callable[[Path], object], why: str
) -> None:
    change(passphrase)
    assert why in refused("create", site.folder, "-o", site.folder.parent / "x", "--passphrase-file", passphrase)
    assert not (site.folder.parent / "x").exists()


def test_one_says_whether_keys_are_wanted(site: Site, passphrase: Path) -> None:
    assert "either" in refused("create", site.folder)
    assert "keys: left out" in swarm(
        "create", site.folder, "-o", site.folder.parent / "x", "--no-keys", *with_(passphrase)
    )


# --- nothing is overwritten, nobody is doubled --------------------------------------------------------------------


def test_nothing_is_overwritten(site: Site) -> None:
    target = made(site, None)
    before = target.read_bytes()
    assert "it is there already" in refused("create", site.folder, "-o", target, "--no-keys")
    assert target.read_bytes() == before
    other = site.folder.parent / "other"
    other.mkdir()
    (other / "mine").touch()
    assert "something there already" in refused("restore", target, other)
    assert "something there already" in refused("restore", target, target)
    assert {path.name for path in other.iterdir()} == {"mine"}


def test_it_is_not_restored_beside_its_original(site: Site, tmp_path: Path) -> None:
    target = made(site, None)
    back = tmp_path / "back"
    assert "still there, with its keys" in refused("restore", target, back)
    lock = DirectoryLock(site.run / "lock")
    assert "its node is running" in refused("restore", target, back)
    lock.close()
    assert not back.exists()
    swarm("restore", target, back, "--original-is-gone")
    assert (back / "restored").exists()


@pytest.mark.real
def test_a_node_with_the_same_keys_that_answers_is_found_and_any_other_listener_is_not() -> None:
    """The original may run on another machine: whoever can open a greeting sealed for its key is it."""
    public, private = transport_keys(bytes(32))
    clock = Clock()
    original = Transport(
        secret_key=private, public_key=public, listen="tcp://127.0.0.1:*", peers=[], clock=clock.now, rng=seeded(b"x")
    )
    original.open()
    endpoint = str(original.bound_endpoint)
    try:
        node = LEFT.swarm.identities[0].node

        def turning() -> float:
            original.poll(0)
            return clock.now()

        assert b.answers(PeerAddress(node=node, name="a", curve_key=public, endpoint=endpoint), turning)
        another, _ = transport_keys(bytes([1]) * 32)
        assert not b.answers(PeerAddress(node=node, name="a", curve_key=another, endpoint=endpoint), turning)
        assert not b.answers(PeerAddress(node=node, name="a", curve_key=public, endpoint=""), turning)
    finally:
        original.close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        assert not b.answers(PeerAddress(node=node, name="a", curve_key=public, endpoint=nobody), clock.now)


# --- lies ---------------------------------------------------------------------------------------------------------


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None], *, sign: bool = False) -> Path:
    """Write a backup anew with some of its members changed; with `sign`, signed by somebody who has no right to."""
    with tarfile.open(path) as tar:
        parts = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    change(parts)
    if sign:
        stranger = LEFT.swarm.identities[1]
        manifest = json.loads(parts[b.MANIFEST])
        manifest["key"] = stranger.id_key.public.hex()
        for item in manifest["files"]:
            if item["path"] in parts:
                item["kept"] = len(parts[item["path"]])
                item["size"] = max(item["size"], item["kept"]) if item["path"].endswith(".seg") else item["kept"]
                item["sha256"] = hashlib.sha256(parts[item["path"]]).hexdigest()
        parts[b.MANIFEST] = json.dumps(manifest).encode()
        parts[b.SIGNATURE] = stranger.id_key.sign(b.DOMAIN_BACKUP + parts[b.MANIFEST]).hex().encode()
    other = path.with_name("changed.backup")
    with tarfile.open(other, "w") as tar:
        for name, data in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return other


def flip(name: str, at: int = -1) -> Callable[[dict[str, bytes]], None]:
    def change(parts: dict[str, bytes]) -> None:
        data = bytearray(parts[name])
        data[at] ^= 1
        parts[name] = bytes(data)

    return change


CHANGES: dict[str, Callable[[dict[str, bytes]], object]] = {
    "charter": flip("charter.toml", 40),
    "a block": flip("ledger/blocks/00000000.seg", 300),
    "a vote": flip("ledger/wal/00000000.seg", 300),
    "an entry": flip("ledger/feed/00000000.seg", 300),
    "manifest": flip(b.MANIFEST, 30),
    "signature": flip(b.SIGNATURE, 3),
    "keys": flip(b.SEALED, 60),
    "the model": flip(f"blobs/{LEFT.state.committed.model.hex()}", 9),
    "the model's leaves": flip(f"blobs/{LEFT.state.committed.model.hex()}.leaves", 9),
    "snapshot": flip("ledger/snapshot", 99),
    "checkpoint": flip("ledger/checkpoint", 99),
    "a file less": lambda parts: parts.pop("card.toml"),
    "a file more": lambda parts: parts.update({"zzz": b"hello"}),
    "no manifest": lambda parts: parts.pop(b.MANIFEST),
    "no signature": lambda parts: parts.pop(b.SIGNATURE),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_is_changed_is_noticed(site: Site, passphrase: Path, what: str) -> None:
    target = rewritten(made(site, passphrase), CHANGES[what])  # type: ignore[arg-type]
    refused("verify", target)
    site.folder.rename(site.folder.with_name("gone"))
    refused("restore", target, site.folder, "--passphrase-file", passphrase)
    assert not site.folder.exists()


def test_another_member_cannot_sign_for_it(site: Site) -> None:
    target = rewritten(made(site, None), lambda parts: None, sign=True)
    assert "is not one of site-0" in refused("verify", target)


def test_names_that_lead_out_of_the_folder_are_refused(site: Site, tmp_path: Path) -> None:
    outside = tmp_path / "owned"
    for name in (str(outside), "../owned", "a/../../owned", "", ".", "a//b", "a\\..\\b", "C:owned", "a\nb"):

        def change(parts: dict[str, bytes], name: str = name) -> None:
            manifest = json.loads(parts[b.MANIFEST])
            manifest["files"].append({"path": name, "size": 2, "kept": 2, "sha256": "00"})
            parts[name] = b"hi"
            parts[b.MANIFEST] = json.dumps(manifest).encode()

        target = rewritten(made(site, None, f"{hashlib.sha256(name.encode()).hexdigest()}"), change, sign=True)
        assert "files that a site does not have" in refused("verify", target)
    assert not outside.exists()


def test_links_and_devices_are_no_files(site: Site) -> None:
    target = made(site, None)
    with tarfile.open(target) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
        other = target.with_name("linked.backup")
        with tarfile.open(other, "w") as tar:
            for info, data in members:
                if info.name == "card.toml":
                    info.type, info.linkname = kind, "/etc/passwd"
                    tar.addfile(info)
                    info.type = tarfile.REGTYPE
                else:
                    tar.addfile(info, io.BytesIO(data))
        assert "card.toml is not in it" in refused("verify", other)


def test_a_size_that_no_disk_has_is_refused_before_anything_is_written(site: Site) -> None:
    def change(parts: dict[str, bytes]) -> None:
        manifest = json.loads(parts[b.MANIFEST])
        for item in manifest["files"]:
            if item["path"].endswith(".seg"):
                item["size"] = 1 << 60
        parts[b.MANIFEST] = json.dumps(manifest).encode()

    assert "cannot have the size" in refused("verify", rewritten(made(site, None), change, sign=True))


def test_cut_short_at_any_place_it_is_no_backup_any_more(site: Site) -> None:
    target = made(site, None)
    data = target.read_bytes()
    for end in [0, 1, 100, 512, 1024, *range(2048, len(data) - 10240, len(data) // 9)]:
        target.write_bytes(data[:end])
        refused("verify", target)


@pytest.mark.parametrize("garbage", [b"", b"hello", bytes(10240), os.urandom(5000), b"manifest.json" + bytes(499)])
def test_any_other_file_is_told_from_a_backup(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(garbage)
    refused("verify", path)


def test_a_damaged_ledger_is_not_taken_for_a_backup(site: Site) -> None:
    path = site.ledger / "blocks" / "00000000.seg"
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(bytes(data))
    assert "blocks/00000000.seg" in refused("create", site.folder, "-o", site.folder.parent / "x", "--no-keys")
    assert {path.name for path in site.folder.parent.iterdir()} == {"site"}


def test_a_charter_outside_the_folder_is_told_of(site: Site, tmp_path: Path) -> None:
    shutil.copy(site.folder / "charter.toml", tmp_path / "charter.toml")
    for name in ("../charter.toml", str(tmp_path / "charter.toml")):
        text = site.settings_path.read_text().replace('charter = "charter.toml"', f'charter = "{name}"')
        site.settings_path.write_text(text)
        assert "lies outside" in refused("create", site.folder, "-o", tmp_path / "x", "--no-keys")
        site.settings_path.write_text(text.replace(f'charter = "{name}"', 'charter = "charter.toml"'))


# --- a cut through a log that is being written --------------------------------------------------------------------


def records(number: int) -> list[Record]:
    return [Record(RECORD_VOTE, number, bytes([number]) * 50)]


def test_a_cut_ends_where_the_last_whole_record_ends(tmp_path: Path) -> None:
    """A read that runs while two batches are written may see the second and half of the first: neither is taken."""
    disk = RealDisk(tmp_path)
    journal = Journal(disk, ledger_id=bytes(32), segment_bytes=1 << 16)
    journal.open()
    journal.append(records(1))
    path = "wal/00000000.seg"
    before = disk.read(path, 0, 1 << 16)
    end = len(before.rstrip(b"\0"))
    journal.append(records(2))
    journal.append(records(3))
    after = disk.read(path, 0, 1 << 16)
    hole = end + 40
    seen = [after[:hole] + bytes(1000) + after[hole + 1000 :], after]
    real = disk.read

    def read(name: str, offset: int, length: int) -> bytes:
        return seen.pop(0) if seen and length == 1 << 16 else real(name, offset, length)

    disk.read = read  # type: ignore[method-assign]
    ((name, size, data),) = cut(disk, WAL)
    assert (name, size) == (path, 1 << 16)
    copied = RealDisk(tmp_path / "copy")
    copied.make_folder("wal")
    copied.create(path, size)
    copied.write(path, 0, data)
    found = [*scan(copied, WAL, bytes(32))]
    assert not [one for one in found if isinstance(one, Finding) and one.verdict == "corruption"]
    assert [one.record for one in found if isinstance(one, Placed)] == [*records(1), *records(2), *records(3)][
        : len(found)
    ]


def test_a_cut_through_a_torn_end_or_damage_leaves_the_judgement_to_whoever_opens_it(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    journal = Journal(disk, ledger_id=bytes(32), segment_bytes=1 << 16)
    journal.open()
    for number in (1, 2, 3):
        journal.append([Record(RECORD_BLOCK, number, bytes([number]) * 100)])
    path = "blocks/00000000.seg"
    disk.write(path, 90, b"\xff")
    before = [*scan(disk, BLOCKS, bytes(32))]
    ((_, _, data),) = cut(disk, BLOCKS)
    assert data == disk.read(path, 0, 1 << 16).rstrip(b"\0")
    assert before
    assert [*cut(disk, FEED)] == []


def test_a_segment_that_is_dropped_meanwhile_makes_the_log_be_copied_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, dropped = b.cut, []

    def once(disk: RealDisk, log: str) -> Iterator[tuple[str, int, bytes]]:
        if log == WAL and not dropped:
            dropped.append(log)
            names = disk.names(log)
            monkeypatch.setattr(disk, "names", lambda folder: ["other"] if folder == log else real_names(folder))
            real_names = RealDisk(site.ledger).names
            del names
            raise StoreError("couldn't look at it: it is gone")
        monkeypatch.undo()
        return real(disk, log)

    monkeypatch.setattr(b, "cut", once)
    folder = site.folder.parent / "copy"
    folder.mkdir()
    disk = RealDisk(site.ledger)
    b._copy_log(disk, WAL, folder)
    assert dropped == [WAL]
    assert contents(folder / WAL) == contents(site.ledger / WAL)


def test_a_log_that_cannot_be_read_is_an_error_and_no_reason_to_try_for_ever(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(disk: RealDisk, log: str) -> Iterator[tuple[str, int, bytes]]:
        raise StoreError("couldn't read it: bad sector")

    monkeypatch.setattr(b, "cut", never)
    with pytest.raises(StoreError, match="bad sector"):
        b.create(
            site,
            site.load_settings(environment={}),
            LEFT.swarm.signed,
            site.folder.parent / "x",
            passphrase=None,
            made_ms=0,
            software="test",
        )
    assert {path.name for path in site.folder.parent.iterdir()} == {"site"}


def test_keys_that_are_replaced_meanwhile_are_copied_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    real, looks = b._read_keys, []

    def changing(one: Site) -> dict[str, str]:
        looks.append(1)
        return {**real(one), "node": "ab" * 32} if len(looks) == 1 else real(one)

    monkeypatch.setattr(b, "_read_keys", changing)
    made(site, None)
    assert len(looks) == 4
    monkeypatch.setattr(b, "_read_keys", lambda one: {**real(one), "node": str(len(looks)) + str(looks.append(1))})
    with pytest.raises(UsageError, match="being replaced"):
        b._copy_ledger(site, site.folder.parent, LEFT.swarm.signed.ledger_id)


# --- what never leaves the site -----------------------------------------------------------------------------------


def test_what_is_private_and_what_the_task_begins_with_come_back(site: Site, tmp_path: Path) -> None:
    ours = site.private / LEFT.swarm.signed.ledger_id.hex()[:16]
    folder = PrivateFolder(ours)
    for number in (1, 2):
        folder.keep(Own(number, {"private/head": np.full(3, number, np.float32)}, {"steps/head": number}))
    (ours / ".round-0000000003.safetensors.77").write_bytes(b"half of one")
    PrivateFolder(site.private / "another-swarm").keep(Own(1, {}, {"of": "another"}))
    digest = "0" * 64
    (site.folder / "task.py").write_text(f'initial = "start.safetensors"\ninitial_sha256 = "{digest}"\n')
    (site.folder / "start.safetensors").write_bytes(b"values to begin with")
    target = made(site, None)
    assert "start.safetensors: it is not there" not in swarm("verify", target)
    assert b"private/head" in target.read_bytes(), "nothing is encrypted without a passphrase"
    assert "private       2 files, NOT encrypted" in swarm("verify", target)
    site.folder.rename(tmp_path / "gone")
    swarm("restore", target, tmp_path / "back")
    back = Site(tmp_path / "back")
    assert (back.folder / "start.safetensors").read_bytes() == b"values to begin with"
    place = back.private / ours.name
    names = ["round-0000000001.safetensors", "round-0000000002.safetensors"]
    assert sorted(path.name for path in back.private.rglob("*") if path.is_file()) == names
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (back.folder, place, place / names[0])]
    assert modes == [0o700, 0o700, 0o600]
    assert PrivateFolder(place).before(9).under("private")["head"].tolist() == [2.0] * 3


@pytest.mark.parametrize("keys", [[], ["--no-keys"]], ids=["with keys", "without"])
def test_what_is_private_is_encrypted_with_the_passphrase_of_the_backup(
    site: Site, passphrase: Path, tmp_path: Path, keys: list[str]
) -> None:
    ours = site.private / LEFT.swarm.signed.ledger_id.hex()[:16]
    heads = {number: np.full(3, number * 1.7, np.float32) for number in (1, 2)}
    for number, head in heads.items():
        PrivateFolder(ours).keep(Own(number, {"private/head": head}, {}))
    before, target = contents(ours), tmp_path / "a.backup"
    assert "private: encrypted" in swarm("create", site.folder, "-o", target, *with_(passphrase), *keys)
    assert contents(ours) == before
    data = target.read_bytes()
    assert b"private/head" not in data
    assert not any(head.tobytes() in data for head in heads.values())
    assert "private       2 files, encrypted" in swarm("verify", target)
    assert "✔ private       2 files, opened" in swarm("verify", target, *with_(passphrase))
    site.folder.rename(tmp_path / "gone")
    assert "encrypted" in refused("restore", target, tmp_path / "back")
    other = tmp_path / "other"
    other.touch(mode=0o600)
    other.write_text("another one, and longer\n")
    assert "passphrase is another" in refused("restore", target, tmp_path / "back", *with_(other))
    assert not (tmp_path / "back").exists()
    swarm("restore", target, tmp_path / "back", *with_(passphrase))
    place = Site(tmp_path / "back").private / ours.name
    assert contents(place) == before
    assert [stat.S_IMODE(path.stat().st_mode) for path in sorted(place.iterdir())] == [0o600] * 2


def test_an_encrypted_private_file_that_was_put_in_anothers_place_opens_as_neither(
    site: Site, passphrase: Path, tmp_path: Path
) -> None:
    """By somebody who can sign as this site, and has not its passphrase."""
    ours = site.private / LEFT.swarm.signed.ledger_id.hex()[:16]
    for number in (1, 2):
        PrivateFolder(ours).keep(Own(number, {"private/head": np.full(3, number, np.float32)}, {}))
    target = made(site, passphrase)
    folder = tmp_path / "unpacked"
    folder.mkdir()
    manifest = b.unpack(target, folder)
    first, second = (folder / name for name in manifest.private)
    whole = first.read_bytes()
    for lie in (second.read_bytes(), whole[:-1], whole[:20], b""):
        first.write_bytes(lie)
        with pytest.raises(UsageError, match="couldn't open what is private"):
            b.open_private(target, folder, manifest, SECRET)
    first.write_bytes(whole)
    b.open_private(target, folder, manifest, SECRET)
    assert sorted(path.name for path in first.parent.iterdir()) == sorted(path.name for path in ours.iterdir())


def test_a_site_whose_keys_are_encrypted_writes_nothing_private_in_the_clear_unless_told(
    site: Site, passphrase: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.vault.OPSLIMIT", 1)
    monkeypatch.setattr("node.vault.MEMLIMIT", 8192)
    monkeypatch.setenv("SWARM_PASSPHRASE_FILE", str(passphrase))
    site.encrypt_keys(SECRET)
    swarm("create", site.folder, "-o", tmp_path / "nothing-private", "--no-keys")
    ours = site.private / LEFT.swarm.signed.ledger_id.hex()[:16]
    PrivateFolder(ours).keep(Own(1, {"private/head": np.full(3, 1, np.float32)}, {}))
    assert "in the clear" in refused("create", site.folder, "-o", tmp_path / "x", "--no-keys")
    assert not (tmp_path / "x").exists()
    said = swarm("create", site.folder, "-o", tmp_path / "x", "--no-keys", "--plain-private")
    assert "private: NOT encrypted" in said
    said = swarm("create", site.folder, "-o", tmp_path / "y", "--plain-private", *with_(passphrase))
    assert "private: NOT encrypted" in said
    assert "keys: inside, encrypted" in said


def test_blocks_after_the_last_snapshot_are_in_the_backup_and_counted(
    site: Site, passphrase: Path, tmp_path: Path
) -> None:
    """A node keeps a snapshot every few hundred blocks and when it stops: one that was killed once has an old one."""
    blocks = [record.payload for record in LEFT.records if record.kind == RECORD_BLOCK]
    *_, early = audit(blocks[:3], LEFT.swarm.signed)
    assert early.state.height == 3 < LEFT.state.height
    SnapshotFile(site.ledger / "snapshot").save(Snapshot(3, early.state.encode()))
    target = tmp_path / "late.backup"
    swarm("create", site.folder, "-o", target, "--passphrase-file", passphrase)
    assert "VALID" in swarm("verify", target, "--passphrase-file", passphrase)
    with target.open("rb") as file, tarfile.open(fileobj=file) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert (manifest["height"], manifest["round"]) == (LEFT.state.height, LEFT.state.committed.round)

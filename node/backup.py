"""SHELL. A site as one file: what it would need to be itself again, and nothing of its data.

::

    manifest.json     what is inside: each file's size and SHA-256, whose it is, how far the ledger had come
    manifest.sig      the site's signature over those bytes
    swarm.toml, charter.toml, card.toml, sponsors.toml, paused, disclosed, invites/*.invite, the task file, the loader
    privacy/spent     what of the site's privacy budget is spent;  privacy/audits, attacks on its own updates
    egress/log        what has left the site
    ledger/           the journal's segments, the newest checkpoint, the newest snapshot, proofs of forks
    blobs/            the committed model, the best round's where a run may end early, and in gossip this site's own
    private/          what of the model never leaves the site; with a passphrase each file is encrypted, as *.sealed
    keys.sealed       the site's keys, encrypted with a passphrase, if they are in it at all; what is encrypted in the
                      folder stays so inside

It is a tar file, so that it can be looked into without this software. The node may run meanwhile: the ledger is copied
as `swarm.ledger.journal.cut` says, which gives what a crash at some moment would have left. Whoever starts from an old
copy has said things since that it does not know of; asking before speaking (docs/decisions/0015) is what makes it safe,
and the reason why nothing is left out here and nothing is made up.

The secrets of a masked round are never in it: with them a later update would go under the masks of an earlier one.
Data are never in it, nor are exported models: the first are not this software's to copy, the second can be made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import socket
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec
from nacl import pwhash, secret
from nacl.exceptions import CryptoError
from nacl.utils import random as random_bytes

from gossip.zeromq import Incident, PeerAddress, Timing, Transport
from node.cli.output import UNAVAILABLE, Failure
from node.clock import Clock
from node.config import Settings
from node.declared import companions
from node.recovery import newest, recover
from node.runtime import seeded
from node.site import Site
from node.storage import (
    BlobStore,
    DirectoryLock,
    RealDisk,
    SnapshotFile,
    reserve,
    store_error,
    sync_folder,
    write_file_durably,
)
from node.vault import KEY_BYTES, LOCK, is_sealed, seal, unseal
from swarm import identity
from swarm.charter import SignedCharter
from swarm.errors import LedgerError, StoreError, UsageError
from swarm.identity import Identity, transport_keys
from swarm.ledger.journal import BLOCKS, FEED, WAL, Finding, Journal, cut, scan
from swarm.ledger.state import State, best_of
from swarm.machine import Digest, NodeId
from swarm.terms import Terms

FORMAT = "swarm-node/backup/v1"
FORMAT_SEALED = "swarm-node/backup/v2"
"""Of a backup with encrypted private files: older software refuses it in words, and does not go on without them."""
DOMAIN_BACKUP = b"swarm-node/backup/v1\0"

MANIFEST, SIGNATURE, SEALED = "manifest.json", "manifest.sig", "keys.sealed"
PRIVATE, PRIVATE_SEALED = "private/", ".sealed"
MANIFEST_BYTES_MAX = 64 << 20
"""A manifest has about 200 bytes a file: this is a ledger of five terabytes."""

RESERVED_BYTES_MAX = 64 << 20
"""Largest part of a file that is room and no content: a segment of the journal has at most 16 MiB of it."""

NAME_BYTES_MAX = 255
FILES_MAX = 1 << 20

COPY_TRIES = 5
"""Times a log, or the keys, are copied again because they were replaced meanwhile."""

_SALT_BYTES, _NONCE_BYTES = pwhash.argon2id.SALTBYTES, secret.SecretBox.NONCE_SIZE
_OPSLIMIT, _MEMLIMIT = pwhash.argon2id.OPSLIMIT_MODERATE, pwhash.argon2id.MEMLIMIT_MODERATE
"""Argon2id (RFC 9106) as libsodium advises where nobody waits: 256 MiB and about a second for each guess."""

_KEY_FILES = ("identity.seed", "curve.seed", "node", "next/identity.seed", "next/curve.seed", LOCK)
_SAFE = re.compile(r"[^\x00-\x1f\x7f\\:]{1,255}")

PROBE_S = 3.0
"""How long restoring asks whether somebody answers at this site's address."""

AGAIN = "copy it again from where you keep it, or use an older backup"


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file: `size` in bytes, of which the first `kept` are in the backup and the others are zeros; their SHA-256."""

    path: str
    size: int
    kept: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a backup holds. Ids, keys and digests are hexadecimal.

    `key` is the public identity key that signs. `keys` is whether the secret ones are inside, sealed. `charter` is the
    file with the terms. `height` and `round` are the last block and the last committed round, `model` that round's
    model if it is inside. `host` and `folder` say where the original lay.
    """

    format: str
    software: str
    made_ms: int
    swarm: str
    ledger_id: str
    name: str
    node: str
    key: str
    keys: bool
    charter: str
    height: int
    round: int
    model: str
    host: str
    folder: str
    files: tuple[Item, ...]

    @property
    def private(self) -> tuple[str, ...]:
        """The files of what never leaves the site, as they are called inside."""
        return tuple(item.path for item in self.files if item.path.startswith(PRIVATE))

    @property
    def sealed(self) -> bool:
        """Whether those are encrypted."""
        return self.format == FORMAT_SEALED


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was written. `left_out` says, a line each, what a person might miss in it."""

    path: Path
    size: int
    manifest: Manifest
    left_out: tuple[str, ...]


# --- making -------------------------------------------------------------------------------------------------------


def create(
    site: Site,
    settings: Settings,
    signed: SignedCharter,
    output: Path,
    *,
    passphrase: str | None,
    made_ms: int,
    software: str,
    keys: bool = True,
    plain: bool = False,
) -> Made:
    """Write a backup of a site, whose node may be running. Without a passphrase, or `keys`, its keys are left out.

    What is private is encrypted where there is a passphrase; `plain` leaves it as it is.

    Raises:
        UsageError: the file is there already, or something that belongs into it cannot be read; or what is private
            would be in the clear although the site's own keys are not, and nobody has said `plain`.
        LedgerError: the ledger on this disk is damaged.
        StoreError: the disk fails, or is full. Nothing is left of what was begun.
    """
    if output.exists():
        raise UsageError(f"couldn't write {output}: it is there already", hint="name another file; none is overwritten")
    staging = output.with_name(f".{output.name}.making")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True, mode=0o700)
        return _create(site, settings, signed, output, staging, passphrase, made_ms, software, keys=keys, plain=plain)
    except OSError as error:
        raise store_error(f"write {output}", error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        output.with_name(f".{output.name}.part").unlink(missing_ok=True)


def _create(
    site: Site,
    settings: Settings,
    signed: SignedCharter,
    output: Path,
    staging: Path,
    passphrase: str | None,
    made_ms: int,
    software: str,
    *,
    keys: bool,
    plain: bool,
) -> Made:
    left_out: list[str] = []
    seeds = _copy_ledger(site, staging, signed.ledger_id)
    own = Identity.from_seed(*(site.vault.seed(name, seeds[name]) or b"" for name in _KEY_FILES[:2]))
    left_out += _copy_files(site, settings, staging)
    state = _settle(staging, signed)
    left_out += _copy_models(site, staging, state)
    private = _copy_private(site, staging, signed.ledger_id)
    for_keys, for_private = passphrase if keys else None, None if plain else passphrase
    if private and passphrase is None and site.vault.locked and not plain:
        raise UsageError(
            "couldn't make a backup: what is private would be in it in the clear, and this site's keys are encrypted",
            hint="say --passphrase-file FILE, beside --no-keys if they are to stay out; or --plain-private",
        )
    if private and for_private is not None:
        _seal_private(staging, private, for_private)
    if for_keys is not None:
        (staging / SEALED).write_bytes(_seal(seeds, for_keys))
    else:
        left_out.append(f"the keys: keep a copy of {site.keys} elsewhere, nobody is this site without them")
    model = Digest(state.committed.model)
    manifest = Manifest(
        format=FORMAT_SEALED if private and for_private is not None else FORMAT,
        software=software,
        made_ms=made_ms,
        swarm=signed.charter.name,
        ledger_id=signed.ledger_id.hex(),
        name=settings.site.name,
        node=site.node().hex(),
        key=own.id_key.public.hex(),
        keys=for_keys is not None,
        charter=_inside(site.folder, settings.site.charter) or "",
        height=state.height,
        round=state.committed.round,
        model=model.hex() if (staging / "blobs" / model.hex()).exists() else "",
        host=socket.gethostname(),
        folder=str(site.folder.resolve()),
        files=tuple(_item(staging, path) for path in sorted(staging.rglob("*")) if path.is_file()),
    )
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    beside = output.with_name(f".{output.name}.part")
    with beside.open("xb") as file:
        beside.chmod(0o600)
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, MANIFEST, io.BytesIO(text), len(text), made_ms)
            signature = own.id_key.sign(DOMAIN_BACKUP + text).hex().encode() + b"\n"
            _add(tar, SIGNATURE, io.BytesIO(signature), len(signature), made_ms)
            for item in manifest.files:
                with (staging / item.path).open("rb") as content:
                    _add(tar, item.path, content, item.kept, made_ms)
        file.flush()
        _sync(file)
    beside.rename(output)
    sync_folder(output.absolute().parent)
    return Made(output, output.stat().st_size, manifest, tuple(left_out))


def _copy_ledger(site: Site, staging: Path, ledger_id: bytes) -> dict[str, str]:
    """Copy the ledger's files, and return the keys as they were the whole time.

    What follows from the blocks is copied before them, so that they have come as far; the keys do not change meanwhile,
    or the ledger might know this site by others than those that are in the backup.
    """
    ledger = staging / "ledger"
    for _ in range(COPY_TRIES):
        keys = _read_keys(site)
        shutil.rmtree(ledger, ignore_errors=True)
        ledger.mkdir(mode=0o700)
        for path in (
            *(site.ledger / name for name in ("snapshot", "checkpoint", "unaudited")),
            *site.ledger.glob("fork-*"),
        ):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(path, ledger / path.name)
        disk = RealDisk(site.ledger)
        try:
            for log in (WAL, FEED, BLOCKS):
                _copy_log(disk, log, ledger)
        finally:
            disk.close()
        if _read_keys(site) == keys:
            _check_copied(ledger, ledger_id)
            return keys
    raise UsageError(
        "couldn't make a backup: this site's keys are being replaced just now", hint="try again in a minute"
    )


def _copy_log(disk: RealDisk, log: str, target: Path) -> None:
    """Copy a log whole, again if its first segments were dropped meanwhile."""
    for attempt in range(COPY_TRIES):
        names = disk.names(log)
        shutil.rmtree(target / log, ignore_errors=True)
        (target / log).mkdir(mode=0o700)
        try:
            for path, size, data in cut(disk, log):
                with (target / path).open("wb", buffering=0) as file:
                    file.write(data)
                    file.truncate(size)
            return
        except StoreError:
            if disk.names(log) == names or attempt == COPY_TRIES - 1:
                raise


def _check_copied(ledger: Path, ledger_id: bytes) -> None:
    """A backup of damage is none. Raises `LedgerError`."""
    disk = RealDisk(ledger)
    try:
        for log in (BLOCKS, WAL, FEED):
            for found in scan(disk, log, ledger_id):
                if isinstance(found, Finding) and found.verdict == "corruption":
                    raise LedgerError(
                        f"couldn't make a backup: ledger/{found.path} at byte {found.offset}: {found.text}",
                        hint="the disk is damaged: `swarm ledger verify` says what is lost and what to do",
                    )
    finally:
        disk.close()


def _read_keys(site: Site) -> dict[str, str]:
    site.load_identity()  # says in words what is wrong with them
    found = {}
    for name in _KEY_FILES:
        with contextlib.suppress(FileNotFoundError):
            found[name] = (site.keys / name).read_text(encoding="ascii").strip()
    return found


def _copy_files(site: Site, settings: Settings, staging: Path) -> list[str]:
    """Copy what people wrote, or were given. Return what lies outside the folder and so is left where it is."""
    if _inside(site.folder, settings.site.charter) is None:
        raise UsageError(
            f"couldn't make a backup: the charter {settings.site.charter} lies outside {site.folder}",
            hint="copy it into the folder and set site.charter to its name there",
        )
    wanted = [("swarm.toml", True), (settings.site.charter, True), ("card.toml", False), ("sponsors.toml", False)]
    wanted += [
        (site.paused_path.name, False),
        (site.disclosed_path.name, False),
        ("privacy/spent", False),
        ("egress/log", False),
        ("privacy/audits", False),
        (settings.task.file, False),
    ]
    wanted += [(settings.task.loader, False)] if settings.task.loader else []
    beside = companions(site.folder / settings.task.file)
    wanted += [(str(PurePosixPath(settings.task.file).with_name(path.name)), True) for path in beside]
    wanted += [(f"invites/{path.name}", False) for path in sorted(site.invites.glob("*.invite"))]
    left_out = []
    for name, needed in wanted:
        inside = _inside(site.folder, name)
        if inside is None:
            left_out.append(f"{name}: it lies outside the site's folder")
            continue
        try:
            (staging / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(site.folder / inside, staging / inside)
        except FileNotFoundError:
            if needed or name == settings.task.file:
                left_out.append(f"{name}: it is not there")
    return left_out


def _settle(staging: Path, signed: SignedCharter) -> State:
    """Open the copied ledger as a start would, cutting off what a crash would have, and return what it leads to."""
    disk = RealDisk(staging / "ledger")
    try:
        journal = Journal(disk, ledger_id=signed.ledger_id)
        return newest(recover(journal, disk, SnapshotFile(staging / "ledger" / "snapshot"), signed), signed)
    finally:
        disk.close()


def _copy_models(site: Site, staging: Path, state: State) -> list[str]:
    """Copy the models that the swarm could not go on without, were every site to begin from its backup."""
    me, wanted = site.node(), {}
    if state.committed.model_bytes:
        wanted[Digest(state.committed.model)] = f"the model of round {state.committed.round}"
    best = best_of(state)
    if best is not None and best.model_bytes:
        wanted.setdefault(Digest(best.model), f"the model of the best round, {best.round}")
    own = None if state.exchange is None else state.exchange.models.get(me)
    if own is not None:
        wanted[Digest(own.model)] = "this site's own model"
    store, left_out = BlobStore(staging / "blobs"), []
    for digest, what in wanted.items():
        path = store.new_file()
        try:
            shutil.copyfile(site.blobs / digest.hex(), path)
        except FileNotFoundError:
            left_out.append(f"{what}: this site does not hold it now; others send it")
            continue
        stored = store.hash_file(path)
        if stored.digest == digest:
            store.adopt(path, stored)
        else:
            path.unlink()
            left_out.append(f"{what}: it is damaged on this disk; others send it")
    return left_out


def _copy_private(site: Site, staging: Path, ledger_id: bytes) -> list[Path]:
    """Copy what the site keeps to itself; return the copies. Each file is replaced whole, so each is of some moment."""
    copies = []
    for path in sorted((site.private / ledger_id.hex()[:16]).glob("*.safetensors")):
        target = staging / path.relative_to(site.folder)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileNotFoundError):  # Let go of meanwhile, being old.
            shutil.copyfile(path, target)
            copies.append(target)
    return copies


def _seal_private(staging: Path, copies: Sequence[Path], passphrase: str) -> None:
    """Put an encrypted file in the place of each: salt, nonce and box, bound to what the file is called."""
    salt = random_bytes(_SALT_BYTES)
    key = _derived(passphrase, salt)
    for path in copies:
        name = path.relative_to(staging).as_posix()
        path.with_name(path.name + PRIVATE_SEALED).write_bytes(salt + seal(path.read_bytes(), _label(name), key))
        path.unlink()


def open_private(path: Path, folder: Path, manifest: Manifest, passphrase: str) -> None:
    """Put what was private, decrypted, in the place of each encrypted file of an unpacked backup.

    Raises:
        UsageError: the passphrase is another.
        StoreError: it cannot be written.
    """
    keys: dict[bytes, bytes] = {}
    for name in manifest.private if manifest.sealed else ():
        place = folder / name
        sealed, target = place.read_bytes(), place.with_name(place.name.removesuffix(PRIVATE_SEALED))
        salt = sealed[:_SALT_BYTES]
        try:
            if salt not in keys:
                keys[salt] = _derived(passphrase, salt)
            plain = unseal(sealed[_SALT_BYTES:], _label(name.removesuffix(PRIVATE_SEALED)), keys[salt])
        except (CryptoError, ValueError, TypeError):
            raise UsageError(
                f"couldn't open what is private in {path}: the passphrase is another, or it was damaged",
                hint="give the file with the passphrase it was encrypted with",
            ) from None
        write_file_durably(target, plain)
        place.unlink()


def _label(name: str) -> bytes:
    return f"{FORMAT_SEALED} {name}".encode()


def _inside(folder: Path, name: str) -> str | None:
    """Return a path as it is called within a folder, or None if it leads out of it."""
    name = str(PurePosixPath(name))
    return name if _is_safe(name) and (folder / name).resolve().is_relative_to(folder.resolve()) else None


def _item(staging: Path, path: Path) -> Item:
    data_end, digest = path.stat().st_size, hashlib.sha256()
    if path.suffix == ".seg":
        content = path.read_bytes().rstrip(b"\0")
        data_end = len(content)
        digest.update(content)
    else:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    return Item(path.relative_to(staging).as_posix(), path.stat().st_size, data_end, digest.hexdigest())


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes], size: int, made_ms: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, made_ms // 1000
    tar.addfile(info, content)


def _sync(file: IO[bytes]) -> None:
    os.fsync(file.fileno())


# --- keys ---------------------------------------------------------------------------------------------------------


def _seal(keys: Mapping[str, str], passphrase: str) -> bytes:
    salt, nonce = random_bytes(_SALT_BYTES), random_bytes(_NONCE_BYTES)
    return salt + bytes(_box(passphrase, salt).encrypt(msgspec.json.encode(dict(keys)), nonce))


def open_keys(sealed: bytes, passphrase: str) -> dict[str, str]:
    """Return the keys in a backup, file by file. Raises `UsageError` when the passphrase is another."""
    try:
        plain = _box(passphrase, sealed[:_SALT_BYTES]).decrypt(sealed[_SALT_BYTES:])
        found = msgspec.json.decode(plain, type=dict[str, str])
        if not {*_KEY_FILES[:2]} <= {*found} <= {*_KEY_FILES}:
            raise ValueError
    except (CryptoError, ValueError, TypeError, msgspec.DecodeError):
        raise UsageError(
            "couldn't open the keys in this backup: the passphrase is another, or they were damaged",
            hint="give the file with the passphrase they were sealed with",
        ) from None
    return found


def _box(passphrase: str, salt: bytes) -> secret.SecretBox:
    return secret.SecretBox(_derived(passphrase, salt))


def _derived(passphrase: str, salt: bytes) -> bytes:
    """Return the key that a passphrase makes, of as many bytes as both ciphers take."""
    return pwhash.argon2id.kdf(KEY_BYTES, passphrase.encode(), salt, opslimit=_OPSLIMIT, memlimit=_MEMLIMIT)


# --- reading ------------------------------------------------------------------------------------------------------


def unpack(path: Path, target: Path) -> Manifest:
    """Write what is in a backup into an empty folder, checking every size, digest and the signature over all of them.

    Nothing is believed before it is checked: names that lead out of the folder, sizes that the file does not have, and
    files that nobody named are refused. Whose the key is that signed has to be asked of the ledger inside: `check_key`.

    Raises:
        UsageError: it is no backup, or there is no room for it.
        LedgerError: it is damaged, or was changed.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            manifest = _read_manifest(path, tar)
            free = shutil.disk_usage(target).free
            needed = sum(item.size for item in manifest.files)
            if needed > free:
                raise UsageError(
                    f"couldn't unpack {path}: it takes {needed >> 20} MiB, and {target} has {free >> 20} MiB free",
                    hint="make room, or name a folder on another disk",
                )
            (target / "ledger").mkdir(mode=0o700)
            for item in manifest.files:
                _extract(tar, item, target)
            if tar.next() is not None:
                raise _damaged(path, "it holds a file that its manifest does not name")
            return manifest
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        # Headers that only announce others lead tarfile from one into the next (as CVE-2025-8194 does).
        if isinstance(error, tarfile.ReadError) and not _begins_like_one(path):
            hint = "`swarm backup create` makes one"
            raise UsageError(f"couldn't read {path}: it is no backup", hint=hint) from None
        raise _damaged(path, "it ends before its last file, or its headers cannot be read") from None
    except OSError as error:
        raise store_error(f"unpack {path}", error) from error


def _read_manifest(path: Path, tar: tarfile.TarFile) -> Manifest:
    text = _take(tar, MANIFEST, MANIFEST_BYTES_MAX)
    if text is None:
        raise UsageError(f"couldn't read {path}: it is no backup", hint="`swarm backup create` makes one")
    signature = _take(tar, SIGNATURE, 1024) or b""
    try:
        version = msgspec.json.decode(text, type=_Versioned)
        if version.format not in (FORMAT, FORMAT_SEALED):
            raise UsageError(
                f"couldn't read {path}: it is of format {version.format[:40]!r}, known are {FORMAT!r} and v2",
                hint="a newer version of this software may have made it: update",
            )
        manifest = msgspec.json.decode(text, type=Manifest)
        key, signed = bytes.fromhex(manifest.key), bytes.fromhex(signature.decode("ascii").strip())
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise _damaged(path, "its manifest cannot be read") from None
    if not identity.verify(key, DOMAIN_BACKUP + text, signed):
        raise _damaged(path, "the signature over its manifest does not hold")
    _check_manifest(path, manifest)
    return manifest


class _Versioned(msgspec.Struct):
    format: str


def _check_manifest(path: Path, manifest: Manifest) -> None:
    names = [item.path for item in manifest.files]
    if len(names) > FILES_MAX or len({*names}) != len(names) or not all(_is_safe(name) for name in names):
        raise _damaged(path, "it names files that a site does not have")
    for item in manifest.files:
        room = item.size - item.kept
        if not 0 <= item.kept <= item.size or room > (RESERVED_BYTES_MAX if item.path.endswith(".seg") else 0):
            raise _damaged(path, f"{item.path} cannot have the size it names")
    if not _is_safe(manifest.charter) or manifest.charter not in names or manifest.keys != (SEALED in names):
        raise _damaged(path, "it lacks a file that it says it has")
    if {name.endswith(PRIVATE_SEALED) for name in manifest.private} - {manifest.sealed}:
        raise _damaged(path, "what is private is not as it says")


def _is_safe(name: str) -> bool:
    """Whether a path stays within the folder it is relative to, on any system."""
    parts = PurePosixPath(name).parts
    plain = all(part not in ("..", ".") and _SAFE.fullmatch(part) for part in parts)
    return bool(parts) and plain and not name.startswith("/") and str(PurePosixPath(name)) == name


def _take(tar: tarfile.TarFile, name: str, limit: int) -> bytes | None:
    info = tar.next()
    if info is None or info.name != name or not info.isreg() or info.size > limit:
        return None
    content = tar.extractfile(info)
    return None if content is None else content.read()


def _extract(tar: tarfile.TarFile, item: Item, target: Path) -> None:
    info = tar.next()
    content = None if info is None or not info.isreg() or info.name != item.path else tar.extractfile(info)
    if info is None or content is None or info.size != item.kept:
        raise _damaged(Path(str(tar.name)), f"{item.path} is not in it, or of another size")
    place = target / item.path
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    digest, left = hashlib.sha256(), item.kept
    with place.open("xb", buffering=0) as file:
        place.chmod(0o600)
        while left:
            data = content.read(min(left, 1 << 20))
            if not data:
                raise EOFError
            digest.update(data)
            file.write(data)
            left -= len(data)
        if item.size > item.kept:
            reserve(file.fileno(), item.size)
        _sync(file)
    if digest.hexdigest() != item.sha256:
        raise _damaged(Path(str(tar.name)), f"{item.path} is not what was put there")


def _begins_like_one(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MANIFEST)) == MANIFEST.encode()


def _damaged(path: Path, why: str) -> LedgerError:
    return LedgerError(f"couldn't use {path}: {why}", hint=AGAIN)


def check_key(path: Path, manifest: Manifest, epochs: Sequence[Terms]) -> None:
    """Raise `LedgerError` unless the key that signed a backup is, or was, its site's own by the ledger inside."""
    node, key = NodeId(bytes.fromhex(manifest.node)), bytes.fromhex(manifest.key)
    own = {terms.members[index].id_key for terms in epochs if (index := terms.index(node)) is not None}
    if key not in own and identity.node_id(key) != node:
        raise _damaged(path, f"the key that signed it is not one of {manifest.name}")


def check_keys(path: Path, folder: Path, manifest: Manifest, passphrase: str) -> dict[str, str]:
    """Open the keys in an unpacked backup; they must be those that signed it. Raises `UsageError`, `LedgerError`."""
    if not manifest.keys:
        raise UsageError(f"couldn't open the keys in {path}: it was made without", hint="leave --passphrase-file out")
    keys = open_keys((folder / SEALED).read_bytes(), passphrase)
    if any(is_sealed(text) for text in keys.values()):
        return keys  # By the site's own passphrase, once more. That these are the signer's, the manifest's digest says.
    own = Identity.from_seed(*(bytes.fromhex(keys[name]) for name in _KEY_FILES[:2]))
    if own.id_key.public.hex() != manifest.key:
        raise _damaged(path, "the keys inside are not those that signed it")
    return keys


# --- restoring ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` in one step if all goes well, and is gone if not.

    Raises:
        UsageError: there is something already, which is never overwritten.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"couldn't restore into {folder}: there is something there already",
            hint="name a folder that does not exist; nothing is ever overwritten",
        )
    staging = folder.absolute().with_name(f".{folder.absolute().name}.restoring")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True, mode=0o700)
        yield staging
        staging.rename(folder)
        sync_folder(folder.absolute().parent)
    except OSError as error:
        raise store_error(f"restore into {folder}", error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def put_keys(folder: Path, keys: Mapping[str, str] | None) -> None:
    """Leave an unpacked backup with its keys where a site has them, and nothing sealed."""
    (folder / SEALED).unlink(missing_ok=True)
    for name, text in (keys or {}).items():
        path = folder / "keys" / name
        for parent in (folder / "keys", path.parent):
            parent.mkdir(exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.write_text(text + "\n", encoding="ascii")


def original_at(manifest: Manifest) -> str:
    """Say why the folder that a backup was made of is still in use, or may be; nothing if it is not on this machine."""
    original = Site(Path(manifest.folder))
    if manifest.host != socket.gethostname() or not original.keys.is_dir():
        return ""
    try:
        if original.node().hex() != manifest.node:
            return ""
        DirectoryLock(original.run / "lock").close()
    except UsageError as error:
        return "its node is running" if "is running there" in error.message else ""
    except StoreError:
        return ""
    return "it is still there, with its keys"


def refuse_beside(name: str, node: NodeId, terms: Terms, *, hint: str) -> None:
    """Raise `Failure` if a node with a site's own keys answers at the address that the members know it by."""
    index = terms.index(node)
    if index is None:
        return
    seat = terms.members[index]
    address = PeerAddress(node=node, name=name, curve_key=seat.curve_key, endpoint=seat.endpoint)
    if answers(address, Clock().now):
        raise Failure(
            f"couldn't begin to be {name}: a node with its keys answers at {seat.endpoint}", code=UNAVAILABLE, hint=hint
        )


def answers(address: PeerAddress, clock: Callable[[], float]) -> bool:
    """Whether a node with this site's own transport key answers at its address, as far as can be told in a moment.

    A listener that holds the key can open a greeting that is sealed for it, and keeps a stranger waiting; any other
    hangs up at once. Nothing is learnt where nobody can be reached, or where the site only dials.
    """
    if not address.endpoint:
        return False
    public, private = transport_keys(random_bytes(32))
    timing = Timing(handshake_s=PROBE_S / 2)
    rng = seeded(public)
    stranger = Transport(
        secret_key=private, public_key=public, listen=None, peers=[address], clock=clock, rng=rng, timing=timing
    )
    stranger.open()
    try:
        end = clock() + PROBE_S
        while clock() < end:
            for item in stranger.poll(0.1):
                if isinstance(item, Incident):
                    return item.event in ("handshake_timeout", "denied")
        return False
    finally:
        stranger.close()

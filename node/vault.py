"""SHELL. Keys at rest: a site's secret seeds, each encrypted by one key that a passphrase opens.

::

    keys/lock             the main key, encrypted by what Argon2id makes of the passphrase
    keys/identity.seed    "sealed:v1:" and the seed, encrypted by the main key; or plain hexadecimal, as ever
    keys/curve.seed, keys/next/*.seed   the same

Two layers, as disks are encrypted (LUKS), because files are replaced one at a time. Another passphrase is another
`lock` and nothing else, in one step; and while seeds are being encrypted or decrypted one by one each says for itself
which it is, so after a kill at any moment every one of them can be read by whoever has the passphrase, and the same
command finishes the work. The main key never changes, so a lock that somebody copied opens for ever with the passphrase
of its day: after a leak the site's keys are to be replaced (`swarm rotate`), not only the passphrase.

The construction is libsodium's: Argon2id (RFC 9106), XChaCha20-Poly1305. Each seed is bound to the name of its file,
the lock to its own parameters, so nothing can be put in another's place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from nacl import bindings, pwhash
from nacl.exceptions import CryptoError
from nacl.exceptions import RuntimeError as NaClRuntimeError
from nacl.utils import random as random_bytes

from node.passphrase import LOCKED
from node.storage import store_error, sync_folder, write_file_durably
from swarm.errors import UsageError
from swarm.identity import SEED_BYTES

FORMAT = "swarm-node/keys/v1"
SEALED = "sealed:v1:"
LOCK = "lock"
SEEDS = ("identity.seed", "curve.seed")

OPSLIMIT, MEMLIMIT = pwhash.argon2id.OPSLIMIT_MODERATE, pwhash.argon2id.MEMLIMIT_MODERATE
"""As libsodium advises where nobody waits: 256 MiB and about a second for each guess."""
OPSLIMIT_MAX, MEMLIMIT_MAX = 16, 1 << 30
"""Largest that are believed of a file, so that a changed one does not cost the machine."""

LOCK_BYTES_MAX = 4096
KEY_BYTES = bindings.crypto_aead_xchacha20poly1305_ietf_KEYBYTES
_NONCE_BYTES = bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file `lock`. `salt` and `box` are hexadecimal; the box is a nonce and the encrypted main key."""

    format: str
    opslimit: int
    memlimit: int
    salt: str
    box: str

    def label(self) -> bytes:
        """Return what the box is bound to."""
        return f"{FORMAT} lock {self.opslimit} {self.memlimit} {self.salt}".encode()


class Vault:
    """The secrets in a folder of keys.

    `passphrase` is asked once, when something encrypted is first to be read, and is told what it is for. The main key
    stays in this process's memory: a peer takes up new keys, and tries its old ones, long after its start.
    """

    def __init__(self, keys: Path, passphrase: Callable[[str], str]) -> None:
        self._keys, self._passphrase = keys, passphrase
        self._main: bytes | None = None

    @property
    def locked(self) -> bool:
        """Whether new seeds are to be written encrypted."""
        return (self._keys / LOCK).exists()

    def seed(self, name: str, text: str) -> bytes | None:
        """Return the seed that a key file of this name, without folders, holds; None if it is none.

        Raises:
            UsageError: it is encrypted, and the passphrase is missing or another.
        """
        text = text.strip()
        with contextlib.suppress(ValueError):
            if not text.startswith(SEALED):
                seed = bytes.fromhex(text)
                return seed if len(seed) == SEED_BYTES else None
            box = bytes.fromhex(text.removeprefix(SEALED))
            try:
                seed = unseal(box, _label(name), self._opened())
            except CryptoError:
                return None  # The main key is right: this file is another's, or damaged.
            return seed if len(seed) == SEED_BYTES else None
        return None

    def written(self, name: str, seed: bytes) -> bytes:
        """Return what to write for a seed: encrypted where the others are. Raises `UsageError` as `seed` does."""
        return self._sealed(name, seed) if self.locked else seed.hex().encode() + b"\n"

    def encrypt(self, passphrase: str) -> list[str]:
        """Encrypt every seed that is not; return which. Again after a crash, with the same passphrase, it goes on.

        Raises:
            UsageError: some are encrypted, and by another passphrase; or one is damaged. Nothing has been changed then.
            StoreError: the disk failed. Each seed is there, encrypted or as it was.
        """
        plain = {path: path.read_text(encoding="ascii").strip() for path in self._files()}
        sealed = [path for path, text in plain.items() if text.startswith(SEALED)]
        seeds = {path: self._plain(path, text) for path, text in plain.items() if path not in sealed}
        if sealed or self.locked:
            try:
                self._main = self._unlocked(passphrase)
            except UsageError:
                if sealed:
                    raise
                self._main = None  # A lock that locks nothing: an attempt that ended before its first seed.
        if self._main is None or not self.locked:
            self._main = random_bytes(KEY_BYTES)
            self._write_lock(self._main, passphrase)
        for path, seed in seeds.items():
            write_file_durably(path, self._sealed(path.name, seed))
            assert self.seed(path.name, path.read_text(encoding="ascii")) == seed, "what was written reads back"
        self._sweep()
        return [self._named(path) for path in seeds]

    def decrypt(self, passphrase: str) -> list[str]:
        """Write every seed in plain again, and then let go of the lock; return which. Raises as `encrypt`."""
        if not self.locked:
            return []
        self._main = self._unlocked(passphrase)
        found = {path: self._plain(path, path.read_text(encoding="ascii")) for path in self._files()}
        for path, seed in found.items():
            write_file_durably(path, seed.hex().encode() + b"\n")
        try:
            (self._keys / LOCK).unlink()
        except OSError as error:
            raise store_error(f"remove {self._keys / LOCK}", error) from error
        sync_folder(self._keys)
        self._sweep()
        return [self._named(path) for path in found]

    def change(self, passphrase: str, fresh: str) -> None:
        """Let another passphrase open the same keys, in one step. Raises as `encrypt`."""
        if not self.locked:
            raise UsageError(
                f"couldn't change the passphrase of the keys in {self._keys}: they are not encrypted",
                hint="encrypt them with `swarm key encrypt`",
            )
        main = self._unlocked(passphrase)
        self._write_lock(main, fresh)

    def check(self, passphrase: str) -> None:
        """Raise `UsageError` unless this passphrase opens the lock."""
        if self.locked:
            self._main = self._unlocked(passphrase)

    def files(self) -> list[Path]:
        """Return the files of seeds that there are, those of keys in waiting too."""
        return [*self._files()]

    # --- parts --------------------------------------------------------------------------------------------------

    def _files(self) -> Iterator[Path]:
        for folder in (self._keys, self._keys / "next"):
            yield from (folder / name for name in SEEDS if (folder / name).exists())

    def _named(self, path: Path) -> str:
        return path.relative_to(self._keys).as_posix()

    def _plain(self, path: Path, text: str) -> bytes:
        seed = self.seed(path.name, text)
        if seed is None:
            raise UsageError(
                f"couldn't use {path}: it does not hold a key",
                hint="restore it from your backup",
                identifier="SWARM-SITE-KEYS",
            )
        return seed

    def _opened(self) -> bytes:
        if self._main is None:
            self._main = self._unlocked(self._passphrase(f"the keys in {self._keys}"))
        return self._main

    def _sealed(self, name: str, seed: bytes) -> bytes:
        return f"{SEALED}{seal(seed, _label(name), self._opened()).hex()}\n".encode()

    def _write_lock(self, main: bytes, passphrase: str) -> None:
        empty = Lock(FORMAT, OPSLIMIT, MEMLIMIT, random_bytes(pwhash.argon2id.SALTBYTES).hex(), "")
        box = seal(main, empty.label(), _derived(passphrase, empty))
        text = msgspec.json.encode(msgspec.structs.replace(empty, box=box.hex()))
        write_file_durably(self._keys / LOCK, text + b"\n")

    def _unlocked(self, passphrase: str) -> bytes:
        """Return the main key. Raises `UsageError`."""
        path = self._keys / LOCK
        try:
            data = path.read_bytes()
            if len(data) > LOCK_BYTES_MAX:
                raise ValueError("too long")
            lock = msgspec.json.decode(data, type=Lock)
            bounded = 1 <= lock.opslimit <= OPSLIMIT_MAX and 8192 <= lock.memlimit <= MEMLIMIT_MAX
            if lock.format != FORMAT or not bounded or len(bytes.fromhex(lock.salt)) != pwhash.argon2id.SALTBYTES:
                raise ValueError("of no form that is known")
            box = bytes.fromhex(lock.box)
        except (OSError, ValueError, msgspec.DecodeError, RecursionError):
            raise UsageError(
                f"couldn't open the keys in {self._keys}: {path} is missing or damaged",
                hint="restore it from your backup; without it nobody can open them",
                identifier="SWARM-SITE-KEYS",
            ) from None
        try:
            return unseal(box, lock.label(), _derived(passphrase, lock))
        except CryptoError:
            raise UsageError(
                f"couldn't open the keys in {self._keys}: the passphrase is another, or {LOCK} was changed",
                hint="give the one they were encrypted with; nothing was changed",
                identifier=LOCKED,
            ) from None

    def _sweep(self) -> None:
        """Remove what an interrupted write has left beside a seed: it may be one in plain."""
        for folder in (self._keys, self._keys / "next"):
            for path in (*folder.glob(".*.seed.*"), *folder.glob(f".{LOCK}.*")):
                with contextlib.suppress(OSError):
                    path.unlink()


def is_sealed(text: str) -> bool:
    """Whether a key file's text is an encrypted seed."""
    return text.startswith(SEALED)


def _label(name: str) -> bytes:
    return f"{FORMAT} {name}".encode()


def _derived(passphrase: str, lock: Lock) -> bytes:
    salt, text = bytes.fromhex(lock.salt), passphrase.encode()
    try:
        return pwhash.argon2id.kdf(KEY_BYTES, text, salt, opslimit=lock.opslimit, memlimit=lock.memlimit)
    except NaClRuntimeError:
        raise UsageError(
            f"couldn't open or encrypt keys: there are no {lock.memlimit >> 20} MiB of memory for it",
            hint="give this process more memory for a moment",
        ) from None


def seal(data: bytes, label: bytes, key: bytes) -> bytes:
    """Return data encrypted by a key of `KEY_BYTES`, and bound to a label that is no secret."""
    nonce = random_bytes(_NONCE_BYTES)
    return nonce + bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(data, label, nonce, key)


def unseal(box: bytes, label: bytes, key: bytes) -> bytes:
    """Return what `seal` was given. Raises `CryptoError` where key, label or box are others."""
    if len(box) < _NONCE_BYTES + bindings.crypto_aead_xchacha20poly1305_ietf_ABYTES:
        raise CryptoError("too short")
    nonce, rest = box[:_NONCE_BYTES], box[_NONCE_BYTES:]
    return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(rest, label, nonce, key)

"""SHELL. A site's folder: settings, keys, card, charter, and where everything else lies.

::

    swarm.toml        settings
    keys/             identity.seed, curve.seed; nobody else may read them. next/ has keys the members have not agreed
                      to yet, node the id of a site whose identity key is not its first
    card.toml         the public side of the keys, to hand out
    charter.toml      the signed terms
    sponsors.toml     of a site that joined later: the member that invited it
    invites/          invitations this site has given
    paused            there while this site is paused by its people
    restored          there from when a backup was restored until its node has been started
    alone/            what this site reaches without the swarm, if it wants to know (`node.alone`)
    disclosed         of how many cases this site has told scores
    ledger/           the journal, and the newest cosigned checkpoint
    blobs/            models and updates in hand
    models/           what is exported
    privacy/spent     what of the privacy budget is spent (`node.spending`)
    egress/           what has left this site, and what people have to say to what waits (`node.egress`)
    privacy/audits    attacks on its own updates, and how far they got (`node.audits`)
    masks             secrets of the masked round that this site is in; gone with the round, and in no backup
    private/          what of the model never leaves this site, by ledger; nobody else may read it (`node.private`)
    run/              lock, control socket, logs; may be deleted when the node is down
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from node.admission import contact_from_toml
from node.config import Settings, check_address, load
from node.passphrase import given
from node.storage import store_error, write_file_durably
from node.vault import SEEDS, Vault, is_sealed
from swarm import charter as terms
from swarm import codec
from swarm.errors import Reject, UsageError
from swarm.identity import SEED_BYTES, Identity
from swarm.invite import INVITE_BYTES_MAX, Invite
from swarm.machine import Contact, NodeId

SETTINGS_TEXT = """\
# This site's own settings. What all sites must agree on is in the charter.

[site]
name = "{name}"
# Where to listen. Leave it empty if this site can only dial out.
listen = "{listen}"
charter = "charter.toml"
# approve = "ask"           # proposals of other members: ask, invited (yes to whom a member invited) or all

[task]
file = "{task}"
# Handed to the task's load_data: this site's own folder or file.
data = "{data}"
# loader = "my_loader.py"   # a file with load_data(site), if this site reads its data its own way
# device = "cpu"
# threads = 0               # CPU threads for training; 0 lets PyTorch choose
# processes = 1             # in so many train() runs at once, one for each GPU, if the task is made for it
# stall_s = 600             # a trainer that makes no step for this long is stopped
# round_steps = 0           # most optimizer steps of a round at this site, if its task asks run.enough(); 0: all
# round_seconds = 0         # the same in seconds
# min_cell = 0              # tell no scores if a class of the held-out cases has fewer; the charter may ask for more
# alone = false             # after the run, train the same task on this site's data alone, to hold the swarm against

[run]
# log = "auto"              # auto, plain or json
# log_file = "run/log.jsonl"  # JSON lines in files of limited size, never what the task says; "" for none
# log_level = "info"        # debug, info, warning or error
# exit_when_done = false

[privacy]
# epsilon = 3.0             # what updates may tell of a record over all rounds; then train() must use run.private()
# delta = 0.00001           # the chance that it does not hold: less than one in the number of records

[egress]
# rounds = 0                # of so many rounds updates leave this site, over all swarms; 0: as the charter says
# peers = "*"               # members that may see them; a charter with others is refused
# update_mb = 0.0           # largest update, in MiB
# norm = 0.0                # clip updates to this norm, if the charter's is larger
# noise = 0.0               # least noise multiplier of private training; then there must be a budget
# epsilon_round = 0.0       # most that one round may cost of it
# metrics = "*"             # metrics that may be told, by name
# require = ""              # terms that a charter must have, as "exact privacy"
# forbid = ""               # terms that it must not have, as "gossip contribution"
# approve = "no"            # updates wait for a person (`swarm approve`): no, first or every

[ledger]
# catch_up = "full"         # after an absence: full checks every signature, fast leaves old ones to `ledger verify`

[storage]
# ballast_mb = 64           # room kept for the ledger: training stops before it is touched
# keep_models = 0           # so many models of the last rounds in models/checkpoints
# keep_every = 0            # and the model of every so many-th round
"""

_OTHER_KEYS = "restore it from your backup; to become a new member move keys and card away and run `swarm keygen`"


class Site:
    """A folder and what is in it. Nothing is read before it is asked for."""

    def __init__(self, folder: Path, passphrase: Callable[[str], str] = given) -> None:
        """`passphrase` is asked, once, if the keys are encrypted and something needs them."""
        self.folder = folder
        self.settings_path = folder / "swarm.toml"
        self.keys = folder / "keys"
        self.vault = Vault(self.keys, passphrase)
        self.card_path = folder / "card.toml"
        self.ledger = folder / "ledger"
        self.blobs = folder / "blobs"
        self.models = folder / "models"
        self.private = folder / "private"
        self.run = folder / "run"
        self.control = self.run / "control.sock"
        self.next_keys = self.keys / "next"
        self.sponsors_path = folder / "sponsors.toml"
        self.invites = folder / "invites"
        self.paused_path = folder / "paused"
        self.restored_path = folder / "restored"
        self.alone = folder / "alone"
        self.disclosed_path = folder / "disclosed"
        self.masks_path = folder / "masks"
        self.spending_path = folder / "privacy" / "spent"
        self.egress = folder / "egress"
        self.audits_path = folder / "privacy" / "audits"

    def load_masks(self) -> bytes:
        """Return the secrets of the masked round that this site was in, if it was in one. Raises `StoreError`."""
        try:
            return self.masks_path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise store_error(f"read {self.masks_path}", error) from error

    def create(
        self, *, name: str, listen: str, advertise: str, task: str, data: str, passphrase: str = ""
    ) -> terms.Card:
        """Make a new site: settings, keys, card. Raises `UsageError` rather than overwrite anything."""
        text = self._new_settings(name, listen, task, data)
        card = self.make_keys(name=name, endpoint=advertise, passphrase=passphrase)
        write_file_durably(self.settings_path, text.encode(), mode=0o644)
        return card

    def adopt(self, *, name: str, listen: str, advertise: str, task: str, data: str) -> terms.Card:
        """Make a site around the keys and the card that `make_keys` left here.

        Raises:
            UsageError: they are not all there, do not belong together, or say another name or endpoint.
        """
        text = self._new_settings(name, listen, task, data)
        card = terms.card_from_toml(self._read(self.card_path, _OTHER_KEYS))
        if card.node != self.load_identity().node:
            raise UsageError(f"couldn't use the keys in {self.keys}: {self.card_path} is of others", hint=_OTHER_KEYS)
        if (card.name, card.endpoint) != (name, advertise):
            raise UsageError(
                f"couldn't make a site in {self.folder}: there are keys already, of {card.name!r} at {card.endpoint!r}",
                hint="say the same --name and --advertise as the card, or move the keys and the card away",
            )
        write_file_durably(self.settings_path, text.encode(), mode=0o644)
        return card

    def _new_settings(self, name: str, listen: str, task: str, data: str) -> str:
        """Return the text of new settings, checked before there are keys, which no later attempt overwrites."""
        if self.settings_path.exists():
            raise UsageError(
                f"couldn't make a site in {self.folder}: it already holds one",
                hint="choose another folder; to start over, move this one away first",
            )
        text = SETTINGS_TEXT.format(name=name, listen=listen, task=task, data=data)
        load(text, where="the new settings")
        return text

    def make_keys(self, *, name: str, endpoint: str, passphrase: str = "") -> terms.Card:
        """Draw new keys and write them and their card. Raises `UsageError` rather than overwrite keys.

        With a passphrase they are never on the disk in plain.
        """
        check_address(endpoint, "as the endpoint")
        if self.keys.exists():
            raise UsageError(
                f"couldn't make keys in {self.keys}: there are keys already",
                hint="keys are this site's identity; move them away only if you mean to become someone else",
            )
        identity_seed, curve_seed = secrets.token_bytes(SEED_BYTES), secrets.token_bytes(SEED_BYTES)
        card = terms.make_card(Identity.from_seed(identity_seed, curve_seed), name=name, endpoint=endpoint)
        try:
            self.keys.mkdir(parents=True, mode=0o700)
        except OSError as error:
            message = f"couldn't make {self.keys}: {error.strerror}"
            raise UsageError(message, hint="choose a folder that you can write to") from None
        if passphrase:
            self.vault.encrypt(passphrase)
            write_file_durably(self.keys / "node", card.node.hex().encode() + b"\n")
        write_file_durably(self.keys / "identity.seed", self.vault.written("identity.seed", identity_seed))
        write_file_durably(self.keys / "curve.seed", self.vault.written("curve.seed", curve_seed))
        write_file_durably(self.card_path, terms.card_to_toml(card).encode(), mode=0o644)
        return card

    def load_identity(self) -> Identity:
        """Return the site's secrets. Raises `UsageError` when they are missing, damaged or readable by others."""
        return Identity.from_seed(self._seed("identity.seed"), self._seed("curve.seed"))

    def encrypt_keys(self, passphrase: str) -> list[str]:
        """Encrypt the keys, and have the site's id beside them in plain: it is no secret, and asked for all the time.

        Return which files that were not were encrypted. Raises as `Vault.encrypt`; no node may be running.
        """
        self.check_keys()
        if not (self.keys / "node").exists() and not is_sealed(self._text("identity.seed")):
            write_file_durably(self.keys / "node", self.node().hex().encode() + b"\n")
        return self.vault.encrypt(passphrase)

    def key_files(self) -> list[Path]:
        """Return the files of secret keys that there are, those in waiting too."""
        return self.vault.files()

    def check_keys(self) -> None:
        """Raise `UsageError` where a key file is missing, or readable by others."""
        for name in SEEDS:
            self._text(name)

    def node(self) -> NodeId:
        """Return this site's id as a member: that of its first identity key. Raises as `load_identity` does."""
        if not (self.keys / "node").exists():
            return self.load_identity().node
        text = self._read(self.keys / "node", _OTHER_KEYS).strip()
        if len(text) != 64 or text.strip("0123456789abcdef"):
            raise UsageError(f"couldn't use {self.keys / 'node'}: it holds no id", hint=_OTHER_KEYS)
        return NodeId(bytes.fromhex(text))

    def begin_anew(self) -> None:
        """Be the member that the keys of today make: a site that took new keys, and left, joins as another one."""
        (self.keys / "node").unlink(missing_ok=True)

    def load_successor(self) -> Identity | None:
        """Return the keys this site has asked the members to accept in place of its own, if any."""
        fresh = [self.next_keys / name for name in ("identity.seed", "curve.seed")]
        if not any(path.exists() for path in fresh):
            return None
        seeds = [self._seed(f"next/{path.name}" if path.exists() else path.name) for path in fresh]
        return Identity.from_seed(*seeds)

    def make_successor(self, *, whole: bool) -> Identity:
        """Draw the next transport key, and with `whole` the next identity too. Raises `UsageError` if some wait."""
        if self.load_successor() is not None:
            raise UsageError(
                f"couldn't make new keys: {self.next_keys} has some that the members have not agreed to yet",
                hint="wait for their votes (`swarm members`), or delete that folder if the proposal has lapsed",
            )
        self.next_keys.mkdir(mode=0o700, exist_ok=True)
        # The transport key first: `succeed` goes by it, so that half of a pair never takes over by itself.
        for name in ("curve.seed", "identity.seed") if whole else ("curve.seed",):
            seed = secrets.token_bytes(SEED_BYTES)
            write_file_durably(self.next_keys / name, self.vault.written(name, seed))
        successor = self.load_successor()
        assert successor is not None, "just written"
        return successor

    def succeed(self, curve_key: bytes) -> Identity | None:
        """Make the next keys this site's own if their public transport key is this one; return them, else None.

        A crash in the middle is made good by the next call: each file replaces its forerunner in one step.
        """
        successor = self.load_successor()
        if successor is None or successor.curve_public != curve_key:
            return None
        if not (self.keys / "node").exists() and (self.next_keys / "identity.seed").exists():
            write_file_durably(self.keys / "node", self.node().hex().encode() + b"\n")
        for name in ("identity.seed", "curve.seed"):
            if (self.next_keys / name).exists():
                (self.next_keys / name).replace(self.keys / name)
        return successor

    def load_sponsors(self) -> tuple[Contact, ...]:
        """Return whom a site that joined later hears the ledger from at first. Raises `UsageError`."""
        if not self.sponsors_path.exists():
            return ()
        return (contact_from_toml(self._read(self.sponsors_path, _OTHER_KEYS), str(self.sponsors_path)),)

    def load_invites(self, now: float) -> tuple[Invite, ...]:
        """Return the invitations this site has given that are not over."""
        found = []
        for path in sorted(self.invites.glob("*.invite")):
            try:
                invite = codec.decode(bytes.fromhex(self._read(path, "").strip()), Invite, limit=INVITE_BYTES_MAX)
            except (Reject, ValueError):
                continue  # Not one that this version wrote: nobody is let in by it.
            if now * 1000 <= invite.expires_ms:
                found.append(invite)
        return tuple(found)

    def keep_invite(self, invite: Invite) -> None:
        """Remember an invitation, so that its guest is heard after a restart too."""
        self.invites.mkdir(exist_ok=True)
        write_file_durably(self.invites / f"{invite.guest.hex()[:16]}.invite", invite.encode().hex().encode() + b"\n")

    def load_settings(self, environment: Mapping[str, str] | None = None, overrides: Sequence[str] = ()) -> Settings:
        """Return the settings, all layers applied. Raises `UsageError`."""
        where = str(self.settings_path)
        text = self._read(self.settings_path, "make a site with `swarm init`", "SWARM-SITE-SETTINGS")
        return load(
            text, where=where, environment=os.environ if environment is None else environment, overrides=overrides
        )

    def load_charter(self, settings: Settings | None = None) -> terms.SignedCharter:
        """Return the complete charter.

        Raises:
            UsageError: it is missing, or not signed by all.
            LedgerError: a signature does not match the terms.
        """
        name = "charter.toml" if settings is None else settings.site.charter
        hint = "put the signed charter there; `swarm charter new` drafts one"
        signed = terms.from_toml(self._read(self.folder / name, hint, "SWARM-CHARTER-MISSING"))
        signed.check()
        return signed

    def _seed(self, name: str) -> bytes:
        path, text = self.keys / name, self._text(name)
        seed = self.vault.seed(path.name, text)
        if seed is None:
            raise UsageError(
                f"couldn't use {path}: it does not hold a key",
                hint="restore it from your backup",
                identifier="SWARM-SITE-KEYS",
            )
        return seed

    def _text(self, name: str) -> str:
        """Return what is in a key file that only its owner can read."""
        path = self.keys / name
        hint = _OTHER_KEYS if self.keys.exists() else "make keys with `swarm keygen`"
        text = self._read(path, hint, "SWARM-SITE-KEYS")
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise UsageError(
                f"couldn't use {path}: others on this machine can read it (mode {mode:o})",
                hint=f"run chmod 600 {path}",
                identifier="SWARM-SITE-KEYS",
            )
        return text

    def _read(self, path: Path, hint: str, identifier: str = "") -> str:
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UsageError(f"couldn't find {path}", hint=hint, identifier=identifier) from None
        except (OSError, UnicodeDecodeError) as error:
            wrong = "it is not text" if isinstance(error, UnicodeDecodeError) else error.strerror
            raise UsageError(
                f"couldn't read {path}: {wrong}",
                hint="restore it, or allow this user to read it",
                identifier=identifier,
            ) from None

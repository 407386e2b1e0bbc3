"""Keys at rest: what opens them, what does not, and that no kill at any moment loses one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from node import backup as b
from node import passphrase as p
from node import vault as v
from node.cli.main import cli
from node.cli.output import UNAVAILABLE, Failure
from node.doctor.case import Case
from node.doctor.finding import Level
from node.doctor.folder import keys as keys_check
from node.doctor.folder import settings as settings_check
from node.site import Site
from node.storage import DirectoryLock
from node.trainer import _environment
from swarm.errors import UsageError
from swarm.identity import Identity

GOOD, OTHER = "correct horse battery", "another one entirely"
ALL = ["identity.seed", "curve.seed"]


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v, "OPSLIMIT", 1)
    monkeypatch.setattr(v, "MEMLIMIT", 8192)
    monkeypatch.setattr(b, "_OPSLIMIT", 1)
    monkeypatch.setattr(b, "_MEMLIMIT", 8192)
    for name in p.PRIVATE:
        monkeypatch.delenv(name, raising=False)


def opened(folder: Path, passphrase: str = GOOD) -> Site:
    return Site(folder, lambda _: passphrase)


def made(folder: Path, *, waiting: bool = False, passphrase: str = "") -> tuple[Site, Identity]:
    site = opened(folder)
    site.create(name="a", listen="", advertise="", task="task.py", data="data", passphrase=passphrase)
    if waiting:
        site.make_successor(whole=True)
    return site, site.load_identity()


def secret(folder: Path, text: str = GOOD, *, name: str = "passphrase") -> Path:
    path = folder / name
    path.touch(mode=0o600)
    path.write_text(f"{text}\nnothing of this\n")
    return path


def plain_seeds(folder: Path) -> set[str]:
    """Return every seed that lies anywhere below a folder in plain."""
    texts = [path.read_text(errors="replace").strip() for path in folder.rglob("*") if path.is_file()]
    return {text for text in texts if len(text) == 64 and not text.strip("0123456789abcdef")}


def run(*arguments: object) -> str:
    ran = CliRunner().invoke(cli, [str(one) for one in arguments])
    if isinstance(ran.exception, Exception):
        raise ran.exception
    return ran.stdout


# --- what opens, and what does not ------------------------------------------------------------------------------------


def test_encrypted_keys_are_the_same_keys_and_nothing_of_them_is_left_in_plain(tmp_path: Path) -> None:
    site, who = made(tmp_path / "a", waiting=True)
    seeds = plain_seeds(site.keys)
    assert len(seeds) == 4
    assert site.encrypt_keys(GOOD) == [*ALL, "next/identity.seed", "next/curve.seed"]
    again = opened(site.folder)
    assert again.load_identity() == who
    assert again.load_successor() == site.load_successor()
    assert plain_seeds(site.keys) == {who.node.hex()}  # Its id, which is public.
    assert all((site.keys / name).stat().st_mode & 0o777 == 0o600 for name in (*ALL, "lock"))


def test_another_passphrase_is_one_sentence_and_changes_nothing(tmp_path: Path) -> None:
    site, who = made(tmp_path / "a", passphrase=GOOD)
    before = {path: path.read_bytes() for path in site.keys.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="the passphrase is another") as caught:
        opened(site.folder, OTHER).load_identity()
    assert caught.value.identifier == p.LOCKED
    for act in (opened(site.folder, OTHER).vault.decrypt, opened(site.folder, OTHER).vault.encrypt):
        with pytest.raises(UsageError, match="the passphrase is another"):
            act(OTHER)
    with pytest.raises(UsageError, match="the passphrase is another"):
        opened(site.folder).vault.change(OTHER, "a third one here")
    assert {path: path.read_bytes() for path in site.keys.rglob("*") if path.is_file()} == before
    assert opened(site.folder).load_identity() == who


def test_keys_that_are_made_encrypted_are_never_in_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    plain = v.write_file_durably

    def note(path: Path, data: bytes, mode: int = 0o600) -> None:
        written.append(data)
        plain(path, data, mode)

    monkeypatch.setattr(v, "write_file_durably", note)
    monkeypatch.setattr("node.site.write_file_durably", note)
    site, who = made(tmp_path / "a", waiting=True, passphrase=GOOD)
    sealed = [data for data in written if data.startswith(v.SEALED.encode())]
    assert len(sealed) == 4
    assert plain_seeds(site.keys) == {who.node.hex()}
    assert opened(site.folder).load_identity() == who


def test_without_a_passphrase_the_keys_are_plain_as_ever_and_nobody_is_asked(tmp_path: Path) -> None:
    def nobody(_: str) -> str:
        raise AssertionError

    site, who = made(tmp_path / "a")
    assert Site(site.folder, nobody).load_identity() == who
    assert not site.vault.locked


def test_another_passphrase_may_open_them_from_now_on(tmp_path: Path) -> None:
    site, who = made(tmp_path / "a", passphrase=GOOD)
    seeds = [(site.keys / name).read_bytes() for name in ALL]
    site.vault.change(GOOD, OTHER)
    assert [(site.keys / name).read_bytes() for name in ALL] == seeds
    assert opened(site.folder, OTHER).load_identity() == who
    with pytest.raises(UsageError, match="the passphrase is another"):
        opened(site.folder, GOOD).load_identity()
    assert site.load_identity() == who, "a peer that runs goes on"


def test_decrypted_they_are_what_they_were(tmp_path: Path) -> None:
    site, who = made(tmp_path / "a", waiting=True)
    before = {name: (site.keys / name).read_bytes() for name in (*ALL, "next/identity.seed", "next/curve.seed")}
    site.encrypt_keys(GOOD)
    opened(site.folder).vault.decrypt(GOOD)
    assert {name: (site.keys / name).read_bytes() for name in before} == before
    assert not (site.keys / "lock").exists()
    assert opened(site.folder, OTHER).load_identity() == who


def test_new_keys_are_encrypted_like_the_old_and_take_over_without_a_passphrase_being_asked(tmp_path: Path) -> None:
    site, who = made(tmp_path / "a", passphrase=GOOD)
    fresh = opened(site.folder).make_successor(whole=True)  # The command, beside the peer that runs.
    assert plain_seeds(site.keys) == {who.node.hex()}
    asked: list[str] = []

    def count(what: str) -> str:
        asked.append(what)
        return GOOD

    peer = Site(site.folder, count)
    assert peer.load_identity() == who
    assert peer.succeed(fresh.curve_public) == fresh
    assert peer.load_identity() == fresh
    assert peer.node() == who.node
    assert len(asked) == 1


@pytest.mark.parametrize(
    "attack",
    [
        lambda keys: (keys / "identity.seed").write_bytes((keys / "curve.seed").read_bytes()),
        lambda keys: (keys / "identity.seed").write_text("sealed:v1:00"),
        lambda keys: (keys / "identity.seed").write_text("sealed:v1:zz"),
        lambda keys: (keys / "identity.seed").write_text("sealed:v2:" + "00" * 80),
        lambda keys: (keys / "identity.seed").write_text("sealed:v1:" + "00" * 72),
        lambda keys: (keys / "identity.seed").write_text(""),
        lambda keys: (keys / "lock").unlink(),
        lambda keys: (keys / "lock").write_text("{}"),
        lambda keys: (keys / "lock").write_bytes(b"[" * 4000),
        lambda keys: (keys / "lock").write_bytes(b"\xff" * 100),
        lambda keys: (keys / "lock").write_bytes(bytes(1 << 20)),
        lambda keys: (keys / "lock").write_text((keys / "lock").read_text().replace('"opslimit":1', '"opslimit":99')),
        lambda keys: (keys / "lock").write_text((keys / "lock").read_text().replace('"opslimit":1', '"opslimit":2')),
        lambda keys: (keys / "lock").write_text((keys / "lock").read_text().replace("8192", str(1 << 40))),
        lambda keys: (keys / "lock").write_text((keys / "lock").read_text().replace("8192", "9216")),
    ],
)
def test_files_that_were_changed_or_swapped_are_refused_in_words(
    tmp_path: Path, attack: Callable[[Path], object]
) -> None:
    site, _ = made(tmp_path / "a", passphrase=GOOD)
    attack(site.keys)
    with pytest.raises(UsageError) as caught:
        opened(site.folder).load_identity()
    assert caught.value.identifier in ("SWARM-SITE-KEYS", p.LOCKED)
    assert caught.value.hint


def test_real_parameters_cost_a_guess_what_libsodium_advises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nacl import pwhash

    monkeypatch.undo()
    assert (v.OPSLIMIT, v.MEMLIMIT) == (pwhash.argon2id.OPSLIMIT_MODERATE, 1 << 28)
    assert v.OPSLIMIT <= v.OPSLIMIT_MAX
    assert v.MEMLIMIT <= v.MEMLIMIT_MAX
    made(tmp_path / "a", passphrase=GOOD)
    lock = json.loads((tmp_path / "a" / "keys" / "lock").read_text())
    assert (lock["opslimit"], lock["memlimit"]) == (v.OPSLIMIT, v.MEMLIMIT)


# --- kills ------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone."""


def until_killed(monkeypatch: pytest.MonkeyPatch, place: int, action: Callable[[], object]) -> bool:
    """Do something, but die before the system call numbered `place` of those that change files. Whether it died."""
    left = place

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **more: object) -> object:
            nonlocal left
            if left <= 0:
                raise Killed
            left -= 1
            return call(*arguments, **more)

        return step

    with monkeypatch.context() as patch:
        for name in ("open", "write", "pwrite", "fsync", "rename", "unlink"):
            patch.setattr(os, name, counted(getattr(os, name)))
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        try:
            action()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("act", ["encrypt", "decrypt", "change"])
def test_killed_at_any_system_call_no_key_is_lost_and_the_same_command_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    for place in range(200):
        site, who = made(tmp_path / str(place), waiting=act == "encrypt")
        fresh = site.load_successor()
        if act != "encrypt":
            site.encrypt_keys(GOOD)

        def command(site: Site = site) -> None:
            again = opened(site.folder)
            match act:
                case "encrypt":
                    again.encrypt_keys(GOOD)
                case "decrypt":
                    again.vault.decrypt(GOOD)
                case _:
                    again.vault.change(GOOD, OTHER)

        died = until_killed(monkeypatch, place, command)
        for passphrase in (GOOD, OTHER):
            after = opened(site.folder, passphrase)
            try:
                found = after.load_identity(), after.load_successor()
            except UsageError:
                assert act == "change" or passphrase == OTHER
                continue
            assert found == (who, fresh)
            break
        else:
            pytest.fail("no passphrase opens it any more")
        if not died:
            assert place > (6 if act == "change" else 12), "every call was died at"
            return
        if act == "change":
            continue
        command()
        seeds = plain_seeds(site.keys) - {who.node.hex()}
        assert len(seeds) == (0 if act == "encrypt" else 2), "none is left in plain, in any file"
        assert opened(site.folder).load_identity() == who
    pytest.fail("it never came to an end")


def test_after_half_an_encryption_another_passphrase_cannot_be_mixed_in(tmp_path: Path) -> None:
    site, who = made(tmp_path / "a")
    text = (site.keys / "curve.seed").read_bytes()
    site.encrypt_keys(GOOD)
    (site.keys / "curve.seed").write_bytes(text)
    with pytest.raises(UsageError, match="the passphrase is another"):
        opened(site.folder).encrypt_keys(OTHER)
    assert (site.keys / "curve.seed").read_bytes() == text
    assert opened(site.folder).encrypt_keys(GOOD) == ["curve.seed"]
    assert opened(site.folder).load_identity() == who


# --- where a passphrase comes from ------------------------------------------------------------------------------------


def test_a_file_a_descriptor_and_a_credential_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = secret(tmp_path)
    monkeypatch.setenv(p.FILE, str(path))
    assert p.given("x") == GOOD
    descriptor = os.open(secret(tmp_path, OTHER, name="other"), os.O_RDONLY)
    monkeypatch.setenv(p.DESCRIPTOR, str(descriptor))
    assert p.given("x") == OTHER, "it says more exactly what is meant"
    with pytest.raises(UsageError, match="couldn't read a passphrase from descriptor"):
        p.given("x")
    monkeypatch.delenv(p.DESCRIPTOR)
    monkeypatch.delenv(p.FILE)
    folder = tmp_path / "credentials"
    folder.mkdir()
    secret(folder, "of the manager's", name=p.CREDENTIAL).chmod(0o640)
    monkeypatch.setenv(p.CREDENTIALS, str(folder))
    assert p.given("x") == "of the manager's"


def test_nobody_there_to_give_it_is_said_with_what_to_do() -> None:
    with pytest.raises(UsageError, match="encrypted, and nobody gave the passphrase") as caught:
        p.given("the keys")
    assert p.FILE in caught.value.hint


@pytest.mark.parametrize("text", ["", "x", "-1", "2", "99999", "1e3"])
def test_what_is_no_descriptor_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(p.DESCRIPTOR, text)
    with pytest.raises(UsageError, match="descriptor" if text else "nobody gave"):
        p.given("x")


def test_a_passphrase_that_others_can_read_is_none(tmp_path: Path) -> None:
    path = secret(tmp_path)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="others on this machine can read it"):
        p.read_passphrase(path)


def test_the_task_is_told_nothing_of_where_the_passphrase_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in p.PRIVATE:
        monkeypatch.setenv(name, "/there")
    assert not {*p.PRIVATE} & {*_environment()}


# --- the command line -------------------------------------------------------------------------------------------------


def test_encrypt_passphrase_and_decrypt_at_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, who = made(tmp_path / "a")
    said = json.loads(run("key", "encrypt", site.folder, "--passphrase-file", secret(tmp_path), "--json"))["data"]
    assert (said["encrypted"], said["files"]) == (True, ALL)
    key = tmp_path / "key"
    run("key", "passphrase", site.folder, "--passphrase-file", tmp_path / "passphrase", "--new-key-file", key)
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_text().strip()) == 52  # 256 bits, five a character.
    monkeypatch.setenv(p.FILE, str(key))
    assert Site(site.folder).load_identity() == who
    assert "in plain" in run("key", "decrypt", site.folder)
    monkeypatch.delenv(p.FILE)
    assert Site(site.folder).load_identity() == who


def test_init_and_keygen_make_encrypted_keys(tmp_path: Path) -> None:
    words = ["--name", "a", "--passphrase-file", secret(tmp_path)]
    assert "secret, encrypted" in run("keygen", tmp_path / "a", *words)
    run("init", tmp_path / "b", *words)
    assert opened(tmp_path / "a").load_identity() != opened(tmp_path / "b").load_identity()
    with pytest.raises(UsageError, match="there are keys already"):
        run("init", tmp_path / "a", *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["encrypt", "--passphrase-file", "P"], "they are encrypted"),
        (["decrypt"], "nobody gave the passphrase"),
        (["decrypt", "--passphrase-file", "OTHER"], "the passphrase is another"),
        (["passphrase", "--passphrase-file", "OTHER", "--new-key-file", "NEW"], "the passphrase is another"),
        (["passphrase", "--passphrase-file", "P", "--new-key-file", "P"], "it is there already"),
        (["passphrase", "--passphrase-file", "P", "--new-passphrase-file", "P", "--new-key-file", "NEW"], "two were"),
        (["passphrase", "--passphrase-file", "P"], "there is no terminal"),
    ],
)
def test_what_cannot_be_done_changes_nothing(tmp_path: Path, arguments: list[str], words: str) -> None:
    site, _ = made(tmp_path / "a", passphrase=GOOD)
    named = {"P": secret(tmp_path), "OTHER": secret(tmp_path, OTHER, name="other"), "NEW": tmp_path / "new"}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=words):
        run("key", arguments[0], site.folder, *(named.get(one, one) for one in arguments[1:]))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_peer_that_runs_keeps_its_keys_as_they_are(tmp_path: Path) -> None:
    site, _ = made(tmp_path / "a")
    lock = DirectoryLock(site.run / "lock")
    with pytest.raises(Failure, match="a node is running there") as caught:
        run("key", "encrypt", site.folder, "--passphrase-file", secret(tmp_path))
    lock.close()
    assert caught.value.code == UNAVAILABLE
    assert not site.vault.locked


def test_doctor_says_how_the_keys_lie_and_who_else_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, _ = made(tmp_path / "a", waiting=True)
    assert "not encrypted" in keys_check(Case(site))[0].text
    site.encrypt_keys(GOOD)
    assert [one.level for one in keys_check(Case(opened(site.folder)))] == [Level.PASS]
    (site.keys / "next" / "curve.seed").chmod(0o644)
    (site.keys / "lock").touch()
    found = keys_check(Case(opened(site.folder)))
    assert [one.remedy for one in found if one.level is Level.WARN] == [
        f"run chmod 600 {site.keys / 'next' / 'curve.seed'}"
    ]
    with pytest.raises(UsageError, match="nobody gave the passphrase"):
        keys_check(Case(Site(site.folder)))
    password = tmp_path / "a" / "proxy"
    password.write_text("secret")
    password.chmod(0o644)
    (_, found_) = settings_check(Case(site, ["network.proxy_password_file=proxy"]))
    assert found_.remedy == f"run chmod 600 {password}"


def test_doctor_says_that_an_encryption_did_not_come_to_its_end(tmp_path: Path) -> None:
    site, _ = made(tmp_path / "a")
    text = (site.keys / "curve.seed").read_bytes()
    site.encrypt_keys(GOOD)
    (site.keys / "curve.seed").write_bytes(text)
    found = keys_check(Case(opened(site.folder)))
    assert [one.level for one in found] == [Level.PASS, Level.WARN]
    assert "did not come to its end" in found[1].text


def test_in_a_backup_encrypted_keys_stay_so(tmp_path: Path) -> None:
    site, who = made(tmp_path / "a", passphrase=GOOD)
    kept = b._read_keys(site)
    assert {*kept} == {*ALL, "node", "lock"}
    assert plain_seeds(site.keys) == {who.node.hex()}
    assert b.open_keys(b._seal(kept, OTHER), OTHER) == kept
    back = tmp_path / "back"
    back.mkdir()
    b.put_keys(back, kept)
    assert opened(back).load_identity() == who
    assert plain_seeds(back) == {who.node.hex()}

"""A site's folder: keys nobody else may read, and nothing of value ever overwritten."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import node.site as site_module
from node.site import Site
from swarm import charter as c
from swarm.errors import UsageError
from swarm.invite import invite
from tests.builders import make_swarm

ADDRESS = "tcp://10.0.0.6:7400"


def made(folder: Path, *, name: str = "rural") -> Site:
    site = Site(folder / "site")
    site.create(name=name, listen="tcp://0.0.0.0:7400", advertise=ADDRESS, task="task.py", data="/srv/data")
    return site


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_site_has_settings_keys_and_a_card_that_belong_together(tmp_path: Path) -> None:
    site = made(tmp_path)
    assert set(contents(site.folder)) == {"swarm.toml", "card.toml", "keys/identity.seed", "keys/curve.seed"}
    settings = site.load_settings({})
    assert (settings.site.name, settings.site.listen) == ("rural", "tcp://0.0.0.0:7400")
    assert (settings.task.file, settings.task.data) == ("task.py", "/srv/data")
    card = c.card_from_toml(site.card_path.read_text())
    assert card == c.make_card(site.load_identity(), name="rural", endpoint=ADDRESS)


def test_nobody_else_may_read_the_keys(tmp_path: Path) -> None:
    site = made(tmp_path)
    assert mode(site.keys) == 0o700
    assert [mode(path) for path in sorted(site.keys.iterdir())] == [0o600, 0o600]
    assert [mode(path) for path in (site.card_path, site.settings_path)] == [0o644, 0o644]


def test_no_secret_is_outside_the_keys(tmp_path: Path) -> None:
    site = made(tmp_path)
    seeds = [path.read_bytes().strip() for path in site.keys.iterdir()]
    assert all(len(seed) == 64 for seed in seeds)
    open_text = site.card_path.read_bytes() + site.settings_path.read_bytes()
    assert not any(seed in open_text for seed in seeds)


@pytest.mark.parametrize("name", ["identity.seed", "curve.seed"])
@pytest.mark.parametrize("wide", [0o640, 0o604, 0o666, 0o610, 0o601])
def test_keys_that_others_can_read_are_not_used(tmp_path: Path, name: str, wide: int) -> None:
    site = made(tmp_path)
    (site.keys / name).chmod(wide)
    with pytest.raises(UsageError, match=rf"others on this machine can read it \(mode {wide:o}\)") as caught:
        site.load_identity()
    assert caught.value.hint == f"run chmod 600 {site.keys / name}"


def test_keys_that_even_their_owner_cannot_write_are_used(tmp_path: Path) -> None:
    site = made(tmp_path)
    (site.keys / "identity.seed").chmod(0o400)
    site.load_identity()


@pytest.mark.parametrize("text", ["", "zz" * 32, "00" * 31, "00" * 33, "not a key"])
def test_a_damaged_key_is_refused_in_words(tmp_path: Path, text: str) -> None:
    site = made(tmp_path)
    (site.keys / "curve.seed").write_text(text)
    with pytest.raises(UsageError, match=r"curve\.seed: it does not hold a key") as caught:
        site.load_identity()
    assert "backup" in caught.value.hint


def test_a_missing_key_is_refused_in_words(tmp_path: Path) -> None:
    site = made(tmp_path)
    (site.keys / "identity.seed").unlink()
    with pytest.raises(UsageError, match=r"couldn't find .*identity\.seed") as caught:
        site.load_identity()
    assert "swarm keygen" in caught.value.hint


def test_a_site_is_not_overwritten(tmp_path: Path) -> None:
    site = made(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="it already holds one"):
        made(tmp_path, name="other")
    with pytest.raises(UsageError, match="there are keys already"):
        site.make_keys(name="other", endpoint="")
    assert contents(tmp_path) == before


def test_keys_survive_even_when_the_settings_are_gone(tmp_path: Path) -> None:
    site = made(tmp_path)
    site.settings_path.unlink()
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="there are keys already"):
        made(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("name", "data"), [("no good", "data"), ("rural", 'it"s')])
def test_a_site_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path, name: str, data: str) -> None:
    site = Site(tmp_path / "site")
    with pytest.raises(UsageError):
        site.create(name=name, listen="", advertise="", task="task.py", data=data)
    assert contents(tmp_path) == {}
    site.create(name="rural", listen="", advertise="", task="task.py", data="data")


def test_two_sites_have_different_keys(tmp_path: Path) -> None:
    one, two = made(tmp_path / "a"), made(tmp_path / "b")
    assert one.load_identity().node != two.load_identity().node
    assert one.load_identity().node == one.load_identity().node


def test_settings_come_from_file_environment_and_options_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = made(tmp_path)
    monkeypatch.setenv("SWARM_SITE__LISTEN", "tcp://0.0.0.0:1")
    monkeypatch.setenv("SWARM_TASK__DATA", "from-environment")
    settings = site.load_settings(overrides=["task.data=from-option"])
    assert (settings.site.name, settings.site.listen) == ("rural", "tcp://0.0.0.0:1")
    assert settings.task.data == "from-option"
    assert settings.origin["site.name"] == str(site.settings_path)
    assert settings.origin["site.listen"] == "environment SWARM_SITE__LISTEN"
    assert settings.origin["task.data"] == "--set"
    assert settings.origin["task.threads"] == "default"
    # What is handed in replaces the process's own environment.
    assert site.load_settings({}).task.data == "/srv/data"


def test_a_typo_in_the_settings_is_answered_with_the_right_word(tmp_path: Path) -> None:
    site = made(tmp_path)
    site.settings_path.write_text(site.settings_path.read_text().replace("listen =", "listn ="))
    with pytest.raises(UsageError, match=r"swarm\.toml: unknown key 'site\.listn'") as caught:
        site.load_settings({})
    assert caught.value.hint == "did you mean site.listen?"


def test_every_commented_setting_of_the_template_is_one_that_exists(tmp_path: Path) -> None:
    site = made(tmp_path)
    text = site.settings_path.read_text()
    uncommented = "\n".join(line.removeprefix("# ") if " = " in line else line for line in text.splitlines())
    site.settings_path.write_text(uncommented)
    settings = site.load_settings({})
    assert sum(origin != "default" for origin in settings.origin.values()) >= 10


@pytest.mark.parametrize("what", ["missing", "folder", "not text"])
def test_settings_that_cannot_be_read_are_refused_in_words(tmp_path: Path, what: str) -> None:
    site = Site(tmp_path)
    if what == "folder":
        site.settings_path.mkdir()
    if what == "not text":
        site.settings_path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"couldn't (find|read) .*swarm\.toml"):
        site.load_settings({})


def test_the_charter_is_found_where_the_settings_say_and_must_be_signed_by_all(tmp_path: Path) -> None:
    site = made(tmp_path)
    with pytest.raises(UsageError, match=r"couldn't find .*charter\.toml") as caught:
        site.load_charter()
    assert "swarm charter new" in caught.value.hint
    signed = make_swarm(3).signed
    (site.folder / "terms.toml").write_text(c.to_toml(signed))
    settings = site.load_settings({}, ["site.charter=terms.toml"])
    assert site.load_charter(settings) == signed
    unsigned = c.SignedCharter(signed.charter, {0: signed.signatures[0]})
    (site.folder / "charter.toml").write_text(c.to_toml(unsigned))
    with pytest.raises(UsageError, match="not signed yet by site-1, site-2"):
        site.load_charter()


# --- new keys -----------------------------------------------------------------------------------------------------


class Crash(BaseException):
    """The power goes."""


def until_crash(monkeypatch: pytest.MonkeyPatch, place: int, action: Callable[[], object]) -> bool:
    """Do something, and let the power go before its file operation of this number; return whether it came to that."""
    left = place

    def counted(operation: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **more: object) -> object:
            nonlocal left
            if left == 0:
                raise Crash
            left -= 1
            return operation(*arguments, **more)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted(Path.replace))
        patch.setattr(Path, "mkdir", counted(Path.mkdir))
        patch.setattr(site_module, "write_file_durably", counted(site_module.write_file_durably))
        try:
            action()
        except Crash:
            return True
    return False


def founded(folder: Path) -> Site:
    site = Site(folder)
    site.create(name="rural", listen="", advertise="tcp://127.0.0.1:7400", task="task.py", data="data")
    return site


@pytest.mark.parametrize("whole", [False, True])
def test_next_keys_wait_and_then_replace_the_old_ones(tmp_path: Path, whole: bool) -> None:
    site = founded(tmp_path / "site")
    before = site.load_identity()
    assert site.load_successor() is None
    fresh = site.make_successor(whole=whole)
    assert site.load_identity() == before
    assert site.load_successor() == fresh
    assert (fresh.node == before.node) is not whole
    assert site.succeed(before.curve_public) is None, "the members have not agreed to these"
    assert site.load_identity() == before
    assert site.succeed(fresh.curve_public) == fresh
    assert site.load_identity() == fresh
    assert site.load_successor() is None
    assert site.node() == before.node, "a member keeps its id whatever keys it takes"
    assert site.succeed(fresh.curve_public) is None


def test_a_second_identity_keeps_the_first_id_too(tmp_path: Path) -> None:
    site = founded(tmp_path / "site")
    first = site.node()
    for _ in range(2):
        site.succeed(site.make_successor(whole=True).curve_public)
    assert site.node() == first
    assert site.load_identity().node != first


def test_keys_that_wait_are_not_drawn_again(tmp_path: Path) -> None:
    site = founded(tmp_path / "site")
    fresh = site.make_successor(whole=False)
    with pytest.raises(UsageError, match="has some that the members have not agreed to yet"):
        site.make_successor(whole=True)
    assert site.load_successor() == fresh


@pytest.mark.parametrize("whole", [False, True])
def test_a_crash_while_new_keys_take_over_leaves_a_site_that_starts_and_finishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    for place in range(20):
        site = founded(tmp_path / str(place))
        me, fresh = site.node(), site.make_successor(whole=whole)
        if not until_crash(monkeypatch, place, lambda site=site, fresh=fresh: site.succeed(fresh.curve_public)):
            assert place >= (3 if whole else 1), "every step was crashed at"
            return
        again = Site(site.folder)
        again.load_identity()  # It starts, with one set of keys or the other.
        assert again.node() == me
        again.succeed(fresh.curve_public)
        assert again.load_identity() == fresh
        assert again.node() == me
        assert again.load_successor() is None
    pytest.fail("it never came to an end")


@pytest.mark.parametrize("whole", [False, True])
def test_a_crash_while_new_keys_are_drawn_leaves_the_old_ones_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    for place in range(20):
        site = founded(tmp_path / str(place))
        before = site.load_identity()
        if not until_crash(monkeypatch, place, lambda site=site: site.make_successor(whole=whole)):
            assert place >= (3 if whole else 2), "every step was crashed at"
            return
        again = Site(site.folder)
        assert again.load_identity() == before
        assert again.succeed(before.curve_public) is None
        assert again.load_identity() == before
    pytest.fail("it never came to an end")


def test_a_damaged_id_is_refused_in_words(tmp_path: Path) -> None:
    site = founded(tmp_path / "site")
    for text in ("", "00", "g" * 64):
        (site.keys / "node").write_text(text)
        with pytest.raises(UsageError, match="it holds no id"):
            site.node()


# --- invitations --------------------------------------------------------------------------------------------------


def test_invitations_are_kept_until_they_are_over_and_strange_files_let_nobody_in(tmp_path: Path) -> None:
    site = founded(tmp_path / "site")
    who = site.load_identity()
    tickets = [
        invite(who.id_key, ledger_id=bytes(32), inviter=who.node, name="n", guest=bytes([i]) * 32, expires_ms=1000 * i)
        for i in (1, 2)
    ]
    assert site.load_invites(0.0) == ()
    for ticket in tickets:
        site.keep_invite(ticket)
    (site.invites / "junk.invite").write_text("junk")
    (site.invites / "0.invite").write_text(tickets[0].encode().hex()[:-2])
    assert site.load_invites(0.0) == tuple(tickets)
    assert site.load_invites(1.5) == (tickets[1],)

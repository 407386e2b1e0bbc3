"""From an empty folder to a charter that all have signed: `swarm init`, `swarm keygen`, `swarm charter ...`."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from node.cli.main import main
from node.site import Site
from swarm import charter as c
from tests.builders import CODE, LAYOUT, bracketed, digest

TASK = """\
import torch


def build_model():
    return torch.nn.Linear(30, 1)


def load_data(site):
    raise RuntimeError("no data is needed to draft a charter")


def train(model, data, run):
    raise RuntimeError("nothing is trained to draft a charter")


def evaluate(model, data, run):
    raise RuntimeError("nothing is evaluated to draft a charter")
"""


def swarm(*arguments: object) -> Result:
    """Run the command line in this process, from its outermost line: errors have become words and an exit code."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["swarm", *(str(argument) for argument in arguments)])
            return CliRunner().invoke(click.Command("swarm", callback=main), [])
    finally:
        for number, handler in signals.items():
            signal.signal(number, handler)


def said(*arguments: object) -> str:
    """Return what a command that succeeds prints."""
    result = swarm(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def data(*arguments: object) -> dict[str, object]:
    """Return the data of a command that succeeds and is asked for JSON."""
    body = json.loads(said(*arguments, "--json"))
    assert set(body) == {"schema", "status", "data"}
    assert (body["schema"], body["status"]) == ("swarm/cli/v1", "ok")
    found: dict[str, object] = body["data"]
    return found


def refused(*arguments: object, code: int = 2) -> tuple[str, str]:
    """Return (sentence, hint) of a command that fails, having checked that people and programs are told the same."""
    plain, machine = swarm(*arguments), swarm(*arguments, "--json")
    assert (plain.exit_code, plain.stdout) == (code, "")
    assert machine.exit_code == code
    body = json.loads(machine.stdout)
    assert set(body) == {"schema", "status", "error"}
    assert (body["schema"], body["status"], body["error"]["code"]) == ("swarm/cli/v1", "error", code)
    message, hint = str(body["error"]["message"]), str(body["error"]["hint"])
    own = bracketed(str(body["error"]["id"]))
    assert plain.stderr == machine.stderr == f"error: {message}{own}\n" + (f"hint: {hint}\n" if hint else "")
    assert "\n" not in message + hint
    assert "unexpected" not in message
    return message, hint


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands are typed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def four_sites(home: Path, monkeypatch: pytest.MonkeyPatch, *, parameters: int = 1234) -> list[str]:
    """Make four sites and a task of so many parameters, which is not run; return the sites' cards."""
    described = c.Task("t", CODE, LAYOUT, parameters, digest("m"), 7)
    monkeypatch.setattr("node.cli.charter.described_task", lambda *_: (described, ""))
    (home / "task.py").write_text(TASK)
    sites(home, 4)
    return [f"{name}/card.toml" for name in "abcd"]


def sites(home: Path, count: int = 2, *, hidden: int | None = None) -> list[Site]:
    """Make sites named `a`, `b`, ... The last `hidden` ones only dial out: one of three or more."""
    hidden = int(count >= 3) if hidden is None else hidden
    made = []
    for index, name in enumerate("abcd"[:count]):
        site = Site(home / name)
        endpoint = "" if index >= count - hidden else f"tcp://10.0.0.{index + 1}:7400"
        site.create(name=name, listen="", advertise=endpoint, task="task.py", data="data")
        made.append(site)
    return made


def draft(home: Path, count: int = 2, *, name: str = "oncology") -> Path:
    """Write an unsigned charter of new sites, without building a model; return its path."""
    cards = tuple(c.card_from_toml(site.card_path.read_text()) for site in sites(home, count))
    charter = c.Charter(
        version=c.CHARTER_VERSION,
        name=name,
        created_ms=1_750_000_000_000,
        members=cards,
        task=c.Task("tumours", CODE, LAYOUT, 1234, digest("initial"), 7),
        round=c.RoundPolicy(20, "exact", "none", count // 2 + 1, 3_600_000, 60_000, 2_500, 400_000),
        ledger=c.LedgerPolicy(600_000, 3_000, False, "record"),
        metrics=("accuracy", "loss"),
        edges=(),
        predecessor=(),
        options=(),
    )
    charter.check()
    path = home / "charter.toml"
    path.write_text(c.to_toml(c.SignedCharter(charter, {})))
    return path


def signed_by_all(home: Path, count: int = 2) -> Path:
    path = draft(home, count)
    signed = c.from_toml(path.read_text())
    for name in "abcd"[:count]:
        signed = signed.sign(Site(home / name).load_identity())
    path.write_text(c.to_toml(signed))
    return path


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, "one place to change"
    path.write_text(text.replace(old, new))


# --- init and keygen ----------------------------------------------------------------------------------------------


def test_init_says_who_this_is_what_to_hand_out_and_what_to_hide(home: Path) -> None:
    text = said("init", "north", "--name", "north-clinic", "--advertise", "tcp://north.example.org:7400")
    site = Site(home / "north")
    node = site.load_identity().node.hex()
    assert text.startswith("north-clinic is ready in north\n")
    assert " ".join(node[i : i + 4] for i in range(0, 32, 4)) in text
    assert "north/card.toml   (public" in text
    assert "north/keys   (secret" in text
    assert "swarm charter sign" in text
    assert "then `swarm start north`" in text
    seeds = [path.read_text().strip() for path in site.keys.iterdir()]
    assert not any(seed in text for seed in seeds)


def test_init_tells_programs_the_site_and_its_id(home: Path) -> None:
    found = data("init", "north", "--name", "north-clinic")
    node = Site(home / "north").load_identity().node.hex()
    assert found == {"name": "north-clinic", "node": node, "card": "north/card.toml", "folder": "north"}


def test_init_without_a_folder_makes_the_site_here(home: Path) -> None:
    assert data("init", "--name", "here")["folder"] == "."
    assert Site(home).load_settings({}).site.name == "here"


@pytest.mark.parametrize(
    ("options", "listen", "endpoint"),
    [
        ([], "", ""),
        (["--advertise", "tcp://a.example.org:7400"], "tcp://0.0.0.0:7400", "tcp://a.example.org:7400"),
        (["--advertise", "tcp://[2001:db8::1]:7401"], "tcp://0.0.0.0:7401", "tcp://[2001:db8::1]:7401"),
        (
            ["--advertise", "tcp://a.example.org:443", "--listen", "tcp://10.0.0.1:7400"],
            "tcp://10.0.0.1:7400",
            "tcp://a.example.org:443",
        ),
        (["--listen", "tcp://10.0.0.1:7400"], "tcp://10.0.0.1:7400", ""),
    ],
)
def test_a_site_listens_where_it_says_or_else_at_the_port_it_advertises(
    home: Path, options: list[str], listen: str, endpoint: str
) -> None:
    said("init", "a", "--name", "a", *options)
    site = Site(home / "a")
    assert site.load_settings({}).site.listen == listen
    assert c.card_from_toml(site.card_path.read_text()).endpoint == endpoint


def test_task_and_data_of_init_are_the_settings_of_the_site(home: Path) -> None:
    said("init", "a", "--name", "a", "--task", "tumours.py", "--data", "/srv/patients")
    task = Site(home / "a").load_settings({}).task
    assert (task.file, task.data) == ("tumours.py", "/srv/patients")


def test_keygen_makes_keys_and_card_and_no_settings(home: Path) -> None:
    found = data("keygen", "a", "--name", "a")
    assert set(contents(home)) == {"a/keys/identity.seed", "a/keys/curve.seed", "a/card.toml"}
    assert set(found) == {"name", "node", "card", "folder"}


def test_keys_of_keygen_become_a_site_by_the_command_that_keygen_names(home: Path) -> None:
    address = "tcp://a.example.org:7400"
    text = said("keygen", "a", "--name", "a", "--advertise", address)
    assert f"Next: `swarm init a --name a --advertise {address}` makes a site of them.\n" in text
    before = contents(home)
    for other in (["--name", "b", "--advertise", address], ["--name", "a"]):
        message, hint = refused("init", "a", *other)
        assert message == f"couldn't make a site in a: there are keys already, of 'a' at '{address}'"
        assert "--name and --advertise" in hint
    said("init", "a", "--name", "a", "--advertise", address)
    after = contents(home)
    assert {path: after[path] for path in before} == before
    assert set(after) - set(before) == {"a/swarm.toml"}
    assert Site(home / "a").load_settings({}).site.listen == "tcp://0.0.0.0:7400"


@pytest.mark.parametrize("lost", ["a/keys/curve.seed", "a/card.toml"])
def test_half_of_what_keygen_made_is_said_to_be_half(home: Path, lost: str) -> None:
    said("keygen", "a", "--name", "a")
    (home / lost).unlink()
    message, hint = refused("init", "a", "--name", "a")
    assert message == f"couldn't find {lost}"
    assert hint.startswith("restore it from your backup; ")


def test_a_card_of_other_keys_makes_no_site(home: Path) -> None:
    for name in "ab":
        said("keygen", name, "--name", "a")
    shutil.copy("b/card.toml", "a/card.toml")
    message, _ = refused("init", "a", "--name", "a")
    assert message == "couldn't use the keys in a/keys: a/card.toml is of others"


@pytest.mark.parametrize("command", ["init", "keygen"])
def test_a_file_cannot_become_a_site(home: Path, command: str) -> None:
    (home / "plain").touch()
    message, hint = refused(command, "plain", "--name", "a")
    assert message == "couldn't make plain/keys: Not a directory"
    assert hint == "choose a folder that you can write to"


@pytest.mark.parametrize("command", ["init", "keygen"])
def test_no_command_overwrites_a_site_or_its_keys(home: Path, command: str) -> None:
    said("init", "a", "--name", "a")
    before = contents(home)
    message, hint = refused(command, "a", "--name", "other")
    assert message in (
        "couldn't make a site in a: it already holds one",
        "couldn't make keys in a/keys: there are keys already",
    )
    assert "move" in hint
    assert contents(home) == before


@pytest.mark.parametrize(
    ("options", "words", "advice"),
    [
        (["--name", "no good"], "couldn't accept 'no good' as the name of a member", "use letters, digits, - and _"),
        (["--name", "klinik-süd"], "couldn't accept 'klinik-süd' as the name", "use letters, digits, - and _"),
        (["--name", "a", "--advertise", "a.example.org:7400"], "endpoint 'a.example.org:7400'", "tcp://host:port"),
        (["--name", "a", "--advertise", "tcp://host"], "endpoint 'tcp://host'", "tcp://host:port"),
        (["--name", "a", "--advertise", "tcp://host:0"], "endpoint 'tcp://host:0'", "port from 1 to 65535"),
        (["--name", "a", "--advertise", "tcp://host:99999"], "endpoint 'tcp://host:99999'", "port from 1 to 65535"),
        (["--name", "a", "--advertise", "tcp://2001:db8::1:7400"], "endpoint 'tcp://2001:db8::1:7400'", "tcp://"),
        (["--name", "a", "--listen", "junk"], "site.listen, from the new settings: 'junk' is no address", "tcp://"),
    ],
)
def test_a_site_that_cannot_be_made_leaves_nothing_behind(
    home: Path, options: list[str], words: str, advice: str
) -> None:
    message, hint = refused("init", "a", *options)
    assert words in message
    assert advice in hint
    assert contents(home) == {}


# --- signing ------------------------------------------------------------------------------------------------------


def test_the_last_signature_completes_the_charter_and_names_the_ledger(home: Path) -> None:
    path = draft(home)
    assert said("charter", "sign", "charter.toml", "--folder", "a") == "Signed charter.toml; still to sign: b.\n"
    assert data("charter", "sign", "charter.toml", "--folder", "b") == {"path": "charter.toml", "missing": []}
    signed = c.from_toml(path.read_text())
    signed.check()
    text = said("charter", "sign", "charter.toml", "--folder", "b")
    assert text == f"Signed charter.toml; complete: ledger {signed.ledger_id.hex()[:16]}.\n"


def test_signing_tells_programs_who_is_missing(home: Path) -> None:
    draft(home, 3)
    assert data("charter", "sign", "charter.toml", "--folder", "b") == {"path": "charter.toml", "missing": ["a", "c"]}


def test_signing_twice_changes_nothing(home: Path) -> None:
    path = signed_by_all(home)
    before = path.read_bytes()
    said("charter", "sign", "charter.toml", "--folder", "a")
    assert path.read_bytes() == before


def test_a_signature_can_be_written_beside_the_original(home: Path) -> None:
    path = draft(home)
    before = path.read_bytes()
    found = data("charter", "sign", "charter.toml", "--folder", "a", "-o", "by-a.toml")
    assert found == {"path": "by-a.toml", "missing": ["b"]}
    assert path.read_bytes() == before
    assert c.from_toml((home / "by-a.toml").read_text()).missing() == ("b",)


def test_who_is_not_in_the_charter_cannot_sign_it(home: Path) -> None:
    draft(home)
    said("init", "stranger", "--name", "a")
    before = contents(home)
    message, hint = refused("charter", "sign", "charter.toml", "--folder", "stranger")
    assert message.startswith("couldn't sign the charter of 'oncology': this site's identity is not among its members")
    assert "send your card" in hint
    assert contents(home) == before


def test_nobody_signs_for_another_program_than_the_one_at_hand(home: Path) -> None:
    draft(home)
    (home / "a" / "task.py").write_text("another = True\n")
    before = contents(home)
    message, hint = refused("charter", "sign", "charter.toml", "--folder", "a", code=6)
    assert message == "couldn't sign charter.toml: a/task.py is not the task file the charter was made with"
    assert CODE.hex()[:16] in hint
    assert contents(home) == before


def test_a_folder_without_keys_cannot_sign(home: Path) -> None:
    draft(home)
    before = contents(home)
    message, hint = refused("charter", "sign", "charter.toml", "--folder", "nowhere")
    assert message == "couldn't find nowhere/keys/identity.seed"
    assert "swarm keygen" in hint
    assert contents(home) == before


def test_a_charter_that_was_changed_after_it_was_signed_gets_no_further_signature(home: Path) -> None:
    path = draft(home)
    said("charter", "sign", "charter.toml", "--folder", "a")
    replace(path, "rounds = 20", "rounds = 21")
    before = contents(home)
    message, hint = refused("charter", "sign", "charter.toml", "--folder", "b", code=3)
    assert message == "couldn't accept the charter: the signature of 'a' does not match its terms"
    assert "changed after it was signed" in hint
    assert contents(home) == before
    # What the hint says can be done.
    path.write_text(path.read_text().partition("[[signature]]")[0])
    assert said("charter", "sign", "charter.toml", "--folder", "b") == "Signed charter.toml; still to sign: a.\n"


# --- merging ------------------------------------------------------------------------------------------------------


def test_signatures_given_on_copies_come_together(home: Path) -> None:
    draft(home)
    for name in "ab":
        said("charter", "sign", "charter.toml", "--folder", name, "-o", f"by-{name}.toml")
    assert said("charter", "merge", "by-a.toml", "-o", "one.toml") == "Merged into one.toml; still to sign: b.\n"
    assert said("charter", "merge", "by-b.toml", "by-a.toml", "-o", "both.toml") == "Merged into both.toml; complete.\n"
    said("charter", "sign", "by-a.toml", "--folder", "b")
    assert (home / "both.toml").read_bytes() == (home / "by-a.toml").read_bytes()
    assert data("charter", "merge", "both.toml", "-o", "again.toml") == {"path": "again.toml", "missing": []}


def test_copies_with_other_terms_are_not_merged(home: Path) -> None:
    path = draft(home)
    shutil.copy(path, home / "other.toml")
    replace(home / "other.toml", "rounds = 20", "rounds = 21")
    before = contents(home)
    message, hint = refused("charter", "merge", "charter.toml", "other.toml", "-o", "merged.toml")
    assert message == "couldn't merge other.toml: its terms are not those of charter.toml"
    assert hint
    assert contents(home) == before


def test_a_void_signature_is_not_merged(home: Path) -> None:
    draft(home)
    said("charter", "sign", "charter.toml", "--folder", "a", "-o", "by-a.toml")
    replace(home / "by-a.toml", "rounds = 20", "rounds = 21")
    before = contents(home)
    message, _ = refused("charter", "merge", "charter.toml", "by-a.toml", "-o", "merged.toml", code=3)
    assert message == "couldn't accept the charter: the signature of 'a' does not match its terms"
    assert contents(home) == before


# --- checking and showing -----------------------------------------------------------------------------------------


def test_check_of_a_complete_charter_names_every_founder_and_gives_a_plain_verdict(home: Path) -> None:
    path = signed_by_all(home, 3)
    signed = c.from_toml(path.read_text())
    text = said("charter", "check", "charter.toml")
    assert text.startswith("charter.toml is in order; signed by all of 3 founders.\n")
    assert all(f"\n  {name} " in text for name in "abc")
    assert "NOT signed" not in text
    assert data("charter", "check", "charter.toml") == {
        "path": "charter.toml",
        "ledger_id": signed.ledger_id.hex(),
        "missing": [],
    }


def test_check_ends_with_6_while_signatures_are_missing_and_says_whose(home: Path) -> None:
    draft(home, 3)
    said("charter", "sign", "charter.toml", "--folder", "b")
    message, hint = refused("charter", "check", "charter.toml", code=6)
    assert message == "charter.toml is in order but not signed yet by a, c"
    assert hint == "each founder runs `swarm charter sign`"


def test_check_ends_with_3_when_the_terms_are_not_those_that_were_signed(home: Path) -> None:
    path = signed_by_all(home)
    replace(path, "clip_norm_milli = 2500", "clip_norm_milli = 2501")
    before = contents(home)
    message, hint = refused("charter", "check", "charter.toml", code=3)
    assert message == "couldn't accept the charter: the signature of 'a' does not match its terms"
    assert "ask for the signed original" in hint
    assert contents(home) == before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rounds = 20", "rounds = 0", "rounds = 0, it must be 1 to 1000000"),
        ('mixing = "exact"', 'mixing = "median"', "mixing = 'median', known are exact, gossip"),
        ("seed = 7", "seed = -1", "seed = -1, it must be 0 to 4294967295"),
    ],
)
def test_check_ends_with_3_when_a_term_cannot_stand(home: Path, old: str, new: str, words: str) -> None:
    path = draft(home)
    replace(path, old, new)
    message, hint = refused("charter", "check", "charter.toml", code=3)
    assert message == f"couldn't accept the charter: {words}"
    assert hint
    assert refused("charter", "show", "charter.toml", code=3) == (message, hint)


@pytest.mark.parametrize("command", ["check", "show", "sign"])
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rounds = 20", "rounds = 20\nrouns = 3", "'rouns'"),
        ("[round]", "[rond]\n[round]", "unknown table 'rond'"),
        ("rounds = 20", "", "rounds"),
        ("rounds = 20", 'rounds = "20"', "[round]: rounds: expected `int`, got `str`"),
        ("rounds = 20", "rounds =", "couldn't read the TOML"),
    ],
)
def test_a_charter_that_does_not_read_well_is_refused_in_words(
    home: Path, command: str, old: str, new: str, words: str
) -> None:
    path = draft(home)
    replace(path, old, new)
    before = contents(home)
    message, hint = refused("charter", command, "charter.toml", *(["--folder", "a"] if command == "sign" else []))
    assert message.startswith("couldn't read")
    assert words in message
    assert hint
    assert contents(home) == before


@pytest.mark.parametrize("command", ["check", "show", "sign", "merge"])
@pytest.mark.parametrize("what", ["missing", "folder", "not text"])
def test_a_charter_that_cannot_be_read_is_refused_in_words(home: Path, command: str, what: str) -> None:
    path = home / "nowhere.toml"
    if what == "folder":
        path.mkdir()
    if what == "not text":
        path.write_bytes(b"\xff\xfe\x00")
    message, hint = refused("charter", command, path.name, *(["-o", "merged.toml"] if command == "merge" else []))
    if what == "folder" and command == "sign":
        assert message == "couldn't write nowhere.toml: it is a folder"
    else:
        assert message.startswith("couldn't read nowhere.toml: ")
    assert "Errno" not in message
    assert hint
    assert not (home / "merged.toml").exists()


def test_show_puts_the_terms_in_words_for_those_who_must_decide(home: Path) -> None:
    path = draft(home, 3)
    said("charter", "sign", "charter.toml", "--folder", "b")
    text = said("charter", "show", "charter.toml")
    lines = text.splitlines()
    for line in (
        "swarm         oncology",
        "ledger        not founded yet",
        "tolerance     3 members: goes on with 1 site silent, tolerates no liars",
        f"task          tumours, 1,234 parameters, file {CODE.hex()[:16]}",
        "rounds        20, each with at least 2 sites",
        "waiting       60 s for a stuck site, 3600 s in all",
        "bounds        update norm 2.5, one site's weight at most 40 %",
        "shared        accuracy, loss",
    ):
        assert line in lines
    signs = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert signs["a"].endswith("  NOT signed")
    assert signs["b"].endswith("  signed")
    assert "tcp://10.0.0.1:7400" in signs["a"]
    assert "dials out only" in signs["c"]
    for card in c.from_toml(path.read_text()).charter.members:
        assert card.node.hex()[:4] in signs[card.name], "the fingerprint to compare on the phone"


def test_show_tells_programs_the_terms(home: Path) -> None:
    path = draft(home)
    found = data("charter", "show", "charter.toml")
    charter = c.from_toml(path.read_text()).charter
    assert found == {
        "name": "oncology",
        "members": [{"name": m.name, "node": m.node.hex(), "endpoint": m.endpoint} for m in charter.members],
        "rounds": 20,
        "outer": "none",
        "parameters": 1234,
        "missing": ["a", "b"],
        "ledger_id": None,
    }


def test_the_ledger_id_of_show_is_that_of_the_signed_charter(home: Path) -> None:
    signed = c.from_toml(signed_by_all(home).read_text())
    found = data("charter", "show", "charter.toml")
    assert (found["missing"], found["ledger_id"]) == ([], signed.ledger_id.hex())


def test_show_marks_every_signature_that_does_not_match_and_ends_with_3(home: Path) -> None:
    path = draft(home, 3)
    for name in "ab":
        said("charter", "sign", "charter.toml", "--folder", name)
    text = path.read_text()
    first, second = text.rpartition("[[signature]]")[0], text.rpartition("[[signature]]")[2]
    path.write_text(first + "[[signature]]" + second.replace(second.split('"')[3], "00" * 64))
    result = swarm("charter", "show", "charter.toml")
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.startswith("  ")}
    assert lines["a"].endswith("  signed")
    assert lines["b"].endswith("  SIGNATURE INVALID")
    assert lines["c"].endswith("  NOT signed")
    assert result.exit_code == 3
    assert "the signature of 'b' does not match its terms" in result.stderr
    (line,) = swarm("charter", "show", "charter.toml", "--json").stdout.splitlines()
    assert json.loads(line)["error"]["code"] == 3


def test_show_of_terms_that_were_changed_names_no_ledger(home: Path) -> None:
    path = signed_by_all(home)
    replace(path, "rounds = 20", "rounds = 21")
    result = swarm("charter", "show", "charter.toml")
    assert result.exit_code == 3
    assert "ledger        not founded yet\n" in result.stdout
    assert result.stdout.count("SIGNATURE INVALID") == 2


def test_show_prints_no_name_that_a_terminal_would_obey(home: Path) -> None:
    path = draft(home)
    replace(path, 'name = "oncology"', 'name = "onco\\u001b[2Jlogy\\nsigned by all"')
    message, _ = refused("charter", "show", "charter.toml", code=3)
    assert message == r"couldn't accept 'onco\x1b[2Jlogy\nsigned by all' as the name of the swarm"


# --- drafting -----------------------------------------------------------------------------------------------------


def new(*cards: str, task: str = "task.py") -> list[str]:
    return [
        *("charter", "new", "--name", "oncology", "--task", task, "--rounds", "20"),
        *(word for card in cards for word in ("--card", card)),
    ]


def test_a_charter_is_not_drafted_from_cards_or_tasks_that_are_not_there(home: Path) -> None:
    sites(home)
    before = contents(home)
    message, _ = refused(*new("a/card.toml", "b/card.toml"))
    assert message == "couldn't find the task file task.py"
    message, _ = refused(*new("a/card.toml", "c/card.toml"))
    assert message.startswith("couldn't read c/card.toml: ")
    message, hint = refused(*new("a/card.toml", "b/swarm.toml"))
    assert (message, hint) == (
        "couldn't read the card: the table [card] is missing",
        "name the file card.toml of a site",
    )
    assert contents(home) == before


def test_a_card_that_was_changed_on_its_way_is_refused(home: Path) -> None:
    sites(home)
    replace(home / "b" / "card.toml", "tcp://10.0.0.2:7400", "tcp://6.6.6.6:7400")
    message, hint = refused(*new("a/card.toml", "b/card.toml"))
    assert message == "couldn't accept the card of 'b': a proof of its keys does not verify"
    assert "send the new card" in hint
    assert not (home / "charter.toml").exists()


def test_a_charter_that_is_there_is_not_replaced_by_a_draft(home: Path) -> None:
    path = signed_by_all(home)
    before = contents(home)
    message, hint = refused(*new("a/card.toml", "b/card.toml"))
    assert message == "couldn't draft charter.toml: it exists already"
    assert "--force" in hint
    assert contents(home) == before
    # With it the draft goes on, here as far as the task file.
    assert refused(*new("a/card.toml", "b/card.toml"), "--force")[0] == "couldn't find the task file task.py"
    assert path.read_bytes() == before["charter.toml"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rounds", "0"], "rounds = 0, it must be 1 to 1000000"),
        (["--card", "a/card.toml"], "two members have the same name"),
        (["--require-byzantine"], "2 members cannot outvote a liar"),
        (["--topology", "ring"], "couldn't make a ring of 2 members"),
        (["--gossip", "nonsense"], "there is none named 'nonsense'"),
        (["--gossip", "ring"], "couldn't make a ring of 2 members"),
        (["--gossip", "complete:3"], "a number follows the name only of"),
        (["--codec", "zip"], "couldn't choose a compression: 'zip' is not one"),
        (["--gossip", "complete", "--codec", "randk:9"], "codec = 'randk:9' with gossip mixing, known are bf16, int8"),
        (["--gossip", "random_matching", "--codec", "int8"], "couldn't gossip over random_matching under int8"),
        (["--gossip", "complete", "--codec", "int8", "--gamma", "2"], "couldn't accept the charter: gamma = '2'"),
        (["--codec", "int8", "--gamma", "0.5"], "gamma is for gossip under int8, int4, sign or topk"),
        (["--gossip", "complete", "--correction", "sgd"], "couldn't choose a correction: 'sgd' is not one"),
        (["--correction", "qg"], "a correction is for gossip"),
        (["--correction", "gt"], "a correction is for gossip"),
        (["--gossip", "complete", "--codec", "int8", "--correction", "gt"], "correction = gt under the codec int8"),
        (["--outer", "adam"], "couldn't choose an outer optimiser: 'adam' is not one, known are none, fedavgm"),
        (["--outer", "nesterov:1"], "the beta of 'nesterov:1' is 1"),
        (["--gossip", "complete", "--outer", "fedadam"], "gossip has no common step that outer = 'fedadam' could take"),
        (["--local", "fedavg"], "couldn't choose a local algorithm: 'fedavg' is not one"),
        (["--local", "fedprox:0"], "couldn't choose a local algorithm: 'fedprox:0' is not one"),
        (["--gossip", "complete", "--local", "scaffold"], "local = scaffold with gossip"),
        (["--deadline", "inf"], "couldn't use --deadline inf: it is not a finite number"),
        (["--clip-norm", "nan"], "couldn't use --clip-norm nan: it is not a finite number"),
        (["--clip-norm", "1000000"], "couldn't use --clip-norm 1e+06: it must be 0.001 to 1024"),
        (["--weight-cap", "-inf"], "couldn't use --weight-cap -inf: it is not a finite number"),
        (["--name", "no good"], "couldn't accept 'no good' as the name of the swarm"),
        (["-o", "task.py/x"], "couldn't write task.py/x: "),
        (["--task", "terms.toml"], "couldn't use terms.toml as a task: its name does not end in .py"),
    ],
)
def test_a_draft_that_cannot_stand_is_refused_before_the_model_is_built(
    home: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    def build(*_: object) -> None:
        raise AssertionError("the model is built")

    monkeypatch.setattr("node.cli.charter.described_task", build)
    sites(home)
    (home / "task.py").write_text(TASK)
    (home / "terms.toml").write_text("")
    before = contents(home)
    message, hint = refused(*new("a/card.toml", "b/card.toml"), *options)
    assert words in message
    assert hint
    assert hint[0].islower() or hint.startswith("-")
    assert contents(home) == before


def test_a_charter_says_how_sites_mix_and_compress(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = four_sites(home, monkeypatch)
    text = said(*new(*cards), "--gossip", "base2", "--codec", "bf16", "--correction", "qg")
    assert "gossip over base2; the last round averages all models into one" in text
    assert "bf16: half the bytes" in text
    assert "quasi-global momentum of 0.7" in text
    made = c.from_toml((home / "charter.toml").read_text()).charter
    assert (made.round.mixing, made.schedule, str(made.codec)) == ("gossip", "base2", "bf16")
    assert made.momentum == 0.7
    assert "late work     counts for 16 rounds, less each round" in said(*new(*cards), "--force")
    made = c.from_toml((home / "charter.toml").read_text()).charter
    assert (made.round.mixing, made.options) == ("exact", (("min_cell", "5"), ("staleness", "16")))
    assert "from 5 cases of each class on" in said("charter", "show", "charter.toml")
    paced = said(*new(*cards), "--force", "--pace", "4")
    assert "a site at work is waited for 4 times as long as the median needs" in paced
    text = said(*new(*cards), "--force", "--staleness", "0", "--min-cell", "0")
    assert "late work" not in text
    assert "of each class on" not in text
    assert c.from_toml((home / "charter.toml").read_text()).charter.options == ()
    local = said(*new(*cards), "--force", "--local", "fedprox:0.01")
    assert "local         FedProx: mu 0.01 pulls each step towards the model of the round" in local
    assert c.from_toml((home / "charter.toml").read_text()).charter.local == "fedprox:0.01"
    message, _ = refused(*new(*cards), "--force", "--gossip", "ring", "--staleness", "3")
    assert "late work counts in exact mixing" in message
    message, _ = refused(*new(*cards), "--force", "--pace", "1")
    assert "must be 2 to 1000" in message
    message, _ = refused(*new(*cards), "--force", "--staleness", "0", "--pace", "4")
    assert "so late work must count" in message


def test_a_charter_says_how_contributions_are_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = four_sites(home, monkeypatch)
    text = said(*new(*cards), "--contribution", "shapley")
    assert "contribution  shapley by accuracy (more is better), in at most 20 % of a round's training time" in text
    made = c.from_toml((home / "charter.toml").read_text()).charter
    assert made.contribution is not None
    assert made.contribution.text == "shapley:accuracy:higher:20"
    text = said(*new(*cards), "--force", "--contribution", "loo:loss", "--metrics", "auc,loss")
    assert "contribution  loo by loss (less is better), in at most 20 %" in text
    assert "shares by samples, as sites claim them" in said(*new(*cards), "--force", "--contribution", "size")
    assert "contribution" not in said(*new(*cards), "--force")
    for words, refusal in (
        (("--contribution", "banzhaf"), "couldn't read contribution = 'banzhaf'"),
        (("--contribution", "loo", "--metrics", ""), "has no metric to judge models by"),
        (("--contribution", "loo:f1"), "none of the charter's metrics"),
        (("--contribution", "loo", "--gossip", "ring"), "no member has what all others made"),
        (("--contribution", "loo", "--route", "fold"), "on which no member has what all others made"),
        (("--contribution", "loo", "--asynchronous"), "over before the others have judged it"),
    ):
        message, hint = refused(*new(*cards), "--force", *words)
        assert refusal in message
        assert hint


def test_a_charter_says_how_public_copies_are_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = four_sites(home, monkeypatch, parameters=250_000)
    text = said(*new(*cards), "--gossip", "ring", "--codec", "topk:50")
    assert "topk:50: the largest elements" in text
    assert "gamma 0.1, twice the share of 5 % that is kept, at most 0.9; 1 MB on the disk for each partner" in text
    text = said(*new(*cards), "--gossip", "ring", "--codec", "int4", "--gamma", "0.5", "--force")
    assert "gamma 0.5, as the charter says" in text
    made = c.from_toml((home / "charter.toml").read_text()).charter
    assert (str(made.codec), made.gamma) == ("int4", 0.5)


def test_a_charter_says_that_links_go_one_way(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = four_sites(home, monkeypatch)
    message, hint = refused(*new(*cards), "--gossip", "one_peer_exponential")
    assert "in it members send to others than they hear from" in message
    assert "--directed takes those in which models go one way" in hint
    text = said(*new(*cards), "--gossip", "one_peer_exponential", "--directed")
    assert "gossip over one_peer_exponential, links going one way" in text
    assert c.from_toml((home / "charter.toml").read_text()).charter.directed
    assert "links of one way are for gossip" in refused(*new(*cards), "--directed", "--force")[0]
    (home / "arcs.txt").write_text("# giver taker\na b\nb, c\nc d\n\nd a  # and round\na b\n")
    text = said(*new(*cards), "--arcs", "arcs.txt", "--force")
    assert "gossip over 4 links of its own, links going one way" in text
    assert c.from_toml((home / "charter.toml").read_text()).charter.arcs == ((0, 1), (1, 2), (2, 3), (3, 0))
    for lines, words in (
        ("a b\nb\n", "line 2 does not name two of the sites"),
        ("a b\nb e\n", "line 2 does not name two of the sites"),
        ("# nothing\n", "it has no link"),
        ("a b\nb a\n", "nothing that 'a' gives ever reaches 'c'"),
    ):
        (home / "arcs.txt").write_text(lines)
        assert words in refused(*new(*cards), "--arcs", "arcs.txt", "--force")[0]
    assert "and --gossip says it too" in refused(*new(*cards), "--arcs", "arcs.txt", "--gossip", "ring", "--force")[0]


def test_links_that_a_schedule_needs_must_be_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = four_sites(home, monkeypatch)
    message, hint = refused(*new(*cards), "--gossip", "complete", "--topology", "ring")
    assert "gossip over complete needs a link between a and c, which ring has not" in message
    assert "leave --topology out" in hint


def test_a_charter_is_shown_in_every_form(home: Path) -> None:
    path = signed_by_all(home)
    assert said("charter", "show", path, "--format", "json") == said("charter", "show", path, "--json")
    assert said("charter", "show", path, "--format", "table") == said("charter", "show", path)
    raw = swarm("charter", "show", path, "--format", "raw").stdout_bytes
    signed = c.from_toml(path.read_text())
    assert raw == signed.charter.encode(), "the very bytes that the founders sign"
    lines = json.loads(swarm("charter", "show", path, "--format", "jsonl").stdout)
    assert lines["error"]["hint"] == "--format json prints it as one object"


def test_a_charter_with_a_signature_that_does_not_match_is_shown_to_people_alone(home: Path) -> None:
    path = signed_by_all(home)
    replace(path, "rounds = 20", "rounds = 21")
    for form in ("json", "raw"):
        result = swarm("charter", "show", path, "--format", form)
        assert (result.exit_code, "SIGNATURE INVALID" in result.stdout) == (3, False)
    assert "SIGNATURE INVALID" in swarm("charter", "show", path).stdout


RING = {
    "links.txt": "# who meets whom\nb a\nb c\na d\nd b\n",
    "numbers.txt": "0 1\n1 2\n0 3\n1 3\n",
    "links.csv": ",b,a,d,c\nb,0,1,1,1\na,1,0,1,0\nd,1,1,0,0\nc,1,0,0,0\n",
    "links.graphml": '<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><graph edgedefault="undirected">'
    + "".join(f'<node id="{name}"/>' for name in "dcba")
    + "".join(f'<edge source="{a}" target="{b}"/>' for a, b in ("ab", "bc", "ad", "bd"))
    + "</graph></graphml>",
}
"""One graph in every form: a-b, b-c, a-d, b-d."""


@pytest.mark.parametrize("name", RING)
def test_links_of_ones_own_are_those_of_the_charter(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (home / name).write_text(RING[name])
    cards = four_sites(home, monkeypatch)
    said(*new(*cards), "--links", name)
    made = c.from_toml((home / "charter.toml").read_text()).charter
    assert (made.edges, made.round.mixing) == (((0, 1), (0, 3), (1, 2), (1, 3)), "exact")
    assert "gossip over all links" in said(*new(*cards), "--force", "--links", name, "--gossip", "links")
    gossiping = c.from_toml((home / "charter.toml").read_text()).charter
    assert (gossiping.edges, gossiping.round.mixing, gossiping.schedule) == (made.edges, "gossip", "links")


@pytest.mark.parametrize(
    ("text", "options", "words", "works"),
    [
        ("a b\nc d\n", [], "'c' and 1 more cannot be reached from 'a'", "add a link that joins"),
        ("a b\nb mars\n", [], "'mars' is no member", "the members' names (a, b, c, d) or their numbers from 0 to 3"),
        ("0 1\n1 4\n4 2\n2 3\n", [], "'4' is no member", "from 0 to 3"),
        ("a b\nb c\n", [], "'d' has none", "link every member"),
        ("0 1\n", [], "'c' and 1 more have none", "link every member"),
        ("a b\nb c\nc\n", [], "line 3: 'c' stands alone", "write two members"),
        ("a b\na c\nc d\n", [], "c and d are linked, and both dial out only", "take the link out"),
        ("a b\na c\na d\n", ["--gossip", "complete"], "needs a link between b and c, which links.txt has not", "--gossip links"),
        ("a b\na c\na d\n", ["--topology", "star"], "both say who is linked to whom", "give one of them"),
        (None, [], "No such file", "name a file that is there"),
    ],
)  # fmt: skip
def test_links_that_cannot_be_are_refused_with_what_would_work(
    home: Path, text: str | None, options: list[str], words: str, works: str
) -> None:
    sites(home, 4, hidden=2)
    (home / "task.py").write_text(TASK)
    if text is not None:
        (home / "links.txt").write_text(text)
    message, hint = refused(*new(*(f"{name}/card.toml" for name in "abcd")), "--links", "links.txt", *options)
    assert words in message
    assert "links" in message
    assert works in hint
    assert not (home / "charter.toml").exists()


def test_relays_link_sites_that_only_dial_out_and_the_terms_say_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "node.cli.charter.described_task", lambda *_: (c.Task("t", CODE, LAYOUT, 1234, digest("m"), 7), "")
    )
    sites(home, 4, hidden=2)
    (home / "task.py").write_text(TASK)
    (home / "links.txt").write_text("a b\na c\na d\nc d\n")
    cards = [f"{name}/card.toml" for name in "abcd"]
    words = "relays        members that listen link those that only dial out, and cannot read along"
    assert words in said(*new(*cards), "--relay", "--links", "links.txt").splitlines()
    made = c.from_toml((home / "charter.toml").read_text()).charter
    assert (made.edges, made.options[1]) == (((0, 1), (0, 2), (0, 3), (2, 3)), ("relay", "sealed"))
    assert words not in said(*new(*cards), "--force").splitlines()
    said(*new(*cards), "--force", "--relay", "--route", "sharded")
    (home / "links.txt").write_text("a b\na c\nb d\nc d\n")
    message, hint = refused(*new(*cards), "--force", "--relay", "--links", "links.txt")
    assert "c and d are linked, both dial out only, and nobody can relay between them" in message
    assert "link both to one member that has an endpoint" in hint


@pytest.mark.parametrize("options", [["--gossip", "base2"], ["--gossip", "links"], ["--arcs", "arcs.txt"]])
def test_gossip_between_two_that_only_dial_out_needs_a_relay(
    home: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setattr(
        "node.cli.charter.described_task", lambda *_: (c.Task("t", CODE, LAYOUT, 1234, digest("m"), 7), "")
    )
    sites(home, 4, hidden=2)
    (home / "task.py").write_text(TASK)
    (home / "arcs.txt").write_text("a b\nb c\nc d\nd a\n")
    cards = [f"{name}/card.toml" for name in "abcd"]
    message, hint = refused(*new(*cards), *options)
    assert "gossip has c and d exchange models, and both dial out only" in message
    assert "--relay" in hint
    assert not (home / "charter.toml").exists()
    said(*new(*cards), *options, "--relay")


@pytest.mark.parametrize("target", ["a", "charter.toml/x", "x" * 300])
def test_a_place_where_no_file_can_stand_is_refused_in_words(home: Path, target: str) -> None:
    draft(home)
    before = contents(home)
    for command in (["sign", "charter.toml", "--folder", "a"], ["merge", "charter.toml"]):
        message, hint = refused("charter", *command, "-o", target)
        assert message.startswith(f"couldn't write {target}: ")
        assert hint == "name a file in a folder that you can write to"
    assert contents(home) == before


def test_a_refused_draft_leaves_not_even_a_folder(home: Path) -> None:
    sites(home)
    refused(*new("a/card.toml", "c/card.toml"), "-o", "later/charter.toml")
    assert not (home / "later").exists()


@pytest.mark.real
def test_a_task_file_that_has_no_model_drafts_no_charter(home: Path) -> None:
    sites(home)
    (home / "task.py").write_text("x = 1\n")
    result = swarm(*new("a/card.toml", "b/card.toml"), "--json")
    assert result.exit_code == 1
    assert "it has no function build_model()" in json.loads(result.stdout)["error"]["message"]
    assert json.loads(result.stdout)["error"]["hint"] == "mend the task file and try again"
    assert not (home / "charter.toml").exists()


@pytest.mark.real
def test_two_hospitals_come_to_a_charter_as_the_readme_says(home: Path) -> None:
    for name in ("north", "south"):
        said("init", name, "--name", name, "--advertise", f"tcp://{name}.example.org:7400")
    (home / "task.py").write_text(TASK)
    cards = ("--card", "north/card.toml", "--card", "south/card.toml")
    terms = ("--rounds", "5", "--patience", "7.5", "--deadline", "90", "--clip-norm", "2.5", "--weight-cap", "0.6")
    drafted = data("charter", "new", "--name", "oncology", "--task", "task.py", *cards, *terms, "--metrics", "loss,auc")
    travels = "all 31 numbers of the model travel, 124 B as they are"
    assert drafted == {"path": "charter.toml", "members": ["north", "south"], "model": [travels]}
    charter = c.from_toml((home / "charter.toml").read_text()).charter
    assert charter.round == c.RoundPolicy(5, "exact", "none", 2, 90_000, 7_500, 2_500, 600_000)
    assert (charter.task.name, charter.task.parameters, charter.metrics) == ("task", 31, ("loss", "auc"))
    assert "NOT signed" in said("charter", "show", "charter.toml")
    for name in ("north", "south"):
        shutil.copy("charter.toml", f"{name}/charter.toml")
        said("charter", "sign", f"{name}/charter.toml", "--folder", name)
        refused("charter", "check", f"{name}/charter.toml", code=6)
    message, _ = refused("charter", "new", "--name", "oncology", "--task", "task.py", *cards, *terms)
    assert message == "couldn't draft charter.toml: it exists already"
    said("charter", "merge", "north/charter.toml", "south/charter.toml", "-o", "charter.toml")
    assert said("charter", "check", "charter.toml").startswith("charter.toml is in order; signed by all of 2 founders.")
    for name in ("north", "south"):
        shutil.copy("charter.toml", name)
        site = Site(Path(name))
        assert site.load_charter(site.load_settings({})).charter == charter
        assert charter.index(site.load_identity().node) is not None


def test_the_same_terms_found_the_same_ledger_whoever_signs_first(home: Path) -> None:
    path = draft(home)
    signed = c.from_toml(path.read_text())
    first, second = (Site(home / name).load_identity() for name in "ab")
    assert signed.sign(first).sign(second).ledger_id == signed.sign(second).sign(first).ledger_id
    other = msgspec.structs.replace(signed.charter, name="cardiology")
    assert c.SignedCharter(other, {}).sign(first).sign(second).ledger_id != signed.sign(first).sign(second).ledger_id

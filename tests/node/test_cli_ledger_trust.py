"""What was seen of a ledger before: it may grow and nothing else, whoever looks, however many at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from node.cli.ledger.trust import Memory, Seen, memory_at
from tests.benchmarks.ledgers import make_ledger
from tests.node.test_cli_ledger import calm, contents, data, refused, said, swarm, written

SEEN = Seen(name="s", height=1, size=10, root="ab", time_ms=1, seen_ms=2)


def standing(*arguments: object) -> object:
    found = data("ledger", *arguments)["trust"]
    assert isinstance(found, dict)
    return found["standing"]


def gone_back(*arguments: object) -> str:
    """Return what is said on stderr of a ledger that went back on what was seen, and check that programs are told."""
    plain, machine = swarm("ledger", *arguments), swarm("ledger", *arguments, "--json")
    assert plain.exit_code == machine.exit_code == json.loads(machine.stdout)["error"]["code"] == 5
    assert plain.stderr == machine.stderr
    assert plain.stderr.count("\n") == 2
    return plain.stderr


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return written(tmp_path / "site", calm()[1])


@pytest.mark.parametrize("command", [["status"], ["verify"], ["verify", "--fast"], ["verify", "--from", "3"]])
def test_the_first_look_is_remembered_and_the_next_compared_with_it(
    site: Path, tmp_path: Path, command: list[str]
) -> None:
    shorter = written(tmp_path / "shorter", calm()[1][:3])
    assert standing(*command, shorter) == "new"
    assert standing(*command, site) == "consistent"
    assert standing(*command, site) == "consistent"
    message = gone_back(*command, shorter)
    assert message.startswith("error: this ledger was rolled back: it has ")
    assert "trust reset" in message


def test_a_rolled_back_ledger_ends_with_5_though_it_is_valid_in_itself(site: Path, tmp_path: Path) -> None:
    said("ledger", "verify", site)
    shorter = written(tmp_path / "shorter", calm()[1][:3])
    for extra in ([], ["--fast"], ["--from", "2"]):
        result = swarm("ledger", "verify", shorter, *extra)
        assert result.exit_code == 5
        assert "✘ trust         ROLLED BACK: " in result.stdout
        assert "VALID in itself" in result.stdout
        assert result.stderr.count("\n") == 2
        machine = swarm("ledger", "verify", shorter, *extra, "--json")
        assert json.loads(machine.stdout)["error"]["code"] == machine.exit_code == 5
    assert swarm("ledger", "status", shorter).exit_code == 5


def test_a_ledger_with_another_past_ends_with_5(site: Path, trust_file: Path) -> None:
    said("ledger", "verify", site)
    plain = json.loads(trust_file.read_text())
    (row,) = plain["ledgers"].values()
    row["root"] = "00" * 32
    trust_file.write_text(json.dumps(plain))
    assert "its past was replaced by another" in gone_back("status", site)
    row["size"] -= 1  # Between two blocks: this history never had that size.
    trust_file.write_text(json.dumps(plain))
    for command in (["verify"], ["verify", "--fast"]):
        assert swarm("ledger", *command, site).exit_code == 5
    assert json.loads(trust_file.read_text()) == plain


def test_an_invalid_ledger_is_worse_than_a_rolled_back_one_and_is_never_remembered(site: Path, tmp_path: Path) -> None:
    payloads = list(calm()[1][:3])
    payloads[1], payloads[2] = payloads[2], payloads[1]
    bad = written(tmp_path / "bad", payloads)
    refused("ledger", "verify", bad, code=3)
    assert data("ledger", "trust", "show")["ledgers"] == []
    said("ledger", "verify", site)
    refused("ledger", "verify", bad, code=3)
    refused("ledger", "status", bad, code=3)


def test_an_end_that_no_certificate_covers_is_not_remembered(tmp_path: Path) -> None:
    """It may still be replaced, and nobody went back on anything then."""
    from tests.node.test_cli_ledger import changed

    payloads = list(calm()[1])
    payloads[-1] = changed(payloads[-1], certificate=())
    site = written(tmp_path / "site", payloads)
    assert swarm("ledger", "verify", site).exit_code == 6
    ledgers = data("ledger", "trust", "show")["ledgers"]
    assert isinstance(ledgers, list)
    assert ledgers[0]["height"] == len(payloads) - 1


def test_a_forged_last_certificate_is_noticed_by_status_and_not_remembered(tmp_path: Path) -> None:
    import msgspec

    from swarm import codec
    from swarm.ledger.block import FinalBlock
    from tests.node.test_cli_ledger import changed

    payloads = list(calm()[1])
    certificate = codec.decode(payloads[-1], FinalBlock, limit=1 << 21).certificate[0]
    forged = msgspec.structs.replace(certificate, signatures=certificate.signatures[::-1])
    payloads[-1] = changed(payloads[-1], certificate=(forged,))
    site = written(tmp_path / "site", payloads)
    for command in (["status"], ["verify", "--fast"], ["verify"]):
        message, _ = refused("ledger", *command, site, code=3)
        assert f", block {len(payloads)}: " in message
    assert data("ledger", "trust", "show")["ledgers"] == []


def test_two_ledgers_of_one_name_are_kept_apart_and_the_second_is_remarked_on(site: Path, tmp_path: Path) -> None:
    signed, payloads, _ = make_ledger(members=4, rounds=1)
    other = written(tmp_path / "other", payloads, signed=signed)
    assert signed.charter.name == calm()[0].charter.name
    said("ledger", "verify", site)
    assert "! trust         seen here for the first time; but 1 other ledger of this name seen" in said(
        "ledger", "verify", other
    )
    assert standing("verify", site) == standing("verify", other) == "consistent"
    message, hint = refused("ledger", "trust", "reset", signed.charter.name, code=7)
    assert message.startswith(f"{signed.charter.name!r} could be ")
    assert f"{signed.ledger_id.hex()[:12]} ({signed.charter.name})" in message
    assert "digits" in hint
    assert data("ledger", "trust", "reset", signed.ledger_id.hex()[:8])["forgotten"] == [signed.ledger_id.hex()]
    assert (standing("verify", site), standing("verify", other)) == ("consistent", "new")


def test_what_is_forgotten_counts_as_new(site: Path, tmp_path: Path) -> None:
    said("ledger", "verify", site)
    total = data("ledger", "status", site)["entries"]
    assert f"{total} entries" in said("ledger", "trust", "show")
    refused("ledger", "trust", "reset", code=2)
    refused("ledger", "trust", "reset", "nothing", code=7)
    said("ledger", "trust", "reset", "--all")
    assert standing("verify", written(tmp_path / "shorter", calm()[1][:3])) == "new"


def test_nothing_is_written_into_the_ledger(site: Path) -> None:
    before = contents(site)
    said("ledger", "verify", site)
    said("ledger", "status", site)
    assert contents(site) == before


@pytest.mark.parametrize(
    "junk", [b"", b"{}", b"[]", b"\xff", b'{"schema": "swarm-ledger/trust/v1", "ledgers": {"a": {}}}', b"[" * 10**5]
)
def test_a_trust_file_that_is_damaged_is_not_passed_over(site: Path, trust_file: Path, junk: bytes) -> None:
    trust_file.write_bytes(junk)
    for command in ("status", "verify"):
        message, hint = refused("ledger", command, site, code=2)
        assert message.startswith(f"couldn't read what was seen of ledgers in {trust_file}: ")
        assert "move it away" in hint
    assert trust_file.read_bytes() == junk


def test_a_place_that_cannot_be_written_is_a_note_and_no_failure(site: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = swarm("ledger", "verify", site, "--trust", tmp_path / "file" / "trust.json")
    assert result.exit_code == 2
    assert "Not a directory" in result.stderr


def test_where_it_is_remembered(tmp_path: Path) -> None:
    assert memory_at(None, {"XDG_STATE_HOME": "/state"}).path == Path("/state/swarm/trust.json")
    assert memory_at(None, {"XDG_STATE_HOME": "relative"}).path == Path.home() / ".local/state/swarm/trust.json"
    assert memory_at(None, {}).path == Path.home() / ".local/state/swarm/trust.json"
    assert memory_at(None, {"SWARM_TRUST": ""}).path is None
    assert memory_at(tmp_path / "t", {"SWARM_TRUST": "x"}).path == tmp_path / "t"


def test_less_than_is_remembered_changes_nothing(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "t.json")
    memory.remember("aa", SEEN)
    memory.remember("aa", Seen(name="s", height=0, size=9, root="cd", time_ms=0, seen_ms=3))
    memory.remember("aa", Seen(name="s", height=1, size=10, root="cd", time_ms=0, seen_ms=3))
    assert memory.load() == {"aa": SEEN}


WRITER = """\
import sys
from pathlib import Path
from node.cli.ledger.trust import Memory, Seen
memory = Memory(Path(sys.argv[1]))
for i in range(30):
    memory.remember(f"{sys.argv[2]}-{i}", Seen(name="s", height=i, size=i, root="ab", time_ms=1, seen_ms=2))
    memory.load()
"""


@pytest.mark.real
def test_many_at_once_lose_nothing_and_never_see_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    command = [sys.executable, "-c", WRITER, str(path)]
    started = [subprocess.Popen([*command, str(i)], stderr=subprocess.PIPE, text=True) for i in range(4)]
    for process in started:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    assert len(Memory(path).load()) == 4 * 30
    assert sorted(left.name for left in tmp_path.iterdir()) == ["t.json", "t.json.lock"]

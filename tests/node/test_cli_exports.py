"""`swarm ledger` for outsiders: checkpoints, policies, proofs and tiles, and what is said when there are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.cli.main import cli
from node.cli.output import Failure
from swarm.errors import SwarmError, UsageError
from swarm.ledger import note as n
from swarm.ledger import tiles, tlog
from swarm.ledger.merkle import verify_consistency
from tests.builders import identity
from tests.sites import Left, calm_run, write_site


def left() -> Left:
    return calm_run(members=4, rounds=3)


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, ["ledger", *(str(argument) for argument in arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def said(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def data(*arguments: object) -> dict[str, object]:
    body = json.loads(said(*arguments, "--json"))
    assert (body["schema"], body["status"]) == ("swarm/cli/v1", "ok")
    found = body["data"]
    assert isinstance(found, dict)
    return found


def failed(code: int, *arguments: object) -> SwarmError:
    with pytest.raises(SwarmError) as caught:
        run(*arguments)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    if isinstance(caught.value, Failure):
        assert caught.value.code == code
    else:
        assert code == (2 if isinstance(caught.value, UsageError) else 3)
    return caught.value


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return write_site(tmp_path / "site", left(), checkpoint=left().checkpoints[-1])


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    return write_site(tmp_path / "bare", left())


def head_of(note: bytes) -> tlog.Checkpoint:
    return tlog.Checkpoint.decode(n.parse(note).text)


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def forged(checkpoint: tlog.Checkpoint, signers: tuple[int, ...]) -> bytes:
    """Return a checkpoint that members, gone bad, have signed."""
    text = checkpoint.encode()
    secrets = [identity(i).cosign_key for i in signers]
    lines = [n.sign(tlog.log_key(checkpoint.origin, key.public), text, key.sign) for key in secrets[:1]]
    for i, key in zip(signers, secrets, strict=True):
        lines.append(n.cosign(tlog.cosigner_key(checkpoint.origin, f"site-{i}", key.public), text, 1, key.sign))
    return n.Note(text, tuple(lines)).encode()


# --- checkpoint, policy, vkeys ----------------------------------------------------------------------------------


def test_the_checkpoint_is_the_published_one_to_the_byte(site: Path) -> None:
    assert said("checkpoint", site).encode() == left().checkpoints[-1]
    found = data("checkpoint", site)
    assert (found["cosignatures"], found["needed"], found["newer_entries"]) == (4, 3, 0)
    assert found["note"] == left().checkpoints[-1].decode()


def test_a_checkpoint_of_few_lines_says_when_those_are_fewer_than_the_policy_asks_for(site: Path) -> None:
    result = run("checkpoint", site, "--lines", "3")
    assert len(n.parse(result.stdout.encode()).lines) == 3
    assert "carry 2 cosignatures; the policy asks for 3" in result.stderr
    assert run("checkpoint", site, "--lines", "16").stderr == ""


def test_where_nobody_has_cosigned_nothing_is_made_up(bare: Path) -> None:
    for command in (("checkpoint", bare), ("prove", "1", bare)):
        error = failed(6, *command)
        assert "no cosigned checkpoint" in error.message
        assert "3 of 4 members" in error.hint
    assert not (bare / "ledger" / "checkpoint").exists()


def test_policy_and_vkeys_name_every_member_and_the_quorum(site: Path) -> None:
    text = said("policy", site)
    policy = tlog.Policy.decode(text.encode())
    assert text.startswith("# Who must have cosigned a checkpoint of test-swarm/")
    assert (len(policy.logs), len(policy.witnesses), policy.groups["members"].threshold) == (4, 4, 3)
    keys = [n.Key.decode(line) for line in said("vkeys", site).splitlines()]
    assert keys == [*policy.logs, *policy.witnesses.values()]
    assert len(policy.check(n.parse(said("checkpoint", site).encode())).cosigners) == 4
    rows = data("vkeys", site)["vkeys"]
    assert isinstance(rows, list)
    assert [row["member"] for row in rows] == [f"site-{i}" for i in range(4)]


def test_a_published_checkpoint_that_is_not_good_is_refused(site: Path) -> None:
    path, good = site / "ledger" / "checkpoint", left().checkpoints[-1]
    head = head_of(good)
    other = tlog.Checkpoint("other/0123456789abcdef", head.size, head.root)
    cases = {
        good[:-1]: 3,
        good.replace(b"\n\n", b"\n"): 3,
        good.replace("— ".encode(), "— x".encode()): 3,
        forged(head, (0, 1)): 3,
        forged(other, (0, 1, 2)): 3,
        forged(tlog.Checkpoint(head.origin, head.size + 1, head.root), (0, 1, 2)): 6,
        forged(tlog.Checkpoint(head.origin, head.size, bytes(32)), (0, 1, 2)): 4,
    }
    for content, code in cases.items():
        path.write_bytes(content)
        failed(code, "checkpoint", site)
    path.write_bytes(good)
    said("checkpoint", site)


# --- proofs -----------------------------------------------------------------------------------------------------


def test_every_entry_can_be_proved_to_whoever_has_the_policy_alone(site: Path, tmp_path: Path) -> None:
    policy = written(tmp_path / "policy", said("policy", site))
    size = head_of(left().checkpoints[-1]).size
    for index in (0, 1, size // 2, size - 1):
        path = tmp_path / f"{index}.tlog-proof"
        assert f"entry {index} is in the first {size}, by " in said("prove", index, site, "-o", path)
        assert said("check-proof", path, "--policy", policy).endswith("HOLDS\n")
        found = data("check-proof", path, "--policy", policy)
        assert (found["index"], found["size"], found["holds"]) == (index, size, True)
        assert isinstance(found["cosigners"], dict)
        assert len(found["cosigners"]) == 4


def test_a_proof_goes_to_stdout_and_an_entry_may_be_named_by_its_id(site: Path) -> None:
    by_place = said("prove", "entry:5", site)
    name = data("prove", "5", site)["id"]
    assert said("prove", str(name)[:12], site) == by_place
    assert tlog.Proof.decode(by_place.encode()).index == 5
    for which in ("99999", "ffffffffffff", "x"):
        assert "log" in failed(7, "prove", which, site).hint


def test_the_hashes_on_the_way_are_shown(site: Path, tmp_path: Path) -> None:
    policy = written(tmp_path / "policy", said("policy", site))
    path = tmp_path / "5.tlog-proof"
    said("prove", "5", site, "-o", path)
    proof = tlog.Proof.decode(path.read_bytes())
    lines = said("check-proof", path, "--policy", policy, "-v").splitlines()
    assert len(lines) == 4 + len(proof.path)
    for line, sibling in zip(lines[1:], proof.path, strict=False):
        assert sibling.hex()[:16] in line
    assert lines[-4].endswith(lines[-3].split()[1]), "the last step leads to the root"


def test_the_entry_may_be_kept_out_of_the_proof(site: Path, tmp_path: Path) -> None:
    policy = written(tmp_path / "policy", said("policy", site))
    path, entry = tmp_path / "5.tlog-proof", tmp_path / "entry"
    said("prove", "5", site, "-o", path, "--entry", entry)
    assert b"\nextra " not in path.read_bytes()
    assert "--entry" in failed(2, "check-proof", path, "--policy", policy).hint
    assert said("check-proof", path, "--policy", policy, "--entry", entry).endswith("HOLDS\n")
    other = written(tmp_path / "other", entry.read_bytes() + b"\0")
    failed(3, "check-proof", path, "--policy", policy, "--entry", other)


def test_a_proof_that_was_changed_anywhere_does_not_hold(site: Path, tmp_path: Path) -> None:
    policy = written(tmp_path / "policy", said("policy", site))
    text = said("prove", "5", site)
    lines = text.split("\n")
    changed = [
        text.replace("index 5", "index 6"),
        text.replace("index 5", "index 05"),
        text[:-1],
        text + "\n",
        text + text.split("\n")[-2][:20] + "\n",
        "\n".join([*lines[:3], *lines[4:]]),
        "\n".join([*lines[:4], lines[3], *lines[4:]]),
        "\n".join([lines[0], lines[1][:-12] + "AAAAAAAAAAA=", *lines[2:]]),
        text.replace("test-swarm/", "best-swarm/"),
        text.replace("tlog-proof@v1", "tlog-proof@v2"),
    ]
    for content in changed:
        assert content != text
        failed(3, "check-proof", written(tmp_path / "changed", content), "--policy", policy)


def test_a_proof_is_judged_by_the_policy_it_is_given(site: Path, tmp_path: Path) -> None:
    proof = written(tmp_path / "proof", said("prove", "5", site))
    policy = said("policy", site)
    stricter = policy.replace("group members 3", "group members all")
    said("check-proof", proof, "--policy", written(tmp_path / "all", stricter))
    other = calm_run(members=3, rounds=1)
    foreign = write_site(tmp_path / "other", other, checkpoint=other.checkpoints[-1])
    error = failed(3, "check-proof", proof, "--policy", written(tmp_path / "foreign", said("policy", foreign)))
    assert "no log of the policy" in error.message
    assert "no quorum line" in failed(3, "check-proof", proof, "--policy", written(tmp_path / "none", "")).message
    for wrong in (tmp_path / "nowhere", tmp_path):
        failed(2, "check-proof", proof, "--policy", wrong)
        failed(2, "check-proof", wrong, "--policy", tmp_path / "all")


def test_an_entry_newer_than_the_checkpoint_is_not_proved_yet(tmp_path: Path) -> None:
    first = left().checkpoints[0]
    site = write_site(tmp_path / "site", left(), checkpoint=first)
    size = head_of(first).size
    said("prove", size - 1, site)
    assert f"covers {size} entries" in failed(6, "prove", size, site).message
    assert data("checkpoint", site)["newer_entries"] == head_of(left().checkpoints[-1]).size - size


# --- consistency ------------------------------------------------------------------------------------------------


def test_an_earlier_size_or_checkpoint_is_shown_to_be_a_prefix(site: Path, tmp_path: Path) -> None:
    old, new = (head_of(left().checkpoints[i]) for i in (0, -1))
    found = data("consistency", old.size, new.size, site)
    hashes = found["hashes"]
    assert isinstance(hashes, list)
    verify_consistency(old.size, new.size, old.root, new.root, [bytes.fromhex(value) for value in hashes])
    before = written(tmp_path / "before", left().checkpoints[0])
    proof = tmp_path / "proof"
    assert "CONSISTENT" in said("consistency", before, new.size, site, "-o", proof)
    parsed = tlog.Consistency.decode(proof.read_bytes())
    parsed.verify(old.root, head_of(parsed.note))
    assert "CONSISTENT, by 0 hashes" in said("consistency", before, before, site)


def test_a_checkpoint_that_is_not_of_this_logs_past_is_a_fork_when_members_signed_it(
    site: Path, tmp_path: Path
) -> None:
    head = head_of(left().checkpoints[0])
    fork = tlog.Checkpoint(head.origin, head.size, bytes(32))
    error = failed(4, "consistency", written(tmp_path / "fork", forged(fork, (1, 2, 3))), "5000", site)
    assert "cosigned by site-1, site-2, site-3" in error.message
    stranger = forged(fork, (8,)).replace(b"site-8", b"site-1")
    assert "nobody" in failed(3, "consistency", written(tmp_path / "stranger", stranger), "20", site).message


def test_sizes_that_there_are_not_are_said_so(site: Path, tmp_path: Path) -> None:
    failed(6, "consistency", "1", "5000", site)
    failed(2, "consistency", "0", "5", site)
    failed(2, "consistency", "6", "5", site)
    failed(2, "consistency", "x", "5", site)
    assert "nobody has signed" in failed(2, "consistency", "2", "5", site, "-o", tmp_path / "proof").message
    assert not (tmp_path / "proof").exists()


# --- tiles ------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_tiles_are_the_log_under_its_checkpoint_and_the_same_every_time(site: Path, tmp_path: Path) -> None:
    head = head_of(left().checkpoints[-1])
    assert f"{head.size} entries of test-swarm/" in said("export", site, "--tiles", tmp_path / "one")
    found = contents(tmp_path / "one")
    assert found["checkpoint"] == left().checkpoints[-1]
    assert tiles.check(head, found.get) == len(found) - 1
    said("export", site, "--tiles", tmp_path / "two")
    assert contents(tmp_path / "two") == found
    again = data("export", site, "--tiles", tmp_path / "one")
    assert (again["written"], contents(tmp_path / "one")) == (0, found)


def test_a_later_export_continues_an_earlier_one_in_the_same_folder(tmp_path: Path) -> None:
    first, last = left().checkpoints[0], left().checkpoints[-1]
    early = write_site(tmp_path / "early", left(), checkpoint=first)
    late = write_site(tmp_path / "late", left(), checkpoint=last)
    folder = tmp_path / "tiles"
    assert "not cosigned yet and left out" in said("export", early, "--tiles", folder)
    assert tiles.check(head_of(first), contents(folder).get)
    said("export", late, "--tiles", folder)
    for note in (first, last):
        assert tiles.check(head_of(note), contents(folder).get)
    assert contents(folder)["checkpoint"] == last


def test_tiles_without_a_checkpoint_are_all_entries_and_say_so(bare: Path, tmp_path: Path) -> None:
    assert "without a checkpoint" in said("export", bare, "--tiles", tmp_path / "tiles")
    assert "checkpoint" not in contents(tmp_path / "tiles")


def test_a_folder_that_holds_another_log_is_left_alone(site: Path, tmp_path: Path) -> None:
    other = calm_run(members=3, rounds=1)
    foreign = write_site(tmp_path / "other", other, checkpoint=other.checkpoints[-1])
    folder = tmp_path / "tiles"
    said("export", foreign, "--tiles", folder)
    before = contents(folder)
    assert "another log" in failed(3, "export", site, "--tiles", folder).message
    assert contents(folder) == before
    mine = tmp_path / "mine"
    said("export", site, "--tiles", mine)
    victim = next(path for path in (mine / "tile" / "0").rglob("*") if path.is_file())
    victim.write_bytes(victim.read_bytes()[::-1])
    failed(3, "export", site, "--tiles", mine)


def test_nothing_here_writes_to_the_ledger(site: Path, tmp_path: Path) -> None:
    before = contents(site)
    said("export", site, "--tiles", tmp_path / "tiles")
    for command in (("checkpoint",), ("policy",), ("vkeys",), ("prove", "3"), ("consistency", "3", "5")):
        said(*command, site)
    assert contents(site) == before

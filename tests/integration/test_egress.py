"""A real swarm of which one site has people who let its updates out, and keys that a passphrase opens; killed meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from node.cli.main import cli
from node.egress import record as r
from node.egress.folder import record_at, waiting_at
from node.egress.waiting import Offer
from node.local import LocalPeer, found, stop_all
from node.passphrase import FILE
from node.site import Site
from tests.integration.test_operations import GATE, open_up_to, until
from tests.node.test_local import TASK, hospitals

ROUNDS = 4


@pytest.fixture
def peers(tmp_path: Path, forkserver: Path) -> Iterator[list[LocalPeer]]:
    open_up_to(tmp_path, 2)
    task = tmp_path / "point.py"
    gate = GATE.replace("(run.gate)", f"__import__('pathlib').Path({str(tmp_path / 'gate')!r})")
    task.write_text(TASK.replace("    loss.backward()", gate))
    data = hospitals(tmp_path, a=11, b=3, c=5, d=1)
    # Nobody is given up here, however slow the machine: what the story is about must not depend on a clock.
    patient = {"patience_s": 600.0, "deadline_s": 600.0}
    made = found(tmp_path, data, task, rounds=ROUNDS, metrics=("loss",), seed=7, forkserver=forkserver, **patient)
    yield made
    stop_all(made)


def swarm(*arguments: object, env: Mapping[str, str] | None = None) -> dict[str, object]:
    ran = CliRunner(env={"SWARM_TRUST": "", **(env or {})}).invoke(cli, [*(str(one) for one in arguments), "--json"])
    assert ran.exit_code == 0, (ran.output, ran.exception)
    data: dict[str, object] = json.loads(ran.stdout)["data"]
    return data


def waits(peer: LocalPeer) -> Offer | None:
    place = waiting_at(peer.site)
    return place.offer() if place.decision() is None else None


def kinds(peer: LocalPeer) -> list[tuple[str, int]]:
    return [(line.what, line.round) for line in record_at(peer.site).lines()]


@pytest.mark.real
@pytest.mark.timeout(300)
def test_what_people_let_out_leaves_once_and_all_else_is_on_record(peers: list[LocalPeer], tmp_path: Path) -> None:
    d = peers[-1]
    secret = tmp_path / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text("correct horse battery staple\n")
    assert swarm("key", "encrypt", d.site.folder, "--passphrase-file", secret)["encrypted"]
    d.environment = {FILE: str(secret)}
    for peer in peers:
        peer.start("run.log_level=debug", *(("egress.approve=every",) if peer is d else ()))
    until(lambda: waits(d) is not None, peers)
    offer = waits(d)
    assert offer is not None
    assert offer.round == 1
    d.kill()
    assert {one.update for one in [waits(d)] if one is not None} == {offer.update}
    shown = swarm("approve", d.site.folder)
    assert (shown["state"], shown["update"], shown["to"]) == ("waiting", offer.update, ["a", "b", "c"])
    assert swarm("approve", d.site.folder, "--digest", offer.update[:16])["state"] == "approved"
    d.start("egress.approve=every")
    until(lambda: (r.CONTRIBUTION, 1) in kinds(d), peers)
    said = [line.rest["digest"] for line in record_at(d.site).lines() if line.what == r.CONTRIBUTION]
    assert said == [offer.update], "the very bytes that were looked at, though the process is another"
    open_up_to(tmp_path, ROUNDS - 1)
    # The next is refused by its people; then they are asked no more.
    until(lambda: waits(d) is not None, peers)
    swarm("approve", d.site.folder, "--reject", "not before Friday")
    until(lambda: any(kind == r.REJECTED for kind, _ in kinds(d)), peers)
    d.kill()
    d.start("egress.approve=no")
    open_up_to(tmp_path, ROUNDS)
    until(lambda: all(peer.done for peer in peers), peers)
    backup = tmp_path / "d.backup"
    create = ["backup", "create", d.site.folder, "-o", backup, "--passphrase-file", secret]
    swarm(*create, env={FILE: str(secret)})
    stop_all(peers)
    for peer in peers:
        check = swarm("egress", "log", peer.site.folder, "--check")["check"]
        assert isinstance(check, dict)
        assert check["holds"], (peer.name, check)
        assert check["agreed"] > 0
        assert check["before"] == 0
    # The keys come back as they were: encrypted, and this site's own.
    me = Site(d.site.folder, lambda _: "correct horse battery staple").load_identity()
    d.site.folder.rename(tmp_path / "lost")
    swarm("backup", "restore", backup, d.site.folder, "--passphrase-file", secret, "--original-is-gone")
    back = Site(d.site.folder, lambda _: "correct horse battery staple")
    assert back.vault.locked
    assert back.load_identity() == me
    assert len(record_at(back).lines()) > 0

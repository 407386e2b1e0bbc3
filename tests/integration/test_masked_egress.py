"""Masks, private training, a site's own rules and its people's approval, all in one real swarm, and what it leaves behind.

Each of them is tested by itself elsewhere. Here four sites mask, train with noise, and log all there is to log; one of them
has rules and people who let its updates out, and is killed while the first one waits. Then everything is looked through.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from node.cli.ledger.sources import open_folder
from node.cli.main import cli
from node.cli.output import code_of
from node.cli.start import check_spent
from node.data import SiteData
from node.egress import record as r
from node.egress.folder import record_at, waiting_at
from node.local import LocalPeer, found, stop_all
from node.masked import is_kept
from node.spending import Rounds, Spending
from node.storage import BlobStore
from swarm import codec
from swarm.errors import SwarmError, UsageError
from swarm.ledger import entry as e
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock
from swarm.machine import Digest
from tests.integration.test_operations import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

ROUNDS = 2
NAMES = "abcd"
RECORDS = 24
NORM = 0.05

TASK = """\
import torch
from torch import nn


def build_model():
    return nn.Linear(2, 1)


def load_data(site):
    rows = [line.split(",") for line in (site.folder / "records.csv").read_text().split()]
    numbers = torch.tensor([[float(value) for value in row[1:]] for row in rows])
    return [row[0] for row in rows], numbers[:, :2], numbers[:, 2]


def train(model, data, run):
    names, x, y = data
    print("training on", *names)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    private = run.private(model, optimizer, len(x), batch=8, epochs=1, noise=1.0)
    for rows in private:
        private.step((model(x[rows]).squeeze(1) - y[rows]).square())
    return {"samples": len(x)}


def evaluate(model, data, run):
    names, x, y = data
    if run.round == 1:
        raise KeyError(names[3])
    return {"samples": len(x), "loss": (model(x).squeeze(1) - y).square().mean().item()}
"""

EVERYBODY = ("run.log_level=debug", "privacy.epsilon=200", "privacy.delta=0.001")

RULES = (
    *EVERYBODY,
    "egress.approve=every",
    "egress.noise=0.9",
    f"egress.norm={NORM}",
    "egress.update_mb=0.01",
    "egress.require=masks:pairwise exact",
    "egress.metrics=loss",
)


@dataclass(frozen=True)
class Story:
    """What was seen on the way, and the peers, who have stopped."""

    peers: list[LocalPeer]
    trained: list[str]
    before: list[str]
    charges: list[int]

    @property
    def d(self) -> LocalPeer:
        """The site that has rules and people."""
        return self.peers[-1]


def patient(site: str, number: int) -> str:
    return f"patient-{site}-{4700 + number}"


def swarm(*arguments: object) -> Mapping[str, object]:
    ran = CliRunner(env={"SWARM_TRUST": ""}).invoke(cli, [*(str(one) for one in arguments), "--json"])
    assert ran.exit_code == 0, (ran.output, ran.exception)
    return json.loads(ran.stdout)["data"]  # type: ignore[no-any-return]


def waits(peer: LocalPeer) -> str:
    """Return the digest of the update that waits for this site's people; "" if none does."""
    place = waiting_at(peer.site)
    offer = place.offer() if place.decision() is None else None
    return "" if offer is None else offer.update


def entries(peer: LocalPeer, by: LocalPeer) -> list[e.Entry]:
    """Return what one site's ledger has of another's words."""
    leaves = [
        leaf
        for payload in open_folder(peer.site.folder).payloads()
        for leaf in codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX).block.leaves
    ]
    return [entry for entry in map(e.decode_entry, leaves) if entry.author == by.site.node()]


def posted(peer: LocalPeer) -> int:
    """Return how many members have posted keys for the open round, as far as a node knows."""
    masks = peer.status.get("masks")
    return masks["done"] if isinstance(masks, dict) and masks["stage"] == "keys" else 0


def charges(peer: LocalPeer) -> list[int]:
    return [charge.round for charge in Spending(peer.site.spending_path).charges()]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, forkserver: Path) -> Story:
    folder = tmp_path_factory.mktemp("me")
    data = []
    for place, name in enumerate(NAMES):
        (folder / "data" / name).mkdir(parents=True)
        rows = [f"{patient(name, k)},{k % 5 - 2},{k % 3 - 1},{place + k % 2}" for k in range(RECORDS)]
        (folder / "data" / name / "records.csv").write_text("\n".join(rows))
        data.append(SiteData(name, folder / "data" / name, RECORDS, 0, RECORDS))
    task = folder / "task.py"
    task.write_text(TASK)
    # Nobody is given up here, however slow the machine: what the story is about must not depend on a clock.
    patient_ = {"patience_s": 600.0, "deadline_s": 600.0, "min_contributions": 3}
    peers = found(
        folder,
        data,
        task,
        rounds=ROUNDS,
        metrics=("loss",),
        seed=7,
        forkserver=forkserver,
        masks="pairwise",
        **patient_,
    )
    d, trained, before, spent = peers[-1], list[str](), list[str](), list[int]()
    try:
        for peer in peers:
            peer.start(*(RULES if peer is d else EVERYBODY))
        for number in range(1, ROUNDS + 1):
            until(lambda: waits(d) not in ("", *trained), peers)
            if number == 1:
                # The others have posted their keys by now; of d nobody has heard a word.
                until(lambda: posted(peers[0]) == len(NAMES) - 1, peers)
                before += [line.what for line in record_at(d.site).lines()]
                offer = waits(d)
                d.kill()
                assert is_kept(BlobStore(d.site.blobs), Digest(bytes.fromhex(offer)))
                d.start(*RULES)
                until(lambda: d.status.get("phase") == "training", peers)
                assert waits(d) == offer
                spent += charges(d)
            trained.append(waits(d))
            assert swarm("approve", d.site.folder, "--digest", trained[-1][:16])["state"] == "approved"
        until(lambda: all(peer.done for peer in peers), peers)
    finally:
        stop_all(peers)
    return Story(peers, trained, before, spent)


def test_before_its_people_have_said_yes_nobody_hears_how_many_samples_a_site_has(story: Story) -> None:
    assert story.before == [r.WAITING]
    approved = next(line for line in record_at(story.d.site).lines() if line.what == r.APPROVED)
    said = entries(story.peers[0], story.d)
    assert said[0].seq == 0
    assert e.MASK_KEYS in {entry.kind for entry in said}
    assert all(entry.ts_ms >= approved.time_ms for entry in said)


def test_an_update_that_waits_to_be_masked_is_not_trained_and_paid_for_twice(story: Story) -> None:
    assert story.charges == [1]
    assert charges(story.d) == [1, 2]


def test_the_record_has_each_word_and_each_update_in_the_order_in_which_they_left(story: Story) -> None:
    lines = [line for line in record_at(story.d.site).lines() if line.what != r.EVALUATION]
    once = [r.WAITING, r.APPROVED, r.MASK_KEYS, r.UPDATE, r.CONTRIBUTION]
    told = [[line.what for line in lines if line.round == number and line.what != r.MODEL] for number in (1, 2)]
    assert told == [once, once]
    assert [line.rest["samples"] for line in lines if line.what == r.MASK_KEYS] == [RECORDS] * ROUNDS
    assert all(0 < float(str(line.rest["norm"])) <= NORM for line in lines if line.what in (r.WAITING, r.UPDATE))
    assert all(line.rest["bytes"] == 14 for line in lines if line.what == r.UPDATE), "3 words of 36 bits"
    for peer in story.peers:
        check = swarm("egress", "log", peer.site.folder, "--check")["check"]
        assert isinstance(check, dict)
        assert (check["holds"], check["before"]) == (True, 0), (peer.name, check)


def test_what_was_trained_has_no_name_on_the_ledger_under_masks(story: Story) -> None:
    assert len({*story.trained}) == ROUNDS
    for peer in story.peers:
        ledger = b"".join(path.read_bytes() for path in (peer.site.folder / "ledger").rglob("*") if path.is_file())
        assert len(ledger) > 10_000
        for digest in story.trained:
            assert bytes.fromhex(digest) not in ledger


def test_a_contribution_says_no_digest_of_the_data(story: Story) -> None:
    said = [entry for entry in entries(story.peers[0], story.d) if entry.kind == e.CONTRIBUTION]
    bodies = [codec.decode(entry.body, e.Contribution, limit=e.ENTRY_BYTES_MAX) for entry in said]
    assert [body.data_digest for body in bodies] == [bytes(32)] * ROUNDS


def test_a_site_whose_record_of_spending_is_of_an_older_backup_does_not_start_unless_it_trains_nothing(
    story: Story,
) -> None:
    """The ledger has what the record has forgotten. Without one of them nothing is wrong, and the run is over."""
    site = story.d.site
    whole = site.spending_path.read_bytes()
    start = ["start", str(site.folder), *(part for rule in RULES for part in ("--set", rule)), "--json"]
    try:
        site.spending_path.write_bytes(b"".join(whole.splitlines(keepends=True)[:1]))
        error = CliRunner().invoke(cli, start).exception
        assert isinstance(error, SwarmError)
        assert (code_of(error), error.identifier) == (6, "SWARM-PRIVACY-RECORD")
        assert "the ledger has round 2 as trained privately here, and privacy/spent does not" in error.message
        assert "put the newest privacy/spent back" in error.hint
        signed = site.load_charter()
        private = Rounds(lambda first, *_: [*open_folder(site.folder).payloads()][first - 1 :], site.node())
        settings = site.load_settings(overrides=RULES)
        with pytest.raises(UsageError, match="round 2"):
            check_spent(site, settings, signed, private)
        assert swarm("pause", site.folder)["paused"]
        check_spent(site, settings, signed, private)
        assert not swarm("resume", site.folder)["paused"]
        site.spending_path.write_bytes(whole)
        check_spent(site, settings, signed, private)
    finally:
        site.spending_path.write_bytes(whole)


def test_secret_keys_are_in_no_file_but_their_own_whatever_is_logged(story: Story) -> None:
    for peer in story.peers:
        seeds = [path.read_text().strip() for path in peer.site.keys.glob("*.seed")]
        assert [len(seed) for seed in seeds] == [64, 64]
        for path in everything(story):
            if path.parent != peer.site.keys:
                held = path.read_bytes()
                assert not any(seed.encode() in held or bytes.fromhex(seed) in held for seed in seeds), path


def test_what_the_task_says_of_patients_is_on_stderr_and_in_no_file_of_the_site(story: Story) -> None:
    """At the level of debug. `log.txt` is stderr here: what becomes of it is for the service manager."""
    for peer in story.peers:
        assert patient(peer.name, 3) in (peer.site.folder / "log.txt").read_text(), "or there was nothing to find"
        assert '"task_output"' in (peer.site.run / "log.jsonl").read_text(), "that it said something is a fact"
    found_ = {path.name for path in everything(story) if b"patient-" in path.read_bytes()}
    assert found_ == {"log.txt"}


def test_others_on_the_machine_read_what_is_to_be_read_and_nothing_else(story: Story) -> None:
    """Of every file that another user of the machine can come to, by the modes of its folders and its own."""
    for peer in story.peers:
        open_ = {
            str(path.relative_to(peer.site.folder))
            for path in peer.site.folder.rglob("*")
            if path.is_file()
            and path.stat().st_mode & 0o044
            and all(up.stat().st_mode & 0o011 for up in path.parents if up.is_relative_to(peer.site.folder))
        }
        stderr = "log.txt"
        public = {"swarm.toml", "card.toml", "charter.toml", "task.py", "ledger/checkpoint"}
        compiled = {path for path in open_ if path.startswith("__pycache__/task.")}  # It says what task.py says.
        assert open_ - {stderr} - compiled <= public


def everything(story: Story) -> list[Path]:
    return [path for peer in story.peers for path in peer.site.folder.rglob("*") if path.is_file()]
